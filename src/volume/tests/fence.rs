//! Write ownership: what was given up after its first byte left is in doubt, and nothing that overlaps it
//! is sent before the proof. The journal of the pair is the witness.

use super::wire::Net;
use super::world::{Setup, World, pattern};
use crate::base::Duration;
use crate::path::{FenceMode, Policy, State};
use crate::volume::spec::Tunables;
use mpio_target::faults::Commands;
use mpio_target::{Fault, PairConfig, Rule};

const WRITE_10: u8 = 0x2a;

/// Failover, and targets that go on with what a session left behind.
fn setup(tunables: Tunables) -> Setup {
    let mut pair = PairConfig::default();
    for node in &mut pair.nodes {
        node.reinstatement_aborts = false;
    }
    Setup { pair, tunables, policy: Policy::Failover, ..Setup::default() }
}

fn hang_writes(w: &World, node: usize) {
    w.faults(node).set("hang", Rule::new(Fault::Hold).on(Commands::Writes).blocks(0, 8));
}

/// Counts task management on a node: the rule never speaks.
fn resets(w: &World, node: usize) -> u64 {
    w.faults(node).struck("tmf")
}

/// A write that hangs on node 0, was repeated on node 1 and acknowledged; node 0 refuses connections.
fn doubtful(w: &mut World, c: usize) {
    hang_writes(w, 0);
    let token = w.start_write(c, 0, pattern(1, 4096));
    w.run_ms(100);
    assert_eq!(w.node(0).held(), 1);
    w.portals[0].net = Net::Refuses;
    w.node(0).reset_connections();
    w.answer(c, token).expect("repeated on the other path");
    w.faults(0).clear();
    let fences = w.volume().snapshot().fences;
    assert_eq!((fences.pending, fences.proven), (1, 0));
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
        let mut w = World::new(setup(Tunables { shared, ..Tunables::default() }));
        let c = w.client();
        doubtful(&mut w, c);
        let from = w.now;
        let overlapping = w.start_write(c, 0, pattern(2, 4096));
        w.faults(0).set("tmf", Rule::new(Fault::TaskManagementAnswer(5)));
        w.portals[0].net = Net::Works;
        w.until_active();
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
    let now = super::world::theirs(w.now);
    w.node(0).release(now);
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
    w.portals[0].net = Net::Refuses;
    w.node(0).reset_connections();
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
    let mut w = World::new(Setup { portals: vec![0, 0], ..setup(Tunables::default()) });
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
    w.until("path 0 given up", |w| w.state(0) != State::Active);
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
    let b = w.connect(1, crate::export::client::ClientConfig::new("vm0"));
    w.until("the export opens", |w| w.peers[b].1.export.is_some());
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
    let mut w = World::new(setup(tunables));
    let c = w.client();
    doubtful(&mut w, c);
    let held = w.start_write(c, 0, pattern(2, 4096));
    w.run_ms(100);
    w.kill(1);
    let waited = w.now;
    assert!(w.answer(c, held).is_err());
    assert!(w.now - waited < Duration::from_secs(4));
    w.start(1);
    w.portals[0].net = Net::Works;
    w.until_active();
    w.write(c, 0, &pattern(3, 4096)).expect("written");
    w.finish();
}
