//! Payload memory of a lane, shared by the device's clients.
//!
//! A request's payload is reserved whole before its first byte is read: the data of a WRITE on its way in,
//! the answer of a READ on its way out. Half of the memory is divided into equal *shares*, which nobody can
//! take away: a client that does not read its answers harms only itself. What a client holds beyond its
//! share comes from the other half; whoever finds that used up waits in line, first come first served, and
//! is not read from meanwhile. The one at the head is served once nobody else holds more than its share, so
//! a request of any legal size makes progress.

use super::Volume;
use super::clients::{self, ClientId};
use crate::base::Instant;
use crate::limits::REQUESTS_PER_LANE_MAX;

fn share(v: &Volume) -> u64 {
    v.spec.buffer_memory as u64 / 2 / v.clients.len().max(1) as u64
}

/// What clients other than this one hold beyond their shares.
fn beyond(v: &Volume, id: ClientId, share: u64) -> u64 {
    if v.payload_held <= share {
        // Nobody can be beyond: the common case of few requests in flight.
        return 0;
    }
    let others = v.clients.iter().filter(|(key, _)| *key != id.into());
    others.map(|(_, client)| client.accounted.saturating_sub(share)).sum()
}

fn slots(v: &Volume) -> usize {
    REQUESTS_PER_LANE_MAX.saturating_sub(v.requests.len())
}

/// Before a client's input is looked at: how much it may hold.
pub(super) fn allow(v: &mut Volume, id: ClientId) {
    let share = share(v);
    // Whoever comes later does not overtake those who wait, but for what is his own.
    let common = match v.blocked.is_empty() {
        true => (v.spec.buffer_memory as u64 / 2).saturating_sub(beyond(v, id, share)),
        false => 0,
    };
    let slots = slots(v);
    let Some(client) = v.clients.get_mut(id.into()) else { return };
    let held = client.connection.held();
    let room = (share + common).max(held);
    client.connection.set_input_budget(room, client.connection.in_flight() + slots);
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
    for _ in 0..v.blocked.len() {
        let Some(id) = v.blocked.pop_front() else { return };
        let share = share(v);
        let beyond = beyond(v, id, share);
        let common = (v.spec.buffer_memory as u64 / 2).saturating_sub(beyond);
        let slots = slots(v);
        let client = v.clients.get_mut(id.into()).expect("who has gone is not in the line");
        if let Some(need) = client.connection.waits_for() {
            let held = client.connection.held();
            let wanted = held + u64::from(need);
            let alone = beyond == 0 && held == 0;
            if slots == 0 || (wanted > share + common && !alone) {
                v.blocked.push_front(id);
                return;
            }
            let room = (share + common).max(wanted);
            client.connection.set_input_budget(room, client.connection.in_flight() + slots);
        }
        client.blocked = false;
        clients::events(v, now, id);
    }
}
