//! Admin requests and answers: what travels over the control socket, and what `status --json` prints.
//!
//! One JSON object per line in each direction. Every object carries [`VERSION`]; fields are added, never
//! renamed. A field that is not known yet is `null` (size, WWID), never a made-up value.
//!
//! Deliberately not here: behaviour. Who computes these values is lane and control; who prints them is cli.

use core::fmt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

mod fences;
mod status;

pub use fences::{Confirmed, FenceList, FenceRange};
pub use status::{
    DaemonStatus, DeviceState, DeviceStatus, Event, Fences, Hedges, Io, Latency, PathState,
    PathStatus, Percentiles, SessionStatus, Status,
};

/// Version of the admin protocol and of the status object.
pub const VERSION: u32 = 1;

/// Longest line of the admin protocol in bytes: a status of every path that fits the limits stays far below.
pub const LINE_MAX: usize = 4 * 1024 * 1024;

/// Longest request line in bytes.
pub const REQUEST_LINE_MAX: usize = 64 * 1024;

/// One request line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`] of the sender.
    pub version: u32,
    /// What is asked.
    #[serde(flatten)]
    pub command: Command,
}

impl Request {
    /// A request of this version.
    #[must_use]
    pub fn new(command: Command) -> Request {
        Request { version: VERSION, command }
    }
}

/// What an administrator can ask a daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Devices, paths, counters.
    Status {
        /// Only this device.
        device: Option<String>,
    },
    /// Shows or changes the policy of a device.
    Policy {
        /// Device name.
        device: String,
        /// New policy by any of its names; `None` leaves it.
        policy: Option<String>,
        /// New weights by path name.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        weights: BTreeMap<String, u32>,
        /// Path to prefer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prefer: Option<String>,
    },
    /// Shows the tunables of a device, or changes some of them: all that are named, or none.
    Set {
        /// Device name.
        device: String,
        /// New values by key, as they are written in the configuration.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        values: BTreeMap<String, String>,
    },
    /// Takes a path out or back.
    Path {
        /// Device name.
        device: String,
        /// Path name (`a:ha1`).
        path: String,
        /// What to do with it.
        action: PathAction,
        /// Do it even to the last usable path.
        #[serde(default)]
        force: bool,
    },
    /// Ranges in doubt.
    Fences {
        /// Device name.
        device: String,
    },
    /// An administrator's word that the node behind a path is off.
    ConfirmDead {
        /// Device name.
        device: String,
        /// Path name.
        path: String,
    },
}

/// What `mpio path` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathAction {
    /// Drain it and log out; no error reaches a client.
    Disable,
    /// Bring it back.
    Enable,
    /// Read identity and readiness again; reconnect at once if it is down.
    Recheck,
}

impl fmt::Display for PathAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PathAction::Disable => "disable",
            PathAction::Enable => "enable",
            PathAction::Recheck => "recheck",
        })
    }
}

/// One answer line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`] of the daemon.
    pub version: u32,
    /// Success or failure.
    #[serde(flatten)]
    pub result: Outcome,
}

impl Answer {
    /// An answer of this version.
    #[must_use]
    pub fn new(result: Outcome) -> Answer {
        Answer { version: VERSION, result }
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Answer to [`Command::Status`].
    Status(Box<Status>),
    /// Answer to [`Command::Policy`].
    Policy(PolicyStatus),
    /// Answer to [`Command::Set`].
    Set(SetStatus),
    /// Answer to [`Command::Fences`].
    Fences(FenceList),
    /// Answer to [`Command::ConfirmDead`].
    Confirmed(Confirmed),
    /// Done, nothing more to say.
    Done {},
    /// It was not done.
    Error(Error),
}

/// The policy of one device, as it is after the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Device name.
    pub device: String,
    /// Policy in force, by its canonical name.
    pub policy: String,
    /// Weight of every path.
    pub weights: BTreeMap<String, u32>,
    /// Preferred path.
    pub prefer: Option<String>,
}

/// The tunables of one device, as they are after the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetStatus {
    /// Device name.
    pub device: String,
    /// What the request has changed.
    pub changed: Vec<Change>,
    /// What is legal and dangerous in them.
    pub warnings: Vec<String>,
    /// Every tunable, in the order of the documentation.
    pub tunables: Vec<TunableStatus>,
}

/// A changed tunable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its key.
    pub key: String,
    /// Its value before.
    pub from: String,
    /// Its value now.
    pub to: String,
}

/// One tunable. Values are written as in the configuration; an empty text is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunableStatus {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Its value when nobody has set it.
    pub default: String,
    /// `duration`, `number`, `size`, `flag`, `choice` or `text`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is counted: `time`, `bytes`, `commands`, or nothing.
    pub unit: String,
    /// What is legal, in words.
    pub range: String,
    /// Why it is there.
    pub reason: String,
}

/// Why a request was not done, in the three parts of every message: what, why, what to try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// Kind, for scripts.
    pub kind: ErrorKind,
    /// What was tried (`device vm0`).
    pub what: String,
    /// Why it failed.
    pub why: String,
    /// What the administrator can do about it.
    #[serde(rename = "try", default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Kind of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request itself is wrong (unknown policy, malformed line).
    Invalid,
    /// No such device or path.
    NotFound,
    /// Understood, and not done (the last usable path without `--force`).
    Refused,
    /// Asked of a version that does not know it.
    Version,
    /// The daemon could not do it (a lane that is gone).
    Failed,
}

impl Error {
    /// An error without a hint.
    pub fn new(kind: ErrorKind, what: impl Into<String>, why: impl Into<String>) -> Error {
        Error { kind, what: what.into(), why: why.into(), hint: None }
    }

    /// Adds what to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    /// `what: why; try: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)?;
        match &self.hint {
            Some(hint) => write!(f, "; try: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(request: &Request, json: &str) {
        assert_eq!(serde_json::to_string(request).unwrap(), json);
        assert_eq!(&serde_json::from_str::<Request>(json).unwrap(), request);
    }

    #[test]
    fn requests_are_one_flat_object() {
        round_trip(
            &Request::new(Command::Status { device: None }),
            r#"{"version":1,"command":"status","device":null}"#,
        );
        round_trip(
            &Request::new(Command::Policy {
                device: "vm0".into(),
                policy: Some("round-robin".into()),
                weights: BTreeMap::from([("a:ha1".into(), 3)]),
                prefer: None,
            }),
            r#"{"version":1,"command":"policy","device":"vm0","policy":"round-robin","weights":{"a:ha1":3}}"#,
        );
        round_trip(
            &Request::new(Command::Path {
                device: "vm0".into(),
                path: "a:ha1".into(),
                action: PathAction::Disable,
                force: true,
            }),
            r#"{"version":1,"command":"path","device":"vm0","path":"a:ha1","action":"disable","force":true}"#,
        );
    }

    #[test]
    fn answers_name_their_kind() {
        let done = Answer::new(Outcome::Done {});
        assert_eq!(serde_json::to_string(&done).unwrap(), r#"{"version":1,"done":{}}"#);
        let error =
            Error::new(ErrorKind::NotFound, "device vm9", "there is no such device").hint("vm0");
        let answer = Answer::new(Outcome::Error(error.clone()));
        assert_eq!(
            serde_json::to_string(&answer).unwrap(),
            r#"{"version":1,"error":{"kind":"not-found","what":"device vm9","why":"there is no such device","try":"vm0"}}"#,
        );
        assert_eq!(error.to_string(), "device vm9: there is no such device; try: vm0");
    }

    #[test]
    fn unknown_fields_and_commands() {
        let more = r#"{"version":1,"command":"status","device":null,"new":1}"#;
        assert!(serde_json::from_str::<Request>(more).is_ok());
        assert!(serde_json::from_str::<Request>(r#"{"version":1,"command":"fly"}"#).is_err());
    }
}
