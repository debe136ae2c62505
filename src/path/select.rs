//! Which of the candidate paths takes the next command, under `round-robin` and `least-queue-depth`.
//!
//! Mental model: commands come in batches (what one receive brought in). Inside a batch the choice stays
//! on one path for a *burst* of bounded length, since switching on every request halves the batches that
//! are sent and received; a new batch always begins with a new choice, so that at depth 1 paths
//! alternate. `round-robin` gives every path the same number of commands per *round*: a path that has had
//! its share of the round is passed over until the others had theirs, however batches and bursts fell.
//! `least-queue-depth` begins each burst on the path with the fewest commands in flight.
//!
//! The cost does not depend on the number of paths: sets are bits, the least depth is found by bits too.
//! A further policy is one more arm in [`Selector::choose`] and what it keeps per path.
//! Deliberately not here: which paths are candidates (engine), `failover` (failover).

use super::{PathIndex, PathSet, Policy};
use crate::limits::{PATHS_PER_DEVICE_MAX, TASKS_PER_SESSION_MAX};

/// How long the choice may stay on one path within a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    /// Commands; at least 1.
    pub commands: u32,
    /// Bytes; a single command may be larger.
    pub bytes: u32,
}

impl Default for Burst {
    fn default() -> Burst {
        Burst { commands: 8, bytes: 256 * 1024 }
    }
}

/// The state of the choice.
#[derive(Debug, Clone)]
pub(super) struct Selector {
    burst: Burst,
    /// The path of the last burst; the circle goes on from here.
    at: PathIndex,
    in_burst: bool,
    commands: u32,
    bytes: u32,
    /// Commands that each path may still have in this round.
    credit: [u32; PATHS_PER_DEVICE_MAX],
    /// Paths whose credit is not used up.
    credited: PathSet,
    depths: Depths,
}

impl Selector {
    pub(super) fn new(burst: Burst) -> Selector {
        assert!(burst.commands > 0, "a burst of no commands");
        Selector {
            burst,
            at: PathIndex::new(PATHS_PER_DEVICE_MAX - 1),
            in_burst: false,
            commands: 0,
            bytes: 0,
            credit: [0; PATHS_PER_DEVICE_MAX],
            credited: PathSet::EMPTY,
            depths: Depths::new(),
        }
    }

    /// What one receive brought in follows: the next choice begins a new burst.
    pub(super) fn begin_batch(&mut self) {
        self.in_burst = false;
    }

    /// Forgets shares and bursts: the policy or the paths changed.
    pub(super) fn restart(&mut self) {
        self.in_burst = false;
        self.credited = PathSet::EMPTY;
    }

    /// A path for a command of `bytes` bytes, among `candidates`.
    pub(super) fn choose(
        &mut self,
        policy: Policy,
        bytes: u32,
        candidates: PathSet,
    ) -> Option<PathIndex> {
        if candidates.is_empty() {
            return None;
        }
        let chosen = match policy {
            // The engine asks `failover` and its ranking; without one, the order of addition.
            Policy::Failover => return candidates.first(),
            Policy::RoundRobin => self.round_robin(bytes, candidates),
            Policy::LeastQueueDepth if self.stays(bytes, candidates) => self.at,
            Policy::LeastQueueDepth => self.depths.least(candidates).next_after(self.at)?,
        };
        assert!(candidates.contains(chosen), "path {chosen} is none of {candidates:?}");
        self.count(chosen, bytes);
        Some(chosen)
    }

    fn round_robin(&mut self, bytes: u32, candidates: PathSet) -> PathIndex {
        let mut due = candidates.and(self.credited);
        if due.is_empty() {
            self.credit = [self.burst.commands; PATHS_PER_DEVICE_MAX];
            self.credited = PathSet(u64::MAX >> (64 - PATHS_PER_DEVICE_MAX));
            due = candidates;
        }
        let chosen = if self.stays(bytes, due) { Some(self.at) } else { due.next_after(self.at) };
        let chosen = chosen.expect("candidates are not empty, and so are those that are due");
        self.credit[chosen.get()] -= 1;
        if self.credit[chosen.get()] == 0 {
            self.credited.remove(chosen);
        }
        chosen
    }

    /// Whether the burst may go on with a command of `bytes` bytes.
    fn stays(&self, bytes: u32, candidates: PathSet) -> bool {
        self.in_burst
            && candidates.contains(self.at)
            && self.commands < self.burst.commands
            && self.bytes.saturating_add(bytes) <= self.burst.bytes
    }

    fn count(&mut self, chosen: PathIndex, bytes: u32) {
        let goes_on = chosen == self.at && self.stays(bytes, PathSet::only(chosen));
        if !goes_on {
            (self.at, self.in_burst, self.commands, self.bytes) = (chosen, true, 0, 0);
        }
        self.commands += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Commands in flight on `path`.
    pub(super) fn depth(&self, path: PathIndex) -> u32 {
        self.depths.of[path.get()]
    }

    /// A command was given to `path`.
    pub(super) fn started(&mut self, path: PathIndex) {
        self.depths.change(path, self.depths.of[path.get()] + 1);
    }

    /// A command of `path` ended.
    pub(super) fn finished(&mut self, path: PathIndex) {
        let depth = self.depths.of[path.get()];
        assert!(depth > 0, "path {path} finished a command that it never started");
        self.depths.change(path, depth - 1);
    }
}

/// Depths are told apart up to this; deeper ones count as equal.
const LEVELS: usize = TASKS_PER_SESSION_MAX + 1;
const WORDS: usize = LEVELS.div_ceil(64);

/// Paths by commands in flight: the set of paths at each depth, and which depths have any.
#[derive(Debug, Clone)]
struct Depths {
    of: [u32; PATHS_PER_DEVICE_MAX],
    at: Box<[PathSet; LEVELS]>,
    occupied: [u64; WORDS],
}

impl Depths {
    fn new() -> Depths {
        let mut at = Box::new([PathSet::EMPTY; LEVELS]);
        at[0] = PathSet(u64::MAX >> (64 - PATHS_PER_DEVICE_MAX));
        let mut occupied = [0; WORDS];
        occupied[0] = 1;
        Depths { of: [0; PATHS_PER_DEVICE_MAX], at, occupied }
    }

    fn change(&mut self, path: PathIndex, depth: u32) {
        let from = (self.of[path.get()] as usize).min(LEVELS - 1);
        let to = (depth as usize).min(LEVELS - 1);
        self.of[path.get()] = depth;
        assert!(self.at[from].contains(path), "path {path} is not at its depth {from}");
        self.at[from].remove(path);
        if self.at[from].is_empty() {
            self.occupied[from / 64] &= !(1 << (from % 64));
        }
        self.at[to].insert(path);
        self.occupied[to / 64] |= 1 << (to % 64);
    }

    /// Those of `candidates` that have the fewest commands in flight.
    fn least(&self, candidates: PathSet) -> PathSet {
        for (word, occupied) in self.occupied.iter().enumerate() {
            let mut rest = *occupied;
            while rest != 0 {
                let level = word * 64 + rest.trailing_zeros() as usize;
                let here = self.at[level].and(candidates);
                if !here.is_empty() {
                    return here;
                }
                rest &= rest - 1;
            }
        }
        PathSet::EMPTY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RR: Policy = Policy::RoundRobin;
    const LQD: Policy = Policy::LeastQueueDepth;

    fn first(n: usize) -> PathSet {
        (0..n).map(PathIndex::new).collect()
    }

    fn path_counts() -> impl Strategy<Value = usize> {
        prop_oneof![Just(2usize), Just(3), Just(32)]
    }

    #[test]
    fn at_depth_one_paths_alternate() {
        for policy in [RR, LQD] {
            for n in [2, 3, 32] {
                let mut s = Selector::new(Burst::default());
                for turn in 0..1000 {
                    s.begin_batch();
                    let path = s.choose(policy, 4096, first(n)).expect("a path");
                    assert_eq!(path.get(), turn % n, "{policy} {n}");
                    s.started(path);
                    s.finished(path);
                }
            }
        }
    }

    #[test]
    fn a_large_batch_is_cut_into_bursts() {
        for policy in [RR, LQD] {
            let mut s = Selector::new(Burst::default());
            s.begin_batch();
            let got: Vec<usize> = (0..32)
                .map(|_| {
                    let path = s.choose(policy, 4096, first(2)).expect("a path");
                    s.started(path);
                    path.get()
                })
                .collect();
            assert_eq!(got, [[0; 8], [1; 8], [0; 8], [1; 8]].concat(), "{policy}");
        }
    }

    #[test]
    fn bytes_end_a_burst_too() {
        let mut s = Selector::new(Burst::default());
        s.begin_batch();
        let mut take = |bytes| s.choose(RR, bytes, first(2)).expect("a path").get();
        let got: Vec<usize> = [128 << 10; 6].into_iter().map(&mut take).collect();
        assert_eq!(got, [0, 0, 1, 1, 0, 0]);
        assert_eq!([8 << 20, 8 << 20, 1].map(take), [1, 0, 1], "one larger than a burst");
    }

    #[test]
    fn an_excluded_path_is_not_chosen_and_does_not_hold_up_the_rest() {
        let mut s = Selector::new(Burst::default());
        s.begin_batch();
        let others = first(3).minus(PathSet::only(PathIndex::new(1)));
        for _ in 0..1000 {
            assert_ne!(s.choose(RR, 512, others).map(PathIndex::get), Some(1));
        }
        assert_eq!(s.choose(RR, 512, PathSet::EMPTY), None);
    }

    #[test]
    fn the_shorter_queue_is_filled_first() {
        let mut s = Selector::new(Burst { commands: 1, bytes: u32::MAX });
        let slow = PathIndex::new(0);
        (0..10).for_each(|_| s.started(slow));
        for _ in 0..10 {
            let path = s.choose(LQD, 4096, first(2)).expect("a path");
            assert_eq!(path.get(), 1);
            s.started(path);
        }
        assert_eq!((s.depth(slow), s.depth(PathIndex::new(1))), (10, 10));
    }

    #[test]
    #[should_panic(expected = "never started")]
    fn more_ends_than_starts_is_a_bug() {
        Selector::new(Burst::default()).finished(PathIndex::new(0));
    }

    proptest! {
        /// However the requests come together: whole rounds are exactly even, and between them no path is
        /// ahead of another by more than one burst.
        #[test]
        fn round_robin_shares_are_exact_over_a_round(
            n in path_counts(),
            batches in prop::collection::vec((1usize..40, 0u32..300_000), 1..200),
        ) {
            let mut s = Selector::new(Burst::default());
            let (mut counts, mut total) = (vec![0usize; n], 0);
            for (len, bytes) in batches {
                s.begin_batch();
                for _ in 0..len {
                    counts[s.choose(RR, bytes, first(n)).expect("a path").get()] += 1;
                    total += 1;
                    let (min, max) = (counts.iter().min(), counts.iter().max());
                    prop_assert!(max.expect("n > 0") - min.expect("n > 0") <= 8);
                    if total % (8 * n) == 0 {
                        prop_assert!(counts.iter().all(|c| *c == total / n), "{counts:?}");
                    }
                }
            }
        }

        /// A burst never exceeds its bounds, and ends with its batch.
        #[test]
        fn bursts_are_bounded(
            n in 2usize..5, lqd: bool,
            requests in prop::collection::vec((prop::bool::weighted(0.2), 0u32..300_000), 1..400),
        ) {
            let policy = if lqd { LQD } else { RR };
            let mut s = Selector::new(Burst::default());
            for (new_batch, len) in requests {
                if new_batch {
                    s.begin_batch();
                }
                let (was_at, was_commands) = (s.at, if s.in_burst { s.commands } else { 0 });
                let path = s.choose(policy, len, first(n)).expect("a path");
                s.started(path);
                prop_assert!(s.commands <= 8 && (s.bytes <= 256 * 1024 || s.commands == 1));
                prop_assert_eq!(path, s.at);
                if s.commands > 1 {
                    prop_assert!(path == was_at && s.commands == was_commands + 1);
                }
            }
        }

        /// Against a naive oracle: when a burst begins, no candidate has a shorter queue.
        #[test]
        fn least_queue_depth_takes_a_shortest_queue(
            n in path_counts(),
            steps in prop::collection::vec((any::<u32>(), any::<prop::sample::Index>(), any::<bool>()), 1..400),
        ) {
            let mut s = Selector::new(Burst::default());
            let mut depth = vec![0u32; n];
            for (mask, which, ends) in steps {
                let candidates = PathSet(u64::from(mask)).and(first(n));
                if ends {
                    let path = which.index(n);
                    if depth[path] > 0 {
                        depth[path] -= 1;
                        s.finished(PathIndex::new(path));
                    }
                    continue;
                }
                s.begin_batch();
                let chosen = s.choose(LQD, 4096, candidates);
                let least = candidates.iter().map(|p| depth[p.get()]).min();
                prop_assert_eq!(chosen.map(|p| depth[p.get()]), least);
                if let Some(path) = chosen {
                    prop_assert!(candidates.contains(path));
                    depth[path.get()] += 1;
                    s.started(path);
                    prop_assert_eq!(s.depth(path), depth[path.get()]);
                }
            }
        }

        /// Deeper than any session allows is still counted right.
        #[test]
        fn depths_beyond_the_levels_come_back(extra in 0u32..100) {
            let mut d = Depths::new();
            let path = PathIndex::new(3);
            let deep = LEVELS as u32 - 50 + extra;
            (1..=deep).for_each(|n| d.change(path, n));
            prop_assert!(!d.least(first(32)).contains(path));
            prop_assert!(d.least(PathSet::only(path)).contains(path));
            (0..deep).rev().for_each(|n| d.change(path, n));
            prop_assert_eq!(d.of[3], 0);
            prop_assert_eq!(d.least(first(32)), first(32));
        }
    }
}
