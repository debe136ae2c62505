//! How many commands a path may have outstanding: what the administrator allows, and less while its target
//! says that this is too many.
//!
//! A command that is refused for want of room (BUSY, TASK SET FULL) lowers the limit to the number of those
//! that are still outstanding: a target with few slots refuses everything beyond them, so the last refusal
//! of a burst finds exactly its slots. Good answers raise the limit by one for each [`RAISE_AFTER`]; after a
//! [`QUIET`] time without a refusal it grows by a quarter at once, so that a target that was busy with
//! something else is soon used fully again.

use crate::base::{Duration, Instant};

/// Good answers before the limit grows by one: how often a target at its limit is asked for more.
const RAISE_AFTER: u32 = 64;
/// Time without a change of the limit before it grows by a quarter.
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
    pub fn limit(&self) -> u16 {
        self.limit
    }

    /// Whether the target has lowered it.
    #[must_use]
    pub fn is_lowered(&self) -> bool {
        self.limit < self.allowed
    }

    /// An administrator allows another depth. What the target has lowered stays low.
    pub fn allow(&mut self, allowed: u16) {
        assert!(allowed > 0, "a path takes at least one command");
        self.limit = if self.is_lowered() { self.limit.min(allowed) } else { allowed };
        self.allowed = allowed;
    }

    /// The target refused a command for want of room while `outstanding` others were with it. Returns
    /// whether this is the first refusal since the whole depth was in use.
    pub fn refused(&mut self, now: Instant, outstanding: usize) -> bool {
        let whole = !self.is_lowered();
        let fits = u16::try_from(outstanding).unwrap_or(u16::MAX).max(1);
        self.limit = self.limit.min(fits);
        self.good = 0;
        self.changed = now;
        whole && self.is_lowered()
    }

    /// A command was carried out. Returns whether the whole depth is in use again.
    pub fn carried_out(&mut self, now: Instant) -> bool {
        if !self.is_lowered() {
            return false;
        }
        self.good += 1;
        let step = if now - self.changed >= QUIET {
            self.limit.div_ceil(4)
        } else if self.good >= RAISE_AFTER {
            1
        } else {
            return false;
        };
        self.limit = self.limit.saturating_add(step).min(self.allowed);
        self.good = 0;
        self.changed = now;
        !self.is_lowered()
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

    /// A target with four slots and a burst of 32: the refusals find the four.
    #[test]
    fn a_burst_of_refusals_ends_at_what_fits() {
        let mut d = Depth::new(128);
        for outstanding in (4..32).rev() {
            assert_eq!(d.refused(NOW, outstanding), outstanding == 31);
        }
        assert_eq!(d.limit(), 4);
        d.refused(NOW, 0);
        assert_eq!(d.limit(), 1, "never none");
        // An answer to a command from before says nothing new.
        d.refused(NOW, 20);
        assert_eq!(d.limit(), 1);
    }

    #[test]
    fn good_answers_raise_it_one_by_one_and_quiet_by_a_quarter() {
        let mut d = Depth::new(10);
        d.refused(NOW, 4);
        for _ in 1..RAISE_AFTER {
            assert!(!d.carried_out(NOW));
        }
        assert_eq!(d.limit(), 4);
        d.carried_out(NOW);
        assert_eq!(d.limit(), 5);
        d.refused(NOW, 4);
        (0..RAISE_AFTER - 1).for_each(|_| assert!(!d.carried_out(NOW)));
        d.refused(NOW, 4);
        assert!(!d.carried_out(NOW) && d.limit() == 4, "a refusal begins the count again");
        for expected in [5, 7, 9] {
            let later = d.changed + QUIET;
            assert!(!d.carried_out(later));
            assert_eq!(d.limit(), expected);
        }
        let later = d.changed + QUIET;
        assert!(d.carried_out(later), "whole again, told once");
        assert!(!d.carried_out(later + QUIET) && d.limit() == 10);
    }

    #[test]
    fn what_the_target_has_lowered_an_administrator_does_not_raise() {
        let mut d = Depth::new(64);
        d.refused(NOW, 8);
        d.allow(128);
        assert_eq!(d.limit(), 8);
        d.allow(4);
        assert!(d.limit() == 4 && !d.is_lowered());
    }
}
