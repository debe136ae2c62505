//! Persistent reservation numbers (SPC-4, PERSISTENT RESERVE IN and OUT). Only names: no command of this
//! project sends them yet, but messages and the embedded target need the words.

/// PERSISTENT RESERVE IN.
pub const PERSISTENT_RESERVE_IN: u8 = 0x5e;
/// PERSISTENT RESERVE OUT.
pub const PERSISTENT_RESERVE_OUT: u8 = 0x5f;

/// Service actions of PERSISTENT RESERVE IN.
pub mod read {
    /// READ KEYS.
    pub const KEYS: u8 = 0x00;
    /// READ RESERVATION.
    pub const RESERVATION: u8 = 0x01;
    /// REPORT CAPABILITIES.
    pub const CAPABILITIES: u8 = 0x02;
    /// READ FULL STATUS.
    pub const FULL_STATUS: u8 = 0x03;
}

/// Service actions of PERSISTENT RESERVE OUT.
pub mod action {
    /// REGISTER.
    pub const REGISTER: u8 = 0x00;
    /// RESERVE.
    pub const RESERVE: u8 = 0x01;
    /// RELEASE.
    pub const RELEASE: u8 = 0x02;
    /// CLEAR.
    pub const CLEAR: u8 = 0x03;
    /// PREEMPT.
    pub const PREEMPT: u8 = 0x04;
    /// PREEMPT AND ABORT.
    pub const PREEMPT_AND_ABORT: u8 = 0x05;
    /// REGISTER AND IGNORE EXISTING KEY.
    pub const REGISTER_AND_IGNORE: u8 = 0x06;
    /// REGISTER AND MOVE.
    pub const REGISTER_AND_MOVE: u8 = 0x07;
    /// REPLACE LOST RESERVATION.
    pub const REPLACE_LOST: u8 = 0x08;
}

/// Reservation types; scope is always 0 (the logical unit).
pub mod kind {
    /// Write Exclusive.
    pub const WRITE_EXCLUSIVE: u8 = 0x1;
    /// Exclusive Access.
    pub const EXCLUSIVE_ACCESS: u8 = 0x3;
    /// Write Exclusive, Registrants Only.
    pub const WRITE_EXCLUSIVE_REGISTRANTS: u8 = 0x5;
    /// Exclusive Access, Registrants Only.
    pub const EXCLUSIVE_ACCESS_REGISTRANTS: u8 = 0x6;
    /// Write Exclusive, All Registrants.
    pub const WRITE_EXCLUSIVE_ALL: u8 = 0x7;
    /// Exclusive Access, All Registrants.
    pub const EXCLUSIVE_ACCESS_ALL: u8 = 0x8;
}
