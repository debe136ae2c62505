//! The ring by epoll, where io_uring is refused (seccomp profiles of containers, hardened hosts).
//!
//! Sockets are registered once, edge-triggered, for both directions. A receive is tried when an event has
//! said that there is something, and a rest of a send when there is room again; nothing of ours is with the
//! kernel between two calls, so a socket that is given up ends without waiting for anything.

use super::pool::Pool;
use super::send::SendArea;
use super::socket::{self, Kind};
use super::table::{Phase, Sock, Table};
use super::{Completion, Connect, RECV_ROOM_MIN, RingConfig, RingStats, Sending, SockId, Waker};
use crate::limits::RECV_BUFFER;
use bytes::Bytes;
use nix::sys::epoll::{Epoll as Poll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use socket2::{SockAddr, SockRef};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Events taken per wait; what is left comes with the next one.
const EVENTS: usize = 256;

/// Alarms at the same time.
const ALARMS_MAX: usize = 16;

/// The waker's mark among the events; no socket has this number.
const WAKER: u64 = u64::MAX;

/// The alarm's mark.
const ALARM: u64 = u64::MAX - 1;

/// A rest of a send is tried again after this long even without an event: a send that failed for lack of
/// memory is followed by none.
const RETRY: Duration = Duration::from_millis(100);

/// A connect that has not ended.
struct Connecting {
    sock: SockId,
    until: Instant,
    /// It failed at once.
    failed: Option<io::Error>,
}

pub(super) struct Epoll {
    poll: Poll,
    events: Vec<EpollEvent>,
    sockets: Table,
    pool: Pool,
    #[expect(clippy::vec_box, reason = "an area in use must not move: its header points into it")]
    areas: Vec<Box<SendArea>>,
    waker: Waker,
    alarm: TimerFd,
    alarms: Vec<Instant>,
    send_buffer: Option<usize>,
    /// Receives on sockets that have something.
    wanted: Vec<SockId>,
    /// Sockets with a rest to send.
    rests: Vec<SockId>,
    connecting: Vec<Connecting>,
    /// Sockets that have nothing left to do but to end.
    ending: Vec<SockId>,
    ready: Vec<Completion>,
    stats: RingStats,
}

fn mark(sock: SockId) -> u64 {
    u64::from(sock.generation) << 32 | u64::from(sock.index)
}

impl Epoll {
    pub(super) fn new(config: &RingConfig) -> io::Result<Epoll> {
        let waker = Waker::new()?;
        let poll = Poll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        poll.add(waker.event(), EpollEvent::new(EpollFlags::EPOLLIN, WAKER))?;
        let alarm = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
        poll.add(&alarm, EpollEvent::new(EpollFlags::EPOLLIN, ALARM))?;
        Ok(Epoll {
            poll,
            alarm,
            alarms: Vec::with_capacity(ALARMS_MAX),
            events: vec![EpollEvent::empty(); EVENTS],
            sockets: Table::new(config.sockets),
            pool: Pool::new(config.buffers),
            areas: Vec::with_capacity(config.sockets),
            waker,
            send_buffer: config.send_buffer,
            wanted: Vec::with_capacity(config.sockets),
            rests: Vec::with_capacity(config.sockets),
            connecting: Vec::new(),
            ending: Vec::with_capacity(config.sockets),
            ready: Vec::with_capacity(2 * EVENTS),
            stats: RingStats::default(),
        })
    }

    pub(super) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    pub(super) fn connect(&mut self, connect: &Connect) -> io::Result<SockId> {
        self.sockets.room()?;
        let socket = socket::make(connect, self.send_buffer)?;
        socket.set_nonblocking(true)?;
        let failed = match socket.connect(&SockAddr::from(connect.remote)) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Some(error),
            _ => None,
        };
        let sock = self.insert(socket.into(), Kind::Tcp, Phase::Connecting)?;
        let until = Instant::now() + connect.timeout;
        self.connecting.push(Connecting { sock, until, failed });
        Ok(sock)
    }

    pub(super) fn adopt(&mut self, fd: OwnedFd, linger_reset: bool) -> io::Result<SockId> {
        self.sockets.room()?;
        let kind = socket::adopt(&fd, linger_reset, self.send_buffer)?;
        self.insert(fd, kind, Phase::Open)
    }

    /// Registers the socket: what it has now is the first event.
    fn insert(&mut self, fd: OwnedFd, kind: Kind, phase: Phase) -> io::Result<SockId> {
        let sock = self.sockets.insert(Sock::new(fd, kind, phase));
        let entry = self.sockets.get(sock).expect("just inserted");
        let both = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP;
        let event = EpollEvent::new(both | EpollFlags::EPOLLET, mark(sock));
        match self.poll.add(&entry.fd, event) {
            Ok(()) => Ok(sock),
            Err(error) => {
                drop(self.sockets.remove(sock));
                Err(error.into())
            }
        }
    }

    pub(super) fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    pub(super) fn recv(&mut self, sock: SockId, max: usize) {
        assert!(max > 0, "a receive of no bytes");
        let entry = self.sockets.open(sock, "receive");
        assert!(!entry.receiving, "a second receive on {sock:?}");
        (entry.receiving, entry.asked) = (true, max.min(RECV_BUFFER));
        self.stats.submitted += 1;
        if entry.readable {
            self.wanted.push(sock);
        }
    }

    pub(super) fn send(&mut self, sock: SockId, segments: Vec<Bytes>) -> Sending {
        let entry = self.sockets.open(sock, "send");
        assert!(!entry.sending, "a second send on {sock:?}");
        let mut area = self.areas.pop().unwrap_or_else(SendArea::new);
        area.load(segments);
        match area.send_now(&entry.fd) {
            Ok(true) => {
                self.stats.direct_sends += 1;
                return Sending::Done { segments: self.keep(area).1 };
            }
            Ok(false) => {
                self.stats.partial_sends += u64::from(area.sent() > 0);
                self.stats.submitted += 1;
                entry.sending = true;
                entry.rest = Some(area);
                self.rests.push(sock);
            }
            Err(error) => {
                let (bytes, _) = self.keep(area);
                self.ready.push(Completion::SendFailed { sock, error, bytes });
            }
        }
        Sending::InFlight
    }

    /// Empties an area and keeps it for the next send.
    fn keep(&mut self, mut area: Box<SendArea>) -> (usize, Vec<Bytes>) {
        let bytes = area.sent();
        let segments = area.unload();
        self.areas.push(area);
        (bytes, segments)
    }

    pub(super) fn give_up(&mut self, sock: SockId) {
        let Some(entry) = self.sockets.get_mut(sock) else { return };
        match entry.phase {
            Phase::Aborting => return,
            Phase::Connecting => self.connecting.retain(|other| other.sock != sock),
            Phase::Open | Phase::Closing => socket::reset(&entry.fd, entry.kind),
        }
        entry.phase = Phase::Aborting;
        entry.rest = None;
        self.forget(sock);
        self.end_soon(sock);
    }

    pub(super) fn close(&mut self, sock: SockId) {
        let Some(entry) = self.sockets.get_mut(sock) else { return };
        match entry.phase {
            Phase::Aborting | Phase::Closing => {}
            Phase::Connecting => self.give_up(sock),
            Phase::Open => {
                entry.phase = Phase::Closing;
                let done = !entry.sending;
                self.forget(sock);
                if done {
                    self.end_soon(sock);
                }
            }
        }
    }

    /// A send that failed at once and was not told yet is not told any more.
    fn forget(&mut self, sock: SockId) {
        let about = |ready: &Completion| matches!(ready, Completion::SendFailed { sock: of, .. } if *of == sock);
        self.ready.retain(|ready| !about(ready));
    }

    fn end_soon(&mut self, sock: SockId) {
        if !self.ending.contains(&sock) {
            self.ending.push(sock);
        }
    }

    pub(super) fn is_open(&self, sock: SockId) -> bool {
        self.sockets.get(sock).is_some_and(|entry| entry.phase == Phase::Open)
    }

    pub(super) fn is_receiving(&self, sock: SockId) -> bool {
        self.sockets.get(sock).is_some_and(|entry| entry.receiving)
    }

    pub(super) fn is_sending(&self, sock: SockId) -> bool {
        self.sockets.get(sock).is_some_and(|entry| entry.sending)
    }

    pub(super) fn local_addr(&self, sock: SockId) -> Option<SocketAddr> {
        self.sockets.local_addr(sock)
    }

    pub(super) fn stats(&self) -> RingStats {
        let entries = self.sockets.iter();
        let busy =
            entries.map(|e| usize::from(e.receiving) + usize::from(e.sending)).sum::<usize>();
        RingStats {
            pool: self.pool.stats(),
            sockets: self.sockets.len(),
            in_flight: busy + self.connecting.len() + 1,
            ..self.stats
        }
    }

    pub(super) fn submit_and_wait(&mut self, until: Option<Duration>, out: &mut Vec<Completion>) {
        self.step(until);
        self.stats.completed += self.ready.len() as u64;
        out.append(&mut self.ready);
    }

    pub(super) fn alarm(&mut self, after: Duration) -> bool {
        if self.alarms.len() == ALARMS_MAX {
            return false;
        }
        self.alarms.push(Instant::now() + after);
        self.set_alarm();
        true
    }

    /// One timer for all alarms: the next one.
    fn set_alarm(&mut self) {
        let Some(next) = self.alarms.iter().min() else { return };
        let left = next.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let at = Expiration::OneShot(TimeSpec::from_duration(left));
        self.alarm.set(at, TimerSetTimeFlags::empty()).expect("a timer takes any time");
    }

    /// Whether a turn would find something at once.
    pub(super) fn is_ready(&mut self) -> bool {
        self.step(Some(Duration::ZERO));
        !self.ready.is_empty()
    }

    fn step(&mut self, until: Option<Duration>) {
        for _ in 0..self.wanted.len() {
            let sock = self.wanted.swap_remove(0);
            self.receive(sock);
        }
        self.end_sockets();
        let count = self.wait(until);
        for at in 0..count {
            let (flags, data) = (self.events[at].events(), self.events[at].data());
            self.event(flags, data);
        }
        if count == 0 {
            self.retry_rests();
        }
        self.connects_late();
        self.end_sockets();
    }

    fn wait(&mut self, until: Option<Duration>) -> usize {
        let mut until = until.unwrap_or(Duration::MAX);
        if !self.ready.is_empty() || !self.wanted.is_empty() {
            until = Duration::ZERO;
        }
        if !self.rests.is_empty() {
            until = until.min(RETRY);
        }
        for connect in &self.connecting {
            let left = connect.until.saturating_duration_since(Instant::now());
            until = until.min(if connect.failed.is_some() { Duration::ZERO } else { left });
        }
        // Rounded up, so that a deadline has come when the wait for it ends.
        let millis = until.as_nanos().div_ceil(1_000_000);
        let timeout = match i32::try_from(millis) {
            Ok(millis) => EpollTimeout::try_from(millis).expect("not negative"),
            Err(_) => EpollTimeout::NONE,
        };
        self.stats.enters += 1;
        match self.poll.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => panic!("epoll_wait: {error}"),
        }
    }

    fn event(&mut self, flags: EpollFlags, data: u64) {
        if data == WAKER {
            self.waker.take();
            self.waker.clear();
            self.ready.push(Completion::Woken);
            return;
        }
        if data == ALARM {
            // Readable, so it does not wait.
            let _ = self.alarm.wait();
            let now = Instant::now();
            self.alarms.retain(|at| *at > now);
            self.set_alarm();
            return;
        }
        let sock = SockId { index: data as u32, generation: (data >> 32) as u32 };
        let Some(entry) = self.sockets.get_mut(sock) else { return };
        let over = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        if flags.intersects(EpollFlags::EPOLLIN | over) {
            entry.readable = true;
        }
        // The end came with this edge and gives no other one.
        entry.hung |= flags.intersects(over);
        match entry.phase {
            Phase::Connecting => self.connect_went(sock, flags),
            Phase::Open if entry.readable && entry.receiving => self.receive(sock),
            Phase::Open | Phase::Closing | Phase::Aborting => {}
        }
        if flags.intersects(EpollFlags::EPOLLOUT | over) {
            self.send_rest(sock);
        }
    }

    fn connect_went(&mut self, sock: SockId, flags: EpollFlags) {
        let Some(at) = self.connecting.iter().position(|other| other.sock == sock) else { return };
        let entry = self.sockets.get_mut(sock).expect("the caller has it");
        let local = match SockRef::from(&entry.fd).take_error() {
            Ok(Some(error)) | Err(error) => Err(error),
            Ok(None) if flags.contains(EpollFlags::EPOLLOUT) => {
                SockRef::from(&entry.fd).local_addr().and_then(|local| {
                    local.as_socket().ok_or_else(|| io::Error::other("the local address is none"))
                })
            }
            Ok(None) => return,
        };
        // Its own error, if it failed at once, is told by `connects_late`.
        if self.connecting[at].failed.is_some() {
            return;
        }
        self.connecting.swap_remove(at);
        match local {
            Ok(local) => {
                entry.phase = Phase::Open;
                self.ready.push(Completion::Connected { sock, local });
            }
            Err(error) => self.connect_failed(sock, error),
        }
    }

    fn connect_failed(&mut self, sock: SockId, error: io::Error) {
        let entry = self.sockets.get_mut(sock).expect("a socket that connects exists");
        entry.phase = Phase::Aborting;
        self.ready.push(Completion::ConnectFailed { sock, error });
        self.end_soon(sock);
    }

    /// Connects that failed at once, or whose time is up.
    fn connects_late(&mut self) {
        let mut at = 0;
        while at < self.connecting.len() {
            let connect = &mut self.connecting[at];
            let error = match connect.failed.take() {
                Some(error) => error,
                None if connect.until <= Instant::now() => {
                    io::Error::from_raw_os_error(libc::ETIMEDOUT)
                }
                None => {
                    at += 1;
                    continue;
                }
            };
            let sock = self.connecting.swap_remove(at).sock;
            self.connect_failed(sock, error);
        }
    }

    /// One try of the receive that the socket waits with.
    fn receive(&mut self, sock: SockId) {
        let Some(entry) = self.sockets.get_mut(sock).filter(|e| e.phase == Phase::Open) else {
            return;
        };
        if !entry.receiving {
            return;
        }
        let want = entry.asked.min(RECV_ROOM_MIN);
        let mut buffer = self.pool.ready(entry.buffer.take(), want);
        let asked = entry.asked.min(buffer.capacity());
        assert!(asked > 0 && buffer.is_empty(), "a receive buffer without room");
        let room = buffer.spare_capacity_mut().as_mut_ptr().cast();
        // SAFETY: the buffer has room for `asked` bytes behind `room`, and lives through the call.
        let result = unsafe { libc::recv(entry.fd.as_raw_fd(), room, asked, libc::MSG_DONTWAIT) };
        let completion = match usize::try_from(result) {
            Ok(0) => Completion::Eof { sock },
            Ok(len) => {
                assert!(len <= asked, "the kernel wrote {len} bytes into room for {asked}");
                // Fewer bytes than asked for: the next ones bring an edge of their own.
                entry.readable = len == asked || entry.hung;
                // SAFETY: the kernel has written `len` bytes from the start of the spare room, which
                // holds `asked`, and the buffer was empty before.
                unsafe { buffer.set_len(len) };
                Completion::Received { sock, chunk: buffer.split_to(len).freeze() }
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        entry.readable = false;
                        entry.buffer = Some(buffer);
                        return;
                    }
                    Some(libc::EINTR) => {
                        entry.buffer = Some(buffer);
                        self.wanted.push(sock);
                        return;
                    }
                    _ => Completion::RecvFailed { sock, error },
                }
            }
        };
        entry.buffer = Some(buffer);
        entry.receiving = false;
        self.ready.push(completion);
    }

    /// One try of the rest of a send.
    fn send_rest(&mut self, sock: SockId) {
        let Some(entry) = self.sockets.get_mut(sock) else { return };
        let Some(mut area) = entry.rest.take() else { return };
        let sent = area.send_now(&entry.fd);
        if matches!(sent, Ok(false)) {
            self.stats.partial_sends += 1;
            entry.rest = Some(area);
            return;
        }
        entry.sending = false;
        let open = entry.phase == Phase::Open;
        self.rests.retain(|other| *other != sock);
        let (bytes, segments) = self.keep(area);
        if !open {
            self.end_soon(sock);
            return;
        }
        self.ready.push(match sent {
            Ok(_) => Completion::Sent { sock, segments, bytes },
            Err(error) => Completion::SendFailed { sock, error, bytes },
        });
    }

    fn retry_rests(&mut self) {
        for at in (0..self.rests.len()).rev() {
            let sock = self.rests[at];
            self.send_rest(sock);
        }
    }

    fn end_sockets(&mut self) {
        for sock in std::mem::take(&mut self.ending) {
            let Sock { fd, kind, phase, buffer, .. } = self.sockets.remove(sock);
            self.rests.retain(|other| *other != sock);
            if let Some(buffer) = buffer {
                self.pool.put(buffer);
            }
            if phase == Phase::Closing {
                socket::finish(&fd, kind);
            }
            drop(fd);
            self.ready.push(Completion::Closed { sock });
        }
    }
}

impl Drop for Epoll {
    /// Resets every socket.
    fn drop(&mut self) {
        for sock in self.sockets.ids() {
            self.give_up(sock);
        }
    }
}
