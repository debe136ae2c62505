//! Commands that nobody waits for any more, and copies of commands: *stragglers*.
//!
//! A part is in flight on one path ([`Flight`](crate::volume::request::Flight)). What else a session still carries
//! is a straggler: the old command of a read that was sent elsewhere, the loser or the copy of a race, a
//! write that was given up, a question to a suspect path. It stays until the target answers it, ABORT TASK
//! ends it or the session does. Stragglers have a table and tokens of their own, so that a part and its
//! request can end while the session still works on a command of theirs.
//!
//! A straggler of a read may still win: the first good answer ends the part. A straggler of what changes
//! the medium never does, it is *in doubt* until its own status or the answer to its ABORT TASK (proof 1).

use crate::base::table::Key;
use crate::base::{Instant, Payload};
use crate::path::verdict::{self, Context, Decision, Outcome};
use crate::path::{Ended, Nexus, PathIndex, TicketId};
use crate::session::{Command, Completion, Direction, TaskTag};
use crate::volume::request::{Flight, PartId, PartVerb};
use crate::volume::{Volume, check, complete, dispatch, fencing, health, hedge, link};
use crate::wire::scsi::{Cdb, Transfer};

/// Set in the tokens of stragglers: table slots never get that high.
const MARK: u64 = 1 << 31;
/// Tokens from here on belong to links.
const LINKS: u64 = u64::MAX - 15;

/// One command that no part is in flight with.
pub(in crate::volume) struct Straggler {
    /// The part that it belongs to, or belonged to.
    part: Option<PartId>,
    pub(in crate::volume) path: PathIndex,
    pub(in crate::volume) tag: TaskTag,
    pub(in crate::volume) started: Instant,
    pub(in crate::volume) verb: PartVerb,
    bytes: u32,
    /// What it holds as long as it is not proven dead.
    doubt: Option<(TicketId, Nexus)>,
    /// A LOGICAL UNIT RESET on another session of the same unit has been answered since it was sent.
    pub(in crate::volume) reset: bool,
    /// As of a flight. Its part may be done elsewhere: the path owes the answer all the same.
    pub(in crate::volume) accused: bool,
    pub(in crate::volume) kind: Kind,
    /// ABORT TASK was asked for: it is past its deadline.
    pub(in crate::volume) overdue: bool,
    /// When it is asked for once more: the target may have refused it, or the session had no room for it.
    pub(in crate::volume) abort_again: Instant,
}

/// Why there is a straggler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) enum Kind {
    /// The first command of a part that is elsewhere now, or done.
    Left,
    /// Asks a suspect path whether it answers.
    Probe,
    /// A copy of a slow read.
    Hedge,
}

/// The straggler that a token names.
pub(in crate::volume) const fn key(token: u64) -> Option<Key> {
    if token & MARK != 0 && token < LINKS { Some(Key::from_token(token & !MARK)) } else { None }
}

const fn token(key: Key) -> u64 {
    key.to_token() | MARK
}

/// Leaves a part's command where it is: the part is in flight nowhere then. What changes the medium is in
/// doubt from now on.
pub(in crate::volume) fn leave(v: &mut Volume, now: Instant, id: PartId) -> Key {
    let bytes = complete::part_bytes(v, id);
    let part = v.parts.get_mut(id).expect("the caller found the part");
    let (verb, request) = (part.verb, part.request);
    let flight = part.flight.take().expect("only a part in flight is left");
    let Flight { path, tag, started, reset, accused } = flight;
    part.copies += 1;
    let ticket = v.requests.get(request).and_then(|request| request.ticket);
    let doubt = ticket.filter(|_| verb.changes_state()).map(|t| (t, fencing::nexus(v, path)));
    if doubt.is_some() {
        fencing::in_doubt(v, now, id, path);
    }
    let straggler = Straggler {
        part: Some(id),
        path,
        tag,
        started,
        verb,
        bytes,
        doubt,
        reset,
        accused,
        kind: Kind::Left,
        overdue: false,
        abort_again: Instant::ZERO,
    };
    let key = v.stragglers.insert(straggler);
    let session = v.links[path.get()].session().expect("a flight has a session");
    let lives = session.rename(tag, token(key));
    assert!(lives, "a part in flight has a command in its session");
    key
}

/// Whether the end of a flight is still to come, and not only to be told.
pub(in crate::volume) fn lives(v: &Volume, flight: &Flight) -> bool {
    let session = v.links[flight.path.get()].session_ref();
    session.is_some_and(|session| session.last_progress(flight.tag).is_some())
}

/// A write, or anything else that is past its deadline, is given up on a session that lives: ABORT TASK for
/// it, and its part is free to go elsewhere. Its copy is proven dead by the answer, or stays in doubt. Where
/// the target still waits for data of it the session is given up instead.
pub(in crate::volume) fn abandon(v: &mut Volume, now: Instant, id: PartId) {
    let flight = v.parts.get(id).and_then(|part| part.flight).expect("a part in flight");
    if owes_data(v, now, flight.path, flight.tag) {
        return;
    }
    let key = leave(v, now, id);
    abort(v, now, key);
    v.ready.push_front(id);
}

/// No task management for what the target waits to get data of: LIO (Linux 6.1) never answers it, and lets
/// nobody log in at that portal afterwards, while an old connection that is reset it clears away. The proof
/// comes by the next login and a reset then. Returns whether the session is given up.
fn owes_data(v: &mut Volume, now: Instant, path: PathIndex, tag: TaskTag) -> bool {
    let link = &v.links[path.get()];
    if !link.session_ref().is_some_and(|session| session.data_outstanding(tag)) {
        return false;
    }
    let why = format!(
        "a write is given up whose data the target has not got; it cannot be aborted in that state, so its \
         connection is reset ({})",
        link::where_(link)
    );
    link::fail(v, now, path, &why);
    true
}

/// Asks the target to end a straggler.
pub(in crate::volume) fn abort(v: &mut Volume, now: Instant, key: Key) {
    let again = now + v.spec.tunables.management_timeout;
    // Its session may just have been given up.
    let Some(straggler) = v.stragglers.get(key) else { return };
    if owes_data(v, now, straggler.path, straggler.tag) {
        return;
    }
    let straggler = v.stragglers.get_mut(key).expect("it was just there");
    let first = !std::mem::replace(&mut straggler.overdue, true);
    // Of a write the reset is the next proof; a second abort would only keep the target from answering it.
    straggler.abort_again = if straggler.verb.changes_state() { Instant::MAX } else { again };
    let (path, tag) = (straggler.path, straggler.tag);
    let link = &mut v.links[path.get()];
    link.overdue += u32::from(first);
    if let Some(session) = link.session() {
        session.abort(now, tag);
        v.mark_link(path);
    }
}

/// Sends a read that is in flight elsewhere on `path` too: the first answer wins.
pub(in crate::volume) fn copy(
    v: &mut Volume,
    now: Instant,
    id: PartId,
    path: PathIndex,
    kind: Kind,
) {
    let bytes = complete::part_bytes(v, id);
    let part = v.parts.get_mut(id).expect("the caller found the part");
    part.copies += 1;
    assert!(!part.verb.changes_state(), "only what changes nothing is sent twice");
    let verb = part.verb;
    let key = v.stragglers.insert(Straggler::new(now, Some(id), path, verb, bytes, kind));
    let command = dispatch::command(v, id, path, token(key));
    submit(v, now, key, path, command);
}

/// A READ of one block, for its answer alone.
pub(in crate::volume) fn ask(v: &mut Volume, now: Instant, lba: u64, path: PathIndex) {
    let unit = v.unit.as_ref().expect("a path in service has shown the unit");
    let lba = lba.min(unit.blocks().saturating_sub(1));
    let len = unit.block_size();
    let kind = Kind::Probe;
    let key = v.stragglers.insert(Straggler::new(now, None, path, PartVerb::Read, len, kind));
    let cdb = Cdb::Read(Transfer::new(lba, 1)).to_bytes();
    let lun = v.links[path.get()].spec.lun;
    let command = Command { token: token(key), lun, cdb, data: Direction::Read { len } };
    submit(v, now, key, path, command);
}

fn submit(v: &mut Volume, now: Instant, key: Key, path: PathIndex, command: Command) {
    let session = v.links[path.get()].session().expect("a path in service has a session");
    let Ok(tag) = session.submit(now, command) else { unreachable!("the session had room") };
    let straggler = v.stragglers.get_mut(key).expect("just inserted");
    straggler.tag = tag;
    v.engine.started(path, straggler.verb.op(), straggler.bytes);
    let link = &mut v.links[path.get()];
    link.asked += u32::from(straggler.kind == Kind::Probe);
    let full = link.room() == 0;
    v.engine.set_full(path, full);
    v.mark_link(path);
}

impl Straggler {
    fn new(
        now: Instant,
        part: Option<PartId>,
        path: PathIndex,
        verb: PartVerb,
        bytes: u32,
        kind: Kind,
    ) -> Straggler {
        Straggler {
            part,
            path,
            tag: TaskTag(0),
            started: now,
            verb,
            bytes,
            doubt: None,
            reset: false,
            accused: true,
            kind,
            overdue: false,
            abort_again: Instant::ZERO,
        }
    }
}

/// Takes a straggler out: its command has ended in some way.
fn end(v: &mut Volume, now: Instant, key: Key, ended: Ended) -> Option<Straggler> {
    let straggler = v.stragglers.remove(key)?;
    let Straggler { path, verb, bytes, started, .. } = straggler;
    let link = &mut v.links[path.get()];
    link.overdue -= u32::from(straggler.overdue);
    link.asked -= u32::from(straggler.kind == Kind::Probe);
    if !straggler.accused {
        health::landed(v, path, verb.op());
    }
    v.engine.finished(now, path, verb.op(), bytes, started, ended);
    Some(straggler)
}

/// The target answered a straggler.
pub(in crate::volume) fn done(v: &mut Volume, now: Instant, key: Key, completion: Completion) {
    let Some(straggler) = v.stragglers.get(key) else { return };
    let (path, verb, bytes) = (straggler.path, straggler.verb, straggler.bytes);
    let wanted = straggler.part.is_some_and(|part| v.parts.get(part).is_some());
    // Of a read that nobody wants any more the data was dropped.
    let short = wanted && complete::is_short(verb, bytes, &completion);
    let Completion { response, status, sense, data, .. } = completion;
    let outcome = Outcome::new(response, status, sense.as_deref(), short);
    let good = outcome == Outcome::GOOD;
    let ended = if good { Ended::Good } else { Ended::Error };
    let straggler = end(v, now, key, ended).expect("it was just there");
    health::answered(v, now, path, verb.op(), straggler.started);
    proven(v, &straggler);
    if !good {
        let context = Context::first(verb.kind(), true);
        let Decision { verdict, actions, .. } = verdict::verdict(&outcome, context);
        complete::act(v, now, path, verdict, actions, &outcome);
        return;
    }
    let Some(id) = straggler.part.filter(|_| wanted && !verb.changes_state()) else { return };
    if straggler.kind == Kind::Hedge {
        hedge::won(v);
    }
    win(v, now, id, path, verb, data);
}

/// A good answer of a straggler that its part still waits for: what the part is in flight with is nobody's.
fn win(v: &mut Volume, now: Instant, id: PartId, path: PathIndex, verb: PartVerb, data: Payload) {
    if let Some(flight) = v.parts.get(id).and_then(|part| part.flight) {
        if !lives(v, &flight) {
            // Both came in one receive: its own answer is the next event.
            return;
        }
        leave(v, now, id);
    }
    complete::good_answer(v, now, id, path, verb, data);
}

/// The part is done and has stragglers: nobody wants their data.
pub(in crate::volume) fn unwanted(v: &mut Volume, id: PartId) {
    for (_, straggler) in v.stragglers.iter() {
        if straggler.part == Some(id)
            && let Some(session) = v.links[straggler.path.get()].session.as_mut()
        {
            session.discard(straggler.tag);
        }
    }
}

/// ABORT TASK was answered with "complete": it will not be executed any more.
pub(in crate::volume) fn aborted(v: &mut Volume, now: Instant, key: Key) {
    if let Some(straggler) = end(v, now, key, Ended::Lost) {
        proven(v, &straggler);
    }
}

/// It has no answer and will get none. Returns whether it is in doubt.
pub(in crate::volume) fn lost(v: &mut Volume, now: Instant, key: Key) -> bool {
    end(v, now, key, Ended::Lost).is_some_and(|straggler| straggler.doubt.is_some())
}

/// Its own status, or ABORT TASK answered with response 0: this copy is dead.
fn proven(v: &mut Volume, straggler: &Straggler) {
    let Some((ticket, nexus)) = straggler.doubt else { return };
    check::copy_dead(v, ticket, nexus);
}
