//! SET TARGET PORT GROUPS: asking the storage to serve another path, where it wants to be asked (TPGS 10b, 11b).
//!
//! Other hosts of the unit may want the opposite, and each change costs all of them: so it is asked for only
//! when it has to be, one at a time for all lanes of the device, and ever more seldom. It has to be
//!
//! * when no path is usable and one stands by;
//! * where only initiators change the states (TPGS 10b), also when every usable path is less than optimized.
//!
//! It is never sent while a LOGICAL UNIT RESET is out, nor repeated blindly: after any answer the states are
//! read again, and what they say decides.

use crate::base::{Duration, Instant, Payload};
use crate::path::verdict::Outcome;
use crate::path::{AccessState, PathIndex, State};
use crate::session::{Command, Completion, Direction};
use crate::volume::link::Phase;
use crate::volume::{Level, Volume, alua};
use crate::wire::scsi::{Cdb, SenseKey, port_groups};

/// Token of SET TARGET PORT GROUPS; no part has it.
pub(in crate::volume) const SET: u64 = u64::MAX - 6;

/// The least time between two changes: the first, then doubling up to the second.
const INTERVAL_MIN: Duration = Duration::from_secs(2);
/// See [`INTERVAL_MIN`]. After as long without a change it is the first again.
const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// How long everything has to be less than optimized before that is reason enough.
const SLOW_AFTER: Duration = Duration::from_secs(5);
/// Paths that may be about to come up are waited for this long after the start.
const START_WAIT: Duration = Duration::from_secs(5);
/// A group for which it has failed is not asked for again for this long.
const REFUSED_WAIT: Duration = Duration::from_secs(30);
/// A session whose window is closed is looked at again after this.
const WINDOW_WAIT: Duration = Duration::from_millis(20);
/// One that has no answer for so long is nobody's any more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What this lane knows of the need to ask.
#[derive(Debug, Default)]
pub(in crate::volume) struct Need {
    /// Some path's storage takes SET TARGET PORT GROUPS.
    pub(in crate::volume) possible: bool,
    /// Since when no usable path is optimized, where it does.
    slow_since: Option<Instant>,
}

/// The device's turn to change access states, over all lanes.
#[derive(Debug, Default)]
pub struct Turn {
    running: Option<Instant>,
    not_before: Instant,
    interval: Duration,
}

impl Turn {
    /// Takes the turn.
    fn begin(&mut self, now: Instant) -> bool {
        if self.ready_at() > now {
            return false;
        }
        if now - self.not_before >= INTERVAL_MAX {
            self.interval = Duration::ZERO;
        }
        self.running = Some(now);
        true
    }

    /// Gives it back; `done`: the storage has made the change.
    fn end(&mut self, now: Instant, done: bool) {
        self.running = None;
        if done {
            self.interval = (self.interval * 2).clamp(INTERVAL_MIN, INTERVAL_MAX);
            self.not_before = now + self.interval;
        }
    }

    fn ready_at(&self) -> Instant {
        self.running.map_or(self.not_before, |since| since + ANSWER_TIMEOUT)
    }
}

/// The path that the storage shall serve, and from when on.
fn wanted(v: &Volume) -> Option<(PathIndex, Instant)> {
    if v.draining.is_some() {
        return None;
    }
    if !v.explicit.possible || is_optimized(v) {
        return None;
    }
    let usable = v.engine.usable();
    let none = usable.is_empty();
    let since = v.engine.down_since().unwrap_or(Instant::ZERO);
    let may = |path: PathIndex| {
        let link = &v.links[path.get()];
        let state = v.engine.state(path);
        let better = state == State::Standby || state == State::Active && !none;
        let asks = link.alua.explicit && (none || !link.alua.implicit);
        let fresh = !link.alua.is_asked() && link.alua.asked_at() >= since;
        let steady = v.engine.access(path).is_some_and(|a| a.state != AccessState::Transitioning);
        better && asks && fresh && steady && matches!(link.phase, Phase::Up)
    };
    let rank = |path: &PathIndex| {
        let preferred = v.engine.access(*path).is_some_and(|a| a.preferred);
        (v.links[path.get()].alua.not_before, !preferred, *path)
    };
    let path = v.engine.paths().filter(|path| may(*path)).min_by_key(rank)?;
    let (since, from) = match (v.engine.down_since(), v.explicit.slow_since) {
        (Some(since), _) => (since, Instant::ZERO),
        (None, Some(since)) => (since, since + SLOW_AFTER),
        (None, None) => return None,
    };
    let coming = v.links.iter().filter_map(|link| comes(v, link.index, since)).max();
    let from = from.max(coming.unwrap_or(Instant::ZERO));
    Some((path, from.max(v.links[path.get()].alua.not_before)))
}

/// A usable path is served as well as can be.
fn is_optimized(v: &Volume) -> bool {
    let best = |path| v.engine.access(path).is_none_or(|a| a.state == AccessState::ActiveOptimized);
    v.engine.usable().iter().any(best)
}

/// Called every turn: notes since when no path is served as well as can be.
pub(in crate::volume) fn watch(v: &mut Volume, now: Instant) {
    if v.explicit.possible {
        let slow = !is_optimized(v);
        v.explicit.slow_since = v.explicit.slow_since.or(Some(now)).filter(|_| slow);
    }
}

/// Until when a path is waited for that may come into service by itself: one that is on its way up for the
/// first time, as the storage may serve it, or one that the storage serves and whose unit is being read.
fn comes(v: &Volume, path: PathIndex, needed_since: Instant) -> Option<Instant> {
    let link = &v.links[path.get()];
    let is_new = !link.alua.known && v.engine.failures(path) == 0 && link.has_socket();
    let optimized = v.engine.access(path).is_some_and(|a| a.state == AccessState::ActiveOptimized);
    match v.engine.state(path) {
        _ if is_new => Some(needed_since + START_WAIT),
        State::Probing if optimized => Some(v.engine.since(path) + START_WAIT),
        _ => None,
    }
}

/// Whether a reset is out, or about to be: the states must not change under it.
fn is_fencing(v: &Volume) -> bool {
    let own = |link: &crate::volume::link::Link| {
        link.reset.is_some() || matches!(link.phase, Phase::Fencing)
    };
    // The command has data of its own: none goes where another lane is about to reset.
    !v.hushed.is_empty() || v.links.iter().any(own)
}

/// When [`timeouts`] has something to do.
pub(in crate::volume) fn deadline(v: &Volume) -> Instant {
    // What ends a reset ends in an event.
    match wanted(v).filter(|_| !is_fencing(v)) {
        Some((_, from)) => from.max(v.shared.access_turn(|turn| turn.ready_at())),
        None => Instant::MAX,
    }
}

/// Asks if it is time.
pub(in crate::volume) fn timeouts(v: &mut Volume, now: Instant) {
    if deadline(v) <= now {
        consider(v, now);
    }
}

/// States were read: perhaps the storage has to be asked for others.
pub(in crate::volume) fn consider(v: &mut Volume, now: Instant) {
    let Some((path, _)) = wanted(v).filter(|(_, from)| *from <= now) else { return };
    let group = v.engine.access(path).expect("only a path with access is wanted").group;
    let link = &mut v.links[path.get()];
    if link.session_ref().is_none_or(|session| session.room() == 0) {
        link.alua.not_before = now + WINDOW_WAIT;
        return;
    }
    if is_fencing(v) || !v.shared.access_turn(|turn| turn.begin(now)) {
        return;
    }
    let list = port_groups::set_one(group, AccessState::ActiveOptimized);
    let cdb = Cdb::SetTargetPortGroups { list_len: list.len() as u32 };
    let link = &mut v.links[path.get()];
    let data = Direction::Write(Payload::from(list.to_vec()));
    let command = Command { token: SET, lun: link.spec.lun, cdb: cdb.to_bytes(), data };
    let session = link.session.as_mut().expect("it was just there");
    let sent = session.submit(now, command);
    assert!(sent.is_ok(), "a session with room takes a command");
    v.mark_link(path);
    let why = format!("no better path is left: the storage is asked to serve group {group}");
    v.notice(now, Level::Warn, Some(path), "access state", &why);
}

/// SET TARGET PORT GROUPS was answered, or (`None`) has ended without an answer.
pub(in crate::volume) fn answered(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    completion: Option<Completion>,
) {
    let outcome = completion.map(|completion| {
        let Completion { response, status, sense, .. } = completion;
        Outcome::new(response, status, sense.as_deref(), false)
    });
    let good = outcome == Some(Outcome::GOOD);
    v.shared.access_turn(|turn| turn.end(now, good));
    let link = &mut v.links[path.get()];
    match outcome {
        Some(_) if good => {}
        // It was not carried out: what the attention says comes with the states.
        Some(outcome) if outcome.sense.is_some_and(|s| s.key == SenseKey::UnitAttention) => {
            link.alua.not_before = now + Duration::from_millis(100);
        }
        Some(outcome) => {
            link.alua.not_before = now + REFUSED_WAIT;
            let why = format!(
                "the storage does not serve this path although it was asked to (SET TARGET PORT GROUPS): {outcome}"
            );
            v.notice(now, Level::Warn, Some(path), "access state", &why);
        }
        None => {}
    }
    alua::ask_all(v, now);
}
