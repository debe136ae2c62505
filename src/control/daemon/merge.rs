//! One status out of those of several lanes.
//!
//! Counters add up. A percentile of the whole lies between the smallest and the greatest of the parts, so
//! the greatest is taken: an upper bound, exact with one lane. States: see [`device_state`] and [`WORST`].

use crate::api::{DeviceState, DeviceStatus, Latency, PathState, PathStatus, Percentiles};
use crate::limits;

/// Path states, the one first that says most about what is wrong.
const WORST: [PathState; 8] = [
    PathState::Mismatched,
    PathState::Failed,
    PathState::Disabled,
    PathState::Suspect,
    PathState::Connecting,
    PathState::Probing,
    PathState::Standby,
    PathState::Active,
];

/// The status of a device out of one per lane; `None` when no lane answered.
#[must_use]
pub fn lanes(parts: Vec<DeviceStatus>) -> Option<DeviceStatus> {
    let state = device_state(&parts.iter().map(|part| part.state).collect::<Vec<_>>());
    let mut parts = parts.into_iter();
    let mut whole = parts.next()?;
    for part in parts {
        add(&mut whole, part);
    }
    whole.state = state;
    trim_events(&mut whole);
    Some(whole)
}

/// Sorts events by time and keeps the last ones.
pub fn trim_events(device: &mut DeviceStatus) {
    device.events.sort_by(|a, b| a.at.cmp(&b.at));
    device.events.dedup();
    let surplus = device.events.len().saturating_sub(limits::EVENTS_PER_DEVICE);
    device.events.drain(..surplus);
}

/// `ok` only if every lane is; usable as long as one lane is.
fn device_state(states: &[DeviceState]) -> DeviceState {
    let any = |state| states.contains(&state);
    match (
        any(DeviceState::Ok),
        any(DeviceState::Degraded),
        any(DeviceState::Down),
        any(DeviceState::Failed),
    ) {
        (true, false, false, false) => DeviceState::Ok,
        (true, ..) | (_, true, ..) => DeviceState::Degraded,
        (_, _, _, true) => DeviceState::Failed,
        _ => DeviceState::Down,
    }
}

fn add(whole: &mut DeviceStatus, part: DeviceStatus) {
    whole.wwid = whole.wwid.take().or(part.wwid);
    whole.vendor = whole.vendor.take().or(part.vendor);
    whole.product = whole.product.take().or(part.product);
    whole.size_bytes = whole.size_bytes.or(part.size_bytes);
    whole.block_size = whole.block_size.or(part.block_size);
    whole.clients += part.clients;
    whole.read_only |= part.read_only;
    whole.held_writes += part.held_writes;
    whole.fences.proven += part.fences.proven;
    whole.fences.unproven += part.fences.unproven;
    whole.fences.pending += part.fences.pending;
    whole.fences.watched += part.fences.watched;
    whole.fences.repaired += part.fences.repaired;
    whole.events.extend(part.events);
    whole.hedges.sent += part.hedges.sent;
    whole.hedges.won += part.hedges.won;
    whole.reads += part.reads;
    whole.writes += part.writes;
    whole.read_bytes += part.read_bytes;
    whole.written_bytes += part.written_bytes;
    whole.errors += part.errors;
    whole.latency_us = latency(whole.latency_us, part.latency_us);
    for path in part.paths {
        match whole.paths.iter_mut().find(|p| p.name == path.name) {
            Some(same) => add_path(same, path),
            None => whole.paths.push(path),
        }
    }
}

fn add_path(whole: &mut PathStatus, part: PathStatus) {
    let rank = |state| WORST.iter().position(|s| *s == state);
    if rank(part.state) < rank(whole.state) {
        whole.state = part.state;
        whole.reason = part.reason;
    }
    whole.source = whole.source.take().or(part.source);
    whole.alua = whole.alua.take().or(part.alua);
    whole.session = whole.session.take().or(part.session);
    if whole.last_failure.is_empty() {
        whole.last_failure = part.last_failure;
    }
    whole.in_flight += part.in_flight;
    whole.queue_depth += part.queue_depth;
    whole.reads += part.reads;
    whole.writes += part.writes;
    whole.read_bytes += part.read_bytes;
    whole.written_bytes += part.written_bytes;
    whole.errors += part.errors;
    whole.failures += part.failures;
    whole.latency_us = latency(whole.latency_us, part.latency_us);
}

fn latency(a: Latency, b: Latency) -> Latency {
    let most = |a: Percentiles, b: Percentiles| Percentiles {
        p50: a.p50.max(b.p50),
        p99: a.p99.max(b.p99),
        p999: a.p999.max(b.p999),
        max: a.max.max(b.max),
    };
    Latency { read: most(a.read, b.read), write: most(a.write, b.write) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        use DeviceState::{Degraded, Down, Failed, Ok};
        assert_eq!(device_state(&[Ok, Ok]), Ok);
        assert_eq!(device_state(&[Ok, Down]), Degraded);
        assert_eq!(device_state(&[Degraded, Failed]), Degraded);
        assert_eq!(device_state(&[Down, Failed]), Failed);
        assert_eq!(device_state(&[Down]), Down);
        assert_eq!(lanes(Vec::new()), None);
    }

    #[test]
    fn counters_add_up_and_the_worse_path_state_shows() {
        let part = |reads, state, p99| DeviceStatus {
            reads,
            clients: 1,
            state: DeviceState::Ok,
            latency_us: Latency {
                read: Percentiles { p99, ..Percentiles::default() },
                ..Latency::default()
            },
            paths: vec![PathStatus {
                name: "a:x".into(),
                state,
                reads,
                reason: format!("{state}"),
                ..PathStatus::default()
            }],
            ..DeviceStatus::default()
        };
        let whole =
            lanes(vec![part(3, PathState::Active, 10), part(4, PathState::Failed, 20)]).unwrap();
        assert_eq!((whole.reads, whole.clients, whole.latency_us.read.p99), (7, 2, 20));
        assert_eq!(whole.paths.len(), 1);
        assert_eq!((whole.paths[0].reads, whole.paths[0].state), (7, PathState::Failed));
        assert_eq!(whole.paths[0].reason, "failed");
    }
}
