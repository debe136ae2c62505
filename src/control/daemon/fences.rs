//! `mpio fence`: ranges in doubt out of the parts that the lanes know, and an administrator's word.

use super::handler::{LANE_TIMEOUT, ask, device_status, find_device, refused};
use super::shared::Shared;
use crate::api::{Confirmed, Error, FenceList, FenceRange, Outcome};
use crate::base::Duration;
use crate::lane::Command;
use crate::path::FenceMode;
use crate::volume::doubts::Doubt;

/// All ranges in doubt of a device.
///
/// # Errors
/// No such device, or a lane that does not answer.
pub async fn list(shared: &Shared, device: &str) -> Result<Outcome, Error> {
    let index = find_device(shared, device)?;
    let mut ranges = Vec::new();
    for lane in 0..shared.lane_count(index) {
        let name = device.to_owned();
        let command = |reply| Command::Doubts { device: name, reply };
        let part = ask(shared, index, lane, LANE_TIMEOUT, command).await?;
        ranges.extend(part.map_err(|error| refused(&error))?.into_iter().map(range));
    }
    ranges.sort_by(|a: &FenceRange, b| b.age_s.total_cmp(&a.age_s));
    let status = device_status(shared, index).await?;
    // What is in force, not what is configured.
    let tunables = shared.tunables(index).clone();
    let timeout = tunables.fence_timeout;
    let releases = tunables.fence == FenceMode::Overlap && timeout < Duration::MAX;
    Ok(Outcome::Fences(FenceList {
        device: device.to_owned(),
        mode: tunables.fence.to_string(),
        timeout_s: releases.then_some(timeout.as_secs_f64()),
        fences: status.fences,
        held_writes: status.held_writes,
        ranges,
    }))
}

fn range(doubt: Doubt) -> FenceRange {
    FenceRange {
        first_block: doubt.range.start(),
        blocks: (doubt.range.last() - doubt.range.start()).saturating_add(1),
        path: doubt.path,
        lane: doubt.lane,
        age_s: (doubt.age.as_secs_f64() * 10.0).round() / 10.0,
        copies: doubt.copies,
        answered: doubt.answered,
        trying: doubt.trying,
    }
}

/// The node behind a path is off, an administrator says: only if no lane has a session there. The path may be
/// one that only an earlier process knew, so that the lanes look for it.
///
/// # Errors
/// No such device or path; a session that lives.
pub async fn confirm_dead(shared: &Shared, device: &str, path: &str) -> Result<Outcome, Error> {
    let index = find_device(shared, device)?;
    let mut released = 0;
    for only_ask in [true, false] {
        for lane in 0..shared.lane_count(index) {
            let (device, path) = (device.to_owned(), path.to_owned());
            let command = |reply| Command::ConfirmDead { device, path, only_ask, reply };
            let part = ask(shared, index, lane, LANE_TIMEOUT, command).await?;
            released += part.map_err(|error| refused(&error))?;
        }
    }
    tracing::warn!(%device, %path, released, "an administrator says that its node is off");
    let pending = device_status(shared, index).await?.fences.pending;
    let (device, path) = (device.to_owned(), path.to_owned());
    Ok(Outcome::Confirmed(Confirmed { device, path, released: released as u64, pending }))
}
