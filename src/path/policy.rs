//! The names of the policies, and the settings that go with them.
//!
//! Deliberately not here: how a policy chooses (see [`select`](super::select)).

use crate::base::Duration;
use core::fmt;
use core::str::FromStr;

/// Which path the next command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// Priority order, one path at a time.
    Failover,
    /// Every active path in turn, whatever its access state.
    #[default]
    RoundRobin,
    /// The paths of the best access state in turn.
    RoundRobinSubset,
    /// The path with the fewest commands in flight for its weight.
    LeastQueueDepth,
    /// The path with the fewest bytes in flight for its weight.
    LeastBytes,
    /// Shares by weight; weight 0 stands by.
    WeightedPaths,
    /// The path that answers soonest.
    Latency,
}

/// Weights are small, so that shares are exact over a short window.
pub const WEIGHT_MAX: u32 = 100;

impl Policy {
    /// Every policy.
    pub const ALL: [Policy; 7] = [
        Policy::Failover,
        Policy::RoundRobin,
        Policy::RoundRobinSubset,
        Policy::LeastQueueDepth,
        Policy::LeastBytes,
        Policy::WeightedPaths,
        Policy::Latency,
    ];

    /// The canonical name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Failover => "failover",
            Policy::RoundRobin => "round-robin",
            Policy::RoundRobinSubset => "round-robin-subset",
            Policy::LeastQueueDepth => "least-queue-depth",
            Policy::LeastBytes => "least-bytes",
            Policy::WeightedPaths => "weighted-paths",
            Policy::Latency => "latency",
        }
    }

    /// Whether weights count: as shares or as relative speed, and 0 as "stands by".
    #[must_use]
    pub const fn uses_weights(self) -> bool {
        match self {
            Policy::LeastQueueDepth | Policy::LeastBytes | Policy::WeightedPaths => true,
            Policy::Failover | Policy::RoundRobin | Policy::RoundRobinSubset | Policy::Latency => {
                false
            }
        }
    }

    /// Whether only the paths of the best asymmetric access state take part. `failover` ranks by it
    /// instead; the other two use every active path because that is what they are asked for.
    #[must_use]
    pub const fn stays_in_best_group(self) -> bool {
        match self {
            Policy::RoundRobinSubset
            | Policy::LeastQueueDepth
            | Policy::LeastBytes
            | Policy::Latency => true,
            Policy::Failover | Policy::RoundRobin | Policy::WeightedPaths => false,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Names that people know from elsewhere; compared without regard to case, like the canonical ones.
const ALIASES: [(&str, Policy); 8] = [
    ("FOO", Policy::Failover),
    ("RR", Policy::RoundRobin),
    ("RRWS", Policy::RoundRobinSubset),
    ("LQD", Policy::LeastQueueDepth),
    ("queue-length", Policy::LeastQueueDepth),
    ("LB", Policy::LeastBytes),
    ("service-time", Policy::LeastBytes),
    ("WP", Policy::WeightedPaths),
];

/// A text that is the name of no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a policy")]
pub struct UnknownPolicy(String);

/// The policies, for messages.
pub const AVAILABLE: &str = "failover, round-robin, round-robin-subset, least-queue-depth, least-bytes, weighted-paths, latency";

impl FromStr for Policy {
    type Err = UnknownPolicy;

    /// Canonical names and aliases, in any case.
    fn from_str(text: &str) -> Result<Policy, UnknownPolicy> {
        let canonical = Policy::ALL.iter().find(|policy| policy.name().eq_ignore_ascii_case(text));
        let alias = || ALIASES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        canonical
            .or_else(|| alias().map(|(_, policy)| policy))
            .copied()
            .ok_or_else(|| UnknownPolicy(text.chars().take(64).collect()))
    }
}

/// How `failover` returns to a path of higher priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Failback {
    /// As soon as it is active.
    #[default]
    Immediate,
    /// Only when told to.
    Manual,
    /// After it has been active for this long.
    After(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases() {
        for (text, policy) in [
            ("FOO", Policy::Failover),
            ("foo", Policy::Failover),
            ("Round-Robin", Policy::RoundRobin),
            ("RR", Policy::RoundRobin),
            ("RRWS", Policy::RoundRobinSubset),
            ("LQD", Policy::LeastQueueDepth),
            ("queue-length", Policy::LeastQueueDepth),
            ("LB", Policy::LeastBytes),
            ("service-time", Policy::LeastBytes),
            ("WP", Policy::WeightedPaths),
            ("failover", Policy::Failover),
            ("round-robin", Policy::RoundRobin),
            ("round-robin-subset", Policy::RoundRobinSubset),
            ("least-queue-depth", Policy::LeastQueueDepth),
            ("least-bytes", Policy::LeastBytes),
            ("weighted-paths", Policy::WeightedPaths),
            ("latency", Policy::Latency),
        ] {
            assert_eq!(text.parse(), Ok(policy), "{text}");
        }
        let names = Policy::ALL.map(|policy| policy.to_string());
        assert_eq!(names.join(", "), AVAILABLE);
    }

    #[test]
    fn anything_else_is_unknown_and_quoted() {
        let error = "round\nrobin".parse::<Policy>().expect_err("unknown");
        assert_eq!(error.to_string(), "\"round\\nrobin\" is not a policy");
        assert!("".parse::<Policy>().is_err());
    }
}
