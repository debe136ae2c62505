//! Judges what clients saw of one cell. Knows nothing of the product: only when each request began, when it
//! was answered, and what it wrote or read.
//!
//! Every write of a cell has a value of its own, except zeros. Without zeros a history of one cell is in
//! order (linearizable) exactly when its *zones* agree (Gibbons and Korach, Testing shared memories, 1997):
//! the zone of a value runs from the first end to the last begin among its write and its reads. If the end
//! comes first the zone is forward, else backward; no two forward zones overlap, and no backward zone lies
//! inside a forward one. Leaving the writes and reads of one value out of a legal order leaves it legal, so
//! the zones of the other values must agree with zeros about as well; and for every read, that of zeros
//! too, there must be a write that could have been the last before it.

use std::collections::HashMap;

/// What reads as never written, and as zeroed.
pub const ZERO: u64 = 0;

#[derive(Debug, Default, Clone, Copy)]
struct Cluster {
    write: Option<(u64, u64)>,
    first_end: u64,
    last_begin: u64,
    reads: u32,
    first_read_end: u64,
}

#[derive(Debug, Clone, Copy)]
struct Wrote {
    value: u64,
    began: u64,
    ended: u64,
    /// It may have changed nothing (TRIM).
    maybe: bool,
    /// It has no good answer, and since then nobody waits for one.
    over: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Read {
    value: u64,
    began: u64,
    ended: u64,
}

/// What happened to one cell, on a clock that ticks once for each begin and each end.
#[derive(Debug, Default)]
pub struct Cell {
    values: HashMap<u64, Cluster>,
    writes: Vec<Wrote>,
    reads: Vec<Read>,
    zeroed: bool,
}

impl Cell {
    /// A cell that reads as zeros from the start.
    #[must_use]
    pub fn zeros() -> Cell {
        let mut cell = Cell::default();
        cell.wrote(ZERO, 0, Some(0));
        cell.zeroed = false;
        cell
    }

    /// A write; one without a good answer may take effect at any later time, or never.
    ///
    /// # Panics
    /// When a value other than [`ZERO`] is written twice: the load is wrong then.
    pub fn wrote(&mut self, value: u64, began: u64, ended: Option<u64>) {
        let ended = ended.unwrap_or(u64::MAX);
        self.writes.push(Wrote { value, began, ended, maybe: false, over: None });
        if value == ZERO && began > 0 {
            self.zeroed = true;
            return;
        }
        let cluster = self.values.entry(value).or_insert_with(Cell::fresh);
        assert!(cluster.write.is_none(), "value {value:#x} was written twice");
        cluster.write = Some((began, ended));
        cluster.first_end = cluster.first_end.min(ended);
        cluster.last_begin = cluster.last_begin.max(began);
    }

    /// Zeros that may have changed nothing, or only a part.
    pub fn trimmed(&mut self, began: u64, ended: Option<u64>) {
        self.zeroed = true;
        let ended = ended.unwrap_or(u64::MAX);
        self.writes.push(Wrote { value: ZERO, began, ended, maybe: true, over: None });
    }

    /// Nobody waits any more for the answer of the last write, or it was refused. It may still take effect;
    /// but a write that begins from now on and is answered well comes after it.
    ///
    /// # Panics
    /// When there was none.
    pub fn over(&mut self, at: u64) {
        self.writes.last_mut().expect("there was a write").over = Some(at);
    }

    /// A read that was answered.
    pub fn read(&mut self, value: u64, began: u64, ended: u64) {
        self.reads.push(Read { value, began, ended });
        let cluster = self.values.entry(value).or_insert_with(Cell::fresh);
        cluster.reads += 1;
        cluster.first_end = cluster.first_end.min(ended);
        cluster.first_read_end = cluster.first_read_end.min(ended);
        cluster.last_begin = cluster.last_begin.max(began);
    }

    fn fresh() -> Cluster {
        Cluster { first_end: u64::MAX, first_read_end: u64::MAX, ..Cluster::default() }
    }

    /// Whether some order explains every read.
    ///
    /// # Errors
    /// What is wrong, for a reader.
    pub fn check(&self) -> Result<(), String> {
        self.check_zones()?;
        self.check_late()?;
        if self.zeroed { self.check_reads() } else { Ok(()) }
    }

    fn check_zones(&self) -> Result<(), String> {
        let mut zones: Vec<(u64, u64, u64, bool)> = Vec::new();
        for (value, cluster) in &self.values {
            if *value == ZERO && self.zeroed {
                continue;
            }
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
        zones.sort_unstable();
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

    /// What nobody waited for any more is not seen once a later write was answered.
    fn check_late(&self) -> Result<(), String> {
        for write in self.writes.iter().filter(|w| w.value != ZERO) {
            let Some(over) = write.over else { continue };
            let later = self.writes.iter().filter(|w| !w.maybe && w.began > over);
            let Some(buried) = later.map(|w| w.ended).min() else { continue };
            let seen = self.reads.iter().find(|r| r.value == write.value && r.began > buried);
            if let Some(read) = seen {
                return Err(format!(
                    "{:#x} is read from {} to {}; it was given up at {over}, and a write that began after \
                     that was answered at {buried}",
                    write.value, read.began, read.ended
                ));
            }
        }
        Ok(())
    }

    /// Some write of the value may have been the last one before each read.
    fn check_reads(&self) -> Result<(), String> {
        for read in &self.reads {
            let of_value =
                self.writes.iter().filter(|w| w.value == read.value && w.began < read.ended);
            let overwritten = |w: &Wrote| {
                let certain = self.writes.iter().filter(|other| !other.maybe);
                certain.into_iter().any(|other| w.ended < other.began && other.ended < read.began)
            };
            if !of_value.into_iter().any(|w| !overwritten(w)) {
                return Err(format!(
                    "{:#x} is read from {} to {}, but was overwritten before",
                    read.value, read.began, read.ended
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_write_is_found() {
        let mut cell = Cell::zeros();
        cell.wrote(1, 1, Some(2));
        cell.wrote(2, 3, Some(4));
        assert_eq!(cell.check(), Ok(()));
        cell.read(2, 5, 6);
        assert_eq!(cell.check(), Ok(()));
        cell.read(1, 7, 8);
        assert!(cell.check().is_err(), "the old value came back");
    }

    #[test]
    fn a_lost_write_is_found_and_open_ones_are_allowed() {
        let mut cell = Cell::zeros();
        cell.wrote(1, 1, Some(2));
        cell.read(0, 3, 4);
        assert!(cell.check().is_err());
        let mut cell = Cell::zeros();
        cell.wrote(1, 1, None);
        cell.read(0, 3, 4);
        cell.read(1, 5, 6);
        assert_eq!(cell.check(), Ok(()));
        cell.read(0, 7, 8);
        assert!(cell.check().is_err());
        let mut cell = Cell::zeros();
        cell.wrote(1, 1, Some(9));
        cell.wrote(2, 2, Some(8));
        cell.read(2, 3, 4);
        cell.read(1, 5, 6);
        assert_eq!(cell.check(), Ok(()));
        cell.read(9, 5, 6);
        assert!(cell.check().is_err());
    }

    /// A write of a client that is gone may land late, but never over one that began after that.
    #[test]
    fn a_write_that_was_given_up_does_not_come_late() {
        let history = |given_up: bool| {
            let mut cell = Cell::zeros();
            cell.wrote(1, 1, None);
            if given_up {
                cell.over(2);
            }
            cell.read(0, 3, 4);
            cell.wrote(2, 5, Some(8));
            cell.read(1, 6, 7);
            cell
        };
        let mut cell = history(true);
        assert_eq!(cell.check(), Ok(()), "late, and before the next write");
        cell.read(2, 9, 10);
        assert_eq!(cell.check(), Ok(()));
        for (given_up, found) in [(false, false), (true, true)] {
            let mut cell = Cell::zeros();
            cell.wrote(1, 1, None);
            if given_up {
                cell.over(2);
            }
            cell.wrote(2, 5, Some(8));
            cell.read(1, 9, 10);
            assert_eq!(cell.check().is_err(), found, "over a newer one");
        }
        let mut cell = Cell::zeros();
        cell.wrote(1, 1, None);
        cell.wrote(2, 2, Some(8));
        cell.over(9);
        cell.read(1, 10, 11);
        assert_eq!(cell.check(), Ok(()), "they were under way together");
    }

    #[test]
    fn zeros_come_and_go_and_still_bury_what_was_before() {
        let mut cell = Cell::zeros();
        cell.wrote(1, 1, Some(2));
        cell.wrote(ZERO, 3, Some(4));
        cell.read(0, 5, 6);
        cell.wrote(2, 7, Some(8));
        cell.wrote(ZERO, 9, None);
        cell.read(2, 11, 12);
        cell.read(0, 13, 14);
        assert_eq!(cell.check(), Ok(()));
        cell.read(1, 15, 16);
        assert!(cell.check().is_err(), "zeros were written over it");
    }

    #[test]
    fn zeros_that_were_overwritten_do_not_come_back() {
        let mut cell = Cell::zeros();
        cell.wrote(ZERO, 1, Some(2));
        cell.wrote(2, 3, Some(4));
        cell.read(0, 5, 6);
        assert!(cell.check().is_err());
    }

    #[test]
    fn a_trim_may_do_nothing_but_not_late() {
        let mut cell = Cell::zeros();
        cell.wrote(1, 1, Some(2));
        cell.trimmed(3, Some(4));
        cell.read(1, 5, 6);
        assert_eq!(cell.check(), Ok(()));
        cell.read(0, 7, 8);
        assert_eq!(cell.check(), Ok(()), "told later that it was done");
        cell.wrote(2, 9, Some(10));
        cell.read(0, 11, 12);
        assert!(cell.check().is_err());
    }
}
