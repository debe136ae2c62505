//! A latency histogram: log-linear buckets in microseconds, fixed memory, merged by addition.
//!
//! Mental model: values below 64 us are exact; above, each power of two is cut into 32 equal buckets, so
//! that a percentile is never below the true value and at most 1/32 (3.1 %) above it. Values beyond
//! [`Histogram::RANGE_MAX`] fall into the last bucket; the maximum itself is kept exactly.
//!
//! Recording is an index computation and three additions: no allocation, no clock, no lock.
//! Deliberately not here: windows over time (who owns the histogram clears it) and text.

use crate::base::Duration;

/// Bits of a value that are kept: 2^5 buckets per power of two.
const SUB_BITS: u32 = 5;

/// Index of the bucket that holds `micros`.
const fn bucket(micros: u64) -> usize {
    let msb = 63 - (micros | 1).leading_zeros();
    let shift = msb.saturating_sub(SUB_BITS);
    ((shift as usize) << SUB_BITS) + (micros >> shift) as usize
}

/// Largest value, microseconds, that falls into bucket `index`.
const fn upper_bound(index: usize) -> u64 {
    let linear = 2 << SUB_BITS;
    if index < linear {
        return index as u64;
    }
    let shift = (index >> SUB_BITS) - 1;
    let lead = (index - (shift << SUB_BITS)) as u64;
    ((lead + 1) << shift) - 1
}

const BUCKETS: usize = bucket(Histogram::RANGE_MAX) + 1;

const _: () = assert!(bucket(0) == 0 && bucket(63) == 63 && bucket(64) == 64);
const _: () = assert!(upper_bound(BUCKETS - 1) >= Histogram::RANGE_MAX);
const _: () = assert!(BUCKETS == 720);

/// Percentiles of a [`Histogram`], microseconds; all zero when nothing was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Percentiles {
    /// Half of the values are not above this.
    pub p50: u64,
    /// 99 % of the values are not above this.
    pub p99: u64,
    /// 99.9 % of the values are not above this.
    pub p999: u64,
    /// The largest value, exact.
    pub max: u64,
}

/// Counts of latencies by size; 6 KiB, allocated once.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    count: u64,
    max: u64,
}

impl Histogram {
    /// Values above this many microseconds (100 s) are counted in the last bucket.
    pub const RANGE_MAX: u64 = 100_000_000;

    /// An empty histogram.
    #[must_use]
    pub fn new() -> Histogram {
        Histogram { counts: Box::new([0; BUCKETS]), count: 0, max: 0 }
    }

    /// Counts one latency.
    pub fn record(&mut self, latency: Duration) {
        let micros = latency.as_secs().saturating_mul(1_000_000);
        self.record_micros(micros.saturating_add(u64::from(latency.subsec_micros())));
    }

    /// Counts one latency given in microseconds.
    pub fn record_micros(&mut self, micros: u64) {
        self.counts[bucket(micros.min(Histogram::RANGE_MAX))] += 1;
        self.count += 1;
        self.max = self.max.max(micros);
    }

    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest value, microseconds, exact; 0 when empty.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Smallest bucket bound, microseconds, that at least `per_mille` thousandths of the values do not
    /// exceed; 0 when empty.
    ///
    /// # Panics
    /// When `per_mille` is above 1000.
    #[must_use]
    pub fn quantile(&self, per_mille: u32) -> u64 {
        assert!(per_mille <= 1000, "a quantile of {per_mille} thousandths");
        let wanted = u128::from(self.count) * u128::from(per_mille);
        let rank = wanted.div_ceil(1000).max(1);
        let mut seen = 0u128;
        for (index, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                let last = index == BUCKETS - 1;
                return if last { self.max } else { upper_bound(index).min(self.max) };
            }
        }
        0
    }

    /// The percentiles that `status` shows.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        Percentiles {
            p50: self.quantile(500),
            p99: self.quantile(990),
            p999: self.quantile(999),
            max: self.max,
        }
    }

    /// Adds everything that `other` counted.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts.iter()) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// Forgets everything; keeps the memory.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.count = 0;
        self.max = 0;
    }
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram::new()
    }
}

impl core::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Histogram({} values, {:?})", self.count, self.percentiles())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn empty_is_all_zero() {
        assert_eq!(Histogram::new().percentiles(), Percentiles::default());
    }

    #[test]
    fn small_values_are_exact() {
        let mut h = Histogram::new();
        for micros in 0..64 {
            h.record(Duration::from_micros(micros));
        }
        assert_eq!(h.percentiles(), Percentiles { p50: 31, p99: 63, p999: 63, max: 63 });
    }

    #[test]
    fn the_largest_value_survives_the_range() {
        let mut h = Histogram::new();
        h.record(Duration::MAX);
        h.record(Duration::from_secs(100));
        assert_eq!(h.max(), u64::MAX);
        assert_eq!(h.quantile(1000), u64::MAX);
        assert_eq!(h.count(), 2);
    }

    #[test]
    fn buckets_meet_without_gap_or_overlap() {
        for index in 1..BUCKETS {
            let first = upper_bound(index - 1) + 1;
            assert_eq!(bucket(first), index, "first value {first}");
            assert_eq!(bucket(upper_bound(index)), index);
            assert!(upper_bound(index) - first <= first / 32);
        }
    }

    #[test]
    fn clear_forgets_all() {
        let mut h = Histogram::new();
        h.record_micros(7);
        h.clear();
        assert_eq!(h, Histogram::new());
    }

    fn micros() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..200, 0u64..100_000, 0u64..=Histogram::RANGE_MAX]
    }

    proptest! {
        /// Against sorting: never below the true percentile, at most 1/32 above.
        #[test]
        fn percentiles_are_close_to_the_truth(
            mut values in prop::collection::vec(micros(), 1..400), per_mille in 0u32..=1000,
        ) {
            let mut h = Histogram::new();
            values.iter().for_each(|v| h.record_micros(*v));
            values.sort_unstable();
            let rank = (values.len() * per_mille as usize).div_ceil(1000).max(1);
            let truth = values[rank - 1];
            let got = h.quantile(per_mille);
            prop_assert!(got >= truth && got <= truth + truth / 32, "{got} for {truth}");
            prop_assert_eq!(h.max(), *values.last().expect("not empty"));
        }

        #[test]
        fn merging_equals_recording_in_one(
            a in prop::collection::vec(micros(), 0..50), b in prop::collection::vec(micros(), 0..50),
        ) {
            let (mut one, mut left, mut right) = <(Histogram, Histogram, Histogram)>::default();
            a.iter().for_each(|v| { one.record_micros(*v); left.record_micros(*v) });
            b.iter().for_each(|v| { one.record_micros(*v); right.record_micros(*v) });
            left.merge(&right);
            prop_assert_eq!(left, one);
        }
    }
}
