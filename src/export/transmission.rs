//! The transmission phase: requests in, replies out.
//!
//! The fast path, a READ or a WRITE whose bytes lie in one chunk: header parsed in place, checked, a slot,
//! one event; nothing is allocated or copied.

use super::check::{Action, check};
use super::handshake::CONTEXT_ID;
use super::slots::{Form, Handle, InFlight};
use super::types::{CloseReason, Event, Kind, Reply, Request, Violation, allowed};
use super::{Connection, Phase};
use crate::base::{Duration, Instant, Payload};
use crate::limits::{
    NBD_EXTENTS_MAX, NBD_PAYLOAD_CONSUMED_MAX, NBD_PAYLOAD_PIECE_MIN, NBD_PAYLOAD_PIECES,
    NBD_PAYLOAD_RATE_MIN, NBD_PAYLOAD_TIMEOUT,
};
use crate::wire::nbd::reply::{ChunkHeader, DataChunk, ErrorChunk, Extent, SimpleReply};
use crate::wire::nbd::request::RequestHeader;
use crate::wire::nbd::{ChunkType, Command, NbdError, command_flags};
use bytes::{Bytes, BytesMut};

/// A WRITE whose payload is coming.
pub(super) struct Incoming {
    handle: Handle,
    header: RequestHeader,
    left: u32,
    pub(super) payload: Payload,
    /// Small pieces that are being merged; they follow `payload`.
    tail: BytesMut,
    pub(super) deadline: Instant,
}

impl Incoming {
    /// Appends a piece: by reference, unless many small ones come.
    fn push(&mut self, piece: Bytes) {
        self.left -= piece.len() as u32;
        let few = self.payload.pieces().len() < NBD_PAYLOAD_PIECES;
        if piece.len() >= NBD_PAYLOAD_PIECE_MIN || (few && self.tail.is_empty()) {
            self.flush();
            self.payload.push(piece);
            return;
        }
        self.tail.extend_from_slice(&piece);
        if self.tail.len() >= NBD_PAYLOAD_PIECE_MIN {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if !self.tail.is_empty() {
            self.payload.push(self.tail.split().freeze());
        }
    }
}

impl Connection {
    /// Answers a request.
    ///
    /// # Panics
    /// When the handle names no request in flight, or the answer does not fit the request (other data length
    /// than asked for, extents for a READ, …).
    pub fn reply(&mut self, handle: Handle, result: Result<Reply, NbdError>) {
        let request = self.slots.remove(handle);
        self.release(request.held);
        if !matches!(self.phase, Phase::Closed) {
            match result {
                Ok(reply) => self.put_good(handle, &request, reply),
                Err(error) => self.put_bad(&request, error),
            }
        }
        // Most replies change nothing about the input.
        if !matches!(self.phase, Phase::Requests) || self.stopping {
            self.advance();
        }
    }

    pub(super) fn step_request(&mut self) -> bool {
        match self.input.header(RequestHeader::parse) {
            None => false,
            Some(Ok(header)) => {
                self.request(header);
                true
            }
            Some(Err(malformed)) => {
                self.close(Violation::from(malformed).into());
                true
            }
        }
    }

    pub(super) fn step_blocked(&mut self, header: RequestHeader) -> bool {
        self.phase = Phase::Requests;
        self.request(header);
        !matches!(self.phase, Phase::Blocked(_))
    }

    pub(super) fn step_discard(&mut self, left: u32, cookie: u64, error: NbdError) -> bool {
        let left = left - self.input.skip(left);
        if left > 0 {
            self.phase = Phase::Discard { left, cookie, error };
            return false;
        }
        self.phase = Phase::Requests;
        self.put_simple(cookie, error.code());
        true
    }

    pub(super) fn step_payload(&mut self) -> bool {
        let incoming = self.incoming.as_mut().expect("a payload belongs to a request");
        let Some(piece) = self.input.take(incoming.left as usize) else { return false };
        incoming.push(piece);
        if incoming.left > 0 {
            return true;
        }
        let mut incoming = self.incoming.take().expect("just seen");
        incoming.flush();
        self.phase = Phase::Requests;
        let Incoming { handle, header, payload, .. } = incoming;
        assert_eq!(payload.len(), header.len as usize, "a payload is as long as announced");
        self.hand_out(handle, &header, Kind::Write(payload));
        true
    }

    /// Payload bytes that a request needs memory for.
    pub(super) fn payload_of(&self, header: &RequestHeader) -> u32 {
        match check(&self.agreed, header) {
            Ok(Action::Read { .. } | Action::Write) => header.len,
            Ok(_) | Err(_) => 0,
        }
    }

    fn request(&mut self, header: RequestHeader) {
        if header.command == Command::DISC {
            return self.end(CloseReason::Disconnected);
        }
        let checked =
            if self.stopping { Err(NbdError::Shutdown) } else { check(&self.agreed, &header) };
        let held = match checked {
            Ok(Action::Read { .. } | Action::Write) => header.len,
            Ok(_) | Err(_) => 0,
        };
        if !self.has_room(held) {
            self.phase = Phase::Blocked(header);
            return;
        }
        match checked {
            Err(error) => self.refuse(&header, error),
            Ok(Action::Nothing) => self.nothing(&header),
            Ok(action) => self.accept(&header, action, held),
        }
    }

    /// Whether a request fits that needs this much payload memory.
    fn has_room(&self, payload: u32) -> bool {
        self.slots.len() < self.budget_requests
            && self.held().saturating_add(payload.into()) <= self.budget_bytes
    }

    /// An error; the payload of a WRITE is consumed first.
    fn refuse(&mut self, header: &RequestHeader, error: NbdError) {
        if header.command == Command::WRITE && header.len > 0 {
            if header.len > NBD_PAYLOAD_CONSUMED_MAX {
                return self.close(Violation::PayloadTooLong(header.len).into());
            }
            self.phase = Phase::Discard { left: header.len, cookie: header.cookie, error };
            return;
        }
        let chunks = matches!(header.command, Command::READ | Command::BLOCK_STATUS);
        self.put_error(chunks, header.cookie, error);
    }

    /// A request for no bytes succeeds without action.
    fn nothing(&mut self, header: &RequestHeader) {
        let cookie = header.cookie;
        if header.command == Command::READ && self.agreed.structured {
            let (flags, kind) = (ChunkHeader::DONE, ChunkType::NONE);
            self.tx.put_with::<{ ChunkHeader::LEN }>(|out| {
                ChunkHeader { flags, kind, cookie, len: 0 }.emit(out);
            });
        } else {
            self.put_simple(cookie, 0);
        }
    }

    fn accept(&mut self, header: &RequestHeader, action: Action, held: u32) {
        let &RequestHeader { cookie, offset, len, .. } = header;
        let (form, kind) = match action {
            Action::Read { df } => (Form::Data, Some(Kind::Read { df })),
            Action::Write => (Form::Done { fast_zero: false }, None),
            Action::Flush => (Form::Done { fast_zero: false }, Some(Kind::Flush)),
            Action::Trim => (Form::Done { fast_zero: false }, Some(Kind::Trim)),
            Action::WriteZeroes { no_hole, fast } => {
                (Form::Done { fast_zero: fast }, Some(Kind::WriteZeroes { no_hole, fast }))
            }
            Action::Cache => (Form::Done { fast_zero: false }, Some(Kind::Cache)),
            Action::BlockStatus { one } => (Form::Extents { one }, Some(Kind::BlockStatus { one })),
            Action::Nothing => unreachable!("a request for no bytes is not handed out"),
        };
        self.reserved += u64::from(held);
        let handle = self.slots.insert(InFlight { cookie, offset, len, held, form });
        if let Some(kind) = kind {
            return self.hand_out(handle, header, kind);
        }
        let millis = u64::from(len) * 1000 / u64::from(NBD_PAYLOAD_RATE_MIN);
        let deadline = self.now + NBD_PAYLOAD_TIMEOUT + Duration::from_millis(millis);
        let (payload, tail) = (Payload::new(), BytesMut::new());
        let header = *header;
        self.incoming = Some(Incoming { handle, header, left: len, payload, tail, deadline });
        self.phase = Phase::Payload;
    }

    fn hand_out(&mut self, handle: Handle, header: &RequestHeader, kind: Kind) {
        let fua = header.flags & command_flags::FUA != 0
            && matches!(kind, Kind::Write(_) | Kind::Trim | Kind::WriteZeroes { .. });
        let &RequestHeader { offset, len, .. } = header;
        self.events.push_back(Event::Request(Request { handle, kind, offset, len, fua }));
    }

    /// Forgets a WRITE whose payload is incomplete.
    pub(super) fn drop_incoming(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            let request = self.slots.remove(incoming.handle);
            self.release(request.held);
        }
    }

    /// Refuses a WRITE whose payload is incomplete, because the daemon stops.
    pub(super) fn refuse_incoming(&mut self) {
        if let Some(incoming) = &self.incoming {
            let (left, cookie) = (incoming.left, incoming.header.cookie);
            self.drop_incoming();
            self.phase = Phase::Discard { left, cookie, error: NbdError::Shutdown };
        }
    }

    fn release(&mut self, held: u32) {
        let held = u64::from(held);
        assert!(held <= self.reserved, "released {held} of {} reserved bytes", self.reserved);
        self.reserved -= held;
    }

    fn put_good(&mut self, handle: Handle, request: &InFlight, reply: Reply) {
        match (reply, request.form) {
            (Reply::Done, Form::Done { .. }) => self.put_simple(request.cookie, 0),
            (Reply::Data(data), Form::Data) => self.put_data(request, data),
            (Reply::Extents(extents), Form::Extents { one }) => {
                self.put_extents(request, one, &extents);
            }
            (reply, form) => panic!("{reply:?} is no answer to {handle:?}, which wants {form:?}"),
        }
    }

    fn put_bad(&mut self, request: &InFlight, error: NbdError) {
        let fast_zero = matches!(request.form, Form::Done { fast_zero: true });
        let chunks = matches!(request.form, Form::Data | Form::Extents { .. });
        self.put_error(chunks, request.cookie, allowed(error, fast_zero));
    }

    /// Section *Structured reply chunk message*: READ and BLOCK_STATUS are answered by chunks, once these
    /// were negotiated, and by nothing else; every other command by a simple reply.
    fn put_error(&mut self, chunks: bool, cookie: u64, error: NbdError) {
        if chunks && self.agreed.structured {
            self.tx.put_with::<{ ErrorChunk::LEN }>(|out| ErrorChunk { cookie, error }.emit(out));
        } else {
            self.put_simple(cookie, error.code());
        }
    }

    fn put_simple(&mut self, cookie: u64, error: u32) {
        self.tx.put_with::<{ SimpleReply::LEN }>(|out| SimpleReply { error, cookie }.emit(out));
    }

    /// The data is complete, so one chunk with DONE is safe: nothing can fail any more.
    fn put_data(&mut self, request: &InFlight, data: Payload) {
        let &InFlight { cookie, offset, len, .. } = request;
        assert_eq!(data.len(), len as usize, "the data of a READ is as long as the request");
        if self.agreed.structured {
            let chunk = DataChunk { last: true, cookie, offset, len };
            self.tx.put_with::<{ DataChunk::LEN }>(|out| chunk.emit(out));
        } else {
            self.put_simple(cookie, 0);
        }
        for piece in data.into_pieces() {
            self.tx.put_bytes(piece);
        }
    }

    /// Section *Request types*, NBD_CMD_BLOCK_STATUS: at least one extent; with REQ_ONE exactly one, no
    /// longer than the request; otherwise only the last may reach beyond the request.
    fn put_extents(&mut self, request: &InFlight, one: bool, extents: &[Extent]) {
        let asked = u64::from(request.len);
        let unknown = [Extent { len: asked, flags: 0 }];
        let known = extents.iter().any(|extent| extent.len > 0);
        let extents = if known { extents } else { &unknown };
        let run = visible(extents, asked, one);
        let descriptors = run.clone().count();
        let header = ChunkHeader {
            flags: ChunkHeader::DONE,
            kind: ChunkType::BLOCK_STATUS,
            cookie: request.cookie,
            len: 4 + (descriptors * Extent::LEN) as u32,
        };
        self.tx.put_with::<{ ChunkHeader::LEN }>(|out| header.emit(out));
        self.tx.put(&CONTEXT_ID.to_be_bytes());
        for extent in run {
            self.tx.put_with::<{ Extent::LEN }>(|out| extent.emit(out));
        }
    }
}

/// The extents of an answer as they go on the wire: not empty, none that begins beyond what was asked for,
/// lengths cut to what fits. Nothing follows an extent that was cut, because its place would be wrong.
fn visible(extents: &[Extent], asked: u64, one: bool) -> impl Iterator<Item = Extent> + Clone + '_ {
    let longest = if one { asked } else { Extent::MAX };
    let count = if one { 1 } else { NBD_EXTENTS_MAX };
    let run = extents.iter().filter(|extent| extent.len > 0);
    let run = run.scan(0_u64, move |covered, extent| {
        if *covered >= asked {
            return None;
        }
        let len = extent.len.min(longest);
        *covered = if len < extent.len { u64::MAX } else { *covered + len };
        Some(Extent { len, flags: extent.flags })
    });
    run.take(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Section *Request types*, NBD_CMD_BLOCK_STATUS.
    #[test]
    fn extents_on_the_wire() {
        let extent = |len, flags| Extent { len, flags };
        let run = |extents: &[Extent], asked, one| visible(extents, asked, one).collect::<Vec<_>>();
        let both = [extent(512, 0), extent(1 << 20, 3), extent(512, 0)];
        assert_eq!(run(&both, 4096, false), [extent(512, 0), extent(1 << 20, 3)]);
        assert_eq!(run(&both[1..], 4096, true), [extent(4096, 3)]);
        assert_eq!(run(&[extent(0, 1), extent(512, 2)], 512, false), [extent(512, 2)]);
        // Longer than 32 bits: cut, and nothing after it.
        let long = [extent(1 << 33, 3), extent(512, 0)];
        assert_eq!(run(&long, u64::from(u32::MAX), false), [extent(Extent::MAX, 3)]);
        let edge = [extent(0xffff_8000, 3), extent(512, 0)];
        assert_eq!(run(&edge, u64::from(u32::MAX), false), [extent(Extent::MAX, 3)]);
        let many = vec![extent(1, 0); 2 * NBD_EXTENTS_MAX];
        assert_eq!(run(&many, 1 << 30, false).len(), NBD_EXTENTS_MAX);
    }

    proptest! {
        /// A client that sends a payload in tiny pieces costs little more than the payload.
        #[test]
        fn pieces_are_merged(cuts in prop::collection::vec(1usize..40_000, 1..40)) {
            let len: usize = cuts.iter().sum();
            let bytes: Vec<u8> = (0..len).map(|at| ((at * 31) >> 3) as u8).collect();
            let whole = Bytes::from(bytes.clone());
            let request = InFlight {
                cookie: 0, offset: 0, len: 0, held: 0, form: Form::Data,
            };
            let handle = super::super::slots::Slots::default().insert(request);
            let header = RequestHeader {
                flags: 0, command: Command::WRITE, cookie: 0, offset: 0, len: len as u32,
            };
            let mut incoming = Incoming {
                handle, header, left: len as u32, payload: Payload::new(), tail: BytesMut::new(),
                deadline: Instant::ZERO,
            };
            let mut at = 0;
            for cut in cuts {
                incoming.push(whole.slice(at..at + cut));
                at += cut;
            }
            incoming.flush();
            prop_assert_eq!(incoming.left, 0);
            prop_assert!(incoming.payload.to_vec() == bytes);
            let most = NBD_PAYLOAD_PIECES + 1 + 2 * len.div_ceil(NBD_PAYLOAD_PIECE_MIN);
            prop_assert!(incoming.payload.pieces().len() <= most);
        }
    }
}
