//! A latency histogram: HDR (log-linear buckets) in microseconds, fixed memory, merged by addition.
//!
//! Mental model: two significant decimal digits are kept, so that a percentile is never below the true
//! value and at most 1/128 above it. Values beyond [`Histogram::RANGE_MAX`] fall into the last bucket; the
//! maximum itself is kept exactly.
//!
//! Recording is an index computation and some additions: no allocation, no clock, no lock.
//! Deliberately not here: windows over time (who owns the histogram clears it) and text.

use crate::base::Duration;
use hdrhistogram::Histogram as Hdr;

/// Significant decimal digits that are kept.
const DIGITS: u8 = 2;

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

/// Counts of latencies by size; about 20 KiB, allocated once.
#[derive(Clone, PartialEq)]
pub struct Histogram {
    counts: Hdr<u64>,
    max: u64,
}

impl Histogram {
    /// Values above this many microseconds (100 s) are counted in the last bucket.
    pub const RANGE_MAX: u64 = 100_000_000;

    /// An empty histogram.
    #[must_use]
    pub fn new() -> Histogram {
        let counts = Hdr::new_with_bounds(1, Histogram::RANGE_MAX, DIGITS);
        Histogram { counts: counts.expect("the bounds are constants that fit"), max: 0 }
    }

    /// Counts one latency.
    pub fn record(&mut self, latency: Duration) {
        let micros = latency.as_secs().saturating_mul(1_000_000);
        self.record_micros(micros.saturating_add(u64::from(latency.subsec_micros())));
    }

    /// Counts one latency given in microseconds.
    pub fn record_micros(&mut self, micros: u64) {
        self.counts.saturating_record(micros.min(Histogram::RANGE_MAX));
        self.max = self.max.max(micros);
    }

    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.len()
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
        let wanted = u128::from(self.count()) * u128::from(per_mille);
        let rank = wanted.div_ceil(1000).max(1);
        let mut seen = 0u128;
        for step in self.counts.iter_recorded() {
            seen += u128::from(step.count_at_value());
            if seen >= rank {
                let value = step.value_iterated_to();
                let last = value >= self.counts.lowest_equivalent(Histogram::RANGE_MAX);
                let bound = self.counts.highest_equivalent(value);
                return if last { self.max } else { bound.min(self.max) };
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
        self.counts.add(&other.counts).expect("all histograms have the same bounds");
        self.max = self.max.max(other.max);
    }

    /// Forgets everything; keeps the memory.
    pub fn clear(&mut self) {
        self.counts.reset();
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
        write!(f, "Histogram({} values, {:?})", self.count(), self.percentiles())
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
        /// Against sorting: never below the true percentile, at most 1/128 above.
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
            prop_assert!(got >= truth && got <= truth + truth / 128, "{got} for {truth}");
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
