//! The stale write, for real: W1 gets stuck on path A, is repeated and acknowledged on B, the client overwrites
//! the block with W2, A comes back to life with W1 still in its hands. The block must hold W2.
//!
//! Four ways to make the zombie: a stopped `tgtd` with W1 in its socket; packets held back on their way to a
//! healthy `tgtd`, everything late, or the new login overtaking the old connection's bytes; and the embedded
//! target with a disk that hangs, task management that is not answered and logins that are refused. mpio holds
//! W2 until there is proof, so W2 is in flight while A is dead.
//!
//! Each way does three rounds here. `tests/zombies-20` does twenty and shows as well that the very same rounds
//! corrupt the block when write ownership is off.
#![cfg(feature = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod harness;
#[path = "lane/client.rs"]
mod nbd_client;

use harness::daemon::Daemon;
use harness::embedded::{Embedded, initiator_name};
use harness::forwarder::{Fate, Forwarder, PASS};
use harness::tgtd::{PATHS, Pair, TARGETS};
use harness::{Scratch, noise, require};
use mpio::base::Payload;
use mpio::export::client::Op;
use mpio_target::config::PairConfig;
use mpio_target::faults::{Commands, Fault, Rule};
use mpio_target::store::Backing;
use nbd_client::NbdClient;
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MIB: usize = 1024 * 1024;
const BLOCK: usize = 4096;

/// Rounds per daemon: a path that fails five times within a minute is kept out for longer, and that is not
/// what is looked at here.
const ROUNDS_PER_DAEMON: usize = 3;

/// Rounds of `tests/zombies-20`.
const ROUNDS_BY_HAND: usize = 20;

/// A way to make path A a zombie and to wake it up again.
trait Stuck {
    /// Begins a round: what A is sent from now on does not reach the medium, and A does not answer.
    fn stick(&self);
    /// A lives again and does what it was told before.
    fn wake(&self);
    /// W2 was answered: whatever can still come late comes now.
    fn settle(&self) {}
    /// The file behind both targets.
    fn medium(&self) -> PathBuf;
    /// A configuration for the daemon, with these lines for the device.
    fn config(&self, device: &str) -> String;
    /// Files of this test.
    fn scratch(&self) -> &Scratch;
}

/// `tgtd` is stopped: W1 lies in its socket.
struct Frozen {
    scratch: Scratch,
    pair: Pair<'static>,
}

impl Frozen {
    fn new() -> Frozen {
        let scratch = Scratch::new("zombie-frozen");
        let pair = Pair::start(&scratch, &noise(16 * MIB, 1));
        Frozen { scratch, pair }
    }
}

impl Stuck for Frozen {
    fn stick(&self) {
        self.pair.nodes[0].freeze();
    }
    fn wake(&self) {
        self.pair.nodes[0].thaw();
    }
    fn medium(&self) -> PathBuf {
        self.pair.backing.clone()
    }
    fn config(&self, device: &str) -> String {
        self.pair.config(&self.scratch, ["127.0.0.21", "127.0.0.22"], device)
    }
    fn scratch(&self) -> &Scratch {
        &self.scratch
    }
}

/// The packets to A are late; `tgtd` is well.
struct Late {
    below: Frozen,
    forwarder: Forwarder,
    /// New connections are not: the login overtakes what was sent before it.
    login_first: bool,
}

impl Late {
    fn new(login_first: bool) -> Late {
        let below = Frozen::new();
        let forwarder = Forwarder::start("127.0.0.31", &below.pair.nodes[0].portal);
        Late { below, forwarder, login_first }
    }
}

impl Stuck for Late {
    fn stick(&self) {
        self.forwarder.present(Fate::Hold);
        // A login that is to overtake must not be late itself: it is let through in `wake`.
        self.forwarder.future(if self.login_first { Fate::Refuse } else { Fate::Hold });
    }
    fn wake(&self) {
        assert!(self.forwarder.waiting() > BLOCK, "W1 is not on its way to A");
        if self.login_first {
            self.forwarder.future(PASS);
        } else {
            self.forwarder.all(PASS);
        }
    }
    fn settle(&self) {
        self.forwarder.all(PASS);
    }
    fn medium(&self) -> PathBuf {
        self.below.medium()
    }
    fn config(&self, device: &str) -> String {
        // What a target says of its own address is not the forwarder's, so A is not asked.
        let portal = |name: &str, address: &str, source: &str, target: &str| {
            format!(
                "[[portal]]\nname = \"{name}\"\naddress = \"{address}\"\nsource = \"{source}\"\n\
                 discovery = false\ntargets = [\"{target}\"]\n\n"
            )
        };
        let pair = &self.below.pair;
        format!(
            "[initiator]\nname = \"{}\"\n\n{}{}[[device]]\nname = \"vm0\"\ntargets = [\"{}\", \"{}\"]\n\
             lun = 1\nexport = \"unix:{}\"\n{device}\n",
            initiator_name(),
            portal("a", &self.forwarder.address.to_string(), "127.0.0.21", TARGETS[0]),
            portal("b", &pair.nodes[1].portal, "127.0.0.22", TARGETS[1]),
            TARGETS[0],
            TARGETS[1],
            self.below.scratch.path("vm0.sock").display(),
        )
    }
    fn scratch(&self) -> &Scratch {
        &self.below.scratch
    }
}

/// The embedded target's disk hangs; what is held outlives the session, as was measured of real targets.
struct Hung {
    pair: Embedded,
    medium: PathBuf,
}

impl Hung {
    fn new() -> Hung {
        let scratch = Scratch::new("zombie-medium");
        let medium = scratch.file("lun.img", noise(16 * MIB, 1));
        let mut config = PairConfig {
            size: 16 * MIB as u64,
            backing: Backing::File(medium.clone()),
            ..PairConfig::default()
        };
        config.nodes[0].reinstatement_aborts = false;
        let mut pair = Embedded::with("zombie-hung", config);
        pair.scratch = scratch;
        Hung { pair, medium }
    }
}

impl Stuck for Hung {
    fn stick(&self) {
        let faults = self.pair.pair.node(0).faults();
        faults.set("disk", Rule::new(Fault::Hold).on(Commands::Writes));
        faults.set("management", Rule::new(Fault::TaskManagementMute));
        faults.set("login", Rule::new(Fault::Refuse));
    }
    fn wake(&self) {
        // The disk is the last to come back: what is not ended by then is executed then.
        let node = self.pair.pair.node(0);
        assert!(node.with(|node, _| node.held()).unwrap() > 0, "W1 is not in A's disk");
        node.faults().clear();
    }
    fn settle(&self) {
        self.pair.pair.node(0).release();
    }
    fn medium(&self) -> PathBuf {
        self.medium.clone()
    }
    fn config(&self, device: &str) -> String {
        self.pair.config(device)
    }
    fn scratch(&self) -> &Scratch {
        &self.pair.scratch
    }
}

/// What the block held when everything had settled.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Right,
    Stale,
}

fn block_of(medium: &Path, offset: u64) -> Vec<u8> {
    let mut held = vec![0; BLOCK];
    std::fs::File::open(medium).unwrap().read_exact_at(&mut held, offset).unwrap();
    held
}

fn write(client: &mut NbdClient, offset: u64, data: &[u8]) -> u64 {
    client.start(Op::Write { offset, data: Payload::from(data.to_vec()), fua: false })
}

fn number(status: &Value, pointer: &str) -> u64 {
    status["devices"][0].pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// One round: the story of the header, with what can be known at each step. `fenced` says what to expect.
fn round(
    way: &dyn Stuck,
    daemon: &mut Daemon,
    client: &mut NbdClient,
    number_of: usize,
    fenced: bool,
) -> Outcome {
    let offset = (1 + number_of) as u64 * MIB as u64;
    let [w0, w1, w2] = [10, 11, 12].map(|seed| noise(BLOCK, (number_of * 100 + seed) as u64));
    daemon.wait_until_active(PATHS[0]);
    client.write(offset, &w0).unwrap();
    assert_eq!(block_of(&way.medium(), offset), w0, "W0 is acknowledged");

    way.stick();
    let first = write(client, offset, &w1);
    client.finish(first).unwrap();
    assert_eq!(block_of(&way.medium(), offset), w1, "W1 is acknowledged, so B has it");
    let before = daemon.status();
    let second = write(client, offset, &w2);
    if fenced {
        daemon.wait("W2 held", |status| number(status, "/held_writes") > 0);
        assert_eq!(block_of(&way.medium(), offset), w1, "W2 went out while W1 was in doubt");
        way.wake();
    }
    client.finish(second).unwrap();
    if !fenced {
        assert_eq!(block_of(&way.medium(), offset), w2, "W2 is acknowledged");
        way.wake();
    }
    way.settle();

    let after = daemon.wait_until_active(PATHS[0]);
    if fenced {
        assert!(
            number(&after, "/fences/proven") > number(&before, "/fences/proven"),
            "released without a proof: {}",
            after["devices"][0]["fences"]
        );
    }
    // Bytes that are late by now are not W1's: a read over the path that carried it comes after them.
    std::thread::sleep(Duration::from_millis(300));
    let through_mpio = client.read(offset, BLOCK as u32).unwrap();
    let held = block_of(&way.medium(), offset);
    assert_eq!(held, through_mpio, "mpio reads what is there");
    if held == w2 {
        return Outcome::Right;
    }
    assert_eq!(held, w1, "the block holds neither W1 nor W2");
    Outcome::Stale
}

/// `rounds` of them; how many left the old write behind.
fn stale_rounds(make: &dyn Fn() -> Box<dyn Stuck>, rounds: usize, device: &str) -> usize {
    require(&["tgtd", "tgtadm", "setpriv", "timeout"]);
    let fenced = !device.contains("fence = \"off\"");
    let device = format!("policy = \"failover\"\nprefer = \"{}\"\n{device}", PATHS[0]);
    let mut stale = 0;
    for from in (0..rounds).step_by(ROUNDS_PER_DAEMON) {
        let way = make();
        let mut daemon = Daemon::start(way.scratch(), None, &way.config(&device));
        let mut client = NbdClient::open(UnixStream::connect(daemon.export()).unwrap(), "vm0");
        for index in from..rounds.min(from + ROUNDS_PER_DAEMON) {
            let outcome = round(way.as_ref(), &mut daemon, &mut client, index - from, fenced);
            eprintln!("round {index}: {outcome:?}");
            stale += usize::from(outcome == Outcome::Stale);
        }
        drop(client);
        daemon.stop();
    }
    stale
}

fn frozen() -> Box<dyn Stuck> {
    Box::new(Frozen::new())
}

fn late() -> Box<dyn Stuck> {
    Box::new(Late::new(false))
}

fn login_first() -> Box<dyn Stuck> {
    Box::new(Late::new(true))
}

fn hung() -> Box<dyn Stuck> {
    Box::new(Hung::new())
}

/// How a write comes to be stuck.
type Way = fn() -> Box<dyn Stuck>;

/// The ways, for people.
const WAYS: [(&str, Way); 4] = [
    ("tgtd stopped (SIGSTOP), W1 in its socket", frozen),
    ("packets to tgtd late, new logins too", late),
    ("packets to tgtd late, the new login first", login_first),
    ("the embedded target's disk hangs", hung),
];

/// Write ownership off: the very same rounds must corrupt the block, or they prove nothing.
const OFF: &str = "fence = \"off\"";

/// Write ownership: a target process that was stopped, and goes on.
#[test]
fn a_thawed_tgtd_changes_nothing() {
    assert_eq!(stale_rounds(&frozen, 3, ""), 0);
}

/// Everything that was sent to A arrives late, the resets of its connections included.
#[test]
fn delayed_packets_change_nothing() {
    assert_eq!(stale_rounds(&late, 3, ""), 0);
}

/// The order in which two connections' bytes arrive proves nothing: here the new login comes first.
#[test]
fn a_login_that_overtakes_the_old_bytes_changes_nothing() {
    assert_eq!(stale_rounds(&login_first, 3, ""), 0);
}

/// A disk that hangs and executes what it held after everything else is well again.
#[test]
fn a_disk_that_wakes_up_changes_nothing() {
    assert_eq!(stale_rounds(&hung, 3, ""), 0);
}

/// The tests above can fail.
#[test]
fn without_write_ownership_the_same_rounds_corrupt() {
    for (what, make) in WAYS {
        assert!(stale_rounds(&make, 1, OFF) > 0, "{what}: nothing went stale");
    }
}

#[test]
#[ignore = "twenty rounds each way take minutes; run it by tests/zombies-20"]
fn twenty_rounds_each_way() {
    let mut wrong = Vec::new();
    println!(
        "| A was a zombie because | fence = overlap: stale | fence = off: stale |\n|---|---|---|"
    );
    for (what, make) in WAYS {
        let [fenced, off] = ["", OFF].map(|device| stale_rounds(&make, ROUNDS_BY_HAND, device));
        println!("| {what} | {fenced} of {ROUNDS_BY_HAND} | {off} of {ROUNDS_BY_HAND} |");
        if fenced > 0 || off == 0 {
            wrong.push(what);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
