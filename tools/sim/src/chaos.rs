//! What goes wrong in a run: which kinds of faults, how often, and when each heals.

use crate::dice::Dice;
use crate::net::Net;
use crate::plan;
use crate::world::{World, theirs};
use mpio::base::{Duration, Instant};
use mpio::volume::spec::Tunables;
use mpio_target::faults::{Commands, SenseCode};
use mpio_target::wire::scsi::AccessState;
use mpio_target::{Fault, Rule};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strike {
    Silence,
    OneWay,
    Refuse,
    Slow,
    /// Bytes of the connections of now wait in the network.
    Stall,
    Kill,
    PowerCut,
    Freeze,
    /// The disk hangs while pings are answered.
    HangDisk,
    /// Commands are executed late.
    Late,
    /// Executed, never answered.
    Mute,
    Cut,
    /// The target resets its connections and goes on with what it holds.
    Reset,
    Status,
    Sense,
    Attention,
    Async,
    NotReady,
    LoginRefused,
    Window,
    ManagementMute,
    SwapUnit,
    /// The storage changes how it serves its nodes' ports (ALUA).
    Access,
    /// Another unit of the same names appears behind a portal.
    LookAlike,
    /// An administrator.
    Admin,
}

/// All but those that the rest of the plan has to know: [`Mischief::change_access`],
/// [`Mischief::show_look_alike`].
const ALL: [Strike; 23] = [
    Strike::Silence,
    Strike::OneWay,
    Strike::Refuse,
    Strike::Slow,
    Strike::Stall,
    Strike::Kill,
    Strike::PowerCut,
    Strike::Freeze,
    Strike::HangDisk,
    Strike::Late,
    Strike::Mute,
    Strike::Cut,
    Strike::Reset,
    Strike::Status,
    Strike::Sense,
    Strike::Attention,
    Strike::Async,
    Strike::NotReady,
    Strike::LoginRefused,
    Strike::Window,
    Strike::ManagementMute,
    Strike::SwapUnit,
    Strike::Admin,
];

/// What heals later.
#[derive(Debug, Clone)]
enum Heal {
    Net(usize),
    Delay(usize),
    Unstall(usize),
    Start(usize),
    Rule(usize, &'static str),
    /// The disk goes on: what it held is executed, or forgotten.
    Disk(usize, bool),
    Enable(usize),
    Access,
    Synchronized(usize),
    LookAlike(usize),
    Daemon,
}

/// Faults of one run.
#[derive(Debug, Clone)]
pub struct Mischief {
    kinds: Vec<Strike>,
    one_in: u64,
    shortest: Duration,
    longest: Duration,
    /// Clients vanish once in so many rounds; 0 for never.
    pub vanish_one_in: u64,
    /// The daemon is killed once in so many rounds; 0 for never.
    pub daemon_one_in: u64,
    /// One side of the mirror is not synchronized at the start.
    unsynced: bool,
    /// Nothing is behind this portal, or a unit that only looks alike, until everything heals.
    look_alike: Option<usize>,
    pending: Vec<(Instant, Heal)>,
}

impl Mischief {
    /// A few kinds only, so that each run has a character of its own.
    pub fn new(dice: &mut Dice) -> Mischief {
        if dice.one_in(3) {
            return Mischief::doubts(dice);
        }
        let count = dice.pick(&[0, 1, 2, 3, 3, 4, 6, ALL.len()]);
        // What leaves writes in doubt comes more often than the rest.
        let doubts =
            [Strike::Stall, Strike::HangDisk, Strike::Late, Strike::Freeze, Strike::Silence];
        let kind = |dice: &mut Dice| match dice.one_in(3) {
            true => dice.pick(&doubts),
            false => dice.pick(&ALL),
        };
        let mut kinds: Vec<Strike> = (0..count).map(|_| kind(dice)).collect();
        if count == ALL.len() {
            kinds = ALL.to_vec();
        }
        Mischief {
            kinds,
            one_in: dice.pick(&[3, 8, 20]),
            shortest: Duration::from_millis(1),
            longest: dice.pick(&[
                Duration::from_millis(100),
                Duration::from_secs(3),
                Duration::from_secs(30),
            ]),
            vanish_one_in: dice.pick(&[0, 0, 60]),
            daemon_one_in: 0,
            unsynced: dice.one_in(10),
            look_alike: None,
            pending: Vec::new(),
        }
    }

    /// What leaves writes in doubt and ends the session meanwhile, long enough for an overwrite.
    pub fn doubts(dice: &mut Dice) -> Mischief {
        let late = [Strike::Stall, Strike::HangDisk, Strike::Late];
        let ends = [Strike::Reset, Strike::Silence, Strike::OneWay, Strike::Refuse, Strike::Freeze];
        Mischief {
            kinds: vec![dice.pick(&late), dice.pick(&late), dice.pick(&ends)],
            one_in: dice.pick(&[4, 10]),
            shortest: Duration::from_millis(800),
            longest: dice.pick(&[Duration::from_secs(5), Duration::from_secs(30)]),
            vanish_one_in: 0,
            daemon_one_in: 0,
            unsynced: dice.one_in(10),
            look_alike: None,
            pending: Vec::new(),
        }
    }

    /// The storage has access states, and changes them.
    pub fn change_access(&mut self) {
        self.kinds.push(Strike::Access);
    }

    /// A unit that only looks alike comes and goes behind this portal, which has never led anywhere before. Not
    /// with a daemon that dies: the next one does not know the unit, and begins with what it finds first.
    pub fn show_look_alike(&mut self, portal: usize) {
        self.kinds.push(Strike::LookAlike);
        self.look_alike = Some(portal);
    }

    /// The daemon is killed now and then, and started again.
    pub fn kill_daemon(&mut self, one_in: u64) {
        self.daemon_one_in = one_in;
    }

    /// Whether a LUN may be swapped: then the device is told which one is meant.
    #[must_use]
    pub fn swaps_units(&self) -> bool {
        self.kinds.contains(&Strike::SwapUnit)
    }

    /// One round: heals what is due, perhaps breaks something.
    pub fn round(&mut self, w: &mut World, dice: &mut Dice) {
        let now = w.now;
        let due: Vec<_> = self.pending.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, heal) in due {
            mend(w, &heal);
        }
        if self.daemon_one_in > 0 && w.daemon_runs() && dice.one_in(self.daemon_one_in) {
            w.tell("the daemon is killed".to_owned());
            w.kill_daemon();
            let after = dice.duration(Duration::from_millis(1), Duration::from_secs(5));
            self.pending.push((now + after, Heal::Daemon));
        }
        if std::mem::take(&mut self.unsynced) {
            self.strike(w, dice, Strike::NotReady);
        }
        if !self.kinds.is_empty() && dice.one_in(self.one_in) {
            let strike = dice.pick(&self.kinds);
            self.strike(w, dice, strike);
        }
    }

    fn strike(&mut self, w: &mut World, dice: &mut Dice, strike: Strike) {
        let heals = match (strike, self.look_alike) {
            (Strike::LookAlike, Some(portal)) => look_alike(w, portal),
            _ => hit(w, dice, strike, w.portals.len() - usize::from(self.look_alike.is_some())),
        };
        for heal in heals {
            let after = dice.duration(self.shortest, self.longest);
            self.pending.push((w.now + after, heal));
        }
    }

    /// Everything heals.
    pub fn end(&mut self, w: &mut World) {
        w.tell("everything heals".to_owned());
        for (_, heal) in std::mem::take(&mut self.pending) {
            mend(w, &heal);
        }
        w.heal();
    }
}

/// A look-alike appears, once the device is known and in use: before that nobody could tell which is which.
fn look_alike(w: &mut World, portal: usize) -> Vec<Heal> {
    if !w.is_in_use() || w.has_look_alike() {
        return Vec::new();
    }
    w.tell(format!("portal {portal} leads to a unit that only looks alike"));
    w.show_look_alike(portal);
    w.set_net(portal, Net::Works);
    vec![Heal::LookAlike(portal)]
}

/// Strikes once, through one of the first `portals`; what has to be healed later.
fn hit(w: &mut World, dice: &mut Dice, strike: Strike, portals: usize) -> Vec<Heal> {
    let node = dice.index(2);
    let portal = dice.index(portals);
    match strike {
        Strike::Silence => network(w, portal, Net::Silent),
        Strike::OneWay => network(w, portal, dice.pick(&[Net::NothingThere, Net::NothingBack])),
        Strike::Refuse => network(w, portal, Net::Refuses),
        Strike::Slow => {
            let delay = dice.duration(Duration::from_millis(1), Duration::from_millis(500));
            w.tell(format!("portal {portal} is {delay:?} away"));
            w.portals[portal].delay = delay;
            vec![Heal::Delay(portal)]
        }
        Strike::Stall => {
            w.tell(format!("bytes to portal {portal} stall"));
            w.stall(portal, true);
            vec![Heal::Unstall(portal)]
        }
        Strike::Kill | Strike::PowerCut => {
            if w.nodes[node].is_some() {
                let dark = strike == Strike::PowerCut;
                w.tell(format!("node {node} {}", if dark { "loses power" } else { "is killed" }));
                if dark { w.power_cut(node) } else { w.kill(node) }
            }
            vec![Heal::Start(node)]
        }
        Strike::SwapUnit => {
            if w.nodes[node].is_some() {
                w.kill(node);
            }
            w.tell(format!("node {node} shows another unit"));
            w.start_as_another(node);
            vec![Heal::Start(node)]
        }
        Strike::Admin => admin(w, dice, portal),
        Strike::Access => {
            let states = [
                AccessState::ActiveOptimized,
                AccessState::ActiveNonOptimized,
                AccessState::Standby,
                AccessState::Unavailable,
                AccessState::Transitioning,
            ];
            let states = [dice.pick(&states), dice.pick(&states)];
            w.tell(format!("access {} and {}", states[0], states[1]));
            match dice.one_in(5) {
                true => w.pair.access().set_silently(states),
                false => w.pair.access().set(states),
            }
            vec![Heal::Access]
        }
        Strike::Reset => {
            if let Some(target) = &mut w.nodes[node] {
                target.reset_connections();
                w.tell(format!("node {node} resets its connections"));
            }
            Vec::new()
        }
        Strike::NotReady => {
            w.tell(format!("node {node} is not synchronized"));
            w.set_synchronized(node, false);
            vec![Heal::Synchronized(node)]
        }
        Strike::Attention | Strike::Async => {
            tell_initiator(w, dice, node, strike);
            Vec::new()
        }
        _ => by_rule(w, dice, node, strike),
    }
}

fn network(w: &mut World, portal: usize, net: Net) -> Vec<Heal> {
    w.tell(format!("portal {portal} {net:?}"));
    w.set_net(portal, net);
    vec![Heal::Net(portal)]
}

/// Faults of the target's own layers.
fn by_rule(w: &mut World, dice: &mut Dice, node: usize, strike: Strike) -> Vec<Heal> {
    let commands = dice.pick(&[Commands::Medium, Commands::Writes, Commands::Reads]);
    let times = dice.pick(&[1, 3, 1000]);
    let some = |fault: Fault| Rule::new(fault).on(commands).times(times);
    let late = dice.duration(Duration::from_millis(5), Duration::from_secs(8));
    let sense = |key, asc, ascq| Fault::Sense(SenseCode { key, asc, ascq });
    let (name, rule) = match strike {
        Strike::Freeze => ("freeze", Rule::new(Fault::Freeze)),
        Strike::HangDisk => ("hang", some(Fault::Hold)),
        Strike::Late => ("late", some(Fault::Delay(Duration::ZERO, late)).rate(0.3)),
        Strike::Mute => ("mute", some(Fault::Mute).rate(0.2)),
        Strike::Cut => {
            let fault = [Fault::Reset, Fault::ResetAfter, Fault::Close, Fault::Silence];
            ("cut", some(fault[dice.index(4)].clone()).rate(0.3).times(2))
        }
        // BUSY, TASK SET FULL, TASK ABORTED.
        Strike::Status => ("status", some(Fault::Status(dice.pick(&[0x08, 0x28, 0x40])))),
        Strike::Sense => {
            // Aborted command, hardware error, unit attention in the middle.
            let (key, asc, ascq) = dice.pick(&[(0xb, 0, 0), (0x4, 0x44, 0), (0x6, 0x3f, 0x0e)]);
            ("sense", some(sense(key, asc, ascq)).rate(0.3))
        }
        Strike::LoginRefused => {
            let (class, detail) = dice.pick(&[(3, 1), (3, 2), (3, 0)]);
            ("login", Rule::new(Fault::LoginStatus { class, detail }).times(times))
        }
        Strike::Window => ("window", Rule::new(Fault::Window(dice.pick(&[0, 1, 2])))),
        _ => ("tmf", Rule::new(Fault::TaskManagementMute).times(times)),
    };
    w.tell(format!("node {node}: {name} {:?} {:?}", rule.fault, rule.when));
    w.faults(node).set(name, rule);
    match strike {
        Strike::HangDisk => vec![Heal::Disk(node, dice.one_in(4))],
        _ => vec![Heal::Rule(node, name)],
    }
}

fn tell_initiator(w: &mut World, dice: &mut Dice, node: usize, strike: Strike) {
    let Some(target) = &mut w.nodes[node] else { return };
    if strike == Strike::Attention {
        let (asc, ascq) = dice.pick(&[(0x29, 0), (0x29, 3), (0x2a, 1), (0x2a, 6), (0x3f, 0x0e)]);
        target.unit_attention(asc, ascq);
        w.tell(format!("node {node}: unit attention {asc:02x}/{ascq:02x}"));
        return;
    }
    // Logout wanted, connection dropped, session dropped.
    let event = 1 + dice.below(3) as u8;
    w.async_message(node, event, 1);
    w.tell(format!("node {node}: async event {event}"));
}

fn admin(w: &mut World, dice: &mut Dice, portal: usize) -> Vec<Heal> {
    let now = w.now;
    let name = format!("{}:{}", (b'a' + portal as u8) as char, w.portals[portal].node);
    let what = dice.pick(&["policy", "recheck", "disable", "set"]);
    let policy = dice.pick(&mpio::path::Policy::ALL);
    let weight = (name.clone(), dice.below(4) as u32);
    let prefer = dice.one_in(2).then_some(name.as_str());
    // What is judged by does not change.
    let tunables = Tunables {
        fence_timeout: w.tunables().fence_timeout,
        ..plan::anywhere(dice, w.tunables())
    };
    for lane in 0..w.volumes.len() {
        let volume = &mut w.volumes[lane];
        // A refusal (the last path, no such path) is an answer too.
        let _ = match what {
            "policy" => volume.set_policy(now, Some(policy), std::slice::from_ref(&weight), prefer),
            "recheck" => volume.recheck_path(now, &name),
            "disable" => volume.disable_path(now, &name, false),
            _ => {
                volume.set_tunables(now, tunables.clone(), "by chance");
                Ok(())
            }
        };
        w.wake(lane);
    }
    w.tell(format!("administrator: {what} {name} {policy}"));
    if what == "disable" { vec![Heal::Enable(portal)] } else { Vec::new() }
}

fn mend(w: &mut World, heal: &Heal) {
    w.tell(format!("healed: {heal:?}"));
    match *heal {
        Heal::Net(portal) => w.set_net(portal, Net::Works),
        Heal::Delay(portal) => w.restore_delay(portal),
        Heal::Unstall(portal) => w.stall(portal, false),
        Heal::Start(node) => w.restart_as_itself(node),
        Heal::Rule(node, name) => w.faults(node).remove(name),
        Heal::Disk(node, forget) => {
            let now = theirs(w.now);
            w.faults(node).remove("hang");
            if let Some(node) = &mut w.nodes[node] {
                match forget {
                    true => node.drop_held(),
                    false => node.release(now),
                };
            }
        }
        Heal::Daemon => w.start_daemon(),
        Heal::LookAlike(portal) => {
            w.hide_look_alike(portal);
            w.set_net(portal, Net::Refuses);
        }
        Heal::Access => w.restore_access(),
        Heal::Synchronized(node) => w.set_synchronized(node, true),
        Heal::Enable(portal) => {
            let now = w.now;
            let name = format!("{}:{}", (b'a' + portal as u8) as char, w.portals[portal].node);
            for lane in 0..w.volumes.len() {
                let _ = w.volumes[lane].enable_path(now, &name);
                w.wake(lane);
            }
        }
    }
}
