//! The configuration: what it says once it was read and found right.
//!
//! [`load`] reads a file, [`parse`] a text; both give either a whole [`Config`] or every error with its
//! line. [`check`] adds what depends on this host (is the source one of our addresses?), [`build`] turns
//! text into meaning, [`values`] holds the syntax of single values, [`tune`] reads tunables,
//! [`secret`] the CHAP rules.
//!
//! Deliberately not here: discovery, which turns portals and targets into paths.

pub mod build;
pub mod check;
pub mod document;
pub mod secret;
pub mod tune;
pub mod values;

#[cfg(test)]
mod tests;

pub use document::ConfigError;
pub use values::{Address, Export};

use crate::path::Policy;
use crate::volume::spec::{Digest, Tunables};
pub use secret::Chap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A whole configuration.
#[derive(Clone)]
pub struct Config {
    /// The file; `None` when it came from the command line.
    pub file: Option<PathBuf>,
    /// Our iSCSI name.
    pub initiator_name: String,
    /// Portals in order of the file.
    pub portals: Vec<Portal>,
    /// Devices in order of the file.
    pub devices: Vec<Device>,
}

/// From which of our addresses to which portal.
#[derive(Clone)]
pub struct Portal {
    /// Name; first part of the names of its paths.
    pub name: String,
    /// Where it is.
    pub address: Address,
    /// The local address to bind to.
    pub source: Option<IpAddr>,
    /// The network interface to bind to as well.
    pub interface: Option<String>,
    /// Ask it for its targets; without, `targets` are taken to be there.
    pub discovery: bool,
    /// For portals that are not asked: the targets they have; empty means all of the devices' targets.
    pub targets: Vec<String>,
    /// CHAP of logins.
    pub chap: Option<Arc<Chap>>,
    /// CHAP of discovery: its own, or that of logins.
    pub discovery_chap: Option<Arc<Chap>>,
    /// HeaderDigest.
    pub header_digest: Digest,
    /// DataDigest.
    pub data_digest: Digest,
    /// Where a redirect may lead besides the configured portals.
    pub redirect_allow: Arc<[SocketAddr]>,
    /// Line in the file.
    pub line: usize,
}

/// One target of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// iSCSI name.
    pub name: String,
    /// LUN as a number.
    pub lun: u64,
    /// Line in the file.
    pub line: usize,
}

/// One device to build and export.
#[derive(Clone)]
pub struct Device {
    /// Name; also the NBD export name.
    pub name: String,
    /// Targets in order of the file; looked for on every portal.
    pub targets: Vec<Target>,
    /// Refuse anything else.
    pub wwid: Option<String>,
    /// First policy.
    pub policy: Policy,
    /// Where it is exported.
    pub export: Export,
    /// Mode of a unix socket.
    pub socket_mode: u32,
    /// Preferred path.
    pub prefer: Option<String>,
    /// Weights by path name.
    pub weights: Vec<(String, u32)>,
    /// Everything that can be tuned.
    pub tunables: Tunables,
    /// Lanes that carry it.
    pub lanes: u16,
    /// Payload memory per lane, bytes.
    pub buffer_memory: u64,
    /// Refuse writes.
    pub read_only: bool,
    /// Line in the file.
    pub line: usize,
}

impl Device {
    /// A device with every default: what a file with only the required keys gives.
    #[must_use]
    pub fn new(name: &str, targets: Vec<Target>, export: Export) -> Device {
        Device {
            name: name.to_owned(),
            targets,
            wwid: None,
            policy: Policy::default(),
            export,
            socket_mode: 0o600,
            prefer: None,
            weights: Vec::new(),
            tunables: Tunables::default(),
            lanes: 1,
            buffer_memory: 64 << 20,
            read_only: false,
            line: 0,
        }
    }
}

impl Portal {
    /// A portal with every default.
    #[must_use]
    pub fn new(name: &str, address: Address, source: Option<IpAddr>) -> Portal {
        Portal {
            name: name.to_owned(),
            address,
            source,
            interface: None,
            discovery: true,
            targets: Vec::new(),
            chap: None,
            discovery_chap: None,
            header_digest: Digest::None,
            data_digest: Digest::None,
            redirect_allow: Arc::from([]),
            line: 0,
        }
    }
}

/// Something that works and that an administrator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Line in the file; 0 for none.
    pub line: usize,
    /// What and why.
    pub text: String,
}

/// Reads and parses a file.
///
/// # Errors
/// Every error that was found, in order of lines; an unreadable file is one with line 0.
pub fn load(path: &Path) -> Result<(Config, Vec<Warning>), Vec<ConfigError>> {
    let name = path.display().to_string();
    let alone = |problem: String, hint: &str| {
        vec![ConfigError { file: name.clone(), line: 0, problem, hint: Some(hint.to_owned()) }]
    };
    let bytes = std::fs::read(path).map_err(|error| {
        let why = secret::plain(&error);
        alone(
            format!("the configuration cannot be read: {why}"),
            "the path of a file that this user can read",
        )
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|&&b| b == b'\n')
            .count();
        let problem = "this line is not UTF-8".to_owned();
        let hint = Some("a text file in UTF-8".to_owned());
        vec![ConfigError { file: name.clone(), line, problem, hint }]
    })?;
    let base = path.parent().unwrap_or(Path::new("."));
    let (mut config, warnings) = build::parse(&name, &text, base)?;
    // Shown by `status`, to people in other directories.
    config.file = Some(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    Ok((config, warnings))
}
