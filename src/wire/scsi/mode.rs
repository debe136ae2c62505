//! MODE SENSE parameter data: header, block descriptors (skipped), pages 08h and 0Ah (SPC-4, SBC-3).

use crate::wire::scsi::field::{be16, bit, flag, put16, u8_at};
use crate::wire::scsi::{Emit, ParseError, at_least};

/// Caching mode page.
pub const PAGE_CACHING: u8 = 0x08;
/// Control mode page.
pub const PAGE_CONTROL: u8 = 0x0a;
/// Every page.
pub const PAGE_ALL: u8 = 0x3f;

/// Which MODE SENSE the data answers: the headers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModeForm {
    /// MODE SENSE(6): 4-byte header.
    Six,
    /// MODE SENSE(10): 8-byte header.
    Ten,
}

/// Caching mode page (08h), current values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caching {
    /// WCE: the write cache is on.
    pub write_cache: bool,
    /// RCD: the read cache is off.
    pub read_cache_disabled: bool,
}

/// Control mode page (0Ah), current values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Control {
    /// TST, 3 bits.
    pub task_set: u8,
    /// D_SENSE: sense data comes in descriptor format.
    pub descriptor_sense: bool,
    /// QERR, 2 bits.
    pub queue_error: u8,
    /// UA_INTLCK_CTRL, 2 bits.
    pub ua_interlock: u8,
    /// SWP: software write protect.
    pub software_write_protect: bool,
    /// TAS: aborted commands end with TASK ABORTED; else they vanish.
    pub task_aborted_status: bool,
}

/// What a MODE SENSE answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModeData {
    /// WP in the device-specific parameter.
    pub write_protect: bool,
    /// DPOFUA in the device-specific parameter: FUA and DPO are supported.
    pub dpofua: bool,
    /// Caching page, if it came.
    pub caching: Option<Caching>,
    /// Control page, if it came.
    pub control: Option<Control>,
}

impl ModeData {
    /// Reads an answer: the header must be there, pages are taken as far as they came.
    ///
    /// # Errors
    /// Less than a header.
    pub fn parse(form: ModeForm, data: &[u8]) -> Result<ModeData, ParseError> {
        let (header, available, specific, descriptors) = match form {
            ModeForm::Six => {
                at_least("MODE SENSE(6) data", data, 4)?;
                (4, usize::from(data[0]) + 1, data[2], usize::from(data[3]))
            }
            ModeForm::Ten => {
                at_least("MODE SENSE(10) data", data, 8)?;
                (8, usize::from(be16(data, 0)) + 2, data[3], usize::from(be16(data, 6)))
            }
        };
        let mut mode = ModeData {
            write_protect: specific & 0x80 != 0,
            dpofua: specific & 0x10 != 0,
            ..ModeData::default()
        };
        let end = data.len().min(available);
        let mut rest = data.get(header + descriptors..end).unwrap_or(&[]);
        while let Some((page, after)) = next_page(rest) {
            mode.take(page);
            rest = after;
        }
        Ok(mode)
    }

    fn take(&mut self, page: Page<'_>) {
        let body = page.body;
        match (page.code, page.subpage) {
            (PAGE_CACHING, 0) if !body.is_empty() => {
                let (write_cache, read_cache_disabled) = (bit(body, 0, 2), bit(body, 0, 0));
                self.caching = Some(Caching { write_cache, read_cache_disabled });
            }
            (PAGE_CONTROL, 0) if !body.is_empty() => {
                self.control = Some(Control {
                    task_set: u8_at(body, 0) >> 5,
                    descriptor_sense: bit(body, 0, 2),
                    queue_error: u8_at(body, 1) >> 1 & 3,
                    ua_interlock: u8_at(body, 2) >> 4 & 3,
                    software_write_protect: bit(body, 2, 3),
                    task_aborted_status: bit(body, 3, 6),
                });
            }
            _ => {}
        }
    }

    /// The answer to `form`, with the pages that are `Some`, cut to what the 6-byte form can say.
    #[must_use]
    pub fn to_vec_as(&self, form: ModeForm) -> Vec<u8> {
        let mut out = match form {
            ModeForm::Six => vec![0; 4],
            ModeForm::Ten => vec![0; 8],
        };
        let specific = flag(self.write_protect, 7) | flag(self.dpofua, 4);
        if let Some(caching) = self.caching {
            out.extend_from_slice(&caching.to_vec());
        }
        if let Some(control) = self.control {
            out.extend_from_slice(&control.to_vec());
        }
        match form {
            ModeForm::Six => {
                out[0] = u8::try_from(out.len() - 1).expect("two pages are 36 bytes");
                out[2] = specific;
            }
            ModeForm::Ten => {
                let len = u16::try_from(out.len() - 2).expect("two pages are 40 bytes");
                put16(&mut out, 0, len);
                out[3] = specific;
            }
        }
        out
    }
}

/// One mode page: `body` starts after its length field.
struct Page<'a> {
    code: u8,
    subpage: u8,
    body: &'a [u8],
}

/// Splits off the first page, in page_0 or subpage format. A page that runs past the end is taken as far
/// as it came, and ends the list.
fn next_page(data: &[u8]) -> Option<(Page<'_>, &[u8])> {
    let first = *data.first()?;
    let (subpage, len, header) = if first & 0x40 == 0 {
        (0, usize::from(*data.get(1)?), 2)
    } else {
        data.get(3)?;
        (data[1], usize::from(be16(data, 2)), 4)
    };
    let end = data.len().min(header + len);
    Some((Page { code: first & 0x3f, subpage, body: &data[header..end] }, &data[end..]))
}

/// The page in page_0 format.
impl Emit for Caching {
    fn buffer_len(&self) -> usize {
        20
    }

    fn emit(&self, out: &mut [u8]) {
        let out = &mut out[..20];
        out.fill(0);
        out[0] = PAGE_CACHING;
        out[1] = 18;
        out[2] = flag(self.write_cache, 2) | flag(self.read_cache_disabled, 0);
    }
}

/// The page in page_0 format.
impl Emit for Control {
    fn buffer_len(&self) -> usize {
        12
    }

    fn emit(&self, out: &mut [u8]) {
        let out = &mut out[..12];
        out.fill(0);
        out[0] = PAGE_CONTROL;
        out[1] = 10;
        out[2] = self.task_set << 5 | flag(self.descriptor_sense, 2);
        out[3] = (self.queue_error & 3) << 1;
        out[4] = (self.ua_interlock & 3) << 4 | flag(self.software_write_protect, 3);
        out[5] = flag(self.task_aborted_status, 6);
    }
}
