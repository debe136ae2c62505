//! What was executed, in the order in which the medium saw it: the witness of the tests.
//!
//! One journal serves both nodes of a pair, because the question is always about both: did W1 by
//! node 0 land after W2 by node 1? A state-changing command is recorded and applied under one lock,
//! so the order of the records *is* the order of the contents. Deliberately not here: any judgement;
//! a checker reads the records.

use crate::base::Instant;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Who executed a command: one I_T nexus as the target sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Nexus {
    /// Which node of the pair, 0 or 1.
    pub node: u8,
    /// The initiator session identifier of the login.
    pub isid: [u8; 6],
    /// The session handle that this node gave: a session that was reinstated has another one.
    pub tsih: u16,
}

/// One executed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Position over both nodes, from 0, without gaps.
    pub sequence: u64,
    /// When the command had arrived with all its data.
    pub received_at: Instant,
    /// When it was executed.
    pub executed_at: Instant,
    /// Who sent it.
    pub nexus: Nexus,
    /// The initiator's task tag.
    pub task_tag: u32,
    /// The command's sequence number.
    pub command_sn: u32,
    /// SCSI operation code.
    pub opcode: u8,
    /// First logical block; 0 where the command has none.
    pub lba: u64,
    /// Logical blocks.
    pub blocks: u64,
    /// CRC32C of the data written (for WRITE SAME of its one block); 0 without data.
    pub checksum: u32,
    /// Whether the session that sent it was gone when it was executed.
    pub orphaned: bool,
}

impl Record {
    /// Whether this record touches any of `blocks` blocks from `lba`.
    #[must_use]
    pub fn overlaps(&self, lba: u64, blocks: u64) -> bool {
        let (end, other_end) = (self.lba.saturating_add(self.blocks), lba.saturating_add(blocks));
        self.lba < other_end && lba < end
    }
}

/// Which commands are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// Nothing: for benchmarks.
    Off,
    /// Commands that change the medium, and SYNCHRONIZE CACHE.
    #[default]
    Changes,
    /// Reads too.
    All,
}

/// The records, newest kept: bounded, so that a long run does not fill the memory.
#[derive(Debug)]
pub struct Journal {
    scope: Scope,
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: VecDeque<Record>,
    next: u64,
}

/// Records kept unless the configuration says otherwise.
pub const CAPACITY: usize = 1 << 20;

impl Journal {
    /// An empty journal that keeps the last `capacity` records.
    #[must_use]
    pub fn new(scope: Scope, capacity: usize) -> Journal {
        Journal { scope, capacity: capacity.max(1), inner: Mutex::default() }
    }

    /// Whether reads are recorded.
    #[must_use]
    pub fn wants_reads(&self) -> bool {
        self.scope == Scope::All
    }

    /// Records `record` (its sequence is set here) and runs `apply` before any other change can.
    pub fn change<T>(&self, mut record: Record, apply: impl FnOnce() -> T) -> T {
        if self.scope == Scope::Off {
            return apply();
        }
        let mut inner = self.lock();
        record.sequence = inner.next;
        inner.next += 1;
        if inner.records.len() == self.capacity {
            inner.records.pop_front();
        }
        inner.records.push_back(record);
        apply()
    }

    /// A copy of all kept records, oldest first.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.lock().records.iter().cloned().collect()
    }

    /// The kept records that touch the range, oldest first.
    #[must_use]
    pub fn touching(&self, lba: u64, blocks: u64) -> Vec<Record> {
        self.lock().records.iter().filter(|r| r.overlaps(lba, blocks)).cloned().collect()
    }

    /// Commands recorded since the start, those no longer kept included.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.lock().next
    }

    /// Forgets the records; the sequence goes on.
    pub fn clear(&self) {
        self.lock().records.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves at worst one record without its change; the witness still counts.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(lba: u64, blocks: u64) -> Record {
        Record {
            sequence: 0,
            received_at: Instant::ZERO,
            executed_at: Instant::ZERO,
            nexus: Nexus::default(),
            task_tag: 1,
            command_sn: 1,
            opcode: 0x8a,
            lba,
            blocks,
            checksum: 0,
            orphaned: false,
        }
    }

    #[test]
    fn keeps_the_newest_and_counts_all() {
        let journal = Journal::new(Scope::Changes, 2);
        for lba in 0..5 {
            assert_eq!(journal.change(record(lba, 1), || lba), lba);
        }
        let kept: Vec<_> = journal.records().iter().map(|r| (r.sequence, r.lba)).collect();
        assert_eq!((kept, journal.count()), (vec![(3, 3), (4, 4)], 5));
    }

    #[test]
    fn ranges_that_only_touch_do_not_overlap() {
        assert!(record(8, 8).overlaps(15, 1));
        assert!(!record(8, 8).overlaps(16, 1));
        assert!(!record(8, 8).overlaps(0, 8));
        assert!(!record(u64::MAX, 1).overlaps(0, u64::MAX));
        assert!(!record(8, 0).overlaps(8, 0));
    }
}
