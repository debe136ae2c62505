//! `mpio set`: what it shows, what it changes under load on every lane, and what it refuses.

use crate::harness::daemon::{Daemon, mpio, path_of};
use crate::harness::embedded::{Embedded, PATHS};
use crate::harness::nbd::{READ, Raw, WRITE};
use crate::{refused, says};
use mpio::volume::spec::Tunables;
use mpio::volume::tunables::ALL;
use mpio_target::faults::{Commands, Fault, Rule};
use serde_json::Value;
use std::io::{Read, Write};
use std::time::Duration;

fn value(daemon: &Daemon, key: &str) -> String {
    let all: Value = serde_json::from_str(&daemon.succeed(&["set", "vm0", "--json"])).unwrap();
    let tunables = all["tunables"].as_array().unwrap();
    let found = tunables.iter().find(|tunable| tunable["key"] == key);
    found.unwrap_or_else(|| panic!("{key}: {all}"))["value"].as_str().unwrap().to_owned()
}

#[test]
fn every_tunable_is_shown_and_changed() {
    let rig = Embedded::start("set-shows");
    let daemon = rig.daemon("path_timeout = \"3s\"\nlanes = 2");
    let text = daemon.succeed(&["set", "vm0"]);
    for tunable in ALL {
        says(&text, &[tunable.key, &tunable.range(), tunable.reason]);
    }
    says(&text, &["device vm0\n", "3s  (10ms to 1h, default 1s)", "fence_command", "none  (up to"]);
    let all: Value = serde_json::from_str(&daemon.succeed(&["set", "vm0", "--json"])).unwrap();
    assert_eq!((&all["device"], all["changed"].as_array().unwrap().len()), (&"vm0".into(), 0));
    let listed = all["tunables"].as_array().unwrap();
    assert_eq!(listed.len(), ALL.len());
    for (shown, tunable) in listed.iter().zip(ALL) {
        let keys: Vec<&str> = shown.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = ["key", "value", "default", "type", "unit", "range", "reason"];
        expected.sort_unstable();
        assert_eq!(keys, expected);
        assert_eq!(shown["key"], tunable.key);
        assert_eq!(shown["default"], tunable.text(&Tunables::default()));
    }
    let done = daemon.succeed(&["set", "vm0", "nop_interval=250ms", "queue_depth=32"]);
    assert_eq!(done, "vm0: nop_interval 250ms (was 500ms)\nvm0: queue_depth 32 (was 128)\n");
    assert_eq!(value(&daemon, "nop_interval"), "250ms");
    assert_eq!(daemon.succeed(&["set", "vm0", "queue_depth=32"]), "vm0: nothing to change\n");
    // Both of a relation at once, in any order.
    daemon.succeed(&["set", "vm0", "path_timeout=30s", "last_path_timeout=40s"]);
    daemon.succeed(&["set", "vm0", "last_path_timeout=5s", "path_timeout=1s"]);
    let done = daemon.succeed(&["set", "vm0", "fence_command=exit 1", "--json"]);
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!(
        done["changed"],
        serde_json::json!([{"key": "fence_command", "from": "", "to": "exit 1"}])
    );
    daemon.succeed(&["set", "vm0", "fence_command="]);
    assert_eq!(value(&daemon, "fence_command"), "");
    // It is told to the device's other administrators.
    let status = daemon.status();
    let events = status["devices"][0]["events"].as_array().unwrap();
    let told = |e: &&Value| e["what"] == "set" && e["why"] == "nop_interval=250ms queue_depth=32";
    assert!(events.iter().any(|e| told(&e)), "{events:?}");
    daemon.stop();
}

/// What is dangerous is allowed, and said aloud each time: to the administrator and in the log.
#[test]
fn an_unsafe_mode_is_warned_about() {
    let rig = Embedded::start("set-unsafe");
    let daemon = rig.daemon("");
    let done = daemon.command(&["set", "vm0", "fence=off"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "vm0: fence off (was overlap)\n"));
    says(&done.stderr, &["mpio: device vm0: warning: fence = \"off\" is UNSAFE"]);
    says(&daemon.log(), &["is UNSAFE"]);
    says(&daemon.command(&["set", "vm0"]).stderr, &["is UNSAFE"]);
    let done = daemon.command(&["set", "vm0", "fence=strict"]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    daemon.stop();
}

#[test]
fn what_is_refused_changes_nothing() {
    let rig = Embedded::start("set-refused");
    let daemon = rig.daemon("");
    let before = daemon.succeed(&["set", "vm0", "--json"]);
    for (values, said) in [
        (
            &["path_timeuot=2s"][..],
            "mpio: path_timeuot: there is no such tunable; try: path_timeout\n",
        ),
        (
            &["colour=red"],
            "mpio: colour: there is no such tunable; try: `mpio set vm0`, which lists them\n",
        ),
        (&["path_timeout=5ms"], "mpio: path_timeout: 5ms is out of range; try: 10ms to 1h\n"),
        (&["queue_depth=0"], "mpio: queue_depth: 0 is out of range; try: 1 to 512\n"),
        (
            &["queue_depth=many"],
            "mpio: queue_depth: \"many\" is not a whole number; try: 1 to 512\n",
        ),
        (&["nop_interval=never"], "mpio: nop_interval: never is out of range; try: 10ms to 1m\n"),
        (
            &["fence=stict"],
            "mpio: fence: \"stict\" is not a mode of write ownership; try: strict\n",
        ),
        (&["shared=1"], "mpio: shared: \"1\" is neither true nor false; try: true or false\n"),
        (
            &["path_timeout=11s"],
            "mpio: last_path_timeout: 10s is shorter than path_timeout (11s); try: 11s or more\n",
        ),
        (
            &["nop_interval=250ms", "reconnect_max=50ms"],
            "mpio: reconnect_max: 50ms is shorter than reconnect_min (100ms); try: 100ms or more\n",
        ),
        (
            &["hedge_reads=false", "watch_memory=2TiB"],
            "mpio: watch_memory: \"TiB\" is not a unit of size; try: a size such as 512KiB, 64MiB or 1GiB\n",
        ),
        (
            &["lanes=2"],
            "mpio: lanes: it is fixed when the daemon starts; try: the configuration file, and a restart of the daemon\n",
        ),
        (
            &["policy=failover"],
            "mpio: policy: it is no tunable but part of the policy; try: mpio policy vm0\n",
        ),
        (
            &["queue_depth=1", "queue_depth=2"],
            "mpio: queue_depth: it is set twice; try: one value\n",
        ),
    ] {
        let done = daemon.command(&[&["set", "vm0"], values].concat());
        assert_eq!(refused(&done, 2), said);
        assert_eq!(done.stdout, "");
    }
    for words in [&["queue_depth"][..], &["=1"], &["--save", "queue_depth=1"]] {
        let done = daemon.command(&[&["set", "vm0"], words].concat());
        refused(&done, 2);
    }
    let done = daemon.command(&["set", "vm1", "queue_depth=1"]);
    says(refused(&done, 2), &["device vm1: there is no such device", "vm0"]);
    assert_eq!(daemon.succeed(&["set", "vm0", "--json"]), before);
    daemon.stop();
    refused(&mpio(&["set"]), 2);
}

/// The depth of the sessions that are there changes, without an error for a client.
#[test]
fn the_queue_depth_changes_under_load() {
    const WRITES: u64 = 400;
    let rig = Embedded::start("set-depth");
    let mut daemon = rig.daemon("queue_depth = 32");
    for index in 0..2 {
        let delay = Fault::Delay(Duration::from_millis(100), Duration::from_millis(120));
        rig.pair.node(index).faults().set("slow", Rule::new(delay).on(Commands::Writes));
    }
    let in_flight = |status: &Value| {
        PATHS.map(|path| path_of(status, path)["in_flight"].as_u64().unwrap()).iter().sum::<u64>()
    };
    let mut client = Raw::open(daemon.export(), "vm0");
    let mut requests = Vec::new();
    for n in 0..WRITES {
        requests.extend(Raw::request(WRITE, n, n * 4096, 4096));
        requests.extend([n as u8; 4096]);
    }
    client.stream.write_all(&requests).unwrap();
    daemon.wait("a deep queue", |status| in_flight(status) > 40);
    daemon.succeed(&["set", "vm0", "queue_depth=2"]);
    let status = daemon.wait("a shallow queue", |status| in_flight(status) <= 4);
    assert!(in_flight(&status) > 0, "the load has ended too soon: {status}");
    daemon.succeed(&["set", "vm0", "queue_depth=64"]);
    daemon.wait("a deep queue again", |status| in_flight(status) > 40);
    for _ in 0..WRITES {
        assert_eq!(client.reply().expect("every write is answered").0, 0);
    }
    daemon.stop();
}

/// What waits for a path when the time for that is changed is answered by the new time, on every lane.
#[test]
fn waiting_requests_follow_a_change_on_every_lane() {
    let rig = Embedded::start("set-lanes");
    let mut daemon = rig.daemon("lanes = 2\nno_path_timeout = \"never\"");
    // Connections go to the lanes in turn.
    let mut clients = [0, 1].map(|_| Raw::open(daemon.export(), "vm0"));
    for client in &mut clients {
        client.stream.write_all(&Raw::request(READ, 1, 0, 512)).unwrap();
        assert_eq!(client.reply().unwrap(), (0, 1));
        client.stream.read_exact(&mut [0; 512]).unwrap();
    }
    (0..2).for_each(|index| rig.pair.node(index).kill());
    daemon.wait("no path", |status| status["devices"][0]["state"] == "down");
    for client in &mut clients {
        client.stream.write_all(&Raw::request(READ, 2, 0, 512)).unwrap();
    }
    daemon.succeed(&["set", "vm0", "no_path_timeout=0", "shutdown_timeout=1s"]);
    const EIO: u32 = 5;
    for client in &mut clients {
        assert_eq!(client.reply().unwrap(), (EIO, 2));
    }
    daemon.stop();
}
