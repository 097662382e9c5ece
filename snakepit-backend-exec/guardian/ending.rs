//! When what is sent to a tree that is to end.

use crate::wire::EndedBy;

/// Between two kills of a tree that is still there: short at first, as what is left shows up at once.
const FIRST_PAUSE_MS: u64 = 1;
const LONGEST_PAUSE_MS: u64 = 100;

/// Where the end of a tree stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ending {
    phase: Phase,
    asked: bool,
    by: Option<EndedBy>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Quiet,
    /// It has until this time to end by itself.
    Grace { until: u64 },
    /// It is being killed, the next time at this one.
    Kill { next: u64, pause: u64 },
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Wait,
    Kill,
}

impl Ending {
    /// The tree is to end within `grace` milliseconds. Whether it is to be told so now.
    pub(crate) fn stop(&mut self, now: u64, grace: u64, silent: bool) -> bool {
        let until = now.saturating_add(grace);
        let until = match self.phase {
            Phase::Kill { .. } => return false,
            Phase::Grace { until: earlier } => until.min(earlier),
            Phase::Quiet => until,
        };
        if until <= now {
            self.kill(now);
            return false;
        }
        self.phase = Phase::Grace { until };
        self.by = Some(EndedBy::Term);
        let ask = !silent && !self.asked;
        self.asked |= ask;
        ask
    }

    /// The tree is to be killed.
    pub(crate) fn kill(&mut self, now: u64) {
        if !matches!(self.phase, Phase::Kill { .. }) {
            self.phase = Phase::Kill {
                next: now,
                pause: FIRST_PAUSE_MS,
            };
        }
    }

    /// What the time asks for. [`Act::Kill`] counts as done.
    pub(crate) fn act(&mut self, now: u64) -> Act {
        if let Phase::Grace { until } = self.phase
            && until <= now
        {
            self.kill(now);
        }
        match self.phase {
            Phase::Kill { next, pause } if next <= now => {
                self.by = Some(EndedBy::Kill);
                self.phase = Phase::Kill {
                    next: now + pause,
                    pause: (pause * 2).min(LONGEST_PAUSE_MS),
                };
                Act::Kill
            }
            _ => Act::Wait,
        }
    }

    /// When there is something to do next.
    pub(crate) fn next(&self) -> Option<u64> {
        match self.phase {
            Phase::Quiet => None,
            Phase::Grace { until } => Some(until),
            Phase::Kill { next, .. } => Some(next),
        }
    }

    /// The last step so far.
    pub(crate) fn by(&self) -> EndedBy {
        self.by.unwrap_or(EndedBy::Itself)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_asked_once_and_killed_after_its_grace() {
        let mut ending = Ending::default();
        assert_eq!((ending.next(), ending.act(99)), (None, Act::Wait));
        assert_eq!(ending.by(), EndedBy::Itself);
        assert!(ending.stop(100, 50, false));
        assert!(!ending.stop(101, 50, false));
        assert_eq!((ending.next(), ending.act(149)), (Some(150), Act::Wait));
        assert_eq!(ending.by(), EndedBy::Term);
        assert_eq!((ending.act(150), ending.by()), (Act::Kill, EndedBy::Kill));
        // Again and again, ever more slowly.
        assert_eq!((ending.act(150), ending.next()), (Act::Wait, Some(151)));
        let mut now = 151;
        for _ in 0..20 {
            assert_eq!(ending.act(now), Act::Kill);
            now = ending.next().unwrap();
        }
        assert!(!ending.stop(now, 1000, false));
        assert_eq!(ending.act(now), Act::Kill);
        assert_eq!(ending.next(), Some(now + LONGEST_PAUSE_MS));
    }

    #[test]
    fn the_shorter_grace_wins() {
        let mut ending = Ending::default();
        assert!(!ending.stop(0, 1000, true));
        // Now it is to be asked as well, and the time that it has does not grow.
        assert!(ending.stop(10, 5000, false));
        assert_eq!(ending.next(), Some(1000));
        assert!(!ending.stop(20, 30, false));
        assert_eq!(ending.next(), Some(50));
        assert!(!ending.stop(21, 0, false));
        assert_eq!(ending.act(21), Act::Kill);
    }

    #[test]
    fn a_grace_beyond_all_time_is_no_overflow() {
        let mut ending = Ending::default();
        assert!(ending.stop(5, u64::MAX, false));
        assert_eq!(ending.next(), Some(u64::MAX));
    }
}
