//! The pure initiator of one device on one lane: sessions, path engine and exports joined.
//!
//! # Model
//! A [`Volume`] owns a [`link`] per path (socket phase, session, bring-up), the path engine that says
//! which link the next command takes, the NBD connections of its clients, and two tables: *requests* (what
//! a client asked for) and *parts* (one SCSI command each, the unit of retry).
//!
//! ```text
//!  client bytes ─► export ─► Request ─► ledger (range) ─► parts ─► ready queue
//!                                                                     │ finish_turn: path engine
//!  reply ◄─ Request done ◄─ verdict ◄─ Part done ◄─ session ◄─────────┘
//! ```
//!
//! # Grammar
//! `handle_*` takes an event and the time; [`Volume::finish_turn`] is called once after all events of a
//! turn: it moves what became possible (that is where commands get their path, so that one receive's
//! commands are chosen together). Then [`Volume::poll_action`] until it returns nothing,
//! [`Volume::poll_transmit`] until it returns nothing, and [`Volume::poll_deadline`].
//!
//! # Rooms
//! | folder, file | what |
//! |---|---|
//! | `clients` | the NBD side: connections, requests in and answers out, payload memory |
//! | `io` | the life of one I/O: request, parts, path choice, verdict, flush, copies |
//! | `link` | a path's connection: login, identity, content, access states, health |
//! | `fence` | write ownership: proofs, resets, what outlives us, the watch list |
//! | `shared` | what the lanes of one device share |
//! | `spec`, `tunables`, `admin`, `census` | what it is built from, what can be set, what is shown |
//!
//! Deliberately not here: sockets, clocks, threads. The lane and the simulator drive the same code.

pub mod admin;
mod census;
mod clients;
mod detour;
mod fence;
mod io;
mod link;
pub mod shared;
pub mod spec;
pub mod tunables;

// The rooms of the folders, by the names that all of the volume uses.
use clients::memory;
use fence as fencing;
pub use fence::doubts;
pub use fence::fence_command;
pub use fence::nexus;
pub use fence::resets;
pub use fence::watch;
use fence::{check, quiet};
pub use io::hedge;
use io::{abandon, block_ops, complete, dispatch, flush, request, transfer};
pub use link::probe;
use link::{alua, content, explicit, health, idle, probing, rediscovery, service};

use crate::base::table::Table;
use crate::base::{Duration, Instant, TxQueue};
use crate::export;
use crate::path::identity::LogicalUnit;
use crate::path::{
    BlockRange, Burst, Engine, PathIndex, PathSet, Stamp, State, TooManyPaths, Tuning,
};
use crate::stats::IoStats;
use abandon::Straggler;
use bytes::Bytes;
pub use census::Census;
use clients::Client;
pub use clients::ClientId;
use fence_command::FenceCommand;
use hedge::Hedges;
use link::Link;
use nexus::NexusRecord;
use request::{Part, PartId, Request, RequestId};
use shared::Shared;
use smallvec::SmallVec;
use spec::{DeviceSpec, PathSpec};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A socket as the volume names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// The iSCSI connection of a path.
    Path(PathIndex),
    /// An NBD connection.
    Client(ClientId),
}

/// What the driver is asked to do.
#[derive(Debug)]
pub enum Action {
    /// Make a TCP connection, bound to `source` before it connects and to nothing else.
    Connect {
        /// For this path.
        path: PathIndex,
        /// Where to.
        remote: SocketAddr,
        /// Local address.
        source: Option<IpAddr>,
        /// Network interface (SO_BINDTODEVICE).
        interface: Option<String>,
        /// Give up after this long.
        timeout: Duration,
    },
    /// Give the path's socket up: reset at once, answered by [`Volume::handle_socket_closed`].
    GiveUp(PathIndex),
    /// Close a client's connection: what is queued is still sent unless `abort`.
    CloseClient {
        /// Which.
        client: ClientId,
        /// Drop what is queued.
        abort: bool,
    },
    /// Something an administrator wants to know; it is in the device's event list too.
    Log(Notice),
    /// Another lane of this device has work: a range that it waited for was granted.
    WakeLane(u16),
    /// A LOGICAL UNIT RESET was answered on this target: the other lanes' commands there are gone.
    TargetWasReset(String),
    /// [`Volume::drain`] is complete.
    Drained,
    /// Write this nexus down so that it outlives the process, and answer by
    /// [`Volume::handle_nexus_recorded`]: state-changing commands of the path wait for it.
    RecordNexus {
        /// Its path.
        path: PathIndex,
        /// What to write.
        record: NexusRecord,
    },
    /// Nothing of this nexus can come any more: strike it out. Not answered.
    ForgetNexus(NexusRecord),
    /// Run this, answered by [`Volume::handle_fence_command`].
    RunFenceCommand(FenceCommand),
    /// Ask the portals for their targets again: one of these has said that something changed. Not answered;
    /// what is found is added by [`Volume::add_path`].
    Discover,
}

/// One line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// How loud.
    pub level: Level,
    /// The path, if it is about one.
    pub path: Option<String>,
    /// What happened (`failed`, `active`, …).
    pub what: &'static str,
    /// Why, with what to try.
    pub why: String,
}

/// How loud a notice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Normal life.
    Info,
    /// Redundancy or service is affected.
    Warn,
    /// Requests fail, or an administrator has to act.
    Error,
}

/// One device on one lane.
pub struct Volume {
    spec: DeviceSpec,
    lane: u16,
    shared: Arc<Shared>,
    engine: Engine,
    links: Vec<Link>,
    clients: Table<Client>,
    requests: Table<Request>,
    parts: Table<Part>,
    /// Commands that no part is in flight with.
    stragglers: Table<Straggler>,
    hedges: Hedges,
    /// Paths with READs or WRITEs in flight that have not accused them.
    owing: PathSet,
    scratch: Vec<(Instant, PartId)>,
    /// The logical unit once one path has shown it.
    unit: Option<Arc<LogicalUnit>>,
    /// Which version of the shared unit that is.
    unit_version: u64,
    /// It was told that the paths show different sizes.
    sizes_differ: bool,
    /// Blocks per READ or WRITE: what every path seen so far takes.
    transfer_step: u32,
    /// Parts that wait for a path, in order of arrival.
    ready: VecDeque<PartId>,
    /// Parts that a turn could not place: back to `ready` at its end.
    unplaced: Vec<PartId>,
    /// Parts that wait for a time.
    delayed: Vec<(Instant, PartId)>,
    /// Requests that still have parts to make.
    pumpable: VecDeque<RequestId>,
    /// Requests that wait for their range, for the input throttle.
    held: usize,
    /// Requests that found the ledger full.
    unticketed: VecDeque<(RequestId, BlockRange)>,
    actions: VecDeque<Action>,
    dirty_links: PathSet,
    /// Paths by which no write is sent: their unit is about to be reset.
    hushed: PathSet,
    /// Which version of the shared resets that is of.
    resets_version: u64,
    /// Paths that an administrator takes out, until their sockets are closed.
    leaving: PathSet,
    /// Paths that are compared by what clients write.
    content_waits: PathSet,
    /// Reads over paths in service, for paths in question.
    reference_reads: Vec<content::ReferenceRead>,
    /// Some path is not known to show the device: what clients write is remembered in `written`.
    content_open: bool,
    written: SmallVec<[u64; crate::path::content::WRITTEN_MAX]>,
    dirty_clients: Vec<ClientId>,
    /// Payload bytes that clients hold, and those who wait for more, in order.
    payload_held: u64,
    blocked: VecDeque<ClientId>,
    no_path_reported: bool,
    explicit: explicit::Need,
    rediscovery: rediscovery::Rediscovery,
    /// Something became possible in this turn after its time had passed: once more.
    again: bool,
    /// Clients with events that were not asked for.
    attention: Vec<ClientId>,
    next_tick: Instant,
    /// Random bytes for logins and identifiers, refilled by the driver's seed at start.
    entropy: Entropy,
    draining: Option<Draining>,
    /// Requests of clients, as they see them.
    counters: IoStats,
    catalog: export::Catalog,
    /// Paths whose nexus is not written down.
    unrecorded: PathSet,
    /// What an earlier process left behind is over, and told so.
    inherited_tidy: bool,
    fence_runs: fence_command::Runs,
    /// Ranges that are being looked at.
    checks: Vec<check::Progress>,
    watch_full_told: bool,
}

/// Progress of a drain.
struct Draining {
    deadline: Instant,
    flushed: bool,
    logged_out: bool,
    reported: bool,
}

/// Source of random bytes: a closure of the driver, so that the simulator can seed it.
pub type Entropy = Box<dyn FnMut(&mut [u8]) + Send>;

/// How often slow things are looked at while there is anything to look at.
const TICK: Duration = Duration::from_millis(50);

/// The path engine as the device is configured.
fn engine(now: Instant, spec: &DeviceSpec, entropy: &mut Entropy) -> Engine {
    let mut seed = [0; 8];
    entropy(&mut seed);
    let tuning = Tuning {
        policy: spec.policy,
        failback: spec.tunables.failback,
        burst: Burst::default(),
        sticky_bytes: spec.tunables.sticky_bytes,
        seed: u64::from_le_bytes(seed),
    };
    let mut engine = Engine::new(now, tuning);
    engine.set_reconnect(spec.tunables.reconnect());
    engine
}

impl Volume {
    /// A device without paths and clients. `shared` is the same for all lanes of the device.
    #[must_use]
    pub fn new(
        now: Instant,
        spec: DeviceSpec,
        lane: u16,
        shared: Arc<Shared>,
        mut entropy: Entropy,
    ) -> Volume {
        let engine = engine(now, &spec, &mut entropy);
        let catalog = clients::catalog(&spec.name);
        let inherited_tidy = shared.inheritance().is_empty();
        let mut volume = Volume {
            lane,
            shared,
            engine,
            links: Vec::new(),
            clients: Table::with_capacity(8),
            requests: Table::with_capacity(crate::limits::REQUESTS_PER_LANE_MAX),
            parts: Table::with_capacity(crate::limits::REQUESTS_PER_LANE_MAX),
            stragglers: Table::with_capacity(crate::limits::REQUESTS_PER_LANE_MAX),
            hedges: Hedges::new(),
            owing: PathSet::EMPTY,
            scratch: Vec::with_capacity(crate::limits::REQUESTS_PER_LANE_MAX),
            unit: None,
            unit_version: 0,
            sizes_differ: false,
            transfer_step: u32::MAX,
            ready: VecDeque::with_capacity(crate::limits::REQUESTS_PER_LANE_MAX),
            unplaced: Vec::with_capacity(crate::limits::REQUESTS_PER_LANE_MAX),
            delayed: Vec::new(),
            pumpable: VecDeque::with_capacity(crate::limits::REQUESTS_PER_LANE_MAX),
            held: 0,
            unticketed: VecDeque::new(),
            actions: VecDeque::with_capacity(64),
            dirty_links: PathSet::EMPTY,
            hushed: PathSet::EMPTY,
            resets_version: 0,
            leaving: PathSet::EMPTY,
            content_waits: PathSet::EMPTY,
            reference_reads: Vec::new(),
            content_open: false,
            written: SmallVec::new(),
            dirty_clients: Vec::with_capacity(16),
            payload_held: 0,
            blocked: VecDeque::new(),
            no_path_reported: false,
            explicit: explicit::Need::default(),
            rediscovery: rediscovery::Rediscovery::default(),
            again: false,
            attention: Vec::with_capacity(16),
            next_tick: Instant::ZERO,
            entropy,
            draining: None,
            counters: IoStats::new(),
            catalog,
            unrecorded: PathSet::EMPTY,
            inherited_tidy,
            fence_runs: fence_command::Runs::default(),
            checks: Vec::new(),
            watch_full_told: false,
            spec,
        };
        nexus::announce(&mut volume, now);
        volume
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Adds a path; it connects in the next turn.
    ///
    /// # Errors
    /// Beyond [`crate::limits::PATHS_PER_DEVICE_MAX`] paths.
    pub fn add_path(&mut self, now: Instant, spec: PathSpec) -> Result<PathIndex, TooManyPaths> {
        let index = self.engine.add_path(now, spec.info())?;
        assert_eq!(index.get(), self.links.len(), "engine and links count together");
        self.links.push(Link::new(index, spec, self.spec.tunables.queue_depth));
        nexus::added(self, index);
        self.content_open = content::open(self);
        link::connect(self, now, index);
        Ok(index)
    }

    /// A nexus was written down, or why it could not be.
    pub fn handle_nexus_recorded(
        &mut self,
        now: Instant,
        path: PathIndex,
        result: Result<(), String>,
    ) {
        nexus::recorded(self, now, path, result);
    }

    /// A `fence_command` has ended: exit code 0, or why that is no proof.
    pub fn handle_fence_command(&mut self, now: Instant, id: u64, result: Result<(), String>) {
        fence_command::ended(self, now, id, result);
    }

    /// Sets the pair of clock readings that events are dated by.
    pub fn set_clock(&mut self, now: Instant, wall: Stamp) {
        self.engine.set_clock(now, wall);
    }

    /// This process did not run for `late`, until `now`, without a pause of the clock that `now` is of: call
    /// it before the events of the turn. What was in flight meanwhile is not measured, and no path is blamed.
    pub fn handle_stall(&mut self, now: Instant, late: Duration) {
        health::stalled(self, now, late);
    }

    /// A client connected.
    pub fn handle_client(&mut self, now: Instant) -> Option<ClientId> {
        clients::accept(self, now)
    }

    /// The path's TCP connection is up, from `local`.
    pub fn handle_connected(&mut self, now: Instant, path: PathIndex, local: SocketAddr) {
        link::connected(self, now, path, local);
    }

    /// The path's TCP connection could not be made; `why` is for an administrator, with what to try.
    /// [`Volume::handle_socket_closed`] follows, here too.
    pub fn handle_connect_failed(&mut self, now: Instant, path: PathIndex, why: &str) {
        link::connect_failed(self, now, path, why);
    }

    /// Bytes arrived.
    pub fn handle_received(&mut self, now: Instant, endpoint: Endpoint, chunk: Bytes) {
        match endpoint {
            Endpoint::Path(path) => link::received(self, now, path, chunk),
            Endpoint::Client(client) => clients::received(self, now, client, chunk),
        }
    }

    /// The peer closed (`None`) or broke (`Some`) the connection.
    pub fn handle_disconnected(
        &mut self,
        now: Instant,
        endpoint: Endpoint,
        error: Option<&std::io::Error>,
    ) {
        match endpoint {
            Endpoint::Path(path) => link::disconnected(self, now, path, error),
            Endpoint::Client(client) => clients::disconnected(self, now, client, error),
        }
    }

    /// A send has completed. Whether that made anything possible: then another [`Volume::finish_turn`] is due.
    pub fn handle_sent(&mut self, now: Instant, endpoint: Endpoint) -> bool {
        match endpoint {
            // A session makes the data of long writes as it is sent: it is asked for more when the
            // driver takes the next send.
            Endpoint::Path(path) => {
                self.links[path.get()].taken_at = now;
                false
            }
            Endpoint::Client(client) => clients::sent(self, now, client),
        }
    }

    /// The driver has let go of a socket: nothing of it is in flight any more.
    pub fn handle_socket_closed(&mut self, now: Instant, endpoint: Endpoint) {
        match endpoint {
            Endpoint::Path(path) => link::socket_closed(self, now, path),
            Endpoint::Client(client) => clients::socket_closed(self, now, client),
        }
    }

    /// Everything whose time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        link::timeouts(self, now);
        health::timeouts(self, now);
        hedge::timeouts(self, now);
        alua::timeouts(self, now);
        rediscovery::timeouts(self, now);
        clients::timeouts(self, now);
        dispatch::delayed(self, now);
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.tick(now);
        }
    }

    fn tick(&mut self, now: Instant) {
        check::fence_timeout(self, now);
        health::tick(self, now);
        content::tick(self, now);
        dispatch::no_path(self, now);
        quiet::tick(self, now);
        fencing::hung_units(self, now);
        fencing::retry(self, now);
        fencing::renew(self, now);
        fence_command::tick(self, now);
        check::tick(self, now);
        nexus::tidy(self);
        self.advance_drain(now);
    }

    /// Ends a turn: grants ranges, makes parts, gives them paths. Call it after all events of a turn.
    pub fn finish_turn(&mut self, now: Instant) {
        let version = self.shared.unit_version();
        if self.unit_version != version && self.unit.is_some() {
            // Another lane has found it changed.
            self.unit_version = version;
            self.unit = self.shared.unit();
        }
        loop {
            self.again = false;
            clients::attend(self, now);
            memory::serve_line(self, now);
            request::grant(self, now);
            request::pump_all(self);
            quiet::attend(self, now);
            dispatch::run(self, now);
            self.check_drain(now);
            if !self.again {
                explicit::watch(self, now);
                break;
            }
        }
        hedge::settle(self);
    }

    /// The next thing to do for the driver.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Hands every endpoint with something to send to `visit`, iSCSI sockets first. An endpoint whose
    /// queue is not emptied (a send is in flight) is named again after the driver called
    /// [`Volume::mark_dirty`].
    pub fn poll_transmit(&mut self, mut visit: impl FnMut(Endpoint, &mut TxQueue)) {
        for path in std::mem::take(&mut self.dirty_links).iter() {
            if let Some(tx) = self.links[path.get()].tx() {
                visit(Endpoint::Path(path), tx);
            }
        }
        while let Some(id) = self.dirty_clients.pop() {
            if let Some(client) = self.clients.get_mut(id.into()) {
                client.dirty = false;
                visit(Endpoint::Client(id), client.connection.tx());
            }
        }
    }

    /// Whether the endpoint has bytes to send: asked by the driver when a send has completed.
    pub fn tx(&mut self, endpoint: Endpoint) -> Option<&mut TxQueue> {
        match endpoint {
            Endpoint::Path(path) => self.links.get_mut(path.get())?.tx(),
            Endpoint::Client(id) => Some(self.clients.get_mut(id.into())?.connection.tx()),
        }
    }

    /// Whether the driver shall receive on this endpoint now.
    #[must_use]
    pub fn wants_input(&self, endpoint: Endpoint) -> bool {
        match endpoint {
            Endpoint::Path(_) => true,
            Endpoint::Client(id) => clients::wants_input(self, id),
        }
    }

    /// When [`Volume::handle_timeout`] has to be called, at the latest.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<Instant> {
        let mut next = Instant::MAX;
        for link in &self.links {
            next = next.min(link.deadline());
            // Of a path that has failed, only once the driver has let go of its old socket.
            if matches!(link.phase, link::Phase::Waiting) {
                next = next.min(self.engine.retry_at(link.index).unwrap_or(Instant::MAX));
            }
        }
        for path in self.leaving.iter() {
            let link = &self.links[path.get()];
            if matches!(link.phase, link::Phase::Up) {
                next = next.min(link.disable_by);
            }
        }
        next = next.min(health::deadline(self)).min(hedge::deadline(self));
        next = next.min(alua::deadline(self)).min(rediscovery::deadline(self));
        next = next.min(self.engine.failback_deadline().unwrap_or(Instant::MAX));
        for (_, client) in self.clients.iter() {
            next = next.min(client.connection.poll_deadline().unwrap_or(Instant::MAX));
        }
        for (at, _) in &self.delayed {
            next = next.min(*at);
        }
        if self.needs_tick() {
            next = next.min(self.next_tick);
        }
        (next < Instant::MAX).then_some(next)
    }

    /// The next deadline among those that matter in milliseconds: cheap enough to be asked for every turn.
    /// The others may wait until [`Volume::poll_deadline`] is asked for.
    #[must_use]
    pub fn poll_soon(&self) -> Instant {
        self.delayed
            .iter()
            .map(|(at, _)| *at)
            .min()
            .unwrap_or(Instant::MAX)
            .min(health::deadline(self))
    }

    /// How long the driver shall look for answers before it sleeps: zero unless commands are outstanding.
    #[must_use]
    pub fn spin(&self) -> Duration {
        if !self.parts.is_empty() { self.spec.tunables.spin } else { Duration::ZERO }
    }

    fn needs_tick(&self) -> bool {
        !self.parts.is_empty()
            || !self.stragglers.is_empty()
            || self.draining.as_ref().is_some_and(|d| !d.reported)
            || self.engine.down_since().is_some()
            || !self.engine.suspects().is_empty()
            || !self.reference_reads.is_empty()
            || self.no_path_reported
            || clients::any_waits(self)
            || self.shared.ledger().counters().pending > 0
            || self.shared.is_watching()
            || (!self.inherited_tidy && self.lane == 0)
            || self.held > 0
            || !self.hushed.is_empty()
            || self.links.iter().any(|link| matches!(link.phase, link::Phase::Fencing))
            || !self.unticketed.is_empty()
    }

    /// Tells the administrator: in the log, and in the device's events unless the engine has told it.
    fn notice(
        &mut self,
        now: Instant,
        level: Level,
        path: Option<PathIndex>,
        what: &'static str,
        why: &str,
    ) {
        if !State::ALL.iter().any(|state| state.name() == what) {
            self.engine.note(now, path, what, why);
        }
        let path = path.map(|p| self.links[p.get()].spec.name.clone());
        self.actions.push_back(Action::Log(Notice { level, path, what, why: why.to_owned() }));
    }

    fn mark_link(&mut self, path: PathIndex) {
        self.dirty_links.insert(path);
    }

    fn mark_client(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(id.into()).filter(|client| !client.dirty) {
            client.dirty = true;
            self.dirty_clients.push(id);
        }
    }
}
