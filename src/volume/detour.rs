//! The way round a portal that does not answer, for the proof alone.
//!
//! A nexus is initiator name, ISID, target and portal group: the portal is no part of it. When writes of a path
//! are in doubt and its own portal does not answer, every second try goes to the portal of another path to
//! the same target and group that is in service: one that is still looked at may lead to another unit, whose
//! word would prove nothing. The login there reinstates the session, LOGICAL UNIT RESET
//! proves the writes dead, and the session is given up again: the path is used over its own portal only.

use super::link::{self, Link, Phase, Retry};
use super::spec::FenceProof;
use super::{Volume, fencing, probing};
use crate::base::Instant;
use crate::path::PathIndex;
use std::net::{IpAddr, SocketAddr};

/// Tries at a path's own portal before another one is asked.
const OWN_TRIES: u32 = 2;

/// Where to go, and from where.
pub(super) struct Detour {
    pub(super) remote: SocketAddr,
    pub(super) source: Option<IpAddr>,
    pub(super) interface: Option<String>,
}

/// The portal to try next instead of the path's own one, if there is a reason and one that works.
pub(super) fn choose(v: &Volume, now: Instant, path: PathIndex) -> Option<Detour> {
    let link = &v.links[path.get()];
    let turn = link.tries > OWN_TRIES && (link.tries - OWN_TRIES) % 2 == 1;
    if !turn || v.leaving.contains(path) || now < link.reset_not_before || !provable(v) {
        return None;
    }
    // Before the first login only a predecessor's group is known.
    let group = match link.generation {
        0 => link.inherited?.group,
        _ => link.portal_group,
    };
    if group.is_none() || !fencing::owed(v, path) {
        return None;
    }
    let in_service = v.engine.usable();
    let serves = |other: &&Link| {
        other.index != path
            && in_service.contains(other.index)
            && other.spec.target == link.spec.target
            && other.portal_group == group
            && other.remote() != link.spec.portal
    };
    let other = v.links.iter().find(serves)?;
    Some(Detour {
        remote: other.remote(),
        source: other.spec.source,
        interface: other.spec.interface.clone(),
    })
}

/// Whether a login can lead to a proof at all.
fn provable(v: &Volume) -> bool {
    let tunables = &v.spec.tunables;
    let reset = !tunables.shared || tunables.fence_reset;
    reset || tunables.fence_proof == FenceProof::Reinstatement
}

/// The session waits for nothing more: it is used, or it was made for the proof alone.
pub(super) fn go_on(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &v.links[path.get()];
    if !link.detour {
        probing::begin(v, now, path);
        return;
    }
    assert!(matches!(link.phase, Phase::Fencing | Phase::LoggingIn), "nothing uses a detour");
    let why = format!(
        "its portal {} does not answer; logged in through {} only to fence the writes that were sent before",
        link.spec.portal,
        link::where_(link)
    );
    link::end(v, now, path, &why, Retry::Backoff);
}
