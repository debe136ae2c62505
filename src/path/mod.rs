//! The path engine: states, health, policies, verdicts, write ownership. Knows no PDU.

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

impl core::fmt::Display for Policy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(match self {
            Policy::Failover => "failover",
            Policy::RoundRobin => "round-robin",
            Policy::LeastQueueDepth => "least-queue-depth",
        })
    }
}

impl core::str::FromStr for Policy {
    type Err = String;
    fn from_str(text: &str) -> Result<Policy, String> {
        match text.to_ascii_lowercase().as_str() {
            "failover" | "foo" => Ok(Policy::Failover),
            "round-robin" | "rr" => Ok(Policy::RoundRobin),
            "least-queue-depth" | "lqd" => Ok(Policy::LeastQueueDepth),
            _ => Err(format!("unknown policy {text:?}")),
        }
    }
}
