//! An NBD client of the volume under test: the project's own client object, in memory.

use super::history::Stamps;
use crate::export::client::{Answer, Client, ClientConfig, ClientError, ClientEvent, Exported};
use crate::volume::ClientId;
use crate::wire::nbd::NbdError;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};

/// One client.
pub(super) struct Peer {
    /// `None` when it was refused or its socket is gone.
    pub(super) id: Option<ClientId>,
    pub(super) client: Client,
    pub(super) export: Option<Exported>,
    pub(super) answers: HashMap<u64, Result<Answer, NbdError>>,
    pub(super) ended: Option<ClientError>,
    /// On its way to the volume, which may not want it yet.
    pub(super) up: VecDeque<Bytes>,
    /// The volume closes the socket when it has sent everything.
    pub(super) closing: bool,
    /// The client reads nothing any more.
    pub(super) deaf: bool,
    /// The client has closed its side.
    pub(super) eof: bool,
    pub(super) sent: u64,
    /// When requests began and ended, for the checker.
    pub(super) stamps: Stamps,
}

impl Peer {
    pub(super) fn new(id: Option<ClientId>, config: ClientConfig) -> Peer {
        Peer {
            id,
            client: Client::new(config),
            export: None,
            answers: HashMap::new(),
            ended: None,
            up: VecDeque::new(),
            closing: false,
            deaf: false,
            eof: false,
            sent: 0,
            stamps: Stamps::default(),
        }
    }

    /// Takes the client's events.
    pub(super) fn poll(&mut self, clock: &mut u64) {
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Ready(export) => self.export = Some(export),
                ClientEvent::Done { token, result } => {
                    *clock += 1;
                    self.stamps.ended(token, *clock);
                    let old = self.answers.insert(token, result);
                    assert!(old.is_none(), "request {token} was answered twice");
                }
                ClientEvent::Closed(error) => self.ended = Some(error),
            }
        }
    }
}
