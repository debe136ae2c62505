//! Hostile targets on path A while path B serves a verified load.

use crate::evil::{Between, DATA_IN, Pdu, R2T, RESPONSE, Script, Spoil, scripted};
use crate::harness::daemon::{Daemon, SETTLE, mpio, path_of};
use crate::harness::embedded::{Embedded, PATHS};
use crate::harness::wait_for;
use crate::load::Load;
use crate::{assert_bounded, open};
use mpio_target::config::PairConfig;
use mpio_target::faults::{Commands, Fault, Rule};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

/// A configuration whose portal `a` is at `a`, without discovery: nobody there could answer it.
fn config_with_a(rig: &Embedded, a: SocketAddr) -> String {
    let config = rig.config_with("discovery = false\ntargets = [\"@\"]", "");
    let config = config.replacen(&rig.portal(0), &a.to_string(), 1);
    config.replacen('@', &rig.target(0), 1).replacen('@', &rig.target(1), 1)
}

fn failures(status: &Value) -> u64 {
    path_of(status, PATHS[0])["failures"].as_u64().unwrap_or(0)
}

/// Waits for one more failure of path A than `before`, with a reason that has one of `why`.
#[track_caller]
fn fails(daemon: &mut Daemon, what: &str, before: u64, why: &[&str]) {
    let told = format!("{what}: path A failed with a reason of {why:?}");
    daemon.wait(&told, |status| {
        let path = path_of(status, PATHS[0]);
        let text = format!("{} {}", path["reason"], path["last_failure"]);
        failures(status) > before && why.iter().any(|part| text.contains(part))
    });
}

/// Every fault of the pair on node A, one after the other.
#[test]
fn every_fault_of_a_target() {
    let mut config = PairConfig::default();
    config.nodes[0].negotiation.max_recv_segment = Some(65536);
    let rig = Embedded::with("hostile-faults", config);
    let digests = "header_digest = \"crc32c\"\ndata_digest = \"crc32c\"";
    let config = rig.config_with(digests, "path_timeout = \"500ms\"\ncommand_timeout = \"1s\"");
    let mut daemon = Daemon::start(&rig.scratch, None, &config);
    let load = Load::start(&daemon);
    load.goes_on(1);
    let memory = daemon.resident_kib();
    let elsewhere = Fault::Redirect { address: "127.0.0.9:3260".into(), permanent: false };
    let cases: Vec<(&str, Fault, bool, &[&str])> = vec![
        ("reset", Fault::Reset, false, &["reset"]),
        ("fin", Fault::Close, false, &["closed"]),
        ("header digest", Fault::HeaderDigest, false, &["digest"]),
        ("data digest", Fault::DataDigest, false, &["digest"]),
        ("lost bytes", Fault::DropBytes(13), false, &["digest", "opcode", "additional header"]),
        ("silence", Fault::Silence, false, &["no byte", "no answer", "silent", "nothing"]),
        ("frozen", Fault::Freeze, false, &["no byte", "no answer", "silent", "nothing"]),
        ("refused", Fault::Refuse, true, &["reset", "closed", "refused"]),
        ("half open", Fault::HalfOpen, true, &["no login", "no answer"]),
        ("no such target", Fault::LoginStatus { class: 2, detail: 3 }, true, &["not found"]),
        (
            "out of resources",
            Fault::LoginStatus { class: 3, detail: 2 },
            true,
            &["out of resources"],
        ),
        ("redirect", elsewhere, true, &["127.0.0.9:3260"]),
    ];
    for (what, fault, at_login, why) in cases {
        daemon.wait_until_active(PATHS[0]);
        let before = failures(&daemon.status());
        let node = rig.pair.node(0);
        node.faults().set("fault", Rule::new(fault));
        if at_login {
            node.reset_connections();
        }
        let since = std::time::Instant::now();
        fails(&mut daemon, what, before, why);
        let last = path_of(&daemon.status(), PATHS[0])["last_failure"].clone();
        eprintln!("{what}: {last} after {:?}", since.elapsed());
        load.goes_on(1);
        assert_bounded(&daemon, memory);
        node.faults().clear();
        // What was refused for good is retried slowly; an administrator does not have to wait.
        daemon.succeed(&["path", "vm0", PATHS[0], "recheck"]);
    }
    daemon.wait_until_active(PATHS[0]);
    let before = daemon.status();
    load.goes_on(1);
    let carried = |status: &Value| path_of(status, PATHS[0])["reads"].as_u64().unwrap();
    assert!(carried(&daemon.status()) > carried(&before), "path A serves again");
    assert_eq!(daemon.status()["devices"][0]["errors"], 0);
    load.stop();
    daemon.stop();
}

/// Answers that are GOOD as iSCSI and bad as SCSI: retried elsewhere or here, nothing reaches the client.
#[test]
fn errors_of_a_unit_on_one_path() {
    let rig = Embedded::start("hostile-sense");
    let daemon = rig.daemon("");
    let load = Load::start(&daemon);
    let hardware = mpio_target::faults::SenseCode { key: 4, asc: 0x44, ascq: 0 };
    let not_ready = mpio_target::faults::SenseCode { key: 2, asc: 4, ascq: 0x0b };
    for fault in [
        Fault::Status(8),
        Fault::Status(0x28),
        Fault::Sense(hardware),
        Fault::Sense(not_ready),
        Fault::UnitAttention { asc: 0x29, ascq: 0 },
        Fault::UnitAttention { asc: 0x3f, ascq: 0x0e },
        Fault::ShortRead(512),
        Fault::Window(1),
    ] {
        let rule = Rule::new(fault.clone()).on(Commands::Medium).rate(0.2);
        rig.pair.node(0).faults().set("fault", rule);
        load.goes_on(1);
        rig.pair.node(0).faults().clear();
    }
    assert_eq!(daemon.status()["devices"][0]["errors"], 0);
    load.stop();
    daemon.stop();
}

const fn spoil(opcode: u8, change: fn(&mut Pdu)) -> Spoil {
    Spoil { opcode, change, noise: 0, pings: 0 }
}

/// PDUs that are wrong in one place each, after a good login: the session ends with a reason, the load goes on.
#[test]
fn every_field_that_can_lie() {
    let mut config = PairConfig::default();
    // So that writes need an R2T.
    for node in &mut config.nodes {
        node.negotiation.initial_r2t = true;
        node.negotiation.immediate_data = false;
    }
    let rig = Embedded::with("hostile-fields", config);
    let between = Between::start(rig.pair.node(0).addr());
    let mut daemon = Daemon::start(&rig.scratch, None, &config_with_a(&rig, between.addr));
    let load = Load::start(&daemon);
    load.goes_on(1);
    let memory = daemon.resident_kib();
    let cases: Vec<(&str, Spoil)> = vec![
        ("a task tag that nobody gave", spoil(RESPONSE, |p| p.put(16, 0x7777_7777))),
        ("data for a task that nobody started", spoil(DATA_IN, |p| p.put(16, 0x7777_7777))),
        ("an R2T for no task", spoil(R2T, |p| p.put(16, 0x7777_7777))),
        ("an unknown opcode", spoil(RESPONSE, |p| p.head[0] = 0x3e)),
        ("an initiator's opcode", spoil(RESPONSE, |p| p.head[0] = 0x01)),
        ("data beyond the command", spoil(DATA_IN, |p| p.put(40, 0xffff_fe00))),
        ("an R2T beyond the command", spoil(R2T, |p| p.put(40, 0x1000_0000))),
        ("an R2T for 4 GiB", spoil(R2T, |p| p.put(44, u32::MAX))),
        ("an R2T for nothing", spoil(R2T, |p| p.put(44, 0))),
        (
            "a status number from the future",
            spoil(RESPONSE, |p| {
                let number = u32::from_be_bytes(p.head[24..28].try_into().unwrap());
                p.put(24, number.wrapping_add(1000));
            }),
        ),
        (
            "a segment of 16 MiB",
            Spoil { noise: 64 << 20, ..spoil(DATA_IN, |p| p.head[5..8].fill(0xff)) },
        ),
        (
            "an additional header of 1020 bytes",
            Spoil { noise: 1 << 20, ..spoil(RESPONSE, |p| p.head[4] = 0xff) },
        ),
        ("noise after an answer", Spoil { noise: 8 << 20, ..spoil(RESPONSE, |_| {}) }),
        ("a million pings, and no ear", Spoil { pings: 1_000_000, ..spoil(RESPONSE, |_| {}) }),
    ];
    for (what, spoil) in cases {
        daemon.wait_until_active(PATHS[0]);
        let before = failures(&daemon.status());
        between.set(Some(spoil));
        wait_for(SETTLE, what, || {
            load.assert_fine();
            (between.struck() > 0).then_some(())
        });
        daemon.wait(what, |status| failures(status) > before);
        between.set(None);
        // From the fifth failure within a minute it is kept out for a while; this test does not wait.
        daemon.succeed(&["path", "vm0", PATHS[0], "recheck"]);
        load.goes_on(1);
        let status = daemon.status();
        let why = path_of(&status, PATHS[0])["last_failure"].as_str().unwrap();
        eprintln!("{what}: {why} ({} KiB)", daemon.resident_kib());
        assert!(!why.is_empty(), "{what}: no reason");
        assert_bounded(&daemon, memory);
    }
    daemon.wait_until_active(PATHS[0]);
    assert_eq!(daemon.status()["devices"][0]["errors"], 0);
    load.stop();
    daemon.stop();
}

/// Targets that never get as far as a unit.
#[test]
fn targets_that_never_serve() {
    for (script, why) in [
        (Script::Noise, &["login failed"][..]),
        (Script::Drip, &["no login within", "additional header"]),
        (Script::EndlessLogin, &["endless text"]),
        (Script::EndlessPdu, &["segment", "length", "opcode"]),
        (Script::Silence, &["no answer", "no byte", "silent", "nothing"]),
        (Script::Close, &["closed"]),
    ] {
        let rig = Embedded::start("hostile-script");
        let config = config_with_a(&rig, scripted(script));
        let mut daemon = Daemon::launch(&rig.scratch, None, &config);
        daemon.wait_until_active(PATHS[1]);
        let memory = daemon.resident_kib();
        let load = Load::start(&daemon);
        daemon.wait(&format!("{script:?} told with one of {why:?}"), |status| {
            let path = path_of(status, PATHS[0]);
            let text = format!("{} {}", path["reason"], path["last_failure"]);
            path["state"] != "active" && why.iter().any(|part| text.contains(part))
        });
        load.goes_on(1);
        eprintln!("{script:?}: {}", path_of(&daemon.status(), PATHS[0])["last_failure"]);
        assert_eq!(daemon.status()["devices"][0]["state"], "degraded");
        assert_bounded(&daemon, memory);
        load.stop();
        drop(open(&daemon));
        daemon.stop();
    }
}

/// Discovery of the same: an error within a bounded time, from a process of bounded memory.
#[test]
fn discovery_of_targets_that_never_end() {
    for script in [
        Script::Noise,
        Script::Drip,
        Script::EndlessLogin,
        Script::EndlessText,
        Script::EndlessPdu,
        Script::Silence,
        Script::Close,
    ] {
        let portal = scripted(script).to_string();
        let since = std::time::Instant::now();
        let done = mpio(&["discover", &portal]);
        eprintln!("{script:?}: {}", done.stderr.trim());
        assert_eq!(done.code, Some(1), "{script:?}: {done:?}");
        let text = done.stderr.strip_prefix("mpio: ").unwrap_or_default();
        assert!(text.contains(&portal) && text.contains("; try: "), "{script:?}: {text}");
        assert!(since.elapsed() < Duration::from_secs(30), "{script:?}: {:?}", since.elapsed());
    }
}
