//! The data of one command, as it came: reference-counted pieces of receive buffers, in order.
//!
//! Nothing is copied to make a payload contiguous. A piece keeps its whole receive buffer alive, so
//! whoever holds a small payload for long calls [`Payload::compact`].

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

/// Bytes in order, in any number of pieces.
#[derive(Clone, Default)]
pub struct Payload {
    pieces: SmallVec<[Bytes; 3]>,
    len: usize,
}

impl Payload {
    /// No bytes.
    #[must_use]
    pub fn new() -> Payload {
        Payload::default()
    }

    /// Total length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a piece; an empty one is dropped.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push(piece);
        }
    }

    /// The pieces in order, none of them empty.
    #[must_use]
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// Shows every piece to `f`, which may put the same bytes elsewhere.
    pub fn for_each_piece(&mut self, mut f: impl FnMut(&mut Bytes)) {
        for piece in &mut self.pieces {
            let len = piece.len();
            f(piece);
            assert_eq!(piece.len(), len, "a piece that moves stays as long as it is");
        }
    }

    /// The pieces in order, given away.
    pub fn into_pieces(self) -> impl Iterator<Item = Bytes> {
        self.pieces.into_iter()
    }

    /// Appends all pieces of `other`.
    pub fn append(&mut self, other: Payload) {
        self.len += other.len;
        self.pieces.extend(other.pieces);
    }

    /// The same bytes from `offset` on, `len` of them, sharing the buffers.
    ///
    /// # Panics
    /// When the range is not inside the payload: callers check ranges against the command first.
    #[must_use]
    pub fn slice(&self, offset: usize, len: usize) -> Payload {
        let mut out = Payload::new();
        self.for_range(offset, len, |piece| out.push(piece));
        out
    }

    /// Calls `f` with the pieces that make up `len` bytes from `offset`.
    ///
    /// # Panics
    /// When the range is not inside the payload.
    pub fn for_range(&self, offset: usize, len: usize, mut f: impl FnMut(Bytes)) {
        let end = offset.checked_add(len).expect("a payload range does not wrap");
        assert!(end <= self.len, "range {offset}+{len} outside a payload of {} bytes", self.len);
        let mut start = 0;
        for piece in &self.pieces {
            let stop = start + piece.len();
            let (from, to) = (offset.max(start), end.min(stop));
            if from < to {
                f(piece.slice(from - start..to - start));
            }
            if stop >= end {
                break;
            }
            start = stop;
        }
    }

    /// Copies `out.len()` bytes from `offset` into `out`.
    ///
    /// # Panics
    /// When the range is not inside the payload.
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) {
        let mut at = 0;
        self.for_range(offset, out.len(), |piece| {
            out[at..at + piece.len()].copy_from_slice(&piece);
            at += piece.len();
        });
    }

    /// All bytes in one vector: for small answers (INQUIRY, sense) and tests, not for the data path.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len);
        for piece in &self.pieces {
            out.extend_from_slice(piece);
        }
        out
    }

    /// Copies the bytes out of the shared receive buffers, so that these can be used again.
    pub fn compact(&mut self) {
        let mut copy = BytesMut::with_capacity(self.len);
        for piece in &self.pieces {
            copy.extend_from_slice(piece);
        }
        self.pieces.clear();
        if !copy.is_empty() {
            self.pieces.push(copy.freeze());
        }
    }
}

impl From<Bytes> for Payload {
    fn from(piece: Bytes) -> Payload {
        let mut payload = Payload::new();
        payload.push(piece);
        payload
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Payload {
        Bytes::from(bytes).into()
    }
}

impl core::fmt::Debug for Payload {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Payload({} bytes in {} pieces)", self.len, self.pieces.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn slice_equals_slice_of_the_whole(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..6),
            a: prop::sample::Index, b: prop::sample::Index,
        ) {
            let mut payload = Payload::new();
            for piece in &pieces {
                payload.push(Bytes::from(piece.clone()));
            }
            let whole: Vec<u8> = pieces.concat();
            let (a, b) = (a.index(whole.len() + 1), b.index(whole.len() + 1));
            let (from, to) = (a.min(b), a.max(b));
            prop_assert_eq!(payload.slice(from, to - from).to_vec(), &whole[from..to]);
            let mut out = vec![0xa5; to - from];
            payload.copy_to(from, &mut out);
            prop_assert_eq!(&out, &whole[from..to]);
            let mut compact = payload.clone();
            compact.compact();
            prop_assert_eq!(compact.to_vec(), whole);
            prop_assert!(compact.pieces().len() <= 1);
        }
    }

    #[test]
    #[should_panic(expected = "outside a payload")]
    fn a_range_outside_is_a_bug() {
        let _ = Payload::from(vec![1, 2, 3]).slice(2, 2);
    }
}
