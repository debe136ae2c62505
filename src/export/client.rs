//! The client's side of one NBD connection, without any I/O: what the demo, the benchmark and the tests of
//! the server use.
//!
//! The driver feeds bytes, polls events and sends what [`Client::tx`] holds. The handshake runs by itself up
//! to [`ClientEvent::Ready`]; then requests are submitted under a token that comes back with the answer.
//! It trusts the server as little as the server trusts it: any contradiction ends the connection.
//!
//! Not here: sockets, URIs, TLS, deadlines.

use super::input::Input;
use crate::base::{Payload, TxQueue};
use crate::limits::{NBD_EXTENTS_MAX, NBD_OPTION_MAX, NBD_PAYLOAD_CONSUMED_MAX};
use crate::wire::nbd::haggle::{
    BlockSizes, ExportNameReply, Greeting, Info, InfoRequest, OptionHeader, OptionReplyHeader,
};
use crate::wire::nbd::meta::{BASE_ALLOCATION, MetaContext, MetaRequest};
use crate::wire::nbd::reply::{ChunkBody, ChunkHeader, Extent, SimpleReply};
use crate::wire::nbd::request::RequestHeader;
use crate::wire::nbd::{
    CHUNK_MAGIC, ChunkType, Command, InfoType, Malformed, NbdError, OptionCode, ReplyType,
    command_flags, handshake_flags,
};
use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::VecDeque;

/// What a client asks for in its handshake.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Export name; empty for the default export.
    pub export: String,
    /// Ask for structured replies.
    pub structured: bool,
    /// Ask for `base:allocation`; needs structured replies.
    pub block_status: bool,
    /// Begin by EXPORT_NAME instead of GO.
    pub export_name: bool,
}

impl ClientConfig {
    /// What a modern client asks for.
    #[must_use]
    pub fn new(export: &str) -> ClientConfig {
        let export = export.to_owned();
        ClientConfig { export, structured: true, block_status: true, export_name: false }
    }
}

/// The export as the server describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Size in bytes.
    pub size: u64,
    /// [`crate::wire::nbd::transmission_flags`].
    pub flags: u16,
    /// Block size constraints, if the server told them.
    pub sizes: Option<BlockSizes>,
    /// Structured replies were agreed on.
    pub structured: bool,
    /// `base:allocation` was agreed on, under this id.
    pub context: Option<u32>,
}

/// A request.
#[derive(Debug)]
pub enum Op {
    /// Read.
    Read {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u32,
    },
    /// Write.
    Write {
        /// First byte.
        offset: u64,
        /// What to write.
        data: Payload,
        /// Answer only when it is on stable storage.
        fua: bool,
    },
    /// Anything without payload in either direction, with its flags.
    Other {
        /// Which command.
        command: Command,
        /// [`command_flags`].
        flags: u16,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u32,
    },
}

/// A good answer.
#[derive(Debug)]
pub enum Answer {
    /// Done.
    Done,
    /// The data of a READ.
    Data(Payload),
    /// The extents of a BLOCK_STATUS.
    Extents(Vec<Extent>),
}

/// What happened.
#[derive(Debug)]
pub enum ClientEvent {
    /// Requests may be submitted.
    Ready(Exported),
    /// A request was answered.
    Done {
        /// As given to [`Client::submit`].
        token: u64,
        /// The answer.
        result: Result<Answer, NbdError>,
    },
    /// The end; requests in flight have no answer.
    Closed(ClientError),
}

/// Why a client's connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The server sent what no server sends.
    #[error("the server broke the protocol: {0}")]
    Malformed(#[from] Malformed),
    /// The server sent something at the wrong time.
    #[error("the server broke the protocol: unexpected {0}")]
    Unexpected(&'static str),
    /// The server refused the export.
    #[error("the server refused the export: {kind:?} {message}")]
    Refused {
        /// Its error.
        kind: ReplyType,
        /// Its words.
        message: String,
    },
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Eof,
}

/// What the next bytes mean.
#[derive(Clone, Copy)]
enum Phase {
    Greeting,
    OptionReply,
    OptionBody(OptionReplyHeader),
    ExportName,
    Zeroes(u32),
    Reply,
    ChunkLen([u8; SimpleReply::LEN]),
    ChunkOffset(usize, ChunkHeader),
    ChunkBody(usize, ChunkHeader),
    /// Data of this slot: bytes left, and whether the reply is complete then.
    Data(usize, u32, bool),
    Closed,
}

/// A request in flight.
struct Pending {
    token: u64,
    command: Command,
    offset: u64,
    len: u32,
    /// Data that came, with its place.
    parts: SmallVec<[(u64, Payload); 1]>,
    extents: Vec<Extent>,
    error: Option<NbdError>,
}

impl Pending {
    /// Begins a part of the data of a READ; what comes is bounded by what was asked for.
    fn part(&mut self, offset: u64, len: u32) -> Result<(), ClientError> {
        let came: usize = self.parts.iter().map(|(_, part)| part.len()).sum();
        let fits = came + len as usize <= self.len as usize;
        if self.command != Command::READ || !fits || self.parts.len() >= NBD_EXTENTS_MAX {
            return Err(ClientError::Unexpected("data"));
        }
        self.parts.push((offset, Payload::new()));
        Ok(())
    }
}

/// One NBD connection, the client's side.
pub struct Client {
    config: ClientConfig,
    phase: Phase,
    input: Input,
    tx: TxQueue,
    events: VecDeque<ClientEvent>,
    waiting_for: OptionCode,
    no_zeroes: bool,
    export: Exported,
    described: bool,
    body: Vec<u8>,
    slots: Vec<Option<Pending>>,
    free: Vec<usize>,
}

type Step = Result<bool, ClientError>;

impl Client {
    /// A connection that was just made.
    #[must_use]
    pub fn new(config: ClientConfig) -> Client {
        let (size, flags, sizes, structured, context) = (0, 0, None, false, None);
        Client {
            config,
            phase: Phase::Greeting,
            input: Input::default(),
            tx: TxQueue::new(),
            events: VecDeque::new(),
            waiting_for: OptionCode::GO,
            no_zeroes: false,
            export: Exported { size, flags, sizes, structured, context },
            described: false,
            body: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Bytes came.
    pub fn handle_received(&mut self, chunk: Bytes) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        self.input.push(chunk);
        loop {
            match self.step() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.close(error),
            }
        }
    }

    /// The server closed the connection.
    pub fn handle_eof(&mut self) {
        self.close(ClientError::Eof);
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// Bytes that wait to be sent.
    pub fn tx(&mut self) -> &mut TxQueue {
        &mut self.tx
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Sends a request; only after [`ClientEvent::Ready`].
    pub fn submit(&mut self, token: u64, op: Op) {
        let (command, flags, offset, len, data) = match op {
            Op::Read { offset, len } => (Command::READ, 0, offset, len, None),
            Op::Write { offset, data, fua } => {
                let flags = if fua { command_flags::FUA } else { 0 };
                let len = u32::try_from(data.len()).expect("a payload is shorter than 4 GiB");
                (Command::WRITE, flags, offset, len, Some(data))
            }
            Op::Other { command, flags, offset, len } => (command, flags, offset, len, None),
        };
        let (parts, extents, error) = (SmallVec::new(), Vec::new(), None);
        let pending = Pending { token, command, offset, len, parts, extents, error };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        assert!(self.slots[slot].is_none(), "slot {slot} is on the free list and taken");
        self.slots[slot] = Some(pending);
        self.put_request(flags, command, slot as u64, offset, len);
        for piece in data.iter().flat_map(Payload::pieces) {
            self.tx.put_bytes(piece.clone());
        }
    }

    /// Says that nothing more will come.
    pub fn disconnect(&mut self) {
        self.put_request(0, Command::DISC, 0, 0, 0);
    }

    fn put_request(&mut self, flags: u16, command: Command, cookie: u64, offset: u64, len: u32) {
        let header = RequestHeader { flags, command, cookie, offset, len };
        self.tx.put_with::<{ RequestHeader::LEN }>(|out| header.emit(out));
    }

    fn close(&mut self, error: ClientError) {
        if !matches!(self.phase, Phase::Closed) {
            self.phase = Phase::Closed;
            self.input.clear();
            self.events.push_back(ClientEvent::Closed(error));
        }
    }

    fn step(&mut self) -> Step {
        match self.phase {
            Phase::Reply => self.step_reply(),
            Phase::Data(slot, left, last) => self.step_data(slot, left, last),
            Phase::ChunkLen(head) => self.step_chunk(head),
            Phase::ChunkOffset(slot, header) => self.step_chunk_offset(slot, header),
            Phase::ChunkBody(slot, header) => self.step_chunk_body(slot, header),
            Phase::Greeting => self.step_greeting(),
            Phase::OptionReply => self.step_option_reply(),
            Phase::OptionBody(header) => self.step_option_body(header),
            Phase::ExportName => self.step_export_name(),
            Phase::Zeroes(left) => {
                let left = left - self.input.skip(left);
                self.phase = Phase::Zeroes(left);
                if left == 0 {
                    self.ready();
                }
                Ok(left == 0)
            }
            Phase::Closed => Ok(false),
        }
    }

    fn step_greeting(&mut self) -> Step {
        let Some(greeting) = self.input.header(Greeting::parse) else { return Ok(false) };
        let flags =
            greeting?.flags & (handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES);
        self.no_zeroes = flags & handshake_flags::NO_ZEROES != 0;
        self.tx.put(&u32::from(flags).to_be_bytes());
        let fixed = flags & handshake_flags::FIXED_NEWSTYLE != 0;
        if fixed && self.config.structured {
            self.put_option(OptionCode::STRUCTURED_REPLY, |_, _| {});
        } else if fixed && !self.config.export_name {
            self.put_go();
        } else {
            self.put_export_name();
        }
        Ok(true)
    }

    fn put_option(&mut self, option: OptionCode, write: impl FnOnce(&ClientConfig, &mut Vec<u8>)) {
        self.body.clear();
        write(&self.config, &mut self.body);
        let len = u32::try_from(self.body.len()).expect("options are short");
        self.tx.put_with::<{ OptionHeader::LEN }>(|out| OptionHeader { option, len }.emit(out));
        self.tx.put(&self.body);
        self.body.clear();
        self.waiting_for = option;
        self.phase = Phase::OptionReply;
    }

    fn put_go(&mut self) {
        let wanted = [InfoType::BLOCK_SIZE];
        self.put_option(OptionCode::GO, |config, out| {
            InfoRequest::emit(&config.export, &wanted, out);
        });
    }

    fn put_export_name(&mut self) {
        let name = |config: &ClientConfig, out: &mut Vec<u8>| {
            out.extend_from_slice(config.export.as_bytes());
        };
        self.put_option(OptionCode::EXPORT_NAME, name);
        self.phase = Phase::ExportName;
    }

    /// The option after STRUCTURED_REPLY or SET_META_CONTEXT was answered.
    fn next_option(&mut self) {
        let contexts = self.export.structured && self.config.block_status;
        if contexts && self.waiting_for == OptionCode::STRUCTURED_REPLY {
            self.put_option(OptionCode::SET_META_CONTEXT, |config, out| {
                MetaRequest::emit(&config.export, &[BASE_ALLOCATION], out);
            });
        } else if self.config.export_name {
            self.put_export_name();
        } else {
            self.put_go();
        }
    }

    fn step_option_reply(&mut self) -> Step {
        let Some(header) = self.input.header(OptionReplyHeader::parse) else { return Ok(false) };
        let header = header?;
        if header.option != self.waiting_for {
            return Err(ClientError::Unexpected("answer to another option"));
        }
        if header.len > NBD_OPTION_MAX {
            return Err(Malformed::Length("option reply").into());
        }
        self.body.clear();
        self.phase = Phase::OptionBody(header);
        Ok(true)
    }

    /// Collects bytes in `self.body`; true when there are `len`.
    fn collect(&mut self, len: u32) -> bool {
        while let Some(piece) = self.input.take(len as usize - self.body.len()) {
            self.body.extend_from_slice(&piece);
        }
        self.body.len() == len as usize
    }

    fn step_option_body(&mut self, header: OptionReplyHeader) -> Step {
        if !self.collect(header.len) {
            return Ok(false);
        }
        self.phase = Phase::OptionReply;
        let go = header.option == OptionCode::GO;
        match header.kind {
            ReplyType::INFO if go => match Info::parse(&self.body)? {
                Info::Export(reply) => {
                    (self.export.size, self.export.flags) = (reply.size, reply.flags);
                    self.described = true;
                }
                Info::BlockSize(sizes) => self.export.sizes = Some(sizes),
                Info::Name(_) | Info::Description(_) | Info::Unknown(_) => {}
            },
            ReplyType::META_CONTEXT if header.option == OptionCode::SET_META_CONTEXT => {
                let context = MetaContext::parse(&self.body)?;
                if context.name == BASE_ALLOCATION {
                    self.export.context = Some(context.id);
                }
            }
            ReplyType::ACK if go && self.described => self.ready(),
            ReplyType::ACK if go => return Err(ClientError::Unexpected("GO without a size")),
            ReplyType::ACK => {
                self.export.structured |= header.option == OptionCode::STRUCTURED_REPLY;
                self.next_option();
            }
            ReplyType::ERR_UNSUP if go => self.put_export_name(),
            kind if kind.is_error() && go => {
                let message = String::from_utf8_lossy(&self.body).into_owned();
                return Err(ClientError::Refused { kind, message });
            }
            kind if kind.is_error() => self.next_option(),
            ReplyType(_) => return Err(ClientError::Unexpected("option reply")),
        }
        Ok(true)
    }

    fn step_export_name(&mut self) -> Step {
        let Some(reply) = self.input.header(ExportNameReply::parse) else { return Ok(false) };
        (self.export.size, self.export.flags) = (reply.size, reply.flags);
        if self.no_zeroes {
            self.ready();
        } else {
            self.phase = Phase::Zeroes(ExportNameReply::ZEROES as u32);
        }
        Ok(true)
    }

    fn ready(&mut self) {
        self.phase = Phase::Reply;
        self.events.push_back(ClientEvent::Ready(self.export));
    }

    fn find(&mut self, cookie: u64) -> Result<(usize, &mut Pending), ClientError> {
        let slot = usize::try_from(cookie).unwrap_or(usize::MAX);
        match self.slots.get_mut(slot) {
            Some(Some(pending)) => Ok((slot, pending)),
            Some(None) | None => Err(ClientError::Unexpected("reply to no request")),
        }
    }

    fn step_reply(&mut self) -> Step {
        let Some(head) = self.input.header(|head: &[u8; SimpleReply::LEN]| *head) else {
            return Ok(false);
        };
        if head[..4] == CHUNK_MAGIC.to_be_bytes() && self.export.structured {
            self.phase = Phase::ChunkLen(head);
            return Ok(true);
        }
        let SimpleReply { error, cookie } = SimpleReply::parse(&head)?;
        let structured = self.export.structured;
        let (slot, pending) = self.find(cookie)?;
        let read = pending.command == Command::READ;
        if structured && (read || (pending.command == Command::BLOCK_STATUS && error == 0)) {
            return Err(ClientError::Unexpected("simple reply"));
        }
        if error != 0 {
            pending.error = Some(NbdError::from_code(error));
        } else if read && pending.len > 0 {
            pending.parts.push((pending.offset, Payload::new()));
            self.phase = Phase::Data(slot, pending.len, true);
            return Ok(true);
        }
        self.finish(slot)
    }

    fn step_data(&mut self, slot: usize, left: u32, last: bool) -> Step {
        let Some(piece) = self.input.take(left as usize) else { return Ok(false) };
        let left = left - piece.len() as u32;
        self.phase = Phase::Data(slot, left, last);
        let pending = self.slots[slot].as_mut().expect("data belongs to a request in flight");
        let (_, part) = pending.parts.last_mut().expect("a part was begun with the header");
        part.push(piece);
        if left > 0 {
            return Ok(true);
        }
        self.phase = Phase::Reply;
        if last { self.finish(slot) } else { Ok(true) }
    }

    fn step_chunk(&mut self, head: [u8; SimpleReply::LEN]) -> Step {
        let Some(len) = self.input.header(|len: &[u8; 4]| *len) else { return Ok(false) };
        let mut bytes = [0; ChunkHeader::LEN];
        bytes[..16].copy_from_slice(&head);
        bytes[16..].copy_from_slice(&len);
        let header = ChunkHeader::parse(&bytes)?;
        let (slot, _) = self.find(header.cookie)?;
        if header.kind == ChunkType::OFFSET_DATA {
            if header.len <= 8 {
                return Err(Malformed::Length("data chunk").into());
            }
            self.phase = Phase::ChunkOffset(slot, header);
        } else if header.len > NBD_PAYLOAD_CONSUMED_MAX {
            return Err(Malformed::Length("reply chunk").into());
        } else {
            self.body.clear();
            self.phase = Phase::ChunkBody(slot, header);
        }
        Ok(true)
    }

    fn step_chunk_offset(&mut self, slot: usize, header: ChunkHeader) -> Step {
        let Some(offset) = self.input.header(|bytes| u64::from_be_bytes(*bytes)) else {
            return Ok(false);
        };
        let pending = self.slots[slot].as_mut().expect("a chunk belongs to a request in flight");
        pending.part(offset, header.len - 8)?;
        self.phase = Phase::Data(slot, header.len - 8, header.is_last());
        Ok(true)
    }

    fn step_chunk_body(&mut self, slot: usize, header: ChunkHeader) -> Step {
        if !self.collect(header.len) {
            return Ok(false);
        }
        self.phase = Phase::Reply;
        let pending = self.slots[slot].as_mut().expect("a chunk belongs to a request in flight");
        let body = ChunkBody::parse(header.kind, &self.body)?;
        match &body {
            ChunkBody::None if header.is_last() => {}
            ChunkBody::Error { error, .. } => pending.error = Some(NbdError::from_code(*error)),
            ChunkBody::Hole { offset, len } => {
                pending.part(*offset, *len)?;
                pending.parts.last_mut().expect("just begun").1 = zeroes(*len);
            }
            ChunkBody::BlockStatus { context, .. } if Some(*context) == self.export.context => {
                pending.extents = body.extents().collect();
            }
            ChunkBody::None | ChunkBody::BlockStatus { .. } | ChunkBody::Data { .. } => {
                return Err(ClientError::Unexpected("reply chunk"));
            }
        }
        if header.is_last() { self.finish(slot) } else { Ok(true) }
    }

    /// The reply is complete: the parts of a READ must cover it without overlap.
    fn finish(&mut self, slot: usize) -> Step {
        let mut pending = self.slots[slot].take().expect("a reply belongs to a request in flight");
        self.free.push(slot);
        let result = match (pending.error, pending.command) {
            (Some(error), _) => Err(error),
            (None, Command::READ) => {
                pending.parts.sort_unstable_by_key(|(offset, _)| *offset);
                let (mut data, mut at) = (Payload::new(), pending.offset);
                for (offset, part) in pending.parts {
                    if offset != at {
                        return Err(ClientError::Unexpected(
                            "gap or overlap in the data of a read",
                        ));
                    }
                    at += part.len() as u64;
                    data.append(part);
                }
                if data.len() != pending.len as usize {
                    return Err(ClientError::Unexpected("length of the data of a read"));
                }
                Ok(Answer::Data(data))
            }
            (None, Command::BLOCK_STATUS) if pending.extents.is_empty() => {
                return Err(ClientError::Unexpected("block status without extents"));
            }
            (None, Command::BLOCK_STATUS) => Ok(Answer::Extents(pending.extents)),
            (None, Command(_)) => Ok(Answer::Done),
        };
        self.events.push_back(ClientEvent::Done { token: pending.token, result });
        Ok(true)
    }
}

/// Zeroes without memory of their own.
fn zeroes(len: u32) -> Payload {
    static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];
    let (mut out, mut left) = (Payload::new(), len as usize);
    while left > 0 {
        let n = left.min(ZEROES.len());
        out.push(Bytes::from_static(&ZEROES[..n]));
        left -= n;
    }
    out
}
