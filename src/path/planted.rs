//! Faults that can be planted in the product, so that the simulator can show that it would find them. A
//! build without the feature `planted` (every build that anybody uses) has none: the question is a constant.
//!
//! Deliberately not here: what a planted fault does; that stands in one line at its place.

/// One planted fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A connection that broke is taken for a proof: what was sent on it is repeated as if it were dead.
    RetryTooLax,
    /// The ISID changes with every login: the old session is not reinstated.
    IsidChanges,
    /// Login alone is taken for a proof, without LOGICAL UNIT RESET.
    ResetSkipped,
    /// LOGICAL UNIT RESET is sent whatever other sessions have on their way.
    ResetUnprepared,
    /// A flush leaves one of its targets out.
    FlushSkipsTarget,
    /// A range is free as soon as its request is answered, whatever is in doubt.
    FreeAtReply,
    /// A range that becomes free is not handed on to who waits for it.
    GrantForgotten,
    /// A command that was aborted by a reset on another session is not repeated.
    AbortedIsDone,
    /// A daemon that starts does not look at what the one before it left behind.
    LeftBehindIgnored,
    /// Reads are copied whatever was saved up for it.
    HedgesUnpaid,
    /// What was released without a proof is never compared.
    WatchForgotten,
    /// Content that differs over two paths is taken for the same.
    ContentUnread,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 12] = [
        Bug::RetryTooLax,
        Bug::IsidChanges,
        Bug::ResetSkipped,
        Bug::ResetUnprepared,
        Bug::FlushSkipsTarget,
        Bug::FreeAtReply,
        Bug::GrantForgotten,
        Bug::AbortedIsDone,
        Bug::LeftBehindIgnored,
        Bug::HedgesUnpaid,
        Bug::WatchForgotten,
        Bug::ContentUnread,
    ];

    /// As the simulator's command line has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Bug::RetryTooLax => "retry-too-lax",
            Bug::IsidChanges => "isid-changes",
            Bug::ResetSkipped => "reset-skipped",
            Bug::ResetUnprepared => "reset-unprepared",
            Bug::FlushSkipsTarget => "flush-skips-target",
            Bug::FreeAtReply => "free-at-reply",
            Bug::GrantForgotten => "grant-forgotten",
            Bug::AbortedIsDone => "aborted-is-done",
            Bug::LeftBehindIgnored => "left-behind-ignored",
            Bug::HedgesUnpaid => "hedges-unpaid",
            Bug::WatchForgotten => "watch-forgotten",
            Bug::ContentUnread => "content-unread",
        }
    }
}

#[cfg(feature = "planted")]
mod here {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a fault in this thread, or takes it out.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether this fault is planted in this thread.
    #[must_use]
    pub fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub use here::{plant, planted};

/// Whether this fault is planted: never.
#[cfg(not(feature = "planted"))]
#[must_use]
pub const fn planted(_bug: Bug) -> bool {
    false
}
