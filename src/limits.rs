//! Every maximum in one place, each with its reason; relations between them are const assertions.

use core::time::Duration;

/// Largest NBD payload in bytes (READ and WRITE): what the protocol's default asks servers to accept.
pub const NBD_PAYLOAD_MAX: u32 = 32 * 1024 * 1024;

/// Longest NBD string in bytes (export names, queries): the protocol's own limit.
pub const NBD_STRING_MAX: usize = 4096;

/// Longest option body that the NBD handshake holds in bytes; longer ones are consumed and answered TOO_BIG.
pub const NBD_OPTION_MAX: u32 = 64 * 1024;

/// Options per NBD connection before it is closed; an honest client needs fewer than ten.
pub const NBD_OPTIONS_PER_CONNECTION_MAX: u32 = 128;

/// Time that a client has for its handshake.
pub const NBD_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Option replies that may wait for an NBD client during its handshake, bytes: more options are read only
/// when it has taken these.
pub const NBD_HANDSHAKE_REPLY_MAX: u64 = 256 * 1024;

/// Time that a handshake still has when the daemon stops: long enough for ERR_SHUTDOWN to be read.
pub const NBD_SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Longest payload of an NBD WRITE that is consumed to answer an error, bytes (libnbd sends up to this);
/// longer ones end the connection.
pub const NBD_PAYLOAD_CONSUMED_MAX: u32 = 64 * 1024 * 1024;

/// Payload bytes that one NBD connection may hold unless its driver says otherwise.
pub const NBD_BUDGET_DEFAULT: u64 = 2 * NBD_PAYLOAD_MAX as u64;

/// Time that the payload of an NBD WRITE has, plus its length at [`NBD_PAYLOAD_RATE_MIN`]: its memory is
/// reserved whole, so a client that stops in the middle would keep it from others.
pub const NBD_PAYLOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Slowest acceptable rate of an NBD payload, bytes per second.
pub const NBD_PAYLOAD_RATE_MIN: u32 = 128 * 1024;

/// Pieces of an NBD payload that are kept by reference however small they are; later small ones are merged.
pub const NBD_PAYLOAD_PIECES: usize = 4;

/// Length in bytes below which later pieces of an NBD payload are merged, so that a client that sends byte
/// by byte costs no more memory than its payload.
pub const NBD_PAYLOAD_PIECE_MIN: usize = 16 * 1024;

/// Extents in one NBD block status reply; a client asks again for the rest.
pub const NBD_EXTENTS_MAX: usize = 4096;

/// NBD connections per export; more are closed on arrival, so that a flood costs no memory.
pub const CLIENTS_PER_EXPORT_MAX: usize = 256;

/// Requests in flight per lane and device: the slots that NBD requests of all connections share.
pub const REQUESTS_PER_LANE_MAX: usize = 1024;

/// MaxRecvDataSegmentLength that we declare (RFC 7143 section 13.12), bytes.
pub const RECV_SEGMENT_MAX: u32 = 256 * 1024;

/// MaxBurstLength that we offer (RFC 7143 section 13.13), bytes: what open-iscsi offers.
pub const BURST_MAX: u32 = 16_776_192;

/// FirstBurstLength that we offer (RFC 7143 section 13.14), bytes.
pub const FIRST_BURST_MAX: u32 = 256 * 1024;

/// Data segment limit of the login phase, bytes (RFC 7143 section 13.12: 8192 until full feature phase).
pub const LOGIN_SEGMENT_MAX: u32 = 8192;

/// Text of one negotiation or discovery sequence, bytes: RFC 7143 section 6.1 asks for at least 8192.
pub const TEXT_MAX: usize = 64 * 1024;

/// SendTargets answers, bytes over all PDUs: some thousand targets.
pub const DISCOVERY_TEXT_MAX: usize = 1024 * 1024;

/// Login exchanges before the login fails; RFC 7143 section 6.2 asks for at least six.
pub const LOGIN_EXCHANGES_MAX: u32 = 32;

/// Redirects followed for one login.
pub const REDIRECT_HOPS_MAX: u32 = 4;

/// Outstanding R2Ts per task that we offer (RFC 7143 section 13.17).
pub const OUTSTANDING_R2T_MAX: u16 = 8;

/// Commands outstanding per session.
pub const TASKS_PER_SESSION_MAX: usize = 512;

/// Sense bytes kept per command: SPC-4 limits sense data to 252.
pub const SENSE_MAX: usize = 252;

/// Bytes that one SCSI READ or WRITE moves at most: larger requests are split, so that their parts run side
/// by side on several paths and none of them holds a session for long.
pub const TRANSFER_MAX: u32 = 1024 * 1024;

/// Bytes that one UNMAP or WRITE SAME covers at most: a target may take long over it.
pub const DISCARD_MAX: u32 = 64 * 1024 * 1024;

/// Logical block sizes in bytes that are accepted: powers of two in this range.
pub const BLOCK_SIZE_MIN: u32 = 512;
/// The largest of them.
pub const BLOCK_SIZE_MAX: u32 = 64 * 1024;

/// LUNs taken from one REPORT LUNS answer: the flat address space.
pub const LUNS_PER_TARGET_MAX: usize = 16_384;

/// Paths per device.
pub const PATHS_PER_DEVICE_MAX: usize = 32;

/// Write tickets per device, taken, waiting or in doubt: all slots of several lanes and what many lost
/// sessions leave in doubt. Beyond it new writes are held back.
pub const LEDGER_TICKETS_MAX: usize = 16 * 1024;

/// Last events kept per device for `status`.
pub const EVENTS_PER_DEVICE: usize = 64;

/// Receive buffer, bytes: many PDUs arrive in one receive.
pub const RECV_BUFFER: usize = 512 * 1024;

/// Receive buffers that a lane keeps while nobody refers to them: memory beside the payload memory.
pub const RECV_BUFFERS_FREE_MAX: usize = 8;

/// Payloads lie in receive buffers, which others share at both ends, or of which they are a small part: beside the
/// payload memory one part in so many of it may be held in vain. Beyond that payloads are moved to places of their
/// own until it is so again.
pub const RECV_VAIN_PART: usize = 8;

/// Bytes asked for per receive on an iSCSI socket: smaller ones cut a deep queue into batches that cost a turn each,
/// larger ones push the data out of the cache before it is sent on (benches/TRIED.md).
pub const RECV_ISCSI_MAX: usize = 128 * 1024;

/// Segments in one gathered send; the kernel's UIO_MAXIOV.
pub const SEND_SEGMENTS_MAX: usize = 1024;

const _: () = assert!(RECV_ISCSI_MAX <= RECV_BUFFER);
const _: () = assert!(FIRST_BURST_MAX <= BURST_MAX);
const _: () = assert!(BURST_MAX < 1 << 24 && RECV_SEGMENT_MAX < 1 << 24);
const _: () = assert!(NBD_PAYLOAD_MAX.is_power_of_two());
const _: () = assert!(NBD_PAYLOAD_MAX <= NBD_PAYLOAD_CONSUMED_MAX);
const _: () = assert!(NBD_BUDGET_DEFAULT >= NBD_PAYLOAD_MAX as u64);
const _: () = assert!(NBD_OPTION_MAX as usize >= 2 * NBD_STRING_MAX);
const _: () = assert!(TEXT_MAX >= 8192);
const _: () = assert!(TRANSFER_MAX >= BLOCK_SIZE_MAX && DISCARD_MAX >= TRANSFER_MAX);
const _: () = assert!(NBD_PAYLOAD_MAX.is_multiple_of(TRANSFER_MAX));
const _: () = assert!(TASKS_PER_SESSION_MAX <= 1 << 16);
const _: () = assert!(LEDGER_TICKETS_MAX >= 4 * REQUESTS_PER_LANE_MAX);
