//! Rules as text, for the command line: `FAULT[=VALUE][,on=…][,rate=…][,skip=…][,times=…][,lba=…]`.
//!
//! One table of words, used by the parser and by the help text.

use super::{AsyncMessage, Commands, Fault, Rule, SenseCode};
use crate::base::Duration;
use core::str::FromStr;

/// The faults that can be written, with what they take: shown by `--help`.
pub const HELP: &str = "\
refuse, half-open, login=CLASS/DETAIL, redirect=HOST:PORT, redirect-permanent=HOST:PORT,
delay=TIME[..TIME], hold, mute, status=CODE, sense=KEY/ASC/ASCQ, attention=ASC/ASCQ, short=BYTES,
reset, reset-after, close, silence, async=EVENT/P1/P2/P3, tmf-mute, tmf=CODE, reorder,
header-digest, data-digest, drop=BYTES, window=N, freeze
each with on=all|medium|reads|writes|flushes|OPCODE, rate=0..1, skip=N, times=N, lba=FIRST+COUNT
(sense, attention and codes in hex, TIME as 5ms, 2s)";

/// Why a rule could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// No such fault.
    #[error("`{0}` is no fault; expected one of: {HELP}")]
    Unknown(String),
    /// The value does not fit.
    #[error("`{0}`: {1}")]
    Value(String, &'static str),
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Rule, RuleError> {
        let mut parts = text.split(',');
        let mut rule = Rule::new(fault(parts.next().unwrap_or_default())?);
        for part in parts {
            condition(&mut rule, part)?;
        }
        Ok(rule)
    }
}

fn fault(text: &str) -> Result<Fault, RuleError> {
    let (word, value) = text.split_once('=').unwrap_or((text, ""));
    let bad = |expected| RuleError::Value(text.to_owned(), expected);
    Ok(match word {
        "refuse" => Fault::Refuse,
        "half-open" => Fault::HalfOpen,
        "login" => match hex_list(value).as_deref() {
            Some(&[class, detail]) => Fault::LoginStatus { class, detail },
            _ => return Err(bad("expected login=CLASS/DETAIL in hex, as in login=03/01")),
        },
        "redirect" | "redirect-permanent" if value.is_empty() => {
            return Err(bad("expected an address, as in redirect=127.0.0.2:3260"));
        }
        "redirect" => Fault::Redirect { address: value.to_owned(), permanent: false },
        "redirect-permanent" => Fault::Redirect { address: value.to_owned(), permanent: true },
        "delay" => {
            let (least, most) = value.split_once("..").unwrap_or((value, value));
            let (Some(least), Some(most)) = (time(least), time(most)) else {
                return Err(bad("expected a time, as in delay=5ms or delay=1ms..20ms"));
            };
            Fault::Delay(least, most)
        }
        "hold" => Fault::Hold,
        "mute" => Fault::Mute,
        "status" => match hex_list(value).as_deref() {
            Some(&[status]) => Fault::Status(status),
            _ => return Err(bad("expected a SCSI status in hex, as in status=08")),
        },
        "sense" => match hex_list(value).as_deref() {
            Some(&[key, asc, ascq]) if key < 16 => Fault::Sense(SenseCode { key, asc, ascq }),
            _ => return Err(bad("expected sense=KEY/ASC/ASCQ in hex, as in sense=3/11/00")),
        },
        "attention" => match hex_list(value).as_deref() {
            Some(&[asc, ascq]) => Fault::UnitAttention { asc, ascq },
            _ => return Err(bad("expected attention=ASC/ASCQ in hex, as in attention=29/00")),
        },
        "short" => {
            Fault::ShortRead(value.parse().map_err(|_| bad("expected bytes, as in short=512"))?)
        }
        "reset" => Fault::Reset,
        "reset-after" => Fault::ResetAfter,
        "close" => Fault::Close,
        "silence" => Fault::Silence,
        "async" => Fault::Async(async_message(value).ok_or_else(|| {
            bad("expected async=EVENT/PARAMETER1/PARAMETER2/PARAMETER3, as in async=1/0/0/5")
        })?),
        "tmf-mute" => Fault::TaskManagementMute,
        "tmf" => match hex_list(value).as_deref() {
            Some(&[code]) => Fault::TaskManagementAnswer(code),
            _ => return Err(bad("expected a response code in hex, as in tmf=05")),
        },
        "reorder" => Fault::Reorder,
        "header-digest" => Fault::HeaderDigest,
        "data-digest" => Fault::DataDigest,
        "drop" => match value.parse() {
            Ok(n @ 1..=48) => Fault::DropBytes(n),
            _ => return Err(bad("expected 1 to 48 bytes, as in drop=4")),
        },
        "window" => Fault::Window(value.parse().map_err(|_| bad("expected commands"))?),
        "no-r2t" => Fault::NoReady,
        "freeze" => Fault::Freeze,
        _ => return Err(RuleError::Unknown(word.to_owned())),
    })
}

fn condition(rule: &mut Rule, text: &str) -> Result<(), RuleError> {
    let (word, value) = text.split_once('=').unwrap_or((text, ""));
    let bad = |expected| RuleError::Value(text.to_owned(), expected);
    let count = || value.parse().map_err(|_| bad("expected a number"));
    match word {
        "on" => rule.when.commands = commands(value).ok_or_else(|| bad("expected commands"))?,
        "rate" => match value.parse() {
            Ok(rate) if (0.0..=1.0).contains(&rate) => rule.when.rate = rate,
            _ => return Err(bad("expected 0 to 1")),
        },
        "skip" => rule.when.skip = count()?,
        "times" => rule.when.limit = count()?,
        "lba" => {
            let (first, blocks) = value.split_once('+').unwrap_or((value, "1"));
            let (Ok(first), Ok(blocks)) = (first.parse(), blocks.parse()) else {
                return Err(bad("expected FIRST+COUNT, as in lba=8+8"));
            };
            rule.when.blocks = Some((first, blocks));
        }
        _ => return Err(bad("expected on=, rate=, skip=, times= or lba=")),
    }
    Ok(())
}

fn commands(word: &str) -> Option<Commands> {
    Some(match word {
        "all" => Commands::All,
        "medium" => Commands::Medium,
        "reads" | "read" => Commands::Reads,
        "writes" | "write" => Commands::Writes,
        "flushes" | "flush" => Commands::Flushes,
        opcode => Commands::Opcode(hex(opcode)?),
    })
}

fn async_message(text: &str) -> Option<AsyncMessage> {
    let numbers: Option<Vec<u16>> = text.split('/').map(|n| n.parse().ok()).collect();
    let &[event, parameter1, parameter2, parameter3] = numbers?.as_slice() else { return None };
    let event = u8::try_from(event).ok()?;
    Some(AsyncMessage { event, parameter1, parameter2, parameter3, ..AsyncMessage::default() })
}

fn hex(text: &str) -> Option<u8> {
    u8::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

fn hex_list(text: &str) -> Option<Vec<u8>> {
    text.split('/').map(hex).collect()
}

fn time(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number: u64 = number.parse().ok()?;
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read() {
        let rule: Rule =
            "delay=1ms..20ms,on=write,rate=0.5,skip=3,times=9,lba=8+16".parse().unwrap();
        let delay = Fault::Delay(Duration::from_millis(1), Duration::from_millis(20));
        let expect = Rule::new(delay).on(Commands::Writes).rate(0.5).skip(3).times(9).blocks(8, 16);
        assert_eq!(rule, expect);
        let sense: Rule = "sense=b/44/00,on=0x8a".parse().unwrap();
        let code = SenseCode { key: 0xb, asc: 0x44, ascq: 0 };
        assert_eq!(sense, Rule::new(Fault::Sense(code)).on(Commands::Opcode(0x8a)));
        let redirect: Rule = "redirect=[::1]:3260".parse().unwrap();
        let address = "[::1]:3260".to_owned();
        assert_eq!(redirect, Rule::new(Fault::Redirect { address, permanent: false }));
    }

    #[test]
    fn bad_rules_say_what_is_expected() {
        for text in ["", "explode", "delay=5", "sense=3", "drop=49", "hold,rate=2", "hold,often"] {
            let error = text.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains("expected"), "{text}: {error}");
        }
    }

    #[test]
    fn every_word_of_the_help_is_a_fault() {
        for line in HELP.lines().take(4) {
            for word in line.split(',').map(str::trim).filter(|word| !word.is_empty()) {
                let word = word.split(['=', '[']).next().unwrap();
                let error = format!("{word}=?").parse::<Rule>();
                assert!(!matches!(error, Err(RuleError::Unknown(_))), "{word}");
            }
        }
    }
}
