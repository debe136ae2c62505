//! A whole target without I/O: connections come and go, bytes and time go in, bytes and actions come out.
//!
//! The order of a driver's turn, which a simulator keeps too:
//! [`accept`](Node::accept), [`handle_received`](Node::handle_received),
//! [`handle_timeout`](Node::handle_timeout) as often as there are events, then
//! [`poll_action`](Node::poll_action) until it is empty, then the queue of every connection that
//! [`poll_dirty`](Node::poll_dirty) names is sent. An action comes before the bytes: a session that takes
//! the place of an older one has ended that one before its own login is answered.
//!
//! ```
//! use mpio_target::{Instant, Pair, PairConfig};
//!
//! let pair = Pair::new(PairConfig::default())?;
//! let mut node = pair.node(0, 7);
//! let id = node.accept(Instant::ZERO, "127.0.0.1:3260".parse()?);
//! node.handle_received(Instant::ZERO, id, &[0; 48]);
//! assert!(node.poll_action().is_some(), "a ping before the login: the connection is reset");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::base::{Duration, Instant, TxQueue};
use crate::connection::{Connection, execute_orphan};
use crate::faults::{Accept, AsyncMessage, Cut, Faults};
pub use crate::state::{ConnectionId, Counters};
use crate::state::{Core, Effect, Held};
use crate::wire::iscsi::codes::tmf_response;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

/// LIO gives a connection up when the data of a write have not come for so long: five times three seconds.
const DATA_OUT_TIMEOUT: Duration = Duration::from_secs(15);

/// What a driver must do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Drop what is queued and reset (RST) it.
    Reset(ConnectionId),
    /// Send what is queued, then close it in order (FIN).
    Close(ConnectionId),
}

/// One target.
pub struct Node {
    core: Core,
    connections: BTreeMap<ConnectionId, Connection>,
    next_id: u32,
    actions: VecDeque<Action>,
    dirty: BTreeSet<ConnectionId>,
    frozen: bool,
    faults: Arc<Faults>,
    /// The version of the access states that sessions have heard of.
    access: u64,
}

impl Node {
    pub(crate) fn new(core: Core, faults: Arc<Faults>) -> Node {
        Node {
            access: core.unit.access().version(),
            core,
            connections: BTreeMap::new(),
            next_id: 0,
            actions: VecDeque::new(),
            dirty: BTreeSet::new(),
            frozen: false,
            faults,
        }
    }

    /// A connection has come; `local` is the address that it came to (what SendTargets tells).
    pub fn accept(&mut self, now: Instant, local: SocketAddr) -> ConnectionId {
        self.take_rules(now);
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        Counters::add(&self.core.counters.connections, 1);
        let fate = self.core.faults.accept();
        let stat_sn = self.core.random.bits() as u32;
        let mut connection = Connection::new(id, local, stat_sn, fate == Accept::Serve);
        if fate == Accept::Refuse {
            connection.apply_cut(Cut::Reset);
            self.actions.push_back(Action::Reset(id));
        }
        self.connections.insert(id, connection);
        id
    }

    /// Bytes have come, in any segmentation. A connection that is gone ignores them.
    pub fn handle_received(&mut self, now: Instant, id: ConnectionId, bytes: &[u8]) {
        self.take_rules(now);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if self.frozen {
            connection.stash(bytes);
            return;
        }
        connection.receive(&mut self.core, now, bytes);
        self.dirty.insert(id);
        self.settle();
    }

    /// The connection is gone: closed by the peer, or as an [`Action`] wanted. What is held lives on.
    pub fn handle_closed(&mut self, _now: Instant, id: ConnectionId) {
        self.dirty.remove(&id);
        let Some(connection) = self.connections.remove(&id) else { return };
        if let Some(key) = connection.session_key()
            && self.core.sessions.get(key).is_some_and(|(owner, _)| *owner == id)
        {
            self.core.sessions.remove(key);
        }
    }

    /// Time has passed, or the rules have changed: executes what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.take_rules(now);
        while !self.frozen
            && let Some(entry) = self.core.held.first_entry()
            && entry.key().0 <= now
        {
            let held = entry.remove();
            self.core.count_held();
            self.run_held(now, &held);
        }
    }

    /// When [`Node::handle_timeout`] is needed next, if ever.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<Instant> {
        let (until, _) = *self.core.held.first_key_value()?.0;
        (until != Instant::MAX && !self.frozen).then_some(until)
    }

    /// The next thing to do with a connection.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A connection that may have something to send; each is named once per change.
    pub fn poll_dirty(&mut self) -> Option<ConnectionId> {
        if self.frozen { None } else { self.dirty.pop_first() }
    }

    /// What a connection has to send; `None` when it is gone.
    pub fn tx(&mut self, id: ConnectionId) -> Option<&mut TxQueue> {
        self.connections.get_mut(&id).map(Connection::tx)
    }

    /// Whether bytes are wanted now: a stopped process leaves them in the kernel.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        !self.frozen
    }

    /// The rules of this node, changed at any time.
    #[must_use]
    pub fn faults(&self) -> &Arc<Faults> {
        &self.faults
    }

    /// Counts, readable while the node runs.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.core.counters
    }

    /// Executes everything that is held, in the order of its arrival; how much it was.
    pub fn release(&mut self, now: Instant) -> usize {
        let mut all: Vec<_> = std::mem::take(&mut self.core.held).into_iter().collect();
        all.sort_by_key(|((_, sequence), _)| *sequence);
        self.core.count_held();
        for (_, held) in &all {
            self.run_held(now, held);
        }
        all.len()
    }

    /// Forgets everything that is held, without an answer; how much it was.
    pub fn drop_held(&mut self) -> usize {
        self.core.drop_held(|_| true)
    }

    /// Commands that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.core.held.len()
    }

    /// Sessions in the full feature phase.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.connections.values().filter(|c| c.is_normal_session()).count()
    }

    /// Sends an Async Message on every normal session.
    pub fn async_message(&mut self, _now: Instant, message: &AsyncMessage) {
        self.each_session(|connection, core| connection.async_message(core, message));
    }

    /// Sends a NOP-In on every normal session; with `wants_answer` it is a ping.
    pub fn ping(&mut self, _now: Instant, wants_answer: bool) {
        self.each_session(|connection, core| connection.nop_in(core, wants_answer));
    }

    /// Gives every normal session a unit attention.
    pub fn unit_attention(&mut self, asc: u8, ascq: u8) {
        self.each_session(|connection, _| connection.attention(asc, ascq));
    }

    /// An administrator of the storage changes the size of the unit, in bytes, up to that of the medium.
    /// Sessions hear of it (2A/09).
    ///
    /// # Panics
    /// When the medium is smaller, or nothing would be left.
    pub fn resize(&mut self, size: u64) {
        self.core.unit.resize(size);
        self.unit_attention(0x2a, 0x09);
    }

    /// The same for the unit's write protection; sessions hear that mode parameters have changed (2A/01).
    pub fn protect(&mut self, protected: bool) {
        self.core.unit.protect(protected);
        self.unit_attention(0x2a, 0x01);
    }

    /// Resets every connection; the node lives on and keeps what it holds.
    pub fn reset_connections(&mut self) {
        self.cut_all(Cut::Reset);
    }

    fn each_session(&mut self, mut f: impl FnMut(&mut Connection, &mut Core)) {
        for (id, connection) in &mut self.connections {
            if connection.is_normal_session() {
                f(connection, &mut self.core);
                self.dirty.insert(*id);
            }
        }
    }

    /// Takes changed rules over and does what follows from the change itself.
    fn take_rules(&mut self, now: Instant) {
        self.take_access();
        if !self.core.faults.refresh() {
            return;
        }
        let thawed = self.frozen && !self.core.faults.frozen();
        self.frozen = self.core.faults.frozen();
        if thawed {
            for (id, connection) in &mut self.connections {
                connection.thaw(&mut self.core, now);
                self.dirty.insert(*id);
            }
            self.settle();
        }
        self.each_session(|connection, core| connection.tell_window(core));
    }

    /// Tells changed access states: 2A/06 for every session but the one that asked for the change.
    fn take_access(&mut self) {
        let access = self.core.unit.access();
        let (version, by) = (access.version(), access.changed_by());
        let before = std::mem::replace(&mut self.access, version);
        if before == version {
            return;
        }
        // With two changes since, the first one's author has missed the second.
        let spared = by.filter(|_| version == before + 1);
        self.each_session(|connection, _| {
            if spared.is_none() || connection.nexus() != spared {
                connection.attention(0x2a, 0x06);
            }
        });
    }

    fn run_held(&mut self, now: Instant, held: &Held) {
        match self.connections.get_mut(&held.connection) {
            Some(connection) if connection.is_full_feature() => {
                let (command, data) = (&held.command, &held.data);
                connection.run(&mut self.core, now, held.received_at, command, data, &held.at);
                self.dirty.insert(held.connection);
                self.settle();
            }
            _ => execute_orphan(&mut self.core, now, held),
        }
    }

    /// Carries out what one connection wants done to others.
    fn settle(&mut self) {
        if self.core.effects.is_empty() {
            return;
        }
        for effect in std::mem::take(&mut self.core.effects) {
            match effect {
                Effect::Cut(id, cut) => self.cut(id, cut),
                Effect::ResetUnit { by } => self.reset_unit(by),
                Effect::TryResetUnit { by, task_tag, now } => self.try_reset(now, by, task_tag),
                Effect::ResetTarget => self.cut_all(Cut::Reset),
            }
        }
    }

    fn cut(&mut self, id: ConnectionId, cut: Cut) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.apply_cut(cut);
        match cut {
            Cut::Reset => self.actions.push_back(Action::Reset(id)),
            Cut::Close => self.actions.push_back(Action::Close(id)),
            Cut::Silence => {}
        }
    }

    fn cut_all(&mut self, cut: Cut) {
        let all: Vec<_> = self.connections.keys().copied().collect();
        for id in all {
            self.cut(id, cut);
        }
    }

    /// LOGICAL UNIT RESET of a target that sticks at writes of other sessions which wait for their data.
    fn try_reset(&mut self, now: Instant, by: ConnectionId, task_tag: u32) {
        let others = self.connections.iter().filter(|(id, _)| **id != by);
        let waiting = others.filter_map(|(id, c)| Some((*id, c.waits_since()?)));
        let (late, stuck): (Vec<_>, Vec<_>) =
            waiting.partition(|(_, since)| now - *since >= DATA_OUT_TIMEOUT);
        for (id, _) in late {
            self.cut(id, Cut::Reset);
        }
        for (id, _) in &stuck {
            self.connections.get_mut(id).expect("it was just there").stick_writes();
        }
        if !stuck.is_empty() {
            let key = self.connections.get(&by).and_then(|c| c.session_key()).cloned();
            self.core.barred.extend(key);
            return;
        }
        self.reset_unit(by);
        if let Some(connection) = self.connections.get_mut(&by) {
            connection.answer_management(&mut self.core, task_tag, tmf_response::COMPLETE);
            self.dirty.insert(by);
        }
    }

    /// LOGICAL UNIT RESET (SAM-5): every task of the unit ends, other sessions find a unit attention.
    fn reset_unit(&mut self, by: ConnectionId) {
        let held = std::mem::take(&mut self.core.held);
        self.core.count_held();
        for held in held.values() {
            if let Some(connection) = self.connections.get_mut(&held.connection) {
                connection.forget_one();
            }
        }
        for (id, connection) in &mut self.connections {
            connection.abort_writes();
            if *id != by && connection.is_normal_session() {
                connection.attention(0x29, 0x03);
            }
        }
    }
}
