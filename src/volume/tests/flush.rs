//! FLUSH and FUA: what reaches which target's cache.

use super::world::{Setup, World, pattern, theirs};
use crate::base::Payload;
use crate::export::client::Op;
use crate::path::{Policy, State};
use crate::wire::nbd::NbdError;
use mpio_target::faults::{Commands, SenseCode};
use mpio_target::{Fault, PairConfig, Rule};

const SYNC: u8 = 0x35;

fn syncs(w: &World) -> [usize; 2] {
    [w.executed(0, SYNC), w.executed(1, SYNC)]
}

fn world(policy: Policy, change: impl Fn(usize, &mut mpio_target::config::Abilities)) -> World {
    let mut pair = PairConfig::default();
    for (index, node) in pair.nodes.iter_mut().enumerate() {
        change(index, &mut node.abilities);
    }
    World::new(Setup { pair, policy, ..Setup::default() })
}

fn write_both(w: &mut World, c: usize) {
    for n in 0..8 {
        w.write(c, n * 4096, &pattern(n, 4096)).expect("written");
    }
}

#[test]
fn a_flush_goes_once_to_every_target_that_was_written_to() {
    let mut w = world(Policy::RoundRobin, |_, _| {});
    let c = w.client();
    w.flush(c).expect("nothing to flush");
    assert_eq!(syncs(&w), [0, 0]);
    write_both(&mut w, c);
    w.flush(c).expect("flushed");
    assert_eq!(syncs(&w), [1, 1]);
    w.flush(c).expect("nothing new");
    assert_eq!(syncs(&w), [1, 1]);
    w.finish();
    let mut w = world(Policy::Failover, |_, _| {});
    let c = w.client();
    write_both(&mut w, c);
    w.flush(c).expect("flushed");
    assert_eq!(syncs(&w), [1, 0]);
    w.finish();
}

#[test]
fn a_target_that_is_gone_is_covered_by_its_mirror_and_flushed_later() {
    let mut w = world(Policy::Failover, |_, _| {});
    let c = w.client();
    write_both(&mut w, c);
    w.kill(0);
    w.until("noticed", |w| w.state(0) != State::Active);
    w.flush(c).expect("flushed");
    assert_eq!(syncs(&w), [0, 1]);
    w.start(0);
    w.until_active();
    w.flush(c).expect("flushed");
    assert_eq!(syncs(&w), [1, 1]);
    w.flush(c).expect("nothing new");
    assert_eq!(syncs(&w), [1, 1]);
    w.finish();
}

/// A target that comes back while a flush is under way elsewhere was not reached by it.
#[test]
fn a_flush_counts_only_where_it_went() {
    let mut w = world(Policy::Failover, |_, _| {});
    let c = w.client();
    write_both(&mut w, c);
    w.kill(0);
    w.until("noticed", |w| w.state(0) != State::Active);
    w.faults(1).set("hang", Rule::new(Fault::Hold).on(Commands::Flushes));
    let token = w.submit(c, flush_op());
    w.run_ms(10);
    w.start(0);
    w.until_active();
    w.faults(1).clear();
    let now = theirs(w.now);
    w.node(1).release(now);
    w.answer(c, token).expect("flushed");
    assert_eq!(syncs(&w), [0, 1]);
    w.flush(c).expect("flushed");
    assert_eq!(syncs(&w), [1, 1]);
    w.finish();
}

fn flush_op() -> Op {
    Op::Other { command: crate::wire::nbd::Command::FLUSH, flags: 0, offset: 0, len: 0 }
}

fn fua(w: &mut World, c: usize, n: u64) {
    let data = Payload::from(pattern(n, 4096));
    let token = w.submit(c, Op::Write { offset: n * 4096, data, fua: true });
    w.answer(c, token).expect("written");
}

#[test]
fn fua_is_a_bit_where_the_unit_has_it_and_a_flush_where_not() {
    for (has, expected) in [(true, [0, 0]), (false, [1, 0])] {
        let mut w = world(Policy::Failover, |_, a| a.fua = has);
        let c = w.client();
        fua(&mut w, c, 0);
        assert_eq!(syncs(&w), expected);
        w.finish();
    }
    // One side of the mirror has it, the other has not.
    let mut w = world(Policy::RoundRobin, |node, a| a.fua = node == 0);
    let c = w.client();
    for n in 0..4 {
        fua(&mut w, c, n);
    }
    assert_eq!(syncs(&w), [0, 2], "each of the two writes there was followed by a flush there");
    w.finish();
}

#[test]
fn without_a_cache_there_is_nothing_to_flush() {
    let mut w = world(Policy::RoundRobin, |_, a| a.write_cache = false);
    let c = w.client();
    write_both(&mut w, c);
    w.flush(c).expect("nothing to do");
    assert_eq!(syncs(&w), [0, 0]);
    w.finish();
    let mut w = world(Policy::RoundRobin, |node, a| a.write_cache = node == 1);
    let c = w.client();
    write_both(&mut w, c);
    w.flush(c).expect("flushed");
    assert_eq!(syncs(&w), [0, 1]);
    w.finish();
}

#[test]
fn a_flush_that_fails_is_told() {
    let mut w = world(Policy::RoundRobin, |_, _| {});
    let c = w.client();
    write_both(&mut w, c);
    let sense = SenseCode { key: 3, asc: 0x0c, ascq: 0 };
    w.faults(1).set("x", Rule::new(Fault::Sense(sense)).on(Commands::Flushes).times(1));
    assert_eq!(w.flush(c), Err(NbdError::Io));
    w.flush(c).expect("the next one is its own");
    w.finish();
}

#[test]
fn an_earlier_loss_fails_the_next_flush_once() {
    let mut w = world(Policy::RoundRobin, |_, _| {});
    let c = w.client();
    w.volume().shared.set_earlier_lost();
    fua(&mut w, c, 0);
    assert_eq!(w.flush(c), Err(NbdError::Io));
    w.flush(c).expect("told once");
    assert_eq!(w.logged("flush failed"), 1);
    w.finish();
}
