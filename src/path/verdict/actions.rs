//! What an answer asks for besides a verdict: a set of flags.
//!
//! Each flag is one thing to do or to remember; who does it, and when, is the volume's business. Deliberately
//! not here: which answers set which flags (see the parent module).

use core::fmt;
use core::ops::{BitOr, BitOrAssign};

/// What else was learnt: a set of flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Actions(pub(super) u32);

impl Actions {
    /// Nothing.
    pub const NONE: Actions = Actions(0);
    /// Read INQUIRY and VPD 83h again on this path.
    pub const REINQ: Actions = Actions(1 << 0);
    /// Read the capacity again, on all paths.
    pub const RECAP: Actions = Actions(1 << 1);
    /// Read the mode pages again on this path.
    pub const REMODE: Actions = Actions(1 << 2);
    /// REPORT TARGET PORT GROUPS, once for the device.
    pub const RTPG: Actions = Actions(1 << 3);
    /// REPORT LUNS on this session (it also clears 3F/0E).
    pub const RELUN: Actions = Actions(1 << 4);
    /// Check persistent reservation keys; never register by itself.
    pub const REREG: Actions = Actions(1 << 5);
    /// Send no write on this path until the identity check has ended.
    pub const HOLD: Actions = Actions(1 << 6);
    /// This form of the command is not supported: remember it, and try another form.
    pub const FALLBACK: Actions = Actions(1 << 7);
    /// The path is not usable now and not dead: standby, polled by TEST UNIT READY.
    pub const STANDBY: Actions = Actions(1 << 8);
    /// A volatile cache may have lost acknowledged writes.
    pub const CACHE_LOST: Actions = Actions(1 << 9);
    /// An earlier, already answered command failed: the next flush says so.
    pub const EARLIER_LOST: Actions = Actions(1 << 10);
    /// Lower the queue depth of this path.
    pub const QUEUE_FULL: Actions = Actions(1 << 11);
    /// Commands outstanding on this nexus may have vanished without status: abort and repeat them.
    pub const CLEARED: Actions = Actions(1 << 12);
    /// The session must not be used any more.
    pub const END_SESSION: Actions = Actions(1 << 13);
    /// The device is write protected.
    pub const READ_ONLY: Actions = Actions(1 << 14);
    /// This path's target no longer has the LUN.
    pub const LUN_GONE: Actions = Actions(1 << 15);
    /// Portals or units of the target have changed: ask the portals again.
    pub const REDISCOVER: Actions = Actions(1 << 16);
    /// Retry without unsolicited data.
    pub const NO_UNSOLICITED: Actions = Actions(1 << 17);
    /// Count as a digest error.
    pub const DIGEST: Actions = Actions(1 << 18);
    /// Tell the administrator.
    pub const ALARM: Actions = Actions(1 << 19);

    const NAMES: [&'static str; 20] = [
        "REINQ",
        "RECAP",
        "REMODE",
        "RTPG",
        "RELUN",
        "REREG",
        "HOLD",
        "FALLBACK",
        "STANDBY",
        "CACHE_LOST",
        "EARLIER_LOST",
        "QUEUE_FULL",
        "CLEARED",
        "END_SESSION",
        "READ_ONLY",
        "LUN_GONE",
        "REDISCOVER",
        "NO_UNSOLICITED",
        "DIGEST",
        "ALARM",
    ];

    /// Whether all of `other` are in it.
    #[must_use]
    pub const fn contains(self, other: Actions) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` are in it.
    #[must_use]
    pub const fn intersects(self, other: Actions) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Actions) -> Actions {
        Actions(self.0 & !other.0)
    }

    /// Both.
    #[must_use]
    pub const fn with(self, other: Actions) -> Actions {
        Actions(self.0 | other.0)
    }
}

impl BitOr for Actions {
    type Output = Actions;
    fn bitor(self, other: Actions) -> Actions {
        self.with(other)
    }
}

impl BitOrAssign for Actions {
    fn bitor_assign(&mut self, other: Actions) {
        *self = self.with(other);
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (i, name) in Self::NAMES.iter().enumerate() {
            if self.0 >> i & 1 == 1 {
                write!(f, "{separator}{name}")?;
                separator = "|";
            }
        }
        if separator.is_empty() { f.write_str("NONE") } else { Ok(()) }
    }
}
