//! A session and the target's side of its connection, written by hand: what was sent comes out as PDUs,
//! what the target says goes in as header structs with the right numbers.

use crate::base::{Instant, Payload, Serial, TxQueue};
use crate::session::*;
use crate::wire::iscsi::response::{LoginResponse, Numbers};
use crate::wire::iscsi::text::pairs;
use crate::wire::iscsi::{Bhs, Deframer, Framer, Item, data_len, opcode};
use bytes::Bytes;

pub const ENTROPY: [u8; 64] = [
    0xff, 0xff, 0xff, 0xff, 0x5a, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
    17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40,
    41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56,
];
pub const LUN: u64 = 0x0001_0000_0000_0000;
pub const ISID: [u8; 6] = [0x40, 0, 1, 0x37, 0, 7];

/// What a target answers that takes everything we offer.
pub const TAKES_ALL: &[(&str, &str)] = &[
    ("MaxRecvDataSegmentLength", "262144"),
    ("InitialR2T", "No"),
    ("ImmediateData", "Yes"),
    ("MaxBurstLength", "16776192"),
    ("FirstBurstLength", "262144"),
    ("MaxOutstandingR2T", "8"),
    ("DefaultTime2Wait", "0"),
    ("DefaultTime2Retain", "0"),
];

/// What tgtd answers.
pub const TGTD: &[(&str, &str)] = &[
    ("MaxRecvDataSegmentLength", "8192"),
    ("InitialR2T", "Yes"),
    ("ImmediateData", "Yes"),
    ("MaxBurstLength", "262144"),
    ("FirstBurstLength", "65536"),
    ("MaxOutstandingR2T", "1"),
    ("DefaultTime2Wait", "2"),
    ("DefaultTime2Retain", "0"),
];

/// A PDU with its data.
#[derive(Debug, Clone, PartialEq)]
pub struct Pdu {
    pub bhs: Bhs,
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn opcode(&self) -> u8 {
        opcode(&self.bhs)
    }
    pub fn text(&self) -> String {
        let pairs: Vec<_> = pairs(&self.data).map(|p| p.expect("good text")).collect();
        pairs.iter().map(|(k, v)| format!("{k}={v};")).collect()
    }
}

pub fn text(pairs: &[(&str, &str)]) -> Vec<u8> {
    pairs.iter().flat_map(|(k, v)| format!("{k}={v}\0").into_bytes()).collect()
}

pub fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

pub fn config() -> Config {
    let target = "iqn.2026-11.test:t".to_owned();
    Config::new("iqn.2026-11.test:i", ISID, Kind::Normal { target })
}

pub struct Script {
    pub session: Session,
    pub now: Instant,
    pub reader: Deframer,
    pub framer: Framer,
    pub stat_sn: Serial,
    pub exp_cmd_sn: Serial,
    pub max_cmd_sn: Serial,
}

impl Script {
    /// Connected; the first Login Request waits in the transmit queue.
    pub fn connect(config: Config) -> Script {
        let mut session = Session::new(config, ENTROPY);
        session.handle_connected(at(0));
        Script {
            session,
            now: at(0),
            reader: Deframer::new(0xff_ffff, true),
            framer: Framer::default(),
            stat_sn: Serial(0xffff_fffe),
            exp_cmd_sn: Serial(0xffff_ffff),
            max_cmd_sn: Serial(0x1f),
        }
    }

    /// In full feature phase after these operational answers.
    pub fn logged_in(config: Config, answers: &[(&str, &str)]) -> Script {
        Script::logged_in_with_window(config, answers, 33)
    }

    /// The same, with room for so many commands.
    pub fn logged_in_with_window(config: Config, answers: &[(&str, &str)], window: u32) -> Script {
        let mut s = Script::connect(config);
        s.max_cmd_sn = s.exp_cmd_sn.plus(window).minus(1);
        assert_eq!(s.sent().len(), 1);
        s.login(true, 0, &[("AuthMethod", "None"), ("TargetPortalGroupTag", "1")]);
        assert_eq!(s.sent().len(), 1);
        s.login(true, 1, answers);
        assert!(matches!(s.events()[..], [Event::LoggedIn]), "{:?}", s.session.state());
        let n = s.session.negotiated().expect("logged in");
        let (header_digest, data_digest) = (n.header_digest, n.data_digest);
        s.framer = Framer { header_digest, data_digest };
        s.reader.set_digests(header_digest, data_digest);
        s
    }

    pub fn numbers(&self) -> Numbers {
        Numbers { stat_sn: self.stat_sn, exp_cmd_sn: self.exp_cmd_sn, max_cmd_sn: self.max_cmd_sn }
    }

    /// Numbers of a PDU that consumes a StatSN.
    pub fn status(&mut self) -> Numbers {
        let numbers = self.numbers();
        self.stat_sn = self.stat_sn.plus(1);
        numbers
    }

    pub fn login_header(&mut self, transit: bool, csg: u8) -> LoginResponse {
        LoginResponse {
            transit,
            current_stage: csg,
            next_stage: match (transit, csg) {
                (true, 0) => 1,
                (true, _) => 3,
                _ => 0,
            },
            isid: ISID,
            tsih: if transit && csg == 1 { 5 } else { 0 },
            task_tag: 0x4c4f_4749,
            numbers: self.status(),
            ..LoginResponse::default()
        }
    }

    pub fn login(&mut self, transit: bool, csg: u8, answers: &[(&str, &str)]) {
        let header = self.login_header(transit, csg);
        self.login_with(header, &text(answers));
    }

    pub fn login_with(&mut self, header: LoginResponse, data: &[u8]) {
        self.feed_pdu(&LoginResponse { data_len: data.len() as u32, ..header }.to_bhs(), data);
    }

    /// The bytes of a PDU of the target's.
    pub fn pdu(&self, bhs: &Bhs, data: &[u8]) -> Vec<u8> {
        let mut tx = TxQueue::new();
        let mut bhs = *bhs;
        bhs[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        self.framer.put(&mut tx, &bhs, data);
        let mut out = Vec::new();
        tx.take(usize::MAX, &mut out);
        out.concat()
    }

    pub fn feed_pdu(&mut self, bhs: &Bhs, data: &[u8]) {
        let bytes = self.pdu(bhs, data);
        self.feed(&bytes);
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.session.handle_received(self.now, Bytes::copy_from_slice(bytes));
    }

    /// Everything that the session sends now.
    pub fn sent(&mut self) -> Vec<Pdu> {
        let mut pdus = Vec::new();
        for segment in self.take() {
            let mut at = 0;
            while let Some(item) = self.reader.next(&segment, &mut at).expect("well-formed") {
                match item {
                    Item::Header(bhs) => pdus.push(Pdu { bhs, data: Vec::new() }),
                    Item::Data { range, .. } => {
                        let pdu = pdus.last_mut().expect("a header comes first");
                        pdu.data.extend_from_slice(&segment[range]);
                    }
                }
            }
        }
        assert!(self.reader.is_between_pdus(), "a PDU was sent in part");
        for pdu in &pdus {
            assert_eq!(pdu.data.len(), data_len(&pdu.bhs) as usize);
        }
        pdus
    }

    /// The same as segments.
    pub fn take(&mut self) -> Vec<Bytes> {
        let mut out = Vec::new();
        while self.session.tx().take(7, &mut out) > 0 {}
        out
    }

    pub fn events(&mut self) -> Vec<Event> {
        core::iter::from_fn(|| self.session.poll_event()).collect()
    }

    /// The one event, a failed login.
    pub fn login_error(&mut self) -> LoginError {
        assert_eq!(self.session.state(), State::Closed);
        match self.events().pop() {
            Some(Event::LoginFailed(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    /// The last event, a closed session.
    pub fn closed(&mut self) -> SessionError {
        match self.events().pop() {
            Some(Event::Closed(error)) => {
                assert_eq!(self.session.state(), State::Closed);
                assert!(self.session.tx().is_empty() && self.session.poll_deadline().is_none());
                error
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn submit(&mut self, token: u64, data: Direction) -> TaskTag {
        let mut cdb = [0; 16];
        cdb[0] = token as u8;
        let command = Command { token, lun: LUN, cdb, data };
        let tag = self.session.submit(self.now, command).expect("room");
        self.exp_cmd_sn = self.exp_cmd_sn.plus(1);
        self.max_cmd_sn = self.max_cmd_sn.plus(1);
        tag
    }

    pub fn read(&mut self, token: u64, len: u32) -> TaskTag {
        self.submit(token, Direction::Read { len })
    }

    pub fn write(&mut self, token: u64, data: &[u8]) -> TaskTag {
        self.submit(token, Direction::Write(Payload::from(data.to_vec())))
    }
}
