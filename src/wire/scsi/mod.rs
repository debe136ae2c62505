//! SCSI commands, parameter data and sense data as values: bytes to meaning and back, no state.
//!
//! Mental model: a command is a [`Cdb`] of at most 16 bytes, which is all that iSCSI carries inline; what
//! comes back is a [`Status`], perhaps [`Sense`], perhaps parameter data. Every parameter format is a
//! plain struct with `parse` (takes whatever a target sent, of any length, and never panics) and
//! [`Emit`] (for the embedded target and for tests). Missing trailing fields read as zero wherever the
//! standards let an older device stop early; unknown values survive and print in hex.
//!
//! The layouts follow SPC-4/5 (commands for all devices) and SBC-3/4 (block commands).
//!
//! Deliberately not here: what to do about an answer (`path::verdict`), which answers make two paths one
//! device (`path::identity`), and in which order to ask (`volume::probe`).

pub mod additional;
pub mod block_pages;
pub mod capacity;
pub mod cdb;
pub mod field;
pub mod inquiry;
pub mod lba_status;
pub mod luns;
pub mod mode;
pub mod port_groups;
pub mod reservation;
pub mod sense;
pub mod status;
pub mod text;
pub mod unmap;
pub mod vpd;

#[cfg(test)]
mod tests;

pub use block_pages::{BlockCharacteristics, BlockLimits, Provisioning, UnmappedReads};
pub use capacity::{Capacity10, Capacity16};
pub use cdb::{Cdb, CdbError, Data, Transfer, Width};
pub use inquiry::{DeviceType, Inquiry};
pub use lba_status::{LbaStatus, Provision};
pub use luns::ReportedLuns;
pub use mode::{Caching, Control, ModeData, ModeForm};
pub use port_groups::{AccessState, PortGroup, PortGroups};
pub use sense::{Sense, SenseError, SenseKey};
pub use status::Status;
pub use text::printable;
pub use vpd::{Association, Designator, DesignatorKind, VpdHeader};

/// Why parameter data could not be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Fewer bytes than the smallest useful answer.
    #[error("{what}: {got} bytes came, at least {need} are needed")]
    Short {
        /// What was being read.
        what: &'static str,
        /// Bytes needed.
        need: usize,
        /// Bytes that came.
        got: usize,
    },
    /// A field that must have one of a few values has another.
    #[error("{what}: {got:#x} instead of {expected:#x}")]
    Unexpected {
        /// Which field.
        what: &'static str,
        /// What it must be.
        expected: u64,
        /// What it is.
        got: u64,
    },
}

/// Checks that at least `need` bytes came.
pub(crate) fn at_least(what: &'static str, data: &[u8], need: usize) -> Result<(), ParseError> {
    if data.len() < need {
        return Err(ParseError::Short { what, need, got: data.len() });
    }
    Ok(())
}

/// Parameter data that can be written.
pub trait Emit {
    /// Bytes that [`Emit::emit`] writes.
    fn buffer_len(&self) -> usize;

    /// Writes every byte of the first [`Emit::buffer_len`] bytes of `out`.
    ///
    /// # Panics
    /// When `out` is shorter than that: the caller sizes the buffer.
    fn emit(&self, out: &mut [u8]);

    /// The bytes in a vector of their own.
    fn to_vec(&self) -> Vec<u8> {
        let mut out = vec![0; self.buffer_len()];
        self.emit(&mut out);
        out
    }
}

/// Emits into a buffer of the exact length that is full of 0xa5, so that a byte that was never written
/// shows: for tests of every format.
#[cfg(test)]
pub(crate) fn emitted(value: &impl Emit) -> Vec<u8> {
    let mut out = vec![0xa5; value.buffer_len()];
    value.emit(&mut out);
    out
}
