//! Hedged reads: what they bring, what they cost, and when there are none. Every time here is virtual.

use mpio::base::{Duration, Instant};
use mpio::volume::spec::Tunables;
use mpio_sim::net::ways;
use mpio_sim::world::{Setup, World};
use mpio_target::faults::Commands;
use mpio_target::{Fault, Rule};

const MS: fn(u64) -> Duration = Duration::from_millis;
const US: fn(u64) -> Duration = Duration::from_micros;

/// Reads 512 bytes `count` times with `depth` at a time; how long each took, sorted.
fn read(w: &mut World, client: usize, count: u64, depth: usize) -> Vec<Duration> {
    let mut open: Vec<(u64, Instant)> = Vec::new();
    let mut took = Vec::new();
    let mut next = 0;
    while next < count || !open.is_empty() {
        while next < count && open.len() < depth {
            open.push((w.start_read(client, next % 60_000 * 512, 512), w.now));
            next += 1;
        }
        w.until("an answer", |w| open.iter().any(|(token, _)| w.is_done(client, *token)));
        let done: Vec<_> = open.extract_if(.., |(token, _)| w.is_done(client, *token)).collect();
        for (token, from) in done {
            took.push(w.now - from);
            w.take(client, token).expect("just seen").expect("no error");
        }
    }
    took.sort_unstable();
    took
}

fn p999(took: &[Duration]) -> Duration {
    took[took.len() * 999 / 1000]
}

/// Both paths answer within 100 us to half a millisecond, and it is known.
fn world(hedge_reads: bool, portals: Vec<usize>) -> (World, usize) {
    let tunables = Tunables { hedge_reads, ..Tunables::default() };
    let mut w = World::new(Setup { tunables, portals: ways(&portals), ..Setup::default() });
    for node in 0..2 {
        let jitter = Rule::new(Fault::Delay(US(0), US(300))).on(Commands::Reads);
        w.faults(node).set("jitter", jitter);
    }
    let c = w.client();
    read(&mut w, c, 4000, 8);
    (w, c)
}

/// One read in 50 on path 0 takes 30 ms.
fn sometimes_late(w: &World) {
    let late = Rule::new(Fault::Delay(MS(30), MS(30))).on(Commands::Reads).rate(0.02);
    w.faults(0).set("a-late", late);
}

fn finish(mut w: World) {
    w.faults(0).clear();
    w.faults(1).clear();
    w.until_active();
    w.finish();
}

#[test]
fn late_answers_of_one_path_are_hidden() {
    let (mut w, c) = world(true, vec![0, 1]);
    let alone = p999(&read(&mut w, c, 10_000, 8));
    sometimes_late(&w);
    let before = w.volume().snapshot();
    let hedged = p999(&read(&mut w, c, 20_000, 8));
    assert!(hedged <= alone * 2, "{hedged:?} for {alone:?}");
    let after = w.volume().snapshot();
    let (sent, won) =
        (after.hedges.sent - before.hedges.sent, after.hedges.won - before.hedges.won);
    assert!(sent >= 150 && won >= 150, "{sent} {won}");
    assert!(sent <= 20_000 / 20 + 16 && won <= sent, "{sent} {won}");
    assert_eq!(after.stats.reads - before.stats.reads, 20_000, "clients see each read once");
    finish(w);
    let (mut w, c) = world(false, vec![0, 1]);
    sometimes_late(&w);
    let plain = p999(&read(&mut w, c, 20_000, 8));
    assert!(plain >= MS(30), "{plain:?}: there is something to hide");
    assert_eq!(w.volume().snapshot().hedges, Default::default());
    finish(w);
}

/// Every second read is late, and the budget is one copy per 20 reads all the same.
#[test]
fn the_budget_holds() {
    let (mut w, c) = world(true, vec![0, 1]);
    let late = Rule::new(Fault::Delay(MS(5), MS(5))).on(Commands::Reads);
    w.faults(0).set("a-late", late);
    let before = w.volume().snapshot();
    read(&mut w, c, 10_000, 8);
    let after = w.volume().snapshot();
    let sent = after.hedges.sent - before.hedges.sent;
    assert!(sent > 300 && sent <= 10_000 / 20 + 16, "{sent}");
    let copies = after.paths.iter().map(|p| p.stats.reads).sum::<u64>();
    let parts = before.paths.iter().map(|p| p.stats.reads).sum::<u64>() + 10_000;
    assert!(copies - parts <= sent, "nothing else was sent twice");
    finish(w);
}

/// The storage is slow behind all paths: copies would only be more of the same.
#[test]
fn there_are_none_when_all_paths_are_slow_together() {
    let (mut w, c) = world(true, vec![0, 1]);
    for node in 0..2 {
        let slow = Rule::new(Fault::Delay(MS(8), MS(9))).on(Commands::Reads);
        w.faults(node).set("a-slow", slow);
    }
    let before = w.volume().snapshot().hedges.sent;
    read(&mut w, c, 4000, 8);
    let sent = w.volume().snapshot().hedges.sent - before;
    assert!(sent <= 40, "{sent} of 200 that the budget allows");
    finish(w);
}

#[test]
fn there_are_none_with_a_single_path() {
    let (mut w, c) = world(true, vec![0]);
    sometimes_late(&w);
    read(&mut w, c, 2000, 8);
    assert_eq!(w.volume().snapshot().hedges.sent, 0);
    finish(w);
}

/// A copy that is beaten is nobody's: its answer changes nothing, and its place is free then.
#[test]
fn the_loser_leaves_no_trace() {
    let (mut w, c) = world(true, vec![0, 1]);
    for (node, delay) in [(0, MS(5)), (1, MS(9))] {
        let late = Rule::new(Fault::Delay(delay, delay)).on(Commands::Reads).blocks(50_000, 1);
        w.faults(node).set("a-late", late);
    }
    let before = w.volume().snapshot();
    let (mut left, mut fast) = (0, 0);
    for _ in 0..16 {
        let from = w.now;
        assert_eq!(w.read(c, 50_000 * 512, 512).expect("read").len(), 512);
        fast += u32::from(w.now - from <= MS(7));
        left += w.volume().census().stragglers;
        read(&mut w, c, 400, 8);
    }
    assert!(left > 0 && fast >= 10, "{left} {fast}");
    w.until("the losers' answers", |w| w.volumes[0].census().stragglers == 0);
    let after = w.volume().snapshot();
    assert!(after.hedges.sent - before.hedges.sent >= 4);
    assert_eq!(after.stats.reads - before.stats.reads, 16 * 401);
    finish(w);
}
