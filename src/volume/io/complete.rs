//! What happens when a command comes back, or does not: the verdict's side of the life of a part.

use crate::base::table::Key;
use crate::base::{Duration, Instant, Payload};
use crate::path::planted::{Bug, planted};
use crate::path::verdict::{
    self, Actions, CommandKind, Context, Decision, Failure, Outcome, TRANSITION_DEFAULT, Verdict,
};
use crate::path::{Ended, PathIndex, PathSet};
use crate::session::{Completion, Residual};
use crate::volume::request::{self, Flight, PartId, PartVerb, Verb};
use crate::volume::shared::Optional;
use crate::volume::{
    Level, Volume, abandon, alua, content, fencing, flush, health, link, probing, rediscovery,
};
use crate::wire::nbd::NbdError;
use crate::wire::scsi::{SenseKey, Status};

/// A session answered a command.
pub(in crate::volume) fn done(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    token: u64,
    completion: Completion,
) {
    if let Some(straggler) = abandon::key(token) {
        return abandon::done(v, now, straggler, completion);
    }
    let id = Key::from_token(token);
    let Some((verb, bytes, flight)) = land(v, id, path) else { return };
    let short = is_short(verb, bytes, &completion);
    let Completion { response, status, sense, data, .. } = completion;
    let outcome = Outcome::new(response, status, sense.as_deref(), short);
    let good = outcome == Outcome::GOOD;
    let ended = if good { Ended::Good } else { Ended::Error };
    v.engine.finished(now, path, verb.op(), bytes, flight.started, ended);
    health::answered(v, now, path, verb.op(), flight.started);
    if good {
        carried_out(v, now, path);
        flush::session_answered(v, path, flight.started);
        good_answer(v, now, id, path, verb, data);
    } else {
        judge(v, now, id, path, outcome, data);
    }
}

/// The target had room for a command.
fn carried_out(v: &mut Volume, now: Instant, path: PathIndex) {
    if v.links[path.get()].depth.carried_out(now) {
        let why = "the target takes the whole queue depth again";
        v.notice(now, Level::Info, Some(path), "queue depth", why);
    }
}

/// The target had no room for one more command.
fn queue_full(v: &mut Volume, now: Instant, path: PathIndex, outcome: &Outcome) {
    let link = &mut v.links[path.get()];
    let outstanding = link.session_ref().map_or(0, |session| session.in_flight());
    if link.depth.refused(now, outstanding) {
        let why = format!("lowered, for the target answered {outcome}");
        v.notice(now, Level::Info, Some(path), "queue depth", &why);
    }
}

/// Whether other bytes moved than the command asked for, in either direction. A residual of a WRITE is data
/// that is not on the medium; an overflow says that the unit counts in other blocks than we do. UNMAP is
/// advice, and `tgtd` reports its whole parameter list as a residual.
pub(in crate::volume) fn is_short(verb: PartVerb, bytes: u32, completion: &Completion) -> bool {
    let less = verb == PartVerb::Read && completion.data.len() != bytes as usize;
    less || (verb != PartVerb::Unmap && completion.residual != Residual::None)
}

/// Takes a part out of flight: its command on `path` has ended in some way.
fn land(v: &mut Volume, id: PartId, path: PathIndex) -> Option<(PartVerb, u32, Flight)> {
    let part = v.parts.get_mut(id)?;
    let flight = part.flight.take()?;
    assert_eq!(flight.path, path, "a command ends on the path that carries it");
    let verb = part.verb;
    if !flight.accused {
        health::landed(v, path, verb.op());
    }
    Some((verb, part_bytes(v, id), flight))
}

/// Bytes that a part moves, for statistics.
pub(in crate::volume) fn part_bytes(v: &Volume, id: PartId) -> u32 {
    let blocks = v.parts.get(id).map_or(0, |part| part.blocks);
    blocks.saturating_mul(v.unit.as_ref().map_or(0, |unit| unit.block_size()))
}

pub(in crate::volume) fn good_answer(
    v: &mut Volume,
    now: Instant,
    id: PartId,
    path: PathIndex,
    verb: PartVerb,
    data: Payload,
) {
    if verb.changes_state() {
        let part = v.parts.get(id).expect("the caller found the part");
        let fua = v.requests.get(part.request).is_some_and(|request| request.fua);
        let unit = v.links[path.get()].unit.as_ref();
        let writes = matches!(verb, PartVerb::Write | PartVerb::WriteZeros);
        // Written with the FUA bit it is in no cache.
        if !(fua && writes && unit.is_some_and(|unit| unit.dpofua())) {
            v.shared.acknowledged(path);
        }
        if v.content_open && verb == PartVerb::Write {
            let lba = part.lba;
            content::written(v, now, lba);
        }
    } else if verb == PartVerb::Sync {
        let request = v.parts.get(id).expect("the caller found the part").request;
        flush::reached(v, request, path);
    }
    request::part_done(v, now, id, Ok(data));
}

fn judge(
    v: &mut Volume,
    now: Instant,
    id: PartId,
    path: PathIndex,
    outcome: Outcome,
    data: Payload,
) {
    let context = context(v, id, path, &outcome);
    let Decision { verdict, actions, .. } = verdict::verdict(&outcome, context);
    let verb = v.parts.get(id).expect("the caller found the part").verb;
    learn(v, id, path, outcome, verdict);
    match verdict {
        Verdict::Done => good_answer(v, now, id, path, verb, data),
        Verdict::RetryHere => {
            // "Here" is a preference: the policy may choose another path, which is as good.
            v.ready.push_back(id);
        }
        Verdict::RetryHereLater(wait) => v.delayed.push((now + wait, id)),
        Verdict::RetryElsewhere | Verdict::FailPathRetryElsewhere => v.ready.push_back(id),
        Verdict::GiveToCaller(failure) => {
            let other_form = actions.contains(Actions::FALLBACK) && fall_back(v, now, id, verb);
            if !other_form {
                give_to_caller(v, now, id, path, &outcome, failure);
            }
        }
    }
    act(v, now, path, verdict, actions, &outcome);
}

/// What the verdict has to know of the past.
fn context(v: &Volume, id: PartId, path: PathIndex, outcome: &Outcome) -> Context {
    let part = v.parts.get(id).expect("the caller found the part");
    let history = &part.history;
    let here = history.last.as_ref().is_some_and(|(last, _)| *last == path);
    let zero_unless_here = |value| if here { value } else { 0 };
    let same = history.elsewhere.iter().any(|(p, o)| *p != path && o.is_same_as(outcome));
    let usable = match part.verb {
        PartVerb::Sync => flush::in_reach(v),
        _ => v.engine.usable(),
    };
    // A part that belongs to one target has no other paths than that one's.
    let usable = part.only.map_or(usable, |only| usable.and(only));
    Context {
        command: part.verb.kind(),
        retries: zero_unless_here(history.retries),
        attentions: zero_unless_here(history.attentions),
        elsewhere: history.refused.minus(PathSet::only(path)).len() as u8,
        answers: history.answers,
        waited_here: if here { history.waited_here } else { Duration::ZERO },
        waited: history.waited,
        others: !usable.minus(PathSet::only(path)).is_empty(),
        same_elsewhere: same,
        transition: TRANSITION_DEFAULT,
    }
}

/// Books an answer in the part's history.
fn learn(v: &mut Volume, id: PartId, path: PathIndex, outcome: Outcome, verdict: Verdict) {
    let part = v.parts.get_mut(id).expect("the caller found the part");
    let history = &mut part.history;
    if history.last.as_ref().is_none_or(|(last, _)| *last != path) {
        (history.retries, history.attentions) = (0, 0);
        history.waited_here = Duration::ZERO;
    }
    match verdict {
        Verdict::RetryHere
            if outcome.sense.is_some_and(|s| s.triple().0 == SenseKey::UnitAttention) =>
        {
            history.attentions = history.attentions.saturating_add(1);
        }
        Verdict::RetryHere => history.retries = history.retries.saturating_add(1),
        Verdict::RetryHereLater(wait) => {
            history.waited_here += wait;
            history.waited += wait;
        }
        Verdict::RetryElsewhere | Verdict::FailPathRetryElsewhere => {
            history.refused.insert(path);
            history.elsewhere.push((path, outcome));
        }
        Verdict::Done | Verdict::GiveToCaller(_) => {}
    }
    if !matches!(verdict, Verdict::RetryHereLater(_)) {
        history.answers = history.answers.saturating_add(1);
    }
    history.last = Some((path, outcome));
}

/// What else an answer means for the path.
pub(in crate::volume) fn act(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    verdict: Verdict,
    actions: Actions,
    outcome: &Outcome,
) {
    let fails = verdict == Verdict::FailPathRetryElsewhere
        || actions.intersects(Actions::END_SESSION | Actions::LUN_GONE);
    let rereads =
        Actions::REINQ | Actions::RECAP | Actions::REMODE | Actions::RELUN | Actions::HOLD;
    if actions.contains(Actions::EARLIER_LOST) {
        v.shared.set_earlier_lost();
    }
    if actions.contains(Actions::QUEUE_FULL) {
        queue_full(v, now, path, outcome);
    }
    if actions.contains(Actions::CLEARED) {
        v.links[path.get()].cleared_at = Some(now);
    }
    if actions.contains(Actions::NO_UNSOLICITED)
        && let Some(session) = v.links[path.get()].session()
    {
        session.solicit_all();
    }
    if actions.contains(Actions::CACHE_LOST) {
        flush::cache_lost(v, now, path, false);
    }
    if actions.contains(Actions::READ_ONLY) {
        v.links[path.get()].adopt_protection = true;
    }
    if fails {
        link::fail(v, now, path, &format!("the target answered {outcome}"));
    } else if actions.contains(Actions::STANDBY.with(Actions::RTPG)) {
        alua::refused(v, now, path, outcome);
    } else if actions.contains(Actions::STANDBY) {
        // Its session stays: what is in flight ends as it ends, and TEST UNIT READY tells when it is back.
        probing::recheck(v, now, path, &format!("not usable now: the target answered {outcome}"));
    } else if actions.intersects(rereads) {
        probing::recheck(v, now, path, &format!("the target reported {outcome}"));
    }
    if actions.contains(Actions::RTPG) && !actions.contains(Actions::STANDBY) {
        alua::ask_all(v, now);
    }
    if actions.contains(Actions::ALARM) {
        v.notice(now, Level::Warn, Some(path), "target reports", &outcome.to_string());
    }
    if actions.contains(Actions::REDISCOVER) {
        let why =
            format!("what the target offers has changed ({outcome}): the portals are asked again");
        v.notice(now, Level::Warn, Some(path), "target reports", &why);
        rediscovery::wanted(v, now);
    }
}

/// The target reported something of the unit that belongs to no command (RFC 7143 section 11.9.1).
pub(in crate::volume) fn attention(v: &mut Volume, now: Instant, path: PathIndex, sense: &[u8]) {
    let outcome = Outcome::new(0, Status::CheckCondition.byte(), Some(sense), false);
    let context = Context::first(CommandKind::TestUnitReady, true);
    let Decision { actions, .. } = verdict::verdict(&outcome, context);
    let why = outcome.to_string();
    v.notice(now, Level::Info, Some(path), "asynchronous message", &why);
    act(v, now, path, Verdict::RetryHere, actions, &outcome);
}

fn give_to_caller(
    v: &mut Volume,
    now: Instant,
    id: PartId,
    path: PathIndex,
    outcome: &Outcome,
    failure: Failure,
) {
    let part = v.parts.get(id).expect("the caller found the part");
    let why = format!(
        "{:?} of {} blocks at LBA {} ended with {outcome}; the client is told {:?}",
        part.verb,
        part.blocks,
        part.lba,
        errno(failure)
    );
    v.notice(now, Level::Warn, Some(path), "command failed", &why);
    request::part_done(v, now, id, Err(errno(failure)));
}

/// The NBD errno of a failure: only values that the protocol knows.
fn errno(failure: Failure) -> NbdError {
    match failure {
        Failure::Io => NbdError::Io,
        Failure::Invalid => NbdError::Invalid,
        Failure::NoSpace => NbdError::NoSpace,
        Failure::ReadOnly => NbdError::Permission,
    }
}

/// A form of a command that the unit does not know is not tried again, and the request is done in another
/// way. Returns whether there is one.
fn fall_back(v: &mut Volume, now: Instant, id: PartId, verb: PartVerb) -> bool {
    let owner = v.parts.get(id).expect("the caller found the part").request;
    match verb {
        PartVerb::WriteSame { unmap } => {
            match unmap {
                true => v.shared.refuse(Optional::UnmapZeroing),
                false => v.shared.refuse(Optional::WriteSame),
            }
            let Some(request) = v.requests.get_mut(owner) else { return false };
            if let Verb::Zero { fast: true, .. } = request.verb {
                request::part_done(v, now, id, Err(NbdError::NotSupported));
                return true;
            }
            let same = unmap && v.shared.may(Optional::WriteSame);
            request.verb = Verb::Zero { same, unmap: false, fast: false };
            request.restart = true;
        }
        PartVerb::Unmap => v.shared.refuse(Optional::Unmap),
        PartVerb::LbaStatus => v.shared.refuse(Optional::LbaStatus),
        PartVerb::Read | PartVerb::Write | PartVerb::WriteZeros | PartVerb::Sync => return false,
    }
    request::part_done(v, now, id, Ok(Payload::new()));
    true
}

/// The command has no answer and will get none. `sent`: its first byte was handed to the kernel, so the
/// target may still execute it. Returns whether it is in doubt now.
pub(in crate::volume) fn lost(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    token: u64,
    sent: bool,
) -> bool {
    if let Some(straggler) = abandon::key(token) {
        return abandon::lost(v, now, straggler);
    }
    let id = Key::from_token(token);
    let Some((verb, bytes, flight)) = land(v, id, path) else { return false };
    v.engine.finished(now, path, verb.op(), bytes, flight.started, Ended::Lost);
    let doubt = sent && verb.changes_state();
    if doubt {
        fencing::in_doubt(v, now, id, path);
    }
    v.ready.push_front(id);
    doubt
}

/// The target has said that the command will not be executed any more: it is repeated, nothing is in doubt.
pub(in crate::volume) fn aborted(v: &mut Volume, now: Instant, path: PathIndex, token: u64) {
    match abandon::key(token) {
        Some(straggler) => abandon::aborted(v, now, straggler),
        None if planted(Bug::AbortedIsDone) => {
            let id = Key::from_token(token);
            if land(v, id, path).is_some() {
                request::part_done(v, now, id, Ok(Payload::new()));
            }
        }
        None => _ = lost(v, now, path, token, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7143 11.4.5: GOOD with a residual, or with too little data, is not taken for success; an answer
    /// about the unit may be shorter than what there was room for.
    #[test]
    fn residuals_are_not_success() {
        let done = |len, residual| Completion {
            response: 0,
            status: 0,
            data: Payload::from(vec![0; len]),
            sense: None,
            residual,
        };
        for (verb, completion, success) in [
            (PartVerb::Read, done(4096, Residual::None), true),
            (PartVerb::Read, done(4095, Residual::None), false),
            (PartVerb::Read, done(3584, Residual::Under(512)), false),
            (PartVerb::Read, done(4096, Residual::Over(28_672)), false),
            (PartVerb::Write, done(0, Residual::None), true),
            (PartVerb::Write, done(0, Residual::Under(1)), false),
            (PartVerb::Write, done(0, Residual::Over(1)), false),
            (PartVerb::WriteZeros, done(0, Residual::Under(4096)), false),
            (PartVerb::WriteSame { unmap: false }, done(0, Residual::Under(512)), false),
            (PartVerb::Unmap, done(0, Residual::Under(24)), true),
            (PartVerb::Sync, done(0, Residual::None), true),
            (PartVerb::LbaStatus, done(24, Residual::Under(1000)), true),
        ] {
            let short = is_short(verb, 4096, &completion);
            let outcome = Outcome::new(0, 0, None, short);
            let decision = verdict::verdict(&outcome, Context::first(verb.kind(), true));
            assert_eq!(decision.verdict == Verdict::Done, success, "{verb:?} {completion:?}");
        }
        assert_eq!(PartVerb::WriteZeros.kind(), CommandKind::Write);
    }
}
