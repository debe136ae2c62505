//! Write ownership, the volume's side: which nexus a copy was sent on, and how a proof is obtained.
//!
//! A write that was given up on a path may still be executed by its target at any later time. Its copy is
//! entered in the ledger as *in doubt*, and the range stays taken. The proof accepted here: the same
//! nexus (target, portal group, initiator name, ISID) logged into again, and then LOGICAL UNIT RESET
//! answered with response 0 on that session before any other command uses it. Otherwise the range is held
//! until `fence_timeout`.

use super::link::Phase;
use super::request::{self, PartId};
use super::table::Key;
use super::{Level, Volume, probing};
use crate::base::Instant;
use crate::path::planted::{Bug, planted};
use crate::path::{Nexus, PathIndex, Proof};
use crate::session::TaskTag;

/// The nexus of a path's present session on this lane.
pub(super) fn nexus(v: &Volume, path: PathIndex) -> Nexus {
    Nexus { lane: v.lane, path, generation: v.links[path.get()].generation }
}

/// A part that changes the medium was given up on `path` after its first byte had left.
pub(super) fn in_doubt(v: &mut Volume, now: Instant, id: PartId, path: PathIndex) {
    let part = v.parts.get(id).expect("the caller holds the part");
    let Some(request) = v.requests.get(part.request) else { return };
    let ticket = request.ticket.expect("what changes the medium owns its range");
    let nexus = nexus(v, path);
    // The ledger hears of a copy only when it comes into doubt: before that the ticket itself keeps the
    // range, and a write that is answered costs the ledger nothing more.
    let mut ledger = v.shared.ledger();
    ledger.sent(ticket, nexus);
    ledger.copy_in_doubt(now, ticket, nexus);
    drop(ledger);
    request::wake_lanes(v);
}

/// Whether copies sent on earlier sessions of this path are in doubt.
pub(super) fn needed(v: &Volume, path: PathIndex) -> bool {
    v.shared.ledger().needs_proof(nexus(v, path))
}

/// Whether a LOGICAL UNIT RESET on the session that has just logged in proves anything, and may be used: it
/// ends the commands of other hosts too. `before` is the portal group of the session that is in doubt.
pub(super) fn possible(v: &mut Volume, now: Instant, path: PathIndex, before: Option<u16>) -> bool {
    if planted(Bug::ResetSkipped) {
        believe(v, path);
        return false;
    }
    let why = if v.spec.tunables.shared && !v.spec.tunables.fence_reset {
        "the unit is shared with other hosts and fence_reset is off".to_owned()
    } else {
        let group = v.links[path.get()].portal_group;
        if before == group {
            return true;
        }
        format!("the old session was in portal group {before:?}, the new one is in {group:?}")
    };
    let why =
        format!("no LOGICAL UNIT RESET: {why}; blocks in doubt stay held until fence_timeout");
    v.notice(now, Level::Warn, Some(path), "not fenced", &why);
    false
}

/// What a planted fault takes for a proof.
pub(super) fn believe(v: &mut Volume, path: PathIndex) {
    let nexus = nexus(v, path);
    v.shared.ledger().proven(nexus, Proof::ReinstatedAndReset);
    request::wake_lanes(v);
}

/// The reset was answered on a session that had just been logged into.
pub(super) fn reset_answered(v: &mut Volume, now: Instant, path: PathIndex, response: u8) {
    let link = &v.links[path.get()];
    if !matches!(link.phase, Phase::Fencing) {
        return;
    }
    if response == 0 {
        let nexus = nexus(v, path);
        let proven = v.shared.ledger().proven(nexus, Proof::ReinstatedAndReset);
        request::wake_lanes(v);
        let why = format!("{proven} ranges in doubt proven free by login and LOGICAL UNIT RESET");
        v.notice(now, Level::Info, Some(path), "fenced", &why);
        sibling_sessions(v, now, path);
    } else {
        let why = format!(
            "LOGICAL UNIT RESET was answered with response {response}: no proof; blocks in doubt stay held \
             until fence_timeout"
        );
        v.notice(now, Level::Warn, Some(path), "not fenced", &why);
    }
    probing::begin(v, now, path);
}

/// Whether a reset of the unit was answered after this command was sent.
pub(super) fn was_reset(v: &Volume, token: u64) -> bool {
    let part = v.parts.get(Key::from_token(token));
    part.and_then(|part| part.flight).is_some_and(|flight| flight.reset)
}

/// The reset has also ended our commands on other sessions of that target's unit: they are given back by
/// ABORT TASK, which the target answers with "task does not exist", and repeated.
fn sibling_sessions(v: &mut Volume, now: Instant, path: PathIndex) {
    let target = v.links[path.get()].spec.target.clone();
    abort_all_on(v, now, &target, Some(path));
    if v.spec.lanes > 1 {
        v.actions.push_back(super::Action::TargetWasReset(target));
    }
}

/// A LOGICAL UNIT RESET was answered on `target`: commands sent there before are gone.
pub(super) fn abort_all_on(v: &mut Volume, now: Instant, target: &str, except: Option<PathIndex>) {
    let siblings: Vec<PathIndex> = v
        .links
        .iter()
        .filter(|l| l.spec.target == target && Some(l.index) != except)
        .map(|l| l.index)
        .collect();
    for path in siblings {
        let hit = v.parts.values_mut().filter_map(|part| part.flight.as_mut());
        let hit = hit.filter(|flight| flight.path == path);
        let mut tags: Vec<TaskTag> = hit
            .map(|flight| {
                flight.reset = true;
                flight.tag
            })
            .collect();
        if let Phase::Probing(probing) = &v.links[path.get()].phase {
            tags.extend(probing.asked());
        }
        let Some(session) = v.links[path.get()].session() else { continue };
        for tag in tags {
            session.abort(now, tag);
        }
        v.mark_link(path);
    }
}

/// Links that wait for a proof which is not needed any more (the ledger has given up waiting) go on.
pub(super) fn retry(v: &mut Volume, now: Instant) {
    for index in 0..v.links.len() {
        let path = v.links[index].index;
        if matches!(v.links[index].phase, Phase::Fencing) && !needed(v, path) {
            probing::begin(v, now, path);
        }
    }
}
