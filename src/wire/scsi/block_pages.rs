//! VPD pages of block devices: B0h Block Limits, B1h Block Device Characteristics, B2h Logical Block
//! Provisioning (SBC-3/4). Every field that a short page leaves out reads as zero: "not reported".

use crate::wire::scsi::Emit;
use crate::wire::scsi::field::{be16, be32, be64, bit, flag, put16, put32, put64, u8_at};

/// Block Limits.
pub const PAGE_LIMITS: u8 = 0xb0;
/// Block Device Characteristics.
pub const PAGE_CHARACTERISTICS: u8 = 0xb1;
/// Logical Block Provisioning.
pub const PAGE_PROVISIONING: u8 = 0xb2;

/// Page B0h. All counts are in logical blocks; 0 is "not reported" except where said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockLimits {
    /// WSNZ: WRITE SAME of 0 blocks is refused.
    pub write_same_non_zero: bool,
    /// MAXIMUM COMPARE AND WRITE LENGTH; 0: not supported.
    pub max_compare_and_write: u8,
    /// OPTIMAL TRANSFER LENGTH GRANULARITY.
    pub optimal_granularity: u16,
    /// MAXIMUM TRANSFER LENGTH.
    pub max_transfer: u32,
    /// OPTIMAL TRANSFER LENGTH.
    pub optimal_transfer: u32,
    /// MAXIMUM UNMAP LBA COUNT; 0: no UNMAP, FFFFFFFFh: no limit.
    pub max_unmap_blocks: u32,
    /// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT; 0: no UNMAP, FFFFFFFFh: no limit.
    pub max_unmap_descriptors: u32,
    /// OPTIMAL UNMAP GRANULARITY.
    pub unmap_granularity: u32,
    /// UNMAP GRANULARITY ALIGNMENT, when UGAVALID.
    pub unmap_alignment: Option<u32>,
    /// MAXIMUM WRITE SAME LENGTH.
    pub max_write_same: u64,
}

impl BlockLimits {
    /// Reads the page's body (after its 4-byte header), 12 bytes in old devices, 60 in new ones.
    #[must_use]
    pub fn parse(body: &[u8]) -> BlockLimits {
        let alignment = be32(body, 28);
        BlockLimits {
            write_same_non_zero: bit(body, 0, 0),
            max_compare_and_write: u8_at(body, 1),
            optimal_granularity: be16(body, 2),
            max_transfer: be32(body, 4),
            optimal_transfer: be32(body, 8),
            max_unmap_blocks: be32(body, 16),
            max_unmap_descriptors: be32(body, 20),
            unmap_granularity: be32(body, 24),
            unmap_alignment: (alignment >> 31 == 1).then_some(alignment & 0x7fff_ffff),
            max_write_same: be64(body, 32),
        }
    }
}

impl Emit for BlockLimits {
    fn buffer_len(&self) -> usize {
        64
    }

    fn emit(&self, out: &mut [u8]) {
        let out = &mut out[..64];
        out.fill(0);
        out[1] = PAGE_LIMITS;
        put16(out, 2, 60);
        out[4] = flag(self.write_same_non_zero, 0);
        out[5] = self.max_compare_and_write;
        put16(out, 6, self.optimal_granularity);
        put32(out, 8, self.max_transfer);
        put32(out, 12, self.optimal_transfer);
        put32(out, 20, self.max_unmap_blocks);
        put32(out, 24, self.max_unmap_descriptors);
        put32(out, 28, self.unmap_granularity);
        put32(out, 32, self.unmap_alignment.map_or(0, |a| a | 1 << 31));
        put64(out, 36, self.max_write_same);
    }
}

/// Page B1h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockCharacteristics {
    /// MEDIUM ROTATION RATE: 0 not reported, 1 does not rotate, else turns per minute.
    pub rotation: u16,
    /// ZONED, 2 bits: 0 not reported, 1 host-aware, 2 device-managed.
    pub zoned: u8,
}

impl BlockCharacteristics {
    /// Reads the page's body.
    #[must_use]
    pub fn parse(body: &[u8]) -> BlockCharacteristics {
        BlockCharacteristics { rotation: be16(body, 0), zoned: u8_at(body, 4) >> 4 & 3 }
    }

    /// Whether the medium is known to rotate: a rate, and not the code for "does not".
    #[must_use]
    pub const fn rotates(&self) -> bool {
        self.rotation > 1
    }
}

impl Emit for BlockCharacteristics {
    fn buffer_len(&self) -> usize {
        64
    }

    fn emit(&self, out: &mut [u8]) {
        let out = &mut out[..64];
        out.fill(0);
        out[1] = PAGE_CHARACTERISTICS;
        put16(out, 2, 60);
        put16(out, 4, self.rotation);
        out[8] = (self.zoned & 3) << 4;
    }
}

/// What unmapped blocks read as (LBPRZ in page B2h, 3 bits; SBC-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnmappedReads {
    /// 000b (and reserved codes): anything.
    #[default]
    Anything,
    /// xx1b: zeros.
    Zeros,
    /// 010b: the initialisation pattern, which need not be zero.
    Pattern,
}

/// Page B2h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Provisioning {
    /// THRESHOLD EXPONENT.
    pub threshold_exponent: u8,
    /// LBPU: UNMAP is supported.
    pub unmap: bool,
    /// LBPWS: WRITE SAME(16) with UNMAP=1 is supported.
    pub write_same_16: bool,
    /// LBPWS10: WRITE SAME(10) with UNMAP=1 is supported.
    pub write_same_10: bool,
    /// LBPRZ as it came, 3 bits.
    pub lbprz: u8,
    /// ANC_SUP: anchored blocks are supported.
    pub anchor: bool,
    /// PROVISIONING TYPE, 3 bits: 0 not reported, 1 resource, 2 thin.
    pub kind: u8,
}

impl Provisioning {
    /// Reads the page's body.
    #[must_use]
    pub fn parse(body: &[u8]) -> Provisioning {
        Provisioning {
            threshold_exponent: u8_at(body, 0),
            unmap: bit(body, 1, 7),
            write_same_16: bit(body, 1, 6),
            write_same_10: bit(body, 1, 5),
            lbprz: u8_at(body, 1) >> 2 & 7,
            anchor: bit(body, 1, 1),
            kind: u8_at(body, 2) & 7,
        }
    }

    /// LBPRZ as a promise.
    #[must_use]
    pub const fn unmapped_reads(&self) -> UnmappedReads {
        match self.lbprz {
            1 | 3 | 5 | 7 => UnmappedReads::Zeros,
            2 => UnmappedReads::Pattern,
            _ => UnmappedReads::Anything,
        }
    }
}

impl Emit for Provisioning {
    fn buffer_len(&self) -> usize {
        8
    }

    fn emit(&self, out: &mut [u8]) {
        let out = &mut out[..8];
        out.fill(0);
        out[1] = PAGE_PROVISIONING;
        put16(out, 2, 4);
        out[4] = self.threshold_exponent;
        out[5] = flag(self.unmap, 7)
            | flag(self.write_same_16, 6)
            | flag(self.write_same_10, 5)
            | (self.lbprz & 7) << 2
            | flag(self.anchor, 1);
        out[6] = self.kind & 7;
    }
}
