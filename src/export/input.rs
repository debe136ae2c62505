//! Bytes received and not yet understood: chunks as they came, in order.
//!
//! A header is parsed in place where one chunk holds it whole; only a header that is split across chunks is
//! gathered in a small stash. Payload leaves as slices of the chunks. A chunk that is used up is let go of at
//! once, so that its receive buffer can be used again.

use bytes::{Buf, Bytes};
use std::collections::VecDeque;

/// The longest header of either side: a request.
const STASH: usize = 28;

#[derive(Default)]
pub(super) struct Input {
    current: Bytes,
    later: VecDeque<Bytes>,
    stash: [u8; STASH],
    stashed: usize,
}

impl Input {
    /// Appends a chunk.
    pub(super) fn push(&mut self, chunk: Bytes) {
        if self.current.is_empty() {
            self.current = chunk;
        } else if !chunk.is_empty() {
            self.later.push_back(chunk);
        }
    }

    /// Whether every byte was taken or stands in the stash.
    pub(super) fn is_empty(&self) -> bool {
        self.current.is_empty()
    }

    /// Shows every chunk to `f`, which may put the same bytes elsewhere.
    pub(super) fn for_each_chunk(&mut self, f: impl FnMut(&mut Bytes)) {
        let chunks = [&mut self.current].into_iter().chain(&mut self.later);
        chunks.filter(|chunk| !chunk.is_empty()).for_each(f);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Input::default();
    }

    /// Parses the next `N` bytes and consumes them; `None` if there are fewer so far, which are kept.
    pub(super) fn header<const N: usize, T>(
        &mut self,
        parse: impl FnOnce(&[u8; N]) -> T,
    ) -> Option<T> {
        const { assert!(N <= STASH) };
        if self.stashed == 0
            && let Some(bytes) = self.current.first_chunk::<N>()
        {
            let parsed = parse(bytes);
            self.consume(N);
            return Some(parsed);
        }
        while self.stashed < N {
            if self.current.is_empty() {
                return None;
            }
            let n = self.current.len().min(N - self.stashed);
            self.stash[self.stashed..self.stashed + n].copy_from_slice(&self.current[..n]);
            self.stashed += n;
            self.consume(n);
        }
        self.stashed = 0;
        let bytes = self.stash.first_chunk::<N>().expect("N is at most the length of the stash");
        Some(parse(bytes))
    }

    /// Takes up to `max` bytes, as many as the next chunk holds; `None` if there are none.
    pub(super) fn take(&mut self, max: usize) -> Option<Bytes> {
        assert_eq!(self.stashed, 0, "a header is complete before its payload is taken");
        if self.current.is_empty() || max == 0 {
            return None;
        }
        let piece = self.current.split_to(self.current.len().min(max));
        self.settle();
        Some(piece)
    }

    /// Throws away up to `max` bytes and says how many.
    pub(super) fn skip(&mut self, max: u32) -> u32 {
        let mut left = max;
        while left > 0 && !self.current.is_empty() {
            let n = self.current.len().min(left as usize);
            self.consume(n);
            left -= n as u32;
        }
        max - left
    }

    fn consume(&mut self, n: usize) {
        self.current.advance(n);
        self.settle();
    }

    fn settle(&mut self) {
        if self.current.is_empty() {
            self.current = self.later.pop_front().unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_segmentation_gives_the_same_headers_and_payloads(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            cuts in prop::collection::vec(1usize..40, 1..20),
            push_all_first: bool,
        ) {
            let whole = Bytes::from(bytes.clone());
            let (mut input, mut got, mut at) = (Input::default(), Vec::new(), 0);
            let mut want_header = true;
            let mut payload_left = 0;
            for cut in cuts.iter().cycle() {
                let end = (at + cut).min(whole.len());
                input.push(whole.slice(at..end));
                at = end;
                if push_all_first && at < whole.len() {
                    continue;
                }
                loop {
                    if want_header {
                        let Some(header) = input.header(|bytes: &[u8; 5]| *bytes) else { break };
                        got.extend_from_slice(&header);
                        (want_header, payload_left) = (false, 7);
                    } else if payload_left > 0 {
                        let Some(piece) = input.take(payload_left) else { break };
                        payload_left -= piece.len();
                        got.extend_from_slice(&piece);
                    } else {
                        want_header = true;
                    }
                }
                if at == whole.len() {
                    break;
                }
            }
            prop_assert!(input.is_empty());
            prop_assert_eq!(got.len() + input.stashed, bytes.len());
            prop_assert_eq!(&got[..], &bytes[..got.len()]);
        }
    }

    #[test]
    fn skipping_crosses_chunks() {
        let mut input = Input::default();
        input.push(Bytes::from_static(b"abc"));
        input.push(Bytes::from_static(b"de"));
        assert_eq!(input.skip(4), 4);
        assert_eq!(input.skip(4), 1);
        assert!(input.is_empty());
    }

    #[test]
    fn a_used_chunk_is_let_go() {
        let mut input = Input::default();
        let chunk = Bytes::from(vec![0; 28]);
        input.push(chunk.clone());
        assert!(input.header(|_: &[u8; 28]| ()).is_some());
        assert!(chunk.is_unique());
    }
}
