//! One data-plane thread: turns the volumes' actions into ring operations, and completions into events.
//!
//! # One turn
//! Submit and wait (one system call), hand every completion to its volume, read the clock once, let each
//! touched volume finish its turn, gather one send per dirty socket (iSCSI sockets first), re-arm the
//! receives. Nothing is sent while completions are handed out. What a turn costs depends on what happened
//! in it, not on how many devices and paths there are: timers are looked at when one is due.
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

pub use crate::ring::Io;

use crate::base::{Duration, Instant, SteadyClock};
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
    /// What it asks the kernel by.
    pub io: Io,
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
    /// Something happened to it in this turn.
    touched: bool,
    /// Something happened to it since its deadline was asked for.
    stale: bool,
    drained: bool,
    /// Clients that found no place.
    refused: u64,
}

/// All deadlines of a device to which something happened are asked for within this time, so a timer that
/// was set meanwhile may be late by as much; those that matter in milliseconds are asked for each turn.
const TIMER_GRAIN: Duration = Duration::from_millis(10);

/// A turn that is later than this was kept from running: what it measures is not the paths' doing. After a
/// pause the clock itself is put right: see [`SteadyClock`].
const STALL_MIN: Duration = Duration::from_millis(5);

/// The thread's state.
struct Lane {
    id: u16,
    ring: Ring,
    epoch: time::Instant,
    clock: SteadyClock,
    devices: Vec<Device>,
    /// When each device's volume has to be called, as last asked.
    deadlines: Vec<Instant>,
    /// When timers are looked at next.
    timers_at: Instant,
    /// The alarms of the ring that are to come. One stays set over many turns: a time limit on each wait
    /// would have the processor's timer set twice a turn.
    alarms: Vec<Instant>,
    /// Devices to which something happened in this turn.
    touched: Vec<usize>,
    /// How long this lane looks for completions before it sleeps: what the devices with commands
    /// outstanding ask for.
    spin: Duration,
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
