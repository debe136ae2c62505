//! A filter in front of the exact search: counters over the address space of the device, many addresses
//! to one counter. All counters of a range at zero proves that nothing in the ledger overlaps it.
//!
//! Mental model: blocks are grouped to granules of 4 KiB (one block where blocks are larger); 32
//! neighbouring granules share a cache line of counters, and lines are spread by a hash. A range of more
//! than [`WIDE`] granules is counted apart, and while one is there every question is answered "maybe".

use super::BlockRange;
use crate::limits::LEDGER_TICKETS_MAX;

/// Neighbouring granules in one line of counters.
const LINE_BITS: u32 = 5;
/// Lines: 256 of 64 bytes.
const LINES_BITS: u32 = 8;
const COUNTERS: usize = 1 << (LINE_BITS + LINES_BITS);
/// Most granules that are counted one by one (2 MiB).
const WIDE: u64 = 512;
/// Bytes that share a counter.
const GRANULE_BYTES: u32 = 4096;

const _: () = assert!(LEDGER_TICKETS_MAX * 2 <= u16::MAX as usize, "a counter could overflow");
const _: () = assert!(WIDE < COUNTERS as u64);

#[derive(Debug)]
pub(super) struct Stripes {
    counters: Box<[u16; COUNTERS]>,
    /// Blocks per granule, as a shift.
    shift: u32,
    /// Ranges of more than `WIDE` granules.
    wide: u32,
    /// Ranges in all.
    ranges: u32,
}

impl Stripes {
    pub(super) fn new(block_size: u32) -> Stripes {
        assert!(block_size.is_power_of_two(), "blocks of {block_size} bytes");
        let shift = (GRANULE_BYTES / block_size).max(1).trailing_zeros();
        Stripes { counters: Box::new([0; COUNTERS]), shift, wide: 0, ranges: 0 }
    }

    /// Whether a range that was added, and not removed, may overlap `range`. `false` is certain.
    pub(super) fn may_overlap(&self, range: BlockRange) -> bool {
        if self.ranges == 0 {
            return false;
        }
        match self.granules(range) {
            Some(granules) if self.wide == 0 => {
                granules.into_iter().any(|granule| self.counters[index(granule)] != 0)
            }
            Some(_) | None => true,
        }
    }

    pub(super) fn add(&mut self, range: BlockRange) {
        self.ranges += 1;
        match self.granules(range) {
            Some(granules) => granules.for_each(|granule| self.counters[index(granule)] += 1),
            None => self.wide += 1,
        }
    }

    pub(super) fn remove(&mut self, range: BlockRange) {
        assert!(self.ranges > 0, "a range was removed that was never added");
        self.ranges -= 1;
        match self.granules(range) {
            Some(granules) => granules.for_each(|granule| {
                let counter = &mut self.counters[index(granule)];
                assert!(*counter > 0, "a granule was removed that was never added");
                *counter -= 1;
            }),
            None => self.wide -= 1,
        }
    }

    /// The granules of a range that is not wide.
    fn granules(&self, range: BlockRange) -> Option<core::ops::RangeInclusive<u64>> {
        let (first, last) = (range.start() >> self.shift, range.last() >> self.shift);
        (last - first < WIDE).then_some(first..=last)
    }

    #[cfg(test)]
    pub(super) fn is_clear(&self) -> bool {
        self.ranges == 0 && self.wide == 0 && self.counters.iter().all(|counter| *counter == 0)
    }
}

/// Neighbours stay together, lines are spread (Fibonacci hashing).
fn index(granule: u64) -> usize {
    let line = (granule >> LINE_BITS).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - LINES_BITS);
    ((line << LINE_BITS) | (granule & ((1 << LINE_BITS) - 1))) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges() -> impl Strategy<Value = BlockRange> {
        let start = prop_oneof![0u64..200, 0u64..1 << 40, (u64::MAX - 10_000)..u64::MAX];
        (start, prop_oneof![1u64..20, 1u64..6000])
            .prop_filter_map("wraps", |(start, blocks)| BlockRange::new(start, blocks))
    }

    proptest! {
        #[test]
        fn no_overlap_is_ever_missed_and_all_is_undone(
            added in prop::collection::vec(ranges(), 0..30),
            asked in ranges(),
            block_size in prop_oneof![Just(512u32), Just(4096), Just(65_536)],
        ) {
            let mut stripes = Stripes::new(block_size);
            added.iter().for_each(|range| stripes.add(*range));
            let overlaps = added.iter().any(|range| range.overlaps(asked));
            prop_assert!(!overlaps || stripes.may_overlap(asked));
            added.iter().for_each(|range| stripes.remove(*range));
            prop_assert!(stripes.is_clear() && !stripes.may_overlap(asked));
        }
    }

    #[test]
    fn small_scattered_ranges_seldom_meet() {
        let mut stripes = Stripes::new(512);
        let at = |n: u64| BlockRange::new((n * 0x9e37_79b9) % (1 << 31), 8).expect("a range");
        let meets = (0..128).filter(|n| {
            let meets = stripes.may_overlap(at(*n));
            stripes.add(at(*n));
            meets
        });
        assert!(meets.count() <= 8, "the filter is of no use");
    }
}
