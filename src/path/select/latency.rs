//! How soon each path answers, reads and writes apart, and when a path that looks slow is tried again.
//!
//! Mental model: an estimate is a moving average of the latencies of good answers. (An error may come at
//! once; counted, it would draw all commands to a broken path.) A path that gets no commands learns
//! nothing, so that it has to be *tried*. Trials are paid from *work*, the sum of all latencies: a trial that
//! will take L is due when 32 L were spent on other commands since. In a load of any depth, work is the time
//! that its slots are taken, so that all trials together cost about a 32nd of the throughput, however slow
//! the tried path is.

use super::super::{PathIndex, PathSet};
use crate::base::Duration;
use crate::limits::{PATHS_PER_DEVICE_MAX, TASKS_PER_SESSION_MAX};

/// Nanoseconds per unit of an estimate.
const UNIT_NANOS: u64 = 64;
/// Longest latency that is told apart, in units: about a second.
const UNITS_MAX: u64 = 1 << 24;
/// Of a path that has answered nothing yet: 100 ms, so that any path that is known is better.
const UNKNOWN: u64 = 100_000_000 / UNIT_NANOS;
/// Weight of a new answer is one in this many.
const SMOOTHING: u64 = 8;
/// A trial is paid by this many times its length.
const TRIAL_PRICE: u64 = 32;

const _: () =
    assert!((UNITS_MAX * UNITS_MAX).checked_mul(TASKS_PER_SESSION_MAX as u64 + 1).is_some());

#[derive(Debug, Clone, Copy)]
struct Estimate {
    /// Average in units, times `SMOOTHING`; zero while nothing is known.
    sum: u64,
    /// Work at which a trial is due.
    due: u64,
}

impl Estimate {
    const NONE: Estimate = Estimate { sum: 0, due: 0 };

    fn units(self) -> u64 {
        if self.sum == 0 { UNKNOWN } else { (self.sum / SMOOTHING).max(1) }
    }
}

/// The estimates of one kind of command.
#[derive(Debug, Clone)]
pub(super) struct Estimates {
    of: [Estimate; PATHS_PER_DEVICE_MAX],
    /// Units spent on answers.
    work: u64,
    /// Work at which any trial may begin.
    next_trial: u64,
    /// Paths whose next answer is that of a trial.
    on_trial: PathSet,
    /// The path that was looked at last for a trial.
    looked_at: PathIndex,
}

impl Estimates {
    pub(super) fn new() -> Estimates {
        Estimates {
            of: [Estimate::NONE; PATHS_PER_DEVICE_MAX],
            work: 0,
            next_trial: 0,
            on_trial: PathSet::EMPTY,
            looked_at: PathIndex::new(0),
        }
    }

    /// The path has a new session, or none: what was measured before says little.
    pub(super) fn forget(&mut self, path: PathIndex) {
        self.of[path.get()] = Estimate { sum: 0, due: self.work };
        self.on_trial.remove(path);
    }

    /// How long an answer takes on average; 100 ms where nothing is known.
    pub(super) fn expected(&self, path: PathIndex) -> Duration {
        Duration::from_nanos(self.of[path.get()].units() * UNIT_NANOS)
    }

    /// What one more command on the path costs. The square makes a path that is k times slower get k²
    /// times fewer commands: equal paths share evenly, and one that is far away gets none but trials.
    pub(super) fn cost(&self, path: PathIndex, depth: u32) -> u64 {
        self.step(path).saturating_mul(u64::from(depth) + 1)
    }

    /// By how much the cost grows with each command in flight.
    pub(super) fn step(&self, path: PathIndex) -> u64 {
        let units = self.of[path.get()].units();
        units * units
    }

    /// A good answer came after `latency`.
    pub(super) fn answered(&mut self, path: PathIndex, latency: Duration) {
        let units = (latency.as_nanos() as u64 / UNIT_NANOS).clamp(1, UNITS_MAX);
        self.work += units;
        let was_trial = self.on_trial.contains(path);
        self.on_trial.remove(path);
        let estimate = &mut self.of[path.get()];
        let before = estimate.units();
        estimate.sum = match estimate.sum {
            0 => units * SMOOTHING,
            // Trials are rare: most of the way at once, or a healed path would stay unused for long.
            _ if was_trial && units < before => (before + 3 * units) / 4 * SMOOTHING,
            sum => sum - sum / SMOOTHING + units,
        };
        estimate.due = self.work + TRIAL_PRICE * estimate.units();
    }

    /// The path of `candidates` to be tried now instead of `best`. One path is looked at each time.
    pub(super) fn trial(&mut self, candidates: PathSet, best: PathIndex) -> Option<PathIndex> {
        // While even the best is unknown, all are filled alike.
        let best_known = self.of[best.get()].sum > 0;
        let path = candidates.next_after(self.looked_at)?;
        self.looked_at = path;
        let estimate = self.of[path.get()];
        if path == best || !best_known || self.work < estimate.due {
            return None;
        }
        if estimate.sum > 0 {
            if self.work < self.next_trial {
                return None;
            }
            self.next_trial = self.work + TRIAL_PRICE * estimate.units();
        }
        // The first command of a path is free of charge, or many slow ones would hide a fast one for long.
        self.of[path.get()].due = self.work + TRIAL_PRICE * estimate.units();
        self.on_trial.insert(path);
        Some(path)
    }
}
