//! Asymmetric access: which paths the storage serves well.
//!
//! Mental model: access *ranks* paths that may be used. Whether a path is used at all is its
//! [`State`](super::State); a path without access information counts as optimized, so that storage
//! without ALUA is one group.
//!
//! [`Reading`] is what one path makes of REPORT TARGET PORT GROUPS, whatever was answered.

use super::{PathIndex, PathSet};
use crate::base::Duration;
pub use crate::wire::scsi::AccessState;
use crate::wire::scsi::{PortGroup, PortGroups};

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

/// Whether the storage serves I/O over a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// It does, well or less well.
    Serves,
    /// It does not, until it or somebody changes that.
    StandsBy,
    /// It is about to change, within a time.
    Changes,
}

impl Access {
    /// What the state means for I/O. A state that no standard names is tried, as the last choice: a target
    /// that does not serve says so to the first command.
    #[must_use]
    pub const fn service(self) -> Service {
        match self.state {
            AccessState::ActiveOptimized
            | AccessState::ActiveNonOptimized
            | AccessState::LbaDependent
            | AccessState::Unknown(_) => Service::Serves,
            AccessState::Standby | AccessState::Unavailable | AccessState::Offline => {
                Service::StandsBy
            }
            AccessState::Transitioning => Service::Changes,
        }
    }
}

/// How a path's own port is called in REPORT TARGET PORT GROUPS (VPD page 83h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Port {
    /// Target port group (designator type 5).
    pub group: u16,
    /// Relative target port identifier (type 4).
    pub relative: Option<u16>,
}

/// What an answer says about one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The path's access.
    pub access: Access,
    /// What about the answer cannot be right, and what was made of it.
    pub doubt: Option<String>,
    /// Implicit transition time, where it is told.
    pub transition: Option<Duration>,
}

impl Reading {
    /// Finds the port's group. Of a group that is listed twice the worse state counts. One that is not
    /// listed is looked for by its port; a path without any is used, but not preferred.
    #[must_use]
    pub fn of(port: Port, groups: &PortGroups) -> Reading {
        let seconds = groups.transition_secs.filter(|seconds| *seconds > 0);
        let transition = seconds.map(|seconds| Duration::from_secs(seconds.into()));
        let (access, doubt) = Reading::find(port, &groups.groups);
        Reading { access, doubt, transition }
    }

    fn find(port: Port, groups: &[PortGroup]) -> (Access, Option<String>) {
        let has_port = |g: &&PortGroup| port.relative.is_some_and(|id| g.ports.contains(&id));
        let by_group = groups.iter().filter(|g| g.group == port.group);
        let count = by_group.clone().count();
        let worst = match count {
            0 => groups.iter().filter(has_port).max_by_key(|g| g.state.badness()),
            _ => by_group.clone().max_by_key(|g| g.state.badness()),
        };
        let group = port.group;
        let Some(worst) = worst else {
            let state = AccessState::ActiveNonOptimized;
            let doubt = format!(
                "group {group}, which page 83h tells for this port, is not among the {} groups of REPORT \
                 TARGET PORT GROUPS: the path is used as if it were not optimized",
                groups.len()
            );
            return (Access { state, preferred: false, group }, Some(doubt));
        };
        let preferred = worst.preferred && (count < 2 || by_group.clone().all(|g| g.preferred));
        let access = Access { state: worst.state, preferred, group: worst.group };
        let doubt = match count {
            0 => Some(format!(
                "group {group}, which page 83h tells for this port, is not listed; the port itself is, in \
                 group {}, which counts",
                worst.group
            )),
            1 => None,
            _ if by_group.clone().all(|g| g.state == worst.state) => None,
            _ => Some(format!(
                "group {group} is listed {count} times with different states: the worst one counts ({})",
                worst.state
            )),
        };
        let unknown = match worst.state {
            AccessState::Unknown(_) => Some(format!(
                "group {group} is in {}, which no standard names: the path is the last choice",
                worst.state
            )),
            _ => None,
        };
        (access, doubt.or(unknown))
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

    fn listed(group: u16, state: AccessState, preferred: bool, ports: &[u16]) -> PortGroup {
        let (supported, status, ports_cut, ports) = (0x0f, 0, false, ports.to_vec());
        PortGroup { group, state, preferred, supported, status, ports, ports_cut }
    }

    fn reading(groups: Vec<PortGroup>) -> Reading {
        let port = Port { group: 7, relative: Some(3) };
        Reading::of(port, &PortGroups { transition_secs: Some(0), groups, available: 0 })
    }

    #[test]
    fn a_path_finds_its_own_group() {
        let others = listed(6, AccessState::Standby, true, &[1, 2]);
        let r = reading(vec![others.clone(), listed(7, AccessState::LbaDependent, true, &[3])]);
        let access = Access { state: AccessState::LbaDependent, preferred: true, group: 7 };
        assert_eq!(r, Reading { access, doubt: None, transition: None }, "0 s is not told");
        let groups = vec![others, listed(7, AccessState::Standby, false, &[])];
        let all = PortGroups { transition_secs: Some(9), groups, available: 0 };
        let r = Reading::of(Port { group: 7, relative: None }, &all);
        assert_eq!(r.transition, Some(Duration::from_secs(9)));
        assert_eq!(r.access.service(), Service::StandsBy);
    }

    #[test]
    fn groups_that_make_no_sense_are_said_and_safe() {
        let (good, bad) = (AccessState::ActiveOptimized, AccessState::Unavailable);
        let twice = reading(vec![listed(7, bad, false, &[3]), listed(7, good, true, &[3])]);
        assert_eq!((twice.access.state, twice.access.preferred), (bad, false));
        assert!(twice.doubt.unwrap().contains("listed 2 times"));
        let same = reading(vec![listed(7, good, true, &[3]), listed(7, good, true, &[4])]);
        assert_eq!((same.access.preferred, same.doubt), (true, None));
        let moved = reading(vec![listed(8, bad, false, &[3]), listed(9, good, false, &[4])]);
        assert_eq!((moved.access.state, moved.access.group), (bad, 8));
        assert!(moved.doubt.unwrap().contains("in group 8"));
        let missing = reading(vec![listed(8, bad, true, &[1])]);
        let used = Access { state: AccessState::ActiveNonOptimized, preferred: false, group: 7 };
        assert_eq!((missing.access, missing.access.service()), (used, Service::Serves));
        assert!(missing.doubt.unwrap().contains("not among the 1 groups"));
        assert!(reading(Vec::new()).doubt.unwrap().contains("the 0 groups"));
        let odd = reading(vec![listed(7, AccessState::Unknown(9), false, &[3])]);
        assert_eq!(odd.access.service(), Service::Serves);
        assert!(odd.doubt.unwrap().contains("state 0x9"));
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
