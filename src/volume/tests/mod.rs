//! The volume against the embedded mirrored pair, in memory and in virtual time.
//!
//! [`world::World`] is a driver: it carries bytes between the production [`super::Volume`], the pair's nodes
//! and NBD clients over connections that can be delayed, stalled, cut in silence or refused, and moves the
//! clock from one thing that is due to the next. It checks on the way that the volume makes progress (a
//! deadline in the past is a busy loop) and at the end that nothing is left in any table.
//!
//! | file | what |
//! |---|---|
//! | `world`, `wire`, `peer` | the driver, its connections, the NBD clients |
//! | `history` | judges what clients saw, knowing nothing of the product |

mod admin;
mod alua;
mod answers;
mod blocks;
mod chaos;
mod clients;
mod content;
mod fence;
mod flush;
mod health;
mod hedge;
mod history;
mod identity;
mod inheritance;
mod paths;
mod peer;
mod resize;
mod watch;
mod wire;
mod world;
