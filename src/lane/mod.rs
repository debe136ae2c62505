//! STUB of the lane's interface, only to compile and test control and cli against. The real lane replaces
//! this file whole; nothing here is logic of the product: devices are listed as `down`, clients are closed.

use crate::api;
use crate::path::Policy;
use crate::volume::spec::{DeviceSpec, PathSpec};
use std::os::fd::OwnedFd;
use tokio::sync::oneshot;

/// How a lane is made.
#[derive(Debug, Clone, Default)]
pub struct LaneConfig {
    /// Number of the lane, from 0.
    pub id: u16,
}

/// Why a lane cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("lane: {0}")]
pub struct LaneError(pub String);

/// What control asks of a lane.
pub enum Command {
    /// A device without paths.
    AddDevice(Box<DeviceSpec>),
    /// One more path of a device.
    AddPath {
        /// Device name.
        device: String,
        /// The path.
        path: Box<PathSpec>,
    },
    /// An accepted NBD connection.
    Client {
        /// Device name.
        device: String,
        /// The socket.
        fd: OwnedFd,
        /// Who it is, for logs.
        peer: String,
    },
    /// Status of one device or all.
    Status {
        /// Device name.
        device: Option<String>,
        /// Where the answer goes.
        reply: oneshot::Sender<Vec<api::DeviceStatus>>,
    },
    /// Shows or changes the policy.
    SetPolicy {
        /// Device name.
        device: String,
        /// New policy.
        policy: Option<Policy>,
        /// New weights by path name.
        weights: Vec<(String, u32)>,
        /// Path to prefer.
        prefer: Option<String>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<api::PolicyStatus, api::Error>>,
    },
    /// Takes a path out or back.
    Path {
        /// Device name.
        device: String,
        /// Path name.
        path: String,
        /// What to do.
        action: api::PathAction,
        /// Even the last usable one.
        force: bool,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(), api::Error>>,
    },
    /// Finish what is in flight, flush, log out.
    Drain {
        /// Told when done.
        reply: oneshot::Sender<()>,
    },
}

/// A running lane.
pub struct LaneHandle {
    commands: std::sync::mpsc::Sender<Command>,
    thread: std::thread::JoinHandle<()>,
}

impl LaneHandle {
    /// Starts a lane.
    ///
    /// # Errors
    /// When its thread or ring cannot be made.
    pub fn spawn(_config: LaneConfig) -> Result<LaneHandle, LaneError> {
        let (commands, inbox) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || stub(&inbox));
        Ok(LaneHandle { commands, thread })
    }

    /// Sends a command; one to a lane that is gone is dropped, and its reply channel with it.
    pub fn send(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    /// Ends the thread and waits for it.
    pub fn shutdown(self) {
        drop(self.commands);
        let _ = self.thread.join();
    }
}

fn stub(inbox: &std::sync::mpsc::Receiver<Command>) {
    let mut devices: Vec<api::DeviceStatus> = Vec::new();
    for command in inbox {
        match command {
            Command::AddDevice(spec) => devices.push(api::DeviceStatus {
                name: spec.name,
                policy: spec.policy.to_string(),
                ..Default::default()
            }),
            Command::AddPath { device, path } => {
                let device = devices.iter_mut().find(|d| d.name == device);
                if let Some(device) = device {
                    device.paths.push(api::PathStatus {
                        name: path.name,
                        portal: path.portal.to_string(),
                        target: path.target,
                        weight: path.weight,
                        ..Default::default()
                    });
                }
            }
            Command::Client { fd, .. } => drop(fd),
            Command::Status { device, reply } => {
                let wanted = |d: &&api::DeviceStatus| device.as_ref().is_none_or(|n| *n == d.name);
                let _ = reply.send(devices.iter().filter(wanted).cloned().collect());
            }
            Command::SetPolicy { device, policy, reply, .. } => {
                let policy = policy.unwrap_or_default().to_string();
                let status = api::PolicyStatus { device, policy, ..Default::default() };
                let _ = reply.send(Ok(status));
            }
            Command::Path { reply, .. } => drop(reply.send(Ok(()))),
            Command::Drain { reply } => drop(reply.send(())),
        }
    }
}
