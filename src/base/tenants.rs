//! Who lives in the used-up receive buffers, and how they are moved out of those that hardly anybody lives in.
//!
//! A payload is a reference into the receive buffer that it came in, and one of 4 KiB that stays keeps 512 KiB.
//! As long as there is room that costs nothing. When there is none, whoever owns payloads shows all of them
//! twice: [`Tenants::count`] finds out how full each buffer is, [`Tenants::choose`] takes the emptiest ones, and
//! [`Tenants::move_out`] replaces each piece that lies in one of these by a copy of its own. A piece that is
//! shown in two places (a request's data and the command that sends it) is copied once and shared again.
//!
//! Pieces that lie elsewhere stay where they are: those that have been moved before, and those in a buffer that
//! is still being filled.

use bytes::Bytes;
use std::collections::BTreeMap;

/// One used-up buffer.
#[derive(Debug)]
struct Buffer {
    /// Address of its first byte.
    start: usize,
    /// Bytes of it that were counted; those counted twice make it look fuller, never emptier.
    live: usize,
    leave: bool,
}

/// The pieces of the used-up buffers, all of the same size.
#[derive(Debug)]
pub struct Tenants {
    /// By address.
    buffers: Vec<Buffer>,
    size: usize,
    /// Counted bytes that lie in none of them.
    elsewhere: usize,
    /// The new place of each piece that was moved, by its old address.
    moved: BTreeMap<usize, Bytes>,
}

impl Tenants {
    /// Nobody was seen yet in buffers of `size` bytes at these addresses.
    #[must_use]
    pub fn new(starts: impl Iterator<Item = usize>, size: usize) -> Tenants {
        let mut buffers: Vec<_> =
            starts.map(|start| Buffer { start, live: 0, leave: false }).collect();
        buffers.sort_unstable_by_key(|buffer| buffer.start);
        Tenants { buffers, size, elsewhere: 0, moved: BTreeMap::new() }
    }

    fn home(&mut self, piece: &Bytes) -> Option<&mut Buffer> {
        let at = piece.as_ptr() as usize;
        let behind = self.buffers.partition_point(|buffer| buffer.start <= at);
        let buffer = self.buffers.get_mut(behind.checked_sub(1)?)?;
        (at + piece.len() <= buffer.start + self.size).then_some(buffer)
    }

    /// Sees a piece.
    pub fn count(&mut self, piece: &Bytes) {
        let len = piece.len();
        match self.home(piece) {
            Some(buffer) => buffer.live += len,
            None => self.elsewhere += len,
        }
    }

    /// Counted bytes that lie in none of the buffers.
    #[must_use]
    pub fn elsewhere(&self) -> usize {
        self.elsewhere
    }

    /// Chooses the buffers that are to be emptied, those with the fewest bytes first, until `excess` bytes are won
    /// beyond what the copies take. Whether there are any.
    pub fn choose(&mut self, excess: usize) -> bool {
        let mut order: Vec<usize> = (0..self.buffers.len()).collect();
        order.sort_unstable_by_key(|index| self.buffers[*index].live);
        let mut won = 0;
        for index in order {
            let buffer = &mut self.buffers[index];
            // What is nearly full costs more than it gives.
            if won >= excess || buffer.live > self.size - self.size / 4 {
                break;
            }
            buffer.leave = true;
            won += self.size - buffer.live;
        }
        won > 0
    }

    /// Moves a piece out of a buffer that is to be emptied.
    pub fn move_out(&mut self, piece: &mut Bytes) {
        if !self.home(piece).is_some_and(|buffer| buffer.leave) {
            return;
        }
        let (at, len) = (piece.as_ptr() as usize, piece.len());
        // Its buffer is still there, for it waits: the address means the same bytes.
        if let Some((start, copy)) = self.moved.range(..=at).next_back()
            && at + len <= start + copy.len()
        {
            *piece = copy.slice(at - start..at - start + len);
            return;
        }
        let copy = Bytes::copy_from_slice(piece);
        *piece = copy.clone();
        self.moved.insert(at, copy);
    }

    /// Bytes that were copied.
    #[must_use]
    pub fn copied(&self) -> usize {
        self.moved.values().map(Bytes::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 4096;

    fn buffer(byte: u8) -> Bytes {
        (0..SIZE).map(|at| byte ^ at as u8).collect::<Vec<u8>>().into()
    }

    fn tenants(buffers: &[Bytes]) -> Tenants {
        Tenants::new(buffers.iter().map(|buffer| buffer.as_ptr() as usize), SIZE)
    }

    #[test]
    fn the_emptiest_buffers_are_left_first() {
        let mut buffers = vec![buffer(1), buffer(2), buffer(3), buffer(4)];
        let mut pieces: Vec<Bytes> = [(0, 3000), (1, 10), (2, 500), (3, 4000)]
            .map(|(index, len): (usize, usize)| buffers[index].slice(7..7 + len))
            .into();
        let own = Bytes::from(vec![9; 33]);
        let mut t = tenants(&buffers);
        pieces.iter().chain([&own]).for_each(|piece| t.count(piece));
        assert_eq!(t.elsewhere(), 33);
        assert!(t.choose(SIZE));
        let before = pieces.clone();
        pieces.iter_mut().for_each(|piece| t.move_out(piece));
        assert_eq!(t.copied(), 510, "the emptiest one would not have been enough");
        assert!(pieces == before, "the bytes are the same");
        drop((before, t));
        buffers.reverse();
        let free: Vec<bool> = buffers.drain(..).map(|buffer| buffer.is_unique()).collect();
        assert_eq!(free, [false, true, true, false]);
    }

    #[test]
    fn what_is_nearly_full_is_left_alone() {
        let buffers = [buffer(1)];
        let piece = buffers[0].slice(..SIZE - 100);
        let mut t = tenants(&buffers);
        t.count(&piece);
        assert!(!t.choose(1));
    }

    #[test]
    fn who_shares_a_piece_shares_its_copy() {
        let buffers = [buffer(5)];
        let whole = buffers[0].slice(100..1100);
        let mut holders = [whole.clone(), whole.slice(10..20), whole.slice(990..), whole];
        let before = holders.clone();
        let mut t = tenants(&buffers);
        t.count(&holders[0]);
        assert!(t.choose(1));
        holders.iter_mut().for_each(|piece| t.move_out(piece));
        assert_eq!(t.copied(), 1000);
        assert_eq!(holders, before);
        let start = holders[0].as_ptr() as usize;
        assert_eq!(holders[1].as_ptr() as usize, start + 10);
        drop((before, t));
        assert!(buffers[0].is_unique(), "nobody lives there any more");
    }
}
