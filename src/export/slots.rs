//! Requests in flight of one connection: a slab whose handles carry a generation, so that an answer can
//! never be taken for a later request in the same slot. It grows to the largest depth seen and stays there.

/// Names one request of one connection until it has been answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Handle {
    slot: u32,
    generation: u32,
}

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

struct Entry {
    generation: u32,
    request: Option<InFlight>,
}

#[derive(Default)]
pub(super) struct Slots {
    entries: Vec<Entry>,
    free: Vec<u32>,
}

impl Slots {
    /// Requests in flight.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Slots that exist, taken or free.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn insert(&mut self, request: InFlight) -> Handle {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, request: None });
            u32::try_from(self.entries.len() - 1).expect("far fewer than 2^32 requests in flight")
        });
        let entry = &mut self.entries[slot as usize];
        assert!(entry.request.is_none(), "slot {slot} is on the free list and taken");
        entry.request = Some(request);
        Handle { slot, generation: entry.generation }
    }

    /// # Panics
    /// When the handle does not name a request in flight: it was answered twice, or it is another
    /// connection's.
    pub(super) fn remove(&mut self, handle: Handle) -> InFlight {
        let entry = self.entries.get_mut(handle.slot as usize);
        let entry = entry.unwrap_or_else(|| panic!("{handle:?} names no slot"));
        assert_eq!(entry.generation, handle.generation, "{handle:?} was answered before");
        let request = entry.request.take();
        let request = request.unwrap_or_else(|| panic!("{handle:?} was answered before"));
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(handle.slot);
        request
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
        assert_eq!((first.slot, slots.len()), (second.slot, 1));
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
