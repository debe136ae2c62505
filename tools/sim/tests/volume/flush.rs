//! FLUSH and FUA: what reaches which target's cache.

use mpio::base::Payload;
use mpio::export::client::Op;
use mpio::path::{Policy, State};
use mpio::volume::spec::{Failback, Tunables};
use mpio::wire::nbd::NbdError;
use mpio_sim::net::{Net, ways};
use mpio_sim::world::{Setup, World, pattern};
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

/// Nobody else can empty the cache of a target that owes an answer to something else.
#[test]
fn a_suspect_target_is_flushed_itself() {
    for policy in [Policy::Failover, Policy::RoundRobin] {
        let mut w = world(policy, |_, _| {});
        let c = w.client();
        w.write(c, 0, &pattern(1, 4096)).expect("written");
        assert_eq!(w.executed(0, 0x2a) + w.executed(0, 0x8a), 1, "by the first path");
        w.faults(0).set("hang", Rule::new(Fault::Hold).on(Commands::Reads));
        for n in 0..2 {
            w.ask(c, Op::Read { offset: n * 8192, len: 4096 });
            w.run_ms(1);
        }
        w.until("suspect", |w| w.state(0) == State::Suspect);
        w.flush(c).expect("flushed");
        assert_eq!((w.state(0), syncs(&w)), (State::Suspect, [1, 0]), "{policy}");
        w.faults(0).clear();
        w.release(0);
        w.until_active();
        w.flush(c).expect("nothing new");
        assert_eq!(syncs(&w), [1, 0]);
        w.finish();
    }
}

/// It has the whole deadline of the command; after that its mirror covers it, at once from then on.
#[test]
fn a_suspect_target_that_does_not_flush_is_waited_for_once() {
    let mut w = world(Policy::Failover, |_, _| {});
    let c = w.client();
    write_both(&mut w, c);
    for (name, commands) in [("r", Commands::Reads), ("f", Commands::Flushes)] {
        w.faults(0).set(name, Rule::new(Fault::Hold).on(commands));
    }
    w.ask(c, Op::Read { offset: 0, len: 4096 });
    w.until("suspect", |w| w.state(0) == State::Suspect);
    let token = w.ask(c, flush_op());
    w.run_ms(59_000);
    assert_eq!((w.state(0), syncs(&w)), (State::Suspect, [0, 0]));
    w.run_ms(2_000);
    assert_eq!((w.state(0), syncs(&w)), (State::Suspect, [0, 1]));
    w.answer(c, token).expect("covered");
    w.flush(c).expect("covered");
    assert_eq!(syncs(&w), [0, 2], "its mark stays");
    w.faults(0).clear();
    w.release(0);
    w.until_active();
    let before = syncs(&w);
    w.flush(c).expect("flushed");
    assert_eq!(syncs(&w), [before[0] + 1, 2]);
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
    let token = w.ask(c, flush_op());
    w.run_ms(10);
    w.start(0);
    w.until_active();
    w.faults(1).clear();
    w.release(1);
    w.answer(c, token).expect("flushed");
    assert_eq!(syncs(&w), [0, 2], "asked again when the other one said that it was powered on");
    w.flush(c).expect("flushed");
    assert_eq!(syncs(&w), [1, 2]);
    w.finish();
}

fn flush_op() -> Op {
    Op::Other { command: mpio::wire::nbd::Command::FLUSH, flags: 0, offset: 0, len: 0 }
}

fn fua(w: &mut World, c: usize, n: u64) {
    let data = Payload::from(pattern(n, 4096));
    let token = w.ask(c, Op::Write { offset: n * 4096, data, fua: true });
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
    w.shared.as_ref().expect("a daemon").set_earlier_lost();
    fua(&mut w, c, 0);
    assert_eq!(w.flush(c), Err(NbdError::Io));
    w.flush(c).expect("told once");
    assert_eq!(w.logged("flush failed"), 1);
    w.finish();
}

fn lose(w: &mut World, nodes: &[usize]) {
    nodes.iter().for_each(|node| w.node(*node).unit_attention(0x29, 0x00));
}

/// Reads on every path, so that attentions are found, and sessions show that they have none.
fn touch(w: &mut World, c: usize) {
    (0..4).for_each(|n| drop(w.read(c, n * 4096, 4096).expect("read")));
    w.until_active();
}

#[test]
fn a_cache_that_was_lost_on_every_path_fails_the_next_flush_once() {
    let mut w = world(Policy::RoundRobin, |_, _| {});
    let c = w.client();
    write_both(&mut w, c);
    lose(&mut w, &[0, 1]);
    touch(&mut w, c);
    assert_eq!(w.flush(c), Err(NbdError::Io));
    w.flush(c).expect("told once");
    assert_eq!(w.logged("flush failed"), 1);
    // What was flushed before is not lost, and without a cache there is nothing to lose.
    lose(&mut w, &[0, 1]);
    touch(&mut w, c);
    write_both(&mut w, c);
    w.flush(c).expect("flushed");
    w.finish();
    let mut w = world(Policy::RoundRobin, |_, a| a.write_cache = false);
    let c = w.client();
    write_both(&mut w, c);
    lose(&mut w, &[0, 1]);
    touch(&mut w, c);
    w.flush(c).expect("flushed");
    w.finish();
}

/// The other target of the mirror has what was acknowledged, and shows that it was not reset: by a read,
/// or at the latest by the flush itself.
#[test]
fn a_path_that_kept_its_session_knows_that_nothing_was_lost() {
    for touched in [true, false] {
        let mut w = world(Policy::RoundRobin, |_, _| {});
        let c = w.client();
        write_both(&mut w, c);
        lose(&mut w, &[0]);
        if touched {
            touch(&mut w, c);
        }
        w.flush(c).expect("flushed");
        w.finish();
    }
    // Only one of them was written to: the flush asks the other one as well.
    let mut w = world(Policy::Failover, |_, _| {});
    let c = w.client();
    write_both(&mut w, c);
    lose(&mut w, &[0]);
    touch(&mut w, c);
    w.flush(c).expect("flushed");
    // Both were reset, and the other one says so when it is asked.
    write_both(&mut w, c);
    lose(&mut w, &[0, 1]);
    touch(&mut w, c);
    assert_eq!(w.flush(c), Err(NbdError::Io));
    w.finish();
    // Nobody else knows.
    let mut w = World::new(Setup { portals: ways(&[0]), ..Setup::default() });
    let c = w.client();
    write_both(&mut w, c);
    lose(&mut w, &[0]);
    touch(&mut w, c);
    assert_eq!(w.flush(c), Err(NbdError::Io));
    w.flush(c).expect("told once");
    w.finish();
}

/// `tgtd` says 29/00 on every new session.
#[test]
fn a_new_session_that_says_power_on_does_not_break_a_flush() {
    let attention = Fault::UnitAttention { asc: 0x29, ascq: 0x00 };
    let fall = |w: &mut World, nodes: &[usize]| {
        for node in nodes {
            let rule = Rule::new(attention.clone()).on(Commands::Opcode(0x00)).times(1);
            w.faults(*node).set("power on", rule);
            w.node(*node).reset_connections();
        }
        w.until("noticed", |w| nodes.iter().all(|node| w.state(*node) != State::Active));
        w.until_active();
        nodes.iter().for_each(|node| assert_eq!(w.faults(*node).struck("power on"), 1));
    };
    let mut w = world(Policy::RoundRobin, |_, _| {});
    let c = w.client();
    write_both(&mut w, c);
    fall(&mut w, &[0]);
    w.flush(c).expect("the other one went on");
    // One after the other between two flushes.
    write_both(&mut w, c);
    fall(&mut w, &[0]);
    write_both(&mut w, c);
    fall(&mut w, &[1]);
    w.flush(c).expect("each saw the other go on");
    // Both at once: that is what a power failure looks like.
    write_both(&mut w, c);
    fall(&mut w, &[0, 1]);
    assert_eq!(w.flush(c), Err(NbdError::Io));
    w.flush(c).expect("told once");
    // What the mirror has flushed is not lost with this one.
    let mut only = world(Policy::Failover, |_, _| {});
    let c = only.client();
    write_both(&mut only, c);
    only.kill(0);
    only.until("noticed", |w| w.state(0) != State::Active);
    only.flush(c).expect("flushed by the mirror");
    let rule = Rule::new(attention.clone()).on(Commands::Opcode(0x00)).times(1);
    only.faults(0).set("power on", rule);
    only.start(0);
    only.until_active();
    only.flush(c).expect("flushed");
    only.finish();
    w.finish();
}

/// A LOGICAL UNIT RESET of ours makes every other session of its target say 29/00: here the one that has
/// acknowledged everything.
#[test]
fn our_own_reset_does_not_break_a_flush() {
    let tunables = Tunables { failback: Failback::Manual, ..Tunables::default() };
    let policy = Policy::Failover;
    let mut w = World::new(Setup { policy, tunables, portals: ways(&[0, 0]), ..Setup::default() });
    let c = w.client();
    w.portals[0].net = Net::Silent;
    let token = w.start_write(c, 0, pattern(9, 4096));
    w.until("given up", |w| w.failures(0) > 0);
    w.answer(c, token).expect("repeated over the other portal");
    w.portals[0].net = Net::Works;
    w.until("fenced", |w| w.logged("fenced") > 0);
    w.until_active();
    // As `tgtd` tells of it.
    lose(&mut w, &[0]);
    touch(&mut w, c);
    let paths = w.volume().snapshot().paths;
    let writes: Vec<u64> = paths.iter().map(|path| path.stats.writes).collect();
    assert_eq!(writes, [0, 1], "the other one has acknowledged everything");
    w.flush(c).expect("flushed");
    w.finish();
}
