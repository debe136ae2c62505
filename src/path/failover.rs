//! Which path serves under `failover`, and when it goes back to a better one.
//!
//! Mental model: paths have a rank (administrator's preference, then asymmetric access, then configured
//! order). One of them is *current*; it stays current while it is `active` or `suspect`. While it is suspect and another is
//! active, that one *stands in*; standing in is no failover, and the current path resumes at once.
//! When the current path is gone, the best path becomes current. Whether it goes back to a better path
//! that returned is the failback mode's matter; a path that never was lost is taken at once in every
//! mode, so that the order in which paths come up at start does not decide; and when the storage takes its
//! good access away from the current path, the best path is taken in every mode too.
//!
//! Everything is computed when a state changes; the hot path reads [`Failover::serving`].

use super::{Access, Failback, PathIndex, PathSet};
use crate::base::Instant;
use crate::limits::PATHS_PER_DEVICE_MAX;

/// Lower serves first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    not_preferred: bool,
    access: (u8, bool),
    order: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Failover {
    failback: Failback,
    /// Lower serves first.
    rank: [Rank; PATHS_PER_DEVICE_MAX],
    active_since: [Instant; PATHS_PER_DEVICE_MAX],
    /// Paths that carried I/O once and were gone since: their return is a failback.
    lost: PathSet,
    active: PathSet,
    suspect: PathSet,
    current: Option<PathIndex>,
    serving: Option<PathIndex>,
}

impl Failover {
    pub(super) fn new(failback: Failback) -> Failover {
        Failover {
            failback,
            rank: [Rank { not_preferred: true, access: Access::rank(None), order: u32::MAX };
                PATHS_PER_DEVICE_MAX],
            active_since: [Instant::ZERO; PATHS_PER_DEVICE_MAX],
            lost: PathSet::EMPTY,
            active: PathSet::EMPTY,
            suspect: PathSet::EMPTY,
            current: None,
            serving: None,
        }
    }

    /// The path that serves now.
    pub(super) fn serving(&self) -> Option<PathIndex> {
        self.serving
    }

    /// The path of the best rank among `candidates`.
    pub(super) fn best(&self, candidates: PathSet) -> Option<PathIndex> {
        candidates.iter().min_by_key(|path| (self.rank[path.get()], *path))
    }

    /// Sets the administrator's part of a path's rank: preferred ones first; of equal access, the lower
    /// `order`.
    pub(super) fn set_rank(&mut self, path: PathIndex, preferred: bool, order: u32) {
        let rank = &mut self.rank[path.get()];
        (rank.not_preferred, rank.order) = (!preferred, order);
    }

    /// Sets the storage's part. Returns whether another path became current.
    pub(super) fn set_access(
        &mut self,
        now: Instant,
        path: PathIndex,
        access: Option<Access>,
    ) -> bool {
        let rank = &mut self.rank[path.get()];
        let before = core::mem::replace(&mut rank.access, Access::rank(access));
        let worse = rank.access > before;
        if worse && self.current == Some(path) {
            return self.go_to_best(now);
        }
        self.update(now)
    }

    pub(super) fn set_failback(&mut self, now: Instant, failback: Failback) -> bool {
        self.failback = failback;
        self.update(now)
    }

    /// The sets of active and suspect paths changed. Returns whether another path became current.
    pub(super) fn states(&mut self, now: Instant, active: PathSet, suspect: PathSet) -> bool {
        assert!(active.and(suspect).is_empty(), "a path is both active and suspect");
        let (before, after) = (self.active.union(self.suspect), active.union(suspect));
        for path in after.minus(before).iter() {
            self.active_since[path.get()] = now;
        }
        self.lost = self.lost.union(before.minus(after));
        (self.active, self.suspect) = (active, suspect);
        self.update(now)
    }

    /// Goes to the best path whatever the failback mode: an administrator's word.
    pub(super) fn go_to_best(&mut self, now: Instant) -> bool {
        let before = self.current.take();
        self.update(now);
        self.current != before
    }

    /// When [`Failover::update`] will have something to do by itself.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let Failback::After(wait) = self.failback else { return None };
        let current = self.current?;
        let returns = self.better_than(current).iter().map(|p| self.active_since[p.get()] + wait);
        returns.min().filter(|at| *at < Instant::MAX)
    }

    /// Chooses the current path anew. Returns whether it changed.
    pub(super) fn update(&mut self, now: Instant) -> bool {
        let usable = self.active.or_else(self.suspect);
        let before = self.current;
        self.current = match self.current {
            Some(current) if self.active.union(self.suspect).contains(current) => {
                let better = self.better_than(current).iter();
                let ready: PathSet = better.filter(|path| self.may_return(now, *path)).collect();
                self.best(ready).or(Some(current))
            }
            Some(_) | None => self.best(usable),
        };
        self.serving = match self.current {
            Some(current) if usable.contains(current) => Some(current),
            Some(_) | None => self.best(usable),
        };
        assert_eq!(self.serving.is_none(), usable.is_empty(), "a usable path must serve");
        self.current != before
    }

    fn better_than(&self, current: PathIndex) -> PathSet {
        let key = |path: PathIndex| (self.rank[path.get()], path);
        self.active.iter().filter(|path| key(*path) < key(current)).collect()
    }

    fn may_return(&self, now: Instant, path: PathIndex) -> bool {
        match self.failback {
            _ if !self.lost.contains(path) => true,
            Failback::Immediate => true,
            Failback::Manual => false,
            Failback::After(wait) => self.active_since[path.get()] + wait <= now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Duration;
    use crate::path::AccessState;

    const A: PathIndex = PathIndex::new(0);
    const B: PathIndex = PathIndex::new(1);
    const C: PathIndex = PathIndex::new(2);

    fn set(paths: &[PathIndex]) -> PathSet {
        paths.iter().copied().collect()
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    fn three(failback: Failback) -> Failover {
        let mut f = Failover::new(failback);
        for (order, path) in [A, B, C].into_iter().enumerate() {
            f.set_rank(path, false, order as u32);
        }
        f
    }

    #[test]
    fn paths_serve_in_order_of_priority() {
        let mut f = three(Failback::Immediate);
        assert_eq!(f.serving(), None);
        for (active, serving) in [
            (set(&[C]), Some(C)),
            (set(&[B, C]), Some(B)),
            (set(&[A, B, C]), Some(A)),
            (set(&[B, C]), Some(B)),
            (set(&[C]), Some(C)),
            (set(&[]), None),
            (set(&[A, C]), Some(A)),
        ] {
            f.states(at(1), active, PathSet::EMPTY);
            assert_eq!(f.serving(), serving, "{active:?}");
        }
    }

    #[test]
    fn preferred_comes_before_order() {
        let mut f = three(Failback::Manual);
        f.states(at(1), set(&[A, B, C]), PathSet::EMPTY);
        f.set_rank(C, true, 2);
        assert_eq!(f.serving(), Some(A), "a rank alone moves nothing");
        assert!(f.go_to_best(at(2)));
        assert_eq!(f.serving(), Some(C));
        assert!(!f.go_to_best(at(2)));
    }

    fn access(state: AccessState, preferred: bool) -> Option<Access> {
        Some(Access { state, preferred, group: 1 })
    }

    #[test]
    fn access_comes_after_preference_and_before_order() {
        let mut f = three(Failback::Immediate);
        f.states(at(1), set(&[A, B, C]), PathSet::EMPTY);
        assert!(f.set_access(at(2), A, access(AccessState::ActiveNonOptimized, true)));
        assert_eq!(f.serving(), Some(B));
        assert!(f.set_access(at(2), C, access(AccessState::ActiveOptimized, true)));
        assert_eq!(f.serving(), Some(C), "PREF among equals");
        f.set_rank(A, true, 0);
        assert!(f.go_to_best(at(3)));
        assert_eq!(f.serving(), Some(A), "the administrator's word");
    }

    #[test]
    fn a_current_path_that_loses_its_access_is_left_in_every_mode() {
        for mode in
            [Failback::Immediate, Failback::Manual, Failback::After(Duration::from_secs(60))]
        {
            let mut f = three(mode);
            f.states(at(1), set(&[A, B]), PathSet::EMPTY);
            f.states(at(2), set(&[B]), PathSet::EMPTY);
            f.states(at(3), set(&[A, B]), PathSet::EMPTY);
            f.set_access(at(4), B, access(AccessState::ActiveNonOptimized, false));
            assert_eq!(f.serving(), Some(A), "{mode:?}");
            f.set_access(at(5), B, access(AccessState::ActiveOptimized, true));
            assert_eq!(f.serving(), Some(B), "{mode:?}: never lost, taken at once");
        }
    }

    #[test]
    fn the_order_of_coming_up_does_not_decide_in_any_mode() {
        for mode in
            [Failback::Immediate, Failback::Manual, Failback::After(Duration::from_secs(60))]
        {
            let mut f = three(mode);
            f.states(at(1), set(&[C]), PathSet::EMPTY);
            assert!(f.states(at(2), set(&[A, C]), PathSet::EMPTY), "{mode:?}");
            assert_eq!(f.serving(), Some(A), "{mode:?}");
        }
    }

    #[test]
    fn manual_stays_until_told() {
        let mut f = three(Failback::Manual);
        f.states(at(1), set(&[A, B]), PathSet::EMPTY);
        f.states(at(2), set(&[B]), PathSet::EMPTY);
        assert!(!f.states(at(3), set(&[A, B]), PathSet::EMPTY));
        assert!(!f.update(at(100_000)));
        assert_eq!((f.serving(), f.deadline()), (Some(B), None));
        assert!(f.go_to_best(at(100_001)));
        assert_eq!(f.serving(), Some(A));
    }

    #[test]
    fn after_waits_for_a_path_to_stay_up() {
        let mut f = three(Failback::After(Duration::from_secs(10)));
        f.states(at(1), set(&[A, B]), PathSet::EMPTY);
        f.states(at(2), set(&[B]), PathSet::EMPTY);
        f.states(at(3), set(&[A, B]), PathSet::EMPTY);
        assert_eq!((f.serving(), f.deadline()), (Some(B), Some(at(13))));
        f.states(at(9), set(&[B]), PathSet::EMPTY);
        assert_eq!(f.deadline(), None);
        f.states(at(12), set(&[A, B]), PathSet::EMPTY);
        assert!(!f.update(at(21)));
        assert_eq!((f.serving(), f.deadline()), (Some(B), Some(at(22))));
        assert!(f.update(at(22)));
        assert_eq!((f.serving(), f.deadline()), (Some(A), None));
    }

    #[test]
    fn a_changed_mode_counts_at_once() {
        let mut f = three(Failback::After(Duration::MAX));
        f.states(at(1), set(&[A, B]), PathSet::EMPTY);
        f.states(at(2), set(&[B]), PathSet::EMPTY);
        f.states(at(3), set(&[A, B]), PathSet::EMPTY);
        assert_eq!((f.serving(), f.deadline()), (Some(B), None), "never");
        assert!(f.set_failback(at(4), Failback::Immediate));
        assert_eq!(f.serving(), Some(A));
    }

    #[test]
    fn standing_in_for_a_suspect_is_no_failover() {
        let mut f = three(Failback::Manual);
        f.states(at(1), set(&[A, B]), PathSet::EMPTY);
        assert!(!f.states(at(2), set(&[B]), set(&[A])));
        assert_eq!(f.serving(), Some(B));
        assert!(!f.states(at(3), set(&[A, B]), PathSet::EMPTY));
        assert_eq!(f.serving(), Some(A), "resumes, even with manual failback");
        f.states(at(4), set(&[B]), set(&[A]));
        assert!(f.states(at(5), set(&[B]), PathSet::EMPTY), "gone: now it is one");
        f.states(at(6), set(&[A, B]), PathSet::EMPTY);
        assert_eq!(f.serving(), Some(B));
    }

    #[test]
    fn with_nothing_active_the_best_suspect_serves() {
        let mut f = three(Failback::Immediate);
        f.states(at(1), PathSet::EMPTY, set(&[B, C]));
        assert_eq!(f.serving(), Some(B));
        f.states(at(2), set(&[C]), set(&[B]));
        assert_eq!(f.serving(), Some(C));
    }
}
