//! `mpio-bench`: `mpio` beside its peers, on the same targets, in the same run, in turn.
//!
//! The full form takes about a quarter of an hour and writes `benches/RESULTS.md`; the quick form runs
//! every kind of set-up once, in about a minute. Neither judges: benches/README.md says how to read it.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod fio;
mod goals;
mod guest;
mod measure;
mod plan;
mod process;
mod relay;
mod setup;
mod table;

use clap::{Parser, Subcommand};
use goals::Goals;
use plan::{Effort, MATCHES};
use process::{BenchError, Cores, Scratch, finish, io};
use setup::Env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Measures mpio beside qemu-nbd, iscsi-perf, nbdkit and a byte relay.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Few loads, one turn of a second each: everything has run once.
    #[arg(long)]
    quick: bool,
    /// Seconds of one turn.
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// Turns of each contender; the median counts.
    #[arg(long, default_value_t = 3)]
    turns: u32,
    /// Only comparisons whose title contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Only the virtual machine; its part of benches/RESULTS.md is written anew.
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    vm: bool,
    /// Where mpio and mpio-target are; without it they are built, in release.
    #[arg(long, value_name = "DIRECTORY")]
    bin: Option<PathBuf>,
    /// Do not install packages.
    #[arg(long)]
    no_install: bool,
    /// File for the results [full form: benches/RESULTS.md; quick form: none]
    #[arg(long, value_name = "FILE.md")]
    output: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The byte relay that the others are compared with.
    Relay {
        /// Socket to listen on.
        listen: PathBuf,
        /// Socket to connect to.
        connect: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.part {
        Some(Part::Relay { listen, connect }) => relay::run(listen, connect),
        None => run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mpio-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if !arguments.no_install {
        finish("tests/install", &mut Command::new(root.join("tests/install")))?;
    }
    let bin = match &arguments.bin {
        Some(directory) => directory.canonicalize().map_err(io(directory.display().to_string()))?,
        None => build(&root)?,
    };
    let scratch = Scratch::new()?;
    let env = Env { bin, directory: scratch.path().to_owned(), cores: Cores::One };
    let effort = match arguments.quick {
        true => Effort { seconds: 1, turns: 1, quick: true },
        false => Effort { seconds: arguments.seconds, turns: arguments.turns, quick: false },
    };
    let about = about(effort);
    let (mut results, mut failed) = (String::new(), Vec::new());
    if !arguments.vm {
        let (mut goals, mut sections) = (Goals::default(), String::new());
        for one in MATCHES.iter().filter(|one| one.title.contains(&arguments.only)) {
            // What the others gave is not lost.
            match one.play(&env, effort, &mut goals) {
                Ok(section) => sections.push_str(&section),
                Err(error) => failed.push(format!("{}: {error}", one.title)),
            }
        }
        results = format!("{}{}{sections}", head(&about), goals.table());
    }
    if arguments.vm || !arguments.quick && guest::is_named(&arguments.only) {
        match guest::play(&root, &env, effort, &about) {
            Ok(part) => results.push_str(&part),
            Err(error) => failed.push(format!("virtual machine: {error}")),
        }
    }
    print!("{results}");
    if !failed.is_empty() {
        return Err(BenchError::Failed(failed.join("\n")));
    }
    let kept = root.join("benches/RESULTS.md");
    let (file, results) = match &arguments.output {
        Some(file) => (file.clone(), results),
        None if arguments.quick || !arguments.only.is_empty() => return Ok(()),
        None if arguments.vm => {
            let text = std::fs::read_to_string(&kept).map_err(io(kept.display().to_string()))?;
            (kept, with_vm(&text, &results))
        }
        None => (kept, results),
    };
    std::fs::write(&file, results).map_err(io(file.display().to_string()))
}

/// The results with another part of the virtual machine.
fn with_vm(results: &str, vm: &str) -> String {
    let others = match results.find(&format!("{}\n", guest::HEADING)) {
        Some(at) => &results[..at],
        None => results,
    };
    format!("{}\n\n{vm}", others.trim_end())
}

fn build(root: &Path) -> Result<PathBuf, BenchError> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--locked", "-p", "mpio", "-p", "mpio-target"]);
    finish("cargo build", cargo.current_dir(root))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    Ok(target.join("release"))
}

/// The start of the results.
fn head(about: &str) -> String {
    format!(
        "# Results\n\n{about} Ratios are first : second, IOPS more is better, CPU and p50 less is better. Every load \
         was run once with verified content before. [README.md](README.md) says how to read them.\n\n"
    )
}

/// Date, kernel, processor, and how busy the machine was with other things.
fn about(effort: Effort) -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unknown processor", |(_, name)| name);
    let count = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let date = finish("date", Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]));
    let turns = match effort.turns {
        1 => "one turn each".to_owned(),
        n => format!("medians of {n} turns each, in turn; spread in brackets"),
    };
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    // What others do on the machine cannot be taken out of a rate.
    let busy = match load.parse::<f64>() {
        Ok(busy) if busy > count as f64 / 2.0 => {
            " **The machine was busy with other things: rates and latencies scatter; processor time does so least.**"
        }
        _ => "",
    };
    format!(
        "{}, Linux {}, {count} x {model}, load average before {load}; {} s per turn, {turns}.{busy}",
        date.unwrap_or_default().trim(),
        read("/proc/sys/kernel/osrelease").trim(),
        effort.seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_of_the_virtual_machine_is_replaced() {
        let vm = format!("{}\n\nnew\n", guest::HEADING);
        let first = with_vm("# Results\n\ntable\n\n", &vm);
        assert_eq!(first, format!("# Results\n\ntable\n\n{vm}"));
        assert_eq!(with_vm(&first.replace("new", "old"), &vm), first);
    }
}
