//! Two contenders side by side in Markdown, ratios first.

use crate::goals::{Figure, Goal};
use crate::measure::{Load, Measured, Spread};
use std::fmt::Write as _;

/// The head of a table of `names`, the first of which is divided by the second.
#[must_use]
pub fn head(names: [&str; 2]) -> String {
    let columns = names.map(|name| format!(" {name}: IOPS, p50 / p99 us, CPU us/request |"));
    let columns = columns.concat();
    format!("| load | IOPS | CPU | p50 | goal |{columns}\n|---|---|---|---|---|---|---|\n")
}

/// What the turns of both contenders gave.
#[derive(Debug)]
pub struct Turns(pub [Vec<Measured>; 2]);

impl Turns {
    /// First by second, turn by turn.
    #[must_use]
    pub fn ratio(&self, figure: Figure) -> Option<Spread> {
        let [first, second] = &self.0;
        let each = first.iter().zip(second).map(|(a, b)| figure.of(a) / figure.of(b));
        Spread::of(each.filter(|ratio| ratio.is_finite() && *ratio > 0.0))
    }

    /// A line of the table: ratios, then the medians of each. What nobody said (0) is a dash, or left out.
    #[must_use]
    pub fn text(&self, load: Load, goals: &[Goal]) -> String {
        let mut row = format!("| {} |", load.name());
        for figure in [Figure::Iops, Figure::Cpu, Figure::P50] {
            let _ = match self.ratio(figure) {
                None => write!(row, " - |"),
                Some(Spread { median, least, most }) if least == most => {
                    write!(row, " **{median:.2}** |")
                }
                Some(Spread { median, least, most }) => {
                    write!(row, " **{median:.2}** ({least:.2}-{most:.2}) |")
                }
            };
        }
        let goals: Vec<String> = goals.iter().map(|goal| goal.text()).collect();
        let _ = write!(row, " {} |", goals.join(", "));
        for measured in &self.0 {
            let middle = |figure: fn(&Measured) -> f64| {
                Spread::of(measured.iter().map(figure)).map_or(0.0, |spread| spread.median)
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goals::iops;

    const fn load(write: bool, depth: u32) -> Load {
        Load { write, size: "4k", depth, connections: 1 }
    }

    fn measured(iops: f64, p50: f64, cpu: f64) -> Measured {
        Measured { iops, p50, p99: p50 * 2.0, cpu }
    }

    #[test]
    fn ratios_are_of_pairs_and_first() {
        let first = vec![measured(100.0, 10.0, 1.0), measured(300.0, 10.0, 1.0)];
        let second = vec![measured(50.0, 20.0, 4.0), measured(200.0, 20.0, 4.0)];
        assert_eq!(
            Turns([first, second]).text(load(false, 32), &[iops(1.0)]),
            "| 4k read, depth 32 | **1.75** (1.50-2.00) | **0.25** | **0.50** | IOPS >= 1.00 \
             | 200, 10 / 20, 1.00 | 125, 20 / 40, 4.00 |"
        );
    }

    #[test]
    fn what_nobody_said_is_no_figure() {
        let turns = Turns([vec![measured(100.0, 0.0, 0.0)], vec![measured(50.0, 20.0, 0.0)]]);
        assert_eq!(
            turns.text(load(true, 1), &[]),
            "| 4k write, depth 1 | **2.00** | - | - |  | 100 | 50, 20 / 40 |"
        );
    }
}
