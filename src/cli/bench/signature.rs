//! What a device carries: partition tables, file systems, volumes and members of arrays, by the marks that
//! they leave at known places. Only for refusing to overwrite them; that nothing is found proves nothing.
//!
//! Offsets and marks are those that the formats' own documents give, and that `blkid` and `file` look for.

use crate::base::Payload;
use crate::cli::nbd_client::{Connection, NbdClientError};
use crate::export::client::{Answer, Op};
use std::fmt;

/// How much of the start is looked at: the farthest mark, of a VMFS, begins at 2 MiB.
const HEAD: u64 = (2 << 20) + CHUNK;
/// How much of the end is looked at: an old md superblock lies within the last 128 KiB.
const TAIL: u64 = 3 * CHUNK;
/// Bytes per read, a multiple of every block size.
const CHUNK: u64 = 64 * 1024;

/// Where a mark is.
#[derive(Clone, Copy)]
enum At {
    Start(u64),
    /// So many bytes before the end.
    End(u64),
}
use At::{End, Start};

/// Names, places, marks.
const MARKS: &[(&str, At, &[u8])] = &[
    ("a GPT partition table", Start(512), b"EFI PART"),
    ("a GPT partition table", Start(4096), b"EFI PART"),
    ("the backup of a GPT partition table", End(512), b"EFI PART"),
    ("the backup of a GPT partition table", End(4096), b"EFI PART"),
    ("an XFS file system", Start(0), b"XFSB"),
    ("a btrfs file system", Start(65_600), b"_BHRfS_M"),
    ("an LVM physical volume", Start(0), b"LABELONE"),
    ("an LVM physical volume", Start(512), b"LABELONE"),
    ("an LVM physical volume", Start(1024), b"LABELONE"),
    ("an LVM physical volume", Start(1536), b"LABELONE"),
    ("a LUKS volume", Start(0), b"LUKS\xba\xbe"),
    ("the second header of a LUKS volume", Start(16_384), b"SKUL\xba\xbe"),
    ("swap space", Start(4086), b"SWAPSPACE2"),
    ("swap space", Start(65_526), b"SWAPSPACE2"),
    ("an NTFS file system", Start(3), b"NTFS    "),
    ("an exFAT file system", Start(3), b"EXFAT   "),
    ("a BitLocker volume", Start(3), b"-FVE-FS-"),
    ("a ReFS file system", Start(0), b"\0\0\0ReFS\0"),
    ("a FAT file system", Start(54), b"FAT1"),
    ("a FAT file system", Start(82), b"FAT32   "),
    ("an ISO 9660 or UDF file system", Start(32_769), b"CD001"),
    ("a UDF file system", Start(32_769), b"BEA01"),
    ("a VMFS volume", Start(1 << 20), b"\x0d\xd0\x01\xc0"),
    ("a VMFS file system", Start(2 << 20), b"\x5e\xf1\xab\x2f"),
    ("an md array member", Start(0), b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    ("an md array member", Start(4096), b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    ("a bcache or bcachefs device", Start(4120), b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
    ("an F2FS file system", Start(1024), b"\x10\x20\xf5\xf2"),
    ("a squashfs file system", Start(0), b"hsqs"),
    ("a ReiserFS file system", Start(65_588), b"ReIsEr"),
    ("a JFS file system", Start(32_768), b"JFS1"),
    ("a GFS2 file system", Start(65_536), b"\x01\x16\x19\x70"),
    ("an OCFS2 file system", Start(1024), b"OCFSV2"),
    ("an OCFS2 file system", Start(2048), b"OCFSV2"),
    ("an OCFS2 file system", Start(4096), b"OCFSV2"),
    ("an OCFS2 file system", Start(8192), b"OCFSV2"),
    ("an APFS container", Start(32), b"NXSB"),
    ("an HFS+ file system", Start(1024), b"H+\0\x04"),
    ("an HFS+ file system", Start(1024), b"HX\0\x05"),
    ("a Ceph BlueStore", Start(0), b"bluestore block device"),
    ("an Oracle ASM disk", Start(32), b"ORCLDISK"),
];

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What, with its article.
    pub what: &'static str,
    /// The byte at which its mark stands.
    pub offset: u64,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (its mark stands at byte {})", self.what, self.offset)
    }
}

/// The first and the last bytes of a device.
struct Ends {
    size: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Ends {
    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let from = |part: &'_ [u8], start: u64| -> Option<std::ops::Range<usize>> {
            let at = usize::try_from(offset.checked_sub(start)?).ok()?;
            (at + len <= part.len()).then(|| at..at + len)
        };
        let start = self.size - self.tail.len() as u64;
        match from(&self.head, 0) {
            Some(range) => Some(&self.head[range]),
            None => from(&self.tail, start).map(|range| &self.tail[range]),
        }
    }

    fn has(&self, offset: u64, mark: &[u8]) -> bool {
        self.bytes(offset, mark.len()) == Some(mark)
    }

    fn find(&self) -> Vec<Found> {
        let mut out = Vec::new();
        let mut found = |what, offset| out.push(Found { what, offset });
        for (what, at, mark) in MARKS {
            let offset = match at {
                Start(offset) => Some(*offset),
                End(before) => self.size.checked_sub(*before),
            };
            if let Some(offset) = offset.filter(|offset| self.has(*offset, mark)) {
                found(what, offset);
            }
        }
        // Marks of two bytes are no more than a hint; what stands around them decides.
        let flags = [446, 462, 478, 494].map(|at| self.bytes(at, 1).map_or(1, |byte| byte[0]));
        let plain = flags.iter().all(|flag| matches!(flag, 0 | 0x80));
        let jump = self.has(0, &[0xeb]) || self.has(0, &[0xe9]);
        if self.has(510, &[0x55, 0xaa]) && (plain || jump) {
            found("an MBR partition table or a boot sector", 510);
        }
        let block_size = self.bytes(1048, 4).map_or(u32::MAX, le32);
        if self.has(1080, &[0x53, 0xef]) && block_size <= 6 {
            found("an ext2, ext3 or ext4 file system", 1080);
        }
        // ZFS writes its uberblocks in turn into a ring of 128 KiB.
        let ring = (0..128).map(|n| (128 << 10) + n * 1024);
        let zfs = |at: &u64| {
            self.has(*at, b"\x0c\xb1\xba\0\0\0\0\0") || self.has(*at, b"\0\0\0\0\0\xba\xb1\x0c")
        };
        if let Some(offset) = ring.into_iter().find(zfs) {
            found("a member of a ZFS pool", offset);
        }
        self.md_at_the_end().into_iter().for_each(|offset| found("an md array member", offset));
        out
    }

    /// Formats 1.0 and 0.90 of md stand a little before the end, aligned.
    fn md_at_the_end(&self) -> Option<u64> {
        let new = (self.size / 512).checked_sub(16).map(|sector| sector / 8 * 8 * 512);
        let old = (self.size / CHUNK * CHUNK).checked_sub(CHUNK);
        let mark = b"\xfc\x4e\x2b\xa9";
        [new, old].into_iter().flatten().find(|offset| self.has(*offset, mark))
    }
}

fn le32(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(u32::MAX, u32::from_le_bytes)
}

/// Looks at both ends of the device behind `connection`.
///
/// # Errors
/// When the connection ends; the inner error is the server's answer to a read.
pub fn look(
    connection: &mut Connection,
) -> Result<Result<Vec<Found>, crate::wire::nbd::NbdError>, NbdClientError> {
    let size = connection.exported.size;
    let tail = size.saturating_sub(TAIL) / CHUNK * CHUNK;
    let mut parts = [Vec::new(), Vec::new()];
    for (part, (from, to)) in parts.iter_mut().zip([(0, HEAD.min(size)), (tail, size)]) {
        let mut at = from;
        while at < to {
            let len = (to - at).min(CHUNK) as u32;
            connection.submit(at, Op::Read { offset: at, len });
            match connection.answer()? {
                (_, Ok(Answer::Data(data))) => part.extend(Payload::to_vec(&data)),
                (_, Ok(_)) => unreachable!("a read is answered with data or an error"),
                (_, Err(error)) => return Ok(Err(error)),
            }
            at += u64::from(len);
        }
    }
    let [head, tail] = parts;
    Ok(Ok(Ends { size, head, tail }.find()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(size: u64, marks: &[(u64, &[u8])]) -> Ends {
        let mut disk = vec![0; size as usize];
        for (offset, mark) in marks {
            disk[*offset as usize..][..mark.len()].copy_from_slice(mark);
        }
        let head = disk[..HEAD.min(size) as usize].to_vec();
        let tail = disk[(size.saturating_sub(TAIL) / CHUNK * CHUNK) as usize..].to_vec();
        Ends { size, head, tail }
    }

    const SIZE: u64 = 8 << 20;

    #[test]
    fn every_mark_is_found_where_it_stands_and_only_there() {
        for (what, at, mark) in MARKS {
            let offset = match at {
                Start(offset) => *offset,
                End(before) => SIZE - before,
            };
            let found = ends(SIZE, &[(offset, mark)]).find();
            assert!(found.contains(&Found { what, offset }), "{what}: {found:?}");
            let beside = ends(SIZE, &[(offset + 1, mark)]).find();
            assert!(!beside.iter().any(|f| f.what == *what), "{what} at {}", offset + 1);
        }
        assert_eq!(ends(SIZE, &[]).find(), []);
        assert_eq!(ends(512, &[]).find(), []);
    }

    #[test]
    fn short_marks_need_more_than_themselves() {
        let what = |marks: &[(u64, &[u8])]| -> Vec<u64> {
            ends(SIZE, marks).find().iter().map(|found| found.offset).collect()
        };
        assert_eq!(what(&[(510, &[0x55, 0xaa])]), [510]);
        assert_eq!(what(&[(510, &[0x55, 0xaa]), (446, &[0x80])]), [510]);
        assert_eq!(what(&[(510, &[0x55, 0xaa]), (446, &[7])]), [0u64; 0], "noise");
        assert_eq!(what(&[(510, &[0x55, 0xaa]), (446, &[7]), (0, &[0xeb])]), [510], "FAT");
        assert_eq!(what(&[(1080, &[0x53, 0xef])]), [1080]);
        assert_eq!(what(&[(1080, &[0x53, 0xef]), (1048, &[0, 0, 0, 9])]), [0u64; 0], "noise");
        assert_eq!(what(&[((128 << 10) + 5 * 1024, b"\x0c\xb1\xba\0\0\0\0\0")]), [136_192]);
        let md = b"\xfc\x4e\x2b\xa9";
        assert_eq!(what(&[(SIZE - 8192, md)]), [SIZE - 8192]);
        assert_eq!(what(&[(SIZE - 65_536, md)]), [SIZE - 65_536]);
    }
}
