//! Whether the unit of an idle path answers: TEST UNIT READY every `check_interval`. A ping shows that the
//! target lives; a unit may hang behind it, or not be ready any more, without anybody noticing before the
//! path is needed.
//!
//! A path that carries commands is watched by them (health). The answer goes the way of any other: the
//! verdict says what it means for the path.

use crate::base::Instant;
use crate::path::PathIndex;
use crate::path::verdict::{self, CommandKind, Context, Decision, Outcome};
use crate::session::{Command, Completion, Direction, TaskTag};
use crate::volume::link::{self, CHECK, Phase};
use crate::volume::{Volume, complete, health, probing};
use crate::wire::scsi::{Cdb, SenseKey};

/// The check of one path.
pub(in crate::volume) struct Check {
    /// The next one.
    at: Instant,
    /// The question that is out, and when its answer is overdue.
    out: Option<(TaskTag, Instant)>,
    /// Commands that the session had sent at the last one.
    sent: u64,
}

impl Check {
    pub(in crate::volume) const NONE: Check = Check { at: Instant::MAX, out: None, sent: 0 };

    /// A question of ours was sent besides, which is no load.
    pub(in crate::volume) fn discount(&mut self) {
        self.sent += 1;
    }

    /// When [`timeout`] has something to do.
    pub(in crate::volume) fn deadline(&self) -> Instant {
        self.out.map_or(self.at, |(_, by)| by)
    }
}

/// The path is in service from now on.
pub(in crate::volume) fn begin(v: &mut Volume, now: Instant, path: PathIndex) {
    let interval = v.spec.tunables.check_interval;
    let link = &mut v.links[path.get()];
    link.check.at = now + interval;
    link.check.sent = link.session_ref().map_or(0, |session| session.statistics().commands);
}

/// Asks, or finds that nobody has answered.
pub(in crate::volume) fn timeout(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &mut v.links[path.get()];
    if !matches!(link.phase, Phase::Up) || now < link.check.deadline() {
        return;
    }
    let served = v.engine.state(path).carries_io() && !v.leaving.contains(path);
    if let Some((tag, by)) = &mut link.check.out {
        let tag = *tag;
        *by = Instant::MAX;
        unanswered(v, now, path, tag);
        return;
    }
    link.check.at = now + v.spec.tunables.check_interval;
    let lun = link.spec.lun;
    // What waits for room comes first, or slow answers to questions would keep it waiting for ever.
    let nothing_waits = v.ready.is_empty();
    let Some(session) = link.session.as_mut() else { return };
    let sent = session.statistics().commands;
    let idle = std::mem::replace(&mut link.check.sent, sent) == sent
        && session.in_flight() == 0
        && nothing_waits;
    if !served || !idle {
        return;
    }
    let cdb = Cdb::TestUnitReady.to_bytes();
    let command = Command { token: CHECK, lun, cdb, data: Direction::None };
    if let Ok(tag) = session.submit(now, command) {
        link.check.sent += 1;
        link.check.out = Some((tag, now + v.spec.tunables.command_timeout));
        v.mark_link(path);
    }
}

fn unanswered(v: &mut Volume, now: Instant, path: PathIndex, tag: TaskTag) {
    let why = format!(
        "TEST UNIT READY has had no answer for {:.1} s although the connection is up: the unit behind this path \
         hangs ({})",
        v.spec.tunables.command_timeout.as_secs_f64(),
        link::where_(&v.links[path.get()])
    );
    health::suspect(v, now, path, &why);
    if let Some(session) = v.links[path.get()].session() {
        session.abort(now, tag);
        v.mark_link(path);
    }
}

/// The unit has answered.
pub(in crate::volume) fn answered(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    completion: &Completion,
) {
    ended(v, path);
    let Completion { response, status, sense, .. } = completion;
    let outcome = Outcome::new(*response, *status, sense.as_deref(), false);
    if outcome == Outcome::GOOD || !matches!(v.links[path.get()].phase, Phase::Up) {
        return;
    }
    let context = Context::first(CommandKind::TestUnitReady, true);
    let Decision { verdict, actions, .. } = verdict::verdict(&outcome, context);
    complete::act(v, now, path, verdict, actions, &outcome);
    if outcome.sense.is_some_and(|sense| sense.triple().0 == SenseKey::NotReady) {
        // No command waits for it: it is asked apart from the paths in service until it is.
        probing::recheck(v, now, path, &format!("TEST UNIT READY was answered with {outcome}"));
    }
}

/// The question is out no more.
pub(in crate::volume) fn ended(v: &mut Volume, path: PathIndex) {
    v.links[path.get()].check.out = None;
}
