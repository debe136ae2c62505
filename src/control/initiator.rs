//! One iSCSI session on a tokio socket, for what is asked once: SendTargets, the LUNs of a target.
//!
//! The session itself is the same pure object that lanes drive; this driver only carries its bytes and
//! its time, one exchange at a time. Deliberately not here: anything of the data path.

use super::connect::{ConnectError, Way, connect};
use crate::base::{Duration, Instant};
use crate::control::config::Chap;
use crate::session::chap::Credentials;
use crate::session::{
    CloseReason, Command, Completion, Config, Direction, Event, LoginError, Session, SessionError,
    TargetRecord,
};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes per receive.
const RECEIVE: usize = 64 * 1024;
/// Segments per send.
const SEGMENTS: usize = 64;

/// Why a target could not be asked. Every text names portal and source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A connection, and no login.
    #[error("{way}: {error}; try: {}", hint(.error, *.chap))]
    Login {
        /// Whether CHAP was offered.
        chap: bool,
        /// From where to where.
        way: Way,
        /// What the login ended with.
        error: Box<LoginError>,
    },
    /// A login, and then no answer.
    #[error("{way}: {error}; try: again, or the target's log")]
    Session {
        /// From where to where.
        way: Way,
        /// What the session ended with.
        error: Box<SessionError>,
    },
    /// This process cannot.
    #[error("{0}; try: check the limits of this process")]
    System(String),
}

/// What an administrator can do about a login that failed.
fn hint(error: &LoginError, chap: bool) -> &'static str {
    match error {
        LoginError::Status { class: 2, detail: 1 } if !chap => {
            "CHAP: chap = { … } in the [[portal]], or --chap-user and --chap-secret-file"
        }
        LoginError::Status { class: 2, detail: 1 } | LoginError::Authentication(_) => {
            "the CHAP names and secrets on both sides"
        }
        LoginError::Status { class: 2, detail: 2 } => {
            "let this initiator's name in, in the target's access list"
        }
        LoginError::Status { class: 2, detail: 3 | 4 } => "mpio discover shows the target names",
        LoginError::Redirect { .. } => "a [[portal]] with that address, or redirect_allow",
        LoginError::Status { class: 3, .. } | LoginError::Status { class: 2, detail: 6 } => "later",
        LoginError::Frame(_)
        | LoginError::Text(_)
        | LoginError::Protocol(_)
        | LoginError::UnexpectedPdu { .. } => "is it an iSCSI target that listens there?",
        _ => "the target's log",
    }
}

/// A session on a socket.
pub struct Initiator {
    stream: TcpStream,
    session: Session,
    epoch: std::time::Instant,
    receive: BytesMut,
    way: Way,
}

impl Initiator {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`AskError`], by cause.
    pub async fn login(
        way: &Way,
        config: Config,
        patience: Duration,
    ) -> Result<Initiator, AskError> {
        let mut entropy = [0; 64];
        let chap = config.chap.is_some();
        getrandom::fill(&mut entropy).map_err(|error| AskError::System(error.to_string()))?;
        let stream = connect(way, patience).await?;
        let mut initiator = Initiator {
            stream,
            session: Session::new(config, entropy),
            epoch: std::time::Instant::now(),
            receive: BytesMut::new(),
            way: way.clone(),
        };
        let now = initiator.now();
        initiator.session.handle_connected(now);
        loop {
            match initiator.event().await {
                Event::LoggedIn => return Ok(initiator),
                Event::LoginFailed(error) => {
                    return Err(AskError::Login { chap, way: way.clone(), error: error.into() });
                }
                Event::Closed(error) => {
                    return Err(AskError::Session { way: way.clone(), error: error.into() });
                }
                _ => {}
            }
        }
    }

    /// Asks a discovery session for its targets.
    ///
    /// # Errors
    /// When the session ends instead.
    pub async fn targets(&mut self) -> Result<Vec<TargetRecord>, AskError> {
        let now = self.now();
        self.session.send_targets(now);
        loop {
            match self.event().await {
                Event::Targets(records) => return Ok(records),
                Event::Closed(error) => return Err(self.ended(error)),
                _ => {}
            }
        }
    }

    /// Sends one command and waits for its end. A command that the target aborted counts as an error.
    ///
    /// # Errors
    /// When the session ends instead.
    pub async fn command(
        &mut self,
        lun: u64,
        cdb: [u8; 16],
        read_len: u32,
    ) -> Result<Completion, AskError> {
        let data = if read_len == 0 { Direction::None } else { Direction::Read { len: read_len } };
        let mut waiting = Some(Command { token: 0, lun, cdb, data });
        loop {
            // The window may be closed for a moment; the session's own timers bound that.
            if let Some(command) = waiting.take() {
                let now = self.now();
                waiting = self.session.submit(now, command).err();
            }
            match self.event().await {
                Event::Done { completion, .. } => return Ok(completion),
                Event::Closed(error) => return Err(self.ended(error)),
                Event::Lost { .. } | Event::Aborted { .. } => {
                    return Err(self.ended(SessionError::Transport(CloseReason::GivenUp)));
                }
                _ => {}
            }
        }
    }

    /// Logs out; how the target takes it does not matter any more.
    pub async fn logout(mut self) {
        let now = self.now();
        self.session.logout(now);
        loop {
            if let Event::Closed(_) = self.event().await {
                return;
            }
        }
    }

    fn ended(&self, error: SessionError) -> AskError {
        AskError::Session { way: self.way.clone(), error: error.into() }
    }

    fn now(&self) -> Instant {
        let nanos = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Instant::from_nanos(nanos)
    }

    /// Carries bytes and time until something happened.
    async fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.session.poll_event() {
                return event;
            }
            self.turn().await;
        }
    }

    async fn turn(&mut self) {
        if let Err(reason) = self.flush().await {
            let now = self.now();
            return self.session.handle_closed(now, reason);
        }
        let deadline = self.session.poll_deadline().map(|(at, _)| at.since(self.now()));
        let deadline = deadline.unwrap_or(Duration::from_secs(1));
        self.receive.reserve(RECEIVE);
        let received = tokio::select! {
            received = self.stream.read_buf(&mut self.receive) => Some(received),
            () = tokio::time::sleep(deadline) => None,
        };
        let now = self.now();
        match received {
            None => self.session.handle_timeout(now),
            Some(Ok(0)) => self.session.handle_closed(now, CloseReason::Eof),
            Some(Ok(_)) => {
                let chunk: Bytes = self.receive.split().freeze();
                self.session.handle_received(now, chunk);
            }
            Some(Err(error)) => self.session.handle_closed(now, reason(&error)),
        }
    }

    async fn flush(&mut self) -> Result<(), CloseReason> {
        let mut segments = Vec::new();
        while self.session.tx().take(SEGMENTS, &mut segments) > 0 {
            for segment in segments.drain(..) {
                self.stream.write_all(&segment).await.map_err(|error| reason(&error))?;
            }
        }
        Ok(())
    }
}

fn reason(error: &std::io::Error) -> CloseReason {
    error.raw_os_error().map_or(CloseReason::GivenUp, CloseReason::Errno)
}

/// What a session needs of a portal's CHAP settings.
///
/// # Errors
/// When they cannot be used; configuration has checked them, so this is for the command line.
pub fn credentials(chap: Option<&Chap>) -> Result<Option<Arc<Credentials>>, AskError> {
    let Some(chap) = chap else { return Ok(None) };
    let credentials = chap.credentials().map_err(|error| AskError::System(error.to_string()))?;
    Ok(Some(credentials))
}
