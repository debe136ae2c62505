//! What the connections of one node share: sessions by nexus, held commands, rules, counters.
//!
//! A connection gets it lent for the time of one event. What it wants done to *other* connections it
//! leaves in `effects`, which the node carries out before anything is sent.

use crate::base::Instant;
use crate::config::NodeConfig;
use crate::faults::{AtCommand, Cut, Stack};
use crate::journal::Nexus;
use crate::random::Random;
use crate::unit::Unit;
use crate::wire::iscsi::request::ScsiCommand;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// One connection of a node; never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

/// A session as the initiator names it (RFC 7143 section 4.4.3).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SessionKey {
    pub initiator: String,
    pub isid: [u8; 6],
}

/// A command that waits to be executed, with its data.
#[derive(Debug)]
pub(crate) struct Held {
    pub connection: ConnectionId,
    pub nexus: Nexus,
    pub command: ScsiCommand,
    pub data: Vec<u8>,
    pub at: AtCommand,
    pub received_at: Instant,
}

/// What one connection wants done to others, or by the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    Cut(ConnectionId, Cut),
    /// All tasks of every connection end without an answer; all but one find a unit attention.
    ResetUnit {
        by: ConnectionId,
    },
    /// The same, answered here: by a target that may stick at it.
    TryResetUnit {
        by: ConnectionId,
        task_tag: u32,
        now: Instant,
    },
    /// Every session ends.
    ResetTarget,
}

/// Plain counts of one node, readable while it runs.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Logins that reached the full feature phase.
    pub logins: AtomicU64,
    /// SCSI commands executed.
    pub commands: AtomicU64,
    /// Bytes of Data-In.
    pub bytes_read: AtomicU64,
    /// Bytes of write data taken.
    pub bytes_written: AtomicU64,
    /// NOP-Out that were answered.
    pub pings: AtomicU64,
    /// Commands that are held now.
    pub held: AtomicU64,
    violations: Mutex<Vec<String>>,
}

/// Violations kept: the first ones tell the story.
const VIOLATIONS_MAX: usize = 100;

impl Counters {
    /// What initiators did against the standard, in order; tests of an initiator want this empty.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn violation(&self, what: String) {
        let mut all = self.violations.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < VIOLATIONS_MAX {
            all.push(what);
        }
    }

    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// The shared part of a node.
pub(crate) struct Core {
    pub index: u8,
    pub config: Arc<NodeConfig>,
    pub unit: Unit,
    pub faults: Stack,
    pub random: Random,
    pub counters: Arc<Counters>,
    pub sessions: HashMap<SessionKey, (ConnectionId, u16)>,
    /// Nexuses that were here before: they find 29/07 instead of 29/00.
    pub known: HashSet<SessionKey>,
    /// Nexuses whose LOGICAL UNIT RESET is stuck: they are let in no more.
    pub barred: HashSet<SessionKey>,
    pub held: BTreeMap<(Instant, u64), Held>,
    pub effects: Vec<Effect>,
    /// For reads from files.
    pub scratch: Vec<u8>,
    next_tsih: u16,
    next_held: u64,
}

impl Core {
    pub(crate) fn new(
        index: u8,
        config: Arc<NodeConfig>,
        unit: Unit,
        faults: Stack,
        seed: u64,
        counters: Arc<Counters>,
    ) -> Core {
        Core {
            index,
            config,
            unit,
            faults,
            random: Random::new(seed ^ 0x7461_7267_6574),
            counters,
            sessions: HashMap::new(),
            known: HashSet::new(),
            barred: HashSet::new(),
            held: BTreeMap::new(),
            effects: Vec::new(),
            scratch: Vec::new(),
            next_tsih: 0,
            next_held: 0,
        }
    }

    /// A handle for a new session, never 0.
    pub(crate) fn tsih(&mut self) -> u16 {
        self.next_tsih = self.next_tsih.wrapping_add(1).max(1);
        self.next_tsih
    }

    pub(crate) fn violation(&self, what: String) {
        self.counters.violation(what);
    }

    /// Keeps a command until `until`.
    pub(crate) fn hold(&mut self, until: Instant, held: Held) {
        self.held.insert((until, self.next_held), held);
        self.next_held += 1;
        self.count_held();
    }

    /// Ends held commands for which `ends` is true; how many.
    pub(crate) fn drop_held(&mut self, ends: impl Fn(&Held) -> bool) -> usize {
        let before = self.held.len();
        self.held.retain(|_, held| !ends(held));
        self.count_held();
        before - self.held.len()
    }

    pub(crate) fn count_held(&self) {
        self.counters.held.store(self.held.len() as u64, Ordering::Relaxed);
    }
}
