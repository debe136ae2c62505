//! Headers that a target sends (RFC 7143 sections 11.4 to 11.19). An initiator parses them.

use super::codes::opcode;
use super::pdu::{Bhs, Field, pdu};
use crate::base::Serial;

/// The three numbers at bytes 24 to 35 that every target PDU carries (RFC 7143 section 4.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Numbers {
    /// StatSN.
    pub stat_sn: Serial,
    /// ExpCmdSN: the command that the target waits for.
    pub exp_cmd_sn: Serial,
    /// MaxCmdSN: the last command that the target takes.
    pub max_cmd_sn: Serial,
}

impl Field for Numbers {
    fn get(bhs: &Bhs, at: usize) -> Numbers {
        Numbers {
            stat_sn: Serial::get(bhs, at),
            exp_cmd_sn: Serial::get(bhs, at + 4),
            max_cmd_sn: Serial::get(bhs, at + 8),
        }
    }
    fn put(self, bhs: &mut Bhs, at: usize) {
        self.stat_sn.put(bhs, at);
        self.exp_cmd_sn.put(bhs, at + 4);
        self.max_cmd_sn.put(bhs, at + 8);
    }
}

pdu! {
    /// NOP-In: the target's ping, or the answer to ours (RFC 7143 section 11.19).
    NopIn = opcode::NOP_IN, 0x80 {
        /// LUN; valid with a transfer tag.
        lun: u64 = 8,
        /// Initiator task tag of the ping that is answered, or [`TAG_NONE`](super::TAG_NONE).
        task_tag: u32 = 16,
        /// Target transfer tag when an answer is wanted, or [`TAG_NONE`](super::TAG_NONE).
        transfer_tag: u32 = 20,
        /// StatSN and the command window.
        numbers: Numbers = 24,
    }

    /// SCSI Response (RFC 7143 section 11.4).
    ScsiResponse = opcode::SCSI_RESPONSE, 0x80 {
        /// o bit: overflow of a bidirectional read.
        bidi_overflow: bool = 1 & 0x10,
        /// u bit: underflow of a bidirectional read.
        bidi_underflow: bool = 1 & 0x08,
        /// O bit: residual overflow.
        overflow: bool = 1 & 0x04,
        /// U bit: residual underflow.
        underflow: bool = 1 & 0x02,
        /// iSCSI response, [`codes::response`](super::codes::response).
        response: u8 = 2,
        /// SCSI status.
        status: u8 = 3,
        /// Initiator task tag.
        task_tag: u32 = 16,
        /// SNACK tag.
        snack_tag: u32 = 20,
        /// StatSN and the command window.
        numbers: Numbers = 24,
        /// Number of Data-In PDUs sent for the command.
        exp_data_sn: Serial = 36,
        /// Residual of a bidirectional read, bytes.
        bidi_residual: u32 = 40,
        /// Residual, bytes; meaningful with O or U.
        residual: u32 = 44,
    }

    /// Task management function response (RFC 7143 section 11.6).
    TaskManagementResponse = opcode::TASK_MANAGEMENT_RESPONSE, 0x80 {
        /// Response, [`codes::tmf_response`](super::codes::tmf_response).
        response: u8 = 2,
        /// Initiator task tag.
        task_tag: u32 = 16,
        /// StatSN and the command window.
        numbers: Numbers = 24,
    }

    /// Login Response (RFC 7143 section 11.13).
    LoginResponse = opcode::LOGIN_RESPONSE, 0x00 {
        /// T bit.
        transit: bool = 1 & 0x80,
        /// C bit: the text goes on in the next response.
        more: bool = 1 & 0x40,
        /// Current stage, [`codes::stage`](super::codes::stage).
        current_stage: u8 = 1 & 0x0c,
        /// Next stage; meaningful with T.
        next_stage: u8 = 1 & 0x03,
        /// Version-max.
        version_max: u8 = 2,
        /// Version-active.
        version_active: u8 = 3,
        /// Initiator session id.
        isid: [u8; 6] = 8,
        /// Target session identifying handle; valid in the final response.
        tsih: u16 = 14,
        /// Initiator task tag.
        task_tag: u32 = 16,
        /// StatSN and the command window; valid with status class 0.
        numbers: Numbers = 24,
        /// Status class, [`LoginStatus`](super::codes::LoginStatus).
        status_class: u8 = 36,
        /// Status detail.
        status_detail: u8 = 37,
    }

    /// Text Response (RFC 7143 section 11.11).
    TextResponse = opcode::TEXT_RESPONSE, 0x00 {
        /// F bit.
        last: bool = 1 & 0x80,
        /// C bit: the text goes on in the next response.
        more: bool = 1 & 0x40,
        /// LUN.
        lun: u64 = 8,
        /// Initiator task tag.
        task_tag: u32 = 16,
        /// Target transfer tag when there is more, or [`TAG_NONE`](super::TAG_NONE).
        transfer_tag: u32 = 20,
        /// StatSN and the command window.
        numbers: Numbers = 24,
    }

    /// SCSI Data-In (RFC 7143 section 11.7).
    DataIn = opcode::DATA_IN, 0x00 {
        /// F bit: end of this sequence.
        last: bool = 1 & 0x80,
        /// A bit: asks for a DataACK (ErrorRecoveryLevel 1 and up).
        acknowledge: bool = 1 & 0x40,
        /// O bit: residual overflow; meaningful with S.
        overflow: bool = 1 & 0x04,
        /// U bit: residual underflow; meaningful with S.
        underflow: bool = 1 & 0x02,
        /// S bit: status, StatSN and residual are valid.
        has_status: bool = 1 & 0x01,
        /// SCSI status; meaningful with S.
        status: u8 = 3,
        /// LUN; valid with A.
        lun: u64 = 8,
        /// Initiator task tag.
        task_tag: u32 = 16,
        /// Target transfer tag; valid with A.
        transfer_tag: u32 = 20,
        /// StatSN (with S) and the command window.
        numbers: Numbers = 24,
        /// DataSN, from 0 over the whole command.
        data_sn: Serial = 36,
        /// Offset in the command's data, bytes.
        offset: u32 = 40,
        /// Residual, bytes; meaningful with S and O or U.
        residual: u32 = 44,
    }

    /// Ready To Transfer (RFC 7143 section 11.8).
    R2t = opcode::R2T, 0x80 {
        /// LUN, to be copied.
        lun: u64 = 8,
        /// Initiator task tag.
        task_tag: u32 = 16,
        /// Target transfer tag, to be copied.
        transfer_tag: u32 = 20,
        /// Next StatSN (not consumed) and the command window.
        numbers: Numbers = 24,
        /// R2TSN, from 0 over the whole command.
        r2t_sn: Serial = 36,
        /// Offset in the command's data, bytes.
        offset: u32 = 40,
        /// Bytes that are asked for.
        desired_len: u32 = 44,
    }

    /// Asynchronous Message (RFC 7143 section 11.9).
    AsyncMessage = opcode::ASYNC_MESSAGE, 0x80 {
        /// LUN; valid with a SCSI event.
        lun: u64 = 8,
        /// Always [`TAG_NONE`](super::TAG_NONE).
        task_tag: u32 = 16,
        /// StatSN and the command window.
        numbers: Numbers = 24,
        /// Event, [`codes::async_event`](super::codes::async_event).
        event: u8 = 36,
        /// Vendor code of a vendor event.
        vendor_code: u8 = 37,
        /// Connection id of a connection drop.
        parameter1: u16 = 38,
        /// Time2Wait of a drop, seconds.
        parameter2: u16 = 40,
        /// Seconds for a logout or negotiation request; Time2Retain of a drop.
        parameter3: u16 = 42,
    }

    /// Reject (RFC 7143 section 11.17); its data is the header of the rejected PDU.
    Reject = opcode::REJECT, 0x80 {
        /// Reason, [`codes::reject`](super::codes::reject).
        reason: u8 = 2,
        /// Always [`TAG_NONE`](super::TAG_NONE).
        task_tag: u32 = 16,
        /// StatSN and the command window.
        numbers: Numbers = 24,
        /// DataSN or R2TSN of the rejected PDU.
        data_sn: Serial = 36,
    }

    /// Logout Response (RFC 7143 section 11.15).
    LogoutResponse = opcode::LOGOUT_RESPONSE, 0x80 {
        /// Response, [`codes::logout_response`](super::codes::logout_response).
        response: u8 = 2,
        /// Initiator task tag.
        task_tag: u32 = 16,
        /// StatSN and the command window.
        numbers: Numbers = 24,
        /// Time2Wait, seconds.
        time2wait: u16 = 40,
        /// Time2Retain, seconds.
        time2retain: u16 = 42,
    }
}
