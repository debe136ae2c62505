//! The pure initiator of one device on one lane: sessions, path engine and exports joined.

pub mod probe;
pub mod spec;
