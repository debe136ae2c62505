//! The content probe: do two paths show the same data?
//!
//! Equal names prove little (every default `tgtd` reports the same ones), so before a second path carries
//! I/O the same extents are read over a path in service (the reference) and over the candidate. The
//! administrator has said that the paths belong together; this only ever refuses.
//!
//! | what is found | what follows |
//! |---|---|
//! | every sample equal, at least one of them not constant | the same unit |
//! | a sample that stays different for [`LASTING`] while the reference's copy stands still | another unit |
//! | everything equal and constant (a blank unit) | nothing is proven: wait for a block that a client writes |
//!
//! A client may write between two reads: a difference counts only when it lasts. What cannot be told apart
//! this way are copies of one image; a reservation key could.
//!
//! Deliberately not here: who reads, and when (`volume::content`).

use crate::base::{Duration, Instant};
use std::collections::VecDeque;

/// Bytes of one sample, where the block size is not larger.
const SAMPLE_BYTES: u32 = 4096;
/// Samples at the start and at the end of the unit, each.
const ENDS: u64 = 4;
/// Samples in between.
const BETWEEN: u64 = 24;
/// The same for a path that has been found to be the same unit before.
const BETWEEN_AGAIN: u64 = 4;
/// A difference is looked at again after this.
const PAUSE: Duration = Duration::from_millis(200);
/// A difference that stands for so long is one.
pub const LASTING: Duration = Duration::from_secs(2);
/// A sample that the clients write all the time is left out after so many looks.
const LOOKS_MAX: u32 = 50;
/// Blocks written meanwhile that are remembered as samples.
pub const WRITTEN_MAX: usize = 8;

/// Which of the two copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// Over a path in service.
    Reference,
    /// Over the path in question.
    Candidate,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Read this extent and hand the data to [`Probe::handle`].
    Read {
        /// Over which path.
        copy: Copy,
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u32,
    },
    /// Ask again at this time.
    Wait(Instant),
    /// Everything is constant and equal: ask again after [`Probe::written`].
    Blank,
    /// The same unit.
    Same,
    /// Another unit: this block differs.
    Differs(u64),
}

/// An extent that is being compared.
#[derive(Debug)]
struct Sample {
    lba: u64,
    looks: u32,
    /// Since when both copies have stood still and differed.
    differs_since: Option<Instant>,
    /// The copies of the look before.
    before: Option<(Vec<u8>, Vec<u8>)>,
    reference: Option<Vec<u8>>,
}

/// The comparison of one candidate.
#[derive(Debug)]
pub struct Probe {
    blocks: u64,
    per_sample: u32,
    todo: VecDeque<u64>,
    current: Option<Sample>,
    not_before: Option<Instant>,
    /// An equal sample that is not constant was seen.
    proven: bool,
    verdict: Option<Step>,
}

impl Probe {
    /// For a unit of `blocks` blocks of `block_size` bytes. `known`: this path was found to be the same unit
    /// before, so equal but constant content is enough.
    ///
    /// # Panics
    /// Without blocks.
    #[must_use]
    pub fn new(blocks: u64, block_size: u32, known: bool) -> Probe {
        assert!(blocks > 0 && block_size > 0, "a unit has blocks");
        let per_sample = (SAMPLE_BYTES / block_size).max(1);
        let per_sample = u64::from(per_sample).min(blocks) as u32;
        let between = if known { BETWEEN_AGAIN } else { BETWEEN };
        let last = blocks - u64::from(per_sample);
        let mut todo: Vec<u64> = (0..ENDS)
            .flat_map(|n| {
                let at = n * u64::from(per_sample);
                [at.min(last), last.saturating_sub(at)]
            })
            .chain((1..=between).map(|n| {
                // Up to 2^63 blocks times 25 needs the wider arithmetic.
                (u128::from(last) * u128::from(n) / u128::from(between + 1)) as u64
            }))
            .collect();
        todo.sort_unstable();
        todo.dedup();
        Probe {
            blocks,
            per_sample,
            todo: todo.into(),
            current: None,
            not_before: None,
            proven: known,
            verdict: None,
        }
    }

    /// A client's write of the block `lba` was acknowledged over another path.
    pub fn written(&mut self, lba: u64) {
        let lba = lba.min(self.blocks - u64::from(self.per_sample));
        if self.todo.len() < WRITTEN_MAX && !self.todo.contains(&lba) {
            self.todo.push_back(lba);
        }
    }

    /// What to do next. [`Step::Same`] and [`Step::Differs`] are final.
    pub fn next(&mut self, now: Instant) -> Step {
        if let Some(verdict) = self.verdict {
            return verdict;
        }
        if let Some(at) = self.not_before.filter(|at| *at > now) {
            return Step::Wait(at);
        }
        self.not_before = None;
        if self.current.is_none() {
            let Some(lba) = self.todo.pop_front() else {
                return if self.proven { self.end(Step::Same) } else { Step::Blank };
            };
            self.current =
                Some(Sample { lba, looks: 0, differs_since: None, before: None, reference: None });
        }
        let sample = self.current.as_ref().expect("there is a sample now");
        let copy = if sample.reference.is_none() { Copy::Reference } else { Copy::Candidate };
        Step::Read { copy, lba: sample.lba, blocks: self.per_sample }
    }

    fn end(&mut self, verdict: Step) -> Step {
        self.verdict = Some(verdict);
        verdict
    }

    /// The data of the read that [`Probe::next`] asked for.
    ///
    /// # Panics
    /// When none was asked for.
    pub fn handle(&mut self, now: Instant, data: Vec<u8>) {
        let mut sample = self.current.take().expect("data belongs to a sample");
        let Some(reference) = sample.reference.take() else {
            sample.reference = Some(data);
            self.current = Some(sample);
            return;
        };
        if reference == data {
            self.proven |= !is_constant(&data);
            // What was seen to be equal once more after a difference was a write under way.
            return;
        }
        sample.looks += 1;
        let still = sample.before.as_ref() == Some(&(reference.clone(), data.clone()));
        if !still {
            sample.differs_since = Some(now);
        }
        let since = sample.differs_since.unwrap_or(now);
        if still && now - since >= LASTING {
            self.verdict = Some(Step::Differs(sample.lba));
            return;
        }
        if sample.looks >= LOOKS_MAX {
            return;
        }
        sample.before = Some((reference, data));
        self.current = Some(sample);
        self.not_before = Some(now + PAUSE);
    }

    /// A read failed, or its path did: the sample is begun again.
    pub fn again(&mut self, at: Instant) {
        if let Some(sample) = &mut self.current {
            sample.reference = None;
        }
        self.not_before = Some(at);
    }
}

/// All bytes the same: says nothing about where it came from.
fn is_constant(data: &[u8]) -> bool {
    data.windows(2).all(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCKS: u64 = 1 << 20;

    /// Runs a probe against two functions from (time, LBA) to content, for at most a minute.
    fn compare(
        mut probe: Probe,
        reference: impl Fn(Instant, u64) -> Vec<u8>,
        candidate: impl Fn(Instant, u64) -> Vec<u8>,
    ) -> (Step, usize, Duration) {
        let start = Instant::from_millis(1000);
        let (mut now, mut reads) = (start, 0);
        loop {
            assert!(now - start < Duration::from_secs(60), "no end");
            match probe.next(now) {
                Step::Read { copy, lba, blocks } => {
                    assert!(lba + u64::from(blocks) <= probe.blocks);
                    reads += 1;
                    let data = match copy {
                        Copy::Reference => reference(now, lba),
                        Copy::Candidate => candidate(now, lba),
                    };
                    now += Duration::from_micros(100);
                    probe.handle(now, data);
                }
                Step::Wait(at) => now = at,
                end => return (end, reads, now - start),
            }
        }
    }

    fn text(seed: u64) -> Vec<u8> {
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes().to_vec()
    }

    #[test]
    fn equal_content_that_is_not_constant_is_the_same_unit() {
        let (end, reads, _) =
            compare(Probe::new(BLOCKS, 512, false), |_, lba| text(lba), |_, lba| text(lba));
        assert_eq!((end, reads), (Step::Same, 2 * 32));
        let one = |_: Instant, lba: u64| if lba == 0 { text(1) } else { vec![0; 8] };
        assert_eq!(compare(Probe::new(BLOCKS, 512, false), one, one).0, Step::Same);
    }

    #[test]
    fn one_different_block_is_another_unit() {
        let other = |_: Instant, lba: u64| if lba == 0 { text(77) } else { text(lba) };
        let (end, _, took) = compare(Probe::new(BLOCKS, 512, false), |_, lba| text(lba), other);
        assert_eq!(end, Step::Differs(0));
        assert!(took >= LASTING, "a difference has to last: {took:?}");
        let known = Probe::new(BLOCKS, 512, true);
        assert_eq!(compare(known, |_, lba| text(lba), other).0, Step::Differs(0));
    }

    #[test]
    fn blank_content_proves_nothing_until_a_block_was_written() {
        for byte in [0, 0xff] {
            let blank = |_: Instant, _: u64| vec![byte; 512];
            assert_eq!(compare(Probe::new(BLOCKS, 512, false), blank, blank).0, Step::Blank);
            assert_eq!(compare(Probe::new(BLOCKS, 512, true), blank, blank).0, Step::Same);
            let mut probe = Probe::new(BLOCKS, 512, false);
            while !matches!(probe.next(Instant::ZERO), Step::Blank) {
                probe.handle(Instant::ZERO, vec![byte; 512]);
            }
            probe.written(4711);
            let content = |_: Instant, lba: u64| if lba == 4711 { text(1) } else { vec![byte; 8] };
            assert_eq!(compare(probe, content, content).0, Step::Same);
        }
    }

    #[test]
    fn a_written_block_that_is_not_there_is_another_unit() {
        let mut probe = Probe::new(BLOCKS, 512, false);
        while !matches!(probe.next(Instant::ZERO), Step::Blank) {
            probe.handle(Instant::ZERO, vec![0; 512]);
        }
        probe.written(8);
        assert_eq!(compare(probe, |_, _| text(1), |_, _| vec![0; 8]).0, Step::Differs(8));
    }

    /// A block that a client writes all the time differs at each look, and says nothing.
    #[test]
    fn a_block_under_writes_is_no_difference() {
        let busy = |now: Instant, lba: u64| if lba == 0 { text(now.as_nanos()) } else { text(lba) };
        let (end, ..) = compare(Probe::new(BLOCKS, 512, false), busy, busy);
        assert_eq!(end, Step::Same);
        // The mirror follows a second later.
        let late = Instant::from_millis(2000);
        let follows = |now: Instant, lba: u64| if now < late { text(lba) } else { text(lba + 1) };
        let end = compare(Probe::new(BLOCKS, 512, false), |_, lba| text(lba + 1), follows);
        assert_eq!(end.0, Step::Same);
    }

    proptest! {
        #[test]
        fn samples_lie_within_any_unit(blocks in 1..u64::MAX / 2, shift in 9_u32..17, known: bool) {
            let probe = Probe::new(blocks, 1 << shift, known);
            prop_assert!(probe.todo.contains(&0));
            let end = blocks - u64::from(probe.per_sample);
            prop_assert!(probe.todo.contains(&end));
            prop_assert!(probe.todo.iter().all(|lba| *lba <= end));
            prop_assert!(probe.todo.len() <= 32);
        }
    }
}
