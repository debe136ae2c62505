//! REPORT LUNS parameter data and LUN addressing (SPC-4, REPORT LUNS; SAM-5, Logical unit numbers).
//!
//! A LUN is 8 opaque bytes that go back to the target unchanged, held as the big-endian `u64` of the PDU's
//! LUN field. The number that an administrator means by "LUN 5" is found in it, never the other way round:
//! [`flat`] only makes up an address for a LUN that was not listed.

use crate::wire::scsi::field::{be32, be64, put32, put64};
use crate::wire::scsi::{Emit, ParseError, at_least};

/// Smallest allocation length that SPC-4 allows.
pub const ALLOCATION_MIN: u32 = 16;

/// A LUN list as it came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportedLuns {
    /// The LUN fields in the target's order, duplicates included.
    pub luns: Vec<u64>,
    /// Bytes that the whole answer takes, header included; more than came means: ask again.
    pub available: u64,
}

impl ReportedLuns {
    /// Reads the answer; a partial entry at the end is dropped.
    ///
    /// # Errors
    /// Fewer than 8 bytes.
    pub fn parse(data: &[u8]) -> Result<ReportedLuns, ParseError> {
        at_least("REPORT LUNS data", data, 8)?;
        let listed = be32(data, 0);
        let available = u64::from(listed) + 8;
        let end = usize::try_from(available).unwrap_or(usize::MAX).min(data.len());
        let luns = data[8..end].chunks_exact(8).map(|entry| be64(entry, 0)).collect();
        Ok(ReportedLuns { luns, available })
    }
}

/// A list of LUNs as REPORT LUNS parameter data.
impl Emit for ReportedLuns {
    fn buffer_len(&self) -> usize {
        8 + 8 * self.luns.len()
    }

    fn emit(&self, out: &mut [u8]) {
        let bytes = u32::try_from(8 * self.luns.len()).expect("a LUN list is under 4 GiB");
        put32(out, 0, bytes);
        put32(out, 4, 0);
        for (i, lun) in self.luns.iter().enumerate() {
            put64(out, 8 + 8 * i, *lun);
        }
    }
}

/// The address that a LUN number most often has: peripheral up to 255, flat space up to 16,383; beyond
/// that there is none.
#[must_use]
pub const fn flat(number: u16) -> Option<u64> {
    match number {
        0..=0xff => Some((number as u64) << 48),
        0x100..=0x3fff => Some((0x4000 | number as u64) << 48),
        _ => None,
    }
}

/// The number in a single-level LUN: peripheral addressing on bus 0, or flat space. `None` for anything
/// deeper or different, which only its bytes can name.
#[must_use]
pub const fn number(lun: u64) -> Option<u16> {
    let first = (lun >> 48) as u16;
    if lun & 0xffff_ffff_ffff != 0 {
        return None;
    }
    match first >> 14 {
        0 if first >> 8 == 0 => Some(first & 0xff),
        1 => Some(first & 0x3fff),
        _ => None,
    }
}

/// Whether this is a well-known logical unit (C101h and relatives), which is never a block device.
#[must_use]
pub const fn is_well_known(lun: u64) -> bool {
    lun >> 56 == 0xc1
}
