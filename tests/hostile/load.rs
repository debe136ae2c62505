//! A verified load: every block that is read holds what was written last.
//!
//! It comes back to a block only after a long while: a write to a block that is in doubt waits for proof, and that
//! is not what these tests are about.

use crate::harness::noise;
use crate::open;
use mpio::export::client::Op;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

const BLOCK: usize = 4096;
const BLOCKS: u64 = 64;
const DEPTH: usize = 8;
/// Places that rounds go to in turn: the first 25 MiB of the device.
const PLACES: u64 = 100;

/// A load that runs until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts it on the first half of the device, on a connection of its own.
    #[track_caller]
    pub fn start(daemon: &crate::harness::daemon::Daemon) -> Load {
        let mut client = open(daemon);
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, done) = (stop.clone(), rounds.clone());
        let thread = std::thread::spawn(move || {
            let mut round = 0;
            while !stopped.load(Ordering::Relaxed) {
                round += 1;
                let content = |block: u64| noise(BLOCK, round * BLOCKS + block);
                for group in 0..BLOCKS / DEPTH as u64 {
                    let blocks = group * DEPTH as u64..(group + 1) * DEPTH as u64;
                    let place = round % PLACES * BLOCKS;
                    let at = |block: u64| (place + block) * BLOCK as u64;
                    let writes: Vec<u64> = blocks
                        .clone()
                        .map(|block| {
                            let data = content(block).into();
                            client.start(Op::Write { offset: at(block), data, fua: false })
                        })
                        .collect();
                    for token in writes {
                        client.finish(token).expect("no error reaches the client");
                    }
                    for block in blocks {
                        let read = client.read(at(block), BLOCK as u32);
                        let read = read.expect("no error reaches the client");
                        assert!(read == content(block), "block {block} of round {round}");
                    }
                }
                done.store(round, Ordering::Relaxed);
            }
        });
        Load { stop, rounds, thread: Some(thread) }
    }

    /// Waits until it has been through all blocks `rounds` times more.
    #[track_caller]
    pub fn goes_on(&self, rounds: u64) {
        let from = self.rounds.load(Ordering::Relaxed);
        crate::harness::wait_for(crate::harness::daemon::SETTLE, "the load to go on", || {
            self.assert_fine();
            (self.rounds.load(Ordering::Relaxed) >= from + rounds).then_some(())
        });
    }

    /// Fails when the load has.
    #[track_caller]
    pub fn assert_fine(&self) {
        assert!(!self.thread.as_ref().unwrap().is_finished(), "the load has ended");
    }

    /// Ends it; fails when it has failed.
    #[track_caller]
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().expect("the load went well");
    }
}
