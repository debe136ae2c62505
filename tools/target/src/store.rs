//! The medium behind the logical unit: sparse memory or a file, shared by both nodes.
//!
//! Memory is a map of fixed chunks, sharded so that the two node threads rarely meet; a chunk that
//! was never written (or was deallocated) reads as zeros and takes no memory, so a unit of several
//! TiB can be offered. Offsets and lengths are bytes and were checked against the size by the caller.
//! Deliberately not here: blocks, SCSI, a cache.

use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::Whence;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes per memory chunk: also what GET LBA STATUS and UNMAP see as granularity.
pub const CHUNK: u64 = 64 * 1024;

const SHARDS: u64 = 64;

static ZEROS: [u8; CHUNK as usize] = [0; CHUNK as usize];

/// Where the bytes are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Backing {
    /// Sparse memory, gone at the end.
    #[default]
    Memory,
    /// A file; made, sparse, if it does not exist.
    File(PathBuf),
}

/// Chunk numbers are small integers: one multiplication spreads them well enough.
#[derive(Default)]
struct ChunkHasher(u64);

impl Hasher for ChunkHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

type Shard = HashMap<u64, Box<[u8]>, BuildHasherDefault<ChunkHasher>>;

enum Medium {
    Memory(Vec<Mutex<Shard>>),
    File(File),
}

/// The bytes of one logical unit.
pub struct Store {
    size: u64,
    medium: Medium,
}

impl Store {
    /// Opens or makes the medium.
    ///
    /// # Errors
    /// When the file cannot be opened, made or brought to `size` bytes.
    pub fn open(backing: &Backing, size: u64) -> io::Result<Store> {
        let medium = match backing {
            Backing::Memory => Medium::Memory((0..SHARDS).map(|_| Mutex::default()).collect()),
            Backing::File(path) => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path)?;
                if file.metadata()?.len() < size {
                    file.set_len(size)?;
                }
                Medium::File(file)
            }
        };
        Ok(Store { size, medium })
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Gives `len` bytes from `offset` to `sink`, in order and in any number of pieces.
    ///
    /// # Errors
    /// Those of the file; memory has none.
    pub fn read_with(
        &self,
        offset: u64,
        len: usize,
        scratch: &mut Vec<u8>,
        mut sink: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.check(offset, len as u64);
        match &self.medium {
            Medium::Memory(shards) => {
                for (chunk, at, n) in pieces(offset, len as u64) {
                    match lock(shards, chunk).get(&chunk) {
                        Some(bytes) => sink(&bytes[at..at + n]),
                        None => sink(&ZEROS[..n]),
                    }
                }
                Ok(())
            }
            Medium::File(file) => {
                scratch.resize(len, 0);
                file.read_exact_at(scratch, offset)?;
                sink(scratch);
                Ok(())
            }
        }
    }

    /// The same into one slice.
    ///
    /// # Errors
    /// Those of [`Store::read_with`].
    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut at = 0;
        self.read_with(offset, out.len(), &mut Vec::new(), |piece| {
            out[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        })
    }

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// Those of the file; memory has none.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(offset, data.len() as u64);
        match &self.medium {
            Medium::Memory(shards) => {
                let mut from = 0;
                for (chunk, at, n) in pieces(offset, data.len() as u64) {
                    lock(shards, chunk)
                        .entry(chunk)
                        .or_insert_with(|| vec![0; CHUNK as usize].into_boxed_slice())
                        [at..at + n]
                        .copy_from_slice(&data[from..from + n]);
                    from += n;
                }
                Ok(())
            }
            Medium::File(file) => file.write_all_at(data, offset),
        }
    }

    /// Makes `len` bytes from `offset` read as zeros and gives up what space it can.
    ///
    /// # Errors
    /// Those of the file; memory has none.
    pub fn deallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check(offset, len);
        match &self.medium {
            Medium::Memory(shards) => {
                for (chunk, at, n) in pieces(offset, len) {
                    let mut shard = lock(shards, chunk);
                    if n as u64 == CHUNK {
                        shard.remove(&chunk);
                    } else if let Some(bytes) = shard.get_mut(&chunk) {
                        bytes[at..at + n].fill(0);
                    }
                }
                Ok(())
            }
            Medium::File(file) => {
                let (Ok(from), Ok(n)) = (i64::try_from(offset), i64::try_from(len)) else {
                    return Err(io::ErrorKind::InvalidInput.into());
                };
                if n == 0 {
                    return Ok(());
                }
                let flags =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                Ok(fallocate(file, flags, from, n)?)
            }
        }
    }

    /// Whether the byte at `offset` has space behind it, and for how many bytes from there on the
    /// answer is the same (at most `max`).
    ///
    /// # Errors
    /// Those of the file; memory has none.
    pub fn allocation(&self, offset: u64, max: u64) -> io::Result<(bool, u64)> {
        let max = max.min(self.size.saturating_sub(offset));
        match &self.medium {
            Medium::Memory(shards) => {
                let allocated = |chunk: u64| lock(shards, chunk).contains_key(&chunk);
                let first = allocated(offset / CHUNK);
                let mut run = 0;
                for (chunk, _, n) in pieces(offset, max) {
                    if allocated(chunk) != first {
                        break;
                    }
                    run += n as u64;
                }
                Ok((first, run))
            }
            Medium::File(file) => file_allocation(file, offset, max),
        }
    }

    /// Brings a file to its disk.
    ///
    /// # Errors
    /// Those of the file; memory has none.
    pub fn sync(&self) -> io::Result<()> {
        match &self.medium {
            Medium::Memory(_) => Ok(()),
            Medium::File(file) => file.sync_data(),
        }
    }

    fn check(&self, offset: u64, len: u64) {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.size),
            "{offset}+{len} is outside a medium of {} bytes",
            self.size
        );
    }
}

fn file_allocation(file: &File, offset: u64, max: u64) -> io::Result<(bool, u64)> {
    let seek = |whence| match nix::unistd::lseek(file, offset.cast_signed(), whence) {
        Ok(at) => Ok(at.cast_unsigned()),
        // Past the last data (or the last hole) of the file.
        Err(nix::errno::Errno::ENXIO) => Ok(u64::MAX),
        Err(error) => Err(io::Error::from(error)),
    };
    let data = seek(Whence::SeekData)?;
    if data > offset {
        return Ok((false, max.min(data - offset)));
    }
    Ok((true, max.min(seek(Whence::SeekHole)?.saturating_sub(offset).max(1))))
}

fn lock(shards: &[Mutex<Shard>], chunk: u64) -> MutexGuard<'_, Shard> {
    shards[(chunk % SHARDS) as usize].lock().unwrap_or_else(PoisonError::into_inner)
}

/// (chunk, offset inside it, bytes) for each chunk that the range touches.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (chunk, inside) = (at / CHUNK, at % CHUNK);
        let n = (CHUNK - inside).min(end - at);
        at += n;
        Some((chunk, inside as usize, n as usize))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn both() -> Vec<(Store, Option<PathBuf>)> {
        let path = std::env::temp_dir().join(format!(
            "mpio-target-store-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let size = 4 * CHUNK;
        vec![
            (Store::open(&Backing::Memory, size).unwrap(), None),
            (Store::open(&Backing::File(path.clone()), size).unwrap(), Some(path)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn both_media_behave_like_a_plain_array(
            steps in prop::collection::vec(
                (0u8..2, 0..4 * CHUNK, 0..2 * CHUNK, any::<u8>()), 1..20),
        ) {
            for (store, path) in both() {
                let mut model = vec![0u8; store.size() as usize];
                for &(kind, offset, len, fill) in &steps {
                    let len = len.min(store.size() - offset);
                    let range = offset as usize..(offset + len) as usize;
                    if kind == 0 {
                        store.deallocate(offset, len).unwrap();
                        model[range].fill(0);
                    } else {
                        store.write(offset, &vec![fill; len as usize]).unwrap();
                        model[range].fill(fill);
                    }
                    let mut got = vec![0xa5; store.size() as usize];
                    store.read(0, &mut got).unwrap();
                    prop_assert!(got == model);
                }
                if let Some(path) = path {
                    std::fs::remove_file(path).unwrap();
                }
            }
        }
    }

    #[test]
    fn allocation_is_told_in_runs() {
        for (store, path) in both() {
            store.write(CHUNK, &vec![1; CHUNK as usize]).unwrap();
            assert_eq!(store.allocation(0, u64::MAX).unwrap(), (false, CHUNK));
            assert_eq!(store.allocation(CHUNK + 512, u64::MAX).unwrap(), (true, CHUNK - 512));
            assert_eq!(store.allocation(2 * CHUNK, u64::MAX).unwrap(), (false, 2 * CHUNK));
            assert_eq!(store.allocation(0, 512).unwrap(), (false, 512));
            store.deallocate(CHUNK, CHUNK).unwrap();
            assert_eq!(store.allocation(0, u64::MAX).unwrap(), (false, 4 * CHUNK));
            if let Some(path) = path {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    #[test]
    fn a_large_unit_takes_no_memory() {
        let store = Store::open(&Backing::Memory, 1 << 44).unwrap();
        store.write((1 << 44) - 512, &[7; 512]).unwrap();
        let mut out = [0xa5; 1024];
        store.read((1 << 44) - 1024, &mut out).unwrap();
        assert_eq!((out[0], out[512]), (0, 7));
    }
}
