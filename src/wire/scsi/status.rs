//! SCSI status codes (SAM-5, Status codes).

use core::fmt;

/// What a command ended with. Obsolete and reserved values survive as [`Status::Unknown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// 00h: done.
    Good,
    /// 02h: sense data says what happened.
    CheckCondition,
    /// 04h: done, for commands that test a condition (PRE-FETCH).
    ConditionMet,
    /// 08h: the logical unit cannot take commands now.
    Busy,
    /// 18h: a persistent reservation keeps this nexus out.
    ReservationConflict,
    /// 28h: the queue is full.
    TaskSetFull,
    /// 30h: an auto contingent allegiance is active.
    AcaActive,
    /// 40h: ended by another nexus (TAS=1).
    TaskAborted,
    /// Anything else.
    Unknown(u8),
}

impl Status {
    /// From the status byte.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Status {
        match byte {
            0x00 => Status::Good,
            0x02 => Status::CheckCondition,
            0x04 => Status::ConditionMet,
            0x08 => Status::Busy,
            0x18 => Status::ReservationConflict,
            0x28 => Status::TaskSetFull,
            0x30 => Status::AcaActive,
            0x40 => Status::TaskAborted,
            other => Status::Unknown(other),
        }
    }

    /// The status byte.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Status::Good => 0x00,
            Status::CheckCondition => 0x02,
            Status::ConditionMet => 0x04,
            Status::Busy => 0x08,
            Status::ReservationConflict => 0x18,
            Status::TaskSetFull => 0x28,
            Status::AcaActive => 0x30,
            Status::TaskAborted => 0x40,
            Status::Unknown(byte) => byte,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Good => f.write_str("GOOD"),
            Status::CheckCondition => f.write_str("CHECK CONDITION"),
            Status::ConditionMet => f.write_str("CONDITION MET"),
            Status::Busy => f.write_str("BUSY"),
            Status::ReservationConflict => f.write_str("RESERVATION CONFLICT"),
            Status::TaskSetFull => f.write_str("TASK SET FULL"),
            Status::AcaActive => f.write_str("ACA ACTIVE"),
            Status::TaskAborted => f.write_str("TASK ABORTED"),
            Status::Unknown(byte) => write!(f, "status {byte:#04x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SAM-5, Status codes: every byte survives the way there and back.
    #[test]
    fn every_byte_survives() {
        for byte in 0..=u8::MAX {
            assert_eq!(Status::from_byte(byte).byte(), byte);
        }
        assert_eq!(Status::from_byte(0x22).to_string(), "status 0x22");
    }
}
