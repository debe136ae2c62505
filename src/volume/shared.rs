//! What the lanes of one device share: taken ranges, flush marks, what the unit was found to be and what
//! it has refused. Everything here is rare or one short critical section per write.

use super::explicit::Turn;
use super::nexus::{Inheritance, NexusRecord};
use super::quiet;
use super::resets::Resets;
use super::watch::Watch;
use crate::base::Instant;
use crate::limits::PATHS_PER_DEVICE_MAX;
use crate::path::identity::{LogicalUnit, Mismatch, compare, compare_again};
use crate::path::{CacheLoss, Ledger, Nexus, Owner, PathIndex, PathSet, Proof, Settled, TicketId};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A range that was granted to a waiting request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Who waited.
    pub owner: Owner,
    /// For what.
    pub ticket: TicketId,
}

#[derive(Default)]
struct Outcomes {
    granted: VecDeque<Granted>,
    settled: VecDeque<Settled>,
}

/// What the device was found to be.
struct Known {
    unit: Arc<LogicalUnit>,
    /// The path that showed it first.
    first: PathIndex,
    /// Blocks as each path has last shown them; 0 for a path that has not.
    blocks: [u64; PATHS_PER_DEVICE_MAX],
}

/// What a unit may refuse although it says that it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Optional {
    /// UNMAP.
    Unmap,
    /// WRITE SAME with UNMAP.
    UnmapZeroing,
    /// WRITE SAME.
    WriteSame,
    /// GET LBA STATUS.
    LbaStatus,
}

/// One per device, shared by its lanes.
pub struct Shared {
    ledger: Mutex<Ledger>,
    /// Who sends LOGICAL UNIT RESET. Never taken together with another lock.
    resets: Mutex<Resets>,
    /// See [`Resets::version`].
    resets_version: AtomicU64,
    /// Ranges that were released without a proof. Taken after the ledger, never before it.
    watch: Mutex<Watch>,
    /// There are any, or some may come.
    watching: AtomicBool,
    /// What an earlier process has left behind.
    inheritance: Inheritance,
    /// Nexuses are written down for a later process.
    records: bool,
    unit: Mutex<Option<Known>>,
    /// Counts changes of the unit, so that a lane sees one without the lock.
    unit_version: AtomicU64,
    /// Paths whose content was found to be the device's.
    content: Mutex<PathSet>,
    /// Paths whose targets may hold in their caches what an earlier process was told is written.
    cached_before: Mutex<PathSet>,
    acknowledged: [AtomicU64; PATHS_PER_DEVICE_MAX],
    flushed: [AtomicU64; PATHS_PER_DEVICE_MAX],
    /// Grants and settlements on their way to their lane.
    outcomes: Mutex<Outcomes>,
    /// By [`Optional`].
    refused: [AtomicBool; 4],
    /// An answered write was lost: the next flush says so.
    earlier_lost: AtomicBool,
    cache_loss: Mutex<CacheLoss>,
    /// An answer of any session matters to it.
    cache_watch: AtomicBool,
    /// Up to which acknowledged write each path was covered by a good FLUSH, its own or its mirror's.
    covered: [AtomicU64; PATHS_PER_DEVICE_MAX],
    /// Whose turn it is to change access states.
    access_turn: Mutex<Turn>,
    /// LOGICAL UNIT RESETs of ours by the paths that they reach.
    resets_sent: [AtomicU64; PATHS_PER_DEVICE_MAX],
}

impl Shared {
    /// For a device with this ledger.
    #[must_use]
    pub fn new(ledger: Ledger) -> Shared {
        Shared {
            ledger: Mutex::new(ledger),
            resets: Mutex::new(Resets::default()),
            resets_version: AtomicU64::new(0),
            watch: Mutex::new(Watch::default()),
            watching: AtomicBool::new(false),
            inheritance: Inheritance::none(),
            records: false,
            unit: Mutex::new(None),
            unit_version: AtomicU64::new(0),
            content: Mutex::new(PathSet::EMPTY),
            cached_before: Mutex::new(PathSet::EMPTY),
            acknowledged: [const { AtomicU64::new(0) }; PATHS_PER_DEVICE_MAX],
            flushed: [const { AtomicU64::new(0) }; PATHS_PER_DEVICE_MAX],
            outcomes: Mutex::new(Outcomes::default()),
            refused: [const { AtomicBool::new(false) }; 4],
            earlier_lost: AtomicBool::new(false),
            cache_loss: Mutex::default(),
            cache_watch: AtomicBool::new(false),
            covered: [const { AtomicU64::new(0) }; PATHS_PER_DEVICE_MAX],
            access_turn: Mutex::default(),
            resets_sent: [const { AtomicU64::new(0) }; PATHS_PER_DEVICE_MAX],
        }
    }

    /// For a device whose nexuses are written down for a later process, and that finds these of an earlier
    /// one; with each goes whether the configuration still has its path.
    #[must_use]
    pub fn recording(
        now: Instant,
        mut ledger: Ledger,
        left_behind: Vec<(NexusRecord, bool)>,
    ) -> Shared {
        let inheritance = Inheritance::take(now, &mut ledger, left_behind);
        let shared = Shared { inheritance, records: true, ..Shared::new(ledger) };
        shared.resets(|resets| quiet::inherited(now, resets, &shared.inheritance));
        shared
    }

    /// What an earlier process has left behind.
    #[must_use]
    pub fn inheritance(&self) -> &Inheritance {
        &self.inheritance
    }

    /// Whether nexuses are written down.
    #[must_use]
    pub fn records(&self) -> bool {
        self.records
    }

    /// The ledger of taken ranges. A lane that panicked while it held the lock leaves it consistent: its
    /// methods check before they change.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ranges that were released without a proof.
    pub fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the watch list has anything: what requests ask before they lock it.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.watching.load(Ordering::Acquire)
    }

    /// See [`is_watching`](Shared::is_watching).
    pub fn set_watching(&self, watching: bool) {
        self.watching.store(watching, Ordering::Release);
    }

    /// Everything that was sent on a nexus until now is dead. Returns how many ranges came out of doubt.
    pub fn prove(&self, nexus: Nexus, proof: Proof) -> usize {
        let mut ledger = self.ledger();
        let proven = ledger.proven(nexus, proof);
        let mut watch = self.watch();
        watch.settle(|ticket| ledger.is_in_doubt(ticket));
        watch.ended(|other| proof.covers(nexus, other));
        self.set_watching(!watch.is_empty());
        proven
    }

    /// One copy in doubt is dead. `false` when it is not in doubt any more.
    pub fn copy_dead(&self, ticket: TicketId, nexus: Nexus) -> bool {
        let mut ledger = self.ledger();
        let known = ledger.doubt_answered(ticket, nexus);
        let mut watch = self.watch();
        watch.settle(|ticket| ledger.is_in_doubt(ticket));
        self.set_watching(!watch.is_empty());
        known
    }

    /// Looks at who sends LOGICAL UNIT RESET to which unit, or changes it.
    pub fn resets<T>(&self, f: impl FnOnce(&mut Resets) -> T) -> T {
        let mut resets = self.resets.lock().unwrap_or_else(PoisonError::into_inner);
        let out = f(&mut resets);
        self.resets_version.store(resets.version(), Ordering::Release);
        out
    }

    /// Changes whenever other paths are hushed for a reset: what lanes ask every turn, without the lock.
    #[must_use]
    pub fn resets_version(&self) -> u64 {
        self.resets_version.load(Ordering::Acquire)
    }

    /// Looks at whose turn it is to change access states, or changes it.
    pub(super) fn access_turn<T>(&self, f: impl FnOnce(&mut Turn) -> T) -> T {
        f(&mut self.access_turn.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Moves what the ledger has decided to where its lanes find it, and names the lanes.
    pub fn distribute(&self) -> SmallVec<[u16; 4]> {
        let mut lanes = SmallVec::new();
        let mut ledger = self.ledger();
        let mut outcomes = self.outcomes();
        while let Some((owner, ticket)) = ledger.poll_granted() {
            outcomes.granted.push_back(Granted { owner, ticket });
            if !lanes.contains(&owner.lane) {
                lanes.push(owner.lane);
            }
        }
        while let Some(settled) = ledger.poll_settled() {
            outcomes.settled.push_back(settled);
            if !lanes.contains(&settled.owner.lane) {
                lanes.push(settled.owner.lane);
            }
        }
        lanes
    }

    /// The next grant for this lane.
    #[must_use]
    pub fn poll_granted(&self, lane: u16) -> Option<Granted> {
        let mut outcomes = self.outcomes();
        let at = outcomes.granted.iter().position(|g| g.owner.lane == lane)?;
        outcomes.granted.remove(at)
    }

    /// The next settlement for this lane.
    #[must_use]
    pub fn poll_settled(&self, lane: u16) -> Option<Settled> {
        let mut outcomes = self.outcomes();
        let at = outcomes.settled.iter().position(|s| s.owner.lane == lane)?;
        outcomes.settled.remove(at)
    }

    /// A request stops waiting for its range, whether it has been granted meanwhile or not.
    pub fn abandon(&self, ticket: TicketId) {
        let mut ledger = self.ledger();
        let mut outcomes = self.outcomes();
        match outcomes.granted.iter().position(|g| g.ticket == ticket) {
            Some(at) => {
                outcomes.granted.remove(at);
                ledger.release(ticket);
            }
            None => ledger.abandon_wait(ticket),
        }
    }

    fn outcomes(&self) -> MutexGuard<'_, Outcomes> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first unit that a path shows becomes the device; every later one must be the same, but for its
    /// write protection where that may be taken over from `found` (`adopt`), and its size where that may
    /// differ (`resized`). The device is as large as the smallest that its paths show: it shrinks with the
    /// first of them, and grows with the last.
    ///
    /// # Errors
    /// What differs, when it is another one.
    pub fn admit(
        &self,
        path: PathIndex,
        found: &LogicalUnit,
        adopt: bool,
        resized: bool,
    ) -> Result<Arc<LogicalUnit>, Mismatch> {
        let mut guard = self.unit.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = guard.as_mut() else {
            let unit = Arc::new(found.clone());
            let mut blocks = [0; PATHS_PER_DEVICE_MAX];
            blocks[path.get()] = found.blocks();
            *guard = Some(Known { unit: unit.clone(), first: path, blocks });
            self.unit_version.fetch_add(1, Ordering::Release);
            return Ok(unit);
        };
        let mut unit = known.unit.clone();
        if adopt && unit.read_only() != found.read_only() {
            unit = Arc::new(unit.with_write_protection(found.read_only()));
        }
        let mut expected = unit.clone();
        if resized && expected.blocks() != found.blocks() {
            expected = Arc::new(expected.with_blocks(found.blocks()));
        }
        // A unit without a name has one path only, which knows it again.
        match known.first == path {
            true => compare_again(&expected, found)?,
            false => compare(&expected, found)?,
        }
        known.blocks[path.get()] = found.blocks();
        let shown = known.blocks.iter().copied().filter(|blocks| *blocks > 0);
        let least = shown.min().expect("this path has shown some");
        if unit.blocks() != least {
            unit = Arc::new(unit.with_blocks(least));
        }
        if unit != known.unit {
            known.unit = unit.clone();
            self.unit_version.fetch_add(1, Ordering::Release);
        }
        Ok(unit)
    }

    /// Whether the paths show different sizes.
    #[must_use]
    pub fn sizes_differ(&self) -> bool {
        let known = self.unit.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = known.as_ref() else { return false };
        known.blocks.iter().any(|blocks| *blocks != 0 && *blocks != known.unit.blocks())
    }

    /// Changes whenever [`Shared::unit`] does.
    #[must_use]
    pub fn unit_version(&self) -> u64 {
        self.unit_version.load(Ordering::Acquire)
    }

    /// Paths whose content was found to be the device's.
    #[must_use]
    pub fn content_proven(&self) -> PathSet {
        *self.content()
    }

    /// The same; if there is none, `path` is what the others are compared with from now on.
    #[must_use]
    pub fn content_first(&self, path: PathIndex) -> PathSet {
        let mut content = self.content();
        *content = content.or_else(PathSet::only(path));
        *content
    }

    /// Only `path` counts from now on: nobody has seen what the others show.
    pub fn content_restart(&self, path: PathIndex) {
        *self.content() = PathSet::only(path);
    }

    /// The content over `path` is the device's.
    pub fn set_content_proven(&self, path: PathIndex) {
        self.content().insert(path);
    }

    fn content(&self) -> MutexGuard<'_, PathSet> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answered write was lost: the next flush has to say so.
    pub fn set_earlier_lost(&self) {
        self.earlier_lost.store(true, Ordering::Release);
    }

    /// Whether an answered write was lost; told once.
    #[must_use]
    pub fn take_earlier_lost(&self) -> bool {
        self.earlier_lost.swap(false, Ordering::AcqRel)
    }

    /// Changes what is known of the caches.
    pub fn cache_loss<T>(&self, change: impl FnOnce(&mut CacheLoss) -> T) -> T {
        let mut loss = self.cache_loss.lock().unwrap_or_else(PoisonError::into_inner);
        let out = change(&mut loss);
        self.cache_watch.store(loss.is_watching(), Ordering::Release);
        out
    }

    /// Whether good answers have to be told to [`Shared::cache_loss`].
    #[must_use]
    pub fn cache_watch(&self) -> bool {
        self.cache_watch.load(Ordering::Acquire)
    }

    /// Whether a path has acknowledged writes, up to `mark`, that no good flush has covered.
    #[must_use]
    pub fn is_unflushed(&self, path: PathIndex, mark: u64) -> bool {
        mark > self.flushed(path) && mark > self.covered[path.get()].load(Ordering::Acquire)
    }

    /// A FLUSH was answered good: everything up to `marks` is stable somewhere.
    pub fn cover(&self, marks: &[u64; PATHS_PER_DEVICE_MAX]) {
        for (covered, mark) in self.covered.iter().zip(marks) {
            covered.fetch_max(*mark, Ordering::AcqRel);
        }
    }

    /// A LOGICAL UNIT RESET of ours is sent to the target of these paths.
    pub fn resetting(&self, paths: PathSet) {
        for path in paths.iter() {
            self.resets_sent[path.get()].fetch_add(1, Ordering::AcqRel);
        }
    }

    /// How many LOGICAL UNIT RESETs of ours have reached the path's target.
    #[must_use]
    pub fn resets_sent(&self, path: PathIndex) -> u64 {
        self.resets_sent[path.get()].load(Ordering::Acquire)
    }

    /// The unit, once known.
    #[must_use]
    pub fn unit(&self) -> Option<Arc<LogicalUnit>> {
        let unit = self.unit.lock().unwrap_or_else(PoisonError::into_inner);
        unit.as_ref().map(|known| known.unit.clone())
    }

    /// A write was acknowledged on this path.
    pub fn acknowledged(&self, path: PathIndex) {
        self.acknowledged[path.get()].fetch_add(1, Ordering::Relaxed);
    }

    /// How many writes each path has acknowledged.
    #[must_use]
    pub fn acknowledged_marks(&self) -> [u64; PATHS_PER_DEVICE_MAX] {
        std::array::from_fn(|i| self.acknowledged[i].load(Ordering::Acquire))
    }

    /// Up to which acknowledged write the path's target has been flushed.
    #[must_use]
    pub fn flushed(&self, path: PathIndex) -> u64 {
        self.flushed[path.get()].load(Ordering::Acquire)
    }

    fn cached_before(&self) -> MutexGuard<'_, PathSet> {
        self.cached_before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An earlier process may have written by this path, or have been covered by it.
    pub fn written_before(&self, path: PathIndex) {
        self.cached_before().insert(path);
    }

    /// Paths whose targets have not been flushed since an earlier process may have written by them.
    #[must_use]
    pub fn unflushed_before(&self) -> PathSet {
        *self.cached_before()
    }

    /// A good flush covered the path's first `mark` acknowledged writes.
    pub fn mark_flushed(&self, path: PathIndex, mark: u64) {
        self.cached_before().remove(path);
        let flushed = &self.flushed[path.get()];
        flushed.fetch_max(mark, Ordering::AcqRel);
        let acknowledged = self.acknowledged[path.get()].load(Ordering::Acquire);
        assert!(mark <= acknowledged, "flushed more than was acknowledged");
    }

    /// The unit refused it: it is not tried again.
    pub fn refuse(&self, optional: Optional) {
        self.refused[optional as usize].store(true, Ordering::Relaxed);
    }

    /// Whether it may be tried.
    #[must_use]
    pub fn may(&self, optional: Optional) -> bool {
        !self.refused[optional as usize].load(Ordering::Relaxed)
    }
}
