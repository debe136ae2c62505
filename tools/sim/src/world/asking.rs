//! What clients do, for who drives a world by hand: connect, ask, wait for answers, go.

use super::{Finished, World};
use crate::check;
use crate::peer::Peer;
use mpio::base::Payload;
use mpio::export::client::{Answer, ClientConfig, Op};
use mpio::volume::{Census, ClientId, Endpoint};
use mpio::wire::nbd::{Command, NbdError};

impl World {
    /// A client that has just connected to a lane of a daemon that runs.
    pub fn connect(&mut self, lane: usize, config: ClientConfig) -> usize {
        let at = self.at();
        let id = self.volumes[lane].handle_client(at);
        self.awake[lane] = true;
        self.peers.push(Peer::new(lane, id, config));
        self.peers.len() - 1
    }

    /// A client of the first lane that has opened the export.
    pub fn client(&mut self) -> usize {
        self.client_on(0)
    }

    /// A client that has opened the export.
    ///
    /// # Panics
    /// When the export does not open.
    pub fn client_on(&mut self, lane: usize) -> usize {
        let peer = self.connect(lane, ClientConfig::new("vm0"));
        self.until("the export opens", |w| w.peers[peer].export.is_some());
        peer
    }

    /// Sends a request without waiting; when it began, on the clock of begins and ends.
    pub fn submit(&mut self, peer: usize, token: u64, op: Op) -> u64 {
        self.clock += 1;
        let peer = &mut self.peers[peer];
        peer.open += 1;
        peer.client.submit(token, op);
        self.clock
    }

    /// The next answer.
    pub fn finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    /// Takes a client's events, with when they came.
    pub(super) fn collect(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        peer.poll();
        while let Some(done) = peer.answers.pop_front() {
            self.clock += 1;
            self.used |= done.result.is_ok();
            self.finished.push_back(Finished {
                peer: index,
                token: done.token,
                stamp: self.clock,
                journal: self.pair.journal().count(),
                at: self.now,
                result: done.result,
            });
        }
    }

    /// The client reads again.
    ///
    /// # Panics
    /// When it is not connected.
    pub fn hear(&mut self, peer: usize) {
        let peer = &mut self.peers[peer];
        peer.deaf = false;
        let (lane, id) = (peer.lane, peer.id.expect("it is connected"));
        self.transmit(lane, Endpoint::Client(id));
    }

    /// The client is gone without a word: its socket is broken.
    pub fn vanish(&mut self, peer: usize) {
        let at = self.at();
        let peer = &mut self.peers[peer];
        let Some(id) = peer.id else { return };
        peer.deaf = true;
        peer.up.clear();
        let error = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let lane = peer.lane;
        self.volumes[lane].handle_disconnected(at, Endpoint::Client(id), Some(&error));
        self.awake[lane] = true;
    }

    /// Its socket is gone; an answer that it has not seen is none.
    pub(super) fn gone(&mut self, peer: usize) {
        self.clock += 1;
        self.peers[peer].id = None;
        self.peers[peer].gone = Some(self.clock);
    }

    /// Something was done to a lane's volume from outside: it gets a turn.
    pub fn wake(&mut self, lane: usize) {
        self.awake[lane] = true;
    }

    pub(super) fn peer_of(&mut self, lane: usize, id: ClientId) -> Option<usize> {
        self.peers.iter().rposition(|p| p.lane == lane && p.id == Some(id))
    }

    // --- requests

    /// Sends a request without waiting; its token.
    pub fn ask(&mut self, peer: usize, op: Op) -> u64 {
        self.peers[peer].sent += 1;
        let token = self.peers[peer].sent;
        self.submit(peer, token, op);
        token
    }

    /// Begins a write.
    pub fn start_write(&mut self, peer: usize, offset: u64, data: Vec<u8>) -> u64 {
        self.ask(peer, Op::Write { offset, data: Payload::from(data), fua: false })
    }

    /// Begins a read.
    pub fn start_read(&mut self, peer: usize, offset: u64, len: u32) -> u64 {
        self.ask(peer, Op::Read { offset, len })
    }

    /// Answers that a client has got and nobody has taken yet.
    pub fn answers(&self, peer: usize) -> impl Iterator<Item = &Finished> {
        self.finished.iter().filter(move |done| done.peer == peer)
    }

    /// One of them.
    #[must_use]
    pub fn told(&self, peer: usize, token: u64) -> Option<&Result<Answer, NbdError>> {
        self.answers(peer).find(|done| done.token == token).map(|done| &done.result)
    }

    /// Whether a request was answered.
    #[must_use]
    pub fn is_done(&self, peer: usize, token: u64) -> bool {
        self.told(peer, token).is_some()
    }

    /// Takes its answer.
    pub fn take(&mut self, peer: usize, token: u64) -> Option<Result<Answer, NbdError>> {
        let wanted = |done: &Finished| (done.peer, done.token) == (peer, token);
        let place = self.finished.iter().position(wanted)?;
        self.finished.remove(place).map(|done| done.result)
    }

    /// Waits for it.
    ///
    /// # Errors
    /// What the client was told.
    ///
    /// # Panics
    /// When none comes.
    pub fn answer(&mut self, peer: usize, token: u64) -> Result<Answer, NbdError> {
        self.until("the answer", |w| w.is_done(peer, token));
        self.take(peer, token).expect("just seen")
    }

    /// Writes.
    ///
    /// # Errors
    /// What the client was told.
    pub fn write(&mut self, peer: usize, offset: u64, data: &[u8]) -> Result<(), NbdError> {
        let token = self.start_write(peer, offset, data.to_vec());
        self.answer(peer, token).map(drop)
    }

    /// Reads.
    ///
    /// # Errors
    /// What the client was told.
    ///
    /// # Panics
    /// When the answer is none to a read.
    pub fn read(&mut self, peer: usize, offset: u64, len: u32) -> Result<Vec<u8>, NbdError> {
        let token = self.start_read(peer, offset, len);
        match self.answer(peer, token)? {
            Answer::Data(data) => Ok(data.to_vec()),
            other => panic!("READ answered with {other:?}"),
        }
    }

    /// Anything else.
    ///
    /// # Errors
    /// What the client was told.
    pub fn other(
        &mut self,
        peer: usize,
        command: Command,
        flags: u16,
        offset: u64,
        len: u32,
    ) -> Result<Answer, NbdError> {
        let token = self.ask(peer, Op::Other { command, flags, offset, len });
        self.answer(peer, token)
    }

    /// Flushes.
    ///
    /// # Errors
    /// What the client was told.
    pub fn flush(&mut self, peer: usize) -> Result<(), NbdError> {
        self.other(peer, Command::FLUSH, 0, 0, 0).map(drop)
    }

    // --- the end

    /// Clients go, and nothing is left in any table but what is in doubt; no target complains.
    ///
    /// # Panics
    /// When something is left.
    pub fn finish(mut self) {
        for peer in self.peers.iter_mut().filter(|peer| peer.id.is_some()) {
            peer.client.disconnect();
        }
        self.until("the clients gone", |w| w.peers.iter().all(|p| p.id.is_none()));
        self.until("nothing left", |w| {
            w.volumes.iter().all(|volume| volume.census() == Census::default())
        });
        for volume in &self.volumes {
            let fences = volume.fences();
            assert_eq!((fences.waiting, fences.taken), (0, fences.pending), "{fences:?}");
        }
        check::standard(&self).unwrap_or_else(|broken| panic!("{}", broken.what));
    }
}

/// Bytes that look like no others.
#[must_use]
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}
