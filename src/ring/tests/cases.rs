//! The ring against real loopback sockets whose other end uses plain system calls. Every test runs on
//! io_uring and on epoll.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use socket2::SockRef;

use crate::limits::RECV_BUFFER;
use crate::ring::*;

const LONG: Duration = Duration::from_secs(20);

/// The engine that this copy of the cases is about.
fn engine() -> Io {
    if module_path!().ends_with("on_epoll") { Io::Epoll } else { Io::Uring }
}

fn ring() -> Ring {
    Ring::new(RingConfig { sockets: 300, entries: 64, io: engine(), ..RingConfig::default() })
        .expect("a ring")
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

fn to(remote: SocketAddr) -> Connect {
    Connect { remote, source: None, interface: None, timeout: Duration::from_secs(5) }
}

/// Turns until there is a completion; fails the test when none comes.
fn turn(ring: &mut Ring) -> Vec<Completion> {
    let (start, mut out) = (Instant::now(), Vec::new());
    while out.is_empty() {
        assert!(start.elapsed() < LONG, "nothing happens");
        ring.submit_and_wait(Some(LONG), &mut out);
    }
    out
}

/// The one completion of a turn.
fn one(ring: &mut Ring) -> Completion {
    let mut out = turn(ring);
    assert_eq!(out.len(), 1, "{out:?}");
    out.remove(0)
}

/// Sends, and says what the ring will not say any more: that the kernel took all of it at once.
fn send(ring: &mut Ring, sock: SockId, segments: Vec<Bytes>) -> Option<Vec<Bytes>> {
    match ring.send(sock, segments) {
        Sending::Done { segments } => {
            assert!(segments.is_empty() && !ring.is_sending(sock));
            Some(segments)
        }
        Sending::InFlight => None,
    }
}

/// Sends more than the kernel takes at once.
fn send_much(ring: &mut Ring, sock: SockId, segments: Vec<Bytes>) {
    assert!(send(ring, sock, segments).is_none() && ring.is_sending(sock));
}

/// A connection: our end in the ring, the other one as a plain stream that does not block for ever.
fn pair(ring: &mut Ring) -> (SockId, TcpStream) {
    let (listener, address) = listener();
    let sock = ring.connect(&to(address)).expect("a socket");
    let Completion::Connected { sock: connected, .. } = one(ring) else { panic!("not connected") };
    assert_eq!(connected, sock);
    let peer = listener.accept().expect("a connection").0;
    peer.set_read_timeout(Some(LONG)).expect("a time limit");
    (sock, peer)
}

fn unix_pair(ring: &mut Ring) -> (SockId, UnixStream) {
    let (ours, peer) = UnixStream::pair().expect("a pair");
    peer.set_read_timeout(Some(LONG)).expect("a time limit");
    (ring.adopt(ours.into(), true).expect("adopted"), peer)
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// How a peer's stream ends, with all that it read before.
fn drain(peer: &mut impl Read) -> (Vec<u8>, io::ErrorKind) {
    let (mut all, mut piece) = (Vec::new(), vec![0; 65536]);
    loop {
        match peer.read(&mut piece) {
            Ok(0) => return (all, io::ErrorKind::UnexpectedEof),
            Ok(len) => all.extend_from_slice(&piece[..len]),
            Err(error) => return (all, error.kind()),
        }
    }
}

#[test]
fn large_data_goes_both_ways() {
    let mut ring = ring();
    let (sock, peer) = pair(&mut ring);
    let echo = thread::spawn(move || {
        let mut reader = peer.try_clone().expect("another handle");
        let mut writer = peer;
        let mut piece = vec![0; 100_000];
        loop {
            match reader.read(&mut piece).expect("read") {
                0 => return,
                len => writer.write_all(&piece[..len]).expect("write"),
            }
        }
    });
    let data = Bytes::from(pattern(8 << 20, 1));
    let (mut at, mut back, mut vector) = (0, Vec::with_capacity(data.len()), Vec::new());
    ring.recv(sock, RECV_BUFFER);
    while back.len() < data.len() {
        if at < data.len() && !ring.is_sending(sock) {
            for len in [1, 48, 70_000, 300_000] {
                let end = data.len().min(at + len);
                vector.push(data.slice(at..end));
                at = end;
            }
            if let Some(empty) = send(&mut ring, sock, std::mem::take(&mut vector)) {
                vector = empty;
                continue;
            }
        }
        for completion in turn(&mut ring) {
            match completion {
                Completion::Received { chunk, .. } => {
                    back.extend_from_slice(&chunk);
                    drop(chunk);
                    ring.recv(sock, RECV_BUFFER);
                }
                Completion::Sent { segments, bytes, .. } => {
                    assert!(segments.is_empty() && segments.capacity() > 0 && bytes > 0);
                    vector = segments;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(back == data, "other bytes came back");
    ring.close(sock);
    assert!(matches!(one(&mut ring), Completion::Closed { .. }));
    echo.join().expect("the echo saw EOF, not a reset");
    assert!(ring.stats().pool.allocated <= 2, "{:?}", ring.stats());
}

#[test]
fn many_sockets_at_once() {
    let mut ring = ring();
    let (listener, address) = listener();
    let ours: Vec<SockId> = (0..120).map(|_| ring.connect(&to(address)).expect("made")).collect();
    let mut connected = 0;
    while connected < ours.len() {
        for completion in turn(&mut ring) {
            assert!(matches!(completion, Completion::Connected { .. }), "{completion:?}");
            connected += 1;
        }
    }
    // The other ends live in the same ring and send back what they get.
    let theirs: Vec<SockId> = (0..ours.len())
        .map(|_| listener.accept().expect("a connection").0)
        .map(|peer| ring.adopt(peer.into(), true).expect("adopted"))
        .collect();
    for sock in &theirs {
        ring.recv(*sock, 4096);
    }
    for (i, sock) in ours.iter().enumerate() {
        assert!(send(&mut ring, *sock, vec![Bytes::from(format!("number {i}"))]).is_some());
        ring.recv(*sock, 4096);
    }
    let mut answered = 0;
    while answered < ours.len() {
        for completion in turn(&mut ring) {
            match completion {
                Completion::Received { sock, chunk } => {
                    match ours.iter().position(|candidate| *candidate == sock) {
                        Some(i) => {
                            assert_eq!(chunk, format!("number {i}"));
                            answered += 1;
                        }
                        None => assert!(send(&mut ring, sock, vec![chunk]).is_some()),
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let (mut closed, all) = (0, [ours, theirs].concat());
    for sock in &all {
        ring.give_up(*sock);
    }
    while closed < all.len() {
        for completion in turn(&mut ring) {
            assert!(matches!(completion, Completion::Closed { .. }));
            closed += 1;
        }
    }
    assert_eq!((ring.stats().sockets, ring.stats().in_flight), (0, 1));
}

/// The reset leaves in `give_up` itself, although a receive is in flight: no turn has happened yet.
#[test]
fn giving_up_resets_the_peer_at_once() {
    let mut ring = ring();
    let (sock, mut peer) = pair(&mut ring);
    ring.recv(sock, 4096);
    ring.submit_and_wait(Some(Duration::ZERO), &mut Vec::new());
    assert!(ring.is_receiving(sock));
    ring.give_up(sock);
    assert_eq!(drain(&mut peer).1, io::ErrorKind::ConnectionReset);
    assert!(!ring.is_open(sock));
    assert!(matches!(one(&mut ring), Completion::Closed { sock: closed } if closed == sock));
    ring.give_up(sock);
    ring.close(sock);
    let mut out = Vec::new();
    ring.submit_and_wait(Some(Duration::from_millis(20)), &mut out);
    assert!(out.is_empty(), "{out:?}");
}

/// A connection that came up while it was being given up is reset, and never reported.
#[test]
fn giving_up_while_connecting_resets_too() {
    let mut ring = ring();
    let (listener, address) = listener();
    for submitted_before in [false, true] {
        let sock = ring.connect(&to(address)).expect("a socket");
        if submitted_before {
            ring.submit();
        }
        ring.give_up(sock);
        assert!(matches!(one(&mut ring), Completion::Closed { sock: closed } if closed == sock));
        let mut peer = listener.accept().expect("it had come up").0;
        peer.set_read_timeout(Some(LONG)).expect("a time limit");
        assert_eq!(drain(&mut peer).1, io::ErrorKind::ConnectionReset);
    }
}

/// What the kernel had queued for a peer that does not read is not delivered after the reset.
#[test]
fn giving_up_takes_queued_bytes_back() {
    let mut ring = ring();
    let (sock, mut peer) = pair(&mut ring);
    send_much(&mut ring, sock, vec![Bytes::from(vec![9; 64 << 20])]);
    let mut out = Vec::new();
    ring.submit_and_wait(Some(Duration::from_millis(50)), &mut out);
    assert!(out.is_empty() && ring.is_sending(sock), "{out:?}");
    ring.give_up(sock);
    let (read, end) = drain(&mut peer);
    assert_eq!(end, io::ErrorKind::ConnectionReset);
    assert!(read.len() < 64 << 20);
    assert!(matches!(one(&mut ring), Completion::Closed { .. }));
}

/// Data that had arrived before is not reported after `give_up`.
#[test]
fn nothing_but_the_end_follows_giving_up() {
    let mut ring = ring();
    let (sock, mut peer) = pair(&mut ring);
    ring.recv(sock, 4096);
    assert!(send(&mut ring, sock, vec![Bytes::from_static(b"x")]).is_some());
    peer.write_all(b"late").expect("written");
    ring.give_up(sock);
    assert!(matches!(one(&mut ring), Completion::Closed { .. }));
    assert_eq!(ring.stats().in_flight, 1, "only the waker's read is left");
}

#[test]
fn giving_up_a_unix_socket_ends_it_too() {
    let mut ring = ring();
    let (sock, mut peer) = unix_pair(&mut ring);
    ring.recv(sock, 4096);
    ring.submit_and_wait(Some(Duration::ZERO), &mut Vec::new());
    ring.give_up(sock);
    assert_eq!(drain(&mut peer), (Vec::new(), io::ErrorKind::UnexpectedEof));
    assert!(matches!(one(&mut ring), Completion::Closed { .. }));
}

#[test]
fn the_source_is_used() {
    let mut ring = ring();
    let (listener, address) = listener();
    for source in ["127.0.0.77", "127.1.2.3"] {
        let source: IpAddr = source.parse().expect("an address");
        let connect = Connect { source: Some(source), ..to(address) };
        let sock = ring.connect(&connect).expect("a socket");
        let Completion::Connected { local, .. } = one(&mut ring) else { panic!("not connected") };
        let (_peer, from) = listener.accept().expect("a connection");
        assert_eq!((local.ip(), from), (source, local));
        assert_eq!(ring.local_addr(sock), Some(local));
    }
}

#[test]
fn a_foreign_source_makes_no_socket() {
    let mut ring = ring();
    let (_listener, address) = listener();
    let source = Some("192.0.2.1".parse().expect("an address"));
    let error = ring.connect(&Connect { source, ..to(address) }).expect_err("not our address");
    assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    assert_eq!((ring.stats().sockets, ring.stats().in_flight), (0, 1));
}

#[test]
fn refused_is_reported_and_the_socket_ends_by_itself() {
    let mut ring = ring();
    let (listener, address) = listener();
    drop(listener);
    let sock = ring.connect(&to(address)).expect("a socket");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(turn(&mut ring));
    }
    assert!(matches!(&seen[0], Completion::ConnectFailed { error, .. }
        if error.kind() == io::ErrorKind::ConnectionRefused));
    assert!(matches!(seen[1], Completion::Closed { sock: closed } if closed == sock));
}

/// A listener whose queue is full ignores further SYNs: nobody answers.
#[test]
fn no_answer_is_a_time_out() {
    let mut ring = ring();
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("made");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("bound");
    socket.listen(0).expect("listening");
    let address = socket.local_addr().expect("local").as_socket().expect("an IP address");
    let _fills_the_queue = TcpStream::connect(address).expect("the queue holds one");
    let start = Instant::now();
    let timeout = Duration::from_millis(150);
    let socks: Vec<SockId> = (0..3)
        .map(|_| ring.connect(&Connect { timeout, ..to(address) }).expect("a socket"))
        .collect();
    ring.submit_and_wait(Some(Duration::from_millis(10)), &mut Vec::new());
    ring.give_up(socks[2]);
    let mut seen = Vec::new();
    while seen.len() < 5 {
        seen.extend(turn(&mut ring));
    }
    let took = start.elapsed();
    assert!(took >= timeout && took < Duration::from_secs(10), "{took:?}");
    for (i, sock) in socks.iter().enumerate() {
        let failed = seen.iter().any(|c| {
            matches!(c, Completion::ConnectFailed { sock: s, error }
            if s == sock && error.kind() == io::ErrorKind::TimedOut)
        });
        assert_eq!(failed, i < 2, "{seen:?}");
        assert!(seen.iter().any(|c| matches!(c, Completion::Closed { sock: s } if s == sock)));
    }
    assert_eq!((ring.stats().sockets, ring.stats().in_flight), (0, 1));
}

#[test]
fn another_thread_wakes_the_ring_once_per_turn() {
    let mut ring = ring();
    for _ in 0..50 {
        let waker = ring.waker();
        let thread = thread::spawn(move || (0..10).for_each(|_| waker.wake()));
        assert!(matches!(one(&mut ring), Completion::Woken));
        thread.join().expect("woken");
        // Wake-ups after the first turn come with the next one, together.
        let mut out = Vec::new();
        ring.submit_and_wait(Some(Duration::ZERO), &mut out);
        ring.submit_and_wait(Some(Duration::ZERO), &mut out);
        assert!(out.len() <= 1, "{out:?}");
    }
    let waker = ring.waker();
    drop(ring);
    waker.wake();
}

#[test]
fn the_wait_ends_in_time() {
    let mut ring = ring();
    let mut out = Vec::new();
    let start = Instant::now();
    ring.submit_and_wait(Some(Duration::from_millis(60)), &mut out);
    assert!(start.elapsed() >= Duration::from_millis(60));
    let start = Instant::now();
    for _ in 0..100 {
        ring.submit_and_wait(Some(Duration::ZERO), &mut out);
    }
    assert!(start.elapsed() < Duration::from_secs(5) && out.is_empty());
}

#[test]
fn buffers_are_used_again() {
    let mut ring = ring();
    let (sock, mut peer) = pair(&mut ring);
    for round in 0..200u32 {
        peer.write_all(&[round as u8; 10_000]).expect("written");
        let mut got = 0;
        while got < 10_000 {
            ring.recv(sock, 65536);
            let Completion::Received { chunk, .. } = one(&mut ring) else { panic!("no bytes") };
            assert!(chunk.iter().all(|byte| *byte == round as u8));
            got += chunk.len();
        }
    }
    let pool = ring.stats().pool;
    assert_eq!(pool.allocated, 1);
    assert!(pool.reused >= 199, "{pool:?}");
}

#[test]
fn held_parts_stay_what_they_were() {
    let mut ring = ring();
    let (sock, mut peer) = pair(&mut ring);
    let mut held = Vec::new();
    for round in 0..120u32 {
        peer.write_all(&[round as u8; 20_000]).expect("written");
        let mut got = 0;
        while got < 20_000 {
            ring.recv(sock, 65536);
            let Completion::Received { chunk, .. } = one(&mut ring) else { panic!("no bytes") };
            got += chunk.len();
            held.push((round as u8, chunk));
        }
    }
    assert!(held.iter().all(|(byte, chunk)| chunk.iter().all(|b| b == byte)));
    assert!(ring.stats().pool.allocated > 3, "{:?}", ring.stats());
}

/// A graceful close with a send and a receive in flight: everything arrives, then FIN, no reset.
#[test]
fn closing_finishes_the_send() {
    let mut ring = ring();
    let (sock, mut peer) = pair(&mut ring);
    let data = pattern(16 << 20, 3);
    ring.recv(sock, 4096);
    send_much(
        &mut ring,
        sock,
        vec![Bytes::from(data[..1 << 20].to_vec()), Bytes::from(data[1 << 20..].to_vec())],
    );
    ring.close(sock);
    let reader = thread::spawn(move || drain(&mut peer));
    assert!(matches!(one(&mut ring), Completion::Closed { .. }));
    let (read, end) = reader.join().expect("read");
    assert_eq!(end, io::ErrorKind::UnexpectedEof);
    assert!(read == data, "{} of {} bytes", read.len(), data.len());
}

#[test]
fn a_close_that_takes_too_long_is_cut_short() {
    let mut ring = ring();
    let (sock, mut peer) = pair(&mut ring);
    send_much(&mut ring, sock, vec![Bytes::from(vec![1; 64 << 20])]);
    ring.close(sock);
    let mut out = Vec::new();
    ring.submit_and_wait(Some(Duration::from_millis(50)), &mut out);
    assert!(out.is_empty(), "{out:?}");
    ring.give_up(sock);
    assert!(matches!(one(&mut ring), Completion::Closed { .. }));
    assert_eq!(drain(&mut peer).1, io::ErrorKind::ConnectionReset);
}

#[test]
fn the_end_of_the_peer_is_told() {
    let mut ring = ring();
    let (sock, peer) = pair(&mut ring);
    peer.shutdown(Shutdown::Write).expect("shut down");
    ring.recv(sock, 10);
    assert!(matches!(one(&mut ring), Completion::Eof { .. }));
    assert!(ring.is_open(sock), "half of the stream is left");
    drop(peer);
    let (sock, peer) = pair(&mut ring);
    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("set");
    drop(peer);
    ring.recv(sock, 10);
    let failed = one(&mut ring);
    assert!(
        matches!(&failed, Completion::RecvFailed { error, .. }
        if error.kind() == io::ErrorKind::ConnectionReset),
        "{failed:?}"
    );
    let none =
        send(&mut ring, sock, vec![Bytes::from_static(b"into the void"), Bytes::from_static(b"!")]);
    assert!(none.is_none() && !ring.is_sending(sock));
    let failed = one(&mut ring);
    assert!(matches!(failed, Completion::SendFailed { bytes: 0, .. }), "{failed:?}");
    assert!(ring.is_open(sock), "a failed socket stays until it is given up");
    ring.give_up(sock);
    assert!(matches!(one(&mut ring), Completion::Closed { .. }));
}

/// A send that fails on the way tells how many bytes the kernel had taken.
#[test]
fn a_failed_send_tells_how_far_it_got() {
    let mut ring = ring();
    let (sock, mut peer) = pair(&mut ring);
    send_much(
        &mut ring,
        sock,
        vec![Bytes::from(vec![2; 48 << 20]), Bytes::from(vec![3; 48 << 20])],
    );
    let mut out = Vec::new();
    ring.submit_and_wait(Some(Duration::from_millis(20)), &mut out);
    assert!(out.is_empty(), "{out:?}");
    peer.read_exact(&mut vec![0; 100_000]).expect("read some");
    drop(peer);
    let Completion::SendFailed { bytes, .. } = one(&mut ring) else { panic!("not failed") };
    assert!((100_000..96 << 20).contains(&bytes), "{bytes}");
    // The kernel reported the part first, and the error when the rest was submitted.
    assert!(ring.stats().partial_sends > 0, "{:?}", ring.stats());
}

#[test]
fn a_full_table_is_an_error_and_room_comes_back() {
    let mut ring =
        Ring::new(RingConfig { sockets: 2, entries: 2, io: engine(), ..RingConfig::default() })
            .expect("made");
    let (one_sock, _a) = unix_pair(&mut ring);
    let (_, _b) = unix_pair(&mut ring);
    let (third, _c) = UnixStream::pair().expect("a pair");
    let text = ring.adopt(third.into(), false).expect_err("full").to_string();
    assert!(text.contains("2 sockets"), "{text}");
    ring.close(one_sock);
    assert!(matches!(one(&mut ring), Completion::Closed { .. }));
    let (new, _d) = unix_pair(&mut ring);
    assert_eq!(new.index(), one_sock.index());
    assert_ne!(new, one_sock);
    assert!(!ring.is_open(one_sock));
}

/// More submissions than the queue has room for.
#[test]
fn a_small_queue_is_submitted_when_it_is_full() {
    let mut ring =
        Ring::new(RingConfig { sockets: 40, entries: 2, io: engine(), ..RingConfig::default() })
            .expect("made");
    let mut pairs: Vec<_> = (0..40).map(|_| unix_pair(&mut ring)).collect();
    let much = Bytes::from(pattern(1 << 20, 4));
    for (sock, peer) in &mut pairs {
        ring.recv(*sock, 100);
        send_much(&mut ring, *sock, vec![much.clone()]);
        peer.write_all(b"from").expect("written");
    }
    let all = much.clone();
    let readers = thread::spawn(move || {
        for (_, mut peer) in pairs {
            let mut read = vec![0; all.len()];
            peer.read_exact(&mut read).expect("all of it");
            assert!(read == all, "other bytes");
        }
    });
    let (mut received, mut sent) = (0, 0);
    while (received, sent) != (40, 40) {
        for completion in turn(&mut ring) {
            match completion {
                Completion::Received { chunk, .. } if chunk == "from" => received += 1,
                Completion::Sent { bytes, .. } if bytes == much.len() => sent += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    readers.join().expect("everything arrived");
}

#[test]
fn the_end_of_a_ring_resets_its_sockets() {
    let mut ring = ring();
    let (sock, mut peer) = pair(&mut ring);
    let (other, mut unix) = unix_pair(&mut ring);
    ring.recv(sock, 100);
    ring.recv(other, 100);
    send_much(&mut ring, sock, vec![Bytes::from(vec![1; 64 << 20])]);
    ring.submit_and_wait(Some(Duration::ZERO), &mut Vec::new());
    let start = Instant::now();
    drop(ring);
    assert!(start.elapsed() < Duration::from_millis(900), "the kernel kept memory");
    assert_eq!(drain(&mut peer).1, io::ErrorKind::ConnectionReset);
    assert_eq!(drain(&mut unix).1, io::ErrorKind::UnexpectedEof);
}

#[test]
#[should_panic(expected = "a second receive")]
fn two_receives_are_a_bug() {
    let mut ring = ring();
    let (sock, _peer) = unix_pair(&mut ring);
    ring.recv(sock, 1);
    ring.recv(sock, 1);
}

#[test]
#[should_panic(expected = "which is not open")]
fn a_send_after_the_end_is_a_bug() {
    let mut ring = ring();
    let (sock, _peer) = unix_pair(&mut ring);
    ring.close(sock);
    let _ = ring.send(sock, vec![Bytes::from_static(b"x")]);
}

#[derive(Debug, Clone)]
enum Step {
    PeerWrites(usize),
    WeReceive(usize),
    WeSend(Vec<usize>),
    PeerReads,
}

#[derive(Debug, Clone, Copy)]
enum End {
    WeClose,
    WeGiveUp,
    PeerCloses,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(
        prop_oneof![
            (1usize..60_000).prop_map(Step::PeerWrites),
            (1usize..100_000).prop_map(Step::WeReceive),
            prop::collection::vec(1usize..9_000, 1..12).prop_map(Step::WeSend),
            Just(Step::PeerReads),
        ],
        0..14,
    )
}

/// What both ends saw: bytes, and how the stream ended.
type Seen = (Vec<u8>, Vec<u8>, Option<io::ErrorKind>);

/// Our end of a connection, by ring or by plain system calls.
trait Side {
    fn receive(&mut self, max: usize) -> io::Result<Vec<u8>>;
    fn send(&mut self, segments: Vec<Bytes>);
    fn close(&mut self);
    fn give_up(&mut self);
}

struct ByRing<'a>(&'a mut Ring, SockId);

impl Side for ByRing<'_> {
    fn receive(&mut self, max: usize) -> io::Result<Vec<u8>> {
        self.0.recv(self.1, max);
        match one(self.0) {
            Completion::Received { chunk, .. } => Ok(chunk.to_vec()),
            Completion::Eof { .. } => Ok(Vec::new()),
            Completion::RecvFailed { error, .. } => Err(error),
            other => panic!("{other:?}"),
        }
    }
    fn send(&mut self, segments: Vec<Bytes>) {
        if send(self.0, self.1, segments).is_none() {
            let sent = one(self.0);
            assert!(matches!(sent, Completion::Sent { .. }), "{sent:?}");
        }
    }
    fn close(&mut self) {
        self.0.close(self.1);
        assert!(matches!(one(self.0), Completion::Closed { .. }));
    }
    fn give_up(&mut self) {
        self.0.give_up(self.1);
        assert!(matches!(one(self.0), Completion::Closed { .. }));
    }
}

struct ByCalls(Option<TcpStream>);

impl Side for ByCalls {
    fn receive(&mut self, max: usize) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; max];
        let len = self.0.as_mut().expect("open").read(&mut piece)?;
        piece.truncate(len);
        Ok(piece)
    }
    fn send(&mut self, segments: Vec<Bytes>) {
        self.0.as_mut().expect("open").write_all(&segments.concat()).expect("written");
    }
    fn close(&mut self) {
        self.0 = None;
    }
    fn give_up(&mut self) {
        let stream = self.0.take().expect("open");
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("set");
    }
}

/// Plays a script; receives happen only where bytes are on their way, so that nothing waits for ever.
fn play(side: &mut dyn Side, mut peer: TcpStream, steps: &[Step], end: End) -> Seen {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut to_us, mut to_them, mut seed) = (0usize, 0usize, 0u64);
    let mut read_all = |peer: &mut TcpStream, to_them: &mut usize| {
        let mut bytes = vec![0; std::mem::take(to_them)];
        peer.read_exact(&mut bytes).expect("what was sent arrives");
        theirs.extend(bytes);
    };
    for step in steps {
        seed += 1;
        match step {
            Step::PeerWrites(len) if to_us + len < 200_000 => {
                peer.write_all(&pattern(*len, seed)).expect("written");
                to_us += len;
            }
            Step::WeReceive(max) if to_us > 0 => {
                let bytes = side.receive(*max).expect("bytes");
                assert!(!bytes.is_empty() && bytes.len() <= *max);
                to_us -= bytes.len();
                ours.extend(bytes);
            }
            Step::WeSend(lens) if to_them < 100_000 => {
                side.send(lens.iter().map(|len| Bytes::from(pattern(*len, seed))).collect());
                to_them += lens.iter().sum::<usize>();
            }
            Step::PeerReads => read_all(&mut peer, &mut to_them),
            _ => {}
        }
    }
    while to_us > 0 {
        let bytes = side.receive(50_000).expect("bytes");
        to_us -= bytes.len();
        ours.extend(bytes);
    }
    read_all(&mut peer, &mut to_them);
    let ended = match end {
        End::WeClose => {
            side.close();
            Some(drain(&mut peer).1)
        }
        End::WeGiveUp => {
            side.give_up();
            Some(drain(&mut peer).1)
        }
        End::PeerCloses => {
            drop(peer);
            assert_eq!(side.receive(1).expect("end of the stream"), Vec::<u8>::new());
            None
        }
    };
    (ours, theirs, ended)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// The same script by ring and by plain system calls gives the same bytes and the same end.
    #[test]
    fn the_ring_does_what_plain_calls_do(
        steps in steps(),
        end in prop_oneof![Just(End::WeClose), Just(End::WeGiveUp), Just(End::PeerCloses)],
    ) {
        let mut ring = ring();
        let (sock, peer) = pair(&mut ring);
        let by_ring = play(&mut ByRing(&mut ring, sock), peer, &steps, end);

        let (listener, address) = listener();
        let stream = TcpStream::connect(address).expect("connected");
        let peer = listener.accept().expect("a connection").0;
        let by_calls = play(&mut ByCalls(Some(stream)), peer, &steps, end);
        prop_assert!(by_ring == by_calls, "{:?} and {:?}", by_ring.2, by_calls.2);
    }
}
