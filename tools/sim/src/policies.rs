//! How each policy shares the load out, in virtual time: a table that is kept as a file and read as a diff.
//!
//! Two paths, each one millisecond away (two there and back); the second one may be further away, or lose packets. Clients keep a fixed number of reads and
//! writes in flight for some virtual seconds. The numbers are those of a network without queues: they show
//! what a policy does, not what a machine could.

use crate::dice::Dice;
use crate::load::{Kind, Load};
use crate::net::Portal;
use crate::world::{Setup, World};
use mpio::base::Duration;
use mpio::path::{PathIndex, Policy};
use std::fmt::Write;

/// How the second path differs.
const CASES: [(&str, u64, u64); 4] = [
    ("equal", 1000, 0),
    ("1 ms behind", 2000, 0),
    ("30 ms behind", 31_000, 0),
    ("1 in 500 lost", 1000, 500),
];
const DEPTH: usize = 32;
const SECONDS: u64 = 2;
const CELLS: u64 = 3968;

/// The table, as it is kept.
#[must_use]
pub fn table() -> String {
    let mut out = String::from(
        "policy               second path    share a/b      IO/s    p50 ms    p99 ms\n",
    );
    for policy in Policy::ALL {
        for (name, delay, loss) in CASES {
            let row = measure(policy, Duration::from_micros(delay), loss);
            let _ = writeln!(
                out,
                "{:<20} {name:<14} {:>3} / {:<3} {:>10} {:>9.2} {:>9.2}",
                policy.name(),
                row.shares[0],
                row.shares[1],
                row.per_second,
                row.p50.as_secs_f64() * 1e3,
                row.p99.as_secs_f64() * 1e3,
            );
        }
    }
    out
}

struct Row {
    shares: [u64; 2],
    per_second: u64,
    p50: Duration,
    p99: Duration,
}

fn measure(policy: Policy, delay: Duration, loss_one_in: u64) -> Row {
    let first = Portal { delay: Duration::from_millis(1), ..Portal::new(0) };
    let second = Portal { delay, loss_one_in, ..Portal::new(1) };
    let mut setup = Setup { policy, portals: vec![first, second], ..Setup::default() };
    setup.pair.size = 2 << 20;
    if policy == Policy::WeightedPaths {
        setup.weights = vec![3, 1];
    }
    let mut w = World::cold(setup);
    w.until("both paths active", World::all_active);
    let peer = w.client_on(0);
    let (mut load, mut dice) = (Load::default(), Dice::new(1));
    let end = w.now + Duration::from_secs(SECONDS);
    while w.now < end {
        while w.peers[peer].open < DEPTH {
            let first = dice.below(CELLS / 8) * 8;
            let write = Kind::Write { fua: false, checksum: 0 };
            let kind = if dice.one_in(3) { write } else { Kind::Read };
            load.submit(&mut w, peer, first, 8, kind);
        }
        w.run(Duration::from_micros(500));
        load.take(&mut w);
    }
    let mut times: Vec<Duration> = load
        .asked
        .iter()
        .filter_map(|a| a.answer.as_ref().map(|answer| answer.at - a.at))
        .collect();
    times.sort_unstable();
    let at =
        |per_mille: usize| times.get(times.len() * per_mille / 1000).copied().unwrap_or_default();
    let done = |path| {
        let snapshot = w.volumes[0].snapshot();
        let stats = &snapshot.paths[PathIndex::new(path).get()].stats;
        stats.reads + stats.writes
    };
    let (a, b) = (done(0), done(1));
    let share = |n: u64| (n * 100 + (a + b) / 2) / (a + b).max(1);
    Row {
        shares: [share(a), share(b)],
        // To a hundred: a few requests more or less are no news.
        per_second: (times.len() as u64 / SECONDS + 50) / 100 * 100,
        p50: at(500),
        p99: at(990),
    }
}
