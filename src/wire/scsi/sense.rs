//! Sense data in fixed and descriptor format (SPC-4, Sense data).
//!
//! What counts is the triple key/ASC/ASCQ, whether it is about an earlier command (deferred), and the
//! INFORMATION field. FILEMARK, EOM and ILI mean nothing for disks and are ignored.

use crate::wire::scsi::additional;
use crate::wire::scsi::field::{be16, be32, be64, put32, put64, u8_at};
use core::fmt;

/// Bytes of fixed-format sense data as emitted.
pub const FIXED_LEN: usize = 18;

/// Sense key (SPC-4, Sense key and additional sense code definitions). Four bits, so every value has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SenseKey {
    /// 0h.
    NoSense = 0x0,
    /// 1h: done, with effort.
    RecoveredError = 0x1,
    /// 2h.
    NotReady = 0x2,
    /// 3h.
    MediumError = 0x3,
    /// 4h.
    HardwareError = 0x4,
    /// 5h.
    IllegalRequest = 0x5,
    /// 6h: something happened; the command was not executed.
    UnitAttention = 0x6,
    /// 7h.
    DataProtect = 0x7,
    /// 8h.
    BlankCheck = 0x8,
    /// 9h.
    VendorSpecific = 0x9,
    /// Ah.
    CopyAborted = 0xa,
    /// Bh.
    AbortedCommand = 0xb,
    /// Ch: reserved (once EQUAL).
    Reserved = 0xc,
    /// Dh.
    VolumeOverflow = 0xd,
    /// Eh.
    Miscompare = 0xe,
    /// Fh.
    Completed = 0xf,
}

impl SenseKey {
    /// Every key in order of its code.
    pub const ALL: [SenseKey; 16] = [
        SenseKey::NoSense,
        SenseKey::RecoveredError,
        SenseKey::NotReady,
        SenseKey::MediumError,
        SenseKey::HardwareError,
        SenseKey::IllegalRequest,
        SenseKey::UnitAttention,
        SenseKey::DataProtect,
        SenseKey::BlankCheck,
        SenseKey::VendorSpecific,
        SenseKey::CopyAborted,
        SenseKey::AbortedCommand,
        SenseKey::Reserved,
        SenseKey::VolumeOverflow,
        SenseKey::Miscompare,
        SenseKey::Completed,
    ];

    /// From the low four bits.
    #[must_use]
    pub const fn from_bits(bits: u8) -> SenseKey {
        SenseKey::ALL[(bits & 0xf) as usize]
    }

    /// The key's name in the standard.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            SenseKey::NoSense => "NO SENSE",
            SenseKey::RecoveredError => "RECOVERED ERROR",
            SenseKey::NotReady => "NOT READY",
            SenseKey::MediumError => "MEDIUM ERROR",
            SenseKey::HardwareError => "HARDWARE ERROR",
            SenseKey::IllegalRequest => "ILLEGAL REQUEST",
            SenseKey::UnitAttention => "UNIT ATTENTION",
            SenseKey::DataProtect => "DATA PROTECT",
            SenseKey::BlankCheck => "BLANK CHECK",
            SenseKey::VendorSpecific => "VENDOR SPECIFIC",
            SenseKey::CopyAborted => "COPY ABORTED",
            SenseKey::AbortedCommand => "ABORTED COMMAND",
            SenseKey::Reserved => "RESERVED",
            SenseKey::VolumeOverflow => "VOLUME OVERFLOW",
            SenseKey::Miscompare => "MISCOMPARE",
            SenseKey::Completed => "COMPLETED",
        }
    }
}

/// Parsed sense data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sense {
    /// 71h/73h: about an earlier command; the command that carried it was not executed.
    pub deferred: bool,
    /// Sense key.
    pub key: SenseKey,
    /// Additional sense code.
    pub asc: u8,
    /// Additional sense code qualifier.
    pub ascq: u8,
    /// INFORMATION, when valid: for disks a logical block address.
    pub information: Option<u64>,
    /// Sense-key specific bytes, when valid (SKSV): field pointer or progress.
    pub specific: Option<[u8; 3]>,
}

/// Sense data that is not sense data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SenseError {
    /// Nothing, or less than a sense key.
    #[error("sense data of {0} bytes holds no sense key")]
    Short(usize),
    /// Response code other than 70h to 73h.
    #[error("sense data with response code {0:#04x}")]
    ResponseCode(u8),
}

impl Sense {
    /// Current sense data without extras.
    #[must_use]
    pub const fn new(key: SenseKey, asc: u8, ascq: u8) -> Sense {
        Sense { deferred: false, key, asc, ascq, information: None, specific: None }
    }

    /// ILLEGAL REQUEST, INVALID FIELD IN CDB, with a pointer to the byte.
    #[must_use]
    pub const fn invalid_field_in_cdb(byte: u16) -> Sense {
        let [high, low] = byte.to_be_bytes();
        let mut sense = Sense::new(SenseKey::IllegalRequest, 0x24, 0x00);
        sense.specific = Some([0xc0, high, low]);
        sense
    }

    /// Reads sense data (without the iSCSI SenseLength field) as far as it came.
    ///
    /// # Errors
    /// Nothing there, or a response code that is not sense data.
    pub fn parse(data: &[u8]) -> Result<Sense, SenseError> {
        let code = data.first().ok_or(SenseError::Short(0))? & 0x7f;
        match code {
            0x70 | 0x71 => Sense::parse_fixed(data, code == 0x71),
            0x72 | 0x73 => Sense::parse_descriptors(data, code == 0x73),
            _ => Err(SenseError::ResponseCode(code)),
        }
    }

    fn parse_fixed(data: &[u8], deferred: bool) -> Result<Sense, SenseError> {
        let key = *data.get(2).ok_or(SenseError::Short(data.len()))?;
        // Bytes past ADDITIONAL SENSE LENGTH are not sense data.
        let end =
            if data.len() > 7 { data.len().min(8 + usize::from(data[7])) } else { data.len() };
        let data = &data[..end];
        let codes = if data.len() >= 14 { (data[12], data[13]) } else { (0, 0) };
        let valid = data[0] & 0x80 != 0 && data.len() >= 7;
        let specific = data.get(15..18).filter(|s| s[0] & 0x80 != 0);
        Ok(Sense {
            deferred,
            key: SenseKey::from_bits(key),
            asc: codes.0,
            ascq: codes.1,
            information: valid.then(|| be32(data, 3).into()),
            specific: specific.map(|s| [s[0], s[1], s[2]]),
        })
    }

    fn parse_descriptors(data: &[u8], deferred: bool) -> Result<Sense, SenseError> {
        let key = *data.get(1).ok_or(SenseError::Short(data.len()))?;
        let mut sense = Sense::new(SenseKey::from_bits(key), u8_at(data, 2), u8_at(data, 3));
        sense.deferred = deferred;
        let end = data.len().min(8 + usize::from(u8_at(data, 7)));
        let mut rest = data.get(8..end).unwrap_or(&[]);
        while rest.len() >= 2 {
            let Some(body) = rest.get(2..2 + usize::from(rest[1])) else { break };
            match rest[0] {
                // Information: VALID, reserved, 8 bytes.
                0x00 if body.len() >= 10 && body[0] & 0x80 != 0 => {
                    sense.information = Some(be64(body, 2));
                }
                // Sense key specific: 2 reserved bytes, 3 bytes.
                0x02 if body.len() >= 5 && body[2] & 0x80 != 0 => {
                    sense.specific = Some([body[2], body[3], body[4]]);
                }
                _ => {}
            }
            rest = &rest[2 + body.len()..];
        }
        Ok(sense)
    }

    /// Key, ASC and ASCQ: what verdicts are about.
    #[must_use]
    pub const fn triple(&self) -> (SenseKey, u8, u8) {
        (self.key, self.asc, self.ascq)
    }

    /// The CDB or parameter byte that a field pointer names, if there is one.
    #[must_use]
    pub fn field_pointer(&self) -> Option<u16> {
        let specific = self.specific.filter(|_| self.key == SenseKey::IllegalRequest)?;
        Some(be16(&specific, 1))
    }

    /// Fixed format, 18 bytes. INFORMATION that needs more than 32 bits is left out (not valid).
    #[must_use]
    pub fn to_fixed(&self) -> [u8; FIXED_LEN] {
        let mut out = [0; FIXED_LEN];
        out[0] = 0x70 | u8::from(self.deferred);
        out[2] = self.key as u8;
        out[7] = 10;
        out[12] = self.asc;
        out[13] = self.ascq;
        if let Some(information) = self.information.and_then(|i| u32::try_from(i).ok()) {
            out[0] |= 0x80;
            put32(&mut out, 3, information);
        }
        if let Some(specific) = self.specific {
            out[15..18].copy_from_slice(&specific);
            out[15] |= 0x80;
        }
        out
    }

    /// Descriptor format.
    #[must_use]
    pub fn to_descriptors(&self) -> Vec<u8> {
        let code = 0x72 | u8::from(self.deferred);
        let mut out = vec![code, self.key as u8, self.asc, self.ascq, 0, 0, 0, 0];
        if let Some(information) = self.information {
            let mut entry = [0; 12];
            entry[1] = 10;
            entry[2] = 0x80;
            put64(&mut entry, 4, information);
            out.extend_from_slice(&entry);
        }
        if let Some([first, second, third]) = self.specific {
            out.extend_from_slice(&[0x02, 6, 0, 0, first | 0x80, second, third, 0]);
        }
        out[7] = u8::try_from(out.len() - 8).expect("two descriptors are 20 bytes");
        out
    }
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.deferred {
            f.write_str("deferred ")?;
        }
        write!(
            f,
            "{} ({:02x}/{:02x}/{:02x}",
            self.key.name(),
            self.key as u8,
            self.asc,
            self.ascq
        )?;
        if let Some(name) = additional::name(self.asc, self.ascq) {
            write!(f, ", {name}")?;
        }
        if let Some(information) = self.information {
            write!(f, ", at {information:#x}")?;
        }
        f.write_str(")")
    }
}
