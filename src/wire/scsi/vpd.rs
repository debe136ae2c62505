//! Vital product data that names things: pages 00h, 80h, 83h and 86h (SPC-4, VPD parameters).
//!
//! A page is a 4-byte header (device type, page code, 16-bit length) and a body. [`VpdHeader::parse`]
//! checks the echo of the page code, because some devices answer EVPD=1 with standard INQUIRY data.

use crate::wire::scsi::field::{be16, bit, flag, put16};
use crate::wire::scsi::inquiry::DeviceType;
use crate::wire::scsi::text::{hex, printable};
use crate::wire::scsi::{Emit, ParseError, at_least};
use smallvec::SmallVec;

/// Supported VPD Pages.
pub const PAGE_SUPPORTED: u8 = 0x00;
/// Unit Serial Number.
pub const PAGE_SERIAL: u8 = 0x80;
/// Device Identification.
pub const PAGE_IDENTIFICATION: u8 = 0x83;
/// Extended INQUIRY Data.
pub const PAGE_EXTENDED: u8 = 0x86;

/// A page's header and the body that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VpdHeader<'a> {
    /// Qualifier and device type.
    pub device: DeviceType,
    /// Length of the whole page, header included, as the device states it (unchanged by truncation).
    pub available: usize,
    /// What came of the body.
    pub body: &'a [u8],
}

impl<'a> VpdHeader<'a> {
    /// Reads the header and checks that it is `page`.
    ///
    /// # Errors
    /// Fewer than 4 bytes, or another page.
    pub fn parse(page: u8, data: &'a [u8]) -> Result<VpdHeader<'a>, ParseError> {
        at_least("VPD page", data, 4)?;
        if data[1] != page {
            let (expected, got) = (page.into(), data[1].into());
            return Err(ParseError::Unexpected { what: "VPD page code", expected, got });
        }
        let available = usize::from(be16(data, 2)) + 4;
        let body = &data[4..data.len().min(available)];
        Ok(VpdHeader { device: DeviceType(data[0]), available, body })
    }

    /// Whether bytes are missing: ask again with [`VpdHeader::available`].
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.body.len() + 4 < self.available
    }
}

/// Writes a whole page for a connected disk. A body beyond 65,535 bytes is cut.
#[must_use]
pub fn page(page: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut out = vec![DeviceType::DISK.0, page, 0, 0];
    put16(&mut out, 2, len);
    out.extend_from_slice(&body[..len.into()]);
    out
}

/// Whether page 00h lists `page`; neither order nor uniqueness is relied on.
#[must_use]
pub fn lists(supported_body: &[u8], page: u8) -> bool {
    supported_body.contains(&page)
}

/// Unit serial number: page 80h without padding; `None` when blank.
#[must_use]
pub fn serial(body: &[u8]) -> Option<Vec<u8>> {
    let trimmed = trim(body);
    if trimmed.is_empty() { None } else { Some(trimmed.to_vec()) }
}

fn trim(bytes: &[u8]) -> &[u8] {
    let is_pad = |b: &u8| matches!(b, b' ' | 0);
    let start = bytes.iter().position(|b| !is_pad(b)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|b| !is_pad(b)).map_or(start, |last| last + 1);
    &bytes[start..end]
}

/// What a designator names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Association {
    /// 00b: the logical unit.
    LogicalUnit,
    /// 01b: the target port that the command came by.
    TargetPort,
    /// 10b: the target device.
    TargetDevice,
    /// 11b: reserved.
    Reserved,
}

impl Association {
    const fn from_bits(bits: u8) -> Association {
        match bits & 3 {
            0 => Association::LogicalUnit,
            1 => Association::TargetPort,
            2 => Association::TargetDevice,
            _ => Association::Reserved,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Association::LogicalUnit => 0,
            Association::TargetPort => 1,
            Association::TargetDevice => 2,
            Association::Reserved => 3,
        }
    }
}

/// How a designator is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DesignatorKind {
    /// 0: vendor specific, not unique in the world.
    Vendor,
    /// 1: T10 vendor ID and what the vendor adds.
    T10,
    /// 2: EUI-64, in 8, 12 or 16 bytes.
    Eui64,
    /// 3: NAA; the top 4 bits say which.
    Naa,
    /// 4: relative target port identifier.
    RelativePort,
    /// 5: target port group.
    PortGroup,
    /// 6: logical unit group.
    UnitGroup,
    /// 7: MD5 logical unit identifier.
    Md5,
    /// 8: SCSI name string, UTF-8.
    Name,
    /// 9: protocol specific port identifier.
    Protocol,
    /// Ah: UUID.
    Uuid,
    /// Anything else.
    Unknown(u8),
}

impl DesignatorKind {
    const fn from_bits(bits: u8) -> DesignatorKind {
        match bits & 0xf {
            0 => DesignatorKind::Vendor,
            1 => DesignatorKind::T10,
            2 => DesignatorKind::Eui64,
            3 => DesignatorKind::Naa,
            4 => DesignatorKind::RelativePort,
            5 => DesignatorKind::PortGroup,
            6 => DesignatorKind::UnitGroup,
            7 => DesignatorKind::Md5,
            8 => DesignatorKind::Name,
            9 => DesignatorKind::Protocol,
            0xa => DesignatorKind::Uuid,
            other => DesignatorKind::Unknown(other),
        }
    }

    const fn bits(self) -> u8 {
        match self {
            DesignatorKind::Vendor => 0,
            DesignatorKind::T10 => 1,
            DesignatorKind::Eui64 => 2,
            DesignatorKind::Naa => 3,
            DesignatorKind::RelativePort => 4,
            DesignatorKind::PortGroup => 5,
            DesignatorKind::UnitGroup => 6,
            DesignatorKind::Md5 => 7,
            DesignatorKind::Name => 8,
            DesignatorKind::Protocol => 9,
            DesignatorKind::Uuid => 0xa,
            DesignatorKind::Unknown(bits) => bits & 0xf,
        }
    }
}

/// One designation descriptor of page 83h.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Designator {
    /// What it names.
    pub association: Association,
    /// How it is built.
    pub kind: DesignatorKind,
    /// 1 binary, 2 ASCII, 3 UTF-8.
    pub code_set: u8,
    /// The name, never empty; SCSI name strings without their NUL padding.
    pub value: SmallVec<[u8; 24]>,
}

/// Code set: binary.
pub const CODE_BINARY: u8 = 1;
/// Code set: ASCII.
pub const CODE_ASCII: u8 = 2;
/// Code set: UTF-8.
pub const CODE_UTF8: u8 = 3;

impl Designator {
    /// A designator for [`identification`].
    #[must_use]
    pub fn new(
        association: Association,
        kind: DesignatorKind,
        code_set: u8,
        value: &[u8],
    ) -> Designator {
        Designator { association, kind, code_set, value: SmallVec::from_slice(value) }
    }

    /// The name as administrators know it: `naa.6001…`, `eui.…`, `t10.…`, `uuid.…` or the SCSI name
    /// string itself; everything else as its kind and hex.
    #[must_use]
    pub fn text(&self) -> String {
        let value = &self.value[..];
        match self.kind {
            DesignatorKind::Naa => format!("naa.{}", hex(value)),
            DesignatorKind::Eui64 => format!("eui.{}", hex(value)),
            DesignatorKind::T10 => format!("t10.{}", printable(value)),
            DesignatorKind::Name => printable(value),
            DesignatorKind::Uuid => format!("uuid.{}", hex(value)),
            DesignatorKind::Vendor => format!("vendor.{}", hex(value)),
            DesignatorKind::Md5 => format!("md5.{}", hex(value)),
            DesignatorKind::RelativePort => format!("port.{}", hex(value)),
            DesignatorKind::PortGroup => format!("port-group.{}", hex(value)),
            DesignatorKind::UnitGroup => format!("unit-group.{}", hex(value)),
            DesignatorKind::Protocol => format!("protocol.{}", hex(value)),
            DesignatorKind::Unknown(kind) => format!("type-{kind:x}.{}", hex(value)),
        }
    }
}

/// Reads the body of page 83h. Descriptors of no length are skipped, and one that runs past the end of
/// the page ends it.
#[must_use]
pub fn designators(body: &[u8]) -> Vec<Designator> {
    let mut found = Vec::new();
    let mut rest = body;
    while rest.len() >= 4 {
        let len = usize::from(rest[3]);
        let Some(value) = rest.get(4..4 + len) else { break };
        let kind = DesignatorKind::from_bits(rest[1]);
        let value = if kind == DesignatorKind::Name { unpadded(value) } else { value };
        if !value.is_empty() {
            let association = Association::from_bits(rest[1] >> 4);
            found.push(Designator::new(association, kind, rest[0] & 0xf, value));
        }
        rest = &rest[4 + len..];
    }
    found
}

/// SCSI name strings are NUL-terminated and padded to a multiple of four bytes.
fn unpadded(value: &[u8]) -> &[u8] {
    let end = value.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    &value[..end]
}

/// The body of page 83h: SCSI name strings are NUL-terminated and padded to four bytes.
///
/// # Panics
/// When a designator is longer than 252 bytes.
#[must_use]
pub fn identification(designators: &[Designator]) -> Vec<u8> {
    let mut body = Vec::new();
    for d in designators {
        let mut value = d.value.to_vec();
        if d.kind == DesignatorKind::Name {
            value.resize((value.len() + 1).next_multiple_of(4), 0);
        }
        let len = u8::try_from(value.len()).expect("a designator has at most 252 bytes");
        // A name of a port or target device carries the protocol (iSCSI, 5) with PIV=1.
        let of_port = matches!(d.association, Association::TargetPort | Association::TargetDevice);
        let protocol = if of_port { 0x50 } else { 0 };
        body.push(protocol | d.code_set & 0xf);
        body.push(flag(of_port, 7) | d.association.bits() << 4 | d.kind.bits());
        body.extend_from_slice(&[0, len]);
        body.extend_from_slice(&value);
    }
    body
}

/// What a path's own target port is called in REPORT TARGET PORT GROUPS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortIdentity {
    /// Target port group (type 5, association 1).
    pub group: Option<u16>,
    /// Relative target port identifier (type 4, association 1).
    pub relative: Option<u16>,
}

impl PortIdentity {
    /// Finds both among the designators of a page; the first of each counts.
    #[must_use]
    pub fn find(designators: &[Designator]) -> PortIdentity {
        let low16 = |kind: DesignatorKind| {
            designators
                .iter()
                .find(|d| d.association == Association::TargetPort && d.kind == kind)
                .filter(|d| d.value.len() == 4)
                .map(|d| be16(&d.value, 2))
        };
        PortIdentity {
            group: low16(DesignatorKind::PortGroup),
            relative: low16(DesignatorKind::RelativePort),
        }
    }
}

/// Extended INQUIRY data, page 86h: only what an initiator of this kind asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extended {
    /// V_SUP: a volatile cache is supported.
    pub volatile_cache: bool,
    /// NV_SUP: a non-volatile cache is supported.
    pub non_volatile_cache: bool,
    /// LUICLR: UNIT ATTENTION 3F/0E and the like are cleared by I_T nexus rather than per unit.
    pub luiclr: bool,
}

impl Extended {
    /// Reads the body; missing bytes are zero.
    #[must_use]
    pub fn parse(body: &[u8]) -> Extended {
        Extended {
            volatile_cache: bit(body, 2, 0),
            non_volatile_cache: bit(body, 2, 1),
            luiclr: bit(body, 3, 0),
        }
    }
}

impl Emit for Extended {
    fn buffer_len(&self) -> usize {
        64
    }

    fn emit(&self, out: &mut [u8]) {
        let out = &mut out[..64];
        out.fill(0);
        out[1] = PAGE_EXTENDED;
        put16(out, 2, 60);
        out[6] = flag(self.volatile_cache, 0) | flag(self.non_volatile_cache, 1);
        out[7] = flag(self.luiclr, 0);
    }
}
