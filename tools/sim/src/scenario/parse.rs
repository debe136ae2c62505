//! Text to scenario.

use super::{AdminVerb, Ask, Cells, Expect, NodeVerb, Scenario, Step, Trouble};
use crate::load::Kind;
use crate::net::{Net, ways};
use crate::world::Setup;
use mpio::base::Duration;
use mpio::path::State;
use mpio::volume::tunables::find;
use mpio_target::faults::Commands;
use mpio_target::wire::scsi::AccessState;
use mpio_target::{Fault, Rule};

/// How long `expect` waits unless it says `within`.
const PATIENCE: Duration = Duration::from_secs(120);

/// Reads a scenario.
///
/// # Errors
/// The first statement that says nothing, with its line.
pub fn parse(text: &str) -> Result<Scenario, Trouble> {
    let mut setup = Setup::default();
    setup.pair.size = 2 << 20;
    for node in &mut setup.pair.nodes {
        node.reinstatement_aborts = false;
    }
    let mut steps: Vec<(usize, Step)> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        for statement in line.split(';') {
            let words: Vec<&str> = statement.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                ["setup", rest @ ..] if steps.is_empty() => set(&mut setup, rest)
                    .ok_or_else(|| Trouble::new(number, format!("no such setup: {statement}")))?,
                ["setup", ..] => {
                    return Err(Trouble::new(number, "`setup` comes before everything else"));
                }
                words => {
                    let step = step(words).ok_or_else(|| {
                        Trouble::new(number, format!("says nothing: {statement}"))
                    })?;
                    steps.push((number, step));
                }
            }
        }
    }
    if steps.is_empty() {
        return Err(Trouble::new(0, "nothing happens"));
    }
    Ok(Scenario { setup, steps })
}

/// One line of the setup.
fn set(setup: &mut Setup, words: &[&str]) -> Option<()> {
    match words {
        ["paths", nodes @ ..] if (1..=8).contains(&nodes.len()) => {
            let nodes: Option<Vec<usize>> = nodes.iter().map(|node| self::node(node)).collect();
            setup.portals = ways(&nodes?);
        }
        ["lanes", lanes] => {
            setup.lanes = lanes.parse().ok().filter(|lanes| (1..=4).contains(lanes))?
        }
        ["policy", policy] => setup.policy = policy.parse().ok()?,
        ["target", "aborts"] => {
            setup.pair.nodes.iter_mut().for_each(|node| node.reinstatement_aborts = true);
        }
        ["alua"] => {
            for (node, state) in setup.pair.nodes.iter_mut().zip([0, 1]) {
                node.abilities.alua = Some(state);
            }
        }
        ["shared"] => setup.tunables.shared = true,
        ["wwid"] => setup.wwid = Some("naa.6000000102030405060708090a0b0c0d".to_owned()),
        [key, value] => find(key)?.set(&mut setup.tunables, value).ok()?,
        _ => return None,
    }
    Some(())
}

fn step(words: &[&str]) -> Option<Step> {
    Some(match words {
        ["wait", time] => Step::Wait(duration(time)?),
        ["client", name] => Step::Client((*name).to_owned(), 0),
        ["client", name, "lane", lane] => Step::Client((*name).to_owned(), lane.parse().ok()?),
        ["vanish", name] => Step::Vanish((*name).to_owned()),
        ["heal"] => Step::Heal,
        ["kill", "daemon"] => Step::Daemon(false),
        ["start", "daemon"] => Step::Daemon(true),
        ["stall", at] => Step::Stall(path(at)?, true),
        ["silence", at] => Step::Net(path(at)?, Net::Silent),
        ["deaf", at] => Step::Net(path(at)?, Net::NothingThere),
        ["mute", at] => Step::Net(path(at)?, Net::NothingBack),
        ["refuse", at] => Step::Net(path(at)?, Net::Refuses),
        ["restore", at] => Step::Net(path(at)?, Net::Works),
        ["delay", at, time] => Step::Delay(path(at)?, duration(time)?),
        ["disable", at] => Step::Path(path(at)?, AdminVerb::Disable),
        ["enable", at] => Step::Path(path(at)?, AdminVerb::Enable),
        ["recheck", at] => Step::Path(path(at)?, AdminVerb::Recheck),
        ["prefer", at] => Step::Path(path(at)?, AdminVerb::Prefer),
        ["thaw", at] => match path(at) {
            Some(path) => Step::Stall(path, false),
            None => Step::Rule(node(at)?, "freeze", None),
        },
        ["freeze", at] => Step::Rule(node(at)?, "freeze", Some(Rule::new(Fault::Freeze))),
        ["hang", at] => hang(node(at)?, Commands::Medium),
        ["hang", at, "writes"] => hang(node(at)?, Commands::Writes),
        ["hang", at, "reads"] => hang(node(at)?, Commands::Reads),
        ["go", "on", at] => Step::Rule(node(at)?, "hang", None),
        ["ignore", "tasks", at] => {
            Step::Rule(node(at)?, "tasks", Some(Rule::new(Fault::TaskManagementMute)))
        }
        ["refuse", "tasks", at] => {
            Step::Rule(node(at)?, "tasks", Some(Rule::new(Fault::TaskManagementAnswer(5))))
        }
        ["answer", "tasks", at] => Step::Rule(node(at)?, "tasks", None),
        ["unsync", at] => Step::Synchronized(node(at)?, false),
        ["sync", at] => Step::Synchronized(node(at)?, true),
        ["access", first, second] => Step::Access([access(first)?, access(second)?]),
        ["show", "look-alike", at] => Step::LookAlike(path(at)?, true),
        ["hide", "look-alike", at] => Step::LookAlike(path(at)?, false),
        ["expect", rest @ ..] => Step::Expect(expect(rest)?),
        [verb, at] if node(at).is_some() => Step::Node(node(at)?, node_verb(verb)?),
        ["begin", rest @ ..] => ask(rest, true)?,
        rest => ask(rest, false)?,
    })
}

fn hang(node: usize, commands: Commands) -> Step {
    Step::Rule(node, "hang", Some(Rule::new(Fault::Hold).on(commands)))
}

fn node_verb(verb: &str) -> Option<NodeVerb> {
    Some(match verb {
        "kill" => NodeVerb::Kill,
        "power-cut" => NodeVerb::PowerCut,
        "start" => NodeVerb::Start,
        "swap" => NodeVerb::Swap,
        "release" => NodeVerb::Release,
        "forget" => NodeVerb::Forget,
        "reset" => NodeVerb::Reset,
        "log-out" => NodeVerb::LogOut,
        _ => return None,
    })
}

fn ask(words: &[&str], begin: bool) -> Option<Step> {
    let (verb, mut rest) = words.split_first()?;
    let write = |fua| Kind::Write { fua, checksum: 0 };
    let kind = match *verb {
        "write" | "overwrite" => write(false),
        "write-fua" => write(true),
        "read" => Kind::Read,
        "zero" => Kind::Zero { hole: false },
        "trim" => Kind::Trim,
        "flush" => Kind::Flush,
        _ => return None,
    };
    let mut ask = Ask { client: "c".to_owned(), kind, cells: None, name: None, begin };
    if !matches!(*verb, "flush" | "overwrite") {
        let (first, more) = rest.split_first()?;
        ask.cells = Some(cells(first)?);
        rest = more;
    }
    loop {
        match rest {
            [] => return Some(Step::Ask(ask)),
            ["as", name, more @ ..] => (ask.name, rest) = (Some((*name).to_owned()), more),
            ["by", name, more @ ..] => (ask.client, rest) = ((*name).to_owned(), more),
            _ => return None,
        }
    }
}

fn expect(words: &[&str]) -> Option<Expect> {
    let (words, within) = match words {
        [rest @ .., "within", time] => (rest, duration(time)?),
        words => (words, PATIENCE),
    };
    Some(match words {
        ["stale"] => Expect::Stale,
        ["answered", name] => Expect::Answered((*name).to_owned(), within),
        ["open", name] => Expect::Open((*name).to_owned()),
        ["refused", name] => Expect::Refused((*name).to_owned()),
        ["read", range, "=", "zeros"] => Expect::Reads(cells(range)?, None),
        ["read", range, "=", name] => Expect::Reads(cells(range)?, Some((*name).to_owned())),
        ["fences", what, count] => {
            let known = ["taken", "waiting", "pending", "proven", "unproven", "watched"];
            let what = known.into_iter().find(|known| known == what)?;
            Expect::Fences(what, count.parse().ok()?)
        }
        ["executed", at, opcode, count] => {
            let opcode = u8::from_str_radix(opcode, 16).ok()?;
            Expect::Executed(node(at)?, opcode, count.parse().ok()?)
        }
        ["held", at, count] => Expect::Held(node(at)?, count.parse().ok()?),
        ["told", what @ .., count] => Expect::Told(what.join(" "), count.parse().ok()?),
        [state, at] => {
            let state = State::ALL.into_iter().find(|known| known.name() == *state)?;
            Expect::State(path(at)?, state, within)
        }
        _ => return None,
    })
}

/// Paths are letters, in order of their portals.
fn path(word: &str) -> Option<usize> {
    match word.as_bytes() {
        [letter @ b'A'..=b'H'] => Some(usize::from(letter - b'A')),
        _ => None,
    }
}

/// Nodes are numbers.
fn node(word: &str) -> Option<usize> {
    match word {
        "0" => Some(0),
        "1" => Some(1),
        _ => None,
    }
}

fn access(word: &str) -> Option<AccessState> {
    use AccessState::{
        ActiveNonOptimized, ActiveOptimized, Offline, Standby, Transitioning, Unavailable,
    };
    let all = [ActiveOptimized, ActiveNonOptimized, Standby, Unavailable, Offline, Transitioning];
    all.into_iter().find(|state| state.to_string() == word)
}

fn cells(word: &str) -> Option<Cells> {
    let (first, end) = word.split_once("..")?;
    let cells: Cells = (first.parse().ok()?, end.parse().ok()?);
    (cells.0 < cells.1 && cells.1 <= 4096).then_some(cells)
}

fn duration(word: &str) -> Option<Duration> {
    let unit = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 =
        word[..word.len() - unit.len()].parse().ok().or((word == "never").then_some(0))?;
    Some(match unit {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "never" => Duration::MAX,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_steps() {
        let text =
            "setup policy failover\nstall A; begin write 0..8 as w1 # held back\nthaw A\nwait 3s";
        let scenario = parse(text).map_err(|trouble| trouble.what).expect("a scenario");
        let lines: Vec<usize> = scenario.steps.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 2, 3, 4]);
        assert_eq!(scenario.steps[0].1, Step::Stall(0, true));
        let ask = Ask {
            client: "c".to_owned(),
            kind: Kind::Write { fua: false, checksum: 0 },
            cells: Some((0, 8)),
            name: Some("w1".to_owned()),
            begin: true,
        };
        assert_eq!(scenario.steps[1].1, Step::Ask(ask));
        assert_eq!(scenario.steps[3].1, Step::Wait(Duration::from_secs(3)));
    }

    #[test]
    fn what_says_nothing_is_named_with_its_line() {
        for (text, line, what) in [
            ("\nwait", 2, "wait"),
            ("wait 3x", 1, "wait 3x"),
            ("write 8..8", 1, "write"),
            ("write 0..8 as", 1, "write"),
            ("kill 2", 1, "kill 2"),
            ("stall Z", 1, "stall Z"),
            ("expect nothing A", 1, "nothing"),
            ("wait 1s\nsetup lanes 2", 2, "before"),
            ("setup lanes 9", 1, "lanes 9"),
            ("# only words", 0, "nothing happens"),
        ] {
            let trouble = parse(text).err().unwrap_or_else(|| panic!("{text} was taken"));
            assert_eq!(trouble.line, line, "{text}: {}", trouble.what);
            assert!(trouble.what.contains(what), "{text}: {}", trouble.what);
        }
    }
}
