//! Requests of the transmission phase (section *Request message*): 28 bytes, then the payload of a WRITE.

use super::{Command, Malformed, REQUEST_MAGIC, be16, be32, be64};

/// A request without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// [`super::command_flags`], also bits that we do not know.
    pub flags: u16,
    /// What to do.
    pub command: Command,
    /// The client's word for this request: comes back unchanged.
    pub cookie: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Length of the range, and of a WRITE's payload, in bytes.
    pub len: u32,
}

impl RequestHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 28;

    /// Reads one request header.
    ///
    /// # Errors
    /// When the magic number is wrong: the stream is out of step and cannot be used any more.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<RequestHeader, Malformed> {
        let magic = be32(bytes, 0);
        if magic != REQUEST_MAGIC {
            return Err(Malformed::Magic { what: "request", got: magic.into() });
        }
        Ok(RequestHeader {
            flags: be16(bytes, 4),
            command: Command(be16(bytes, 6)),
            cookie: be64(bytes, 8),
            offset: be64(bytes, 16),
            len: be32(bytes, 24),
        })
    }

    /// Writes the header.
    pub fn emit(&self, out: &mut [u8; Self::LEN]) {
        out[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.command.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..28].copy_from_slice(&self.len.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::nbd::command_flags;

    #[rustfmt::skip]
    const WRITE_FUA: [u8; 28] = [
        0x25, 0x60, 0x95, 0x13, // magic
        0x00, 0x01,             // FUA
        0x00, 0x01,             // WRITE
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // cookie
        0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x02, 0x00, // offset
        0x00, 0x00, 0x10, 0x00, // length
    ];

    /// Section *Request message*.
    #[test]
    fn literal_bytes() {
        let header = RequestHeader {
            flags: command_flags::FUA,
            command: Command::WRITE,
            cookie: 0x0102_0304_0506_0708,
            offset: 0x10_0000_0200,
            len: 4096,
        };
        assert_eq!(RequestHeader::parse(&WRITE_FUA), Ok(header));
        let mut out = [0xa5; 28];
        header.emit(&mut out);
        assert_eq!(out, WRITE_FUA);
    }

    /// Section *Request message*: the magic number decides.
    #[test]
    fn wrong_magic() {
        for magic in [0x2560_9514_u32, 0x1256_0953, 0x21e4_1c71, 0] {
            let mut bytes = WRITE_FUA;
            bytes[..4].copy_from_slice(&magic.to_be_bytes());
            let got = u64::from(magic);
            let expect = Err(Malformed::Magic { what: "request", got });
            assert_eq!(RequestHeader::parse(&bytes), expect);
        }
    }
}
