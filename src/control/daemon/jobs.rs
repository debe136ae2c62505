//! Discovery jobs: one task per portal, until everything that is configured was found, and again whenever a target
//! says that its portals or units have changed.
//!
//! A portal that does not answer is asked again, after 1 s first, then ever more seldom, up to 5 s: a client
//! may be waiting for it. One that answers while a target is still missing everywhere is asked up to every 30 s.
//! Paths that were found are the lanes' business from then on, whatever a later answer says.

use super::handler::{device_status, first_lane};
use super::shared::{Asked, Shared};
use crate::api::DeviceState;
use crate::control::discovery::{self, Question};
use crate::control::runtime;
use crate::path::State;
use crate::volume::admin::PathSnapshot;
use std::rc::Rc;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Between questions to a portal that does not answer.
const LONGEST_DOWN: Duration = Duration::from_secs(5);
/// Between questions to a portal that answers and lacks a target.
const LONGEST_INCOMPLETE: Duration = Duration::from_secs(30);

/// How long a start is watched before it is left alone.
const WATCHED: Duration = Duration::from_secs(60);

/// Starts the jobs of all portals.
pub fn start(shared: &Rc<Shared>) {
    for index in 0..shared.config.portals.len() {
        runtime::spawn(portal(shared.clone(), index));
    }
}

async fn portal(shared: Rc<Shared>, index: usize) {
    let portal = &shared.config.portals[index];
    let mut pause = FIRST_PAUSE;
    let mut told = String::new();
    loop {
        let changes = shared.changes();
        let result =
            if portal.discovery { ask(&shared, index).await } else { fixed(&shared, index).await };
        let longest = if result.is_ok() { LONGEST_INCOMPLETE } else { LONGEST_DOWN };
        match result {
            Ok(()) => {
                if !told.is_empty() {
                    tracing::info!(portal = %portal.name, "answers again");
                    shared.event(index, "portal-up", "it answers discovery");
                    told.clear();
                }
                if !portal.discovery {
                    return;
                }
                if complete(&shared) {
                    // However often targets say it.
                    tokio::time::sleep(FIRST_PAUSE).await;
                    shared.change_after(changes).await;
                    tracing::info!(portal = %portal.name, "asked again: a target has said that something changed");
                    pause = FIRST_PAUSE;
                    continue;
                }
            }
            Err(why) => {
                if why != told {
                    tracing::warn!(portal = %portal.name, "{why}");
                    shared.event(index, "portal-down", &why);
                    told = why;
                }
            }
        }
        tokio::time::sleep(FIRST_PAUSE).await;
        tokio::select! {
            () = tokio::time::sleep(pause - FIRST_PAUSE) => pause = (pause * 2).min(longest),
            () = shared.change_after(changes) => pause = FIRST_PAUSE,
        }
    }
}

fn complete(shared: &Shared) -> bool {
    let plan = shared.plan.borrow();
    (0..shared.config.devices.len()).all(|device| plan.missing(&shared.config, device).is_empty())
}

/// Asks a portal once and takes in what it says.
async fn ask(shared: &Shared, index: usize) -> Result<(), String> {
    let question = Question::of(&shared.config, index);
    let answer = discovery::ask(&question).await.map_err(|error| error.to_string());
    match answer {
        Ok(answer) => {
            let news = {
                let mut plan = shared.plan.borrow_mut();
                plan.resolve(index, answer.portal);
                plan.found(&shared.config, index, &answer.records)
            };
            set(shared, index, Asked::Well);
            shared.take(index, news);
            Ok(())
        }
        Err(why) => {
            set(shared, index, Asked::Failed(why.clone()));
            Err(why)
        }
    }
}

/// A portal that is not asked: only its name is looked up.
async fn fixed(shared: &Shared, index: usize) -> Result<(), String> {
    let address = &shared.config.portals[index].address;
    match discovery::resolve(address, shared.config.portals[index].source).await {
        Ok(resolved) => {
            let news = {
                let mut plan = shared.plan.borrow_mut();
                plan.resolve(index, resolved);
                plan.fixed(&shared.config, index)
            };
            set(shared, index, Asked::Well);
            shared.take(index, news);
            Ok(())
        }
        Err(error) => {
            set(shared, index, Asked::Failed(error.to_string()));
            Err(error.to_string())
        }
    }
}

fn set(shared: &Shared, index: usize, asked: Asked) {
    shared.asked.borrow_mut()[index] = asked;
    shared.changed.notify_waiters();
}

/// Waits until every device works or can be seen never to; tells which.
///
/// # Errors
/// Why no device can work as configured: every portal failed, no target found, every path leads elsewhere.
pub async fn first_verdict(shared: &Shared) -> Result<(), String> {
    let watched = async {
        let mut open: Vec<usize> = (0..shared.config.devices.len()).collect();
        let mut hopeless = Vec::new();
        while !open.is_empty() {
            let mut still = Vec::new();
            for device in open {
                match look(shared, device).await {
                    None => still.push(device),
                    Some(Ok(())) => {}
                    Some(Err(why)) => {
                        tracing::error!("{why}");
                        hopeless.push(why);
                    }
                }
            }
            open = still;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        hopeless
    };
    let hopeless = tokio::time::timeout(WATCHED, watched).await.unwrap_or_default();
    if !hopeless.is_empty() && hopeless.len() == shared.config.devices.len() {
        return Err(hopeless.join("; "));
    }
    Ok(())
}

/// Whether a device works, never will, or `None` while that is open.
async fn look(shared: &Shared, device: usize) -> Option<Result<(), String>> {
    let name = &shared.config.devices[device].name;
    let asked = shared.asked.borrow().clone();
    if asked.contains(&Asked::NotYet) {
        return None;
    }
    if shared.path_names(device).is_empty() {
        let failed = |asked: &Asked| match asked {
            Asked::Failed(why) => Some(why.clone()),
            _ => None,
        };
        let failures: Vec<String> = asked.iter().filter_map(failed).collect();
        if failures.is_empty() {
            let missing = shared.plan.borrow().missing(&shared.config, device).join(", ");
            return Some(Err(format!(
                "device {name}: no portal shows target {missing}; try: mpio discover lists what they show"
            )));
        }
        return Some(Err(format!("device {name}: {}", failures.join("; "))));
    }
    let status = device_status(shared, device).await.ok()?;
    if matches!(status.state, DeviceState::Ok | DeviceState::Degraded) {
        tracing::info!(device = %name, export = %status.export, state = %status.state, "ready");
        return Some(Ok(()));
    }
    let wrong = wrong_paths(shared, device).await?;
    Some(Err(format!(
        "device {name}: no path leads to what is configured: {}; try: mpio discover",
        wrong.join("; ")
    )))
}

/// What is wrong with each path, if that is something that only a change of configuration cures.
async fn wrong_paths(shared: &Shared, device: usize) -> Option<Vec<String>> {
    let snapshot = first_lane(shared, device).await.ok()?;
    let wrong = |path: &PathSnapshot| match path.state {
        State::Mismatched => Some(format!("path {}: {}", path.name, path.reason)),
        State::Failed if path.misconfigured => {
            Some(format!("path {}: {}", path.name, path.last_failure))
        }
        _ => None,
    };
    let all: Option<Vec<String>> = snapshot.paths.iter().map(wrong).collect();
    all.filter(|paths| !paths.is_empty())
}
