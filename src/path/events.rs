//! The last events of a device, for `status` and the log.
//!
//! Mental model: a ring of [`EVENTS_PER_DEVICE`] entries, the latest last. What repeats itself (a path that
//! fails again for the same reason, or goes the same round again) is counted in its entry, which moves to
//! the end, instead of pushing the news out.
//! Deliberately not here: names of paths, formatting of times, writing of logs.

use super::{PathIndex, Policy, State};
use crate::base::{Duration, Instant};
use crate::limits::EVENTS_PER_DEVICE;
use core::fmt;
use std::collections::VecDeque;

/// A path repeats itself when one of its last few entries says the same: a round of states has up to four.
const ROUND: usize = 4;

/// Longest text of an event, bytes: some of it comes from a target.
const WHY_MAX: usize = 512;

/// Wall-clock time, milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp(pub u64);

/// Turns the driver's monotonic time into wall-clock time: one pair of readings, taken by the driver.
#[derive(Debug, Clone, Copy, Default)]
pub struct WallClock {
    at: Instant,
    stamp: Stamp,
}

impl WallClock {
    /// `stamp` was the time at `at`.
    #[must_use]
    pub fn new(at: Instant, stamp: Stamp) -> WallClock {
        WallClock { at, stamp }
    }

    /// The time at `now`.
    #[must_use]
    pub fn stamp(&self, now: Instant) -> Stamp {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let (ahead, behind) = (millis(now.since(self.at)), millis(self.at.since(now)));
        Stamp(self.stamp.0.saturating_add(ahead).saturating_sub(behind))
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The path went into this state.
    State(State),
    /// The policy was changed to this one.
    Policy(Policy),
    /// `failover` moved to the path.
    Switched,
    /// Anything else that an administrator should know, by a short fixed name.
    Other(&'static str),
}

impl What {
    /// Whether saying it again is no news.
    fn repeats(self) -> bool {
        match self {
            What::State(_) | What::Other(_) => true,
            What::Policy(_) | What::Switched => false,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::State(state) => state.fmt(f),
            What::Policy(_) => f.pad("policy"),
            What::Switched => f.pad("switched"),
            What::Other(name) => f.pad(name),
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When it happened; when it last happened, if it repeated itself.
    pub at: Stamp,
    /// The path that it happened to; `None`: the device.
    pub path: Option<PathIndex>,
    /// What happened.
    pub what: What,
    /// Why, in words.
    pub why: String,
    /// How many times.
    pub times: u32,
    /// Its number among all entries ever added.
    number: u64,
}

/// The last events.
#[derive(Debug, Clone)]
pub struct Events {
    ring: VecDeque<Event>,
    pushed: u64,
}

impl Events {
    /// An empty ring with all its memory.
    #[must_use]
    pub fn new() -> Events {
        Events { ring: VecDeque::with_capacity(EVENTS_PER_DEVICE), pushed: 0 }
    }

    /// Adds an event, or counts it in the entry that says the same.
    pub fn push(&mut self, at: Stamp, path: Option<PathIndex>, what: What, why: &str) {
        let why = bounded(why);
        let own = self.ring.iter().enumerate().rev().filter(|(_, event)| event.path == path);
        let same = own.take(ROUND).find(|(_, event)| event.what == what && event.why == why);
        let same = same.map(|(place, _)| place).filter(|_| what.repeats());
        if let Some(mut event) = same.and_then(|place| self.ring.remove(place)) {
            event.at = at;
            event.times = event.times.saturating_add(1);
            self.ring.push_back(event);
            return;
        }
        if self.ring.len() == EVENTS_PER_DEVICE {
            self.ring.pop_front();
        }
        let (why, number) = (why.to_owned(), self.pushed);
        self.ring.push_back(Event { at, path, what, why, times: 1, number });
        self.pushed += 1;
        assert!(self.ring.len() <= EVENTS_PER_DEVICE, "the event ring grew");
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.ring.iter()
    }

    /// How many entries were ever added: a mark for [`since`](Events::since).
    #[must_use]
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Entries added after `mark`, as far as they are still here: for a log. Repetitions are not told.
    pub fn since(&self, mark: u64) -> impl Iterator<Item = &Event> {
        self.ring.iter().filter(move |event| event.number >= mark)
    }
}

impl Default for Events {
    fn default() -> Events {
        Events::new()
    }
}

/// The first [`WHY_MAX`] bytes, whole characters.
fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(WHY_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Option<PathIndex> = Some(PathIndex::new(0));
    const B: Option<PathIndex> = Some(PathIndex::new(1));
    const FAILED: What = What::State(State::Failed);

    #[test]
    fn the_last_ones_stay() {
        let mut events = Events::new();
        for n in 0..200u64 {
            events.push(Stamp(n), A, FAILED, &n.to_string());
        }
        assert_eq!(events.iter().count(), EVENTS_PER_DEVICE);
        assert_eq!(events.iter().next_back().map(|e| e.at), Some(Stamp(199)));
        assert_eq!(events.iter().next().map(|e| e.at), Some(Stamp(200 - 64)));
        assert_eq!(events.since(198).map(|e| e.at.0).collect::<Vec<_>>(), [198, 199]);
        assert_eq!(events.since(0).count(), EVENTS_PER_DEVICE);
        assert_eq!(events.since(events.pushed()).count(), 0);
    }

    #[test]
    fn repetition_is_counted_and_moves_to_the_end() {
        let mut events = Events::new();
        for n in 0..5 {
            events.push(Stamp(n), A, FAILED, "connection refused");
            events.push(Stamp(n), B, FAILED, "no answer");
        }
        let mark = events.pushed();
        events.push(Stamp(9), A, FAILED, "no answer");
        events.push(Stamp(10), B, FAILED, "no answer");
        let seen: Vec<_> = events.iter().map(|e| (e.at.0, e.path, e.times)).collect();
        assert_eq!(seen, [(4, A, 5), (9, A, 1), (10, B, 6)]);
        assert_eq!((mark, events.pushed()), (2, 3));
        assert_eq!(events.since(mark).map(|e| e.at.0).collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn a_round_of_states_is_counted_and_a_switch_is_always_told() {
        let mut events = Events::new();
        for n in 0..100 {
            for state in [State::Probing, State::Active, State::Suspect, State::Failed] {
                events.push(Stamp(n), A, What::State(state), "");
            }
        }
        assert!(events.iter().map(|e| e.times).eq([100; 4]));
        events.push(Stamp(100), A, What::Switched, "");
        events.push(Stamp(101), A, What::Switched, "");
        assert_eq!(events.iter().count(), 6);
        assert!(events.iter().is_sorted_by_key(|e| e.at));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let mut events = Events::new();
        let text = format!("x{}", "ü".repeat(1000));
        events.push(Stamp(0), None, What::Other("note"), &text);
        events.push(Stamp(1), None, What::Other("note"), &text);
        let event = events.iter().next().expect("one event");
        assert_eq!((event.why.len(), event.times), (511, 2));
    }

    #[test]
    fn wall_clock_goes_both_ways() {
        let clock = WallClock::new(Instant::from_millis(1000), Stamp(50_000));
        assert_eq!(clock.stamp(Instant::from_millis(1250)), Stamp(50_250));
        assert_eq!(clock.stamp(Instant::from_millis(900)), Stamp(49_900));
        assert_eq!(WallClock::default().stamp(Instant::MAX).0, u64::MAX / 1_000_000);
    }
}
