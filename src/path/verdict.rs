//! What to do about an answer: one total function from iSCSI response, SCSI status and sense data to a
//! [`Decision`].
//!
//! Mental model: a [`Verdict`] says where the command goes next (the caller of [`verdict`] owns queues and
//! clocks), and [`Actions`] says what else was learnt: what to read again, which state the path has, what
//! was lost. Errors of a *path* are retried elsewhere; errors of the *medium* go to the caller at once,
//! because trying every path with a bad block only multiplies the wait.
//!
//! Four bounds keep every command finite: immediate retries per path, unit attentions per path, time spent
//! in delayed retries, and [`ANSWERS_MAX`] answers over all paths.
//!
//! Deliberate choices where the standards leave room:
//! - A path that is NOT READY while another path is usable does not hold the command up: it goes elsewhere
//!   and the path stands by until TEST UNIT READY is good. Only the last path waits.
//! - A flush is never repeated after MEDIUM ERROR or HARDWARE ERROR: a later success would hide the loss.
//!
//! Deliberately not here: lost sessions and time-outs (no status came, so nothing is known), and vendor
//! codes (they take the default of their sense key).

mod actions;

pub use actions::Actions;

use crate::base::Duration;
use crate::wire::scsi::{Sense, SenseKey, Status};
use core::fmt;

/// Immediate retries of one command on one path for errors that a retry may cure.
pub const RETRIES_MAX: u8 = 5;
/// Immediate retries for errors that seldom go away.
pub const RETRIES_FEW: u8 = 2;
/// Unit attentions that one command takes on one path before it is moved or slowed down.
pub const ATTENTIONS_MAX: u8 = 20;
/// Answers that one command takes over all paths; delayed retries, which are bounded by time, do not count.
pub const ANSWERS_MAX: u16 = 64;
/// How long BUSY and TASK SET FULL are waited out on a path while another one is usable.
pub const BUSY_HERE_MAX: Duration = Duration::from_secs(1);
/// How long delayed retries go on in all before the caller gets an error.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long the last path may stay NOT READY for a command.
pub const NOT_READY_MAX: Duration = Duration::from_secs(30);
/// Transition time when REPORT TARGET PORT GROUPS gave none.
pub const TRANSITION_DEFAULT: Duration = Duration::from_secs(60);

/// What the command was, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CommandKind {
    /// READ.
    Read,
    /// WRITE.
    Write,
    /// SYNCHRONIZE CACHE.
    Flush,
    /// UNMAP.
    Unmap,
    /// WRITE SAME.
    WriteSame,
    /// COMPARE AND WRITE: not repeated when its outcome is unknown.
    CompareAndWrite,
    /// GET LBA STATUS: a short answer is normal.
    LbaStatus,
    /// INQUIRY, READ CAPACITY, MODE SENSE and the like: a short answer is normal.
    Probe,
    /// TEST UNIT READY as path check: a reservation conflict shows that the path works.
    TestUnitReady,
}

impl CommandKind {
    /// Every kind.
    pub const ALL: [CommandKind; 9] = [
        CommandKind::Read,
        CommandKind::Write,
        CommandKind::Flush,
        CommandKind::Unmap,
        CommandKind::WriteSame,
        CommandKind::CompareAndWrite,
        CommandKind::LbaStatus,
        CommandKind::Probe,
        CommandKind::TestUnitReady,
    ];

    /// Whether it changes the medium.
    #[must_use]
    pub const fn writes(self) -> bool {
        match self {
            CommandKind::Write
            | CommandKind::Unmap
            | CommandKind::WriteSame
            | CommandKind::CompareAndWrite => true,
            CommandKind::Read
            | CommandKind::Flush
            | CommandKind::LbaStatus
            | CommandKind::Probe
            | CommandKind::TestUnitReady => false,
        }
    }

    /// Whether fewer bytes than asked for are an error.
    const fn must_be_whole(self) -> bool {
        match self {
            CommandKind::Read
            | CommandKind::Write
            | CommandKind::Unmap
            | CommandKind::WriteSame
            | CommandKind::CompareAndWrite => true,
            CommandKind::Flush
            | CommandKind::LbaStatus
            | CommandKind::Probe
            | CommandKind::TestUnitReady => false,
        }
    }
}

/// What came back for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// iSCSI response: 0 is "completed at target"; anything else voids status and sense.
    pub response: u8,
    /// SCSI status.
    pub status: Status,
    /// Sense data that could be read.
    pub sense: Option<Sense>,
    /// Fewer bytes moved than the command asked for.
    pub short: bool,
}

impl Outcome {
    /// GOOD, and everything moved.
    pub const GOOD: Outcome =
        Outcome { response: 0, status: Status::Good, sense: None, short: false };

    /// From what a SCSI Response carries; sense data that cannot be read counts as none.
    #[must_use]
    pub fn new(response: u8, status: u8, sense: Option<&[u8]>, short: bool) -> Outcome {
        let sense = sense.and_then(|bytes| Sense::parse(bytes).ok());
        Outcome { response, status: Status::from_byte(status), sense, short }
    }

    /// CHECK CONDITION with this sense.
    #[must_use]
    pub const fn check(sense: Sense) -> Outcome {
        Outcome { response: 0, status: Status::CheckCondition, sense: Some(sense), short: false }
    }

    /// Whether this answer is the same verdict of a device server as `other`: the same status and sense.
    /// A command that gets it on two paths goes to the caller ([`Context::same_elsewhere`]).
    #[must_use]
    pub fn is_same_as(&self, other: &Outcome) -> bool {
        let triple = |o: &Outcome| o.sense.map(|s| s.triple());
        self.response == other.response
            && self.status == other.status
            && triple(self) == triple(other)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.response, self.status, self.sense) {
            (0, Status::CheckCondition, Some(sense)) => write!(f, "{sense}")?,
            (0, Status::CheckCondition, None) => {
                f.write_str("CHECK CONDITION without sense data")?
            }
            (0, status, _) => write!(f, "{status}")?,
            (1, _, _) => f.write_str("iSCSI response 0x01 (target failure)")?,
            (response, _, _) => write!(f, "iSCSI response {response:#04x}")?,
        }
        if self.short {
            f.write_str(", short transfer")?;
        }
        Ok(())
    }
}

/// What has happened to the command so far, and what else is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Context {
    /// The command.
    pub command: CommandKind,
    /// Immediate retries already made on this path.
    pub retries: u8,
    /// Unit attentions already taken on this path.
    pub attentions: u8,
    /// Other paths that have already answered it with an error.
    pub elsewhere: u8,
    /// Answers so far over all paths, delayed retries not counted.
    pub answers: u16,
    /// Time spent in delayed retries on this path.
    pub waited_here: Duration,
    /// Time spent in delayed retries on all paths.
    pub waited: Duration,
    /// Another usable path exists.
    pub others: bool,
    /// Another path has already given the same status and sense ([`Outcome::is_same_as`]).
    pub same_elsewhere: bool,
    /// Implicit transition time of the unit (REPORT TARGET PORT GROUPS), or [`TRANSITION_DEFAULT`].
    pub transition: Duration,
}

impl Context {
    /// A first answer.
    #[must_use]
    pub const fn first(command: CommandKind, others: bool) -> Context {
        Context {
            command,
            retries: 0,
            attentions: 0,
            elsewhere: 0,
            answers: 0,
            waited_here: Duration::ZERO,
            waited: Duration::ZERO,
            others,
            same_elsewhere: false,
            transition: TRANSITION_DEFAULT,
        }
    }
}

/// Errors as a block device's user knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// EIO.
    Io,
    /// EINVAL.
    Invalid,
    /// ENOSPC.
    NoSpace,
    /// EPERM.
    ReadOnly,
}

/// Where the command goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is done.
    Done,
    /// Again on this path, at once.
    RetryHere,
    /// Again on this path, after this time.
    RetryHereLater(Duration),
    /// On another path; this one stays as it is, unless [`Actions::STANDBY`] says otherwise. Without
    /// another path it queues.
    RetryElsewhere,
    /// On another path; this one has failed.
    FailPathRetryElsewhere,
    /// It ends with this error; no other path is tried. With [`Actions::FALLBACK`] another form of the
    /// command is tried first.
    GiveToCaller(Failure),
}

/// The answer to an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decision {
    /// Where the command goes.
    pub verdict: Verdict,
    /// What else to do.
    pub actions: Actions,
}

impl Decision {
    const fn new(verdict: Verdict, actions: Actions) -> Decision {
        Decision { verdict, actions }
    }

    const fn with(self, actions: Actions) -> Decision {
        Decision { verdict: self.verdict, actions: self.actions.with(actions) }
    }
}

const DONE: Decision = Decision::new(Verdict::Done, Actions::NONE);
const HERE: Decision = Decision::new(Verdict::RetryHere, Actions::NONE);
const ELSEWHERE: Decision = Decision::new(Verdict::RetryElsewhere, Actions::NONE);
const FAIL: Decision = Decision::new(Verdict::FailPathRetryElsewhere, Actions::NONE);
const IO: Decision = Decision::new(Verdict::GiveToCaller(Failure::Io), Actions::NONE);

const fn later(millis: u64) -> Decision {
    Decision::new(Verdict::RetryHereLater(Duration::from_millis(millis)), Actions::NONE)
}

/// What to do about `outcome`. Total: every status, sense key and code has an answer.
#[must_use]
pub fn verdict(outcome: &Outcome, context: Context) -> Decision {
    let decision = by_answer(outcome, context);
    let moves_on = match decision.verdict {
        Verdict::RetryElsewhere | Verdict::FailPathRetryElsewhere => true,
        Verdict::Done
        | Verdict::RetryHere
        | Verdict::RetryHereLater(_)
        | Verdict::GiveToCaller(_) => false,
    };
    let keeps_on = moves_on || decision.verdict == Verdict::RetryHere;
    let agreed = moves_on && context.same_elsewhere && is_final_on_two_paths(outcome);
    let too_often = keeps_on && context.answers >= ANSWERS_MAX;
    // A repeated compare could miss against its own success.
    let blind =
        keeps_on && context.command == CommandKind::CompareAndWrite && may_have_run(outcome);
    if agreed || too_often || blind {
        return Decision::new(Verdict::GiveToCaller(Failure::Io), decision.actions);
    }
    decision
}

/// Two device servers that say the same of a command are right, unless they only said "not now".
fn is_final_on_two_paths(outcome: &Outcome) -> bool {
    if outcome.response != 0 {
        return false;
    }
    match outcome.status {
        Status::Good | Status::ConditionMet | Status::Unknown(_) => true,
        Status::ReservationConflict | Status::AcaActive => true,
        Status::Busy | Status::TaskSetFull | Status::TaskAborted => false,
        Status::CheckCondition => outcome
            .sense
            .is_none_or(|s| !matches!(s.key, SenseKey::NotReady | SenseKey::UnitAttention)),
    }
}

/// Whether the command may have changed the medium although it did not end well.
fn may_have_run(outcome: &Outcome) -> bool {
    if outcome.response != 0 {
        return true;
    }
    match outcome.status {
        Status::Busy | Status::TaskSetFull | Status::ReservationConflict | Status::AcaActive => {
            false
        }
        Status::Good | Status::ConditionMet | Status::TaskAborted | Status::Unknown(_) => true,
        Status::CheckCondition => outcome.sense.is_none_or(|sense| match sense.key {
            SenseKey::NotReady
            | SenseKey::IllegalRequest
            | SenseKey::UnitAttention
            | SenseKey::DataProtect
            | SenseKey::BlankCheck
            | SenseKey::Miscompare => false,
            SenseKey::NoSense
            | SenseKey::RecoveredError
            | SenseKey::MediumError
            | SenseKey::HardwareError
            | SenseKey::VendorSpecific
            | SenseKey::CopyAborted
            | SenseKey::AbortedCommand
            | SenseKey::Reserved
            | SenseKey::VolumeOverflow
            | SenseKey::Completed => !sense.deferred,
        }),
    }
}

fn by_answer(outcome: &Outcome, c: Context) -> Decision {
    match outcome.response {
        0 => {}
        // Target failure and vendor codes: the command, not the session, has failed.
        0x01 | 0x80..=0xff => return bounded(c, RETRIES_FEW, FAIL),
        _ => return FAIL.with(Actions::END_SESSION),
    }
    match outcome.status {
        Status::Good => whole(outcome, c),
        Status::CheckCondition => match &outcome.sense {
            Some(sense) => by_sense(outcome, sense, c),
            None => bounded_here(c, RETRIES_FEW, FAIL),
        },
        // None of our commands tests a condition.
        Status::ConditionMet | Status::Unknown(_) => FAIL.with(Actions::END_SESSION),
        Status::Busy | Status::TaskSetFull => busy(c).with(Actions::QUEUE_FULL),
        Status::ReservationConflict => match c.command {
            CommandKind::TestUnitReady => DONE,
            CommandKind::Read
            | CommandKind::Write
            | CommandKind::Flush
            | CommandKind::Unmap
            | CommandKind::WriteSame
            | CommandKind::CompareAndWrite
            | CommandKind::LbaStatus
            | CommandKind::Probe => IO.with(Actions::REREG),
        },
        Status::AcaActive if c.retries == 0 && c.waited_here.is_zero() => later(100),
        Status::AcaActive => FAIL,
        // Repeating it with the same data is harmless.
        Status::TaskAborted => bounded_or_io(c, RETRIES_MAX),
    }
}

/// Done if everything moved; a short block transfer is never taken for a whole one.
fn whole(outcome: &Outcome, c: Context) -> Decision {
    if outcome.short && c.command.must_be_whole() {
        return bounded_or_io(c, RETRIES_FEW);
    }
    DONE
}

/// Here up to `max` times, then elsewhere, and on the last path to the caller.
fn bounded_or_io(c: Context, max: u8) -> Decision {
    if c.retries < max {
        HERE
    } else if c.others && c.elsewhere == 0 {
        ELSEWHERE
    } else {
        IO
    }
}

/// Elsewhere at once where there is another path; else here up to `max` times, then `last`.
fn bounded(c: Context, max: u8, last: Decision) -> Decision {
    if c.others {
        ELSEWHERE
    } else if c.retries < max {
        HERE
    } else {
        last
    }
}

/// Here up to `max` times, then `last`.
fn bounded_here(c: Context, max: u8, last: Decision) -> Decision {
    if c.retries < max { HERE } else { last }
}

/// BUSY and TASK SET FULL: the command was not executed, and the path is fine.
fn busy(c: Context) -> Decision {
    if c.waited >= WAIT_MAX {
        return IO;
    }
    if c.others && c.waited_here >= BUSY_HERE_MAX {
        return ELSEWHERE;
    }
    // A tenth of what was waited: 5 ms at first, a second in the end.
    let step = c.waited_here.as_millis() / 10;
    later(u64::try_from(step).unwrap_or(1000).clamp(5, 1000))
}

/// NOT READY that may pass: elsewhere where there is another path, which needs no waiting; else wait, and
/// after `max` take `last`.
fn not_ready(c: Context, step: u64, max: Duration, last: Decision) -> Decision {
    if c.others && c.command != CommandKind::TestUnitReady && c.command != CommandKind::Probe {
        return ELSEWHERE.with(Actions::STANDBY);
    }
    if c.waited_here < max { later(step) } else { last }
}

fn by_sense(outcome: &Outcome, sense: &Sense, c: Context) -> Decision {
    if sense.deferred {
        return deferred(sense, c);
    }
    let (asc, ascq) = (sense.asc, sense.ascq);
    match sense.key {
        SenseKey::NoSense => whole(outcome, c),
        SenseKey::RecoveredError => match asc {
            0x0b | 0x5d => whole(outcome, c).with(Actions::ALARM),
            _ => whole(outcome, c),
        },
        SenseKey::NotReady => by_not_ready(asc, ascq, c),
        SenseKey::MediumError => by_medium_error(asc, c),
        SenseKey::HardwareError => by_hardware_error(asc, ascq, c),
        SenseKey::IllegalRequest => by_illegal_request(asc, ascq, c),
        SenseKey::UnitAttention => attention(c).with(attention_actions(asc, ascq)),
        SenseKey::DataProtect => by_data_protect(asc, ascq, c),
        SenseKey::AbortedCommand => by_aborted(asc, ascq, c),
        SenseKey::VolumeOverflow if c.command.writes() => {
            Decision::new(Verdict::GiveToCaller(Failure::NoSpace), Actions::NONE)
        }
        SenseKey::BlankCheck
        | SenseKey::CopyAborted
        | SenseKey::VolumeOverflow
        | SenseKey::Miscompare => IO,
        SenseKey::VendorSpecific | SenseKey::Reserved | SenseKey::Completed => {
            IO.with(Actions::ALARM)
        }
    }
}

/// About an earlier command; this one was not executed. What was lost comes out at the next flush, which
/// may be this command: the caller of [`verdict`] keeps [`Actions::EARLIER_LOST`] until a flush has ended.
fn deferred(sense: &Sense, c: Context) -> Decision {
    let lost = match sense.key {
        SenseKey::NoSense | SenseKey::RecoveredError => Actions::NONE,
        SenseKey::NotReady
        | SenseKey::MediumError
        | SenseKey::HardwareError
        | SenseKey::IllegalRequest
        | SenseKey::UnitAttention
        | SenseKey::DataProtect
        | SenseKey::BlankCheck
        | SenseKey::VendorSpecific
        | SenseKey::CopyAborted
        | SenseKey::AbortedCommand
        | SenseKey::Reserved
        | SenseKey::VolumeOverflow
        | SenseKey::Miscompare
        | SenseKey::Completed => Actions::EARLIER_LOST.with(Actions::ALARM),
    };
    bounded_or_io(c, RETRIES_MAX).with(lost)
}

fn by_not_ready(asc: u8, ascq: u8, c: Context) -> Decision {
    match (asc, ascq) {
        // Format, rebuild, self-test and other work of the device: the caller is told in the end.
        (0x04, 0x04..=0x09 | 0x11 | 0x14 | 0x1a | 0x1b | 0x1d) => {
            not_ready(c, 500, NOT_READY_MAX, IO)
        }
        (0x04, 0x0a) => not_ready_in_transition(c),
        (0x04, 0x0b | 0x0c) => ELSEWHERE.with(Actions::STANDBY.with(Actions::RTPG)),
        (0x04, 0x02) => FAIL,
        (0x04, 0x12) => FAIL.with(Actions::RTPG),
        (0x04, 0x03 | 0x20 | 0x21 | 0x22) => FAIL.with(Actions::ALARM),
        // Depopulation takes hours.
        (0x04, 0x24 | 0x25) => IO.with(Actions::ALARM),
        (0x08, _) => bounded(c, RETRIES_FEW, FAIL),
        (0x3a, _) => IO,
        // Becoming ready, not self-configured, unknown causes.
        _ => not_ready(c, 500, NOT_READY_MAX, FAIL),
    }
}

fn not_ready_in_transition(c: Context) -> Decision {
    not_ready(c, 1000, c.transition, FAIL).with(Actions::RTPG)
}

fn by_medium_error(asc: u8, c: Context) -> Decision {
    if c.command == CommandKind::Flush {
        return IO.with(Actions::ALARM);
    }
    match asc {
        0x11 | 0x13 | 0x14 | 0x31 => IO,
        0x3e => not_ready(c, 500, NOT_READY_MAX, FAIL),
        _ => bounded_here(c, RETRIES_FEW, IO),
    }
}

fn by_hardware_error(asc: u8, ascq: u8, c: Context) -> Decision {
    if c.command == CommandKind::Flush {
        return IO.with(Actions::ALARM);
    }
    let once_elsewhere = if c.others && c.elsewhere == 0 { ELSEWHERE } else { IO };
    match (asc, ascq) {
        (0x67, 0x0a) => once_elsewhere.with(Actions::RTPG),
        _ => once_elsewhere,
    }
}

fn by_illegal_request(asc: u8, ascq: u8, c: Context) -> Decision {
    match (asc, ascq) {
        (0x20, 0x02 | 0x0b) => FAIL.with(Actions::RELUN.with(Actions::ALARM)),
        (0x20 | 0x24 | 0x26, 0x00) => IO.with(Actions::FALLBACK),
        (0x21, _) => {
            let failure = if c.command.writes() { Failure::NoSpace } else { Failure::Invalid };
            Decision::new(Verdict::GiveToCaller(failure), Actions::RECAP)
        }
        (0x25, _) => FAIL.with(Actions::RELUN.with(Actions::LUN_GONE)),
        (0x26, 0x04) | (0x55, _) => IO.with(Actions::REREG),
        _ => IO,
    }
}

fn by_data_protect(asc: u8, ascq: u8, c: Context) -> Decision {
    let protected = if c.command.writes() { Failure::ReadOnly } else { Failure::Io };
    match (asc, ascq) {
        (0x27, 0x07) => {
            let failure = if c.command.writes() { Failure::NoSpace } else { Failure::Io };
            Decision::new(Verdict::GiveToCaller(failure), Actions::ALARM)
        }
        (0x27, _) => {
            let actions = Actions::READ_ONLY.with(Actions::REMODE);
            Decision::new(Verdict::GiveToCaller(protected), actions)
        }
        (0x44, 0x01) => IO.with(Actions::ALARM.with(Actions::REREG)),
        _ => Decision::new(Verdict::GiveToCaller(protected), Actions::NONE),
    }
}

fn by_aborted(asc: u8, ascq: u8, c: Context) -> Decision {
    match (asc, ascq) {
        (0x08, _) => bounded(c, RETRIES_FEW, FAIL),
        // Our unsolicited data was not what the target expects: once more without any.
        (0x0c, 0x0c | 0x0d) if c.retries == 0 => {
            HERE.with(Actions::NO_UNSOLICITED.with(Actions::ALARM))
        }
        (0x0c, 0x0c | 0x0d) => FAIL.with(Actions::ALARM),
        (0x10, _) => IO,
        (0x2e, _) => bounded_or_io(c, 1),
        (0x47, 0x05) => bounded_or_io(c, RETRIES_MAX).with(Actions::DIGEST),
        (0x4b, _) => bounded_here(c, RETRIES_FEW, FAIL.with(Actions::END_SESSION)),
        // Two commands with one tag: every command of the nexus is gone.
        (0x4e, _) => FAIL.with(Actions::END_SESSION.with(Actions::ALARM)),
        _ => bounded_or_io(c, RETRIES_MAX),
    }
}

/// The command was not executed; repeating it costs nothing but time.
fn attention(c: Context) -> Decision {
    if c.attentions < ATTENTIONS_MAX {
        HERE
    } else if c.others {
        ELSEWHERE
    } else if c.waited < NOT_READY_MAX {
        later(100)
    } else {
        IO
    }
}

/// What a unit attention asks for (SPC-4, Unit attention condition).
fn attention_actions(asc: u8, ascq: u8) -> Actions {
    let identity = Actions::REINQ.with(Actions::HOLD);
    let reset = identity.with(Actions::REMODE).with(Actions::CLEARED);
    match (asc, ascq) {
        (0x0b | 0x5d, _) | (0x38, 0x07) => Actions::ALARM,
        (0x28, _) => identity.with(Actions::RECAP).with(Actions::REMODE),
        // Power on and resets whose kind is not told; an internal reset can lose a cache as well.
        (0x29, 0x00 | 0x01 | 0x04) => {
            reset.with(Actions::RTPG).with(Actions::REREG).with(Actions::CACHE_LOST)
        }
        (0x29, 0x02 | 0x03) => reset.with(Actions::RTPG).with(Actions::REREG),
        (0x29, _) => reset,
        (0x2a, 0x00) => Actions::REMODE.with(Actions::RECAP),
        (0x2a, 0x01) => Actions::REMODE,
        (0x2a, 0x03..=0x05) => Actions::REREG.with(Actions::ALARM),
        (0x2a, 0x06 | 0x07) => Actions::RTPG,
        (0x2a, 0x09) => Actions::RECAP,
        (0x2f, _) | (0x47, 0x7f) => Actions::CLEARED,
        (0x3f, 0x00 | 0x01) => Actions::REINQ.with(Actions::REMODE).with(Actions::RECAP),
        (0x3f, 0x03 | 0x05) => identity,
        (0x3f, 0x0e) => identity.with(Actions::RELUN).with(Actions::REDISCOVER),
        (0x3f, 0x12..=0x14) => Actions::REDISCOVER,
        _ => Actions::NONE,
    }
}

#[cfg(test)]
mod tests;
