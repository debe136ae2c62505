//! One iSCSI session by hand, for questions that `mpio` itself would not ask: the production session over a
//! blocking socket, without pings and without patience of its own. Every step is the test's.

use bytes::{Bytes, BytesMut};
use mpio::base::{Instant, Payload};
use mpio::session::{
    CloseReason, Command, Config, Direction, Event, Kind, Offers, Session, TaskTag,
};
use mpio::wire::scsi::{Cdb, Transfer};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any experiment: silence is what is looked at.
const NEVER: Duration = Duration::from_secs(3600);

/// Who logs in where.
#[derive(Debug, Clone)]
pub struct Names {
    /// The portal.
    pub portal: SocketAddr,
    /// The target's name.
    pub target: String,
    /// LUN, below 256.
    pub lun: u8,
    /// Our name.
    pub initiator: String,
    /// Our session id.
    pub isid: [u8; 6],
}

/// A session and its socket. Dropped, its connection is reset like one that `mpio` gives up.
pub struct Nexus {
    session: Session,
    socket: TcpStream,
    began: std::time::Instant,
    lun: u64,
    token: u64,
    answered: Vec<TaskTag>,
}

impl Nexus {
    /// Connects and sends the login, which is answered in [`wait`](Nexus::wait).
    #[track_caller]
    pub fn connect(names: &Names) -> Nexus {
        let socket = Socket::new(Domain::for_address(names.portal), Type::STREAM, None).unwrap();
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        socket.connect_timeout(&names.portal.into(), Duration::from_secs(10)).unwrap();
        socket.set_tcp_nodelay(true).unwrap();
        let kind = Kind::Normal { target: names.target.clone() };
        let mut config = Config::new(names.initiator.clone(), names.isid, kind);
        config.login_timeout = NEVER;
        config.nop_interval = NEVER;
        config.silence_timeout = NEVER;
        config.offers = Offers::default();
        let mut entropy = [0; 64];
        entropy.iter_mut().zip(1..).for_each(|(byte, value)| *byte = value);
        let mut nexus = Nexus {
            session: Session::new(config, entropy),
            socket: socket.into(),
            began: std::time::Instant::now(),
            lun: u64::from(names.lun) << 48,
            token: 0,
            answered: Vec::new(),
        };
        let now = nexus.now();
        nexus.session.handle_connected(now);
        nexus.flush();
        nexus
    }

    /// A session in the full feature phase whose unit attentions have been taken.
    #[track_caller]
    pub fn log_in(names: &Names) -> Nexus {
        let mut nexus = Nexus::connect(names);
        assert!(nexus.logged_in(Duration::from_secs(20)), "no answer to a login at {names:?}");
        for _ in 0..8 {
            if nexus.command(Cdb::TestUnitReady, Direction::None) == Some(0) {
                return nexus;
            }
        }
        panic!("the unit does not become ready at {names:?}");
    }

    /// Whether the login is answered with success within `limit`.
    pub fn logged_in(&mut self, limit: Duration) -> bool {
        self.wait(limit, |event| matches!(event, Event::LoggedIn).then_some(())).is_some()
    }

    /// Sends WRITE(10 or 16) of whole blocks of 512 bytes and does not wait.
    #[track_caller]
    pub fn write(&mut self, lba: u64, data: &[u8]) -> TaskTag {
        let blocks = u32::try_from(data.len() / 512).unwrap();
        let payload = Payload::from(data.to_vec());
        self.submit(Cdb::Write(Transfer::new(lba, blocks)), Direction::Write(payload))
    }

    /// [`write`](Nexus::write), until it is answered with GOOD within `limit`. A unit attention (a reset on
    /// another session makes one) is taken, and the write repeated.
    pub fn write_through(&mut self, lba: u64, data: &[u8], limit: Duration) -> bool {
        (0..8).any(|_| {
            let tag = self.write(lba, data);
            self.status_of(tag, limit) == Some(0)
        })
    }

    /// The SCSI status of a command within `limit`; `None` when it was not answered.
    pub fn status_of(&mut self, tag: TaskTag, limit: Duration) -> Option<u8> {
        self.wait(limit, |event| match event {
            Event::Done { tag: done, completion, .. } if *done == tag => Some(completion.status),
            _ => None,
        })
    }

    /// Whether the target has answered a command with a status so far.
    pub fn answered(&self, tag: TaskTag) -> bool {
        self.answered.contains(&tag)
    }

    /// Sends ABORT TASK for a command.
    #[track_caller]
    pub fn abort(&mut self, tag: TaskTag) {
        let now = self.now();
        assert!(self.session.abort(now, tag), "nothing to abort");
        self.flush();
    }

    /// Sends LOGICAL UNIT RESET.
    #[track_caller]
    pub fn reset(&mut self) {
        let now = self.now();
        assert!(self.session.reset_logical_unit(now, self.lun, u64::MAX), "not sent");
        self.flush();
    }

    /// The response to task management within `limit`.
    pub fn managed(&mut self, limit: Duration) -> Option<u8> {
        self.wait(limit, |event| match event {
            Event::TaskManagement { response, .. } => Some(*response),
            _ => None,
        })
    }

    /// The first thing that `wanted` takes of what happens within `limit`. What it does not take is forgotten.
    pub fn wait<T>(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&Event) -> Option<T>,
    ) -> Option<T> {
        let until = std::time::Instant::now() + limit;
        let mut chunk = BytesMut::zeroed(64 * 1024);
        loop {
            while let Some(event) = self.session.poll_event() {
                if let Event::Done { tag, .. } = event {
                    self.answered.push(tag);
                }
                if let Some(found) = wanted(&event) {
                    return Some(found);
                }
            }
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() || self.session.state() == mpio::session::State::Closed {
                return None;
            }
            let _ = self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1))));
            let now = self.now();
            match self.socket.read(&mut chunk) {
                Ok(0) => self.session.handle_closed(now, CloseReason::Eof),
                Ok(count) => {
                    let bytes = Bytes::copy_from_slice(&chunk[..count]);
                    self.session.handle_received(now, bytes);
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(0);
                    self.session.handle_closed(now, CloseReason::Errno(errno));
                }
            }
            self.flush();
        }
    }

    fn command(&mut self, cdb: Cdb, data: Direction) -> Option<u8> {
        let tag = self.submit(cdb, data);
        self.status_of(tag, Duration::from_secs(20))
    }

    #[track_caller]
    fn submit(&mut self, cdb: Cdb, data: Direction) -> TaskTag {
        self.token += 1;
        let command = Command { token: self.token, lun: self.lun, cdb: cdb.to_bytes(), data };
        let now = self.now();
        let tag = self.session.submit(now, command).expect("room for a command");
        self.flush();
        tag
    }

    fn flush(&mut self) {
        let mut segments: Vec<Bytes> = Vec::new();
        while self.session.tx().take(64, &mut segments) > 0 {
            for segment in segments.drain(..) {
                if let Err(error) = self.socket.write_all(&segment) {
                    let errno = error.raw_os_error().unwrap_or(0);
                    let now = self.now();
                    self.session.handle_closed(now, CloseReason::Errno(errno));
                    return;
                }
            }
        }
    }

    fn now(&self) -> Instant {
        // A session's time begins somewhere; not at zero, which some of its fields start with.
        Instant::from_nanos(1_000_000_000 + self.began.elapsed().as_nanos() as u64)
    }
}

impl Drop for Nexus {
    fn drop(&mut self) {
        let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
    }
}
