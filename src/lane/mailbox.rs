//! What control asks of a lane, and how it gets there: a bounded queue and a wake-up.

use super::{Errands, Lane, LaneConfig, LaneError, log};
use crate::path::{PathIndex, Policy};
use crate::ring::{Io, Ring, RingConfig, RingError, Waker};
use crate::volume::admin::{AdminError, Snapshot};
use crate::volume::doubts::Doubt;
use crate::volume::shared::Shared;
use crate::volume::spec::{DeviceSpec, PathSpec, Tunables};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Commands in the mailbox at most; control waits beyond it.
const MAILBOX_MAX: usize = 1024;

/// What an administrator does to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathAction {
    /// Take it out, drained.
    Disable {
        /// Even the last usable one.
        force: bool,
    },
    /// Put it back.
    Enable,
    /// Read its identity again, or try it at once.
    Recheck,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// This lane has no such device.
    #[error("no device {0}")]
    NoSuchDevice(String),
    /// The volume said no.
    #[error(transparent)]
    Refused(#[from] AdminError),
}

/// What control asks of a lane.
pub enum Command {
    /// Build a device; `shared` is the same for all its lanes.
    AddDevice {
        /// What to build.
        spec: Box<DeviceSpec>,
        /// Shared with the device's other lanes.
        shared: Arc<Shared>,
    },
    /// Add a path to a device, in the same order on every lane.
    AddPath {
        /// Device name.
        device: String,
        /// The path, with this lane's ISID.
        path: Box<PathSpec>,
    },
    /// An accepted NBD connection.
    Client {
        /// Device name.
        device: String,
        /// The connected socket.
        fd: OwnedFd,
        /// Who, for the log.
        peer: String,
    },
    /// Snapshots of one device or of all.
    Status {
        /// Only this one.
        device: Option<String>,
        /// Where the answer goes.
        reply: oneshot::Sender<Vec<Snapshot>>,
    },
    /// Change or show the policy.
    SetPolicy {
        /// Device name.
        device: String,
        /// The new policy.
        policy: Option<Policy>,
        /// New weights by path name.
        weights: Vec<(String, u32)>,
        /// The path to prefer.
        prefer: Option<String>,
        /// The policy now in force.
        reply: oneshot::Sender<Result<Policy, CommandError>>,
    },
    /// Change the tunables, which were checked.
    SetTunables {
        /// Device name.
        device: String,
        /// All of them.
        tunables: Box<Tunables>,
        /// What changes, for the device's events.
        changes: String,
        /// Done.
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
    /// Do something to a path.
    Path {
        /// Device name.
        device: String,
        /// Path name.
        path: String,
        /// What.
        action: PathAction,
        /// Done or not.
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
    /// Ranges in doubt on sessions of this lane.
    Doubts {
        /// Device name.
        device: String,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Vec<Doubt>, CommandError>>,
    },
    /// An administrator says that the node behind a path is off.
    ConfirmDead {
        /// Device name.
        device: String,
        /// Path name.
        path: String,
        /// Only see whether it could be.
        only_ask: bool,
        /// How many ranges came out of doubt.
        reply: oneshot::Sender<Result<usize, CommandError>>,
    },
    /// Finish what is in flight, flush, log out.
    Drain {
        /// Told when it is done, at the latest after `shutdown_timeout`.
        reply: oneshot::Sender<()>,
    },
    /// Who does what takes a file or a process.
    Errands(Errands),
    /// A nexus was written down, or why it could not be.
    NexusRecorded {
        /// Device name.
        device: String,
        /// Its path.
        path: PathIndex,
        /// How it went.
        result: Result<(), String>,
    },
    /// A `fence_command` has ended.
    FenceCommandEnded {
        /// Device name.
        device: String,
        /// Which run.
        id: u64,
        /// Exit code 0, or why that is no proof.
        result: Result<(), String>,
    },
    /// The mailboxes of all lanes, by number.
    Peers(Vec<Mailbox>),
    /// A range that this lane's part of the device waited for may be free.
    Wake {
        /// Device name.
        device: String,
    },
    /// Another lane has had this target's unit reset.
    TargetWasReset {
        /// Device name.
        device: String,
        /// Target name.
        target: String,
    },
    /// End the thread.
    Stop,
}

/// A way to reach a lane.
#[derive(Clone)]
pub struct Mailbox {
    sender: SyncSender<Command>,
    waker: Waker,
}

impl Mailbox {
    /// Puts a command in and wakes the lane. Waits while the mailbox is full. A command to a lane that
    /// has ended is dropped (a reply channel in it tells its owner).
    pub fn send(&self, command: Command) {
        if self.sender.send(command).is_ok() {
            self.waker.wake();
        }
    }

    /// The same without waiting: from one lane to another.
    ///
    /// # Errors
    /// The command, when the mailbox is full.
    pub fn try_send(&self, command: Command) -> Result<(), Box<Command>> {
        match self.sender.try_send(command) {
            Ok(()) => {
                self.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(command)) => Err(Box::new(command)),
            Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }
}

/// A running lane.
pub struct LaneHandle {
    mailbox: Mailbox,
    thread: Option<JoinHandle<()>>,
    io: Io,
    refusal: Option<RingError>,
}

impl LaneHandle {
    /// Starts the thread and its ring.
    ///
    /// # Errors
    /// [`LaneError`], when io_uring or the thread is not to be had.
    pub fn spawn(config: LaneConfig) -> Result<LaneHandle, LaneError> {
        let lane = config.id;
        let (sender, receiver) = mpsc::sync_channel(MAILBOX_MAX);
        // The ring is made on the thread that uses it (IORING_SETUP_SINGLE_ISSUER).
        let (made, waker) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("lane{lane}"))
            .spawn(move || {
                let mut ring =
                    match Ring::new(RingConfig { io: config.io, ..RingConfig::default() }) {
                        Ok(ring) => ring,
                        Err(error) => {
                            let _ = made.send(Err(error));
                            return;
                        }
                    };
                let _ = made.send(Ok((ring.waker(), ring.io(), ring.take_refusal())));
                let _abort = AbortOnPanic;
                Lane::new(config.id, ring, receiver, log::Sink::start()).run();
            })
            .map_err(|source| LaneError::Thread { lane, source })?;
        match waker.recv().expect("the thread reports before it ends") {
            Ok((waker, io, refusal)) => {
                let mailbox = Mailbox { sender, waker };
                Ok(LaneHandle { mailbox, thread: Some(thread), io, refusal })
            }
            Err(source) => Err(LaneError::Ring { lane, source }),
        }
    }

    /// What its ring asks the kernel by: `Uring` or `Epoll`.
    #[must_use]
    pub fn io(&self) -> Io {
        self.io
    }

    /// Why that is epoll, where io_uring is refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&RingError> {
        self.refusal.as_ref()
    }

    /// See [`Mailbox::send`].
    pub fn send(&self, command: Command) {
        self.mailbox.send(command);
    }

    /// A way to reach this lane that can be given away.
    #[must_use]
    pub fn mailbox(&self) -> Mailbox {
        self.mailbox.clone()
    }

    /// Ends the thread and waits for it. Sessions that were not drained are reset.
    pub fn shutdown(mut self) {
        self.mailbox.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A broken invariant in a lane ends the daemon: its clients reconnect to the next one, and sockets that
/// were made with SO_LINGER 0 are reset by the kernel. A daemon that goes on without its lane would look alive.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
