//! What `mpio fence` shows: ranges in doubt. Times are seconds, sizes are blocks of the device.

use super::Fences;
use serde::{Deserialize, Serialize};

/// The ranges in doubt of one device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FenceList {
    /// Device name.
    pub device: String,
    /// `overlap`, `strict` or `off`.
    pub mode: String,
    /// After this many seconds a range is released without a proof; `null` for never.
    pub timeout_s: Option<f64>,
    /// The same numbers as in the status.
    pub fences: Fences,
    /// Writes that wait for one of the ranges.
    pub held_writes: u64,
    /// The ranges, the eldest first.
    pub ranges: Vec<FenceRange>,
}

/// A range in doubt on one session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FenceRange {
    /// First block.
    pub first_block: u64,
    /// How many blocks.
    pub blocks: u64,
    /// Path that the write was sent on.
    pub path: String,
    /// Lane of the session.
    pub lane: u16,
    /// How long it has been in doubt, seconds.
    pub age_s: f64,
    /// Commands of it that may still be executed.
    pub copies: u32,
    /// Whether the client has been answered.
    pub answered: bool,
    /// What is being tried, for an administrator.
    pub trying: String,
}

/// What an administrator's word has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// Device name.
    pub device: String,
    /// Path name.
    pub path: String,
    /// Ranges that came out of doubt.
    pub released: u64,
    /// Ranges that are still in doubt, by other paths.
    pub pending: u64,
}
