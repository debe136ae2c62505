//! How a header type is written down: a table of field, type, byte and mask, from which a macro makes
//! `parse` and `emit`. Reading a field is a load from the header; nothing is allocated.

use crate::base::Serial;

/// Length of a basic header segment in bytes (RFC 7143 section 11.2.1).
pub const BHS_LEN: usize = 48;

/// A basic header segment.
pub type Bhs = [u8; BHS_LEN];

/// The opcode: the low six bits of byte 0.
#[must_use]
pub fn opcode(bhs: &Bhs) -> u8 {
    bhs[0] & 0x3f
}

/// The I bit of a request.
#[must_use]
pub fn is_immediate(bhs: &Bhs) -> bool {
    bhs[0] & 0x40 != 0
}

/// Length in bytes of all additional header segments: 0 to 1020.
#[must_use]
pub fn ahs_len(bhs: &Bhs) -> usize {
    usize::from(bhs[4]) * 4
}

/// DataSegmentLength in bytes, without padding: below 2^24.
#[must_use]
pub fn data_len(bhs: &Bhs) -> u32 {
    u32::from_be_bytes([0, bhs[5], bhs[6], bhs[7]])
}

/// Initiator task tag, which is at the same place in every PDU.
#[must_use]
pub fn task_tag(bhs: &Bhs) -> u32 {
    u32::get(bhs, 16)
}

pub(super) fn put_data_len(bhs: &mut Bhs, len: u32) {
    assert!(len < 1 << 24, "a data segment of {len} bytes has no 24-bit length");
    bhs[5..8].copy_from_slice(&len.to_be_bytes()[1..]);
}

/// A field of whole bytes.
pub(super) trait Field: Sized {
    fn get(bhs: &Bhs, at: usize) -> Self;
    fn put(self, bhs: &mut Bhs, at: usize);
}

macro_rules! number_field {
    ($($ty:ty),*) => {$(
        impl Field for $ty {
            fn get(bhs: &Bhs, at: usize) -> $ty {
                let mut bytes = [0; size_of::<$ty>()];
                bytes.copy_from_slice(&bhs[at..at + size_of::<$ty>()]);
                <$ty>::from_be_bytes(bytes)
            }
            fn put(self, bhs: &mut Bhs, at: usize) {
                bhs[at..at + size_of::<$ty>()].copy_from_slice(&self.to_be_bytes());
            }
        }
    )*};
}

number_field!(u8, u16, u32, u64);

impl Field for Serial {
    fn get(bhs: &Bhs, at: usize) -> Serial {
        Serial(u32::get(bhs, at))
    }
    fn put(self, bhs: &mut Bhs, at: usize) {
        self.0.put(bhs, at);
    }
}

impl<const N: usize> Field for [u8; N] {
    fn get(bhs: &Bhs, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&bhs[at..at + N]);
        bytes
    }
    fn put(self, bhs: &mut Bhs, at: usize) {
        bhs[at..at + N].copy_from_slice(&self);
    }
}

/// A field of some bits of one byte.
pub(super) trait Bits: Sized {
    fn get_bits(byte: u8, mask: u8) -> Self;
    fn put_bits(self, mask: u8) -> u8;
}

impl Bits for bool {
    fn get_bits(byte: u8, mask: u8) -> bool {
        byte & mask != 0
    }
    fn put_bits(self, mask: u8) -> u8 {
        if self { mask } else { 0 }
    }
}

impl Bits for u8 {
    fn get_bits(byte: u8, mask: u8) -> u8 {
        (byte & mask) >> mask.trailing_zeros()
    }
    fn put_bits(self, mask: u8) -> u8 {
        (self << mask.trailing_zeros()) & mask
    }
}

macro_rules! get_field {
    ($bhs:ident, $ty:ty, $at:literal) => {
        <$ty as $crate::wire::iscsi::pdu::Field>::get($bhs, $at)
    };
    ($bhs:ident, $ty:ty, $at:literal, $mask:literal) => {
        <$ty as $crate::wire::iscsi::pdu::Bits>::get_bits($bhs[$at], $mask)
    };
}

macro_rules! put_field {
    ($bhs:ident, $value:expr, $at:literal) => {
        $crate::wire::iscsi::pdu::Field::put($value, $bhs, $at)
    };
    ($bhs:ident, $value:expr, $at:literal, $mask:literal) => {
        $bhs[$at] = ($bhs[$at] & !$mask) | $crate::wire::iscsi::pdu::Bits::put_bits($value, $mask)
    };
}

/// `Name = opcode, byte 1 { field: type = byte & mask }`.
macro_rules! pdu {
    ($(
        $(#[$doc:meta])*
        $name:ident = $opcode:expr, $byte1:literal {
            $( $(#[$field_doc:meta])* $field:ident : $ty:ty = $at:literal $(& $mask:literal)? ),* $(,)?
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name {
            $( $(#[$field_doc])* pub $field: $ty, )*
            /// DataSegmentLength, bytes without padding: below 2^24.
            pub data_len: u32,
        }

        impl $name {
            /// The opcode of this header.
            pub const OPCODE: u8 = $opcode;

            /// Reads the fields; the caller has looked at the opcode.
            #[must_use]
            pub fn parse(bhs: &$crate::wire::iscsi::Bhs) -> $name {
                $name {
                    $( $field: $crate::wire::iscsi::pdu::get_field!(bhs, $ty, $at $(, $mask)?), )*
                    data_len: $crate::wire::iscsi::data_len(bhs),
                }
            }

            /// Writes all 48 bytes.
            ///
            /// # Panics
            /// When `data_len` does not fit in 24 bits.
            pub fn emit(&self, bhs: &mut $crate::wire::iscsi::Bhs) {
                bhs.fill(0);
                bhs[0] = $opcode;
                bhs[1] = $byte1;
                $( $crate::wire::iscsi::pdu::put_field!(bhs, self.$field, $at $(, $mask)?); )*
                $crate::wire::iscsi::pdu::put_data_len(bhs, self.data_len);
            }

            /// The header as an array.
            #[must_use]
            pub fn to_bhs(&self) -> $crate::wire::iscsi::Bhs {
                let mut bhs = [0; $crate::wire::iscsi::BHS_LEN];
                self.emit(&mut bhs);
                bhs
            }
        }
    )*};
}

pub(super) use {get_field, pdu, put_field};

#[cfg(test)]
#[path = "pdu_tests.rs"]
mod tests;
