//! Receive buffers that are used again: one allocation serves many receives.
//!
//! A socket receives into the rest of its current buffer and hands the filled part out as `Bytes`. A
//! buffer whose parts have all been dropped starts again at its beginning, still in cache; one that is
//! used up but still referred to waits here, and is taken back when its last part is gone.
//!
//! Deliberately not here: a bound on what the parts keep alive. Whoever holds payloads has the budget,
//! and compacts small ones (`Payload::compact`).

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::limits::RECV_BUFFER;

/// Used-up buffers looked at before a new one is made: enough to get past some that a slow request pins.
const LOOKS_MAX: usize = 16;

/// What the pool did since the ring was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolStats {
    /// Buffers allocated.
    pub allocated: u64,
    /// Times that a buffer was used again from its start.
    pub reused: u64,
    /// Used-up buffers that were let go because the pool was full.
    pub dropped: u64,
    /// Buffers that wait in the pool now.
    pub kept: usize,
}

/// The buffers of one ring that belong to no socket at the moment.
pub(super) struct Pool {
    spent: VecDeque<BytesMut>,
    kept_max: usize,
    stats: PoolStats,
}

impl Pool {
    /// An empty pool that keeps up to `kept_max` buffers.
    pub(super) fn new(kept_max: usize) -> Pool {
        assert!(kept_max > 0, "a pool that keeps nothing allocates for ever");
        Pool { spent: VecDeque::with_capacity(kept_max + 1), kept_max, stats: PoolStats::default() }
    }

    /// A buffer with at least `want` free bytes, preferably the socket's `current` one.
    ///
    /// Every buffer here has length zero: what was received has been split off.
    pub(super) fn ready(&mut self, current: Option<BytesMut>, want: usize) -> BytesMut {
        assert!(want <= RECV_BUFFER, "a receive of {want} bytes does not fit a buffer");
        if let Some(mut buffer) = current {
            assert!(buffer.is_empty(), "a buffer holds {} bytes nobody took", buffer.len());
            let fresh = buffer.capacity() == RECV_BUFFER;
            if buffer.try_reclaim(RECV_BUFFER) {
                self.stats.reused += u64::from(!fresh);
                return buffer;
            }
            if buffer.capacity() >= want {
                return buffer;
            }
            self.put(buffer);
        }
        self.take()
    }

    /// Takes a buffer back from a socket.
    pub(super) fn put(&mut self, buffer: BytesMut) {
        self.spent.push_back(buffer);
        if self.spent.len() > self.kept_max {
            self.spent.pop_front();
            self.stats.dropped += 1;
        }
    }

    /// Counters, and how many buffers wait.
    pub(super) fn stats(&self) -> PoolStats {
        PoolStats { kept: self.spent.len(), ..self.stats }
    }

    fn take(&mut self) -> BytesMut {
        for _ in 0..self.spent.len().min(LOOKS_MAX) {
            let Some(mut buffer) = self.spent.pop_front() else { break };
            if buffer.try_reclaim(RECV_BUFFER) {
                self.stats.reused += 1;
                return buffer;
            }
            self.spent.push_back(buffer);
        }
        self.stats.allocated += 1;
        BytesMut::with_capacity(RECV_BUFFER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn fill(buffer: &mut BytesMut, len: usize) -> Bytes {
        buffer.extend_from_slice(&vec![7; len]);
        buffer.split_to(len).freeze()
    }

    #[test]
    fn a_buffer_nobody_refers_to_starts_again() {
        let mut pool = Pool::new(4);
        let mut buffer = pool.ready(None, 1000);
        let start = buffer.as_ptr();
        drop(fill(&mut buffer, 5000));
        let buffer = pool.ready(Some(buffer), 1000);
        assert_eq!((buffer.as_ptr(), buffer.capacity()), (start, RECV_BUFFER));
        assert_eq!(pool.stats(), PoolStats { allocated: 1, reused: 1, dropped: 0, kept: 0 });
    }

    #[test]
    fn a_buffer_in_use_is_continued_and_then_replaced() {
        let mut pool = Pool::new(4);
        let mut buffer = pool.ready(None, 1000);
        let held = fill(&mut buffer, RECV_BUFFER - 2000);
        let mut buffer = pool.ready(Some(buffer), 1000);
        assert_eq!(buffer.capacity(), 2000);
        let tail = fill(&mut buffer, 2000);
        let other = pool.ready(Some(buffer), 1000);
        assert_eq!((pool.stats().allocated, pool.stats().kept), (2, 1));
        assert!(held.iter().chain(&tail[..]).all(|byte| *byte == 7));
        drop((held, tail));
        pool.put(other);
        let _again = pool.ready(None, 1000);
        let _and_again = pool.ready(None, 1000);
        assert_eq!(pool.stats(), PoolStats { allocated: 2, reused: 2, dropped: 0, kept: 0 });
    }

    #[test]
    fn pinned_buffers_do_not_hide_a_free_one_nor_pile_up() {
        let mut pool = Pool::new(3);
        let mut pinned = Vec::new();
        for _ in 0..5 {
            let mut buffer = pool.ready(None, 1);
            pinned.push(fill(&mut buffer, 1));
            pool.put(buffer);
        }
        assert_eq!(pool.stats(), PoolStats { allocated: 5, reused: 0, dropped: 2, kept: 3 });
        pinned.pop();
        let _free = pool.ready(None, 1);
        assert_eq!(pool.stats(), PoolStats { allocated: 5, reused: 1, dropped: 2, kept: 2 });
    }
}
