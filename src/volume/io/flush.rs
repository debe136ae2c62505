//! FLUSH, and FUA where the unit has no FUA bit.
//!
//! SYNCHRONIZE CACHE goes once to every target that has acknowledged writes since its last good flush: the
//! two servers of a mirrored pair need not share their cache. A suspect path is no excuse: it gets the
//! command, and all the time that the command may take. A target that cannot be reached now is covered by
//! its mirror: the flush goes to every reachable target instead, and the unreachable one keeps its mark
//! until it has been flushed after its return. So is one that let a flush pass its deadline, until it answers.
//! After a crash of the daemon every target counts as written to.

use crate::base::Instant;
use crate::limits::PATHS_PER_DEVICE_MAX;
use crate::path::planted::{Bug, planted};
use crate::path::{PathIndex, PathSet};
use crate::volume::link::Link;
use crate::volume::request::{self, Asker, Part, PartVerb, Request, RequestId, Stage, Verb};
use crate::volume::{Level, Volume};
use crate::wire::nbd::NbdError;

/// Per path: how many writes it had acknowledged when the flush began.
pub(in crate::volume) type Marks = [u64; PATHS_PER_DEVICE_MAX];

/// A FLUSH request.
pub(in crate::volume) fn begin(v: &mut Volume, now: Instant, id: RequestId) {
    stabilise(v, now, id);
}

/// Makes everything that was acknowledged before now stable, then the request ends.
pub(in crate::volume) fn stabilise(v: &mut Volume, now: Instant, id: RequestId) {
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
    synchronize(v, id, targets);
}

/// SYNCHRONIZE CACHE on one path of each set.
fn synchronize(v: &mut Volume, id: RequestId, targets: Vec<PathSet>) {
    let request = v.requests.get_mut(id).expect("the caller holds the request");
    request.live += targets.len() as u32;
    for paths in targets {
        let mut part = Part::new(id, PartVerb::Sync, 0, 0);
        part.only = Some(paths);
        let part = v.parts.insert(part);
        v.ready.push_back(part);
    }
}

/// Sessions that may know that nothing was lost, where some path says that it was: a FLUSH asks them, once.
fn ask_witnesses(v: &mut Volume, id: RequestId) -> bool {
    let request = v.requests.get_mut(id).expect("the caller holds the request");
    if request.verb != Verb::Flush || request.asked_witnesses || !v.shared.cache_watch() {
        return false;
    }
    request.asked_witnesses = true;
    let witnesses = v.shared.cache_loss(|loss| loss.witnesses(v.lane)).and(v.engine.usable());
    synchronize(v, id, witnesses.iter().map(PathSet::only).collect());
    !witnesses.is_empty()
}

/// The last flush of a volume that ends its service.
pub(in crate::volume) fn final_flush(v: &mut Volume, now: Instant) {
    let request = Request::new(Asker::Volume, Verb::Flush, now);
    request::begin(v, now, request);
    // Its parts find their paths in this turn.
    v.again = true;
}

/// The paths that SYNCHRONIZE CACHE may take: suspect ones too, since no other target can empty their cache.
pub(in crate::volume) fn in_reach(v: &Volume) -> PathSet {
    let late = v.links.iter().filter(|link| link.flush_late).map(|link| link.index).collect();
    v.engine.active().union(v.engine.suspects().minus(late)).or_else(v.engine.usable())
}

/// One set of paths per target that needs a flush.
fn targets_to_flush(v: &Volume, marks: &Marks) -> Vec<PathSet> {
    let (usable, reach) = (v.engine.usable(), in_reach(v));
    let before = v.shared.unflushed_before();
    let mut groups: Vec<(&str, PathSet, bool)> = Vec::new();
    for link in &v.links {
        // Of a path that has not shown its unit nothing is known but that others have written there.
        let cache = link.unit.as_ref().is_none_or(|unit| unit.write_cache());
        let marked = marks[link.index.get()] > v.shared.flushed(link.index);
        let dirty = cache && (marked || before.contains(link.index));
        match groups.iter_mut().find(|(name, ..)| *name == link.spec.target) {
            Some((_, paths, any)) => {
                paths.insert(link.index);
                *any |= dirty;
            }
            None => groups.push((&link.spec.target, PathSet::only(link.index), dirty)),
        }
    }
    let unreachable = groups.iter().any(|(_, paths, dirty)| *dirty && reach.and(*paths).is_empty());
    groups
        .iter()
        .filter(|(_, paths, dirty)| match *dirty {
            // With no target in reach at all, the dirty ones are waited for.
            true => !reach.and(*paths).is_empty() || reach.is_empty(),
            false => unreachable && !usable.and(*paths).is_empty(),
        })
        .map(|(_, paths, _)| *paths)
        .skip(usize::from(planted(Bug::FlushSkipsTarget)))
        .collect()
}

/// SYNCHRONIZE CACHE was good on this path: its whole target is reached.
pub(in crate::volume) fn reached(v: &mut Volume, id: RequestId, path: PathIndex) {
    let target = &v.links[path.get()].spec.target;
    let same = v.links.iter().filter(|l| l.spec.target == *target).map(|l| l.index);
    let Some(request) = v.requests.get_mut(id) else { return };
    request.reached = request.reached.union(same.collect());
}

/// The flush was good: the writes that it covered are stable, on the targets that were reached. It still
/// fails, once, if a target has told meanwhile that it lost what it had acknowledged. Returns whether that is
/// all: others may have to be asked first.
pub(in crate::volume) fn settled(v: &mut Volume, now: Instant, id: RequestId) -> bool {
    if ask_witnesses(v, id) {
        return false;
    }
    let request = v.requests.get_mut(id).expect("the caller holds the request");
    let reached = request.reached;
    let marks = request.covers.take().unwrap_or_default();
    let unflushed = unflushed(v, &marks);
    for path in reached.iter() {
        v.shared.mark_flushed(path, marks[path.get()]);
    }
    let request = v.requests.get_mut(id).expect("the caller holds the request");
    if request.verb != Verb::Flush {
        return true;
    }
    let lost = v.shared.cache_loss(|loss| loss.flushed(unflushed));
    let why = if v.shared.take_earlier_lost() {
        "a target reported that an earlier, acknowledged write has failed"
    } else if lost {
        "the targets were powered on or reset since writes that they had acknowledged: these may be lost"
    } else {
        // Told as stable: it is not said to be lost later.
        v.shared.cover(&marks);
        return true;
    };
    v.shared.cover(&marks);
    v.requests.get_mut(id).expect("the caller holds the request").failure = Some(NbdError::Io);
    v.notice(now, Level::Error, None, "flush failed", why);
    true
}

/// Paths that have acknowledged writes, up to `marks`, into a cache, and no flush has covered them.
fn unflushed(v: &Volume, marks: &Marks) -> PathSet {
    let cached = |link: &&Link| link.unit.as_ref().is_none_or(|unit| unit.write_cache());
    let dirty = |link: &&Link| v.shared.is_unflushed(link.index, marks[link.index.get()]);
    v.links.iter().filter(cached).filter(dirty).map(|link| link.index).collect()
}

fn same_target(v: &Volume, path: PathIndex) -> PathSet {
    let target = &v.links[path.get()].spec.target;
    v.links.iter().filter(|l| l.spec.target == *target).map(|l| l.index).collect()
}

/// A session's unit was powered on or reset: see [`crate::path::CacheLoss`]. `relogin`: it was found on a
/// session that has just been logged in.
pub(in crate::volume) fn cache_lost(v: &mut Volume, now: Instant, path: PathIndex, relogin: bool) {
    let resets = v.shared.resets_sent(path);
    let link = &mut v.links[path.get()];
    let since = if relogin { link.heard } else { link.good };
    if std::mem::replace(&mut link.resets, resets) != resets {
        // That was our own LOGICAL UNIT RESET, which leaves caches as they are.
        return;
    }
    let unflushed = unflushed(v, &v.shared.acknowledged_marks()).contains(path);
    v.shared.cache_loss(|loss| loss.report(now, (v.lane, path), since, unflushed));
}

/// A session is in service.
pub(in crate::volume) fn session_up(v: &Volume, path: PathIndex) {
    let login = v.links[path.get()].login;
    v.shared.cache_loss(|loss| loss.up((v.lane, path), login));
}

/// A session has ended.
pub(in crate::volume) fn session_ended(v: &Volume, path: PathIndex) {
    v.shared.cache_loss(|loss| loss.down((v.lane, path)));
}

/// A session has carried out a command without an attention before it.
pub(in crate::volume) fn session_answered(v: &mut Volume, path: PathIndex, started: Instant) {
    let good = &mut v.links[path.get()].good;
    *good = started.max(*good);
    if v.shared.cache_watch() {
        v.shared.cache_loss(|loss| loss.answered((v.lane, path), started));
    }
}

/// A LOGICAL UNIT RESET is about to be sent: every session of its target will report it.
pub(in crate::volume) fn will_reset(v: &Volume, path: PathIndex) {
    v.shared.resetting(same_target(v, path));
}
