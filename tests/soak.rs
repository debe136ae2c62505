//! Memory under load: it stays what it is, however long the load goes on, and as small as promised.
//!
//! Loads of different sizes and depths take turns, round after round; what the daemon has resident after each
//! round makes a line, and that line must be flat. The test command does it for less than a minute;
//! `MPIO_SOAK_SECONDS=3600 cargo test --release --test soak -- --nocapture` for an hour.
#![cfg(feature = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod harness;

use harness::daemon::Daemon;
use harness::embedded::Embedded;
use harness::process::finish_within;
use std::time::{Duration, Instant};

/// How long, unless `MPIO_SOAK_SECONDS` says otherwise.
const SECONDS: u64 = 45;
/// Rounds in which pools and tables may still grow to the size that they keep.
const WARM_UP: usize = 2;
/// What the line may rise by in an hour, or in all of a shorter run, KiB: the allocator's grain.
const RISE_MAX: f64 = 2048.0;
/// Beside the payload memory, KiB.
const BESIDE_MAX: u64 = 32 * 1024;
/// The default of `buffer_memory`, KiB.
const BUFFER_MEMORY: u64 = 64 * 1024;

/// Load of one second each: options of `mpio bench`.
const LOADS: [&[&str]; 4] = [
    &["--mixed", "--size", "4k", "--depth", "128"],
    &["--size", "128k", "--depth", "16"],
    &["--write", "--size", "1m", "--depth", "4", "--connections", "2"],
    &["--mixed", "--size", "4k", "--depth", "1"],
];

fn load(daemon: &Daemon, options: &[&str]) {
    let control = daemon.control().to_string_lossy();
    let mut arguments = vec!["bench", "vm0", "--control", &control, "--seconds", "1", "--json"];
    arguments.extend(options);
    if !options.iter().all(|option| !["--mixed", "--write"].contains(option)) {
        arguments.push("--destructive");
    }
    let done = finish_within(Duration::from_secs(60), None, harness::daemon::MPIO, &arguments);
    assert_eq!(done.code, Some(0), "mpio {arguments:?}: {}{}", done.stdout, done.stderr);
    let figures: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(figures["errors"], 0, "{figures}");
    assert!(figures["iops"].as_f64() > Some(0.0), "a load that moves nothing: {figures}");
}

/// Least squares: KiB per round.
fn slope(line: &[u64]) -> f64 {
    let n = line.len() as f64;
    let (mean_x, mean_y) = ((n - 1.0) / 2.0, line.iter().sum::<u64>() as f64 / n);
    let (mut above, mut below) = (0.0, 0.0);
    for (x, y) in line.iter().enumerate() {
        let dx = x as f64 - mean_x;
        above += dx * (*y as f64 - mean_y);
        below += dx * dx;
    }
    above / below
}

#[test]
fn a_line_that_rises_is_seen() {
    assert!((slope(&[5, 5, 5, 5])).abs() < 1e-9);
    assert!((slope(&[10, 20, 30, 40]) - 10.0).abs() < 1e-9);
}

#[test]
fn memory_is_flat_under_load() {
    let seconds = std::env::var("MPIO_SOAK_SECONDS").ok().map(|text| text.parse().unwrap());
    let limit = Duration::from_secs(seconds.unwrap_or(SECONDS));
    let storage = Embedded::start("soak");
    let config = storage.config_with("", "trust_identity = true");
    let daemon = Daemon::start(&storage.scratch, None, &config);
    let began = Instant::now();
    let mut line = Vec::new();
    while began.elapsed() < limit || line.len() < WARM_UP + 4 {
        for options in LOADS {
            load(&daemon, options);
        }
        line.push(daemon.resident_kib());
    }
    let settled = &line[WARM_UP..];
    let rise = slope(settled) * settled.len() as f64;
    let hours = (limit.as_secs_f64() / 3600.0).max(1.0);
    println!("{} rounds, {} s: resident KiB {line:?}", line.len(), began.elapsed().as_secs());
    println!("the line rises by {rise:.0} KiB");
    assert!(rise <= RISE_MAX * hours, "it rises by {rise:.0} KiB: {line:?}");
    let most = *line.iter().max().unwrap();
    let promised = BUFFER_MEMORY + BESIDE_MAX;
    assert!(most <= promised, "{most} KiB resident, {promised} were promised");
    daemon.stop();
}
