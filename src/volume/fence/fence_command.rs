//! `fence_command`: somebody outside says that a node is off, by exit code 0.
//!
//! It is run when a path with writes in doubt has no session and could not log in again for a while: a
//! proof that asks nobody is better. One run per path at a time, by the first lane for all lanes. Its good
//! end proves dead what was in doubt when it began.

use crate::base::{Duration, Instant};
use crate::path::{Nexus, PathIndex, Proof};
use crate::volume::link::Phase;
use crate::volume::{Action, Level, Volume, fencing, request};
use std::net::SocketAddr;

/// A path gets this long to log in again before the command is run for it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between a bad end and the next run.
const RETRY: Duration = Duration::from_secs(5);

/// One run.
pub(in crate::volume) struct Run {
    id: u64,
    subject: Subject,
    /// What was in doubt when it began.
    nexuses: Vec<Nexus>,
}

/// Whose node is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Path(PathIndex),
    /// An inherited nexus without a path.
    Inherited(usize),
}

/// What the driver has to know to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceCommand {
    /// Names the run.
    pub id: u64,
    /// For `/bin/sh -c`.
    pub command: String,
    /// `MPIO_PATH`.
    pub path: String,
    /// `MPIO_PORTAL`.
    pub portal: Option<SocketAddr>,
    /// `MPIO_TARGET`.
    pub target: String,
}

/// When each subject may be asked about again.
#[derive(Default)]
pub(in crate::volume) struct Runs {
    running: Vec<Run>,
    rests: Vec<(Subject, Instant)>,
    last_id: u64,
}

/// Runs the command for every path that needs it.
pub(in crate::volume) fn tick(v: &mut Volume, now: Instant) {
    if v.lane != 0 || v.spec.tunables.fence_command.is_none() {
        return;
    }
    let mut due: Vec<(Subject, Vec<Nexus>)> = Vec::new();
    {
        let ledger = v.shared.ledger();
        for doubt in ledger.in_doubt().filter(|d| d.since + PATIENCE <= now) {
            let Some(subject) = subject(v, doubt.nexus) else { continue };
            let place = match due.iter().position(|(other, _)| *other == subject) {
                Some(place) => place,
                None => {
                    due.push((subject, Vec::new()));
                    due.len() - 1
                }
            };
            due[place].1.push(doubt.nexus);
        }
    }
    for (subject, nexuses) in due {
        let busy = v.fence_runs.running.iter().any(|run| run.subject == subject);
        let rests = v.fence_runs.rests.iter().any(|(other, at)| *other == subject && now < *at);
        if !busy && !rests {
            run(v, now, subject, nexuses);
        }
    }
}

/// Whose node a nexus in doubt belongs to, if there is nothing better to do about it.
fn subject(v: &Volume, nexus: Nexus) -> Option<Subject> {
    let path = match nexus.inheritance() {
        None => nexus.path,
        // By the name of its path: the nexus itself may be another lane's.
        Some(index) => match v.inherited_link(nexus) {
            Some(link) => link.index,
            None => return Some(Subject::Inherited(index)),
        },
    };
    match v.links.get(path.get())?.phase {
        Phase::Waiting | Phase::Connecting | Phase::Closing { .. } | Phase::Disabled => {
            Some(Subject::Path(path))
        }
        _ => None,
    }
}

fn run(v: &mut Volume, now: Instant, subject: Subject, nexuses: Vec<Nexus>) {
    let command = v.spec.tunables.fence_command.clone().expect("looked at before");
    let (name, portal, target) = match subject {
        Subject::Path(path) => {
            let spec = &v.links[path.get()].spec;
            (spec.name.clone(), Some(spec.portal), spec.target.clone())
        }
        Subject::Inherited(index) => {
            let inheritance = v.shared.inheritance();
            let (record, _) = inheritance.record(index).expect("an inherited nexus has a record");
            (record.path.clone(), record.portals.first().copied(), record.target.clone())
        }
    };
    let runs = &mut v.fence_runs;
    runs.last_id += 1;
    let id = runs.last_id;
    runs.running.push(Run { id, subject, nexuses });
    let why = format!("asks fence_command whether the node behind {name} is off");
    v.notice(now, Level::Info, None, "fence_command", &why);
    let command = FenceCommand { id, command, path: name, portal, target };
    v.actions.push_back(Action::RunFenceCommand(command));
}

/// A run has ended: exit code 0, or why not.
pub(in crate::volume) fn ended(v: &mut Volume, now: Instant, id: u64, result: Result<(), String>) {
    let runs = &mut v.fence_runs;
    let Some(place) = runs.running.iter().position(|run| run.id == id) else { return };
    let Run { subject, nexuses, .. } = runs.running.swap_remove(place);
    runs.rests.retain(|(other, _)| *other != subject);
    match result {
        Ok(()) => {
            let path = match subject {
                Subject::Path(path) => Some(path),
                Subject::Inherited(_) => None,
            };
            fencing::confirmed(v, now, path, nexuses, Proof::Commanded);
        }
        Err(why) => {
            runs.rests.push((subject, now + RETRY));
            let path = match subject {
                Subject::Path(path) => Some(path),
                Subject::Inherited(_) => None,
            };
            let why = format!("fence_command proves nothing: {why}; blocks in doubt stay held");
            v.notice(now, Level::Warn, path, "not fenced", &why);
        }
    }
    request::wake_lanes(v);
}
