//! The ledger against a naive oracle that keeps every write and every copy in a list, and by example.

use super::*;
use proptest::prelude::*;

const TIMEOUT: Duration = Duration::from_secs(30);
const MODES: [FenceMode; 3] = [FenceMode::Overlap, FenceMode::Strict, FenceMode::Off];

fn ledger(mode: FenceMode) -> Ledger {
    Ledger::new(Fence { mode, timeout: TIMEOUT }, 512, 64)
}

fn range(start: u64, blocks: u64) -> BlockRange {
    BlockRange::new(start, blocks).expect("a range")
}

fn owner(token: u64) -> Owner {
    Owner { lane: 0, token }
}

fn nexus(lane: u16, path: usize, generation: u64) -> Nexus {
    Nexus { lane, path: PathIndex::new(path), generation, group: Some(1) }
}

fn taken(grant: Grant) -> TicketId {
    match grant {
        Grant::Taken(id) => id,
        Grant::Wait(_) | Grant::Full => panic!("not taken: {grant:?}"),
    }
}

fn waits(grant: Grant) -> TicketId {
    match grant {
        Grant::Wait(id) => id,
        Grant::Taken(_) | Grant::Full => panic!("does not wait: {grant:?}"),
    }
}

fn at(seconds: u64) -> Instant {
    Instant::from_millis(seconds * 1000)
}

const PROOF: Proof = Proof::ReinstatedAndReset;

#[test]
fn block_ranges_round_outwards_and_do_not_wrap() {
    assert_eq!(BlockRange::covering(511, 2, 512), BlockRange::new(0, 2));
    assert_eq!(BlockRange::covering(512, 512, 512), BlockRange::new(1, 1));
    assert_eq!(BlockRange::covering(u64::MAX, 1, 1), BlockRange::new(u64::MAX, 1));
    assert_eq!(BlockRange::covering(u64::MAX, 2, 512), None);
    assert_eq!(BlockRange::covering(0, 0, 512), None);
    assert_eq!(BlockRange::new(5, 0), None);
    assert_eq!(BlockRange::new(u64::MAX, 2), None);
    assert!(range(0, 2).overlaps(range(1, 1)) && !range(0, 2).overlaps(range(2, 1)));
}

#[test]
fn the_stale_write_cannot_happen() {
    let (a, b) = (nexus(0, 0, 1), nexus(0, 1, 1));
    let mut l = ledger(FenceMode::Overlap);
    let w1 = taken(l.acquire(range(0, 8), owner(1)));
    l.sent(w1, a);
    l.copy_in_doubt(at(1), w1, a);
    l.sent(w1, b);
    l.copy_answered(w1, b);
    l.release(w1);
    let w2 = waits(l.acquire(range(0, 8), owner(2)));
    assert_eq!(l.poll_granted(), None, "W1 may still execute on path A");
    assert_eq!(l.proven(b, PROOF), 0, "a proof for the other target proves nothing");
    assert_eq!(l.poll_granted(), None);
    assert_eq!(l.proven(a, PROOF), 1);
    assert_eq!(l.poll_granted(), Some((owner(2), w2)));
    let expect = LedgerCounters { taken: 1, proven: 1, ..LedgerCounters::default() };
    assert_eq!(l.counters(), expect);
}

#[test]
fn a_proof_covers_earlier_sessions_of_the_same_nexus_only() {
    for (proof, frees) in [
        (nexus(0, 0, 4), false),
        (nexus(0, 0, 5), true),
        (nexus(0, 0, 6), true),
        (nexus(0, 1, 6), false),
        (nexus(1, 0, 6), false),
    ] {
        let mut l = ledger(FenceMode::Strict);
        let w = taken(l.acquire(range(0, 1), owner(1)));
        l.sent(w, nexus(0, 0, 5));
        l.copy_in_doubt(at(1), w, nexus(0, 0, 5));
        assert_eq!(l.needs_proof(proof), frees, "{proof:?}");
        assert_eq!(l.proven(proof, PROOF) == 1, frees, "{proof:?}");
        assert_eq!(l.is_in_doubt(w), !frees, "{proof:?}");
    }
}

#[test]
fn a_proof_does_not_touch_what_is_in_flight() {
    let mut l = ledger(FenceMode::Overlap);
    let w = taken(l.acquire(range(0, 1), owner(1)));
    l.sent(w, nexus(0, 0, 1));
    assert_eq!(l.proven(nexus(0, 0, 1), PROOF), 0);
    l.release(w);
    waits(l.acquire(range(0, 1), owner(2)));
    l.copy_in_doubt(at(1), w, nexus(0, 0, 1));
    assert_eq!(l.poll_granted(), None);
    assert!(l.doubt_answered(w, nexus(0, 0, 1)));
    assert!(l.poll_granted().is_some());
    assert!(!l.doubt_answered(w, nexus(0, 0, 1)), "the ticket is gone: nothing to answer");
}

#[test]
fn waiters_go_in_order_and_behind_waiters() {
    let mut l = ledger(FenceMode::Overlap);
    let first = taken(l.acquire(range(0, 4), owner(1)));
    let second = waits(l.acquire(range(2, 4), owner(2)));
    let third = waits(l.acquire(range(5, 4), owner(3)));
    let apart = taken(l.acquire(range(20, 4), owner(4)));
    assert_eq!(l.counters().waiting, 2);
    l.release(first);
    assert_eq!(l.poll_granted(), Some((owner(2), second)));
    assert_eq!(l.poll_granted(), None, "third overlaps second");
    l.release(apart);
    l.release(second);
    assert_eq!(l.poll_granted(), Some((owner(3), third)));
}

#[test]
fn an_abandoned_waiter_lets_those_behind_it_go() {
    let mut l = ledger(FenceMode::Overlap);
    let first = taken(l.acquire(range(0, 4), owner(1)));
    let second = waits(l.acquire(range(2, 4), owner(2)));
    let third = waits(l.acquire(range(5, 4), owner(3)));
    l.abandon_wait(second);
    assert_eq!(l.poll_granted(), Some((owner(3), third)));
    let fourth = waits(l.acquire(range(0, 1), owner(4)));
    l.release(first);
    l.abandon_wait(fourth);
    assert_eq!(l.poll_granted(), None, "abandoned after it was granted");
    l.release(third);
    assert_eq!(l.counters(), LedgerCounters::default());
    assert!(l.stripes.is_clear());
}

#[test]
fn overlap_gives_up_after_the_timeout_and_says_so() {
    let mut l = ledger(FenceMode::Overlap);
    let (w, a) = (taken(l.acquire(range(0, 1), owner(1))), nexus(0, 0, 1));
    l.sent(w, a);
    assert_eq!(l.poll_deadline(), None);
    l.copy_in_doubt(at(10), w, a);
    l.release(w);
    let doubt = l.in_doubt().next().expect("one range is in doubt");
    assert_eq!((doubt.range, doubt.nexus, doubt.since), (range(0, 1), a, at(10)));
    assert!(doubt.answered && doubt.copies == 1);
    assert_eq!(l.poll_deadline(), Some(at(40)));
    assert_eq!(l.handle_timeout(at(39), |_| true), 0);
    assert_eq!(l.handle_timeout(at(40), |_| true), 1);
    assert_eq!(l.poll_deadline(), None);
    let expect = LedgerCounters { unproven: 1, ..LedgerCounters::default() };
    assert_eq!(l.counters(), expect);
}

#[test]
fn a_range_is_not_given_up_while_its_request_is_open_or_somebody_objects() {
    let mut l = ledger(FenceMode::Overlap);
    let (w, a) = (taken(l.acquire(range(0, 1), owner(1))), nexus(0, 0, 1));
    l.sent(w, a);
    l.copy_in_doubt(at(10), w, a);
    assert_eq!(l.handle_timeout(at(50), |_| true), 0, "the request may still be repeated");
    l.release(w);
    let mut asked = 0;
    let objects = |doubt: &InDoubt| {
        asked += 1;
        assert_eq!((doubt.ticket, doubt.nexus), (w, a));
        false
    };
    assert_eq!(l.handle_timeout(at(51), objects), 0);
    assert_eq!((asked, l.counters().pending), (1, 1));
    assert!(l.poll_deadline().is_some(), "it is asked again");
    assert_eq!(l.handle_timeout(at(52), |_| true), 1);
}

/// RFC 7143 section 4.4.3: names, ISID and portal group make the nexus.
#[test]
fn a_login_in_another_portal_group_proves_nothing_but_a_word_for_the_node_does() {
    for (proof, frees) in [
        (Proof::ReinstatedAndReset, false),
        (Proof::Reinstated, false),
        (Proof::Confirmed, true),
        (Proof::Commanded, true),
    ] {
        let mut l = ledger(FenceMode::Overlap);
        let (w, a) = (taken(l.acquire(range(0, 1), owner(1))), nexus(0, 0, 1));
        l.sent(w, a);
        l.copy_in_doubt(at(1), w, a);
        let other = Nexus { group: Some(2), generation: 9, ..a };
        assert!(!l.needs_proof(other));
        assert_eq!(l.proven(other, proof) == 1, frees, "{proof:?}");
    }
}

#[test]
fn inherited_nexuses_are_told_apart() {
    let mut l = ledger(FenceMode::Overlap);
    let all = taken(l.acquire(range(0, u64::MAX), owner(1)));
    let (a, b) = (Nexus::inherited(0, Some(1)), Nexus::inherited(1, Some(1)));
    for nexus in [a, b] {
        l.sent(all, nexus);
        l.copy_in_doubt(at(1), all, nexus);
    }
    l.release(all);
    assert_eq!((a.inheritance(), nexus(0, 0, 0).inheritance()), (Some(0), None));
    waits(l.acquire(range(7, 1), owner(2)));
    assert_eq!(l.proven(b, PROOF), 0, "the other one is still in doubt");
    assert!(l.needs_proof(a) && !l.needs_proof(b) && !l.needs_proof(nexus(0, 0, 9)));
    assert_eq!(l.proven(a, PROOF), 1);
    assert!(l.poll_granted().is_some());
}

#[test]
fn strict_never_gives_up_and_tells_when_the_client_may_be_answered() {
    let mut l = ledger(FenceMode::Strict);
    let (w, a, b) = (taken(l.acquire(range(0, 1), owner(1))), nexus(0, 0, 1), nexus(0, 1, 1));
    l.sent(w, a);
    l.copy_in_doubt(at(1), w, a);
    l.sent(w, b);
    l.copy_answered(w, b);
    assert_eq!(l.poll_deadline(), None);
    assert_eq!(l.handle_timeout(at(1_000_000), |_| true), 0);
    assert_eq!(l.poll_settled(), None);
    assert!(l.is_in_doubt(w));
    l.proven(a, PROOF);
    assert_eq!(l.poll_settled(), Some(Settled { owner: owner(1), ticket: w }));
    assert!(!l.is_in_doubt(w));
    l.release(w);
    assert_eq!(l.counters().taken, 0);
}

#[test]
fn off_frees_at_once_and_counts() {
    let mut l = ledger(FenceMode::Off);
    let (w, a) = (taken(l.acquire(range(0, 1), owner(1))), nexus(0, 0, 1));
    l.sent(w, a);
    l.copy_in_doubt(at(1), w, a);
    waits(l.acquire(range(0, 1), owner(2)));
    l.release(w);
    assert!(l.poll_granted().is_some());
    assert_eq!((l.counters().unproven, l.counters().pending), (1, 0));
}

#[test]
fn parts_of_one_write_on_one_nexus_are_counted() {
    let (mut l, a) = (ledger(FenceMode::Overlap), nexus(0, 0, 1));
    let w = taken(l.acquire(range(0, 100), owner(1)));
    (0..3).for_each(|_| l.sent(w, a));
    l.copy_answered(w, a);
    l.copy_in_doubt(at(1), w, a);
    l.copy_in_doubt(at(2), w, a);
    l.release(w);
    assert!(l.doubt_answered(w, a));
    assert_eq!(l.counters().taken, 1);
    assert!(l.doubt_answered(w, a));
    assert_eq!((l.counters().taken, l.counters().proven), (0, 1));
}

#[test]
fn a_full_ledger_takes_nothing() {
    let mut l = ledger(FenceMode::Overlap);
    let first = taken(l.acquire(range(0, 1), owner(0)));
    for n in 1..LEDGER_TICKETS_MAX as u64 {
        taken(l.acquire(range(n, 1), owner(n)));
    }
    assert_eq!(l.acquire(range(1 << 40, 1), owner(9)), Grant::Full);
    l.release(first);
    taken(l.acquire(range(1 << 40, 1), owner(9)));
}

#[test]
#[should_panic(expected = "released once")]
fn a_second_release_is_a_bug() {
    let mut l = ledger(FenceMode::Overlap);
    let w = taken(l.acquire(range(0, 1), owner(1)));
    l.release(w);
    l.release(w);
}

#[test]
fn a_warm_ledger_grows_nothing() {
    let mut l = ledger(FenceMode::Overlap);
    let (a, b) = (nexus(0, 0, 1), nexus(0, 1, 1));
    let capacities = |l: &Ledger| {
        let lists = [l.tickets.capacity(), l.free.capacity(), l.in_use.capacity()];
        (lists, l.waiting.capacity(), l.granted.capacity(), l.doubtful.capacity())
    };
    let before = capacities(&l);
    for round in 0..200 {
        let ids =
            Vec::from_iter((0..64).map(|n| taken(l.acquire(range(n * 8 + round, 8), owner(n)))));
        for id in ids {
            l.sent(id, a);
            l.copy_in_doubt(at(1), id, a);
            l.sent(id, b);
            l.copy_answered(id, b);
            assert!(!l.tickets[id.slot as usize].copies.spilled());
            l.release(id);
        }
        assert_eq!(l.proven(a, PROOF), 64);
    }
    assert_eq!(capacities(&l), before);
}

/// One write in the oracle.
struct Write {
    id: TicketId,
    range: BlockRange,
    token: u64,
    stage: Stage,
    /// Each copy by itself: where, and since when in doubt.
    copies: Vec<(Nexus, Option<Instant>)>,
    unproven: bool,
}

/// The oracle: every write that is not over, by arrival.
struct Oracle {
    mode: FenceMode,
    now: Instant,
    writes: Vec<Write>,
    proven: u64,
    unproven: u64,
    granted: usize,
    abandoned: usize,
}

impl Oracle {
    fn blocked(&self, place: usize) -> bool {
        let range = self.writes[place].range;
        self.writes[..place].iter().any(|earlier| earlier.range.overlaps(range))
    }

    /// Ends every copy in doubt that `which` says, then whatever follows from that.
    fn end_doubts(&mut self, unproven: bool, which: impl Fn(&Write, Nexus) -> bool) {
        for place in 0..self.writes.len() {
            let write = &self.writes[place];
            let ends: Vec<bool> =
                write.copies.iter().map(|(n, doubt)| doubt.is_some() && which(write, *n)).collect();
            let write = &mut self.writes[place];
            let mut ends = ends.into_iter();
            let before = write.copies.len();
            write.copies.retain(|_| !ends.next().expect("one for each"));
            write.unproven |= unproven && write.copies.len() < before;
            if write.copies.len() < before {
                self.after_doubt(place);
            }
        }
        self.settle();
    }

    fn after_doubt(&mut self, place: usize) {
        let write = &mut self.writes[place];
        if write.copies.iter().all(|(_, doubt)| doubt.is_none()) {
            match std::mem::take(&mut write.unproven) {
                true => self.unproven += 1,
                false => self.proven += 1,
            }
        }
    }

    fn settle(&mut self) {
        self.writes.retain(|w| w.stage != Stage::Released || !w.copies.is_empty());
        for place in 0..self.writes.len() {
            if matches!(self.writes[place].stage, Stage::Waiting(_)) && !self.blocked(place) {
                self.writes[place].stage = Stage::Granted;
            }
        }
    }

    fn counters(&self) -> LedgerCounters {
        let waits = |w: &&Write| matches!(w.stage, Stage::Waiting(_));
        let waiting = self.writes.iter().filter(waits).count() as u64;
        let doubt = |w: &&Write| w.copies.iter().any(|(_, doubt)| doubt.is_some());
        LedgerCounters {
            taken: self.writes.len() as u64 - waiting,
            waiting,
            pending: self.writes.iter().filter(doubt).count() as u64,
            proven: self.proven,
            unproven: self.unproven,
        }
    }

    /// A write in one of the stages, chosen by `which`.
    fn pick(&self, which: usize, wanted: impl Fn(&Write) -> bool) -> Option<usize> {
        let places: Vec<usize> =
            (0..self.writes.len()).filter(|place| wanted(&self.writes[*place])).collect();
        (!places.is_empty()).then(|| places[which % places.len()])
    }
}

#[derive(Debug, Clone)]
enum Step {
    Acquire(BlockRange),
    Poll,
    Sent(usize, Nexus),
    Answered(usize, usize),
    Doubt(usize, usize),
    DoubtAnswered(usize, usize),
    Release(usize),
    Abandon(usize),
    Proven(Nexus),
    Pass(u64),
}

fn a_nexus() -> impl Strategy<Value = Nexus> {
    (0u16..2, 0usize..2, 0u64..3).prop_map(|(lane, path, generation)| nexus(lane, path, generation))
}

fn a_range() -> impl Strategy<Value = BlockRange> {
    prop_oneof![
        6 => (0u64..40, 1u64..8),
        1 => (0u64..4000, 1u64..6000),
        1 => (0u64..40, 1u64..2).prop_map(|(start, blocks)| (start << 20, blocks)),
    ]
    .prop_map(|(start, blocks)| range(start, blocks))
}

fn a_step() -> impl Strategy<Value = Step> {
    let any = || 0usize..1000;
    prop_oneof![
        8 => a_range().prop_map(Step::Acquire),
        4 => Just(Step::Poll),
        6 => (any(), a_nexus()).prop_map(|(w, n)| Step::Sent(w, n)),
        4 => (any(), any()).prop_map(|(w, c)| Step::Answered(w, c)),
        4 => (any(), any()).prop_map(|(w, c)| Step::Doubt(w, c)),
        1 => (any(), any()).prop_map(|(w, c)| Step::DoubtAnswered(w, c)),
        6 => any().prop_map(Step::Release),
        1 => any().prop_map(Step::Abandon),
        2 => a_nexus().prop_map(Step::Proven),
        2 => (1u64..25).prop_map(Step::Pass),
    ]
}

/// Ledger and oracle side by side.
struct Pair {
    ledger: Ledger,
    oracle: Oracle,
    arrived: u64,
}

impl Pair {
    fn new(mode: FenceMode) -> Pair {
        let oracle = Oracle {
            mode,
            now: Instant::ZERO,
            writes: Vec::new(),
            proven: 0,
            unproven: 0,
            granted: 0,
            abandoned: 0,
        };
        Pair { ledger: ledger(mode), oracle, arrived: 0 }
    }

    fn acquire(&mut self, range: BlockRange) {
        let token = self.arrived;
        self.arrived += 1;
        let overlaps = self.oracle.writes.iter().any(|w| w.range.overlaps(range));
        let (id, stage) = match self.ledger.acquire(range, owner(token)) {
            Grant::Taken(id) => (id, Stage::Taken),
            Grant::Wait(id) => (id, Stage::Waiting(0)),
            Grant::Full => panic!("full"),
        };
        assert_eq!(stage != Stage::Taken, overlaps, "{range:?}");
        self.oracle.granted += usize::from(!overlaps);
        let write = Write { id, range, token, stage, copies: Vec::new(), unproven: false };
        self.oracle.writes.push(write);
    }

    fn poll(&mut self) {
        while let Some((owner, id)) = self.ledger.poll_granted() {
            let write = self.oracle.writes.iter_mut().find(|w| w.id == id).expect("known");
            assert_eq!((write.stage, write.token), (Stage::Granted, owner.token));
            write.stage = Stage::Taken;
            self.oracle.granted += 1;
        }
        assert!(self.oracle.writes.iter().all(|w| w.stage != Stage::Granted), "one was forgotten");
    }

    fn copy_step(&mut self, which: usize, copy: usize, from_doubt: bool, step: &Step) {
        let fits = |c: &(Nexus, Option<Instant>)| c.1.is_some() == from_doubt;
        let Some(place) = self.oracle.pick(which, |w| w.copies.iter().any(fits)) else { return };
        let (now, mode) = (self.oracle.now, self.oracle.mode);
        let write = &mut self.oracle.writes[place];
        let fitting: Vec<usize> =
            (0..write.copies.len()).filter(|c| fits(&write.copies[*c])).collect();
        let copy = fitting[copy % fitting.len()];
        let (id, on) = (write.id, write.copies[copy].0);
        match step {
            Step::Doubt(..) if mode == FenceMode::Off => {
                write.copies.remove(copy);
                self.oracle.unproven += 1;
                self.ledger.copy_in_doubt(now, id, on);
            }
            Step::Doubt(..) => {
                write.copies[copy].1 = Some(now);
                self.ledger.copy_in_doubt(now, id, on);
            }
            Step::DoubtAnswered(..) => {
                // Doubts on one nexus are not told apart and end together, timed by the last of them: what
                // is left is the younger one.
                let doubts = write.copies.iter().enumerate();
                let doubts = doubts.filter(|(_, (n, doubt))| *n == on && doubt.is_some());
                let eldest = doubts.min_by_key(|(_, (_, since))| *since).map(|(place, _)| place);
                write.copies.remove(eldest.expect("the chosen one is in doubt"));
                self.oracle.after_doubt(place);
                assert!(self.ledger.doubt_answered(id, on));
            }
            _ => {
                write.copies.remove(copy);
                self.ledger.copy_answered(id, on);
            }
        }
        self.oracle.settle();
    }

    fn pass(&mut self, seconds: u64) {
        self.oracle.now += Duration::from_secs(seconds);
        let now = self.oracle.now;
        self.ledger.handle_timeout(now, |_| true);
        if self.oracle.mode == FenceMode::Overlap {
            self.oracle.end_doubts(true, |write, on| {
                if write.stage != Stage::Released {
                    return false;
                }
                let last = write.copies.iter().filter(|(n, _)| *n == on).filter_map(|(_, d)| *d);
                last.max().is_some_and(|since| since + TIMEOUT <= now)
            });
        }
    }

    fn step(&mut self, step: &Step) {
        let taken = |w: &Write| w.stage == Stage::Taken;
        match *step {
            Step::Acquire(range) => self.acquire(range),
            Step::Poll => self.poll(),
            Step::Sent(which, on) => {
                if let Some(place) = self.oracle.pick(which, taken) {
                    self.ledger.sent(self.oracle.writes[place].id, on);
                    self.oracle.writes[place].copies.push((on, None));
                }
            }
            Step::Answered(which, copy) | Step::Doubt(which, copy) => {
                self.copy_step(which, copy, false, step);
            }
            Step::DoubtAnswered(which, copy) => self.copy_step(which, copy, true, step),
            Step::Release(which) => {
                if let Some(place) = self.oracle.pick(which, taken) {
                    self.ledger.release(self.oracle.writes[place].id);
                    self.oracle.writes[place].stage = Stage::Released;
                    self.oracle.settle();
                }
            }
            Step::Abandon(which) => {
                let waits = |w: &Write| matches!(w.stage, Stage::Waiting(_) | Stage::Granted);
                if let Some(place) = self.oracle.pick(which, waits) {
                    self.ledger.abandon_wait(self.oracle.writes.remove(place).id);
                    self.oracle.abandoned += 1;
                    self.oracle.settle();
                }
            }
            Step::Proven(on) => {
                self.ledger.proven(on, PROOF);
                self.oracle.end_doubts(false, |_, other| on.covers(other));
            }
            Step::Pass(seconds) => self.pass(seconds),
        }
        self.check();
    }

    /// What must hold after every step.
    fn check(&mut self) {
        assert_eq!(self.ledger.counters(), self.oracle.counters());
        let going: Vec<&Write> =
            self.oracle.writes.iter().filter(|w| !matches!(w.stage, Stage::Waiting(_))).collect();
        for (n, one) in going.iter().enumerate() {
            assert!(going[..n].iter().all(|w| !w.range.overlaps(one.range)), "two at once");
        }
        for write in &self.oracle.writes {
            let doubt = write.copies.iter().any(|(_, doubt)| doubt.is_some());
            assert_eq!(self.ledger.is_in_doubt(write.id), doubt);
        }
        let earliest = self.ledger.in_doubt().map(|doubt| doubt.since + TIMEOUT).min();
        if let (FenceMode::Overlap, Some(earliest)) = (self.oracle.mode, earliest) {
            assert!(self.ledger.poll_deadline().expect("a deadline") <= earliest);
        }
        while let Some(settled) = self.ledger.poll_settled() {
            assert!(self.oracle.mode == FenceMode::Strict);
            assert!(!self.ledger.is_in_doubt(settled.ticket));
        }
    }

    /// Everything is answered, released, and proven or timed out: then everyone must have had its turn.
    fn finish(&mut self, prove: bool) {
        let first = 0;
        for _ in 0..self.arrived * 3 + 3 {
            self.step(&Step::Poll);
            while self.oracle.writes.iter().any(|w| w.copies.iter().any(|c| c.1.is_none())) {
                self.step(&Step::Answered(first, first));
            }
            while self.oracle.writes.iter().any(|w| w.stage == Stage::Taken) {
                self.step(&Step::Release(first));
            }
            if prove || self.oracle.mode == FenceMode::Strict {
                for (lane, path) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    self.step(&Step::Proven(nexus(lane, path, 2)));
                }
            } else {
                self.step(&Step::Pass(31));
            }
        }
        let (oracle, arrived) = (&self.oracle, self.arrived as usize);
        assert!(oracle.writes.is_empty(), "{} never ended", oracle.writes.len());
        // A granted one may have been abandoned before it was polled: counted only as abandoned.
        assert_eq!(oracle.granted + oracle.abandoned, arrived, "everyone once");
        assert!(self.ledger.stripes.is_clear());
        assert_eq!((self.ledger.in_use.len(), self.ledger.doubtful.len()), (0, 0));
        assert_eq!(self.ledger.free.len(), self.ledger.tickets.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_ledger_does_what_the_oracle_does(
        mode in prop::sample::select(MODES.to_vec()),
        steps in prop::collection::vec(a_step(), 0..150),
        prove: bool,
    ) {
        let mut pair = Pair::new(mode);
        for step in &steps {
            pair.step(step);
        }
        pair.finish(prove);
    }
}
