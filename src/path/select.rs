//! Which of the candidate paths takes the next command, under every policy but `failover`.
//!
//! Mental model: commands come in batches (what one receive brought in). Inside a batch the choice stays
//! on one path for a *burst* of bounded length, since switching on every request halves the batches that
//! are sent and received; a new batch always begins with a new choice, so that at depth 1 paths
//! alternate. What a burst begins with depends on the policy:
//!
//! * the two round-robins give every path the same number of commands per *round*: a path that has had its
//!   share of the round is passed over until the others had theirs, however batches and bursts fell;
//! * the others take the path with the least *key*; of equal keys, the one whose last burst is longest ago.
//!   The key is the queue that the path would have (`least-queue-depth`, `least-bytes`), divided by its
//!   weight; what it has had so far, divided by its weight (`weighted-paths`, stride scheduling); or what
//!   the command would wait for (`latency`).
//!
//! A burst ends early where queues are what counts: under `least-queue-depth` and `least-bytes` a path runs
//! ahead of the shortest queue by a part of a burst at most. Else a batch that is no longer than a burst
//! would go to one path whole.
//!
//! The cost does not depend on the number of paths: sets are bits, the least key is found by a [`Tree`].
//! Deliberately not here: which paths are candidates (engine), `failover` (failover).

mod latency;
mod streams;
#[cfg(test)]
mod tests;
mod tree;

use super::{Ended, Op, PathIndex, PathSet, Policy, WEIGHT_MAX};
use crate::base::Duration;
use crate::limits::PATHS_PER_DEVICE_MAX;
use latency::Estimates;
use streams::Streams;
use tree::Tree;

/// How long the choice may stay on one path within a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    /// Commands; at least 1.
    pub commands: u32,
    /// Bytes; a single command may be larger.
    pub bytes: u32,
}

impl Default for Burst {
    fn default() -> Burst {
        // What one receive of a deep queue brings in stays together: cut into eights, it comes back in
        // eights, and the batches stay that small. Bytes bound it where requests are large.
        Burst { commands: 32, bytes: 256 * 1024 }
    }
}

/// A command that wants a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// What it does.
    pub op: Op,
    /// How many bytes it moves.
    pub bytes: u32,
    /// Where on the device it begins, in bytes; `None` when that is unknown or means nothing.
    pub at: Option<u64>,
}

/// A path of weight 1 advances by this with each command. Divisible by every number up to 16, so that
/// common weights compare without rounding.
const SCALE: u64 = 720_720;

/// What a command without data counts under `least-bytes`: an idle path of greater weight comes first.
const BYTES_MIN: u64 = 4096;

/// What is kept for each path.
#[derive(Debug, Clone, Copy)]
struct Load {
    /// Commands in flight.
    depth: u32,
    weight: u32,
    /// Bytes in flight.
    bytes: u64,
    /// `weighted-paths`: units of `weight` commands that the path has had, and commands since.
    units: u64,
    commands: u32,
    /// When its last burst began: a count of bursts.
    stamp: u64,
}

impl Load {
    /// [`SCALE`] by weight. A path that stands by and must serve all the same counts as weight 1.
    fn stride(&self) -> u64 {
        match self.weight {
            0 | 1 => SCALE,
            weight => SCALE / u64::from(weight),
        }
    }

    /// Position in virtual time; exact whenever the path has had a whole unit.
    fn pass(&self) -> u64 {
        self.units * SCALE + u64::from(self.commands) * self.stride()
    }

    fn advance(&mut self) {
        self.commands += 1;
        if self.commands >= self.weight.max(1) {
            (self.units, self.commands) = (self.units + 1, 0);
        }
    }

    /// Not before `pass`: what the path missed while it could not be chosen is not made up for.
    fn catch_up(&mut self, pass: u64) {
        if self.pass() < pass {
            self.units = pass / SCALE;
            let commands = (pass % SCALE / self.stride()) as u32;
            self.commands = commands.min(self.weight.max(1) - 1);
        }
    }
}

/// The state of the choice.
#[derive(Debug, Clone)]
pub(super) struct Selector {
    policy: Policy,
    burst: Burst,
    /// The path of the last burst; the circle goes on from here.
    at: PathIndex,
    in_burst: bool,
    commands: u32,
    bytes: u32,
    /// Commands that each path may still have in this round.
    credit: [u32; PATHS_PER_DEVICE_MAX],
    /// Paths whose credit is not used up.
    credited: PathSet,
    loads: [Load; PATHS_PER_DEVICE_MAX],
    bursts: u64,
    /// The pass from which the last burst of `weighted-paths` was chosen.
    pass: u64,
    /// The paths that an ordinary choice is made from: these are in the trees.
    members: PathSet,
    /// By key; the second one is for writes under `latency`, and else unused.
    trees: Box<[Tree; 2]>,
    /// Of reads and of writes.
    estimates: Box<[Estimates; 2]>,
    streams: Streams,
}

/// Index into trees and estimates.
fn kind(op: Op) -> usize {
    match op {
        Op::Read => 0,
        Op::Write | Op::Other => 1,
    }
}

impl Selector {
    pub(super) fn new(policy: Policy, burst: Burst, sticky_bytes: u64) -> Selector {
        assert!(burst.commands > 0, "a burst of no commands");
        let load = Load { depth: 0, weight: 1, bytes: 0, units: 0, commands: 0, stamp: 0 };
        Selector {
            policy,
            burst,
            at: PathIndex::new(PATHS_PER_DEVICE_MAX - 1),
            in_burst: false,
            commands: 0,
            bytes: 0,
            credit: [0; PATHS_PER_DEVICE_MAX],
            credited: PathSet::EMPTY,
            loads: [load; PATHS_PER_DEVICE_MAX],
            bursts: 0,
            pass: 0,
            members: PathSet::EMPTY,
            trees: Box::new([Tree::new(), Tree::new()]),
            estimates: Box::new([Estimates::new(), Estimates::new()]),
            streams: Streams::new(sticky_bytes),
        }
    }

    // Settings; none of them is part of the hot path.

    /// Changes the policy and forgets shares and bursts.
    pub(super) fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        self.restart();
    }

    /// Changes the weight of a path and forgets shares: they are exact from here.
    pub(super) fn set_weight(&mut self, path: PathIndex, weight: u32) {
        assert!(weight <= WEIGHT_MAX, "a weight of {weight}");
        self.loads[path.get()].weight = weight;
        self.restart();
    }

    /// Changes for how many bytes a stream stays on its path under `least-bytes`; 0 for never.
    pub(super) fn set_sticky_bytes(&mut self, bytes: u64) {
        self.streams.set_sticky(bytes);
    }

    /// Forgets shares and bursts: the policy or the paths changed.
    pub(super) fn restart(&mut self) {
        self.in_burst = false;
        self.credited = PathSet::EMPTY;
        self.pass = 0;
        for load in &mut self.loads {
            (load.units, load.commands) = (0, 0);
        }
        for path in self.members.iter() {
            self.touch(path);
        }
    }

    /// Forgets how soon a path answers.
    pub(super) fn forget(&mut self, path: PathIndex) {
        for estimates in self.estimates.iter_mut() {
            estimates.forget(path);
        }
        self.touch(path);
    }

    // The hot path.

    /// What one receive brought in follows: the next choice begins a new burst.
    pub(super) fn begin_batch(&mut self) {
        self.in_burst = false;
    }

    /// The paths that an ordinary choice is made from.
    pub(super) fn set_members(&mut self, members: PathSet) {
        let before = core::mem::replace(&mut self.members, members);
        for path in before.minus(members).iter() {
            self.trees.iter_mut().for_each(|tree| tree.remove(path));
        }
        for path in members.minus(before).iter() {
            self.loads[path.get()].catch_up(self.pass);
            self.touch(path);
        }
    }

    /// A path for a command, among `candidates`.
    pub(super) fn choose(&mut self, ask: Ask, candidates: PathSet) -> Option<PathIndex> {
        if candidates.is_empty() {
            return None;
        }
        let bytes = ask.bytes;
        let chosen = match self.policy {
            // The engine asks `failover` and its ranking; without one, the order of addition.
            Policy::Failover => return candidates.first(),
            Policy::RoundRobin | Policy::RoundRobinSubset => self.round_robin(bytes, candidates),
            Policy::LeastQueueDepth => self.shortest_queue(bytes, candidates),
            Policy::LeastBytes => self.least_bytes(ask, candidates),
            Policy::WeightedPaths => self.by_weight(bytes, candidates),
            Policy::Latency => self.soonest(ask, candidates),
        };
        assert!(candidates.contains(chosen), "path {chosen} is none of {candidates:?}");
        Some(chosen)
    }

    fn round_robin(&mut self, bytes: u32, candidates: PathSet) -> PathIndex {
        let mut due = candidates.and(self.credited);
        if due.is_empty() {
            self.credit = [self.burst.commands; PATHS_PER_DEVICE_MAX];
            self.credited = PathSet(u64::MAX >> (64 - PATHS_PER_DEVICE_MAX));
            due = candidates;
        }
        let chosen = if self.stays(bytes, due) { Some(self.at) } else { due.next_after(self.at) };
        let chosen = chosen.expect("candidates are not empty, and so are those that are due");
        self.credit[chosen.get()] -= 1;
        if self.credit[chosen.get()] == 0 {
            self.credited.remove(chosen);
        }
        self.count(chosen, bytes);
        chosen
    }

    fn shortest_queue(&mut self, bytes: u32, candidates: PathSet) -> PathIndex {
        let chosen = self.short_or_here(self.burst.commands / 4, bytes, candidates);
        self.count(chosen, bytes);
        chosen
    }

    /// The shortest queue; or the path of this burst, if it is ahead of that by less than `ahead` commands or
    /// bytes.
    fn short_or_here(&self, ahead: u32, bytes: u32, candidates: PathSet) -> PathIndex {
        let best = self.least(0, candidates);
        let ahead = u64::from(ahead).saturating_mul(self.loads[best.get()].stride());
        let near = || self.cost(0, self.at) < self.cost(0, best).saturating_add(ahead);
        if self.stays(bytes, candidates) && near() { self.at } else { best }
    }

    fn least_bytes(&mut self, ask: Ask, candidates: PathSet) -> PathIndex {
        let chosen = match self.streams.path(ask.at, ask.bytes, candidates) {
            Some(path) => path,
            None => self.short_or_here(self.burst.bytes / 8, ask.bytes, candidates),
        };
        self.count(chosen, ask.bytes);
        self.streams.went(ask.at, ask.bytes, chosen);
        chosen
    }

    fn by_weight(&mut self, bytes: u32, candidates: PathSet) -> PathIndex {
        let chosen = if self.stays(bytes, candidates) {
            self.at
        } else {
            let chosen = self.least(0, candidates);
            self.pass = self.pass.max(self.loads[chosen.get()].pass());
            chosen
        };
        self.count(chosen, bytes);
        self.loads[chosen.get()].advance();
        self.touch(chosen);
        chosen
    }

    fn soonest(&mut self, ask: Ask, candidates: PathSet) -> PathIndex {
        let kind = kind(ask.op);
        let best = self.least(kind, candidates);
        if self.stays(ask.bytes, candidates) {
            // Paths as fast as the best may run ahead of it by a burst; slower ones by less.
            let estimates = &self.estimates[kind];
            let ahead = estimates.step(best).saturating_mul(u64::from(self.burst.commands));
            let (here, there) = (self.cost(kind, self.at), self.cost(kind, best));
            if here <= there.saturating_add(ahead) {
                self.count(self.at, ask.bytes);
                return self.at;
            }
        } else if let Some(path) = self.estimates[kind].trial(candidates, best) {
            self.count(path, ask.bytes);
            self.in_burst = false;
            return path;
        }
        self.in_burst = false;
        self.count(best, ask.bytes);
        best
    }

    /// The path with the least key.
    fn least(&self, kind: usize, candidates: PathSet) -> PathIndex {
        let inside = self.trees[kind].least(candidates);
        // Commands that may take none of the ordinary paths are rare: retries.
        let search = || candidates.iter().min_by_key(|path| self.key(kind, *path));
        inside.or_else(search).expect("there are candidates")
    }

    /// Whether the burst may go on with a command of `bytes` bytes.
    fn stays(&self, bytes: u32, candidates: PathSet) -> bool {
        self.in_burst
            && candidates.contains(self.at)
            && self.commands < self.burst.commands
            && self.bytes.saturating_add(bytes) <= self.burst.bytes
    }

    fn count(&mut self, chosen: PathIndex, bytes: u32) {
        let goes_on = chosen == self.at && self.stays(bytes, PathSet::only(chosen));
        if !goes_on {
            (self.at, self.in_burst, self.commands, self.bytes) = (chosen, true, 0, 0);
            self.bursts += 1;
            self.loads[chosen.get()].stamp = self.bursts;
        }
        self.commands += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn cost(&self, kind: usize, path: PathIndex) -> u64 {
        let load = &self.loads[path.get()];
        match self.policy {
            Policy::Failover | Policy::RoundRobin | Policy::RoundRobinSubset => 0,
            Policy::LeastQueueDepth => (u64::from(load.depth) + 1) * load.stride(),
            Policy::LeastBytes => (load.bytes + BYTES_MIN).saturating_mul(load.stride()),
            Policy::WeightedPaths => load.pass(),
            Policy::Latency => self.estimates[kind].cost(path, load.depth),
        }
    }

    fn key(&self, kind: usize, path: PathIndex) -> u128 {
        u128::from(self.cost(kind, path)) << 64 | u128::from(self.loads[path.get()].stamp)
    }

    /// Something that the key of `path` is made from has changed.
    fn touch(&mut self, path: PathIndex) {
        if !self.members.contains(path) {
            return;
        }
        let kinds = match self.policy {
            Policy::Failover | Policy::RoundRobin | Policy::RoundRobinSubset => return,
            Policy::LeastQueueDepth | Policy::LeastBytes | Policy::WeightedPaths => 1,
            Policy::Latency => 2,
        };
        for kind in 0..kinds {
            let key = self.key(kind, path);
            self.trees[kind].set(path, key);
        }
    }

    /// Commands in flight on `path`.
    pub(super) fn depth(&self, path: PathIndex) -> u32 {
        self.loads[path.get()].depth
    }

    /// A command was given to `path`.
    pub(super) fn started(&mut self, path: PathIndex, bytes: u32) {
        let load = &mut self.loads[path.get()];
        load.depth += 1;
        load.bytes += u64::from(bytes);
        self.load_changed(path);
    }

    /// A command of `path` ended.
    pub(super) fn finished(
        &mut self,
        path: PathIndex,
        op: Op,
        bytes: u32,
        latency: Duration,
        ended: Ended,
    ) {
        let load = &mut self.loads[path.get()];
        let (depth, flying) = (load.depth, load.bytes);
        assert!(depth > 0, "path {path} finished a command that it never started");
        assert!(flying >= u64::from(bytes), "path {path} finished bytes that it never started");
        (load.depth, load.bytes) = (depth - 1, flying - u64::from(bytes));
        if ended == Ended::Good && op != Op::Other {
            self.estimates[kind(op)].answered(path, latency);
        }
        self.load_changed(path);
    }

    fn load_changed(&mut self, path: PathIndex) {
        match self.policy {
            Policy::LeastQueueDepth | Policy::LeastBytes | Policy::Latency => self.touch(path),
            Policy::Failover
            | Policy::RoundRobin
            | Policy::RoundRobinSubset
            | Policy::WeightedPaths => {}
        }
    }

    /// How long an answer to an `op` takes on average.
    pub(super) fn expected(&self, op: Op, path: PathIndex) -> Duration {
        self.estimates[kind(op)].expected(path)
    }

    /// The path of `candidates` that would answer an `op` soonest, for a copy of a command that is in
    /// flight elsewhere: no share is counted. It looks at every candidate, since copies are rare.
    pub(super) fn soonest_of(&self, op: Op, candidates: PathSet) -> Option<PathIndex> {
        let estimates = &self.estimates[kind(op)];
        candidates.iter().min_by_key(|path| estimates.cost(*path, self.depth(*path)))
    }
}
