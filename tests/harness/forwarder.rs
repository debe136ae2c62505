//! A network that is late: a TCP forwarder between an initiator and a target whose bytes can be held,
//! delayed or lost, each connection by itself.
//!
//! Both ends are read eagerly, so what a side has sent is on its way from then on, whatever becomes of the side:
//! bytes of a connection that the initiator has closed or reset meanwhile are still delivered, in order, and its
//! end (as FIN) after them. This is what packets delayed in a network do, and what makes a zombie. The target is
//! connected to when the first byte is let through, so that a login that is held has not reached it.
//!
//! Deliberately not here: bytes out of order within a connection (TCP hides that), and bandwidth.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What happens to the bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They are delivered after this time, in order.
    Delay(Duration),
    /// They wait until another fate is given.
    Hold,
    /// They are lost, and nobody is told: what was held is lost with them.
    Lose,
    /// New connections are closed at once; for those that there are, the same as [`Fate::Lose`].
    Refuse,
}

/// Bytes arrive at once.
pub const PASS: Fate = Fate::Delay(Duration::ZERO);

/// A running forwarder; its connections end with it.
pub struct Forwarder {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    stop: bool,
    /// Fate of connections that are yet to come.
    new: Fate,
    connections: Vec<Connection>,
}

struct Connection {
    fate: Fate,
    /// Towards the target, and back.
    ways: [Way; 2],
    sockets: Vec<TcpStream>,
}

#[derive(Default)]
struct Way {
    queue: VecDeque<(Instant, Vec<u8>)>,
    /// The sender has closed; told after the last byte.
    ended: bool,
    delivered: usize,
}

const TO_TARGET: usize = 0;
const TO_INITIATOR: usize = 1;

impl Forwarder {
    /// Listens on a port of its own at `address` and connects to `target`.
    #[track_caller]
    pub fn start(address: &str, target: &str) -> Forwarder {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let shared = Arc::new(Shared {
            target: target.parse().unwrap(),
            state: Mutex::new(State { stop: false, new: PASS, connections: Vec::new() }),
            changed: Condvar::new(),
        });
        let address = listener.local_addr().unwrap();
        let served = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !served.clone().serve(client) {
                    return;
                }
            }
        });
        Forwarder { address, shared }
    }

    /// Gives a fate to every connection that there is, and leaves those that come later as they were to be.
    pub fn present(&self, fate: Fate) {
        let mut state = self.shared.lock();
        for connection in &mut state.connections {
            connection.fate = fate;
            if matches!(fate, Fate::Lose | Fate::Refuse) {
                connection.ways.iter_mut().for_each(|way| way.queue.clear());
            }
        }
        self.shared.changed.notify_all();
    }

    /// Gives a fate to the connections that are yet to come.
    pub fn future(&self, fate: Fate) {
        self.shared.lock().new = fate;
    }

    /// Gives a fate to all, present and future.
    pub fn all(&self, fate: Fate) {
        self.future(fate);
        self.present(fate);
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.lock().connections.len()
    }

    /// Bytes that wait on their way to the target.
    pub fn waiting(&self) -> usize {
        let state = self.shared.lock();
        let queues = state.connections.iter().map(|connection| &connection.ways[TO_TARGET].queue);
        queues.flatten().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Bytes that connection `index` has brought back from the target.
    pub fn brought_back(&self, index: usize) -> usize {
        let state = self.shared.lock();
        state.connections.get(index).map_or(0, |c| c.ways[TO_INITIATOR].delivered)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stop = true;
        for socket in state.connections.iter().flat_map(|connection| &connection.sockets) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
        drop(state);
        // The listener wakes up, sees that it is over, and closes.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection of an initiator; `false` when the forwarder is gone.
    fn serve(self: Arc<Shared>, client: TcpStream) -> bool {
        let (reader, writer) = (client.try_clone().unwrap(), client.try_clone().unwrap());
        let _ = client.set_nodelay(true);
        let mut state = self.lock();
        if state.stop {
            return false;
        }
        let index = state.connections.len();
        let fate = state.new;
        if fate == Fate::Refuse {
            return true;
        }
        state.connections.push(Connection {
            fate,
            ways: Default::default(),
            sockets: vec![client],
        });
        drop(state);
        let shared = self.clone();
        std::thread::spawn(move || shared.read(index, TO_TARGET, reader));
        std::thread::spawn(move || self.reach_target(index, writer));
        true
    }

    /// Connects to the target once something may get through, then delivers.
    fn reach_target(self: Arc<Shared>, index: usize, client: TcpStream) {
        let Some(first) = self.next(index, TO_TARGET) else { return };
        let Ok(target) = TcpStream::connect(self.target) else {
            let _ = client.shutdown(Shutdown::Both);
            return;
        };
        let _ = target.set_nodelay(true);
        let mut state = self.lock();
        state.connections[index].sockets.push(target.try_clone().unwrap());
        if state.stop {
            let _ = target.shutdown(Shutdown::Both);
        }
        drop(state);
        let (reader, shared) = (target.try_clone().unwrap(), self.clone());
        std::thread::spawn(move || shared.read(index, TO_INITIATOR, reader));
        let shared = self.clone();
        std::thread::spawn(move || shared.write(index, TO_INITIATOR, client, None));
        self.write(index, TO_TARGET, target, Some(first));
    }

    /// Takes what comes, at once and whatever the fate, to the end.
    fn read(&self, index: usize, way: usize, mut from: TcpStream) {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut chunk).unwrap_or(0);
            let mut state = self.lock();
            let connection = &mut state.connections[index];
            if read == 0 {
                connection.ways[way].ended = true;
            } else if !matches!(connection.fate, Fate::Lose | Fate::Refuse) {
                connection.ways[way].queue.push_back((Instant::now(), chunk[..read].to_vec()));
            }
            self.changed.notify_all();
            if read == 0 || state.stop {
                return;
            }
        }
    }

    fn write(&self, index: usize, way: usize, mut to: TcpStream, mut next: Option<Vec<u8>>) {
        while let Some(bytes) = next.take().or_else(|| self.next(index, way)) {
            // A side that is gone reads nothing more; the rest is lost like in a network.
            let _ = to.write_all(&bytes);
        }
        let _ = to.shutdown(Shutdown::Write);
    }

    /// The next bytes that are due; `None` at the end.
    fn next(&self, index: usize, way: usize) -> Option<Vec<u8>> {
        let mut state = self.lock();
        loop {
            if state.stop {
                return None;
            }
            let connection = &mut state.connections[index];
            let queue = &mut connection.ways[way];
            let due = match (connection.fate, queue.queue.front()) {
                (Fate::Delay(delay), Some((at, _))) => Some(*at + delay),
                (Fate::Delay(_), None) if queue.ended => return None,
                _ => None,
            };
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            let (guard, left) = match left {
                Some(Duration::ZERO) => {
                    let (_, bytes) = queue.queue.pop_front()?;
                    queue.delivered += bytes.len();
                    return Some(bytes);
                }
                left => (state, left.unwrap_or(Duration::from_secs(3600))),
            };
            let woken = self.changed.wait_timeout(guard, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
