//! What every layer stands on: time as an argument, serial arithmetic, payloads, transmit queues, slabs,
//! the syntax of durations and sizes.
//!
//! Deliberately not here: anything that knows a protocol, and anything that reads a clock.

pub mod blame;
pub mod payload;
pub mod serial;
pub mod steady;
pub mod table;
pub mod text;
pub mod time;
pub mod tx;

pub use blame::Blame;
pub use payload::Payload;
pub use serial::Serial;
pub use steady::SteadyClock;
pub use time::{Duration, Instant};
pub use tx::TxQueue;
