//! Where io_uring is refused, as in most containers: what needs it says so, what does not works.
//!
//! Refused by a seccomp filter, put in place between fork and exec.
#![allow(unsafe_code, reason = "prctl between fork and exec")]

use crate::harness::daemon::{MPIO, mpio};
use crate::harness::embedded::Embedded;
use crate::harness::process::command;
use crate::says;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

/// Runs `mpio` under a filter that answers `errno` to io_uring_setup.
fn refused(errno: i32, arguments: &[&str]) -> Output {
    refused_with(errno, &[], arguments)
}

/// The same, with variables in its environment.
fn refused_with(errno: i32, env: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command: Command = command(None, "timeout");
    command.envs(env.iter().copied());
    command.args(["-k", "5", "60", MPIO]).args(arguments);
    let filter = filter(errno);
    let deny = move || {
        let program =
            libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: both calls only read their arguments; `program` and what it points to live until they return.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(deny) };
    command.output().unwrap()
}

/// Load the number of the system call; if it is io_uring_setup, the errno; else go on.
fn filter(errno: i32) -> [libc::sock_filter; 4] {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    [
        step(LOAD, 0, 0, 0),
        step(EQUAL, 0, 1, libc::SYS_io_uring_setup as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// The whole way of the data on epoll: verified load, cut paths, nothing wrong.
#[test]
fn the_demo_runs_on_epoll() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let done = refused(errno, &["demo", "--seconds", "6"]);
        let (stdout, stderr) =
            (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert_eq!(done.status.code(), Some(0), "{stdout}\n{stderr}");
    }
}

/// Who insists on io_uring is told why there is none.
#[test]
fn the_daemon_says_what_is_missing_and_leaves_nothing_behind() {
    let rig = Embedded::start("no-uring");
    let file = rig.scratch.file("mpio.toml", rig.config(""));
    let control = rig.scratch.path("control.sock");
    let words =
        ["serve", "--config", &file.to_string_lossy(), "--control", &control.to_string_lossy()]
            .map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for (errno, why) in [(libc::EPERM, "seccomp"), (libc::ENOSYS, "this kernel has no io_uring")] {
        let done = refused_with(errno, &[("MPIO_IO", "io_uring")], &words);
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{stderr}");
        // The control thread has fallen back, and says so; the lane cannot.
        says(&stderr, &["io_uring is refused to the control thread; it runs on epoll"]);
        let last = stderr.lines().last().unwrap_or_default();
        says(last, &["mpio: lane 0 cannot start: ", why, "io_uring", "; try: "]);
        assert!(!control.exists() && !rig.scratch.path("vm0.sock").exists());
    }
    // The lock went with the process, and nothing else is in the way.
    let check = mpio(&["config", "check", &file.to_string_lossy()]);
    assert_eq!(check.code, Some(0), "{check:?}");
    rig.daemon("").stop();
}

#[test]
fn what_needs_no_lane_works_on_epoll() {
    let rig = Embedded::start("no-uring-cli");
    let done = refused(libc::EPERM, &["discover", &rig.portal(0), &rig.portal(1)]);
    let (stdout, stderr) =
        (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert_eq!((done.status.code(), &*stderr), (Some(0), ""), "{stdout}");
    says(&stdout, &[&rig.target(0), &rig.target(1), "naa.6000000102030405060708090a0b0c0d"]);
    // The other side of the control socket is plain everywhere.
    let daemon = rig.daemon("");
    let control = daemon.control().to_string_lossy().into_owned();
    let done = refused(libc::EPERM, &["status", "--control", &control]);
    assert_eq!(done.status.code(), Some(0));
    daemon.stop();
}
