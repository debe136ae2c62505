//! When a path that has no session is tried again.
//!
//! * A path that was up is tried again at once, then after 100 ms, doubling to 2 s, for ever. A target's
//!   Time2Wait is honoured from the second try on.
//! * A login that was refused for good (authentication, not found) is retried every 30 s.
//! * A path that is lost for the fifth time within a minute flaps: it is kept out for 5 s, then 10 s, and
//!   so on up to a minute, until it has once stayed up for a minute. Failed attempts do not count: a
//!   target that is simply down is found within 2 s of its return.
//!
//! Every delay is shortened by up to a quarter, at random, so that the paths to a target that comes back
//! do not all arrive together; nothing is ever later than its nominal delay. The randomness is seeded.
//! Deliberately not here: clocks, and what connecting means.

use crate::base::{Duration, Instant};

/// First delay that is not zero.
const FIRST: Duration = Duration::from_millis(100);
/// Longest delay between attempts.
const LONGEST: Duration = Duration::from_secs(2);
/// Delay after a refusal that waiting will not cure.
const REFUSED: Duration = Duration::from_secs(30);
/// This many losses within [`FLAP_WINDOW`] are flapping.
const FLAP_LOSSES: usize = 5;
/// See [`FLAP_LOSSES`]; also how long a path must stay up to be trusted again.
const FLAP_WINDOW: Duration = Duration::from_secs(60);
/// First time that a flapping path is kept out; doubles.
const KEEP_OUT_FIRST: Duration = Duration::from_secs(5);
/// Longest time that a flapping path is kept out.
const KEEP_OUT_LONGEST: Duration = Duration::from_secs(60);

const _: () = assert!(FIRST.as_millis() < LONGEST.as_millis());
const _: () = assert!(KEEP_OUT_FIRST.as_millis() > LONGEST.as_millis());

/// What kind of failure ended a session or an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// May be gone at any time: connection lost, refused or silent, target busy.
    Transient,
    /// The target refused for good: somebody has to change something.
    Refused,
}

/// Reconnect schedule of one path.
#[derive(Debug, Clone)]
pub struct Backoff {
    random: u64,
    attempts: u32,
    up_since: Option<Instant>,
    /// Times of the last losses, oldest first.
    losses: [Option<Instant>; FLAP_LOSSES],
    keep_outs: u32,
}

impl Backoff {
    /// A path that has not been tried yet. Paths of a device should have different seeds.
    #[must_use]
    pub fn new(seed: u64) -> Backoff {
        Backoff {
            random: seed,
            attempts: 0,
            up_since: None,
            losses: [None; FLAP_LOSSES],
            keep_outs: 0,
        }
    }

    /// The path carries I/O; nothing new if it did before and has not failed since.
    pub fn up(&mut self, now: Instant) {
        self.up_since.get_or_insert(now);
        self.attempts = 0;
    }

    /// The path was lost, or an attempt failed. Returns when to try again.
    #[must_use]
    pub fn failed(&mut self, now: Instant, how: Failure, time2wait: Duration) -> Instant {
        let keep_out = match self.up_since.take() {
            Some(since) => self.lost(now, since),
            None => None,
        };
        let nominal = match (how, keep_out) {
            (Failure::Refused, _) => REFUSED,
            (Failure::Transient, Some(keep_out)) => keep_out,
            (Failure::Transient, None) => self.nominal(),
        };
        let wait = if self.attempts == 0 { Duration::ZERO } else { time2wait };
        self.attempts = self.attempts.saturating_add(1);
        now + self.jittered(nominal).max(wait)
    }

    /// Forgets all failures: an administrator asked for a new try.
    pub fn reset(&mut self) {
        *self = Backoff::new(self.random);
    }

    /// Whether the path is kept out, or was not long enough up since.
    #[must_use]
    pub fn is_flapping(&self) -> bool {
        self.keep_outs > 0
    }

    fn lost(&mut self, now: Instant, since: Instant) -> Option<Duration> {
        if now.since(since) >= FLAP_WINDOW {
            self.keep_outs = 0;
            self.losses = [None; FLAP_LOSSES];
        }
        self.losses.rotate_left(1);
        self.losses[FLAP_LOSSES - 1] = Some(now);
        let flaps = self.losses[0].is_some_and(|first| now.since(first) <= FLAP_WINDOW);
        if !flaps && self.keep_outs == 0 {
            return None;
        }
        let doublings = self.keep_outs.min(8);
        self.keep_outs = self.keep_outs.saturating_add(1);
        Some((KEEP_OUT_FIRST * (1 << doublings)).min(KEEP_OUT_LONGEST))
    }

    fn nominal(&self) -> Duration {
        match self.attempts {
            0 => Duration::ZERO,
            n => (FIRST * (1 << (n - 1).min(8))).min(LONGEST),
        }
    }

    /// Between three quarters of `nominal` and all of it.
    fn jittered(&mut self, nominal: Duration) -> Duration {
        let quarter = nominal / 4;
        let span = u64::try_from(quarter.as_nanos()).unwrap_or(u64::MAX).saturating_add(1);
        nominal - Duration::from_nanos(self.next_random() % span)
    }

    /// SplitMix64: any seed will do, and one word of state.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Instant = Instant::from_millis(1_000_000);
    const NO_WAIT: Duration = Duration::ZERO;

    /// Whether `delay` is `nominal` with its jitter.
    fn is_about(delay: Duration, nominal: Duration) -> bool {
        delay <= nominal && delay >= nominal * 3 / 4
    }

    fn transient(b: &mut Backoff, now: Instant) -> Duration {
        b.failed(now, Failure::Transient, NO_WAIT).since(now)
    }

    proptest! {
        #[test]
        fn at_once_then_doubling_to_two_seconds_for_ever(seed: u64, up: bool) {
            let mut b = Backoff::new(seed);
            if up {
                b.up(NOW);
            }
            let mut now = NOW;
            for nominal in [0, 100, 200, 400, 800, 1600, 2000, 2000].into_iter().chain([2000; 500]) {
                let delay = transient(&mut b, now);
                prop_assert!(is_about(delay, Duration::from_millis(nominal)), "{delay:?} {nominal}");
                now += delay;
            }
        }

        #[test]
        fn the_same_seed_gives_the_same_schedule(seed: u64) {
            let (mut a, mut b) = (Backoff::new(seed), Backoff::new(seed));
            for _ in 0..20 {
                prop_assert_eq!(transient(&mut a, NOW), transient(&mut b, NOW));
            }
        }

        #[test]
        fn a_refusal_for_good_is_retried_slowly(seed: u64, before in 0usize..4) {
            let mut b = Backoff::new(seed);
            for _ in 0..before {
                transient(&mut b, NOW);
            }
            for _ in 0..5 {
                let delay = b.failed(NOW, Failure::Refused, NO_WAIT).since(NOW);
                prop_assert!(is_about(delay, REFUSED), "{delay:?}");
            }
        }

        /// RFC 7143 13.15 (DefaultTime2Wait): honoured from the second try on.
        #[test]
        fn time2wait_counts_from_the_second_try(seed: u64, seconds in 3u64..3600) {
            let mut b = Backoff::new(seed);
            let wait = Duration::from_secs(seconds);
            b.up(NOW);
            prop_assert_eq!(b.failed(NOW, Failure::Transient, wait), NOW);
            prop_assert_eq!(b.failed(NOW, Failure::Transient, wait), NOW + wait);
        }

        #[test]
        fn the_fifth_loss_in_a_minute_keeps_out_for_a_growing_time(seed: u64, gap in 0u64..14_000) {
            let mut b = Backoff::new(seed);
            let mut now = NOW;
            for _ in 0..4 {
                b.up(now);
                now += Duration::from_millis(gap);
                prop_assert_eq!(transient(&mut b, now), NO_WAIT);
            }
            for nominal in [5, 10, 20, 40, 60, 60, 60] {
                b.up(now);
                now += Duration::from_millis(gap);
                let delay = transient(&mut b, now);
                prop_assert!(is_about(delay, Duration::from_secs(nominal)), "{delay:?} {nominal}");
                prop_assert!(b.is_flapping());
                now += delay;
            }
            b.up(now);
            now += FLAP_WINDOW;
            prop_assert_eq!(transient(&mut b, now), NO_WAIT, "a minute up is enough");
            prop_assert!(!b.is_flapping());
        }
    }

    #[test]
    fn losses_further_apart_are_not_flapping() {
        let mut b = Backoff::new(1);
        let mut now = NOW;
        for _ in 0..50 {
            b.up(now);
            now += Duration::from_secs(16);
            assert_eq!(transient(&mut b, now), NO_WAIT);
        }
    }

    #[test]
    fn a_failed_attempt_after_a_keep_out_backs_off_as_usual() {
        let mut b = Backoff::new(1);
        for _ in 0..5 {
            b.up(NOW);
            transient(&mut b, NOW);
        }
        assert!(is_about(transient(&mut b, NOW), FIRST));
        assert!(is_about(transient(&mut b, NOW), FIRST * 2));
    }

    #[test]
    fn a_reset_tries_at_once() {
        let mut b = Backoff::new(1);
        for _ in 0..9 {
            transient(&mut b, NOW);
        }
        b.reset();
        assert_eq!(transient(&mut b, NOW), NO_WAIT);
    }
}
