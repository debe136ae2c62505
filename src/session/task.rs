//! The commands in flight: a slab of fixed size, made once. A tag is slot and generation, so that a late
//! PDU of a finished command cannot meet its successor.

use super::event::TaskTag;
use crate::base::{Instant, Payload, Serial};

/// Slots from here on are not commands; see the constants below.
pub(super) const MANAGEMENT_SLOT: u16 = 0x8000;
/// Slot of our ping.
pub(super) const PING_SLOT: u16 = 0xf000;
/// Slot of the text exchange.
pub(super) const TEXT_SLOT: u16 = 0xf001;
/// Slot of the logout.
pub(super) const LOGOUT_SLOT: u16 = 0xf002;

/// The task tag of a slot in a generation. No slot is 0xffff, so that no tag is the reserved one.
pub(super) const fn tag(slot: u16, generation: u16) -> u32 {
    slot as u32 | (generation as u32) << 16
}

/// The slot of a task tag.
pub(super) const fn slot_of(tag: u32) -> u16 {
    tag as u16
}

/// The generation of a task tag.
pub(super) const fn generation_of(tag: u32) -> u16 {
    (tag >> 16) as u16
}

/// Which way the data of a task goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    None,
    Read,
    Write,
}

/// One command in flight.
#[derive(Debug)]
pub(super) struct Task {
    pub live: bool,
    pub generation: u16,
    pub way: Way,
    /// ABORT TASK is queued: no data is sent any more.
    pub aborting: bool,
    /// Nobody wants the data of this read any more.
    pub unwanted: bool,
    /// Outstanding R2Ts.
    pub r2ts: u16,
    /// Bursts that were asked for and are not sent whole: entries in the queue of transfers, or dropped
    /// from it by an abort.
    pub queued: u16,
    /// R2Ts that asked for data a second time.
    pub repeats: u16,
    /// Data-In PDUs without data.
    pub empties: u16,
    /// Expected data transfer length, bytes.
    pub edtl: u32,
    /// Read: next DataSN. Write: next R2TSN.
    pub next_sn: Serial,
    /// Write: end of what was asked for or sent unsolicited, bytes.
    pub asked: u32,
    pub token: u64,
    pub lun: u64,
    pub cmd_sn: Serial,
    /// Offset of the command's first byte in the transmit stream.
    pub start: u64,
    /// Offset of the end of what is ready of it there, its data included.
    pub end: u64,
    /// Last time that the target moved it on.
    pub progress: Instant,
    /// Read: what came. Write: what is to be sent.
    pub data: Payload,
}

impl Task {
    fn free() -> Task {
        Task {
            live: false,
            generation: 0,
            way: Way::None,
            aborting: false,
            unwanted: false,
            r2ts: 0,
            queued: 0,
            repeats: 0,
            empties: 0,
            edtl: 0,
            next_sn: Serial(0),
            asked: 0,
            token: 0,
            lun: 0,
            cmd_sn: Serial(0),
            start: 0,
            end: 0,
            progress: Instant::ZERO,
            data: Payload::new(),
        }
    }
}

impl Task {
    /// Whether the target has to wait for data of this command: it has not asked for all, or not all was handed
    /// to the kernel, which has taken `handed` bytes of the stream.
    pub fn owes_data(&self, handed: u64) -> bool {
        self.way == Way::Write && (self.asked < self.edtl || self.queued > 0 || handed < self.end)
    }
}

/// All slots.
#[derive(Debug)]
pub(super) struct Tasks {
    slots: Vec<Task>,
    free: Vec<u16>,
}

impl Tasks {
    /// `depth` free slots; tags start at generation `first`.
    pub fn new(depth: u16, first: u16) -> Tasks {
        assert!((1..MANAGEMENT_SLOT).contains(&depth), "a queue depth of {depth}");
        let slot = |_| Task { generation: first, ..Task::free() };
        Tasks { slots: (0..depth).map(slot).collect(), free: (0..depth).rev().collect() }
    }

    /// Live tasks.
    #[inline]
    pub fn live(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Free slots.
    #[inline]
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// A free slot, now live: its tag and the task to fill in.
    #[inline]
    pub fn insert(&mut self) -> Option<(u32, &mut Task)> {
        let slot = self.free.pop()?;
        let task = &mut self.slots[usize::from(slot)];
        assert!(!task.live, "slot {slot} is taken and free");
        task.live = true;
        Some((tag(slot, task.generation), task))
    }

    /// The live task of a tag.
    #[inline]
    pub fn get(&mut self, tag: u32) -> Option<&mut Task> {
        let task = self.slots.get_mut(usize::from(slot_of(tag)))?;
        (task.live && task.generation == generation_of(tag)).then_some(task)
    }

    /// The same, to look at.
    pub fn peek(&self, tag: u32) -> Option<&Task> {
        let task = self.slots.get(usize::from(slot_of(tag)))?;
        (task.live && task.generation == generation_of(tag)).then_some(task)
    }

    /// Whether `wanted` holds for a live task.
    pub fn any(&self, wanted: impl Fn(&Task) -> bool) -> bool {
        self.slots.iter().any(|task| task.live && wanted(task))
    }

    /// The live tasks.
    pub fn live_mut(&mut self) -> impl Iterator<Item = &mut Task> {
        self.slots.iter_mut().filter(|task| task.live)
    }

    /// Frees the slot of a live task. What it held was taken out before.
    #[inline]
    pub fn remove(&mut self, tag: u32) {
        let task = self.get(tag).expect("only a live task is removed");
        task.live = false;
        task.generation = task.generation.wrapping_add(1);
        task.data = Payload::new();
        self.free.push(slot_of(tag));
    }

    /// Tags of the live tasks for which `wanted` holds, in the order of their CmdSN.
    pub fn tags(&self, wanted: impl Fn(&Task) -> bool) -> Vec<TaskTag> {
        let mut found: Vec<(Serial, TaskTag)> = (0u16..)
            .zip(&self.slots)
            .filter(|(_, task)| task.live && wanted(task))
            .map(|(slot, task)| (task.cmd_sn, TaskTag(tag(slot, task.generation))))
            .collect();
        let base = found.first().map_or(Serial(0), |(sn, _)| sn.minus(1 << 30));
        found.sort_by_key(|(sn, _)| sn.distance_from(base));
        found.into_iter().map(|(_, tag)| tag).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7143 11.2.1.8: tags are unique while the task lives, and an old one meets nobody.
    #[test]
    fn generations() {
        let mut tasks = Tasks::new(2, 0xffff);
        let (a, _) = tasks.insert().expect("free");
        let (b, _) = tasks.insert().expect("free");
        assert!(a != b && tasks.insert().is_none() && tasks.room() == 0);
        tasks.remove(a);
        assert!(tasks.get(a).is_none() && tasks.live() == 1);
        let (c, _) = tasks.insert().expect("free");
        assert_eq!((slot_of(a), generation_of(c)), (slot_of(c), 0));
        assert!(tasks.get(a).is_none() && tasks.get(c).is_some());
        assert!(tasks.get(0xffff_ffff).is_none());
    }

    #[test]
    fn tags_in_order_of_cmd_sn() {
        let mut tasks = Tasks::new(3, 0);
        let mut tags = Vec::new();
        for sn in [0xffff_ffff, 1, 0] {
            let (tag, task) = tasks.insert().expect("free");
            task.cmd_sn = Serial(sn);
            tags.push(TaskTag(tag));
        }
        assert_eq!(tasks.tags(|_| true), [tags[0], tags[2], tags[1]]);
        assert_eq!(tasks.tags(|t| t.cmd_sn == Serial(1)), [tags[1]]);
    }
}
