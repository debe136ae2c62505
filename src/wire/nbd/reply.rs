//! Replies of the transmission phase (sections *Simple reply message* and *Structured reply chunk message*).
//!
//! A simple reply is 16 bytes; after a READ that went well the data follows. A chunk is a 20-byte header and
//! a body; the last chunk of a reply carries [`ChunkHeader::DONE`]. Which of the two comes is told by the
//! first four bytes.

use super::{
    CHUNK_MAGIC, ChunkType, Malformed, NbdError, Reader, SIMPLE_REPLY_MAGIC, be16, be32, be64,
};
use crate::limits::NBD_STRING_MAX;

/// A simple reply without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReply {
    /// 0, or an error number as it came (see [`NbdError`]).
    pub error: u32,
    /// Which request.
    pub cookie: u64,
}

impl SimpleReply {
    /// Bytes on the wire.
    pub const LEN: usize = 16;

    /// Reads one.
    ///
    /// # Errors
    /// When the magic number is wrong.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<SimpleReply, Malformed> {
        let magic = be32(bytes, 0);
        if magic != SIMPLE_REPLY_MAGIC {
            return Err(Malformed::Magic { what: "reply", got: magic.into() });
        }
        Ok(SimpleReply { error: be32(bytes, 4), cookie: be64(bytes, 8) })
    }

    /// Writes it.
    pub fn emit(&self, out: &mut [u8; Self::LEN]) {
        out[0..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        out[4..8].copy_from_slice(&self.error.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
    }
}

/// The header of one chunk of a structured reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// [`ChunkHeader::DONE`] and bits that we do not know.
    pub flags: u16,
    /// What the body is.
    pub kind: ChunkType,
    /// Which request.
    pub cookie: u64,
    /// Length of the body in bytes.
    pub len: u32,
}

impl ChunkHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 20;
    /// Flag: the last chunk of this reply.
    pub const DONE: u16 = 1;

    /// Reads one.
    ///
    /// # Errors
    /// When the magic number is wrong.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<ChunkHeader, Malformed> {
        let magic = be32(bytes, 0);
        if magic != CHUNK_MAGIC {
            return Err(Malformed::Magic { what: "reply chunk", got: magic.into() });
        }
        Ok(ChunkHeader {
            flags: be16(bytes, 4),
            kind: ChunkType(be16(bytes, 6)),
            cookie: be64(bytes, 8),
            len: be32(bytes, 16),
        })
    }

    /// Writes it.
    pub fn emit(&self, out: &mut [u8; Self::LEN]) {
        out[0..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.kind.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..20].copy_from_slice(&self.len.to_be_bytes());
    }

    /// Whether this is the last chunk of its reply.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        self.flags & Self::DONE != 0
    }
}

/// Header of an OFFSET_DATA chunk with its leading offset: what precedes the data of a structured READ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataChunk {
    /// Whether the reply ends with it.
    pub last: bool,
    /// Which request.
    pub cookie: u64,
    /// Where the data belongs, in bytes from the start of the export.
    pub offset: u64,
    /// Bytes of data, not 0.
    pub len: u32,
}

impl DataChunk {
    /// Bytes on the wire before the data.
    pub const LEN: usize = ChunkHeader::LEN + 8;

    /// Writes header and offset.
    ///
    /// # Panics
    /// When the data is empty or its length does not fit with the offset: no READ that is accepted is.
    pub fn emit(&self, out: &mut [u8; Self::LEN]) {
        assert!(self.len > 0, "an OFFSET_DATA chunk holds data");
        let len = self.len.checked_add(8).expect("a payload is shorter than 4 GiB - 8");
        let flags = if self.last { ChunkHeader::DONE } else { 0 };
        let kind = ChunkType::OFFSET_DATA;
        let header = ChunkHeader { flags, kind, cookie: self.cookie, len };
        let (head, tail) = out.split_at_mut(ChunkHeader::LEN);
        header.emit(head.try_into().expect("split at the length of a header"));
        tail.copy_from_slice(&self.offset.to_be_bytes());
    }
}

/// An ERROR chunk without a message that ends its reply: what a structured READ that failed gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorChunk {
    /// Which request.
    pub cookie: u64,
    /// Why.
    pub error: NbdError,
}

impl ErrorChunk {
    /// Bytes on the wire.
    pub const LEN: usize = ChunkHeader::LEN + 6;

    /// Writes header and body.
    pub fn emit(&self, out: &mut [u8; Self::LEN]) {
        let header = ChunkHeader {
            flags: ChunkHeader::DONE,
            kind: ChunkType::ERROR,
            cookie: self.cookie,
            len: 6,
        };
        let (head, tail) = out.split_at_mut(ChunkHeader::LEN);
        header.emit(head.try_into().expect("split at the length of a header"));
        tail[0..4].copy_from_slice(&self.error.code().to_be_bytes());
        tail[4..6].fill(0);
    }
}

/// One run of blocks with the same status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes; on the wire 32 bits, not 0.
    pub len: u64,
    /// [`super::extent_flags`].
    pub flags: u32,
}

impl Extent {
    /// Bytes on the wire.
    pub const LEN: usize = 8;

    /// Longest extent that fits on the wire and is a multiple of every block size.
    pub const MAX: u64 = 0xffff_0000;

    /// Writes one descriptor.
    ///
    /// # Panics
    /// When the length is 0 or does not fit into 32 bits.
    pub fn emit(&self, out: &mut [u8; Self::LEN]) {
        let len = u32::try_from(self.len).expect("an extent on the wire fits into 32 bits");
        assert!(len > 0, "an extent is not empty");
        out[0..4].copy_from_slice(&len.to_be_bytes());
        out[4..8].copy_from_slice(&self.flags.to_be_bytes());
    }
}

/// The body of a chunk whose data is not streamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkBody<'a> {
    /// Nothing.
    None,
    /// Data at an offset.
    Data {
        /// Where it belongs.
        offset: u64,
        /// The data.
        data: &'a [u8],
    },
    /// Zeroes at an offset.
    Hole {
        /// Where they belong.
        offset: u64,
        /// How many bytes.
        len: u32,
    },
    /// Block status; [`extents`](Self::extents) walks through them.
    BlockStatus {
        /// Which metadata context.
        context: u32,
        /// Descriptors of eight bytes.
        descriptors: &'a [u8],
    },
    /// The request failed.
    Error {
        /// Number as it came, not 0.
        error: u32,
        /// Text for people.
        message: &'a str,
        /// Where, if the chunk says so.
        offset: Option<u64>,
    },
}

impl<'a> ChunkBody<'a> {
    /// Reads the body of a chunk, which is exactly `bytes`.
    ///
    /// # Errors
    /// When lengths or values contradict the chunk's type; an unknown type that is no error.
    pub fn parse(kind: ChunkType, bytes: &'a [u8]) -> Result<ChunkBody<'a>, Malformed> {
        let wrong = Malformed::Length("reply chunk");
        let mut reader = Reader::new(bytes);
        if kind.is_error() {
            return ChunkBody::parse_error(kind, reader);
        }
        match kind {
            ChunkType::NONE if bytes.is_empty() => Ok(ChunkBody::None),
            ChunkType::OFFSET_DATA if bytes.len() > 8 => {
                Ok(ChunkBody::Data { offset: reader.u64().ok_or(wrong)?, data: reader.rest() })
            }
            ChunkType::OFFSET_HOLE if bytes.len() == 12 => {
                let (offset, len) = (reader.u64().ok_or(wrong)?, reader.u32().ok_or(wrong)?);
                if len == 0 { Err(wrong) } else { Ok(ChunkBody::Hole { offset, len }) }
            }
            ChunkType::BLOCK_STATUS if bytes.len() >= 12 && bytes.len() % 8 == 4 => {
                let context = reader.u32().ok_or(wrong)?;
                let descriptors = reader.rest();
                if descriptors.chunks_exact(8).any(|extent| be32(extent, 0) == 0) {
                    return Err(wrong);
                }
                Ok(ChunkBody::BlockStatus { context, descriptors })
            }
            ChunkType::NONE
            | ChunkType::OFFSET_DATA
            | ChunkType::OFFSET_HOLE
            | ChunkType::BLOCK_STATUS => Err(wrong),
            ChunkType(_) => Err(Malformed::Value("type of a reply chunk")),
        }
    }

    fn parse_error(kind: ChunkType, mut reader: Reader<'a>) -> Result<ChunkBody<'a>, Malformed> {
        let wrong = Malformed::Length("error chunk");
        let error = reader.u32().ok_or(wrong)?;
        let len = usize::from(reader.u16().ok_or(wrong)?);
        if len > NBD_STRING_MAX {
            return Err(wrong);
        }
        let message = super::text("error chunk", reader.bytes(len).ok_or(wrong)?)?;
        let offset = match kind {
            ChunkType::ERROR_OFFSET => Some(reader.u64().ok_or(wrong)?),
            ChunkType(_) => None,
        };
        if error == 0 {
            return Err(Malformed::Value("error number 0"));
        }
        Ok(ChunkBody::Error { error, message, offset })
    }

    /// The extents of a block status; nothing for other bodies.
    pub fn extents(&self) -> impl Iterator<Item = Extent> + 'a {
        let descriptors = match self {
            ChunkBody::BlockStatus { descriptors, .. } => descriptors,
            ChunkBody::None
            | ChunkBody::Data { .. }
            | ChunkBody::Hole { .. }
            | ChunkBody::Error { .. } => &[][..],
        };
        descriptors
            .chunks_exact(8)
            .map(|extent| Extent { len: be32(extent, 0).into(), flags: be32(extent, 4) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Section *Simple reply message*.
    #[test]
    fn simple_reply_bytes() {
        let bytes = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8];
        let reply = SimpleReply { error: 5, cookie: 0x0102_0304_0506_0708 };
        assert_eq!(SimpleReply::parse(&bytes), Ok(reply));
        let mut out = [0xa5; 16];
        reply.emit(&mut out);
        assert_eq!(out, bytes);
        assert!(SimpleReply::parse(&[0; 16]).is_err());
    }

    /// Section *Structured reply types*, NBD_REPLY_TYPE_OFFSET_DATA.
    #[test]
    fn data_chunk_bytes() {
        #[rustfmt::skip]
        let bytes = [
            0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1, // DONE, OFFSET_DATA
            1, 2, 3, 4, 5, 6, 7, 8, // cookie
            0, 0, 2, 8,             // length: 512 + 8
            0, 0, 0, 0, 0, 0, 0x10, 0, // offset
        ];
        let cookie = 0x0102_0304_0506_0708;
        let mut out = [0xa5; 28];
        DataChunk { last: true, cookie, offset: 4096, len: 512 }.emit(&mut out);
        assert_eq!(out, bytes);
        let header =
            ChunkHeader::parse(bytes[..20].try_into().expect("20 bytes")).expect("well-formed");
        assert_eq!(
            (header.kind, header.len, header.is_last()),
            (ChunkType::OFFSET_DATA, 520, true)
        );
        assert!(ChunkHeader::parse(&[0; 20]).is_err());
    }

    /// Section *Structured reply types*, NBD_REPLY_TYPE_ERROR.
    #[test]
    fn error_chunk_bytes() {
        #[rustfmt::skip]
        let bytes = [
            0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, // DONE, ERROR
            0, 0, 0, 0, 0, 0, 0, 9,
            0, 0, 0, 6,
            0, 0, 0, 22, 0, 0,
        ];
        let mut out = [0xa5; 26];
        ErrorChunk { cookie: 9, error: NbdError::Invalid }.emit(&mut out);
        assert_eq!(out, bytes);
        let body = ChunkBody::parse(ChunkType::ERROR, &bytes[20..]);
        assert_eq!(body, Ok(ChunkBody::Error { error: 22, message: "", offset: None }));
    }

    /// Section *Structured reply types*: bodies as a client reads them.
    #[test]
    fn bodies() {
        assert_eq!(ChunkBody::parse(ChunkType::NONE, &[]), Ok(ChunkBody::None));
        let data = [0, 0, 0, 0, 0, 0, 0, 3, 7];
        let expect = ChunkBody::Data { offset: 3, data: &[7] };
        assert_eq!(ChunkBody::parse(ChunkType::OFFSET_DATA, &data), Ok(expect));
        let hole = [0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 9];
        let expect = ChunkBody::Hole { offset: 3, len: 9 };
        assert_eq!(ChunkBody::parse(ChunkType::OFFSET_HOLE, &hole), Ok(expect));
        let status = [0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 4, 0, 0, 0, 0, 0];
        let body = ChunkBody::parse(ChunkType::BLOCK_STATUS, &status).expect("well-formed");
        let extents: Vec<Extent> = body.extents().collect();
        assert_eq!(extents, [Extent { len: 512, flags: 3 }, Extent { len: 1024, flags: 0 }]);
        let error = [0, 0, 0, 5, 0, 2, b'n', b'o', 0, 0, 0, 0, 0, 0, 0, 1];
        let expect = ChunkBody::Error { error: 5, message: "no", offset: Some(1) };
        assert_eq!(ChunkBody::parse(ChunkType::ERROR_OFFSET, &error), Ok(expect));
    }

    /// Section *Structured reply types*: what a client must refuse.
    #[test]
    fn malformed_bodies() {
        let cases: [(ChunkType, &[u8]); 11] = [
            (ChunkType::NONE, &[0]),
            (ChunkType::OFFSET_DATA, &[0; 8]),
            (ChunkType::OFFSET_HOLE, &[0; 12]),
            (ChunkType::OFFSET_HOLE, &[1; 13]),
            (ChunkType::BLOCK_STATUS, &[1; 4]),
            (ChunkType::BLOCK_STATUS, &[1; 11]),
            (ChunkType::BLOCK_STATUS, &[0; 12]),
            (ChunkType::ERROR, &[0, 0, 0, 0, 0, 0]),
            (ChunkType::ERROR, &[0, 0, 0, 1, 0, 1]),
            (ChunkType::ERROR_OFFSET, &[0, 0, 0, 1, 0, 0, 1]),
            (ChunkType(77), &[]),
        ];
        for (kind, body) in cases {
            assert!(ChunkBody::parse(kind, body).is_err(), "{kind:?} {body:?}");
        }
        // An unknown error type still is an error and nothing worse.
        assert!(ChunkBody::parse(ChunkType(0x8055), &[0, 0, 0, 1, 0, 0, 9, 9]).is_ok());
    }

    #[test]
    fn extent_bytes() {
        let mut out = [0xa5; 8];
        Extent { len: Extent::MAX, flags: 2 }.emit(&mut out);
        assert_eq!(out, [0xff, 0xff, 0, 0, 0, 0, 0, 2]);
    }

    proptest! {
        #[test]
        fn any_body_parses_or_errs(kind: u16, body in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(body) = ChunkBody::parse(ChunkType(kind), &body) {
                prop_assert!(body.extents().all(|extent| extent.len > 0));
            }
        }
    }
}
