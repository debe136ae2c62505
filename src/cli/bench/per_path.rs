//! `--per-path`: the same load over each path alone and with each policy, and which is best here.
//!
//! The device is changed for it, through the daemon, as `mpio path` and `mpio policy` would. Whatever happens,
//! an interrupt or an error, it is put back as it was: [`Before`] does that when it goes out of scope.

use super::run::{Interrupts, Run};
use super::target::{Managed, until_interrupted};
use crate::api::{Command, DeviceStatus, Outcome, PathAction, PathState, PolicyStatus};
use crate::cli::client::{self, Wait};
use crate::cli::{Failure, output};
use crate::path::Policy;
use std::time::{Duration, Instant};

/// Rounds of a series, unless it is shorter than so many seconds.
const ROUNDS: u64 = 3;
/// How long a path may take to drain or to come back.
const SETTLE: Duration = Duration::from_secs(30);
/// The same when the device is put back, unless somebody interrupts that too.
const SETTLE_BACK: Duration = Duration::from_secs(10);
/// A daemon that does not answer for so long while the device is put back is left alone.
const BACK: Duration = Duration::from_secs(3);
/// How often it is looked at meanwhile.
const LOOK: u16 = 50;

/// What is varied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variant {
    /// Only this path is used.
    Path(String),
    /// All paths are, by this policy.
    Policy(String),
}

impl Variant {
    /// For people.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Variant::Path(path) => format!("{path} alone"),
            Variant::Policy(policy) => policy.clone(),
        }
    }
}

/// One variant of the series, measured in several rounds.
#[derive(Debug)]
pub struct Varied {
    /// What was varied.
    pub variant: Variant,
    /// How it went, all rounds together.
    pub run: Run,
    /// Requests per second of each round.
    rounds: Vec<f64>,
}

impl Varied {
    /// After the first round.
    #[must_use]
    pub fn new(variant: Variant, run: Run) -> Varied {
        Varied { variant, rounds: vec![run.iops()], run }
    }

    /// Adds another round.
    pub fn append(&mut self, run: Run) {
        self.rounds.push(run.iops());
        self.run.append(run);
    }

    /// Requests per second of each round, in their order.
    #[must_use]
    pub fn rounds(&self) -> &[f64] {
        &self.rounds
    }

    /// The slowest round's requests per second.
    #[must_use]
    pub fn least(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The fastest round's.
    #[must_use]
    pub fn greatest(&self) -> f64 {
        self.rounds.iter().copied().fold(0.0, f64::max)
    }

    fn is_good(&self) -> bool {
        self.run.fault().is_none() && self.run.requests() > 0
    }
}

/// Rounds of a series, and the seconds of each. Everything is measured in turn, several times: a machine, or a
/// storage, that is slow for a while is then slow for all.
#[must_use]
pub fn rounds(seconds: u64) -> (u64, u64) {
    let rounds = ROUNDS.min(seconds).max(1);
    (rounds, seconds / rounds)
}

/// The device as it was, to be put back.
pub struct Before<'a> {
    managed: &'a Managed,
    policy: PolicyStatus,
    /// Paths that were not disabled.
    paths: Vec<String>,
    interrupts: &'a Interrupts,
    /// It is being put back, or has been: an interrupt does not end that.
    restoring: bool,
}

impl<'a> Before<'a> {
    /// Remembers how the device is.
    ///
    /// # Errors
    /// When the daemon cannot be asked, or there are fewer than two paths to compare.
    pub fn of(managed: &'a Managed, interrupts: &'a Interrupts) -> Result<Before<'a>, Failure> {
        let go_on = || !interrupts.pending();
        let wait = until_interrupted(&go_on);
        let policy = ask_policy(managed, None, None, &wait)?;
        let status = managed.status(&wait)?;
        let enabled = status.paths.iter().filter(|path| path.state != PathState::Disabled);
        let usable = status.paths.iter().filter(|path| is_usable(path.state)).count();
        if usable < 2 {
            return Err(Failure::failed(format!(
                "--per-path: device {} has {usable} usable paths, there is nothing to compare; \
                 try: mpio status {}",
                managed.name, managed.name
            )));
        }
        let paths = enabled.map(|path| path.name.clone()).collect();
        Ok(Before { managed, policy, paths, interrupts, restoring: false })
    }

    /// Calls `ask` with how long the daemon is waited for now.
    fn asking<T>(&self, ask: impl FnOnce(&Wait<'_>) -> T) -> T {
        match self.restoring {
            true => ask(&Wait { limit: BACK, go_on: &|| true }),
            false => ask(&until_interrupted(&|| !self.interrupts.pending())),
        }
    }

    fn status(&self) -> Result<DeviceStatus, Failure> {
        self.asking(|wait| self.managed.status(wait))
    }

    fn policy(&self, policy: String, prefer: Option<String>) -> Result<PolicyStatus, Failure> {
        self.asking(|wait| ask_policy(self.managed, Some(policy), prefer, wait))
    }

    /// Everything that is to be compared: usable paths, then policies.
    ///
    /// # Errors
    /// When the daemon cannot be asked.
    pub fn variants(&self) -> Result<Vec<Variant>, Failure> {
        let status = self.status()?;
        let usable = status.paths.into_iter().filter(|path| is_usable(path.state));
        let paths = usable.map(|path| Variant::Path(path.name));
        let policies = Policy::ALL.iter().map(|policy| Variant::Policy(policy.name().to_owned()));
        Ok(paths.chain(policies).collect())
    }

    /// Makes the device such that only `variant` counts.
    ///
    /// # Errors
    /// When the daemon refuses, or a path does not follow within 30 s.
    pub fn apply(&self, variant: &Variant) -> Result<(), Failure> {
        match variant {
            Variant::Path(alone) => {
                // First the one that stays: the last usable path cannot be disabled.
                self.set(std::slice::from_ref(alone), PathAction::Enable)?;
                let others = self.paths.iter().filter(|path| *path != alone).cloned();
                self.set(&others.collect::<Vec<_>>(), PathAction::Disable)
            }
            Variant::Policy(policy) => {
                self.set(&self.paths, PathAction::Enable)?;
                self.policy(policy.clone(), None).map(|_| ())
            }
        }
    }

    /// Enables or disables those of `paths` that are not so, and waits until they are.
    fn set(&self, paths: &[String], action: PathAction) -> Result<(), Failure> {
        let done = |state| match action {
            PathAction::Disable => state == PathState::Disabled,
            PathAction::Enable | PathAction::Recheck => is_usable(state),
        };
        let status = self.status()?;
        for path in missing(&status, paths, done) {
            // Enabling a path that is merely down would only restart its connection.
            let disabled = state_of(&status, &path) == Some(PathState::Disabled);
            if (action == PathAction::Disable) != disabled {
                self.command(&path, action)?;
            }
        }
        let until = Instant::now() + SETTLE;
        loop {
            let missing = missing(&self.status()?, paths, done);
            let Some(path) = missing.first() else { return Ok(()) };
            if Instant::now() > until {
                return Err(Failure::failed(format!(
                    "path {path}: it did not follow `{action}` within {} s; try: mpio status {}",
                    SETTLE.as_secs(),
                    self.managed.name
                )));
            }
            if self.interrupts.came(LOOK) {
                return Err(interrupted());
            }
        }
    }

    fn command(&self, path: &str, action: PathAction) -> Result<(), Failure> {
        let device = self.managed.name.clone();
        let command = Command::Path { device, path: path.to_owned(), action, force: false };
        let control = self.managed.control.as_deref();
        match self.asking(|wait| client::ask_while(control, command, wait))? {
            Outcome::Done {} => Ok(()),
            _ => Err(client::unexpected()),
        }
    }

    /// Puts the device back as it was.
    ///
    /// # Errors
    /// What the daemon refused; the rest was put back nevertheless.
    pub fn restore(mut self) -> Result<(), Failure> {
        self.put_back()
    }

    fn put_back(&mut self) -> Result<(), Failure> {
        if std::mem::replace(&mut self.restoring, true) {
            return Ok(());
        }
        self.try_put_back().map_err(|mut failure| {
            for why in &mut failure.messages {
                *why = format!("device {}: not everything is as it was: {why}", self.managed.name);
            }
            failure.messages.push(format!(
                "device {}: it is put back by hand by; try: {}",
                self.managed.name,
                self.by_hand().join("; ")
            ));
            failure
        })
    }

    /// The commands that put it back.
    fn by_hand(&self) -> Vec<String> {
        let (device, PolicyStatus { policy, prefer, .. }) = (&self.managed.name, &self.policy);
        let prefer = prefer.as_ref().map_or(String::new(), |path| format!(" --prefer {path}"));
        let paths = self.paths.iter().map(|path| format!("mpio path {device} {path} enable"));
        paths.chain([format!("mpio policy {device} {policy}{prefer}")]).collect()
    }

    fn try_put_back(&self) -> Result<(), Failure> {
        let mut failed = None;
        let now = self.status()?;
        // One that does not answer any more is not asked for everything else.
        let hangs = |failed: &Option<Failure>| failed.as_ref().is_some_and(|f| f.code == 3);
        for path in &self.paths {
            if state_of(&now, path) == Some(PathState::Disabled) && !hangs(&failed) {
                failed = self.command(path, PathAction::Enable).err().or(failed);
            }
        }
        if !hangs(&failed) {
            let PolicyStatus { policy, prefer, .. } = self.policy.clone();
            failed = self.policy(policy, prefer).err().or(failed);
        }
        // A path that is merely down is not ours to wait for: as long as it is not disabled any more.
        let until = Instant::now() + SETTLE_BACK;
        let settled = |path: &crate::api::PathStatus| {
            !self.paths.contains(&path.name)
                || is_usable(path.state)
                || path.state == PathState::Failed
        };
        while failed.is_none()
            && Instant::now() < until
            && !self.status()?.paths.iter().all(settled)
            && !self.interrupts.came(LOOK)
        {}
        failed.map_or(Ok(()), Err)
    }
}

impl Drop for Before<'_> {
    fn drop(&mut self) {
        if let Err(failure) = self.put_back() {
            failure.messages.iter().for_each(|why| output::error(why));
        }
    }
}

/// How a series that was interrupted between two runs ends.
#[must_use]
pub fn interrupted() -> Failure {
    Failure::failed("bench: it was interrupted; try: again")
}

fn ask_policy(
    managed: &Managed,
    policy: Option<String>,
    prefer: Option<String>,
    wait: &Wait<'_>,
) -> Result<PolicyStatus, Failure> {
    let device = managed.name.clone();
    let command = Command::Policy { device, policy, weights: Default::default(), prefer };
    match client::ask_while(managed.control.as_deref(), command, wait)? {
        Outcome::Policy(status) => Ok(status),
        _ => Err(client::unexpected()),
    }
}

fn is_usable(state: PathState) -> bool {
    matches!(state, PathState::Active | PathState::Standby | PathState::Suspect)
}

fn state_of(status: &DeviceStatus, name: &str) -> Option<PathState> {
    status.paths.iter().find(|path| path.name == name).map(|path| path.state)
}

fn missing(
    status: &DeviceStatus,
    paths: &[String],
    done: impl Fn(PathState) -> bool,
) -> Vec<String> {
    let not = |path: &&String| !state_of(status, path).is_some_and(&done);
    paths.iter().filter(not).cloned().collect()
}

/// Rates closer than this are the same rate.
const SAME_RATE: f64 = 0.95;

/// Those that are as fast as the fastest, as far as this machine can tell: nearly the same rate, or a fastest round
/// that reaches the slowest of the other's. The one with the shortest p99 comes first.
#[must_use]
pub fn best<'a>(runs: impl Iterator<Item = &'a Varied>) -> Vec<&'a Varied> {
    let good: Vec<&Varied> = runs.filter(|varied| varied.is_good()).collect();
    let top = good.iter().max_by(|a, b| a.run.iops().total_cmp(&b.run.iops())).copied();
    let Some(top) = top else { return Vec::new() };
    let as_fast = |varied: &&Varied| {
        varied.run.iops() >= top.run.iops() * SAME_RATE || varied.greatest() >= top.least()
    };
    let mut best: Vec<&Varied> = good.into_iter().filter(as_fast).collect();
    best.sort_by_key(|varied| varied.run.p99());
    best
}
