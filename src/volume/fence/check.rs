//! The I/O of the watch list: keeps what ranges in doubt hold, looks at them when their old write is over,
//! and rewrites what it has hit. See `watch` for the rule.
//!
//! A check is a request of the volume itself. It takes its range like a write, so that no client's write
//! is in flight there, reads it over the one path in question, and writes over any.

use crate::base::{Instant, Payload};
use crate::path::planted::{Bug, planted};
use crate::path::{BlockRange, FenceMode, Nexus, PathIndex, PathSet, TicketId};
use crate::volume::request::{self, Asker, Part, PartVerb, Request, RequestId, Stage, Verb};
use crate::volume::watch::{Due, Written};
use crate::volume::{Level, Volume};
use crate::wire::nbd::NbdError;

/// What a check has found so far.
pub(in crate::volume) struct Progress {
    id: u64,
    stale: u64,
    foreign: u64,
}

/// A request that owns a range is over, well or not, and its range is not yet released.
pub(in crate::volume) fn account(v: &Volume, id: RequestId, ticket: TicketId) {
    let in_doubt = v.shared.ledger().is_in_doubt(ticket);
    if !in_doubt && !v.shared.is_watching() {
        return;
    }
    let request = v.requests.get(id).expect("the caller holds the request");
    let Some(range) = BlockRange::new(request.first, request.end - request.first) else { return };
    let Some(block_size) = v.unit.as_ref().map(|unit| unit.block_size()) else { return };
    let content = content(request, range, block_size);
    let is_check = matches!(request.verb, Verb::Check { .. });
    let mut watch = v.shared.watch();
    if !is_check && !watch.is_empty() {
        let whole = request.failure.is_none() && request.cursor >= request.end;
        let discards = request.verb == Verb::Trim;
        let now_there = content.as_ref().filter(|_| whole && !discards);
        watch.written(range, now_there.unwrap_or(&Written::Unknown));
    }
    let tunables = &v.spec.tunables;
    // With `strict` or without a timeout nothing is released today; but both can be set while it is held.
    if let Some(late) = content.filter(|_| in_doubt && tunables.fence != FenceMode::Off) {
        watch.keep(ticket, range, late, block_size, tunables.watch_memory);
    }
    let watching = !watch.is_empty();
    drop(watch);
    v.shared.set_watching(watching);
}

/// What a request writes, if it got so far that any of it could be sent.
fn content(request: &Request, range: BlockRange, block_size: u32) -> Option<Written> {
    let blocks = range.last() - range.start() + 1;
    match request.verb {
        Verb::Zero { .. } | Verb::Trim => Some(Written::Zeros),
        Verb::Write | Verb::Check { .. } => {
            let whole = request.data.len() as u64 == blocks * u64::from(block_size);
            whole.then(|| Written::Data(request.data.to_vec().into()))
        }
        Verb::Read | Verb::Flush | Verb::Status => None,
    }
}

/// Gives up what was in doubt for `fence_timeout`, as far as it can be watched.
pub(in crate::volume) fn fence_timeout(v: &mut Volume, now: Instant) {
    let (shared, lane) = (v.shared.clone(), v.lane);
    let mut refused = 0;
    let unproven = shared.ledger().handle_timeout(now, |doubt| {
        // A lane that stood still has another time than the others.
        if doubt.nexus.lane != lane && !shared.inheritance().owns(doubt.ticket) {
            return false;
        }
        let fits = shared.inheritance().owns(doubt.ticket) || shared.watch().release(doubt);
        refused += u32::from(!fits);
        fits
    });
    if unproven > 0 {
        request::wake_lanes(v);
        let why = format!(
            "{unproven} ranges of blocks were in doubt for fence_timeout without a proof and are free now: if \
             their old target still executes an old write, it lands over newer data; they are watched, and \
             rewritten when the target is back"
        );
        v.notice(now, Level::Error, None, "unproven", &why);
    }
    if refused == 0 {
        v.watch_full_told = false;
    } else if !std::mem::replace(&mut v.watch_full_told, true) {
        let why = format!(
            "{refused} ranges of blocks stay in doubt beyond fence_timeout: watch_memory ({} bytes) has no room \
             to watch them; try: mpio fence {} list",
            v.spec.tunables.watch_memory, v.spec.name
        );
        v.notice(now, Level::Error, None, "watch list full", &why);
    }
}

/// Looks at what is due, over paths that are in service.
pub(in crate::volume) fn tick(v: &mut Volume, now: Instant) {
    if !v.shared.is_watching() || v.draining.is_some() || v.unit.is_none() {
        return;
    }
    loop {
        let due = v.shared.watch().take_due(v.lane, v.engine.usable());
        let Some(Due { id, range, path }) = due else { return };
        v.checks.push(Progress { id, stale: 0, foreign: 0 });
        let mut request = Request::new(Asker::Volume, Verb::Check { id, path }, now);
        (request.first, request.end) = (range.start(), range.last() + 1);
        // What is rewritten has been answered, and perhaps flushed, long ago.
        request.fua = true;
        request::begin(v, now, request);
        v.again = true;
    }
}

/// The range is taken: reads it over the path in question and no other.
pub(in crate::volume) fn read(v: &mut Volume, id: RequestId, path: PathIndex) {
    let step = u64::from(v.transfer_step.max(1));
    let request = v.requests.get_mut(id).expect("the caller holds the request");
    let mut lba = request.first;
    while lba < request.end {
        let blocks = step.min(request.end - lba);
        let mut part = Part::new(id, PartVerb::Read, lba, blocks as u32);
        part.only = Some(PathSet::only(path));
        part.pinned = true;
        request.live += 1;
        lba += blocks;
        let part = v.parts.insert(part);
        v.ready.push_back(part);
    }
}

/// All of it was read: writes what the old write has hit.
pub(in crate::volume) fn compare(v: &mut Volume, now: Instant, id: RequestId) {
    let size = u64::from(v.unit.as_ref().map_or(1, |unit| unit.block_size()));
    let step = v.transfer_step.max(1);
    let request = v.requests.get_mut(id).expect("the caller holds the request");
    let Verb::Check { id: entry, .. } = request.verb else { unreachable!("only checks compare") };
    request.pieces.sort_unstable_by_key(|(lba, _)| *lba);
    let mut data = Vec::with_capacity(((request.end - request.first) * size) as usize);
    for (_, piece) in request.pieces.drain(..) {
        data.extend(piece.to_vec());
    }
    let mut finding = v.shared.watch().compare(entry, &data);
    if planted(Bug::WatchForgotten) {
        finding.stale.clear();
    }
    request.stage = Stage::Body;
    request.cursor = request.end;
    let progress = v.checks.iter_mut().find(|check| check.id == entry);
    let progress = progress.expect("a check has its progress");
    progress.foreign = finding.foreign;
    if finding.stale.is_empty() {
        request::finish(v, now, id);
        return;
    }
    for (lba, right) in &finding.stale {
        let at = ((lba - request.first) * size) as usize;
        data[at..at + right.len()].copy_from_slice(right);
        let mut left = (right.len() as u64 / size) as u32;
        progress.stale += u64::from(left);
        let mut lba = *lba;
        while left > 0 {
            let blocks = step.min(left);
            request.live += 1;
            v.ready.push_back(v.parts.insert(Part::new(id, PartVerb::Write, lba, blocks)));
            lba += u64::from(blocks);
            left -= blocks;
        }
    }
    request.data = Payload::from(data);
    v.again = true;
}

/// A check is over, or could not be made.
pub(in crate::volume) fn finished(
    v: &mut Volume,
    now: Instant,
    id: u64,
    path: PathIndex,
    failure: Option<NbdError>,
) {
    let place = v.checks.iter().position(|check| check.id == id);
    let Progress { stale, foreign, .. } = v.checks.swap_remove(place.expect("it was begun"));
    let mut watch = v.shared.watch();
    if failure.is_some() {
        watch.put_back(v.lane, id);
        return;
    }
    watch.done(id);
    watch.count_repaired(stale);
    let watching = !watch.is_empty();
    drop(watch);
    v.shared.set_watching(watching);
    if stale > 0 {
        let why = format!(
            "an old write had landed over {stale} newer blocks after fence_timeout; they were rewritten. Whoever \
             read them meanwhile has read old data"
        );
        v.notice(now, Level::Error, Some(path), "repaired", &why);
    }
    if foreign > 0 {
        let why = format!(
            "{foreign} watched blocks hold neither what was acknowledged last nor an old write of ours; they \
             were left as they are: another host may have written them"
        );
        v.notice(now, Level::Error, Some(path), "differs", &why);
    }
    // Reads may have waited for it.
    v.again = true;
}

/// Paths by which a client's read of these blocks must not go now.
pub(in crate::volume) fn unread(v: &Volume, lba: u64, blocks: u32) -> PathSet {
    match v.shared.is_watching() {
        true => v.shared.watch().unread(lba, blocks),
        false => PathSet::EMPTY,
    }
}

/// One copy in doubt is dead: its own status came, or it was aborted.
pub(in crate::volume) fn copy_dead(v: &mut Volume, ticket: TicketId, nexus: Nexus) {
    if !v.shared.copy_dead(ticket, nexus) {
        v.shared.watch().copy_ended(ticket, nexus);
    }
    request::wake_lanes(v);
}
