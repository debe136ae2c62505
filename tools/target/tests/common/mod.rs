//! A small initiator for the tests of the target: it builds requests and splits answers, and decides
//! nothing by itself. Written with the codecs of `wire` and apart from the product's initiator.

#![allow(dead_code, clippy::unwrap_used)]

use mpio_target::base::Serial;
use mpio_target::wire::iscsi::request::{
    DataOut, LoginRequest, ScsiCommand, TaskManagementRequest,
};
use mpio_target::wire::iscsi::response::{DataIn, LoginResponse, R2t, ScsiResponse};
use mpio_target::wire::iscsi::{Bhs, Deframer, Item, TAG_NONE, codes::opcode, opcode, text};
use mpio_target::wire::scsi::{Cdb, Data, Sense, Transfer};
use mpio_target::{Action, ConnectionId, Duration, Instant, Node};
use std::collections::VecDeque;

/// A PDU from the target.
#[derive(Debug, Clone)]
pub struct Pdu {
    pub bhs: Bhs,
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn code(&self) -> u8 {
        opcode(&self.bhs)
    }

    pub fn login(&self) -> LoginResponse {
        assert_eq!(self.code(), opcode::LOGIN_RESPONSE);
        LoginResponse::parse(&self.bhs)
    }

    pub fn pairs(&self) -> Vec<(String, String)> {
        text::pairs(&self.data)
            .map(|pair| pair.map(|(k, v)| (k.to_owned(), v.to_owned())).unwrap())
            .collect()
    }

    pub fn value(&self, key: &str) -> Option<String> {
        self.pairs().into_iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }
}

/// One side of a session: numbers, digests, and what came.
pub struct Peer {
    pub isid: [u8; 6],
    pub cmd_sn: u32,
    pub tag: u32,
    pub header_digest: bool,
    pub data_digest: bool,
    pub came: VecDeque<Pdu>,
    deframer: Deframer,
    current: Option<Bhs>,
    gathered: Vec<u8>,
}

impl Peer {
    pub fn new(number: u8) -> Peer {
        Peer {
            isid: [0x80, 0, 0, 0, 0, number],
            cmd_sn: 0xffff_fff0,
            tag: 0,
            header_digest: false,
            data_digest: false,
            came: VecDeque::new(),
            deframer: Deframer::new(0xff_ffff, false),
            current: None,
            gathered: Vec::new(),
        }
    }

    /// Splits what came; a digest that does not match is an error.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut at = 0;
        while let Some(item) = self.deframer.next(bytes, &mut at).map_err(|e| e.to_string())? {
            match item {
                Item::Header(bhs) if bhs[5..8] == [0; 3] => {
                    self.came.push_back(Pdu { bhs, data: Vec::new() });
                }
                Item::Header(bhs) => self.current = Some(bhs),
                Item::Data { range, end } => {
                    self.gathered.extend_from_slice(&bytes[range]);
                    if end {
                        let data = std::mem::take(&mut self.gathered);
                        self.came.push_back(Pdu { bhs: self.current.take().unwrap(), data });
                    }
                }
            }
        }
        Ok(())
    }

    pub fn use_digests(&mut self, header: bool, data: bool) {
        (self.header_digest, self.data_digest) = (header, data);
        self.deframer.set_digests(header, data);
    }

    /// Bytes of a PDU with padding and digests.
    pub fn frame(&self, bhs: &Bhs, data: &[u8]) -> Vec<u8> {
        let mut out = bhs.to_vec();
        if self.header_digest {
            out.extend_from_slice(&crc32c::crc32c(bhs).to_le_bytes());
        }
        if !data.is_empty() {
            let mut data = data.to_vec();
            data.resize(data.len().next_multiple_of(4), 0);
            out.extend_from_slice(&data);
            if self.data_digest {
                out.extend_from_slice(&crc32c::crc32c(&data).to_le_bytes());
            }
        }
        out
    }

    pub fn login(&self, csg: u8, nsg: Option<u8>, pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut text = text::TextWriter::new();
        for (key, value) in pairs {
            text.pair(key, value);
        }
        let text = text.into_bytes();
        let request = LoginRequest {
            immediate: true,
            transit: nsg.is_some(),
            current_stage: csg,
            next_stage: nsg.unwrap_or(0),
            isid: self.isid,
            task_tag: 7,
            cmd_sn: Serial(self.cmd_sn),
            data_len: text.len() as u32,
            ..LoginRequest::default()
        };
        Peer::new(0).frame(&request.to_bhs(), &text)
    }

    pub fn command(&mut self, cdb: &Cdb, block_size: u32, data: &[u8]) -> (u32, Vec<u8>) {
        let (read, write, len) = match cdb.data(block_size) {
            Data::None => (false, false, 0),
            Data::In(len) => (true, false, len),
            Data::Out(len) => (false, true, len),
        };
        let command = ScsiCommand {
            last: true,
            read: read && len > 0,
            write: write && len > 0,
            attr: 1,
            expected_len: len as u32,
            cdb: cdb.to_bytes(),
            data_len: data.len() as u32,
            ..ScsiCommand::default()
        };
        self.raw_command(command, data)
    }

    /// Gives the command its tag and number.
    pub fn raw_command(&mut self, mut command: ScsiCommand, data: &[u8]) -> (u32, Vec<u8>) {
        self.tag += 1;
        command.task_tag = self.tag;
        command.cmd_sn = Serial(self.cmd_sn);
        if !command.immediate {
            self.cmd_sn = self.cmd_sn.wrapping_add(1);
        }
        (self.tag, self.frame(&command.to_bhs(), data))
    }

    pub fn data_out(&self, r2t: &R2t, offset: u32, sn: u32, last: bool, data: &[u8]) -> Vec<u8> {
        let pdu = DataOut {
            last,
            lun: r2t.lun,
            task_tag: r2t.task_tag,
            transfer_tag: r2t.transfer_tag,
            data_sn: Serial(sn),
            offset,
            data_len: data.len() as u32,
            ..DataOut::default()
        };
        self.frame(&pdu.to_bhs(), data)
    }

    pub fn task_management(&mut self, function: u8, lun: u64, about: u32) -> Vec<u8> {
        self.tag += 1;
        let pdu = TaskManagementRequest {
            immediate: true,
            function,
            lun,
            task_tag: self.tag,
            referenced_tag: about,
            cmd_sn: Serial(self.cmd_sn),
            ..TaskManagementRequest::default()
        };
        self.frame(&pdu.to_bhs(), &[])
    }
}

/// What a command ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    pub status: u8,
    pub data: Vec<u8>,
    pub sense: Option<(u8, u8, u8)>,
    pub residual: u32,
}

/// The end of task `tag` among the PDUs that came, if it has ended; its PDUs are taken out.
pub fn done(came: &mut VecDeque<Pdu>, tag: u32) -> Option<Done> {
    let ends = |pdu: &Pdu| {
        mpio_target::wire::iscsi::task_tag(&pdu.bhs) == tag
            && (pdu.code() == opcode::SCSI_RESPONSE
                || pdu.code() == opcode::DATA_IN && DataIn::parse(&pdu.bhs).has_status)
    };
    if !came.iter().any(ends) {
        return None;
    }
    let mut out = Done { status: 0, data: Vec::new(), sense: None, residual: 0 };
    let mut ended = false;
    let mut expected_sn = 0;
    came.retain(|pdu| {
        if ended || mpio_target::wire::iscsi::task_tag(&pdu.bhs) != tag {
            return true;
        }
        match pdu.code() {
            opcode::DATA_IN => {
                let header = DataIn::parse(&pdu.bhs);
                assert_eq!(header.data_sn, Serial(expected_sn), "DataSN counts over the command");
                expected_sn += 1;
                let end = header.offset as usize + pdu.data.len();
                out.data.resize(out.data.len().max(end), 0xa5);
                out.data[header.offset as usize..end].copy_from_slice(&pdu.data);
                if header.has_status {
                    (ended, out.status, out.residual) = (true, header.status, header.residual);
                }
                false
            }
            opcode::SCSI_RESPONSE => {
                let header = ScsiResponse::parse(&pdu.bhs);
                (ended, out.status, out.residual) = (true, header.status, header.residual);
                out.sense = pdu
                    .data
                    .get(2..)
                    .and_then(|s| Sense::parse(s).ok())
                    .map(|sense| (sense.key as u8, sense.asc, sense.ascq));
                false
            }
            _ => true,
        }
    });
    ended.then_some(out)
}

pub const NORMAL: &[(&str, &str)] = &[
    ("InitiatorName", "iqn.2026-11.example:host"),
    ("TargetName", "iqn.2026-11.example.san:ha1"),
    ("SessionType", "Normal"),
];

/// Keys with which everything that the tests use is agreed.
pub const USUAL: &[(&str, &str)] = &[
    ("HeaderDigest", "None"),
    ("DataDigest", "None"),
    ("InitialR2T", "No"),
    ("ImmediateData", "Yes"),
    ("MaxRecvDataSegmentLength", "65536"),
    ("MaxBurstLength", "262144"),
    ("FirstBurstLength", "65536"),
    ("MaxOutstandingR2T", "4"),
    ("DataPDUInOrder", "Yes"),
    ("DataSequenceInOrder", "Yes"),
];

pub fn local() -> std::net::SocketAddr {
    "127.0.0.1:3260".parse().unwrap()
}

/// A node and any number of peers, in memory, at a time of our own.
pub struct Net {
    pub node: Node,
    pub now: Instant,
    pub peers: Vec<(ConnectionId, Peer)>,
    pub actions: Vec<Action>,
    /// Bytes per delivery; 0 is all at once.
    pub chunk: usize,
}

impl Net {
    pub fn new(node: Node) -> Net {
        let (now, chunk) = (Instant::from_millis(1), 0);
        Net { node, now, peers: Vec::new(), actions: Vec::new(), chunk }
    }

    pub fn connect(&mut self, number: u8) -> usize {
        let id = self.node.accept(self.now, local());
        self.peers.push((id, Peer::new(number)));
        self.settle();
        self.peers.len() - 1
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.node.handle_timeout(self.now);
        self.settle();
    }

    pub fn send(&mut self, peer: usize, bytes: &[u8]) {
        let id = self.peers[peer].0;
        let chunk = if self.chunk == 0 { bytes.len().max(1) } else { self.chunk };
        for part in bytes.chunks(chunk) {
            self.node.handle_received(self.now, id, part);
        }
        self.settle();
    }

    /// Takes actions, then bytes, as a driver does.
    pub fn settle(&mut self) {
        while let Some(action) = self.node.poll_action() {
            self.actions.push(action);
            if let Action::Reset(id) = action {
                self.node.handle_closed(self.now, id);
            }
        }
        while let Some(id) = self.node.poll_dirty() {
            let mut segments = Vec::new();
            if let Some(tx) = self.node.tx(id) {
                while tx.take(64, &mut segments) > 0 {}
            }
            if let Some((_, peer)) = self.peers.iter_mut().find(|(p, _)| *p == id) {
                for segment in segments {
                    peer.feed(&segment).unwrap();
                }
            }
        }
    }

    pub fn peer(&mut self, peer: usize) -> &mut Peer {
        &mut self.peers[peer].1
    }

    pub fn next(&mut self, peer: usize) -> Pdu {
        self.peers[peer].1.came.pop_front().expect("a PDU was expected")
    }

    /// Logs in with `keys` in the operational stage, and drains the unit attention.
    pub fn login(&mut self, number: u8, keys: &[(&str, &str)]) -> usize {
        let peer = self.connect(number);
        let all = [NORMAL, keys].concat();
        let request = self.peer(peer).login(1, Some(3), &all);
        self.send(peer, &request);
        let answer = self.next(peer);
        let header = answer.login();
        assert_eq!((header.status_class, header.status_detail), (0, 0), "{:?}", answer.pairs());
        assert!(header.transit && header.next_stage == 3 && header.tsih != 0);
        let on = |key| answer.value(key).as_deref() == Some("CRC32C");
        let (header, data) = (on("HeaderDigest"), on("DataDigest"));
        self.peer(peer).use_digests(header, data);
        let first = self.run(peer, &Cdb::TestUnitReady, &[]);
        assert_eq!(first.sense.map(|(key, asc, _)| (key, asc)), Some((6, 0x29)));
        peer
    }

    pub fn start(&mut self, peer: usize, cdb: &Cdb, data: &[u8]) -> u32 {
        let (tag, bytes) = self.peer(peer).command(cdb, 512, data);
        self.send(peer, &bytes);
        tag
    }

    pub fn done(&mut self, peer: usize, tag: u32) -> Option<Done> {
        done(&mut self.peer(peer).came, tag)
    }

    pub fn run(&mut self, peer: usize, cdb: &Cdb, data: &[u8]) -> Done {
        let tag = self.start(peer, cdb, data);
        self.done(peer, tag).expect("the command has ended")
    }

    pub fn write(&mut self, peer: usize, lba: u64, fill: u8) -> Done {
        self.run(peer, &Cdb::Write(Transfer::new(lba, 1)), &[fill; 512])
    }

    pub fn read(&mut self, peer: usize, lba: u64, blocks: u32) -> Done {
        self.run(peer, &Cdb::Read(Transfer::new(lba, blocks)), &[])
    }

    pub fn manage(&mut self, peer: usize, function: u8, about: u32) -> Option<u8> {
        let bytes = self.peer(peer).task_management(function, 0, about);
        self.send(peer, &bytes);
        let came = &mut self.peer(peer).came;
        let at = came.iter().position(|p| p.code() == opcode::TASK_MANAGEMENT_RESPONSE)?;
        came.remove(at).map(|pdu| pdu.bhs[2])
    }
}

pub const NO_TAG: u32 = TAG_NONE;
