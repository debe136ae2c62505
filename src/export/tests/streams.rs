//! Arbitrary streams: nothing panics, memory stays bounded, and segmentation makes no difference.

use super::*;
use crate::export::client::{Answer, Client, ClientConfig, ClientEvent, Op};
use crate::limits::NBD_OPTION_MAX;
use crate::wire::nbd::reply::Extent;
use proptest::prelude::*;

/// One plausible message, often slightly wrong.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let text = prop::collection::vec(any::<u8>(), 0..40);
    let name = prop_oneof![Just(b"\0\0\0\x03vm0".to_vec()), Just(vec![0; 4]), text.clone()];
    let rest = prop_oneof![
        Just(vec![0, 0]),
        Just(b"\0\x01\0\x03".to_vec()),
        Just(b"\0\0\0\x01\0\0\0\x0fbase:allocation".to_vec()),
        text.clone(),
    ];
    let code = prop_oneof![0_u32..13, any::<u32>()];
    let some_option =
        (code, name, rest).prop_map(|(code, name, rest)| option(code, &[name, rest].concat()));
    let wrong_len = (0_u32..13, any::<u32>())
        .prop_map(|(code, len)| [&option(code, b"")[..12], &len.to_be_bytes()].concat());
    let offset = prop_oneof![0_u64..5000, any::<u64>(), Just(1 << 30)];
    let len = prop_oneof![0_u32..5000, any::<u32>(), Just(1 << 25)];
    let flags = prop_oneof![4 => 0_u16..2, 1 => any::<u16>()];
    let some_request = (flags, 0_u16..10, any::<u64>(), offset, len, any::<bool>()).prop_map(
        |(flags, command, cookie, offset, len, whole)| {
            let mut bytes = request(flags, Command(command), cookie, offset, len);
            if command == 1 && whole {
                bytes.resize(bytes.len() + len.min(9000) as usize, 0x25);
            }
            bytes
        },
    );
    let go = Just(option(7, b"\0\0\0\x03vm0\0\0"));
    let structured = Just(option(8, b""));
    prop_oneof![3 => some_option, 1 => wrong_len, 6 => some_request, 2 => go, 2 => structured, 1 => text]
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![8 => Just(vec![0, 0, 0, 3]), 1 => any::<[u8; 4]>().prop_map(Vec::from)];
    (flags, prop::collection::vec(message(), 0..20))
        .prop_map(|(flags, messages)| [flags, messages.concat()].concat())
}

/// Feeds a stream as a driver does, holding what it may not hand in yet; answers every request only after
/// the last byte. Returns what was said and how it ended.
fn drive(bytes: &[u8], cut: &mut dyn FnMut() -> usize) -> (Vec<u8>, Option<CloseReason>) {
    let mut server = Server::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = (at + cut().max(1)).min(bytes.len());
        server.feed(&bytes[at..end]);
        at = end;
        let connection = &server.connection;
        assert!(connection.held() <= crate::limits::NBD_BUDGET_DEFAULT + 64);
        assert!(connection.in_flight() <= REQUESTS_PER_LANE_MAX);
        if let Some(handshake) = &connection.handshake {
            assert!(handshake.data.capacity() <= 2 * NBD_OPTION_MAX as usize);
        }
    }
    answer_all(&mut server);
    server.connection.handle_eof(server.now);
    server.pump();
    answer_all(&mut server);
    assert!(server.closed.is_some() && server.connection.is_finished());
    assert_eq!(server.connection.held(), 0);
    (server.said(), server.closed)
}

fn answer_all(server: &mut Server) {
    while let Some(Request { handle, kind, len, .. }) = server.requests.pop_front() {
        let result = match kind {
            Kind::Read { .. } if len < 10_000 => {
                Ok(Reply::Data(Payload::from(vec![len as u8; len as usize])))
            }
            Kind::Read { .. } => Err(NbdError::Io),
            Kind::BlockStatus { .. } => {
                Ok(Reply::Extents(vec![Extent { len: len.into(), flags: 3 }]))
            }
            Kind::Write(payload) => {
                assert_eq!(payload.len(), len as usize);
                Ok(Reply::Done)
            }
            Kind::Flush | Kind::Trim | Kind::WriteZeroes { .. } | Kind::Cache => Ok(Reply::Done),
        };
        server.reply(handle, result);
    }
}

proptest! {
    /// The same stream, split differently, gives the same bytes and the same end.
    #[test]
    fn segmentation_makes_no_difference(
        bytes in stream(),
        cuts in prop::collection::vec(1usize..100, 1..20),
    ) {
        let whole = drive(&bytes, &mut || usize::MAX);
        let single = drive(&bytes, &mut || 1);
        let mut cuts = cuts.into_iter().cycle();
        let some = drive(&bytes, &mut || cuts.next().expect("a cycle has no end"));
        prop_assert!(whole == single, "whole {:?}\nsingle {:?}", whole, single);
        prop_assert!(whole == some);
    }

    /// Bytes without any plan.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600), cut in 1usize..50) {
        drive(&bytes, &mut || cut);
    }

    /// Bytes without any plan, after a good handshake.
    #[test]
    fn any_bytes_in_transmission(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let hello = [vec![0, 0, 0, 3], option(7, b"\0\0\0\x03vm0\0\0")].concat();
        drive(&[hello, bytes].concat(), &mut || 100);
    }

    /// A hostile server does not bring our client down.
    #[test]
    fn any_bytes_to_the_client(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        good in prop::collection::vec(reply_message(), 0..12),
        cut in 1usize..60,
    ) {
        let mut client = Client::new(ClientConfig::new("vm0"));
        let hello = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
        let accept = [
            hello,
            option_reply(8, 1, b""),
            option_reply(10, 4, b"\0\0\0\x01base:allocation"),
            option_reply(10, 1, b""),
            option_reply(7, 3, b"\0\0\0\0\0\0\x40\0\0\0\x0d\x6d"),
            option_reply(7, 1, b""),
        ]
        .concat();
        client.handle_received(Bytes::from(accept));
        prop_assert!(matches!(client.poll_event(), Some(ClientEvent::Ready(_))));
        for token in 0..8 {
            client.submit(token, Op::Read { offset: token * 8, len: 8 });
        }
        let stream = [good.concat(), bytes].concat();
        for piece in stream.chunks(cut) {
            client.handle_received(Bytes::copy_from_slice(piece));
        }
        while let Some(event) = client.poll_event() {
            if let ClientEvent::Done { result: Ok(Answer::Data(data)), .. } = event {
                prop_assert_eq!(data.len(), 8);
            }
        }
    }
}

/// Replies of a server that is nearly right.
fn reply_message() -> impl Strategy<Value = Vec<u8>> {
    let cookie = 0_u64..9;
    let body = prop::collection::vec(any::<u8>(), 0..24);
    let some_chunk = (0_u16..2, 0_u16..6, cookie.clone(), body)
        .prop_map(|(flags, kind, cookie, body)| chunk(flags, kind, cookie, &body));
    let offset = 0_u64..72;
    let bytes = prop::collection::vec(any::<u8>(), 1..10);
    let some_data = (0_u16..2, cookie.clone(), offset.clone(), bytes).prop_map(
        |(flags, cookie, offset, bytes)| {
            chunk(flags, 1, cookie, &[&offset.to_be_bytes(), &bytes[..]].concat())
        },
    );
    let whole = (0_u64..8).prop_map(|cookie| data(cookie, cookie * 8, &[1; 8]));
    let hole =
        (0_u16..2, cookie.clone(), offset, 0_u32..10).prop_map(|(flags, cookie, at, len)| {
            chunk(flags, 2, cookie, &[&at.to_be_bytes()[..], &len.to_be_bytes()].concat())
        });
    let error = (cookie, 0_u32..30).prop_map(|(cookie, error)| error_chunk(cookie, error));
    prop_oneof![1 => some_chunk, 2 => some_data, 4 => whole, 2 => hole, 1 => error]
}
