//! FLUSH, and FUA where the unit has no FUA bit.
//!
//! SYNCHRONIZE CACHE goes once to every target that has acknowledged writes since its last good flush: the
//! two servers of a mirrored pair need not share their cache. A target that cannot be reached now is
//! covered by its mirror: the flush goes to every reachable target instead, and the unreachable one keeps
//! its mark until it has been flushed after its return.

use super::request::{self, Asker, Part, PartVerb, Request, RequestId, Stage, Verb};
use super::{Level, Volume};
use crate::base::Instant;
use crate::limits::PATHS_PER_DEVICE_MAX;
use crate::path::planted::{Bug, planted};
use crate::path::{PathIndex, PathSet};
use crate::wire::nbd::NbdError;

/// Per path: how many writes it had acknowledged when the flush began.
pub(super) type Marks = [u64; PATHS_PER_DEVICE_MAX];

/// A FLUSH request.
pub(super) fn begin(v: &mut Volume, now: Instant, id: RequestId) {
    stabilise(v, now, id);
}

/// Makes everything that was acknowledged before now stable, then the request ends.
pub(super) fn stabilise(v: &mut Volume, now: Instant, id: RequestId) {
    let request = v.requests.get_mut(id).expect("the caller holds the request");
    let writes = matches!(request.verb, Verb::Write | Verb::Zero { same: false, .. });
    let durable_already = request.stage == Stage::Body && writes && !request.cached;
    request.stage = Stage::Stabilise;
    if durable_already {
        request::advance(v, now, id);
        return;
    }
    let marks = v.shared.acknowledged_marks();
    let targets = targets_to_flush(v, &marks);
    let request = v.requests.get_mut(id).expect("the caller holds the request");
    if targets.is_empty() {
        request::advance(v, now, id);
        return;
    }
    request.covers = Some(Box::new(marks));
    request.live += targets.len() as u32;
    for paths in targets {
        let mut part = Part::new(id, PartVerb::Sync, 0, 0);
        part.only = Some(paths);
        let part = v.parts.insert(part);
        v.ready.push_back(part);
    }
}

/// The last flush of a volume that ends its service.
pub(super) fn final_flush(v: &mut Volume, now: Instant) {
    let request = Request::new(Asker::Volume, Verb::Flush, now);
    request::begin(v, now, request);
    // Its parts find their paths in this turn.
    v.again = true;
}

/// One set of paths per target that needs a flush.
fn targets_to_flush(v: &Volume, marks: &Marks) -> Vec<PathSet> {
    let usable = v.engine.usable();
    let mut groups: Vec<(&str, PathSet, bool)> = Vec::new();
    for link in &v.links {
        // Of a path that has not shown its unit nothing is known but that others have written there.
        let cache = link.unit.as_ref().is_none_or(|unit| unit.write_cache());
        let dirty = cache && marks[link.index.get()] > v.shared.flushed(link.index);
        match groups.iter_mut().find(|(name, ..)| *name == link.spec.target) {
            Some((_, paths, any)) => {
                paths.insert(link.index);
                *any |= dirty;
            }
            None => groups.push((&link.spec.target, PathSet::only(link.index), dirty)),
        }
    }
    let unreachable =
        groups.iter().any(|(_, paths, dirty)| *dirty && usable.and(*paths).is_empty());
    groups
        .iter()
        .filter(|(_, paths, dirty)| match usable.and(*paths).is_empty() {
            // With no target in reach at all, the dirty ones are waited for.
            true => *dirty && usable.is_empty(),
            false => *dirty || unreachable,
        })
        .map(|(_, paths, _)| *paths)
        .skip(usize::from(planted(Bug::FlushSkipsTarget)))
        .collect()
}

/// SYNCHRONIZE CACHE was good on this path: its whole target is reached.
pub(super) fn reached(v: &mut Volume, id: RequestId, path: PathIndex) {
    let target = &v.links[path.get()].spec.target;
    let same = v.links.iter().filter(|l| l.spec.target == *target).map(|l| l.index);
    let Some(request) = v.requests.get_mut(id) else { return };
    request.reached = request.reached.union(same.collect());
}

/// The flush was good: the writes that it covered are stable, on the targets that were reached. It still
/// fails, once, if a target has told meanwhile that it lost what it had acknowledged.
pub(super) fn settled(v: &mut Volume, now: Instant, id: RequestId) {
    let request = v.requests.get_mut(id).expect("the caller holds the request");
    if let Some(marks) = request.covers.take() {
        for path in request.reached.iter() {
            v.shared.mark_flushed(path, marks[path.get()]);
        }
    }
    if request.verb == Verb::Flush && v.shared.take_earlier_lost() {
        request.failure = Some(NbdError::Io);
        let why = "a target reported that an earlier, acknowledged write has failed";
        v.notice(now, Level::Error, None, "flush failed", why);
    }
}
