//! `mpio demo`: the whole thing on one machine, with faults, and a verdict about every byte.
//!
//! Nothing in it is a mock: two targets on TCP, the daemon with its lanes and its control socket, NBD
//! connections on a real socket. What is shown comes from `status`, as an administrator would see it.

mod load;
mod script;
mod timeline;

use super::args::DemoArgs;
use super::nbd_client::Connection;
use super::output::print;
use super::{Failure, client, serve};
use crate::api::{Command, DeviceStatus, Outcome};
use crate::control::config::{Address, Config, Device, Export, Portal, Target};
use crate::control::daemon::{self, Control, DaemonError, Isids, Options};
use crate::control::log;
use load::{BLOCK, Counts, Worker};
use mpio_target::{Fault, PairConfig, Rule, TargetPair};
use script::Act;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use timeline::{Second, Verdict};
use tokio::sync::Notify;

/// Size of the LUN, bytes.
const SIZE: u64 = 64 << 20;
/// NBD connections.
const WORKERS: usize = 2;
/// Requests in flight on each.
const DEPTH: usize = 16;
/// Length of the load when nothing is said: with start and end well under 20 s.
const SECONDS: u64 = 10;
/// The shortest run that has room for a cut and a heal.
const SECONDS_MIN: u64 = 3;
/// How long the device may take to come up, and any request to be answered.
const PATIENCE: Duration = Duration::from_secs(30);
const RULE: &str = "demo";
const DEVICE: &str = "demo";

/// Runs the demo.
///
/// # Errors
/// Exit code 2 for wrong flags, 1 when something did not start or a byte was not right.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let seconds = args.seconds.unwrap_or(SECONDS);
    if seconds < SECONDS_MIN {
        return Err(Failure::wrong(format!(
            "--seconds: {seconds} is too short; try: {SECONDS_MIN} or more"
        )));
    }
    log::start(false, &args.log_level)
        .map_err(|why| Failure::wrong(format!("--log-level: {why}; try: warn")))?;
    let dir = Directory::new()?;
    let export = match &args.export {
        Some(text) => Export::parse(text).map_err(serve::flag("--export"))?,
        None => Export::Unix(dir.0.join("demo.sock")),
    };
    let targets = start_targets()?;
    let daemon = Daemon::start(config(&targets, export.clone()), dir.0.join("control.sock"));
    print(&format!(
        "two iSCSI targets, {} and {}, show one mirrored LUN of {} MiB\n\
         one device, round-robin, exported at {export}\n\
         load: {WORKERS} NBD connections, {DEPTH} requests each, half reads, half writes, 4 KiB, every byte checked\n\n",
        targets.node(0).addr(),
        targets.node(1).addr(),
        SIZE >> 20
    ))?;
    let mut show = Show {
        targets,
        daemon,
        paths: Vec::new(),
        seconds: Vec::new(),
        last: Vec::new(),
        last_event: String::new(),
        shown: HashSet::new(),
    };
    let verdict = show.play(&export, seconds);
    let Show { daemon, paths, seconds, targets, .. } = show;
    let interrupted = verdict.broken.is_some() && daemon.ends_by_itself();
    let ended = daemon.stop();
    drop(targets);
    let mut verdict = verdict;
    match ended {
        // The daemon knows better why there was nothing to talk to.
        Err(why) => verdict.broken = Some(why),
        Ok(()) if interrupted => verdict.broken = Some("it was interrupted".to_owned()),
        Ok(()) => {}
    }
    print(&format!("\n{}", verdict.text()))?;
    if let Some(file) = &args.report {
        let html = timeline::html("mpio demo", &paths, &seconds, &verdict);
        std::fs::write(file, html).map_err(|error| {
            Failure::failed(format!(
                "--report {}: {error}; try: a file that this user can write",
                file.display()
            ))
        })?;
        print(&format!("report: {}\n", file.display()))?;
    }
    if verdict.good() {
        return Ok(());
    }
    let why = verdict.broken.unwrap_or_else(|| {
        format!("{} blocks were wrong, {} requests had errors", verdict.wrong, verdict.errors)
    });
    let hint = if why.contains("; try: ") { "" } else { "; try: mpio demo --log-level info" };
    Err(Failure::failed(format!("demo: {why}{hint}")))
}

/// A directory of our own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Directory, Failure> {
        let mut random = [0; 6];
        getrandom::fill(&mut random).map_err(Failure::failed)?;
        let name =
            format!("mpio-demo-{}-{}", std::process::id(), data_encoding::HEXLOWER.encode(&random));
        let path = std::env::temp_dir().join(name);
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).map_err(|error| {
            Failure::failed(format!("{}: {error}; try: TMPDIR=… mpio demo", path.display()))
        })?;
        Ok(Directory(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Both targets, their medium filled with what the load expects of blocks that were never written.
fn start_targets() -> Result<TargetPair, Failure> {
    let mut config = PairConfig {
        portals: [SocketAddr::from(([127, 0, 0, 1], 0)), SocketAddr::from(([127, 0, 0, 2], 0))],
        size: SIZE,
        ..PairConfig::default()
    };
    for node in &mut config.nodes {
        node.lun = 1;
    }
    let failed = |error: &dyn std::fmt::Display| {
        Failure::failed(format!(
            "embedded targets: {error}; try: `ip addr show lo` must have 127.0.0.1/8"
        ))
    };
    let targets = TargetPair::start(config).map_err(|error| failed(&error))?;
    let mut block = [0; BLOCK];
    for number in 0..SIZE / BLOCK as u64 {
        load::fill(number, 0, &mut block);
        targets
            .pair()
            .store(0)
            .write(number * BLOCK as u64, &block)
            .map_err(|error| failed(&error))?;
    }
    Ok(targets)
}

fn config(targets: &TargetPair, export: Export) -> Config {
    let names = ["a", "b"];
    let portal = |index: usize| {
        let address = targets.node(index).addr();
        let host = address.ip().to_string();
        Portal::new(names[index], Address { host, port: address.port() }, None)
    };
    let nodes = &targets.pair().config().nodes;
    let target = |index: usize| Target { name: nodes[index].target.clone(), lun: 1, line: 0 };
    let mut device = Device::new(DEVICE, vec![target(0), target(1)], export);
    device.tunables.shutdown_timeout = Duration::from_secs(3);
    Config {
        file: None,
        initiator_name: "iqn.2026-11.org.example.mpio:demo".to_owned(),
        portals: vec![portal(0), portal(1)],
        devices: vec![device],
    }
}

/// The daemon on a thread of its own.
struct Daemon {
    control: PathBuf,
    stop: Arc<Notify>,
    thread: JoinHandle<Result<(), DaemonError>>,
}

impl Daemon {
    fn start(config: Config, control: PathBuf) -> Daemon {
        let stop = Arc::new(Notify::new());
        let options = Options {
            config,
            control: Control::At(control.clone()),
            isids: Isids::Random,
            must_start: true,
            signals: true,
            stop: stop.clone(),
            memory_locked: false,
        };
        Daemon { control, stop, thread: std::thread::spawn(move || daemon::run(options)) }
    }

    /// Whether it ends without being told to, by a signal or an error; it gets a moment to do so.
    fn ends_by_itself(&self) -> bool {
        let until = Instant::now() + Duration::from_secs(4);
        while !self.thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.thread.is_finished()
    }

    fn stop(self) -> Result<(), String> {
        self.stop.notify_one();
        match self.thread.join() {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err("the daemon panicked".to_owned()),
        }
    }
}

/// The run.
struct Show {
    targets: TargetPair,
    daemon: Daemon,
    paths: Vec<String>,
    seconds: Vec<Second>,
    /// Commands of each path when it was last looked at.
    last: Vec<u64>,
    /// Time of the last event that was looked at.
    last_event: String,
    /// What was shown since the last act: a refusal that comes again every second is told once.
    shown: HashSet<(String, String, String)>,
}

impl Show {
    /// Everything between start and stop; what goes wrong goes into the verdict.
    fn play(&mut self, export: &Export, seconds: u64) -> Verdict {
        let counts = Counts::default();
        let mut longest = 0;
        let played =
            self.wait_for_paths().and_then(|()| self.load(export, seconds, &counts, &mut longest));
        Verdict {
            reads: counts.reads.load(Ordering::Relaxed),
            writes: counts.writes.load(Ordering::Relaxed),
            wrong: counts.wrong.load(Ordering::Relaxed),
            errors: counts.errors.load(Ordering::Relaxed),
            longest_us: longest.max(counts.longest_us.load(Ordering::Relaxed)),
            broken: played.err(),
        }
    }

    fn status(&self) -> Option<DeviceStatus> {
        let command = Command::Status { device: Some(DEVICE.to_owned()) };
        match client::ask(Some(Path::new(&self.daemon.control)), command) {
            Ok(Outcome::Status(mut status)) => status.devices.pop(),
            _ => None,
        }
    }

    fn wait_for_paths(&mut self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && !self.daemon.thread.is_finished() {
            let status = self.status();
            let usable = |status: &DeviceStatus| {
                status.paths.len() == 2
                    && status.paths.iter().all(|p| p.state == crate::api::PathState::Active)
            };
            if let Some(status) = status.filter(usable) {
                self.paths = status.paths.iter().map(|path| path.name.clone()).collect();
                self.last = status.paths.iter().map(|path| path.reads + path.writes).collect();
                self.last_event = status.events.last().map_or(String::new(), |e| e.at.clone());
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err("the two paths did not become active".to_owned())
    }

    fn load(
        &mut self,
        export: &Export,
        seconds: u64,
        counts: &Counts,
        longest: &mut u64,
    ) -> Result<(), String> {
        let blocks = SIZE as usize / BLOCK / WORKERS;
        let mut workers = Vec::new();
        for index in 0..WORKERS {
            let connection =
                Connection::open(export, DEVICE, PATIENCE).map_err(|error| error.to_string())?;
            workers.push(Worker::new(connection, (index * blocks) as u64, blocks, DEPTH));
        }
        let _ = print(&timeline::head(&self.paths));
        std::thread::scope(|scope| {
            let running: Vec<_> =
                workers.iter_mut().map(|worker| scope.spawn(move || worker.run(counts))).collect();
            let watched = self.watch(seconds, counts, longest);
            counts.stop.store(true, Ordering::Relaxed);
            for worker in running {
                worker
                    .join()
                    .map_err(|_| "the load panicked".to_owned())?
                    .map_err(|error| error.to_string())?;
            }
            watched
        })?;
        let _ = print("\nreading every block once more …\n");
        std::thread::scope(|scope| {
            let running: Vec<_> = workers
                .iter_mut()
                .map(|worker| {
                    scope.spawn(move || worker.flush(counts).and_then(|()| worker.verify(counts)))
                })
                .collect();
            for worker in running {
                worker
                    .join()
                    .map_err(|_| "the load panicked".to_owned())?
                    .map_err(|error| error.to_string())?;
            }
            Ok::<(), String>(())
        })?;
        workers.into_iter().for_each(Worker::close);
        Ok(())
    }

    /// Plays the script and shows each second; stops early when the daemon ends.
    fn watch(&mut self, seconds: u64, counts: &Counts, longest: &mut u64) -> Result<(), String> {
        let start = Instant::now();
        let mut acts = script::acts(seconds).into_iter().peekable();
        let mut before = 0;
        for at in 1..=seconds {
            let mut events = Vec::new();
            let end = Duration::from_secs(at);
            while let Some((when, act)) = acts.next_if(|(when, _)| *when < end) {
                sleep_until(start + when);
                self.act(act)?;
                self.shown.clear();
                events.push(act.text(&self.paths[act.node()]));
            }
            sleep_until(start + end);
            if self.daemon.thread.is_finished() {
                return Err("it was interrupted".to_owned());
            }
            let requests =
                counts.reads.load(Ordering::Relaxed) + counts.writes.load(Ordering::Relaxed);
            let longest_us = counts.longest_us.swap(0, Ordering::Relaxed);
            *longest = longest_us.max(*longest);
            let second = self.second(at, requests - before, longest_us, events);
            before = requests;
            let _ = print(&timeline::line(&second, &self.paths));
            self.seconds.push(second);
        }
        Ok(())
    }

    fn second(
        &mut self,
        at: u64,
        requests: u64,
        longest_us: u64,
        mut events: Vec<String>,
    ) -> Second {
        let (mut paths, mut states) =
            (vec![0; self.paths.len()], vec![String::new(); self.paths.len()]);
        if let Some(status) = self.status() {
            for (index, name) in self.paths.iter().enumerate() {
                let Some(path) = status.paths.iter().find(|path| path.name == *name) else {
                    continue;
                };
                let carried = path.reads + path.writes;
                paths[index] = carried.saturating_sub(self.last[index]);
                self.last[index] = carried;
                states[index] = path.state.to_string();
            }
            for event in &status.events {
                if event.at <= self.last_event {
                    continue;
                }
                self.last_event.clone_from(&event.at);
                let why = event.why.split_once(" (").map_or(event.why.as_str(), |(why, _)| why);
                let key = (event.path.clone(), event.what.clone(), why.to_owned());
                if self.shown.insert(key) {
                    events.push(format!("{} {}: {why}", event.path, event.what));
                }
            }
            if status.held_writes > 0 {
                events.push(format!(
                    "{} writes wait for the proof that an earlier copy is dead",
                    status.held_writes
                ));
            }
        }
        Second { at, requests, longest_us, paths, states, events }
    }

    fn act(&self, act: Act) -> Result<(), String> {
        let node = self.targets.node(act.node());
        match act {
            Act::Silence(_) => node.faults().set(RULE, Rule::new(Fault::Freeze)),
            Act::Heal(_) => node.faults().remove(RULE),
            Act::Kill(_) => node.kill(),
            Act::Start(_) => {
                node.start_again()
                    .map_err(|error| format!("the target did not start again: {error}"))?;
            }
        }
        Ok(())
    }
}

fn sleep_until(when: Instant) {
    std::thread::sleep(when.saturating_duration_since(Instant::now()));
}
