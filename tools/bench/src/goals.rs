//! What the ratios are to be, and a table that puts what was measured beside it.

use crate::measure::{Measured, Spread};
use std::fmt::Write as _;

/// A figure of the first contender, divided by that of the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Requests per second.
    Iops,
    /// Processor time of the initiator for each request.
    Cpu,
    /// Half of the requests take no longer.
    P50,
}

impl Figure {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Figure::Iops => "IOPS",
            Figure::Cpu => "CPU",
            Figure::P50 => "p50",
        }
    }

    /// Out of a turn.
    #[must_use]
    pub fn of(self, measured: &Measured) -> f64 {
        match self {
            Figure::Iops => measured.iops,
            Figure::Cpu => measured.cpu,
            Figure::P50 => measured.p50,
        }
    }
}

/// What a ratio is to be: more is better of IOPS, less of everything else.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// The ratio.
    pub figure: Figure,
    /// At least this of IOPS, at most this of anything else.
    pub bound: f64,
}

/// At least so many times the IOPS.
pub const fn iops(bound: f64) -> Goal {
    Goal { figure: Figure::Iops, bound }
}

/// At most so many times the processor time per request.
pub const fn cpu(bound: f64) -> Goal {
    Goal { figure: Figure::Cpu, bound }
}

/// At most so many times the p50.
pub const fn p50(bound: f64) -> Goal {
    Goal { figure: Figure::P50, bound }
}

impl Goal {
    fn is_reached(self, ratio: f64) -> bool {
        match self.figure {
            Figure::Iops => ratio >= self.bound,
            Figure::Cpu | Figure::P50 => ratio <= self.bound,
        }
    }

    /// For people.
    #[must_use]
    pub fn text(self) -> String {
        let sign = if self.figure == Figure::Iops { ">=" } else { "<=" };
        format!("{} {sign} {:.2}", self.figure.name(), self.bound)
    }
}

/// One line of the table: a goal and what was measured.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    title: &'static str,
    load: String,
    goal: Goal,
    ratio: Option<Spread>,
}

/// Every goal of a run.
#[derive(Debug, Default)]
pub struct Goals(Vec<Line>);

impl Goals {
    /// Takes one in, with what was measured, if anything was.
    pub fn add(&mut self, title: &'static str, load: String, goal: Goal, ratio: Option<Spread>) {
        self.0.push(Line { title, load, goal, ratio });
    }

    /// The table; nothing if there are no goals.
    #[must_use]
    pub fn table(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let mut out =
            "## Goals\n\n| what | load | goal | measured | reached |\n|---|---|---|---|---|\n"
                .to_owned();
        for Line { title, load, goal, ratio } in &self.0 {
            let (measured, reached) = match ratio {
                None => ("-".to_owned(), "not measured"),
                Some(r) if goal.is_reached(r.median) => (r.ratio(), "yes"),
                Some(r) => (r.ratio(), "**no**"),
            };
            let _ =
                writeln!(out, "| {title} | {load} | {} | {measured} | {reached} |", goal.text());
        }
        out + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_judged_by_the_median() {
        let spread = |median| Some(Spread { median, least: 0.1, most: 9.0 });
        let mut goals = Goals::default();
        assert_eq!(goals.table(), "");
        goals.add("a : b", "4k".to_owned(), iops(4.0), spread(4.0));
        goals.add("a : b", "4k".to_owned(), iops(4.0), spread(3.99));
        goals.add("a : b", "4k".to_owned(), cpu(0.5), spread(0.5));
        goals.add("a : b", "4k".to_owned(), p50(0.5), spread(0.51));
        goals.add("a : b", "4k".to_owned(), p50(0.5), None);
        let table = goals.table();
        let ends: Vec<&str> = table
            .trim()
            .lines()
            .skip(4)
            .filter_map(|l| l.trim_end_matches(" |").rsplit("| ").next())
            .collect();
        assert_eq!(ends, ["yes", "**no**", "yes", "**no**", "not measured"], "{table}");
        assert!(table.contains("| IOPS >= 4.00 | 4.00 (0.10-9.00) | yes |"), "{table}");
    }
}
