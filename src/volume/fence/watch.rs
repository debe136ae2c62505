//! The watch list: what became of ranges that were released without a proof.
//!
//! After `fence_timeout` a range in doubt is given back although its old write may still land. What that
//! write holds is kept, and of each of its blocks what was acknowledged last *since then*. When the target
//! is back and the old write is proven over (executed or dead), the blocks are read over that path: one
//! that holds the old write's data is rewritten, one that holds something else is only reported, since
//! another host may have written it. Client reads of those blocks do not take that path before.
//!
//! ```text
//! kept (in doubt, request over) ─ fence_timeout ─► watched ─ proof ─► due ─► checked ─► gone
//!   └─ proof ─► gone
//! ```
//!
//! Bounded in bytes: a range that does not fit is not released. Deliberately not here: the I/O (`check`).

use crate::base::Instant;
use crate::path::{BlockRange, InDoubt, Nexus, PathIndex, PathSet, TicketId};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// What a block holds, as far as we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Data(Box<[u8]>),
    /// Zeros.
    Zeros,
    /// Anything: it was discarded, or a write of it failed.
    Unknown,
}

impl Content {
    fn is(&self, block: &[u8]) -> bool {
        match self {
            Content::Data(data) => **data == *block,
            Content::Zeros => block.iter().all(|byte| *byte == 0),
            Content::Unknown => false,
        }
    }

    /// The bytes, where they are known.
    fn bytes(&self, block_size: usize) -> Option<Vec<u8>> {
        match self {
            Content::Data(data) => Some(data.to_vec()),
            Content::Zeros => Some(vec![0; block_size]),
            Content::Unknown => None,
        }
    }
}

/// What a write of whole blocks holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// These bytes.
    Data(Box<[u8]>),
    /// Zeros, or nothing any more.
    Zeros,
    /// It failed, or is advice: anything.
    Unknown,
}

impl Written {
    /// The block number `index` of it.
    fn block(&self, index: u64, block_size: u32) -> Content {
        let size = block_size as usize;
        match self {
            Written::Data(data) => {
                let at = index as usize * size;
                Content::Data(data[at..at + size].into())
            }
            Written::Zeros => Content::Zeros,
            Written::Unknown => Content::Unknown,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// In doubt in the ledger.
    Kept,
    /// Released; copies of it may still be executed.
    Watched,
    /// They are over: to be looked at by this lane, over this path.
    Due(u16, PathIndex),
    /// It is being looked at.
    Checking(PathIndex),
}

#[derive(Debug)]
struct Entry {
    id: u64,
    ticket: TicketId,
    range: BlockRange,
    late: Written,
    cost: u64,
    stage: Stage,
    /// Copies that were given up, and since when they are in doubt.
    copies: SmallVec<[(Nexus, u32, Instant); 2]>,
}

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Finding {
    /// Runs of blocks that the old write had hit, with what belongs there.
    pub stale: Vec<(u64, Vec<u8>)>,
    /// Blocks that hold something that none of us wrote last.
    pub foreign: u64,
}

/// Something to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Names it.
    pub id: u64,
    /// Which blocks.
    pub range: BlockRange,
    /// Over which path.
    pub path: PathIndex,
}

/// The watch list of a device.
#[derive(Debug, Default)]
pub struct Watch {
    entries: Vec<Entry>,
    /// What was acknowledged last in blocks of watched ranges, since they were released.
    contents: BTreeMap<u64, Content>,
    used: u64,
    last_id: u64,
    repaired: u64,
    block_size: u32,
}

impl Watch {
    /// Nothing to look after.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// For `status`: ranges that are watched, and blocks that were rewritten.
    #[must_use]
    pub fn numbers(&self) -> (u64, u64) {
        (self.watched(), self.repaired)
    }

    /// Ranges that were released without a proof and not looked at yet.
    #[must_use]
    pub fn watched(&self) -> u64 {
        self.entries.iter().filter(|e| e.stage != Stage::Kept).count() as u64
    }

    /// Blocks were rewritten.
    pub fn count_repaired(&mut self, blocks: u64) {
        self.repaired += blocks;
    }

    /// A request is over and a copy of it in doubt: keeps what it holds, if there is room for that and for
    /// what may be written there later.
    pub fn keep(
        &mut self,
        ticket: TicketId,
        range: BlockRange,
        late: Written,
        block_size: u32,
        limit: u64,
    ) {
        let blocks = range.last() - range.start() + 1;
        let later = blocks.saturating_mul(u64::from(block_size));
        let cost = match &late {
            Written::Data(data) => later.saturating_add(data.len() as u64),
            Written::Zeros | Written::Unknown => later,
        };
        if self.used.saturating_add(cost) > limit {
            return;
        }
        self.block_size = block_size;
        self.used += cost;
        self.last_id += 1;
        let (id, stage) = (self.last_id, Stage::Kept);
        self.entries.push(Entry { id, ticket, range, late, cost, stage, copies: SmallVec::new() });
    }

    /// Copies in doubt are to be given up: whether the range may be released for that. It is watched then.
    pub fn release(&mut self, doubt: &InDoubt) -> bool {
        let entry = self.entries.iter_mut().find(|entry| entry.ticket == doubt.ticket);
        let Some(entry) = entry else { return false };
        entry.stage = Stage::Watched;
        entry.copies.push((doubt.nexus, doubt.copies, doubt.since));
        true
    }

    /// Drops what is kept for ranges that are not in doubt any more.
    pub fn settle(&mut self, in_doubt: impl Fn(TicketId) -> bool) {
        let used = &mut self.used;
        self.entries.retain(|entry| {
            let stays = entry.stage != Stage::Kept || in_doubt(entry.ticket);
            *used -= if stays { 0 } else { entry.cost };
            stays
        });
    }

    /// Copies of nexuses that `ends` says are over: what has none left is to be looked at.
    pub fn ended(&mut self, ends: impl Fn(Nexus) -> bool) {
        for entry in &mut self.entries {
            let Some((last, ..)) = entry.copies.iter().find(|(nexus, ..)| ends(*nexus)).copied()
            else {
                continue;
            };
            entry.copies.retain(|(nexus, ..)| !ends(*nexus));
            if entry.copies.is_empty() {
                entry.stage = Stage::Due(last.lane, last.path);
            }
        }
    }

    /// One copy got its own status late, or was aborted.
    pub fn copy_ended(&mut self, ticket: TicketId, nexus: Nexus) {
        let entry = self.entries.iter_mut().find(|entry| entry.ticket == ticket);
        let Some(entry) = entry else { return };
        let Some((_, copies, _)) = entry.copies.iter_mut().find(|(on, ..)| *on == nexus) else {
            return;
        };
        *copies -= 1;
        entry.copies.retain(|(_, copies, _)| *copies > 0);
        if entry.copies.is_empty() {
            entry.stage = Stage::Due(nexus.lane, nexus.path);
        }
    }

    /// Whether copies on this nexus or an earlier session of it were given up: whether a proof is wanted.
    #[must_use]
    pub fn needs_proof(&self, nexus: Nexus) -> bool {
        self.entries.iter().any(|entry| entry.copies.iter().any(|(on, ..)| nexus.covers(*on)))
    }

    /// Since when the eldest copy on exactly this session is in doubt.
    #[must_use]
    pub fn doubted_since(&self, nexus: Nexus) -> Option<Instant> {
        let copies = self.entries.iter().flat_map(|entry| &entry.copies);
        copies.filter(|(on, ..)| *on == nexus).map(|(.., since)| *since).min()
    }

    /// Whole blocks were written and acknowledged (or failed): what belongs in watched ranges is another
    /// thing now. Called before the range of that write is released.
    pub fn written(&mut self, range: BlockRange, what: &Written) {
        for entry in &self.entries {
            if entry.stage == Stage::Kept || !entry.range.overlaps(range) {
                continue;
            }
            let first = entry.range.start().max(range.start());
            let last = entry.range.last().min(range.last());
            for lba in first..=last {
                self.contents.insert(lba, what.block(lba - range.start(), self.block_size));
            }
        }
    }

    /// Paths by which these blocks must not be read: they have not been looked at there.
    #[must_use]
    pub fn unread(&self, lba: u64, blocks: u32) -> PathSet {
        let Some(range) = BlockRange::new(lba, u64::from(blocks)) else { return PathSet::EMPTY };
        let mut paths = PathSet::EMPTY;
        for entry in self.entries.iter().filter(|entry| entry.range.overlaps(range)) {
            match entry.stage {
                Stage::Due(_, path) | Stage::Checking(path) => paths.insert(path),
                Stage::Kept | Stage::Watched => {}
            }
        }
        paths
    }

    /// The next range that this lane has to look at, over one of `paths`.
    pub fn take_due(&mut self, lane: u16, paths: PathSet) -> Option<Due> {
        let entry = self.entries.iter_mut().find(|entry| {
            matches!(entry.stage, Stage::Due(by, path) if by == lane && paths.contains(path))
        })?;
        let Stage::Due(_, path) = entry.stage else { unreachable!("it was just due") };
        entry.stage = Stage::Checking(path);
        Some(Due { id: entry.id, range: entry.range, path })
    }

    /// It could not be looked at: another time.
    pub fn put_back(&mut self, lane: u16, id: u64) {
        let entry = self.entries.iter_mut().find(|entry| entry.id == id);
        let Some(entry) = entry else { return };
        if let Stage::Checking(path) = entry.stage {
            entry.stage = Stage::Due(lane, path);
        }
    }

    /// Compares what a range holds now with what belongs there.
    ///
    /// # Panics
    /// When `found` are not all the blocks of the range.
    #[must_use]
    pub fn compare(&self, id: u64, found: &[u8]) -> Finding {
        let mut finding = Finding::default();
        let Some(entry) = self.entries.iter().find(|entry| entry.id == id) else { return finding };
        let size = self.block_size as usize;
        let blocks = entry.range.last() - entry.range.start() + 1;
        assert_eq!(found.len() as u64, blocks * size as u64, "all blocks of the range");
        for (lba, block) in (entry.range.start()..).zip(found.chunks(size)) {
            let Some(expected) = self.contents.get(&lba) else { continue };
            let Some(bytes) = expected.bytes(size) else { continue };
            if expected.is(block) {
                continue;
            }
            if self.is_late(lba, block) {
                match finding.stale.last_mut() {
                    Some((start, run)) if *start + (run.len() / size) as u64 == lba => {
                        run.extend(bytes);
                    }
                    _ => finding.stale.push((lba, bytes)),
                }
            } else {
                finding.foreign += 1;
            }
        }
        finding
    }

    /// Whether a block is one of a late write.
    fn is_late(&self, lba: u64, block: &[u8]) -> bool {
        let there = BlockRange::new(lba, 1).expect("a block");
        self.entries.iter().any(|entry| {
            entry.stage != Stage::Kept
                && entry.range.overlaps(there)
                && entry.late.block(lba - entry.range.start(), self.block_size).is(block)
        })
    }

    /// A range was looked at and is right now.
    pub fn done(&mut self, id: u64) {
        let Some(place) = self.entries.iter().position(|entry| entry.id == id) else { return };
        let entry = self.entries.swap_remove(place);
        self.used -= entry.cost;
        let entries = &self.entries;
        let watched = |lba: u64| {
            let there = BlockRange::new(lba, 1).expect("a block");
            entries.iter().any(|e| e.stage != Stage::Kept && e.range.overlaps(there))
        };
        self.contents.retain(|lba, _| watched(*lba));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::path::{Fence, FenceMode, Grant, Ledger, Owner};

    const BLOCK: u32 = 4;

    fn range(start: u64, blocks: u64) -> BlockRange {
        BlockRange::new(start, blocks).expect("a range")
    }

    fn nexus(path: usize) -> Nexus {
        Nexus { lane: 0, path: PathIndex::new(path), generation: 1, group: Some(1) }
    }

    fn data(blocks: &[u8]) -> Written {
        Written::Data(blocks.iter().flat_map(|byte| [*byte; BLOCK as usize]).collect())
    }

    fn bytes(blocks: &[u8]) -> Vec<u8> {
        blocks.iter().flat_map(|byte| [*byte; BLOCK as usize]).collect()
    }

    /// Tickets of a ledger.
    fn tickets(ranges: &[BlockRange]) -> Vec<TicketId> {
        let fence = Fence { mode: FenceMode::Overlap, timeout: crate::base::Duration::MAX };
        let mut ledger = Ledger::new(fence, 512, 8);
        let owner = Owner { lane: 0, token: 0 };
        let ticket = |range: &BlockRange| match ledger.acquire(*range, owner) {
            Grant::Taken(ticket) | Grant::Wait(ticket) => ticket,
            Grant::Full => panic!("full"),
        };
        ranges.iter().map(ticket).collect()
    }

    fn doubt(ticket: TicketId) -> InDoubt {
        let owner = Owner { lane: 0, token: 0 };
        let (range, since) = (range(0, 1), Instant::from_millis(7));
        InDoubt { ticket, range, owner, nexus: nexus(0), copies: 1, since, answered: true }
    }

    /// Ranges that are watched, each with a copy on path 0.
    fn watching(writes: &[(BlockRange, Written)]) -> (Watch, Vec<TicketId>) {
        let ranges: Vec<BlockRange> = writes.iter().map(|(range, _)| *range).collect();
        let tickets = tickets(&ranges);
        let mut watch = Watch::default();
        for ((range, late), ticket) in writes.iter().zip(&tickets) {
            watch.keep(*ticket, *range, late.clone(), BLOCK, 1 << 20);
            assert!(watch.release(&doubt(*ticket)));
        }
        (watch, tickets)
    }

    #[test]
    fn only_blocks_of_the_late_write_under_a_newer_one_are_stale() {
        let (mut w, _) = watching(&[(range(10, 4), data(&[1, 2, 3, 4]))]);
        w.written(range(9, 3), &data(&[7, 8, 9]));
        assert!(w.take_due(0, PathSet::only(PathIndex::new(0))).is_none(), "no proof yet");
        assert!(w.needs_proof(nexus(0)) && !w.needs_proof(nexus(1)));
        assert_eq!(w.doubted_since(nexus(0)), Some(Instant::from_millis(7)));
        assert_eq!(w.doubted_since(Nexus { generation: 2, ..nexus(0) }), None, "another session");
        w.ended(|on| nexus(0).covers(on));
        let path = PathIndex::new(0);
        assert_eq!(w.unread(12, 1), PathSet::only(path));
        assert_eq!(w.unread(14, 1), PathSet::EMPTY);
        assert!(w.take_due(1, PathSet::only(path)).is_none(), "another lane's");
        assert!(w.take_due(0, PathSet::only(PathIndex::new(1))).is_none(), "not by that path");
        let due = w.take_due(0, PathSet::only(path)).expect("due");
        assert_eq!((due.range, due.path), (range(10, 4), path));
        assert!(w.take_due(0, PathSet::only(path)).is_none(), "once");
        // As it should be; hit by the late write; hit by somebody else.
        assert_eq!(w.compare(due.id, &bytes(&[8, 9, 3, 4])), Finding::default());
        let hit = w.compare(due.id, &bytes(&[1, 2, 3, 4]));
        assert_eq!(hit, Finding { stale: vec![(10, bytes(&[8, 9]))], foreign: 0 });
        let other = w.compare(due.id, &bytes(&[1, 5, 6, 6]));
        assert_eq!(other, Finding { stale: vec![(10, bytes(&[8]))], foreign: 1 });
        w.put_back(0, due.id);
        let due = w.take_due(0, PathSet::only(path)).expect("due again");
        w.done(due.id);
        assert!(w.is_empty() && w.contents.is_empty() && w.used == 0);
    }

    #[test]
    fn the_newest_acknowledged_write_counts_and_what_is_unknown_is_left_alone() {
        let (mut w, _) = watching(&[(range(0, 3), data(&[1, 1, 1]))]);
        w.written(range(0, 1), &data(&[2]));
        w.written(range(0, 1), &Written::Zeros);
        w.written(range(1, 1), &data(&[3]));
        w.written(range(1, 1), &Written::Unknown);
        w.ended(|_| true);
        let due = w.take_due(0, PathSet::only(PathIndex::new(0))).expect("due");
        let found = w.compare(due.id, &bytes(&[1, 1, 1]));
        assert_eq!(found, Finding { stale: vec![(0, bytes(&[0]))], foreign: 0 });
    }

    #[test]
    fn two_late_writes_of_a_block_are_both_known() {
        let (mut w, tickets) =
            watching(&[(range(0, 2), data(&[1, 1])), (range(1, 2), Written::Zeros)]);
        w.written(range(0, 3), &data(&[7, 8, 9]));
        w.copy_ended(tickets[0], nexus(0));
        let due = w.take_due(0, PathSet::only(PathIndex::new(0))).expect("the first");
        let found = w.compare(due.id, &bytes(&[1, 0]));
        assert_eq!(found.stale, [(0, bytes(&[7, 8]))]);
        w.done(due.id);
        assert_eq!(w.watched(), 1);
        assert_eq!(w.contents.len(), 2, "what the second one needs stays");
        w.copy_ended(tickets[1], nexus(1));
        assert_eq!(w.unread(1, 1), PathSet::EMPTY, "no copy of it was there");
    }

    #[test]
    fn what_does_not_fit_is_not_released_and_what_was_proven_is_dropped() {
        let ranges = [range(0, 2), range(2, 2), range(4, 2)];
        let tickets = tickets(&ranges);
        let mut w = Watch::default();
        // Twice two blocks, once for zeros.
        w.keep(tickets[0], ranges[0], data(&[1, 1]), BLOCK, 40);
        w.keep(tickets[1], ranges[1], data(&[1, 1]), BLOCK, 31);
        w.keep(tickets[2], ranges[2], Written::Zeros, BLOCK, 24);
        assert!(!w.release(&doubt(tickets[1])), "there was no room");
        assert_eq!((w.watched(), w.used), (0, 24));
        w.settle(|ticket| ticket == tickets[2]);
        assert_eq!(w.used, 8);
        assert!(!w.release(&doubt(tickets[0])), "proven before");
        assert!(w.release(&doubt(tickets[2])));
        w.settle(|_| false);
        assert_eq!(w.watched(), 1, "it is released, and not in doubt for the ledger");
    }
}
