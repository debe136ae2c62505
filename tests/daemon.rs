//! The daemon from start to end: with what it starts, whom it lets in, how it stops, what it leaves behind, and
//! what a new one does with that.
//!
//! Storage is the embedded pair in this process, so that its journal and its sessions tell what a shutdown did.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "daemon/addresses.rs"]
mod addresses;
#[path = "daemon/admission.rs"]
mod admission;
#[path = "lane/client.rs"]
mod client;
#[path = "daemon/fence.rs"]
mod fence;
mod harness;
#[path = "daemon/io_uring.rs"]
mod io_uring;
#[path = "daemon/pressure.rs"]
mod pressure;
#[path = "daemon/start.rs"]
mod start;
#[path = "daemon/state.rs"]
mod state;
#[path = "daemon/stop.rs"]
mod stop;

use client::NbdClient;
use harness::daemon::Daemon;
use std::os::unix::net::UnixStream;

/// A well-behaved client of the device.
#[track_caller]
fn open(daemon: &Daemon) -> NbdClient {
    NbdClient::open(UnixStream::connect(daemon.export()).unwrap(), "vm0")
}

/// Whether `text` has all of `parts`.
#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}
