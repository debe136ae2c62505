//! Hedged reads: one that has not come back when nearly all others would have is sent on a second path too,
//! and the first answer wins.
//!
//! Mental model: reads wait in a queue in the order in which they were sent. Whatever stands at its head
//! longer than p99.5 of the fastest path is decided once: copied, or left alone for want of a path or of
//! budget. So the queue holds no more than what was sent within that time, and a read costs one entry and
//! no timer. The budget is one copy per [`READS_PER_HEDGE`] reads.
//!
//! Where all paths are slow together a copy only adds load: a path that itself takes longer on average, or
//! on which nothing has moved for that long, is not asked; and copies that are never first become ten times
//! as dear until one is.
//!
//! Deliberately not here: reads that leave a suspect path (health). They are no hedges and cost no budget.

use crate::base::{Duration, Instant};
use crate::limits::REQUESTS_PER_LANE_MAX;
use crate::path::planted::{Bug, planted};
use crate::path::{Op, PathSet};
use crate::volume::abandon::{self, Kind};
use crate::volume::request::PartId;
use crate::volume::{Volume, check, health};
use std::collections::VecDeque;

/// Reads that pay for one copy.
const READS_PER_HEDGE: u32 = 20;
/// The same when copies were of no use lately.
const READS_PER_TRIAL: u32 = 200;
/// So many copies in a row that were not first were of no use.
const UNLUCKY: u32 = 16;
/// Reads that may be saved up to pay for copies.
const SAVED_MAX: u32 = 320;

const _: () = assert!(READS_PER_HEDGE < READS_PER_TRIAL && READS_PER_TRIAL <= SAVED_MAX);

/// The reads of a volume that may be copied.
pub(in crate::volume) struct Hedges {
    /// When each was sent, in that order; those that have ended are dropped when they come to the head.
    queue: VecDeque<(Instant, PartId)>,
    /// Reads that no copy was paid with.
    saved: u32,
    /// Copies since one was first.
    unlucky: u32,
    counters: Counters,
}

/// What became of copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Copies sent.
    pub sent: u64,
    /// Copies that were answered first.
    pub won: u64,
}

impl Hedges {
    pub(in crate::volume) fn new() -> Hedges {
        Hedges {
            queue: VecDeque::with_capacity(REQUESTS_PER_LANE_MAX),
            saved: 0,
            unlucky: 0,
            counters: Counters::default(),
        }
    }

    pub(in crate::volume) fn counters(&self) -> Counters {
        self.counters
    }
}

/// A read was given to a path.
pub(in crate::volume) fn started(v: &mut Volume, now: Instant, id: PartId) {
    if !v.spec.tunables.hedge_reads || v.links.len() < 2 {
        return;
    }
    let hedges = &mut v.hedges;
    hedges.saved = (hedges.saved + 1).min(SAVED_MAX);
    if hedges.queue.len() == hedges.queue.capacity() {
        // The eldest is not waited for: nothing is allocated here.
        hedges.queue.pop_front();
    }
    hedges.queue.push_back((now, id));
}

/// A copy was answered first.
pub(in crate::volume) fn won(v: &mut Volume) {
    v.hedges.counters.won += 1;
    v.hedges.unlucky = 0;
}

/// Drops those at the head that have ended; once per turn.
pub(in crate::volume) fn settle(v: &mut Volume) {
    while let Some((sent, id)) = v.hedges.queue.front()
        && !is_out(v, *sent, *id)
    {
        v.hedges.queue.pop_front();
    }
}

/// Whether the part is still in flight with the command that was sent then.
fn is_out(v: &Volume, sent: Instant, id: PartId) -> bool {
    v.parts.get(id).and_then(|part| part.flight).is_some_and(|flight| flight.started == sent)
}

/// When [`timeouts`] has something to do.
pub(in crate::volume) fn deadline(v: &Volume) -> Instant {
    let Some((sent, _)) = v.hedges.queue.front() else { return Instant::MAX };
    match v.engine.read_tail() {
        Some(tail) if v.engine.active().len() > 1 => *sent + tail,
        _ => Instant::MAX,
    }
}

/// Decides the reads that have waited for long.
pub(in crate::volume) fn timeouts(v: &mut Volume, now: Instant) {
    let Some(tail) = v.engine.read_tail() else { return };
    while let Some((sent, id)) = v.hedges.queue.front().copied()
        && sent + tail <= now
    {
        v.hedges.queue.pop_front();
        if is_out(v, sent, id) {
            hedge(v, now, id, tail);
        }
    }
}

fn hedge(v: &mut Volume, now: Instant, id: PartId, tail: Duration) {
    let price = if v.hedges.unlucky < UNLUCKY { READS_PER_HEDGE } else { READS_PER_TRIAL };
    if v.hedges.saved < price && !planted(Bug::HedgesUnpaid) {
        return;
    }
    let part = v.parts.get(id).expect("it is out");
    let flight = part.flight.expect("it is out");
    if part.copies > 0 || part.pinned {
        return;
    }
    // Blocks that are watched may be stale on a path.
    let unread = check::unread(v, part.lba, part.blocks);
    let exclude = PathSet::only(flight.path).union(part.history.refused).union(unread);
    let Some(path) = v.engine.choose_second(Op::Read, exclude) else { return };
    let slow_too =
        v.engine.expected(Op::Read, path) > tail || health::quiet_for(v, now, path) > tail;
    if slow_too || v.links[path.get()].room() == 0 {
        return;
    }
    abandon::copy(v, now, id, path, Kind::Hedge);
    let hedges = &mut v.hedges;
    hedges.saved = hedges.saved.saturating_sub(price);
    hedges.unlucky = hedges.unlucky.saturating_add(1);
    hedges.counters.sent += 1;
}
