//! One run of the virtual machine: from a script and its files to its exit code.
//!
//! QEMU is a child process that dies with this one (`setpriv --pdeathsig`), is killed when the time limit
//! passes, and gets no terminal. A thread reads the console; the caller's thread waits for lines and watches
//! the clock.

use crate::console::Console;
use crate::kernel::Kernel;
use crate::{Error, find_program, initrd};
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A silence on the console after which the caller is told that the machine still runs.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What to run.
#[derive(Debug, Clone)]
pub struct Boot {
    /// The kernel, from [`Kernel::find`].
    pub kernel: Kernel,
    /// Host directory that the machine sees as `/vm`, read-write. Its `files`, `arguments` and `exit` belong
    /// to the launcher; whatever else the script writes there stays.
    pub share: PathBuf,
    /// Run by bash inside, in the directory that holds the files.
    pub script: PathBuf,
    /// Arguments of the script.
    pub arguments: Vec<String>,
    /// More files (or directories) that go beside the script, by their own names; copied, so that it does not
    /// matter where on the host they lie.
    pub files: Vec<PathBuf>,
    /// QEMU is killed after this.
    pub time_limit: Duration,
    /// Memory in MiB; up to 70 % of it holds what is written inside.
    pub memory_mib: u32,
    /// Emulated processors.
    pub processors: u32,
    /// Time inside is a count of instructions, 2 ns each, as long as there is something to do: what is measured there does
    /// not depend on what else the host does. One processor at a time is emulated then.
    pub counted: bool,
}

/// One thing to tell about a running machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// The console said this.
    Console(&'a str),
    /// Nothing was said for a while.
    Quiet {
        /// For how long.
        silent: Duration,
        /// The time limit.
        limit: Duration,
    },
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The guest script's exit code.
    pub code: u8,
    /// From the start of QEMU to its end.
    pub elapsed: Duration,
}

impl Boot {
    /// A run of `script` with the usual size of machine and five minutes.
    pub fn new(kernel: Kernel, share: impl Into<PathBuf>, script: impl Into<PathBuf>) -> Boot {
        Boot {
            kernel,
            share: share.into(),
            script: script.into(),
            arguments: Vec::new(),
            files: Vec::new(),
            time_limit: Duration::from_secs(300),
            memory_mib: 2048,
            processors: 2,
            counted: false,
        }
    }

    /// Boots, runs the script, waits for the end. `tell` gets every console line with the time since start.
    pub fn run(&self, tell: &mut dyn FnMut(Duration, Line<'_>)) -> Result<Outcome, Error> {
        let qemu = find_program("qemu-system-x86_64", "qemu-system-x86")?;
        let setpriv = find_program("setpriv", "util-linux")?;
        let busybox = find_program("busybox", "busybox-static")?;
        self.fill_share()?;
        let initrd = self.share.join("initrd");
        let archive = initrd::build(&self.kernel, &busybox)?;
        std::fs::write(&initrd, archive)
            .map_err(Error::io(format!("cannot write {}", initrd.display())))?;

        let started = Instant::now();
        let child = Command::new(setpriv)
            .args(["--pdeathsig", "KILL", "--"])
            .arg(qemu)
            .args(self.qemu_arguments(&initrd))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::io("cannot start QEMU"))?;
        let ended = Running::new(child).wait(started, self.time_limit, tell)?;

        let code = std::fs::read_to_string(self.share.join("exit"))
            .ok()
            .and_then(|text| text.trim().parse().ok());
        match code {
            Some(code) => Ok(Outcome { code, elapsed: started.elapsed() }),
            None => Err(Error::NoExitCode { qemu: ended.status, last_line: ended.last_line }),
        }
    }

    fn fill_share(&self) -> Result<(), Error> {
        let files = self.share.join("files");
        if files.exists() {
            std::fs::remove_dir_all(&files)
                .map_err(Error::io(format!("cannot empty {}", files.display())))?;
        }
        let _ = std::fs::remove_file(self.share.join("exit"));
        std::fs::create_dir_all(&files)
            .map_err(Error::io(format!("cannot make {}", files.display())))?;
        for file in std::iter::once(&self.script).chain(&self.files) {
            copy_into(file, &files)?;
        }
        let name = self.script.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let words: Vec<String> =
            std::iter::once(&name).chain(&self.arguments).map(|word| shell_quote(word)).collect();
        let arguments = self.share.join("arguments");
        std::fs::write(&arguments, words.join(" "))
            .map_err(Error::io(format!("cannot write {}", arguments.display())))
    }

    fn qemu_arguments(&self, initrd: &Path) -> Vec<OsString> {
        let share_9p = |id: &str, path: &Path, readonly: bool| {
            // A comma separates options, and is written twice inside a value.
            let path = path.to_string_lossy().replace(',', ",,");
            let readonly = if readonly { ",readonly=on" } else { "" };
            [
                "-fsdev".into(),
                format!("local,id={id},path={path},security_model=none,multidevs=remap{readonly}")
                    .into(),
                "-device".into(),
                format!("virtio-9p-pci,fsdev={id},mount_tag={id}").into(),
            ]
        };
        let mut arguments: Vec<OsString> = Vec::new();
        // Never KVM: it may be offered and hang where machines are nested.
        let threads = if self.counted { "tcg,thread=single" } else { "tcg,thread=multi" };
        arguments.extend(["-accel", threads, "-cpu", "max"].map(OsString::from));
        if self.counted {
            arguments.extend(["-icount", "shift=1"].map(OsString::from));
        }
        arguments.extend(["-m".into(), self.memory_mib.to_string().into()]);
        arguments.extend(["-smp".into(), self.processors.to_string().into()]);
        arguments.extend(
            ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
                .map(OsString::from),
        );
        arguments.extend(["-serial", "stdio", "-monitor", "none"].map(OsString::from));
        arguments.extend(share_9p("hostroot", Path::new("/"), true));
        arguments.extend(share_9p("modules", &self.kernel.modules(), true));
        arguments.extend(share_9p("share", &self.share, false));
        arguments.extend(["-kernel".into(), self.kernel.image().into()]);
        arguments.extend(["-initrd".into(), initrd.into()]);
        arguments
            .extend(["-append", "console=ttyS0 quiet loglevel=4 panic=-1"].map(OsString::from));
        arguments
    }
}

/// What is known when QEMU is gone.
struct Ended {
    status: String,
    last_line: String,
}

/// A started QEMU; killed when dropped.
struct Running {
    child: Child,
    output: Receiver<Vec<u8>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn new(mut child: Child) -> Running {
        let (sender, output) = channel();
        // QEMU's own complaints and the console go the same way: both belong in the log.
        let pipes: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
            child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        ];
        for mut pipe in pipes.into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                    if sender.send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
            });
        }
        Running { child, output }
    }

    fn wait(
        mut self,
        started: Instant,
        limit: Duration,
        tell: &mut dyn FnMut(Duration, Line<'_>),
    ) -> Result<Ended, Error> {
        let mut console = Console::new();
        let mut last_line = String::from("(none)");
        let mut last_heard = Instant::now();
        loop {
            let elapsed = started.elapsed();
            if elapsed >= limit {
                return Err(Error::TimeLimit { limit_s: limit.as_secs(), last_line });
            }
            let patience = (limit - elapsed).min(HEARTBEAT);
            let mut line = |text: &str| {
                if !text.is_empty() {
                    last_line = text.to_owned();
                }
                tell(started.elapsed(), Line::Console(text));
            };
            match self.output.recv_timeout(patience) {
                Ok(bytes) => {
                    last_heard = Instant::now();
                    console.feed(&bytes, &mut line);
                }
                Err(RecvTimeoutError::Timeout) => {
                    tell(started.elapsed(), Line::Quiet { silent: last_heard.elapsed(), limit });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    console.finish(&mut line);
                    break;
                }
            }
        }
        let status = self.child.wait().map_err(Error::io("cannot wait for QEMU"))?;
        Ok(Ended { status: status.to_string(), last_line })
    }
}

fn copy_into(from: &Path, directory: &Path) -> Result<(), Error> {
    let context = || Error::io(format!("cannot copy {} for the virtual machine", from.display()));
    let name = from.file_name().ok_or(std::io::ErrorKind::InvalidInput.into()).map_err(context())?;
    let to = directory.join(name);
    if !from.is_dir() {
        return std::fs::copy(from, &to).map(|_| ()).map_err(context());
    }
    std::fs::create_dir_all(&to).map_err(context())?;
    for entry in std::fs::read_dir(from).map_err(context())? {
        copy_into(&entry.map_err(context())?.path(), &to)?;
    }
    Ok(())
}

/// A word that a shell reads back as it is.
fn shell_quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(shell_quote("plain"), "'plain'");
        assert_eq!(shell_quote("it's $x"), r"'it'\''s $x'");
    }

    #[test]
    fn kvm_is_never_asked_for_and_commas_are_kept() {
        let kernel = Kernel { version: "6.1.0-1-amd64".into(), directory: "/k".into() };
        let boot = Boot::new(kernel, "/a,b", "/s.sh");
        let arguments: Vec<String> = boot
            .qemu_arguments(Path::new("/i"))
            .into_iter()
            .map(|argument| argument.into_string().unwrap())
            .collect();
        assert!(arguments.iter().all(|argument| !argument.contains("kvm")), "{arguments:?}");
        assert!(arguments.iter().any(|argument| argument.contains("path=/a,,b,")), "{arguments:?}");
        assert!(
            arguments
                .iter()
                .any(|argument| argument.contains("path=/,") && argument.ends_with("readonly=on"))
        );
    }
}
