//! Big-endian fields inside byte strings of any length: a field that is not wholly there reads as zero.

/// The byte at `at`, or zero.
#[must_use]
pub fn u8_at(data: &[u8], at: usize) -> u8 {
    data.get(at).copied().unwrap_or(0)
}

/// Whether bit `bit` (7 is the highest) of the byte at `at` is set.
#[must_use]
pub fn bit(data: &[u8], at: usize, bit: u32) -> bool {
    u8_at(data, at) >> bit & 1 == 1
}

fn array<const N: usize>(data: &[u8], at: usize) -> [u8; N] {
    data.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}

/// Two bytes at `at`, or zero.
#[must_use]
pub fn be16(data: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(data, at))
}

/// Four bytes at `at`, or zero.
#[must_use]
pub fn be32(data: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(data, at))
}

/// Eight bytes at `at`, or zero.
#[must_use]
pub fn be64(data: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(data, at))
}

/// Writes two bytes.
pub fn put16(out: &mut [u8], at: usize, value: u16) {
    out[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Writes four bytes.
pub fn put32(out: &mut [u8], at: usize, value: u32) {
    out[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Writes eight bytes.
pub fn put64(out: &mut [u8], at: usize, value: u64) {
    out[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// A bit as a byte: `flag` at position `bit`.
#[must_use]
pub const fn flag(flag: bool, bit: u32) -> u8 {
    (flag as u8) << bit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_cut_reads_as_zero() {
        let data = [0x12, 0x34, 0x56];
        assert_eq!((be16(&data, 0), be16(&data, 1), be16(&data, 2)), (0x1234, 0x3456, 0));
        assert_eq!((be32(&data, 0), be64(&data, usize::MAX), u8_at(&data, 3)), (0, 0, 0));
        assert!(bit(&data, 1, 5) && !bit(&data, 1, 0) && !bit(&data, 9, 0));
    }
}
