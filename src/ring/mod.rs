//! io_uring behind one boundary: sockets, receives, sends, and one wait for all of them.
//!
//! The model: a lane's thread owns a [`Ring`]. Calls only queue submissions; [`Ring::submit_and_wait`]
//! is the one system call of a turn, and hands out every completion that there is. A socket is named by
//! a [`SockId`], has at most one receive and one send in flight, and ends with exactly one
//! [`Completion::Closed`], whatever happened to it before.
//!
//! This is the only module with unsafe code. Memory that the kernel uses belongs to an operation in a
//! slab (`op.rs`) until its last completion has been reaped; a buffer is used again only after that.
//!
//! Deliberately not here: any protocol, any retry, any clock. Fixed files are not used: until Linux 6.13
//! an unregistered file stays open while any earlier request of the whole ring is in flight, so that one
//! idle connection would keep another's socket open. SEND_ZC, SQPOLL and NAPI gain nothing here.

mod complete;
mod op;
mod pool;
mod probe;
mod socket;
mod table;
#[cfg(test)]
mod tests;
mod waker;

use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use bytes::Bytes;
use io_uring::{EnterFlags, IoUring, opcode, squeue, types};
use socket2::{SockAddr, SockRef};

use crate::limits::RECV_BUFFER;

use op::{Op, Ops, SendArea};
use pool::Pool;
use socket::Kind;
use table::{Phase, Sock, Table};

pub use pool::PoolStats;
pub use probe::RingError;
pub use socket::{Stage, explain};
pub use waker::Waker;

/// Free room in a socket's buffer, bytes, below which a receive goes to another buffer, unless it asks
/// for less.
const RECV_ROOM_MIN: usize = 32 * 1024;

/// `IORING_RECVSEND_POLL_FIRST`: wait before the first try.
const POLL_FIRST: u16 = 1;

/// Operations that one socket can have in flight: receive, send, connect with its time limit, cancel.
const OPS_PER_SOCKET: usize = 5;

/// Turns that the end of a ring waits for its operations, 10 ms each.
const DROP_TURNS_MAX: u32 = 100;

/// Tries to have a full submission queue taken, 1 ms each; the first one does unless memory is short.
const SUBMIT_TRIES_MAX: u32 = 1000;

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
    /// Used-up receive buffers that are kept for use again.
    pub buffers: usize,
    /// SO_SNDBUF of TCP sockets, bytes; `None` leaves it to the kernel. A fixed size keeps what is
    /// queued in the caches: without it a session that has carried large writes stays slower.
    pub send_buffer: Option<usize>,
}

impl Default for RingConfig {
    fn default() -> RingConfig {
        RingConfig { sockets: 1024, entries: 512, buffers: 64, send_buffer: Some(256 * 1024) }
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

/// One io_uring with its sockets. Belongs to the thread that made it.
pub struct Ring {
    ring: IoUring,
    ops: Ops,
    sockets: Table,
    pool: Pool,
    #[expect(clippy::vec_box, reason = "an area in use must not move: its header points into it")]
    areas: Vec<Box<SendArea>>,
    waker: Waker,
    wake_read: u64,
    send_buffer: Option<usize>,
    reaped: Vec<(u64, i32, u32)>,
    ready: Vec<Completion>,
    stats: RingStats,
    wait_flags: EnterFlags,
    closing: bool,
    /// The kernel takes submissions only from the task that made the ring.
    not_send: PhantomData<*const ()>,
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
        let ops = config.sockets * OPS_PER_SOCKET + 2;
        let completions = (ops.next_power_of_two() as u32).max(config.entries * 2);
        let ring = probe::ring(config.entries, completions)?;
        assert!(ring.params().cq_entries() as usize >= ops, "fewer completions than operations");
        let mut wait_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if ring.params().is_feature_no_iowait() {
            // A lane that sleeps is idle; without this the host shows it as waiting for a disk.
            wait_flags |= EnterFlags::NO_IOWAIT;
        }
        let mut ring = Ring {
            ring,
            ops: Ops::new(ops),
            sockets: Table::new(config.sockets),
            pool: Pool::new(config.buffers),
            areas: Vec::with_capacity(config.sockets),
            waker: Waker::new().map_err(RingError::Other)?,
            wake_read: 0,
            send_buffer: config.send_buffer,
            reaped: Vec::with_capacity(completions as usize),
            ready: Vec::with_capacity(completions as usize),
            stats: RingStats::default(),
            wait_flags,
            closing: false,
            not_send: PhantomData,
        };
        ring.arm_waker();
        Ok(ring)
    }

    /// What other threads wake this ring with.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Starts to connect; `Connected` or `ConnectFailed` tells the rest.
    ///
    /// # Errors
    /// When the socket cannot be made or bound: a source that this host does not have is
    /// `AddrNotAvailable`. [`explain`] with [`Stage::Prepare`] has words for it.
    pub fn connect(&mut self, connect: &Connect) -> io::Result<SockId> {
        self.room_for_socket()?;
        let fd = OwnedFd::from(socket::make(connect, self.send_buffer)?);
        let raw = fd.as_raw_fd();
        let mut sock = Sock::new(fd, Kind::Tcp, Phase::Connecting);
        sock.in_flight = 1;
        let sock = self.sockets.insert(sock);

        let address = Box::new(SockAddr::from(connect.remote));
        let start = opcode::Connect::new(types::Fd(raw), address.as_ptr().cast(), address.len());
        let limit = Box::new(types::Timespec::from(connect.timeout));
        let stop = opcode::LinkTimeout::new(&raw const *limit).build();
        let start_data = self.ops.insert(Op::Connect { sock, address });
        let stop_data = self.ops.insert(Op::ConnectTimeout { limit });
        let start = start.build().flags(squeue::Flags::IO_LINK).user_data(start_data);
        self.push(&[start, stop.user_data(stop_data)]);
        Ok(sock)
    }

    /// Takes over a connected stream socket, such as an accepted one. `linger_reset`: close resets, as
    /// for sockets that this ring connects.
    ///
    /// # Errors
    /// When it is no stream socket, or the ring has no room; the descriptor is closed then.
    pub fn adopt(&mut self, fd: OwnedFd, linger_reset: bool) -> io::Result<SockId> {
        self.room_for_socket()?;
        let kind = socket::adopt(&fd, linger_reset, self.send_buffer)?;
        Ok(self.sockets.insert(Sock::new(fd, kind, Phase::Open)))
    }

    /// Receives up to `max` bytes, at most [`RECV_BUFFER`]: `Received`, `Eof` or `RecvFailed` follows.
    /// A socket keeps one buffer of that size for as long as it lives, so receive memory is at most
    /// sockets plus [`RingConfig::buffers`] times that, and what the holders of parts keep alive.
    ///
    /// # Panics
    /// When the socket is not open or has a receive in flight.
    pub fn recv(&mut self, sock: SockId, max: usize) {
        assert!(max > 0, "a receive of no bytes");
        let max = max.min(RECV_BUFFER);
        let entry = self.sockets.get_mut(sock).filter(|entry| entry.phase == Phase::Open);
        let entry = entry.unwrap_or_else(|| panic!("receive on {sock:?}, which is not open"));
        assert!(!entry.receiving, "a second receive on {sock:?}");
        let mut buffer = self.pool.ready(entry.buffer.take(), max.min(RECV_ROOM_MIN));
        let asked = max.min(buffer.capacity());
        assert!(asked > 0 && buffer.is_empty(), "a receive buffer without room");
        entry.receiving = true;
        entry.in_flight += 1;
        let room = buffer.spare_capacity_mut().as_mut_ptr().cast();
        let request = opcode::Recv::new(types::Fd(entry.fd.as_raw_fd()), room, asked as u32)
            .ioprio(if entry.drained { POLL_FIRST } else { 0 })
            .build();
        let user_data = self.ops.insert(Op::Recv { sock, buffer, asked });
        self.push(&[request.user_data(user_data)]);
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
        let entry = self.sockets.get_mut(sock).filter(|entry| entry.phase == Phase::Open);
        let entry = entry.unwrap_or_else(|| panic!("send on {sock:?}, which is not open"));
        assert!(!entry.sending, "a second send on {sock:?}");
        let mut area = self.areas.pop().unwrap_or_else(SendArea::new);
        area.load(segments);
        let error = match area.send_now(&entry.fd) {
            Ok(true) => {
                self.stats.direct_sends += 1;
                let (_, segments) = self.keep(area);
                return Sending::Done { segments };
            }
            Ok(false) => None,
            Err(error) => Some(error),
        };
        if let Some(error) = error {
            let (bytes, _) = self.keep(area);
            self.ready.push(Completion::SendFailed { sock, error, bytes });
            return Sending::InFlight;
        }
        entry.sending = true;
        entry.in_flight += 1;
        self.stats.partial_sends += u64::from(area.sent() > 0);
        let request = area.entry(entry.fd.as_raw_fd());
        let user_data = self.ops.insert(Op::Send { sock, area });
        self.push(&[request.user_data(user_data)]);
        Sending::InFlight
    }

    /// Gives the socket up: the peer is reset before this returns, nothing more is sent, and the only
    /// completion to come is `Closed`. (What [`Ring::submit_and_wait`] has handed out before is out:
    /// [`Ring::is_open`] tells.) Harmless for a socket that was given up or has ended.
    pub fn give_up(&mut self, sock: SockId) {
        let Some(entry) = self.sockets.get_mut(sock) else { return };
        match entry.phase {
            Phase::Aborting => return,
            // A connect in flight is only cancelled: nothing was sent, the close resets, and some
            // kernels would start again to connect a socket that was dissolved under them.
            Phase::Connecting => {}
            Phase::Open | Phase::Closing => socket::reset(&entry.fd, entry.kind),
        }
        entry.phase = Phase::Aborting;
        self.forget_failure(sock);
        self.proceed(sock);
    }

    /// A send that failed at once and was not told yet is not told any more.
    fn forget_failure(&mut self, sock: SockId) {
        self.ready.retain(
            |ready| !matches!(ready, Completion::SendFailed { sock: of, .. } if *of == sock),
        );
    }

    /// Ends the socket in good order: a send in flight is finished, then FIN, then close. What the
    /// kernel has queued is still delivered, so this is for connections that both sides have agreed to
    /// end. Only `Closed` follows; a peer that takes nothing delays it for ever, and [`Ring::give_up`]
    /// cuts that short. Unread input makes the kernel reset instead.
    pub fn close(&mut self, sock: SockId) {
        let Some(entry) = self.sockets.get_mut(sock) else { return };
        match entry.phase {
            Phase::Aborting | Phase::Closing => {}
            Phase::Connecting => self.give_up(sock),
            Phase::Open => {
                entry.phase = Phase::Closing;
                self.forget_failure(sock);
                self.proceed(sock);
            }
        }
    }

    /// Whether the socket can receive and send: it is connected and neither closed nor given up.
    #[must_use]
    pub fn is_open(&self, sock: SockId) -> bool {
        self.sockets.get(sock).is_some_and(|entry| entry.phase == Phase::Open)
    }

    /// Whether a receive is in flight.
    #[must_use]
    pub fn is_receiving(&self, sock: SockId) -> bool {
        self.sockets.get(sock).is_some_and(|entry| entry.receiving)
    }

    /// Whether a send is in flight.
    #[must_use]
    pub fn is_sending(&self, sock: SockId) -> bool {
        self.sockets.get(sock).is_some_and(|entry| entry.sending)
    }

    /// The local address of a TCP socket that exists.
    #[must_use]
    pub fn local_addr(&self, sock: SockId) -> Option<SocketAddr> {
        SockRef::from(&self.sockets.get(sock)?.fd).local_addr().ok()?.as_socket()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> RingStats {
        RingStats {
            pool: self.pool.stats(),
            sockets: self.sockets.len(),
            in_flight: self.ops.in_flight(),
            ..self.stats
        }
    }

    /// Submits what is queued, waits for a completion, no longer than `until` (`None`: for ever, zero:
    /// not at all), and appends every completion that there is to `out`. May return with nothing, early.
    ///
    /// # Panics
    /// When the kernel refuses the call as such, which would be a bug of this module.
    pub fn submit_and_wait(&mut self, until: Option<Duration>, out: &mut Vec<Completion>) {
        let none = self.ready.is_empty() && self.ring.completion().is_empty();
        self.enter(if none { until } else { Some(Duration::ZERO) });
        self.reap();
        out.append(&mut self.ready);
    }

    /// Submits what is queued, without waiting: before looking for completions with [`Ring::is_ready`].
    pub fn submit(&mut self) {
        self.enter(Some(Duration::ZERO));
    }

    /// Whether [`Ring::submit_and_wait`] would find something at once. A look into shared memory.
    #[must_use]
    pub fn is_ready(&mut self) -> bool {
        !self.ready.is_empty()
            || !self.ring.completion().is_empty()
            || self.ring.submission().taskrun()
    }

    /// An error when the table of sockets is full: a flood must not end the lane.
    fn room_for_socket(&self) -> io::Result<()> {
        if self.sockets.is_full() {
            return Err(io::Error::other(format!(
                "this lane has {} sockets, its maximum",
                self.sockets.len()
            )));
        }
        Ok(())
    }

    /// Queues submissions that belong together; a full queue is submitted first.
    ///
    /// Every entry must carry the `user_data` of an operation in `self.ops` that owns all the memory and
    /// belongs to the descriptor that the entry names.
    fn push(&mut self, entries: &[squeue::Entry]) {
        self.stats.submitted += entries.len() as u64;
        let room = |ring: &mut IoUring| {
            let queue = ring.submission();
            queue.capacity() - queue.len() >= entries.len()
        };
        for tries in 0..SUBMIT_TRIES_MAX {
            if room(&mut self.ring) {
                break;
            }
            // Short of memory, the kernel leaves entries in the queue; waiting lets it finish something.
            self.enter(Some(Duration::from_millis(u64::from(tries > 0))));
        }
        // SAFETY: what an entry points to belongs to an operation in the slab, which keeps it in place
        // and untouched until the completion has been reaped, even if the socket or the ring ends
        // (`Drop` waits, or leaks). Its descriptor is open until then: a socket counts its operations.
        let pushed = unsafe { self.ring.submission().push_multiple(entries) };
        pushed.expect("the kernel takes submissions");
    }

    /// The one system call: submits all, runs what the kernel deferred, waits for one completion.
    fn enter(&mut self, until: Option<Duration>) {
        let queued = {
            let mut queue = self.ring.submission();
            queue.sync();
            queue.len() as u32
        };
        let limit = until.map(types::Timespec::from);
        let mut args = types::SubmitArgs::new();
        if let Some(limit) = &limit {
            args = args.timespec(limit);
        }
        let want = u32::from(until != Some(Duration::ZERO));
        self.stats.enters += 1;
        // SAFETY: EXT_ARG says that the argument is an io_uring_getevents_arg, which SubmitArgs is, and
        // it and the time limit live through the call. The entries are valid, see `push`.
        let result = unsafe {
            self.ring.submitter().enter(queued, want, self.wait_flags.bits(), Some(&args))
        };
        if let Err(error) = result {
            match error.raw_os_error() {
                // Time is up; a signal; short of memory or of room for completions, which the next
                // turn finds better. What was not submitted stays queued.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
                _ => panic!("io_uring_enter with {queued} submissions: {error}"),
            }
        }
    }

    fn arm_waker(&mut self) {
        let mut counter = Box::new([0; 8]);
        let target = counter.as_mut_ptr();
        self.wake_read = self.ops.insert(Op::Wake { counter });
        self.push_waker(target);
    }

    fn push_waker(&mut self, target: *mut u8) {
        let request = opcode::Read::new(types::Fd(self.waker.fd()), target, 8).build();
        self.push(&[request.user_data(self.wake_read)]);
    }
}

impl Drop for Ring {
    /// Resets every socket and waits for the kernel to let go of all memory.
    fn drop(&mut self) {
        self.closing = true;
        for sock in self.sockets.ids() {
            self.give_up(sock);
        }
        let cancel = types::CancelBuilder::user_data(self.wake_read);
        let user_data = self.ops.insert(Op::CancelWake);
        self.push(&[opcode::AsyncCancel2::new(cancel).build().user_data(user_data)]);
        for _ in 0..DROP_TURNS_MAX {
            if self.ops.in_flight() == 0 {
                return;
            }
            self.enter(Some(Duration::from_millis(10)));
            self.reap();
            self.ready.clear();
        }
        // Never seen; but freeing memory that the kernel may still write to would be worse than a leak.
        std::mem::forget(std::mem::replace(&mut self.ops, Ops::new(0)));
    }
}
