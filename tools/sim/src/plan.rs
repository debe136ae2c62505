//! What a seed means: targets, paths, settings, load and mischief, each drawn from its own stream.

use crate::chaos::Mischief;
use crate::dice::Dice;
use crate::load::{CELL, Pattern, Shape};
use crate::net::{Net, Portal};
use crate::world::{DriverBug, Setup};
use mpio::base::Duration;
use mpio::path::{Failback, FenceMode, Policy};
use mpio::session::Digest;
use mpio::volume::spec::Tunables;
use mpio::volume::tunables::randomise;
use mpio_target::PairConfig;

/// A fault that is planted to show that it would be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// `fence = "off"`: what dm-multipath does.
    FenceOff,
    /// In the simulator's own driver.
    Driver(DriverBug),
    /// In the product; it does nothing in a build without the feature `planted`.
    Product(mpio::path::planted::Bug),
}

impl Bug {
    /// All of them.
    #[must_use]
    pub fn all() -> Vec<Bug> {
        use mpio::path::planted;
        let driver = [DriverBug::LostCompletion, DriverBug::BufferReuse];
        let mut all = vec![Bug::FenceOff];
        all.extend(driver.map(Bug::Driver));
        all.extend(planted::Bug::ALL.map(Bug::Product));
        all
    }

    /// As it is given to `--bug`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Bug::FenceOff => "fence-off",
            Bug::Driver(DriverBug::LostCompletion) => "lost-completion",
            Bug::Driver(DriverBug::BufferReuse) => "buffer-reuse",
            Bug::Product(bug) => bug.name(),
        }
    }
}

/// One run.
#[derive(Clone)]
pub struct Plan {
    /// Where it all comes from.
    pub seed: u64,
    /// Targets, paths, settings.
    pub setup: Setup,
    /// The load.
    pub shape: Shape,
    /// What goes wrong.
    pub mischief: Mischief,
    /// Rounds of load and mischief.
    pub rounds: u64,
    /// Bytes of one receive.
    pub segment: usize,
    /// How long the driver takes to let go of a socket.
    pub close_delay: Duration,
    /// A planted bug.
    pub bug: Option<Bug>,
}

impl Plan {
    /// The run of this seed.
    #[must_use]
    pub fn new(seed: u64, bug: Option<Bug>) -> Plan {
        let mut dice = Dice::new(seed);
        let mut pair = pair(&mut dice.fork(), seed);
        let mut portals = portals(&mut dice.fork());
        let mut tunables = tunables(&mut dice.fork());
        let mut shape = shape(&mut dice.fork(), &pair);
        // What is released without a proof may be read until it is repaired, and a write of a part of a block
        // would carry it on: what is judged then is whole blocks.
        shape.aligned |= tunables.fence_timeout < Duration::MAX;
        let mut mischief = Mischief::new(&mut dice.fork());
        let mut rest = dice.fork();
        let moves = access_states(&mut dice.fork(), &mut pair);
        daemon_dies(&mut dice.fork(), &mut mischief);
        release_early(&mut dice.fork(), &tunables, &mut mischief);
        if moves {
            mischief.change_access();
        }
        // Storage that moves the unit may vouch for a port that nobody has read over, by its name.
        let may = !moves && mischief.daemon_one_in == 0;
        if looks_alike(&mut dice.fork(), &mut portals, may) {
            mischief.show_look_alike(portals.len() - 1);
            tunables.trust_identity = false;
        }
        if bug == Some(Bug::Product(mpio::path::planted::Bug::ResetSkipped)) {
            // A new daemon's range would stay unproven for ever, and what is released watched: that is found
            // first, and it is the stale write that has to be seen here.
            mischief.daemon_one_in = 0;
            tunables.fence_timeout = Duration::MAX;
        }
        if bug == Some(Bug::FenceOff) {
            tunables.fence = FenceMode::Off;
        }
        let digest = |dice: &mut Dice| if dice.one_in(4) { Digest::Crc32c } else { Digest::None };
        let named = mischief.swaps_units() || rest.one_in(4);
        let setup = Setup {
            wwid: named.then(|| "naa.6000000102030405060708090a0b0c0d".to_owned()),
            tunables,
            policy: rest.pick(&Policy::ALL),
            lanes: 1 + u16::from(rest.one_in(3)),
            weights: (0..portals.len()).map(|_| 1 + rest.below(4) as u32).collect(),
            digests: (digest(&mut rest), digest(&mut rest)),
            buffer_memory: rest.pick(&[4 << 20, 64 << 20]),
            seed,
            bug: match bug {
                Some(Bug::Driver(bug)) => Some(bug),
                _ => None,
            },
            pair,
            portals,
            loses_last_words: true,
            ..Setup::default()
        };
        Plan {
            seed,
            setup,
            shape,
            mischief,
            rounds: 200 + rest.below(400),
            segment: rest.pick(&[512, 4096, 65_536, 65_536]),
            close_delay: rest.duration(Duration::from_micros(20), Duration::from_millis(50)),
            bug,
        }
    }
}

impl Plan {
    /// After how long a range may be released without a proof: until it is repaired, a late write may be read
    /// there from then on.
    #[must_use]
    pub fn released_after(&self) -> Option<Duration> {
        let tunables = &self.setup.tunables;
        let released = tunables.fence == FenceMode::Overlap;
        Some(tunables.fence_timeout).filter(|after| released && *after < Duration::MAX)
    }
}

fn pair(dice: &mut Dice, seed: u64) -> PairConfig {
    let mut pair = PairConfig { size: 2 << 20, seed, ..PairConfig::default() };
    pair.blank = dice.one_in(6);
    pair.block_size = dice.pick(&[512, 512, 512, 4096]);
    let max_transfer = dice.pick(&[0, 0, 8, 64]);
    let (fua, cache) = (!dice.one_in(3), !dice.one_in(4));
    let (unmap, write_same) = (!dice.one_in(4), !dice.one_in(4));
    for node in &mut pair.nodes {
        node.reinstatement_aborts = dice.one_in(2);
        node.reset_beside_open_writes = dice.one_in(2);
        node.window = dice.pick(&[128, 128, 32, 4]);
        let abilities = &mut node.abilities;
        abilities.fua = fua;
        abilities.write_cache = cache;
        abilities.unmap = unmap;
        abilities.write_same = write_same;
        abilities.max_transfer = max_transfer;
        abilities.descriptor_sense = dice.one_in(4);
        abilities.unit_attention_at_login = !dice.one_in(3);
        let negotiation = &mut node.negotiation;
        negotiation.initial_r2t = dice.one_in(3);
        negotiation.immediate_data = !dice.one_in(3);
        negotiation.max_recv_segment = dice.pick(&[Some(256 * 1024), Some(8192), Some(1024), None]);
        negotiation.first_burst = dice.pick(&[256 * 1024, 4096, 512]);
        negotiation.max_burst =
            dice.pick(&[16_776_192, 256 * 1024, 4096]).max(negotiation.first_burst);
        negotiation.max_outstanding_r2t = dice.pick(&[8, 1]);
        negotiation.phase_collapse = dice.one_in(2);
        negotiation.time2wait = dice.pick(&[2, 0, 1]);
    }
    pair
}

/// One storage in four has ALUA: implicit, explicit or both.
fn access_states(dice: &mut Dice, pair: &mut PairConfig) -> bool {
    let has = dice.one_in(4);
    let by = dice.pick(&[1, 1, 2, 3]);
    let seconds = dice.pick(&[0, 3, 10]);
    for (node, state) in pair.nodes.iter_mut().zip([0, 1]) {
        node.abilities.alua = has.then_some(state);
        node.abilities.alua_by = by;
        node.abilities.alua_transition_secs = seconds;
    }
    has
}

/// In one run of eight a path leads nowhere, and for some time to a unit that only looks alike.
fn looks_alike(dice: &mut Dice, portals: &mut Vec<Portal>, may: bool) -> bool {
    let does = dice.one_in(8) && may;
    if does {
        portals.push(Portal { net: Net::Refuses, ..Portal::new(dice.index(2)) });
    }
    does
}

/// One daemon in five is killed now and then, and every second one of these with writes in doubt as a rule.
fn daemon_dies(dice: &mut Dice, mischief: &mut Mischief) {
    if dice.one_in(5) {
        if dice.one_in(2) {
            *mischief = Mischief::doubts(dice);
        }
        mischief.kill_daemon(dice.pick(&[30, 100, 300]));
    }
}

/// Where ranges are released soon, every second run is about writes in doubt.
fn release_early(dice: &mut Dice, tunables: &Tunables, mischief: &mut Mischief) {
    let soon = tunables.fence_timeout < Duration::from_secs(20);
    if soon && mischief.daemon_one_in == 0 && dice.one_in(2) {
        *mischief = Mischief::doubts(dice);
    }
}

fn portals(dice: &mut Dice) -> Vec<Portal> {
    let ways: &[&[usize]] = &[&[0, 1], &[0, 1], &[0, 1, 0], &[0, 1, 0, 1], &[0, 0]];
    let way = dice.pick(ways);
    let to_portal = |node: &usize| {
        let mut portal = Portal::new(*node);
        portal.delay = dice.duration(Duration::from_micros(20), Duration::from_millis(5));
        portal.jitter = dice.pick(&[Duration::ZERO, portal.delay, portal.delay * 8]);
        portal.loss_one_in = dice.pick(&[0, 0, 0, 200]);
        portal.send_buffer = dice.pick(&[4 << 20, 64 << 10, 8 << 10]);
        portal
    };
    way.iter().map(to_portal).collect()
}

/// Tunables inside their ranges: half of the devices have the defaults.
fn tunables(dice: &mut Dice) -> Tunables {
    let ms = Duration::from_millis;
    let mut tunables = Tunables {
        fence: if dice.one_in(4) { FenceMode::Strict } else { FenceMode::Overlap },
        fence_timeout: Duration::MAX,
        no_path_timeout: dice.pick(&[Duration::MAX, Duration::MAX, ms(3000), Duration::ZERO]),
        trust_identity: dice.one_in(3),
        ..Tunables::default()
    };
    if dice.one_in(3) {
        let early = dice.duration(ms(500), ms(20_000));
        tunables.fence_timeout = dice.pick(&[early, early, early, ms(30_000), Duration::ZERO]);
    }
    match dice.below(4) {
        0 | 1 => return tunables,
        2 => {}
        _ => return anywhere(dice, &tunables),
    }
    tunables.path_timeout = dice.duration(ms(500), ms(5000));
    tunables.last_path_timeout = dice.duration(tunables.path_timeout, ms(20_000));
    tunables.command_timeout = dice.duration(ms(500), ms(10_000));
    tunables.last_path_command_timeout = dice.duration(tunables.command_timeout, ms(60_000));
    tunables.nop_interval = dice.duration(ms(100), ms(5000));
    tunables.queue_depth = dice.pick(&[128, 32, 4, 1]);
    tunables.failback =
        dice.pick(&[Failback::Immediate, Failback::Manual, Failback::After(ms(500))]);
    tunables
}

/// Anything that the registry allows, but for what this network and [`run`](crate::run) have no patience for:
/// a path that is given up before a lost packet is sent again never comes back, and one that is tried once
/// in an hour not soon enough.
#[must_use]
pub fn anywhere(dice: &mut Dice, base: &Tunables) -> Tunables {
    let ms = Duration::from_millis;
    let mut t = randomise(base, || dice.bits());
    for (time, least, most) in [
        (&mut t.path_timeout, 500, 30_000),
        (&mut t.last_path_timeout, 500, 60_000),
        (&mut t.command_timeout, 500, 30_000),
        (&mut t.last_path_command_timeout, 500, 60_000),
        (&mut t.nop_interval, 50, 60_000),
        (&mut t.suspect_interval, 10, 10_000),
        (&mut t.check_interval, 500, 30_000),
        (&mut t.connect_timeout, 1000, 30_000),
        (&mut t.login_timeout, 1000, 30_000),
        (&mut t.reconnect_min, 10, 30_000),
        (&mut t.reconnect_max, 10, 60_000),
        (&mut t.flap_penalty_max, 0, 60_000),
        (&mut t.management_timeout, 1000, 30_000),
        (&mut t.alua_transition_timeout, 1000, 60_000),
    ] {
        *time = (*time).clamp(ms(least), ms(most));
    }
    t
}

fn shape(dice: &mut Dice, pair: &PairConfig) -> Shape {
    let patterns = [Pattern::Random, Pattern::Hot, Pattern::Sequential, Pattern::Overlapping];
    let all = pair.size / CELL;
    Shape {
        cells: dice.pick(&[8, 24, 64, 512]).min(all),
        peers: 1 + dice.index(4),
        depth: dice.pick(&[1, 4, 16, 32]),
        pattern: dice.pick(&patterns),
        cells_max: dice.pick(&[1, 4, 16, 64]),
        writes: dice.pick(&[4, 8, 12, 14]),
        flush_one_in: dice.pick(&[0, 50, 12]),
        zero_one_in: dice.pick(&[0, 0, 20]),
        fua_one_in: dice.pick(&[0, 8]),
        align: u64::from(pair.block_size) / CELL,
        aligned: dice.one_in(2),
    }
}
