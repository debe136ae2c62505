//! The kernel's own stack: measured in the virtual machine of `tools/vm`, in one boot, by `guest.sh`.
//!
//! It is emulated, so only ratios say something, and what they say is how much work each stack is.

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

const MATCHES: [Match; 3] = [
    Match {
        title: "virtual machine: mpio with nbd-client : open-iscsi with dm-multipath, two paths",
        pair: ["mpio", "dm-multipath"],
    },
    Match {
        title: "virtual machine: mpio with nbd-client, two paths : open-iscsi, one path",
        pair: ["mpio", "one-path"],
    },
    Match {
        title: "virtual machine: mpio, two paths : qemu-nbd with libiscsi, one path, both with nbd-client",
        pair: ["mpio", "qemu-nbd"],
    },
];

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
    let failed = |error: mpio_vm::Error| BenchError::Failed(error.to_string());
    let kernel = Kernel::find(&Kernel::cache_directory()).map_err(failed)?;
    let version = kernel.version.clone();
    let share = env.directory.join("vm");
    std::fs::create_dir_all(&share).map_err(io(share.display().to_string()))?;
    let mut boot = Boot::new(kernel, &share, root.join("tools/bench/guest.sh"));
    boot.files = vec![root.join("tests/vm/lib.sh"), env.bin.join("mpio")];
    boot.arguments = vec![effort.seconds.to_string(), effort.turns.to_string()];
    boot.arguments.extend(LOADS.iter().map(argument));
    boot.time_limit = time_limit(effort);
    let mut said = Vec::new();
    let outcome = boot.run(&mut |at, line| {
        if let Line::Console(text) = line {
            said.push(text.to_owned());
            if let Some(progress) = text.strip_prefix("## ") {
                eprintln!("virtual machine: {:4.0} s  {progress}", at.as_secs_f64());
            }
        }
    });
    let outcome = outcome.map_err(failed)?;
    if outcome.code != 0 {
        let tail = said[said.len().saturating_sub(60)..].join("\n");
        return Err(BenchError::Failed(format!("guest.sh ended with {}:\n{tail}", outcome.code)));
    }
    let rows = share.join("out/rows.jsonl");
    let rows = std::fs::read_to_string(&rows).map_err(io(rows.display().to_string()))?;
    let rows = parse(&rows, effort.turns)?;
    Ok(format!(
        "{HEADING}\n\n{about} Linux {version} of Debian under QEMU without KVM, two processors; one boot, one \
         logical unit behind two tgtd, fio (libaio, direct). Emulation makes everything several times slower and \
         processor time dear, so ratios say how much work a stack is. A run alone: `cargo run --release -p \
         mpio-bench -- --vm`.\n\n{}",
        tables(&rows)
    ))
}

/// As `guest.sh` takes it.
fn argument(load: &Load) -> String {
    assert!(load.connections == 1, "one block device each: {load:?}");
    format!("{}:{}:{}", if load.write { "write" } else { "read" }, load.size, load.depth)
}

/// Generous: half a minute for each check, and ten seconds beside what a turn measures.
fn time_limit(effort: Effort) -> Duration {
    let sets = LOADS.len() as u32 * 4;
    Duration::from_secs((240 + sets * (30 + effort.turns * (effort.seconds + 10))).into())
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

fn tables(rows: &[Row]) -> String {
    let mut out = String::new();
    for one in &MATCHES {
        let _ = write!(out, "## {}\n\n{}", one.title, table::head(one.pair));
        for load in &LOADS {
            let _ = writeln!(out, "{}", table::row(*load, &one.pair.map(|who| of(rows, load, who))));
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
        let tables = tables(&parse(&rows(3), 3).unwrap());
        for ratio in ["**2.00** (2.00-2.00)", "**4.00** (4.00-4.00)", "**8.00** (8.00-8.00)"] {
            assert_eq!(tables.matches(ratio).count(), LOADS.len(), "{ratio} in\n{tables}");
        }
        assert!(tables.contains("| 4k write, depth 1 |") && tables.contains(" 200, 10 / 20 |"), "{tables}");
    }

    #[test]
    fn a_missing_turn_or_a_line_that_is_no_row_is_an_error() {
        assert!(parse(&rows(2), 3).is_err());
        assert!(parse(&rows(3).replacen("200", "0", 1), 3).is_err());
        assert!(parse(&(rows(3) + "x\n"), 3).is_err());
    }
}
