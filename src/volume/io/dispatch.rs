//! Gives ready parts their path, once per turn, so that the commands of one receive are chosen together.
//!
//! Order of arrival is kept: when the paths are full, the queue waits; when none is usable, it waits
//! for `no_path_timeout` and then fails.

use crate::base::{Duration, Instant, Payload};
use crate::path::identity::LogicalUnit;
use crate::path::{Ask, Op, PathIndex, PathSet};
use crate::session::{Command, Direction};
use crate::volume::request::{self, Asker, Flight, Part, PartId, PartVerb, RequestId, Stage};
use crate::volume::{Level, Volume, block_ops, check, flush, health, hedge, nexus};
use crate::wire::nbd::NbdError;
use crate::wire::scsi::{Cdb, Transfer, Width, unmap};

/// What became of one part.
enum Started {
    /// It is in flight, or it ended.
    Yes,
    /// Every usable path is full: everything behind it waits too.
    Full,
    /// The paths that it may take are full, or there are none; others behind it may go on.
    No,
}

/// Parts whose waiting time is over go back to the queue.
pub(in crate::volume) fn delayed(v: &mut Volume, now: Instant) {
    let mut index = 0;
    while index < v.delayed.len() {
        if v.delayed[index].0 <= now {
            let (_, part) = v.delayed.swap_remove(index);
            v.ready.push_back(part);
        } else {
            index += 1;
        }
    }
}

/// Starts what can be started.
pub(in crate::volume) fn run(v: &mut Volume, now: Instant) {
    if v.ready.is_empty() {
        return;
    }
    v.engine.begin_batch();
    // Whoever takes the last room says so; here those are looked at that had none.
    for path in v.engine.full().iter() {
        v.engine.set_full(path, v.links[path.get()].room() == 0);
    }
    assert!(v.unplaced.is_empty(), "a turn leaves nothing behind");
    while let Some(id) = v.ready.pop_front() {
        match start(v, now, id) {
            Started::Yes => {}
            Started::No => v.unplaced.push(id),
            Started::Full => {
                v.unplaced.push(id);
                break;
            }
        }
    }
    while let Some(id) = v.unplaced.pop() {
        v.ready.push_front(id);
    }
}

/// A part whose request has ended in all but name: the client has gone, or another part has failed.
fn is_moot(v: &Volume, part: &Part) -> bool {
    v.requests.get(part.request).is_none_or(|r| r.asker == Asker::Gone || r.failure.is_some())
}

fn start(v: &mut Volume, now: Instant, id: PartId) -> Started {
    let Some(part) = v.parts.get(id) else { return Started::Yes };
    assert!(part.flight.is_none(), "a queued part is in flight nowhere");
    if is_moot(v, part) {
        request::part_done(v, now, id, Err(NbdError::Io));
        return Started::Yes;
    }
    let usable = v.engine.usable();
    let mut allowed = match part.only {
        Some(only) if part.verb == PartVerb::Sync => {
            usable.and(only).or_else(flush::in_reach(v).and(only)).or_else(usable)
        }
        Some(only) => usable.and(only).or_else(usable),
        None => usable,
    };
    if part.pinned && usable.and(part.only.unwrap_or(PathSet::EMPTY)).is_empty() {
        request::part_done(v, now, id, Err(NbdError::Io));
        return Started::Yes;
    }
    if part.verb == PartVerb::Read && !part.pinned {
        allowed = allowed.minus(check::unread(v, part.lba, part.blocks));
    }
    if part.verb.changes_state() {
        allowed = allowed.minus(v.hushed);
    }
    let unrecorded = v.unrecorded.and(usable);
    if part.verb.changes_state() && !unrecorded.is_empty() {
        allowed = allowed.minus(unrecorded);
        if nexus::ask(v, now, unrecorded) {
            return Started::No;
        }
    }
    let part = v.parts.get(id).expect("it was just there");
    let mut candidates = allowed.minus(part.history.refused);
    if candidates.is_empty() {
        if allowed.is_empty() {
            return Started::No;
        }
        // Every usable path has refused it: begin again rather than wait for a path that may never come.
        candidates = allowed;
    }
    let unit = v.unit.as_ref().expect("a usable path has shown the unit");
    if part.lba + u64::from(part.blocks) > unit.blocks() {
        // The unit has shrunk since the request was taken in.
        let error = if part.verb.changes_state() { NbdError::NoSpace } else { NbdError::Invalid };
        request::part_done(v, now, id, Err(error));
        return Started::Yes;
    }
    let bytes = part.blocks.saturating_mul(unit.block_size());
    let op = part.verb.op();
    let at = Some(part.lba.saturating_mul(u64::from(unit.block_size())));
    while let Some(path) = v.engine.choose_among(Ask { op, bytes, at }, candidates) {
        if v.links[path.get()].room() > 0 {
            send(v, now, id, path, (op, bytes));
            return Started::Yes;
        }
        // It has lost its room by something else than a command: a question of ours, bytes that do not leave.
        v.engine.set_full(path, true);
    }
    if candidates == usable { Started::Full } else { Started::No }
}

fn send(v: &mut Volume, now: Instant, id: PartId, path: PathIndex, (op, bytes): (Op, u32)) {
    let command = command(v, id, path, id.to_token());
    let session = v.links[path.get()].session().expect("a usable path has a session");
    let tag = match session.submit(now, command) {
        Ok(tag) => tag,
        Err(_) => unreachable!("the session had room"),
    };
    let part = v.parts.get_mut(id).expect("the part is queued");
    part.flight = Some(Flight { path, tag, started: now, reset: false, accused: false });
    v.engine.started(path, op, bytes);
    health::started(v, now, path, op);
    if op == Op::Read {
        hedge::started(v, now, id);
    }
    let full = v.links[path.get()].room() == 0;
    v.engine.set_full(path, full);
    v.mark_link(path);
}

/// The SCSI command of a part, named `token` in the session.
pub(in crate::volume) fn command(
    v: &mut Volume,
    id: PartId,
    path: PathIndex,
    token: u64,
) -> Command {
    let part = v.parts.get(id).expect("the part is queued");
    let request = v.requests.get_mut(part.request).expect("a part belongs to a request");
    let link = &v.links[path.get()];
    // The targets of a mirror may differ in this.
    let here = link.unit.as_ref().expect("a path in service has shown its unit");
    let writes = matches!(part.verb, PartVerb::Write | PartVerb::WriteZeros);
    let fua = request.fua && writes && here.dpofua();
    request.cached |= request.fua && writes && !fua && here.write_cache();
    let unit = v.unit.as_ref().expect("a usable path has shown the unit");
    let size = unit.block_size();
    let (cdb, data) = match part.verb {
        PartVerb::Read => {
            (Cdb::Read(transfer(unit, part, false)), Direction::Read { len: part.blocks * size })
        }
        PartVerb::Write => {
            let offset = (part.lba - request.first) * u64::from(size);
            let len = part.blocks as usize * size as usize;
            let data = if len == request.data.len() {
                request.data.clone()
            } else {
                request.data.slice(offset as usize, len)
            };
            (Cdb::Write(transfer(unit, part, fua)), Direction::Write(data))
        }
        PartVerb::WriteZeros => {
            let data = block_ops::zeros(part.blocks as usize * size as usize);
            (Cdb::Write(transfer(unit, part, fua)), Direction::Write(data))
        }
        PartVerb::WriteSame { unmap } => {
            let data = block_ops::zeros(size as usize);
            let (lba, blocks) = (part.lba, part.blocks);
            let (width, protect) = (Width::Sixteen, 0);
            let same =
                Cdb::WriteSame { width, lba, blocks, unmap, anchor: false, ndob: false, protect };
            (same, Direction::Write(data))
        }
        PartVerb::Unmap => {
            let list = unmap::one_range(part.lba, part.blocks);
            let cdb = Cdb::Unmap { anchor: false, list_len: list.len() as u16 };
            (cdb, Direction::Write(Payload::from(list.to_vec())))
        }
        PartVerb::Sync => (Cdb::flush(Width::Ten), Direction::None),
        PartVerb::LbaStatus => {
            let len = block_ops::LBA_STATUS_LEN;
            (Cdb::GetLbaStatus { lba: part.lba, allocation: len }, Direction::Read { len })
        }
    };
    Command { token, lun: link.spec.lun, cdb: cdb.to_bytes(), data }
}

fn transfer(unit: &LogicalUnit, part: &Part, fua: bool) -> Transfer {
    let transfer = Transfer { fua, ..Transfer::new(part.lba, part.blocks) };
    assert!(part.lba + u64::from(part.blocks) <= unit.blocks(), "never beyond the capacity");
    transfer
}

/// With no usable path commands queue for `no_path_timeout`, then they fail.
pub(in crate::volume) fn no_path(v: &mut Volume, now: Instant) {
    if !v.engine.usable().is_empty() {
        if v.no_path_reported {
            v.no_path_reported = false;
            v.notice(now, Level::Info, None, "ok", "a path is usable again");
        }
        return;
    }
    // A path that was in service a moment ago and is only looked at again is not lost yet.
    if v.links.iter().any(|link| link.rechecking) {
        return;
    }
    let since = v.engine.down_since().expect("no path is usable");
    let limit = v.spec.tunables.no_path_timeout;
    if limit == Duration::MAX || now - since < limit {
        return;
    }
    let queued = v.ready.len() + v.delayed.len();
    if v.unit.is_none() {
        // Clients wait for the first path, for a time of their own.
        return;
    }
    if !v.no_path_reported {
        v.no_path_reported = true;
        let why = format!(
            "no usable path for {limit:?}: {queued} queued commands and all that follow fail with EIO until \
             a path returns; try: `mpio status {}` for each path's reason",
            v.spec.name
        );
        v.notice(now, Level::Error, None, "down", &why);
    }
    let delayed = std::mem::take(&mut v.delayed);
    v.ready.extend(delayed.into_iter().map(|(_, part)| part));
    while let Some(id) = v.ready.pop_front() {
        if v.parts.get(id).is_some() {
            request::part_done(v, now, id, Err(NbdError::Io));
        }
    }
    fail_held(v, now);
}

/// Requests that wait for their range would wait for a path as well: nothing of them was sent.
fn fail_held(v: &mut Volume, now: Instant) {
    if v.held == 0 && v.unticketed.is_empty() {
        return;
    }
    let held = v.requests.iter().filter(|(_, r)| r.stage == Stage::Held);
    let held: Vec<RequestId> = held.map(|(id, _)| id).collect();
    for id in held {
        request::refuse_held(v, now, id, NbdError::Io);
    }
}
