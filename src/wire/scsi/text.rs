//! Strings that a target sent, made safe to print: a vendor name may hold escape sequences.

use core::fmt::Write;

/// `bytes` as printable ASCII: trailing spaces and NULs dropped, everything else outside `0x20..=0x7e`
/// written as `\xNN` and the backslash as `\\`, so that different names stay different.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|b| !matches!(b, b' ' | 0)).map_or(0, |last| last + 1);
    let mut out = String::with_capacity(end);
    for &byte in &bytes[..end] {
        match byte {
            b'\\' => out.push_str("\\\\"),
            0x20..=0x7e => out.push(char::from(byte)),
            other => {
                write!(out, "\\x{other:02x}").expect("writing to a String cannot fail");
            }
        }
    }
    out
}

/// Lower-case hex without separators.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(out, "{byte:02x}").expect("writing to a String cannot fail");
    }
    out
}

/// Writes `text` into a fixed ASCII field, cut or padded with spaces (SPC-4: left-aligned ASCII data).
pub fn put_padded(out: &mut [u8], text: &[u8]) {
    let n = text.len().min(out.len());
    out[..n].copy_from_slice(&text[..n]);
    out[n..].fill(b' ');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_reaches_a_terminal() {
        assert_eq!(printable(b"STAR\x1b[31m\nWIND  \0 "), "STAR\\x1b[31m\\x0aWIND");
        assert_eq!(printable(b"a\\x1b"), "a\\\\x1b");
        assert_eq!(printable(b"   "), "");
        assert_eq!(printable(b" a\xff\x7f"), " a\\xff\\x7f");
        assert_eq!(hex(&[0x60, 0x01, 0xad]), "6001ad");
    }

    #[test]
    fn fields_are_cut_or_padded() {
        let mut out = [0xa5; 4];
        put_padded(&mut out, b"ab");
        assert_eq!(&out, b"ab  ");
        put_padded(&mut out, b"abcdef");
        assert_eq!(&out, b"abcd");
    }

    proptest! {
        #[test]
        fn always_printable(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(printable(&bytes).bytes().all(|b| (0x20..=0x7e).contains(&b)));
        }
    }
}
