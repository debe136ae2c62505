//! The daemon's life: lock, admin server, lanes, exports, discovery; then, told to stop, the same in
//! reverse, bounded in time.
//!
//! Everything here runs on one thread and none of it is needed to complete an I/O: lanes go on while
//! control is busy, and control goes on while a lane is.

mod errands;
mod exports;
mod fences;
mod handler;
mod jobs;
mod merge;
mod shared;
mod snapshot;
mod spec;

pub use spec::Isids;

use super::config::{Config, check, values};
use super::dirs;
use super::lock::{Lock, LockError};
use super::runtime;
use super::server::Server;
use super::sockets::{self, ListenError, Listening};
use super::state::{StateError, StateFile};
use crate::base::Duration;
use crate::lane::{self, Io, LaneConfig, LaneError, LaneHandle};
use handler::Admin;
use shared::Shared;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};

/// Lanes that do not answer within this after `shutdown_timeout` are left behind.
const DRAIN_MARGIN: Duration = Duration::from_secs(2);

/// Where the admin server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// There, or the daemon does not start.
    At(PathBuf),
    /// At the default place, or the daemon does not start.
    Default,
    /// At the default place if it is free: a foreground command beside a running daemon.
    DefaultIfFree,
}

/// How a daemon is run.
pub struct Options {
    /// What to build.
    pub config: Config,
    /// Where to listen for administrators.
    pub control: Control,
    /// How ISIDs are made; stable ones ask for the lock.
    pub isids: Isids,
    /// Give up when it becomes clear that no device can ever work (wrong target, wrong LUN).
    pub must_start: bool,
    /// React to SIGTERM, SIGINT and SIGHUP.
    pub signals: bool,
    /// Ends the daemon like SIGTERM, from another thread.
    pub stop: Arc<Notify>,
    /// Its memory is locked.
    pub memory_locked: bool,
}

/// Why a daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another one is running under this name.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// What an earlier process has left behind cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// A socket cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The data plane cannot be made.
    #[error("{0}")]
    Lane(#[from] LaneError),
    /// No random bytes, no runtime, no signals.
    #[error("daemon: {0}; try: check the limits of this process (ulimit -a)")]
    System(String),
    /// It can never work as configured.
    #[error("{0}")]
    Hopeless(String),
}

impl DaemonError {
    fn system(error: impl std::fmt::Display) -> DaemonError {
        DaemonError::System(error.to_string())
    }
}

/// Runs a daemon until it is told to stop.
///
/// # Errors
/// When it cannot start; with [`Options::must_start`] also when it can never work.
pub fn run(options: Options) -> Result<(), DaemonError> {
    runtime::run(life(options)).map_err(DaemonError::system)?
}

async fn life(options: Options) -> Result<(), DaemonError> {
    let config = options.config;
    let _lock = match options.isids {
        Isids::Stable => Some(Lock::take(&dirs::run_dir(), &config.initiator_name)?),
        Isids::Random => None,
    };
    for error in check::host(&config) {
        tracing::warn!("{error}");
    }
    let server = admin_server(&options.control)?;
    let mut listening = Vec::new();
    for device in &config.devices {
        listening.push(sockets::export(&device.name, &device.export, device.socket_mode)?);
    }
    // Whoever sends SIGHUP to a daemon wants it to read its file again, not to lose the devices.
    let reload = config.file.is_some();
    let mut signals = if options.signals { Some(Signals::new(reload)?) } else { None };
    let states = state_files(&config, options.isids)?;
    let lanes = spawn_lanes(&config)?;
    let (sender, inbox) = tokio::sync::mpsc::unbounded_channel();
    for lane in &lanes {
        lane.send(lane::Command::Errands(sender.clone()));
    }
    let shared = Rc::new(
        Shared::new(config, lanes, options.isids)
            .memory_locked(options.memory_locked)
            .serving(states, sender),
    );
    runtime::spawn(errands::run(shared.clone(), inbox));
    shared.add_devices();
    if let Some(server) = server {
        let admin = Rc::new(Admin::new(shared.clone()));
        runtime::spawn(async move {
            if let Err(error) = server.serve(admin).await {
                tracing::error!(%error, "control socket");
            }
        });
    }
    let accepting = start_exports(&shared, listening)?;
    jobs::start(&shared);
    let hopeless = async {
        let verdict = jobs::first_verdict(&shared).await;
        match verdict {
            Err(why) if options.must_start => return why,
            Err(why) => tracing::error!("{why}"),
            Ok(()) => {}
        }
        std::future::pending().await
    };
    let ended = tokio::select! {
        () = options.stop.notified() => Ok(()),
        () = wait(signals.as_mut()) => Ok(()),
        why = hopeless => Err(DaemonError::Hopeless(why)),
    };
    // Dropping the accept loops closes their sockets and removes the files.
    for task in accepting {
        task.abort();
        let _ = task.await;
    }
    tokio::select! {
        () = drain(&shared) => {}
        () = wait(signals.as_mut()) => tracing::warn!("told to stop again: not waiting any longer"),
    }
    errands::flush(&shared).await;
    shared.end_lanes();
    tracing::info!("stopped");
    ended
}

fn admin_server(control: &Control) -> Result<Option<Server>, DaemonError> {
    let path = match control {
        Control::At(path) => path.clone(),
        Control::Default | Control::DefaultIfFree => dirs::control_socket(),
    };
    match Server::bind(&path) {
        Ok(server) => Ok(Some(server)),
        Err(error) if *control == Control::DefaultIfFree => {
            tracing::warn!("{error}; status and other commands do not reach this process");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The state files of all devices; none for sessions that nobody could log into again.
fn state_files(config: &Config, isids: Isids) -> Result<Vec<StateFile>, DaemonError> {
    if isids == Isids::Random {
        return Ok(Vec::new());
    }
    let dir = dirs::state_dir();
    let known: Vec<&str> = config.devices.iter().map(|device| device.name.as_str()).collect();
    let mut files = Vec::new();
    for device in &known {
        files.push(StateFile::open(&dir, &config.initiator_name, device)?);
    }
    for file in StateFile::strangers(&dir, &config.initiator_name, &known) {
        tracing::warn!(
            file = %file.display(),
            "an earlier process did not log out of a device that is not configured any more: its last writes may \
             still land there; remove the file when that does not matter"
        );
    }
    Ok(files)
}

fn spawn_lanes(config: &Config) -> Result<Vec<LaneHandle>, DaemonError> {
    let count = config.devices.iter().map(|device| device.lanes).max().unwrap_or(1);
    let mut lanes = Vec::new();
    for id in 0..count {
        lanes.push(LaneHandle::spawn(LaneConfig { id, io: Io::from_environment() })?);
    }
    if let Some(why) = lanes.first().and_then(LaneHandle::refusal) {
        tracing::warn!("the data plane runs on epoll, which costs a few per cent: {why}");
    }
    let mailboxes: Vec<_> = lanes.iter().map(LaneHandle::mailbox).collect();
    for lane in &lanes {
        lane.send(lane::Command::Peers(mailboxes.clone()));
    }
    Ok(lanes)
}

fn start_exports(
    shared: &Rc<Shared>,
    listening: Vec<Listening>,
) -> Result<Vec<runtime::JoinHandle<()>>, DaemonError> {
    let mut tasks = Vec::new();
    for (index, listening) in listening.into_iter().enumerate() {
        let device = &shared.config.devices[index];
        tracing::info!(device = %device.name, export = %device.export, "listening");
        if device.export.beyond_this_host() {
            tracing::warn!(
                device = %device.name, export = %device.export,
                "can be reached from other hosts, without authentication or encryption"
            );
        }
        let accepting = exports::Accepting::new(listening).map_err(DaemonError::system)?;
        tasks.push(runtime::spawn(accepting.run(shared.clone(), index)));
    }
    Ok(tasks)
}

/// Tells every lane to finish, and waits for all of them, but not for ever.
async fn drain(shared: &Shared) {
    let devices = 0..shared.config.devices.len();
    let longest = devices.map(|device| shared.tunables(device).shutdown_timeout).max();
    let longest = longest.unwrap_or_default();
    tracing::info!(at_most = %values::duration_text(longest), "draining");
    let mut answers = Vec::new();
    for lane in shared.lanes().iter() {
        let (reply, answer) = oneshot::channel();
        lane.send(lane::Command::Drain { reply });
        answers.push(answer);
    }
    let all = async {
        for answer in answers {
            // A lane that is gone has nothing left to drain.
            let _ = answer.await;
        }
    };
    match tokio::time::timeout(longest.saturating_add(DRAIN_MARGIN), all).await {
        Ok(()) => shared.drained.set(true),
        Err(_) => tracing::error!("a lane did not finish in time and is left behind"),
    }
}

struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
    /// SIGHUP asks for the configuration to be read again; otherwise the terminal is gone.
    reload: bool,
}

impl Signals {
    fn new(reload: bool) -> Result<Signals, DaemonError> {
        let make = |kind| signal(kind).map_err(DaemonError::system);
        Ok(Signals {
            term: make(SignalKind::terminate())?,
            int: make(SignalKind::interrupt())?,
            hup: make(SignalKind::hangup())?,
            reload,
        })
    }
}

/// Until a signal says stop; for ever without signals.
async fn wait(signals: Option<&mut Signals>) {
    let Some(signals) = signals else { return std::future::pending().await };
    loop {
        let name = tokio::select! {
            _ = signals.term.recv() => "SIGTERM",
            _ = signals.int.recv() => "SIGINT",
            _ = signals.hup.recv() => "SIGHUP",
        };
        if name == "SIGHUP" && signals.reload {
            tracing::warn!(
                "SIGHUP: reloading is not available in this version; nothing has changed"
            );
            continue;
        }
        tracing::info!(signal = name, "stopping");
        return;
    }
}

#[cfg(test)]
mod tests;
