//! What is to be told about one worker and has not been sent.

use crate::wire::Event;

/// Kept, Held or SpawnFailed, Started or ExecFailed, Exited, Ended.
const MOST: usize = 5;

/// An event and its two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) event: Event,
    pub(crate) a: i64,
    pub(crate) b: i64,
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    notes: [Option<Note>; MOST],
}

impl Outbox {
    /// Adds a note; more than there can be are dropped.
    pub(crate) fn push(&mut self, event: Event, (a, b): (i64, i64)) {
        if let Some(room) = self.notes.iter_mut().find(|note| note.is_none()) {
            *room = Some(Note { event, a, b });
        }
    }

    pub(crate) fn front(&self) -> Option<Note> {
        self.notes[0]
    }

    pub(crate) fn pop(&mut self) {
        self.notes[0] = None;
        self.notes.rotate_left(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_leave_in_the_order_they_came() {
        let mut outbox = Outbox::default();
        outbox.push(Event::Held, (0, 0));
        outbox.push(Event::Started, (1, 2));
        assert_eq!(outbox.front().map(|note| note.event), Some(Event::Held));
        outbox.pop();
        outbox.push(Event::Exited, (9, 0));
        let second = Note {
            event: Event::Started,
            a: 1,
            b: 2,
        };
        assert_eq!(outbox.front(), Some(second));
        outbox.pop();
        assert_eq!(outbox.front().map(|note| note.a), Some(9));
        outbox.pop();
        assert_eq!(outbox.front(), None);
        for _ in 0..9 {
            outbox.push(Event::Ended, (0, 0));
        }
        for _ in 0..MOST {
            outbox.pop();
        }
        assert_eq!(outbox.front(), None);
    }
}
