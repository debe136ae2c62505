//! A byte stream to PDUs, and PDUs to a transmit queue, with padding and digests.
//!
//! [`Deframer`] is fed chunks exactly as they were received and never waits for a whole PDU: a header
//! that lies whole in a chunk is read in place (one that is split is gathered first), and the data
//! segment is given out in the pieces that arrive, as ranges of the chunk, so that the consumer keeps
//! them with `chunk.slice(range)` and nothing is copied. Padding and digests are consumed here.
//!
//! ```text
//! | BHS 48 | AHS 0..1020 | header digest 0/4 | data 0..2^24-1 | pad 0..3 | data digest 0/4 |
//! ```
//!
//! Deliberately not here: which lengths were negotiated (the caller sets them) and what a PDU means.

use super::digest;
use super::pdu::{BHS_LEN, Bhs, ahs_len, data_len};
use crate::base::{Payload, TxQueue};
use bytes::Bytes;
use core::ops::Range;
use thiserror::Error;

/// Zero bytes after `len` bytes of data (RFC 7143 section 11.1).
#[must_use]
pub const fn pad_len(len: u32) -> u32 {
    len.wrapping_neg() & 3
}

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The header digest does not match: not even the length can be trusted.
    #[error("header digest error: computed {computed:08x}, received {received:08x}")]
    HeaderDigest {
        /// Over the header as received.
        computed: u32,
        /// As received.
        received: u32,
    },
    /// The data digest does not match. The deframer stands at the next PDU and can go on.
    #[error("data digest error: computed {computed:08x}, received {received:08x}")]
    DataDigest {
        /// Over data and padding as received.
        computed: u32,
        /// As received.
        received: u32,
    },
    /// A data segment beyond the declared MaxRecvDataSegmentLength.
    #[error("a data segment of {len} bytes where at most {max} were declared")]
    LongSegment {
        /// DataSegmentLength.
        len: u32,
        /// What was declared.
        max: u32,
    },
    /// Additional header segments where none are taken.
    #[error("bytes that are no PDU of a target ({len} bytes of additional header segments)")]
    UnexpectedAhs {
        /// Length in bytes.
        len: usize,
    },
}

impl FrameError {
    /// Whether a digest did not match.
    #[must_use]
    pub fn is_digest(&self) -> bool {
        matches!(self, FrameError::HeaderDigest { .. } | FrameError::DataDigest { .. })
    }
}

/// What a deframer finds next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A whole header, its digest checked. With a data length of 0 it is the whole PDU; otherwise
    /// `Data` items follow.
    Header(Bhs),
    /// Bytes of the data segment.
    Data {
        /// Where in the chunk; empty when only padding or the digest was left.
        range: Range<usize>,
        /// The data segment ends here: padding has been skipped and the digest has been checked.
        end: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    /// Bytes of data, padding and digest that are still to come.
    Segment {
        data: u32,
        tail: u32,
    },
}

/// Finds PDUs in a stream of any segmentation. Memory: one header with its AHS.
#[derive(Debug)]
pub struct Deframer {
    state: State,
    header_digest: bool,
    data_digest: bool,
    take_ahs: bool,
    max_segment: u32,
    /// A header that was split, or the AHS of the last one; at most 48 + 1020 + 4 bytes.
    stash: Vec<u8>,
    ahs: Vec<u8>,
    crc: u32,
    received: [u8; 4],
}

impl Deframer {
    /// At the start of a stream, without digests. `max_segment` is the MaxRecvDataSegmentLength that this
    /// side declared (8192 in the login phase); `take_ahs` is for targets.
    #[must_use]
    pub fn new(max_segment: u32, take_ahs: bool) -> Deframer {
        Deframer {
            state: State::Header,
            header_digest: false,
            data_digest: false,
            take_ahs,
            max_segment,
            stash: Vec::with_capacity(BHS_LEN + 4),
            ahs: Vec::new(),
            crc: 0,
            received: [0; 4],
        }
    }

    /// Turns digests on or off from the next PDU.
    ///
    /// # Panics
    /// Inside a PDU.
    pub fn set_digests(&mut self, header: bool, data: bool) {
        assert!(self.is_between_pdus(), "digests change only between PDUs");
        self.header_digest = header;
        self.data_digest = data;
    }

    /// Changes the largest data segment that is taken, bytes.
    pub fn set_max_segment(&mut self, max: u32) {
        self.max_segment = max;
    }

    /// Whether the next byte starts a header.
    #[must_use]
    pub fn is_between_pdus(&self) -> bool {
        self.state == State::Header && self.stash.is_empty()
    }

    /// The additional header segments of the last header.
    #[must_use]
    pub fn ahs(&self) -> &[u8] {
        &self.ahs
    }

    /// The next item in `chunk` from `*at` on, which is moved; `None` when the chunk is used up.
    ///
    /// # Errors
    /// [`FrameError`]; after all but `DataDigest` the stream must not be read on.
    ///
    /// # Panics
    /// When `*at` lies outside the chunk.
    #[inline]
    pub fn next(&mut self, chunk: &[u8], at: &mut usize) -> Result<Option<Item>, FrameError> {
        if *at == chunk.len() {
            return Ok(None);
        }
        match self.state {
            State::Header => self.header(chunk, at),
            State::Segment { data, tail } => self.segment(chunk, at, data, tail).map(Some),
        }
    }

    #[inline]
    fn header(&mut self, chunk: &[u8], at: &mut usize) -> Result<Option<Item>, FrameError> {
        let rest = &chunk[*at..];
        if self.stash.is_empty()
            && let Some(bhs) = rest.first_chunk::<BHS_LEN>()
        {
            let len = self.head_len(bhs)?;
            if let Some(head) = rest.get(..len) {
                *at += len;
                return self.head(*bhs, head).map(Some);
            }
        }
        self.split_header(chunk, at)
    }

    /// Gathers a header that does not lie whole in one chunk.
    #[cold]
    fn split_header(&mut self, chunk: &[u8], at: &mut usize) -> Result<Option<Item>, FrameError> {
        let mut want = BHS_LEN;
        loop {
            if let Some(bhs) = self.stash.first_chunk::<BHS_LEN>() {
                want = self.head_len(bhs)?;
            }
            if self.stash.len() == want {
                break;
            }
            let take = (want - self.stash.len()).min(chunk.len() - *at);
            if take == 0 {
                return Ok(None);
            }
            self.stash.extend_from_slice(&chunk[*at..*at + take]);
            *at += take;
        }
        let head = core::mem::take(&mut self.stash);
        let bhs = *head.first_chunk().expect("a whole header was gathered");
        let item = self.head(bhs, &head);
        self.stash = head;
        self.stash.clear();
        item.map(Some)
    }

    /// Length of BHS, AHS and header digest.
    fn head_len(&self, bhs: &Bhs) -> Result<usize, FrameError> {
        let ahs = ahs_len(bhs);
        // With a digest the length itself may be what is damaged; either way the stream ends here.
        if ahs > 0 && !self.take_ahs {
            return Err(FrameError::UnexpectedAhs { len: ahs });
        }
        Ok(BHS_LEN + ahs + if self.header_digest { 4 } else { 0 })
    }

    #[inline]
    fn head(&mut self, bhs: Bhs, head: &[u8]) -> Result<Item, FrameError> {
        let mut head = head;
        if self.header_digest {
            let (covered, received) = head.split_at(head.len() - 4);
            check(digest::crc32c(covered), received)
                .map_err(|(computed, received)| FrameError::HeaderDigest { computed, received })?;
            head = covered;
        }
        if self.take_ahs {
            self.ahs.clear();
            self.ahs.extend_from_slice(&head[BHS_LEN..]);
        }
        let len = data_len(&bhs);
        if len > self.max_segment {
            return Err(FrameError::LongSegment { len, max: self.max_segment });
        }
        if len > 0 {
            let digest = if self.data_digest { 4 } else { 0 };
            self.crc = 0;
            self.state = State::Segment { data: len, tail: pad_len(len) + digest };
        }
        Ok(Item::Header(bhs))
    }

    #[inline]
    fn segment(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        data: u32,
        tail: u32,
    ) -> Result<Item, FrameError> {
        let from = *at;
        let take = (data as usize).min(chunk.len() - from);
        let range = from..from + take;
        if self.data_digest {
            self.crc = digest::crc32c_append(self.crc, &chunk[range.clone()]);
        }
        *at = range.end;
        let data = data - take as u32;
        let mut left = tail;
        if data == 0 {
            let skip = (tail as usize).min(chunk.len() - *at);
            if self.data_digest {
                self.tail(&chunk[*at..*at + skip], tail);
            }
            *at += skip;
            left -= skip as u32;
        }
        let end = data == 0 && left == 0;
        if !end {
            self.state = State::Segment { data, tail: left };
            return Ok(Item::Data { range, end });
        }
        self.state = State::Header;
        if self.data_digest {
            check(self.crc, &self.received)
                .map_err(|(computed, received)| FrameError::DataDigest { computed, received })?;
        }
        Ok(Item::Data { range, end })
    }

    /// Takes bytes of padding (covered by the digest) and of the digest, `left` of which were to come.
    fn tail(&mut self, bytes: &[u8], left: u32) {
        for (i, &byte) in bytes.iter().enumerate() {
            let left = left as usize - i;
            if left > 4 {
                self.crc = digest::crc32c_append(self.crc, &[byte]);
            } else {
                self.received[4 - left] = byte;
            }
        }
    }
}

fn check(computed: u32, digest: &[u8]) -> Result<(), (u32, u32)> {
    let digest = digest.try_into().expect("a digest has four bytes");
    let received = u32::from_le_bytes(digest);
    if computed == received { Ok(()) } else { Err((computed, received)) }
}

/// Writes PDUs into a transmit queue with padding and digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Framer {
    /// Header digests are on.
    pub header_digest: bool,
    /// Data digests are on.
    pub data_digest: bool,
}

impl Framer {
    /// A PDU whose data is copied; `data.len()` must be the header's data length.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn put(&self, tx: &mut TxQueue, bhs: &Bhs, data: &[u8]) {
        assert_eq!(data_len(bhs) as usize, data.len(), "header and data differ in length");
        self.put_header(tx, bhs);
        if !data.is_empty() {
            tx.put(data);
            let crc = if self.data_digest { digest::crc32c(data) } else { 0 };
            self.put_tail(tx, data.len() as u32, crc);
        }
    }

    /// A PDU whose data is `len` bytes of `payload` from `offset`, by reference where that pays.
    ///
    /// # Panics
    /// When the lengths differ or the range is not inside the payload.
    pub fn put_payload(
        &self,
        tx: &mut TxQueue,
        bhs: &Bhs,
        payload: &Payload,
        offset: usize,
        len: usize,
    ) {
        assert_eq!(data_len(bhs) as usize, len, "header and data differ in length");
        self.put_header(tx, bhs);
        if len == 0 {
            return;
        }
        let mut crc = 0;
        payload.for_range(offset, len, |piece: Bytes| {
            if self.data_digest {
                crc = digest::crc32c_append(crc, &piece);
            }
            tx.put_bytes(piece);
        });
        self.put_tail(tx, len as u32, crc);
    }

    fn put_header(&self, tx: &mut TxQueue, bhs: &Bhs) {
        if self.header_digest {
            tx.put_with::<{ BHS_LEN + 4 }>(|out| {
                out[..BHS_LEN].copy_from_slice(bhs);
                out[BHS_LEN..].copy_from_slice(&digest::crc32c(bhs).to_le_bytes());
            });
        } else {
            tx.put(bhs);
        }
    }

    fn put_tail(&self, tx: &mut TxQueue, len: u32, crc: u32) {
        let pad = pad_len(len) as usize;
        let zeros = &[0; 3][..pad];
        if pad > 0 {
            tx.put(zeros);
        }
        if self.data_digest {
            tx.put(&digest::crc32c_append(crc, zeros).to_le_bytes());
        }
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
