//! What a damaged, confused or hostile PDU must not do, kind by kind (RFC 7143 sections 4.2.5.3, 7.7, 7.8).

use super::script::*;
use crate::base::Serial;
use crate::session::*;
use crate::wire::iscsi::codes::opcode;
use crate::wire::iscsi::request::{NopOut, TaskManagementRequest, TextRequest};
use crate::wire::iscsi::response::{
    AsyncMessage, DataIn, LogoutResponse, NopIn, R2t, Reject, ScsiResponse, TaskManagementResponse,
    TextResponse,
};
use crate::wire::iscsi::{Bhs, TAG_NONE};

/// One PDU of each kind with its data, all of them for the task `tag`, with the next StatSN.
fn each_kind(s: &Script, tag: u32) -> Vec<(Bhs, Vec<u8>)> {
    let numbers = s.numbers();
    let sense = [&[0, 18, 0x70, 0, 3][..], &[0; 15]].concat();
    vec![
        (
            ScsiResponse { task_tag: tag, status: 2, numbers, ..ScsiResponse::default() }.to_bhs(),
            sense.clone(),
        ),
        (
            TaskManagementResponse { task_tag: tag, numbers, response: 0, data_len: 0 }.to_bhs(),
            vec![],
        ),
        (
            NopIn { task_tag: tag, transfer_tag: TAG_NONE, numbers, ..NopIn::default() }.to_bhs(),
            vec![],
        ),
        (
            TextResponse {
                task_tag: tag,
                transfer_tag: TAG_NONE,
                last: true,
                numbers,
                ..TextResponse::default()
            }
            .to_bhs(),
            vec![],
        ),
        (LogoutResponse { task_tag: tag, numbers, ..LogoutResponse::default() }.to_bhs(), vec![]),
        (
            R2t {
                lun: LUN,
                task_tag: tag,
                transfer_tag: 3,
                numbers,
                offset: 8192,
                desired_len: 512,
                ..R2t::default()
            }
            .to_bhs(),
            vec![],
        ),
        (
            AsyncMessage {
                lun: LUN,
                task_tag: TAG_NONE,
                numbers,
                event: 0,
                ..AsyncMessage::default()
            }
            .to_bhs(),
            sense,
        ),
        (
            Reject { reason: 4, task_tag: TAG_NONE, numbers, ..Reject::default() }.to_bhs(),
            vec![0x45; 48],
        ),
        (
            NopIn { task_tag: TAG_NONE, transfer_tag: 7, numbers, lun: LUN, ..NopIn::default() }
                .to_bhs(),
            vec![],
        ),
    ]
}

/// RFC 7143 7.8: any damaged byte of any PDU, in header, digest words, data or padding, ends the session;
/// no field of that PDU is used.
#[test]
fn damage_anywhere() {
    let both = Config { header_digest: Digest::Crc32c, data_digest: Digest::Crc32c, ..config() };
    let answers = [TGTD, &[("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")]].concat();
    let kinds = each_kind(&Script::connect(config()), 0).len();
    for kind in 0..kinds {
        let mut flip = 0;
        loop {
            let mut s = Script::logged_in(both.clone(), &answers);
            let tag = s.write(1, &[1; 16384]);
            s.take();
            let (bhs, data) = each_kind(&s, tag.0).swap_remove(kind);
            let mut bytes = s.pdu(&bhs, &data);
            let Some(byte) = bytes.get_mut(flip) else { break };
            *byte ^= 0x10;
            s.feed(&bytes);
            assert!(s.sent().is_empty(), "kind {kind}, byte {flip}");
            let events = s.events();
            assert!(
                matches!(
                    events[..],
                    [Event::Lost { token: 1, sent: true }, Event::Closed(SessionError::Frame(_))]
                ),
                "kind {kind}, byte {flip}: {events:?}"
            );
            // A length that cannot be is refused before the digest has come.
            let length = (4..8).contains(&flip);
            assert!(
                length || s.session.statistics().digest_errors == 1,
                "kind {kind}, byte {flip}"
            );
            flip += 1;
        }
        assert!(flip >= 52, "kind {kind}: every byte was damaged once");
    }
}

/// RFC 7143 4.2.5.3: an answer of the wrong kind for a live tag ends the session; the command is lost, not
/// done.
#[test]
fn answers_of_the_wrong_kind() {
    // To a command: everything but a SCSI Response.
    for kind in 1..=5 {
        let mut s = Script::logged_in(config(), TGTD);
        let tag = s.read(1, 512);
        s.sent();
        let (bhs, data) = each_kind(&s, tag.0).swap_remove(kind);
        s.feed_pdu(&bhs, &data);
        let events = s.events();
        assert!(
            matches!(
                events[..],
                [Event::Lost { token: 1, .. }, Event::Closed(SessionError::Protocol(_))]
            ),
            "{kind}: {events:?}"
        );
    }
    // To a ping, a text request, a task management request: everything but theirs.
    type Ask = fn(&mut Script) -> u32;
    let asks: [(usize, Ask); 3] = [
        (1, |s| {
            s.session.reset_logical_unit(at(0), LUN, 1);
            TaskManagementRequest::parse(&s.sent()[0].bhs).task_tag
        }),
        (2, |s| {
            s.session.ping(at(0));
            NopOut::parse(&s.sent()[0].bhs).task_tag
        }),
        (3, |s| {
            s.session.send_targets(at(0));
            TextRequest::parse(&s.sent()[0].bhs).task_tag
        }),
    ];
    for (own, ask) in asks {
        for kind in 0..=5 {
            let mut s = Script::logged_in(config(), TGTD);
            let tag = ask(&mut s);
            let (bhs, data) = each_kind(&s, tag).swap_remove(kind);
            s.feed_pdu(&bhs, &data);
            let ended = s.session.state() == State::Closed;
            assert_eq!(ended, kind != own, "{own} answered by {kind}");
        }
        let mut s = Script::logged_in(config(), TGTD);
        let task_tag = ask(&mut s);
        let header = DataIn { task_tag, numbers: s.numbers(), ..DataIn::default() };
        s.feed_pdu(&header.to_bhs(), &[0; 4]);
        assert!(matches!(s.closed(), SessionError::Protocol(_)));
    }
}

/// RFC 7143 11.6.2, 11.8.1, 11.15.2: PDUs that have no data segment; 11.19: a NOP-In that asks for nothing
/// may bring data, which nobody keeps.
#[test]
fn data_where_there_is_none() {
    for kind in [1, 4, 5] {
        let mut s = Script::logged_in(config(), TGTD);
        let tag = s.write(1, &[1; 16384]);
        let (bhs, _) = each_kind(&s, tag.0).swap_remove(kind);
        s.feed_pdu(&bhs, &[0; 8]);
        assert!(matches!(s.closed(), SessionError::Format(_)), "{kind}");
    }
    let mut s = Script::logged_in(config(), TGTD);
    let news = NopIn {
        task_tag: TAG_NONE,
        transfer_tag: TAG_NONE,
        numbers: s.numbers(),
        ..NopIn::default()
    };
    s.feed_pdu(&news.to_bhs(), &[0xee; 6001]);
    s.feed_pdu(&news.to_bhs(), &[]);
    assert!(s.sent().is_empty() && s.session.state() == State::FullFeature);
}

/// RFC 7143 6.4, 11.17.1: a rejected SendTargets has no answer; a rejected negotiation leaves everything as
/// it was.
#[test]
fn rejected_text() {
    let mut s = Script::connect(Config { kind: Kind::Discovery, ..config() });
    s.login(true, 0, &[]);
    s.login(true, 1, &[]);
    s.sent();
    s.session.send_targets(at(0));
    let echo = s.sent()[0].bhs;
    let reject = Reject { reason: 9, task_tag: TAG_NONE, numbers: s.status(), ..Reject::default() };
    s.feed_pdu(&reject.to_bhs(), &echo);
    assert!(matches!(s.closed(), SessionError::Text(_)));

    let mut s = Script::logged_in(config(), TGTD);
    let ask = AsyncMessage {
        task_tag: TAG_NONE,
        numbers: s.status(),
        event: 4,
        parameter3: 3,
        ..AsyncMessage::default()
    };
    s.feed_pdu(&ask.to_bhs(), &[]);
    let sent = s.sent();
    assert_eq!(sent[0].opcode(), opcode::TEXT_REQUEST);
    let reject = Reject { reason: 9, task_tag: TAG_NONE, numbers: s.status(), ..Reject::default() };
    s.feed_pdu(&reject.to_bhs(), &sent[0].bhs);
    assert_eq!(s.session.state(), State::FullFeature);
    s.write(1, &[1; 16384]);
    assert_eq!(s.sent()[0].data.len(), 8192, "as negotiated in the login");
}

/// RFC 7143 4.2.2.2, 11.19.2, 11.8.3: what takes a StatSN and what does not; every request acknowledges all
/// that came.
#[test]
fn who_takes_a_stat_sn() {
    let mut s = Script::logged_in(config(), TGTD);
    let acknowledged = |s: &mut Script| {
        let ping =
            NopIn { task_tag: TAG_NONE, transfer_tag: 1, numbers: s.numbers(), ..NopIn::default() };
        s.feed_pdu(&ping.to_bhs(), &[]);
        NopOut::parse(&s.sent().last().expect("an answer").bhs).exp_stat_sn
    };
    let tag = s.write(1, &[1; 16384]);
    let before = acknowledged(&mut s);
    for (kind, step) in [(5, 0), (6, 1), (7, 1), (8, 0), (0, 1)] {
        let expected = s.stat_sn.plus(step);
        let (bhs, data) = each_kind(&s, tag.0).swap_remove(kind);
        s.feed_pdu(&bhs, &data);
        s.stat_sn = expected;
        assert_eq!(acknowledged(&mut s), expected, "kind {kind}");
    }
    assert_eq!(before.plus(3), s.stat_sn);
    assert_ne!(s.stat_sn, Serial(0));
}
