//! A process group, signalled so that it can only be the one that was meant.

use std::{io, sync::Arc};

use rustix::process::{Pid, Signal, kill_process_group};

use super::Pidfd;

/// The process group that a process was started as leader of.
///
/// A group's number is free for reuse once the leader is reaped *and* no member is left, so a plain
/// `killpg` after the reap may hit strangers. Two things prevent that:
///
/// - From Linux 6.9 on the kernel finds the group through the leader's pidfd, whose identity is never reused.
///   The leader may be reaped at once.
/// - Before, the leader is left unreaped until the group is known to be empty: a zombie keeps its number.
///   Signals are sent only while the leader is seen to exist, by the one task that also reaps it.
#[derive(Clone, Debug)]
pub struct ProcessGroup {
    leader: Arc<Pidfd>,
    by_pidfd: bool,
}

impl ProcessGroup {
    /// The group that `leader` was started as the leader of.
    pub fn led_by(leader: Arc<Pidfd>) -> Self {
        Self {
            leader,
            by_pidfd: Pidfd::can_signal_groups(),
        }
    }

    /// As on a kernel before 6.9.
    #[cfg(test)]
    pub(super) fn led_by_number(leader: Arc<Pidfd>) -> Self {
        Self {
            leader,
            by_pidfd: false,
        }
    }

    /// The group's number.
    pub fn pgid(&self) -> u32 {
        self.leader.pid()
    }

    /// Whether the leader must stay unreaped for as long as the group is to be signalled.
    pub fn needs_unreaped_leader(&self) -> bool {
        !self.by_pidfd
    }

    /// Sends a signal to all members.
    ///
    /// # Errors
    /// `ESRCH` when there is no member (an unreaped zombie is one), or when the number is not safely ours any
    /// more; `EPERM` when no member may be signalled.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        if self.by_pidfd {
            return self.leader.signal_group(signal);
        }
        self.leader.signal(0)?;
        let leader = i32::try_from(self.pgid()).ok().and_then(Pid::from_raw);
        let leader = leader.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        match Signal::from_named_raw(signal) {
            Some(signal) => Ok(kill_process_group(leader, signal)?),
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Whether the number still means this group: it has members, zombies counted. What was found by the
    /// number before this answered `true` belongs to the group.
    pub fn holds_number(&self) -> bool {
        let answer = if self.by_pidfd {
            self.leader.signal_group(0)
        } else {
            self.leader.signal(0)
        };
        // EPERM: it exists, and we may not signal it.
        answer.map_or_else(|error| error.raw_os_error() != Some(libc::ESRCH), |()| true)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Child, *};

    fn groups(child: &Child) -> [ProcessGroup; 2] {
        let leader = Arc::new(Pidfd::open(child.pid()).unwrap());
        [
            ProcessGroup::led_by(Arc::clone(&leader)),
            ProcessGroup::led_by_number(leader),
        ]
    }

    #[test]
    fn reaches_members_and_is_gone_with_the_last() {
        for by_pidfd in [0, 1] {
            let child = Child::start("exec 3<&0; (read line <&3) & read line");
            let group = &groups(&child)[by_pidfd];
            assert!(group.holds_number());
            group.signal(libc::SIGKILL).unwrap();
            assert!(group.leader.wait_blocking(std::time::Duration::from_secs(10)));
            // The zombie leader is still a member.
            assert!(group.holds_number());
        }
    }

    #[test]
    fn is_never_signalled_by_a_number_that_is_free_again() {
        let child = Child::start("exit 0");
        let groups = groups(&child);
        drop(child);
        for group in groups {
            assert!(!group.holds_number());
            let error = group.signal(libc::SIGKILL).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
        }
    }
}
