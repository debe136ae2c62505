//! Commands towards a running daemon: status for people and for scripts, policies, paths, logs.

use crate::harness::daemon::{Daemon, path_of};
use crate::harness::embedded::{Embedded, PATHS};
use crate::harness::nbd::{READ, Raw, WRITE};
use crate::harness::process::finish;
use crate::{refused, says};
use mpio_target::faults::{Commands, Fault, Rule};
use serde_json::Value;
use std::io::Write;

/// The shape that scripts rely on: each object's keys, in order.
const DAEMON: &[&str] = &["pid", "uptime_s", "config", "io", "memory_locked"];
const DEVICE: &[&str] = &[
    "name",
    "wwid",
    "vendor",
    "product",
    "size_bytes",
    "block_size",
    "state",
    "policy",
    "export",
    "clients",
    "read_only",
    "held_writes",
    "fences",
    "events",
    "hedges",
    "reads",
    "writes",
    "read_bytes",
    "written_bytes",
    "errors",
    "latency_us",
    "paths",
];
const PATH: &[&str] = &[
    "name",
    "portal",
    "source",
    "target",
    "lun",
    "state",
    "reason",
    "alua",
    "group",
    "weight",
    "in_flight",
    "queue_depth",
    "reads",
    "writes",
    "read_bytes",
    "written_bytes",
    "errors",
    "failures",
    "last_failure",
    "session",
    "latency_us",
];
const SESSION: &[&str] = &["isid", "tsih", "header_digest", "data_digest", "immediate_data"];

#[track_caller]
fn keys(object: &Value, expected: &[&str]) {
    let mut found: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    // serde_json's map sorts; the order in the text is held by the unit tests of `api`.
    let mut expected = expected.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

fn is_count(value: &Value) -> bool {
    value.is_u64()
}

#[test]
fn status_as_json_has_the_shape_of_the_interface() {
    let rig = Embedded::start("status-json");
    let daemon = rig.daemon("");
    let mut client = Raw::open(daemon.export(), "vm0");
    client.stream.write_all(&Raw::request(READ, 1, 0, 4096)).unwrap();
    assert_eq!(client.reply().unwrap(), (0, 1));
    let status = daemon.status();
    keys(&status, &["version", "daemon", "devices"]);
    assert_eq!(status["version"], 1);
    keys(&status["daemon"], DAEMON);
    assert!(status["daemon"]["memory_locked"].is_boolean(), "{status}");
    assert_eq!(status["daemon"]["pid"], daemon.pid());
    assert_eq!(status["daemon"]["config"], &*rig.scratch.path("mpio.toml").to_string_lossy());
    let device = &status["devices"][0];
    keys(device, DEVICE);
    assert_eq!(device["wwid"], "naa.6000000102030405060708090a0b0c0d");
    assert_eq!((&device["size_bytes"], &device["block_size"]), (&(64 << 20).into(), &512.into()));
    assert_eq!((&device["state"], &device["policy"]), (&"ok".into(), &"round-robin".into()));
    assert_eq!(device["export"], format!("unix:{}", daemon.export().display()));
    assert_eq!((&device["clients"], &device["errors"]), (&1.into(), &0.into()));
    assert_eq!((&device["reads"], &device["read_bytes"]), (&1.into(), &4096.into()));
    keys(&device["fences"], &["proven", "unproven", "pending", "watched", "repaired"]);
    keys(&device["hedges"], &["sent", "won"]);
    keys(&device["latency_us"], &["read", "write"]);
    keys(&device["latency_us"]["read"], &["p50", "p99", "p999", "max"]);
    assert!(is_count(&device["latency_us"]["read"]["p50"]));
    let event = &device["events"][0];
    keys(event, &["at", "path", "what", "why"]);
    let at = event["at"].as_str().unwrap();
    assert!(at.len() == 24 && at.ends_with('Z') && &at[10..11] == "T", "{at}");
    let paths = device["paths"].as_array().unwrap();
    let names: Vec<&str> = paths.iter().map(|path| path["name"].as_str().unwrap()).collect();
    assert_eq!(names, PATHS, "in order of portal");
    for (index, path) in paths.iter().enumerate() {
        keys(path, PATH);
        keys(&path["session"], SESSION);
        assert_eq!((&path["state"], &path["reason"]), (&"active".into(), &"".into()));
        assert_eq!((&path["source"], &path["lun"]), (&"127.0.0.1".into(), &0.into()));
        assert_eq!(path["portal"], rig.portal(index));
        assert_eq!(path["target"], rig.target(index));
        let isid = path["session"]["isid"].as_str().unwrap();
        assert!(isid.len() == 12 && isid.bytes().all(|b| b.is_ascii_hexdigit()), "{isid}");
        assert_eq!(path["session"]["header_digest"], "none");
    }
    // One device only, and none that is not there.
    let one = daemon.succeed(&["status", "vm0", "--json"]);
    let one: Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one["devices"].as_array().unwrap().len(), 1);
    let done = daemon.command(&["status", "vm1", "--json"]);
    says(refused(&done, 2), &["device vm1: there is no such device", "try: vm0"]);
    assert_eq!(done.stdout, "");
    drop(client);
    daemon.stop();
}

#[test]
fn status_for_people() {
    let rig = Embedded::start("status-text");
    let mut daemon = rig.daemon("");
    let text = daemon.succeed(&["status"]);
    says(
        &text,
        &[
            &format!("mpio pid {}, up ", daemon.pid()),
            "device vm0: ok, 64 MiB of 512-byte blocks\n",
            "naa.6000000102030405060708090a0b0c0d  MPIO MIRROR\n",
            "policy   round-robin\n",
            &format!("a:ha1         active  127.0.0.1 -> {}", rig.portal(0)),
            &format!("b:ha1partner  active  127.0.0.1 -> {}", rig.portal(1)),
        ],
    );
    rig.pair.node(1).kill();
    daemon.wait_for_path(PATHS[1], "failed", |state| state == "failed" || state == "connecting");
    let text = daemon.succeed(&["status", "vm0"]);
    says(&text, &["device vm0: degraded"]);
    let row = text.lines().find(|line| line.trim_start().starts_with("b:ha1partner")).unwrap();
    assert!(row.contains("refused") || row.contains("reset") || row.contains("closed"), "{row}");
    let device = &daemon.status()["devices"][0];
    let path = &device["paths"][1];
    assert_ne!((&path["reason"], &path["last_failure"]), (&"".into(), &"".into()), "{path}");
    assert!(path["session"].is_null() && path["failures"].as_u64() > Some(0), "{path}");
    assert!(device["events"].as_array().unwrap().iter().any(|e| e["path"] == PATHS[1]));
    // A reader that goes away is no error.
    let script = format!(
        "set -o pipefail; ( sleep 0.2; {} status --control {} ) | head -n 0",
        crate::harness::daemon::MPIO,
        daemon.control().display()
    );
    let piped = finish(None, "bash", &["-c", &script]);
    assert_eq!((piped.code, piped.stderr.as_str()), (Some(0), ""));
    daemon.stop();
}

#[test]
fn policies_by_every_name() {
    let rig = Embedded::start("policy");
    let daemon = rig.daemon("");
    assert_eq!(daemon.succeed(&["policy", "vm0"]), "vm0: round-robin\n");
    for (name, canonical) in [
        ("FOO", "failover"),
        ("LQD", "least-queue-depth"),
        ("RR", "round-robin"),
        ("failover", "failover"),
        ("queue-length", "least-queue-depth"),
        ("least-queue-depth", "least-queue-depth"),
        ("RRWS", "round-robin-subset"),
        ("LB", "least-bytes"),
        ("WP", "weighted-paths"),
        ("service-time", "least-bytes"),
        ("latency", "latency"),
        ("round-robin-subset", "round-robin-subset"),
        ("least-bytes", "least-bytes"),
        ("weighted-paths", "weighted-paths"),
        ("round-robin", "round-robin"),
    ] {
        assert_eq!(daemon.succeed(&["policy", "vm0", name]), format!("vm0: {canonical}\n"));
        assert_eq!(daemon.succeed(&["policy", "vm0"]), format!("vm0: {canonical}\n"));
        assert_eq!(daemon.status()["devices"][0]["policy"], canonical);
    }
    let done = daemon.command(&["policy", "vm0", "wieghted-paths"]);
    says(refused(&done, 2), &["is not a policy; try: weighted-paths"]);
    let done = daemon.command(&["policy", "vm0", "fastest"]);
    says(refused(&done, 2), &["policy fastest: ", "is not a policy", "least-queue-depth"]);
    assert_eq!(daemon.succeed(&["policy", "vm0"]), "vm0: round-robin\n", "nothing has changed");
    let shown = daemon.succeed(&["policy", "vm0", "FOO", "--prefer", PATHS[1]]);
    assert_eq!(shown, "vm0: failover, prefers b:ha1partner\n");
    let shown = daemon.succeed(&["policy", "vm0", "--weight", "a:ha1=3", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["weights"], serde_json::json!({"a:ha1": 3, "b:ha1partner": 1}));
    assert_eq!((&shown["policy"], &shown["prefer"]), (&"failover".into(), &PATHS[1].into()));
    assert_eq!(path_of(&daemon.status(), PATHS[0])["weight"], 3);
    let shown = daemon.succeed(&["policy", "vm0", "WP", "--weight", "a:ha1=0"]);
    assert_eq!(
        shown,
        "vm0: weighted-paths, prefers b:ha1partner, weights a:ha1=0 b:ha1partner=1\n"
    );
    let shown = daemon.succeed(&["policy", "vm0", "RR"]);
    says(&shown, &["vm0: round-robin", "weights a:ha1=0", "does not use"]);
    let done = daemon.command(&["policy", "vm0", "RR", "--prefer", "c:ha1"]);
    says(refused(&done, 2), &["path c:ha1: device vm0 has no such path", "a:ha1"]);
    let done = daemon.command(&["policy", "vm1"]);
    says(refused(&done, 2), &["device vm1: there is no such device", "vm0"]);
    assert_eq!(daemon.succeed(&["policy", "vm0"]).lines().count(), 1);
    daemon.stop();
}

#[test]
fn paths_are_taken_out_and_back() {
    let rig = Embedded::start("path");
    let mut daemon = rig.daemon("");
    let state = |status: &Value| {
        PATHS.map(|path| path_of(status, path)["state"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(daemon.succeed(&["path", "vm0", "a:ha1", "disable"]), "vm0: path a:ha1 disabled\n");
    let status = daemon.wait("a disabled path", |s| state(s) == ["disabled", "active"]);
    let device = &status["devices"][0];
    assert_eq!(device["state"], "degraded");
    says(device["paths"][0]["reason"].as_str().unwrap(), &["administrator"]);
    crate::harness::wait_for(crate::harness::daemon::SETTLE, "the session logged out", || {
        (rig.pair.node(0).sessions() == 0).then_some(())
    });
    // Twice is no error: it is what was asked for.
    daemon.succeed(&["path", "vm0", "a:ha1", "disable"]);
    let done = daemon.command(&["path", "vm0", "b:ha1partner", "disable"]);
    says(refused(&done, 1), &["path b:ha1partner", "last usable path of vm0", "try: --force"]);
    assert_eq!(state(&daemon.status()), ["disabled", "active"], "nothing has changed");
    daemon.succeed(&["path", "vm0", "b:ha1partner", "disable", "--force"]);
    let status = daemon.wait("no path", |s| state(s) == ["disabled", "disabled"]);
    assert_eq!(status["devices"][0]["state"], "down");
    for path in PATHS {
        let done = daemon.succeed(&["path", "vm0", path, "enable"]);
        assert_eq!(done, format!("vm0: path {path} enabled\n"));
    }
    daemon.wait("both back", |s| s["devices"][0]["state"] == "ok");
    daemon.succeed(&["path", "vm0", "a:ha1", "enable"]);
    assert_eq!(
        daemon.succeed(&["path", "vm0", "a:ha1", "recheck"]),
        "vm0: path a:ha1 is being rechecked\n"
    );
    daemon.wait("rechecked", |s| s["devices"][0]["state"] == "ok");
    let done = daemon.command(&["path", "vm0", "a:ha2", "disable"]);
    says(refused(&done, 2), &["path a:ha2: device vm0 has no such path", "try: a:ha1"]);
    let done = daemon.command(&["path", "vm9", "a:ha1", "disable"]);
    says(refused(&done, 2), &["device vm9: there is no such device", "try: vm0"]);
    daemon.stop();
}

/// A write hangs on one node, which answers no task management: it shows in the list, an administrator's word is
/// refused while the path is logged in, and counts when it is not.
#[test]
fn fences_are_listed_and_an_administrator_can_vouch() {
    let rig = Embedded::start("fence");
    let mut daemon =
        rig.daemon("policy = \"failover\"\nfence_timeout = \"never\"\nshutdown_timeout = \"1s\"\n");
    let empty = "vm0: fence overlap, never released without a proof\n\
                 0 in doubt, 0 writes held, 0 proven, 0 unproven, 0 watched, 0 repaired\n";
    assert_eq!(daemon.succeed(&["fence", "vm0"]), empty);
    assert_eq!(daemon.succeed(&["fence", "vm0", "list"]), empty);
    let faults = rig.pair.node(0).faults();
    faults.set("mute", Rule::new(Fault::TaskManagementMute));
    faults.set("hang", Rule::new(Fault::Hold).on(Commands::Writes).times(1));
    let mut client = Raw::open(daemon.export(), "vm0");
    let mut request = Raw::request(WRITE, 1, 4096, 4096);
    request.extend([7; 4096]);
    client.stream.write_all(&request).unwrap();
    assert_eq!(client.reply().unwrap(), (0, 1), "repeated on the other path");
    daemon.wait("a range in doubt", |s| s["devices"][0]["fences"]["pending"] == 1);
    let list: Value =
        serde_json::from_str(&daemon.succeed(&["fence", "vm0", "list", "--json"])).unwrap();
    assert_eq!((&list["device"], &list["mode"]), (&"vm0".into(), &"overlap".into()));
    assert_eq!((&list["timeout_s"], &list["fences"]["pending"]), (&Value::Null, &1.into()));
    let range = &list["ranges"][0];
    assert_eq!((&range["first_block"], &range["blocks"]), (&8.into(), &8.into()));
    assert_eq!((&range["path"], &range["answered"]), (&"a:ha1".into(), &true.into()));
    says(&daemon.succeed(&["fence", "vm0"]), &["8-15", "a:ha1", "answered", "own session"]);
    let done = daemon.command(&["fence", "vm0", "confirm-dead", "a:ha1"]);
    says(refused(&done, 1), &["path a:ha1", "it is logged in", "nothing was released"]);
    let done = daemon.command(&["fence", "vm0", "confirm-dead", "a:ha2"]);
    says(refused(&done, 2), &["path a:ha2", "no such path", "try: a:ha1"]);
    let done = daemon.command(&["fence", "vm9"]);
    says(refused(&done, 2), &["device vm9: there is no such device"]);
    daemon.succeed(&["path", "vm0", "a:ha1", "disable"]);
    daemon.wait("logged out", |s| path_of(s, "a:ha1")["session"].is_null());
    says(&daemon.succeed(&["fence", "vm0"]), &["the path is disabled"]);
    let done = daemon.command(&["fence", "vm0", "confirm-dead", "a:ha1"]);
    assert_eq!(
        (done.code, &*done.stdout),
        (Some(0), "vm0: path a:ha1: 1 ranges released, 0 still in doubt\n")
    );
    says(&done.stderr, &["mpio: warning: ", "taken at your word", "If its node is not off"]);
    let fences = daemon.status()["devices"][0]["fences"].clone();
    assert_eq!((&fences["proven"], &fences["pending"]), (&1.into(), &0.into()));
    daemon.stop();
}

/// With `--log-format json` every line of stderr is one JSON object, from the first to the last.
#[test]
fn logs_as_json() {
    let rig = Embedded::start("log-json");
    let mut daemon = Daemon::launch_with(&rig.scratch, None, &rig.config(""), |command| {
        command.args(["--log-format", "json", "--log-level", "debug"]);
    });
    daemon.wait("a device", |status| status["devices"][0]["state"] == "ok");
    let seen = || daemon.log().contains("\"ready\"").then_some(());
    crate::harness::wait_for(crate::harness::daemon::SETTLE, "a line that says ready", seen);
    rig.pair.node(1).kill();
    daemon.wait_for_path(PATHS[1], "failed", |state| state != "active");
    let log = rig.scratch.path("serve.log");
    daemon.stop();
    let text = std::fs::read_to_string(log).unwrap();
    let mut lines = Vec::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        for key in ["timestamp", "level", "message", "target"] {
            assert!(event[key].is_string(), "{key}: {line}");
        }
        lines.push(event);
    }
    let has = |what: &str| lines.iter().any(|l| l["message"].as_str().unwrap().contains(what));
    assert!(has("listening") && has("ready") && has("stopped"), "{text}");
    // The parts of a message are fields, to be searched by.
    assert!(lines.iter().any(|l| l["device"] == "vm0" && l["path"] == PATHS[1]), "{text}");
}

/// What only the running daemon can see: the LUN that was configured is not there, the unit is another one.
/// Nothing is exported: the client is told, and the administrator why.
#[test]
fn a_wrong_unit_is_never_exported() {
    let rig = Embedded::start("wrong-unit");
    for (device, state, why) in [
        ("wwid = \"naa.60000000000000000000000000000001\"", "mismatched", "naa.6000000102030405"),
        ("", "", "LUN 9"),
    ] {
        let mut config = rig.config(device);
        if device.is_empty() {
            config = config.replace("lun = 0", "lun = 9");
        }
        let mut daemon = Daemon::launch(&rig.scratch, None, &config);
        let status = daemon.wait("two paths with a reason", |status| {
            let paths = status["devices"][0]["paths"].as_array();
            paths.is_some_and(|paths| {
                paths.len() == 2
                    && paths.iter().all(|path| {
                        path["reason"].as_str().is_some_and(|reason| reason.contains(why))
                    })
            })
        });
        let device = &status["devices"][0];
        assert_eq!(device["state"], "down");
        for path in device["paths"].as_array().unwrap() {
            assert!(state.is_empty() || path["state"] == state, "{path}");
        }
        says(&daemon.succeed(&["status"]), &[why]);
        let mut client = Raw::connect(daemon.export()).unwrap();
        client.greet().unwrap();
        let (kind, text) = client.go("vm0").unwrap();
        assert!(kind >= 0x8000_0000, "GO is refused, not answered with {kind:#x}");
        assert!(!text.is_empty(), "and says why");
        drop(client);
        daemon.stop();
    }
}
