//! Asymmetric access: what the storage says about each path, when it is asked, and what follows.
//!
//! ```text
//!  INQUIRY, VPD 83h ─► identified ─► ask ─► heard ─┬─ serves ─► probing goes on, or begins anew
//!                        (TPGS)       ▲            ├─ standby, unavailable ─► State::Standby
//!  2A/06, 2A/07, 04/0A..0C, time ─────┘            └─ transitioning ─► the same, for a time
//! ```
//! A question is TEST UNIT READY (for a path that stands by) and REPORT TARGET PORT GROUPS, on the path
//! itself: it does not disturb what the path carries, and what is in flight stays where it is. A path that
//! stands by keeps its session; when the storage serves it again its identity is read anew before it carries
//! I/O.
//!
//! Deliberately not here: what an answer means (`path::access`), the order among paths that serve (path
//! engine), SET TARGET PORT GROUPS (`explicit`).

use crate::base::{Duration, Instant};
use crate::path::verdict::{Actions, Outcome, Verdict};
use crate::path::{PathIndex, PathSet, Port, Reading, Service, State};
use crate::session::{Command, Completion, Direction, TaskTag};
use crate::volume::link::{self, Link, Phase, where_};
use crate::volume::probe::{AskAccess, Facts, HeardAccess, Step};
use crate::volume::{Level, Volume, complete, explicit, flush, health, probing};
use crate::wire::scsi::{PortGroup, Sense};

/// Token of a question; no part has it.
pub(in crate::volume) const ACCESS: u64 = u64::MAX - 5;

/// How often a path is asked that is about to change, or contradicts itself; doubles up to `check_interval`
/// for the latter.
const SOON: Duration = Duration::from_millis(100);
/// A question that finds the window closed waits this long.
const WINDOW_WAIT: Duration = Duration::from_millis(20);
/// A path that carries nothing and has not answered for so long is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a link knows of its asymmetric access.
pub(in crate::volume) struct Standing {
    /// The path has told what it has, in this session or an earlier one.
    pub(in crate::volume) known: bool,
    /// Its port, where it has ALUA.
    port: Option<Port>,
    /// All groups as the path has last told them, in this session or an earlier one.
    listed: Vec<PortGroup>,
    /// SET TARGET PORT GROUPS is understood; with `implicit` the storage acts by itself too.
    pub(in crate::volume) explicit: bool,
    pub(in crate::volume) implicit: bool,
    /// Implicit transition time as told.
    transition: Option<Duration>,
    question: Option<Question>,
    /// Something changed while a question was out: ask again.
    again: bool,
    /// When the next question is due.
    ask_at: Instant,
    asked_at: Instant,
    /// Since when the storage says that the state is about to change.
    changing_since: Option<Instant>,
    /// Waits after the next contradiction.
    patience: Duration,
    /// What was last told to be wrong with the answers.
    doubt: Option<String>,
    /// SET TARGET PORT GROUPS for this path failed: not before this.
    pub(in crate::volume) not_before: Instant,
}

struct Question {
    ask: AskAccess,
    /// The command that is out.
    tag: Option<TaskTag>,
    resume: Instant,
    since: Instant,
}

impl Default for Standing {
    fn default() -> Standing {
        Standing {
            known: false,
            port: None,
            listed: Vec::new(),
            explicit: false,
            implicit: false,
            transition: None,
            question: None,
            again: false,
            ask_at: Instant::MAX,
            asked_at: Instant::ZERO,
            changing_since: None,
            patience: SOON,
            doubt: None,
            not_before: Instant::ZERO,
        }
    }
}

impl Standing {
    /// The question's command that is out.
    pub(in crate::volume) fn tag(&self) -> Option<TaskTag> {
        self.question.as_ref().and_then(|question| question.tag)
    }

    /// A session ends: what was asked on it has no answer.
    pub(in crate::volume) fn session_ended(&mut self) {
        self.question = None;
        self.again = false;
        self.ask_at = Instant::MAX;
    }

    /// A question is out.
    pub(in crate::volume) fn is_asked(&self) -> bool {
        self.question.is_some()
    }

    /// Whether the storage has told over this path that the port of the `other` one leads to the unit too. Where it
    /// has cut the ports of a group off (LIO does that to the last one), the group is enough.
    pub(in crate::volume) fn vouches_for(&self, other: &Standing) -> bool {
        let Some(Port { group, relative: Some(relative) }) = other.port else { return false };
        let names = |g: &PortGroup| g.ports.contains(&relative) || g.ports_cut;
        self.listed.iter().any(|g| g.group == group && names(g))
    }

    /// The states were last read in a question that began then.
    pub(in crate::volume) fn asked_at(&self) -> Instant {
        self.asked_at
    }
}

/// The unit behind a path has said whether it has asymmetric access. Returns whether it is asked for it now:
/// [`probing::access_known`] follows.
pub(in crate::volume) fn identified(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    facts: Facts,
) -> bool {
    let port = facts.port.group.map(|group| Port { group, relative: facts.port.relative });
    let standing = &mut v.links[path.get()].alua;
    standing.port = port.filter(|_| facts.tpgs != 0);
    (standing.implicit, standing.explicit) = (facts.tpgs & 1 != 0, facts.tpgs & 2 != 0);
    v.explicit.possible |= standing.explicit;
    if standing.port.is_some() {
        start(v, now, path);
        return true;
    }
    standing.known = true;
    v.engine.set_access(now, path, None);
    if facts.tpgs != 0 {
        let why = "the unit has asymmetric access (TPGS), but page 83h tells no target port group for this port: \
                   access states are not looked at on this path";
        doubt(v, now, path, Some(why.to_owned()));
    }
    false
}

/// The path has no asymmetric access, or none that can be asked for.
pub(in crate::volume) fn without(v: &mut Volume, now: Instant, path: PathIndex) {
    conclude(v, now, path, None, None);
}

/// Tells once what is wrong with what the storage says.
fn doubt(v: &mut Volume, now: Instant, path: PathIndex, why: Option<String>) {
    let standing = &mut v.links[path.get()].alua;
    if standing.doubt == why {
        return;
    }
    standing.doubt.clone_from(&why);
    if let Some(why) = why {
        v.notice(now, Level::Warn, Some(path), "access state", &why);
    }
}

// Asking.

/// Something about access has changed: all paths are asked at once.
pub(in crate::volume) fn ask_all(v: &mut Volume, now: Instant) {
    for index in 0..v.links.len() {
        let path = v.links[index].index;
        ask(v, now, path);
    }
}

/// A path in service, or one that stands by, is asked now.
fn ask(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &mut v.links[path.get()];
    if link.alua.question.is_some() {
        link.alua.again = true;
    } else if matches!(link.phase, Phase::Up) && has_to_ask(v, path) {
        start(v, now, path);
    }
}

fn has_to_ask(v: &Volume, path: PathIndex) -> bool {
    let link = &v.links[path.get()];
    let state = v.engine.state(path);
    let stands_by = state == State::Standby;
    let leaving = v.leaving.contains(path) || v.draining.is_some();
    // A suspect path is asked by what it owes.
    !leaving && state != State::Suspect && (link.alua.port.is_some() || stands_by)
}

fn start(v: &mut Volume, now: Instant, path: PathIndex) {
    let ready = v.engine.state(path) == State::Standby;
    let link = &mut v.links[path.get()];
    let groups = link.alua.port.is_some();
    link.alua.again = false;
    link.alua.asked_at = now;
    link.alua.ask_at = Instant::MAX;
    let ask = AskAccess::new(link.spec.lun, ready, groups);
    link.alua.question = Some(Question { ask, tag: None, resume: Instant::MAX, since: now });
    step(v, now, path);
}

fn step(v: &mut Volume, now: Instant, path: PathIndex) {
    let Link { alua, session, check, .. } = &mut v.links[path.get()];
    let Some(question) = alua.question.as_mut() else { return };
    let session = session.as_mut().expect("a question needs a session");
    if session.room() == 0 {
        question.resume = now + WINDOW_WAIT;
        return;
    }
    match question.ask.next() {
        Step::Command { lun, cdb, read_len } => {
            let data =
                if read_len > 0 { Direction::Read { len: read_len } } else { Direction::None };
            question.tag = session.submit(now, Command { token: ACCESS, lun, cdb, data }).ok();
            assert!(question.tag.is_some(), "a session with room takes a command");
            check.discount();
            v.mark_link(path);
        }
        Step::Wait(time) => {
            question.resume = now + time;
            question.since = now + time;
        }
        Step::Ready(heard) => {
            alua.question = None;
            self::heard(v, now, path, heard);
        }
        Step::Failed(error) => {
            alua.question = None;
            unreadable(v, now, path, &format!("the access state cannot be read: {error}"));
        }
    }
}

/// No answer that makes sense: a path that serves goes on without, one that does not begins anew.
fn unreadable(v: &mut Volume, now: Instant, path: PathIndex, why: &str) {
    let serves = probing::not_served(v, path).is_none();
    match v.engine.state(path) {
        State::Active | State::Suspect => {
            doubt(v, now, path, Some(why.to_owned()));
            v.links[path.get()].alua.ask_at = now + v.spec.tunables.check_interval;
        }
        State::Probing if serves => {
            doubt(v, now, path, Some(why.to_owned()));
            conclude(v, now, path, None, None);
        }
        _ => {
            let why = format!("{why} ({})", where_(&v.links[path.get()]));
            link::fail(v, now, path, &why);
        }
    }
}

/// The answer to a question's command.
pub(in crate::volume) fn answered(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    tag: TaskTag,
    completion: Completion,
) {
    let Some(question) = v.links[path.get()].alua.question.as_mut() else { return };
    if question.tag != Some(tag) {
        return;
    }
    question.tag = None;
    question.since = now;
    let Completion { response, status, sense, data, .. } = completion;
    let outcome = Outcome::new(response, status, sense.as_deref(), false);
    question.ask.handle(&outcome, &data.to_vec());
    step(v, now, path);
}

/// The question's command was ended by task management, or its session has ended.
pub(in crate::volume) fn interrupted(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &mut v.links[path.get()];
    if link.alua.question.take().is_none() {
        return;
    }
    match link.phase {
        Phase::Probing(_) => start(v, now, path),
        Phase::Up => link.alua.ask_at = now + SOON,
        _ => {}
    }
}

// What follows.

fn heard(v: &mut Volume, now: Instant, path: PathIndex, heard: HeardAccess) {
    let again = std::mem::take(&mut v.links[path.get()].alua.again);
    let HeardAccess { not_served, groups, cut, actions, attention } = heard;
    let listed = groups.as_ref().map(|groups| groups.groups.clone());
    if let Some(listed) = listed {
        v.links[path.get()].alua.listed = listed;
    }
    let reading = match (v.links[path.get()].alua.port, groups) {
        (Some(port), Some(groups)) => Some(Reading::of(port, &groups)),
        (Some(_), None) if not_served.is_none() => {
            let why = "the unit has asymmetric access (TPGS), but refuses REPORT TARGET PORT GROUPS: access \
                       states are not looked at on this path";
            doubt(v, now, path, Some(why.to_owned()));
            None
        }
        _ => None,
    };
    if let Some(reading) = &reading {
        let short =
            "the answer to REPORT TARGET PORT GROUPS is shorter than it says; what came is used";
        let why = reading.doubt.clone().or_else(|| cut.then(|| short.to_owned()));
        doubt(v, now, path, why);
    }
    if let Some(attention) = attention {
        // It may have come with the question and belong to more than access.
        let others = actions.without(Actions::RTPG);
        complete::act(v, now, path, Verdict::RetryHere, others, &attention);
    }
    conclude(v, now, path, reading, not_served);
    if again {
        ask(v, now, path);
    }
}

/// Acts upon what was heard: `reading` of the groups, and what TEST UNIT READY said against it.
fn conclude(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    reading: Option<Reading>,
    not_served: Option<Sense>,
) {
    let interval = v.spec.tunables.check_interval;
    let access = reading.as_ref().map(|reading| reading.access);
    let standing = &mut v.links[path.get()].alua;
    standing.known = true;
    standing.transition = reading.and_then(|reading| reading.transition);
    v.engine.set_access(now, path, access);
    let not_served = not_served.or_else(|| probing::not_served(v, path));
    let service = access.map_or(Service::Serves, |access| access.service());
    let changes = service == Service::Changes
        || access.is_none() && not_served.is_some_and(|sense| is_transition(&sense));
    let standing = &mut v.links[path.get()].alua;
    if !changes {
        standing.changing_since = None;
    }
    match (service, not_served) {
        _ if changes => changing(v, now, path),
        (Service::Serves, None) => {
            standing.patience = SOON;
            standing.ask_at = now + interval;
            serves(v, now, path);
        }
        (Service::Serves, Some(sense)) => {
            standing.ask_at = now + standing.patience.min(interval);
            standing.patience = (standing.patience * 2).min(interval);
            let why = match access {
                Some(access) => format!(
                    "the storage says {}, but the target does not serve the unit over this path: {sense}",
                    access.state
                ),
                None => format!("the target does not serve the unit over this path now: {sense}"),
            };
            stand_by(v, now, path, &why);
        }
        (Service::StandsBy | Service::Changes, _) => {
            standing.patience = SOON;
            standing.ask_at = now + interval;
            let state = access.expect("only access stands by").state;
            let why = format!("the storage says: {state}");
            stand_by(v, now, path, &why);
        }
    }
    explicit::consider(v, now);
}

fn is_transition(sense: &Sense) -> bool {
    (sense.asc, sense.ascq) == (0x04, 0x0a)
}

/// The storage serves the path.
fn serves(v: &mut Volume, now: Instant, path: PathIndex) {
    if matches!(v.links[path.get()].phase, Phase::Probing(_)) {
        probing::access_known(v, now, path);
    } else if v.engine.state(path) == State::Standby {
        v.engine.transition(now, path, State::Probing, "the storage serves it again");
        probing::begin(v, now, path);
    }
}

/// The storage is about to change the state: not used, and asked again soon, for as long as it may take.
fn changing(v: &mut Volume, now: Instant, path: PathIndex) {
    let limit = v.spec.tunables.alua_transition_timeout;
    let standing = &mut v.links[path.get()].alua;
    let limit = standing.transition.unwrap_or(limit);
    let since = *standing.changing_since.get_or_insert(now);
    standing.ask_at = now + SOON;
    if now - since < limit {
        let why = format!(
            "the storage is changing its access state (transitioning), for at most {limit:?}"
        );
        stand_by(v, now, path, &why);
        return;
    }
    // A new session begins to wait anew.
    standing.changing_since = None;
    let why = format!(
        "the storage has been changing the access state of this path for {limit:?} and has not come to an end \
         ({}); try: look at the storage",
        where_(&v.links[path.get()])
    );
    link::fail(v, now, path, &why);
}

/// The path is not used until the storage serves it. What is in flight there stays.
pub(in crate::volume) fn stand_by(v: &mut Volume, now: Instant, path: PathIndex, why: &str) {
    match v.engine.state(path) {
        State::Standby => v.engine.set_reason(path, why),
        State::Probing | State::Active | State::Suspect => {
            v.engine.transition(now, path, State::Standby, why);
            v.notice(now, Level::Info, Some(path), State::Standby.name(), why);
            let link = &mut v.links[path.get()];
            link.rechecking = false;
            if matches!(link.phase, Phase::Probing(_)) {
                link.phase = Phase::Up;
                flush::session_up(v, path);
            }
        }
        State::Connecting | State::Failed | State::Disabled | State::Mismatched => {}
    }
}

/// A command was refused because the storage does not serve the path now (02/04/0A, 0B, 0C).
pub(in crate::volume) fn refused(v: &mut Volume, now: Instant, path: PathIndex, outcome: &Outcome) {
    if v.engine.state(path).carries_io() {
        let why = format!("not usable now: the target answered {outcome}");
        stand_by(v, now, path, &why);
    }
    ask_all(v, now);
}

// Time.

/// Paths that stand by while nothing is usable are asked all the time.
fn urgent(v: &Volume) -> PathSet {
    if !v.engine.usable().is_empty() || v.draining.is_some() {
        return PathSet::EMPTY;
    }
    let standby = v.links.iter().map(|link| link.index);
    standby.filter(|path| v.engine.state(*path) == State::Standby).collect()
}

fn due(v: &Volume, path: PathIndex, urgent: PathSet) -> Instant {
    let link = &v.links[path.get()];
    if let Some(question) = &link.alua.question {
        let patience = match v.engine.state(path) {
            _ if question.tag.is_none() => Duration::MAX,
            // Its commands show whether it answers, and what is asked of suspects.
            State::Active if link.debts.any() => Duration::MAX,
            State::Suspect => Duration::MAX,
            State::Active => v.spec.tunables.command_timeout,
            _ => ANSWER_TIMEOUT,
        };
        return question.resume.min(question.since + patience);
    }
    if !matches!(link.phase, Phase::Up) || !has_to_ask(v, path) {
        return Instant::MAX;
    }
    let since = v.engine.down_since().filter(|_| urgent.contains(path));
    match since {
        Some(since) => link.alua.ask_at.min(since.max(link.alua.asked_at + SOON)),
        None => link.alua.ask_at,
    }
}

/// When [`timeouts`] has something to do.
pub(in crate::volume) fn deadline(v: &Volume) -> Instant {
    let urgent = urgent(v);
    let own = v.links.iter().map(|link| due(v, link.index, urgent)).min();
    own.unwrap_or(Instant::MAX).min(explicit::deadline(v))
}

/// Asks the paths whose time has come.
pub(in crate::volume) fn timeouts(v: &mut Volume, now: Instant) {
    let urgent = urgent(v);
    for index in 0..v.links.len() {
        let path = v.links[index].index;
        if due(v, path, urgent) > now {
            continue;
        }
        match &mut v.links[index].alua.question {
            None => start(v, now, path),
            Some(question) if question.resume <= now => {
                question.resume = Instant::MAX;
                step(v, now, path);
            }
            Some(question) => {
                let waited = now - question.since;
                unanswered(v, now, path, waited);
            }
        }
    }
    explicit::timeouts(v, now);
}

/// A path without commands has not answered its question. (One that has some is judged by those.)
fn unanswered(v: &mut Volume, now: Instant, path: PathIndex, waited: Duration) {
    let why = format!(
        "the unit has not answered what its access state is for {:.1} s although the connection is up ({})",
        waited.as_secs_f64(),
        where_(&v.links[path.get()])
    );
    if v.engine.state(path) != State::Active {
        link::fail(v, now, path, &why);
        return;
    }
    health::suspect(v, now, path, &why);
    let tag = v.links[path.get()].alua.tag();
    if let (Some(tag), Some(session)) = (tag, v.links[path.get()].session()) {
        session.abort(now, tag);
        v.mark_link(path);
    }
}
