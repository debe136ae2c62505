//! Write ownership: what was given up after its first byte left is in doubt, and nothing that overlaps it
//! is sent before the proof. The journal of the pair is the witness.

use super::doubt::{cut_off, doubtful, hang_one, reconnect, setup};
use mpio::base::Duration;
use mpio::path::{BlockRange, FenceMode, State};
use mpio::volume::admin::AdminError;
use mpio::volume::spec::{FenceProof, Tunables};
use mpio_sim::net::{Net, ways};
use mpio_sim::world::{Setup, World, pattern, portal_addr};
use mpio_target::faults::Commands;
use mpio_target::{Fault, Rule};

const WRITE_10: u8 = 0x2a;

fn hang_writes(w: &World, node: usize) {
    w.faults(node).set("hang", Rule::new(Fault::Hold).on(Commands::Writes).blocks(0, 8));
}

/// A write of blocks 0 to 7 is in doubt, and the client's next one to the same blocks waits for it.
fn overlapped(tunables: Tunables) -> (World, usize, u64) {
    let mut w = World::new(setup(tunables));
    let c = w.client();
    doubtful(&mut w, c);
    let overlapping = w.start_write(c, 0, pattern(2, 4096));
    (w, c, overlapping)
}

/// The same on a path that lives, whose node answers task management by `rule`.
fn overlapped_alive(tunables: Tunables, rule: Rule) -> (World, usize, u64) {
    let mut w = World::new(setup(tunables));
    let c = w.client();
    hang_one(&w, 0);
    w.faults(0).set("tmf", rule);
    let token = w.start_write(c, 0, pattern(1, 4096));
    w.answer(c, token).expect("repeated on the other path");
    let overlapping = w.start_write(c, 0, pattern(2, 4096));
    (w, c, overlapping)
}

/// Counts task management on a node: the rule never speaks.
fn resets(w: &World, node: usize) -> u64 {
    w.faults(node).struck("tmf")
}

#[test]
fn a_later_overlapping_write_waits_for_the_proof() {
    let mut w = World::new(setup(Tunables::default()));
    let c = w.client();
    doubtful(&mut w, c);
    let overlapping = w.start_write(c, 3584, pattern(2, 4096));
    let beside = w.start_write(c, 4096 + 4096, pattern(3, 4096));
    w.answer(c, beside).expect("does not overlap");
    w.run(Duration::from_secs(10));
    assert!(!w.is_done(c, overlapping), "held while the old copy may land");
    assert_eq!(w.volume().snapshot().held, 1);
    assert_eq!(w.read(c, 0, 4096).expect("reads go on"), pattern(1, 4096));
    w.portals[0].net = Net::Works;
    w.answer(c, overlapping).expect("proven");
    w.until_active();
    assert_eq!(w.node(0).held(), 0, "the reset has ended the old copy");
    let fences = w.volume().snapshot().fences;
    assert_eq!((fences.pending, fences.proven, fences.unproven), (0, 1, 0));
    // Nothing executed twice on a node, nothing late.
    let writes: Vec<_> = w.records().into_iter().filter(|r| r.opcode == WRITE_10).collect();
    assert!(writes.iter().all(|r| !r.orphaned), "{writes:?}");
    assert_eq!(writes.len(), 3);
    assert_eq!(w.read(c, 3584, 4096).expect("read"), pattern(2, 4096));
    w.finish();
}

/// The old write's bytes are still in the network when the new session is there.
#[test]
fn bytes_that_arrive_late_on_the_old_connection_change_nothing() {
    let mut w = World::new(setup(Tunables::default()));
    let c = w.client();
    w.stall(0, true);
    let token = w.start_write(c, 0, pattern(1, 4096));
    w.answer(c, token).expect("repeated on the other path");
    let second = w.start_write(c, 0, pattern(2, 4096));
    w.answer(c, second).expect("after the proof");
    assert_eq!(w.volume().snapshot().fences.proven, 1);
    w.stall(0, false);
    w.run_ms(500);
    assert_eq!(w.read(c, 0, 4096).expect("read"), pattern(2, 4096));
    w.finish();
}

#[test]
fn where_a_reset_is_not_to_be_had_the_range_is_held_until_fence_timeout() {
    for shared in [true, false] {
        let (mut w, c, overlapping) = overlapped(Tunables { shared, ..Tunables::default() });
        let from = w.now;
        w.faults(0).set("tmf", Rule::new(Fault::TaskManagementAnswer(5)));
        reconnect(&mut w);
        assert!(!w.is_done(c, overlapping));
        assert_eq!(resets(&w, 0), u64::from(!shared));
        w.answer(c, overlapping).expect("given up waiting");
        let waited = w.now - from;
        assert!(waited > Duration::from_secs(29) && waited < Duration::from_secs(31), "{waited:?}");
        let fences = w.volume().snapshot().fences;
        assert_eq!((fences.pending, fences.proven, fences.unproven), (0, 0, 1));
        assert_eq!((w.logged("unproven"), w.logged("not fenced")), (1, 1));
        w.faults(0).clear();
        w.finish();
    }
}

#[test]
fn a_reset_that_is_not_answered_keeps_the_path_out_until_fence_timeout() {
    let mut w = World::new(setup(Tunables::default()));
    let c = w.client();
    doubtful(&mut w, c);
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementMute));
    w.portals[0].net = Net::Works;
    w.run(Duration::from_secs(20));
    assert_eq!(w.state(0), State::Probing);
    assert!(w.reason(0).contains("LOGICAL UNIT RESET"), "{}", w.reason(0));
    w.until_active();
    assert_eq!(w.volume().snapshot().fences.unproven, 1);
    w.finish();
}

#[test]
fn without_the_fence_nothing_is_held_and_nothing_is_reset() {
    let mut w = World::new(setup(Tunables { fence: FenceMode::Off, ..Tunables::default() }));
    let c = w.client();
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementMute));
    hang_writes(&w, 0);
    let token = w.start_write(c, 0, pattern(1, 4096));
    w.run_ms(100);
    w.node(0).reset_connections();
    w.answer(c, token).expect("repeated on the other path");
    w.faults(0).remove("hang");
    w.until_active();
    w.write(c, 0, &pattern(2, 4096)).expect("at once");
    let fences = w.volume().snapshot().fences;
    assert_eq!((fences.pending, fences.unproven, resets(&w, 0)), (0, 1, 0));
    // What this mode allows: the old write lands over the new one.
    assert_eq!(w.node(0).held(), 1);
    w.release(0);
    assert_eq!(w.read(c, 0, 4096).expect("read"), pattern(1, 4096), "the unsafe mode is unsafe");
    w.finish();
}

#[test]
fn strict_tells_nobody_before_the_proof() {
    let mut w = World::new(setup(Tunables { fence: FenceMode::Strict, ..Tunables::default() }));
    let c = w.client();
    hang_writes(&w, 0);
    let token = w.start_write(c, 0, pattern(1, 4096));
    w.run_ms(100);
    cut_off(&mut w);
    w.run(Duration::from_secs(100));
    assert_eq!(w.executed(1, WRITE_10), 1, "repeated");
    assert!(!w.is_done(c, token), "and not told");
    w.faults(0).clear();
    w.portals[0].net = Net::Works;
    w.answer(c, token).expect("proven");
    w.until_active();
    assert_eq!(w.node(0).held(), 0);
    w.finish();
}

#[test]
fn nothing_is_reset_when_nothing_is_in_doubt() {
    let mut w = World::new(setup(Tunables::default()));
    let c = w.client();
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementMute));
    // Reads in flight, and writes of which no byte was handed over.
    w.faults(0).set("hang", Rule::new(Fault::Hold).on(Commands::Reads));
    let reads: Vec<u64> = (0..4).map(|n| w.start_read(c, n * 4096, 4096)).collect();
    w.run_ms(1);
    w.portals[0].send_buffer = 0;
    let writes: Vec<u64> = (0..4).map(|n| w.start_write(c, n * 4096, pattern(n, 4096))).collect();
    w.run_ms(1);
    w.node(0).reset_connections();
    for token in reads.into_iter().chain(writes) {
        w.answer(c, token).expect("done elsewhere");
    }
    w.portals[0].send_buffer = 1 << 20;
    w.faults(0).remove("hang");
    w.until_active();
    let fences = w.volume().snapshot().fences;
    assert_eq!((resets(&w, 0), fences.proven + fences.unproven + fences.pending), (0, 0));
    w.finish();
}

#[test]
fn the_nexus_stays_the_same_and_no_login_overtakes_the_old_socket() {
    let mut w = World::new(setup(Tunables::default()));
    let c = w.client();
    w.close_delay = Duration::from_millis(700);
    for n in 0..3 {
        w.write(c, 0, &pattern(n, 4096)).expect("written");
        w.node(0).reset_connections();
        let back = w.until("both paths", |w| w.state(0) == State::Active && w.failures(0) > n);
        assert!(back >= Duration::from_millis(700), "{back:?}");
    }
    let mine: Vec<_> = w.records().iter().filter(|r| r.nexus.node == 0).map(|r| r.nexus).collect();
    assert!(mine.iter().all(|n| n.isid == mine[0].isid));
    assert!(mine.windows(2).all(|n| n[0].tsih != n[1].tsih), "{mine:?}");
    w.finish();
}

/// LOGICAL UNIT RESET ends commands of our other session on the same target too: they are repeated at once
/// and are not in doubt.
#[test]
fn a_reset_is_felt_by_the_other_session_of_the_target() {
    let mut w = World::new(Setup { portals: ways(&[0, 0]), ..setup(Tunables::default()) });
    let c = w.client();
    // In doubt on path 0.
    w.portals[0].net = Net::Silent;
    let first = w.start_write(c, 0, pattern(1, 4096));
    w.run_ms(800);
    // In flight on path 1.
    let now = w.now;
    w.volume().set_policy(now, None, &[], Some("b:0")).expect("preferred");
    w.faults(0).set("hang", Rule::new(Fault::Hold).on(Commands::Medium).blocks(64, 64).times(3));
    let write = w.start_write(c, 64 * 512, pattern(2, 4096));
    let reads = [w.start_read(c, 80 * 512, 512), w.start_read(c, 90 * 512, 512)];
    w.run_ms(10);
    assert_eq!(w.node(0).held(), 3);
    w.until("path 0 given up", |w| w.failures(0) > 0);
    w.portals[0].net = Net::Works;
    let from = w.now;
    for token in [first, write, reads[0], reads[1]] {
        w.answer(c, token).expect("repeated");
    }
    assert!(w.now - from < Duration::from_millis(500), "{:?}", w.now - from);
    assert_eq!(w.failures(1), 0, "{}", w.story());
    let fences = w.volume().snapshot().fences;
    assert_eq!((fences.pending, fences.proven), (0, 1));
    w.until_active();
    assert_eq!(w.read(c, 64 * 512, 4096).expect("read"), pattern(2, 4096));
    w.finish();
}

/// The same over lanes: each has sessions of its own.
#[test]
fn a_reset_is_felt_by_the_other_lane() {
    let mut w = World::new(Setup { lanes: 2, ..setup(Tunables::default()) });
    let a = w.client();
    let b = w.connect(1, mpio::export::client::ClientConfig::new("vm0"));
    w.until("the export opens", |w| w.peers[b].export.is_some());
    w.faults(0).set("hang", Rule::new(Fault::Hold).on(Commands::Medium).times(2));
    let first = w.start_write(a, 0, pattern(1, 4096));
    w.run_ms(500);
    let other = w.start_write(b, 65_536, pattern(2, 4096));
    // An overlapping write of the other lane is held by the first one's doubt.
    let overlapping = w.start_write(b, 0, pattern(3, 4096));
    w.run_ms(10);
    w.node(0).reset_connections();
    w.answer(a, first).expect("repeated");
    w.answer(b, other).expect("repeated");
    w.answer(b, overlapping).expect("after the proof");
    assert_eq!(w.read(a, 0, 4096).expect("read"), pattern(3, 4096));
    w.until_active();
    assert_eq!(w.node(0).held(), 0);
    w.finish();
}

/// With no path at all, a write that waits for its range is told so like any other.
#[test]
fn a_held_write_without_a_path_fails_too() {
    let tunables = Tunables {
        no_path_timeout: Duration::from_secs(3),
        fence_timeout: Duration::MAX,
        ..Tunables::default()
    };
    let (mut w, c, held) = overlapped(tunables);
    w.run_ms(100);
    w.kill(1);
    let waited = w.now;
    assert!(w.answer(c, held).is_err());
    assert!(w.now - waited < Duration::from_secs(4));
    w.start(1);
    reconnect(&mut w);
    w.write(c, 0, &pattern(3, 4096)).expect("written");
    w.finish();
}

/// Proof 1: the unit hangs behind a session that answers pings. Its write is given up there and repeated;
/// A nexus has no portal: where the path's own one stays away, another one of the target's group will do.
#[test]
fn a_nexus_is_fenced_through_another_portal_of_its_group() {
    let tunables = Tunables { fence_timeout: Duration::MAX, ..Tunables::default() };
    let mut w = World::new(Setup { portals: ways(&[0, 0]), ..setup(tunables) });
    let c = w.client();
    hang_one(&w, 0);
    let first = w.start_write(c, 0, pattern(1, 4096));
    w.run_ms(5);
    w.portals[0].net = Net::Silent;
    w.answer(c, first).expect("repeated on the other path");
    let held = w.node(0).held();
    w.portals[0].net = Net::Refuses;
    let second = w.start_write(c, 0, pattern(2, 4096));
    w.answer(c, second).expect("proven through the other portal");
    let fences = w.volume().snapshot().fences;
    assert_eq!((held, w.node(0).held(), fences.proven, fences.pending), (1, 0, 1, 0));
    assert_ne!(w.state(0), State::Active, "it is not used there");
    let asked = w.connects.len();
    w.run(Duration::from_secs(10));
    let after = &w.connects[asked..];
    assert!(!after.is_empty() && after.iter().all(|(_, to)| *to == portal_addr(0)), "{after:?}");
    assert_eq!(w.failures(1), 0, "{}", w.story());
    reconnect(&mut w);
    assert_eq!(w.read(c, 0, 4096).expect("read"), pattern(2, 4096));
    w.finish();
}

/// A portal of another group leads to another nexus, and one of another target too.
#[test]
fn no_other_portal_is_asked_without_a_doubt_or_beyond_the_target() {
    for portals in [vec![0, 0], vec![0, 1]] {
        let mut w = World::new(Setup { portals: ways(&portals), ..setup(Tunables::default()) });
        let c = w.client();
        if portals == [0, 1] {
            doubtful(&mut w, c);
        } else {
            w.portals[0].net = Net::Silent;
            w.run_ms(3000);
        }
        w.portals[0].net = Net::Refuses;
        let asked = w.connects.len();
        w.run(Duration::from_secs(10));
        let after = &w.connects[asked..];
        assert!(
            !after.is_empty() && after.iter().all(|(_, to)| *to == portal_addr(0)),
            "{after:?}"
        );
        reconnect(&mut w);
        w.finish();
    }
}

/// A reset that was refused is asked for again, each time after twice as long: the path logs out and in for it,
/// since no command may use the session before. Nobody's request fails for that.
#[test]
fn a_refused_reset_is_asked_for_again() {
    let tunables = Tunables { fence_timeout: Duration::MAX, ..Tunables::default() };
    let (mut w, c, overlapping) = overlapped(tunables);
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementAnswer(5)));
    reconnect(&mut w);
    let lost = w.failures(0);
    let at = |w: &mut World, seconds: u64, count: u64| {
        w.run(Duration::from_secs(seconds));
        assert_eq!(resets(w, 0), count, "{}", w.story());
        w.read(c, 1 << 20, 4096).expect("served");
    };
    at(&mut w, 29, 1);
    at(&mut w, 2, 2);
    at(&mut w, 58, 2);
    at(&mut w, 4, 3);
    assert_eq!((w.failures(0) - lost, w.logged("logs out")), (2, 2), "{}", w.story());
    assert!(!w.is_done(c, overlapping));
    w.faults(0).clear();
    w.until("the proof", |w| w.volumes[0].snapshot().fences.proven == 1);
    w.answer(c, overlapping).expect("proven");
    w.until_active();
    assert_eq!((w.node(0).held(), w.read(c, 0, 4096).expect("read")), (0, pattern(2, 4096)));
    w.finish();
}

/// ABORT TASK answered with 0 proves it dead, and the session stays.
#[test]
fn an_abort_that_is_answered_proves_and_the_session_stays() {
    let mut w = World::new(setup(Tunables::default()));
    let c = w.client();
    hang_writes(&w, 0);
    let token = w.start_write(c, 0, pattern(1, 4096));
    w.answer(c, token).expect("repeated on the other path");
    w.faults(0).remove("hang");
    w.write(c, 0, &pattern(2, 4096)).expect("proven");
    assert_eq!(w.node(0).held(), 0, "ABORT TASK has ended it");
    assert_eq!(w.failures(0), 0, "{}", w.story());
    let fences = w.volume().snapshot().fences;
    assert_eq!((fences.pending, fences.proven, fences.unproven), (0, 1, 0));
    w.until_active();
    w.finish();
}

/// LIO was measured never to answer task management for a write that it waits to get data of.
#[test]
fn a_write_that_owes_data_is_not_aborted_and_its_session_is_given_up() {
    let mut w = World::new(setup(Tunables::default()));
    let c = w.client();
    w.faults(0).set("starve", Rule::new(Fault::NoReady));
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementMute));
    let token = w.start_write(c, 0, pattern(1, 512 * 1024));
    w.run_ms(100);
    w.portals[0].net = Net::Refuses;
    w.answer(c, token).expect("repeated on the other path");
    assert_eq!((resets(&w, 0), w.failures(0) > 0), (0, true), "{}", w.story());
    assert!(w.log.iter().any(|n| n.why.contains("whose data the target has not got")));
    let second = w.start_write(c, 0, pattern(2, 4096));
    w.run(Duration::from_secs(5));
    assert!(!w.is_done(c, second), "in doubt");
    w.faults(0).clear();
    w.portals[0].net = Net::Works;
    w.answer(c, second).expect("proven by login and reset");
    let fences = w.volume().snapshot().fences;
    assert_eq!((fences.pending, fences.unproven), (0, 0));
    assert!(fences.proven > 0);
    w.until_active();
    w.finish();
}

/// LOGICAL UNIT RESET on the old session waits for other writes there to get rid of their data, not for ever.
#[test]
fn a_session_with_a_write_that_owes_data_is_not_reset_to_fence_another() {
    let tunables = Tunables { fence_timeout: Duration::MAX, ..Tunables::default() };
    let mut w = World::new(Setup { portals: ways(&[0]), ..setup(tunables) });
    let c = w.client();
    hang_one(&w, 0);
    let first = w.start_write(c, 0, pattern(1, 4096));
    w.run(Duration::from_secs(25));
    w.faults(0).set("starve", Rule::new(Fault::NoReady));
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementAnswer(5)));
    let second = w.start_write(c, 1 << 20, pattern(2, 512 * 1024));
    w.until("the abort", |w| resets(w, 0) == 1);
    w.run_ms(3000);
    assert_eq!((resets(&w, 0), w.failures(0)), (1, 0), "{}", w.story());
    w.portals[0].net = Net::Refuses;
    w.run_ms(2000);
    assert_eq!((resets(&w, 0), w.failures(0) > 0), (1, true), "{}", w.story());
    w.faults(0).clear();
    w.portals[0].net = Net::Works;
    w.answer(c, first).expect("sent again");
    w.answer(c, second).expect("sent again");
    assert_eq!(w.volume().snapshot().fences.pending, 0);
    w.until_active();
    w.finish();
}

/// A reset ends commands of the target's other sessions too. What owes data there is not aborted: it goes on, or
/// its session is given up a moment later. (Ours are sent when nothing owes data any more; a target may have been
/// reset under another address.)
#[test]
fn a_reset_elsewhere_leaves_a_write_that_owes_data_alone() {
    let mut w = World::new(Setup { portals: ways(&[0]), ..setup(Tunables::default()) });
    let c = w.client();
    w.faults(0).set("starve", Rule::new(Fault::NoReady).times(1));
    let write = w.start_write(c, 1 << 20, pattern(2, 512 * 1024));
    w.run_ms(5);
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementMute));
    let now = w.now;
    w.volume().target_was_reset(now, "iqn.2026-11.example.san:ha1");
    w.wake(0);
    w.portals[0].net = Net::Refuses;
    w.run_ms(200);
    assert_eq!((resets(&w, 0), w.failures(0)), (0, 0), "{}", w.story());
    let waited = w.until("its end", |w| w.failures(0) > 0);
    assert!(waited < Duration::from_millis(600), "{waited:?}");
    assert_eq!(resets(&w, 0), 0, "{}", w.story());
    w.faults(0).clear();
    w.portals[0].net = Net::Works;
    w.answer(c, write).expect("repeated");
    w.until_active();
    w.finish();
}

/// 5, 6 and 255 prove nothing: LOGICAL UNIT RESET follows on the same session. (The rule speaks once, to
/// ABORT TASK.)
#[test]
fn an_abort_that_is_refused_proves_nothing_and_a_reset_on_the_old_session_does() {
    for response in [5, 255] {
        let rule = Rule::new(Fault::TaskManagementAnswer(response)).times(1);
        let (mut w, c, second) = overlapped_alive(Tunables::default(), rule);
        w.run_ms(1000);
        assert!(!w.is_done(c, second), "response {response} is no proof");
        assert_eq!(w.node(0).held(), 1);
        w.answer(c, second).expect("proven");
        assert_eq!((w.node(0).held(), w.failures(0)), (0, 0), "{}", w.story());
        assert_eq!(w.volume().snapshot().fences.proven, 1);
        assert_eq!(w.logged("fenced"), 1);
        w.faults(0).clear();
        w.until_active();
        w.finish();
    }
}

/// A unit that hangs keeps its task management waiting too. The session is not dropped for that; when the
/// unit is back, the next reset is answered and only that answer counts.
#[test]
fn task_management_that_is_not_answered_does_not_cost_the_session() {
    let tunables = Tunables { fence_timeout: Duration::MAX, ..Tunables::default() };
    let (mut w, c, second) = overlapped_alive(tunables, Rule::new(Fault::TaskManagementMute));
    w.run(Duration::from_secs(80));
    assert_eq!(w.failures(0), 0, "{}", w.story());
    // ABORT TASK once, and a reset every 30 s: one at a time.
    assert_eq!(resets(&w, 0), 4);
    assert!(!w.is_done(c, second));
    w.faults(0).clear();
    w.answer(c, second).expect("proven");
    assert_eq!((w.node(0).held(), w.failures(0)), (0, 0), "{}", w.story());
    assert_eq!(w.volume().snapshot().fences.proven, 1);
    w.until_active();
    w.finish();
}

/// `shared = true`: a reset would end the commands of other hosts.
#[test]
fn a_shared_unit_is_reset_only_where_that_is_allowed() {
    for fence_reset in [false, true] {
        let tunables = Tunables { shared: true, fence_reset, ..Tunables::default() };
        let refused = Rule::new(Fault::TaskManagementAnswer(5)).times(1);
        let (mut w, c, second) = overlapped_alive(tunables, refused);
        w.run(Duration::from_secs(10));
        assert_eq!(w.is_done(c, second), fence_reset);
        assert_eq!(w.logged("not fenced"), usize::from(!fence_reset));
        w.answer(c, second).expect("proven, or given up");
        let fences = w.volume().snapshot().fences;
        let expected = if fence_reset { (1, 0) } else { (0, 1) };
        assert_eq!((fences.proven, fences.unproven), expected);
        w.faults(0).clear();
        w.node(0).reset_connections();
        w.until_active();
        w.finish();
    }
}

/// The weaker proof, by an administrator's choice.
#[test]
fn a_login_alone_is_a_proof_only_where_that_is_chosen() {
    let tunables = Tunables { fence_proof: FenceProof::Reinstatement, ..Tunables::default() };
    let (mut w, c, overlapping) = overlapped(tunables);
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementMute));
    w.portals[0].net = Net::Works;
    w.answer(c, overlapping).expect("proven by the login");
    w.until_active();
    assert_eq!((resets(&w, 0), w.volume().snapshot().fences.proven), (0, 1));
    w.faults(0).clear();
    w.finish();
}

/// One reset is good for every lane that had logged in before it was sent.
#[test]
fn one_reset_frees_every_lane() {
    let mut w = World::new(Setup { lanes: 2, ..setup(Tunables::default()) });
    let clients = [w.client(), w.client_on(1)];
    w.faults(0).set("hang", Rule::new(Fault::Hold).on(Commands::Writes).blocks(0, 1024));
    let offsets = [0, 65_536];
    let first: Vec<u64> =
        (0..2).map(|n| w.start_write(clients[n], offsets[n], pattern(n as u64, 4096))).collect();
    w.run_ms(100);
    cut_off(&mut w);
    for n in 0..2 {
        w.answer(clients[n], first[n]).expect("repeated");
    }
    w.faults(0).clear();
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementMute).times(0));
    let second: Vec<u64> = (0..2)
        .map(|n| w.start_write(clients[n], offsets[n], pattern(n as u64 + 9, 4096)))
        .collect();
    w.run_ms(300);
    assert_eq!(w.volume().snapshot().fences.pending, 2);
    w.portals[0].net = Net::Works;
    for n in 0..2 {
        w.answer(clients[n], second[n]).expect("proven");
    }
    w.until_active();
    assert_eq!(w.volume().snapshot().fences.proven, 2);
    assert_eq!(w.node(0).held(), 0);
    let told: Vec<_> = w.log.iter().filter(|n| n.what == "fenced").collect();
    assert!(told.len() <= 2, "{told:?}");
    w.finish();
}

/// Proof 3: an administrator's word, refused while the path is logged in.
#[test]
fn a_word_for_a_node_that_is_off_frees_what_was_sent_there() {
    let tunables = Tunables { fence_timeout: Duration::MAX, ..Tunables::default() };
    let mut w = World::new(setup(tunables));
    let c = w.client();
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementMute));
    hang_one(&w, 0);
    let token = w.start_write(c, 0, pattern(1, 4096));
    w.answer(c, token).expect("repeated on the other path");
    let second = w.start_write(c, 512, pattern(2, 4096));
    w.run(Duration::from_secs(5));
    let now = w.now;
    let doubts = w.volume().doubts(now);
    assert_eq!(doubts.len(), 1, "{doubts:?}");
    let doubt = &doubts[0];
    assert_eq!((doubt.range, doubt.path.as_str()), (BlockRange::new(0, 8).expect("8"), "a:0"));
    assert!(doubt.age > Duration::from_secs(4) && doubt.answered && doubt.copies == 1);
    assert!(doubt.trying.starts_with("LOGICAL UNIT RESET sent on its own"), "{}", doubt.trying);
    let lives = w.volume().confirm_dead(now, "a:0", false);
    assert!(matches!(lives, Err(AdminError::PathLives { .. })), "{lives:?}");
    assert!(!w.is_done(c, second));
    w.portals[0].net = Net::Refuses;
    w.kill(0);
    w.run_ms(500);
    let now = w.now;
    assert!(w.volume().doubts(now)[0].trying.contains("connection refused"));
    assert!(w.volume().confirm_dead(now, "z:9", false).is_err());
    assert!(w.volume().confirm_dead(now, "b:1", true).is_err(), "that one lives");
    assert_eq!(w.volume().confirm_dead(now, "a:0", true), Ok(0));
    assert!(!w.is_done(c, second), "only asked");
    assert_eq!(w.volume().confirm_dead(now, "a:0", false), Ok(1));
    w.answer(c, second).expect("goes on");
    assert_eq!(w.volume().snapshot().fences.proven, 1);
    w.faults(0).clear();
    w.start(0);
    reconnect(&mut w);
    w.finish();
}
