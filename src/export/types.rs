//! What goes in and out of a connection: catalog, export description, requests, answers, events.

use super::slots::Handle;
use crate::base::Payload;
use crate::limits::NBD_PAYLOAD_MAX;
use crate::wire::nbd::haggle::BlockSizes;
use crate::wire::nbd::reply::Extent;
use crate::wire::nbd::{Malformed, NbdError, OptionCode, ReplyType, transmission_flags as flag};
use std::sync::Arc;

/// One export as LIST shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    /// Name, at most 4096 bytes, without NUL.
    pub name: String,
    /// Description for people, at most 4096 bytes, without NUL; may be empty.
    pub description: String,
}

/// The exports that a connection can reach; shared by all connections of one listener.
#[derive(Debug, Clone)]
pub struct Catalog(Arc<Exports>);

#[derive(Debug)]
struct Exports {
    entries: Vec<CatalogEntry>,
    default: Option<usize>,
}

impl Catalog {
    /// A catalog; `default` is the index of the export that the empty name stands for.
    ///
    /// # Panics
    /// When `default` is no index of `entries`, or a text is longer than 4096 bytes or holds a NUL: names come
    /// from a configuration that was checked.
    #[must_use]
    pub fn new(entries: Vec<CatalogEntry>, default: Option<usize>) -> Catalog {
        assert!(default.is_none_or(|at| at < entries.len()), "the default export exists");
        for text in entries.iter().flat_map(|entry| [&entry.name, &entry.description]) {
            let valid = crate::wire::nbd::text("export", text.as_bytes());
            assert!(valid.is_ok(), "names and descriptions are valid NBD strings: {text:?}");
        }
        Catalog(Arc::new(Exports { entries, default }))
    }

    /// One export, which also answers to the empty name.
    #[must_use]
    pub fn single(name: &str, description: &str) -> Catalog {
        let entry = CatalogEntry { name: name.into(), description: description.into() };
        Catalog::new(vec![entry], Some(0))
    }

    /// The exports in order.
    #[must_use]
    pub fn entries(&self) -> &[CatalogEntry] {
        &self.0.entries
    }

    /// Index of the export that a client's name stands for.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        if let Some(at) = self.0.entries.iter().position(|entry| entry.name == name) {
            return Some(at);
        }
        if name.is_empty() { self.0.default } else { None }
    }
}

/// What an export is able to do, as told to a client when it chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportInfo {
    /// Size in bytes.
    pub size: u64,
    /// Block size of the logical unit in bytes, a power of two from 1 to 65536: the advertised minimum.
    pub block_size: u32,
    /// Preferred block size in bytes; raised to a power of two of at least `block_size` and 512.
    pub preferred: u32,
    /// Largest payload advertised, bytes; kept between `preferred` and 32 MiB. Requests up to 32 MiB are
    /// accepted anyway.
    pub max_payload: u32,
    /// Writes are refused with EPERM.
    pub read_only: bool,
    /// The medium rotates.
    pub rotational: bool,
    /// TRIM is offered.
    pub trim: bool,
    /// WRITE_ZEROES is offered.
    pub write_zeroes: bool,
    /// FAST_ZERO is offered; only together with `write_zeroes`.
    pub fast_zero: bool,
    /// CACHE is offered.
    pub cache: bool,
    /// A FLUSH on one connection covers what was written on all of them.
    pub multi_conn: bool,
}

impl ExportInfo {
    /// Transmission flags (section *Transmission flags*). FLUSH and FUA are always offered.
    #[must_use]
    pub fn flags(&self, structured: bool) -> u16 {
        let writable = !self.read_only;
        let zeroes = writable && self.write_zeroes;
        let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA;
        for (on, bit) in [
            (self.read_only, flag::READ_ONLY),
            (self.rotational, flag::ROTATIONAL),
            (writable && self.trim, flag::SEND_TRIM),
            (zeroes, flag::SEND_WRITE_ZEROES),
            (zeroes && self.fast_zero, flag::SEND_FAST_ZERO),
            (structured, flag::SEND_DF),
            (self.multi_conn, flag::CAN_MULTI_CONN),
            (self.cache, flag::SEND_CACHE),
        ] {
            if on {
                flags |= bit;
            }
        }
        flags
    }

    /// Block size constraints that satisfy the section *Block size constraints*.
    ///
    /// # Panics
    /// When the block size is not a power of two from 1 to 65536.
    #[must_use]
    pub fn block_sizes(&self) -> BlockSizes {
        let minimum = self.block_size;
        let valid = minimum.is_power_of_two() && minimum <= 65536;
        assert!(valid, "block size {minimum} is not a power of two up to 65536");
        let preferred = self.preferred.clamp(minimum.max(512), NBD_PAYLOAD_MAX).next_power_of_two();
        // Both bounds are powers of two, and so multiples of the minimum.
        let payload_max = self.max_payload.clamp(preferred, NBD_PAYLOAD_MAX);
        BlockSizes { minimum, preferred, payload_max: payload_max - payload_max % minimum }
    }
}

/// Why an export cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is no such export any more.
    #[error("no such export")]
    Unknown,
    /// The device cannot be used now: its logical unit was not found in time.
    #[error("the device is not available now")]
    Unavailable,
    /// The administrator does not allow it to this client.
    #[error("not allowed")]
    Policy,
    /// The daemon is stopping.
    #[error("the server is shutting down")]
    Shutdown,
}

impl OpenError {
    /// The option reply that tells the client.
    pub(super) fn reply_type(self) -> ReplyType {
        match self {
            OpenError::Unknown | OpenError::Unavailable => ReplyType::ERR_UNKNOWN,
            OpenError::Policy => ReplyType::ERR_POLICY,
            OpenError::Shutdown => ReplyType::ERR_SHUTDOWN,
        }
    }
}

/// How a client asks for an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// EXPORT_NAME: begins transmission; a refusal ends the connection.
    ExportName,
    /// INFO: only wants to know.
    Info,
    /// GO: begins transmission.
    Go,
}

/// What a connection wants of its driver.
#[derive(Debug)]
pub enum Event {
    /// The client chose an export of the catalog: answer with [`super::Connection::open`].
    Open {
        /// The export's name in the catalog.
        name: String,
        /// What follows if it can be opened.
        purpose: Purpose,
    },
    /// A request whose payload is complete: answer with [`super::Connection::reply`].
    Request(Request),
    /// Nothing more will be said on this connection: send what `tx` holds, then give the socket up. Requests
    /// in flight must still be answered; the answers are dropped.
    Closed(CloseReason),
}

/// A request that passed every check of the protocol and lies inside the export.
#[derive(Debug)]
pub struct Request {
    /// For the answer.
    pub handle: Handle,
    /// What to do.
    pub kind: Kind,
    /// First byte, not necessarily a multiple of the block size.
    pub offset: u64,
    /// Length in bytes, not 0 except for FLUSH; not necessarily a multiple of the block size.
    pub len: u32,
    /// Answer only when the data is on stable storage; set only for writes, trims and zeroing.
    pub fua: bool,
}

/// What a request does.
#[derive(Debug)]
pub enum Kind {
    /// Read; answered by [`Reply::Data`].
    Read {
        /// In one chunk; always so here.
        df: bool,
    },
    /// Write this payload, `len` bytes.
    Write(Payload),
    /// Make every write answered before durable.
    Flush,
    /// Discard, as far as that can be done.
    Trim,
    /// Write zeroes.
    WriteZeroes {
        /// Leave no hole.
        no_hole: bool,
        /// Only if faster than writing; otherwise ENOTSUP, unchanged.
        fast: bool,
    },
    /// Read ahead.
    Cache,
    /// Answered by [`Reply::Extents`].
    BlockStatus {
        /// One extent is enough.
        one: bool,
    },
}

/// A good answer.
#[derive(Debug)]
pub enum Reply {
    /// Done; for everything but READ and BLOCK_STATUS.
    Done,
    /// The data of a READ, as long as the request.
    Data(Payload),
    /// Runs from the request's offset on, in order. None at all means "could not be determined".
    Extents(Vec<Extent>),
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The client said DISC.
    #[error("client disconnected")]
    Disconnected,
    /// The client gave up during the handshake.
    #[error("client ended the handshake")]
    Aborted,
    /// The client closed its side.
    #[error("client closed the connection")]
    Eof,
    /// The socket broke.
    #[error("connection lost")]
    Lost,
    /// The handshake took too long.
    #[error("handshake not finished in time")]
    HandshakeTimeout,
    /// The payload of a WRITE did not arrive in time.
    #[error("payload of a write did not arrive in time")]
    PayloadTimeout,
    /// EXPORT_NAME for an export that cannot be served, which has no error reply.
    #[error("export refused, and EXPORT_NAME knows no error reply")]
    Refused,
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Shutdown,
    /// The client broke a mandatory rule.
    #[error("protocol violation: {0}")]
    Protocol(#[from] Violation),
}

/// The mandatory rule that a client broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A message out of step.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Client flags that were not offered.
    #[error("unknown client flags {0:#x}")]
    ClientFlags(u32),
    /// An option from a client that does not speak fixed newstyle.
    #[error("option {0:?} without fixed newstyle")]
    NotFixed(OptionCode),
    /// An option so long that consuming it would be denial of service.
    #[error("option {option:?} of {len} bytes")]
    OptionTooLong {
        /// Which.
        option: OptionCode,
        /// Length in bytes.
        len: u32,
    },
    /// More options than any honest client sends.
    #[error("too many options")]
    TooManyOptions,
    /// A payload so long that consuming it would be denial of service.
    #[error("write of {0} bytes")]
    PayloadTooLong(u32),
}

/// Guards against errors that NBD allows only in one place (section *Error values*).
pub(super) fn allowed(error: NbdError, fast_zero: bool) -> NbdError {
    match error {
        NbdError::NotSupported if !fast_zero => NbdError::Invalid,
        NbdError::NotSupported
        | NbdError::Permission
        | NbdError::Io
        | NbdError::NoMemory
        | NbdError::Invalid
        | NbdError::NoSpace
        | NbdError::Overflow
        | NbdError::Shutdown => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: ExportInfo = ExportInfo { size: 1 << 20, ..crate::export::tests::INFO };

    /// Section *Transmission flags*.
    #[test]
    fn flags_follow_abilities() {
        assert_eq!(INFO.flags(true), 0x0ded);
        assert_eq!(INFO.flags(false), 0x0d6d);
        let bare = ExportInfo {
            trim: false,
            write_zeroes: false,
            cache: false,
            multi_conn: false,
            rotational: true,
            ..INFO
        };
        // FAST_ZERO never without WRITE_ZEROES.
        assert_eq!(bare.flags(false), 0x001d);
        let read_only = ExportInfo { read_only: true, ..INFO };
        assert_eq!(read_only.flags(true), 0x058f);
    }

    /// Section *Block size constraints*.
    #[test]
    fn block_sizes_are_always_consistent() {
        for block_size in [1, 512, 4096, 8192, 65536] {
            for preferred in [0, 1, 4096, 5000, 1 << 20, u32::MAX] {
                for max_payload in [0, 4096, 100_000, 1 << 25, u32::MAX] {
                    let info = ExportInfo { block_size, preferred, max_payload, ..INFO };
                    let sizes = info.block_sizes();
                    assert_eq!(sizes.minimum, block_size);
                    assert!(sizes.preferred.is_power_of_two());
                    assert!(sizes.preferred >= block_size.max(512));
                    assert!(sizes.payload_max >= sizes.preferred);
                    assert!(sizes.payload_max <= NBD_PAYLOAD_MAX);
                    assert_eq!(sizes.payload_max % block_size, 0);
                }
            }
        }
    }

    #[test]
    fn the_empty_name_is_the_default() {
        let catalog = Catalog::single("vm0", "");
        assert_eq!((catalog.find(""), catalog.find("vm0")), (Some(0), Some(0)));
        assert_eq!(catalog.find("vm1"), None);
        assert_eq!(Catalog::new(catalog.entries().to_vec(), None).find(""), None);
    }

    /// Section *Error values*: ENOTSUP belongs to FAST_ZERO.
    #[test]
    fn not_supported_only_for_fast_zero() {
        assert_eq!(allowed(NbdError::NotSupported, true), NbdError::NotSupported);
        assert_eq!(allowed(NbdError::NotSupported, false), NbdError::Invalid);
        for error in NbdError::ALL.into_iter().filter(|e| *e != NbdError::NotSupported) {
            assert_eq!(allowed(error, false), error);
        }
    }
}
