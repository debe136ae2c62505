//! Plays a scenario.

use super::{AdminVerb, Ask, Cells, Expect, NodeVerb, Scenario, Step, Trouble};
use crate::check;
use crate::history::ZERO;
use crate::load::{Kind, Load, value};
use crate::world::World;
use mpio::base::Duration;
use mpio::path::State;
use std::collections::HashMap;

const PATIENCE: Duration = Duration::from_secs(120);

struct Play {
    world: World,
    load: Load,
    clients: HashMap<String, usize>,
    names: HashMap<String, usize>,
    /// The last write: its cells, and which it was.
    cells: Cells,
    wrote: Option<usize>,
    stale: bool,
}

/// Plays it; the trace of what happened comes back either way.
///
/// # Errors
/// The first expectation that did not hold, with its line; line 0 for the checks at the end.
pub fn play(scenario: &Scenario) -> (World, Result<(), Trouble>) {
    let mut play = Play {
        world: World::cold(scenario.setup.clone()),
        load: Load::default(),
        clients: HashMap::new(),
        names: HashMap::new(),
        cells: (0, 1),
        wrote: None,
        stale: false,
    };
    let result = play.all(scenario);
    (play.world, result)
}

impl Play {
    fn all(&mut self, scenario: &Scenario) -> Result<(), Trouble> {
        if self.world.wait(PATIENCE, World::all_active).is_none() {
            return Err(Trouble::new(0, "the paths do not come up"));
        }
        for (line, step) in &scenario.steps {
            self.step(step).map_err(|what| Trouble::new(*line, what))?;
            self.load.take(&mut self.world);
        }
        match (check::order(&self.world, &self.load, None), self.stale) {
            (Ok(()), false) | (Err(_), true) => {}
            (Ok(()), true) => {
                return Err(Trouble::new(0, "every read can be explained: nothing is stale"));
            }
            (Err(broken), false) => return Err(Trouble::of(&broken)),
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let w = &mut self.world;
        let now = w.now;
        match step {
            Step::Client(name, lane) => {
                let peer = w.client_on(*lane);
                self.clients.insert(name.clone(), peer);
            }
            Step::Vanish(name) => {
                let peer = self.clients.remove(name).ok_or("no such client")?;
                w.vanish(peer);
            }
            Step::Ask(ask) => return self.ask(ask),
            Step::Wait(time) => w.run(*time),
            Step::Net(path, net) => w.set_net(self::path(w, *path)?, *net),
            Step::Delay(path, time) => {
                let path = self::path(w, *path)?;
                w.portals[path].delay = *time;
            }
            Step::Stall(path, stalled) => w.stall(self::path(w, *path)?, *stalled),
            Step::Node(node, verb) => node_does(w, *node, *verb)?,
            Step::Rule(node, name, Some(rule)) => w.faults(*node).set(name, rule.clone()),
            Step::Rule(node, name, None) => w.faults(*node).remove(name),
            Step::Synchronized(node, is) => w.set_synchronized(*node, *is),
            Step::Access(states) => w.pair.access().set(*states),
            Step::LookAlike(path, true) => w.show_look_alike(self::path(w, *path)?),
            Step::LookAlike(path, false) => w.hide_look_alike(self::path(w, *path)?),
            Step::Daemon(false) => {
                w.kill_daemon();
                self.clients.clear();
            }
            Step::Daemon(true) => w.start_daemon(),
            Step::Path(path, verb) => {
                let path = self::path(w, *path)?;
                let name = format!("{}:{}", (b'a' + path as u8) as char, w.portals[path].node);
                for lane in 0..w.volumes.len() {
                    let volume = &mut w.volumes[lane];
                    let done = match verb {
                        AdminVerb::Disable => volume.disable_path(now, &name, false),
                        AdminVerb::Enable => volume.enable_path(now, &name),
                        AdminVerb::Recheck => volume.recheck_path(now, &name),
                        AdminVerb::Prefer => volume.set_policy(now, None, &[], Some(&name)),
                    };
                    done.map_err(|error| error.to_string())?;
                    w.wake(lane);
                }
            }
            Step::Heal => return self.heal(),
            Step::Expect(expect) => return self.expect(expect),
        }
        self.world.settle();
        Ok(())
    }

    fn client(&mut self, name: &str) -> usize {
        if let Some(peer) = self.clients.get(name) {
            return *peer;
        }
        let peer = self.world.client_on(0);
        self.clients.insert(name.to_owned(), peer);
        peer
    }

    fn ask(&mut self, ask: &Ask) -> Result<(), String> {
        let peer = self.client(&ask.client);
        let writes = matches!(ask.kind, Kind::Write { .. });
        let cells = ask.cells.unwrap_or(self.cells);
        if writes {
            self.cells = cells;
        }
        let (first, end) = if ask.kind == Kind::Flush { (0, 0) } else { cells };
        let token = self.load.submit(&mut self.world, peer, first, end - first, ask.kind);
        if writes {
            self.wrote = Some(token);
        }
        if let Some(name) = &ask.name {
            self.names.insert(name.clone(), token);
        }
        self.world.settle();
        self.load.take(&mut self.world);
        if ask.begin { Ok(()) } else { self.answered(token, PATIENCE) }
    }

    /// Waits for a good answer.
    fn answered(&mut self, token: usize, patience: Duration) -> Result<(), String> {
        let end = self.world.now + patience;
        loop {
            self.load.take(&mut self.world);
            match &self.load.asked[token].answer {
                Some(answer) if answer.good => return Ok(()),
                Some(_) => return Err(format!("#{token} was refused")),
                None if self.world.now >= end => {
                    return Err(format!("#{token} has no answer\n{}", self.world.story()));
                }
                None => self.world.run(Duration::from_millis(1)),
            }
        }
    }

    fn token(&self, name: &str) -> Result<usize, String> {
        let last = (name == "last").then_some(self.wrote).flatten();
        self.names.get(name).copied().or(last).ok_or_else(|| format!("no request is named {name}"))
    }

    fn heal(&mut self) -> Result<(), String> {
        let w = &mut self.world;
        if !w.daemon_runs() {
            w.start_daemon();
        }
        w.heal();
        if w.wait(PATIENCE, World::all_active).is_none() {
            return Err(format!("not every path is active:\n{}", w.story()));
        }
        let open: Vec<usize> = (0..self.load.asked.len())
            .filter(|token| self.world.peers[self.load.asked[*token].peer].id.is_some())
            .collect();
        for token in open {
            let refused = self.load.asked[token].answer.as_ref().is_some_and(|a| !a.good);
            if !refused {
                self.answered(token, PATIENCE)?;
            }
        }
        Ok(())
    }

    fn expect(&mut self, expect: &Expect) -> Result<(), String> {
        match expect {
            Expect::Answered(name, patience) => {
                let token = self.token(name)?;
                return self.answered(token, *patience);
            }
            Expect::Open(name) | Expect::Refused(name) => {
                let answer = &self.load.asked[self.token(name)?].answer;
                let open = matches!(expect, Expect::Open(_));
                let holds = match answer {
                    None => open,
                    Some(answer) => !open && !answer.good,
                };
                return holds.then_some(()).ok_or_else(|| format!("{name}: {answer:?}"));
            }
            Expect::State(path, state, patience) => {
                let path = self::path(&self.world, *path)?;
                return self.in_state(path, *state, *patience);
            }
            Expect::Reads(cells, name) => return self.reads(*cells, name.as_deref()),
            Expect::Stale => {
                self.stale = true;
                return Ok(());
            }
            Expect::Fences(..) | Expect::Executed(..) | Expect::Held(..) | Expect::Told(..) => {}
        }
        let w = &mut self.world;
        let (found, wanted) = match expect {
            Expect::Fences(what, count) => {
                let fences = w.volumes.first().ok_or("no daemon runs")?.fences();
                let found = match *what {
                    "taken" => fences.taken,
                    "waiting" => fences.waiting,
                    "pending" => fences.pending,
                    "proven" => fences.proven,
                    "watched" => w.volumes[0].snapshot().watched,
                    _ => fences.unproven,
                };
                (found, *count)
            }
            Expect::Executed(node, opcode, count) => {
                let records = w.records();
                let here = |r: &&mpio_target::Record| usize::from(r.nexus.node) == *node;
                let executed = records.iter().filter(here).filter(|r| r.opcode == *opcode);
                (executed.count() as u64, *count as u64)
            }
            Expect::Held(node, count) => (w.node(*node).held() as u64, *count as u64),
            Expect::Told(what, count) => (w.logged(what) as u64, *count as u64),
            _ => return Ok(()),
        };
        if found == wanted {
            Ok(())
        } else {
            Err(format!("{found}, expected {wanted}\n{}", w.story()))
        }
    }

    fn in_state(&mut self, path: usize, state: State, patience: Duration) -> Result<(), String> {
        let w = &mut self.world;
        match w.wait(patience, |w| w.daemon_runs() && w.state(path) == state) {
            Some(_) => Ok(()),
            None => Err(format!("it is not {state}\n{}", w.story())),
        }
    }

    fn reads(&mut self, cells: Cells, name: Option<&str>) -> Result<(), String> {
        let wrote = name.map(|name| self.token(name)).transpose()?;
        let peer = self.client("c");
        let token = self.load.submit(&mut self.world, peer, cells.0, cells.1 - cells.0, Kind::Read);
        self.answered(token, PATIENCE)?;
        let seen =
            self.load.asked[token].answer.as_ref().map(|a| a.seen.clone()).unwrap_or_default();
        for (cell, seen) in (cells.0..).zip(seen) {
            let expected = wrote.map_or(ZERO, |token| value(token, cell));
            if seen != expected {
                let writer = (seen >> 16).checked_sub(1);
                let who = writer.map_or("zeros".to_owned(), |token| format!("what #{token} wrote"));
                return Err(format!("cell {cell} holds {who}"));
            }
        }
        Ok(())
    }
}

fn path(w: &World, path: usize) -> Result<usize, String> {
    if path < w.portals.len() { Ok(path) } else { Err("no such path".to_owned()) }
}

fn node_does(w: &mut World, node: usize, verb: NodeVerb) -> Result<(), String> {
    let runs = w.nodes[node].is_some();
    match verb {
        NodeVerb::Start if !runs => w.start(node),
        NodeVerb::Start => return Err("it runs already".to_owned()),
        _ if !runs => return Err("it does not run".to_owned()),
        NodeVerb::Kill => w.kill(node),
        NodeVerb::PowerCut => w.power_cut(node),
        NodeVerb::Swap => {
            w.kill(node);
            w.start_as_another(node);
        }
        NodeVerb::Release => {
            w.release(node);
        }
        NodeVerb::Forget => {
            w.node(node).drop_held();
        }
        NodeVerb::Reset => w.node(node).reset_connections(),
        NodeVerb::LogOut => w.async_message(node, 1, 1),
    }
    Ok(())
}
