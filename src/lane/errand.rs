//! What a lane asks of control: things that take a file or a process. A lane never waits for them.
//!
//! The queue is bounded by what its senders may have open: for each path one record, for each path one
//! command; what is struck out is sent once for each record; a discovery is asked for every 5 s at most.

use crate::path::PathIndex;
use crate::volume::fence_command::FenceCommand;
use crate::volume::nexus::NexusRecord;
use tokio::sync::{mpsc, oneshot};

/// What a lane asks for.
pub enum Errand {
    /// Write a nexus down; answered by [`Command::NexusRecorded`](super::Command::NexusRecorded).
    RecordNexus {
        /// Device name.
        device: String,
        /// The lane that asks.
        lane: u16,
        /// Its path.
        path: PathIndex,
        /// What to write.
        record: NexusRecord,
    },
    /// Strike a nexus out.
    ForgetNexus {
        /// Device name.
        device: String,
        /// Which.
        record: NexusRecord,
    },
    /// Run a command; answered by [`Command::FenceCommandEnded`](super::Command::FenceCommandEnded).
    FenceCommand {
        /// Device name.
        device: String,
        /// The lane that asks.
        lane: u16,
        /// What to run.
        command: FenceCommand,
    },
    /// Ask the portals again: a target has said that something changed.
    Discover,
    /// Everything before this is done.
    Flush(oneshot::Sender<()>),
}

/// Where errands go.
pub type Errands = mpsc::UnboundedSender<Errand>;
