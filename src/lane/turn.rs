//! The loop of a lane.

use super::errand::Errand;
use super::mailbox::{Command, CommandError, PathAction};
use super::memory::Bound;
use super::sockets::{Index, Socket, Sockets};
use super::{Device, Lane, STALL_MIN, TIMER_GRAIN, log};
use crate::base::{Duration, Instant, SteadyClock, TxQueue};
use crate::limits;
use crate::path::Stamp;
use crate::ring::{Completion, Connect, Ring, Sending, SockId, Stage, explain};
use crate::volume::admin::Snapshot;
use crate::volume::shared::Shared;
use crate::volume::spec::{DeviceSpec, PathSpec};
use crate::volume::{Action, Endpoint, Level, Notice, Volume};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::SystemTime;

impl Lane {
    pub(super) fn new(id: u16, ring: Ring, mailbox: Receiver<Command>, log: log::Sink) -> Lane {
        Lane {
            id,
            ring,
            epoch: std::time::Instant::now(),
            clock: SteadyClock::default(),
            devices: Vec::new(),
            deadlines: Vec::new(),
            timers_at: Instant::MAX,
            alarms: Vec::new(),
            touched: Vec::new(),
            spin: Duration::ZERO,
            mailbox,
            peers: Vec::new(),
            sockets: Sockets::default(),
            paused: Vec::new(),
            log,
            errands: None,
            draining: None,
            stopped: false,
            bound: Bound::default(),
        }
    }

    fn now(&self) -> Instant {
        self.clock.at(self.raw_now())
    }

    fn raw_now(&self) -> Instant {
        let nanos = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Instant::from_nanos(nanos)
    }

    /// The one clock reading of a turn. After a pause all deadlines have moved by it.
    fn begin_turn(&mut self) -> Instant {
        let (now, paused) = self.clock.turn(self.raw_now(), self.timers_at);
        let late = now.since(self.timers_at);
        if paused.is_some() || late > STALL_MIN {
            self.devices.iter_mut().for_each(|d| d.volume.handle_stall(now, late));
        }
        if let Some(paused) = paused {
            tracing::warn!("stood still for {paused:?}: deadlines move by as much");
            // They ring when they were to, by a clock that is ahead now.
            self.alarms.clear();
            let wall = wall_clock();
            self.devices.iter_mut().for_each(|d| d.volume.set_clock(now, wall));
        }
        now
    }

    pub(super) fn run(mut self) {
        let mut completions = Vec::with_capacity(256);
        let mut now = self.now();
        while !self.stopped {
            if !self.spin.is_zero() {
                self.look(now);
            }
            let limit = self.limit(now);
            self.ring.submit_and_wait(limit, &mut completions);
            now = self.begin_turn();
            for completion in completions.drain(..) {
                self.complete(now, completion);
            }
            self.alarms.retain(|at| *at > now);
            let timers = now >= self.timers_at;
            if timers {
                self.timeouts(now);
            }
            self.spin = Duration::ZERO;
            while let Some(index) = self.touched.pop() {
                self.finish(now, index);
                let volume = &self.devices[index].volume;
                self.spin = self.spin.max(volume.spin());
                let soon = volume.poll_soon().min(now + TIMER_GRAIN);
                self.timers_at = self.timers_at.min(soon);
            }
            if timers {
                self.schedule();
            }
            self.keep_bound();
            self.check_drained();
        }
    }

    /// How long the next wait may last, unless an alarm ends it: makes sure of an alarm before timers are due.
    fn limit(&mut self, now: Instant) -> Option<Duration> {
        let at = self.timers_at;
        if at == Instant::MAX || self.alarms.iter().any(|alarm| *alarm <= at) {
            return None;
        }
        if at <= now {
            return Some(Duration::ZERO);
        }
        if self.ring.alarm(at - now) {
            self.alarms.push(at);
            return None;
        }
        Some(at - now)
    }

    /// Looks for completions until there is one, for as long as the devices want it, before the lane sleeps.
    ///
    /// Between looks the processor is offered to others, which costs little when nobody wants it: the scheduler
    /// likes to wake target and client on the processor of the one who woke them, and an answer that is looked
    /// for there without a pause comes when the time is up. What others take counts, so the bound holds.
    fn look(&mut self, now: Instant) {
        let until = self.timers_at.min(now + self.spin);
        self.ring.submit();
        while !self.ring.is_ready() && self.now() < until {
            std::thread::yield_now();
        }
    }

    /// Marks a device: it finishes its turn.
    fn touch(&mut self, index: usize) {
        let device = &mut self.devices[index];
        if !device.touched {
            (device.touched, device.stale) = (true, true);
            self.touched.push(index);
        }
    }

    /// Lets the volumes do what is due.
    fn timeouts(&mut self, now: Instant) {
        for index in 0..self.devices.len() {
            if self.refresh(index) <= now {
                self.devices[index].volume.handle_timeout(now);
                self.touch(index);
            }
        }
    }

    /// Asks for every deadline that may have changed, and finds the next one.
    fn schedule(&mut self) {
        self.timers_at = Instant::MAX;
        for index in 0..self.devices.len() {
            self.timers_at = self.timers_at.min(self.refresh(index));
        }
    }

    fn refresh(&mut self, index: usize) -> Instant {
        if std::mem::take(&mut self.devices[index].stale) {
            let next = self.devices[index].volume.poll_deadline();
            self.deadlines[index] = next.unwrap_or(Instant::MAX);
        }
        self.deadlines[index]
    }

    fn complete(&mut self, now: Instant, completion: Completion) {
        if let Completion::Woken = completion {
            while let Ok(command) = self.mailbox.try_recv() {
                self.command(now, command);
            }
            return;
        }
        let sock = sock_of(&completion);
        let Some(socket) = self.sockets.by_id(sock) else { return };
        let (index, endpoint) = (socket.device, socket.endpoint);
        self.touch(index);
        let device = &mut self.devices[index];
        let socket = self.sockets.by_id(sock).expect("it was there a moment ago");
        if matches!(completion, Completion::Closed { .. }) {
            device.index.remove(endpoint);
            self.sockets.remove(sock);
            device.volume.handle_socket_closed(now, endpoint);
        } else if !socket.gone || matches!(completion, Completion::Sent { .. }) {
            deliver(now, device, socket, completion);
        }
    }

    /// Lets a touched volume finish its turn and carries out what it asks for. What was sent can make room
    /// for more, which is another round.
    fn finish(&mut self, now: Instant, index: usize) {
        loop {
            self.devices[index].touched = false;
            self.devices[index].volume.finish_turn(now);
            while let Some(action) = self.devices[index].volume.poll_action() {
                self.act(now, index, action);
            }
            self.transmit(now, index);
            if !self.devices[index].touched {
                break;
            }
        }
        self.rearm(index);
    }

    /// One gathered send per socket that has something to send, iSCSI sockets first.
    fn transmit(&mut self, now: Instant, index: usize) {
        let Device { volume, index: slots, touched, .. } = &mut self.devices[index];
        let (ring, sockets) = (&mut self.ring, &mut self.sockets);
        let mut resend = std::mem::take(&mut slots.resend);
        volume.poll_transmit(|endpoint, tx| {
            if let Some(slot) = slots.get(endpoint)
                && send(ring, sockets.get_mut(slot), tx)
            {
                resend.push(slot);
            }
        });
        while let Some(slot) = resend.pop() {
            let socket = sockets.get_mut(slot);
            // Until the socket takes no more, or nothing is left: a long write is made ready piece by piece.
            loop {
                *touched |= volume.handle_sent(now, socket.endpoint);
                let Some(tx) = volume.tx(socket.endpoint) else { break };
                if !send(ring, socket, tx) {
                    break;
                }
            }
            close_when_sent(ring, volume, socket);
        }
        slots.resend = resend;
    }

    /// Arms the receives, as far as the volume wants input.
    fn rearm(&mut self, index: usize) {
        let Device { volume, index: slots, .. } = &mut self.devices[index];
        let (ring, sockets, paused) = (&mut self.ring, &mut self.sockets, &mut self.paused);
        for _ in 0..slots.paused.len() {
            let slot = slots.paused.pop().expect("counted");
            sockets.get_mut(slot).paused = false;
            slots.rearm.push(slot);
        }
        while let Some(slot) = slots.rearm.pop() {
            let socket = sockets.get_mut(slot);
            if socket.gone || socket.receiving || socket.ended || socket.paused {
                continue;
            }
            if volume.wants_input(socket.endpoint) {
                receive(ring, socket);
            } else if !socket.closing {
                socket.paused = true;
                paused.push(slot);
            }
        }
        slots.paused.append(paused);
    }

    fn act(&mut self, now: Instant, index: usize, action: Action) {
        match action {
            Action::Connect { path, remote, source, interface, timeout } => {
                let connect = Connect { remote, source, interface, timeout };
                let endpoint = Endpoint::Path(path);
                let device = &mut self.devices[index];
                match self.ring.connect(&connect) {
                    Ok(sock) => {
                        let slot = self.sockets.insert(sock, index, endpoint, false);
                        self.sockets.get_mut(slot).connect = Some(Box::new(connect));
                        device.index.insert(endpoint, slot);
                    }
                    Err(error) => {
                        let why = explain(&error, Stage::Prepare, &connect).to_string();
                        device.volume.handle_connect_failed(now, path, &why);
                        device.volume.handle_socket_closed(now, endpoint);
                    }
                }
            }
            Action::GiveUp(path) => self.give_up(index, Endpoint::Path(path)),
            Action::CloseClient { client, abort } => {
                let endpoint = Endpoint::Client(client);
                if abort {
                    self.give_up(index, endpoint);
                    return;
                }
                let slots = &mut self.devices[index].index;
                let Some(slot) = slots.get(endpoint) else { return };
                self.sockets.get_mut(slot).closing = true;
                // The transmission of this turn sends what is queued, and closes then.
                slots.resend.push(slot);
            }
            Action::Log(notice) => self.log.put(self.devices[index].volume.name(), notice),
            Action::WakeLane(lane) => {
                let device = self.devices[index].volume.name().to_owned();
                self.tell(lane, Command::Wake { device });
            }
            Action::TargetWasReset(target) => {
                let device = self.devices[index].volume.name().to_owned();
                for lane in 0..self.peers.len() as u16 {
                    let (device, target) = (device.clone(), target.clone());
                    if lane != self.id {
                        self.tell(lane, Command::TargetWasReset { device, target });
                    }
                }
            }
            Action::Drained => self.devices[index].drained = true,
            Action::RecordNexus { path, record } => {
                let (device, lane) = (self.devices[index].volume.name().to_owned(), self.id);
                if !self.errand(Errand::RecordNexus { device, lane, path, record }) {
                    let nobody = Err("nobody writes it".to_owned());
                    self.devices[index].volume.handle_nexus_recorded(now, path, nobody);
                }
            }
            Action::ForgetNexus(record) => {
                let device = self.devices[index].volume.name().to_owned();
                self.errand(Errand::ForgetNexus { device, record });
            }
            Action::Discover => drop(self.errand(Errand::Discover)),
            Action::RunFenceCommand(command) => {
                let (device, lane) = (self.devices[index].volume.name().to_owned(), self.id);
                let id = command.id;
                if !self.errand(Errand::FenceCommand { device, lane, command }) {
                    let nobody = Err("nobody runs it".to_owned());
                    self.devices[index].volume.handle_fence_command(now, id, nobody);
                }
            }
        }
    }

    /// Whether somebody has taken the errand.
    fn errand(&self, errand: Errand) -> bool {
        self.errands.as_ref().is_some_and(|errands| errands.send(errand).is_ok())
    }

    /// Tells another lane something; a lane never waits for another one. A full mailbox only means that
    /// the other lane is busy, and a busy lane looks at its ranges every turn.
    fn tell(&mut self, lane: u16, command: Command) {
        if let Some(mailbox) = self.peers.get(lane as usize) {
            let _ = mailbox.try_send(command);
        }
    }

    fn give_up(&mut self, index: usize, endpoint: Endpoint) {
        let Some(slot) = self.devices[index].index.get(endpoint) else { return };
        let socket = self.sockets.get_mut(slot);
        // A socket that was closed in order may be waiting for a peer that takes nothing: this ends it.
        socket.gone = true;
        self.ring.give_up(socket.id);
    }

    fn check_drained(&mut self) {
        let devices = &self.devices;
        if let Some(reply) = self.draining.take_if(|_| devices.iter().all(|d| d.drained)) {
            let _ = reply.send(());
        }
    }

    fn command(&mut self, now: Instant, command: Command) {
        match command {
            Command::AddDevice { spec, shared } => self.add_device(now, *spec, shared),
            Command::AddPath { device, path } => self.add_path(now, &device, *path),
            Command::Client { device, fd, peer } => self.client(now, &device, fd, &peer),
            Command::Status { device, reply } => {
                let _ = reply.send(self.status(now, device.as_deref()));
            }
            Command::SetPolicy { device, policy, weights, prefer, reply } => {
                let result = self.with_device(&device, |volume| {
                    volume.set_policy(now, policy, &weights, prefer.as_deref())?;
                    Ok(volume.policy())
                });
                let _ = reply.send(result);
            }
            Command::SetTunables { device, tunables, changes, reply } => {
                let result = self.with_device(&device, |volume| {
                    volume.set_tunables(now, *tunables, &changes);
                    Ok(())
                });
                let _ = reply.send(result);
            }
            Command::Path { device, path, action, reply } => {
                let result = self.with_device(&device, |volume| match action {
                    PathAction::Disable { force } => Ok(volume.disable_path(now, &path, force)?),
                    PathAction::Enable => Ok(volume.enable_path(now, &path)?),
                    PathAction::Recheck => Ok(volume.recheck_path(now, &path)?),
                });
                let _ = reply.send(result);
            }
            Command::Doubts { device, reply } => {
                let _ = reply.send(self.with_device(&device, |volume| Ok(volume.doubts(now))));
            }
            Command::ConfirmDead { device, path, only_ask, reply } => {
                let result = self
                    .with_device(&device, |volume| Ok(volume.confirm_dead(now, &path, only_ask)?));
                let _ = reply.send(result);
            }
            Command::Drain { reply } => {
                self.draining = Some(reply);
                self.drain(now);
            }
            Command::Errands(errands) => self.errands = Some(errands),
            Command::NexusRecorded { device, path, result } => {
                let _ = self.with_device(&device, |volume| {
                    volume.handle_nexus_recorded(now, path, result);
                    Ok(())
                });
            }
            Command::FenceCommandEnded { device, id, result } => {
                let _ = self.with_device(&device, |volume| {
                    volume.handle_fence_command(now, id, result);
                    Ok(())
                });
            }
            Command::Peers(peers) => self.peers = peers,
            // What another lane says of a device that this one does not have is of no interest here.
            Command::Wake { device } => {
                let _ = self.with_device(&device, |_| Ok(()));
            }
            Command::TargetWasReset { device, target } => {
                let _ = self.with_device(&device, |volume| {
                    volume.target_was_reset(now, &target);
                    Ok(())
                });
            }
            Command::Stop => self.stopped = true,
        }
    }

    fn add_path(&mut self, now: Instant, device: &str, path: PathSpec) {
        let Some(index) = self.find(device) else { return };
        let name = path.name.clone();
        if let Err(error) = self.devices[index].volume.add_path(now, path) {
            tracing::error!(device, path = name, "not used: {error}");
        }
        self.touch(index);
    }

    fn status(&mut self, now: Instant, device: Option<&str>) -> Vec<Snapshot> {
        // The wall clock may have been set since; events are dated by it.
        let wall = wall_clock();
        self.devices.iter_mut().for_each(|d| d.volume.set_clock(now, wall));
        let wanted = |d: &&Device| device.is_none_or(|name| name == d.volume.name());
        self.devices.iter().filter(wanted).map(|d| d.volume.snapshot()).collect()
    }

    fn drain(&mut self, now: Instant) {
        for index in 0..self.devices.len() {
            self.devices[index].volume.drain(now);
            self.touch(index);
        }
    }

    fn add_device(&mut self, now: Instant, spec: DeviceSpec, shared: Arc<Shared>) {
        let entropy = Box::new(|bytes: &mut [u8]| {
            getrandom::fill(bytes).expect("the kernel gives random bytes");
        });
        let mut volume = Volume::new(now, spec, self.id, shared, entropy);
        self.expect_payloads(volume.buffer_memory());
        volume.set_clock(now, wall_clock());
        let index = Index::default();
        let (touched, stale, drained) = (false, false, false);
        self.devices.push(Device { volume, index, touched, stale, drained, refused: 0 });
        self.deadlines.push(Instant::MAX);
        self.touch(self.devices.len() - 1);
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.devices.iter().position(|d| d.volume.name() == name)
    }

    fn with_device<T>(
        &mut self,
        name: &str,
        f: impl FnOnce(&mut Volume) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let Some(index) = self.find(name) else {
            return Err(CommandError::NoSuchDevice(name.to_owned()));
        };
        self.touch(index);
        f(&mut self.devices[index].volume)
    }

    fn client(&mut self, now: Instant, device: &str, fd: OwnedFd, peer: &str) {
        let Some(index) = self.find(device) else { return };
        self.touch(index);
        let device = &mut self.devices[index];
        let Some(client) = device.volume.handle_client(now) else {
            // A flood of them is told ever more seldom.
            device.refused += 1;
            if device.refused.is_power_of_two() {
                let why = format!(
                    "{peer}: connection closed: {} clients at most, or the daemon is stopping ({} so far)",
                    limits::CLIENTS_PER_EXPORT_MAX,
                    device.refused
                );
                self.log.put(device.volume.name(), client_notice(why));
            }
            return;
        };
        let endpoint = Endpoint::Client(client);
        match self.ring.adopt(fd, false) {
            Ok(sock) => {
                let slot = self.sockets.insert(sock, index, endpoint, true);
                device.index.insert(endpoint, slot);
                device.index.rearm.push(slot);
            }
            Err(error) => {
                let why = format!("{peer}: connection closed: {error}");
                self.log.put(device.volume.name(), client_notice(why));
                device.volume.handle_socket_closed(now, endpoint);
            }
        }
    }
}

fn client_notice(why: String) -> Notice {
    Notice { level: Level::Warn, path: None, what: "client", why }
}

fn wall_clock() -> Stamp {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Stamp(since_1970.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
}

/// One completion to its volume.
fn deliver(now: Instant, device: &mut Device, socket: &mut Socket, completion: Completion) {
    let Device { volume, index: slots, .. } = device;
    let endpoint = socket.endpoint;
    let Some(slot) = slots.get(endpoint) else { return };
    match completion {
        Completion::Woken | Completion::Closed { .. } => {}
        Completion::Connected { local, .. } => {
            socket.connected = true;
            slots.rearm.push(slot);
            if let Endpoint::Path(path) = endpoint {
                volume.handle_connected(now, path, local);
            }
        }
        Completion::ConnectFailed { error, .. } => {
            socket.ended = true;
            let connect = socket.connect.take().expect("a socket that connects knows where to");
            let why = explain(&error, Stage::Connect, &connect).to_string();
            if let Endpoint::Path(path) = endpoint {
                volume.handle_connect_failed(now, path, &why);
            }
        }
        Completion::Received { chunk, .. } => {
            socket.receiving = false;
            slots.rearm.push(slot);
            volume.handle_received(now, endpoint, chunk);
        }
        Completion::Eof { .. } => {
            (socket.receiving, socket.ended) = (false, true);
            volume.handle_disconnected(now, endpoint, None);
        }
        Completion::RecvFailed { error, .. } => {
            (socket.receiving, socket.ended) = (false, true);
            volume.handle_disconnected(now, endpoint, Some(&error));
        }
        Completion::Sent { segments, .. } => {
            socket.sending = false;
            socket.spare = segments;
            slots.resend.push(slot);
        }
        Completion::SendFailed { error, .. } => {
            (socket.sending, socket.ended, socket.broken) = (false, true, true);
            slots.resend.push(slot);
            volume.handle_disconnected(now, endpoint, Some(&error));
        }
    }
}

fn sock_of(completion: &Completion) -> SockId {
    match completion {
        Completion::Connected { sock, .. }
        | Completion::ConnectFailed { sock, .. }
        | Completion::Received { sock, .. }
        | Completion::Eof { sock }
        | Completion::RecvFailed { sock, .. }
        | Completion::Sent { sock, .. }
        | Completion::SendFailed { sock, .. }
        | Completion::Closed { sock } => *sock,
        Completion::Woken => unreachable!("a wake-up is about no socket"),
    }
}

fn receive(ring: &mut Ring, socket: &mut Socket) {
    let max = match socket.endpoint {
        Endpoint::Path(_) => limits::RECV_ISCSI_MAX,
        Endpoint::Client(_) => limits::RECV_BUFFER,
    };
    socket.receiving = true;
    ring.recv(socket.id, max);
}

/// One gathered send, unless one is in flight. Whether the kernel took all of it at once.
fn send(ring: &mut Ring, socket: &mut Socket, tx: &mut TxQueue) -> bool {
    if socket.sending || socket.gone || socket.broken || !socket.connected || tx.is_empty() {
        return false;
    }
    let mut segments = std::mem::take(&mut socket.spare);
    tx.take(limits::SEND_SEGMENTS_MAX, &mut segments);
    match ring.send(socket.id, segments) {
        Sending::Done { segments } => {
            socket.spare = segments;
            true
        }
        Sending::InFlight => {
            socket.sending = true;
            false
        }
    }
}

/// A client that has been answered everything is closed in order.
fn close_when_sent(ring: &mut Ring, volume: &mut Volume, socket: &mut Socket) {
    if !socket.closing || socket.gone || socket.sending {
        return;
    }
    if socket.broken {
        socket.gone = true;
        ring.give_up(socket.id);
    } else if volume.tx(socket.endpoint).is_none_or(|tx| tx.is_empty()) {
        socket.gone = true;
        ring.close(socket.id);
    }
}
