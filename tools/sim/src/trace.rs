//! What happened in a run: a hash over everything, and a story of what a reader may want to see.

use mpio::base::Instant;

/// What an entry is about, so that a report can leave out the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// These cells: first and count.
    Cells(u64, u64),
    /// Something was broken or healed, or an administrator acted.
    Fault,
    /// The product told it.
    Notice,
}

/// One line of the story.
#[derive(Debug, Clone)]
pub struct Entry {
    /// When.
    pub at: Instant,
    /// About what.
    pub about: About,
    /// What.
    pub text: String,
}

/// The story of one run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    entries: Vec<Entry>,
}

impl Trace {
    /// Adds a line.
    pub fn tell(&mut self, at: Instant, about: About, text: String) {
        self.mix(at.as_nanos());
        for byte in text.bytes() {
            self.mix(u64::from(byte));
        }
        self.entries.push(Entry { at, about, text });
    }

    /// Adds to the hash only.
    pub fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// The same for the same run.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// All lines.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}
