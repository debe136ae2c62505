//! `mpio-vm`: runs a script in a virtual machine with Debian's kernel; see the library for what it is.
//!
//! Exit codes: the script's own; 124 when the time limit passed, 125 when the machine could not do its job.
#![forbid(unsafe_code)]

use clap::Parser;
use mpio_vm::{Boot, Error, Kernel, Line};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Boots Debian's kernel under QEMU (emulated, no KVM, no root) over this host's files, read-only, and runs a
/// script in it. The script's directory inside holds the script and every --file; what it writes to /vm comes
/// out in --share.
#[derive(Parser)]
#[command(name = "mpio-vm", version)]
struct Arguments {
    /// A file or directory to put beside the script (repeatable)
    #[arg(long, value_name = "PATH")]
    file: Vec<PathBuf>,
    /// Host directory that is /vm inside; made if it is missing
    #[arg(long, value_name = "DIRECTORY", default_value = "target/vm")]
    share: PathBuf,
    /// Kill the machine after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    time_limit: u64,
    /// Memory of the machine in MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u32,
    /// Emulated processors
    #[arg(long, value_name = "N", default_value_t = 2)]
    processors: u32,
    /// Time inside is a count of instructions, not of seconds
    #[arg(long)]
    counted: bool,
    /// The script that bash runs inside
    script: PathBuf,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("mpio-vm: {error}");
            ExitCode::from(if matches!(error, Error::TimeLimit { .. }) { 124 } else { 125 })
        }
    }
}

fn run(arguments: Arguments) -> Result<u8, Error> {
    let kernel = Kernel::find(&Kernel::cache_directory())?;
    eprintln!(
        "mpio-vm: booting linux {} (emulated, 10 to 20 s), limit {} s",
        kernel.version, arguments.time_limit
    );
    let boot = Boot {
        arguments: arguments.arguments,
        files: arguments.file,
        time_limit: Duration::from_secs(arguments.time_limit),
        memory_mib: arguments.memory,
        processors: arguments.processors,
        counted: arguments.counted,
        ..Boot::new(kernel, arguments.share, arguments.script)
    };
    let outcome = boot.run(&mut |at, line| match line {
        Line::Console(text) => println!("[{:7.2}] {text}", at.as_secs_f64()),
        Line::Quiet { silent, limit } => eprintln!(
            "mpio-vm: still running after {} s of {} s, nothing said for {} s",
            at.as_secs(),
            limit.as_secs(),
            silent.as_secs()
        ),
    })?;
    eprintln!("mpio-vm: exit code {} after {:.1} s", outcome.code, outcome.elapsed.as_secs_f64());
    Ok(outcome.code)
}
