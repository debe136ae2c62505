//! Faults under load: two `tgtd` in network namespaces over one sparse file, fio at depth 32, half of it writes.

use crate::Figures;
use crate::fio::{Fio, SIZE};
use crate::harness::Scratch;
use crate::harness::daemon::Daemon;
use crate::harness::network::{NODES, Network, SOURCES};
use crate::harness::noise;
use crate::harness::tgtd::{PATHS, Pair};
use crate::nbd_client::NbdClient;
use mpio::base::Payload;
use mpio::export::client::Op;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long the load lasts; the fault begins a second after its beginning.
const LOAD: Duration = Duration::from_secs(6);
/// How long a fault lasts that ends before the load does.
const FAULT: Duration = Duration::from_millis(2500);

/// Storage, network and daemon of one run.
pub struct Rig<'a> {
    /// Ended before what it uses.
    pub daemon: Daemon,
    pub pair: Pair<'a>,
    pub network: &'a Network,
    pub scratch: &'a Scratch,
}

/// Runs `body` over a whole device with these lines of configuration.
pub fn with_rig<T>(device: &str, body: impl FnOnce(&mut Rig<'_>) -> T) -> T {
    let network = Network::new();
    let scratch = Scratch::new("gaps");
    let portals = NODES.map(|address| format!("{address}:3260"));
    let nodes = [Some(&network.nodes[0]), Some(&network.nodes[1])];
    let pair = Pair::start_sparse_at(&scratch, nodes, &portals, &noise(1 << 20, 1), SIZE);
    let device = format!("trust_identity = true\n{device}");
    let config = pair.config(&scratch, SOURCES, &device);
    let daemon = Daemon::start(&scratch, Some(&network.host), &config);
    body(&mut Rig { daemon, pair, network: &network, scratch: &scratch })
}

/// The longest read and write while `fault` happens (and ends, where it returns).
fn longest(fault: impl FnOnce(&mut Rig<'_>)) -> Result<Figures, String> {
    with_rig("policy = \"round-robin\"", |rig| {
        let fio = Fio::start(&rig.daemon.uri(), "randrw", 32, LOAD, &rig.scratch.path(""));
        fault(rig);
        let report = fio.finish()?;
        if crate::LOG.load(Ordering::Relaxed) {
            let status = rig.daemon.status();
            let device = &status["devices"][0];
            eprintln!("{}{}\n{}", rig.daemon.log(), device["latency_us"], device["hedges"]);
        }
        Ok(vec![report.reads.longest_ms, report.writes.longest_ms])
    })
}

/// SIGKILL: the kernel resets its connections (RST where something was unread, else FIN).
pub fn killed() -> Result<Figures, String> {
    longest(|rig| rig.pair.nodes[0].kill())
}

/// Packets are dropped both ways.
pub fn silent() -> Result<Figures, String> {
    longest(|rig| {
        rig.network.nodes[0].cut_silently();
        std::thread::sleep(FAULT);
        rig.network.nodes[0].heal();
    })
}

/// SIGSTOP, later SIGCONT.
pub fn frozen() -> Result<Figures, String> {
    longest(|rig| {
        rig.pair.nodes[0].freeze();
        std::thread::sleep(FAULT);
        rig.pair.nodes[0].thaw();
    })
}

/// The disk threads stop; logins, pings and TEST UNIT READY are answered.
pub fn disk() -> Result<Figures, String> {
    longest(|rig| {
        let disk = rig.pair.nodes[0].hang_disk();
        std::thread::sleep(Duration::from_secs(4));
        drop(disk);
    })
}

/// A write to a block in doubt: how long after the target's return it is answered.
pub fn held() -> Result<Figures, String> {
    let policy = format!("policy = \"failover\"\nprefer = \"{}\"", PATHS[0]);
    with_rig(&policy, |rig| {
        let stream = UnixStream::connect(rig.daemon.export()).map_err(|error| error.to_string())?;
        let mut client = NbdClient::open(stream, "vm0");
        let mut write = |seed| {
            let data = Payload::from(noise(4096, seed));
            client.start(Op::Write { offset: 64 << 20, data, fua: false })
        };
        rig.pair.nodes[0].freeze();
        let began = Instant::now();
        let (_first, second) = (write(1), write(2));
        std::thread::sleep(Duration::from_secs(5).saturating_sub(began.elapsed()));
        let held = rig.daemon.status()["devices"][0]["held_writes"].as_u64();
        if held != Some(1) {
            return Err(format!("{held:?} writes are held, not one"));
        }
        let thawed = Instant::now();
        rig.pair.nodes[0].thaw();
        client.finish(second).map_err(|error| format!("the held write: {error:?}"))?;
        Ok(vec![thawed.elapsed().as_secs_f64() * 1e3])
    })
}
