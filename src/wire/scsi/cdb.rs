//! Command descriptor blocks: the commands of a block initiator, built without allocation and parsed back
//! for the embedded target.
//!
//! Every CDB is `[u8; 16]`, zero-padded: the CDB field of a SCSI Command PDU (RFC 7143 section 11.3.5).
//! Control byte, group number and protection are always zero in what is built; parsing keeps what
//! matters to a device server and says which byte it cannot accept.
//!
//! Deliberately not here: 6-, 12- and 32-byte READ/WRITE, VERIFY, and everything that changes mode pages.

use crate::wire::scsi::field::{be16, be32, be64, bit, flag, put16, put32, put64};

/// Operation codes (SPC-4, SBC-3).
pub mod op {
    /// TEST UNIT READY.
    pub const TEST_UNIT_READY: u8 = 0x00;
    /// REQUEST SENSE.
    pub const REQUEST_SENSE: u8 = 0x03;
    /// INQUIRY.
    pub const INQUIRY: u8 = 0x12;
    /// MODE SENSE(6).
    pub const MODE_SENSE_6: u8 = 0x1a;
    /// READ CAPACITY(10).
    pub const READ_CAPACITY_10: u8 = 0x25;
    /// READ(10).
    pub const READ_10: u8 = 0x28;
    /// WRITE(10).
    pub const WRITE_10: u8 = 0x2a;
    /// SYNCHRONIZE CACHE(10).
    pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    /// WRITE SAME(10).
    pub const WRITE_SAME_10: u8 = 0x41;
    /// UNMAP.
    pub const UNMAP: u8 = 0x42;
    /// MODE SENSE(10).
    pub const MODE_SENSE_10: u8 = 0x5a;
    /// READ(16).
    pub const READ_16: u8 = 0x88;
    /// COMPARE AND WRITE.
    pub const COMPARE_AND_WRITE: u8 = 0x89;
    /// WRITE(16).
    pub const WRITE_16: u8 = 0x8a;
    /// SYNCHRONIZE CACHE(16).
    pub const SYNCHRONIZE_CACHE_16: u8 = 0x91;
    /// WRITE SAME(16).
    pub const WRITE_SAME_16: u8 = 0x93;
    /// SERVICE ACTION IN(16): READ CAPACITY(16) and GET LBA STATUS.
    pub const SERVICE_ACTION_IN_16: u8 = 0x9e;
    /// REPORT LUNS.
    pub const REPORT_LUNS: u8 = 0xa0;
    /// MAINTENANCE IN: REPORT TARGET PORT GROUPS.
    pub const MAINTENANCE_IN: u8 = 0xa3;
    /// MAINTENANCE OUT: SET TARGET PORT GROUPS.
    pub const MAINTENANCE_OUT: u8 = 0xa4;
}

const SA_READ_CAPACITY_16: u8 = 0x10;
const SA_GET_LBA_STATUS: u8 = 0x12;
/// REPORT TARGET PORT GROUPS in, SET TARGET PORT GROUPS out.
const SA_TARGET_PORT_GROUPS: u8 = 0x0a;

/// Which form of a command: the 10-byte one reaches LBA FFFFFFFFh and 65,535 blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Width {
    /// 10-byte CDB.
    Ten,
    /// 16-byte CDB.
    Sixteen,
}

impl Width {
    /// The short form where it can express the range (SBC-3: READ(10) and relatives), else the long one.
    #[must_use]
    pub const fn for_range(lba: u64, blocks: u32) -> Width {
        if lba <= u32::MAX as u64 && blocks <= u16::MAX as u32 {
            Width::Ten
        } else {
            Width::Sixteen
        }
    }
}

/// READ, WRITE and COMPARE AND WRITE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transfer {
    /// CDB form.
    pub width: Width,
    /// First logical block.
    pub lba: u64,
    /// Logical blocks; 0 transfers nothing and is never sent by the initiator.
    pub blocks: u32,
    /// Force unit access.
    pub fua: bool,
    /// Disable page out: a hint.
    pub dpo: bool,
    /// RDPROTECT or WRPROTECT, 3 bits.
    pub protect: u8,
}

impl Transfer {
    /// A plain transfer in the shortest form.
    #[must_use]
    pub const fn new(lba: u64, blocks: u32) -> Transfer {
        Transfer {
            width: Width::for_range(lba, blocks),
            lba,
            blocks,
            fua: false,
            dpo: false,
            protect: 0,
        }
    }
}

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cdb {
    /// TEST UNIT READY.
    TestUnitReady,
    /// REQUEST SENSE.
    RequestSense {
        /// DESC: descriptor format is asked for.
        descriptor: bool,
        /// Allocation length, bytes.
        allocation: u8,
    },
    /// INQUIRY.
    Inquiry {
        /// EVPD=1 and this page; `None` is standard INQUIRY data.
        vpd: Option<u8>,
        /// Allocation length, bytes.
        allocation: u16,
    },
    /// REPORT LUNS.
    ReportLuns {
        /// SELECT REPORT: 0 normally, 2 with well-known units.
        select: u8,
        /// Allocation length, bytes; at least 16.
        allocation: u32,
    },
    /// READ CAPACITY(10).
    ReadCapacity10,
    /// READ CAPACITY(16).
    ReadCapacity16 {
        /// Allocation length, bytes.
        allocation: u32,
    },
    /// MODE SENSE(6) or (10).
    ModeSense {
        /// The 6-byte form.
        six: bool,
        /// DBD: no block descriptors.
        dbd: bool,
        /// Page control: 0 current values.
        control: u8,
        /// Page code; 3Fh is all pages.
        page: u8,
        /// Subpage code.
        subpage: u8,
        /// Allocation length, bytes; at most 255 in the short form.
        allocation: u16,
    },
    /// READ(10) or (16).
    Read(Transfer),
    /// WRITE(10) or (16).
    Write(Transfer),
    /// COMPARE AND WRITE; at most 255 blocks, always [`Width::Sixteen`].
    CompareAndWrite(Transfer),
    /// SYNCHRONIZE CACHE(10) or (16); 0 blocks is up to the end of the medium.
    SynchronizeCache {
        /// CDB form.
        width: Width,
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u32,
        /// IMMED: answered before it is done; never set by the initiator.
        immed: bool,
    },
    /// UNMAP.
    Unmap {
        /// ANCHOR.
        anchor: bool,
        /// Parameter list length, bytes.
        list_len: u16,
    },
    /// WRITE SAME(10) or (16); 0 blocks is up to the end of the medium and never sent by the initiator.
    WriteSame {
        /// CDB form.
        width: Width,
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u32,
        /// UNMAP: the blocks may be deallocated instead of written.
        unmap: bool,
        /// ANCHOR.
        anchor: bool,
        /// NDOB: no data-out buffer, zeros; only in the long form.
        ndob: bool,
        /// WRPROTECT, 3 bits.
        protect: u8,
    },
    /// GET LBA STATUS.
    GetLbaStatus {
        /// Starting block.
        lba: u64,
        /// Allocation length, bytes.
        allocation: u32,
    },
    /// REPORT TARGET PORT GROUPS.
    ReportTargetPortGroups {
        /// PARAMETER DATA FORMAT 001b: with the extended header.
        extended: bool,
        /// Allocation length, bytes.
        allocation: u32,
    },
    /// SET TARGET PORT GROUPS.
    SetTargetPortGroups {
        /// Parameter list length, bytes.
        list_len: u32,
    },
}

/// Bytes that move with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Data {
    /// None.
    None,
    /// At most this many bytes come.
    In(u64),
    /// Exactly this many bytes go.
    Out(u64),
}

/// Why a device server cannot take a CDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CdbError {
    /// 05/20/00.
    #[error("operation code {0:#04x} is not supported")]
    Opcode(u8),
    /// 05/24/00 with a field pointer.
    #[error("CDB byte {byte} holds a value that is not supported")]
    Field {
        /// Offset of the byte.
        byte: u16,
    },
}

impl Cdb {
    /// The initiator's SYNCHRONIZE CACHE for a flush: LBA 0, count 0 (all blocks), IMMED=0.
    #[must_use]
    pub const fn flush(width: Width) -> Cdb {
        Cdb::SynchronizeCache { width, lba: 0, blocks: 0, immed: false }
    }

    /// MODE SENSE for the current values of `page`, without block descriptors.
    #[must_use]
    pub const fn mode_sense(six: bool, page: u8, allocation: u16) -> Cdb {
        Cdb::ModeSense { six, dbd: true, control: 0, page, subpage: 0, allocation }
    }

    /// The 16 bytes of the PDU's CDB field.
    ///
    /// # Panics
    /// When a short form is asked to carry what it cannot: the caller picks the form by
    /// [`Width::for_range`].
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 16] {
        let mut cdb = [0; 16];
        match *self {
            Cdb::TestUnitReady => {}
            Cdb::RequestSense { descriptor, allocation } => {
                cdb[0] = op::REQUEST_SENSE;
                cdb[1] = flag(descriptor, 0);
                cdb[4] = allocation;
            }
            Cdb::Inquiry { vpd, allocation } => {
                cdb[0] = op::INQUIRY;
                cdb[1] = flag(vpd.is_some(), 0);
                cdb[2] = vpd.unwrap_or(0);
                put16(&mut cdb, 3, allocation);
            }
            Cdb::ReportLuns { select, allocation } => {
                cdb[0] = op::REPORT_LUNS;
                cdb[2] = select;
                put32(&mut cdb, 6, allocation);
            }
            Cdb::ReadCapacity10 => cdb[0] = op::READ_CAPACITY_10,
            Cdb::ReadCapacity16 { allocation } => {
                service_action_in(&mut cdb, SA_READ_CAPACITY_16, 0, allocation);
            }
            Cdb::GetLbaStatus { lba, allocation } => {
                service_action_in(&mut cdb, SA_GET_LBA_STATUS, lba, allocation);
            }
            Cdb::ModeSense { .. } => self.mode_sense_bytes(&mut cdb),
            Cdb::Read(t) => transfer(&mut cdb, op::READ_10, op::READ_16, t),
            Cdb::Write(t) => transfer(&mut cdb, op::WRITE_10, op::WRITE_16, t),
            Cdb::CompareAndWrite(t) => {
                assert!(t.width == Width::Sixteen && t.blocks <= 0xff, "COMPARE AND WRITE range");
                transfer(&mut cdb, 0, op::COMPARE_AND_WRITE, t);
            }
            Cdb::SynchronizeCache { width, lba, blocks, immed } => {
                cdb[0] = by_width(width, op::SYNCHRONIZE_CACHE_10, op::SYNCHRONIZE_CACHE_16);
                cdb[1] = flag(immed, 1);
                range(&mut cdb, width, lba, blocks);
            }
            Cdb::Unmap { anchor, list_len } => {
                cdb[0] = op::UNMAP;
                cdb[1] = flag(anchor, 0);
                put16(&mut cdb, 7, list_len);
            }
            Cdb::WriteSame { width, lba, blocks, unmap, anchor, ndob, protect } => {
                assert!(!ndob || width == Width::Sixteen, "NDOB exists in WRITE SAME(16) only");
                cdb[0] = by_width(width, op::WRITE_SAME_10, op::WRITE_SAME_16);
                cdb[1] = protect << 5 | flag(anchor, 4) | flag(unmap, 3) | flag(ndob, 0);
                range(&mut cdb, width, lba, blocks);
            }
            Cdb::ReportTargetPortGroups { extended, allocation } => {
                cdb[0] = op::MAINTENANCE_IN;
                cdb[1] = flag(extended, 5) | SA_TARGET_PORT_GROUPS;
                put32(&mut cdb, 6, allocation);
            }
            Cdb::SetTargetPortGroups { list_len } => {
                cdb[0] = op::MAINTENANCE_OUT;
                cdb[1] = SA_TARGET_PORT_GROUPS;
                put32(&mut cdb, 6, list_len);
            }
        }
        cdb
    }

    fn mode_sense_bytes(&self, cdb: &mut [u8; 16]) {
        let Cdb::ModeSense { six, dbd, control, page, subpage, allocation } = *self else { return };
        cdb[0] = if six { op::MODE_SENSE_6 } else { op::MODE_SENSE_10 };
        cdb[1] = flag(dbd, 3);
        cdb[2] = control << 6 | page & 0x3f;
        cdb[3] = subpage;
        if six {
            cdb[4] = u8::try_from(allocation).unwrap_or(u8::MAX);
        } else {
            put16(cdb, 7, allocation);
        }
    }

    /// Bytes of the CDB proper, by the group code of its operation code (SPC-4, Operation code).
    #[must_use]
    pub fn len(&self) -> usize {
        match self.to_bytes()[0] >> 5 {
            0 => 6,
            1 | 2 => 10,
            4 => 16,
            _ => 12,
        }
    }

    /// Never: a CDB has at least 6 bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Direction and number of bytes that the command moves on a unit with blocks of `block_size` bytes.
    #[must_use]
    pub fn data(&self, block_size: u32) -> Data {
        let bytes = |blocks: u32| u64::from(blocks) * u64::from(block_size);
        match *self {
            Cdb::TestUnitReady | Cdb::SynchronizeCache { .. } => Data::None,
            Cdb::RequestSense { allocation, .. } => Data::In(allocation.into()),
            Cdb::Inquiry { allocation, .. } => Data::In(allocation.into()),
            Cdb::ModeSense { allocation, .. } => Data::In(allocation.into()),
            Cdb::ReportLuns { allocation, .. }
            | Cdb::ReadCapacity16 { allocation }
            | Cdb::GetLbaStatus { allocation, .. }
            | Cdb::ReportTargetPortGroups { allocation, .. } => Data::In(allocation.into()),
            Cdb::ReadCapacity10 => Data::In(8),
            Cdb::Read(t) => Data::In(bytes(t.blocks)),
            Cdb::Write(t) => Data::Out(bytes(t.blocks)),
            Cdb::CompareAndWrite(t) => Data::Out(2 * bytes(t.blocks)),
            Cdb::Unmap { list_len, .. } => Data::Out(list_len.into()),
            Cdb::SetTargetPortGroups { list_len } => Data::Out(list_len.into()),
            Cdb::WriteSame { ndob: true, .. } => Data::None,
            Cdb::WriteSame { .. } => Data::Out(block_size.into()),
        }
    }

    /// Whether executing it changes the medium (or may): what write ownership has to know.
    #[must_use]
    pub const fn changes_medium(&self) -> bool {
        match self {
            Cdb::Write(_) | Cdb::CompareAndWrite(_) | Cdb::Unmap { .. } | Cdb::WriteSame { .. } => {
                true
            }
            Cdb::TestUnitReady
            | Cdb::RequestSense { .. }
            | Cdb::Inquiry { .. }
            | Cdb::ReportLuns { .. }
            | Cdb::ReadCapacity10
            | Cdb::ReadCapacity16 { .. }
            | Cdb::ModeSense { .. }
            | Cdb::Read(_)
            | Cdb::SynchronizeCache { .. }
            | Cdb::GetLbaStatus { .. }
            | Cdb::ReportTargetPortGroups { .. }
            | Cdb::SetTargetPortGroups { .. } => false,
        }
    }

    /// Reads the 16 bytes of a CDB field.
    ///
    /// # Errors
    /// An operation code or field that no device of this project supports; the caller turns it into sense.
    pub fn parse(cdb: &[u8; 16]) -> Result<Cdb, CdbError> {
        let parsed = match cdb[0] {
            op::TEST_UNIT_READY => Cdb::TestUnitReady,
            op::REQUEST_SENSE => {
                Cdb::RequestSense { descriptor: bit(cdb, 1, 0), allocation: cdb[4] }
            }
            op::INQUIRY => parse_inquiry(cdb)?,
            op::REPORT_LUNS => Cdb::ReportLuns { select: cdb[2], allocation: be32(cdb, 6) },
            op::READ_CAPACITY_10 => Cdb::ReadCapacity10,
            op::SERVICE_ACTION_IN_16 => parse_service_action_in(cdb)?,
            op::MODE_SENSE_6 | op::MODE_SENSE_10 => parse_mode_sense(cdb),
            op::READ_10 | op::READ_16 => Cdb::Read(parse_transfer(cdb)),
            op::WRITE_10 | op::WRITE_16 => Cdb::Write(parse_transfer(cdb)),
            op::COMPARE_AND_WRITE => {
                Cdb::CompareAndWrite(Transfer { blocks: cdb[13].into(), ..parse_transfer(cdb) })
            }
            op::SYNCHRONIZE_CACHE_10 | op::SYNCHRONIZE_CACHE_16 => {
                let (width, lba, blocks) = parse_range(cdb);
                Cdb::SynchronizeCache { width, lba, blocks, immed: bit(cdb, 1, 1) }
            }
            op::UNMAP => Cdb::Unmap { anchor: bit(cdb, 1, 0), list_len: be16(cdb, 7) },
            op::WRITE_SAME_10 | op::WRITE_SAME_16 => parse_write_same(cdb),
            op::MAINTENANCE_IN => parse_maintenance_in(cdb)?,
            op::MAINTENANCE_OUT if cdb[1] & 0x1f == SA_TARGET_PORT_GROUPS => {
                Cdb::SetTargetPortGroups { list_len: be32(cdb, 6) }
            }
            op::MAINTENANCE_OUT => return Err(CdbError::Field { byte: 1 }),
            other => return Err(CdbError::Opcode(other)),
        };
        Ok(parsed)
    }
}

const fn by_width(width: Width, ten: u8, sixteen: u8) -> u8 {
    match width {
        Width::Ten => ten,
        Width::Sixteen => sixteen,
    }
}

fn service_action_in(cdb: &mut [u8; 16], action: u8, lba: u64, allocation: u32) {
    cdb[0] = op::SERVICE_ACTION_IN_16;
    cdb[1] = action;
    put64(cdb, 2, lba);
    put32(cdb, 10, allocation);
}

fn range(cdb: &mut [u8; 16], width: Width, lba: u64, blocks: u32) {
    match width {
        Width::Ten => {
            put32(cdb, 2, u32::try_from(lba).expect("a 10-byte CDB holds a 32-bit LBA"));
            put16(cdb, 7, u16::try_from(blocks).expect("a 10-byte CDB holds 16 bits of length"));
        }
        Width::Sixteen => {
            put64(cdb, 2, lba);
            put32(cdb, 10, blocks);
        }
    }
}

fn transfer(cdb: &mut [u8; 16], ten: u8, sixteen: u8, t: Transfer) {
    cdb[0] = by_width(t.width, ten, sixteen);
    cdb[1] = t.protect << 5 | flag(t.dpo, 4) | flag(t.fua, 3);
    range(cdb, t.width, t.lba, t.blocks);
}

fn parse_range(cdb: &[u8; 16]) -> (Width, u64, u32) {
    if cdb[0] >> 5 == 4 {
        (Width::Sixteen, be64(cdb, 2), be32(cdb, 10))
    } else {
        (Width::Ten, be32(cdb, 2).into(), be16(cdb, 7).into())
    }
}

fn parse_transfer(cdb: &[u8; 16]) -> Transfer {
    let (width, lba, blocks) = parse_range(cdb);
    let (fua, dpo) = (bit(cdb, 1, 3), bit(cdb, 1, 4));
    Transfer { width, lba, blocks, fua, dpo, protect: cdb[1] >> 5 }
}

fn parse_inquiry(cdb: &[u8; 16]) -> Result<Cdb, CdbError> {
    let vpd = if bit(cdb, 1, 0) { Some(cdb[2]) } else { None };
    if vpd.is_none() && cdb[2] != 0 {
        return Err(CdbError::Field { byte: 2 });
    }
    Ok(Cdb::Inquiry { vpd, allocation: be16(cdb, 3) })
}

fn parse_mode_sense(cdb: &[u8; 16]) -> Cdb {
    let six = cdb[0] == op::MODE_SENSE_6;
    Cdb::ModeSense {
        six,
        dbd: bit(cdb, 1, 3),
        control: cdb[2] >> 6,
        page: cdb[2] & 0x3f,
        subpage: cdb[3],
        allocation: if six { cdb[4].into() } else { be16(cdb, 7) },
    }
}

fn parse_write_same(cdb: &[u8; 16]) -> Cdb {
    let (width, lba, blocks) = parse_range(cdb);
    Cdb::WriteSame {
        width,
        lba,
        blocks,
        unmap: bit(cdb, 1, 3),
        anchor: bit(cdb, 1, 4),
        ndob: width == Width::Sixteen && bit(cdb, 1, 0),
        protect: cdb[1] >> 5,
    }
}

fn parse_service_action_in(cdb: &[u8; 16]) -> Result<Cdb, CdbError> {
    let (lba, allocation) = (be64(cdb, 2), be32(cdb, 10));
    match cdb[1] & 0x1f {
        SA_READ_CAPACITY_16 => Ok(Cdb::ReadCapacity16 { allocation }),
        SA_GET_LBA_STATUS => Ok(Cdb::GetLbaStatus { lba, allocation }),
        _ => Err(CdbError::Field { byte: 1 }),
    }
}

fn parse_maintenance_in(cdb: &[u8; 16]) -> Result<Cdb, CdbError> {
    let allocation = be32(cdb, 6);
    match (cdb[1] & 0x1f, cdb[1] >> 5) {
        (SA_TARGET_PORT_GROUPS, 0) => {
            Ok(Cdb::ReportTargetPortGroups { extended: false, allocation })
        }
        (SA_TARGET_PORT_GROUPS, 1) => {
            Ok(Cdb::ReportTargetPortGroups { extended: true, allocation })
        }
        _ => Err(CdbError::Field { byte: 1 }),
    }
}
