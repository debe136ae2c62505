//! Write ownership, the volume's side: which nexus a copy was sent on, and how a proof is obtained.
//!
//! A write that was given up on a path may still be executed by its target at any later time. Its copy is
//! entered in the ledger as *in doubt*, and the range stays taken. What proves it dead:
//!
//! | proof | where |
//! |---|---|
//! | its own status; ABORT TASK for it answered with 0 | `complete`, on the session that carries it |
//! | LOGICAL UNIT RESET answered with 0 on that session, which answers pings: [`hung_units`] | here |
//! | the nexus logged into again, then LOGICAL UNIT RESET answered with 0: [`logged_in`] | here |
//! | the login alone, where `fence_proof = "reinstatement"` | here |
//! | an administrator, or `fence_command`: [`confirmed`] | `fence_command`, `admin` |
//!
//! Without any of them the range is given up after `fence_timeout`, in mode `overlap` only.

pub(in crate::volume) mod check;
pub mod doubts;
pub mod fence_command;
pub mod nexus;
pub(in crate::volume) mod quiet;
pub mod resets;
pub mod watch;

use crate::base::table::Key;
use crate::base::{Duration, Instant};
use crate::path::planted::{Bug, planted};
use crate::path::{Nexus, PathIndex, Proof};
use crate::session::TaskTag;
use crate::volume::link::{self, Phase};
use crate::volume::request::{self, PartId};
use crate::volume::spec::FenceProof;
use crate::volume::{Level, Volume, abandon, detour};
use resets::{UnitKey, Waiting};
use smallvec::SmallVec;

/// The longest rest after a refused reset, in `management_timeout`s.
const REST_FACTOR_MAX: u32 = 16;

/// The nexus of a path's present session on this lane.
pub(in crate::volume) fn nexus(v: &Volume, path: PathIndex) -> Nexus {
    let link = &v.links[path.get()];
    Nexus { lane: v.lane, path, generation: link.generation, group: link.portal_group }
}

/// The unit behind a path, as resets know it.
pub(in crate::volume) fn unit_key(v: &Volume, path: PathIndex) -> UnitKey {
    let spec = &v.links[path.get()].spec;
    UnitKey { target: spec.target.clone(), lun: spec.lun }
}

/// A part that changes the medium was given up on `path` after its first byte had left.
pub(in crate::volume) fn in_doubt(v: &mut Volume, now: Instant, id: PartId, path: PathIndex) {
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

/// What an earlier process has left on the nexus that the path has with its present session.
fn inherited(v: &Volume, path: PathIndex) -> Option<Nexus> {
    let link = &v.links[path.get()];
    link.inherited.filter(|nexus| nexus.group == link.portal_group)
}

/// Whether copies sent on earlier sessions of this path's nexus were given up without a proof: one is still
/// wanted, to know when to look at what they did.
fn wanted(v: &Volume, path: PathIndex) -> bool {
    v.shared.is_watching() && v.shared.watch().needs_proof(nexus(v, path))
}

/// Since when the eldest copy on exactly the path's present session is in doubt, released or not.
fn doubted_since(v: &Volume, path: PathIndex) -> Option<Instant> {
    let nexus = nexus(v, path);
    let held = v.shared.ledger().doubted_since(nexus);
    let watched = v.shared.is_watching().then(|| v.shared.watch().doubted_since(nexus)).flatten();
    held.into_iter().chain(watched).min()
}

/// Whether copies sent on earlier sessions of this path's nexus are in doubt.
pub(in crate::volume) fn needed(v: &Volume, path: PathIndex) -> bool {
    let ledger = v.shared.ledger();
    ledger.needs_proof(nexus(v, path)) || inherited(v, path).is_some_and(|n| ledger.needs_proof(n))
}

/// The same, of a path that need not have logged in yet.
pub(in crate::volume) fn owed(v: &Volume, path: PathIndex) -> bool {
    let ledger = v.shared.ledger();
    let before = v.links[path.get()].inherited;
    ledger.needs_proof(nexus(v, path)) || before.is_some_and(|n| ledger.needs_proof(n))
}

/// A path has logged in. Returns whether its session has to wait for a reset before anything may use it.
pub(in crate::volume) fn logged_in(v: &mut Volume, now: Instant, path: PathIndex) -> bool {
    let own = nexus(v, path);
    stranded(v, now, path, own);
    quiet::logged_in(v, path);
    if !needed(v, path) && !wanted(v, path) {
        return false;
    }
    if planted(Bug::ResetSkipped) {
        believe(v, path);
        return false;
    }
    if v.spec.tunables.fence_proof == FenceProof::Reinstatement {
        let mut proven = v.shared.prove(own, Proof::Reinstated);
        if let Some(before) = inherited(v, path) {
            proven += v.shared.prove(before, Proof::Reinstated);
        }
        freed(v, now, Some(path), proven, "login (fence_proof = \"reinstatement\")");
        return false;
    }
    if !may_reset(v, now, path) {
        return false;
    }
    let why = "waits for the answer to LOGICAL UNIT RESET: writes sent here before are in doubt";
    v.engine.set_reason(path, why);
    let link = &mut v.links[path.get()];
    link.phase = Phase::Fencing;
    link.fencing_since = now;
    let waiting = Waiting { nexus: own, inherited: inherited(v, path) };
    let key = unit_key(v, path);
    v.shared.resets(|resets| resets.wait(&key, waiting));
    quiet::prepare(v, now, path);
    true
}

/// What a planted fault takes for a proof.
pub(in crate::volume) fn believe(v: &mut Volume, path: PathIndex) {
    let nexus = nexus(v, path);
    v.shared.ledger().proven(nexus, Proof::ReinstatedAndReset);
    request::wake_lanes(v);
}

/// Doubts of sessions in another portal group: this login is another nexus and proves nothing for them.
fn stranded(v: &mut Volume, now: Instant, path: PathIndex, own: Nexus) {
    let before = v.links[path.get()].inherited;
    let is_ours = |nexus: Nexus| own.follows(nexus) || Some(nexus) == before;
    let mut doubts = v.shared.ledger().in_doubt().map(|d| d.nexus).collect::<Vec<_>>().into_iter();
    let other = doubts.find(|n| is_ours(*n) && n.group != own.group).map(|n| n.group);
    let Some(before) = other else { return };
    let why = format!(
        "the old session was in portal group {before:?}, the new one is in {:?}: its login proves nothing; \
         blocks in doubt stay held until fence_timeout",
        own.group
    );
    v.notice(now, Level::Warn, Some(path), "not fenced", &why);
}

/// Whether LOGICAL UNIT RESET may be used: it ends the commands of other hosts too.
fn may_reset(v: &mut Volume, now: Instant, path: PathIndex) -> bool {
    if !v.spec.tunables.shared || v.spec.tunables.fence_reset {
        return true;
    }
    let why = "no LOGICAL UNIT RESET: the unit is shared with other hosts and fence_reset is off; blocks in \
               doubt stay held until fence_timeout";
    v.notice(now, Level::Warn, Some(path), "not fenced", why);
    false
}

/// A reset was answered.
pub(in crate::volume) fn reset_answered(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    response: u8,
) {
    let Some(quiet::Reset { serial, .. }) = v.links[path.get()].reset.take() else { return };
    let key = unit_key(v, path);
    if response != 0 {
        quiet::change(v, |resets| resets.failed(&key, serial));
        rest(v, now, path);
        let why = format!(
            "LOGICAL UNIT RESET was answered with response {response}: no proof; blocks in doubt stay held \
             until fence_timeout"
        );
        v.notice(now, Level::Warn, Some(path), "not fenced", &why);
        go_on(v, now, path);
        return;
    }
    let Some(freed_now) = quiet::change(v, |resets| resets.answered(&key, serial)) else { return };
    v.links[path.get()].reset_rest = Duration::ZERO;
    let mut proven = 0;
    for waiting in &freed_now {
        for nexus in [Some(waiting.nexus), waiting.inherited].into_iter().flatten() {
            proven += v.shared.prove(nexus, Proof::ReinstatedAndReset);
        }
    }
    for lane in freed_now.iter().map(|w| w.nexus.lane).filter(|lane| *lane != v.lane) {
        v.actions.push_back(crate::volume::Action::WakeLane(lane));
    }
    let how = match v.links[path.get()].phase {
        Phase::Fencing => "login and LOGICAL UNIT RESET",
        _ => "LOGICAL UNIT RESET on the session that carries them",
    };
    freed(v, now, Some(path), proven, how);
    sibling_sessions(v, now, path);
    retry(v, now);
}

/// The next reset of this path is some time off, each time twice as long.
fn rest(v: &mut Volume, now: Instant, path: PathIndex) {
    let least = v.spec.tunables.management_timeout;
    let link = &mut v.links[path.get()];
    link.reset_rest = (link.reset_rest * 2).clamp(least, least * REST_FACTOR_MAX);
    link.reset_not_before = now + link.reset_rest;
}

/// Doubts of earlier sessions whose reset was refused, or not answered in time: after a rest the path logs out
/// and in again, to be reset before any command uses it. Not while nothing else carries I/O.
pub(in crate::volume) fn renew(v: &mut Volume, now: Instant) {
    for index in 0..v.links.len() {
        let link = &v.links[index];
        let path = link.index;
        let rested = !link.reset_rest.is_zero() && now >= link.reset_not_before;
        let leaving = v.leaving.contains(path) || v.draining.is_some();
        if !rested || !matches!(link.phase, Phase::Up) || leaving {
            continue;
        }
        let usable = v.engine.usable();
        let alone = usable.contains(path) && usable.len() == 1;
        // What hangs on this very session is not found by leaving it.
        let here = doubted_since(v, path).is_some();
        if !alone && !here && (needed(v, path) || wanted(v, path)) {
            let link = &mut v.links[index];
            link.reset_not_before = now + link.reset_rest;
            link::renew(
                v,
                now,
                path,
                "logs in again to have the unit reset: writes of an earlier session are not proven dead",
            );
        }
    }
}

/// A reset had no answer for `management_timeout`: another one may be sent, by whoever comes first.
pub(in crate::volume) fn reset_unanswered(v: &mut Volume, path: PathIndex) {
    let Some(quiet::Reset { serial, .. }) = v.links[path.get()].reset.take() else { return };
    let key = unit_key(v, path);
    quiet::change(v, |resets| resets.failed(&key, serial));
}

/// Ranges came out of doubt by a proof.
fn freed(v: &mut Volume, now: Instant, path: Option<PathIndex>, proven: usize, how: &str) {
    request::wake_lanes(v);
    let why = format!("{proven} ranges in doubt proven free by {how}");
    v.notice(now, Level::Info, path, "fenced", &why);
}

/// Somebody knows that the node behind a path is off: everything sent there until now is dead.
pub(in crate::volume) fn confirmed(
    v: &mut Volume,
    now: Instant,
    path: Option<PathIndex>,
    nexuses: impl IntoIterator<Item = Nexus>,
    proof: Proof,
) -> usize {
    let mut proven = 0;
    for nexus in nexuses {
        quiet::dead(v, nexus);
        proven += v.shared.prove(nexus, proof);
    }
    let how = match proof {
        Proof::Commanded => "fence_command",
        Proof::Confirmed => "an administrator's word that its target's node is off",
        Proof::ReinstatedAndReset | Proof::Reinstated => unreachable!("those are no words"),
    };
    freed(v, now, path, proven, how);
    proven
}

/// The session of a path is over: it neither waits nor resets.
pub(in crate::volume) fn session_ended(v: &mut Volume, now: Instant, path: PathIndex) {
    v.links[path.get()].reset = None;
    let (key, own) = (unit_key(v, path), nexus(v, path));
    let until = now + quiet::LEFT_FOR;
    let lanes = quiet::change(v, |resets| match resets.ended(&key, own, until) {
        true => resets.lanes(&key),
        false => SmallVec::new(),
    });
    for lane in lanes.into_iter().filter(|lane| *lane != v.lane) {
        v.actions.push_back(crate::volume::Action::WakeLane(lane));
    }
}

/// Units that hang behind a session that answers pings: the write that was given up there has neither
/// ended nor been aborted. The reset is tried on that very session, which is not dropped to fence one
/// unit: some targets block the new login behind the hung disk.
pub(in crate::volume) fn hung_units(v: &mut Volume, now: Instant) {
    for index in 0..v.links.len() {
        let link = &v.links[index];
        let path = link.index;
        if !link.is_served() || link.reset.is_some() || now < link.reset_not_before {
            continue;
        }
        let since = doubted_since(v, path);
        let patience = v.spec.tunables.command_timeout;
        let Some(since) = since.filter(|since| now >= *since + patience) else { continue };
        if owes_data(v, path) {
            // Other writes there may get rid of their data, or run into their own deadline.
            if now >= since + patience * 2 {
                give_up(v, now, path);
            }
            continue;
        }
        if may_reset(v, now, path) {
            quiet::prepare(v, now, path);
        } else {
            v.links[index].reset_not_before = now + v.spec.tunables.management_timeout;
        }
    }
}

/// Whether a write of the unit on this session has not got rid of its data: no reset then, see
/// [`Session::abort`](crate::session::Session::abort).
fn owes_data(v: &Volume, path: PathIndex) -> bool {
    let link = &v.links[path.get()];
    link.session_ref().is_some_and(|session| session.any_data_outstanding(link.spec.lun))
}

/// A session that cannot be reset as its writes never get rid of their data: the proof comes by the next login.
fn give_up(v: &mut Volume, now: Instant, path: PathIndex) {
    let why = format!(
        "writes there are in doubt, and LOGICAL UNIT RESET cannot be sent while the target waits for data of \
         others: its connection is reset ({})",
        link::where_(&v.links[path.get()])
    );
    link::fail(v, now, path, &why);
}

/// Whether a reset of the unit was answered after this command was sent.
pub(in crate::volume) fn was_reset(v: &Volume, token: u64) -> bool {
    if let Some(straggler) = abandon::key(token) {
        return v.stragglers.get(straggler).is_some_and(|straggler| straggler.reset);
    }
    let part = v.parts.get(Key::from_token(token));
    part.and_then(|part| part.flight).is_some_and(|flight| flight.reset)
}

/// The reset has also ended our commands on other sessions of that target's unit: they are given back by
/// ABORT TASK, which the target answers with "task does not exist", and repeated.
fn sibling_sessions(v: &mut Volume, now: Instant, path: PathIndex) {
    let target = v.links[path.get()].spec.target.clone();
    abort_all_on(v, now, &target, Some(path));
    if v.spec.lanes > 1 {
        v.actions.push_back(crate::volume::Action::TargetWasReset(target));
    }
}

/// A LOGICAL UNIT RESET was answered on `target`: commands sent there before are gone.
pub(in crate::volume) fn abort_all_on(
    v: &mut Volume,
    now: Instant,
    target: &str,
    except: Option<PathIndex>,
) {
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
        for straggler in v.stragglers.values_mut().filter(|s| s.path == path) {
            straggler.reset = true;
            tags.push(straggler.tag);
        }
        if let Phase::Probing(probing) = &v.links[path.get()].phase {
            tags.extend(probing.asked());
        }
        tags.extend(v.links[path.get()].alua.tag());
        let link = &mut v.links[path.get()];
        let Some(session) = link.session() else { continue };
        let mut silent = false;
        for tag in tags {
            silent |= session.data_outstanding(tag);
            session.abort(now, tag);
        }
        if silent {
            // What still owes data cannot be aborted: if it does not move any more, its session is given up.
            link.cleared_at = Some(now);
        }
        v.mark_link(path);
    }
}

/// Links that wait for a proof: those that need none any more (it came from another lane's reset, or the
/// ledger has given up waiting) go on; one of the others may run the next reset.
pub(in crate::volume) fn retry(v: &mut Volume, now: Instant) {
    for index in 0..v.links.len() {
        let path = v.links[index].index;
        if !matches!(v.links[index].phase, Phase::Fencing) {
            continue;
        }
        // What is only watched is not worth a path that stays out.
        let patience = v.spec.tunables.management_timeout;
        let wanted = wanted(v, path) && now < v.links[index].fencing_since + patience;
        if !needed(v, path) && !wanted {
            if self::wanted(v, path) {
                rest(v, now, path);
            }
            go_on(v, now, path);
        } else if v.links[index].reset.is_none() {
            quiet::prepare(v, now, path);
        }
    }
}

/// The session may be used.
fn go_on(v: &mut Volume, now: Instant, path: PathIndex) {
    if !matches!(v.links[path.get()].phase, Phase::Fencing) {
        return;
    }
    let (key, own) = (unit_key(v, path), nexus(v, path));
    quiet::change(v, |resets| resets.gone(&key, own));
    v.links[path.get()].reset = None;
    detour::go_on(v, now, path);
}
