//! Nexuses that outlive us: what must be known after a crash.
//!
//! Before the first state-changing command of a nexus (target, portal group, initiator name, ISID) leaves,
//! the driver has written it down where the next process finds it. A clean logout strikes it out again, so
//! that what is found at start may still have writes on their way. Those are in doubt like those of a
//! session that was lost a moment ago, and over every block of the device, since nobody remembers which:
//! one ticket of the ledger with a copy on each such nexus. Reads go on.
//!
//! Deliberately not here: files (control).

use crate::base::{Duration, Instant};
use crate::path::planted::{Bug, planted};
use crate::path::{BlockRange, Grant, Ledger, Nexus, Owner, PathIndex, PathSet, TicketId};
use crate::volume::link::Link;
use crate::volume::{Action, Level, Volume, fencing};
use std::net::SocketAddr;

/// A nexus by the names that outlive a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NexusRecord {
    /// The target's iSCSI name.
    pub target: String,
    /// Portal group that it named at login.
    pub portal_group: Option<u16>,
    /// Portals that the nexus was reached by.
    pub portals: Vec<SocketAddr>,
    /// The initiator's half of the nexus, besides its name.
    pub isid: [u8; 6],
    /// The 8-byte LUN field.
    pub lun: u64,
    /// Name of the path.
    pub path: String,
    /// Lane that had the session.
    pub lane: u16,
}

/// What an earlier process has left behind.
pub struct Inheritance {
    /// Its nexuses; with the path that is configured for it now, if one is.
    records: Vec<(NexusRecord, bool)>,
    ticket: Option<TicketId>,
}

/// No request has it: its token is that of no table.
const NOBODY: Owner = Owner { lane: u16::MAX, token: u64::MAX };

impl Inheritance {
    /// Nothing was left behind.
    #[must_use]
    pub fn none() -> Inheritance {
        Inheritance { records: Vec::new(), ticket: None }
    }

    /// Takes the whole device in the ledger, until every one of these nexuses is proven dead. With each
    /// record goes whether the configuration still has its path.
    ///
    /// # Panics
    /// When the ledger has ranges already.
    #[must_use]
    pub fn take(
        now: Instant,
        ledger: &mut Ledger,
        records: Vec<(NexusRecord, bool)>,
    ) -> Inheritance {
        if records.is_empty() {
            return Inheritance::none();
        }
        if planted(Bug::LeftBehindIgnored) {
            return Inheritance { records, ticket: None };
        }
        let all = BlockRange::new(0, u64::MAX).expect("a range");
        let Grant::Taken(ticket) = ledger.acquire(all, NOBODY) else {
            panic!("what was left behind comes before every write")
        };
        for (index, (record, _)) in records.iter().enumerate() {
            let nexus = Nexus::inherited(index, record.portal_group);
            ledger.sent(ticket, nexus);
            ledger.copy_in_doubt(now, ticket, nexus);
        }
        ledger.release(ticket);
        Inheritance { records, ticket: Some(ticket) }
    }

    /// The record of an inherited nexus, and whether its path is configured.
    #[must_use]
    pub fn record(&self, index: usize) -> Option<&(NexusRecord, bool)> {
        self.records.get(index)
    }

    /// What was left behind on the nexus that a path has with this ISID.
    #[must_use]
    pub fn find(&self, target: &str, isid: [u8; 6]) -> Option<Nexus> {
        let index = self.records.iter().position(|(r, _)| r.target == target && r.isid == isid)?;
        Some(Nexus::inherited(index, self.records[index].0.portal_group))
    }

    /// Whether nothing was left behind.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Nexuses with this path name.
    pub fn named<'a>(&'a self, path: &'a str) -> impl Iterator<Item = Nexus> + 'a {
        let records = self.records.iter().enumerate();
        let named = records.filter(move |(_, (record, _))| record.path == path);
        named.map(|(index, (record, _))| Nexus::inherited(index, record.portal_group))
    }

    /// Whether a range in doubt is the one over the whole device.
    #[must_use]
    pub fn owns(&self, ticket: TicketId) -> bool {
        self.ticket == Some(ticket)
    }

    /// All nexuses, with their record and whether their path is configured.
    pub fn all(&self) -> impl Iterator<Item = (Nexus, &NexusRecord, bool)> {
        self.records.iter().enumerate().map(|(index, (record, configured))| {
            (Nexus::inherited(index, record.portal_group), record, *configured)
        })
    }
}

/// Whether a nexus is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) enum Recorded {
    No,
    /// The driver is at it, since then.
    Asked(Instant),
    /// It could not: to be asked again then.
    Failed(Instant),
    Yes,
}

/// A record that could not be written is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// A record is waited for this long before commands go by other paths only: the policy shall choose among
/// all of them as a rule, and a disk that hangs shall not stop the device.
const PATIENCE: Duration = Duration::from_millis(100);

/// A path has come: it may have been there before.
pub(in crate::volume) fn added(v: &mut Volume, path: PathIndex) {
    if v.lane == 0 && !v.shared.inheritance().is_empty() {
        // Its acknowledged writes may be in any target's cache still, and a FLUSH of ours speaks for them.
        v.shared.written_before(path);
    }
    let link = &mut v.links[path.get()];
    link.inherited = v.shared.inheritance().find(&link.spec.target, link.spec.isid);
    if v.shared.records() && link.inherited.is_none() {
        v.unrecorded.insert(path);
    } else {
        link.recorded = Recorded::Yes;
    }
}

/// The record of a path's nexus as of its present session.
fn record(v: &Volume, link: &Link) -> NexusRecord {
    let spec = &link.spec;
    NexusRecord {
        target: spec.target.clone(),
        portal_group: link.portal_group,
        portals: vec![spec.portal],
        isid: spec.isid,
        lun: spec.lun,
        path: spec.name.clone(),
        lane: v.lane,
    }
}

/// State-changing commands wait for these paths: their nexuses are to be written down. Returns whether it is
/// worth waiting a moment.
pub(in crate::volume) fn ask(v: &mut Volume, now: Instant, paths: PathSet) -> bool {
    let mut soon = false;
    for path in paths.iter() {
        let link = &v.links[path.get()];
        let due = match link.recorded {
            Recorded::No => true,
            Recorded::Failed(at) => at <= now,
            Recorded::Asked(since) => {
                soon |= now < since + PATIENCE;
                false
            }
            Recorded::Yes => false,
        };
        if due {
            soon |= link.recorded == Recorded::No;
            let record = record(v, link);
            v.links[path.get()].recorded = Recorded::Asked(now);
            v.actions.push_back(Action::RecordNexus { path, record });
        }
    }
    soon
}

/// The driver has written the nexus down, or could not.
pub(in crate::volume) fn recorded(
    v: &mut Volume,
    now: Instant,
    path: PathIndex,
    result: Result<(), String>,
) {
    let link = &mut v.links[path.get()];
    if !matches!(link.recorded, Recorded::Asked(_)) {
        return;
    }
    match result {
        Ok(()) => {
            link.recorded = Recorded::Yes;
            v.unrecorded.remove(path);
        }
        Err(why) => {
            link.recorded = Recorded::Failed(now + RETRY);
            let why = format!(
                "writes by this path wait: its session could not be written down, and after a crash nobody \
                 would know that they may still land: {why}"
            );
            v.notice(now, Level::Error, Some(path), "state file", &why);
        }
    }
}

/// The session has been logged out, or is over with nothing in doubt: nothing of it can come any more.
pub(in crate::volume) fn forget(v: &mut Volume, path: PathIndex) {
    let link = &v.links[path.get()];
    if !v.shared.records() || link.recorded != Recorded::Yes || may_come(v, path) {
        return;
    }
    let record = record(v, link);
    v.links[path.get()].recorded = Recorded::No;
    v.unrecorded.insert(path);
    v.actions.push_back(Action::ForgetNexus(record));
}

/// Whether something that was sent on the path may still be executed.
fn may_come(v: &Volume, path: PathIndex) -> bool {
    let carries = |part: &crate::volume::request::Part| {
        part.verb.changes_state() && part.flight.is_some_and(|flight| flight.path == path)
    };
    let inherited = v.links[path.get()].inherited;
    let own = fencing::nexus(v, path);
    let ledger = v.shared.ledger();
    let doubt = ledger.in_doubt().any(|d| own.follows(d.nexus) || Some(d.nexus) == inherited);
    doubt || v.parts.iter().any(|(_, part)| carries(part))
}

/// The service is at its end: what cannot come any more is struck out.
pub(in crate::volume) fn end(v: &mut Volume) {
    tidy(v);
    for index in 0..v.links.len() {
        forget(v, v.links[index].index);
    }
}

/// Inherited nexuses without a path that are not in doubt any more: by somebody's word, or by
/// `fence_timeout`. One lane looks after them.
pub(in crate::volume) fn tidy(v: &mut Volume) {
    if v.lane != 0 || v.inherited_tidy {
        return;
    }
    let left = v.shared.ledger().in_doubt().any(|doubt| doubt.nexus.inheritance().is_some());
    if left {
        return;
    }
    v.inherited_tidy = true;
    let shared = v.shared.clone();
    let inheritance = shared.inheritance();
    let gone = inheritance.all().filter(|(.., configured)| !configured);
    let gone: Vec<NexusRecord> = gone.map(|(_, record, _)| record.clone()).collect();
    v.actions.extend(gone.into_iter().map(Action::ForgetNexus));
}

/// Tells what was left behind, once.
pub(in crate::volume) fn announce(v: &mut Volume, now: Instant) {
    if v.lane != 0 {
        return;
    }
    let inheritance = v.shared.inheritance();
    let told: Vec<(Level, String)> = inheritance
        .all()
        .map(|(_, record, configured)| match configured {
            true => (
                Level::Warn,
                format!(
                    "an earlier process did not log out of {} (path {}): its last writes may still land; \
                     no write is sent before that is proven impossible",
                    record.target, record.path
                ),
            ),
            false => (
                Level::Error,
                format!(
                    "an earlier process did not log out of {} (path {}, portals {:?}), and that path is not \
                     configured any more: its last writes may still land, and no write is sent before \
                     fence_timeout; try: configure the path again, or, if its node is off, mpio fence {} \
                     confirm-dead {}",
                    record.target, record.path, record.portals, v.spec.name, record.path
                ),
            ),
        })
        .collect();
    for (level, why) in told {
        v.notice(now, level, None, "left behind", &why);
    }
}
