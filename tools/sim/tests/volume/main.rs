//! The volume against the embedded mirrored pair, in memory and in virtual time: one story each.
//!
//! The driver, the network and the clients are the simulator's ([`mpio_sim::world`]); what happens by chance,
//! and is judged by rules, is in its seeds.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod admin;
mod alua;
mod answers;
mod blocks;
mod clients;
mod content;
mod doubt;
mod fence;
mod flush;
mod health;
mod hedge;
mod identity;
mod inheritance;
mod paths;
mod quiet;
mod resize;
mod watch;

use mpio::volume::spec::Tunables;

/// Defaults, but no content is compared: for units that have none, and for stories that count what is read.
fn trusting() -> Tunables {
    Tunables { trust_identity: true, ..Tunables::default() }
}
