//! The last events of a device, for `status` and the log.
//!
//! Mental model: a ring of [`EVENTS_PER_DEVICE`] entries. What repeats itself (a path that fails again
//! for the same reason) is counted in its entry instead of pushing the news out.
//! Deliberately not here: names of paths, formatting of times, writing of logs.

use super::{PathIndex, Policy, State};
use crate::base::{Duration, Instant};
use crate::limits::EVENTS_PER_DEVICE;
use core::fmt;
use std::collections::VecDeque;

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
    /// How many times in a row.
    pub times: u32,
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

    /// Adds an event, or counts it in the path's last entry when that says the same.
    pub fn push(&mut self, at: Stamp, path: Option<PathIndex>, what: What, why: &str) {
        let why = bounded(why);
        let last = self.ring.iter_mut().rev().find(|event| event.path == path);
        if let Some(last) = last.filter(|last| last.what == what && last.why == why) {
            last.at = at;
            last.times = last.times.saturating_add(1);
            return;
        }
        if self.ring.len() == EVENTS_PER_DEVICE {
            self.ring.pop_front();
        }
        self.ring.push_back(Event { at, path, what, why: why.to_owned(), times: 1 });
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

    /// Entries added after `mark`, oldest first, as far as they are still here: for a log.
    pub fn since(&self, mark: u64) -> impl Iterator<Item = &Event> {
        let new = usize::try_from(self.pushed.saturating_sub(mark)).unwrap_or(usize::MAX);
        self.ring.iter().skip(self.ring.len().saturating_sub(new))
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
    fn repetition_of_one_path_is_counted() {
        let mut events = Events::new();
        for n in 0..5 {
            events.push(Stamp(n), A, FAILED, "connection refused");
            events.push(Stamp(n), B, FAILED, "no answer");
        }
        events.push(Stamp(9), A, FAILED, "no answer");
        let seen: Vec<_> = events.iter().map(|e| (e.at.0, e.path, e.times)).collect();
        assert_eq!(seen, [(4, A, 5), (4, B, 5), (9, A, 1)]);
        assert_eq!(events.pushed(), 3);
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
