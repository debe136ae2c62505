//! The pure initiator in memory against the embedded target: no socket, no thread, no clock. What is left is
//! the protocol work of one request.
//!
//! The target and the client are driven here too, but outside [`mpio_initiator_turn`]: only what happens in
//! there is timed, or counted by callgrind.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]

use bytes::{Bytes, BytesMut};
use mpio::base::{Duration, Instant};
use mpio::export::client::{Client, ClientConfig, ClientEvent};
use mpio::path::{Fence, Ledger, PathIndex, Policy, State};
use mpio::volume::shared::Shared;
use mpio::volume::spec::{DeviceSpec, Digest, PathSpec, Tunables};
use mpio::volume::{Action, ClientId, Endpoint, Volume};
use mpio::wire::nbd::Command;
use mpio::wire::nbd::reply::SimpleReply;
use mpio::wire::nbd::request::RequestHeader;
use mpio_target::node::{ConnectionId, Node};
use mpio_target::{Pair, PairConfig};
use std::net::SocketAddr;
use std::sync::Arc;

/// Bytes of one receive on an iSCSI socket, as the lane asks for.
const RECEIVE: usize = 64 * 1024;

/// What is asked of the core.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// Writes instead of reads.
    pub write: bool,
    /// Bytes per request.
    pub size: u32,
    /// Requests that come together.
    pub depth: usize,
    /// Paths, to both nodes in turn.
    pub paths: usize,
    /// Header and data digests.
    pub digests: bool,
}

const READ: Scenario = Scenario {
    name: "read 4k, depth 32",
    write: false,
    size: 4096,
    depth: 32,
    paths: 1,
    digests: false,
};

/// Everything that is measured.
pub const SCENARIOS: [Scenario; 11] = [
    READ,
    Scenario { name: "write 4k, depth 32", write: true, ..READ },
    Scenario { name: "read 4k, depth 1", depth: 1, ..READ },
    Scenario { name: "write 4k, depth 1", write: true, depth: 1, ..READ },
    Scenario { name: "read 4k, depth 32, 2 paths", paths: 2, ..READ },
    Scenario { name: "read 4k, depth 32, 32 paths", paths: 32, ..READ },
    Scenario { name: "read 4k, depth 1, 2 paths", depth: 1, paths: 2, ..READ },
    Scenario { name: "read 4k, depth 1, 32 paths", depth: 1, paths: 32, ..READ },
    Scenario { name: "read 4k, depth 32, digests", digests: true, ..READ },
    Scenario { name: "read 128k, depth 16", size: 128 * 1024, depth: 16, ..READ },
    Scenario { name: "write 128k, depth 16", write: true, size: 128 * 1024, depth: 16, ..READ },
];

/// Volume, target and client, joined by nothing.
pub struct World {
    now: Instant,
    volume: Volume,
    nodes: [Node; 2],
    /// Node and connection of each path.
    wires: Vec<Option<(usize, ConnectionId)>>,
    client: Option<ClientId>,
    /// One batch of requests, as one receive brings it.
    batch: Bytes,
    reply_bytes: usize,
    scenario: Scenario,
    /// Bytes for the volume.
    input: Vec<(Endpoint, Bytes)>,
    /// Bytes from the volume.
    output: Vec<(Endpoint, Vec<Bytes>)>,
    actions: Vec<Action>,
}

/// Everything that the initiator does in one turn. Never inlined: callgrind finds it by its name.
#[inline(never)]
fn mpio_initiator_turn(world: &mut World) {
    let World { volume, now, input, output, actions, .. } = world;
    for (endpoint, bytes) in input.drain(..) {
        volume.handle_received(*now, endpoint, bytes);
    }
    volume.finish_turn(*now);
    while let Some(action) = volume.poll_action() {
        actions.push(action);
    }
    let mut used = 0;
    volume.poll_transmit(|endpoint, tx| {
        if used == output.len() {
            output.push((endpoint, Vec::new()));
        }
        output[used].0 = endpoint;
        while tx.take(1024, &mut output[used].1) > 0 {}
        used += 1;
    });
    for (endpoint, _) in &output[..used] {
        volume.handle_sent(*now, *endpoint);
    }
    // The lane asks for the other deadlines every few milliseconds only.
    std::hint::black_box(volume.poll_soon());
}

fn theirs(now: Instant) -> mpio_target::Instant {
    mpio_target::Instant::from_nanos(now.as_nanos())
}

impl World {
    /// Logged in, identified, with a client in transmission.
    #[must_use]
    pub fn new(scenario: Scenario) -> World {
        let pair = Pair::new(PairConfig::default()).unwrap();
        let now = Instant::from_millis(1_000_000);
        let tunables = Tunables { trust_identity: true, ..Tunables::default() };
        let fence = Fence { mode: tunables.fence, timeout: tunables.fence_timeout };
        let shared = Arc::new(Shared::new(Ledger::new(fence, 512, 1024)));
        let spec = DeviceSpec {
            name: "vm0".to_owned(),
            initiator_name: "iqn.2026-11.bench.host:mpio".to_owned(),
            wwid: None,
            policy: Policy::RoundRobin,
            read_only: false,
            tunables,
            buffer_memory: 64 << 20,
            lanes: 1,
        };
        let entropy = Box::new(|bytes: &mut [u8]| bytes.fill(7));
        let mut volume = Volume::new(now, spec, 0, shared, entropy);
        for index in 0..scenario.paths {
            volume.add_path(now, path(&pair, index, scenario.digests)).unwrap();
        }
        let mut world = World {
            now,
            volume,
            client: None,
            nodes: [pair.node(0, 1), pair.node(1, 1)],
            wires: vec![None; scenario.paths],
            batch: Bytes::new(),
            reply_bytes: 0,
            scenario,
            input: Vec::new(),
            output: Vec::new(),
            actions: Vec::new(),
        };
        world.bring_up();
        world.negotiate();
        world.prepare();
        // Warm: tables and queues have the size that they keep.
        for _ in 0..16 {
            world.batch();
        }
        world
    }

    fn bring_up(&mut self) {
        let active = |world: &World| {
            (0..world.scenario.paths)
                .all(|path| world.volume.snapshot().paths[path].state == State::Active)
        };
        for _ in 0..10_000 {
            if active(self) {
                return;
            }
            self.turn();
            self.now += Duration::from_millis(1);
            self.volume.handle_timeout(self.now);
        }
        panic!(
            "the paths do not become active: {:?}",
            self.volume.snapshot().paths.iter().map(|p| p.reason.clone()).collect::<Vec<_>>()
        );
    }

    fn negotiate(&mut self) {
        let config =
            ClientConfig { structured: false, block_status: false, ..ClientConfig::new("vm0") };
        let mut client = Client::new(config);
        let id = self.volume.handle_client(self.now).unwrap();
        self.client = Some(id);
        for _ in 0..1000 {
            let mut segments = Vec::new();
            while client.tx().take(64, &mut segments) > 0 {}
            let endpoint = Endpoint::Client(id);
            self.input.extend(segments.into_iter().map(|bytes| (endpoint, bytes)));
            self.turn_with(|bytes| client.handle_received(bytes));
            match client.poll_event() {
                Some(ClientEvent::Ready(_)) => return,
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        }
        panic!("the handshake does not end");
    }

    fn prepare(&mut self) {
        let Scenario { write, size, depth, .. } = self.scenario;
        let mut batch = BytesMut::new();
        for n in 0..depth as u64 {
            let command = if write { Command::WRITE } else { Command::READ };
            // Apart, so that no write waits for another.
            let offset = n * 3 * u64::from(size) % (32 << 20);
            let header = RequestHeader { flags: 0, command, cookie: n, offset, len: size };
            let mut bytes = [0; RequestHeader::LEN];
            header.emit(&mut bytes);
            batch.extend_from_slice(&bytes);
            if write {
                batch.resize(batch.len() + size as usize, n as u8);
            }
        }
        self.batch = batch.freeze();
        let data = if write { 0 } else { size as usize };
        self.reply_bytes = depth * (SimpleReply::LEN + data);
    }

    /// One batch of requests, from their arrival to the last byte of the last reply; the time that the
    /// initiator took for it.
    pub fn batch(&mut self) -> std::time::Duration {
        let (mut came, mut took) = (0, std::time::Duration::ZERO);
        let client = self.client.expect("negotiated");
        self.input.push((Endpoint::Client(client), self.batch.clone()));
        for _ in 0..10_000 {
            took += self.turn_with(|bytes| came += bytes.len());
            if came >= self.reply_bytes {
                assert_eq!(came, self.reply_bytes, "an error, or a reply that nobody asked for");
                return took;
            }
        }
        panic!("{came} of {} bytes came", self.reply_bytes);
    }

    fn turn(&mut self) {
        self.turn_with(|_| {});
    }

    /// The initiator's turn, then the target's; what the client is sent goes to `client`.
    fn turn_with(&mut self, mut client: impl FnMut(Bytes)) -> std::time::Duration {
        let before = std::time::Instant::now();
        mpio_initiator_turn(self);
        let took = before.elapsed();
        for action in std::mem::take(&mut self.actions) {
            self.act(action);
        }
        for index in 0..self.output.len() {
            let (endpoint, mut segments) =
                (self.output[index].0, std::mem::take(&mut self.output[index].1));
            for bytes in segments.drain(..) {
                match endpoint {
                    Endpoint::Client(_) => client(bytes),
                    Endpoint::Path(path) => {
                        if let Some((node, id)) = self.wires[path.get()] {
                            self.nodes[node].handle_received(theirs(self.now), id, &bytes);
                        }
                    }
                }
            }
            self.output[index].1 = segments;
        }
        self.target_turn();
        took
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Connect { path, remote, .. } => {
                let node = path.get() % self.nodes.len();
                let id = self.nodes[node].accept(theirs(self.now), remote);
                self.wires[path.get()] = Some((node, id));
                let local = SocketAddr::from(([10, 0, 1, 1], 50_000));
                self.volume.handle_connected(self.now, path, local);
            }
            Action::GiveUp(path) => panic!("path {} is given up", path.get()),
            _ => {}
        }
    }

    /// What the target answers arrives in receives of a fixed size, as from a socket.
    fn target_turn(&mut self) {
        for node in 0..2 {
            while let Some(id) = self.nodes[node].poll_dirty() {
                let path = self.wires.iter().position(|wire| *wire == Some((node, id)));
                let (Some(path), Some(tx)) = (path, self.nodes[node].tx(id)) else { continue };
                let mut segments = Vec::new();
                while tx.take(1024, &mut segments) > 0 {}
                let mut all = BytesMut::new();
                segments.iter().for_each(|bytes| all.extend_from_slice(bytes));
                while !all.is_empty() {
                    let piece = all.split_to(all.len().min(RECEIVE)).freeze();
                    self.input.push((Endpoint::Path(PathIndex::new(path)), piece));
                }
            }
        }
    }
}

fn path(pair: &Pair, index: usize, digests: bool) -> PathSpec {
    let at = index % 2;
    let node = &pair.config().nodes[at];
    let digest = if digests { Digest::Crc32c } else { Digest::None };
    PathSpec {
        name: format!("p{index}:x"),
        portal_name: format!("p{index}"),
        portal: SocketAddr::from(([10, 0, 0, at as u8 + 1], 3260)),
        source: None,
        interface: None,
        target: node.target.clone(),
        portal_group: Some(node.portal_group),
        lun: u64::from(node.lun) << 48,
        isid: [0x80, 0, 0, 0, 0, index as u8 + 1],
        chap: None,
        header_digest: digest,
        data_digest: digest,
        redirect_allow: Arc::from([]),
        weight: 1,
        preferred: false,
        order: index as u32,
    }
}
