//! SIGTERM, under load and without a path; SIGKILL, and what the next daemon makes of what is left.

use crate::harness::daemon::{Daemon, path_of};
use crate::harness::embedded::{Embedded, PATHS};
use crate::harness::nbd::{READ, Raw, WRITE};
use crate::harness::wait_for;
use crate::{open, says};
use mpio::export::client::Op;
use mpio_target::config::PairConfig;
use mpio_target::faults::{Commands, Fault, Rule};
use mpio_target::journal::Scope;
use nix::sys::signal::Signal;
use std::io::Write;
use std::time::{Duration, Instant};

/// SYNCHRONIZE CACHE(10) and (16).
const FLUSHES: [u8; 2] = [0x35, 0x91];

/// What is in flight when SIGTERM comes is answered, flushed behind, and the sessions are logged out; nobody is let
/// in any more; the sockets are gone; the exit code is 0.
#[test]
fn sigterm_under_load_finishes_what_is_in_flight() {
    // More than one burst, so that both paths carry some.
    const COUNT: usize = 64;
    let config = PairConfig { journal: Scope::Changes, ..PairConfig::default() };
    let rig = Embedded::with("term-load", config);
    // However long this machine lets the storage wait for the processor: it is not given up, and no write is
    // repeated over the other path.
    let patient = "path_timeout = \"30s\"\ncommand_timeout = \"30s\"\nshutdown_timeout = \"60s\"";
    let mut daemon = rig.daemon(patient);
    for index in 0..2 {
        rig.pair.node(index).faults().set("held", Rule::new(Fault::Hold).on(Commands::Writes));
    }
    let mut client = Raw::open(daemon.export(), "vm0");
    let mut requests = Vec::new();
    for n in 0..COUNT as u64 {
        requests.extend(Raw::request(WRITE, n, n * 4096, 4096));
        requests.extend([n as u8 + 1; 4096]);
    }
    client.stream.write_all(&requests).unwrap();
    daemon.wait("writes in flight", |status| {
        PATHS
            .iter()
            .map(|path| path_of(status, path)["in_flight"].as_u64().unwrap_or(0))
            .sum::<u64>()
            == COUNT as u64
    });
    daemon.signal(Signal::SIGTERM);
    wait_for(Duration::from_secs(20), "the drain", || {
        daemon.log().contains("draining").then_some(())
    });
    for index in 0..2 {
        rig.pair.node(index).faults().clear();
        rig.pair.node(index).release();
    }
    let mut answered = [false; COUNT];
    for _ in 0..COUNT {
        let (error, cookie) = client.reply().expect("what is in flight is answered");
        assert_eq!(error, 0);
        assert!(!std::mem::replace(&mut answered[cookie as usize], true));
    }
    // And then the server says goodbye.
    let _ = client.stream.write_all(&Raw::request(READ, 99, 0, 512));
    client.until_closed().unwrap();
    let end = daemon.wait_for_exit(Duration::from_secs(30));
    assert_eq!(end.code(), Some(0), "{}", daemon.log());
    assert!(!daemon.export().exists() && !daemon.control().exists());
    says(&daemon.log(), &["stopping", "SIGTERM", "draining", "stopped"]);
    let records = rig.pair.journal().records();
    let (flushes, writes): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| FLUSHES.contains(&record.opcode));
    assert_eq!(writes.len(), COUNT, "each write once\n{}", daemon.log());
    for node in 0..2 {
        let last = writes.iter().filter(|r| r.nexus.node == node).map(|r| r.sequence).max();
        let flushed = flushes.iter().filter(|r| r.nexus.node == node).map(|r| r.sequence).max();
        // A path that was suspect when they came has carried none.
        let enough = last.is_none() || flushed > last;
        assert!(enough, "node {node}: writes up to {last:?}, flushed at {flushed:?}");
        assert_eq!(rig.pair.node(node as usize).sessions(), 0);
        assert_eq!(rig.pair.node(node as usize).counters().violations(), [""; 0]);
    }
    assert!(records.iter().all(|record| !record.orphaned), "logged out, not torn off");
}

/// Reloading comes later; until then SIGHUP must not take the devices away.
#[test]
fn sighup_does_not_stop_the_daemon() {
    let rig = Embedded::start("hup");
    let mut daemon = rig.daemon("");
    daemon.signal(Signal::SIGHUP);
    wait_for(Duration::from_secs(20), "a word about it", || {
        daemon.log().contains("SIGHUP: reloading is not available").then_some(())
    });
    daemon.assert_running();
    drop(open(&daemon));
    daemon.stop();
}

/// With every path down there is nobody to flush to: bounded by `shutdown_timeout`, and still exit code 0.
#[test]
fn sigterm_is_bounded_when_all_paths_are_down() {
    let rig = Embedded::start("term-down");
    let mut daemon = rig.daemon("shutdown_timeout = \"2s\"");
    let mut client = Raw::open(daemon.export(), "vm0");
    for index in 0..2 {
        rig.pair.node(index).kill();
    }
    let mut write = Raw::request(WRITE, 7, 0, 4096);
    write.extend([7; 4096]);
    client.stream.write_all(&write).unwrap();
    daemon.wait("no path", |status| status["devices"][0]["state"] == "down");
    daemon.signal(Signal::SIGTERM);
    let since = Instant::now();
    // Told, or dropped; never left alone, and never told that it went well.
    if let Ok((error, _)) = client.reply() {
        assert_ne!(error, 0);
    }
    let end = daemon.wait_for_exit(Duration::from_secs(30));
    assert_eq!(end.code(), Some(0), "{}", daemon.log());
    let took = since.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?} for a shutdown_timeout of 2 s");
    assert!(!daemon.export().exists() && !daemon.control().exists());
}

/// Targets that have stopped answering in the middle of everything bound it in the same way; a second SIGTERM ends
/// the waiting at once.
#[test]
fn a_second_sigterm_does_not_wait() {
    let rig = Embedded::start("term-twice");
    let mut daemon = rig.daemon("shutdown_timeout = \"5m\"\nlast_path_timeout = \"5m\"");
    for index in 0..2 {
        rig.pair.node(index).faults().set("freeze", Rule::new(Fault::Freeze));
    }
    let mut client = Raw::open(daemon.export(), "vm0");
    client.stream.write_all(&Raw::request(READ, 1, 0, 4096)).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    daemon.signal(Signal::SIGTERM);
    wait_for(Duration::from_secs(20), "a daemon that drains", || {
        daemon.log().contains("draining").then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    daemon.assert_running();
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_exit(Duration::from_secs(20));
    says(&daemon.log(), &["told to stop again"]);
    assert!(!daemon.export().exists() && !daemon.control().exists());
}

/// After SIGKILL the sockets' files are there and nobody listens: the next daemon takes them over, has the lock, and
/// logs in with the same ISIDs, so that the target ends the old sessions itself.
#[test]
fn after_sigkill_the_next_daemon_takes_over() {
    let rig = Embedded::start("kill");
    let config = rig.config("");
    let mut first = Daemon::start(&rig.scratch, None, &config);
    let isids = |daemon: &Daemon| {
        let status = daemon.status();
        PATHS.map(|path| path_of(&status, path)["session"]["isid"].as_str().unwrap().to_owned())
    };
    let before = isids(&first);
    assert_ne!(before[0], before[1], "each path is a nexus of its own");
    let mut client = open(&first);
    client.write(0, &[1; 65536]).unwrap();
    // In the middle of a write.
    client.start(Op::Write { offset: 65536, data: vec![2; 1 << 20].into(), fua: false });
    first.kill();
    assert!(first.export().exists() && first.control().exists(), "nobody cleaned up");
    let second = Daemon::start(&rig.scratch, None, &config);
    assert_eq!(isids(&second), before);
    says(&second.log(), &["removed a stale socket"]);
    let mut client = open(&second);
    assert!(client.read(0, 65536).unwrap() == [1; 65536]);
    for index in 0..2 {
        assert_eq!(rig.pair.node(index).sessions(), 1, "the old session is gone");
    }
    drop(client);
    second.stop();
}
