//! What is written, so that every block is unlike any other (storage that folds equal or compressible
//! blocks would look faster than it is), so that it costs nothing to make, and so that it can be checked.
//!
//! A block of generation g is sixteen bytes that name it, and then a stretch of one shared noise: where in
//! the noise it begins is a function of block and generation. Making one is two numbers; a block that is old,
//! torn, or somebody else's does not compare equal.

/// Bytes at the start of each block: its number and its generation, both big-endian.
pub const STAMP: usize = 16;
/// How many bytes of noise there are beyond a block's length: blocks begin anywhere in it.
const SPREAD: usize = 64 * 1024;

/// The shared noise, for blocks of one size.
#[derive(Debug)]
pub struct Content {
    noise: Vec<u8>,
    size: usize,
}

impl Content {
    /// Noise for blocks of `size` bytes; the seed makes two runs differ.
    ///
    /// # Panics
    /// When a block is too small for its stamp.
    #[must_use]
    pub fn new(size: usize, seed: u64) -> Content {
        assert!(size > STAMP, "a block of {size} bytes has no room for its stamp");
        let mut random = Random::new(seed);
        let mut noise = Vec::with_capacity(SPREAD + size);
        while noise.len() < SPREAD + size - STAMP {
            noise.extend_from_slice(&random.next().to_le_bytes());
        }
        Content { noise, size }
    }

    /// The first bytes of a block.
    #[must_use]
    pub fn stamp(block: u64, generation: u64) -> [u8; STAMP] {
        let mut out = [0; STAMP];
        out[..8].copy_from_slice(&block.to_be_bytes());
        out[8..].copy_from_slice(&generation.to_be_bytes());
        out
    }

    /// The rest of a block.
    #[must_use]
    pub fn rest(&self, block: u64, generation: u64) -> &[u8] {
        let mixed = mix(block.wrapping_add(generation.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let from = mixed as usize % (SPREAD / 8) * 8;
        &self.noise[from..from + self.size - STAMP]
    }

    /// Whether `piece` is what stands `at` bytes into the block.
    #[must_use]
    pub fn matches(&self, block: u64, generation: u64, at: usize, piece: &[u8]) -> bool {
        let head = piece.len().min(STAMP.saturating_sub(at));
        let stamp = Content::stamp(block, generation);
        if head > 0 && piece[..head] != stamp[at..at + head] {
            return false;
        }
        let from = (at + head).saturating_sub(STAMP);
        let rest = &self.rest(block, generation)[from..];
        rest.get(..piece.len() - head) == Some(&piece[head..])
    }
}

fn mix(mut x: u64) -> u64 {
    // The finalizer of splitmix64: every bit of the input reaches every bit of the output.
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// xorshift64*: a few cycles a number, good enough to choose blocks.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From any seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(mix(seed) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(content: &Content, number: u64, generation: u64) -> Vec<u8> {
        [&Content::stamp(number, generation)[..], content.rest(number, generation)].concat()
    }

    #[test]
    fn a_block_matches_itself_in_pieces_and_nothing_else() {
        let content = Content::new(4096, 7);
        let mut bytes = block(&content, 9, 3);
        assert_eq!(bytes.len(), 4096);
        for piece in [1, 7, 16, 17, 512, 4096] {
            for (i, part) in bytes.chunks(piece).enumerate() {
                assert!(content.matches(9, 3, i * piece, part), "{i} of {piece}");
            }
        }
        assert!(!content.matches(9, 4, 0, &bytes) && !content.matches(8, 3, 0, &bytes));
        // A sector of the write before: torn.
        let old = block(&content, 9, 2);
        let torn = [&bytes[..1024], &old[1024..1536], &bytes[1536..]].concat();
        assert!(!content.matches(9, 3, 0, &torn));
        bytes[4095] ^= 1;
        assert!(!content.matches(9, 3, 0, &bytes));
        assert!(!content.matches(9, 3, 0, &[bytes, vec![0]].concat()), "too long");
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_it() {
        let mut random = Random::new(0);
        let mut seen = [0; 10];
        (0..10_000).for_each(|_| seen[random.below(10) as usize] += 1);
        assert!(seen.iter().all(|&n| n > 800), "{seen:?}");
    }
}
