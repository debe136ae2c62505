//! What must hold across tables, what depends on this host, what is worth a warning, and what a
//! configuration would build and cost.

use super::document::{Problems, suggest};
use super::secret::Chap;
use super::values::{self, Export};
use super::{Config, ConfigError, Device, Portal, Warning, secret};
use crate::control::{isid, names};
use crate::limits;
use crate::volume::tunables;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Relations between tables; called when each table is right by itself.
pub fn across(config: &Config, problems: &Problems) {
    portals(config, problems);
    devices(config, problems);
    luns(config, problems);
    for device in &config.devices {
        path_names(config, device, problems);
        static_targets(config, device, problems);
    }
    secrets(config, problems);
    if let Err(collision) = isid::check(config) {
        problems.add(
            collision.line,
            collision.to_string(),
            Some("another name for one portal".into()),
        );
    }
}

fn portals(config: &Config, problems: &Problems) {
    for (i, portal) in config.portals.iter().enumerate() {
        for earlier in &config.portals[..i] {
            if earlier.name == portal.name {
                let problem =
                    format!("portal {} is already defined in line {}", portal.name, earlier.line);
                problems.add(portal.line, problem, Some("another name".to_owned()));
            } else if earlier.address == portal.address
                && earlier.source == portal.source
                && earlier.interface == portal.interface
            {
                let problem = format!(
                    "portal {} is the same way as portal {}{}",
                    portal.name,
                    earlier.name,
                    in_line(earlier.line)
                );
                problems.add(
                    portal.line,
                    problem,
                    Some("another address, source or interface".to_owned()),
                );
            }
        }
    }
}

/// Where the other one stands; nothing for what came from the command line.
fn in_line(line: usize) -> String {
    if line == 0 { String::new() } else { format!(" in line {line}") }
}

fn devices(config: &Config, problems: &Problems) {
    for (i, device) in config.devices.iter().enumerate() {
        for earlier in &config.devices[..i] {
            if earlier.name == device.name {
                let problem =
                    format!("device {} is already defined in line {}", device.name, earlier.line);
                problems.add(device.line, problem, Some("another name".to_owned()));
            } else if earlier.export.clashes(&device.export) {
                let problem = format!(
                    "devices {} and {} have one export address, {}",
                    earlier.name, device.name, device.export
                );
                problems.add(device.line, problem, Some("an export address of its own".to_owned()));
            }
        }
    }
}

/// Two devices over one LUN would write past each other: write ownership is per device.
fn luns(config: &Config, problems: &Problems) {
    for (i, device) in config.devices.iter().enumerate() {
        for earlier in &config.devices[..i] {
            let harmless = device.tunables.shared && earlier.tunables.shared
                || device.read_only && earlier.read_only;
            let both = device.targets.iter().find(|target| {
                earlier.targets.iter().any(|t| t.name == target.name && t.lun == target.lun)
            });
            if let Some(target) = both.filter(|_| !harmless) {
                let problem = format!(
                    "devices {} and {} both write to LUN {} of {}",
                    earlier.name, device.name, target.lun, target.name
                );
                problems.add(
                    target.line,
                    problem,
                    Some("one device, or shared = true for both".to_owned()),
                );
            }
        }
    }
}

/// `prefer` and `weights` name paths that can exist: what follows `#` is only known after discovery.
fn path_names(config: &Config, device: &Device, problems: &Problems) {
    let possible: Vec<String> = config
        .portals
        .iter()
        .flat_map(|portal| {
            device.targets.iter().map(|target| names::path(&portal.name, &target.name))
        })
        .collect();
    let named = device.prefer.iter().map(|name| ("prefer", name));
    let named = named.chain(device.weights.iter().map(|(name, _)| ("weights", name)));
    for (key, name) in named {
        let base = name.split_once('#').map_or(name.as_str(), |(base, _)| base);
        if possible.iter().any(|path| path == base) {
            continue;
        }
        let near = suggest(base, possible.iter().map(String::as_str));
        let hint = near.map_or_else(|| format!("one of {}", possible.join(", ")), str::to_owned);
        problems.add(
            device.line,
            format!("{key}: device {} can have no path {name}", device.name),
            Some(hint),
        );
    }
}

fn static_targets(config: &Config, device: &Device, problems: &Problems) {
    if config.portals.iter().any(|portal| portal.discovery || portal.targets.is_empty()) {
        return;
    }
    for target in &device.targets {
        if !config.portals.iter().any(|portal| portal.targets.contains(&target.name)) {
            let problem = format!("target {} stands at no portal", target.name);
            let hint = "its name in the targets of a portal, or a portal with discovery".to_owned();
            problems.add(target.line, problem, Some(hint));
        }
    }
}

/// No secret that we prove is one that a target proves to us, on any portal (RFC 7143 section 9.2.1).
fn secrets(config: &Config, problems: &Problems) {
    let all = |portal: &Portal| -> Vec<std::sync::Arc<Chap>> {
        portal.chap.iter().chain(&portal.discovery_chap).cloned().collect()
    };
    for portal in &config.portals {
        for other in &config.portals {
            let reused = all(portal).iter().any(|ours| {
                all(other).iter().any(|theirs| {
                    theirs.mutual.as_ref().is_some_and(|(_, secret)| *secret == ours.secret)
                })
            });
            if reused {
                let problem = format!(
                    "chap: the secret of portal {} is the mutual secret of portal {} (RFC 7143 9.2.1 forbids it)",
                    portal.name, other.name
                );
                problems.add(
                    portal.line,
                    problem,
                    Some("another secret for the target".to_owned()),
                );
            }
        }
    }
}

/// What works and is still worth saying.
#[must_use]
pub fn warnings(config: &Config) -> Vec<Warning> {
    let mut out = Vec::new();
    for device in &config.devices {
        let mut warn = |text: String| out.push(Warning { line: device.line, text });
        if device.export.beyond_this_host() {
            warn(format!(
                "device {}: {} can be reached from other hosts, without authentication or encryption",
                device.name, device.export
            ));
        }
        if matches!(device.export, Export::Unix(_)) && device.socket_mode & 0o007 != 0 {
            warn(format!(
                "device {}: every user of this host may connect (socket_mode {:04o})",
                device.name, device.socket_mode
            ));
        }
        for warning in tunables::warnings(&device.tunables) {
            warn(format!("device {}: {warning}", device.name));
        }
        let paths = config.portals.len() * device.targets.len();
        if paths == 1 {
            warn(format!(
                "device {}: there is one path only, and nothing to fail over to",
                device.name
            ));
        }
    }
    out
}

/// What depends on this host: sources that it does not have, portals that it cannot route to, socket
/// directories that are not there. No packet is sent.
#[must_use]
pub fn host(config: &Config) -> Vec<ConfigError> {
    let file = config.file.as_ref().map_or_else(String::new, |file| file.display().to_string());
    let mut errors = Vec::new();
    for portal in &config.portals {
        if let Err((problem, hint)) = reach(portal) {
            let problem = format!("portal {}: {problem}", portal.name);
            errors.push(ConfigError {
                file: file.clone(),
                line: portal.line,
                problem,
                hint: Some(hint),
            });
        }
    }
    for device in &config.devices {
        let Export::Unix(path) = &device.export else { continue };
        let Some(dir) = path.parent().filter(|dir| !dir.is_dir()) else { continue };
        // The daemon makes one directory (such as /run/mpio), not a tree.
        if dir.parent().is_some_and(std::path::Path::is_dir) {
            continue;
        }
        let problem = format!("device {}: there is no directory {}", device.name, dir.display());
        let hint = Some(format!("mkdir -p {}", dir.display()));
        errors.push(ConfigError { file: file.clone(), line: device.line, problem, hint });
    }
    errors
}

/// Whether this host has the portal's source and a route from it.
fn reach(portal: &Portal) -> Result<(), (String, String)> {
    if let Some(interface) = &portal.interface
        && !std::path::Path::new("/sys/class/net").join(interface).exists()
    {
        return Err((
            format!("this host has no interface {interface}"),
            "a name from `ip link`".to_owned(),
        ));
    }
    let remote = portal.address.socket_addr();
    let local = match (portal.source, remote) {
        (Some(source), _) => SocketAddr::new(source, 0),
        (None, Some(SocketAddr::V6(_))) => SocketAddr::new(IpAddr::from([0u16; 8]), 0),
        (None, _) => SocketAddr::new(IpAddr::from([0u8; 4]), 0),
    };
    let socket = UdpSocket::bind(local).map_err(|_| {
        let problem = format!("source {} is not an address of this host", local.ip());
        (problem, "an address from `ip addr`".to_owned())
    })?;
    let Some(remote) = remote else { return Ok(()) };
    socket.connect(remote).map_err(|error| {
        let from = portal.source.map_or(String::new(), |source| format!(" from source {source}"));
        let problem = format!("{remote} cannot be reached{from}: {}", secret::plain(&error));
        (problem, format!("`ip route get {}`", remote.ip()))
    })
}

/// Memory of the whole daemon at its worst, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Payloads of all devices and lanes.
    pub payload: u64,
    /// Receive buffers beside them: what is lost at their edges, and those that are kept free.
    pub buffers: u64,
    /// The buffer that is being filled, and the slots, of every session that can exist.
    pub sessions: u64,
    /// Rings, slots and transmit queues of lanes, and the control thread.
    pub fixed: u64,
}

impl Memory {
    /// The sum.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.payload + self.buffers + self.sessions + self.fixed
    }
}

/// Ring, request slots, transmit queues and tables of one lane, bytes.
const LANE_FIXED: u64 = 4 << 20;
/// Code, control thread, discovery, admin connections, bytes.
const DAEMON_FIXED: u64 = 12 << 20;
/// One task slot of a session with its payload pieces, bytes.
const TASK_SLOT: u64 = 512;

/// What the configuration can take at most.
#[must_use]
pub fn memory(config: &Config) -> Memory {
    let mut memory = Memory { payload: 0, buffers: 0, sessions: 0, fixed: DAEMON_FIXED };
    let mut lanes = 0;
    for device in &config.devices {
        let device_lanes = u64::from(device.lanes);
        let paths = names::possible_paths(config, device) as u64;
        // What it sends lies in the payload memory.
        let session = limits::RECV_BUFFER as u64 + limits::TASKS_PER_SESSION_MAX as u64 * TASK_SLOT;
        memory.payload += device.buffer_memory * device_lanes;
        memory.sessions += session * paths * device_lanes;
        lanes = lanes.max(device_lanes);
    }
    memory.buffers = memory.payload / limits::RECV_VAIN_PART as u64
        + lanes * (limits::RECV_BUFFERS_FREE_MAX * limits::RECV_BUFFER) as u64;
    memory.fixed += lanes * LANE_FIXED;
    memory
}

/// What `config check` prints for a good file.
#[must_use]
pub fn describe(config: &Config) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "initiator {}", config.initiator_name);
    for portal in &config.portals {
        let source = portal.source.map_or("any source".to_owned(), |ip| format!("source {ip}"));
        let interface = portal.interface.as_ref().map_or(String::new(), |i| format!(" on {i}"));
        let how = if portal.discovery { "discovery" } else { "no discovery" };
        let chap = match &portal.chap {
            None => "no CHAP",
            Some(chap) if chap.mutual.is_some() => "mutual CHAP",
            Some(_) => "CHAP",
        };
        let _ = writeln!(
            out,
            "portal {}: {source}{interface} -> {}, {how}, {chap}",
            portal.name, portal.address
        );
    }
    for device in &config.devices {
        describe_device(config, device, &mut out);
    }
    let memory = memory(config);
    let _ = writeln!(
        out,
        "memory: at most {} ({} payload, {} buffers around it, {} sessions, {} fixed)",
        values::size_text(memory.total()),
        values::size_text(memory.payload),
        values::size_text(memory.buffers),
        values::size_text(memory.sessions),
        values::size_text(memory.fixed)
    );
    out
}

fn describe_device(config: &Config, device: &Device, out: &mut String) {
    let (lanes, memory) = (device.lanes, values::size_text(device.buffer_memory));
    let plural = if lanes == 1 { "lane" } else { "lanes" };
    let access = if device.read_only { ", read-only" } else { "" };
    let _ = writeln!(
        out,
        "device {}: {} -> {}, {lanes} {plural} of {memory}{access}",
        device.name, device.policy, device.export
    );
    for target in &device.targets {
        let _ = writeln!(out, "  target {} LUN {}", target.name, target.lun);
    }
    let t = &device.tunables;
    let text = values::duration_text;
    let _ = writeln!(
        out,
        "  a silent path fails after {} (the last one after {}), then commands wait {} for a path",
        text(t.path_timeout),
        text(t.last_path_timeout),
        text(t.no_path_timeout)
    );
    let _ = writeln!(out, "  up to {} paths", names::possible_paths(config, device));
}
