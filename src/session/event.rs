//! What goes into a session and what comes out of it.

use super::error::{LoginError, SessionError};
use crate::base::{Duration, Payload};
use crate::wire::iscsi::TargetAddress;

/// Names one submitted command while it lives: its initiator task tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskTag(pub u32);

/// Which way the data of a command goes.
#[derive(Debug, Clone, Default)]
pub enum Direction {
    /// No data.
    #[default]
    None,
    /// From the target.
    Read {
        /// Expected data transfer length, bytes: the size of our buffer.
        len: u32,
    },
    /// To the target. The session keeps the payload until the command ends.
    Write(Payload),
}

/// A SCSI command for [`Session::submit`](super::Session::submit).
#[derive(Debug, Clone)]
pub struct Command {
    /// The caller's own name for it; comes back in the event that ends it.
    pub token: u64,
    /// The 8-byte LUN field as REPORT LUNS gave it.
    pub lun: u64,
    /// The CDB, zero-padded.
    pub cdb: [u8; 16],
    /// Data.
    pub data: Direction,
}

/// Difference between what was expected and what there was (RFC 7143 section 11.4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Residual {
    /// All of it.
    #[default]
    None,
    /// This many bytes fewer than expected.
    Under(u32),
    /// The target had this many bytes more.
    Over(u32),
}

/// How a command ended at the target.
#[derive(Debug, Clone, Default)]
pub struct Completion {
    /// iSCSI response; anything but 0 is a failure of the target and makes `status` meaningless.
    pub response: u8,
    /// SCSI status.
    pub status: u8,
    /// Data of a read. With good status its length and `residual` agree.
    pub data: Payload,
    /// Sense data, at most [`limits::SENSE_MAX`](crate::limits::SENSE_MAX) bytes.
    pub sense: Option<Box<[u8]>>,
    /// Residual.
    pub residual: Residual,
}

/// A target in a SendTargets answer (RFC 7143 appendix C).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetRecord {
    /// iSCSI name.
    pub name: String,
    /// Its portals without repetition. Empty together with `unusable`: the portal that was asked.
    pub addresses: Vec<TargetAddress>,
    /// Addresses that could not be understood, escaped for display.
    pub unusable: Vec<String>,
}

/// An Asynchronous Message (RFC 7143 section 11.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AsyncEvent {
    /// A unit attention outside a command.
    Scsi {
        /// LUN that it is about.
        lun: u64,
        /// Sense data.
        sense: Box<[u8]>,
    },
    /// A connection that is not ours is to be dropped.
    OtherConnectionDrop {
        /// Its connection id.
        cid: u16,
    },
    /// The target asked for a negotiation, which was begun.
    Negotiation,
    /// A vendor's event.
    Vendor {
        /// Event code, 248 to 255.
        event: u8,
        /// AsyncVCode.
        code: u8,
    },
}

/// What happened. Every command accepted by `submit` ends in exactly one of `Done`, `Aborted` and `Lost`;
/// every session in exactly one of `LoginFailed` and `Closed`.
#[derive(Debug)]
pub enum Event {
    /// Full feature phase; [`Session::negotiated`](super::Session::negotiated) is set.
    LoggedIn,
    /// The login failed; the socket must be given up.
    LoginFailed(LoginError),
    /// The target answered a command.
    Done {
        /// The caller's name.
        token: u64,
        /// Tag that it had.
        tag: TaskTag,
        /// The answer.
        completion: Completion,
    },
    /// A command was ended by a task management function that the target answered with "complete":
    /// it will not execute any more, and there is no status.
    Aborted {
        /// The caller's name.
        token: u64,
        /// Tag that it had.
        tag: TaskTag,
    },
    /// A command has no answer and will get none: the session ended, or the target no longer knows it.
    Lost {
        /// The caller's name.
        token: u64,
        /// At least one byte was handed to the kernel: it may execute at any later time.
        sent: bool,
    },
    /// Answer to `abort` (`token` is the command's) or `reset_logical_unit`. What it ended was told before.
    TaskManagement {
        /// The caller's name.
        token: u64,
        /// Function, [`codes::tmf`](crate::wire::iscsi::codes::tmf).
        function: u8,
        /// Response, [`codes::tmf_response`](crate::wire::iscsi::codes::tmf_response).
        response: u8,
    },
    /// `abort` or `reset_logical_unit` had no answer in time. One that comes later counts for nothing: the
    /// target may mean another request by it.
    TaskManagementTimedOut {
        /// The caller's name.
        token: u64,
        /// Function, [`codes::tmf`](crate::wire::iscsi::codes::tmf).
        function: u8,
    },
    /// Answer to `send_targets`.
    Targets(Vec<TargetRecord>),
    /// The target told something.
    Async(AsyncEvent),
    /// The target asked us to log out. No command is taken any more; the session logs out by itself when
    /// its commands have ended, at the latest after three quarters of this time.
    LogoutRequested {
        /// Time that the target gives.
        within: Duration,
    },
    /// The session is over; the socket must be given up.
    Closed(SessionError),
}
