//! `mpio discover`: what portals offer, from where we would reach them.
//!
//! Portals are asked one after the other, each with a line of progress where somebody watches; what one
//! of them says or fails to say does not stop the next.

use super::args::DiscoverArgs;
use super::output::{print, progress, safe, table};
use super::{Failure, serve};
use crate::control::config::Chap;
use crate::control::config::values::{self, Address, size_text};
use crate::control::connect::Way;
use crate::control::discovery::{self, Question};
use crate::control::listing::{self, Lun};
use crate::control::plan::Record;
use crate::control::runtime;
use serde::Serialize;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Report {
    version: u32,
    portals: Vec<PortalReport>,
}

/// What one portal said.
#[derive(Debug, Default, Serialize)]
struct PortalReport {
    portal: String,
    source: Option<String>,
    error: Option<String>,
    targets: Vec<TargetReport>,
}

#[derive(Debug, Serialize)]
struct TargetReport {
    name: String,
    portals: Vec<AddressReport>,
    error: Option<String>,
    luns: Vec<LunReport>,
}

#[derive(Debug, Serialize)]
struct AddressReport {
    address: String,
    portal_group: Option<u16>,
}

#[derive(Debug, Default, Serialize)]
struct LunReport {
    lun: u64,
    wwid: Option<String>,
    vendor: Option<String>,
    product: Option<String>,
    serial: Option<String>,
    size_bytes: Option<u64>,
    block_size: Option<u32>,
    read_only: Option<bool>,
    error: Option<String>,
}

/// Asks every portal and prints what they said.
///
/// # Errors
/// Exit code 2 for wrong flags, 1 when a portal or target could not be asked.
pub fn run(args: &DiscoverArgs) -> Result<(), Failure> {
    let initiator = serve::initiator_name(args.initiator_name.as_deref())?;
    let chap = serve::chap(&args.chap)?;
    let source =
        args.source.as_deref().map(values::source).transpose().map_err(serve::flag("--source"))?;
    let mut portals = Vec::new();
    for text in &args.portals {
        let (address, own) = serve::portal("PORTAL", text)?;
        portals.push((address, own.or(source)));
    }
    let asking = Asking {
        initiator,
        chap,
        allow: portals.iter().filter_map(|(a, _)| a.socket_addr()).collect(),
    };
    let report = runtime::run(asking.all(&portals))
        .map_err(|error| Failure::failed(format!("discover: {error}; try: ulimit -a")))?;
    let text = if args.json {
        serde_json::to_string_pretty(&report).map_err(Failure::failed)? + "\n"
    } else {
        text(&report)
    };
    print(&text)?;
    let messages = failures(&report);
    if messages.is_empty() { Ok(()) } else { Err(Failure { code: 1, messages }) }
}

struct Asking {
    initiator: String,
    chap: Option<Arc<Chap>>,
    allow: Vec<SocketAddr>,
}

impl Asking {
    async fn all(&self, portals: &[(Address, Option<IpAddr>)]) -> Report {
        let mut report = Report { version: crate::api::VERSION, portals: Vec::new() };
        for (index, (address, source)) in portals.iter().enumerate() {
            progress(&format!("asking {address} ({} of {}) …", index + 1, portals.len()));
            report.portals.push(self.portal(address, *source).await);
        }
        report
    }

    async fn portal(&self, address: &Address, source: Option<IpAddr>) -> PortalReport {
        let question = Question {
            portal: address.clone(),
            source,
            interface: None,
            initiator: self.initiator.clone(),
            chap: self.chap.clone(),
            allow: self.allow.clone(),
        };
        let mut report = PortalReport {
            portal: address.to_string(),
            source: source.map(|source| source.to_string()),
            ..PortalReport::default()
        };
        match discovery::ask(&question).await {
            Err(error) => report.error = Some(error.to_string()),
            Ok(answer) => {
                let way = Way { portal: answer.portal, source, interface: None };
                for record in answer.records {
                    progress(&format!("looking at {} …", safe(&record.target)));
                    report.targets.push(self.target(&way, record).await);
                }
            }
        }
        report
    }

    async fn target(&self, way: &Way, record: Record) -> TargetReport {
        let here = !record
            .addresses
            .iter()
            .any(|a| a.host.parse() == Ok(way.portal.ip()) && a.port == way.portal.port());
        // A target that is only advertised elsewhere is listed there, by who asks that portal.
        let elsewhere = here && !record.addresses.is_empty();
        let mut report = TargetReport {
            portals: record.addresses.iter().map(address).collect(),
            name: record.target,
            error: None,
            luns: Vec::new(),
        };
        if elsewhere {
            return report;
        }
        match listing::luns(way, &self.initiator, &report.name, self.chap.as_deref()).await {
            Ok(luns) => report.luns = luns.iter().map(lun).collect(),
            Err(error) => report.error = Some(error.to_string()),
        }
        report
    }
}

fn address(a: &crate::control::plan::Advertised) -> AddressReport {
    let address = Address { host: a.host.clone(), port: a.port }.to_string();
    AddressReport { address, portal_group: a.portal_group }
}

fn lun(found: &Lun) -> LunReport {
    let lun = values::lun_number(found.field);
    match &found.unit {
        Err(why) => LunReport { lun, error: Some(why.clone()), ..LunReport::default() },
        Ok(unit) => LunReport {
            lun,
            wwid: unit.wwid().map(str::to_owned),
            vendor: Some(unit.vendor()),
            product: Some(unit.product()),
            serial: unit.serial(),
            size_bytes: Some(unit.size_bytes()),
            block_size: Some(unit.block_size()),
            read_only: Some(unit.read_only()),
            error: None,
        },
    }
}

/// What went wrong, for stderr and the exit code.
fn failures(report: &Report) -> Vec<String> {
    let mut out = Vec::new();
    for portal in &report.portals {
        out.extend(portal.error.clone());
        out.extend(
            portal
                .targets
                .iter()
                .filter_map(|t| Some(format!("target {}: {}", safe(&t.name), t.error.as_ref()?))),
        );
    }
    out
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    for portal in &report.portals {
        let source =
            portal.source.as_ref().map_or(String::new(), |source| format!(" from {source}"));
        let _ = writeln!(out, "portal {}{source}", portal.portal);
        if portal.error.is_some() {
            out.push_str("  not reached\n");
        } else if portal.targets.is_empty() {
            out.push_str("  no targets for this initiator\n");
        }
        for target in &portal.targets {
            target_text(target, &mut out);
        }
    }
    out
}

fn target_text(target: &TargetReport, out: &mut String) {
    let _ = writeln!(out, "  {}", safe(&target.name));
    for portal in &target.portals {
        let group =
            portal.portal_group.map_or(String::new(), |tag| format!(", portal group {tag}"));
        let _ = writeln!(out, "    at {}{group}", safe(&portal.address));
    }
    if target.error.is_some() {
        out.push_str("    not logged in\n");
    }
    let mut rows = Vec::new();
    for lun in &target.luns {
        let name = format!("LUN {}", lun.lun);
        rows.push(match &lun.error {
            Some(why) => vec![name, safe(why)],
            None => vec![
                name,
                lun.wwid.as_deref().map_or("no WWID".to_owned(), safe),
                lun.size_bytes.map_or(String::new(), size_text),
                lun.block_size.map_or(String::new(), |b| format!("{b}-byte blocks")),
                format!(
                    "{} {}",
                    safe(lun.vendor.as_deref().unwrap_or("")),
                    safe(lun.product.as_deref().unwrap_or(""))
                ),
            ],
        });
    }
    out.push_str(&table("    ", &rows));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_for_people() {
        let lun = LunReport {
            lun: 1,
            wwid: Some("naa.6000".into()),
            vendor: Some("TEST".into()),
            product: Some("MIRROR".into()),
            size_bytes: Some(1 << 30),
            block_size: Some(512),
            ..LunReport::default()
        };
        let gone = LunReport { lun: 2, error: Some("no such unit".into()), ..LunReport::default() };
        let target = TargetReport {
            name: "iqn.2026-11.example.san:ha1".into(),
            portals: vec![AddressReport {
                address: "10.10.1.10:3260".into(),
                portal_group: Some(1),
            }],
            error: None,
            luns: vec![lun, gone],
        };
        let good = PortalReport {
            portal: "10.10.1.10:3260".into(),
            source: Some("10.10.1.1".into()),
            error: None,
            targets: vec![target],
        };
        let bad = PortalReport {
            portal: "10.10.2.10:3260".into(),
            error: Some("discovery: portal 10.10.2.10:3260: connection refused".into()),
            ..PortalReport::default()
        };
        let report = Report { version: 1, portals: vec![good, bad] };
        assert_eq!(
            text(&report),
            "portal 10.10.1.10:3260 from 10.10.1.1\n  iqn.2026-11.example.san:ha1\n    \
             at 10.10.1.10:3260, portal group 1\n    \
             LUN 1  naa.6000      1 GiB  512-byte blocks  TEST MIRROR\n    \
             LUN 2  no such unit\nportal 10.10.2.10:3260\n  not reached\n"
        );
        assert_eq!(failures(&report), ["discovery: portal 10.10.2.10:3260: connection refused"]);
    }
}
