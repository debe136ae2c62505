//! The driver: carries bytes between the production volumes, the pair's nodes and NBD clients, and moves the
//! clock from one thing that is due to the next.
//!
//! What the lane does with io_uring is done here by hand, with the same grammar: events in, `finish_turn`,
//! actions and bytes out, and a lane is run only when something happened to it. It checks on the way that the
//! product makes progress: a deadline in the past, or many steps at one instant, is a busy loop.
//!
//! A *daemon* is the volumes of all lanes with what they share; it can be killed and started again. What
//! outlives it is the [`World`]: targets, network, clients.

mod asking;
mod lanes;
mod targets;

pub use asking::pattern;

use crate::dice::Dice;
use crate::net::{Net, Portal, Wire, ways};
use crate::peer::Peer;
use crate::trace::{About, Trace};
use mpio::base::{Duration, Instant, SteadyClock};
use mpio::export::client::Answer;
use mpio::path::{Fence, Ledger, PathIndex, Policy, State};
use mpio::session::Digest;
use mpio::session::chap::Credentials;
use mpio::volume::fence_command::FenceCommand;
use mpio::volume::nexus::NexusRecord;
use mpio::volume::shared::Shared;
use mpio::volume::spec::{DeviceSpec, PathSpec, Tunables};
use mpio::volume::{Notice, Volume};
use mpio::wire::nbd::NbdError;
use mpio_target::{Node, Pair, PairConfig};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

/// Steps at one instant before it counts as a busy loop.
const STEPS_MAX: u32 = 20_000;

/// Lines of what the product has told, in a message.
const NOTICES_MAX: usize = 30;

/// The node that only looks like one of the pair.
pub const LOOK_ALIKE: usize = 2;

/// A bug of the driver, planted to show that it would be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverBug {
    /// One completion of a send in three hundred never comes.
    LostCompletion,
    /// A receive buffer is used again while a socket still sends from it.
    BufferReuse,
}

/// How a world is made.
#[derive(Clone)]
pub struct Setup {
    /// The targets.
    pub pair: PairConfig,
    /// The device's settings.
    pub tunables: Tunables,
    /// Its first policy.
    pub policy: Policy,
    /// The only WWID that it accepts.
    pub wwid: Option<String>,
    /// Never written.
    pub read_only: bool,
    /// Lanes of the daemon.
    pub lanes: u16,
    /// The way to each path, one path per portal.
    pub portals: Vec<Portal>,
    /// Weight of each path; 1 where there is none.
    pub weights: Vec<u32>,
    /// HeaderDigest and DataDigest that are asked for.
    pub digests: (Digest, Digest),
    /// Where a redirect may lead besides the portals.
    pub redirect_allow: Vec<SocketAddr>,
    /// CHAP.
    pub chap: Option<Arc<Credentials>>,
    /// Payload memory per lane, bytes.
    pub buffer_memory: usize,
    /// Seed of the network's chance and of the daemon's entropy.
    pub seed: u64,
    /// A planted bug.
    pub bug: Option<DriverBug>,
    /// A network that is out of order loses what a socket had still to send when it was given up: none, some
    /// or all of its bytes and its reset still arrive. Else all of it does, when the network works again.
    pub loses_last_words: bool,
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
            portals: ways(&[0, 1]),
            weights: Vec::new(),
            digests: (Digest::None, Digest::None),
            redirect_allow: Vec::new(),
            chap: None,
            buffer_memory: 64 << 20,
            seed: 0,
            bug: None,
            loses_last_words: false,
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

/// An answer, with when it came.
#[derive(Debug)]
pub struct Finished {
    /// Which client.
    pub peer: usize,
    /// Which request.
    pub token: u64,
    /// On the clock of begins and ends.
    pub stamp: u64,
    /// Commands executed by the pair until then.
    pub journal: u64,
    /// Virtual time.
    pub at: Instant,
    /// What came.
    pub result: Result<Answer, NbdError>,
}

/// Everything.
pub struct World {
    /// The clock.
    pub now: Instant,
    /// The medium, the journal and the faults of the targets.
    pub pair: Pair,
    /// Another pair that says it is something else: a node may start as one of it.
    impostor: Option<Pair>,
    /// A pair that says it is the same: see [`World::show_look_alike`].
    look_alike: Option<Pair>,
    /// The first path that carried I/O to it.
    merged: Option<String>,
    /// The target processes that run: two, and at [`LOOK_ALIKE`] one that only looks like one of them.
    pub nodes: [Option<Node>; 3],
    boots: [u32; 3],
    /// A node that went down without a word: nothing answers at its address.
    dark: [bool; 3],
    /// A node that shows another unit.
    another: [bool; 2],
    /// Since when, and until when, in commands executed by the pair, a lane had no session in service with a node.
    out_of_reach: [Vec<(u64, u64)>; 2],
    /// The daemon, one per lane; empty while it is dead.
    pub volumes: Vec<Volume>,
    setup: Setup,
    lives: u64,
    awake: Vec<bool>,
    /// The way to each path.
    pub portals: Vec<Portal>,
    attempts: Vec<Attempt>,
    wires: BTreeMap<u32, Wire>,
    next_wire: u32,
    socket: Vec<Vec<Option<u32>>>,
    /// Sockets that are on their way to be closed.
    closing: Vec<(Instant, usize, PathIndex)>,
    /// How long the driver takes to let go of a socket.
    pub close_delay: Duration,
    /// Bytes of one receive.
    pub segment: usize,
    /// NBD clients, those that are gone too.
    pub peers: Vec<Peer>,
    finished: VecDeque<Finished>,
    /// A client has had a good answer.
    used: bool,
    /// What the product told, newest last.
    pub log: Vec<Notice>,
    /// Connections that were asked for.
    pub connects: Vec<(Instant, SocketAddr)>,
    /// Lanes that have said that they are drained.
    pub drained: Vec<bool>,
    /// What the lanes of the daemon share.
    pub shared: Option<Arc<Shared>>,
    /// What the daemon takes for the time, and whether it stands still.
    steady: SteadyClock,
    paused: bool,
    /// The state file of the device, and how long it takes to write it; `None`: it cannot be written.
    pub state_file: Vec<NexusRecord>,
    /// See `state_file`.
    pub record_delay: Option<Duration>,
    recording: Vec<(Instant, usize, PathIndex, NexusRecord)>,
    /// Commands that were to be run to prove something.
    pub commands: Vec<FenceCommand>,
    /// When the portals were to be asked again. Every path is there from the start.
    pub discoveries: Vec<Instant>,
    /// The story of the run.
    pub trace: Trace,
    dice: Dice,
    clock: u64,
    steps: u32,
}

/// The address of a portal.
#[must_use]
pub fn portal_addr(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, index as u8 + 1], 3260))
}

/// The clock as the target's library has it.
#[must_use]
pub fn theirs(now: Instant) -> mpio_target::Instant {
    mpio_target::Instant::from_nanos(now.as_nanos())
}

fn ours(at: mpio_target::Instant) -> Instant {
    Instant::from_nanos(at.as_nanos())
}

/// The path that leads through portal `index`.
fn path_spec(setup: &Setup, lane: usize, index: usize) -> PathSpec {
    let at = setup.portals[index].node;
    let node = &setup.pair.nodes[at];
    PathSpec {
        name: format!("{}:{at}", (b'a' + index as u8) as char),
        portal_name: index.to_string(),
        portal: portal_addr(index),
        source: None,
        interface: None,
        target: node.target.clone(),
        portal_group: Some(node.portal_group),
        lun: u64::from(node.lun) << 48,
        isid: [0x80, 0, 0, 0, lane as u8, index as u8 + 1],
        chap: setup.chap.clone(),
        header_digest: setup.digests.0,
        data_digest: setup.digests.1,
        redirect_allow: setup.redirect_allow.clone().into(),
        weight: setup.weights.get(index).copied().unwrap_or(1),
        preferred: false,
        order: index as u32,
    }
}

impl World {
    /// Targets and a daemon with every path up.
    ///
    /// # Panics
    /// When one does not come.
    #[must_use]
    pub fn new(setup: Setup) -> World {
        let mut world = World::cold(setup);
        world.until_active();
        world
    }

    /// Targets and a daemon; nothing is connected yet.
    ///
    /// # Panics
    /// When no pair can be made of the setup.
    #[must_use]
    pub fn cold(setup: Setup) -> World {
        let pair = Pair::new(setup.pair.clone()).expect("a pair");
        let nodes = [Some(pair.node(0, 1)), Some(pair.node(1, 1)), None];
        let mut world = World {
            now: Instant::from_millis(1_000_000),
            nodes,
            impostor: None,
            look_alike: None,
            merged: None,
            boots: [0; 3],
            dark: [false; 3],
            another: [false; 2],
            out_of_reach: Default::default(),
            volumes: Vec::new(),
            lives: 0,
            awake: Vec::new(),
            portals: setup.portals.clone(),
            attempts: Vec::new(),
            wires: BTreeMap::new(),
            next_wire: 0,
            socket: Vec::new(),
            closing: Vec::new(),
            close_delay: Duration::from_micros(20),
            segment: 64 * 1024,
            peers: Vec::new(),
            finished: VecDeque::new(),
            used: false,
            log: Vec::new(),
            connects: Vec::new(),
            drained: Vec::new(),
            shared: None,
            steady: SteadyClock::default(),
            paused: false,
            state_file: Vec::new(),
            record_delay: Some(Duration::ZERO),
            recording: Vec::new(),
            commands: Vec::new(),
            discoveries: Vec::new(),
            trace: Trace::default(),
            dice: Dice::new(setup.seed ^ 0x006e_6574),
            clock: 0,
            steps: 0,
            pair,
            setup,
        };
        world.start_daemon();
        world
    }

    // --- the daemon

    /// Starts the daemon from the same configuration.
    ///
    /// # Panics
    /// When it runs already.
    pub fn start_daemon(&mut self) {
        self.start_daemon_with(|_| true);
    }

    /// The same; what the configuration still has is as `configured` says of the names of paths that an
    /// earlier daemon has left behind.
    ///
    /// # Panics
    /// When it runs already.
    pub fn start_daemon_with(&mut self, configured: impl Fn(&str) -> bool) {
        assert!(self.volumes.is_empty(), "the daemon runs");
        let setup = &self.setup;
        let fence = Fence { mode: setup.tunables.fence, timeout: setup.tunables.fence_timeout };
        let ledger = Ledger::new(fence, setup.pair.block_size, 256);
        let left = self.state_file.iter().map(|r| (r.clone(), configured(&r.path))).collect();
        let shared = Arc::new(Shared::recording(self.now, ledger, left));
        self.shared = Some(shared.clone());
        self.steady = SteadyClock::default();
        let spec = DeviceSpec {
            name: "vm0".to_owned(),
            initiator_name: "iqn.2026-11.test.host:mpio".to_owned(),
            wwid: setup.wwid.clone(),
            policy: setup.policy,
            read_only: setup.read_only,
            tunables: setup.tunables.clone(),
            buffer_memory: setup.buffer_memory,
            lanes: setup.lanes,
        };
        for lane in 0..usize::from(setup.lanes) {
            let mut entropy = Dice::new(setup.seed ^ (self.lives << 32) ^ (lane as u64) << 16);
            let entropy = Box::new(move |bytes: &mut [u8]| {
                bytes.iter_mut().for_each(|byte| *byte = entropy.bits() as u8);
            });
            let shared = shared.clone();
            let mut volume = Volume::new(self.now, spec.clone(), lane as u16, shared, entropy);
            for index in 0..setup.portals.len() {
                let path = path_spec(setup, lane, index);
                volume.add_path(self.now, path).expect("room for the path");
            }
            self.volumes.push(volume);
        }
        self.lives += 1;
        let lanes = self.volumes.len();
        self.awake = vec![true; lanes];
        self.drained = vec![false; lanes];
        self.socket = vec![vec![None; self.portals.len()]; lanes];
    }

    /// Ends the daemon like `kill -9`: its kernel resets every connection, its clients find theirs closed.
    pub fn kill_daemon(&mut self) {
        for lane in 0..self.volumes.len() {
            for path in 0..self.portals.len() {
                self.abandon_socket(lane, path);
            }
        }
        self.volumes.clear();
        self.attempts.clear();
        self.closing.clear();
        self.recording.clear();
        for index in 0..self.peers.len() {
            if self.peers[index].id.is_some() {
                self.gone(index);
                self.peers[index].client.handle_eof();
                self.collect(index);
            }
        }
    }

    /// Ends it like [`kill_daemon`](World::kill_daemon) and starts it at once, as
    /// [`start_daemon_with`](World::start_daemon_with) does.
    pub fn restart_daemon(&mut self, configured: impl Fn(&str) -> bool) {
        self.kill_daemon();
        self.start_daemon_with(configured);
    }

    /// The daemon stands still, and everything else goes on. It may be told of that by its clock (`steady`).
    ///
    /// # Panics
    /// When nothing was due meanwhile: nobody would notice the pause.
    pub fn pause(&mut self, duration: Duration, steady: bool) {
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
    pub fn starve(&mut self, duration: Duration) {
        let end = self.now + duration;
        let deadlines = self.volumes.iter().filter_map(Volume::poll_deadline);
        let due = self.steady.raw(deadlines.min().unwrap_or(Instant::MAX));
        self.pause(duration, false);
        let (now, late) = (self.steady.at(end), end.since(due));
        self.volumes.iter_mut().for_each(|volume| volume.handle_stall(now, late));
        self.awake.fill(true);
    }

    /// What the daemon takes for the time.
    fn at(&self) -> Instant {
        self.steady.at(self.now)
    }

    /// Whether it runs.
    #[must_use]
    pub fn daemon_runs(&self) -> bool {
        !self.volumes.is_empty()
    }

    /// The settings that a daemon starts with.
    #[must_use]
    pub fn tunables(&self) -> &Tunables {
        &self.setup.tunables
    }

    /// How many daemons there have been.
    #[must_use]
    pub fn daemon_lives(&self) -> u64 {
        self.lives
    }

    // --- time

    /// Everything that is due now, until nothing moves.
    ///
    /// # Panics
    /// When it never ends: a busy loop of the product.
    pub fn settle(&mut self) {
        loop {
            self.steps += 1;
            assert!(self.steps < STEPS_MAX, "a busy loop at {:?}", self.now);
            let mut moved = self.deliver();
            moved |= self.nodes_turn();
            for lane in 0..if self.paused { 0 } else { self.volumes.len() } {
                moved |= self.lane_turn(lane);
            }
            moved |= !self.paused && self.peers_turn();
            self.watch_reach();
            self.watch_look_alike();
            if !moved {
                return;
            }
        }
    }

    /// Notes which nodes a lane cannot reach now.
    fn watch_reach(&mut self) {
        let count = self.pair.journal().count();
        for node in 0..2 {
            let paths: Vec<usize> =
                (0..self.portals.len()).filter(|p| self.portals[*p].node == node).collect();
            let reaches = |lane| paths.iter().any(|p| self.state_on(lane, *p).carries_io());
            if !self.volumes.is_empty() && (0..self.volumes.len()).all(reaches) {
                continue;
            }
            match self.out_of_reach[node].last_mut() {
                Some((_, until)) if *until == count || *until + 1 == count => *until = count,
                _ => self.out_of_reach[node].push((count, count)),
            }
        }
    }

    /// Whether every lane had a session in service with the node, suspect or not, all the time between two
    /// numbers of executed commands.
    #[must_use]
    pub fn in_reach(&self, node: u8, from: u64, to: u64) -> bool {
        !self.out_of_reach[usize::from(node)].iter().any(|(f, t)| *f <= to && from <= *t)
    }

    /// Moves the clock to the next thing that is due, at most to `limit`.
    fn advance(&mut self, limit: Instant) {
        let mut next = if self.paused { limit } else { limit.min(self.daemon_due()) };
        for node in self.nodes.iter().flatten() {
            next = next.min(node.poll_deadline().map_or(Instant::MAX, ours));
        }
        for wire in self.wires.values() {
            let net = match (self.portals[wire.portal].net, self.dark[wire.node]) {
                (Net::Silent | Net::NothingBack, true) => Net::Silent,
                (_, true) => Net::NothingThere,
                (net, false) => net,
            };
            next = next.min(wire.next(net, self.paused).max(self.now));
        }
        assert!(next >= self.now, "the deadline {next:?} lies before {:?}", self.now);
        if next > self.now {
            self.steps = 0;
        }
        self.now = next;
    }

    /// When the daemon or its kernel has something to do.
    fn daemon_due(&self) -> Instant {
        let deadlines = self.volumes.iter().filter_map(Volume::poll_deadline);
        let attempts = self.attempts.iter().map(|a| a.due);
        let closing = self.closing.iter().map(|(at, ..)| *at);
        let recording = self.recording.iter().map(|(at, ..)| *at);
        let kernel = attempts.chain(closing).chain(recording);
        deadlines.map(|at| self.steady.raw(at)).chain(kernel).min().unwrap_or(Instant::MAX)
    }

    /// Lets `duration` pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.settle();
        while self.now < end {
            self.advance(end);
            self.settle();
        }
    }

    /// The same in milliseconds.
    pub fn run_ms(&mut self, millis: u64) {
        self.run(Duration::from_millis(millis));
    }

    /// Until `wanted` holds, for `patience` of virtual time: whether it came, and how long it took.
    pub fn wait(
        &mut self,
        patience: Duration,
        mut wanted: impl FnMut(&World) -> bool,
    ) -> Option<Duration> {
        let (from, end) = (self.now, self.now + patience);
        self.settle();
        while !wanted(self) {
            if self.now >= end {
                return None;
            }
            self.advance(end);
            self.settle();
        }
        Some(self.now - from)
    }

    /// The same for at most two minutes.
    ///
    /// # Panics
    /// When it does not come.
    pub fn until(&mut self, what: &str, wanted: impl FnMut(&World) -> bool) -> Duration {
        let took = self.wait(Duration::from_secs(120), wanted);
        took.unwrap_or_else(|| panic!("{what} does not come\n{}", self.story()))
    }

    /// Until every path of every lane is active; how long it took.
    pub fn until_active(&mut self) -> Duration {
        self.until("every path active", World::all_active)
    }

    /// Until a path of the first lane is in this state; how long it took.
    pub fn until_state(&mut self, path: usize, state: State) -> Duration {
        self.until(&format!("path {path} {state}"), |w| w.state(path) == state)
    }

    /// Every path of every lane is active.
    #[must_use]
    pub fn all_active(&self) -> bool {
        let paths = 0..self.portals.len();
        let active = |lane| paths.clone().all(|path| self.state_on(lane, path) == State::Active);
        self.daemon_runs() && (0..self.volumes.len()).all(active)
    }

    // --- what can be seen

    /// Whether a client has used the device that the daemon serves.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.used
    }

    /// Ranges that were released without a proof are still looked after.
    #[must_use]
    pub fn watches(&self) -> bool {
        self.volumes.first().is_some_and(|volume| volume.snapshot().watched > 0)
    }

    /// The state of a path on a lane.
    #[must_use]
    pub fn state_on(&self, lane: usize, path: usize) -> State {
        self.volumes[lane].path_state(PathIndex::new(path))
    }

    /// The same on the first lane.
    #[must_use]
    pub fn state(&self, path: usize) -> State {
        self.state_on(0, path)
    }

    /// Why a path of the first lane is in its state, when that is not plain.
    #[must_use]
    pub fn reason(&self, path: usize) -> &str {
        self.volumes[0].path_reason(PathIndex::new(path))
    }

    /// How often it has failed.
    #[must_use]
    pub fn failures(&self, path: usize) -> u64 {
        self.volumes[0].path_failures(PathIndex::new(path))
    }

    /// The first lane, for an administrator: it gets a turn.
    pub fn volume(&mut self) -> &mut Volume {
        self.awake[0] = true;
        &mut self.volumes[0]
    }

    /// How often the product has told this.
    #[must_use]
    pub fn logged(&self, what: &str) -> usize {
        self.log.iter().filter(|n| n.what == what).count()
    }

    /// Where everything stands, for messages.
    #[must_use]
    pub fn story(&self) -> String {
        let mut out = format!("now {:?}\n", self.now);
        for (lane, volume) in self.volumes.iter().enumerate() {
            out += &format!("lane {lane}: {:?}\n", volume.census());
            for index in 0..self.portals.len() {
                let path = PathIndex::new(index);
                let (state, why) = (volume.path_state(path), volume.path_reason(path));
                out += &format!("lane {lane} path {index}: {state} {why}\n");
            }
        }
        if let Some(volume) = self.volumes.first() {
            out += &format!("{:?}\n", volume.fences());
        }
        for Notice { level, path, what, why } in self.log.iter().rev().take(NOTICES_MAX).rev() {
            out += &format!("{level:?} {} {what}: {why}\n", path.as_deref().unwrap_or("-"));
        }
        out
    }

    /// Tells the story that something was done to the world.
    pub fn tell(&mut self, text: String) {
        self.trace.tell(self.now, About::Fault, text);
    }

    // --- faults of the network

    /// Holds back what is and will be on its way to the target on the connections of now.
    pub fn stall(&mut self, portal: usize, stalled: bool) {
        for wire in self.wires.values_mut().filter(|w| w.portal == portal) {
            wire.stalled = stalled;
        }
    }

    /// A portal is as far away as at the start.
    pub fn restore_delay(&mut self, portal: usize) {
        self.portals[portal].delay = self.setup.portals[portal].delay;
    }

    /// What a portal does from now on.
    pub fn set_net(&mut self, portal: usize, net: Net) {
        self.portals[portal].net = net;
    }
}
