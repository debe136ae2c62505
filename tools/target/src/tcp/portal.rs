//! The turn of one node thread: wait, receive from every ready socket, let the node work, then one
//! gathered send per socket that has something to say.
//!
//! Cheap by batching: a receive brings many commands, all are parsed and executed before anything is
//! sent, and their answers leave in one call. One clock read per turn. Orders from handles come by a
//! mailbox that wakes the thread.

use super::super::base::{Duration, Instant};
use crate::node::{Action, ConnectionId, Node};
use crate::pair::Pair;
use bytes::{Buf, Bytes};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{MsgFlags, sendmsg, setsockopt, sockopt};
use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes per receive: many commands, or one large write.
const RECEIVE: usize = 256 * 1024;

/// Segments per send.
const SEGMENTS: usize = 256;

/// Queued bytes above which a connection is not read: a client that does not take its data.
const PENDING_MAX: u64 = 32 * 1024 * 1024;

const LISTENER: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;
/// Tokens of sockets that only wait for the peer's FIN.
const LEAVING: u64 = 1 << 32;

type Job = Box<dyn FnOnce(&mut Node, Instant) + Send>;

/// What a handle asks of the thread.
pub(super) enum Order {
    Kill(Sender<()>),
    Start(Sender<io::Result<()>>),
    With(Job),
    Stop,
}

/// Orders for a thread, and what wakes it.
pub(super) struct Mailbox {
    orders: Mutex<VecDeque<Order>>,
    event: EventFd,
}

impl Mailbox {
    fn new() -> io::Result<Mailbox> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Mailbox { orders: Mutex::default(), event })
    }

    pub(super) fn send(&self, order: Order) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push_back(order);
        self.wake();
    }

    pub(super) fn wake(&self) {
        // A counter that is full wakes too.
        let _ = self.event.write(1);
    }

    fn take(&self) -> Option<Order> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// Time since `epoch`.
pub(super) fn since(epoch: std::time::Instant) -> Instant {
    Instant::from_nanos(u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

struct Socket {
    stream: TcpStream,
    /// Taken from the node and not yet taken by the kernel.
    segments: VecDeque<Bytes>,
    pending: u64,
    interest: EpollFlags,
    closing: bool,
}

/// One node with its sockets.
pub(super) struct Portal {
    pair: Arc<Pair>,
    index: usize,
    addr: SocketAddr,
    epoch: std::time::Instant,
    epoll: Epoll,
    mailbox: Arc<Mailbox>,
    listener: Option<TcpListener>,
    node: Option<Node>,
    sockets: HashMap<ConnectionId, Socket>,
    leaving: HashMap<u64, TcpStream>,
    next_leaving: u64,
    buffer: Vec<u8>,
    taken: Vec<Bytes>,
}

impl Portal {
    pub(super) fn bind(
        pair: Arc<Pair>,
        index: usize,
        addr: SocketAddr,
        epoch: std::time::Instant,
    ) -> io::Result<Portal> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mailbox = Arc::new(Mailbox::new()?);
        epoll.add(&mailbox.event, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let mut portal = Portal {
            pair,
            index,
            addr,
            epoch,
            epoll,
            mailbox,
            listener: None,
            node: None,
            sockets: HashMap::new(),
            leaving: HashMap::new(),
            next_leaving: LEAVING,
            buffer: vec![0; RECEIVE],
            taken: Vec::with_capacity(SEGMENTS),
        };
        portal.listen()?;
        Ok(portal)
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    fn listen(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.addr)?;
        listener.set_nonblocking(true)?;
        self.addr = listener.local_addr()?;
        self.epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        self.node = Some(self.pair.node(self.index, u64::from_le_bytes(seed)));
        self.listener = Some(listener);
        Ok(())
    }

    /// Until it is told to stop.
    pub(super) fn run(mut self) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let count = match self.wait(&mut events) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => panic!("waiting for sockets failed: {error}"),
            };
            let now = since(self.epoch);
            for event in &events[..count] {
                match event.data() {
                    WAKE => {
                        let _ = self.mailbox.event.read();
                    }
                    LISTENER => self.accept(now),
                    token if token >= LEAVING => self.drain(token),
                    token => self.ready(now, ConnectionId(token as u32), event.events()),
                }
            }
            while let Some(order) = self.mailbox.take() {
                match order {
                    Order::Kill(done) => {
                        self.kill();
                        let _ = done.send(());
                    }
                    Order::Start(done) => {
                        let _ = done.send(self.start_again());
                    }
                    Order::With(job) => {
                        if let Some(node) = &mut self.node {
                            job(node, now);
                        }
                    }
                    Order::Stop => return self.kill(),
                }
            }
            self.work(now);
        }
    }

    fn wait(&mut self, events: &mut [EpollEvent]) -> nix::Result<usize> {
        let deadline = self.node.as_ref().and_then(Node::poll_deadline);
        if self.node.as_ref().is_some_and(|node| !node.wants_input()) {
            // A stopped process: nothing but a change of the rules or an order wakes it.
            let mut fds = [PollFd::new(self.mailbox.event.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::NONE)?;
            let _ = self.mailbox.event.read();
            return Ok(0);
        }
        let timeout = match deadline {
            None => EpollTimeout::NONE,
            Some(at) => {
                let left = at.since(since(self.epoch)).min(Duration::from_secs(60));
                // Rounded up, so that the deadline has passed when it wakes.
                let millis = left.as_nanos().div_ceil(1_000_000) as u16;
                EpollTimeout::from(millis)
            }
        };
        self.epoll.wait(events, timeout)
    }

    fn accept(&mut self, now: Instant) {
        let (Some(listener), Some(node)) = (&self.listener, &mut self.node) else { return };
        while let Ok((stream, _)) = listener.accept() {
            let Ok(local) = stream.local_addr() else { continue };
            if stream.set_nonblocking(true).and(stream.set_nodelay(true)).is_err() {
                continue;
            }
            let id = node.accept(now, local);
            let interest = EpollFlags::EPOLLIN;
            if self.epoll.add(&stream, EpollEvent::new(interest, id.0.into())).is_err() {
                node.handle_closed(now, id);
                continue;
            }
            let segments = VecDeque::new();
            let socket = Socket { stream, segments, pending: 0, interest, closing: false };
            self.sockets.insert(id, socket);
        }
    }

    fn ready(&mut self, now: Instant, id: ConnectionId, flags: EpollFlags) {
        let (Some(socket), Some(node)) = (self.sockets.get_mut(&id), &mut self.node) else {
            return;
        };
        if flags.contains(EpollFlags::EPOLLOUT) {
            self.flush(now, id);
            return;
        }
        match (&socket.stream).read(&mut self.buffer) {
            Ok(0) => self.gone(now, id),
            Ok(n) => node.handle_received(now, id, &self.buffer[..n]),
            Err(e)
                if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&e.kind()) => {}
            Err(_) => self.gone(now, id),
        }
    }

    /// Lets the node do what is due, then actions, then sends.
    fn work(&mut self, now: Instant) {
        let Some(node) = &mut self.node else { return };
        node.handle_timeout(now);
        loop {
            while let Some(action) = self.node.as_mut().and_then(Node::poll_action) {
                match action {
                    Action::Reset(id) => {
                        if let Some(socket) = self.sockets.get(&id) {
                            reset_on_close(&socket.stream);
                        }
                        self.gone(now, id);
                    }
                    Action::Close(id) => {
                        if let Some(socket) = self.sockets.get_mut(&id) {
                            socket.closing = true;
                            self.flush(now, id);
                        }
                    }
                }
            }
            let Some(id) = self.node.as_mut().and_then(Node::poll_dirty) else { return };
            self.flush(now, id);
        }
    }

    /// Sends what there is, as far as the kernel takes it.
    fn flush(&mut self, now: Instant, id: ConnectionId) {
        let (Some(socket), Some(node)) = (self.sockets.get_mut(&id), &mut self.node) else {
            return;
        };
        let Some(tx) = node.tx(id) else { return };
        loop {
            if socket.segments.is_empty() {
                let taken = tx.take(SEGMENTS, &mut self.taken);
                if taken == 0 {
                    break;
                }
                socket.pending += taken as u64;
                socket.segments.extend(self.taken.drain(..));
            }
            match socket.send() {
                Ok(()) => {}
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(_) => return self.gone(now, id),
            }
        }
        let waiting = !socket.segments.is_empty();
        let mut interest = EpollFlags::empty();
        interest.set(EpollFlags::EPOLLOUT, waiting);
        let full = socket.pending + tx.pending() > PENDING_MAX;
        interest.set(EpollFlags::EPOLLIN, !full && !socket.closing);
        if interest != socket.interest {
            socket.interest = interest;
            let mut event = EpollEvent::new(interest, id.0.into());
            // Fails only for a socket that is not registered, which would be our own mistake.
            let result = self.epoll.modify(&socket.stream, &mut event);
            assert!(result.is_ok(), "a registered socket can be modified: {result:?}");
        }
        if socket.closing && !waiting {
            self.leave(now, id);
        }
    }

    /// Everything is sent: FIN, then wait for the peer's, so that the last bytes are not reset away.
    fn leave(&mut self, now: Instant, id: ConnectionId) {
        let Some(socket) = self.sockets.remove(&id) else { return };
        if let Some(node) = &mut self.node {
            node.handle_closed(now, id);
        }
        let token = self.next_leaving;
        let mut event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        if socket.stream.shutdown(Shutdown::Write).is_ok()
            && self.epoll.modify(&socket.stream, &mut event).is_ok()
        {
            self.next_leaving += 1;
            self.leaving.insert(token, socket.stream);
        }
    }

    fn drain(&mut self, token: u64) {
        let Some(mut stream) = self.leaving.get(&token) else { return };
        match stream.read(&mut self.buffer) {
            Ok(n) if n > 0 => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            _ => {
                self.leaving.remove(&token);
            }
        }
    }

    fn gone(&mut self, now: Instant, id: ConnectionId) {
        self.sockets.remove(&id);
        if let Some(node) = &mut self.node {
            node.handle_closed(now, id);
        }
    }

    fn kill(&mut self) {
        self.listener = None;
        self.node = None;
        for socket in self.sockets.values() {
            reset_on_close(&socket.stream);
        }
        self.sockets.clear();
        self.leaving.clear();
    }

    fn start_again(&mut self) -> io::Result<()> {
        if self.node.is_some() {
            return Ok(());
        }
        self.listen()
    }
}

impl Socket {
    /// One gathered send.
    fn send(&mut self) -> nix::Result<()> {
        let mut slices = [IoSlice::new(&[]); SEGMENTS];
        let mut count = 0;
        for (slice, segment) in slices.iter_mut().zip(&self.segments) {
            *slice = IoSlice::new(segment);
            count += 1;
        }
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let fd = self.stream.as_raw_fd();
        let mut sent = sendmsg::<()>(fd, &slices[..count], &[], flags, None)?;
        self.pending -= sent as u64;
        while let Some(first) = self.segments.front_mut()
            && sent >= first.len()
        {
            sent -= first.len();
            self.segments.pop_front();
        }
        if let Some(first) = self.segments.front_mut() {
            first.advance(sent);
        }
        Ok(())
    }
}

/// Makes the close of a socket a reset.
fn reset_on_close(stream: &TcpStream) {
    let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    // A socket that the peer has reset already refuses; it is gone all the same.
    let _ = setsockopt(stream, sockopt::Linger, &now);
}
