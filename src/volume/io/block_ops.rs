//! TRIM, WRITE_ZEROES and BLOCK_STATUS in terms of UNMAP, WRITE SAME and GET LBA STATUS.
//!
//! UNMAP is advice and never used to write zeros; WRITE SAME with UNMAP is, where the unit promises zeros
//! (LBPRZ). A form that the unit refuses is not tried again ([`crate::volume::shared::Shared`]).

use crate::base::Payload;
use crate::export::Reply;
use crate::path::identity::LogicalUnit;
use crate::volume::Volume;
use crate::volume::request::{Request, Verb};
use crate::volume::shared::Optional;
use crate::wire::nbd::extent_flags;
use crate::wire::nbd::reply::Extent;
use crate::wire::scsi::lba_status::{self, Provision};
use bytes::Bytes;

/// Bytes per WRITE SAME or UNMAP: longer ones are split, so that one request cannot hang a target.
const SLOW_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Allocation length of GET LBA STATUS: header and 64 descriptors.
pub(in crate::volume) const LBA_STATUS_LEN: u32 = 8 + 64 * 16;

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// `len` zero bytes without memory of their own.
pub(in crate::volume) fn zeros(len: usize) -> Payload {
    let mut payload = Payload::new();
    let mut rest = len;
    while rest > 0 {
        let piece = rest.min(ZEROS.len());
        payload.push(Bytes::from_static(&ZEROS[..piece]));
        rest -= piece;
    }
    payload
}

fn slow_blocks(unit: &LogicalUnit) -> u32 {
    (SLOW_BYTES_MAX / u64::from(unit.block_size())).max(1) as u32
}

/// Blocks per WRITE SAME.
pub(in crate::volume) fn write_same_step(unit: &LogicalUnit) -> u32 {
    slow_blocks(unit).min(unit.max_write_same_blocks())
}

/// Blocks per UNMAP, in whole granules.
pub(in crate::volume) fn unmap_step(unit: &LogicalUnit) -> u32 {
    let limits = unit.unmap();
    let (most, granule) = limits.map_or((1, 1), |l| (l.max_blocks, l.granularity));
    let step = slow_blocks(unit).min(most);
    if step > granule { step - step % granule } else { step }
}

/// How a WRITE_ZEROES of this unit is begun.
pub(in crate::volume) fn zero_verb(v: &Volume, no_hole: bool, fast: bool) -> Verb {
    let unit = v.unit.as_deref().expect("an export is open only when its unit is known");
    let unmap = !no_hole && unit.can_zero_by_unmap() && v.shared.may(Optional::UnmapZeroing);
    Verb::Zero { same: unmap || v.shared.may(Optional::WriteSame), unmap, fast }
}

/// Whether zeroing is faster than writing: what FAST_ZERO asks.
pub(in crate::volume) fn zero_is_fast(verb: Verb) -> bool {
    matches!(verb, Verb::Zero { same: true, .. })
}

/// The part of a TRIM that the unit can unmap: whole granules inside the range, as first block and one
/// behind the last.
pub(in crate::volume) fn trim_range(v: &Volume, offset: u64, len: u64) -> Option<(u64, u64)> {
    let unit = v.unit.as_deref()?;
    let limits = unit.unmap().filter(|_| v.shared.may(Optional::Unmap))?;
    let size = u64::from(unit.block_size());
    let (first, end) = (offset.div_ceil(size), (offset + len) / size);
    let (first, blocks) = limits.whole_granules(first, end.checked_sub(first)?)?;
    Some((first, first + blocks))
}

/// The answer to BLOCK_STATUS (base:allocation) from GET LBA STATUS. No extents: not known.
pub(in crate::volume) fn extents(unit: Option<&LogicalUnit>, request: &Request) -> Reply {
    let Some((unit, (_, data))) = unit.zip(request.pieces.first()) else {
        return Reply::Extents(Vec::new());
    };
    let size = u64::from(unit.block_size());
    let end = request.offset + request.len;
    let hole = match unit.unmapped_reads_zero() {
        true => extent_flags::HOLE | extent_flags::ZERO,
        false => extent_flags::HOLE,
    };
    let mut out: Vec<Extent> = Vec::new();
    for run in lba_status::contiguous(&data.to_vec(), request.first) {
        let from = run.lba.saturating_mul(size).max(request.offset);
        let to = run.lba.saturating_add(run.blocks.into()).saturating_mul(size).min(end);
        if from >= to {
            continue;
        }
        let flags = match run.provision {
            Provision::Deallocated => hole,
            Provision::Mapped | Provision::Anchored => 0,
        };
        match out.last_mut() {
            Some(last) if last.flags == flags => last.len += to - from,
            _ => out.push(Extent { len: to - from, flags }),
        }
    }
    Reply::Extents(out)
}
