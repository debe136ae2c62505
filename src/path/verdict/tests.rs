//! Every row of the verdict table, and what must hold for every possible answer.

use super::*;

const KINDS: [CommandKind; 9] = CommandKind::ALL;

fn alone(command: CommandKind) -> Context {
    Context::first(command, false)
}

fn among(command: CommandKind) -> Context {
    Context::first(command, true)
}

fn check(key: SenseKey, asc: u8, ascq: u8) -> Outcome {
    Outcome::check(Sense::new(key, asc, ascq))
}

fn status(status: Status) -> Outcome {
    Outcome { status, ..Outcome::GOOD }
}

const LATER: Verdict = Verdict::RetryHereLater(Duration::from_millis(500));
const LATER_1S: Verdict = Verdict::RetryHereLater(Duration::from_secs(1));
const CALLER_IO: Verdict = Verdict::GiveToCaller(Failure::Io);
const FAIL_PATH: Verdict = Verdict::FailPathRetryElsewhere;

/// Key, ASC, codes of ASCQ; a WRITE's first answer with another path, and on the last path; actions that
/// must be in it on the last path.
type Row = (SenseKey, u8, &'static [u8], Verdict, Verdict, Actions);

use Actions as A;
use SenseKey as K;
use Verdict::{RetryElsewhere as ELSE, RetryHere as HERE_};

const NOT_READY_ROWS: &[Row] = &[
    (K::NotReady, 0x04, &[0x00, 0x01, 0x99], ELSE, LATER, A::NONE),
    (K::NotReady, 0x04, &[4, 5, 6, 7, 8, 9, 0x11, 0x14, 0x1a, 0x1b, 0x1d], ELSE, LATER, A::NONE),
    (K::NotReady, 0x04, &[0x02], FAIL_PATH, FAIL_PATH, A::NONE),
    (K::NotReady, 0x04, &[0x03, 0x20, 0x21, 0x22], FAIL_PATH, FAIL_PATH, A::ALARM),
    (K::NotReady, 0x04, &[0x0a], ELSE, LATER_1S, A::RTPG),
    (K::NotReady, 0x04, &[0x0b, 0x0c], ELSE, ELSE, A(A::STANDBY.0 | A::RTPG.0)),
    (K::NotReady, 0x04, &[0x12], FAIL_PATH, FAIL_PATH, A::RTPG),
    (K::NotReady, 0x04, &[0x24, 0x25], CALLER_IO, CALLER_IO, A::NONE),
    (K::NotReady, 0x3a, &[0, 1, 2], CALLER_IO, CALLER_IO, A::NONE),
    (K::NotReady, 0x3e, &[0], ELSE, LATER, A::NONE),
    (K::NotReady, 0x08, &[0, 1, 2], ELSE, HERE_, A::NONE),
];

const ERROR_ROWS: &[Row] = &[
    (K::MediumError, 0x11, &[0, 1, 4, 0x14], CALLER_IO, CALLER_IO, A::NONE),
    (K::MediumError, 0x13, &[0], CALLER_IO, CALLER_IO, A::NONE),
    (K::MediumError, 0x14, &[0, 1], CALLER_IO, CALLER_IO, A::NONE),
    (K::MediumError, 0x31, &[0, 1], CALLER_IO, CALLER_IO, A::NONE),
    (K::MediumError, 0x0c, &[0, 2, 3], HERE_, HERE_, A::NONE),
    (K::MediumError, 0x3e, &[1], ELSE, LATER, A::NONE),
    (K::HardwareError, 0x44, &[0], ELSE, CALLER_IO, A::NONE),
    (K::HardwareError, 0x67, &[0x0a], ELSE, CALLER_IO, A::RTPG),
    (K::HardwareError, 0x99, &[0], ELSE, CALLER_IO, A::NONE),
    (K::BlankCheck, 0, &[0], CALLER_IO, CALLER_IO, A::NONE),
    (K::CopyAborted, 0, &[0], CALLER_IO, CALLER_IO, A::NONE),
    (K::Miscompare, 0x1d, &[0], CALLER_IO, CALLER_IO, A::NONE),
    (K::VendorSpecific, 0x80, &[1], CALLER_IO, CALLER_IO, A::ALARM),
    (K::Reserved, 0, &[0], CALLER_IO, CALLER_IO, A::ALARM),
    (K::Completed, 0, &[0], CALLER_IO, CALLER_IO, A::ALARM),
];

const LUNS_CHANGED: A = A(A::RELUN.0 | A::REINQ.0 | A::HOLD.0 | A::REDISCOVER.0);
const NO_SPACE: Verdict = Verdict::GiveToCaller(Failure::NoSpace);
const READ_ONLY: Verdict = Verdict::GiveToCaller(Failure::ReadOnly);

const REQUEST_ROWS: &[Row] = &[
    (K::IllegalRequest, 0x20, &[0], CALLER_IO, CALLER_IO, A::FALLBACK),
    (K::IllegalRequest, 0x24, &[0], CALLER_IO, CALLER_IO, A::FALLBACK),
    (K::IllegalRequest, 0x26, &[0], CALLER_IO, CALLER_IO, A::FALLBACK),
    (K::IllegalRequest, 0x20, &[2, 0x0b], FAIL_PATH, FAIL_PATH, A(A::RELUN.0 | A::ALARM.0)),
    (K::IllegalRequest, 0x21, &[0], NO_SPACE, NO_SPACE, A::RECAP),
    (K::IllegalRequest, 0x25, &[0], FAIL_PATH, FAIL_PATH, A(A::RELUN.0 | A::LUN_GONE.0)),
    (K::IllegalRequest, 0x26, &[4], CALLER_IO, CALLER_IO, A::REREG),
    (K::IllegalRequest, 0x55, &[3, 4], CALLER_IO, CALLER_IO, A::REREG),
    (K::IllegalRequest, 0x99, &[0], CALLER_IO, CALLER_IO, A::NONE),
    (K::DataProtect, 0x27, &[0, 1, 2, 3, 4, 5, 6], READ_ONLY, READ_ONLY, A::READ_ONLY),
    (K::DataProtect, 0x27, &[7], NO_SPACE, NO_SPACE, A::ALARM),
    (K::DataProtect, 0x44, &[1], CALLER_IO, CALLER_IO, A::ALARM),
    (K::DataProtect, 0x99, &[0], READ_ONLY, READ_ONLY, A::NONE),
    (K::VolumeOverflow, 0, &[0], NO_SPACE, NO_SPACE, A::NONE),
    (K::AbortedCommand, 0x0c, &[0x0c, 0x0d], HERE_, HERE_, A::NO_UNSOLICITED),
    (K::AbortedCommand, 0x10, &[1, 2, 3], CALLER_IO, CALLER_IO, A::NONE),
    (K::AbortedCommand, 0x11, &[0x13], HERE_, HERE_, A::NONE),
    (K::AbortedCommand, 0x2e, &[1, 2], HERE_, HERE_, A::NONE),
    (K::AbortedCommand, 0x44, &[0], HERE_, HERE_, A::NONE),
    (K::AbortedCommand, 0x47, &[5], HERE_, HERE_, A::DIGEST),
    (K::AbortedCommand, 0x4b, &[0, 1, 2, 3, 4, 5, 6, 7], HERE_, HERE_, A::NONE),
    (K::AbortedCommand, 0x4e, &[0], FAIL_PATH, FAIL_PATH, A::END_SESSION),
    (K::AbortedCommand, 0x08, &[0, 1], ELSE, HERE_, A::NONE),
    (K::AbortedCommand, 0x99, &[0], HERE_, HERE_, A::NONE),
];

const RESET: Actions =
    A(A::REINQ.0 | A::HOLD.0 | A::REMODE.0 | A::RTPG.0 | A::REREG.0 | A::CLEARED.0);

const ATTENTION_ROWS: &[Row] = &[
    (
        K::UnitAttention,
        0x28,
        &[0],
        HERE_,
        HERE_,
        A(A::REINQ.0 | A::RECAP.0 | A::REMODE.0 | A::HOLD.0),
    ),
    (K::UnitAttention, 0x29, &[0, 1, 4], HERE_, HERE_, A(RESET.0 | A::CACHE_LOST.0)),
    (K::UnitAttention, 0x29, &[2, 3], HERE_, HERE_, RESET),
    (K::UnitAttention, 0x29, &[7], HERE_, HERE_, A(A::REMODE.0 | A::REINQ.0 | A::HOLD.0)),
    (K::UnitAttention, 0x2a, &[0], HERE_, HERE_, A(A::REMODE.0 | A::RECAP.0)),
    (K::UnitAttention, 0x2a, &[1], HERE_, HERE_, A::REMODE),
    (K::UnitAttention, 0x2a, &[2, 8], HERE_, HERE_, A::NONE),
    (K::UnitAttention, 0x2a, &[3, 4, 5], HERE_, HERE_, A::REREG),
    (K::UnitAttention, 0x2a, &[6, 7], HERE_, HERE_, A::RTPG),
    (K::UnitAttention, 0x2a, &[9], HERE_, HERE_, A::RECAP),
    (K::UnitAttention, 0x2f, &[0, 1, 2, 3], HERE_, HERE_, A::CLEARED),
    (K::UnitAttention, 0x38, &[7], HERE_, HERE_, A::ALARM),
    (K::UnitAttention, 0x3f, &[0, 1], HERE_, HERE_, A(A::REINQ.0 | A::REMODE.0 | A::RECAP.0)),
    (K::UnitAttention, 0x3f, &[3, 5], HERE_, HERE_, A(A::REINQ.0 | A::HOLD.0)),
    (K::UnitAttention, 0x3f, &[0x0e], HERE_, HERE_, LUNS_CHANGED),
    (K::UnitAttention, 0x3f, &[0x12, 0x13, 0x14], HERE_, HERE_, A::REDISCOVER),
    (K::UnitAttention, 0x47, &[0x7f], HERE_, HERE_, A::CLEARED),
    (K::UnitAttention, 0x5d, &[0, 0x10], HERE_, HERE_, A::ALARM),
    (K::RecoveredError, 0x0b, &[0, 1], Verdict::Done, Verdict::Done, A::ALARM),
    (K::RecoveredError, 0x17, &[0], Verdict::Done, Verdict::Done, A::NONE),
    (K::NoSense, 0, &[0], Verdict::Done, Verdict::Done, A::NONE),
];

/// SPC-4, Sense key and ASC/ASCQ: the first answer to a WRITE, row by row.
#[test]
fn sense_rows() {
    let rows = NOT_READY_ROWS.iter().chain(ERROR_ROWS).chain(REQUEST_ROWS).chain(ATTENTION_ROWS);
    for (key, asc, ascqs, with_others, on_the_last, actions) in rows {
        for ascq in *ascqs {
            let outcome = check(*key, *asc, *ascq);
            let among = verdict(&outcome, among(CommandKind::Write));
            assert_eq!(among.verdict, *with_others, "{outcome} with another path");
            let alone = verdict(&outcome, alone(CommandKind::Write));
            assert_eq!(alone.verdict, *on_the_last, "{outcome} on the last path");
            assert!(alone.actions.contains(*actions), "{outcome}: {:?}", alone.actions);
        }
    }
}

/// SAM-5, Status codes.
#[test]
fn statuses() {
    let write = among(CommandKind::Write);
    let of = |s| verdict(&status(s), write);
    assert_eq!(of(Status::Good), Decision::new(Verdict::Done, Actions::NONE));
    let soon = Verdict::RetryHereLater(Duration::from_millis(5));
    assert_eq!(of(Status::Busy), Decision::new(soon, Actions::QUEUE_FULL));
    assert_eq!(of(Status::TaskSetFull), Decision::new(soon, Actions::QUEUE_FULL));
    assert_eq!(of(Status::ReservationConflict), Decision::new(CALLER_IO, Actions::REREG));
    assert_eq!(of(Status::TaskAborted).verdict, HERE_);
    assert_eq!(of(Status::AcaActive).verdict, Verdict::RetryHereLater(Duration::from_millis(100)));
    for odd in [Status::ConditionMet, Status::Unknown(0x10), Status::Unknown(0xff)] {
        assert_eq!(of(odd), Decision::new(FAIL_PATH, Actions::END_SESSION));
    }
    let no_sense = Outcome { sense: None, ..status(Status::CheckCondition) };
    assert_eq!(verdict(&no_sense, write).verdict, HERE_);
    let tried = Context { retries: RETRIES_FEW, ..write };
    assert_eq!(verdict(&no_sense, tried).verdict, FAIL_PATH);
}

/// SPC-4 REPORT CAPABILITIES: a reservation conflict on TEST UNIT READY shows a working path.
#[test]
fn a_reserved_unit_is_up() {
    let outcome = status(Status::ReservationConflict);
    assert_eq!(verdict(&outcome, alone(CommandKind::TestUnitReady)).verdict, Verdict::Done);
}

/// RFC 7143 11.4.3: a response other than 0 voids the status, GOOD included.
#[test]
fn responses() {
    for response in 1..=u8::MAX {
        let outcome = Outcome { response, ..Outcome::GOOD };
        for kind in KINDS {
            let decision = verdict(&outcome, among(kind));
            let reserved = (0x02..0x80).contains(&response);
            let expected = match kind {
                CommandKind::CompareAndWrite => CALLER_IO,
                _ if reserved => FAIL_PATH,
                _ => ELSE,
            };
            assert_eq!(decision.verdict, expected);
            assert_eq!(decision.actions.contains(Actions::END_SESSION), reserved);
        }
    }
}

/// RFC 7143 11.4.5.2: a short block transfer is never taken for a whole one.
#[test]
fn short_transfers() {
    let short = Outcome { short: true, ..Outcome::GOOD };
    assert_eq!(verdict(&short, alone(CommandKind::Read)).verdict, HERE_);
    assert_eq!(verdict(&short, alone(CommandKind::Write)).verdict, HERE_);
    assert_eq!(verdict(&short, alone(CommandKind::Probe)).verdict, Verdict::Done);
    assert_eq!(verdict(&short, alone(CommandKind::LbaStatus)).verdict, Verdict::Done);
    for key in [K::NoSense, K::RecoveredError] {
        let short = Outcome { short: true, ..check(key, 0, 0) };
        assert_eq!(verdict(&short, alone(CommandKind::Read)).verdict, HERE_);
    }
}

/// SBC-3 SYNCHRONIZE CACHE: a repeat after a medium or hardware error would hide the loss.
#[test]
fn a_flush_is_not_repeated_after_a_loss() {
    for (key, asc) in [(K::MediumError, 0x0c), (K::HardwareError, 0x44)] {
        for ascq in 0..=u8::MAX {
            let decision = verdict(&check(key, asc, ascq), among(CommandKind::Flush));
            assert_eq!(decision.verdict, CALLER_IO);
        }
    }
    let refused = verdict(&check(K::IllegalRequest, 0x20, 0), among(CommandKind::Flush));
    assert_eq!(refused, Decision::new(CALLER_IO, Actions::FALLBACK));
}

/// SPC-4, Deferred errors: the command is repeated, the earlier loss remembered.
#[test]
fn deferred_errors() {
    for key in SenseKey::ALL {
        let sense = Sense { deferred: true, ..Sense::new(key, 0x0c, 0) };
        let decision = verdict(&Outcome::check(sense), alone(CommandKind::Write));
        assert_eq!(decision.verdict, HERE_);
        let harmless = matches!(key, K::NoSense | K::RecoveredError);
        assert_eq!(decision.actions.contains(Actions::EARLIER_LOST), !harmless);
    }
}

/// A command that gets the same verdict on two paths goes to the caller; "not now" is no verdict.
#[test]
fn two_paths_that_agree() {
    let twice = Context { same_elsewhere: true, ..among(CommandKind::Write) };
    let gone = verdict(&check(K::IllegalRequest, 0x25, 0), twice);
    assert_eq!(gone.verdict, CALLER_IO);
    assert!(gone.actions.contains(Actions::LUN_GONE));
    assert_eq!(verdict(&check(K::NotReady, 0x04, 0x0b), twice).verdict, ELSE);
    let busy = Context { waited_here: BUSY_HERE_MAX, ..twice };
    assert_eq!(verdict(&status(Status::Busy), busy).verdict, ELSE);
    let (a, b) = (check(K::HardwareError, 0x44, 0), check(K::HardwareError, 0x44, 1));
    assert!(a.is_same_as(&a) && !a.is_same_as(&b) && !a.is_same_as(&Outcome::GOOD));
}

fn for_every_answer(mut f: impl FnMut(&Outcome, &Sense)) {
    for key in SenseKey::ALL {
        for code in 0..=u16::MAX {
            let [asc, ascq] = code.to_be_bytes();
            let outcome = check(key, asc, ascq);
            let sense = outcome.sense.expect("made with sense");
            f(&outcome, &sense);
        }
    }
}

/// Exhaustive: every key with every ASC and ASCQ, for every command, with and without another path.
#[test]
fn what_holds_for_every_answer() {
    for_every_answer(|outcome, sense| {
        for kind in KINDS {
            for others in [false, true] {
                let decision = verdict(outcome, Context::first(kind, others));
                hold(decision, sense, kind, others);
            }
        }
    });
}

fn hold(decision: Decision, sense: &Sense, kind: CommandKind, others: bool) {
    let Decision { verdict, actions } = decision;
    let at = || format!("{sense} on {kind:?}, others {others}: {decision:?}");
    let succeeds = matches!(sense.key, K::NoSense | K::RecoveredError);
    assert_eq!(verdict == Verdict::Done, succeeds, "{}", at());
    match sense.key {
        K::UnitAttention => assert_eq!(verdict, HERE_, "{}", at()),
        K::DataProtect => assert!(matches!(verdict, Verdict::GiveToCaller(_)), "{}", at()),
        K::MediumError => assert_ne!(verdict, FAIL_PATH, "{}", at()),
        _ => {}
    }
    if !others && verdict == ELSE {
        assert!(actions.contains(Actions::STANDBY), "{}", at());
    }
    if matches!(verdict, Verdict::GiveToCaller(Failure::ReadOnly | Failure::NoSpace)) {
        assert!(kind.writes(), "{}", at());
    }
    let repeats = matches!(verdict, Verdict::RetryHere | ELSE | FAIL_PATH);
    let may_have_run =
        matches!(sense.key, K::HardwareError | K::MediumError | K::AbortedCommand | K::Miscompare);
    if kind == CommandKind::CompareAndWrite && may_have_run {
        assert!(!repeats, "{}", at());
    }
    // Whatever questions the identity holds writes back until it is known again (and so do resets).
    let questions = matches!(
        (sense.key, sense.asc, sense.ascq),
        (K::UnitAttention, 0x28 | 0x29, _) | (K::UnitAttention, 0x3f, 0x03 | 0x05 | 0x0e)
    );
    assert_eq!(actions.contains(Actions::HOLD), questions, "{}", at());
}

/// One command on `paths` paths that all give the same answer for ever: how it ends.
fn run(outcome: &Outcome, kind: CommandKind, paths: u8) -> Option<Failure> {
    let mut usable = paths;
    let mut c = Context::first(kind, paths > 1);
    for _ in 0..5000 {
        let decision = verdict(outcome, c);
        match decision.verdict {
            Verdict::Done => return None,
            Verdict::GiveToCaller(failure) => return Some(failure),
            Verdict::RetryHere => {
                c.answers += 1;
                c.retries = c.retries.saturating_add(1);
                c.attentions = c.attentions.saturating_add(1);
            }
            Verdict::RetryHereLater(delay) => {
                assert!(!delay.is_zero());
                c.waited_here += delay;
                c.waited += delay;
            }
            Verdict::RetryElsewhere | Verdict::FailPathRetryElsewhere => {
                c.answers += 1;
                let out =
                    decision.verdict == FAIL_PATH || decision.actions.contains(Actions::STANDBY);
                usable -= u8::from(out);
                if usable == 0 {
                    return Some(Failure::Io); // queues for no_path_timeout
                }
                c = Context {
                    elsewhere: c.elsewhere.saturating_add(1),
                    same_elsewhere: true,
                    others: usable > 1,
                    retries: 0,
                    attentions: 0,
                    waited_here: Duration::ZERO,
                    ..c
                };
            }
        }
    }
    panic!("{outcome} on {kind:?} with {paths} paths never ends");
}

/// Every status and every sense ends a command in finite time, however many paths repeat it.
#[test]
fn every_command_ends() {
    for byte in 0..=u8::MAX {
        for (response, kind) in KINDS.into_iter().flat_map(|k| [(0, k), (1, k), (5, k), (0x80, k)])
        {
            for paths in 1..=3 {
                let outcome = Outcome { response, ..status(Status::from_byte(byte)) };
                run(&outcome, kind, paths);
                run(&Outcome { short: true, ..outcome }, kind, paths);
            }
        }
    }
    let ascqs = || (0..=0x26).chain([0x7f, 0x80]);
    for (key, asc) in SenseKey::ALL.into_iter().flat_map(|k| (0..=0x80).map(move |asc| (k, asc))) {
        for ascq in ascqs() {
            for kind in [CommandKind::Write, CommandKind::Flush] {
                run(&check(key, asc, ascq), kind, 1);
                run(&check(key, asc, ascq), kind, 2);
            }
        }
    }
}

/// SBC-3, COMPARE AND WRITE: repeated only when it was certainly not executed.
#[test]
fn a_compare_is_not_repeated_blindly() {
    let compare = among(CommandKind::CompareAndWrite);
    let short = Outcome { short: true, ..Outcome::GOOD };
    let no_sense = Outcome { sense: None, ..status(Status::CheckCondition) };
    for outcome in [short, no_sense, status(Status::TaskAborted), status(Status::Unknown(0x22))] {
        assert_eq!(verdict(&outcome, compare).verdict, CALLER_IO, "{outcome}");
    }
    assert_eq!(verdict(&check(K::UnitAttention, 0x29, 0), compare).verdict, HERE_);
    assert_eq!(verdict(&check(K::Miscompare, 0x1d, 0), compare).verdict, CALLER_IO);
}

/// SAM-5, BUSY: another path after a second, an error only after a minute, never a hot loop.
#[test]
fn busy_for_ever() {
    let busy = status(Status::Busy);
    let long = Context { waited_here: BUSY_HERE_MAX, ..among(CommandKind::Read) };
    assert_eq!(verdict(&busy, long).verdict, ELSE);
    let last = Context { waited_here: Duration::from_secs(30), ..alone(CommandKind::Read) };
    assert_eq!(verdict(&busy, last).verdict, LATER_1S);
    let end = Context { waited: WAIT_MAX, ..last };
    assert_eq!(verdict(&busy, end).verdict, CALLER_IO);
}

/// SPC-4, Transitions: waited out for the implicit transition time on the last path.
#[test]
fn transitions() {
    let outcome = check(K::NotReady, 0x04, 0x0a);
    let c = Context { transition: Duration::from_secs(5), ..alone(CommandKind::Write) };
    assert_eq!(verdict(&outcome, c).verdict, LATER_1S);
    let over = Context { waited_here: Duration::from_secs(5), ..c };
    assert_eq!(verdict(&outcome, over).verdict, FAIL_PATH);
}

/// What administrators read.
#[test]
fn outcomes_in_words() {
    let text = |outcome: Outcome| outcome.to_string();
    let gone = "ILLEGAL REQUEST (05/25/00, logical unit not supported)";
    assert_eq!(text(check(K::IllegalRequest, 0x25, 0)), gone);
    assert_eq!(text(status(Status::Busy)), "BUSY");
    assert_eq!(text(Outcome { short: true, ..Outcome::GOOD }), "GOOD, short transfer");
    assert_eq!(text(Outcome::new(1, 0, None, false)), "iSCSI response 0x01 (target failure)");
    let unreadable = Outcome::new(0, 2, Some(&[0x00, 0x01]), false);
    assert_eq!(text(unreadable), "CHECK CONDITION without sense data");
    assert_eq!(format!("{:?}", Actions::REINQ | Actions::HOLD), "REINQ|HOLD");
    assert_eq!(format!("{:?}", Actions::default()), "NONE");
}
