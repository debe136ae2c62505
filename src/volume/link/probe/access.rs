//! Asking how the storage serves a path: TEST UNIT READY where that is in question, then REPORT TARGET PORT
//! GROUPS (SPC-4) with the extended header, without it where that is refused, and again until it fits.
//!
//! Deliberately not here: what the answer means for the path ([`crate::path::Reading`]), and when to ask.

use super::tries::{Next, Tries};
use super::{ProbeError, Step};
use crate::path::verdict::{Actions, CommandKind, Outcome};
use crate::wire::scsi::{Cdb, Data, PortGroups, Sense};

/// Allocation length of the first REPORT TARGET PORT GROUPS, bytes.
const ALLOCATION: u32 = 1024;
/// The longest answer that is asked for, bytes: some 8000 ports.
const ALLOCATION_MAX: u32 = 64 * 1024;

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heard {
    /// The unit does not serve I/O over this port now: the sense of TEST UNIT READY.
    pub not_served: Option<Sense>,
    /// The groups; `None` when they were not asked for, or the target refuses to tell.
    pub groups: Option<PortGroups>,
    /// The answer claims to be longer than it is, or than is read.
    pub cut: bool,
    /// What unit attentions said meanwhile, and the last of them.
    pub actions: Actions,
    /// The last attention.
    pub attention: Option<Outcome>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Ready,
    Groups { extended: bool, allocation: u32 },
    Over,
}

/// The access of one path being asked for.
#[derive(Debug)]
pub struct AskAccess {
    lun: u64,
    stage: Stage,
    /// REPORT TARGET PORT GROUPS is asked for.
    groups: bool,
    tries: Tries,
    heard: Heard,
    error: Option<ProbeError>,
}

impl AskAccess {
    /// For the 8-byte LUN field `lun`: whether the unit serves (`ready`), and the state of its ports (`groups`).
    ///
    /// # Panics
    /// When nothing is asked.
    #[must_use]
    pub fn new(lun: u64, ready: bool, groups: bool) -> AskAccess {
        assert!(ready || groups, "something is asked");
        let first = Stage::Groups { extended: true, allocation: ALLOCATION };
        AskAccess {
            lun,
            stage: if ready { Stage::Ready } else { first },
            groups,
            tries: Tries::default(),
            heard: Heard::default(),
            error: None,
        }
    }

    /// What to do next. After [`Step::Ready`] or [`Step::Failed`] it is over.
    ///
    /// # Panics
    /// When a command is outstanding: the caller's mistake.
    // Not an iterator: it needs answers in between.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Step<Heard> {
        if let Some(error) = self.error.take() {
            return Step::Failed(error);
        }
        if let Some(wait) = self.tries.take_wait() {
            return Step::Wait(wait);
        }
        let cdb = match self.stage {
            Stage::Ready => Cdb::TestUnitReady,
            Stage::Groups { extended, allocation } => {
                Cdb::ReportTargetPortGroups { extended, allocation }
            }
            Stage::Over => {
                self.heard.actions = self.tries.actions;
                return Step::Ready(std::mem::take(&mut self.heard));
            }
        };
        if let Err(error) = self.tries.sent() {
            return Step::Failed(error);
        }
        let read_len = match cdb.data(0) {
            Data::In(len) => u32::try_from(len).expect("allocation lengths have 32 bits"),
            Data::None | Data::Out(_) => 0,
        };
        Step::Command { lun: self.lun, cdb: cdb.to_bytes(), read_len }
    }

    /// The answer to the command that [`AskAccess::next`] gave out.
    ///
    /// # Panics
    /// When none is outstanding.
    pub fn handle(&mut self, outcome: &Outcome, data: &[u8]) {
        let (kind, what) = match self.stage {
            Stage::Ready => (CommandKind::TestUnitReady, "TEST UNIT READY"),
            Stage::Groups { .. } | Stage::Over => (CommandKind::Probe, "REPORT TARGET PORT GROUPS"),
        };
        match (self.tries.judge(kind, what, outcome), self.stage) {
            (Next::Again, _) => {}
            (Next::Attention(_), _) => self.heard.attention = Some(*outcome),
            // Whoever refuses TEST UNIT READY is asked on.
            (Next::Use | Next::Refused, Stage::Ready) => self.ask_groups(),
            (Next::Fail(ProbeError::Standby(sense)), Stage::Ready) => {
                self.heard.not_served = Some(sense);
                self.ask_groups();
            }
            (Next::Use, Stage::Groups { extended, allocation }) => {
                self.take(what, extended, allocation, data);
            }
            (Next::Refused, Stage::Groups { extended: true, .. }) => {
                self.stage = Stage::Groups { extended: false, allocation: ALLOCATION };
            }
            (Next::Refused, _) | (Next::Use, Stage::Over) => self.stage = Stage::Over,
            // Even the state of its ports is too much to ask: that is an answer too.
            (Next::Fail(ProbeError::Standby(sense)), _) => {
                self.heard.not_served = Some(sense);
                self.stage = Stage::Over;
            }
            (Next::Fail(error), _) => self.error = Some(error),
        }
    }

    fn ask_groups(&mut self) {
        self.stage = match self.groups {
            true => Stage::Groups { extended: true, allocation: ALLOCATION },
            false => Stage::Over,
        };
    }

    /// The length is as long as the whole list, whatever was sent: asked for again until it fits. An answer
    /// that claims more than it has is used as far as it goes.
    fn take(&mut self, what: &'static str, extended: bool, allocation: u32, data: &[u8]) {
        let groups = match PortGroups::parse(data) {
            Ok(groups) => groups,
            Err(error) => {
                self.error = Some(ProbeError::Malformed { what, error });
                return;
            }
        };
        let wanted = u32::try_from(groups.available.min(ALLOCATION_MAX.into())).expect("bounded");
        if wanted > allocation {
            self.stage = Stage::Groups { extended, allocation: wanted };
            return;
        }
        self.heard.cut = groups.available > data.len() as u64;
        self.heard.groups = Some(groups);
        self.stage = Stage::Over;
    }
}
