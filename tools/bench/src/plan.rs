//! Who is measured beside whom, with which loads.

use crate::measure::{Contender, Load};
use crate::process::{BenchError, Cores};
use crate::setup::{Env, Server, Storage};
use crate::table;
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

/// A load, for tables of them.
#[must_use]
pub const fn load(write: bool, size: &'static str, depth: u32, connections: u32) -> Load {
    Load { write, size, depth, connections }
}

const SMALL: &[Load] = &[
    load(false, "4k", 32, 1),
    load(true, "4k", 32, 1),
    load(false, "4k", 1, 1),
    load(true, "4k", 1, 1),
    load(false, "4k", 8, 1),
    load(true, "4k", 8, 1),
    load(false, "4k", 128, 1),
    load(true, "4k", 128, 1),
    load(false, "128k", 16, 1),
    load(true, "128k", 16, 1),
];
const FOUR: &[Load] = &[load(false, "4k", 32, 4), load(true, "4k", 32, 4)];
const PATHS: &[Load] = &[
    load(false, "4k", 8, 1),
    load(false, "4k", 32, 1),
    load(true, "4k", 8, 1),
    load(true, "4k", 32, 1),
];
const DIGESTS: &[Load] = &[
    load(false, "4k", 32, 1),
    load(true, "4k", 32, 1),
    load(false, "128k", 16, 1),
    load(true, "128k", 16, 1),
];
const READ: &[Load] = &[load(false, "4k", 32, 1)];
const FLOOR: &[Load] = &[
    load(false, "4k", 1, 1),
    load(false, "4k", 32, 1),
    load(true, "4k", 32, 1),
    load(false, "128k", 16, 1),
];

/// Two contenders and their loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// What is compared.
    pub title: &'static str,
    /// The first contender.
    first: Who,
    /// The one that it is divided by.
    second: Who,
    /// Behind both.
    storage: Behind,
    /// Loads.
    loads: &'static [Load],
    /// How many of the loads the quick form takes.
    quick: usize,
    /// Processors.
    cores: Cores,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Mpio { paths: usize, digests: bool },
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

const MPIO: Who = Who::Mpio { paths: 1, digests: false };

/// Everything, in the order of the results.
pub const MATCHES: [Match; 9] = [
    Match {
        title: "mpio : qemu-nbd with libiscsi, embedded target, one core for all",
        first: MPIO,
        second: Who::Qemu,
        storage: Behind::Embedded,
        loads: SMALL,
        quick: 3,
        cores: Cores::One,
    },
    Match {
        title: "mpio : qemu-nbd with libiscsi, embedded target, two cores",
        first: MPIO,
        second: Who::Qemu,
        storage: Behind::Embedded,
        loads: SMALL,
        quick: 0,
        cores: Cores::Two,
    },
    Match {
        title: "mpio : qemu-nbd with libiscsi, four connections, two cores",
        first: MPIO,
        second: Who::Qemu,
        storage: Behind::Embedded,
        loads: FOUR,
        quick: 1,
        cores: Cores::Two,
    },
    Match {
        title: "two paths, round-robin : one path, one core",
        first: Who::Mpio { paths: 2, digests: false },
        second: MPIO,
        storage: Behind::Embedded,
        loads: PATHS,
        quick: 1,
        cores: Cores::One,
    },
    Match {
        title: "both digests : none, one core",
        first: Who::Mpio { paths: 1, digests: true },
        second: MPIO,
        storage: Behind::Embedded,
        loads: DIGESTS,
        quick: 1,
        cores: Cores::One,
    },
    Match {
        title: "mpio : iscsi-perf (no NBD hop), tgtd, two cores",
        first: MPIO,
        second: Who::Perf,
        storage: Behind::Tgtd,
        loads: READ,
        quick: 1,
        cores: Cores::Two,
    },
    Match {
        title: "mpio : qemu-nbd with libiscsi, tgtd, two cores",
        first: MPIO,
        second: Who::Qemu,
        storage: Behind::Tgtd,
        loads: READ,
        quick: 0,
        cores: Cores::Two,
    },
    Match {
        title: "mpio : nbdkit memory (no iSCSI hop), one core",
        first: MPIO,
        second: Who::Nbdkit,
        storage: Behind::Embedded,
        loads: FLOOR,
        quick: 1,
        cores: Cores::One,
    },
    Match {
        title: "mpio : a byte relay before nbdkit (what any proxy costs at least), one core",
        first: MPIO,
        second: Who::Relay,
        storage: Behind::Embedded,
        loads: FLOOR,
        quick: 1,
        cores: Cores::One,
    },
];

impl Match {
    /// Plays it; a heading and a table, or nothing if the quick form leaves it out.
    ///
    /// # Errors
    /// When a contender does not come up, fails, or gives back other bytes than were written.
    pub fn play(&self, env: &Env, effort: Effort) -> Result<String, BenchError> {
        let count = if effort.quick { self.quick } else { self.loads.len() };
        if count == 0 {
            return Ok(String::new());
        }
        let env = &Env { cores: self.cores, ..env.clone() };
        let storage = match self.storage {
            Behind::Embedded => Storage::embedded(env)?,
            Behind::Tgtd => Storage::tgtd(env)?,
        };
        let pair = [self.first.start(env, &storage)?, self.second.start(env, &storage)?];
        let mut out =
            format!("## {}\n\n{}", self.title, table::head(pair.each_ref().map(Contender::name)));
        for load in &self.loads[..count] {
            let row = turns(env, &pair, *load, effort)?;
            eprintln!("{}: {row}", self.title);
            let _ = writeln!(out, "{row}");
        }
        Ok(out + "\n")
    }
}

impl Who {
    fn start(self, env: &Env, storage: &Storage) -> Result<Contender, BenchError> {
        Ok(match self {
            Who::Mpio { paths, digests } => {
                let name = match (paths, digests) {
                    (1, false) => "mpio",
                    (_, false) => "mpio, two paths",
                    (_, true) => "mpio, digests",
                };
                Contender::Nbd(name, Server::mpio(env, storage, paths, digests)?)
            }
            Who::Qemu => Contender::Nbd("qemu-nbd", Server::qemu(env, storage)?),
            Who::Perf => Contender::Perf(storage.url()),
            Who::Nbdkit => Contender::Nbd("nbdkit", Server::nbdkit(env)?),
            Who::Relay => Contender::Nbd("relay", Server::relay(env)?),
        })
    }
}

/// Each contender in turn, so that a machine that changes meanwhile changes for both.
fn turns(
    env: &Env,
    pair: &[Contender; 2],
    load: Load,
    effort: Effort,
) -> Result<String, BenchError> {
    for contender in pair {
        contender.verify(env, load)?;
    }
    let mut results = [Vec::new(), Vec::new()];
    for _ in 0..effort.turns {
        for (contender, results) in pair.iter().zip(&mut results) {
            results.push(contender.measure(env, load, effort.seconds)?);
        }
    }
    Ok(table::row(load, &results))
}
