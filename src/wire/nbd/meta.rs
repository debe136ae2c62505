//! Metadata contexts (sections *Metadata querying* and *`base:` metadata namespace*): the options
//! LIST_META_CONTEXT and SET_META_CONTEXT, and their replies.

use super::haggle::put_counted;
use super::{Malformed, Reader, text};
use crate::limits::NBD_STRING_MAX;

/// The one context that we know.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// Body of LIST_META_CONTEXT and SET_META_CONTEXT: an export name and queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetaRequest<'a> {
    /// Export name; empty for the default export.
    pub name: &'a str,
    count: u32,
    queries: &'a [u8],
}

impl<'a> MetaRequest<'a> {
    /// Reads the body and checks every length in it, so that [`queries`](Self::queries) cannot fail.
    ///
    /// # Errors
    /// When lengths contradict each other, a query is longer than 4096 bytes, or the name is no valid string.
    pub fn parse(body: &'a [u8]) -> Result<MetaRequest<'a>, Malformed> {
        let wrong = Malformed::Length("metadata context option");
        let mut reader = Reader::new(body);
        let name = text("export name", reader.counted().ok_or(wrong)?)?;
        let count = reader.u32().ok_or(wrong)?;
        let queries = reader.rest();
        let mut walk = Reader::new(queries);
        // Each round consumes at least four bytes or ends, so a lying count costs nothing.
        for _ in 0..count {
            if walk.counted().ok_or(wrong)?.len() > NBD_STRING_MAX {
                return Err(wrong);
            }
        }
        if !walk.rest().is_empty() {
            return Err(wrong);
        }
        Ok(MetaRequest { name, count, queries })
    }

    /// How many queries there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The queries, in order, as they came.
    pub fn queries(&self) -> impl Iterator<Item = &'a [u8]> + 'a {
        let mut walk = Reader::new(self.queries);
        core::iter::from_fn(move || walk.counted())
    }

    /// Whether LIST answers with `base:allocation`: no query at all asks for everything, `base:` for the
    /// whole namespace.
    #[must_use]
    pub fn lists_base_allocation(&self) -> bool {
        let matches = |query: &[u8]| query == BASE_ALLOCATION.as_bytes() || query == b"base:";
        self.count == 0 || self.queries().any(matches)
    }

    /// Whether SET selects `base:allocation`: only its full name does.
    #[must_use]
    pub fn selects_base_allocation(&self) -> bool {
        self.queries().any(|query| query == BASE_ALLOCATION.as_bytes())
    }

    /// Appends a body.
    ///
    /// # Panics
    /// When a string is longer than 4096 bytes.
    pub fn emit(name: &str, queries: &[&str], out: &mut Vec<u8>) {
        put_counted(name, out);
        out.extend_from_slice(&(queries.len() as u32).to_be_bytes());
        for query in queries {
            put_counted(query, out);
        }
    }
}

/// Body of a NBD_REP_META_CONTEXT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetaContext<'a> {
    /// Number that BLOCK_STATUS chunks carry; 0 in answers to LIST.
    pub id: u32,
    /// Name of the context.
    pub name: &'a str,
}

impl<'a> MetaContext<'a> {
    /// Reads the body.
    ///
    /// # Errors
    /// When it is too short or the name is no valid string.
    pub fn parse(body: &'a [u8]) -> Result<MetaContext<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let id = reader.u32().ok_or(Malformed::Length("metadata context"))?;
        Ok(MetaContext { id, name: text("metadata context", reader.rest())? })
    }

    /// Appends the body.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(self.name.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(name: &str, queries: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        MetaRequest::emit(name, queries, &mut out);
        out
    }

    /// Section *Option types*, NBD_OPT_LIST_META_CONTEXT.
    #[test]
    fn request_bytes() {
        let bytes = body("vm0", &["base:", "x-foo:*"]);
        let expect =
            b"\x00\x00\x00\x03vm0\x00\x00\x00\x02\x00\x00\x00\x05base:\x00\x00\x00\x07x-foo:*";
        assert_eq!(bytes, expect);
        let request = MetaRequest::parse(&bytes).expect("well-formed");
        assert_eq!((request.name, request.count()), ("vm0", 2));
        assert_eq!(request.queries().collect::<Vec<_>>(), [&b"base:"[..], b"x-foo:*"]);
    }

    /// Section *`base:` metadata namespace*.
    #[test]
    fn what_matches() {
        let cases: [(&[&str], bool, bool); 7] = [
            (&[], true, false),
            (&["base:"], true, false),
            (&["base:allocation"], true, true),
            (&["base:allocation", "base:allocation"], true, true),
            (&["x-foo:*"], false, false),
            (&["base:alloc", "base", "base:allocation "], false, false),
            (&["qemu:dirty-bitmap:a", "base:allocation"], true, true),
        ];
        for (queries, lists, selects) in cases {
            let bytes = body("", queries);
            let request = MetaRequest::parse(&bytes).expect("well-formed");
            assert_eq!(request.lists_base_allocation(), lists, "{queries:?}");
            assert_eq!(request.selects_base_allocation(), selects, "{queries:?}");
        }
    }

    /// Section *Option types*, NBD_OPT_LIST_META_CONTEXT: every malformed variant.
    #[test]
    fn malformed_requests() {
        let long =
            [&b"\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x10\x01"[..], &[b'q'; 4097]].concat();
        let cases: [&[u8]; 9] = [
            b"",
            b"\x00\x00\x00\x00",
            b"\xff\xff\xff\xff\x00\x00\x00\x00",
            b"\x00\x00\x00\x00\xff\xff\xff\xff",
            b"\x00\x00\x00\x00\x00\x00\x00\x01",
            b"\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x02a",
            b"\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01ab",
            b"\x00\x00\x00\x01\x00\x00\x00\x00\x00",
            &long,
        ];
        for case in cases {
            assert!(MetaRequest::parse(case).is_err(), "{case:?}");
        }
    }

    #[test]
    fn context_bytes() {
        let context = MetaContext { id: 1, name: BASE_ALLOCATION };
        let mut out = Vec::new();
        context.emit(&mut out);
        assert_eq!(out, b"\x00\x00\x00\x01base:allocation");
        assert_eq!(MetaContext::parse(&out), Ok(context));
        assert!(MetaContext::parse(b"\x00\x00\x00").is_err());
    }

    proptest! {
        #[test]
        fn any_body_parses_or_errs(body in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(request) = MetaRequest::parse(&body) {
                prop_assert_eq!(request.queries().count(), request.count() as usize);
            }
            let _ = MetaContext::parse(&body);
        }
    }
}
