//! What the tasks of the control thread share: the configuration, the lanes, and what discovery has found.

use super::spec::{self, Isids};
use crate::api;
use crate::base;
use crate::control::config::{Config, Device, Target};
use crate::control::isid;
use crate::control::plan::{NewPath, News, Plan};
use crate::control::state::StateFile;
use crate::lane::{Command, Errand, Errands, Io, LaneHandle, Mailbox};
use crate::limits;
use crate::path::{Fence, Ledger};
use crate::volume;
use crate::volume::nexus::NexusRecord;
use crate::volume::spec::Tunables;
use std::cell::{Cell, Ref, RefCell};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::sync::Notify;

/// See [`Ledger::new`].
const LEDGER_BLOCK: u32 = 4096;

/// Last result of asking a portal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Not answered yet.
    NotYet,
    /// It answered, or is not asked.
    Well,
    /// It could not be asked, and why.
    Failed(String),
}

/// See the module.
pub struct Shared {
    /// What to build.
    pub config: Config,
    /// Who knows which path leads where.
    pub plan: RefCell<Plan>,
    /// Per portal.
    pub asked: RefCell<Vec<Asked>>,
    /// Told when something above changed.
    pub changed: Notify,
    /// How often targets have said that something changed; `news` is told.
    changes: Cell<u64>,
    news: Notify,
    /// Whether every lane has finished.
    pub drained: Cell<bool>,
    started: Instant,
    memory_locked: bool,
    isids: Isids,
    lanes: RefCell<Vec<LaneHandle>>,
    events: RefCell<VecDeque<api::Event>>,
    known: RefCell<Vec<NewPath>>,
    /// Per device, where sessions can be logged into again.
    states: RefCell<Vec<StateFile>>,
    errands: Option<Errands>,
    /// Per device, as an administrator has set them.
    tunables: RefCell<Vec<Tunables>>,
}

impl Shared {
    /// With lanes that run and know nothing yet.
    #[must_use]
    pub fn new(config: Config, lanes: Vec<LaneHandle>, isids: Isids) -> Shared {
        assert!(config.devices.iter().all(|device| usize::from(device.lanes) <= lanes.len()));
        Shared {
            plan: RefCell::new(Plan::new(&config)),
            asked: RefCell::new(vec![Asked::NotYet; config.portals.len()]),
            changed: Notify::new(),
            changes: Cell::new(0),
            news: Notify::new(),
            drained: Cell::new(false),
            started: Instant::now(),
            memory_locked: false,
            isids,
            lanes: RefCell::new(lanes),
            events: RefCell::default(),
            known: RefCell::default(),
            states: RefCell::default(),
            errands: None,
            tunables: RefCell::new(config.devices.iter().map(|d| d.tunables.clone()).collect()),
            config,
        }
    }

    /// Remembers whether the process has locked its memory.
    #[must_use]
    pub fn memory_locked(mut self, locked: bool) -> Shared {
        self.memory_locked = locked;
        self
    }

    /// With what an earlier process has left behind (nothing, where ISIDs are random), and the way to who
    /// does errands.
    #[must_use]
    pub fn serving(mut self, states: Vec<StateFile>, errands: Errands) -> Shared {
        assert!(states.is_empty() || states.len() == self.config.devices.len());
        self.states = RefCell::new(states);
        self.errands = Some(errands);
        self
    }

    /// Changes the state file of a device.
    ///
    /// # Errors
    /// Those of the change; that there is no such file.
    pub fn with_state(
        &self,
        device: &str,
        change: impl FnOnce(&mut StateFile) -> io::Result<()>,
    ) -> io::Result<()> {
        let index = self.config.devices.iter().position(|d| d.name == device);
        let mut states = self.states.borrow_mut();
        match index.and_then(|index| states.get_mut(index)) {
            Some(state) => change(state),
            None => Err(io::Error::other("this device has no state file")),
        }
    }

    /// A target has said that something changed: whoever asks portals does it again.
    pub fn discover_again(&self) {
        self.changes.set(self.changes.get() + 1);
        self.news.notify_waiters();
    }

    /// How often [`Shared::discover_again`] was called.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// Until there was a change after the first `known` ones.
    pub async fn change_after(&self, known: u64) {
        while self.changes.get() == known {
            self.news.notified().await;
        }
    }

    /// Asks for an errand of ours; whether somebody does it.
    pub fn errand(&self, errand: Errand) -> bool {
        self.errands.as_ref().is_some_and(|errands| errands.send(errand).is_ok())
    }

    /// A way to reach a lane; `None` when it has ended.
    #[must_use]
    pub fn mailbox(&self, lane: u16) -> Option<Mailbox> {
        self.lanes.borrow().get(usize::from(lane)).map(LaneHandle::mailbox)
    }

    /// Tells a lane something.
    pub fn tell_lane(&self, lane: u16, command: Command) {
        if let Some(mailbox) = self.mailbox(lane) {
            mailbox.send(command);
        }
    }

    /// Whether a session that was written down is one of the present configuration.
    fn is_configured(&self, device: &Device, record: &NexusRecord) -> bool {
        let config = &self.config;
        let ours =
            |portal, target| isid::of(config, device, portal, target, record.lane) == record.isid;
        let named = |target: &&Target| target.name == record.target;
        record.lane < device.lanes
            && device
                .targets
                .iter()
                .filter(named)
                .any(|target| config.portals.iter().any(|portal| ours(portal, target)))
    }

    /// All lanes.
    pub fn lanes(&self) -> Ref<'_, [LaneHandle]> {
        Ref::map(self.lanes.borrow(), Vec::as_slice)
    }

    /// Lanes of one device.
    pub fn lanes_of(&self, device: usize) -> Ref<'_, [LaneHandle]> {
        let count = self.lane_count(device);
        Ref::map(self.lanes.borrow(), |lanes| &lanes[..count])
    }

    /// How many lanes carry a device; 0 once they have ended.
    #[must_use]
    pub fn lane_count(&self, device: usize) -> usize {
        usize::from(self.config.devices[device].lanes).min(self.lanes.borrow().len())
    }

    /// The tunables of a device.
    #[must_use]
    pub fn tunables(&self, device: usize) -> Ref<'_, Tunables> {
        Ref::map(self.tunables.borrow(), |all| &all[device])
    }

    /// What the lanes of a device are told to change to.
    pub fn set_tunables(&self, device: usize, tunables: Tunables) {
        self.tunables.borrow_mut()[device] = tunables;
    }

    /// Gives every lane its devices.
    pub fn add_devices(&self) {
        for (index, device) in self.config.devices.iter().enumerate() {
            let spec = spec::device(&self.config, device);
            let fence = Fence { mode: spec.tunables.fence, timeout: spec.tunables.fence_timeout };
            // The block size only spreads ranges over the ledger's filter; the unit is not known yet.
            let ledger = Ledger::new(fence, LEDGER_BLOCK, limits::REQUESTS_PER_LANE_MAX);
            let states = self.states.borrow();
            let shared = Arc::new(match states.get(index) {
                Some(state) => {
                    let left = state.records().iter();
                    let left = left.map(|r| (r.clone(), self.is_configured(device, r))).collect();
                    // The clocks of the lanes began a moment ago.
                    volume::shared::Shared::recording(base::Instant::ZERO, ledger, left)
                }
                None => volume::shared::Shared::new(ledger),
            });
            for lane in self.lanes_of(index).iter() {
                let (spec, shared) = (Box::new(spec.clone()), shared.clone());
                lane.send(Command::AddDevice { spec, shared });
            }
        }
    }

    /// Gives the lanes what discovery brought, and tells what it could not use.
    pub fn take(&self, portal: usize, news: News) {
        for (target, address) in &news.unused {
            tracing::info!(
                portal = %self.config.portals[portal].name, %target, %address,
                "advertised and not used: no [[portal]] has this address"
            );
        }
        for (device, path) in &news.too_many {
            let device = &self.config.devices[*device].name;
            tracing::warn!(%device, %path, most = limits::PATHS_PER_DEVICE_MAX, "one path too many, not used");
        }
        for path in news.paths {
            self.add_path(&path);
            self.known.borrow_mut().push(path);
        }
        self.changed.notify_waiters();
    }

    fn add_path(&self, path: &NewPath) {
        let device = &self.config.devices[path.device];
        let Some(address) = self.plan.borrow().address(path.portal) else {
            tracing::error!(path = %path.name, "the portal's address is not known");
            return;
        };
        tracing::info!(
            device = %device.name, path = %path.name, portal = %address,
            target = %device.targets[path.target].name, "found a path"
        );
        for (lane, handle) in self.lanes_of(path.device).iter().enumerate() {
            match spec::path(&self.config, path, address, lane as u16, self.isids) {
                Ok(spec) => {
                    let device = device.name.clone();
                    handle.send(Command::AddPath { device, path: Box::new(spec) });
                }
                Err(error) => {
                    tracing::error!(path = %path.name, %error, "path not used")
                }
            }
        }
    }

    /// Names of the paths of a device, in the configured order.
    #[must_use]
    pub fn path_names(&self, device: usize) -> Vec<String> {
        let known = self.known.borrow();
        let mut paths: Vec<&NewPath> = known.iter().filter(|path| path.device == device).collect();
        paths.sort_by_key(|path| path.order(&self.config));
        paths.into_iter().map(|path| path.name.clone()).collect()
    }

    /// Records something that happened to a portal; it shows in every device.
    pub fn event(&self, portal: usize, what: &str, why: &str) {
        let mut events = self.events.borrow_mut();
        if events.len() == limits::EVENTS_PER_DEVICE {
            events.pop_front();
        }
        events.push_back(api::Event {
            at: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            path: self.config.portals[portal].name.clone(),
            what: what.to_owned(),
            why: why.to_owned(),
        });
    }

    /// Events of portals, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<api::Event> {
        self.events.borrow().iter().cloned().collect()
    }

    /// Whether something that is configured was not found: a portal that does not answer, a target that
    /// no portal shows.
    #[must_use]
    pub fn incomplete(&self, device: usize) -> bool {
        let asked = self.asked.borrow();
        asked.iter().any(|asked| *asked != Asked::Well)
            || !self.plan.borrow().missing(&self.config, device).is_empty()
    }

    /// The `daemon` part of the status.
    #[must_use]
    pub fn daemon(&self) -> api::DaemonStatus {
        api::DaemonStatus {
            pid: std::process::id(),
            uptime_s: (self.started.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            config: self.config.file.as_ref().map(|file| file.display().to_string()),
            memory_locked: self.memory_locked,
            io: match self.lanes().first().map(LaneHandle::io) {
                Some(Io::Epoll) => api::Io::Epoll,
                Some(Io::Uring | Io::Best) | None => api::Io::Uring,
            },
        }
    }

    /// Ends the threads of the lanes; those that hang are left to the end of the process.
    pub fn end_lanes(&self) {
        let lanes = std::mem::take(&mut *self.lanes.borrow_mut());
        if !self.drained.get() {
            std::mem::forget(lanes);
            return;
        }
        for lane in lanes {
            lane.shutdown();
        }
    }
}
