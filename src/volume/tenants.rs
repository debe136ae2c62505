//! Which payloads a volume holds, for whoever has to find out what keeps the receive buffers: see
//! [`Tenants`]. Takes time in proportion to all that is under way, so it is done when memory is short.

use super::{Volume, abandon};
use crate::base::Tenants;
use bytes::Bytes;

impl Volume {
    /// Counts every payload, once each: what a session sends belongs to a request.
    pub fn count_payloads(&mut self, tenants: &mut Tenants) {
        self.for_each_piece(|piece| tenants.count(piece));
    }

    /// Moves payloads out of the buffers that are to be emptied.
    pub fn move_payloads(&mut self, tenants: &mut Tenants) {
        self.for_each_piece(|piece| tenants.move_out(piece));
        for session in self.links.iter_mut().filter_map(|link| link.session()) {
            session.for_each_write(|piece| tenants.move_out(piece));
        }
    }

    /// Lets go of what came twice: the data of reads that were sent on a second path.
    pub fn drop_copies(&mut self) {
        abandon::without_copies(self);
    }

    fn for_each_piece(&mut self, mut f: impl FnMut(&mut Bytes)) {
        for request in self.requests.values_mut() {
            request.data.for_each_piece(&mut f);
            request.pieces.iter_mut().for_each(|(_, piece)| piece.for_each_piece(&mut f));
        }
        for session in self.links.iter_mut().filter_map(|link| link.session()) {
            session.for_each_read(&mut f);
        }
        for client in self.clients.values_mut() {
            client.connection.for_each_piece(&mut f);
        }
    }
}
