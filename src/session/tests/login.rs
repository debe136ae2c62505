//! Login exchanges (RFC 7143 sections 6.3, 11.12, 11.13, 12).

use super::script::*;
use crate::base::Duration;
use crate::session::chap::{Algorithm, Credentials};
use crate::session::*;
use crate::wire::iscsi::codes::opcode;
use crate::wire::iscsi::request::LoginRequest;
use crate::wire::iscsi::response::{LoginResponse, NopIn};
use crate::wire::iscsi::text::{binary, hex};
use std::sync::Arc;

const SECRET: &[u8] = b"0123456789ABCDEF";
const OTHER: &[u8] = b"FEDCBA9876543210";

fn chap(mutual: bool) -> Config {
    let mutual = mutual.then(|| ("san".to_owned(), OTHER.to_vec()));
    let credentials = Credentials::new("host1", SECRET, mutual).expect("good");
    Config { chap: Some(Arc::new(credentials)), ..config() }
}

/// The value of a key in a request's text.
fn value(pdu: &Pdu, key: &str) -> String {
    let text = pdu.text();
    let found = text.split(';').find_map(|p| p.strip_prefix(&format!("{key}=")));
    found.unwrap_or_else(|| panic!("{key} in {text}")).to_owned()
}

/// In the operational stage, our offers taken from the queue.
fn operational(config: Config) -> Script {
    let mut s = Script::connect(config);
    s.sent();
    s.login(true, 0, &[]);
    assert_eq!(s.sent().len(), 1);
    s
}

/// RFC 7143 6.2, 6.3.3: a target that says nothing for six exchanges; the same tag, CmdSN, TSIH and CID
/// throughout, ExpStatSN acknowledges.
#[test]
fn patience() {
    let mut s = Script::connect(config());
    let mut headers = Vec::new();
    for round in 0..14 {
        let sent = s.sent();
        assert_eq!(sent.len(), 1);
        let header = LoginRequest::parse(&sent[0].bhs);
        assert!(header.immediate && header.tsih == 0 && header.cmd_sn.0 == 0xffff_ffff);
        if round > 0 {
            assert_eq!(header.exp_stat_sn, s.stat_sn);
        }
        assert_eq!(sent[0].data.is_empty(), round != 0 && round != 7, "{round}");
        headers.push(header);
        s.login(round == 6 || round == 13, u8::from(round > 6), &[]);
    }
    assert!(headers.iter().all(|h| h.task_tag == headers[0].task_tag && h.cid == headers[0].cid));
    assert!(headers.iter().all(|h| h.transit));
    assert!(matches!(s.events()[..], [Event::LoggedIn]));
    assert!(s.sent().is_empty());
}

/// RFC 7143 6.2: but not for ever, in exchanges and in time.
#[test]
fn impatience() {
    let mut s = Script::connect(config());
    for _ in 0..40 {
        if s.session.state() == State::Closed {
            break;
        }
        s.login(false, 0, &[]);
    }
    assert_eq!(s.login_error(), LoginError::Protocol("endless exchange"));
    let mut s = Script::connect(config());
    let (when, why) = s.session.poll_deadline().expect("a deadline");
    assert_eq!((when, why), (at(15_000), Deadline::Login));
    s.session.handle_timeout(at(14_999));
    assert_eq!(s.session.state(), State::Login);
    s.session.handle_timeout(when);
    assert_eq!(s.login_error(), LoginError::TimedOut(Duration::from_secs(15)));
    s.session.handle_timeout(at(99_000));
    s.session.handle_closed(at(99_000), CloseReason::Eof);
    assert!(s.events().is_empty());
}

/// RFC 7143 6.1, 6.2: a response in parts, split in a key, before `=`, in a value and before the NUL; each
/// part but the last is answered by an empty request.
#[test]
fn text_in_parts() {
    let all = text(TGTD);
    for cut in [1, 3, 24, 25, 27, 31, all.len() - 1] {
        let mut s = operational(config());
        let header = s.login_header(false, 1);
        s.login_with(LoginResponse { more: true, ..header }, &all[..cut]);
        let sent = s.sent();
        assert_eq!((sent.len(), sent[0].data.len()), (1, 0));
        let header = s.login_header(true, 1);
        s.login_with(header, &all[cut..]);
        assert!(matches!(s.events()[..], [Event::LoggedIn]), "{cut}");
        assert_eq!(s.session.negotiated().expect("done").first_burst, 65536);
    }
}

/// RFC 7143 6.1: 8192 bytes of text are taken, an endless text is not.
#[test]
fn much_text() {
    let mut s = operational(config());
    let pair = text(&[("X-filler", &"x".repeat(240))]);
    let mut sent = 0;
    while sent < 12_000 {
        let header = s.login_header(false, 1);
        s.login_with(LoginResponse { more: true, ..header }, &pair.repeat(12));
        sent += 12 * pair.len();
    }
    s.login(false, 1, &[]);
    assert_eq!(s.session.state(), State::Login);
    let mut s = operational(config());
    while s.session.state() == State::Login {
        let header = s.login_header(false, 1);
        s.login_with(LoginResponse { more: true, ..header }, &pair.repeat(32));
    }
    assert_eq!(s.login_error(), LoginError::Protocol("endless text"));
}

/// RFC 7143 6.2: each unknown key is answered, in either stage; a flood of them, whose answers are longer
/// than they are, ends the login and nothing else.
#[test]
fn a_flood_of_proposals() {
    for stage in [0, 1] {
        for (keys, good) in [(400, true), (2000, false)] {
            let mut s = if stage == 0 { Script::connect(config()) } else { operational(config()) };
            s.sent();
            let header = s.login_header(false, stage);
            s.login_with(header, &b"A=1\0".repeat(keys));
            if good {
                assert_eq!(s.sent()[0].text(), "A=NotUnderstood;".repeat(keys));
            } else {
                let expected = LoginError::Protocol("more proposals than answers fit");
                assert_eq!(s.login_error(), expected);
            }
        }
    }
}

/// RFC 7143 6.3, 11.13: headers that end a login.
#[test]
fn bad_headers() {
    type Change = fn(&mut LoginResponse);
    let changes: [Change; 9] = [
        |r| r.task_tag = 1,
        |r| r.version_active = 1,
        |r| r.current_stage = 2,
        |r| r.current_stage = 0,
        |r| r.next_stage = 1,
        |r| r.next_stage = 0,
        |r| r.more = true,
        |r| r.tsih = 0,
        |r| r.numbers.stat_sn = r.numbers.stat_sn.plus(1),
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let mut s = operational(config());
        let mut header = s.login_header(true, 1);
        change(&mut header);
        s.login_with(header, &text(TGTD));
        assert!(matches!(s.login_error(), LoginError::Protocol(_)), "{i}");
    }
    // T where we did not propose it: after AuthMethod=CHAP.
    let mut s = Script::connect(chap(false));
    s.login(true, 0, &[("AuthMethod", "CHAP")]);
    assert!(matches!(s.login_error(), LoginError::Protocol(_)));
    // The next stage beyond the one that we proposed.
    let mut s = Script::connect(config());
    let header = s.login_header(true, 0);
    s.login_with(LoginResponse { next_stage: 3, ..header }, &[]);
    assert!(matches!(s.login_error(), LoginError::Protocol(_)));
}

/// RFC 7143 4.2.4: nothing but Login Responses before full feature phase; 8192 bytes of data at most.
#[test]
fn other_pdus() {
    let mut s = Script::connect(config());
    s.feed_pdu(&NopIn::default().to_bhs(), &[]);
    assert_eq!(s.login_error(), LoginError::UnexpectedPdu { opcode: opcode::NOP_IN });
    let mut s = Script::connect(config());
    let header = s.login_header(false, 0);
    s.login_with(header, &[b'x'; 8193]);
    assert!(matches!(s.login_error(), LoginError::Frame(_)));
    let mut s = Script::connect(config());
    let header = s.login_header(false, 0);
    s.login_with(header, b"AuthMethod=None");
    assert!(matches!(s.login_error(), LoginError::Text(_)));
}

/// RFC 7143 11.13.5: every status class.
#[test]
fn refusals() {
    for (class, detail) in [(2, 0), (2, 1), (2, 3), (2, 0x7f), (3, 0), (3, 1), (3, 2), (3, 0x55)] {
        let mut s = Script::connect(config());
        let header = s.login_header(false, 0);
        // Everything else in such a header means nothing.
        let header = LoginResponse {
            status_class: class,
            status_detail: detail,
            current_stage: 3,
            version_active: 9,
            ..header
        };
        s.login_with(header, &[]);
        assert_eq!(s.login_error(), LoginError::Status { class, detail });
    }
    for class in [4, 255] {
        let mut s = Script::connect(config());
        let header = s.login_header(false, 0);
        s.login_with(LoginResponse { status_class: class, ..header }, &[]);
        assert!(matches!(s.login_error(), LoginError::Protocol(_)));
    }
}

/// RFC 7143 11.13.5, 13.8: redirects, temporary and permanent, before and after the security stage.
#[test]
fn redirects() {
    for (detail, permanent) in [(1, false), (2, true), (9, false)] {
        let mut s = operational(config());
        let header = s.login_header(false, 1);
        let header = LoginResponse { status_class: 1, status_detail: detail, ..header };
        s.login_with(header, &text(&[("TargetAddress", "[2001:db8::7]:3261")]));
        let address = "[2001:db8::7]:3261".parse().expect("an address");
        assert_eq!(s.login_error(), LoginError::Redirect { address, permanent });
    }
    for bad in ["", "[::1", "10.0.0.1:0", "10.0.0.1:65536"] {
        let mut s = Script::connect(config());
        let header = s.login_header(false, 0);
        let header = LoginResponse { status_class: 1, status_detail: 1, ..header };
        s.login_with(header, &text(&[("TargetAddress", bad)]));
        assert_eq!(s.login_error(), LoginError::BadRedirect(bad.into()));
    }
}

/// RFC 7143 12, 13.9: keys of the security stage, the portal group tag.
#[test]
fn security_keys() {
    for (key, value) in [
        ("HeaderDigest", "None"),
        ("TargetName", "x"),
        ("CHAP_C", "0x00"),
        ("AuthMethod", "CHAP"),
        ("AuthMethod", "Reject"),
        ("TargetPortalGroupTag", "65536"),
    ] {
        let mut s = Script::connect(config());
        s.login(true, 0, &[(key, value)]);
        s.login_error();
    }
    let mut s = Script::connect(config());
    s.login(false, 0, &[("X-what", "1"), ("TargetAlias", "a\u{7}b")]);
    s.sent();
    s.login(true, 0, &[("TargetAlias", "again")]);
    assert!(matches!(s.login_error(), LoginError::Negotiation { .. }));
    let mut s = Script::connect(Config { expected_portal_group: Some(1), ..config() });
    s.login(true, 0, &[("TargetPortalGroupTag", "9")]);
    assert_eq!(s.login_error(), LoginError::PortalGroup { expected: 1, found: 9 });
    let mut s = Script::connect(Config { expected_portal_group: Some(1), ..config() });
    s.login(true, 0, &[("TargetPortalGroupTag", "0x1"), ("TargetAddress", "10.0.0.9")]);
    s.login(true, 1, &[]);
    assert!(matches!(s.events()[..], [Event::LoggedIn]));
}

/// RFC 7143 6.2: the target's proposals are answered; those in its last response are not negotiated.
#[test]
fn proposals() {
    let mut s = operational(config());
    s.login(false, 1, &[("MaxBurstLength", "65536"), ("OFMarker", "Yes"), ("Foo", "1")]);
    let sent = s.sent();
    assert_eq!(sent[0].text(), "OFMarker=Reject;Foo=NotUnderstood;");
    assert!(LoginRequest::parse(&sent[0].bhs).transit);
    s.login(true, 1, &[("IFMarker", "Yes")]);
    assert!(matches!(s.events()[..], [Event::LoggedIn]));
    assert_eq!(s.session.negotiated().expect("done").max_burst, 65536);
    let mut s = operational(config());
    s.login(false, 1, &[("MaxBurstLength", "65536")]);
    s.login(true, 1, &[("MaxBurstLength", "65536")]);
    assert!(matches!(s.login_error(), LoginError::Negotiation { .. }));
}

/// RFC 7143 11.13.3, 13.9, 13.6: a TSIH before the final response means nothing; a target may keep its
/// portal group to itself; its alias cannot move a terminal's cursor.
#[test]
fn what_a_target_tells_of_itself() {
    let mut s = Script::connect(config());
    s.sent();
    let header = s.login_header(true, 0);
    s.login_with(LoginResponse { tsih: 9, ..header }, &text(&[("TargetAlias", "a\u{1b}[2Jb\n")]));
    assert_eq!(LoginRequest::parse(&s.sent()[0].bhs).tsih, 0);
    s.login(true, 1, TGTD);
    assert!(matches!(s.events()[..], [Event::LoggedIn]));
    let agreed = s.session.negotiated().expect("logged in");
    assert_eq!((agreed.tsih, agreed.portal_group), (5, None));
    assert_eq!(agreed.target_alias.as_deref(), Some("a\\u{1b}[2Jb\\n"));
}

/// RFC 7143 12.1.3: CHAP one way and mutual, each algorithm.
#[test]
fn chap_exchange() {
    for algorithm in [Algorithm::Md5, Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha3_256] {
        for mutual in [false, true] {
            let mut s = Script::connect(chap(mutual));
            let first = s.sent();
            assert_eq!(value(&first[0], "AuthMethod"), "CHAP");
            assert!(!LoginRequest::parse(&first[0].bhs).transit);
            s.login(false, 0, &[("AuthMethod", "CHAP"), ("TargetPortalGroupTag", "1")]);
            let sent = s.sent();
            assert_eq!(sent[0].text(), "CHAP_A=8,6,5,7;");
            let a = algorithm.code().to_string();
            s.login(false, 0, &[("CHAP_A", &a), ("CHAP_I", "90"), ("CHAP_C", "0x0001020304")]);
            let sent = s.sent();
            assert!(LoginRequest::parse(&sent[0].bhs).transit);
            assert_eq!(value(&sent[0], "CHAP_N"), "host1");
            let expected = algorithm.respond(90, SECRET, &[0, 1, 2, 3, 4]);
            assert_eq!(value(&sent[0], "CHAP_R"), hex(&expected));
            if mutual {
                let i: u8 = value(&sent[0], "CHAP_I").parse().expect("a number");
                let c = binary(&value(&sent[0], "CHAP_C"), 1024).expect("binary");
                let r = hex(&algorithm.respond(i, OTHER, &c));
                s.login(true, 0, &[("CHAP_N", "san"), ("CHAP_R", &r)]);
            } else {
                s.login(true, 0, &[]);
            }
            assert_eq!(s.sent().len(), 1);
            s.login(true, 1, TGTD);
            assert!(matches!(s.events()[..], [Event::LoggedIn]));
        }
    }
}

/// RFC 7143 9.2.1, 12.1: nothing but authentication as configured leads on.
#[test]
fn chap_refusals() {
    let none = [("AuthMethod", "None")];
    for (transit, keys) in [
        (false, &none[..]),
        (false, &[][..]),
        (false, &[("AuthMethod", "SRP")][..]),
        (false, &[("AuthMethod", "CHAP"), ("CHAP_A", "5")][..]),
    ] {
        let mut s = Script::connect(chap(true));
        s.login(transit, 0, keys);
        assert!(matches!(s.login_error(), LoginError::Authentication(_)));
    }
    let challenge = [("CHAP_A", "7"), ("CHAP_I", "1"), ("CHAP_C", "0x00010203")];
    let good = |s: &mut Script| {
        s.login(false, 0, &[("AuthMethod", "CHAP")]);
        s.sent();
        s.login(false, 0, &challenge);
        s.sent().remove(0)
    };
    // The target goes on without proving itself.
    let mut s = Script::connect(chap(true));
    good(&mut s);
    s.login(true, 0, &[]);
    assert_eq!(s.login_error(), LoginError::Authentication(AuthenticationError::Skipped));
    // It proves itself with our secret.
    let mut s = Script::connect(chap(true));
    let sent = good(&mut s);
    let i: u8 = value(&sent, "CHAP_I").parse().expect("a number");
    let c = binary(&value(&sent, "CHAP_C"), 1024).expect("binary");
    let r = hex(&Algorithm::Sha256.respond(i, SECRET, &c));
    s.login(true, 0, &[("CHAP_N", "san"), ("CHAP_R", &r)]);
    assert_eq!(s.login_error(), LoginError::Authentication(AuthenticationError::OwnSecret));
    // CHAP keys where no answer was asked for.
    let mut s = Script::connect(chap(false));
    good(&mut s);
    s.login(true, 0, &[("CHAP_N", "san"), ("CHAP_R", &r)]);
    assert!(matches!(s.login_error(), LoginError::Authentication(AuthenticationError::Step(_))));
    // A second challenge.
    let mut s = Script::connect(chap(false));
    good(&mut s);
    s.login(false, 0, &challenge);
    assert!(matches!(s.login_error(), LoginError::Authentication(AuthenticationError::Step(_))));
    // Our challenge on one connection comes back on another with the same credentials.
    let shared = chap(true);
    let mut first = Script::connect(shared.clone());
    let c = value(&good(&mut first), "CHAP_C");
    let mut second = Script::connect(shared);
    second.login(false, 0, &[("AuthMethod", "CHAP")]);
    second.login(false, 0, &[("CHAP_A", "5"), ("CHAP_I", "1"), ("CHAP_C", &c)]);
    assert_eq!(second.login_error(), LoginError::Authentication(AuthenticationError::Reflection));
}

/// RFC 7143 4.2.7.1: names of 223 bytes at most; what was configured cannot be sent otherwise.
#[test]
fn names() {
    let long = "iqn.".to_owned() + &"x".repeat(219);
    let mut s = Script::connect(Config { initiator_name: long.clone(), ..config() });
    assert_eq!(s.sent().len(), 1);
    let mut s = Script::connect(Config { initiator_name: long + "x", ..config() });
    assert!(matches!(s.login_error(), LoginError::Config(_)));
    let kind = Kind::Normal { target: "a\0b".into() };
    let mut s = Script::connect(Config { kind, ..config() });
    assert!(matches!(s.login_error(), LoginError::Config(_)));
}

/// A connection that ends during login, before it, or is given up by a logout.
#[test]
fn closed_during_login() {
    let mut s = Script::connect(config());
    s.session.handle_closed(at(1), CloseReason::Eof);
    assert_eq!(s.login_error(), LoginError::Closed(CloseReason::Eof));
    let mut session = Session::new(config(), ENTROPY);
    session.handle_closed(at(0), CloseReason::Errno(111));
    assert!(matches!(session.poll_event(), Some(Event::LoginFailed(LoginError::Closed(_)))));
    session.handle_connected(at(1));
    assert!(session.tx().is_empty());
    let mut s = Script::connect(config());
    s.session.logout(at(1));
    assert_eq!(s.login_error(), LoginError::Closed(CloseReason::GivenUp));
}

/// RFC 7143 13.1: digests begin after the login; the final response has none, the next PDU has them.
#[test]
fn digests_begin_after_the_login() {
    let both =
        Config { header_digest: Digest::Crc32c, data_digest: Digest::PreferCrc32c, ..config() };
    let answers = [TGTD, &[("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")]].concat();
    let mut s = Script::logged_in(both.clone(), &answers);
    s.write(1, b"12345");
    assert_eq!(s.sent()[0].data, b"12345");
    let mut s = operational(both);
    s.login(true, 1, TGTD);
    assert!(matches!(s.login_error(), LoginError::Incompatible(_)));
}
