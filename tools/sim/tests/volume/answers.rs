//! Answers that are not GOOD: what the client sees, and what becomes of the path.

use super::trusting;
use mpio::base::Duration;
use mpio::path::{PathIndex, Policy, State};
use mpio::wire::nbd::NbdError;
use mpio_sim::net::ways;
use mpio_sim::world::{Setup, World, pattern};
use mpio_target::faults::{Commands, SenseCode};
use mpio_target::{Fault, Rule};

fn sense(key: u8, asc: u8, ascq: u8) -> Fault {
    Fault::Sense(SenseCode { key, asc, ascq })
}

fn world(policy: Policy) -> (World, usize) {
    let mut w = World::new(Setup { policy, tunables: trusting(), ..Setup::default() });
    let c = w.client();
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementMute));
    (w, c)
}

#[test]
fn what_passes_is_not_seen() {
    let passing = [
        Fault::Status(0x08),
        Fault::Status(0x28),
        Fault::Status(0x40),
        sense(0x0b, 0x00, 0x00),
        sense(0x0b, 0x47, 0x05),
        sense(0x02, 0x04, 0x01),
        sense(0x02, 0x04, 0x0b),
        sense(0x06, 0x29, 0x00),
        sense(0x06, 0x2a, 0x01),
        sense(0x06, 0x3f, 0x03),
        sense(0x04, 0x44, 0x00),
        Fault::ShortRead(512),
    ];
    for fault in passing {
        for policy in [Policy::RoundRobin, Policy::Failover] {
            let (mut w, c) = world(policy);
            w.faults(0).set("x", Rule::new(fault.clone()).on(Commands::Medium).skip(2).times(2));
            for n in 0..16 {
                w.write(c, n * 4096, &pattern(n, 4096)).expect("written");
                let read = w.read(c, n * 4096, 4096);
                assert!(read.as_ref() == Ok(&pattern(n, 4096)), "{fault:?}");
            }
            w.until_active();
            assert_eq!(w.faults(0).struck("tmf"), 0, "{fault:?}: no reset for an answer");
            w.finish();
        }
    }
}

#[test]
fn what_does_not_pass_is_told_by_its_errno() {
    let cases = [
        (sense(0x03, 0x11, 0x00), NbdError::Io, NbdError::Io),
        (Fault::Status(0x18), NbdError::Io, NbdError::Io),
        (sense(0x04, 0x44, 0x00), NbdError::Io, NbdError::Io),
        (sense(0x05, 0x21, 0x00), NbdError::NoSpace, NbdError::Invalid),
        (sense(0x07, 0x27, 0x07), NbdError::NoSpace, NbdError::Io),
        (sense(0x07, 0x27, 0x00), NbdError::Permission, NbdError::Io),
        (sense(0x0b, 0x00, 0x00), NbdError::Io, NbdError::Io),
    ];
    for (fault, on_write, on_read) in cases {
        let (mut w, c) = world(Policy::RoundRobin);
        for node in 0..2 {
            w.faults(node).set("x", Rule::new(fault.clone()).on(Commands::Medium).blocks(0, 8));
        }
        assert_eq!(w.write(c, 0, &pattern(1, 4096)), Err(on_write), "{fault:?}");
        assert_eq!(w.read(c, 0, 4096), Err(on_read), "{fault:?}");
        w.until_active();
        w.write(c, 8192, &pattern(2, 4096)).expect("others go on");
        w.faults(0).remove("x");
        w.faults(1).remove("x");
        w.write(c, 0, &pattern(1, 4096)).expect("it has passed");
        assert_eq!(w.failures(0) + w.failures(1), 0, "{fault:?}");
        w.finish();
    }
}

/// Four commands fit, and a burst of 32 comes: the depth falls to four, nobody sees an error, and it rises
/// again when the target has room.
#[test]
fn a_full_task_set_lowers_the_depth_of_its_path() {
    for status in [0x08, 0x28] {
        let (mut w, c) = world(Policy::Failover);
        let depth = |w: &mut World| w.volume().snapshot().paths[0].queue_depth;
        w.faults(0).set("slow", Rule::new(Fault::Hold).on(Commands::Writes).blocks(0, 32));
        let full = Rule::new(Fault::Status(status)).on(Commands::Writes).blocks(32, 224);
        w.faults(0).set("full", full.times(28));
        let write = |w: &mut World, n| w.start_write(c, n * 4096, pattern(n, 4096));
        let tokens: Vec<u64> = (0..32).map(|n| write(&mut w, n)).collect();
        w.run_ms(2);
        assert_eq!(depth(&mut w), 4, "{status:#x}");
        assert_eq!(w.volume().snapshot().paths[0].queue_depth, 4);
        assert_eq!(w.volume().snapshot().paths[1].queue_depth, 128, "the other path is as it was");
        assert_eq!(w.logged("queue depth"), 1);
        w.faults(0).remove("slow");
        w.release(0);
        for token in tokens {
            w.answer(c, token).expect("no error");
        }
        assert!(depth(&mut w) < 32, "not all at once");
        for n in 0..32 {
            w.run_ms(1000);
            w.write(c, n * 4096, &pattern(n, 4096)).expect("written");
        }
        assert_eq!((depth(&mut w), w.logged("queue depth")), (128, 2));
        assert_eq!(w.failures(0) + w.failures(1), 0);
        w.finish();
    }
}

/// Two device servers that say the same of a command are right, whatever came between; a third is not asked.
#[test]
fn the_same_answer_on_two_paths_goes_to_the_client() {
    let (mut w, c) = world(Policy::Failover);
    let no = |skip| Rule::new(sense(0x0b, 0x08, 0x00)).on(Commands::Reads).skip(skip).times(1);
    w.faults(0).set("x", no(0));
    w.faults(1).set("attention", Rule::new(sense(0x06, 0x2a, 0x02)).on(Commands::Reads).times(1));
    w.faults(1).set("x", no(1));
    assert_eq!(w.read(c, 0, 4096), Err(NbdError::Io));
    assert_eq!((w.faults(0).struck("x"), w.faults(1).struck("x")), (1, 1));
    w.read(c, 0, 4096).expect("the next one is its own");
    // Another answer on the other path is no agreement.
    w.faults(0).set("x", Rule::new(sense(0x02, 0x04, 0x03)).on(Commands::Reads).times(1));
    w.faults(1).set("x", Rule::new(sense(0x06, 0x2a, 0x02)).on(Commands::Reads).times(3));
    w.read(c, 0, 4096).expect("read");
    w.until_active();
    w.finish();
}

/// RESERVATION CONFLICT: the reservation is of the unit, so no other path is asked and none fails.
#[test]
fn a_reservation_conflict_is_told_and_fails_no_path() {
    let (mut w, c) = world(Policy::Failover);
    for node in 0..2 {
        w.faults(node).set("x", Rule::new(Fault::Status(0x18)).on(Commands::Medium));
    }
    for n in 0..4 {
        assert_eq!(w.write(c, n * 4096, &pattern(n, 4096)), Err(NbdError::Io));
        assert_eq!(w.read(c, n * 4096, 4096), Err(NbdError::Io));
    }
    assert_eq!((w.faults(0).struck("x"), w.faults(1).struck("x")), (8, 0));
    assert_eq!((w.state(0), w.state(1)), (State::Active, State::Active));
    w.finish();
}

/// A bad block is bad on both sides of the mirror: only one path is asked.
#[test]
fn a_medium_error_is_not_carried_from_path_to_path() {
    let (mut w, c) = world(Policy::Failover);
    let bad = Rule::new(sense(0x03, 0x11, 0x00)).on(Commands::Reads).blocks(8, 1);
    w.faults(0).set("x", bad.clone());
    w.faults(1).set("x", bad);
    assert_eq!(w.read(c, 4096, 512), Err(NbdError::Io));
    assert_eq!((w.faults(0).struck("x"), w.faults(1).struck("x")), (1, 0));
    w.finish();
}

/// NOT READY on one path: commands go elsewhere, the session stays, the path returns when it is ready.
#[test]
fn a_path_that_is_not_ready_is_asked_until_it_is() {
    let (mut w, c) = world(Policy::Failover);
    w.faults(0).set("x", Rule::new(sense(0x02, 0x04, 0x01)));
    let from = w.now;
    w.write(c, 0, &pattern(1, 4096)).expect("elsewhere");
    assert!(w.now - from < Duration::from_millis(50));
    w.run_ms(3000);
    assert_eq!(w.state(0), State::Probing);
    w.faults(0).remove("x");
    w.until_active();
    assert_eq!(w.failures(0), 0);
    w.finish();
}

#[test]
fn a_lun_that_is_gone_fails_its_path() {
    let (mut w, c) = world(Policy::Failover);
    w.faults(0).set("x", Rule::new(sense(0x05, 0x25, 0x00)).on(Commands::Medium).times(1));
    w.write(c, 0, &pattern(1, 4096)).expect("elsewhere");
    assert_eq!(w.failures(0), 1);
    w.faults(0).clear();
    w.until_active();
    w.finish();
}

/// Another host's reset has ended commands of ours without a word (TAS=0); a unit attention tells of it. They
/// are found by ABORT TASK and repeated, long before their deadline, and the path stays.
#[test]
fn commands_that_were_cleared_are_repeated() {
    for (asc, ascq) in [(0x2f, 0x00), (0x29, 0x02), (0x47, 0x7f)] {
        let mut w = World::new(Setup { portals: ways(&[0]), ..Setup::default() });
        let c = w.client();
        // Like a command that is gone: it is never answered, and ends when it is aborted.
        let hang = Rule::new(Fault::Hold).on(Commands::Medium).blocks(64, 64).times(2);
        w.faults(0).set("gone", hang);
        let write = w.start_write(c, 64 * 512, pattern(1, 4096));
        let read = w.start_read(c, 80 * 512, 4096);
        w.run_ms(5);
        w.node(0).unit_attention(asc, ascq);
        let from = w.now;
        w.read(c, 0, 512).expect("read");
        w.answer(c, write).expect("written");
        w.answer(c, read).expect("read");
        assert!(w.now - from < Duration::from_secs(1), "{asc:#x}/{ascq:#x}: {:?}", w.now - from);
        assert_eq!(w.read(c, 64 * 512, 4096), Ok(pattern(1, 4096)));
        assert_eq!((w.failures(0), w.logged("fenced")), (0, 0));
        w.finish();
    }
}

/// A target that does not take data that it has not asked for: it gets none from then on.
#[test]
fn unsolicited_data_that_is_refused_is_not_sent_again() {
    let mut w = World::new(Setup { policy: Policy::Failover, ..Setup::default() });
    let r2ts =
        |w: &mut World| w.volume().session(PathIndex::new(0)).expect("a session").statistics().r2ts;
    let c = w.client();
    w.write(c, 0, &pattern(1, 4096)).expect("written");
    assert_eq!(r2ts(&mut w), 0, "immediate data");
    w.faults(0).set("x", Rule::new(sense(0x0b, 0x0c, 0x0c)).on(Commands::Writes).times(1));
    for n in 0..4 {
        w.write(c, n * 4096, &pattern(n, 4096)).expect("written");
        assert_eq!(w.read(c, n * 4096, 4096), Ok(pattern(n, 4096)));
    }
    assert_eq!((r2ts(&mut w), w.failures(0)), (4, 0));
    w.finish();
}

/// 2A/03 to 2A/05: whoever holds a reservation has lost it; we hold none.
#[test]
fn a_preempted_reservation_is_only_told() {
    const RESERVE: [u8; 2] = [0x5e, 0x5f];
    for ascq in [3, 4, 5] {
        let (mut w, c) = world(Policy::Failover);
        w.node(0).unit_attention(0x2a, ascq);
        w.read(c, 0, 512).expect("read");
        assert_eq!((w.logged("target reports"), w.failures(0)), (1, 0));
        w.run_ms(100);
        let asked = RESERVE.map(|opcode| w.executed(0, opcode));
        assert_eq!((asked, w.state(0)), ([0, 0], State::Active));
        w.finish();
    }
}

/// 3F/12 to 3F/14 and 3F/0E: told, and the portals are asked again at once, every five seconds at most; what was said
/// meanwhile is not lost.
#[test]
fn portals_are_asked_again_when_something_has_changed() {
    for ascq in [0x12, 0x13, 0x14, 0x0e] {
        let mut w = World::new(Setup { policy: Policy::Failover, ..Setup::default() });
        let c = w.client();
        w.node(0).unit_attention(0x3f, ascq);
        let from = w.now;
        w.read(c, 0, 512).expect("read");
        assert_eq!((w.logged("target reports"), w.failures(0)), (1, 0));
        assert_eq!(w.discoveries.len(), 1, "3f/{ascq:02x}");
        assert!(w.discoveries[0] - from < Duration::from_millis(1));
        w.until_active();
        for _ in 0..3 {
            w.node(0).unit_attention(0x3f, ascq);
            w.read(c, 0, 512).expect("read");
            w.until_active();
            w.run_ms(100);
        }
        assert_eq!(w.discoveries.len(), 1, "not as often as the target says it");
        w.run(Duration::from_secs(30));
        assert_eq!(w.discoveries.len(), 2);
        assert_eq!(w.discoveries[1] - w.discoveries[0], Duration::from_secs(5));
        w.finish();
    }
}

/// A path whose unit was not there is tried again at once when its target says that its units have changed.
#[test]
fn a_unit_that_appears_is_used_at_once() {
    let missing = Fault::Sense(SenseCode { key: 5, asc: 0x25, ascq: 0 });
    let mut w = World::cold(Setup { policy: Policy::Failover, ..Setup::default() });
    w.faults(1).set("missing", Rule::new(missing));
    w.until_state(1, State::Failed);
    w.until_state(0, State::Active);
    let c = w.client();
    // Long enough for the longest back-off.
    w.run(Duration::from_secs(60));
    w.until_state(1, State::Failed);
    w.faults(1).clear();
    w.node(0).unit_attention(0x3f, 0x0e);
    let from = w.now;
    w.read(c, 0, 512).expect("read");
    w.until_state(1, State::Active);
    assert!(w.now - from < Duration::from_millis(25), "{:?}", w.now - from);
    w.finish();
}

/// Status bytes and sense codes that make no sense, on either path: every request is answered, and when the
/// nonsense ends everything works again.
#[test]
fn nonsense_is_survived() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as u8
    };
    for round in 0..60 {
        let (mut w, c) = world([Policy::RoundRobin, Policy::Failover][round % 2]);
        w.faults(0).remove("tmf");
        for (node, name) in [(0, "x"), (0, "y"), (1, "x"), (1, "y")] {
            let fault = match next() % 3 {
                0 => Fault::Status(next()),
                _ => sense(next() & 0xf, next(), next()),
            };
            let on = [Commands::Medium, Commands::All, Commands::Writes, Commands::Flushes];
            let rule = Rule::new(fault).on(on[usize::from(next() % 4)]);
            w.faults(node)
                .set(name, rule.skip(u64::from(next() % 8)).times(u64::from(next() % 16)));
        }
        let mut tokens = Vec::new();
        for n in 0..8 {
            tokens.push(w.start_write(c, n * 4096, pattern(n, 4096)));
            tokens.push(w.start_read(c, n * 4096, 4096));
        }
        let _ = w.flush(c);
        for token in tokens {
            let _ = w.answer(c, token);
        }
        (0..2).for_each(|node| w.faults(node).clear());
        w.run_ms(5000);
        w.until_active();
        let _ = w.flush(c);
        for n in 0..8 {
            w.write(c, n * 4096, &pattern(n, 4096)).expect("written");
            assert_eq!(w.read(c, n * 4096, 4096), Ok(pattern(n, 4096)));
        }
        w.flush(c).expect("flushed");
        w.finish();
    }
}
