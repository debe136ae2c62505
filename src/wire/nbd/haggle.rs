//! Messages of the haggling phase: greeting, client flags, options, option replies, INFO and GO.

use super::{
    GREETING_MAGIC, InfoType, Malformed, OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionCode, Reader,
    ReplyType, be16, be32, be64, text,
};

/// What the server says first (section *Newstyle negotiation*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// [`super::handshake_flags`].
    pub flags: u16,
}

impl Greeting {
    /// Bytes on the wire.
    pub const LEN: usize = 18;

    /// Reads it; also oldstyle servers end here.
    ///
    /// # Errors
    /// When one of the two magic numbers is wrong.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Greeting, Malformed> {
        for (at, magic) in [(0, GREETING_MAGIC), (8, OPTION_MAGIC)] {
            let got = be64(bytes, at);
            if got != magic {
                return Err(Malformed::Magic { what: "greeting", got });
            }
        }
        Ok(Greeting { flags: be16(bytes, 16) })
    }

    /// Writes it.
    pub fn emit(&self, out: &mut [u8; Self::LEN]) {
        out[0..8].copy_from_slice(&GREETING_MAGIC.to_be_bytes());
        out[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        out[16..18].copy_from_slice(&self.flags.to_be_bytes());
    }
}

/// The header of an option; `len` bytes follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option.
    pub option: OptionCode,
    /// Bytes that follow.
    pub len: u32,
}

impl OptionHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 16;

    /// Reads it.
    ///
    /// # Errors
    /// When the magic number is wrong.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<OptionHeader, Malformed> {
        let got = be64(bytes, 0);
        if got != OPTION_MAGIC {
            return Err(Malformed::Magic { what: "option", got });
        }
        Ok(OptionHeader { option: OptionCode(be32(bytes, 8)), len: be32(bytes, 12) })
    }

    /// Writes it.
    pub fn emit(&self, out: &mut [u8; Self::LEN]) {
        out[0..8].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        out[8..12].copy_from_slice(&self.option.0.to_be_bytes());
        out[12..16].copy_from_slice(&self.len.to_be_bytes());
    }
}

/// The header of an option reply; `len` bytes follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// Which option it answers.
    pub option: OptionCode,
    /// What it is.
    pub kind: ReplyType,
    /// Bytes that follow.
    pub len: u32,
}

impl OptionReplyHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 20;

    /// Reads it.
    ///
    /// # Errors
    /// When the magic number is wrong.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<OptionReplyHeader, Malformed> {
        let got = be64(bytes, 0);
        if got != OPTION_REPLY_MAGIC {
            return Err(Malformed::Magic { what: "option reply", got });
        }
        Ok(OptionReplyHeader {
            option: OptionCode(be32(bytes, 8)),
            kind: ReplyType(be32(bytes, 12)),
            len: be32(bytes, 16),
        })
    }

    /// Writes it.
    pub fn emit(&self, out: &mut [u8; Self::LEN]) {
        out[0..8].copy_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        out[8..12].copy_from_slice(&self.option.0.to_be_bytes());
        out[12..16].copy_from_slice(&self.kind.0.to_be_bytes());
        out[16..20].copy_from_slice(&self.len.to_be_bytes());
    }
}

/// Answer to EXPORT_NAME (section *Newstyle negotiation*): 10 bytes, then 124 zeroes unless both sides set
/// NO_ZEROES.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportNameReply {
    /// Size of the export in bytes.
    pub size: u64,
    /// [`super::transmission_flags`].
    pub flags: u16,
}

impl ExportNameReply {
    /// Bytes on the wire without the zeroes.
    pub const LEN: usize = 10;
    /// Zero bytes that follow unless both sides set NO_ZEROES.
    pub const ZEROES: usize = 124;

    /// Reads it.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::LEN]) -> ExportNameReply {
        ExportNameReply { size: be64(bytes, 0), flags: be16(bytes, 8) }
    }

    /// Writes it.
    pub fn emit(&self, out: &mut [u8; Self::LEN]) {
        out[0..8].copy_from_slice(&self.size.to_be_bytes());
        out[8..10].copy_from_slice(&self.flags.to_be_bytes());
    }
}

/// Body of INFO and GO (section *INFO and GO*): a name and a list of wanted information.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InfoRequest<'a> {
    /// Export name; empty for the default export.
    pub name: &'a str,
    wanted: &'a [u8],
}

impl<'a> InfoRequest<'a> {
    /// Reads the body.
    ///
    /// # Errors
    /// When lengths contradict each other, or the name is no valid string.
    pub fn parse(body: &'a [u8]) -> Result<InfoRequest<'a>, Malformed> {
        let wrong = Malformed::Length("INFO or GO");
        let mut reader = Reader::new(body);
        let name = reader.counted().ok_or(wrong)?;
        let count = usize::from(reader.u16().ok_or(wrong)?);
        let wanted = reader.rest();
        if wanted.len() != count * 2 {
            return Err(wrong);
        }
        Ok(InfoRequest { name: text("export name", name)?, wanted })
    }

    /// Whether the client asked for `kind`; unknown kinds and repetitions do not matter.
    #[must_use]
    pub fn wants(&self, kind: InfoType) -> bool {
        self.wanted.chunks_exact(2).any(|bytes| be16(bytes, 0) == kind.0)
    }

    /// Appends a body.
    ///
    /// # Panics
    /// When the name is longer than 4096 bytes or more than 65535 pieces are wanted.
    pub fn emit(name: &str, wanted: &[InfoType], out: &mut Vec<u8>) {
        put_counted(name, out);
        let count = u16::try_from(wanted.len()).expect("few pieces of information exist");
        out.extend_from_slice(&count.to_be_bytes());
        for kind in wanted {
            out.extend_from_slice(&kind.0.to_be_bytes());
        }
    }
}

/// Block size constraints (section *Block size constraints*), bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Smallest unit that a client may address.
    pub minimum: u32,
    /// Unit of good performance.
    pub preferred: u32,
    /// Largest payload.
    pub payload_max: u32,
}

/// One NBD_REP_INFO body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Info<'a> {
    /// Size and transmission flags.
    Export(ExportNameReply),
    /// Canonical name.
    Name(&'a str),
    /// Description for people.
    Description(&'a str),
    /// Block size constraints.
    BlockSize(BlockSizes),
    /// Something that we do not know: clients ignore it.
    Unknown(InfoType),
}

impl<'a> Info<'a> {
    /// Reads the body.
    ///
    /// # Errors
    /// When a known type has a wrong length or is no valid string.
    pub fn parse(body: &'a [u8]) -> Result<Info<'a>, Malformed> {
        let wrong = Malformed::Length("information");
        let mut reader = Reader::new(body);
        let kind = InfoType(reader.u16().ok_or(wrong)?);
        match kind {
            InfoType::EXPORT => {
                let rest = reader.rest().try_into().map_err(|_| wrong)?;
                Ok(Info::Export(ExportNameReply::parse(rest)))
            }
            InfoType::NAME => Ok(Info::Name(text("canonical name", reader.rest())?)),
            InfoType::DESCRIPTION => Ok(Info::Description(text("description", reader.rest())?)),
            InfoType::BLOCK_SIZE => {
                let rest = reader.rest();
                if rest.len() != 12 {
                    return Err(wrong);
                }
                Ok(Info::BlockSize(BlockSizes {
                    minimum: be32(rest, 0),
                    preferred: be32(rest, 4),
                    payload_max: be32(rest, 8),
                }))
            }
            InfoType(_) => Ok(Info::Unknown(kind)),
        }
    }

    /// Appends the body.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Info::Export(reply) => {
                out.extend_from_slice(&InfoType::EXPORT.0.to_be_bytes());
                let mut bytes = [0; ExportNameReply::LEN];
                reply.emit(&mut bytes);
                out.extend_from_slice(&bytes);
            }
            Info::Name(name) => {
                out.extend_from_slice(&InfoType::NAME.0.to_be_bytes());
                out.extend_from_slice(name.as_bytes());
            }
            Info::Description(description) => {
                out.extend_from_slice(&InfoType::DESCRIPTION.0.to_be_bytes());
                out.extend_from_slice(description.as_bytes());
            }
            Info::BlockSize(sizes) => {
                out.extend_from_slice(&InfoType::BLOCK_SIZE.0.to_be_bytes());
                for size in [sizes.minimum, sizes.preferred, sizes.payload_max] {
                    out.extend_from_slice(&size.to_be_bytes());
                }
            }
            Info::Unknown(kind) => out.extend_from_slice(&kind.0.to_be_bytes()),
        }
    }
}

/// Body of a NBD_REP_SERVER: one export of a LIST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerRecord<'a> {
    /// Export name.
    pub name: &'a str,
    /// Description for people; may be empty.
    pub description: &'a str,
}

impl<'a> ServerRecord<'a> {
    /// Reads the body.
    ///
    /// # Errors
    /// When lengths contradict each other or a text is no valid string.
    pub fn parse(body: &'a [u8]) -> Result<ServerRecord<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let name = reader.counted().ok_or(Malformed::Length("export record"))?;
        Ok(ServerRecord {
            name: text("export name", name)?,
            description: text("description", reader.rest())?,
        })
    }

    /// Appends the body.
    ///
    /// # Panics
    /// When the name is longer than 4096 bytes.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put_counted(self.name, out);
        out.extend_from_slice(self.description.as_bytes());
    }
}

/// Appends a string with its 32-bit length before it.
pub(super) fn put_counted(string: &str, out: &mut Vec<u8>) {
    assert!(string.len() <= crate::limits::NBD_STRING_MAX, "strings have at most 4096 bytes");
    out.extend_from_slice(&(string.len() as u32).to_be_bytes());
    out.extend_from_slice(string.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::nbd::handshake_flags;
    use proptest::prelude::*;

    /// Section *Newstyle negotiation*.
    #[test]
    fn greeting_bytes() {
        let greeting =
            Greeting { flags: handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES };
        let mut out = [0xa5; 18];
        greeting.emit(&mut out);
        assert_eq!(&out, b"NBDMAGICIHAVEOPT\x00\x03");
        assert_eq!(Greeting::parse(&out), Ok(greeting));
        // The oldstyle greeting has another second word.
        out[8..16].copy_from_slice(&0x0000_4202_8186_1253_u64.to_be_bytes());
        assert!(Greeting::parse(&out).is_err());
        assert!(Greeting::parse(&[0; 18]).is_err());
    }

    /// Section *Fixed newstyle negotiation*.
    #[test]
    fn option_bytes() {
        let header = OptionHeader { option: OptionCode::GO, len: 0x0102 };
        let mut out = [0xa5; 16];
        header.emit(&mut out);
        assert_eq!(&out, b"IHAVEOPT\x00\x00\x00\x07\x00\x00\x01\x02");
        assert_eq!(OptionHeader::parse(&out), Ok(header));
        out[7] ^= 1;
        assert!(OptionHeader::parse(&out).is_err());

        let header = OptionReplyHeader {
            option: OptionCode(0x7fff_ffff),
            kind: ReplyType::ERR_UNSUP,
            len: 3,
        };
        let mut out = [0xa5; 20];
        header.emit(&mut out);
        let expect =
            b"\x00\x03\xe8\x89\x04\x55\x65\xa9\x7f\xff\xff\xff\x80\x00\x00\x01\x00\x00\x00\x03";
        assert_eq!(&out, expect);
        assert_eq!(OptionReplyHeader::parse(&out), Ok(header));
        out[0] = 1;
        assert!(OptionReplyHeader::parse(&out).is_err());
    }

    #[test]
    fn export_name_reply_bytes() {
        let reply = ExportNameReply { size: 0x1_0000_0000, flags: 0x010d };
        let mut out = [0xa5; 10];
        reply.emit(&mut out);
        assert_eq!(out, [0, 0, 0, 1, 0, 0, 0, 0, 1, 0x0d]);
        assert_eq!(ExportNameReply::parse(&out), reply);
    }

    /// Section *INFO and GO*.
    #[test]
    fn info_request_bytes() {
        let mut out = Vec::new();
        InfoRequest::emit("vm0", &[InfoType::BLOCK_SIZE, InfoType(9)], &mut out);
        assert_eq!(out, b"\x00\x00\x00\x03vm0\x00\x02\x00\x03\x00\x09");
        let request = InfoRequest::parse(&out).expect("well-formed");
        assert_eq!(request.name, "vm0");
        assert!(request.wants(InfoType::BLOCK_SIZE) && !request.wants(InfoType::NAME));
    }

    /// Section *INFO and GO*: every malformed variant.
    #[test]
    fn malformed_info_requests() {
        let cases: [&[u8]; 12] = [
            b"",
            b"\x00",
            b"\x00\x00\x00",
            b"\x00\x00\x00\x00",
            b"\x00\x00\x00\x00\x00",
            b"\xff\xff\xff\xff\x00\x00",
            b"\x00\x00\x00\x02a\x00\x00", // name length: option length - 5
            b"\x00\x00\x00\x01a\x00\x01", // count 1, nothing follows
            b"\x00\x00\x00\x01a\x00\x00\x00\x03", // count 0, something follows
            b"\x00\x00\x00\x01a\xff\xff\x00\x03", // count 65535
            b"\x00\x00\x00\x01\x00\x00\x00", // NUL in the name
            b"\x00\x00\x00\x01\xff\x00\x00", // not UTF-8
        ];
        for case in cases {
            assert!(InfoRequest::parse(case).is_err(), "{case:?}");
        }
    }

    /// Section *Option reply types*, NBD_REP_INFO.
    #[test]
    fn info_bytes() {
        let sizes = BlockSizes { minimum: 512, preferred: 4096, payload_max: 1 << 25 };
        let cases: [(Info<'_>, &[u8]); 5] = [
            (
                Info::Export(ExportNameReply { size: 512, flags: 0xd }),
                b"\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x0d",
            ),
            (Info::Name("vm0"), b"\x00\x01vm0"),
            (Info::Description("d"), b"\x00\x02d"),
            (Info::BlockSize(sizes), b"\x00\x03\x00\x00\x02\x00\x00\x00\x10\x00\x02\x00\x00\x00"),
            (Info::Unknown(InfoType(9)), b"\x00\x09"),
        ];
        for (info, bytes) in cases {
            let mut out = Vec::new();
            info.emit(&mut out);
            assert_eq!(out, bytes);
            assert_eq!(Info::parse(bytes), Ok(info));
        }
        let malformed: [&[u8]; 4] = [b"", b"\x00", b"\x00\x00\x01", b"\x00\x03\x01"];
        for bytes in malformed {
            assert!(Info::parse(bytes).is_err());
        }
    }

    /// Section *Option reply types*, NBD_REP_SERVER.
    #[test]
    fn server_record_bytes() {
        let record = ServerRecord { name: "vm0", description: "disk" };
        let mut out = Vec::new();
        record.emit(&mut out);
        assert_eq!(out, b"\x00\x00\x00\x03vm0disk");
        assert_eq!(ServerRecord::parse(&out), Ok(record));
        assert!(ServerRecord::parse(b"\x00\x00\x00\x04vm0").is_err());
    }

    proptest! {
        #[test]
        fn any_body_parses_or_errs(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = InfoRequest::parse(&body).map(|request| request.wants(InfoType::NAME));
            let _ = Info::parse(&body);
            let _ = ServerRecord::parse(&body);
        }
    }
}
