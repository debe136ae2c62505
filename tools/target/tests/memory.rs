//! A node in memory: bytes in, bytes out, against a small initiator of the tests' own.

#![allow(clippy::unwrap_used)]

mod common;

use common::{NORMAL, Net, Peer, USUAL, local};
use md5::Digest;
use mpio_target::base::Serial;
use mpio_target::config::Negotiation;
use mpio_target::faults::{AsyncMessage, Commands, SenseCode};
use mpio_target::journal::Scope;
use mpio_target::wire::iscsi::codes::{opcode, tmf};
use mpio_target::wire::iscsi::request::{DataOut, LogoutRequest, NopOut, ScsiCommand, TextRequest};
use mpio_target::wire::iscsi::response::{DataIn, NopIn, R2t, ScsiResponse, TextResponse};
use mpio_target::wire::iscsi::text;
use mpio_target::wire::scsi::{
    Cdb, Designator, LbaStatus, Transfer, Width, lba_status, unmap, vpd,
};
use mpio_target::{Action, Chap, ChapAlgorithm, Duration, Fault, Instant, Pair, PairConfig, Rule};
use proptest::prelude::*;

fn pair() -> Pair {
    Pair::new(PairConfig::default()).unwrap()
}

fn net() -> Net {
    Net::new(pair().node(0, 1))
}

fn with(change: impl FnOnce(&mut PairConfig)) -> Pair {
    let mut config = PairConfig::default();
    change(&mut config);
    Pair::new(config).unwrap()
}

/// RFC 7143 11.12 and 11.13: a login in one exchange, byte by byte.
#[test]
fn a_login_in_literal_bytes() {
    let mut request = vec![0u8; 48];
    request[0] = 0x43;
    request[1] = 0x87; // T, CSG 1, NSG 3
    request[8..14].copy_from_slice(&[0x80, 0, 0, 0, 0, 1]);
    request[16..20].copy_from_slice(&[0, 0, 0, 5]);
    request[24..28].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    let text = b"InitiatorName=iqn.x:h\0TargetName=iqn.2026-11.example.san:ha1\0";
    request[7] = text.len() as u8;
    request.extend_from_slice(text);
    request.resize(request.len().next_multiple_of(4), 0);

    let mut node = pair().node(0, 1);
    let id = node.accept(Instant::ZERO, local());
    node.handle_received(Instant::ZERO, id, &request);
    assert_eq!((node.poll_action(), node.poll_dirty()), (None, Some(id)));
    let mut segments = Vec::new();
    node.tx(id).unwrap().take(9, &mut segments);
    let got = segments.concat();
    let text = b"TargetPortalGroupTag=1\0MaxRecvDataSegmentLength=262144\0";
    assert_eq!(got[..4], [0x23, 0x87, 0, 0]);
    assert_eq!(got[4..8], [0, 0, 0, text.len() as u8]);
    assert_eq!(got[8..16], [0x80, 0, 0, 0, 0, 1, 0, 1], "ISID, then a TSIH that is not 0");
    assert_eq!(got[16..24], [0, 0, 0, 5, 0, 0, 0, 0]);
    assert_eq!(got[28..32], [0xff; 4], "ExpCmdSN: the login takes none");
    assert_eq!(got[32..36], [0, 0, 0, 126], "MaxCmdSN: a window of 128 over the wrap");
    assert_eq!(got[36..48], [0; 12]);
    assert_eq!(got[48..48 + text.len()], text[..]);
}

#[test]
fn what_one_node_writes_the_other_reads() {
    let pair = pair();
    let mut a = Net::new(pair.node(0, 1));
    let pa = a.login(1, USUAL);
    let mut b = Net::new(pair.node(1, 2));
    let pb = {
        let peer = b.connect(1);
        let keys = [
            &[
                ("InitiatorName", "iqn.2026-11.example:host"),
                ("TargetName", "iqn.2026-11.example.san:ha1partner"),
            ],
            USUAL,
        ]
        .concat();
        let request = b.peer(peer).login(1, Some(3), &keys);
        b.send(peer, &request);
        assert_eq!(b.next(peer).value("TargetPortalGroupTag").as_deref(), Some("2"));
        b.run(peer, &Cdb::TestUnitReady, &[]);
        peer
    };
    assert_eq!(a.write(pa, 5, 0x77).status, 0);
    assert_eq!(b.read(pb, 5, 1).data, vec![0x77; 512]);

    let page = |net: &mut Net, peer| {
        let cdb = Cdb::Inquiry { vpd: Some(0x83), allocation: 512 };
        vpd::designators(&net.run(peer, &cdb, &[]).data[4..])
    };
    let of_unit = |all: Vec<Designator>| {
        all.into_iter()
            .filter(|d| d.association == vpd::Association::LogicalUnit)
            .collect::<Vec<_>>()
    };
    let (da, db) = (page(&mut a, pa), page(&mut b, pb));
    assert_ne!(da, db, "the ports differ");
    assert_eq!(of_unit(da), of_unit(db), "the unit is one");
}

#[test]
fn two_units_that_look_alike() {
    let pair = with(|c| c.mirrored = false);
    let mut a = Net::new(pair.node(0, 1));
    let pa = a.login(1, USUAL);
    a.write(pa, 0, 9);
    let mut out = [0xa5; 512];
    pair.store(1).read(0, &mut out).unwrap();
    assert_eq!(out, [0; 512]);
}

/// RFC 7143 11.3, 11.7, 11.8: immediate data, unsolicited data, then R2Ts; in any segmentation.
#[test]
fn a_write_in_all_three_ways() {
    for chunk in [0, 1, 7, 4096] {
        let mut net = net();
        net.chunk = chunk;
        let keys = [
            &USUAL[..5],
            &[("MaxBurstLength", "8192"), ("FirstBurstLength", "4096"), ("MaxOutstandingR2T", "2")],
        ]
        .concat();
        let peer = net.login(1, &keys);
        let data: Vec<u8> = (0..32768u32).map(|i| (i / 7) as u8).collect();
        let cdb = Cdb::Write(Transfer::new(3, 64));
        let command = ScsiCommand {
            write: true,
            expected_len: 32768,
            cdb: cdb.to_bytes(),
            data_len: 1024,
            ..ScsiCommand::default()
        };
        let (tag, bytes) = net.peer(peer).raw_command(command, &data[..1024]);
        net.send(peer, &bytes);
        let unsolicited = R2t { task_tag: tag, transfer_tag: common::NO_TAG, ..R2t::default() };
        for (sn, at) in [(0, 1024usize), (1, 2048), (2, 3072)] {
            assert!(net.peer(peer).came.is_empty(), "nothing is asked for before F");
            let bytes =
                net.peer(peer).data_out(&unsolicited, at as u32, sn, sn == 2, &data[at..at + 1024]);
            net.send(peer, &bytes);
        }
        let mut seen = Vec::new();
        while let Some(pdu) = net.peer(peer).came.pop_front() {
            if pdu.code() != opcode::R2T {
                assert_eq!(ScsiResponse::parse(&pdu.bhs).status, 0);
                break;
            }
            let r2t = R2t::parse(&pdu.bhs);
            seen.push((r2t.r2t_sn.0, r2t.offset, r2t.desired_len));
            let (from, len) = (r2t.offset as usize, r2t.desired_len as usize);
            let half = len / 2 / 4 * 4;
            let a = net.peer(peer).data_out(&r2t, r2t.offset, 0, false, &data[from..from + half]);
            let b = net.peer(peer).data_out(
                &r2t,
                r2t.offset + half as u32,
                1,
                true,
                &data[from + half..from + len],
            );
            net.send(peer, &a);
            net.send(peer, &b);
        }
        assert_eq!(seen, [(0, 4096, 8192), (1, 12288, 8192), (2, 20480, 8192), (3, 28672, 4096)]);
        assert_eq!(net.read(peer, 3, 64).data, data);
        assert_eq!(net.node.counters().violations(), Vec::<String>::new());
    }
}

/// RFC 7143 13.1: digests from the first PDU after the login; one that is wrong on purpose.
#[test]
fn digests_and_their_corruption() {
    let mut net = net();
    let keys = [&[("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")], &USUAL[2..]].concat();
    let peer = net.login(1, &keys);
    assert_eq!(net.run(peer, &Cdb::Write(Transfer::new(0, 3)), &[3; 1536]).status, 0);
    assert_eq!(net.read(peer, 0, 3).data, [3; 1536]);

    net.node.faults().set("d", Rule::new(Fault::DataDigest).times(1));
    let (_, bytes) = net.peer(peer).command(&Cdb::Read(Transfer::new(0, 1)), 512, &[]);
    let id = net.peers[peer].0;
    net.node.handle_received(net.now, id, &bytes);
    let mut segments = Vec::new();
    net.node.tx(id).unwrap().take(9, &mut segments);
    let error = net.peer(peer).feed(&segments.concat()).unwrap_err();
    assert!(error.contains("data digest"), "{error}");
    assert_eq!(net.node.faults().struck("d"), 1);
}

/// RFC 7143 7.8: write data with a wrong digest ends with ABORTED COMMAND 47/05, not on the medium.
#[test]
fn damaged_write_data_is_not_executed() {
    let mut net = net();
    let keys = [&[("DataDigest", "CRC32C"), ("ImmediateData", "No")], &USUAL[4..]].concat();
    let peer = net.login(1, &keys);
    let tag = net.start(peer, &Cdb::Write(Transfer::new(0, 1)), &[]);
    let r2t = R2t::parse(&net.next(peer).bhs);
    let mut bytes = net.peer(peer).data_out(&r2t, 0, 0, true, &[7; 512]);
    bytes[60] ^= 1;
    net.send(peer, &bytes);
    assert_eq!(net.next(peer).code(), opcode::REJECT);
    assert_eq!(net.done(peer, tag).unwrap().sense, Some((0xb, 0x47, 0x05)));
    assert_eq!(net.read(peer, 0, 1).data, [0; 512]);
}

/// RFC 7143 4.2.5.1 and 11.7.3: status in the last Data-In, or apart where that is configured.
#[test]
fn data_in_by_segment_and_burst() {
    for collapse in [true, false] {
        let pair = with(|c| c.nodes[0].negotiation.phase_collapse = collapse);
        let mut net = Net::new(pair.node(0, 1));
        let keys =
            [&USUAL[..4], &[("MaxRecvDataSegmentLength", "1024"), ("MaxBurstLength", "2048")]]
                .concat();
        let peer = net.login(1, &keys);
        let (_, bytes) = net.peer(peer).command(&Cdb::Read(Transfer::new(0, 10)), 512, &[]);
        net.send(peer, &bytes);
        let shape: Vec<_> = net
            .peer(peer)
            .came
            .iter()
            .map(|pdu| {
                if pdu.code() == opcode::DATA_IN {
                    let h = DataIn::parse(&pdu.bhs);
                    (h.offset, h.data_len, h.last, h.has_status)
                } else {
                    (u32::MAX, ScsiResponse::parse(&pdu.bhs).exp_data_sn.0, true, true)
                }
            })
            .collect();
        let mut expect = vec![
            (0, 1024, false, false),
            (1024, 1024, true, false),
            (2048, 1024, false, false),
            (3072, 1024, true, false),
            (4096, 1024, true, collapse),
        ];
        if !collapse {
            expect.push((u32::MAX, 5, true, true));
        }
        assert_eq!(shape, expect);
    }
}

/// RFC 7143 13.18: Data-In changes places only where both agreed.
#[test]
fn reordered_only_where_negotiated() {
    for agreed in [true, false] {
        let pair = with(|c| c.nodes[0].negotiation.pdu_in_order = !agreed);
        pair.faults(0).set("r", Rule::new(Fault::Reorder));
        let mut net = Net::new(pair.node(0, 1));
        let keys = [&USUAL[..4], &[("MaxRecvDataSegmentLength", "512"), ("DataPDUInOrder", "No")]]
            .concat();
        let peer = net.login(1, &keys);
        net.run(peer, &Cdb::Write(Transfer::new(0, 3)), &[[1; 512], [2; 512], [3; 512]].concat());
        let tag = net.start(peer, &Cdb::Read(Transfer::new(0, 3)), &[]);
        let came = &net.peer(peer).came;
        let order: Vec<_> = came.iter().map(|p| DataIn::parse(&p.bhs).offset).collect();
        assert_eq!(order, if agreed { [1024, 512, 0] } else { [0, 512, 1024] });
        assert!(DataIn::parse(&came[2].bhs).last && !DataIn::parse(&came[1].bhs).last);
        let data = net.done(peer, tag).unwrap().data;
        assert_eq!((data[0], data[512], data[1024]), (1, 2, 3));
    }
}

#[test]
fn the_commands_of_a_disk() {
    let mut net = net();
    let peer = net.login(1, USUAL);
    let capacity = net.run(peer, &Cdb::ReadCapacity16 { allocation: 32 }, &[]).data;
    assert_eq!(capacity[..12], [0, 0, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 2, 0]);
    assert_eq!(net.run(peer, &Cdb::ReadCapacity10, &[]).data, [0, 1, 0xff, 0xff, 0, 0, 2, 0]);
    let luns = net.run(peer, &Cdb::ReportLuns { select: 0, allocation: 64 }, &[]);
    assert_eq!((luns.data.len(), luns.residual), (16, 48));
    let mode = net.run(peer, &Cdb::mode_sense(false, 8, 64), &[]).data;
    assert_eq!((mode[3] & 0x10, mode[8], mode[10] & 4), (0x10, 8, 4), "DPOFUA, page 08h, WCE");
    assert_eq!(net.run(peer, &Cdb::flush(Width::Ten), &[]).status, 0);

    for cdb in [Cdb::Read(Transfer::new(131_072, 1)), Cdb::Read(Transfer::new(u64::MAX, 2))] {
        assert_eq!(net.run(peer, &cdb, &[]).sense, Some((5, 0x21, 0)));
    }
    let caw = Transfer { width: Width::Sixteen, ..Transfer::new(0, 1) };
    assert_eq!(net.run(peer, &Cdb::CompareAndWrite(caw), &[0; 1024]).sense, Some((5, 0x20, 0)));
}

/// SBC-3: UNMAP, WRITE SAME and GET LBA STATUS agree with each other.
#[test]
fn provisioning() {
    let mut net = net();
    let peer = net.login(1, USUAL);
    let same = |lba, blocks, unmap| Cdb::WriteSame {
        width: Width::Sixteen,
        lba,
        blocks,
        unmap,
        anchor: false,
        ndob: false,
        protect: 0,
    };
    assert_eq!(net.run(peer, &same(0, 512, false), &[6; 512]).status, 0);
    assert_eq!(net.read(peer, 511, 1).data, [6; 512]);
    let status = |net: &mut Net| {
        let cdb = Cdb::GetLbaStatus { lba: 0, allocation: 24 };
        let data = net.run(peer, &cdb, &[]).data;
        lba_status::contiguous(&data, 0).collect::<Vec<_>>()
    };
    let mapped = lba_status::Provision::Mapped;
    assert_eq!(status(&mut net), [LbaStatus { lba: 0, blocks: 512, provision: mapped }]);
    let list = unmap::one_range(0, 128);
    let cdb = Cdb::Unmap { anchor: false, list_len: list.len() as u16 };
    assert_eq!(net.run(peer, &cdb, &list).status, 0);
    assert_eq!(status(&mut net)[0].blocks, 128);
    assert_eq!(net.read(peer, 127, 2).data, [[0; 512], [6; 512]].concat());
    assert_eq!(net.run(peer, &same(128, 384, true), &[0; 512]).status, 0);
    assert_eq!(status(&mut net)[0].provision, lba_status::Provision::Deallocated);
    assert_eq!(net.run(peer, &same(0, 0, false), &[0; 512]).sense, Some((5, 0x24, 0)));
}

/// RFC 7143 11.18, 11.14: pings are echoed; a logout is answered and the connection closed.
#[test]
fn ping_and_logout() {
    let mut net = net();
    let peer = net.login(1, USUAL);
    let ping = NopOut {
        immediate: true,
        task_tag: 99,
        transfer_tag: common::NO_TAG,
        cmd_sn: Serial(net.peer(peer).cmd_sn),
        data_len: 3,
        ..NopOut::default()
    };
    let bytes = net.peer(peer).frame(&ping.to_bhs(), b"abc");
    net.send(peer, &bytes);
    let answer = net.next(peer);
    assert_eq!((answer.code(), &answer.data[..]), (opcode::NOP_IN, &b"abc"[..]));
    assert_eq!(NopIn::parse(&answer.bhs).task_tag, 99);
    let logout = LogoutRequest {
        task_tag: 100,
        cmd_sn: Serial(net.peer(peer).cmd_sn),
        ..LogoutRequest::default()
    };
    let bytes = net.peer(peer).frame(&logout.to_bhs(), &[]);
    net.send(peer, &bytes);
    assert_eq!(net.next(peer).code(), opcode::LOGOUT_RESPONSE);
    assert_eq!(net.actions, [Action::Close(net.peers[peer].0)]);
}

/// RFC 7143 appendix C: an answer over several PDUs, split anywhere, with several portals.
#[test]
fn discovery_in_pieces() {
    let pair = with(|c| {
        c.nodes[0].more_portals = vec![("[fd00::1]:3261".to_owned(), 1)];
        c.nodes[0].more_targets =
            vec![("iqn.2026-11.example.san:other".to_owned(), vec![("10.0.0.9".to_owned(), 7)])];
        c.nodes[0].negotiation.text_chunk = Some(31);
    });
    let mut net = Net::new(pair.node(0, 1));
    let peer = net.connect(9);
    let keys =
        [("InitiatorName", "iqn.x:h"), ("SessionType", "Discovery"), ("MaxBurstLength", "512")];
    let request = net.peer(peer).login(1, Some(3), &keys);
    net.send(peer, &request);
    let answer = net.next(peer);
    assert_eq!(answer.value("MaxBurstLength").as_deref(), Some("Irrelevant"));
    assert_eq!(answer.value("TargetPortalGroupTag"), None);
    let mut text = Vec::new();
    let mut request = TextRequest {
        last: true,
        task_tag: 3,
        transfer_tag: common::NO_TAG,
        data_len: 16,
        cmd_sn: Serial(net.peer(peer).cmd_sn),
        ..TextRequest::default()
    };
    let mut question = &b"SendTargets=All\0"[..];
    let mut pieces = 0;
    loop {
        let bytes = net.peer(peer).frame(&request.to_bhs(), question);
        net.send(peer, &bytes);
        let pdu = net.next(peer);
        let answer = TextResponse::parse(&pdu.bhs);
        assert!(pdu.data.len() <= 31 && !(answer.more && answer.last));
        text.extend_from_slice(&pdu.data);
        pieces += 1;
        if answer.last {
            assert_eq!(answer.transfer_tag, common::NO_TAG);
            break;
        }
        request.transfer_tag = answer.transfer_tag;
        (request.data_len, question) = (0, &[]);
        request.cmd_sn = request.cmd_sn.plus(1);
    }
    assert!(pieces > 3);
    assert_eq!(
        String::from_utf8(text).unwrap(),
        "TargetName=iqn.2026-11.example.san:ha1\0TargetAddress=127.0.0.1:3260,1\0\
         TargetAddress=[fd00::1]:3261,1\0TargetName=iqn.2026-11.example.san:other\0\
         TargetAddress=10.0.0.9,7\0"
    );
}

/// A write that is held outlives its connection and lands over a newer one: what a fence is for.
#[test]
fn a_held_write_lands_late_unless_it_is_reset() {
    for reset in [false, true] {
        let pair = with(|c| c.nodes[0].reinstatement_aborts = false);
        let mut a = Net::new(pair.node(0, 1));
        let pa = a.login(1, USUAL);
        pair.faults(0).set("hang", Rule::new(Fault::Hold).on(Commands::Writes));
        let tag = a.start(pa, &Cdb::Write(Transfer::new(7, 1)), &[1; 512]);
        assert_eq!((a.done(pa, tag), a.node.held()), (None, 1));
        let id = a.peers[pa].0;
        a.node.handle_closed(a.now, id);
        pair.store(0).write(7 * 512, &[2; 512]).unwrap();

        let again = a.login(1, USUAL);
        if reset {
            assert_eq!(a.manage(again, tmf::LOGICAL_UNIT_RESET, common::NO_TAG), Some(0));
        }
        let now = a.now;
        assert_eq!(a.node.release(now), usize::from(!reset));
        pair.faults(0).clear();
        assert_eq!(a.read(again, 7, 1).data, vec![if reset { 2 } else { 1 }; 512]);
        let records = pair.journal().touching(7, 1);
        assert_eq!(
            records.iter().map(|r| r.orphaned).collect::<Vec<_>>(),
            vec![true; records.len()]
        );
        assert_eq!(records.len(), usize::from(!reset));
    }
}

/// RFC 7143 6.3.5: the older session of the same name is closed before the login is answered, and a
/// conforming target ends its commands.
#[test]
fn reinstatement_ends_the_older_session() {
    let mut net = net();
    let first = net.login(1, USUAL);
    net.node.faults().set("hang", Rule::new(Fault::Hold).on(Commands::Writes));
    net.start(first, &Cdb::Write(Transfer::new(0, 1)), &[1; 512]);
    net.node.faults().clear();
    let other = net.login(2, USUAL);
    assert_eq!(net.node.held(), 1, "another ISID is another session");
    let second = net.login(1, USUAL);
    assert_eq!(net.actions, [Action::Reset(net.peers[first].0)]);
    assert_eq!((net.node.held(), net.node.sessions()), (0, 2));
    assert_eq!(net.read(second, 0, 1).status, 0);
    assert_eq!(net.read(other, 0, 1).data, [0; 512]);
}

/// SAM-5: power on at first, nexus loss when it comes back, and a reset by another.
#[test]
fn unit_attentions() {
    let mut net = net();
    let attention = |net: &mut Net, peer| net.run(peer, &Cdb::TestUnitReady, &[]).sense;
    let log_in = |net: &mut Net, number| {
        let peer = net.connect(number);
        let request = net.peer(peer).login(1, Some(3), &[NORMAL, USUAL].concat());
        net.send(peer, &request);
        net.next(peer);
        peer
    };
    let a = log_in(&mut net, 1);
    let inquiry = Cdb::Inquiry { vpd: None, allocation: 36 };
    assert_eq!(net.run(a, &inquiry, &[]).status, 0, "INQUIRY does not report it");
    assert_eq!(attention(&mut net, a), Some((6, 0x29, 0x00)));
    assert_eq!(attention(&mut net, a), None);
    let b = net.login(2, USUAL);
    assert_eq!(net.manage(b, tmf::LOGICAL_UNIT_RESET, common::NO_TAG), Some(0));
    assert_eq!(attention(&mut net, a), Some((6, 0x29, 0x03)));
    assert_eq!(attention(&mut net, b), None);
    net.node.unit_attention(0x2a, 0x09);
    assert_eq!(attention(&mut net, b), Some((6, 0x2a, 0x09)));
    let again = log_in(&mut net, 1);
    assert_eq!(attention(&mut net, again), Some((6, 0x29, 0x07)));
}

/// RFC 7143 11.5, 11.6: what task management does and answers.
#[test]
fn task_management() {
    let mut net = net();
    let peer = net.login(1, USUAL);
    net.node.faults().set("hang", Rule::new(Fault::Hold).times(1));
    let tag = net.start(peer, &Cdb::Write(Transfer::new(0, 1)), &[1; 512]);
    assert_eq!(net.manage(peer, tmf::ABORT_TASK, tag), Some(0));
    assert_eq!(net.manage(peer, tmf::ABORT_TASK, tag), Some(1));
    assert_eq!(net.manage(peer, tmf::TASK_REASSIGN, tag), Some(4));
    assert_eq!(net.manage(peer, tmf::QUERY_TASK, tag), Some(5));
    let bytes = net.peer(peer).task_management(tmf::LOGICAL_UNIT_RESET, 9 << 48, common::NO_TAG);
    net.send(peer, &bytes);
    assert_eq!(net.next(peer).bhs[2], 2);
    net.node.faults().set("tmf", Rule::new(Fault::TaskManagementAnswer(255)).times(1));
    assert_eq!(net.manage(peer, tmf::ABORT_TASK, tag), Some(255));
    net.node.faults().set("tmf", Rule::new(Fault::TaskManagementMute));
    assert_eq!(net.manage(peer, tmf::ABORT_TASK, tag), None);
    assert_eq!(net.read(peer, 0, 1).data, [0; 512], "the aborted write has not happened");
}

#[test]
fn command_faults_compose() {
    let mut net = net();
    let peer = net.login(1, USUAL);
    let faults = net.node.faults().clone();
    let ms = Duration::from_millis;
    faults.set("slow", Rule::new(Fault::Delay(ms(5), ms(5))));
    let code = SenseCode { key: 3, asc: 0x11, ascq: 0 };
    faults.set("bad", Rule::new(Fault::Sense(code)).on(Commands::Reads).blocks(100, 1));
    let tag = net.start(peer, &Cdb::Read(Transfer::new(99, 2)), &[]);
    assert_eq!(net.node.poll_deadline(), Some(net.now + ms(5)));
    net.pass(ms(4));
    assert_eq!(net.done(peer, tag), None);
    net.pass(ms(1));
    assert_eq!(net.done(peer, tag).unwrap().sense, Some((3, 0x11, 0)));
    faults.clear();

    faults.set("busy", Rule::new(Fault::Status(8)).times(1));
    assert_eq!(net.write(peer, 0, 1).status, 8);
    assert_eq!(net.read(peer, 0, 1).data, [0; 512], "BUSY is not executed");
    faults.set("short", Rule::new(Fault::ShortRead(200)).on(Commands::Reads).times(1));
    let short = net.read(peer, 0, 1);
    assert_eq!((short.data.len(), short.residual, short.status), (312, 200, 0));
    faults.set("ua", Rule::new(Fault::UnitAttention { asc: 0x3f, ascq: 3 }).times(1));
    assert_eq!(net.write(peer, 0, 1).sense, Some((6, 0x3f, 3)));
    faults.set("mute", Rule::new(Fault::Mute).times(1));
    let tag = net.start(peer, &Cdb::Write(Transfer::new(0, 1)), &[4; 512]);
    assert_eq!(net.done(peer, tag), None);
    assert_eq!(net.read(peer, 0, 1).data, [4; 512], "a mute command is executed");
    faults.set("rst", Rule::new(Fault::ResetAfter).times(1));
    net.start(peer, &Cdb::Write(Transfer::new(0, 1)), &[5; 512]);
    assert_eq!(net.actions, [Action::Reset(net.peers[peer].0)]);
    assert_eq!(net.node.sessions(), 0);
}

#[test]
fn connection_faults() {
    let mut net = net();
    let faults = net.node.faults().clone();
    faults.set("no", Rule::new(Fault::Refuse).times(1));
    let refused = net.connect(1);
    assert_eq!(net.actions, [Action::Reset(net.peers[refused].0)]);
    faults.set("no", Rule::new(Fault::HalfOpen).times(1));
    let open = net.connect(1);
    let request = net.peer(open).login(1, Some(3), NORMAL);
    net.send(open, &request);
    assert!(net.peer(open).came.is_empty());

    let peer = net.login(1, USUAL);
    faults.set("silence", Rule::new(Fault::Silence).on(Commands::Writes).times(1));
    let tag = net.start(peer, &Cdb::Write(Transfer::new(0, 1)), &[5; 512]);
    let later = net.start(peer, &Cdb::TestUnitReady, &[]);
    assert_eq!((net.done(peer, tag), net.done(peer, later)), (None, None));
    assert_eq!(net.actions.len(), 1, "it stays open");

    let peer = net.login(2, USUAL);
    faults.set("stop", Rule::new(Fault::Freeze));
    let tag = net.start(peer, &Cdb::Write(Transfer::new(0, 1)), &[6; 512]);
    assert!(!net.node.wants_input());
    assert_eq!(net.done(peer, tag), None);
    faults.clear();
    net.pass(Duration::ZERO);
    assert_eq!(net.done(peer, tag).unwrap().status, 0);
}

/// RFC 7143 4.2.2.1: the window closes as it is used up, never shrinks, and its opening is told.
#[test]
fn the_window_is_squeezed_and_opens_again() {
    let mut net = net();
    let faults = net.node.faults().clone();
    faults.set("narrow", Rule::new(Fault::Window(1)));
    let peer = net.connect(1);
    let request = net.peer(peer).login(1, Some(3), &[NORMAL, USUAL].concat());
    net.send(peer, &request);
    let numbers = net.next(peer).login().numbers;
    assert_eq!(numbers.max_cmd_sn, numbers.exp_cmd_sn, "a window of one");
    net.run(peer, &Cdb::TestUnitReady, &[]);
    faults.set("narrow", Rule::new(Fault::Window(0)));
    let tag = net.start(peer, &Cdb::TestUnitReady, &[]);
    let answer = ScsiResponse::parse(&net.next(peer).bhs);
    assert_eq!(answer.task_tag, tag);
    assert_eq!(answer.numbers.max_cmd_sn, answer.numbers.exp_cmd_sn.minus(1), "closed");
    faults.clear();
    net.pass(Duration::ZERO);
    let nop = NopIn::parse(&net.next(peer).bhs);
    assert_eq!((nop.task_tag, nop.transfer_tag), (common::NO_TAG, common::NO_TAG));
    assert_eq!(nop.numbers.max_cmd_sn, nop.numbers.exp_cmd_sn.plus(127));
}

/// RFC 7143 11.13.5, 11.9: refusals, redirects and messages.
#[test]
fn login_faults_and_messages() {
    let mut net = net();
    let faults = net.node.faults().clone();
    let attempt = |net: &mut Net| {
        let peer = net.connect(1);
        let request = net.peer(peer).login(1, Some(3), NORMAL);
        net.send(peer, &request);
        let answer = net.next(peer);
        let header = answer.login();
        (header.status_class, header.status_detail, answer.value("TargetAddress"))
    };
    faults.set("l", Rule::new(Fault::LoginStatus { class: 3, detail: 1 }).times(1));
    assert_eq!(attempt(&mut net), (3, 1, None));
    let address = "127.0.0.2:3260".to_owned();
    let redirect = Fault::Redirect { address: address.clone(), permanent: true };
    faults.set("l", Rule::new(redirect).times(1));
    assert_eq!(attempt(&mut net), (1, 2, Some(address)));
    assert!(net.actions.iter().all(|action| matches!(action, Action::Close(_))));

    let peer = net.login(3, USUAL);
    let message = AsyncMessage { event: 1, parameter3: 5, ..AsyncMessage::default() };
    net.node.async_message(net.now, &message);
    net.settle();
    let pdu = net.next(peer);
    assert_eq!((pdu.code(), pdu.bhs[36], pdu.bhs[43]), (opcode::ASYNC_MESSAGE, 1, 5));
}

/// RFC 7143 6.3 and 11.13.5: logins that must fail, each with its status.
#[test]
fn logins_that_are_refused() {
    let name = ("InitiatorName", "iqn.x:h");
    let target = ("TargetName", "iqn.2026-11.example.san:ha1");
    for (keys, status) in [
        (vec![target], (2, 7)),
        (vec![name], (2, 7)),
        (vec![name, ("TargetName", "iqn.x:no")], (2, 3)),
        (vec![name, target, ("SessionType", "Other")], (2, 9)),
        (vec![name, target, ("MaxBurstLength", "1")], (2, 0)),
        (vec![name, target, ("ImmediateData", "No"), ("ImmediateData", "No")], (2, 0)),
    ] {
        let mut net = net();
        let peer = net.connect(1);
        let request = net.peer(peer).login(1, Some(3), &keys);
        net.send(peer, &request);
        let header = net.next(peer).login();
        assert_eq!((header.status_class, header.status_detail), status, "{keys:?}");
        assert_eq!(net.node.counters().violations().len(), 1);
    }
}

/// RFC 7143 12.1.3: one-way and mutual CHAP with every algorithm, and the ways to get it wrong.
#[test]
fn chap_in_all_its_forms() {
    let config = Chap {
        user: "host".to_owned(),
        secret: b"0123456789ABCDEF".to_vec(),
        mutual: Some(("san".to_owned(), b"fedcba9876543210".to_vec())),
        algorithms: ChapAlgorithm::ALL.to_vec(),
    };
    for (number, mutual, right) in [
        ("5", true, true),
        ("6", true, true),
        ("7", false, true),
        ("8", true, true),
        ("5", true, false),
    ] {
        let pair = with(|c| c.nodes[0].chap = Some(config.clone()));
        let mut net = Net::new(pair.node(0, 1));
        let peer = net.connect(1);
        let send = |net: &mut Net, nsg, pairs: &[(&str, &str)]| {
            let request = net.peer(peer).login(0, nsg, pairs);
            net.send(peer, &request);
            net.next(peer)
        };
        let first = [NORMAL, &[("AuthMethod", "CHAP,None")]].concat();
        let answer = send(&mut net, Some(1), &first);
        assert_eq!(answer.value("AuthMethod").as_deref(), Some("CHAP"));
        assert!(!answer.login().transit, "not before it is proven");
        let answer = send(&mut net, None, &[("CHAP_A", number)]);
        assert_eq!(answer.value("CHAP_A").as_deref(), Some(number));
        let id: u8 = answer.value("CHAP_I").unwrap().parse().unwrap();
        let challenge = text::binary(&answer.value("CHAP_C").unwrap(), 1024).unwrap();
        let secret: &[u8] = if right { &config.secret } else { b"0123456789ABCDEE" };
        let response = text::hex(&hash(number, id, secret, &challenge));
        let mut keys = vec![("CHAP_N", "host"), ("CHAP_R", &response)];
        if mutual {
            keys.extend([("CHAP_I", "77"), ("CHAP_C", "0b3q2+7w==")]);
        }
        let answer = send(&mut net, Some(1), &keys);
        let header = answer.login();
        if !right {
            assert_eq!((header.status_class, header.status_detail), (2, 1));
            continue;
        }
        assert!(header.transit && header.next_stage == 1);
        let proof = hash(number, 77, b"fedcba9876543210", &[0xde, 0xad, 0xbe, 0xef]);
        let expect = mutual.then(|| text::hex(&proof));
        assert_eq!(answer.value("CHAP_R"), expect);
        assert_eq!(answer.value("CHAP_N").as_deref(), mutual.then_some("san"));
        let request = net.peer(peer).login(1, Some(3), USUAL);
        net.send(peer, &request);
        assert_eq!(net.next(peer).login().next_stage, 3);
        assert_eq!(net.node.sessions(), 1);
    }
    let pair = with(|c| c.nodes[0].chap = Some(config.clone()));
    for (stage, auth) in [(1, None), (0, Some("None")), (0, None)] {
        let mut net = Net::new(pair.node(0, 1));
        let peer = net.connect(1);
        let mut keys = NORMAL.to_vec();
        keys.extend(auth.map(|method| ("AuthMethod", method)));
        let request = net.peer(peer).login(stage, Some(3), &keys);
        net.send(peer, &request);
        let header = net.next(peer).login();
        assert_eq!((header.status_class, header.status_detail), (2, 1), "{stage} {auth:?}");
    }
}

/// The hash of a CHAP response, computed apart from the target.
fn hash(number: &str, id: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
    let input = [&[id], secret, challenge].concat();
    match number {
        "5" => md5::Md5::digest(&input).to_vec(),
        "6" => sha1::Sha1::digest(&input).to_vec(),
        "7" => sha2::Sha256::digest(&input).to_vec(),
        _ => sha3::Sha3_256::digest(&input).to_vec(),
    }
}

/// What an initiator must not do ends the connection and is written down.
#[test]
fn violations_are_recorded() {
    type Act = fn(&mut Net, usize);
    let cases: [(&str, Act); 5] = [
        ("CmdSN", |net, peer| {
            net.peer(peer).cmd_sn = net.peer(peer).cmd_sn.wrapping_add(1);
            net.start(peer, &Cdb::TestUnitReady, &[]);
        }),
        ("immediate data beyond", |net, peer| {
            net.start(peer, &Cdb::Write(Transfer::new(0, 1)), &[0; 516]);
        }),
        ("DataSN", |net, peer| {
            net.start(peer, &Cdb::Write(Transfer::new(0, 1)), &[]);
            let r2t = R2t::parse(&net.next(peer).bhs);
            let bytes = net.peer(peer).data_out(&r2t, 0, 1, true, &[0; 512]);
            net.send(peer, &bytes);
        }),
        ("F before", |net, peer| {
            net.start(peer, &Cdb::Write(Transfer::new(0, 2)), &[]);
            let r2t = R2t::parse(&net.next(peer).bhs);
            let bytes = net.peer(peer).data_out(&r2t, 0, 0, true, &[0; 512]);
            net.send(peer, &bytes);
        }),
        ("declared", |net, peer| {
            let mut pdu = DataOut::default().to_bhs();
            pdu[5] = 0xff;
            net.send(peer, &pdu);
        }),
    ];
    for (what, act) in cases {
        let mut net = net();
        let peer = net.login(1, USUAL);
        act(&mut net, peer);
        let violations = net.node.counters().violations();
        assert!(violations.len() == 1 && violations[0].contains(what), "{what}: {violations:?}");
        assert_eq!(net.actions, [Action::Reset(net.peers[peer].0)], "{what}");
    }
}

#[test]
fn the_journal_tells_order_and_nexus() {
    let pair = with(|c| c.journal = Scope::All);
    let mut net = Net::new(pair.node(0, 1));
    let a = net.login(1, USUAL);
    let b = net.login(2, USUAL);
    net.write(a, 1, 1);
    net.now += Duration::from_millis(3);
    net.write(b, 1, 2);
    net.read(a, 1, 1);
    let records = pair.journal().touching(1, 1);
    let told: Vec<_> = records.iter().map(|r| (r.nexus.isid[5], r.nexus.tsih, r.opcode)).collect();
    assert_eq!(told, [(1, 1, 0x2a), (2, 2, 0x2a), (1, 1, 0x28)]);
    assert_eq!(records[0].checksum, crc32c::crc32c(&[1; 512]));
    assert_eq!(records[1].executed_at - records[0].executed_at, Duration::from_millis(3));
}

/// RFC 7143 13.10, 13.11: all four combinations of the two keys carry a write.
#[test]
fn initial_r2t_and_immediate_data() {
    for (initial_r2t, immediate) in [(true, true), (true, false), (false, true), (false, false)] {
        let pair = with(|c| {
            c.nodes[0].negotiation =
                Negotiation { initial_r2t, immediate_data: immediate, ..Negotiation::default() };
        });
        let mut net = Net::new(pair.node(0, 1));
        let peer = net.login(1, USUAL);
        let data = if immediate { &[8; 512][..] } else { &[] };
        let tag = net.start(peer, &Cdb::Write(Transfer::new(0, 1)), data);
        if !immediate {
            let r2t = R2t::parse(&net.next(peer).bhs);
            let bytes = net.peer(peer).data_out(&r2t, 0, 0, true, &[8; 512]);
            net.send(peer, &bytes);
        }
        assert_eq!(net.done(peer, tag).unwrap().status, 0);
        assert_eq!(net.read(peer, 0, 1).data, [8; 512]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes, before and after the login, the node lives and its memory is bounded.
    #[test]
    fn no_bytes_panic(
        logged_in: bool,
        headers in prop::collection::vec((0u8..0x40, any::<[u8; 47]>()), 1..20),
        noise: Vec<u8>,
    ) {
        let mut net = net();
        let peer = if logged_in { net.login(1, USUAL) } else { net.connect(1) };
        let cmd_sn = net.peer(peer).cmd_sn;
        for (i, (opcode, rest)) in headers.iter().enumerate() {
            let mut bhs = [0; 48];
            bhs[0] = *opcode;
            bhs[1..].copy_from_slice(rest);
            bhs[4] = 0;
            bhs[5..7].fill(0);
            bhs[7] &= 0x0f;
            // Some with the number that is expected, so that they get further.
            if i % 2 == 0 {
                bhs[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
                bhs[8..16].fill(0);
            }
            let mut bytes = bhs.to_vec();
            bytes.resize(48 + usize::from(bhs[7]).next_multiple_of(4), 0);
            let id = net.peers[peer].0;
            net.node.handle_received(net.now, id, &bytes);
        }
        let id = net.peers[peer].0;
        net.node.handle_received(net.now, id, &noise);
        prop_assert!(net.node.tx(id).is_none_or(|tx| tx.pending() < 8 << 20));
    }

    /// RFC 7143 4.2.9: the answers do not depend on how the bytes were cut.
    #[test]
    fn any_segmentation_gives_the_same_answers(cuts in prop::collection::vec(1usize..200, 1..50)) {
        let mut peer = Peer::new(1);
        let mut stream = peer.login(1, Some(3), &[NORMAL, USUAL].concat());
        for lba in 0..3 {
            stream.extend(peer.command(&Cdb::Write(Transfer::new(lba, 1)), 512, &[7; 512]).1);
            stream.extend(peer.command(&Cdb::Read(Transfer::new(0, 2)), 512, &[]).1);
        }
        let answers = |sizes: &mut dyn Iterator<Item = usize>| {
            let mut node = pair().node(0, 1);
            let id = node.accept(Instant::ZERO, local());
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let n = sizes.next().unwrap().min(rest.len());
                node.handle_received(Instant::ZERO, id, &rest[..n]);
                rest = &rest[n..];
            }
            let mut segments = Vec::new();
            while node.tx(id).unwrap().take(9, &mut segments) > 0 {}
            segments.concat()
        };
        let whole = answers(&mut std::iter::repeat(usize::MAX));
        let cut = answers(&mut cuts.iter().copied().cycle());
        prop_assert!(whole == cut);
    }
}
