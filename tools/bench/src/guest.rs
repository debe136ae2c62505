//! The kernel's own stack: measured in the virtual machine of `tools/vm`, in one boot, by `guest.sh`.
//!
//! It is emulated, so only ratios say something, and what they say is how much work each stack is: once with a clock that
//! counts instructions, which says the same on a busy and on an idle host, and once with the host's.

use crate::measure::{Load, Measured};
use crate::plan::{Effort, load};
use crate::process::{BenchError, io};
use crate::setup::Env;
use crate::table;
use mpio_vm::{Boot, Kernel, Line};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// The heading of this part of the results, which is the last.
pub const HEADING: &str = "# In the virtual machine";

const LOADS: [Load; 4] = [
    load(false, "4k", 32, 1),
    load(true, "4k", 32, 1),
    load(false, "4k", 1, 1),
    load(true, "4k", 1, 1),
];

/// A comparison: its title, and who is divided by whom, as `guest.sh` calls them.
struct Match {
    title: &'static str,
    pair: [&'static str; 2],
}

impl Match {
    fn title(&self, how: &str) -> String {
        format!("virtual machine, {how}: {}", self.title)
    }
}

const MATCHES: [Match; 3] = [
    Match {
        title: "mpio with nbd-client : open-iscsi with dm-multipath, two paths",
        pair: ["mpio", "dm-multipath"],
    },
    Match {
        title: "mpio with nbd-client, two paths : open-iscsi, one path",
        pair: ["mpio", "one-path"],
    },
    Match {
        title: "mpio, two paths : qemu-nbd with libiscsi, one path, both with nbd-client",
        pair: ["mpio", "qemu-nbd"],
    },
];

/// Whether a comparison's title contains `part`.
#[must_use]
pub fn is_named(part: &str) -> bool {
    ["counted", "timed"].iter().any(|how| MATCHES.iter().any(|one| one.title(how).contains(part)))
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
    Ok(format!(
        "{HEADING}\n\n{about} Linux {version} of Debian under QEMU without KVM; one logical unit behind two tgtd, fio \
         (libaio, direct), everybody in turn in one boot. A run alone: `cargo run --release -p mpio-bench -- --vm`.\n\n\
         *Counted*: time inside is a count of instructions, 500 for a microsecond, on one processor: a rate says how many \
         instructions of all programs and of the kernel a request takes, whatever else the host does.\n\n{}\
         *Timed*: two processors and the host's clock. Emulation makes everything several times slower, waking another \
         processor most of all.\n\n{}",
        tables("counted", &counted),
        tables("timed", &timed)
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

/// Generous: half a minute for each check, and as long beside what a turn measures.
fn time_limit(effort: Effort) -> Duration {
    let sets = LOADS.len() as u32 * 4;
    Duration::from_secs((240 + sets * (30 + effort.turns * (effort.seconds + 30))).into())
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

fn tables(how: &str, rows: &[Row]) -> String {
    let mut out = String::new();
    for one in &MATCHES {
        let _ = write!(out, "## {}\n\n{}", one.title(how), table::head(one.pair));
        for load in &LOADS {
            let _ =
                writeln!(out, "{}", table::row(*load, &one.pair.map(|who| of(rows, load, who))));
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
        let tables = tables("timed", &parse(&rows(3), 3).unwrap());
        for ratio in ["**2.00** (2.00-2.00)", "**4.00** (4.00-4.00)", "**8.00** (8.00-8.00)"] {
            assert_eq!(tables.matches(ratio).count(), LOADS.len(), "{ratio} in\n{tables}");
        }
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
