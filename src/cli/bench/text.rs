//! A run as text for people and as one JSON object for scripts.

use super::latency::{Kind, SHOWN};
use super::per_path::{Variant, Varied, best};
use super::run::Run;
use crate::cli::output::table;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Nanoseconds in the unit that keeps them short.
#[must_use]
pub fn time(nanos: u64) -> String {
    let n = nanos as f64;
    match nanos {
        0..10_000 => format!("{:.2} us", n / 1e3),
        10_000..100_000 => format!("{:.1} us", n / 1e3),
        100_000..1_000_000 => format!("{:.0} us", n / 1e3),
        1_000_000..10_000_000 => format!("{:.2} ms", n / 1e6),
        10_000_000..1_000_000_000 => format!("{:.0} ms", n / 1e6),
        _ => format!("{:.2} s", n / 1e9),
    }
}

/// The result of one run.
#[must_use]
pub fn text(run: &Run) -> String {
    let mut out = String::new();
    if run.interrupted {
        let _ = writeln!(out, "interrupted after {:.1} of {} s", run.seconds, run.load.seconds);
    }
    let _ = writeln!(out, "  IOPS       {:.0}", run.iops());
    let _ = writeln!(out, "  MB/s       {:.1}", run.mb_per_s());
    let mut head = vec![String::new(), "mean".to_owned()];
    head.extend(SHOWN.iter().map(|(_, name, _)| (*name).to_owned()));
    head.push("max".to_owned());
    let mut rows = vec![head];
    let latencies = &run.tally.latencies;
    let (read, write) = (latencies.of(Kind::Read), latencies.of(Kind::Write));
    if read.is_empty() || write.is_empty() {
        rows.push(latency_row("latency", &latencies.all()));
    } else {
        rows.push(latency_row("reads", read));
        rows.push(latency_row("writes", write));
    }
    out.push_str(&table("  ", &rows));
    let cores = |nanos: u64| nanos as f64 / 1e9 / run.seconds.max(1e-9) * 100.0;
    let mut cpu = |who: &str, nanos: u64| {
        let us = run.us_per_request(nanos);
        let _ = writeln!(
            out,
            "  {who}: {us:.2} us of processor time a request, {:.0} % of a core",
            cores(nanos)
        );
    };
    cpu("generator", run.generator_cpu);
    for (pid, nanos) in &run.other_cpu {
        cpu(&format!("process {pid}"), *nanos);
    }
    if run.load.verify {
        let _ = writeln!(
            out,
            "  verified: {} blocks compared with what was written, {} wrong",
            run.tally.compared, run.tally.wrong
        );
    }
    out
}

fn latency_row(name: &str, histogram: &Histogram<u64>) -> Vec<String> {
    let mut row = vec![name.to_owned(), time(histogram.mean() as u64)];
    row.extend(SHOWN.iter().map(|(q, _, _)| time(histogram.value_at_quantile(*q))));
    row.push(time(histogram.max()));
    row
}

/// The same for scripts.
#[must_use]
pub fn json(run: &Run) -> Value {
    let latencies = &run.tally.latencies;
    let cpu: Vec<Value> = run
        .other_cpu
        .iter()
        .map(
            |(pid, nanos)| json!({"pid": pid, "us_per_request": round(run.us_per_request(*nanos))}),
        )
        .collect();
    json!({
        "load": {
            "mode": run.load.mode(),
            "pattern": run.load.pattern(),
            "read_percent": run.load.read_percent,
            "size": run.load.size,
            "depth": run.load.depth,
            "connections": run.load.connections,
            "threads": run.load.threads,
            "rate": run.load.rate,
            "seconds": run.load.seconds,
            "ramp": run.load.ramp,
        },
        "seconds": round(run.seconds),
        "interrupted": run.interrupted,
        "reads": run.tally.reads,
        "writes": run.tally.writes,
        "errors": run.tally.errors,
        "unanswered": run.tally.unanswered,
        "iops": round(run.iops()),
        "mb_per_s": round(run.mb_per_s()),
        "latency_us": latency_json(&latencies.all()),
        "read_latency_us": latency_json(latencies.of(Kind::Read)),
        "write_latency_us": latency_json(latencies.of(Kind::Write)),
        "generator_cpu_us_per_request": round(run.us_per_request(run.generator_cpu)),
        "cpu": cpu,
        "verified": run.load.verify.then(|| json!({
            "compared": run.tally.compared, "wrong": run.tally.wrong,
        })),
        "per_second": run.tally.seconds.iter().map(|second| second.requests).collect::<Vec<_>>(),
    })
}

fn latency_json(histogram: &Histogram<u64>) -> Value {
    if histogram.is_empty() {
        return Value::Null;
    }
    let us = |nanos: f64| round(nanos / 1e3);
    let mut out = serde_json::Map::new();
    out.insert("mean".to_owned(), json!(us(histogram.mean())));
    for (q, _, name) in SHOWN {
        out.insert(name.to_owned(), json!(us(histogram.value_at_quantile(q) as f64)));
    }
    out.insert("max".to_owned(), json!(us(histogram.max() as f64)));
    Value::Object(out)
}

/// Three decimals are enough for everybody.
fn round(x: f64) -> f64 {
    (x * 1e3).round() / 1e3
}

/// The series of `--per-path` as rows of one table.
#[must_use]
pub fn series_rows(runs: &[Varied]) -> Vec<Vec<String>> {
    let head =
        ["", "IOPS", "rounds", "MB/s", "mean", "p50", "p99", "p99.9", "max", "of the fastest"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let top = runs.iter().map(|varied| varied.run.iops()).fold(1.0, f64::max);
    for varied in runs {
        let Varied { variant, run, .. } = varied;
        let all = run.tally.latencies.all();
        let mut row = vec![
            variant.name(),
            format!("{:.0}", run.iops()),
            format!("{:.0}-{:.0}", varied.least(), varied.greatest()),
            format!("{:.1}", run.mb_per_s()),
            time(all.mean() as u64),
        ];
        row.extend([0.5, 0.99, 0.999].map(|q| time(all.value_at_quantile(q))));
        row.extend([time(all.max()), format!("{:.0} %", run.iops() / top * 100.0)]);
        rows.push(row);
    }
    rows
}

/// The series as text, and what is best.
#[must_use]
pub fn series(runs: &[Varied]) -> String {
    let mut out = table("  ", &series_rows(runs));
    for line in verdict(runs) {
        let _ = writeln!(out, "{line}");
    }
    out
}

/// Which policy is best here, which path, and why; and which others may be as good.
#[must_use]
pub fn verdict(runs: &[Varied]) -> Vec<String> {
    let paths = || runs.iter().filter(|varied| matches!(varied.variant, Variant::Path(_)));
    let policies = || runs.iter().filter(|varied| matches!(varied.variant, Variant::Policy(_)));
    let line = |what: &str, best: &Varied, others: &[&Varied], among: usize| {
        let others: Vec<String> = others.iter().map(|other| other.variant.name()).collect();
        let others = match others.is_empty() {
            true => String::new(),
            false => format!("; within the spread of the rounds as fast: {}", others.join(", ")),
        };
        format!(
            "best {what} here: {} of {among}: {:.0} IOPS, p99 {}{others}",
            best.variant.name(),
            best.run.iops(),
            time(best.run.p99())
        )
    };
    let mut out = Vec::new();
    let (path, policy) = (best(paths()), best(policies()));
    if let [best, others @ ..] = &path[..] {
        out.push(line("path", best, others, paths().count()));
    }
    if let [winner, others @ ..] = &policy[..] {
        out.push(line("policy", winner, others, policies().count()));
        if let [alone, ..] = &path[..]
            && alone.run.iops() > 0.0
        {
            let gain = winner.run.iops() / alone.run.iops();
            out.push(format!("all paths with it give {gain:.2} x of the best one alone"));
        }
    }
    out
}
