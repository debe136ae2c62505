//! Deterministic simulator: the initiator's production core on a virtual clock and network, against the
//! embedded target's nodes in memory.
//!
//! ```text
//!  seed ─► plan ─► world (volumes, network, nodes, clients) ◄── load, chaos
//!                    │
//!                    └─► requests, answers, executed commands ─► check ─► report
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`plan`] | what a seed means |
//! | [`world`], [`net`], [`peer`] | the driver: what the lane does with io_uring is done here by hand |
//! | [`load`] | what clients ask for, and the record of what they saw |
//! | [`chaos`] | what goes wrong, and when it heals |
//! | [`history`], [`check`] | the rules; they know nothing of the product's own reasoning |
//! | [`policies`] | how each policy shares the load out, `snapshots/policies.txt` |
//! | [`scenario`] | named stories in a small language, `scenarios/*.scenario` |
//! | [`run`], [`report`] | one run from begin to end, and what is printed when a rule broke |
//!
//! `tests/volume` drives the same world by hand, one story each.
//!
//! Nothing here reads a clock or a random number: the seed decides everything.

pub mod chaos;
pub mod check;
pub mod dice;
pub mod history;
pub mod load;
pub mod net;
pub mod peer;
pub mod plan;
pub mod policies;
pub mod report;
pub mod run;
pub mod scenario;
pub mod trace;
pub mod world;
