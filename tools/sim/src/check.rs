//! The checkers: what must hold of a run, whatever happened in it. They know requests, answers and what the
//! targets executed; nothing of the product's own reasoning.

use crate::history::{Cell, ZERO};
use crate::load::{Asked, CELL, Kind, Load, content, value};
use crate::world::{World, theirs};
use mpio::base::Duration;
use mpio_target::Record;
use std::collections::HashMap;

/// What broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which rule.
    pub rule: Rule,
    /// How.
    pub what: String,
    /// Where, if it is about a place: first cell and count.
    pub cells: Option<(u64, u64)>,
}

/// The rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Every read returns what some order of the writes explains.
    Order,
    /// What was answered before a good flush is stable.
    Stable,
    /// After everything healed every request is answered and every path is back.
    Alive,
    /// One read in twenty is copied at most.
    Hedges,
    /// Slots, queues and memory return to where they began.
    Tidy,
    /// A unit that only looks alike carries no I/O.
    Apart,
    /// No target saw the standard broken, no client did.
    Protocol,
    /// The product panicked, or is in a busy loop.
    Panic,
}

impl Rule {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Rule::Order => "a read returned what no order of the writes explains",
            Rule::Stable => "a write was answered and flushed, and is not stable",
            Rule::Alive => "after everything healed, something did not come back",
            Rule::Hedges => "more reads were copied than the budget has",
            Rule::Tidy => "something was left behind",
            Rule::Apart => "a unit that only looks alike was merged into the device",
            Rule::Protocol => "a peer saw the protocol broken",
            Rule::Panic => "the product panicked",
        }
    }
}

/// Every read of every cell. Where ranges may be released without a proof (`released_after` so long in doubt),
/// what a late execution explains is left out.
///
/// # Errors
/// The first cell that cannot be explained.
pub fn order(w: &World, load: &Load, released_after: Option<Duration>) -> Result<(), Broken> {
    if let Some((what, cell)) = load.broken.clone() {
        return Err(Broken { rule: Rule::Order, what, cells: Some((cell, 1)) });
    }
    let found = explained(w, load, |_, _, _| false);
    match released_after {
        Some(after) if found.is_err() => {
            let late = Late::new(w, load, after);
            explained(w, load, |seen, cell, journal| late.explains(seen, cell, journal))
        }
        _ => found,
    }
}

/// The same, but for reads that `excused` takes out: value, cell, commands executed until the answer.
fn explained(
    w: &World,
    load: &Load,
    excused: impl Fn(u64, u64, u64) -> bool,
) -> Result<(), Broken> {
    let broken = |(what, cell)| Broken { rule: Rule::Order, what, cells: Some((cell, 1)) };
    let mut cells: HashMap<u64, Cell> = HashMap::new();
    for (token, asked) in load.asked.iter().enumerate() {
        let good = asked.answer.as_ref().filter(|answer| answer.good);
        let ended = good.map(|answer| answer.ended);
        let refused = asked.answer.as_ref().map(|answer| answer.ended);
        let over = refused.or(w.peers[asked.peer].gone).filter(|_| good.is_none());
        for cell in asked.first..asked.first + asked.cells {
            let history = cells.entry(cell).or_insert_with(Cell::zeros);
            match asked.kind {
                Kind::Write { .. } => {
                    history.wrote(value(token, cell), asked.began, ended);
                    if let Some(over) = over {
                        history.over(over);
                    }
                }
                Kind::Zero { .. } => history.wrote(ZERO, asked.began, ended),
                Kind::Trim => history.trimmed(asked.began, ended),
                Kind::Flush => {}
                Kind::Read => {
                    let Some(answer) = good else { continue };
                    let seen = answer.seen[(cell - asked.first) as usize];
                    if !excused(seen, cell, answer.journal) {
                        history.read(seen, asked.began, answer.ended);
                    }
                }
            }
        }
    }
    let mut all: Vec<u64> = cells.keys().copied().collect();
    all.sort_unstable();
    for cell in all {
        if let Err(what) = cells[&cell].check() {
            return Err(broken((format!("cell {cell}: {what}"), cell)));
        }
    }
    Ok(())
}

/// Writes that a target executed so late that their ranges may have been released without a proof before.
struct Late<'a> {
    load: &'a Load,
    after: Duration,
    /// Executed commands that change the medium: the cells, and which write it was, if one can be told.
    executed: Vec<(Record, (u64, u64), Option<usize>)>,
}

impl Late<'_> {
    fn new<'a>(w: &World, load: &'a Load, after: Duration) -> Late<'a> {
        let mut whole: HashMap<u32, usize> = HashMap::new();
        for (token, asked) in load.asked.iter().enumerate() {
            if let Kind::Write { checksum, .. } = asked.kind {
                whole.insert(checksum, token);
            }
        }
        let size = u64::from(w.pair.config().block_size) / CELL;
        let mut executed = Vec::new();
        for record in w.records().into_iter().filter(|r| !SYNCS.contains(&r.opcode)) {
            let cells = (record.lba * size, (record.lba + record.blocks) * size);
            let token = whole.get(&record.checksum).copied();
            let token = token.or_else(|| part_of(load, cells, record.checksum));
            executed.push((record, cells, token));
        }
        Late { load, after, executed }
    }

    /// Whether what was read in a cell, by a read that was answered when the targets had executed `journal`
    /// commands, may have come there late: the write had been answered or given up, and its range released.
    fn explains(&self, seen: u64, cell: u64, journal: u64) -> bool {
        let could = |token: usize, record: &Record| {
            let asked = &self.load.asked[token];
            let answered = asked.answer.as_ref().is_none_or(|a| a.journal <= record.sequence);
            answered && record.executed_at >= theirs(asked.at + self.after)
        };
        let late = |(record, (from, to), token): &(Record, (u64, u64), Option<usize>)| {
            if record.sequence >= journal || !(*from..*to).contains(&cell) {
                return false;
            }
            match (seen >> 16).checked_sub(1) {
                // What belongs to no write is the repair of several, or zeros.
                Some(writer) => {
                    let writer = writer as usize;
                    token.is_none_or(|token| token == writer) && could(writer, record)
                }
                None => token.is_none() && self.zeros(cell).any(|token| could(token, record)),
            }
        };
        self.executed.iter().any(late)
    }

    fn zeros(&self, cell: u64) -> impl Iterator<Item = usize> {
        let zeros = move |asked: &Asked| {
            matches!(asked.kind, Kind::Zero { .. } | Kind::Trim)
                && (asked.first..asked.first + asked.cells).contains(&cell)
        };
        (0..self.load.asked.len()).filter(move |token| zeros(&self.load.asked[*token]))
    }
}

/// The write that these cells with this checksum are a part of.
fn part_of(load: &Load, (from, to): (u64, u64), checksum: u32) -> Option<usize> {
    load.asked.iter().enumerate().position(|(token, asked)| {
        matches!(asked.kind, Kind::Write { .. })
            && asked.first <= from
            && to <= asked.first + asked.cells
            && crc32c::crc32c(&content(token, from, to)) == checksum
    })
}

/// When everything is healed and repaired, each cell holds what was written last: the requests from `last`
/// on have read it. What was refused, trimmed or left open says nothing of its cells.
///
/// # Errors
/// The first cell that holds something older.
pub fn at_the_end(load: &Load, last: usize) -> Result<(), Broken> {
    let broken = |(what, cell)| Broken { rule: Rule::Order, what, cells: Some((cell, 1)) };
    let mut cells: HashMap<u64, Option<Cell>> = HashMap::new();
    for (token, asked) in load.asked.iter().enumerate() {
        let good = asked.answer.as_ref().filter(|answer| answer.good);
        for cell in asked.first..asked.first + asked.cells {
            let history = cells.entry(cell).or_insert_with(|| Some(Cell::zeros()));
            let Some(known) = history else { continue };
            match (asked.kind, good) {
                (Kind::Flush, _) => {}
                (Kind::Read, Some(answer)) if token >= last => {
                    let seen = answer.seen[(cell - asked.first) as usize];
                    known.read(seen, asked.began, answer.ended);
                }
                (Kind::Read, _) => {}
                (Kind::Write { .. }, Some(answer)) => {
                    known.wrote(value(token, cell), asked.began, Some(answer.ended));
                }
                (Kind::Zero { .. }, Some(answer)) => {
                    known.wrote(ZERO, asked.began, Some(answer.ended));
                }
                (Kind::Trim | Kind::Write { .. } | Kind::Zero { .. }, _) => *history = None,
            }
        }
    }
    let mut all: Vec<(u64, Cell)> =
        cells.into_iter().filter_map(|(cell, history)| Some((cell, history?))).collect();
    all.sort_unstable_by_key(|(cell, _)| *cell);
    for (cell, history) in all {
        history.check().map_err(|what| broken((format!("cell {cell}: {what}"), cell)))?;
    }
    Ok(())
}

/// SYNCHRONIZE CACHE, both forms.
const SYNCS: [u8; 2] = [0x35, 0x91];

/// A target that lets a flush wait for longer counts as one that cannot be reached, until it answers one.
const FLUSH_PATIENCE: Duration = Duration::from_secs(60);

/// Whether a flush has waited in vain for a target, and none was answered there before this one began.
fn let_one_wait(load: &Load, syncs: &[&Record], node: u8, flush: &Asked) -> bool {
    load.asked.iter().filter(|other| other.kind == Kind::Flush).any(|other| {
        let (Some(answer), Some(end)) = (&other.answer, &flush.answer) else { return false };
        let since = |s: &&&Record| (answer.journal..flush.journal).contains(&s.sequence);
        answer.at - other.at >= FLUSH_PATIENCE
            && answer.at <= end.at
            && !syncs.iter().filter(since).any(|s| s.nexus.node == node)
    })
}

/// A write that was answered before a flush began is stable once that was answered: the target that executed
/// it was flushed after it, or was out of reach then and the other one was flushed.
///
/// # Errors
/// The first write that a good flush has left in a cache.
pub fn stable(w: &World, load: &Load) -> Result<(), Broken> {
    let abilities = &w.pair.config().nodes[0].abilities;
    if !abilities.write_cache {
        return Ok(());
    }
    let records = w.records();
    let mut executed: HashMap<u32, Vec<&Record>> = HashMap::new();
    for record in records.iter().filter(|r| r.checksum != 0) {
        executed.entry(record.checksum).or_default().push(record);
    }
    let syncs: Vec<&Record> = records.iter().filter(|r| SYNCS.contains(&r.opcode)).collect();
    let good = |asked: &&Asked| asked.answer.as_ref().is_some_and(|a| a.good);
    let flushes = load.asked.iter().enumerate().filter(|(_, a)| a.kind == Kind::Flush);
    for (number, flush) in flushes.filter(|(_, a)| good(a)) {
        let end = flush.answer.as_ref().map_or(0, |a| a.journal);
        for (token, write) in load.asked.iter().enumerate() {
            let Kind::Write { checksum, fua } = write.kind else { continue };
            if fua && abilities.fua {
                continue;
            }
            let before = write.answer.as_ref().is_some_and(|a| a.good && a.ended < flush.began);
            // A write that was cut into several commands is not found by its checksum.
            let Some(copies) = executed.get(&checksum).filter(|_| before) else { continue };
            let covered = |copy: &&&Record| {
                let node = copy.nexus.node;
                let between = |s: &&&Record| s.sequence > copy.sequence && s.sequence < end;
                let mut after = syncs.iter().filter(between);
                let out_of_reach = !w.in_reach(node, flush.journal, end)
                    || let_one_wait(load, &syncs, node, flush);
                after.any(|s| s.nexus.node == node || out_of_reach)
            };
            if !copies.iter().any(|copy| covered(&copy)) {
                let nodes: Vec<u8> = copies.iter().map(|c| c.nexus.node).collect();
                let what = format!(
                    "write #{token} was executed by node {nodes:?} and answered; flush #{number}, which began \
                     after that, was answered without SYNCHRONIZE CACHE there"
                );
                let cells = Some((write.first, write.cells));
                return Err(Broken { rule: Rule::Stable, what, cells });
            }
        }
    }
    Ok(())
}

/// Reads that pay for one copy.
const READS_PER_HEDGE: u64 = 20;

/// No lane has copied more reads than it had reads for.
///
/// # Errors
/// How many it has copied.
pub fn hedges(w: &World) -> Result<(), Broken> {
    for (lane, volume) in w.volumes.iter().enumerate() {
        let snapshot = volume.snapshot();
        // Commands that ended badly may have been reads; of those that were given up each came back.
        let reads: u64 = snapshot.paths.iter().map(|p| p.stats.reads + p.stats.errors).sum();
        let sent = snapshot.hedges.sent;
        if sent * READS_PER_HEDGE > reads {
            let what = format!("lane {lane} has sent {sent} copies with {reads} reads");
            return Err(Broken { rule: Rule::Hedges, what, cells: None });
        }
    }
    Ok(())
}

/// A unit of the same names and other content was never used.
///
/// # Errors
/// How it was.
pub fn apart(w: &World) -> Result<(), Broken> {
    match w.merged() {
        None => Ok(()),
        Some(what) => Err(Broken { rule: Rule::Apart, what, cells: None }),
    }
}

/// Nothing is left in any table, and nobody complains.
///
/// # Errors
/// What was left, or what a target or client saw.
pub fn tidy(w: &World) -> Result<(), Broken> {
    let broken = |rule, what| Broken { rule, what, cells: None };
    for (lane, volume) in w.volumes.iter().enumerate() {
        let census = volume.census();
        if census != mpio::volume::Census::default() {
            return Err(broken(Rule::Tidy, format!("lane {lane}: {census:?}")));
        }
        let fences = volume.fences();
        if fences.waiting != 0 || fences.taken != 0 || fences.pending != 0 {
            return Err(broken(Rule::Tidy, format!("{fences:?}")));
        }
    }
    standard(w)
}

/// No target and no client saw the standard broken.
///
/// # Errors
/// What one saw.
pub fn standard(w: &World) -> Result<(), Broken> {
    let broken = |rule, what| Broken { rule, what, cells: None };
    for node in 0..2 {
        if let Some(first) = w.pair.counters(node).violations().first() {
            return Err(broken(Rule::Protocol, format!("node {node} saw: {first}")));
        }
    }
    for (index, peer) in w.peers.iter().enumerate() {
        use mpio::export::client::ClientError::{Malformed, Unexpected};
        if let Some(error @ (Malformed(_) | Unexpected(_))) = &peer.ended {
            return Err(broken(Rule::Protocol, format!("client {index} saw: {error}")));
        }
    }
    Ok(())
}
