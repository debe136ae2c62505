//! The ring by io_uring: one system call submits, runs what the kernel deferred, and waits.
//!
//! The kernel uses memory of ours while an operation is in flight. It belongs to the operation in a slab
//! (`op.rs`) until its last completion has been reaped; a buffer is used again only after that.
//!
//! Fixed files are not used: until Linux 6.13 an unregistered file stays open while any earlier request of
//! the whole ring is in flight, so that one idle connection would keep another's socket open. SEND_ZC,
//! SQPOLL and NAPI gain nothing here.

mod complete;
mod op;
mod probe;

pub use probe::RingError;

use super::pool::Pool;
use super::send::SendArea;
use super::socket::{self, Kind};
use super::table::{Phase, Sock, Table};
use super::{Completion, Connect, RECV_ROOM_MIN, RingConfig, RingStats, Sending, SockId, Waker};
use crate::limits::RECV_BUFFER;
use bytes::Bytes;
use io_uring::{EnterFlags, IoUring, opcode, squeue, types};
use op::{Op, Ops};
use socket2::SockAddr;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// `IORING_RECVSEND_POLL_FIRST`: wait before the first try.
const POLL_FIRST: u16 = 1;

/// Operations that one socket can have in flight: receive, send, connect with its time limit, cancel.
const OPS_PER_SOCKET: usize = 5;

/// Alarms at the same time.
const ALARMS_MAX: usize = 16;

/// Turns that the end of a ring waits for its operations, 10 ms each.
const DROP_TURNS_MAX: u32 = 100;

/// Tries to have a full submission queue taken, 1 ms each; the first one does unless memory is short.
const SUBMIT_TRIES_MAX: u32 = 1000;

/// One io_uring with its sockets. Belongs to the thread that made it.
pub(super) struct Uring {
    ring: IoUring,
    ops: Ops,
    sockets: Table,
    pool: Pool,
    #[expect(clippy::vec_box, reason = "an area in use must not move: its header points into it")]
    areas: Vec<Box<SendArea>>,
    waker: Waker,
    wake_read: u64,
    /// Alarms that the kernel has, and what used ones can be made of.
    alarms: Vec<u64>,
    #[expect(clippy::vec_box, reason = "the kernel reads one that is in use: it must not move")]
    limits: Vec<Box<types::Timespec>>,
    send_buffer: Option<usize>,
    reaped: Vec<(u64, i32, u32)>,
    ready: Vec<Completion>,
    stats: RingStats,
    wait_flags: EnterFlags,
    closing: bool,
    /// The kernel takes submissions only from the task that made the ring.
    not_send: PhantomData<*const ()>,
}

impl Uring {
    pub(in crate::ring) fn new(config: &RingConfig) -> Result<Uring, RingError> {
        let ops = config.sockets * OPS_PER_SOCKET + 2 + 2 * ALARMS_MAX;
        let completions = (ops.next_power_of_two() as u32).max(config.entries * 2);
        let ring = probe::ring(config.entries, completions)?;
        assert!(ring.params().cq_entries() as usize >= ops, "fewer completions than operations");
        let mut wait_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if ring.params().is_feature_no_iowait() {
            // A lane that sleeps is idle; without this the host shows it as waiting for a disk.
            wait_flags |= EnterFlags::NO_IOWAIT;
        }
        let mut ring = Uring {
            ring,
            ops: Ops::new(ops),
            sockets: Table::new(config.sockets),
            pool: Pool::new(config.buffers),
            areas: Vec::with_capacity(config.sockets),
            waker: Waker::new().map_err(RingError::Other)?,
            wake_read: 0,
            alarms: Vec::with_capacity(ALARMS_MAX),
            limits: Vec::with_capacity(ALARMS_MAX),
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

    pub(in crate::ring) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    pub(in crate::ring) fn connect(&mut self, connect: &Connect) -> io::Result<SockId> {
        self.sockets.room()?;
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

    pub(in crate::ring) fn adopt(&mut self, fd: OwnedFd, linger_reset: bool) -> io::Result<SockId> {
        self.sockets.room()?;
        let kind = socket::adopt(&fd, linger_reset, self.send_buffer)?;
        Ok(self.sockets.insert(Sock::new(fd, kind, Phase::Open)))
    }

    pub(in crate::ring) fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    pub(in crate::ring) fn recv(&mut self, sock: SockId, max: usize) {
        assert!(max > 0, "a receive of no bytes");
        let max = max.min(RECV_BUFFER);
        let entry = self.sockets.open(sock, "receive");
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

    pub(in crate::ring) fn send(&mut self, sock: SockId, segments: Vec<Bytes>) -> Sending {
        let entry = self.sockets.open(sock, "send");
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
        let request = op::rest(&mut area, entry.fd.as_raw_fd());
        let user_data = self.ops.insert(Op::Send { sock, area });
        self.push(&[request.user_data(user_data)]);
        Sending::InFlight
    }

    pub(in crate::ring) fn give_up(&mut self, sock: SockId) {
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

    pub(in crate::ring) fn close(&mut self, sock: SockId) {
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

    pub(in crate::ring) fn is_open(&self, sock: SockId) -> bool {
        self.sockets.get(sock).is_some_and(|entry| entry.phase == Phase::Open)
    }

    pub(in crate::ring) fn is_receiving(&self, sock: SockId) -> bool {
        self.sockets.get(sock).is_some_and(|entry| entry.receiving)
    }

    pub(in crate::ring) fn is_sending(&self, sock: SockId) -> bool {
        self.sockets.get(sock).is_some_and(|entry| entry.sending)
    }

    pub(in crate::ring) fn local_addr(&self, sock: SockId) -> Option<SocketAddr> {
        self.sockets.local_addr(sock)
    }

    pub(in crate::ring) fn stats(&self) -> RingStats {
        RingStats {
            pool: self.pool.stats(),
            sockets: self.sockets.len(),
            in_flight: self.ops.in_flight(),
            ..self.stats
        }
    }

    pub(in crate::ring) fn submit_and_wait(
        &mut self,
        until: Option<Duration>,
        out: &mut Vec<Completion>,
    ) {
        let none = self.ready.is_empty() && self.ring.completion().is_empty();
        self.enter(if none { until } else { Some(Duration::ZERO) });
        self.reap();
        out.append(&mut self.ready);
    }

    pub(in crate::ring) fn submit(&mut self) {
        self.enter(Some(Duration::ZERO));
    }

    pub(in crate::ring) fn is_ready(&mut self) -> bool {
        !self.ready.is_empty()
            || !self.ring.completion().is_empty()
            || self.ring.submission().taskrun()
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

    pub(in crate::ring) fn alarm(&mut self, after: Duration) -> bool {
        if self.alarms.len() == ALARMS_MAX {
            return false;
        }
        let spec = types::Timespec::from(after);
        let limit = match self.limits.pop() {
            Some(mut limit) => {
                *limit = spec;
                limit
            }
            None => Box::new(spec),
        };
        let request = opcode::Timeout::new(&raw const *limit).build();
        let user_data = self.ops.insert(Op::Alarm { limit });
        self.alarms.push(user_data);
        self.push(&[request.user_data(user_data)]);
        true
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

impl Drop for Uring {
    /// Resets every socket and waits for the kernel to let go of all memory.
    fn drop(&mut self) {
        self.closing = true;
        for sock in self.sockets.ids() {
            self.give_up(sock);
        }
        for waits in std::iter::once(self.wake_read).chain(std::mem::take(&mut self.alarms)) {
            let cancel = types::CancelBuilder::user_data(waits);
            let user_data = self.ops.insert(Op::CancelWake);
            self.push(&[opcode::AsyncCancel2::new(cancel).build().user_data(user_data)]);
        }
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
