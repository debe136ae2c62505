//! Everything of the full feature phase that is no SCSI command: pings, text, task management,
//! logout, messages, rejects.

use super::Connection;
use crate::base::{Instant, Serial};
use crate::faults::{AsyncMessage, AtTaskManagement, Cut};
use crate::limits::TEXT_MAX;
use crate::state::{Core, Counters, Effect};
use crate::wire::iscsi::codes::{self, tmf, tmf_response};
use crate::wire::iscsi::request::{LogoutRequest, NopOut, TaskManagementRequest, TextRequest};
use crate::wire::iscsi::response::{
    self, LogoutResponse, NopIn, Reject, TaskManagementResponse, TextResponse,
};
use crate::wire::iscsi::text::{self, TextWriter};
use crate::wire::iscsi::{Bhs, TAG_NONE, TargetAddress, keys};
use crate::wire::scsi::{Sense, SenseKey};

/// A text exchange: what came of the question, what is left of the answer.
#[derive(Debug, Default)]
pub(super) struct TextState {
    question: Vec<u8>,
    answer: Vec<u8>,
    sent: usize,
    transfer_tag: Option<u32>,
    next_tag: u32,
}

impl Connection {
    pub(super) fn nop_out(&mut self, core: &mut Core, pdu: &NopOut, data: &[u8]) {
        if !self.accept(core, pdu.cmd_sn, pdu.immediate) || pdu.task_tag == TAG_NONE {
            return;
        }
        Counters::add(&core.counters.pings, 1);
        let echo = &data[..data.len().min(self.parameters.send_segment as usize)];
        let answer = NopIn {
            lun: pdu.lun,
            task_tag: pdu.task_tag,
            transfer_tag: TAG_NONE,
            numbers: self.numbers(core, true),
            data_len: echo.len() as u32,
        };
        self.send(core, &answer.to_bhs(), echo);
    }

    /// A NOP-In of our own; with `wants_answer` it is a ping.
    pub(crate) fn nop_in(&mut self, core: &mut Core, wants_answer: bool) {
        let ping = NopIn {
            lun: 0,
            task_tag: TAG_NONE,
            transfer_tag: if wants_answer { 1 } else { TAG_NONE },
            numbers: self.numbers(core, false),
            data_len: 0,
        };
        self.send(core, &ping.to_bhs(), &[]);
    }

    /// Tells a window that has opened, if it has: nothing else may be on its way to say so.
    pub(crate) fn tell_window(&mut self, core: &mut Core) {
        let told = self.max_cmd_sn;
        let numbers = self.numbers(core, false);
        if told.lt(numbers.max_cmd_sn) {
            self.nop_in(core, false);
        }
    }

    pub(crate) fn async_message(&mut self, core: &mut Core, message: &AsyncMessage) {
        let mut data = Vec::new();
        if let Some(code) = message.sense {
            let sense = Sense::new(SenseKey::from_bits(code.key), code.asc, code.ascq);
            let bytes = core.unit.sense_bytes(&sense);
            data.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
            data.extend_from_slice(&bytes);
        }
        let pdu = response::AsyncMessage {
            lun: if message.event == codes::async_event::SCSI { core.unit.lun() } else { 0 },
            task_tag: TAG_NONE,
            numbers: self.numbers(core, true),
            event: message.event,
            vendor_code: message.vendor_code,
            parameter1: message.parameter1,
            parameter2: message.parameter2,
            parameter3: message.parameter3,
            data_len: data.len() as u32,
        };
        self.send(core, &pdu.to_bhs(), &data);
    }

    pub(super) fn reject(&mut self, core: &mut Core, reason: u8, header: &Bhs) {
        let pdu = Reject {
            reason,
            task_tag: TAG_NONE,
            numbers: self.numbers(core, true),
            data_sn: Serial(0),
            data_len: header.len() as u32,
        };
        self.send(core, &pdu.to_bhs(), header);
    }

    pub(super) fn logout(&mut self, core: &mut Core, pdu: &LogoutRequest) {
        if !self.accept(core, pdu.cmd_sn, pdu.immediate) {
            return;
        }
        let response = match pdu.reason {
            codes::logout::CLOSE_SESSION | codes::logout::CLOSE_CONNECTION => {
                codes::logout_response::CLOSED
            }
            _ => codes::logout_response::NO_RECOVERY,
        };
        let answer = LogoutResponse {
            response,
            task_tag: pdu.task_tag,
            numbers: self.numbers(core, true),
            time2wait: self.parameters.time2wait as u16,
            time2retain: self.parameters.time2retain as u16,
            data_len: 0,
        };
        self.send(core, &answer.to_bhs(), &[]);
        if response == codes::logout_response::CLOSED {
            self.cut(core, Cut::Close);
        }
    }

    pub(super) fn task_management(
        &mut self,
        core: &mut Core,
        now: Instant,
        pdu: &TaskManagementRequest,
    ) {
        if !self.accept(core, pdu.cmd_sn, pdu.immediate) {
            return;
        }
        let response = match core.faults.task_management() {
            Some(AtTaskManagement::Mute) => return,
            Some(AtTaskManagement::Answer(code)) => code,
            None if self.may_stick(core, pdu) => {
                let (by, task_tag) = (self.id, pdu.task_tag);
                core.effects.push(Effect::TryResetUnit { by, task_tag, now });
                return;
            }
            None => self.manage(core, pdu),
        };
        self.answer_management(core, pdu.task_tag, response);
    }

    pub(crate) fn answer_management(&mut self, core: &mut Core, task_tag: u32, response: u8) {
        let numbers = self.numbers(core, true);
        let answer = TaskManagementResponse { response, task_tag, numbers, data_len: 0 };
        self.send(core, &answer.to_bhs(), &[]);
    }

    fn may_stick(&self, core: &Core, pdu: &TaskManagementRequest) -> bool {
        pdu.function == tmf::LOGICAL_UNIT_RESET
            && !core.config.reset_beside_open_writes
            && core.unit.is(pdu.lun)
    }

    /// Does what the function asks; the response code.
    fn manage(&mut self, core: &mut Core, pdu: &TaskManagementRequest) -> u8 {
        if pdu.function != tmf::TARGET_COLD_RESET
            && pdu.function != tmf::TARGET_WARM_RESET
            && !core.unit.is(pdu.lun)
        {
            return tmf_response::NO_LUN;
        }
        let me = self.id;
        match pdu.function {
            tmf::ABORT_TASK => {
                let tag = pdu.referenced_tag;
                let held =
                    core.drop_held(|held| held.connection == me && held.command.task_tag == tag);
                self.outstanding = self.outstanding.saturating_sub(held as u32);
                if held > 0 || self.abort_write(tag) {
                    tmf_response::COMPLETE
                } else {
                    tmf_response::NO_TASK
                }
            }
            tmf::ABORT_TASK_SET | tmf::CLEAR_TASK_SET => {
                let held = core.drop_held(|held| held.connection == me);
                self.outstanding = self.outstanding.saturating_sub(held as u32);
                self.abort_writes();
                tmf_response::COMPLETE
            }
            tmf::LOGICAL_UNIT_RESET | tmf::TARGET_WARM_RESET => {
                let held = core.drop_held(|held| held.connection == me);
                self.outstanding = self.outstanding.saturating_sub(held as u32);
                core.effects.push(Effect::ResetUnit { by: me });
                tmf_response::COMPLETE
            }
            tmf::TARGET_COLD_RESET => {
                core.effects.push(Effect::ResetTarget);
                tmf_response::COMPLETE
            }
            tmf::TASK_REASSIGN => tmf_response::NO_REASSIGNMENT,
            _ => tmf_response::NOT_SUPPORTED,
        }
    }

    /// One held command of this connection was ended by someone else.
    pub(crate) fn forget_one(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    pub(super) fn text_request(&mut self, core: &mut Core, pdu: &TextRequest, data: &[u8]) {
        if !self.accept(core, pdu.cmd_sn, pdu.immediate) {
            return;
        }
        if pdu.more && pdu.last {
            return self.violation(core, "C and F together");
        }
        if pdu.transfer_tag != TAG_NONE {
            if self.text.transfer_tag != Some(pdu.transfer_tag) {
                return self.violation(core, "a text request for an exchange that is not open");
            }
            if self.text.sent < self.text.answer.len() {
                if !data.is_empty() {
                    return self.violation(core, "keys while an answer is still coming");
                }
                return self.text_answer(core, pdu);
            }
        } else {
            let next_tag = self.text.next_tag;
            self.text = TextState { next_tag, ..TextState::default() };
        }
        if self.text.question.len() + data.len() > TEXT_MAX {
            return self.violation(core, "too much text");
        }
        self.text.question.extend_from_slice(data);
        if !pdu.more {
            let question = std::mem::take(&mut self.text.question);
            match self.answer_text(core, &question) {
                Ok(answer) => self.text.answer = answer,
                Err(what) => return self.violation(core, &what),
            }
        }
        self.text_answer(core, pdu);
    }

    /// Sends the next part of the answer.
    fn text_answer(&mut self, core: &mut Core, pdu: &TextRequest) {
        let most = core.config.negotiation.text_chunk.unwrap_or(usize::MAX);
        let most = most.min(self.parameters.send_segment as usize).max(1);
        let from = self.text.sent;
        let to = self.text.answer.len().min(from + most);
        let part = self.text.answer[from..to].to_vec();
        let more_to_come = to < self.text.answer.len();
        let last = !more_to_come && pdu.last;
        let transfer_tag = if last {
            TAG_NONE
        } else {
            self.text.next_tag = (self.text.next_tag + 1) & 0x7fff_ffff;
            self.text.next_tag
        };
        self.text.transfer_tag = (!last).then_some(transfer_tag);
        self.text.sent = to;
        let answer = TextResponse {
            last,
            // Between two pairs there is nothing to continue, only more to ask for.
            more: more_to_come && part.last() != Some(&0),
            lun: 0,
            task_tag: pdu.task_tag,
            transfer_tag,
            numbers: self.numbers(core, true),
            data_len: part.len() as u32,
        };
        self.send(core, &answer.to_bhs(), &part);
    }

    fn answer_text(&mut self, core: &mut Core, question: &[u8]) -> Result<Vec<u8>, String> {
        let discovery = self.session.as_ref().is_some_and(|session| session.discovery);
        let mut out = TextWriter::new();
        for pair in text::pairs(question) {
            let (key, value) = pair.map_err(|error| error.to_string())?;
            match key {
                keys::SEND_TARGETS => {
                    if value == "All" && !discovery {
                        out.pair(keys::SEND_TARGETS, keys::REJECT);
                    } else {
                        self.send_targets(core, value, &mut out);
                    }
                }
                keys::MAX_RECV_DATA_SEGMENT_LENGTH => {
                    let range = 512..=0xff_ffff;
                    let len = text::number_in(value, range).ok_or("a segment out of range")?;
                    self.parameters.send_segment = len as u32;
                }
                _ if keys::DEFINED.contains(&key) => {
                    out.pair(key, keys::REJECT);
                }
                _ => {
                    out.pair(key, keys::NOT_UNDERSTOOD);
                }
            }
        }
        Ok(out.into_bytes())
    }

    fn send_targets(&self, core: &Core, wanted: &str, out: &mut TextWriter) {
        let config = &core.config;
        let all = wanted == "All" || wanted.is_empty();
        if all || wanted == config.target {
            let mut here = TargetAddress::from(self.local);
            here.portal_group = Some(config.portal_group);
            out.pair(keys::TARGET_NAME, &config.target).pair(keys::TARGET_ADDRESS, here);
            for (address, group) in &config.more_portals {
                out.pair(keys::TARGET_ADDRESS, format_args!("{address},{group}"));
            }
        }
        for (name, portals) in &config.more_targets {
            if wanted == "All" || wanted == name {
                out.pair(keys::TARGET_NAME, name);
                for (address, group) in portals {
                    out.pair(keys::TARGET_ADDRESS, format_args!("{address},{group}"));
                }
            }
        }
    }
}
