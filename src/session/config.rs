//! What a session is told before it starts. Deliberately not here: addresses and sockets.

use super::chap::Credentials;
use crate::base::Duration;
use crate::limits;
use std::sync::Arc;

/// How a digest is asked for (RFC 7143 section 13.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Digest {
    /// Only `None` is offered.
    #[default]
    None,
    /// Only `CRC32C` is offered; a target that cannot is refused.
    Crc32c,
    /// `CRC32C,None` is offered.
    PreferCrc32c,
}

/// What the session is for (RFC 7143 section 13.21).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Only SendTargets.
    Discovery,
    /// Commands to the logical units of one target.
    Normal {
        /// The target's iSCSI name.
        target: String,
    },
}

/// Values that are offered in the operational stage (RFC 7143 section 13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offers {
    /// InitialR2T: `false` asks for unsolicited data.
    pub initial_r2t: bool,
    /// ImmediateData.
    pub immediate_data: bool,
    /// FirstBurstLength, bytes, 512 to 2^24-1.
    pub first_burst: u32,
    /// MaxBurstLength, bytes, 512 to 2^24-1.
    pub max_burst: u32,
    /// MaxRecvDataSegmentLength that we declare, bytes, 512 to 2^24-1.
    pub max_recv_segment: u32,
    /// MaxOutstandingR2T, 1 to 65535.
    pub max_outstanding_r2t: u16,
    /// DefaultTime2Wait, seconds, 0 to 3600.
    pub time2wait: u16,
    /// DefaultTime2Retain, seconds, 0 to 3600.
    pub time2retain: u16,
}

impl Default for Offers {
    fn default() -> Offers {
        Offers {
            initial_r2t: false,
            immediate_data: true,
            first_burst: limits::FIRST_BURST_MAX,
            max_burst: limits::BURST_MAX,
            max_recv_segment: limits::RECV_SEGMENT_MAX,
            max_outstanding_r2t: limits::OUTSTANDING_R2T_MAX,
            time2wait: 0,
            time2retain: 0,
        }
    }
}

/// Everything that a session needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our iSCSI name, up to 223 bytes.
    pub initiator_name: String,
    /// Our alias, for the target's displays.
    pub initiator_alias: Option<String>,
    /// Discovery or normal.
    pub kind: Kind,
    /// Initiator session id; with names and portal group it names the nexus.
    pub isid: [u8; 6],
    /// Portal group tag that the target must answer with, where it is known.
    pub expected_portal_group: Option<u16>,
    /// HeaderDigest.
    pub header_digest: Digest,
    /// DataDigest.
    pub data_digest: Digest,
    /// CHAP; with it, nothing else is offered.
    pub chap: Option<Arc<Credentials>>,
    /// Time for the login from the TCP connection on, and for each text exchange.
    pub login_timeout: Duration,
    /// Time for the answer to a logout.
    pub logout_timeout: Duration,
    /// Time for the answer to a task management request; the session goes on without it.
    pub management_timeout: Duration,
    /// A quiet connection is pinged this often.
    pub nop_interval: Duration,
    /// A connection that owes an answer and is silent for this long is closed.
    pub silence_timeout: Duration,
    /// Commands outstanding, 1 to [`limits::TASKS_PER_SESSION_MAX`].
    pub queue_depth: u16,
    /// Operational values.
    pub offers: Offers,
}

impl Config {
    /// The defaults for a session of this kind.
    #[must_use]
    pub fn new(initiator_name: impl Into<String>, isid: [u8; 6], kind: Kind) -> Config {
        Config {
            initiator_name: initiator_name.into(),
            initiator_alias: None,
            kind,
            isid,
            expected_portal_group: None,
            header_digest: Digest::None,
            data_digest: Digest::None,
            chap: None,
            login_timeout: Duration::from_secs(15),
            logout_timeout: Duration::from_secs(2),
            management_timeout: Duration::from_secs(30),
            nop_interval: Duration::from_millis(500),
            silence_timeout: Duration::from_secs(1),
            queue_depth: 128,
            offers: Offers::default(),
        }
    }

    /// Whether this is a discovery session.
    #[must_use]
    pub fn is_discovery(&self) -> bool {
        self.kind == Kind::Discovery
    }
}
