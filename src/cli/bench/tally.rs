//! What one thread of the generator counts.
//!
//! Two windows: a request belongs to the rate if its answer came inside the measured time; its latency counts
//! if it was meant to start inside it, however late the answer came. A server that hangs at the end of a run
//! therefore shows in the latencies, though not in the rate.

use super::latency::{Kind, Latencies};
use crate::wire::nbd::NbdError;

/// One second of the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Second {
    /// Answers in it.
    pub requests: u64,
    /// Longest latency among them, nanoseconds.
    pub longest: u64,
}

/// Counts of one thread, and of all of them after [`Tally::merge`].
#[derive(Debug, Clone)]
pub struct Tally {
    from: u64,
    until: u64,
    /// Latencies of requests meant to start in the measured time.
    pub latencies: Latencies,
    /// Reads answered in the measured time.
    pub reads: u64,
    /// Writes answered in the measured time.
    pub writes: u64,
    /// Requests answered at any time, ramp and end included.
    pub total: u64,
    /// Requests answered with an error at any time.
    pub errors: u64,
    /// The first of these errors.
    pub first_error: Option<NbdError>,
    /// Blocks that were compared with what they must hold.
    pub compared: u64,
    /// Blocks that held something else.
    pub wrong: u64,
    /// The block of the first of them.
    pub first_wrong: Option<u64>,
    /// Requests that were due and never answered.
    pub unanswered: u64,
    /// Longest latency since somebody set it back, nanoseconds.
    pub peak: u64,
    /// Seconds of the measured time.
    pub seconds: Vec<Second>,
}

impl Tally {
    /// Counts what is answered from `from` up to `until`, nanoseconds of the run's clock.
    ///
    /// # Panics
    /// When the window is not one.
    #[must_use]
    pub fn new(from: u64, until: u64) -> Tally {
        assert!(from < until, "a window from {from} to {until}");
        let seconds = (until - from).div_ceil(1_000_000_000) as usize;
        Tally {
            from,
            until,
            latencies: Latencies::new(),
            reads: 0,
            writes: 0,
            total: 0,
            errors: 0,
            first_error: None,
            compared: 0,
            wrong: 0,
            first_wrong: None,
            unanswered: 0,
            peak: 0,
            seconds: vec![Second::default(); seconds],
        }
    }

    /// Counts an answer that came at `now` to a request that was meant to start at `started`.
    pub fn answered(&mut self, kind: Kind, started: u64, now: u64, error: Option<NbdError>) {
        self.total += 1;
        if let Some(error) = error {
            self.errors += 1;
            self.first_error.get_or_insert(error);
            return;
        }
        let latency = now.saturating_sub(started);
        self.peak = self.peak.max(latency);
        if (self.from..self.until).contains(&started) {
            self.latencies.record(kind, latency);
        }
        if !(self.from..self.until).contains(&now) {
            return;
        }
        match kind {
            Kind::Read => self.reads += 1,
            Kind::Write => self.writes += 1,
        }
        let index = ((now - self.from) / 1_000_000_000) as usize;
        if let Some(second) = self.seconds.get_mut(index) {
            second.requests += 1;
            second.longest = second.longest.max(latency);
        }
    }

    /// Counts a comparison of `block`.
    pub fn compared(&mut self, block: u64, right: bool) {
        self.compared += 1;
        if !right {
            self.wrong += 1;
            self.first_wrong.get_or_insert(block);
        }
    }

    /// Adds another thread's of the same time.
    pub fn merge(&mut self, other: &Tally) {
        self.add(other);
        for (mine, theirs) in self.seconds.iter_mut().zip(&other.seconds) {
            mine.requests += theirs.requests;
            mine.longest = mine.longest.max(theirs.longest);
        }
    }

    /// Adds what was counted afterwards.
    pub fn append(&mut self, later: &Tally) {
        self.add(later);
        self.seconds.extend(&later.seconds);
    }

    fn add(&mut self, other: &Tally) {
        self.latencies.merge(&other.latencies);
        self.reads += other.reads;
        self.writes += other.writes;
        self.total += other.total;
        self.errors += other.errors;
        self.first_error = self.first_error.or(other.first_error);
        self.compared += other.compared;
        self.wrong += other.wrong;
        self.first_wrong = self.first_wrong.or(other.first_wrong);
        self.unanswered += other.unanswered;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn rate_and_latency_have_their_windows() {
        let mut tally = Tally::new(S, 3 * S);
        tally.answered(Kind::Read, 0, S / 2, None); // ramp
        tally.answered(Kind::Read, S / 2, S, None); // begun in the ramp: rate only
        tally.answered(Kind::Write, S, 2 * S, None);
        tally.answered(Kind::Read, 2 * S, 9 * S, None); // late: latency only
        tally.answered(Kind::Read, 3 * S, 4 * S, None); // read back
        tally.answered(Kind::Read, S, 2 * S, Some(NbdError::Io));
        assert_eq!((tally.reads, tally.writes, tally.total, tally.errors), (1, 1, 6, 1));
        assert_eq!(tally.latencies.of(Kind::Read).len(), 1);
        assert!(tally.latencies.of(Kind::Read).max() >= 7 * S);
        let seconds: Vec<u64> = tally.seconds.iter().map(|second| second.requests).collect();
        assert_eq!(seconds, [1, 1]);
        assert_eq!((tally.seconds[1].longest, tally.first_error), (S, Some(NbdError::Io)));
        let mut both = tally.clone();
        both.merge(&tally);
        assert_eq!((both.reads, both.errors, both.seconds[0].requests), (2, 2, 2));
        tally.append(&both);
        assert_eq!((tally.reads, tally.errors), (3, 3));
        let seconds: Vec<u64> = tally.seconds.iter().map(|second| second.requests).collect();
        assert_eq!(seconds, [1, 1, 2, 2]);
    }
}
