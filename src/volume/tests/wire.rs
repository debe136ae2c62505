//! One iSCSI connection between a path and a node: two queues of bytes that arrive after a delay.

use crate::base::{Duration, Instant, TxQueue};
use bytes::{Bytes, BytesMut};
use mpio_target::node::ConnectionId;
use std::collections::VecDeque;

/// What a portal does to connections and to new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Net {
    Works,
    /// Nothing arrives any more, in either direction; nobody is told.
    Silent,
    /// New connections are refused; what is there works.
    Refuses,
}

/// Where a path may connect to.
pub(super) struct Portal {
    pub(super) node: usize,
    pub(super) net: Net,
    pub(super) delay: Duration,
    /// Bytes that a socket takes from the volume while they are not delivered.
    pub(super) send_buffer: usize,
}

/// What travels.
pub(super) enum Item {
    Bytes(Bytes),
    Fin,
    Rst,
}

/// One connection. It outlives the volume's socket: what was sent may still arrive.
pub(super) struct Wire {
    pub(super) portal: usize,
    pub(super) node: usize,
    /// The node's process at the time of the connection: a node that was killed knows it no more.
    pub(super) boot: u32,
    pub(super) id: ConnectionId,
    /// The volume still has its socket.
    pub(super) open: bool,
    pub(super) to_target: VecDeque<(Instant, Item)>,
    pub(super) to_volume: VecDeque<(Instant, Item)>,
    /// Bytes towards the target wait in the network, for ever or until this is cleared.
    pub(super) stalled: bool,
    /// The volume has more to send than the socket takes.
    pub(super) blocked: bool,
    pub(super) bytes_out: usize,
}

impl Wire {
    /// Takes what the queue has, as far as the socket does.
    pub(super) fn send(&mut self, due: Instant, room: usize, tx: &mut TxQueue) -> bool {
        let mut segments: Vec<Bytes> = Vec::new();
        let mut moved = false;
        while self.bytes_out < room && tx.take(1, &mut segments) > 0 {
            for segment in segments.drain(..) {
                self.bytes_out += segment.len();
                self.to_target.push_back((due, Item::Bytes(segment)));
            }
            moved = true;
        }
        self.blocked = !tx.is_empty();
        moved
    }

    /// When the next thing arrives; at the target only, if the volume stands still.
    pub(super) fn next(&self, paused: bool) -> Instant {
        let to_target = self.to_target.front().filter(|_| !self.stalled).map(|(at, _)| *at);
        let to_volume = self.to_volume.front().filter(|_| !paused).map(|(at, _)| *at);
        to_target.into_iter().chain(to_volume).min().unwrap_or(Instant::MAX)
    }
}

/// What a node has to send.
pub(super) fn taken(tx: &mut mpio_target::base::TxQueue) -> Vec<Bytes> {
    let mut segments = Vec::new();
    while tx.take(1024, &mut segments) > 0 {}
    segments
}

/// Everything in one piece, as a receive would find it; pieces of `most` bytes.
pub(super) fn pieces(segments: &[Bytes], most: usize) -> Vec<Bytes> {
    let mut all = BytesMut::new();
    for segment in segments {
        all.extend_from_slice(segment);
    }
    let mut all = all.freeze();
    let mut out = Vec::new();
    while !all.is_empty() {
        out.push(all.split_to(most.min(all.len())));
    }
    out
}
