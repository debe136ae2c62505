//! How long a path may owe an answer, and how far one that came back from suspicion is trusted.
//!
//! * [`Patience`]: a path is suspect when nothing has moved for 8 x its recent p99 while commands are
//!   outstanding, but not before `suspect_after` (20 ms). "Recent" is the last one to two thousand answers.
//! * [`Trust`]: a path that was suspect is active for reads first, then for one write at a time, then
//!   fully. These are preferences: with no other path it carries everything.
//! * [`command_timeout`]: the deadline of a command on a path, from its last progress.
//!
//! Deliberately not here: clocks and timers (volume), silence of a session (session).

use super::{Ended, Op, PathIndex, PathSet};
use crate::base::Duration;
use crate::limits::PATHS_PER_DEVICE_MAX;
use crate::stats::Histogram;

/// Patience with a path of which too little is known.
const PATIENCE_UNKNOWN: Duration = Duration::from_millis(250);
/// Never more patient than this: the deadline of a command is 2 s by default. An answer that took longer
/// tells of an outage and not of what the path needs.
const PATIENCE_MAX: Duration = Duration::from_secs(1);
/// Patience in multiples of the recent p99.
const PATIENCE_FACTOR: u32 = 8;
/// Answers before the first estimate.
const ANSWERS_FIRST: u64 = 64;
/// Answers per window.
const ANSWERS_PER_WINDOW: u64 = 1024;

/// Estimates how long an answer of one path may take. Recording costs as much as a histogram.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    reads: Window,
    writes: Window,
    patience: Duration,
}

/// The last answers to commands of one kind.
#[derive(Debug, Clone)]
struct Window {
    recent: Histogram,
    previous: Histogram,
    next_estimate: u64,
    /// p99 and p99.5, once known.
    tails: Option<(Duration, Duration)>,
}

impl Window {
    fn new() -> Window {
        Window {
            recent: Histogram::new(),
            previous: Histogram::new(),
            next_estimate: ANSWERS_FIRST,
            tails: None,
        }
    }

    fn clear(&mut self) {
        self.recent.clear();
        self.previous.clear();
        self.next_estimate = ANSWERS_FIRST;
        self.tails = None;
    }

    /// Returns whether there is a new estimate.
    fn record(&mut self, latency: Duration) -> bool {
        self.recent.record(latency);
        let due = self.recent.count() >= self.next_estimate;
        if due {
            self.estimate();
        }
        due
    }

    #[cold]
    fn estimate(&mut self) {
        let tail = |quantile| {
            let micros = self.recent.quantile(quantile).max(self.previous.quantile(quantile));
            Duration::from_micros(micros)
        };
        self.tails = Some((tail(990), tail(995)));
        if self.recent.count() >= ANSWERS_PER_WINDOW {
            core::mem::swap(&mut self.recent, &mut self.previous);
            self.recent.clear();
            self.next_estimate = ANSWERS_PER_WINDOW;
        } else {
            self.next_estimate = self.next_estimate.saturating_mul(2).min(ANSWERS_PER_WINDOW);
        }
    }
}

impl Patience {
    pub(super) fn new() -> Patience {
        Patience { reads: Window::new(), writes: Window::new(), patience: PATIENCE_UNKNOWN }
    }

    /// Returns whether [`Patience::read_tail`] may have changed.
    pub(super) fn record(&mut self, op: Op, latency: Duration) -> bool {
        if latency >= PATIENCE_MAX {
            return false;
        }
        let estimated = match op {
            Op::Read => self.reads.record(latency),
            Op::Write => self.writes.record(latency),
            Op::Other => false,
        };
        if estimated {
            let known = [&self.reads, &self.writes].into_iter().filter_map(|window| window.tails);
            let p99 = known.map(|(p99, _)| p99).max().unwrap_or(PATIENCE_UNKNOWN);
            self.patience = p99.saturating_mul(PATIENCE_FACTOR).min(PATIENCE_MAX);
        }
        estimated && op == Op::Read
    }

    /// A suspect path has answered after all: until the next estimate it is given twice that time, so that
    /// a path that has become slower is not suspected again for each command.
    pub(super) fn excuse(&mut self, latency: Duration) {
        self.patience = self.patience.max((latency * 2).min(PATIENCE_UNKNOWN));
    }

    pub(super) fn get(&self) -> Duration {
        self.patience
    }

    /// p99.5 of recent reads, once there were enough.
    pub(super) fn read_tail(&self) -> Option<Duration> {
        self.reads.tails.map(|(_, tail)| tail)
    }

    /// The path has a new session: what was measured before says little.
    pub(super) fn reset(&mut self) {
        self.reads.clear();
        self.writes.clear();
        self.patience = PATIENCE_UNKNOWN;
    }
}

/// Trust in the paths of a device, as sets.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    /// Only for reads.
    reads_only: PathSet,
    /// For reads and one write at a time.
    one_write: PathSet,
    /// Paths with a state-changing command in flight.
    writing: PathSet,
    /// Suspect paths that have answered a write since.
    answered_write: PathSet,
    writes: [u32; PATHS_PER_DEVICE_MAX],
}

impl Trust {
    pub(super) fn new() -> Trust {
        Trust {
            reads_only: PathSet::EMPTY,
            one_write: PathSet::EMPTY,
            writing: PathSet::EMPTY,
            answered_write: PathSet::EMPTY,
            writes: [0; PATHS_PER_DEVICE_MAX],
        }
    }

    /// Paths that had better not take an `op` now.
    pub(super) fn avoid(&self, op: Op) -> PathSet {
        match op {
            Op::Read => PathSet::EMPTY,
            Op::Write | Op::Other => self.reads_only.union(self.one_write.and(self.writing)),
        }
    }

    /// Paths that need an answered READ before they are offered a write.
    pub(super) fn reads_only(&self) -> PathSet {
        self.reads_only
    }

    /// Any way into or out of I/O other than from suspicion: nothing is held against the path.
    pub(super) fn clear(&mut self, path: PathIndex) {
        self.reads_only.remove(path);
        self.one_write.remove(path);
        self.answered_write.remove(path);
    }

    /// The path became active from suspicion.
    pub(super) fn recovered(&mut self, path: PathIndex) {
        let proven = self.answered_write.contains(path);
        self.clear(path);
        self.one_write.set(path, proven);
        self.reads_only.set(path, !proven);
    }

    pub(super) fn started(&mut self, path: PathIndex, op: Op) {
        if op != Op::Read {
            self.writes[path.get()] += 1;
            self.writing.insert(path);
        }
    }

    pub(super) fn finished(&mut self, path: PathIndex, op: Op, ended: Ended, suspect: bool) {
        if op != Op::Read {
            let writes = &mut self.writes[path.get()];
            assert!(*writes > 0, "path {path} finished a write that it never started");
            *writes -= 1;
            self.writing.set(path, *writes > 0);
        }
        if ended != Ended::Good {
            return;
        }
        match op {
            Op::Read if self.reads_only.contains(path) => {
                self.reads_only.remove(path);
                self.one_write.insert(path);
            }
            Op::Write if suspect => self.answered_write.insert(path),
            Op::Write => self.clear(path),
            Op::Read | Op::Other => {}
        }
    }
}

/// What a deadline depends on: how long a healthy target may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CommandClass {
    /// READ and WRITE.
    Transfer,
    /// SYNCHRONIZE CACHE, UNMAP, WRITE SAME: may be long for good reasons.
    Long,
}

/// Deadline of a command on a path, counted from its last progress: `timeout` while another path lives,
/// `last_path_timeout` on the last one, and never less than 60 s for the long ones.
#[must_use]
pub fn command_timeout(
    command: CommandClass,
    is_last: bool,
    timeout: Duration,
    last_path_timeout: Duration,
) -> Duration {
    const LONG: Duration = Duration::from_secs(60);
    let transfer = if is_last { last_path_timeout.max(timeout) } else { timeout };
    match command {
        CommandClass::Transfer => transfer,
        CommandClass::Long => transfer.max(LONG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PathIndex = PathIndex::new(0);
    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn after(latency: Duration, answers: usize) -> Patience {
        let mut p = Patience::new();
        (0..answers).for_each(|_| _ = p.record(Op::Read, latency));
        p
    }

    #[test]
    fn patience_is_eight_times_the_recent_p99_within_bounds() {
        assert_eq!(after(MS(1), 63).get(), PATIENCE_UNKNOWN);
        assert_eq!(after(MS(1), 64).get(), MS(8));
        assert_eq!(after(MS(10), 64).get(), MS(80));
        assert_eq!(after(MS(10), 100_000).get(), MS(80));
        assert_eq!(after(MS(500), 64).get(), PATIENCE_MAX);
        let mut p = after(MS(1), 1000);
        (0..1000).for_each(|_| _ = p.record(Op::Read, MS(5_000)));
        assert_eq!(p.get(), MS(8), "an outage is no service time");
    }

    #[test]
    fn a_path_that_answers_late_is_given_more_time_until_the_next_estimate() {
        let mut p = after(MS(1), 64);
        p.excuse(MS(3));
        assert_eq!(p.get(), MS(8), "no less than before");
        p.excuse(MS(30));
        assert_eq!(p.get(), MS(60));
        p.excuse(MS(900));
        assert_eq!(p.get(), PATIENCE_UNKNOWN, "but not for ever");
        (0..64).for_each(|_| _ = p.record(Op::Read, MS(1)));
        assert_eq!(p.get(), MS(8));
    }

    /// A pause of the slower kind is none of the path.
    #[test]
    fn reads_and_writes_are_measured_apart() {
        let mut p = after(MS(1), 1000);
        assert_eq!((p.get(), p.read_tail()), (MS(8), Some(Duration::from_micros(1000))));
        (0..1000).for_each(|_| _ = p.record(Op::Write, MS(20)));
        assert_eq!((p.get(), p.read_tail()), (MS(160), Some(Duration::from_micros(1000))));
        (0..1000).for_each(|_| _ = p.record(Op::Other, MS(300)));
        assert_eq!(p.get(), MS(160));
        p.reset();
        assert_eq!(p.read_tail(), None);
    }

    #[test]
    fn patience_follows_a_path_that_becomes_faster_within_two_windows() {
        let mut p = after(MS(50), 1024);
        assert_eq!(p.get(), MS(400));
        (0..1024).for_each(|_| _ = p.record(Op::Read, MS(1)));
        assert_eq!(p.get(), MS(400), "the previous window still counts");
        (0..1024).for_each(|_| _ = p.record(Op::Read, MS(1)));
        assert_eq!(p.get(), MS(8));
        p.reset();
        assert_eq!(p.get(), PATIENCE_UNKNOWN);
    }

    #[test]
    fn trust_grows_from_reads_to_one_write_to_all() {
        let mut t = Trust::new();
        t.recovered(A);
        assert!(t.avoid(Op::Write).contains(A) && t.avoid(Op::Other).contains(A));
        assert!(t.avoid(Op::Read).is_empty() && t.reads_only().contains(A));
        t.started(A, Op::Read);
        t.finished(A, Op::Read, Ended::Error, false);
        assert!(t.avoid(Op::Write).contains(A), "an error proves nothing");
        t.started(A, Op::Read);
        t.finished(A, Op::Read, Ended::Good, false);
        assert!(t.avoid(Op::Write).is_empty());
        t.started(A, Op::Write);
        assert!(t.avoid(Op::Write).contains(A), "one at a time");
        t.finished(A, Op::Write, Ended::Lost, false);
        assert!(t.avoid(Op::Write).is_empty());
        t.started(A, Op::Write);
        t.finished(A, Op::Write, Ended::Good, false);
        t.started(A, Op::Write);
        assert!(t.avoid(Op::Write).is_empty(), "fully");
    }

    #[test]
    fn a_write_answered_in_suspicion_saves_the_read() {
        let mut t = Trust::new();
        t.started(A, Op::Write);
        t.finished(A, Op::Write, Ended::Good, true);
        t.recovered(A);
        assert!(t.avoid(Op::Write).is_empty() && t.reads_only().is_empty());
        t.started(A, Op::Write);
        assert!(t.avoid(Op::Write).contains(A));
        t.clear(A);
        assert!(t.avoid(Op::Write).is_empty());
    }

    #[test]
    fn deadlines_are_longer_on_the_last_path_and_for_long_commands() {
        let (timeout, last) = (MS(2_000), MS(30_000));
        let of = |command, is_last| command_timeout(command, is_last, timeout, last);
        assert_eq!(of(CommandClass::Transfer, false), timeout);
        assert_eq!(of(CommandClass::Transfer, true), last);
        assert_eq!(of(CommandClass::Long, false), MS(60_000));
        assert_eq!(of(CommandClass::Long, true), MS(60_000));
        let never = command_timeout(CommandClass::Long, true, timeout, Duration::MAX);
        assert_eq!(never, Duration::MAX);
    }
}
