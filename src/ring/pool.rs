//! Receive buffers that are used again: one allocation serves many receives.
//!
//! A socket receives into the rest of its current buffer and hands the filled part out as `Bytes`. A
//! buffer whose parts have all been dropped starts again at its beginning, still in cache; one that is
//! used up but still referred to waits here, and is taken back when its last part is gone.
//!
//! Those that wait are payloads that somebody holds a budget for; those that are free are memory beside
//! it, so only few of them are kept.
//!
//! Deliberately not here: a bound on what the parts keep alive. Whoever holds payloads has the budget, and moves
//! them out when the buffers that wait are more than that ([`Pool::waiting`], [`Tenants`]).

use std::collections::VecDeque;

use crate::base::Tenants;
use bytes::BytesMut;

use crate::limits::RECV_BUFFER;

/// Used-up buffers looked at before a new one is made: enough to get past many that slow requests pin.
const LOOKS_MAX: usize = 64;

/// Used-up buffers looked at whenever another one comes, so that those that have become free do not pile up.
const LOOKS: usize = 4;

/// Used-up buffers that wait at most, unless more are expected ([`Pool::expect`]). Beyond it the eldest is freed by
/// whoever drops its last part.
const SPENT_MAX: usize = 256;

/// One free buffer too many is let go whenever so many have been used up.
const LINGER: u64 = 8;

/// What the pool did since the ring was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolStats {
    /// Buffers allocated.
    pub allocated: u64,
    /// Times that a buffer was used again from its start.
    pub reused: u64,
    /// Buffers that were let go because enough others were there.
    pub dropped: u64,
    /// Buffers in the pool now: those that wait and those that are free.
    pub kept: usize,
}

/// The buffers of one ring that belong to no socket at the moment.
pub(super) struct Pool {
    /// Used up, and referred to when they were last looked at; the eldest first.
    spent: VecDeque<BytesMut>,
    /// Whole again. The last one is the one that is still in cache.
    free: Vec<BytesMut>,
    free_max: usize,
    spent_max: usize,
    /// So many may be here in all, beside `free_max`.
    expected: usize,
    /// Buffers that were used up.
    puts: u64,
    stats: PoolStats,
}

impl Pool {
    /// An empty pool that keeps up to `free_max` buffers that nobody refers to.
    pub(super) fn new(free_max: usize) -> Pool {
        assert!(free_max > 0, "a pool that keeps nothing allocates for ever");
        give_back_what_is_freed();
        let (spent, free) = (VecDeque::with_capacity(SPENT_MAX + 1), Vec::with_capacity(free_max));
        let spent_max = SPENT_MAX;
        Pool { spent, free, free_max, spent_max, expected: 0, puts: 0, stats: PoolStats::default() }
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
        for _ in 0..LOOKS {
            if let Some(buffer) = self.look() {
                self.keep(buffer);
            }
        }
        self.trim();
        self.puts += 1;
        if self.puts.is_multiple_of(LINGER) && self.free.len() > self.free_max.max(self.spent.len())
        {
            // More than come and go by now.
            self.free.swap_remove(0);
            self.stats.dropped += 1;
        }
        if self.spent.len() > self.spent_max {
            self.spent.pop_front();
            self.stats.dropped += 1;
        }
    }

    /// `bytes` of receive buffers may be referred to at the same time.
    pub(super) fn expect(&mut self, bytes: usize) {
        self.expected = bytes / RECV_BUFFER;
        self.spent_max = self.spent_max.max(2 * self.expected);
        // Nothing is allocated later.
        self.spent.reserve(self.spent_max + 1 - self.spent.len().min(self.spent_max));
        self.free.reserve(self.expected.saturating_sub(self.free.len()) + 1);
    }

    /// Free buffers that are kept: a few, and as many as are expected beside those that wait, for they come and
    /// go together, and to map a new one costs more than to fill it.
    fn free_max(&self) -> usize {
        self.free_max.max(self.expected.saturating_sub(self.spent.len()))
    }

    /// Bytes of the used-up buffers, those included that have become free since they were looked at.
    pub(super) fn waiting(&self) -> usize {
        self.spent.len() * RECV_BUFFER
    }

    /// Looks at all used-up buffers, and returns how many bytes still wait.
    pub(super) fn sweep(&mut self) -> usize {
        for _ in 0..self.spent.len() {
            if let Some(buffer) = self.look() {
                self.keep(buffer);
            }
        }
        self.trim();
        self.waiting()
    }

    /// The used-up buffers, to find out who lives in them.
    pub(super) fn tenants(&self) -> Tenants {
        // What was received is split off at the front: the end stays where it is.
        let end = |buffer: &BytesMut| buffer.as_ptr() as usize + buffer.capacity();
        Tenants::new(self.spent.iter().map(|buffer| end(buffer) - RECV_BUFFER), RECV_BUFFER)
    }

    /// Counters, and how many buffers are here.
    pub(super) fn stats(&self) -> PoolStats {
        PoolStats { kept: self.spent.len() + self.free.len(), ..self.stats }
    }

    fn take(&mut self) -> BytesMut {
        if let Some(buffer) = self.free.pop() {
            return self.again(buffer);
        }
        for _ in 0..self.spent.len().min(LOOKS_MAX) {
            if let Some(buffer) = self.look() {
                return self.again(buffer);
            }
        }
        self.stats.allocated += 1;
        BytesMut::with_capacity(RECV_BUFFER)
    }

    fn again(&mut self, buffer: BytesMut) -> BytesMut {
        self.stats.reused += 1;
        buffer
    }

    /// The eldest of those that wait, if it waits no more; else it is looked at again after the others.
    fn look(&mut self) -> Option<BytesMut> {
        let mut buffer = self.spent.pop_front()?;
        if buffer.try_reclaim(RECV_BUFFER) {
            return Some(buffer);
        }
        self.spent.push_back(buffer);
        None
    }

    fn keep(&mut self, buffer: BytesMut) {
        self.free.push(buffer);
        self.trim();
    }

    fn trim(&mut self) {
        let max = self.free_max();
        self.stats.dropped += self.free.len().saturating_sub(max) as u64;
        self.free.truncate(max);
    }
}

/// Has the allocator return a buffer that is freed to the kernel. Left to itself, glibc raises the size from which
/// it does so to that of the largest block that was freed, and keeps buffers in a heap that shrinks at its end
/// only: 94 MiB were resident for 66 MiB of buffers. Buffers are freed seldom, for some are kept.
fn give_back_what_is_freed() {
    const _: () = assert!(MAPPED_FROM <= RECV_BUFFER);
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers, and the allocator's own lock where it needs it.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM as libc::c_int);
    }
}

/// Blocks from this size on are mappings of their own, bytes.
const MAPPED_FROM: usize = 256 * 1024;

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
    fn pinned_buffers_do_not_hide_a_free_one() {
        let mut pool = Pool::new(3);
        let mut pinned = Vec::new();
        for _ in 0..40 {
            let mut buffer = pool.ready(None, 1);
            pinned.push(fill(&mut buffer, 1));
            pool.put(buffer);
        }
        assert_eq!(pool.stats(), PoolStats { allocated: 40, reused: 0, dropped: 0, kept: 40 });
        pinned.pop();
        let _free = pool.ready(None, 1);
        assert_eq!(pool.stats(), PoolStats { allocated: 40, reused: 1, dropped: 0, kept: 39 });
    }

    #[test]
    fn free_ones_do_not_pile_up() {
        let mut pool = Pool::new(3);
        let mut pinned: Vec<_> = (0..40)
            .map(|_| {
                let mut buffer = pool.ready(None, 1);
                (fill(&mut buffer, 1), pool.put(buffer)).0
            })
            .collect();
        // All are free, and each one that is used up makes the pool look at some.
        pinned.clear();
        for _ in 0..40 {
            let mut buffer = pool.ready(None, RECV_BUFFER);
            drop(fill(&mut buffer, RECV_BUFFER));
            pool.put(buffer);
        }
        let stats = pool.stats();
        assert_eq!((stats.allocated, stats.kept), (40, 3), "{stats:?}");
    }

    #[test]
    fn as_many_are_free_as_come_and_go_and_no_more_than_expected() {
        let mut pool = Pool::new(3);
        pool.expect(50 * RECV_BUFFER);
        let mut pinned: Vec<_> = (0..40)
            .map(|_| {
                let mut buffer = pool.ready(None, 1);
                (fill(&mut buffer, 1), pool.put(buffer)).0
            })
            .collect();
        pinned.truncate(20);
        assert_eq!((pool.sweep(), pool.stats().kept), (20 * RECV_BUFFER, 40));
        pool.expect(30 * RECV_BUFFER);
        assert_eq!((pool.sweep(), pool.stats().kept), (20 * RECV_BUFFER, 30));
        pinned.clear();
        assert_eq!((pool.sweep(), pool.stats().kept), (0, 30));
        for _ in 0..40 * LINGER {
            let mut buffer = pool.ready(None, 1);
            drop(fill(&mut buffer, 1));
            pool.put(buffer);
        }
        assert_eq!(pool.stats().kept, 3, "a few where nobody waits");
    }

    #[test]
    fn who_is_moved_out_gives_the_buffer_back() {
        let mut pool = Pool::new(3);
        let mut pinned: Vec<_> = (0..40)
            .map(|_| {
                let mut buffer = pool.ready(None, RECV_BUFFER);
                drop(fill(&mut buffer, 100_000));
                let piece = fill(&mut buffer, 4096);
                drop(fill(&mut buffer, RECV_BUFFER - 104_096));
                pool.put(buffer);
                piece
            })
            .collect();
        assert_eq!((pool.sweep(), pool.waiting()), (40 * RECV_BUFFER, 40 * RECV_BUFFER));
        let mut tenants = pool.tenants();
        pinned.iter().for_each(|piece| tenants.count(piece));
        assert!(tenants.choose(10 * RECV_BUFFER));
        pinned.iter_mut().for_each(|piece| tenants.move_out(piece));
        // One more, for the copies.
        assert_eq!(pool.sweep(), 29 * RECV_BUFFER);
        assert!(pinned.iter().all(|piece| piece.iter().all(|byte| *byte == 7)));
    }

    #[test]
    fn those_that_wait_do_not_pile_up() {
        let mut pool = Pool::new(3);
        let _pinned: Vec<_> = (0..SPENT_MAX + 5)
            .map(|_| {
                let mut buffer = pool.ready(None, 1);
                (fill(&mut buffer, 1), pool.put(buffer)).0
            })
            .collect();
        assert_eq!((pool.stats().dropped, pool.stats().kept), (5, SPENT_MAX));
    }
}
