//! Who is measured beside whom, with which loads.

use crate::goals::{Goal, Goals, cpu, iops, p50};
use crate::measure::{Contender, Generator, Load};
use crate::process::{BenchError, Cores};
use crate::setup::{Env, PLAIN, Server, Setup, Storage};
use crate::table::{self, Turns};
use std::fmt::Write as _;

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Seconds of one turn.
    pub seconds: u32,
    /// Turns of each contender.
    pub turns: u32,
    /// Few loads, so that everything has run once.
    pub quick: bool,
}

/// A load, and what the ratios are to be.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Row(Load, &'static [Goal]);

const fn read(size: &'static str, depth: u32, connections: u32, goals: &'static [Goal]) -> Row {
    Row(Load { write: false, size, depth, connections }, goals)
}

const fn write(size: &'static str, depth: u32, connections: u32, goals: &'static [Goal]) -> Row {
    Row(Load { write: true, size, depth, connections }, goals)
}

/// Beside `qemu-nbd`, everybody on one core.
const ONE_CORE: &[Row] = &[
    read("4k", 32, 1, &[iops(7.0), cpu(1.0 / 9.0)]),
    write("4k", 32, 1, &[iops(7.0), cpu(1.0 / 9.0)]),
    read("4k", 1, 1, &[cpu(0.45), p50(0.65)]),
    write("4k", 1, 1, &[cpu(0.45), p50(0.65)]),
    read("4k", 8, 1, &[]),
    write("4k", 8, 1, &[]),
    read("4k", 128, 1, &[]),
    write("4k", 128, 1, &[]),
    read("128k", 16, 1, &[iops(2.0), cpu(0.5)]),
    write("128k", 16, 1, &[iops(2.0), cpu(0.5)]),
];
const TWO_CORES: &[Row] = &[
    read("4k", 1, 1, &[]),
    write("4k", 1, 1, &[]),
    read("4k", 8, 1, &[]),
    write("4k", 8, 1, &[]),
    read("4k", 32, 1, &[]),
    write("4k", 32, 1, &[]),
    read("4k", 128, 1, &[]),
    write("4k", 128, 1, &[]),
    read("128k", 16, 1, &[iops(2.0), cpu(0.5)]),
    write("128k", 16, 1, &[iops(2.0), cpu(0.5)]),
];
/// 128 requests in flight, and 128 on each connection.
const FOUR: &[Row] = &[
    read("4k", 32, 4, &[iops(6.0)]),
    write("4k", 32, 4, &[iops(6.0)]),
    read("4k", 128, 4, &[iops(6.0)]),
    write("4k", 128, 4, &[iops(6.0)]),
];
const FIO: &[Row] = &[read("4k", 32, 1, &[iops(4.0)]), write("4k", 32, 1, &[iops(4.0)])];
const SPINNING: &[Row] = &[read("4k", 1, 1, &[p50(0.45)]), write("4k", 1, 1, &[p50(0.45)])];
/// The least that an initiator could add to: one hop to another core and back.
const NEAREST: &[Row] = &[read("4k", 1, 1, &[]), write("4k", 1, 1, &[])];
const PATHS: &[Row] = &[
    read("4k", 8, 1, &[iops(0.9)]),
    write("4k", 8, 1, &[iops(0.9)]),
    read("4k", 32, 1, &[iops(0.9)]),
    write("4k", 32, 1, &[iops(0.9)]),
];
/// Time per request within 15 %.
const FLAT: &[Row] = &[
    read("4k", 32, 1, &[iops(1.0 / 1.15)]),
    write("4k", 32, 1, &[iops(1.0 / 1.15)]),
    read("4k", 1, 1, &[iops(1.0 / 1.15)]),
];
const AGED: &[Row] = &[read("4k", 32, 1, &[iops(0.9)]), write("4k", 32, 1, &[iops(0.9)])];
const LANES: &[Row] = &[read("4k", 32, 4, &[cpu(1.1)]), write("4k", 32, 4, &[cpu(1.1)])];
const DIGESTS: &[Row] = &[
    read("4k", 32, 1, &[iops(0.85)]),
    write("4k", 32, 1, &[iops(0.85)]),
    read("128k", 16, 1, &[iops(0.75)]),
    write("128k", 16, 1, &[iops(0.75)]),
];
const DIRECT: &[Row] = &[read("4k", 32, 1, &[iops(1.0)])];
const TGTD: &[Row] = &[read("4k", 32, 1, &[])];
const FLOOR: &[Row] = &[
    read("4k", 1, 1, &[]),
    read("4k", 32, 1, &[]),
    write("4k", 32, 1, &[]),
    read("128k", 16, 1, &[]),
];

/// Two contenders and their loads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Match {
    /// What is compared.
    pub title: &'static str,
    /// The first contender.
    first: Who,
    /// The one that it is divided by.
    second: Who,
    /// Behind both.
    storage: Behind,
    /// Loads and goals.
    rows: &'static [Row],
    /// How many of the rows the quick form takes.
    quick: usize,
    /// Processors.
    cores: Cores,
    /// Who makes the load.
    by: Generator,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Mpio(Setup),
    Qemu,
    Perf,
    Nbdkit,
    Relay,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    Embedded,
    Tgtd,
}

const MPIO: Who = Who::Mpio(PLAIN);
const SPINS: Setup = Setup { name: "mpio, spinning", spin: "100us", ..PLAIN };
const TWO_LANES: Setup = Setup { name: "mpio, two lanes", lanes: 2, ..PLAIN };
const TWO_PATHS: Setup = Setup { name: "mpio, two paths", paths: 2, ..PLAIN };

/// The embedded target, one core, `mpio bench`: what most have in common.
const USUAL: Match = Match {
    title: "",
    first: MPIO,
    second: Who::Qemu,
    storage: Behind::Embedded,
    rows: &[],
    quick: 1,
    cores: Cores::One,
    by: Generator::Mpio,
};

/// Everything, in the order of the results.
pub const MATCHES: [Match; 19] = [
    Match {
        title: "mpio : qemu-nbd with libiscsi, embedded target, one core for all",
        rows: ONE_CORE,
        quick: 3,
        ..USUAL
    },
    Match {
        title: "mpio : qemu-nbd with libiscsi, embedded target, two cores",
        rows: TWO_CORES,
        quick: 0,
        cores: Cores::Two,
        ..USUAL
    },
    Match {
        title: "mpio : qemu-nbd with libiscsi, four connections, two cores",
        rows: FOUR,
        cores: Cores::Two,
        ..USUAL
    },
    Match {
        title: "mpio with two lanes : qemu-nbd with libiscsi, four connections, two cores",
        first: Who::Mpio(TWO_LANES),
        rows: FOUR,
        quick: 0,
        cores: Cores::Two,
        ..USUAL
    },
    Match {
        title: "mpio : qemu-nbd with libiscsi under fio, one core for all",
        rows: FIO,
        by: Generator::Fio,
        ..USUAL
    },
    Match {
        title: "mpio that spins for 100 us : qemu-nbd with libiscsi, two cores",
        first: Who::Mpio(SPINS),
        rows: SPINNING,
        cores: Cores::Two,
        ..USUAL
    },
    // Left to itself, the scheduler has everybody on one core in one turn and on two in the next, which is the
    // greater part of the ratio above. Here both sides are pinned alike.
    Match {
        title: "mpio that spins for 100 us : qemu-nbd with libiscsi, target on a core of its own",
        first: Who::Mpio(SPINS),
        rows: SPINNING,
        quick: 0,
        cores: Cores::Apart,
        ..USUAL
    },
    Match {
        title: "no initiator at all (nbdkit on the target's core) : qemu-nbd with libiscsi, target on a core of its own",
        first: Who::Nbdkit,
        rows: NEAREST,
        quick: 0,
        cores: Cores::Apart,
        ..USUAL
    },
    Match {
        title: "two paths, round-robin : one path, one core",
        first: Who::Mpio(TWO_PATHS),
        second: MPIO,
        rows: PATHS,
        ..USUAL
    },
    Match {
        title: "32 paths : 2 paths, round-robin, one core",
        first: Who::Mpio(Setup { name: "mpio, 32 paths", paths: 32, ..PLAIN }),
        second: Who::Mpio(TWO_PATHS),
        rows: FLAT,
        ..USUAL
    },
    Match {
        title: "64 devices of two paths, load on one : one device, one core",
        first: Who::Mpio(Setup { name: "mpio, 64 devices", devices: 64, ..TWO_PATHS }),
        second: Who::Mpio(TWO_PATHS),
        rows: FLAT,
        ..USUAL
    },
    Match {
        title: "after a minute of 128 KiB reads and writes : fresh, one core",
        first: Who::Mpio(Setup { name: "mpio, aged", aged: true, ..PLAIN }),
        second: MPIO,
        rows: AGED,
        ..USUAL
    },
    Match {
        title: "two lanes : one lane, four connections, two cores",
        first: Who::Mpio(TWO_LANES),
        second: MPIO,
        rows: LANES,
        cores: Cores::Two,
        ..USUAL
    },
    Match {
        title: "both digests : none, one core",
        first: Who::Mpio(Setup { name: "mpio, digests", digests: true, ..PLAIN }),
        second: MPIO,
        rows: DIGESTS,
        ..USUAL
    },
    Match {
        title: "mpio : iscsi-perf (no NBD hop), tgtd, two cores",
        second: Who::Perf,
        storage: Behind::Tgtd,
        rows: DIRECT,
        cores: Cores::Two,
        ..USUAL
    },
    Match {
        title: "mpio : iscsi-perf (no NBD hop), tgtd on a core of its own",
        second: Who::Perf,
        storage: Behind::Tgtd,
        rows: DIRECT,
        quick: 0,
        cores: Cores::Apart,
        ..USUAL
    },
    Match {
        title: "mpio : qemu-nbd with libiscsi, tgtd, two cores",
        storage: Behind::Tgtd,
        rows: TGTD,
        quick: 0,
        cores: Cores::Two,
        ..USUAL
    },
    Match {
        title: "mpio : nbdkit memory (no iSCSI hop), one core",
        second: Who::Nbdkit,
        rows: FLOOR,
        ..USUAL
    },
    Match {
        title: "mpio : a byte relay before nbdkit (what any proxy costs at least), one core",
        second: Who::Relay,
        rows: FLOOR,
        ..USUAL
    },
];

impl Match {
    /// Plays it; a heading and a table, or nothing if the quick form leaves it out.
    ///
    /// # Errors
    /// When a contender does not come up, fails, or gives back other bytes than were written.
    pub fn play(&self, env: &Env, effort: Effort, goals: &mut Goals) -> Result<String, BenchError> {
        let count = if effort.quick { self.quick } else { self.rows.len() };
        if count == 0 {
            return Ok(String::new());
        }
        let env = &Env { cores: self.cores, ..env.clone() };
        let target = &Env { cores: self.cores.of_target(), ..env.clone() };
        let storage = match self.storage {
            Behind::Embedded => Storage::embedded(target)?,
            Behind::Tgtd => Storage::tgtd(target)?,
        };
        let pair = [
            self.contender(self.first, env, &storage)?,
            self.contender(self.second, env, &storage)?,
        ];
        let rows = &self.rows[..count];
        for contender in &pair {
            for Row(load, _) in rows {
                contender.verify(env, *load)?;
            }
        }
        for contender in &pair {
            contender.prepare(env, effort.quick)?;
        }
        let mut out =
            format!("## {}\n\n{}", self.title, table::head(pair.each_ref().map(Contender::name)));
        for Row(load, wanted) in rows {
            let turns = play(env, &pair, *load, effort)?;
            let text = turns.text(*load, wanted);
            eprintln!("{}: {text}", self.title);
            let _ = writeln!(out, "{text}");
            for goal in *wanted {
                goals.add(self.title, load.name(), *goal, turns.ratio(goal.figure));
            }
        }
        Ok(out + "\n")
    }

    fn contender(&self, who: Who, env: &Env, storage: &Storage) -> Result<Contender, BenchError> {
        let by = self.by;
        let nbd = |name, server, aged| Contender::Nbd { name, server, by, aged };
        Ok(match who {
            Who::Mpio(setup) => nbd(setup.name, Server::mpio(env, storage, &setup)?, setup.aged),
            Who::Qemu => nbd("qemu-nbd", Server::qemu(env, storage)?, false),
            Who::Perf => Contender::Perf(storage.url()),
            // It is a target as well.
            Who::Nbdkit => {
                let target = &Env { cores: env.cores.of_target(), ..env.clone() };
                nbd("nbdkit", Server::nbdkit(target)?, false)
            }
            Who::Relay => nbd("relay", Server::relay(env)?, false),
        })
    }
}

/// Each contender in turn, so that a machine that changes meanwhile changes for both.
fn play(env: &Env, pair: &[Contender; 2], load: Load, effort: Effort) -> Result<Turns, BenchError> {
    let mut results = [Vec::new(), Vec::new()];
    for _ in 0..effort.turns {
        for (contender, results) in pair.iter().zip(&mut results) {
            results.push(contender.measure(env, load, effort.seconds)?);
        }
    }
    Ok(Turns(results))
}
