//! `mpio status`: the JSON object of the interface, or a table for people.

use super::args::StatusArgs;
use super::output::{safe, table};
use super::{Failure, client, output};
use crate::api::{
    Command, DeviceStatus, Io, Latency, Outcome, PathState, PathStatus, Percentiles, Status,
};
use crate::control::config::values::size_text;
use std::fmt::Write as _;
use std::path::Path;

/// Events shown per device; `--json` has all that the daemon keeps.
const EVENTS_SHOWN: usize = 5;

/// Asks and prints.
///
/// # Errors
/// Those of [`client::ask`].
pub fn run(args: &StatusArgs, control: Option<&Path>) -> Result<(), Failure> {
    let command = Command::Status { device: args.device.clone() };
    let Outcome::Status(status) = client::ask(control, command)? else {
        return Err(client::unexpected());
    };
    if args.json {
        let json = serde_json::to_string_pretty(&status).map_err(Failure::failed)?;
        return output::print(&(json + "\n"));
    }
    output::print(&text(&status))
}

fn text(status: &Status) -> String {
    let daemon = &status.daemon;
    let config = daemon.config.as_deref().unwrap_or("no configuration file");
    let io = if daemon.io == Io::Epoll { ", on epoll" } else { "" };
    let up = uptime(daemon.uptime_s);
    let mut out = format!("mpio pid {}, up {up}, {config}{io}\n", daemon.pid);
    if status.devices.is_empty() {
        out.push_str("no devices\n");
    }
    for device in &status.devices {
        out.push('\n');
        device_text(device, &mut out);
    }
    out
}

fn device_text(d: &DeviceStatus, out: &mut String) {
    let unknown = || "unknown".to_owned();
    let size = match (d.size_bytes, d.block_size) {
        (Some(size), Some(block)) => format!("{} of {block}-byte blocks", size_text(size)),
        _ => "size unknown".to_owned(),
    };
    let names: Vec<String> =
        [&d.vendor, &d.product].into_iter().flatten().map(|t| safe(t)).collect();
    let access = if d.read_only { ", read-only" } else { "" };
    let _ = writeln!(out, "device {}: {}, {size}{access}", d.name, d.state);
    let wwid = d.wwid.as_deref().map_or_else(unknown, safe);
    let _ = writeln!(out, "  wwid     {wwid}  {}", names.join(" "));
    let clients = if d.clients == 1 { "client" } else { "clients" };
    let _ = writeln!(out, "  export   {}, {} {clients}", d.export, d.clients);
    let _ = writeln!(out, "  policy   {}", d.policy);
    let _ = writeln!(
        out,
        "  I/O      {} reads ({}), {} writes ({}), {} errors",
        d.reads,
        size_text(d.read_bytes),
        d.writes,
        size_text(d.written_bytes),
        d.errors
    );
    latency(&d.latency_us, out);
    let f = &d.fences;
    if d.held_writes + f.pending + f.unproven > 0 {
        let _ = writeln!(
            out,
            "  fences   {} writes held, {} in doubt, {} proven, {} unproven",
            d.held_writes, f.pending, f.proven, f.unproven
        );
    }
    if d.paths.is_empty() {
        out.push_str("  no paths yet\n");
    } else {
        out.push_str(&table("  ", &path_rows(&d.paths)));
    }
    let skip = d.events.len().saturating_sub(EVENTS_SHOWN);
    for event in &d.events[skip..] {
        let path = if event.path.is_empty() { "-" } else { event.path.as_str() };
        let _ = writeln!(out, "  {}  {}  {}  {}", event.at, path, event.what, safe(&event.why));
    }
}

fn latency(l: &Latency, out: &mut String) {
    let one = |name: &str, p: &Percentiles| {
        (p.max > 0).then(|| {
            format!(
                "{name} p50 {} p99 {} p99.9 {} max {}",
                us(p.p50),
                us(p.p99),
                us(p.p999),
                us(p.max)
            )
        })
    };
    let both: Vec<String> =
        [one("read", &l.read), one("write", &l.write)].into_iter().flatten().collect();
    if !both.is_empty() {
        let _ = writeln!(out, "  latency  {}", both.join("; "));
    }
}

fn path_rows(paths: &[PathStatus]) -> Vec<Vec<String>> {
    let head = [
        "PATH",
        "STATE",
        "SOURCE -> PORTAL",
        "GROUP",
        "WEIGHT",
        "IN FLIGHT",
        "READS",
        "WRITES",
        "ERRORS",
        "P99 READ",
        "P99 WRITE",
        "WHY",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for p in paths {
        let source = p.source.as_deref().unwrap_or("any");
        // A good path needs no reason; of a bad one the last failure is better than nothing.
        let why = match p.state {
            _ if !p.reason.is_empty() => safe(&p.reason),
            PathState::Active | PathState::Standby => String::new(),
            _ => safe(&p.last_failure),
        };
        rows.push(vec![
            p.name.clone(),
            p.state.to_string(),
            format!("{source} -> {}", p.portal),
            p.group.to_string(),
            p.weight.to_string(),
            format!("{}/{}", p.in_flight, p.queue_depth),
            p.reads.to_string(),
            p.writes.to_string(),
            p.errors.to_string(),
            us(p.latency_us.read.p99),
            us(p.latency_us.write.p99),
            why,
        ]);
    }
    rows
}

/// Microseconds in the unit that keeps them short.
fn us(us: u64) -> String {
    match us {
        0 => "-".to_owned(),
        1..10_000 => format!("{us}us"),
        10_000..10_000_000 => format!("{}ms", us / 1000),
        _ => format!("{}s", us / 1_000_000),
    }
}

fn uptime(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..120 => format!("{seconds:.1} s"),
        120..7200 => format!("{} min", whole / 60),
        7200..172_800 => format!("{} h", whole / 3600),
        _ => format!("{} days", whole / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DaemonStatus, DeviceState, Event};

    #[test]
    fn a_table_for_people() {
        let path = |name: &str, state, reason: &str| PathStatus {
            name: name.into(),
            portal: "10.10.1.10:3260".into(),
            source: Some("10.10.1.1".into()),
            state,
            reason: reason.into(),
            group: 1,
            weight: 3,
            queue_depth: 128,
            reads: 7,
            latency_us: Latency {
                read: Percentiles { p50: 80, p99: 150, p999: 300, max: 700 },
                ..Latency::default()
            },
            ..PathStatus::default()
        };
        let device = DeviceStatus {
            name: "vm0".into(),
            wwid: Some("naa.6000".into()),
            vendor: Some("TEST".into()),
            product: Some("MIR\u{1b}ROR".into()),
            size_bytes: Some(1 << 30),
            block_size: Some(512),
            state: DeviceState::Degraded,
            policy: "round-robin".into(),
            export: "unix:/run/mpio/vm0.sock".into(),
            clients: 1,
            paths: vec![
                path("a:ha1", PathState::Active, ""),
                path("b:ha1partner", PathState::Failed, "no answer for 1 s"),
            ],
            events: vec![Event {
                at: "2026-11-20T12:00:00.123Z".into(),
                path: "b:ha1partner".into(),
                what: "failed".into(),
                why: "no answer for 1 s".into(),
            }],
            ..DeviceStatus::default()
        };
        let daemon = DaemonStatus {
            pid: 7,
            uptime_s: 12.5,
            config: Some("/etc/mpio.toml".into()),
            io: Io::Uring,
            memory_locked: true,
        };
        let status = Status { version: 1, daemon, devices: vec![device] };
        let expected = "\
mpio pid 7, up 12.5 s, /etc/mpio.toml

device vm0: degraded, 1 GiB of 512-byte blocks
  wwid     naa.6000  TEST MIR\\u{1b}ROR
  export   unix:/run/mpio/vm0.sock, 1 client
  policy   round-robin
  I/O      0 reads (0 B), 0 writes (0 B), 0 errors
  PATH          STATE   SOURCE -> PORTAL              GROUP  WEIGHT  IN FLIGHT  READS  WRITES  ERRORS  P99 READ  P99 WRITE  WHY
  a:ha1         active  10.10.1.1 -> 10.10.1.10:3260  1      3       0/128      7      0       0       150us     -
  b:ha1partner  failed  10.10.1.1 -> 10.10.1.10:3260  1      3       0/128      7      0       0       150us     -          no answer for 1 s
  2026-11-20T12:00:00.123Z  b:ha1partner  failed  no answer for 1 s
";
        assert_eq!(text(&status), expected);
    }
}
