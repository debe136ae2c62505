//! A link that reads what its unit is, before it carries I/O and whenever that is in question.

use crate::base::{Duration, Instant};
use crate::path::identity::LogicalUnit;
use crate::path::verdict::{Actions, CommandKind, Context, Outcome, verdict};
use crate::path::{PathIndex, PathSet, State};
use crate::session::{Command, Completion, Direction, TaskTag};
use crate::volume::link::{self, Link, PROBE, Phase, Retry, Then, where_};
use crate::volume::probe::{self, Facts, Probe};
use crate::volume::{
    Action, Level, Volume, alua, clients, content, flush, health, rediscovery, transfer,
};
use crate::wire::scsi::Sense;
use std::sync::Arc;

/// A unit that was not the device's is looked at again this often.
const MISMATCH_RETRY: Duration = Duration::from_secs(30);
/// A probe that finds the window closed asks again after this.
const WINDOW_WAIT: Duration = Duration::from_millis(20);
/// A question that has no answer for so long ends the session: the command is lost, or the unit hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What is being asked.
pub(in crate::volume) enum Asking {
    /// What the unit is.
    Unit(Box<Probe>),
    /// How the storage serves it; the unit, as far as it could be read, and why not all of it.
    Access { found: Option<Box<LogicalUnit>>, not_served: Option<Sense> },
    /// Whether it shows what the other paths show.
    Content(Box<content::Comparing>),
}

/// A probe on its way.
pub(in crate::volume) struct Probing {
    asking: Asking,
    /// Ask at this time.
    resume: Option<Instant>,
    /// The command that is out.
    asked: Option<TaskTag>,
    /// When the last answer came, or the wait that the probe wanted is over.
    progress: Instant,
    /// What was read came into question again meanwhile.
    again: bool,
}

impl Probing {
    /// The command that is out.
    pub(in crate::volume) fn asked(&self) -> Option<TaskTag> {
        self.asked
    }

    /// The comparison of content, once it has come to that.
    pub(in crate::volume) fn comparing(&mut self) -> Option<&mut content::Comparing> {
        match &mut self.asking {
            Asking::Content(comparing) => Some(comparing),
            Asking::Unit(_) | Asking::Access { .. } => None,
        }
    }

    pub(in crate::volume) fn deadline(&self) -> Instant {
        self.resume.unwrap_or(Instant::MAX).min(self.progress + ANSWER_TIMEOUT)
    }
}

/// Reads identity, capacity and readiness; the path carries I/O only after that.
pub(in crate::volume) fn begin(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &mut v.links[path.get()];
    let asking = Asking::Unit(Box::new(Probe::new(link.spec.lun)));
    let probing = Probing { asking, resume: None, asked: None, progress: now, again: false };
    link.phase = Phase::Probing(Box::new(probing));
    step(v, now, path);
}

/// Identity is questioned on a path in service: no command leaves on it before it has been read again.
pub(in crate::volume) fn recheck(v: &mut Volume, now: Instant, path: PathIndex, why: &str) {
    let link = &mut v.links[path.get()];
    match &mut link.phase {
        Phase::Up if v.engine.state(path).carries_io() => {
            link.rechecking = true;
            v.engine.transition(now, path, State::Probing, why);
            begin(v, now, path);
        }
        Phase::Probing(probing) => probing.again = true,
        _ => {}
    }
}

/// The probe's time has come.
pub(in crate::volume) fn timeout(v: &mut Volume, now: Instant, path: PathIndex) {
    let Phase::Probing(probing) = &mut v.links[path.get()].phase else { return };
    if probing.progress + ANSWER_TIMEOUT <= now {
        let why = format!(
            "the unit has not said what it is for {} s although the connection is up ({})",
            ANSWER_TIMEOUT.as_secs(),
            where_(&v.links[path.get()])
        );
        link::fail(v, now, path, &why);
    } else if probing.resume.is_some_and(|at| at <= now) {
        probing.resume = None;
        // A write that changed the unit's content may have asked for it while a command is out: then it goes
        // on with the answer.
        if probing.asked.is_none() {
            step(v, now, path);
        }
    }
}

/// The answer to the probe's command.
pub(in crate::volume) fn answered(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    tag: TaskTag,
    completion: Completion,
) {
    let Phase::Probing(probing) = &mut v.links[path.get()].phase else { return };
    if probing.asked != Some(tag) {
        return;
    }
    probing.asked = None;
    probing.progress = now;
    if probing.again {
        begin(v, now, path);
        return;
    }
    let Asking::Unit(probe) = &mut probing.asking else {
        if questions_access(&completion) {
            begin(v, now, path);
        } else {
            content::answered(v, now, path, completion);
        }
        return;
    };
    let Completion { response, status, sense, data, .. } = completion;
    // A short answer is normal for a probe; the parsers look at the length.
    let outcome = Outcome::new(response, status, sense.as_deref(), false);
    probe.handle(&outcome, &data.to_vec());
    step(v, now, path);
}

/// Whether a read of its content was answered with news about the path's access.
fn questions_access(completion: &Completion) -> bool {
    let Completion { response, status, sense, .. } = completion;
    let outcome = Outcome::new(*response, *status, sense.as_deref(), false);
    let decision = verdict(&outcome, Context::first(CommandKind::Read, true));
    decision.actions.contains(Actions::RTPG)
}

/// The probe's command was ended by task management: from the beginning. (Of a session that ends, nothing
/// more is asked: it has no room.)
pub(in crate::volume) fn interrupted(v: &mut Volume, now: Instant, path: PathIndex) {
    if matches!(v.links[path.get()].phase, Phase::Probing(_)) {
        begin(v, now, path);
    }
}

fn step(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &mut v.links[path.get()];
    let Link { phase: Phase::Probing(probing), session, .. } = link else { return };
    let session = session.as_mut().expect("probing needs a session");
    assert!(probing.asked.is_none(), "one question at a time");
    if session.room() == 0 {
        // The window is closed (the path's own commands may still fill it): ask again shortly.
        probing.resume = Some(now + WINDOW_WAIT);
        return;
    }
    let probe = match &mut probing.asking {
        Asking::Unit(probe) => probe,
        Asking::Content(_) => return content::step(v, now, path),
        // The question has its own way.
        Asking::Access { .. } => return,
    };
    match probe.next() {
        probe::Step::Command { lun, cdb, read_len } => {
            let data =
                if read_len > 0 { Direction::Read { len: read_len } } else { Direction::None };
            ask(v, now, path, Command { token: PROBE, lun, cdb, data });
        }
        probe::Step::Wait(time) => {
            probing.resume = Some(now + time);
            probing.progress = now + time;
        }
        probe::Step::Ready(unit) => {
            let found = probe.attentions();
            let not_served = probe.not_served();
            let facts = Facts { tpgs: unit.tpgs(), port: unit.port() };
            let relogin = !link.rechecking;
            if found.contains(Actions::EARLIER_LOST) {
                v.shared.set_earlier_lost();
            }
            if found.contains(Actions::CACHE_LOST) {
                flush::cache_lost(v, now, path, relogin);
            }
            if found.contains(Actions::REDISCOVER) {
                rediscovery::wanted(v, now);
            }
            ask_access(v, now, path, facts, Some(unit), not_served);
        }
        probe::Step::Failed(probe::ProbeError::Standby(sense)) if probe.facts().is_some() => {
            let facts = probe.facts().expect("just seen");
            ask_access(v, now, path, facts, None, Some(sense));
        }
        probe::Step::Failed(error) => {
            // The number in the address of a single-level LUN, as administrators write it.
            let lun = link.spec.lun >> 48 & 0x3fff;
            let why = format!("{error} ({}, LUN {lun})", where_(link));
            let wrong = matches!(error, probe::ProbeError::NoLun(_));
            let retry = match error {
                probe::ProbeError::Unusable(_) | probe::ProbeError::CapacityTooLarge => Retry::Slow,
                _ => Retry::Backoff,
            };
            link::end(v, now, path, &why, retry);
            v.links[path.get()].misconfigured |= wrong;
        }
    }
}

/// What the unit is has been read as far as possible: how is it served over this path?
fn ask_access(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    facts: Facts,
    found: Option<Box<LogicalUnit>>,
    not_served: Option<Sense>,
) {
    let Phase::Probing(probing) = &mut v.links[path.get()].phase else {
        unreachable!("a unit is known out of its probe");
    };
    probing.asking = Asking::Access { found, not_served };
    if !alua::identified(v, now, path, facts) {
        alua::without(v, now, path);
    }
}

/// What stood against serving the path when its unit was read.
pub(in crate::volume) fn not_served(v: &Volume, path: PathIndex) -> Option<Sense> {
    match &v.links[path.get()].phase {
        Phase::Probing(probing) => match &probing.asking {
            Asking::Access { not_served, .. } => *not_served,
            Asking::Unit(_) | Asking::Content(_) => None,
        },
        _ => None,
    }
}

/// The storage serves the path: it goes on to service.
pub(in crate::volume) fn access_known(v: &mut Volume, now: Instant, path: PathIndex) {
    let Phase::Probing(probing) = &mut v.links[path.get()].phase else { return };
    let Asking::Access { found, .. } = &mut probing.asking else { return };
    let found = found.take().expect("a unit that is served can be read");
    if probing.again {
        begin(v, now, path);
    } else {
        admit(v, now, path, *found);
    }
}

/// Sends the one command that is out over a path in question.
pub(in crate::volume) fn ask(v: &mut Volume, now: Instant, path: PathIndex, command: Command) {
    let Link { phase: Phase::Probing(probing), session, .. } = &mut v.links[path.get()] else {
        unreachable!("only a path that is probed is asked");
    };
    let session = session.as_mut().expect("probing needs a session");
    // Its answer goes on, not a time.
    probing.resume = None;
    match session.submit(now, command) {
        Ok(tag) => probing.asked = Some(tag),
        // The window closed with the last answer.
        Err(_) => probing.resume = Some(now + WINDOW_WAIT),
    }
    v.mark_link(path);
}

/// Goes on at this time, unless an answer is waited for.
pub(in crate::volume) fn wait(v: &mut Volume, path: PathIndex, at: Instant) {
    let Phase::Probing(probing) = &mut v.links[path.get()].phase else { return };
    if probing.asked.is_some() {
        return;
    }
    probing.resume = Some(at);
    probing.progress = at;
}

/// The unit behind the path is known: is it the device's?
fn admit(v: &mut Volume, now: Instant, path: PathIndex, found: LogicalUnit) {
    let wwid = found.wwid().unwrap_or("none").to_owned();
    let expected = v.spec.wwid.as_deref().filter(|expected| *expected != wwid);
    let wrong = expected.map(|expected| {
        format!("the unit's WWID is {wwid}, the configuration asks for {expected}")
    });
    // Write protection may change; with others in service it must be the same on all of them.
    let alone = v.engine.usable().is_empty();
    let adopt = std::mem::take(&mut v.links[path.get()].adopt_protection) || alone;
    let admitted = match wrong {
        Some(why) => Err(why),
        None => {
            let resized = may_be_resized(v, path, &found);
            v.shared.admit(path, &found, adopt, resized).map_err(|m| m.to_string())
        }
    };
    v.links[path.get()].rechecking = false;
    match admitted {
        Ok(unit) => {
            let Some(comparing) = content::needed(v, path, &found) else {
                in_service(v, now, path, found, unit);
                return;
            };
            let Phase::Probing(probing) = &mut v.links[path.get()].phase else {
                unreachable!("a path is admitted out of its probe");
            };
            probing.asking = Asking::Content(Box::new(comparing));
            step(v, now, path);
        }
        Err(why) => mismatch(v, now, path, &why),
    }
}

/// Whether another size than the device's is a change of size, and not another unit. On a session that was
/// in service it is. After a new login the paths in service have to show it too; where there are none, the
/// path has to have shown the unit before.
fn may_be_resized(v: &Volume, path: PathIndex, found: &LogicalUnit) -> bool {
    let link = &v.links[path.get()];
    let mut serving = v.engine.usable().minus(PathSet::only(path)).iter().peekable();
    if link.rechecking || serving.peek().is_none() {
        return link.unit.is_some();
    }
    let blocks = |path: PathIndex| v.links[path.get()].unit.as_ref().map(|unit| unit.blocks());
    serving.all(|other| blocks(other) == Some(found.blocks()))
}

/// It is another unit: never used, and looked at again after a while.
pub(in crate::volume) fn mismatch(v: &mut Volume, now: Instant, path: PathIndex, why: &str) {
    v.engine.transition(now, path, State::Mismatched, why);
    v.notice(now, Level::Error, Some(path), State::Mismatched.name(), why);
    v.links[path.get()].mismatched_until = Some(now + MISMATCH_RETRY);
    link::give_up(v, now, path, Then::Reconnect);
}

/// Its content is the device's.
pub(in crate::volume) fn compared(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    found: LogicalUnit,
) {
    let unit = v.shared.unit().expect("what was admitted is known");
    in_service(v, now, path, found, unit);
}

fn in_service(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    found: LogicalUnit,
    unit: Arc<LogicalUnit>,
) {
    let before = v.unit.replace(unit);
    v.unit_version = v.shared.unit_version();
    v.content_open = content::open(v);
    v.transfer_step = v.transfer_step.min(transfer::step(&found));
    let link = &mut v.links[path.get()];
    link.queues = found.queues_commands();
    link.unit = Some(Arc::new(found));
    link.phase = Phase::Up;
    let why = where_(link);
    flush::session_up(v, path);
    link::retune(v);
    v.engine.transition(now, path, State::Active, &why);
    v.notice(now, Level::Info, Some(path), "active", &why);
    health::back(v, now, path);
    match before {
        None => clients::answer_open(v, now),
        Some(before) => changed(v, now, path, &before),
    }
}

/// The unit may not be what it was: the administrator is told, and the other paths are asked as well.
fn changed(v: &mut Volume, now: Instant, path: PathIndex, before: &LogicalUnit) {
    let unit = v.unit.clone().expect("a path is in service");
    let differ = v.shared.sizes_differ();
    let mut why = Vec::new();
    if before.read_only() != unit.read_only() {
        let now_is = if unit.read_only() { "write protected" } else { "writable" };
        let text = format!("the unit is {now_is} now");
        v.notice(now, Level::Warn, Some(path), "write protection", &text);
        why.push("the unit's write protection has changed");
    }
    if before.blocks() != unit.blocks() {
        let text = format!(
            "the unit has {} bytes now, and had {}; new connections see it, old ones keep their size",
            unit.size_bytes(),
            before.size_bytes()
        );
        v.notice(now, Level::Warn, Some(path), "capacity", &text);
        why.push("the unit's size has changed");
        for link in &mut v.links {
            // What was another size may be the same one now.
            link.mismatched_until = link.mismatched_until.map(|_| now);
        }
    } else if differ && !std::mem::replace(&mut v.sizes_differ, true) {
        let text = format!(
            "the paths show different sizes; the device keeps {} bytes until they agree",
            unit.size_bytes()
        );
        v.notice(now, Level::Warn, Some(path), "capacity", &text);
        why.push("another path shows another size");
    }
    v.sizes_differ = differ;
    let Some(why) = why.first() else { return };
    for index in (0..v.links.len()).filter(|index| *index != path.get()) {
        let other = v.links[index].index;
        recheck(v, now, other, why);
    }
    for lane in (0..v.spec.lanes).filter(|lane| *lane != v.lane) {
        v.actions.push_back(Action::WakeLane(lane));
    }
}
