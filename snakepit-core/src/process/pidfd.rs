//! A process that stays the same process for as long as we hold it.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::ExitStatus,
    sync::OnceLock,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, waitid},
};
use tokio::io::unix::AsyncFd;

use super::{ExitOutcome, sys};

/// A pidfd, pidfd_open(2): names one process, also after its pid went to another one.
///
/// It does not keep the process alive and does not reap it. The descriptor is close-on-exec.
#[derive(Debug)]
pub struct Pidfd {
    fd: OwnedFd,
    pid: u32,
}

impl Pidfd {
    /// Opens whatever process has this pid now, a zombie included. Whether it is the one that was meant is
    /// for the caller to check afterwards; [`ProcessIdentity::open`](super::ProcessIdentity::open) does.
    ///
    /// # Errors
    /// `ESRCH` when there is none; what pidfd_open(2) answers.
    pub fn open(pid: u32) -> io::Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        Ok(Self {
            fd: pidfd_open(raw, PidfdFlags::empty())?,
            pid,
        })
    }

    /// Takes a descriptor that is a pidfd, as another process sent it. Its pid is read from the kernel, as it is in
    /// our PID namespace.
    ///
    /// # Errors
    /// `EINVAL` when it is no pidfd, `ESRCH` when its process was reaped or is not in our PID namespace; what reading
    /// `/proc` answers.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        // Where it says no, for whichever reason, the text says why.
        if let Ok(pid) = sys::pid_of(fd.as_fd())
            && pid > 0
        {
            return Ok(Self { fd, pid });
        }
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
        let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        // -1 once it is reaped, 0 when it is in another namespace.
        match pid.trim().parse::<u32>() {
            Ok(pid) if pid > 0 => Ok(Self { fd, pid }),
            _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    }

    /// Takes a descriptor that is a pidfd, knowing its pid from elsewhere.
    pub(super) fn from_parts(fd: OwnedFd, pid: u32) -> Self {
        Self { fd, pid }
    }

    /// The pid it had when opened.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal to exactly this process; 0 only asks whether it exists (a zombie does).
    ///
    /// # Errors
    /// `ESRCH` when it was reaped, `EPERM` when we may not signal it; pidfd_send_signal(2).
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        sys::pidfd_send_signal(self.fd.as_fd(), signal, 0)
    }

    /// Sends a signal to every member of the process group that this process leads or led. The kernel looks
    /// the group up by the identity behind the descriptor, so it cannot hit a group that got the number later,
    /// also when the leader has been reaped.
    ///
    /// # Errors
    /// `EINVAL` before Linux 6.9 (see [`can_signal_groups`](Self::can_signal_groups)), `ESRCH` when the group
    /// has no member left (zombies count as members), `EPERM` when none may be signalled.
    pub fn signal_group(&self, signal: i32) -> io::Result<()> {
        sys::pidfd_send_signal(self.fd.as_fd(), signal, sys::SIGNAL_PROCESS_GROUP)
    }

    /// Whether this kernel signals groups through pidfds (Linux 6.9 and later). Asked once, by a signal 0.
    pub fn can_signal_groups(&self) -> bool {
        static CAN: OnceLock<bool> = OnceLock::new();
        *CAN.get_or_init(|| {
            // An old kernel refuses the flag before it looks at anything else.
            let answer = self.signal_group(0).map_err(|error| error.raw_os_error());
            !matches!(answer, Err(Some(libc::EINVAL | libc::ENOSYS)))
        })
    }

    /// Whether the process has ended with all of its threads; a zombie has.
    pub fn has_exited(&self) -> bool {
        self.poll(Duration::ZERO)
    }

    /// Blocks up to `timeout` for the process to end, and says whether it has.
    pub fn wait_blocking(&self, timeout: Duration) -> bool {
        self.poll(timeout)
    }

    fn poll(&self, timeout: Duration) -> bool {
        let timeout = Timespec::try_from(timeout).ok();
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        // An interrupted or failed poll knows nothing, and "not ended" is the answer that loses nothing.
        poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// When the descriptor cannot be watched, as with `ENOSPC` (epoll_ctl(2)).
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    ///
    /// # Cancel safety
    /// Safe; several waits may run at a time.
    pub async fn exited(&self) -> io::Result<()> {
        if self.has_exited() {
            return Ok(());
        }
        match sys::watch_readable(self.fd.as_fd()) {
            Ok(watched) => self.watch(watched).await,
            // epoll(7) takes a descriptor once; a second wait needs a number of its own.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let copy = self.fd.try_clone()?;
                self.watch(sys::watch_readable(copy.as_fd())?).await
            }
            Err(error) => Err(error),
        }
    }

    async fn watch(&self, watched: AsyncFd<BorrowedFd<'_>>) -> io::Result<()> {
        loop {
            let mut ready = watched.readable().await?;
            if self.has_exited() {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    /// How our child ended, leaving it unreaped (`WNOWAIT`, waitid(2)); `None` while it runs.
    ///
    /// # Errors
    /// `ECHILD` when it is not our child or somebody else reaped it.
    pub fn peek_outcome(&self) -> io::Result<Option<ExitOutcome>> {
        self.waitid(WaitIdOptions::NOWAIT)
    }

    /// Reaps our child, if it has ended.
    ///
    /// # Errors
    /// `ECHILD` when it is not our child or was reaped before.
    pub fn reap(&self) -> io::Result<Option<ExitOutcome>> {
        self.waitid(WaitIdOptions::empty())
    }

    /// How the process ended, once somebody has reaped it: it need not be our child nor in our PID namespace.
    /// `None` before that.
    ///
    /// # Errors
    /// `ENOTTY` or `EINVAL` before Linux 6.15.
    pub fn reaped_outcome(&self) -> io::Result<Option<ExitOutcome>> {
        let status = sys::reaped_status(self.fd.as_fd())?;
        Ok(status.map(|status| ExitStatus::from_raw(status).into()))
    }

    fn waitid(&self, extra: WaitIdOptions) -> io::Result<Option<ExitOutcome>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | extra;
        let status = waitid(WaitId::PidFd(self.fd.as_fd()), options)?;
        Ok(status.as_ref().map(outcome))
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn outcome(status: &WaitIdStatus) -> ExitOutcome {
    if let Some(code) = status.exit_status() {
        ExitOutcome::Exited(code)
    } else if let Some(signal) = status.terminating_signal() {
        ExitOutcome::Signaled {
            signal,
            core_dumped: status.dumped(),
        }
    } else {
        ExitOutcome::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Child, *};

    #[tokio::test]
    async fn waits_for_the_exit_and_reads_how_it_was() {
        let child = Child::start("read line; exit 7");
        let pidfd = Pidfd::open(child.pid()).unwrap();
        assert!(!pidfd.has_exited());
        assert_eq!(pidfd.peek_outcome().unwrap(), None);
        let (first, second) = tokio::join!(pidfd.exited(), async {
            tokio::join!(pidfd.exited(), async { child.close_stdin() }).0
        });
        first.unwrap();
        second.unwrap();
        assert_eq!(pidfd.peek_outcome().unwrap(), Some(ExitOutcome::Exited(7)));
        assert_eq!(pidfd.reap().unwrap(), Some(ExitOutcome::Exited(7)));
        assert_eq!(pidfd.signal(0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[tokio::test]
    async fn reads_the_signal_that_ended_it() {
        let child = Child::start("read line");
        let pidfd = Pidfd::open(child.pid()).unwrap();
        pidfd.signal(libc::SIGUSR2).unwrap();
        pidfd.exited().await.unwrap();
        let expected = ExitOutcome::Signaled {
            signal: libc::SIGUSR2,
            core_dumped: false,
        };
        assert_eq!(pidfd.peek_outcome().unwrap(), Some(expected));
    }

    #[test]
    fn tells_the_outcome_also_after_somebody_else_reaped_it() {
        for (script, expected) in [
            ("exit 7", ExitOutcome::Exited(7)),
            (
                "kill -9 $$",
                ExitOutcome::Signaled {
                    signal: 9,
                    core_dumped: false,
                },
            ),
        ] {
            let child = Child::start(script);
            let pidfd = Pidfd::open(child.pid()).unwrap();
            assert!(pidfd.wait_blocking(Duration::from_secs(10)));
            let before = pidfd.reaped_outcome();
            drop(child);
            match pidfd.reaped_outcome() {
                Ok(outcome) => {
                    assert_eq!(before.unwrap(), None);
                    assert_eq!(outcome, Some(expected));
                }
                Err(error) => assert!(
                    matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)),
                    "{error}"
                ),
            }
        }
    }

    #[test]
    fn a_descriptor_from_elsewhere_tells_its_pid_until_it_is_reaped() {
        let child = Child::start("read line");
        let fd = || Pidfd::open(child.pid()).unwrap().fd;
        let (alive, dead) = (fd(), fd());
        assert_eq!(Pidfd::from_fd(alive).unwrap().pid(), child.pid());
        drop(child);
        assert_eq!(
            Pidfd::from_fd(dead).unwrap_err().raw_os_error(),
            Some(libc::ESRCH)
        );
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        let error = Pidfd::from_fd(file.into()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_pid_that_no_process_can_have_is_not_found() {
        for pid in [0, u32::MAX] {
            assert_eq!(Pidfd::open(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        }
    }
}
