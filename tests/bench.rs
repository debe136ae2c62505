//! `mpio bench` against a real daemon over the embedded pair: what it measures, what it refuses before any
//! I/O, and that it leaves a device as it found it.
//!
//! No assertion is about speed; those about latency hold on any machine, however slow.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "bench/compare.rs"]
mod compare;
mod harness;
#[path = "bench/measure.rs"]
mod measure;
#[path = "bench/refuse.rs"]
mod refuse;

use harness::daemon::{Daemon, MPIO, mpio};
use harness::process::{Finished, finish};
use serde_json::Value;
use std::process::{Child, Command, Stdio};

/// `mpio bench` of `vm0` with these arguments.
#[track_caller]
fn bench(daemon: &Daemon, arguments: &str) -> Finished {
    let control = daemon.control().to_string_lossy().into_owned();
    let words = ["bench", "vm0", "--control", &control].into_iter();
    finish(None, MPIO, &words.chain(arguments.split_whitespace()).collect::<Vec<_>>())
}

/// The same by URI.
#[track_caller]
fn bench_uri(uri: &str, arguments: &str) -> Finished {
    mpio(&["bench", uri].into_iter().chain(arguments.split_whitespace()).collect::<Vec<_>>())
}

/// The JSON of a run that ended with `code`.
#[track_caller]
fn json(done: &Finished, code: i32) -> Value {
    assert_eq!(done.code, Some(code), "{done:?}");
    serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"))
}

/// A command that must fail before it does anything: its one line, with cause and remedy.
#[track_caller]
fn refused(done: &Finished, code: i32, parts: &[&str]) {
    assert_eq!((done.code, done.stdout.as_str()), (Some(code), ""), "{done:?}");
    let text = &done.stderr;
    assert!(text.starts_with("mpio: ") && text.contains("; try: "), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

/// A run in the background.
fn start(daemon: &Daemon, arguments: &str) -> Child {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", MPIO, "bench", "vm0", "--control"]);
    command.arg(daemon.control()).args(arguments.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Its end.
fn ended(child: Child) -> Finished {
    let output = child.wait_with_output().unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Ctrl-C.
fn interrupt(child: &Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
}
