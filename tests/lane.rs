//! The lane over real sockets: the production data plane against the embedded mirrored pair on loopback,
//! with a real NBD client, and with paths that die under it.

#[path = "lane/client.rs"]
mod client;

use client::NbdClient;
use mpio::export::client::Op;
use mpio::lane::{Command, Io, LaneConfig, LaneHandle, PathAction};
use mpio::path::{Fence, Ledger, Policy, State};
use mpio::volume::admin::Snapshot;
use mpio::volume::shared::Shared;
use mpio::volume::spec::{DeviceSpec, Digest, PathSpec, Tunables};
use mpio::wire::nbd::Command as NbdCommand;
use mpio_target::config::PairConfig;
use mpio_target::tcp::TargetPair;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DEVICE: &str = "vm0";

/// What the lanes ask the kernel by: `lane_on_epoll.rs` includes this file as a module.
fn io() -> Io {
    if module_path!().ends_with("cases") { Io::Epoll } else { Io::Uring }
}

/// A pair, lanes, and one device over all of them.
struct Rig {
    pair: TargetPair,
    lanes: Vec<LaneHandle>,
    shared: Arc<Shared>,
}

impl Rig {
    fn start(pair: PairConfig, tunables: Tunables, digest: Digest) -> Rig {
        Rig::with_lanes(1, pair, tunables, digest)
    }

    fn with_lanes(lanes: u16, pair: PairConfig, tunables: Tunables, digest: Digest) -> Rig {
        let pair = TargetPair::start(pair).expect("the pair starts");
        let fence = Fence { mode: tunables.fence, timeout: tunables.fence_timeout };
        let spec = DeviceSpec {
            name: DEVICE.to_owned(),
            initiator_name: "iqn.2026-11.test.host:mpio".to_owned(),
            wwid: None,
            policy: Policy::RoundRobin,
            read_only: false,
            tunables,
            buffer_memory: 64 << 20,
            lanes,
        };
        let shared = Arc::new(Shared::new(Ledger::new(fence, 512, 1024)));
        let lanes: Vec<LaneHandle> = (0..lanes)
            .map(|id| LaneHandle::spawn(LaneConfig { id, io: io() }).expect("a lane starts"))
            .collect();
        let mailboxes: Vec<_> = lanes.iter().map(LaneHandle::mailbox).collect();
        for (id, lane) in lanes.iter().enumerate() {
            lane.send(Command::Peers(mailboxes.clone()));
            let spec = Box::new(spec.clone());
            lane.send(Command::AddDevice { spec, shared: shared.clone() });
            for index in 0..2 {
                let path = Box::new(path_spec(&pair, index, id as u8, digest));
                lane.send(Command::AddPath { device: DEVICE.to_owned(), path });
            }
        }
        Rig { pair, lanes, shared }
    }

    fn client(&self) -> NbdClient {
        self.client_on(0)
    }

    fn client_on(&self, lane: usize) -> NbdClient {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        self.lanes[lane].send(Command::Client {
            device: DEVICE.to_owned(),
            fd: theirs.into(),
            peer: "test".to_owned(),
        });
        NbdClient::open(ours, DEVICE)
    }

    fn status(&self) -> Snapshot {
        self.status_of(0)
    }

    fn status_of(&self, lane: usize) -> Snapshot {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.lanes[lane].send(Command::Status { device: None, reply });
        answer.blocking_recv().expect("the lane answers").pop().expect("one device")
    }

    /// Waits until the paths are in these states.
    fn until(&self, wanted: [State; 2]) {
        for lane in 0..self.lanes.len() {
            self.until_on(lane, wanted);
        }
    }

    fn until_on(&self, lane: usize, wanted: [State; 2]) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let status = self.status_of(lane);
            let states: Vec<State> = status.paths.iter().map(|p| p.state).collect();
            if states == wanted {
                return;
            }
            let reasons: Vec<&str> = status.paths.iter().map(|p| p.reason.as_str()).collect();
            assert!(Instant::now() < deadline, "still {states:?}, not {wanted:?}: {reasons:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn drain(self) {
        for lane in self.lanes {
            let (reply, answer) = tokio::sync::oneshot::channel();
            lane.send(Command::Drain { reply });
            answer.blocking_recv().expect("the lane drains");
            lane.shutdown();
        }
        let left = self.shared.ledger().counters();
        assert_eq!((left.taken, left.waiting), (0, 0), "ranges are left: {left:?}");
        let violations = [0, 1].map(|n| self.pair.node(n).counters().violations());
        assert!(violations.iter().all(Vec::is_empty), "{violations:?}");
    }
}

fn path_spec(pair: &TargetPair, index: usize, lane: u8, digest: Digest) -> PathSpec {
    let node = &pair.pair().config().nodes[index];
    PathSpec {
        name: format!(
            "{}:{}",
            ["a", "b"][index],
            node.target.rsplit(':').next().unwrap_or_default()
        ),
        portal_name: ["a", "b"][index].to_owned(),
        portal: pair.node(index).addr(),
        source: None,
        interface: None,
        target: node.target.clone(),
        portal_group: Some(node.portal_group),
        lun: u64::from(node.lun) << 48,
        isid: [0x80, 0, 0, 0, lane, index as u8 + 1],
        chap: None,
        header_digest: digest,
        data_digest: digest,
        redirect_allow: Arc::from([]),
        weight: 1,
        preferred: false,
        order: index as u32,
    }
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

#[test]
fn both_paths_carry_what_is_written_and_read() {
    let spins = [Duration::ZERO, Duration::ZERO, Duration::from_millis(1)];
    for (digest, spin) in [Digest::None, Digest::Crc32c, Digest::None].into_iter().zip(spins) {
        let tunables = Tunables { spin, ..Tunables::default() };
        let rig = Rig::start(PairConfig::default(), tunables, digest);
        rig.until([State::Active; 2]);
        let mut nbd = rig.client();
        for (n, len) in [512, 4096, 65536, 1 << 20, 32 << 20, 12_800].into_iter().enumerate() {
            let data = pattern(n as u64, len);
            nbd.write(n as u64 * 4096, &data).expect("written");
            assert!(nbd.read(n as u64 * 4096, len as u32).expect("read") == data, "{len} bytes");
        }
        let status = rig.status();
        for path in &status.paths {
            assert!(path.stats.reads > 0 && path.stats.writes > 0, "{} idle", path.name);
        }
        assert_eq!(status.stats.errors, 0);
        rig.drain();
    }
}

/// Read-modify-write under a range; neighbours stay as they are.
#[test]
fn unaligned_requests_change_only_their_bytes() {
    let config = PairConfig { block_size: 4096, ..PairConfig::default() };
    let rig = Rig::start(config, Tunables::default(), Digest::None);
    rig.until([State::Active; 2]);
    let mut nbd = rig.client();
    let mut model = pattern(1, 64 * 1024);
    nbd.write(0, &model).expect("written");
    for (offset, len) in [(1, 1), (4095, 2), (0, 4097), (5000, 100), (4096, 4096), (100, 60_000)] {
        let data = pattern(offset, len);
        nbd.write(offset, &data).expect("written");
        model[offset as usize..offset as usize + len].copy_from_slice(&data);
        let part = nbd.read(offset, len as u32).expect("read");
        assert!(part == data, "{len} bytes at {offset}");
    }
    assert!(nbd.read(0, 64 * 1024).expect("read") == model);
    rig.drain();
}

/// A target dies under load and returns, then the other one: every request is answered, every byte is
/// right, both paths carry I/O afterwards.
#[test]
fn a_path_dies_under_load_and_nobody_notices() {
    let rig = Rig::start(PairConfig::default(), Tunables::default(), Digest::None);
    rig.until([State::Active; 2]);
    let mut nbd = rig.client();
    let blocks = 2048u64;
    let mut versions = vec![0u64; blocks as usize];
    for round in 1..=6u64 {
        let dying = (round as usize / 2) % 2;
        let mut tokens = Vec::new();
        for block in 0..blocks {
            versions[block as usize] = round;
            let data = pattern(round << 32 | block, 4096).into();
            tokens.push(nbd.start(Op::Write { offset: block * 4096, data, fua: false }));
            if block == blocks / 2 && round % 2 == 0 {
                rig.pair.node(dying).kill();
            }
        }
        for token in tokens {
            nbd.finish(token).expect("no error reaches the client");
        }
        if round % 2 == 0 {
            rig.pair.node(dying).start_again().expect("it starts again");
            rig.until([State::Active; 2]);
        }
    }
    for block in 0..blocks {
        let want = pattern(versions[block as usize] << 32 | block, 4096);
        assert!(nbd.read(block * 4096, 4096).expect("read") == want, "block {block}");
    }
    let status = rig.status();
    assert_eq!(status.stats.errors, 0);
    assert!(status.paths.iter().all(|p| p.stats.reads > 0 && p.failures > 0));
    rig.drain();
}

/// With no usable path commands queue; when a path returns in time they are done.
#[test]
fn commands_queue_while_no_path_is_left() {
    let rig = Rig::start(PairConfig::default(), Tunables::default(), Digest::None);
    rig.until([State::Active; 2]);
    let mut nbd = rig.client();
    rig.pair.node(0).kill();
    rig.pair.node(1).kill();
    let data = pattern(7, 4096);
    let token = nbd.start(Op::Write { offset: 0, data: data.clone().into(), fua: true });
    std::thread::sleep(Duration::from_millis(300));
    rig.pair.node(1).start_again().expect("it starts again");
    nbd.finish(token).expect("done on the path that returned");
    assert!(nbd.read(0, 4096).expect("read") == data);
    rig.drain();
}

#[test]
fn after_no_path_timeout_commands_fail_and_later_ones_succeed() {
    let tunables = Tunables { no_path_timeout: Duration::from_millis(200), ..Tunables::default() };
    let rig = Rig::start(PairConfig::default(), tunables, Digest::None);
    rig.until([State::Active; 2]);
    let mut nbd = rig.client();
    rig.pair.node(0).kill();
    rig.pair.node(1).kill();
    assert_eq!(nbd.read(0, 512).map(|d| d.len()), Err(mpio::wire::nbd::NbdError::Io));
    rig.pair.node(0).start_again().expect("it starts again");
    rig.pair.node(1).start_again().expect("it starts again");
    rig.until([State::Active; 2]);
    assert_eq!(nbd.read(0, 512).map(|d| d.len()), Ok(512));
    rig.drain();
}

/// Policies change under load, a path is taken out without an error and comes back.
#[test]
fn an_administrator_changes_policy_and_paths_under_load() {
    let rig = Rig::start(PairConfig::default(), Tunables::default(), Digest::None);
    rig.until([State::Active; 2]);
    let mut nbd = rig.client();
    let load = |nbd: &mut NbdClient| {
        let tokens: Vec<u64> =
            (0..64).map(|n| nbd.start(Op::Read { offset: n * 4096, len: 4096 })).collect();
        for token in tokens {
            nbd.finish(token).expect("no error");
        }
    };
    for policy in [Policy::Failover, Policy::LeastQueueDepth, Policy::RoundRobin] {
        let (reply, answer) = tokio::sync::oneshot::channel();
        rig.lanes[0].send(Command::SetPolicy {
            device: DEVICE.to_owned(),
            policy: Some(policy),
            weights: Vec::new(),
            prefer: None,
            reply,
        });
        let before = rig.status();
        load(&mut nbd);
        assert_eq!(answer.blocking_recv().expect("answered"), Ok(policy));
        let after = rig.status();
        let moved: Vec<u64> =
            (0..2).map(|p| after.paths[p].stats.reads - before.paths[p].stats.reads).collect();
        match policy {
            Policy::Failover => assert_eq!(moved, [64, 0]),
            _ => assert!(moved.iter().all(|n| (24..=40).contains(n)), "{policy}: {moved:?}"),
        }
    }
    let act = |path: &str, action| {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let (device, path) = (DEVICE.to_owned(), path.to_owned());
        rig.lanes[0].send(Command::Path { device, path, action, reply });
        answer.blocking_recv().expect("answered")
    };
    act("a:ha1", PathAction::Disable { force: false }).expect("not the last one");
    load(&mut nbd);
    rig.until([State::Disabled, State::Active]);
    let last = act("b:ha1partner", PathAction::Disable { force: false });
    assert!(last.expect_err("the last one").to_string().contains("--force"));
    let unknown = act("c:nowhere", PathAction::Enable).expect_err("unknown").to_string();
    assert!(unknown.contains("a:ha1, b:ha1partner"), "{unknown}");
    act("a:ha1", PathAction::Enable).expect("enabled");
    rig.until([State::Active; 2]);
    load(&mut nbd);
    act("a:ha1", PathAction::Recheck).expect("rechecked");
    rig.until([State::Active; 2]);
    rig.drain();
}

/// Two lanes, each with sessions of its own: overlapping writes of clients on both go one after the other,
/// also while a target dies, and a flush on one covers what was written on the other.
#[test]
fn lanes_share_a_device() {
    let rig = Rig::with_lanes(2, PairConfig::default(), Tunables::default(), Digest::None);
    rig.until([State::Active; 2]);
    let mut clients = [rig.client_on(0), rig.client_on(1)];
    for round in 0..8u64 {
        let mut tokens = Vec::new();
        for n in 0..256u64 {
            for (which, nbd) in clients.iter_mut().enumerate() {
                let data = pattern(round << 32 | n << 1 | which as u64, 8192).into();
                // Hot blocks, half overlapping.
                let op = Op::Write { offset: n % 16 * 4096, data, fua: false };
                tokens.push((which, nbd.start(op)));
            }
            // The target comes back before the answers are waited for: writes that overlap one in doubt
            // wait for its proof.
            match (round % 4, n) {
                (1, 64) => rig.pair.node((round / 4) as usize).kill(),
                (1, 192) => {
                    rig.pair.node((round / 4) as usize).start_again().expect("starts again")
                }
                _ => {}
            }
        }
        for (which, token) in tokens {
            clients[which].finish(token).expect("no error reaches a client");
        }
        rig.until([State::Active; 2]);
    }
    let data = pattern(99, 4096);
    clients[0].write(1 << 20, &data).expect("written");
    let op = Op::Other { command: NbdCommand::FLUSH, flags: 0, offset: 0, len: 0 };
    let token = clients[1].start(op);
    clients[1].finish(token).expect("flushed");
    assert!(clients[1].read(1 << 20, 4096).expect("read") == data);
    let sessions: Vec<usize> = [0, 1].map(|n| rig.pair.node(n).sessions()).to_vec();
    assert_eq!(sessions, [2, 2], "one session per path and lane");
    rig.drain();
}
