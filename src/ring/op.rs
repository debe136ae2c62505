//! Operations in flight: what the kernel may read or write until the completion has been reaped.
//!
//! An operation owns its memory (receive buffer, segments, message header, address) from submission to
//! its last completion, whatever happens to its socket meanwhile; that is what makes the unsafe of this
//! module sound. `user_data` is slot and generation, so that a completion names exactly one operation.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use bytes::{Bytes, BytesMut};
use io_uring::{opcode, squeue, types};
use socket2::SockAddr;

use super::SockId;
use crate::limits::SEND_SEGMENTS_MAX;

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
    /// Cancelling the waker's read when the ring is dropped.
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

/// One gathered send: the segments, and the array and header that point at what is left of them.
pub(super) struct SendArea {
    message: libc::msghdr,
    iovecs: Vec<libc::iovec>,
    segments: Vec<Bytes>,
    /// First iovec that is not completely sent.
    first: usize,
    left: usize,
    sent: usize,
}

impl SendArea {
    /// An empty area; areas are kept and used again.
    pub(super) fn new() -> Box<SendArea> {
        // SAFETY: a msghdr is plain data, for which all zeroes (null pointers, no bytes) is a value.
        let message = unsafe { std::mem::zeroed() };
        Box::new(SendArea {
            message,
            iovecs: Vec::with_capacity(64),
            segments: Vec::new(),
            first: 0,
            left: 0,
            sent: 0,
        })
    }

    /// Takes the segments of a new send.
    pub(super) fn load(&mut self, segments: Vec<Bytes>) {
        assert!(self.segments.is_empty() && self.left == 0, "a send area is used twice");
        assert!(segments.len() <= SEND_SEGMENTS_MAX, "{} segments in one send", segments.len());
        self.iovecs.clear();
        for segment in segments.iter().filter(|segment| !segment.is_empty()) {
            // The kernel only reads through the pointer: SEND and SENDMSG never write to an iovec.
            let base = segment.as_ptr().cast_mut().cast();
            self.iovecs.push(libc::iovec { iov_base: base, iov_len: segment.len() });
            self.left += segment.len();
        }
        assert!(self.left > 0, "a send of no bytes");
        (self.segments, self.first, self.sent) = (segments, 0, 0);
    }

    /// Bytes that went so far.
    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    /// Accounts for `bytes` that went; whether nothing is left.
    pub(super) fn advance(&mut self, bytes: usize) -> bool {
        assert!(bytes <= self.left, "{bytes} bytes went, {} were left", self.left);
        (self.left, self.sent) = (self.left - bytes, self.sent + bytes);
        let mut bytes = bytes;
        while bytes > 0 {
            let iovec = &mut self.iovecs[self.first];
            if bytes < iovec.iov_len {
                iovec.iov_base = iovec.iov_base.cast::<u8>().wrapping_add(bytes).cast();
                iovec.iov_len -= bytes;
                break;
            }
            bytes -= iovec.iov_len;
            self.first += 1;
        }
        self.left == 0
    }

    /// Sends what the socket's buffer has room for, without waiting; whether nothing is left.
    ///
    /// # Errors
    /// Those of a broken connection. A full buffer is none.
    pub(super) fn send_now(&mut self, fd: &OwnedFd) -> io::Result<bool> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        self.message.msg_iov = self.iovecs.as_mut_ptr();
        self.message.msg_iovlen = self.iovecs.len();
        // SAFETY: the header and the iovecs live through the call, they point into segments that this area
        // owns, and sendmsg only reads. With MSG_DONTWAIT nothing refers to them after the call.
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const self.message, flags) };
        let Ok(sent) = usize::try_from(sent) else {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => Ok(false),
                _ => Err(error),
            };
        };
        Ok(self.advance(sent))
    }

    /// The submission for what is left, on `fd`.
    ///
    /// It points into this area: the area must stay where it is, unchanged, until the completion.
    pub(super) fn entry(&mut self, fd: RawFd) -> squeue::Entry {
        assert!(self.left > 0, "nothing is left to send");
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let rest = &mut self.iovecs[self.first..];
        if let [only] = rest
            && let Ok(len) = u32::try_from(only.iov_len)
        {
            let base = only.iov_base.cast_const().cast();
            return opcode::Send::new(types::Fd(fd), base, len).flags(flags).build();
        }
        self.message.msg_iov = rest.as_mut_ptr();
        self.message.msg_iovlen = rest.len();
        opcode::SendMsg::new(types::Fd(fd), &raw const self.message).flags(flags as u32).build()
    }

    /// Lets go of the segments and gives the vector back, empty.
    pub(super) fn unload(&mut self) -> Vec<Bytes> {
        let mut segments = std::mem::take(&mut self.segments);
        segments.clear();
        self.iovecs.clear();
        self.left = 0;
        segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    proptest! {
        /// Whatever is sent in whatever steps, what is left is the rest of the bytes.
        #[test]
        fn the_rest_is_what_did_not_go(
            lens in prop::collection::vec(0usize..40, 1..12),
            steps in prop::collection::vec(1usize..50, 0..20),
        ) {
            let total: usize = lens.iter().sum();
            prop_assume!(total > 0);
            let mut area = SendArea::new();
            let mut next = 0u8;
            let segments: Vec<Bytes> = lens.iter().map(|len| {
                (0..*len).map(|_| { next = next.wrapping_add(1); next }).collect::<Vec<_>>().into()
            }).collect();
            let whole = segments.concat();
            area.load(segments);
            for step in steps {
                let done = area.advance(step.min(total - area.sent()));
                // SAFETY: the iovecs point into the segments, which the area still owns.
                let rest: Vec<u8> = area.iovecs[area.first..].iter().flat_map(|iovec| unsafe {
                    std::slice::from_raw_parts(iovec.iov_base.cast::<u8>(), iovec.iov_len).to_vec()
                }).collect();
                prop_assert_eq!(&rest, &whole[area.sent()..]);
                prop_assert_eq!(done, rest.is_empty());
                if done { break; }
            }
            let vector = area.unload();
            prop_assert!(vector.is_empty());
        }
    }
}
