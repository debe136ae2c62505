//! Standing under writeback: locked memory where that is allowed, and a word where it is not.

use crate::harness::daemon::Daemon;
use crate::harness::embedded::Embedded;
use crate::{open, says};
use nix::unistd::geteuid;
use std::process::Command;

/// A line of /proc/PID/status, KiB.
fn kib(daemon: &Daemon, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn locked(daemon: &Daemon) -> bool {
    daemon.status()["daemon"]["memory_locked"].as_bool().unwrap()
}

#[test]
fn memory_is_locked_as_it_is_touched() {
    if !geteuid().is_root() {
        return;
    }
    let rig = Embedded::start("locked");
    let daemon = rig.daemon("");
    assert!(locked(&daemon), "{}", daemon.log());
    open(&daemon).write(0, &[1; 8192]).unwrap();
    let (all, resident) = (kib(&daemon, "VmLck:"), kib(&daemon, "VmRSS:"));
    // Stacks and pools that are only reserved count as locked, and take no memory.
    assert!(all > 0 && resident < all / 7, "{resident} of {all} KiB are resident");
    daemon.stop();
}

/// A user's limit: the daemon works, and says once what is missing and what gives it.
#[test]
fn without_the_privilege_it_runs_and_says_so() {
    let rig = Embedded::start("unlocked");
    let mut daemon = Daemon::launch_with(&rig.scratch, None, &rig.config(""), |mpio| {
        let mut command = Command::new("prlimit");
        command.arg("--memlock=8388608");
        if geteuid().is_root() {
            command.args(["setpriv", "--bounding-set=-ipc_lock,-sys_resource"]);
        }
        command.arg(mpio.get_program()).args(mpio.get_args());
        command.envs(mpio.get_envs().filter_map(|(key, value)| Some((key, value?))));
        *mpio = command;
    });
    daemon.wait("a device with state ok", |status| status["devices"][0]["state"] == "ok");
    assert!(!locked(&daemon));
    assert_eq!(kib(&daemon, "VmLck:"), 0);
    let log = daemon.log();
    says(&log, &["RLIMIT_MEMLOCK is 8192 KiB", "LimitMEMLOCK=infinity", "OOMScoreAdjust=-1000"]);
    assert_eq!(log.matches("writeback").count(), 1, "{log}");
    open(&daemon).write(0, &[1; 8192]).unwrap();
    daemon.stop();
}
