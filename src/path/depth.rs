//! How many commands a path may have outstanding: what the administrator allows, and less while its target
//! says that this is too many.
//!
//! BUSY and TASK SET FULL lower the limit to one less than what is outstanding, and at least by a quarter;
//! good answers raise it again by one for each [`RAISE_AFTER`], and a [`QUIET`] time without a refusal lets
//! it grow by a quarter at once. So a target that is full for a moment costs little, and one that always has
//! few slots is found at its limit.

use crate::base::{Duration, Instant};

/// Good answers before the limit grows by one.
const RAISE_AFTER: u32 = 64;
/// Time without a refusal before the limit grows by a quarter.
const QUIET: Duration = Duration::from_secs(1);

/// The limit of one path.
#[derive(Debug, Clone)]
pub struct Depth {
    allowed: u16,
    limit: u16,
    good: u32,
    /// When the limit was last changed.
    changed: Instant,
}

impl Depth {
    /// The whole depth that an administrator allows, at least 1.
    #[must_use]
    pub fn new(allowed: u16) -> Depth {
        assert!(allowed > 0, "a path takes at least one command");
        Depth { allowed, limit: allowed, good: 0, changed: Instant::ZERO }
    }

    /// Commands that may be outstanding now.
    #[must_use]
    pub fn limit(&self) -> usize {
        usize::from(self.limit)
    }

    /// Whether the target has lowered it.
    #[must_use]
    pub fn is_lowered(&self) -> bool {
        self.limit < self.allowed
    }

    /// An administrator allows another depth. What the target has lowered stays low.
    pub fn allow(&mut self, allowed: u16) {
        assert!(allowed > 0, "a path takes at least one command");
        let lowered = self.is_lowered();
        self.allowed = allowed;
        self.limit = if lowered { self.limit.min(allowed) } else { allowed };
    }

    /// The target refused a command for want of room; `outstanding` others were with it. Returns whether
    /// the limit is lower now.
    pub fn refused(&mut self, now: Instant, outstanding: usize) -> bool {
        let fits = outstanding.min(usize::from(self.limit)) as u16;
        let before = self.limit;
        // One burst is refused command by command: the first answers are not taken for less than they say.
        let floor = before - before.div_ceil(4);
        self.limit = fits.max(floor).clamp(1, before);
        self.good = 0;
        self.changed = now;
        self.limit < before
    }

    /// A command was carried out. Returns whether the limit is what is allowed, for the first time again.
    pub fn carried_out(&mut self, now: Instant) -> bool {
        if !self.is_lowered() {
            return false;
        }
        self.good += 1;
        let step = match now - self.changed {
            quiet if quiet >= QUIET => self.limit.div_ceil(4),
            _ if self.good >= RAISE_AFTER => 1,
            _ => return false,
        };
        self.limit = self.limit.saturating_add(step).min(self.allowed);
        self.good = 0;
        self.changed = now;
        !self.is_lowered()
    }

    /// A new session: nothing was refused on it.
    pub fn reset(&mut self) {
        *self = Depth::new(self.allowed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_millis(1_000_000);

    #[test]
    fn the_whole_depth_until_the_target_refuses() {
        let mut d = Depth::new(128);
        assert!(!d.carried_out(NOW) && d.limit() == 128 && !d.is_lowered());
        d.allow(32);
        assert_eq!(d.limit(), 32);
        d.allow(64);
        assert_eq!(d.limit(), 64);
    }
}
