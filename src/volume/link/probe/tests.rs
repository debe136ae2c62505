//! Probes against scripted units: the usual one, old ones, and ones that lie.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::limits::LUNS_PER_TARGET_MAX;
use crate::wire::scsi::{
    AccessState, Caching, Emit, PortGroup, PortGroups, Provisioning, ReportedLuns, SenseKey,
    Status, vpd,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

type Answer = (Outcome, Vec<u8>);

fn good(data: Vec<u8>) -> Answer {
    (Outcome::GOOD, data)
}

fn sense(key: SenseKey, asc: u8, ascq: u8) -> Outcome {
    Outcome::check(Sense::new(key, asc, ascq))
}

fn refused(asc: u8) -> Answer {
    (sense(SenseKey::IllegalRequest, asc, 0), Vec::new())
}

fn attention(asc: u8, ascq: u8) -> Outcome {
    sense(SenseKey::UnitAttention, asc, ascq)
}

/// A unit: what it answers, what comes first (whatever the command), and what it was asked.
struct Unit {
    first: VecDeque<Outcome>,
    ready: Outcome,
    inquiry: Vec<u8>,
    pages: BTreeMap<u8, Answer>,
    capacity_16: Answer,
    capacity_10: Answer,
    luns: Answer,
    mode: fn(six: bool, page: u8) -> Answer,
    asked: Vec<Cdb>,
}

fn inquiry_data() -> Vec<u8> {
    let mut data = vec![b' '; 66];
    data[..8].copy_from_slice(&[0, 0, 5, 2, 61, 0, 0, 2]);
    data[8..16].copy_from_slice(b"TEST    ");
    data[16..32].copy_from_slice(b"MIRROR          ");
    data[32..36].copy_from_slice(b"0001");
    data
}

const DPOFUA: ModeData =
    ModeData { write_protect: false, dpofua: true, caching: None, control: None };

fn usual_mode(six: bool, page: u8) -> Answer {
    let form = if six { ModeForm::Six } else { ModeForm::Ten };
    let mut data = DPOFUA;
    match page {
        mode::PAGE_CACHING => {
            data.caching = Some(Caching { write_cache: true, read_cache_disabled: false });
        }
        _ => data.control = Some(mode::Control { task_aborted_status: true, ..Default::default() }),
    }
    good(data.to_vec_as(form))
}

impl Unit {
    fn usual() -> Unit {
        let name = vpd::Designator::new(
            vpd::Association::LogicalUnit,
            vpd::DesignatorKind::Naa,
            1,
            &[0x60; 16],
        );
        let limits = BlockLimits { max_transfer: 128, ..BlockLimits::default() };
        let pages = [
            (0x00, vpd::page(0x00, &[0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2])),
            (0x80, vpd::page(0x80, b"ha1lun1")),
            (0x83, vpd::page(0x83, &vpd::identification(&[name]))),
            (0xb0, limits.to_vec()),
            (0xb1, BlockCharacteristics { rotation: 7200, zoned: 0 }.to_vec()),
            (0xb2, Provisioning { unmap: true, lbprz: 1, ..Provisioning::default() }.to_vec()),
        ];
        let capacity = Capacity16 { last_lba: 2047, block_size: 512, ..Capacity16::default() };
        Unit {
            first: VecDeque::new(),
            ready: Outcome::GOOD,
            inquiry: inquiry_data(),
            pages: pages.into_iter().map(|(page, data)| (page, good(data))).collect(),
            capacity_16: good(capacity.to_vec()),
            capacity_10: good(Capacity10 { last_lba: 1023, block_size: 512 }.to_vec()),
            luns: good(vec![0; 16]),
            mode: usual_mode,
            asked: Vec::new(),
        }
    }

    fn answer(&mut self, cdb: &[u8; 16], read_len: u32) -> Answer {
        let cdb = Cdb::parse(cdb).unwrap();
        self.asked.push(cdb);
        let reports_attentions = !matches!(cdb, Cdb::Inquiry { .. } | Cdb::ReportLuns { .. });
        if reports_attentions && let Some(first) = self.first.pop_front() {
            return (first, Vec::new());
        }
        let (outcome, mut data) = match cdb {
            Cdb::TestUnitReady => (self.ready, Vec::new()),
            Cdb::Inquiry { vpd: None, .. } => good(self.inquiry.clone()),
            Cdb::Inquiry { vpd: Some(page), .. } => {
                self.pages.get(&page).cloned().unwrap_or_else(|| refused(0x24))
            }
            Cdb::ReadCapacity16 { .. } => self.capacity_16.clone(),
            Cdb::ReadCapacity10 => self.capacity_10.clone(),
            Cdb::ReportLuns { .. } => self.luns.clone(),
            Cdb::ModeSense { six, page, .. } => (self.mode)(six, page),
            other => panic!("a probe does not send {other:?}"),
        };
        data.truncate(read_len as usize);
        (outcome, data)
    }

    /// Runs a probe to its end; waits are summed up.
    fn probe(&mut self) -> (Result<Box<LogicalUnit>, ProbeError>, Duration, Actions) {
        let mut probe = Probe::new(1 << 48);
        let mut waited = Duration::ZERO;
        for _ in 0..1000 {
            match probe.next() {
                Step::Command { lun, cdb, read_len } => {
                    assert_eq!(lun, 1 << 48);
                    let (outcome, data) = self.answer(&cdb, read_len);
                    probe.handle(&outcome, &data);
                }
                Step::Wait(time) => waited += time,
                Step::Ready(unit) => return (Ok(unit), waited, probe.attentions()),
                Step::Failed(error) => return (Err(error), waited, probe.attentions()),
            }
        }
        panic!("a probe has an end");
    }

    fn unit(&mut self) -> Box<LogicalUnit> {
        self.probe().0.unwrap()
    }

    fn error(&mut self) -> ProbeError {
        self.probe().0.unwrap_err()
    }

    fn asked_pages(&self) -> Vec<u8> {
        let page = |cdb: &Cdb| match cdb {
            Cdb::Inquiry { vpd, .. } => *vpd,
            _ => None,
        };
        self.asked.iter().filter_map(page).collect()
    }
}

/// SPC-4 and SBC-3: the commands of a start-up in their order, and what comes of them.
#[test]
fn the_usual_unit() {
    let mut unit = Unit::usual();
    let (found, waited, actions) = unit.probe();
    let found = found.unwrap();
    assert_eq!((waited, actions), (Duration::ZERO, Actions::NONE));
    assert_eq!(found.wwid(), Some("naa.60606060606060606060606060606060"));
    assert_eq!((found.vendor(), found.product()), ("TEST".into(), "MIRROR".into()));
    assert_eq!(found.serial().as_deref(), Some("ha1lun1"));
    assert_eq!((found.size_bytes(), found.block_size()), (1 << 20, 512));
    assert!(found.rotational() && found.write_cache() && found.dpofua() && !found.read_only());
    assert!(found.control().is_some_and(|c| c.task_aborted_status));
    assert_eq!(found.max_transfer_blocks(), 128);
    let page = |page| Cdb::Inquiry { vpd: Some(page), allocation: 252 };
    let expected = [
        Cdb::TestUnitReady,
        Cdb::Inquiry { vpd: None, allocation: 36 },
        Cdb::Inquiry { vpd: None, allocation: 66 },
        page(0x00),
        page(0x80),
        page(0x83),
        page(0xb0),
        page(0xb1),
        page(0xb2),
        Cdb::ReadCapacity16 { allocation: 32 },
        Cdb::mode_sense(false, 0x08, 252),
        Cdb::mode_sense(false, 0x0a, 252),
    ];
    assert_eq!(unit.asked, expected);
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks_exact(2).map(byte).collect()
}

/// The bytes that `tgtd` answers with for a 64 MiB LUN with the usual parameters.
#[test]
fn a_unit_of_tgtd() {
    let mut unit = Unit::usual();
    unit.first = [attention(0x29, 0x00)].into();
    unit.inquiry = unhex(
        "000005123d000002 5445535420202020 4d4952524f522020 2020202020202020 30303031 \
         0000000000000000000000000000000000000000 0000 04c00960 03000000",
    );
    let serial =
        "00800024 2020202020202020202020202020202020202020202020202020202020 6861316c756e31";
    let identification = "00830048 02010024 544553542d6861312d6c756e31 \
         0000000000000000000000000000000000000000000000 01030008 3000000100000001 \
         01030010 60000000000000000000e0000a100001";
    let zeros = "00".repeat(60);
    let pages = [
        (0x00, "00000006 00 80 83 b0 b1 b2".to_owned()),
        (0x80, serial.to_owned()),
        (0x83, identification.to_owned()),
        (0xb0, format!("00b0003c 0080 {zeros}")),
        (0xb1, format!("00b10040 00000000 {zeros}")),
        (0xb2, "00b20004 00000000".to_owned()),
    ];
    unit.pages = pages.into_iter().map(|(page, text)| (page, good(unhex(&text)))).collect();
    unit.capacity_16 = good(unhex(&format!("000000000001ffff 00000200 00030000 {}", &zeros[..32])));
    unit.mode = |six, page| match (six, page) {
        (false, 0x08) => good(unhex("001a0010 00000000 08121400ffff0000ffffffff8014000000000000")),
        (false, 0x0a) => good(unhex("00120010 00000000 0a0a02100000000000000200")),
        _ => refused(0x24),
    };
    let (found, _, actions) = unit.probe();
    let found = found.unwrap();
    assert!(actions.contains(Actions::CACHE_LOST));
    assert_eq!(found.wwid(), Some("naa.60000000000000000000e0000a100001"));
    let names: Vec<String> = found.names().iter().map(vpd::Designator::text).collect();
    assert_eq!(names[0], "t10.TEST-ha1-lun1");
    assert_eq!(names[1], "naa.3000000100000001");
    assert_eq!(found.serial().as_deref(), Some("ha1lun1"));
    assert_eq!((found.size_bytes(), found.physical_block_size()), (64 << 20, 4096));
    assert!(found.write_cache() && found.dpofua() && !found.read_only() && !found.can_unmap());
    assert_eq!(found.inquiry().iscsi_level(), Some(0));
}

/// SAM-5, Unit attention: five in a queue are drained; what they say is kept.
#[test]
fn attentions_are_drained() {
    let mut unit = Unit::usual();
    unit.first = (0..5).map(|_| attention(0x29, 0x00)).collect();
    let (found, _, actions) = unit.probe();
    assert!(found.is_ok() && actions.contains(Actions::CACHE_LOST | Actions::REREG));
    assert_eq!(unit.asked[..6], [Cdb::TestUnitReady; 6]);
}

/// SAM-5, Unit attention: endless ones end the probe, not the patience of the daemon.
#[test]
fn endless_attentions() {
    let mut unit = Unit::usual();
    unit.ready = attention(0x29, 0x00);
    let error = unit.error();
    assert!(matches!(error, ProbeError::Attentions(_)));
    assert_eq!(unit.asked.len(), usize::from(ATTENTIONS_MAX));
}

/// SPC-4 REPORT LUNS: 3F/0E comes back until REPORT LUNS is sent.
#[test]
fn changed_luns_are_acknowledged() {
    let mut unit = Unit::usual();
    unit.first = [attention(0x3f, 0x0e)].into();
    let (found, ..) = unit.probe();
    assert!(found.is_ok());
    let report = Cdb::ReportLuns { select: 0, allocation: 16 };
    assert_eq!(unit.asked[..3], [Cdb::TestUnitReady, report, Cdb::TestUnitReady]);
}

/// An attention that questions what was read starts over.
#[test]
fn a_change_midway_starts_over() {
    let mut unit = Unit::usual();
    // The first goes to TEST UNIT READY, the second to READ CAPACITY(16).
    unit.first = [Outcome::GOOD, attention(0x2a, 0x09)].into();
    assert!(unit.probe().0.is_ok());
    let count = |cdb: Cdb| unit.asked.iter().filter(|asked| **asked == cdb).count();
    assert_eq!(count(Cdb::TestUnitReady), 2);
    assert_eq!(count(Cdb::Inquiry { vpd: None, allocation: 36 }), 2);
}

/// SPC-4, NOT READY: waited out, then given up.
#[test]
fn becoming_ready() {
    let mut unit = Unit::usual();
    unit.first = (0..3).map(|_| sense(SenseKey::NotReady, 0x04, 0x01)).collect();
    let (found, waited, _) = unit.probe();
    assert!(found.is_ok());
    assert_eq!(waited, Duration::from_millis(1500));
    unit.ready = sense(SenseKey::NotReady, 0x04, 0x01);
    let (found, waited, _) = unit.probe();
    assert_eq!(waited, Duration::from_secs(30));
    let text = found.unwrap_err().to_string();
    let expected = "TEST UNIT READY failed: NOT READY (02/04/01, logical unit is in process of \
                    becoming ready)";
    assert_eq!(text, expected);
}

/// SPC-4, Standby and Transitioning: not dead. What can be read is read; the rest is no failure either.
#[test]
fn standby() {
    for ascq in [0x0a, 0x0b, 0x0c] {
        let mut unit = Unit::usual();
        unit.inquiry[5] = 0x10;
        unit.ready = sense(SenseKey::NotReady, 0x04, ascq);
        let port = vpd::Designator::new(
            vpd::Association::TargetPort,
            vpd::DesignatorKind::PortGroup,
            1,
            &[0, 0, 1, 2],
        );
        unit.pages.insert(0x83, good(vpd::page(0x83, &vpd::identification(&[port]))));
        let mut probe = Probe::new(0);
        let run = |unit: &mut Unit, probe: &mut Probe| loop {
            match probe.next() {
                Step::Command { cdb, read_len, .. } => {
                    let (outcome, data) = unit.answer(&cdb, read_len);
                    probe.handle(&outcome, &data);
                }
                Step::Wait(time) => panic!("waits {time:?}"),
                Step::Ready(_) => return None,
                Step::Failed(error) => return Some(error),
            }
        };
        assert_eq!(run(&mut unit, &mut probe), None);
        assert_eq!(probe.not_served().map(|s| s.ascq), Some(ascq));
        unit.capacity_16 = (sense(SenseKey::NotReady, 0x04, ascq), Vec::new());
        let mut probe = Probe::new(0);
        assert!(matches!(run(&mut unit, &mut probe), Some(ProbeError::Standby(_))));
        let facts = probe.facts().unwrap();
        assert_eq!((facts.tpgs, facts.port.group), (1, Some(0x0102)));
    }
}

/// SPC-4, REPORT TARGET PORT GROUPS: refused with the extended header, too long for the first try, and a list
/// that is never long enough.
#[test]
fn port_groups_are_read_whole() {
    let group = |ports: Vec<u16>| PortGroup {
        group: 1,
        state: AccessState::Standby,
        preferred: false,
        supported: 0,
        status: 0,
        ports,
        ports_cut: false,
    };
    let all: Vec<PortGroup> = (0..3).map(|_| group((0..200).collect())).collect();
    let whole = PortGroups { transition_secs: None, groups: all, available: 0 }.to_vec();
    let mut asked = Vec::new();
    let mut ask = AskAccess::new(0, true, true);
    let heard = loop {
        match ask.next() {
            Step::Command { cdb, read_len, .. } => {
                let cdb = Cdb::parse(&cdb).unwrap();
                asked.push(cdb);
                let (outcome, mut data) = match cdb {
                    Cdb::TestUnitReady => (sense(SenseKey::NotReady, 0x04, 0x0b), Vec::new()),
                    Cdb::ReportTargetPortGroups { extended: true, .. } => refused(0x24),
                    _ => good(whole.clone()),
                };
                data.truncate(read_len as usize);
                ask.handle(&outcome, &data);
            }
            Step::Ready(heard) => break heard,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((asked.len(), heard.cut), (4, false));
    assert_eq!(heard.not_served.map(|s| s.ascq), Some(0x0b));
    assert_eq!(heard.groups.unwrap().groups.len(), 3);

    let (mut ask, mut commands) = (AskAccess::new(0, false, true), 0);
    let heard = loop {
        match ask.next() {
            Step::Command { read_len, .. } => {
                commands += 1;
                let mut data = vec![0; read_len as usize];
                data[..4].copy_from_slice(&(read_len * 2).to_be_bytes());
                ask.handle(&Outcome::GOOD, &data);
            }
            Step::Ready(heard) => break heard,
            other => panic!("{other:?}"),
        }
    };
    assert!(heard.cut && commands <= 8, "{commands}");
}

/// SPC-4: both ways of saying that there is no such LUN.
#[test]
fn no_such_lun() {
    let mut unit = Unit::usual();
    unit.ready = sense(SenseKey::IllegalRequest, 0x25, 0);
    assert!(matches!(unit.error(), ProbeError::NoLun(_)));
    let mut unit = Unit::usual();
    unit.inquiry[0] = 0x7f;
    let text = "the target has no LUN here: no device at this LUN";
    assert_eq!(unit.error().to_string(), text);
    unit.inquiry[0] = 0x0d;
    assert_eq!(unit.error(), Unusable::DeviceType(DeviceType(0x0d)).into());
}

/// SPC-4, REPORT CAPABILITIES: a reserved unit answers TEST UNIT READY with a conflict, and goes on.
#[test]
fn a_reserved_unit() {
    let mut unit = Unit::usual();
    unit.ready = Outcome { status: Status::ReservationConflict, ..Outcome::GOOD };
    assert!(unit.probe().0.is_ok());
}

/// SPC-4, INQUIRY: devices that answer with 36 bytes or 5, or with less than they say.
#[test]
fn short_inquiries() {
    let mut unit = Unit::usual();
    unit.inquiry.truncate(36);
    unit.inquiry[4] = 31;
    assert!(unit.probe().0.is_ok());
    assert_eq!(unit.asked[2], Cdb::Inquiry { vpd: Some(0), allocation: 252 });
    unit.inquiry[4] = 0xff;
    assert_eq!(unit.unit().vendor(), "TEST");
    unit.inquiry.truncate(5);
    assert_eq!(unit.unit().vendor(), "");
    unit.inquiry.truncate(4);
    let text = "the answer to INQUIRY cannot be read: standard INQUIRY data: 4 bytes came, at least 5 \
                are needed";
    assert_eq!(unit.error().to_string(), text);
}

/// SPC-4, Supported VPD Pages: only listed pages are asked for; the list may be in any order.
#[test]
fn only_listed_pages() {
    let mut unit = Unit::usual();
    unit.pages.insert(0, good(vpd::page(0, &[0xb0, 0x83, 0x83, 0x00])));
    let found = unit.unit();
    assert_eq!(unit.asked_pages(), [0x00, 0x83, 0xb0]);
    assert_eq!((found.serial(), found.rotational()), (None, false));
}

/// SPC-4, Vital product data: no page 00h, and standard INQUIRY data in its place.
#[test]
fn without_the_page_list() {
    let mut unit = Unit::usual();
    unit.pages.remove(&0);
    assert!(unit.unit().wwid().is_some());
    assert_eq!(unit.asked_pages(), [0x00, 0x80, 0x83]);
    let mut unit = Unit::usual();
    let ignores_evpd = good(inquiry_data());
    for page in [0x00, 0x80, 0x83] {
        unit.pages.insert(page, ignores_evpd.clone());
    }
    let found = unit.unit();
    assert_eq!((found.wwid(), found.serial()), (None, None));
}

/// SPC-4, Allocation length: a page that was cut in the middle is read again whole.
#[test]
fn long_pages() {
    for len in [300, 4096, 65_535_usize] {
        let mut unit = Unit::usual();
        let mut body = [1, 3, 0, 1, 9].repeat(len / 5 - 5);
        body.extend_from_slice(&[1, 3, 0, 16]);
        body.extend_from_slice(&[0x61; 16]);
        unit.pages.insert(0x83, good(vpd::page(0x83, &body)));
        assert_eq!(unit.unit().wwid(), Some("naa.61616161616161616161616161616161"));
        let full = u16::try_from(body.len() + 4).unwrap();
        assert!(unit.asked.contains(&Cdb::Inquiry { vpd: Some(0x83), allocation: full }));
    }
}

/// A page that fails for another reason than not being there fails the probe: an identity that cannot be
/// read now is not "no identity".
#[test]
fn a_page_that_fails() {
    let mut unit = Unit::usual();
    unit.pages.insert(0x83, (sense(SenseKey::HardwareError, 0x44, 0), Vec::new()));
    assert!(unit.error().to_string().starts_with("INQUIRY (VPD page 83h) failed: HARDWARE ERROR"));
}

/// SBC-3, READ CAPACITY: (10) where (16) is refused or too short; FFFFFFFFh needs (16).
#[test]
fn capacity_fallbacks() {
    for odd in [refused(0x20), refused(0x24), good(vec![0; 8])] {
        let mut unit = Unit::usual();
        unit.capacity_16 = odd.clone();
        let found = unit.unit();
        assert_eq!((found.size_bytes(), found.long_cdbs()), (1024 * 512, false));
        unit.capacity_10 = good(Capacity10 { last_lba: u32::MAX, block_size: 512 }.to_vec());
        assert_eq!(unit.error(), ProbeError::CapacityTooLarge);
        unit.capacity_10 = good(vec![0; 7]);
        assert!(matches!(unit.error(), ProbeError::Malformed { .. }));
    }
    let mut unit = Unit::usual();
    unit.capacity_16 = good(vec![0xff; 32]);
    assert!(matches!(unit.error(), ProbeError::Unusable(_)));
}

/// SPC-4, MODE SENSE: (6) where (10) is refused; without any, a cache is assumed.
#[test]
fn mode_fallbacks() {
    let mut unit = Unit::usual();
    unit.mode = |six, page| if six { usual_mode(six, page) } else { refused(0x20) };
    assert!(unit.unit().dpofua());
    let mode_senses =
        |unit: &Unit| unit.asked.iter().filter(|c| matches!(c, Cdb::ModeSense { .. })).count();
    assert_eq!(mode_senses(&unit), 3);

    let mut unit = Unit::usual();
    unit.mode = |_, _| refused(0x24);
    let found = unit.unit();
    assert!(found.write_cache() && !found.dpofua() && !found.read_only());
    assert_eq!(mode_senses(&unit), 4);

    // No caching page: the header still says that the unit is write protected.
    let mut unit = Unit::usual();
    unit.mode = |six, page| match (six, page) {
        (false, mode::PAGE_ALL) => {
            good(ModeData { write_protect: true, ..DPOFUA }.to_vec_as(ModeForm::Ten))
        }
        _ => refused(0x24),
    };
    let found = unit.unit();
    assert!(found.write_cache() && found.dpofua() && found.read_only());

    let mut unit = Unit::usual();
    unit.mode = |_, _| (sense(SenseKey::HardwareError, 0x44, 0), Vec::new());
    assert!(unit.unit().write_cache());
    unit.mode = |_, _| good(vec![0; 3]);
    assert!(unit.unit().write_cache());
}

/// SBC-3, Caching mode page: WCE=0, and software write protection.
#[test]
fn mode_values() {
    let mut unit = Unit::usual();
    unit.mode = |_, _| {
        let caching = Some(Caching::default());
        let control = Some(mode::Control { software_write_protect: true, ..Default::default() });
        good(ModeData { caching, control, ..ModeData::default() }.to_vec_as(ModeForm::Ten))
    };
    let found = unit.unit();
    assert!(!found.write_cache() && found.read_only());
}

/// SAM-5, BUSY: waited out for a bounded time.
#[test]
fn busy() {
    let mut unit = Unit::usual();
    let busy = Outcome { status: Status::Busy, ..Outcome::GOOD };
    unit.first = [busy; 3].into();
    let (found, waited, _) = unit.probe();
    assert!(found.is_ok() && waited > Duration::ZERO);
    unit.ready = busy;
    assert!(unit.probe().0.is_err());
}

fn report(answers: &mut dyn FnMut(u32) -> Answer) -> Result<Vec<u64>, ProbeError> {
    let mut report = ReportLuns::new();
    for _ in 0..1000 {
        match report.next() {
            Step::Command { lun, cdb, read_len } => {
                assert_eq!(
                    Cdb::parse(&cdb),
                    Ok(Cdb::ReportLuns { select: 0, allocation: read_len })
                );
                assert_eq!(lun, 0);
                let (outcome, mut data) = answers(read_len);
                data.truncate(read_len as usize);
                report.handle(&outcome, &data);
            }
            Step::Wait(_) => {}
            Step::Ready(luns) => return Ok(luns),
            Step::Failed(error) => return Err(error),
        }
    }
    panic!("REPORT LUNS has an end");
}

fn lun_list(luns: Vec<u64>) -> Vec<u8> {
    ReportedLuns { luns, available: 0 }.to_vec()
}

/// SPC-4, REPORT LUNS: 1 to 16,384 LUNs; longer lists are asked for again, duplicates and well-known units
/// are dropped.
#[test]
fn lun_lists() {
    for count in [0_u64, 1, 31, 256, 257, 16_384] {
        let luns: Vec<u64> = (0..count).map(|n| (0x4000 | n) << 48).collect();
        assert_eq!(report(&mut |_| good(lun_list(luns.clone()))), Ok(luns.clone()));
    }
    let odd = vec![1 << 48, 0xc101 << 48, 1 << 48, 0];
    assert_eq!(report(&mut |_| good(lun_list(odd.clone()))), Ok(vec![1 << 48, 0]));
    let many: Vec<u64> = (0..20_000).collect();
    assert_eq!(report(&mut |_| good(lun_list(many.clone()))).unwrap().len(), LUNS_PER_TARGET_MAX);
    // A list that grows between two calls.
    let mut count = 200;
    let luns = report(&mut |_| {
        count += 100;
        good(lun_list((0..count.min(500)).collect()))
    });
    assert_eq!(luns.unwrap().len(), 500);
}

/// SPC-4, REPORT LUNS: devices without it have LUN 0; a short answer is an error.
#[test]
fn lun_lists_of_odd_devices() {
    assert_eq!(report(&mut |_| refused(0x20)), Ok(vec![0]));
    assert!(matches!(report(&mut |_| good(vec![0; 7])), Err(ProbeError::Malformed { .. })));
    let mut attentions = 3;
    let luns = report(&mut |_| {
        attentions -= 1;
        if attentions > 0 { (attention(0x3f, 0x0e), vec![]) } else { good(lun_list(vec![0])) }
    });
    assert_eq!(luns, Ok(vec![0]));
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        6 => Just(Outcome::GOOD),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(response, status)| Outcome::new(response, status, None, false)),
        2 => (any::<u8>(), prop::sample::select(vec![2u8, 4, 5, 6, 11]), any::<u8>(), 0u8..16).prop_map(
            |(deferred, key, asc, ascq)| {
                let sense = Sense::new(SenseKey::from_bits(key), asc & 0x3f, ascq);
                Outcome::check(Sense { deferred: deferred < 16, ..sense })
            }
        ),
    ]
}

proptest! {
    /// A hostile unit: any answers in any order end the probe and never panic.
    #[test]
    fn a_hostile_unit(
        answers in prop::collection::vec(
            (any_outcome(), prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 8, 0x83, 0xb0, 255]), 0..80)), 1..40,
        ),
    ) {
        let mut probe = Probe::new(0);
        let mut answers = answers.iter().cycle();
        let mut waited = Duration::ZERO;
        let mut ended = false;
        for _ in 0..10_000 {
            match probe.next() {
                Step::Command { read_len, .. } => {
                    let (outcome, data) = answers.next().unwrap();
                    probe.handle(outcome, &data[..data.len().min(read_len as usize)]);
                }
                Step::Wait(time) => waited += time,
                Step::Ready(_) | Step::Failed(_) => {
                    ended = true;
                    break;
                }
            }
        }
        prop_assert!(ended && waited < Duration::from_secs(100), "{waited:?}");
    }
}
