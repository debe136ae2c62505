//! One run: load and mischief, then everything heals, the last reads, and the checkers.

use crate::check::{self, Broken, Rule};
use crate::load::{self, Kind, Load};
use crate::plan::{Bug, Plan};
use crate::world::World;
use mpio::base::{Duration, Instant};
use mpio::path::State;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// How long everything gets to come back after all is healed: a target that refused a login for good, or
/// showed another unit, is looked at again after a minute at the latest.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a good run was like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Of everything that happened.
    pub hash: u64,
    /// Virtual time that passed.
    pub took: Duration,
    /// Requests of clients.
    pub requests: usize,
}

/// A run that broke a rule, with its world as it was.
pub struct Failure {
    /// Which run.
    pub plan: Plan,
    /// What broke.
    pub broken: Broken,
    /// Where everything stood.
    pub world: World,
    /// Requests and answers.
    pub load: Load,
}

/// Runs a plan.
///
/// # Errors
/// The first rule that broke.
pub fn run(plan: &Plan) -> Result<Outcome, Box<Failure>> {
    plant(plan.bug);
    let mut run = Run::new(plan);
    let result = catch(|| run.all());
    plant(None);
    match result.and_then(|done| done) {
        Ok(outcome) => Ok(outcome),
        Err(broken) => {
            let Run { world, load, .. } = run;
            Err(Box::new(Failure { plan: plan.clone(), broken, world, load }))
        }
    }
}

#[cfg(feature = "planted")]
fn plant(bug: Option<Bug>) {
    mpio::path::planted::plant(match bug {
        Some(Bug::Product(bug)) => Some(bug),
        _ => None,
    });
}

#[cfg(not(feature = "planted"))]
fn plant(_bug: Option<Bug>) {}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static CATCHING: RefCell<bool> = const { RefCell::new(false) };
}

/// A panic of the product is a finding like any other, and is not printed by itself.
fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Broken> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if CATCHING.with_borrow(|catching| *catching) {
                PANIC.set(Some(info.to_string()));
            } else {
                default(info);
            }
        }));
    });
    CATCHING.set(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    CATCHING.set(false);
    result.map_err(|_| Broken {
        rule: Rule::Panic,
        what: PANIC.take().unwrap_or_default(),
        cells: None,
    })
}

struct Run<'a> {
    plan: &'a Plan,
    world: World,
    load: Load,
    began: Instant,
}

impl Run<'_> {
    fn new(plan: &Plan) -> Run<'_> {
        let mut world = World::cold(plan.setup.clone());
        world.segment = plan.segment;
        world.close_delay = plan.close_delay;
        let began = world.now;
        Run { plan, world, load: Load::default(), began }
    }

    fn all(&mut self) -> Result<Outcome, Broken> {
        self.rounds();
        self.come_back()?;
        let last = self.load.asked.len();
        self.last_reads()?;
        self.leave()?;
        check::apart(&self.world)?;
        check::order(&self.world, &self.load, self.plan.released_after())?;
        // What a daemon watched dies with it.
        if self.world.daemon_lives() == 1 {
            check::at_the_end(&self.load, last)?;
        }
        check::stable(&self.world, &self.load)?;
        check::hedges(&self.world)?;
        check::tidy(&self.world)?;
        Ok(Outcome {
            hash: self.world.trace.hash(),
            took: self.world.now - self.began,
            requests: self.load.asked.len(),
        })
    }

    /// Load and mischief.
    fn rounds(&mut self) {
        let mut dice = crate::dice::Dice::new(self.plan.seed ^ 0x006c_6f61_6400);
        let (mut chance, mut time) = (dice.fork(), dice.fork());
        let mut mischief = self.plan.mischief.clone();
        let (w, shape) = (&mut self.world, &self.plan.shape);
        let lanes = usize::from(self.plan.setup.lanes);
        let mut peers: Vec<usize> =
            (0..shape.peers).map(|n| load::connect(w, &mut dice, n % lanes)).collect();
        for _ in 0..self.plan.rounds {
            if w.daemon_runs() {
                for (index, peer) in peers.iter_mut().enumerate() {
                    let gone = w.peers[*peer].id.is_none();
                    let leaves = mischief.vanish_one_in > 0 && dice.one_in(mischief.vanish_one_in);
                    if leaves {
                        w.tell(format!("client {peer} vanishes"));
                        w.vanish(*peer);
                    }
                    if gone || leaves {
                        *peer = load::connect(w, &mut dice, index % lanes);
                    }
                }
                self.load.ask(w, &mut dice, shape, &peers);
            }
            mischief.round(w, &mut chance);
            let (from, to) = (Duration::from_micros(20), Duration::from_millis(1000));
            w.run(time.duration(from, to));
            self.load.take(w);
        }
        mischief.end(w);
    }

    /// Every request is answered, every path is back. Of a unit that was blank at the start a path is taken
    /// back only when something was written: a client goes on.
    fn come_back(&mut self) -> Result<(), Broken> {
        let Run { world, load, plan, .. } = self;
        let writer = plan.setup.pair.blank.then(|| {
            // A client that comes while the unit is not known is sent away after some time.
            let paths = 0..world.portals.len();
            let known = |w: &World| paths.clone().any(|path| w.state(path) == State::Active);
            world.wait(PATIENCE, known);
            world.client_on(0)
        });
        for _ in 0..PATIENCE.as_secs() {
            world.settle();
            load.take(world);
            let back = world.all_active() && !world.watches();
            if back && load.unanswered(world).is_none() {
                return Ok(());
            }
            if let Some(writer) = writer.filter(|_| !back) {
                let cells = plan.shape.align;
                load.submit(world, writer, 0, cells, Kind::Write { fua: false, checksum: 0 });
            }
            world.run(Duration::from_secs(1));
        }
        let alive = |what, cells| Broken { rule: Rule::Alive, what, cells };
        let token = load.unanswered(world).filter(|_| world.all_active());
        let Some(token) = token else {
            return Err(alive(format!("not every path is active:\n{}", world.story()), None));
        };
        let asked = &load.asked[token];
        let what = format!("#{token} has no answer:\n{}", world.story());
        Err(alive(what, Some((asked.first, asked.cells))))
    }

    /// Reads everything that was used, by a client that was not there before.
    fn last_reads(&mut self) -> Result<(), Broken> {
        let Run { world, load, plan, .. } = self;
        world.tell("the last reads".to_owned());
        let peer = world.client_on(0);
        let mut first = 0;
        while first < plan.shape.cells {
            let cells = 64.min(plan.shape.cells - first);
            load.submit(world, peer, first, cells, Kind::Read);
            first += cells;
        }
        load.submit(world, peer, 0, 0, Kind::Flush);
        self.come_back()
    }

    /// The clients go.
    fn leave(&mut self) -> Result<(), Broken> {
        let w = &mut self.world;
        for peer in w.peers.iter_mut().filter(|peer| peer.id.is_some()) {
            peer.client.disconnect();
        }
        let gone = |w: &World| {
            let census = w.volumes.iter().map(|v| v.census());
            w.peers.iter().all(|p| p.id.is_none())
                && census.into_iter().all(|c| c.requests + c.stragglers == 0)
        };
        match w.wait(PATIENCE, gone) {
            Some(_) => Ok(()),
            None => {
                let what = format!("clients or requests do not go:\n{}", w.story());
                Err(Broken { rule: Rule::Tidy, what, cells: None })
            }
        }
    }
}
