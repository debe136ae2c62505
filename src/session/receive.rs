//! From bytes to handlers: which PDU may come, how much of its data is kept, and when it is whole.
//!
//! Data-In is handled at its header and its data goes to its task piece by piece. Every other PDU is
//! handled when its data is complete and its digest has been checked, so that no field of a damaged PDU
//! is used (RFC 7143 section 7.8).

use super::error::{LoginError, SessionError};
use super::login::Progress;
use super::{End, Session, State};
use crate::base::Instant;
use crate::limits;
use crate::wire::iscsi::codes::opcode as op;
use crate::wire::iscsi::response::{
    AsyncMessage, DataIn, LoginResponse, LogoutResponse, NopIn, R2t, Reject, ScsiResponse,
    TaskManagementResponse, TextResponse,
};
use crate::wire::iscsi::{BHS_LEN, Bhs, FrameError, Item, data_len, opcode};
use bytes::Bytes;
use core::ops::Range;

/// The PDU whose data segment is arriving.
pub(super) enum Incoming {
    /// Between PDUs.
    Nothing,
    /// Data of a read.
    Data(DataIn),
    /// Data of a read that nobody wants any more.
    Unwanted(DataIn),
    /// Data of no task.
    Discard,
    /// Data to be collected, up to this many bytes; what is beyond is dropped.
    Collect(Box<Bhs>, usize),
}

impl Session {
    pub(super) fn receive(&mut self, now: Instant, chunk: &Bytes) -> Result<(), End> {
        let mut at = 0;
        loop {
            match self.deframer.next(chunk, &mut at) {
                Ok(Some(Item::Header(bhs))) => self.header(now, &bhs)?,
                Ok(Some(Item::Data { range, end })) => self.data(now, chunk, range, end)?,
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.frame_error(error)),
            }
        }
    }

    fn frame_error(&self, error: FrameError) -> End {
        match self.state {
            State::Login => End::Login(LoginError::Frame(error)),
            _ => End::Session(SessionError::Frame(error)),
        }
    }

    #[inline]
    fn header(&mut self, now: Instant, bhs: &Bhs) -> Result<(), End> {
        self.statistics.received_pdus += 1;
        let (opcode, len) = (opcode(bhs), data_len(bhs));
        if self.state == State::Login {
            if opcode != op::LOGIN_RESPONSE {
                return Err(LoginError::UnexpectedPdu { opcode }.into());
            }
        } else if opcode == op::DATA_IN {
            return Ok(self.data_in(now, DataIn::parse(bhs))?);
        }
        let keep = self.kept(opcode, len)?;
        if len == 0 {
            return self.whole(now, bhs, &[]);
        }
        self.collected.clear();
        self.incoming = Incoming::Collect(Box::new(*bhs), keep);
        Ok(())
    }

    /// How much of a PDU's data is kept; whether it may come at all.
    fn kept(&self, opcode: u8, len: u32) -> Result<usize, End> {
        let sense = 2 + limits::SENSE_MAX;
        match opcode {
            op::SCSI_RESPONSE | op::ASYNC_MESSAGE => Ok(sense),
            op::NOP_IN => Ok(0),
            op::REJECT => Ok(BHS_LEN),
            // Bounded by the segment length that we declared.
            op::TEXT_RESPONSE => Ok(usize::MAX),
            op::LOGIN_RESPONSE if self.state == State::Login => Ok(usize::MAX),
            op::TASK_MANAGEMENT_RESPONSE | op::LOGOUT_RESPONSE | op::R2T => {
                if len > 0 {
                    return Err(SessionError::Format("data in a PDU that has none").into());
                }
                Ok(0)
            }
            _ => Err(SessionError::UnexpectedPdu { opcode }.into()),
        }
    }

    #[inline]
    fn data(
        &mut self,
        now: Instant,
        chunk: &Bytes,
        range: Range<usize>,
        end: bool,
    ) -> Result<(), End> {
        match &mut self.incoming {
            Incoming::Data(header) => {
                let tag = header.task_tag;
                self.last_moved = now;
                if let Some(task) = self.tasks.get(tag).filter(|task| !task.unwanted)
                    && !range.is_empty()
                {
                    task.progress = now;
                    task.data.push(chunk.slice(range));
                }
                if end {
                    let header = *header;
                    self.incoming = Incoming::Nothing;
                    self.data_in_end(now, &header)?;
                }
            }
            Incoming::Collect(bhs, keep) => {
                let room = keep.saturating_sub(self.collected.len());
                let piece = &chunk[range];
                self.collected.extend_from_slice(&piece[..piece.len().min(room)]);
                if end {
                    let bhs = **bhs;
                    self.incoming = Incoming::Nothing;
                    let data = core::mem::take(&mut self.collected);
                    let result = self.whole(now, &bhs, &data);
                    self.collected = data;
                    return result;
                }
            }
            Incoming::Unwanted(header) => {
                if end {
                    let header = *header;
                    self.incoming = Incoming::Nothing;
                    self.data_in_end(now, &header)?;
                }
            }
            Incoming::Discard => {
                if end {
                    self.incoming = Incoming::Nothing;
                }
            }
            Incoming::Nothing => unreachable!("data belongs to a header that was handled"),
        }
        Ok(())
    }

    /// A PDU other than Data-In, whole and undamaged.
    fn whole(&mut self, now: Instant, bhs: &Bhs, data: &[u8]) -> Result<(), End> {
        match opcode(bhs) {
            op::SCSI_RESPONSE => self.scsi_response(now, &ScsiResponse::parse(bhs), data)?,
            op::R2T => self.r2t(now, &R2t::parse(bhs))?,
            op::NOP_IN => self.nop_in(&NopIn::parse(bhs))?,
            op::TASK_MANAGEMENT_RESPONSE => {
                self.management_response(&TaskManagementResponse::parse(bhs))?;
            }
            op::TEXT_RESPONSE => self.text_response(now, &TextResponse::parse(bhs), data)?,
            op::ASYNC_MESSAGE => self.async_message(now, &AsyncMessage::parse(bhs), data)?,
            op::REJECT => self.reject(now, &Reject::parse(bhs), data)?,
            op::LOGOUT_RESPONSE => self.logout_response(&LogoutResponse::parse(bhs))?,
            op::LOGIN_RESPONSE => self.login_response(&LoginResponse::parse(bhs), data)?,
            opcode => return Err(SessionError::UnexpectedPdu { opcode }.into()),
        }
        Ok(())
    }

    fn login_response(&mut self, response: &LoginResponse, data: &[u8]) -> Result<(), LoginError> {
        let login = self.login.as_mut().expect("the login phase has a login");
        match login.handle(response, data)? {
            Progress::Send(request, text) => self.send_login(&request, &text),
            Progress::Done(agreed, numbers) => {
                self.window.exp_stat_sn = numbers.stat_sn.plus(1);
                // No command was sent yet: only MaxCmdSN can tell something.
                if self.window.update(&numbers).is_err() {
                    return Err(LoginError::Protocol("ExpCmdSN beyond the first command"));
                }
                self.enter_full_feature(agreed);
            }
        }
        Ok(())
    }
}
