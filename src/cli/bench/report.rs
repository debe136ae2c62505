//! `--report`: the run as one HTML file.

use super::latency::{Kind, SHOWN};
use super::per_path::Varied;
use super::run::{Run, Sample};
use super::text;
use crate::cli::Failure;
use crate::cli::html::chart::{Axis, Bar, Mark, lines, ranking, short, stacked};
use crate::cli::html::{escape, figure, headline, page, table};
use hdrhistogram::Histogram;
use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Events listed in a report; a daemon keeps more.
const EVENTS_MAX: usize = 40;
/// Points of a percentile curve for each tenfold: more cannot be seen.
const POINTS: u32 = 24;
/// Bars that a chart has room for.
const BARS_MAX: usize = 240;

/// A file that was opened before the run, so that nobody measures for an hour and has nothing.
pub struct ReportFile {
    path: PathBuf,
    file: File,
    /// Removed if nothing is written: it was not there before.
    created: bool,
}

impl ReportFile {
    /// Opens `path` for writing, without touching what it holds.
    ///
    /// # Errors
    /// Exit code 2.
    pub fn open(path: &Path) -> Result<ReportFile, Failure> {
        let created = !path.exists();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| {
            Failure::wrong(format!(
                "--report {}: {}; try: a file that this user can write",
                path.display(),
                crate::control::config::secret::plain(&error)
            ))
        })?;
        Ok(ReportFile { path: path.to_owned(), file, created })
    }

    /// Writes the report.
    ///
    /// # Errors
    /// Exit code 1.
    pub fn write(mut self, html: &str) -> Result<(), Failure> {
        self.created = false;
        let written = self
            .file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .and_then(|()| self.file.write_all(html.as_bytes()));
        written.map_err(|error| {
            let path = self.path.display();
            Failure::failed(format!("--report {path}: {error}; try: a disk with room"))
        })
    }
}

impl Drop for ReportFile {
    fn drop(&mut self) {
        if self.created {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The report of one run.
#[must_use]
pub fn single(title: &str, run: &Run) -> String {
    let mut body = lead(run);
    body.push_str(&numbers(run));
    body.push_str("<div class=\"charts\">\n");
    body.push_str(&percentiles(&curves_of(run)));
    body.push_str(&throughput(run));
    body.push_str(&longest(run));
    body.push_str(&shares(run));
    body.push_str("</div>\n");
    body.push_str("<h2>Latency</h2>\n");
    body.push_str(&table(&latency_rows(run)));
    body.push_str(&events(run));
    body.push_str(&small_print(&[run]));
    page(title, &body)
}

/// The report of a series.
#[must_use]
pub fn series(title: &str, runs: &[Varied]) -> String {
    let Some(first) = runs.first() else { return page(title, "<p>Nothing was measured.</p>\n") };
    let load = escape(&first.run.load.to_string());
    let (seconds, rounds) = (first.run.load.seconds, first.rounds().len());
    let mut body = format!("<p class=\"dim\">{load}, {seconds} s each in {rounds} rounds</p>\n");
    for line in text::verdict(runs) {
        body.push_str(&format!("<p><b>{}</b></p>\n", escape(&line)));
    }
    body.push_str("<div class=\"charts\">\n");
    let bars = |value: &dyn Fn(&Run) -> f64, name: &dyn Fn(&Run) -> String| {
        let row = |v: &Varied| (v.variant.name(), value(&v.run), name(&v.run));
        runs.iter().map(row).collect::<Vec<_>>()
    };
    let iops = bars(&Run::iops, &|run| format!("{:.0}", run.iops()));
    body.push_str(&figure("IOPS, more is better", &ranking("IOPS", &iops), &[]));
    let p99 = bars(&|run| run.p99() as f64, &|run| text::time(run.p99()));
    body.push_str(&figure("p99 latency, less is better", &ranking("p99 latency", &p99), &[]));
    let curves: Vec<(String, Histogram<u64>)> =
        runs.iter().map(|v| (v.variant.name(), v.run.tally.latencies.all())).collect();
    body.push_str(&percentiles(&curves));
    body.push_str("</div>\n<h2>Numbers</h2>\n");
    body.push_str(&table(&text::series_rows(runs)));
    body.push_str(&small_print(&runs.iter().map(|v| &v.run).collect::<Vec<_>>()));
    page(title, &body)
}

fn lead(run: &Run) -> String {
    let load = escape(&run.load.to_string());
    let mut out = format!("<p class=\"dim\">{load}, {:.1} s</p>\n", run.seconds);
    if run.interrupted {
        out.push_str("<p class=\"bad\">The run was interrupted before its end.</p>\n");
    }
    if let Some(why) = run.fault() {
        out.push_str(&format!("<p class=\"bad\">{}</p>\n", escape(&why)));
    }
    if run.load.verify && run.tally.wrong == 0 {
        let compared = run.tally.compared;
        out.push_str(&format!(
            "<p class=\"good\">{compared} blocks compared with what was written, none wrong.</p>\n"
        ));
    }
    out
}

fn numbers(run: &Run) -> String {
    let all = run.tally.latencies.all();
    let at = |q| text::time(all.value_at_quantile(q));
    headline(&[
        (format!("{:.0}", run.iops()), "IOPS"),
        (format!("{:.1}", run.mb_per_s()), "MB/s"),
        (at(0.5), "p50 latency"),
        (at(0.99), "p99 latency"),
        (at(0.9999), "p99.99 latency"),
        (text::time(all.max()), "longest"),
    ])
}

fn curves_of(run: &Run) -> Vec<(String, Histogram<u64>)> {
    let latencies = &run.tally.latencies;
    [("reads", Kind::Read), ("writes", Kind::Write)]
        .into_iter()
        .map(|(name, kind)| (name.to_owned(), latencies.of(kind).clone()))
        .filter(|(_, histogram)| !histogram.is_empty())
        .collect()
}

/// Latency over percentile: the horizontal axis gives each further nine the same room.
fn percentiles(curves: &[(String, Histogram<u64>)]) -> String {
    let most = curves.iter().map(|(_, h)| h.len()).max().unwrap_or(0).max(10);
    // Beyond one request in all of them there is nothing to see.
    let nines = (most as f64).log10().clamp(1.0, 5.5);
    let names = ["0%", "90%", "99%", "99.9%", "99.99%", "99.999%"];
    let ticks = names.iter().enumerate().map(|(n, name)| (n as f64, (*name).to_owned()));
    let ticks = ticks.filter(|(n, _)| *n <= nines).collect();
    let x = Axis { label: "percentile of requests", min: 0.0, max: nines, ticks };
    let low = curves.iter().map(|(_, h)| h.min_nz()).filter(|v| *v < u64::MAX).min().unwrap_or(1);
    let high = curves.iter().map(|(_, h)| h.max()).max().unwrap_or(1);
    let y = Axis::log("latency", low as f64, high as f64, |nanos| {
        text::time(nanos as u64).replace(".00", "").replace(".0", "")
    });
    let points = |histogram: &Histogram<u64>| -> Vec<(f64, f64)> {
        (0..=(nines * f64::from(POINTS)) as u32)
            .map(|n| {
                let x = f64::from(n) / f64::from(POINTS);
                let value = histogram.value_at_quantile(1.0 - 10f64.powf(-x));
                (x, (value.max(1) as f64).log10())
            })
            .collect()
    };
    let series: Vec<_> = curves.iter().map(|(_, histogram)| points(histogram)).collect();
    let names: Vec<String> = curves.iter().map(|(name, _)| name.clone()).collect();
    let svg = lines("latency by percentile, both logarithmic", &x, &y, &series, &[]);
    figure("Latency percentiles", &svg, &names)
}

fn throughput(run: &Run) -> String {
    let points: Vec<(f64, f64)> =
        seconds(run).map(|(at, second)| (at, second.requests as f64)).collect();
    let most = points.iter().map(|(_, y)| *y).fold(0.0, f64::max);
    let y = Axis::linear("IOPS", most, short);
    let svg = lines("requests per second over time", &axis(run), &y, &[points], &marks(run));
    figure("Requests per second", &svg, &[])
}

fn longest(run: &Run) -> String {
    let longest = || seconds(run).map(|(at, second)| (at, second.longest.max(1) as f64));
    let values = || longest().map(|(_, nanos)| nanos);
    let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(1.0, f64::max));
    let y = Axis::log("latency", low.min(high), high, |nanos| {
        text::time(nanos as u64).replace(".00", "").replace(".0", "")
    });
    let points = longest().map(|(at, nanos)| (at, nanos.log10())).collect();
    let svg = lines("longest request of each second", &axis(run), &y, &[points], &marks(run));
    figure("Longest request of each second", &svg, &[])
}

/// Whole seconds with the middle of each; a begun last one would look like a break-in.
fn seconds(run: &Run) -> impl Iterator<Item = (f64, super::tally::Second)> {
    let whole = (run.seconds.floor() as usize).max(1);
    run.tally.seconds.iter().take(whole).enumerate().map(|(n, second)| (n as f64 + 0.5, *second))
}

fn axis(run: &Run) -> Axis {
    Axis::seconds(run.seconds)
}

/// What each path carried between two looks at the daemon.
fn shares(run: &Run) -> String {
    let Some(last) = run.samples.last() else { return String::new() };
    let names: Vec<String> = last.device.paths.iter().map(|path| path.name.clone()).collect();
    let carried = |sample: &Sample, name: &String| {
        let path = sample.device.paths.iter().find(|path| path.name == *name);
        path.map_or(0, |path| path.reads + path.writes)
    };
    let step = run.samples.len().div_ceil(BARS_MAX).max(1);
    let looks: Vec<&Sample> = run.samples.iter().step_by(step).collect();
    let bar = |pair: &[&Sample]| {
        let deltas = names
            .iter()
            .map(|name| carried(pair[1], name).saturating_sub(carried(pair[0], name)) as f64);
        let deltas: Vec<f64> = deltas.collect();
        let sum = deltas.iter().sum::<f64>().max(1.0);
        let parts: Vec<f64> = deltas.iter().map(|delta| delta / sum * 100.0).collect();
        let words = names.iter().zip(&parts).map(|(name, part)| format!("{name} {part:.0} %"));
        let text = words.collect::<Vec<_>>().join(", ");
        Bar { from: pair[0].at, to: pair[1].at, parts, text }
    };
    let bars: Vec<Bar> = looks.windows(2).map(bar).collect();
    if bars.is_empty() {
        return String::new();
    }
    let y = Axis::linear("%", 100.0, |value| format!("{value:.0} %"));
    let svg = stacked("share of the commands by path", &axis(run), &y, &bars, &marks(run));
    figure("Share of each path", &svg, &names)
}

/// Events of paths during the run: seconds since measuring began, and words.
fn happened(run: &Run) -> Vec<(f64, String)> {
    let Some(last) = run.samples.last() else { return Vec::new() };
    let mut out = Vec::new();
    for event in &last.device.events {
        let Ok(at) = humantime::parse_rfc3339(&event.at) else { continue };
        let at = seconds_between(run.began, at);
        if (0.0..=run.seconds).contains(&at) {
            out.push((at, format!("{} {}: {}", event.path, event.what, event.why)));
        }
    }
    out
}

fn seconds_between(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

fn marks(run: &Run) -> Vec<Mark> {
    happened(run).into_iter().map(|(at, text)| Mark { at, text }).collect()
}

fn events(run: &Run) -> String {
    let happened = happened(run);
    if happened.is_empty() {
        return String::new();
    }
    let mut out = String::from("<h2>Events (dashed in the charts)</h2>\n<ul>\n");
    for (at, words) in happened.iter().take(EVENTS_MAX) {
        out.push_str(&format!("<li>{at:.1} s: {}</li>\n", escape(words)));
    }
    if happened.len() > EVENTS_MAX {
        out.push_str(&format!("<li>and {} more</li>\n", happened.len() - EVENTS_MAX));
    }
    out + "</ul>\n"
}

/// One column for reads, one for writes: that fits on a phone.
fn latency_rows(run: &Run) -> Vec<Vec<String>> {
    let curves = curves_of(run);
    let row = |name: &str, value: &dyn Fn(&Histogram<u64>) -> String| {
        let cells = curves.iter().map(|(_, histogram)| value(histogram));
        std::iter::once(name.to_owned()).chain(cells).collect::<Vec<_>>()
    };
    let mut rows = vec![
        std::iter::once(String::new()).chain(curves.iter().map(|(name, _)| name.clone())).collect(),
        row("requests", &|histogram| histogram.len().to_string()),
        row("mean", &|histogram| text::time(histogram.mean() as u64)),
    ];
    for (q, name, _) in SHOWN {
        rows.push(row(name, &|histogram| text::time(histogram.value_at_quantile(q))));
    }
    rows.push(row("longest", &|histogram| text::time(histogram.max())));
    rows
}

fn small_print(runs: &[&Run]) -> String {
    let Some(run) = runs.first() else { return String::new() };
    let omission = match run.load.rate {
        Some(_) => "latencies count from the moment at which a request was due",
        None => "a request follows an answer",
    };
    let cpu: Vec<String> = run
        .other_cpu
        .iter()
        .map(|(pid, nanos)| format!("process {pid} {:.2} us", run.us_per_request(*nanos)))
        .collect();
    let others = if cpu.is_empty() { String::new() } else { format!(", {}", cpu.join(", ")) };
    format!(
        "<p class=\"dim\">mpio {}, {}; {omission}. Processor time for each request: generator {:.2} us{}.</p>\n",
        env!("CARGO_PKG_VERSION"),
        humantime::format_rfc3339_seconds(run.began),
        run.us_per_request(run.generator_cpu),
        escape(&others)
    )
}

#[cfg(test)]
mod tests {
    use super::super::load::Load;
    use super::super::tally::Tally;
    use super::*;
    use crate::api::{DeviceStatus, Event, PathStatus};
    use std::collections::BTreeMap;
    use std::time::Duration;

    const S: u64 = 1_000_000_000;

    pub fn run() -> Run {
        let mut tally = Tally::new(0, 4 * S);
        for n in 0..4000u64 {
            let at = n * S / 1000;
            tally.answered(Kind::Read, at, at + 50_000 + n * 17, None);
        }
        let path =
            |name: &str, reads| PathStatus { name: name.into(), reads, ..PathStatus::default() };
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1_763_600_000);
        let event = |after: f64, why: &str| Event {
            at: humantime::format_rfc3339_millis(began + Duration::from_secs_f64(after))
                .to_string(),
            path: "a:ha1".into(),
            what: "failed".into(),
            why: why.into(),
        };
        let sample = |at: u64| Sample {
            at: at as f64,
            device: DeviceStatus {
                paths: vec![path("a:ha1", at * 300), path("b:<x>", at * 700)],
                events: vec![event(1.5, "no answer <for> 1 s")],
                ..DeviceStatus::default()
            },
        };
        let load = Load {
            read_percent: 100,
            sequential: false,
            size: 4096,
            depth: 32,
            connections: 1,
            threads: 1,
            seconds: 4,
            ramp: 0,
            rate: None,
            verify: false,
        };
        Run {
            load,
            tally,
            seconds: 4.0,
            began,
            interrupted: false,
            generator_cpu: 2_000_000,
            other_cpu: BTreeMap::from([(7, 4_000_000)]),
            samples: (0..4).map(sample).collect(),
            broken: None,
        }
    }

    #[test]
    fn everything_is_in_one_file() {
        let html = single("vm0 <b>", &run());
        for part in [
            "Latency percentiles",
            "99.9%",
            "Requests per second",
            "Longest request of each second",
            "Share of each path",
            "a:ha1 30 %, b:&lt;x&gt; 70 %",
            "1.5 s: a:ha1 failed: no answer &lt;for&gt; 1 s",
            "random read, 4 KiB, depth 32, 1 connection",
            "process 7 1.00 us",
        ] {
            assert!(html.contains(part), "{part:?} in\n{html}");
        }
        assert_eq!(
            html.matches("class=\"mark\"").count(),
            3,
            "each chart over time marks the event"
        );
        for word in ["<b>vm0", "<x>", "<for>", "http:", "https:", "NaN", "inf"] {
            assert!(!html.contains(word), "{word:?} in\n{html}");
        }
    }

    #[test]
    fn a_run_without_anything_is_still_a_report() {
        let mut empty = run();
        (empty.tally, empty.seconds, empty.samples) = (Tally::new(0, S), 0.0, Vec::new());
        empty.interrupted = true;
        let html = single("x", &empty);
        assert!(html.contains("interrupted") && !html.contains("NaN") && !html.contains("inf,"));
        assert!(series("x", &[]).contains("Nothing was measured"));
    }

    #[test]
    fn a_file_that_was_not_there_does_not_stay_empty() {
        let path = std::env::temp_dir().join(format!("mpio-report-{}", std::process::id()));
        drop(ReportFile::open(&path).unwrap());
        assert!(!path.exists());
        std::fs::write(&path, "what was there, and is longer").unwrap();
        drop(ReportFile::open(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "what was there, and is longer");
        ReportFile::open(&path).unwrap().write("new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        std::fs::remove_file(path).unwrap();
        assert_eq!(ReportFile::open(Path::new("/nonexistent/x")).err().unwrap().code, 2);
    }
}
