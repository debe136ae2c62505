//! The lane on real sockets: NBD over a unix socket, iSCSI over loopback to the embedded target, in batches.
//! One iteration is one request. Here the kernel is most of the cost; `core` shows our part alone.

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mpio::export::client::{Client, ClientConfig, ClientEvent};
use mpio::lane::{Command, Io, LaneConfig, LaneHandle};
use mpio::path::{Fence, Ledger, Policy, State};
use mpio::volume::shared::Shared;
use mpio::volume::spec::{DeviceSpec, Digest, PathSpec, Tunables};
use mpio::wire::nbd;
use mpio::wire::nbd::reply::SimpleReply;
use mpio::wire::nbd::request::RequestHeader;
use mpio_target::{PairConfig, TargetPair};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A pair, a lane, one device with one path, one client.
struct Rig {
    /// Lives as long as its sessions.
    _pair: TargetPair,
    lane: LaneHandle,
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Rig {
    fn new() -> Rig {
        let pair = TargetPair::start(PairConfig::default()).expect("the pair starts");
        let tunables = Tunables { trust_identity: true, ..Tunables::default() };
        let fence = Fence { mode: tunables.fence, timeout: tunables.fence_timeout };
        let shared = Arc::new(Shared::new(Ledger::new(fence, 512, 1024)));
        let spec = Box::new(DeviceSpec {
            name: "vm0".to_owned(),
            initiator_name: "iqn.2026-11.bench.host:mpio".to_owned(),
            wwid: None,
            policy: Policy::RoundRobin,
            read_only: false,
            tunables,
            buffer_memory: 64 << 20,
            lanes: 1,
        });
        let lane = LaneHandle::spawn(LaneConfig { id: 0, io: Io::Best }).expect("a lane starts");
        lane.send(Command::AddDevice { spec, shared });
        lane.send(Command::AddPath { device: "vm0".to_owned(), path: Box::new(path(&pair)) });
        until_active(&lane);
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let (device, peer) = ("vm0".to_owned(), "bench".to_owned());
        lane.send(Command::Client { device, fd: theirs.into(), peer });
        let mut rig = Rig { _pair: pair, lane, stream: ours, buffer: vec![0; 256 * 1024] };
        rig.negotiate();
        rig
    }

    fn negotiate(&mut self) {
        let config =
            ClientConfig { structured: false, block_status: false, ..ClientConfig::new("vm0") };
        let mut client = Client::new(config);
        loop {
            let mut segments = Vec::new();
            while client.tx().take(64, &mut segments) > 0 {}
            segments.iter().for_each(|bytes| self.stream.write_all(bytes).expect("the lane reads"));
            match client.poll_event() {
                Some(ClientEvent::Ready(_)) => return,
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            let n = self.stream.read(&mut self.buffer).expect("the lane answers");
            client.handle_received(BytesMut::from(&self.buffer[..n]).freeze());
        }
    }

    /// Sends `batch` and takes `reply_bytes`.
    fn exchange(&mut self, batch: &[u8], reply_bytes: usize) {
        self.stream.write_all(batch).expect("the lane reads");
        let mut left = reply_bytes;
        while left > 0 {
            let n = self.stream.read(&mut self.buffer).expect("the lane answers");
            assert!(n > 0 && n <= left, "{n} bytes where {left} were expected");
            left -= n;
        }
    }
}

fn until_active(lane: &LaneHandle) {
    for _ in 0..3000 {
        let (reply, answer) = tokio::sync::oneshot::channel();
        lane.send(Command::Status { device: None, reply });
        let status = answer.blocking_recv().expect("the lane answers");
        if status[0].paths.iter().any(|path| path.state == State::Active) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the path does not become active");
}

fn path(pair: &TargetPair) -> PathSpec {
    let node = &pair.pair().config().nodes[0];
    PathSpec {
        name: "a:x".to_owned(),
        portal_name: "a".to_owned(),
        portal: pair.node(0).addr(),
        source: None,
        interface: None,
        target: node.target.clone(),
        portal_group: Some(node.portal_group),
        lun: u64::from(node.lun) << 48,
        isid: [0x80, 0, 0, 0, 0, 1],
        chap: None,
        header_digest: Digest::None,
        data_digest: Digest::None,
        redirect_allow: Arc::from([]),
        weight: 1,
        preferred: false,
        order: 0,
    }
}

fn requests(write: bool, depth: u64) -> (Vec<u8>, usize) {
    let (size, mut batch) = (4096_usize, Vec::new());
    for cookie in 0..depth {
        let command = if write { nbd::Command::WRITE } else { nbd::Command::READ };
        let offset = cookie * 3 * size as u64;
        let header = RequestHeader { flags: 0, command, cookie, offset, len: size as u32 };
        let mut bytes = [0; RequestHeader::LEN];
        header.emit(&mut bytes);
        batch.extend_from_slice(&bytes);
        if write {
            batch.resize(batch.len() + size, 7);
        }
    }
    let data = if write { 0 } else { size };
    (batch, depth as usize * (SimpleReply::LEN + data))
}

fn lane(c: &mut Criterion) {
    let mut rig = Rig::new();
    let mut group = c.benchmark_group("lane");
    for (name, write, depth) in [
        ("read 4k, depth 1", false, 1),
        ("read 4k, depth 32", false, 32),
        ("write 4k, depth 1", true, 1),
        ("write 4k, depth 32", true, 32),
    ] {
        let (batch, reply_bytes) = requests(write, depth);
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|requests| {
                let batches = requests.div_ceil(depth);
                let start = Instant::now();
                (0..batches).for_each(|_| rig.exchange(&batch, reply_bytes));
                start.elapsed().mul_f64(requests as f64 / (batches * depth) as f64)
            });
        });
    }
    group.finish();
    let (reply, answer) = tokio::sync::oneshot::channel();
    rig.lane.send(Command::Drain { reply });
    let _ = answer.blocking_recv();
    rig.lane.shutdown();
}

criterion_group!(benches, lane);
criterion_main!(benches);
