//! From the text of a configuration to a [`Config`]: one function per table, then what must hold across
//! tables. Defaults are those of [`Device::new`] and [`Portal::new`].

use super::document::{Located, Problems, Section, mistyped, number, suggest};
use super::values::{self, Address, Export, ISCSI_PORT, Wrong};
use super::{Config, ConfigError, Device, Portal, Target, Warning, check, secret, tune};
use crate::limits;
use crate::path::{AVAILABLE, Policy, WEIGHT_MAX};
use crate::volume::spec::Digest;
use std::net::SocketAddr;
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// Tables and keys of the file that a later version knows.
const ROOT_LATER: [&str; 2] = ["metrics", "tls"];

/// Lanes per device: more than processors help nobody.
const LANES_MAX: u64 = 64;
/// Least payload memory per lane: one NBD request of the greatest size must fit, with its receive buffer.
pub const BUFFER_MEMORY_MIN: u64 = limits::NBD_PAYLOAD_MAX as u64 + 2 * limits::RECV_BUFFER as u64;
/// Most payload memory per lane.
const BUFFER_MEMORY_MAX: u64 = 64 << 30;

/// Parses `text`; `file` is its name in messages, `base` the directory of relative secret files.
///
/// # Errors
/// Every error found, in order of lines.
pub fn parse(
    file: &str,
    text: &str,
    base: &Path,
) -> Result<(Config, Vec<Warning>), Vec<ConfigError>> {
    let problems = Problems::new(file, text);
    let root = match DeTable::parse(text) {
        Ok(root) => root,
        Err(error) => {
            let line = error.span().map_or(0, |span| problems.line(span.start));
            let hint = "key = value in every line, texts in \"quotes\", [tables] in brackets";
            let there = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().trim();
            let there: String = there.chars().take(60).collect();
            let problem = format!("this is not TOML: {}: `{there}`", error.message());
            problems.add(line, problem, Some(hint.into()));
            return Err(problems.into_errors());
        }
    };
    let root = Section::new("the file", root.get_ref(), 0, &problems).later(&ROOT_LATER);
    let initiator_name = initiator(&root);
    let mut portals: Vec<Portal> = Vec::new();
    for section in root.tables("portal", "[[portal]]") {
        portals.extend(portal(section, base));
    }
    let mut devices: Vec<Device> = Vec::new();
    for section in root.tables("device", "[[device]]") {
        devices.extend(device(section));
    }
    for (key, example) in [("portal", "name = \"a\""), ("device", "name = \"vm0\"")] {
        if problems.is_empty() && root.tables(key, "").is_empty() {
            let hint = format!("a table [[{key}]] that starts with {example}");
            problems.add(0, format!("there is no [[{key}]]"), Some(hint));
        }
    }
    root.finish();
    // Relations between tables are only worth telling once every table is right.
    let config =
        Config { file: None, initiator_name: initiator_name.unwrap_or_default(), portals, devices };
    if problems.is_empty() {
        check::across(&config, &problems);
    }
    let warnings = check::warnings(&config);
    let errors = problems.into_errors();
    if errors.is_empty() { Ok((config, warnings)) } else { Err(errors) }
}

fn initiator(root: &Section<'_>) -> Option<String> {
    let example = "\"iqn.2026-11.example.host1:mpio\"";
    let Some(section) = root.table("initiator") else {
        let hint = format!("[initiator] with name = {example}");
        root.problems().add(0, "there is no [initiator]", Some(hint));
        return None;
    };
    let name = section.require("name", section.text("name", values::iscsi_name), example);
    section.finish();
    name.map(|name| name.value)
}

fn value<T>(located: Option<Located<T>>) -> Option<T> {
    located.map(|located| located.value)
}

fn digest(text: &str) -> Result<Digest, Wrong> {
    match text.to_ascii_lowercase().as_str() {
        "none" => Ok(Digest::None),
        "crc32c" => Ok(Digest::Crc32c),
        "prefer-crc32c" => Ok(Digest::PreferCrc32c),
        _ => Err(Wrong::new(format!("{text:?} is not a digest"), "none, crc32c or prefer-crc32c")),
    }
}

fn interface(text: &str) -> Result<String, Wrong> {
    // IFNAMSIZ: 15 bytes and a NUL.
    let good =
        (1..=15).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    if good {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("{text:?} is not the name of an interface"), "eth2 (see `ip link`)"))
}

fn redirect(text: &str) -> Result<SocketAddr, Wrong> {
    let address = Address::parse(text, ISCSI_PORT)?;
    address.socket_addr().ok_or_else(|| {
        Wrong::new(format!("{text:?} is a host name"), "an IP address: a redirect is not looked up")
    })
}

fn portal(section: Section<'_>, base: &Path) -> Option<Portal> {
    let name = section.require("name", section.text("name", values::name), "\"a\"");
    let address = section.text("address", |text| Address::parse(text, ISCSI_PORT));
    let address = section.require("address", address, "\"10.10.1.10\"");
    let source = section.text("source", values::source);
    let interface = section.text("interface", interface);
    let discovery = value(section.flag("discovery"));
    let targets = section.list("targets", values::iscsi_name);
    let chap = section.table("chap").map(|chap| secret::section(chap, base));
    let discovery_chap = section.table("discovery_chap").map(|chap| secret::section(chap, base));
    let header_digest = value(section.text("header_digest", digest)).unwrap_or_default();
    let data_digest = value(section.text("data_digest", digest)).unwrap_or_default();
    let redirect_allow = section.list("redirect_allow", redirect).unwrap_or_default();
    let (line, problems) = (section.line(), section.problems());
    section.finish();
    let (name, address) = (name?.value, address?.value);
    if let (Some(ip), Some(source)) = (address.ip(), &source)
        && ip.is_ipv4() != source.value.is_ipv4()
    {
        let problem = format!("source: {} cannot reach {ip}: one is IPv4, one IPv6", source.value);
        problems.add(source.line, problem, Some(format!("a source of the family of {ip}")));
    }
    if targets.is_some() && discovery != Some(false) {
        let hint = "discovery = false with it, or leave it out".to_owned();
        problems.add(
            line,
            "targets: a portal that is asked for its targets needs no list",
            Some(hint),
        );
    }
    let chap = chap.unwrap_or_default();
    Some(Portal {
        interface: value(interface),
        discovery: discovery.unwrap_or(true),
        targets: targets.unwrap_or_default().into_iter().map(|target| target.value).collect(),
        discovery_chap: discovery_chap.unwrap_or_else(|| chap.clone()),
        chap,
        header_digest,
        data_digest,
        redirect_allow: redirect_allow.into_iter().map(|address| address.value).collect(),
        line,
        ..Portal::new(&name, address, value(source))
    })
}

fn device(section: Section<'_>) -> Option<Device> {
    let name = section.require("name", section.text("name", values::name), "\"vm0\"");
    let lun = section.number("lun", 0..=0x3fff);
    // A LUN that is written wrong is told once, not once more for every target.
    let lun = value(lun).or(section.has("lun").then_some(0));
    let targets = targets(&section, lun);
    let export = section.text("export", Export::parse);
    let export = section.require("export", export, "\"unix:/run/mpio/vm0.sock\"");
    let line = section.line();
    // What is missing shows itself in `problems`; the rest is read all the same, to tell every error.
    let fallback = Export::Unix(Path::new("/").to_owned());
    let known = name.is_some() && export.is_some() && targets.is_some();
    let mut device = Device::new(
        &value(name).unwrap_or_default(),
        targets.unwrap_or_default(),
        value(export).unwrap_or(fallback),
    );
    device.line = line;
    device.wwid = value(section.text("wwid", values::wwid));
    device.policy = value(section.text("policy", policy)).unwrap_or_default();
    device.prefer = value(section.text("prefer", |text| Ok(text.to_owned())));
    device.weights = section.table("weights").map(weights).unwrap_or_default();
    device.read_only = value(section.flag("read_only")).unwrap_or(false);
    if let Some(mode) = section.text("socket_mode", values::mode) {
        device.socket_mode = mode.value;
    }
    if let Some(lanes) = section.number("lanes", 1..=LANES_MAX) {
        device.lanes = lanes.value as u16;
    }
    if let Some(memory) = section.get("buffer_memory", buffer_memory) {
        device.buffer_memory = memory.value;
    }
    tune::section(&section, &mut device.tunables);
    section.finish();
    known.then_some(device)
}

fn targets(section: &Section<'_>, lun: Option<u64>) -> Option<Vec<Target>> {
    let example = "[\"iqn.2026-11.example.san:ha1\", \"iqn.2026-11.example.san:ha1partner\"]";
    let list = section.require("targets", section.list("targets", values::target), example)?;
    if list.is_empty() {
        let problem = "targets: the list is empty, or nothing in it is right";
        section.problems().add(section.line(), problem, Some(format!("targets = {example}")));
        return None;
    }
    let mut out: Vec<Target> = Vec::new();
    for Located { value: (name, own), line } in list {
        let Some(lun) = own.or(lun) else {
            let problem = format!("target {name} has no LUN");
            section.problems().add(line, problem, Some("lun = 1 for the device".to_owned()));
            continue;
        };
        if let Err(wrong) = values::lun_field(lun) {
            section.problems().wrong(line, "targets", wrong);
        }
        if out.iter().any(|other| other.name == name) {
            let hint = "each target once: a device is one LUN".to_owned();
            section.problems().add(line, format!("target {name} is listed twice"), Some(hint));
            continue;
        }
        out.push(Target { name, lun, line });
    }
    Some(out)
}

/// A policy by any of its names.
pub fn policy(text: &str) -> Result<Policy, Wrong> {
    text.parse::<Policy>().map_err(|error| Wrong::new(error.to_string(), policies(text)))
}

/// The policy that was meant, or all there are.
pub fn policies(meant: &str) -> String {
    suggest(meant, AVAILABLE.split(", ")).unwrap_or(AVAILABLE).to_owned()
}

fn weights(section: Section<'_>) -> Vec<(String, u32)> {
    let entries = section.entries(|_, value| number(value, &(0..=WEIGHT_MAX.into())));
    entries.into_iter().map(|(path, weight)| (path, weight.value as u32)).collect()
}

fn buffer_memory(value: &DeValue<'_>) -> Result<u64, Wrong> {
    let bytes = match value {
        DeValue::String(text) => values::size(text)?,
        DeValue::Integer(number) => values::size(number.as_str())?,
        other => return Err(mistyped(other, "a size in quotes, such as \"64MiB\"")),
    };
    if (BUFFER_MEMORY_MIN..=BUFFER_MEMORY_MAX).contains(&bytes) {
        return Ok(bytes);
    }
    let range = [BUFFER_MEMORY_MIN, BUFFER_MEMORY_MAX].map(values::size_text);
    let problem = format!("{} is out of range", values::size_text(bytes));
    Err(Wrong::new(problem, format!("{} to {}", range[0], range[1])))
}
