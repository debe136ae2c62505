//! A daemon that stands under writeback: when memory is short, the kernel writes dirty pages to our export, and
//! must not wait for memory of ours to do so.
//!
//! Three things help, each with a privilege of its own: locked memory (nothing of ours is swapped out), the
//! IO_FLUSHER state (allocations on our behalf start no I/O of their own and are not held back behind it), and an
//! OOM score that ends others first. What is refused is told once, with what to do; the daemon runs without it.
//!
//! Memory is locked as it is touched (MCL_ONFAULT): stacks and pools that are only reserved stay reserved.

use super::config::secret::plain;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::configure_io_flusher_behavior;
use rustix::thread::{CapabilitySet, capabilities};
use std::io;

/// Where a process tells and sets how soon it is ended when memory is out (proc(5)).
const OOM_SCORE: &str = "/proc/self/oom_score_adj";
/// Never.
const OOM_SCORE_MIN: i32 = -1000;

/// What was allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared {
    /// Memory is locked.
    pub locked: bool,
}

/// Prepares this process. Call it before other threads are made: the IO_FLUSHER state is a thread's, and those
/// that it makes inherit it.
#[must_use]
pub fn prepare() -> Prepared {
    let locked = lock();
    let flusher = configure_io_flusher_behavior(true).map_err(|error| plain(&error.into()));
    let score = lower_oom_score().map_err(|error| plain(&error));
    let parts = [
        ("its memory may be swapped out", "LimitMEMLOCK=infinity", locked.clone()),
        ("it is no IO_FLUSHER", "AmbientCapabilities=CAP_SYS_RESOURCE", flusher),
        ("its OOM score is not lowered", "OOMScoreAdjust=-1000", score),
    ];
    let refused = parts.iter().filter_map(|(what, remedy, result)| {
        result.as_ref().err().map(|why| (format!("{what} ({why})"), *remedy))
    });
    let (refused, remedies): (Vec<String>, Vec<&str>) = refused.unzip();
    if !refused.is_empty() {
        tracing::warn!(
            "when memory is short, writeback may wait for this daemon, and not everything that helps is allowed: {}; \
             try: in its systemd unit {}",
            refused.join(", "),
            remedies.join(", ")
        );
    }
    Prepared { locked: locked.is_ok() }
}

/// Locks what there is and what will be. Only without a limit: with one, a later allocation would fail.
fn lock() -> Result<(), String> {
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(|errno| plain(&errno.into()))?;
    let privileged =
        capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::IPC_LOCK));
    if limit != RLIM_INFINITY && !privileged {
        return Err(format!("RLIMIT_MEMLOCK is {} KiB, and CAP_IPC_LOCK is missing", limit >> 10));
    }
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    mlockall(all).map_err(|errno| plain(&errno.into()))
}

/// Unless somebody has set one that is as low or lower.
fn lower_oom_score() -> io::Result<()> {
    let score = std::fs::read_to_string(OOM_SCORE)?;
    match score.trim().parse::<i32>() {
        // What systemd was told, perhaps a little less than the least: it is a decision of the administrator.
        Ok(score) if score < 0 => Ok(()),
        _ => std::fs::write(OOM_SCORE, OOM_SCORE_MIN.to_string()),
    }
}
