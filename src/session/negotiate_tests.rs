//! One case per key and rule of RFC 7143 sections 6.2 and 13.

use super::*;
use crate::session::config::Kind;
use crate::wire::iscsi::text::pairs;

fn config() -> Config {
    Config::new("iqn.2026-11.test:i", [0; 6], Kind::Normal { target: "iqn.2026-11.test:t".into() })
}

/// Feeds pairs; gives the agreement and our answers.
fn run(config: &Config, answers: &[(&str, &str)]) -> Result<(Negotiated, String), LoginError> {
    let mut negotiation = Negotiation::new(config);
    let mut out = TextWriter::new();
    for (key, value) in answers {
        negotiation.handle(key, value, &mut out)?;
    }
    let text = String::from_utf8(out.into_bytes()).expect("text");
    Ok((negotiation.finish(1, Some(1), None)?, text.replace('\0', ";")))
}

/// RFC 7143 13: what we offer.
#[test]
fn offers() {
    let mut out = TextWriter::new();
    let mut c = config();
    c.header_digest = Digest::PreferCrc32c;
    Negotiation::new(&c).offer(&mut out);
    let all: Vec<_> = pairs(out.as_bytes()).map(|p| p.expect("good")).collect();
    assert_eq!(
        all,
        [
            ("HeaderDigest", "CRC32C,None"),
            ("DataDigest", "None"),
            ("MaxConnections", "1"),
            ("InitialR2T", "No"),
            ("ImmediateData", "Yes"),
            ("MaxRecvDataSegmentLength", "262144"),
            ("MaxBurstLength", "16776192"),
            ("FirstBurstLength", "262144"),
            ("DefaultTime2Wait", "0"),
            ("DefaultTime2Retain", "0"),
            ("MaxOutstandingR2T", "8"),
            ("DataPDUInOrder", "Yes"),
            ("DataSequenceInOrder", "Yes"),
            ("ErrorRecoveryLevel", "0"),
        ]
    );
    let mut out = TextWriter::new();
    c.kind = Kind::Discovery;
    Negotiation::new(&c).offer(&mut out);
    let names: Vec<_> = pairs(out.as_bytes()).map(|p| p.expect("good").0).collect();
    assert_eq!(
        names,
        [
            "HeaderDigest",
            "DataDigest",
            "MaxRecvDataSegmentLength",
            "DefaultTime2Wait",
            "DefaultTime2Retain",
            "ErrorRecoveryLevel",
        ]
    );
}

/// What tgtd answers by default.
#[test]
fn answers_of_tgtd() {
    let (n, text) = run(
        &config(),
        &[
            ("HeaderDigest", "None"),
            ("DataDigest", "None"),
            ("InitialR2T", "Yes"),
            ("ImmediateData", "Yes"),
            ("MaxRecvDataSegmentLength", "8192"),
            ("MaxBurstLength", "262144"),
            ("FirstBurstLength", "65536"),
            ("DefaultTime2Wait", "2"),
            ("DefaultTime2Retain", "0"),
            ("MaxOutstandingR2T", "1"),
            ("MaxConnections", "1"),
            ("ErrorRecoveryLevel", "0"),
            ("DataPDUInOrder", "Yes"),
            ("DataSequenceInOrder", "Yes"),
        ],
    )
    .expect("good");
    assert_eq!(text, "");
    assert!(n.initial_r2t && n.immediate_data);
    assert_eq!((n.max_send_segment, n.max_burst, n.first_burst), (8192, 262_144, 65536));
    assert_eq!((n.max_outstanding_r2t, n.time2wait), (1, Duration::from_secs(2)));
}

/// RFC 7143 6.2: without answers the defaults hold, never our offers; silence agrees where one word
/// decides.
#[test]
fn silence() {
    let (n, _) = run(&config(), &[]).expect("good");
    assert!(n.initial_r2t && n.immediate_data && !n.header_digest);
    assert_eq!((n.max_send_segment, n.max_burst, n.first_burst), (8192, 262_144, 65536));
    assert_eq!((n.max_outstanding_r2t, n.time2wait.as_secs()), (1, 2));
    assert_eq!(n.time2retain.as_secs(), 20);
    let mut c = config();
    c.offers.immediate_data = false;
    c.offers.initial_r2t = true;
    let (n, _) = run(&c, &[]).expect("good");
    assert!(n.initial_r2t && !n.immediate_data);
}

/// RFC 7143 6.2.1, 6.2.2: answers outside the rule end the login.
#[test]
fn answers_outside_the_offer() {
    let mut c = config();
    c.offers.immediate_data = false;
    c.offers.initial_r2t = true;
    c.offers.time2wait = 5;
    for (key, value) in [
        ("HeaderDigest", "CRC32C"),
        ("DataDigest", "none"),
        ("DataDigest", "None,CRC32C"),
        ("MaxConnections", "2"),
        ("MaxConnections", "0"),
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
        ("ImmediateData", "yes"),
        ("MaxRecvDataSegmentLength", "511"),
        ("MaxRecvDataSegmentLength", "16777216"),
        ("MaxBurstLength", "16776193"),
        ("MaxBurstLength", "0511"),
        ("MaxBurstLength", "1024~2048"),
        ("FirstBurstLength", "262145"),
        ("DefaultTime2Wait", "4"),
        ("DefaultTime2Wait", "3601"),
        ("DefaultTime2Retain", "1"),
        ("MaxOutstandingR2T", "9"),
        ("MaxOutstandingR2T", "0"),
        ("DataPDUInOrder", "No"),
        ("DataSequenceInOrder", "No"),
        ("ErrorRecoveryLevel", "1"),
        ("ErrorRecoveryLevel", ""),
        ("HeaderDigest", "NotUnderstood"),
        ("TargetName", "iqn.2026-11.test:t"),
        ("InitiatorName", "x"),
        ("SessionType", "Normal"),
        ("SendTargets", "All"),
        ("AuthMethod", "None"),
        ("CHAP_C", "0x01"),
        ("iSCSIProtocolLevel", "32"),
        ("TaskReporting", "Reject"),
    ] {
        let result = run(&c, &[(key, value)]);
        assert!(matches!(result, Err(LoginError::Negotiation { .. })), "{key}={value}: {result:?}");
    }
    let long = "x".repeat(256);
    assert!(run(&c, &[("X-a", &long)]).is_err());
}

/// RFC 7143 6.2: Reject and Irrelevant leave the default.
#[test]
fn rejected_offers() {
    let (n, _) = run(
        &config(),
        &[
            ("MaxBurstLength", "Reject"),
            ("FirstBurstLength", "Irrelevant"),
            ("DataDigest", "Reject"),
        ],
    )
    .expect("good");
    assert_eq!((n.max_burst, n.first_burst, n.data_digest), (262_144, 65536, false));
}

/// RFC 7143 6.3: no key twice.
#[test]
fn renegotiation() {
    let twice = |a, b| run(&config(), &[a, b]).is_err();
    assert!(twice(("MaxBurstLength", "65536"), ("MaxBurstLength", "65536")));
    assert!(twice(("TaskReporting", "RFC3720"), ("TaskReporting", "RFC3720")));
}

/// RFC 7143 6.2, 13.25: proposals that we did not make are answered by kind.
#[test]
fn proposals_of_the_target() {
    let (_, text) = run(
        &config(),
        &[
            ("FooBar", "1"),
            ("headerdigest", "None"),
            ("X-com.evil.k", "Yes"),
            ("X-com.evil.k", "NotUnderstood"),
            ("IFMarker", "Yes"),
            ("OFMarker", "No"),
            ("IFMarkInt", "1~2"),
            ("OFMarkInt", "1~2"),
            ("TaskReporting", "FastAbort,ResponseFence,RFC3720"),
            ("iSCSIProtocolLevel", "2"),
            ("X#NodeArchitecture", "abacus"),
            ("RDMAExtensions", "Yes"),
        ],
    )
    .expect("good");
    assert_eq!(
        text,
        "FooBar=NotUnderstood;headerdigest=NotUnderstood;X-com.evil.k=NotUnderstood;\
         IFMarker=Reject;OFMarker=Reject;IFMarkInt=Reject;OFMarkInt=Reject;\
         TaskReporting=RFC3720;iSCSIProtocolLevel=1;RDMAExtensions=NotUnderstood;"
    );
}

/// RFC 7143 13: keys without meaning in a discovery session.
#[test]
fn discovery() {
    let mut c = config();
    c.kind = Kind::Discovery;
    let (_, text) =
        run(&c, &[("MaxBurstLength", "512"), ("FirstBurstLength", "Irrelevant")]).expect("good");
    assert_eq!(text, "MaxBurstLength=Irrelevant;");
}

/// RFC 7143 13.1: a required digest that is not agreed is an incompatibility, not a protocol error.
#[test]
fn required_digest() {
    let mut c = config();
    c.data_digest = Digest::Crc32c;
    assert!(matches!(run(&c, &[]), Err(LoginError::Incompatible(_))));
    assert!(matches!(run(&c, &[("DataDigest", "Reject")]), Err(LoginError::Incompatible(_))));
    assert!(matches!(run(&c, &[("DataDigest", "None")]), Err(LoginError::Incompatible(_))));
    assert!(run(&c, &[("DataDigest", "CRC32C")]).expect("good").0.data_digest);
}

/// RFC 7143 13.14: the first burst is never used above the burst.
#[test]
fn first_burst_above_the_burst() {
    let (n, _) =
        run(&config(), &[("MaxBurstLength", "512"), ("FirstBurstLength", "65536")]).expect("good");
    assert_eq!((n.max_burst, n.first_burst), (512, 512));
}
