//! The bytes of one connection, both ways, without I/O: requests are encoded side by side into one buffer,
//! replies are read in place where they lie. After the start it allocates nothing.
//!
//! A request that was encoded is sent by whoever owns the socket: [`Stream::gather`] lists what is to be sent
//! as slices, [`Stream::sent`] says how much the socket took. Only simple replies are understood, because only
//! they are asked for.

use super::choice::{Choice, Request};
use super::content::{Content, STAMP};
use super::latency::Kind;
use super::tally::Tally;
use crate::wire::nbd::reply::SimpleReply;
use crate::wire::nbd::request::RequestHeader;
use crate::wire::nbd::{Command, Malformed, NbdError};
use std::io::IoSlice;

/// Slices in one send: that many writes and a half; reads need one slice for all.
pub const SLICES: usize = 256;

/// A request in flight.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// When it was meant to start, nanoseconds.
    started: u64,
    request: Request,
    busy: bool,
    /// No byte of its data was wrong so far.
    right: bool,
}

/// An encoded request that was not sent as a whole.
#[derive(Debug, Clone, Copy)]
struct Queued {
    /// Where its header, with the stamp of a write, ends in `heads`.
    end: usize,
    /// What follows the header.
    body: Option<(u64, u64)>,
}

/// Why a server cannot be talked to any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Not NBD.
    #[error("the server broke the protocol: {0}")]
    Malformed(#[from] Malformed),
    /// A reply that belongs to nothing.
    #[error("the server broke the protocol: it answered request {0}, which is not in flight")]
    Stray(u64),
}

/// One connection.
#[derive(Debug)]
pub struct Stream {
    size: u32,
    slots: Vec<Slot>,
    free: Vec<u32>,
    heads: Vec<u8>,
    queue: Vec<Queued>,
    /// The first request of `queue` that was not sent as a whole, and how many bytes of it were.
    first: usize,
    skip: usize,
    head: [u8; SimpleReply::LEN],
    have: usize,
    /// The slot whose data is coming, and how many bytes are still to come.
    data: Option<(u32, u32)>,
    /// What it asks for.
    pub choice: Choice,
}

impl Stream {
    /// A connection with at most `depth` requests of `size` bytes in flight.
    #[must_use]
    pub fn new(size: u32, depth: usize, choice: Choice) -> Stream {
        let request = Request { kind: Kind::Read, block: 0, generation: 0 };
        let slot = Slot { started: 0, request, busy: false, right: true };
        Stream {
            size,
            slots: vec![slot; depth],
            free: (0..depth as u32).rev().collect(),
            heads: Vec::with_capacity(2 * depth * (RequestHeader::LEN + STAMP)),
            queue: Vec::with_capacity(2 * depth),
            first: 0,
            skip: 0,
            head: [0; SimpleReply::LEN],
            have: 0,
            data: None,
            choice,
        }
    }

    /// Requests without an answer.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether one more may be submitted.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Encodes the next request, meant to start at `started`; false when there is no room or no request.
    pub fn submit(&mut self, started: u64) -> bool {
        let Some(&index) = self.free.last() else { return false };
        let Some(request) = self.choice.next() else { return false };
        self.free.pop();
        self.slots[index as usize] = Slot { started, request, busy: true, right: true };
        self.encode(u64::from(index), &request);
        true
    }

    fn encode(&mut self, cookie: u64, request: &Request) {
        let command = match request.kind {
            Kind::Read => Command::READ,
            Kind::Write => Command::WRITE,
        };
        let offset = request.block * u64::from(self.size);
        let header = RequestHeader { flags: 0, command, cookie, offset, len: self.size };
        let mut bytes = [0; RequestHeader::LEN];
        header.emit(&mut bytes);
        self.heads.extend_from_slice(&bytes);
        let mut body = None;
        if request.kind == Kind::Write {
            self.heads.extend_from_slice(&Content::stamp(request.block, request.generation));
            body = Some((request.block, request.generation));
        }
        self.queue.push(Queued { end: self.heads.len(), body });
    }

    /// Whether something is to be sent.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.first < self.queue.len()
    }

    /// Lists what is to be sent, in order; gives the number of slices.
    pub fn gather<'a>(&'a self, content: &'a Content, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let mut count = 0;
        let mut start = match self.first {
            0 => 0,
            first => self.queue[first - 1].end,
        };
        let mut skip = self.skip;
        for (index, queued) in self.queue.iter().enumerate().skip(self.first) {
            let last = index + 1 == self.queue.len();
            if queued.body.is_none() && !last {
                continue;
            }
            // Two slices at most follow.
            if count + 2 > SLICES {
                return count;
            }
            let head = skip.min(queued.end - start);
            if start + head < queued.end {
                slices[count] = IoSlice::new(&self.heads[start + head..queued.end]);
                count += 1;
            }
            if let Some((block, generation)) = queued.body {
                slices[count] = IoSlice::new(&content.rest(block, generation)[skip - head..]);
                count += 1;
            }
            (start, skip) = (queued.end, 0);
        }
        count
    }

    /// The socket took `bytes` of what was listed.
    pub fn sent(&mut self, bytes: usize) {
        let mut left = bytes + self.skip;
        let mut start = if self.first == 0 { 0 } else { self.queue[self.first - 1].end };
        while let Some(queued) = self.queue.get(self.first) {
            let body = if queued.body.is_some() { self.size as usize - STAMP } else { 0 };
            let whole = queued.end - start + body;
            if left < whole {
                break;
            }
            left -= whole;
            start = queued.end;
            self.first += 1;
        }
        self.skip = left;
        if self.first == self.queue.len() {
            assert!(left == 0, "{left} bytes more were sent than there were");
            self.heads.clear();
            self.queue.clear();
            self.first = 0;
        } else if self.first >= self.slots.len() {
            self.heads.drain(..start);
            self.queue.drain(..self.first);
            self.queue.iter_mut().for_each(|queued| queued.end -= start);
            self.first = 0;
        }
    }

    /// Reads what came at `now`.
    ///
    /// # Errors
    /// When it is not what an NBD server sends.
    pub fn received(
        &mut self,
        mut bytes: &[u8],
        now: u64,
        content: &Content,
        tally: &mut Tally,
    ) -> Result<(), Broken> {
        while !bytes.is_empty() {
            if let Some((index, left)) = self.data {
                let n = bytes.len().min(left as usize);
                let (piece, rest) = bytes.split_at(n);
                self.take_data(index, left, piece, content);
                bytes = rest;
                let left = left - n as u32;
                self.data = (left > 0).then_some((index, left));
                if left == 0 {
                    self.finish(index, now, None, tally);
                }
                continue;
            }
            let reply = match bytes.split_first_chunk::<{ SimpleReply::LEN }>() {
                Some((head, rest)) if self.have == 0 => {
                    bytes = rest;
                    SimpleReply::parse(head)?
                }
                _ => {
                    let n = bytes.len().min(SimpleReply::LEN - self.have);
                    self.head[self.have..self.have + n].copy_from_slice(&bytes[..n]);
                    (self.have, bytes) = (self.have + n, &bytes[n..]);
                    if self.have < SimpleReply::LEN {
                        return Ok(());
                    }
                    self.have = 0;
                    SimpleReply::parse(&self.head)?
                }
            };
            self.take_reply(&reply, now, tally)?;
        }
        Ok(())
    }

    fn take_reply(
        &mut self,
        reply: &SimpleReply,
        now: u64,
        tally: &mut Tally,
    ) -> Result<(), Broken> {
        let index = usize::try_from(reply.cookie).unwrap_or(usize::MAX);
        let Some(slot) = self.slots.get(index).filter(|slot| slot.busy) else {
            return Err(Broken::Stray(reply.cookie));
        };
        let index = index as u32;
        if reply.error == 0 && slot.request.kind == Kind::Read {
            self.data = Some((index, self.size));
        } else {
            let error = (reply.error != 0).then(|| NbdError::from_code(reply.error));
            self.finish(index, now, error, tally);
        }
        Ok(())
    }

    fn take_data(&mut self, index: u32, left: u32, piece: &[u8], content: &Content) {
        let slot = &mut self.slots[index as usize];
        if self.choice.verifies() && slot.request.generation > 0 {
            let at = (self.size - left) as usize;
            let Request { block, generation, .. } = slot.request;
            slot.right &= content.matches(block, generation, at, piece);
        }
    }

    fn finish(&mut self, index: u32, now: u64, error: Option<NbdError>, tally: &mut Tally) {
        let slot = &mut self.slots[index as usize];
        slot.busy = false;
        let Slot { started, request, right, .. } = *slot;
        self.free.push(index);
        self.choice.done(&request);
        tally.answered(request.kind, started, now, error);
        let known = self.choice.verifies() && request.generation > 0;
        if known && request.kind == Kind::Read && error.is_none() {
            tally.compared(request.block, right);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::choice::Part;
    use super::*;

    const SIZE: u32 = 512;

    fn stream(read_percent: u32, depth: usize) -> (Stream, Content, Tally) {
        let part = Part { first: 0, blocks: 64 };
        let choice = Choice::new(part, false, read_percent, 5).verifying();
        let tally = Tally::new(0, 1_000_000_000);
        (Stream::new(SIZE, depth, choice), Content::new(SIZE as usize, 1), tally)
    }

    /// Takes at most `step` bytes at a time from what is listed.
    fn send(stream: &mut Stream, content: &Content, step: usize) -> Vec<u8> {
        let mut wire = Vec::new();
        while stream.has_output() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = stream.gather(content, &mut slices);
            let all: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            let n = step.min(all.len());
            assert!(n > 0, "something is to be sent, and nothing is listed");
            wire.extend_from_slice(&all[..n]);
            stream.sent(n);
        }
        wire
    }

    /// A server with its disk: the replies to what came.
    fn serve(wire: &[u8], disk: &mut [u8]) -> Vec<u8> {
        let (mut out, mut at) = (Vec::new(), 0);
        while at < wire.len() {
            let header = RequestHeader::parse(wire[at..at + 28].try_into().unwrap()).unwrap();
            at += 28;
            let range = header.offset as usize..header.offset as usize + header.len as usize;
            let mut reply = [0; 16];
            SimpleReply { error: 0, cookie: header.cookie }.emit(&mut reply);
            out.extend_from_slice(&reply);
            if header.command == Command::WRITE {
                disk[range].copy_from_slice(&wire[at..at + header.len as usize]);
                at += header.len as usize;
            } else {
                out.extend_from_slice(&disk[range]);
            }
        }
        out
    }

    #[test]
    fn whatever_the_pieces_what_is_written_comes_back() {
        for step in [1, 13, 44, 45, 600, usize::MAX] {
            let (mut stream, content, mut tally) = stream(50, 8);
            let mut disk = vec![0; 64 * SIZE as usize];
            for round in 0..40 {
                while stream.submit(round) {}
                let replies = serve(&send(&mut stream, &content, step), &mut disk);
                for piece in replies.chunks(step.min(replies.len())) {
                    stream.received(piece, round + 1, &content, &mut tally).unwrap();
                }
                assert_eq!(stream.in_flight(), 0);
            }
            assert_eq!((tally.total, tally.errors, tally.wrong), (320, 0, 0), "step {step}");
            assert!(tally.compared > 50 && tally.reads > 100 && tally.writes > 100);
            // One bit of a block that was written.
            let wrote = (0..64).find(|b| disk[b * 512..][..512].iter().any(|&x| x != 0)).unwrap();
            disk[wrote * 512 + 300] ^= 4;
            stream.choice.read_back();
            while stream.submit(50) {
                let replies = serve(&send(&mut stream, &content, step), &mut disk);
                stream.received(&replies, 51, &content, &mut tally).unwrap();
            }
            assert_eq!((tally.wrong, tally.first_wrong), (1, Some(wrote as u64)));
        }
    }

    #[test]
    fn more_writes_than_fit_into_one_send() {
        let (mut stream, content, mut tally) = stream(0, 64);
        let mut disk = vec![0; 64 * SIZE as usize];
        // A socket that takes little: requests come and go while the queue is never empty.
        let mut wire = Vec::new();
        for round in 0..300 {
            while stream.submit(round) {}
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = stream.gather(&content, &mut slices);
            let all: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            let n = all.len().min(1400);
            wire.extend_from_slice(&all[..n]);
            stream.sent(n);
            let whole = wire.len() / 540 * 540;
            let replies = serve(&wire[..whole], &mut disk);
            wire.drain(..whole);
            stream.received(&replies, round, &content, &mut tally).unwrap();
        }
        assert!(tally.writes > 600 && stream.queue.capacity() <= 128, "{}", tally.writes);
    }

    #[test]
    fn errors_and_nonsense() {
        let (mut stream, content, mut tally) = stream(100, 2);
        while stream.submit(0) {}
        let reply = |error, cookie| {
            let mut bytes = [0; 16];
            SimpleReply { error, cookie }.emit(&mut bytes);
            bytes
        };
        stream.received(&reply(5, 1), 1, &content, &mut tally).unwrap();
        assert_eq!(
            (tally.errors, tally.first_error, stream.in_flight()),
            (1, Some(NbdError::Io), 1)
        );
        let stray = |stream: &mut Stream, tally: &mut Tally, bytes: &[u8]| {
            stream.received(bytes, 1, &content, tally).unwrap_err()
        };
        assert_eq!(stray(&mut stream, &mut tally, &reply(0, 1)), Broken::Stray(1));
        assert_eq!(stray(&mut stream, &mut tally, &reply(0, u64::MAX)), Broken::Stray(u64::MAX));
        assert!(matches!(stray(&mut stream, &mut tally, &[0; 16]), Broken::Malformed(_)));
    }
}
