//! Pings and silence.

use super::script::*;
use crate::base::Duration;
use crate::session::*;
use crate::wire::iscsi::TAG_NONE;
use crate::wire::iscsi::codes::tmf;
use crate::wire::iscsi::request::{NopOut, TaskManagementRequest};
use crate::wire::iscsi::response::{DataIn, NopIn, TaskManagementResponse};

fn pong(s: &mut Script, millis: u64) {
    let sent = s.sent();
    let nop = NopOut::parse(&sent.last().expect("a ping").bhs);
    let header = NopIn {
        task_tag: nop.task_tag,
        transfer_tag: TAG_NONE,
        numbers: s.status(),
        ..NopIn::default()
    };
    s.now = at(millis);
    s.feed_pdu(&header.to_bhs(), &[]);
}

/// An idle connection is pinged once per interval, and is closed when that is not answered.
#[test]
fn idle() {
    let mut s = Script::logged_in(config(), TGTD);
    assert_eq!(s.session.poll_deadline(), Some((at(500), Deadline::Ping)));
    s.session.handle_timeout(at(499));
    assert!(s.sent().is_empty());
    s.session.handle_timeout(at(500));
    pong(&mut s, 510);
    assert_eq!(s.session.poll_deadline(), Some((at(1010), Deadline::Ping)));
    s.session.handle_timeout(at(1020));
    s.sent();
    assert_eq!(s.session.poll_deadline(), Some((at(2020), Deadline::Silence)));
    s.session.handle_timeout(at(2020));
    assert_eq!(s.closed(), SessionError::Silence(Duration::from_secs(1)));
}

/// With a command in flight: silence counts from the later of submit and last byte, and a ping goes out
/// before it is called silence. Pings keep a slow command's session alive.
#[test]
fn busy() {
    let mut s = Script::logged_in(config(), TGTD);
    s.now = at(400);
    let tag = s.read(1, 512);
    assert_eq!(s.session.last_progress(tag), Some(at(400)));
    assert_eq!(s.session.poll_deadline(), Some((at(900), Deadline::Ping)));
    s.session.handle_timeout(at(900));
    assert_eq!(s.session.poll_deadline(), Some((at(1400), Deadline::Silence)));
    pong(&mut s, 950);
    for round in 0..100 {
        let due = 950 + 510 * round + 500;
        assert_eq!(s.session.poll_deadline(), Some((at(due), Deadline::Ping)));
        s.session.handle_timeout(at(due));
        pong(&mut s, due + 10);
    }
    // A single byte of a PDU is a sign of life too; the command is no further.
    s.now = at(60_000);
    s.feed(&[0x25]);
    assert_eq!(s.session.poll_deadline(), Some((at(60_500), Deadline::Ping)));
    assert_eq!(s.session.last_progress(tag), Some(at(400)));
    let mut header = DataIn { task_tag: tag.0, numbers: s.numbers(), ..DataIn::default() };
    header.data_len = 100;
    let bytes = s.pdu(&header.to_bhs(), &[0; 100]);
    s.now = at(60_100);
    s.feed(&bytes[1..]);
    assert_eq!(s.session.last_progress(tag), Some(at(60_100)));
    s.session.set_silence_timeout(Duration::from_secs(10));
    s.session.handle_timeout(at(60_600));
    assert_eq!(s.session.poll_deadline(), Some((at(70_100), Deadline::Silence)));
    s.session.handle_timeout(at(70_100));
    assert!(matches!(s.closed(), SessionError::Silence(_)));
}

/// The rest of a stream that comes 200 ms after its process has stopped does not save the connection; bytes that
/// go on coming do, however late the ping's answer is.
#[test]
fn bytes_that_were_on_their_way_are_no_answer_to_a_ping() {
    for (more, ends) in [
        (&[][..], 1000),
        (&[219][..], 1020),
        (&[219, 600][..], 1100),
        (&[400, 800, 1200, 1600][..], 2100),
    ] {
        let mut s = Script::logged_in(config(), TGTD);
        s.read(1, 4096);
        s.session.ping(at(20));
        for &byte in more {
            s.session.handle_timeout(at(byte));
            s.now = at(byte);
            s.feed(&[0x25]);
            s.session.ping(at(byte));
        }
        assert_eq!(s.session.poll_deadline(), Some((at(ends), Deadline::Silence)));
        s.session.handle_timeout(at(ends));
        assert!(matches!(s.closed(), SessionError::Silence(_)));
    }
}

/// A ping interval above the silence timeout does not make a connection silent without having asked.
#[test]
fn interval_above_the_timeout() {
    let mut s = Script::logged_in(config(), TGTD);
    s.session.set_nop_interval(Duration::from_secs(30));
    assert_eq!(s.session.poll_deadline(), Some((at(500), Deadline::Ping)));
    s.session.handle_timeout(at(5000));
    assert_eq!(s.session.state(), State::FullFeature);
    assert_eq!(s.session.poll_deadline(), Some((at(6000), Deadline::Silence)));
}

/// Answers every ping until the session has something else to do at `until`, or ends.
fn answer_pings(s: &mut Script, until: u64) {
    while let Some((when, why)) = s.session.poll_deadline() {
        if when > at(until) {
            return;
        }
        s.session.handle_timeout(when);
        if why == Deadline::Ping {
            let millis = u64::try_from((when - at(0)).as_millis()).expect("a short test");
            pong(s, millis + 1);
        }
    }
}

/// Task management that is never answered is given up, one request after the other, and the session goes on:
/// it answers pings. A late answer counts for nothing; the next request is another one.
#[test]
fn management_without_an_answer() {
    let mut s = Script::logged_in(config(), TGTD);
    assert!(s.session.reset_logical_unit(at(0), LUN, 1));
    let first = TaskManagementRequest::parse(&s.sent()[0].bhs).task_tag;
    answer_pings(&mut s, 20_000);
    assert!(s.session.reset_logical_unit(at(20_000), LUN, 2));
    let second = TaskManagementRequest::parse(&s.sent()[0].bhs).task_tag;
    answer_pings(&mut s, 29_999);
    assert!(s.events().is_empty());
    answer_pings(&mut s, 30_000);
    let timed_out = Event::TaskManagementTimedOut { token: 1, function: tmf::LOGICAL_UNIT_RESET };
    assert_eq!(format!("{:?}", s.events()), format!("{:?}", [timed_out]));
    assert_eq!(s.session.state(), State::FullFeature);
    let answer = |s: &mut Script, task_tag| {
        let numbers = s.status();
        let header =
            TaskManagementResponse { task_tag, numbers, ..TaskManagementResponse::default() };
        s.feed_pdu(&header.to_bhs(), &[]);
    };
    answer(&mut s, first);
    assert!(s.events().is_empty(), "too late");
    answer(&mut s, second);
    assert!(matches!(s.events()[..], [Event::TaskManagement { token: 2, response: 0, .. }]));
    answer(&mut s, second);
    assert!(matches!(s.closed(), SessionError::Protocol(_)), "an answer to nothing");
}

/// An ABORT TASK without an answer may be sent again; no data goes out for its task meanwhile.
#[test]
fn an_abort_without_an_answer_can_be_repeated() {
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.write(8, &[1; 512]);
    s.sent();
    assert!(s.session.abort(at(0), tag));
    assert!(!s.session.abort(at(1), tag), "one is out");
    s.sent();
    answer_pings(&mut s, 30_000);
    assert!(matches!(s.events()[..], [Event::TaskManagementTimedOut { token: 8, .. }]));
    assert!(s.session.abort(at(30_001), tag));
    let again = TaskManagementRequest::parse(&s.sent()[0].bhs).task_tag;
    let header = TaskManagementResponse {
        task_tag: again,
        numbers: s.status(),
        ..TaskManagementResponse::default()
    };
    s.feed_pdu(&header.to_bhs(), &[]);
    assert!(matches!(
        s.events()[..],
        [Event::Aborted { token: 8, .. }, Event::TaskManagement { token: 8, response: 0, .. }]
    ));
}
