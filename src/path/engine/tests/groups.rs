//! Who is chosen from at all: access states, weight 0, room; and the second path for a copy.

use super::*;

fn access(state: AccessState) -> Option<Access> {
    Some(Access { state, preferred: false, group: 1 })
}

/// Paths that are chosen within a hundred batches, everything in flight answered at once.
fn used(e: &mut Engine) -> PathSet {
    let mut used = PathSet::EMPTY;
    for _ in 0..100 {
        e.begin_batch();
        for _ in 0..3 {
            let path = e.choose(Op::Read, 4096, PathSet::EMPTY);
            let Some(path) = path else { continue };
            e.started(path, Op::Read, 4096);
            let now = NOW + Duration::from_micros(90);
            e.finished(now, path, Op::Read, 4096, NOW, Ended::Good);
            used.insert(path);
        }
    }
    used
}

#[test]
fn policies_that_compare_stay_in_the_best_group() {
    use AccessState::{ActiveNonOptimized, ActiveOptimized, LbaDependent, Standby};
    for policy in Policy::ALL {
        let mut e = engine(policy, 4);
        for (path, state) in
            [ActiveNonOptimized, ActiveOptimized, ActiveOptimized, Standby].into_iter().enumerate()
        {
            e.set_access(NOW, p(path), access(state));
        }
        let expected: [&[usize]; 3] = match policy {
            Policy::Failover => [&[1], &[0], &[0]],
            Policy::RoundRobin | Policy::WeightedPaths => [&[0, 1, 2, 3], &[0, 3], &[0, 3]],
            Policy::RoundRobinSubset
            | Policy::LeastQueueDepth
            | Policy::LeastBytes
            | Policy::Latency => [&[1, 2], &[0], &[0, 3]],
        };
        assert_eq!(used(&mut e), set(expected[0]), "{policy}");
        e.transition(NOW, p(1), State::Failed, "");
        e.transition(NOW, p(2), State::Suspect, "");
        assert_eq!(used(&mut e), set(expected[1]), "{policy}: none of the best is left");
        e.set_access(NOW, p(3), access(LbaDependent));
        assert_eq!(used(&mut e), set(expected[2]), "{policy}: as good as non-optimized");
        e.set_access(NOW, p(3), None);
        let best = used(&mut e);
        assert!(best.contains(p(3)), "{policy}: no ALUA counts as optimized");
        assert_eq!(
            best.contains(p(0)),
            !policy.stays_in_best_group() && policy != Policy::Failover
        );
    }
}

#[test]
fn a_full_group_is_waited_for() {
    for policy in Policy::ALL.into_iter().filter(|policy| policy.stays_in_best_group()) {
        let mut e = engine(policy, 3);
        e.set_access(NOW, p(0), access(AccessState::ActiveNonOptimized));
        e.set_full(p(1), true);
        assert_eq!(used(&mut e), set(&[2]), "{policy}");
        e.set_full(p(2), true);
        assert_eq!(e.choose(Op::Read, 512, PathSet::EMPTY), None, "{policy}");
        assert_eq!(e.choose(Op::Read, 512, set(&[1, 2])), Some(p(0)), "{policy}: failed there");
        e.set_full(p(1), false);
        assert_eq!(used(&mut e), set(&[1]), "{policy}");
    }
}

#[test]
fn weight_zero_stands_by() {
    for policy in Policy::ALL {
        let mut e = engine(policy, 3);
        e.set_weight(p(0), 0);
        if !policy.uses_weights() {
            let expected: &[usize] = if policy == Policy::Failover { &[0] } else { &[0, 1, 2] };
            assert_eq!(used(&mut e), set(expected), "{policy} knows no weights");
            continue;
        }
        assert_eq!(used(&mut e), set(&[1, 2]), "{policy}");
        e.set_access(NOW, p(1), access(AccessState::ActiveNonOptimized));
        e.transition(NOW, p(2), State::Failed, "");
        assert_eq!(used(&mut e), set(&[1]), "{policy}: weight comes before access");
        e.transition(NOW, p(1), State::Failed, "");
        assert_eq!(used(&mut e), set(&[0]), "{policy}: nothing else is left");
        up(&mut e, NOW, p(2));
        assert_eq!(used(&mut e), set(&[2]), "{policy}");
        e.set_weight(p(2), 0);
        assert_eq!(used(&mut e), set(&[0, 2]), "{policy}: all stand by");
        e.set_weight(p(0), 7);
        assert_eq!(used(&mut e), set(&[0]), "{policy}");
    }
}

#[test]
fn weights_change_under_load_and_count_from_there() {
    let mut e = engine(Policy::WeightedPaths, 2);
    let shares = |e: &mut Engine| {
        let mut counts = [0; 2];
        for _ in 0..120 {
            e.begin_batch();
            let path = e.choose(Op::Write, 512, PathSet::EMPTY).expect("a path");
            e.started(path, Op::Write, 512);
            counts[path.get()] += 1;
        }
        counts
    };
    assert_eq!(shares(&mut e), [60, 60]);
    e.set_weight(p(0), 3);
    assert_eq!(shares(&mut e), [90, 30]);
    e.set_weight(p(1), 2);
    assert_eq!(shares(&mut e), [72, 48]);
}

#[test]
fn the_second_path_is_the_soonest_of_the_best_group() {
    let mut e = engine(Policy::RoundRobin, 4);
    e.set_access(NOW, p(3), access(AccessState::ActiveNonOptimized));
    for (path, us) in [(0, 90), (1, 900), (2, 200), (3, 10)] {
        e.started(p(path), Op::Read, 512);
        let now = NOW + Duration::from_micros(us);
        e.finished(now, p(path), Op::Read, 512, NOW, Ended::Good);
    }
    assert_eq!(e.choose_second(Op::Read, set(&[0])), Some(p(2)));
    assert_eq!(e.choose_second(Op::Read, set(&[2])), Some(p(0)));
    e.set_full(p(2), true);
    assert_eq!(e.choose_second(Op::Read, set(&[0])), Some(p(1)));
    e.transition(NOW, p(1), State::Suspect, "");
    assert_eq!(e.choose_second(Op::Read, set(&[0])), None, "not in another group");
    e.set_full(p(2), false);
    e.set_policy(NOW, Policy::LeastBytes);
    e.set_weight(p(2), 0);
    assert_eq!(e.choose_second(Op::Read, set(&[0])), None, "it stands by");
}

#[test]
fn failover_follows_access_and_tells() {
    let mut e = engine(Policy::Failover, 2);
    e.set_access(NOW, p(0), access(AccessState::ActiveNonOptimized));
    assert_eq!(e.serving(), Some(p(1)));
    let last = e.events().iter().last().expect("an event");
    assert_eq!((last.path, last.what), (Some(p(1)), What::Switched));
    assert_eq!(e.access(p(0)), access(AccessState::ActiveNonOptimized));
}
