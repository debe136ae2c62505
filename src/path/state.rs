//! The states of a path and which may follow which.
//!
//! ```text
//!               log in            identity, readiness, content
//! connecting ──────────► probing ──────────────────────────► active ◄──► suspect
//!     ▲  │                 │ │ ▲                                │           │
//!     │  │ refused, lost   │ │ └── identity in question ────────┴───────────┤
//!     │  ▼                 │ ▼                                              │
//!   failed ◄───────────────┘ mismatched ──► (recheck) probing, connecting   │
//!     ▲                                                                     │
//!     └──────────────────────── TCP error, silence, a verdict ──────────────┘
//! probing, active, suspect ──► standby (the storage does not serve it) ──► probing, failed
//! every state ──► disabled (by an administrator) ──► connecting
//! ```
//!
//! A path carries I/O only as `active`; `suspect` is a preference, it carries I/O when nothing is active.
//! A `standby` path is asked for its access state; when that is good again, everything is read anew.
//! Deliberately not here: who decides (volume), timers (backoff, health), what is told (events).

use core::fmt;

/// State of a path, by the names of `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// A TCP connection or a login is under way, or about to be.
    Connecting,
    /// Logged in; readiness, identity and content are being read, or cannot be told yet.
    Probing,
    /// Carries I/O.
    Active,
    /// Sound, but the target asks not to use it now (asymmetric access).
    Standby,
    /// Owes an answer for too long: carries I/O only when no path is active.
    Suspect,
    /// No session; a reconnect is scheduled.
    Failed,
    /// Taken out by an administrator.
    Disabled,
    /// Not the same logical unit as the other paths: never used.
    Mismatched,
}

use State::{Active, Connecting, Disabled, Failed, Mismatched, Probing, Standby, Suspect};

impl State {
    /// Every state, in order of discriminant.
    pub const ALL: [State; 8] =
        [Connecting, Probing, Active, Standby, Suspect, Failed, Disabled, Mismatched];

    /// The name in `status` and in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Connecting => "connecting",
            Probing => "probing",
            Active => "active",
            Standby => "standby",
            Suspect => "suspect",
            Failed => "failed",
            Disabled => "disabled",
            Mismatched => "mismatched",
        }
    }

    /// The states that may follow this one.
    #[must_use]
    pub const fn successors(self) -> &'static [State] {
        match self {
            Connecting => &[Probing, Failed, Disabled],
            Probing => &[Active, Standby, Failed, Disabled, Mismatched],
            // Identity in question: back to probing before any further I/O.
            Active => &[Probing, Standby, Suspect, Failed, Disabled],
            Standby => &[Probing, Failed, Disabled],
            Suspect => &[Probing, Active, Standby, Failed, Disabled],
            Failed => &[Connecting, Disabled],
            Disabled => &[Connecting],
            // Its session may have been kept (recheck: probing), ended (connecting) or lost (failed).
            Mismatched => &[Connecting, Probing, Failed, Disabled],
        }
    }

    /// Whether `to` may follow this state. A state never follows itself.
    #[must_use]
    pub fn may_become(self, to: State) -> bool {
        self.successors().contains(&to)
    }

    /// Whether the path may carry I/O, gladly or not.
    #[must_use]
    pub const fn carries_io(self) -> bool {
        match self {
            Active | Suspect => true,
            Connecting | Probing | Standby | Failed | Disabled | Mismatched => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table, row by row: `from` down, `to` across, in the order of `ALL`.
    const TABLE: [&str; 8] = [
        //cpaSsfdm
        ".x...xx.", // connecting
        "..xx.xxx", // probing
        ".x.xxxx.", // active
        ".x...xx.", // standby
        ".xxx.xx.", // suspect
        "x.....x.", // failed
        "x.......", // disabled
        "xx...xx.", // mismatched
    ];

    #[test]
    fn every_pair_is_as_in_the_table() {
        for (row, from) in State::ALL.into_iter().enumerate() {
            assert_eq!(from as usize, row);
            for (column, to) in State::ALL.into_iter().enumerate() {
                let legal = TABLE[row].as_bytes()[column] == b'x';
                assert_eq!(from.may_become(to), legal, "{from} -> {to}");
            }
        }
    }

    #[test]
    fn i_o_starts_only_after_probing() {
        for from in State::ALL.into_iter().filter(|s| !s.carries_io()) {
            let into_io = from.successors().iter().any(|to| to.carries_io());
            assert_eq!(into_io, from == Probing, "{from}");
        }
    }

    #[test]
    fn every_state_has_a_way_to_active_and_to_disabled() {
        for goal in [Active, Disabled] {
            for start in State::ALL {
                let (mut seen, mut todo) = (vec![start], vec![start]);
                while let Some(state) = todo.pop() {
                    for next in state.successors() {
                        if !seen.contains(next) {
                            seen.push(*next);
                            todo.push(*next);
                        }
                    }
                }
                assert!(seen.contains(&goal), "{start} never reaches {goal}");
            }
        }
    }
}
