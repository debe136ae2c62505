//! `mpio-target`: the embedded mirrored pair as a program, for tests with real initiators.
//!
//! Runs two targets over one unit until SIGTERM or SIGINT; SIGHUP executes what is held. Flags set what
//! is offered and which faults strike. It listens where it is told, on loopback unless told otherwise.

#![forbid(unsafe_code)]

use clap::Parser;
use mpio_target::config::{Digests, NodeConfig};
use mpio_target::faults;
use mpio_target::journal::Scope;
use mpio_target::store::Backing;
use mpio_target::{Chap, ChapAlgorithm, PairConfig, Rule, TargetPair};
use nix::sys::signal::{SigSet, Signal};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// A mirrored pair of iSCSI targets, with faults on demand.
#[derive(Debug, Parser)]
#[command(version, about, after_help = format!("Faults:\n{}", faults::HELP))]
struct Arguments {
    /// Portals of the two nodes; port 0 takes a free one.
    #[arg(long, num_args = 2, value_names = ["A", "B"],
        default_values = ["127.0.0.1:3260", "127.0.0.2:3260"])]
    portals: Vec<SocketAddr>,
    /// Names of the two targets.
    #[arg(long, num_args = 2, value_names = ["A", "B"],
        default_values = ["iqn.2026-11.example.san:ha1", "iqn.2026-11.example.san:ha1partner"])]
    targets: Vec<String>,
    /// Size in MiB.
    #[arg(long, default_value_t = 64)]
    size: u64,
    /// Logical block size in bytes: 512 or 4096.
    #[arg(long, default_value_t = 512)]
    block_size: u32,
    /// LUN of the unit.
    #[arg(long, default_value_t = 0)]
    lun: u16,
    /// File behind the unit; without it, sparse memory.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Memory without the label that its last block carries otherwise.
    #[arg(long)]
    blank: bool,
    /// Two units that only look alike, instead of one.
    #[arg(long)]
    not_mirrored: bool,
    /// Name and secret that initiators must give, as USER:SECRET.
    #[arg(long, value_name = "USER:SECRET")]
    chap: Option<String>,
    /// Name and secret by which the targets prove themselves.
    #[arg(long, value_name = "USER:SECRET", requires = "chap")]
    mutual_chap: Option<String>,
    /// Ask for the same authentication on discovery.
    #[arg(long, requires = "chap")]
    discovery_chap: bool,
    /// Which digests are taken: none, crc32c, any.
    #[arg(long, default_value = "any", value_parser = ["none", "crc32c", "any"])]
    digests: String,
    /// InitialR2T=Yes: no unsolicited data.
    #[arg(long)]
    initial_r2t: bool,
    /// ImmediateData=No.
    #[arg(long)]
    no_immediate_data: bool,
    /// MaxRecvDataSegmentLength.
    #[arg(long, default_value_t = 262_144)]
    max_recv_segment: u32,
    /// Commands outstanding per session.
    #[arg(long, default_value_t = 128)]
    window: u32,
    /// Journal: off, changes, all.
    #[arg(long, default_value = "off", value_parser = ["off", "changes", "all"])]
    journal: String,
    /// A fault of both nodes (`FAULT`) or of one (`a:FAULT`, `b:FAULT`); may be repeated.
    #[arg(long = "fault", value_name = "[a:|b:]FAULT")]
    faults: Vec<String>,
    /// Asymmetric access states of the two nodes: `optimized,non-optimized` and the like (standby,
    /// unavailable, transitioning, offline).
    #[arg(long, value_name = "A,B", value_parser = access_states)]
    alua: Option<[u8; 2]>,
    /// Who changes the access states: implicit (the storage), explicit (initiators), both.
    #[arg(long, default_value = "implicit", value_parser = ["implicit", "explicit", "both"], requires = "alua")]
    alua_by: String,
    /// Seed of what faults decide by chance.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mpio-target: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    // Before the threads start, so that they inherit the mask and only `wait` takes the signals.
    signals.thread_block().map_err(|error| format!("cannot block signals: {error}"))?;
    let rules = rules(arguments)?;
    let pair = TargetPair::start(config(arguments)?).map_err(|error| error.to_string())?;
    for (i, (node, rule)) in rules.into_iter().enumerate() {
        for index in node.map_or(0..2, |index| index..index + 1) {
            pair.node(index).faults().set(&format!("flag{i}"), rule.clone());
        }
    }
    let mut out = io::stdout().lock();
    for index in 0..2 {
        let (addr, target) = (pair.node(index).addr(), &arguments.targets[index]);
        // A script that has stopped reading does not stop the target.
        let _ = writeln!(out, "{addr} {target} lun {}", arguments.lun);
    }
    let _ = out.flush();
    loop {
        let signal = signals.wait().map_err(|error| format!("waiting for a signal: {error}"))?;
        if signal != Signal::SIGHUP {
            break;
        }
        let released = pair.node(0).release() + pair.node(1).release();
        eprintln!("mpio-target: released {released} held commands");
    }
    for index in 0..2 {
        for violation in pair.node(index).counters().violations() {
            eprintln!("mpio-target: node {}: {violation}", ['a', 'b'][index]);
        }
    }
    Ok(())
}

fn config(arguments: &Arguments) -> Result<PairConfig, String> {
    let size = arguments.size.checked_mul(1 << 20).ok_or("--size is too large")?;
    let chap = arguments.chap.as_deref().map(|text| chap(arguments, text)).transpose()?;
    let digests =
        Digests { none: arguments.digests != "crc32c", crc32c: arguments.digests != "none" };
    let node = |index: usize| {
        let mut node = NodeConfig::new(&arguments.targets[index], index as u16 + 1);
        node.lun = arguments.lun;
        node.window = arguments.window.max(1);
        node.chap = chap.clone();
        node.discovery_chap = chap.clone().filter(|_| arguments.discovery_chap);
        node.abilities.alua = arguments.alua.map(|states| states[index]);
        node.abilities.alua_by = match arguments.alua_by.as_str() {
            "explicit" => 2,
            "both" => 3,
            _ => 1,
        };
        let negotiation = &mut node.negotiation;
        negotiation.header_digest = digests;
        negotiation.data_digest = digests;
        negotiation.initial_r2t = arguments.initial_r2t;
        negotiation.immediate_data = !arguments.no_immediate_data;
        negotiation.max_recv_segment = Some(arguments.max_recv_segment.clamp(512, 0xff_ffff));
        node
    };
    Ok(PairConfig {
        portals: [arguments.portals[0], arguments.portals[1]],
        nodes: [node(0), node(1)],
        size,
        block_size: arguments.block_size,
        backing: arguments.file.clone().map_or(Backing::Memory, Backing::File),
        mirrored: !arguments.not_mirrored,
        blank: arguments.blank,
        journal: match arguments.journal.as_str() {
            "all" => Scope::All,
            "changes" => Scope::Changes,
            _ => Scope::Off,
        },
        seed: arguments.seed,
        ..PairConfig::default()
    })
}

fn access_states(text: &str) -> Result<[u8; 2], String> {
    let (a, b) = text.split_once(',').ok_or("expected two states, A,B")?;
    Ok([access_state(a)?, access_state(b)?])
}

fn access_state(name: &str) -> Result<u8, String> {
    match name {
        "optimized" => Ok(0x0),
        "non-optimized" => Ok(0x1),
        "standby" => Ok(0x2),
        "unavailable" => Ok(0x3),
        "offline" => Ok(0xe),
        "transitioning" => Ok(0xf),
        _ => {
            Err("expected optimized, non-optimized, standby, unavailable, offline or transitioning"
                .to_owned())
        }
    }
}

fn chap(arguments: &Arguments, text: &str) -> Result<Chap, String> {
    let split = |text: &str| {
        let pair = text.split_once(':').map(|(user, secret)| (user.to_owned(), secret.into()));
        pair.ok_or_else(|| "a CHAP flag is written USER:SECRET".to_owned())
    };
    let (user, secret) = split(text)?;
    let mutual = arguments.mutual_chap.as_deref().map(split).transpose()?;
    Ok(Chap { user, secret, mutual, algorithms: ChapAlgorithm::ALL.to_vec() })
}

/// The rules with the node that each is for.
fn rules(arguments: &Arguments) -> Result<Vec<(Option<usize>, Rule)>, String> {
    let parse = |text: &String| {
        let (node, rule) = match text.split_once(':') {
            Some(("a", rule)) => (Some(0), rule),
            Some(("b", rule)) => (Some(1), rule),
            _ => (None, text.as_str()),
        };
        let rule = rule.parse().map_err(|error| format!("--fault {text}: {error}"))?;
        Ok((node, rule))
    };
    arguments.faults.iter().map(parse).collect()
}
