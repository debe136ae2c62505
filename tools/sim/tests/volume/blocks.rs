//! TRIM, WRITE_ZEROES, BLOCK_STATUS, limits of the unit, and requests that are not whole blocks.

use mpio::base::Duration;
use mpio::export::client::Answer;
use mpio::wire::nbd::{Command, NbdError, command_flags, extent_flags};
use mpio_sim::world::{Setup, World, pattern};
use mpio_target::PairConfig;
use mpio_target::config::Abilities;

const UNMAP: u8 = 0x42;
const WRITE_SAME_16: u8 = 0x93;
const WRITE_10: u8 = 0x2a;

fn world(block_size: u32, change: impl Fn(&mut Abilities)) -> (World, usize) {
    let mut pair = PairConfig { block_size, ..PairConfig::default() };
    pair.nodes.iter_mut().for_each(|node| change(&mut node.abilities));
    let mut w = World::new(Setup { pair, ..Setup::default() });
    let c = w.client();
    (w, c)
}

fn all(w: &World, opcode: u8) -> Vec<(u64, u64)> {
    let mut out: Vec<_> =
        w.records().iter().filter(|r| r.opcode == opcode).map(|r| (r.lba, r.blocks)).collect();
    out.sort_unstable();
    out
}

#[test]
fn trim_is_split_to_the_limits_and_keeps_edges() {
    let (mut w, c) = world(512, |a| a.max_unmap = 1000);
    w.write(c, 0, &pattern(1, 1 << 20)).expect("written");
    w.other(c, Command::TRIM, 0, 100, (1 << 20) - 200).expect("trimmed");
    let ranges = all(&w, UNMAP);
    assert!(ranges.iter().all(|(_, blocks)| *blocks <= 1000), "{ranges:?}");
    let mut next = ranges[0].0;
    for (lba, blocks) in &ranges {
        assert_eq!(*lba, next, "{ranges:?}");
        next += blocks;
    }
    assert!(ranges[0].0 >= 1 && next <= 2047, "{ranges:?}");
    assert_eq!(w.read(c, 0, 512).expect("read"), pattern(1, 512));
    w.finish();
    let (mut w, c) = world(512, |a| a.unmap = false);
    w.other(c, Command::TRIM, 0, 0, 1 << 20).expect_err("not offered");
    w.finish();
}

#[test]
fn zeroes_are_written_in_the_cheapest_way() {
    let (mut w, c) = world(512, |_| {});
    w.write(c, 0, &pattern(1, 8 << 20)).expect("written");
    w.other(c, Command::WRITE_ZEROES, 0, 0, 4 << 20).expect("zeroed");
    w.other(c, Command::WRITE_ZEROES, command_flags::NO_HOLE, 4 << 20, 4 << 20).expect("zeroed");
    w.other(c, Command::WRITE_ZEROES, command_flags::FAST_ZERO, 0, 4096).expect("fast");
    assert!(w.read(c, 0, 8 << 20).expect("read").iter().all(|byte| *byte == 0));
    let store = w.pair.store(0);
    assert!(!store.allocation(0, 512).expect("memory").0, "a hole");
    assert!(store.allocation(4 << 20, 512).expect("memory").0, "no hole");
    assert_eq!(all(&w, WRITE_SAME_16).len(), 3);
    w.finish();
}

#[test]
fn a_unit_without_write_same_gets_zeros_written() {
    let (mut w, c) = world(512, |a| a.write_same = false);
    w.write(c, 0, &pattern(1, 4 << 20)).expect("written");
    let fast = command_flags::FAST_ZERO;
    assert_eq!(
        w.other(c, Command::WRITE_ZEROES, fast, 0, 4096).map(drop),
        Err(NbdError::NotSupported)
    );
    assert_eq!(w.read(c, 0, 4096).expect("unchanged"), pattern(1, 4096));
    w.other(c, Command::WRITE_ZEROES, 0, 512, (4 << 20) - 1024).expect("zeroed");
    let data = w.read(c, 0, 4 << 20).expect("read");
    assert!(data[512..(4 << 20) - 512].iter().all(|byte| *byte == 0));
    assert_eq!(data[..512], pattern(1, 512));
    assert!(data[(4 << 20) - 512..].iter().any(|byte| *byte != 0));
    w.finish();
}

#[test]
fn zeroes_that_are_not_whole_blocks() {
    let (mut w, c) = world(4096, |_| {});
    let mut model = pattern(1, 64 * 1024);
    w.write(c, 0, &model).expect("written");
    for (offset, len) in [(1, 1), (4000, 200), (5, 20_000)] {
        w.other(c, Command::WRITE_ZEROES, 0, offset, len).expect("zeroed");
        model[offset as usize..(offset + u64::from(len)) as usize].fill(0);
    }
    assert!(w.read(c, 0, 64 * 1024).expect("read") == model);
    let too_long = w.other(c, Command::WRITE_ZEROES, 0, 1, 40 << 20).map(drop);
    assert_eq!(too_long, Err(NbdError::Invalid));
    w.finish();
}

#[test]
fn block_status_comes_from_the_unit() {
    let (mut w, c) = world(512, |_| {});
    w.write(c, 1 << 20, &pattern(1, 1 << 20)).expect("written");
    let Ok(Answer::Extents(extents)) = w.other(c, Command::BLOCK_STATUS, 0, 0, 4 << 20) else {
        panic!("no extents");
    };
    let hole = extent_flags::HOLE | extent_flags::ZERO;
    let got: Vec<_> = extents.iter().map(|e| (e.len, e.flags)).take(2).collect();
    assert_eq!(got, [(1 << 20, hole), (1 << 20, 0)]);
    w.finish();
    let (mut w, c) = world(512, |a| a.lba_status = false);
    for _ in 0..2 {
        let Ok(Answer::Extents(extents)) = w.other(c, Command::BLOCK_STATUS, 0, 0, 1 << 20) else {
            panic!("no extents");
        };
        assert_eq!(extents.iter().map(|e| e.flags).collect::<Vec<_>>(), [0]);
    }
    w.finish();
}

#[test]
fn transfers_are_split_to_the_limits() {
    let (mut w, c) = world(512, |a| a.max_transfer = 16);
    let data = pattern(7, 32 << 20);
    w.write(c, 512, &data).expect("written");
    assert!(all(&w, WRITE_10).iter().all(|(_, blocks)| *blocks <= 16));
    assert!(w.read(c, 512, 32 << 20).expect("read") == data);
    w.finish();
}

/// Neighbours in one block, written at the same time by different clients while a path dies.
#[test]
fn parts_of_a_block_are_changed_one_after_the_other() {
    let (mut w, first) = world(4096, |_| {});
    let clients = [first, w.client(), w.client(), w.client()];
    let mut model = pattern(1, 8 * 4096);
    w.write(first, 0, &model).expect("written");
    for round in 0..12u64 {
        let mut tokens = Vec::new();
        for piece in 0..64u64 {
            let data = pattern(round << 8 | piece, 512);
            let at = piece as usize * 512;
            model[at..at + 512].copy_from_slice(&data);
            let client = clients[piece as usize % 4];
            tokens.push((client, w.start_write(client, piece * 512, data)));
        }
        w.run(Duration::from_micros(150 + round * 40));
        match round % 4 {
            0 => w.node((round / 4 % 2) as usize).reset_connections(),
            2 => w.kill(1),
            3 => w.start(1),
            _ => {}
        }
        for (client, token) in tokens {
            w.answer(client, token).expect("written");
        }
    }
    w.until_active();
    assert!(w.read(first, 0, 8 * 4096).expect("read") == model);
    w.finish();
}

#[test]
fn a_read_only_unit_or_device_takes_no_writes() {
    let (mut w, c) = world(512, |a| a.write_protect = true);
    assert_eq!(w.write(c, 0, &[0; 512]), Err(NbdError::Permission));
    w.read(c, 0, 512).expect("reads");
    w.finish();
    let mut w = World::new(Setup { read_only: true, ..Setup::default() });
    let c = w.client();
    assert_eq!(w.write(c, 0, &[0; 512]), Err(NbdError::Permission));
    assert_eq!(w.records().len(), 0);
    w.finish();
}
