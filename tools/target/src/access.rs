//! Asymmetric access of the pair: how good each node's ports are, as the storage decides at run time.
//!
//! One table for both nodes, as the controllers of an array share it: a change is seen by REPORT TARGET PORT
//! GROUPS on both, and each session of both finds the unit attention 2A/06, but for the one whose SET TARGET
//! PORT GROUPS made it. The table outlives a node that is killed.

use crate::config::Abilities;
use crate::journal::Nexus;
use crate::wire::scsi::AccessState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a node's RTPG does instead of telling the truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lie {
    /// Answers with these bytes, cut to the allocation length.
    Answer(Vec<u8>),
    /// Refuses the extended header (05/24/00).
    NoExtendedHeader,
    /// Refuses the command (05/20/00).
    NoCommand,
}

/// A group as the table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    pub state: AccessState,
    pub preferred: bool,
    /// STATUS CODE of its descriptor.
    pub status: u8,
}

#[derive(Debug, Default)]
struct Table {
    /// By node; `None` has no ALUA.
    groups: [Option<Group>; 2],
    lies: [Option<Lie>; 2],
    /// Who made the last change, if it was an initiator.
    by: Option<Nexus>,
}

/// The access states of the pair; changed from any thread while it runs.
pub struct Access {
    table: Mutex<Table>,
    version: AtomicU64,
    /// Wakes the nodes.
    listeners: Mutex<Vec<Arc<dyn Fn() + Send + Sync>>>,
}

impl Access {
    pub(crate) fn new(abilities: [&Abilities; 2]) -> Access {
        let group = |a: &Abilities| {
            let state = AccessState::from_bits(a.alua?);
            let preferred = state == AccessState::ActiveOptimized;
            Some(Group { state, preferred, status: 0 })
        };
        let table = Table { groups: abilities.map(group), ..Table::default() };
        Access { table: Mutex::new(table), version: AtomicU64::new(0), listeners: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        listeners.iter().for_each(|listener| listener());
    }

    /// Calls `listener` after each change.
    pub(crate) fn on_change(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(listener));
    }

    /// The storage changes the access states of its own accord; a node without ALUA keeps none. All sessions
    /// hear of it (2A/06).
    pub fn set(&self, states: [AccessState; 2]) {
        let mut table = self.table();
        for (group, state) in table.groups.iter_mut().zip(states) {
            if let Some(group) = group {
                (group.state, group.status) = (state, 2);
            }
        }
        table.by = None;
        drop(table);
        self.changed();
    }

    /// The same without telling anybody: storage that forgets its duty.
    pub fn set_silently(&self, states: [AccessState; 2]) {
        let mut table = self.table();
        for (group, state) in table.groups.iter_mut().zip(states) {
            if let Some(group) = group {
                group.state = state;
            }
        }
    }

    /// PREF is set for the group of this node only, or for none.
    pub fn prefer(&self, node: Option<usize>) {
        let mut table = self.table();
        for (index, group) in table.groups.iter_mut().enumerate() {
            if let Some(group) = group {
                group.preferred = node == Some(index);
            }
        }
        table.by = None;
        drop(table);
        self.changed();
    }

    /// The states now; `None` for a node without ALUA.
    #[must_use]
    pub fn states(&self) -> [Option<AccessState>; 2] {
        self.table().groups.map(|group| group.map(|group| group.state))
    }

    /// What REPORT TARGET PORT GROUPS of this node does instead of telling the truth.
    pub fn lie(&self, node: usize, lie: Option<Lie>) {
        self.table().lies[node] = lie;
    }

    pub(crate) fn lie_of(&self, node: usize) -> Option<Lie> {
        self.table().lies[node].clone()
    }

    pub(crate) fn group(&self, node: usize) -> Option<Group> {
        self.table().groups[node]
    }

    /// SET TARGET PORT GROUPS: this node's group gets the state. One that was optimized makes way for another
    /// that becomes it.
    pub(crate) fn set_by(&self, nexus: Nexus, node: usize, state: AccessState) {
        let mut table = self.table();
        let Some(group) = table.groups[node] else { return };
        if group.state == state {
            return;
        }
        if let Some(other) = &mut table.groups[1 - node]
            && state == AccessState::ActiveOptimized
            && other.state == AccessState::ActiveOptimized
        {
            (other.state, other.status) = (group.state, 1);
        }
        table.groups[node] = Some(Group { state, status: 1, ..group });
        table.by = Some(nexus);
        drop(table);
        self.changed();
    }

    /// Changes whenever an attention is due.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Who made the last change, if it was an initiator.
    pub(crate) fn changed_by(&self) -> Option<Nexus> {
        self.table().by
    }
}
