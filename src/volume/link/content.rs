//! The content probe of a path on its way into service: reads over it and over a path in service.
//!
//! Which paths need it is the device's business (all lanes): the first path that comes up is the reference,
//! every other one is compared with one that is in service. Where the storage has moved the unit to a path that
//! could never be read before, what it said of its ports over a known path has to do. Once found to be the same unit it is only
//! compared again, shortly, when it comes back. See `path::content` for what is compared.

use crate::base::{Duration, Instant};
use crate::path::content::{Copy, Probe, Step, WRITTEN_MAX};
use crate::path::identity::LogicalUnit;
use crate::path::planted::{Bug, planted};
use crate::path::verdict::Outcome;
use crate::path::{PathIndex, PathSet, State};
use crate::session::{Command, Completion, Direction, Residual, TaskTag};
use crate::volume::link::{self, Phase, where_};
use crate::volume::probing;
use crate::volume::{Level, Volume};
use crate::wire::scsi::{Cdb, Transfer};
use smallvec::SmallVec;

/// Token of a read over the reference; no part has it.
pub(in crate::volume) const REFERENCE: u64 = u64::MAX - 2;

/// How soon a read that could not be had is tried again, and how often the other lanes are looked at.
const RETRY: Duration = Duration::from_millis(50);
/// The same for a path that waits for a client's write, or for the other path's answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Two paths whose content is compared.
pub(in crate::volume) struct Comparing {
    /// What the path has shown of itself.
    found: Box<LogicalUnit>,
    probe: Probe,
    /// The read over the reference that is out, and since when.
    asked: Option<(PathIndex, TaskTag, Instant)>,
    reported: bool,
}

/// A read over a path in service, for a comparison.
#[derive(Clone, Copy)]
pub(in crate::volume) struct ReferenceRead {
    path: PathIndex,
    /// Of its session.
    generation: u64,
    tag: TaskTag,
    since: Instant,
}

/// Whether the path has to be compared before it carries I/O, and how.
pub(in crate::volume) fn needed(
    v: &mut Volume,
    path: PathIndex,
    found: &LogicalUnit,
) -> Option<Comparing> {
    if v.spec.tunables.trust_identity {
        return None;
    }
    let proven = v.shared.content_first(path);
    let known = proven.contains(path);
    // One that is known has nothing to fear while there is nothing to compare it with.
    if known && references(v, path).is_empty() {
        return None;
    }
    // Only what both have: the unit may be larger here than over the other paths.
    let blocks = v.shared.unit().map_or(found.blocks(), |unit| unit.blocks().min(found.blocks()));
    let probe = Probe::new(blocks, found.block_size(), known);
    Some(Comparing { found: Box::new(found.clone()), probe, asked: None, reported: false })
}

/// The paths in service that are known to show the device.
fn references(v: &Volume, path: PathIndex) -> PathSet {
    v.engine.usable().and(v.shared.content_proven()).minus(PathSet::only(path))
}

/// Goes on as far as possible.
pub(in crate::volume) fn step(v: &mut Volume, now: Instant, path: PathIndex) {
    let proven = v.shared.content_proven();
    let alone = references(v, path).is_empty();
    if alone && (proven.contains(path) || is_vouched_for(v, path)) {
        finish(v, now, path);
        return;
    }
    if alone && is_unused(v) {
        // Nobody has seen the content of the other one: this one begins.
        v.shared.content_restart(path);
        finish(v, now, path);
        return;
    }
    let limit = v.spec.tunables.command_timeout;
    let Some(comparing) = comparing(v, path) else { return };
    if let Some((_, _, since)) = comparing.asked {
        if now < since + limit {
            // The path itself owes nothing while the other one is asked.
            probing::wait(v, path, (since + limit).min(now + PATIENCE));
            return;
        }
        comparing.asked = None;
        comparing.probe.again(now + RETRY);
        probing::wait(v, path, now + RETRY);
        return;
    }
    match comparing.probe.next(now) {
        Step::Read { copy: Copy::Reference, lba, blocks } => {
            ask_reference(v, now, path, lba, blocks);
        }
        Step::Read { copy: Copy::Candidate, lba, blocks } => {
            let command = read(v, path, lba, blocks);
            probing::ask(v, now, path, command);
        }
        Step::Wait(at) => probing::wait(v, path, at),
        // Another lane may have seen a block that a client wrote.
        Step::Blank if proven.contains(path) => finish(v, now, path),
        Step::Blank => blank(v, now, path),
        Step::Same => finish(v, now, path),
        Step::Differs(_) if planted(Bug::ContentUnread) => finish(v, now, path),
        Step::Differs(lba) => {
            let why = format!(
                "the content differs: block {lba} is not what the other paths show, although identity and \
                 size are the same ({}); these are two LUNs that look alike",
                where_(&v.links[path.get()])
            );
            probing::mismatch(v, now, path, &why);
        }
    }
}

/// Whether the storage itself has said, over a path that is known to show the device, that this path's port
/// leads to the same unit (REPORT TARGET PORT GROUPS). A path that stood by could never be read, and when the
/// unit has moved to it there may be nothing left to compare it with.
fn is_vouched_for(v: &Volume, path: PathIndex) -> bool {
    let own = &v.links[path.get()].alua;
    let known = v.shared.content_proven().minus(PathSet::only(path));
    known.iter().any(|other| v.links[other.get()].alua.vouches_for(own))
}

/// No client has been told anything of this device yet, by this lane or another.
fn is_unused(v: &Volume) -> bool {
    v.spec.lanes == 1 && v.requests.is_empty() && v.counters.is_unused()
}

fn comparing(v: &mut Volume, path: PathIndex) -> Option<&mut Comparing> {
    match &mut v.links[path.get()].phase {
        Phase::Probing(probing) => probing.comparing(),
        _ => None,
    }
}

fn read(v: &Volume, path: PathIndex, lba: u64, blocks: u32) -> Command {
    let unit = v.unit.as_ref().expect("a path in service has shown the unit");
    let transfer = Transfer::new(lba, blocks);
    Command {
        token: link::PROBE,
        lun: v.links[path.get()].spec.lun,
        cdb: Cdb::Read(transfer).to_bytes(),
        data: Direction::Read { len: blocks * unit.block_size() },
    }
}

fn ask_reference(v: &mut Volume, now: Instant, path: PathIndex, lba: u64, blocks: u32) {
    let references = references(v, path);
    if references.is_empty() {
        v.engine.set_reason(path, "waits for a path in service to compare its content with");
    }
    let Some(other) = references.iter().find(|p| v.links[p.get()].room() > 0) else {
        probing::wait(v, path, now + RETRY);
        return;
    };
    let command = Command { token: REFERENCE, ..read(v, other, lba, blocks) };
    let session = v.links[other.get()].session().expect("a path in service has a session");
    let Ok(tag) = session.submit(now, command) else {
        probing::wait(v, path, now + RETRY);
        return;
    };
    v.mark_link(other);
    let comparing = comparing(v, path).expect("the caller has one");
    comparing.asked = Some((other, tag, now));
    let generation = v.links[other.get()].generation;
    v.reference_reads.push(ReferenceRead { path: other, generation, tag, since: now });
    probing::wait(v, path, now + PATIENCE);
}

/// Reads over references that have no answer for too long give their places back, whether the path that
/// wanted to know is still there or not: nobody else looks after them. An abort that was refused or not
/// answered is asked for once more.
pub(in crate::volume) fn tick(v: &mut Volume, now: Instant) {
    let limit = v.spec.tunables.command_timeout;
    let mut late: SmallVec<[ReferenceRead; 4]> = SmallVec::new();
    let links = &v.links;
    v.reference_reads.retain_mut(|read| {
        let link = &links[read.path.get()];
        let session = link.session_ref().filter(|_| link.generation == read.generation);
        let lives = session.is_some_and(|session| session.last_progress(read.tag).is_some());
        let is_late = lives && now >= read.since + limit;
        if is_late {
            late.push(*read);
            read.since = now;
        }
        lives
    });
    for read in late {
        if let Some(session) = v.links[read.path.get()].session() {
            session.abort(now, read.tag);
            v.mark_link(read.path);
        }
    }
}

/// Equal and constant: only what a client writes can tell.
fn blank(v: &mut Volume, now: Instant, path: PathIndex) {
    let written = std::mem::take(&mut v.written);
    let comparing = comparing(v, path).expect("the caller has one");
    let fresh = !written.is_empty();
    written.into_iter().for_each(|lba| comparing.probe.written(lba));
    let reported = std::mem::replace(&mut comparing.reported, true);
    v.content_waits.insert(path);
    probing::wait(v, path, if fresh { now } else { now + PATIENCE });
    v.again |= fresh;
    if reported {
        return;
    }
    let why = "the unit is blank on both paths, which proves nothing: this one is used once a block that a \
               client has written can be read over it (trust_identity = true skips this)";
    v.engine.set_reason(path, why);
    v.notice(now, Level::Warn, Some(path), State::Probing.name(), why);
}

fn finish(v: &mut Volume, now: Instant, path: PathIndex) {
    let Some(comparing) = comparing(v, path) else { return };
    let found = comparing.found.clone();
    v.shared.set_content_proven(path);
    v.content_waits.remove(path);
    probing::compared(v, now, path, *found);
}

/// The read over the path in question was answered.
pub(in crate::volume) fn answered(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    completion: Completion,
) {
    let data = good_data(completion);
    let Some(comparing) = comparing(v, path) else { return };
    comparing.take(now, data);
    step(v, now, path);
}

/// What was read; `None` for a unit attention, busy, a medium error: this block tells nothing now.
fn good_data(completion: Completion) -> Option<Vec<u8>> {
    let Completion { response, status, sense, data, residual } = completion;
    let short = residual != Residual::None;
    let outcome = Outcome::new(response, status, sense.as_deref(), short);
    (outcome == Outcome::GOOD).then(|| data.to_vec())
}

impl Comparing {
    fn take(&mut self, now: Instant, data: Option<Vec<u8>>) {
        match data {
            Some(data) => self.probe.handle(now, data),
            None => self.probe.again(now + RETRY),
        }
    }

    /// Whether it waits for the answer over `other`, to the read `tag` if that is known.
    fn waits_for(&self, other: PathIndex, tag: Option<TaskTag>) -> bool {
        self.asked
            .is_some_and(|(path, asked, _)| path == other && tag.is_none_or(|tag| tag == asked))
    }
}

/// The read over the reference was answered, or (`None`) it has ended without an answer.
pub(in crate::volume) fn reference_answered(
    v: &mut Volume,
    now: Instant,
    other: PathIndex,
    answer: Option<(TaskTag, Completion)>,
) {
    let tag = answer.as_ref().map(|(tag, _)| *tag);
    let mut data = answer.and_then(|(_, completion)| good_data(completion));
    for index in 0..v.links.len() {
        let path = v.links[index].index;
        let Some(comparing) = comparing(v, path).filter(|c| c.waits_for(other, tag)) else {
            continue;
        };
        comparing.asked = None;
        comparing.take(now, data.take());
        step(v, now, path);
    }
}

/// A client's write was acknowledged while not every path is proven: a sample that tells blank units apart.
pub(in crate::volume) fn written(v: &mut Volume, now: Instant, lba: u64) {
    if v.written.len() < WRITTEN_MAX && !v.written.contains(&lba) {
        v.written.push(lba);
    }
    for path in v.content_waits.iter() {
        match comparing(v, path) {
            Some(comparing) if comparing.asked.is_none() => probing::wait(v, path, now),
            Some(_) => {}
            None => v.content_waits.remove(path),
        }
    }
}

/// Whether there are paths that may have to be compared by what clients write.
pub(in crate::volume) fn open(v: &Volume) -> bool {
    !v.spec.tunables.trust_identity && v.shared.content_proven().len() < v.links.len()
}
