//! `mpio`: a userspace multipath iSCSI initiator that exports the merged device over NBD.
//!
//! The layers, lowest first; an import only ever points down this list (held by `tests/tidy.rs`):
//!
//! | layer | module | what it is |
//! |---|---|---|
//! | L0 | [`base`] | time, serial arithmetic, payloads, transmit queues |
//! | L1 | [`limits`], [`stats`] | every maximum; counters and histograms as plain data |
//! | L1' | `ring` | io_uring, the only unsafe; no protocol |
//! | L2 | [`wire`] | bytes to meaning and back, no state |
//! | L3 | [`session`], [`export`], [`path`] | iSCSI session, NBD connection, path engine; they never see each other |
//! | L4 | [`volume`] | the pure initiator that joins the three |
//! | L4' | [`api`] | admin request and answer types |
//! | L5 | `lane` | one data-plane thread |
//! | L6 | `control`, `cli` | the daemon and the command line |

#[forbid(unsafe_code)]
pub mod api;
#[forbid(unsafe_code)]
pub mod base;
#[forbid(unsafe_code)]
pub mod export;
#[forbid(unsafe_code)]
pub mod limits;
#[forbid(unsafe_code)]
pub mod path;
#[forbid(unsafe_code)]
pub mod session;
#[forbid(unsafe_code)]
pub mod stats;
#[forbid(unsafe_code)]
pub mod volume;
#[forbid(unsafe_code)]
pub mod wire;

#[cfg(feature = "linux")]
#[forbid(unsafe_code)]
pub mod cli;
#[cfg(feature = "linux")]
#[forbid(unsafe_code)]
pub mod control;
#[cfg(feature = "linux")]
#[forbid(unsafe_code)]
pub mod lane;
#[cfg(feature = "linux")]
pub mod ring;
