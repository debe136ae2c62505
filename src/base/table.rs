//! A slab whose keys carry a generation: a late completion cannot hit a reused slot.

/// Key of a [`Table`]: slot and generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    slot: u32,
    generation: u32,
}

impl Key {
    /// As a token that travels through a session.
    #[must_use]
    pub const fn to_token(self) -> u64 {
        (self.generation as u64) << 32 | self.slot as u64
    }

    /// The slot alone: a small number.
    #[must_use]
    pub const fn slot(self) -> usize {
        self.slot as usize
    }

    /// Back from a token.
    #[must_use]
    pub const fn from_token(token: u64) -> Key {
        Key { slot: token as u32, generation: (token >> 32) as u32 }
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values by [`Key`]. Grows on demand, keeps what it grew to.
pub struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Table<T> {
    /// An empty table with room for `capacity` values.
    pub fn with_capacity(capacity: usize) -> Table<T> {
        Table { slots: Vec::with_capacity(capacity), free: Vec::with_capacity(capacity) }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Slots that exist, taken or free.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Puts a value in.
    pub fn insert(&mut self, value: T) -> Key {
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.slots[slot as usize];
            assert!(entry.value.is_none(), "a free slot holds nothing");
            entry.value = Some(value);
            return Key { slot, generation: entry.generation };
        }
        let slot = u32::try_from(self.slots.len()).expect("tables stay far below 2^32 entries");
        self.slots.push(Slot { generation: 1, value: Some(value) });
        Key { slot, generation: 1 }
    }

    /// The value, if the key is still the current one of its slot.
    pub fn get(&self, key: Key) -> Option<&T> {
        let entry = self.slots.get(key.slot as usize)?;
        if entry.generation == key.generation { entry.value.as_ref() } else { None }
    }

    /// The value, mutably.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.slots.get_mut(key.slot as usize)?;
        if entry.generation == key.generation { entry.value.as_mut() } else { None }
    }

    /// Takes the value out; the key is never valid again.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.slots.get_mut(key.slot as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(key.slot);
        Some(value)
    }

    /// Drops the value where it lies; the key is never valid again.
    ///
    /// # Panics
    /// When it was not valid before.
    pub fn discard(&mut self, key: Key) {
        let entry = &mut self.slots[key.slot as usize];
        assert!(entry.generation == key.generation && entry.value.is_some(), "an old key");
        entry.value = None;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(key.slot);
    }

    /// All values.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|entry| entry.value.as_mut())
    }

    /// All values with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().enumerate().filter_map(|(slot, entry)| {
            let value = entry.value.as_ref()?;
            Some((Key { slot: slot as u32, generation: entry.generation }, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_never_reaches_a_new_value() {
        let mut table = Table::with_capacity(1);
        let old = table.insert('a');
        assert_eq!(table.remove(old), Some('a'));
        let new = table.insert('b');
        assert_ne!(old, new);
        assert_eq!((table.get(old), table.get(new)), (None, Some(&'b')));
        assert_eq!(table.remove(old), None);
        assert_eq!(Key::from_token(new.to_token()), new);
        assert_eq!((table.len(), table.iter().count()), (1, 1));
        table.discard(new);
        assert_eq!((table.get(new), table.len()), (None, 0));
    }
}
