//! Counters and latency histograms as plain data.
//!
//! Mental model: whoever does the work owns a plain struct and adds to it; who wants a sum over lanes,
//! paths or devices merges copies. Deliberately not here: global registries, locks, names, output.

mod histogram;

pub use histogram::{Histogram, Percentiles};

use crate::base::Duration;

/// What a command does to the medium, as far as statistics and path choice care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Reads data.
    Read,
    /// Writes data.
    Write,
    /// Everything else: flush, trim, zeroing without data, probes.
    Other,
}

impl Op {
    /// Every kind.
    pub const ALL: [Op; 3] = [Op::Read, Op::Write, Op::Other];
}

/// How a command ended, as far as statistics care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ended {
    /// With success.
    Good,
    /// With an answer that is not success.
    Error,
    /// Without an answer: given up, or the session went away. Not a latency of anything.
    Lost,
}

/// Counters of one path or one device; mergeable.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IoStats {
    /// READs that ended with success.
    pub reads: u64,
    /// WRITEs that ended with success.
    pub writes: u64,
    /// Other commands that ended with success.
    pub others: u64,
    /// Bytes of these READs.
    pub read_bytes: u64,
    /// Bytes of these WRITEs.
    pub written_bytes: u64,
    /// Commands that ended otherwise.
    pub errors: u64,
    /// Latency of READs that were answered, whatever the answer.
    pub read_latency: Histogram,
    /// Latency of WRITEs that were answered, whatever the answer.
    pub write_latency: Histogram,
}

impl IoStats {
    /// All zero; allocates its histograms.
    #[must_use]
    pub fn new() -> IoStats {
        IoStats::default()
    }

    /// Whether nothing was counted yet.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.reads + self.writes + self.others + self.errors == 0
    }

    /// Counts the end of one command of `bytes` bytes that took `latency`.
    pub fn record(&mut self, op: Op, bytes: u32, latency: Duration, ended: Ended) {
        match (op, ended) {
            (Op::Read, Ended::Good) => {
                self.reads += 1;
                self.read_bytes += u64::from(bytes);
            }
            (Op::Write, Ended::Good) => {
                self.writes += 1;
                self.written_bytes += u64::from(bytes);
            }
            (Op::Other, Ended::Good) => self.others += 1,
            (Op::Read | Op::Write | Op::Other, Ended::Error | Ended::Lost) => self.errors += 1,
        }
        match (op, ended) {
            (Op::Read, Ended::Good | Ended::Error) => self.read_latency.record(latency),
            (Op::Write, Ended::Good | Ended::Error) => self.write_latency.record(latency),
            (Op::Other, _) | (_, Ended::Lost) => {}
        }
    }

    /// Adds everything that `other` counted.
    pub fn merge(&mut self, other: &IoStats) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.others += other.others;
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
        self.errors += other.errors;
        self.read_latency.merge(&other.read_latency);
        self.write_latency.merge(&other.write_latency);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_counts_once() {
        let mut stats = IoStats::new();
        let ms = Duration::from_millis;
        stats.record(Op::Read, 4096, ms(1), Ended::Good);
        stats.record(Op::Write, 512, ms(2), Ended::Good);
        stats.record(Op::Other, 0, ms(3), Ended::Good);
        stats.record(Op::Read, 4096, ms(4), Ended::Error);
        stats.record(Op::Write, 4096, ms(5), Ended::Lost);
        assert_eq!((stats.reads, stats.writes, stats.others, stats.errors), (1, 1, 1, 2));
        assert_eq!((stats.read_bytes, stats.written_bytes), (4096, 512));
        assert_eq!((stats.read_latency.count(), stats.read_latency.max()), (2, 4000));
        assert_eq!((stats.write_latency.count(), stats.write_latency.max()), (1, 2000));
    }

    #[test]
    fn merging_adds() {
        let mut a = IoStats::new();
        a.record(Op::Read, 1, Duration::from_micros(5), Ended::Good);
        let mut b = a.clone();
        b.merge(&a);
        a.record(Op::Read, 1, Duration::from_micros(5), Ended::Good);
        assert_eq!(a, b);
    }
}
