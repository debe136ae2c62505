//! The daemon's side of the driver: turns of lanes, sockets, NBD clients.

use super::{Attempt, DriverBug, World, portal_addr, theirs};
use crate::net::{Item, Net, Pipe, Wire, pieces};
use crate::trace::About;
use bytes::Bytes;
use mpio::base::{Duration, Tenants};
use mpio::path::PathIndex;
use mpio::volume::{Action, Endpoint, Volume};
use std::net::SocketAddr;

/// One completion in so many is lost, where that bug is planted.
const LOST_ONE_IN: u64 = 300;

impl World {
    /// One turn of a lane, if anything happened to it.
    pub(super) fn lane_turn(&mut self, lane: usize) -> bool {
        let mut moved = false;
        let now = self.at();
        let volume = &mut self.volumes[lane];
        if volume.poll_deadline().is_some_and(|at| at <= now) {
            volume.handle_timeout(now);
            self.awake[lane] = true;
            moved = true;
        }
        for path in 0..self.portals.len() {
            let wire = self.socket[lane][path].and_then(|wire| self.wires.get(&wire));
            if wire.is_some_and(|wire| wire.blocked) {
                moved |= self.transmit(lane, Endpoint::Path(PathIndex::new(path)));
            }
        }
        if !std::mem::take(&mut self.awake[lane]) {
            return moved;
        }
        self.volumes[lane].finish_turn(now);
        if self.setup.seed.is_multiple_of(2) {
            move_payloads(&mut self.volumes[lane]);
        }
        while let Some(action) = self.volumes[lane].poll_action() {
            moved = true;
            self.act(lane, action);
        }
        let mut touched = Vec::new();
        self.volumes[lane].poll_transmit(|endpoint, _| touched.push(endpoint));
        for endpoint in touched {
            moved |= self.transmit(lane, endpoint);
        }
        moved
    }

    pub(super) fn transmit(&mut self, lane: usize, endpoint: Endpoint) -> bool {
        let at = self.at();
        let lost = self.setup.bug == Some(DriverBug::LostCompletion);
        match endpoint {
            Endpoint::Path(path) => {
                let Some(id) = self.socket[lane][path.get()] else { return false };
                let World { volumes, wires, portals, dice, now, .. } = self;
                let Some(tx) = volumes[lane].tx(endpoint) else { return false };
                let wire = wires.get_mut(&id).expect("a socket has its wire");
                let taken = wire.send(*now, &portals[wire.portal], dice, tx);
                wire.stuck |= lost && taken > 0 && dice.one_in(LOST_ONE_IN);
                if taken > 0 {
                    self.awake[lane] |= self.volumes[lane].handle_sent(at, endpoint);
                    self.trace.mix(taken as u64);
                }
                taken > 0
            }
            Endpoint::Client(id) => {
                let Some(index) = self.peer_of(lane, id) else { return false };
                let Some(tx) = self.volumes[lane].tx(endpoint) else { return false };
                let peer = &mut self.peers[index];
                if peer.deaf || peer.stuck {
                    return false;
                }
                let mut segments = Vec::new();
                while tx.take(1024, &mut segments) > 0 {}
                for segment in &segments {
                    peer.client.handle_received(segment.clone());
                }
                if segments.is_empty() {
                    return false;
                }
                peer.stuck = lost && self.dice.one_in(LOST_ONE_IN);
                self.collect(index);
                self.awake[lane] |= self.volumes[lane].handle_sent(at, endpoint);
                true
            }
        }
    }

    fn act(&mut self, lane: usize, action: Action) {
        let at = self.at();
        match action {
            Action::Connect { path, remote, timeout, .. } => {
                self.attempt(lane, path, remote, timeout)
            }
            Action::GiveUp(path) => {
                self.abandon_socket(lane, path.get());
                self.attempts.retain(|a| (a.lane, a.path) != (lane, path));
                self.closing.push((self.now + self.close_delay, lane, path));
            }
            Action::CloseClient { client, abort } => {
                if let Some(index) = self.peer_of(lane, client) {
                    self.peers[index].closing = true;
                    self.peers[index].deaf |= abort;
                }
            }
            Action::Log(notice) => {
                let path = notice.path.as_deref().unwrap_or("-");
                let text = format!("lane {lane} {path} {}: {}", notice.what, notice.why);
                self.trace.tell(self.now, About::Notice, text);
                self.log.push(notice);
            }
            Action::WakeLane(other) => {
                if let Some(awake) = self.awake.get_mut(usize::from(other)) {
                    *awake = true;
                }
            }
            Action::TargetWasReset(target) => {
                for other in (0..self.volumes.len()).filter(|other| *other != lane) {
                    self.volumes[other].target_was_reset(at, &target);
                    self.awake[other] = true;
                }
            }
            Action::Drained => self.drained[lane] = true,
            Action::RecordNexus { path, record } => match self.record_delay {
                Some(delay) => self.recording.push((self.now + delay, lane, path, record)),
                None => {
                    let full = Err("no space left on device".to_owned());
                    self.volumes[lane].handle_nexus_recorded(at, path, full);
                    self.awake[lane] = true;
                }
            },
            Action::ForgetNexus(record) => self.state_file.retain(|r| *r != record),
            Action::RunFenceCommand(command) => self.commands.push(command),
            Action::Discover => self.discoveries.push(self.now),
        }
    }

    fn attempt(&mut self, lane: usize, path: PathIndex, remote: SocketAddr, timeout: Duration) {
        assert!(self.socket[lane][path.get()].is_none(), "two sockets for one path");
        let old = self.closing.iter().any(|(_, l, p)| (*l, *p) == (lane, path));
        assert!(!old, "a login while the old socket lives");
        self.connects.push((self.now, remote));
        let portal = (0..self.portals.len()).find(|i| portal_addr(*i) == remote);
        let (delay, fails) = match portal.map(|i| &self.portals[i]) {
            None => (Duration::from_millis(1), Some("no route to host")),
            Some(p) if !matches!(p.net, Net::Works | Net::Refuses) || self.dark[p.node] => {
                (timeout, Some("no answer"))
            }
            Some(p) if p.net == Net::Refuses || self.nodes[p.node].is_none() => {
                (p.delay * 2, Some("connection refused"))
            }
            Some(p) => (p.delay * 2, None),
        };
        let due = self.now + delay;
        self.attempts.push(Attempt { lane, path, portal, due, fails });
    }

    /// Resets a connection from our side. What the network has already may still arrive, without the reset.
    pub(super) fn abandon_socket(&mut self, lane: usize, path: usize) {
        let Some(id) = self.socket[lane][path].take() else { return };
        let wire = self.wires.get_mut(&id).expect("a socket has its wire");
        let portal = &self.portals[wire.portal];
        wire.open = false;
        wire.to_volume = Pipe::default();
        let lossy = self.setup.loses_last_words;
        let works = !lossy || portal.net == Net::Works && !wire.stalled;
        // What has not left is not sent any more, and a reset is sent once: in a network that loses
        // packets some of both arrives, or nothing.
        if !works {
            let keep = self.dice.index(wire.to_target.len() + 1);
            wire.to_target.truncate(keep);
            wire.bytes_out = wire.to_target.bytes_mut().map(|b| b.len()).sum();
        }
        if works || self.dice.one_in(2) {
            let due = self.now + portal.transit(&mut self.dice);
            wire.to_target.push(due, Item::Rst);
        }
    }

    /// What the daemon's kernel has for it.
    fn kernel_turn(&mut self) -> bool {
        let (now, at) = (self.now, self.at());
        let mut moved = false;
        let due: Vec<_> = self.closing.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, lane, path) in due {
            moved = true;
            self.volumes[lane].handle_socket_closed(at, Endpoint::Path(path));
            self.awake[lane] = true;
        }
        let due: Vec<_> = self.attempts.extract_if(.., |a| a.due <= now).collect();
        for attempt in due {
            moved = true;
            self.connected(attempt);
        }
        let due: Vec<_> = self.recording.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, lane, path, record) in due {
            moved = true;
            if !self.state_file.contains(&record) {
                self.state_file.push(record);
            }
            self.volumes[lane].handle_nexus_recorded(at, path, Ok(()));
            self.awake[lane] = true;
        }
        moved
    }

    /// Sockets and bytes that are due.
    pub(super) fn deliver(&mut self) -> bool {
        let mut moved = !self.paused && self.kernel_turn();
        let all: Vec<u32> = self.wires.keys().copied().collect();
        for id in all {
            moved |= self.deliver_there(id);
            moved |= self.deliver_here(id);
        }
        self.wires.retain(|_, w| w.open || !w.to_target.is_empty());
        moved
    }

    fn connected(&mut self, attempt: Attempt) {
        let at = self.at();
        let Attempt { lane, path, portal, fails, .. } = attempt;
        self.awake[lane] = true;
        let node = portal.map(|p| self.portals[p].node).filter(|n| self.nodes[*n].is_some());
        let (Some(portal), Some(node), None) = (portal, node, fails) else {
            let why = fails.unwrap_or("connection refused");
            self.volumes[lane].handle_connect_failed(at, path, why);
            return;
        };
        let target = self.nodes[node].as_mut().expect("it is there");
        let id = target.accept(theirs(self.now), portal_addr(portal));
        let wire = Wire {
            portal,
            node,
            boot: self.boots[node],
            id,
            owner: (lane, path.get()),
            open: true,
            to_target: Pipe::default(),
            to_volume: Pipe::default(),
            blocked: false,
            stalled: false,
            stuck: false,
            bytes_out: 0,
        };
        self.wires.insert(self.next_wire, wire);
        self.socket[lane][path.get()] = Some(self.next_wire);
        self.next_wire += 1;
        let local = SocketAddr::from(([10, 0, 1, 1], 50_000));
        self.volumes[lane].handle_connected(at, path, local);
    }

    fn deliver_here(&mut self, id: u32) -> bool {
        let mut moved = false;
        let now = self.at();
        while !self.paused {
            let wire = self.wires.get_mut(&id).expect("the caller has its name");
            let net = self.portals[wire.portal].net;
            let Some(item) = wire.arrives_here(self.now, net) else { return moved };
            let (lane, path) = wire.owner;
            if !wire.open || self.socket[lane][path] != Some(id) {
                continue;
            }
            moved = true;
            self.awake[lane] = true;
            let endpoint = Endpoint::Path(PathIndex::new(path));
            let volume = &mut self.volumes[lane];
            match item {
                Item::Bytes(bytes) => {
                    self.trace.mix(bytes.len() as u64);
                    volume.handle_received(now, endpoint, bytes);
                }
                Item::Fin => volume.handle_disconnected(now, endpoint, None),
                Item::Rst => {
                    let error = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                    volume.handle_disconnected(now, endpoint, Some(&error));
                }
            }
        }
        moved
    }

    pub(super) fn peers_turn(&mut self) -> bool {
        let at = self.at();
        let mut moved = false;
        for index in 0..self.peers.len() {
            let Some(id) = self.peers[index].id else { continue };
            self.collect(index);
            let endpoint = Endpoint::Client(id);
            let peer = &mut self.peers[index];
            let lane = peer.lane;
            let mut segments = Vec::new();
            while peer.client.tx().take(1024, &mut segments) > 0 {}
            // As a receive would find it: one buffer for many requests.
            peer.up.extend(pieces(&segments, 512 * 1024));
            while !self.peers[index].up.is_empty() && self.volumes[lane].wants_input(endpoint) {
                let chunk = self.peers[index].up.pop_front().expect("just seen");
                self.use_buffer(index, &chunk);
                self.volumes[lane].handle_received(at, endpoint, chunk);
                self.awake[lane] = true;
                moved = true;
            }
            let peer = &mut self.peers[index];
            if peer.eof && peer.up.is_empty() && !peer.closing {
                peer.eof = false;
                self.volumes[lane].handle_disconnected(at, endpoint, None);
                self.awake[lane] = true;
                moved = true;
            }
            if self.peers[index].closing {
                self.transmit(lane, endpoint);
                self.gone(index);
                self.peers[index].client.handle_eof();
                self.collect(index);
                self.volumes[lane].handle_socket_closed(at, endpoint);
                self.awake[lane] = true;
                moved = true;
            }
        }
        moved
    }

    /// The planted bug that uses a receive buffer again while sockets still send from it.
    fn use_buffer(&mut self, peer: usize, chunk: &Bytes) {
        if self.setup.bug != Some(DriverBug::BufferReuse) {
            return;
        }
        let Some(old) = self.peers[peer].buffer.replace(chunk.clone()) else { return };
        let (start, end) = (old.as_ptr() as usize, old.as_ptr() as usize + old.len());
        for wire in self.wires.values_mut() {
            for bytes in wire.to_target.bytes_mut() {
                let at = bytes.as_ptr() as usize;
                let Some(offset) = at.checked_sub(start).filter(|_| at < end) else { continue };
                let mut spoiled = bytes.to_vec();
                let from = chunk.iter().skip(offset);
                spoiled.iter_mut().zip(from).for_each(|(byte, new)| *byte = *new);
                *bytes = Bytes::from(spoiled);
            }
        }
    }
}

/// Memory is always short here: wherever payloads lie, they are moved elsewhere in every turn. Not with every seed, as a
/// buffer that is used again too early has to have somebody in it.
fn move_payloads(volume: &mut Volume) {
    let mut everywhere = Tenants::new(std::iter::once(0), usize::MAX);
    volume.count_payloads(&mut everywhere);
    assert!(everywhere.choose(1), "there is room elsewhere");
    volume.move_payloads(&mut everywhere);
}
