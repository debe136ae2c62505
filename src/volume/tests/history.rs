//! Judges a history of writes and reads of single blocks. Knows nothing of the product: only when each
//! request began, when it was answered, and what it wrote or read.
//!
//! Every write of a block has a value of its own. Then a history of one block is in order (linearizable)
//! exactly when its *zones* agree (Gibbons and Korach, Testing shared memories, 1997): the zone of a value
//! runs from the first end to the last begin among its write and its reads. If the end comes first the zone
//! is forward, else backward; no two forward zones overlap, and no backward zone lies inside a forward one.

use std::collections::HashMap;

/// Begin and end of requests, by token; on a clock that ticks once for each.
#[derive(Default)]
pub(super) struct Stamps {
    began: HashMap<u64, u64>,
    ended: HashMap<u64, u64>,
}

impl Stamps {
    pub(super) fn began(&mut self, token: u64, at: u64) {
        self.began.insert(token, at);
    }

    pub(super) fn ended(&mut self, token: u64, at: u64) {
        self.ended.insert(token, at);
    }

    pub(super) fn of(&self, token: u64) -> (u64, Option<u64>) {
        (self.began[&token], self.ended.get(&token).copied())
    }
}

#[derive(Default, Clone, Copy)]
struct Cluster {
    write: Option<(u64, u64)>,
    first_end: u64,
    last_begin: u64,
    reads: u32,
    first_read_end: u64,
}

/// What happened to one block.
#[derive(Default)]
pub(super) struct Block {
    values: HashMap<u64, Cluster>,
}

impl Block {
    /// A block that reads as `value` from the start.
    pub(super) fn starting(value: u64) -> Block {
        let mut block = Block::default();
        block.write(value, 0, Some(0));
        block
    }

    /// A write; one without a good answer may take effect at any later time, or never.
    pub(super) fn write(&mut self, value: u64, began: u64, ended: Option<u64>) {
        let cluster = self.values.entry(value).or_insert_with(Block::fresh);
        assert!(cluster.write.is_none(), "value {value:#x} was written twice");
        let ended = ended.unwrap_or(u64::MAX);
        cluster.write = Some((began, ended));
        cluster.first_end = cluster.first_end.min(ended);
        cluster.last_begin = cluster.last_begin.max(began);
    }

    /// A read that was answered.
    pub(super) fn read(&mut self, value: u64, began: u64, ended: u64) {
        let cluster = self.values.entry(value).or_insert_with(Block::fresh);
        cluster.reads += 1;
        cluster.first_end = cluster.first_end.min(ended);
        cluster.first_read_end = cluster.first_read_end.min(ended);
        cluster.last_begin = cluster.last_begin.max(began);
    }

    fn fresh() -> Cluster {
        Cluster { first_end: u64::MAX, first_read_end: u64::MAX, ..Cluster::default() }
    }

    /// What is wrong, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut zones: Vec<(u64, u64, u64, bool)> = Vec::new();
        for (value, cluster) in &self.values {
            let Some((began, ended)) = cluster.write else {
                return Err(format!("read {value:#x}, which nobody wrote"));
            };
            if cluster.first_read_end < began {
                return Err(format!("{value:#x} was read before it was written"));
            }
            if ended == u64::MAX && cluster.reads == 0 {
                continue;
            }
            let (f, s) = (cluster.first_end, cluster.last_begin);
            zones.push((f.min(s), f.max(s), *value, f < s));
        }
        for (from, to, value, forward) in &zones {
            for (other_from, other_to, other, other_forward) in &zones {
                if value == other || !forward {
                    continue;
                }
                let wrong = match other_forward {
                    true => from < other_to && other_from < to,
                    false => from < other_from && other_to < to,
                };
                if wrong {
                    return Err(format!(
                        "{value:#x} is seen from {from} to {to}, {other:#x} from {other_from} to {other_to}"
                    ));
                }
            }
        }
        Ok(())
    }
}

#[test]
fn the_checker_finds_a_late_write() {
    let mut block = Block::starting(0);
    block.write(1, 1, Some(2));
    block.write(2, 3, Some(4));
    assert_eq!(block.check(), Ok(()));
    block.read(2, 5, 6);
    assert_eq!(block.check(), Ok(()));
    block.read(1, 7, 8);
    assert!(block.check().is_err(), "the old value came back");
}

#[test]
fn the_checker_finds_a_lost_write_and_allows_open_ones() {
    let mut block = Block::starting(0);
    block.write(1, 1, Some(2));
    block.read(0, 3, 4);
    assert!(block.check().is_err());
    let mut block = Block::starting(0);
    block.write(1, 1, None);
    block.read(0, 3, 4);
    block.read(1, 5, 6);
    assert_eq!(block.check(), Ok(()));
    block.read(0, 7, 8);
    assert!(block.check().is_err());
    let mut block = Block::starting(0);
    block.write(1, 1, Some(9));
    block.write(2, 2, Some(8));
    block.read(2, 3, 4);
    block.read(1, 5, 6);
    assert_eq!(block.check(), Ok(()));
    block.read(9, 5, 6);
    assert!(block.check().is_err());
}
