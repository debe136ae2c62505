//! A real Debian kernel on top and below: `/dev/nbd0` with ext4 over `tgtd`, and over the kernel's own target.
//!
//! One boot of the virtual machine runs all guest scripts (`tests/vm/*.sh`); each test here looks at one of them. What the machine says in lines that start with `## ` is shown as it comes;
//! everything is kept in `target/tmp/vm/console.log`.
#![cfg(feature = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "vm/guest.rs"]
mod guest;
mod harness;
mod proofs;

use mpio_vm::{Boot, Kernel, Line};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

const SCRIPTS: [&str; 7] =
    ["nbd.sh", "lio.sh", "alua.sh", "beside.sh", "hang.sh", "stale.sh", "proofs.sh"];

/// What the scripts need on the host, whose file system the machine sees; with its package.
const PROGRAMS: [(&str, &str); 15] = [
    ("fio", "fio"),
    ("tgtd", "tgt"),
    ("nbd-client", "nbd-client"),
    ("mkfs.ext4", "e2fsprogs"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("jq", "jq"),
    ("modprobe", "kmod"),
    ("nsenter", "util-linux"),
    ("tc", "iproute2"),
    ("dmsetup", "dmsetup"),
    ("iscsid", "open-iscsi"),
    ("iscsiadm", "open-iscsi"),
    ("multipathd", "multipath-tools"),
    ("udevadm", "udev"),
];

#[test]
fn nbd_client_and_ext4_across_killed_targets() {
    assert_passed("nbd.sh");
}

#[test]
fn lio_with_mutual_chap_and_digests_across_network_failures() {
    assert_passed("lio.sh");
}

#[test]
fn asymmetric_access_of_lio_is_followed_and_asked_for() {
    assert_passed("alua.sh");
}

#[test]
fn lio_is_reset_beside_writes_of_other_sessions() {
    assert_passed("beside.sh");
}

#[test]
fn a_disk_that_hangs_behind_lio() {
    assert_passed("hang.sh");
}

#[test]
fn answers_of_lio_that_prove_a_write_dead() {
    assert_passed("proofs.sh");
}

#[test]
fn the_stale_write_beside_dm_multipath() {
    assert_passed("stale.sh");
}

/// Boots once, whichever test comes first, and checks how `script` ended.
#[track_caller]
fn assert_passed(script: &str) {
    static RUN: OnceLock<Result<(), String>> = OnceLock::new();
    let share = share();
    if let Err(error) = RUN.get_or_init(|| boot(&share)) {
        panic!("{error}");
    }
    let code = std::fs::read_to_string(share.join("out").join(format!("{script}.exit")));
    let console = share.join("console.log");
    match code.as_deref().map(str::trim) {
        Ok("0") => {}
        Ok(code) => panic!(
            "{script} ended with {code}; what the machine said:\n{}",
            about(&console, script)
        ),
        Err(_) => {
            panic!("{script} did not end; what the machine said:\n{}", about(&console, script))
        }
    }
}

/// The scripts to run: all, or those that `MPIO_VM_SCRIPTS` names.
fn chosen() -> impl Iterator<Item = &'static str> {
    let only = std::env::var("MPIO_VM_SCRIPTS").unwrap_or_default();
    SCRIPTS
        .into_iter()
        .filter(move |script| only.is_empty() || only.split(' ').any(|name| name == *script))
}

fn share() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm")
}

fn boot(share: &Path) -> Result<(), String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| {
            !std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
        })
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        return Err(format!("not installed: {}; try: tests/install", missing.join(", ")));
    }
    let kernel = Kernel::find(&Kernel::cache_directory()).map_err(|error| error.to_string())?;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm");

    let _ = std::fs::remove_dir_all(share);
    std::fs::create_dir_all(share)
        .map_err(|error| format!("cannot make {}: {error}", share.display()))?;
    let mut log =
        std::fs::File::create(share.join("console.log")).map_err(|error| error.to_string())?;

    let mut boot = Boot::new(kernel, share, scripts.join("all.sh"));
    boot.arguments = chosen().map(str::to_owned).collect();
    boot.files = SCRIPTS.iter().chain(&["lib.sh"]).map(|name| scripts.join(name)).collect();
    boot.files.push(env!("CARGO_BIN_EXE_mpio").into());
    // This program itself is what asks the questions inside.
    let guest_tests = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest-tests");
    std::env::current_exe()
        .and_then(|program| std::fs::copy(program, &guest_tests))
        .map_err(|error| format!("cannot copy this program: {error}"))?;
    boot.files.push(guest_tests);
    boot.time_limit = Duration::from_secs(720);
    show(&format!(
        "vm: booting linux {} (emulated; the scripts take some minutes)",
        boot.kernel.version
    ));
    let outcome = boot.run(&mut |at, line| match line {
        Line::Console(text) => {
            let _ = writeln!(log, "[{:7.2}] {text}", at.as_secs_f64());
            if let Some(progress) = text.strip_prefix("## ") {
                show(&format!("vm: {:4.0} s  {progress}", at.as_secs_f64()));
            }
        }
        Line::Quiet { silent, .. } => {
            show(&format!(
                "vm: {:4.0} s  nothing said for {} s",
                at.as_secs_f64(),
                silent.as_secs()
            ));
        }
    });
    outcome.map(|_| ()).map_err(|error| {
        format!("{error}\nwhat the machine said: {}", share.join("console.log").display())
    })
}

/// Past the test runner's capture: minutes without a word look like a hang.
fn show(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The lines of the console from where `script` starts to where the next one does.
fn about(console: &Path, script: &str) -> String {
    let text = std::fs::read_to_string(console).unwrap_or_default();
    let mut inside = false;
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines() {
        if let Some(started) = SCRIPTS.iter().find(|name| line.ends_with(&format!("] ## {name}"))) {
            inside = *started == script;
        }
        if inside {
            lines.push(line);
        }
    }
    lines.join("\n")
}
