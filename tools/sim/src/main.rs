//! `mpio-sim`: runs seeds and scenarios of the simulator. Exit 0: every rule held; 1: one broke; 2: wrong
//! arguments.

use clap::{Parser, Subcommand};
use mpio_sim::plan::{Bug, Plan};
use mpio_sim::scenario::{parse, play};
use mpio_sim::{report, run};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Deterministic simulator of mpio: the production core on a virtual clock and network.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one seed.
    Run {
        /// Which.
        #[arg(long)]
        seed: u64,
        /// Plants a fault: it has to be found.
        #[arg(long, value_parser = bug)]
        bug: Option<Bug>,
        /// Prints the whole story, also of a good run.
        #[arg(long)]
        verbose: bool,
    },
    /// Runs many seeds.
    Seeds {
        /// How many.
        #[arg(long, default_value_t = 2000)]
        count: u64,
        /// The first one.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        jobs: u64,
        /// Goes on after a seed that broke a rule.
        #[arg(long)]
        keep_going: bool,
        /// Plants a fault: it has to be found.
        #[arg(long, value_parser = bug)]
        bug: Option<Bug>,
    },
    /// Plays a scenario.
    Scenario {
        /// Its file.
        file: PathBuf,
        /// Prints the whole story.
        #[arg(long)]
        verbose: bool,
    },
    /// Runs seeds without end, until one breaks a rule.
    Forever {
        /// The first one.
        #[arg(long, default_value_t = 1_000_000)]
        from: u64,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        jobs: u64,
    },
}

fn bug(name: &str) -> Result<Bug, String> {
    let all = Bug::all();
    let found = all.iter().find(|bug| bug.name() == name);
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|bug| bug.name()).collect();
        format!("one of {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Run { seed, bug, verbose } => one(seed, bug, verbose),
        Command::Seeds { count, from, jobs, keep_going, bug } => {
            many(from, Some(count), jobs, keep_going, bug)
        }
        Command::Scenario { file, verbose } => scenario(&file, verbose),
        Command::Forever { from, jobs } => many(from, None, jobs, false, None),
    }
}

fn scenario(file: &Path, verbose: bool) -> ExitCode {
    let name = file.display();
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("mpio-sim: {name}: {error}");
            return ExitCode::from(2);
        }
    };
    let scenario = match parse(&text) {
        Ok(scenario) => scenario,
        Err(trouble) => {
            eprintln!("mpio-sim: {name}:{}: {}", trouble.line, trouble.what);
            return ExitCode::from(2);
        }
    };
    let (world, result) = play(&scenario);
    if verbose || result.is_err() {
        for entry in world.trace.entries() {
            println!("{:?} {}", entry.at, entry.text);
        }
    }
    match result {
        Ok(()) => {
            println!("{name}: holds");
            ExitCode::SUCCESS
        }
        Err(trouble) => {
            println!("{name}:{}: {}", trouble.line, trouble.what);
            ExitCode::FAILURE
        }
    }
}

fn one(seed: u64, bug: Option<Bug>, verbose: bool) -> ExitCode {
    println!("seed {seed}");
    match run::run(&Plan::new(seed, bug)) {
        Ok(outcome) => {
            println!(
                "good: {} requests in {:.1} virtual seconds, trace {:016x}",
                outcome.requests,
                outcome.took.as_secs_f64(),
                outcome.hash
            );
            ExitCode::SUCCESS
        }
        Err(failure) => {
            if verbose {
                for entry in failure.world.trace.entries() {
                    println!("{:?} {}", entry.at, entry.text);
                }
            }
            print!("{}", report::report(&failure));
            ExitCode::FAILURE
        }
    }
}

fn many(from: u64, count: Option<u64>, jobs: u64, keep_going: bool, bug: Option<Bug>) -> ExitCode {
    let end = count.map_or(u64::MAX, |count| from.saturating_add(count));
    println!("seeds from {from}{}", count.map_or(String::new(), |_| format!(" to {}", end - 1)));
    let (next, failures) = (AtomicU64::new(from), AtomicU64::new(0));
    let (stop, virtual_ms) = (AtomicBool::new(false), AtomicU64::new(0));
    let requests = AtomicU64::new(0);
    let printing = Mutex::new(());
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            match run::run(&Plan::new(seed, bug)) {
                Ok(outcome) => {
                    virtual_ms.fetch_add(outcome.took.as_millis() as u64, Ordering::Relaxed);
                    requests.fetch_add(outcome.requests as u64, Ordering::Relaxed);
                }
                Err(failure) => {
                    failures.fetch_add(1, Ordering::Relaxed);
                    stop.fetch_or(!keep_going, Ordering::Relaxed);
                    let _one_at_a_time = printing.lock().unwrap_or_else(PoisonError::into_inner);
                    print!("{}", report::report(&failure));
                }
            }
            if count.is_none() && (seed + 1).is_multiple_of(1000) {
                println!("seed {seed} done");
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner();
    println!(
        "{} seeds, {} requests, {} virtual seconds: {failures} broke a rule",
        next.into_inner().min(end) - from,
        requests.into_inner(),
        virtual_ms.into_inner() / 1000,
    );
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
