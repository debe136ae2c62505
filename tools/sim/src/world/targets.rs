//! The targets' side of the driver: bytes to and from nodes, processes that die and start.

use super::{World, theirs};
use crate::net::{Item, pieces, taken};
use mpio_target::node::Action as NodeAction;
use mpio_target::{ConnectionId, Faults, Node, Pair, PairConfig, Record};
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
        for index in 0..2 {
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

    /// Ends a node like `kill -9`: its kernel resets the connections. `dark`: like a power cut, nothing is
    /// said and nothing answers.
    pub fn kill(&mut self, node: usize, dark: bool) {
        self.nodes[node] = None;
        self.dark[node] = dark;
        for wire in self.wires.values_mut().filter(|w| w.node == node && w.open && !dark) {
            let due = self.now + self.portals[wire.portal].transit(&mut self.dice);
            wire.to_volume.push(due, Item::Rst);
        }
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
            self.kill(node, false);
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

    /// A node that runs.
    ///
    /// # Panics
    /// When it does not.
    pub fn node(&mut self, node: usize) -> &mut Node {
        self.nodes[node].as_mut().expect("the node runs")
    }

    /// The rules of a node, which outlive it.
    #[must_use]
    pub fn faults(&self, node: usize) -> Arc<Faults> {
        self.pair.faults(node).clone()
    }

    /// What the pair has executed.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.pair.journal().records()
    }
}
