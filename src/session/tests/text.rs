//! Discovery sessions and text exchanges (RFC 7143 sections 4.3, 11.10, 11.11, appendix C).

use super::script::*;
use crate::session::*;
use crate::wire::iscsi::TAG_NONE;
use crate::wire::iscsi::codes::opcode;
use crate::wire::iscsi::request::{LogoutRequest, TextRequest};
use crate::wire::iscsi::response::{LogoutResponse, NopIn, TextResponse};

fn discovery() -> Script {
    let c = Config { kind: Kind::Discovery, ..config() };
    let mut s = Script::connect(c);
    assert_eq!(
        s.sent()[0].text(),
        "InitiatorName=iqn.2026-11.test:i;SessionType=Discovery;AuthMethod=None;"
    );
    s.login(true, 0, &[("AuthMethod", "None")]);
    s.sent();
    s.login(true, 1, &[("MaxRecvDataSegmentLength", "8192")]);
    assert!(matches!(s.events()[..], [Event::LoggedIn]));
    s
}

fn answer(s: &mut Script, tag: u32, data: &[u8], last: bool, more: bool) {
    let header = TextResponse {
        last,
        more,
        lun: 6,
        task_tag: tag,
        transfer_tag: if last { TAG_NONE } else { 0x55 },
        numbers: s.status(),
        data_len: 0,
    };
    s.feed_pdu(&header.to_bhs(), data);
}

fn ask(s: &mut Script) -> u32 {
    s.session.send_targets(at(1));
    let sent = s.sent();
    assert_eq!((sent.len(), sent[0].text().as_str()), (1, "SendTargets=All;"));
    let r = TextRequest::parse(&sent[0].bhs);
    assert!(r.last && !r.more && r.immediate && r.transfer_tag == TAG_NONE);
    r.task_tag
}

/// RFC 7143 appendix C: discovery from login to logout; nothing but text and logout is sent.
#[test]
fn send_targets() {
    let mut s = discovery();
    assert_eq!(s.session.room(), 0);
    assert!(s.session.poll_deadline().is_none());
    let tag = ask(&mut s);
    s.session.send_targets(at(1));
    s.session.ping(at(1));
    assert!(!s.session.reset_logical_unit(at(1), 0, 0));
    let ping =
        NopIn { task_tag: TAG_NONE, transfer_tag: 2, numbers: s.numbers(), ..NopIn::default() };
    s.feed_pdu(&ping.to_bhs(), &[]);
    assert!(s.sent().is_empty());
    let list = [("TargetName", "iqn.x:a"), ("TargetAddress", "10.0.0.1:3260,1")];
    answer(&mut s, tag, &text(&list), true, false);
    match &s.events()[..] {
        [Event::Targets(targets)] => assert_eq!(targets[0].name, "iqn.x:a"),
        other => panic!("{other:?}"),
    }
    s.session.logout(at(2));
    let sent = s.sent();
    assert_eq!(sent[0].opcode(), opcode::LOGOUT_REQUEST);
    let header = LogoutResponse {
        task_tag: LogoutRequest::parse(&sent[0].bhs).task_tag,
        numbers: s.status(),
        ..LogoutResponse::default()
    };
    s.feed_pdu(&header.to_bhs(), &[]);
    assert_eq!(s.closed(), SessionError::LoggedOut);
}

/// RFC 7143 11.10.4, 11.11: a long answer, its pairs split anywhere; each part is asked for with the
/// target's tag and LUN.
#[test]
fn long_answer() {
    let mut s = discovery();
    let tag = ask(&mut s);
    let list: Vec<u8> = (0..2000)
        .flat_map(|i| {
            let (name, address) = (format!("iqn.x:{i}"), format!("10.0.{}.1,1", i % 200));
            text(&[("TargetName", &name), ("TargetAddress", &address)])
        })
        .collect();
    let parts: Vec<&[u8]> = list.chunks(8191).collect();
    for (i, part) in parts.iter().enumerate() {
        let last = i + 1 == parts.len();
        answer(&mut s, tag, part, last, !last);
        if !last {
            let sent = s.sent();
            let r = TextRequest::parse(&sent[0].bhs);
            assert_eq!((r.task_tag, r.transfer_tag, r.lun), (tag, 0x55, 6));
            assert!(r.last && r.immediate && sent[0].data.is_empty());
        }
    }
    match &s.events()[..] {
        [Event::Targets(targets)] => assert_eq!(targets.len(), 2000),
        other => panic!("{other:?}"),
    }
    assert!(s.sent().is_empty());
}

/// RFC 7143 11.11: answers that do not end, are too long or have the wrong bits.
#[test]
fn bad_answers() {
    let mut s = discovery();
    let tag = ask(&mut s);
    while s.session.state() == State::FullFeature {
        answer(&mut s, tag, &[], false, false);
    }
    assert!(matches!(s.closed(), SessionError::Text(_)));
    let mut s = discovery();
    let tag = ask(&mut s);
    while s.session.state() == State::FullFeature {
        answer(&mut s, tag, &[b'x'; 200_000], false, true);
        s.take();
    }
    assert!(matches!(s.closed(), SessionError::Text(_)));
    let mut s = discovery();
    let tag = ask(&mut s);
    answer(&mut s, tag, &[], true, true);
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
    let mut s = discovery();
    let tag = ask(&mut s);
    answer(&mut s, tag ^ 1, &[], true, false);
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
    let mut s = discovery();
    let tag = ask(&mut s);
    let header = TextResponse {
        task_tag: tag,
        transfer_tag: TAG_NONE,
        numbers: s.status(),
        ..TextResponse::default()
    };
    s.feed_pdu(&header.to_bhs(), b"TargetName=x\0");
    assert!(matches!(s.closed(), SessionError::Text(_)));
    let mut s = discovery();
    let tag = ask(&mut s);
    answer(&mut s, tag, b"TargetName=x", true, false);
    assert!(matches!(s.closed(), SessionError::Text(_)));
}

/// An answer that never comes.
#[test]
fn no_answer() {
    let mut s = discovery();
    ask(&mut s);
    assert_eq!(s.session.poll_deadline(), Some((at(15_001), Deadline::Text)));
    s.session.handle_timeout(at(15_001));
    assert!(matches!(s.closed(), SessionError::TextTimedOut(_)));
}

/// RFC 7143 appendix C: on a normal session the value is empty.
#[test]
fn on_a_normal_session() {
    let mut s = Script::logged_in(config(), TGTD);
    s.session.send_targets(at(0));
    assert_eq!(s.sent()[0].text(), "SendTargets=;");
}
