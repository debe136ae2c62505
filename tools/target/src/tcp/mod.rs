//! The pair behind two TCP portals: one thread per node, steered through handles.
//!
//! A handle may be used from any thread. What it asks of a node is done by the node's own thread
//! between two turns and waited for, so that after `kill` returns the connections are gone. Deliberately
//! not here: the turn itself ([`portal`]).

mod portal;

use crate::base::Instant;
use crate::config::PairConfig;
use crate::faults::{AsyncMessage, Faults};
use crate::journal::Journal;
use crate::node::Node;
use crate::pair::{Pair, PairError};
use crate::state::Counters;
use portal::{Mailbox, Order, Portal};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

/// A running pair; dropping it ends both nodes.
pub struct TargetPair {
    pair: Arc<Pair>,
    nodes: [NodeHandle; 2],
    epoch: std::time::Instant,
}

/// One node of a running pair.
pub struct NodeHandle {
    addr: SocketAddr,
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
    faults: Arc<Faults>,
    counters: Arc<Counters>,
}

impl TargetPair {
    /// Opens the medium, binds both portals and starts both threads.
    ///
    /// # Errors
    /// A setting that does not work, a file or an address that cannot be had.
    pub fn start(config: PairConfig) -> Result<TargetPair, PairError> {
        let portals = config.portals;
        let pair = Arc::new(Pair::new(config)?);
        let epoch = std::time::Instant::now();
        let a = NodeHandle::start(&pair, 0, portals[0], epoch)?;
        let b = NodeHandle::start(&pair, 1, portals[1], epoch)?;
        Ok(TargetPair { pair, nodes: [a, b], epoch })
    }

    /// Node 0 or 1.
    ///
    /// # Panics
    /// For any other index.
    #[must_use]
    pub fn node(&self, index: usize) -> &NodeHandle {
        &self.nodes[index]
    }

    /// The journal of both nodes.
    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        self.pair.journal()
    }

    /// The pair behind the portals: its medium, configuration and counts.
    #[must_use]
    pub fn pair(&self) -> &Arc<Pair> {
        &self.pair
    }

    /// The time that the journal goes by.
    #[must_use]
    pub fn now(&self) -> Instant {
        portal::since(self.epoch)
    }
}

impl NodeHandle {
    fn start(
        pair: &Arc<Pair>,
        index: usize,
        addr: SocketAddr,
        epoch: std::time::Instant,
    ) -> Result<NodeHandle, PairError> {
        let failed = |error: io::Error| PairError::Io { what: format!("portal {addr}"), error };
        let portal = Portal::bind(pair.clone(), index, addr, epoch).map_err(failed)?;
        let (addr, mailbox) = (portal.addr(), portal.mailbox().clone());
        let faults = pair.faults(index).clone();
        let waker = mailbox.clone();
        faults.on_change(move || waker.wake());
        let waker = mailbox.clone();
        pair.access().on_change(move || waker.wake());
        let thread = std::thread::Builder::new()
            .name(format!("target-{}", ['a', 'b'][index]))
            .spawn(move || portal.run())
            .map_err(failed)?;
        let counters = pair.counters(index).clone();
        Ok(NodeHandle { addr, mailbox, thread: Some(thread), faults, counters })
    }

    /// Where the node listens (or did, when it is killed); the port is the real one.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The rules of this node.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The counts of this node.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Ends the node like `kill -9`: every connection is reset, the port refuses, what was held is gone.
    pub fn kill(&self) {
        let (done, wait) = channel();
        self.mailbox.send(Order::Kill(done));
        let _ = wait.recv();
    }

    /// Starts a killed node again on the same address.
    ///
    /// # Errors
    /// When the address cannot be bound again.
    pub fn start_again(&self) -> io::Result<()> {
        let (done, wait) = channel();
        self.mailbox.send(Order::Start(done));
        wait.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// Runs `f` on the node between two turns; `None` when it is killed.
    pub fn with<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Node, Instant) -> T + Send + 'static,
    ) -> Option<T> {
        let (done, wait): (_, Receiver<T>) = channel();
        self.mailbox.send(Order::With(Box::new(move |node, now| {
            let _ = done.send(f(node, now));
        })));
        wait.recv().ok()
    }

    /// Resets every connection; the node stays and takes new ones.
    pub fn reset_connections(&self) {
        self.with(|node, _| node.reset_connections());
    }

    /// Executes everything that is held; how much it was.
    pub fn release(&self) -> usize {
        self.with(Node::release).unwrap_or(0)
    }

    /// Sends an Async Message on every session.
    pub fn async_message(&self, message: AsyncMessage) {
        self.with(move |node, now| node.async_message(now, &message));
    }

    /// Gives every session a unit attention.
    pub fn unit_attention(&self, asc: u8, ascq: u8) {
        self.with(move |node, _| node.unit_attention(asc, ascq));
    }

    /// Sessions in the full feature phase; 0 when killed.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.with(|node, _| node.sessions()).unwrap_or(0)
    }
}

impl Drop for NodeHandle {
    fn drop(&mut self) {
        self.mailbox.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}
