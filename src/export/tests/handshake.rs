//! Haggling: every option, every malformed variant.

use super::*;
use crate::limits::{NBD_HANDSHAKE_TIMEOUT, NBD_OPTIONS_PER_CONNECTION_MAX};
use core::time::Duration;

const ACK: u32 = 1;
const UNSUP: u32 = 0x8000_0001;
const INVALID: u32 = 0x8000_0003;
const UNKNOWN: u32 = 0x8000_0006;
const SHUTDOWN: u32 = 0x8000_0007;
const TOO_BIG: u32 = 0x8000_0009;
const GO_VM0: &[u8] = b"\0\0\0\x03vm0\0\0";
/// NBD_INFO_EXPORT of `INFO` without structured replies: 1 GiB, flags 0x0d6d.
const EXPORT: &[u8] = b"\0\0\0\0\0\0\x40\0\0\0\x0d\x6d";
/// NBD_INFO_BLOCK_SIZE of `INFO`: 512, 4096, 32 MiB.
const SIZES: &[u8] = b"\0\x03\0\0\x02\0\0\0\x10\0\x02\0\0\0";

fn haggling() -> Server {
    let mut server = Server::new();
    server.feed(&[0, 0, 0, 3]);
    server.said();
    server
}

/// Type and text of the error that answers `option`.
fn error_of(server: &mut Server, code: u32, data: &[u8]) -> u32 {
    server.feed(&option(code, data));
    let said = server.said();
    assert_eq!(said[8..12], code.to_be_bytes(), "the option is echoed");
    let len = u32::from_be_bytes(said[16..20].try_into().expect("four bytes"));
    assert_eq!(said.len(), 20 + len as usize, "one reply and no more");
    let text = std::str::from_utf8(&said[20..]).expect("UTF-8");
    assert!(!text.contains('\0') && text.len() <= 4096);
    u32::from_be_bytes(said[12..16].try_into().expect("four bytes"))
}

fn assert_go_works(server: &mut Server) {
    server.said();
    server.feed(&option(7, GO_VM0));
    let expect =
        [option_reply(7, 3, EXPORT), option_reply(7, 3, SIZES), option_reply(7, ACK, b"")].concat();
    assert_eq!(server.said(), expect);
    server.assert_in_step(false);
}

/// Section *Newstyle negotiation*: the server speaks first.
#[test]
fn greeting() {
    assert_eq!(Server::new().said(), b"NBDMAGICIHAVEOPT\0\x03");
}

/// Section *Client flags*: a bit that was not offered ends the connection.
#[test]
fn unknown_client_flags() {
    for flags in [4_u32, 0x8000_0000, 0xffff_ffff] {
        let mut server = Server::new();
        server.said();
        server.feed(&flags.to_be_bytes());
        let expect = CloseReason::Protocol(Violation::ClientFlags(flags));
        assert_eq!(server.closed, Some(expect));
        assert_eq!(server.said(), b"");
        assert!(server.connection.is_finished());
    }
}

/// Section *Client flags*: without fixed newstyle only EXPORT_NAME means anything.
#[test]
fn clients_without_fixed_newstyle() {
    let mut server = Server::new();
    server.said();
    server.feed(&[0; 4]);
    server.feed(&option(1, b"vm0"));
    let expect = [&EXPORT[2..], &[0; 124]].concat();
    assert_eq!(server.said(), expect);
    server.assert_in_step(false);

    let mut server = Server::new();
    server.feed(&[0; 4]);
    server.feed(&option(3, b""));
    let expect = CloseReason::Protocol(Violation::NotFixed(OptionCode::LIST));
    assert_eq!(server.closed, Some(expect));
}

/// Section *NBD_OPT_EXPORT_NAME*: exactly 134 or 10 bytes, then transmission.
#[test]
fn export_name() {
    for (flags, zeroes) in [(1, 124), (3, 0)] {
        for name in [&b"vm0"[..], b""] {
            let mut server = Server::new();
            server.said();
            // A READ at once behind it: its reply is the next byte.
            let bytes = [vec![0, 0, 0, flags], option(1, name), request(0, Command::READ, 7, 0, 4)]
                .concat();
            server.feed(&bytes);
            server.serve(0x11);
            let expect = [&EXPORT[2..], &vec![0; zeroes], &simple(0, 7), &[0x11; 4]].concat();
            assert_eq!(server.said(), expect);
            assert_eq!(server.opened, [("vm0".to_owned(), Purpose::ExportName)]);
        }
    }
}

/// Section *NBD_OPT_EXPORT_NAME*: no error can be told.
#[test]
fn export_name_refused() {
    let long = [b'a'; 4097];
    let names: [&[u8]; 5] = [b"vm9", b"vm0\0", &[0xff], &long, b"../../x\n"];
    for name in names {
        let mut server = haggling();
        server.feed(&option(1, name));
        assert_eq!((server.closed, server.said()), (Some(CloseReason::Refused), vec![]));
        assert!(server.opened.is_empty(), "the device is not touched");
    }
    let mut server = haggling();
    server.export = Some(Err(OpenError::Unavailable));
    server.feed(&option(1, b"vm0"));
    assert_eq!((server.closed, server.said()), (Some(CloseReason::Refused), vec![]));
}

/// Section *Newstyle negotiation*: a wrong magic number cannot be answered.
#[test]
fn option_magic() {
    let mut bytes = option(3, b"");
    bytes[7] ^= 1;
    let mut server = haggling();
    server.feed(&bytes);
    assert!(matches!(server.closed, Some(CloseReason::Protocol(Violation::Malformed(_)))));
}

/// Section *Option types*: unknown options, STARTTLS (no TLS here), PEEK_EXPORT (withdrawn) and
/// EXTENDED_HEADERS (not spoken) are answered, their data consumed.
#[test]
fn unsupported_options() {
    for code in [0, 4, 5, 11, 12, 0x7fff_ffff, 0xffff_ffff] {
        for len in [0, 1, 4096, 100_000] {
            let mut server = haggling();
            assert_eq!(error_of(&mut server, code, &vec![0x49; len]), UNSUP);
            assert_go_works(&mut server);
        }
    }
}

/// Section *Termination of the session during option haggling*: too long is consumed and answered; absurdly
/// long ends the connection. Nothing is allocated for it.
#[test]
fn long_options() {
    for code in [6, 7, 9, 10] {
        let mut server = haggling();
        assert_eq!(error_of(&mut server, code, &vec![0; 65537]), TOO_BIG);
        assert_go_works(&mut server);
    }
    let mut server = haggling();
    assert_eq!(error_of(&mut server, 3, &vec![0; 65537]), INVALID);
    for code in [1, 3, 7, 99] {
        for len in [64_u32 << 20, u32::MAX] {
            let mut server = haggling();
            server.feed(&[&option(code, b"")[..12], &len.to_be_bytes()].concat());
            let option = OptionCode(code);
            let expect = CloseReason::Protocol(Violation::OptionTooLong { option, len });
            assert_eq!(server.closed, Some(expect));
        }
    }
}

/// Section *NBD_OPT_ABORT*: acknowledged, data ignored, then the end.
#[test]
fn abort() {
    for len in [0, 100] {
        let mut server = haggling();
        server.feed(&option(2, &vec![0xff; len]));
        assert_eq!(server.said(), option_reply(2, ACK, b""));
        assert_eq!(server.closed, Some(CloseReason::Aborted));
        assert!(server.connection.is_finished());
        server.feed(b"anything after it");
        assert_eq!(server.said(), b"");
    }
    let mut server = haggling();
    server.feed(&option(2, b""));
    server.connection.handle_closed(server.now);
    assert_eq!(server.closed, Some(CloseReason::Aborted));
}

/// Section *NBD_OPT_LIST*.
#[test]
fn list() {
    let mut server = haggling();
    server.feed(&option(3, b""));
    let expect = [
        option_reply(3, 2, b"\0\0\0\x03vm0disk"),
        option_reply(3, 2, b"\0\0\0\x03vm1"),
        option_reply(3, ACK, b""),
    ];
    assert_eq!(server.said(), expect.concat());
    assert_eq!(error_of(&mut server, 3, &[0; 4]), INVALID);
    assert_go_works(&mut server);

    let mut server = Server::with(Catalog::new(Vec::new(), None));
    server.feed(&[0, 0, 0, 3]);
    server.said();
    server.feed(&option(3, b""));
    assert_eq!(server.said(), option_reply(3, ACK, b""));

    let entry = |at: usize| CatalogEntry { name: format!("{at}"), description: String::new() };
    let mut server = Server::with(Catalog::new((0..100).map(entry).collect(), None));
    server.feed(&[[0, 0, 0, 3].to_vec(), option(3, b"")].concat());
    assert_eq!(server.said().windows(8).filter(|w| *w == [0, 0, 0, 3, 0, 0, 0, 2]).count(), 100);
}

/// Section *NBD_OPT_INFO and NBD_OPT_GO*: INFO describes and stays, GO describes and begins.
#[test]
fn info_then_go_give_the_same() {
    let mut server = haggling();
    server.feed(&option(6, GO_VM0));
    let expect =
        [option_reply(6, 3, EXPORT), option_reply(6, 3, SIZES), option_reply(6, ACK, b"")].concat();
    assert_eq!(server.said(), expect);
    assert_go_works(&mut server);
    let name = || "vm0".to_owned();
    assert_eq!(server.opened, [(name(), Purpose::Info), (name(), Purpose::Go)]);
}

/// Section *NBD_OPT_INFO and NBD_OPT_GO*: after GO no zeroes follow, even if the client wants them
/// elsewhere.
#[test]
fn go_never_pads() {
    let mut server = Server::new();
    server.feed(&[0, 0, 0, 1]);
    server.said();
    assert_go_works(&mut server);
}

/// Section *NBD_OPT_INFO and NBD_OPT_GO*: what is asked for is sent, unknown and repeated requests are
/// ignored, the empty name is the default export.
#[test]
fn information_requests() {
    let mut server = haggling();
    server.feed(&option(6, b"\0\0\0\0\0\x08\0\0\0\x01\0\x02\0\x03\0\x03\0\x09\xff\xff\0\x01"));
    let expect = [
        option_reply(6, 3, EXPORT),
        option_reply(6, 3, b"\0\x01vm0"),
        option_reply(6, 3, b"\0\x02disk"),
        option_reply(6, 3, SIZES),
        option_reply(6, ACK, b""),
    ];
    assert_eq!(server.said(), expect.concat());
    assert_go_works(&mut server);
}

/// Section *NBD_OPT_INFO and NBD_OPT_GO*: malformed bodies, unknown exports; haggling goes on.
#[test]
fn info_and_go_errors() {
    let malformed: [&[u8]; 9] = [
        b"",
        b"\0",
        b"\0\0\0\0\0",
        b"\xff\xff\xff\xff\0\0",
        b"\0\0\0\x04vm0\0\0",
        b"\0\0\0\x03vm0\0\x01",
        b"\0\0\0\x03vm0\0\0\0\x03",
        b"\0\0\0\x03vm0\xff\xff\0\x03",
        b"\0\0\0\x03v\0\x30\0\0",
    ];
    let mut server = haggling();
    for code in [6, 7] {
        for body in malformed {
            assert_eq!(error_of(&mut server, code, body), INVALID, "{body:?}");
        }
        assert_eq!(error_of(&mut server, code, b"\0\0\0\x03vm9\0\0"), UNKNOWN);
        let name = |len: u32| [&len.to_be_bytes()[..], &vec![b'a'; len as usize], &[0, 0]].concat();
        assert_eq!(error_of(&mut server, code, &name(4096)), UNKNOWN);
        assert_eq!(error_of(&mut server, code, &name(4097)), INVALID);
    }
    assert!(server.opened.is_empty(), "the device is not touched");
    for (error, expect) in [
        (OpenError::Unknown, UNKNOWN),
        (OpenError::Unavailable, UNKNOWN),
        (OpenError::Policy, 0x8000_0002),
        (OpenError::Shutdown, SHUTDOWN),
    ] {
        server.export = Some(Err(error));
        assert_eq!(error_of(&mut server, 7, GO_VM0), expect);
    }
    server.export = Some(Ok(INFO));
    assert_go_works(&mut server);
}

/// Section *NBD_OPT_STRUCTURED_REPLY*.
#[test]
fn structured_reply() {
    let mut server = haggling();
    assert_eq!(error_of(&mut server, 8, b"x"), INVALID);
    for _ in 0..2 {
        server.feed(&option(8, b""));
        assert_eq!(server.said(), option_reply(8, ACK, b""));
    }
    server.feed(&option(7, GO_VM0));
    // SEND_DF appears.
    assert_eq!(server.said()[30..32], [0x0d, 0xed]);
    server.assert_in_step(true);
}

fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut out = [&(name.len() as u32).to_be_bytes()[..], name.as_bytes()].concat();
    out.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        out.extend((query.len() as u32).to_be_bytes());
        out.extend(query.as_bytes());
    }
    out
}

/// Section *NBD_OPT_LIST_META_CONTEXT*.
#[test]
fn list_meta_context() {
    let mut server = haggling();
    let found =
        [option_reply(9, 4, b"\0\0\0\0base:allocation"), option_reply(9, ACK, b"")].concat();
    let nothing = option_reply(9, ACK, b"");
    let cases: [(&[&str], &[u8]); 6] = [
        (&[], &found),
        (&["base:"], &found),
        (&["base:allocation", "base:"], &found),
        (&["x-foo:*"], &nothing),
        (&["no colon", ""], &nothing),
        (&["base:other"], &nothing),
    ];
    for (queries, expect) in cases {
        server.feed(&option(9, &meta("vm0", queries)));
        assert_eq!(server.said(), expect, "{queries:?}");
    }
    assert_eq!(error_of(&mut server, 9, &meta("vm9", &[])), UNKNOWN);
    assert_eq!(error_of(&mut server, 9, &meta("vm0", &[&"q".repeat(4097)])), INVALID);
    for body in
        [&b""[..], b"\0\0\0\0\xff\xff\xff\xff", b"\xff\xff\xff\xff\0\0\0\0", b"\0\0\0\0\0\0\0\0x"]
    {
        assert_eq!(error_of(&mut server, 9, body), INVALID);
    }
    assert_go_works(&mut server);
}

/// Section *NBD_OPT_SET_META_CONTEXT*: needs structured replies, selects by full name only, replaces the old
/// selection even if it fails, holds for the same export only.
#[test]
fn set_meta_context() {
    let selected = [option_reply(10, 4, b"\0\0\0\x01base:allocation"), option_reply(10, ACK, b"")];
    let select = option(10, &meta("vm0", &["base:allocation"]));
    assert_eq!(error_of(&mut haggling(), 10, &meta("vm0", &["base:allocation"])), INVALID);

    let status = |server: &mut Server, go: &[u8]| {
        server.feed(&option(7, go));
        server.said();
        server.feed(&request(0, Command::BLOCK_STATUS, 5, 0, 512));
        let refused = server.said() == error_chunk(5, 22);
        assert_ne!(refused, server.requests.len() == 1);
        !refused
    };
    let structured = || {
        let mut server = haggling();
        server.feed(&option(8, b""));
        server.said();
        server.feed(&select);
        assert_eq!(server.said(), selected.concat());
        server
    };
    assert!(status(&mut structured(), GO_VM0));
    // The empty name is the same export.
    assert!(status(&mut structured(), b"\0\0\0\0\0\0"));
    assert!(!status(&mut structured(), b"\0\0\0\x03vm1\0\0"));
    let later: [(&[u8], &[u8]); 4] = [
        (&meta("vm0", &[]), &option_reply(10, ACK, b"")),
        (&meta("vm0", &["base:"]), &option_reply(10, ACK, b"")),
        (&meta("vm9", &["base:allocation"]), b""),
        (b"malformed", b""),
    ];
    for (body, expect) in later {
        let mut server = structured();
        server.feed(&option(10, body));
        let said = server.said();
        assert!(expect.is_empty() || said == expect);
        assert!(!status(&mut server, GO_VM0), "{body:?}");
    }
    let mut server = structured();
    assert_eq!(error_of(&mut server, 10, &vec![0; 65537]), TOO_BIG);
    assert!(!status(&mut server, GO_VM0));
}

/// Section *NBD_OPT_EXPORT_NAME*: a selection holds here as well.
#[test]
fn meta_context_and_export_name() {
    let mut server = haggling();
    server.feed(&option(8, b""));
    server.feed(&option(10, &meta("vm0", &["base:allocation"])));
    server.feed(&option(1, b"vm0"));
    server.feed(&request(0, Command::BLOCK_STATUS, 5, 0, 512));
    assert_eq!(server.requests.len(), 1);
}

/// A flood of options ends the connection; before that, replies that are not read stop the input.
#[test]
fn too_many_options() {
    let mut server = haggling();
    let mut bytes = Vec::new();
    for _ in 0..NBD_OPTIONS_PER_CONNECTION_MAX {
        bytes.extend(option(3, b""));
    }
    server.feed(&bytes);
    assert_eq!(server.closed, None);
    server.feed(&option(7, GO_VM0));
    assert_eq!(server.closed, Some(CloseReason::Protocol(Violation::TooManyOptions)));
}

/// Replies that the client does not read stop the input.
#[test]
fn option_replies_pile_up_to_a_bound() {
    let description = "d".repeat(4096);
    let entry =
        |at: usize| CatalogEntry { name: format!("{at}"), description: description.clone() };
    let catalog = Catalog::new((0..16).map(entry).collect(), None);
    let mut connection = Connection::new(Instant::ZERO, catalog);
    let flood = [vec![0, 0, 0, 3], option(3, b"").repeat(100)].concat();
    connection.handle_received(Instant::ZERO, Bytes::from(flood));
    let one_list = 16 * 4200;
    assert!(connection.tx().pending() < NBD_HANDSHAKE_REPLY_MAX + one_list);
    assert!(!connection.wants_input());
    let mut total = 0;
    for _ in 0..100 {
        assert!(connection.poll_event().is_none());
        total += connection.tx().take(usize::MAX, &mut Vec::new());
    }
    assert!(connection.wants_input());
    assert!(total as u64 > 99 * 16 * 4096);
}

/// The handshake has a deadline; waiting for the device does not count.
#[test]
fn handshake_deadline() {
    let mut server = haggling();
    let deadline = server.connection.poll_deadline().expect("a deadline");
    assert_eq!(deadline, Instant::from_millis(1000) + NBD_HANDSHAKE_TIMEOUT);
    server.connection.handle_timeout(Instant::from_millis(10_999));
    server.pump();
    assert_eq!(server.closed, None);

    server.export = None;
    server.now = Instant::from_millis(10_000);
    server.feed(&option(6, GO_VM0));
    assert_eq!(server.connection.poll_deadline(), None);
    assert!(!server.connection.wants_input());
    server.connection.handle_timeout(Instant::from_millis(60_000));
    server.now = Instant::from_millis(60_000);
    server.connection.open(server.now, Ok(INFO));
    server.pump();
    assert_eq!(server.connection.poll_deadline(), Some(Instant::from_millis(61_000)));
    server.connection.handle_timeout(Instant::from_millis(61_000));
    server.pump();
    assert_eq!(server.closed, Some(CloseReason::HandshakeTimeout));

    let mut server = Server::transmitting(false);
    assert_eq!(server.connection.poll_deadline(), None);
    server.connection.handle_timeout(Instant::MAX);
    server.assert_in_step(false);
}

/// Requests sent before the answer to GO wait for it.
#[test]
fn pipelined_input_waits_for_the_export() {
    let mut server = Server::new();
    server.export = None;
    server.said();
    let bytes = [vec![0, 0, 0, 3], option(7, GO_VM0), request(0, Command::READ, 1, 0, 1)].concat();
    server.feed(&bytes);
    assert!(server.requests.is_empty() && !server.connection.wants_input());
    // The chunk of a receive that was under way.
    server.feed(&request(0, Command::READ, 2, 0, 1));
    server.connection.open(server.now, Ok(INFO));
    server.pump();
    assert_eq!(server.requests.len(), 2);
    assert!(server.connection.wants_input());
}

/// Section *Termination of the session during option haggling*: while the daemon stops.
#[test]
fn shutdown_while_haggling() {
    let mut server = haggling();
    server.connection.begin_shutdown(server.now);
    for code in [3, 5, 6, 7, 8, 9, 10, 99] {
        assert_eq!(error_of(&mut server, code, b""), SHUTDOWN);
    }
    server.feed(&option(2, b""));
    assert_eq!(server.said(), option_reply(2, ACK, b""));
    assert_eq!(server.closed, Some(CloseReason::Aborted));

    let mut server = haggling();
    server.connection.begin_shutdown(server.now);
    server.feed(&option(1, b"vm0"));
    assert_eq!(server.closed, Some(CloseReason::Shutdown));

    let mut server = haggling();
    server.export = None;
    server.feed(&option(7, GO_VM0));
    server.connection.begin_shutdown(server.now);
    let deadline = server.connection.poll_deadline().expect("a deadline");
    assert_eq!(deadline, server.now + Duration::from_secs(1));
    server.connection.open(server.now, Ok(INFO));
    assert_eq!(server.said()[12..16], SHUTDOWN.to_be_bytes());
    server.connection.handle_timeout(deadline);
    server.pump();
    assert_eq!(server.closed, Some(CloseReason::Shutdown));
}

/// A client that leaves: at every byte of a handshake.
#[test]
fn eof_anywhere() {
    let bytes =
        [vec![0, 0, 0, 3], option(8, b""), option(6, GO_VM0), option(99, &[1; 20])].concat();
    for end in 0..=bytes.len() {
        let mut server = Server::new();
        server.feed(&bytes[..end]);
        server.connection.handle_eof(server.now);
        server.said();
        assert_eq!(server.closed, Some(CloseReason::Eof));
        assert!(server.connection.is_finished());
    }
    // While the export is being opened: the answer goes out, then it ends.
    let mut server = haggling();
    server.export = None;
    server.feed(&option(6, GO_VM0));
    server.connection.handle_eof(server.now);
    server.pump();
    assert_eq!(server.closed, None);
    server.connection.open(server.now, Ok(INFO));
    assert!(!server.said().is_empty());
    assert_eq!(server.closed, Some(CloseReason::Eof));
    // A late answer to a connection that is gone does no harm.
    let mut server = haggling();
    server.export = None;
    server.feed(&option(7, GO_VM0));
    server.connection.handle_closed(server.now);
    server.connection.open(server.now, Ok(INFO));
    server.pump();
    assert_eq!(server.closed, Some(CloseReason::Lost));
    assert!(server.connection.is_finished());
}
