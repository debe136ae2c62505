//! Asking a logical unit what it is: the commands of a path's start-up, in order, with every fallback.
//!
//! Mental model: a [`Probe`] is a pure object for one LUN on one session. [`Probe::next`] says what to do
//! (send a command, wait, or stop), [`Probe::handle`] takes the answer. It sends one command at a time:
//! TEST UNIT READY until unit attentions have drained, INQUIRY, VPD pages 00h, 80h, 83h, B0h, B1h and B2h
//! as far as they are listed, READ CAPACITY(16) or (10), MODE SENSE(10) or (6). An attention that
//! questions the identity starts it over; a changed LUN list is acknowledged by REPORT LUNS.
//!
//! Everything is bounded: answers in size, attentions and commands in number, waiting in time.
//! [`ReportLuns`] does the same for the LUN list of a target.
//!
//! Deliberately not here: what the findings mean (`path::identity`), the content probe, and asymmetric
//! access (a unit in standby ends the probe with [`ProbeError::Standby`], to be tried again).

use crate::base::Duration;
use crate::limits::LUNS_PER_TARGET_MAX;
use crate::path::identity::{Findings, LogicalUnit, Unusable};
use crate::path::verdict::{Actions, CommandKind, Context, Outcome, Verdict, verdict};
use crate::wire::scsi::{
    BlockCharacteristics, BlockLimits, Capacity10, Capacity16, Cdb, Data, DeviceType, Inquiry,
    ModeData, ModeForm, ParseError, Provisioning, ReportedLuns, Sense, SenseKey, Status, VpdHeader,
    block_pages, capacity, inquiry, luns, mode, vpd,
};

/// Commands that one probe sends at most, whatever comes back.
pub const COMMANDS_MAX: u16 = 200;

/// Unit attentions that one probe takes at most.
pub const ATTENTIONS_MAX: u16 = 32;

/// Allocation length of the first try for a VPD page, bytes.
const VPD_ALLOCATION: u16 = 252;

/// Allocation length of the first REPORT LUNS, bytes: 256 LUNs.
const LUNS_ALLOCATION: u32 = 8 + 256 * 8;

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

/// How often one command has been tried, and what attentions said.
#[derive(Debug, Default)]
struct Tries {
    outstanding: bool,
    wait: Option<Duration>,
    retries: u8,
    attentions: u16,
    commands: u16,
    waited: Duration,
    actions: Actions,
}

/// What is to be done about an answer.
enum Next {
    /// It is good: read the data.
    Use,
    /// The same command again (after a wait, if one was set).
    Again,
    /// Attention: the same command again, unless what it says changes the plan.
    Attention(Actions),
    /// ILLEGAL REQUEST: the device does not have this.
    Refused,
    /// It failed.
    Fail(ProbeError),
}

impl Tries {
    fn take_wait(&mut self) -> Option<Duration> {
        self.wait.take()
    }

    fn sent(&mut self) -> Result<(), ProbeError> {
        assert!(!self.outstanding, "a probe has one command outstanding");
        if self.commands >= COMMANDS_MAX {
            return Err(ProbeError::Endless);
        }
        self.commands += 1;
        self.outstanding = true;
        Ok(())
    }

    fn judge(&mut self, kind: CommandKind, what: &'static str, outcome: &Outcome) -> Next {
        assert!(self.outstanding, "an answer without a command");
        self.outstanding = false;
        let context = Context {
            retries: self.retries,
            waited_here: self.waited,
            waited: self.waited,
            ..Context::first(kind, false)
        };
        let decision = verdict(outcome, context);
        let command_failed = ProbeError::Command { what, outcome: *outcome };
        let sense = outcome.sense.filter(|_| outcome.status == Status::CheckCondition);
        let key = sense.map(|s| s.key);
        if let (Some(sense), Some(SenseKey::UnitAttention), false) =
            (sense, key, decision.verdict == Verdict::Done)
        {
            self.actions |= decision.actions;
            self.attentions += 1;
            if self.attentions >= ATTENTIONS_MAX {
                return Next::Fail(ProbeError::Attentions(sense));
            }
            return Next::Attention(decision.actions);
        }
        // Deferred errors are news about the past: kept for the next flush.
        if decision.actions.contains(Actions::EARLIER_LOST) {
            self.actions |= Actions::EARLIER_LOST;
        }
        match decision.verdict {
            Verdict::Done => {
                self.retries = 0;
                Next::Use
            }
            Verdict::RetryHere => {
                self.retries = self.retries.saturating_add(1);
                Next::Again
            }
            Verdict::RetryHereLater(delay) => {
                self.waited = self.waited.saturating_add(delay);
                self.wait = Some(delay);
                Next::Again
            }
            Verdict::RetryElsewhere | Verdict::FailPathRetryElsewhere => match sense {
                Some(sense) if decision.actions.contains(Actions::STANDBY) => {
                    Next::Fail(ProbeError::Standby(sense))
                }
                Some(sense) if decision.actions.contains(Actions::LUN_GONE) => {
                    Next::Fail(ProbeError::NoLun(sense.to_string()))
                }
                _ => Next::Fail(command_failed),
            },
            Verdict::GiveToCaller(_) => match key {
                Some(SenseKey::IllegalRequest) => {
                    self.retries = 0;
                    Next::Refused
                }
                _ => Next::Fail(command_failed),
            },
        }
    }
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
        }
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

/// The LUN list of a target, asked at LUN 0.
#[derive(Debug)]
pub struct ReportLuns {
    allocation: u32,
    tries: Tries,
    result: Option<Result<Vec<u64>, ProbeError>>,
    over: bool,
}

impl Default for ReportLuns {
    fn default() -> Self {
        ReportLuns::new()
    }
}

impl ReportLuns {
    /// Nothing asked yet.
    #[must_use]
    pub fn new() -> ReportLuns {
        ReportLuns {
            allocation: LUNS_ALLOCATION,
            tries: Tries::default(),
            result: None,
            over: false,
        }
    }

    /// What to do next. [`Step::Ready`] has the LUN fields in the target's order, without duplicates and
    /// without well-known units.
    ///
    /// # Panics
    /// When a command is outstanding, or it is over: the caller's mistake.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Step<Vec<u64>> {
        if let Some(result) = self.result.take() {
            return match result {
                Ok(luns) => Step::Ready(luns),
                Err(error) => Step::Failed(error),
            };
        }
        assert!(!self.over, "the LUN list is complete");
        if let Some(wait) = self.tries.take_wait() {
            return Step::Wait(wait);
        }
        if let Err(error) = self.tries.sent() {
            self.over = true;
            return Step::Failed(error);
        }
        let cdb = Cdb::ReportLuns { select: 0, allocation: self.allocation }.to_bytes();
        Step::Command { lun: 0, cdb, read_len: self.allocation }
    }

    /// The answer to the command that [`ReportLuns::next`] gave out.
    ///
    /// # Panics
    /// When none is outstanding.
    pub fn handle(&mut self, outcome: &Outcome, data: &[u8]) {
        let what = "REPORT LUNS";
        match self.tries.judge(CommandKind::Probe, what, outcome) {
            Next::Use => match ReportedLuns::parse(data) {
                Ok(reported) => self.take(&reported),
                Err(error) => self.end(Err(ProbeError::Malformed { what, error })),
            },
            Next::Again | Next::Attention(_) => {}
            // Devices without REPORT LUNS have LUN 0 only.
            Next::Refused => self.end(Ok(vec![0])),
            Next::Fail(error) => self.end(Err(error)),
        }
    }

    /// The list may grow between two calls; it is asked for again until it fits or the limit is reached.
    fn take(&mut self, reported: &ReportedLuns) {
        let most = 8 + 8 * LUNS_PER_TARGET_MAX as u64;
        let wanted = reported.available.min(most);
        if wanted > self.allocation.into() {
            self.allocation = u32::try_from(wanted).expect("bounded by the limit above");
            return;
        }
        let mut seen = std::collections::HashSet::new();
        let luns = reported.luns.iter().copied();
        let found = luns.filter(|lun| !luns::is_well_known(*lun) && seen.insert(*lun)).collect();
        self.end(Ok(found));
    }

    fn end(&mut self, result: Result<Vec<u64>, ProbeError>) {
        self.over = true;
        self.result = Some(result);
    }
}
