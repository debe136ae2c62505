//! The table itself: one entry per tunable, in the order in which they are shown.

use super::{
    Chosen, Duration, Failback, FenceMode, FenceProof, Field, Kind, Tunable, Tunables, limits,
};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const SECOND: Duration = ms(1_000);
const MINUTE: Duration = ms(60_000);
const HOUR: Duration = ms(3_600_000);
const DAY: Duration = ms(24 * 3_600_000);

macro_rules! field {
    ($name:ident) => {
        Field { get: |t: &Tunables| t.$name.clone(), set: |t: &mut Tunables, v| t.$name = v }
    };
}

/// A time: key, `least, greatest` or `least, greatest, never`, reason.
macro_rules! time {
    ($name:ident, $min:expr, $max:expr, never, $reason:literal) => {
        time!(@ $name, $min, $max, true, $reason)
    };
    ($name:ident, $min:expr, $max:expr, $reason:literal) => {
        time!(@ $name, $min, $max, false, $reason)
    };
    (@ $name:ident, $min:expr, $max:expr, $never:expr, $reason:literal) => {
        Tunable {
            key: stringify!($name),
            kind: Kind::Duration { min: $min, max: $max, never: $never, field: field!($name) },
            reason: $reason,
        }
    };
}

macro_rules! flag {
    ($name:ident, $reason:literal) => {
        Tunable {
            key: stringify!($name),
            kind: Kind::Flag { field: field!($name) },
            reason: $reason,
        }
    };
}

macro_rules! size {
    ($name:ident, $min:expr, $max:expr, $reason:literal) => {
        Tunable {
            key: stringify!($name),
            kind: Kind::Size { min: $min, max: $max, field: field!($name) },
            reason: $reason,
        }
    };
}

fn no_such(chosen: Chosen) -> ! {
    unreachable!("{chosen:?} is not one of the words of this choice")
}

/// Every tunable.
pub static ALL: &[Tunable] = &[
    time!(nop_interval, ms(10), MINUTE, "an idle path is asked for a sign of life this often"),
    time!(
        path_timeout,
        ms(10),
        HOUR,
        "a path that owes an answer and is silent for this long has failed, while another path lives"
    ),
    time!(
        last_path_timeout,
        ms(10),
        HOUR,
        never,
        "the same for the last path: there is nothing to fail over to"
    ),
    time!(
        command_timeout,
        ms(10),
        HOUR,
        "a command without progress for this long goes elsewhere: the LUN hangs though its target still answers"
    ),
    time!(last_path_command_timeout, ms(10), DAY, never, "the same on the last path"),
    time!(
        no_path_timeout,
        ms(0),
        DAY,
        never,
        "with no usable path, requests queue for this long, then fail with EIO; 0 fails at once"
    ),
    time!(
        suspect_after,
        ms(1),
        SECOND,
        "a path that owes an answer for less than this keeps getting commands, however fast it was before"
    ),
    time!(
        suspect_interval,
        ms(10),
        MINUTE,
        "a suspect path is offered a read this often, to see whether it is back"
    ),
    time!(
        check_interval,
        ms(100),
        HOUR,
        never,
        "the LUN behind an idle path is asked this often whether it is ready, and for its access states"
    ),
    time!(connect_timeout, ms(100), ms(300_000), "a TCP connection that takes longer is given up"),
    time!(login_timeout, ms(100), ms(300_000), "a login that takes longer is given up"),
    time!(
        reconnect_min,
        ms(10),
        MINUTE,
        "the first wait before a failed path is tried again; it doubles with each failure"
    ),
    time!(reconnect_max, ms(10), HOUR, "the longest wait before a failed path is tried again"),
    time!(
        flap_penalty_max,
        ms(0),
        DAY,
        "a path that fails again and again is kept out for a growing time, at most this long"
    ),
    time!(
        management_timeout,
        SECOND,
        ms(600_000),
        "a task management function that is not answered for this long is asked again, and its late answer counts for nothing"
    ),
    time!(
        alua_transition_timeout,
        SECOND,
        ms(600_000),
        "a path may be in transition between access states this long where its target names no time"
    ),
    time!(shutdown_timeout, ms(0), HOUR, "what SIGTERM and `path disable` wait for at most"),
    Tunable {
        key: "failback",
        kind: Kind::Choice {
            what: "a way to fail back",
            words: &["immediate", "manual"],
            delay_max: Some(DAY),
            field: Field {
                get: |t| match t.failback {
                    Failback::Immediate => Chosen::Word("immediate"),
                    Failback::Manual => Chosen::Word("manual"),
                    Failback::After(delay) => Chosen::After(delay),
                },
                set: |t, chosen| {
                    t.failback = match chosen {
                        Chosen::Word("immediate") => Failback::Immediate,
                        Chosen::Word("manual") => Failback::Manual,
                        Chosen::After(delay) => Failback::After(delay),
                        Chosen::Word(_) => no_such(chosen),
                    };
                },
            },
        },
        reason: "when `failover` goes back to a better path that has returned",
    },
    Tunable {
        key: "queue_depth",
        kind: Kind::Number {
            min: 1,
            max: limits::TASKS_PER_SESSION_MAX as u64,
            unit: "commands",
            field: Field {
                get: |t| t.queue_depth.into(),
                set: |t, depth| t.queue_depth = depth.try_into().unwrap_or(u16::MAX),
            },
        },
        reason: "commands outstanding per path and lane; the target's window and BUSY answers lower it",
    },
    time!(
        spin,
        Duration::ZERO,
        ms(1),
        "a lane looks for answers this long before it sleeps, while commands are outstanding; it costs a core for as long"
    ),
    flag!(
        hedge_reads,
        "a read that is late is sent on a second path as well, within a budget of 5 %"
    ),
    size!(
        sticky_bytes,
        0,
        1 << 30,
        "`least-bytes` keeps a sequential stream on its path for this many bytes; 0 for never"
    ),
    Tunable {
        key: "fence",
        kind: Kind::Choice {
            what: "a mode of write ownership",
            words: &["overlap", "strict", "off"],
            delay_max: None,
            field: Field {
                get: |t| match t.fence {
                    FenceMode::Overlap => Chosen::Word("overlap"),
                    FenceMode::Strict => Chosen::Word("strict"),
                    FenceMode::Off => Chosen::Word("off"),
                },
                set: |t, chosen| {
                    t.fence = match chosen {
                        Chosen::Word("overlap") => FenceMode::Overlap,
                        Chosen::Word("strict") => FenceMode::Strict,
                        Chosen::Word("off") => FenceMode::Off,
                        Chosen::Word(_) | Chosen::After(_) => no_such(chosen),
                    };
                },
            },
        },
        reason: "`overlap`: writes over a write in doubt wait; `strict`: its client waits too; `off`: nobody waits, and old data may win",
    },
    time!(
        fence_timeout,
        ms(0),
        DAY,
        never,
        "in `overlap`, blocks in doubt are held at most this long; `never` holds them until there is proof"
    ),
    Tunable {
        key: "fence_proof",
        kind: Kind::Choice {
            what: "a proof",
            words: &["reset", "reinstatement"],
            delay_max: None,
            field: Field {
                get: |t| match t.fence_proof {
                    FenceProof::Reset => Chosen::Word("reset"),
                    FenceProof::Reinstatement => Chosen::Word("reinstatement"),
                },
                set: |t, chosen| {
                    t.fence_proof = match chosen {
                        Chosen::Word("reset") => FenceProof::Reset,
                        Chosen::Word("reinstatement") => FenceProof::Reinstatement,
                        Chosen::Word(_) | Chosen::After(_) => no_such(chosen),
                    };
                },
            },
        },
        reason: "what ends a doubt after a new login: LOGICAL UNIT RESET, or the login alone where the target is known to keep that promise",
    },
    Tunable {
        key: "fence_command",
        kind: Kind::Text { field: field!(fence_command) },
        reason: "run by /bin/sh when nothing else proves a path's writes dead; exit 0 says that its node is certainly off",
    },
    flag!(
        shared,
        "other hosts write to this LUN: LOGICAL UNIT RESET, which ends their commands too, needs `fence_reset`"
    ),
    flag!(fence_reset, "LOGICAL UNIT RESET may be used although the LUN is shared"),
    size!(
        watch_memory,
        0,
        1 << 30,
        "acknowledged content kept of blocks that were released without a proof; beyond it blocks stay held"
    ),
    flag!(
        trust_identity,
        "the administrator vouches for the identity of the paths, and no content is compared"
    ),
];
