//! Time of a daemon that is sometimes stopped.
//!
//! A stopped virtual machine or a starved process does not hear answers that came in time. So the time that
//! passed in such a pause is cut out: a driver reads its clock through a [`SteadyClock`], and every deadline,
//! wherever it is kept, has moved by the pause. What came meanwhile is handled before any timer.

use super::{Duration, Instant};

/// A turn that is later than this was not merely busy.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// Clock readings without the pauses between them.
#[derive(Debug, Clone, Copy, Default)]
pub struct SteadyClock {
    lost: Duration,
}

impl SteadyClock {
    /// The steady time of a raw reading within a turn.
    #[must_use]
    pub fn at(&self, raw: Instant) -> Instant {
        Instant::from_nanos(raw.since(Instant::ZERO).saturating_sub(self.lost).as_nanos() as u64)
    }

    /// The raw reading that will show this steady time, unless there is another pause.
    #[must_use]
    pub fn raw(&self, steady: Instant) -> Instant {
        steady + self.lost
    }

    /// A turn begins at `raw`; it was to begin at `due` of steady time at the latest. Returns the steady time
    /// and, when the turn came so late that the lane must have stood still, by how much.
    #[must_use]
    pub fn turn(&mut self, raw: Instant, due: Instant) -> (Instant, Option<Duration>) {
        let late = self.at(raw).since(due);
        if late <= PAUSE_MIN {
            return (self.at(raw), None);
        }
        self.lost += late;
        (self.at(raw), Some(late))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Instant = Instant::from_millis;

    #[test]
    fn a_pause_is_cut_out_and_a_busy_turn_is_not() {
        let mut clock = SteadyClock::default();
        assert_eq!(clock.turn(MS(100), MS(150)), (MS(100), None), "early");
        assert_eq!(clock.turn(MS(350), MS(150)), (MS(350), None), "busy");
        assert_eq!(clock.turn(MS(351), Instant::MAX), (MS(351), None), "nothing was due");
        let paused = Duration::from_millis(10_000);
        assert_eq!(clock.turn(MS(10_400), MS(400)), (MS(400), Some(paused)));
        assert_eq!((clock.at(MS(10_401)), clock.at(MS(10_500))), (MS(401), MS(500)));
        assert_eq!(clock.raw(MS(500)), MS(10_500));
        assert_eq!(clock.turn(MS(10_600), MS(401)), (MS(600), None));
        assert_eq!(clock.turn(MS(11_000), MS(600)).0, MS(600), "once more");
    }
}
