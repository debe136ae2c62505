//! Keeps the receive buffers of a lane to the memory that was promised for them.
//!
//! Payloads are references into receive buffers; small ones that stay for long each keep a large one. Nothing is
//! done about it, and nothing is copied, while the buffers that wait for their last reference fit what was
//! promised: the payload memory of the lane's devices and a part of it on top. Beyond that the emptiest buffers
//! are cleared: who lives there gets a place of its own. Where that is not enough, what came twice, by two paths, is let go.

use super::Lane;
use crate::limits::{RECV_BUFFER, RECV_VAIN_PART};

/// So much more is cleared than has to be, or received before it is tried again.
const STEP: usize = 4 * RECV_BUFFER;

/// What receive buffers may take.
#[derive(Debug, Default)]
pub(super) struct Bound {
    /// Payloads, and what is held in vain around them, bytes.
    max: usize,
    /// More than this in buffers that wait is looked into, bytes.
    look_above: usize,
}

impl Lane {
    /// A device with so much payload memory came.
    pub(super) fn expect_payloads(&mut self, bytes: usize) {
        self.bound.max += bytes + bytes / RECV_VAIN_PART;
        self.bound.look_above = self.bound.max;
        self.ring.expect_received(self.bound.max);
    }

    /// Looks whether more is held than was promised; once per turn.
    pub(super) fn keep_bound(&mut self) {
        if self.ring.received_waiting() > self.bound.look_above {
            self.clear_buffers();
        }
    }

    #[cold]
    fn clear_buffers(&mut self) {
        let mut waiting = self.ring.sweep_received();
        let mut tenants = self.ring.tenants();
        self.devices.iter_mut().for_each(|d| d.volume.count_payloads(&mut tenants));
        let mut elsewhere = tenants.elsewhere();
        let held = waiting + elsewhere;
        if held > self.bound.max && tenants.choose(held - self.bound.max + STEP) {
            self.devices.iter_mut().for_each(|d| d.volume.move_payloads(&mut tenants));
            elsewhere += tenants.copied();
            drop(tenants);
            waiting = self.ring.sweep_received();
        }
        if waiting + elsewhere > self.bound.max {
            self.devices.iter_mut().for_each(|d| d.volume.drop_copies());
            waiting = self.ring.sweep_received();
        }
        self.ring.expect_received(self.bound.max.saturating_sub(elsewhere));
        // What lies elsewhere by now is not waited for again.
        self.bound.look_above = self.bound.max.saturating_sub(elsewhere).max(waiting + STEP);
    }
}
