//! Two contenders side by side in Markdown, ratios first.

use crate::measure::{Load, Measured, Spread};
use std::fmt::Write as _;

/// The head of a table of `names`, the first of which is divided by the second.
#[must_use]
pub fn head(names: [&str; 2]) -> String {
    let columns = names.map(|name| format!(" {name}: IOPS, p50 / p99 us, CPU us/request |"));
    let columns = columns.concat();
    format!("| load | IOPS | CPU | p50 |{columns}\n|---|---|---|---|---|---|\n")
}

/// One load: ratios of the turns, pair by pair, then the medians of each. What nobody said (0) is a dash, or
/// left out.
#[must_use]
pub fn row(load: Load, results: &[Vec<Measured>; 2]) -> String {
    let ratio = |value: fn(&Measured) -> f64| {
        let each = results[0].iter().zip(&results[1]).map(|(a, b)| value(a) / value(b));
        Spread::of(each.filter(|ratio| ratio.is_finite() && *ratio > 0.0)).map_or(
            "-".to_owned(),
            |r| match results[0].len() {
                1 => format!("**{:.2}**", r.median),
                _ => format!("**{:.2}** ({:.2}-{:.2})", r.median, r.least, r.most),
            },
        )
    };
    let mut row = format!(
        "| {} | {} | {} | {} |",
        load.name(),
        ratio(|m| m.iops),
        ratio(|m| m.cpu),
        ratio(|m| m.p50)
    );
    for measured in results {
        let middle = |value: fn(&Measured) -> f64| {
            Spread::of(measured.iter().map(value)).map_or(0.0, |spread| spread.median)
        };
        let _ = write!(row, " {:.0}", middle(|m| m.iops));
        if middle(|m| m.p50) > 0.0 {
            let _ = write!(row, ", {:.0} / {:.0}", middle(|m| m.p50), middle(|m| m.p99));
        }
        if middle(|m| m.cpu) > 0.0 {
            let _ = write!(row, ", {:.2}", middle(|m| m.cpu));
        }
        row.push_str(" |");
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::load;

    fn measured(iops: f64, p50: f64, cpu: f64) -> Measured {
        Measured { iops, p50, p99: p50 * 2.0, cpu }
    }

    #[test]
    fn ratios_are_of_pairs_and_first() {
        let first = vec![measured(100.0, 10.0, 1.0), measured(300.0, 10.0, 1.0)];
        let second = vec![measured(50.0, 20.0, 4.0), measured(200.0, 20.0, 4.0)];
        assert_eq!(
            row(load(false, "4k", 32, 1), &[first, second]),
            "| 4k read, depth 32 | **1.75** (1.50-2.00) | **0.25** (0.25-0.25) | **0.50** (0.50-0.50) \
             | 200, 10 / 20, 1.00 | 125, 20 / 40, 4.00 |"
        );
    }

    #[test]
    fn what_nobody_said_is_no_figure() {
        let results = [vec![measured(100.0, 0.0, 0.0)], vec![measured(50.0, 20.0, 0.0)]];
        assert_eq!(
            row(load(true, "4k", 1, 1), &results),
            "| 4k write, depth 1 | **2.00** | - | - | 100 | 50, 20 / 40 |"
        );
    }
}
