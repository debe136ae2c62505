//! How fast the pair answers: `load [seconds] [depth] [bytes] [read|write]`, one session to node 0 on
//! loopback. It exists to show that the target is not what a benchmark of the initiator measures.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Peer, USUAL};
use mpio_target::journal::Scope;
use mpio_target::wire::iscsi::codes::opcode;
use mpio_target::wire::iscsi::{self, Deframer, Item};
use mpio_target::wire::scsi::{Cdb, Transfer};
use mpio_target::{PairConfig, TargetPair};
use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let argument =
        |n: usize, default: &str| std::env::args().nth(n).unwrap_or_else(|| default.to_owned());
    let seconds: f64 = argument(1, "3").parse()?;
    let depth: u64 = argument(2, "32").parse()?;
    let bytes: u32 = argument(3, "4096").parse()?;
    let write = argument(4, "read") == "write";
    let pair = TargetPair::start(PairConfig { journal: Scope::Off, ..PairConfig::default() })?;
    let mut stream = TcpStream::connect(pair.node(0).addr())?;
    stream.set_nodelay(true)?;
    let mut peer = Peer::new(1);
    let request = peer.login(1, Some(3), &[common::NORMAL, USUAL].concat());
    stream.write_all(&request)?;
    let mut buffer = vec![0; 256 * 1024];
    let n = stream.read(&mut buffer)?;
    assert_eq!(buffer[0], opcode::LOGIN_RESPONSE, "{n} bytes");

    let blocks = bytes / 512;
    let data = vec![7; if write { bytes as usize } else { 0 }];
    let mut out = Vec::new();
    let fill = |peer: &mut Peer, out: &mut Vec<u8>, count: u64| {
        out.clear();
        for _ in 0..count {
            let transfer = Transfer::new(u64::from(peer.tag * blocks % 65536), blocks);
            let cdb = if write { Cdb::Write(transfer) } else { Cdb::Read(transfer) };
            out.extend(peer.command(&cdb, 512, &data).1);
        }
    };
    let mut deframer = Deframer::new(0xff_ffff, false);
    let (mut total, start) = (0, Instant::now());
    fill(&mut peer, &mut out, depth);
    stream.write_all(&out)?;
    while start.elapsed() < Duration::from_secs_f64(seconds) {
        let n = stream.read(&mut buffer)?;
        let (mut at, mut ended) = (0, 0);
        while let Some(item) = deframer.next(&buffer[..n], &mut at)? {
            if let Item::Header(bhs) = item {
                let code = iscsi::opcode(&bhs);
                let ends =
                    code == opcode::SCSI_RESPONSE || code == opcode::DATA_IN && bhs[1] & 1 == 1;
                ended += u64::from(ends);
            }
        }
        if ended > 0 {
            total += ended;
            fill(&mut peer, &mut out, ended);
            stream.write_all(&out)?;
        }
    }
    let rate = total as f64 / start.elapsed().as_secs_f64();
    let what = if write { "write" } else { "read" };
    println!("{rate:.0} {what} requests/s of {bytes} bytes at depth {depth}");
    assert_eq!(pair.node(0).counters().violations(), Vec::<String>::new());
    Ok(())
}
