//! What is measured, and how it is told.

use crate::harness::daemon::{commands_of, path_of};
use crate::harness::embedded::{Embedded, PATHS};
use crate::{bench, bench_uri, ended, interrupt, json, start};
use mpio_target::config::PairConfig;
use mpio_target::faults::{Commands, Fault, Rule, SenseCode};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::Duration;

const PERCENTILES: [&str; 7] = ["mean", "p50", "p90", "p99", "p999", "p9999", "max"];

/// Percentiles that a histogram can have: positive, and in order.
#[track_caller]
fn ordered(latency: &Value) {
    let values: Vec<f64> = PERCENTILES[1..].iter().map(|p| latency[p].as_f64().unwrap()).collect();
    assert!(values[0] > 0.0 && values.windows(2).all(|pair| pair[0] <= pair[1]), "{latency}");
    assert!(latency["mean"].as_f64().unwrap() <= values[5], "{latency}");
}

#[test]
fn a_device_is_measured_through_its_export() {
    let rig = Embedded::start("bench-device");
    let daemon = rig.daemon("");
    let before = daemon.status();
    let pid = std::process::id();
    let done = json(&bench(&daemon, &format!("--seconds 2 --ramp 1 --json --cpu-of {pid}")), 0);
    assert_eq!((&done["version"], &done["target"]), (&1.into(), &"vm0".into()));
    let load = &done["load"];
    assert_eq!((&load["mode"], &load["pattern"]), (&"read".into(), &"random".into()));
    assert_eq!((&load["size"], &load["depth"]), (&4096.into(), &32.into()));
    let reads = done["reads"].as_u64().unwrap();
    assert!(reads > 0 && done["writes"] == 0 && done["errors"] == 0 && done["unanswered"] == 0);
    let (iops, seconds) = (done["iops"].as_f64().unwrap(), done["seconds"].as_f64().unwrap());
    assert!((iops * seconds - reads as f64).abs() < 1.0 + iops * 0.001, "{iops} x {seconds}");
    let mb = done["mb_per_s"].as_f64().unwrap();
    assert!((mb - iops * 4096.0 / 1e6).abs() < 0.01, "{mb} MB/s at {iops}");
    ordered(&done["latency_us"]);
    assert_eq!(done["latency_us"], done["read_latency_us"]);
    assert!(done["write_latency_us"].is_null() && done["verified"].is_null());
    let per_second = done["per_second"].as_array().unwrap();
    assert_eq!(per_second.iter().map(|n| n.as_u64().unwrap()).sum::<u64>(), reads);
    // The daemon's processor time belongs to its device; another process is looked at when asked for.
    let cpu: Vec<u64> =
        done["cpu"].as_array().unwrap().iter().map(|c| c["pid"].as_u64().unwrap()).collect();
    assert!(cpu.contains(&daemon.pid().into()) && cpu.contains(&pid.into()), "{cpu:?}");
    // What the generator counted the daemon has seen, and more of it in the ramp.
    let after = daemon.status();
    let seen = after["devices"][0]["reads"].as_u64().unwrap();
    assert!(seen > reads, "{seen} reads seen, {reads} of them measured");
    assert_eq!(after["devices"][0]["writes"], 0);
    for path in PATHS {
        assert!(commands_of(&after, path) > commands_of(&before, path), "{path} carried nothing");
    }
    daemon.stop();
}

#[test]
fn what_was_written_is_read_back_and_compared() {
    let rig = Embedded::start("bench-verify");
    let daemon = rig.daemon("");
    for (load, size) in [
        ("--write --connections 2 --threads 2", "4k"),
        ("--mixed=40 --depth 8", "64k"),
        ("--write --sequential --depth 4", "1m"),
    ] {
        let words =
            format!("{load} --size {size} --seconds 1 --destructive --force --verify --json");
        let done = json(&bench_uri(&daemon.uri(), &words), 0);
        let verified = &done["verified"];
        assert_eq!(verified["wrong"], 0, "{done}");
        assert!(verified["compared"].as_u64().unwrap() > 0, "{done}");
        let writes = done["writes"].as_u64().unwrap();
        assert!(writes > 0);
        ordered(&done["write_latency_us"]);
        // A mixed run has reads of its own; reading back is not part of any latency.
        assert_eq!(done["read_latency_us"].is_null(), !load.contains("mixed"), "{done}");
    }
    daemon.stop();
}

/// Two units that only look alike: half of what is written is not there when it is read.
#[test]
fn wrong_content_is_found_and_is_a_failure() {
    let pair = PairConfig { mirrored: false, ..PairConfig::default() };
    let rig = Embedded::with("bench-wrong", pair);
    let daemon = rig.daemon("trust_identity = true\npolicy = \"round-robin\"");
    let done = bench(&daemon, "--write --destructive --verify --seconds 1 --json");
    let wrong = json(&done, 1)["verified"]["wrong"].as_u64().unwrap();
    assert!(wrong > 0, "{done:?}");
    assert!(done.stderr.contains(&format!("{wrong} blocks held something else")), "{done:?}");
    daemon.stop();
}

#[test]
fn errors_of_the_device_are_a_failure_with_a_report() {
    let rig = Embedded::start("bench-errors");
    let daemon = rig.daemon("");
    // MEDIUM ERROR, unrecovered read error, on one block: both paths say the same.
    let sense = Fault::Sense(SenseCode { key: 3, asc: 0x11, ascq: 0 });
    for node in [0, 1] {
        let rule = Rule::new(sense.clone()).on(Commands::Reads).blocks(8000, 64);
        rig.pair.node(node).faults().set("medium", rule);
    }
    let done = bench(&daemon, "--sequential --size 64k --depth 4 --seconds 1 --json");
    let errors = json(&done, 1)["errors"].as_u64().unwrap();
    assert!(errors > 0 && done.stderr.contains("the first with EIO"), "{done:?}");
    daemon.stop();
}

/// The server stands still for a second: of the requests that were due then all waited, not only those that
/// were in flight.
#[test]
fn with_a_rate_what_could_not_be_sent_counts_too() {
    let rig = Embedded::start("bench-rate");
    let daemon = rig.daemon("");
    let run = start(&daemon, "--rate 500 --depth 4 --seconds 4 --json");
    std::thread::sleep(Duration::from_millis(1500));
    daemon.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(1500));
    daemon.signal(Signal::SIGCONT);
    let done = json(&ended(run), 0);
    // 1000 of at most 2000 were due within the first second of the stop, and waited for more than 400 ms
    // unless they were among the last of them. Only four could be in flight.
    let p90 = done["latency_us"]["p90"].as_f64().unwrap();
    assert!(p90 > 400_000.0, "{done}");
    // Nothing is left out: rate x time, but for what is answered after the end.
    let reads = done["reads"].as_u64().unwrap();
    assert!(reads <= 2000, "{reads} at 500 per second for 4 s");
    assert_eq!(done["unanswered"], 0);
    daemon.stop();
}

#[test]
fn an_interrupted_run_still_reports() {
    let rig = Embedded::start("bench-interrupt");
    let daemon = rig.daemon("");
    let report = rig.scratch.path("bench.html");
    for signal_words in [("--json", true), ("", false)] {
        let words = format!("--seconds 600 --report {} {}", report.display(), signal_words.0);
        let run = start(&daemon, &words);
        std::thread::sleep(Duration::from_millis(1500));
        interrupt(&run);
        let done = ended(run);
        assert_eq!(done.code, Some(0), "{done:?}");
        if signal_words.1 {
            let json: Value = serde_json::from_str(&done.stdout).unwrap();
            assert_eq!(json["interrupted"], true);
            assert!(json["seconds"].as_f64().unwrap() < 500.0 && json["iops"].as_f64() > Some(0.0));
        } else {
            for part in ["interrupted after", "IOPS", "MB/s", "p99.99", "report: "] {
                assert!(done.stdout.contains(part), "{part:?} in {}", done.stdout);
            }
        }
        let html = std::fs::read_to_string(&report).unwrap();
        assert!(html.contains("interrupted before its end") && html.contains("<svg"));
        std::fs::remove_file(&report).unwrap();
    }
    daemon.stop();
}

/// A path that is lost under the load is an event in the report, and no error.
#[test]
fn the_report_marks_what_happened_to_paths() {
    let rig = Embedded::start("bench-report");
    let mut daemon = rig.daemon("");
    let report = rig.scratch.file("bench.html", "something older ".repeat(100_000));
    let run = start(&daemon, &format!("--seconds 4 --report {}", report.display()));
    std::thread::sleep(Duration::from_millis(1500));
    rig.pair.node(1).kill();
    let done = ended(run);
    assert_eq!(done.code, Some(0), "{done:?}");
    daemon.wait_for_path(PATHS[1], "failed", |state| state != "active");
    let html = std::fs::read_to_string(&report).unwrap();
    for part in ["Share of each path", "a:ha1", "class=\"mark\"", "b:ha1partner failed"] {
        assert!(html.contains(part), "{part:?} in the report");
    }
    assert!(!html.contains("something older"));
    assert_eq!(path_of(&daemon.status(), PATHS[0])["state"], "active");
    daemon.stop();
}

/// Many connections on several threads, and requests larger than a receive buffer.
#[test]
fn connections_threads_and_sizes() {
    let rig = Embedded::start("bench-many");
    let daemon = rig.daemon("");
    for words in [
        "--connections 16 --threads 3 --depth 4",
        "--size 1m --depth 8",
        "--size 512 --depth 256 --connections 2",
        "--mixed --destructive --force --size 256k --depth 32",
        "--rate 300 --connections 3 --threads 2",
    ] {
        let done = json(&bench(&daemon, &format!("{words} --seconds 1 --json")), 0);
        assert!(done["iops"].as_f64().unwrap() > 0.0, "{words}: {done}");
        assert_eq!((&done["errors"], &done["unanswered"]), (&0.into(), &0.into()), "{words}");
    }
    daemon.stop();
}
