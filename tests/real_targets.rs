//! `mpio` between real programs: two `tgtd` below, libnbd, QEMU and fio above.
//!
//! The pair of `tgtd` shows one backing file under one identity. Sessions are bound to loopback addresses of
//! their own (127.0.0.21 and .22), so that even here it can be seen that the source is the configured one.
#![cfg(feature = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod harness;

use harness::daemon::{Daemon, MPIO, commands_of, mpio, path_of};
use harness::nbd::{Raw, WRITE};
use harness::process::{finish, finish_within, succeed};
use harness::tgtd::{PATHS, Pair, SERIAL, TARGETS};
use harness::{Scratch, assert_same_content, noise, require};
use serde_json::Value;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SOURCES: [&str; 2] = ["127.0.0.21", "127.0.0.22"];
const MIB: usize = 1024 * 1024;

/// A device over a pair with `size` bytes of noise, round-robin unless `device` says otherwise.
fn start(scratch: &Scratch, size: usize, device: &str) -> (Pair<'static>, Daemon) {
    require(&["tgtd", "tgtadm", "setpriv", "timeout"]);
    let pair = Pair::start(scratch, &noise(size, 1));
    let config = pair.config(scratch, SOURCES, &format!("policy = \"round-robin\"\n{device}"));
    let daemon = Daemon::start(scratch, None, &config);
    (pair, daemon)
}

#[test]
fn discover_lists_targets_portals_and_units() {
    require(&["tgtd", "tgtadm"]);
    let scratch = Scratch::new("discover");
    let pair = Pair::start(&scratch, &noise(16 * MIB, 1));
    let portals = [pair.nodes[0].portal.as_str(), pair.nodes[1].portal.as_str()];

    let done = mpio(&["discover", portals[0], portals[1], "--source", SOURCES[0]]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    for expected in [portals[0], portals[1], TARGETS[0], TARGETS[1], "naa.", "TEST"] {
        assert!(done.stdout.contains(expected), "no {expected} in:\n{}", done.stdout);
    }

    let done = mpio(&["discover", portals[0], portals[1], "--source", SOURCES[0], "--json"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let json: Value = serde_json::from_str(&done.stdout).unwrap();
    let text = json.to_string();
    for expected in [TARGETS[0], TARGETS[1], "naa.", &(16 * MIB).to_string()] {
        assert!(text.contains(expected), "no {expected} in {text}");
    }

    // One portal that answers and one that nobody listens on: told, exit code 1, the answers still shown.
    let closed = format!("127.0.0.13:{}", harness::free_port(&["127.0.0.13"]));
    let done = mpio(&["discover", portals[0], &closed, "--source", SOURCES[0]]);
    assert_eq!(done.code, Some(1), "{}\n{}", done.stdout, done.stderr);
    assert!(done.stdout.contains(TARGETS[0]), "{}", done.stdout);
    assert!(
        done.stderr.contains("127.0.0.13") && done.stderr.contains("refused"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_daemon_that_is_not_there_is_exit_code_three() {
    let scratch = Scratch::new("absent");
    let control = scratch.path("control.sock");
    for command in [&["status"][..], &["policy", "vm0"], &["path", "vm0", "a:ha1", "disable"]] {
        let done = mpio(&[command, &["--control", control.to_str().unwrap()]].concat());
        assert_eq!(done.code, Some(3), "{command:?}: {}", done.stderr);
        assert!(done.stderr.starts_with("mpio: "), "{}", done.stderr);
    }
}

#[test]
fn status_is_as_documented() {
    require(&["ss", "nbdinfo"]);
    let scratch = Scratch::new("status");
    let (pair, daemon) = start(&scratch, 16 * MIB, "");
    let status = daemon.status();

    assert_eq!(status["version"], 1);
    assert_eq!(status["daemon"]["pid"], daemon.pid());
    let device = &status["devices"][0];
    assert_eq!(device["name"], "vm0");
    assert!(device["wwid"].as_str().unwrap().starts_with("naa."), "{device}");
    assert_eq!(device["vendor"], "TEST");
    assert_eq!(device["product"], "MIRROR");
    assert_eq!(device["size_bytes"], pair.size);
    assert_eq!(device["block_size"], 512);
    assert_eq!(device["policy"], "round-robin");
    assert_eq!(device["export"], format!("unix:{}", scratch.path("vm0.sock").display()));
    assert_eq!(device["errors"], 0);
    assert_eq!(device["read_only"], false);
    for key in ["clients", "held_writes", "reads", "writes", "read_bytes", "written_bytes"] {
        assert!(device[key].is_u64(), "{key}: {device}");
    }
    for key in ["fences", "hedges"] {
        assert!(device[key].is_object(), "{key}: {device}");
    }
    assert!(device["events"].is_array(), "{device}");
    let names: Vec<&str> = device["paths"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|path| path["name"].as_str())
        .collect();
    assert_eq!(names, PATHS, "in the order of portals and targets");
    for (index, path) in device["paths"].as_array().unwrap().iter().enumerate() {
        assert_eq!(path["portal"], pair.nodes[index].portal.as_str());
        assert_eq!(path["source"], SOURCES[index]);
        assert_eq!(path["target"], TARGETS[index]);
        assert_eq!(path["lun"], 1);
        assert_eq!(path["state"], "active");
        assert_eq!(path["session"]["header_digest"], "none");
        assert_eq!(path["session"]["data_digest"], "none");
        assert!(path["session"]["tsih"].as_u64().unwrap() > 0, "{path}");
        assert!(path["latency_us"]["read"]["p99"].is_u64(), "{path}");
    }

    // Each session comes from its source: the kernel's own word.
    for (source, node) in SOURCES.iter().zip(&pair.nodes) {
        let connections = succeed("ss", &["-Htn", "state", "established", "dst", &node.portal]);
        let ours = connections.lines().filter(|line| line.contains(&format!("{source}:"))).count();
        assert_eq!(ours, connections.lines().count(), "{connections}");
        assert!(ours >= 1, "no session from {source} to {}", node.portal);
    }

    // People read it too: every path by name.
    let text = daemon.succeed(&["status", "vm0"]);
    assert!(PATHS.iter().all(|path| text.contains(path)), "{text}");
    daemon.stop();
}

#[test]
fn policy_and_paths_change_while_it_runs() {
    require(&["qemu-io"]);
    let scratch = Scratch::new("change");
    let (_pair, mut daemon) = start(&scratch, 16 * MIB, "");
    let policy =
        |daemon: &Daemon| daemon.status()["devices"][0]["policy"].as_str().unwrap().to_owned();

    daemon.succeed(&["policy", "vm0", "LQD"]);
    assert_eq!(policy(&daemon), "least-queue-depth");
    daemon.succeed(&["policy", "vm0", "failover", "--prefer", PATHS[1]]);
    assert_eq!(policy(&daemon), "failover");
    let refused = daemon.command(&["policy", "vm0", "no-such-policy"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert_eq!(policy(&daemon), "failover");

    // Under failover the preferred path carries everything.
    let before = daemon.status();
    succeed("qemu-io", &["-f", "raw", "-c", "read 0 1M", &daemon.uri()]);
    let after = daemon.status();
    assert_eq!(commands_of(&before, PATHS[0]), commands_of(&after, PATHS[0]));
    assert!(commands_of(&before, PATHS[1]) < commands_of(&after, PATHS[1]));

    daemon.succeed(&["path", "vm0", PATHS[1], "disable"]);
    daemon.wait_for_path(PATHS[1], "disabled", |state| state == "disabled");
    let last = daemon.command(&["path", "vm0", PATHS[0], "disable"]);
    assert_eq!(last.code, Some(1), "the last usable path went without --force: {}", last.stderr);
    assert!(last.stderr.contains("--force"), "{}", last.stderr);
    succeed("qemu-io", &["-f", "raw", "-c", "read 0 1M", &daemon.uri()]);
    daemon.succeed(&["path", "vm0", PATHS[1], "enable"]);
    daemon.wait_until_active(PATHS[1]);
    daemon.succeed(&["path", "vm0", PATHS[0], "recheck"]);
    daemon.wait_until_active(PATHS[0]);
    daemon.stop();
}

#[test]
fn nbd_programs_read_and_write_what_the_target_holds() {
    require(&["nbdinfo", "nbdcopy", "qemu-img"]);
    let scratch = Scratch::new("programs");
    let size = 48 * MIB;
    let (pair, daemon) = start(&scratch, size, "");
    let uri = daemon.uri();

    assert_eq!(succeed("nbdinfo", &["--size", &uri]).trim(), size.to_string());
    for ability in ["flush", "fua", "trim", "zero", "multi-conn", "df", "cache"] {
        let done = finish(None, "nbdinfo", &["--can", ability, &uri]);
        assert_eq!(done.code, Some(0), "the export cannot {ability}: {}", done.stderr);
    }
    let list = succeed(
        "nbdinfo",
        &[
            "--list",
            "--json",
            &format!("nbd+unix:///?socket={}", scratch.path("vm0.sock").display()),
        ],
    );
    assert!(list.contains("vm0") && list.contains("base:allocation"), "{list}");
    succeed("nbdinfo", &["--map", &uri]);

    // In and out again, through four connections and many requests.
    let new = scratch.file("new.img", noise(size, 2));
    succeed("nbdcopy", &["--flush", &new.to_string_lossy(), &uri]);
    assert_same_content(&new, &pair.backing);
    let out = scratch.path("out.img");
    succeed("nbdcopy", &[&uri, &out.to_string_lossy()]);
    assert_same_content(&new, &out);
    succeed("qemu-img", &["compare", "-f", "raw", "-F", "raw", &new.to_string_lossy(), &uri]);

    assert_eq!(daemon.status()["devices"][0]["errors"], 0);
    daemon.stop();
}

#[test]
fn qemu_io_discards_zeroes_and_forces_unit_access() {
    require(&["qemu-io"]);
    let scratch = Scratch::new("qemu-io");
    let size = 32 * MIB;
    let (pair, daemon) = start(&scratch, size, "");
    let uri = daemon.uri();
    let script = [
        "write -P 0x5a 1M 64k",
        "write -f -P 0xa5 2M 1M",
        "write -z 4M 64k",
        "write -z -u 5M 1M",
        "discard 8M 4M",
        "write -P 0x77 16777315 1000", // neither begins nor ends on a block
        "flush",
        "read -P 0x5a 1M 64k",
        "read -P 0xa5 2M 1M",
        "read -P 0 4M 64k",
        "read -P 0 5M 1M",
        "read -P 0x77 16777315 1000",
    ];
    let mut arguments = vec!["-f", "raw"];
    for command in &script {
        arguments.extend(["-c", command]);
    }
    arguments.push(&uri);
    let said = succeed("qemu-io", &arguments);
    assert!(!said.contains("Pattern verification failed"), "{said}");

    // What the target holds is what was written, and around it nothing moved.
    let mut expected = noise(size, 1);
    expected[MIB..MIB + 64 * 1024].fill(0x5a);
    expected[2 * MIB..3 * MIB].fill(0xa5);
    expected[4 * MIB..4 * MIB + 64 * 1024].fill(0);
    expected[5 * MIB..6 * MIB].fill(0);
    expected[16_777_315..16_777_315 + 1000].fill(0x77);
    let mut held = vec![0; size];
    std::fs::File::open(&pair.backing).unwrap().read_exact_at(&mut held, 0).unwrap();
    // A discarded range may hold anything.
    for bytes in [&mut expected, &mut held] {
        bytes[8 * MIB..12 * MIB].fill(0);
    }
    assert_eq!(expected.iter().zip(&held).position(|(a, b)| a != b), None, "first differing byte");
    assert_eq!(daemon.status()["devices"][0]["errors"], 0);
    daemon.stop();
}

/// The main job in one test: a verified load goes on while each target dies and comes back.
#[test]
fn fio_sees_no_error_while_each_target_is_killed_in_turn() {
    require(&["fio"]);
    let scratch = Scratch::new("fio");
    let (mut pair, mut daemon) = start(&scratch, 64 * MIB, "");
    let uri = daemon.uri();
    let stop = AtomicBool::new(false);

    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut runs = 0;
            while !stop.load(Ordering::Relaxed) {
                verified_load(&uri);
                runs += 1;
            }
            runs
        });
        // However the part below ends, the load must, or the scope would wait for ever.
        let _stop = StopOnDrop(&stop);
        daemon.wait_until_all_carry_io(&PATHS);
        for (node, path) in [(0, PATHS[0]), (1, PATHS[1])] {
            pair.nodes[node].kill();
            let killed = Instant::now();
            let status = daemon.wait_for_path(path, "not active", |state| state != "active");
            println!("{path} left active {:.2} s after SIGKILL", killed.elapsed().as_secs_f64());
            assert_eq!(
                path_of(&status, PATHS[1 - node])["state"],
                "active",
                "the other path must not suffer"
            );
            // It has to live for a while on the other path alone.
            daemon.wait_until_all_carry_io(&[PATHS[1 - node]]);
            std::thread::sleep(Duration::from_secs(2));
            pair.nodes[node].restart();
            daemon.wait_until_active(path);
            println!(
                "{path} is active again {:.2} s after SIGKILL",
                killed.elapsed().as_secs_f64()
            );
            daemon.wait_until_all_carry_io(&PATHS);
        }
        stop.store(true, Ordering::Relaxed);
        let runs = load.join().expect("the load");
        println!("{runs} runs of fio, none with an error");
    });

    let status = daemon.status();
    let device = &status["devices"][0];
    assert_eq!(device["errors"], 0, "{device}");
    assert_eq!(device["state"], "ok");
    for path in PATHS {
        assert!(
            path_of(&status, path)["failures"].as_u64().unwrap() >= 1,
            "{path} never failed: {device}"
        );
    }
    let events = device["events"].as_array().unwrap();
    assert!(events.iter().any(|event| event["path"] == PATHS[0]), "{events:?}");
    daemon.stop();
}

/// Ends the load when the part that drives the faults ends, a panic included.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One run of fio: random writes, each read back and verified within the run.
#[track_caller]
fn verified_load(uri: &str) {
    let done = finish_within(
        Duration::from_secs(90),
        None,
        "fio",
        &[
            "--name=load",
            "--ioengine=nbd",
            &format!("--uri={uri}"),
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=16",
            "--size=48M",
            "--verify=crc32c",
            "--verify_state_save=0",
            "--verify_backlog=256",
            "--verify_fatal=1",
            "--randrepeat=0",
            "--time_based",
            "--runtime=10",
        ],
    );
    assert_eq!(done.code, Some(0), "fio:\n{}\n{}", done.stdout, done.stderr);
}

/// The harness itself: both nodes show one identity, a killed node is gone, a restarted one is the same.
/// `tgtd` says "power on" (29/00) on every new session. That is no loss while the other target of the mirror goes
/// on: no flush fails, whichever of them was restarted, with writes that no flush has covered.
#[test]
fn a_restarted_tgtd_does_not_break_a_flush() {
    const FLUSH: u16 = 3;
    let scratch = Scratch::new("flush");
    let (mut pair, mut daemon) = start(&scratch, 16 * MIB, "");
    let mut client = Raw::open(daemon.export(), "vm0");
    let write = |client: &mut Raw| {
        for n in 0..16 {
            let mut request = Raw::request(WRITE, n, n * 4096, 4096);
            request.extend([n as u8; 4096]);
            client.stream.write_all(&request).unwrap();
            assert_eq!(client.reply().unwrap(), (0, n));
        }
    };
    for round in 0..4 {
        write(&mut client);
        pair.nodes[round % 2].kill();
        daemon.wait_for_path(PATHS[round % 2], "failed", |state| state != "active");
        pair.nodes[round % 2].restart();
        daemon.wait_until_active(PATHS[round % 2]);
        if round > 1 {
            write(&mut client);
        }
        client.stream.write_all(&Raw::request(FLUSH, 99, 0, 0)).unwrap();
        assert_eq!(client.reply().unwrap(), (0, 99), "round {round}: {}", daemon.log());
    }
    drop(client);
    daemon.stop();
}

#[test]
fn two_tgtd_show_one_unit() {
    require(&["tgtd", "tgtadm", "iscsi-inq", "iscsi-ls"]);
    assert!(std::path::Path::new(MPIO).is_file());
    let scratch = Scratch::new("pair");
    let mut pair = Pair::start(&scratch, &noise(16 * MIB, 1));
    let page = |node: usize, page: &str| {
        let url = format!("iscsi://{}/{}/1", pair.nodes[node].portal, TARGETS[node]);
        finish(None, "iscsi-inq", &["-e", "1", "-c", page, &url])
    };
    for number in ["0x80", "0x83"] {
        let number = i32::from_str_radix(&number[2..], 16).unwrap().to_string();
        let (one, other) = (page(0, &number), page(1, &number));
        assert_eq!(one.code, Some(0), "{}", one.stderr);
        assert_eq!(one.stdout, other.stdout, "page {number}");
    }
    assert!(page(0, "128").stdout.contains(SERIAL));

    pair.nodes[0].kill();
    let gone = finish(None, "iscsi-ls", &[&format!("iscsi://{}", pair.nodes[0].portal)]);
    assert_ne!(gone.code, Some(0), "{}", gone.stdout);
    pair.nodes[0].restart();
    let back = succeed("iscsi-ls", &["-s", &format!("iscsi://{}", pair.nodes[0].portal)]);
    assert!(back.contains(TARGETS[0]), "{back}");
}

/// Every default `tgtd` reports the same names: two of them with disks of their own are not one unit, whether
/// something is on the disks or not.
#[test]
fn two_units_under_one_name_are_not_merged() {
    require(&["tgtd", "tgtadm", "qemu-io"]);
    for (ours, theirs) in
        [(noise(16 * MIB, 1), noise(16 * MIB, 2)), (vec![0; 16 * MIB], vec![0; 16 * MIB])]
    {
        let scratch = Scratch::new("alike");
        let mut pair = Pair::start(&scratch, &ours);
        let other = pair.split(&scratch, &theirs);
        let mut daemon = Daemon::launch(&scratch, None, &pair.config(&scratch, SOURCES, ""));
        // The portals are asked side by side: either node may be the first.
        let status = daemon.wait("one path is active", |status| {
            PATHS.iter().any(|path| path_of(status, path)["state"] == "active")
        });
        let first = usize::from(path_of(&status, PATHS[1])["state"] == "active");
        let uri = daemon.uri();
        succeed("qemu-io", &["-f", "raw", "-c", "write -P 0x5a 1M 64k", &uri]);
        daemon.wait_for_path(PATHS[1 - first], "mismatched", |state| state == "mismatched");
        succeed(
            "qemu-io",
            &["-f", "raw", "-c", "write -P 0x5b 2M 1M", "-c", "read -P 0x5b 2M 1M", &uri],
        );
        let untouched = [&pair.backing, &other][1 - first];
        let before = [&ours, &theirs][1 - first];
        assert!(std::fs::read(untouched).unwrap() == *before, "the other disk was written");
        daemon.stop();
    }
}
