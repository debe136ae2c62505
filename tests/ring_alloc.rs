//! The ring allocates nothing once it is warm, and leaves no descriptor behind: a counting allocator and
//! /proc/self/fd, hence a test binary of its own with a single test.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use mpio::ring::{Completion, Connect, Io, Ring, RingConfig, Sending};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are System's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are System's.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are System's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc is mounted").count()
}

/// Sends `payload` in three segments and takes it back, `rounds` times, each time with the parts of the
/// last answer still held, as a request in flight would hold them.
fn echo(ring: &mut Ring, sock: mpio::ring::SockId, payload: &Bytes, rounds: u32, kept: &mut Kept) {
    for _ in 0..rounds {
        let mut segments = std::mem::take(&mut kept.segments);
        segments.push(payload.slice(..48));
        segments.push(payload.slice(48..payload.len() / 2));
        segments.push(payload.slice(payload.len() / 2..));
        let mut sent = false;
        if let Sending::Done { segments } = ring.send(sock, segments) {
            kept.segments = segments;
            sent = true;
        }
        let (mut got, mut empty) = (0, 0);
        kept.held.clear();
        while got < payload.len() || !sent {
            if got < payload.len() && !ring.is_receiving(sock) {
                ring.recv(sock, 65536);
            }
            ring.submit_and_wait(Some(Duration::from_secs(20)), &mut kept.out);
            empty += u32::from(kept.out.is_empty());
            assert!(empty < 3, "nothing comes back");
            for completion in kept.out.drain(..) {
                match completion {
                    Completion::Received { chunk, .. } => {
                        assert!(chunk[..] == payload[got..got + chunk.len()], "other bytes");
                        got += chunk.len();
                        kept.held.push(chunk);
                    }
                    Completion::Sent { segments, .. } => {
                        kept.segments = segments;
                        sent = true;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

/// What a lane keeps from turn to turn.
struct Kept {
    out: Vec<Completion>,
    segments: Vec<Bytes>,
    held: Vec<Bytes>,
}

#[test]
fn a_warm_ring_allocates_nothing_and_leaves_nothing_behind() {
    for io in [Io::Uring, Io::Epoll] {
        warm_ring(io);
    }
}

fn warm_ring(io: Io) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let remote: SocketAddr = listener.local_addr().expect("an address");
    let before = descriptors();
    let mut ring = Ring::new(RingConfig { io, ..RingConfig::default() }).expect("a ring");
    let with_ring = descriptors();
    let connect =
        Connect { remote, source: None, interface: None, timeout: Duration::from_secs(5) };
    let sock = ring.connect(&connect).expect("a socket");
    let mut kept = Kept {
        out: Vec::with_capacity(64),
        segments: Vec::with_capacity(8),
        held: Vec::with_capacity(4096),
    };
    ring.submit_and_wait(Some(Duration::from_secs(5)), &mut kept.out);
    assert!(matches!(kept.out.pop(), Some(Completion::Connected { .. })));
    let mut peer = listener.accept().expect("a connection").0;
    let peer = thread::spawn(move || {
        let mut piece = vec![0; 200_000];
        loop {
            match peer.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(len) => peer.write_all(&piece[..len]).expect("written"),
            }
        }
    });

    let payload: Bytes = (0..70_000u32).map(|i| (i % 251) as u8).collect::<Vec<_>>().into();
    echo(&mut ring, sock, &payload, 200, &mut kept);
    let warm = (ALLOCATIONS.load(Ordering::Relaxed), ring.stats().pool.allocated);
    echo(&mut ring, sock, &payload, 1000, &mut kept);
    echo(&mut ring, sock, &payload.slice(..4096), 1000, &mut kept);
    let after = (ALLOCATIONS.load(Ordering::Relaxed), ring.stats().pool.allocated);
    assert_eq!(warm, after, "allocations (all, receive buffers)");

    ring.give_up(sock);
    ring.submit_and_wait(Some(Duration::from_secs(5)), &mut kept.out);
    assert!(matches!(kept.out.pop(), Some(Completion::Closed { .. })));
    peer.join().expect("the echo ended");
    assert_eq!(descriptors(), with_ring);
    drop(ring);
    assert_eq!(descriptors(), before);
}
