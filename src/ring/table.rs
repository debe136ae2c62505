//! The sockets of one ring, by index and generation.

use std::os::fd::OwnedFd;

use bytes::BytesMut;

use super::SockId;
use super::send::SendArea;
use super::socket::Kind;
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;

/// Where a socket is in its life; it only ever moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Open,
    /// Closing in good order: the send in flight is finished first.
    Closing,
    /// Given up: nothing is reported any more but the end.
    Aborting,
}

/// One socket.
pub(super) struct Sock {
    pub(super) fd: OwnedFd,
    pub(super) kind: Kind,
    pub(super) phase: Phase,
    /// Operations of this socket that the kernel has, cancellations included: while there is one, the
    /// descriptor stays open, so that its number cannot come to mean another socket.
    pub(super) in_flight: u32,
    pub(super) receiving: bool,
    pub(super) sending: bool,
    pub(super) cancelled: bool,
    /// The last receive emptied the socket: the next one had better wait before it tries.
    pub(super) drained: bool,
    /// Where the next receive goes; with the operation while one is in flight.
    pub(super) buffer: Option<BytesMut>,
    /// By epoll: bytes asked for by the receive, if one waits.
    pub(super) asked: usize,
    /// By epoll: a receive may find something.
    pub(super) readable: bool,
    /// By epoll: the peer has ended its side; no further event tells of it.
    pub(super) hung: bool,
    /// By epoll: the rest of the send.
    pub(super) rest: Option<Box<SendArea>>,
}

impl Sock {
    pub(super) fn new(fd: OwnedFd, kind: Kind, phase: Phase) -> Sock {
        Sock {
            fd,
            kind,
            phase,
            in_flight: 0,
            receiving: false,
            sending: false,
            cancelled: false,
            drained: false,
            buffer: None,
            asked: 0,
            readable: false,
            hung: false,
            rest: None,
        }
    }
}

struct Entry {
    generation: u32,
    sock: Option<Sock>,
}

/// The table: at most `max` sockets.
pub(super) struct Table {
    entries: Vec<Entry>,
    free: Vec<u32>,
    max: usize,
}

impl Table {
    pub(super) fn new(max: usize) -> Table {
        Table { entries: Vec::with_capacity(max), free: Vec::with_capacity(max), max }
    }

    /// Sockets in the table.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether another socket would not fit.
    fn is_full(&self) -> bool {
        self.len() == self.max
    }

    /// An error when the table is full: a flood must not end the lane.
    pub(super) fn room(&self) -> io::Result<()> {
        if self.is_full() {
            return Err(io::Error::other(format!(
                "this lane has {} sockets, its maximum",
                self.len()
            )));
        }
        Ok(())
    }

    /// A socket that must be open: `what` is done on it.
    pub(super) fn open(&mut self, id: SockId, what: &str) -> &mut Sock {
        let entry = self.get_mut(id).filter(|entry| entry.phase == Phase::Open);
        entry.unwrap_or_else(|| panic!("{what} on {id:?}, which is not open"))
    }

    /// The local address of a TCP socket.
    pub(super) fn local_addr(&self, id: SockId) -> Option<SocketAddr> {
        SockRef::from(&self.get(id)?.fd).local_addr().ok()?.as_socket()
    }

    /// All sockets.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Sock> {
        self.entries.iter().filter_map(|entry| entry.sock.as_ref())
    }

    /// Puts a socket in; the caller has seen that there is room.
    pub(super) fn insert(&mut self, sock: Sock) -> SockId {
        assert!(!self.is_full(), "more than {} sockets", self.max);
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, sock: None });
            (self.entries.len() - 1) as u32
        });
        let entry = &mut self.entries[index as usize];
        assert!(entry.sock.is_none(), "socket {index} is on the free list and in use");
        entry.sock = Some(sock);
        SockId { index, generation: entry.generation }
    }

    /// The socket, unless it has ended.
    pub(super) fn get(&self, id: SockId) -> Option<&Sock> {
        let entry = self.entries.get(id.index as usize)?;
        entry.sock.as_ref().filter(|_| entry.generation == id.generation)
    }

    /// The socket, unless it has ended.
    pub(super) fn get_mut(&mut self, id: SockId) -> Option<&mut Sock> {
        let entry = self.entries.get_mut(id.index as usize)?;
        entry.sock.as_mut().filter(|_| entry.generation == id.generation)
    }

    /// Takes an ended socket out; its id never names a socket again.
    pub(super) fn remove(&mut self, id: SockId) -> Sock {
        let entry = &mut self.entries[id.index as usize];
        assert_eq!(entry.generation, id.generation, "{id:?} has ended already");
        let sock = entry.sock.take().expect("a live id has a socket");
        assert_eq!(sock.in_flight, 0, "{id:?} ends with operations in flight");
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.index);
        sock
    }

    /// The ids of all sockets, for the end of the ring.
    pub(super) fn ids(&self) -> Vec<SockId> {
        let live = self.entries.iter().enumerate().filter(|(_, entry)| entry.sock.is_some());
        live.map(|(i, entry)| SockId { index: i as u32, generation: entry.generation }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sock() -> Sock {
        let (one, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        Sock::new(one.into(), Kind::Other, Phase::Open)
    }

    #[test]
    fn an_old_id_finds_nothing() {
        let mut table = Table::new(1);
        let old = table.insert(sock());
        assert!(table.is_full() && table.get(old).is_some());
        drop(table.remove(old));
        let new = table.insert(sock());
        assert_eq!(old.index, new.index);
        assert!(table.get(old).is_none() && table.get_mut(new).is_some());
        assert_eq!((table.ids(), table.len()), (vec![new], 1));
    }

    #[test]
    #[should_panic(expected = "operations in flight")]
    fn a_socket_with_operations_in_flight_does_not_end() {
        let mut table = Table::new(1);
        let id = table.insert(sock());
        table.get_mut(id).expect("it is there").in_flight = 1;
        drop(table.remove(id));
    }
}
