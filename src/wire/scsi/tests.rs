//! Literal bytes for every command and every parameter format, and parsers against anything.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::wire::scsi::vpd::PortIdentity;
use proptest::prelude::*;

fn bytes16(bytes: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    out[..bytes.len()].copy_from_slice(bytes);
    out
}

fn both_ways(cdb: Cdb, bytes: &[u8]) {
    assert_eq!(cdb.to_bytes(), bytes16(bytes), "{cdb:?}");
    assert_eq!(Cdb::parse(&bytes16(bytes)), Ok(cdb));
    assert_eq!(cdb.len(), bytes.len(), "{cdb:?}");
}

/// SPC-4: commands for all device types.
#[test]
fn primary_commands() {
    both_ways(Cdb::TestUnitReady, &[0; 6]);
    let cdb = Cdb::RequestSense { descriptor: true, allocation: 252 };
    both_ways(cdb, &[0x03, 0x01, 0, 0, 0xfc, 0]);
    both_ways(Cdb::Inquiry { vpd: None, allocation: 36 }, &[0x12, 0, 0, 0, 36, 0]);
    let cdb = Cdb::Inquiry { vpd: Some(0x83), allocation: 0x1234 };
    both_ways(cdb, &[0x12, 1, 0x83, 0x12, 0x34, 0]);
    both_ways(Cdb::mode_sense(true, 0x08, 252), &[0x1a, 0x08, 0x08, 0, 252, 0]);
    both_ways(Cdb::mode_sense(false, 0x3f, 0x0102), &[0x5a, 8, 0x3f, 0, 0, 0, 0, 1, 2, 0]);
    let cdb = Cdb::ReportLuns { select: 2, allocation: 0x0102_0304 };
    both_ways(cdb, &[0xa0, 0, 2, 0, 0, 0, 1, 2, 3, 4, 0, 0]);
    let cdb = Cdb::ReportTargetPortGroups { extended: true, allocation: 0x1000 };
    both_ways(cdb, &[0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0]);
    let cdb = Cdb::SetTargetPortGroups { list_len: 8 };
    both_ways(cdb, &[0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0]);
    assert_eq!(cdb.data(512), Data::Out(8));
}

/// SBC-3: READ, WRITE and COMPARE AND WRITE.
#[test]
fn transfers() {
    let read = Cdb::Read(Transfer::new(0x0102_0304, 0x0506));
    both_ways(read, &[0x28, 0, 1, 2, 3, 4, 0, 5, 6, 0]);
    let write = Cdb::Write(Transfer { fua: true, ..Transfer::new(0xffff_ffff, 0xffff) });
    both_ways(write, &[0x2a, 0x08, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]);
    let read =
        Cdb::Read(Transfer { dpo: true, ..Transfer::new(0x0102_0304_0506_0708, 0x090a_0b0c) });
    both_ways(read, &[0x88, 0x10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0]);
    let write = Cdb::Write(Transfer { protect: 5, ..Transfer::new(1, 65_536) });
    both_ways(write, &[0x8a, 0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0]);
    let compare = Transfer { width: Width::Sixteen, ..Transfer::new(2, 8) };
    both_ways(Cdb::CompareAndWrite(compare), &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 8, 0, 0]);
    assert_eq!(Cdb::CompareAndWrite(compare).data(512), Data::Out(2 * 8 * 512));
    assert_eq!(write.data(4096), Data::Out(65_536 * 4096));
}

/// SBC-3, READ/WRITE: the short form ends at LBA FFFFFFFFh and 65,535 blocks.
#[test]
fn the_form_follows_the_range() {
    assert_eq!(Width::for_range(0xffff_ffff, 0xffff), Width::Ten);
    assert_eq!(Width::for_range(0x1_0000_0000, 1), Width::Sixteen);
    assert_eq!(Width::for_range(0, 0x1_0000), Width::Sixteen);
}

/// SBC-3: capacity, cache, provisioning.
#[test]
fn block_commands() {
    both_ways(Cdb::ReadCapacity10, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let cdb = Cdb::ReadCapacity16 { allocation: 32 };
    both_ways(cdb, &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]);
    let cdb = Cdb::GetLbaStatus { lba: 0x0102_0304_0506_0708, allocation: 24 };
    both_ways(cdb, &[0x9e, 0x12, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 24, 0, 0]);
    both_ways(Cdb::flush(Width::Ten), &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    both_ways(Cdb::flush(Width::Sixteen), &bytes16(&[0x91]));
    let width = Width::Ten;
    let cdb = Cdb::SynchronizeCache { width, lba: 1, blocks: 2, immed: true };
    both_ways(cdb, &[0x35, 2, 0, 0, 0, 1, 0, 0, 2, 0]);
    let cdb = Cdb::Unmap { anchor: true, list_len: 24 };
    both_ways(cdb, &[0x42, 1, 0, 0, 0, 0, 0, 0, 24, 0]);
}

/// SBC-4, WRITE SAME: UNMAP, ANCHOR and NDOB; the data-out buffer is one block or nothing.
#[test]
fn write_same() {
    let (width, lba, blocks) = (Width::Ten, 5, 6);
    let (unmap, anchor, ndob, protect) = (true, false, false, 0);
    let cdb = Cdb::WriteSame { width, lba, blocks, unmap, anchor, ndob, protect };
    both_ways(cdb, &[0x41, 0x08, 0, 0, 0, 5, 0, 0, 6, 0]);
    assert_eq!(cdb.data(4096), Data::Out(4096));
    let (width, unmap, anchor, ndob, protect) = (Width::Sixteen, true, true, true, 1);
    let cdb = Cdb::WriteSame { width, lba, blocks, unmap, anchor, ndob, protect };
    both_ways(cdb, &[0x93, 0x39, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0]);
    assert_eq!(cdb.data(4096), Data::None);
    assert!(cdb.changes_medium() && !Cdb::flush(width).changes_medium());
}

/// SPC-4: what a device server refuses, and where it points.
#[test]
fn refused_cdbs() {
    assert_eq!(Cdb::parse(&bytes16(&[0xff])), Err(CdbError::Opcode(0xff)));
    assert_eq!(Cdb::parse(&bytes16(&[0x12, 0, 0x83])), Err(CdbError::Field { byte: 2 }));
    assert_eq!(Cdb::parse(&bytes16(&[0x9e, 0x11])), Err(CdbError::Field { byte: 1 }));
    assert_eq!(Cdb::parse(&bytes16(&[0xa3, 0x0c])), Err(CdbError::Field { byte: 1 }));
}

const INQUIRY: [u8; 96] = {
    let mut data = [0; 96];
    data[2] = 0x06; // SPC-4
    data[3] = 0x02;
    data[4] = 91;
    data[5] = 0x31; // TPGS 3, PROTECT
    data[7] = 0x02; // CMDQUE
    let text = b"STARWINDSTARWIND HA     0001";
    let mut i = 0;
    while i < text.len() {
        data[8 + i] = text[i];
        i += 1;
    }
    data[58] = 0x09; // iSCSI, level 2
    data[59] = 0x62;
    data
};

/// SPC-4, Standard INQUIRY data.
#[test]
fn inquiry_data() {
    let inquiry = Inquiry::parse(&INQUIRY).unwrap();
    assert_eq!(inquiry.vendor_text(), "STARWIND");
    assert_eq!(
        (inquiry.product_text(), inquiry.revision_text()),
        ("STARWIND HA".into(), "0001".into())
    );
    assert_eq!((inquiry.tpgs, inquiry.protect, inquiry.command_queueing), (3, true, true));
    assert_eq!((inquiry.available, inquiry.iscsi_level()), (96, Some(2)));
    assert_eq!(emitted(&inquiry), INQUIRY);
}

/// SPC-4: old devices answer 36 bytes or fewer, and say 255 where they send 36.
#[test]
fn short_inquiry_data() {
    assert!(Inquiry::parse(&INQUIRY[..4]).is_err());
    let five = Inquiry::parse(&INQUIRY[..5]).unwrap();
    assert_eq!((five.tpgs, five.vendor_text()), (0, String::new()));
    assert_eq!(Inquiry::parse(&INQUIRY[..35]).unwrap().revision_text(), "000");
    let mut liar = INQUIRY[..36].to_vec();
    liar[4] = 0xff;
    assert_eq!(Inquiry::parse(&liar).unwrap().available, 260);
    assert_eq!(Inquiry::parse(&liar).unwrap().iscsi_level(), None);
}

/// SPC-4, Peripheral device type and qualifier.
#[test]
fn only_a_connected_disk_is_a_disk() {
    let text = |byte| DeviceType(byte).to_string();
    assert!(DeviceType(0).is_disk());
    for byte in [0x7f, 0x20, 0x0d, 0x1f, 0x05, 0x14] {
        assert!(!DeviceType(byte).is_disk());
    }
    assert_eq!(text(0x7f), "no device at this LUN");
    assert_eq!(text(0x20), "not connected: disk");
    assert_eq!(text(0x14), "host-managed zoned disk");
}

/// SPC-4, Vital product data: page echo, 16-bit length, truncation.
#[test]
fn vpd_headers() {
    let page = vpd::page(0x83, &[1, 2, 3]);
    assert_eq!(page, [0, 0x83, 0, 3, 1, 2, 3]);
    let header = VpdHeader::parse(0x83, &page).unwrap();
    assert_eq!((header.body, header.available, header.is_truncated()), (&[1, 2, 3][..], 7, false));
    assert!(VpdHeader::parse(0x83, &page[..6]).unwrap().is_truncated());
    assert!(VpdHeader::parse(0x80, &page).is_err());
    assert!(VpdHeader::parse(0x83, &INQUIRY).is_err());
    let trailing = [0, 0x83, 0, 1, 9, 8, 7];
    assert_eq!(VpdHeader::parse(0x83, &trailing).unwrap().body, [9]);
}

/// SPC-4, Unit Serial Number: padding on either side; blank is none.
#[test]
fn serial_numbers() {
    assert_eq!(vpd::serial(b"  ha1lun1  \0"), Some(b"ha1lun1".to_vec()));
    assert_eq!((vpd::serial(b""), vpd::serial(b"   "), vpd::serial(b"\0\0")), (None, None, None));
    assert_eq!(vpd::serial(b"\xff\x01"), Some(vec![0xff, 1]));
}

/// What tgtd reports: T10 vendor ID, NAA locally assigned, NAA registered extended, and the port.
const IDENTIFICATION: &[u8] = &[
    0x02, 0x01, 0, 12, b'T', b'E', b'S', b'T', b' ', b' ', b' ', b' ', b'h', b'a', b'1',
    b'x', // T10
    0x01, 0x03, 0, 8, 0x30, 0, 0, 1, 0, 0, 0, 1, // NAA 3
    0x01, 0x03, 0, 16, 0x60, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, // NAA 6
    0x03, 0x08, 0, 8, b'i', b'q', b'n', b'.', b'a', 0, 0, 0, // name, padded
    0x51, 0x94, 0, 4, 0, 0, 0, 7, // relative port 7, PIV, association 1
    0x51, 0x95, 0, 4, 0, 0, 1, 2, // port group 258
];

/// SPC-4, Device Identification VPD page.
#[test]
fn designators_of_page_83() {
    let found = vpd::designators(IDENTIFICATION);
    let texts: Vec<String> = found.iter().map(Designator::text).collect();
    let expected = [
        "t10.TEST    ha1x",
        "naa.3000000100000001",
        "naa.600102030405060708090a0b0c0d0e0f",
        "iqn.a",
        "port.00000007",
        "port-group.00000102",
    ];
    assert_eq!(texts, expected);
    assert_eq!(PortIdentity::find(&found), PortIdentity { group: Some(258), relative: Some(7) });
    assert_eq!(vpd::identification(&found), IDENTIFICATION);
}

/// SPC-4, Device Identification: lengths that lie.
#[test]
fn designators_that_lie() {
    let past_the_end = [&IDENTIFICATION[..16], &[1, 3, 0, 200, 0x60]].concat();
    assert_eq!(vpd::designators(&past_the_end).len(), 1);
    let empty_ones = [1, 3, 0, 0].repeat(200);
    assert_eq!(vpd::designators(&empty_ones), []);
    let all_pad = [3, 8, 0, 4, 0, 0, 0, 0];
    assert_eq!(vpd::designators(&all_pad), []);
    let many = [1, 3, 0, 1, 9].repeat(200);
    assert_eq!(vpd::designators(&many).len(), 200);
    let unknown = vpd::designators(&[1, 0x3d, 0, 1, 0xab]);
    assert_eq!(
        (unknown[0].association, unknown[0].text()),
        (Association::Reserved, "type-d.ab".into())
    );
}

/// SPC-4, Extended INQUIRY Data.
#[test]
fn extended_inquiry() {
    let page = vpd::Extended { volatile_cache: true, non_volatile_cache: false, luiclr: true };
    let bytes = emitted(&page);
    assert_eq!(&bytes[..8], [0, 0x86, 0, 60, 0, 0, 1, 1]);
    assert_eq!(vpd::Extended::parse(&bytes[4..]), page);
    assert_eq!(vpd::Extended::parse(&[]), vpd::Extended::default());
}

/// SBC-3, Block Limits: 64 bytes, and the 16 bytes of old devices.
#[test]
fn block_limits() {
    let limits = BlockLimits {
        write_same_non_zero: true,
        max_compare_and_write: 8,
        optimal_granularity: 0x0102,
        max_transfer: 0x0304_0506,
        optimal_transfer: 0x0708_090a,
        max_unmap_blocks: u32::MAX,
        max_unmap_descriptors: 256,
        unmap_granularity: 2048,
        unmap_alignment: Some(7),
        max_write_same: 0x0102_0304_0506_0708,
    };
    let expected = [
        0, 0xb0, 0, 60, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0, 0, 0, 0xff, 0xff, 0xff,
        0xff, //
        0, 0, 1, 0, 0, 0, 8, 0, 0x80, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8,
    ];
    let bytes = emitted(&limits);
    assert_eq!(bytes[..44], expected);
    assert!(bytes[44..].iter().all(|b| *b == 0) && bytes.len() == 64);
    assert_eq!(BlockLimits::parse(&bytes[4..]), limits);
    let old = BlockLimits::parse(&bytes[4..16]);
    assert_eq!((old.max_transfer, old.max_unmap_blocks, old.max_write_same), (0x0304_0506, 0, 0));
}

/// SBC-3, Block Device Characteristics: 0 not reported, 1 does not rotate.
#[test]
fn rotation() {
    for (rotation, rotates) in [(0, false), (1, false), (0x1c20, true)] {
        let page = BlockCharacteristics { rotation, zoned: 1 };
        let bytes = emitted(&page);
        assert_eq!(
            &bytes[..9],
            [0, 0xb1, 0, 60, (rotation >> 8) as u8, rotation as u8, 0, 0, 0x10]
        );
        assert_eq!(BlockCharacteristics::parse(&bytes[4..]), page);
        assert_eq!(page.rotates(), rotates);
    }
}

/// SBC-4, Logical Block Provisioning: every LBPRZ code.
#[test]
fn provisioning() {
    use UnmappedReads::{Anything, Pattern, Zeros};
    let expected = [Anything, Zeros, Pattern, Zeros, Anything, Zeros, Anything, Zeros];
    for (lbprz, reads) in (0..).zip(expected) {
        let page = Provisioning {
            threshold_exponent: 1,
            unmap: true,
            write_same_16: true,
            write_same_10: false,
            lbprz,
            anchor: true,
            kind: 2,
        };
        let bytes = emitted(&page);
        assert_eq!(bytes, [0, 0xb2, 0, 4, 1, 0xc2 | lbprz << 2, 2, 0]);
        assert_eq!(Provisioning::parse(&bytes[4..]), page);
        assert_eq!(page.unmapped_reads(), reads);
    }
}

/// SBC-3, READ CAPACITY(10) and (16).
#[test]
fn capacities() {
    let short = Capacity10 { last_lba: 0x0102_0304, block_size: 512 };
    assert_eq!(emitted(&short), [1, 2, 3, 4, 0, 0, 2, 0]);
    assert_eq!(Capacity10::parse(&emitted(&short)), Ok(short));
    assert!(Capacity10::parse(&[0; 7]).is_err());
    assert!(Capacity10 { last_lba: u32::MAX, block_size: 512 }.overflows());
    let long = Capacity16 {
        last_lba: 0x0102_0304_0506_0708,
        block_size: 4096,
        protection: true,
        protection_type: 2,
        basis: 1,
        physical_exponent: 3,
        provisioned: true,
        unmapped_zero: true,
        lowest_aligned: 0x1234,
    };
    let bytes = emitted(&long);
    assert_eq!(bytes[..16], [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x10, 0, 0x15, 3, 0xd2, 0x34]);
    assert_eq!((bytes.len(), &bytes[16..]), (32, &[0; 16][..]));
    assert_eq!(Capacity16::parse(&bytes), Ok(long));
}

/// SBC-3, READ CAPACITY(16): answers of 8, 12 and 16 bytes.
#[test]
fn short_capacity_16() {
    let bytes = [0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 2, 0, 0, 0, 0x80, 0];
    assert!(Capacity16::parse(&bytes[..8]).is_err());
    let twelve = Capacity16::parse(&bytes[..12]).unwrap();
    assert_eq!((twelve.last_lba, twelve.block_size, twelve.provisioned), (9, 512, false));
    assert!(Capacity16::parse(&bytes).unwrap().provisioned);
}

/// SPC-4, REPORT LUNS: the list length survives truncation, partial entries are dropped.
#[test]
fn lun_lists() {
    let luns = vec![0, 0x0005 << 48, 0x412c << 48, 0xd201_0203_0000_0000];
    let list = ReportedLuns { luns, available: 40 };
    let bytes = emitted(&list);
    assert_eq!(bytes[..18], [0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    assert_eq!(ReportedLuns::parse(&bytes), Ok(list.clone()));
    let cut = ReportedLuns::parse(&bytes[..30]).unwrap();
    assert_eq!((&cut.luns[..], cut.available), (&list.luns[..2], 40));
    assert!(ReportedLuns::parse(&[0; 8]).unwrap().luns.is_empty());
    let lying = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    assert_eq!(ReportedLuns::parse(&lying).unwrap().available, 0x1_0000_0007);
}

/// SAM-5, Logical unit numbers: peripheral and flat addressing; everything else is opaque.
#[test]
fn lun_addresses() {
    assert_eq!((luns::flat(5), luns::flat(300)), (Some(0x0005 << 48), Some(0x412c << 48)));
    assert_eq!(luns::flat(0x4000), None);
    assert_eq!(luns::number(0x0005 << 48), Some(5));
    assert_eq!(luns::number(0x4005 << 48), Some(5));
    assert_eq!(luns::number(0x412c << 48), Some(300));
    assert_eq!(luns::number(0xd200 << 48), None);
    assert_eq!(luns::number(0x0105 << 48), None);
    assert_eq!(luns::number(0x0005_0001 << 32), None);
    assert!(luns::is_well_known(0xc101 << 48) && !luns::is_well_known(0x4101 << 48));
}

/// SPC-4, MODE SENSE: both headers, both pages.
#[test]
fn mode_data() {
    let data = ModeData {
        write_protect: true,
        dpofua: true,
        caching: Some(Caching { write_cache: true, read_cache_disabled: true }),
        control: Some(Control {
            task_set: 1,
            descriptor_sense: true,
            queue_error: 3,
            ua_interlock: 2,
            software_write_protect: true,
            task_aborted_status: true,
        }),
    };
    let ten = data.to_vec_as(ModeForm::Ten);
    assert_eq!(ten[..12], [0, 38, 0, 0x90, 0, 0, 0, 0, 0x08, 18, 0x05, 0]);
    assert_eq!(ten[28..34], [0x0a, 10, 0x24, 0x06, 0x28, 0x40]);
    assert_eq!(ten.len(), 40);
    assert_eq!(ModeData::parse(ModeForm::Ten, &ten), Ok(data));
    let six = data.to_vec_as(ModeForm::Six);
    assert_eq!(six[..6], [35, 0, 0x90, 0, 0x08, 18]);
    assert_eq!(ModeData::parse(ModeForm::Six, &six), Ok(data));
    assert_eq!(emitted(&data.caching.unwrap()).len(), 20);
    assert_eq!(emitted(&data.control.unwrap()).len(), 12);
}

/// SPC-4, Mode parameter header: block descriptors although DBD=1, another page first, subpages.
#[test]
fn mode_data_of_odd_devices() {
    let mut with_descriptor = vec![0, 0, 0, 0, 0, 0, 0, 8];
    with_descriptor.extend_from_slice(&[9; 8]);
    with_descriptor.extend_from_slice(&[0x0a, 2, 0, 0]); // the wrong page first
    with_descriptor.extend_from_slice(&[0x48, 1, 0, 2, 0xff, 0xff]); // subpage 1 of the same code
    with_descriptor.extend_from_slice(&[0x88, 1, 0x04]); // PS=1, and a short page
    with_descriptor[1] = u8::try_from(with_descriptor.len() - 2).unwrap();
    let mode = ModeData::parse(ModeForm::Ten, &with_descriptor).unwrap();
    assert_eq!(mode.caching, Some(Caching { write_cache: true, read_cache_disabled: false }));
    let mut huge = with_descriptor.clone();
    huge[6..8].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(ModeData::parse(ModeForm::Ten, &huge).unwrap().caching, None);
    assert!(ModeData::parse(ModeForm::Ten, &[0; 7]).is_err());
    assert!(ModeData::parse(ModeForm::Six, &[0; 3]).is_err());
}

/// SBC-3, GET LBA STATUS.
#[test]
fn lba_status_lists() {
    let list = [
        LbaStatus { lba: 8, blocks: 8, provision: Provision::Mapped },
        LbaStatus { lba: 16, blocks: 16, provision: Provision::Deallocated },
        LbaStatus { lba: 32, blocks: 1, provision: Provision::Anchored },
    ];
    let mut bytes = vec![0xa5; list.buffer_len()];
    list.emit(&mut bytes);
    assert_eq!(bytes[..8], [0, 0, 0, 52, 0, 0, 0, 0]);
    assert_eq!(bytes[24..40], [0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 16, 1, 0, 0, 0]);
    assert_eq!(lba_status::contiguous(&bytes, 8).collect::<Vec<_>>(), list);
    // Asked in the middle: cut to begin there.
    let from_10: Vec<_> = lba_status::contiguous(&bytes, 10).collect();
    assert_eq!(from_10[0], LbaStatus { lba: 10, blocks: 6, provision: Provision::Mapped });
    // Asked before or after the first one, or cut off: nothing is known from there on.
    assert_eq!(lba_status::contiguous(&bytes, 7).count(), 0);
    assert_eq!(lba_status::contiguous(&bytes, 16).count(), 0);
    assert_eq!(lba_status::contiguous(&bytes[..39], 8).count(), 1);
    assert_eq!(lba_status::contiguous(&[], 0).count(), 0);
}

/// SBC-3, GET LBA STATUS: empty, overlapping and wrapping descriptors end the list.
#[test]
fn lba_status_lists_that_lie() {
    let list = |entries: &[(u64, u32)]| {
        let status = |(lba, blocks): &(u64, u32)| LbaStatus {
            lba: *lba,
            blocks: *blocks,
            provision: Provision::Deallocated,
        };
        Emit::to_vec(entries.iter().map(status).collect::<Vec<_>>().as_slice())
    };
    assert_eq!(lba_status::contiguous(&list(&[(0, 0), (0, 5)]), 0).count(), 0);
    assert_eq!(lba_status::contiguous(&list(&[(0, 5), (9, 5)]), 0).count(), 1);
    assert_eq!(lba_status::contiguous(&list(&[(0, 5), (0, 5)]), 0).count(), 1);
    assert_eq!(lba_status::contiguous(&list(&[(u64::MAX, 5)]), u64::MAX).count(), 0);
}

/// SBC-3, UNMAP parameter list.
#[test]
fn unmap_lists() {
    let list = unmap::one_range(0x0102_0304_0506_0708, 0x090a_0b0c);
    let expected = [0, 22, 0, 16, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0, 0, 0];
    assert_eq!(list, expected);
    let ranges = |list| unmap::ranges(list).map(Iterator::collect::<Vec<_>>);
    assert_eq!(ranges(&list), Some(vec![(0x0102_0304_0506_0708, 0x090a_0b0c)]));
    assert_eq!(
        (ranges(&[]), ranges(&list[..7]), ranges(&list[..23])),
        (Some(vec![]), None, Some(vec![]))
    );
}

/// SPC-4, REPORT TARGET PORT GROUPS: both headers.
#[test]
fn port_groups() {
    let groups = vec![
        PortGroup {
            group: 0x0102,
            state: AccessState::ActiveOptimized,
            preferred: true,
            supported: 0xdf,
            status: 2,
            ports: vec![1, 2],
            ports_cut: false,
        },
        PortGroup {
            group: 3,
            state: AccessState::Standby,
            preferred: false,
            supported: 0,
            status: 0,
            ports: vec![],
            ports_cut: false,
        },
    ];
    let plain = PortGroups { transition_secs: None, groups: groups.clone(), available: 28 };
    let expected = [
        0, 0, 0, 24, 0x80, 0xdf, 1, 2, 0, 2, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, //
        0x02, 0, 0, 3, 0, 0, 0, 0,
    ];
    assert_eq!(emitted(&plain), expected);
    assert_eq!(PortGroups::parse(&expected), Ok(plain));
    let extended = PortGroups { transition_secs: Some(60), groups, available: 32 };
    let bytes = emitted(&extended);
    assert_eq!(bytes[..9], [0, 0, 0, 28, 0x10, 60, 0, 0, 0x80]);
    assert_eq!(PortGroups::parse(&bytes), Ok(extended.clone()));
    assert_eq!(extended.state_of(3), Some((AccessState::Standby, false)));
    assert_eq!(extended.state_of(4), None);
}

/// SPC-4, SET TARGET PORT GROUPS: four reserved bytes, then state, reserved, group.
#[test]
fn port_groups_that_are_asked_for() {
    let list = port_groups::set_one(0x0102, AccessState::Standby);
    assert_eq!(list, [0, 0, 0, 0, 2, 0, 1, 2]);
    assert_eq!(port_groups::wanted(&list), Some(vec![(0x0102, AccessState::Standby)]));
    for cut in [&list[..0], &list[..4], &list[..7]] {
        assert_eq!(port_groups::wanted(cut), None);
    }
}

/// SPC-4, REPORT TARGET PORT GROUPS: counts past the end, a group listed twice.
#[test]
fn port_groups_that_lie() {
    let lying = [
        0, 0, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0x02, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9,
    ];
    let parsed = PortGroups::parse(&lying).unwrap();
    assert_eq!((parsed.groups.len(), parsed.available), (3, 0x1_0003));
    assert_eq!(parsed.state_of(1), Some((AccessState::Standby, false)));
    assert!(PortGroups::parse(&[0; 3]).is_err());
    // As LIO (Linux 6.1) answers: the extended header is not in the length, and the last port is not sent.
    let lio = [
        0, 0, 0, 24, 0x10, 0, 0, 0, //
        0, 0x4f, 0, 11, 0, 0, 0, 1, 0, 0, 0, 1, //
        0x81, 0x4f, 0, 12, 0, 2, 0, 1,
    ];
    let parsed = PortGroups::parse(&lio).unwrap();
    assert_eq!(parsed.state_of(11), Some((AccessState::ActiveOptimized, false)));
    assert_eq!(parsed.state_of(12), Some((AccessState::ActiveNonOptimized, true)));
    assert_eq!((&parsed.groups[0].ports[..], &parsed.groups[1].ports[..]), (&[1][..], &[][..]));
    assert_eq!((parsed.groups[0].ports_cut, parsed.groups[1].ports_cut), (false, true));
    assert_eq!(AccessState::from_bits(7).to_string(), "state 0x7");
    for bits in 0..16 {
        assert_eq!(AccessState::from_bits(bits).bits(), bits);
    }
}

/// SPC-4, Fixed format sense data: VALID, ASC and ASCQ, sense-key specific bytes.
#[test]
fn fixed_sense() {
    let bytes = [0xf0, 0, 0xe3, 1, 2, 3, 4, 10, 0, 0, 0, 0, 0x11, 0x04, 0, 0x80, 0, 9];
    let sense = Sense::parse(&bytes).unwrap();
    assert_eq!(sense.triple(), (SenseKey::MediumError, 0x11, 0x04));
    assert_eq!((sense.information, sense.specific), (Some(0x0102_0304), Some([0x80, 0, 9])));
    let text =
        "MEDIUM ERROR (03/11/04, unrecovered read error, auto reallocate failed, at 0x1020304)";
    assert_eq!(sense.to_string(), text);
    let mut expected = bytes;
    expected[2] = 0x03;
    assert_eq!(sense.to_fixed(), expected);
    let deferred = Sense::parse(&[0x71, 0, 4]).unwrap();
    assert!(deferred.deferred && deferred.to_fixed()[0] == 0x71);
}

/// SPC-4, Fixed format: every truncation, and additional lengths of 0 and 255.
#[test]
fn truncated_fixed_sense() {
    let bytes = [0xf0, 0, 0x06, 1, 2, 3, 4, 10, 0, 0, 0, 0, 0x29, 0x01, 0, 0, 0, 0];
    for len in 0..=bytes.len() {
        let sense = Sense::parse(&bytes[..len]);
        match len {
            0 => assert_eq!(sense, Err(SenseError::Short(0))),
            1 | 2 => assert_eq!(sense, Err(SenseError::Short(len))),
            3..14 => assert_eq!(sense.unwrap().triple(), (SenseKey::UnitAttention, 0, 0)),
            _ => assert_eq!(sense.unwrap().triple(), (SenseKey::UnitAttention, 0x29, 0x01)),
        }
    }
    let with_length = |len| {
        let mut bytes = bytes;
        bytes[7] = len;
        Sense::parse(&bytes).unwrap().asc
    };
    assert_eq!((with_length(0), with_length(255)), (0, 0x29));
}

/// SPC-4, Sense data response codes.
#[test]
fn response_codes() {
    for code in 0..=u8::MAX {
        let is_sense = matches!(code & 0x7f, 0x70..=0x73);
        assert_eq!(Sense::parse(&[code; 18]).is_ok(), is_sense, "{code:#x}");
    }
    assert_eq!(Sense::parse(&[0x7f; 18]), Err(SenseError::ResponseCode(0x7f)));
}

/// SPC-4, Descriptor format sense data.
#[test]
fn descriptor_sense() {
    let bytes = [
        0x72, 0x05, 0x24, 0x00, 0, 0, 0, 0x16, 0x80,
        0x00, // an unknown descriptor of no length
        0x00, 0x0a, 0x80, 0, 1, 2, 3, 4, 5, 6, 7, 8, // information
        0x02, 0x06, 0, 0, 0xc0, 0, 1, 0, // sense-key specific
    ];
    let sense = Sense::parse(&bytes).unwrap();
    assert_eq!(sense.triple(), (SenseKey::IllegalRequest, 0x24, 0x00));
    assert_eq!((sense.information, sense.field_pointer()), (Some(0x0102_0304_0506_0708), Some(1)));
    let emitted = sense.to_descriptors();
    assert_eq!((emitted.len(), emitted[7]), (28, 20));
    assert_eq!(Sense::parse(&emitted), Ok(sense));
    // INFORMATION beyond 32 bits has no place in fixed format.
    assert_eq!(Sense::parse(&sense.to_fixed()).unwrap().information, None);
    let endless = [&[0x73, 6, 0x2a, 9, 0, 0, 0, 255][..], &[0x80, 0].repeat(100)].concat();
    let sense = Sense::parse(&endless).unwrap();
    assert!(sense.deferred && sense.triple() == (SenseKey::UnitAttention, 0x2a, 9));
    let past_the_end = [0x72, 5, 0x21, 0, 0, 0, 0, 4, 0x00, 0x0a, 0x80, 0];
    assert_eq!(Sense::parse(&past_the_end).unwrap().information, None);
    assert_eq!(Sense::parse(&[0x72]), Err(SenseError::Short(1)));
}

/// SPC-4, ILLEGAL REQUEST field pointer.
#[test]
fn field_pointers() {
    let sense = Sense::invalid_field_in_cdb(0x0102);
    assert_eq!(sense.to_fixed()[12..], [0x24, 0, 0, 0xc0, 1, 2]);
    assert_eq!(Sense::parse(&sense.to_fixed()).unwrap().field_pointer(), Some(0x0102));
}

proptest! {
    /// Whatever a target sends, whatever its length fields say.
    #[test]
    fn parsers_never_panic(data in prop::collection::vec(any::<u8>(), 0..600), lba: u64) {
        parse_everything(&data, lba);
    }

    /// The same with a plausible beginning, so that the inner loops are reached.
    #[test]
    fn parsers_never_panic_deep(
        page in prop::sample::select(vec![0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]),
        code in prop::sample::select(vec![0x70, 0x71, 0x72, 0x73, 0xf0]),
        len: u16,
        body in prop::collection::vec(prop::sample::select(vec![0, 1, 2, 3, 4, 8, 16, 0x40, 255]), 0..900),
    ) {
        let mut data = vec![code, page];
        data.extend_from_slice(&len.to_be_bytes());
        data.extend_from_slice(&body);
        parse_everything(&data, 0);
        data[..2].fill(0);
        parse_everything(&data, 1);
    }

    /// What one side builds, the other reads.
    #[test]
    fn transfers_survive(lba: u64, blocks: u32, fua: bool, dpo: bool, protect in 0u8..8) {
        let t = Transfer { fua, dpo, protect, ..Transfer::new(lba, blocks) };
        prop_assert_eq!(Cdb::parse(&Cdb::Read(t).to_bytes()), Ok(Cdb::Read(t)));
        prop_assert_eq!(Cdb::parse(&Cdb::Write(t).to_bytes()), Ok(Cdb::Write(t)));
    }

    /// A CDB of any 16 bytes is parsed or refused, and what was parsed can be built again.
    #[test]
    fn any_cdb(bytes: [u8; 16]) {
        if let Ok(cdb) = Cdb::parse(&bytes) {
            prop_assert_eq!(Cdb::parse(&cdb.to_bytes()), Ok(cdb));
            let _ = (cdb.data(65_536), cdb.len(), cdb.changes_medium());
        }
    }

    #[test]
    fn sense_survives(
        key in 0u8..16, asc: u8, ascq: u8, deferred: bool,
        information: Option<u64>, specific: Option<[u8; 3]>,
    ) {
        let specific = specific.map(|[a, b, c]| [a | 0x80, b, c]);
        let key = SenseKey::from_bits(key);
        let sense = Sense { deferred, key, asc, ascq, information, specific };
        prop_assert_eq!(Sense::parse(&sense.to_descriptors()), Ok(sense));
        prop_assert_eq!(Sense::parse(&sense.to_fixed()).map(|s| s.triple()), Ok(sense.triple()));
        prop_assert!(!sense.to_string().is_empty());
    }
}

fn parse_everything(data: &[u8], lba: u64) {
    if let Ok(inquiry) = Inquiry::parse(data) {
        let _ = (inquiry.vendor_text(), inquiry.product_text(), inquiry.device.to_string());
        let _ = (inquiry.revision_text(), inquiry.iscsi_level());
    }
    for page in [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2] {
        if let Ok(header) = VpdHeader::parse(page, data) {
            let _ = (header.is_truncated(), vpd::lists(header.body, 0x83));
            parse_bodies(header.body);
        }
    }
    parse_bodies(data);
    let _ = (Capacity10::parse(data), Capacity16::parse(data), ReportedLuns::parse(data));
    let _ = (ModeData::parse(ModeForm::Six, data), ModeData::parse(ModeForm::Ten, data));
    assert!(lba_status::contiguous(data, lba).count() <= data.len() / 16);
    let _ = (unmap::ranges(data).map(Iterator::count), port_groups::wanted(data));
    if let Ok(groups) = PortGroups::parse(data) {
        let _ = groups.state_of(1);
    }
    if let Ok(sense) = Sense::parse(data) {
        let _ = (sense.to_string(), sense.field_pointer());
    }
}

fn parse_bodies(body: &[u8]) {
    let designators = vpd::designators(body);
    assert!(designators.len() <= body.len() / 4);
    for designator in &designators {
        assert!(designator.text().bytes().all(|b| (0x20..=0x7e).contains(&b)));
    }
    let _ = (PortIdentity::find(&designators), vpd::serial(body), vpd::Extended::parse(body));
    let _ =
        (BlockLimits::parse(body), BlockCharacteristics::parse(body), Provisioning::parse(body));
}
