//! Write ownership: state-changing commands that overlap in whole blocks are never in flight together on
//! a device, whatever client, lane or path they came by.
//!
//! Mental model: every write takes its *range* first and gets a ticket. A write that overlaps an earlier
//! one, taken or itself waiting, waits; so each ticket knows only how many earlier overlapping ones are
//! left, and goes when that number is zero. That is first come, first served among overlapping writes.
//!
//! A ticket counts its *copies*: one for each command of it that was handed to the kernel on a session
//! (nexus) and has not been answered there. A copy whose session was given up, or that was aborted
//! without a proof, is *in doubt*: the target may execute it at any later time. The range is free again
//! when its request was answered ([`Ledger::release`]) **and** no copy is left: each answered by its own
//! status, proven dead ([`Ledger::proven`]), or, in `overlap` only, given up after the fence timeout and
//! counted as unproven.
//!
//! ```text
//! acquire ─► waiting ─► taken ──── release ───► free          (no copy left)
//!                         │                      ▲
//!                         └─ release ─► in doubt ┘ proof, late answer, timeout
//! ```
//!
//! The common case costs no allocation and no search: a [`Stripes`] filter says whether any ticket may
//! overlap. Everything behind it is exact. There are no references to the inside, so that several lanes
//! may share a ledger behind a lock. Deliberately not here: what makes a proof (volume), the repeat.

mod stripes;
#[cfg(test)]
mod tests;

use super::PathIndex;
use super::planted::{Bug, planted};
use crate::base::{Duration, Instant};
use crate::limits::LEDGER_TICKETS_MAX;
use smallvec::SmallVec;
use std::collections::VecDeque;
use stripes::Stripes;

/// Whole blocks that a command changes. Never empty, never beyond 2^64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockRange {
    start: u64,
    last: u64,
}

impl BlockRange {
    /// `blocks` blocks from `start` on; `None` when that is empty or wraps.
    #[must_use]
    pub fn new(start: u64, blocks: u64) -> Option<BlockRange> {
        let last = start.checked_add(blocks.checked_sub(1)?)?;
        Some(BlockRange { start, last })
    }

    /// The whole blocks that bytes touch; `None` when there are no bytes or they wrap.
    ///
    /// # Panics
    /// When `block_size` is zero.
    #[must_use]
    pub fn covering(offset: u64, len: u64, block_size: u32) -> Option<BlockRange> {
        let last = offset.checked_add(len.checked_sub(1)?)?;
        let block = u64::from(block_size);
        Some(BlockRange { start: offset / block, last: last / block })
    }

    /// First block.
    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }

    /// Last block, inclusive.
    #[must_use]
    pub const fn last(self) -> u64 {
        self.last
    }

    /// Whether a block is in both.
    #[must_use]
    pub const fn overlaps(self, other: BlockRange) -> bool {
        self.start <= other.last && other.start <= self.last
    }
}

/// Whose write it is; means nothing to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The lane to tell.
    pub lane: u16,
    /// The lane's own name for the request.
    pub token: u64,
}

/// One session: an I_T nexus as of one login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nexus {
    /// The lane that has the session.
    pub lane: u16,
    /// The path that it serves.
    pub path: PathIndex,
    /// Counts the path's sessions on this lane; a later login has a greater one.
    pub generation: u64,
    /// Portal group that the target named at login: with another one it is another nexus.
    pub group: Option<u16>,
}

impl Nexus {
    /// Lane of nexuses that an earlier process of ours has left behind.
    const INHERITED: u16 = u16::MAX;

    /// The nexus number `index` of those that an earlier process has left behind.
    #[must_use]
    pub fn inherited(index: usize, group: Option<u16>) -> Nexus {
        let path = PathIndex::new(0);
        Nexus { lane: Nexus::INHERITED, path, generation: index as u64, group }
    }

    /// Its number, when an earlier process has left it behind.
    #[must_use]
    pub fn inheritance(self) -> Option<usize> {
        (self.lane == Nexus::INHERITED).then_some(self.generation as usize)
    }

    /// Whether a proof for this nexus is one for `other` too: the same one, or an earlier session of it.
    #[must_use]
    pub fn covers(self, other: Nexus) -> bool {
        self.group == other.group && self.follows(other)
    }

    /// The same or a later session of the same path on the same lane, in whatever portal group.
    #[must_use]
    pub fn follows(self, other: Nexus) -> bool {
        let later = match self.lane {
            Nexus::INHERITED => other.generation == self.generation,
            _ => other.generation <= self.generation,
        };
        self.lane == other.lane && self.path == other.path && later
    }
}

/// A taken or waited-for range. Stale ones are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TicketId {
    slot: u32,
    generation: u32,
}

/// Answer to [`Ledger::acquire`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grant {
    /// Go.
    Taken(TicketId),
    /// [`Ledger::poll_granted`] will say when.
    Wait(TicketId),
    /// No ticket is left ([`LEDGER_TICKETS_MAX`]); nothing was taken. Ask again when a write ended.
    Full,
}

/// Whether overlapping writes wait for the proof that an earlier copy is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FenceMode {
    /// The reply comes when a repeat is done; the range stays taken until every copy is proven dead.
    #[default]
    Overlap,
    /// Nothing is answered before the proof.
    Strict,
    /// Ranges are free at once: unsafe, what dm-multipath does.
    Off,
}

impl core::fmt::Display for FenceMode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            FenceMode::Overlap => "overlap",
            FenceMode::Strict => "strict",
            FenceMode::Off => "off",
        })
    }
}

/// The settings of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// What a copy in doubt means.
    pub mode: FenceMode,
    /// After this long in doubt without a proof a copy is given up; `overlap` only. `MAX`: never.
    pub timeout: Duration,
}

/// Why all copies of a nexus are dead. Own status, and ABORT TASK or LOGICAL UNIT RESET answered with
/// response 0 on the copy's own session, prove single copies: [`Ledger::doubt_answered`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proof {
    /// The session was reinstated (RFC 7143 section 6.3.5), and then LOGICAL UNIT RESET was answered with
    /// response 0 by its logical unit, before any other command used it.
    ReinstatedAndReset,
    /// The session was reinstated, and its target is known to end the old session's commands first.
    Reinstated,
    /// An administrator says that the target's node is off.
    Confirmed,
    /// The `fence_command` says so.
    Commanded,
}

impl Proof {
    /// Whether it says something only of the nexus with the same portal group: a login does, the word of
    /// somebody who knows that the node is off does not.
    fn is_of_nexus(self) -> bool {
        match self {
            Proof::ReinstatedAndReset | Proof::Reinstated => true,
            Proof::Confirmed | Proof::Commanded => false,
        }
    }

    /// Whether this proof for `nexus` is one for `other` too.
    #[must_use]
    pub fn covers(self, nexus: Nexus, other: Nexus) -> bool {
        if self.is_of_nexus() { nexus.covers(other) } else { nexus.follows(other) }
    }
}

/// A copy-free ticket in `strict`: its client may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Settled {
    /// Whose.
    pub owner: Owner,
    /// Which.
    pub ticket: TicketId,
}

/// Numbers for `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LedgerCounters {
    /// Ranges taken now, those in doubt included.
    pub taken: u64,
    /// Writes waiting now (`held_writes`).
    pub waiting: u64,
    /// Ranges with a copy in doubt now.
    pub pending: u64,
    /// Times that a range came out of doubt with every copy proven dead.
    pub proven: u64,
    /// Times that a range came out of doubt with a copy given up unproven.
    pub unproven: u64,
}

/// A range in doubt, for `status` and `fence list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InDoubt {
    /// The ticket.
    pub ticket: TicketId,
    /// Which blocks.
    pub range: BlockRange,
    /// Whose write.
    pub owner: Owner,
    /// By which session.
    pub nexus: Nexus,
    /// Copies there.
    pub copies: u32,
    /// When the last of them came into doubt.
    pub since: Instant,
    /// Whether its request was already answered.
    pub answered: bool,
}

/// Copies of one ticket on one nexus. In doubt, they end together.
#[derive(Debug, Clone, Copy)]
struct Copies {
    nexus: Nexus,
    live: u32,
    doubt: u32,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// In no use; the slot is on the free list.
    Free,
    /// Behind this many earlier overlapping tickets.
    Waiting(u32),
    /// Taken, and `poll_granted` has not told yet.
    Granted,
    Taken,
    /// The request was answered; copies are left.
    Released,
}

#[derive(Debug)]
struct Ticket {
    generation: u32,
    stage: Stage,
    range: BlockRange,
    owner: Owner,
    /// Order of arrival.
    sequence: u64,
    /// Place in `Ledger::in_use`.
    place: u32,
    /// Some later ticket counted this one.
    blocks_others: bool,
    /// Place in `Ledger::doubtful`, while a copy is in doubt.
    doubt_place: Option<u32>,
    /// A copy of the present doubt was given up unproven.
    unproven: bool,
    copies: SmallVec<[Copies; 2]>,
}

impl Ticket {
    fn in_doubt(&self) -> bool {
        self.copies.iter().any(|copies| copies.doubt > 0)
    }
}

/// The ranges of one device.
#[derive(Debug)]
pub struct Ledger {
    fence: Fence,
    tickets: Vec<Ticket>,
    free: Vec<u32>,
    /// Ranges and slots of all tickets that are not free, in no order: what a search reads.
    in_use: Vec<(BlockRange, u32)>,
    /// Slots of waiting tickets by arrival.
    waiting: VecDeque<u32>,
    /// Slots of tickets in doubt, in no order.
    doubtful: Vec<u32>,
    stripes: Stripes,
    granted: VecDeque<TicketId>,
    settled: VecDeque<Settled>,
    sequence: u64,
    /// Never later than the first timeout.
    deadline: Instant,
    counters: LedgerCounters,
}

impl Ledger {
    /// An empty ledger with memory for `warm` tickets; more are allocated when they are needed.
    #[must_use]
    pub fn new(fence: Fence, block_size: u32, warm: usize) -> Ledger {
        let warm = warm.min(LEDGER_TICKETS_MAX);
        Ledger {
            fence,
            tickets: Vec::with_capacity(warm),
            free: Vec::with_capacity(warm),
            in_use: Vec::with_capacity(warm),
            waiting: VecDeque::with_capacity(warm),
            doubtful: Vec::with_capacity(warm),
            stripes: Stripes::new(block_size),
            granted: VecDeque::with_capacity(warm),
            settled: VecDeque::new(),
            sequence: 0,
            deadline: Instant::MAX,
            counters: LedgerCounters::default(),
        }
    }

    /// Takes `range`, or waits for it behind every earlier overlapping ticket.
    pub fn acquire(&mut self, range: BlockRange, owner: Owner) -> Grant {
        if self.in_use.len() >= LEDGER_TICKETS_MAX {
            return Grant::Full;
        }
        let blockers = if self.stripes.may_overlap(range) { self.count_blockers(range) } else { 0 };
        let stage = if blockers == 0 { Stage::Taken } else { Stage::Waiting(blockers) };
        let id = self.insert(range, owner, stage);
        self.stripes.add(range);
        if blockers == 0 {
            self.counters.taken += 1;
            return Grant::Taken(id);
        }
        self.counters.waiting += 1;
        self.waiting.push_back(id.slot);
        Grant::Wait(id)
    }

    /// The next waiter that may go now, in order of grant. It may belong to another lane.
    pub fn poll_granted(&mut self) -> Option<(Owner, TicketId)> {
        loop {
            let id = self.granted.pop_front()?;
            if let Some(ticket) = self.get_mut(id).filter(|t| t.stage == Stage::Granted) {
                ticket.stage = Stage::Taken;
                return Some((ticket.owner, id));
            }
        }
    }

    /// Gives up waiting: the request was dropped before any of it was sent. Also right for a ticket that
    /// was granted meanwhile and not polled yet.
    pub fn abandon_wait(&mut self, id: TicketId) {
        let stage = self.get(id).map(|ticket| ticket.stage);
        match stage {
            Some(Stage::Waiting(_)) => {
                let place = self.waiting.iter().position(|slot| *slot == id.slot);
                self.waiting.remove(place.expect("a waiting ticket is in the queue"));
                self.counters.waiting -= 1;
            }
            Some(Stage::Granted) => self.counters.taken -= 1,
            Some(Stage::Free | Stage::Taken | Stage::Released) | None => {
                panic!("{id:?} does not wait but is {stage:?}")
            }
        }
        self.free(id.slot);
    }

    /// A copy was handed to the kernel on `nexus`: from now on it can execute.
    pub fn sent(&mut self, id: TicketId, nexus: Nexus) {
        let ticket = self.get_mut(id).expect("a copy is sent only for a range that is taken");
        assert_eq!(ticket.stage, Stage::Taken, "a copy was sent of {id:?}");
        match ticket.copies.iter_mut().find(|copies| copies.nexus == nexus) {
            Some(copies) => copies.live += 1,
            None => {
                ticket.copies.push(Copies { nexus, live: 1, doubt: 0, since: Instant::ZERO });
            }
        }
    }

    /// A copy that was not given up got its own status.
    pub fn copy_answered(&mut self, id: TicketId, nexus: Nexus) {
        let copies = self.copies_mut(id, nexus).filter(|copies| copies.live > 0);
        copies.expect("an answered copy was sent before").live -= 1;
        self.settle(id);
    }

    /// A copy was given up on `nexus` without an answer: ambiguous from now on.
    pub fn copy_in_doubt(&mut self, now: Instant, id: TicketId, nexus: Nexus) {
        let mode = self.fence.mode;
        let copies = self.copies_mut(id, nexus).filter(|copies| copies.live > 0);
        let copies = copies.expect("a copy in doubt was sent before");
        copies.live -= 1;
        if mode == FenceMode::Off {
            self.counters.unproven += 1;
            self.settle(id);
            return;
        }
        copies.doubt += 1;
        copies.since = now;
        let place = self.doubtful.len() as u32;
        let ticket = &mut self.tickets[id.slot as usize];
        if ticket.doubt_place.is_none() {
            ticket.doubt_place = Some(place);
            self.doubtful.push(id.slot);
            self.counters.pending += 1;
        }
        if mode == FenceMode::Overlap {
            self.deadline = self.deadline.min(now + self.fence.timeout);
        }
    }

    /// A copy in doubt is dead after all: its own status came late, or ABORT TASK for it was answered
    /// with response 0 on its session. `false` when it is not in doubt any more.
    pub fn doubt_answered(&mut self, id: TicketId, nexus: Nexus) -> bool {
        let copies = self.copies_mut(id, nexus).filter(|copies| copies.doubt > 0);
        let Some(copies) = copies else { return false };
        copies.doubt -= 1;
        self.settle(id);
        true
    }

    /// The request was answered: the range is free now, or as soon as its last copy is.
    pub fn release(&mut self, id: TicketId) {
        let ticket = self.get_mut(id).expect("a range is released once");
        assert_eq!(ticket.stage, Stage::Taken, "{id:?} was released");
        ticket.stage = Stage::Released;
        if ticket.copies.is_empty() {
            self.counters.taken -= 1;
            self.free(id.slot);
        }
        if planted(Bug::FreeAtReply) {
            self.end_doubts(|_, _| true, true);
        }
    }

    /// Every copy in doubt on `nexus` and on earlier sessions of it is dead. Returns how many ranges came
    /// out of doubt. Copies in flight are not touched: they may have been sent after the proof.
    pub fn proven(&mut self, nexus: Nexus, proof: Proof) -> usize {
        self.end_doubts(|_, copies| proof.covers(nexus, copies.nexus), false)
    }

    /// Gives up what was in doubt for too long, where `may` allows it. A range whose request is open stays:
    /// the request holds it anyway. Returns how many ranges came out of doubt.
    pub fn handle_timeout(&mut self, now: Instant, mut may: impl FnMut(&InDoubt) -> bool) -> usize {
        if now < self.deadline {
            return 0;
        }
        let timeout = self.fence.timeout;
        let due: SmallVec<[InDoubt; 8]> =
            self.in_doubt().filter(|d| d.answered && d.since + timeout <= now && may(d)).collect();
        let ends = |ticket, copies: &Copies| {
            due.iter().any(|d| d.ticket == ticket && d.nexus == copies.nexus)
        };
        let ended = if due.is_empty() { 0 } else { self.end_doubts(ends, true) };
        let since = self.in_doubt().map(|doubt| doubt.since + timeout);
        self.deadline = since.min().unwrap_or(Instant::MAX);
        ended
    }

    /// When to call [`handle_timeout`](Ledger::handle_timeout); may be early.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<Instant> {
        Some(self.deadline).filter(|at| *at < Instant::MAX && !self.doubtful.is_empty())
    }

    /// The next ticket, in `strict`, that came out of doubt before its request was answered.
    pub fn poll_settled(&mut self) -> Option<Settled> {
        loop {
            let settled = self.settled.pop_front()?;
            let ticket = self.get(settled.ticket);
            if ticket.is_some_and(|t| t.stage == Stage::Taken && !t.in_doubt()) {
                return Some(settled);
            }
        }
    }

    /// Whether a copy of the ticket is in doubt: in `strict` its client may not be answered.
    #[must_use]
    pub fn is_in_doubt(&self, id: TicketId) -> bool {
        self.get(id).is_some_and(Ticket::in_doubt)
    }

    /// Whether [`acquire`](Ledger::acquire) would answer [`Grant::Full`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.in_use.len() >= LEDGER_TICKETS_MAX
    }

    /// The settings.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Changes the settings. What is in doubt stays so until it is proven, or for the new timeout: ranges
    /// are not let go by a change to [`FenceMode::Off`].
    pub fn set_fence(&mut self, fence: Fence) {
        self.fence = fence;
        let ends = self.in_doubt().map(|doubt| doubt.since + fence.timeout).min();
        self.deadline = match fence.mode {
            FenceMode::Strict => Instant::MAX,
            FenceMode::Overlap | FenceMode::Off => ends.unwrap_or(Instant::MAX),
        };
    }

    /// Numbers for `status`.
    #[must_use]
    pub fn counters(&self) -> LedgerCounters {
        self.counters
    }

    /// Every range in doubt, once for each session that it is in doubt on.
    pub fn in_doubt(&self) -> impl Iterator<Item = InDoubt> {
        self.doubtful.iter().flat_map(|slot| {
            let ticket = &self.tickets[*slot as usize];
            let doubts = ticket.copies.iter().filter(|copies| copies.doubt > 0);
            doubts.map(|copies| InDoubt {
                ticket: TicketId { slot: *slot, generation: ticket.generation },
                range: ticket.range,
                owner: ticket.owner,
                nexus: copies.nexus,
                copies: copies.doubt,
                since: copies.since,
                answered: ticket.stage == Stage::Released,
            })
        })
    }

    /// Whether any copy on `nexus`, or on an earlier session of it, is in doubt: whether to fence it.
    #[must_use]
    pub fn needs_proof(&self, nexus: Nexus) -> bool {
        self.in_doubt().any(|doubt| nexus.covers(doubt.nexus))
    }

    /// Since when the eldest copy on exactly this session is in doubt.
    #[must_use]
    pub fn doubted_since(&self, nexus: Nexus) -> Option<Instant> {
        self.in_doubt().filter(|doubt| doubt.nexus == nexus).map(|doubt| doubt.since).min()
    }

    fn get(&self, id: TicketId) -> Option<&Ticket> {
        let ticket = self.tickets.get(id.slot as usize)?;
        Some(ticket).filter(|t| t.generation == id.generation && t.stage != Stage::Free)
    }

    fn get_mut(&mut self, id: TicketId) -> Option<&mut Ticket> {
        let ticket = self.tickets.get_mut(id.slot as usize)?;
        Some(ticket).filter(|t| t.generation == id.generation && t.stage != Stage::Free)
    }

    fn copies_mut(&mut self, id: TicketId, nexus: Nexus) -> Option<&mut Copies> {
        self.get_mut(id)?.copies.iter_mut().find(|copies| copies.nexus == nexus)
    }

    fn insert(&mut self, range: BlockRange, owner: Owner, stage: Stage) -> TicketId {
        let place = self.in_use.len() as u32;
        let sequence = self.sequence;
        self.sequence += 1;
        let fresh = |generation| Ticket {
            generation,
            stage,
            range,
            owner,
            sequence,
            place,
            blocks_others: false,
            doubt_place: None,
            unproven: false,
            copies: SmallVec::new(),
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                let old = &mut self.tickets[slot as usize];
                assert_eq!(old.stage, Stage::Free, "slot {slot} was on the free list");
                *old = fresh(old.generation.wrapping_add(1));
                slot
            }
            None => {
                self.tickets.push(fresh(0));
                self.tickets.len() as u32 - 1
            }
        };
        self.in_use.push((range, slot));
        TicketId { slot, generation: self.tickets[slot as usize].generation }
    }

    /// How many tickets overlap `range`; all of them are earlier than the one that asks.
    fn count_blockers(&mut self, range: BlockRange) -> u32 {
        let mut count = 0;
        for (other, slot) in &self.in_use {
            if other.overlaps(range) {
                self.tickets[*slot as usize].blocks_others = true;
                count += 1;
            }
        }
        count
    }

    /// After a copy ended: whether the doubt, the ticket, or both are over.
    fn settle(&mut self, id: TicketId) {
        let ticket = &mut self.tickets[id.slot as usize];
        assert_eq!(ticket.generation, id.generation, "a copy of a ticket that is gone");
        ticket.copies.retain(|copies| copies.live > 0 || copies.doubt > 0);
        if ticket.doubt_place.is_some() && !ticket.in_doubt() {
            self.end_doubt(id);
        }
        let ticket = &self.tickets[id.slot as usize];
        if ticket.stage == Stage::Released && ticket.copies.is_empty() {
            self.counters.taken -= 1;
            self.free(id.slot);
        }
    }

    fn end_doubt(&mut self, id: TicketId) {
        let ticket = &mut self.tickets[id.slot as usize];
        let place = ticket.doubt_place.take().expect("only a ticket in doubt comes out of it");
        let unproven = core::mem::take(&mut ticket.unproven);
        if ticket.stage == Stage::Taken && self.fence.mode == FenceMode::Strict {
            self.settled.push_back(Settled { owner: ticket.owner, ticket: id });
        }
        let removed = self.doubtful.swap_remove(place as usize);
        assert_eq!(removed, id.slot, "a ticket in doubt is where it says");
        if let Some(moved) = self.doubtful.get(place as usize) {
            self.tickets[*moved as usize].doubt_place = Some(place);
        }
        self.counters.pending -= 1;
        self.counters.unproven += u64::from(unproven);
        self.counters.proven += u64::from(!unproven);
    }

    fn end_doubts(&mut self, ends: impl Fn(TicketId, &Copies) -> bool, unproven: bool) -> usize {
        let before = self.doubtful.len();
        // From the back: `settle` takes the entry out by moving the last one, already seen, into its place.
        for place in (0..before).rev() {
            let slot = self.doubtful[place];
            let ticket = &mut self.tickets[slot as usize];
            let id = TicketId { slot, generation: ticket.generation };
            let mut ended = false;
            for copies in &mut ticket.copies {
                if copies.doubt > 0 && ends(id, copies) {
                    copies.doubt = 0;
                    ended = true;
                }
            }
            ticket.unproven |= ended && unproven;
            if ended {
                self.settle(id);
            }
        }
        before - self.doubtful.len()
    }

    /// Takes a ticket out and grants what waited only for it.
    fn free(&mut self, slot: u32) {
        let ticket = &mut self.tickets[slot as usize];
        assert!(ticket.copies.is_empty(), "a range was freed with copies of it left");
        ticket.stage = Stage::Free;
        let (range, sequence, place) = (ticket.range, ticket.sequence, ticket.place as usize);
        let blocks_others = ticket.blocks_others;
        let (_, removed) = self.in_use.swap_remove(place);
        assert_eq!(removed, slot, "a ticket is where it says");
        if let Some((_, moved)) = self.in_use.get(place) {
            self.tickets[*moved as usize].place = place as u32;
        }
        self.free.push(slot);
        self.stripes.remove(range);
        if blocks_others && !self.waiting.is_empty() {
            self.unblock(range, sequence);
        }
    }

    fn unblock(&mut self, range: BlockRange, sequence: u64) {
        let (tickets, granted, counters) =
            (&mut self.tickets, &mut self.granted, &mut self.counters);
        self.waiting.retain(|slot| {
            let ticket = &mut tickets[*slot as usize];
            if ticket.sequence < sequence || !ticket.range.overlaps(range) {
                return true;
            }
            let Stage::Waiting(blockers) = ticket.stage else {
                panic!("slot {slot} is in the queue of waiters but is {:?}", ticket.stage)
            };
            assert!(blockers > 0, "slot {slot} waited for nothing");
            if blockers > 1 {
                ticket.stage = Stage::Waiting(blockers - 1);
                return true;
            }
            ticket.stage = Stage::Granted;
            granted.push_back(TicketId { slot: *slot, generation: ticket.generation });
            counters.waiting -= 1;
            counters.taken += 1;
            false
        });
    }
}
