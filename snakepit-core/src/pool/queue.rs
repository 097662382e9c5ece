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

    fn may_be_displaced(&self) -> bool {
        !self.turn.accepted && !self.has_left()
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
    /// has accepted stay.
    pub(super) fn pop_oldest(&mut self, priority: i32) -> Option<Queued> {
        for level in self
            .levels
            .range_mut(Reverse(priority)..)
            .rev()
            .map(|(_, level)| level)
        {
            while level.front().is_some_and(Queued::has_left) {
                level.pop_front();
                self.len -= 1;
            }
            if let Some(at) = level.iter().position(Queued::may_be_displaced) {
                self.len -= 1;
                return level.remove(at);
            }
        }
        None
    }

    /// The place of who would be taken out by [`pop_oldest`](Self::pop_oldest), the least urgent and oldest first.
    pub(super) fn oldest(&self) -> Option<(i32, u64)> {
        let mut levels = self.levels.values().rev();
        let oldest = levels.find_map(|level| level.iter().find(|caller| caller.may_be_displaced()))?;
        let (Reverse(priority), _, came) = oldest.rank();
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
    use crate::pool::{
        dispatch::{Aim, At},
        session::SessionMode,
    };

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
    fn who_was_accepted_is_never_displaced() {
        let mut queue = Queue::default();
        let (answer, mut accepted) = oneshot::channel();
        let turn = Turn {
            priority: -1,
            accepted: true,
            ..Turn::default()
        };
        queue.push(Queued {
            answer,
            turn,
            came: 0,
        });
        drop(join(&mut queue, 0, false));
        let mut other = join(&mut queue, 0, false);
        assert_eq!(queue.oldest(), Some((0, 2)));
        drop(queue.pop_oldest(0).expect("the other one"));
        assert!(matches!(
            other.try_recv(),
            Err(oneshot::error::TryRecvError::Closed)
        ));
        assert!(queue.oldest().is_none() && queue.pop_oldest(0).is_none());
        assert!(matches!(
            accepted.try_recv(),
            Err(oneshot::error::TryRecvError::Empty)
        ));
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn callers_of_a_session_move_to_another_queue_in_the_order_they_came() {
        let mut queue = Queue::default();
        let mut callers = Vec::new();
        for came in 0..6 {
            let (answer, granted) = oneshot::channel();
            let aim = (came % 2 == 0).then_some(Aim {
                session: SessionId(7),
                at: At::Mode(SessionMode::StrictQueue),
            });
            let turn = Turn {
                aim,
                ..Turn::default()
            };
            queue.push(Queued { answer, turn, came });
            callers.push(granted);
        }
        let mut pinned = Queue::default();
        let mut moved = queue.take_session(SessionId(7));
        assert_eq!((queue.len(), queue.present(), moved.len()), (3, 3, 3));
        // Whoever came meanwhile came later.
        let (answer, _later) = oneshot::channel();
        let turn = Turn::default();
        pinned.push(Queued {
            answer,
            turn,
            came: 9,
        });
        moved.reverse();
        for caller in moved {
            pinned.push(caller);
        }
        let order = std::iter::from_fn(|| pinned.pop()).map(|caller| caller.came);
        assert_eq!(order.collect::<Vec<_>>(), [0, 2, 4, 9]);
        let others = std::iter::from_fn(|| queue.pop()).map(|caller| caller.came);
        assert_eq!(others.collect::<Vec<_>>(), [1, 3, 5]);
    }
}
