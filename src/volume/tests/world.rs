//! The driver of the tests: see the parent module.

use super::peer::Peer;
use super::wire::{Item, Net, Portal, Wire, pieces, taken};
use crate::base::{Duration, Instant, Payload, SteadyClock};
use crate::export::client::{Answer, ClientConfig, Op};
use crate::path::{Fence, Ledger, PathIndex, Policy, State};
use crate::session::Digest;
use crate::volume::fence_command::FenceCommand;
use crate::volume::nexus::NexusRecord;
use crate::volume::shared::Shared;
use crate::volume::spec::{DeviceSpec, PathSpec, Tunables};
use crate::volume::{Action, Endpoint, Notice, Volume};
use crate::wire::nbd::{Command, NbdError};
use mpio_target::node::{Action as NodeAction, ConnectionId, Node};
use mpio_target::{Faults, Pair, PairConfig, Record};
use std::net::SocketAddr;
use std::sync::Arc;

/// Steps at one instant before it counts as a busy loop.
const STEPS_MAX: u32 = 20_000;

/// How a world is made.
pub(super) struct Setup {
    pub(super) pair: PairConfig,
    pub(super) tunables: Tunables,
    pub(super) policy: Policy,
    pub(super) wwid: Option<String>,
    pub(super) read_only: bool,
    pub(super) lanes: u16,
    /// Node behind each portal; one path per portal.
    pub(super) portals: Vec<usize>,
    pub(super) redirect_allow: Vec<SocketAddr>,
    pub(super) chap: Option<Arc<crate::session::chap::Credentials>>,
    pub(super) buffer_memory: usize,
    /// Nexuses are written down.
    pub(super) records: bool,
    /// Compare contents before a second path is used; the other tests begin with a blank unit.
    pub(super) content_probe: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            pair: PairConfig::default(),
            tunables: Tunables::default(),
            policy: Policy::RoundRobin,
            wwid: None,
            read_only: false,
            lanes: 1,
            portals: vec![0, 1],
            redirect_allow: Vec::new(),
            chap: None,
            buffer_memory: 64 << 20,
            records: false,
            content_probe: false,
        }
    }
}

/// A connection that is being made.
struct Attempt {
    lane: usize,
    path: PathIndex,
    portal: Option<usize>,
    due: Instant,
    fails: Option<&'static str>,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) pair: Pair,
    pub(super) nodes: [Option<Node>; 2],
    boots: [u32; 2],
    pub(super) volumes: Vec<Volume>,
    pub(super) portals: Vec<Portal>,
    attempts: Vec<Attempt>,
    pub(super) wires: Vec<Wire>,
    /// The wire of each lane's path.
    socket: Vec<Vec<Option<usize>>>,
    /// Sockets that are on their way to be closed.
    closing: Vec<(Instant, usize, PathIndex)>,
    /// How long the driver takes to let go of a socket.
    pub(super) close_delay: Duration,
    /// Bytes of one receive.
    pub(super) segment: usize,
    pub(super) peers: Vec<(usize, Peer)>,
    pub(super) log: Vec<Notice>,
    pub(super) connects: Vec<(Instant, SocketAddr)>,
    pub(super) drained: Vec<bool>,
    /// What the volumes take for the time, and whether they stand still.
    steady: SteadyClock,
    paused: bool,
    /// The state file, and how long writing it takes; `None`: it cannot be written.
    pub(super) state: Vec<NexusRecord>,
    pub(super) record_delay: Option<Duration>,
    recording: Vec<(Instant, usize, PathIndex, NexusRecord)>,
    /// Commands that were asked for.
    pub(super) commands: Vec<FenceCommand>,
    /// When the portals were to be asked again.
    pub(super) discoveries: Vec<Instant>,
    setup: Setup,
    clock: u64,
    steps: u32,
}

pub(super) fn portal_addr(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, index as u8 + 1], 3260))
}

pub(super) fn theirs(now: Instant) -> mpio_target::Instant {
    mpio_target::Instant::from_nanos(now.as_nanos())
}

fn ours(at: mpio_target::Instant) -> Instant {
    Instant::from_nanos(at.as_nanos())
}

/// The path that leads through portal `index`.
fn path_spec(setup: &Setup, pair: &Pair, lane: u16, index: usize, at: usize) -> PathSpec {
    let node = &pair.config().nodes[at];
    PathSpec {
        name: format!("{}:{}", ["a", "b", "c", "d"][index], at),
        portal_name: index.to_string(),
        portal: portal_addr(index),
        source: None,
        interface: None,
        target: node.target.clone(),
        portal_group: Some(node.portal_group),
        lun: u64::from(node.lun) << 48,
        isid: [0x80, 0, 0, 0, lane as u8, index as u8 + 1],
        chap: setup.chap.clone(),
        header_digest: Digest::None,
        data_digest: Digest::None,
        redirect_allow: setup.redirect_allow.clone().into(),
        weight: 1,
        preferred: false,
        order: index as u32,
    }
}

/// One volume per lane, as a process makes them at its start.
fn volumes(
    setup: &Setup,
    pair: &Pair,
    now: Instant,
    left_behind: Vec<(NexusRecord, bool)>,
) -> Vec<Volume> {
    let fence = Fence { mode: setup.tunables.fence, timeout: setup.tunables.fence_timeout };
    let ledger = Ledger::new(fence, pair.config().block_size, 1024);
    let shared = Arc::new(match setup.records {
        true => Shared::recording(now, ledger, left_behind),
        false => Shared::new(ledger),
    });
    let spec = DeviceSpec {
        name: "vm0".to_owned(),
        initiator_name: "iqn.2026-11.test.host:mpio".to_owned(),
        wwid: setup.wwid.clone(),
        policy: setup.policy,
        read_only: setup.read_only,
        tunables: Tunables { trust_identity: !setup.content_probe, ..setup.tunables.clone() },
        buffer_memory: setup.buffer_memory,
        lanes: setup.lanes,
    };
    let mut volumes = Vec::new();
    for lane in 0..setup.lanes {
        let mut state = 0x9e37_79b9_u64 + u64::from(lane);
        let entropy = Box::new(move |bytes: &mut [u8]| {
            for byte in bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (state >> 56) as u8;
            }
        });
        let mut volume = Volume::new(now, spec.clone(), lane, shared.clone(), entropy);
        for (index, node) in setup.portals.iter().enumerate() {
            let path = path_spec(setup, pair, lane, index, *node);
            volume.add_path(now, path).expect("room for the path");
        }
        volumes.push(volume);
    }
    volumes
}

impl World {
    /// Both paths up.
    pub(super) fn new(setup: Setup) -> World {
        let mut world = World::cold(setup);
        world.until_active();
        world
    }

    /// Nothing connected yet.
    pub(super) fn cold(setup: Setup) -> World {
        let pair = Pair::new(setup.pair.clone()).expect("a pair");
        let nodes = [Some(pair.node(0, 1)), Some(pair.node(1, 1))];
        let now = Instant::from_millis(1_000_000);
        let portals = setup.portals.iter().map(|node| Portal {
            node: *node,
            net: Net::Works,
            delay: Duration::from_micros(100),
            send_buffer: 4 << 20,
        });
        let portals: Vec<Portal> = portals.collect();
        let volumes = volumes(&setup, &pair, now, Vec::new());
        let lanes = volumes.len();
        World {
            now,
            nodes,
            boots: [0; 2],
            socket: vec![vec![None; portals.len()]; lanes],
            volumes,
            portals,
            attempts: Vec::new(),
            wires: Vec::new(),
            closing: Vec::new(),
            close_delay: Duration::from_micros(20),
            segment: 64 * 1024,
            peers: Vec::new(),
            log: Vec::new(),
            connects: Vec::new(),
            drained: vec![false; lanes],
            steady: SteadyClock::default(),
            paused: false,
            state: Vec::new(),
            record_delay: Some(Duration::from_millis(2)),
            recording: Vec::new(),
            commands: Vec::new(),
            discoveries: Vec::new(),
            setup,
            clock: 0,
            steps: 0,
            pair,
        }
    }

    // --- time

    /// Everything that is due now, until nothing moves.
    pub(super) fn settle(&mut self) {
        loop {
            self.steps += 1;
            assert!(self.steps < STEPS_MAX, "a busy loop at {:?}", self.now);
            let mut moved = self.deliver();
            moved |= self.nodes_turn();
            let lanes = if self.paused { 0 } else { self.volumes.len() };
            for lane in 0..lanes {
                moved |= self.lane_turn(lane);
            }
            moved |= !self.paused && self.peers_turn();
            if !moved {
                return;
            }
        }
    }

    /// Moves the clock to the next thing that is due, at most to `limit`.
    fn advance(&mut self, limit: Instant) {
        let mut next = limit;
        for volume in &self.volumes {
            let at = volume.poll_deadline().map_or(Instant::MAX, |at| self.steady.raw(at));
            next = next.min(if self.paused { Instant::MAX } else { at });
        }
        for node in self.nodes.iter().flatten() {
            next = next.min(node.poll_deadline().map_or(Instant::MAX, ours));
        }
        for wire in &self.wires {
            let portal = &self.portals[wire.portal];
            if portal.net != Net::Silent {
                next = next.min(wire.next(self.paused));
            }
        }
        if !self.paused {
            next = next.min(self.attempts.iter().map(|a| a.due).min().unwrap_or(Instant::MAX));
            next = next.min(self.closing.iter().map(|(at, ..)| *at).min().unwrap_or(Instant::MAX));
            next =
                next.min(self.recording.iter().map(|(at, ..)| *at).min().unwrap_or(Instant::MAX));
        }
        assert!(next >= self.now, "the deadline {next:?} lies before {:?}", self.now);
        if next > self.now {
            self.steps = 0;
        }
        self.now = next;
    }

    /// Lets `duration` pass.
    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.settle();
        while self.now < end {
            self.advance(end);
            self.settle();
        }
    }

    /// The daemon stands still, and everything else goes on. It may have been told by the clock (`steady`).
    pub(super) fn pause(&mut self, duration: Duration, steady: bool) {
        self.settle();
        let deadlines = self.volumes.iter().filter_map(Volume::poll_deadline);
        let due = deadlines.min().unwrap_or(Instant::MAX);
        self.paused = true;
        self.run(duration);
        self.paused = false;
        if steady {
            let (_, late) = self.steady.turn(self.now, due);
            assert!(late.is_some(), "a pause that nobody would notice");
        }
    }

    /// The daemon does not run for so long, which is too short for its clock to be told.
    pub(super) fn starve(&mut self, duration: Duration) {
        let end = self.now + duration;
        let deadlines = self.volumes.iter().filter_map(Volume::poll_deadline);
        let due = self.steady.raw(deadlines.min().unwrap_or(Instant::MAX));
        self.pause(duration, false);
        let (now, late) = (self.steady.at(end), end.since(due));
        self.volumes.iter_mut().for_each(|volume| volume.handle_stall(now, late));
    }

    pub(super) fn run_ms(&mut self, millis: u64) {
        self.run(Duration::from_millis(millis));
    }

    /// Until `wanted` holds; how long it took. At most two minutes of virtual time.
    pub(super) fn until(&mut self, what: &str, mut wanted: impl FnMut(&World) -> bool) -> Duration {
        let (from, end) = (self.now, self.now + Duration::from_secs(120));
        self.settle();
        while !wanted(self) {
            assert!(self.now < end, "{what} does not come\n{}", self.story());
            self.advance(end);
            self.settle();
        }
        self.now - from
    }

    pub(super) fn until_active(&mut self) -> Duration {
        self.until("every path active", |w| {
            (0..w.volumes.len()).all(|lane| {
                let paths = 0..w.portals.len();
                paths.into_iter().all(|path| w.state_on(lane, path) == State::Active)
            })
        })
    }

    pub(super) fn until_state(&mut self, path: usize, state: State) -> Duration {
        self.until(&format!("path {path} {state}"), |w| w.state(path) == state)
    }

    // --- the turns

    fn lane_turn(&mut self, lane: usize) -> bool {
        let mut moved = false;
        let now = self.steady.at(self.now);
        let volume = &mut self.volumes[lane];
        if volume.poll_deadline().is_some_and(|at| at <= now) {
            volume.handle_timeout(now);
            moved = true;
        }
        volume.finish_turn(now);
        while let Some(action) = self.volumes[lane].poll_action() {
            moved = true;
            self.act(lane, action);
        }
        let mut touched = Vec::new();
        self.volumes[lane].poll_transmit(|endpoint, _| touched.push(endpoint));
        for endpoint in touched {
            moved |= self.transmit(lane, endpoint);
        }
        for path in 0..self.portals.len() {
            let wire = self.socket[lane][path];
            if wire.is_some_and(|wire| self.wires[wire].blocked) {
                moved |= self.transmit(lane, Endpoint::Path(PathIndex::new(path)));
            }
        }
        moved
    }

    fn transmit(&mut self, lane: usize, endpoint: Endpoint) -> bool {
        let steady = self.steady.at(self.now);
        let World { volumes, wires, portals, socket, peers, now, .. } = self;
        let Some(tx) = volumes[lane].tx(endpoint) else { return false };
        match endpoint {
            Endpoint::Path(path) => {
                let Some(wire) = socket[lane][path.get()] else { return false };
                let wire = &mut wires[wire];
                let portal = &portals[wire.portal];
                let sent = wire.send(*now + portal.delay, portal.send_buffer, tx);
                if sent {
                    volumes[lane].handle_sent(steady, endpoint);
                }
                sent
            }
            Endpoint::Client(id) => {
                let peer = peers.iter_mut().find(|(l, p)| *l == lane && p.id == Some(id));
                let Some((_, peer)) = peer else { return false };
                if peer.deaf {
                    return false;
                }
                let mut segments = Vec::new();
                while tx.take(1024, &mut segments) > 0 {}
                for segment in &segments {
                    peer.client.handle_received(segment.clone());
                }
                peer.poll(&mut self.clock);
                if segments.is_empty() {
                    return false;
                }
                volumes[lane].handle_sent(steady, endpoint);
                true
            }
        }
    }

    fn act(&mut self, lane: usize, action: Action) {
        match action {
            Action::Connect { path, remote, timeout, .. } => {
                assert!(self.socket[lane][path.get()].is_none(), "two sockets for one path");
                let old = self.closing.iter().any(|(_, l, p)| (*l, *p) == (lane, path));
                assert!(!old, "a login while the old socket lives");
                self.connects.push((self.now, remote));
                let portal = (0..self.portals.len()).find(|i| portal_addr(*i) == remote);
                let (delay, fails) = match portal.map(|i| &self.portals[i]) {
                    None => (Duration::from_millis(1), Some("no route to host")),
                    Some(p) if p.net == Net::Silent => (timeout, Some("no answer")),
                    Some(p) if p.net == Net::Refuses || self.nodes[p.node].is_none() => {
                        (p.delay * 2, Some("connection refused"))
                    }
                    Some(p) => (p.delay * 2, None),
                };
                let due = self.now + delay;
                self.attempts.push(Attempt { lane, path, portal, due, fails });
            }
            Action::GiveUp(path) => {
                let at = self.now + self.close_delay;
                if let Some(wire) = self.socket[lane][path.get()].take() {
                    let wire = &mut self.wires[wire];
                    wire.open = false;
                    wire.to_volume.clear();
                    let due = self.now + self.portals[wire.portal].delay;
                    wire.to_target.push_back((due, Item::Rst));
                }
                self.attempts.retain(|a| (a.lane, a.path) != (lane, path));
                self.closing.push((at, lane, path));
            }
            Action::CloseClient { client, abort } => {
                let found = self.peers.iter_mut().find(|(l, p)| *l == lane && p.id == Some(client));
                if let Some((_, peer)) = found {
                    peer.closing = true;
                    peer.deaf |= abort;
                }
            }
            Action::Log(notice) => self.log.push(notice),
            Action::WakeLane(_) => {}
            Action::TargetWasReset(target) => {
                for other in (0..self.volumes.len()).filter(|other| *other != lane) {
                    self.volumes[other].target_was_reset(self.steady.at(self.now), &target);
                }
            }
            Action::Drained => self.drained[lane] = true,
            Action::RecordNexus { path, record } => match self.record_delay {
                Some(delay) => self.recording.push((self.now + delay, lane, path, record)),
                None => {
                    let full = Err("no space left on device".to_owned());
                    self.volumes[lane].handle_nexus_recorded(self.now, path, full);
                }
            },
            Action::ForgetNexus(gone) => self.state.retain(|record| *record != gone),
            Action::RunFenceCommand(command) => self.commands.push(command),
            Action::Discover => self.discoveries.push(self.now),
        }
    }

    /// Sockets and bytes that are due.
    fn deliver(&mut self) -> bool {
        let now = self.now;
        let mut moved = false;
        let heard = if self.paused { Instant::ZERO } else { now };
        let due: Vec<_> = self.closing.extract_if(.., |(at, ..)| *at <= heard).collect();
        for (_, lane, path) in due {
            moved = true;
            self.volumes[lane].handle_socket_closed(self.steady.at(now), Endpoint::Path(path));
        }
        let due: Vec<_> = self.attempts.extract_if(.., |a| a.due <= heard).collect();
        for attempt in due {
            moved = true;
            self.connected(attempt);
        }
        let due: Vec<_> = self.recording.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, lane, path, record) in due {
            moved = true;
            self.state.push(record);
            self.volumes[lane].handle_nexus_recorded(now, path, Ok(()));
        }
        for index in 0..self.wires.len() {
            moved |= self.deliver_on(index);
        }
        self.wires_tidy();
        moved
    }

    fn connected(&mut self, attempt: Attempt) {
        let Attempt { lane, path, portal, fails, .. } = attempt;
        let node = portal.map(|p| self.portals[p].node).filter(|n| self.nodes[*n].is_some());
        let (Some(portal), Some(node), None) = (portal, node, fails) else {
            let why = fails.unwrap_or("connection refused");
            self.volumes[lane].handle_connect_failed(self.steady.at(self.now), path, why);
            return;
        };
        let target = self.nodes[node].as_mut().expect("it is there");
        let id = target.accept(theirs(self.now), portal_addr(portal));
        self.wires.push(Wire {
            portal,
            node,
            boot: self.boots[node],
            id,
            open: true,
            to_target: Default::default(),
            to_volume: Default::default(),
            blocked: false,
            stalled: false,
            bytes_out: 0,
        });
        self.socket[lane][path.get()] = Some(self.wires.len() - 1);
        let local = SocketAddr::from(([10, 0, 1, 1], 50_000));
        self.volumes[lane].handle_connected(self.steady.at(self.now), path, local);
    }

    fn deliver_on(&mut self, index: usize) -> bool {
        let now = self.now;
        let mut moved = false;
        let wire = &self.wires[index];
        if self.portals[wire.portal].net == Net::Silent {
            return false;
        }
        let stalled = wire.stalled;
        while let Some((at, _)) = self.wires[index].to_target.front()
            && *at <= now
            && !stalled
        {
            let wire = &mut self.wires[index];
            let (_, item) = wire.to_target.pop_front().expect("just seen");
            let alive = wire.boot == self.boots[wire.node];
            let (node, id) = (wire.node, wire.id);
            moved = true;
            if let Item::Bytes(bytes) = &item {
                wire.bytes_out -= bytes.len();
            }
            let Some(target) = self.nodes[node].as_mut().filter(|_| alive) else { continue };
            match item {
                Item::Bytes(bytes) => {
                    for piece in bytes.chunks(self.segment) {
                        target.handle_received(theirs(now), id, piece);
                    }
                }
                Item::Fin | Item::Rst => target.handle_closed(theirs(now), id),
            }
        }
        while let Some((at, _)) = self.wires[index].to_volume.front()
            && *at <= now
            && !self.paused
        {
            let (_, item) = self.wires[index].to_volume.pop_front().expect("just seen");
            let Some((lane, path)) = self.owner(index) else { continue };
            moved = true;
            let endpoint = Endpoint::Path(path);
            let now = self.steady.at(now);
            match item {
                Item::Bytes(bytes) => self.volumes[lane].handle_received(now, endpoint, bytes),
                Item::Fin => self.volumes[lane].handle_disconnected(now, endpoint, None),
                Item::Rst => {
                    let error = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                    self.volumes[lane].handle_disconnected(now, endpoint, Some(&error));
                }
            }
        }
        moved
    }

    fn owner(&self, wire: usize) -> Option<(usize, PathIndex)> {
        self.socket.iter().enumerate().find_map(|(lane, sockets)| {
            let path = sockets.iter().position(|s| *s == Some(wire))?;
            Some((lane, PathIndex::new(path)))
        })
    }

    /// Old connections with nothing on their way are forgotten, from the end.
    fn wires_tidy(&mut self) {
        while self.wires.last().is_some_and(|w| !w.open && w.to_target.is_empty()) {
            self.wires.pop();
        }
    }

    fn nodes_turn(&mut self) -> bool {
        let mut moved = false;
        for index in 0..2 {
            let Some(node) = self.nodes[index].as_mut() else { continue };
            node.handle_timeout(theirs(self.now));
            loop {
                let action = self.nodes[index].as_mut().and_then(Node::poll_action);
                let Some(action) = action else { break };
                moved = true;
                let (id, item) = match action {
                    NodeAction::Reset(id) => (id, Item::Rst),
                    NodeAction::Close(id) => (id, Item::Fin),
                };
                self.send_of_node(index, id);
                self.push_to_volume(index, id, item);
                let node = self.nodes[index].as_mut().expect("it is there");
                node.handle_closed(theirs(self.now), id);
            }
            while let Some(id) = self.nodes[index].as_mut().and_then(Node::poll_dirty) {
                moved |= self.send_of_node(index, id);
            }
        }
        moved
    }

    fn send_of_node(&mut self, index: usize, id: ConnectionId) -> bool {
        let node = self.nodes[index].as_mut().expect("it is there");
        let Some(tx) = node.tx(id) else { return false };
        let segments = taken(tx);
        for piece in pieces(&segments, self.segment) {
            self.push_to_volume(index, id, Item::Bytes(piece));
        }
        !segments.is_empty()
    }

    fn push_to_volume(&mut self, node: usize, id: ConnectionId, item: Item) {
        let boot = self.boots[node];
        let wire = self.wires.iter_mut().find(|w| (w.node, w.boot, w.id) == (node, boot, id));
        if let Some(wire) = wire.filter(|w| w.open) {
            let due = self.now + self.portals[wire.portal].delay;
            wire.to_volume.push_back((due, item));
        }
    }

    fn peers_turn(&mut self) -> bool {
        let mut moved = false;
        for index in 0..self.peers.len() {
            let (lane, peer) = &mut self.peers[index];
            peer.poll(&mut self.clock);
            let Some(id) = peer.id else { continue };
            let endpoint = Endpoint::Client(id);
            let mut segments = Vec::new();
            while peer.client.tx().take(1024, &mut segments) > 0 {}
            // As a receive would find it: one buffer for many requests.
            peer.up.extend(pieces(&segments, 512 * 1024));
            while !peer.up.is_empty() && self.volumes[*lane].wants_input(endpoint) {
                let chunk = peer.up.pop_front().expect("just seen");
                self.volumes[*lane].handle_received(self.steady.at(self.now), endpoint, chunk);
                moved = true;
            }
            if peer.eof && peer.up.is_empty() && !peer.closing {
                peer.eof = false;
                self.volumes[*lane].handle_disconnected(self.steady.at(self.now), endpoint, None);
                moved = true;
            }
            if peer.closing {
                let lane = *lane;
                self.transmit(lane, endpoint);
                let (_, peer) = &mut self.peers[index];
                peer.id = None;
                peer.client.handle_eof();
                peer.poll(&mut self.clock);
                self.volumes[lane].handle_socket_closed(self.steady.at(self.now), endpoint);
                moved = true;
            }
        }
        moved
    }

    /// Holds back what is and will be on its way to the target on the connections of now.
    pub(super) fn stall(&mut self, portal: usize, stalled: bool) {
        for wire in self.wires.iter_mut().filter(|w| w.portal == portal) {
            wire.stalled = stalled;
        }
    }

    /// The process is killed and started again at once: its sockets are reset, its clients are gone. What the
    /// configuration still has is as `configured` says of a path's name.
    pub(super) fn restart(&mut self, configured: impl Fn(&str) -> bool) {
        for wire in self.wires.iter_mut().filter(|wire| wire.open) {
            wire.open = false;
            wire.to_volume.clear();
            wire.blocked = false;
            wire.to_target.push_back((self.now + self.portals[wire.portal].delay, Item::Rst));
        }
        self.socket.iter_mut().flatten().for_each(|socket| *socket = None);
        for (_, peer) in &mut self.peers {
            peer.id = None;
            peer.client.handle_eof();
        }
        self.attempts.clear();
        self.closing.clear();
        self.recording.clear();
        let left = self.state.iter().map(|r| (r.clone(), configured(&r.path))).collect();
        self.volumes = volumes(&self.setup, &self.pair, self.now, left);
    }

    // --- targets

    /// Ends a node like `kill -9`.
    pub(super) fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
        for wire in self.wires.iter_mut().filter(|w| w.node == node && w.open) {
            let due = self.now + self.portals[wire.portal].delay;
            wire.to_volume.push_back((due, Item::Rst));
        }
        self.boots[node] += 1;
    }

    /// Starts it again.
    pub(super) fn start(&mut self, node: usize) {
        let seed = u64::from(self.boots[node]) + 1;
        self.nodes[node] = Some(self.pair.node(node, seed));
    }

    pub(super) fn node(&mut self, node: usize) -> &mut Node {
        self.nodes[node].as_mut().expect("the node runs")
    }

    pub(super) fn faults(&self, node: usize) -> Arc<Faults> {
        self.pair.faults(node).clone()
    }

    pub(super) fn records(&self) -> Vec<Record> {
        self.pair.journal().records()
    }

    /// Executed commands of this operation code on this node.
    pub(super) fn executed(&self, node: u8, opcode: u8) -> usize {
        let wanted = |r: &&Record| r.nexus.node == node && r.opcode == opcode;
        self.records().iter().filter(wanted).count()
    }

    // --- the volume

    pub(super) fn volume(&mut self) -> &mut Volume {
        &mut self.volumes[0]
    }

    pub(super) fn state_on(&self, lane: usize, path: usize) -> State {
        self.volumes[lane].engine.state(PathIndex::new(path))
    }

    pub(super) fn state(&self, path: usize) -> State {
        self.state_on(0, path)
    }

    pub(super) fn reason(&self, path: usize) -> String {
        self.volumes[0].engine.reason(PathIndex::new(path)).to_owned()
    }

    pub(super) fn failures(&self, path: usize) -> u64 {
        self.volumes[0].engine.failures(PathIndex::new(path))
    }

    pub(super) fn logged(&self, what: &str) -> usize {
        self.log.iter().filter(|n| n.what == what).count()
    }

    /// Everything that was told, for messages of failed tests.
    pub(super) fn story(&self) -> String {
        let mut out = format!("now {:?}\n", self.now);
        for (index, _) in self.portals.iter().enumerate() {
            out += &format!("path {index}: {} {}\n", self.state(index), self.reason(index));
        }
        for volume in &self.volumes {
            let stages: Vec<_> = volume.requests.iter().map(|(_, r)| (r.stage, r.live)).collect();
            let left: Vec<_> = volume
                .stragglers
                .iter()
                .map(|(_, s)| (s.path, s.kind, s.started, s.overdue))
                .collect();
            out += &format!("requests {stages:?}\nstragglers {left:?}\n");
        }
        for notice in self.log.iter().rev().take(30).rev() {
            out +=
                &format!("{:?} {:?} {}: {}\n", notice.level, notice.path, notice.what, notice.why);
        }
        out
    }

    // --- clients

    /// A client that has opened the export.
    pub(super) fn client(&mut self) -> usize {
        self.client_on(0)
    }

    /// The same on another lane.
    pub(super) fn client_on(&mut self, lane: usize) -> usize {
        let peer = self.connect(lane, ClientConfig::new("vm0"));
        self.until("the export opens", |w| w.peers[peer].1.export.is_some());
        peer
    }

    /// A client that has just connected.
    pub(super) fn connect(&mut self, lane: usize, config: ClientConfig) -> usize {
        let id = self.volumes[lane].handle_client(self.steady.at(self.now));
        self.peers.push((lane, Peer::new(id, config)));
        self.peers.len() - 1
    }

    pub(super) fn peer(&mut self, peer: usize) -> &mut Peer {
        &mut self.peers[peer].1
    }

    /// Sends a request without waiting.
    pub(super) fn submit(&mut self, peer: usize, op: Op) -> u64 {
        self.clock += 1;
        let clock = self.clock;
        let peer = &mut self.peers[peer].1;
        peer.sent += 1;
        let token = peer.sent;
        peer.stamps.began(token, clock);
        peer.client.submit(token, op);
        token
    }

    pub(super) fn start_write(&mut self, peer: usize, offset: u64, data: Vec<u8>) -> u64 {
        self.submit(peer, Op::Write { offset, data: Payload::from(data), fua: false })
    }

    pub(super) fn start_read(&mut self, peer: usize, offset: u64, len: u32) -> u64 {
        self.submit(peer, Op::Read { offset, len })
    }

    pub(super) fn is_done(&self, peer: usize, token: u64) -> bool {
        self.peers[peer].1.answers.contains_key(&token)
    }

    /// Waits for an answer.
    pub(super) fn answer(&mut self, peer: usize, token: u64) -> Result<Answer, NbdError> {
        self.until("the answer", |w| w.is_done(peer, token));
        self.peers[peer].1.answers.remove(&token).expect("just seen")
    }

    pub(super) fn write(&mut self, peer: usize, offset: u64, data: &[u8]) -> Result<(), NbdError> {
        let token = self.start_write(peer, offset, data.to_vec());
        self.answer(peer, token).map(drop)
    }

    pub(super) fn read(&mut self, peer: usize, offset: u64, len: u32) -> Result<Vec<u8>, NbdError> {
        let token = self.start_read(peer, offset, len);
        match self.answer(peer, token)? {
            Answer::Data(data) => Ok(data.to_vec()),
            other => panic!("READ answered with {other:?}"),
        }
    }

    pub(super) fn other(
        &mut self,
        peer: usize,
        command: Command,
        flags: u16,
        offset: u64,
        len: u32,
    ) -> Result<Answer, NbdError> {
        let token = self.submit(peer, Op::Other { command, flags, offset, len });
        self.answer(peer, token)
    }

    pub(super) fn flush(&mut self, peer: usize) -> Result<(), NbdError> {
        self.other(peer, Command::FLUSH, 0, 0, 0).map(drop)
    }

    /// The client reads again.
    pub(super) fn hear(&mut self, peer: usize) {
        let (lane, peer) = &mut self.peers[peer];
        peer.deaf = false;
        let (lane, id) = (*lane, peer.id.expect("it is connected"));
        self.transmit(lane, Endpoint::Client(id));
    }

    /// The client is gone without a word: its socket is broken.
    pub(super) fn vanish(&mut self, peer: usize) {
        let (lane, peer) = &mut self.peers[peer];
        let Some(id) = peer.id else { return };
        peer.deaf = true;
        peer.up.clear();
        let error = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let lane = *lane;
        self.volumes[lane].handle_disconnected(
            self.steady.at(self.now),
            Endpoint::Client(id),
            Some(&error),
        );
    }

    // --- the end

    /// Nothing is left in any table, and no target complains.
    pub(super) fn finish(mut self) {
        for peer in 0..self.peers.len() {
            if self.peers[peer].1.id.is_some() {
                self.peers[peer].1.client.disconnect();
            }
        }
        self.until("the clients gone", |w| w.peers.iter().all(|(_, p)| p.id.is_none()));
        self.until("nothing left", |w| {
            w.volumes.iter().all(|v| v.requests.len() == 0 && v.stragglers.len() == 0)
        });
        for volume in &self.volumes {
            assert_eq!(volume.parts.len(), 0, "parts are left");
            assert_eq!(volume.clients.len(), 0, "clients are left");
            let queued = (volume.ready.len(), volume.delayed.len(), volume.pumpable.len());
            assert_eq!(queued, (0, 0, 0), "ready, delayed, pumpable");
            assert_eq!((volume.held, volume.unticketed.len()), (0, 0), "held requests");
            for path in 0..self.portals.len() {
                assert_eq!(volume.engine.in_flight(PathIndex::new(path)), 0, "in flight on {path}");
            }
            let counters = volume.shared.ledger().counters();
            assert_eq!(counters.waiting, 0, "{counters:?}");
            assert_eq!(counters.taken, counters.pending, "{counters:?}");
        }
        for node in 0..2 {
            let violations = self.pair.counters(node).violations();
            assert!(violations.is_empty(), "node {node}: {violations:?}");
        }
    }
}

/// Bytes that look like no others.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}
