//! One run: connections, threads, and what is seen meanwhile.

use super::choice::{Choice, Part};
use super::content::Content;
use super::cpu;
use super::generator::{Done, Schedule, Shared, Worker};
use super::load::Load;
use super::tally::Tally;
use super::target::{Target, until_interrupted};
use crate::api::DeviceStatus;
use crate::cli::{Failure, output};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, SystemTime};

/// One second, nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// How often the watcher looks whether the threads have ended.
const WATCH_MILLIS: u16 = 50;

/// Ctrl-C and SIGTERM, caught: threads that are started while it lives do not get them either.
pub struct Interrupts {
    descriptor: SignalFd,
    before: SigSet,
}

impl Interrupts {
    /// From now on signals are seen only by [`Interrupts::came`].
    ///
    /// # Errors
    /// When the system refuses.
    pub fn catch() -> Result<Interrupts, Failure> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGINT);
        set.add(Signal::SIGTERM);
        let failed = |errno: nix::errno::Errno| Failure::failed(format!("signals: {errno}"));
        let before =
            set.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK).map_err(failed)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor = SignalFd::with_flags(&set, flags).map_err(failed)?;
        Ok(Interrupts { descriptor, before })
    }

    /// Whether one is there that nobody has seen yet; it stays.
    pub fn pending(&self) -> bool {
        let mut polls = [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)];
        poll(&mut polls, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Waits at most `millis`; whether one came.
    pub fn came(&self, millis: u16) -> bool {
        let mut polls = [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut polls, PollTimeout::from(millis));
        matches!(self.descriptor.read_signal(), Ok(Some(_)))
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}

/// What the daemon said at one moment of the run.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Seconds since measuring began.
    pub at: f64,
    /// The device.
    pub device: DeviceStatus,
}

/// How a run went.
#[derive(Debug)]
pub struct Run {
    /// What was asked for.
    pub load: Load,
    /// What was counted.
    pub tally: Tally,
    /// Measured time, seconds; shorter than asked for when it was interrupted.
    pub seconds: f64,
    /// When measuring began.
    pub began: SystemTime,
    /// It was.
    pub interrupted: bool,
    /// Processor time of the generator in the measured time, nanoseconds.
    pub generator_cpu: u64,
    /// The same of other processes: process and nanoseconds.
    pub other_cpu: BTreeMap<u32, u64>,
    /// The daemon's view, about once a second.
    pub samples: Vec<Sample>,
    /// Why it ended before its time.
    pub broken: Option<String>,
}

impl Run {
    /// Answers in the measured time.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.tally.reads + self.tally.writes
    }

    /// Answers per second.
    #[must_use]
    pub fn iops(&self) -> f64 {
        if self.seconds > 0.0 { self.requests() as f64 / self.seconds } else { 0.0 }
    }

    /// Million bytes per second.
    #[must_use]
    pub fn mb_per_s(&self) -> f64 {
        self.iops() * f64::from(self.load.size) / 1e6
    }

    /// Latency that 99 % of the requests did not exceed, nanoseconds.
    #[must_use]
    pub fn p99(&self) -> u64 {
        self.tally.latencies.all().value_at_quantile(0.99)
    }

    /// Nanoseconds of processor time as microseconds per request.
    #[must_use]
    pub fn us_per_request(&self, nanos: u64) -> f64 {
        nanos as f64 / 1e3 / self.requests().max(1) as f64
    }

    /// Adds a run of the same load that came after it.
    pub fn append(&mut self, later: Run) {
        self.tally.append(&later.tally);
        self.load.seconds += later.load.seconds;
        let before = self.seconds;
        self.samples.extend(
            later.samples.into_iter().map(|sample| Sample { at: before + sample.at, ..sample }),
        );
        self.seconds += later.seconds;
        self.interrupted |= later.interrupted;
        self.generator_cpu += later.generator_cpu;
        for (pid, nanos) in later.other_cpu {
            *self.other_cpu.entry(pid).or_default() += nanos;
        }
        self.broken = self.broken.take().or(later.broken);
    }

    /// Why it is no success, if it is none.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let tally = &self.tally;
        if tally.wrong > 0 {
            let first = tally.first_wrong.unwrap_or(0) * u64::from(self.load.size);
            return Some(format!(
                "{} blocks held something else than was written, the first at byte {first}",
                tally.wrong
            ));
        }
        if let Some(why) = &self.broken {
            return Some(why.clone());
        }
        if let Some(error) = tally.first_error {
            return Some(format!("{} requests failed, the first with {error}", tally.errors));
        }
        (tally.unanswered > 0 && !self.interrupted)
            .then(|| format!("{} requests were never answered", tally.unanswered))
    }
}

/// Opens the connections of `load`, all of them, before any I/O.
///
/// # Errors
/// Exit codes 1 and 2, see [`Target::connect`] and [`Target::check`].
pub fn prepare(target: &Target, load: &Load) -> Result<Vec<Worker>, Failure> {
    let shared = |n: usize| (n..load.connections).step_by(load.threads);
    let mut workers = Vec::new();
    let seed = seed()?;
    for thread in 0..load.threads {
        let mut connections = Vec::new();
        for index in shared(thread) {
            let connection = target.connect()?;
            target.check(&connection.exported, load)?;
            let blocks = connection.exported.size / u64::from(load.size);
            let part = if load.verify || load.sequential {
                Part::of(blocks, index, load.connections)
            } else {
                Part { first: 0, blocks }
            };
            let seed = seed.wrapping_add(index as u64);
            let choice = Choice::new(part, load.sequential, load.read_percent, seed);
            let choice = if load.verify { choice.verifying() } else { choice };
            connections.push((connection, choice));
        }
        let worker = Worker::new(connections, load.size, load.depth, schedule(load));
        workers.push(worker.map_err(|error| Failure::failed(format!("sockets: {error}")))?);
    }
    Ok(workers)
}

fn seed() -> Result<u64, Failure> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(Failure::failed)?;
    Ok(u64::from_ne_bytes(seed))
}

fn schedule(load: &Load) -> Schedule {
    let from = load.ramp * SECOND;
    Schedule {
        from,
        until: from + load.seconds * SECOND,
        rate: load.rate.map(|rate| rate as f64 / load.threads as f64),
    }
}

/// Runs `workers` to their end.
///
/// # Errors
/// When a thread cannot be started.
pub fn run(
    target: &Target,
    load: &Load,
    workers: Vec<Worker>,
    cpu_of: &[u32],
    interrupts: &Interrupts,
) -> Result<Run, Failure> {
    let content = Content::new(load.size as usize, seed()?);
    let shared = Shared::new();
    let watch = Watch::new(target, load, cpu_of);
    let (dones, watch) = std::thread::scope(|scope| {
        let threads: Result<Vec<_>, Failure> =
            workers.into_iter().map(|worker| start(scope, worker, &shared, &content)).collect();
        if threads.is_err() {
            shared.interrupted.store(true, Ordering::Relaxed);
        }
        let threads = threads?;
        let watch = watch.watch(&threads, &shared, interrupts);
        let dones = threads.into_iter().map(ScopedJoinHandle::join).collect::<Result<Vec<_>, _>>();
        let dones =
            dones.map_err(|_| Failure::failed("generator: a thread panicked; try: again"))?;
        Ok::<_, Failure>((dones, watch))
    })?;
    Ok(watch.finish(load, dones))
}

fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    worker: Worker,
    shared: &'scope Shared,
    content: &'scope Content,
) -> Result<ScopedJoinHandle<'scope, Done>, Failure> {
    let builder = std::thread::Builder::new().name("bench".to_owned());
    builder.spawn_scoped(scope, || worker.run(shared, content)).map_err(|error| {
        Failure::failed(format!("generator: no thread: {error}; try: --threads 1"))
    })
}

/// What is seen while the threads run.
struct Watch<'a> {
    target: &'a Target,
    schedule: Schedule,
    size: f64,
    /// Processes and their processor time when measuring began; after the second reading what it took.
    cpu: BTreeMap<u32, u64>,
    cpu_readings: u32,
    samples: Vec<Sample>,
    /// When it was interrupted, nanoseconds of the run's clock.
    interrupted: Option<u64>,
    /// Wall clock at the planned begin of measuring.
    began: SystemTime,
    /// When the last thread was seen to have ended.
    ended: u64,
    answered: u64,
}

impl<'a> Watch<'a> {
    fn new(target: &'a Target, load: &Load, cpu_of: &[u32]) -> Watch<'a> {
        let daemon = target.managed.as_ref().map(|managed| managed.pid);
        Watch {
            target,
            schedule: schedule(load),
            size: f64::from(load.size),
            cpu: cpu_of.iter().copied().chain(daemon).map(|pid| (pid, 0)).collect(),
            cpu_readings: 0,
            samples: Vec::new(),
            interrupted: None,
            began: SystemTime::now() + Duration::from_secs(load.ramp),
            ended: 0,
            answered: 0,
        }
    }

    fn watch<T>(
        mut self,
        threads: &[ScopedJoinHandle<'_, T>],
        shared: &Shared,
        interrupts: &Interrupts,
    ) -> Watch<'a> {
        let Schedule { from, until, .. } = self.schedule;
        let mut tick = from;
        while !threads.iter().all(ScopedJoinHandle::is_finished) {
            let left = tick.saturating_sub(shared.now()) / 1_000_000;
            if interrupts.came((left as u16).min(WATCH_MILLIS)) && self.interrupted.is_none() {
                shared.interrupted.store(true, Ordering::Relaxed);
                self.interrupted = Some(shared.now());
                self.read_cpu();
            }
            let now = shared.now();
            if now < tick || self.interrupted.is_some() {
                continue;
            }
            if tick == from || now >= until {
                self.read_cpu();
            }
            self.look(shared, now, interrupts);
            tick = if now >= until { u64::MAX } else { tick + SECOND };
        }
        self.ended = shared.now();
        match self.cpu_readings {
            0 => self.cpu.clear(),
            // It broke; what it took until then is better than nothing.
            1 => self.read_cpu(),
            _ => {}
        }
        output::progress_end();
        self
    }

    /// The first time: what it is; the second time: what it took.
    fn read_cpu(&mut self) {
        self.cpu_readings += 1;
        if self.cpu_readings <= 2 {
            for (pid, nanos) in &mut self.cpu {
                *nanos = cpu::of(*pid).unwrap_or(0).saturating_sub(*nanos);
            }
        }
    }

    /// Once a second: a line for whoever watches, and the daemon's view.
    fn look(&mut self, shared: &Shared, now: u64, interrupts: &Interrupts) {
        let answered = shared.answered.load(Ordering::Relaxed);
        let longest = shared.longest.swap(0, Ordering::Relaxed);
        let per_second = answered - std::mem::replace(&mut self.answered, answered);
        let at = now.saturating_sub(self.schedule.from) as f64 / 1e9;
        if at >= 0.5 {
            let errors = shared.errors.load(Ordering::Relaxed);
            let failed = if errors > 0 { format!(", {errors} ERRORS") } else { String::new() };
            output::progress_line(&format!(
                "{at:>4.0} s  {per_second:>8} IOPS  {:>8.1} MB/s  longest {}{failed}",
                per_second as f64 * self.size / 1e6,
                super::text::time(longest)
            ));
        }
        if let Some(managed) = &self.target.managed
            && let Ok(device) = managed.status(&until_interrupted(&|| !interrupts.pending()))
        {
            self.samples.push(Sample { at, device });
        }
    }

    fn finish(self, load: &Load, dones: Vec<Done>) -> Run {
        let Schedule { from, until, .. } = self.schedule;
        let end = self.interrupted.unwrap_or(until).min(until).min(self.ended);
        let mut tally = Tally::new(from, until);
        let (mut generator_cpu, mut broken) = (0, None);
        for done in dones {
            tally.merge(&done.tally);
            generator_cpu += done.cpu;
            broken = broken.or(done.broken);
        }
        let seconds = end.saturating_sub(from) as f64 / 1e9;
        tally.seconds.truncate(seconds.ceil() as usize);
        Run {
            load: load.clone(),
            tally,
            seconds,
            began: self.began,
            interrupted: self.interrupted.is_some(),
            generator_cpu,
            other_cpu: self.cpu,
            samples: self.samples,
            broken,
        }
    }
}
