//! Sequential streams: a command that begins where another ended belongs to the same stream, and may stay
//! on its path, so that the read-ahead of the storage behind that path is of use.

use super::super::{PathIndex, PathSet};

/// Streams remembered; the one that began longest ago makes room.
const STREAMS: usize = 8;

#[derive(Debug, Clone, Copy)]
struct Stream {
    /// Where the next command would begin, bytes.
    next: u64,
    path: PathIndex,
    /// Bytes on this path without a break.
    run: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Streams {
    /// Bytes that a stream stays on a path; 0 for never.
    sticky: u64,
    streams: [Option<Stream>; STREAMS],
    oldest: usize,
}

impl Streams {
    pub(super) fn new(sticky: u64) -> Streams {
        Streams { sticky, streams: [None; STREAMS], oldest: 0 }
    }

    pub(super) fn set_sticky(&mut self, bytes: u64) {
        *self = Streams::new(bytes);
    }

    /// The path that the stream of a command stays on.
    pub(super) fn path(
        &self,
        at: Option<u64>,
        bytes: u32,
        candidates: PathSet,
    ) -> Option<PathIndex> {
        if self.sticky == 0 {
            return None;
        }
        let stream = self.streams.iter().flatten().find(|stream| Some(stream.next) == at)?;
        let stays = stream.run + u64::from(bytes) <= self.sticky;
        (stays && candidates.contains(stream.path)).then_some(stream.path)
    }

    /// A command went to `path`.
    pub(super) fn went(&mut self, at: Option<u64>, bytes: u32, path: PathIndex) {
        let Some(at) = at.filter(|_| self.sticky > 0) else { return };
        let bytes = u64::from(bytes);
        let next = at.saturating_add(bytes);
        let known = self.streams.iter_mut().flatten().find(|stream| stream.next == at);
        if let Some(stream) = known {
            let run = if stream.path == path { stream.run + bytes } else { bytes };
            // A path that the least-loaded choice named again begins a new run.
            let run = if run > self.sticky { bytes } else { run };
            *stream = Stream { next, path, run };
            return;
        }
        self.streams[self.oldest] = Some(Stream { next, path, run: bytes });
        self.oldest = (self.oldest + 1) % STREAMS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PathIndex = PathIndex::new(0);
    const B: PathIndex = PathIndex::new(1);

    fn both() -> PathSet {
        PathSet::only(A).with(B)
    }

    #[test]
    fn a_stream_stays_for_its_bytes_and_then_may_move() {
        let mut s = Streams::new(1000);
        assert_eq!(s.path(Some(0), 400, both()), None, "nobody knows it yet");
        s.went(Some(0), 400, B);
        assert_eq!(s.path(Some(400), 400, both()), Some(B));
        assert_eq!(s.path(Some(400), 601, both()), None, "beyond its bytes");
        assert_eq!(s.path(Some(401), 400, both()), None, "elsewhere");
        assert_eq!(s.path(Some(400), 400, PathSet::only(A)), None, "its path is not there");
        s.went(Some(400), 400, B);
        assert_eq!(s.path(Some(800), 400, both()), None);
        s.went(Some(800), 400, B);
        assert_eq!(s.path(Some(1200), 400, both()), Some(B), "a new run on the same path");
        s.went(Some(1200), 100, A);
        assert_eq!(s.path(Some(1300), 900, both()), Some(A));
    }

    #[test]
    fn streams_side_by_side_and_those_without_a_place() {
        let mut s = Streams::new(1 << 20);
        for n in 0..STREAMS as u64 {
            s.went(Some(n << 30), 512, if n % 2 == 0 { A } else { B });
        }
        assert_eq!(s.path(Some(512), 512, both()), Some(A));
        assert_eq!(s.path(Some((1 << 30) + 512), 512, both()), Some(B));
        s.went(Some(100 << 30), 512, B);
        assert_eq!(s.path(Some(512), 512, both()), None, "the oldest made room");
        s.went(None, 512, A);
        assert_eq!(s.path(None, 512, both()), None);
        s.set_sticky(0);
        s.went(Some(0), 512, A);
        assert_eq!(s.path(Some(512), 512, both()), None, "switched off");
    }
}
