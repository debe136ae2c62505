//! Pings, task management, asynchronous messages, rejects, logout (RFC 7143 sections 11.5 to 11.19).

use super::script::*;
use crate::base::{Duration, Serial};
use crate::session::*;
use crate::wire::iscsi::TAG_NONE;
use crate::wire::iscsi::codes::{async_event, opcode, tmf};
use crate::wire::iscsi::request::{LogoutRequest, NopOut, TaskManagementRequest, TextRequest};
use crate::wire::iscsi::response::{
    AsyncMessage, LogoutResponse, NopIn, R2t, Reject, ScsiResponse, TaskManagementResponse,
    TextResponse,
};

fn managed(s: &mut Script, tag: u32, response: u8) {
    let numbers = s.status();
    let header = TaskManagementResponse { response, task_tag: tag, numbers, data_len: 0 };
    s.feed_pdu(&header.to_bhs(), &[]);
}

fn request(s: &mut Script) -> TaskManagementRequest {
    let sent = s.sent();
    let found = sent.iter().find(|p| p.opcode() == opcode::TASK_MANAGEMENT_REQUEST);
    TaskManagementRequest::parse(&found.expect("a request").bhs)
}

fn good(s: &mut Script, tag: TaskTag) {
    let header = ScsiResponse { task_tag: tag.0, numbers: s.status(), ..ScsiResponse::default() };
    s.feed_pdu(&header.to_bhs(), &[]);
}

fn tell(s: &mut Script, event: u8, parameters: (u16, u16, u16), data: &[u8]) {
    let header = AsyncMessage {
        lun: LUN,
        task_tag: TAG_NONE,
        numbers: s.status(),
        event,
        vendor_code: 3,
        parameter1: parameters.0,
        parameter2: parameters.1,
        parameter3: parameters.2,
        data_len: 0,
    };
    s.feed_pdu(&header.to_bhs(), data);
}

fn reject(s: &mut Script, reason: u8, data: &[u8]) {
    let header = Reject { reason, task_tag: TAG_NONE, numbers: s.status(), ..Reject::default() };
    s.feed_pdu(&header.to_bhs(), data);
}

/// RFC 7143 11.18, 11.19: our ping and its answer; the target's ping is answered with its tag and LUN.
#[test]
fn pings() {
    let mut s = Script::logged_in(config(), TGTD);
    s.session.ping(at(1));
    s.session.ping(at(2));
    let sent = s.sent();
    let nop = NopOut::parse(&sent[0].bhs);
    assert_eq!((sent.len(), nop.immediate, nop.transfer_tag), (1, true, TAG_NONE));
    assert!(nop.task_tag != TAG_NONE && nop.cmd_sn.0 == 0xffff_ffff);
    let pong = NopIn {
        task_tag: nop.task_tag,
        transfer_tag: TAG_NONE,
        numbers: s.status(),
        ..NopIn::default()
    };
    s.feed_pdu(&pong.to_bhs(), b"echo of something");
    for transfer_tag in [0, 0xffff_fffe] {
        let ping = NopIn {
            lun: LUN,
            task_tag: TAG_NONE,
            transfer_tag,
            numbers: s.numbers(),
            ..NopIn::default()
        };
        s.feed_pdu(&ping.to_bhs(), &[]);
        let answer = NopOut::parse(&s.sent()[0].bhs);
        assert_eq!((answer.lun, answer.task_tag), (LUN, TAG_NONE));
        assert_eq!((answer.transfer_tag, answer.cmd_sn.0), (transfer_tag, 0xffff_ffff));
        assert!(answer.immediate && answer.exp_stat_sn == s.stat_sn);
    }
    let news = NopIn {
        task_tag: TAG_NONE,
        transfer_tag: TAG_NONE,
        numbers: s.numbers(),
        ..NopIn::default()
    };
    for _ in 0..1000 {
        s.feed_pdu(&news.to_bhs(), &[]);
    }
    assert!(s.sent().is_empty() && s.events().is_empty());
    // The same answer again.
    let again = NopIn { numbers: s.status(), ..pong };
    s.feed_pdu(&again.to_bhs(), &[]);
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
}

/// RFC 7143 7.7: a NOP-In with both tags; a flood is bounded.
#[test]
fn bad_pings() {
    let mut s = Script::logged_in(config(), TGTD);
    let both = NopIn { task_tag: 1, transfer_tag: 2, numbers: s.numbers(), ..NopIn::default() };
    s.feed_pdu(&both.to_bhs(), &[]);
    assert!(matches!(s.closed(), SessionError::Format(_)));
    let mut s = Script::logged_in(config(), TGTD);
    let ping =
        NopIn { task_tag: TAG_NONE, transfer_tag: 2, numbers: s.numbers(), ..NopIn::default() };
    let flood = s.pdu(&ping.to_bhs(), &[]).repeat(1000);
    while s.session.state() != State::Closed {
        s.feed(&flood);
        assert!(s.session.tx().pending() < 2_000_000);
    }
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
}

/// No ABORT TASK and no LOGICAL UNIT RESET while the target waits for data: before the command was handed over,
/// while there are R2Ts to come, and until the last Data-Out was handed over.
#[test]
fn no_task_management_while_data_are_owed() {
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.write(8, &[1; 100_000]);
    let read = s.read(7, 512);
    let refused = |s: &mut Script| {
        assert!(s.session.data_outstanding(tag) && s.session.any_data_outstanding(LUN));
        assert!(!s.session.abort(at(1), tag) && !s.session.reset_logical_unit(at(1), LUN, 1));
    };
    refused(&mut s);
    s.sent();
    refused(&mut s);
    for (sn, offset, desired_len) in [(0, 8192, 8192), (1, 16_384, 83_616)] {
        let ready = R2t {
            lun: LUN,
            task_tag: tag.0,
            transfer_tag: 1,
            numbers: s.numbers(),
            r2t_sn: Serial(sn),
            offset,
            desired_len,
            ..R2t::default()
        };
        s.feed_pdu(&ready.to_bhs(), &[]);
        refused(&mut s);
        if sn == 0 {
            s.sent();
            refused(&mut s);
        }
    }
    // Data is made ready by `tx`, and handed over later.
    assert!(!s.session.tx().is_empty());
    refused(&mut s);
    // Another unit, and a command without data to send, are not concerned.
    assert!(!s.session.any_data_outstanding(5) && !s.session.data_outstanding(read));
    assert!(s.session.abort(at(1), read));
    s.sent();
    assert!(!s.session.data_outstanding(tag) && !s.session.any_data_outstanding(LUN));
    assert!(s.session.abort(at(1), tag) && s.session.reset_logical_unit(at(1), LUN, 1));
}

/// RFC 7143 11.5, 11.6: ABORT TASK names the task; once it is queued no data is sent for the task.
#[test]
fn abort() {
    let mut s = Script::logged_in(config(), TGTD);
    s.read(7, 512);
    let tag = s.write(8, &[1; 100_000]);
    s.sent();
    let ready = R2t {
        lun: LUN,
        task_tag: tag.0,
        transfer_tag: 1,
        numbers: s.numbers(),
        offset: 8192,
        desired_len: 91_808,
        ..R2t::default()
    };
    s.feed_pdu(&ready.to_bhs(), &[]);
    s.sent();
    assert!(s.session.abort(at(1), tag));
    assert!(!s.session.abort(at(1), tag), "once");
    // Asked for a second time.
    let again = R2t { r2t_sn: Serial(1), ..ready };
    s.feed_pdu(&again.to_bhs(), &[]);
    let sent = s.sent();
    assert_eq!(sent.len(), 1, "no Data-Out");
    let r = TaskManagementRequest::parse(&sent[0].bhs);
    assert_eq!((r.function, r.lun, r.referenced_tag), (tmf::ABORT_TASK, LUN, tag.0));
    assert_eq!((r.immediate, r.ref_cmd_sn.0, r.cmd_sn.0), (true, 0, 1));
    managed(&mut s, r.task_tag, 0);
    let events = s.events();
    assert!(
        matches!(
            events[..],
            [
                Event::Aborted { token: 8, .. },
                Event::TaskManagement { token: 8, function: tmf::ABORT_TASK, response: 0 }
            ]
        ),
        "{events:?}"
    );
    // What comes late is dropped, its StatSN counts.
    good(&mut s, tag);
    s.feed_pdu(&ready.to_bhs(), &[]);
    assert!(s.events().is_empty() && s.sent().is_empty());
    assert_eq!(s.session.in_flight(), 1);
    assert!(!s.session.abort(at(1), tag));
    good(&mut s, TaskTag(0x0055_0055));
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
}

/// RFC 7143 11.6.1: each response of a task management function.
#[test]
fn abort_responses() {
    for response in 0..=255u8 {
        let mut s = Script::logged_in(config(), TGTD);
        let tag = s.write(8, &[1; 512]);
        s.sent();
        s.session.abort(at(1), tag);
        let r = request(&mut s);
        managed(&mut s, r.task_tag, response);
        let events = s.events();
        match response {
            0 => assert!(matches!(events[0], Event::Aborted { token: 8, .. })),
            1 => assert!(matches!(events[0], Event::Lost { token: 8, sent: true })),
            2 | 5 | 6 | 255 => {
                assert!(matches!(events[..], [Event::TaskManagement { token: 8, .. }]));
                assert_eq!(s.session.in_flight(), 1);
                assert!(s.session.abort(at(2), tag), "another try");
                good(&mut s, tag);
                assert!(matches!(s.events()[..], [Event::Done { token: 8, .. }]));
            }
            _ => assert!(matches!(events[1], Event::Closed(SessionError::Protocol(_)))),
        }
    }
    // The command's own answer comes first.
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.write(8, &[1; 512]);
    s.sent();
    s.session.abort(at(1), tag);
    let r = request(&mut s);
    good(&mut s, tag);
    managed(&mut s, r.task_tag, 1);
    let events = s.events();
    assert!(matches!(
        events[..],
        [Event::Done { token: 8, .. }, Event::TaskManagement { response: 1, .. }]
    ));
    managed(&mut s, r.task_tag, 0);
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
}

/// RFC 7143 11.5.1, 4.2.3.3: LOGICAL UNIT RESET ends the commands of its LUN that were sent before it.
#[test]
fn logical_unit_reset() {
    let mut s = Script::logged_in(config(), TGTD);
    s.write(1, &[1; 512]);
    let other = Command { token: 2, lun: 5, cdb: [0; 16], data: Direction::None };
    s.session.submit(at(0), other).expect("room");
    s.sent();
    assert!(s.session.reset_logical_unit(at(1), LUN, 99));
    let r = request(&mut s);
    assert_eq!((r.function, r.lun), (tmf::LOGICAL_UNIT_RESET, LUN));
    assert_eq!((r.referenced_tag, r.immediate), (TAG_NONE, true));
    s.exp_cmd_sn = s.exp_cmd_sn.plus(1);
    let after = s.write(3, &[1; 512]);
    managed(&mut s, r.task_tag, 0);
    let events = s.events();
    assert!(
        matches!(
            events[..],
            [
                Event::Aborted { token: 1, .. },
                Event::TaskManagement { token: 99, function: tmf::LOGICAL_UNIT_RESET, response: 0 }
            ]
        ),
        "{events:?}"
    );
    assert_eq!(s.session.in_flight(), 2);
    good(&mut s, after);
    assert!(matches!(s.events()[..], [Event::Done { token: 3, .. }]));
    // Many requests are bounded.
    let mut sent = 0;
    while s.session.reset_logical_unit(at(2), LUN, 1) {
        sent += 1;
    }
    assert_eq!(sent, 128 + 8);
}

/// RFC 7143 11.17.1: a request that the target had no room for is sent again, not for ever.
#[test]
fn too_many_immediate_commands() {
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.write(8, &[1; 512]);
    s.sent();
    s.session.abort(at(0), tag);
    let mut refused = 0;
    let mut now = 0;
    loop {
        let sent = s.sent();
        let Some(r) = sent.iter().find(|p| p.opcode() == opcode::TASK_MANAGEMENT_REQUEST) else {
            break;
        };
        let echo = r.bhs;
        reject(&mut s, 6, &echo);
        refused += 1;
        assert!(s.sent().is_empty(), "not at once");
        if let Some((when, Deadline::ManagementRetry)) = s.session.poll_deadline() {
            assert_eq!(when, at(now + 100));
            now += 100;
            s.now = when;
            s.session.handle_timeout(when);
        }
    }
    assert_eq!(refused, 20);
    assert!(matches!(s.events()[..], [Event::TaskManagement { token: 8, response: 255, .. }]));
}

/// RFC 7143 11.9: each event.
#[test]
fn asynchronous_messages() {
    let mut s = Script::logged_in(config(), TGTD);
    tell(&mut s, async_event::SCSI, (0, 0, 0), &[0, 3, 0x70, 0, 6, 9]);
    tell(&mut s, async_event::SCSI, (0, 0, 0), &[0xff]);
    tell(&mut s, async_event::DROP_CONNECTION, (77, 0, 0), &[]);
    tell(&mut s, 255, (0, 0, 0), &[7; 4096]);
    let events = s.events();
    match &events[..] {
        [
            Event::Async(AsyncEvent::Scsi { lun: LUN, sense }),
            Event::Async(AsyncEvent::Scsi { sense: none, .. }),
            Event::Async(AsyncEvent::OtherConnectionDrop { cid: 77 }),
            Event::Async(AsyncEvent::Vendor { event: 255, code: 3 }),
        ] => assert_eq!((&sense[..], none.len()), (&[0x70, 0, 6][..], 0)),
        other => panic!("{other:?}"),
    }
    for _ in 0..5000 {
        tell(&mut s, 250, (0, 0, 0), &[]);
    }
    assert_eq!(s.events().len(), 1024);
    for (event, cid) in [(async_event::DROP_CONNECTION, 1), (async_event::DROP_SESSION, 0)] {
        let mut s = Script::logged_in(config(), TGTD);
        tell(&mut s, event, (cid, 5, 20), &[]);
        let error = s.closed();
        assert_eq!(error.time2wait(), Some(Duration::from_secs(5)));
    }
    for event in [async_event::TERMINATE_TASKS, 6, 247] {
        let mut s = Script::logged_in(config(), TGTD);
        tell(&mut s, event, (0, 0, 0), &[]);
        assert!(matches!(s.closed(), SessionError::Protocol(_)));
    }
    let mut s = Script::logged_in(config(), TGTD);
    let header = AsyncMessage { numbers: s.status(), event: 255, ..AsyncMessage::default() };
    s.feed_pdu(&header.to_bhs(), &[]);
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
}

/// RFC 7143 11.9.1: asked to log out, with nothing and with something in flight.
#[test]
fn logout_requested() {
    let mut s = Script::logged_in(config(), TGTD);
    tell(&mut s, async_event::LOGOUT, (0, 0, 0), &[]);
    assert!(matches!(s.events()[..], [Event::LogoutRequested { .. }]));
    assert_eq!(s.sent()[0].opcode(), opcode::LOGOUT_REQUEST);

    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.write(1, &[0; 512]);
    tell(&mut s, async_event::LOGOUT, (0, 0, 4), &[]);
    s.sent();
    assert_eq!(s.session.room(), 0);
    good(&mut s, tag);
    assert_eq!(s.sent()[0].opcode(), opcode::LOGOUT_REQUEST);
    assert_eq!(s.session.state(), State::LoggingOut);

    let mut s = Script::logged_in(config(), TGTD);
    s.session.set_silence_timeout(Duration::from_secs(60));
    s.session.set_nop_interval(Duration::from_secs(60));
    s.write(1, &[0; 512]);
    s.sent();
    tell(&mut s, async_event::LOGOUT, (0, 0, 4), &[]);
    assert_eq!(s.session.poll_deadline(), Some((at(3000), Deadline::LogoutDue)));
    s.session.handle_timeout(at(3000));
    assert_eq!(s.sent()[0].opcode(), opcode::LOGOUT_REQUEST);
}

/// RFC 7143 11.9.1, 6.4: asked to negotiate; what cannot change is refused.
#[test]
fn negotiation_requested() {
    let mut s = Script::logged_in(config(), TGTD);
    tell(&mut s, async_event::NEGOTIATE, (0, 0, 3), &[]);
    let sent = s.sent();
    let r = TextRequest::parse(&sent[0].bhs);
    assert!(r.last && r.immediate && sent[0].data.is_empty() && r.transfer_tag == TAG_NONE);
    let mut answer = TextResponse {
        lun: 3,
        task_tag: r.task_tag,
        transfer_tag: 9,
        numbers: s.status(),
        ..TextResponse::default()
    };
    let proposals = [("MaxRecvDataSegmentLength", "1024"), ("MaxBurstLength", "512"), ("X-y", "1")];
    s.feed_pdu(&answer.to_bhs(), &text(&proposals));
    let sent = s.sent();
    let r = TextRequest::parse(&sent[0].bhs);
    assert_eq!((r.transfer_tag, r.lun, r.last), (9, 3, true));
    assert_eq!(sent[0].text(), "MaxBurstLength=Reject;X-y=NotUnderstood;");
    (answer.last, answer.transfer_tag, answer.numbers) = (true, TAG_NONE, s.status());
    s.feed_pdu(&answer.to_bhs(), &[]);
    s.write(1, &[1; 4096]);
    assert_eq!(s.sent()[0].data.len(), 1024);
    assert!(matches!(s.events()[..], [Event::Async(AsyncEvent::Negotiation)]));
}

/// RFC 7143 11.17: what each reason leads to, with echoes of any length.
#[test]
fn rejects() {
    // A rejected command ends the session: its CmdSN would be missing for ever.
    for reason in [4, 5, 8, 9, 6] {
        let mut s = Script::logged_in(config(), TGTD);
        s.write(1, &[0; 512]);
        let echo = s.sent()[0].bhs;
        reject(&mut s, reason, &echo);
        assert_eq!(s.closed(), SessionError::Rejected { reason, opcode: 1 });
    }
    // Diagnostics: the command's own answer will come.
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.write(1, &[0; 512]);
    s.sent();
    for (opcode, tag) in [(5, tag.0), (1, 77), (0x3f, 0), (2, tag.0), (4, tag.0), (0, tag.0)] {
        let mut echo = [0; 48];
        echo[0] = opcode;
        echo[16..20].copy_from_slice(&tag.to_be_bytes());
        for len in [0, 1, 17, 47, 48] {
            reject(&mut s, 4, &echo[..len]);
        }
        let long = [&echo[..], &[0xee; 8144]].concat();
        reject(&mut s, 4, &long);
    }
    good(&mut s, tag);
    assert!(matches!(s.events()[..], [Event::Done { token: 1, .. }]));
    assert_eq!(s.session.statistics().rejects, 36);
    // A rejected ping is a sign of life.
    s.session.ping(at(0));
    let echo = s.sent()[0].bhs;
    reject(&mut s, 5, &echo);
    s.session.ping(at(0));
    assert_eq!(s.sent().len(), 1);
    for reason in [2, 7] {
        let mut s = Script::logged_in(config(), TGTD);
        reject(&mut s, reason, &[]);
        assert!(matches!(s.closed(), SessionError::Rejected { .. }));
    }
    for reason in [0, 1, 3, 0x0d, 255] {
        let mut s = Script::logged_in(config(), TGTD);
        reject(&mut s, reason, &[]);
        assert!(matches!(s.closed(), SessionError::Protocol(_)));
    }
    let mut s = Script::logged_in(config(), TGTD);
    reject(&mut s, 0x0c, &[]);
    assert_eq!(s.session.state(), State::LoggingOut);
}

/// RFC 7143 11.14, 11.15: logout in order; nothing new is sent after it.
#[test]
fn logout() {
    for (response, expected) in [
        (0, SessionError::LoggedOut),
        (3, SessionError::LogoutFailed { response: 3, time2wait: Duration::from_secs(5) }),
    ] {
        let mut s = Script::logged_in(config(), TGTD);
        let tag = s.write(1, &[0; 512]);
        s.write(2, &[0; 512]);
        s.sent();
        s.session.logout(at(1));
        s.session.logout(at(1));
        let sent = s.sent();
        assert_eq!(sent.len(), 1);
        let r = LogoutRequest::parse(&sent[0].bhs);
        assert_eq!((r.reason, r.immediate, r.data_len), (0, true, 0));
        assert!(!s.session.can_submit());
        s.session.ping(at(2));
        assert!(!s.session.abort(at(2), tag));
        let ping =
            NopIn { task_tag: TAG_NONE, transfer_tag: 2, numbers: s.numbers(), ..NopIn::default() };
        s.feed_pdu(&ping.to_bhs(), &[]);
        assert!(s.sent().is_empty());
        good(&mut s, tag);
        let header = LogoutResponse {
            response,
            task_tag: r.task_tag,
            numbers: s.status(),
            time2wait: 5,
            ..LogoutResponse::default()
        };
        s.feed_pdu(&header.to_bhs(), &[]);
        let events = s.events();
        match &events[..] {
            [
                Event::Done { token: 1, .. },
                Event::Lost { token: 2, sent: true },
                Event::Closed(error),
            ] => assert_eq!(*error, expected),
            other => panic!("{other:?}"),
        }
    }
    let mut s = Script::logged_in(config(), TGTD);
    s.session.logout(at(1));
    assert_eq!(s.session.poll_deadline(), Some((at(2001), Deadline::Logout)));
    s.session.handle_timeout(at(2001));
    assert!(matches!(s.closed(), SessionError::LogoutTimedOut(_)));
    let mut s = Script::logged_in(config(), TGTD);
    let header = LogoutResponse { numbers: s.status(), ..LogoutResponse::default() };
    s.feed_pdu(&header.to_bhs(), &[]);
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
}
