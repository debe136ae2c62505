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
    /// Every active path in turn.
    #[default]
    RoundRobin,
    /// The path with the fewest commands in flight.
    LeastQueueDepth,
}

impl Policy {
    /// Every policy of this version.
    pub const ALL: [Policy; 3] = [Policy::Failover, Policy::RoundRobin, Policy::LeastQueueDepth];

    /// The canonical name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Failover => "failover",
            Policy::RoundRobin => "round-robin",
            Policy::LeastQueueDepth => "least-queue-depth",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a policy name stands for.
#[derive(Clone, Copy)]
enum Known {
    Here(Policy),
    Later(&'static str),
}

/// Canonical names first, then those that people know from elsewhere; compared without regard to case.
const NAMES: [(&str, Known); 15] = [
    ("failover", Known::Here(Policy::Failover)),
    ("round-robin", Known::Here(Policy::RoundRobin)),
    ("least-queue-depth", Known::Here(Policy::LeastQueueDepth)),
    ("round-robin-subset", Known::Later("round-robin-subset")),
    ("least-bytes", Known::Later("least-bytes")),
    ("weighted-paths", Known::Later("weighted-paths")),
    ("latency", Known::Later("latency")),
    ("FOO", Known::Here(Policy::Failover)),
    ("RR", Known::Here(Policy::RoundRobin)),
    ("LQD", Known::Here(Policy::LeastQueueDepth)),
    ("queue-length", Known::Here(Policy::LeastQueueDepth)),
    ("RRWS", Known::Later("round-robin-subset")),
    ("LB", Known::Later("least-bytes")),
    ("service-time", Known::Later("least-bytes")),
    ("WP", Known::Later("weighted-paths")),
];

/// A text that is no policy of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A policy that this version does not have yet; its canonical name.
    #[error("{0} is not available in this version")]
    Later(&'static str),
    /// Not the name of any policy.
    #[error("{0:?} is not a policy")]
    Unknown(String),
}

/// The policies of this version, for messages.
pub const AVAILABLE: &str = "failover, round-robin, least-queue-depth";

impl FromStr for Policy {
    type Err = PolicyError;

    /// Canonical names and aliases, in any case.
    fn from_str(text: &str) -> Result<Policy, PolicyError> {
        match NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
            Some((_, Known::Here(policy))) => Ok(*policy),
            Some((_, Known::Later(name))) => Err(PolicyError::Later(name)),
            None => Err(PolicyError::Unknown(text.chars().take(64).collect())),
        }
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
    fn names_of_this_version_and_their_aliases() {
        for (text, policy) in [
            ("failover", Policy::Failover),
            ("FOO", Policy::Failover),
            ("foo", Policy::Failover),
            ("round-robin", Policy::RoundRobin),
            ("Round-Robin", Policy::RoundRobin),
            ("RR", Policy::RoundRobin),
            ("least-queue-depth", Policy::LeastQueueDepth),
            ("LQD", Policy::LeastQueueDepth),
            ("queue-length", Policy::LeastQueueDepth),
        ] {
            assert_eq!(text.parse(), Ok(policy), "{text}");
        }
        for policy in Policy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
            assert!(AVAILABLE.split(", ").any(|name| name == policy.name()));
        }
    }

    #[test]
    fn later_policies_say_so() {
        for (text, name) in [
            ("RRWS", "round-robin-subset"),
            ("round-robin-subset", "round-robin-subset"),
            ("LB", "least-bytes"),
            ("service-time", "least-bytes"),
            ("WP", "weighted-paths"),
            ("weighted-paths", "weighted-paths"),
            ("latency", "latency"),
        ] {
            assert_eq!(text.parse::<Policy>(), Err(PolicyError::Later(name)), "{text}");
        }
        assert_eq!(
            "LB".parse::<Policy>().expect_err("later").to_string(),
            "least-bytes is not available in this version"
        );
    }

    #[test]
    fn anything_else_is_unknown_and_quoted() {
        let error = "round\nrobin".parse::<Policy>().expect_err("unknown");
        assert_eq!(error.to_string(), "\"round\\nrobin\" is not a policy");
        assert!("".parse::<Policy>().is_err());
    }
}
