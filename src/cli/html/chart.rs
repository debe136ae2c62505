//! Charts as inline SVG. Small coordinates, so that text stays readable when a phone shrinks them, and no
//! colours of their own: those come from the page, which knows about the dark and about paper.

use super::{COLOURS, escape};
use std::fmt::Write as _;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 270.0;
/// Room for labels.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 32.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 46.0;

/// One axis: its range and what stands at which value.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// What it shows.
    pub label: &'static str,
    /// Least value.
    pub min: f64,
    /// Greatest value, above the least.
    pub max: f64,
    /// Values with their names.
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to at least `max`, in round steps, named by `name`.
    #[must_use]
    pub fn linear(label: &'static str, max: f64, name: impl Fn(f64) -> String) -> Axis {
        let max = if max.is_finite() && max > 0.0 { max } else { 1.0 };
        let rough = max / 5.0;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * unit);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(10.0 * unit);
        let count = (max / step).ceil();
        let ticks = (0..=count as u32).map(|n| f64::from(n) * step);
        let ticks = ticks.map(|value| (value, name(value))).collect();
        Axis { label, min: 0.0, max: count * step, ticks }
    }

    /// Time from 0 to exactly `seconds`.
    #[must_use]
    pub fn seconds(seconds: f64) -> Axis {
        let mut axis = Axis::linear("seconds", seconds, short);
        axis.max = seconds.max(f64::MIN_POSITIVE);
        axis.ticks.retain(|(value, _)| *value <= axis.max);
        axis
    }

    /// Powers of ten around `min` and `max`; values are their logarithms.
    #[must_use]
    pub fn log(label: &'static str, min: f64, max: f64, name: impl Fn(f64) -> String) -> Axis {
        let low = min.max(1.0).log10().floor();
        let high = max.max(10.0).log10().ceil().max(low + 1.0);
        let ticks = (low as i32..=high as i32).map(|n| (f64::from(n), name(10f64.powi(n))));
        Axis { label, min: low, max: high, ticks: ticks.collect() }
    }

    fn part(&self, value: f64) -> f64 {
        ((value - self.min) / (self.max - self.min)).clamp(0.0, 1.0)
    }
}

/// Something that happened at one value of the horizontal axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// Where.
    pub at: f64,
    /// What.
    pub text: String,
}

fn x_of(axis: &Axis, value: f64) -> f64 {
    LEFT + axis.part(value) * (WIDTH - LEFT - RIGHT)
}

fn y_of(axis: &Axis, value: f64) -> f64 {
    HEIGHT - BOTTOM - axis.part(value) * (HEIGHT - TOP - BOTTOM)
}

/// Frame, grid, labels, marks around `inside`.
fn frame(aria: &str, x: &Axis, y: &Axis, marks: &[Mark], inside: &str) -> String {
    let (left, right, top, bottom) = (LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM);
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(aria)
    );
    for (value, name) in &y.ticks {
        let at = y_of(y, *value);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            at + 5.0,
            escape(name)
        );
    }
    for (value, name) in &x.ticks {
        let at = x_of(x, *value);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            escape(name)
        );
    }
    let _ = write!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        f64::midpoint(left, right),
        bottom + 38.0,
        escape(x.label)
    );
    out.push_str(inside);
    for mark in marks {
        let at = x_of(x, mark.at);
        let _ = write!(
            out,
            "<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{bottom}\">\
             <title>{}</title></line>",
            escape(&mark.text)
        );
    }
    let _ = write!(
        out,
        "<line class=\"axis\" x1=\"{left}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/></svg>"
    );
    out
}

/// One line for each series; a single one is filled to the axis.
#[must_use]
pub fn lines(aria: &str, x: &Axis, y: &Axis, series: &[Vec<(f64, f64)>], marks: &[Mark]) -> String {
    let mut inside = String::new();
    for (index, points) in series.iter().enumerate().filter(|(_, points)| !points.is_empty()) {
        let colour = index % COLOURS;
        let path: String =
            points.iter().map(|(a, b)| format!("{:.1},{:.1} ", x_of(x, *a), y_of(y, *b))).collect();
        if series.len() == 1 {
            let (first, last) = (x_of(x, points[0].0), x_of(x, points[points.len() - 1].0));
            let base = HEIGHT - BOTTOM;
            let _ = write!(
                inside,
                "<polygon points=\"{first:.1},{base} {path}{last:.1},{base}\" \
                 fill=\"var(--c{colour})\" opacity=\".15\"/>"
            );
        }
        // The same colour comes again after six: then it is dashed.
        let dash = if index >= COLOURS { " stroke-dasharray=\"5 3\"" } else { "" };
        let _ = write!(
            inside,
            "<polyline points=\"{path}\" fill=\"none\" stroke=\"var(--c{colour})\" stroke-width=\"2\"{dash}/>"
        );
    }
    frame(aria, x, y, marks, &inside)
}

/// One bar for each step of the horizontal axis, its parts on top of each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// Where it begins and ends on the horizontal axis.
    pub from: f64,
    /// See `from`.
    pub to: f64,
    /// Its parts, lowest first.
    pub parts: Vec<f64>,
    /// Said when it is pointed at.
    pub text: String,
}

/// Bars whose parts stand on top of each other.
#[must_use]
pub fn stacked(aria: &str, x: &Axis, y: &Axis, bars: &[Bar], marks: &[Mark]) -> String {
    let mut inside = String::new();
    for bar in bars {
        let (left, right) = (x_of(x, bar.from), x_of(x, bar.to));
        let width = (right - left - if right - left > 4.0 { 1.0 } else { 0.0 }).max(0.5);
        let (mut sum, mut low) = (0.0, y_of(y, 0.0));
        for (index, part) in bar.parts.iter().enumerate() {
            sum += part;
            let high = y_of(y, sum);
            let _ = write!(
                inside,
                "<rect x=\"{left:.1}\" y=\"{high:.1}\" width=\"{width:.1}\" height=\"{:.1}\" \
                 fill=\"var(--c{})\"><title>{}</title></rect>",
                low - high,
                index % COLOURS,
                escape(&bar.text)
            );
            low = high;
        }
    }
    frame(aria, x, y, marks, &inside)
}

/// Lying bars with names above and values beside them: for comparing few things. Values are not negative.
#[must_use]
pub fn ranking(aria: &str, rows: &[(String, f64, String)]) -> String {
    let most = rows.iter().map(|(_, value, _)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let step = 42.0;
    let height = step * rows.len().max(1) as f64 + 4.0;
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
        escape(aria)
    );
    for (index, (name, value, text)) in rows.iter().enumerate() {
        let top = step * index as f64;
        let width = (value / most * (WIDTH - 2.0)).max(1.0);
        let _ = write!(
            out,
            "<text x=\"1\" y=\"{:.1}\">{}</text>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"1\" y=\"{:.1}\" width=\"{width:.1}\" height=\"12\" rx=\"2\" fill=\"var(--c0)\"/>",
            top + 16.0,
            escape(name),
            WIDTH - 1.0,
            top + 16.0,
            escape(text),
            top + 23.0
        );
    }
    out + "</svg>"
}

/// `950`, `12k`, `1.25M`.
#[must_use]
pub fn short(value: f64) -> String {
    let trim = |number: f64, unit: &str| {
        let text = format!("{number:.2}");
        format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match value.abs() {
        v if v >= 1e9 => trim(value / 1e9, "G"),
        v if v >= 1e6 => trim(value / 1e6, "M"),
        v if v >= 1e3 => trim(value / 1e3, "k"),
        _ => trim(value, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_steps_and_hold_their_values() {
        for max in [0.0, 0.3, 1.0, 7.0, 99.0, 123_456.0, f64::NAN] {
            let axis = Axis::linear("x", max, short);
            assert!(axis.max >= max || max.is_nan(), "{axis:?}");
            assert!((2..=6).contains(&axis.ticks.len()), "{axis:?}");
        }
        assert_eq!(Axis::linear("x", 123_456.0, short).ticks[1].1, "50k");
        assert_eq!(Axis::seconds(7.0).ticks.last().unwrap().1, "6");
        let log = Axis::log("t", 15_000.0, 3e6, short);
        assert_eq!((log.min, log.max, log.ticks.len()), (4.0, 7.0, 4));
        assert_eq!(Axis::log("t", 0.0, 0.0, short).ticks.len(), 2);
    }

    #[test]
    fn numbers_are_short() {
        let text = [0.0, 950.0, 12_000.0, 1_250_000.0, 0.25].map(short);
        assert_eq!(text, ["0", "950", "12k", "1.25M", "0.25"]);
    }

    #[test]
    fn nothing_leaves_the_frame() {
        let (x, y) = (Axis::seconds(10.0), Axis::linear("y", 5.0, short));
        let svg = lines("a", &x, &y, &[vec![(-5.0, -1.0), (20.0, 99.0)]], &[]);
        assert!(svg.contains("points=\"62.0,224.0 448.0,10.0 \""), "{svg}");
        let bar = Bar { from: 0.0, to: 5.0, parts: vec![2.0, 3.0], text: "<b>".to_owned() };
        let mark = Mark { at: 5.0, text: "a & b".to_owned() };
        let svg = stacked("a", &x, &y, &[bar], &[mark]);
        assert!(svg.contains("&lt;b&gt;") && svg.contains("a &amp; b") && !svg.contains("<b>"));
        assert_eq!(svg.matches("<rect").count(), 2);
    }
}
