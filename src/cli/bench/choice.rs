//! What one connection asks for next: which block, read or write.
//!
//! For a run that verifies, it also knows what every block of its part holds, and never has two requests on
//! one block, so that there is one right answer to every read.

use super::content::Random;
use super::latency::Kind;

/// Most blocks of one connection's part that are kept track of: 64 MiB of memory.
const KNOWN_MAX: u64 = 16 << 20;
/// A block with a request in flight, beside its generation.
const BUSY: u32 = 1 << 31;

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Read or write.
    pub kind: Kind,
    /// Which block of the request's size, counted from the start of the device.
    pub block: u64,
    /// For a write what to write; for a read what must come, 0 if nobody knows.
    pub generation: u64,
}

/// The part of the device that one connection works on, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// First block.
    pub first: u64,
    /// How many.
    pub blocks: u64,
}

impl Part {
    /// Cuts `blocks` into equal parts: the one of connection `index` of `count`.
    #[must_use]
    pub fn of(blocks: u64, index: usize, count: usize) -> Part {
        let each = blocks / count as u64;
        Part { first: each * index as u64, blocks: each }
    }
}

/// Chooses requests.
#[derive(Debug)]
pub struct Choice {
    random: Random,
    part: Part,
    next: u64,
    sequential: bool,
    read_percent: u64,
    generation: u64,
    /// By block of the part: the generation that it holds, 0 for what was there before.
    known: Option<Vec<u32>>,
    reading_back: bool,
}

impl Choice {
    /// Over `part`; of hundred requests `read_percent` are reads.
    ///
    /// # Panics
    /// When the part is empty.
    #[must_use]
    pub fn new(part: Part, sequential: bool, read_percent: u32, seed: u64) -> Choice {
        assert!(part.blocks > 0 && read_percent <= 100, "{part:?}, {read_percent} % reads");
        Choice {
            random: Random::new(seed),
            part,
            next: 0,
            sequential,
            read_percent: u64::from(read_percent),
            generation: 0,
            known: None,
            reading_back: false,
        }
    }

    /// Keeps track of what every block holds; the part shrinks to what can be kept track of.
    #[must_use]
    pub fn verifying(mut self) -> Choice {
        self.part.blocks = self.part.blocks.min(KNOWN_MAX);
        self.known = Some(vec![0; self.part.blocks as usize]);
        self
    }

    /// From now on: every block that was written, once, in order.
    pub fn read_back(&mut self) {
        (self.reading_back, self.next) = (true, 0);
    }

    /// The next request; `None` when everything was read back.
    pub fn next(&mut self) -> Option<Request> {
        if self.reading_back {
            return self.next_back();
        }
        let mut at = if self.sequential {
            let at = self.next;
            self.next = (at + 1) % self.part.blocks;
            at
        } else {
            self.random.below(self.part.blocks)
        };
        let kind = match self.read_percent {
            100 => Kind::Read,
            0 => Kind::Write,
            percent if self.random.below(100) < percent => Kind::Read,
            _ => Kind::Write,
        };
        let generation = match &mut self.known {
            None => {
                self.generation += 1;
                self.generation
            }
            Some(known) => {
                while known[at as usize] & BUSY != 0 {
                    at = (at + 1) % self.part.blocks;
                }
                let entry = &mut known[at as usize];
                if kind == Kind::Write {
                    *entry = (*entry + 1) % BUSY;
                }
                let generation = u64::from(*entry);
                *entry |= BUSY;
                generation
            }
        };
        Some(Request { kind, block: self.part.first + at, generation })
    }

    fn next_back(&mut self) -> Option<Request> {
        let known = self.known.as_mut()?;
        let left = known.iter_mut().enumerate().skip(self.next as usize);
        let (at, entry) = left.into_iter().find(|(_, entry)| **entry != 0)?;
        let generation = u64::from(*entry);
        *entry |= BUSY;
        self.next = at as u64 + 1;
        Some(Request { kind: Kind::Read, block: self.part.first + at as u64, generation })
    }

    /// A request was answered.
    pub fn done(&mut self, request: &Request) {
        if let Some(known) = &mut self.known {
            known[(request.block - self.part.first) as usize] &= !BUSY;
        }
    }

    /// Whether reads are to be compared.
    #[must_use]
    pub fn verifies(&self) -> bool {
        self.known.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_overlap() {
        let parts: Vec<Part> = (0..3).map(|index| Part::of(10, index, 3)).collect();
        assert_eq!(parts.iter().map(|part| part.first).collect::<Vec<_>>(), [0, 3, 6]);
        assert!(parts.iter().all(|part| part.blocks == 3));
    }

    #[test]
    fn sequential_goes_round() {
        let mut choice = Choice::new(Part { first: 5, blocks: 3 }, true, 100, 1);
        let blocks: Vec<u64> = (0..5).map(|_| choice.next().unwrap().block).collect();
        assert_eq!(blocks, [5, 6, 7, 5, 6]);
    }

    #[test]
    fn the_mix_is_what_was_asked_for() {
        let mut choice = Choice::new(Part { first: 0, blocks: 1000 }, false, 70, 1);
        let reads = (0..10_000).filter(|_| choice.next().unwrap().kind == Kind::Read).count();
        assert!((6_700..7_300).contains(&reads), "{reads}");
    }

    #[test]
    fn what_is_verified_has_one_request_and_comes_back_once() {
        let mut choice = Choice::new(Part { first: 10, blocks: 8 }, false, 0, 3).verifying();
        let mut flying: Vec<Request> = (0..8).map(|_| choice.next().unwrap()).collect();
        let mut blocks: Vec<u64> = flying.iter().map(|request| request.block).collect();
        blocks.sort_unstable();
        assert_eq!(blocks, (10..18).collect::<Vec<u64>>());
        assert!(flying.iter().all(|request| request.generation == 1));
        choice.done(&flying[0]);
        let again = choice.next().unwrap();
        assert_eq!((again.block, again.generation), (flying[0].block, 2));
        flying[0] = again;
        flying.iter().for_each(|request| choice.done(request));
        choice.read_back();
        let back: Vec<Request> = std::iter::from_fn(|| choice.next()).collect();
        assert_eq!(back.iter().map(|r| r.block).collect::<Vec<_>>(), blocks);
        for request in back {
            let expected = if request.block == again.block { 2 } else { 1 };
            assert_eq!((request.kind, request.generation), (Kind::Read, expected));
        }
    }
}
