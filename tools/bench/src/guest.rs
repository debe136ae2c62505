//! The kernel's own stack: measured in the virtual machine of `tools/vm`, in one boot, by `guest.sh`.
//!
//! It is emulated, so only ratios say something, and what they say is how much work each stack is: once with a clock that
//! counts instructions, which says the same on a busy and on an idle host, and once with the host's.

use crate::goals::{Figure, Goal, Goals, iops};
use crate::measure::{Load, Measured};
use crate::plan::Effort;
use crate::process::{BenchError, io};
use crate::setup::Env;
use crate::table::{self, Turns};
use mpio_vm::{Boot, Kernel, Line};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// The heading of this part of the results, which is the last.
pub const HEADING: &str = "# In the virtual machine";

const fn load(write: bool, depth: u32) -> Load {
    Load { write, size: "4k", depth, connections: 1 }
}

const LOADS: [Load; 4] = [load(false, 32), load(true, 32), load(false, 1), load(true, 1)];

/// A comparison: its title, and who is divided by whom, as `guest.sh` calls them.
struct Match {
    title: &'static str,
    counted: bool,
    pair: [&'static str; 2],
}

const MATCHES: [Match; 6] = [
    Match {
        title: "virtual machine, counted: mpio with nbd-client : open-iscsi with dm-multipath, two paths",
        counted: true,
        pair: ["mpio", "dm-multipath"],
    },
    Match {
        title: "virtual machine, counted: mpio with nbd-client, two paths : open-iscsi, one path",
        counted: true,
        pair: ["mpio", "one-path"],
    },
    Match {
        title: "virtual machine, counted: mpio, two paths : qemu-nbd with libiscsi, one path, both with nbd-client",
        counted: true,
        pair: ["mpio", "qemu-nbd"],
    },
    Match {
        title: "virtual machine, timed: mpio with nbd-client : open-iscsi with dm-multipath, two paths",
        counted: false,
        pair: ["mpio", "dm-multipath"],
    },
    Match {
        title: "virtual machine, timed: mpio with nbd-client, two paths : open-iscsi, one path",
        counted: false,
        pair: ["mpio", "one-path"],
    },
    Match {
        title: "virtual machine, timed: mpio, two paths : qemu-nbd with libiscsi, one path, both with nbd-client",
        counted: false,
        pair: ["mpio", "qemu-nbd"],
    },
];

impl Match {
    /// Ahead of dm-multipath, where there is something to do at any time.
    fn goals(&self, load: &Load) -> &'static [Goal] {
        const AHEAD: &[Goal] = &[iops(1.0)];
        if self.pair[1] == "dm-multipath" && load.depth > 1 { AHEAD } else { &[] }
    }
}

/// Whether a comparison's title contains `part`.
#[must_use]
pub fn is_named(part: &str) -> bool {
    MATCHES.iter().any(|one| one.title.contains(part))
}

/// Boots, measures everything; the part of the results from its heading on.
///
/// # Errors
/// When the machine does not come up, or a contender fails or gives back other bytes than were written.
pub fn play(root: &Path, env: &Env, effort: Effort, about: &str) -> Result<String, BenchError> {
    let kernel = Kernel::find(&Kernel::cache_directory())
        .map_err(|error| BenchError::Failed(error.to_string()))?;
    let version = kernel.version.clone();
    // What is counted is the same each time.
    let once = Effort { seconds: 1, turns: 1, ..effort };
    let counted = measured(root, env, once, &kernel, true)?;
    let timed = measured(root, env, effort, &kernel, false)?;
    let mut goals = Goals::default();
    let (counted, timed) = (tables(true, &counted, &mut goals), tables(false, &timed, &mut goals));
    Ok(format!(
        "{HEADING}\n\n{about} Linux {version} of Debian under QEMU without KVM; one logical unit behind two tgtd, fio \
         (libaio, direct), everybody in turn in one boot. A run alone: `cargo run --release -p mpio-bench -- --vm`.\n\n{}\
         *Counted*: time inside is a count of instructions, 500 for a microsecond, on one processor: a rate says how many \
         instructions of all programs and of the kernel a request takes, whatever else the host does.\n\n{counted}\
         *Timed*: two processors and the host's clock. Emulation makes everything several times slower, waking another \
         processor most of all.\n\n{timed}",
        goals.table()
    ))
}

/// One boot of `guest.sh`.
fn measured(
    root: &Path,
    env: &Env,
    effort: Effort,
    kernel: &Kernel,
    counted: bool,
) -> Result<Vec<Row>, BenchError> {
    let share = env.directory.join(if counted { "counted" } else { "timed" });
    std::fs::create_dir_all(&share).map_err(io(share.display().to_string()))?;
    let mut boot = Boot::new(kernel.clone(), &share, root.join("tools/bench/guest.sh"));
    boot.files = vec![root.join("tests/vm/lib.sh"), env.bin.join("mpio")];
    boot.arguments = vec![effort.seconds.to_string(), effort.turns.to_string()];
    boot.arguments.extend(LOADS.iter().map(argument));
    boot.time_limit = time_limit(effort);
    if counted {
        (boot.counted, boot.processors) = (true, 1);
    }
    let mut said = Vec::new();
    let outcome = boot.run(&mut |at, line| {
        if let Line::Console(text) = line {
            said.push(text.to_owned());
            if let Some(progress) = text.strip_prefix("## ") {
                eprintln!("virtual machine: {:4.0} s  {progress}", at.as_secs_f64());
            }
        }
    });
    let outcome = outcome.map_err(|error| BenchError::Failed(error.to_string()))?;
    if outcome.code != 0 {
        let tail = said[said.len().saturating_sub(60)..].join("\n");
        return Err(BenchError::Failed(format!("guest.sh ended with {}:\n{tail}", outcome.code)));
    }
    let rows = share.join("out/rows.jsonl");
    let rows = std::fs::read_to_string(&rows).map_err(io(rows.display().to_string()))?;
    parse(&rows, effort.turns)
}

/// As `guest.sh` takes it.
fn argument(load: &Load) -> String {
    assert!(load.connections == 1, "one block device each: {load:?}");
    format!("{}:{}:{}", if load.write { "write" } else { "read" }, load.size, load.depth)
}

/// Generous: a minute for each check, and half a minute beside what a turn measures.
fn time_limit(effort: Effort) -> Duration {
    let sets = LOADS.len() as u32 * 4;
    Duration::from_secs((240 + sets * (60 + effort.turns * (effort.seconds + 30))).into())
}

/// What the guest measured: a load, a contender, one turn.
struct Row {
    load: String,
    contender: String,
    measured: Measured,
}

fn parse(text: &str, turns: u32) -> Result<Vec<Row>, BenchError> {
    let bad = |line: &str| BenchError::Failed(format!("not a row of guest.sh: {line}"));
    let row = |line: &str| {
        let json: Value = serde_json::from_str(line).ok()?;
        let number = |key: &str| json[key].as_f64().filter(|number| *number > 0.0);
        let (iops, p50, p99) = (number("iops")?, number("p50")?, number("p99")?);
        Some(Row {
            load: json["load"].as_str()?.to_owned(),
            contender: json["contender"].as_str()?.to_owned(),
            measured: Measured { iops, p50, p99, cpu: 0.0 },
        })
    };
    let rows: Vec<Row> =
        text.lines().map(|line| row(line).ok_or_else(|| bad(line))).collect::<Result<_, _>>()?;
    for load in &LOADS {
        for contender in MATCHES.iter().flat_map(|one| one.pair) {
            let count = of(&rows, load, contender).len();
            if count != turns as usize {
                let load = load.name();
                let what = format!("{contender}, {load}: {count} turns instead of {turns}");
                return Err(BenchError::Failed(what));
            }
        }
    }
    Ok(rows)
}

/// The turns of one contender under one load.
fn of(rows: &[Row], load: &Load, contender: &str) -> Vec<Measured> {
    let load = argument(load);
    let rows = rows.iter().filter(|row| row.load == load && row.contender == contender);
    rows.map(|row| row.measured).collect()
}

fn tables(counted: bool, rows: &[Row], goals: &mut Goals) -> String {
    let mut out = String::new();
    for one in MATCHES.iter().filter(|one| one.counted == counted) {
        let _ = write!(out, "## {}\n\n{}", one.title, table::head(one.pair));
        for load in &LOADS {
            let turns = Turns(one.pair.map(|who| of(rows, load, who)));
            let wanted = one.goals(load);
            let _ = writeln!(out, "{}", turns.text(*load, wanted));
            for goal in wanted {
                goals.add(one.title, load.name(), *goal, turns.ratio(Figure::Iops));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(turns: u32) -> String {
        let mut text = String::new();
        for load in &LOADS {
            for (contender, iops) in
                [("mpio", 200), ("dm-multipath", 100), ("one-path", 50), ("qemu-nbd", 25)]
            {
                for turn in 1..=turns {
                    let load = argument(load);
                    let _ = writeln!(
                        text,
                        r#"{{"load":"{load}","contender":"{contender}","turn":{turn},"iops":{iops},"p50":9.5,"p99":20}}"#
                    );
                }
            }
        }
        text
    }

    #[test]
    fn rows_become_tables() {
        let mut goals = Goals::default();
        let tables = tables(false, &parse(&rows(3), 3).unwrap(), &mut goals);
        for ratio in ["| **2.00** |", "| **4.00** |", "| **8.00** |"] {
            assert_eq!(tables.matches(ratio).count(), LOADS.len(), "{ratio} in\n{tables}");
        }
        assert_eq!(goals.table().matches("| 2.00 | yes |").count(), 2, "{}", goals.table());
        assert!(
            tables.contains("| 4k write, depth 1 |") && tables.contains(" 200, 10 / 20 |"),
            "{tables}"
        );
    }

    #[test]
    fn a_missing_turn_or_a_line_that_is_no_row_is_an_error() {
        assert!(parse(&rows(2), 3).is_err());
        assert!(parse(&rows(3).replacen("200", "0", 1), 3).is_err());
        assert!(parse(&(rows(3) + "x\n"), 3).is_err());
    }
}
