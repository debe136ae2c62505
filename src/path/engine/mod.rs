//! The paths of one device on one lane, and which of them takes the next command.
//!
//! Mental model: a table of paths with states; the sets that the choice needs (active, suspect, full,
//! little trusted) are kept up to date as bits whenever something changes, so that the hot path
//! ([`Engine::choose`], [`Engine::started`], [`Engine::finished`]) is a few bit operations and no search.
//!
//! Grammar: getters; commands (`transition`, `fail`, `set_*`); `handle_timeout(now)`; then `poll_retry`
//! until it returns `None`, and `poll_deadline` for the next time with its reason.
//!
//! Deliberately not here: sessions and what a failure means (volume), write ownership (ledger). What is
//! said about the device as a whole is in `report`.

mod report;
#[cfg(test)]
mod tests;

pub use report::{DeviceHealth, Tally};

use super::access::Tiers;
use super::backoff::{Backoff, Failure, Reconnect};
use super::events::{Events, Stamp, WallClock, What};
use super::failover::Failover;
use super::health::{Patience, Trust};
use super::select::{Ask, Burst, Selector};
use super::{Access, Ended, Failback, Op, PathIndex, PathSet, Policy, State};
use crate::base::{Duration, Instant};
use crate::limits::PATHS_PER_DEVICE_MAX;
use crate::stats::IoStats;

/// How an engine starts; policy, failback, weights and preference can be changed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tuning {
    /// First policy.
    pub policy: Policy,
    /// `failover`'s way back.
    pub failback: Failback,
    /// How long a choice may stay on one path within a batch.
    pub burst: Burst,
    /// `least-bytes`: for how many bytes a sequential stream stays on its path; 0 for never.
    pub sticky_bytes: u64,
    /// Seed of the back-off's jitter: different for each device, the same in each replay.
    pub seed: u64,
}

/// A path as it is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// `PORTAL:TAIL`.
    pub name: String,
    /// For the policies that [use weights](Policy::uses_weights): 0 to [`WEIGHT_MAX`](super::WEIGHT_MAX),
    /// 1 by default, 0 to stand by.
    pub weight: u32,
    /// Administratively preferred.
    pub preferred: bool,
    /// Position in the configured order; lower serves first in `failover`.
    pub order: u32,
}

/// A device has no room for another path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a device has at most {PATHS_PER_DEVICE_MAX} paths")]
pub struct TooManyPaths;

/// Why [`Engine::poll_deadline`] wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// A failed path is due for a reconnect: [`Engine::poll_retry`].
    Retry(PathIndex),
    /// `failover` may go back to a better path: [`Engine::handle_timeout`].
    Failback,
}

#[derive(Debug)]
struct Path {
    info: PathInfo,
    access: Option<Access>,
    state: State,
    since: Instant,
    reason: String,
    backoff: Backoff,
    retry_at: Option<Instant>,
    patience: Patience,
    stats: IoStats,
    failures: u64,
    last_failure: String,
}

/// The path engine of one device on one lane.
#[derive(Debug)]
pub struct Engine {
    policy: Policy,
    seed: u64,
    reconnect: Reconnect,
    paths: Vec<Path>,
    active: PathSet,
    suspect: PathSet,
    /// Paths whose session has no room for another command.
    full: PathSet,
    /// Paths of weight 0.
    standing_by: PathSet,
    tiers: Tiers,
    trust: Trust,
    selector: Selector,
    failover: Failover,
    /// p99.5 of the reads of the fastest active path.
    read_tail: Option<Duration>,
    /// Since when no path is usable.
    down_since: Option<Instant>,
    /// Commands from before say nothing of their path.
    stalled_until: Instant,
    events: Events,
    clock: WallClock,
}

impl Engine {
    /// A device without paths.
    #[must_use]
    pub fn new(now: Instant, tuning: Tuning) -> Engine {
        Engine {
            policy: tuning.policy,
            seed: tuning.seed,
            reconnect: Reconnect::default(),
            paths: Vec::with_capacity(PATHS_PER_DEVICE_MAX),
            active: PathSet::EMPTY,
            suspect: PathSet::EMPTY,
            full: PathSet::EMPTY,
            standing_by: PathSet::EMPTY,
            tiers: Tiers::new(),
            trust: Trust::new(),
            selector: Selector::new(tuning.policy, tuning.burst, tuning.sticky_bytes),
            failover: Failover::new(tuning.failback),
            read_tail: None,
            down_since: Some(now),
            stalled_until: Instant::ZERO,
            events: Events::new(),
            clock: WallClock::default(),
        }
    }

    /// Adds a path, `connecting`.
    ///
    /// # Errors
    /// When the device has all the paths that it can have.
    pub fn add_path(&mut self, now: Instant, info: PathInfo) -> Result<PathIndex, TooManyPaths> {
        let index = self.paths.len();
        if index >= PATHS_PER_DEVICE_MAX {
            return Err(TooManyPaths);
        }
        let path = PathIndex::new(index);
        self.failover.set_rank(path, info.preferred, info.order);
        let mut backoff = Backoff::new(self.seed ^ ((index as u64) << 56));
        backoff.set(self.reconnect);
        self.selector.set_weight(path, info.weight);
        self.standing_by.set(path, info.weight == 0);
        self.paths.push(Path {
            info,
            access: None,
            state: State::Connecting,
            since: now,
            reason: String::new(),
            backoff,
            retry_at: None,
            patience: Patience::new(),
            stats: IoStats::new(),
            failures: 0,
            last_failure: String::new(),
        });
        Ok(path)
    }

    // The hot path.

    /// What one receive brought in follows: the next choice begins a new burst.
    pub fn begin_batch(&mut self) {
        self.selector.begin_batch();
    }

    /// The path for the next command of `bytes` bytes, wherever on the device: usable, with room, and not in
    /// `exclude`. `None`: it has to wait, for room if [`usable`](Engine::usable) minus `exclude` has paths,
    /// else for a path.
    ///
    /// The choice counts as used: follow it by [`started`](Engine::started).
    pub fn choose(&mut self, op: Op, bytes: u32, exclude: PathSet) -> Option<PathIndex> {
        self.choose_among(Ask { op, bytes, at: None }, self.usable().minus(exclude))
    }

    /// The same among `candidates`, whatever their state: for a retry that may use suspect paths although
    /// active ones are there.
    pub fn choose_among(&mut self, ask: Ask, candidates: PathSet) -> Option<PathIndex> {
        let candidates = candidates.minus(self.trust.avoid(ask.op)).or_else(candidates);
        if self.policy == Policy::Failover {
            let serving = self.failover.serving().filter(|path| candidates.contains(*path));
            // One path at a time: a full one is waited for.
            let path = serving.or_else(|| self.failover.best(candidates))?;
            return (!self.full.contains(path)).then_some(path);
        }
        // Full paths of the best group are waited for too, rather than that a worse group is used.
        self.selector.choose(ask, self.group(candidates).minus(self.full))
    }

    /// The path that would answer a copy of an `op` soonest, for a command that is in flight on `exclude`: active,
    /// with room, trusted, and of the best access that any active path has. Follow it by
    /// [`started`](Engine::started); no share is counted.
    #[must_use]
    pub fn choose_second(&self, op: Op, exclude: PathSet) -> Option<PathIndex> {
        let best = self.tiers.best(self.active);
        let weighted = match self.policy.uses_weights() {
            true => best.minus(self.standing_by),
            false => best,
        };
        let avoided = exclude.union(self.full).union(self.trust.avoid(op));
        self.selector.soonest_of(op, weighted.minus(avoided))
    }

    /// Those of `paths` that the policy chooses from: the administrator's word (weight 0 stands by) comes
    /// before the storage's (access).
    fn group(&self, paths: PathSet) -> PathSet {
        let weighted = match self.policy.uses_weights() {
            true => paths.minus(self.standing_by).or_else(paths),
            false => paths,
        };
        if self.policy.stays_in_best_group() { self.tiers.best(weighted) } else { weighted }
    }

    /// What [`Engine::group`] gives for an ordinary command may have changed.
    fn regroup(&mut self) {
        self.selector.set_members(self.group(self.usable()).minus(self.full));
    }

    /// A command was given to the path's session.
    pub fn started(&mut self, path: PathIndex, op: Op, bytes: u32) {
        assert!(path.get() < self.paths.len(), "path {path} does not exist");
        self.selector.started(path, bytes);
        self.trust.started(path, op);
    }

    /// A command that was started at `started`, with the same `op` and `bytes`, ended.
    pub fn finished(
        &mut self,
        now: Instant,
        path: PathIndex,
        op: Op,
        bytes: u32,
        started: Instant,
        ended: Ended,
    ) {
        let latency = now - started;
        self.selector.finished(path, op, bytes, latency, ended);
        let entry = &mut self.paths[path.get()];
        let suspect = entry.state == State::Suspect;
        self.trust.finished(path, op, ended, suspect);
        entry.stats.record(op, bytes, latency, ended);
        // What waited for us, not for the path, tells nothing of the path.
        if ended != Ended::Lost && op != Op::Other && started >= self.stalled_until {
            let new_tail = entry.patience.record(op, latency);
            if suspect {
                entry.patience.excuse(op, latency);
            }
            if new_tail {
                self.find_read_tail();
            }
        }
    }

    /// This process did not run for a while, until `now`: of what was in flight then nobody knows how long it
    /// took.
    pub fn stalled(&mut self, now: Instant) {
        self.stalled_until = now;
    }

    /// The end of the last [stall](Engine::stalled).
    #[must_use]
    pub fn stalled_until(&self) -> Instant {
        self.stalled_until
    }

    #[cold]
    fn find_read_tail(&mut self) {
        let tails =
            self.active.iter().filter_map(|path| self.paths[path.get()].patience.read_tail());
        self.read_tail = tails.min();
    }

    /// Whether the path's session has room for another command. Paths begin with room.
    pub fn set_full(&mut self, path: PathIndex, full: bool) {
        if self.full.contains(path) != full {
            self.full.set(path, full);
            self.regroup();
        }
    }

    /// The paths whose sessions were said to have no room for another command.
    #[must_use]
    pub fn full(&self) -> PathSet {
        self.full
    }

    /// The paths that carry I/O: the active ones; if there is none, the suspect ones.
    #[must_use]
    pub fn usable(&self) -> PathSet {
        self.active.or_else(self.suspect)
    }

    // States.

    /// Moves a path to another state.
    ///
    /// # Panics
    /// When `to` may not follow the present state: the caller's bug.
    pub fn transition(&mut self, now: Instant, path: PathIndex, to: State, why: &str) {
        if to == State::Failed {
            self.fail(now, path, Failure::Transient, Duration::ZERO, why);
        } else {
            self.go(now, path, to, why);
        }
    }

    /// Moves a path to `failed` and says when it will be tried again: a session was lost, or could not be
    /// had. `time2wait` is the target's (RFC 7143 section 13.15).
    ///
    /// # Panics
    /// When the path may not fail now: the caller's bug.
    pub fn fail(
        &mut self,
        now: Instant,
        path: PathIndex,
        how: Failure,
        time2wait: Duration,
        why: &str,
    ) -> Instant {
        self.go(now, path, State::Failed, why);
        let entry = &mut self.paths[path.get()];
        entry.failures += 1;
        why.clone_into(&mut entry.last_failure);
        let retry_at = entry.backoff.failed(now, how, time2wait);
        entry.retry_at = Some(retry_at);
        retry_at
    }

    fn go(&mut self, now: Instant, path: PathIndex, to: State, why: &str) {
        let entry = &mut self.paths[path.get()];
        let from = entry.state;
        assert!(
            from.may_become(to),
            "path {path} ({}) cannot go from {from} to {to}: {why}",
            entry.info.name
        );
        (entry.state, entry.since) = (to, now);
        why.clone_into(&mut entry.reason);
        entry.retry_at = None;
        if matches!(to, State::Active | State::Standby) {
            entry.backoff.up(now);
        }
        if to == State::Connecting {
            entry.patience.reset();
            if from != State::Failed {
                // An administrator's word (enable, recheck), not the next try.
                entry.backoff.reset();
            }
            entry.backoff.tried(now);
        }
        match (from, to) {
            (State::Suspect, State::Active) => self.trust.recovered(path),
            _ => self.trust.clear(path),
        }
        // A retry is no news; what becomes of it is.
        if (from, to) != (State::Failed, State::Connecting) {
            self.events.push(self.clock.stamp(now), Some(path), What::State(to), why);
        }
        self.states_changed(now, path, to);
    }

    fn states_changed(&mut self, now: Instant, path: PathIndex, to: State) {
        let before = (self.active, self.suspect);
        self.active.set(path, to == State::Active);
        self.suspect.set(path, to == State::Suspect);
        if (self.active, self.suspect) == before {
            return;
        }
        if !to.carries_io() {
            self.full.remove(path);
            self.selector.forget(path);
        }
        self.find_read_tail();
        let switched = self.failover.states(now, self.active, self.suspect);
        self.note_switch(now, switched);
        self.selector.restart();
        self.regroup();
        self.down_since = match self.usable().is_empty() {
            true => self.down_since.or(Some(now)),
            false => None,
        };
        assert_eq!(self.down_since.is_some(), self.usable().is_empty(), "down and usable at once");
    }

    fn note_switch(&mut self, now: Instant, switched: bool) {
        let serving = self.failover.serving();
        if switched && self.policy == Policy::Failover && serving.is_some() {
            self.events.push(
                self.clock.stamp(now),
                serving,
                What::Switched,
                "failover: serves now",
            );
        }
    }

    /// Changes the reason that `status` shows, without a change of state.
    pub fn set_reason(&mut self, path: PathIndex, why: &str) {
        why.clone_into(&mut self.paths[path.get()].reason);
    }

    /// Tries a failed path at once, its back-off forgotten: an administrator asked for it.
    pub fn retry_now(&mut self, now: Instant, path: PathIndex) {
        let entry = &mut self.paths[path.get()];
        if entry.state == State::Failed {
            entry.backoff.reset();
            entry.retry_at = Some(now);
        }
    }

    // Settings.

    /// Changes how failed paths are tried again; what is scheduled stays.
    pub fn set_reconnect(&mut self, settings: Reconnect) {
        self.reconnect = settings;
        for entry in &mut self.paths {
            entry.backoff.set(settings);
        }
    }

    /// Changes the policy; commands in flight stay where they are.
    pub fn set_policy(&mut self, now: Instant, policy: Policy) {
        if policy == self.policy {
            return;
        }
        let why = format!("{} -> {policy}", self.policy);
        self.policy = policy;
        self.selector.set_policy(policy);
        self.regroup();
        self.failover.go_to_best(now);
        self.events.push(self.clock.stamp(now), None, What::Policy(policy), &why);
    }

    /// Changes `failover`'s way back.
    pub fn set_failback(&mut self, now: Instant, failback: Failback) {
        let switched = self.failover.set_failback(now, failback);
        self.note_switch(now, switched);
    }

    /// Prefers this path and no other, or none; `failover` goes there at once if it can.
    pub fn set_prefer(&mut self, now: Instant, preferred: Option<PathIndex>) {
        for (index, entry) in self.paths.iter_mut().enumerate() {
            let path = PathIndex::new(index);
            entry.info.preferred = preferred == Some(path);
            self.failover.set_rank(path, entry.info.preferred, entry.info.order);
        }
        let switched = self.failover.go_to_best(now);
        self.note_switch(now, switched);
    }

    /// Changes the weight of a path. Shares count from here.
    ///
    /// # Panics
    /// Above [`WEIGHT_MAX`](super::WEIGHT_MAX): the caller's bug.
    pub fn set_weight(&mut self, path: PathIndex, weight: u32) {
        self.paths[path.get()].info.weight = weight;
        self.standing_by.set(path, weight == 0);
        self.selector.set_weight(path, weight);
        self.regroup();
    }

    /// What the storage says about its access to the unit by this path; `None` without ALUA. It ranks the
    /// path among those that are used; whether the path is used is its state.
    pub fn set_access(&mut self, now: Instant, path: PathIndex, access: Option<Access>) {
        if self.paths[path.get()].access == access {
            return;
        }
        self.paths[path.get()].access = access;
        self.tiers.set(path, access);
        let switched = self.failover.set_access(now, path, access);
        self.note_switch(now, switched);
        self.selector.restart();
        self.regroup();
    }

    /// Changes for how many bytes a sequential stream stays on its path under `least-bytes`; 0 for never.
    pub fn set_sticky_bytes(&mut self, bytes: u64) {
        self.selector.set_sticky_bytes(bytes);
    }

    /// Sets the pair of clock readings that events are dated by.
    pub fn set_clock(&mut self, now: Instant, wall: Stamp) {
        self.clock = WallClock::new(now, wall);
    }

    /// Adds an event that is not a change of state.
    pub fn note(&mut self, now: Instant, path: Option<PathIndex>, what: &'static str, why: &str) {
        self.events.push(self.clock.stamp(now), path, What::Other(what), why);
    }

    // Time.

    /// Does what is due: `failover` goes back.
    pub fn handle_timeout(&mut self, now: Instant) {
        let switched = self.failover.update(now);
        self.note_switch(now, switched);
    }

    /// The next failed path that is due for a reconnect; the caller makes it `connecting`.
    pub fn poll_retry(&mut self, now: Instant) -> Option<PathIndex> {
        let due = |entry: &Path| entry.retry_at.is_some_and(|at| at <= now);
        let index = self.paths.iter().position(due)?;
        let entry = &mut self.paths[index];
        assert_eq!(entry.state, State::Failed, "only a failed path is tried again");
        entry.retry_at = None;
        Some(PathIndex::new(index))
    }

    /// When `failover` may go back to a better path, if it waits for that.
    #[must_use]
    pub fn failback_deadline(&self) -> Option<Instant> {
        self.failover.deadline()
    }

    /// When to come back, and for what.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<(Instant, Deadline)> {
        let retries = self.paths.iter().enumerate().filter_map(|(index, entry)| {
            entry.retry_at.map(|at| (at, Deadline::Retry(PathIndex::new(index))))
        });
        let failback = self.failover.deadline().map(|at| (at, Deadline::Failback));
        retries.chain(failback).min_by_key(|(at, _)| *at)
    }
}
