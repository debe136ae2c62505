//! Makes the kernel's ring and finds out whether it can do what the lane needs; where it cannot, says why
//! and what to do about it.
//!
//! The ring is restricted to the operations of this module before it is enabled, so that a bug elsewhere
//! in the process cannot use it to open files.

use std::io;

use io_uring::{IoUring, Probe, opcode, register::Restriction, squeue};

/// Why there is no ring, for an administrator.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The system call does not exist.
    #[error(
        "this kernel has no io_uring (it is older than 5.1 or was built without CONFIG_IO_URING); \
         try: Linux 5.19 or later"
    )]
    Missing,
    /// The host's administrator has switched io_uring off, for everybody or for most.
    #[error(
        "io_uring is switched off on this host (kernel.io_uring_disabled = {value}); try: \
         `sysctl -w kernel.io_uring_disabled=0`{group}",
        group = if *.value == 1 {
            ", or put this user into the group that kernel.io_uring_group names"
        } else { "" }
    )]
    SwitchedOff {
        /// The sysctl: 1 = only for a group and CAP_SYS_ADMIN, 2 = for nobody.
        value: u8,
    },
    /// Refused, and not by the sysctl.
    #[error(
        "io_uring is refused to this process, most likely by a seccomp filter (usual in containers); \
         try: allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile"
    )]
    Filtered,
    /// The kernel is too old.
    #[error("io_uring of this kernel cannot {missing}; try: Linux 5.19 or later")]
    TooOld {
        /// The first thing that is missing.
        missing: &'static str,
    },
    /// Locked or kernel memory.
    #[error(
        "no memory for the io_uring queues; try: raise the limit of locked memory (`ulimit -l`, or \
         LimitMEMLOCK= of the service)"
    )]
    Memory,
    /// Anything else.
    #[error("io_uring cannot be set up: {0}; try: the kernel's log")]
    Other(#[source] io::Error),
}

impl RingError {
    /// Whether io_uring is not to be had here at all, so that epoll serves instead.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            RingError::Missing
            | RingError::SwitchedOff { .. }
            | RingError::Filtered
            | RingError::TooOld { .. } => true,
            RingError::Memory | RingError::Other(_) => false,
        }
    }
}

/// Sorts an error of `io_uring_setup`; `sysctl` is what /proc/sys/kernel/io_uring_disabled holds.
fn classify(error: io::Error, sysctl: Option<&str>) -> RingError {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => RingError::Missing,
        Some(libc::EPERM | libc::EACCES) => {
            match sysctl.and_then(|text| text.trim().parse().ok()) {
                Some(value @ 1..) => RingError::SwitchedOff { value },
                _ => RingError::Filtered,
            }
        }
        Some(libc::ENOMEM) => RingError::Memory,
        _ => RingError::Other(error),
    }
}

fn sorted(error: io::Error) -> RingError {
    let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    classify(error, sysctl.as_deref())
}

/// What the lane submits, and the words for it. SOCKET is never used: it came with 5.19, as did
/// cancelling by descriptor and MSG_WAITALL that goes on after a partial send, which cannot be probed.
const OPERATIONS: [(u8, &str); 9] = [
    (opcode::Connect::CODE, "connect"),
    (opcode::Recv::CODE, "receive"),
    (opcode::Send::CODE, "send"),
    (opcode::SendMsg::CODE, "send from several buffers"),
    (opcode::AsyncCancel::CODE, "cancel"),
    (opcode::LinkTimeout::CODE, "limit the time of an operation"),
    (opcode::Read::CODE, "read"),
    (opcode::Timeout::CODE, "wait for a time"),
    (opcode::Socket::CODE, "cancel by descriptor"),
];

/// How much of the cheaper completion delivery is asked for, best first (6.1, 5.19, none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Deferred,
    Cooperative,
    Plain,
}

fn build(mode: Mode, entries: u32, completions: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_cqsize(completions).setup_r_disabled();
    match mode {
        Mode::Deferred => {
            builder.setup_submit_all().setup_coop_taskrun().setup_single_issuer();
            builder.setup_defer_taskrun().setup_taskrun_flag();
        }
        Mode::Cooperative => {
            builder.setup_submit_all().setup_coop_taskrun().setup_taskrun_flag();
        }
        Mode::Plain => {}
    }
    builder.build(entries)
}

/// A ring with room for `entries` submissions and `completions` completions, probed and restricted.
///
/// # Errors
/// [`RingError`]; its text names cause and remedy.
pub(super) fn ring(entries: u32, completions: u32) -> Result<IoUring, RingError> {
    let mut ring = build(Mode::Deferred, entries, completions);
    for mode in [Mode::Cooperative, Mode::Plain] {
        if matches!(&ring, Err(error) if error.raw_os_error() == Some(libc::EINVAL)) {
            ring = build(mode, entries, completions);
        }
    }
    let ring = ring.map_err(sorted)?;
    let params = ring.params();
    check(&[
        (params.is_feature_ext_arg(), "wait with a time limit"),
        (params.is_feature_nodrop(), "keep every completion"),
        (params.is_feature_submit_stable(), "take submissions by copy"),
        (params.is_feature_fast_poll(), "wait for sockets without threads"),
    ])?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(sorted)?;
    check(&OPERATIONS.map(|(code, words)| (probe.is_supported(code), words)))?;

    let mut allowed: Vec<Restriction> =
        OPERATIONS[..8].iter().map(|(code, _)| Restriction::sqe_op(*code)).collect();
    allowed.push(Restriction::sqe_flags_allowed(squeue::Flags::IO_LINK.bits()));
    ring.submitter().register_restrictions(&mut allowed).map_err(sorted)?;
    ring.submitter().register_enable_rings().map_err(sorted)?;
    Ok(ring)
}

fn check(needs: &[(bool, &'static str)]) -> Result<(), RingError> {
    match needs.iter().find(|(there, _)| !there) {
        Some((_, missing)) => Err(RingError::TooOld { missing }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(errno: i32, sysctl: Option<&str>) -> String {
        classify(io::Error::from_raw_os_error(errno), sysctl).to_string()
    }

    #[test]
    fn each_refusal_names_its_cause_and_remedy() {
        assert!(text(libc::ENOSYS, None).contains("try: Linux 5.19"));
        let group = text(libc::EPERM, Some("1\n"));
        assert!(group.contains("io_uring_disabled = 1") && group.contains("io_uring_group"));
        let nobody = text(libc::EPERM, Some("2\n"));
        assert!(nobody.contains("io_uring_disabled = 2") && !nobody.contains("io_uring_group"));
        assert!(text(libc::EPERM, Some("0\n")).contains("seccomp"));
        assert!(text(libc::EPERM, None).contains("seccomp"));
        assert!(text(libc::ENOMEM, None).contains("LimitMEMLOCK"));
        assert!(text(libc::EMFILE, None).contains("Too many open files"));
    }

    #[test]
    fn what_is_missing_is_said() {
        let error = check(&[(true, "breathe"), (false, "fly"), (false, "swim")]);
        assert!(error.expect_err("cannot fly").to_string().contains("cannot fly;"));
    }

    #[test]
    fn every_mode_works_here() {
        for mode in [Mode::Deferred, Mode::Cooperative, Mode::Plain] {
            build(mode, 8, 32).unwrap_or_else(|error| panic!("{mode:?}: {error}"));
        }
    }

    /// A ring that may not do what the lane does not do.
    #[test]
    fn other_operations_are_refused() {
        let mut ring = ring(8, 32).expect("a ring");
        let entry = opcode::Nop::new().build();
        // SAFETY: NOP uses no memory.
        unsafe { ring.submission().push(&entry) }.expect("an empty queue has room");
        ring.submit_and_wait(1).expect("submitted");
        let result = ring.completion().next().expect("completed").result();
        assert_eq!(result, -libc::EACCES);
    }
}
