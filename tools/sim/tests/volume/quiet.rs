//! LOGICAL UNIT RESET beside writes of other sessions: a target may never answer one that finds such a write
//! waiting for its data, and let the nexus in no more. These do so.

use super::doubt::{hang_one, setup};
use mpio::base::Duration;
use mpio::path::{Policy, State};
use mpio::volume::spec::Tunables;
use mpio_sim::net::{Net, ways};
use mpio_sim::world::{Setup, World, pattern};
use mpio_target::{Fault, Rule};

const KIB: usize = 1024;

/// Paths to one node that sticks at such a reset, and asks for 16 KiB at a time.
fn sticking(paths: &[usize], lanes: u16) -> Setup {
    let mut setup = Setup { portals: ways(paths), lanes, ..setup(Tunables::default()) };
    for node in &mut setup.pair.nodes {
        node.reset_beside_open_writes = false;
        node.negotiation.first_burst = 4096;
        node.negotiation.max_burst = 16 * KIB as u32;
        node.negotiation.max_outstanding_r2t = 1;
    }
    setup
}

/// A write by the first path is in doubt, and was repeated; the path is silent.
fn doubt_by_silence(w: &mut World, c: usize) {
    hang_one(w, 0);
    let first = w.start_write(c, 0, pattern(1, 4096));
    w.run_ms(5);
    w.portals[0].net = Net::Silent;
    w.answer(c, first).expect("repeated on the other path");
    w.until("the end of its session", |w| w.failures(0) > 0);
}

/// One portal is slow, so that a long write there is on its way for long: the reset waits for it, and a write that
/// comes meanwhile does not wait for as long.
#[test]
fn a_reset_waits_for_a_write_of_another_session() {
    for delay in [5, 30] {
        let mut w = World::new(sticking(&[0, 0], 1));
        let c = w.client();
        doubt_by_silence(&mut w, c);
        w.portals[1].delay = Duration::from_millis(delay);
        let long = w.start_write(c, 1 << 20, pattern(2, 512 * KIB));
        w.run_ms(100);
        w.portals[0].net = Net::Works;
        w.until_state(0, State::Probing);
        let beside = w.start_write(c, 1 << 16, pattern(3, 4096));
        w.answer(c, beside).expect("written");
        assert_eq!(w.is_done(c, long), delay < 30, "{}", w.story());
        w.answer(c, long).expect("not disturbed");
        w.until("the proof", |w| w.logged("fenced") == 1);
        w.until_active();
        assert_eq!(w.failures(1), 0, "{}", w.story());
        assert_eq!(w.read(c, 1 << 20, 512 * KIB as u32).expect("read"), pattern(2, 512 * KIB));
        w.finish();
    }
}

/// The same where the other session is another lane's.
#[test]
fn a_reset_waits_for_a_write_of_another_lane() {
    let mut setup = sticking(&[0], 2);
    setup.tunables.management_timeout = Duration::from_secs(100);
    setup.tunables.fence_timeout = Duration::MAX;
    let mut w = World::new(setup);
    let clients = [w.client(), w.client_on(1)];
    hang_one(&w, 0);
    // ABORT TASK is refused, and not asked again soon: what is left is a reset on the session that carries the write.
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementAnswer(5)).times(1));
    let first = w.start_write(clients[0], 0, pattern(1, 4096));
    w.portals[0].delay = Duration::from_millis(20);
    let (mut written, from) = (0, w.now);
    while w.volume().snapshot().fences.proven == 0 {
        // One long write after the other.
        let at = (1 << 20) + written % 2 * (512 << 10);
        let long = w.start_write(clients[1], at, pattern(written, 128 * KIB));
        w.answer(clients[1], long).expect("written");
        written += 1;
    }
    assert!(w.now - from < Duration::from_secs(40), "{}", w.story());
    w.answer(clients[0], first).expect("repeated");
    assert_eq!(w.failures(0), 0, "{}", w.story());
    w.until_active();
    w.finish();
}

/// A reset that is not answered keeps writes by the target's other paths waiting for `path_timeout`, no longer.
#[test]
fn a_reset_without_an_answer_does_not_keep_writes_for_long() {
    let mut w = World::new(sticking(&[0, 0], 1));
    let c = w.client();
    doubt_by_silence(&mut w, c);
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementMute));
    w.portals[0].net = Net::Works;
    w.until("the reset", |w| w.faults(0).struck("tmf") == 1);
    let write = w.start_write(c, 1 << 20, pattern(2, 512 * KIB));
    let read = w.start_read(c, 1 << 18, 4096);
    let from = w.now;
    w.answer(c, read).expect("reads go on");
    assert!(w.now - from < Duration::from_millis(20), "{:?}", w.now - from);
    w.answer(c, write).expect("written");
    let waited = w.now - from;
    assert!(waited < Duration::from_millis(1200), "{waited:?}");
    assert!(
        waited > Duration::from_millis(500),
        "hushed while the reset may not have arrived: {waited:?}"
    );
    w.faults(0).clear();
    w.until_active();
    w.finish();
}

/// A session whose end the target has not heard of still waits for the data of its write there: the reset waits
/// until that nexus is logged into again, or until the target must have noticed.
#[test]
fn a_reset_waits_for_a_session_that_ended_with_a_write_on_its_way() {
    for comes_back in [true, false] {
        let mut setup = sticking(&[0, 0, 1], 1);
        setup.policy = Policy::Failover;
        setup.loses_last_words = true;
        setup.tunables.fence_timeout = Duration::MAX;
        let mut w = World::new(setup);
        let c = w.client();
        doubt_by_silence(&mut w, c);
        w.portals[1].delay = Duration::from_millis(30);
        let long = w.start_write(c, 1 << 20, pattern(2, 256 * KIB));
        w.run_ms(300);
        w.portals[1].net = Net::Silent;
        w.answer(c, long).expect("repeated on the other target");
        w.portals[0].net = Net::Works;
        w.run(Duration::from_secs(12));
        let now = w.now;
        let trying: Vec<String> = w.volume().doubts(now).into_iter().map(|d| d.trying).collect();
        let held_back =
            |trying: &String| trying.ends_with("no other session there has a write on its way");
        assert!(trying.iter().any(held_back), "{trying:?}");
        if comes_back {
            w.portals[1].net = Net::Works;
            w.until_active();
        }
        let waited = w.until("a reset", |w| w.logged("fenced") > 0);
        assert!(waited < Duration::from_secs(20), "{waited:?}");
        w.portals[1].net = Net::Works;
        w.until_active();
        w.run_ms(100);
        assert_eq!(w.volume().snapshot().fences.pending, 0, "{}", w.story());
        w.finish();
    }
}
