//! What is measured: a device of the daemon, through the export that its users have, or any NBD export.

use super::load::Load;
use super::uri::{self, Place};
use crate::api::{Command, DeviceState, DeviceStatus, Outcome};
use crate::cli::Failure;
use crate::cli::client::{self, Wait};
use crate::cli::nbd_client::{Connection, NbdClientError};
use crate::control::config::Export;
use crate::control::config::values::size_text;
use crate::export::client::Exported;
use crate::wire::nbd::transmission_flags::{CAN_MULTI_CONN, READ_ONLY};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a server may take for its handshake.
const PATIENCE: Duration = Duration::from_secs(5);

/// A device of a daemon.
#[derive(Debug, Clone)]
pub struct Managed {
    /// Its name.
    pub name: String,
    /// The daemon's socket, as it was given.
    pub control: Option<PathBuf>,
    /// The daemon's process.
    pub pid: u32,
}

impl Managed {
    /// How the device is now.
    ///
    /// # Errors
    /// Those of [`client::ask`].
    pub fn status(&self, wait: &Wait<'_>) -> Result<DeviceStatus, Failure> {
        ask(&self.name, self.control.as_deref(), wait).map(|(_, device)| device)
    }
}

/// As long as any command waits for a daemon, and while `go_on` says so.
#[must_use]
pub fn until_interrupted(go_on: &dyn Fn() -> bool) -> Wait<'_> {
    Wait { limit: client::TIMEOUT, go_on }
}

/// Where the load goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// As it was given.
    pub shown: String,
    /// The export.
    pub place: Place,
    /// The device behind it, if a daemon was asked for one.
    pub managed: Option<Managed>,
}

impl Target {
    /// Finds `text`: a URI, or a device of the daemon at `control` that can be used.
    ///
    /// # Errors
    /// Exit code 2 for what does not exist or cannot be, 3 without a daemon, 1 for a device that is not
    /// usable or is used by somebody else.
    pub fn find(text: &str, control: Option<&Path>, in_use: bool) -> Result<Target, Failure> {
        if uri::is_uri(text) {
            let place = uri::parse(text).map_err(|why| Failure::wrong(format!("{text}: {why}")))?;
            return Ok(Target { shown: text.to_owned(), place, managed: None });
        }
        let (pid, device) = ask(text, control, &until_interrupted(&|| true))?;
        if !matches!(device.state, DeviceState::Ok | DeviceState::Degraded) {
            return Err(Failure::failed(format!(
                "device {text}: it is {}, no path can carry I/O; try: mpio status {text}",
                device.state
            )));
        }
        if device.clients > 0 && !in_use {
            let clients = if device.clients == 1 { "client uses" } else { "clients use" };
            return Err(Failure::failed(format!(
                "device {text}: {} {clients} it, and would wait behind this load; \
                 try: --in-use, if that is meant",
                device.clients
            )));
        }
        let export = Export::parse(&device.export)
            .map_err(|wrong| Failure::failed(format!("device {text}: its export: {wrong}")))?;
        let place = Place { export, name: text.to_owned() };
        let control = control.map(Path::to_owned);
        let managed = Managed { name: text.to_owned(), control, pid };
        Ok(Target { shown: text.to_owned(), place, managed: Some(managed) })
    }

    /// One connection to it.
    ///
    /// # Errors
    /// Exit code 1 when nobody is there or the export is refused.
    pub fn connect(&self) -> Result<Connection, Failure> {
        Connection::open(&self.place.export, &self.place.name, PATIENCE).map_err(|error| {
            let hint = match &error {
                NbdClientError::Io { .. } => "is the server running, and may this user connect?",
                NbdClientError::Protocol { .. } => "is it an NBD server, and is that its export?",
                NbdClientError::Silent { .. } => {
                    "a server that serves one client at a time may have one"
                }
            };
            Failure::failed(format!("{}: {}; try: {hint}", self.shown, why(&error)))
        })
    }

    /// Whether the export can take this load.
    ///
    /// # Errors
    /// Exit code 2 for a size that does not fit, 1 for writes where there are none.
    pub fn check(&self, exported: &Exported, load: &Load) -> Result<(), Failure> {
        let shown = &self.shown;
        if load.writes() && exported.flags & READ_ONLY != 0 {
            return Err(Failure::failed(format!(
                "{shown}: it is read-only, nothing can be written; try: --read"
            )));
        }
        let size = u64::from(load.size);
        let wrong = |why: String, hint: String| {
            Err(Failure::wrong(format!("--size on {shown}: {why}; try: {hint}")))
        };
        if let Some(sizes) = exported.sizes {
            let (least, most) = (sizes.minimum.max(1), sizes.payload_max);
            if !load.size.is_multiple_of(least) {
                let why = format!("its blocks have {least} bytes");
                return wrong(why, format!("a multiple of {least}"));
            }
            if load.size > most {
                let most = size_text(most.into());
                return wrong(format!("it takes at most {most} at once"), most);
            }
        }
        let blocks = exported.size / size / load.connections as u64;
        // Two requests on one block have no right answer, so a run that verifies needs more blocks.
        let needed = if load.verify { load.depth as u64 + 1 } else { 1 };
        if blocks < needed {
            let has = size_text(exported.size);
            return wrong(
                format!("it has {has}, too little for {load}"),
                "a smaller --size, --depth or --connections".to_owned(),
            );
        }
        if load.connections > 1 && load.writes() && exported.flags & CAN_MULTI_CONN == 0 {
            return Err(Failure::failed(format!(
                "{shown}: it does not promise that several connections see each other's writes; \
                 try: --connections 1"
            )));
        }
        Ok(())
    }
}

fn why(error: &NbdClientError) -> String {
    match error {
        NbdClientError::Io { export, error } => {
            format!("{export}: {}", crate::control::config::secret::plain(error))
        }
        other => other.to_string(),
    }
}

fn ask(
    device: &str,
    control: Option<&Path>,
    wait: &Wait<'_>,
) -> Result<(u32, DeviceStatus), Failure> {
    let command = Command::Status { device: Some(device.to_owned()) };
    let Outcome::Status(mut status) = client::ask_while(control, command, wait)? else {
        return Err(client::unexpected());
    };
    let device = status.devices.pop().ok_or_else(client::unexpected)?;
    Ok((status.daemon.pid, device))
}
