//! How long a fault of one path is felt: the "How fast" figures of failover, measured on real targets under fio.
//!
//! `cargo bench --bench gaps -- [--runs N] [--log] [NAME…]` prints one table: figure, goal, median of N, all of them, and
//! the machine's load meanwhile, because two busy cores make every row worse. A gap is the longest time that a
//! single request took while the fault happened. The load writes no block twice: a write to a block in doubt
//! waits for its proof, and that wait is a row of its own.
//!
//! Needs root (network namespaces). Deliberately not here: assertions; what is slow is shown, not failed.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run says where")]

#[path = "../../tests/harness/mod.rs"]
mod harness;
#[path = "../../tests/lane/client.rs"]
mod nbd_client;

mod faults;
mod fio;
mod paths;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether each run says what the daemon has seen.
static LOG: AtomicBool = AtomicBool::new(false);

/// What one run of a row gave: figures in the row's unit, in the order of its names.
type Figures = Vec<f64>;

/// A row, or several that one run gives.
struct Row {
    /// What to say on the command line.
    name: &'static str,
    /// Figures, each with its goal in words.
    figures: &'static [(&'static str, &'static str)],
    /// One run; the error says why there is no figure.
    run: fn() -> Result<Figures, String>,
}

const ROWS: &[Row] = &[
    Row {
        name: "killed",
        figures: &[
            ("target killed: longest read, ms", "< 50"),
            ("target killed: longest write, ms", "< 50"),
        ],
        run: faults::killed,
    },
    Row {
        name: "silent",
        figures: &[
            ("path silent: longest read, ms", "< 100"),
            ("path silent: longest write, ms", "< 1250"),
        ],
        run: faults::silent,
    },
    Row {
        name: "frozen",
        figures: &[
            ("target frozen and thawed: longest read, ms", "< 100"),
            ("target frozen and thawed: longest write, ms", "< 1250"),
        ],
        run: faults::frozen,
    },
    Row {
        name: "disk",
        figures: &[
            ("disk hangs behind a live target: longest read, ms", "< 250"),
            ("disk hangs behind a live target: longest write, ms", "< 2500"),
        ],
        run: faults::disk,
    },
    Row {
        name: "held",
        figures: &[(
            "overlapping write after a 5 s outage: answered after the return, ms",
            "< 1000",
        )],
        run: faults::held,
    },
    Row {
        name: "return-short",
        figures: &[("path back after 2 s of outage, ms", "< 500")],
        run: paths::back_after_a_short_outage,
    },
    Row {
        name: "return-long",
        figures: &[("path back after 8 s of outage, ms", "< 2000")],
        run: paths::back_after_a_long_outage,
    },
    Row {
        name: "slow",
        figures: &[
            ("one path 30 ms later: latency / round-robin, times", ">= 3"),
            ("one path 30 ms later: latency / fast path alone, %", ">= 90"),
            (
                "one path 30 ms later: p99.9 of reads, `latency` and hedging / fast path alone, times",
                "<= 2",
            ),
        ],
        run: paths::one_slow_path,
    },
];

fn main() {
    let mut runs = 3;
    let mut wanted: Vec<String> = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What cargo says to every benchmark.
            "--bench" => {}
            "--log" => LOG.store(true, Ordering::Relaxed),
            "--runs" => {
                let number = arguments.next().and_then(|text| text.parse().ok());
                runs = number.filter(|&runs| runs > 0).unwrap_or_else(|| usage("--runs N"));
            }
            name if ROWS.iter().any(|row| row.name == name) => wanted.push(argument),
            other => usage(&format!("`{other}` is no row")),
        }
    }
    let mut table = String::from(
        "| figure | goal | median | runs | load | command |\n|---|---|---|---|---|---|\n",
    );
    for row in ROWS.iter().filter(|row| wanted.is_empty() || wanted.iter().any(|w| w == row.name)) {
        measure(row, runs, &mut table);
    }
    println!("\n{table}");
}

fn usage(why: &str) -> ! {
    let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
    eprintln!(
        "gaps: {why}; usage: cargo bench --bench gaps -- [--runs N] [--log] [{}]",
        names.join("|")
    );
    std::process::exit(2);
}

fn measure(row: &Row, runs: usize, table: &mut String) {
    let mut results: Vec<Figures> = Vec::new();
    let mut failure = None;
    for run in 1..=runs {
        match (row.run)() {
            Ok(figures) => {
                eprintln!("gaps: {} {run}/{runs}: {figures:.1?}", row.name);
                assert_eq!(figures.len(), row.figures.len());
                results.push(figures);
            }
            Err(why) => failure = Some(why),
        }
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    for (index, (figure, goal)) in row.figures.iter().enumerate() {
        let mut values: Vec<f64> = results.iter().map(|figures| figures[index]).collect();
        values.sort_by(f64::total_cmp);
        let median = values.get(values.len() / 2).map_or("none".to_owned(), |v| format!("{v:.1}"));
        let all: Vec<String> = values.iter().map(|value| format!("{value:.1}")).collect();
        let why = failure.as_deref().map_or(String::new(), |why| format!(" ({why})"));
        let _ = writeln!(
            table,
            "| {figure} | {goal} | {median} | {}{why} | {load} | `cargo bench --bench gaps -- {}` |",
            all.join(" "),
            row.name
        );
    }
}
