//! Waking a lane that sleeps in its ring, from any thread: an eventfd that the ring always reads.
//!
//! Wake-ups between two turns of the lane collapse into one: the first writes, the others see the mark.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

struct Inner {
    event: EventFd,
    pending: AtomicBool,
}

/// Wakes the ring that it was taken from; cheap to clone, and harmless once the ring is gone.
#[derive(Clone)]
pub struct Waker {
    inner: Arc<Inner>,
}

impl Waker {
    pub(super) fn new() -> io::Result<Waker> {
        // Blocking on purpose: the ring's read waits in the kernel, and a write never does, because the
        // mark keeps the counter at one or two.
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
        Ok(Waker { inner: Arc::new(Inner { event, pending: AtomicBool::new(false) }) })
    }

    /// Makes the ring's wait return with [`Completion::Woken`](super::Completion::Woken).
    ///
    /// What the caller wrote before is visible to the ring's thread when it sees that completion, so a
    /// message is put into its queue first and the ring is woken then.
    pub fn wake(&self) {
        if self.inner.pending.swap(true, Ordering::AcqRel) {
            return;
        }
        self.inner.event.write(1).expect("an eventfd with a small counter takes a write");
    }

    /// From here on a wake-up writes again; called by the ring before it reports `Woken`.
    pub(super) fn clear(&self) {
        self.inner.pending.swap(false, Ordering::AcqRel);
    }

    /// What becomes readable.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.inner.event.as_fd()
    }

    /// Takes the mark of a wake-up that has been seen.
    pub(super) fn take(&self) {
        // Readable, so it does not wait; and there is nobody else to read.
        let _ = self.inner.event.read();
    }

    pub(super) fn fd(&self) -> RawFd {
        self.inner.event.as_fd().as_raw_fd()
    }
}
