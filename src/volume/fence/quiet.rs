//! LOGICAL UNIT RESET, sent when no session of ours has a write on its way to that unit.
//!
//! A target may never answer a reset that finds another session's write waiting for its data (see [`resets`]). So
//! whoever wants one has it *prepared*: every lane stops sending what changes state by the paths in its reach
//! (dispatch looks at `hushed`), and *agrees* when what it had sent there has arrived: answered, or handed to the
//! kernel and followed by a ping that was answered. When all have agreed the reset is sent, and its paths stay
//! hushed until it was answered, or for `path_timeout`, by when a target whose session lives has it. If the session
//! ends before that, the reset may arrive late: until its nexus is logged into again, or for [`LEFT_FOR`]. Paths
//! to other targets, and reads, go on.
//!
//! What does not become quiet within a quarter of `path_timeout` hangs, and has deadlines of its own: nothing is
//! sent, writes go on, and the next try is some time off, each time twice as long.
//!
//! Deliberately not here: when a reset is wanted, and what its answer means ([`super`]).
//!
//! [`resets`]: super::resets

use super::nexus::Inheritance;
use super::resets::{Left, Prepared, Resets, UnitKey};
use crate::base::{Duration, Instant};
use crate::path::planted::{Bug, planted};
use crate::path::{Nexus, PathIndex, PathSet};
use crate::session::Session;
use crate::volume::link::{FENCE, Link};
use crate::volume::{Action, Volume, fencing, flush};

/// Lanes have this part of `path_timeout` to agree.
const PATIENCE_DIVISOR: u32 = 4;

/// A target that has not heard of the end of a session waits for the data of its writes for less than this: LIO
/// (Linux 6.1) for five times three seconds. Shorter than the default of `fence_timeout`: the proof comes first.
pub(super) const LEFT_FOR: Duration = Duration::from_secs(20);

/// LOGICAL UNIT RESET of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) struct Reset {
    pub(in crate::volume) serial: u32,
    /// Since when it is prepared, or out.
    pub(in crate::volume) since: Instant,
    pub(in crate::volume) sent: bool,
}

/// The ping behind the last write of a session: for which reset, and how many answered pings mean that its
/// answer has come.
#[derive(Debug, Default)]
pub(in crate::volume) struct Echo(Option<(u32, u64)>);

/// Changes the resets of the device; other lanes look at them again if that concerns them.
pub(super) fn change<T>(v: &mut Volume, f: impl FnOnce(&mut Resets) -> T) -> T {
    let before = v.shared.resets_version();
    let out = v.shared.resets(f);
    if v.shared.resets_version() != before {
        wake_others(v);
    }
    out
}

fn wake_others(v: &mut Volume) {
    for lane in (0..v.spec.lanes).filter(|lane| *lane != v.lane) {
        v.actions.push_back(Action::WakeLane(lane));
    }
}

/// Paths whose sessions feel a reset by this one: those to its target, under whatever name and address we know
/// that it is the same.
fn reach(v: &Volume, path: PathIndex) -> PathSet {
    let target = &v.links[path.get()].spec.target;
    let there: Vec<&Link> = v.links.iter().filter(|l| l.spec.target == *target).collect();
    let same = |link: &&Link| {
        let address = link.spec.portal.ip();
        link.spec.target == *target || there.iter().any(|l| l.spec.portal.ip() == address)
    };
    v.links.iter().filter(same).map(|link| link.index).collect()
}

/// Has LOGICAL UNIT RESET prepared for a session, unless one is under way for its unit, by whatever lane. Where
/// nobody has a write on its way it is sent at once.
pub(super) fn prepare(v: &mut Volume, now: Instant, path: PathIndex) {
    if now < v.links[path.get()].prepare_not_before {
        return;
    }
    let (key, by) = (fencing::unit_key(v, path), fencing::nexus(v, path));
    let (reach, patience) = (reach(v, path), v.spec.tunables.management_timeout);
    let Some(serial) = change(v, |resets| resets.prepare(now, &key, by, reach, patience)) else {
        return;
    };
    v.links[path.get()].reset = Some(Reset { serial, since: now, sent: false });
    if planted(Bug::ResetUnprepared) {
        for lane in 0..v.spec.lanes {
            v.shared.resets(|resets| resets.agree(&key, serial, lane, v.spec.lanes));
        }
    }
    // Another one may be prepared already: the paths are looked at as a whole.
    v.resets_version = v.shared.resets_version().wrapping_sub(1);
    attend(v, now);
}

/// Follows the resets of the device: every turn, before commands are given out.
pub(in crate::volume) fn attend(v: &mut Volume, now: Instant) {
    let version = v.shared.resets_version();
    if version != v.resets_version {
        v.resets_version = version;
        v.hushed = v.shared.resets(|resets| resets.hushed());
    }
    if v.hushed.is_empty() {
        return;
    }
    for prepared in v.shared.resets(|resets| resets.prepared(v.lane)) {
        if !is_quiet(v, now, &prepared) {
            continue;
        }
        let Prepared { key, serial, by, .. } = prepared;
        let (lane, lanes) = (v.lane, v.spec.lanes);
        let all = v.shared.resets(|resets| resets.agree(&key, serial, lane, lanes));
        if all && by.lane != lane {
            v.actions.push_back(Action::WakeLane(by.lane));
        }
    }
    for index in 0..v.links.len() {
        let link = &v.links[index];
        if link.reset.is_some_and(|reset| !reset.sent) {
            send(v, now, link.index);
        }
    }
}

/// Whether everything that this lane has sent by the paths in reach has arrived there.
fn is_quiet(v: &mut Volume, now: Instant, prepared: &Prepared) -> bool {
    let mut quiet = true;
    for path in prepared.reach.iter() {
        let asks = prepared.by.lane == v.lane && prepared.by.path == path;
        quiet &= has_arrived(v, now, path, prepared.serial, asks);
    }
    quiet
}

fn has_arrived(v: &mut Volume, now: Instant, path: PathIndex, serial: u32, asks: bool) -> bool {
    let Some(link) = v.links.get_mut(path.get()) else { return true };
    if !link.has_socket() {
        return true;
    }
    let lun = link.spec.lun;
    let Some(session) = link.session.as_mut().filter(|session| session.any_write(lun)) else {
        return true;
    };
    if session.any_data_outstanding(lun) {
        return false;
    }
    if asks {
        // The reset comes behind its own writes.
        return true;
    }
    let wanted = match link.echo.0 {
        Some((for_, wanted)) if for_ == serial => wanted,
        _ => {
            let wanted = session.pings_answered() + 1 + u64::from(session.is_pinging());
            link.echo.0 = Some((serial, wanted));
            wanted
        }
    };
    if session.pings_answered() >= wanted {
        return true;
    }
    if !session.is_pinging() {
        session.ping(now);
        v.mark_link(path);
    }
    false
}

/// Sends the reset of a session if all lanes have agreed.
fn send(v: &mut Volume, now: Instant, path: PathIndex) {
    let key = fencing::unit_key(v, path);
    let Some(Reset { serial, .. }) = v.links[path.get()].reset else { return };
    let lanes = v.spec.lanes;
    if !v.shared.resets(|resets| resets.send(now, &key, serial, lanes)) {
        return;
    }
    let link = &mut v.links[path.get()];
    let session = link.session.as_mut().expect("only a session that is logged in resets");
    if session.reset_logical_unit(now, key.lun, FENCE) {
        // Only then: one that is counted and never sent would let a loss of power pass for it.
        flush::will_reset(v, path);
        let link = &mut v.links[path.get()];
        link.reset = Some(Reset { serial, since: now, sent: true });
        link.prepare_rest = Duration::ZERO;
        v.mark_link(path);
    } else {
        give_up(v, now, path, &key);
    }
}

/// Nothing is sent: writes go on, and the next try is some time off.
fn give_up(v: &mut Volume, now: Instant, path: PathIndex, key: &UnitKey) {
    let tunables = &v.spec.tunables;
    let (least, most) = (tunables.path_timeout, tunables.management_timeout);
    let link = &mut v.links[path.get()];
    let Some(Reset { serial, .. }) = link.reset.take() else { return };
    link.prepare_rest = (link.prepare_rest * 2).max(least).min(most.max(least));
    link.prepare_not_before = now + link.prepare_rest;
    change(v, |resets| resets.failed(key, serial));
}

/// What has waited for long enough.
pub(in crate::volume) fn tick(v: &mut Volume, now: Instant) {
    if v.hushed.is_empty() {
        return;
    }
    change(v, |resets| resets.expire(now));
    let patience = v.spec.tunables.path_timeout;
    for index in 0..v.links.len() {
        let path = v.links[index].index;
        let Some(reset) = v.links[index].reset else { continue };
        let key = fencing::unit_key(v, path);
        if !reset.sent && now >= reset.since + patience / PATIENCE_DIVISOR {
            give_up(v, now, path, &key);
        } else if reset.sent && now >= reset.since + patience {
            change(v, |resets| resets.arrived(&key, reset.serial));
        }
    }
}

/// A session has ended: what it had on its way may still be arriving, and its target may be waiting for the rest.
pub(in crate::volume) fn session_closed(v: &Volume, now: Instant, path: PathIndex) {
    let link = &v.links[path.get()];
    if link.session_ref().is_some_and(Session::has_left_writes) {
        let (left, target) = (Left::Session { lane: v.lane, path }, &link.spec.target);
        v.shared.resets(|resets| resets.left(left, target, now + LEFT_FOR));
    }
}

/// An earlier process has left these behind: what it had on its way is not known.
pub(in crate::volume) fn inherited(now: Instant, resets: &mut Resets, inheritance: &Inheritance) {
    for (nexus, record, _) in inheritance.all() {
        let index = nexus.inheritance().expect("an inherited nexus");
        resets.left(Left::Inherited { index }, &record.target, now + LEFT_FOR);
    }
}

/// A new session has taken the place of those that ended.
pub(super) fn logged_in(v: &mut Volume, path: PathIndex) {
    dead(v, fencing::nexus(v, path));
    if let Some(before) = v.links[path.get()].inherited {
        dead(v, before);
    }
}

/// What was sent on the sessions of this nexus until now is not on its way any more.
pub(super) fn dead(v: &mut Volume, nexus: Nexus) {
    let left = match nexus.inheritance() {
        None => Left::Session { lane: nexus.lane, path: nexus.path },
        Some(index) => Left::Inherited { index },
    };
    change(v, |resets| resets.back(&left));
}
