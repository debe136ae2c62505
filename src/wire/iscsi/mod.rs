//! iSCSI on the wire (RFC 7143): bytes to meaning and back, for both sides, without state.
//!
//! A PDU is a basic header segment of 48 bytes (BHS), perhaps additional header segments (AHS), perhaps
//! a header digest, perhaps a data segment padded to four bytes, perhaps a data digest. All numbers are
//! big-endian; digests alone are little-endian.
//!
//! | file | what |
//! |---|---|
//! | [`codes`] | opcodes and every code value with its name |
//! | [`request`] | headers that an initiator sends |
//! | [`response`] | headers that a target sends |
//! | [`frame`] | a byte stream to PDUs ([`Deframer`]) and PDUs to a transmit queue ([`Framer`]) |
//! | [`text`] | `key=value` pairs, numbers, binary values |
//! | [`keys`] | names of the keys |
//! | [`address`] | `TargetAddress` values |
//!
//! The contract of the header types: `parse` never fails and ignores reserved bits; `emit` writes all
//! 48 bytes. Code values are kept as they came, so that an unknown one can be judged and shown by the
//! caller. Deliberately not here: what is allowed when (session and target), and any buffer.

pub mod address;
pub mod codes;
pub mod digest;
pub mod frame;
pub mod keys;
mod pdu;
pub mod request;
pub mod response;
pub mod text;

pub use address::{Host, TargetAddress};
pub use frame::{Deframer, FrameError, Framer, Item};
pub use pdu::{BHS_LEN, Bhs, ahs_len, data_len, is_immediate, opcode, task_tag};

/// The tag that means "no tag" (RFC 7143 section 11.2.1.8), for both task and transfer tags.
pub const TAG_NONE: u32 = 0xffff_ffff;

/// TCP port when an address names none (RFC 7143 section 13.8).
pub const DEFAULT_PORT: u16 = 3260;
