//! Payload memory of a lane, shared by the device's clients.
//!
//! A request's payload is reserved whole before its first byte is read: the data of a WRITE on its way in,
//! the answer of a READ on its way out. A client whose next request does not fit waits in line, first
//! come first served, and is not read from meanwhile. The one at the head is always served once nobody
//! holds anything, so a request of any legal size makes progress.

use super::Volume;
use super::clients::{self, ClientId};
use crate::base::Instant;
use crate::limits::REQUESTS_PER_LANE_MAX;

/// Before a client's input is looked at: how much it may hold.
pub(super) fn allow(v: &mut Volume, id: ClientId) {
    // Whoever comes later does not overtake those who wait.
    let (free, slots) = if v.blocked.is_empty() { free(v) } else { (0, 0) };
    let Some(client) = v.clients.get_mut(id.into()) else { return };
    let held = client.connection.held();
    client.connection.set_input_budget(held + free, client.connection.in_flight() + slots);
}

fn free(v: &Volume) -> (u64, usize) {
    let bytes = (v.spec.buffer_memory as u64).saturating_sub(v.payload_held);
    (bytes, REQUESTS_PER_LANE_MAX.saturating_sub(v.requests.len()))
}

/// After anything that may have changed what a client holds.
pub(super) fn account(v: &mut Volume, id: ClientId) {
    let Some(client) = v.clients.get_mut(id.into()) else { return };
    let held = client.connection.held();
    v.payload_held = v.payload_held - client.accounted + held;
    client.accounted = held;
    if client.connection.waits_for().is_some() && !client.blocked {
        client.blocked = true;
        v.blocked.push_back(id);
    }
}

/// A client has gone: what it held is free.
pub(super) fn forget(v: &mut Volume, id: ClientId) {
    let Some(client) = v.clients.get_mut(id.into()) else { return };
    v.payload_held = v.payload_held.checked_sub(client.accounted).expect("it was accounted");
    client.accounted = 0;
    v.blocked.retain(|other| *other != id);
}

/// Lets those at the head of the line go on, as far as there is room.
pub(super) fn serve_line(v: &mut Volume, now: Instant) {
    while let Some(id) = v.blocked.front().copied() {
        let (bytes, slots) = free(v);
        let client = v.clients.get_mut(id.into()).expect("who has gone is not in the line");
        if let Some(need) = client.connection.waits_for() {
            let nobody_holds = v.payload_held == 0;
            if slots == 0 || (u64::from(need) > bytes && !nobody_holds) {
                return;
            }
            let held = client.connection.held();
            let room = held + bytes.max(need.into());
            client.connection.set_input_budget(room, client.connection.in_flight() + slots);
        }
        client.blocked = false;
        v.blocked.pop_front();
        clients::events(v, now, id);
    }
}
