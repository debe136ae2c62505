//! Scripted conversations with a server connection, byte for byte. The requests here are spelled out by
//! hand; `pair.rs` drives the same connection by our own client, `streams.rs` by arbitrary bytes.

mod handshake;
mod pair;
mod streams;
mod transmission;

use super::*;
use crate::base::Payload;
use crate::limits::NBD_PAYLOAD_MAX;
use crate::wire::nbd::Command;

pub(super) const INFO: ExportInfo = ExportInfo {
    size: 1 << 30,
    block_size: 512,
    preferred: 4096,
    max_payload: NBD_PAYLOAD_MAX,
    read_only: false,
    rotational: false,
    trim: true,
    write_zeroes: true,
    fast_zero: true,
    cache: true,
    multi_conn: true,
};

/// A server connection, what it said, and what it wants.
pub(super) struct Server {
    pub(super) connection: Connection,
    pub(super) now: Instant,
    pub(super) out: Vec<u8>,
    pub(super) requests: VecDeque<Request>,
    pub(super) opened: Vec<(String, Purpose)>,
    pub(super) closed: Option<CloseReason>,
    /// Answer to every Open; `None` leaves them open.
    pub(super) export: Option<Result<ExportInfo, OpenError>>,
}

pub(super) fn catalog() -> Catalog {
    let entry = |name: &str, description: &str| CatalogEntry {
        name: name.to_owned(),
        description: description.to_owned(),
    };
    Catalog::new(vec![entry("vm0", "disk"), entry("vm1", "")], Some(0))
}

impl Server {
    pub(super) fn new() -> Server {
        Server::with(catalog())
    }

    pub(super) fn with(catalog: Catalog) -> Server {
        let now = Instant::from_millis(1000);
        let mut server = Server {
            connection: Connection::new(now, catalog),
            now,
            out: Vec::new(),
            requests: VecDeque::new(),
            opened: Vec::new(),
            closed: None,
            export: Some(Ok(INFO)),
        };
        server.pump();
        server
    }

    /// A connection in the transmission phase, with or without structured replies and block status.
    pub(super) fn transmitting(structured: bool) -> Server {
        Server::transmitting_to(structured, INFO)
    }

    pub(super) fn transmitting_to(structured: bool, info: ExportInfo) -> Server {
        let mut server = Server::new();
        server.export = Some(Ok(info));
        server.feed(&[0, 0, 0, 3]);
        if structured {
            server.feed(&option(8, b""));
            server.feed(&option(10, b"\0\0\0\x03vm0\0\0\0\x01\0\0\0\x0fbase:allocation"));
        }
        server.feed(&option(7, b"\0\0\0\x03vm0\0\0"));
        server.said();
        server
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.connection.handle_received(self.now, Bytes::copy_from_slice(bytes));
        self.pump();
    }

    /// Polls until nothing happens any more.
    pub(super) fn pump(&mut self) {
        loop {
            let mut moved = false;
            while let Some(event) = self.connection.poll_event() {
                moved = true;
                self.handle(event);
            }
            let mut segments = Vec::new();
            moved |= self.connection.tx().take(usize::MAX, &mut segments) > 0;
            self.out.extend(segments.iter().flatten());
            if !moved {
                return;
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Open { name, purpose } => {
                self.opened.push((name, purpose));
                if let Some(result) = self.export {
                    self.connection.open(self.now, result);
                }
            }
            Event::Request(request) => self.requests.push_back(request),
            Event::Closed(reason) => {
                assert_eq!(self.closed, None, "a connection closes once");
                self.closed = Some(reason);
            }
        }
    }

    /// What it said since the last call.
    pub(super) fn said(&mut self) -> Vec<u8> {
        self.pump();
        std::mem::take(&mut self.out)
    }

    pub(super) fn request(&mut self) -> Request {
        self.requests.pop_front().expect("a request was handed out")
    }

    pub(super) fn reply(&mut self, handle: Handle, result: Result<Reply, NbdError>) {
        self.connection.reply(handle, result);
        self.pump();
    }

    /// Answers the oldest request well, READ by `byte`s.
    pub(super) fn serve(&mut self, byte: u8) {
        let Request { handle, kind, len, .. } = self.request();
        let reply = match kind {
            Kind::Read { .. } => Reply::Data(Payload::from(vec![byte; len as usize])),
            Kind::BlockStatus { .. } => Reply::Extents(Vec::new()),
            Kind::Write(_) | Kind::Flush | Kind::Trim | Kind::WriteZeroes { .. } | Kind::Cache => {
                Reply::Done
            }
        };
        self.reply(handle, Ok(reply));
    }

    /// The connection still works: a READ goes through.
    pub(super) fn assert_in_step(&mut self, structured: bool) {
        self.said();
        self.feed(&request(0, Command::READ, 0x77, 0, 1));
        assert_eq!(self.closed, None);
        self.serve(0x42);
        let expect = if structured {
            data(0x77, 0, &[0x42])
        } else {
            [simple(0, 0x77), vec![0x42]].concat()
        };
        assert_eq!(self.said(), expect);
    }
}

pub(super) fn option(code: u32, data: &[u8]) -> Vec<u8> {
    let len = data.len() as u32;
    [b"IHAVEOPT", &code.to_be_bytes()[..], &len.to_be_bytes(), data].concat()
}

pub(super) fn option_reply(code: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let len = data.len() as u32;
    let magic = [0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9];
    [&magic, &code.to_be_bytes()[..], &kind.to_be_bytes(), &len.to_be_bytes(), data].concat()
}

pub(super) fn request(flags: u16, command: Command, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    [
        &[0x25, 0x60, 0x95, 0x13][..],
        &flags.to_be_bytes(),
        &command.0.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &len.to_be_bytes(),
    ]
    .concat()
}

pub(super) fn simple(error: u32, cookie: u64) -> Vec<u8> {
    [&[0x67, 0x44, 0x66, 0x98][..], &error.to_be_bytes(), &cookie.to_be_bytes()].concat()
}

pub(super) fn chunk(flags: u16, kind: u16, cookie: u64, body: &[u8]) -> Vec<u8> {
    let len = body.len() as u32;
    [
        &[0x66, 0x8e, 0x33, 0xef][..],
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &cookie.to_be_bytes(),
        &len.to_be_bytes(),
        body,
    ]
    .concat()
}

pub(super) fn data(cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    chunk(1, 1, cookie, &[&offset.to_be_bytes(), data].concat())
}

pub(super) fn error_chunk(cookie: u64, error: u32) -> Vec<u8> {
    chunk(1, 0x8001, cookie, &[&error.to_be_bytes()[..], &[0, 0]].concat())
}
