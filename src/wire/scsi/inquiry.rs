//! Standard INQUIRY data (SPC-4, Standard INQUIRY data).

use crate::wire::scsi::field::{be16, bit, flag, put16, u8_at};
use crate::wire::scsi::text::{printable, put_padded};
use crate::wire::scsi::{Emit, ParseError, at_least};
use core::fmt;

/// First allocation length to ask with: what every device answers (SPC-4: at least 36 bytes).
pub const FIRST_ALLOCATION: u16 = 36;

/// Peripheral qualifier and device type, byte 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceType(pub u8);

impl DeviceType {
    /// A connected direct-access block device.
    pub const DISK: DeviceType = DeviceType(0x00);
    /// Qualifier 011b: no device at this LUN.
    pub const NO_DEVICE: DeviceType = DeviceType(0x7f);

    /// Peripheral qualifier, 3 bits: 0 connected, 1 supported but not there now, 3 not possible here.
    #[must_use]
    pub const fn qualifier(self) -> u8 {
        self.0 >> 5
    }

    /// Peripheral device type, 5 bits.
    #[must_use]
    pub const fn kind(self) -> u8 {
        self.0 & 0x1f
    }

    /// Whether this is a disk that can be used now.
    #[must_use]
    pub const fn is_disk(self) -> bool {
        self.0 == Self::DISK.0
    }
}

impl fmt::Display for DeviceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.qualifier() {
            0 => {}
            1 => f.write_str("not connected: ")?,
            3 => return f.write_str("no device at this LUN"),
            other => write!(f, "qualifier {other}: ")?,
        }
        match self.kind() {
            0x00 => f.write_str("disk"),
            0x01 => f.write_str("tape"),
            0x05 => f.write_str("CD/DVD"),
            0x08 => f.write_str("medium changer"),
            0x0c => f.write_str("storage array controller"),
            0x0d => f.write_str("enclosure"),
            0x14 => f.write_str("host-managed zoned disk"),
            0x1e => f.write_str("well-known logical unit"),
            0x1f => f.write_str("no device type"),
            other => write!(f, "device type {other:#04x}"),
        }
    }
}

/// Standard INQUIRY data. Strings are kept as the bytes that came, unpadded when read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inquiry {
    /// Byte 0.
    pub device: DeviceType,
    /// VERSION, byte 2: 6 is SPC-4.
    pub version: u8,
    /// TPGS: 0 no asymmetric access, 1 implicit, 2 explicit, 3 both.
    pub tpgs: u8,
    /// PROTECT: protection information is supported.
    pub protect: bool,
    /// CMDQUE: more than one command at a time.
    pub command_queueing: bool,
    /// T10 vendor identification, 8 bytes.
    pub vendor: [u8; 8],
    /// Product identification, 16 bytes.
    pub product: [u8; 16],
    /// Product revision level, 4 bytes.
    pub revision: [u8; 4],
    /// Version descriptors, at most 8; iSCSI is 0960h to 097Fh.
    pub versions: [u16; 8],
    /// Bytes that the device has in all: ADDITIONAL LENGTH + 5. More than came means: ask again.
    pub available: u16,
}

impl Inquiry {
    /// Reads an answer of at least 5 bytes; what an older or terse device leaves out reads as zero.
    ///
    /// # Errors
    /// Fewer than 5 bytes.
    pub fn parse(data: &[u8]) -> Result<Inquiry, ParseError> {
        at_least("standard INQUIRY data", data, 5)?;
        let available = u16::from(data[4]) + 5;
        let data = &data[..data.len().min(available.into())];
        let mut versions = [0; 8];
        for (i, version) in versions.iter_mut().enumerate() {
            *version = be16(data, 58 + 2 * i);
        }
        Ok(Inquiry {
            device: DeviceType(data[0]),
            version: u8_at(data, 2),
            tpgs: u8_at(data, 5) >> 4 & 3,
            protect: bit(data, 5, 0),
            command_queueing: bit(data, 7, 1),
            vendor: string(data, 8),
            product: string(data, 16),
            revision: string(data, 32),
            versions,
            available,
        })
    }

    /// Vendor, safe to print.
    #[must_use]
    pub fn vendor_text(&self) -> String {
        printable(&self.vendor)
    }

    /// Product, safe to print.
    #[must_use]
    pub fn product_text(&self) -> String {
        printable(&self.product)
    }

    /// Revision, safe to print.
    #[must_use]
    pub fn revision_text(&self) -> String {
        printable(&self.revision)
    }

    /// The iSCSI protocol level that a version descriptor claims (RFC 7144 section 4.2), if any.
    #[must_use]
    pub fn iscsi_level(&self) -> Option<u16> {
        self.versions.iter().find(|v| (0x960..0x980).contains(*v)).map(|v| v - 0x960)
    }
}

/// A fixed string; blanks where nothing came.
fn string<const N: usize>(data: &[u8], at: usize) -> [u8; N] {
    let mut out = [b' '; N];
    let came = data.get(at..data.len().min(at + N)).unwrap_or(&[]);
    out[..came.len()].copy_from_slice(came);
    out
}

impl Emit for Inquiry {
    /// 96 bytes: up to the end of the version descriptors and the reserved bytes after them.
    fn buffer_len(&self) -> usize {
        96
    }

    fn emit(&self, out: &mut [u8]) {
        let out = &mut out[..96];
        out.fill(0);
        out[0] = self.device.0;
        out[2] = self.version;
        out[3] = 0x02;
        out[4] = 96 - 5;
        out[5] = (self.tpgs & 3) << 4 | flag(self.protect, 0);
        out[7] = flag(self.command_queueing, 1);
        put_padded(&mut out[8..16], &self.vendor);
        put_padded(&mut out[16..32], &self.product);
        put_padded(&mut out[32..36], &self.revision);
        for (i, version) in self.versions.iter().enumerate() {
            put16(out, 58 + 2 * i, *version);
        }
    }
}
