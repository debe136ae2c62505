//! One boundary between a lane and the kernel: sockets, receives, sends, and one wait for all of them.
//!
//! The model: a lane's thread owns a [`Ring`]. Calls only queue work; [`Ring::submit_and_wait`] is the wait
//! of a turn, and hands out every completion that there is. A socket is named by a [`SockId`], has at most
//! one receive and one send in flight, and ends with exactly one [`Completion::Closed`], whatever happened
//! to it before. Behind it stands io_uring ([`uring`]), or epoll ([`epoll`]) where io_uring is refused; both
//! pass the same tests.
//!
//! This is the only module with unsafe code.
//!
//! Deliberately not here: any protocol, any retry. A clock is read for the time limits of connects alone.

mod epoll;
mod pool;
mod send;
mod socket;
mod table;
#[cfg(test)]
mod tests;
mod uring;
mod waker;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;

use crate::base::Tenants;
use crate::limits::RECV_BUFFERS_FREE_MAX;
use epoll::Epoll;
use uring::Uring;

pub use pool::PoolStats;
pub use socket::{Stage, explain};
pub use uring::RingError;
pub use waker::Waker;

/// Free room in a socket's buffer, bytes, below which a receive goes to another buffer, unless it asks
/// for less.
const RECV_ROOM_MIN: usize = 32 * 1024;

/// What the kernel is asked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Io {
    /// io_uring, and epoll where that is refused.
    #[default]
    Best,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Epoll,
}

impl Io {
    /// What the environment variable `MPIO_IO` asks for: `epoll`, `io_uring`; anything else is the best.
    #[must_use]
    pub fn from_environment() -> Io {
        match std::env::var("MPIO_IO").as_deref() {
            Ok("epoll") => Io::Epoll,
            Ok("io_uring") => Io::Uring,
            _ => Io::Best,
        }
    }
}

/// Names a socket of one ring. An id never names another socket later, so a stale one is harmless where
/// it is allowed and noticed where it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SockId {
    index: u32,
    generation: u32,
}

impl SockId {
    /// A small number for tables: below [`RingConfig::sockets`], used again after the socket has ended.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// Where to connect to, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// The portal.
    pub remote: SocketAddr,
    /// The local address to be bound to before connecting; the connection comes from it or not at all.
    pub source: Option<IpAddr>,
    /// The network interface to be bound to (SO_BINDTODEVICE).
    pub interface: Option<String>,
    /// How long to wait for the peer's answer.
    pub timeout: Duration,
}

/// The size of a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingConfig {
    /// Sockets at the same time, 1 to 8192.
    pub sockets: usize,
    /// Submissions between two system calls; more than these cost another one. A power of two.
    pub entries: u32,
    /// Receive buffers that are kept for use again while nobody refers to them.
    pub buffers: usize,
    /// SO_SNDBUF of TCP sockets, bytes; `None` leaves it to the kernel. A fixed size keeps what is
    /// queued in the caches: without it a session that has carried large writes stays slower.
    pub send_buffer: Option<usize>,
    /// What the kernel is asked by.
    pub io: Io,
}

impl Default for RingConfig {
    fn default() -> RingConfig {
        let send_buffer = Some(256 * 1024);
        RingConfig {
            sockets: 1024,
            entries: 512,
            buffers: RECV_BUFFERS_FREE_MAX,
            send_buffer,
            io: Io::Best,
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Completion {
    /// The connection is up, from this local address.
    Connected {
        /// Which socket.
        sock: SockId,
        /// Its local end.
        local: SocketAddr,
    },
    /// No connection: the kind is `TimedOut` when nobody answered. `Closed` follows by itself.
    ConnectFailed {
        /// Which socket.
        sock: SockId,
        /// Why; [`explain`] with [`Stage::Connect`] has words for it.
        error: io::Error,
    },
    /// Bytes, at least one. They share a receive buffer, which is used again when all parts are dropped.
    Received {
        /// Which socket.
        sock: SockId,
        /// The bytes.
        chunk: Bytes,
    },
    /// The peer sends no more.
    Eof {
        /// Which socket.
        sock: SockId,
    },
    /// The receive failed; the socket stays until it is given up or closed.
    RecvFailed {
        /// Which socket.
        sock: SockId,
        /// Why.
        error: io::Error,
    },
    /// Every byte of a send that was [`Sending::InFlight`] was taken by the kernel.
    Sent {
        /// Which socket.
        sock: SockId,
        /// The vector of the send, empty, to be used again.
        segments: Vec<Bytes>,
        /// Bytes sent.
        bytes: usize,
    },
    /// The send failed; the socket stays until it is given up or closed.
    SendFailed {
        /// Which socket.
        sock: SockId,
        /// Why.
        error: io::Error,
        /// Bytes that the kernel had taken before.
        bytes: usize,
    },
    /// [`Waker::wake`] was called since the last time.
    Woken,
    /// The socket has ended, its descriptor is closed, and nothing of it comes after this.
    Closed {
        /// Which socket it was.
        sock: SockId,
    },
}

/// What became of a send at once.
#[derive(Debug)]
#[must_use]
pub enum Sending {
    /// The kernel has taken every byte; nothing of it is in flight.
    Done {
        /// The vector of the send, empty, to be used again.
        segments: Vec<Bytes>,
    },
    /// `Sent` or `SendFailed` follows.
    InFlight,
}

/// Counters of one ring since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RingStats {
    /// System calls that submitted or waited.
    pub enters: u64,
    /// Operations handed to the kernel.
    pub submitted: u64,
    /// Completions reaped.
    pub completed: u64,
    /// Sends that the kernel took whole at once, without an operation of the ring.
    pub direct_sends: u64,
    /// Sends that the kernel took in more than one part.
    pub partial_sends: u64,
    /// Receive buffers.
    pub pool: PoolStats,
    /// Sockets that exist now.
    pub sockets: usize,
    /// Operations in flight now, the waker's read included.
    pub in_flight: usize,
}

enum Engine {
    Uring(Box<Uring>),
    Epoll(Box<Epoll>),
}

/// The sockets of one lane. Belongs to the thread that made it.
pub struct Ring {
    engine: Engine,
    /// Why io_uring is not used, where it was wanted.
    refused: Option<RingError>,
}

impl Ring {
    /// Makes a ring for the calling thread.
    ///
    /// # Errors
    /// Where io_uring is missing, refused or too old; the text names cause and remedy.
    ///
    /// # Panics
    /// When `config` is outside its ranges.
    pub fn new(config: RingConfig) -> Result<Ring, RingError> {
        assert!((1..=8192).contains(&config.sockets), "{} sockets", config.sockets);
        assert!(config.entries.is_power_of_two() && config.entries <= 4096, "submission entries");
        let mut refused = None;
        if config.io != Io::Epoll {
            match Uring::new(&config) {
                Ok(uring) => return Ok(Ring { engine: Engine::Uring(Box::new(uring)), refused }),
                Err(error) if config.io == Io::Uring || !error.is_refusal() => return Err(error),
                Err(error) => refused = Some(error),
            }
        }
        let epoll = Epoll::new(&config).map_err(RingError::Other)?;
        Ok(Ring { engine: Engine::Epoll(Box::new(epoll)), refused })
    }

    /// What the kernel is asked by: `Uring` or `Epoll`.
    #[must_use]
    pub fn io(&self) -> Io {
        match self.engine {
            Engine::Uring(_) => Io::Uring,
            Engine::Epoll(_) => Io::Epoll,
        }
    }

    /// Why io_uring is not used although it was to be.
    pub fn take_refusal(&mut self) -> Option<RingError> {
        self.refused.take()
    }

    /// What other threads wake this ring with.
    #[must_use]
    pub fn waker(&self) -> Waker {
        match &self.engine {
            Engine::Uring(ring) => ring.waker(),
            Engine::Epoll(ring) => ring.waker(),
        }
    }

    /// Starts to connect; `Connected` or `ConnectFailed` tells the rest.
    ///
    /// # Errors
    /// When the socket cannot be made or bound: a source that this host does not have is
    /// `AddrNotAvailable`. [`explain`] with [`Stage::Prepare`] has words for it.
    pub fn connect(&mut self, connect: &Connect) -> io::Result<SockId> {
        match &mut self.engine {
            Engine::Uring(ring) => ring.connect(connect),
            Engine::Epoll(ring) => ring.connect(connect),
        }
    }

    /// Takes over a connected stream socket, such as an accepted one. `linger_reset`: close resets, as
    /// for sockets that this ring connects.
    ///
    /// # Errors
    /// When it is no stream socket, or the ring has no room; the descriptor is closed then.
    pub fn adopt(&mut self, fd: OwnedFd, linger_reset: bool) -> io::Result<SockId> {
        match &mut self.engine {
            Engine::Uring(ring) => ring.adopt(fd, linger_reset),
            Engine::Epoll(ring) => ring.adopt(fd, linger_reset),
        }
    }

    /// Receives up to `max` bytes, at most [`RECV_BUFFER`]: `Received`, `Eof` or `RecvFailed` follows.
    /// A socket keeps one buffer of that size for as long as it lives, so receive memory is at most
    /// sockets plus [`RingConfig::buffers`] times that, and what the holders of parts keep alive.
    ///
    /// # Panics
    /// When the socket is not open or has a receive in flight.
    pub fn recv(&mut self, sock: SockId, max: usize) {
        match &mut self.engine {
            Engine::Uring(ring) => ring.recv(sock, max),
            Engine::Epoll(ring) => ring.recv(sock, max),
        }
    }

    fn pool(&mut self) -> &mut pool::Pool {
        match &mut self.engine {
            Engine::Uring(ring) => ring.pool(),
            Engine::Epoll(ring) => ring.pool(),
        }
    }

    /// `bytes` of receive buffers may be referred to at the same time: so many are kept for use again.
    pub fn expect_received(&mut self, bytes: usize) {
        self.pool().expect(bytes);
    }

    /// Bytes of the receive buffers that are used up and were still referred to when they were last looked at.
    pub fn received_waiting(&mut self) -> usize {
        self.pool().waiting()
    }

    /// Looks at all of them: the bytes of those that are referred to now.
    pub fn sweep_received(&mut self) -> usize {
        self.pool().sweep()
    }

    /// These buffers, to find out who refers to them.
    pub fn tenants(&mut self) -> Tenants {
        self.pool().tenants()
    }

    /// Sends all bytes of `segments`, at most [`SEND_SEGMENTS_MAX`](crate::limits::SEND_SEGMENTS_MAX) of
    /// them and at least one byte, in order.
    ///
    /// What the socket's buffer has room for is taken by a plain `sendmsg` now, which is nearly always
    /// everything: then nothing is in flight, the buffers are free before the next receive is armed, and no
    /// completion ends the wait that follows. Only a rest becomes an operation of the ring: `Sent` or
    /// `SendFailed` follows, and the segments are kept until then.
    ///
    /// # Panics
    /// When the socket is not open, has a send in flight, or there is nothing to send.
    pub fn send(&mut self, sock: SockId, segments: Vec<Bytes>) -> Sending {
        match &mut self.engine {
            Engine::Uring(ring) => ring.send(sock, segments),
            Engine::Epoll(ring) => ring.send(sock, segments),
        }
    }

    /// Gives the socket up: the peer is reset before this returns, nothing more is sent, and the only
    /// completion to come is `Closed`. (What [`Ring::submit_and_wait`] has handed out before is out:
    /// [`Ring::is_open`] tells.) Harmless for a socket that was given up or has ended.
    pub fn give_up(&mut self, sock: SockId) {
        match &mut self.engine {
            Engine::Uring(ring) => ring.give_up(sock),
            Engine::Epoll(ring) => ring.give_up(sock),
        }
    }

    /// Ends the socket in good order: a send in flight is finished, then FIN, then close. What the
    /// kernel has queued is still delivered, so this is for connections that both sides have agreed to
    /// end. Only `Closed` follows; a peer that takes nothing delays it for ever, and [`Ring::give_up`]
    /// cuts that short. Unread input makes the kernel reset instead.
    pub fn close(&mut self, sock: SockId) {
        match &mut self.engine {
            Engine::Uring(ring) => ring.close(sock),
            Engine::Epoll(ring) => ring.close(sock),
        }
    }

    /// Whether the socket can receive and send: it is connected and neither closed nor given up.
    #[must_use]
    pub fn is_open(&self, sock: SockId) -> bool {
        match &self.engine {
            Engine::Uring(ring) => ring.is_open(sock),
            Engine::Epoll(ring) => ring.is_open(sock),
        }
    }

    /// Whether a receive is in flight.
    #[must_use]
    pub fn is_receiving(&self, sock: SockId) -> bool {
        match &self.engine {
            Engine::Uring(ring) => ring.is_receiving(sock),
            Engine::Epoll(ring) => ring.is_receiving(sock),
        }
    }

    /// Whether a send is in flight.
    #[must_use]
    pub fn is_sending(&self, sock: SockId) -> bool {
        match &self.engine {
            Engine::Uring(ring) => ring.is_sending(sock),
            Engine::Epoll(ring) => ring.is_sending(sock),
        }
    }

    /// The local address of a TCP socket that exists.
    #[must_use]
    pub fn local_addr(&self, sock: SockId) -> Option<SocketAddr> {
        match &self.engine {
            Engine::Uring(ring) => ring.local_addr(sock),
            Engine::Epoll(ring) => ring.local_addr(sock),
        }
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> RingStats {
        match &self.engine {
            Engine::Uring(ring) => ring.stats(),
            Engine::Epoll(ring) => ring.stats(),
        }
    }

    /// Submits what is queued, waits for a completion, no longer than `until` (`None`: for ever, zero:
    /// not at all), and appends every completion that there is to `out`. May return with nothing, early.
    ///
    /// # Panics
    /// When the kernel refuses the call as such, which would be a bug of this module.
    pub fn submit_and_wait(&mut self, until: Option<Duration>, out: &mut Vec<Completion>) {
        match &mut self.engine {
            Engine::Uring(ring) => ring.submit_and_wait(until, out),
            Engine::Epoll(ring) => ring.submit_and_wait(until, out),
        }
    }

    /// Sets an alarm: a wait ends `after` this time, once, possibly with nothing. Unlike the limit of a wait it
    /// stays while waits come and go, and costs them nothing. False when too many are set.
    #[must_use]
    pub fn alarm(&mut self, after: Duration) -> bool {
        match &mut self.engine {
            Engine::Uring(ring) => ring.alarm(after),
            Engine::Epoll(ring) => ring.alarm(after),
        }
    }

    /// Submits what is queued, without waiting: before looking for completions with [`Ring::is_ready`].
    pub fn submit(&mut self) {
        match &mut self.engine {
            Engine::Uring(ring) => ring.submit(),
            // Nothing is queued there.
            Engine::Epoll(_) => {}
        }
    }

    /// Whether [`Ring::submit_and_wait`] would find something at once. A look into shared memory.
    #[must_use]
    pub fn is_ready(&mut self) -> bool {
        match &mut self.engine {
            Engine::Uring(ring) => ring.is_ready(),
            Engine::Epoll(ring) => ring.is_ready(),
        }
    }
}
