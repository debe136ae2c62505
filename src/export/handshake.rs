//! Haggling, the server's side: which option gets which answer.
//!
//! [`Handshake`] holds what was agreed on so far and writes option replies; it decides by table
//! ([`Handshake::begin`] by header alone, [`Handshake::body`] with the data) and tells the connection what
//! comes next. Nothing of the device is touched before the client has chosen an export.
//!
//! Not here: TLS and extended headers, which are answered as unknown options.

use super::check::Negotiated;
use super::types::{Catalog, CloseReason, ExportInfo, OpenError, Purpose, Violation};
use crate::base::{Instant, TxQueue};
use crate::limits::{
    NBD_HANDSHAKE_TIMEOUT, NBD_OPTION_MAX, NBD_OPTIONS_PER_CONNECTION_MAX, NBD_PAYLOAD_MAX,
    NBD_STRING_MAX,
};
use crate::wire::nbd::haggle::{
    ExportNameReply, Greeting, Info, InfoRequest, OptionHeader, OptionReplyHeader, ServerRecord,
};
use crate::wire::nbd::meta::{BASE_ALLOCATION, MetaContext, MetaRequest};
use crate::wire::nbd::{InfoType, OptionCode, ReplyType, handshake_flags, text};

/// What we offer in the greeting.
const FLAGS: u16 = handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES;

/// Id of `base:allocation` in block status chunks.
pub(super) const CONTEXT_ID: u32 = 1;

/// What was agreed on so far.
pub(super) struct Handshake {
    catalog: Catalog,
    fixed: bool,
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was selected.
    context_for: Option<usize>,
    options: u32,
    deadline: Instant,
    opening: Option<Opening>,
    /// Data of the option that is being received.
    pub(super) data: Vec<u8>,
    reply: Vec<u8>,
}

/// An export that was chosen and is being opened.
#[derive(Clone, Copy)]
struct Opening {
    purpose: Purpose,
    option: OptionCode,
    export: usize,
    name: bool,
    description: bool,
    since: Instant,
}

/// How to go on after an option's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Collect its data.
    Collect,
    /// Consume its data, then answer.
    Skip(Answer),
    /// Hard disconnect.
    Close(CloseReason),
}

/// Answer to an option whose data does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Acknowledge and end the connection.
    Abort,
    /// An error; stay in step.
    Error(ReplyType, &'static str),
}

/// How to go on after an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Next option.
    Haggle,
    /// Ask the driver to open the export of this index.
    Open(usize, Purpose),
    /// Transmission begins.
    Transmit,
    /// End the connection.
    Close(CloseReason),
}

impl Handshake {
    /// Greets the client.
    pub(super) fn new(now: Instant, catalog: Catalog, tx: &mut TxQueue) -> Handshake {
        tx.put_with::<{ Greeting::LEN }>(|out| Greeting { flags: FLAGS }.emit(out));
        Handshake {
            catalog,
            fixed: false,
            no_zeroes: false,
            structured: false,
            context_for: None,
            options: 0,
            deadline: now + NBD_HANDSHAKE_TIMEOUT,
            opening: None,
            data: Vec::new(),
            reply: Vec::new(),
        }
    }

    /// When the handshake must be over. The time that the driver takes to open an export does not count.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Moves the deadline forward.
    pub(super) fn hurry(&mut self, deadline: Instant) {
        self.deadline = self.deadline.min(deadline);
    }

    /// The name in the catalog.
    pub(super) fn export_name(&self, export: usize) -> &str {
        &self.catalog.entries()[export].name
    }

    /// Section *Client flags*.
    pub(super) fn client_flags(&mut self, flags: u32) -> Result<(), Violation> {
        if flags & !u32::from(FLAGS) != 0 {
            return Err(Violation::ClientFlags(flags));
        }
        self.fixed = flags & u32::from(handshake_flags::FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(handshake_flags::NO_ZEROES) != 0;
        Ok(())
    }

    /// Decides by the header of an option. `stopping`: the daemon shuts down.
    pub(super) fn begin(&mut self, header: OptionHeader, stopping: bool) -> Next {
        let OptionHeader { option, len } = header;
        self.options += 1;
        if self.options > NBD_OPTIONS_PER_CONNECTION_MAX {
            return Next::Close(Violation::TooManyOptions.into());
        }
        if !self.fixed && option != OptionCode::EXPORT_NAME {
            return Next::Close(Violation::NotFixed(option).into());
        }
        if len > NBD_PAYLOAD_MAX {
            return Next::Close(Violation::OptionTooLong { option, len }.into());
        }
        if option == OptionCode::SET_META_CONTEXT {
            // Replaces the old selection even if it fails.
            self.context_for = None;
        }
        let error = |kind, text| Next::Skip(Answer::Error(kind, text));
        match option {
            OptionCode::ABORT => Next::Skip(Answer::Abort),
            OptionCode::EXPORT_NAME if stopping => Next::Close(CloseReason::Shutdown),
            OptionCode::EXPORT_NAME if len as usize > NBD_STRING_MAX => {
                Next::Close(CloseReason::Refused)
            }
            OptionCode::EXPORT_NAME => Next::Collect,
            _ if stopping => error(ReplyType::ERR_SHUTDOWN, "the server is shutting down"),
            OptionCode::LIST | OptionCode::STRUCTURED_REPLY if len != 0 => {
                error(ReplyType::ERR_INVALID, "this option carries no data")
            }
            OptionCode::INFO
            | OptionCode::GO
            | OptionCode::LIST_META_CONTEXT
            | OptionCode::SET_META_CONTEXT
                if len > NBD_OPTION_MAX =>
            {
                error(ReplyType::ERR_TOO_BIG, "option too long")
            }
            OptionCode::LIST
            | OptionCode::STRUCTURED_REPLY
            | OptionCode::INFO
            | OptionCode::GO
            | OptionCode::LIST_META_CONTEXT
            | OptionCode::SET_META_CONTEXT => Next::Collect,
            OptionCode::STARTTLS => error(ReplyType::ERR_UNSUP, "this server does not speak TLS"),
            OptionCode(_) => error(ReplyType::ERR_UNSUP, "unknown option"),
        }
    }

    /// Answers an option whose data was skipped.
    pub(super) fn answer(&mut self, option: OptionCode, answer: Answer, tx: &mut TxQueue) -> Then {
        match answer {
            Answer::Abort => {
                put_reply(tx, option, ReplyType::ACK, &[]);
                Then::Close(CloseReason::Aborted)
            }
            Answer::Error(kind, text) => {
                put_reply(tx, option, kind, text.as_bytes());
                Then::Haggle
            }
        }
    }

    /// Acts on an option whose data is complete in `self.data`.
    pub(super) fn body(&mut self, now: Instant, option: OptionCode, tx: &mut TxQueue) -> Then {
        let data = std::mem::take(&mut self.data);
        let then = match option {
            OptionCode::EXPORT_NAME => self.export_name_option(now, &data),
            OptionCode::LIST => self.list(tx),
            OptionCode::STRUCTURED_REPLY => {
                self.structured = true;
                put_reply(tx, option, ReplyType::ACK, &[]);
                Then::Haggle
            }
            OptionCode::INFO | OptionCode::GO => self.info(now, option, &data, tx),
            OptionCode::LIST_META_CONTEXT | OptionCode::SET_META_CONTEXT => {
                self.meta_context(option, &data, tx);
                Then::Haggle
            }
            OptionCode(_) => unreachable!("{option:?} has no data that is collected"),
        };
        self.data = data;
        self.data.clear();
        then
    }

    fn export_name_option(&mut self, now: Instant, data: &[u8]) -> Then {
        let name = text("export name", data).ok();
        let Some(export) = name.and_then(|name| self.catalog.find(name)) else {
            return Then::Close(CloseReason::Refused);
        };
        let (option, purpose) = (OptionCode::EXPORT_NAME, Purpose::ExportName);
        let (name, description, since) = (false, false, now);
        self.opening = Some(Opening { purpose, option, export, name, description, since });
        Then::Open(export, purpose)
    }

    fn list(&mut self, tx: &mut TxQueue) -> Then {
        for entry in self.catalog.entries() {
            self.reply.clear();
            let record = ServerRecord { name: &entry.name, description: &entry.description };
            record.emit(&mut self.reply);
            put_reply(tx, OptionCode::LIST, ReplyType::SERVER, &self.reply);
        }
        put_reply(tx, OptionCode::LIST, ReplyType::ACK, &[]);
        Then::Haggle
    }

    fn info(&mut self, now: Instant, option: OptionCode, data: &[u8], tx: &mut TxQueue) -> Then {
        let Ok(request) = InfoRequest::parse(data) else {
            put_reply(tx, option, ReplyType::ERR_INVALID, b"malformed option");
            return Then::Haggle;
        };
        let Some(export) = self.catalog.find(request.name) else {
            put_reply(tx, option, ReplyType::ERR_UNKNOWN, b"no such export");
            return Then::Haggle;
        };
        let purpose = if option == OptionCode::GO { Purpose::Go } else { Purpose::Info };
        self.opening = Some(Opening {
            purpose,
            option,
            export,
            name: request.wants(InfoType::NAME),
            description: request.wants(InfoType::DESCRIPTION),
            since: now,
        });
        Then::Open(export, purpose)
    }

    fn meta_context(&mut self, option: OptionCode, data: &[u8], tx: &mut TxQueue) {
        let set = option == OptionCode::SET_META_CONTEXT;
        let request = MetaRequest::parse(data);
        let Ok(request) = request else {
            return put_reply(tx, option, ReplyType::ERR_INVALID, b"malformed option");
        };
        if set && !self.structured {
            let text = b"structured replies must be negotiated first";
            return put_reply(tx, option, ReplyType::ERR_INVALID, text);
        }
        let Some(export) = self.catalog.find(request.name) else {
            return put_reply(tx, option, ReplyType::ERR_UNKNOWN, b"no such export");
        };
        let matches =
            if set { request.selects_base_allocation() } else { request.lists_base_allocation() };
        if matches {
            self.reply.clear();
            let id = if set { CONTEXT_ID } else { 0 };
            MetaContext { id, name: BASE_ALLOCATION }.emit(&mut self.reply);
            put_reply(tx, option, ReplyType::META_CONTEXT, &self.reply);
            if set {
                self.context_for = Some(export);
            }
        }
        put_reply(tx, option, ReplyType::ACK, &[]);
    }

    /// The driver's answer to [`Then::Open`].
    pub(super) fn opened(
        &mut self,
        now: Instant,
        result: Result<ExportInfo, OpenError>,
        tx: &mut TxQueue,
    ) -> Then {
        let opening = self.opening.take().expect("an export is being opened");
        self.deadline += now.since(opening.since);
        match (result, opening.purpose) {
            (Ok(info), Purpose::ExportName) => {
                let reply = ExportNameReply { size: info.size, flags: info.flags(self.structured) };
                tx.put_with::<{ ExportNameReply::LEN }>(|out| reply.emit(out));
                if !self.no_zeroes {
                    tx.put(&[0; ExportNameReply::ZEROES]);
                }
                Then::Transmit
            }
            (Ok(info), Purpose::Info | Purpose::Go) => {
                self.describe(opening, &info, tx);
                if opening.purpose == Purpose::Go { Then::Transmit } else { Then::Haggle }
            }
            (Err(OpenError::Shutdown), Purpose::ExportName) => Then::Close(CloseReason::Shutdown),
            (Err(_), Purpose::ExportName) => Then::Close(CloseReason::Refused),
            (Err(error), Purpose::Info | Purpose::Go) => {
                put_reply(tx, opening.option, error.reply_type(), error.to_string().as_bytes());
                Then::Haggle
            }
        }
    }

    /// Section *INFO and GO*: size and flags always, block sizes always (clients ignore what they did not
    /// ask for, and these are worth knowing), names only when asked.
    fn describe(&mut self, opening: Opening, info: &ExportInfo, tx: &mut TxQueue) {
        let entry = &self.catalog.entries()[opening.export];
        let flags = info.flags(self.structured);
        let export = Info::Export(ExportNameReply { size: info.size, flags });
        let name = opening.name.then_some(Info::Name(&entry.name));
        let description = opening.description && !entry.description.is_empty();
        let description = description.then_some(Info::Description(&entry.description));
        let sizes = Info::BlockSize(info.block_sizes());
        for info in [Some(export), name, description, Some(sizes)].into_iter().flatten() {
            self.reply.clear();
            info.emit(&mut self.reply);
            put_reply(tx, opening.option, ReplyType::INFO, &self.reply);
        }
        put_reply(tx, opening.option, ReplyType::ACK, &[]);
    }

    /// What transmission needs to know. `export` is the one that was opened last.
    pub(super) fn negotiated(&self, export: usize, info: &ExportInfo) -> Negotiated {
        Negotiated {
            size: info.size,
            flags: info.flags(self.structured),
            structured: self.structured,
            base_allocation: self.context_for == Some(export),
        }
    }

    /// Index of the export that is being opened.
    pub(super) fn opening(&self) -> Option<usize> {
        self.opening.map(|opening| opening.export)
    }
}

fn put_reply(tx: &mut TxQueue, option: OptionCode, kind: ReplyType, data: &[u8]) {
    let len = u32::try_from(data.len()).expect("option replies are short");
    tx.put_with::<{ OptionReplyHeader::LEN }>(|out| {
        OptionReplyHeader { option, kind, len }.emit(out)
    });
    tx.put(data);
}
