//! Who sends LOGICAL UNIT RESET: one at a time per target and logical unit, for all lanes of a device.
//!
//! A reset ends the commands of every session of a unit, so that one answer is good for all lanes: for each
//! session that had been logged into again *before* the reset was sent, and that no other command has used
//! since. Those *wait* here. Whoever may send the reset is its *runner*; the answer frees what waited when
//! it was sent. After a timeout another one may run, and only the newest answer counts (a target may keep
//! one slot for the task management of a unit).
//!
//! Deliberately not here: sending it, and what the answer does to the ledger.

use crate::base::{Duration, Instant};
use crate::path::Nexus;
use smallvec::SmallVec;

/// A logical unit as a target shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitKey {
    /// The target's iSCSI name.
    pub target: String,
    /// The 8-byte LUN field.
    pub lun: u64,
}

/// A session that must not be used before a reset was answered: what it is, and whose proof it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// The session that has just logged in.
    pub nexus: Nexus,
    /// The same nexus as an earlier process of ours has left it, if it has.
    pub inherited: Option<Nexus>,
}

/// All that wait, small enough for the stack.
pub type Waiters = SmallVec<[Waiting; 4]>;

struct Running {
    serial: u32,
    by: Nexus,
    since: Instant,
    frees: Waiters,
}

struct Unit {
    key: UnitKey,
    waiting: Waiters,
    running: Option<Running>,
}

/// The resets of one device.
#[derive(Default)]
pub struct Resets {
    units: Vec<Unit>,
    serial: u32,
}

impl Resets {
    fn unit(&mut self, key: &UnitKey) -> &mut Unit {
        let place = match self.units.iter().position(|unit| unit.key == *key) {
            Some(place) => place,
            None => {
                let waiting = Waiters::new();
                self.units.push(Unit { key: key.clone(), waiting, running: None });
                self.units.len() - 1
            }
        };
        &mut self.units[place]
    }

    /// A session that has logged in waits for the next reset of its unit that is sent from now on.
    pub fn wait(&mut self, key: &UnitKey, waiting: Waiting) {
        let unit = self.unit(key);
        assert!(!unit.waiting.contains(&waiting), "{waiting:?} waits once");
        unit.waiting.push(waiting);
    }

    /// Makes `by` the runner, unless somebody else's reset has been out for less than `patience`. Returns
    /// the number of the reset.
    pub fn begin(
        &mut self,
        now: Instant,
        key: &UnitKey,
        by: Nexus,
        patience: Duration,
    ) -> Option<u32> {
        let serial = self.serial.wrapping_add(1);
        let unit = self.unit(key);
        if unit.running.as_ref().is_some_and(|r| now < r.since + patience) {
            return None;
        }
        let frees = unit.waiting.clone();
        unit.running = Some(Running { serial, by, since: now, frees });
        self.serial = serial;
        Some(serial)
    }

    /// The reset was answered with response 0: who is free now. `None` when it is not the newest one.
    pub fn answered(&mut self, key: &UnitKey, serial: u32) -> Option<Waiters> {
        let unit = self.unit(key);
        let running = unit.running.take_if(|r| r.serial == serial)?;
        // Who has gone meanwhile is not waiting any more, and its nexus is to be logged into again.
        let mut frees = running.frees;
        frees.retain(|freed| unit.waiting.contains(freed));
        unit.waiting.retain(|waiting| !frees.contains(waiting));
        Some(frees)
    }

    /// The reset was refused, could not be sent, or was not answered in time.
    pub fn failed(&mut self, key: &UnitKey, serial: u32) {
        let _ = self.unit(key).running.take_if(|r| r.serial == serial);
    }

    /// A session does not wait any more: it ended, or needs no proof now. Returns whether others wait for a
    /// reset that it was running.
    pub fn gone(&mut self, key: &UnitKey, nexus: Nexus) -> bool {
        let unit = self.unit(key);
        unit.waiting.retain(|waiting| waiting.nexus != nexus);
        unit.running.take_if(|r| r.by == nexus).is_some() && !unit.waiting.is_empty()
    }

    /// Lanes with sessions that wait.
    #[must_use]
    pub fn lanes(&mut self, key: &UnitKey) -> SmallVec<[u16; 4]> {
        let mut lanes = SmallVec::new();
        for waiting in &self.unit(key).waiting {
            if !lanes.contains(&waiting.nexus.lane) {
                lanes.push(waiting.nexus.lane);
            }
        }
        lanes
    }

    /// The lane that runs a reset of this unit, and since when.
    #[must_use]
    pub fn running(&self, key: &UnitKey) -> Option<(u16, Instant)> {
        let unit = self.units.iter().find(|unit| unit.key == *key)?;
        unit.running.as_ref().map(|r| (r.by.lane, r.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::PathIndex;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn nexus(lane: u16, generation: u64) -> Nexus {
        Nexus { lane, path: PathIndex::new(0), generation, group: Some(1) }
    }

    fn waiting(lane: u16, generation: u64) -> Waiting {
        Waiting { nexus: nexus(lane, generation), inherited: None }
    }

    fn key(target: &str) -> UnitKey {
        UnitKey { target: target.to_owned(), lun: 1 }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    #[test]
    fn one_at_a_time_for_each_unit_and_it_frees_who_waited_when_it_was_sent() {
        let (mut r, a) = (Resets::default(), key("a"));
        r.wait(&a, waiting(0, 1));
        r.wait(&a, waiting(1, 1));
        let first = r.begin(at(0), &a, nexus(0, 1), PATIENCE).expect("nobody runs one");
        assert_eq!(r.begin(at(1), &a, nexus(1, 1), PATIENCE), None);
        assert!(r.begin(at(1), &key("b"), nexus(1, 1), PATIENCE).is_some(), "another unit");
        r.wait(&a, waiting(2, 1));
        assert_eq!(r.running(&a), Some((0, at(0))));
        let freed = r.answered(&a, first).expect("the newest");
        assert_eq!(freed[..], [waiting(0, 1), waiting(1, 1)]);
        assert_eq!(r.lanes(&a)[..], [2], "it logged in after the reset was sent");
        assert_eq!(r.answered(&a, first), None, "answered once");
        assert!(r.begin(at(2), &a, nexus(2, 1), PATIENCE).is_some());
    }

    #[test]
    fn after_a_timeout_only_the_newest_answer_counts() {
        let (mut r, a) = (Resets::default(), key("a"));
        r.wait(&a, waiting(0, 1));
        let old = r.begin(at(0), &a, nexus(0, 1), PATIENCE).expect("first");
        let new = r.begin(at(30), &a, nexus(1, 1), PATIENCE).expect("overdue");
        assert_eq!(r.answered(&a, old), None);
        r.failed(&a, old);
        assert_eq!(r.answered(&a, new).expect("the newest")[..], [waiting(0, 1)]);
    }

    #[test]
    fn a_session_that_ends_is_not_freed_and_lets_another_one_run() {
        let (mut r, a) = (Resets::default(), key("a"));
        r.wait(&a, waiting(0, 1));
        r.wait(&a, waiting(1, 1));
        r.begin(at(0), &a, nexus(0, 1), PATIENCE).expect("first");
        assert!(r.gone(&a, nexus(0, 1)));
        assert!(!r.gone(&a, nexus(0, 1)));
        let next = r.begin(at(1), &a, nexus(1, 1), PATIENCE).expect("its runner is gone");
        // It logs in again behind the reset.
        r.wait(&a, waiting(0, 2));
        assert_eq!(r.answered(&a, next).expect("the newest")[..], [waiting(1, 1)]);
        let last = r.begin(at(2), &a, nexus(0, 2), PATIENCE).expect("free");
        r.failed(&a, last);
        assert!(r.begin(at(2), &a, nexus(0, 2), PATIENCE).is_some());
    }
}
