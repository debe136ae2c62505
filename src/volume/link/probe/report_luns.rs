//! The LUN list of a target: REPORT LUNS at LUN 0 until the whole list fits (SPC-4, REPORT LUNS).
//!
//! Deliberately not here: what is behind each LUN; that takes a [`Probe`](super::Probe) each.

use super::tries::{Next, Tries};
use super::{ProbeError, Step};
use crate::limits::LUNS_PER_TARGET_MAX;
use crate::path::verdict::{CommandKind, Outcome};
use crate::wire::scsi::{Cdb, ReportedLuns, luns};

/// Allocation length of the first REPORT LUNS, bytes: 256 LUNs.
const LUNS_ALLOCATION: u32 = 8 + 256 * 8;

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
