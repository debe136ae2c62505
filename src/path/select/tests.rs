//! Shares, queues, streams and bursts: by example, then by property against naive oracles.

use super::*;
use proptest::prelude::*;

/// Shorter than the default, so that a few requests show everything.
const BURST: Burst = Burst { commands: 8, bytes: 256 * 1024 };

const RR: Policy = Policy::RoundRobin;
const LQD: Policy = Policy::LeastQueueDepth;
const LB: Policy = Policy::LeastBytes;
const WP: Policy = Policy::WeightedPaths;

fn first(n: usize) -> PathSet {
    (0..n).map(PathIndex::new).collect()
}

fn p(index: usize) -> PathIndex {
    PathIndex::new(index)
}

fn ask(bytes: u32) -> Ask {
    Ask { op: Op::Read, bytes, at: None }
}

fn selector(policy: Policy, n: usize) -> Selector {
    with_burst(policy, n, BURST)
}

fn with_burst(policy: Policy, n: usize, burst: Burst) -> Selector {
    let mut s = Selector::new(policy, burst, 0);
    s.set_members(first(n));
    s
}

fn weighted(policy: Policy, weights: &[u32]) -> Selector {
    let mut s = selector(policy, weights.len());
    for (path, weight) in weights.iter().enumerate() {
        s.set_weight(p(path), *weight);
    }
    s
}

/// Chooses and starts.
fn take(s: &mut Selector, bytes: u32, candidates: PathSet) -> usize {
    let path = s.choose(ask(bytes), candidates).expect("a path");
    s.started(path, bytes);
    path.get()
}

fn end(s: &mut Selector, path: usize, bytes: u32) {
    s.finished(p(path), Op::Read, bytes, Duration::from_micros(100), Ended::Good);
}

fn path_counts() -> impl Strategy<Value = usize> {
    prop_oneof![Just(2usize), Just(3), Just(32)]
}

#[test]
fn at_depth_one_paths_alternate() {
    for policy in [RR, Policy::RoundRobinSubset, LQD, LB, WP] {
        for n in [2, 3, 32] {
            let mut s = selector(policy, n);
            for turn in 0..1000 {
                s.begin_batch();
                let path = take(&mut s, 4096, first(n));
                assert_eq!(path, turn % n, "{policy} {n}");
                end(&mut s, path, 4096);
            }
        }
    }
}

#[test]
fn a_large_batch_is_cut_into_bursts() {
    for policy in [RR, WP, Policy::Latency] {
        let mut s = selector(policy, 2);
        s.begin_batch();
        let got: Vec<usize> = (0..32).map(|_| take(&mut s, 4096, first(2))).collect();
        assert_eq!(got, [[0; 8], [1; 8], [0; 8], [1; 8]].concat(), "{policy}");
    }
}

/// A batch that comes when every queue is empty is no longer than a burst, again and again: it is divided
/// all the same, as the weights say.
#[test]
fn queues_divide_a_batch_that_is_no_longer_than_a_burst() {
    for (policy, len) in [(LQD, 4096), (LB, 4096), (LQD, 64 << 10), (LB, 64 << 10)] {
        for (weights, shares) in [(&[1, 1], 14..=18), (&[100, 100], 14..=18), (&[3, 1], 22..=26)] {
            let mut s = with_burst(policy, 2, Burst::default());
            (0..2).for_each(|path| s.set_weight(p(path), weights[path]));
            for _ in 0..10 {
                s.begin_batch();
                let got: Vec<usize> = (0..32).map(|_| take(&mut s, len, first(2))).collect();
                let on_first = got.iter().filter(|path| **path == 0).count();
                assert!(shares.contains(&on_first), "{policy} {len} {weights:?}: {got:?}");
                got.into_iter().for_each(|path| end(&mut s, path, len));
            }
        }
    }
}

#[test]
fn bytes_end_a_burst_too() {
    let mut s = selector(RR, 2);
    s.begin_batch();
    let mut take = |bytes| s.choose(ask(bytes), first(2)).expect("a path").get();
    let got: Vec<usize> = [128 << 10; 6].into_iter().map(&mut take).collect();
    assert_eq!(got, [0, 0, 1, 1, 0, 0]);
    assert_eq!([8 << 20, 8 << 20, 1].map(take), [1, 0, 1], "one larger than a burst");
}

#[test]
fn an_excluded_path_is_not_chosen_and_does_not_hold_up_the_rest() {
    for policy in [RR, LQD, LB, WP, Policy::Latency] {
        let mut s = selector(policy, 3);
        s.begin_batch();
        let others = first(3).minus(PathSet::only(p(1)));
        for _ in 0..1000 {
            assert_ne!(take(&mut s, 512, others), 1, "{policy}");
        }
        assert_eq!(s.choose(ask(512), PathSet::EMPTY), None);
    }
}

#[test]
fn the_shorter_queue_is_filled_first() {
    let mut s = with_burst(LQD, 2, Burst { commands: 1, bytes: u32::MAX });
    (0..10).for_each(|_| s.started(p(0), 4096));
    for _ in 0..10 {
        assert_eq!(take(&mut s, 4096, first(2)), 1);
    }
    assert_eq!((s.depth(p(0)), s.depth(p(1))), (10, 10));
}

#[test]
fn bytes_in_flight_are_what_least_bytes_compares() {
    let mut s = selector(LB, 2);
    s.started(p(0), 1 << 20);
    for n in 0..256 {
        s.begin_batch();
        assert_eq!(
            take(&mut s, 4096, first(2)),
            1,
            "{n}: 256 small ones weigh as much as a large one"
        );
    }
    s.begin_batch();
    assert_eq!(take(&mut s, 4096, first(2)), 0);
}

#[test]
fn a_sequential_stream_stays_with_least_bytes_and_moves_when_its_bytes_are_over() {
    let mut s = selector(LB, 2);
    s.set_sticky_bytes(64 << 10);
    let got: Vec<usize> = (0..48u64)
        .map(|n| {
            s.begin_batch();
            let ask = Ask { op: Op::Read, bytes: 4096, at: Some(n * 4096) };
            let path = s.choose(ask, first(2)).expect("a path");
            s.started(path, 4096);
            path.get()
        })
        .collect();
    assert_eq!(got, [[0; 16], [1; 16], [0; 16]].concat());
}

#[test]
fn queues_are_kept_in_proportion_to_weights() {
    for policy in [LQD, LB] {
        let mut s = weighted(policy, &[3, 1]);
        for _ in 0..40 {
            s.begin_batch();
            take(&mut s, 4096, first(2));
        }
        assert_eq!((s.depth(p(0)), s.depth(p(1))), (30, 10), "{policy}");
    }
}

#[test]
fn weights_are_shares_spread_smoothly() {
    let mut s = weighted(WP, &[3, 1]);
    let got: Vec<usize> = (0..16)
        .map(|_| {
            s.begin_batch();
            take(&mut s, 4096, first(2))
        })
        .collect();
    assert!(got.chunks(4).all(|window| window.iter().sum::<usize>() == 1), "{got:?} at depth 1");
    assert!(got.windows(5).all(|window| window.contains(&1)), "{got:?}: never five in a row");
    let mut s = weighted(WP, &[3, 1]);
    s.begin_batch();
    let got: Vec<usize> = (0..64).map(|_| take(&mut s, 4096, first(2))).collect();
    let bursts: Vec<usize> = got.chunks(8).map(|burst| burst[0]).collect();
    assert!(got.chunks(8).all(|burst| burst.iter().all(|path| *path == burst[0])));
    assert_eq!(bursts, [0, 1, 0, 0, 1, 0, 0, 0], "by bursts in a large batch");
}

#[test]
fn a_whole_unit_of_any_weight_ends_where_all_others_end() {
    for weight in 1..=WEIGHT_MAX {
        let mut load = selector(WP, 1).loads[0];
        load.weight = weight;
        for n in 1..=3 * weight {
            let before = load.pass();
            load.advance();
            assert!(load.pass() > before);
            if n % weight == 0 {
                assert_eq!(load.pass(), u64::from(n / weight) * SCALE, "no rounding adds up");
            }
        }
        load.catch_up(load.pass() + 12_345_678);
        let (at, aim) = (load.pass(), (3 * SCALE) + 12_345_678);
        assert!(at <= aim && aim - at <= 2 * load.stride(), "{weight}: {at} for {aim}");
    }
}

#[test]
fn a_path_that_was_full_makes_up_for_nothing() {
    let mut s = weighted(WP, &[1, 1]);
    s.set_members(first(1));
    for _ in 0..1000 {
        s.begin_batch();
        assert_eq!(take(&mut s, 512, first(1)), 0);
    }
    s.set_members(first(2));
    let mut counts = [0u32; 2];
    for _ in 0..100 {
        s.begin_batch();
        counts[take(&mut s, 512, first(2))] += 1;
    }
    assert!(counts[0].abs_diff(counts[1]) <= 2, "{counts:?}");
}

#[test]
#[should_panic(expected = "never started")]
fn more_ends_than_starts_is_a_bug() {
    end(&mut selector(RR, 2), 0, 0);
}

#[test]
#[should_panic(expected = "bytes that it never started")]
fn more_bytes_than_started_is_a_bug() {
    let mut s = selector(RR, 2);
    s.started(p(0), 512);
    end(&mut s, 0, 513);
}

proptest! {
    /// However the requests come together: whole rounds are exactly even, and between them no path is
    /// ahead of another by more than one burst.
    #[test]
    fn round_robin_shares_are_exact_over_a_round(
        n in path_counts(),
        batches in prop::collection::vec((1usize..40, 0u32..300_000), 1..200),
    ) {
        let mut s = selector(RR, n);
        let (mut counts, mut total) = (vec![0usize; n], 0);
        for (len, bytes) in batches {
            s.begin_batch();
            for _ in 0..len {
                counts[s.choose(ask(bytes), first(n)).expect("a path").get()] += 1;
                total += 1;
                let (min, max) = (counts.iter().min(), counts.iter().max());
                prop_assert!(max.expect("n > 0") - min.expect("n > 0") <= 8);
                if total % (8 * n) == 0 {
                    prop_assert!(counts.iter().all(|c| *c == total / n), "{counts:?}");
                }
            }
        }
    }

    /// Any mix of weights, however the requests come together: at any time no path is ahead of its share by
    /// more than a burst, nor behind by more than the bursts of the others.
    #[test]
    fn weighted_shares_are_exact_to_a_burst(
        weights in prop::collection::vec(1u32..=100, 2..33),
        batches in prop::collection::vec((1usize..40, 0u32..300_000), 1..300),
    ) {
        let n = weights.len();
        let whole: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        let mut s = weighted(WP, &weights);
        let (mut counts, mut total) = (vec![0u32; n], 0u32);
        for (len, bytes) in batches {
            s.begin_batch();
            for _ in 0..len {
                counts[s.choose(ask(bytes), first(n)).expect("a path").get()] += 1;
                total += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let share = f64::from(*weight) / whole;
                    let due = f64::from(total) * share;
                    let count = f64::from(*count);
                    prop_assert!(count <= due + 8.0 + 1e-3, "{count} of {due}");
                    prop_assert!(count >= due - 8.0 * n as f64 * share - 1e-3, "{count} of {due}");
                }
            }
        }
    }

    /// One by one, every window of as many commands as the weights are in sum gives each path its weight,
    /// to within one command of the exact share.
    #[test]
    fn weighted_shares_are_exact_over_a_short_window_at_depth_one(
        weights in prop::collection::vec(1u32..=100, 2..8),
        windows in 1u32..4,
    ) {
        let n = weights.len();
        let whole: u32 = weights.iter().sum();
        let mut s = weighted(WP, &weights);
        let mut counts = vec![0u32; n];
        for _ in 0..windows * whole {
            s.begin_batch();
            counts[s.choose(ask(512), first(n)).expect("a path").get()] += 1;
        }
        let exact: Vec<u32> = weights.iter().map(|w| w * windows).collect();
        prop_assert_eq!(counts, exact);
    }

    /// A burst never exceeds its bounds, and ends with its batch.
    #[test]
    fn bursts_are_bounded(
        n in 2usize..5,
        policy in prop::sample::select(vec![RR, LQD, LB, WP, Policy::Latency]),
        requests in prop::collection::vec((prop::bool::weighted(0.2), 0u32..300_000), 1..400),
    ) {
        let mut s = selector(policy, n);
        for (new_batch, len) in requests {
            if new_batch {
                s.begin_batch();
            }
            let (was_at, was_commands) = (s.at, if s.in_burst { s.commands } else { 0 });
            let path = take(&mut s, len, first(n));
            prop_assert!(s.commands <= 8 && (s.bytes <= 256 * 1024 || s.commands == 1));
            prop_assert_eq!(path, s.at.get());
            if s.commands > 1 {
                prop_assert!(p(path) == was_at && s.commands == was_commands + 1);
            }
        }
    }

    /// Against a naive oracle, for any candidates, ordinary or not: when a burst begins, no candidate has a
    /// shorter queue, in commands or in bytes, for its weight.
    #[test]
    fn a_shortest_queue_is_taken(
        n in path_counts(),
        by_bytes: bool,
        weights in prop::collection::vec(prop::sample::select(vec![1u32, 2, 3, 5, 15]), 32),
        members: u32,
        steps in prop::collection::vec((any::<u32>(), any::<prop::sample::Index>(), any::<bool>(), 0u32..100_000), 1..400),
    ) {
        let mut s = weighted(if by_bytes { LB } else { LQD }, &weights[..n]);
        let members = PathSet(u64::from(members)).and(first(n));
        s.set_members(members);
        let mut flying: Vec<Vec<u32>> = vec![Vec::new(); n];
        for (mask, which, ends, bytes) in steps {
            if ends {
                let path = which.index(n);
                if let Some(bytes) = flying[path].pop() {
                    end(&mut s, path, bytes);
                }
                continue;
            }
            // A choice is among ordinary paths or among others.
            let mut candidates = PathSet(u64::from(mask)).and(first(n));
            candidates = candidates.and(members).or_else(candidates);
            let queue = |path: PathIndex| {
                let flying = &flying[path.get()];
                let amount = match by_bytes {
                    true => flying.iter().map(|b| u64::from(*b)).sum::<u64>() + 4096,
                    false => flying.len() as u64 + 1,
                };
                // All weights of this test divide 30.
                amount * 30 / u64::from(weights[path.get()])
            };
            s.begin_batch();
            let chosen = s.choose(ask(bytes), candidates);
            let least = candidates.iter().map(queue).min();
            prop_assert_eq!(chosen.map(queue), least);
            if let Some(path) = chosen {
                prop_assert!(candidates.contains(path));
                flying[path.get()].push(bytes);
                s.started(path, bytes);
                prop_assert_eq!(s.depth(path) as usize, flying[path.get()].len());
            }
        }
    }
}
