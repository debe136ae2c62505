//! What a target has: its LUNs, and what each of them is. For `mpio discover`.

use super::connect::Way;
use super::discovery::PATIENCE;
use super::initiator::{AskError, Initiator, credentials};
use super::isid;
use crate::base::Duration;
use crate::control::config::Chap;
use crate::path::identity::LogicalUnit;
use crate::path::verdict::Outcome;
use crate::session::{Completion, Kind};
use crate::volume::probe::{Probe, ReportLuns, Step};

/// A unit that is not ready yet is waited for this long.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// One LUN of a target.
pub struct Lun {
    /// The 8-byte LUN field.
    pub field: u64,
    /// What it is, or why that cannot be told.
    pub unit: Result<Box<LogicalUnit>, String>,
}

/// Logs into a target and lists its LUNs.
///
/// # Errors
/// When it cannot be logged into, or ends the session.
pub async fn luns(
    way: &Way,
    initiator: &str,
    target: &str,
    chap: Option<&Chap>,
) -> Result<Vec<Lun>, AskError> {
    let isid = isid::random().map_err(|error| AskError::System(error.to_string()))?;
    let kind = Kind::Normal { target: target.to_owned() };
    let mut config = crate::session::Config::new(initiator, isid, kind);
    config.chap = credentials(chap)?;
    config.login_timeout = PATIENCE;
    config.silence_timeout = PATIENCE;
    let mut session = Initiator::login(way, config, PATIENCE).await?;
    let list =
        match ask(&mut session, ReportLuns::new(), ReportLuns::next, ReportLuns::handle).await? {
            Ok(list) => list,
            Err(why) => {
                session.logout().await;
                return Ok(vec![Lun { field: 0, unit: Err(why) }]);
            }
        };
    let mut out = Vec::new();
    for field in list {
        let unit = ask(&mut session, Probe::new(field), Probe::next, Probe::handle).await?;
        out.push(Lun { field, unit });
    }
    session.logout().await;
    Ok(out)
}

/// Sends what `next` wants sent and hands the answers to `handle`, until that comes to an end.
async fn ask<Q, A>(
    session: &mut Initiator,
    mut questions: Q,
    next: fn(&mut Q) -> Step<A>,
    handle: fn(&mut Q, &Outcome, &[u8]),
) -> Result<Result<A, String>, AskError> {
    let mut waited = Duration::ZERO;
    loop {
        match next(&mut questions) {
            Step::Command { lun, cdb, read_len } => {
                let (outcome, data) = answer(session.command(lun, cdb, read_len).await?, read_len);
                handle(&mut questions, &outcome, &data);
            }
            Step::Wait(time) => match wait(&mut waited, time).await {
                true => {}
                false => return Ok(Err("it is not ready".to_owned())),
            },
            Step::Ready(answer) => return Ok(Ok(answer)),
            Step::Failed(error) => return Ok(Err(error.to_string())),
        }
    }
}

/// Waits, unless that would make it too long in sum.
async fn wait(waited: &mut Duration, time: Duration) -> bool {
    *waited += time;
    if *waited > WAIT_MAX {
        return false;
    }
    tokio::time::sleep(time).await;
    true
}

fn answer(completion: Completion, read_len: u32) -> (Outcome, Vec<u8>) {
    let short = completion.data.len() < read_len as usize;
    let sense = completion.sense.as_deref();
    let outcome = Outcome::new(completion.response, completion.status, sense, short);
    (outcome, completion.data.to_vec())
}
