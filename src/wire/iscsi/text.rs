//! Text parameters (RFC 7143 section 6.1): `key=value` pairs that each end with one NUL, numbers,
//! booleans, and binary values in hex or base64.

use std::fmt::{Display, Write};
use thiserror::Error;

/// Longest key name, characters.
pub const KEY_MAX: usize = 63;
/// Longest value, bytes, where its key says nothing else.
pub const VALUE_MAX: usize = 255;
/// Longest iSCSI name, bytes (RFC 7143 section 4.2.7.1).
pub const NAME_MAX: usize = 223;
/// Longest binary value, bytes after decoding.
pub const BINARY_MAX: usize = 1024;

/// Text that no conforming peer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TextError {
    /// The last pair does not end with NUL.
    #[error("the last key=value pair does not end with a NUL")]
    Unterminated,
    /// A pair without `=`.
    #[error("a pair without \"=\"")]
    NoEquals,
    /// A key that is empty, longer than 63 characters or not of the allowed characters.
    #[error("a key name that is empty, too long or has characters that are not allowed")]
    BadKey,
    /// A value that is not UTF-8.
    #[error("a value that is not UTF-8")]
    NotUtf8,
    /// A binary value that is not `0x` hex or `0b` base64, or is empty.
    #[error("a binary value that is neither 0x hex nor 0b base64")]
    BadBinary,
    /// A binary value beyond the limit.
    #[error("a binary value that is too long")]
    LongBinary,
}

/// The pairs of a text in order.
#[derive(Debug, Clone)]
pub struct Pairs<'a>(&'a [u8]);

/// Iterates over the pairs of `text`. Empty pairs (NULs that a target counts as padding) are skipped.
#[must_use]
pub fn pairs(text: &[u8]) -> Pairs<'_> {
    Pairs(text)
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<(&'a str, &'a str), TextError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let [0, rest @ ..] = self.0 {
            self.0 = rest;
        }
        if self.0.is_empty() {
            return None;
        }
        let Some(end) = self.0.iter().position(|&b| b == 0) else {
            self.0 = &[];
            return Some(Err(TextError::Unterminated));
        };
        let pair = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Some(split(pair))
    }
}

fn split(pair: &[u8]) -> Result<(&str, &str), TextError> {
    let equals = pair.iter().position(|&b| b == b'=').ok_or(TextError::NoEquals)?;
    let (key, value) = (&pair[..equals], &pair[equals + 1..]);
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b".-+@_#".contains(b);
    if key.is_empty() || key.len() > KEY_MAX || !key.iter().all(allowed) {
        return Err(TextError::BadKey);
    }
    let key = core::str::from_utf8(key).map_err(|_| TextError::BadKey)?;
    let value = core::str::from_utf8(value).map_err(|_| TextError::NotUtf8)?;
    Ok((key, value))
}

/// A text under construction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextWriter(Vec<u8>);

impl TextWriter {
    /// No pairs.
    #[must_use]
    pub fn new() -> TextWriter {
        TextWriter::default()
    }

    /// Appends `key=value` and its NUL.
    pub fn pair(&mut self, key: &str, value: impl Display) -> &mut TextWriter {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = write!(text, "{key}={value}");
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }

    /// Whether there are no pairs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes so far.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A number: decimal without leading zeros, or `0x` hex; unsigned, below 2^64.
#[must_use]
pub fn number(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let digits = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
        return if digits { u64::from_str_radix(hex, 16).ok() } else { None };
    }
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    text.parse().ok()
}

/// A number inside `range`.
#[must_use]
pub fn number_in(text: &str, range: core::ops::RangeInclusive<u64>) -> Option<u64> {
    number(text).filter(|n| range.contains(n))
}

/// `Yes` or `No`.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

/// The word for a boolean.
#[must_use]
pub const fn yes_no(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

/// A binary value of 1 to `max` bytes: `0x` and hex digits (an odd count has the first digit alone in the
/// first byte), or `0b` and base64 with padding.
///
/// # Errors
/// [`TextError::BadBinary`] and [`TextError::LongBinary`].
pub fn binary(text: &str, max: usize) -> Result<Vec<u8>, TextError> {
    let (prefix, digits) = text.as_bytes().split_at_checked(2).ok_or(TextError::BadBinary)?;
    let out = match prefix {
        b"0x" | b"0X" => {
            if digits.len().div_ceil(2) > max {
                return Err(TextError::LongBinary);
            }
            from_hex(digits)
        }
        b"0b" | b"0B" => {
            if digits.len() / 4 * 3 > max + 2 {
                return Err(TextError::LongBinary);
            }
            from_base64(digits)
        }
        _ => None,
    };
    let out = out.filter(|bytes| !bytes.is_empty()).ok_or(TextError::BadBinary)?;
    if out.len() > max { Err(TextError::LongBinary) } else { Ok(out) }
}

/// `0x` and two hex digits per byte.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 + 2 * bytes.len());
    out.push_str("0x");
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            out.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    out
}

/// `0b` and base64.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    let mut out = String::from("0b");
    for group in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for i in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= group.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(digits.len().div_ceil(2));
    let mut half = (digits.len() % 2 == 1).then_some(0);
    for &digit in digits {
        let value = char::from(digit).to_digit(16)? as u8;
        match half.take() {
            Some(high) => out.push(high << 4 | value),
            None => half = Some(value),
        }
    }
    Some(out)
}

/// Strict: padding where the standard wants it, no other characters, no stray bits in the last digit.
fn from_base64(digits: &[u8]) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(4) {
        return None;
    }
    let padding = digits.iter().rev().take_while(|&&b| b == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for &digit in &digits[..digits.len() - padding] {
        bits = bits << 6 | base64_digit(digit)?;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0).then_some(out)
}

fn base64_digit(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(text: &[u8]) -> Result<Vec<(&str, &str)>, TextError> {
        pairs(text).collect()
    }

    /// RFC 7143 6.1: the key ends at the first `=`, each pair with one NUL.
    #[test]
    fn pairs_of_a_text() {
        assert_eq!(
            all(b"HeaderDigest=None\0X-com.a.b=a=b\0TargetAlias=\0"),
            Ok(vec![("HeaderDigest", "None"), ("X-com.a.b", "a=b"), ("TargetAlias", "")])
        );
        assert_eq!(all(b"A=1\0\0\0"), Ok(vec![("A", "1")]));
        assert_eq!(all(b"A=1\0B=2"), Err(TextError::Unterminated));
        assert_eq!(all(b"A\0"), Err(TextError::NoEquals));
        assert_eq!(all(b"=1\0"), Err(TextError::BadKey));
        assert_eq!(all(b"A B=1\0"), Err(TextError::BadKey));
        assert_eq!(all(b"A=\xff\0"), Err(TextError::NotUtf8));
        let long = [b"K".repeat(63), b"=1\0".to_vec()].concat();
        assert_eq!(all(&long).map(|p| p.len()), Ok(1));
        let longer = [b"K".repeat(64), b"=1\0".to_vec()].concat();
        assert_eq!(all(&longer), Err(TextError::BadKey));
    }

    /// RFC 7143 6.1: numerical values.
    #[test]
    fn numbers() {
        assert_eq!(number("0x00010000"), Some(65536));
        assert_eq!(number("0Xff"), Some(255));
        assert_eq!(number("65536"), Some(65536));
        assert_eq!(number("0"), Some(0));
        assert_eq!(number("18446744073709551615"), Some(u64::MAX));
        for bad in
            ["065536", "-1", "+1", "1 ", " 1", "18446744073709551616", "1~5", "", "0x", "0x+1"]
        {
            assert_eq!(number(bad), None, "{bad:?}");
        }
        assert_eq!(number_in("511", 512..=16_777_215), None);
        assert_eq!(boolean("yes"), None);
        assert_eq!(boolean("Yes"), Some(true));
    }

    /// RFC 7143 6.1: binary values, all encodings of one challenge.
    #[test]
    fn binary_values() {
        let bytes: Vec<u8> = (0..16).collect();
        for text in [
            "0x000102030405060708090a0b0c0d0e0f",
            "0X000102030405060708090A0B0C0D0E0F",
            "0bAAECAwQFBgcICQoLDA0ODw==",
            "0BAAECAwQFBgcICQoLDA0ODw==",
        ] {
            assert_eq!(binary(text, 1024).as_ref(), Ok(&bytes));
        }
        assert_eq!(hex(&bytes), "0x000102030405060708090a0b0c0d0e0f");
        assert_eq!(base64(&bytes), "0bAAECAwQFBgcICQoLDA0ODw==");
        assert_eq!(binary("0x102", 9), Ok(vec![1, 2]));
        for bad in [
            "", "0x", "0b", "12", "0xg0", "0bA", "0bAA=", "0bAAA", "0bA===", "0bAB==", "0bA=AA",
            "0b====",
        ] {
            assert_eq!(binary(bad, 1024), Err(TextError::BadBinary), "{bad:?}");
        }
        let ok = format!("0x{}", "00".repeat(1024));
        assert_eq!(binary(&ok, 1024).map(|b| b.len()), Ok(1024));
        assert_eq!(binary(&format!("{ok}00"), 1024), Err(TextError::LongBinary));
        let ok = base64(&[7; 1024]);
        assert_eq!(binary(&ok, 1024).map(|b| b.len()), Ok(1024));
        assert_eq!(binary(&base64(&[7; 1025]), 1024), Err(TextError::LongBinary));
    }

    proptest! {
        #[test]
        fn binary_round_trip(bytes in prop::collection::vec(any::<u8>(), 1..200)) {
            prop_assert_eq!(binary(&hex(&bytes), 200), Ok(bytes.clone()));
            prop_assert_eq!(binary(&base64(&bytes), 200), Ok(bytes.clone()));
        }

        #[test]
        fn no_input_panics(text: Vec<u8>, value: String) {
            let _ = pairs(&text).count();
            let _ = (number(&value), binary(&value, 16), boolean(&value));
        }

        #[test]
        fn written_pairs_come_back(value in "[ -~]{0,40}") {
            let mut text = TextWriter::new();
            text.pair("A", &value).pair("B", 7);
            prop_assert_eq!(all(text.as_bytes()), Ok(vec![("A", value.as_str()), ("B", "7")]));
        }
    }
}
