//! When a path that has no session is tried again.
//!
//! * A path that was up is tried again at once, then after `reconnect_min` (100 ms), doubling to
//!   `reconnect_max` (2 s), for ever; in the first 3 s no step is longer than 300 ms, so that a target that
//!   only restarts is found at once. Steps count from try to try, so that one that is not answered costs no
//!   more than one that is refused. A target's Time2Wait is honoured from the second try on.
//! * A login that was refused for good (authentication, not found) is retried every 30 s.
//! * A path that is lost for the fifth time within a minute flaps: it is kept out for 5 s, then 10 s, and
//!   so on up to `flap_penalty_max` (a minute), until it has once stayed up for a minute. Failed attempts do not count: a
//!   target that is simply down is found within 2 s of its return.
//!
//! Every delay is shortened by up to a quarter, at random, so that the paths to a target that comes back
//! do not all arrive together; nothing is ever later than its nominal delay. The randomness is seeded.
//! Deliberately not here: clocks, and what connecting means.

use crate::base::{Duration, Instant};

/// So long after a loss no step is longer than [`QUICK`].
const QUICK_FOR: Duration = Duration::from_secs(3);
/// See [`QUICK_FOR`]; also the least that a try to connect is given.
const QUICK: Duration = Duration::from_millis(300);
/// Delay after a refusal that waiting will not cure.
const REFUSED: Duration = Duration::from_secs(30);
/// This many losses within [`FLAP_WINDOW`] are flapping.
const FLAP_LOSSES: usize = 5;
/// See [`FLAP_LOSSES`]; also how long a path must stay up to be trusted again.
const FLAP_WINDOW: Duration = Duration::from_secs(60);
/// First time that a flapping path is kept out; doubles.
const KEEP_OUT_FIRST: Duration = Duration::from_secs(5);

/// The settings of a reconnect schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    /// First step that is not zero.
    pub min: Duration,
    /// Longest step.
    pub max: Duration,
    /// Longest time that a flapping path is kept out.
    pub penalty_max: Duration,
}

impl Default for Reconnect {
    fn default() -> Reconnect {
        Reconnect {
            min: Duration::from_millis(100),
            max: Duration::from_secs(2),
            penalty_max: Duration::from_secs(60),
        }
    }
}

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
    settings: Reconnect,
    random: u64,
    attempts: u32,
    /// When the path was lost, and when it was last tried.
    down_since: Option<Instant>,
    tried: Option<Instant>,
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
            settings: Reconnect::default(),
            random: seed,
            attempts: 0,
            down_since: None,
            tried: None,
            up_since: None,
            losses: [None; FLAP_LOSSES],
            keep_outs: 0,
        }
    }

    /// The path carries I/O; nothing new if it did before and has not failed since.
    pub fn up(&mut self, now: Instant) {
        self.up_since.get_or_insert(now);
        self.attempts = 0;
        (self.down_since, self.tried) = (None, None);
    }

    /// Changes the settings; what is scheduled stays.
    pub fn set(&mut self, settings: Reconnect) {
        self.settings = settings;
    }

    /// A try begins.
    pub fn tried(&mut self, now: Instant) {
        self.tried = Some(now);
    }

    /// How long a try to connect may take: the next one may do better.
    #[must_use]
    pub fn patience(&self, now: Instant) -> Duration {
        let down = self.down_since.map_or(Duration::ZERO, |since| now - since);
        let step = self.step(self.attempts.saturating_add(1)).max(QUICK);
        if down < QUICK_FOR { step.min(self.quick()) } else { step }
    }

    fn quick(&self) -> Duration {
        QUICK.max(self.settings.min)
    }

    /// The path was lost, or an attempt failed. Returns when to try again.
    #[must_use]
    pub fn failed(&mut self, now: Instant, how: Failure, time2wait: Duration) -> Instant {
        let keep_out = match self.up_since.take() {
            Some(since) => self.lost(now, since),
            None => None,
        };
        let wait = if self.attempts == 0 { Duration::ZERO } else { time2wait };
        let down_since = *self.down_since.get_or_insert(now);
        let (from, nominal) = match (how, keep_out) {
            (Failure::Refused, _) => (now, REFUSED),
            (Failure::Transient, Some(keep_out)) => (now, keep_out),
            (Failure::Transient, None) => {
                (self.tried.unwrap_or(now), self.nominal(now - down_since))
            }
        };
        self.attempts = self.attempts.saturating_add(1);
        (from + self.jittered(nominal)).max(now + wait)
    }

    /// Forgets all failures: an administrator asked for a new try.
    pub fn reset(&mut self) {
        *self = Backoff { settings: self.settings, ..Backoff::new(self.random) };
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
        Some((KEEP_OUT_FIRST * (1 << doublings)).min(self.settings.penalty_max))
    }

    fn nominal(&mut self, down: Duration) -> Duration {
        let step = self.step(self.attempts);
        if down >= QUICK_FOR || step <= self.quick() {
            return step;
        }
        self.attempts -= 1;
        self.quick()
    }

    /// The step after so many tries that failed.
    fn step(&self, attempts: u32) -> Duration {
        match attempts {
            0 => Duration::ZERO,
            n => (self.settings.min * (1 << (n - 1).min(16))).min(self.settings.max),
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
            let mut nominals = [0, 100, 200].into_iter().chain([300; 20]);
            while now.since(NOW) < QUICK_FOR {
                let (delay, nominal) = (transient(&mut b, now), nominals.next().expect("enough"));
                prop_assert!(is_about(delay, Duration::from_millis(nominal)), "{delay:?} {nominal}");
                now += delay;
            }
            for nominal in [400, 800, 1600, 2000, 2000].into_iter().chain([2000; 500]) {
                let delay = transient(&mut b, now);
                prop_assert!(is_about(delay, Duration::from_millis(nominal)), "{delay:?} {nominal}");
                now += delay;
            }
        }

        /// A try that is not answered costs no more than one that is refused.
        #[test]
        fn steps_count_from_try_to_try(seed: u64, took in 0u64..5000) {
            let mut b = Backoff::new(seed);
            let mut now = NOW;
            for _ in 0..30 {
                b.tried(now);
                prop_assert!(b.patience(now) >= QUICK && b.patience(now) <= Reconnect::default().max);
                let failed = now + Duration::from_millis(took);
                let next = b.failed(failed, Failure::Transient, NO_WAIT);
                let step = next.since(now).saturating_sub(Duration::from_millis(took));
                prop_assert!(next == failed || next.since(now) <= Duration::from_secs(2), "{step:?}");
                now = next;
            }
        }

        #[test]
        fn the_settings_are_the_bounds(seed: u64, min in 1u64..5000, max in 5000u64..60_000) {
            let mut b = Backoff::new(seed);
            let millis = Duration::from_millis;
            b.set(Reconnect { min: millis(min), max: millis(max), penalty_max: millis(7000) });
            let mut now = NOW;
            prop_assert_eq!(transient(&mut b, now), NO_WAIT);
            for _ in 0..40 {
                let delay = transient(&mut b, now);
                prop_assert!(delay >= millis(min) * 3 / 4 && delay <= millis(max), "{delay:?}");
                now += delay;
            }
            prop_assert!(transient(&mut b, now) >= millis(max) * 3 / 4);
            b.up(now);
            for _ in 0..9 {
                b.up(now);
                let _ = transient(&mut b, now);
            }
            b.up(now);
            prop_assert!(is_about(transient(&mut b, now), millis(7000)));
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
        assert!(is_about(transient(&mut b, NOW), Duration::from_millis(100)));
        assert!(is_about(transient(&mut b, NOW), Duration::from_millis(200)));
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
