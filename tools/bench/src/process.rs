//! Processes that cannot outlive us, and a directory that goes with us.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a benchmark cannot go on after.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Something failed, with what it said.
    #[error("{0}")]
    Failed(String),
    /// The system refused.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What came of it.
        error: io::Error,
    },
}

/// An error of the system, with what was tried.
pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> BenchError {
    let what = what.into();
    move |error| BenchError::Io { what, error }
}

/// How long anything may take to come up.
const START: Duration = Duration::from_secs(20);

/// The processors that a set-up may use; everybody of a measurement shares them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    /// Generator, initiator and target on one: the sum of their work decides.
    One,
    /// Two: pipelining, and the price of waking another core.
    Two,
    /// The target on one, as on another host, and generator and initiator on the other: the scheduler has no say
    /// in whom the target's answers stop.
    Apart,
}

impl Cores {
    /// Those of generator and initiator, as `taskset` takes them.
    #[must_use]
    pub fn list(self) -> &'static str {
        match self {
            Cores::One => "0",
            Cores::Two => "0,1",
            Cores::Apart => "1",
        }
    }

    /// Where the target runs.
    #[must_use]
    pub fn of_target(self) -> Cores {
        match self {
            Cores::One | Cores::Apart => Cores::One,
            Cores::Two => Cores::Two,
        }
    }
}

/// A command on these processors that dies with us.
#[must_use]
pub fn command(cores: Cores, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "taskset", "-c", cores.list()]).arg(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")).stdin(Stdio::null());
    command
}

/// A running process; ended when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    what: String,
    log: PathBuf,
}

impl Running {
    /// Starts `command`; what it writes goes into a file of `directory`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        what: &str,
        mut command: Command,
        directory: &Path,
    ) -> Result<Running, BenchError> {
        let log = directory.join(format!("{what}.log"));
        let file = File::create(&log).map_err(io(log.display().to_string()))?;
        let copy = file.try_clone().map_err(io(what))?;
        let child = command.stdout(copy).stderr(file).spawn().map_err(io(what))?;
        Ok(Running { child, what: what.to_owned(), log })
    }

    /// Its process id: `setpriv` and `taskset` have become the program.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote.
    #[must_use]
    pub fn output(&self) -> String {
        let mut text = String::new();
        let read = File::open(&self.log).and_then(|mut file| file.read_to_string(&mut text));
        if read.is_ok() { text } else { String::new() }
    }

    /// Waits until `ready` gives something.
    ///
    /// # Errors
    /// When the process ends, or it takes too long.
    pub fn until<T>(&mut self, ready: impl Fn(&Running) -> Option<T>) -> Result<T, BenchError> {
        let end = Instant::now() + START;
        loop {
            if let Some(value) = ready(self) {
                return Ok(value);
            }
            let gone = self.child.try_wait().map_err(io(&self.what))?;
            if gone.is_some() || Instant::now() > end {
                let state = gone.map_or("is not ready in time".to_owned(), |s| s.to_string());
                let said = self.output();
                return Err(BenchError::Failed(format!("{}: {state}: {}", self.what, said.trim())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).map(nix::unistd::Pid::from_raw);
        if let Ok(pid) = pid {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end and gives its standard output.
///
/// # Errors
/// When it cannot be run, or ends otherwise than well: with what it said.
pub fn finish(what: &str, command: &mut Command) -> Result<String, BenchError> {
    let output = command.output().map_err(io(what))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(BenchError::Failed(format!("{what}: {}: {}{stdout}", output.status, stderr.trim())))
}

/// Processor time that the process has had, user and system, nanoseconds.
///
/// # Errors
/// When there is no such process.
pub fn cpu_ns(pid: u32) -> Result<u64, BenchError> {
    let tasks = format!("/proc/{pid}/task");
    let mut sum = 0;
    for task in std::fs::read_dir(&tasks).map_err(io(&tasks))? {
        let file = task.map_err(io(&tasks))?.path().join("schedstat");
        // A thread may end meanwhile.
        let text = std::fs::read_to_string(file).unwrap_or_default();
        sum += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// A directory of our own, removed at the end.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> Result<Scratch, BenchError> {
        let path = std::env::temp_dir().join(format!("mpio-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(io(path.display().to_string()))?;
        Ok(Scratch(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
