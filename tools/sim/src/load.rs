//! What clients ask for, and the record of what they saw.
//!
//! A *cell* is 512 bytes, whatever the block size of the unit is: the smallest thing that a request changes
//! whole. Every write puts a value of its own, made of its number, into each of its cells.

use crate::dice::Dice;
use crate::history::ZERO;
use crate::trace::About;
use crate::world::{Finished, World};
use mpio::base::{Duration, Instant, Payload};
use mpio::export::client::{Answer, ClientConfig, Op};
use mpio::wire::nbd::Command;
use mpio::wire::nbd::command_flags;

/// Bytes of a cell.
pub const CELL: u64 = 512;

/// What one request does to its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads them.
    Read,
    /// Writes them; CRC32C of all its bytes, as the journal of the targets tells it.
    Write {
        /// Stable before it is answered.
        fua: bool,
        /// Of the data.
        checksum: u32,
    },
    /// Zeros them.
    Zero {
        /// They may be deallocated.
        hole: bool,
    },
    /// Says that they are not needed.
    Trim,
    /// Makes what was answered stable.
    Flush,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// By which client.
    pub peer: usize,
    /// For what.
    pub kind: Kind,
    /// First cell.
    pub first: u64,
    /// Cells.
    pub cells: u64,
    /// On the clock of begins and ends.
    pub began: u64,
    /// Commands that the targets had executed by then.
    pub journal: u64,
    /// Virtual time.
    pub at: Instant,
    /// Its answer, if there was one.
    pub answer: Option<Answered>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answered {
    /// On the clock of begins and ends.
    pub ended: u64,
    /// Commands that the targets had executed by then.
    pub journal: u64,
    /// Virtual time.
    pub at: Instant,
    /// Whether it was good.
    pub good: bool,
    /// What was read, by cell.
    pub seen: Vec<u64>,
}

/// What a cell holds after this request.
#[must_use]
pub fn value(token: usize, cell: u64) -> u64 {
    (token as u64 + 1) << 16 | (cell & 0xffff)
}

/// What a write puts into the cells from `from` to `to`, the end not included.
#[must_use]
pub fn content(token: usize, from: u64, to: u64) -> Vec<u8> {
    let words = (from..to).map(|cell| value(token, cell).to_le_bytes());
    words.flat_map(|word| word.repeat(CELL as usize / 8)).collect()
}

/// How the load behaves.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Cells that are used.
    pub cells: u64,
    /// Clients.
    pub peers: usize,
    /// Requests in flight per client.
    pub depth: usize,
    /// Where requests go.
    pub pattern: Pattern,
    /// Most cells of one request.
    pub cells_max: u64,
    /// Of sixteen requests this many are writes.
    pub writes: u64,
    /// One in so many is a flush; 0 for none.
    pub flush_one_in: u64,
    /// One write in so many is a zeroing or a trim; 0 for none.
    pub zero_one_in: u64,
    /// One write in so many has FUA; 0 for none.
    pub fua_one_in: u64,
    /// Cells per block of the unit: requests begin and end there, but for one in eight.
    pub align: u64,
    /// Requests are whole blocks always.
    pub aligned: bool,
}

/// Where requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Anywhere.
    Random,
    /// Nine of ten to the first few cells.
    Hot,
    /// Each client on, from where it was.
    Sequential,
    /// Every client at the same place, which wanders.
    Overlapping,
}

/// Requests and answers of a run.
#[derive(Debug, Default)]
pub struct Load {
    /// All requests; a token is an index.
    pub asked: Vec<Asked>,
    cursors: Vec<u64>,
    /// What broke, if an answer itself is wrong.
    pub broken: Option<(String, u64)>,
}

impl Load {
    /// Lets clients ask for more, as far as they may.
    pub fn ask(&mut self, w: &mut World, dice: &mut Dice, shape: &Shape, peers: &[usize]) {
        for _ in 0..=dice.below(4) {
            let peer = peers[dice.index(peers.len())];
            let free = w.peers[peer].export.is_some() && w.peers[peer].id.is_some();
            if free && w.peers[peer].open < shape.depth {
                self.ask_one(w, dice, shape, peer);
            }
        }
    }

    fn ask_one(&mut self, w: &mut World, dice: &mut Dice, shape: &Shape, peer: usize) {
        if shape.flush_one_in > 0 && dice.one_in(shape.flush_one_in) {
            self.submit(w, peer, 0, 0, Kind::Flush);
            return;
        }
        let (first, cells) = self.place(dice, shape, peer);
        if dice.below(16) >= shape.writes {
            self.submit(w, peer, first, cells, Kind::Read);
        } else if shape.zero_one_in > 0 && dice.one_in(shape.zero_one_in) {
            let kind = match dice.below(3) {
                0 => Kind::Trim,
                n => Kind::Zero { hole: n == 1 },
            };
            self.submit(w, peer, first, cells, kind);
        } else {
            let fua = shape.fua_one_in > 0 && dice.one_in(shape.fua_one_in);
            self.submit(w, peer, first, cells, Kind::Write { fua, checksum: 0 });
        }
    }

    fn place(&mut self, dice: &mut Dice, shape: &Shape, peer: usize) -> (u64, u64) {
        let cells = dice.below(shape.cells_max) + 1;
        if self.cursors.len() <= peer {
            self.cursors.resize(peer + 1, 0);
        }
        let first = match shape.pattern {
            Pattern::Random => dice.below(shape.cells),
            Pattern::Hot if dice.below(10) < 9 => dice.below(8.min(shape.cells)),
            Pattern::Hot => dice.below(shape.cells),
            Pattern::Sequential => {
                let at = self.cursors[peer];
                self.cursors[peer] = (at + cells) % shape.cells;
                at
            }
            Pattern::Overlapping => {
                if dice.one_in(16) {
                    self.cursors[0] = dice.below(shape.cells);
                }
                (self.cursors[0] + dice.below(4)) % shape.cells
            }
        };
        let align = if shape.aligned || !dice.one_in(8) { shape.align } else { 1 };
        let first = first / align * align;
        let cells = cells.div_ceil(align) * align;
        (first, cells.min(shape.cells - first))
    }

    /// Sends one request; its token.
    pub fn submit(
        &mut self,
        w: &mut World,
        peer: usize,
        first: u64,
        cells: u64,
        kind: Kind,
    ) -> usize {
        let token = self.asked.len();
        let (offset, len) = (first * CELL, (cells * CELL) as u32);
        let mut kind = kind;
        let other = |command, flags| Op::Other { command, flags, offset, len };
        let op = match &mut kind {
            Kind::Read => Op::Read { offset, len },
            Kind::Write { fua, checksum } => {
                let data = content(token, first, first + cells);
                *checksum = crc32c::crc32c(&data);
                Op::Write { offset, data: Payload::from(data), fua: *fua }
            }
            Kind::Zero { hole: true } => other(Command::WRITE_ZEROES, 0),
            Kind::Zero { hole: false } => other(Command::WRITE_ZEROES, command_flags::NO_HOLE),
            Kind::Trim => other(Command::TRIM, 0),
            Kind::Flush => Op::Other { command: Command::FLUSH, flags: 0, offset: 0, len: 0 },
        };
        let text = format!("client {peer} asks #{token} {kind:?} of {cells} at {first}");
        w.trace.tell(w.now, About::Cells(first, cells), text);
        let journal = w.pair.journal().count();
        let began = w.submit(peer, token as u64, op);
        self.asked.push(Asked {
            peer,
            kind,
            first,
            cells,
            began,
            journal,
            at: w.now,
            answer: None,
        });
        token
    }

    /// Takes the answers that have come.
    pub fn take(&mut self, w: &mut World) {
        while let Some(done) = w.finished() {
            self.answered(w, done);
        }
    }

    fn answered(&mut self, w: &mut World, done: Finished) {
        let Finished { token, stamp, journal, at, result, .. } = done;
        let asked = &mut self.asked[token as usize];
        let good = result.is_ok();
        let mut seen = Vec::new();
        if let Ok(Answer::Data(data)) = &result {
            for (cell, bytes) in (asked.first..).zip(data.to_vec().chunks(CELL as usize)) {
                let word = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes of 512"));
                if bytes.chunks(8).any(|other| other != word.to_le_bytes()) {
                    self.broken.get_or_insert((format!("cell {cell} is torn in #{token}"), cell));
                }
                let of_cell = word == ZERO || word & 0xffff == cell & 0xffff;
                if !of_cell {
                    let why = format!("cell {cell} holds {word:#x} of another in #{token}");
                    self.broken.get_or_insert((why, cell));
                }
                seen.push(word);
            }
            if seen.len() as u64 != asked.cells {
                let why = format!("#{token} asked for {} cells, got {}", asked.cells, seen.len());
                self.broken.get_or_insert((why, asked.first));
            }
        }
        let what = match &result {
            Ok(Answer::Data(_)) => {
                let numbers: Vec<u64> = seen.iter().map(|word| word >> 16).collect();
                format!("writes number {numbers:?} (0: zeros)")
            }
            Ok(_) => "done".to_owned(),
            Err(error) => error.to_string(),
        };
        let text = format!("client {} told #{token}: {what}", asked.peer);
        w.trace.tell(at, About::Cells(asked.first, asked.cells), text);
        if asked.answer.is_some() {
            self.broken.get_or_insert((format!("#{token} was answered twice"), asked.first));
        }
        asked.answer = Some(Answered { ended: stamp, journal, at, good, seen });
    }

    /// Requests whose client is there and that have no answer.
    #[must_use]
    pub fn unanswered(&self, w: &World) -> Option<usize> {
        let open = |asked: &Asked| asked.answer.is_none() && w.peers[asked.peer].id.is_some();
        self.asked.iter().position(open)
    }
}

/// A client that connects as the dice say.
pub fn connect(w: &mut World, dice: &mut Dice, lane: usize) -> usize {
    let mut config = ClientConfig::new("vm0");
    config.structured = !dice.one_in(3);
    let peer = w.connect(lane, config);
    w.run(Duration::from_micros(100));
    peer
}
