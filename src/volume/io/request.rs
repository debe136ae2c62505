//! The life of one request: held for its range, cut into parts, answered when every part is done.
//!
//! A *request* is what a client asked for. A *part* is one SCSI command of it and the unit of retry. A
//! request makes its parts a few at a time ([`pump_all`]), so that a long TRIM takes no more slots than a
//! short one.

use crate::base::table::Key;
use crate::base::{Duration, Instant, Payload};
use crate::export::{Handle, Reply};
use crate::path::planted::{Bug, planted};
use crate::path::verdict::{CommandKind, Outcome};
use crate::path::{BlockRange, FenceMode, Grant, Owner, PathIndex, PathSet, TicketId};
use crate::session::TaskTag;
use crate::stats::{Ended, Op};
use crate::volume::clients::ClientId;
use crate::volume::{Volume, abandon, block_ops, check, flush, transfer};
use crate::wire::nbd::NbdError;
use smallvec::SmallVec;

pub(in crate::volume) type RequestId = Key;
pub(in crate::volume) type PartId = Key;

/// What a request does to the logical unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) enum Verb {
    Read,
    Write,
    /// Zeros, by WRITE SAME where `same`, else by writing them.
    Zero {
        same: bool,
        unmap: bool,
        fast: bool,
    },
    Trim,
    Flush,
    Status,
    /// Looks at a watched range over one path, and mends it.
    Check {
        id: u64,
        path: PathIndex,
    },
}

impl Verb {
    /// For statistics.
    fn op(self) -> Op {
        match self {
            Verb::Read => Op::Read,
            Verb::Write | Verb::Zero { .. } => Op::Write,
            Verb::Trim | Verb::Flush | Verb::Status | Verb::Check { .. } => Op::Other,
        }
    }

    /// Whether the medium changes: such requests own their range.
    pub(in crate::volume) fn changes_state(self) -> bool {
        match self {
            Verb::Write | Verb::Zero { .. } | Verb::Trim | Verb::Check { .. } => true,
            Verb::Read | Verb::Flush | Verb::Status => false,
        }
    }
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) enum Stage {
    /// Waits for its range.
    Held,
    /// Reads the blocks that it only changes in part.
    Edges,
    /// Its own parts.
    Body,
    /// FUA without DPOFUA, and FLUSH: SYNCHRONIZE CACHE.
    Stabilise,
    /// Done, but a copy is in doubt and the mode is `strict`: nobody is told before the proof.
    Proof,
}

/// Who is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) enum Asker {
    Client(ClientId, Handle),
    /// The client has gone: what was not sent yet is dropped.
    Gone,
    /// The volume itself (the last flush).
    Volume,
}

pub(in crate::volume) struct Request {
    pub(in crate::volume) asker: Asker,
    pub(in crate::volume) verb: Verb,
    pub(in crate::volume) stage: Stage,
    pub(in crate::volume) offset: u64,
    pub(in crate::volume) len: u64,
    pub(in crate::volume) fua: bool,
    /// First whole block touched, and one behind the last.
    pub(in crate::volume) first: u64,
    pub(in crate::volume) end: u64,
    /// Next block to make a part for.
    pub(in crate::volume) cursor: u64,
    pub(in crate::volume) live: u32,
    /// What goes out (WRITE), whole blocks once the edges are there.
    pub(in crate::volume) data: Payload,
    /// What came in (READ, edges, LBA status), by part.
    pub(in crate::volume) pieces: SmallVec<[(u64, Payload); 2]>,
    pub(in crate::volume) ticket: Option<TicketId>,
    pub(in crate::volume) failure: Option<NbdError>,
    /// Begin the body again in another form once nothing is in flight (WRITE SAME was refused).
    pub(in crate::volume) restart: bool,
    /// It is in the queue of requests that have more parts to make.
    pub(in crate::volume) pumping: bool,
    /// A part of a FUA request went to a cache: a flush has to follow.
    pub(in crate::volume) cached: bool,
    /// Paths whose targets a flush has reached.
    pub(in crate::volume) reached: PathSet,
    /// Sessions that may know whether a cache was lost were asked.
    pub(in crate::volume) asked_witnesses: bool,
    /// Marks of the writes that a flush covers, by path.
    pub(in crate::volume) covers: Option<Box<flush::Marks>>,
    pub(in crate::volume) started: Instant,
}

impl Request {
    /// One without a range.
    pub(in crate::volume) fn new(asker: Asker, verb: Verb, now: Instant) -> Request {
        Request {
            asker,
            verb,
            stage: Stage::Held,
            offset: 0,
            len: 0,
            fua: false,
            first: 0,
            end: 0,
            cursor: 0,
            live: 0,
            data: Payload::new(),
            pieces: SmallVec::new(),
            ticket: None,
            failure: None,
            restart: false,
            pumping: false,
            cached: false,
            reached: PathSet::EMPTY,
            asked_witnesses: false,
            covers: None,
            started: now,
        }
    }
}

/// One SCSI command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) enum PartVerb {
    Read,
    Write,
    WriteZeros,
    WriteSame { unmap: bool },
    Unmap,
    Sync,
    LbaStatus,
}

impl PartVerb {
    pub(in crate::volume) fn changes_state(self) -> bool {
        match self {
            PartVerb::Write
            | PartVerb::WriteZeros
            | PartVerb::WriteSame { .. }
            | PartVerb::Unmap => true,
            PartVerb::Read | PartVerb::Sync | PartVerb::LbaStatus => false,
        }
    }

    /// For path choice and statistics.
    pub(in crate::volume) fn op(self) -> Op {
        match self {
            PartVerb::Read => Op::Read,
            PartVerb::Write | PartVerb::WriteZeros => Op::Write,
            PartVerb::WriteSame { .. } | PartVerb::Unmap | PartVerb::Sync | PartVerb::LbaStatus => {
                Op::Other
            }
        }
    }

    /// For the verdict.
    pub(in crate::volume) fn kind(self) -> CommandKind {
        match self {
            PartVerb::Read => CommandKind::Read,
            PartVerb::Write | PartVerb::WriteZeros => CommandKind::Write,
            PartVerb::WriteSame { .. } => CommandKind::WriteSame,
            PartVerb::Unmap => CommandKind::Unmap,
            PartVerb::Sync => CommandKind::Flush,
            PartVerb::LbaStatus => CommandKind::LbaStatus,
        }
    }
}

/// Where a part is in flight.
#[derive(Debug, Clone, Copy)]
pub(in crate::volume) struct Flight {
    pub(in crate::volume) path: PathIndex,
    pub(in crate::volume) tag: TaskTag,
    pub(in crate::volume) started: Instant,
    /// A LOGICAL UNIT RESET on another session of the same unit has been answered since it was sent.
    pub(in crate::volume) reset: bool,
    /// It has made its path suspect once, or was there when it became so.
    pub(in crate::volume) accused: bool,
}

pub(in crate::volume) struct Part {
    pub(in crate::volume) request: RequestId,
    pub(in crate::volume) verb: PartVerb,
    pub(in crate::volume) lba: u64,
    pub(in crate::volume) blocks: u32,
    pub(in crate::volume) history: History,
    pub(in crate::volume) flight: Option<Flight>,
    /// Only these paths (a flush goes to one target).
    pub(in crate::volume) only: Option<PathSet>,
    /// Not by any other path, even if these are out of service.
    pub(in crate::volume) pinned: bool,
    /// Stragglers that there have been of it.
    pub(in crate::volume) copies: u16,
}

/// What has been answered to a part so far: what the verdict on the next answer has to know.
#[derive(Default)]
pub(in crate::volume) struct History {
    /// Paths whose answer sent it elsewhere.
    pub(in crate::volume) refused: PathSet,
    /// Where the last answer came from, and what it was.
    pub(in crate::volume) last: Option<(PathIndex, Outcome)>,
    /// The answers that sent it elsewhere: two paths that say the same of it are right.
    pub(in crate::volume) elsewhere: SmallVec<[(PathIndex, Outcome); 1]>,
    /// Retries at once, and unit attentions, on that path.
    pub(in crate::volume) retries: u8,
    pub(in crate::volume) attentions: u8,
    /// Answers over all paths, delayed retries not counted.
    pub(in crate::volume) answers: u16,
    /// Time spent in delayed retries on that path, and on all.
    pub(in crate::volume) waited_here: Duration,
    pub(in crate::volume) waited: Duration,
}

/// Parts of one request in flight at the same time, for commands that may be slow on the target.
const SLOW_PARTS_MAX: u32 = 4;
/// The same for READ and WRITE: 32 MiB in parts of the usual size.
const TRANSFER_PARTS_MAX: u32 = 64;

/// Payloads of held writes below this, bytes, are copied out of the receive buffer that they came in: it is
/// far larger, and others wait for it.
const COPY_HELD_MAX: usize = 64 * 1024;

/// Takes a request in: range first where it changes the medium.
pub(in crate::volume) fn begin(v: &mut Volume, now: Instant, request: Request) {
    let range = BlockRange::new(request.first, request.end - request.first);
    let range = range.filter(|_| request.verb.changes_state());
    let id = v.requests.insert(request);
    match range {
        Some(range) => take_range(v, now, id, range),
        None => start(v, now, id),
    }
}

fn take_range(v: &mut Volume, now: Instant, id: RequestId, range: BlockRange) {
    let owner = Owner { lane: v.lane, token: id.to_token() };
    let grant = v.shared.ledger().acquire(range, owner);
    let request = v.requests.get_mut(id).expect("the caller holds the request");
    match grant {
        Grant::Taken(ticket) => {
            request.ticket = Some(ticket);
            start(v, now, id);
        }
        Grant::Wait(ticket) => {
            request.ticket = Some(ticket);
            keep_small(request);
            v.held += 1;
        }
        Grant::Full => {
            keep_small(request);
            v.unticketed.push_back((id, range));
        }
    }
}

/// Copies a small payload out of the large buffer that it came in.
fn keep_small(request: &mut Request) {
    if request.data.len() < COPY_HELD_MAX {
        request.data.compact();
    }
}

/// A request that waits for its range ends without having been begun.
pub(in crate::volume) fn drop_held(v: &mut Volume, id: RequestId) -> Option<Request> {
    let request = v.requests.remove(id)?;
    assert_eq!(request.stage, Stage::Held, "only a held request can be dropped");
    match request.ticket {
        Some(ticket) => {
            v.shared.abandon(ticket);
            v.held = v.held.checked_sub(1).expect("a held request was counted");
            wake_lanes(v);
        }
        None => v.unticketed.retain(|(other, _)| *other != id),
    }
    Some(request)
}

/// A held request is answered with an error.
pub(in crate::volume) fn refuse_held(v: &mut Volume, now: Instant, id: RequestId, error: NbdError) {
    let Some(request) = drop_held(v, id) else { return };
    if let Verb::Check { id, path } = request.verb {
        check::finished(v, now, id, path, Some(error));
    }
    v.counters.record(request.verb.op(), 0, now - request.started, Ended::Error);
    if let Asker::Client(client, handle) = request.asker {
        crate::volume::clients::reply(v, now, client, handle, Err(error));
    }
}

/// The service ends with requests open: their clients are told so. In `strict` nothing is said of a write
/// that may have been executed: its connection ends without an answer.
pub(in crate::volume) fn shut_down(v: &mut Volume, now: Instant) {
    let all: Vec<RequestId> = v.requests.iter().map(|(id, _)| id).collect();
    for id in all {
        let strict = v.spec.tunables.fence == FenceMode::Strict;
        let Some(request) = v.requests.get_mut(id) else { continue };
        if request.stage == Stage::Held {
            refuse_held(v, now, id, NbdError::Shutdown);
            continue;
        }
        let silent = strict && request.verb.changes_state();
        let Asker::Client(client, handle) = request.asker else { continue };
        if silent {
            crate::volume::clients::cut(v, now, client);
            continue;
        }
        request.asker = Asker::Gone;
        crate::volume::clients::reply(v, now, client, handle, Err(NbdError::Shutdown));
    }
}

/// Ranges that became free for requests of this lane.
pub(in crate::volume) fn grant(v: &mut Volume, now: Instant) {
    if v.held > 0 {
        while let Some(granted) = v.shared.poll_granted(v.lane) {
            v.held = v.held.checked_sub(1).expect("a granted request was held");
            let id = Key::from_token(granted.owner.token);
            let request = v.requests.get(id).expect("who stops waiting says so");
            assert_eq!(request.ticket, Some(granted.ticket), "the grant is for this request");
            start(v, now, id);
        }
    }
    for _ in 0..v.unticketed.len() {
        // The ledger is full: nobody behind will find room either.
        if v.shared.ledger().is_full() {
            break;
        }
        let Some((id, range)) = v.unticketed.pop_front() else { break };
        if v.requests.get(id).is_some() {
            take_range(v, now, id, range);
        }
    }
    while let Some(settled) = v.shared.poll_settled(v.lane) {
        let id = Key::from_token(settled.owner.token);
        let waits = v.requests.get(id).is_some_and(|r| r.stage == Stage::Proof);
        if waits {
            finish(v, now, id);
        }
    }
}

fn start(v: &mut Volume, now: Instant, id: RequestId) {
    let Some(request) = v.requests.get_mut(id) else { return };
    assert_eq!(request.stage, Stage::Held, "a request starts once");
    request.stage = Stage::Body;
    match request.verb {
        Verb::Write if transfer::needs_edges(v.unit.as_deref(), request) => {
            request.stage = Stage::Edges;
            transfer::read_edges(v, id);
        }
        Verb::Flush => flush::begin(v, now, id),
        Verb::Check { path, .. } => {
            request.stage = Stage::Edges;
            check::read(v, id, path);
        }
        _ => advance(v, now, id),
    }
}

/// Makes the next parts of every request that has more to make.
pub(in crate::volume) fn pump_all(v: &mut Volume) {
    for _ in 0..v.pumpable.len() {
        let Some(id) = v.pumpable.pop_front() else { break };
        if let Some(request) = v.requests.get_mut(id) {
            request.pumping = false;
            pump(v, id);
        }
    }
}

/// Makes parts as far as the request may have them in flight.
fn pump(v: &mut Volume, id: RequestId) {
    let Some(unit) = v.unit.clone() else { return };
    let Some(request) = v.requests.get_mut(id) else { return };
    if request.stage != Stage::Body || request.restart || request.failure.is_some() {
        return;
    }
    let step = v.transfer_step.max(1);
    let (verb, step, live_max) = match request.verb {
        Verb::Read => (PartVerb::Read, step, TRANSFER_PARTS_MAX),
        Verb::Write => (PartVerb::Write, step, TRANSFER_PARTS_MAX),
        Verb::Zero { same: false, .. } => (PartVerb::WriteZeros, step, SLOW_PARTS_MAX),
        Verb::Zero { same: true, unmap, .. } => {
            (PartVerb::WriteSame { unmap }, block_ops::write_same_step(&unit), SLOW_PARTS_MAX)
        }
        Verb::Trim => (PartVerb::Unmap, block_ops::unmap_step(&unit), SLOW_PARTS_MAX),
        Verb::Status => (PartVerb::LbaStatus, u32::MAX, 1),
        Verb::Flush | Verb::Check { .. } => return,
    };
    assert!(step > 0, "a part has at least one block");
    while request.cursor < request.end && request.live < live_max {
        let blocks = u64::from(step).min(request.end - request.cursor) as u32;
        let part = Part::new(id, verb, request.cursor, blocks);
        request.cursor += u64::from(blocks);
        request.live += 1;
        let part = v.parts.insert(part);
        v.ready.push_back(part);
    }
    if request.cursor < request.end && !request.pumping {
        request.pumping = true;
        v.pumpable.push_back(id);
    }
}

impl Part {
    pub(in crate::volume) fn new(
        request: RequestId,
        verb: PartVerb,
        lba: u64,
        blocks: u32,
    ) -> Part {
        let history = History::default();
        Part {
            request,
            verb,
            lba,
            blocks,
            history,
            flight: None,
            only: None,
            pinned: false,
            copies: 0,
        }
    }
}

/// A part ended. `Err` ends the request when its other parts are back.
pub(in crate::volume) fn part_done(
    v: &mut Volume,
    now: Instant,
    id: PartId,
    result: Result<Payload, NbdError>,
) {
    let part = v.parts.remove(id).expect("a part ends once");
    if part.copies > 0 {
        abandon::unwanted(v, id);
    }
    let Some(request) = v.requests.get_mut(part.request) else { return };
    request.live = request.live.checked_sub(1).expect("a live part was counted");
    match result {
        Ok(data) => {
            if matches!(part.verb, PartVerb::Read | PartVerb::LbaStatus) {
                request.pieces.push((part.lba, data));
            }
        }
        Err(error) => {
            request.failure.get_or_insert(error);
        }
    }
    advance(v, now, part.request);
}

/// Moves a request to where it can go next.
pub(in crate::volume) fn advance(v: &mut Volume, now: Instant, id: RequestId) {
    let Some(request) = v.requests.get_mut(id) else { return };
    let over = request.failure.is_some() || request.asker == Asker::Gone;
    if request.live > 0 {
        return;
    }
    if over {
        finish(v, now, id);
        return;
    }
    match request.stage {
        Stage::Held | Stage::Proof => {}
        Stage::Edges if matches!(request.verb, Verb::Check { .. }) => check::compare(v, now, id),
        Stage::Edges => {
            transfer::merge_edges(v, id);
            pump(v, id);
        }
        Stage::Body if request.restart => {
            request.restart = false;
            request.cursor = request.first;
            pump(v, id);
        }
        Stage::Body if request.cursor < request.end => pump(v, id),
        Stage::Body if request.fua && request.verb.changes_state() => {
            flush::stabilise(v, now, id);
        }
        Stage::Body => finish(v, now, id),
        Stage::Stabilise => {
            if flush::settled(v, now, id) {
                finish(v, now, id);
            }
        }
    }
}

/// Answers the client and lets the range go (as far as no copy is in doubt).
pub(in crate::volume) fn finish(v: &mut Volume, now: Instant, id: RequestId) {
    if v.spec.tunables.fence == FenceMode::Strict {
        let request = v.requests.get_mut(id).expect("the caller holds the request");
        if request.ticket.is_some_and(|ticket| v.shared.ledger().is_in_doubt(ticket)) {
            request.stage = Stage::Proof;
            return;
        }
    }
    let request = v.requests.get_mut(id).expect("a request is answered once");
    assert_eq!(request.live, 0, "a request is answered when all its parts are back");
    if let Some(ticket) = request.ticket.take() {
        check::account(v, id, ticket);
        release(v, ticket);
    }
    // It ends where it lies: moving it costs more than all else here.
    let request = v.requests.get_mut(id).expect("it was just there");
    let (asker, verb, failure, started) =
        (request.asker, request.verb, request.failure, request.started);
    let bytes = u32::try_from(request.len).unwrap_or(u32::MAX);
    let result = match (failure, verb) {
        (Some(error), _) => Err(error),
        (None, Verb::Read) => Ok(Reply::Data(transfer::assemble(v.unit.as_deref(), request))),
        (None, Verb::Status) => Ok(block_ops::extents(v.unit.as_deref(), request)),
        (None, _) => Ok(Reply::Done),
    };
    v.requests.discard(id);
    if let Verb::Check { id, path } = verb {
        check::finished(v, now, id, path, failure);
    }
    let ended = if failure.is_some() { Ended::Error } else { Ended::Good };
    v.counters.record(verb.op(), bytes, now - started, ended);
    let Asker::Client(client, handle) = asker else { return };
    crate::volume::clients::reply(v, now, client, handle, result);
}

/// The mode is not `strict` any more: what waited for a proof only to be answered is answered.
pub(in crate::volume) fn without_proof(v: &mut Volume, now: Instant) {
    let waiting = v.requests.iter().filter(|(_, r)| r.stage == Stage::Proof);
    let waiting: Vec<RequestId> = waiting.map(|(id, _)| id).collect();
    for id in waiting {
        finish(v, now, id);
    }
}

fn release(v: &mut Volume, ticket: TicketId) {
    v.shared.ledger().release(ticket);
    if planted(Bug::GrantForgotten) {
        return;
    }
    wake_lanes(v);
}

/// Grants that a change of the ledger brought: those of other lanes are told.
pub(in crate::volume) fn wake_lanes(v: &mut Volume) {
    let own = v.lane;
    for lane in v.shared.distribute() {
        match lane == own {
            true => v.again = true,
            false => v.actions.push_back(crate::volume::Action::WakeLane(lane)),
        }
    }
}
