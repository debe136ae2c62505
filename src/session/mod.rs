//! The iSCSI initiator for one session with one connection (RFC 7143), ErrorRecoveryLevel 0: a pure
//! object. It does no I/O and reads no clock; a driver owns the socket and tells the time.
//!
//! ```text
//!            handle_connected       final Login Response       logout / Async
//!   Idle ──────────────────► Login ─────────────────► FullFeature ─────────► LoggingOut
//!     └────────────┴───────────┴── any error, silence, handle_closed ──┴──────────┴──► Closed
//! ```
//!
//! Grammar of a driver: after any `handle_*` or command, take [`Session::poll_event`] until it gives
//! nothing, then [`Session::tx`] (which also makes the next piece of a long write ready, so ask again
//! after each send), then [`Session::poll_deadline`]. `Closed` and `LoginFailed` end a session: exactly one of
//! them comes, the socket is given up, and a new login needs a new `Session`.
//!
//! | file | what |
//! |---|---|
//! | `login`, `negotiate`, `chap` | until full feature phase |
//! | `receive` | which handler a PDU goes to |
//! | `transfer` | commands and their data, both ways |
//! | `manage` | pings, task management, async messages, rejects, logout |
//! | `exchange`, `discovery` | text requests, SendTargets |
//! | `timer` | deadlines |
//! | `task`, `window` | tags, CmdSN and StatSN |
//!
//! Deliberately not here: what SCSI status and sense mean (`path`), queues of commands that do not fit
//! the window (`volume`), reconnecting, following redirects.

pub mod chap;
pub mod config;
mod discovery;
pub mod error;
pub mod event;
mod exchange;
mod login;
mod manage;
mod negotiate;
mod receive;
mod task;
mod timer;
mod transfer;
mod window;

pub use config::{Config, Digest, Kind, Offers};
pub use error::{AuthenticationError, CloseReason, LoginError, SessionError};
pub use event::{
    AsyncEvent, Command, Completion, Direction, Event, Residual, TargetRecord, TaskTag,
};
pub use negotiate::Negotiated;
pub use timer::Deadline;

use crate::base::{Duration, Instant, Payload, Serial, TxQueue};
use crate::limits;
use crate::wire::iscsi::request::LoginRequest;
use crate::wire::iscsi::{Deframer, Framer};
use bytes::Bytes;
use exchange::Exchange;
use login::Login;
use manage::{Concluded, Management};
use receive::Incoming;
use std::collections::VecDeque;
use task::{Tasks, Way};
use transfer::{Rules, Transfer};
use window::Window;

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No connection yet.
    Idle,
    /// Login phase.
    Login,
    /// Commands flow.
    FullFeature,
    /// A Logout Request was sent.
    LoggingOut,
    /// Over.
    Closed,
}

/// What a session counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Bytes received.
    pub received_bytes: u64,
    /// PDUs received.
    pub received_pdus: u64,
    /// Commands sent.
    pub commands: u64,
    /// Data-In PDUs received.
    pub data_in: u64,
    /// Data-Out PDUs sent.
    pub data_out: u64,
    /// R2Ts received.
    pub r2ts: u64,
    /// Pings sent.
    pub pings: u64,
    /// Pings of the target that were answered.
    pub pongs: u64,
    /// Rejects received.
    pub rejects: u64,
    /// Asynchronous messages received.
    pub asyncs: u64,
    /// Header and data digests that did not match.
    pub digest_errors: u64,
}

/// Why the session is to end: an error of the phase that it is in.
enum End {
    Login(LoginError),
    Session(SessionError),
}

impl From<LoginError> for End {
    fn from(error: LoginError) -> End {
        End::Login(error)
    }
}

impl From<SessionError> for End {
    fn from(error: SessionError) -> End {
        End::Session(error)
    }
}

/// One session.
pub struct Session {
    config: Config,
    entropy: [u8; 64],
    state: State,
    login: Option<Box<Login>>,
    negotiated: Option<Box<Negotiated>>,
    rules: Rules,
    window: Window,
    tasks: Tasks,
    transfers: VecDeque<Transfer>,
    managements: Vec<Management>,
    concluded: Concluded,
    superseded: Concluded,
    exchange: Option<Box<Exchange>>,
    deframer: Deframer,
    framer: Framer,
    incoming: Incoming,
    collected: Vec<u8>,
    tx: TxQueue,
    events: VecDeque<Event>,
    /// Tag of our ping in flight.
    ping: Option<u32>,
    /// Generation of tags that are not commands.
    generation: u16,
    /// Answers to pings of the target since the transmit queue was last empty.
    pongs: u32,
    last_received: Instant,
    /// When the target last moved any command on.
    last_moved: Instant,
    /// When the ping in flight was sent.
    pinged_at: Instant,
    /// Since when an answer has been owed without a break.
    owed_since: Instant,
    /// End of the login, or of the logout.
    phase_deadline: Instant,
    /// When to log out because the target asked.
    logout_due: Option<Instant>,
    /// When task management requests that were refused for lack of resources are sent again.
    management_retry: Option<Instant>,
    /// When the eldest task management request is not waited for any longer.
    management_deadline: Option<Instant>,
    /// There were commands with data to the target when it ended, of which a byte had left.
    left_writes: bool,
    statistics: Statistics,
}

impl Session {
    /// A session that waits for its connection. `entropy` must be fresh and unpredictable for each login:
    /// it gives the first CmdSN, tags, and CHAP identifier and challenge.
    ///
    /// # Panics
    /// When the queue depth is 0 or above [`limits::TASKS_PER_SESSION_MAX`].
    #[must_use]
    pub fn new(config: Config, entropy: [u8; 64]) -> Session {
        let depth = config.queue_depth;
        assert!(depth > 0 && usize::from(depth) <= limits::TASKS_PER_SESSION_MAX, "depth {depth}");
        let [a, b, c, d, _, e, f, ..] = entropy;
        let generation = u16::from_be_bytes([e, f]);
        Session {
            entropy,
            state: State::Idle,
            login: None,
            negotiated: None,
            rules: Rules::default(),
            window: Window::new(Serial(u32::from_be_bytes([a, b, c, d]))),
            tasks: Tasks::new(depth, generation),
            transfers: VecDeque::with_capacity(usize::from(depth)),
            managements: Vec::new(),
            concluded: Concluded::default(),
            superseded: Concluded::default(),
            exchange: None,
            deframer: Deframer::new(limits::LOGIN_SEGMENT_MAX, false),
            framer: Framer::default(),
            incoming: Incoming::Nothing,
            collected: Vec::new(),
            tx: TxQueue::new(),
            events: VecDeque::with_capacity(usize::from(depth) + 16),
            ping: None,
            generation,
            pongs: 0,
            last_received: Instant::ZERO,
            last_moved: Instant::ZERO,
            pinged_at: Instant::ZERO,
            owed_since: Instant::ZERO,
            phase_deadline: Instant::MAX,
            logout_due: None,
            management_retry: None,
            management_deadline: None,
            left_writes: false,
            statistics: Statistics::default(),
            config,
        }
    }

    /// TCP is up: the first Login Request goes to `tx`.
    ///
    /// # Panics
    /// When called twice.
    pub fn handle_connected(&mut self, now: Instant) {
        if self.state == State::Closed {
            return;
        }
        assert!(self.state == State::Idle, "connected in state {:?}", self.state);
        self.state = State::Login;
        self.last_received = now;
        self.phase_deadline = now + self.config.login_timeout;
        match Login::start(&self.config, self.window.cmd_sn, self.entropy) {
            Ok((login, request, text)) => {
                self.login = Some(Box::new(login));
                self.send_login(&request, &text);
            }
            Err(error) => self.end(End::Login(error)),
        }
        // What the login needs of it was copied.
        self.entropy = [0; 64];
    }

    /// Bytes came, in any segmentation.
    pub fn handle_received(&mut self, now: Instant, chunk: Bytes) {
        if matches!(self.state, State::Idle | State::Closed) {
            return;
        }
        self.last_received = self.last_received.max(now);
        self.statistics.received_bytes += chunk.len() as u64;
        if let Err(end) = self.receive(now, &chunk) {
            self.end(end);
        }
    }

    /// TCP is gone or is being given up: every command ends as [`Event::Lost`]. Idempotent.
    pub fn handle_closed(&mut self, _now: Instant, why: CloseReason) {
        match self.state {
            State::Closed => {}
            State::Idle | State::Login => self.end(End::Login(LoginError::Closed(why))),
            State::FullFeature | State::LoggingOut => {
                self.end(End::Session(SessionError::Transport(why)));
            }
        }
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What is to be sent. Long writes are made ready here piece by piece, so that what no longer needs
    /// to be sent never is.
    pub fn tx(&mut self) -> &mut TxQueue {
        self.pump();
        &mut self.tx
    }

    /// Where the session is.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// What both sides agreed on, from [`Event::LoggedIn`] on.
    #[must_use]
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.as_deref()
    }

    /// Commands without an answer.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.tasks.live()
    }

    /// When the last byte came.
    #[must_use]
    pub fn last_received(&self) -> Instant {
        self.last_received
    }

    /// When the target last moved a command on (sent data or an R2T for it), or it was submitted.
    #[must_use]
    pub fn last_progress(&self, tag: TaskTag) -> Option<Instant> {
        self.tasks.peek(tag.0).map(|task| task.progress)
    }

    /// Whether some of what a live command has to send has not been handed to the kernel.
    #[must_use]
    pub fn awaits_socket(&self, tag: TaskTag) -> bool {
        let handed = self.tx.handed();
        self.tasks.peek(tag.0).is_some_and(|task| task.queued > 0 || handed <= task.start)
    }

    /// Whether the target has to wait for data of this live command: it has not asked for all of them, or not
    /// all were handed to the kernel. Task management for it is not sent: see [`Session::abort`].
    #[must_use]
    pub fn data_outstanding(&self, tag: TaskTag) -> bool {
        let handed = self.tx.handed();
        self.tasks.peek(tag.0).is_some_and(|task| task.owes_data(handed))
    }

    /// The same of any live command of this logical unit.
    #[must_use]
    pub fn any_data_outstanding(&self, lun: u64) -> bool {
        let handed = self.tx.handed();
        self.tasks.any(|task| task.lun == lun && task.owes_data(handed))
    }

    /// Whether any live command of this logical unit carries data to the target.
    #[must_use]
    pub fn any_write(&self, lun: u64) -> bool {
        self.tasks.any(|task| task.lun == lun && task.way == Way::Write)
    }

    /// Whether the session has ended, and its target may have to do with some of its data still.
    #[must_use]
    pub fn has_left_writes(&self) -> bool {
        self.left_writes
    }

    /// When the target last moved any command on: an answer, data, an R2T. Pings do not count.
    #[must_use]
    pub fn last_moved(&self) -> Instant {
        self.last_moved
    }

    /// Gives a live command another name: its end is told under that one. `false` when its end is told
    /// already, or it never was.
    pub fn rename(&mut self, tag: TaskTag, token: u64) -> bool {
        let Some(task) = self.tasks.get(tag.0) else { return false };
        task.token = token;
        for m in self.managements.iter_mut().filter(|m| m.is_about(tag.0)) {
            m.set_token(token);
        }
        true
    }

    /// Nobody wants the data of this read any more: what came is let go, what comes is dropped.
    pub fn discard(&mut self, tag: TaskTag) {
        if let Some(task) = self.tasks.get(tag.0).filter(|task| task.way == Way::Read) {
            task.unwanted = true;
            task.data = Payload::new();
        }
    }

    /// Whether a byte of a live command was handed to the kernel, so that it may execute.
    #[must_use]
    pub fn was_sent(&self, tag: TaskTag) -> Option<bool> {
        self.tasks.peek(tag.0).map(|task| self.tx.handed() > task.start)
    }

    /// Counters.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// What the session was built with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Changes how long a silence may last.
    pub fn set_silence_timeout(&mut self, timeout: Duration) {
        self.config.silence_timeout = timeout;
    }

    /// From now on all data of writes waits for an R2T: the target refused what it had not asked for.
    pub fn solicit_all(&mut self) {
        self.rules.solicit_all();
    }

    /// Changes how often a quiet connection is pinged.
    pub fn set_nop_interval(&mut self, interval: Duration) {
        self.config.nop_interval = interval;
    }

    fn send_login(&mut self, request: &LoginRequest, text: &[u8]) {
        self.framer.put(&mut self.tx, &request.to_bhs(), text);
    }

    /// Login is done: everything that was agreed takes effect together (RFC 7143 section 6.2).
    fn enter_full_feature(&mut self, agreed: Box<Negotiated>) {
        assert!(self.state == State::Login, "full feature phase from {:?}", self.state);
        self.login = None;
        self.state = State::FullFeature;
        self.phase_deadline = Instant::MAX;
        self.deframer.set_digests(agreed.header_digest, agreed.data_digest);
        self.deframer.set_max_segment(agreed.max_recv_segment);
        self.framer =
            Framer { header_digest: agreed.header_digest, data_digest: agreed.data_digest };
        self.rules = Rules::new(&agreed);
        self.negotiated = Some(agreed);
        self.events.push_back(Event::LoggedIn);
    }

    /// The one way into `Closed`.
    fn end(&mut self, end: End) {
        assert!(self.state != State::Closed, "a session ends once");
        let digest = match &end {
            End::Login(LoginError::Frame(error)) | End::Session(SessionError::Frame(error)) => {
                error.is_digest()
            }
            End::Login(_) | End::Session(_) => false,
        };
        self.statistics.digest_errors += u64::from(digest);
        let handed = self.tx.handed();
        self.left_writes = self.tasks.any(|t| t.way == Way::Write && handed > t.start);
        for tag in self.tasks.tags(|_| true) {
            self.lose(tag);
        }
        assert!(self.tasks.live() == 0, "a session ended with tasks");
        self.state = State::Closed;
        self.login = None;
        self.exchange = None;
        self.incoming = Incoming::Nothing;
        self.transfers.clear();
        self.managements.clear();
        self.ping = None;
        self.tx.clear();
        self.events.push_back(match end {
            End::Login(error) => Event::LoginFailed(error),
            End::Session(error) => Event::Closed(error),
        });
    }

    /// Ends a command without an answer.
    fn lose(&mut self, tag: TaskTag) {
        let handed = self.tx.handed();
        let task = self.tasks.get(tag.0).expect("a listed task is live");
        let event = Event::Lost { token: task.token, sent: handed > task.start };
        self.events.push_back(event);
        self.release(tag.0);
    }
}

#[cfg(test)]
mod tests;
