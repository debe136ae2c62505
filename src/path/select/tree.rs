//! The least of up to [`PATHS_PER_DEVICE_MAX`] keys: a tournament whose rounds do not depend on how many
//! paths there are.

use super::super::{PathIndex, PathSet};
use crate::limits::PATHS_PER_DEVICE_MAX;

const LEAVES: usize = PATHS_PER_DEVICE_MAX.next_power_of_two();
const ROUNDS: u32 = LEAVES.trailing_zeros();
/// Of a path that takes no part; no real key is this great.
const ABSENT: u128 = u128::MAX;

/// Who wins each match: the lower key; of equal keys, the lower index.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    keys: [u128; LEAVES],
    /// Node 1 is the final, `2n` and `2n + 1` play for node `n`; the second half are the paths.
    winners: [u8; 2 * LEAVES],
}

impl Tree {
    pub(super) fn new() -> Tree {
        let mut winners = [0; 2 * LEAVES];
        for (leaf, winner) in winners[LEAVES..].iter_mut().enumerate() {
            *winner = leaf as u8;
        }
        // Among absent ones the lower index wins too: the first leaf below each node.
        for node in (1..LEAVES).rev() {
            winners[node] = winners[2 * node];
        }
        Tree { keys: [ABSENT; LEAVES], winners }
    }

    /// Gives `path` a key.
    pub(super) fn set(&mut self, path: PathIndex, key: u128) {
        assert!(key < ABSENT, "the greatest key means absence");
        self.replace(path, key);
    }

    /// Takes `path` out.
    pub(super) fn remove(&mut self, path: PathIndex) {
        self.replace(path, ABSENT);
    }

    fn replace(&mut self, path: PathIndex, key: u128) {
        self.keys[path.get()] = key;
        let mut node = (LEAVES + path.get()) / 2;
        for _ in 0..ROUNDS {
            let (left, right) = (self.winners[2 * node], self.winners[2 * node + 1]);
            let left_wins = self.key(left) <= self.key(right);
            self.winners[node] = if left_wins { left } else { right };
            node /= 2;
        }
    }

    fn key(&self, leaf: u8) -> u128 {
        // The remainder spares a bounds check; there are no greater leaves.
        self.keys[usize::from(leaf) % LEAVES]
    }

    /// The path with the least key among `candidates`. One look when no other path has a lesser key; for
    /// each that has, up to five more.
    pub(super) fn least(&self, candidates: PathSet) -> Option<PathIndex> {
        self.least_below(1, LEAVES as u32, candidates).map(|leaf| PathIndex::new(usize::from(leaf)))
    }

    fn least_below(&self, node: usize, leaves: u32, candidates: PathSet) -> Option<u8> {
        let winner = self.winners[node];
        if self.key(winner) == ABSENT || candidates.is_empty() {
            return None;
        }
        if candidates.0 >> winner & 1 != 0 {
            return Some(winner);
        }
        if leaves == 1 {
            return None;
        }
        // The leaves below a node are neighbours, and the winner is one of them.
        let half = leaves / 2;
        let first = u32::from(winner) & !(leaves - 1);
        let mask = (1u64 << half) - 1;
        let lower = PathSet(candidates.0 & mask << first);
        let upper = PathSet(candidates.0 & mask << (first + half));
        let left = self.least_below(2 * node, half, lower);
        let right = self.least_below(2 * node + 1, half, upper);
        match (left, right) {
            (Some(l), Some(r)) if self.key(r) < self.key(l) => Some(r),
            (left, right) => left.or(right),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a search through all: whatever was set and taken out, for any candidates.
        #[test]
        fn the_least_key_is_found(
            steps in prop::collection::vec((0..PATHS_PER_DEVICE_MAX, prop::option::of(0u128..20), any::<u32>()), 1..300),
        ) {
            let mut tree = Tree::new();
            let mut keys = [None; PATHS_PER_DEVICE_MAX];
            for (path, key, mask) in steps {
                match key {
                    Some(key) => tree.set(PathIndex::new(path), key),
                    None => tree.remove(PathIndex::new(path)),
                }
                keys[path] = key;
                for candidates in [PathSet(u64::from(mask)), PathSet(u64::MAX), PathSet::EMPTY] {
                    let there = candidates.iter().filter(|p| p.get() < PATHS_PER_DEVICE_MAX);
                    let naive = there
                        .filter_map(|p| Some((keys[p.get()]?, p)))
                        .min()
                        .map(|(_, p)| p);
                    prop_assert_eq!(tree.least(candidates), naive);
                }
            }
        }
    }
}
