//! Memory under load: it stays what it is, however long the load goes on, and as small as promised.
//!
//! Loads of different sizes and depths take turns, round after round; what the daemon has resident after each
//! round makes a line, and that line must be flat. The test command does it for less than a minute;
//! `MPIO_SOAK_SECONDS=3600 cargo test --release --test soak -- --nocapture` for an hour.
#![cfg(feature = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod harness;

use harness::daemon::{Daemon, mpio};
use harness::embedded::Embedded;
use harness::process::finish_within;
use std::time::{Duration, Instant};

/// How long, unless `MPIO_SOAK_SECONDS` says otherwise.
const SECONDS: u64 = 45;
/// How often a long run says where it is.
const TELL_EVERY: Duration = Duration::from_secs(300);
/// Rounds in which pools and tables may still grow to the size that they keep.
const WARM_UP: usize = 2;
/// What the line may rise by in an hour, or in all of a shorter run, KiB: the allocator's grain.
const RISE_MAX: f64 = 2048.0;
/// Beside the payload memory, KiB.
const BESIDE_MAX: u64 = 32 * 1024;
/// The default of `buffer_memory`, KiB.
const BUFFER_MEMORY: u64 = 64 * 1024;

/// What `config check` promises may be so many times what a load takes that fills the payload memory. More would
/// keep memory from others for nothing.
const PROMISE_MAX: f64 = 2.0;

/// A debug build takes so much more, KiB: 8 MiB of code, and whatever it handles more slowly holds its buffers for
/// longer. The promise is about the other one.
const DEBUG_BUILD: u64 = if cfg!(debug_assertions) { 12 * 1024 } else { 0 };

/// What fills it: depth 128, as many bytes in flight as the payload memory has, each way.
const FILLING: [&[&str]; 4] = [
    &["--mixed", "--size", "4k", "--depth", "128"],
    &["--size", "512k", "--depth", "128"],
    &["--write", "--size", "512k", "--depth", "128"],
    &["--mixed", "--size", "512k", "--depth", "128", "--connections", "2"],
];

/// Load of one second each: options of `mpio bench`.
const LOADS: [&[&str]; 4] = [
    &["--mixed", "--size", "4k", "--depth", "128"],
    &["--size", "128k", "--depth", "16"],
    &["--write", "--size", "1m", "--depth", "4", "--connections", "2"],
    &["--mixed", "--size", "4k", "--depth", "1"],
];

/// One second of load; how many requests were answered within it.
fn load(daemon: &Daemon, options: &[&str]) -> u64 {
    let control = daemon.control().to_string_lossy();
    let mut arguments = vec!["bench", "vm0", "--control", &control, "--seconds", "1", "--json"];
    arguments.extend(options);
    if !options.iter().all(|option| !["--mixed", "--write"].contains(option)) {
        arguments.push("--destructive");
    }
    let done = finish_within(Duration::from_secs(60), None, harness::daemon::MPIO, &arguments);
    assert_eq!(done.code, Some(0), "mpio {arguments:?}: {}{}", done.stdout, done.stderr);
    let figures: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&figures["errors"], &figures["unanswered"]), (&0.into(), &0.into()), "{figures}");
    figures["reads"].as_u64().unwrap() + figures["writes"].as_u64().unwrap()
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
    let (mut line, mut answered, mut told) = (Vec::new(), [0; LOADS.len()], Duration::ZERO);
    while began.elapsed() < limit || line.len() < WARM_UP + 4 {
        for (options, answered) in LOADS.iter().zip(&mut answered) {
            *answered += load(&daemon, options);
        }
        line.push(daemon.resident_kib());
        if began.elapsed() > told + TELL_EVERY {
            told = began.elapsed();
            println!("{} rounds, {} s: {} KiB", line.len(), told.as_secs(), line[line.len() - 1]);
        }
    }
    // On a machine that is busy with other things, a second can pass without an answer; not all of them.
    assert!(answered.iter().all(|n| *n > 0), "a load that moves nothing: {answered:?}");
    let settled = &line[WARM_UP..];
    let rise = slope(settled) * settled.len() as f64;
    let hours = (limit.as_secs_f64() / 3600.0).max(1.0);
    println!("{} rounds, {} s: resident KiB {line:?}", line.len(), began.elapsed().as_secs());
    println!("the line rises by {rise:.0} KiB; answered: {answered:?}");
    assert!(rise <= RISE_MAX * hours, "it rises by {rise:.0} KiB: {line:?}");
    let most = *line.iter().max().unwrap();
    let promised = BUFFER_MEMORY + BESIDE_MAX;
    assert!(most <= promised, "{most} KiB resident, {promised} were promised");
    daemon.stop();
}

/// What `config check` says that the daemon takes at most, KiB.
fn promised_kib(file: &std::path::Path) -> u64 {
    let done = mpio(&["config", "check", &file.to_string_lossy()]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let figure =
        done.stdout.split_once("memory: at most ").and_then(|(_, rest)| rest.split_once(" MiB"));
    let mib: f64 =
        figure.and_then(|(mib, _)| mib.parse().ok()).unwrap_or_else(|| panic!("{}", done.stdout));
    // It is printed with one decimal.
    (mib * 1024.0).ceil() as u64 + 52
}

#[test]
fn what_config_check_promises_is_kept() {
    let storage = Embedded::start("promise");
    let config = storage.config("trust_identity = true");
    let file = storage.scratch.file("promise.toml", &config);
    let promised = promised_kib(&file);
    assert!(promised <= BUFFER_MEMORY + BESIDE_MAX, "{promised} KiB are promised");
    let daemon = Daemon::start(&storage.scratch, None, &config);
    for options in FILLING {
        load(&daemon, options);
        println!("{options:?}: {} KiB at most so far", daemon.most_resident_kib());
    }
    let most = daemon.most_resident_kib() - DEBUG_BUILD;
    let ratio = promised as f64 / most as f64;
    println!("{promised} KiB promised, {most} KiB taken: {ratio:.2} times");
    assert!(most <= promised, "{most} KiB resident, {promised} were promised");
    assert!(ratio <= PROMISE_MAX, "{promised} KiB promised, and {most} KiB were taken");
    daemon.stop();
}
