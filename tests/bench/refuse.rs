//! What is refused, before the first request that could do harm.

use crate::harness::Scratch;
use crate::harness::daemon::{Daemon, mpio};
use crate::harness::embedded::Embedded;
use crate::harness::nbd::Raw;
use crate::{bench, bench_uri, json, refused};
use std::os::unix::net::UnixListener;

/// Requests that the device has seen.
fn requests(daemon: &Daemon) -> (u64, u64) {
    let status = daemon.status();
    let count = |key: &str| status["devices"][0][key].as_u64().unwrap();
    (count("reads"), count("writes"))
}

#[test]
fn flags_out_of_range_are_exit_code_2() {
    let rig = Embedded::start("bench-flags");
    let daemon = rig.daemon("");
    for (words, part) in [
        ("--depth 0", "--depth"),
        ("--depth 5000", "1 to 1024"),
        ("--size 4000", "a multiple of 512"),
        ("--size 64m", "up to 32 MiB"),
        ("--connections 0", "--connections"),
        ("--seconds 0", "--seconds"),
        ("--write", "--destructive"),
        ("--write --force --destructive --read", "--read"),
        ("--verify", "--write --verify"),
        ("--verify --write --destructive --size 1m --depth 64", "too little"),
        ("--cpu-of 4294967295", "no process"),
        ("--report /nonexistent/x.html", "--report /nonexistent/x.html"),
        ("--report /", "--report /"),
    ] {
        let done = bench(&daemon, words);
        refused(&done, 2, &[part]);
    }
    assert_eq!(requests(&daemon), (0, 0), "nothing was read or written");
    daemon.stop();
}

#[test]
fn targets_that_are_not_there() {
    let scratch = Scratch::new("bench-none");
    let none = scratch.path("none.sock");
    let none = none.to_string_lossy();
    refused(&mpio(&["bench", "vm0", "--control", &none]), 3, &["no daemon", &none]);
    refused(&bench_uri("http://x/y", ""), 2, &["http:// is not NBD"]);
    refused(&bench_uri("nbd+unix:///x", ""), 2, &["not an absolute path"]);
    let uri = format!("nbd+unix:///x?socket={none}");
    refused(&bench_uri(&uri, ""), 1, &["no such file"]);
    // Somebody who does not speak NBD, and somebody who says nothing.
    let socket = scratch.path("silent.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let uri = format!("nbd+unix:///x?socket={}", socket.display());
    refused(&bench_uri(&uri, ""), 1, &["no answer within 5 s", "one client at a time"]);
    let rig = Embedded::start("bench-names");
    let daemon = rig.daemon("");
    let control = daemon.control().to_string_lossy().into_owned();
    let done = mpio(&["bench", "vm9", "--control", &control]);
    refused(&done, 2, &["device vm9: there is no such device"]);
    let other = daemon.uri().replace("/vm0?", "/vm9?");
    refused(&bench_uri(&other, ""), 1, &["refused the export"]);
    refused(&bench_uri(&daemon.uri(), "--per-path"), 2, &["--per-path", "mpio status"]);
    daemon.stop();
}

#[test]
fn a_device_that_somebody_uses_is_left_alone() {
    let rig = Embedded::start("bench-used");
    let daemon = rig.daemon("");
    let client = Raw::open(daemon.export(), "vm0");
    for words in ["", "--per-path", "--write --destructive"] {
        refused(&bench(&daemon, words), 1, &["device vm0: 1 client uses it", "--in-use"]);
    }
    assert_eq!(requests(&daemon), (0, 0));
    let done = json(&bench(&daemon, "--in-use --seconds 1 --json"), 0);
    assert!(done["reads"].as_u64().unwrap() > 0);
    drop(client);
    daemon.stop();
}

#[test]
fn a_read_only_device_takes_no_writes() {
    let rig = Embedded::start("bench-readonly");
    let daemon = rig.daemon("read_only = true");
    for words in ["--write --destructive", "--mixed --destructive --force"] {
        refused(&bench(&daemon, words), 1, &["read-only", "--read"]);
    }
    assert_eq!(requests(&daemon), (0, 0));
    let done = json(&bench(&daemon, "--seconds 1 --json"), 0);
    assert!(done["reads"].as_u64().unwrap() > 0);
    daemon.stop();
}

/// A GPT at the start, a swap header, an array member at the very end: each is named with its place, and
/// survives.
#[test]
fn what_carries_data_is_not_overwritten() {
    let rig = Embedded::start("bench-signature");
    let daemon = rig.daemon("");
    let (store, size) = (rig.pair.pair().store(0), 64u64 << 20);
    for (mark, offset, what) in [
        (&b"EFI PART"[..], 512, "GPT"),
        (&b"EFI PART"[..], size - 512, "backup of a GPT"),
        (&b"SWAPSPACE2"[..], 4086, "swap"),
        (&b"XFSB"[..], 0, "XFS"),
        (&b"\x5e\xf1\xab\x2f"[..], 2 << 20, "VMFS"),
        (&b"\xfc\x4e\x2b\xa9\x01\0\0\0"[..], size - 8192, "md array"),
    ] {
        store.write(offset, mark).unwrap();
        let done = bench(&daemon, "--write --destructive --seconds 1");
        refused(&done, 1, &[what, &format!("byte {offset})"), "--force"]);
        let mut now = vec![0; mark.len()];
        store.read(offset, &mut now).unwrap();
        assert_eq!(now, mark, "{what}");
        store.write(offset, &vec![0; mark.len()]).unwrap();
    }
    assert_eq!(requests(&daemon).1, 0);
    store.write(512, b"EFI PART").unwrap();
    // Reading harms nobody, and who insists may.
    assert_eq!(bench(&daemon, "--seconds 1").code, Some(0));
    let words = "--write --destructive --force --sequential --size 64k --seconds 1 --json";
    assert!(json(&bench(&daemon, words), 0)["writes"].as_u64().unwrap() > 0);
    let mut now = [0; 8];
    store.read(512, &mut now).unwrap();
    assert_ne!(&now, b"EFI PART", "it was forced");
    daemon.stop();
}
