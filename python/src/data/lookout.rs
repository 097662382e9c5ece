//! Looking out for the next call instead of sleeping until it comes.

use std::time::Duration;

use rustix::thread::sched_yield;
use snakepit_proto::frames::FrameReader;
use tokio::time::Instant;

/// A call that comes so soon after the answer to the one before need not be slept for. It is about what the kernel and both ends
/// spend on putting this thread to sleep and waking it, so that looking in vain costs no more than twice as much.
const SOON: Duration = Duration::from_micros(50);

/// So many have come soon, one after the other, before the next one is looked out for.
const STREAK: u32 = 4;

/// Somebody who takes the processor for so long computes: the scheduler gives whoever does a few milliseconds at a time. Others only
/// had something to see to.
const SLICE: Duration = Duration::from_millis(1);

/// Those who compute are left alone for this long; four times as long each time that they still do after
/// that, since the time that was spent on looking out is kept against this thread when it wants to run.
const REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(10);

/// Whether the next call is looked out for, or slept for.
///
/// A caller that calls again and again is served sooner while the worker stays awake in between: on an idle machine waking it takes as
/// long as the rest of the call. That is for idle processors, and for callers that are quick: one call that does not come soon, or
/// somebody else who computes, and the worker sleeps as any other.
pub(super) struct Lookout {
    /// When the last answer was sent.
    answered: Instant,
    /// How many calls in a row have come soon.
    streak: u32,
    rest: Duration,
    rests_until: Instant,
}

impl Lookout {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            answered: now,
            streak: 0,
            rest: REST,
            rests_until: now,
        }
    }

    /// An answer was sent.
    pub(super) fn answered(&mut self) {
        self.answered = Instant::now();
    }

    /// Looks for the next call as long as that may come soon.
    pub(super) fn look(&mut self, requests: &mut FrameReader) {
        while self.streak >= STREAK && !requests.look() {
            sched_yield();
            let now = Instant::now();
            let waited = now - self.answered;
            if waited > SOON {
                self.streak = 0;
            }
            if waited > SLICE {
                self.leave_others_alone(now);
            }
        }
    }

    fn leave_others_alone(&mut self, now: Instant) {
        let again = now.saturating_duration_since(self.rests_until) < self.rest;
        self.rest = if again {
            LONGEST_REST.min(self.rest * 4)
        } else {
            REST
        };
        self.rests_until = now + self.rest;
    }

    /// A call has come.
    pub(super) fn came(&mut self) {
        let now = Instant::now();
        let soon = now - self.answered <= SOON && now >= self.rests_until;
        self.streak = if soon { self.streak.saturating_add(1) } else { 0 };
    }
}
