//! The load itself: threads that drive NBD connections as cheaply as sockets allow.
//!
//! One turn: wait, receive all that came on one connection into a large buffer, read the clock once, count the
//! replies in place, encode as many new requests, send them together. The clock that counts a batch of replies
//! also starts the requests that follow, so a latency includes the system call that sends it, and is as exact
//! as a batch is short. A thread with one connection sleeps in `recv`, one with several in `ppoll`.
//!
//! Closed loop: a request follows an answer. Open loop (`rate`): requests are due at fixed times, and a latency
//! counts from then, sent or not; what a slow server kept from being sent is not forgotten.

use super::choice::Choice;
use super::content::Content;
use super::stream::{SLICES, Stream};
use super::tally::Tally;
use crate::cli::nbd_client::Connection;
use crate::control::config::secret::plain;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike};
use socket2::Socket;
use std::io::{self, IoSlice, Read};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Receive buffer of a thread, bytes: small enough to stay in the second-level cache.
const RECEIVE: usize = 256 * 1024;
/// How often a thread that hears nothing looks whether it is to stop.
const LOOK_UP: Duration = Duration::from_millis(100);
/// How long the next answer is waited for after the last request.
const DRAIN: Duration = Duration::from_secs(10);
/// The same after an interrupt.
const DRAIN_INTERRUPTED: Duration = Duration::from_secs(2);
/// Errors after which a run is pointless.
const ERRORS_MAX: u64 = 1000;

/// When a run begins, measures and ends; nanoseconds of its clock.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Measuring begins: the end of the ramp.
    pub from: u64,
    /// Nothing is submitted any more.
    pub until: u64,
    /// Requests per second of one thread; `None` for as fast as answers come.
    pub rate: Option<f64>,
}

/// What all threads and whoever watches them share.
#[derive(Debug)]
pub struct Shared {
    /// Zero of the clock.
    pub origin: Instant,
    /// Ends the run before its time.
    pub interrupted: AtomicBool,
    /// Answers so far, of all threads.
    pub answered: AtomicU64,
    /// Errors so far.
    pub errors: AtomicU64,
    /// Longest latency since it was last taken, nanoseconds.
    pub longest: AtomicU64,
}

impl Shared {
    /// The clock starts now.
    #[must_use]
    pub fn new() -> Shared {
        Shared {
            origin: Instant::now(),
            interrupted: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        }
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }
}

impl Default for Shared {
    fn default() -> Shared {
        Shared::new()
    }
}

/// What a thread leaves.
#[derive(Debug)]
pub struct Done {
    /// What it counted.
    pub tally: Tally,
    /// Processor time that it took in the measured time, user and system, nanoseconds.
    pub cpu: u64,
    /// Why it ended before its time.
    pub broken: Option<String>,
}

/// The sockets of a thread, and what is waited for on them.
struct Sockets<'a> {
    sockets: &'a [Socket],
    polls: Vec<PollFd<'a>>,
}

/// One thread of the generator.
pub struct Worker {
    sockets: Vec<Socket>,
    wires: Wires,
}

/// Everything of a thread that is not a socket.
struct Wires {
    streams: Vec<Stream>,
    /// The socket did not take everything.
    blocked: Vec<bool>,
    schedule: Schedule,
    tally: Tally,
    buffer: Vec<u8>,
    cpu: Cpu,
    /// Requests submitted in the open loop.
    due: u64,
    /// The connection that the open loop looks at next.
    next: usize,
    reading_back: bool,
}

impl Worker {
    /// A thread that drives `connections`, each with at most `depth` requests of `size` bytes.
    ///
    /// # Errors
    /// When a socket refuses a setting.
    pub fn new(
        connections: Vec<(Connection, Choice)>,
        size: u32,
        depth: usize,
        schedule: Schedule,
    ) -> io::Result<Worker> {
        let (mut sockets, mut streams) = (Vec::new(), Vec::new());
        for (connection, choice) in connections {
            let socket = connection.into_socket();
            socket.set_read_timeout(Some(LOOK_UP))?;
            sockets.push(socket);
            streams.push(Stream::new(size, depth, choice));
        }
        let wires = Wires {
            blocked: vec![false; streams.len()],
            streams,
            schedule,
            tally: Tally::new(schedule.from, schedule.until),
            buffer: vec![0; RECEIVE],
            cpu: Cpu::default(),
            due: 0,
            next: 0,
            reading_back: false,
        };
        Ok(Worker { sockets, wires })
    }

    /// Runs to the end of the schedule, or until interrupted, and then until everything is answered and, if
    /// the choice verifies, read back.
    #[must_use]
    pub fn run(mut self, shared: &Shared, content: &Content) -> Done {
        if self.wires.schedule.rate.is_some() {
            // The default slack of 50 us would make every request late by that much.
            let _ = nix::sys::prctl::set_timerslack(1);
        }
        let polls =
            self.sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        let polls = polls.collect();
        let mut sockets = Sockets { sockets: &self.sockets, polls };
        let broken = self.wires.drive(&mut sockets, shared, content).err();
        let mut wires = self.wires;
        wires.cpu.stop();
        wires.tally.unanswered = wires.in_flight() as u64 + wires.never_sent(shared);
        Done { tally: wires.tally, cpu: wires.cpu.took, broken }
    }
}

impl Wires {
    fn drive(
        &mut self,
        sockets: &mut Sockets<'_>,
        shared: &Shared,
        content: &Content,
    ) -> Result<(), String> {
        let mut now = shared.now();
        let (mut answered, mut quiet_since) = (0, now);
        loop {
            let interrupted = shared.interrupted.load(Ordering::Relaxed);
            let ending = now >= self.schedule.until || interrupted;
            if ending {
                self.cpu.stop();
            } else if now >= self.schedule.from {
                self.cpu.start();
            }
            self.submit(now, interrupted);
            self.flush(sockets, content)?;
            if ending {
                if self.in_flight() == 0 {
                    if interrupted || !self.read_back() {
                        return Ok(());
                    }
                    continue;
                }
                let patience = if interrupted { DRAIN_INTERRUPTED } else { DRAIN };
                if now > quiet_since + patience.as_nanos() as u64 {
                    return Ok(());
                }
            }
            now = self.turn(sockets, shared, content, now)?;
            if !ending || self.tally.total > answered {
                (answered, quiet_since) = (self.tally.total, now);
            }
            if self.tally.errors > ERRORS_MAX {
                return Ok(());
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.streams.iter().map(Stream::in_flight).sum()
    }

    /// Requests of the open loop that were due and never sent.
    fn never_sent(&self, shared: &Shared) -> u64 {
        match self.schedule.rate {
            None => 0,
            Some(rate) => {
                let end = self.schedule.until.min(shared.now());
                ((end as f64 * rate / 1e9) as u64).saturating_sub(self.due)
            }
        }
    }

    /// Starts reading back, if there is something to read back and it was not done.
    fn read_back(&mut self) -> bool {
        let again = !self.reading_back && self.streams.iter().any(|s| s.choice.verifies());
        if again {
            self.reading_back = true;
            self.streams.iter_mut().for_each(|stream| stream.choice.read_back());
        }
        again
    }

    fn submit(&mut self, now: u64, interrupted: bool) {
        let ending = now >= self.schedule.until || interrupted;
        match self.schedule.rate {
            Some(rate) if !self.reading_back => {
                if !interrupted {
                    self.submit_due(rate, now.min(self.schedule.until));
                }
            }
            _ if ending && !self.reading_back => {}
            _ => {
                for stream in &mut self.streams {
                    while stream.submit(now) {}
                }
            }
        }
    }

    /// When request `n` of the open loop is due.
    fn due_at(n: u64, rate: f64) -> u64 {
        (n as f64 * 1e9 / rate) as u64
    }

    fn submit_due(&mut self, rate: f64, now: u64) {
        let count = self.streams.len();
        loop {
            let due = Wires::due_at(self.due, rate);
            if due >= now {
                return;
            }
            let mut order = (0..count).map(|i| (self.next + i) % count);
            let Some(index) = order.find(|&i| self.streams[i].has_room()) else { return };
            self.streams[index].submit(due);
            self.next = index + 1;
            self.due += 1;
        }
    }

    fn flush(&mut self, sockets: &Sockets<'_>, content: &Content) -> Result<(), String> {
        for (index, stream) in self.streams.iter_mut().enumerate() {
            self.blocked[index] = false;
            while stream.has_output() {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = stream.gather(content, &mut slices);
                // A server that waits for us to read must not stop us from reading.
                let flags = nix::libc::MSG_DONTWAIT;
                match sockets.sockets[index].send_vectored_with_flags(&slices[..count], flags) {
                    Ok(n) => stream.sent(n),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.blocked[index] = true;
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(plain(&error)),
                }
            }
        }
        Ok(())
    }

    /// Waits, receives, counts; gives the time.
    fn turn(
        &mut self,
        sockets: &mut Sockets<'_>,
        shared: &Shared,
        content: &Content,
        now: u64,
    ) -> Result<u64, String> {
        let before = (self.tally.total, self.tally.errors);
        let mut now = now;
        if self.streams.len() == 1 && self.schedule.rate.is_none() && !self.blocked[0] {
            // `recv` itself waits.
            now = self.receive(0, &sockets.sockets[0], shared, content)?;
        } else {
            self.wait(sockets, now)?;
            for index in 0..self.streams.len() {
                let come = sockets.polls[index].revents().unwrap_or(PollFlags::empty());
                if come.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
                    now = self.receive(index, &sockets.sockets[index], shared, content)?;
                }
            }
            now = now.max(shared.now());
        }
        let (total, errors) = (self.tally.total - before.0, self.tally.errors - before.1);
        if total > 0 {
            shared.answered.fetch_add(total, Ordering::Relaxed);
            shared.errors.fetch_add(errors, Ordering::Relaxed);
            shared.longest.fetch_max(std::mem::take(&mut self.tally.peak), Ordering::Relaxed);
        }
        Ok(now)
    }

    fn wait(&self, sockets: &mut Sockets<'_>, now: u64) -> Result<(), String> {
        let mut limit = LOOK_UP;
        if let Some(rate) = self.schedule.rate.filter(|_| now < self.schedule.until) {
            // With no room left an answer has to come first.
            if self.streams.iter().any(Stream::has_room) {
                let due = Wires::due_at(self.due, rate);
                limit = limit.min(Duration::from_nanos(due.saturating_sub(now)));
            }
        }
        for (poll, blocked) in sockets.polls.iter_mut().zip(&self.blocked) {
            let out = if *blocked { PollFlags::POLLOUT } else { PollFlags::empty() };
            poll.set_events(PollFlags::POLLIN | out);
        }
        match ppoll(&mut sockets.polls, Some(TimeSpec::from_duration(limit)), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.desc().to_lowercase()),
        }
    }

    fn receive(
        &mut self,
        index: usize,
        mut socket: &Socket,
        shared: &Shared,
        content: &Content,
    ) -> Result<u64, String> {
        let came = socket.read(&mut self.buffer);
        let now = shared.now();
        let bytes = match came {
            Ok(0) => return Err("the server closed the connection".to_owned()),
            Ok(n) => &self.buffer[..n],
            Err(error) if is_nothing(&error) => return Ok(now),
            Err(error) => return Err(plain(&error)),
        };
        let stream = &mut self.streams[index];
        stream.received(bytes, now, content, &mut self.tally).map_err(|error| error.to_string())?;
        Ok(now)
    }
}

fn is_nothing(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

/// Processor time of the calling thread.
#[derive(Debug, Default)]
struct Cpu {
    since: Option<u64>,
    took: u64,
    stopped: bool,
}

impl Cpu {
    fn start(&mut self) {
        if self.since.is_none() && !self.stopped {
            self.since = Some(Cpu::now());
        }
    }

    fn stop(&mut self) {
        if let Some(since) = self.since.take() {
            self.took = Cpu::now().saturating_sub(since);
        }
        self.stopped = true;
    }

    fn now() -> u64 {
        let Ok(usage) = getrusage(UsageWho::RUSAGE_THREAD) else { return 0 };
        let nanos = |time: TimeVal| time.num_microseconds().unsigned_abs() * 1000;
        nanos(usage.user_time()) + nanos(usage.system_time())
    }
}
