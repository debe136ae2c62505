//! The operational keys (RFC 7143 section 13): what is offered, which answers the rules allow, how the
//! target's own proposals are answered, and what holds in the end.
//!
//! One row per key: default, range, function of the result. An answer outside the rule is an error; a
//! missing answer leaves the default, but for booleans where silence is agreement (section 6.2.2).

use super::config::{Config, Digest, Offers};
use super::error::{LoginError, shown};
use crate::base::Duration;
use crate::wire::iscsi::keys;
use crate::wire::iscsi::text::{self, TextWriter, boolean, number_in, yes_no};
use core::ops::RangeInclusive;

/// What both sides agreed on. All values take effect together at the end of the login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// Target session identifying handle.
    pub tsih: u16,
    /// Portal group tag, if the target told it.
    pub portal_group: Option<u16>,
    /// The target's alias, escaped for display.
    pub target_alias: Option<String>,
    /// Headers carry CRC32C.
    pub header_digest: bool,
    /// Data segments carry CRC32C.
    pub data_digest: bool,
    /// MaxRecvDataSegmentLength of the target: longest data segment that we send, bytes.
    pub max_send_segment: u32,
    /// MaxRecvDataSegmentLength that we declared, bytes.
    pub max_recv_segment: u32,
    /// MaxBurstLength, bytes.
    pub max_burst: u32,
    /// FirstBurstLength, bytes, not above `max_burst`.
    pub first_burst: u32,
    /// InitialR2T: no unsolicited Data-Out.
    pub initial_r2t: bool,
    /// ImmediateData.
    pub immediate_data: bool,
    /// MaxOutstandingR2T.
    pub max_outstanding_r2t: u16,
    /// DefaultTime2Wait.
    pub time2wait: Duration,
    /// DefaultTime2Retain.
    pub time2retain: Duration,
}

const SEGMENT: RangeInclusive<u64> = 512..=0xff_ffff;
const SHORT: RangeInclusive<u64> = 1..=65535;
const SECONDS: RangeInclusive<u64> = 0..=3600;

/// How a result follows from proposal and answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The smaller number.
    Min,
    /// The larger number.
    Max,
    /// Yes when both say yes.
    And,
    /// Yes when one says yes.
    Or,
    /// Declared by each side for itself.
    Declared,
    /// First common entry of the lists.
    List,
}

/// Keys by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
enum Key {
    HeaderDigest,
    DataDigest,
    MaxConnections,
    InitialR2t,
    ImmediateData,
    MaxRecv,
    MaxBurst,
    FirstBurst,
    Time2Wait,
    Time2Retain,
    MaxOutstandingR2t,
    PduInOrder,
    SequenceInOrder,
    RecoveryLevel,
}

const KEYS: usize = 14;

struct Row {
    key: Key,
    name: &'static str,
    rule: Rule,
    default: u64,
    range: RangeInclusive<u64>,
    /// Without meaning in a discovery session.
    normal_only: bool,
}

const fn row(
    key: Key,
    name: &'static str,
    rule: Rule,
    default: u64,
    range: RangeInclusive<u64>,
    normal_only: bool,
) -> Row {
    Row { key, name, rule, default, range, normal_only }
}

/// Booleans are 0 and 1, digests 0 (None) and 1 (CRC32C).
const TABLE: [Row; KEYS] = [
    row(Key::HeaderDigest, keys::HEADER_DIGEST, Rule::List, 0, 0..=1, false),
    row(Key::DataDigest, keys::DATA_DIGEST, Rule::List, 0, 0..=1, false),
    row(Key::MaxConnections, keys::MAX_CONNECTIONS, Rule::Min, 1, SHORT, true),
    row(Key::InitialR2t, keys::INITIAL_R2T, Rule::Or, 1, 0..=1, true),
    row(Key::ImmediateData, keys::IMMEDIATE_DATA, Rule::And, 1, 0..=1, true),
    row(Key::MaxRecv, keys::MAX_RECV_DATA_SEGMENT_LENGTH, Rule::Declared, 8192, SEGMENT, false),
    row(Key::MaxBurst, keys::MAX_BURST_LENGTH, Rule::Min, 262_144, SEGMENT, true),
    row(Key::FirstBurst, keys::FIRST_BURST_LENGTH, Rule::Min, 65536, SEGMENT, true),
    row(Key::Time2Wait, keys::DEFAULT_TIME2WAIT, Rule::Max, 2, SECONDS, false),
    row(Key::Time2Retain, keys::DEFAULT_TIME2RETAIN, Rule::Min, 20, SECONDS, false),
    row(Key::MaxOutstandingR2t, keys::MAX_OUTSTANDING_R2T, Rule::Min, 1, SHORT, true),
    row(Key::PduInOrder, keys::DATA_PDU_IN_ORDER, Rule::Or, 1, 0..=1, true),
    row(Key::SequenceInOrder, keys::DATA_SEQUENCE_IN_ORDER, Rule::Or, 1, 0..=1, true),
    row(Key::RecoveryLevel, keys::ERROR_RECOVERY_LEVEL, Rule::Min, 0, 0..=2, false),
];

// A key's row is at its own index.
const _: () = {
    let mut i = 0;
    while i < KEYS {
        assert!(TABLE[i].key as usize == i);
        i += 1;
    }
};

/// One negotiation of the operational stage.
#[derive(Debug)]
pub(super) struct Negotiation {
    discovery: bool,
    digests: [Digest; 2],
    /// What we want, by row.
    wanted: [u64; KEYS],
    /// What holds so far, by row: `None` without an answer.
    agreed: [Option<u64>; KEYS],
    /// Keys that the target may not repeat and that have no row.
    seen: Vec<&'static str>,
    max_recv: u32,
}

impl Negotiation {
    pub fn new(config: &Config) -> Negotiation {
        let o: Offers = config.offers;
        let mut wanted = [0; KEYS];
        for (key, value) in [
            (Key::MaxConnections, 1),
            (Key::InitialR2t, o.initial_r2t.into()),
            (Key::ImmediateData, o.immediate_data.into()),
            (Key::MaxRecv, o.max_recv_segment.into()),
            (Key::MaxBurst, o.max_burst.into()),
            (Key::FirstBurst, o.first_burst.min(o.max_burst).into()),
            (Key::Time2Wait, o.time2wait.into()),
            (Key::Time2Retain, o.time2retain.into()),
            (Key::MaxOutstandingR2t, o.max_outstanding_r2t.into()),
            (Key::PduInOrder, 1),
            (Key::SequenceInOrder, 1),
            (Key::RecoveryLevel, 0),
        ] {
            let range = &TABLE[key as usize].range;
            wanted[key as usize] = u64::clamp(value, *range.start(), *range.end());
        }
        Negotiation {
            discovery: config.is_discovery(),
            digests: [config.header_digest, config.data_digest],
            wanted,
            agreed: [None; KEYS],
            seen: Vec::new(),
            max_recv: wanted[Key::MaxRecv as usize] as u32,
        }
    }

    /// Writes all our offers.
    pub fn offer(&self, out: &mut TextWriter) {
        for (i, row) in TABLE.iter().enumerate() {
            if self.discovery && row.normal_only {
                continue;
            }
            match row.rule {
                Rule::List => out.pair(row.name, digest_list(self.digests[i])),
                Rule::And | Rule::Or => out.pair(row.name, yes_no(self.wanted[i] == 1)),
                Rule::Min | Rule::Max | Rule::Declared => out.pair(row.name, self.wanted[i]),
            };
        }
    }

    /// Takes one pair of the target's; what it needs for an answer goes to `out`. Every key with a row
    /// was offered, so what is answered here never changes the agreement: an answer that cannot be sent
    /// any more (the target went on) leaves that key not negotiated.
    pub fn handle(
        &mut self,
        key: &str,
        value: &str,
        out: &mut TextWriter,
    ) -> Result<(), LoginError> {
        if value.len() > text::VALUE_MAX {
            return Err(bad(key, value, "the value is too long"));
        }
        match TABLE.iter().position(|row| row.name == key) {
            Some(row) => self.row(row, value, out),
            None => self.other(key, value, out),
        }
    }

    fn row(&mut self, i: usize, value: &str, out: &mut TextWriter) -> Result<(), LoginError> {
        let row = &TABLE[i];
        if self.agreed[i].is_some() {
            return Err(bad(row.name, value, "negotiated twice"));
        }
        if self.discovery && row.normal_only {
            // Not offered; a proposal has no meaning here (section 13: "Irrelevant when discovery").
            self.agreed[i] = Some(row.default);
            if ![keys::IRRELEVANT, keys::REJECT, keys::NOT_UNDERSTOOD].contains(&value) {
                out.pair(row.name, keys::IRRELEVANT);
            }
            return Ok(());
        }
        self.agreed[i] = Some(match value {
            keys::NOT_UNDERSTOOD => {
                return Err(bad(row.name, value, "every implementation must know this key"));
            }
            keys::REJECT | keys::IRRELEVANT => row.default,
            _ => self.answer(i, value)?,
        });
        Ok(())
    }

    /// The result that an answer stands for; everything with a row was offered.
    fn answer(&self, i: usize, value: &str) -> Result<u64, LoginError> {
        let (row, wanted) = (&TABLE[i], self.wanted[i]);
        let value_of = match row.rule {
            Rule::And | Rule::Or => boolean(value).map(u64::from),
            Rule::List => match value {
                keys::NONE => Some(0),
                keys::CRC32C => Some(1),
                _ => None,
            },
            Rule::Min | Rule::Max | Rule::Declared => number_in(value, row.range.clone()),
        };
        let got = value_of.ok_or_else(|| bad(row.name, value, "not a value of this key"))?;
        let allowed = match row.rule {
            Rule::Min => got <= wanted,
            Rule::Max => got >= wanted,
            Rule::And => wanted == 1 || got == 0,
            Rule::Or => wanted == 0 || got == 1,
            Rule::Declared => true,
            // None where only CRC32C was offered: `finish` says so in better words.
            Rule::List => got == 0 || self.digests[i] != Digest::None,
        };
        if allowed { Ok(got) } else { Err(bad(row.name, value, "outside what was offered")) }
    }

    /// Keys without a row: proposals that we did not make, and declarations.
    fn other(&mut self, key: &str, value: &str, out: &mut TextWriter) -> Result<(), LoginError> {
        let Some(&name) = keys::DEFINED.iter().find(|&&name| name == key) else {
            if !is_reserved(value) {
                out.pair(key, keys::NOT_UNDERSTOOD);
            }
            return Ok(());
        };
        if self.seen.contains(&name) {
            return Err(bad(key, value, "negotiated twice"));
        }
        self.seen.push(name);
        if is_reserved(value) {
            return Err(bad(key, value, "a reserved word as a proposal"));
        }
        match name {
            keys::X_NODE_ARCHITECTURE => {}
            keys::IF_MARKER | keys::OF_MARKER | keys::IF_MARK_INT | keys::OF_MARK_INT => {
                out.pair(name, keys::REJECT);
            }
            keys::TASK_REPORTING => {
                let known = value.split(',').any(|entry| entry == "RFC3720");
                out.pair(name, if known { "RFC3720" } else { keys::REJECT });
            }
            keys::PROTOCOL_LEVEL => {
                let level = number_in(value, 0..=31).ok_or_else(|| bad(key, value, "not 0-31"))?;
                out.pair(name, level.min(1));
            }
            _ => return Err(bad(key, value, "not for the target to send in this stage")),
        }
        Ok(())
    }

    /// The agreement.
    pub fn finish(
        &self,
        tsih: u16,
        portal_group: Option<u16>,
        target_alias: Option<String>,
    ) -> Result<Negotiated, LoginError> {
        let get = |key: Key| self.result(key as usize);
        for (i, name) in ["HeaderDigest", "DataDigest"].into_iter().enumerate() {
            if self.digests[i] == Digest::Crc32c && self.result(i) == 0 {
                let why = if name == "HeaderDigest" {
                    "HeaderDigest=CRC32C is required, the target did not take it"
                } else {
                    "DataDigest=CRC32C is required, the target did not take it"
                };
                return Err(LoginError::Incompatible(why));
            }
        }
        let max_burst = get(Key::MaxBurst) as u32;
        Ok(Negotiated {
            tsih,
            portal_group,
            target_alias,
            header_digest: get(Key::HeaderDigest) == 1,
            data_digest: get(Key::DataDigest) == 1,
            max_send_segment: get(Key::MaxRecv) as u32,
            max_recv_segment: self.max_recv,
            max_burst,
            first_burst: (get(Key::FirstBurst) as u32).min(max_burst),
            initial_r2t: get(Key::InitialR2t) == 1,
            immediate_data: get(Key::ImmediateData) == 1,
            max_outstanding_r2t: get(Key::MaxOutstandingR2t) as u16,
            time2wait: Duration::from_secs(get(Key::Time2Wait)),
            time2retain: Duration::from_secs(get(Key::Time2Retain)),
        })
    }

    /// A key without an answer was not negotiated: its default holds. Where we offered the value that
    /// decides alone (No for AND, Yes for OR), silence agrees to it.
    fn result(&self, i: usize) -> u64 {
        let (row, wanted) = (&TABLE[i], self.wanted[i]);
        self.agreed[i].unwrap_or(match (row.rule, wanted) {
            (Rule::And, 0) => 0,
            (Rule::Or, 1) => 1,
            _ => row.default,
        })
    }
}

fn is_reserved(value: &str) -> bool {
    [keys::NOT_UNDERSTOOD, keys::IRRELEVANT, keys::REJECT].contains(&value)
}

const fn digest_list(digest: Digest) -> &'static str {
    match digest {
        Digest::None => "None",
        Digest::Crc32c => "CRC32C",
        Digest::PreferCrc32c => "CRC32C,None",
    }
}

pub(super) fn bad(key: &str, value: &str, why: &'static str) -> LoginError {
    LoginError::Negotiation { key: shown(key), value: shown(value), why }
}

#[cfg(test)]
#[path = "negotiate_tests.rs"]
mod tests;
