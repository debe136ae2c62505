//! Our own client against the server connection, in memory, at any segmentation: a small model device tells
//! whether what is read is what was written.

use super::*;
use crate::export::client::{Answer, Client, ClientConfig, ClientError, ClientEvent, Exported, Op};
use crate::wire::nbd::reply::Extent;
use crate::wire::nbd::{ReplyType, command_flags, extent_flags};
use proptest::prelude::*;

const SIZE: usize = 64 * 1024;

/// Both ends and a device in memory.
struct Pair {
    client: Client,
    server: Connection,
    disk: Vec<u8>,
    segment: usize,
    info: ExportInfo,
    ready: Option<Exported>,
    done: Vec<(u64, Result<Answer, NbdError>)>,
    ended: Option<ClientError>,
    closed: Option<CloseReason>,
    /// Requests of the batch are answered last first.
    backwards: bool,
}

impl Pair {
    fn new(config: ClientConfig, segment: usize) -> Pair {
        let server = Connection::new(Instant::ZERO, catalog());
        let info = ExportInfo { size: SIZE as u64, ..INFO };
        let mut pair = Pair {
            client: Client::new(config),
            server,
            disk: vec![0; SIZE],
            segment,
            info,
            ready: None,
            done: Vec::new(),
            ended: None,
            closed: None,
            backwards: false,
        };
        pair.run();
        pair
    }

    /// Carries bytes to and fro until nothing moves.
    fn run(&mut self) {
        loop {
            let to_client = taken(self.server.tx());
            let to_server = taken(self.client.tx());
            for piece in pieces(&to_client, self.segment) {
                self.client.handle_received(piece);
            }
            for piece in pieces(&to_server, self.segment) {
                self.server.handle_received(Instant::ZERO, piece);
            }
            let moved = self.serve() | !to_client.is_empty() | !to_server.is_empty();
            while let Some(event) = self.client.poll_event() {
                match event {
                    ClientEvent::Ready(export) => self.ready = Some(export),
                    ClientEvent::Done { token, result } => self.done.push((token, result)),
                    ClientEvent::Closed(error) => self.ended = Some(error),
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn serve(&mut self) -> bool {
        let mut requests = Vec::new();
        let mut moved = false;
        while let Some(event) = self.server.poll_event() {
            moved = true;
            match event {
                Event::Open { .. } => self.server.open(Instant::ZERO, Ok(self.info)),
                Event::Request(request) => requests.push(request),
                Event::Closed(reason) => {
                    self.closed = Some(reason);
                    self.client.handle_eof();
                }
            }
        }
        if self.backwards {
            requests.reverse();
        }
        for Request { handle, kind, offset, len, .. } in requests {
            let (from, to) = (offset as usize, offset as usize + len as usize);
            let reply = match kind {
                Kind::Read { .. } => Reply::Data(self.disk[from..to].to_vec().into()),
                Kind::Write(payload) => {
                    payload.copy_to(0, &mut self.disk[from..to]);
                    Reply::Done
                }
                Kind::WriteZeroes { .. } => {
                    self.disk[from..to].fill(0);
                    Reply::Done
                }
                Kind::BlockStatus { .. } => Reply::Extents(vec![
                    Extent { len: 512, flags: extent_flags::HOLE | extent_flags::ZERO },
                    Extent { len: u64::from(len), flags: 0 },
                ]),
                Kind::Flush | Kind::Trim | Kind::Cache => Reply::Done,
            };
            self.server.reply(handle, Ok(reply));
        }
        moved
    }

    fn ask(&mut self, op: Op) -> Result<Answer, NbdError> {
        self.client.submit(77, op);
        self.run();
        let (token, result) = self.done.pop().expect("an answer came");
        assert_eq!((token, self.client.in_flight(), self.server.in_flight()), (77, 0, 0));
        result
    }

    fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, NbdError> {
        match self.ask(Op::Read { offset, len })? {
            Answer::Data(data) => Ok(data.to_vec()),
            other => panic!("{other:?}"),
        }
    }
}

fn taken(tx: &mut TxQueue) -> Vec<u8> {
    let mut segments = Vec::new();
    tx.take(usize::MAX, &mut segments);
    segments.concat()
}

fn pieces(bytes: &[u8], segment: usize) -> Vec<Bytes> {
    bytes.chunks(segment).map(Bytes::copy_from_slice).collect()
}

fn configs() -> Vec<ClientConfig> {
    let mut configs = Vec::new();
    for bits in 0..8 {
        let [structured, block_status, export_name] = [1, 2, 4].map(|bit| bits & bit != 0);
        configs.push(ClientConfig {
            structured,
            block_status,
            export_name,
            ..ClientConfig::new("")
        });
    }
    configs
}

/// Every way of shaking hands, byte by byte and in large chunks.
#[test]
fn handshakes_and_commands() {
    for config in configs() {
        for segment in [1, 7, usize::MAX] {
            let mut pair = Pair::new(config.clone(), segment);
            let export = pair.ready.expect("the handshake succeeds");
            assert_eq!(export.size, SIZE as u64);
            assert_eq!(export.structured, config.structured);
            assert_eq!(export.context.is_some(), config.structured && config.block_status);
            assert_eq!(export.sizes.is_some(), !config.export_name);
            assert_eq!(export.flags, pair.info.flags(config.structured));

            let data: Vec<u8> = (0..3000_u32).map(|at| (at * 7) as u8).collect();
            let write = Op::Write { offset: 100, data: data.clone().into(), fua: true };
            assert!(matches!(pair.ask(write), Ok(Answer::Done)));
            assert_eq!(pair.read(100, 3000), Ok(data));
            assert_eq!(pair.read(0, 0), Ok(vec![]));
            assert_eq!(pair.read(SIZE as u64, 1), Err(NbdError::Invalid));
            let other = |command, flags, len| Op::Other { command, flags, offset: 0, len };
            assert!(pair.ask(other(Command::FLUSH, 0, 0)).is_ok());
            assert!(pair.ask(other(Command::TRIM, 0, 512)).is_ok());
            assert!(pair.ask(other(Command::CACHE, 0, 512)).is_ok());
            let zero = other(Command::WRITE_ZEROES, command_flags::NO_HOLE, 1000);
            assert!(pair.ask(zero).is_ok());
            assert_eq!(pair.read(100, 900), Ok(vec![0; 900]));
            let beyond = Op::Write { offset: SIZE as u64, data: vec![1].into(), fua: false };
            assert!(matches!(pair.ask(beyond), Err(NbdError::NoSpace)));
            match (pair.ask(other(Command::BLOCK_STATUS, 0, 4096)), export.context) {
                (Ok(Answer::Extents(extents)), Some(_)) => assert_eq!(extents.len(), 2),
                (Err(NbdError::Invalid), None) => {}
                (other, _) => panic!("{other:?}"),
            }
            pair.client.disconnect();
            pair.run();
            assert_eq!(pair.closed, Some(CloseReason::Disconnected));
            assert_eq!(pair.ended, Some(ClientError::Eof));
            assert!(pair.server.is_finished());
        }
    }
}

/// An unknown export: GO tells why, EXPORT_NAME can only hang up.
#[test]
fn unknown_export() {
    let pair = Pair::new(ClientConfig::new("vm9"), 3);
    let Some(ClientError::Refused { kind, message }) = pair.ended else { panic!() };
    assert_eq!((kind, &*message), (ReplyType::ERR_UNKNOWN, "no such export"));
    let pair = Pair::new(ClientConfig { export_name: true, ..ClientConfig::new("vm9") }, 3);
    assert_eq!((pair.ended, pair.closed), (Some(ClientError::Eof), Some(CloseReason::Refused)));
}

proptest! {
    /// Whatever the segmentation and the order of completion, reads see what was written.
    #[test]
    fn a_model_agrees(
        ops in prop::collection::vec((any::<bool>(), 0..SIZE, 1usize..9000, any::<u8>()), 1..24),
        segment in prop_oneof![1usize..64, 1000usize..20_000],
        structured: bool,
        backwards: bool,
    ) {
        let config = ClientConfig { structured, ..ClientConfig::new("vm0") };
        let mut pair = Pair::new(config, segment.max(16));
        let mut model = vec![0; SIZE];
        for (write, offset, len, byte) in ops {
            let len = len.min(SIZE - offset);
            if write {
                let data: Vec<u8> = (0..len).map(|at| byte.wrapping_add(at as u8)).collect();
                model[offset..offset + len].copy_from_slice(&data);
                let op = Op::Write { offset: offset as u64, data: data.into(), fua: false };
                prop_assert!(pair.ask(op).is_ok());
            } else {
                let read = pair.read(offset as u64, len as u32);
                prop_assert!(read.is_ok_and(|data| data == model[offset..offset + len]));
            }
        }
        // All at once: each answer finds its request.
        pair.backwards = backwards;
        for token in 0..16 {
            pair.client.submit(token, Op::Read { offset: token * 4096, len: 4096 });
        }
        pair.run();
        prop_assert_eq!(pair.done.len(), 16);
        for (token, result) in pair.done {
            let Ok(Answer::Data(data)) = result else { panic!("{result:?}") };
            let at = token as usize * 4096;
            prop_assert!(data.to_vec() == model[at..at + 4096]);
        }
    }
}

/// What a server may not do: each contradiction ends the client's connection.
#[test]
fn hostile_servers() {
    let hello = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
    let go = [
        option_reply(8, 1, b""),
        option_reply(10, 4, b"\0\0\0\x01base:allocation"),
        option_reply(10, 1, b""),
        option_reply(7, 3, b"\0\0\0\0\0\0\x40\0\0\0\x0d\x6d"),
        option_reply(7, 1, b""),
    ];
    let ready = [hello.clone(), go.concat()].concat();
    let after_hello = |bytes: Vec<u8>| [hello.clone(), bytes].concat();
    let after_ready = |bytes: Vec<u8>| [ready.clone(), bytes].concat();
    let mut oversize = option_reply(8, 0x8000_0001, b"");
    oversize[16..20].fill(0xff);
    let two = chunk(0, 1, 0, b"\0\0\0\0\0\0\0\0abcd");
    let huge_hole = chunk(1, 2, 0, b"\0\0\0\0\0\0\0\0\xff\xff\xff\xff");
    let cases = [
        ("oldstyle", b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0".to_vec()),
        ("another option", after_hello(option_reply(7, 1, b""))),
        ("long option reply", after_hello(oversize)),
        ("strange option reply", after_hello(option_reply(8, 2, b""))),
        ("GO without a size", after_hello([&go[..3].concat()[..], &go[4]].concat())),
        ("unknown magic", after_ready(vec![0; 16])),
        ("unknown cookie", after_ready(simple(0, 9))),
        ("simple reply to READ", after_ready(simple(5, 0))),
        ("data before the range", after_ready(data(0, 7, &[1; 8]))),
        ("too little data", after_ready(data(0, 0, &[1; 7]))),
        ("too much data", after_ready(data(0, 0, &[1; 9]))),
        ("overlap", after_ready([two.clone(), two.clone(), data(0, 4, &[1; 4])].concat())),
        ("gap", after_ready([two, data(0, 5, &[1; 4])].concat())),
        ("huge hole", after_ready(huge_hole)),
        ("block status for READ", after_ready(chunk(1, 5, 0, &[0; 12]))),
        ("NONE without DONE", after_ready(chunk(0, 0, 0, b""))),
        ("error number 0", after_ready(error_chunk(0, 0))),
    ];
    for (what, bytes) in cases {
        let mut client = Client::new(ClientConfig::new("vm0"));
        let (first, rest) = bytes.split_at(ready.len().min(bytes.len()));
        client.handle_received(Bytes::copy_from_slice(first));
        client.submit(1, Op::Read { offset: 0, len: 8 });
        client.handle_received(Bytes::copy_from_slice(rest));
        let mut last = None;
        while let Some(event) = client.poll_event() {
            assert!(!matches!(event, ClientEvent::Done { .. }), "{what}: {event:?}");
            last = Some(event);
        }
        assert!(matches!(last, Some(ClientEvent::Closed(_))), "{what}: {last:?}");
    }
}
