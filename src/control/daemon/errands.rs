//! What lanes ask for and must not do themselves: files, and processes of others.

use super::shared::Shared;
use crate::control::config::secret::plain;
use crate::lane::{Command, Errand, Mailbox};
use crate::volume::fence_command::FenceCommand;
use crate::volume::nexus::NexusRecord;
use std::os::unix::process::CommandExt;
use std::process::{self, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

/// A `fence_command` that runs longer is ended, and is no proof.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// At the end of the daemon: for what is still to be struck out.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Does errands until the daemon ends.
pub async fn run(shared: Rc<Shared>, mut errands: UnboundedReceiver<Errand>) {
    while let Some(errand) = errands.recv().await {
        match errand {
            Errand::RecordNexus { device, lane, path, record } => {
                let result = shared.with_state(&device, |state| state.record(record));
                let result = result.map_err(|error| plain(&error));
                shared.tell_lane(lane, Command::NexusRecorded { device, path, result });
            }
            Errand::ForgetNexus { device, record } => forget(&shared, &device, &record),
            Errand::FenceCommand { device, lane, command } => {
                if let Some(mailbox) = shared.mailbox(lane) {
                    start(device, command, mailbox);
                }
            }
            Errand::Discover => shared.discover_again(),
            Errand::Flush(done) => drop(done.send(())),
        }
    }
}

/// Until everything that was asked for so far is done.
pub async fn flush(shared: &Shared) {
    let (done, flushed) = oneshot::channel();
    if shared.errand(Errand::Flush(done)) {
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, flushed).await;
    }
}

/// A record that stays by mistake costs the next start a proof, no more.
fn forget(shared: &Shared, device: &str, record: &NexusRecord) {
    if let Err(error) = shared.with_state(device, |state| state.forget(record)) {
        let error = plain(&error);
        tracing::warn!(%device, path = %record.path, %error, "the state file keeps a session that is over");
    }
}

/// On a thread of its own: it waits for somebody else's program.
fn start(device: String, command: FenceCommand, mailbox: Mailbox) {
    tracing::warn!(%device, path = %command.path, command = %command.command, "runs fence_command");
    let id = command.id;
    let failed = (device.clone(), mailbox.clone());
    let thread = std::thread::Builder::new().name("fence_command".to_owned()).spawn(move || {
        let result = run_command(&device, &command, COMMAND_TIMEOUT);
        mailbox.send(Command::FenceCommandEnded { device, id, result });
    });
    if let Err(error) = thread {
        let (device, mailbox) = failed;
        let result = Err(plain(&error));
        mailbox.send(Command::FenceCommandEnded { device, id, result });
    }
}

/// Runs it to its end, at most for `limit`. Exit code 0 is `Ok`.
fn run_command(device: &str, fence: &FenceCommand, limit: Duration) -> Result<(), String> {
    let mut command = process::Command::new("/bin/sh");
    command.arg("-c").arg(&fence.command);
    command.env("MPIO_DEVICE", device).env("MPIO_PATH", &fence.path);
    command.env("MPIO_TARGET", &fence.target);
    command.env("MPIO_PORTAL", fence.portal.map(|portal| portal.to_string()).unwrap_or_default());
    // A group of its own, so that its children can be ended with it.
    command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    let mut child = command.spawn().map_err(|error| plain(&error))?;
    let since = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("it ended with {status}")),
            Ok(None) if since.elapsed() < limit => std::thread::sleep(Duration::from_millis(20)),
            ended => {
                let group = nix::unistd::Pid::from_raw(child.id() as i32);
                let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
                let _ = child.wait();
                return Err(match ended {
                    Err(error) => plain(&error),
                    Ok(_) => format!("it did not end within {} s", limit.as_secs()),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(command: &str) -> FenceCommand {
        FenceCommand {
            id: 1,
            command: command.to_owned(),
            path: "a:ha1".into(),
            portal: Some("10.10.1.10:3260".parse().unwrap()),
            target: "iqn.2026-11.example.san:ha1".into(),
        }
    }

    #[test]
    fn exit_code_zero_is_the_only_proof() {
        let run = |command: &str| run_command("vm0", &fence(command), Duration::from_secs(60));
        assert_eq!(
            run("test \"$MPIO_DEVICE $MPIO_PATH $MPIO_PORTAL $MPIO_TARGET\" = \
                 'vm0 a:ha1 10.10.1.10:3260 iqn.2026-11.example.san:ha1'"),
            Ok(())
        );
        assert_eq!(run("exit 3"), Err("it ended with exit status: 3".to_owned()));
        assert_eq!(run("kill -9 $$"), Err("it ended with signal: 9 (SIGKILL)".to_owned()));
        assert!(run("/nonexistent/program 2>/dev/null").is_err());
    }

    #[test]
    fn a_command_that_hangs_is_ended_with_its_children() {
        let file = std::env::temp_dir().join(format!("mpio-fence-{}", std::process::id()));
        let command = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let result = run_command("vm0", &fence(&command), Duration::from_secs(1));
        assert_eq!(result, Err("it did not end within 1 s".to_owned()));
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let gone = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        });
        assert!(gone, "its child lives on");
        std::fs::remove_file(file).unwrap();
    }
}
