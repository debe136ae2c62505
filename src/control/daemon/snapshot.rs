//! From what a lane knows to the names of `status --json`.

use crate::api::{
    DeviceState, DeviceStatus, Event, Fences, Hedges, Latency, PathState, PathStatus, Percentiles,
    SessionStatus,
};
use crate::control::config::values;
use crate::path::State;
use crate::stats::{Histogram, IoStats};
use crate::volume::admin::{PathSnapshot, Snapshot};
use std::time::{Duration, UNIX_EPOCH};

/// One device as one lane sees it. The ledger is shared by the lanes of a device: only the `first` one
/// tells its numbers.
#[must_use]
pub fn device(snapshot: &Snapshot, first: bool) -> DeviceStatus {
    let unit = snapshot.unit.as_deref();
    let fences = match first {
        true => Fences {
            proven: snapshot.fences.proven,
            unproven: snapshot.fences.unproven,
            pending: snapshot.fences.pending,
            watched: snapshot.watched,
            repaired: snapshot.repaired,
        },
        false => Fences::default(),
    };
    DeviceStatus {
        name: snapshot.name.clone(),
        wwid: unit.and_then(|unit| unit.wwid()).map(str::to_owned),
        vendor: unit.map(|unit| unit.vendor()),
        product: unit.map(|unit| unit.product()),
        size_bytes: unit.map(|unit| unit.size_bytes()),
        block_size: unit.map(|unit| unit.block_size()),
        state: state(snapshot),
        policy: snapshot.policy.to_string(),
        export: String::new(),
        clients: snapshot.clients as u64,
        read_only: snapshot.read_only,
        held_writes: snapshot.held as u64,
        fences,
        hedges: Hedges { sent: snapshot.hedges.sent, won: snapshot.hedges.won },
        events: snapshot.events.iter().map(|e| event(snapshot, e)).collect(),
        reads: snapshot.stats.reads,
        writes: snapshot.stats.writes,
        read_bytes: snapshot.stats.read_bytes,
        written_bytes: snapshot.stats.written_bytes,
        errors: snapshot.stats.errors,
        latency_us: latency(&snapshot.stats),
        paths: snapshot.paths.iter().map(path).collect(),
    }
}

fn state(snapshot: &Snapshot) -> DeviceState {
    let usable = snapshot.paths.iter().any(|path| path.state.carries_io());
    let good = |path: &PathSnapshot| matches!(path.state, State::Active | State::Standby);
    match () {
        () if snapshot.failing => DeviceState::Failed,
        () if !usable => DeviceState::Down,
        () if snapshot.paths.iter().all(good) => DeviceState::Ok,
        () => DeviceState::Degraded,
    }
}

fn event(snapshot: &Snapshot, event: &crate::path::Event) -> Event {
    let at = UNIX_EPOCH + Duration::from_millis(event.at.0);
    let path = event.path.and_then(|path| snapshot.paths.get(path.get()));
    Event {
        at: humantime::format_rfc3339_millis(at).to_string(),
        path: path.map(|path| path.name.clone()).unwrap_or_default(),
        what: event.what.to_string(),
        why: match event.times {
            0 | 1 => event.why.clone(),
            times => format!("{} ({times} times)", event.why),
        },
    }
}

fn path(path: &PathSnapshot) -> PathStatus {
    PathStatus {
        name: path.name.clone(),
        portal: path.portal.to_string(),
        source: path.source.map(|source| source.to_string()),
        target: path.target.clone(),
        lun: values::lun_number(path.lun),
        state: path_state(path.state),
        reason: reason(path),
        alua: path.access_known.then(|| {
            path.access.map_or_else(|| "none".to_owned(), |access| access.state.to_string())
        }),
        group: group(path),
        weight: path.weight,
        in_flight: u64::from(path.in_flight),
        queue_depth: u64::from(path.queue_depth),
        reads: path.stats.reads,
        writes: path.stats.writes,
        read_bytes: path.stats.read_bytes,
        written_bytes: path.stats.written_bytes,
        errors: path.stats.errors,
        failures: path.failures,
        last_failure: path.last_failure.clone(),
        session: path.negotiated.as_ref().map(|negotiated| SessionStatus {
            isid: data_encoding::HEXLOWER.encode(&path.isid),
            tsih: negotiated.tsih,
            header_digest: digest(negotiated.header_digest),
            data_digest: digest(negotiated.data_digest),
            immediate_data: negotiated.immediate_data,
        }),
        latency_us: latency(&path.stats),
    }
}

/// The target port group; of storage without ALUA, the portal group.
fn group(path: &PathSnapshot) -> u32 {
    let portal_group = || path.negotiated.as_ref().and_then(|n| n.portal_group);
    path.access.map(|access| access.group).or_else(portal_group).unwrap_or(0).into()
}

/// Why a path is not in use; an active one needs no reason.
fn reason(path: &PathSnapshot) -> String {
    if path.state == State::Active { String::new() } else { path.reason.clone() }
}

fn digest(crc32c: bool) -> String {
    (if crc32c { "crc32c" } else { "none" }).to_owned()
}

fn path_state(state: State) -> PathState {
    match state {
        State::Connecting => PathState::Connecting,
        State::Probing => PathState::Probing,
        State::Active => PathState::Active,
        State::Standby => PathState::Standby,
        State::Suspect => PathState::Suspect,
        State::Failed => PathState::Failed,
        State::Disabled => PathState::Disabled,
        State::Mismatched => PathState::Mismatched,
    }
}

fn latency(stats: &IoStats) -> Latency {
    Latency { read: percentiles(&stats.read_latency), write: percentiles(&stats.write_latency) }
}

fn percentiles(histogram: &Histogram) -> Percentiles {
    let found = histogram.percentiles();
    Percentiles { p50: found.p50, p99: found.p99, p999: found.p999, max: found.max }
}
