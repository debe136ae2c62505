//! GET LBA STATUS parameter data (SBC-3).

use crate::wire::scsi::Emit;
use crate::wire::scsi::field::{be32, be64, put32, put64, u8_at};

/// What is known of a range of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provision {
    /// 0h (and every unknown code): mapped, or not known.
    Mapped,
    /// 1h: deallocated.
    Deallocated,
    /// 2h: anchored: no data, but room is reserved.
    Anchored,
}

/// One LBA status descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LbaStatus {
    /// First block.
    pub lba: u64,
    /// Blocks.
    pub blocks: u32,
    /// What they are.
    pub provision: Provision,
}

/// Reads descriptors that cover `lba` and what follows it without a gap, and stops at the first that
/// makes no sense (does not cover the block where it should begin, or is empty). An empty result means:
/// nothing is known. The first descriptor is cut to begin at `lba`.
pub fn contiguous(data: &[u8], lba: u64) -> impl Iterator<Item = LbaStatus> + '_ {
    let available = usize::try_from(u64::from(be32(data, 0)) + 4).unwrap_or(usize::MAX);
    let list = data.get(8..data.len().min(available)).unwrap_or(&[]);
    let mut next = Some(lba);
    list.chunks_exact(16).map_while(move |entry| {
        let from = next?;
        let (first, blocks) = (be64(entry, 0), be32(entry, 8));
        let end = first.checked_add(blocks.into())?;
        if first > from || end <= from {
            next = None;
            return None;
        }
        next = Some(end);
        let provision = match u8_at(entry, 12) & 0xf {
            1 => Provision::Deallocated,
            2 => Provision::Anchored,
            _ => Provision::Mapped,
        };
        // The cut end cannot exceed the count that came.
        Some(LbaStatus { lba: from, blocks: (end - from) as u32, provision })
    })
}

/// Parameter data with these descriptors.
impl Emit for [LbaStatus] {
    fn buffer_len(&self) -> usize {
        8 + 16 * self.len()
    }

    fn emit(&self, out: &mut [u8]) {
        let len = self.buffer_len();
        out[..len].fill(0);
        put32(out, 0, u32::try_from(len - 4).expect("a status list is under 4 GiB"));
        for (i, status) in self.iter().enumerate() {
            let at = 8 + 16 * i;
            put64(out, at, status.lba);
            put32(out, at + 8, status.blocks);
            out[at + 12] = match status.provision {
                Provision::Mapped => 0,
                Provision::Deallocated => 1,
                Provision::Anchored => 2,
            };
        }
    }
}
