//! What a volume holds at this moment: for whoever checks from outside that nothing leaks and that every
//! path comes back. Cheap: no histogram is copied.

use super::Volume;
use crate::base::Duration;
use crate::path::{DeviceHealth, LedgerCounters, Op, PathIndex, State};
use crate::session::Session;

/// Numbers that are zero when nothing is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// Requests of clients, and of the volume itself, that are not answered.
    pub requests: usize,
    /// SCSI commands that they were cut into, in flight or waiting.
    pub parts: usize,
    /// Commands that nobody waits for any more, and copies of commands.
    pub stragglers: usize,
    /// Places in the queues of what waits for a path or a time.
    pub queued: usize,
    /// Requests that wait for their range.
    pub held: usize,
    /// Commands in flight over all paths.
    pub in_flight: u64,
    /// NBD connections.
    pub clients: usize,
    /// Payload bytes that clients are booked with.
    pub payload: u64,
}

impl Volume {
    /// What is under way.
    #[must_use]
    pub fn census(&self) -> Census {
        let in_flight = self.links.iter().map(|l| u64::from(self.engine.in_flight(l.index)));
        Census {
            requests: self.requests.len(),
            parts: self.parts.len(),
            stragglers: self.stragglers.len(),
            queued: self.ready.len() + self.delayed.len() + self.pumpable.len(),
            held: self.held + self.unticketed.len(),
            in_flight: in_flight.sum(),
            clients: self.clients.len(),
            payload: self.payload_held,
        }
    }

    /// The state of a path.
    #[must_use]
    pub fn path_state(&self, path: PathIndex) -> State {
        self.engine.state(path)
    }

    /// Why it is in that state, when that is not plain.
    #[must_use]
    pub fn path_reason(&self, path: PathIndex) -> &str {
        self.engine.reason(path)
    }

    /// How often it has failed.
    #[must_use]
    pub fn path_failures(&self, path: PathIndex) -> u64 {
        self.engine.failures(path)
    }

    /// What the paths say about the device.
    #[must_use]
    pub fn health(&self) -> DeviceHealth {
        self.engine.health()
    }

    /// A path's session, while there is one.
    #[must_use]
    pub fn session(&self, path: PathIndex) -> Option<&Session> {
        self.links[path.get()].session_ref()
    }

    /// How long a path may owe an answer of this kind before it is suspect.
    #[must_use]
    pub fn suspect_after(&self, path: PathIndex, op: Op) -> Duration {
        self.engine.suspect_after(path, op)
    }

    /// The numbers of the device's ledger, shared by its lanes.
    #[must_use]
    pub fn fences(&self) -> LedgerCounters {
        self.shared.ledger().counters()
    }
}
