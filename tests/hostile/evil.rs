//! Targets that misbehave on the wire: a go-between that spoils what a good target says, and a script that only knows
//! how to let somebody log in.
//!
//! PDUs are taken apart by hand, without the project's own codecs: 48 bytes of header, the lengths in bytes 4 to 7.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Target to initiator: SCSI Response, Text Response, Data-In, R2T.
pub const RESPONSE: u8 = 0x21;
pub const DATA_IN: u8 = 0x25;
pub const R2T: u8 = 0x31;

/// One PDU: header, and additional segments with their padding. No digests.
pub struct Pdu {
    pub head: [u8; 48],
    pub rest: Vec<u8>,
}

impl Pdu {
    fn read(stream: &mut impl Read) -> std::io::Result<Pdu> {
        let mut head = [0; 48];
        stream.read_exact(&mut head)?;
        let data = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        let mut rest = vec![0; usize::from(head[4]) * 4 + data.next_multiple_of(4)];
        stream.read_exact(&mut rest)?;
        Ok(Pdu { head, rest })
    }

    pub fn opcode(&self) -> u8 {
        self.head[0] & 0x3f
    }

    pub fn put(&mut self, at: usize, value: u32) {
        self.head[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    fn bytes(&self) -> Vec<u8> {
        [&self.head[..], &self.rest].concat()
    }
}

/// What is done to PDUs of one opcode, and what is sent after them.
#[derive(Clone, Copy)]
pub struct Spoil {
    pub opcode: u8,
    pub change: fn(&mut Pdu),
    /// Afterwards this many bytes of noise, without end for the target to come.
    pub noise: usize,
    /// Afterwards this many pings that want an answer, while nothing more is read from the initiator.
    pub pings: usize,
}

/// Between the initiator and a good target.
pub struct Between {
    pub addr: SocketAddr,
    spoil: Arc<Mutex<Option<Spoil>>>,
    struck: Arc<AtomicU64>,
}

impl Between {
    /// Listens on loopback and goes on to `target`.
    pub fn start(target: SocketAddr) -> Between {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let between = Between {
            addr: listener.local_addr().unwrap(),
            spoil: Arc::default(),
            struck: Arc::default(),
        };
        let (spoil, struck) = (between.spoil.clone(), between.struck.clone());
        // Ends with the test program.
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(target)) else { continue };
                let muted = Arc::new(AtomicBool::new(false));
                let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let stopped = muted.clone();
                std::thread::spawn(move || {
                    let mut buffer = [0; 16384];
                    while let Ok(n @ 1..) = from.read(&mut buffer) {
                        while stopped.load(Ordering::Relaxed) {
                            std::thread::sleep(std::time::Duration::from_millis(20));
                        }
                        if to.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                });
                let (spoil, struck) = (spoil.clone(), struck.clone());
                std::thread::spawn(move || {
                    let _ = back(far, &near, &spoil, &struck, &muted);
                    muted.store(false, Ordering::Relaxed);
                    let _ = near.shutdown(Shutdown::Both);
                });
            }
        });
        between
    }

    /// From now on PDUs of that kind are spoiled; `None` lets them be. How often it has happened starts from 0.
    pub fn set(&self, spoil: Option<Spoil>) {
        *self.spoil.lock().unwrap() = spoil;
        self.struck.store(0, Ordering::Relaxed);
    }

    pub fn struck(&self) -> u64 {
        self.struck.load(Ordering::Relaxed)
    }
}

fn back(
    mut far: TcpStream,
    mut near: &TcpStream,
    spoil: &Mutex<Option<Spoil>>,
    struck: &AtomicU64,
    muted: &AtomicBool,
) -> std::io::Result<()> {
    loop {
        let mut pdu = Pdu::read(&mut far)?;
        let spoil = spoil.lock().unwrap().filter(|spoil| spoil.opcode == pdu.opcode());
        let Some(spoil) = spoil else {
            near.write_all(&pdu.bytes())?;
            continue;
        };
        struck.fetch_add(1, Ordering::Relaxed);
        (spoil.change)(&mut pdu);
        near.write_all(&pdu.bytes())?;
        for n in 0..spoil.noise.div_ceil(65536) {
            near.write_all(&crate::harness::noise(65536, n as u64))?;
        }
        if spoil.pings > 0 {
            muted.store(true, Ordering::Relaxed);
            let mut ping = [0; 48];
            ping[0] = 0x20;
            ping[1] = 0x80;
            ping[16..20].fill(0xff);
            // The window stays as it is: StatSN is not advanced by a ping with a target transfer tag.
            ping[24..36].copy_from_slice(&pdu.head[24..36]);
            for n in 0..spoil.pings {
                ping[20..24].copy_from_slice(&(n as u32).to_be_bytes());
                near.write_all(&ping)?;
            }
        }
    }
}

/// What a scripted target does once somebody has connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// Noise instead of a login.
    Noise,
    /// One byte of an answer every now and then.
    Drip,
    /// Login answers that say "more to come" for ever.
    EndlessLogin,
    /// A login, and then Text Responses that say "more to come" for ever.
    EndlessText,
    /// A login, and then a PDU of 16 MiB that never ends.
    EndlessPdu,
    /// A login, and then nothing.
    Silence,
    /// A login, and then the end.
    Close,
}

/// A target without anything behind it. Ends with the test program.
pub fn scripted(script: Script) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || play(stream, script));
        }
    });
    addr
}

fn play(mut stream: TcpStream, script: Script) -> std::io::Result<()> {
    let wait = || std::thread::sleep(std::time::Duration::from_millis(100));
    match script {
        Script::Noise => return stream.write_all(&crate::harness::noise(1 << 20, 5)),
        Script::Drip => loop {
            stream.write_all(&[0x23])?;
            wait();
        },
        _ => {}
    }
    let mut stat_sn = 1_u32;
    loop {
        let asked = Pdu::read(&mut stream)?;
        match (asked.opcode(), script) {
            (3, Script::EndlessLogin) => {
                // C, same stage: the initiator has to ask for more with an empty request.
                let text = format!("X-{}={}\0", stat_sn, "y".repeat(4000));
                stream.write_all(&login(&asked, 0x40 | asked.head[1] & 0x0c, stat_sn, &text))?;
            }
            (3, _) => {
                // Whatever stage is asked for, in the transit that was asked for.
                stream.write_all(&login(&asked, asked.head[1] & 0x8f, stat_sn, ""))?;
                let done = asked.head[1] & 0x83 == 0x83;
                match script {
                    Script::Close if done => return Ok(()),
                    Script::EndlessPdu if done => {
                        let mut head = [0; 48];
                        head[0] = 0x24;
                        head[5..8].fill(0xff);
                        stream.write_all(&head)?;
                        loop {
                            stream.write_all(&[0; 65536])?;
                        }
                    }
                    _ => {}
                }
            }
            (4, Script::EndlessText) => {
                let text = format!("TargetName=iqn.2026-11.test:{}\0", "y".repeat(180)).repeat(38);
                stream.write_all(&answer(&asked, 0x24, 0x40, stat_sn, &text))?;
            }
            _ => {}
        }
        stat_sn += 1;
    }
}

fn login(asked: &Pdu, flags: u8, stat_sn: u32, text: &str) -> Vec<u8> {
    let mut pdu = answer(asked, 0x23, flags, stat_sn, text);
    // ISID as asked, a TSIH, status 0; the transfer tag is reserved.
    pdu[8..14].copy_from_slice(&asked.head[8..14]);
    pdu[14..16].copy_from_slice(&[0, 1]);
    pdu[20..24].fill(0);
    pdu
}

fn answer(asked: &Pdu, opcode: u8, flags: u8, stat_sn: u32, text: &str) -> Vec<u8> {
    let mut pdu = vec![0; 48];
    (pdu[0], pdu[1]) = (opcode, flags);
    pdu[5..8].copy_from_slice(&(text.len() as u32).to_be_bytes()[1..]);
    pdu[16..20].copy_from_slice(&asked.head[16..20]);
    pdu[20..24].copy_from_slice(&[0, 0, 0, 1]);
    pdu[24..28].copy_from_slice(&stat_sn.to_be_bytes());
    let command_sn = u32::from_be_bytes(asked.head[24..28].try_into().unwrap());
    // An immediate request takes no number.
    let taken = u32::from(asked.head[0] & 0x40 == 0);
    pdu[28..32].copy_from_slice(&command_sn.wrapping_add(taken).to_be_bytes());
    pdu[32..36].copy_from_slice(&command_sn.wrapping_add(64).to_be_bytes());
    pdu.extend(text.as_bytes());
    pdu.resize(pdu.len().next_multiple_of(4), 0);
    pdu
}
