//! The NBD protocol (fixed newstyle), both sides: bytes to meaning and back.
//!
//! Reference: `doc/proto.md` of the NetworkBlockDevice project; section titles below are its titles.
//!
//! A connection has two phases. *Haggling* (file `haggle.rs`): the server greets, the client answers with
//! 32 bits of flags, then sends options, each answered by one or more option replies; EXPORT_NAME or GO ends
//! it. *Transmission* (`request.rs`, `reply.rs`): 28-byte requests, WRITE followed by its payload; simple
//! replies, or chunks of structured replies where these were agreed.
//!
//! Every fixed-size message has `parse(&[u8; LEN])` and `emit(&self, &mut [u8; LEN])`; everything is big
//! endian. Bodies of variable length are parsed from a slice that holds exactly the body. Values that we do
//! not know survive a round trip and print in hex.
//!
//! Deliberately not here: what a message does to a connection (that is `export`), TLS, extended headers and
//! RESIZE (no part of what this project speaks).

pub mod errno;
pub mod haggle;
pub mod meta;
pub mod reply;
pub mod request;

pub use errno::NbdError;

/// First eight bytes of the greeting (section *Newstyle negotiation*): `NBDMAGIC`.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second eight bytes of the greeting, and the start of every option: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Start of every option reply (section *Fixed newstyle negotiation*).
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of every request (section *Request message*).
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of a simple reply (section *Simple reply message*).
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of a chunk of a structured reply (section *Structured reply chunk message*).
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Bytes that no conforming peer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A message does not start with its magic number.
    #[error("{what} starts with {got:#x}, not with its magic number")]
    Magic {
        /// Which message was expected.
        what: &'static str,
        /// What came instead.
        got: u64,
    },
    /// Lengths inside a message contradict each other or the message's own length.
    #[error("{0}: lengths do not fit the message")]
    Length(&'static str),
    /// A string is longer than 4096 bytes, is not UTF-8 or holds a NUL.
    #[error("{0}: not a valid string")]
    Text(&'static str),
    /// A value that the protocol forbids in this place.
    #[error("{0}: forbidden value")]
    Value(&'static str),
}

/// A number on the wire with names for the values that we know; others print in hex.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident($repr:ty) { $($(#[$item:meta])* $name:ident = $value:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $type(pub $repr);
        impl $type {
            $($(#[$item])* pub const $name: $type = $type($value);)*
        }
        impl core::fmt::Debug for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match *self {
                    $($type::$name => f.write_str(stringify!($name)),)*
                    $type(other) => write!(f, "{}({other:#x})", stringify!($type)),
                }
            }
        }
    };
}

named! {
    /// An option (section *Option types*).
    OptionCode(u32) {
        /// Choose an export and begin transmission, without any error reply.
        EXPORT_NAME = 1,
        /// Give up.
        ABORT = 2,
        /// List the exports.
        LIST = 3,
        /// Withdrawn.
        PEEK_EXPORT = 4,
        /// Begin TLS.
        STARTTLS = 5,
        /// Describe an export.
        INFO = 6,
        /// Choose an export and begin transmission.
        GO = 7,
        /// Answer reads by chunks.
        STRUCTURED_REPLY = 8,
        /// List metadata contexts.
        LIST_META_CONTEXT = 9,
        /// Select metadata contexts.
        SET_META_CONTEXT = 10,
        /// 32-byte headers with 64-bit lengths.
        EXTENDED_HEADERS = 11,
    }
}

named! {
    /// Type of an option reply (section *Option reply types*); errors have bit 31 set.
    ReplyType(u32) {
        /// Done.
        ACK = 1,
        /// One export of a LIST.
        SERVER = 2,
        /// One piece of information of INFO and GO.
        INFO = 3,
        /// One metadata context.
        META_CONTEXT = 4,
        /// The option is not known.
        ERR_UNSUP = 0x8000_0001,
        /// Forbidden by the administrator.
        ERR_POLICY = 0x8000_0002,
        /// Malformed, or not allowed now.
        ERR_INVALID = 0x8000_0003,
        /// Not on this platform.
        ERR_PLATFORM = 0x8000_0004,
        /// TLS must come first.
        ERR_TLS_REQD = 0x8000_0005,
        /// No such export.
        ERR_UNKNOWN = 0x8000_0006,
        /// The server is stopping.
        ERR_SHUTDOWN = 0x8000_0007,
        /// The client must ask for block sizes first.
        ERR_BLOCK_SIZE_REQD = 0x8000_0008,
        /// The option is too long.
        ERR_TOO_BIG = 0x8000_0009,
        /// Extended headers must come first.
        ERR_EXT_HEADER_REQD = 0x8000_000a,
    }
}

impl ReplyType {
    /// Whether this is an error.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 & 0x8000_0000 != 0
    }
}

named! {
    /// Type of a piece of information in INFO and GO (section *Option reply types*, NBD_REP_INFO).
    InfoType(u16) {
        /// Size and transmission flags.
        EXPORT = 0,
        /// Canonical name.
        NAME = 1,
        /// Description for people.
        DESCRIPTION = 2,
        /// Block size constraints.
        BLOCK_SIZE = 3,
    }
}

named! {
    /// A command (section *Request types*).
    Command(u16) {
        /// Read.
        READ = 0,
        /// Write; the payload follows.
        WRITE = 1,
        /// Disconnect; no reply.
        DISC = 2,
        /// Flush volatile caches.
        FLUSH = 3,
        /// Discard.
        TRIM = 4,
        /// Read ahead.
        CACHE = 5,
        /// Write zeroes without sending them.
        WRITE_ZEROES = 6,
        /// Ask what is allocated.
        BLOCK_STATUS = 7,
        /// Experimental; not spoken here.
        RESIZE = 8,
    }
}

named! {
    /// Type of a chunk of a structured reply; errors have bit 15 set.
    ChunkType(u16) {
        /// Nothing more.
        NONE = 0,
        /// Data at an offset.
        OFFSET_DATA = 1,
        /// A hole at an offset.
        OFFSET_HOLE = 2,
        /// Block status of one metadata context.
        BLOCK_STATUS = 5,
        /// An error.
        ERROR = 0x8001,
        /// An error at an offset.
        ERROR_OFFSET = 0x8002,
    }
}

impl ChunkType {
    /// Whether this is an error.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 & 0x8000 != 0
    }
}

/// Handshake flags of both sides (sections *Handshake flags* and *Client flags*: same bits).
pub mod handshake_flags {
    /// Fixed newstyle is spoken.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// No 124 zero bytes after the answer to EXPORT_NAME.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Transmission flags (section *Transmission flags*).
pub mod transmission_flags {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH works.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The FUA flag works.
    pub const SEND_FUA: u16 = 1 << 3;
    /// The medium rotates.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// TRIM works.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES works.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The DF flag works.
    pub const SEND_DF: u16 = 1 << 7;
    /// A FLUSH on one connection covers all connections.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE works.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The FAST_ZERO flag works.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Command flags (section *Command flags*).
pub mod command_flags {
    /// Reply only when the data is on stable storage.
    pub const FUA: u16 = 1 << 0;
    /// WRITE_ZEROES must leave no hole.
    pub const NO_HOLE: u16 = 1 << 1;
    /// READ must come back in one chunk.
    pub const DF: u16 = 1 << 2;
    /// BLOCK_STATUS wants one extent.
    pub const REQ_ONE: u16 = 1 << 3;
    /// WRITE_ZEROES only if that is fast.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Status flags of the `base:allocation` metadata context.
pub mod extent_flags {
    /// Not allocated.
    pub const HOLE: u32 = 1 << 0;
    /// Reads as zeroes.
    pub const ZERO: u32 = 1 << 1;
}

/// Bytes `at..at + N` of a message of fixed size.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a range of N bytes is N bytes long")
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(field(bytes, at))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(field(bytes, at))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(field(bytes, at))
}

/// Takes a body of variable length apart; every step says whether the bytes were there.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(rest: &'a [u8]) -> Reader<'a> {
        Reader { rest }
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.bytes(2).map(|bytes| be16(bytes, 0))
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes(4).map(|bytes| be32(bytes, 0))
    }

    fn u64(&mut self) -> Option<u64> {
        self.bytes(8).map(|bytes| be64(bytes, 0))
    }

    /// A string with its 32-bit length before it.
    fn counted(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.bytes(usize::try_from(len).ok()?)
    }

    fn rest(self) -> &'a [u8] {
        self.rest
    }
}

/// Section *Values*: strings are UTF-8, without NUL, at most 4096 bytes.
///
/// # Errors
/// [`Malformed::Text`] naming `what`.
pub fn text<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a str, Malformed> {
    if bytes.len() > crate::limits::NBD_STRING_MAX || bytes.contains(&0) {
        return Err(Malformed::Text(what));
    }
    core::str::from_utf8(bytes).map_err(|_| Malformed::Text(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_print_by_name_and_others_in_hex() {
        assert_eq!(format!("{:?}", OptionCode::GO), "GO");
        assert_eq!(format!("{:?}", OptionCode(0x7fff)), "OptionCode(0x7fff)");
        assert_eq!(format!("{:?}", ChunkType::ERROR), "ERROR");
        assert!(ReplyType::ERR_UNSUP.is_error() && !ReplyType::ACK.is_error());
        assert!(ChunkType::ERROR_OFFSET.is_error() && !ChunkType::NONE.is_error());
    }

    /// Section *Values*: strings.
    #[test]
    fn strings() {
        assert_eq!(text("name", b"vm0"), Ok("vm0"));
        assert_eq!(text("name", b""), Ok(""));
        assert!(text("name", &[b'a'; 4096]).is_ok());
        assert_eq!(text("name", &[b'a'; 4097]), Err(Malformed::Text("name")));
        assert_eq!(text("name", b"a\0b"), Err(Malformed::Text("name")));
        assert_eq!(text("name", &[0xff, 0xfe]), Err(Malformed::Text("name")));
    }

    #[test]
    fn a_reader_never_reads_past_the_end() {
        let mut reader = Reader::new(&[0, 0, 0, 2, 7, 8, 9]);
        assert_eq!(reader.counted(), Some(&[7, 8][..]));
        assert_eq!(reader.u16(), None);
        assert_eq!(reader.rest(), &[9]);
        assert_eq!(Reader::new(&[0xff; 6]).counted(), None);
    }
}
