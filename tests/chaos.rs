//! A verified load while paths die and come back at random: kills, freezes, silent cuts and lost links, on both
//! sides and sometimes on both at once. No request may fail, and every byte that is read must be the one that
//! was written.
//!
//! The plan comes from a seed that is printed first. `tests/chaos --seconds N --seed S` runs it for longer, or
//! again; the test command runs a minute. The seed decides what happens when; what else the machine does in
//! between it cannot decide.
#![cfg(feature = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod harness;

use harness::daemon::{Daemon, path_of};
use harness::network::{LINKS, Network, SOURCES};
use harness::process::{Process, command};
use harness::tgtd::{PATHS, Pair};
use harness::{Scratch, assert_same_content, noise, require};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant, SystemTime};

const MIB: usize = 1024 * 1024;
const SIZE: usize = 64 * MIB;

/// What may happen to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// SIGKILL: its connections are reset, its port refuses.
    Kill,
    /// SIGSTOP: its connections stay, nothing answers, what was sent is executed later.
    Freeze,
    /// Packets are dropped both ways, nobody is told.
    Cut,
    /// The link loses its carrier.
    Unplug,
}

/// Something that happens at a time.
#[derive(Debug, Clone, Copy)]
struct Step {
    at: Duration,
    node: usize,
    fault: Fault,
    heal: bool,
}

/// Seeded choices (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % n
    }

    fn between(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(least_ms + self.below(most_ms - least_ms))
    }
}

/// Faults of both nodes, each by itself, until `seconds`; everything begun is healed.
fn plan(seed: u64, seconds: u64) -> Vec<Step> {
    // The first values of a small seed are small; mixing makes neighbours unlike.
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut steps = Vec::new();
    for node in 0..2 {
        let mut now = dice.between(500, 3000);
        while now < Duration::from_secs(seconds) {
            let fault = [Fault::Kill, Fault::Freeze, Fault::Cut, Fault::Unplug]
                [usize::try_from(dice.below(4)).unwrap()];
            // Mostly long enough to be noticed, sometimes a blink.
            let lasts =
                if dice.below(4) == 0 { dice.between(20, 500) } else { dice.between(1000, 5000) };
            steps.push(Step { at: now, node, fault, heal: false });
            steps.push(Step { at: now + lasts, node, fault, heal: true });
            now += lasts + dice.between(1000, 8000);
        }
    }
    steps.sort_by_key(|step| step.at);
    steps
}

fn carry_out(step: Step, network: &Network, pair: &mut Pair<'_>) {
    let (node, netns) = (&mut pair.nodes[step.node], &network.nodes[step.node]);
    match (step.fault, step.heal) {
        (Fault::Kill, false) => node.kill(),
        (Fault::Kill, true) => node.restart(),
        (Fault::Freeze, false) => node.freeze(),
        (Fault::Freeze, true) => node.thaw(),
        (Fault::Cut, false) => netns.cut_silently(),
        (Fault::Cut, true) => netns.heal(),
        (Fault::Unplug, heal) => network.host.set_link(LINKS[step.node], heal),
    }
}

/// Writers with blocks of their own that read back what they have written, as they go.
fn load(uri: &str, seconds: u64, seed: u64, scratch: &Scratch) -> Process {
    let limit = (seconds + 90).to_string();
    let mut fio = command(None, "timeout");
    // For fio's own droppings.
    fio.current_dir(scratch.path(""));
    fio.args([&limit, "fio", "--ioengine=nbd", &format!("--uri={uri}")]);
    // Small writes travel with their data, and are what a frozen target can still execute; a long backlog keeps
    // many blocks between their write and their check. fio compares the number of the write only where all are
    // of one size and the run is not `time_based`: otherwise every old block that is sound in itself would do.
    fio.args(["--rw=randwrite", "--bs=4k", "--iodepth=16", "--loops=1000000"]);
    fio.args(["--verify=crc32c", "--verify_state_save=0", "--verify_backlog=1024"]);
    fio.args(["--verify_fatal=1", &format!("--runtime={seconds}")]);
    fio.args([&format!("--randseed={}", seed % 1_000_000), "--eta=never", "--size=24M"]);
    fio.args(["--name=low", "--offset=0", "--name=high", "--offset=32M"]);
    // Overwritten several times a second: what a path does late finds something newer, not checked yet.
    fio.args(["--name=hot", "--offset=60M", "--size=2M", "--verify_backlog=384"]);
    Process::start("fio", fio, &scratch.path("fio.log"))
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: expected a number")))
}

#[test]
fn a_verified_load_survives_random_faults() {
    require(&["fio", "nbdcopy"]);
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = from_environment("MPIO_CHAOS_SEED").unwrap_or(u64::from(clock.subsec_nanos()));
    let seconds = from_environment("MPIO_CHAOS_SECONDS").unwrap_or(60);
    eprintln!(
        "chaos: seed {seed}, {seconds} s; again: tests/chaos --seconds {seconds} --seed {seed}"
    );

    let network = Network::new();
    let scratch = Scratch::new("chaos");
    let mut pair = network.pair(&scratch, SIZE);
    let fence = std::env::var("MPIO_CHAOS_FENCE").unwrap_or("overlap".to_owned());
    let device = format!("policy = \"round-robin\"\nfence = \"{fence}\"");
    let config = pair.config(&scratch, SOURCES, &device);
    let mut daemon = Daemon::start(&scratch, Some(&network.host), &config);
    let mut fio = load(&daemon.uri(), seconds, seed, &scratch);
    let began = Instant::now();
    let steps = plan(seed, seconds.saturating_sub(2));
    for step in &steps {
        std::thread::sleep((began + step.at).saturating_duration_since(Instant::now()));
        eprintln!(
            "chaos: {:6.2} s  {} {:?} of {}",
            began.elapsed().as_secs_f64(),
            if step.heal { "end of" } else { "begin" },
            step.fault,
            PATHS[step.node]
        );
        carry_out(*step, &network, &mut pair);
        fio.assert_running_or_done();
        daemon.assert_running();
    }
    for path in PATHS {
        daemon.wait_until_active(path);
    }
    let status = fio.wait_for_exit(Duration::from_secs(90));
    assert!(status.success(), "seed {seed}: fio ended with {status}:\n{}", fio.output());

    let status = daemon.status();
    let device = &status["devices"][0];
    assert_eq!(device["errors"], 0, "seed {seed}: {device}");
    assert_eq!(device["held_writes"], 0, "seed {seed}: {device}");
    eprintln!(
        "chaos: {} faults, fences {}, {} reads, {} writes, failures {:?}",
        steps.len() / 2,
        device["fences"],
        device["reads"],
        device["writes"],
        PATHS.map(|path| path_of(&status, path)["failures"].as_u64().unwrap_or(0))
    );
    // Seen from above and on the medium, every byte is the same.
    let copy = scratch.path("copy.img");
    harness::process::succeed("nbdcopy", &[&daemon.uri(), &copy.to_string_lossy()]);
    assert_same_content(&copy, &pair.backing);
    daemon.stop();
}

/// The load can tell an old block from the last one that it wrote, both being sound: without any other fault, a
/// piece of the medium is put back to what it held some seconds ago.
#[test]
fn the_load_finds_an_old_write() {
    require(&["fio", "tgtd"]);
    let scratch = Scratch::new("chaos-old");
    let pair = Pair::start(&scratch, &noise(SIZE, 3));
    let config = pair.config(&scratch, ["127.0.0.21", "127.0.0.22"], "");
    let daemon = Daemon::start(&scratch, None, &config);
    let mut fio = load(&daemon.uri(), 12, 1, &scratch);
    std::thread::sleep(Duration::from_secs(4));
    let medium = std::fs::File::options().read(true).write(true).open(&pair.backing).unwrap();
    let mut old = vec![0; 4 * MIB];
    medium.read_exact_at(&mut old, 0).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    medium.write_all_at(&old, 0).unwrap();
    let status = fio.wait_for_exit(Duration::from_secs(60));
    assert!(!status.success(), "fio took old blocks for the last ones");
    let said = fio.output();
    assert!(said.contains("verify"), "fio failed for another reason:\n{said}");
    daemon.stop();
}

#[test]
fn a_seed_is_a_plan() {
    let again = |seed| format!("{:?}", plan(seed, 60));
    assert_eq!(again(7), again(7));
    assert_ne!(again(7), again(8));
    let steps = plan(7, 600);
    let begun = steps.iter().filter(|step| !step.heal).count();
    assert_eq!(begun * 2, steps.len(), "everything begun is healed");
    for fault in [Fault::Kill, Fault::Freeze, Fault::Cut, Fault::Unplug] {
        for node in 0..2 {
            assert!(steps.iter().any(|step| step.fault == fault && step.node == node), "{fault:?}");
        }
    }
}
