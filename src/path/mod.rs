//! The path engine: states, health, policies, verdicts, write ownership. Knows no PDU.

pub mod identity;
pub mod verdict;

/// Which path the next command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// Priority order, one path at a time.
    Failover,
    /// Every active path in turn.
    #[default]
    RoundRobin,
    /// The path with the fewest commands in flight.
    LeastQueueDepth,
}
