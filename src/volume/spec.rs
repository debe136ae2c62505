//! What a device is built from: the configuration after names were resolved, and nothing of its syntax.

use crate::base::Duration;
pub use crate::path::{Failback, FenceMode};
use crate::path::{PathInfo, Reconnect};
pub use crate::session::Digest;
use crate::session::chap::Credentials;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// One way to a LUN: source, portal, target, LUN.
#[derive(Clone)]
pub struct PathSpec {
    /// `PORTAL:TAIL`, unique in the device (how paths are named: docs/operation.md).
    pub name: String,
    /// The portal's name in the configuration.
    pub portal_name: String,
    /// Where to connect.
    pub portal: SocketAddr,
    /// Local address to bind to before connecting, and nothing else; `None` lets the kernel choose.
    pub source: Option<IpAddr>,
    /// Network interface to bind to as well (SO_BINDTODEVICE).
    pub interface: Option<String>,
    /// The target's iSCSI name.
    pub target: String,
    /// Portal group tag from discovery, if known.
    pub portal_group: Option<u16>,
    /// The 8-byte LUN field (RFC 7143 section 11.2.1.7).
    pub lun: u64,
    /// Initiator session id; stable over restarts.
    pub isid: [u8; 6],
    /// CHAP, if configured for the portal.
    pub chap: Option<Arc<Credentials>>,
    /// HeaderDigest.
    pub header_digest: Digest,
    /// DataDigest.
    pub data_digest: Digest,
    /// Addresses (besides configured portals) that a redirect may lead to.
    pub redirect_allow: Arc<[SocketAddr]>,
    /// Weight, 0 to [`WEIGHT_MAX`](crate::path::WEIGHT_MAX); 1 by default.
    pub weight: u32,
    /// Administratively preferred (`prefer = "a:ha1"`).
    pub preferred: bool,
    /// Position in the configured order: portal, then target. Lower is higher priority in `failover`.
    pub order: u32,
}

impl PathSpec {
    /// What the path engine has to know.
    #[must_use]
    pub fn info(&self) -> PathInfo {
        PathInfo {
            name: self.name.clone(),
            weight: self.weight,
            preferred: self.preferred,
            order: self.order,
        }
    }
}

/// Every tunable of a device. `Duration::MAX` is `never`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tunables {
    /// Silence after which a path is failed while another lives.
    pub path_timeout: Duration,
    /// The same for the last path.
    pub last_path_timeout: Duration,
    /// Deadline of a READ or WRITE from its last progress, while another path lives.
    pub command_timeout: Duration,
    /// The same on the last path.
    pub last_path_command_timeout: Duration,
    /// Idle paths are probed by NOP-Out this often.
    pub nop_interval: Duration,
    /// How long commands queue with no usable path; zero fails at once.
    pub no_path_timeout: Duration,
    /// How long a range in doubt stays taken without a proof.
    pub fence_timeout: Duration,
    /// What is waited for at shutdown and `path disable`.
    pub shutdown_timeout: Duration,
    /// Write ownership mode.
    pub fence: FenceMode,
    /// `failover`'s way back.
    pub failback: Failback,
    /// Commands outstanding per path.
    pub queue_depth: u16,
    /// Admit a second path without the content probe.
    pub trust_identity: bool,
    /// Several hosts write to this LUN: no LOGICAL UNIT RESET unless `fence_reset`.
    pub shared: bool,
    /// Allow LOGICAL UNIT RESET on a shared LUN.
    pub fence_reset: bool,
    /// What a new session has to show before commands of its predecessor count as dead.
    pub fence_proof: FenceProof,
    /// Run through `/bin/sh -c` when nothing else proves a path's commands dead; exit 0 is a proof.
    pub fence_command: Option<String>,
    /// Bytes of acknowledged content kept for ranges that were released without a proof.
    pub watch_memory: u64,
    /// A path that owes an answer for less than this is never `suspect`.
    pub suspect_after: Duration,
    /// How often a suspect path is offered a read.
    pub suspect_interval: Duration,
    /// How often the LUN of an idle path is asked (TEST UNIT READY, RTPG where there is ALUA).
    pub check_interval: Duration,
    /// Deadline of a TCP connection.
    pub connect_timeout: Duration,
    /// Deadline of a login.
    pub login_timeout: Duration,
    /// First step of the reconnect back-off.
    pub reconnect_min: Duration,
    /// Its last step.
    pub reconnect_max: Duration,
    /// Longest time that a flapping path is kept out.
    pub flap_penalty_max: Duration,
    /// Answer to a task management function.
    pub management_timeout: Duration,
    /// Longest time in ALUA state transitioning where the target tells none.
    pub alua_transition_timeout: Duration,
    /// Send a slow read on a second path as well.
    pub hedge_reads: bool,
    /// `least-bytes`: a sequential stream stays on its path for this many bytes; 0 for never.
    pub sticky_bytes: u64,
    /// How long a lane looks for answers before it sleeps, while a command of this device is outstanding;
    /// zero for never. It costs a core for as long.
    pub spin: Duration,
}

/// What proves that the commands of a lost session are dead, once its nexus is logged into again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FenceProof {
    /// LOGICAL UNIT RESET answered on the new session.
    #[default]
    Reset,
    /// The login alone (RFC 7143 section 6.3.5): only where the target was shown to keep it.
    Reinstatement,
}

impl Tunables {
    /// The schedule of reconnects.
    #[must_use]
    pub fn reconnect(&self) -> Reconnect {
        Reconnect {
            min: self.reconnect_min,
            max: self.reconnect_max,
            penalty_max: self.flap_penalty_max,
        }
    }
}

impl Default for Tunables {
    fn default() -> Tunables {
        Tunables {
            path_timeout: Duration::from_secs(1),
            last_path_timeout: Duration::from_secs(10),
            command_timeout: Duration::from_secs(2),
            last_path_command_timeout: Duration::from_secs(30),
            nop_interval: Duration::from_millis(500),
            no_path_timeout: Duration::from_secs(60),
            fence_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(10),
            fence: FenceMode::Overlap,
            failback: Failback::Immediate,
            queue_depth: 128,
            trust_identity: false,
            shared: false,
            fence_reset: false,
            fence_proof: FenceProof::Reset,
            fence_command: None,
            watch_memory: 16 << 20,
            suspect_after: Duration::from_millis(20),
            suspect_interval: Duration::from_millis(250),
            check_interval: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            login_timeout: Duration::from_secs(10),
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(2),
            flap_penalty_max: Duration::from_secs(60),
            management_timeout: Duration::from_secs(30),
            alua_transition_timeout: Duration::from_secs(60),
            hedge_reads: true,
            sticky_bytes: 0,
            spin: Duration::ZERO,
        }
    }
}

/// One device as the lane builds it. Paths are added as discovery finds them.
#[derive(Clone)]
pub struct DeviceSpec {
    /// The device's name, also its NBD export name.
    pub name: String,
    /// Our iSCSI name.
    pub initiator_name: String,
    /// Refuse anything else than this WWID (`naa.…`).
    pub wwid: Option<String>,
    /// First policy.
    pub policy: crate::path::Policy,
    /// Never write, whatever the LUN allows.
    pub read_only: bool,
    /// Tunables.
    pub tunables: Tunables,
    /// Payload memory per lane, bytes.
    pub buffer_memory: usize,
    /// Lanes that carry this device.
    pub lanes: u16,
}
