//! Transmission: every command, refusals, order, backpressure and the ways to end.

use super::*;
use crate::limits::{NBD_BUDGET_DEFAULT, NBD_PAYLOAD_TIMEOUT, REQUESTS_PER_LANE_MAX};
use crate::wire::nbd::reply::Extent;

const READ: Command = Command::READ;
const WRITE: Command = Command::WRITE;

/// Section *Simple reply message*: READ, WRITE and the rest, cookies bit-exact.
#[test]
fn simple_replies() {
    let mut server = Server::transmitting(false);
    server.feed(&request(0, READ, u64::MAX, 4096, 3));
    let seen = server.request();
    assert!(matches!(seen.kind, Kind::Read { df: false }));
    assert_eq!((seen.offset, seen.len, seen.fua), (4096, 3, false));
    server.reply(seen.handle, Ok(Reply::Data(Payload::from(vec![1, 2, 3]))));
    assert_eq!(server.said(), [simple(0, u64::MAX), vec![1, 2, 3]].concat());

    server.feed(&[request(1, WRITE, 0x8000_0000_0000_0001, 512, 4), vec![9, 8, 7, 6]].concat());
    let seen = server.request();
    let Kind::Write(payload) = &seen.kind else { panic!("{seen:?}") };
    assert_eq!(
        (payload.to_vec(), seen.offset, seen.len, seen.fua),
        (vec![9, 8, 7, 6], 512, 4, true)
    );
    server.reply(seen.handle, Ok(Reply::Done));
    assert_eq!(server.said(), simple(0, 0x8000_0000_0000_0001));

    for (command, flags, offset, len) in [
        (Command::FLUSH, 0, 0, 0),
        (Command::TRIM, 1, 512, 1 << 20),
        (Command::WRITE_ZEROES, 1, 0, 1 << 30),
        (Command::CACHE, 1, 0, 4096),
    ] {
        server.feed(&request(flags, command, 3, offset, len));
        let seen = server.request();
        assert_eq!((seen.offset, seen.len), (offset, len));
        let writes = matches!(seen.kind, Kind::Trim | Kind::WriteZeroes { .. });
        assert_eq!(seen.fua, writes && flags == 1);
        server.reply(seen.handle, Ok(Reply::Done));
        assert_eq!(server.said(), simple(0, 3));
    }
    assert_eq!(server.connection.in_flight(), 0);
}

/// Section *Structured reply chunk message*: READ is answered by one chunk with DONE, with and without DF;
/// commands without a payload in the reply stay simple.
#[test]
fn structured_replies() {
    let mut server = Server::transmitting(true);
    for flags in [0, 4] {
        server.feed(&request(flags, READ, 7, 1024, 2));
        let seen = server.request();
        assert!(matches!(seen.kind, Kind::Read { df } if df == (flags == 4)));
        server.reply(seen.handle, Ok(Reply::Data(Payload::from(vec![5, 6]))));
        assert_eq!(server.said(), data(7, 1024, &[5, 6]));
    }
    server.feed(&[request(0, WRITE, 8, 0, 1), vec![1]].concat());
    server.serve(0);
    assert_eq!(server.said(), simple(0, 8));
    server.feed(&request(0, READ, 9, 0, 512));
    let seen = server.request();
    server.reply(seen.handle, Err(NbdError::Io));
    assert_eq!(server.said(), error_chunk(9, 5));
    // Nothing to read: a chunk all the same.
    server.feed(&request(0, READ, 10, 0, 0));
    assert_eq!(server.said(), chunk(1, 0, 10, b""));
}

/// Section *NBD_CMD_READ*: a reply with an error never carries data.
#[test]
fn failures_of_the_device() {
    for error in NbdError::ALL {
        let mut server = Server::transmitting(false);
        server.feed(&request(0, READ, 1, 0, 4096));
        let handle = server.request().handle;
        server.reply(handle, Err(error));
        // ENOTSUP belongs to FAST_ZERO alone.
        let code = if error == NbdError::NotSupported { 22 } else { error.code() };
        assert_eq!(server.said(), simple(code, 1));
    }
    let mut server = Server::transmitting(false);
    for (flags, no_hole, fast, code) in
        [(0x10, false, true, 95), (0x12, true, true, 95), (0x02, true, false, 22)]
    {
        server.feed(&request(flags, Command::WRITE_ZEROES, 1, 0, 4096));
        let seen = server.request();
        assert!(
            matches!(seen.kind, Kind::WriteZeroes { no_hole: n, fast: f } if (n, f) == (no_hole, fast))
        );
        server.reply(seen.handle, Err(NbdError::NotSupported));
        assert_eq!(server.said(), simple(code, 1));
    }
}

/// Section *NBD_CMD_BLOCK_STATUS*.
#[test]
fn block_status() {
    let mut server = Server::transmitting(true);
    let extent = |len, flags| Extent { len, flags };
    let body = |pairs: &[(u32, u32)]| {
        let mut out = vec![0, 0, 0, 1];
        for (len, flags) in pairs {
            out.extend([len.to_be_bytes(), flags.to_be_bytes()].concat());
        }
        out
    };
    let extents = vec![extent(512, 3), extent(0, 9), extent(8192, 0), extent(512, 3)];
    for (flags, expect) in [(0, &[(512, 3), (8192, 0)][..]), (8, &[(512, 3)])] {
        server.feed(&request(flags, Command::BLOCK_STATUS, 1, 0, 4096));
        let seen = server.request();
        assert!(matches!(seen.kind, Kind::BlockStatus { one } if one == (flags == 8)));
        server.reply(seen.handle, Ok(Reply::Extents(extents.clone())));
        assert_eq!(server.said(), chunk(1, 5, 1, &body(expect)));
    }
    // Nothing known: the whole request, status 0.
    server.feed(&request(0, Command::BLOCK_STATUS, 1, 0, 4096));
    server.serve(0);
    assert_eq!(server.said(), chunk(1, 5, 1, &body(&[(4096, 0)])));
    server.feed(&request(0, Command::BLOCK_STATUS, 1, 0, 4096));
    let handle = server.request().handle;
    server.reply(handle, Err(NbdError::Io));
    assert_eq!(server.said(), error_chunk(1, 5));
    server.feed(&request(0, Command::BLOCK_STATUS, 1, 1 << 30, 512));
    assert_eq!(server.said(), error_chunk(1, 22));
    server.assert_in_step(true);
}

/// Section *Error values*: refused requests are answered, the payload of a WRITE is consumed, and the
/// connection stays in step.
#[test]
fn refusals() {
    let read_only = ExportInfo { read_only: true, ..INFO };
    let write = |flags, offset, len: u32| {
        [request(flags, WRITE, 1, offset, len), vec![0x25; len as usize]].concat()
    };
    let cases = [
        (INFO, request(0, Command(8), 1, 0, 512), 22),
        (INFO, request(0, Command(9), 1, 0, 512), 22),
        (INFO, request(0, Command(0xffff), 1, 0, u32::MAX), 22),
        (INFO, request(0x8000, READ, 1, 0, 512), 22),
        (INFO, request(4, READ, 1, 0, 512), 22),
        (INFO, request(0, READ, 1, u64::MAX - 4095, 8192), 22),
        (INFO, request(0, READ, 1, 0, (1 << 25) + 1), 22),
        (INFO, request(0, Command::FLUSH, 1, 0, 512), 22),
        (INFO, request(0, Command::BLOCK_STATUS, 1, 0, 512), 22),
        (INFO, write(2, 0, 512), 22),
        (INFO, write(0, 1 << 30, 512), 28),
        (INFO, write(0, u64::MAX - 4095, 8192), 28),
        (INFO, write(0, 0, (1 << 25) + 1), 22),
        (INFO, request(0, Command::WRITE_ZEROES, 1, 1 << 30, 512), 28),
        (read_only, write(0, 0, 512), 1),
        (read_only, request(0, Command::TRIM, 1, 0, 512), 1),
        (read_only, request(0, Command::WRITE_ZEROES, 1, 0, 512), 1),
    ];
    for (info, bytes, code) in cases {
        let mut server = Server::transmitting_to(false, info);
        server.feed(&bytes);
        assert!(server.requests.is_empty());
        assert_eq!(server.said(), simple(code, 1), "{:?}", &bytes[..28]);
        server.assert_in_step(false);
    }
    for bytes in [request(0, READ, 1, 1 << 30, 1), request(8, READ, 1, 0, 1)] {
        let mut server = Server::transmitting(true);
        server.feed(&bytes);
        assert_eq!(server.said(), error_chunk(1, 22));
        server.assert_in_step(true);
    }
}

/// Section *Request types*: a range of no bytes succeeds without touching the device.
#[test]
fn zero_lengths() {
    let mut server = Server::transmitting(false);
    for command in [READ, WRITE, Command::TRIM, Command::CACHE, Command::WRITE_ZEROES] {
        server.feed(&request(0, command, 1, 1 << 30, 0));
        assert_eq!(server.said(), simple(0, 1));
        server.feed(&request(0, command, 1, (1 << 30) + 1, 0));
        assert_ne!(server.said(), simple(0, 1));
    }
    server.assert_in_step(false);
}

/// Section *Block size constraints*: 32 MiB is no attack; a payload that nobody would consume is.
#[test]
fn long_payloads() {
    let mut server = Server::transmitting(false);
    server.feed(&request(0, WRITE, 1, 0, 1 << 25));
    let megabyte = vec![0x5a; 1 << 20];
    for _ in 0..32 {
        assert!(server.requests.is_empty());
        server.feed(&megabyte);
    }
    let seen = server.request();
    let Kind::Write(payload) = &seen.kind else { panic!("{seen:?}") };
    assert_eq!(payload.len(), 1 << 25);
    assert_eq!(payload.pieces().len(), 32);
    server.reply(seen.handle, Ok(Reply::Done));
    server.assert_in_step(false);

    for len in [(64 << 20) + 1, u32::MAX] {
        let mut server = Server::transmitting(false);
        server.feed(&request(0, WRITE, 1, 0, len));
        let expect = CloseReason::Protocol(Violation::PayloadTooLong(len));
        assert_eq!((server.closed, server.said()), (Some(expect), vec![]));
    }
}

/// Section *Request message*: a wrong magic number ends the connection; what came before is served.
#[test]
fn wrong_magic() {
    for magic in [0x2560_9514_u32, 0x1256_0953, 0x21e4_1c71] {
        let mut server = Server::transmitting(false);
        let mut wrong = request(0, READ, 2, 0, 1);
        wrong[..4].copy_from_slice(&magic.to_be_bytes());
        server.feed(&[request(0, READ, 1, 0, 1), wrong].concat());
        assert!(matches!(server.closed, Some(CloseReason::Protocol(Violation::Malformed(_)))));
        assert!(!server.connection.is_finished(), "a request is still out");
        server.serve(0);
        assert_eq!(server.said(), b"", "nothing is said any more");
        assert!(server.connection.is_finished());
    }
}

/// Section *Ordering of messages and writes*: replies in the order of completion, equal cookies each get
/// theirs, and every message is whole.
#[test]
fn replies_in_order_of_completion() {
    let mut server = Server::transmitting(false);
    let mut bytes = Vec::new();
    for offset in 0..4 {
        bytes.extend(request(0, READ, 7, offset, 2));
    }
    server.feed(&bytes);
    assert_eq!(server.connection.in_flight(), 4);
    let mut expect = Vec::new();
    while let Some(seen) = server.requests.pop_back() {
        let byte = seen.offset as u8;
        server.reply(seen.handle, Ok(Reply::Data(Payload::from(vec![byte; 2]))));
        expect.extend([simple(0, 7), vec![byte; 2]].concat());
    }
    assert_eq!(server.said(), expect);
}

/// Payload pieces, in and out, are the buffers that came: nothing is copied.
#[test]
fn payloads_are_not_copied() {
    let mut server = Server::transmitting(true);
    let bytes = Bytes::from([request(0, WRITE, 1, 0, 4096), vec![3; 4096]].concat());
    let at = bytes[28..].as_ptr();
    server.connection.handle_received(server.now, bytes);
    server.pump();
    let seen = server.request();
    let Kind::Write(payload) = seen.kind else { panic!("{seen:?}") };
    assert_eq!((payload.pieces().len(), payload.pieces()[0].as_ptr()), (1, at));
    server.reply(seen.handle, Ok(Reply::Done));
    server.said();

    server.feed(&request(0, READ, 2, 0, 4096));
    let handle = server.request().handle;
    server.connection.reply(handle, Ok(Reply::Data(payload)));
    let mut segments = Vec::new();
    server.connection.tx().take(usize::MAX, &mut segments);
    assert_eq!(segments.len(), 2);
    assert_eq!((segments[0].len(), segments[1].as_ptr()), (28, at));
}

/// Requests that do not fit wait; none fails.
#[test]
fn requests_wait_for_room() {
    let mut server = Server::transmitting(false);
    server.connection.set_input_budget(10_000, 3);
    let write = |cookie| [request(0, WRITE, cookie, 0, 4096), vec![7; 4096]].concat();
    server.feed(&[write(1), write(2), write(3)].concat());
    assert_eq!((server.requests.len(), server.connection.held()), (2, 8192));
    assert_eq!(server.connection.waits_for(), Some(4096));
    assert!(!server.connection.wants_input());
    server.serve(0);
    server.said();
    assert_eq!(server.requests.len(), 2);
    assert!(server.connection.wants_input() && server.connection.waits_for().is_none());
    // Slots are counted as well.
    server.feed(&request(0, Command::FLUSH, 4, 0, 0).repeat(3));
    assert_eq!((server.requests.len(), server.connection.in_flight()), (3, 3));
    assert_eq!(server.connection.waits_for(), Some(0));
    server.connection.set_input_budget(10_000, 10);
    server.pump();
    assert_eq!(server.requests.len(), 5);
    // A request of a size that never fits waits until the driver gives room.
    server.feed(&request(0, READ, 9, 0, 20_000));
    assert_eq!(server.connection.waits_for(), Some(20_000));
    server.connection.set_input_budget(40_000, 10);
    server.pump();
    assert_eq!(server.requests.len(), 6);
}

/// A client that never reads its replies holds no more than its budget.
#[test]
fn replies_that_are_not_read_stop_the_input() {
    let mut server = Server::transmitting(false);
    let connection = &mut server.connection;
    connection.set_input_budget(1 << 20, 100);
    let big = Payload::from(vec![0; 1 << 16]);
    let mut sent = 0;
    while connection.wants_input() {
        connection.handle_received(server.now, request(0, READ, 1, 0, 1 << 16).into());
        sent += 1;
        while let Some(event) = connection.poll_event() {
            let Event::Request(request) = event else { panic!("{event:?}") };
            connection.reply(request.handle, Ok(Reply::Data(big.clone())));
        }
        assert!(sent < 100 && connection.held() <= (1 << 20) + 100 * 16);
    }
    assert_eq!(sent, 16);
    // Errors count as well.
    let mut server = Server::transmitting(false);
    server.connection.set_input_budget(4096, 100);
    let flood = request(0, Command(99), 1, 0, 0).repeat(10_000);
    server.connection.handle_received(server.now, flood.into());
    assert!(server.connection.held() <= 4096 + 16);
    assert!(!server.connection.wants_input());
    server.connection.tx().clear();
    assert!(server.connection.poll_event().is_none());
    assert!(server.connection.held() > 4000, "it went on after the replies were taken");
}

/// 100 000 READs of 32 MiB: bounded by the budget, all of them served in the end.
#[test]
fn a_flood_of_large_reads() {
    let mut server = Server::transmitting(false);
    let flood = Bytes::from(request(0, READ, 1, 0, 1 << 25).repeat(1000));
    for _ in 0..10 {
        server.connection.handle_received(server.now, flood.clone());
    }
    server.pump();
    let mut served = 0;
    while let Some(request) = server.requests.pop_front() {
        assert!(server.connection.held() <= NBD_BUDGET_DEFAULT);
        assert!(server.connection.in_flight() <= REQUESTS_PER_LANE_MAX);
        server.connection.reply(request.handle, Err(NbdError::Io));
        served += 1;
        server.pump();
    }
    assert_eq!(served, 10_000);
}

/// Section *Terminating the transmission phase*: DISC lets requests in flight finish, and what follows it is
/// ignored.
#[test]
fn disconnect() {
    let mut server = Server::transmitting(false);
    let mut bytes = Vec::new();
    for cookie in 0..10 {
        bytes.extend([request(0, WRITE, cookie, 0, 1), vec![cookie as u8]].concat());
    }
    bytes.extend(request(0, Command::DISC, 11, 7, 7));
    bytes.extend(request(0, READ, 12, 0, 1));
    bytes.extend(b"garbage");
    server.feed(&bytes);
    assert_eq!((server.requests.len(), server.closed), (10, None));
    server.feed(b"more garbage");
    assert!(!server.connection.wants_input());
    let mut expect = Vec::new();
    for cookie in 0..10 {
        assert_eq!(server.closed, None);
        server.serve(0);
        expect.extend(simple(0, cookie));
    }
    assert_eq!(server.said(), expect);
    assert_eq!(server.closed, Some(CloseReason::Disconnected));
    assert!(server.connection.is_finished());
}

/// Section *Terminating the transmission phase*: end of file at every byte of a WRITE. It is executed whole
/// or not at all, and what came before is answered.
#[test]
fn eof_at_every_byte() {
    let write = [request(0, WRITE, 2, 0, 5), vec![1, 2, 3, 4, 5]].concat();
    for end in 0..=write.len() {
        let mut server = Server::transmitting(false);
        server.feed(&request(0, READ, 1, 0, 1));
        server.feed(&write[..end]);
        server.connection.handle_eof(server.now);
        server.pump();
        assert_eq!(server.requests.len(), if end == write.len() { 2 } else { 1 });
        assert_eq!(server.closed, None);
        assert_eq!(server.connection.in_flight(), server.requests.len());
        while !server.requests.is_empty() {
            server.serve(9);
        }
        assert_eq!(server.said()[..17], [simple(0, 1), vec![9]].concat());
        assert_eq!(server.closed, Some(CloseReason::Eof));
        assert!(server.connection.is_finished() && server.connection.held() == 0);
    }
}

/// End of file behind requests that wait for room: they are served first.
#[test]
fn eof_while_requests_wait() {
    let mut server = Server::transmitting(false);
    server.connection.set_input_budget(1000, 1);
    server.feed(&request(0, READ, 1, 0, 1).repeat(5));
    server.connection.handle_eof(server.now);
    server.pump();
    for _ in 0..5 {
        assert_eq!((server.requests.len(), server.closed), (1, None));
        server.serve(1);
    }
    assert_eq!(server.said().len(), 5 * 17);
    assert_eq!(server.closed, Some(CloseReason::Eof));
}

/// A broken socket: what was handed out may finish, nothing is said, nothing leaks.
#[test]
fn reset() {
    let mut server = Server::transmitting(false);
    server.feed(&request(0, READ, 1, 0, 1));
    server.feed(&[request(0, WRITE, 2, 0, 5), vec![1]].concat());
    assert_eq!(server.connection.in_flight(), 2);
    server.connection.handle_closed(server.now);
    server.pump();
    assert_eq!((server.closed, server.connection.in_flight()), (Some(CloseReason::Lost), 1));
    server.serve(0);
    assert!(server.connection.is_finished());
    assert_eq!((server.said(), server.connection.held()), (vec![], 0));
}

/// A payload that stops coming ends the connection; one that comes slowly but steadily does not.
#[test]
fn slow_payloads() {
    let mut server = Server::transmitting(false);
    server.feed(&request(0, WRITE, 1, 0, 1 << 20));
    let deadline = server.connection.poll_deadline().expect("a deadline");
    // 1 MiB at 128 KiB/s.
    assert_eq!(deadline, server.now + NBD_PAYLOAD_TIMEOUT + core::time::Duration::from_secs(8));
    server.connection.handle_timeout(server.now);
    server.now = deadline;
    server.feed(&vec![0; (1 << 20) - 1]);
    assert_eq!(server.closed, None);
    server.connection.handle_timeout(deadline);
    server.pump();
    assert_eq!(server.closed, Some(CloseReason::PayloadTimeout));
    assert!(server.requests.is_empty() && server.connection.held() == 0);
}

/// Section *Terminating the transmission phase*: the daemon stops.
#[test]
fn shutdown() {
    let mut server = Server::transmitting(false);
    server.feed(&request(0, READ, 1, 0, 1));
    server.feed(&[request(0, WRITE, 2, 0, 3), vec![1]].concat());
    server.connection.begin_shutdown(server.now);
    server.feed(&[vec![2, 3], request(0, READ, 3, 0, 1)].concat());
    assert_eq!(server.said(), [simple(108, 2), simple(108, 3)].concat());
    assert_eq!((server.requests.len(), server.closed), (1, None));
    server.serve(4);
    assert_eq!(server.said(), [simple(0, 1), vec![4]].concat());
    assert_eq!(server.closed, Some(CloseReason::Shutdown));
    assert!(server.connection.is_finished());

    let mut idle = Server::transmitting(false);
    idle.connection.begin_shutdown(idle.now);
    idle.pump();
    assert_eq!(idle.closed, Some(CloseReason::Shutdown));
}

/// After warm-up the slots, the events and the transmit queue are used again.
#[test]
fn structures_are_used_again() {
    let mut server = Server::transmitting(false);
    let batch = request(0, READ, 1, 0, 1).repeat(32);
    let mut handles = std::collections::HashSet::new();
    for _ in 0..50 {
        server.feed(&batch);
        while let Some(request) = server.requests.front() {
            assert!(handles.insert(request.handle), "a handle comes back under a new generation");
            server.serve(0);
        }
        server.said();
    }
    assert_eq!(server.connection.in_flight(), 0);
    assert!(server.connection.slots.capacity() <= 32);
}

#[test]
#[should_panic(expected = "as long as the request")]
fn a_short_answer_is_a_bug() {
    let mut server = Server::transmitting(false);
    server.feed(&request(0, READ, 1, 0, 2));
    let handle = server.request().handle;
    server.reply(handle, Ok(Reply::Data(Payload::from(vec![1]))));
}
