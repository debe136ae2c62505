//! What the engine tells about paths and about the device: for `status`, for deadlines that depend on how
//! many paths live, and for who decides about the device's state.

use super::{Engine, PathInfo};
use crate::base::{Duration, Instant};
use crate::path::{Access, Events, Op, PathIndex, PathSet, Policy, State};
use crate::stats::IoStats;

/// How many paths are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    counts: [usize; State::ALL.len()],
}

impl Tally {
    /// Paths in `state`.
    #[must_use]
    pub fn of(&self, state: State) -> usize {
        self.counts[state as usize]
    }

    /// Paths in any state.
    #[must_use]
    pub fn total(&self) -> usize {
        self.counts.iter().sum()
    }
}

/// What the paths say about the device. (`failed` is the volume's word: queued too long.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceHealth {
    /// Every path is active or standby.
    Ok,
    /// It can be used, but not by every path.
    Degraded,
    /// No usable path: commands queue.
    Down,
}

impl Engine {
    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Every path, in order of addition.
    pub fn paths(&self) -> impl Iterator<Item = PathIndex> + use<> {
        (0..self.paths.len()).map(PathIndex::new)
    }

    /// The path of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<PathIndex> {
        self.paths().find(|path| self.info(*path).name == name)
    }

    /// Name, weight, preference and order of a path.
    #[must_use]
    pub fn info(&self, path: PathIndex) -> &PathInfo {
        &self.paths[path.get()].info
    }

    /// What the storage says about a path; `None` without ALUA.
    #[must_use]
    pub fn access(&self, path: PathIndex) -> Option<Access> {
        self.paths[path.get()].access
    }

    /// State of a path.
    #[must_use]
    pub fn state(&self, path: PathIndex) -> State {
        self.paths[path.get()].state
    }

    /// Since when the path is in its state.
    #[must_use]
    pub fn since(&self, path: PathIndex) -> Instant {
        self.paths[path.get()].since
    }

    /// Why the path is in its state, in words; may be empty.
    #[must_use]
    pub fn reason(&self, path: PathIndex) -> &str {
        &self.paths[path.get()].reason
    }

    /// How often the path failed, attempts to reconnect included.
    #[must_use]
    pub fn failures(&self, path: PathIndex) -> u64 {
        self.paths[path.get()].failures
    }

    /// Why the path failed last; empty if it never did.
    #[must_use]
    pub fn last_failure(&self, path: PathIndex) -> &str {
        &self.paths[path.get()].last_failure
    }

    /// When a failed path is tried again.
    #[must_use]
    pub fn retry_at(&self, path: PathIndex) -> Option<Instant> {
        self.paths[path.get()].retry_at
    }

    /// How long a try to connect may take before the next one is the better hope.
    #[must_use]
    pub fn connect_patience(&self, now: Instant, path: PathIndex) -> Duration {
        self.paths[path.get()].backoff.patience(now)
    }

    /// Whether the path was lost so often that it is kept out, or was until lately.
    #[must_use]
    pub fn is_flapping(&self, path: PathIndex) -> bool {
        self.paths[path.get()].backoff.is_flapping()
    }

    /// Counters and latencies of a path.
    #[must_use]
    pub fn stats(&self, path: PathIndex) -> &IoStats {
        &self.paths[path.get()].stats
    }

    /// Commands in flight on a path.
    #[must_use]
    pub fn in_flight(&self, path: PathIndex) -> u32 {
        self.selector.depth(path)
    }

    /// How long the path may owe answers to commands of this kind while nothing moves before it is suspect, as
    /// far as its own past tells; the lower bound is a setting.
    #[must_use]
    pub fn suspect_after(&self, path: PathIndex, op: Op) -> Duration {
        self.paths[path.get()].patience.of(op)
    }

    /// What all but one in 200 of the recent reads on the fastest active path took no longer than, once known.
    #[must_use]
    pub fn read_tail(&self) -> Option<Duration> {
        self.read_tail
    }

    /// How long an answer to an `op` takes on average of late; 100 ms where nothing is known.
    #[must_use]
    pub fn expected(&self, op: Op, path: PathIndex) -> Duration {
        self.selector.expected(op, path)
    }

    /// Active paths that came from suspicion and have not answered a READ since: they are offered no
    /// write yet, and need a READ to prove themselves if the load has none.
    #[must_use]
    pub fn wants_read(&self) -> PathSet {
        self.trust.reads_only().and(self.active)
    }

    /// The active paths.
    #[must_use]
    pub fn active(&self) -> PathSet {
        self.active
    }

    /// The suspect paths.
    #[must_use]
    pub fn suspects(&self) -> PathSet {
        self.suspect
    }

    /// The path that `failover` uses, or would use.
    #[must_use]
    pub fn serving(&self) -> Option<PathIndex> {
        self.failover.serving()
    }

    /// Whether this path carries I/O and no other path is active: its timeouts are the long ones, and it
    /// is disabled only by force. Another suspect path does not count: it may be as dead as this one.
    #[must_use]
    pub fn is_last(&self, path: PathIndex) -> bool {
        let carries_io = self.active.union(self.suspect).contains(path);
        carries_io && self.active.minus(PathSet::only(path)).is_empty()
    }

    /// Since when no path is usable; `None` while one is. Starts with the device.
    #[must_use]
    pub fn down_since(&self) -> Option<Instant> {
        self.down_since
    }

    /// How many paths are in each state.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for entry in &self.paths {
            tally.counts[entry.state as usize] += 1;
        }
        tally
    }

    /// What the paths say about the device.
    #[must_use]
    pub fn health(&self) -> DeviceHealth {
        let tally = self.tally();
        if self.usable().is_empty() {
            DeviceHealth::Down
        } else if tally.of(State::Active) + tally.of(State::Standby) == tally.total() {
            DeviceHealth::Ok
        } else {
            DeviceHealth::Degraded
        }
    }

    /// The last events.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }
}
