//! Serial number arithmetic, 32 bits (RFC 1982), as RFC 7143 section 4.2.2 asks for CmdSN, StatSN,
//! DataSN and R2TSN. A distance of exactly 2^31 is undefined there; here neither number is less.

use core::fmt;

/// A 32-bit serial number. There is no `Ord`: serial order is not transitive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Serial(pub u32);

impl Serial {
    /// `self < other` in serial order (RFC 1982 section 3.2).
    #[must_use]
    pub const fn lt(self, other: Serial) -> bool {
        let distance = other.0.wrapping_sub(self.0);
        distance != 0 && distance < 1 << 31
    }

    /// `self <= other` in serial order.
    #[must_use]
    pub const fn le(self, other: Serial) -> bool {
        self.0 == other.0 || self.lt(other)
    }

    /// The number that follows by `n`.
    #[must_use]
    pub const fn plus(self, n: u32) -> Serial {
        Serial(self.0.wrapping_add(n))
    }

    /// The number before by `n`.
    #[must_use]
    pub const fn minus(self, n: u32) -> Serial {
        Serial(self.0.wrapping_sub(n))
    }

    /// Steps from `earlier` to `self`, modulo 2^32.
    #[must_use]
    pub const fn distance_from(self, earlier: Serial) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1982 section 3.2, and the edges that it leaves undefined.
    #[test]
    fn truth_table() {
        assert!(Serial(0xffff_ffff).lt(Serial(0)));
        assert!(!Serial(0).lt(Serial(0xffff_ffff)));
        assert!(!Serial(0x7fff_ffff).lt(Serial(0xffff_ffff)));
        assert!(!Serial(0xffff_ffff).lt(Serial(0x7fff_ffff)));
        assert!(!Serial(0).lt(Serial(0x8000_0000)));
        assert!(!Serial(0x8000_0000).lt(Serial(0)));
        assert!(!Serial(7).lt(Serial(7)));
        assert!(Serial(7).le(Serial(7)));
    }

    proptest! {
        #[test]
        fn never_both_ways(a: u32, b: u32) {
            prop_assert!(!(Serial(a).lt(Serial(b)) && Serial(b).lt(Serial(a))));
        }

        #[test]
        fn a_step_forward_is_greater(a: u32, n in 1u32..0x7fff_ffff) {
            prop_assert!(Serial(a).lt(Serial(a).plus(n)));
            prop_assert_eq!(Serial(a).plus(n).minus(n), Serial(a));
            prop_assert_eq!(Serial(a).plus(n).distance_from(Serial(a)), n);
        }
    }
}
