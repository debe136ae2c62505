//! The policies against virtual servers: a closed loop of a given depth, each path with a delay and a
//! server that serves one command after the other. No clock but the loop's own, so that every run is the
//! same.

use super::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Virtual microseconds.
const US: fn(u64) -> Duration = Duration::from_micros;
const BYTES: u32 = 4096;
/// What a lane takes in together.
const TURN: Duration = Duration::from_micros(20);

/// What is behind a path.
#[derive(Debug, Clone, Copy)]
struct Server {
    /// On the way, whatever else is.
    delay: [Duration; 2],
    /// Of the server, one command after the other.
    service: Duration,
    free_at: Instant,
    ended: Ended,
}

impl Server {
    fn new(delay_us: u64, service_us: u64) -> Server {
        Server {
            delay: [US(delay_us); 2],
            service: US(service_us),
            free_at: Instant::ZERO,
            ended: Ended::Good,
        }
    }

    fn slower(self, by_us: u64) -> Server {
        Server { delay: self.delay.map(|delay| delay + US(by_us)), ..self }
    }
}

/// When it ends, in which order it began, on which path, whether it writes, when it began.
type Flight = (Instant, u64, usize, bool, Instant);

struct Loop {
    engine: Engine,
    servers: Vec<Server>,
    now: Instant,
    flying: BinaryHeap<Reverse<Flight>>,
    begun: u64,
    /// Of ten commands, so many are writes.
    writes: u64,
    /// Commands begun on each path, reads and writes.
    counts: Vec<[u64; 2]>,
    done: u64,
}

impl Loop {
    fn new(policy: Policy, depth: u64, servers: &[Server]) -> Loop {
        let mut l = Loop {
            engine: engine(policy, servers.len()),
            servers: servers.to_vec(),
            now: NOW,
            flying: BinaryHeap::new(),
            begun: 0,
            writes: 0,
            counts: vec![[0; 2]; servers.len()],
            done: 0,
        };
        l.begin(depth);
        l
    }

    fn begin(&mut self, commands: u64) {
        self.engine.begin_batch();
        for _ in 0..commands {
            self.begun += 1;
            // Scattered, not periodic: paths that alternate must not get all the writes.
            let write = self.begun.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & 0xffff
                < self.writes * 0x1_0000 / 10;
            let op = if write { Op::Write } else { Op::Read };
            let path = self.engine.choose(op, BYTES, PathSet::EMPTY).expect("a path");
            self.engine.started(path, op, BYTES);
            let server = &mut self.servers[path.get()];
            server.free_at = server.free_at.max(self.now) + server.service;
            let ends = server.free_at + server.delay[usize::from(write)];
            self.flying.push(Reverse((ends, self.begun, path.get(), write, self.now)));
            self.counts[path.get()][usize::from(write)] += 1;
        }
    }

    /// One turn of a lane: whatever has ended by its end, and as many new commands.
    fn turn(&mut self) {
        let Reverse((first, ..)) = *self.flying.peek().expect("a closed loop");
        self.now = self.now.max(first) + TURN;
        let mut ended = 0;
        while let Some(Reverse((at, _, path, write, started))) = self.flying.peek().copied()
            && at <= self.now
        {
            self.flying.pop();
            let op = if write { Op::Write } else { Op::Read };
            let how = self.servers[path].ended;
            self.engine.finished(self.now, p(path), op, BYTES, started, how);
            ended += 1;
        }
        self.done += ended;
        self.begin(ended);
    }

    /// Runs for a while; gives the throughput in commands per second.
    fn run(&mut self, millis: u64) -> f64 {
        let (from, done) = (self.now, self.done);
        self.counts.iter_mut().for_each(|counts| *counts = [0; 2]);
        while self.now < from + Duration::from_millis(millis) {
            self.turn();
        }
        (self.done - done) as f64 / (self.now - from).as_secs_f64()
    }

    /// The share of the reads (0) or writes (1) that went to `path`.
    fn share(&self, path: usize, kind: usize) -> f64 {
        let all: u64 = self.counts.iter().map(|counts| counts[kind]).sum();
        self.counts[path][kind] as f64 / all as f64
    }
}

fn throughput(policy: Policy, depth: u64, writes: u64, servers: &[Server]) -> f64 {
    let mut l = Loop::new(policy, depth, servers);
    l.writes = writes;
    // Past the beginning, when nothing is known yet; then long enough for several trials.
    l.run(1100 / depth + 100);
    l.run(6000 / depth + 500)
}

#[test]
fn with_one_path_30_ms_slower_latency_is_three_times_round_robin_and_nine_tenths_of_the_fast_path()
{
    // A server in memory, one that is faster than the turns, and a disk.
    for fast in [Server::new(80, 20), Server::new(30, 2), Server::new(1000, 50)] {
        for depth in [1, 8, 32] {
            let slow = fast.slower(30_000);
            let even = throughput(Policy::RoundRobin, depth, 0, &[fast, slow]);
            let alone = throughput(Policy::Latency, depth, 0, &[fast]);
            for writes in [0, 3] {
                let both = throughput(Policy::Latency, depth, writes, &[fast, slow]);
                let what = format!("{fast:?} depth {depth} writes {writes}: {both} {even} {alone}");
                assert!(both >= 3.0 * even, "{what}");
                assert!(both >= 0.9 * alone, "{what}");
            }
        }
    }
}

#[test]
fn thirty_one_slow_paths_cost_no_more_than_one() {
    let fast = Server::new(80, 20);
    let mut servers = vec![fast.slower(30_000); 32];
    servers[17] = fast;
    for depth in [1, 32] {
        let all = throughput(Policy::Latency, depth, 0, &servers);
        let alone = throughput(Policy::Latency, depth, 0, &[fast]);
        assert!(all >= 0.9 * alone, "depth {depth}: {all} of {alone}");
    }
}

#[test]
fn equal_paths_share_evenly_and_unequal_servers_are_both_kept_busy() {
    let server = Server::new(80, 20);
    for depth in [8, 32, 128] {
        let mut l = Loop::new(Policy::Latency, depth, &[server, server]);
        l.run(1000);
        l.run(1000);
        assert!((0.4..0.6).contains(&l.share(0, 0)), "depth {depth}: {}", l.share(0, 0));
    }
    let third = Server::new(80, 60);
    let both = throughput(Policy::Latency, 64, 0, &[server, third]);
    let capacity = 1e6 / 20.0 + 1e6 / 60.0;
    assert!(both > 0.9 * capacity, "{both} of {capacity}");
}

#[test]
fn a_path_that_heals_is_used_again_and_one_that_slows_down_is_left() {
    let fast = Server::new(80, 20);
    for depth in [1, 32] {
        let mut l = Loop::new(Policy::Latency, depth, &[fast, fast.slower(30_000)]);
        l.run(3000);
        let trials = l.counts[1][0];
        assert!(trials > 0 && l.share(1, 0) < 0.01, "a small share: {trials}");
        l.servers[1] = fast;
        let done = l.done;
        // 64 commands for each time that it was slower: about what the trials cost until it is known.
        let ratio = 30_100 / 100;
        let used = |l: &mut Loop| {
            l.run(20);
            l.share(1, 0) > 0.3 || depth == 1 && l.share(1, 0) > 0.02
        };
        while !used(&mut l) {
            assert!(l.done - done < 64 * ratio, "depth {depth}: not used again");
        }
        l.servers[0] = fast.slower(30_000);
        l.run(200);
        l.run(1000);
        assert!(l.share(0, 0) < 0.01, "depth {depth}: {}", l.share(0, 0));
    }
}

#[test]
fn reads_and_writes_are_judged_apart() {
    let server = Server::new(80, 20);
    let mut slow_reads = server;
    slow_reads.delay[0] = US(10_000);
    let mut l = Loop::new(Policy::Latency, 32, &[server, slow_reads]);
    l.writes = 5;
    l.run(2000);
    l.run(2000);
    assert!(l.share(1, 0) < 0.02, "reads {}", l.share(1, 0));
    assert!(l.share(1, 1) > 0.4, "writes {}", l.share(1, 1));
}

#[test]
fn errors_that_come_at_once_draw_nothing() {
    let good = Server::new(1000, 20);
    let mut broken = Server::new(0, 1);
    let mut l = Loop::new(Policy::Latency, 32, &[good, broken]);
    l.servers[1].ended = Ended::Error;
    l.run(1000);
    l.run(1000);
    assert!(l.share(1, 0) < 0.05, "{}", l.share(1, 0));
    broken.ended = Ended::Good;
    l.servers[1] = broken;
    l.run(1000);
    l.run(1000);
    assert!(l.share(1, 0) > 0.5, "now it is the fast one: {}", l.share(1, 0));
}

/// Faults come and go, with every policy: the loop goes on, and no path that is out is used.
#[test]
fn shares_are_restored_after_failures() {
    for policy in Policy::ALL.into_iter().filter(|policy| *policy != Policy::Failover) {
        let server = Server::new(80, 20);
        let mut l = Loop::new(policy, 32, &[server; 3]);
        l.run(200);
        for round in 0..5 {
            let out = round % 3;
            l.engine.transition(l.now, p(out), State::Suspect, "owes an answer");
            l.run(50);
            assert_eq!(l.counts[out], [0, 0], "{policy}");
            for other in (0..3).filter(|path| *path != out) {
                assert!((0.4..0.6).contains(&l.share(other, 0)), "{policy} {:?}", l.counts);
            }
            l.engine.transition(l.now, p(out), State::Active, "answered");
            l.run(50);
            for path in 0..3 {
                assert!((0.25..0.42).contains(&l.share(path, 0)), "{policy} {:?}", l.counts);
            }
        }
    }
}
