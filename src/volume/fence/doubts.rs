//! What an administrator sees of ranges in doubt, and what his word does to them.

use crate::base::{Duration, Instant};
use crate::path::{BlockRange, FenceMode, InDoubt, Nexus, PathIndex, Proof};
use crate::volume::admin::AdminError;
use crate::volume::link::{Link, Phase};
use crate::volume::{Volume, fencing};

/// A range in doubt on one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// Which blocks.
    pub range: BlockRange,
    /// Path that the write was sent on, by name.
    pub path: String,
    /// Lane of the session.
    pub lane: u16,
    /// How long it has been in doubt.
    pub age: Duration,
    /// Commands of it that may still be executed.
    pub copies: u32,
    /// Whether its client has been answered.
    pub answered: bool,
    /// What is being tried, or what is waited for.
    pub trying: String,
}

impl Volume {
    /// Ranges in doubt on sessions of this lane, the eldest first.
    #[must_use]
    pub fn doubts(&self, now: Instant) -> Vec<Doubt> {
        let mut found: Vec<InDoubt> = self.shared.ledger().in_doubt().collect();
        found.retain(|doubt| match doubt.nexus.inheritance() {
            Some(_) => self.lane == 0,
            None => doubt.nexus.lane == self.lane,
        });
        found.sort_by_key(|doubt| (doubt.since, doubt.range.start()));
        found.iter().map(|doubt| self.doubt(now, doubt)).collect()
    }

    fn doubt(&self, now: Instant, doubt: &InDoubt) -> Doubt {
        let (path, mut trying) = self.whose(now, doubt.nexus);
        let limit = self.spec.tunables.fence_timeout;
        if self.spec.tunables.fence == FenceMode::Overlap && limit < Duration::MAX {
            let left = doubt.since + limit - now;
            trying += &format!("; released without a proof in {:.0} s", left.as_secs_f64());
        }
        Doubt {
            range: doubt.range,
            path,
            lane: self.lane,
            age: now - doubt.since,
            copies: doubt.copies,
            answered: doubt.answered,
            trying,
        }
    }

    /// The path's name, and what is done about it.
    fn whose(&self, now: Instant, nexus: Nexus) -> (String, String) {
        let Some(index) = nexus.inheritance() else {
            let link = &self.links[nexus.path.get()];
            return (link.spec.name.clone(), self.trying(now, link, nexus));
        };
        let (record, configured) =
            self.shared.inheritance().record(index).expect("an inherited nexus has a record");
        let before = format!("left behind by an earlier process on lane {}", record.lane);
        let trying = match self.inherited_link(nexus) {
            Some(link) => format!("{before}: {}", self.trying(now, link, nexus)),
            None if *configured => format!("{before}: waits for its path"),
            None => format!("{before}: its path is not configured any more"),
        };
        (record.path.clone(), trying)
    }

    /// The path of this lane that an inherited nexus belonged to, on whatever lane.
    pub(in crate::volume) fn inherited_link(&self, nexus: Nexus) -> Option<&Link> {
        let (record, _) = self.shared.inheritance().record(nexus.inheritance()?)?;
        self.links.iter().find(|link| link.spec.name == record.path)
    }

    /// What is done at this moment to get a proof for a session of this path.
    fn trying(&self, now: Instant, link: &Link, nexus: Nexus) -> String {
        let since = |at: Instant| format!("{:.1} s ago", (now - at).as_secs_f64());
        let present = fencing::nexus(self, link.index);
        match &link.phase {
            Phase::Fencing => match link.reset {
                Some(r) if r.sent => {
                    format!("logged in again, LOGICAL UNIT RESET sent {}", since(r.since))
                }
                _ => "logged in again, waits for another lane's LOGICAL UNIT RESET, or to send one when no \
                      other session there has a write on its way"
                    .to_owned(),
            },
            Phase::Up | Phase::Probing(_) if nexus == present => match link.reset {
                Some(r) if r.sent => {
                    format!("LOGICAL UNIT RESET sent on its own session {}", since(r.since))
                }
                _ => "ABORT TASK sent on its own session".to_owned(),
            },
            Phase::Up | Phase::Probing(_) | Phase::LoggingOut { .. } => {
                "nothing more: the new login proves nothing (see the events)".to_owned()
            }
            Phase::Connecting | Phase::LoggingIn => "logging in again".to_owned(),
            Phase::Waiting | Phase::Closing { .. } => {
                let why = self.engine.last_failure(link.index);
                format!("will log in again; last failure: {why}")
            }
            Phase::Disabled => "nothing: the path is disabled".to_owned(),
        }
    }

    /// An administrator says that the node behind this path is off: every write sent there until now is
    /// dead. With `only_ask` nothing is done but to see whether it could be. Returns how many ranges came
    /// out of doubt.
    ///
    /// # Errors
    /// No such path, or one whose session lives: its node is not off.
    pub fn confirm_dead(
        &mut self,
        now: Instant,
        name: &str,
        only_ask: bool,
    ) -> Result<usize, AdminError> {
        let path = self.vouched_for(name)?;
        if path.is_some_and(|path| self.links[path.get()].is_logged_in()) {
            return Err(AdminError::PathLives {
                device: self.spec.name.clone(),
                path: name.to_owned(),
            });
        }
        if only_ask {
            return Ok(0);
        }
        let own = path.map(|path| fencing::nexus(self, path));
        let shared = self.shared.clone();
        let inherited = shared.inheritance().named(name);
        let all = own.into_iter().chain(inherited);
        Ok(fencing::confirmed(self, now, path, all, Proof::Confirmed))
    }

    /// The path of that name; `None` for one that only an earlier process knew.
    fn vouched_for(&self, name: &str) -> Result<Option<PathIndex>, AdminError> {
        match self.find_path(name) {
            Ok(path) => Ok(Some(path)),
            Err(_) if self.shared.inheritance().named(name).next().is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
