//! An NBD client: the project's own client object, in memory.

use bytes::Bytes;
use mpio::export::client::{Answer, Client, ClientConfig, ClientError, ClientEvent, Exported};
use mpio::volume::ClientId;
use mpio::wire::nbd::NbdError;
use std::collections::VecDeque;

/// An answer on its way to whoever asked.
#[derive(Debug)]
pub struct Done {
    /// As submitted.
    pub token: u64,
    /// What came.
    pub result: Result<Answer, NbdError>,
}

/// One client.
pub struct Peer {
    /// The lane that it is connected to.
    pub lane: usize,
    /// `None` when it was refused or its socket is gone.
    pub id: Option<ClientId>,
    /// When that came to be, on the clock of begins and ends.
    pub gone: Option<u64>,
    /// The client object.
    pub client: Client,
    /// What the server has told of the export, once open.
    pub export: Option<Exported>,
    /// Answers that nobody has taken yet.
    pub answers: VecDeque<Done>,
    /// How it ended.
    pub ended: Option<ClientError>,
    /// On its way to the volume, which may not want it yet.
    pub up: VecDeque<Bytes>,
    /// The last receive buffer that the volume was given: for the planted bug that uses it again.
    pub buffer: Option<Bytes>,
    /// The volume closes the socket when it has sent everything.
    pub closing: bool,
    /// The client reads nothing any more.
    pub deaf: bool,
    /// The client has closed its side.
    pub eof: bool,
    /// Requests that were numbered for it.
    pub sent: u64,
    /// The completion of a send was lost (a planted bug of the driver).
    pub stuck: bool,
    /// Requests submitted and not answered.
    pub open: usize,
}

impl Peer {
    /// A client that has just connected.
    #[must_use]
    pub fn new(lane: usize, id: Option<ClientId>, config: ClientConfig) -> Peer {
        Peer {
            lane,
            id,
            gone: None,
            client: Client::new(config),
            export: None,
            answers: VecDeque::new(),
            ended: None,
            up: VecDeque::new(),
            buffer: None,
            closing: false,
            deaf: false,
            eof: false,
            sent: 0,
            stuck: false,
            open: 0,
        }
    }

    /// Takes the client's events.
    pub fn poll(&mut self) {
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Ready(export) => self.export = Some(export),
                ClientEvent::Done { token, result } => {
                    self.open = self.open.saturating_sub(1);
                    self.answers.push_back(Done { token, result });
                }
                ClientEvent::Closed(error) => self.ended = Some(error),
            }
        }
    }
}
