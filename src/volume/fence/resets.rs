//! Who sends LOGICAL UNIT RESET: one at a time per target and logical unit, for all lanes of a device.
//!
//! A reset ends the commands of every session of a unit, so that one answer is good for all lanes: for each
//! session that had been logged into again *before* the reset was sent, and that no other command has used
//! since. Those *wait* here. Whoever may send the reset is its *runner*; the answer frees what waited when
//! it was sent. After a timeout another one may run, and only the newest answer counts (a target may keep
//! one slot for the task management of a unit).
//!
//! LIO (Linux 6.1) never answers a reset that finds a write of *another* session waiting for its data, and
//! its portal lets that nexus in no more. So a reset is first *prepared*: the paths in its *reach* (all to its
//! target) are hushed on all lanes, and it is sent when every lane has said that no write of its sessions there
//! is on its way. A session that has ended with such writes counts as well, until its nexus is logged into
//! again, or for a time in which any target has noticed. And a reset whose session ends before the target must
//! have it may arrive late: its paths stay hushed for as long.
//!
//! Deliberately not here: sending it, what hushing means to a lane ([`quiet`](super::quiet)), and what the
//! answer does to the ledger.

use crate::base::{Duration, Instant};
use crate::path::{Nexus, PathIndex, PathSet};
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

/// How far a reset is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Its paths are hushed; these lanes have nothing on its way there.
    Prepared { quiet: SmallVec<[u16; 4]> },
    /// It is out; its paths are hushed until the target must have it.
    Sent { hushed: bool },
}

struct Running {
    serial: u32,
    by: Nexus,
    since: Instant,
    reach: PathSet,
    stage: Stage,
    frees: Waiters,
}

impl Running {
    fn is_agreed(&self, lanes: u16) -> bool {
        matches!(&self.stage, Stage::Prepared { quiet } if quiet.len() == usize::from(lanes))
    }

    fn hushes(&self) -> PathSet {
        match self.stage {
            Stage::Prepared { .. } | Stage::Sent { hushed: true } => self.reach,
            Stage::Sent { hushed: false } => PathSet::EMPTY,
        }
    }
}

struct Unit {
    key: UnitKey,
    waiting: Waiters,
    running: Option<Running>,
}

/// A reset that a lane has not agreed to yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Of which unit.
    pub key: UnitKey,
    /// Its number.
    pub serial: u32,
    /// The session that will send it.
    pub by: Nexus,
    /// Paths that nothing may be on its way by.
    pub reach: PathSet,
}

/// Whose session has ended with writes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Ours.
    Session {
        /// Its lane.
        lane: u16,
        /// Its path.
        path: PathIndex,
    },
    /// An earlier process's: it may have had some.
    Inherited {
        /// The nexus, as [`Nexus::inherited`] names it.
        index: usize,
    },
}

/// The resets of one device.
#[derive(Default)]
pub struct Resets {
    units: Vec<Unit>,
    serial: u32,
    /// What sessions have left on its way to which target, and until when that counts.
    left: Vec<(Left, String, Instant)>,
    /// Resets that may still arrive, the paths that feel them, and until when that counts.
    late: Vec<(Left, PathSet, Instant)>,
    version: u64,
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

    /// Changes when lanes have to look at [`hushed`](Resets::hushed) again.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A session that has logged in waits for the next reset of its unit that is sent from now on.
    pub fn wait(&mut self, key: &UnitKey, waiting: Waiting) {
        let unit = self.unit(key);
        assert!(!unit.waiting.contains(&waiting), "{waiting:?} waits once");
        unit.waiting.push(waiting);
    }

    /// Makes `by` the runner of a reset that all sessions of the paths in `reach` feel, unless somebody else's
    /// has been out for less than `patience`, or a session there has ended with writes on their way. Returns
    /// the number of the reset, which is prepared now.
    pub fn prepare(
        &mut self,
        now: Instant,
        key: &UnitKey,
        by: Nexus,
        reach: PathSet,
        patience: Duration,
    ) -> Option<u32> {
        if self.is_left(now, key, reach) {
            return None;
        }
        let serial = self.serial.wrapping_add(1);
        let unit = self.unit(key);
        if unit.running.as_ref().is_some_and(|r| now < r.since + patience) {
            return None;
        }
        let stage = Stage::Prepared { quiet: SmallVec::new() };
        unit.running =
            Some(Running { serial, by, since: now, reach, stage, frees: Waiters::new() });
        self.serial = serial;
        self.version += 1;
        Some(serial)
    }

    /// Whether a session that feels a reset of this unit has ended with writes on their way.
    fn is_left(&mut self, now: Instant, key: &UnitKey, reach: PathSet) -> bool {
        self.left.retain(|(.., until)| now < *until);
        self.left.iter().any(|(left, target, _)| match left {
            Left::Session { path, .. } => reach.contains(*path),
            Left::Inherited { .. } => *target == key.target,
        })
    }

    /// Paths by which no write may be sent.
    #[must_use]
    pub fn hushed(&self) -> PathSet {
        let running = self.units.iter().filter_map(|unit| unit.running.as_ref());
        let hushed = running.fold(PathSet::EMPTY, |all, running| all.union(running.hushes()));
        self.late.iter().fold(hushed, |all, (_, reach, _)| all.union(*reach))
    }

    /// Late resets are not waited for any longer.
    pub fn expire(&mut self, now: Instant) {
        self.retain_late(|_, until| now < until);
    }

    fn retain_late(&mut self, wanted: impl Fn(&Left, Instant) -> bool) {
        let before = self.late.len();
        self.late.retain(|(left, _, until)| wanted(left, *until));
        self.version += u64::from(self.late.len() != before);
    }

    /// Resets that this lane has not agreed to yet.
    #[must_use]
    pub fn prepared(&self, lane: u16) -> SmallVec<[Prepared; 2]> {
        let open = |unit: &Unit| {
            let running = unit.running.as_ref()?;
            let Stage::Prepared { quiet } = &running.stage else { return None };
            let Running { serial, by, reach, .. } = *running;
            (!quiet.contains(&lane)).then(|| Prepared { key: unit.key.clone(), serial, by, reach })
        };
        self.units.iter().filter_map(open).collect()
    }

    /// Nothing of this lane is on its way to the unit, and nothing will be. Returns whether that holds for
    /// `lanes` lanes now.
    pub fn agree(&mut self, key: &UnitKey, serial: u32, lane: u16, lanes: u16) -> bool {
        let running = self.unit(key).running.as_mut().filter(|r| r.serial == serial);
        let Some(running) = running else { return false };
        if let Stage::Prepared { quiet } = &mut running.stage
            && !quiet.contains(&lane)
        {
            quiet.push(lane);
        }
        running.is_agreed(lanes)
    }

    /// The runner sends the reset, if all of `lanes` lanes have agreed, and no session has ended with writes on
    /// their way meanwhile.
    pub fn send(&mut self, now: Instant, key: &UnitKey, serial: u32, lanes: u16) -> bool {
        let running = self.unit(key).running.as_ref();
        let agreed = running.filter(|r| r.serial == serial && r.is_agreed(lanes));
        let reach = agreed.map(|running| running.reach);
        if reach.is_none_or(|reach| self.is_left(now, key, reach)) {
            return false;
        }
        let unit = self.unit(key);
        let running = unit.running.as_mut().expect("it was just there");
        running.stage = Stage::Sent { hushed: true };
        running.since = now;
        running.frees = unit.waiting.clone();
        true
    }

    /// The target has it by now: what is sent from now on comes after it.
    pub fn arrived(&mut self, key: &UnitKey, serial: u32) {
        let running = self.unit(key).running.as_mut().filter(|r| r.serial == serial);
        if let Some(Stage::Sent { hushed }) = running.map(|r| &mut r.stage)
            && std::mem::take(hushed)
        {
            self.version += 1;
        }
    }

    /// A session to `target` has ended with writes on their way.
    pub fn left(&mut self, left: Left, target: &str, until: Instant) {
        self.left.retain(|(other, ..)| *other != left);
        self.left.push((left, target.to_owned(), until));
    }

    /// They cannot come any more: its nexus was logged into again, or somebody knows it.
    pub fn back(&mut self, left: &Left) {
        self.left.retain(|(other, ..)| other != left);
        self.retain_late(|other, _| other != left);
    }

    fn take(&mut self, key: &UnitKey, which: impl FnOnce(&Running) -> bool) -> Option<Running> {
        let taken = self.unit(key).running.take_if(|running| which(running))?;
        self.version += 1;
        Some(taken)
    }

    /// The reset was answered with response 0: who is free now. `None` when it is not the newest one.
    pub fn answered(&mut self, key: &UnitKey, serial: u32) -> Option<Waiters> {
        let running = self.take(key, |r| r.serial == serial)?;
        let unit = self.unit(key);
        // Who has gone meanwhile is not waiting any more, and its nexus is to be logged into again.
        let mut frees = running.frees;
        frees.retain(|freed| unit.waiting.contains(freed));
        unit.waiting.retain(|waiting| !frees.contains(waiting));
        Some(frees)
    }

    /// The reset was refused, could not be sent, or was not answered in time.
    pub fn failed(&mut self, key: &UnitKey, serial: u32) {
        let _ = self.take(key, |r| r.serial == serial);
    }

    /// A session does not wait any more: it ended, or needs no proof now. Returns whether others wait for a
    /// reset that it was running.
    pub fn gone(&mut self, key: &UnitKey, nexus: Nexus) -> bool {
        self.unit(key).waiting.retain(|waiting| waiting.nexus != nexus);
        self.take(key, |r| r.by == nexus).is_some() && !self.unit(key).waiting.is_empty()
    }

    /// The session has ended: as [`gone`](Resets::gone), but what it has sent may still arrive.
    pub fn ended(&mut self, key: &UnitKey, nexus: Nexus, until: Instant) -> bool {
        let running = self.unit(key).running.as_ref().filter(|running| running.by == nexus);
        let sent = running.filter(|running| running.stage == Stage::Sent { hushed: true });
        if let Some(reach) = sent.map(|running| running.reach) {
            let left = Left::Session { lane: nexus.lane, path: nexus.path };
            self.late.push((left, reach, until));
        }
        self.gone(key, nexus)
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::PathIndex;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn nexus(lane: u16, generation: u64) -> Nexus {
        Nexus { lane, path: PathIndex::new(0), generation, group: Some(1) }
    }

    /// Prepared and sent at once, as a device with one lane does it.
    fn begin(r: &mut Resets, now: Instant, key: &UnitKey, by: Nexus) -> Option<u32> {
        let serial = r.prepare(now, key, by, PathSet::only(by.path), PATIENCE)?;
        assert!(r.agree(key, serial, by.lane, 1), "the only lane");
        assert!(r.send(now, key, serial, 1), "agreed");
        Some(serial)
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
        let first = begin(&mut r, at(0), &a, nexus(0, 1)).expect("nobody runs one");
        assert_eq!(begin(&mut r, at(1), &a, nexus(1, 1)), None);
        assert!(begin(&mut r, at(1), &key("b"), nexus(1, 1)).is_some(), "another unit");
        r.wait(&a, waiting(2, 1));
        let freed = r.answered(&a, first).expect("the newest");
        assert_eq!(freed[..], [waiting(0, 1), waiting(1, 1)]);
        assert_eq!(r.lanes(&a)[..], [2], "it logged in after the reset was sent");
        assert_eq!(r.answered(&a, first), None, "answered once");
        assert!(begin(&mut r, at(2), &a, nexus(2, 1)).is_some());
    }

    #[test]
    fn after_a_timeout_only_the_newest_answer_counts() {
        let (mut r, a) = (Resets::default(), key("a"));
        r.wait(&a, waiting(0, 1));
        let old = begin(&mut r, at(0), &a, nexus(0, 1)).expect("first");
        let new = begin(&mut r, at(30), &a, nexus(1, 1)).expect("overdue");
        assert_eq!(r.answered(&a, old), None);
        r.failed(&a, old);
        assert_eq!(r.answered(&a, new).expect("the newest")[..], [waiting(0, 1)]);
    }

    #[test]
    fn a_session_that_ends_is_not_freed_and_lets_another_one_run() {
        let (mut r, a) = (Resets::default(), key("a"));
        r.wait(&a, waiting(0, 1));
        r.wait(&a, waiting(1, 1));
        begin(&mut r, at(0), &a, nexus(0, 1)).expect("first");
        assert!(r.gone(&a, nexus(0, 1)));
        assert!(!r.gone(&a, nexus(0, 1)));
        let next = begin(&mut r, at(1), &a, nexus(1, 1)).expect("its runner is gone");
        // It logs in again behind the reset.
        r.wait(&a, waiting(0, 2));
        assert_eq!(r.answered(&a, next).expect("the newest")[..], [waiting(1, 1)]);
        let last = begin(&mut r, at(2), &a, nexus(0, 2)).expect("free");
        r.failed(&a, last);
        assert!(begin(&mut r, at(2), &a, nexus(0, 2)).is_some());
    }

    #[test]
    fn it_is_sent_when_every_lane_has_agreed_and_hushes_its_paths_until_the_target_has_it() {
        let (mut r, a) = (Resets::default(), key("a"));
        let reach = PathSet::only(PathIndex::new(0)).with(PathIndex::new(2));
        r.wait(&a, waiting(0, 1));
        let serial = r.prepare(at(0), &a, nexus(0, 1), reach, PATIENCE).expect("nobody runs one");
        assert_eq!((r.hushed(), r.version()), (reach, 1));
        assert!(!r.agree(&a, serial, 0, 2) && !r.agree(&a, serial, 0, 2), "one lane of two");
        assert!(!r.send(at(1), &a, serial, 2));
        assert_eq!(r.prepared(0)[..], []);
        let by = nexus(0, 1);
        assert_eq!(r.prepared(1)[..], [Prepared { key: a.clone(), serial, by, reach }]);
        r.wait(&a, waiting(1, 1));
        assert!(r.agree(&a, serial, 1, 2));
        assert!(!r.agree(&a, serial + 1, 1, 2), "another one");
        assert!(r.send(at(1), &a, serial, 2) && !r.send(at(1), &a, serial, 2), "once");
        assert_eq!((r.hushed(), r.version()), (reach, 1));
        r.arrived(&a, serial);
        r.arrived(&a, serial);
        assert_eq!((r.hushed(), r.version()), (PathSet::EMPTY, 2));
        // Both had logged in before it was sent.
        assert_eq!(r.answered(&a, serial).expect("the newest").len(), 2);
        assert_eq!(r.version(), 3);
    }

    #[test]
    fn a_reset_whose_session_ends_may_come_late() {
        let (mut r, a) = (Resets::default(), key("a"));
        let path = PathIndex::new(0);
        begin(&mut r, at(0), &a, nexus(0, 1)).expect("nobody runs one");
        assert!(!r.ended(&a, nexus(0, 1), at(20)));
        assert_eq!(r.hushed(), PathSet::only(path));
        r.expire(at(19));
        assert_eq!(r.hushed(), PathSet::only(path));
        let version = r.version();
        r.expire(at(20));
        assert_eq!((r.hushed(), r.version()), (PathSet::EMPTY, version + 1));
        // Its nexus comes back before.
        begin(&mut r, at(30), &a, nexus(0, 2)).expect("nobody runs one");
        r.ended(&a, nexus(0, 2), at(50));
        r.back(&Left::Session { lane: 0, path });
        assert_eq!(r.hushed(), PathSet::EMPTY);
        // The target has had it for long.
        let serial = begin(&mut r, at(60), &a, nexus(0, 3)).expect("nobody runs one");
        r.arrived(&a, serial);
        r.ended(&a, nexus(0, 3), at(80));
        assert_eq!(r.hushed(), PathSet::EMPTY);
    }

    #[test]
    fn a_session_that_left_writes_on_their_way_holds_it_back_for_a_while() {
        let (mut r, a) = (Resets::default(), key("a"));
        let [own, other, far] = [0, 1, 2].map(PathIndex::new);
        let reach = PathSet::only(own).with(other);
        let ready = |r: &mut Resets, at| {
            let serial = r.prepare(at, &a, nexus(0, 1), reach, PATIENCE);
            serial.inspect(|serial| r.failed(&a, *serial)).is_some()
        };
        let of = |lane, path| Left::Session { lane, path };
        r.left(of(1, far), "b", at(30));
        assert!(ready(&mut r, at(0)), "out of its reach");
        r.left(of(0, other), "a", at(30));
        assert!(!ready(&mut r, at(29)) && ready(&mut r, at(30)));
        r.left(of(1, own), "a", at(60));
        assert!(!ready(&mut r, at(30)), "another lane's");
        r.back(&of(1, own));
        assert!(ready(&mut r, at(30)));
        // It ends while the reset is prepared.
        let serial = r.prepare(at(31), &a, nexus(0, 1), reach, PATIENCE).expect("free");
        r.left(of(1, own), "a", at(60));
        assert!(r.agree(&a, serial, 0, 1) && !r.send(at(31), &a, serial, 1));
        r.failed(&a, serial);
        r.back(&of(1, own));
        r.left(Left::Inherited { index: 0 }, "b", at(60));
        assert!(ready(&mut r, at(30)), "another target's");
        r.left(Left::Inherited { index: 1 }, "a", at(60));
        assert!(!ready(&mut r, at(30)));
    }
}
