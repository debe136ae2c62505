//! What happens when: faults at fixed parts of the run. Pure.

use std::time::Duration;

/// One thing that is done to the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Node `0`'s packets stop, both ways: nobody says that it is gone.
    Silence(usize),
    /// They flow again.
    Heal(usize),
    /// Node's process is killed: connections are reset, the port refuses.
    Kill(usize),
    /// It is started again.
    Start(usize),
}

impl Act {
    /// For people; `path` is the name of the node's path.
    #[must_use]
    pub fn text(self, path: &str) -> String {
        match self {
            Act::Silence(_) => format!("CUT: {path} goes silent (every packet is dropped)"),
            Act::Heal(_) => format!("HEAL: packets to {path} flow again"),
            Act::Kill(_) => format!("CUT: the target of {path} is killed (reset, then refused)"),
            Act::Start(_) => format!("HEAL: the target of {path} is started again"),
        }
    }

    /// The node that it is done to.
    #[must_use]
    pub fn node(self) -> usize {
        match self {
            Act::Silence(node) | Act::Heal(node) | Act::Kill(node) | Act::Start(node) => node,
        }
    }
}

/// The acts of a run of this length, in order of time. A short run has only one cut.
#[must_use]
pub fn acts(seconds: u64) -> Vec<(Duration, Act)> {
    let at = |part: u32| Duration::from_secs(seconds) * part / 100;
    if seconds < 8 {
        return vec![(at(25), Act::Kill(0)), (at(60), Act::Start(0))];
    }
    vec![
        (at(20), Act::Silence(0)),
        (at(45), Act::Heal(0)),
        (at(60), Act::Kill(1)),
        (at(80), Act::Start(1)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_cut_is_healed_before_the_end() {
        for seconds in [3, 7, 8, 10, 60] {
            let acts = acts(seconds);
            assert!(acts.windows(2).all(|pair| pair[0].0 < pair[1].0));
            assert!(acts.iter().all(|(at, _)| *at < Duration::from_secs(seconds)));
            for pair in acts.chunks(2) {
                assert_eq!(pair[0].1.node(), pair[1].1.node());
                assert!(matches!(pair[0].1, Act::Silence(_) | Act::Kill(_)));
                assert!(matches!(pair[1].1, Act::Heal(_) | Act::Start(_)));
            }
        }
    }
}
