//! Payload memory of a lane, shared by the device's clients.
//!
//! A request's payload is reserved whole before its first byte is read: the data of a WRITE on its way in,
//! the answer of a READ until the kernel has taken its last byte: a send in flight holds what it sends. Nobody may hold more than what is then left for the
//! others: one client can have half of the memory, a second one a quarter, and so on, so that clients that
//! never read their answers cannot starve the rest. A client whose next request does not fit is not read
//! from until it does.

use crate::base::Instant;
use crate::limits::REQUESTS_PER_LANE_MAX;
use crate::volume::Volume;
use crate::volume::clients::{self, Client, ClientId};

/// Before a client's input is looked at: how much it may hold.
pub(in crate::volume) fn allow(v: &mut Volume, id: ClientId) {
    let (free, slots) = free(v);
    let Some(client) = v.clients.get_mut(id.into()) else { return };
    let room = client.connection.held() + share(free, held(client));
    client.connection.set_input_budget(room, client.connection.in_flight() + slots);
}

/// What a client holds: its connection's part, and what is on its way out.
fn held(client: &mut Client) -> u64 {
    let leaving = client.connection.tx().handed() - client.left;
    client.connection.held() + leaving
}

/// What may be added to `held` so that it does not exceed what is left.
fn share(free: u64, held: u64) -> u64 {
    free.saturating_sub(held) / 2
}

fn free(v: &Volume) -> (u64, usize) {
    let bytes = (v.spec.buffer_memory as u64).saturating_sub(v.payload_held);
    (bytes, REQUESTS_PER_LANE_MAX.saturating_sub(v.requests.len()))
}

/// After anything that may have changed what a client holds.
pub(in crate::volume) fn account(v: &mut Volume, id: ClientId) {
    let Some(client) = v.clients.get_mut(id.into()) else { return };
    let held = held(client);
    v.payload_held = v.payload_held - client.accounted + held;
    client.accounted = held;
    if client.connection.waits_for().is_some() && !client.blocked {
        client.blocked = true;
        v.blocked.push_back(id);
    }
}

/// A client has gone: what it held is free.
pub(in crate::volume) fn forget(v: &mut Volume, id: ClientId) {
    let Some(client) = v.clients.get_mut(id.into()) else { return };
    v.payload_held = v.payload_held.checked_sub(client.accounted).expect("it was accounted");
    client.accounted = 0;
    v.blocked.retain(|other| *other != id);
}

/// Lets those who wait go on, as far as there is room; who came first is asked first. A client that holds
/// nothing may have all that is left: a request of any legal size makes progress.
pub(in crate::volume) fn serve_line(v: &mut Volume, now: Instant) {
    for _ in 0..v.blocked.len() {
        let Some(id) = v.blocked.pop_front() else { return };
        let (free, slots) = free(v);
        let nobody_holds = v.payload_held == 0;
        let client = v.clients.get_mut(id.into()).expect("who has gone is not in the line");
        if let Some(need) = client.connection.waits_for().map(u64::from) {
            let held = held(client);
            let fits = need <= share(free, held) || held == 0 && (need <= free || nobody_holds);
            if slots == 0 || !fits {
                v.blocked.push_back(id);
                continue;
            }
            let room = client.connection.held() + need;
            client.connection.set_input_budget(room, client.connection.in_flight() + slots);
        }
        client.blocked = false;
        clients::events(v, now, id);
    }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn whoever_comes_finds_something_left() {
        let (total, mut taken) = (64u64 << 20, 0);
        for client in 1..=10 {
            let mut held = 0;
            loop {
                let more = share(total - taken, held);
                if more < 4096 {
                    break;
                }
                held += 4096;
                taken += 4096;
            }
            assert!(held <= (total >> client) + 8192, "client {client} holds {held}");
        }
        assert!(total - taken >= 32 * 1024);
        assert_eq!(share(total, 0), 32 << 20, "the largest request fits a lane of 64 MiB");
    }
}
