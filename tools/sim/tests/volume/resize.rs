//! A unit whose size or write protection changes while it is in use.

use super::trusting;
use mpio::base::Duration;
use mpio::path::State;
use mpio::volume::spec::Tunables;
use mpio::wire::nbd::{Command, NbdError, transmission_flags};
use mpio_sim::world::{Setup, World, pattern};
use mpio_target::PairConfig;

const LARGE: u64 = 64 << 20;
const SMALL: u64 = 32 << 20;

/// A pair of this size, on a medium of the larger one.
fn world(size: u64, lanes: u16) -> World {
    let mut pair = PairConfig { size: LARGE, ..PairConfig::default() };
    for node in &mut pair.nodes {
        node.claimed_size = Some(size);
    }
    // Silence is not what is tested, and the clock is moved by whole seconds.
    let tunables = Tunables { no_path_timeout: Duration::from_secs(5), ..trusting() };
    World::new(Setup { pair, lanes, tunables, ..Setup::default() })
}

fn size(w: &World) -> u64 {
    let unit = w.volumes[0].snapshot().unit.expect("a unit");
    assert!(w.volumes.iter().all(|v| v.snapshot().unit.as_deref() == Some(&*unit)));
    unit.size_bytes()
}

/// Size of the export and whether it is read-only, as this client was told.
fn told(w: &mut World, client: usize) -> (u64, bool) {
    let export = w.peers[client].export.expect("an open export");
    (export.size, export.flags & transmission_flags::READ_ONLY != 0)
}

/// Both targets are made smaller: new connections see it, old ones are told for what is gone; what is below
/// goes on.
#[test]
fn a_unit_that_shrinks() {
    let mut w = world(LARGE, 1);
    let c = w.client();
    w.write(c, SMALL, &pattern(1, 4096)).expect("written");
    (0..2).for_each(|node| w.node(node).resize(SMALL));
    w.run_ms(100);
    // The attention comes with the next command on each path.
    for n in 0..4 {
        w.read(c, n * 4096, 4096).expect("below");
    }
    w.until_active();
    assert_eq!((size(&w), w.logged("capacity")), (SMALL, 1));
    assert_eq!(w.write(c, SMALL, &pattern(1, 4096)), Err(NbdError::NoSpace));
    assert_eq!(w.write(c, SMALL - 2048, &pattern(1, 4096)), Err(NbdError::NoSpace));
    assert_eq!(w.read(c, SMALL, 4096), Err(NbdError::Invalid));
    for (command, error) in [
        (Command::TRIM, NbdError::NoSpace),
        (Command::WRITE_ZEROES, NbdError::NoSpace),
        (Command::CACHE, NbdError::Invalid),
    ] {
        assert_eq!(w.other(c, command, 0, SMALL, 4096).err(), Some(error), "{command:?}");
    }
    w.write(c, SMALL - 4096, &pattern(2, 4096)).expect("the last blocks that are left");
    let fresh = w.client();
    assert_eq!(told(&mut w, fresh).0, SMALL);
    assert_eq!(w.read(fresh, SMALL - 4096, 4096), Ok(pattern(2, 4096)));
    assert_eq!(w.failures(0) + w.failures(1), 0);
    w.finish();
}

/// Requests that were taken in before and find the unit smaller when it is their turn.
#[test]
fn what_waits_when_the_unit_shrinks_is_answered() {
    let mut w = world(LARGE, 1);
    let c = w.client();
    (0..2).for_each(|node| w.node(node).resize(SMALL));
    let writes: Vec<u64> =
        (0..64).map(|n| w.start_write(c, SMALL + n * 4096, pattern(n, 4096))).collect();
    let reads: Vec<u64> = (0..64).map(|n| w.start_read(c, SMALL + n * 4096, 4096)).collect();
    for token in writes {
        assert_eq!(w.answer(c, token).err(), Some(NbdError::NoSpace));
    }
    for token in reads {
        assert_eq!(w.answer(c, token).err(), Some(NbdError::Invalid));
    }
    w.until_active();
    assert_eq!((size(&w), w.failures(0) + w.failures(1)), (SMALL, 0));
    w.finish();
}

/// One side is larger, then both: the device grows with the last one. A connection keeps its own size.
#[test]
fn a_unit_that_grows_is_taken_when_all_paths_agree() {
    for lanes in [1, 2] {
        let mut w = world(SMALL, lanes);
        let clients: Vec<usize> = (0..usize::from(lanes)).map(|lane| w.client_on(lane)).collect();
        let read_all = |w: &mut World| {
            for c in &clients {
                for n in 0..4 {
                    w.read(*c, n * 4096, 4096).expect("read");
                }
            }
            w.until_active();
        };
        w.node(0).resize(LARGE);
        read_all(&mut w);
        assert_eq!((size(&w), w.logged("capacity")), (SMALL, usize::from(lanes)));
        w.node(1).resize(LARGE);
        read_all(&mut w);
        assert_eq!(size(&w), LARGE, "{}", w.story());
        let fresh = w.client();
        assert_eq!(told(&mut w, fresh).0, LARGE);
        w.write(fresh, LARGE - 4096, &pattern(3, 4096)).expect("written");
        assert_eq!(told(&mut w, clients[0]).0, SMALL);
        assert_eq!(w.failures(0) + w.failures(1), 0);
        w.finish();
    }
}

/// A target that comes back with another size, while the other one has the old: it may be another unit.
#[test]
fn another_size_after_a_login_is_another_unit_until_all_agree() {
    let mut w = world(SMALL, 1);
    let c = w.client();
    w.kill(0);
    w.start(0);
    w.node(0).resize(LARGE);
    w.until_state(0, State::Mismatched);
    assert!(w.reason(0).contains("capacity differs"), "{}", w.reason(0));
    w.write(c, 0, &pattern(1, 4096)).expect("on the other path");
    w.kill(1);
    w.start(1);
    w.node(1).resize(LARGE);
    w.until("the second one is back", |w| w.state(1) == State::Active);
    assert_eq!(size(&w), SMALL, "the other one has not shown it");
    w.run(Duration::from_secs(31));
    w.until_active();
    assert_eq!(size(&w), LARGE);
    w.finish();
}

/// Write protection on and off: old connections get EPERM for writes, new ones are told by a flag.
#[test]
fn write_protection_reaches_the_clients() {
    for lanes in [1, 2] {
        let mut w = world(SMALL, lanes);
        let old: Vec<usize> = (0..usize::from(lanes)).map(|lane| w.client_on(lane)).collect();
        for (protected, expected) in [(true, Err(NbdError::Permission)), (false, Ok(()))] {
            (0..2).for_each(|node| w.node(node).protect(protected));
            for c in &old {
                for n in 0..4 {
                    w.read(*c, n * 4096, 4096).expect("read");
                }
            }
            w.until_active();
            for c in &old {
                assert_eq!(w.write(*c, 0, &pattern(1, 4096)), expected);
                w.read(*c, 0, 4096).expect("read");
            }
            let fresh = w.client();
            assert_eq!(told(&mut w, fresh).1, protected);
            assert!(w.volumes.iter().all(|v| v.snapshot().read_only == protected));
        }
        assert_eq!(w.failures(0) + w.failures(1), 0);
        w.finish();
    }
}
