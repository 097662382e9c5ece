//! When a child is restarted, and how it is ended.

use std::time::Duration;

/// When a child that ended is started again. The meanings are OTP's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RestartPolicy {
    /// Always.
    Permanent,
    /// After an abnormal end only.
    Transient,
    /// Never; the child is forgotten when it ends.
    Temporary,
}

impl RestartPolicy {
    /// Whether a child with this policy is started again; `normal` tells that the host asked for its end.
    pub const fn restarts(self, normal: bool) -> bool {
        match self {
            Self::Permanent => true,
            Self::Transient => !normal,
            Self::Temporary => false,
        }
    }
}

/// How long a child may take to end. Where several requests meet, the shorter times win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shutdown {
    /// How long the running call may go on. Default 5 s; zero interrupts it.
    pub drain: Duration,
    /// Between SIGTERM and SIGKILL. Default 5 s, as in OTP's worker children; zero kills at once.
    pub grace: Duration,
}

impl Shutdown {
    /// No drain and no grace: what OTP calls `brutal_kill`.
    pub const BRUTAL: Self = Self {
        drain: Duration::ZERO,
        grace: Duration::ZERO,
    };

    /// The shorter of both times, each by itself.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self {
            drain: self.drain.min(other.drain),
            grace: self.grace.min(other.grace),
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(5),
            grace: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_mean_what_they_mean_in_otp() {
        let table = [
            (RestartPolicy::Permanent, true, true),
            (RestartPolicy::Permanent, false, true),
            (RestartPolicy::Transient, true, false),
            (RestartPolicy::Transient, false, true),
            (RestartPolicy::Temporary, true, false),
            (RestartPolicy::Temporary, false, false),
        ];
        for (policy, normal, restarts) in table {
            assert_eq!(policy.restarts(normal), restarts, "{policy:?}, normal: {normal}");
        }
    }

    #[test]
    fn the_shorter_of_each_time_wins() {
        let patient = Shutdown {
            drain: Duration::from_secs(9),
            grace: Duration::from_secs(1),
        };
        let met = patient.min(Shutdown::default());
        assert_eq!((met.drain.as_secs(), met.grace.as_secs()), (5, 1));
    }
}
