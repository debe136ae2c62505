//! Whether acknowledged writes were lost with a volatile cache, as far as unit attentions tell.
//!
//! A path whose session finds 29/00 or 29/01 may have a target that was restarted, and what it acknowledged
//! since the last good flush is gone. Or it only says so on every new session, as `tgtd` does, and on all of
//! them after a LOGICAL UNIT RESET. So it counts only if every path with unflushed writes reports it, if no
//! session that lived through it goes on without one, and if no reset of ours caused it. Then the next FLUSH
//! fails, once.
//!
//! A *witness* is a session, on any path of the device, that stood before the event began and has not reported
//! it: the unit behind all of them is one, and a mirror that went on has what was acknowledged. Its next good
//! answer shows that nothing was lost; its own report confirms the loss.

use super::{PathIndex, PathSet};
use crate::base::Instant;

/// One session: lane and path.
pub type SessionId = (u16, PathIndex);

/// A session in service.
#[derive(Debug)]
struct Live {
    session: SessionId,
    login: Instant,
    /// When it last reported a loss.
    reported: Option<Instant>,
}

/// A path that reported a loss, and who may know better.
#[derive(Debug)]
struct Report {
    path: PathIndex,
    at: Instant,
    witnesses: Vec<SessionId>,
}

/// What the sessions of a device say about its caches.
#[derive(Debug, Default)]
pub struct CacheLoss {
    live: Vec<Live>,
    reports: Vec<Report>,
}

impl CacheLoss {
    /// A session is in service. Said again after each recheck.
    pub fn up(&mut self, session: SessionId, login: Instant) {
        match self.live.iter_mut().find(|live| live.session == session) {
            Some(live) if live.login == login => {}
            Some(live) => *live = Live { session, login, reported: None },
            None => self.live.push(Live { session, login, reported: None }),
        }
    }

    /// A session has ended: it can tell nothing any more.
    pub fn down(&mut self, session: SessionId) {
        self.live.retain(|live| live.session != session);
        self.forget_witness(session);
    }

    /// A session reports at `now` that its unit was powered on or reset, some time after `since`.
    /// `unflushed`: its path has something to lose.
    pub fn report(&mut self, now: Instant, session: SessionId, since: Instant, unflushed: bool) {
        self.forget_witness(session);
        for live in self.live.iter_mut().filter(|live| live.session == session) {
            live.reported = Some(now);
        }
        let (_, path) = session;
        if !unflushed || self.reports.iter().any(|report| report.path == path) {
            return;
        }
        let knows = |live: &&Live| {
            let silent = live.reported.is_none_or(|at| at < since);
            live.session != session && live.login <= since && silent
        };
        let witnesses = self.live.iter().filter(knows).map(|live| live.session).collect();
        self.reports.push(Report { path, at: now, witnesses });
    }

    /// A session has carried out a command that was sent at `started`, and had no attention to report
    /// before. One that was sent before the report says nothing: it may have ended before the event.
    pub fn answered(&mut self, session: SessionId, started: Instant) {
        self.reports.retain(|r| started < r.at || !r.witnesses.contains(&session));
    }

    /// The paths of this lane whose answer matters: a flush asks them.
    #[must_use]
    pub fn witnesses(&self, lane: u16) -> PathSet {
        let all = self.reports.iter().flat_map(|report| &report.witnesses);
        all.filter(|(on, _)| *on == lane).map(|(_, path)| *path).collect()
    }

    /// Whether an answer of any session matters.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.reports.iter().any(|report| !report.witnesses.is_empty())
    }

    /// A flush has reached every target: whether it has to fail, because what it should make stable may be
    /// lost. `unflushed` are the paths with writes that no earlier flush has covered.
    pub fn flushed(&mut self, unflushed: PathSet) -> bool {
        let reported: PathSet = self.reports.drain(..).map(|report| report.path).collect();
        !reported.is_empty() && unflushed.minus(reported).is_empty()
    }

    fn forget_witness(&mut self, session: SessionId) {
        for report in &mut self.reports {
            report.witnesses.retain(|witness| *witness != session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PathIndex = PathIndex::new(0);
    const B: PathIndex = PathIndex::new(1);
    const EARLY: Instant = Instant::from_millis(1_000);
    const EVENT: Instant = Instant::from_millis(2_000);
    const LATE: Instant = Instant::from_millis(3_000);
    const AFTER: Instant = Instant::from_millis(4_000);

    fn both() -> PathSet {
        [A, B].into_iter().collect()
    }

    fn two() -> CacheLoss {
        let mut c = CacheLoss::default();
        c.up((0, A), EARLY);
        c.up((0, B), EARLY);
        c
    }

    #[test]
    fn every_path_with_unflushed_writes_has_to_report_it() {
        let mut c = two();
        assert!(!c.flushed(both()) && !c.is_watching());
        c.report(EVENT, (0, A), EVENT, true);
        assert!(c.is_watching());
        assert!(!c.flushed(both()), "B has said nothing");
        assert!(!c.flushed(both()), "the report is used up");
        c.report(EVENT, (0, A), EVENT, true);
        c.report(EVENT, (0, B), EVENT, true);
        assert!(!c.is_watching());
        assert!(c.flushed(both()));
        assert!(!c.flushed(both()), "once");
        c.report(EVENT, (0, A), EVENT, true);
        assert!(c.flushed(PathSet::only(A)), "B has nothing to lose");
    }

    #[test]
    fn a_session_that_goes_on_without_one_knows_better() {
        let mut c = two();
        c.report(EVENT, (0, A), EVENT, true);
        c.answered((0, B), EARLY);
        assert!(c.is_watching(), "that was sent before");
        c.answered((0, B), EVENT);
        assert!(!c.flushed(PathSet::only(A)));
        // Both fall, one after the other: each has seen the other's.
        c.report(EVENT, (0, A), EVENT, true);
        c.answered((0, B), AFTER);
        c.down((0, A));
        c.up((0, A), EVENT);
        c.report(LATE, (0, B), LATE, true);
        c.answered((0, A), AFTER);
        assert!(!c.flushed(both()));
    }

    #[test]
    fn a_session_that_came_later_or_has_ended_knows_nothing() {
        let mut c = two();
        c.up((0, B), LATE);
        c.report(EVENT, (0, A), EVENT, true);
        c.answered((0, B), AFTER);
        assert!(c.flushed(PathSet::only(A)));
        let mut c = two();
        c.report(EVENT, (0, A), EVENT, true);
        c.down((0, B));
        c.answered((0, B), AFTER);
        assert!(c.flushed(PathSet::only(A)));
    }

    #[test]
    fn a_path_without_writes_confirms_a_loss() {
        let mut c = two();
        c.report(EVENT, (0, A), EVENT, true);
        c.report(EVENT, (0, B), EVENT, false);
        c.answered((0, B), AFTER);
        assert!(c.flushed(PathSet::only(A)));
        c.report(EVENT, (0, B), EVENT, false);
        assert!(!c.flushed(PathSet::EMPTY), "it had nothing to lose itself");
    }

    #[test]
    fn another_lane_of_the_same_path_is_a_witness() {
        let mut c = two();
        c.up((1, A), EARLY);
        c.report(EVENT, (0, A), EVENT, true);
        c.answered((0, A), AFTER);
        assert!(c.is_watching(), "who has reported is no witness");
        c.answered((1, A), AFTER);
        assert!(!c.flushed(PathSet::only(A)));
        c.report(EVENT, (0, A), EVENT, true);
        c.report(EVENT, (1, A), EVENT, true);
        assert!(c.flushed(PathSet::only(A)));
    }
}
