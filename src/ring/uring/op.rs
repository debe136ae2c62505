//! Operations in flight: what the kernel may read or write until the completion has been reaped.
//!
//! An operation owns its memory (receive buffer, segments, message header, address) from submission to
//! its last completion, whatever happens to its socket meanwhile; that is what makes the unsafe of this
//! module sound. `user_data` is slot and generation, so that a completion names exactly one operation.

use std::os::fd::RawFd;

use bytes::BytesMut;
use io_uring::{opcode, squeue, types};
use socket2::SockAddr;

use super::SockId;
use crate::ring::send::SendArea;

/// One operation with the memory that the kernel uses for it.
pub(super) enum Op {
    /// Connecting; the address stays in its box.
    Connect {
        sock: SockId,
        #[expect(dead_code, reason = "the kernel reads it")]
        address: Box<SockAddr>,
    },
    /// The time limit of the connect that it is linked to; it refers to no socket.
    ConnectTimeout {
        #[expect(dead_code, reason = "the kernel reads it")]
        limit: Box<types::Timespec>,
    },
    /// Receiving up to `asked` bytes into the spare room of `buffer`, whose length is zero.
    Recv { sock: SockId, buffer: BytesMut, asked: usize },
    /// Sending what is left of `area`.
    Send { sock: SockId, area: Box<SendArea> },
    /// Cancelling everything of a socket, by descriptor.
    Cancel { sock: SockId },
    /// Reading the waker's counter; its value is not needed.
    Wake { counter: Box<[u8; 8]> },
    /// A time to wake at.
    Alarm { limit: Box<types::Timespec> },
    /// Cancelling the waker's read or an alarm when the ring is dropped.
    CancelWake,
}

struct Slot {
    generation: u32,
    op: Option<Op>,
}

/// The operations in flight: at most `max`, which the completion queue has room for.
pub(super) struct Ops {
    slots: Vec<Slot>,
    free: Vec<u32>,
    max: usize,
}

impl Ops {
    pub(super) fn new(max: usize) -> Ops {
        assert!(max <= u32::MAX as usize, "slots are numbered with 32 bits");
        Ops { slots: Vec::with_capacity(max), free: Vec::with_capacity(max), max }
    }

    /// Operations that the kernel has and that were not reaped.
    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Keeps `op` and gives the `user_data` that its submission must carry.
    pub(super) fn insert(&mut self, op: Op) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            assert!(self.slots.len() < self.max, "more than {} operations in flight", self.max);
            self.slots.push(Slot { generation: 0, op: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        assert!(slot.op.is_none(), "slot {index} is on the free list and in use");
        slot.op = Some(op);
        u64::from(slot.generation) << 32 | u64::from(index)
    }

    /// The operation that `user_data` names; the kernel must still be using it.
    pub(super) fn get_mut(&mut self, user_data: u64) -> &mut Op {
        let (index, generation) = (user_data as u32, (user_data >> 32) as u32);
        let slot = &mut self.slots[index as usize];
        assert_eq!(slot.generation, generation, "operation {index} was already reaped");
        slot.op.as_mut().expect("an operation is in its slot until it is reaped")
    }

    /// Takes the operation that completed: from here on the kernel no longer uses its memory.
    pub(super) fn remove(&mut self, user_data: u64) -> Op {
        let (index, generation) = (user_data as u32, (user_data >> 32) as u32);
        let slot = &mut self.slots[index as usize];
        assert_eq!(slot.generation, generation, "operation {index} completed twice");
        let op = slot.op.take().expect("an operation is in its slot until it is reaped");
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        op
    }
}

/// The submission for what is left of `area`, on `fd`.
///
/// It points into the area, which must stay where it is, unchanged, until the completion.
pub(super) fn rest(area: &mut SendArea, fd: RawFd) -> squeue::Entry {
    let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
    if let [only] = area.rest()
        && let Ok(len) = u32::try_from(only.iov_len)
    {
        let base = only.iov_base.cast_const().cast();
        return opcode::Send::new(types::Fd(fd), base, len).flags(flags).build();
    }
    opcode::SendMsg::new(types::Fd(fd), area.message()).flags(flags as u32).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cancel(ops: &mut Ops) -> u64 {
        ops.insert(Op::CancelWake)
    }

    #[test]
    fn a_slot_used_again_has_another_generation() {
        let mut ops = Ops::new(2);
        let first = cancel(&mut ops);
        let _ = ops.get_mut(first);
        ops.remove(first);
        let second = cancel(&mut ops);
        assert_eq!(first as u32, second as u32);
        assert_ne!(first, second);
        assert_eq!(ops.in_flight(), 1);
    }

    #[test]
    #[should_panic(expected = "completed twice")]
    fn a_second_completion_is_noticed() {
        let mut ops = Ops::new(2);
        let user_data = cancel(&mut ops);
        ops.remove(user_data);
        ops.remove(user_data);
    }

    #[test]
    #[should_panic(expected = "more than 2 operations")]
    fn operations_are_bounded() {
        let mut ops = Ops::new(2);
        for _ in 0..3 {
            cancel(&mut ops);
        }
    }
}
