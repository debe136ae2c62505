//! The sockets of a lane: which socket of the ring is which endpoint of which device, and what is in
//! flight on it. Looked up by small numbers, both ways, several times a turn.

use crate::limits::PATHS_PER_DEVICE_MAX;
use crate::ring::{Connect, SockId};
use crate::volume::Endpoint;
use bytes::Bytes;
use slab::Slab;
use smallvec::SmallVec;

/// One socket of a device.
pub(super) struct Socket {
    pub(super) id: SockId,
    pub(super) device: usize,
    pub(super) endpoint: Endpoint,
    pub(super) connected: bool,
    /// Where it connects to, until it has: for the message when it does not.
    pub(super) connect: Option<Box<Connect>>,
    pub(super) receiving: bool,
    /// The receive was not armed again because the volume wanted no input.
    pub(super) paused: bool,
    pub(super) sending: bool,
    /// The peer sends no more, or the socket is broken: there is nothing to receive.
    pub(super) ended: bool,
    /// A send failed: nothing can be sent any more.
    pub(super) broken: bool,
    /// Close once everything has been sent.
    pub(super) closing: bool,
    /// Given to the ring to be closed: nothing more is asked of it.
    pub(super) gone: bool,
    /// The segment list of the last send, for the next one.
    pub(super) spare: Vec<Bytes>,
}

/// All sockets of a lane.
#[derive(Default)]
pub(super) struct Sockets {
    entries: Slab<Socket>,
    /// Places by the ring's number. Rarely more than one: the ring uses a number again while we have not
    /// yet been told that the old socket has ended.
    by_number: Vec<SmallVec<[(SockId, Slot); 1]>>,
}

impl Sockets {
    pub(super) fn insert(
        &mut self,
        id: SockId,
        device: usize,
        endpoint: Endpoint,
        connected: bool,
    ) -> Slot {
        let slot = Slot(self.entries.insert(Socket {
            id,
            device,
            endpoint,
            connected,
            connect: None,
            receiving: false,
            paused: false,
            sending: false,
            ended: false,
            broken: false,
            closing: false,
            gone: false,
            spare: Vec::new(),
        }));
        if self.by_number.len() <= id.index() {
            self.by_number.resize_with(id.index() + 1, SmallVec::new);
        }
        self.by_number[id.index()].push((id, slot));
        slot
    }

    fn slot(&self, id: SockId) -> Option<Slot> {
        let places = self.by_number.get(id.index())?;
        places.iter().find(|(other, _)| *other == id).map(|(_, slot)| *slot)
    }

    /// The socket that a completion is about.
    pub(super) fn by_id(&mut self, id: SockId) -> Option<&mut Socket> {
        let slot = self.slot(id)?;
        Some(self.get_mut(slot))
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> &mut Socket {
        self.entries.get_mut(slot.0).expect("a device's index names sockets that exist")
    }

    pub(super) fn remove(&mut self, id: SockId) {
        let slot = self.slot(id).expect("a socket ends once");
        self.by_number[id.index()].retain(|(other, _)| *other != id);
        let socket = self.entries.remove(slot.0);
        assert_eq!(socket.id, id, "the socket that ended is the one that was removed");
    }
}

/// Place of a socket in [`Sockets`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(usize);

/// A device's sockets by endpoint.
#[derive(Default)]
pub(super) struct Index {
    paths: [Option<Slot>; PATHS_PER_DEVICE_MAX],
    clients: Vec<Option<Slot>>,
    /// Sockets whose receive has to be armed at the end of the turn.
    pub(super) rearm: Vec<Slot>,
    /// Sockets whose send completed in this turn.
    pub(super) resend: Vec<Slot>,
    /// Sockets whose receive waits until the volume wants input again.
    pub(super) paused: Vec<Slot>,
}

impl Index {
    fn place(&mut self, endpoint: Endpoint) -> &mut Option<Slot> {
        match endpoint {
            Endpoint::Path(path) => &mut self.paths[path.get()],
            Endpoint::Client(client) => {
                if self.clients.len() <= client.slot() {
                    self.clients.resize(client.slot() + 1, None);
                }
                &mut self.clients[client.slot()]
            }
        }
    }

    pub(super) fn insert(&mut self, endpoint: Endpoint, slot: Slot) {
        let old = self.place(endpoint).replace(slot);
        assert!(old.is_none(), "an endpoint has one socket at a time");
    }

    pub(super) fn get(&mut self, endpoint: Endpoint) -> Option<Slot> {
        *self.place(endpoint)
    }

    /// Forgets a socket that has ended, in the lists of this turn too: its number may be used again.
    pub(super) fn remove(&mut self, endpoint: Endpoint) {
        let Some(slot) = self.place(endpoint).take() else { return };
        for list in [&mut self.rearm, &mut self.resend, &mut self.paused] {
            list.retain(|other| *other != slot);
        }
    }
}
