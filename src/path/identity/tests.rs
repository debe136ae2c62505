//! Which names are chosen, what contradicts, and what a unit's numbers come to.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

fn lu(kind: DesignatorKind, value: &[u8]) -> Designator {
    let code = if matches!(kind, DesignatorKind::T10 | DesignatorKind::Name) { 2 } else { 1 };
    Designator::new(Association::LogicalUnit, kind, code, value)
}

fn naa(first: u8, rest: u8, len: usize) -> Designator {
    let mut value = vec![rest; len];
    value[0] = first;
    lu(DesignatorKind::Naa, &value)
}

fn inquiry() -> Inquiry {
    let mut data = [b' '; 36];
    data[..8].copy_from_slice(&[0, 0, 6, 2, 31, 0, 0, 2]);
    data[8..12].copy_from_slice(b"TEST");
    data[16..22].copy_from_slice(b"MIRROR");
    Inquiry::parse(&data).unwrap()
}

fn findings() -> Findings {
    Findings {
        inquiry: inquiry(),
        designators: vec![naa(0x60, 1, 16)],
        serial: Some(b"ha1lun1".to_vec()),
        limits: BlockLimits::default(),
        characteristics: BlockCharacteristics::default(),
        provisioning: None,
        capacity: Capacity16 { last_lba: 2047, block_size: 512, ..Capacity16::default() },
        long_cdbs: true,
        write_cache: true,
        dpofua: false,
        write_protect: false,
        control: None,
    }
}

fn unit(change: impl FnOnce(&mut Findings)) -> LogicalUnit {
    let mut found = findings();
    change(&mut found);
    LogicalUnit::new(found).unwrap()
}

fn named(names: &[Designator]) -> LogicalUnit {
    unit(|f| f.designators = names.to_vec())
}

fn refusal(a: &LogicalUnit, b: &LogicalUnit) -> String {
    compare(a, b).unwrap_err().to_string()
}

/// SPC-4, Device Identification: the order of choice, best first, whatever the order in the page.
#[test]
fn the_best_name_is_chosen() {
    let order = [
        (naa(0x60, 1, 16), "naa.60010101010101010101010101010101"),
        (naa(0x50, 1, 8), "naa.5001010101010101"),
        (naa(0x20, 1, 8), "naa.2001010101010101"),
        (lu(DesignatorKind::Eui64, &[1; 16]), "eui.01010101010101010101010101010101"),
        (lu(DesignatorKind::Eui64, &[1; 12]), "eui.010101010101010101010101"),
        (lu(DesignatorKind::Eui64, &[1; 8]), "eui.0101010101010101"),
        (lu(DesignatorKind::Name, b"iqn.2026-11.test:lu"), "iqn.2026-11.test:lu"),
        (lu(DesignatorKind::Uuid, &[1; 18]), "uuid.010101010101010101010101010101010101"),
        (lu(DesignatorKind::T10, b"TEST    a\x1bb"), "t10.TEST    a\\x1bb"),
        (naa(0x30, 1, 8), "naa.3001010101010101"),
    ];
    for from in 0..order.len() {
        let mut names: Vec<Designator> = order[from..].iter().map(|(d, _)| d.clone()).collect();
        assert_eq!(named(&names).wwid(), Some(order[from].1));
        names.reverse();
        assert_eq!(named(&names).wwid(), Some(order[from].1));
    }
}

/// SPC-4, Device Identification: what names no unit in the world is not a name to join by.
#[test]
fn names_that_do_not_join() {
    let of_port = Designator::new(Association::TargetPort, DesignatorKind::Naa, 1, &[0x60; 16]);
    for names in [
        vec![],
        vec![of_port],
        vec![lu(DesignatorKind::Vendor, b"same everywhere")],
        vec![lu(DesignatorKind::Name, b"disk one")],
        vec![lu(DesignatorKind::Naa, &[0x60; 8])], // type 6 has 16 bytes
        vec![lu(DesignatorKind::Eui64, &[1; 9])],
        vec![lu(DesignatorKind::T10, b"TEST    ")], // only the vendor
    ] {
        let unit = named(&names);
        assert_eq!(unit.wwid(), None, "{names:?}");
        assert!(refusal(&unit, &unit).starts_with("the device has no name to join paths by"));
        assert_eq!(compare_again(&unit, &unit), Ok(()));
    }
}

/// What tgtd shows: T10, locally assigned NAA from target and LUN numbers, and NAA registered extended.
#[test]
fn a_mirrored_pair_of_tgtd() {
    let names = |local| {
        [
            naa(0x60, 0xe1, 16),
            naa(0x30, local, 8),
            lu(DesignatorKind::T10, b"TEST    TEST-ha1-lun1"),
        ]
    };
    let (a, b) = (named(&names(1)), named(&names(2)));
    assert_eq!(a.wwid(), Some("naa.60e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1"));
    assert_eq!(compare(&a, &b), Ok(()));
    // With nothing better the locally assigned name counts.
    let (a, b) = (named(&[naa(0x30, 1, 8)]), named(&[naa(0x30, 2, 8)]));
    let expected = "identity (WWID) differs: the device has naa.3001010101010101, \
                    this path naa.3002020202020202";
    assert_eq!(refusal(&a, &b), expected);
}

/// SPC-4, Device Identification: other names present on both must not contradict.
#[test]
fn other_names_must_not_contradict() {
    let eui = |n: u8| lu(DesignatorKind::Eui64, &[n; 8]);
    let both = naa(0x60, 1, 16);
    let a = named(&[both.clone(), eui(1)]);
    let text = "another name of the unit differs: the device has eui.0101010101010101, this path \
                eui.0202020202020202";
    assert_eq!(refusal(&a, &named(&[both.clone(), eui(2)])), text);
    // Fewer names are no contradiction, nor is another kind of name.
    assert_eq!(compare(&a, &named(std::slice::from_ref(&both))), Ok(()));
    assert_eq!(compare(&a, &named(&[both.clone(), lu(DesignatorKind::Eui64, &[9; 16])])), Ok(()));
    // More names of a kind are fine as long as one side has all of the other's.
    assert_eq!(compare(&a, &named(&[both.clone(), eui(1), eui(2)])), Ok(()));
    assert!(
        compare(&named(&[both.clone(), eui(1), eui(3)]), &named(&[both.clone(), eui(1), eui(2)]))
            .is_err()
    );
    // Names with different prefixes say different things; vendor-specific ones say nothing.
    let name = |text: &[u8]| lu(DesignatorKind::Name, text);
    let (x, y) = (name(b"naa.6001"), name(b"iqn.2026-11.test"));
    assert_eq!(compare(&named(&[both.clone(), x]), &named(&[both.clone(), y])), Ok(()));
    let vendor = |text: &[u8]| lu(DesignatorKind::Vendor, text);
    let (x, y) = (vendor(b"node 1"), vendor(b"node 2"));
    assert_eq!(compare(&named(&[both.clone(), x]), &named(&[both, y])), Ok(()));
}

/// The chosen names must be equal in type, too.
#[test]
fn type_and_bytes() {
    let eui = named(&[lu(DesignatorKind::Eui64, &[0x50; 8])]);
    let naa = named(&[lu(DesignatorKind::Naa, &[0x50; 8])]);
    assert!(refusal(&eui, &naa).contains("eui.5050505050505050, this path naa.5050505050505050"));
}

/// Everything else that must be the same, with both values in the text.
#[test]
fn properties_must_agree() {
    let a = unit(|_| {});
    let check =
        |change: fn(&mut Findings), text: &str| assert_eq!(refusal(&a, &unit(change)), text);
    check(
        |f| f.capacity.last_lba = 1023,
        "capacity differs: the device has 1048576 bytes, this path 524288 bytes",
    );
    check(
        |f| f.capacity = Capacity16 { last_lba: 255, block_size: 4096, ..f.capacity },
        "block size differs: the device has 512 bytes, this path 4096 bytes",
    );
    check(
        |f| f.serial = Some(b"other\x1b".to_vec()),
        "unit serial number differs: the device has \"ha1lun1\", this path \"other\\x1b\"",
    );
    check(
        |f| f.write_protect = true,
        "write protection differs: the device has writable, this path read-only",
    );
    assert_eq!(compare(&a, &unit(|f| f.serial = None)), Ok(()));
}

/// SBC-3, READ CAPACITY: what can be used.
#[test]
fn sizes() {
    let with = |last_lba, block_size| {
        let mut found = findings();
        found.capacity = Capacity16 { last_lba, block_size, ..Capacity16::default() };
        LogicalUnit::new(found)
    };
    for size in [0, 1, 256, 520, 131_072, 1 << 31, u32::MAX] {
        assert_eq!(with(9, size), Err(Unusable::BlockSize(size)));
    }
    assert_eq!(with(0, 512).unwrap().size_bytes(), 512);
    assert_eq!(with(0xffff_ffff, 4096).unwrap().size_bytes(), 1 << 44);
    let most = (1 << 54) - 2;
    assert_eq!(with(most, 512).unwrap().size_bytes(), (1 << 63) - 512);
    for last_lba in [most + 1, u64::MAX - 1, u64::MAX] {
        assert_eq!(with(last_lba, 512), Err(Unusable::Capacity { last_lba, block_size: 512 }));
    }
}

/// SPC-4, Peripheral device type: disks only.
#[test]
fn disks_only() {
    let mut found = findings();
    found.inquiry.device = DeviceType(0x14);
    let error = LogicalUnit::new(found).unwrap_err();
    assert_eq!(error.to_string(), "not a usable disk: host-managed zoned disk");
}

/// SBC-3, Block Limits: 0 is "not reported", and our own limits hold.
#[test]
fn transfer_limits() {
    let with = |max_transfer, long_cdbs| {
        unit(|f| {
            f.limits.max_transfer = max_transfer;
            f.long_cdbs = long_cdbs;
        })
        .max_transfer_blocks()
    };
    assert_eq!((with(0, true), with(1, true), with(7, true)), (2048, 1, 7));
    assert_eq!((with(u32::MAX, true), with(0, false)), (2048, 2048));
    let big = unit(|f| f.capacity.block_size = 65_536);
    assert_eq!((big.max_transfer_blocks(), big.max_write_same_blocks()), (16, 1024));
}

/// SBC-3, Block Limits: the preferred size is a power of two that one READ can move.
#[test]
fn preferred_sizes() {
    let with = |granularity, exponent, max_transfer| {
        unit(|f| {
            f.limits.optimal_granularity = granularity;
            f.capacity.physical_exponent = exponent;
            f.limits.max_transfer = max_transfer;
        })
        .preferred_block_size()
    };
    assert_eq!((with(0, 0, 0), with(3, 0, 0), with(8, 3, 0)), (4096, 4096, 4096));
    assert_eq!((with(128, 0, 0), with(u16::MAX, 15, 0)), (65_536, TRANSFER_MAX));
    assert_eq!((with(8, 3, 1), with(8, 3, 3)), (512, 1024));
}

/// SBC-3, UNMAP: needs LBPME, LBPU and both counts.
#[test]
fn unmap_support() {
    let thin = |f: &mut Findings| {
        f.capacity.provisioned = true;
        f.provisioning = Some(Provisioning { unmap: true, ..Provisioning::default() });
        f.limits.max_unmap_blocks = u32::MAX;
        f.limits.max_unmap_descriptors = 1;
    };
    let limits = unit(thin).unmap().unwrap();
    assert_eq!((limits.max_blocks, limits.granularity, limits.alignment), (131_072, 1, 0));
    let without: [fn(&mut Findings); 5] = [
        |f| f.capacity.provisioned = false,
        |f| f.provisioning = None,
        |f| f.provisioning = Some(Provisioning::default()),
        |f| f.limits.max_unmap_blocks = 0,
        |f| f.limits.max_unmap_descriptors = 0,
    ];
    for change in without {
        let unit = unit(|f| {
            thin(f);
            change(f);
        });
        assert!(!unit.can_unmap());
    }
}

/// SBC-3, Block Limits: granularity 2048 with alignment 7 drops the ragged edges.
#[test]
fn whole_granules() {
    let limits = UnmapLimits { max_blocks: 1, granularity: 2048, alignment: 7 };
    assert_eq!(limits.whole_granules(0, 4096), Some((7, 2048)));
    assert_eq!(limits.whole_granules(8, 4096), Some((2055, 2048)));
    assert_eq!(limits.whole_granules(8, 2048), None);
    assert_eq!(limits.whole_granules(0, 6), None);
    assert_eq!(limits.whole_granules(u64::MAX, 1), None);
    let any = UnmapLimits { max_blocks: 1, granularity: 1, alignment: 0 };
    assert_eq!((any.whole_granules(3, 5), any.whole_granules(3, 0)), (Some((3, 5)), None));
}

/// SBC-4, LBPRZ: only xx1b in page B2h *and* LBPRZ in READ CAPACITY(16) promise zeros.
#[test]
fn zero_by_unmap() {
    let with = |lbprz, in_capacity, write_same_16| {
        unit(|f| {
            f.capacity.provisioned = true;
            f.capacity.unmapped_zero = in_capacity;
            f.provisioning = Some(Provisioning { lbprz, write_same_16, ..Provisioning::default() });
        })
    };
    for lbprz in 0..8 {
        assert_eq!(with(lbprz, true, true).can_zero_by_unmap(), lbprz & 1 == 1);
        assert!(!with(lbprz, false, true).can_zero_by_unmap());
        assert!(!with(lbprz, true, false).can_zero_by_unmap());
        assert_eq!(with(lbprz, true, true).ndob_means_zero(), lbprz != 2);
    }
    assert!(!unit(|f| f.capacity.unmapped_zero = true).unmapped_reads_zero());
}

/// SBC-3, WRITE SAME: 0 is "not reported"; the length is bounded anyway.
#[test]
fn write_same_limits() {
    let with = |max, long_cdbs| {
        unit(|f| {
            f.limits.max_write_same = max;
            f.long_cdbs = long_cdbs;
        })
        .max_write_same_blocks()
    };
    assert_eq!((with(0, true), with(1, true), with(u64::MAX, true)), (131_072, 1, 131_072));
    assert_eq!(with(0, false), 65_535);
}

proptest! {
    /// Any names and numbers: building and comparing never panic, and a unit equals itself.
    #[test]
    fn anything_can_be_judged(
        body in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 3, 8, 16, 0x30, 0x60, b'e']), 0..300),
        last_lba: u64, exponent in 9u32..17, granularity: u16, max_transfer: u32, physical in 0u8..16,
    ) {
        let mut found = findings();
        found.designators = crate::wire::scsi::vpd::designators(&body);
        found.limits.optimal_granularity = granularity;
        found.limits.max_transfer = max_transfer;
        found.capacity = Capacity16 {
            last_lba, block_size: 1 << exponent, physical_exponent: physical, ..Capacity16::default()
        };
        if let Ok(unit) = LogicalUnit::new(found) {
            let preferred = unit.preferred_block_size();
            prop_assert!(preferred.is_power_of_two() && (512..=TRANSFER_MAX).contains(&preferred));
            prop_assert!(unit.max_transfer_blocks() >= 1);
            prop_assert_eq!(compare(&unit, &unit).is_ok(), unit.wwid().is_some());
            prop_assert_eq!(compare_again(&unit, &unit), Ok(()));
        }
    }

    /// Granules lie inside the range and on their boundaries.
    #[test]
    fn granules_are_inside(lba: u64, blocks: u32, granularity in 1u32.., alignment: u32) {
        let limits = UnmapLimits { max_blocks: 1, granularity, alignment: alignment % granularity };
        if let Some((from, len)) = limits.whole_granules(lba, blocks.into()) {
            prop_assert!(from >= lba && from + len <= lba + u64::from(blocks) && len > 0);
            let on = |block: u64| (block - u64::from(limits.alignment)).is_multiple_of(granularity.into());
            prop_assert!(on(from) && on(from + len));
        }
    }
}
