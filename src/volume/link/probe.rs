//! Asking a logical unit what it is: the commands of a path's start-up, in order, with every fallback.
//!
//! Mental model: a [`Probe`] is a pure object for one LUN on one session. [`Probe::next`] says what to do
//! (send a command, wait, or stop), [`Probe::handle`] takes the answer. It sends one command at a time:
//! TEST UNIT READY until unit attentions have drained, INQUIRY, VPD pages 00h, 80h, 83h, B0h, B1h and B2h
//! as far as they are listed, READ CAPACITY(16) or (10), MODE SENSE(10) or (6). An attention that
//! questions the identity starts it over; a changed LUN list is acknowledged by REPORT LUNS.
//!
//! Everything is bounded: answers in size, attentions and commands in number, waiting in time.
//! [`ReportLuns`] does the same for the LUN list of a target, [`AskAccess`] for asymmetric access.
//!
//! A unit in standby answers some commands and refuses others: the probe reads what it can get and ends well
//! if that was everything ([`Probe::not_served`]), else with [`ProbeError::Standby`] and [`Probe::facts`].
//!
//! Deliberately not here: what the findings mean (`path::identity`, `path::access`), the content probe.

mod access;
mod report_luns;
mod tries;

pub use access::{AskAccess, Heard as HeardAccess};
pub use report_luns::ReportLuns;

use crate::base::Duration;
use crate::path::identity::{Findings, LogicalUnit, Unusable};
use crate::path::verdict::{Actions, CommandKind, Outcome};
use crate::wire::scsi::{
    BlockCharacteristics, BlockLimits, Capacity10, Capacity16, Cdb, Data, DeviceType, Inquiry,
    ModeData, ModeForm, ParseError, Provisioning, Sense, VpdHeader, block_pages, capacity, inquiry,
    luns, mode, vpd,
};
use tries::{Next, Tries};

/// Commands that one probe sends at most, whatever comes back.
pub const COMMANDS_MAX: u16 = 200;

/// Unit attentions that one probe takes at most.
pub const ATTENTIONS_MAX: u16 = 32;

/// Allocation length of the first try for a VPD page, bytes.
const VPD_ALLOCATION: u16 = 252;

/// What to do next.
#[derive(Debug)]
pub enum Step<T = Box<LogicalUnit>> {
    /// Send this and hand the answer to `handle`.
    Command {
        /// The LUN field.
        lun: u64,
        /// The CDB.
        cdb: [u8; 16],
        /// Bytes of data to expect at most.
        read_len: u32,
    },
    /// Call `next` again after this time.
    Wait(Duration),
    /// Done.
    Ready(T),
    /// It cannot be done now.
    Failed(ProbeError),
}

/// Why a probe failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// A command ended with an error that no fallback cures.
    #[error("{what} failed: {outcome}")]
    Command {
        /// Which command.
        what: &'static str,
        /// How it ended.
        outcome: Outcome,
    },
    /// The target does not have this LUN.
    #[error("the target has no LUN here: {0}")]
    NoLun(String),
    /// The target port is in standby or unavailable: the path is not dead, and to be asked again.
    #[error("the target port does not serve this LUN now: {0}")]
    Standby(Sense),
    /// Unit attentions did not end.
    #[error("{ATTENTIONS_MAX} unit attentions in a row, the last one {0}")]
    Attentions(Sense),
    /// The target answers, but the probe does not come to an end.
    #[error("no end after {COMMANDS_MAX} commands")]
    Endless,
    /// An answer that cannot be read.
    #[error("the answer to {what} cannot be read: {error}")]
    Malformed {
        /// Which command.
        what: &'static str,
        /// Why.
        error: ParseError,
    },
    /// READ CAPACITY(10) points to (16), which the target refuses.
    #[error("the capacity needs READ CAPACITY(16), which the target refuses")]
    CapacityTooLarge,
    /// What was found cannot be used.
    #[error(transparent)]
    Unusable(#[from] Unusable),
}

/// Where a probe is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    TestUnitReady,
    Inquiry {
        allocation: u16,
    },
    /// The page at this index of [`PAGES`].
    Page {
        index: usize,
        allocation: u16,
    },
    Capacity16,
    Capacity10,
    /// Acknowledges a changed LUN list, then starts over.
    ReportLuns,
    Mode(ModeTry),
    Finished,
}

/// Tries for the mode pages: the caching page alone in both forms, then all pages in both forms for devices
/// without one (the header is still worth having), and then the control page in the form that worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ModeTry {
    form: ModeForm,
    page: u8,
}

impl ModeTry {
    const FIRST: ModeTry = ModeTry { form: ModeForm::Ten, page: mode::PAGE_CACHING };

    fn after_refusal(self) -> Option<ModeTry> {
        let ModeTry { form, page } = self;
        match (form, page) {
            (_, mode::PAGE_CONTROL) => None,
            (ModeForm::Ten, _) => Some(ModeTry { form: ModeForm::Six, page }),
            (ModeForm::Six, mode::PAGE_CACHING) => {
                Some(ModeTry { form: ModeForm::Ten, page: mode::PAGE_ALL })
            }
            (ModeForm::Six, _) => None,
        }
    }
}

/// VPD pages in the order of asking; the first says which of the others exist.
const PAGES: [(u8, &str); 6] = [
    (vpd::PAGE_SUPPORTED, "INQUIRY (VPD page 00h)"),
    (vpd::PAGE_SERIAL, "INQUIRY (VPD page 80h)"),
    (vpd::PAGE_IDENTIFICATION, "INQUIRY (VPD page 83h)"),
    (block_pages::PAGE_LIMITS, "INQUIRY (VPD page B0h)"),
    (block_pages::PAGE_CHARACTERISTICS, "INQUIRY (VPD page B1h)"),
    (block_pages::PAGE_PROVISIONING, "INQUIRY (VPD page B2h)"),
];

/// What has been read so far.
#[derive(Debug, Default)]
struct Heard {
    inquiry: Option<Inquiry>,
    /// Body of page 00h; `None` when it could not be read.
    supported: Option<Vec<u8>>,
    designators: Vec<vpd::Designator>,
    serial: Option<Vec<u8>>,
    limits: BlockLimits,
    characteristics: BlockCharacteristics,
    provisioning: Option<Provisioning>,
    capacity: Option<Capacity16>,
    long_cdbs: bool,
    mode: Option<ModeData>,
    control: Option<mode::Control>,
}

/// One logical unit being asked what it is.
#[derive(Debug)]
pub struct Probe {
    lun: u64,
    stage: Stage,
    tries: Tries,
    heard: Heard,
    result: Option<Result<Box<LogicalUnit>, ProbeError>>,
    not_served: Option<Sense>,
    facts: Option<Facts>,
}

/// What a unit says of its asymmetric access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// TPGS: 0 no asymmetric access, 1 implicit, 2 explicit, 3 both.
    pub tpgs: u8,
    /// How its port is called.
    pub port: vpd::PortIdentity,
}

impl Probe {
    /// For the 8-byte LUN field `lun`.
    #[must_use]
    pub fn new(lun: u64) -> Probe {
        Probe {
            lun,
            stage: Stage::TestUnitReady,
            tries: Tries::default(),
            heard: Heard::default(),
            result: None,
            not_served: None,
            facts: None,
        }
    }

    /// The unit said last that it does not serve I/O over this port now.
    #[must_use]
    pub fn not_served(&self) -> Option<Sense> {
        self.not_served
    }

    /// What the unit says of its asymmetric access, once it has been asked.
    #[must_use]
    pub fn facts(&self) -> Option<Facts> {
        self.facts
    }

    /// What unit attentions and deferred errors said meanwhile: above all [`Actions::CACHE_LOST`],
    /// [`Actions::EARLIER_LOST`] and [`Actions::REREG`], which concern more than this probe. What it has
    /// read again itself is in there too.
    #[must_use]
    pub fn attentions(&self) -> Actions {
        self.tries.actions
    }

    /// What to do next. After [`Step::Ready`] or [`Step::Failed`] the probe is over.
    ///
    /// # Panics
    /// When a command is outstanding, or the probe is over: the caller's mistake.
    // Not an iterator: it needs answers in between.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Step {
        if let Some(result) = self.result.take() {
            return match result {
                Ok(unit) => Step::Ready(unit),
                Err(error) => Step::Failed(error),
            };
        }
        assert!(self.stage != Stage::Finished, "the probe is over");
        if let Some(wait) = self.tries.take_wait() {
            return Step::Wait(wait);
        }
        if let Err(error) = self.tries.sent() {
            self.stage = Stage::Finished;
            return Step::Failed(error);
        }
        let cdb = self.cdb();
        let read_len = match cdb.data(0) {
            Data::In(len) => u32::try_from(len).expect("allocation lengths have 32 bits"),
            Data::None | Data::Out(_) => 0,
        };
        Step::Command { lun: self.lun, cdb: cdb.to_bytes(), read_len }
    }

    /// The answer to the command that [`Probe::next`] gave out.
    ///
    /// # Panics
    /// When none is outstanding.
    pub fn handle(&mut self, outcome: &Outcome, data: &[u8]) {
        let (kind, what) = self.describe();
        let next = self.tries.judge(kind, what, outcome);
        let result = match next {
            Next::Use => self.use_answer(what, data),
            Next::Again => Ok(()),
            Next::Attention(actions) => {
                self.take_attention(actions);
                Ok(())
            }
            Next::Refused => self.take_refusal(what, outcome),
            Next::Fail(ProbeError::Standby(sense)) => self.go_on_without(sense),
            Next::Fail(error) => match self.stage {
                // Without mode pages the worst is assumed; that is no reason to do without the unit.
                Stage::Mode(_) if matches!(error, ProbeError::Command { .. }) => self.finish(),
                _ => Err(error),
            },
        };
        if let Err(error) = result {
            self.stage = Stage::Finished;
            self.result = Some(Err(error));
        }
    }

    /// The target port does not serve this command now: perhaps it does the next one.
    fn go_on_without(&mut self, sense: Sense) -> Result<(), ProbeError> {
        self.not_served = Some(sense);
        match self.stage {
            Stage::TestUnitReady => {
                self.stage = Stage::Inquiry { allocation: inquiry::FIRST_ALLOCATION };
                Ok(())
            }
            Stage::Page { index, .. } => {
                self.next_page(index);
                Ok(())
            }
            // Without mode pages the worst is assumed.
            Stage::Mode(_) => self.finish(),
            _ => Err(ProbeError::Standby(sense)),
        }
    }

    fn describe(&self) -> (CommandKind, &'static str) {
        match self.stage {
            Stage::TestUnitReady => (CommandKind::TestUnitReady, "TEST UNIT READY"),
            Stage::Inquiry { .. } => (CommandKind::Probe, "INQUIRY"),
            Stage::Page { index, .. } => (CommandKind::Probe, PAGES[index].1),
            Stage::Capacity16 => (CommandKind::Probe, "READ CAPACITY(16)"),
            Stage::Capacity10 => (CommandKind::Probe, "READ CAPACITY(10)"),
            Stage::ReportLuns => (CommandKind::Probe, "REPORT LUNS"),
            Stage::Mode(_) | Stage::Finished => (CommandKind::Probe, "MODE SENSE"),
        }
    }

    fn cdb(&self) -> Cdb {
        match self.stage {
            Stage::TestUnitReady | Stage::Finished => Cdb::TestUnitReady,
            Stage::Inquiry { allocation } => Cdb::Inquiry { vpd: None, allocation },
            Stage::Page { index, allocation } => {
                Cdb::Inquiry { vpd: Some(PAGES[index].0), allocation }
            }
            Stage::Capacity16 => Cdb::ReadCapacity16 { allocation: capacity::CAPACITY_16_LEN },
            Stage::Capacity10 => Cdb::ReadCapacity10,
            Stage::ReportLuns => Cdb::ReportLuns { select: 0, allocation: luns::ALLOCATION_MIN },
            Stage::Mode(ModeTry { form, page }) => {
                Cdb::mode_sense(form == ModeForm::Six, page, 252)
            }
        }
    }

    fn use_answer(&mut self, what: &'static str, data: &[u8]) -> Result<(), ProbeError> {
        match self.stage {
            Stage::TestUnitReady => {
                self.stage = Stage::Inquiry { allocation: inquiry::FIRST_ALLOCATION };
                Ok(())
            }
            Stage::Inquiry { allocation } => self.use_inquiry(what, allocation, data),
            Stage::Page { index, allocation } => {
                self.use_page(index, allocation, data);
                Ok(())
            }
            Stage::Capacity16 => {
                match Capacity16::parse(data) {
                    Ok(capacity) => {
                        self.heard.capacity = Some(capacity);
                        self.heard.long_cdbs = true;
                        self.stage = Stage::Mode(ModeTry::FIRST);
                    }
                    Err(_) => self.stage = Stage::Capacity10,
                }
                Ok(())
            }
            Stage::Capacity10 => {
                let capacity = Capacity10::parse(data)
                    .map_err(|error| ProbeError::Malformed { what, error })?;
                if capacity.overflows() {
                    return Err(ProbeError::CapacityTooLarge);
                }
                self.heard.capacity = Some(capacity.into());
                self.stage = Stage::Mode(ModeTry::FIRST);
                Ok(())
            }
            Stage::ReportLuns => {
                self.start_over();
                Ok(())
            }
            Stage::Mode(attempt) => self.use_mode(attempt, data),
            Stage::Finished => Ok(()),
        }
    }

    fn use_inquiry(
        &mut self,
        what: &'static str,
        allocation: u16,
        data: &[u8],
    ) -> Result<(), ProbeError> {
        let inquiry =
            Inquiry::parse(data).map_err(|error| ProbeError::Malformed { what, error })?;
        if inquiry.device.qualifier() == DeviceType::NO_DEVICE.qualifier() {
            return Err(ProbeError::NoLun(inquiry.device.to_string()));
        }
        if !inquiry.device.is_disk() {
            return Err(Unusable::DeviceType(inquiry.device).into());
        }
        let full = inquiry.available;
        self.stage = if allocation == inquiry::FIRST_ALLOCATION && full > allocation {
            Stage::Inquiry { allocation: full }
        } else {
            Stage::Page { index: 0, allocation: VPD_ALLOCATION }
        };
        self.heard.inquiry = Some(inquiry);
        Ok(())
    }

    /// A page that cannot be read counts as missing; one that was cut is read again whole.
    fn use_page(&mut self, index: usize, allocation: u16, data: &[u8]) {
        let code = PAGES[index].0;
        if let Ok(page) = VpdHeader::parse(code, data) {
            let full = u16::try_from(page.available).unwrap_or(u16::MAX);
            if page.is_truncated() && full > allocation {
                self.stage = Stage::Page { index, allocation: full };
                return;
            }
            let heard = &mut self.heard;
            match code {
                // Cut even when asked for whole: standard INQUIRY data, whose byte 1 looks like page 00h.
                vpd::PAGE_SUPPORTED if page.is_truncated() => {}
                vpd::PAGE_SUPPORTED => heard.supported = Some(page.body.to_vec()),
                vpd::PAGE_SERIAL => heard.serial = vpd::serial(page.body),
                vpd::PAGE_IDENTIFICATION => heard.designators = vpd::designators(page.body),
                block_pages::PAGE_LIMITS => heard.limits = BlockLimits::parse(page.body),
                block_pages::PAGE_CHARACTERISTICS => {
                    heard.characteristics = BlockCharacteristics::parse(page.body);
                }
                _ => heard.provisioning = Some(Provisioning::parse(page.body)),
            }
        }
        self.next_page(index);
    }

    /// On to the next page that page 00h lists. Without page 00h only those that make an identity are
    /// tried: very old devices have them, and dislike the others.
    fn next_page(&mut self, index: usize) {
        let wanted = |code: u8| match &self.heard.supported {
            Some(supported) => vpd::lists(supported, code),
            None => matches!(code, vpd::PAGE_SERIAL | vpd::PAGE_IDENTIFICATION),
        };
        let following = PAGES.iter().enumerate().skip(index + 1).find(|(_, page)| wanted(page.0));
        self.stage = match following {
            Some((index, _)) => Stage::Page { index, allocation: VPD_ALLOCATION },
            None => Stage::Capacity16,
        };
        if self.stage == Stage::Capacity16 {
            let tpgs = self.heard.inquiry.as_ref().map_or(0, |inquiry| inquiry.tpgs);
            let port = vpd::PortIdentity::find(&self.heard.designators);
            self.facts = Some(Facts { tpgs, port });
        }
    }

    fn use_mode(&mut self, attempt: ModeTry, data: &[u8]) -> Result<(), ProbeError> {
        let Ok(mode) = ModeData::parse(attempt.form, data) else {
            return self.next_mode_try(attempt);
        };
        if mode.control.is_some() {
            self.heard.control = mode.control;
        }
        if attempt.page == mode::PAGE_CONTROL {
            return self.finish();
        }
        self.heard.mode = Some(mode);
        if self.heard.control.is_some() {
            return self.finish();
        }
        self.stage = Stage::Mode(ModeTry { page: mode::PAGE_CONTROL, ..attempt });
        Ok(())
    }

    fn next_mode_try(&mut self, attempt: ModeTry) -> Result<(), ProbeError> {
        match attempt.after_refusal() {
            Some(attempt) => {
                self.stage = Stage::Mode(attempt);
                Ok(())
            }
            None => self.finish(),
        }
    }

    /// After an attention the command is repeated; one that questions what was read starts over.
    fn take_attention(&mut self, actions: Actions) {
        if self.stage == Stage::TestUnitReady || self.stage == Stage::ReportLuns {
            if actions.contains(Actions::RELUN) {
                self.stage = Stage::ReportLuns;
            }
            return;
        }
        let again = Actions::REINQ | Actions::RECAP | Actions::REMODE;
        if actions.contains(Actions::RELUN) {
            self.stage = Stage::ReportLuns;
        } else if actions.intersects(again) {
            self.start_over();
        }
    }

    fn start_over(&mut self) {
        self.heard = Heard::default();
        (self.not_served, self.facts) = (None, None);
        self.stage = Stage::TestUnitReady;
    }

    fn take_refusal(&mut self, what: &'static str, outcome: &Outcome) -> Result<(), ProbeError> {
        match self.stage {
            Stage::Page { index, .. } => {
                self.next_page(index);
                Ok(())
            }
            Stage::Capacity16 => {
                self.stage = Stage::Capacity10;
                Ok(())
            }
            Stage::ReportLuns => {
                self.start_over();
                Ok(())
            }
            Stage::Mode(attempt) => self.next_mode_try(attempt),
            // Devices that predate TEST UNIT READY do not exist; whoever refuses it is asked on.
            Stage::TestUnitReady => {
                self.stage = Stage::Inquiry { allocation: inquiry::FIRST_ALLOCATION };
                Ok(())
            }
            // The long form refused after the short one was answered: the short one will do.
            Stage::Inquiry { .. } if self.heard.inquiry.is_some() => {
                self.stage = Stage::Page { index: 0, allocation: VPD_ALLOCATION };
                Ok(())
            }
            Stage::Inquiry { .. } | Stage::Capacity10 | Stage::Finished => {
                Err(ProbeError::Command { what, outcome: *outcome })
            }
        }
    }

    fn finish(&mut self) -> Result<(), ProbeError> {
        self.stage = Stage::Finished;
        let heard = core::mem::take(&mut self.heard);
        let control = heard.control;
        let software_protect = control.is_some_and(|c| c.software_write_protect);
        let mode = heard.mode.unwrap_or_default();
        let unit = LogicalUnit::new(Findings {
            inquiry: heard.inquiry.expect("INQUIRY comes before the mode pages"),
            designators: heard.designators,
            serial: heard.serial,
            limits: heard.limits,
            characteristics: heard.characteristics,
            provisioning: heard.provisioning,
            capacity: heard.capacity.expect("READ CAPACITY comes before the mode pages"),
            long_cdbs: heard.long_cdbs,
            // Unknown means: there may be a cache.
            write_cache: mode.caching.is_none_or(|c| c.write_cache),
            dpofua: mode.dpofua,
            write_protect: mode.write_protect || software_protect,
            control,
        })?;
        self.result = Some(Ok(Box::new(unit)));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
