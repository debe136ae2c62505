//! Latencies of one run: HDR histograms in nanoseconds, three significant digits, reads and writes apart.
//!
//! `stats` keeps microseconds and two digits, for every path of a daemon, for ever; a benchmark has a
//! handful of these, and its reader looks at the fourth nine.

use hdrhistogram::Histogram;

/// Significant decimal digits that are kept.
const DIGITS: u8 = 3;
/// Longer latencies count as this: ten minutes, in nanoseconds.
const RANGE_MAX: u64 = 600_000_000_000;
/// What is shown, in order: quantile, its name for people, its name in JSON.
pub const SHOWN: [(f64, &str, &str); 5] = [
    (0.5, "p50", "p50"),
    (0.9, "p90", "p90"),
    (0.99, "p99", "p99"),
    (0.999, "p99.9", "p999"),
    (0.9999, "p99.99", "p9999"),
];

/// What a request does, as far as latencies are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// NBD_CMD_READ.
    Read,
    /// NBD_CMD_WRITE.
    Write,
}

/// Latencies of reads and of writes.
#[derive(Debug, Clone)]
pub struct Latencies {
    read: Histogram<u64>,
    write: Histogram<u64>,
}

impl Latencies {
    /// Empty; this is where the memory is taken.
    #[must_use]
    pub fn new() -> Latencies {
        let one = || {
            Histogram::new_with_bounds(1, RANGE_MAX, DIGITS)
                .expect("the bounds are constants that fit")
        };
        Latencies { read: one(), write: one() }
    }

    /// Counts one latency, nanoseconds.
    pub fn record(&mut self, kind: Kind, nanos: u64) {
        let histogram = match kind {
            Kind::Read => &mut self.read,
            Kind::Write => &mut self.write,
        };
        histogram.saturating_record(nanos.min(RANGE_MAX));
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Latencies) {
        self.read.add(&other.read).expect("all histograms have the same bounds");
        self.write.add(&other.write).expect("all histograms have the same bounds");
    }

    /// Of one kind only.
    #[must_use]
    pub fn of(&self, kind: Kind) -> &Histogram<u64> {
        match kind {
            Kind::Read => &self.read,
            Kind::Write => &self.write,
        }
    }

    /// Reads and writes together.
    #[must_use]
    pub fn all(&self) -> Histogram<u64> {
        let mut all = self.read.clone();
        all.add(&self.write).expect("all histograms have the same bounds");
        all
    }
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_apart_and_together() {
        let mut a = Latencies::new();
        (1..=100).for_each(|n| a.record(Kind::Read, n * 1000));
        let mut b = Latencies::new();
        b.record(Kind::Write, 5_000_000);
        b.record(Kind::Write, u64::MAX);
        a.merge(&b);
        assert_eq!((a.of(Kind::Read).len(), a.of(Kind::Write).len(), a.all().len()), (100, 2, 102));
        let half = a.of(Kind::Read).value_at_quantile(0.5);
        assert!((50_000..50_100).contains(&half), "{half}");
        assert!(a.all().max() >= RANGE_MAX);
    }
}
