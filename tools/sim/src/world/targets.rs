//! The targets' side of the driver: bytes to and from nodes, processes that die and start.

use super::{LOOK_ALIKE, World, theirs};
use crate::net::{Item, Net, pieces, taken};
use mpio_target::faults::{AsyncMessage, Commands, SenseCode};
use mpio_target::node::Action as NodeAction;
use mpio_target::wire::scsi::AccessState;
use mpio_target::{ConnectionId, Fault, Faults, Node, Pair, PairConfig, Record, Rule};
use std::sync::Arc;

impl World {
    pub(super) fn deliver_there(&mut self, id: u32) -> bool {
        let mut moved = false;
        loop {
            let wire = self.wires.get_mut(&id).expect("the caller has its name");
            let net = self.portals[wire.portal].net;
            if self.dark[wire.node] {
                return moved;
            }
            let Some(item) = wire.arrives_there(self.now, net) else { return moved };
            moved = true;
            let (index, connection, boot) = (wire.node, wire.id, wire.boot);
            let alive = boot == self.boots[index];
            let Some(target) = self.nodes[index].as_mut().filter(|_| alive) else {
                // A kernel that knows no such connection says so.
                if wire.open && matches!(item, Item::Bytes(_)) {
                    let due = self.now + self.portals[wire.portal].transit(&mut self.dice);
                    wire.to_volume.push(due, Item::Rst);
                }
                continue;
            };
            let now = theirs(self.now);
            match item {
                Item::Bytes(bytes) => {
                    self.trace.mix(bytes.len() as u64);
                    for piece in bytes.chunks(self.segment) {
                        target.handle_received(now, connection, piece);
                    }
                }
                Item::Fin | Item::Rst => target.handle_closed(now, connection),
            }
        }
    }

    pub(super) fn nodes_turn(&mut self) -> bool {
        let mut moved = false;
        for index in 0..self.nodes.len() {
            let Some(node) = self.nodes[index].as_mut() else { continue };
            node.handle_timeout(theirs(self.now));
            while let Some(action) = self.nodes[index].as_mut().and_then(Node::poll_action) {
                moved = true;
                let (id, item) = match action {
                    NodeAction::Reset(id) => (id, Item::Rst),
                    NodeAction::Close(id) => (id, Item::Fin),
                };
                self.send_of_node(index, id);
                self.push_to_volume(index, id, item);
                let node = self.nodes[index].as_mut().expect("it is there");
                node.handle_closed(theirs(self.now), id);
            }
            while let Some(id) = self.nodes[index].as_mut().and_then(Node::poll_dirty) {
                moved |= self.send_of_node(index, id);
            }
        }
        moved
    }

    fn send_of_node(&mut self, index: usize, id: ConnectionId) -> bool {
        let node = self.nodes[index].as_mut().expect("it is there");
        let Some(tx) = node.tx(id) else { return false };
        let segments = taken(tx);
        for piece in pieces(&segments, self.segment) {
            self.push_to_volume(index, id, Item::Bytes(piece));
        }
        !segments.is_empty()
    }

    fn push_to_volume(&mut self, node: usize, id: ConnectionId, item: Item) {
        let boot = self.boots[node];
        let mut wires = self.wires.values_mut();
        let wire = wires.find(|w| (w.node, w.boot, w.id) == (node, boot, id));
        if let Some(wire) = wire.filter(|w| w.open) {
            let due = self.now + self.portals[wire.portal].transit(&mut self.dice);
            wire.to_volume.push(due, item);
        }
    }

    /// Ends a node like `kill -9`: its kernel resets the connections.
    pub fn kill(&mut self, node: usize) {
        self.power_cut(node);
        self.dark[node] = false;
        for wire in self.wires.values_mut().filter(|w| w.node == node && w.open) {
            let due = self.now + self.portals[wire.portal].transit(&mut self.dice);
            wire.to_volume.push(due, Item::Rst);
        }
    }

    /// A node is gone without a word, and nothing answers at its address.
    pub fn power_cut(&mut self, node: usize) {
        self.nodes[node] = None;
        self.dark[node] = true;
        self.boots[node] += 1;
    }

    /// Starts it again: it has forgotten every session and every command that it held.
    pub fn start(&mut self, node: usize) {
        let seed = u64::from(self.boots[node]) + 1;
        self.dark[node] = false;
        self.nodes[node] = Some(self.pair.node(node, seed));
        self.another[node] = false;
    }

    /// Whatever it is doing, afterwards it runs and shows its own unit.
    pub fn restart_as_itself(&mut self, node: usize) {
        if self.another[node] && self.nodes[node].is_some() {
            self.kill(node);
        }
        if self.nodes[node].is_none() {
            self.start(node);
        }
    }

    /// Starts it as another unit: the LUN behind this target was swapped.
    ///
    /// # Panics
    /// When no such pair can be made.
    pub fn start_as_another(&mut self, node: usize) {
        let impostor = self.impostor.get_or_insert_with(|| {
            let mut config: PairConfig = self.pair.config().clone();
            for node in &mut config.nodes {
                node.identity.serial = "another-0002".to_owned();
                node.identity.naa =
                    Some(vec![0x60, 0, 0, 2, 2, 3, 4, 5, 6, 7, 8, 9, 0xa, 0xb, 0xc, 0xe]);
            }
            Pair::new(config).expect("a pair like the first")
        });
        let seed = u64::from(self.boots[node]) + 1;
        self.dark[node] = false;
        self.nodes[node] = Some(impostor.node(node, seed));
        self.another[node] = true;
    }

    /// Behind a portal stands, from now on, a unit that only looks alike: the same names and numbers, other
    /// content.
    ///
    /// # Panics
    /// When no such pair can be made, or there is a look-alike already.
    pub fn show_look_alike(&mut self, portal: usize) {
        assert!(self.nodes[LOOK_ALIKE].is_none(), "one at a time");
        self.break_wires(portal);
        let pair = self.look_alike.get_or_insert_with(|| {
            let mut config: PairConfig = self.pair.config().clone();
            // The label in its last block.
            config.seed = !config.seed;
            Pair::new(config).expect("a pair like the first")
        });
        let seed = u64::from(self.boots[LOOK_ALIKE]) + 1;
        self.nodes[LOOK_ALIKE] = Some(pair.node(self.setup.portals[portal].node, seed));
        self.portals[portal].node = LOOK_ALIKE;
    }

    /// Behind that portal stands what belongs there.
    pub fn hide_look_alike(&mut self, portal: usize) {
        if self.portals[portal].node == LOOK_ALIKE {
            self.kill(LOOK_ALIKE);
            self.portals[portal].node = self.setup.portals[portal].node;
        }
    }

    /// Whether one stands anywhere.
    #[must_use]
    pub fn has_look_alike(&self) -> bool {
        self.nodes[LOOK_ALIKE].is_some()
    }

    /// How a look-alike was used as if it were the device, if one was.
    #[must_use]
    pub fn merged(&self) -> Option<String> {
        let changed = self.look_alike.as_ref().map_or(0, |pair| pair.journal().count());
        let written = (changed > 0).then(|| format!("{changed} commands have changed it"));
        self.merged.clone().or(written)
    }

    pub(super) fn watch_look_alike(&mut self) {
        if self.nodes[LOOK_ALIKE].is_none() || self.merged.is_some() {
            return;
        }
        for (lane, sockets) in self.socket.iter().enumerate() {
            for (path, wire) in sockets.iter().enumerate() {
                let there = wire.is_some_and(|wire| self.wires[&wire].node == LOOK_ALIKE);
                let state = if there { self.state_on(lane, path) } else { continue };
                if state.carries_io() {
                    self.merged = Some(format!("path {path} of lane {lane} to it is {state}"));
                    return;
                }
            }
        }
    }

    /// The connections through a portal of now are reset from both sides.
    fn break_wires(&mut self, portal: usize) {
        for wire in self.wires.values_mut().filter(|w| w.portal == portal && w.open) {
            let due = self.now + self.portals[portal].transit(&mut self.dice);
            wire.to_target.push(due, Item::Rst);
            wire.to_volume.push(due, Item::Rst);
        }
    }

    /// Whether a node has all that the other one has: else it answers NOT READY, becoming ready.
    pub fn set_synchronized(&mut self, node: usize, is: bool) {
        let rules = [("unready", Commands::Opcode(0)), ("unsynced", Commands::Medium)];
        for (name, commands) in rules {
            let (key, asc, ascq) = (0x2, 0x04, 0x01);
            let rule = Rule::new(Fault::Sense(SenseCode { key, asc, ascq })).on(commands);
            match is {
                true => self.faults(node).remove(name),
                false => self.faults(node).set(name, rule),
            }
        }
    }

    /// Storage with access states serves both nodes' ports, the first one's better.
    pub fn restore_access(&mut self) {
        let served = [AccessState::ActiveOptimized, AccessState::ActiveNonOptimized];
        self.pair.access().set(served);
    }

    /// Everything that was done to targets and network is undone.
    pub fn heal(&mut self) {
        for node in 0..2 {
            self.faults(node).clear();
            self.restart_as_itself(node);
        }
        self.restore_access();
        for portal in 0..self.portals.len() {
            self.hide_look_alike(portal);
            self.set_net(portal, Net::Works);
            self.stall(portal, false);
            self.restore_delay(portal);
        }
    }

    /// A node that runs.
    ///
    /// # Panics
    /// When it does not.
    pub fn node(&mut self, node: usize) -> &mut Node {
        self.nodes[node].as_mut().expect("the node runs")
    }

    /// A node executes what it holds, by the rules that hang commands; how many they were.
    ///
    /// # Panics
    /// When it does not run.
    pub fn release(&mut self, node: usize) -> usize {
        let now = theirs(self.now);
        self.node(node).release(now)
    }

    /// A node that runs sends an Async Message with this event and Parameter3 (seconds, or a CID) on every
    /// session (RFC 7143 section 11.9).
    ///
    /// # Panics
    /// When it does not run.
    pub fn async_message(&mut self, node: usize, event: u8, parameter3: u16) {
        let now = theirs(self.now);
        let message = AsyncMessage { event, parameter3, ..AsyncMessage::default() };
        self.node(node).async_message(now, &message);
    }

    /// The rules of a node, which outlive it.
    #[must_use]
    pub fn faults(&self, node: usize) -> Arc<Faults> {
        self.pair.faults(node).clone()
    }

    /// Executed commands of this operation code on this node.
    #[must_use]
    pub fn executed(&self, node: u8, opcode: u8) -> usize {
        let wanted = |r: &&Record| r.nexus.node == node && r.opcode == opcode;
        self.records().iter().filter(wanted).count()
    }

    /// What the pair has executed.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.pair.journal().records()
    }
}
