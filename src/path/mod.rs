//! The path engine: states, health, policies, verdicts, write ownership. Knows no PDU and no session.
//!
//! Mental model: [`Engine`] is one device on one lane. It is told what happens to paths (states, commands
//! started and finished) and answers one question on the hot path: which path takes the next command.
//! [`Ledger`] answers the other one: may this write go at all, or is an earlier copy of its blocks not
//! yet proven dead. Both are pure: time is an argument, `poll_*` gives what is due.

mod access;
mod backoff;
mod cache;
pub mod content;
mod depth;
mod engine;
mod events;
mod failover;
mod health;
pub mod identity;
mod ledger;
pub mod planted;
mod policy;
mod select;
mod state;
pub mod verdict;

pub use crate::stats::{Ended, Op};
pub use access::{Access, AccessState, Port, Reading, Service};
pub use backoff::{Backoff, Failure, Reconnect};
pub use cache::{CacheLoss, SessionId};
pub use depth::Depth;
pub use engine::{Deadline, DeviceHealth, Engine, PathInfo, Tally, TooManyPaths, Tuning};
pub use events::{Event, Events, Stamp, WallClock, What};
pub use health::{CommandClass, command_timeout};
pub use ledger::{
    BlockRange, Fence, FenceMode, Grant, InDoubt, Ledger, LedgerCounters, Nexus, Owner, Proof,
    Settled, TicketId,
};
pub use policy::{AVAILABLE, Failback, Policy, UnknownPolicy, WEIGHT_MAX};
pub use select::{Ask, Burst};
pub use state::State;

use crate::limits::PATHS_PER_DEVICE_MAX;
use core::fmt;

/// A path of a device; stays the same for the life of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathIndex(u16);

impl PathIndex {
    /// The `index`-th path, counted from 0.
    ///
    /// # Panics
    /// When there can be no such path.
    #[must_use]
    pub const fn new(index: usize) -> PathIndex {
        assert!(index < PATHS_PER_DEVICE_MAX, "a path index beyond the paths of a device");
        PathIndex(index as u16)
    }

    /// For indexing arrays.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PathIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A set of paths, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PathSet(u64);

const _: () = assert!(PATHS_PER_DEVICE_MAX <= 64);

impl PathSet {
    /// No path.
    pub const EMPTY: PathSet = PathSet(0);

    /// Just this one.
    #[must_use]
    pub const fn only(path: PathIndex) -> PathSet {
        PathSet(1 << path.0)
    }

    /// Whether no path is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many paths are in it.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether `path` is in it.
    #[must_use]
    pub const fn contains(self, path: PathIndex) -> bool {
        self.0 >> path.0 & 1 != 0
    }

    /// Adds `path`.
    pub const fn insert(&mut self, path: PathIndex) {
        self.0 |= 1 << path.0;
    }

    /// Takes `path` out.
    pub const fn remove(&mut self, path: PathIndex) {
        self.0 &= !(1 << path.0);
    }

    /// Adds `path` or takes it out.
    pub const fn set(&mut self, path: PathIndex, member: bool) {
        if member { self.insert(path) } else { self.remove(path) }
    }

    /// This set and `path`.
    #[must_use]
    pub const fn with(self, path: PathIndex) -> PathSet {
        PathSet(self.0 | 1 << path.0)
    }

    /// Paths that are in either.
    #[must_use]
    pub const fn union(self, other: PathSet) -> PathSet {
        PathSet(self.0 | other.0)
    }

    /// Paths that are in both.
    #[must_use]
    pub const fn and(self, other: PathSet) -> PathSet {
        PathSet(self.0 & other.0)
    }

    /// Paths that are in this and not in `other`.
    #[must_use]
    pub const fn minus(self, other: PathSet) -> PathSet {
        PathSet(self.0 & !other.0)
    }

    /// This set, or `other` when this is empty.
    #[must_use]
    pub const fn or_else(self, other: PathSet) -> PathSet {
        if self.is_empty() { other } else { self }
    }

    /// The path with the lowest index.
    #[must_use]
    pub const fn first(self) -> Option<PathIndex> {
        if self.is_empty() { None } else { Some(PathIndex(self.0.trailing_zeros() as u16)) }
    }

    /// The member that follows `path` in the circle of indices; `path` itself comes last.
    #[must_use]
    pub const fn next_after(self, path: PathIndex) -> Option<PathIndex> {
        let above = self.0 & (u64::MAX << path.0) & !(1 << path.0);
        if above == 0 { self.first() } else { PathSet(above).first() }
    }

    /// The members by index.
    pub fn iter(self) -> impl Iterator<Item = PathIndex> {
        let mut rest = self;
        core::iter::from_fn(move || {
            let path = rest.first()?;
            rest.remove(path);
            Some(path)
        })
    }
}

impl FromIterator<PathIndex> for PathSet {
    fn from_iter<I: IntoIterator<Item = PathIndex>>(paths: I) -> PathSet {
        paths.into_iter().fold(PathSet::EMPTY, PathSet::with)
    }
}

impl fmt::Debug for PathSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(PathIndex::get)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn indices() -> impl Strategy<Value = BTreeSet<usize>> {
        prop::collection::btree_set(0..PATHS_PER_DEVICE_MAX, 0..PATHS_PER_DEVICE_MAX)
    }

    fn set(of: &BTreeSet<usize>) -> PathSet {
        of.iter().copied().map(PathIndex::new).collect()
    }

    proptest! {
        #[test]
        fn set_operations_are_those_of_sets(a in indices(), b in indices(), p in 0..PATHS_PER_DEVICE_MAX) {
            let path = PathIndex::new(p);
            prop_assert_eq!(set(&a).union(set(&b)), set(&a.union(&b).copied().collect()));
            prop_assert_eq!(set(&a).and(set(&b)), set(&a.intersection(&b).copied().collect()));
            prop_assert_eq!(set(&a).minus(set(&b)), set(&a.difference(&b).copied().collect()));
            prop_assert_eq!(set(&a).contains(path), a.contains(&p));
            prop_assert_eq!(set(&a).len(), a.len());
            prop_assert_eq!(set(&a).iter().map(PathIndex::get).collect::<BTreeSet<_>>(), a.clone());
            let circle = a.range(p + 1..).chain(a.range(..=p)).next().copied();
            prop_assert_eq!(set(&a).next_after(path).map(PathIndex::get), circle);
        }
    }

    #[test]
    #[should_panic(expected = "beyond the paths")]
    fn there_is_no_path_beyond_the_limit() {
        let _ = PathIndex::new(PATHS_PER_DEVICE_MAX);
    }
}
