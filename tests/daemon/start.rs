//! With what is there: one portal down, all portals down, read-only.

use crate::harness::daemon::{Daemon, path_of};
use crate::harness::embedded::{Embedded, PATHS};
use crate::harness::nbd::{REP_ACK, Raw};
use crate::{open, says};
use mpio::wire::nbd::{Command, NbdError};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A unit attention of one target: the portals of all are asked again, and not for ever.
#[test]
fn portals_are_asked_again_when_a_target_reports_a_change() {
    let rig = Embedded::start("rediscovery");
    let mut daemon = rig.daemon("policy = \"failover\"\nprefer = \"a:ha1\"");
    let logins = || [0, 1].map(|n| rig.pair.node(n).counters().logins.load(Ordering::Relaxed));
    let before = logins();
    rig.pair.node(0).unit_attention(0x3f, 0x0e);
    open(&daemon).read(0, 4096).unwrap();
    let asked = || logins().iter().zip(before).all(|(now, before)| *now == before + 1);
    crate::harness::wait_for(Duration::from_secs(20), "both portals asked", || {
        asked().then_some(())
    });
    daemon.wait("the device whole", |status| status["devices"][0]["state"] == "ok");
    assert!(asked(), "{before:?} and now {:?}", logins());
    says(&daemon.log(), &["asked again: a target has said that something changed"]);
    daemon.stop();
}

#[test]
fn a_portal_that_is_down_joins_later() {
    let rig = Embedded::start("one-down");
    rig.pair.node(1).kill();
    let mut daemon = Daemon::launch(&rig.scratch, None, &rig.config(""));
    let status = daemon.wait("one path", |status| path_of(status, PATHS[0])["state"] == "active");
    let device = &status["devices"][0];
    assert_eq!(device["state"], "degraded", "not everything that is configured is there");
    let mut client = open(&daemon);
    client.write(4096, &[3; 8192]).unwrap();
    let status = daemon.wait("an event of the portal", |status| {
        let events = status["devices"][0]["events"].as_array();
        events.is_some_and(|events| events.iter().any(|e| e["what"] == "portal-down"))
    });
    let events = status["devices"][0]["events"].as_array().unwrap();
    let event = events.iter().find(|event| event["what"] == "portal-down").unwrap();
    assert_eq!(event["path"], "b");
    says(event["why"].as_str().unwrap(), &[&rig.portal(1), "connection refused"]);
    rig.pair.node(1).start_again().unwrap();
    daemon.wait("the device whole", |status| status["devices"][0]["state"] == "ok");
    assert!(client.read(4096, 8192).unwrap() == [3; 8192]);
    daemon.stop();
}

/// Nothing is known of the device yet: the export listens, a client's GO is held, then refused with a reason; when
/// storage appears, the next one is served, and one that is still held as well.
#[test]
fn with_all_portals_down_the_export_listens_and_waits() {
    let rig = Embedded::start("all-down");
    for index in 0..2 {
        rig.pair.node(index).kill();
    }
    let mut daemon = Daemon::launch(&rig.scratch, None, &rig.config(""));
    let status =
        daemon.wait("a device that is down", |status| status["devices"][0]["state"] == "down");
    assert!(status["devices"][0]["size_bytes"].is_null());
    says(&daemon.succeed(&["status"]), &["device vm0: down, size unknown"]);
    crate::harness::wait_for(Duration::from_secs(20), "the export", || {
        daemon.export().exists().then_some(())
    });
    let mut client = Raw::connect(daemon.export()).unwrap();
    client.greet().unwrap();
    let since = Instant::now();
    let (kind, why) = client.go("vm0").unwrap();
    let held = since.elapsed();
    assert!(kind >= 0x8000_0000, "refused, not answered with {kind:#x}");
    assert!(!why.is_empty(), "and told why");
    assert!(held > Duration::from_secs(1), "held for a while, not {held:?}");
    // Held while storage comes up: served.
    client.send_go("vm0").unwrap();
    for index in 0..2 {
        rig.pair.node(index).start_again().unwrap();
    }
    let (kind, why) = client.go_reply().unwrap();
    assert_eq!(kind, REP_ACK, "{}", String::from_utf8_lossy(&why));
    daemon.wait("the device whole", |status| status["devices"][0]["state"] == "ok");
    let mut other = open(&daemon);
    assert_eq!(other.read(0, 512).map(|data| data.len()), Ok(512));
    daemon.stop();
}

#[test]
fn a_read_only_device_takes_no_writes() {
    let rig = Embedded::start("read-only");
    let daemon = rig.daemon("read_only = true");
    assert_eq!(daemon.status()["devices"][0]["read_only"], true);
    says(&daemon.succeed(&["status"]), &["read-only"]);
    let mut client = open(&daemon);
    assert_eq!(client.export.flags & 2, 2, "NBD_FLAG_READ_ONLY");
    assert_eq!(client.read(0, 4096).map(|data| data.len()), Ok(4096));
    assert_eq!(client.write(0, &[1; 512]), Err(NbdError::Permission));
    for command in [Command::TRIM, Command::WRITE_ZEROES] {
        assert_eq!(client.other(command, 0, 0, 4096).map(drop), Err(NbdError::Permission));
    }
    assert_eq!(client.read(0, 512).map(|data| data == [0; 512]), Ok(true));
    assert_eq!(rig.pair.journal().count(), 0, "nothing that changes the unit was sent");
    daemon.stop();
}
