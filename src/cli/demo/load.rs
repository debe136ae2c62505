//! A load that knows what every byte must be.
//!
//! Each worker has an NBD connection of its own and a part of the device of its own, so it alone knows
//! what its blocks hold: block content is a function of the block's number and of how often it was written.
//! A block has at most one request in flight. Every read is compared in full, at any time of the run and
//! of every block at the end.

use crate::base::Payload;
use crate::cli::nbd_client::{Connection, NbdClientError};
use crate::export::client::{Answer, Op};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes per request.
pub const BLOCK: usize = 4096;

/// What block `number` holds after `generation` writes.
pub fn fill(number: u64, generation: u32, out: &mut [u8; BLOCK]) {
    // xorshift64*: cheap, never constant, different for every block and generation.
    let mut state = (number + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(u64::from(generation).wrapping_mul(0xd1b5_4a32_d192_ed03))
        | 1;
    for word in out.chunks_exact_mut(8) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        word.copy_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    // The first bytes say it in plain text, for whoever looks at a block that is wrong.
    let label = format!("mpio demo block {number} write {generation}\n");
    out[..label.len()].copy_from_slice(label.as_bytes());
}

/// What workers count; read while they run.
#[derive(Debug, Default)]
pub struct Counts {
    /// Reads answered and compared.
    pub reads: AtomicU64,
    /// Writes answered.
    pub writes: AtomicU64,
    /// Requests answered with an error.
    pub errors: AtomicU64,
    /// Blocks that came back with something else than was written.
    pub wrong: AtomicU64,
    /// Longest request since it was last taken, microseconds.
    pub longest_us: AtomicU64,
    /// Told to the workers: stop.
    pub stop: AtomicBool,
}

impl Counts {
    fn took(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.longest_us.fetch_max(us, Ordering::Relaxed);
    }
}

/// One worker and what it knows of its blocks.
pub struct Worker {
    connection: Connection,
    first: u64,
    generations: Vec<u32>,
    /// Since when a block's request is in flight, and whether it is a write.
    busy: Vec<Option<(Instant, bool)>>,
    random: u64,
    depth: usize,
    scratch: Box<[u8; BLOCK]>,
}

impl Worker {
    /// A worker over `blocks` blocks from `first` on, with `depth` requests in flight.
    ///
    /// # Panics
    /// When there are not more blocks than requests in flight: it would wait for itself.
    #[must_use]
    pub fn new(connection: Connection, first: u64, blocks: usize, depth: usize) -> Worker {
        assert!(blocks > depth && depth > 0, "{blocks} blocks for {depth} requests in flight");
        Worker {
            connection,
            first,
            generations: vec![0; blocks],
            busy: vec![None; blocks],
            random: first.wrapping_mul(0x9e37_79b9) | 1,
            depth,
            scratch: Box::new([0; BLOCK]),
        }
    }

    /// Runs until told to stop, or until a request ends with an error, and then until everything in flight is answered.
    ///
    /// # Errors
    /// When the connection ends.
    pub fn run(&mut self, counts: &Counts) -> Result<(), NbdClientError> {
        loop {
            // The verdict is clear after one error, and a server that stops answers everything with one.
            let failed = counts.errors.load(Ordering::Relaxed) > 0;
            let stop = failed || counts.stop.load(Ordering::Relaxed);
            while !stop && self.connection.in_flight() < self.depth {
                self.submit();
            }
            if self.connection.in_flight() == 0 {
                return Ok(());
            }
            self.take(counts)?;
        }
    }

    /// Reads every block once more.
    ///
    /// # Errors
    /// When the connection ends.
    pub fn verify(&mut self, counts: &Counts) -> Result<(), NbdClientError> {
        assert!(self.connection.in_flight() == 0, "blocks are compared when they are at rest");
        for index in 0..self.generations.len() {
            while self.connection.in_flight() >= self.depth {
                self.take(counts)?;
            }
            self.read(index);
        }
        while self.connection.in_flight() > 0 {
            self.take(counts)?;
        }
        Ok(())
    }

    /// Flushes; an error counts.
    ///
    /// # Errors
    /// When the connection ends.
    pub fn flush(&mut self, counts: &Counts) -> Result<(), NbdClientError> {
        if self.connection.flush()?.is_err() {
            counts.errors.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Ends the connection.
    pub fn close(self) {
        self.connection.close();
    }

    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// A read or a write of a block that has nothing in flight.
    fn submit(&mut self) {
        let random = self.next();
        let mut index = (random >> 1) as usize % self.generations.len();
        while self.busy[index].is_some() {
            index = (index + 1) % self.generations.len();
        }
        if random & 1 == 0 { self.read(index) } else { self.write(index) }
    }

    fn read(&mut self, index: usize) {
        assert!(self.busy[index].is_none(), "block {index} has a request in flight");
        self.busy[index] = Some((Instant::now(), false));
        let offset = (self.first + index as u64) * BLOCK as u64;
        self.connection.submit(index as u64, Op::Read { offset, len: BLOCK as u32 });
    }

    fn write(&mut self, index: usize) {
        assert!(self.busy[index].is_none(), "block {index} has a request in flight");
        self.busy[index] = Some((Instant::now(), true));
        self.generations[index] += 1;
        let number = self.first + index as u64;
        fill(number, self.generations[index], &mut self.scratch);
        let data = Payload::from(self.scratch.to_vec());
        let offset = number * BLOCK as u64;
        self.connection.submit(index as u64, Op::Write { offset, data, fua: false });
    }

    fn take(&mut self, counts: &Counts) -> Result<(), NbdClientError> {
        let (token, result) = self.connection.answer()?;
        let index = token as usize;
        let (since, write) = self.busy[index].take().expect("an answer belongs to a request");
        counts.took(since.elapsed());
        let count = if write { &counts.writes } else { &counts.reads };
        count.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(Answer::Data(data)) if !write => {
                fill(self.first + index as u64, self.generations[index], &mut self.scratch);
                if !same(&data, self.scratch.as_slice()) {
                    counts.wrong.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(_) if write => {}
            Ok(_) | Err(_) => {
                counts.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

fn same(data: &Payload, expected: &[u8]) -> bool {
    let mut at = 0;
    let equal = data.pieces().iter().all(|piece| {
        let part = expected.get(at..at + piece.len());
        at += piece.len();
        part == Some(piece)
    });
    equal && at == expected.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base;
    use crate::control::config::Export;
    use crate::export::{self, Catalog, ExportInfo, Kind, Reply};
    use bytes::Bytes;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::sync::{Arc, Mutex};

    /// A disk in memory behind the real export, one thread per connection; `spoil` changes what is read.
    fn server(listener: &UnixListener, disk: &Arc<Mutex<Vec<u8>>>, spoil: bool) {
        let (mut stream, _) = listener.accept().unwrap();
        let disk = disk.clone();
        std::thread::spawn(move || {
            let now = base::Instant::ZERO;
            let mut server = export::Connection::new(now, Catalog::single("demo", ""));
            let mut buffer = vec![0; 1 << 16];
            loop {
                while let Some(event) = server.poll_event() {
                    answer(&mut server, event, &disk, spoil);
                }
                let mut segments = Vec::new();
                while server.tx().take(64, &mut segments) > 0 {}
                for segment in segments {
                    stream.write_all(&segment).unwrap();
                }
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => return,
                    Ok(n) => server.handle_received(now, Bytes::copy_from_slice(&buffer[..n])),
                }
            }
        });
    }

    fn answer(
        server: &mut export::Connection,
        event: export::Event,
        disk: &Mutex<Vec<u8>>,
        spoil: bool,
    ) {
        let mut disk = disk.lock().unwrap();
        match event {
            export::Event::Open { .. } => {
                let info = ExportInfo { size: disk.len() as u64, ..info() };
                server.open(base::Instant::ZERO, Ok(info));
            }
            export::Event::Request(request) => {
                let from = request.offset as usize;
                let to = from + request.len as usize;
                let reply = match request.kind {
                    Kind::Read { .. } => {
                        let mut bytes = disk[from..to].to_vec();
                        bytes[100] ^= u8::from(spoil);
                        Reply::Data(bytes.into())
                    }
                    Kind::Write(data) => {
                        data.copy_to(0, &mut disk[from..to]);
                        Reply::Done
                    }
                    _ => Reply::Done,
                };
                server.reply(request.handle, Ok(reply));
            }
            export::Event::Closed(_) => {}
        }
    }

    fn info() -> ExportInfo {
        ExportInfo {
            size: 0,
            block_size: 512,
            preferred: 4096,
            max_payload: 1 << 20,
            read_only: false,
            rotational: false,
            trim: false,
            write_zeroes: false,
            fast_zero: false,
            cache: false,
            multi_conn: true,
        }
    }

    fn run(name: &str, spoil: bool) -> Counts {
        let path = std::env::temp_dir().join(format!("mpio-load-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let mut content = vec![0; 256 * BLOCK];
        for (number, block) in content.chunks_exact_mut(BLOCK).enumerate() {
            fill(number as u64, 0, block.try_into().unwrap());
        }
        let disk = Arc::new(Mutex::new(content));
        let accept = {
            let disk = disk.clone();
            std::thread::spawn(move || server(&listener, &disk, spoil))
        };
        let connection =
            Connection::open(&Export::Unix(path.clone()), "", Duration::from_secs(5)).unwrap();
        accept.join().unwrap();
        assert_eq!(connection.exported.size, 256 * BLOCK as u64);
        let mut worker = Worker::new(connection, 16, 200, 8);
        let counts = Counts::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while counts.reads.load(Ordering::Relaxed) < 500 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                counts.stop.store(true, Ordering::Relaxed);
            });
            worker.run(&counts).unwrap();
        });
        worker.flush(&counts).unwrap();
        worker.verify(&counts).unwrap();
        worker.close();
        std::fs::remove_file(path).unwrap();
        counts
    }

    #[test]
    fn a_good_disk_has_no_wrong_byte() {
        let counts = run("good", false);
        assert_eq!(counts.wrong.into_inner() + counts.errors.into_inner(), 0);
        assert!(counts.writes.into_inner() > 100 && counts.reads.into_inner() >= 700);
    }

    #[test]
    fn one_flipped_bit_is_seen_in_every_read() {
        let counts = run("spoiled", true);
        assert_eq!(counts.wrong.into_inner(), counts.reads.into_inner());
    }

    #[test]
    fn content_differs_by_block_and_generation() {
        let make = |number, generation| {
            let mut block = [0; BLOCK];
            fill(number, generation, &mut block);
            block
        };
        assert_ne!(make(1, 1), make(1, 2));
        assert_ne!(make(1, 1)[64..], make(2, 1)[64..]);
        assert!(make(7, 3).starts_with(b"mpio demo block 7 write 3\n"));
    }
}
