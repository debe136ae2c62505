//! Child processes that cannot outlive the test, and short commands that cannot hang it.

use super::netns::NetNs;
use super::{search_path, wait_for};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A command that runs in `netns` if one is given, and is killed when the calling thread ends.
pub fn command(netns: Option<&NetNs>, program: impl AsRef<OsStr>) -> Command {
    let mut words: Vec<&OsStr> = Vec::new();
    if let Some(netns) = netns {
        words.extend(["ip", "netns", "exec", netns.name()].map(OsStr::new));
    }
    words.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(OsStr::new));
    words.push(program.as_ref());
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("PATH", search_path()).stdin(Stdio::null());
    command
}

/// What a finished command left.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code, if it was not killed.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `program` to its end, for at most a minute.
#[track_caller]
pub fn finish(netns: Option<&NetNs>, program: impl AsRef<OsStr>, arguments: &[&str]) -> Finished {
    finish_within(Duration::from_secs(60), netns, program, arguments)
}

/// Runs `program` to its end, for at most `limit` (then it is killed, and `code` is 124 or nothing).
#[track_caller]
pub fn finish_within(
    limit: Duration,
    netns: Option<&NetNs>,
    program: impl AsRef<OsStr>,
    arguments: &[&str],
) -> Finished {
    let mut command = command(netns, "timeout");
    command.args(["-k", "5", &limit.as_secs().to_string()]).arg(program.as_ref()).args(arguments);
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs `program` and expects exit code 0; gives its standard output.
#[track_caller]
pub fn succeed(program: impl AsRef<OsStr>, arguments: &[&str]) -> String {
    let name = program.as_ref().to_string_lossy().into_owned();
    let done = finish(None, program, arguments);
    assert_eq!(
        done.code,
        Some(0),
        "{name} {}\n{}\n{}",
        arguments.join(" "),
        done.stdout,
        done.stderr
    );
    done.stdout
}

/// A running child; SIGKILL when dropped.
pub struct Process {
    child: Child,
    what: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; standard output and error are appended to `log`.
    #[track_caller]
    pub fn start(what: impl Into<String>, mut command: Command, log: &Path) -> Process {
        let what = what.into();
        let file = std::fs::File::options().create(true).append(true).open(log).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {what}: {error}"));
        Process { child, what, log: log.to_path_buf() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal to exactly this process.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal)
            .unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.what));
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Panics, with what it wrote, if it is not running any more.
    #[track_caller]
    pub fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} ended with {status}:\n{}", self.what, self.output());
        }
    }

    /// Panics, with what it wrote, if it has ended badly.
    #[track_caller]
    pub fn assert_running_or_done(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            assert!(status.success(), "{} ended with {status}:\n{}", self.what, self.output());
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_for_exit(&mut self, limit: Duration) -> ExitStatus {
        let (what, child) = (format!("the end of {}", self.what), &mut self.child);
        wait_for(limit, &what, || child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let output = self.output();
            let from = output.char_indices().rev().nth(4000).map_or(0, |(index, _)| index);
            eprintln!("--- the end of what {} wrote\n{}", self.what, &output[from..]);
        }
    }
}
