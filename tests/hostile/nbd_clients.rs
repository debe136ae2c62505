//! Hostile NBD clients.

use crate::harness::daemon::SETTLE;
use crate::harness::embedded::Embedded;
use crate::harness::nbd::{OPT_GO, OPT_LIST, OPTION_MAGIC, READ, REP_ACK, Raw, WRITE};
use crate::harness::{noise, wait_for};
use crate::load::Load;
use crate::{assert_bounded, open};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 2200;

/// As many descriptors as the system lets this process have.
fn raise_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    assert!(
        hard > 2 * CONNECTIONS as u64,
        "ulimit -n: {hard} descriptors are too few for this test"
    );
}

/// Thousands of connections that say nothing: those beyond the limit are closed, a client that was there before is
/// served all the while, one that comes later is served when the silent ones have been timed out, and every descriptor
/// comes back.
#[test]
fn thousands_of_connections() {
    raise_limit();
    let rig = Embedded::start("hostile-many");
    let mut daemon = rig.daemon("");
    let load = Load::start(&daemon);
    load.goes_on(1);
    let (memory, descriptors) = (daemon.resident_kib(), daemon.descriptors());
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(Raw::connect(daemon.export()).unwrap());
    }
    load.goes_on(1);
    assert_bounded(&daemon, memory);
    let most = daemon.descriptors();
    assert!(most < descriptors + 300, "{most} descriptors for {CONNECTIONS} connections");
    daemon.assert_running();
    let since = Instant::now();
    wait_for(SETTLE, "service for a new client", || {
        let mut client = Raw::connect(daemon.export()).ok()?;
        client.greet().ok()?;
        (client.go("vm0").ok()?.0 == REP_ACK).then_some(())
    });
    eprintln!("a new client was served after {:?}", since.elapsed());
    drop(held);
    wait_for(SETTLE, "descriptors to come back", || {
        (daemon.descriptors() <= descriptors + 2).then_some(())
    });
    load.stop();
    drop(open(&daemon));
    assert_bounded(&daemon, memory);
    daemon.stop();
}

/// Out of descriptors, the daemon refuses what it cannot accept, and goes on when there are some again.
#[test]
fn a_daemon_without_descriptors() {
    raise_limit();
    let rig = Embedded::start("hostile-emfile");
    let daemon = rig.daemon("");
    let load = Load::start(&daemon);
    let limit = daemon.descriptors() + 10;
    let pid = daemon.pid().to_string();
    let limit = format!("--nofile={limit}:{limit}");
    crate::harness::process::succeed("prlimit", &["--pid", &pid, &limit]);
    let held: Vec<Raw> = (0..100).map(|_| Raw::connect(daemon.export()).unwrap()).collect();
    load.goes_on(2);
    wait_for(SETTLE, "a word in the log", || {
        daemon.log().contains("cannot accept clients").then_some(())
    });
    let lines = daemon.log().lines().filter(|line| line.contains("cannot accept")).count();
    assert_eq!(lines, 1, "one line for one cause");
    drop(held);
    wait_for(SETTLE, "service for a new client", || {
        let mut client = Raw::connect(daemon.export()).ok()?;
        client.greet().ok()?;
        (client.go("vm0").ok()?.0 == REP_ACK).then_some(())
    });
    load.stop();
    daemon.stop();
}

fn option(code: u32, length: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(code.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(data);
    bytes
}

/// Everything that can be wrong before the transmission: an error or a closed connection, never a dead daemon.
#[test]
fn wrong_handshakes() {
    let rig = Embedded::start("hostile-handshake");
    let mut daemon = rig.daemon("");
    let load = Load::start(&daemon);
    let (memory, descriptors) = (daemon.resident_kib(), daemon.descriptors());
    let flags = 3_u32.to_be_bytes().to_vec();
    let with_flags = |bytes: Vec<u8>| [flags.clone(), bytes].concat();
    let long_name = {
        let mut data = 0xffff_ffff_u32.to_be_bytes().to_vec();
        data.extend([b'x'; 100]);
        data
    };
    let attacks: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("half of the flags", vec![0, 0]),
        ("unknown flags", 0xffff_ffff_u32.to_be_bytes().to_vec()),
        ("http", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("noise", noise(65536, 1)),
        ("noise after the flags", with_flags(noise(65536, 2))),
        ("a wrong magic", with_flags(vec![0; 16])),
        ("an option of 4 GiB", with_flags(option(OPT_GO, u32::MAX, &[0; 4096]))),
        ("an unknown option of 4 GiB", with_flags(option(0x4242, u32::MAX, &[0; 4096]))),
        ("half an option", with_flags(option(OPT_GO, 1000, &[0; 10]))),
        ("a name longer than its option", with_flags(option(OPT_GO, 104, &long_name))),
        ("GO without a name", with_flags(option(OPT_GO, 0, &[]))),
        ("an export that is not there", with_flags(option(1, 4, b"none"))),
        ("10,000 times LIST", with_flags(option(OPT_LIST, 0, &[]).repeat(10_000))),
        ("10,000 unknown options", with_flags(option(77, 1, b"x").repeat(10_000))),
        ("starting TLS", with_flags(option(5, 0, &[]))),
    ];
    for (what, bytes) in &attacks {
        let mut raw = Raw::connect(daemon.export()).unwrap();
        raw.stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut greeting = [0; 18];
        raw.stream.read_exact(&mut greeting).unwrap();
        // The server may close or stop reading in the middle: both are answers.
        let _ = raw.stream.write_all(bytes);
        let _ = raw.stream.shutdown(std::net::Shutdown::Write);
        raw.until_closed().unwrap_or_else(|error| panic!("{what}: still open: {error}"));
        daemon.assert_running();
    }
    load.goes_on(1);
    assert_bounded(&daemon, memory);
    wait_for(SETTLE, "descriptors to come back", || {
        (daemon.descriptors() <= descriptors + 2).then_some(())
    });
    load.stop();
    daemon.stop();
}

/// Requests that no client may send: an error each, and the connection goes on; or it is closed.
#[test]
fn wrong_requests() {
    let rig = Embedded::start("hostile-requests");
    let mut daemon = rig.daemon("");
    let load = Load::start(&daemon);
    let memory = daemon.resident_kib();
    let size = 64_u64 << 20;
    let mut raw = Raw::open(daemon.export(), "vm0");
    const INVALID: u32 = 22;
    const NO_SPACE: u32 = 28;
    let reads: [(u16, u64, u32, &[u32]); 9] = [
        (READ, u64::MAX, 1, &[INVALID]),
        (READ, u64::MAX - 4095, 4096, &[INVALID]),
        (READ, u64::MAX - 511, u32::MAX, &[INVALID]),
        (READ, 1 << 63, 512, &[INVALID]),
        (READ, size, 512, &[INVALID]),
        (READ, size - 512, 1024, &[INVALID]),
        (READ, 0, u32::MAX, &[INVALID, 75]),
        (4, u64::MAX - 1, u32::MAX, &[INVALID, NO_SPACE]),
        (6, size, 4096, &[INVALID, NO_SPACE]),
    ];
    for (cookie, (command, offset, len, errors)) in reads.into_iter().enumerate() {
        let cookie = cookie as u64;
        raw.stream.write_all(&Raw::request(command, cookie, offset, len)).unwrap();
        let (error, answered) = raw.reply().unwrap();
        let expected = errors.contains(&error) && answered == cookie;
        assert!(expected, "command {command} at {offset:#x}+{len:#x}: error {error}");
    }
    // A write that is out of range is read to its end and refused; the next request is understood.
    let mut write = Raw::request(WRITE, 50, u64::MAX - 4095, 4096);
    write.extend([9; 4096]);
    write.extend(Raw::request(77, 51, 0, 0));
    raw.stream.write_all(&write).unwrap();
    let (error, cookie) = raw.reply().unwrap();
    assert!(cookie == 50 && [INVALID, NO_SPACE].contains(&error), "{error}");
    assert_eq!(raw.reply().unwrap(), (INVALID, 51), "an unknown command");
    // What cannot be skipped ends the connection: a payload without end, a request without a magic.
    for bytes in [Raw::request(WRITE, 1, 0, u32::MAX), vec![0; 28], noise(4096, 3)] {
        let mut raw = Raw::open(daemon.export(), "vm0");
        raw.stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let _ = raw.stream.write_all(&bytes);
        let zeros = vec![0; 1 << 20];
        for _ in 0..80 {
            if raw.stream.write_all(&zeros).is_err() {
                break;
            }
        }
        raw.until_closed().unwrap();
        daemon.assert_running();
    }
    load.goes_on(1);
    assert_bounded(&daemon, memory);
    load.stop();
    daemon.stop();
}

/// A client that asks for gigabytes and never reads: it waits in its socket, not in our memory, and others go on.
#[test]
fn a_client_that_never_reads() {
    let rig = Embedded::start("hostile-mute");
    let mut daemon = rig.daemon("");
    let load = Load::start(&daemon);
    let memory = daemon.resident_kib();
    let mut mute: Vec<Raw> = (0..8).map(|_| Raw::open(daemon.export(), "vm0")).collect();
    for raw in &mut mute {
        raw.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        for cookie in 0..20_000 {
            match raw.stream.write_all(&Raw::request(READ, cookie, 0, 1 << 20)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    load.goes_on(2);
    daemon.assert_running();
    assert_bounded(&daemon, memory);
    eprintln!("{memory} KiB before, {} KiB now", daemon.resident_kib());
    drop(mute);
    daemon.wait("one client", |status| status["devices"][0]["clients"] == 1);
    load.goes_on(1);
    load.stop();
    daemon.stop();
}

/// Clients that die in the middle of a WRITE, with more writes in flight: what had arrived whole may be there, the rest
/// is not, nothing hangs and nothing leaks.
#[test]
fn clients_that_die_in_the_middle_of_a_write() {
    let rig = Embedded::start("hostile-die");
    let mut daemon = rig.daemon("");
    let load = Load::start(&daemon);
    load.goes_on(1);
    let (memory, descriptors) = (daemon.resident_kib(), daemon.descriptors());
    let at = 32_u64 << 20;
    for n in 0..100_u64 {
        let mut raw = Raw::open(daemon.export(), "vm0");
        let mut bytes = Vec::new();
        for cookie in 0..8 {
            bytes.extend(Raw::request(WRITE, cookie, at + cookie * 4096, 4096));
            bytes.extend([0x11; 4096]);
        }
        // And one of 32 MiB, of which little ever comes.
        bytes.extend(Raw::request(WRITE, 99, at + (1 << 20), 24 << 20));
        bytes.extend(vec![0x22; (n as usize % 7) * 9000]);
        raw.stream.write_all(&bytes).unwrap();
    }
    load.goes_on(1);
    daemon.wait("one client", |status| status["devices"][0]["clients"] == 1);
    wait_for(SETTLE, "descriptors to come back", || {
        (daemon.descriptors() <= descriptors + 2).then_some(())
    });
    let mut client = open(&daemon);
    assert!(client.read(at + (1 << 20), 1 << 20).unwrap().iter().all(|&byte| byte == 0));
    let there = client.read(at, 8 * 4096).unwrap();
    assert!(there.iter().all(|&byte| byte == 0 || byte == 0x11));
    // The ranges are free again.
    client.write(at, &[0x33; 8 * 4096]).unwrap();
    assert_eq!(daemon.status()["devices"][0]["held_writes"], 0);
    load.stop();
    assert_bounded(&daemon, memory);
    daemon.stop();
}
