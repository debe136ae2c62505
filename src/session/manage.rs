//! Everything that is not a command's data: pings both ways, task management, asynchronous messages,
//! rejects, logout (RFC 7143 sections 11.5, 11.6, 11.9, 11.14 to 11.19).

use super::error::{LoginError, SessionError};
use super::event::{AsyncEvent, Event, TaskTag};
use super::login::CID;
use super::task::{LOGOUT_SLOT, MANAGEMENT_SLOT, PING_SLOT, TEXT_SLOT, slot_of, tag};
use super::{End, Session, State};
use crate::base::{Duration, Instant, Serial};
use crate::limits;
use crate::wire::iscsi::codes::{async_event, logout, opcode, reject, tmf, tmf_response};
use crate::wire::iscsi::request::{LogoutRequest, NopOut, TaskManagementRequest};
use crate::wire::iscsi::response::{
    AsyncMessage, LogoutResponse, NopIn, Reject, TaskManagementResponse,
};
use crate::wire::iscsi::{BHS_LEN, TAG_NONE, task_tag};

/// Answers to the target's pings that may wait for the socket: one receive can bring thousands.
const PONGS_MAX: u32 = 16384;

/// Events that a target can cause by itself and that may wait for the driver.
const UNASKED_EVENTS_MAX: usize = 1024;

/// Task management requests beyond one per command.
const SPARE_MANAGEMENTS: usize = 8;

/// Wait before a task management request that the target had no room for is sent again.
const MANAGEMENT_RETRY: Duration = Duration::from_millis(100);
const MANAGEMENT_ATTEMPTS_MAX: u8 = 20;

/// A task management request in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Management {
    live: bool,
    generation: u16,
    function: u8,
    attempts: u8,
    /// Refused for lack of resources: to be sent again.
    waiting: bool,
    token: u64,
    lun: u64,
    /// The task that it is about, or the reserved tag.
    referenced: u32,
    ref_cmd_sn: Serial,
    /// CmdSN that it was sent with: it acts on lower ones.
    cmd_sn: Serial,
    /// When its answer is not waited for any longer.
    deadline: Instant,
}

impl Management {
    /// Whether it waits for an answer about this task.
    pub(super) fn is_about(&self, tag: u32) -> bool {
        self.live && self.function == tmf::ABORT_TASK && self.referenced == tag
    }

    pub(super) fn set_token(&mut self, token: u64) {
        self.token = token;
    }
}

/// The last tags that are over for us and perhaps not for the target: of commands that ended by task
/// management (some targets send an answer that was on its way while they answered the management request),
/// and of task management requests that were given up. Their late PDUs are dropped.
#[derive(Debug)]
pub(super) struct Concluded {
    tags: [u32; 64],
    next: usize,
}

impl Default for Concluded {
    fn default() -> Concluded {
        Concluded { tags: [TAG_NONE; 64], next: 0 }
    }
}

impl Concluded {
    fn push(&mut self, tag: u32) {
        self.tags[self.next] = tag;
        self.next = (self.next + 1) % self.tags.len();
    }

    fn contains(&self, tag: u32) -> bool {
        tag != TAG_NONE && self.tags.contains(&tag)
    }
}

impl Session {
    // --- pings

    /// Asks the target for a sign of life, unless a ping is in flight or the session cannot ping.
    pub fn ping(&mut self, now: Instant) {
        if self.state != State::FullFeature || self.config.is_discovery() || self.ping.is_some() {
            return;
        }
        self.owe(now);
        let tag = self.fresh_tag(PING_SLOT);
        self.ping = Some(tag);
        self.pinged_at = now;
        self.statistics.pings += 1;
        self.put_nop(0, tag, TAG_NONE);
    }

    /// How many pings were answered. One that is sent now is answered when this is more by one, or by two
    /// while another one is [in flight](Session::is_pinging).
    #[must_use]
    pub fn pings_answered(&self) -> u64 {
        self.statistics.pings - u64::from(self.is_pinging())
    }

    /// Whether a ping waits for its answer.
    #[must_use]
    pub fn is_pinging(&self) -> bool {
        self.ping.is_some()
    }

    /// A NOP-Out is always immediate: it passes a closed window.
    fn put_nop(&mut self, lun: u64, task_tag: u32, transfer_tag: u32) {
        let nop = NopOut {
            immediate: true,
            lun,
            task_tag,
            transfer_tag,
            cmd_sn: self.window.cmd_sn,
            exp_stat_sn: self.window.exp_stat_sn,
            data_len: 0,
        };
        self.framer.put(&mut self.tx, &nop.to_bhs(), &[]);
    }

    /// NOP-In (section 11.19): the answer to our ping, the target's ping, or only news of the window.
    pub(super) fn nop_in(&mut self, nop: &NopIn) -> Result<(), SessionError> {
        if nop.task_tag != TAG_NONE {
            if nop.transfer_tag != TAG_NONE {
                return Err(SessionError::Format("NOP-In with both tags"));
            }
            if self.ping != Some(nop.task_tag) {
                return Err(SessionError::Protocol("NOP-In that answers no ping of ours"));
            }
            self.window.status(nop.numbers.stat_sn)?;
            self.window.update(&nop.numbers)?;
            self.ping = None;
            return Ok(());
        }
        self.window.update(&nop.numbers)?;
        // Nothing but text and logout goes out on a discovery session or after a logout.
        if nop.transfer_tag == TAG_NONE
            || self.config.is_discovery()
            || self.state != State::FullFeature
        {
            return Ok(());
        }
        self.pongs = if self.tx.is_empty() { 1 } else { self.pongs + 1 };
        if self.pongs > PONGS_MAX {
            return Err(SessionError::Protocol("a flood of pings"));
        }
        self.statistics.pongs += 1;
        self.put_nop(nop.lun, TAG_NONE, nop.transfer_tag);
        Ok(())
    }

    // --- task management

    /// Sends ABORT TASK for a live command, immediate; no more data is sent for it. Answered by
    /// [`Event::TaskManagement`] with the command's token. `false` when there is nothing to abort, or one is
    /// out for it already, or the target still waits for data of it: such an abort LIO (Linux 6.1) was measured
    /// never to answer, and its portal took no logins afterwards. Only the connection can be given up then.
    pub fn abort(&mut self, now: Instant, task: TaskTag) -> bool {
        let out = self.managements.iter().any(|m| m.is_about(task.0));
        if self.state != State::FullFeature || out || self.data_outstanding(task) {
            return false;
        }
        let Some(found) = self.tasks.get(task.0) else { return false };
        let request = Management {
            live: true,
            generation: 0,
            function: tmf::ABORT_TASK,
            attempts: 0,
            waiting: false,
            token: found.token,
            lun: found.lun,
            referenced: task.0,
            ref_cmd_sn: found.cmd_sn,
            cmd_sn: Serial(0),
            deadline: now + self.config.management_timeout,
        };
        if !self.manage(now, request) {
            return false;
        }
        let found = self.tasks.get(task.0).expect("the task was looked up");
        found.aborting = true;
        true
    }

    /// Sends LOGICAL UNIT RESET, immediate. Answered by [`Event::TaskManagement`] with `token`; before it
    /// comes [`Event::Aborted`] for each command that it ended. `false` when it could not be sent,
    /// also because a command of that unit owes data: see [`Session::abort`].
    pub fn reset_logical_unit(&mut self, now: Instant, lun: u64, token: u64) -> bool {
        if self.state != State::FullFeature
            || self.config.is_discovery()
            || self.any_data_outstanding(lun)
        {
            return false;
        }
        let request = Management {
            live: true,
            generation: 0,
            function: tmf::LOGICAL_UNIT_RESET,
            attempts: 0,
            waiting: false,
            token,
            lun,
            referenced: TAG_NONE,
            ref_cmd_sn: Serial(0),
            cmd_sn: Serial(0),
            deadline: now + self.config.management_timeout,
        };
        self.manage(now, request)
    }

    fn manage(&mut self, now: Instant, request: Management) -> bool {
        let max = usize::from(self.config.queue_depth) + SPARE_MANAGEMENTS;
        let index = match self.managements.iter().position(|m| !m.live) {
            Some(index) => index,
            None if self.managements.len() < max => {
                self.managements.push(Management {
                    live: false,
                    generation: self.generation,
                    ..request
                });
                self.managements.len() - 1
            }
            None => return false,
        };
        self.owe(now);
        let generation = self.managements[index].generation.wrapping_add(1);
        self.managements[index] = Management { generation, ..request };
        self.time_managements();
        self.put_management(index);
        true
    }

    fn time_managements(&mut self) {
        let live = self.managements.iter().filter(|m| m.live);
        self.management_deadline = live.map(|m| m.deadline).min();
    }

    /// Requests that were waited for long enough: whoever asked may ask again. The session goes on, since it
    /// answers pings: a unit that hangs keeps its task management waiting, and a new login too.
    pub(super) fn managements_unanswered(&mut self, now: Instant) {
        for index in 0..self.managements.len() {
            let m = &mut self.managements[index];
            if !m.live || m.deadline > now {
                continue;
            }
            m.live = false;
            let (token, function) = (m.token, m.function);
            self.superseded.push(management_tag(index, m.generation));
            self.events.push_back(Event::TaskManagementTimedOut { token, function });
        }
        self.time_managements();
    }

    fn put_management(&mut self, index: usize) {
        let cmd_sn = self.window.cmd_sn;
        let m = &mut self.managements[index];
        assert!(m.live, "a task management request that is over");
        m.waiting = false;
        m.attempts += 1;
        m.cmd_sn = cmd_sn;
        let request = TaskManagementRequest {
            immediate: true,
            function: m.function,
            lun: m.lun,
            task_tag: management_tag(index, m.generation),
            referenced_tag: m.referenced,
            cmd_sn,
            exp_stat_sn: self.window.exp_stat_sn,
            ref_cmd_sn: m.ref_cmd_sn,
            exp_data_sn: Serial(0),
            data_len: 0,
        };
        self.framer.put(&mut self.tx, &request.to_bhs(), &[]);
    }

    fn management(&self, tag: u32) -> Option<usize> {
        let index = usize::from(slot_of(tag).checked_sub(MANAGEMENT_SLOT)?);
        let m = self.managements.get(index)?;
        (m.live && management_tag(index, m.generation) == tag).then_some(index)
    }

    /// Task management response (section 11.6).
    pub(super) fn management_response(
        &mut self,
        r: &TaskManagementResponse,
    ) -> Result<(), SessionError> {
        self.window.status(r.numbers.stat_sn)?;
        self.window.update(&r.numbers)?;
        let Some(index) = self.management(r.task_tag) else {
            if self.superseded.contains(r.task_tag) {
                return Ok(());
            }
            return Err(SessionError::Protocol("a task management response to no request"));
        };
        match r.response {
            tmf_response::COMPLETE
            | tmf_response::NO_TASK
            | tmf_response::NO_LUN
            | tmf_response::NOT_SUPPORTED
            | tmf_response::NOT_AUTHORIZED
            | tmf_response::REJECTED => {}
            // The others belong to functions that are never sent.
            _ => return Err(SessionError::Protocol("a reserved task management response")),
        }
        self.end_management(index, r.response);
        Ok(())
    }

    fn end_management(&mut self, index: usize, response: u8) {
        let m = self.managements[index];
        self.managements[index].live = false;
        self.time_managements();
        match (m.function, response) {
            (tmf::ABORT_TASK, tmf_response::COMPLETE) if self.tasks.get(m.referenced).is_some() => {
                self.conclude(TaskTag(m.referenced));
            }
            // The target knows nothing of a task that it has not answered: the outcome is unknown.
            (tmf::ABORT_TASK, tmf_response::NO_TASK) if self.tasks.get(m.referenced).is_some() => {
                self.concluded.push(m.referenced);
                self.lose(TaskTag(m.referenced));
            }
            (tmf::LOGICAL_UNIT_RESET, tmf_response::COMPLETE) => {
                for tag in self.tasks.tags(|t| t.lun == m.lun && t.cmd_sn.lt(m.cmd_sn)) {
                    self.conclude(tag);
                }
            }
            // Not ended, and nothing is proven. Another try may be made; of an aborted write no data is sent
            // even so, because it may have been repeated elsewhere by now.
            _ => {}
        }
        self.events.push_back(Event::TaskManagement {
            token: m.token,
            function: m.function,
            response,
        });
    }

    /// Ends a command that the target says it has ended.
    fn conclude(&mut self, tag: TaskTag) {
        let task = self.tasks.get(tag.0).expect("a listed task is live");
        let token = task.token;
        self.release(tag.0);
        self.concluded.push(tag.0);
        self.events.push_back(Event::Aborted { token, tag });
    }

    /// A PDU for a task that is not live: harmless after task management, else against the protocol.
    pub(super) fn stray(&self, tag: u32, what: &'static str) -> Result<(), SessionError> {
        if self.concluded.contains(tag) { Ok(()) } else { Err(SessionError::Protocol(what)) }
    }

    pub(super) fn retry_managements(&mut self) {
        self.management_retry = None;
        for index in 0..self.managements.len() {
            if self.managements[index].live && self.managements[index].waiting {
                self.put_management(index);
            }
        }
    }

    // --- asynchronous messages

    /// Asynchronous Message (section 11.9).
    pub(super) fn async_message(
        &mut self,
        now: Instant,
        message: &AsyncMessage,
        data: &[u8],
    ) -> Result<(), SessionError> {
        if message.task_tag != TAG_NONE {
            return Err(SessionError::Protocol("an asynchronous message with a task tag"));
        }
        self.window.status(message.numbers.stat_sn)?;
        self.window.update(&message.numbers)?;
        self.statistics.asyncs += 1;
        match message.event {
            async_event::SCSI => {
                let (head, rest) = data.split_at(data.len().min(2));
                let len = head.iter().fold(0, |len, &b| len << 8 | usize::from(b));
                let sense = rest[..rest.len().min(len).min(limits::SENSE_MAX)].into();
                self.tell(AsyncEvent::Scsi { lun: message.lun, sense });
            }
            async_event::LOGOUT => self.logout_asked(now, message.parameter3),
            async_event::DROP_CONNECTION if message.parameter1 != CID => {
                self.tell(AsyncEvent::OtherConnectionDrop { cid: message.parameter1 });
            }
            async_event::DROP_CONNECTION | async_event::DROP_SESSION => {
                let time2wait = Duration::from_secs(message.parameter2.into());
                return Err(SessionError::Dropped { time2wait });
            }
            async_event::NEGOTIATE => {
                self.tell(AsyncEvent::Negotiation);
                self.begin_negotiation(now);
            }
            event @ 248.. => {
                self.tell(AsyncEvent::Vendor { event, code: message.vendor_code });
            }
            async_event::TERMINATE_TASKS => {
                return Err(SessionError::Protocol("task termination without FastAbort"));
            }
            _ => return Err(SessionError::Protocol("a reserved asynchronous event")),
        }
        Ok(())
    }

    fn tell(&mut self, event: AsyncEvent) {
        if self.events.len() < UNASKED_EVENTS_MAX {
            self.events.push_back(Event::Async(event));
        }
    }

    fn logout_asked(&mut self, now: Instant, seconds: u16) {
        if self.state != State::FullFeature || self.logout_due.is_some() {
            return;
        }
        let within = Duration::from_secs(seconds.into());
        self.events.push_back(Event::LogoutRequested { within });
        self.logout_due = Some(now + within * 3 / 4);
        self.command_ended(now);
    }

    /// Takes no commands any more and logs out when nothing is in flight, at the latest after `within`.
    pub fn log_out_when_idle(&mut self, now: Instant, within: Duration) {
        if self.state == State::FullFeature && self.logout_due.is_none() {
            self.logout_due = Some(now + within);
            self.command_ended(now);
        }
    }

    /// Logs out when that was asked for and nothing is in flight any more.
    pub(super) fn command_ended(&mut self, now: Instant) {
        if self.logout_due.is_some() && self.tasks.live() == 0 {
            self.logout(now);
        }
    }

    // --- rejects

    /// Reject (section 11.17). The echoed header is only used to find what it is about.
    pub(super) fn reject(
        &mut self,
        now: Instant,
        r: &Reject,
        data: &[u8],
    ) -> Result<(), SessionError> {
        if r.task_tag != TAG_NONE {
            return Err(SessionError::Protocol("a Reject with a task tag"));
        }
        self.window.status(r.numbers.stat_sn)?;
        self.window.update(&r.numbers)?;
        self.statistics.rejects += 1;
        let mut echo = [0xff; BHS_LEN];
        let len = data.len().min(BHS_LEN);
        echo[..len].copy_from_slice(&data[..len]);
        let opcode = echo[0] & 0x3f;
        let fatal = Err(SessionError::Rejected { reason: r.reason, opcode });
        match r.reason {
            reject::WAITING_FOR_LOGOUT => {
                self.logout(now);
                Ok(())
            }
            reject::TOO_MANY_IMMEDIATE
            | reject::PROTOCOL_ERROR
            | reject::NOT_SUPPORTED
            | reject::INVALID_DATA_ACK
            | reject::INVALID_FIELD
            | reject::NO_RESOURCES
            | reject::NEGOTIATION_RESET => {
                let busy = r.reason == reject::TOO_MANY_IMMEDIATE;
                if self.rejected(now, opcode, task_tag(&echo), busy)? { fatal } else { Ok(()) }
            }
            reject::DATA_DIGEST | reject::IN_PROGRESS => fatal,
            _ => Err(SessionError::Protocol("a reserved or impossible reason of a Reject")),
        }
    }

    /// What becomes of a rejected PDU; `true` ends the session. A rejected command leaves a gap in the
    /// CmdSN sequence, which would stall the target for ever.
    fn rejected(
        &mut self,
        now: Instant,
        opcode: u8,
        tag: u32,
        busy: bool,
    ) -> Result<bool, SessionError> {
        match opcode {
            opcode::SCSI_COMMAND => Ok(self.tasks.get(tag).is_some()),
            opcode::NOP_OUT => {
                // Whoever rejects a ping is alive.
                if self.ping == Some(tag) {
                    self.ping = None;
                }
                Ok(false)
            }
            opcode::TASK_MANAGEMENT_REQUEST => {
                let Some(index) = self.management(tag) else { return Ok(false) };
                let m = &mut self.managements[index];
                if busy && m.attempts < MANAGEMENT_ATTEMPTS_MAX {
                    m.waiting = true;
                    self.management_retry.get_or_insert(now + MANAGEMENT_RETRY);
                } else {
                    self.end_management(index, tmf_response::REJECTED);
                }
                Ok(false)
            }
            opcode::TEXT_REQUEST => self.exchange_rejected(tag),
            opcode::LOGOUT_REQUEST => Ok(self.state == State::LoggingOut),
            // Data-Out: the command's own answer will tell. Anything else we did not send.
            _ => Ok(false),
        }
    }

    // --- logout

    /// Ends the session in order: [`Event::Closed`] comes with the answer or when the logout timeout has
    /// run out. Commands still in flight end as lost; let them finish first.
    pub fn logout(&mut self, now: Instant) {
        match self.state {
            State::FullFeature => {}
            State::Idle | State::Login => {
                let gone = super::CloseReason::GivenUp;
                return self.end(End::Login(LoginError::Closed(gone)));
            }
            State::LoggingOut | State::Closed => return,
        }
        let tag = self.fresh_tag(LOGOUT_SLOT);
        self.state = State::LoggingOut;
        self.logout_due = None;
        self.management_retry = None;
        self.management_deadline = None;
        self.phase_deadline = now + self.config.logout_timeout;
        let request = LogoutRequest {
            immediate: true,
            reason: logout::CLOSE_SESSION,
            task_tag: tag,
            cid: 0,
            cmd_sn: self.window.cmd_sn,
            exp_stat_sn: self.window.exp_stat_sn,
            data_len: 0,
        };
        self.framer.put(&mut self.tx, &request.to_bhs(), &[]);
    }

    /// Logout Response (section 11.15): the session is over whatever it says.
    pub(super) fn logout_response(&mut self, r: &LogoutResponse) -> Result<(), SessionError> {
        let ours = tag(LOGOUT_SLOT, self.generation);
        if self.state != State::LoggingOut || r.task_tag != ours {
            return Err(SessionError::Protocol("a Logout Response to no request"));
        }
        self.window.status(r.numbers.stat_sn)?;
        Err(match r.response {
            0 => SessionError::LoggedOut,
            response => SessionError::LogoutFailed {
                response,
                time2wait: Duration::from_secs(r.time2wait.into()),
            },
        })
    }

    /// A tag that is not a command's, different from the last one of its slot.
    pub(super) fn fresh_tag(&mut self, slot: u16) -> u32 {
        assert!(matches!(slot, PING_SLOT | TEXT_SLOT | LOGOUT_SLOT), "slot {slot:#x}");
        self.generation = self.generation.wrapping_add(1);
        tag(slot, self.generation)
    }
}

fn management_tag(index: usize, generation: u16) -> u32 {
    let slot = MANAGEMENT_SLOT + u16::try_from(index).expect("fewer requests than slots");
    tag(slot, generation)
}
