//! What admin commands do: ask the lanes of the device, put their answers together.

use super::shared::Shared;
use super::{fences, merge, snapshot};
use crate::api::{
    self, Change, Command, DeviceState, Error, ErrorKind, Outcome, PathAction, PolicyStatus,
    SetStatus, Status,
};
use crate::base::Duration;
use crate::control::config::document::suggest;
use crate::control::config::{build, tune};
use crate::control::server::Handler;
use crate::lane;
use crate::path::{Policy, WEIGHT_MAX};
use crate::volume::admin::Snapshot;
use crate::volume::spec::Tunables;
use crate::volume::tunables;
use std::collections::BTreeMap;
use std::rc::Rc;
use tokio::sync::oneshot;

/// A lane that does not answer for this long is stuck.
pub const LANE_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers administrators.
pub struct Admin {
    shared: Rc<Shared>,
}

impl Handler for Admin {
    async fn handle(&self, command: Command) -> Outcome {
        let done = match command {
            Command::Status { device } => self.status(device.as_deref()).await,
            Command::Policy { device, policy, weights, prefer } => {
                self.policy(&device, policy.as_deref(), weights, prefer).await
            }
            Command::Set { device, values } => self.set(&device, &values).await,
            Command::Path { device, path, action, force } => {
                self.path(&device, path, action, force).await
            }
            Command::Fences { device } => fences::list(&self.shared, &device).await,
            Command::ConfirmDead { device, path } => {
                fences::confirm_dead(&self.shared, &device, &path).await
            }
        };
        done.unwrap_or_else(Outcome::Error)
    }
}

impl Admin {
    /// For the devices of `shared`.
    #[must_use]
    pub fn new(shared: Rc<Shared>) -> Admin {
        Admin { shared }
    }

    fn device(&self, name: &str) -> Result<usize, Error> {
        find_device(&self.shared, name)
    }

    fn known_path(&self, device: usize, path: &str) -> Result<(), Error> {
        known_path(&self.shared, device, path)
    }

    async fn status(&self, device: Option<&str>) -> Result<Outcome, Error> {
        let wanted = match device {
            Some(name) => vec![self.device(name)?],
            None => (0..self.shared.config.devices.len()).collect(),
        };
        let mut devices = Vec::new();
        for index in wanted {
            devices.push(device_status(&self.shared, index).await?);
        }
        let daemon = self.shared.daemon();
        Ok(Outcome::Status(Box::new(Status { version: api::VERSION, daemon, devices })))
    }

    async fn policy(
        &self,
        device: &str,
        policy: Option<&str>,
        weights: BTreeMap<String, u32>,
        prefer: Option<String>,
    ) -> Result<Outcome, Error> {
        let index = self.device(device)?;
        let policy = policy
            .map(|name| {
                name.parse::<Policy>().map_err(|error| {
                    Error::new(ErrorKind::Invalid, format!("policy {name}"), error.to_string())
                        .hint(build::policies(name))
                })
            })
            .transpose()?;
        for path in weights.keys().chain(&prefer) {
            self.known_path(index, path)?;
        }
        if let Some((path, weight)) = weights.iter().find(|(_, weight)| **weight > WEIGHT_MAX) {
            let why = format!("{weight} is out of range");
            return Err(Error::new(ErrorKind::Invalid, format!("weight of {path}"), why)
                .hint(format!("a whole number from 0 to {WEIGHT_MAX}")));
        }
        let mut first: Option<Policy> = None;
        for lane in 0..self.shared.lane_count(index) {
            let answer = self.ask(index, lane, LANE_TIMEOUT, |reply| lane::Command::SetPolicy {
                device: device.to_owned(),
                policy,
                weights: weights.iter().map(|(path, weight)| (path.clone(), *weight)).collect(),
                prefer: prefer.clone(),
                reply,
            });
            let policy = answer.await?.map_err(|error| refused(&error))?;
            first.get_or_insert(policy);
        }
        let policy = first.ok_or_else(|| stuck(device))?;
        self.policy_status(index, policy).await.map(Outcome::Policy)
    }

    /// Changes tunables, or only shows them. They are checked as a whole before a lane hears of them.
    async fn set(&self, device: &str, values: &BTreeMap<String, String>) -> Result<Outcome, Error> {
        let index = self.device(device)?;
        let before = self.shared.tunables(index).clone();
        let after = tune::apply(&before, values).map_err(|refused| {
            let hint = refused.wrong.hint.replace("DEVICE", device);
            Error::new(ErrorKind::Invalid, refused.key, refused.wrong.problem).hint(hint)
        })?;
        let changed = tune::changes(&before, &after);
        if !changed.is_empty() {
            self.retune(index, &after, &changed).await?;
        }
        Ok(Outcome::Set(SetStatus {
            device: device.to_owned(),
            changed,
            warnings: tunables::warnings(&after),
            tunables: tune::list(&after),
        }))
    }

    /// Every lane is told before the first one is waited for, so that two administrators are heard in the
    /// same order everywhere.
    async fn retune(
        &self,
        index: usize,
        after: &Tunables,
        changed: &[Change],
    ) -> Result<(), Error> {
        let device = &self.shared.config.devices[index].name;
        let text: Vec<String> = changed.iter().map(|c| format!("{}={}", c.key, c.to)).collect();
        let changes = text.join(" ");
        self.shared.set_tunables(index, after.clone());
        let mut answers = Vec::new();
        for lane in self.shared.lanes_of(index).iter() {
            let (reply, answer) = oneshot::channel();
            lane.send(lane::Command::SetTunables {
                device: device.clone(),
                tunables: Box::new(after.clone()),
                changes: changes.clone(),
                reply,
            });
            answers.push(answer);
        }
        for warning in tunables::warnings(after) {
            tracing::warn!(%device, "{warning}");
        }
        for answer in answers {
            match tokio::time::timeout(LANE_TIMEOUT, answer).await {
                Ok(Ok(done)) => done.map_err(|error| refused(&error))?,
                Ok(Err(_)) | Err(_) => return Err(stuck(device)),
            }
        }
        Ok(())
    }

    /// The policy with what it works on: weights and preference of every path.
    async fn policy_status(&self, index: usize, policy: Policy) -> Result<PolicyStatus, Error> {
        let device = self.shared.config.devices[index].name.clone();
        let paths = first_lane(&self.shared, index).await?.paths;
        Ok(PolicyStatus {
            device,
            policy: policy.to_string(),
            weights: paths.iter().map(|path| (path.name.clone(), path.weight)).collect(),
            prefer: paths.iter().find(|path| path.preferred).map(|path| path.name.clone()),
        })
    }

    async fn path(
        &self,
        device: &str,
        path: String,
        action: PathAction,
        force: bool,
    ) -> Result<Outcome, Error> {
        let index = self.device(device)?;
        self.known_path(index, &path)?;
        let command = |action| {
            let (device, path) = (device.to_owned(), path.clone());
            let action = match action {
                PathAction::Disable => lane::PathAction::Disable { force },
                PathAction::Enable => lane::PathAction::Enable,
                PathAction::Recheck => lane::PathAction::Recheck,
            };
            move |reply| lane::Command::Path { device, path, action, reply }
        };
        let shutdown_timeout = self.shared.tunables(index).shutdown_timeout;
        let patience = shutdown_timeout.saturating_add(LANE_TIMEOUT);
        for lane in 0..self.shared.lane_count(index) {
            let done = self.ask(index, lane, patience, command(action)).await;
            let done = done.and_then(|done| done.map_err(|error| refused(&error)));
            let Err(error) = done else { continue };
            if action == PathAction::Disable {
                // One lane refuses: the path stays in use as a whole.
                for lane in 0..lane {
                    let _ = self.ask(index, lane, patience, command(PathAction::Enable)).await;
                }
            }
            return Err(error);
        }
        tracing::info!(%device, %path, %action, "asked for by an administrator");
        Ok(Outcome::Done {})
    }

    async fn ask<T>(
        &self,
        device: usize,
        lane: usize,
        patience: Duration,
        command: impl FnOnce(oneshot::Sender<T>) -> lane::Command,
    ) -> Result<T, Error> {
        ask(&self.shared, device, lane, patience, command).await
    }
}

/// The device of that name.
///
/// # Errors
/// There is none; the nearest name is what to try.
pub fn find_device(shared: &Shared, name: &str) -> Result<usize, Error> {
    let devices = &shared.config.devices;
    if let Some(index) = devices.iter().position(|device| device.name == name) {
        return Ok(index);
    }
    let known = || devices.iter().map(|device| device.name.as_str());
    let hint = suggest(name, known())
        .map_or_else(|| known().collect::<Vec<_>>().join(", "), str::to_owned);
    Err(Error::new(ErrorKind::NotFound, format!("device {name}"), "there is no such device")
        .hint(hint))
}

/// Whether a device has that path.
///
/// # Errors
/// It has not; the nearest name is what to try.
pub fn known_path(shared: &Shared, device: usize, path: &str) -> Result<(), Error> {
    let known = shared.path_names(device);
    if known.iter().any(|name| name == path) {
        return Ok(());
    }
    let hint = match (suggest(path, known.iter().map(String::as_str)), known.is_empty()) {
        (Some(near), _) => near.to_owned(),
        (None, true) => "again when discovery has found paths".to_owned(),
        (None, false) => known.join(", "),
    };
    let device = &shared.config.devices[device].name;
    Err(Error::new(
        ErrorKind::NotFound,
        format!("path {path}"),
        format!("device {device} has no such path"),
    )
    .hint(hint))
}

/// The answer for what a lane has refused.
pub fn refused(error: &lane::CommandError) -> Error {
    use crate::volume::admin::AdminError;
    match error {
        lane::CommandError::NoSuchDevice(device) => stuck(device),
        lane::CommandError::Refused(AdminError::NoSuchPath { device, path, known }) => Error::new(
            ErrorKind::NotFound,
            format!("path {path}"),
            format!("device {device} has no such path"),
        )
        .hint(known.clone()),
        lane::CommandError::Refused(AdminError::LastPath { device, path }) => Error::new(
            ErrorKind::Refused,
            format!("path {path}"),
            format!("it is the last usable path of {device}: without it all I/O stops"),
        )
        .hint("--force"),
        lane::CommandError::Refused(AdminError::PathLives { device, path }) => Error::new(
            ErrorKind::Refused,
            format!("path {path}"),
            "it is logged in, so the node of its target is not off: nothing was released"
                .to_owned(),
        )
        .hint(format!("mpio fence {device} list says what is being tried")),
    }
}

fn stuck(device: &str) -> Error {
    Error::new(ErrorKind::Failed, format!("device {device}"), "its lane does not answer")
        .hint("the daemon's log, and starting it again")
}

/// Asks one lane of a device.
///
/// # Errors
/// When it does not answer in time.
pub async fn ask<T>(
    shared: &Shared,
    device: usize,
    lane: usize,
    patience: Duration,
    command: impl FnOnce(oneshot::Sender<T>) -> lane::Command,
) -> Result<T, Error> {
    let (reply, answer) = oneshot::channel();
    match shared.lanes_of(device).get(lane) {
        Some(handle) => handle.send(command(reply)),
        None => return Err(stuck(&shared.config.devices[device].name)),
    }
    match tokio::time::timeout(patience, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => Err(stuck(&shared.config.devices[device].name)),
    }
}

/// What the first lane of a device sees. All of them have the same paths.
///
/// # Errors
/// When it does not answer.
pub async fn first_lane(shared: &Shared, device: usize) -> Result<Snapshot, Error> {
    let name = shared.config.devices[device].name.clone();
    let wanted = Some(name.clone());
    let command = |reply| lane::Command::Status { device: wanted, reply };
    let snapshots = ask(shared, device, 0, LANE_TIMEOUT, command).await?;
    snapshots.into_iter().next().ok_or_else(|| stuck(&name))
}

/// The whole status of a device: what its lanes say, and what only control knows.
///
/// # Errors
/// When a lane does not answer.
pub async fn device_status(shared: &Shared, device: usize) -> Result<api::DeviceStatus, Error> {
    let spec = &shared.config.devices[device];
    let mut parts = Vec::new();
    for lane in 0..shared.lane_count(device) {
        let name = Some(spec.name.clone());
        let command = |reply| lane::Command::Status { device: name, reply };
        let snapshots = ask(shared, device, lane, LANE_TIMEOUT, command).await?;
        parts.extend(snapshots.iter().map(|s| snapshot::device(s, lane == 0)));
    }
    let mut status = merge::lanes(parts).ok_or_else(|| stuck(&spec.name))?;
    status.export = spec.export.to_string();
    status.events.extend(shared.events());
    merge::trim_events(&mut status);
    if status.state == DeviceState::Ok && shared.incomplete(device) {
        status.state = DeviceState::Degraded;
    }
    let order = shared.path_names(device);
    status.paths.sort_by_key(|path| order.iter().position(|name| *name == path.name));
    Ok(status)
}
