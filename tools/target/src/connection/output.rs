//! PDUs that leave: headers, digests, padding, and data straight from the medium.
//!
//! The codecs of `wire` write headers; the digests are computed here, because a fault layer may want
//! them wrong and because read data comes in pieces of the medium that are never gathered first.

use crate::base::TxQueue;
use crate::faults::Stack;
use crate::state::Core;
use crate::wire::iscsi::digest;
use crate::wire::iscsi::frame::pad_len;
use crate::wire::iscsi::{BHS_LEN, Bhs, data_len};
use std::io;

/// Which digests leave with each PDU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Output {
    pub header_digest: bool,
    pub data_digest: bool,
}

impl Output {
    /// A PDU with its data.
    pub(crate) fn put(self, tx: &mut TxQueue, faults: &mut Stack, bhs: &Bhs, data: &[u8]) {
        assert_eq!(data_len(bhs) as usize, data.len(), "header and data differ in length");
        self.header(tx, faults, bhs);
        if !data.is_empty() {
            tx.put(data);
            let crc = if self.data_digest { digest::crc32c(data) } else { 0 };
            self.tail(tx, faults, data.len() as u32, crc);
        }
    }

    /// A PDU whose data are bytes of the medium from `offset`.
    pub(crate) fn put_medium(
        self,
        tx: &mut TxQueue,
        core: &mut Core,
        bhs: &Bhs,
        offset: u64,
    ) -> io::Result<()> {
        self.header(tx, &mut core.faults, bhs);
        let len = data_len(bhs);
        let (mut crc, mut sent) = (0, 0);
        let result =
            core.unit.store().read_with(offset, len as usize, &mut core.scratch, |piece| {
                if self.data_digest {
                    crc = digest::crc32c_append(crc, piece);
                }
                sent += piece.len();
                tx.put(piece);
            });
        // The header has promised the bytes: a medium that fails still leaves the stream in frame.
        if sent < len as usize {
            let rest = vec![0; len as usize - sent];
            crc = digest::crc32c_append(crc, &rest);
            tx.put(&rest);
        }
        self.tail(tx, &mut core.faults, len, crc);
        result
    }

    fn header(self, tx: &mut TxQueue, faults: &mut Stack, bhs: &Bhs) {
        let lost = faults.dropped_bytes().min(BHS_LEN);
        tx.put(&bhs[lost..]);
        if self.header_digest {
            let digest = digest::crc32c(bhs) ^ faults.header_digest();
            tx.put(&digest.to_le_bytes());
        }
    }

    fn tail(self, tx: &mut TxQueue, faults: &mut Stack, len: u32, crc: u32) {
        let zeros = &[0; 3][..pad_len(len) as usize];
        if !zeros.is_empty() {
            tx.put(zeros);
        }
        if self.data_digest {
            let digest = digest::crc32c_append(crc, zeros) ^ faults.data_digest();
            tx.put(&digest.to_le_bytes());
        }
    }
}
