//! One gathered send: the segments, and the array that points at what is left of them.

use crate::limits::SEND_SEGMENTS_MAX;
use bytes::Bytes;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

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
        let message = self.message();
        // SAFETY: the header and the iovecs live through the call, they point into segments that this area
        // owns, and sendmsg only reads. With MSG_DONTWAIT nothing refers to them after the call.
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), message, flags) };
        let Ok(sent) = usize::try_from(sent) else {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => Ok(false),
                _ => Err(error),
            };
        };
        Ok(self.advance(sent))
    }

    /// What is left to send, for another send; it points into this area, which must stay where it is,
    /// unchanged, until the kernel has taken it.
    pub(super) fn rest(&mut self) -> &mut [libc::iovec] {
        assert!(self.left > 0, "nothing is left to send");
        &mut self.iovecs[self.first..]
    }

    /// The same as a message header, in place.
    pub(super) fn message(&mut self) -> *const libc::msghdr {
        let rest = self.rest();
        let (iovecs, count) = (rest.as_mut_ptr(), rest.len());
        (self.message.msg_iov, self.message.msg_iovlen) = (iovecs, count);
        &raw const self.message
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
