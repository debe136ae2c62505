//! Asymmetric access: which paths the storage serves well.
//!
//! Mental model: access *ranks* paths that may be used. Whether a path is used at all is its
//! [`State`](super::State); a path without access information counts as optimized, so that storage
//! without ALUA is one group.

use super::{PathIndex, PathSet};
pub use crate::wire::scsi::AccessState;

/// What the storage says about a path (REPORT TARGET PORT GROUPS).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Access {
    /// State of its target port group.
    pub state: AccessState,
    /// PREF: the storage prefers this group. It decides between groups of the same state.
    pub preferred: bool,
    /// TARGET PORT GROUP.
    pub group: u16,
}

impl Access {
    /// Lower is better: the state, then PREF. A path without access information ranks as optimized.
    #[must_use]
    pub fn rank(access: Option<Access>) -> (u8, bool) {
        access.map_or((0, true), |a| (a.state.badness(), !a.preferred))
    }
}

/// Paths by how well they are served; each path is in one of the sets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiers {
    optimized: PathSet,
    /// Non-optimized, or good for some blocks only.
    fair: PathSet,
}

impl Tiers {
    pub(super) fn new() -> Tiers {
        Tiers { optimized: PathSet(u64::MAX), fair: PathSet::EMPTY }
    }

    pub(super) fn set(&mut self, path: PathIndex, access: Option<Access>) {
        let state = access.map_or(AccessState::ActiveOptimized, |a| a.state);
        self.optimized.set(path, state == AccessState::ActiveOptimized);
        let fair = matches!(state, AccessState::ActiveNonOptimized | AccessState::LbaDependent);
        self.fair.set(path, fair);
    }

    /// Those of `paths` that are served best.
    pub(super) fn best(&self, paths: PathSet) -> PathSet {
        paths.and(self.optimized).or_else(paths.and(self.fair)).or_else(paths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(state: AccessState) -> Option<Access> {
        Some(Access { state, preferred: false, group: 1 })
    }

    #[test]
    fn the_best_tier_that_has_a_path_is_used() {
        let [a, b, c] = [0, 1, 2].map(PathIndex::new);
        let all: PathSet = [a, b, c].into_iter().collect();
        let mut tiers = Tiers::new();
        assert_eq!(tiers.best(all), all, "no ALUA: one group");
        tiers.set(a, access(AccessState::ActiveNonOptimized));
        tiers.set(b, access(AccessState::Unavailable));
        assert_eq!(tiers.best(all), PathSet::only(c));
        assert_eq!(tiers.best(PathSet::only(a).with(b)), PathSet::only(a));
        assert_eq!(tiers.best(PathSet::only(b)), PathSet::only(b));
        tiers.set(b, access(AccessState::LbaDependent));
        assert_eq!(tiers.best(PathSet::only(a).with(b)), PathSet::only(a).with(b));
        tiers.set(a, None);
        assert_eq!(tiers.best(all), PathSet::only(a).with(c));
        assert_eq!(tiers.best(PathSet::EMPTY), PathSet::EMPTY);
    }

    #[test]
    fn rank_is_by_state_then_by_preference() {
        let rank = |state, preferred| Access::rank(Some(Access { state, preferred, group: 0 }));
        let order = [
            rank(AccessState::ActiveOptimized, true),
            rank(AccessState::ActiveOptimized, false),
            rank(AccessState::ActiveNonOptimized, true),
            rank(AccessState::ActiveNonOptimized, false),
            rank(AccessState::Standby, true),
            rank(AccessState::Offline, true),
        ];
        assert!(order.is_sorted() && order.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(Access::rank(None), order[1]);
    }
}
