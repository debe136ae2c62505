//! One connection of a node, from its first byte to its last: pure, bytes and time go in.
//!
//! Life: login phase ([`login`]), full feature phase (commands in [`command`], write data in
//! [`transfer`], everything else in [`control`]), then gone. There is one connection per session, so
//! this is the session too. Commands arrive in order of CmdSN, or the initiator is at fault: anything
//! that a conforming initiator does not send is recorded as a violation and ends the connection.
//! Deliberately not here: other connections (see [`crate::node`]), sockets.

mod command;
mod control;
mod login;
mod output;
mod transfer;

pub(crate) use command::execute_orphan;

use crate::base::{Instant, Serial, TxQueue};
use crate::faults::Cut;
use crate::journal::Nexus;
use crate::limits::LOGIN_SEGMENT_MAX;
use crate::negotiate::Parameters;
use crate::state::{ConnectionId, Core, Effect, SessionKey};
use crate::wire::iscsi::codes::{opcode, stage};
use crate::wire::iscsi::request::{
    DataOut, LoginRequest, LogoutRequest, NopOut, ScsiCommand, TaskManagementRequest, TextRequest,
};
use crate::wire::iscsi::response::{LoginResponse, Numbers};
use crate::wire::iscsi::{self, Bhs, Deframer, FrameError, Item};
use login::{Login, Step};
use output::Output;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use transfer::WriteTask;

/// Where a connection stands.
enum Phase {
    Login(Box<Login>),
    Full,
    /// Open to the peer, but nothing is heard and nothing said.
    Silent,
    /// The driver has been told to end it.
    Ended,
}

/// A session in its full feature phase.
struct Session {
    key: SessionKey,
    discovery: bool,
    nexus: Nexus,
}

/// One connection.
pub(crate) struct Connection {
    id: ConnectionId,
    local: SocketAddr,
    phase: Phase,
    deframer: Deframer,
    output: Output,
    tx: TxQueue,
    /// The header whose data segment is arriving, and what came of it in other chunks.
    current: Option<Bhs>,
    gathered: Vec<u8>,
    stat_sn: Serial,
    exp_cmd_sn: Option<Serial>,
    max_cmd_sn: Serial,
    outstanding: u32,
    session: Option<Session>,
    parameters: Parameters,
    writes: HashMap<u32, WriteTask>,
    spare: Vec<Vec<u8>>,
    next_transfer_tag: u32,
    attentions: VecDeque<(u8, u8)>,
    text: control::TextState,
    /// Received while the node stood still.
    backlog: Vec<u8>,
}

/// Unit attentions kept per session: SAM-5 lets older ones be dropped.
const ATTENTIONS_MAX: usize = 16;

impl Connection {
    pub(crate) fn new(
        id: ConnectionId,
        local: SocketAddr,
        stat_sn: u32,
        answers: bool,
    ) -> Connection {
        Connection {
            id,
            local,
            phase: if answers { Phase::Login(Box::default()) } else { Phase::Silent },
            deframer: Deframer::new(LOGIN_SEGMENT_MAX, true),
            output: Output::default(),
            tx: TxQueue::new(),
            current: None,
            gathered: Vec::new(),
            stat_sn: Serial(stat_sn),
            exp_cmd_sn: None,
            max_cmd_sn: Serial(0),
            outstanding: 0,
            session: None,
            parameters: Parameters::default(),
            writes: HashMap::new(),
            spare: Vec::new(),
            next_transfer_tag: 0,
            attentions: VecDeque::new(),
            text: control::TextState::default(),
            backlog: Vec::new(),
        }
    }

    pub(crate) fn tx(&mut self) -> &mut TxQueue {
        &mut self.tx
    }

    pub(crate) fn is_full_feature(&self) -> bool {
        matches!(self.phase, Phase::Full)
    }

    /// The session's name, once it is logged in.
    pub(crate) fn session_key(&self) -> Option<&SessionKey> {
        self.session.as_ref().map(|session| &session.key)
    }

    /// Whether its session carries SCSI.
    pub(crate) fn is_normal_session(&self) -> bool {
        self.is_full_feature() && self.session.as_ref().is_some_and(|session| !session.discovery)
    }

    /// Takes bytes as they came, in any segmentation.
    pub(crate) fn receive(&mut self, core: &mut Core, now: Instant, bytes: &[u8]) {
        let mut at = 0;
        while !matches!(self.phase, Phase::Silent | Phase::Ended) {
            match self.deframer.next(bytes, &mut at) {
                Ok(None) => break,
                Ok(Some(Item::Header(bhs))) if iscsi::data_len(&bhs) == 0 => {
                    self.pdu(core, now, &bhs, &[]);
                }
                Ok(Some(Item::Header(bhs))) => self.current = Some(bhs),
                Ok(Some(Item::Data { range, end })) => self.data(core, now, &bytes[range], end),
                Err(FrameError::DataDigest { .. }) => self.bad_data_digest(core, now),
                Err(error) => self.violation(core, &error.to_string()),
            }
        }
    }

    /// Keeps bytes that came while the node stood still.
    pub(crate) fn stash(&mut self, bytes: &[u8]) {
        self.backlog.extend_from_slice(bytes);
    }

    /// Takes up what was kept.
    pub(crate) fn thaw(&mut self, core: &mut Core, now: Instant) {
        let backlog = std::mem::take(&mut self.backlog);
        self.receive(core, now, &backlog);
    }

    fn data(&mut self, core: &mut Core, now: Instant, data: &[u8], end: bool) {
        if !end {
            self.gathered.extend_from_slice(data);
            return;
        }
        let bhs = self.current.take().expect("data follows its header");
        if self.gathered.is_empty() {
            self.pdu(core, now, &bhs, data);
            return;
        }
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.extend_from_slice(data);
        self.pdu(core, now, &bhs, &gathered);
        gathered.clear();
        self.gathered = gathered;
    }

    fn pdu(&mut self, core: &mut Core, now: Instant, bhs: &Bhs, data: &[u8]) {
        let code = iscsi::opcode(bhs);
        if matches!(self.phase, Phase::Login(_)) {
            if code == opcode::LOGIN_REQUEST {
                self.login(core, &LoginRequest::parse(bhs), data);
            } else {
                self.violation(core, &format!("opcode {code:#04x} before the login is done"));
            }
            return;
        }
        match code {
            opcode::SCSI_COMMAND => self.command(core, now, &ScsiCommand::parse(bhs), data),
            opcode::DATA_OUT => self.data_out(core, now, &DataOut::parse(bhs), data),
            opcode::NOP_OUT => self.nop_out(core, &NopOut::parse(bhs), data),
            opcode::TASK_MANAGEMENT_REQUEST => {
                self.task_management(core, now, &TaskManagementRequest::parse(bhs));
            }
            opcode::TEXT_REQUEST => self.text_request(core, &TextRequest::parse(bhs), data),
            opcode::LOGOUT_REQUEST => self.logout(core, &LogoutRequest::parse(bhs)),
            other => {
                self.reject(core, iscsi::codes::reject::NOT_SUPPORTED, bhs);
                core.violation(format!("opcode {other:#04x} in the full feature phase"));
            }
        }
    }

    /// Takes a request's CmdSN. `false`: the request must not be served.
    fn accept(&mut self, core: &mut Core, cmd_sn: Serial, immediate: bool) -> bool {
        let expected = self.exp_cmd_sn.expect("the login has set the first CmdSN");
        if immediate {
            return true;
        }
        if self.max_cmd_sn.lt(cmd_sn) {
            // RFC 7143 section 4.2.2.1: ignored in silence; still nothing that should happen.
            core.violation(format!("CmdSN {cmd_sn:?} beyond MaxCmdSN {:?}", self.max_cmd_sn));
            return false;
        }
        if cmd_sn != expected {
            self.violation(core, &format!("CmdSN {cmd_sn:?} where {expected:?} was expected"));
            return false;
        }
        self.exp_cmd_sn = Some(expected.plus(1));
        true
    }

    /// The numbers of the next PDU. The window never shrinks (RFC 7143 section 4.2.2.1).
    fn numbers(&mut self, core: &Core, consume: bool) -> Numbers {
        let exp_cmd_sn = self.exp_cmd_sn.unwrap_or_default();
        let free = core.config.window.min(core.faults.window()).saturating_sub(self.outstanding);
        let most = exp_cmd_sn.plus(free).minus(1);
        if self.max_cmd_sn.lt(most) {
            self.max_cmd_sn = most;
        }
        let numbers = Numbers { stat_sn: self.stat_sn, exp_cmd_sn, max_cmd_sn: self.max_cmd_sn };
        if consume {
            self.stat_sn = self.stat_sn.plus(1);
        }
        numbers
    }

    fn send(&mut self, core: &mut Core, bhs: &Bhs, data: &[u8]) {
        self.output.put(&mut self.tx, &mut core.faults, bhs, data);
    }

    /// Ends the connection for something that a conforming initiator does not do.
    fn violation(&mut self, core: &mut Core, what: &str) {
        core.violation(format!("connection {}: {what}", self.id.0));
        self.cut(core, Cut::Reset);
    }

    /// Ends or silences this connection; the node tells the driver.
    fn cut(&mut self, core: &mut Core, cut: Cut) {
        core.effects.push(Effect::Cut(self.id, cut));
        self.apply_cut(cut);
    }

    /// The connection's own part of a cut.
    pub(crate) fn apply_cut(&mut self, cut: Cut) {
        match cut {
            Cut::Reset => {
                self.tx.clear();
                self.phase = Phase::Ended;
            }
            Cut::Close => self.phase = Phase::Ended,
            Cut::Silence => {
                self.tx.clear();
                self.phase = Phase::Silent;
            }
        }
        self.writes.clear();
    }

    /// The session's nexus, once it is logged in.
    pub(crate) fn nexus(&self) -> Option<Nexus> {
        self.session.as_ref().map(|session| session.nexus)
    }

    /// Adds a unit attention to the session.
    pub(crate) fn attention(&mut self, asc: u8, ascq: u8) {
        if !self.attentions.contains(&(asc, ascq)) && self.attentions.len() < ATTENTIONS_MAX {
            self.attentions.push_back((asc, ascq));
        }
    }

    fn login(&mut self, core: &mut Core, request: &LoginRequest, data: &[u8]) {
        let Phase::Login(login) = &mut self.phase else { return };
        let config = core.config.clone();
        let step = login.handle(&config, &mut core.faults, &mut core.random, request, data);
        if self.exp_cmd_sn.is_none() {
            self.exp_cmd_sn = Some(request.cmd_sn);
            self.max_cmd_sn = request.cmd_sn.minus(1);
        }
        let mut response = LoginResponse {
            current_stage: request.current_stage,
            isid: request.isid,
            task_tag: request.task_tag,
            ..LoginResponse::default()
        };
        let text = match step {
            Step::Answer { text, next_stage } => {
                response.transit = next_stage.is_some();
                response.next_stage = next_stage.unwrap_or(0);
                if next_stage == Some(stage::FULL_FEATURE) {
                    if self.is_barred(core, request.isid) {
                        return;
                    }
                    response.tsih = self.establish(core, request.isid);
                }
                text
            }
            Step::End { status, text, why } => {
                response.status_class = status.class;
                response.status_detail = status.detail;
                if !why.is_empty() {
                    core.violation(format!("login refused with {status}: {why}"));
                }
                text
            }
        };
        response.numbers = self.numbers(core, true);
        response.data_len = text.len() as u32;
        // Digests start with the first PDU after the login (RFC 7143 section 13.1).
        Output::default().put(&mut self.tx, &mut core.faults, &response.to_bhs(), &text);
        if response.status_class != 0 {
            self.cut(core, Cut::Close);
        } else if self.is_full_feature() {
            let p = self.parameters;
            self.output = Output { header_digest: p.header_digest, data_digest: p.data_digest };
            self.deframer.set_digests(p.header_digest, p.data_digest);
            self.deframer.set_max_segment(p.recv_segment);
        }
    }

    /// Whether the login of this nexus is never answered.
    fn is_barred(&self, core: &Core, isid: [u8; 6]) -> bool {
        let Phase::Login(login) = &self.phase else { return false };
        let Some(who) = login.who().filter(|who| !who.discovery) else { return false };
        core.barred.contains(&SessionKey { initiator: who.initiator.clone(), isid })
    }

    /// Enters the full feature phase: takes the place of an older session of the same name first.
    fn establish(&mut self, core: &mut Core, isid: [u8; 6]) -> u16 {
        let Phase::Login(login) = &self.phase else { unreachable!("only a login establishes") };
        let who = login.who().expect("a login that succeeds has a name").clone();
        self.parameters = login.parameters();
        let tsih = core.tsih();
        let nexus = Nexus { node: core.index, isid, tsih };
        let key = SessionKey { initiator: who.initiator, isid };
        if !who.discovery {
            if let Some((older, _)) = core.sessions.insert(key.clone(), (self.id, tsih)) {
                core.effects.push(Effect::Cut(older, Cut::Reset));
                if core.config.reinstatement_aborts {
                    core.drop_held(|held| held.connection == older);
                }
            }
            let came_back = !core.known.insert(key.clone());
            if core.config.abilities.unit_attention_at_login {
                self.attention(0x29, if came_back { 0x07 } else { 0x00 });
            }
        }
        self.session = Some(Session { key, discovery: who.discovery, nexus });
        self.phase = Phase::Full;
        crate::state::Counters::add(&core.counters.logins, 1);
        tsih
    }
}
