//! The session against a small target that executes reads and writes over memory, checks every rule that
//! binds an initiator, and answers in any order and segmentation; and against arbitrary bytes.

use super::script::*;
use crate::base::{Payload, Serial};
use crate::session::*;
use crate::wire::iscsi::codes::opcode;
use crate::wire::iscsi::request::{DataOut, ScsiCommand};
use crate::wire::iscsi::response::{DataIn, Numbers, R2t, ScsiResponse};
use crate::wire::iscsi::{Bhs, TAG_NONE};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{HashMap, VecDeque};

/// Numbers that look random enough.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n.max(1)
    }
}

#[derive(Debug, Clone)]
struct Terms {
    initial_r2t: bool,
    immediate: bool,
    first_burst: u32,
    max_burst: u32,
    segment: u32,
    r2ts: u16,
    header_digest: bool,
    data_digest: bool,
    collapse: bool,
    window: u32,
}

struct Write {
    offset: usize,
    lun: u64,
    edtl: u32,
    unsolicited: u32,
    got: u32,
    next_data_sn: u32,
    asked: u32,
    r2t_sn: u32,
    /// Open R2Ts: tag, next byte, end, next DataSN.
    open: VecDeque<(u32, u32, u32, u32)>,
}

enum Out {
    Data { tag: u32, from: usize, offset: u32, len: u32, sn: u32, last: bool, status: bool },
    Ready { tag: u32, transfer_tag: u32, lun: u64, sn: u32, offset: u32, len: u32 },
    Status { tag: u32, data_pdus: u32 },
}

/// Executes commands; its numbers, framing and reading are those of the script.
struct Target {
    terms: Terms,
    memory: Vec<u8>,
    writes: HashMap<u32, Write>,
    queues: Vec<VecDeque<Out>>,
    transfer_tag: u32,
}

impl Target {
    fn command(&mut self, s: &mut Script, pdu: &Pdu, dice: &mut Dice) {
        let c = ScsiCommand::parse(&pdu.bhs);
        assert!(!c.immediate && c.cmd_sn == s.exp_cmd_sn, "CmdSN in order");
        assert!(c.cmd_sn.le(s.max_cmd_sn), "inside the window");
        s.exp_cmd_sn = c.cmd_sn.plus(1);
        let offset = u32::from_be_bytes([c.cdb[2], c.cdb[3], c.cdb[4], c.cdb[5]]) as usize;
        let t = &self.terms;
        if c.read {
            assert!(c.last && !c.write && pdu.data.is_empty());
            let queue = self.read(c.task_tag, offset, c.expected_len, dice);
            self.queues.push(queue);
            return;
        }
        assert!(c.write);
        let immediate = pdu.data.len() as u32;
        assert!(immediate <= t.segment.min(t.first_burst).min(c.expected_len));
        assert!(t.immediate || immediate == 0);
        assert!(c.last || !t.initial_r2t);
        let whole = t.first_burst.min(c.expected_len);
        let unsolicited = if c.last { immediate } else { whole };
        assert!(c.last || unsolicited > immediate);
        self.memory[offset..offset + pdu.data.len()].copy_from_slice(&pdu.data);
        let write = Write {
            offset,
            lun: c.lun,
            edtl: c.expected_len,
            unsolicited,
            got: immediate,
            next_data_sn: 0,
            asked: unsolicited,
            r2t_sn: 0,
            open: VecDeque::new(),
        };
        self.writes.insert(c.task_tag, write);
        self.plan(c.task_tag, dice);
    }

    fn read(&mut self, tag: u32, from: usize, edtl: u32, dice: &mut Dice) -> VecDeque<Out> {
        let mut queue = VecDeque::new();
        let (mut offset, mut sn) = (0, 0);
        while offset < edtl {
            let len = (edtl - offset).min(1 + dice.roll(20_000) as u32);
            let last = offset + len == edtl;
            let status = last && self.terms.collapse;
            let last = last || dice.roll(4) == 0;
            queue.push_back(Out::Data { tag, from, offset, len, sn, last, status });
            offset += len;
            sn += 1;
        }
        if !self.terms.collapse {
            queue.push_back(Out::Status { tag, data_pdus: sn });
        }
        queue
    }

    fn data_out(&mut self, pdu: &Pdu, dice: &mut Dice) {
        let d = DataOut::parse(&pdu.bhs);
        let w = self.writes.get_mut(&d.task_tag).expect("a write");
        assert!(d.data_len <= self.terms.segment && d.data_len > 0);
        assert!(d.last || d.data_len.is_multiple_of(4), "{}", d.data_len);
        assert_eq!(d.lun, w.lun);
        if d.transfer_tag == TAG_NONE {
            assert_eq!((d.offset, d.data_sn.0), (w.got, w.next_data_sn));
            w.next_data_sn += 1;
            assert_eq!(d.last, d.offset + d.data_len == w.unsolicited);
        } else {
            let (tag, next, end, sn) = w.open.front_mut().expect("an open R2T");
            assert_eq!((*tag, *next, *sn), (d.transfer_tag, d.offset, d.data_sn.0));
            *next += d.data_len;
            *sn += 1;
            assert_eq!(d.last, *next == *end);
            if d.last {
                w.open.pop_front();
            }
        }
        let at = w.offset + d.offset as usize;
        self.memory[at..at + pdu.data.len()].copy_from_slice(&pdu.data);
        w.got += d.data_len;
        self.plan(d.task_tag, dice);
    }

    /// Asks for more, or answers.
    fn plan(&mut self, tag: u32, dice: &mut Dice) {
        let w = self.writes.get_mut(&tag).expect("a write");
        let mut queue = VecDeque::new();
        if w.got == w.edtl {
            self.writes.remove(&tag);
            queue.push_back(Out::Status { tag, data_pdus: 0 });
        } else {
            // R2Ts may come before the unsolicited data is complete.
            while w.asked < w.edtl && w.open.len() < usize::from(self.terms.r2ts) {
                let most = self.terms.max_burst.min(w.edtl - w.asked);
                let len =
                    if dice.roll(2) == 0 { most } else { 1 + dice.roll(most as usize) as u32 };
                let (sn, offset, lun) = (w.r2t_sn, w.asked, w.lun);
                self.transfer_tag = (self.transfer_tag + 1) % 1000;
                let transfer_tag = self.transfer_tag;
                w.open.push_back((transfer_tag, offset, offset + len, 0));
                w.asked += len;
                w.r2t_sn += 1;
                queue.push_back(Out::Ready { tag, transfer_tag, lun, sn, offset, len });
            }
        }
        if !queue.is_empty() {
            self.queues.push(queue);
        }
    }

    /// One PDU of any of the queues.
    fn emit(&mut self, s: &mut Script, dice: &mut Dice) -> Option<Vec<u8>> {
        // R2Ts of one command stay in order: an older queue of the same command goes first.
        let i = dice.roll(self.queues.len());
        let tag_of = |out: &Out| match out {
            Out::Data { tag, .. } | Out::Ready { tag, .. } | Out::Status { tag, .. } => *tag,
        };
        let tag = tag_of(self.queues.get(i)?.front().expect("not empty"));
        let i = self.queues.iter().position(|q| q.front().map(tag_of) == Some(tag))?;
        let out = self.queues[i].pop_front().expect("not empty");
        if self.queues[i].is_empty() {
            self.queues.remove(i);
        }
        s.max_cmd_sn = s.exp_cmd_sn.plus(self.terms.window).minus(1);
        Some(match out {
            Out::Data { tag, from, offset, len, sn, last, status } => {
                let numbers = if status { s.status() } else { s.numbers() };
                let header = DataIn {
                    last,
                    has_status: status,
                    task_tag: tag,
                    transfer_tag: TAG_NONE,
                    numbers,
                    data_sn: Serial(sn),
                    offset,
                    ..DataIn::default()
                };
                let at = from + offset as usize;
                s.pdu(&header.to_bhs(), &self.memory[at..at + len as usize])
            }
            Out::Ready { tag, transfer_tag, lun, sn, offset, len } => {
                let header = R2t {
                    lun,
                    task_tag: tag,
                    transfer_tag,
                    numbers: s.numbers(),
                    r2t_sn: Serial(sn),
                    offset,
                    desired_len: len,
                    data_len: 0,
                };
                s.pdu(&header.to_bhs(), &[])
            }
            Out::Status { tag, data_pdus } => {
                let header = ScsiResponse {
                    task_tag: tag,
                    numbers: s.status(),
                    exp_data_sn: Serial(data_pdus),
                    ..ScsiResponse::default()
                };
                s.pdu(&header.to_bhs(), &[])
            }
        })
    }
}

const REGION: usize = 48 * 1024;
const REGIONS: usize = 12;

/// Logs in on these terms and runs `count` commands to their end.
/// Logs in under these terms.
fn connect(terms: &Terms) -> Script {
    let digest = |on| if on { Digest::Crc32c } else { Digest::None };
    let c = Config {
        header_digest: digest(terms.header_digest),
        data_digest: digest(terms.data_digest),
        queue_depth: 8,
        ..config()
    };
    let crc = |on: bool| if on { "CRC32C" } else { "None" };
    let yes = |on: bool| if on { "Yes" } else { "No" };
    let answers = [
        ("HeaderDigest", crc(terms.header_digest)),
        ("DataDigest", crc(terms.data_digest)),
        ("InitialR2T", yes(terms.initial_r2t)),
        ("ImmediateData", yes(terms.immediate)),
        ("FirstBurstLength", &terms.first_burst.to_string()),
        ("MaxBurstLength", &terms.max_burst.to_string()),
        ("MaxRecvDataSegmentLength", &terms.segment.to_string()),
        ("MaxOutstandingR2T", &terms.r2ts.to_string()),
    ];
    Script::logged_in_with_window(c, &answers, terms.window)
}

/// What the commands must do to the medium, and what their reads must return.
struct Oracle {
    memory: Vec<u8>,
    busy: [bool; REGIONS],
    expected: HashMap<u64, (usize, Option<Vec<u8>>)>,
    next: u64,
    done: u64,
}

impl Oracle {
    fn new() -> Oracle {
        Oracle {
            memory: vec![0; REGION * REGIONS],
            busy: [false; REGIONS],
            expected: HashMap::new(),
            next: 0,
            done: 0,
        }
    }

    /// Submits a random command to a region that has none; `false` when the region is busy.
    fn submit(&mut self, s: &mut Script, dice: &mut Dice) -> bool {
        let region = dice.roll(REGIONS);
        if self.busy[region] {
            return false;
        }
        self.busy[region] = true;
        let from = region * REGION + dice.roll(100);
        let len = 1 + dice.roll(REGION - 100);
        let mut cdb = [0; 16];
        cdb[2..6].copy_from_slice(&(from as u32).to_be_bytes());
        let token = self.next;
        let data = if dice.roll(2) == 0 {
            self.expected.insert(token, (region, Some(self.memory[from..from + len].to_vec())));
            Direction::Read { len: len as u32 }
        } else {
            let bytes: Vec<u8> = (0..len).map(|i| (i as u64 * 7 + token) as u8).collect();
            self.memory[from..from + len].copy_from_slice(&bytes);
            self.expected.insert(token, (region, None));
            let mut payload = Payload::new();
            for piece in bytes.chunks(1 + dice.roll(30_000)) {
                payload.push(Bytes::copy_from_slice(piece));
            }
            Direction::Write(payload)
        };
        s.session.submit(s.now, Command { token, lun: LUN, cdb, data }).expect("room");
        self.next += 1;
        true
    }

    fn ended(&mut self, event: Event) {
        let Event::Done { token, completion, .. } = event else { panic!("{event:?}") };
        let (region, data) = self.expected.remove(&token).expect("once");
        assert_eq!((completion.status, completion.residual), (0, Residual::None));
        if let Some(data) = data {
            assert!(completion.data.to_vec() == data, "read {token}");
        }
        self.busy[region] = false;
        self.done += 1;
    }
}

fn run(terms: Terms, count: u64, seed: u64) {
    let mut dice = Dice(seed | 1);
    let mut s = connect(&terms);
    // The unsolicited burst never passes MaxBurstLength either.
    let terms = Terms { first_burst: terms.first_burst.min(terms.max_burst), ..terms };
    let mut target = Target {
        terms,
        memory: vec![0; REGION * REGIONS],
        writes: HashMap::new(),
        queues: Vec::new(),
        transfer_tag: 0,
    };
    let mut oracle = Oracle::new();
    let mut wire: Vec<u8> = Vec::new();
    for _round in 0..200_000 {
        if oracle.done == count {
            break;
        }
        while oracle.next < count && s.session.can_submit() && dice.roll(3) > 0 {
            if !oracle.submit(&mut s, &mut dice) {
                break;
            }
        }
        for pdu in s.sent() {
            match pdu.opcode() {
                opcode::SCSI_COMMAND => target.command(&mut s, &pdu, &mut dice),
                opcode::DATA_OUT => target.data_out(&pdu, &mut dice),
                other => panic!("opcode {other:#x}"),
            }
        }
        for _ in 0..dice.roll(4) {
            let Some(bytes) = target.emit(&mut s, &mut dice) else { break };
            wire.extend_from_slice(&bytes);
        }
        let len = if dice.roll(3) == 0 { wire.len() } else { dice.roll(wire.len() + 1) };
        let rest = wire.split_off(len);
        s.feed(&wire);
        wire = rest;
        for event in s.events() {
            oracle.ended(event);
        }
    }
    assert_eq!(oracle.done, count, "everything ends");
    assert!(target.memory == oracle.memory);
    assert_eq!(s.session.in_flight(), 0);
    assert!(s.session.tx().is_empty());
}

prop_compose! {
    fn terms()(
        initial_r2t: bool, immediate: bool, header_digest: bool, data_digest: bool, collapse: bool,
        first_burst in 512u32..40_000, max_burst in 512u32..60_000, segment in 512u32..30_000,
        r2ts in 1u16..=8, window in 1u32..12,
    ) -> Terms {
        Terms {
            initial_r2t, immediate, first_burst, max_burst, segment, r2ts, header_digest, data_digest,
            collapse, window,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// RFC 7143 4.2.5, 11.3 to 11.8: reads and writes on any terms, in any order and segmentation.
    #[test]
    fn reads_and_writes(terms in terms(), seed: u64) {
        run(terms, 40, seed);
    }
}

/// What a hostile target might build: a header with an opcode of its own and likely values.
fn header() -> impl Strategy<Value = (Vec<u8>, u8)> {
    let codes = prop::sample::select(vec![0x20u8, 0x21, 0x22, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3f]);
    (codes, prop::collection::vec(any::<u8>(), 48), any::<[u8; 8]>()).prop_map(
        |(code, mut h, d)| {
            h[0] = code;
            // Mostly a task tag that lives, StatSN and window as they should be, small numbers elsewhere.
            if d[0] > 20 {
                h[16..20].copy_from_slice(&[0, 0, 0, d[1] % 5]);
            }
            if d[0] % 5 == 0 {
                h[16..20].copy_from_slice(&[0xff; 4]);
            }
            if d[2] > 10 {
                h[4] = 0;
            }
            h[5] = 0;
            h[6] = 0;
            if d[3] > 100 {
                h[2] = 0;
                h[1] = 0x80 | d[3] & 3;
            }
            if d[4] > 20 {
                h[36..48].fill(0);
                h[39] = d[5] % 3;
                h[42] = d[6] % 4;
                h[46] = d[7] % 4;
            }
            (h, d[7])
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever comes after the login: no panic, bounded memory, every command ends exactly once.
    #[test]
    fn hostile_pdus(pdus in prop::collection::vec(header(), 1..30), cut in 1usize..200, tick: u8) {
        let mut s = Script::logged_in(config(), TGTD);
        s.read(1, 4096);
        let tag = s.write(2, &[2; 30_000]);
        s.read(3, 100);
        s.write(4, &[4; 100]);
        s.session.ping(at(1));
        s.sent();
        if tick % 2 == 0 {
            s.session.abort(at(1), tag);
            s.session.reset_logical_unit(at(1), LUN, 5);
        }
        let mut stream = Vec::new();
        let mut stat_sn = s.stat_sn;
        for (mut bhs, wrong) in pdus {
            if wrong > 30 {
                let n = Numbers { stat_sn, ..s.numbers() };
                let right: Bhs = ScsiResponse { numbers: n, ..ScsiResponse::default() }.to_bhs();
                bhs[24..36].copy_from_slice(&right[24..36]);
                let counts = match bhs[0] {
                    0x25 => bhs[1] & 1 != 0,
                    0x31 => false,
                    0x20 => bhs[16..20] != [0xff; 4],
                    _ => true,
                };
                stat_sn = stat_sn.plus(counts.into());
            }
            let len = usize::from(bhs[7]).next_multiple_of(4);
            stream.extend_from_slice(&bhs);
            stream.extend((0..len).map(|i| i as u8));
        }
        for (i, chunk) in stream.chunks(cut).enumerate() {
            s.now = at(i as u64 * u64::from(tick));
            s.feed(chunk);
            s.session.handle_timeout(s.now);
            prop_assert!(s.session.tx().pending() < 1 << 20);
            if i % 3 == 0 {
                s.take();
            }
        }
        s.session.handle_closed(s.now, CloseReason::Eof);
        let events = s.events();
        let mut ends: Vec<u64> = events
            .iter()
            .filter_map(|event| match event {
                Event::Done { token, .. } | Event::Aborted { token, .. } => Some(*token),
                Event::Lost { token, .. } => Some(*token),
                _ => None,
            })
            .collect();
        ends.sort_unstable();
        prop_assert_eq!(ends, [1, 2, 3, 4]);
        let closed = events.iter().filter(|event| matches!(event, Event::Closed(_))).count();
        prop_assert_eq!(closed, 1);
    }

    /// Arbitrary bytes, during and after login, with and without digests.
    #[test]
    fn hostile_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600), cut in 1usize..100, login: bool) {
        let mut s = if login {
            Script::connect(config())
        } else {
            Script::logged_in(config(), TAKES_ALL)
        };
        if login {
            // Get past the header now and then.
            let header = s.login_header(false, 0);
            s.login_with(header, &bytes);
        } else {
            s.read(1, 4096);
        }
        for chunk in bytes.chunks(cut) {
            s.feed(chunk);
        }
        s.session.handle_closed(at(9), CloseReason::GivenUp);
        prop_assert_eq!(s.session.in_flight(), 0);
    }
}
