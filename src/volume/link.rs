//! One path's connection: socket phase, login, fencing, probing, service, and the way back.
//!
//! ```text
//!  Waiting ─► Connecting ─► LoggingIn ─► Fencing ─► Probing ─► Up
//!     ▲                                (only if in doubt)       │ any failure
//!     └──────────── Closing (driver lets go of the socket) ◄────┘
//! ```
//! A new socket is asked for only when the driver has let go of the old one, so that two sessions of one
//! nexus never stand side by side on our side (RFC 7143 section 4.4.3).

use super::probe::{self, Probe};
use super::spec::PathSpec;
use super::{Action, Level, Volume, clients, complete, fencing};
use crate::base::{Blame, Duration, Instant, TxQueue};
use crate::limits;
use crate::path::verdict::Outcome;
use crate::path::{Failure, PathIndex, State};
use crate::session::{
    self, CloseReason, Command, Completion, Direction, Event, Kind, LoginError, Session,
    SessionError, TaskTag,
};
use crate::wire::iscsi::TargetAddress;
use bytes::Bytes;
use std::net::SocketAddr;

/// Where a link stands.
pub(super) enum Phase {
    /// No socket; the path engine knows when it is tried again.
    Waiting,
    Connecting,
    LoggingIn,
    /// LOGICAL UNIT RESET is out; no other command uses the session.
    Fencing,
    /// Identity and readiness are read. `Wait` until the time, if any.
    Probing {
        probe: Box<Probe>,
        resume: Option<Instant>,
    },
    Up,
    LoggingOut,
    /// The driver lets go of the socket.
    Closing {
        then: Then,
    },
    /// Out by an administrator's word.
    Disabled,
}

/// What follows when the socket is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Reconnect,
    /// At once: a redirect, an administrator's word.
    ReconnectNow,
    /// The path is in state `connecting` already.
    Connect,
    Disabled,
}

pub(super) struct Link {
    pub(super) index: PathIndex,
    pub(super) spec: PathSpec,
    pub(super) phase: Phase,
    session: Option<Box<Session>>,
    /// Counts sessions: names a nexus over time.
    pub(super) generation: u64,
    /// Where the next connection goes, and where it really comes from.
    remote: SocketAddr,
    pub(super) local: Option<SocketAddr>,
    hops: u32,
    pub(super) disabling: bool,
    /// When a unit that was another one is looked at again.
    mismatched_until: Option<Instant>,
    /// The last failure is one that only a change of configuration cures.
    pub(super) misconfigured: bool,
}

/// Token of a probe's command: no part has it, since no table slot is that high.
const PROBE: u64 = u64::MAX;
const FENCE: u64 = u64::MAX - 1;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A unit that was not the device's is looked at again this often.
const MISMATCH_RETRY: Duration = Duration::from_secs(30);
/// A probe that finds the window closed asks again after this.
const PROBE_WAIT: Duration = Duration::from_millis(20);
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

impl Link {
    pub(super) fn new(index: PathIndex, spec: PathSpec) -> Link {
        Link {
            index,
            remote: spec.portal,
            phase: Phase::Waiting,
            session: None,
            generation: 0,
            local: None,
            hops: 0,
            disabling: false,
            mismatched_until: None,
            misconfigured: false,
            spec,
        }
    }

    /// What the session has to send.
    pub(super) fn tx(&mut self) -> Option<&mut TxQueue> {
        match self.phase {
            Phase::Waiting | Phase::Connecting | Phase::Closing { .. } | Phase::Disabled => None,
            _ => self.session.as_mut().map(|s| s.tx()),
        }
    }

    pub(super) fn session(&mut self) -> Option<&mut Session> {
        self.session.as_deref_mut()
    }

    pub(super) fn session_ref(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    /// Commands that the session would take now.
    pub(super) fn room(&self) -> usize {
        match self.phase {
            Phase::Up => self.session.as_ref().map_or(0, |s| s.room()),
            _ => 0,
        }
    }

    /// When the command last made progress.
    pub(super) fn progress(&mut self, tag: TaskTag, started: Instant) -> Instant {
        let progress = self.session.as_mut().and_then(|s| s.last_progress(tag));
        progress.unwrap_or(started).max(started)
    }

    /// When something has to be done for this link.
    pub(super) fn deadline(&self) -> Instant {
        let own = match &self.phase {
            Phase::Waiting => self.mismatched_until.unwrap_or(Instant::MAX),
            Phase::Probing { resume: Some(at), .. } => *at,
            _ => Instant::MAX,
        };
        let session = self.session.as_ref().and_then(|s| s.poll_deadline());
        own.min(session.map_or(Instant::MAX, |(at, _)| at))
    }

    /// Whether its session lives, or may come to.
    pub(super) fn has_socket(&self) -> bool {
        !matches!(self.phase, Phase::Waiting | Phase::Closing { .. } | Phase::Disabled)
    }
}

/// `source -> portal, target`: how a path is named in messages.
pub(super) fn where_(link: &Link) -> String {
    let source = match (link.local, link.spec.source) {
        (Some(local), _) => local.ip().to_string(),
        (None, Some(source)) => source.to_string(),
        (None, None) => "any".to_owned(),
    };
    format!("{source} -> {}, {}", link.remote, link.spec.target)
}

/// Everything of the links whose time has come.
pub(super) fn timeouts(v: &mut Volume, now: Instant) {
    v.engine.handle_timeout(now);
    for index in 0..v.links.len() {
        let path = v.links[index].index;
        let again = v.links[index].mismatched_until.is_some_and(|at| at <= now);
        match &mut v.links[index].phase {
            Phase::Waiting if v.engine.retry_at(path).is_some_and(|at| at <= now) => {
                v.engine.transition(now, path, State::Connecting, "");
                connect(v, path);
            }
            Phase::Waiting if again => {
                v.links[index].mismatched_until = None;
                v.engine.transition(now, path, State::Connecting, "looked at again");
                connect(v, path);
            }
            Phase::Probing { resume, .. } if resume.is_some_and(|at| at <= now) => {
                *resume = None;
                step_probe(v, now, path);
            }
            _ => {}
        }
        let last = v.engine.is_last(path);
        let timeout = match last {
            true => v.spec.tunables.last_path_timeout,
            false => v.spec.tunables.path_timeout,
        };
        let Some(session) = v.links[index].session.as_mut() else { continue };
        session.set_silence_timeout(timeout);
        if session.poll_deadline().is_some_and(|(at, _)| at <= now) {
            session.handle_timeout(now);
            v.mark_link(path);
            events(v, now, path);
        }
    }
}

/// Asks the driver for a connection; the path is in state `connecting`.
pub(super) fn connect(v: &mut Volume, path: PathIndex) {
    let draining = v.draining.is_some();
    let link = &mut v.links[path.get()];
    if draining {
        link.phase = Phase::Disabled;
        return;
    }
    assert!(link.session.is_none(), "the old session is gone before a new connection is made");
    link.phase = Phase::Connecting;
    let action = Action::Connect {
        path,
        remote: link.remote,
        source: link.spec.source,
        interface: link.spec.interface.clone(),
        timeout: CONNECT_TIMEOUT,
    };
    v.actions.push_back(action);
}

pub(super) fn connected(v: &mut Volume, now: Instant, path: PathIndex, local: SocketAddr) {
    let config = session_config(v, path);
    let mut entropy = [0; 64];
    (v.entropy)(&mut entropy);
    let link = &mut v.links[path.get()];
    if !matches!(link.phase, Phase::Connecting) {
        return;
    }
    link.local = Some(local);
    link.generation += 1;
    link.phase = Phase::LoggingIn;
    let mut session = Box::new(Session::new(config, entropy));
    session.handle_connected(now);
    link.session = Some(session);
    v.mark_link(path);
    events(v, now, path);
}

fn session_config(v: &Volume, path: PathIndex) -> session::Config {
    let spec = &v.links[path.get()].spec;
    let kind = Kind::Normal { target: spec.target.clone() };
    let mut config = session::Config::new(v.spec.initiator_name.clone(), spec.isid, kind);
    config.expected_portal_group = spec.portal_group;
    config.header_digest = spec.header_digest;
    config.data_digest = spec.data_digest;
    config.chap = spec.chap.clone();
    config.login_timeout = LOGIN_TIMEOUT;
    config.nop_interval = v.spec.tunables.nop_interval;
    config.silence_timeout = v.spec.tunables.last_path_timeout;
    config.queue_depth = v.spec.tunables.queue_depth;
    config
}

/// The driver lets go of the socket by itself.
pub(super) fn connect_failed(v: &mut Volume, now: Instant, path: PathIndex, why: &str) {
    if matches!(v.links[path.get()].phase, Phase::Connecting) {
        fail(v, now, path, why);
    }
}

pub(super) fn received(v: &mut Volume, now: Instant, path: PathIndex, chunk: Bytes) {
    let link = &mut v.links[path.get()];
    if !link.has_socket() {
        return;
    }
    let Some(session) = link.session.as_mut() else { return };
    session.handle_received(now, chunk);
    v.mark_link(path);
    events(v, now, path);
}

pub(super) fn disconnected(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    error: Option<&std::io::Error>,
) {
    let link = &v.links[path.get()];
    if !link.has_socket() {
        return;
    }
    if matches!(link.phase, Phase::LoggingOut) {
        give_up(v, now, path, Then::Disabled);
        return;
    }
    let why = match error {
        None => format!("the target closed the connection ({})", where_(link)),
        Some(error) => {
            let error = error.to_string();
            // The number of the errno says nothing to anybody.
            let error = error.split(" (os error").next().unwrap_or_default().to_lowercase();
            format!("the connection broke: {error} ({})", where_(link))
        }
    };
    fail(v, now, path, &why);
}

/// The driver has let go of the socket.
pub(super) fn socket_closed(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &mut v.links[path.get()];
    let Phase::Closing { then } = link.phase else { return };
    link.session = None;
    link.local = None;
    match then {
        Then::Disabled => {
            link.phase = Phase::Disabled;
            link.disabling = false;
        }
        // The engine has set the time; if it has passed, the next turn connects.
        Then::Reconnect => link.phase = Phase::Waiting,
        Then::ReconnectNow => {
            link.phase = Phase::Waiting;
            v.engine.retry_now(now, path);
        }
        Then::Connect => connect(v, path),
    }
}

/// The path has failed: its commands go elsewhere, its socket is reset, it comes back after a while.
pub(super) fn fail(v: &mut Volume, now: Instant, path: PathIndex, why: &str) {
    end(v, now, path, why, Retry::Backoff);
}

/// When a path that ended is tried again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Retry {
    Now,
    Backoff,
    /// An administrator has to mend something first.
    Slow,
}

/// Books the end of a link's service and gives its session and socket up.
fn end(v: &mut Volume, now: Instant, path: PathIndex, why: &str, retry: Retry) {
    let link = &v.links[path.get()];
    if !link.has_socket() {
        return;
    }
    let then = match retry {
        _ if link.disabling => Then::Disabled,
        Retry::Now => Then::ReconnectNow,
        Retry::Backoff | Retry::Slow => Then::Reconnect,
    };
    let negotiated = link.session_ref().and_then(Session::negotiated);
    let time2wait = negotiated.map_or(Duration::ZERO, |n| n.time2wait);
    v.links[path.get()].misconfigured = retry == Retry::Slow;
    let how = if retry == Retry::Slow { Failure::Refused } else { Failure::Transient };
    let served = v.engine.state(path).carries_io();
    let repeated = v.engine.last_failure(path) == why;
    if v.engine.state(path) != State::Disabled {
        v.engine.fail(now, path, how, time2wait, why);
    }
    if served || !repeated {
        let level = if v.engine.usable().is_empty() { Level::Error } else { Level::Warn };
        v.notice(now, level, Some(path), State::Failed.name(), why);
    }
    give_up(v, now, path, then);
}

/// Ends the session on our side and asks the driver to let go of the socket.
fn give_up(v: &mut Volume, now: Instant, path: PathIndex, then: Then) {
    let link = &mut v.links[path.get()];
    assert!(link.has_socket(), "only a socket that exists can be given up");
    link.phase = Phase::Closing { then };
    v.actions.push_back(Action::GiveUp(path));
    if let Some(session) = link.session.as_mut() {
        session.handle_closed(now, CloseReason::GivenUp);
        events(v, now, path);
    }
}

fn events(v: &mut Volume, now: Instant, path: PathIndex) {
    loop {
        let Some(session) = v.links[path.get()].session.as_mut() else { return };
        let Some(event) = session.poll_event() else { return };
        event_(v, now, path, event);
    }
}

fn event_(v: &mut Volume, now: Instant, path: PathIndex, event: Event) {
    match event {
        Event::Done { token: PROBE, completion, .. } => {
            if let Phase::Probing { probe, .. } = &mut v.links[path.get()].phase {
                let Completion { response, status, sense, data, .. } = completion;
                // A short answer is normal for a probe; the parsers look at the length.
                let outcome = Outcome::new(response, status, sense.as_deref(), false);
                probe.handle(&outcome, &data.to_vec());
                step_probe(v, now, path);
            }
        }
        Event::Done { token, completion, .. } => complete::done(v, now, path, token, completion),
        Event::Lost { token: PROBE | FENCE, .. } | Event::Aborted { token: PROBE | FENCE, .. } => {}
        Event::Aborted { token, .. } => complete::aborted(v, now, path, token),
        Event::Lost { token, sent } => complete::lost(v, now, path, token, sent),
        Event::LoggedIn => logged_in(v, now, path),
        Event::LoginFailed(error) => login_failed(v, now, path, &error),
        Event::TaskManagement { token: FENCE, response, .. } => {
            fencing::reset_answered(v, now, path, response);
        }
        Event::TaskManagement { .. } => {}
        Event::LogoutRequested { within } => {
            // The session finishes what it has and logs out by itself; nothing new is given to it.
            let why = format!("the target asked for a logout within {within:?}");
            v.notice(now, Level::Info, Some(path), "logout requested", &why);
        }
        Event::Async(event) => {
            let why = format!("{event:?}");
            v.notice(now, Level::Info, Some(path), "asynchronous message", &why);
        }
        Event::Targets(_) => {}
        Event::Closed(error) => closed(v, now, path, &error),
    }
}

fn closed(v: &mut Volume, now: Instant, path: PathIndex, error: &SessionError) {
    let link = &v.links[path.get()];
    if matches!(link.phase, Phase::LoggingOut) {
        give_up(v, now, path, Then::Disabled);
        return;
    }
    let why = format!("{error} ({})", where_(link));
    fail(v, now, path, &why);
}

fn logged_in(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &mut v.links[path.get()];
    assert!(matches!(link.phase, Phase::LoggingIn), "a login ends once");
    link.hops = 0;
    v.engine.transition(now, path, State::Probing, "logged in");
    if fencing::needed(v, path) && fencing::reset_allowed(v) {
        let link = &mut v.links[path.get()];
        link.phase = Phase::Fencing;
        let lun = link.spec.lun;
        let session = link.session.as_mut().expect("a login belongs to a session");
        let sent = session.reset_logical_unit(now, lun, FENCE);
        assert!(sent, "a session that has just logged in takes a task management request");
        v.mark_link(path);
        return;
    }
    begin_probe(v, now, path);
}

fn login_failed(v: &mut Volume, now: Instant, path: PathIndex, error: &LoginError) {
    if let LoginError::Redirect { address, permanent } = error {
        redirect(v, now, path, address, *permanent);
        return;
    }
    let link = &mut v.links[path.get()];
    let why = format!("login failed: {error} ({})", where_(link));
    link.remote = link.spec.portal;
    // A redirect that leads nowhere is a target's mistake, and passes; what we are blamed for does not.
    let retry = match error.blame() {
        Blame::Config | Blame::Incompatible => Retry::Slow,
        Blame::Io | Blame::TargetMisbehaved | Blame::Malformed => Retry::Backoff,
    };
    end(v, now, path, &why, retry);
}

/// RFC 7143 section 11.13.5, status class 1: followed from the same source, only to addresses that the
/// administrator allows, and not for ever.
fn redirect(v: &mut Volume, now: Instant, path: PathIndex, to: &TargetAddress, permanent: bool) {
    let link = &mut v.links[path.get()];
    link.hops += 1;
    let hops = link.hops;
    let allowed = to.socket_addr().filter(|address| {
        *address == link.spec.portal || link.spec.redirect_allow.contains(address)
    });
    let Some(address) = allowed.filter(|_| hops <= limits::REDIRECT_HOPS_MAX) else {
        let reason = match hops > limits::REDIRECT_HOPS_MAX {
            true => format!("more than {} redirects in a row", limits::REDIRECT_HOPS_MAX),
            false => "it is neither a configured portal nor in redirect_allow".to_owned(),
        };
        let why = format!("redirected to {to}, which is not followed: {reason} ({})", where_(link));
        link.remote = link.spec.portal;
        link.hops = 0;
        end(v, now, path, &why, Retry::Slow);
        return;
    };
    link.remote = address;
    if permanent {
        link.spec.portal = address;
    }
    let why = format!("redirected to {address}");
    end(v, now, path, &why, Retry::Now);
}

/// Reads identity, capacity and readiness; the path carries I/O only after that.
pub(super) fn begin_probe(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &mut v.links[path.get()];
    link.phase = Phase::Probing { probe: Box::new(Probe::new(link.spec.lun)), resume: None };
    step_probe(v, now, path);
}

/// Identity is questioned on a path in service: no command leaves on it before it has been read again.
pub(super) fn recheck(v: &mut Volume, now: Instant, path: PathIndex, why: &str) {
    if matches!(v.links[path.get()].phase, Phase::Up) {
        v.engine.transition(now, path, State::Probing, why);
        begin_probe(v, now, path);
    }
}

fn step_probe(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &mut v.links[path.get()];
    let Phase::Probing { probe, resume } = &mut link.phase else { return };
    let session = link.session.as_mut().expect("probing needs a session");
    if session.room() == 0 {
        // The window is closed (the path's own commands may still fill it): ask again shortly.
        *resume = Some(now + PROBE_WAIT);
        return;
    }
    match probe.next() {
        probe::Step::Command { lun, cdb, read_len } => {
            let data =
                if read_len > 0 { Direction::Read { len: read_len } } else { Direction::None };
            let refused = session.submit(now, Command { token: PROBE, lun, cdb, data });
            assert!(refused.is_ok(), "a session with room takes a command");
            v.mark_link(path);
        }
        probe::Step::Wait(time) => *resume = Some(now + time),
        probe::Step::Ready(unit) => admit(v, now, path, *unit),
        probe::Step::Failed(error) => {
            // The number in the address of a single-level LUN, as administrators write it.
            let lun = link.spec.lun >> 48 & 0x3fff;
            let why = format!("{error} ({}, LUN {lun})", where_(link));
            let wrong = matches!(error, probe::ProbeError::NoLun(_));
            let retry = match error {
                probe::ProbeError::Unusable(_) | probe::ProbeError::CapacityTooLarge => Retry::Slow,
                _ => Retry::Backoff,
            };
            end(v, now, path, &why, retry);
            v.links[path.get()].misconfigured |= wrong;
        }
    }
}

/// The unit behind the path is known: is it the device's?
fn admit(v: &mut Volume, now: Instant, path: PathIndex, unit: crate::path::identity::LogicalUnit) {
    let found = unit.wwid().unwrap_or("none").to_owned();
    let expected = v.spec.wwid.as_deref().filter(|wwid| *wwid != found);
    let wrong = expected
        .map(|wwid| format!("the unit's WWID is {found}, the configuration asks for {wwid}"));
    let admitted = match wrong {
        Some(why) => Err(why),
        None => v.shared.admit(unit).map_err(|m| m.to_string()),
    };
    match admitted {
        Ok(unit) => {
            let first = v.unit.is_none();
            v.unit = Some(unit);
            let link = &mut v.links[path.get()];
            link.phase = Phase::Up;
            let why = where_(link);
            v.engine.transition(now, path, State::Active, &why);
            v.notice(now, Level::Info, Some(path), "active", &why);
            if first {
                clients::answer_open(v, now);
            }
        }
        Err(why) => {
            v.engine.transition(now, path, State::Mismatched, &why);
            v.notice(now, Level::Error, Some(path), State::Mismatched.name(), &why);
            v.links[path.get()].mismatched_until = Some(now + MISMATCH_RETRY);
            give_up(v, now, path, Then::Reconnect);
        }
    }
}

/// The administrator takes the path out: nothing new is given to it, and when it is idle it logs out.
pub(super) fn disable(v: &mut Volume, now: Instant, path: PathIndex) {
    if v.engine.state(path) == State::Disabled {
        return;
    }
    v.engine.transition(now, path, State::Disabled, "disabled by an administrator");
    v.notice(now, Level::Info, Some(path), State::Disabled.name(), "by an administrator");
    let link = &mut v.links[path.get()];
    link.mismatched_until = None;
    match link.phase {
        Phase::Disabled | Phase::LoggingOut => {}
        Phase::Waiting => link.phase = Phase::Disabled,
        Phase::Closing { ref mut then } => *then = Then::Disabled,
        Phase::Up | Phase::Probing { .. } => {
            link.phase = Phase::Up;
            link.disabling = true;
            log_out_if_idle(v, now, path);
        }
        Phase::Connecting | Phase::LoggingIn | Phase::Fencing => {
            give_up(v, now, path, Then::Disabled);
        }
    }
}

/// The administrator puts the path back.
pub(super) fn enable(v: &mut Volume, now: Instant, path: PathIndex) {
    v.engine.transition(now, path, State::Connecting, "enabled by an administrator");
    let link = &mut v.links[path.get()];
    link.disabling = false;
    match link.phase {
        Phase::Disabled => connect(v, path),
        // The old session still ends; the path follows when its socket is closed.
        Phase::Closing { ref mut then } => *then = Then::Connect,
        Phase::Up | Phase::LoggingOut => give_up(v, now, path, Then::Connect),
        Phase::Waiting
        | Phase::Connecting
        | Phase::LoggingIn
        | Phase::Fencing
        | Phase::Probing { .. } => unreachable!("a disabled path is not on its way up"),
    }
}

/// The administrator wants it looked at now, whatever the back-off says.
pub(super) fn recheck_now(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &mut v.links[path.get()];
    match link.phase {
        Phase::Waiting if link.mismatched_until.is_some() => link.mismatched_until = Some(now),
        Phase::Waiting => v.engine.retry_now(now, path),
        Phase::Closing { ref mut then } if *then == Then::Reconnect => *then = Then::ReconnectNow,
        Phase::Up => recheck(v, now, path, "recheck asked for by an administrator"),
        _ => {}
    }
}

/// A path that is being disabled, or a daemon that ends: log out once nothing is in flight.
pub(super) fn log_out_if_idle(v: &mut Volume, now: Instant, path: PathIndex) {
    let draining = v.draining.is_some();
    let link = &mut v.links[path.get()];
    if !(link.disabling || draining) || !matches!(link.phase, Phase::Up) {
        return;
    }
    let session = link.session.as_mut().expect("a path in service has a session");
    if session.in_flight() == 0 {
        session.logout(now);
        link.phase = Phase::LoggingOut;
        v.mark_link(path);
        events(v, now, path);
    }
}

/// The daemon ends: a path in service logs out, any other is given up.
pub(super) fn stop(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &mut v.links[path.get()];
    match link.phase {
        Phase::Up => log_out_if_idle(v, now, path),
        Phase::Waiting => link.phase = Phase::Disabled,
        Phase::Closing { ref mut then } => *then = Then::Disabled,
        Phase::Disabled | Phase::LoggingOut => {}
        _ => give_up(v, now, path, Then::Disabled),
    }
}

/// Requests fail for want of a path: clients that wait for the export to open are refused too.
pub(super) fn fail_waiting_clients(v: &mut Volume, now: Instant) {
    clients::refuse_waiting(v, now);
}
