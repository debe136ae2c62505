//! What a logical unit is, as one path sees it, and whether two paths see the same one.
//!
//! Mental model: the administrator says which targets belong together; identity only ever refuses. A unit
//! has a set of names (VPD page 83h, association 0), one of which is chosen in a fixed order (the order of
//! multipath-tools) as its WWID. Two paths belong together when the chosen names are equal in type and bytes,
//! no other name contradicts, and everything else that must be the same *is* the same.
//!
//! A kind of name contradicts when each side has one that the other lacks; a side that merely has fewer
//! names is fine. Not compared: vendor-specific names (type 0) and unit groups, which are not unique in the
//! world, and locally assigned NAA names (3h) unless they are all there is: `tgtd` makes them from target and
//! LUN numbers, which may differ between the servers of a mirrored pair.
//!
//! Deliberately not here: how the data is asked for (`volume::probe`), and the content probe, without which
//! equal names prove little: every default `tgtd` reports the same ones.

use crate::limits::{BLOCK_SIZE_MAX, BLOCK_SIZE_MIN, DISCARD_MAX, TRANSFER_MAX};
use crate::wire::scsi::vpd::PortIdentity;
use crate::wire::scsi::{
    Association, BlockCharacteristics, BlockLimits, Capacity16, Control, Designator,
    DesignatorKind, DeviceType, Inquiry, Provisioning, UnmappedReads, printable,
};
use core::fmt;

/// Everything that was read about a unit, before it is judged.
#[derive(Debug, Clone)]
pub struct Findings {
    /// Standard INQUIRY data.
    pub inquiry: Inquiry,
    /// Page 83h, all associations.
    pub designators: Vec<Designator>,
    /// Page 80h, if it has one that is not blank.
    pub serial: Option<Vec<u8>>,
    /// Page B0h; all zero when there is none.
    pub limits: BlockLimits,
    /// Page B1h; all zero when there is none.
    pub characteristics: BlockCharacteristics,
    /// Page B2h, if there is one.
    pub provisioning: Option<Provisioning>,
    /// READ CAPACITY; from (10) when (16) is not supported.
    pub capacity: Capacity16,
    /// READ CAPACITY(16) worked, so 16-byte CDBs do.
    pub long_cdbs: bool,
    /// WCE; `true` when it could not be read.
    pub write_cache: bool,
    /// DPOFUA; `false` when it could not be read.
    pub dpofua: bool,
    /// WP; `false` when it could not be read.
    pub write_protect: bool,
    /// Control mode page, if it could be read.
    pub control: Option<Control>,
}

/// Why a unit cannot be used at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Another device type, or nothing at this LUN.
    #[error("not a usable disk: {0}")]
    DeviceType(DeviceType),
    /// Block size out of range or not a power of two.
    #[error(
        "block size {0} bytes is not supported (a power of two from {BLOCK_SIZE_MIN} to {BLOCK_SIZE_MAX} is)"
    )]
    BlockSize(u32),
    /// No blocks, or 2^63 bytes and more.
    #[error("capacity is out of range: last block {last_lba:#x} of {block_size} bytes")]
    Capacity {
        /// Last logical block as reported.
        last_lba: u64,
        /// Bytes per block.
        block_size: u32,
    },
}

/// A logical unit as one path sees it. All sizes were range-checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalUnit {
    inquiry: Inquiry,
    names: Vec<Designator>,
    chosen: Option<Designator>,
    wwid: Option<String>,
    port: PortIdentity,
    serial: Option<Vec<u8>>,
    limits: BlockLimits,
    characteristics: BlockCharacteristics,
    provisioning: Option<Provisioning>,
    capacity: Capacity16,
    size_bytes: u64,
    long_cdbs: bool,
    write_cache: bool,
    dpofua: bool,
    write_protect: bool,
    control: Option<Control>,
}

impl LogicalUnit {
    /// Judges what was read.
    ///
    /// # Errors
    /// Not a disk, a block size that is not supported, or a capacity of zero or of 2^63 bytes and more.
    pub fn new(found: Findings) -> Result<LogicalUnit, Unusable> {
        if !found.inquiry.device.is_disk() {
            return Err(Unusable::DeviceType(found.inquiry.device));
        }
        let Capacity16 { last_lba, block_size, .. } = found.capacity;
        if !block_size.is_power_of_two() || !(BLOCK_SIZE_MIN..=BLOCK_SIZE_MAX).contains(&block_size)
        {
            return Err(Unusable::BlockSize(block_size));
        }
        let size_bytes = last_lba
            .checked_add(1)
            .and_then(|blocks| blocks.checked_mul(block_size.into()))
            .filter(|bytes| *bytes <= i64::MAX.unsigned_abs())
            .ok_or(Unusable::Capacity { last_lba, block_size })?;
        let port = PortIdentity::find(&found.designators);
        let mut names = found.designators;
        names.retain(|d| d.association == Association::LogicalUnit);
        names.sort();
        names.dedup();
        let chosen = choose(&names).cloned();
        let wwid = chosen.as_ref().map(Designator::text);
        assert!(size_bytes > 0 && size_bytes.is_multiple_of(block_size.into()));
        Ok(LogicalUnit {
            inquiry: found.inquiry,
            names,
            chosen,
            wwid,
            port,
            serial: found.serial,
            limits: found.limits,
            characteristics: found.characteristics,
            provisioning: found.provisioning,
            capacity: found.capacity,
            size_bytes,
            long_cdbs: found.long_cdbs,
            write_cache: found.write_cache,
            dpofua: found.dpofua,
            write_protect: found.write_protect,
            control: found.control,
        })
    }

    /// The chosen name as administrators write it: `naa.6001…`, `eui.…`, `t10.…` or a SCSI name string.
    /// `None` when page 83h has no name that is unique in the world: such a unit has one path only.
    #[must_use]
    pub fn wwid(&self) -> Option<&str> {
        self.wwid.as_deref()
    }

    /// The chosen name.
    #[must_use]
    pub fn chosen(&self) -> Option<&Designator> {
        self.chosen.as_ref()
    }

    /// Every name of the unit, sorted.
    #[must_use]
    pub fn names(&self) -> &[Designator] {
        &self.names
    }

    /// Target port group and relative port of the path that was asked.
    #[must_use]
    pub fn port(&self) -> PortIdentity {
        self.port
    }

    /// Unit serial number, safe to print.
    #[must_use]
    pub fn serial(&self) -> Option<String> {
        self.serial.as_deref().map(printable)
    }

    /// Vendor, safe to print.
    #[must_use]
    pub fn vendor(&self) -> String {
        self.inquiry.vendor_text()
    }

    /// Product, safe to print.
    #[must_use]
    pub fn product(&self) -> String {
        self.inquiry.product_text()
    }

    /// Revision, safe to print.
    #[must_use]
    pub fn revision(&self) -> String {
        self.inquiry.revision_text()
    }

    /// Standard INQUIRY data.
    #[must_use]
    pub fn inquiry(&self) -> &Inquiry {
        &self.inquiry
    }

    /// Size in bytes: a multiple of the block size, above zero and below 2^63.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Logical blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.size_bytes / u64::from(self.capacity.block_size)
    }

    /// Bytes per logical block: a power of two from 512 to 65,536.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.capacity.block_size
    }

    /// Bytes per physical block, at most 64 MiB; at least a logical one.
    #[must_use]
    pub fn physical_block_size(&self) -> u64 {
        u64::from(self.block_size()) << self.capacity.physical_exponent.min(10)
    }

    /// TPGS: 0 no asymmetric access, 1 implicit, 2 explicit, 3 both.
    #[must_use]
    pub fn tpgs(&self) -> u8 {
        self.inquiry.tpgs
    }

    /// Whether the unit takes more than one command at a time (CMDQUE).
    #[must_use]
    pub fn queues_commands(&self) -> bool {
        self.inquiry.command_queueing
    }

    /// Whether 16-byte READ and WRITE may be used; without them, nothing beyond 32-bit LBAs exists.
    #[must_use]
    pub fn long_cdbs(&self) -> bool {
        self.long_cdbs
    }

    /// The same unit with this write protection: an administrator of the storage changed it.
    #[must_use]
    pub fn with_write_protection(&self, protected: bool) -> LogicalUnit {
        LogicalUnit { write_protect: protected, ..self.clone() }
    }

    /// The same unit with this many blocks: an administrator of the storage changed its size.
    ///
    /// # Panics
    /// When there are none, or more than were in range when the unit was judged.
    #[must_use]
    pub fn with_blocks(&self, blocks: u64) -> LogicalUnit {
        let size = blocks.checked_mul(self.block_size().into());
        let size_bytes = size.filter(|bytes| (1..=i64::MAX.unsigned_abs()).contains(bytes));
        let capacity = Capacity16 { last_lba: blocks.saturating_sub(1), ..self.capacity };
        let size_bytes = size_bytes.expect("a number of blocks that a unit was judged with");
        LogicalUnit { capacity, size_bytes, ..self.clone() }
    }

    /// Write protected, by hardware or software.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.write_protect
    }

    /// Whether acknowledged writes may sit in a volatile cache (WCE): a flush needs SYNCHRONIZE CACHE.
    #[must_use]
    pub fn write_cache(&self) -> bool {
        self.write_cache
    }

    /// Whether WRITE takes FUA; else a flush has to follow.
    #[must_use]
    pub fn dpofua(&self) -> bool {
        self.dpofua
    }

    /// Whether the medium is known to rotate.
    #[must_use]
    pub fn rotational(&self) -> bool {
        self.characteristics.rotates()
    }

    /// Control mode page: TAS, D_SENSE and the like, if it could be read.
    #[must_use]
    pub fn control(&self) -> Option<Control> {
        self.control
    }

    /// Blocks that one READ or WRITE moves at most; at least 1.
    #[must_use]
    pub fn max_transfer_blocks(&self) -> u32 {
        let ours = TRANSFER_MAX / self.block_size();
        let short = if self.long_cdbs { u32::MAX } else { u16::MAX.into() };
        or_unlimited(self.limits.max_transfer).min(ours).min(short)
    }

    /// The block size that a client should prefer: a power of two, at least 4096 and the physical block,
    /// at most what one READ moves.
    #[must_use]
    pub fn preferred_block_size(&self) -> u32 {
        let granularity = u64::from(self.limits.optimal_granularity) * u64::from(self.block_size());
        let wished = granularity.max(self.physical_block_size()).max(4096);
        // Rounded down to a power of two, then held between a block and what one READ moves.
        let wished = 1_u64 << wished.ilog2();
        let whole_transfer = u64::from(self.max_transfer_blocks()) * u64::from(self.block_size());
        let most = (1_u64 << whole_transfer.ilog2()).max(self.block_size().into());
        u32::try_from(wished.min(most)).unwrap_or(TRANSFER_MAX)
    }

    /// Limits of UNMAP with one range per command, or `None` when it is not supported.
    #[must_use]
    pub fn unmap(&self) -> Option<UnmapLimits> {
        let supported = self.capacity.provisioned && self.provisioning.is_some_and(|p| p.unmap);
        if !supported || self.limits.max_unmap_blocks == 0 || self.limits.max_unmap_descriptors == 0
        {
            return None;
        }
        let granularity = self.limits.unmap_granularity.max(1);
        Some(UnmapLimits {
            max_blocks: self.limits.max_unmap_blocks.min(DISCARD_MAX / self.block_size()),
            granularity,
            alignment: self.limits.unmap_alignment.unwrap_or(0) % granularity,
        })
    }

    /// Whether UNMAP may be sent.
    #[must_use]
    pub fn can_unmap(&self) -> bool {
        self.unmap().is_some()
    }

    /// Blocks that one WRITE SAME covers at most; at least 1. Whether the unit takes WRITE SAME at all is
    /// only known once it has refused one.
    #[must_use]
    pub fn max_write_same_blocks(&self) -> u32 {
        let ours = DISCARD_MAX / self.block_size();
        let short = if self.long_cdbs { u32::MAX } else { u16::MAX.into() };
        let theirs = u32::try_from(self.limits.max_write_same).unwrap_or(u32::MAX);
        or_unlimited(theirs).min(ours).min(short)
    }

    /// Whether WRITE SAME(16) with UNMAP=1 is supported.
    #[must_use]
    pub fn can_write_same_unmap(&self) -> bool {
        self.capacity.provisioned
            && self.long_cdbs
            && self.provisioning.is_some_and(|p| p.write_same_16)
    }

    /// Whether unmapped blocks read as zeros, which READ CAPACITY(16) and page B2h must agree on.
    #[must_use]
    pub fn unmapped_reads_zero(&self) -> bool {
        self.capacity.unmapped_zero
            && self.provisioning.is_some_and(|p| p.unmapped_reads() == UnmappedReads::Zeros)
    }

    /// Whether zeroing may deallocate: WRITE SAME of zeros with UNMAP=1. Also what makes zeroing fast.
    #[must_use]
    pub fn can_zero_by_unmap(&self) -> bool {
        self.can_write_same_unmap() && self.unmapped_reads_zero()
    }

    /// Whether NDOB=1 may stand for a block of zeros: not where unmapped blocks get a pattern.
    #[must_use]
    pub fn ndob_means_zero(&self) -> bool {
        self.provisioning.is_none_or(|p| p.unmapped_reads() != UnmappedReads::Pattern)
    }

    /// Whether GET LBA STATUS makes sense: only a unit that can deallocate has something to tell.
    #[must_use]
    pub fn can_report_provisioning(&self) -> bool {
        self.capacity.provisioned && self.long_cdbs
    }

    /// Blocks that COMPARE AND WRITE takes; 0 when it is not supported.
    #[must_use]
    pub fn max_compare_and_write_blocks(&self) -> u8 {
        self.limits.max_compare_and_write
    }
}

/// A limit where zero means "not reported".
const fn or_unlimited(limit: u32) -> u32 {
    if limit == 0 { u32::MAX } else { limit }
}

/// How UNMAP may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnmapLimits {
    /// Blocks per command; at least 1.
    pub max_blocks: u32,
    /// Blocks that are deallocated together; at least 1.
    pub granularity: u32,
    /// The first block of a granule, below `granularity`.
    pub alignment: u32,
}

impl UnmapLimits {
    /// The whole granules inside `blocks` blocks from `lba`: ragged edges stay mapped, which UNMAP allows.
    /// `None` when there is no whole granule.
    #[must_use]
    pub fn whole_granules(&self, lba: u64, blocks: u64) -> Option<(u64, u64)> {
        let (granularity, alignment) = (u64::from(self.granularity), u64::from(self.alignment));
        let end = lba.checked_add(blocks)?;
        let up = |block: u64| {
            let past = block.checked_sub(alignment);
            match past {
                None => Some(alignment),
                Some(past) => past.checked_next_multiple_of(granularity)?.checked_add(alignment),
            }
        };
        let from = up(lba)?;
        let to = end.checked_sub(alignment).map(|past| past - past % granularity + alignment)?;
        if from < to { Some((from, to - from)) } else { None }
    }
}

/// How good a name is: lower is better; `None` never joins paths.
fn rank(d: &Designator) -> Option<u8> {
    let first = d.value.first().copied()?;
    match (d.kind, d.value.len()) {
        (DesignatorKind::Naa, 16) if first >> 4 == 6 => Some(0),
        (DesignatorKind::Naa, 8) if first >> 4 == 5 => Some(1),
        (DesignatorKind::Naa, 8) if first >> 4 == 2 => Some(2),
        (DesignatorKind::Eui64, 16) => Some(3),
        (DesignatorKind::Eui64, 12) => Some(4),
        (DesignatorKind::Eui64, 8) => Some(5),
        (DesignatorKind::Name, _) if name_prefix(&d.value).is_some() => Some(6),
        (DesignatorKind::Uuid, _) => Some(7),
        (DesignatorKind::T10, 9..) => Some(8),
        (DesignatorKind::Naa, 8) if first >> 4 == 3 => Some(9),
        _ => None,
    }
}

const RANK_LOCAL: u8 = 9;

/// `eui.`, `naa.` or `iqn.` in lower case, if that is how the name begins.
fn name_prefix(name: &[u8]) -> Option<[u8; 4]> {
    let mut prefix: [u8; 4] = *name.first_chunk()?;
    prefix.make_ascii_lowercase();
    (name.len() > 4 && matches!(&prefix, b"eui." | b"naa." | b"iqn.")).then_some(prefix)
}

/// The best name; of several equally good ones the first in byte order, so that every path picks the same.
fn choose(names: &[Designator]) -> Option<&Designator> {
    names.iter().filter_map(|d| Some((rank(d)?, d))).min().map(|(_, d)| d)
}

/// Something that two paths of one device must have in common and have not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// A side has no name to join by.
    #[error(
        "{side} has no name to join paths by (VPD page 83h names no logical unit by NAA, EUI-64, SCSI name \
         or T10 vendor ID)"
    )]
    NoName {
        /// Which side.
        side: Side,
    },
    /// A property differs.
    #[error("{what} differs: the device has {device}, this path {path}")]
    Differs {
        /// Which property.
        what: &'static str,
        /// The device's value.
        device: String,
        /// The path's value.
        path: String,
    },
}

/// A side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What the first path found.
    Device,
    /// What the new path found.
    Path,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Device => "the device",
            Side::Path => "this path",
        })
    }
}

/// Whether `path` shows the same unit as `device`, as far as names and properties can tell.
///
/// # Errors
/// The first thing that differs, with both values.
pub fn compare(device: &LogicalUnit, path: &LogicalUnit) -> Result<(), Mismatch> {
    compare_names(device, path)?;
    compare_properties(device, path)
}

/// Whether the unit that `again` shows on a path is the one that `before` was: for a path that comes back.
/// Unlike [`compare`] it accepts a unit without a name, if everything else is the same.
///
/// # Errors
/// The first thing that differs, with both values.
pub fn compare_again(before: &LogicalUnit, again: &LogicalUnit) -> Result<(), Mismatch> {
    let nameless = before.chosen.is_none() && again.chosen.is_none();
    if nameless && before.names == again.names {
        return compare_properties(before, again);
    }
    compare(before, again)
}

fn compare_properties(device: &LogicalUnit, path: &LogicalUnit) -> Result<(), Mismatch> {
    if let (Some(a), Some(b)) = (&device.serial, &path.serial) {
        same("unit serial number", a, b, |s| format!("\"{}\"", printable(s)))?;
    }
    let kind = |unit: &LogicalUnit| unit.inquiry.device;
    same("device type", &kind(device), &kind(path), DeviceType::to_string)?;
    same("block size", &device.block_size(), &path.block_size(), |b| format!("{b} bytes"))?;
    same("capacity", &device.size_bytes, &path.size_bytes, |b| format!("{b} bytes"))?;
    same("write protection", &device.write_protect, &path.write_protect, |protected| {
        (if *protected { "read-only" } else { "writable" }).to_owned()
    })
}

fn compare_names(device: &LogicalUnit, path: &LogicalUnit) -> Result<(), Mismatch> {
    let a = device.chosen.as_ref().ok_or(Mismatch::NoName { side: Side::Device })?;
    let b = path.chosen.as_ref().ok_or(Mismatch::NoName { side: Side::Path })?;
    // The code set is how a name is written, not what it says.
    let is_same = a.kind == b.kind && a.value == b.value;
    if !is_same {
        let (device, path) = (a.text(), b.text());
        return Err(Mismatch::Differs { what: "identity (WWID)", device, path });
    }
    // Names of one class contradict when each side has one that the other lacks.
    let lacking = |from: &LogicalUnit, other: &LogicalUnit| -> Vec<Designator> {
        let is_lacking = |d: &&Designator| {
            class(d).is_some()
                && !other.names.iter().any(|o| o.kind == d.kind && o.value == d.value)
        };
        from.names.iter().filter(is_lacking).cloned().collect()
    };
    let theirs = lacking(path, device);
    for ours in lacking(device, path) {
        if let Some(other) = theirs.iter().find(|d| class(d) == class(&ours)) {
            let (device, path) = (ours.text(), other.text());
            return Err(Mismatch::Differs { what: "another name of the unit", device, path });
        }
    }
    Ok(())
}

/// Which names can contradict each other: the same rank and, for SCSI name strings, the same prefix.
fn class(d: &Designator) -> Option<(u8, [u8; 4])> {
    let rank = rank(d).filter(|rank| *rank != RANK_LOCAL)?;
    let prefix = match d.kind {
        DesignatorKind::Name => name_prefix(&d.value),
        _ => None,
    };
    Some((rank, prefix.unwrap_or_default()))
}

fn same<T: PartialEq>(
    what: &'static str,
    device: &T,
    path: &T,
    text: impl Fn(&T) -> String,
) -> Result<(), Mismatch> {
    if device == path {
        return Ok(());
    }
    Err(Mismatch::Differs { what, device: text(device), path: text(path) })
}

#[cfg(test)]
mod tests;
