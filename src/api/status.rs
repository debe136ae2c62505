//! The status object: names and order of fields are those of the interface, byte for byte.

use core::fmt;
use serde::{Deserialize, Serialize};

/// Everything that `mpio status --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of this object.
    pub version: u32,
    /// The daemon itself.
    pub daemon: DaemonStatus,
    /// Devices in order of the configuration.
    pub devices: Vec<DeviceStatus>,
}

/// The daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: f64,
    /// Configuration file; `null` for `attach` and `demo`.
    pub config: Option<String>,
    /// What the data plane asks the kernel by: `io_uring`, or `epoll` where that is refused.
    pub io: Io,
    /// Its memory cannot be swapped out: with locked memory it may stand under writeback.
    #[serde(default)]
    pub memory_locked: bool,
}

/// What the data plane asks the kernel by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Io {
    /// io_uring.
    #[default]
    #[serde(rename = "io_uring")]
    Uring,
    /// epoll.
    #[serde(rename = "epoll")]
    Epoll,
}

/// How a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// Every configured target was seen on at least one portal, every portal is reachable, every path is
    /// active or standby.
    Ok,
    /// Usable, but not `ok`.
    Degraded,
    /// No usable path; commands queue.
    #[default]
    Down,
    /// No usable path; commands are answered with errors.
    Failed,
}

impl DeviceState {
    /// The name used everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            DeviceState::Ok => "ok",
            DeviceState::Degraded => "degraded",
            DeviceState::Down => "down",
            DeviceState::Failed => "failed",
        }
    }
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathState {
    /// TCP or login under way, or waiting to try again for the first time.
    #[default]
    Connecting,
    /// Logged in; identity and readiness are being read.
    Probing,
    /// Carries I/O.
    Active,
    /// Good, but not used while a better one is.
    Standby,
    /// Owes an answer; used only when no better path is left.
    Suspect,
    /// Given up; a new connection is tried with back-off.
    Failed,
    /// Taken out by an administrator.
    Disabled,
    /// Leads to something else; never used.
    Mismatched,
}

impl PathState {
    /// The name used everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            PathState::Connecting => "connecting",
            PathState::Probing => "probing",
            PathState::Active => "active",
            PathState::Standby => "standby",
            PathState::Suspect => "suspect",
            PathState::Failed => "failed",
            PathState::Disabled => "disabled",
            PathState::Mismatched => "mismatched",
        }
    }
}

impl fmt::Display for PathState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Name; also the NBD export name.
    pub name: String,
    /// Identity (`naa.…`), once known.
    pub wwid: Option<String>,
    /// INQUIRY vendor, once known.
    pub vendor: Option<String>,
    /// INQUIRY product, once known.
    pub product: Option<String>,
    /// Capacity in bytes, once known.
    pub size_bytes: Option<u64>,
    /// Logical block length in bytes, once known.
    pub block_size: Option<u32>,
    /// Summary.
    pub state: DeviceState,
    /// Policy by its canonical name.
    pub policy: String,
    /// Where it is exported (`unix:…`, `tcp:…`).
    pub export: String,
    /// NBD connections.
    pub clients: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Writes that wait for an overlapping one.
    pub held_writes: u64,
    /// Write ownership.
    pub fences: Fences,
    /// Last events, oldest first.
    pub events: Vec<Event>,
    /// Hedged reads.
    pub hedges: Hedges,
    /// Reads answered.
    pub reads: u64,
    /// Writes answered.
    pub writes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Latency of requests as the client sees it, without its socket.
    pub latency_us: Latency,
    /// Paths, in order of portal, then target, as configured.
    pub paths: Vec<PathStatus>,
}

/// Ranges in doubt and how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fences {
    /// Ended by a proof.
    pub proven: u64,
    /// Ended by `fence_timeout`.
    pub unproven: u64,
    /// Not ended yet.
    pub pending: u64,
    /// Ranges on the watch list.
    pub watched: u64,
    /// Blocks that a late write had hit and that were written again.
    pub repaired: u64,
}

/// Reads sent on a second path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hedges {
    /// Sent.
    pub sent: u64,
    /// Where the second answer was first.
    pub won: u64,
}

/// Something that happened to a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// UTC, RFC 3339 with milliseconds.
    pub at: String,
    /// Path name; the portal's name where no path is known yet.
    pub path: String,
    /// What (`failed`, `active`, …).
    pub what: String,
    /// Why, for an administrator.
    pub why: String,
}

/// Latencies of both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Reads.
    pub read: Percentiles,
    /// Writes.
    pub write: Percentiles,
}

/// Percentiles in microseconds; all zero when nothing was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Median.
    pub p50: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// Worst.
    pub max: u64,
}

/// One path.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PathStatus {
    /// `PORTAL:TAIL`.
    pub name: String,
    /// Address and port.
    pub portal: String,
    /// Local address: the configured one, or the one in use when the kernel chose; `null` when neither is known.
    pub source: Option<String>,
    /// The target's iSCSI name.
    pub target: String,
    /// LUN as a number.
    pub lun: u64,
    /// State.
    pub state: PathState,
    /// Why it is in this state, where that is not obvious.
    pub reason: String,
    /// ALUA state (`active-optimized`, …); `none` where the LUN has no ALUA, `null` while unknown.
    pub alua: Option<String>,
    /// Path group; 0 while unknown.
    pub group: u32,
    /// Weight.
    pub weight: u32,
    /// Commands in flight.
    pub in_flight: u64,
    /// Commands that may be in flight, over all lanes: `queue_depth`, or less while the target refuses more.
    pub queue_depth: u64,
    /// Reads completed here.
    pub reads: u64,
    /// Writes completed here.
    pub writes: u64,
    /// Bytes read here.
    pub read_bytes: u64,
    /// Bytes written here.
    pub written_bytes: u64,
    /// Commands that ended here with an error.
    pub errors: u64,
    /// Times that the path failed.
    pub failures: u64,
    /// Why it failed last.
    pub last_failure: String,
    /// The session; `null` while there is none.
    pub session: Option<SessionStatus>,
    /// Latency of commands on this path.
    pub latency_us: Latency,
}

/// What was negotiated on a path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Initiator session id in hex.
    pub isid: String,
    /// The target's session handle.
    pub tsih: u16,
    /// `none` or `crc32c`.
    pub header_digest: String,
    /// `none` or `crc32c`.
    pub data_digest: String,
    /// Whether writes carry their first data in the command.
    pub immediate_data: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The object of the interface, with the places that it shortens (`…`) filled in.
    const INTERFACE: &str = r#"{"version": 1, "daemon": {"pid": 1, "uptime_s": 12.5, "config": "/etc/mpio/mpio.toml", "io": "io_uring", "memory_locked": true},
 "devices": [
  {"name": "vm0", "wwid": "naa.6000", "vendor": "STARWIND", "product": "DISK", "size_bytes": 1073741824, "block_size": 512,
   "state": "ok", "policy": "round-robin", "export": "unix:/run/mpio/vm0.sock", "clients": 1, "read_only": false,
   "held_writes": 0, "fences": {"proven": 3, "unproven": 0, "pending": 0, "watched": 0, "repaired": 0},
   "events": [{"at": "2026-11-20T12:00:00.123Z", "path": "a:ha1", "what": "failed", "why": "no answer for 1 s"}],
   "hedges": {"sent": 10, "won": 7},
   "reads": 1, "writes": 1, "read_bytes": 4096, "written_bytes": 4096, "errors": 0,
   "latency_us": {"read": {"p50": 90, "p99": 200, "p999": 400, "max": 900}, "write": {"p50": 0, "p99": 0, "p999": 0, "max": 0}},
   "paths": [
    {"name": "a:ha1", "portal": "10.10.1.10:3260", "source": "10.10.1.1", "target": "iqn.2026-11.example.san:ha1", "lun": 1,
     "state": "active", "reason": "", "alua": "active-optimized", "group": 1, "weight": 1, "in_flight": 0, "queue_depth": 128,
     "reads": 1, "writes": 0, "read_bytes": 4096, "written_bytes": 0, "errors": 0, "failures": 0, "last_failure": "",
     "session": {"isid": "800000000000", "tsih": 1, "header_digest": "none", "data_digest": "none", "immediate_data": true},
     "latency_us": {"read": {"p50": 80, "p99": 150, "p999": 300, "max": 700}, "write": {"p50": 0, "p99": 0, "p999": 0, "max": 0}}}]}]}"#;

    /// Same names, same order, nothing more and nothing less: the text is compared, not the tree.
    #[test]
    fn status_is_the_interface_byte_for_byte() {
        let status: Status = serde_json::from_str(INTERFACE).unwrap();
        let ours = serde_json::to_string(&status).unwrap();
        let bare = |text: &str| text.split_whitespace().collect::<String>();
        assert_eq!(bare(&ours), bare(INTERFACE));
        assert_eq!(status.devices[0].paths[0].state, PathState::Active);
        assert_eq!(status.devices[0].state, DeviceState::Ok);
    }

    #[test]
    fn what_is_unknown_is_null_and_what_is_not_built_is_zero() {
        let json = serde_json::to_value(DeviceStatus::default()).unwrap();
        for field in ["wwid", "vendor", "product", "size_bytes", "block_size"] {
            assert!(json[field].is_null(), "{field}");
        }
        assert_eq!(json["hedges"], serde_json::json!({"sent": 0, "won": 0}));
        assert_eq!(json["state"], "down");
        assert!(serde_json::to_value(PathStatus::default()).unwrap()["session"].is_null());
    }

    #[test]
    fn state_names_are_the_same_in_json_and_text() {
        use PathState::{
            Active, Connecting, Disabled, Failed, Mismatched, Probing, Standby, Suspect,
        };
        for s in [Connecting, Probing, Active, Standby, Suspect, Failed, Disabled, Mismatched] {
            assert_eq!(serde_json::to_value(s).unwrap(), s.as_str());
        }
        for s in [DeviceState::Ok, DeviceState::Degraded, DeviceState::Down, DeviceState::Failed] {
            assert_eq!(serde_json::to_value(s).unwrap(), s.as_str());
        }
    }
}
