//! The engine by example, and its shares, orders and exclusions by property.

mod groups;
mod simulation;

use super::*;
use crate::path::{AccessState, WallClock};
use proptest::prelude::*;

const READ: Ask = Ask { op: Op::Read, bytes: 512, at: None };
const NOW: Instant = Instant::from_millis(1000);
const POLICIES: [Policy; 7] = Policy::ALL;

fn info(n: usize) -> PathInfo {
    PathInfo { name: format!("p:{n}"), weight: 1, preferred: false, order: n as u32 }
}

fn p(index: usize) -> PathIndex {
    PathIndex::new(index)
}

fn set(indices: &[usize]) -> PathSet {
    indices.iter().copied().map(p).collect()
}

fn at(millis: u64) -> Instant {
    NOW + Duration::from_millis(millis)
}

/// `n` paths, all connecting.
fn fresh(policy: Policy, n: usize) -> Engine {
    let burst = Burst { commands: 8, bytes: 256 * 1024 };
    let mut e = Engine::new(NOW, Tuning { policy, burst, seed: 7, ..Tuning::default() });
    for index in 0..n {
        assert_eq!(e.add_path(NOW, info(index)), Ok(p(index)));
    }
    e
}

fn up(e: &mut Engine, now: Instant, path: PathIndex) {
    if e.state(path) == State::Failed {
        e.transition(now, path, State::Connecting, "");
    }
    e.transition(now, path, State::Probing, "logged in");
    e.transition(now, path, State::Active, "");
}

/// `n` active paths.
fn engine(policy: Policy, n: usize) -> Engine {
    let mut e = fresh(policy, n);
    (0..n).for_each(|index| up(&mut e, NOW, p(index)));
    e
}

/// Brings a path, by legal steps, into `state`.
fn into_state(e: &mut Engine, path: PathIndex, state: State) {
    let steps: &[State] = match state {
        State::Connecting => &[],
        State::Probing => &[State::Probing],
        State::Active => &[State::Probing, State::Active],
        State::Suspect => &[State::Probing, State::Active, State::Suspect],
        State::Failed => &[State::Failed],
        State::Disabled => &[State::Disabled],
        State::Mismatched => &[State::Probing, State::Mismatched],
        State::Standby => panic!("no way leads to standby"),
    };
    steps.iter().for_each(|to| e.transition(NOW, path, *to, "test"));
}

#[test]
fn every_transition_is_made_or_refused_as_the_table_says() {
    for from in State::ALL.into_iter().filter(|s| *s != State::Standby) {
        for to in State::ALL {
            let made = std::panic::catch_unwind(|| {
                let mut e = fresh(Policy::RoundRobin, 2);
                into_state(&mut e, p(1), from);
                assert_eq!(e.state(p(1)), from, "test set-up");
                e.transition(at(5), p(1), to, "because");
                assert_eq!((e.state(p(1)), e.since(p(1)), e.reason(p(1))), (to, at(5), "because"));
                assert_eq!(e.active().contains(p(1)), to == State::Active);
                assert_eq!(e.suspects().contains(p(1)), to == State::Suspect);
                assert_eq!(e.down_since().is_none(), to.carries_io());
                assert_eq!(e.retry_at(p(1)).is_some(), to == State::Failed);
            });
            assert_eq!(made.is_ok(), from.may_become(to), "{from} -> {to}");
        }
    }
}

#[test]
#[should_panic(expected = "path #1 (p:1) cannot go from connecting to active: just so")]
fn an_illegal_transition_names_path_states_and_cause() {
    fresh(Policy::Failover, 2).transition(NOW, p(1), State::Active, "just so");
}

#[test]
fn there_is_room_for_a_fixed_number_of_paths() {
    let mut e = engine(Policy::RoundRobin, PATHS_PER_DEVICE_MAX);
    assert_eq!(e.add_path(NOW, info(99)), Err(TooManyPaths));
    assert_eq!(e.usable().len(), PATHS_PER_DEVICE_MAX);
    assert_eq!((e.find("p:31"), e.find("p:32")), (Some(p(31)), None));
}

#[test]
fn without_a_usable_path_nothing_is_chosen() {
    for policy in POLICIES {
        let mut e = fresh(policy, 2);
        assert_eq!(e.choose(Op::Read, 512, PathSet::EMPTY), None);
        assert_eq!((e.health(), e.down_since()), (DeviceHealth::Down, Some(NOW)));
        up(&mut e, at(1), p(1));
        assert_eq!(e.choose(Op::Read, 512, PathSet::EMPTY), Some(p(1)));
        assert_eq!((e.health(), e.down_since()), (DeviceHealth::Degraded, None));
        up(&mut e, at(2), p(0));
        assert_eq!(e.health(), DeviceHealth::Ok);
        e.transition(at(3), p(1), State::Failed, "reset by peer");
        e.transition(at(4), p(0), State::Failed, "reset by peer");
        assert_eq!((e.health(), e.down_since()), (DeviceHealth::Down, Some(at(4))));
        assert_eq!(e.choose(Op::Write, 512, PathSet::EMPTY), None);
    }
}

#[test]
fn suspect_paths_carry_i_o_only_when_nothing_is_active() {
    for policy in POLICIES {
        let mut e = engine(policy, 3);
        e.transition(NOW, p(0), State::Suspect, "owes an answer");
        assert_eq!(e.usable(), set(&[1, 2]));
        for _ in 0..20 {
            assert_ne!(e.choose(Op::Read, 512, PathSet::EMPTY), Some(p(0)), "{policy}");
        }
        e.transition(NOW, p(1), State::Suspect, "owes an answer");
        e.transition(NOW, p(2), State::Suspect, "owes an answer");
        assert_eq!((e.usable(), e.health()), (set(&[0, 1, 2]), DeviceHealth::Degraded));
        assert!(e.choose(Op::Write, 512, PathSet::EMPTY).is_some());
        e.transition(NOW, p(2), State::Active, "answered");
        assert_eq!(e.usable(), set(&[2]));
        assert_eq!(e.choose_among(READ, set(&[0])), Some(p(0)), "a retry may insist");
    }
}

#[test]
fn the_last_path_is_the_one_without_another_active() {
    let mut e = engine(Policy::RoundRobin, 3);
    assert!(!e.is_last(p(0)));
    e.transition(NOW, p(1), State::Failed, "");
    e.transition(NOW, p(2), State::Suspect, "");
    assert!(e.is_last(p(0)) && !e.is_last(p(1)) && !e.is_last(p(2)));
    e.transition(NOW, p(0), State::Suspect, "");
    assert!(e.is_last(p(0)) && e.is_last(p(2)), "each may be the one that lives");
}

#[test]
fn failover_waits_for_a_full_path_and_the_others_do_not() {
    let mut e = engine(Policy::Failover, 2);
    e.set_full(p(0), true);
    assert_eq!(e.choose(Op::Read, 512, PathSet::EMPTY), None);
    assert_eq!(e.choose(Op::Read, 512, set(&[0])), Some(p(1)), "it failed there: elsewhere");
    e.set_policy(NOW, Policy::RoundRobin);
    assert_eq!(e.choose(Op::Read, 512, PathSet::EMPTY), Some(p(1)));
    e.set_full(p(1), true);
    assert_eq!(e.choose(Op::Read, 512, PathSet::EMPTY), None);
    e.transition(NOW, p(0), State::Failed, "");
    up(&mut e, NOW, p(0));
    assert_eq!(e.choose(Op::Read, 512, PathSet::EMPTY), Some(p(0)), "a new session has room");
}

#[test]
fn failover_follows_preference_and_tells_when_it_switches() {
    let mut e = engine(Policy::Failover, 3);
    assert_eq!(e.choose(Op::Read, 512, PathSet::EMPTY), Some(p(0)));
    e.set_prefer(NOW, Some(p(2)));
    assert_eq!(e.choose(Op::Read, 512, PathSet::EMPTY), Some(p(2)));
    e.transition(NOW, p(2), State::Failed, "no answer for 1 s");
    assert_eq!(e.choose(Op::Read, 512, PathSet::EMPTY), Some(p(0)));
    let switches: Vec<_> = e.events().iter().filter(|event| event.what == What::Switched).collect();
    assert_eq!(
        switches.iter().map(|event| event.path).collect::<Vec<_>>(),
        [Some(p(0)), Some(p(2)), Some(p(0)),]
    );
    up(&mut e, NOW, p(2));
    assert_eq!(e.serving(), Some(p(2)), "failback at once is the default");
    e.set_prefer(NOW, None);
    assert_eq!(e.serving(), Some(p(0)));
}

#[test]
fn failback_after_a_time_has_its_deadline() {
    let mut e = engine(Policy::Failover, 2);
    e.set_failback(NOW, Failback::After(Duration::from_secs(10)));
    e.transition(at(0), p(0), State::Failed, "");
    assert_eq!(e.poll_retry(at(0)), Some(p(0)));
    up(&mut e, at(100), p(0));
    assert_eq!(e.serving(), Some(p(1)));
    assert_eq!(e.poll_deadline(), Some((at(10_100), Deadline::Failback)));
    e.handle_timeout(at(10_099));
    assert_eq!(e.serving(), Some(p(1)));
    e.handle_timeout(at(10_100));
    assert_eq!((e.serving(), e.poll_deadline()), (Some(p(0)), None));
}

#[test]
fn a_failed_path_is_due_once_for_each_failure() {
    let mut e = engine(Policy::RoundRobin, 2);
    assert_eq!(e.poll_deadline(), None);
    let retry = e.fail(at(1), p(0), Failure::Transient, Duration::from_secs(5), "reset by peer");
    assert_eq!(retry, at(1), "at once, below the target's Time2Wait");
    assert_eq!(e.poll_deadline(), Some((at(1), Deadline::Retry(p(0)))));
    assert_eq!((e.poll_retry(at(0)), e.poll_retry(at(1))), (None, Some(p(0))));
    assert_eq!((e.poll_retry(at(1)), e.poll_deadline()), (None, None));
    e.transition(at(1), p(0), State::Connecting, "");
    let retry = e.fail(at(2), p(0), Failure::Transient, Duration::ZERO, "refused");
    assert!(retry > at(2) && retry <= at(102));
    e.retry_now(at(3), p(0));
    assert_eq!(e.poll_retry(at(3)), Some(p(0)));
    assert_eq!((e.failures(p(0)), e.last_failure(p(0))), (2, "refused"));
    e.transition(at(3), p(0), State::Disabled, "by administrator");
    assert_eq!((e.retry_at(p(0)), e.poll_deadline()), (None, None));
    assert_eq!(e.last_failure(p(0)), "refused", "being disabled is no failure");
}

#[test]
fn enabling_forgets_the_back_off_and_a_recheck_is_no_loss() {
    let mut e = engine(Policy::RoundRobin, 1);
    for round in 0..20 {
        e.transition(at(round), p(0), State::Probing, "recheck");
        e.transition(at(round), p(0), State::Active, "");
    }
    assert!(!e.is_flapping(p(0)));
    for round in 0..6 {
        e.transition(at(round), p(0), State::Failed, "");
        up(&mut e, at(round), p(0));
    }
    assert!(e.is_flapping(p(0)));
    e.transition(at(50), p(0), State::Disabled, "");
    e.transition(at(60), p(0), State::Connecting, "enabled");
    assert!(!e.is_flapping(p(0)));
}

#[test]
fn a_path_from_suspicion_gets_reads_then_one_write_then_all() {
    let mut e = engine(Policy::RoundRobin, 2);
    e.transition(NOW, p(0), State::Suspect, "");
    e.transition(NOW, p(0), State::Active, "answered");
    assert_eq!(e.wants_read(), set(&[0]));
    let next = |e: &mut Engine, op| {
        e.begin_batch();
        let path = e.choose(op, 512, PathSet::EMPTY).expect("a path");
        e.started(path, op, 512);
        path
    };
    let ms = Duration::from_millis(1);
    for _ in 0..10 {
        assert_eq!(next(&mut e, Op::Write), p(1));
    }
    while next(&mut e, Op::Read) != p(0) {}
    e.finished(NOW + ms, p(0), Op::Read, 512, NOW, Ended::Good);
    assert!(e.wants_read().is_empty());
    let second: Vec<_> = (0..10).map(|_| next(&mut e, Op::Write)).collect();
    assert_eq!(second.iter().filter(|path| **path == p(0)).count(), 1, "one at a time");
    e.finished(NOW + ms, p(0), Op::Write, 512, NOW, Ended::Good);
    let third: Vec<_> = (0..10).map(|_| next(&mut e, Op::Write)).collect();
    assert_eq!(third.iter().filter(|path| **path == p(0)).count(), 5);
    assert_eq!((e.in_flight(p(0)), e.stats(p(0)).writes, e.stats(p(0)).reads), (5, 1, 1));
}

#[test]
fn retries_of_a_dead_path_do_not_push_out_other_events() {
    let mut e = fresh(Policy::RoundRobin, 2);
    e.set_clock(NOW, Stamp(1_000_000));
    up(&mut e, NOW, p(1));
    for n in 0..1000 {
        e.transition(at(n), p(0), State::Failed, "connection refused");
        e.transition(at(n), p(0), State::Connecting, "");
    }
    e.set_policy(at(2000), Policy::Failover);
    let seen: Vec<_> =
        e.events().iter().map(|event| (event.at.0, event.path, event.what, event.times)).collect();
    let clock = WallClock::new(NOW, Stamp(1_000_000));
    assert_eq!(
        seen,
        [
            (1_000_000, Some(p(1)), What::State(State::Probing), 1),
            (1_000_000, Some(p(1)), What::State(State::Active), 1),
            (clock.stamp(at(999)).0, Some(p(0)), What::State(State::Failed), 1000),
            (1_002_000, None, What::Policy(Policy::Failover), 1),
        ]
    );
    assert_eq!(e.events().iter().last().map(|event| &*event.why), Some("round-robin -> failover"));
}

#[test]
fn the_tally_counts_every_path_once() {
    let mut e = engine(Policy::RoundRobin, 4);
    e.transition(NOW, p(0), State::Suspect, "");
    e.transition(NOW, p(1), State::Disabled, "");
    let tally = e.tally();
    assert_eq!(State::ALL.map(|state| tally.of(state)), [0, 0, 2, 0, 1, 0, 1, 0]);
    assert_eq!(tally.total(), 4);
}

/// What a random run does.
#[derive(Debug, Clone)]
enum Step {
    Batch(usize),
    Finish(usize),
    Lose(usize),
    Suspect(usize),
    Return(usize),
    Switch(Policy),
    Full(usize, bool),
    Weigh(usize, u32),
    Access(usize, u8),
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1usize..20).prop_map(Step::Batch),
        8 => (0usize..500).prop_map(Step::Finish),
        1 => (0usize..32).prop_map(Step::Lose),
        1 => (0usize..32).prop_map(Step::Suspect),
        2 => (0usize..32).prop_map(Step::Return),
        2 => prop::sample::select(POLICIES.to_vec()).prop_map(Step::Switch),
        1 => (0usize..32, any::<bool>()).prop_map(|(path, full)| Step::Full(path, full)),
        1 => (0usize..32, 0u32..4).prop_map(|(path, weight)| Step::Weigh(path, weight)),
        1 => (0usize..32, 0u8..16).prop_map(|(path, bits)| Step::Access(path, bits)),
    ]
}

fn access(bits: u8) -> Option<Access> {
    let access = Access { state: AccessState::from_bits(bits), preferred: bits > 8, group: 1 };
    (bits < 15).then_some(access)
}

proptest! {
    /// Under any load and any change of states and policy: whatever is chosen may be used, something is
    /// chosen whenever something can be, and no command is lost from the count.
    #[test]
    fn any_run_chooses_only_what_may_be_used(
        n in prop_oneof![Just(2usize), Just(3), Just(32)],
        exclude_mask: u32,
        steps in prop::collection::vec(a_step(), 0..200),
    ) {
        let mut e = engine(Policy::RoundRobin, n);
        let mut flying: Vec<(PathIndex, Op)> = Vec::new();
        let mut full = PathSet::EMPTY;
        for (turn, step) in steps.into_iter().enumerate() {
            let now = at(turn as u64 * 20_000);
            match step {
                Step::Batch(len) => {
                    e.begin_batch();
                    for i in 0..len {
                        let exclude = if i % 5 == 4 { PathSet(u64::from(exclude_mask)) } else { PathSet::EMPTY };
                        let op = if i % 2 == 0 { Op::Read } else { Op::Write };
                        let allowed = e.usable().minus(exclude);
                        match e.choose(op, 4096, exclude) {
                            Some(path) => {
                                prop_assert!(allowed.contains(path) && !full.contains(path));
                                e.started(path, op, 4096);
                                flying.push((path, op));
                            }
                            None => {
                                let waits = e.policy() == Policy::Failover || !full.is_empty();
                                prop_assert!(allowed.is_empty() || waits && !full.and(allowed).is_empty());
                            }
                        }
                    }
                }
                Step::Finish(which) if !flying.is_empty() => {
                    let (path, op) = flying.swap_remove(which % flying.len());
                    e.finished(now + Duration::from_micros(90), path, op, 4096, now, Ended::Good);
                }
                Step::Finish(_) => {}
                Step::Lose(path) if path < n && e.state(p(path)).carries_io() => {
                    e.transition(now, p(path), State::Failed, "lost");
                    full.remove(p(path));
                    flying.retain(|(on, op)| {
                        if *on == p(path) {
                            e.finished(now, *on, *op, 4096, now, Ended::Lost);
                        }
                        *on != p(path)
                    });
                    prop_assert_eq!(e.in_flight(p(path)), 0);
                }
                Step::Suspect(path) if path < n && e.state(p(path)) == State::Active => {
                    e.transition(now, p(path), State::Suspect, "");
                }
                Step::Return(path) if path < n => match e.state(p(path)) {
                    State::Failed => up(&mut e, now, p(path)),
                    State::Suspect => e.transition(now, p(path), State::Active, ""),
                    _ => {}
                },
                Step::Lose(_) | Step::Suspect(_) | Step::Return(_) => {}
                Step::Switch(policy) => e.set_policy(now, policy),
                Step::Full(path, is_full) if path < n && e.state(p(path)).carries_io() => {
                    e.set_full(p(path), is_full);
                    full.set(p(path), is_full);
                }
                Step::Weigh(path, weight) if path < n => e.set_weight(p(path), weight),
                Step::Access(path, bits) if path < n => e.set_access(now, p(path), access(bits)),
                Step::Full(..) | Step::Weigh(..) | Step::Access(..) => {}
            }
            let in_flight: u32 = e.paths().map(|path| e.in_flight(path)).sum();
            prop_assert_eq!(in_flight as usize, flying.len());
            prop_assert_eq!(e.down_since().is_some(), e.usable().is_empty());
        }
    }

    /// A switch under load takes effect with the next command, and shares are even again at once.
    #[test]
    fn a_policy_switch_takes_effect_at_once(
        n in prop_oneof![Just(2usize), Just(3), Just(32)],
        before in prop::collection::vec(1usize..30, 1..20),
    ) {
        let mut e = engine(Policy::Failover, n);
        for len in &before {
            e.begin_batch();
            for _ in 0..*len {
                prop_assert_eq!(e.choose(Op::Read, 4096, PathSet::EMPTY), Some(p(0)));
                e.started(p(0), Op::Read, 4096);
            }
        }
        e.set_policy(NOW, Policy::RoundRobin);
        let mut counts = vec![0; n];
        for len in before.iter().cycle().take(8 * n) {
            e.begin_batch();
            for _ in 0..*len {
                let path = e.choose(Op::Read, 4096, PathSet::EMPTY).expect("a path");
                counts[path.get()] += 1;
            }
            let (min, max) = (counts.iter().min(), counts.iter().max());
            prop_assert!(max.expect("n > 0") - min.expect("n > 0") <= 8, "{counts:?}");
        }
        e.set_policy(NOW, Policy::LeastQueueDepth);
        e.begin_batch();
        prop_assert_ne!(e.choose(Op::Read, 4096, PathSet::EMPTY), Some(p(0)), "it has a queue");
        e.set_policy(NOW, Policy::Failover);
        prop_assert_eq!(e.choose(Op::Read, 4096, PathSet::EMPTY), Some(p(0)));
    }
}
