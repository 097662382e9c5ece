//! Workers that can take a call, by the calls they have.
//!
//! Taking one of those with the fewest calls, and one in or out, costs the same however many workers there are: workers with
//! equally many calls form a list, the one used last in front.

use std::sync::Arc;

use super::seat::Seat;

/// No place.
const NOWHERE: usize = usize::MAX;

/// A worker's place in the list of its load.
#[derive(Debug)]
struct Node {
    /// `None` for a place that is free.
    seat: Option<Arc<Seat>>,
    load: usize,
    before: usize,
    after: usize,
}

/// Workers that can take a call.
#[derive(Debug, Default)]
pub(super) struct Idle {
    nodes: Vec<Node>,
    free: Vec<usize>,
    /// The front of the list of workers with that many calls.
    fronts: Vec<usize>,
    /// No list before this one has a worker.
    lowest: usize,
    len: usize,
}

impl Idle {
    pub(super) fn with_capacity(workers: usize) -> Self {
        Self {
            nodes: Vec::with_capacity(workers),
            free: Vec::with_capacity(workers),
            ..Self::default()
        }
    }

    /// Adds a worker with `load` calls in front of its equals; one that is here already is moved.
    pub(super) fn put(&mut self, seat: Arc<Seat>, load: usize) {
        self.remove(&seat);
        if self.fronts.len() <= load {
            self.fronts.resize(load + 1, NOWHERE);
        }
        let place = self.free.pop().unwrap_or(self.nodes.len());
        let after = std::mem::replace(&mut self.fronts[load], place);
        if let Some(after) = self.nodes.get_mut(after) {
            after.before = place;
        }
        seat.set_place(Some(place));
        let node = Node {
            seat: Some(seat),
            load,
            before: NOWHERE,
            after,
        };
        if place == self.nodes.len() {
            self.nodes.push(node);
        } else {
            self.nodes[place] = node;
        }
        self.lowest = self.lowest.min(load);
        self.len += 1;
    }

    /// Takes one of the workers with the fewest calls, that which was used last.
    pub(super) fn take(&mut self) -> Option<Arc<Seat>> {
        if self.len == 0 {
            return None;
        }
        // Loads are few, and a worker that is given back has one call less: this moves by about one at a time.
        while self.fronts[self.lowest] == NOWHERE {
            self.lowest += 1;
        }
        self.unlink(self.fronts[self.lowest])
    }

    /// Takes a worker out, if it is here.
    pub(super) fn remove(&mut self, seat: &Seat) {
        if let Some(place) = seat.place() {
            self.unlink(place);
        }
    }

    fn unlink(&mut self, place: usize) -> Option<Arc<Seat>> {
        let Node {
            seat,
            load,
            before,
            after,
        } = &mut self.nodes[place];
        let (load, before, after, seat) = (*load, *before, *after, seat.take());
        match self.nodes.get_mut(before) {
            Some(before) => before.after = after,
            None => self.fronts[load] = after,
        }
        if let Some(after) = self.nodes.get_mut(after) {
            after.before = before;
        }
        self.free.push(place);
        self.len -= 1;
        if let Some(seat) = &seat {
            seat.set_place(None);
        }
        seat
    }

    /// Workers that are here.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Those with the fewest calls first.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Seat>> {
        self.fronts.iter().flat_map(|&front| {
            std::iter::successors(self.nodes.get(front), |node| self.nodes.get(node.after))
                .filter_map(|node| node.seat.as_ref())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::SlotId,
        pool::seat::Lifetime,
        testing::{FakeBehaviour, FakeWorker},
    };

    fn seats(count: u32) -> Vec<Arc<Seat>> {
        let seat = |slot| {
            let worker = FakeWorker::new(SlotId(slot), FakeBehaviour::Echo);
            Arc::new(Seat::new(SlotId(slot), worker, Lifetime::UNBOUNDED, false))
        };
        (0..count).map(seat).collect()
    }

    fn order(idle: &Idle) -> Vec<u32> {
        idle.iter().map(|seat| seat.slot.0).collect()
    }

    #[test]
    fn the_least_loaded_comes_first_and_of_equals_the_one_used_last() {
        let seats = seats(4);
        let mut idle = Idle::with_capacity(4);
        for (seat, load) in seats.iter().zip([1, 0, 1, 0]) {
            idle.put(Arc::clone(seat), load);
        }
        assert_eq!(order(&idle), [3, 1, 2, 0]);
        let taken: Vec<_> = std::iter::from_fn(|| idle.take())
            .map(|seat| seat.slot.0)
            .collect();
        assert_eq!(taken, [3, 1, 2, 0]);
        assert_eq!(idle.len(), 0);
        idle.put(Arc::clone(&seats[2]), 0);
        assert_eq!(order(&idle), [2], "the lowest load is found again");
    }

    #[test]
    fn a_worker_is_moved_and_removed_wherever_it_is() {
        let seats = seats(3);
        let mut idle = Idle::with_capacity(3);
        for seat in &seats {
            idle.put(Arc::clone(seat), 5);
        }
        idle.put(Arc::clone(&seats[1]), 2);
        assert_eq!(order(&idle), [1, 2, 0]);
        idle.put(Arc::clone(&seats[0]), 5);
        assert_eq!(order(&idle), [1, 0, 2]);
        idle.remove(&seats[2]);
        idle.remove(&seats[2]);
        assert_eq!(order(&idle), [1, 0]);
        idle.remove(&seats[1]);
        assert_eq!(idle.take().map(|seat| seat.slot.0), Some(0));
        assert!(idle.take().is_none());
    }

    #[test]
    fn any_order_of_changes_agrees_with_a_plain_list() {
        let seats = seats(6);
        let mut idle = Idle::with_capacity(0);
        // The front is the end of the list.
        let mut plain: Vec<(usize, u32)> = Vec::new();
        let mut random = 12345_u32;
        for _ in 0..5000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let slot = (random >> 16) % 6;
            let load = (random >> 24) as usize % 4;
            let seat = &seats[slot as usize];
            match (random >> 28) % 3 {
                0 => {
                    idle.remove(seat);
                    plain.retain(|(_, other)| *other != slot);
                }
                1 => {
                    let fewest = plain.iter().map(|(load, _)| *load).min();
                    let at = plain.iter().rposition(|(load, _)| Some(*load) == fewest);
                    let expected = at.map(|at| plain.remove(at).1);
                    assert_eq!(idle.take().map(|seat| seat.slot.0), expected);
                }
                _ => {
                    idle.put(Arc::clone(seat), load);
                    plain.retain(|(_, other)| *other != slot);
                    plain.push((load, slot));
                }
            }
            let mut expected: Vec<_> = plain.iter().rev().copied().collect();
            expected.sort_by_key(|(load, _)| *load);
            assert_eq!(
                order(&idle),
                expected.iter().map(|(_, slot)| *slot).collect::<Vec<_>>()
            );
        }
    }
}
