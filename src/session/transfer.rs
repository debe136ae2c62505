//! Commands and their data (RFC 7143 sections 11.3, 11.4, 11.7, 11.8): immediate and unsolicited data,
//! R2T, Data-In with status, residuals. The data path of a session.

use super::error::SessionError;
use super::event::{Command, Completion, Direction, Event, Residual, TaskTag};
use super::negotiate::Negotiated;
use super::receive::Incoming;
use super::task::Way;
use super::{Session, State};
use crate::base::{Instant, Payload, Serial};
use crate::limits;
use crate::wire::iscsi::TAG_NONE;
use crate::wire::iscsi::codes::attr;
use crate::wire::iscsi::request::{DataOut, ScsiCommand};
use crate::wire::iscsi::response::{DataIn, R2t, ScsiResponse};

/// Longest data segment of a Data-Out, bytes, whatever the target takes: other PDUs go between.
const DATA_OUT_MAX: u32 = 256 * 1024;

/// Data-Out is made ready while fewer bytes than this wait for the socket.
const SEND_AHEAD: u64 = 256 * 1024;

/// No command is taken while this many bytes wait for the socket: a target that answers without reading
/// must not make us keep everything.
const SEND_BACKLOG_MAX: u64 = 64 * 1024 * 1024;

/// Data-In PDUs without data per command; some targets send one at the end.
const EMPTY_DATA_IN_MAX: u16 = 64;

/// R2Ts per command that ask for data that was asked for before.
const REPEATED_R2T_MAX: u16 = 16;

const GOOD: u8 = 0x00;
const CHECK_CONDITION: u8 = 0x02;

/// What the agreement means for sending.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rules {
    /// Longest data segment, bytes.
    segment: u32,
    /// Most immediate data, bytes.
    immediate: u32,
    /// Most immediate and unsolicited data together, bytes; 0 without unsolicited Data-Out.
    unsolicited: u32,
    max_burst: u32,
    max_outstanding_r2t: u16,
}

impl Rules {
    pub fn new(agreed: &Negotiated) -> Rules {
        let first = agreed.first_burst;
        let immediate = first.min(agreed.max_send_segment);
        let mut rules = Rules {
            segment: 0,
            immediate: if agreed.immediate_data { immediate } else { 0 },
            unsolicited: if agreed.initial_r2t { 0 } else { first },
            max_burst: agreed.max_burst,
            max_outstanding_r2t: agreed.max_outstanding_r2t,
        };
        rules.set_segment(agreed.max_send_segment);
        rules
    }

    /// No data goes out before it was asked for.
    pub fn solicit_all(&mut self) {
        (self.immediate, self.unsolicited) = (0, 0);
    }

    /// All but the last segment of a sequence should be multiples of four bytes (section 11.7.7).
    pub fn set_segment(&mut self, max_send_segment: u32) {
        self.segment = max_send_segment.min(DATA_OUT_MAX) & !3;
        self.immediate = self.immediate.min(max_send_segment);
    }
}

/// Data that is to be sent: one unsolicited burst, or the answer to one R2T.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transfer {
    tag: u32,
    transfer_tag: u32,
    lun: u64,
    offset: u32,
    end: u32,
    data_sn: Serial,
}

impl Session {
    /// Commands that `submit` would take now: window and queue depth.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        if self.state != State::FullFeature
            || self.logout_due.is_some()
            || self.config.is_discovery()
            || self.tx.pending() > SEND_BACKLOG_MAX
        {
            return 0;
        }
        self.tasks.room().min(self.window.room() as usize)
    }

    /// Whether `submit` would take a command now.
    #[inline]
    #[must_use]
    pub fn can_submit(&self) -> bool {
        self.room() > 0
    }

    /// Sends a command, or gives it back when there is no room.
    ///
    /// # Errors
    /// The command itself, untouched.
    ///
    /// # Panics
    /// When the payload of a write has 2^32 bytes or more.
    #[allow(clippy::result_large_err)] // The command comes back by value; nothing is allocated for it.
    pub fn submit(&mut self, now: Instant, command: Command) -> Result<TaskTag, Command> {
        if !self.can_submit() {
            return Err(command);
        }
        self.owe(now);
        let Command { token, lun, cdb, data } = command;
        let (way, edtl, payload) = match data {
            Direction::Read { len } if len > 0 => (Way::Read, len, Payload::new()),
            Direction::Write(payload) if !payload.is_empty() => {
                let len = u32::try_from(payload.len()).expect("a write of less than 2^32 bytes");
                (Way::Write, len, payload)
            }
            Direction::None | Direction::Read { .. } | Direction::Write(_) => {
                (Way::None, 0, Payload::new())
            }
        };
        let (immediate, unsolicited) =
            if way == Way::Write { self.first_data(edtl) } else { (0, 0) };
        let cmd_sn = self.window.take();
        let (tag, task) = self.tasks.insert().expect("room was checked");
        task.way = way;
        (task.aborting, task.unwanted) = (false, false);
        (task.r2ts, task.queued, task.repeats, task.empties) = (0, 0, 0, 0);
        (task.token, task.lun, task.edtl, task.cmd_sn) = (token, lun, edtl, cmd_sn);
        task.next_sn = Serial(0);
        task.asked = unsolicited;
        task.start = self.tx.queued();
        task.progress = now;
        task.data = payload;
        let header = ScsiCommand {
            immediate: false,
            last: unsolicited == immediate,
            read: way == Way::Read,
            write: way == Way::Write,
            attr: attr::SIMPLE,
            lun,
            task_tag: tag,
            expected_len: edtl,
            cmd_sn,
            exp_stat_sn: self.window.exp_stat_sn,
            cdb,
            data_len: immediate,
        };
        let bhs = header.to_bhs();
        self.framer.put_payload(&mut self.tx, &bhs, &task.data, 0, immediate as usize);
        task.end = self.tx.queued();
        self.statistics.commands += 1;
        if unsolicited > immediate {
            task.queued = 1;
            self.transfers.push_back(Transfer {
                tag,
                transfer_tag: TAG_NONE,
                lun,
                offset: immediate,
                end: unsolicited,
                data_sn: Serial(0),
            });
        }
        Ok(TaskTag(tag))
    }

    /// Bytes of a write that go with the command, and bytes that go without an R2T in all (section
    /// 4.2.5.2: the unsolicited amount is the smaller of FirstBurstLength and the whole, exactly).
    #[inline]
    fn first_data(&self, edtl: u32) -> (u32, u32) {
        let mut immediate = self.rules.immediate.min(edtl);
        if immediate < edtl {
            immediate &= !3;
        }
        (immediate, self.rules.unsolicited.min(edtl).max(immediate))
    }

    /// Makes Data-Out PDUs ready, oldest burst first, while the socket is not far behind.
    pub(super) fn pump(&mut self) {
        while self.tx.pending() < SEND_AHEAD {
            let Some(transfer) = self.transfers.front_mut() else { return };
            let Some(task) = self.tasks.get(transfer.tag).filter(|task| !task.aborting) else {
                self.transfers.pop_front();
                continue;
            };
            let left = transfer.end - transfer.offset;
            let len = left.min(self.rules.segment);
            assert!(len > 0, "a transfer without data");
            let header = DataOut {
                last: len == left,
                lun: transfer.lun,
                task_tag: transfer.tag,
                transfer_tag: transfer.transfer_tag,
                exp_stat_sn: self.window.exp_stat_sn,
                data_sn: transfer.data_sn,
                offset: transfer.offset,
                data_len: len,
            };
            let (offset, len) = (transfer.offset as usize, len as usize);
            self.framer.put_payload(&mut self.tx, &header.to_bhs(), &task.data, offset, len);
            task.end = self.tx.queued();
            self.statistics.data_out += 1;
            transfer.offset += len as u32;
            transfer.data_sn = transfer.data_sn.plus(1);
            if header.last {
                task.queued -= 1;
                if transfer.transfer_tag != TAG_NONE {
                    task.r2ts -= 1;
                }
                self.transfers.pop_front();
            }
        }
    }

    /// Ready To Transfer (section 11.8): checked against the command, then queued.
    pub(super) fn r2t(&mut self, now: Instant, r2t: &R2t) -> Result<(), SessionError> {
        use SessionError::Protocol;
        self.window.update(&r2t.numbers)?;
        self.statistics.r2ts += 1;
        let Some(task) = self.tasks.get(r2t.task_tag) else {
            return self.stray(r2t.task_tag, "R2T for an unknown task");
        };
        if task.way != Way::Write {
            return Err(Protocol("R2T for a command that does not write"));
        }
        if r2t.lun != task.lun {
            return Err(Protocol("R2T with another LUN than its command"));
        }
        if r2t.transfer_tag == TAG_NONE {
            return Err(Protocol("R2T without a target transfer tag"));
        }
        if r2t.desired_len == 0 || r2t.desired_len > self.rules.max_burst {
            return Err(Protocol("R2T for nothing or for more than MaxBurstLength"));
        }
        let end = r2t.offset.checked_add(r2t.desired_len).filter(|&end| end <= task.edtl);
        let end = end.ok_or(Protocol("R2T outside the command's data"))?;
        if r2t.r2t_sn.lt(task.next_sn) {
            return Ok(());
        }
        if r2t.r2t_sn != task.next_sn {
            return Err(Protocol("R2TSN has a gap"));
        }
        task.next_sn = task.next_sn.plus(1);
        if r2t.offset > task.asked {
            return Err(Protocol("R2T leaves a hole, DataSequenceInOrder=Yes"));
        }
        if r2t.offset < task.asked {
            task.repeats += 1;
            if task.repeats > REPEATED_R2T_MAX {
                return Err(Protocol("R2T asks for the same data again and again"));
            }
        }
        task.asked = task.asked.max(end);
        task.progress = now;
        self.last_moved = now;
        task.queued += 1;
        if task.aborting {
            return Ok(());
        }
        if task.r2ts >= self.rules.max_outstanding_r2t {
            return Err(Protocol("more outstanding R2Ts than negotiated"));
        }
        task.r2ts += 1;
        self.transfers.push_back(Transfer {
            tag: r2t.task_tag,
            transfer_tag: r2t.transfer_tag,
            lun: task.lun,
            offset: r2t.offset,
            end,
            data_sn: Serial(0),
        });
        Ok(())
    }

    /// The header of a Data-In (section 11.7): its data follows.
    #[inline]
    pub(super) fn data_in(&mut self, now: Instant, header: DataIn) -> Result<(), SessionError> {
        use SessionError::Protocol;
        self.window.update(&header.numbers)?;
        self.statistics.data_in += 1;
        if header.has_status {
            if !header.last {
                return Err(Protocol("Data-In with status that is not the last"));
            }
            // Only GOOD, CONDITION MET and their INTERMEDIATE forms are without error.
            if !matches!(header.status, GOOD | 0x04 | 0x10 | 0x14) {
                return Err(Protocol("Data-In with an error status"));
            }
            if header.overflow && header.underflow {
                return Err(Protocol("residual overflow and underflow together"));
            }
        }
        let Some(task) = self.tasks.get(header.task_tag) else {
            self.stray(header.task_tag, "Data-In for an unknown task")?;
            if header.data_len > 0 {
                self.incoming = Incoming::Discard;
            }
            return if header.has_status {
                self.window.status(header.numbers.stat_sn)
            } else {
                Ok(())
            };
        };
        if task.way != Way::Read {
            return Err(Protocol("Data-In for a command that does not read"));
        }
        if header.data_sn != task.next_sn {
            return Err(Protocol("DataSN has a gap or repeats"));
        }
        task.next_sn = task.next_sn.plus(1);
        task.progress = now;
        self.last_moved = now;
        if header.data_len == 0 {
            task.empties += 1;
            if task.empties > EMPTY_DATA_IN_MAX {
                return Err(Protocol("Data-In without data again and again"));
            }
            return self.data_in_end(now, &header);
        }
        if task.unwanted {
            self.incoming = Incoming::Unwanted(header);
            return Ok(());
        }
        if header.offset as usize != task.data.len() {
            return Err(Protocol("Data-In out of order, DataPDUInOrder=Yes"));
        }
        if header.offset.checked_add(header.data_len).is_none_or(|end| end > task.edtl) {
            return Err(Protocol("Data-In beyond the expected data transfer length"));
        }
        self.incoming = Incoming::Data(header);
        Ok(())
    }

    /// A Data-In is whole: with status it ends its command.
    #[inline]
    pub(super) fn data_in_end(
        &mut self,
        now: Instant,
        header: &DataIn,
    ) -> Result<(), SessionError> {
        if !header.has_status {
            return Ok(());
        }
        self.window.status(header.numbers.stat_sn)?;
        let residual = residual(header.overflow, header.underflow, header.residual);
        self.complete(now, header.task_tag, 0, header.status, residual, None)
    }

    /// SCSI Response (section 11.4).
    pub(super) fn scsi_response(
        &mut self,
        now: Instant,
        r: &ScsiResponse,
        data: &[u8],
    ) -> Result<(), SessionError> {
        use SessionError::{Format, Protocol};
        self.window.status(r.numbers.stat_sn)?;
        self.window.update(&r.numbers)?;
        let Some(task) = self.tasks.get(r.task_tag) else {
            return self.stray(r.task_tag, "SCSI Response for an unknown task");
        };
        match r.response {
            0 => {}
            // Status and flags mean nothing with these (section 11.4.3).
            1 | 0x80.. => {
                let none = Residual::None;
                return self.complete(now, r.task_tag, r.response, r.status, none, None);
            }
            _ => return Err(Protocol("a reserved response code")),
        }
        if r.overflow && r.underflow {
            return Err(Protocol("residual overflow and underflow together"));
        }
        if r.bidi_overflow || r.bidi_underflow {
            return Err(Protocol("a bidirectional residual without a bidirectional command"));
        }
        if task.way == Way::Read && task.next_sn.lt(r.exp_data_sn) {
            return Err(Protocol("ExpDataSN: Data-In was lost"));
        }
        let sense = match data {
            [] | [_] if r.status == CHECK_CONDITION => {
                return Err(Format("CHECK CONDITION without sense data"));
            }
            [] | [_] => None,
            [a, b, sense @ ..] => {
                let len = usize::from(u16::from_be_bytes([*a, *b]));
                let sense = &sense[..sense.len().min(len).min(limits::SENSE_MAX)];
                (!sense.is_empty()).then(|| sense.into())
            }
        };
        let residual = residual(r.overflow, r.underflow, r.residual);
        self.complete(now, r.task_tag, 0, r.status, residual, sense)
    }

    /// Frees a task and drops the data that it still wanted to send: an answer that comes early ends the
    /// sending at the next PDU boundary (section 11.4.2).
    #[inline]
    pub(super) fn release(&mut self, tag: u32) {
        if self.tasks.get(tag).is_some_and(|task| task.queued > 0) {
            self.transfers.retain(|transfer| transfer.tag != tag);
        }
        self.tasks.remove(tag);
    }

    /// Ends a live command with an answer.
    #[inline]
    fn complete(
        &mut self,
        now: Instant,
        tag: u32,
        response: u8,
        status: u8,
        residual: Residual,
        sense: Option<Box<[u8]>>,
    ) -> Result<(), SessionError> {
        self.last_moved = now;
        let task = self.tasks.get(tag).expect("the task was looked up");
        let mut data = Payload::new();
        if response == 0 && !task.unwanted {
            let whole = match residual {
                Residual::None | Residual::Over(_) => task.edtl,
                Residual::Under(n) => task.edtl.checked_sub(n).ok_or(SessionError::Protocol(
                    "a residual above the expected data transfer length",
                ))?,
            };
            if task.way == Way::Read {
                // A read that says that all is well must have brought what it says (section 11.4.5).
                if status == GOOD && task.data.len() != whole as usize {
                    return Err(SessionError::Protocol(
                        "GOOD status, but the data received and the residual do not add up",
                    ));
                }
                data = core::mem::take(&mut task.data);
            }
            // Nor can a write be done before the target has fetched all of it (section 11.4.2).
            let fetched = task.queued == 0 && task.asked >= whole;
            if task.way == Way::Write && status == GOOD && !fetched {
                return Err(SessionError::Protocol(
                    "GOOD status for a write before its data was sent",
                ));
            }
        }
        let token = task.token;
        self.release(tag);
        let completion = Completion { response, status, data, sense, residual };
        self.events.push_back(Event::Done { token, tag: TaskTag(tag), completion });
        self.command_ended(now);
        Ok(())
    }
}

#[inline]
const fn residual(over: bool, under: bool, count: u32) -> Residual {
    match (over, under) {
        (true, _) => Residual::Over(count),
        (false, true) => Residual::Under(count),
        (false, false) => Residual::None,
    }
}
