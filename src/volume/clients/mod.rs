//! The NBD side of a volume: connections, opening the export, and requests on their way in and out.

pub(in crate::volume) mod memory;

use crate::base::table::Key;
use crate::base::{Duration, Instant, Payload};
use crate::export::{Catalog, Connection, Event, ExportInfo, Handle, Kind, OpenError, Reply};
use crate::limits;
use crate::path::identity::LogicalUnit;
use crate::volume::request::{self, Asker, Request, Stage, Verb};
use crate::volume::shared::Optional;
use crate::volume::{Action, Volume, block_ops, transfer};
use crate::wire::nbd::NbdError;
use bytes::Bytes;
use smallvec::SmallVec;

/// A client connection of this volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientId(Key);

impl ClientId {
    /// A small number for tables of the driver; used again when the client has gone.
    #[must_use]
    pub const fn slot(self) -> usize {
        self.0.slot()
    }
}

impl From<ClientId> for Key {
    fn from(id: ClientId) -> Key {
        id.0
    }
}

pub(in crate::volume) struct Client {
    pub(in crate::volume) connection: Connection,
    since: Instant,
    /// Has bytes to send that the driver has not been told of.
    pub(in crate::volume) dirty: bool,
    /// Since when an open waits for the unit to become known.
    opening: Option<Instant>,
    /// Payload bytes that it is booked with, and whether it waits for more ([`crate::volume::memory`]).
    pub(in crate::volume) accounted: u64,
    /// Bytes that the driver has taken and the kernel has got, of all that the driver has taken.
    pub(in crate::volume) left: u64,
    pub(in crate::volume) blocked: bool,
    /// In transmission: counted in `status`.
    pub(in crate::volume) open: bool,
    /// Since when the driver has been closing the socket.
    closing: Option<Instant>,
}

/// How long a client's GO is held while the unit is not known yet (a daemon that has just started).
const OPEN_WAIT_MAX: Duration = Duration::from_secs(10);

/// What is still to be sent to a client that has ended gets this long; a peer that takes nothing is cut.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Held writes beyond this stop the intake: they never take more than half of the slots.
const HELD_MAX: usize = limits::REQUESTS_PER_LANE_MAX / 2;

/// The list of exports that a client of this device sees.
pub(in crate::volume) fn catalog(name: &str) -> Catalog {
    Catalog::single(name, "multipath iSCSI device")
}

pub(in crate::volume) fn accept(v: &mut Volume, now: Instant) -> Option<ClientId> {
    if v.draining.is_some() {
        return None;
    }
    if v.clients.len() >= limits::CLIENTS_PER_EXPORT_MAX {
        make_room(v, now)?;
    }
    let connection = Connection::new(now, v.catalog.clone());
    let client = Client {
        connection,
        since: now,
        dirty: false,
        opening: None,
        accounted: 0,
        left: 0,
        blocked: false,
        open: false,
        closing: None,
    };
    let id = ClientId(v.clients.insert(client));
    v.mark_client(id);
    Some(id)
}

/// All places are taken: the eldest connection that has not finished its handshake gives way, so that a
/// flood of half-open ones does not keep new clients out.
fn make_room(v: &mut Volume, now: Instant) -> Option<()> {
    const LEAVING_MAX: usize = 64;
    let shaking = |c: &Client| !c.open && c.opening.is_none() && c.closing.is_none();
    let unfinished = v.clients.iter().filter(|(_, client)| shaking(client));
    let (eldest, _) = unfinished.min_by_key(|(_, client)| client.since)?;
    if v.clients.len() >= limits::CLIENTS_PER_EXPORT_MAX + LEAVING_MAX {
        return None;
    }
    close(v, now, ClientId(eldest), true);
    Some(())
}

/// Whether more may be read from the client: slots, held writes and payload memory are finite, and the
/// client waits in its socket instead of in our memory.
pub(in crate::volume) fn wants_input(v: &Volume, id: ClientId) -> bool {
    let Some(client) = v.clients.get(id.into()) else { return false };
    client.closing.is_none()
        && v.requests.len() < limits::REQUESTS_PER_LANE_MAX
        && v.held < HELD_MAX
        && client.connection.wants_input()
}

pub(in crate::volume) fn received(v: &mut Volume, now: Instant, id: ClientId, chunk: Bytes) {
    memory::allow(v, id);
    let Some(client) = v.clients.get_mut(id.into()) else { return };
    client.connection.handle_received(now, chunk);
    events(v, now, id);
}

/// The driver has sent what it had taken: room for more replies. Whether anybody waited for it.
pub(in crate::volume) fn sent(v: &mut Volume, now: Instant, id: ClientId) -> bool {
    let Some(client) = v.clients.get_mut(id.into()) else { return false };
    client.left = client.connection.tx().handed();
    memory::account(v, id);
    let Some(client) = v.clients.get_mut(id.into()) else { return false };
    if v.blocked.is_empty() && !client.connection.waits_for_sending() {
        return false;
    }
    memory::allow(v, id);
    events(v, now, id);
    true
}

pub(in crate::volume) fn disconnected(
    v: &mut Volume,
    now: Instant,
    id: ClientId,
    error: Option<&std::io::Error>,
) {
    let Some(client) = v.clients.get_mut(id.into()) else { return };
    match error {
        None => client.connection.handle_eof(now),
        Some(_) => {
            close(v, now, id, true);
            return;
        }
    }
    events(v, now, id);
}

/// The driver has let go of the socket.
pub(in crate::volume) fn socket_closed(v: &mut Volume, now: Instant, id: ClientId) {
    orphan_requests(v, now, id);
    memory::forget(v, id);
    v.clients.remove(id.into());
}

pub(in crate::volume) fn timeouts(v: &mut Volume, now: Instant) {
    let mut due: SmallVec<[ClientId; 8]> = SmallVec::new();
    let mut stuck: SmallVec<[ClientId; 8]> = SmallVec::new();
    for (key, client) in v.clients.iter() {
        let handshake = client.connection.poll_deadline().is_some_and(|at| at <= now);
        let open = client.opening.is_some_and(|since| now - since >= OPEN_WAIT_MAX);
        if client.closing.is_some_and(|since| now - since >= CLOSE_WAIT_MAX) {
            stuck.push(ClientId(key));
        }
        if handshake || open {
            due.push(ClientId(key));
        }
    }
    for id in stuck {
        v.clients.get_mut(id.into()).expect("it was just there").closing = Some(now);
        v.actions.push_back(Action::CloseClient { client: id, abort: true });
    }
    for id in due {
        let Some(client) = v.clients.get_mut(id.into()) else { continue };
        client.connection.handle_timeout(now);
        if client.opening.is_some_and(|since| now - since >= OPEN_WAIT_MAX) {
            client.opening = None;
            client.connection.open(now, Err(OpenError::Unavailable));
            v.mark_client(id);
        }
        events(v, now, id);
    }
}

/// Whether a client waits for the unit, or for its end: then time has to be watched.
pub(in crate::volume) fn any_waits(v: &Volume) -> bool {
    v.clients.iter().any(|(_, c)| c.opening.is_some() || c.closing.is_some())
}

/// The unit has become known (or its fate has): clients that wait for it are answered.
pub(in crate::volume) fn answer_open(v: &mut Volume, now: Instant) {
    let waiting: SmallVec<[ClientId; 8]> =
        v.clients.iter().filter(|(_, c)| c.opening.is_some()).map(|(k, _)| ClientId(k)).collect();
    for id in waiting {
        open(v, now, id);
        events(v, now, id);
    }
}

/// Does what the connection asks for.
pub(in crate::volume) fn events(v: &mut Volume, now: Instant, id: ClientId) {
    loop {
        let Some(client) = v.clients.get_mut(id.into()) else { return };
        match client.connection.poll_event() {
            Some(Event::Open { .. }) => open(v, now, id),
            Some(Event::Request(request)) => accept_request(v, now, id, request),
            Some(Event::Closed(_)) => close(v, now, id, false),
            None => break,
        }
    }
    memory::account(v, id);
    v.mark_client(id);
    finish_if_done(v, now, id);
}

fn finish_if_done(v: &mut Volume, now: Instant, id: ClientId) {
    let Some(client) = v.clients.get_mut(id.into()) else { return };
    if client.closing.is_none() && client.connection.is_finished() {
        close(v, now, id, false);
    }
}

/// Ends a connection without another word.
pub(in crate::volume) fn cut(v: &mut Volume, now: Instant, id: ClientId) {
    close(v, now, id, true);
}

fn close(v: &mut Volume, now: Instant, id: ClientId, abort: bool) {
    let Some(client) = v.clients.get_mut(id.into()) else { return };
    if client.closing.is_some() {
        return;
    }
    client.closing = Some(now);
    if abort {
        // Nothing more can be said, and nothing that was not yet handed out is begun.
        client.connection.handle_closed(now);
    }
    v.actions.push_back(Action::CloseClient { client: id, abort });
    orphan_requests(v, now, id);
}

/// Requests of a client that has gone: what was not sent yet is dropped, what is in flight keeps its range
/// until it has been answered, so that the client cannot be overtaken by its own past when it returns.
fn orphan_requests(v: &mut Volume, now: Instant, id: ClientId) {
    let is_mine = |r: &Request| matches!(r.asker, Asker::Client(client, _) if client == id);
    let mine: SmallVec<[Key; 16]> =
        v.requests.iter().filter(|(_, r)| is_mine(r)).map(|(key, _)| key).collect();
    for key in mine {
        let Some(request) = v.requests.get_mut(key) else { continue };
        request.asker = Asker::Gone;
        match request.stage {
            Stage::Held => drop(request::drop_held(v, key)),
            _ => request::advance(v, now, key),
        }
    }
}

fn open(v: &mut Volume, now: Instant, id: ClientId) {
    let info = v.unit.as_deref().map(|unit| export_info(v, unit));
    let Some(client) = v.clients.get_mut(id.into()) else { return };
    match info {
        Some(info) => {
            client.opening = None;
            client.open = true;
            client.connection.open(now, Ok(info));
        }
        None => {
            client.opening.get_or_insert(now);
        }
    }
    v.mark_client(id);
}

/// What the client is told about the device.
fn export_info(v: &Volume, unit: &LogicalUnit) -> ExportInfo {
    let block = unit.block_size();
    ExportInfo {
        size: unit.size_bytes(),
        block_size: block,
        preferred: unit.preferred_block_size(),
        max_payload: limits::NBD_PAYLOAD_MAX,
        read_only: v.spec.read_only || unit.read_only(),
        rotational: unit.rotational(),
        trim: unit.can_unmap(),
        write_zeroes: true,
        fast_zero: true,
        cache: true,
        multi_conn: true,
    }
}

fn accept_request(v: &mut Volume, now: Instant, id: ClientId, incoming: crate::export::Request) {
    let Some(unit) = v.unit.clone() else {
        reply(v, now, id, incoming.handle, Err(NbdError::Io));
        return;
    };
    let (offset, len) = (incoming.offset, u64::from(incoming.len));
    let handle = incoming.handle;
    let changes = matches!(incoming.kind, Kind::Write(_) | Kind::Trim | Kind::WriteZeroes { .. });
    if changes && unit.read_only() {
        // It became so after the client was told what it may do.
        return reply(v, now, id, handle, Err(NbdError::Permission));
    }
    if offset + len > unit.size_bytes() {
        // Inside what the client was told, beyond what is left of it.
        let error = if changes { NbdError::NoSpace } else { NbdError::Invalid };
        return reply(v, now, id, handle, Err(error));
    }
    let (mut first, mut end) = transfer::blocks(&unit, offset, len);
    let mut data = Payload::new();
    let verb = match incoming.kind {
        Kind::Read { .. } => Verb::Read,
        Kind::Write(payload) => {
            data = payload;
            Verb::Write
        }
        Kind::Flush => Verb::Flush,
        Kind::Cache => return reply(v, now, id, handle, Ok(Reply::Done)),
        Kind::Trim => {
            let Some(range) = block_ops::trim_range(v, offset, len) else {
                return reply(v, now, id, handle, Ok(Reply::Done));
            };
            (first, end) = range;
            Verb::Trim
        }
        Kind::WriteZeroes { no_hole, fast } => {
            let size = u64::from(unit.block_size());
            let aligned = offset % size == 0 && len % size == 0;
            let verb = block_ops::zero_verb(v, no_hole, fast);
            if fast && !(aligned && block_ops::zero_is_fast(verb)) {
                return reply(v, now, id, handle, Err(NbdError::NotSupported));
            }
            if aligned {
                verb
            } else if len > u64::from(limits::NBD_PAYLOAD_MAX) {
                // Zeroing a part of a block means to write it, and that is bounded.
                return reply(v, now, id, handle, Err(NbdError::Invalid));
            } else {
                data = block_ops::zeros(incoming.len as usize);
                Verb::Write
            }
        }
        Kind::BlockStatus { .. } => {
            if !(unit.can_report_provisioning() && v.shared.may(Optional::LbaStatus)) {
                return reply(v, now, id, handle, Ok(Reply::Extents(Vec::new())));
            }
            Verb::Status
        }
    };
    let mut request = Request::new(Asker::Client(id, handle), verb, now);
    (request.offset, request.len, request.fua) = (offset, len, incoming.fua);
    (request.first, request.cursor, request.end) = (first, first, end);
    request.data = data;
    request::begin(v, now, request);
}

/// Answers a request.
pub(in crate::volume) fn reply(
    v: &mut Volume,
    now: Instant,
    id: ClientId,
    handle: Handle,
    result: Result<Reply, NbdError>,
) {
    let Some(client) = v.clients.get_mut(id.into()) else { return };
    client.connection.reply(handle, result);
    if client.connection.has_event() {
        v.attention.push(id);
        v.again = true;
    }
    memory::account(v, id);
    v.mark_client(id);
    finish_if_done(v, now, id);
}

/// Connections with events that nobody has asked for: an answer may end one.
pub(in crate::volume) fn attend(v: &mut Volume, now: Instant) {
    while let Some(id) = v.attention.pop() {
        events(v, now, id);
    }
}

/// Tells every client that the service ends: no new requests, what is in flight is finished.
pub(in crate::volume) fn begin_shutdown(v: &mut Volume, now: Instant) {
    let all: SmallVec<[ClientId; 16]> = v.clients.iter().map(|(k, _)| ClientId(k)).collect();
    for id in all {
        let Some(client) = v.clients.get_mut(id.into()) else { continue };
        client.connection.begin_shutdown(now);
        events(v, now, id);
    }
}
