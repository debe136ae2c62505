//! READ and WRITE: splitting to the unit's limits, and read-modify-write for requests that do not begin
//! or end on a block. The range of such a request is held for whole blocks, so that two clients that
//! change two halves of one block cannot tear it.

use crate::base::Payload;
use crate::path::identity::LogicalUnit;
use crate::volume::Volume;
use crate::volume::request::{Part, PartVerb, Request, RequestId, Stage};

/// Bytes per READ or WRITE command, whatever more the unit allows: keeps one request from holding a
/// session's window and gives several paths a share of it.
const PART_BYTES_MAX: u32 = 512 * 1024;

/// Blocks per READ or WRITE.
pub(in crate::volume) fn step(unit: &LogicalUnit) -> u32 {
    let ours = (PART_BYTES_MAX / unit.block_size()).max(1);
    ours.min(unit.max_transfer_blocks())
}

/// The whole blocks that `len` bytes from `offset` touch: first, and one behind the last.
pub(in crate::volume) fn blocks(unit: &LogicalUnit, offset: u64, len: u64) -> (u64, u64) {
    let size = u64::from(unit.block_size());
    (offset / size, (offset + len).div_ceil(size))
}

/// Whether a WRITE changes its first or last block only in part.
pub(in crate::volume) fn needs_edges(unit: Option<&LogicalUnit>, request: &Request) -> bool {
    let Some(unit) = unit else { return false };
    let mask = u64::from(unit.block_size()) - 1;
    request.offset & mask != 0 || (request.offset + request.len) & mask != 0
}

/// Reads the first and the last block of a WRITE that changes them in part.
pub(in crate::volume) fn read_edges(v: &mut Volume, id: RequestId) {
    let Some(request) = v.requests.get_mut(id) else { return };
    assert!(request.first < request.end, "an empty write was answered at once");
    let (first, last) = (request.first, request.end - 1);
    for lba in [Some(first), (last != first).then_some(last)].into_iter().flatten() {
        request.live += 1;
        let part = v.parts.insert(Part::new(id, PartVerb::Read, lba, 1));
        v.ready.push_back(part);
    }
}

/// Puts old edges and new data together; from here the request is a WRITE of whole blocks.
pub(in crate::volume) fn merge_edges(v: &mut Volume, id: RequestId) {
    let unit = v.unit.clone().expect("edges were read from a known unit");
    let request = v.requests.get_mut(id).expect("the caller holds the request");
    let size = unit.block_size() as usize;
    let head_len = (request.offset % size as u64) as usize;
    let behind = ((request.offset + request.len) % size as u64) as usize;
    let edge = |lba: u64| {
        let found = request.pieces.iter().find(|(at, _)| *at == lba);
        &found.expect("both edges were read").1
    };
    let mut data = Payload::new();
    if head_len > 0 {
        data.append(edge(request.first).slice(0, head_len));
    }
    data.append(request.data.clone());
    if behind > 0 {
        data.append(edge(request.end - 1).slice(behind, size - behind));
    }
    assert_eq!(data.len() as u64, (request.end - request.first) * size as u64);
    request.data = data;
    request.pieces.clear();
    request.stage = Stage::Body;
    request.cursor = request.first;
}

/// The bytes that a READ asked for, from the whole blocks that came.
pub(in crate::volume) fn assemble(unit: Option<&LogicalUnit>, request: &mut Request) -> Payload {
    let unit = unit.expect("data came from a known unit");
    let mut data = match request.pieces.len() {
        1 => std::mem::take(&mut request.pieces[0].1),
        _ => {
            request.pieces.sort_unstable_by_key(|(lba, _)| *lba);
            let mut all = Payload::new();
            for (_, piece) in request.pieces.drain(..) {
                all.append(piece);
            }
            all
        }
    };
    let skip = request.offset - request.first * u64::from(unit.block_size());
    if data.len() as u64 != request.len {
        data = data.slice(skip as usize, request.len as usize);
    }
    data
}
