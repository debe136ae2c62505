//! Paths merge only when they show the same unit; anything else is mismatched, says why, and is never used.

use mpio::base::Duration;
use mpio::export::client::ClientConfig;
use mpio::path::State;
use mpio_sim::net::ways;
use mpio_sim::world::{Setup, World, pattern};
use mpio_target::config::NodeConfig;
use mpio_target::{Pair, PairConfig};

fn with_other_node(change: impl FnOnce(&mut NodeConfig)) -> World {
    let mut pair = PairConfig::default();
    change(&mut pair.nodes[1]);
    let mut w = World::cold(Setup { pair, ..Setup::default() });
    w.until_state(0, State::Active);
    w.until_state(1, State::Mismatched);
    w
}

#[test]
fn what_differs_is_told_and_never_used() {
    let other_name = |n: &mut NodeConfig| n.identity.naa = Some(vec![0x60; 16]);
    let other_serial = |n: &mut NodeConfig| n.identity.serial = "other".to_owned();
    let smaller = |n: &mut NodeConfig| n.claimed_size = Some(32 << 20);
    let protected = |n: &mut NodeConfig| n.abilities.write_protect = true;
    type Change = fn(&mut NodeConfig);
    let cases: [(&str, Change); 4] = [
        ("WWID", other_name),
        ("another name", other_serial),
        ("capacity", smaller),
        ("write protection", protected),
    ];
    for (what, change) in cases {
        let mut w = with_other_node(change);
        assert!(w.reason(1).contains(what), "{what}: {}", w.reason(1));
        let c = w.client();
        for n in 0..32 {
            w.write(c, n * 4096, &pattern(n, 4096)).expect("written");
        }
        w.run(Duration::from_secs(70));
        assert_eq!((w.executed(1, 0x2a), w.state(1) == State::Active), (0, false), "{what}");
        w.finish();
    }
}

#[test]
fn a_wwid_that_was_not_asked_for_is_not_exported() {
    let wwid = Some("naa.60000000000000000000000000000001".to_owned());
    let mut w = World::cold(Setup { wwid, ..Setup::default() });
    let c = w.connect(0, ClientConfig::new("vm0"));
    w.until_state(0, State::Mismatched);
    w.until_state(1, State::Mismatched);
    assert!(w.reason(0).contains("configuration asks for"), "{}", w.reason(0));
    w.until("refused", |w| w.peers[c].ended.is_some());
    assert!(w.peers[c].export.is_none());
    w.vanish(c);
    w.finish();
}

/// The target comes back with another unit behind the same LUN.
#[test]
fn a_unit_that_was_swapped_is_refused() {
    for block_size in [512, 4096] {
        let mut w = World::new(Setup::default());
        let c = w.client();
        let mut config = PairConfig { block_size, ..PairConfig::default() };
        if block_size == 512 {
            config.nodes[0].identity.naa = Some(vec![0x61; 16]);
        }
        let other = Pair::new(config).expect("a pair");
        w.kill(0);
        w.nodes[0] = Some(other.node(0, 5));
        w.until_state(0, State::Mismatched);
        for n in 0..8 {
            w.write(c, n * 4096, &pattern(n, 4096)).expect("written");
        }
        assert_eq!(other.journal().count(), 0);
        w.kill(0);
        w.start(0);
        w.until_active();
        w.finish();
    }
}

/// A unit attention that questions the identity: read again on the same session before any further I/O.
#[test]
fn an_attention_leads_to_a_recheck_without_a_reconnect() {
    for (asc, ascq) in [(0x3f, 0x03), (0x3f, 0x0e), (0x28, 0x00), (0x29, 0x00), (0x2a, 0x01)] {
        let mut w = World::new(Setup::default());
        let c = w.client();
        w.node(0).unit_attention(asc, ascq);
        let tokens: Vec<u64> =
            (0..32).map(|n| w.start_write(c, n * 4096, pattern(n, 4096))).collect();
        w.until("rechecked", |w| w.state(0) == State::Probing);
        for token in tokens {
            w.answer(c, token).expect("no error");
        }
        w.until_active();
        assert_eq!((w.failures(0), w.logged("fenced")), (0, 0), "{asc:#x}/{ascq:#x}");
        w.finish();
    }
}

/// On the last path, and with no patience for lost paths at all.
#[test]
fn a_recheck_of_the_last_path_is_no_loss() {
    let tunables =
        mpio::volume::spec::Tunables { no_path_timeout: Duration::ZERO, ..Default::default() };
    let mut w = World::new(Setup { tunables, portals: ways(&[0]), ..Setup::default() });
    let c = w.client();
    w.portals[0].delay = Duration::from_millis(20);
    w.node(0).unit_attention(0x3f, 0x03);
    for n in 0..4 {
        w.write(c, n * 4096, &pattern(n, 4096)).expect("written");
    }
    w.kill(0);
    w.run_ms(200);
    assert!(w.read(c, 0, 512).is_err(), "fails at once");
    w.start(0);
    w.until_active();
    w.finish();
}

/// Each target has its own number for the unit.
#[test]
fn luns_may_differ() {
    let mut pair = PairConfig::default();
    pair.nodes[1].lun = 5;
    let mut w = World::new(Setup { pair, ..Setup::default() });
    let c = w.client();
    for n in 0..16 {
        w.write(c, n * 4096, &pattern(n, 4096)).expect("written");
    }
    for n in 0..16 {
        assert_eq!(w.read(c, n * 4096, 4096).expect("read"), pattern(n, 4096));
    }
    assert!(w.executed(0, 0x2a) > 0 && w.executed(1, 0x2a) > 0);
    w.finish();
}

#[test]
fn a_unit_without_a_name_has_one_path_and_is_known_again() {
    let mut pair = PairConfig::default();
    for node in &mut pair.nodes {
        (node.identity.naa, node.identity.t10) = (None, false);
    }
    let mut w = World::cold(Setup { pair, ..Setup::default() });
    w.until("one path", |w| (0..2).any(|p| w.state(p) == State::Active));
    w.until("the other refused", |w| (0..2).any(|p| w.state(p) == State::Mismatched));
    let first = (0..2).find(|p| w.state(*p) == State::Active).expect("one");
    w.node(first).reset_connections();
    w.until("lost", |w| w.state(first) != State::Active);
    w.until_state(first, State::Active);
    w.finish();
}
