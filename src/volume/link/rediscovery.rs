//! A target has said that its portals or units changed: the portals are asked again at once, and paths that wait for
//! somebody to mend something (no such unit, login refused) are tried again, because that may be what changed.
//!
//! Targets may say it as often as they like: at most once per [`INTERVAL`] something is done about it, and what was
//! said meanwhile is not lost. Deliberately not here: discovery itself (control).

use crate::base::{Duration, Instant};
use crate::volume::link::Phase;
use crate::volume::{Action, Volume};

/// Least time between two discoveries that targets ask for.
const INTERVAL: Duration = Duration::from_secs(5);

/// What is still to be done.
#[derive(Debug, Default)]
pub(in crate::volume) struct Rediscovery {
    wanted: bool,
    not_before: Instant,
}

/// A target asks for it.
pub(in crate::volume) fn wanted(v: &mut Volume, now: Instant) {
    v.rediscovery.wanted = true;
    timeouts(v, now);
}

/// When [`timeouts`] has something to do.
pub(in crate::volume) fn deadline(v: &Volume) -> Instant {
    if v.rediscovery.wanted { v.rediscovery.not_before } else { Instant::MAX }
}

/// Does it if it is time.
pub(in crate::volume) fn timeouts(v: &mut Volume, now: Instant) {
    if deadline(v) > now {
        return;
    }
    v.rediscovery = Rediscovery { wanted: false, not_before: now + INTERVAL };
    v.actions.push_back(Action::Discover);
    for link in v.links.iter().filter(|link| link.misconfigured) {
        if matches!(link.phase, Phase::Waiting) {
            v.engine.retry_now(now, link.index);
        }
    }
}
