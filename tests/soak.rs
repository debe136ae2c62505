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
use harness::nbd::{READ, Raw, WRITE};
use harness::noise;
use harness::process::finish_within;
use mpio_target::faults::Commands;
use mpio_target::{Fault, Rule};
use std::collections::BTreeSet;
use std::io::{Read, Write};
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

/// What `config check` promises may be so many times what is taken when receive buffers are kept on purpose. More
/// would keep memory from others for nothing.
const PROMISE_MAX: f64 = 1.25;

/// A debug build takes so much more, KiB: its code. The promise is about the other one.
const DEBUG_BUILD: u64 = if cfg!(debug_assertions) { 8 * 1024 } else { 0 };

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

/// Small requests that stay for long, spread over so many receive buffers of others.
const PARKED: usize = 200;
/// First byte of those, and of the others.
const PARKED_AT: u64 = 0;
const FLOWING_AT: u64 = 8 << 20;
/// Bytes of each of the others: a receive buffer.
const FLOWING: usize = 512 * 1024;

/// A daemon, its storage and the most that it may have resident, KiB.
fn promising(name: &str, device: &str) -> (Embedded, Daemon, u64) {
    let storage = Embedded::start(name);
    let config = storage.config(&format!("trust_identity = true\n{device}"));
    let promised = promised_kib(&storage.scratch.file("promise.toml", &config));
    let daemon = Daemon::start(&storage.scratch, None, &config);
    (storage, daemon, promised)
}

#[track_caller]
fn assert_kept(daemon: &Daemon, promised: u64) {
    let most = daemon.most_resident_kib() - DEBUG_BUILD;
    let ratio = promised as f64 / most as f64;
    println!("{promised} KiB promised, {most} KiB taken: {ratio:.2} times");
    assert!(most <= promised, "{most} KiB resident, {promised} were promised");
    assert!(ratio <= PROMISE_MAX, "{promised} KiB promised, and {most} KiB were taken");
}

/// Writes of 4 KiB that the storage does not answer, each of them in another receive buffer of writes that it
/// answers.
#[test]
fn small_writes_that_stay_keep_no_receive_buffers() {
    let (storage, daemon, promised) = promising("parked", "command_timeout = \"1m\"");
    for node in 0..2 {
        let parked = Rule::new(Fault::Hold).on(Commands::Writes);
        storage.pair.node(node).faults().set("parked", parked.blocks(PARKED_AT, FLOWING_AT / 512));
    }
    let mut client = Raw::open(daemon.export(), "vm0");
    let small = |n: usize| noise(4096, n as u64 + 1);
    let large = noise(FLOWING, 0);
    for n in 0..PARKED {
        let at = PARKED_AT + n as u64 * 4096;
        let mut bytes = Raw::request(WRITE, n as u64, at, 4096);
        bytes.extend(small(n));
        bytes.extend(Raw::request(WRITE, 1 << 32, FLOWING_AT, FLOWING as u32));
        bytes.extend(&large);
        client.stream.write_all(&bytes).unwrap();
        assert_eq!(client.reply().unwrap(), (0, 1 << 32));
    }
    let in_flight = |status: &serde_json::Value| -> u64 {
        let paths = status["devices"][0]["paths"].as_array().unwrap();
        paths.iter().map(|path| path["in_flight"].as_u64().unwrap()).sum()
    };
    assert!(in_flight(&daemon.status()) >= PARKED as u64, "they are to stay");
    assert_kept(&daemon, promised);
    for node in 0..2 {
        storage.pair.node(node).faults().remove("parked");
        storage.pair.node(node).release();
    }
    let mut left: BTreeSet<u64> = (0..PARKED as u64).collect();
    while !left.is_empty() {
        let (error, cookie) = client.reply().unwrap();
        assert!(error == 0 && left.remove(&cookie), "{error} for {cookie}");
    }
    // What was moved in memory is what was written.
    for n in 0..PARKED {
        let mut data = vec![0; 4096];
        let at = PARKED_AT + n as u64 * 4096;
        client.stream.write_all(&Raw::request(READ, n as u64, at, 4096)).unwrap();
        assert_eq!(client.reply().unwrap(), (0, n as u64));
        client.stream.read_exact(&mut data).unwrap();
        assert!(data == small(n), "write {n}");
    }
    daemon.stop();
}

/// Answers of 4 KiB that their client does not fetch, among those of another client.
#[test]
fn answers_that_nobody_fetches_keep_no_receive_buffers() {
    const UNFETCHED: u64 = 400;
    // On one path, that small and large answers share receive buffers.
    let (_storage, daemon, promised) = promising("unfetched", "policy = \"failover\"");
    let (mut lazy, mut busy) =
        (Raw::open(daemon.export(), "vm0"), Raw::open(daemon.export(), "vm0"));
    let content = noise(UNFETCHED as usize * 4096, 3);
    let mut bytes = Raw::request(WRITE, 0, PARKED_AT, content.len() as u32);
    bytes.extend(&content);
    busy.stream.write_all(&bytes).unwrap();
    assert_eq!(busy.reply().unwrap(), (0, 0));
    let mut data = vec![0; FLOWING];
    for n in 0..UNFETCHED {
        lazy.stream.write_all(&Raw::request(READ, n, PARKED_AT + n * 4096, 4096)).unwrap();
        busy.stream.write_all(&Raw::request(READ, n, FLOWING_AT, FLOWING as u32)).unwrap();
        assert_eq!(busy.reply().unwrap(), (0, n));
        busy.stream.read_exact(&mut data).unwrap();
    }
    assert_kept(&daemon, promised);
    for _ in 0..UNFETCHED {
        let (error, n) = lazy.reply().unwrap();
        lazy.stream.read_exact(&mut data[..4096]).unwrap();
        assert_eq!(error, 0);
        assert!(data[..4096] == content[n as usize * 4096..][..4096], "answer {n}");
    }
    daemon.stop();
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
    println!("{promised} KiB promised, {most} KiB taken");
    assert!(most <= promised, "{most} KiB resident, {promised} were promised");
    daemon.stop();
}
