//! What one socket still has to send: headers are written into a shared arena, payloads above
//! [`COPY_MAX`] are kept by reference and leave as their own iovec.
//!
//! The driver takes segments when no send is in flight; at most one send is in flight per socket.
//! [`TxQueue::handed`] counts the bytes that were handed to the kernel, which decides whether a command
//! can be rerouted or is in doubt (a command whose first byte was never handed over did not happen).

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// Payload pieces up to this length in bytes are copied next to their header: below 2 to 4 KiB an iovec
/// costs more than the copy.
pub const COPY_MAX: usize = 2048;

const ARENA: usize = 64 * 1024;

/// Bytes waiting for one socket.
#[derive(Default)]
pub struct TxQueue {
    arena: BytesMut,
    spent: VecDeque<BytesMut>,
    segments: VecDeque<Bytes>,
    queued: u64,
    handed: u64,
}

impl TxQueue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> TxQueue {
        TxQueue::default()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queued == self.handed
    }

    /// Bytes that wait.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.queued - self.handed
    }

    /// Bytes ever queued: the stream offset of the next byte.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.queued
    }

    /// Bytes ever handed to the kernel.
    #[must_use]
    pub fn handed(&self) -> u64 {
        self.handed
    }

    /// Appends bytes by copy.
    pub fn put(&mut self, bytes: &[u8]) {
        self.room(bytes.len());
        self.arena.extend_from_slice(bytes);
        self.queued += bytes.len() as u64;
    }

    /// Appends `N` zeroed bytes and lets `write` fill them in place: for headers.
    pub fn put_with<const N: usize>(&mut self, write: impl FnOnce(&mut [u8; N])) {
        let mut bytes = [0; N];
        write(&mut bytes);
        self.put(&bytes);
    }

    /// Appends a piece, by reference where that is cheaper than a copy.
    pub fn put_bytes(&mut self, piece: Bytes) {
        if piece.len() <= COPY_MAX {
            self.put(&piece);
            return;
        }
        self.seal();
        self.queued += piece.len() as u64;
        self.segments.push_back(piece);
    }

    /// Moves up to `max` segments to `out` for one gathered send and counts them as handed to the kernel.
    pub fn take(&mut self, max: usize, out: &mut Vec<Bytes>) -> usize {
        self.seal();
        let mut taken = 0;
        for _ in 0..max {
            let Some(segment) = self.segments.pop_front() else { break };
            taken += segment.len();
            out.push(segment);
        }
        self.handed += taken as u64;
        assert!(self.handed <= self.queued, "handed more than was queued");
        taken
    }

    /// Drops what was not yet handed over: for a socket that is given up.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.segments.clear();
        self.queued = self.handed;
    }

    /// Shows every segment that waits to `f`, which may put the same bytes elsewhere.
    pub fn for_each_segment(&mut self, mut f: impl FnMut(&mut Bytes)) {
        for segment in &mut self.segments {
            let len = segment.len();
            f(segment);
            assert_eq!(segment.len(), len, "a segment that moves stays as long as it is");
        }
    }

    fn seal(&mut self) {
        if !self.arena.is_empty() {
            self.segments.push_back(self.arena.split().freeze());
        }
    }

    /// Makes room without reallocating what a send in flight still refers to: arenas rotate, and one is
    /// used again when its last segment has been dropped.
    fn room(&mut self, len: usize) {
        if self.arena.capacity() - self.arena.len() >= len {
            return;
        }
        self.seal();
        if self.arena.try_reclaim(len.max(ARENA)) {
            return;
        }
        let spent = std::mem::take(&mut self.arena);
        self.spent.push_back(spent);
        let mut next = self.spent.pop_front().unwrap_or_default();
        if !next.try_reclaim(len.max(ARENA)) {
            if self.spent.len() < 8 && next.capacity() > 0 {
                self.spent.push_front(next);
            }
            next = BytesMut::with_capacity(len.max(ARENA));
        }
        self.arena = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_and_counts_survive(
            pieces in prop::collection::vec((any::<u8>(), 0usize..6000, any::<bool>()), 0..60),
            max in 1usize..5,
        ) {
            let mut tx = TxQueue::new();
            let (mut expect, mut got, mut segments) = (Vec::new(), Vec::new(), Vec::new());
            for (byte, len, by_ref) in pieces {
                let bytes = vec![byte; len];
                expect.extend_from_slice(&bytes);
                if by_ref { tx.put_bytes(Bytes::from(bytes)) } else { tx.put(&bytes) }
                if byte % 3 == 0 {
                    tx.take(max, &mut segments);
                }
                prop_assert_eq!(tx.queued(), expect.len() as u64);
            }
            while tx.take(max, &mut segments) > 0 {}
            for segment in &segments {
                got.extend_from_slice(segment);
            }
            prop_assert!(tx.is_empty());
            prop_assert_eq!(tx.handed(), expect.len() as u64);
            prop_assert!(got == expect);
        }
    }

    #[test]
    fn clear_forgets_only_what_was_not_handed_over() {
        let mut tx = TxQueue::new();
        let mut out = Vec::new();
        tx.put(b"abc");
        tx.take(1, &mut out);
        tx.put(b"def");
        tx.clear();
        assert_eq!((tx.handed(), tx.queued(), tx.pending()), (3, 3, 0));
    }
}
