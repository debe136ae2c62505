//! Bytes to meaning and back: iSCSI headers, CDBs, NBD requests and replies, digests.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mpio::wire::iscsi::{BHS_LEN, Deframer, digest};
use mpio::wire::nbd::Command;
use mpio::wire::nbd::reply::SimpleReply;
use mpio::wire::nbd::request::RequestHeader;
use mpio::wire::scsi::{Cdb, Transfer};
use std::hint::black_box;

fn nbd(c: &mut Criterion) {
    let header =
        RequestHeader { flags: 0, command: Command::WRITE, cookie: 7, offset: 1 << 40, len: 4096 };
    let mut bytes = [0; RequestHeader::LEN];
    header.emit(&mut bytes);
    c.bench_function("nbd request, parse", |b| {
        b.iter(|| RequestHeader::parse(black_box(&bytes)));
    });
    c.bench_function("nbd request, emit", |b| {
        b.iter(|| black_box(&header).emit(black_box(&mut bytes)));
    });
    let reply = SimpleReply { error: 0, cookie: 7 };
    let mut bytes = [0; SimpleReply::LEN];
    c.bench_function("nbd reply, emit and parse", |b| {
        b.iter(|| {
            black_box(&reply).emit(black_box(&mut bytes));
            SimpleReply::parse(black_box(&bytes))
        });
    });
}

fn scsi(c: &mut Criterion) {
    let cdb = Cdb::Read(Transfer::new(0x12_3456, 8));
    c.bench_function("cdb READ, emit", |b| b.iter(|| black_box(&cdb).to_bytes()));
    let bytes = cdb.to_bytes();
    c.bench_function("cdb READ, parse", |b| b.iter(|| Cdb::parse(black_box(&bytes))));
}

/// What a receive of 64 KiB brings: fifteen Data-In PDUs of 4 KiB.
fn iscsi(c: &mut Criterion) {
    let mut bhs = [0; BHS_LEN];
    (bhs[0], bhs[1]) = (0x25, 0x81);
    bhs[5..8].copy_from_slice(&4096_u32.to_be_bytes()[1..]);
    let pdu = [&bhs[..], &[0x5a; 4096]].concat();
    for digests in [false, true] {
        let mut stream = Vec::new();
        for _ in 0..15 {
            stream.extend_from_slice(&pdu[..BHS_LEN]);
            if digests {
                stream.extend(crc32c::crc32c(&pdu[..BHS_LEN]).to_le_bytes());
            }
            stream.extend_from_slice(&pdu[BHS_LEN..]);
            if digests {
                stream.extend(crc32c::crc32c(&pdu[BHS_LEN..]).to_le_bytes());
            }
        }
        let mut deframer = Deframer::new(1 << 20, false);
        deframer.set_digests(digests, digests);
        let mut group = c.benchmark_group("deframe");
        group.throughput(Throughput::Elements(15));
        let name = if digests { "15 Data-In, digests" } else { "15 Data-In" };
        group.bench_function(name, |b| {
            b.iter(|| {
                let (mut at, mut items) = (0, 0);
                while let Ok(Some(item)) = deframer.next(black_box(&stream), &mut at) {
                    black_box(item);
                    items += 1;
                }
                assert!(items >= 15 && at == stream.len(), "{items} items in {at} bytes");
            });
        });
        group.finish();
    }
}

fn digests(c: &mut Criterion) {
    let mut group = c.benchmark_group("crc32c");
    for size in [48, 4096, 65536] {
        let data = vec![0x5a; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(size.to_string(), |b| b.iter(|| digest::crc32c(black_box(&data))));
    }
    group.finish();
}

criterion_group!(benches, nbd, scsi, iscsi, digests);
criterion_main!(benches);
