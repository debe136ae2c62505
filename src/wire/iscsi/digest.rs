//! CRC-32C, the digest of iSCSI headers and data (RFC 7143 section 13.1): the one place that knows who computes it.
//!
//! `crc-fast` folds by carry-less multiplication beside the processor's own CRC instruction, 4 KiB in less than
//! half the time of that instruction alone (`cargo bench --bench codecs`), and falls back to it, or to tables, on
//! processors without. The tests compare with another implementation.

use crc_fast::{CrcAlgorithm, Digest};

/// The CRC-32C of `data`.
#[inline]
#[must_use]
pub fn crc32c(data: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(data)
}

/// The CRC-32C of what `crc` is that of, followed by `data`; 0 is that of nothing.
#[inline]
#[must_use]
pub fn crc32c_append(crc: u32, data: &[u8]) -> u32 {
    if data.is_empty() {
        return crc;
    }
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(data);
    u32::try_from(digest.finalize()).expect("a CRC of 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length up to some vectors of the widest registers, and every place to cut a short one.
    #[test]
    fn as_another_implementation_computes_it() {
        let bytes: Vec<u8> =
            (0..9000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for len in (0..1200).chain([4095, 4096, 4097, 8192, 8999, 9000]) {
            assert_eq!(crc32c(&bytes[..len]), ::crc32c::crc32c(&bytes[..len]), "{len} bytes");
        }
        for len in [1, 4, 48, 300, 4096] {
            let whole = ::crc32c::crc32c(&bytes[..len]);
            for cut in 0..=len {
                let (first, rest) = bytes[..len].split_at(cut);
                assert_eq!(crc32c_append(crc32c(first), rest), whole, "{len} bytes cut at {cut}");
            }
        }
    }

    /// RFC 7143 appendix A.4: zeros, ones, numbers that rise.
    #[test]
    fn as_the_examples_of_the_rfc() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&std::array::from_fn::<u8, 32, _>(|i| i as u8)), 0x46dd_794e);
    }
}
