//! Chance, repeatable: every stream of the simulator comes from the one seed.

use mpio::base::Duration;

/// A stream of numbers (splitmix64): every seed is good, neighbouring ones have nothing in common.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A stream of its own, so that drawing more in one place does not change another.
    pub fn fork(&mut self) -> Dice {
        Dice(self.bits())
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// An index of something of this length.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    /// A duration between the two, every order of magnitude alike.
    pub fn duration(&mut self, from: Duration, to: Duration) -> Duration {
        let (low, high) = (from.as_nanos().max(1) as u64, to.as_nanos() as u64);
        let octaves = (high / low).max(1).ilog2() + 1;
        let base = low << self.below(u64::from(octaves));
        Duration::from_nanos((base + self.below(base)).min(high.max(low)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_stay_inside_and_reach_every_octave() {
        let mut dice = Dice::new(7);
        let (from, to) = (Duration::from_millis(1), Duration::from_secs(1));
        let all: Vec<Duration> = (0..1000).map(|_| dice.duration(from, to)).collect();
        assert!(all.iter().all(|d| (from..=to).contains(d)));
        for limit in [2, 4, 128, 512] {
            let limit = Duration::from_millis(limit);
            assert!(all.iter().any(|d| *d < limit) && all.iter().any(|d| *d > limit));
        }
    }
}
