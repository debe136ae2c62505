//! Paths that owe answers: suspicion, the commands that are left behind, deadlines, and how long clients wait.
//! Every time here is virtual.

use super::wire::Net;
use super::world::{Setup, World, pattern};
use crate::base::{Duration, Instant};
use crate::path::{FenceMode, Policy, State};
use crate::volume::spec::Tunables;
use mpio_target::faults::Commands;
use mpio_target::{Fault, Rule};

const MS: fn(u64) -> Duration = Duration::from_millis;
const READ_10: u8 = 0x28;
const WRITE_10: u8 = 0x2a;

/// Requests of one block, each block used once, so many at a time.
struct Load {
    client: usize,
    writes: bool,
    next: u64,
    open: Vec<(u64, Instant)>,
    longest: Duration,
    count: u64,
}

impl Load {
    fn new(client: usize, writes: bool) -> Load {
        let next = if writes { 1 << 14 } else { 0 };
        Load { client, writes, next, open: Vec::new(), longest: Duration::ZERO, count: 0 }
    }

    fn start(&mut self, w: &mut World) {
        let at = self.next % (1 << 16) * 512;
        self.next += 1;
        let token = match self.writes {
            true => w.start_write(self.client, at, pattern(self.next, 512)),
            false => w.start_read(self.client, at, 512),
        };
        self.open.push((token, w.now));
    }

    /// Keeps `depth` requests open for `time`, then waits for the last ones.
    fn run(&mut self, w: &mut World, depth: usize, time: Duration) {
        let end = w.now + time;
        while w.now < end || !self.open.is_empty() {
            while w.now < end && self.open.len() < depth {
                self.start(w);
            }
            let (client, open) = (self.client, &self.open);
            w.until("an answer", |w| open.iter().any(|(token, _)| w.is_done(client, *token)));
            let done: Vec<_> = self.open.extract_if(.., |(t, _)| w.is_done(client, *t)).collect();
            for (token, from) in done {
                w.answer(client, token).expect("no error");
                self.longest = self.longest.max(w.now - from);
                self.count += 1;
            }
        }
    }
}

/// A world whose paths know how long an answer takes.
fn warm(setup: Setup) -> (World, usize) {
    let mut w = World::new(setup);
    let c = w.client();
    Load::new(c, false).run(&mut w, 4, MS(20));
    (w, c)
}

/// The longest that a request waits while `fault` strikes path 0 in the middle of a load.
fn longest(writes: bool, fault: impl Fn(&mut World)) -> (World, Duration) {
    let (mut w, c) = warm(Setup::default());
    let mut load = Load::new(c, writes);
    load.run(&mut w, 32, MS(20));
    assert!(load.longest < MS(5), "{:?}", load.longest);
    (0..32).for_each(|_| load.start(&mut w));
    w.run(Duration::from_micros(50));
    fault(&mut w);
    load.run(&mut w, 32, MS(100));
    let longest = load.longest;
    (w, longest)
}

fn hang(w: &mut World) {
    w.faults(0).set("hang", Rule::new(Fault::Hold).on(Commands::Medium));
}

fn silent(w: &mut World) {
    w.portals[0].net = Net::Silent;
}

fn frozen(w: &mut World) {
    w.faults(0).set("frozen", Rule::new(Fault::Freeze));
}

fn heal(mut w: World) {
    w.faults(0).clear();
    let now = super::world::theirs(w.now);
    w.node(0).release(now);
    w.portals[0].net = Net::Works;
    w.until_active();
    w.finish();
}

#[test]
fn reads_of_a_silent_path_wait_less_than_100_ms() {
    for fault in [silent, frozen] {
        let (w, longest) = longest(false, fault);
        assert!(longest < MS(100), "{longest:?}\n{}", w.story());
        assert!(w.log.iter().any(|n| n.what == "suspect"), "{}", w.story());
        heal(w);
    }
}

#[test]
fn writes_of_a_silent_path_wait_for_path_timeout() {
    for fault in [silent, frozen] {
        let (w, longest) = longest(true, fault);
        assert!(longest > MS(900) && longest < MS(1250), "{longest:?}\n{}", w.story());
        heal(w);
    }
}

/// Pings are answered, and so is TEST UNIT READY.
#[test]
fn reads_of_a_hung_unit_wait_less_than_250_ms() {
    let (w, longest) = longest(false, hang);
    assert!(longest < MS(250), "{longest:?}\n{}", w.story());
    assert_eq!((w.state(0), w.failures(0)), (State::Suspect, 0), "the session is kept");
    heal(w);
}

#[test]
fn writes_of_a_hung_unit_wait_for_command_timeout() {
    let (w, longest) = longest(true, hang);
    assert!(longest > MS(1900) && longest < MS(2500), "{longest:?}\n{}", w.story());
    assert_eq!(w.failures(0), 0, "the session is kept");
    heal(w);
}
