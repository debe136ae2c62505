//! One login, one READ and one WRITE as literal bytes, both directions.

use super::script::*;
use crate::session::*;
use bytes::Bytes;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|d| (d[0] << 4 | d[1]) as u8).collect()
}

/// Header and data; the header's data length is checked, not set.
fn bytes(header: &str, data: &str) -> Vec<u8> {
    let mut out = hex(header);
    assert_eq!(out.len(), 48);
    assert_eq!(out[5..8], (data.len() as u32).to_be_bytes()[1..], "{}", data.len());
    out.extend_from_slice(data.as_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn assert_sent(s: &mut Script, expected: &[u8]) {
    let sent = s.take().concat();
    assert_eq!(sent.len(), expected.len(), "{:02x?}", &sent[..sent.len().min(48)]);
    for (i, (a, b)) in sent.iter().zip(expected).enumerate() {
        assert_eq!(a, b, "byte {i}");
    }
}

/// RFC 7143 6.3, 11.12, 11.13: a whole login without authentication, then a READ with collapsed status
/// and a WRITE with immediate data. CmdSN starts at 0xffffffff, StatSN at 0x7ffffffe.
#[test]
fn login_read_write() {
    let mut s = Script::connect(config());
    log_in(&mut s);
    let mut cdb = [0; 16];
    cdb[..10].copy_from_slice(&hex("28000000000900000100"));
    read(&mut s, cdb);
    cdb[0] = 0x2a;
    write(&mut s, cdb);
    assert_eq!(s.session.in_flight(), 0);
}

fn log_in(s: &mut Script) {
    assert_sent(
        s,
        &bytes(
            "43810000 00000062 40000137 00070000 4c4f4749 00010000 ffffffff 00000000
             00000000 00000000 00000000 00000000",
            "InitiatorName=iqn.2026-11.test:i\0SessionType=Normal\0\
             TargetName=iqn.2026-11.test:t\0AuthMethod=None\0",
        ),
    );
    s.feed(&bytes(
        "23810000 00000027 40000137 00070000 4c4f4749 00000000 7ffffffe ffffffff
         0000001f 00000000 00000000 00000000",
        "AuthMethod=None\0TargetPortalGroupTag=1\0",
    ));
    let offers = "HeaderDigest=None\0DataDigest=None\0MaxConnections=1\0InitialR2T=No\0\
         ImmediateData=Yes\0MaxRecvDataSegmentLength=262144\0MaxBurstLength=16776192\0\
         FirstBurstLength=262144\0DefaultTime2Wait=0\0DefaultTime2Retain=0\0\
         MaxOutstandingR2T=8\0DataPDUInOrder=Yes\0DataSequenceInOrder=Yes\0\
         ErrorRecoveryLevel=0\0";
    assert_sent(
        s,
        &bytes(
            "43870000 0000011f 40000137 00070000 4c4f4749 00010000 ffffffff 7fffffff
             00000000 00000000 00000000 00000000",
            offers,
        ),
    );
    let answers = "HeaderDigest=None\0DataDigest=None\0InitialR2T=Yes\0ImmediateData=Yes\0";
    s.feed(&bytes(
        "23870000 00000043 40000137 00070001 4c4f4749 00000000 7fffffff ffffffff
         0000001f 00000000 00000000 00000000",
        answers,
    ));
    assert!(matches!(s.events()[..], [Event::LoggedIn]));
    let n = s.session.negotiated().expect("logged in");
    assert_eq!((n.tsih, n.portal_group), (1, Some(1)));
}

fn read(s: &mut Script, cdb: [u8; 16]) {
    let read = Command { token: 1, lun: LUN, cdb, data: Direction::Read { len: 8 } };
    let tag = s.session.submit(at(1), read).expect("room");
    assert_eq!(tag.0, 0);
    assert_sent(
        s,
        &hex("01c10000 00000000 00010000 00000000 00000000 00000008 ffffffff 80000000
              28000000 00090000 01000000 00000000"),
    );
    s.feed(&bytes(
        "25810000 00000008 00000000 00000000 00000000 ffffffff 80000000 00000000
         00000020 00000000 00000000 00000000",
        "payload!",
    ));
    match &s.events()[..] {
        [Event::Done { token: 1, completion, .. }] => {
            assert_eq!(completion.data.to_vec(), b"payload!");
            assert_eq!((completion.status, completion.response), (0, 0));
        }
        other => panic!("{other:?}"),
    }
}

fn write(s: &mut Script, cdb: [u8; 16]) {
    let data = Direction::Write(Bytes::from_static(b"five.").into());
    let tag = s.session.submit(at(2), Command { token: 2, lun: LUN, cdb, data }).expect("room");
    assert_eq!(tag.0, 0x0001_0000, "the next generation of the slot");
    assert_sent(
        s,
        &bytes(
            "01a10000 00000005 00010000 00000000 00010000 00000005 00000000 80000001
             2a000000 00090000 01000000 00000000",
            "five.",
        ),
    );
    s.feed(&hex("21800000 00000000 00000000 00000000 00010000 00000000 80000001 00000001
                 00000021 00000000 00000000 00000000"));
    assert!(matches!(s.events()[..], [Event::Done { token: 2, .. }]));
}
