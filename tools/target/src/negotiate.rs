//! The operational keys as a target answers them (RFC 7143 section 13): one table.
//!
//! Each key of a request gives at most one answer, and its result goes to [`Parameters`]. A key that
//! was not offered keeps its default, as section 6.2 asks. Deliberately not here: stages, the keys of
//! authentication, and text that is split over PDUs.

use crate::config::{Digests, Negotiation};
use crate::wire::iscsi::{keys, text};

/// What holds for a session once the login is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// Header digests are on.
    pub header_digest: bool,
    /// Data digests are on.
    pub data_digest: bool,
    /// No unsolicited Data-Out.
    pub initial_r2t: bool,
    /// Data in commands.
    pub immediate_data: bool,
    /// Longest data segment that the initiator takes.
    pub send_segment: u32,
    /// Longest data segment that this target declared.
    pub recv_segment: u32,
    /// Longest sequence.
    pub max_burst: u32,
    /// Longest unsolicited data.
    pub first_burst: u32,
    /// R2Ts outstanding per task.
    pub max_outstanding_r2t: u32,
    /// Data PDUs come in order.
    pub pdu_in_order: bool,
    /// Sequences come in order.
    pub sequence_in_order: bool,
    /// DefaultTime2Wait, seconds.
    pub time2wait: u32,
    /// DefaultTime2Retain, seconds.
    pub time2retain: u32,
}

impl Default for Parameters {
    /// The defaults of RFC 7143 section 13.
    fn default() -> Parameters {
        Parameters {
            header_digest: false,
            data_digest: false,
            initial_r2t: true,
            immediate_data: true,
            send_segment: 8192,
            recv_segment: 8192,
            max_burst: 262_144,
            first_burst: 65_536,
            max_outstanding_r2t: 1,
            pdu_in_order: true,
            sequence_in_order: true,
            time2wait: 2,
            time2retain: 20,
        }
    }
}

/// A key that ends the login: status 0200, with the reason for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Illegal(pub String);

const LENGTH: core::ops::RangeInclusive<u64> = 512..=0xff_ffff;

/// Answers one operational key: `None` where a declaration needs none.
pub(crate) fn answer(
    key: &str,
    value: &str,
    ours: &Negotiation,
    now: &mut Parameters,
    discovery: bool,
) -> Result<Option<String>, Illegal> {
    match key {
        keys::HEADER_DIGEST => digest(value, ours.header_digest, &mut now.header_digest),
        keys::DATA_DIGEST => digest(value, ours.data_digest, &mut now.data_digest),
        keys::MAX_RECV_DATA_SEGMENT_LENGTH => {
            now.send_segment = number(key, value, LENGTH)?;
            Ok(None)
        }
        keys::DEFAULT_TIME2WAIT => {
            now.time2wait = number(key, value, 0..=3600)?.max(ours.time2wait);
            Ok(Some(now.time2wait.to_string()))
        }
        keys::DEFAULT_TIME2RETAIN => {
            let n = number(key, value, 0..=3600)?;
            least(&mut now.time2retain, n, ours.time2retain)
        }
        keys::ERROR_RECOVERY_LEVEL => number(key, value, 0..=2).map(|_| Some("0".to_owned())),
        keys::PROTOCOL_LEVEL => number(key, value, 0..=31).map(|n| Some(n.min(1).to_string())),
        keys::IF_MARKER | keys::OF_MARKER => Ok(Some(keys::NO.to_owned())),
        keys::IF_MARK_INT | keys::OF_MARK_INT => Ok(Some(keys::REJECT.to_owned())),
        keys::INITIATOR_ALIAS | keys::X_NODE_ARCHITECTURE => Ok(None),
        keys::MAX_CONNECTIONS
        | keys::INITIAL_R2T
        | keys::IMMEDIATE_DATA
        | keys::MAX_BURST_LENGTH
        | keys::FIRST_BURST_LENGTH
        | keys::MAX_OUTSTANDING_R2T
        | keys::DATA_PDU_IN_ORDER
        | keys::DATA_SEQUENCE_IN_ORDER
        | keys::TASK_REPORTING => {
            if discovery {
                return Ok(Some(keys::IRRELEVANT.to_owned()));
            }
            data_key(key, value, ours, now)
        }
        _ if keys::DEFINED.contains(&key) => Err(bad(key, value)),
        _ => Ok(Some(keys::NOT_UNDERSTOOD.to_owned())),
    }
}

/// The keys that are about data and tasks: of no meaning to a discovery session.
fn data_key(
    key: &str,
    value: &str,
    ours: &Negotiation,
    now: &mut Parameters,
) -> Result<Option<String>, Illegal> {
    let boolean = || text::boolean(value).ok_or_else(|| bad(key, value));
    let yes_no = |b| Ok(Some(text::yes_no(b).to_owned()));
    match key {
        keys::MAX_CONNECTIONS => number(key, value, 1..=65535).map(|_| Some("1".to_owned())),
        keys::INITIAL_R2T => {
            now.initial_r2t = boolean()? || ours.initial_r2t;
            yes_no(now.initial_r2t)
        }
        keys::IMMEDIATE_DATA => {
            now.immediate_data = boolean()? && ours.immediate_data;
            yes_no(now.immediate_data)
        }
        keys::MAX_BURST_LENGTH => {
            least(&mut now.max_burst, number(key, value, LENGTH)?, ours.max_burst)
        }
        keys::FIRST_BURST_LENGTH => {
            least(&mut now.first_burst, number(key, value, LENGTH)?, ours.first_burst)
        }
        keys::MAX_OUTSTANDING_R2T => {
            let n = number(key, value, 1..=65535)?;
            least(&mut now.max_outstanding_r2t, n, ours.max_outstanding_r2t)
        }
        keys::DATA_PDU_IN_ORDER => {
            now.pdu_in_order = boolean()? || ours.pdu_in_order;
            yes_no(now.pdu_in_order)
        }
        keys::DATA_SEQUENCE_IN_ORDER => {
            now.sequence_in_order = boolean()? || ours.sequence_in_order;
            yes_no(now.sequence_in_order)
        }
        keys::TASK_REPORTING => {
            let known = value.split(',').find(|v| *v == "RFC3720");
            Ok(Some(known.unwrap_or(keys::REJECT).to_owned()))
        }
        _ => Err(bad(key, value)),
    }
}

fn bad(key: &str, value: &str) -> Illegal {
    Illegal(format!("{key}={value}"))
}

fn number(key: &str, value: &str, range: core::ops::RangeInclusive<u64>) -> Result<u32, Illegal> {
    text::number_in(value, range).map(|n| n as u32).ok_or_else(|| bad(key, value))
}

/// The result of a key that takes the smaller number.
fn least(slot: &mut u32, n: u32, ours: u32) -> Result<Option<String>, Illegal> {
    *slot = n.min(ours);
    Ok(Some(slot.to_string()))
}

fn digest(offered: &str, ours: Digests, on: &mut bool) -> Result<Option<String>, Illegal> {
    let taken = offered.split(',').find(|value| match *value {
        keys::NONE => ours.none,
        keys::CRC32C => ours.crc32c,
        _ => false,
    });
    *on = taken == Some(keys::CRC32C);
    Ok(Some(taken.unwrap_or(keys::REJECT).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(ours: &Negotiation, key: &str, value: &str) -> (Option<String>, Parameters) {
        let mut now = Parameters::default();
        let answer = answer(key, value, ours, &mut now, false).expect("a legal key");
        (answer, now)
    }

    /// RFC 7143 13.1 to 13.20: the function of each key.
    #[test]
    fn each_key_has_its_function() {
        let ours = Negotiation {
            max_burst: 65536,
            first_burst: 4096,
            max_outstanding_r2t: 2,
            time2wait: 5,
            ..Negotiation::default()
        };
        for (key, value, expect) in [
            ("MaxBurstLength", "262144", "65536"),
            ("MaxBurstLength", "1024", "1024"),
            ("FirstBurstLength", "0x10000", "4096"),
            ("InitialR2T", "No", "No"),
            ("InitialR2T", "Yes", "Yes"),
            ("ImmediateData", "No", "No"),
            ("ImmediateData", "Yes", "Yes"),
            ("MaxOutstandingR2T", "1", "1"),
            ("MaxOutstandingR2T", "8", "2"),
            ("DefaultTime2Wait", "2", "5"),
            ("DefaultTime2Wait", "3600", "3600"),
            ("DefaultTime2Retain", "20", "0"),
            ("ErrorRecoveryLevel", "2", "0"),
            ("MaxConnections", "4", "1"),
            ("HeaderDigest", "CRC32C,None", "CRC32C"),
            ("DataDigest", "None,CRC32C", "None"),
            ("DataDigest", "MD5", "Reject"),
            ("DataPDUInOrder", "No", "Yes"),
            ("iSCSIProtocolLevel", "2", "1"),
            ("TaskReporting", "RFC3720,ResponseFence", "RFC3720"),
            ("IFMarker", "Yes", "No"),
            ("OFMarkInt", "1~2", "Reject"),
            ("X-com.example.k", "1", "NotUnderstood"),
        ] {
            assert_eq!(one(&ours, key, value).0.as_deref(), Some(expect), "{key}={value}");
        }
        let (none, now) = one(&ours, "MaxRecvDataSegmentLength", "262144");
        assert_eq!((none, now.send_segment), (None, 262_144));
    }

    #[test]
    fn values_outside_their_range_end_the_login() {
        let ours = Negotiation::default();
        for (key, value) in [
            ("MaxBurstLength", "511"),
            ("MaxRecvDataSegmentLength", "16777216"),
            ("InitialR2T", "yes"),
            ("MaxOutstandingR2T", "0"),
            ("SendTargets", "All"),
            ("DefaultTime2Wait", "3601"),
        ] {
            let result = answer(key, value, &ours, &mut Parameters::default(), false);
            assert!(result.is_err(), "{key}={value}");
        }
    }

    #[test]
    fn a_discovery_session_has_no_data_keys() {
        let ours = Negotiation::default();
        let result = answer("MaxBurstLength", "1024", &ours, &mut Parameters::default(), true);
        assert_eq!(result, Ok(Some("Irrelevant".to_owned())));
    }
}
