//! READ CAPACITY parameter data (SBC-3, READ CAPACITY(10) and (16)).

use crate::wire::scsi::field::{be16, be32, be64, bit, flag, put16, put32, put64, u8_at};
use crate::wire::scsi::{Emit, ParseError, at_least};

/// Bytes of READ CAPACITY(16) parameter data.
pub const CAPACITY_16_LEN: u32 = 32;

/// READ CAPACITY(10) parameter data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity10 {
    /// Last logical block; FFFFFFFFh: ask READ CAPACITY(16).
    pub last_lba: u32,
    /// Bytes per logical block.
    pub block_size: u32,
}

impl Capacity10 {
    /// Reads 8 bytes.
    ///
    /// # Errors
    /// Fewer bytes.
    pub fn parse(data: &[u8]) -> Result<Capacity10, ParseError> {
        at_least("READ CAPACITY(10) data", data, 8)?;
        Ok(Capacity10 { last_lba: be32(data, 0), block_size: be32(data, 4) })
    }

    /// Whether the capacity does not fit and READ CAPACITY(16) has it.
    #[must_use]
    pub const fn overflows(&self) -> bool {
        self.last_lba == u32::MAX
    }
}

impl Emit for Capacity10 {
    fn buffer_len(&self) -> usize {
        8
    }

    fn emit(&self, out: &mut [u8]) {
        put32(out, 0, self.last_lba);
        put32(out, 4, self.block_size);
    }
}

/// READ CAPACITY(16) parameter data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capacity16 {
    /// Last logical block.
    pub last_lba: u64,
    /// Bytes per logical block.
    pub block_size: u32,
    /// PROT_EN: formatted with protection information.
    pub protection: bool,
    /// P_TYPE, 3 bits: protection type minus one.
    pub protection_type: u8,
    /// RC BASIS, 2 bits (SBC-4): matters to zoned devices only.
    pub basis: u8,
    /// LBPPBE: a physical block is `1 << exponent` logical ones.
    pub physical_exponent: u8,
    /// LBPME: logical block provisioning management is enabled.
    pub provisioned: bool,
    /// LBPRZ: unmapped blocks read as zeros.
    pub unmapped_zero: bool,
    /// LOWEST ALIGNED LOGICAL BLOCK ADDRESS, 14 bits.
    pub lowest_aligned: u16,
}

impl Capacity16 {
    /// Reads at least 12 bytes; what is missing of the 32 reads as zero.
    ///
    /// # Errors
    /// Fewer than 12 bytes.
    pub fn parse(data: &[u8]) -> Result<Capacity16, ParseError> {
        at_least("READ CAPACITY(16) data", data, 12)?;
        Ok(Capacity16 {
            last_lba: be64(data, 0),
            block_size: be32(data, 8),
            protection: bit(data, 12, 0),
            protection_type: u8_at(data, 12) >> 1 & 7,
            basis: u8_at(data, 12) >> 4 & 3,
            physical_exponent: u8_at(data, 13) & 0xf,
            provisioned: bit(data, 14, 7),
            unmapped_zero: bit(data, 14, 6),
            lowest_aligned: be16(data, 14) & 0x3fff,
        })
    }
}

impl From<Capacity10> for Capacity16 {
    fn from(short: Capacity10) -> Capacity16 {
        Capacity16 {
            last_lba: short.last_lba.into(),
            block_size: short.block_size,
            ..Capacity16::default()
        }
    }
}

impl Emit for Capacity16 {
    fn buffer_len(&self) -> usize {
        CAPACITY_16_LEN as usize
    }

    fn emit(&self, out: &mut [u8]) {
        let out = &mut out[..CAPACITY_16_LEN as usize];
        out.fill(0);
        put64(out, 0, self.last_lba);
        put32(out, 8, self.block_size);
        out[12] =
            (self.basis & 3) << 4 | (self.protection_type & 7) << 1 | flag(self.protection, 0);
        out[13] = self.physical_exponent & 0xf;
        put16(out, 14, self.lowest_aligned & 0x3fff);
        out[14] |= flag(self.provisioned, 7) | flag(self.unmapped_zero, 6);
    }
}
