//! The same cases on both engines, and which engine it is.

#[path = "cases.rs"]
#[expect(clippy::duplicate_mod, reason = "a case asks by which name it was included")]
mod on_epoll;
#[path = "cases.rs"]
#[expect(clippy::duplicate_mod, reason = "a case asks by which name it was included")]
mod on_uring;

use super::{Io, Ring, RingConfig};
use std::thread;

/// Makes the kernel refuse io_uring to the calling thread, as the profiles of containers do.
fn forbid_io_uring() {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let setup = libc::SYS_io_uring_setup as u32;
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            jf: 1,
            ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, setup)
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the first call takes plain numbers; the second one reads a live program of the given length.
    let results = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter, 0, 0),
        ]
    };
    assert_eq!(results, [0, 0], "{}", std::io::Error::last_os_error());
}

#[test]
fn epoll_serves_where_io_uring_is_refused() {
    let thread = thread::spawn(|| {
        forbid_io_uring();
        let mut ring = Ring::new(RingConfig::default()).expect("a ring all the same");
        assert_eq!(ring.io(), Io::Epoll);
        let why = ring.take_refusal().expect("a reason").to_string();
        assert!(why.contains("seccomp") && ring.take_refusal().is_none(), "{why}");
        let only = Ring::new(RingConfig { io: Io::Uring, ..RingConfig::default() });
        assert!(only.is_err_and(|error| error.is_refusal()));
    });
    thread.join().expect("the thread's own assertions");
    let ring = Ring::new(RingConfig::default()).expect("a ring");
    assert_eq!(ring.io(), Io::Uring, "only that thread was refused");
}

#[test]
fn an_alarm_ends_a_wait_and_may_be_overtaken() {
    for io in [Io::Uring, Io::Epoll] {
        let mut ring = Ring::new(RingConfig { io, ..RingConfig::default() }).expect("a ring");
        let (start, mut out) = (std::time::Instant::now(), Vec::new());
        let ms = std::time::Duration::from_millis;
        assert!(ring.alarm(ms(60_000)) && ring.alarm(ms(20)));
        let mut waits = 0;
        while start.elapsed() < ms(20) {
            // Ends because of the alarm, or early, which is rare.
            ring.submit_and_wait(None, &mut out);
            waits += 1;
        }
        assert!(out.is_empty() && waits < 10, "{io:?}: {waits} waits, {out:?}");
        let set = (0..100).take_while(|_| ring.alarm(ms(60_000))).count();
        assert!((10..99).contains(&set), "{io:?}: {set} alarms");
    }
}
