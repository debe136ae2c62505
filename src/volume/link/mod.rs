//! One path's connection: socket phase, login, fencing, probing, service, and the way back.
//!
//! ```text
//!  Waiting ─► Connecting ─► LoggingIn ─► Fencing ─► Probing ─► Up
//!     ▲                                (only if in doubt)       │ any failure
//!     └──────────── Closing (driver lets go of the socket) ◄────┘
//! ```
//! A new socket is asked for only when the driver has let go of the old one, so that two sessions of one
//! nexus never stand side by side on our side (RFC 7143 section 4.4.3).

pub(in crate::volume) mod alua;
pub(in crate::volume) mod content;
pub(in crate::volume) mod explicit;
pub(in crate::volume) mod health;
pub(in crate::volume) mod idle;
pub mod probe;
pub(in crate::volume) mod probing;
pub(in crate::volume) mod rediscovery;
pub(in crate::volume) mod service;

use crate::base::{Blame, Duration, Instant, TxQueue};
use crate::limits;
use crate::path::identity::LogicalUnit;
use crate::path::planted::{Bug, planted};
use crate::path::{Depth, Failure, Nexus, PathIndex, State};
use crate::session::{
    self, AsyncEvent, CloseReason, Event, Kind, LoginError, Session, SessionError,
};
use crate::volume::nexus::{self, Recorded};
use crate::volume::spec::PathSpec;
use crate::volume::{Action, Level, Volume, complete, detour, fencing, flush, quiet};
use crate::wire::iscsi::TargetAddress;
use crate::wire::iscsi::codes::{tmf, tmf_response};
use alua::Standing;
use bytes::Bytes;
use idle::Check;
use probing::Probing;
use std::net::SocketAddr;
use std::sync::Arc;

/// Where a link stands.
pub(in crate::volume) enum Phase {
    /// No socket; the path engine knows when it is tried again.
    Waiting,
    Connecting,
    LoggingIn,
    /// It waits for the answer to LOGICAL UNIT RESET; no command uses the session.
    Fencing,
    /// Identity and readiness are read.
    Probing(Box<Probing>),
    Up,
    /// What is in flight finishes; nothing new is given to the session.
    LoggingOut {
        then: Then,
    },
    /// The driver lets go of the socket.
    Closing {
        then: Then,
    },
    /// Out by an administrator's word.
    Disabled,
}

/// What follows when the socket is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) enum Then {
    Reconnect,
    /// At once: a redirect, an administrator's word.
    ReconnectNow,
    /// The path is in state `connecting` already.
    Connect,
    Disabled,
}

pub(in crate::volume) struct Link {
    pub(in crate::volume) index: PathIndex,
    pub(in crate::volume) spec: PathSpec,
    pub(in crate::volume) phase: Phase,
    pub(in crate::volume) session: Option<Box<Session>>,
    /// The unit as this path has last shown it.
    pub(in crate::volume) unit: Option<Arc<LogicalUnit>>,
    /// Counts sessions: names a nexus over time.
    pub(in crate::volume) generation: u64,
    /// Portal group of the last login: a proof counts only in the same one.
    pub(in crate::volume) portal_group: Option<u16>,
    /// LOGICAL UNIT RESET that is prepared for this session, or out on it.
    pub(in crate::volume) reset: Option<quiet::Reset>,
    /// After a reset that could not be sent: none is prepared before then, and how long that was.
    pub(in crate::volume) prepare_not_before: Instant,
    pub(in crate::volume) prepare_rest: Duration,
    /// What a reset of the unit waits for on this session.
    pub(in crate::volume) echo: quiet::Echo,
    /// The target has refused to reset: it is not asked again before this.
    pub(in crate::volume) reset_not_before: Instant,
    /// How long that was; zero: the last one was answered.
    pub(in crate::volume) reset_rest: Duration,
    /// Since when it waits for a reset.
    pub(in crate::volume) fencing_since: Instant,
    /// The same nexus as an earlier process has left it behind.
    pub(in crate::volume) inherited: Option<Nexus>,
    /// Whether it is written down for a later process.
    pub(in crate::volume) recorded: Recorded,
    /// Where the next connection goes, and where it really comes from.
    remote: SocketAddr,
    /// The configured portal: a redirect may always lead back to it.
    configured: SocketAddr,
    pub(in crate::volume) local: Option<SocketAddr>,
    hops: u32,
    /// Connections that were asked for since the last login.
    pub(in crate::volume) tries: u32,
    /// The present connection leads to another path's portal: for a proof alone.
    pub(in crate::volume) detour: bool,
    /// A path that is being disabled and does not become idle is given up then.
    pub(in crate::volume) disable_by: Instant,
    /// When a unit that was another one is looked at again.
    pub(in crate::volume) mismatched_until: Option<Instant>,
    /// It was in service until its identity was questioned.
    pub(in crate::volume) rechecking: bool,
    /// The recheck was asked for by a write that the unit refused as protected.
    pub(in crate::volume) adopt_protection: bool,
    /// When the present session was logged in, and when the one before was last heard of.
    pub(in crate::volume) login: Instant,
    pub(in crate::volume) heard: Instant,
    /// When the last command was sent that has ended well.
    pub(in crate::volume) good: Instant,
    /// Resets of ours that its session has reported, or was made after.
    pub(in crate::volume) resets: u64,
    /// When its session last said that commands sent before may be gone without an answer.
    pub(in crate::volume) cleared_at: Option<Instant>,
    /// It has let SYNCHRONIZE CACHE pass its deadline since it was last active.
    pub(in crate::volume) flush_late: bool,
    /// How many commands it takes.
    pub(in crate::volume) depth: Depth,
    /// Its unit takes more than one command at a time (CMDQUE).
    pub(in crate::volume) queues: bool,
    /// Since when the command window is closed with nothing in flight.
    closed_since: Option<Instant>,
    /// READs and WRITEs in flight that have not accused the path.
    pub(in crate::volume) debts: health::Debts,
    /// When the socket last took bytes.
    pub(in crate::volume) taken_at: Instant,
    /// Where the path hung, when it is asked next, and questions that are open.
    pub(in crate::volume) hung_at: u64,
    pub(in crate::volume) ask_at: Instant,
    pub(in crate::volume) asked: u32,
    /// Stragglers past their deadline.
    pub(in crate::volume) overdue: u32,
    pub(in crate::volume) check: Check,
    /// The last failure is one that only a change of configuration cures.
    pub(in crate::volume) misconfigured: bool,
    /// How the storage serves it.
    pub(in crate::volume) alua: Standing,
}

/// Token of a probe's command: no part has it, since no table slot is that high.
pub(in crate::volume) const PROBE: u64 = u64::MAX;
/// Token of LOGICAL UNIT RESET; a session has one out at most.
pub(in crate::volume) const FENCE: u64 = u64::MAX - 1;
/// Token of the check of an idle path.
pub(in crate::volume) const CHECK: u64 = u64::MAX - 3;

impl Link {
    pub(in crate::volume) fn new(index: PathIndex, spec: PathSpec, depth: u16) -> Link {
        Link {
            index,
            remote: spec.portal,
            configured: spec.portal,
            phase: Phase::Waiting,
            session: None,
            unit: None,
            generation: 0,
            portal_group: None,
            reset: None,
            prepare_not_before: Instant::ZERO,
            prepare_rest: Duration::ZERO,
            echo: quiet::Echo::default(),
            reset_not_before: Instant::ZERO,
            reset_rest: Duration::ZERO,
            fencing_since: Instant::ZERO,
            inherited: None,
            recorded: Recorded::No,
            local: None,
            hops: 0,
            tries: 0,
            detour: false,
            disable_by: Instant::MAX,
            mismatched_until: None,
            rechecking: false,
            adopt_protection: false,
            login: Instant::ZERO,
            heard: Instant::ZERO,
            good: Instant::ZERO,
            resets: 0,
            cleared_at: None,
            flush_late: false,
            depth: Depth::new(depth),
            queues: true,
            closed_since: None,
            debts: health::Debts::default(),
            taken_at: Instant::ZERO,
            hung_at: 0,
            ask_at: Instant::MAX,
            asked: 0,
            overdue: 0,
            check: Check::NONE,
            misconfigured: false,
            alua: Standing::default(),
            spec,
        }
    }

    /// What the session has to send.
    pub(in crate::volume) fn tx(&mut self) -> Option<&mut TxQueue> {
        match self.phase {
            Phase::Waiting | Phase::Connecting | Phase::Closing { .. } | Phase::Disabled => None,
            _ => self.session.as_mut().map(|s| s.tx()),
        }
    }

    pub(in crate::volume) fn session(&mut self) -> Option<&mut Session> {
        self.session.as_deref_mut()
    }

    pub(in crate::volume) fn session_ref(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    /// Commands that the session would take now.
    pub(in crate::volume) fn room(&self) -> usize {
        match self.phase {
            Phase::Up => self.session.as_ref().map_or(0, |s| {
                s.room().min(usize::from(self.depth.limit()).saturating_sub(s.in_flight()))
            }),
            _ => 0,
        }
    }

    /// When something has to be done for this link.
    pub(in crate::volume) fn deadline(&self) -> Instant {
        let own = match &self.phase {
            Phase::Waiting => self.mismatched_until.unwrap_or(Instant::MAX),
            Phase::Probing(probing) => probing.deadline(),
            Phase::Up => self.check.deadline(),
            _ => Instant::MAX,
        };
        let session = self.session.as_ref().and_then(|s| s.poll_deadline());
        own.min(session.map_or(Instant::MAX, |(at, _)| at))
    }

    /// How long the command window has been closed while nothing is in flight: no command is late then,
    /// and pings are answered, but nothing moves.
    pub(in crate::volume) fn closed_for(&mut self, now: Instant) -> Duration {
        let in_flight = self.session.as_ref().map_or(0, |s| s.in_flight());
        if !matches!(self.phase, Phase::Up) || in_flight > 0 || self.room() > 0 {
            self.closed_since = None;
            return Duration::ZERO;
        }
        now - *self.closed_since.get_or_insert(now)
    }

    /// Where the present connection leads to, or the next one.
    pub(in crate::volume) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Whether it is logged in and takes commands, were there any.
    pub(in crate::volume) fn is_served(&self) -> bool {
        matches!(self.phase, Phase::Up | Phase::Probing(_))
    }

    /// Whether its target has let it in, and it is not known to be gone.
    pub(in crate::volume) fn is_logged_in(&self) -> bool {
        matches!(self.phase, Phase::LoggingOut { .. } | Phase::Fencing) || self.is_served()
    }

    /// Whether its session lives, or may come to.
    pub(in crate::volume) fn has_socket(&self) -> bool {
        !matches!(self.phase, Phase::Waiting | Phase::Closing { .. } | Phase::Disabled)
    }
}

/// `source -> portal, target`: how a path is named in messages.
pub(in crate::volume) fn where_(link: &Link) -> String {
    let source = match (link.local, link.spec.source) {
        (Some(local), _) => local.ip().to_string(),
        (None, Some(source)) => source.to_string(),
        (None, None) => "any".to_owned(),
    };
    format!("{source} -> {}, {}", link.remote, link.spec.target)
}

/// Everything of the links whose time has come.
pub(in crate::volume) fn timeouts(v: &mut Volume, now: Instant) {
    v.engine.handle_timeout(now);
    for index in 0..v.links.len() {
        let path = v.links[index].index;
        let again = v.links[index].mismatched_until.is_some_and(|at| at <= now);
        let overdue = v.leaving.contains(path) && v.links[index].disable_by <= now;
        match &v.links[index].phase {
            Phase::Waiting if v.engine.retry_at(path).is_some_and(|at| at <= now) => {
                v.engine.transition(now, path, State::Connecting, "");
                connect(v, now, path);
            }
            Phase::Waiting if again => {
                v.links[index].mismatched_until = None;
                v.engine.transition(now, path, State::Connecting, "looked at again");
                connect(v, now, path);
            }
            Phase::Probing(_) => probing::timeout(v, now, path),
            Phase::Up if overdue => {
                fail(v, now, path, "disabled; its commands did not end within shutdown_timeout");
            }
            Phase::Up => idle::timeout(v, now, path),
            _ => {}
        }
        let timeout = silence_timeout(v, path);
        let Some(session) = v.links[index].session.as_mut() else { continue };
        session.set_silence_timeout(timeout);
        if session.poll_deadline().is_some_and(|(at, _)| at <= now) {
            session.handle_timeout(now);
            v.mark_link(path);
            events(v, now, path);
        }
    }
}

fn silence_timeout(v: &Volume, path: PathIndex) -> Duration {
    match v.engine.is_last(path) {
        true => v.spec.tunables.last_path_timeout,
        false => v.spec.tunables.path_timeout,
    }
}

/// The tunables have changed: what a session keeps of them follows.
pub(in crate::volume) fn retune(v: &mut Volume) {
    for index in 0..v.links.len() {
        let timeout = silence_timeout(v, v.links[index].index);
        let tunables = &v.spec.tunables;
        let link = &mut v.links[index];
        link.depth.allow(if link.queues { tunables.queue_depth } else { 1 });
        if let Some(session) = link.session.as_mut() {
            session.set_nop_interval(tunables.nop_interval);
            session.set_silence_timeout(timeout);
        }
    }
}

/// Asks the driver for a connection; the path is in state `connecting`.
pub(in crate::volume) fn connect(v: &mut Volume, now: Instant, path: PathIndex) {
    let draining = v.draining.is_some();
    let timeout = v.engine.connect_patience(now, path).min(v.spec.tunables.connect_timeout);
    let link = &mut v.links[path.get()];
    if draining {
        link.phase = Phase::Disabled;
        return;
    }
    assert!(link.session.is_none(), "the old session is gone before a new connection is made");
    link.phase = Phase::Connecting;
    link.tries += 1;
    let detour = detour::choose(v, now, path);
    let link = &mut v.links[path.get()];
    link.detour = detour.is_some();
    let (source, interface) = match detour {
        Some(detour) => {
            link.remote = detour.remote;
            (detour.source, detour.interface)
        }
        None => (link.spec.source, link.spec.interface.clone()),
    };
    let action = Action::Connect { path, remote: link.remote, source, interface, timeout };
    v.actions.push_back(action);
}

pub(in crate::volume) fn connected(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    local: SocketAddr,
) {
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
    let link = &v.links[path.get()];
    let spec = &link.spec;
    let kind = Kind::Normal { target: spec.target.clone() };
    let mut config = session::Config::new(v.spec.initiator_name.clone(), spec.isid, kind);
    config.isid[5] ^= u8::from(planted(Bug::IsidChanges)) * v.links[path.get()].generation as u8;
    config.expected_portal_group = match (link.detour, link.generation) {
        (false, _) => spec.portal_group,
        (true, 0) => link.inherited.and_then(|nexus| nexus.group),
        (true, _) => link.portal_group,
    };
    config.header_digest = spec.header_digest;
    config.data_digest = spec.data_digest;
    config.chap = spec.chap.clone();
    config.login_timeout = v.spec.tunables.login_timeout;
    config.nop_interval = v.spec.tunables.nop_interval;
    config.silence_timeout = v.spec.tunables.last_path_timeout;
    config.management_timeout = v.spec.tunables.management_timeout;
    // The link keeps to the depth that is allowed, which can change while the session lives.
    config.queue_depth = limits::TASKS_PER_SESSION_MAX as u16;
    config
}

/// The driver lets go of the socket by itself.
pub(in crate::volume) fn connect_failed(v: &mut Volume, now: Instant, path: PathIndex, why: &str) {
    if matches!(v.links[path.get()].phase, Phase::Connecting) {
        fail(v, now, path, why);
    }
}

pub(in crate::volume) fn received(v: &mut Volume, now: Instant, path: PathIndex, chunk: Bytes) {
    let link = &mut v.links[path.get()];
    if !link.has_socket() {
        return;
    }
    let Some(session) = link.session.as_mut() else { return };
    session.handle_received(now, chunk);
    v.mark_link(path);
    events(v, now, path);
}

pub(in crate::volume) fn disconnected(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    error: Option<&std::io::Error>,
) {
    let link = &v.links[path.get()];
    if !link.has_socket() {
        return;
    }
    if let Phase::LoggingOut { then } = link.phase {
        logged_out(v, now, path, then);
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
    if planted(Bug::RetryTooLax) {
        fencing::believe(v, path);
    }
}

/// The driver has let go of the socket.
pub(in crate::volume) fn socket_closed(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &mut v.links[path.get()];
    let Phase::Closing { then } = link.phase else { return };
    link.session = None;
    link.local = None;
    match then {
        Then::Disabled => {
            link.phase = Phase::Disabled;
            v.leaving.remove(path);
        }
        // The engine has set the time; if it has passed, the next turn connects.
        Then::Reconnect => link.phase = Phase::Waiting,
        Then::ReconnectNow => {
            link.phase = Phase::Waiting;
            v.engine.retry_now(now, path);
        }
        Then::Connect => connect(v, now, path),
    }
}

/// The path has failed: its commands go elsewhere, its socket is reset, it comes back after a while.
pub(in crate::volume) fn fail(v: &mut Volume, now: Instant, path: PathIndex, why: &str) {
    end(v, now, path, why, Retry::Backoff);
}

/// When a path that ended is tried again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) enum Retry {
    Now,
    Backoff,
    /// An administrator has to mend something first.
    Slow,
}

/// Books the end of a link's service and gives its session and socket up.
pub(in crate::volume) fn end(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    why: &str,
    retry: Retry,
) {
    let link = &v.links[path.get()];
    if !link.has_socket() {
        return;
    }
    // A path that was logging out when it was disabled is not `leaving`, but it stays away too.
    let disabled = v.leaving.contains(path) || v.engine.state(path) == State::Disabled;
    let then = match retry {
        _ if disabled => Then::Disabled,
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
    let link = &mut v.links[path.get()];
    link.rechecking = false;
    if retry != Retry::Now {
        // A temporary redirect counts for one session.
        link.remote = link.spec.portal;
        link.hops = 0;
    }
    if served || !repeated {
        let level = if v.engine.usable().is_empty() { Level::Error } else { Level::Warn };
        v.notice(now, level, Some(path), State::Failed.name(), why);
    }
    give_up(v, now, path, then);
}

/// Ends the session on our side and asks the driver to let go of the socket.
pub(in crate::volume) fn give_up(v: &mut Volume, now: Instant, path: PathIndex, then: Then) {
    let link = &mut v.links[path.get()];
    assert!(link.has_socket(), "only a socket that exists can be given up");
    link.phase = Phase::Closing { then };
    if let Some(session) = link.session_ref() {
        link.heard = session.last_received();
    }
    v.links[path.get()].alua.session_ended();
    flush::session_ended(v, path);
    v.actions.push_back(Action::GiveUp(path));
    fencing::session_ended(v, now, path);
    if let Some(session) = v.links[path.get()].session.as_mut() {
        session.handle_closed(now, CloseReason::GivenUp);
        quiet::session_closed(v, now, path);
        events(v, now, path);
    }
}

pub(in crate::volume) fn events(v: &mut Volume, now: Instant, path: PathIndex) {
    loop {
        let Some(session) = v.links[path.get()].session.as_mut() else { return };
        let Some(event) = session.poll_event() else { return };
        match event {
            Event::Lost { token, sent: true } if fencing::was_reset(v, token) => {
                // What the reset has ended, ABORT TASK does not find: that answer comes next.
                let next = session_event(v, path);
                if next.as_ref().is_some_and(|next| is_no_task(next, token)) {
                    complete::aborted(v, now, path, token);
                } else {
                    complete::lost(v, now, path, token, true);
                }
                if let Some(next) = next {
                    event_(v, now, path, next);
                }
            }
            event => event_(v, now, path, event),
        }
    }
}

fn session_event(v: &mut Volume, path: PathIndex) -> Option<Event> {
    v.links[path.get()].session.as_mut()?.poll_event()
}

fn is_no_task(event: &Event, task: u64) -> bool {
    matches!(event, Event::TaskManagement { token, function: tmf::ABORT_TASK, response: tmf_response::NO_TASK }
        if *token == task)
}

fn event_(v: &mut Volume, now: Instant, path: PathIndex, event: Event) {
    match event {
        Event::Done { token: PROBE, tag, completion } => {
            probing::answered(v, now, path, tag, completion);
        }
        Event::Done { token: CHECK, completion, .. } => idle::answered(v, now, path, &completion),
        Event::Lost { token: CHECK, .. } | Event::Aborted { token: CHECK, .. } => {
            idle::ended(v, path);
        }
        Event::Lost { token: PROBE, .. } | Event::Aborted { token: PROBE, .. } => {
            probing::interrupted(v, now, path);
        }
        Event::Done { token: content::REFERENCE, tag, completion } => {
            content::reference_answered(v, now, path, Some((tag, completion)));
        }
        Event::Done { token: alua::ACCESS, tag, completion } => {
            alua::answered(v, now, path, tag, completion);
        }
        Event::Lost { token: alua::ACCESS, .. } | Event::Aborted { token: alua::ACCESS, .. } => {
            alua::interrupted(v, now, path);
        }
        Event::Done { token: explicit::SET, completion, .. } => {
            explicit::answered(v, now, path, Some(completion));
        }
        Event::Lost { token: explicit::SET, .. } | Event::Aborted { token: explicit::SET, .. } => {
            explicit::answered(v, now, path, None);
        }
        Event::Done { token, completion, .. } => complete::done(v, now, path, token, completion),
        Event::Lost { token: content::REFERENCE, .. }
        | Event::Aborted { token: content::REFERENCE, .. } => {
            content::reference_answered(v, now, path, None);
        }
        Event::Aborted { token, .. } => complete::aborted(v, now, path, token),
        Event::Lost { token, sent } => {
            let alive = v.links[path.get()]
                .session_ref()
                .is_some_and(|s| s.state() != session::State::Closed);
            let doubt = complete::lost(v, now, path, token, sent);
            if alive && doubt {
                // Only a new login can prove it dead now.
                fail(v, now, path, "the target does not know a write that it has not answered");
            }
        }
        Event::LoggedIn => logged_in(v, now, path),
        Event::LoginFailed(error) => login_failed(v, now, path, &error),
        Event::TaskManagement { token: FENCE, response, .. } => {
            fencing::reset_answered(v, now, path, response);
        }
        Event::TaskManagementTimedOut { token: FENCE, .. } => fencing::reset_unanswered(v, path),
        Event::TaskManagement { .. } | Event::TaskManagementTimedOut { .. } => {}
        Event::LogoutRequested { within } => {
            let why = format!("the target asked for a logout within {within:?}");
            v.notice(now, Level::Info, Some(path), "logout requested", &why);
            leave(v, now, path, &why);
        }
        Event::Async(AsyncEvent::Scsi { sense, .. }) => {
            complete::attention(v, now, path, &sense);
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
    if let Phase::LoggingOut { then } = link.phase {
        if matches!(error, SessionError::LoggedOut) {
            nexus::forget(v, path);
        }
        logged_out(v, now, path, then);
        return;
    }
    let why = format!("{error} ({})", where_(link));
    fail(v, now, path, &why);
}

/// The target wants the session to end: no new commands; the session logs out by itself when it is idle.
fn leave(v: &mut Volume, now: Instant, path: PathIndex, why: &str) {
    if !matches!(v.links[path.get()].phase, Phase::Up) {
        return;
    }
    let then = match v.engine.state(path) != State::Disabled {
        true => {
            v.engine.transition(now, path, State::Probing, why);
            Then::Reconnect
        }
        false => Then::Disabled,
    };
    v.links[path.get()].phase = Phase::LoggingOut { then };
}

/// The session ends in order when it is idle, and the path comes back at once.
pub(in crate::volume) fn renew(v: &mut Volume, now: Instant, path: PathIndex, why: &str) {
    v.notice(now, Level::Info, Some(path), "logs out", why);
    leave(v, now, path, why);
    let limit = v.spec.tunables.shutdown_timeout;
    if let Some(session) = v.links[path.get()].session() {
        session.log_out_when_idle(now, limit);
    }
    v.mark_link(path);
    events(v, now, path);
}

/// The session has ended as it should.
fn logged_out(v: &mut Volume, now: Instant, path: PathIndex, then: Then) {
    if then == Then::Reconnect && v.engine.state(path) == State::Probing {
        let link = &v.links[path.get()];
        let negotiated = link.session_ref().and_then(Session::negotiated);
        let time2wait = negotiated.map_or(Duration::ZERO, |n| n.time2wait);
        let why = "logged out in order, to come back";
        v.engine.fail(now, path, Failure::Transient, time2wait, why);
    }
    give_up(v, now, path, then);
}

fn logged_in(v: &mut Volume, now: Instant, path: PathIndex) {
    let link = &mut v.links[path.get()];
    assert!(matches!(link.phase, Phase::LoggingIn), "a login ends once");
    (link.hops, link.tries) = (0, 0);
    link.login = now;
    link.cleared_at = None;
    link.resets = v.shared.resets_sent(path);
    let group = link.session_ref().and_then(Session::negotiated).and_then(|n| n.portal_group);
    link.portal_group = group;
    v.engine.transition(now, path, State::Probing, "logged in");
    if !fencing::logged_in(v, now, path) {
        detour::go_on(v, now, path);
    }
}

fn login_failed(v: &mut Volume, now: Instant, path: PathIndex, error: &LoginError) {
    if let LoginError::Redirect { address, permanent } = error {
        redirect(v, now, path, address, *permanent);
        return;
    }
    let link = &mut v.links[path.get()];
    let why = format!("login failed: {error} ({})", where_(link));
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
        [link.spec.portal, link.configured].contains(address)
            || link.spec.redirect_allow.contains(address)
    });
    let Some(address) = allowed.filter(|_| hops <= limits::REDIRECT_HOPS_MAX) else {
        let reason = match hops > limits::REDIRECT_HOPS_MAX {
            true => format!("more than {} redirects in a row", limits::REDIRECT_HOPS_MAX),
            false => "it is neither a configured portal nor in redirect_allow".to_owned(),
        };
        let why = format!("redirected to {to}, which is not followed: {reason} ({})", where_(link));
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
