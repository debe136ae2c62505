//! `mpio` itself: a running `mpio serve`, its status as JSON, and the other commands towards it.

use super::Scratch;
use super::netns::NetNs;
use super::process::{Finished, Process, command, finish};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// The binary under test.
pub const MPIO: &str = env!("CARGO_BIN_EXE_mpio");

/// Until a device with all its paths is up, or a path is back: generous, for machines that are busy.
pub const SETTLE: Duration = Duration::from_secs(30);

/// Runs `mpio` with these arguments, without a daemon of ours.
#[track_caller]
pub fn mpio(arguments: &[&str]) -> Finished {
    finish(None, MPIO, arguments)
}

/// A running `mpio serve`.
pub struct Daemon {
    process: Process,
    control: PathBuf,
    export: PathBuf,
}

impl Daemon {
    /// Starts `mpio serve` with `config` in `netns`, and does not wait for its devices.
    #[track_caller]
    pub fn launch(scratch: &Scratch, netns: Option<&NetNs>, config: &str) -> Daemon {
        Daemon::launch_with(scratch, netns, config, |_| {})
    }

    /// [`launch`](Daemon::launch), after `change` has added to the command.
    #[track_caller]
    pub fn launch_with(
        scratch: &Scratch,
        netns: Option<&NetNs>,
        config: &str,
        change: impl FnOnce(&mut Command),
    ) -> Daemon {
        let file = scratch.file("mpio.toml", config);
        let control = scratch.path("control.sock");
        let mut command = command(netns, MPIO);
        command.arg("serve").arg("--config").arg(file).arg("--control").arg(&control);
        // State and locks of the daemon stay in the test's directory.
        command
            .env("XDG_RUNTIME_DIR", scratch.path("runtime"))
            .env("XDG_STATE_HOME", scratch.path("state"))
            .env("STATE_DIRECTORY", scratch.path("state"));
        for directory in ["runtime", "state"] {
            std::fs::create_dir_all(scratch.path(directory)).unwrap();
        }
        change(&mut command);
        let process = Process::start("mpio serve", command, &scratch.path("serve.log"));
        Daemon { process, control, export: scratch.path("vm0.sock") }
    }

    /// [`launch`](Daemon::launch), and waits until its only device is whole.
    #[track_caller]
    pub fn start(scratch: &Scratch, netns: Option<&NetNs>, config: &str) -> Daemon {
        let mut daemon = Daemon::launch(scratch, netns, config);
        daemon.wait("a device with state ok", |status| status["devices"][0]["state"] == "ok");
        daemon
    }

    /// The export of `vm0` for clients of NBD.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///vm0?socket={}", self.export.display())
    }

    /// Runs an `mpio` command towards this daemon.
    #[track_caller]
    pub fn command(&self, arguments: &[&str]) -> Finished {
        let control = self.control.to_string_lossy();
        finish(None, MPIO, &[arguments, &["--control", &control]].concat())
    }

    /// [`command`](Daemon::command) with exit code 0; gives its standard output.
    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let done = self.command(arguments);
        assert_eq!(
            done.code,
            Some(0),
            "mpio {}\n{}\n{}",
            arguments.join(" "),
            done.stdout,
            done.stderr
        );
        done.stdout
    }

    /// `mpio status --json`.
    #[track_caller]
    pub fn status(&self) -> Value {
        let text = self.succeed(&["status", "--json"]);
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("status --json: {error}:\n{text}"))
    }

    /// Waits until the status is as `accept` wants it, and gives it.
    #[track_caller]
    pub fn wait(&mut self, what: &str, accept: impl Fn(&Value) -> bool) -> Value {
        let since = Instant::now();
        loop {
            self.process.assert_running();
            let answer = self.command(&["status", "--json"]);
            match serde_json::from_str(&answer.stdout) {
                Ok(status) if accept(&status) => return status,
                _ => {}
            }
            let (limit, last) = (SETTLE.as_secs(), &answer);
            assert!(
                since.elapsed() < SETTLE,
                "{what}: not within {limit} s; the last status: {last:?}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until `path` of the only device has a state that `accept` wants.
    #[track_caller]
    pub fn wait_for_path(
        &mut self,
        path: &str,
        what: &str,
        accept: impl Fn(&str) -> bool,
    ) -> Value {
        let what = format!("path {path} {what}");
        self.wait(&what, |status| path_of(status, path)["state"].as_str().is_some_and(&accept))
    }

    /// Waits until `path` is active.
    #[track_caller]
    pub fn wait_until_active(&mut self, path: &str) -> Value {
        self.wait_for_path(path, "active", |state| state == "active")
    }

    /// Waits until every one of `paths` has carried commands that it had not carried before this call.
    #[track_caller]
    pub fn wait_until_all_carry_io(&mut self, paths: &[&str]) {
        let before = self.status();
        self.wait("I/O on every path", |now| {
            paths.iter().all(|path| commands_of(now, path) > commands_of(&before, path))
        });
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its control socket.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// The unix socket of its export.
    pub fn export(&self) -> &Path {
        &self.export
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Panics if it is not running any more.
    #[track_caller]
    pub fn assert_running(&mut self) {
        self.process.assert_running();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_for_exit(&mut self, limit: Duration) -> ExitStatus {
        self.process.wait_for_exit(limit)
    }

    /// Resident memory in KiB.
    #[track_caller]
    pub fn resident_kib(&self) -> u64 {
        self.memory_kib("VmRSS:")
    }

    /// The most that was ever resident, in KiB.
    #[track_caller]
    pub fn most_resident_kib(&self) -> u64 {
        self.memory_kib("VmHWM:")
    }

    #[track_caller]
    fn memory_kib(&self, what: &str) -> u64 {
        let file = format!("/proc/{}/status", self.pid());
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let line = text.lines().find(|line| line.starts_with(what)).expect("a line of memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// Open descriptors.
    #[track_caller]
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// SIGTERM; expects exit code 0, and its sockets gone.
    #[track_caller]
    pub fn stop(mut self) {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait_for_exit(Duration::from_secs(20));
        assert!(
            status.success(),
            "mpio serve ended with {status} on SIGTERM:\n{}",
            self.process.output()
        );
        for socket in [&self.control, &self.export] {
            assert!(!socket.exists(), "{} is still there after SIGTERM", socket.display());
        }
    }
}

/// A path of the only device of a status; null if there is none of that name.
pub fn path_of<'a>(status: &'a Value, path: &str) -> &'a Value {
    static NULL: Value = Value::Null;
    status["devices"][0]["paths"]
        .as_array()
        .and_then(|paths| paths.iter().find(|candidate| candidate["name"] == path))
        .unwrap_or(&NULL)
}

/// Reads and writes that a path has carried.
pub fn commands_of(status: &Value, path: &str) -> u64 {
    let path = path_of(status, path);
    path["reads"].as_u64().unwrap_or(0) + path["writes"].as_u64().unwrap_or(0)
}
