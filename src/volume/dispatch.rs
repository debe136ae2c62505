//! Gives ready parts their path, once per turn, so that the commands of one receive are chosen together.
//!
//! Order of arrival is kept: when the paths are full, the queue waits; when none is usable, it waits
//! for `no_path_timeout` and then fails.

use super::request::{self, Asker, Flight, Part, PartId, PartVerb};
use super::{Level, Volume, block_ops, link};
use crate::base::{Duration, Instant, Payload};
use crate::path::identity::LogicalUnit;
use crate::path::{Op, PathIndex, PathSet};
use crate::session::{Command, Direction};
use crate::wire::nbd::NbdError;
use crate::wire::scsi::{Cdb, Transfer, Width, unmap};

/// What became of one part.
enum Started {
    /// It is in flight, or it ended.
    Yes,
    /// Paths are usable, but full: everything behind it waits too.
    Full,
    /// No path may carry it now.
    NoPath,
}

/// Parts whose waiting time is over go back to the queue.
pub(super) fn delayed(v: &mut Volume, now: Instant) {
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
pub(super) fn run(v: &mut Volume, now: Instant) {
    if v.ready.is_empty() {
        return;
    }
    v.engine.begin_batch();
    let mut full = PathSet::EMPTY;
    for _ in 0..v.ready.len() {
        let Some(id) = v.ready.pop_front() else { break };
        match start(v, now, id, &mut full) {
            Started::Yes => {}
            Started::Full => {
                v.ready.push_front(id);
                break;
            }
            Started::NoPath => v.ready.push_back(id),
        }
    }
}

fn start(v: &mut Volume, now: Instant, id: PartId, full: &mut PathSet) -> Started {
    let Some(part) = v.parts.get(id) else { return Started::Yes };
    assert!(part.flight.is_none(), "a queued part is in flight nowhere");
    let orphan = v.requests.get(part.request).is_none_or(|r| r.asker == Asker::Gone);
    if orphan {
        request::part_done(v, now, id, Err(NbdError::Io));
        return Started::Yes;
    }
    let usable = v.engine.usable();
    let allowed = match part.only {
        Some(only) => usable.and(only).or_else(usable),
        None => usable,
    };
    let mut candidates = allowed.minus(part.history.refused);
    if candidates.is_empty() {
        if usable.is_empty() {
            return Started::NoPath;
        }
        // Every usable path has refused it: begin again rather than wait for a path that may never come.
        candidates = allowed;
    }
    let unit = v.unit.as_ref().expect("a usable path has shown the unit");
    let bytes = part.blocks.saturating_mul(unit.block_size());
    let op = part.verb.op();
    while let Some(path) = v.engine.choose_among(op, bytes, candidates.minus(*full)) {
        if v.links[path.get()].room() > 0 {
            send(v, now, id, path, op);
            return Started::Yes;
        }
        full.insert(path);
    }
    Started::Full
}

fn send(v: &mut Volume, now: Instant, id: PartId, path: PathIndex, op: Op) {
    let command = command(v, id);
    let session = v.links[path.get()].session().expect("a usable path has a session");
    let tag = match session.submit(now, command) {
        Ok(tag) => tag,
        Err(_) => unreachable!("the session had room"),
    };
    let part = v.parts.get_mut(id).expect("the part is queued");
    part.flight = Some(Flight { path, tag, started: now, reset: false });
    v.engine.started(path, op);
    v.mark_link(path);
}

/// The SCSI command of a part.
fn command(v: &Volume, id: PartId) -> Command {
    let part = v.parts.get(id).expect("the part is queued");
    let request = v.requests.get(part.request).expect("a part belongs to a request");
    let unit = v.unit.as_ref().expect("a usable path has shown the unit");
    let size = unit.block_size();
    let (cdb, data) = match part.verb {
        PartVerb::Read => {
            (Cdb::Read(transfer(unit, part, false)), Direction::Read { len: part.blocks * size })
        }
        PartVerb::Write => {
            let fua = request.fua && unit.dpofua();
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
            let fua = request.fua && unit.dpofua();
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
    let lun = v.links[0].spec.lun;
    Command { token: id.to_token(), lun, cdb: cdb.to_bytes(), data }
}

fn transfer(unit: &LogicalUnit, part: &Part, fua: bool) -> Transfer {
    let transfer = Transfer { fua, ..Transfer::new(part.lba, part.blocks) };
    assert!(part.lba + u64::from(part.blocks) <= unit.blocks(), "never beyond the capacity");
    transfer
}

/// With no usable path commands queue for `no_path_timeout`, then they fail.
pub(super) fn no_path(v: &mut Volume, now: Instant) {
    if !v.engine.usable().is_empty() {
        if v.no_path_reported {
            v.no_path_reported = false;
            v.notice(now, Level::Info, None, "ok", "a path is usable again");
        }
        return;
    }
    let since = v.engine.down_since().expect("no path is usable");
    let limit = v.spec.tunables.no_path_timeout;
    if limit == Duration::MAX || now - since < limit {
        return;
    }
    let queued = v.ready.len() + v.delayed.len();
    if !v.no_path_reported && v.unit.is_some() {
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
    link::fail_waiting_clients(v, now);
}
