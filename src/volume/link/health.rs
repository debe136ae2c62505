//! Which paths owe an answer for too long, and what becomes of the commands there.
//!
//! * A path on which nothing has moved for its [`patience`] while READs or WRITEs are outstanding is
//!   `suspect`; so is one with a single command that is three times as late. Pings do not count: a unit may
//!   hang behind a target that answers them. Its reads go elsewhere at once, as copies: the old command
//!   stays, and if its answer comes first it wins. Its writes stay until their deadline.
//! * Every `suspect_interval` a suspect path gets a copy of a live read, else a READ of one block where it
//!   hung. An answer to a READ or WRITE that was sent since makes it active again, or the last answer that it
//!   owed.
//! * A command past its deadline is given up where it is: ABORT TASK, and its part goes elsewhere. The
//!   session stays, unless more than half of its commands are past their deadline.
//!
//! A command accuses its path once: one that is lost for good does not keep a sound path out.
//! Deliberately not here: silence of a session (session), trust after suspicion (path engine).

use crate::base::{Duration, Instant};
use crate::path::{CommandClass, Op, PathIndex, State, command_timeout};
use crate::session::TaskTag;
use crate::volume::abandon::{self, Kind};
use crate::volume::request::{PartId, PartVerb};
use crate::volume::{Level, Volume, check, idle, link};

/// What was sent before the target said that it cleared commands may still be answered for so long.
const CLEARED_GRACE: Duration = Duration::from_millis(250);
/// A single command may be this many times later than a path as a whole.
const ALONE_FACTOR: u32 = 3;
/// Questions to a suspect path that may be open at the same time.
const QUESTIONS_MAX: u32 = 4;

/// What a path owes answers to, by kind: reads are waited for less long than writes where they are faster.
#[derive(Debug, Default)]
pub(in crate::volume) struct Debts {
    reads: Debt,
    writes: Debt,
    /// When the path was last given time because we did not run.
    excused: Instant,
}

#[derive(Debug, Default)]
struct Debt {
    open: u32,
    /// Since when there are any, without the time in which we did not run.
    since: Instant,
}

impl Debts {
    pub(in crate::volume) fn any(&self) -> bool {
        self.open() > 0
    }

    fn open(&self) -> u32 {
        self.reads.open + self.writes.open
    }

    fn of(&mut self, op: Op) -> &mut Debt {
        match op {
            Op::Read => &mut self.reads,
            Op::Write => &mut self.writes,
            Op::Other => unreachable!("only what moves data accuses a path"),
        }
    }

    /// Since when there are any of any kind.
    fn since(&self) -> Option<Instant> {
        let open = [&self.reads, &self.writes].into_iter().filter(|debt| debt.open > 0);
        open.map(|debt| debt.since).min()
    }

    /// They count from `now` on.
    fn restart(&mut self, now: Instant) {
        (self.reads.since, self.writes.since) = (now, now);
    }
}

/// How long nothing may move on a path that owes answers to commands of this kind.
fn patience(v: &Volume, path: PathIndex, op: Op) -> Duration {
    v.engine.suspect_after(path, op).max(v.spec.tunables.suspect_after)
}

/// A part was given to `path`.
pub(in crate::volume) fn started(v: &mut Volume, now: Instant, path: PathIndex, op: Op) {
    if op == Op::Other {
        return;
    }
    let debt = v.links[path.get()].debts.of(op);
    debt.open += 1;
    if debt.open == 1 {
        debt.since = now;
        v.owing.insert(path);
    }
}

/// A command that accused nobody is in flight on `path` no more.
pub(in crate::volume) fn landed(v: &mut Volume, path: PathIndex, op: Op) {
    if op == Op::Other {
        return;
    }
    let debts = &mut v.links[path.get()].debts;
    let debt = debts.of(op);
    debt.open = debt.open.checked_sub(1).expect("what lands was started");
    if !debts.any() {
        v.owing.remove(path);
    }
}

/// This process did not run for `late`, or longer, until `now`: that long nobody could see anything move. A path
/// is blamed only after half its time has passed while we ran; once, lest one that is gone is never found on a
/// machine that stalls again and again.
pub(in crate::volume) fn stalled(v: &mut Volume, now: Instant, late: Duration) {
    v.engine.stalled(now);
    for path in v.owing.iter() {
        let moved = last_moved(v, path);
        let half = [Op::Read, Op::Write].map(|op| patience(v, path, op) / 2);
        let debts = &mut v.links[path.get()].debts;
        let again = moved <= debts.excused;
        debts.excused = now;
        for (debt, half) in [&mut debts.reads, &mut debts.writes].into_iter().zip(half) {
            let since = debt.since.max(moved);
            let quiet = now.since(since + late);
            // What is still counted of the silence.
            let counted = if again { quiet } else { quiet.min(half) };
            debt.since = since + (now - since).saturating_sub(counted);
        }
    }
}

/// The target answered a command that `started` then, well or not.
pub(in crate::volume) fn answered(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    op: Op,
    started: Instant,
) {
    if op == Op::Other || !v.engine.suspects().contains(path) {
        return;
    }
    let suspected = v.engine.since(path);
    if started < suspected && owes_since_before(v, path, suspected) {
        return;
    }
    let since = now - suspected;
    let why = format!("answers again after {:.3} s", since.as_secs_f64());
    v.engine.transition(now, path, State::Active, &why);
    v.notice(now, Level::Info, Some(path), State::Active.name(), &why);
    back(v, now, path);
}

/// Whether a READ or WRITE from before `then` is outstanding. An answer among others that do not come is no sign of
/// life: it may have been on its way when the target stopped (a kernel sends the end of a stream that its process
/// had not filled up 200 ms later). What is asked since tells.
fn owes_since_before(v: &Volume, path: PathIndex, then: Instant) -> bool {
    let flights = v.parts.iter().filter_map(|(_, part)| Some((part.verb, part.flight?)));
    let mut owed = flights
        .map(|(verb, flight)| (verb, flight.path, flight.started))
        .chain(v.stragglers.iter().map(|(_, s)| (s.verb, s.path, s.started)));
    owed.any(|(verb, on, started)| on == path && started < then && verb.op() != Op::Other)
}

/// The path has become active.
pub(in crate::volume) fn back(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &mut v.links[path.get()];
    link.debts.restart(now);
    link.flush_late = false;
    idle::begin(v, now, path);
    move_reads(v, now);
}

/// When [`timeouts`] has something to do.
pub(in crate::volume) fn deadline(v: &Volume) -> Instant {
    let mut next = Instant::MAX;
    for path in v.owing.and(v.engine.active()).iter() {
        next = next.min(silence_ends(v, path));
    }
    for path in v.engine.suspects().union(v.engine.wants_read()).iter() {
        next = next.min(v.links[path.get()].ask_at);
    }
    next
}

/// When the path becomes suspect if nothing moves there.
fn silence_ends(v: &Volume, path: PathIndex) -> Instant {
    let (moved, debts) = (last_moved(v, path), &v.links[path.get()].debts);
    let ends = |debt: &Debt, op| match debt.open {
        0 => Instant::MAX,
        _ => moved.max(debt.since) + patience(v, path, op),
    };
    ends(&debts.reads, Op::Read).min(ends(&debts.writes, Op::Write))
}

/// How long nothing has moved on a path that owes answers.
pub(in crate::volume) fn quiet_for(v: &Volume, now: Instant, path: PathIndex) -> Duration {
    let since = v.links[path.get()].debts.since();
    since.map_or(Duration::ZERO, |since| now - since.max(last_moved(v, path)))
}

/// When a READ or WRITE last moved on the path.
fn last_moved(v: &Volume, path: PathIndex) -> Instant {
    let session = v.links[path.get()].session_ref();
    session.map_or(Instant::ZERO, |session| session.last_moved())
}

/// What has to be done to the millisecond.
pub(in crate::volume) fn timeouts(v: &mut Volume, now: Instant) {
    for path in v.owing.and(v.engine.active()).iter() {
        if silence_ends(v, path) <= now {
            let why = format!(
                "nothing has come for {:.3} s while {} commands are outstanding ({})",
                quiet_for(v, now, path).as_secs_f64(),
                v.links[path.get()].debts.open(),
                link::where_(&v.links[path.get()])
            );
            suspect(v, now, path, &why);
        }
    }
    for path in v.engine.suspects().union(v.engine.wants_read()).iter() {
        if v.links[path.get()].ask_at <= now {
            v.links[path.get()].ask_at = now + v.spec.tunables.suspect_interval;
            ask(v, now, path);
        }
    }
}

/// The path is not chosen any more while another one is active.
pub(in crate::volume) fn suspect(v: &mut Volume, now: Instant, path: PathIndex, why: &str) {
    if v.engine.state(path) != State::Active {
        return;
    }
    v.engine.transition(now, path, State::Suspect, why);
    v.notice(now, Level::Warn, Some(path), State::Suspect.name(), why);
    let mut first = Instant::MAX;
    let mut hung_at = 0;
    for part in v.parts.values_mut() {
        let Some(flight) = part.flight.as_mut().filter(|flight| flight.path == path) else {
            continue;
        };
        flight.accused = true;
        if flight.started < first {
            (first, hung_at) = (flight.started, part.lba);
        }
    }
    for straggler in v.stragglers.values_mut().filter(|s| s.path == path) {
        straggler.accused = true;
    }
    let link = &mut v.links[path.get()];
    link.debts = Debts::default();
    link.hung_at = hung_at;
    link.ask_at = now + v.spec.tunables.suspect_interval;
    // Whether it is the unit or the whole target: the sooner it is asked, the sooner that is known.
    if let Some(session) = link.session.as_mut() {
        session.ping(now);
        v.mark_link(path);
    }
    v.owing.remove(path);
    move_reads(v, now);
}

/// Reads on suspect paths go to active ones, in their order and before all others.
fn move_reads(v: &mut Volume, now: Instant) {
    let suspects = v.engine.suspects();
    if suspects.is_empty() || v.engine.active().is_empty() {
        return;
    }
    let mut found = std::mem::take(&mut v.scratch);
    found.extend(v.parts.iter().filter_map(|(id, part)| {
        let flight = part.flight.filter(|flight| suspects.contains(flight.path))?;
        let moves = part.verb == PartVerb::Read && !part.pinned && abandon::lives(v, &flight);
        moves.then_some((flight.started, id))
    }));
    found.sort_unstable_by_key(|(started, id)| (*started, id.slot()));
    while let Some((_, id)) = found.pop() {
        abandon::leave(v, now, id);
        v.ready.push_front(id);
    }
    v.scratch = found;
}

/// A path that has to prove itself is asked: by a read that somebody waits for, if there is one.
fn ask(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &v.links[path.get()];
    if link.asked >= QUESTIONS_MAX || link.room() == 0 {
        return;
    }
    let hung_at = link.hung_at;
    let live = v.parts.iter().find(|(_, part)| {
        part.verb == PartVerb::Read
            && part.flight.is_some_and(|flight| flight.path != path)
            // One that looks at a path's own content is no other path's business, and the other way round.
            && !part.pinned
            && !check::unread(v, part.lba, part.blocks).contains(path)
    });
    match live.map(|(id, _)| id) {
        Some(id) => abandon::copy(v, now, id, path, Kind::Probe),
        None => abandon::ask(v, now, hung_at, path),
    }
}

/// Looks at every command that is outstanding; called every few ten milliseconds while there are any.
pub(in crate::volume) fn tick(v: &mut Volume, now: Instant) {
    closed_windows(v, now);
    cleared_parts(v, now);
    late_parts(v, now);
    late_stragglers(v, now);
    for index in 0..v.links.len() {
        let link = &v.links[index];
        if link.overdue > u32::from(v.spec.tunables.queue_depth) / 2 {
            let why = format!(
                "{} commands are past their deadline, more than half of what the session takes ({})",
                link.overdue,
                link::where_(link)
            );
            link::fail(v, now, v.links[index].index, &why);
        }
    }
}

/// How long a command may stay without progress on this path.
fn limit(v: &Volume, verb: PartVerb, path: PathIndex) -> Duration {
    let class = match verb {
        PartVerb::Read | PartVerb::Write | PartVerb::WriteZeros => CommandClass::Transfer,
        PartVerb::WriteSame { .. } | PartVerb::Unmap | PartVerb::Sync | PartVerb::LbaStatus => {
            CommandClass::Long
        }
    };
    let tunables = &v.spec.tunables;
    let last = v.engine.is_last(path);
    command_timeout(class, last, tunables.command_timeout, tunables.last_path_command_timeout)
}

/// Since when a command has not moved: data or an R2T came for it, or the socket took some of what it has to
/// send.
fn idle_since(v: &Volume, path: PathIndex, tag: TaskTag, started: Instant) -> Instant {
    let link = &v.links[path.get()];
    let Some(session) = link.session_ref() else { return started };
    let moved = session.last_progress(tag).unwrap_or(started).max(started);
    if session.awaits_socket(tag) { moved.max(link.taken_at) } else { moved }
}

/// Commands that a reset or another host has ended without a word (TAS=0): the unit attention told of it, and
/// nothing has moved since. ABORT TASK finds them gone, or ends them; the path is sound.
fn cleared_parts(v: &mut Volume, now: Instant) {
    if v.links.iter().all(|link| link.cleared_at.is_none_or(|at| now < at + CLEARED_GRACE)) {
        return;
    }
    let mut gone = std::mem::take(&mut v.scratch);
    gone.extend(v.parts.iter().filter_map(|(id, part)| {
        let flight = part.flight?;
        let at = v.links[flight.path.get()].cleared_at.filter(|at| now >= *at + CLEARED_GRACE)?;
        let moved = idle_since(v, flight.path, flight.tag, flight.started);
        (moved < at).then_some((flight.started, id))
    }));
    for link in
        v.links.iter_mut().filter(|l| l.cleared_at.is_some_and(|at| now >= at + CLEARED_GRACE))
    {
        link.cleared_at = None;
    }
    gone.sort_unstable_by_key(|(started, id)| (*started, id.slot()));
    while let Some((_, id)) = gone.pop() {
        // Its session may just have been given up.
        let flight = v.parts.get_mut(id).and_then(|part| part.flight.as_mut());
        let Some(flight) = flight else { continue };
        // The attention says it: a target that does not know it any more will not execute it.
        flight.reset = true;
        abandon::abandon(v, now, id);
    }
    v.scratch = gone;
}

fn late_parts(v: &mut Volume, now: Instant) {
    let mut late = std::mem::take(&mut v.scratch);
    let mut slow: Option<(PathIndex, Duration)> = None;
    for (id, part) in v.parts.iter() {
        let Some(flight) = part.flight else { continue };
        let since = idle_since(v, flight.path, flight.tag, flight.started);
        let idle = now - since.max(v.engine.stalled_until());
        if now - since >= limit(v, part.verb, flight.path) {
            late.push((flight.started, id));
        } else if !flight.accused
            && part.verb.op() != Op::Other
            && v.engine.active().contains(flight.path)
            && idle > patience(v, flight.path, part.verb.op()) * ALONE_FACTOR
        {
            slow = Some((flight.path, idle));
        }
    }
    late.sort_unstable_by_key(|(started, id)| (*started, id.slot()));
    while let Some((started, id)) = late.pop() {
        give_up(v, now, id, started);
    }
    v.scratch = late;
    if let Some((path, idle)) = slow {
        let why = format!(
            "a command has not moved for {:.3} s while others do ({})",
            idle.as_secs_f64(),
            link::where_(&v.links[path.get()])
        );
        suspect(v, now, path, &why);
    }
}

/// A part past its deadline.
fn give_up(v: &mut Volume, now: Instant, id: PartId, started: Instant) {
    let Some(part) = v.parts.get(id) else { return };
    let Some(flight) = part.flight else { return };
    let flushes = part.verb == PartVerb::Sync;
    v.links[flight.path.get()].flush_late |= flushes;
    let why = format!(
        "a command has had no answer for {:.1} s although the connection is up: the unit behind this path hangs; \
         its commands are repeated elsewhere ({})",
        (now - started).as_secs_f64(),
        link::where_(&v.links[flight.path.get()])
    );
    if v.engine.state(flight.path) == State::Suspect {
        v.engine.set_reason(flight.path, &why);
    }
    suspect(v, now, flight.path, &why);
    // A read may have been moved just now.
    if v.parts.get(id).is_some_and(|part| part.flight.is_some()) {
        abandon::abandon(v, now, id);
    }
}

/// What was left behind may stay as long as a command may, then ABORT TASK frees its place.
fn late_stragglers(v: &mut Volume, now: Instant) {
    if v.stragglers.is_empty() {
        return;
    }
    let mut late = std::mem::take(&mut v.scratch);
    late.extend(v.stragglers.iter().filter_map(|(key, s)| {
        let idle = now - idle_since(v, s.path, s.tag, s.started);
        let is_late = now >= s.abort_again && idle >= limit(v, s.verb, s.path);
        is_late.then_some((s.started, key))
    }));
    while let Some((_, key)) = late.pop() {
        abandon::abort(v, now, key);
    }
    v.scratch = late;
}

/// Paths that take no command although they owe no answer: nothing there is ever late. It matters where
/// commands wait for a path, and on a suspect one, which could not be asked whether it answers again.
fn closed_windows(v: &mut Volume, now: Instant) {
    for index in 0..v.links.len() {
        let path = v.links[index].index;
        if v.ready.is_empty() && !v.engine.suspects().contains(path) {
            continue;
        }
        let tunables = &v.spec.tunables;
        let limit = match v.engine.is_last(path) {
            true => tunables.last_path_command_timeout,
            false => tunables.command_timeout,
        };
        let closed = v.links[index].closed_for(now);
        if !closed.is_zero() && closed >= limit {
            let why = format!(
                "the target's command window has been closed for {:.1} s with nothing outstanding",
                closed.as_secs_f64()
            );
            link::fail(v, now, path, &why);
        }
    }
}
