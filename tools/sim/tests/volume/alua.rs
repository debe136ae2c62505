//! Asymmetric access: which paths are used, when the storage is asked, and what it may lie about.

use mpio::base::Duration;
use mpio::path::{Policy, State};
use mpio::volume::spec::Tunables;
use mpio::wire::scsi::{AccessState, Emit, PortGroup, PortGroups};
use mpio_sim::world::{Setup, World, pattern};
use mpio_target::faults::Commands;
use mpio_target::wire::scsi::AccessState as Theirs;
use mpio_target::{Fault, Lie, PairConfig, Rule};

const INQUIRY: u8 = 0x12;
const READ: u8 = 0x28;
const WRITE: u8 = 0x2a;

fn pair(states: [Theirs; 2], by: u8) -> PairConfig {
    let mut pair = PairConfig::default();
    for (node, state) in pair.nodes.iter_mut().zip(states) {
        node.abilities.alua = Some(state.bits());
        node.abilities.alua_by = by;
        // The states are what a test looks at.
        node.abilities.alua_transition_secs = 0;
    }
    pair
}

fn setup(states: [Theirs; 2]) -> Setup {
    Setup { pair: pair(states, 1), policy: Policy::RoundRobinSubset, ..Setup::default() }
}

use Theirs::{
    ActiveNonOptimized as Slow, ActiveOptimized as Fast, Offline, Standby, Transitioning,
    Unavailable,
};

fn access(w: &World, path: usize) -> Option<AccessState> {
    w.volumes[0].snapshot().paths[path].access.map(|access| access.state)
}

fn until_states(w: &mut World, states: [State; 2]) -> Duration {
    w.until(&format!("{states:?}"), |w| [w.state(0), w.state(1)] == states)
}

fn writes(w: &mut World, client: usize, count: u64) {
    for n in 0..count {
        w.write(client, n * 4096, &pattern(n, 4096)).expect("written");
    }
}

fn writes_by(w: &World) -> [usize; 2] {
    [w.executed(0, WRITE), w.executed(1, WRITE)]
}

#[test]
fn the_storage_is_asked_before_a_path_is_used() {
    let mut w = World::new(setup([Fast, Slow]));
    let c = w.client();
    assert_eq!(access(&w, 0), Some(AccessState::ActiveOptimized));
    assert_eq!(access(&w, 1), Some(AccessState::ActiveNonOptimized));
    writes(&mut w, c, 64);
    assert_eq!(writes_by(&w), [64, 0], "only the optimized path");
    w.kill(0);
    writes(&mut w, c, 8);
    assert_eq!(writes_by(&w)[1], 8, "others when none is left");
    w.start(0);
    w.until_active();
    writes(&mut w, c, 8);
    assert_eq!(writes_by(&w), [72, 8], "and back");
    assert_eq!(w.logged("access state"), 0, "nothing to complain about");
    w.finish();
}

#[test]
fn without_alua_nothing_is_asked() {
    let mut w = World::new(Setup::default());
    w.run(Duration::from_secs(20));
    let known = |w: &World, path: usize| w.volumes[0].snapshot().paths[path].access_known;
    assert_eq!((access(&w, 0), known(&w, 0), known(&w, 1)), (None, true, true));
    assert_eq!(w.logged("access state"), 0);
    w.finish();
}

/// SPC-4, Standby and Unavailable: such a path keeps its session, is asked, and carries nothing.
#[test]
fn paths_that_stand_by_are_never_used_and_come_back() {
    for idle in [Standby, Unavailable, Offline] {
        let mut w = World::cold(setup([Fast, idle]));
        until_states(&mut w, [State::Active, State::Standby]);
        let c = w.client();
        writes(&mut w, c, 16);
        w.run(Duration::from_secs(20));
        assert_eq!(writes_by(&w), [16, 0], "{idle}");
        assert_eq!((w.state(1), w.failures(1)), (State::Standby, 0), "{idle}");
        let ok = w.volumes[0].health();
        assert_eq!(ok, mpio::path::DeviceHealth::Ok, "standby is no fault");
        // Nobody tells: found by asking.
        w.pair.access().set_silently([Fast, Fast]);
        let took = w.until_active();
        assert!(took <= Duration::from_millis(5_020), "{idle}: {took:?}");
        writes(&mut w, c, 16);
        assert!(writes_by(&w)[1] > 0, "{idle}");
        w.finish();
    }
}

/// 2A/06 comes with some answer: within a millisecond all paths know, and nothing has failed.
#[test]
fn a_change_is_followed_at_once() {
    let mut w = World::new(setup([Fast, Slow]));
    let c = w.client();
    writes(&mut w, c, 4);
    w.pair.access().set([Slow, Fast]);
    let from = w.now;
    w.read(c, 0, 4096).expect("read");
    let fast = Some(AccessState::ActiveOptimized);
    w.until("both know", |w| access(w, 0) != fast && access(w, 1) == fast);
    assert!(w.now - from <= Duration::from_millis(1), "{:?}", w.now - from);
    let before = writes_by(&w);
    writes(&mut w, c, 16);
    assert_eq!(writes_by(&w), [before[0], before[1] + 16]);
    assert_eq!((w.failures(0), w.failures(1), w.logged("probing")), (0, 0, 0));
    w.finish();
}

/// The storage moves the unit to the other node, for good and without a gap.
#[test]
fn a_failover_of_the_storage_costs_milliseconds() {
    let mut w = World::cold(setup([Fast, Standby]));
    until_states(&mut w, [State::Active, State::Standby]);
    let c = w.client();
    writes(&mut w, c, 4);
    for states in [[Standby, Fast], [Fast, Standby], [Unavailable, Slow]] {
        w.pair.access().set(states);
        let from = w.now;
        let tokens: Vec<u64> =
            (0..32).map(|n| w.start_write(c, n * 4096, pattern(n, 4096))).collect();
        for token in tokens {
            w.answer(c, token).expect("no error");
        }
        let took = w.now - from;
        assert!(took <= Duration::from_millis(20), "{states:?}: {took:?}\n{}", w.story());
        let used = if states[0] == Fast { 0 } else { 1 };
        assert_eq!((w.state(used), w.state(1 - used)), (State::Active, State::Standby));
    }
    assert_eq!((w.failures(0), w.failures(1)), (0, 0));
    w.finish();
}

/// The node of the only path that could ever be read dies, and the unit moves to the other one: it is taken since
/// the storage has named its port over the first path. One that it has not named waits for something that its
/// content can be compared with.
#[test]
fn only_a_port_that_the_storage_has_named_stands_in() {
    let own = (1, AccessState::ActiveOptimized);
    // LIO cuts the last port off.
    let mut cut = groups(&[own, (2, AccessState::Standby)]);
    cut.truncate(cut.len() - 4);
    let unnamed = groups(&[own]);
    // Its group is the last one, with another port, and nothing is cut off.
    let mut others = groups(&[own, (2, AccessState::Standby)]);
    *others.last_mut().expect("a port") = 7;
    let cases = [(true, None), (true, Some(cut)), (false, Some(unnamed)), (false, Some(others))];
    for (named, told) in cases {
        let mut w = World::cold(setup([Fast, Standby]));
        w.pair.access().lie(0, told.map(Lie::Answer));
        until_states(&mut w, [State::Active, State::Standby]);
        let c = w.client();
        writes(&mut w, c, 4);
        w.kill(0);
        w.pair.access().set([Fast, Fast]);
        let token = w.start_write(c, 0, pattern(9, 4096));
        w.run(Duration::from_secs(20));
        assert_eq!(w.is_done(c, token), named, "{}", w.story());
        if !named {
            assert_eq!(w.state(1), State::Probing);
            assert!(w.reason(1).contains("path in service"), "{}", w.reason(1));
        }
        w.start(0);
        w.until_active();
        w.answer(c, token).expect("written");
        w.finish();
    }
}

/// What is in flight on a path that stands by ends there.
#[test]
fn commands_in_flight_stay() {
    let mut w = World::new(setup([Fast, Slow]));
    let c = w.client();
    w.faults(0).set("slow", "delay=50ms,on=writes".parse::<Rule>().expect("a rule"));
    let token = w.start_write(c, 0, pattern(1, 4096));
    w.run_ms(2);
    // The command itself is still carried out, as one that had begun before the change is.
    let states = groups(&[(1, AccessState::Standby), (2, AccessState::ActiveOptimized)]);
    w.pair.access().lie(0, Some(Lie::Answer(states)));
    w.node(0).unit_attention(0x2a, 0x06);
    w.read(c, 8192, 512).expect("read");
    w.until_state(0, State::Standby);
    w.answer(c, token).expect("written");
    assert_eq!(writes_by(&w), [1, 0], "not repeated elsewhere\n{}", w.story());
    w.finish();
}

#[test]
fn a_transition_is_waited_for() {
    let mut w = World::cold(setup([Fast, Standby]));
    until_states(&mut w, [State::Active, State::Standby]);
    let c = w.client();
    writes(&mut w, c, 2);
    w.pair.access().set([Transitioning, Transitioning]);
    let token = w.start_write(c, 0, pattern(9, 4096));
    w.run(Duration::from_secs(9));
    assert!(!w.is_done(c, token), "queued, not failed");
    assert_eq!((w.state(0), w.state(1)), (State::Standby, State::Standby));
    assert!(w.reason(0).contains("transitioning"), "{}", w.reason(0));
    w.pair.access().set([Standby, Fast]);
    let from = w.now;
    w.answer(c, token).expect("written");
    assert!(w.now - from <= Duration::from_millis(200), "{:?}", w.now - from);
    assert_eq!((w.failures(0), w.failures(1)), (0, 0), "{}", w.story());
    w.finish();
}

/// The target's own time comes before the tunable; after it the path has failed, and says why.
#[test]
fn a_transition_that_does_not_end_is_a_failure() {
    for (told, limit) in [(0, 7), (3, 3)] {
        let tunables =
            Tunables { alua_transition_timeout: Duration::from_secs(7), ..Tunables::default() };
        let mut setup = Setup { tunables, ..setup([Fast, Fast]) };
        setup.pair.nodes[1].abilities.alua_transition_secs = told;
        let mut w = World::new(setup);
        w.client();
        w.pair.access().set([Fast, Transitioning]);
        w.until_state(1, State::Standby);
        let took = w.until_state(1, State::Failed);
        let limit = Duration::from_secs(limit);
        assert!(took >= limit && took < limit + Duration::from_millis(200), "{took:?}");
        assert!(w.reason(1).contains("has not come to an end"), "{}", w.reason(1));
        w.pair.access().set([Fast, Fast]);
        w.until_active();
        w.finish();
    }
}

#[test]
fn the_preferred_group_serves_under_failover() {
    let mut w = World::new(Setup { policy: Policy::Failover, ..setup([Fast, Fast]) });
    let c = w.client();
    w.pair.access().prefer(Some(1));
    w.read(c, 0, 512).expect("read");
    w.run_ms(2);
    writes(&mut w, c, 8);
    assert_eq!(writes_by(&w), [0, 8]);
    w.finish();
}

// SET TARGET PORT GROUPS.

fn explicit(states: [Theirs; 2], by: u8) -> World {
    World::cold(Setup { pair: pair(states, by), ..setup(states) })
}

/// SPC-4, SET TARGET PORT GROUPS: asked for when the last path that serves is gone.
#[test]
fn the_storage_is_asked_to_serve_what_is_left() {
    for by in [2, 3] {
        let mut w = explicit([Fast, Standby], by);
        until_states(&mut w, [State::Active, State::Standby]);
        let c = w.client();
        writes(&mut w, c, 4);
        w.run(Duration::from_secs(22));
        assert_eq!(w.pair.access().states()[1], Some(Standby), "not without need");
        w.kill(0);
        let from = w.now;
        writes(&mut w, c, 1);
        assert!(w.now - from <= Duration::from_millis(50), "{:?}", w.now - from);
        assert_eq!(w.pair.access().states(), [Some(Standby), Some(Fast)]);
        w.start(0);
        until_states(&mut w, [State::Standby, State::Active]);
        w.run(Duration::from_secs(100));
        let now = w.pair.access().states();
        assert_eq!(now, [Some(Standby), Some(Fast)], "no way back without need");
        w.finish();
    }
}

/// Each lane finds for itself that no path is left; the storage is asked by one of them.
#[test]
fn of_several_lanes_one_asks() {
    const MAINTENANCE_OUT: u8 = 0xa4;
    for lanes in [2, 4] {
        let states = [Fast, Standby];
        let mut w = World::cold(Setup { lanes, pair: pair(states, 2), ..setup(states) });
        let on = |w: &World, path, state| {
            (0..usize::from(lanes)).all(|lane| w.state_on(lane, path) == state)
        };
        w.until("up", |w| on(w, 0, State::Active) && on(w, 1, State::Standby));
        let asked = |w: &World| w.faults(1).struck("late");
        // Its answer takes longer than the lanes need to find out that they have no path.
        let late = Rule::new(Fault::Delay(Duration::from_millis(300), Duration::from_millis(300)));
        let late = late.on(Commands::Opcode(MAINTENANCE_OUT));
        w.faults(1).set("late", late);
        w.kill(0);
        w.until("served", |w| on(w, 1, State::Active));
        assert_eq!(asked(&w), 1, "{lanes} lanes");
        // And each lane carries commands there.
        for lane in 0..usize::from(lanes) {
            let c = w.client_on(lane);
            w.write(c, lane as u64 * 4096, &pattern(1, 4096)).expect("written");
        }
        w.run(Duration::from_secs(60));
        assert_eq!(asked(&w), 1, "{lanes} lanes");
        w.finish();
    }
}

/// One that only waits for its other path to come up does not move the unit of other hosts.
#[test]
fn at_the_start_the_other_path_is_waited_for() {
    let mut w = explicit([Fast, Standby], 2);
    w.portals[0].delay = Duration::from_millis(100);
    until_states(&mut w, [State::Active, State::Standby]);
    assert_eq!(w.pair.access().states(), [Some(Fast), Some(Standby)]);
    // Nor for ever: nothing else comes.
    let mut w = explicit([Standby, Standby], 2);
    let took = w.until("served", |w| w.state(0) == State::Active || w.state(1) == State::Active);
    assert!(took < Duration::from_secs(4), "{took:?}");
}

/// Less than optimized is reason enough only where nobody else acts, and only after a while.
#[test]
fn a_slow_path_is_made_fast_only_where_the_storage_never_would() {
    for (by, moved) in [(3, false), (2, true)] {
        let mut w = explicit([Fast, Slow], by);
        w.until_active();
        let c = w.client();
        w.kill(0);
        w.run(Duration::from_secs(4));
        assert_eq!(w.pair.access().states()[1], Some(Slow), "not at once");
        w.run(Duration::from_secs(10));
        let fast = w.pair.access().states()[1] == Some(Fast);
        assert_eq!(fast, moved, "TPGS {by}\n{}", w.story());
        writes(&mut w, c, 2);
        w.finish();
    }
}

/// An optimized path that is being read again is waited for, as at the start, but not for ever: other hosts may
/// have the unit where it is.
#[test]
fn an_optimized_path_on_its_way_back_is_waited_for() {
    for (delay, moved) in [(3, false), (20, true)] {
        let mut w = explicit([Fast, Slow], 2);
        w.until_active();
        w.kill(0);
        w.run_ms(2500);
        let delay = Duration::from_secs(delay);
        let slow = Rule::new(Fault::Delay(delay, delay)).on(Commands::Opcode(INQUIRY)).times(1);
        w.faults(0).set("slow", slow);
        w.start(0);
        w.until("read again", |w| w.faults(0).struck("slow") == 1);
        w.run(Duration::from_secs(2));
        assert_eq!((w.state(0), w.state(1)), (State::Probing, State::Active));
        w.run(Duration::from_secs(8));
        let fast = w.pair.access().states()[1] == Some(Fast);
        assert_eq!(fast, moved, "{delay:?}\n{}", w.story());
        w.until_active();
        w.finish();
    }
}

/// Another host wants the opposite: each turn comes later than the one before, up to a minute.
#[test]
fn two_hosts_that_disagree_do_not_fight() {
    let mut w = explicit([Fast, Standby], 2);
    until_states(&mut w, [State::Active, State::Standby]);
    let c = w.client();
    writes(&mut w, c, 1);
    w.kill(0);
    let from = w.now;
    let mut times = Vec::new();
    while w.now - from < Duration::from_secs(300) {
        if w.pair.access().states()[1] == Some(Fast) {
            times.push(w.now - from);
            w.pair.access().set([Fast, Standby]);
        }
        w.run_ms(20);
    }
    let gaps: Vec<_> = times.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(times.len() >= 6 && times.len() <= 10, "{times:?}");
    assert!(gaps.is_sorted() || gaps.last() >= Some(&Duration::from_secs(59)), "{gaps:?}");
    assert!(gaps[0] >= Duration::from_secs(2), "{gaps:?}");
}

/// 04/67/0A and 05/26: the storage refuses; it is told, and asked again only after a while.
#[test]
fn a_refusal_is_told_and_not_repeated_blindly() {
    let mut w = explicit([Fast, Standby], 2);
    until_states(&mut w, [State::Active, State::Standby]);
    w.client();
    let rule = "sense=4/67/0a,on=a4".parse::<Rule>().expect("a rule");
    w.faults(1).set("refuse", rule);
    w.kill(0);
    w.run(Duration::from_secs(20));
    let told = w.log.iter().filter(|n| n.why.contains("SET TARGET PORT GROUPS")).count();
    assert_eq!((told, w.state(1)), (1, State::Standby), "{}", w.story());
    w.faults(1).remove("refuse");
    w.until_state(1, State::Active);
    w.finish();
}

// Lies.

fn groups(groups: &[(u16, AccessState)]) -> Vec<u8> {
    let one = |(group, state): &(u16, AccessState)| PortGroup {
        group: *group,
        state: *state,
        preferred: false,
        supported: 0x0f,
        status: 0,
        ports: vec![*group],
        ports_cut: false,
    };
    let groups = groups.iter().map(one).collect();
    PortGroups { transition_secs: Some(0), groups, available: 0 }.to_vec()
}

/// Nonsense on one path: it is told once, and the device serves with what makes sense.
#[test]
fn nonsense_is_safe_and_told() {
    use AccessState::{ActiveOptimized, Unavailable, Unknown};
    let mut long = groups(&[(1, ActiveOptimized), (2, ActiveOptimized)]);
    long[..4].copy_from_slice(&[0, 0, 0x20, 0]);
    let mut running = groups(&[(2, ActiveOptimized)]);
    running.truncate(15);
    let cases: [(&str, Vec<u8>, State); 8] = [
        ("not among", groups(&[(1, ActiveOptimized), (77, Unavailable)]), State::Active),
        ("not among", groups(&[]), State::Active),
        ("listed 2 times", groups(&[(2, ActiveOptimized), (2, Unavailable)]), State::Standby),
        ("state 0x7", groups(&[(2, Unknown(7))]), State::Active),
        ("shorter than it says", long, State::Active),
        ("not among", running, State::Active),
        ("cannot be read", vec![0; 2], State::Active),
        ("not among", vec![0; 4], State::Active),
    ];
    for (what, answer, state) in cases {
        let mut w = World::cold(setup([Fast, Fast]));
        w.pair.access().lie(1, Some(Lie::Answer(answer)));
        until_states(&mut w, [State::Active, state]);
        let c = w.client();
        writes(&mut w, c, 16);
        w.run(Duration::from_secs(21));
        assert_eq!([w.state(0), w.state(1)], [State::Active, state], "{what}");
        let told = w.log.iter().filter(|n| n.why.contains(what)).count();
        assert_eq!((told, w.failures(1)), (1, 0), "{what}\n{}", w.story());
        w.pair.access().lie(1, None);
        w.until_active();
        w.finish();
    }
}

#[test]
fn targets_without_the_command_or_its_long_form() {
    let mut w = World::cold(setup([Fast, Standby]));
    w.pair.access().lie(0, Some(Lie::NoExtendedHeader));
    w.pair.access().lie(1, Some(Lie::NoExtendedHeader));
    until_states(&mut w, [State::Active, State::Standby]);
    assert_eq!(w.logged("access state"), 0);
    w.finish();
    let mut w = World::cold(setup([Fast, Slow]));
    w.pair.access().lie(1, Some(Lie::NoCommand));
    w.until_active();
    assert_eq!((access(&w, 1), w.logged("access state")), (None, 1));
    w.finish();
    // Without type 5 in page 83h no group is this port's.
    let mut setup = setup([Fast, Slow]);
    setup.pair.nodes[1].abilities.alua_group_told = false;
    let w = World::new(setup);
    assert_eq!((access(&w, 0).is_some(), access(&w, 1)), (true, None));
    assert_eq!(w.logged("access state"), 1);
    w.finish();
}

/// The states say that it serves, every command that it does not: no busy loop, and not used.
#[test]
fn a_contradiction_is_asked_ever_more_seldom() {
    let mut w = World::cold(setup([Fast, Standby]));
    let fast = groups(&[(1, AccessState::ActiveOptimized), (2, AccessState::ActiveOptimized)]);
    w.pair.access().lie(1, Some(Lie::Answer(fast)));
    until_states(&mut w, [State::Active, State::Standby]);
    w.run(Duration::from_secs(1));
    assert!(w.reason(1).contains("does not serve"), "{}", w.reason(1));
    let executed =
        |w: &World| w.pair.counters(1).commands.load(std::sync::atomic::Ordering::Relaxed);
    let before = executed(&w);
    w.run(Duration::from_secs(60));
    assert!(executed(&w) - before <= 50, "{}", executed(&w) - before);
    assert_eq!((w.state(1), w.failures(1)), (State::Standby, 0));
    w.finish();
}

/// A path that was away has its states read again before it carries anything.
#[test]
fn a_path_that_returns_is_asked_again() {
    let mut w = World::new(setup([Fast, Slow]));
    let c = w.client();
    w.kill(0);
    w.pair.access().set([Standby, Fast]);
    w.run_ms(50);
    w.start(0);
    until_states(&mut w, [State::Standby, State::Active]);
    let before = w.executed(0, READ) + w.executed(0, WRITE);
    writes(&mut w, c, 8);
    assert_eq!(w.executed(0, READ) + w.executed(0, WRITE), before);
    w.finish();
}

/// A LUN that hangs while the path stands by: no answer is no reason to trust it.
#[test]
fn a_standby_path_that_does_not_answer_fails() {
    let mut w = World::cold(setup([Fast, Standby]));
    until_states(&mut w, [State::Active, State::Standby]);
    w.faults(1).set("mute", "mute,on=a3".parse::<Rule>().expect("a rule"));
    w.until_state(1, State::Failed);
    assert!(w.reason(1).contains("access state"), "{}", w.reason(1));
    w.faults(1).remove("mute");
    w.until_state(1, State::Standby);
    w.finish();
}

/// The same on a path in service that carries nothing now.
#[test]
fn an_idle_path_that_does_not_answer_is_suspect() {
    let mut w = World::new(setup([Fast, Fast]));
    let c = w.client();
    w.faults(1).set("mute", "mute,on=a3".parse::<Rule>().expect("a rule"));
    let took = w.until_state(1, State::Suspect);
    assert!(took <= Duration::from_millis(7_100), "{took:?}");
    w.faults(1).remove("mute");
    w.until_active();
    writes(&mut w, c, 4);
    assert_eq!(w.failures(1), 0, "{}", w.story());
    w.finish();
}

/// Disabled while it stands by, and drained: both end at once.
#[test]
fn standby_paths_log_out() {
    let mut w = World::cold(setup([Fast, Standby]));
    until_states(&mut w, [State::Active, State::Standby]);
    let now = w.now;
    w.volume().disable_path(now, "b:1", false).expect("not the last one");
    w.run_ms(5);
    assert_eq!((w.state(1), w.node(1).sessions()), (State::Disabled, 0));
    let now = w.now;
    w.volume().enable_path(now, "b:1").expect("known");
    w.until_state(1, State::Standby);
    let now = w.now;
    w.volume().drain(now);
    let took = w.until("drained", |w| w.drained[0]);
    assert!(took < Duration::from_millis(10), "{took:?}");
    assert_eq!((w.node(0).sessions(), w.node(1).sessions()), (0, 0));
}
