//! Headers that an initiator sends (RFC 7143 sections 11.3 to 11.18). A target parses them.

use super::codes::opcode;
use super::pdu::pdu;
use crate::base::Serial;

pdu! {
    /// NOP-Out: a ping, or the answer to the target's ping (RFC 7143 section 11.18).
    NopOut = opcode::NOP_OUT, 0x80 {
        /// I bit.
        immediate: bool = 0 & 0x40,
        /// LUN, copied from the NOP-In that is answered.
        lun: u64 = 8,
        /// Initiator task tag; [`TAG_NONE`](super::TAG_NONE) when no answer is wanted.
        task_tag: u32 = 16,
        /// Target transfer tag, copied from the NOP-In that is answered.
        transfer_tag: u32 = 20,
        /// CmdSN.
        cmd_sn: Serial = 24,
        /// ExpStatSN.
        exp_stat_sn: Serial = 28,
    }

    /// SCSI Command (RFC 7143 section 11.3).
    ScsiCommand = opcode::SCSI_COMMAND, 0x00 {
        /// I bit.
        immediate: bool = 0 & 0x40,
        /// F bit: no unsolicited Data-Out follows.
        last: bool = 1 & 0x80,
        /// R bit: the command reads.
        read: bool = 1 & 0x40,
        /// W bit: the command writes.
        write: bool = 1 & 0x20,
        /// Task attribute, [`codes::attr`](super::codes::attr).
        attr: u8 = 1 & 0x07,
        /// LUN as reported by REPORT LUNS.
        lun: u64 = 8,
        /// Initiator task tag.
        task_tag: u32 = 16,
        /// Expected data transfer length, bytes.
        expected_len: u32 = 20,
        /// CmdSN.
        cmd_sn: Serial = 24,
        /// ExpStatSN.
        exp_stat_sn: Serial = 28,
        /// The CDB, zero-padded.
        cdb: [u8; 16] = 32,
    }

    /// Task management function request (RFC 7143 section 11.5).
    TaskManagementRequest = opcode::TASK_MANAGEMENT_REQUEST, 0x80 {
        /// I bit.
        immediate: bool = 0 & 0x40,
        /// Function, [`codes::tmf`](super::codes::tmf).
        function: u8 = 1 & 0x7f,
        /// LUN.
        lun: u64 = 8,
        /// Initiator task tag of this request.
        task_tag: u32 = 16,
        /// Tag of the task it is about, or [`TAG_NONE`](super::TAG_NONE).
        referenced_tag: u32 = 20,
        /// CmdSN.
        cmd_sn: Serial = 24,
        /// ExpStatSN.
        exp_stat_sn: Serial = 28,
        /// CmdSN of the task it is about.
        ref_cmd_sn: Serial = 32,
        /// ExpDataSN (TASK REASSIGN only).
        exp_data_sn: Serial = 36,
    }

    /// Login Request (RFC 7143 section 11.12).
    LoginRequest = opcode::LOGIN_REQUEST, 0x00 {
        /// I bit, always set by an initiator.
        immediate: bool = 0 & 0x40,
        /// T bit.
        transit: bool = 1 & 0x80,
        /// C bit: the text goes on in the next request.
        more: bool = 1 & 0x40,
        /// Current stage, [`codes::stage`](super::codes::stage).
        current_stage: u8 = 1 & 0x0c,
        /// Next stage; meaningful with T.
        next_stage: u8 = 1 & 0x03,
        /// Version-max.
        version_max: u8 = 2,
        /// Version-min.
        version_min: u8 = 3,
        /// Initiator session id.
        isid: [u8; 6] = 8,
        /// Target session identifying handle; 0 asks for a new session.
        tsih: u16 = 14,
        /// Initiator task tag.
        task_tag: u32 = 16,
        /// Connection id.
        cid: u16 = 20,
        /// CmdSN.
        cmd_sn: Serial = 24,
        /// ExpStatSN.
        exp_stat_sn: Serial = 28,
    }

    /// Text Request (RFC 7143 section 11.10).
    TextRequest = opcode::TEXT_REQUEST, 0x00 {
        /// I bit.
        immediate: bool = 0 & 0x40,
        /// F bit.
        last: bool = 1 & 0x80,
        /// C bit: the text goes on in the next request.
        more: bool = 1 & 0x40,
        /// LUN, copied from the response that is continued.
        lun: u64 = 8,
        /// Initiator task tag.
        task_tag: u32 = 16,
        /// Target transfer tag, copied from the response that is continued.
        transfer_tag: u32 = 20,
        /// CmdSN.
        cmd_sn: Serial = 24,
        /// ExpStatSN.
        exp_stat_sn: Serial = 28,
    }

    /// SCSI Data-Out (RFC 7143 section 11.7).
    DataOut = opcode::DATA_OUT, 0x00 {
        /// F bit: end of this sequence.
        last: bool = 1 & 0x80,
        /// LUN, copied from the R2T.
        lun: u64 = 8,
        /// Initiator task tag of the command.
        task_tag: u32 = 16,
        /// Target transfer tag of the R2T, or [`TAG_NONE`](super::TAG_NONE) when unsolicited.
        transfer_tag: u32 = 20,
        /// ExpStatSN.
        exp_stat_sn: Serial = 28,
        /// DataSN, from 0 in each sequence.
        data_sn: Serial = 36,
        /// Offset in the command's data, bytes.
        offset: u32 = 40,
    }

    /// Logout Request (RFC 7143 section 11.14).
    LogoutRequest = opcode::LOGOUT_REQUEST, 0x80 {
        /// I bit.
        immediate: bool = 0 & 0x40,
        /// Reason, [`codes::logout`](super::codes::logout).
        reason: u8 = 1 & 0x7f,
        /// Initiator task tag.
        task_tag: u32 = 16,
        /// Connection id, unless the session is closed.
        cid: u16 = 20,
        /// CmdSN.
        cmd_sn: Serial = 24,
        /// ExpStatSN.
        exp_stat_sn: Serial = 28,
    }

    /// SNACK Request (RFC 7143 section 11.16); never sent at ErrorRecoveryLevel 0.
    SnackRequest = opcode::SNACK_REQUEST, 0x80 {
        /// Type.
        kind: u8 = 1 & 0x0f,
        /// LUN.
        lun: u64 = 8,
        /// Initiator task tag.
        task_tag: u32 = 16,
        /// Target transfer tag or SNACK tag.
        transfer_tag: u32 = 20,
        /// ExpStatSN.
        exp_stat_sn: Serial = 28,
        /// First number that is missing.
        begin: u32 = 40,
        /// How many are missing; 0 means all.
        run: u32 = 44,
    }
}
