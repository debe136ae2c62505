//! Requests in flight of one connection: a slab whose handles carry a generation, so that an answer can
//! never be taken for a later request in the same slot. It grows to the largest depth seen and stays there.

use crate::base::table::{Key, Table};

/// Names one request of one connection until it has been answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Handle(Key);

/// What is needed to answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
    /// Payload bytes reserved for it.
    pub(super) held: u32,
    pub(super) form: Form,
}

/// What a good answer looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// Data as long as the request.
    Data,
    /// Extents.
    Extents { one: bool },
    /// Only that it is done.
    Done { fast_zero: bool },
}

/// See the header.
pub(super) struct Slots(Table<InFlight>);

impl Default for Slots {
    fn default() -> Slots {
        Slots(Table::with_capacity(0))
    }
}

impl Slots {
    /// Requests in flight.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Slots that exist, taken or free.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }

    pub(super) fn insert(&mut self, request: InFlight) -> Handle {
        Handle(self.0.insert(request))
    }

    /// # Panics
    /// When the handle does not name a request in flight: it was answered twice, or it is another
    /// connection's.
    pub(super) fn remove(&mut self, handle: Handle) -> InFlight {
        let request = self.0.remove(handle.0);
        request.unwrap_or_else(|| panic!("{handle:?} was answered before, or never asked"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: InFlight =
        InFlight { cookie: 7, offset: 0, len: 0, held: 0, form: Form::Done { fast_zero: false } };

    #[test]
    fn slots_are_used_again_under_another_generation() {
        let mut slots = Slots::default();
        let first = slots.insert(REQUEST);
        assert_eq!(slots.len(), 1);
        assert_eq!(slots.remove(first).cookie, 7);
        let second = slots.insert(REQUEST);
        assert_eq!((first.0.slot(), slots.len()), (second.0.slot(), 1));
        assert_ne!(first, second);
    }

    #[test]
    #[should_panic(expected = "answered before")]
    fn a_second_answer_is_a_bug() {
        let mut slots = Slots::default();
        let handle = slots.insert(REQUEST);
        slots.remove(handle);
        slots.insert(REQUEST);
        slots.remove(handle);
    }
}
