//! The server's side of one NBD connection, without any I/O.
//!
//! The driver feeds bytes ([`Connection::handle_received`]) and time, polls events until there are none,
//! answers them ([`Connection::open`], [`Connection::reply`]) and sends what [`Connection::tx`] holds. After
//! any of these calls, and after bytes were taken from `tx`, it polls events again.
//!
//! Mental model: one [`Phase`] says what the next bytes mean. The phases of the handshake end with
//! EXPORT_NAME or GO; from then on requests are parsed in place from the chunks that came, checked
//! (`check.rs`), given a slot (`slots.rs`) and handed out; WRITE payloads are slices of those chunks.
//! Answers go out in the order of completion, each message whole.
//!
//! Backpressure: a connection never fails a request for want of room, it reads slower. Payload memory of a
//! request is reserved whole before its first byte is taken; replies that the client does not read count as
//! well. While there is no room, or an export is being opened, [`Connection::wants_input`] is false: at most
//! the chunk of a receive that is already under way may still be handed in, and is kept.
//!
//! A client breaks off in many ways: DISC, end of file and shutdown of the daemon let requests in flight
//! finish; a broken mandatory rule ends the connection at once. A WRITE whose payload is incomplete is never
//! executed, not even partly.
//!
//! Not here: sockets, the device, splitting and alignment (`volume`), TLS.

mod check;
pub mod client;
mod handshake;
mod input;
mod slots;
mod transmission;
mod types;

#[cfg(test)]
mod tests;

pub use slots::Handle;
pub use types::{
    Catalog, CatalogEntry, CloseReason, Event, ExportInfo, Kind, OpenError, Purpose, Reply,
    Request, Violation,
};

use crate::base::{Instant, TxQueue};
use crate::limits::{
    NBD_BUDGET_DEFAULT, NBD_HANDSHAKE_REPLY_MAX, NBD_SHUTDOWN_GRACE, REQUESTS_PER_LANE_MAX,
};
use crate::wire::nbd::haggle::OptionHeader;
use crate::wire::nbd::request::RequestHeader;
use crate::wire::nbd::{NbdError, OptionCode};
use bytes::Bytes;
use check::Negotiated;
use handshake::{Answer, Handshake, Next, Then};
use input::Input;
use slots::Slots;
use std::collections::VecDeque;
use transmission::Incoming;

/// What the next bytes mean.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Four bytes of client flags.
    ClientFlags,
    /// The header of an option.
    Option,
    /// Data of an option that is being collected: bytes left.
    OptionData(OptionCode, u32),
    /// Data of an option that does not matter: bytes left.
    OptionSkip(OptionCode, u32, Answer),
    /// Nothing until the driver has opened the export.
    Opening,
    /// The header of a request.
    Requests,
    /// Nothing until there is room for this request.
    Blocked(RequestHeader),
    /// Payload of a WRITE: see [`Incoming`].
    Payload,
    /// Payload of a WRITE that is refused: bytes left.
    Discard { left: u32, cookie: u64, error: NbdError },
    /// Nothing: requests in flight finish.
    Ending(CloseReason),
    /// Nothing, ever.
    Closed,
}

/// One NBD connection, the server's side.
pub struct Connection {
    phase: Phase,
    now: Instant,
    input: Input,
    eof: bool,
    stopping: bool,
    tx: TxQueue,
    events: VecDeque<Event>,
    handshake: Option<Box<Handshake>>,
    agreed: Negotiated,
    slots: Slots,
    incoming: Option<Incoming>,
    /// Payload bytes reserved by requests in flight.
    reserved: u64,
    budget_bytes: u64,
    budget_requests: usize,
}

impl Connection {
    /// A connection that was just accepted. The greeting is put in `tx` at once.
    #[must_use]
    pub fn new(now: Instant, catalog: Catalog) -> Connection {
        let mut tx = TxQueue::new();
        let handshake = Handshake::new(now, catalog, &mut tx);
        Connection {
            phase: Phase::ClientFlags,
            now,
            input: Input::default(),
            eof: false,
            stopping: false,
            tx,
            events: VecDeque::new(),
            handshake: Some(Box::new(handshake)),
            agreed: Negotiated::default(),
            slots: Slots::default(),
            incoming: None,
            reserved: 0,
            budget_bytes: NBD_BUDGET_DEFAULT,
            budget_requests: REQUESTS_PER_LANE_MAX,
        }
    }

    /// Bytes came. After the end of the connection they are dropped.
    pub fn handle_received(&mut self, now: Instant, chunk: Bytes) {
        self.now = now;
        if matches!(self.phase, Phase::Ending(_) | Phase::Closed) {
            return;
        }
        self.input.push(chunk);
        self.advance();
    }

    /// The client closed its side: requests that came whole are served, then the connection ends.
    pub fn handle_eof(&mut self, now: Instant) {
        self.now = now;
        self.eof = true;
        self.advance();
    }

    /// The socket is broken: nothing can be sent any more. Requests that came whole may finish.
    pub fn handle_closed(&mut self, now: Instant) {
        self.now = now;
        self.close(CloseReason::Lost);
        self.tx.clear();
    }

    /// Time passed: ends a handshake or a payload that takes too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        if self.poll_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let reason = match self.phase {
            Phase::Payload => CloseReason::PayloadTimeout,
            _ if self.stopping => CloseReason::Shutdown,
            _ => CloseReason::HandshakeTimeout,
        };
        self.close(reason);
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<Instant> {
        match (self.phase, &self.handshake, &self.incoming) {
            (Phase::Closed | Phase::Ending(_), _, _) => None,
            (Phase::Opening, Some(_), _) if !self.stopping => None,
            (_, Some(handshake), _) => Some(handshake.deadline()),
            (Phase::Payload, None, Some(incoming)) => Some(incoming.deadline),
            (_, None, _) => None,
        }
    }

    /// Whether [`poll_event`](Self::poll_event) has something without new input.
    #[must_use]
    pub fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next event. Goes on with input that was held back if there is room now.
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.events.is_empty() {
            self.advance();
        }
        self.events.pop_front()
    }

    /// Answers [`Event::Open`]. After the end of the connection the answer is dropped.
    ///
    /// # Panics
    /// When nothing is being opened.
    pub fn open(&mut self, now: Instant, result: Result<ExportInfo, OpenError>) {
        self.now = now;
        if matches!(self.phase, Phase::Ending(_) | Phase::Closed) {
            return;
        }
        let handshake = self.handshake.as_mut().expect("an export is opened during the handshake");
        let export = handshake.opening().expect("an export is being opened");
        let result = if self.stopping { Err(OpenError::Shutdown) } else { result };
        let then = handshake.opened(now, result, &mut self.tx);
        if let (Ok(info), Then::Transmit) = (&result, then) {
            self.agreed = handshake.negotiated(export, info);
        }
        self.go_on(then);
        self.advance();
    }

    /// Bytes that wait to be sent.
    pub fn tx(&mut self) -> &mut TxQueue {
        &mut self.tx
    }

    /// Sets how many payload bytes (of requests in flight and of replies not yet taken from
    /// [`tx`](Self::tx)) and how many requests this connection may hold. A request that does not fit waits;
    /// a budget below the largest payload can therefore stall the client, see
    /// [`waits_for`](Self::waits_for).
    pub fn set_input_budget(&mut self, bytes: u64, requests: usize) {
        self.budget_bytes = bytes;
        self.budget_requests = requests;
        self.advance();
    }

    /// Payload bytes held: reserved by requests in flight, and replies not yet taken.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.reserved + self.tx.pending()
    }

    /// Payload bytes that the request at the head of the input waits for, if one waits for room.
    #[must_use]
    pub fn waits_for(&self) -> Option<u32> {
        match self.phase {
            Phase::Blocked(header) => Some(self.payload_of(&header)),
            _ => None,
        }
    }

    /// Whether something can go on, or end, once queued bytes have been taken from [`tx`](Self::tx), other
    /// than a request that [`waits_for`](Self::waits_for) memory.
    #[must_use]
    pub fn waits_for_sending(&self) -> bool {
        matches!(self.phase, Phase::Option | Phase::Closed)
    }

    /// Whether the driver should receive. After `false`, ask again when events have been polled.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        if self.eof || !self.input.is_empty() {
            return false;
        }
        match self.phase {
            Phase::Opening | Phase::Blocked(_) | Phase::Ending(_) | Phase::Closed => false,
            Phase::Option => !self.replies_pile_up(),
            Phase::ClientFlags
            | Phase::OptionData(..)
            | Phase::OptionSkip(..)
            | Phase::Requests
            | Phase::Payload
            | Phase::Discard { .. } => true,
        }
    }

    /// Requests in flight, one whose payload is still coming included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// The daemon stops: options and new requests are answered "shutting down", requests in flight finish,
    /// then the connection ends. An [`Event::Open`] must still be answered.
    pub fn begin_shutdown(&mut self, now: Instant) {
        self.now = now;
        self.stopping = true;
        if let Some(handshake) = &mut self.handshake {
            handshake.hurry(now + NBD_SHUTDOWN_GRACE);
        }
        self.refuse_incoming();
        self.advance();
    }

    /// Whether the connection can be forgotten: closed, nothing in flight, nothing to send, no event left.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Closed)
            && self.slots.is_empty()
            && self.tx.is_empty()
            && self.events.is_empty()
    }

    /// Does what can be done with the input, then sees whether the connection ends.
    fn advance(&mut self) {
        while self.step() {}
        if self.stopping && self.handshake.is_none() && self.slots.is_empty() {
            self.end(CloseReason::Shutdown);
        }
        let waits = matches!(self.phase, Phase::Opening | Phase::Blocked(_));
        if self.eof && self.input.is_empty() && !waits {
            self.end(CloseReason::Eof);
        }
        if let Phase::Ending(reason) = self.phase
            && self.slots.is_empty()
        {
            self.close(reason);
        }
    }

    /// One step of the state machine; false when it waits for something.
    fn step(&mut self) -> bool {
        match self.phase {
            Phase::Requests => self.step_request(),
            Phase::Payload => self.step_payload(),
            Phase::Blocked(header) => self.step_blocked(header),
            Phase::Discard { left, cookie, error } => self.step_discard(left, cookie, error),
            Phase::ClientFlags => self.step_client_flags(),
            Phase::Option => self.step_option(),
            Phase::OptionData(option, left) => self.step_option_data(option, left),
            Phase::OptionSkip(option, left, answer) => self.step_option_skip(option, left, answer),
            Phase::Opening | Phase::Ending(_) | Phase::Closed => false,
        }
    }

    fn step_client_flags(&mut self) -> bool {
        let Some(flags) = self.input.header(|bytes| u32::from_be_bytes(*bytes)) else {
            return false;
        };
        match self.haggling().client_flags(flags) {
            Ok(()) => self.phase = Phase::Option,
            Err(violation) => self.close(violation.into()),
        }
        true
    }

    fn step_option(&mut self) -> bool {
        if self.replies_pile_up() {
            return false;
        }
        let header = match self.input.header(OptionHeader::parse) {
            None => return false,
            Some(Err(malformed)) => {
                self.close(Violation::from(malformed).into());
                return true;
            }
            Some(Ok(header)) => header,
        };
        let stopping = self.stopping;
        match self.haggling().begin(header, stopping) {
            Next::Collect => self.phase = Phase::OptionData(header.option, header.len),
            Next::Skip(answer) => {
                self.phase = Phase::OptionSkip(header.option, header.len, answer);
            }
            Next::Close(reason) => self.close(reason),
        }
        true
    }

    fn step_option_data(&mut self, option: OptionCode, left: u32) -> bool {
        if let Some(piece) = self.input.take(left as usize) {
            // Grows with what has come, never to what was announced.
            self.haggling().data.extend_from_slice(&piece);
            self.phase = Phase::OptionData(option, left - piece.len() as u32);
            return true;
        }
        if left > 0 {
            return false;
        }
        let (now, handshake) = (self.now, self.handshake.as_mut());
        let handshake = handshake.expect("options belong to the handshake");
        let then = handshake.body(now, option, &mut self.tx);
        self.go_on(then);
        true
    }

    fn step_option_skip(&mut self, option: OptionCode, left: u32, answer: Answer) -> bool {
        let left = left - self.input.skip(left);
        if left > 0 {
            self.phase = Phase::OptionSkip(option, left, answer);
            return false;
        }
        let handshake = self.handshake.as_mut().expect("options belong to the handshake");
        let then = handshake.answer(option, answer, &mut self.tx);
        self.go_on(then);
        true
    }

    fn go_on(&mut self, then: Then) {
        match then {
            Then::Haggle => self.phase = Phase::Option,
            Then::Open(export, purpose) => {
                self.phase = Phase::Opening;
                let name = self.haggling().export_name(export).to_owned();
                self.events.push_back(Event::Open { name, purpose });
            }
            Then::Transmit => {
                self.phase = Phase::Requests;
                self.handshake = None;
            }
            Then::Close(reason) => self.close(reason),
        }
    }

    fn haggling(&mut self) -> &mut Handshake {
        self.handshake.as_mut().expect("options belong to the handshake")
    }

    fn replies_pile_up(&self) -> bool {
        self.tx.pending() > NBD_HANDSHAKE_REPLY_MAX
    }

    /// No more input; requests in flight finish.
    fn end(&mut self, reason: CloseReason) {
        if matches!(self.phase, Phase::Ending(_) | Phase::Closed) {
            return;
        }
        self.drop_incoming();
        self.input.clear();
        self.phase = Phase::Ending(reason);
    }

    /// The end, now.
    fn close(&mut self, reason: CloseReason) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        self.drop_incoming();
        self.input.clear();
        self.handshake = None;
        self.phase = Phase::Closed;
        self.events.push_back(Event::Closed(reason));
    }
}
