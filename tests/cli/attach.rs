//! `mpio attach`: one device without a file; what can never work ends with a reason.

use crate::harness::daemon::{MPIO, SETTLE, mpio};
use crate::harness::embedded::Embedded;
use crate::harness::nbd::Raw;
use crate::harness::process::{Process, command};
use crate::harness::{free_port, wait_for};
use crate::{refused, says};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::net::TcpStream;

/// Starts `mpio attach` over both nodes with more flags.
fn attach(rig: &Embedded, more: &[&str]) -> (Process, String) {
    let control = rig.scratch.path("control.sock").to_string_lossy().into_owned();
    let mut command = command(None, MPIO);
    command.args(flags(rig, &control, more));
    (Process::start("mpio attach", command, &rig.scratch.path("attach.log")), control)
}

fn flags(rig: &Embedded, control: &str, more: &[&str]) -> Vec<String> {
    let mut words = vec!["attach".to_owned(), "--control".into(), control.into()];
    for index in 0..2 {
        words.extend(["--portal".into(), format!("{}@127.0.0.1", rig.portal(index))]);
    }
    words.extend(["--target".into(), rig.target(0), rig.target(1)]);
    words.extend(more.iter().map(|&word| word.to_owned()));
    words
}

/// Runs it where it is expected to end by itself.
fn attempt(rig: &Embedded, more: &[&str]) -> crate::harness::process::Finished {
    let control = rig.scratch.path("control.sock").to_string_lossy().into_owned();
    let words = flags(rig, &control, more);
    mpio(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn status(process: &mut Process, control: &str) -> Value {
    wait_for(SETTLE, "an attached device", || {
        process.assert_running();
        let done = mpio(&["status", "--json", "--control", control]);
        let status: Value = serde_json::from_str(&done.stdout).ok()?;
        (status["devices"][0]["state"] == "ok").then_some(status)
    })
}

#[test]
fn a_device_on_a_unix_socket() {
    let rig = Embedded::start("attach-unix");
    let socket = rig.scratch.path("disk.sock");
    let export = format!("unix:{}", socket.display());
    let (mut process, control) =
        attach(&rig, &["--lun", "0", "--export", &export, "--policy", "FOO"]);
    let status = status(&mut process, &control);
    let device = &status["devices"][0];
    assert_eq!((&device["name"], &device["policy"]), (&"disk0".into(), &"failover".into()));
    assert_eq!(device["export"], export.as_str());
    assert!(status["daemon"]["config"].is_null());
    let names: Vec<&str> =
        device["paths"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["p1:ha1", "p2:ha1partner"]);
    // The empty name is the only device.
    drop(Raw::open(&socket, ""));
    drop(Raw::open(&socket, "disk0"));
    process.signal(Signal::SIGINT);
    let end = process.wait_for_exit(SETTLE);
    assert!(end.success(), "{end}: {}", process.output());
    assert!(!socket.exists() && !std::path::Path::new(&control).exists());
}

#[test]
fn a_device_on_a_tcp_port_with_a_name() {
    let rig = Embedded::start("attach-tcp");
    let port = free_port(&["127.0.0.1"]);
    let export = format!("tcp:127.0.0.1:{port}");
    let more = ["--lun", "0", "--export", &export, "--name", "vm7", "--read-only"];
    let (mut process, control) = attach(&rig, &more);
    let status = status(&mut process, &control);
    assert_eq!(status["devices"][0]["read_only"], true);
    assert_eq!(status["devices"][0]["name"], "vm7");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    process.signal(Signal::SIGTERM);
    assert!(process.wait_for_exit(SETTLE).success());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn wrong_flags_are_exit_code_2() {
    let rig = Embedded::start("attach-flags");
    let socket = format!("unix:{}", rig.scratch.path("x.sock").display());
    let cases: [(&[&str], &[&str]); 6] = [
        (&["--lun", "0", "--export", "disk.sock"], &["--export: ", "neither unix: nor tcp:"]),
        (&["--lun", "70000", "--export", &socket], &["--lun: ", "16383"]),
        (
            &["--lun", "0", "--export", &socket, "--policy", "least-byte"],
            &["--policy: ", "least-bytes"],
        ),
        (&["--lun", "0", "--export", &socket, "--policy", "x"], &["--policy: ", "round-robin"]),
        (&["--lun", "0", "--export", &socket, "--wwid", "60"], &["--wwid: ", "naa."]),
        (&["--lun", "0", "--export", &socket, "--name", "a/b"], &["--name: ", "a/b"]),
    ];
    for (more, parts) in cases {
        says(refused(&attempt(&rig, more), 2), parts);
    }
    assert!(!rig.scratch.path("x.sock").exists());
}

/// What the flags name is not there: told, and exit code 1, nothing left behind.
#[test]
fn what_can_never_work_ends_with_its_reason() {
    let rig = Embedded::start("attach-never");
    let path = rig.scratch.path("x.sock");
    let socket = format!("unix:{}", path.display());
    let last = |done: &crate::harness::process::Finished| {
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(!path.exists() && !rig.scratch.path("control.sock").exists());
        done.stderr.lines().last().unwrap_or_default().to_owned()
    };
    let wrong = "naa.60000000000000000000000000000001";
    let line = last(&attempt(&rig, &["--lun", "0", "--export", &socket, "--wwid", wrong]));
    let there = "naa.6000000102030405060708090a0b0c0d";
    says(
        &line,
        &["mpio: device disk0: no path leads to what is configured", wrong, there, "try: "],
    );
    let line = last(&attempt(&rig, &["--lun", "7", "--export", &socket]));
    says(&line, &["mpio: device disk0: no path leads to what is configured", "LUN 7", "try: "]);
    let control = rig.scratch.path("control.sock").to_string_lossy().into_owned();
    let portal = rig.portal(0);
    let base = ["attach", "--control", &control, "--lun", "0", "--export", &socket, "--portal"];
    let done = mpio(&[&base[..], &[&portal, "--target", "iqn.2026-11.test:other"]].concat());
    says(&last(&done), &["no portal shows target iqn.2026-11.test:other", "mpio discover"]);
    let dead = format!("127.0.0.1:{}", free_port(&["127.0.0.1"]));
    let done = mpio(&[&base[..], &[&dead, "--target", "iqn.2026-11.test:other"]].concat());
    says(&last(&done), &[&format!("portal {dead}: connection refused"), "try: "]);
}

/// Two units with different names are not one: the second path is refused, and the first one serves.
#[test]
fn units_of_different_identity_are_not_merged() {
    let mut config = mpio_target::PairConfig { mirrored: false, ..Default::default() };
    config.nodes[1].identity.naa.as_mut().unwrap()[15] ^= 1;
    let rig = Embedded::with("attach-alike", config);
    let socket = rig.scratch.path("disk.sock");
    let export = format!("unix:{}", socket.display());
    let (mut process, control) = attach(&rig, &["--lun", "0", "--export", &export]);
    let paths = wait_for(SETTLE, "one path that is mismatched", || {
        process.assert_running();
        let done = mpio(&["status", "--json", "--control", &control]);
        let status: Value = serde_json::from_str(&done.stdout).ok()?;
        let paths = status["devices"][0]["paths"].as_array()?.clone();
        let has = |state: &str| paths.iter().any(|path| path["state"] == state);
        (has("mismatched") && has("active")).then_some(paths)
    });
    let wrong = paths.iter().find(|path| path["state"] == "mismatched").unwrap();
    // Both names are told: the one that is expected and the one that is there.
    let reason = wrong["reason"].as_str().unwrap();
    says(reason, &["naa.6000000102030405060708090a0b0c0d", "naa.6000000102030405060708090a0b0c0c"]);
    process.signal(Signal::SIGTERM);
    assert!(process.wait_for_exit(SETTLE).success());
}
