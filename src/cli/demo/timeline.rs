//! What was seen second by second, as lines for people and as one HTML file.

use super::load::BLOCK;
use crate::cli::html::chart::{Axis, Bar, Mark, short, stacked};
use crate::cli::html::{escape, figure, page};
use crate::cli::output::safe;
use std::fmt::Write as _;

/// One second.
#[derive(Debug, Clone, PartialEq)]
pub struct Second {
    /// Seconds since the load began.
    pub at: u64,
    /// Requests answered in it.
    pub requests: u64,
    /// Longest request that was answered in it, microseconds.
    pub longest_us: u64,
    /// Commands that each path carried in it.
    pub paths: Vec<u64>,
    /// State of each path at its end.
    pub states: Vec<String>,
    /// What was done and what was seen.
    pub events: Vec<String>,
}

/// How it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Reads compared.
    pub reads: u64,
    /// Writes answered.
    pub writes: u64,
    /// Blocks with wrong content.
    pub wrong: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Longest request of the run, microseconds.
    pub longest_us: u64,
    /// Why it could not be run to its end.
    pub broken: Option<String>,
}

impl Verdict {
    /// Whether every byte was right.
    #[must_use]
    pub fn good(&self) -> bool {
        self.wrong == 0
            && self.errors == 0
            && self.broken.is_none()
            && self.reads > 0
            && self.writes > 0
    }

    /// The last lines.
    #[must_use]
    pub fn text(&self) -> String {
        let gib = (self.reads + self.writes) as f64 * BLOCK as f64 / f64::from(1 << 30);
        let mut out = format!(
            "{} reads compared, {} writes, {gib:.1} GiB; {} wrong blocks, {} errors; longest request {}\n",
            self.reads,
            self.writes,
            self.wrong,
            self.errors,
            ms(self.longest_us)
        );
        if let Some(why) = &self.broken {
            let _ = writeln!(out, "it could not be finished: {why}");
        }
        out.push_str(if self.good() {
            "verdict: every byte was right, and no request saw an error\n"
        } else {
            "verdict: FAILED\n"
        });
        out
    }
}

fn ms(us: u64) -> String {
    match us {
        0..1000 => format!("{us} us"),
        1000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// The head of the table.
#[must_use]
pub fn head(paths: &[String]) -> String {
    let mut out = format!("{:>4}  {:>8}  {:>7}  {:>9}", "t", "IOPS", "MiB/s", "longest");
    for path in paths {
        let _ = write!(out, "  {:>width$}", path, width = width(path));
    }
    out + "\n"
}

fn width(path: &str) -> usize {
    path.chars().count().max(15)
}

/// One line of the table, and one for each event.
#[must_use]
pub fn line(second: &Second, paths: &[String]) -> String {
    let mib = second.requests as f64 * BLOCK as f64 / f64::from(1 << 20);
    let time = format!("{} s", second.at);
    let mut out =
        format!("{time:>4}  {:>8}  {mib:>7.0}  {:>9}", second.requests, ms(second.longest_us));
    for (index, path) in paths.iter().enumerate() {
        let state = second.states.get(index).map_or("", String::as_str);
        let cell = match (share(second, index), state) {
            (Some(share), "active" | "standby") => format!("{share:>3} %"),
            (Some(0) | None, state) => state.to_owned(),
            (Some(share), state) => format!("{state} {share:>3} %"),
        };
        let _ = write!(out, "  {cell:>width$}", width = width(path));
    }
    out.push('\n');
    for event in &second.events {
        let _ = writeln!(out, "      {}", safe(event));
    }
    out
}

/// Part of the commands that a path carried, in percent.
fn share(second: &Second, path: usize) -> Option<u64> {
    let sum: u64 = second.paths.iter().sum();
    (sum > 0).then(|| (second.paths.get(path).copied().unwrap_or(0) * 100 + sum / 2) / sum)
}

/// The whole run as one HTML file without anything outside it.
#[must_use]
pub fn html(title: &str, paths: &[String], seconds: &[Second], verdict: &Verdict) -> String {
    let most = seconds.iter().map(|s| s.requests).max().unwrap_or(0);
    let x = Axis::seconds(seconds.last().map_or(1.0, |second| second.at as f64));
    let y = Axis::linear("requests/s", most as f64, short);
    let bar = |second: &Second| {
        let carried = second.paths.iter().sum::<u64>().max(1) as f64;
        let part = |carried_here: &u64| second.requests as f64 * *carried_here as f64 / carried;
        let shares = paths
            .iter()
            .enumerate()
            .map(|(index, path)| format!("{path} {} %", share(second, index).unwrap_or(0)));
        let shares = shares.collect::<Vec<_>>().join(", ");
        Bar {
            from: second.at as f64 - 1.0,
            to: second.at as f64,
            parts: second.paths.iter().map(part).collect(),
            text: format!("{} s: {} requests/s, {shares}", second.at, second.requests),
        }
    };
    let mark = |second: &Second| {
        let at = second.at as f64 - 0.5;
        (!second.events.is_empty()).then(|| Mark { at, text: second.events.join("; ") })
    };
    let bars: Vec<Bar> = seconds.iter().map(bar).collect();
    let marks: Vec<Mark> = seconds.iter().filter_map(mark).collect();
    let svg = stacked("requests per second by path", &x, &y, &bars, &marks);
    let rows: String = seconds.iter().map(|second| line(second, paths)).collect();
    let class = if verdict.good() { "good" } else { "bad" };
    let verdict = escape(verdict.text().trim_end()).replace('\n', "<br>");
    let body = format!(
        "<p class=\"{class}\"><b>{verdict}</b></p>\n{}<pre>{}</pre>\n",
        figure("Requests per second by path; dashed: events", &svg, paths),
        escape(&(head(paths) + &rows))
    );
    page(title, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second() -> Second {
        Second {
            at: 4,
            requests: 25_600,
            longest_us: 1_030_000,
            paths: vec![1, 199],
            states: vec!["failed".into(), "active".into()],
            events: vec!["CUT: a:ha1 <goes> silent".into()],
        }
    }

    #[test]
    fn lines_for_people() {
        let paths = ["a:ha1".to_owned(), "b:ha1partner".to_owned()];
        assert_eq!(
            head(&paths) + &line(&second(), &paths),
            "   t      IOPS    MiB/s    longest            a:ha1     b:ha1partner\n \
             4 s     25600      100     1.03 s     failed   1 %            100 %\n      \
             CUT: a:ha1 <goes> silent\n"
        );
    }

    #[test]
    fn only_a_whole_run_without_a_wrong_byte_is_good() {
        let good = Verdict { reads: 1, writes: 1, ..Verdict::default() };
        assert!(good.good());
        assert!(!Verdict { wrong: 1, ..good.clone() }.good());
        assert!(!Verdict { errors: 1, ..good.clone() }.good());
        assert!(!Verdict { broken: Some("x".into()), ..good.clone() }.good());
        assert!(!Verdict { reads: 0, ..good.clone() }.good());
        assert!(Verdict { wrong: 1, ..good }.text().ends_with("verdict: FAILED\n"));
    }

    #[test]
    fn the_report_is_one_file_and_escapes() {
        let paths = ["a:ha1".to_owned(), "b:ha1partner".to_owned()];
        let html = html("mpio demo", &paths, &[second()], &Verdict::default());
        assert!(html.contains("&lt;goes&gt;") && !html.contains("<goes>"));
        assert!(!html.contains("http:") && !html.contains("https:"));
        assert!(html.contains("4 s: 25600 requests/s, a:ha1 1 %, b:ha1partner 100 %"), "{html}");
        assert!(html.contains("FAILED"));
    }
}
