//! Callers that wait for a worker: the urgent first, and among equals whoever came first.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
};

use tokio::sync::oneshot;

use super::dispatch::{Grant, Turn};
use crate::id::SessionId;

/// What happens to a call that finds the queue full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// It is refused with [`CallError::QueueFull`](super::CallError::QueueFull). The default.
    #[default]
    Refuse,
    /// It takes the place of the call that waits longest among the least urgent, which ends with
    /// [`CallError::Displaced`](super::CallError::Displaced). For callers that want the newest answer: a frame, a price. When all that
    /// wait are more urgent, or the limit is 0, it is refused. A call keeps its place that waits for the second time, because its
    /// worker was lost, or that has waited for its limited function.
    DropOldest,
}

/// A caller in the queue.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) answer: oneshot::Sender<Grant>,
    pub(super) turn: Turn,
    /// How many had come before it.
    pub(super) came: u64,
}

/// A caller's place among those of several queues; the lower one goes first.
pub(super) type Rank = (Reverse<i32>, bool, u64);

impl Queued {
    fn has_left(&self) -> bool {
        self.answer.is_closed()
    }

    pub(super) fn rank(&self) -> Rank {
        (Reverse(self.turn.priority), !self.turn.first, self.came)
    }
}

/// The queue. Those that have left stay in it, unseen, until they are passed over or [purged](Self::purge).
#[derive(Debug, Default)]
pub(super) struct Queue {
    levels: BTreeMap<Reverse<i32>, VecDeque<Queued>>,
    len: usize,
}

impl Queue {
    /// How many are in it, those that have left included.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a caller, behind all of its priority that came before it; one that has waited before goes in front of them.
    pub(super) fn push(&mut self, caller: Queued) {
        let level = self.levels.entry(Reverse(caller.turn.priority)).or_default();
        if caller.turn.first {
            level.push_front(caller);
        } else if level.back().is_some_and(|last| last.rank() > caller.rank()) {
            // It comes from another queue.
            let at = level.partition_point(|other| other.rank() < caller.rank());
            level.insert(at, caller);
        } else {
            level.push_back(caller);
        }
        self.len += 1;
    }

    /// Whose turn is next.
    pub(super) fn front(&mut self) -> Option<&Queued> {
        loop {
            let level = self.levels.first_entry()?;
            match level.get().front() {
                Some(caller) if !caller.has_left() => break,
                Some(_) => drop(self.pop()),
                None => drop(level.remove()),
            }
        }
        self.levels.first_key_value()?.1.front()
    }

    /// Takes out whose turn is next.
    pub(super) fn pop(&mut self) -> Option<Queued> {
        while let Some(mut level) = self.levels.first_entry() {
            let caller = level.get_mut().pop_front();
            if level.get().is_empty() {
                level.remove();
            }
            if caller.is_some() {
                self.len -= 1;
                return caller;
            }
        }
        None
    }

    /// Takes out who waits longest among the least urgent, unless that is more urgent than this priority. Those that the pool
    /// has accepted before keep their places.
    pub(super) fn pop_oldest(&mut self, priority: i32) -> Option<Queued> {
        let levels = self.levels.iter_mut().rev();
        for (_, level) in levels.take_while(|(level, _)| level.0 <= priority) {
            while level.pop_front_if(|caller| caller.has_left()).is_some() {
                self.len -= 1;
            }
            let gives_way = |caller: &Queued| !caller.turn.accepted && !caller.has_left();
            if let Some(oldest) = level.iter().position(gives_way) {
                self.len -= 1;
                return level.remove(oldest);
            }
        }
        None
    }

    /// The place of who would be taken out by [`pop_oldest`](Self::pop_oldest), the least urgent and oldest first.
    pub(super) fn oldest(&self) -> Option<(i32, u64)> {
        let stays =
            |level: &VecDeque<Queued>| level.iter().find(|caller| !caller.has_left()).map(Queued::rank);
        let (Reverse(priority), _, came) = self.levels.values().rev().find_map(stays)?;
        Some((priority, came))
    }

    /// Takes out the callers of a session, in their order.
    pub(super) fn take_session(&mut self, session: SessionId) -> Vec<Queued> {
        let mut taken = Vec::new();
        for level in self.levels.values_mut() {
            let (of_session, others) =
                std::mem::take(level)
                    .into_iter()
                    .partition::<VecDeque<_>, _>(|caller| {
                        caller.turn.aim.is_some_and(|aim| aim.session == session)
                    });
            taken.extend(of_session);
            *level = others;
        }
        self.len -= taken.len();
        taken
    }

    /// How many are in it that have not left.
    pub(super) fn present(&self) -> usize {
        let callers = self.levels.values().flatten();
        callers.filter(|caller| !caller.has_left()).count()
    }

    /// Takes out those that have left.
    pub(super) fn purge(&mut self) {
        self.levels.retain(|_, level| {
            level.retain(|caller| !caller.has_left());
            !level.is_empty()
        });
        self.len = self.levels.values().map(VecDeque::len).sum();
    }

    /// Takes everybody out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Queued> {
        self.len = 0;
        std::mem::take(&mut self.levels).into_values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answer = oneshot::Receiver<Grant>;

    fn join(queue: &mut Queue, priority: i32, first: bool) -> Answer {
        let (answer, granted) = oneshot::channel();
        let turn = Turn {
            priority,
            first,
            ..Turn::default()
        };
        let came = queue.len() as u64;
        queue.push(Queued { answer, turn, came });
        granted
    }

    /// The next caller is the one that holds this.
    fn is_next(queue: &mut Queue, mut granted: Answer) -> bool {
        let next = queue.pop().expect("somebody waits");
        drop(next.answer);
        matches!(granted.try_recv(), Err(oneshot::error::TryRecvError::Closed))
    }

    #[test]
    fn the_urgent_go_first_and_equals_in_the_order_they_came() {
        let mut queue = Queue::default();
        let low = join(&mut queue, -1, false);
        let [first, second] = [join(&mut queue, 0, false), join(&mut queue, 0, false)];
        let high = join(&mut queue, 7, false);
        let returned = join(&mut queue, 0, true);
        assert_eq!(queue.len(), 5);
        for expected in [high, returned, first, second, low] {
            assert!(is_next(&mut queue, expected));
        }
        assert!(queue.pop().is_none() && queue.len() == 0);
    }

    #[test]
    fn those_that_have_left_are_passed_over() {
        let mut queue = Queue::default();
        drop(join(&mut queue, 1, false));
        drop(join(&mut queue, 0, false));
        assert_eq!(queue.len(), 2);
        assert!(queue.front().is_none() && queue.len() == 0);
        drop(join(&mut queue, 0, false));
        let stays = join(&mut queue, 0, false);
        assert!(queue.front().is_some() && queue.len() == 1);
        drop(join(&mut queue, 3, false));
        queue.purge();
        assert_eq!(queue.len(), 1);
        assert!(is_next(&mut queue, stays));
    }

    #[test]
    fn the_oldest_of_the_least_urgent_is_displaced_and_never_somebody_more_urgent() {
        let mut queue = Queue::default();
        let high = join(&mut queue, 5, false);
        drop(join(&mut queue, 1, false));
        let [mut older, newer] = [join(&mut queue, 1, false), join(&mut queue, 1, false)];
        assert!(queue.pop_oldest(0).is_none());
        drop(queue.pop_oldest(1).expect("an equal one"));
        assert!(older.try_recv().is_err() && queue.len() == 2);
        assert!(queue.pop_oldest(5).is_some() && queue.pop_oldest(5).is_some());
        assert!(queue.pop_oldest(5).is_none() && queue.len() == 0);
        drop((high, newer));
    }

    #[test]
    fn those_that_were_accepted_before_are_not_displaced() {
        let mut queue = Queue::default();
        let mut join = |accepted| {
            let (answer, granted) = oneshot::channel();
            let turn = Turn {
                accepted,
                ..Turn::default()
            };
            let came = queue.len() as u64;
            queue.push(Queued { answer, turn, came });
            granted
        };
        let [accepted, mut plain] = [join(true), join(false)];
        drop(queue.pop_oldest(0).expect("the one that was not"));
        assert!(plain.try_recv().is_err() && queue.pop_oldest(0).is_none());
        assert!(is_next(&mut queue, accepted) && queue.len() == 0);
    }
}
