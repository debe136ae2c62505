//! What an administrator sees and does: snapshots, policy, paths in and out, drain.

use super::link::{self, Phase};
use super::service;
use super::spec::Tunables;
use super::{Action, Draining, Level, Notice, Volume, clients, hedge, idle};
use crate::base::Instant;
use crate::path::{Access, Events, Fence, FenceMode, LedgerCounters, PathIndex, Policy, State};
use crate::session::Negotiated;
use crate::stats::IoStats;
use std::net::SocketAddr;

/// One path as `status` shows it, before it is turned into the fixed JSON names.
pub struct PathSnapshot {
    /// `PORTAL:TAIL`.
    pub name: String,
    /// Where it goes.
    pub portal: SocketAddr,
    /// Local address in use, else the configured one.
    pub source: Option<std::net::IpAddr>,
    /// Target name.
    pub target: String,
    /// The 8-byte LUN field.
    pub lun: u64,
    /// Path state.
    pub state: State,
    /// Why it is in that state, when that is not plain.
    pub reason: String,
    /// Weight.
    pub weight: u32,
    /// What the storage says about it; `None` without ALUA.
    pub access: Option<Access>,
    /// Whether that is known: the path has been asked.
    pub access_known: bool,
    /// Administratively preferred.
    pub preferred: bool,
    /// Counters and latency.
    pub stats: IoStats,
    /// Commands in flight.
    pub in_flight: u32,
    /// Commands that may be in flight: the tunable, or less while the target refuses more.
    pub queue_depth: u16,
    /// How often it has failed, and why the last time.
    pub failures: u64,
    /// The last failure's text.
    pub last_failure: String,
    /// The last failure is one that only a change of configuration cures, here or on the target.
    pub misconfigured: bool,
    /// Initiator session id.
    pub isid: [u8; 6],
    /// What login agreed on, while logged in.
    pub negotiated: Option<Negotiated>,
}

/// One device on one lane.
pub struct Snapshot {
    /// Device name.
    pub name: String,
    /// The unit, once known.
    pub unit: Option<std::sync::Arc<crate::path::identity::LogicalUnit>>,
    /// Whether commands are answered with errors for want of a path.
    pub failing: bool,
    /// Policy in force.
    pub policy: Policy,
    /// Clients in transmission.
    pub clients: usize,
    /// Never written.
    pub read_only: bool,
    /// Requests that wait for their range.
    pub held: usize,
    /// The ledger's numbers; shared by the lanes of the device.
    pub fences: LedgerCounters,
    /// Copies of slow reads.
    pub hedges: hedge::Counters,
    /// Ranges on the watch list, and blocks that it has rewritten; shared likewise.
    pub watched: u64,
    /// See `watched`.
    pub repaired: u64,
    /// Requests of clients.
    pub stats: IoStats,
    /// Paths in configured order.
    pub paths: Vec<PathSnapshot>,
    /// Last events.
    pub events: Events,
}

/// Why an administrator's wish was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// No such path.
    #[error("device {device} has no path {path}; it has {known}")]
    NoSuchPath {
        /// Device.
        device: String,
        /// What was asked for.
        path: String,
        /// What there is.
        known: String,
    },
    /// The last usable path is only taken out by force.
    #[error("{path} is the last usable path of {device}: disabling it stops all I/O; try: --force")]
    LastPath {
        /// Device.
        device: String,
        /// The path.
        path: String,
    },
    /// A path that is logged in leads to a node that is not off.
    #[error(
        "{path} of {device} is logged in: its target's node is not off; try: mpio path {device} {path} disable"
    )]
    PathLives {
        /// Device.
        device: String,
        /// The path.
        path: String,
    },
}

impl Volume {
    /// The path's index by name.
    ///
    /// # Errors
    /// [`AdminError::NoSuchPath`], naming those there are.
    pub fn find_path(&self, name: &str) -> Result<PathIndex, AdminError> {
        let found = self.links.iter().find(|l| l.spec.name == name).map(|l| l.index);
        found.ok_or_else(|| AdminError::NoSuchPath {
            device: self.spec.name.clone(),
            path: name.to_owned(),
            known: self.path_names(),
        })
    }

    /// The paths there are, for a message. By name: the links are in the order in which logins ended.
    fn path_names(&self) -> String {
        let mut names: Vec<&str> = self.links.iter().map(|l| l.spec.name.as_str()).collect();
        names.sort_unstable();
        if names.is_empty() { "none yet".to_owned() } else { names.join(", ") }
    }

    /// Changes policy, weights and preference under load.
    ///
    /// # Errors
    /// [`AdminError::NoSuchPath`]; nothing is changed then.
    pub fn set_policy(
        &mut self,
        now: Instant,
        policy: Option<Policy>,
        weights: &[(String, u32)],
        prefer: Option<&str>,
    ) -> Result<(), AdminError> {
        let mut found = Vec::with_capacity(weights.len());
        for (name, weight) in weights {
            found.push((self.find_path(name)?, *weight));
        }
        let prefer = prefer.map(|name| self.find_path(name)).transpose()?;
        for (path, weight) in found {
            self.engine.set_weight(path, weight);
        }
        if let Some(path) = prefer {
            self.engine.set_prefer(now, Some(path));
        }
        if let Some(policy) = policy {
            self.engine.set_policy(now, policy);
            self.spec.policy = policy;
            // The engine notes it as an event.
            let why = format!("now {policy}");
            self.actions.push_back(Action::Log(Notice {
                level: Level::Info,
                path: None,
                what: "policy",
                why,
            }));
        }
        Ok(())
    }

    /// Changes the tunables under load: from now on, for sessions that there are and for those to come.
    /// The caller has checked them ([`super::tunables`]); `changes` names them for the device's events.
    pub fn set_tunables(&mut self, now: Instant, tunables: Tunables, changes: &str) {
        let fence = Fence { mode: tunables.fence, timeout: tunables.fence_timeout };
        // The same on every lane, and harmless when another one has done it.
        self.shared.ledger().set_fence(fence);
        if self.spec.tunables.failback != tunables.failback {
            self.engine.set_failback(now, tunables.failback);
        }
        self.engine.set_reconnect(tunables.reconnect());
        let recheck = self.spec.tunables.check_interval != tunables.check_interval;
        self.engine.set_sticky_bytes(tunables.sticky_bytes);
        let strict = self.spec.tunables.fence == FenceMode::Strict;
        self.spec.tunables = tunables;
        for path in self.engine.paths().filter(|_| recheck) {
            idle::begin(self, now, path);
        }
        link::retune(self);
        if strict && self.spec.tunables.fence != FenceMode::Strict {
            super::request::without_proof(self, now);
        }
        if let Some(draining) = &mut self.draining {
            let limit = now + self.spec.tunables.shutdown_timeout;
            draining.deadline = draining.deadline.min(limit);
        }
        self.notice(now, Level::Info, None, "set", changes);
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.engine.policy()
    }

    /// Takes a path out: nothing new is given to it, what is in flight is finished.
    ///
    /// # Errors
    /// No such path, or the last usable one without `force`.
    pub fn disable_path(
        &mut self,
        now: Instant,
        name: &str,
        force: bool,
    ) -> Result<(), AdminError> {
        let path = self.find_path(name)?;
        let usable = self.engine.usable();
        if usable.contains(path) && usable.len() == 1 && !force {
            return Err(AdminError::LastPath {
                device: self.spec.name.clone(),
                path: name.to_owned(),
            });
        }
        service::disable(self, now, path);
        Ok(())
    }

    /// Puts a path back.
    ///
    /// # Errors
    /// No such path.
    pub fn enable_path(&mut self, now: Instant, name: &str) -> Result<(), AdminError> {
        let path = self.find_path(name)?;
        if self.engine.state(path) == State::Disabled {
            service::enable(self, now, path);
        }
        Ok(())
    }

    /// Reads a path's identity again, or tries a failed one at once.
    ///
    /// # Errors
    /// No such path.
    pub fn recheck_path(&mut self, now: Instant, name: &str) -> Result<(), AdminError> {
        let path = self.find_path(name)?;
        service::recheck_now(self, now, path);
        Ok(())
    }

    /// The other lane's LOGICAL UNIT RESET has ended our commands on that target.
    pub fn target_was_reset(&mut self, now: Instant, target: &str) {
        super::fencing::abort_all_on(self, now, target, None);
    }

    /// Ends the service: no new requests, what is in flight is finished, caches are flushed, sessions log
    /// out; answered by [`Action::Drained`], at the latest after `shutdown_timeout`.
    pub fn drain(&mut self, now: Instant) {
        if self.draining.is_some() {
            return;
        }
        let deadline = now + self.spec.tunables.shutdown_timeout;
        self.draining =
            Some(Draining { deadline, flushed: false, logged_out: false, reported: false });
        clients::begin_shutdown(self, now);
    }

    pub(super) fn advance_drain(&mut self, now: Instant) {
        self.check_drain(now);
        let Some(draining) = &mut self.draining else { return };
        if now >= draining.deadline && !draining.reported {
            draining.reported = true;
            let left = self.requests.len();
            if left > 0 {
                let why = format!("{left} requests were still open at the end of shutdown_timeout");
                self.notice(now, Level::Warn, None, "shutdown", &why);
                super::request::shut_down(self, now);
            }
            super::nexus::end(self);
            self.actions.push_back(Action::Drained);
        }
    }

    /// In flight → flush → log out → done.
    pub(super) fn check_drain(&mut self, now: Instant) {
        if self.draining.is_none() {
            for path in self.leaving.iter() {
                service::log_out_if_idle(self, now, path);
            }
            return;
        }
        for index in 0..self.links.len() {
            let path = self.links[index].index;
            service::log_out_if_idle(self, now, path);
        }
        let Some(draining) = &mut self.draining else { return };
        if draining.reported || !self.requests.is_empty() {
            return;
        }
        if !draining.flushed {
            draining.flushed = true;
            super::flush::final_flush(self, now);
            if !self.requests.is_empty() {
                return;
            }
        }
        let draining = self.draining.as_mut().expect("it was just there");
        if !draining.logged_out {
            draining.logged_out = true;
            for index in 0..self.links.len() {
                let path = self.links[index].index;
                service::stop(self, now, path);
            }
        }
        let quiet = |phase: &Phase| matches!(phase, Phase::Waiting | Phase::Disabled);
        if self.links.iter().all(|l| quiet(&l.phase)) {
            self.draining.as_mut().expect("it was just there").reported = true;
            super::nexus::end(self);
            self.actions.push_back(Action::Drained);
        }
    }

    /// Everything that `status` shows of this lane.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let (watched, repaired) = self.shared.watch().numbers();
        Snapshot {
            name: self.spec.name.clone(),
            unit: self.unit.clone(),
            failing: self.no_path_reported,
            policy: self.engine.policy(),
            clients: self.clients.iter().filter(|(_, c)| c.open).count(),
            read_only: self.spec.read_only || self.unit.as_ref().is_some_and(|u| u.read_only()),
            held: self.held,
            fences: self.shared.ledger().counters(),
            hedges: self.hedges.counters(),
            watched,
            repaired,
            stats: self.counters.clone(),
            paths: self.links.iter().map(|l| self.path_snapshot(l)).collect(),
            events: self.engine.events().clone(),
        }
    }

    fn path_snapshot(&self, link: &link::Link) -> PathSnapshot {
        let session = link.session_ref();
        PathSnapshot {
            name: link.spec.name.clone(),
            portal: link.spec.portal,
            source: link.local.map(|l| l.ip()).or(link.spec.source),
            target: link.spec.target.clone(),
            lun: link.spec.lun,
            state: self.engine.state(link.index),
            reason: self.engine.reason(link.index).to_owned(),
            weight: self.engine.info(link.index).weight,
            access: self.engine.access(link.index),
            access_known: link.alua.known,
            preferred: self.engine.info(link.index).preferred,
            stats: self.engine.stats(link.index).clone(),
            in_flight: self.engine.in_flight(link.index),
            queue_depth: link.depth.limit(),
            failures: self.engine.failures(link.index),
            last_failure: self.engine.last_failure(link.index).to_owned(),
            misconfigured: link.misconfigured,
            isid: link.spec.isid,
            negotiated: session.and_then(|s| s.negotiated().cloned()),
        }
    }
}
