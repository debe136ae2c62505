//! Commands and their data (RFC 7143 sections 4.2, 11.3, 11.4, 11.7, 11.8).

use super::script::*;
use crate::base::Serial;
use crate::session::*;
use crate::wire::iscsi::TAG_NONE;
use crate::wire::iscsi::codes::opcode;
use crate::wire::iscsi::request::{DataOut, ScsiCommand};
use crate::wire::iscsi::response::{DataIn, NopIn, R2t, ScsiResponse};

fn response(s: &mut Script, tag: TaskTag) -> ScsiResponse {
    ScsiResponse { task_tag: tag.0, numbers: s.status(), ..ScsiResponse::default() }
}

fn answer(s: &mut Script, tag: TaskTag) {
    let header = response(s, tag).to_bhs();
    s.feed_pdu(&header, &[]);
}

fn data_in(s: &Script, tag: TaskTag, data_sn: u32, offset: u32) -> DataIn {
    DataIn {
        task_tag: tag.0,
        transfer_tag: TAG_NONE,
        numbers: crate::wire::iscsi::response::Numbers {
            stat_sn: Serial(0xdead_beef),
            ..s.numbers()
        },
        data_sn: Serial(data_sn),
        offset,
        ..DataIn::default()
    }
}

fn r2t(s: &Script, tag: TaskTag, sn: u32, offset: u32, len: u32) -> R2t {
    R2t {
        lun: LUN,
        task_tag: tag.0,
        transfer_tag: 0x7000 + sn,
        numbers: s.numbers(),
        r2t_sn: Serial(sn),
        offset,
        desired_len: len,
        data_len: 0,
    }
}

fn completion(s: &mut Script) -> Completion {
    match s.events().pop() {
        Some(Event::Done { completion, .. }) => completion,
        other => panic!("{other:?}"),
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

/// RFC 7143 4.2.2.1: CmdSN across the wrap, ExpStatSN on every PDU, window and depth.
#[test]
fn window() {
    let mut c = config();
    c.queue_depth = 4;
    let mut s = Script::logged_in(c, TGTD);
    assert_eq!(s.session.room(), 4);
    let tags: Vec<_> = (0..4).map(|i| s.read(i, 512)).collect();
    assert!(!s.session.can_submit());
    let extra = Command { token: 9, lun: LUN, cdb: [9; 16], data: Direction::None };
    let back = s.session.submit(at(0), extra).expect_err("no room");
    assert_eq!((back.token, back.cdb), (9, [9; 16]));
    let sent = s.sent();
    let sns: Vec<u32> = sent.iter().map(|p| ScsiCommand::parse(&p.bhs).cmd_sn.0).collect();
    assert_eq!(sns, [0xffff_ffff, 0, 1, 2]);
    answer(&mut s, tags[0]);
    // GOOD without the data that a READ expects is an error, so it ends here.
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
}

/// RFC 7143 4.2.2.1: a closed window holds commands, not pings; a NOP-In opens it.
#[test]
fn closed_window() {
    let mut s = Script::connect(config());
    s.sent();
    s.max_cmd_sn = Serial(0xffff_fffe);
    s.login(true, 0, &[]);
    s.sent();
    s.login(true, 1, TGTD);
    s.events();
    assert_eq!(s.session.room(), 0);
    s.session.ping(at(1));
    assert_eq!(s.sent()[0].bhs[0], 0x40);
    s.max_cmd_sn = Serial(0xffff_ffff);
    let nop = NopIn {
        task_tag: TAG_NONE,
        transfer_tag: TAG_NONE,
        numbers: s.numbers(),
        ..NopIn::default()
    };
    s.feed_pdu(&nop.to_bhs(), &[]);
    assert_eq!(s.session.room(), 1);
    assert!(s.sent().is_empty());
}

/// RFC 7143 13.10, 13.11: which data goes without being asked for, for all four combinations.
#[test]
fn first_data() {
    // (InitialR2T, ImmediateData, F bit, immediate bytes, unsolicited Data-Out)
    for (r2t, immediate, last, with_command, after) in [
        ("Yes", "Yes", true, 512, &[][..]),
        ("Yes", "No", true, 0, &[][..]),
        ("No", "Yes", false, 512, &[(512, 512), (1024, 512)][..]),
        ("No", "No", false, 0, &[(0, 512), (512, 512), (1024, 512)][..]),
    ] {
        let answers = [
            ("InitialR2T", r2t),
            ("ImmediateData", immediate),
            ("FirstBurstLength", "1536"),
            ("MaxRecvDataSegmentLength", "513"),
        ];
        let mut s = Script::logged_in(config(), &answers);
        let data = pattern(4000);
        let tag = s.write(1, &data);
        let sent = s.sent();
        let command = ScsiCommand::parse(&sent[0].bhs);
        assert_eq!((command.last, sent[0].data.len()), (last, with_command));
        assert_eq!(command.expected_len, 4000);
        assert!(command.write && !command.read);
        let mut seen = sent[0].data.clone();
        for (i, &(offset, len)) in after.iter().enumerate() {
            let out = DataOut::parse(&sent[i + 1].bhs);
            assert_eq!((out.offset, out.data_len, out.data_sn.0), (offset, len, i as u32));
            assert_eq!((out.transfer_tag, out.last), (TAG_NONE, i + 1 == after.len()));
            assert_eq!(out.task_tag, tag.0);
            seen.extend_from_slice(&sent[i + 1].data);
        }
        assert_eq!(sent.len(), 1 + after.len());
        assert_eq!(seen, data[..seen.len()]);
    }
    // A short write goes whole with its command.
    let mut s = Script::logged_in(config(), TAKES_ALL);
    s.write(1, &pattern(4096));
    let sent = s.sent();
    assert_eq!(sent[0].bhs[1], 0xa1);
    assert_eq!(sent[0].data, pattern(4096));
    // Neither is data without data.
    s.submit(2, Direction::None);
    s.submit(3, Direction::Read { len: 0 });
    s.write(4, &[]);
    assert!(s.sent().iter().all(|p| p.bhs[1] == 0x81 && p.data.is_empty()));
}

/// RFC 7143 4.2.5.2: unsolicited data goes out in the order of the commands.
#[test]
fn unsolicited_order() {
    let answers =
        [("InitialR2T", "No"), ("FirstBurstLength", "2048"), ("MaxRecvDataSegmentLength", "512")];
    let mut s = Script::logged_in(config(), &answers);
    let tags: Vec<_> = (0..10).map(|i| s.write(i, &pattern(2048))).collect();
    let sent = s.sent();
    let outs: Vec<u32> = sent
        .iter()
        .filter(|p| p.opcode() == opcode::DATA_OUT)
        .map(|p| DataOut::parse(&p.bhs).task_tag)
        .collect();
    let expected: Vec<u32> = tags.iter().flat_map(|t| [t.0; 3]).collect();
    assert_eq!(outs, expected);
}

/// RFC 7143 11.7, 11.8: R2Ts are served in order with tag and LUN copied, DataSN from 0, F at the end.
#[test]
fn ready_to_transfer() {
    let answers = [("MaxRecvDataSegmentLength", "8193"), ("MaxOutstandingR2T", "2")];
    let mut s = Script::logged_in(config(), &answers);
    let data = pattern(100_000);
    let tag = s.write(1, &data);
    let sent = s.sent();
    assert_eq!((sent.len(), sent[0].data.len()), (1, 8192));
    let (a, b) = (r2t(&s, tag, 0, 8192, 50_000), r2t(&s, tag, 1, 58_192, 41_808));
    s.feed_pdu(&a.to_bhs(), &[]);
    s.feed_pdu(&b.to_bhs(), &[]);
    let mut at = 8192;
    let sent = s.sent();
    let mut sn = 0;
    for pdu in &sent {
        let out = DataOut::parse(&pdu.bhs);
        assert_eq!((out.offset, out.lun, out.task_tag), (at, LUN, tag.0));
        assert_eq!(out.transfer_tag, if at < 58_192 { 0x7000 } else { 0x7001 });
        assert_eq!(out.data_sn.0, sn);
        assert!(out.data_len <= 8193 && (out.last || out.data_len.is_multiple_of(4)));
        assert_eq!(pdu.data, data[at as usize..][..pdu.data.len()]);
        at += out.data_len;
        assert_eq!(out.last, at == 58_192 || at == 100_000);
        sn = if out.last { 0 } else { sn + 1 };
    }
    assert_eq!(at, 100_000);
    // A repeated R2TSN is dropped, a repeated range is served.
    s.feed_pdu(&b.to_bhs(), &[]);
    assert!(s.sent().is_empty());
    let again = r2t(&s, tag, 2, 1000, 24);
    s.feed_pdu(&again.to_bhs(), &[]);
    assert_eq!(s.sent()[0].data, data[1000..1024]);
    answer(&mut s, tag);
    assert_eq!(completion(&mut s).status, 0);
}

/// RFC 7143 4.2.5.2, 11.8: R2Ts that no conforming target sends.
#[test]
fn bad_r2ts() {
    type Change = fn(&mut R2t);
    let changes: [Change; 12] = [
        |r| r.offset = 3584,
        |r| (r.offset, r.desired_len) = (4096, 1),
        |r| (r.offset, r.desired_len) = (0xffff_fe00, 0x400),
        |r| r.desired_len = 0,
        |r| r.transfer_tag = TAG_NONE,
        |r| r.lun = 0,
        |r| r.r2t_sn = Serial(1),
        |r| r.task_tag ^= 1 << 20,
        |r| r.task_tag = 0x55,
        |r| (r.offset, r.desired_len) = (1024, 16),
        |r| r.desired_len = 1 << 20,
        |r| r.data_len = 8,
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let answers = [("FirstBurstLength", "512"), ("MaxBurstLength", "65536")];
        let mut s = Script::logged_in(config(), &answers);
        let tag = s.write(1, &pattern(4096));
        s.sent();
        let mut bad = r2t(&s, tag, 0, 512, 1024);
        change(&mut bad);
        let data = vec![0; bad.data_len as usize];
        s.feed_pdu(&bad.to_bhs(), &data);
        let error = s.closed();
        assert!(matches!(error, SessionError::Protocol(_) | SessionError::Format(_)), "{i}");
    }
    // For a read, and more of them than negotiated.
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.read(1, 4096);
    let bad = r2t(&s, tag, 0, 0, 512);
    s.feed_pdu(&bad.to_bhs(), &[]);
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.write(1, &pattern(65536));
    for (sn, offset) in [(0, 8192), (1, 8704)] {
        let r = r2t(&s, tag, sn, offset, 512);
        s.feed_pdu(&r.to_bhs(), &[]);
    }
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
}

/// RFC 7143 11.4.2: an answer that comes early ends the sending at the next PDU; what is on its way stays
/// in frame. Only a bounded part of a write is made ready ahead of the socket.
#[test]
fn early_answer() {
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.write(1, &pattern(1 << 20));
    let big = R2t { desired_len: 262_144, ..r2t(&s, tag, 0, 8192, 0) };
    s.sent();
    s.feed_pdu(&big.to_bhs(), &[]);
    let mut out = Vec::new();
    let ahead = s.session.tx().pending();
    assert!((200_000..300_000).contains(&ahead), "{ahead}");
    s.session.tx().take(3, &mut out);
    let header = ScsiResponse { status: 2, ..response(&mut s, tag) };
    s.feed_pdu(&header.to_bhs(), &[0, 3, 0x70, 0, 4]);
    assert!(matches!(s.events()[..], [Event::Done { .. }]));
    s.session.tx().take(1000, &mut out);
    let stream: Vec<u8> = out.concat();
    assert!(stream.len() < 300_000);
    let mut at = 0;
    while let Some(_item) = s.reader.next(&stream, &mut at).expect("in frame") {}
    assert!(s.reader.is_between_pdus());
    assert!(s.session.tx().is_empty());
}

/// RFC 7143 11.4.2, 11.4.5.2: GOOD for a write whose data the target has not fetched is no success: it
/// would be data loss.
#[test]
fn early_good() {
    // (R2T for so many bytes, sent before the answer, U with so much residual, ends well)
    for (asked, sent, residual, good) in [
        (0, true, None, false),
        (4096, true, None, false),
        (8192, false, None, false),
        (8192, true, None, true),
        (0, true, Some(8192), true),
        (4096, true, Some(4096), true),
        (4096, true, Some(4095), false),
    ] {
        let mut s = Script::logged_in(config(), TGTD);
        let tag = s.write(1, &pattern(16384));
        s.sent();
        if asked > 0 {
            let header = r2t(&s, tag, 0, 8192, asked).to_bhs();
            s.feed_pdu(&header, &[]);
        }
        if sent {
            s.sent();
        }
        let mut header = response(&mut s, tag);
        (header.underflow, header.residual) = (residual.is_some(), residual.unwrap_or(0));
        s.feed_pdu(&header.to_bhs(), &[]);
        if good {
            assert_eq!(completion(&mut s).status, 0);
        } else {
            assert!(matches!(s.closed(), SessionError::Protocol(_)), "{asked} {sent} {residual:?}");
        }
    }
    // An abort stops the data: what asks for them again and answers GOOD has not got them.
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.write(1, &pattern(16384));
    s.sent();
    let header = r2t(&s, tag, 0, 8192, 8192).to_bhs();
    s.feed_pdu(&header, &[]);
    s.sent();
    assert!(s.session.abort(at(1), tag));
    let header = r2t(&s, tag, 1, 8192, 8192).to_bhs();
    s.feed_pdu(&header, &[]);
    s.sent();
    answer(&mut s, tag);
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
}

/// RFC 7143 11.8: the same data may be asked for again, but not without end.
#[test]
fn endless_r2ts() {
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.write(1, &pattern(16384));
    s.sent();
    let mut served = 0;
    while s.session.state() == State::FullFeature {
        let header = r2t(&s, tag, served, 8192, 512).to_bhs();
        s.feed_pdu(&header, &[]);
        s.sent();
        served += 1;
    }
    assert!((10..40).contains(&served), "{served}");
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
}

/// RFC 7143 11.7: data in several PDUs and sequences, empty ones among them, odd lengths, status in the
/// last; StatSN of PDUs without status is garbage.
#[test]
fn read_with_collapsed_status() {
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.read(1, 3000);
    let data = pattern(3000);
    for (sn, (from, to)) in
        [(0, 513), (513, 513), (513, 2000), (2000, 3000)].into_iter().enumerate()
    {
        let mut header = data_in(&s, tag, sn as u32, from as u32);
        header.last = true;
        header.acknowledge = sn == 0;
        if to == 3000 {
            header.has_status = true;
            header.numbers = s.status();
        }
        s.feed_pdu(&header.to_bhs(), &data[from..to]);
    }
    let done = completion(&mut s);
    assert_eq!((done.data.to_vec(), done.residual), (data, Residual::None));
    assert!(s.session.can_submit() && s.session.in_flight() == 0);
    assert!(s.sent().iter().all(|p| p.opcode() == opcode::SCSI_COMMAND));
}

/// A read whose data nobody wants any more ends under its new name, and its data is dropped; one that only
/// moved on says so.
#[test]
fn renamed_and_unwanted() {
    let mut s = Script::logged_in(config(), TGTD);
    let (tag, other) = (s.read(1, 1024), s.read(2, 1024));
    s.sent();
    let header = data_in(&s, tag, 0, 0);
    s.now = at(5);
    s.feed_pdu(&header.to_bhs(), &[1; 512]);
    assert_eq!((s.session.last_moved(), s.session.last_progress(other)), (at(5), Some(at(0))));
    s.session.discard(tag);
    assert!(s.session.rename(tag, 70) && s.session.abort(at(5), tag));
    assert!(s.session.rename(tag, 71), "what answers the abort has the new name too");
    let mut header = data_in(&s, tag, 1, 512);
    (header.last, header.has_status, header.numbers) = (true, true, s.status());
    s.feed_pdu(&header.to_bhs(), &[1; 512]);
    let events = s.events();
    let [Event::Done { token: 71, completion, .. }] = &events[..] else { panic!("{events:?}") };
    assert!(completion.data.is_empty());
    assert!(!s.session.rename(tag, 72), "its end is told");
    assert!(!s.session.awaits_socket(other), "all of it was sent");
    let unsent = s.read(3, 512);
    assert!(s.session.awaits_socket(unsent));
}

/// An aborted write may stay for long and sends nothing any more; of an aborted read the rest may still come.
#[test]
fn what_an_aborted_command_holds() {
    let mut s = Script::logged_in(config(), TGTD);
    let (read, write) = (s.read(1, 1024), s.write(2, &[7; 4096]));
    s.sent();
    let header = data_in(&s, read, 0, 0);
    s.feed_pdu(&header.to_bhs(), &[1; 512]);
    let held = |s: &mut Script| {
        let mut held = (0, 0);
        s.session.for_each_read(|piece| held.0 += piece.len());
        s.session.for_each_write(|piece| held.1 += piece.len());
        held
    };
    assert_eq!(held(&mut s), (512, 4096));
    assert!(s.session.abort(at(1), write) && s.session.abort(at(1), read));
    s.sent();
    assert_eq!(held(&mut s), (512, 0));
    let mut header = data_in(&s, read, 1, 512);
    (header.last, header.has_status, header.numbers) = (true, true, s.status());
    s.feed_pdu(&header.to_bhs(), &[2; 512]);
    let events = s.events();
    let [Event::Done { token: 1, completion, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(completion.data.to_vec(), [[1; 512], [2; 512]].concat());
}

/// RFC 7143 11.4: status in a SCSI Response after the data; ExpDataSN counts the Data-In PDUs.
#[test]
fn read_with_separate_status() {
    for (exp_data_sn, good) in [(2, true), (0, true), (3, false)] {
        let mut s = Script::logged_in(config(), TGTD);
        let tag = s.read(1, 1024);
        for sn in 0..2 {
            let header = data_in(&s, tag, sn, sn * 512);
            s.feed_pdu(&header.to_bhs(), &[sn as u8; 512]);
        }
        let header = ScsiResponse { exp_data_sn: Serial(exp_data_sn), ..response(&mut s, tag) };
        s.feed_pdu(&header.to_bhs(), &[]);
        if good {
            assert_eq!(completion(&mut s).data.len(), 1024);
        } else {
            assert!(matches!(s.closed(), SessionError::Protocol(_)));
        }
    }
}

/// RFC 7143 11.7.3 to 11.7.7: Data-In that no conforming target sends.
#[test]
fn bad_data_in() {
    type Change = fn(&mut DataIn);
    let changes: [Change; 11] = [
        |d| d.data_sn = Serial(1),
        |d| d.offset = 512,
        |d| d.offset = 0xffff_ff00,
        |d| d.has_status = true,
        |d| (d.has_status, d.last, d.status) = (true, true, 0x02),
        |d| (d.has_status, d.last, d.status) = (true, true, 0x28),
        |d| (d.has_status, d.last, d.overflow, d.underflow) = (true, true, true, true),
        |d| (d.has_status, d.last, d.underflow, d.residual) = (true, true, true, 5000),
        |d| (d.has_status, d.last) = (true, true),
        |d| d.task_tag ^= 1 << 16,
        |d| d.task_tag = TAG_NONE,
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let mut s = Script::logged_in(config(), TGTD);
        let tag = s.read(1, 1024);
        let mut bad = data_in(&s, tag, 0, 0);
        bad.numbers = s.numbers();
        change(&mut bad);
        s.feed_pdu(&bad.to_bhs(), &[0; 512]);
        assert!(matches!(s.closed(), SessionError::Protocol(_)), "{i}");
    }
    // Beyond the expected length, for a write, after the status, again and again empty.
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.read(1, 500);
    let header = data_in(&s, tag, 0, 0).to_bhs();
    s.feed_pdu(&header, &[0; 501]);
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.write(1, &[1; 512]);
    let header = data_in(&s, tag, 0, 0).to_bhs();
    s.feed_pdu(&header, &[0; 500]);
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.write(1, &[1; 512]);
    answer(&mut s, tag);
    assert!(matches!(s.events()[..], [Event::Done { .. }]));
    let header = data_in(&s, tag, 0, 0).to_bhs();
    s.feed_pdu(&header, &[0; 500]);
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.read(1, 500);
    for sn in 0..100 {
        let header = data_in(&s, tag, sn, 0).to_bhs();
        s.feed_pdu(&header, &[]);
    }
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
}

/// RFC 7143 11.4.5: residuals. Short data with GOOD must be told; other status brings what came.
#[test]
fn residuals() {
    // (bytes received, U, O, residual, status, ends well)
    for (came, under, over, count, status, good) in [
        (4096, false, false, 0x200, 0, true),
        (3584, true, false, 512, 0, true),
        (4096, true, false, 512, 0, false),
        (3584, false, false, 0, 0, false),
        (0, false, false, 0, 0, false),
        (0, true, false, 4097, 0, false),
        (4096, false, true, 77, 0, true),
        (0, true, true, 0, 0, false),
        (100, true, false, 3996, 8, true),
        (100, false, false, 0, 8, true),
    ] {
        let mut s = Script::logged_in(config(), TGTD);
        let tag = s.read(1, 4096);
        if came > 0 {
            let header = data_in(&s, tag, 0, 0).to_bhs();
            s.feed_pdu(&header, &pattern(came));
        }
        let header = ScsiResponse {
            underflow: under,
            overflow: over,
            residual: count,
            status,
            ..response(&mut s, tag)
        };
        s.feed_pdu(&header.to_bhs(), &[]);
        if good {
            let done = completion(&mut s);
            assert_eq!((done.data.len(), done.status), (came, status));
            let expected = match (under, over) {
                (true, _) => Residual::Under(count),
                (_, true) => Residual::Over(count),
                _ => Residual::None,
            };
            assert_eq!(done.residual, expected);
        } else {
            assert!(matches!(s.closed(), SessionError::Protocol(_)), "{came} {count}");
        }
    }
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.write(1, &pattern(4096));
    let header = ScsiResponse { underflow: true, residual: 1024, ..response(&mut s, tag) };
    s.feed_pdu(&header.to_bhs(), &[]);
    assert_eq!(completion(&mut s).residual, Residual::Under(1024));
}

/// RFC 7143 11.4.7, 7.7: sense data, clipped and never over-read.
#[test]
fn sense() {
    for (data, expected) in [
        (&[0, 4, 1, 2, 3, 4, 9, 9][..], Some(&[1, 2, 3, 4][..])),
        (&[0xff, 0xff, 1, 2], Some(&[1, 2])),
        (&[0, 0, 1, 2], None),
        (&[0, 9], None),
    ] {
        let mut s = Script::logged_in(config(), TGTD);
        let tag = s.read(1, 4096);
        let header = ScsiResponse { status: 2, ..response(&mut s, tag) };
        s.feed_pdu(&header.to_bhs(), data);
        assert_eq!(completion(&mut s).sense.as_deref(), expected);
    }
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.read(1, 4096);
    let header = ScsiResponse { status: 2, ..response(&mut s, tag) };
    let long = [&[1, 0x44][..], &[7; 4000]].concat();
    s.feed_pdu(&header.to_bhs(), &long);
    assert_eq!(completion(&mut s).sense.as_deref(), Some(&[7; 252][..]));
    for data in [&[][..], &[0]] {
        let mut s = Script::logged_in(config(), TGTD);
        let tag = s.read(1, 4096);
        let header = ScsiResponse { status: 2, ..response(&mut s, tag) };
        s.feed_pdu(&header.to_bhs(), data);
        assert!(matches!(s.closed(), SessionError::Format(_)));
    }
}

/// RFC 7143 11.4.1, 11.4.3: response codes; status means nothing with a failure.
#[test]
fn response_codes() {
    for (code, good) in [(1, true), (0x80, true), (0xff, true), (2, false), (0x7f, false)] {
        let mut s = Script::logged_in(config(), TGTD);
        let tag = s.read(1, 4096);
        let header = ScsiResponse {
            response: code,
            underflow: true,
            overflow: true,
            ..response(&mut s, tag)
        };
        s.feed_pdu(&header.to_bhs(), &[]);
        if good {
            assert_eq!(completion(&mut s).response, code);
        } else {
            assert!(matches!(s.closed(), SessionError::Protocol(_)));
        }
    }
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.write(1, &[0; 512]);
    let header = ScsiResponse { bidi_underflow: true, ..response(&mut s, tag) };
    s.feed_pdu(&header.to_bhs(), &[]);
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
}

/// RFC 7143 7.9: StatSN with a gap, a jump and a repetition; no command is completed twice.
#[test]
fn stat_sn() {
    for step in [1, 0x8000_0000, 0xffff_ffff] {
        let mut s = Script::logged_in(config(), TGTD);
        let a = s.write(1, &[0; 512]);
        s.write(2, &[0; 512]);
        answer(&mut s, a);
        let mut header = response(&mut s, a);
        header.numbers.stat_sn = header.numbers.stat_sn.plus(step);
        s.feed_pdu(&header.to_bhs(), &[]);
        let events = s.events();
        assert!(matches!(
            events[..],
            [
                Event::Done { token: 1, .. },
                Event::Lost { token: 2, .. },
                Event::Closed(SessionError::StatSn { .. })
            ]
        ));
    }
    // ExpCmdSN of a command that was never sent.
    let mut s = Script::logged_in(config(), TGTD);
    let tag = s.write(1, &[0; 512]);
    let mut header = response(&mut s, tag);
    header.numbers.exp_cmd_sn = header.numbers.exp_cmd_sn.plus(5);
    header.numbers.max_cmd_sn = header.numbers.max_cmd_sn.plus(5);
    s.feed_pdu(&header.to_bhs(), &[]);
    assert!(matches!(s.closed(), SessionError::Protocol(_)));
}

/// RFC 7143 7.15: every command ends when the session ends, in order; sent only if a byte was handed on.
#[test]
fn lost_commands() {
    let mut s = Script::logged_in(config(), TGTD);
    s.read(1, 512);
    let second = s.write(2, &pattern(9000));
    assert_eq!(s.session.was_sent(second), Some(false));
    s.take();
    assert_eq!(s.session.was_sent(second), Some(true));
    s.write(3, &pattern(100));
    s.session.handle_closed(at(5), CloseReason::Errno(104));
    s.session.handle_closed(at(6), CloseReason::Eof);
    let events = s.events();
    assert!(
        matches!(
            events[..],
            [
                Event::Lost { token: 1, sent: true },
                Event::Lost { token: 2, sent: true },
                Event::Lost { token: 3, sent: false },
                Event::Closed(SessionError::Transport(CloseReason::Errno(104)))
            ]
        ),
        "{events:?}"
    );
    assert!(!s.session.can_submit() && s.session.was_sent(second).is_none());
    s.feed(&[0; 480]);
    assert!(s.events().is_empty());
}

/// RFC 7143 11.2.1.2, 13.12: opcodes that a target does not send; segments beyond what we declared.
#[test]
fn bad_pdus() {
    for code in [0x01, 0x10, 0x23, 0x27, 0x3c, 0x3e] {
        let mut s = Script::logged_in(config(), TGTD);
        let mut bhs = [0; 48];
        bhs[0] = code;
        s.feed_pdu(&bhs, &[]);
        assert_eq!(s.closed(), SessionError::UnexpectedPdu { opcode: code });
    }
    let mut s = Script::logged_in(config(), TGTD);
    let mut bhs = [0; 48];
    (bhs[0], bhs[5], bhs[7]) = (0x25, 0x04, 0x01);
    s.feed(&bhs);
    assert!(matches!(s.closed(), SessionError::Frame(_)));
}

/// RFC 7143 7.8: a damaged digest ends the session; nothing of the PDU is used.
#[test]
fn digest_errors() {
    let both = Config { header_digest: Digest::Crc32c, data_digest: Digest::Crc32c, ..config() };
    let answers = [TGTD, &[("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")]].concat();
    for flip in [0, 20, 47, 50, 60, 52 + 512 + 1] {
        let mut s = Script::logged_in(both.clone(), &answers);
        let tag = s.read(1, 512);
        s.take();
        let mut header = data_in(&s, tag, 0, 0);
        (header.last, header.has_status, header.numbers) = (true, true, s.status());
        let mut bytes = s.pdu(&header.to_bhs(), &pattern(512));
        bytes[flip] ^= 4;
        s.feed(&bytes);
        let events = s.events();
        assert!(
            matches!(
                events[..],
                [Event::Lost { token: 1, sent: true }, Event::Closed(SessionError::Frame(_))]
            ),
            "{flip}: {events:?}"
        );
        assert_eq!(s.session.statistics().digest_errors, 1);
    }
}
