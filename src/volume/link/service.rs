//! Links out of service and back: by an administrator's word, and at the end of the daemon.

use crate::base::Instant;
use crate::path::{PathIndex, State};
use crate::volume::link::{Phase, Then, connect, give_up};
use crate::volume::probing::recheck;
use crate::volume::{Level, Volume};

/// The administrator takes the path out: nothing new is given to it, and when it is idle it logs out.
pub(in crate::volume) fn disable(v: &mut Volume, now: Instant, path: PathIndex) {
    if v.engine.state(path) == State::Disabled {
        return;
    }
    v.engine.transition(now, path, State::Disabled, "disabled by an administrator");
    v.notice(now, Level::Info, Some(path), State::Disabled.name(), "by an administrator");
    let link = &mut v.links[path.get()];
    link.mismatched_until = None;
    match link.phase {
        Phase::Disabled => {}
        Phase::Waiting => link.phase = Phase::Disabled,
        Phase::Closing { ref mut then } | Phase::LoggingOut { ref mut then } => {
            *then = Then::Disabled;
        }
        Phase::Up | Phase::Probing(_) => {
            link.phase = Phase::Up;
            v.leaving.insert(path);
            link.rechecking = false;
            link.disable_by = now + v.spec.tunables.shutdown_timeout;
            log_out_if_idle(v, now, path);
        }
        Phase::Connecting | Phase::LoggingIn | Phase::Fencing => {
            give_up(v, now, path, Then::Disabled);
        }
    }
}

/// The administrator puts the path back.
pub(in crate::volume) fn enable(v: &mut Volume, now: Instant, path: PathIndex) {
    v.engine.transition(now, path, State::Connecting, "enabled by an administrator");
    let link = &mut v.links[path.get()];
    v.leaving.remove(path);
    match link.phase {
        Phase::Disabled => connect(v, now, path),
        // The old session still ends; the path follows when its socket is closed.
        Phase::Closing { ref mut then } => *then = Then::Connect,
        Phase::Up | Phase::LoggingOut { .. } => give_up(v, now, path, Then::Connect),
        Phase::Waiting
        | Phase::Connecting
        | Phase::LoggingIn
        | Phase::Fencing
        | Phase::Probing(_) => unreachable!("a disabled path is not on its way up"),
    }
}

/// The administrator wants it looked at now, whatever the back-off says.
pub(in crate::volume) fn recheck_now(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &mut v.links[path.get()];
    if link.mismatched_until.is_some() {
        link.mismatched_until = Some(now);
    }
    match link.phase {
        Phase::Waiting if link.mismatched_until.is_some() => {}
        Phase::Waiting => v.engine.retry_now(now, path),
        Phase::Closing { ref mut then } if *then == Then::Reconnect => *then = Then::ReconnectNow,
        Phase::Up => recheck(v, now, path, "recheck asked for by an administrator"),
        _ => {}
    }
}

/// A path that is being disabled, or a daemon that ends: log out once nothing is in flight.
pub(in crate::volume) fn log_out_if_idle(v: &mut Volume, now: Instant, path: PathIndex) {
    let ending = v.draining.as_ref().is_some_and(|d| d.logged_out);
    let leaving = v.leaving.contains(path);
    let link = &mut v.links[path.get()];
    if !(leaving || ending) || !matches!(link.phase, Phase::Up) {
        return;
    }
    let session = link.session.as_mut().expect("a path in service has a session");
    if session.in_flight() == 0 {
        session.logout(now);
        link.phase = Phase::LoggingOut { then: Then::Disabled };
        v.mark_link(path);
        crate::volume::link::events(v, now, path);
    }
}

/// The daemon ends: a path in service logs out, any other is given up.
pub(in crate::volume) fn stop(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &mut v.links[path.get()];
    match link.phase {
        Phase::Up => log_out_if_idle(v, now, path),
        Phase::Waiting => link.phase = Phase::Disabled,
        Phase::Closing { ref mut then } | Phase::LoggingOut { ref mut then } => {
            *then = Then::Disabled;
        }
        Phase::Disabled => {}
        _ => give_up(v, now, path, Then::Disabled),
    }
}
