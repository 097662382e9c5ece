//! What the guardian knows of, by id and by place, and who has something to tell the host.
//!
//! Every operation but [`Table::insert`] does without allocation, and none depends on how many there are.

use std::collections::HashMap;

/// Where something is. Places are used again; a [`Token`] tells one use from the next.
pub(crate) type Place = usize;

/// A place, and which use of it is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token(u64);

impl Token {
    pub(crate) fn from_number(number: u64) -> Self {
        Self(number)
    }

    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

#[derive(Debug)]
struct Slot<T> {
    uses: u32,
    value: Option<T>,
    /// In the queue of those with something to tell, and who is next there.
    queued: bool,
    next: Option<Place>,
}

#[derive(Debug)]
pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<Place>,
    ids: HashMap<u64, Place>,
    first: Option<Place>,
    last: Option<Place>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            ids: HashMap::new(),
            first: None,
            last: None,
        }
    }
}

impl<T> Table<T> {
    /// Adds something whose id is not in use.
    pub(crate) fn insert(&mut self, id: u64, value: T) -> Place {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                uses: 0,
                value: None,
                queued: false,
                next: None,
            });
            // So that there is room when it is removed.
            self.free.reserve(self.slots.len());
            self.slots.len() - 1
        });
        self.slots[place].value = Some(value);
        self.ids.insert(id, place);
        place
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<T> {
        let place = self.ids.remove(&id)?;
        let slot = &mut self.slots[place];
        slot.uses = slot.uses.wrapping_add(1) & (u32::MAX >> 1);
        // While it is queued its place must not be another's.
        if !slot.queued {
            self.free.push(place);
        }
        slot.value.take()
    }

    pub(crate) fn find(&self, id: u64) -> Option<Place> {
        self.ids.get(&id).copied()
    }

    pub(crate) fn token(&self, place: Place) -> Token {
        let uses = self.slots.get(place).map_or(0, |slot| slot.uses);
        Token(u64::from(uses) << 32 | place as u64)
    }

    /// The place that a token means, if that use of it lasts.
    pub(crate) fn resolve(&self, token: Token) -> Option<Place> {
        let place = (token.0 & u64::from(u32::MAX)) as Place;
        (self.slots.get(place)?.value.is_some() && self.token(place) == token).then_some(place)
    }

    pub(crate) fn get_mut(&mut self, place: Place) -> Option<&mut T> {
        self.slots.get_mut(place)?.value.as_mut()
    }

    /// How many places there are, used or not.
    pub(crate) fn places(&self) -> Place {
        self.slots.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Notes that this one has something to tell.
    pub(crate) fn queue(&mut self, place: Place) {
        let Some(slot) = self
            .slots
            .get_mut(place)
            .filter(|slot| !slot.queued && slot.value.is_some())
        else {
            return;
        };
        slot.queued = true;
        slot.next = None;
        match self.last.replace(place) {
            Some(last) => self.slots[last].next = Some(place),
            None => self.first = Some(place),
        }
    }

    /// Who has waited longest to tell something.
    pub(crate) fn front(&self) -> Option<Place> {
        self.first
    }

    /// The front has told all.
    pub(crate) fn dequeue(&mut self) {
        let Some(place) = self.first else { return };
        let slot = &mut self.slots[place];
        slot.queued = false;
        self.first = slot.next.take();
        if self.first.is_none() {
            self.last = None;
        }
        if slot.value.is_none() {
            self.free.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_tokens_are_not() {
        let mut table = Table::default();
        let (one, two) = (table.insert(10, "one"), table.insert(20, "two"));
        let token = table.token(one);
        // The upper half of the numbers is nobody's.
        assert!(token.number() <= u64::MAX >> 1);
        assert_eq!(table.resolve(token), Some(one));
        assert_eq!(table.remove(10), Some("one"));
        assert_eq!((table.remove(10), table.find(10)), (None, None));
        assert_eq!(table.resolve(token), None);
        assert_eq!(table.insert(30, "three"), one);
        assert_eq!(table.resolve(token), None);
        assert_eq!(table.resolve(table.token(one)), Some(one));
        assert_eq!(table.get_mut(two), Some(&mut "two"));
        assert_eq!(table.places(), 2);
        assert_eq!(table.resolve(Token::from_number(99)), None);
        table.remove(20);
        table.remove(30);
        assert!(table.is_empty());
    }

    #[test]
    fn the_queue_is_in_order_and_holds_each_once() {
        let mut table = Table::default();
        let places: Vec<_> = (0..3).map(|id| table.insert(id, id)).collect();
        for place in [2, 0, 2, 1, 0] {
            table.queue(places[place]);
        }
        let mut order = Vec::new();
        while let Some(place) = table.front() {
            order.push(place);
            table.dequeue();
        }
        assert_eq!(order, [2, 0, 1]);
        table.dequeue();
    }

    #[test]
    fn a_place_that_is_queued_is_not_given_away() {
        let mut table = Table::default();
        let place = table.insert(1, 'a');
        table.queue(place);
        table.remove(1);
        assert_ne!(table.insert(2, 'b'), place);
        assert_eq!((table.front(), table.get_mut(place)), (Some(place), None));
        table.dequeue();
        assert_eq!(table.insert(3, 'c'), place);
    }
}
