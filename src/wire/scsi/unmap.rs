//! UNMAP parameter list (SBC-3, UNMAP).

use crate::wire::scsi::field::{be16, be32, be64, put16, put32, put64};

/// Bytes of a parameter list with one descriptor.
pub const ONE_RANGE_LEN: usize = 24;

/// A parameter list with one range: all that an NBD TRIM needs, without allocation.
#[must_use]
pub fn one_range(lba: u64, blocks: u32) -> [u8; ONE_RANGE_LEN] {
    let mut list = [0; ONE_RANGE_LEN];
    put16(&mut list, 0, 22);
    put16(&mut list, 2, 16);
    put64(&mut list, 8, lba);
    put32(&mut list, 16, blocks);
    list
}

/// Reads the ranges of a parameter list as a device server does: UNMAP BLOCK DESCRIPTOR DATA LENGTH
/// bounds them, a partial descriptor at the end is ignored. `None` for less than a header, unless it is
/// empty (which unmaps nothing).
#[must_use]
pub fn ranges(list: &[u8]) -> Option<impl Iterator<Item = (u64, u32)> + '_> {
    if !list.is_empty() && list.len() < 8 {
        return None;
    }
    let body = list.get(8..).unwrap_or(&[]);
    let body = &body[..body.len().min(be16(list, 2).into())];
    Some(body.chunks_exact(16).map(|entry| (be64(entry, 0), be32(entry, 8))))
}
