//! Bytes to meaning and back: no state, no I/O. One folder per protocol.

pub mod iscsi;
pub mod nbd;
pub mod scsi;
