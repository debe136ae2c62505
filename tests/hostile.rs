//! Peers that lie, stall and flood, on both sides of a real daemon: it lives, what is well-behaved is served, memory
//! and descriptors stay bounded, and the reason is told.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "lane/client.rs"]
mod client;
#[path = "hostile/evil.rs"]
mod evil;
mod harness;
#[path = "hostile/load.rs"]
mod load;
#[path = "hostile/nbd_clients.rs"]
mod nbd_clients;
#[path = "hostile/targets.rs"]
mod targets;

use client::NbdClient;
use harness::daemon::Daemon;
use std::os::unix::net::UnixStream;

/// A well-behaved client of the device.
#[track_caller]
fn open(daemon: &Daemon) -> NbdClient {
    NbdClient::open(UnixStream::connect(daemon.export()).unwrap(), "vm0")
}

/// The daemon may grow by this much under attack, in KiB: its payload budget of 64 MiB, receive buffers, and what the
/// allocator keeps.
const GROWTH_MAX_KIB: u64 = 96 * 1024;

/// Memory is bounded, whatever the peers did.
#[track_caller]
fn assert_bounded(daemon: &Daemon, before_kib: u64) {
    let now = daemon.resident_kib();
    assert!(now < before_kib + GROWTH_MAX_KIB, "{before_kib} KiB before, {now} KiB now");
}
