//! The embedded mirrored target pair: two iSCSI targets, two portals, one logical unit.
//!
//! ```text
//!   portal a ─ TCP driver ─► Node 0 ─┐                       ┌─► Journal (who executed what, when)
//!                             faults ├─► LogicalUnit (SCSI) ─┤
//!   portal b ─ TCP driver ─► Node 1 ─┘                       └─► Store (memory or file)
//! ```
//!
//! A [`Node`](node::Node) is a whole target without any I/O: bytes and time go in, bytes and
//! [`Action`](node::Action)s come out. Two drivers exist: tests and simulators call it directly
//! ([`Pair::node`]), [`TargetPair`] puts it behind a TCP portal with one thread per node.
//!
//! What goes wrong on purpose stands in [`faults`], as rules with a trigger and a rate that can be
//! changed while it runs; the server itself knows only the places where a rule may speak.
//!
//! It is written apart from the initiator: the two share `base`, `limits` and the codecs of `wire`,
//! and no state machine. Deliberately not here: error recovery levels above 0, several connections
//! per session, persistent reservations.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

#[allow(dead_code)]
#[path = "../../../src/base/mod.rs"]
pub mod base;
#[allow(dead_code)]
#[path = "../../../src/limits.rs"]
pub mod limits;
#[allow(dead_code)]
#[path = "../../../src/wire/mod.rs"]
pub mod wire;

pub mod access;
mod chap;
pub mod config;
mod connection;
pub mod faults;
pub mod journal;
mod negotiate;
pub mod node;
pub mod pair;
pub mod random;
mod state;
pub mod store;
pub mod tcp;
mod unit;

pub use access::{Access, Lie};
pub use base::{Duration, Instant};
pub use config::{Chap, ChapAlgorithm, NodeConfig, PairConfig};
pub use faults::{Fault, Faults, Rule};
pub use journal::{Journal, Record};
pub use node::{Action, ConnectionId, Counters, Node};
pub use pair::{Pair, PairError};
pub use tcp::{NodeHandle, TargetPair};
pub use unit::Medium;
