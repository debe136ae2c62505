//! One data-plane thread: turns the volumes' actions into ring operations, and completions into events.
//!
//! # One turn
//! Submit and wait (one system call), hand every completion to its volume, read the clock once, let each
//! touched volume finish its turn, gather one send per dirty socket (iSCSI sockets first), re-arm the
//! receives. Nothing is sent while completions are handed out.
//!
//! Deliberately not here: any protocol, and any decision about paths. Work of the control thread comes
//! through a bounded mailbox; nothing here waits for it.

mod errand;
mod log;
mod mailbox;
mod sockets;
mod turn;

pub use errand::{Errand, Errands};
pub use mailbox::{Command, CommandError, LaneHandle, Mailbox, PathAction};

use crate::base::Instant;
use crate::ring::{Ring, RingError};
use crate::volume::Volume;
use sockets::{Index, Slot, Sockets};
use std::sync::mpsc::Receiver;
use std::time;
use tokio::sync::oneshot;

/// What a lane is started with.
#[derive(Debug, Clone)]
pub struct LaneConfig {
    /// Its number, from 0; part of every ISID of its sessions.
    pub id: u16,
}

/// Why a lane could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// io_uring is not to be had, with the reason and the remedy.
    #[error("lane {lane} cannot start: {source}")]
    Ring {
        /// Which lane.
        lane: u16,
        /// Why.
        source: RingError,
    },
    /// The thread could not be made.
    #[error("lane {lane} cannot start its thread: {source}")]
    Thread {
        /// Which lane.
        lane: u16,
        /// Why.
        source: std::io::Error,
    },
}

/// One device on this lane.
struct Device {
    volume: Volume,
    index: Index,
    /// When its volume has to be called: asked once, at the end of a turn that touched it.
    deadline: Option<Instant>,
    /// Something happened to it in this turn.
    touched: bool,
    drained: bool,
    /// Clients that found no place.
    refused: u64,
}

/// The thread's state.
struct Lane {
    id: u16,
    ring: Ring,
    epoch: time::Instant,
    devices: Vec<Device>,
    mailbox: Receiver<Command>,
    peers: Vec<Mailbox>,
    sockets: Sockets,
    /// Scratch space of a turn.
    paused: Vec<Slot>,
    log: log::Sink,
    /// Who does what takes a file or a process; nobody in tests of the lane alone.
    errands: Option<Errands>,
    draining: Option<oneshot::Sender<()>>,
    stopped: bool,
}
