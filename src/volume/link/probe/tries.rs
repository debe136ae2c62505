//! How often one command of a probe has been tried, and what is to be done about its answer.
//!
//! Mental model: every answer goes through `path::verdict` as if this were the only path; what would go
//! elsewhere is a failure of the probe. Attentions, retries, waiting and commands are counted here, so that
//! every probe ends.

use super::{ATTENTIONS_MAX, COMMANDS_MAX, ProbeError};
use crate::base::Duration;
use crate::path::verdict::{Actions, CommandKind, Context, Outcome, Verdict, verdict};
use crate::wire::scsi::{SenseKey, Status};

/// How often one command has been tried, and what attentions said.
#[derive(Debug, Default)]
pub(super) struct Tries {
    outstanding: bool,
    wait: Option<Duration>,
    retries: u8,
    attentions: u16,
    commands: u16,
    waited: Duration,
    pub(super) actions: Actions,
}

/// What is to be done about an answer.
pub(super) enum Next {
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
    pub(super) fn take_wait(&mut self) -> Option<Duration> {
        self.wait.take()
    }

    pub(super) fn sent(&mut self) -> Result<(), ProbeError> {
        assert!(!self.outstanding, "a probe has one command outstanding");
        if self.commands >= COMMANDS_MAX {
            return Err(ProbeError::Endless);
        }
        self.commands += 1;
        self.outstanding = true;
        Ok(())
    }

    pub(super) fn judge(
        &mut self,
        kind: CommandKind,
        what: &'static str,
        outcome: &Outcome,
    ) -> Next {
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
            // A transition: whoever asked waits for its end, and not only by this command.
            Verdict::RetryHereLater(_) if decision.actions.contains(Actions::RTPG) => {
                Next::Fail(ProbeError::Standby(sense.expect("transitions are told by sense data")))
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
