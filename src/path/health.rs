//! How long a path may owe an answer, and how far one that came back from suspicion is trusted.
//!
//! * [`Patience`]: a path is suspect when nothing has moved for 8 x its recent p99 while commands are
//!   outstanding, but not before `suspect_after` (20 ms). "Recent" is the last two thousand answers, but for
//!   the slowest moments among them.
//! * [`Trust`]: a path that was suspect is active for reads first, then for one write at a time, then
//!   fully. These are preferences: with no other path it carries everything.
//! * [`command_timeout`]: the deadline of a command on a path, from its last progress.
//!
//! Deliberately not here: clocks and timers (volume), silence of a session (session).

use super::{Ended, Op, PathIndex, PathSet};
use crate::base::Duration;
use crate::limits::PATHS_PER_DEVICE_MAX;

/// Patience with a path of which too little is known.
const PATIENCE_UNKNOWN: Duration = Duration::from_millis(250);
/// Never more patient than this: the deadline of a command is 2 s by default. An answer that took longer
/// tells of an outage and not of what the path needs.
const PATIENCE_MAX: Duration = Duration::from_secs(1);
/// Patience in multiples of the recent p99.
const PATIENCE_FACTOR: u32 = 8;
/// Answers before the first estimate.
const ANSWERS_FIRST: u32 = 64;
/// Answers of a batch: its third slowest is its p99, its second slowest its p99.5.
const BATCH: u32 = 256;
/// Batches that are remembered.
const BATCHES: usize = 8;

/// Estimates how long an answer of one path may take: reads and writes apart, since a path that is slow to
/// write owes its reads no later. Recording costs a comparison.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    reads: Window,
    writes: Window,
}

/// The last answers to commands of one kind.
///
/// Where everything stands still for a moment (a paused machine, a burst on the wire), whatever is in flight
/// answers late together. That is one event, and fills a batch or two, however many commands it hit: so the
/// slowest quarter of the batches is left out.
#[derive(Debug, Clone)]
struct Window {
    /// Answers of the present batch, and the slowest of them, the slowest first.
    count: u32,
    slowest: [Duration; 3],
    /// p99 and p99.5 of the last batches, in a ring.
    batches: [(Duration, Duration); BATCHES],
    known: usize,
    next: usize,
    /// p99 and p99.5, once known.
    tails: Option<(Duration, Duration)>,
    /// What it took a suspect path to answer after all, twice; and for how many more batches that counts.
    excuse: (Duration, usize),
}

impl Window {
    const NEW: Window = Window {
        count: 0,
        slowest: [Duration::ZERO; 3],
        batches: [(Duration::ZERO, Duration::ZERO); BATCHES],
        known: 0,
        next: 0,
        tails: None,
        excuse: (Duration::ZERO, 0),
    };

    /// Returns whether there is a new estimate.
    fn record(&mut self, latency: Duration) -> bool {
        self.count += 1;
        if latency > self.slowest[2] {
            let [first, second, _] = self.slowest;
            self.slowest = match () {
                () if latency > first => [latency, first, second],
                () if latency > second => [first, latency, second],
                () => [first, second, latency],
            };
        }
        if self.count == BATCH {
            self.close();
            return true;
        }
        let first = self.tails.is_none() && self.count == ANSWERS_FIRST;
        if first {
            self.tails = Some((self.slowest[0], self.slowest[0]));
        }
        first
    }

    /// A batch is full.
    #[cold]
    fn close(&mut self) {
        let [_, second, third] = self.slowest;
        self.batches[self.next] = (third, second);
        self.next = (self.next + 1) % BATCHES;
        self.known = (self.known + 1).min(BATCHES);
        (self.count, self.slowest) = (0, [Duration::ZERO; 3]);
        self.excuse.1 = self.excuse.1.saturating_sub(1);
        let but_the_slowest = |of: fn(&(Duration, Duration)) -> Duration| {
            let mut all = [Duration::ZERO; BATCHES];
            let all = &mut all[..self.known];
            all.iter_mut().zip(&self.batches).for_each(|(tail, batch)| *tail = of(batch));
            all.sort_unstable();
            all[self.known - 1 - self.known / 4]
        };
        self.tails = Some((but_the_slowest(|batch| batch.0), but_the_slowest(|batch| batch.1)));
    }

    fn excuse(&mut self, latency: Duration) {
        self.excuse = (self.excused().max((latency * 2).min(PATIENCE_UNKNOWN)), BATCHES);
    }

    /// What an excuse is good for now.
    fn excused(&self) -> Duration {
        if self.excuse.1 > 0 { self.excuse.0 } else { Duration::ZERO }
    }

    fn patience(&self) -> Option<Duration> {
        let (p99, _) = self.tails?;
        Some(p99.saturating_mul(PATIENCE_FACTOR).min(PATIENCE_MAX))
    }
}

impl Patience {
    pub(super) fn new() -> Patience {
        Patience { reads: Window::NEW, writes: Window::NEW }
    }

    fn window(&mut self, op: Op) -> Option<&mut Window> {
        match op {
            Op::Read => Some(&mut self.reads),
            Op::Write => Some(&mut self.writes),
            Op::Other => None,
        }
    }

    /// Returns whether [`Patience::read_tail`] may have changed.
    pub(super) fn record(&mut self, op: Op, latency: Duration) -> bool {
        if latency >= PATIENCE_MAX {
            return false;
        }
        let estimated = self.window(op).is_some_and(|window| window.record(latency));
        estimated && op == Op::Read
    }

    /// A suspect path has answered after all: for the next two thousand answers it is given twice that time, so
    /// that a path that has become slower is not suspected again for each command.
    pub(super) fn excuse(&mut self, op: Op, latency: Duration) {
        if let Some(window) = self.window(op) {
            window.excuse(latency);
        }
    }

    /// How long a path that owes answers to an `op` may be still.
    pub(super) fn of(&self, op: Op) -> Duration {
        let (own, other) = match op {
            Op::Read => (&self.reads, &self.writes),
            Op::Write | Op::Other => (&self.writes, &self.reads),
        };
        let known = own.patience().or(other.patience());
        known.unwrap_or(PATIENCE_UNKNOWN).max(own.excused())
    }

    /// p99.5 of recent reads, once there were enough.
    pub(super) fn read_tail(&self) -> Option<Duration> {
        self.reads.tails.map(|(_, tail)| tail)
    }

    /// The path has a new session: what was measured before says little.
    pub(super) fn reset(&mut self) {
        *self = Patience::new();
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

    fn record(p: &mut Patience, op: Op, latency: Duration, answers: u32) {
        (0..answers).for_each(|_| _ = p.record(op, latency));
    }

    fn after(latency: Duration, answers: u32) -> Patience {
        let mut p = Patience::new();
        record(&mut p, Op::Read, latency, answers);
        p
    }

    #[test]
    fn patience_is_eight_times_the_recent_p99_within_bounds() {
        let read = |p: &Patience| p.of(Op::Read);
        assert_eq!(read(&after(MS(1), 63)), PATIENCE_UNKNOWN);
        assert_eq!(read(&after(MS(1), 64)), MS(8));
        assert_eq!(read(&after(MS(10), 64)), MS(80));
        assert_eq!(read(&after(MS(10), 100_000)), MS(80));
        assert_eq!(read(&after(MS(500), 64)), PATIENCE_MAX);
        let mut p = after(MS(1), 1000);
        record(&mut p, Op::Read, MS(5_000), 1000);
        assert_eq!(read(&p), MS(8), "an outage is no service time");
    }

    /// Everything in flight was late at once, whyever, now and then: that is not what the path needs.
    #[test]
    fn moments_in_which_everything_stood_still_do_not_count() {
        let mut p = after(MS(1), 2048);
        for stall in 0..40 {
            record(&mut p, Op::Read, MS(150), 32);
            let patience = p.of(Op::Read);
            assert_eq!(patience, MS(8), "after {} stalls", stall + 1);
            record(&mut p, Op::Read, MS(1), 2016);
        }
    }

    /// An honest disk: most answers in 8 ms, one in 64 in 200 ms. It is not suspected for what it always does.
    #[test]
    fn storage_that_is_often_slow_is_given_its_time() {
        let mut p = Patience::new();
        for n in 0..10_000u32 {
            // No two batches alike.
            let late = n.wrapping_mul(0x9e37_79b9) >> 26 == 0;
            let _ = p.record(Op::Read, if late { MS(200) } else { MS(8) });
            if n > 200 {
                assert!(p.of(Op::Read) > MS(600), "{n}: {:?}", p.of(Op::Read));
            }
        }
    }

    #[test]
    fn the_tails_are_those_of_the_batches_but_the_slowest() {
        let mut p = Patience::new();
        let mixed = |n: u64| 1 + n * 37 % 256;
        (0..256).for_each(|n| _ = p.record(Op::Read, MS(mixed(n))));
        assert_eq!(p.reads.tails, Some((MS(254), MS(255))));
        record(&mut p, Op::Read, MS(1), 256);
        assert_eq!(p.reads.tails, Some((MS(254), MS(255))), "two batches: the slower one");
        record(&mut p, Op::Read, MS(2), 512);
        assert_eq!(p.reads.tails, Some((MS(2), MS(2))), "four: but for the slowest");
    }

    #[test]
    fn a_path_that_answers_late_is_given_more_time_for_a_while() {
        let mut p = after(MS(1), 2048);
        p.excuse(Op::Read, MS(3));
        assert_eq!(p.of(Op::Read), MS(8), "no less than before");
        p.excuse(Op::Read, MS(30));
        assert_eq!((p.of(Op::Read), p.of(Op::Write)), (MS(60), MS(8)));
        p.excuse(Op::Read, MS(900));
        assert_eq!(p.of(Op::Read), PATIENCE_UNKNOWN, "but not for ever");
        record(&mut p, Op::Read, MS(1), 2047);
        assert_eq!(p.of(Op::Read), PATIENCE_UNKNOWN);
        record(&mut p, Op::Read, MS(1), 1);
        assert_eq!(p.of(Op::Read), MS(8));
    }

    #[test]
    fn reads_and_writes_are_measured_apart() {
        let mut p = after(MS(1), 1000);
        let of = |p: &Patience| (p.of(Op::Read), p.of(Op::Write), p.read_tail());
        assert_eq!(of(&p), (MS(8), MS(8), Some(MS(1))), "nothing better is known of writes");
        p.excuse(Op::Write, MS(15));
        assert_eq!(of(&p), (MS(8), MS(30), Some(MS(1))));
        record(&mut p, Op::Write, MS(20), 1000);
        assert_eq!(of(&p), (MS(8), MS(160), Some(MS(1))));
        record(&mut p, Op::Other, MS(300), 1000);
        assert_eq!(of(&p), (MS(8), MS(160), Some(MS(1))));
        p.reset();
        assert_eq!(of(&p), (PATIENCE_UNKNOWN, PATIENCE_UNKNOWN, None));
    }

    #[test]
    fn patience_follows_a_path_that_becomes_faster_or_slower() {
        let mut p = after(MS(50), 2048);
        record(&mut p, Op::Read, MS(1), 1280);
        assert_eq!(p.of(Op::Read), MS(400), "three of the last eight batches were slow");
        record(&mut p, Op::Read, MS(1), 256);
        assert_eq!(p.of(Op::Read), MS(8));
        record(&mut p, Op::Read, MS(20), 512);
        assert_eq!(p.of(Op::Read), MS(8), "a moment");
        record(&mut p, Op::Read, MS(20), 256);
        assert_eq!(p.of(Op::Read), MS(160));
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
