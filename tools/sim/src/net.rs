//! The network between paths and targets: portals, and connections as two queues of bytes that arrive
//! late but in order.

use crate::dice::Dice;
use bytes::{Bytes, BytesMut};
use mpio::base::{Duration, Instant, TxQueue};
use mpio_target::ConnectionId;
use std::collections::VecDeque;

/// What a portal does to connections and to new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// All is well.
    Works,
    /// Nothing arrives any more, in either direction; nobody is told.
    Silent,
    /// Nothing arrives at the target; what it sends arrives.
    NothingThere,
    /// Nothing arrives from the target.
    NothingBack,
    /// New connections are refused; what is there works.
    Refuses,
}

impl Net {
    fn to_target(self) -> bool {
        matches!(self, Net::Works | Net::NothingBack | Net::Refuses)
    }

    fn to_volume(self) -> bool {
        matches!(self, Net::Works | Net::NothingThere | Net::Refuses)
    }
}

/// Where a path may connect to.
#[derive(Debug, Clone)]
pub struct Portal {
    /// The node behind it.
    pub node: usize,
    /// What it does.
    pub net: Net,
    /// One way.
    pub delay: Duration,
    /// What may come on top, for each send.
    pub jitter: Duration,
    /// One send in so many is lost once and comes a retransmission later; 0 for none.
    pub loss_one_in: u64,
    /// Bytes that a socket takes from the volume while they are not delivered.
    pub send_buffer: usize,
}

/// Portals that are 100 µs away, each of one of these nodes.
#[must_use]
pub fn ways(nodes: &[usize]) -> Vec<Portal> {
    nodes.iter().map(|node| Portal::new(*node)).collect()
}

/// The shortest time after which TCP sends again.
const RETRANSMISSION: Duration = Duration::from_millis(200);

impl Portal {
    /// A portal of that node, 100 µs away.
    #[must_use]
    pub fn new(node: usize) -> Portal {
        Portal {
            node,
            net: Net::Works,
            delay: Duration::from_micros(100),
            jitter: Duration::ZERO,
            loss_one_in: 0,
            send_buffer: 4 << 20,
        }
    }

    /// How long the next send is under way.
    pub fn transit(&self, dice: &mut Dice) -> Duration {
        let mut transit = self.delay;
        if !self.jitter.is_zero() {
            transit += Duration::from_nanos(dice.below(self.jitter.as_nanos() as u64));
        }
        if self.loss_one_in > 0 && dice.one_in(self.loss_one_in) {
            transit += RETRANSMISSION;
        }
        transit
    }
}

/// What travels.
#[derive(Debug, Clone)]
pub enum Item {
    /// Bytes.
    Bytes(Bytes),
    /// The sender has closed.
    Fin,
    /// The sender has reset.
    Rst,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Pipe {
    queue: VecDeque<(Instant, Item)>,
}

impl Pipe {
    /// Sends something that arrives at `due`, or behind what was sent before.
    pub fn push(&mut self, due: Instant, item: Item) {
        let last = self.queue.back().map_or(Instant::ZERO, |(at, _)| *at);
        self.queue.push_back((due.max(last), item));
    }

    /// The next thing if it is due.
    pub fn pop(&mut self, now: Instant) -> Option<Item> {
        let due = self.queue.front().is_some_and(|(at, _)| *at <= now);
        due.then(|| self.queue.pop_front().map(|(_, item)| item)).flatten()
    }

    /// When the next thing arrives.
    #[must_use]
    pub fn next(&self) -> Instant {
        self.queue.front().map_or(Instant::MAX, |(at, _)| *at)
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Things under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Loses everything behind the first `keep` things.
    pub fn truncate(&mut self, keep: usize) {
        self.queue.truncate(keep);
    }

    /// The bytes under way.
    pub fn bytes_mut(&mut self) -> impl Iterator<Item = &mut Bytes> {
        self.queue.iter_mut().filter_map(|(_, item)| match item {
            Item::Bytes(bytes) => Some(bytes),
            Item::Fin | Item::Rst => None,
        })
    }
}

/// One connection. It outlives the volume's socket: what was sent may still arrive.
#[derive(Debug)]
pub struct Wire {
    /// Through which portal.
    pub portal: usize,
    /// To which node.
    pub node: usize,
    /// The node's process at the time of the connection: a node that was killed knows it no more.
    pub boot: u32,
    /// The node's name for it.
    pub id: ConnectionId,
    /// Whose it is: lane and path.
    pub owner: (usize, usize),
    /// The volume still has its socket.
    pub open: bool,
    /// Towards the node.
    pub to_target: Pipe,
    /// Towards the volume.
    pub to_volume: Pipe,
    /// Bytes towards the target wait in the network, for ever or until this is cleared.
    pub stalled: bool,
    /// The volume has more to send than the socket takes.
    pub blocked: bool,
    /// A send whose completion was lost: nothing is sent any more (a planted bug of the driver).
    pub stuck: bool,
    /// Bytes under way to the target.
    pub bytes_out: usize,
}

impl Wire {
    /// Takes what the queue has, as far as the socket does. Returns bytes taken.
    pub fn send(
        &mut self,
        now: Instant,
        portal: &Portal,
        dice: &mut Dice,
        tx: &mut TxQueue,
    ) -> usize {
        let mut segments: Vec<Bytes> = Vec::new();
        let mut taken = 0;
        while !self.stuck && self.bytes_out < portal.send_buffer && tx.take(1, &mut segments) > 0 {
            for segment in segments.drain(..) {
                taken += segment.len();
                self.bytes_out += segment.len();
                let due = now + portal.transit(dice);
                self.to_target.push(due, Item::Bytes(segment));
            }
        }
        self.blocked = !tx.is_empty();
        taken
    }

    /// When the next thing arrives; at the target only, if the volume stands still.
    #[must_use]
    pub fn next(&self, net: Net, paused: bool) -> Instant {
        let to_target =
            if self.stalled || !net.to_target() { Instant::MAX } else { self.to_target.next() };
        let hears = net.to_volume() && !paused;
        let to_volume = if hears { self.to_volume.next() } else { Instant::MAX };
        to_target.min(to_volume)
    }

    /// What arrives at the target now.
    pub fn arrives_there(&mut self, now: Instant, net: Net) -> Option<Item> {
        if self.stalled || !net.to_target() {
            return None;
        }
        let item = self.to_target.pop(now)?;
        if let Item::Bytes(bytes) = &item {
            self.bytes_out -= bytes.len();
        }
        Some(item)
    }

    /// What arrives at the volume now.
    pub fn arrives_here(&mut self, now: Instant, net: Net) -> Option<Item> {
        if net.to_volume() { self.to_volume.pop(now) } else { None }
    }
}

/// What a node has to send.
pub fn taken(tx: &mut mpio_target::base::TxQueue) -> Vec<Bytes> {
    let mut segments = Vec::new();
    while tx.take(1024, &mut segments) > 0 {}
    segments
}

/// Everything in one piece, as a receive would find it; pieces of `most` bytes.
#[must_use]
pub fn pieces(segments: &[Bytes], most: usize) -> Vec<Bytes> {
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
