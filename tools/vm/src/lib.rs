//! Boots a Debian kernel under QEMU and runs one script in it, for what needs a real kernel: `/dev/nbd0`, LIO.
//!
//! The machine is emulated (TCG), so it needs no KVM and no rights; it sees the host's root file system
//! read-only through 9p, with a file system in memory laid over it, so that whatever is installed on the host
//! is there and nothing that happens inside reaches the host. What goes in are the files of [`Boot::files`],
//! what comes out is the console, the script's exit code and what it leaves in `/vm`. Expect about a tenth of
//! native speed and 10 to 20 s for a boot.
//!
//! Deliberately not here: a network to the outside (there is none), disks, and the fetching of the kernel
//! (`tests/install` does that).
#![forbid(unsafe_code)]

mod console;
mod initrd;
mod kernel;
mod machine;

pub use kernel::Kernel;
pub use machine::{Boot, Line, Outcome};

use std::path::PathBuf;

/// Why there is no exit code of the script.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program that the machine is made of is missing.
    #[error("{program} is not installed; try: tests/install (or: apt-get install {package})")]
    MissingProgram {
        /// What was looked for in PATH.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The cache has no kernel.
    #[error("no kernel for the virtual machine in {}; try: tests/install, which fetches it", .0.display())]
    MissingKernel(PathBuf),
    /// The kernel is there and not as expected.
    #[error("the kernel in {} cannot be used: {why}; try: remove that directory and run tests/install", .directory.display())]
    UnusableKernel {
        /// Where it was unpacked.
        directory: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Reading or writing on the host failed.
    #[error("{what}: {error}")]
    Io {
        /// What was being done, with the file's name.
        what: String,
        /// The system's word.
        error: std::io::Error,
    },
    /// The time limit passed; QEMU was killed.
    #[error(
        "the virtual machine did not end within {limit_s} s and was killed; its last line was: {last_line}"
    )]
    TimeLimit {
        /// The limit in whole seconds.
        limit_s: u64,
        /// What the console said last.
        last_line: String,
    },
    /// The machine is off and the script's exit code was never written: panic, early shutdown, QEMU failed.
    #[error(
        "the virtual machine ended without an exit code (QEMU: {qemu}); its last line was: {last_line}"
    )]
    NoExitCode {
        /// QEMU's exit status.
        qemu: String,
        /// What the console said last.
        last_line: String,
    },
}

impl Error {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |error| Error::Io { what, error }
    }
}

/// The first executable called `name` in PATH or where Debian keeps the administrator's programs.
fn find_program(name: &'static str, package: &'static str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or(Error::MissingProgram { program: name, package })
}
