//! Numbers of the kernel's interface, equal on every architecture with the calls of this program.

pub(crate) const EPERM: i32 = 1;
pub(crate) const ESRCH: i32 = 3;
pub(crate) const EIO: i32 = 5;
pub(crate) const E2BIG: i32 = 7;
pub(crate) const EBADF: i32 = 9;
pub(crate) const ECHILD: i32 = 10;
pub(crate) const EAGAIN: i32 = 11;
pub(crate) const EBUSY: i32 = 16;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const EMFILE: i32 = 24;
pub(crate) const EPROTO: i32 = 71;
pub(crate) const ECONNRESET: i32 = 104;

pub(crate) const SIGKILL: i32 = 9;
pub(crate) const SIGUSR1: i32 = 10;
pub(crate) const SIGTERM: i32 = 15;
pub(crate) const SIGCHLD: i32 = 17;
pub(crate) const SIGCONT: i32 = 18;
pub(crate) const SIGSTOP: i32 = 19;
pub(super) const SIG_SETMASK: i32 = 2;

pub(crate) const O_WRONLY: i32 = 0o1;
pub(crate) const O_NONBLOCK: i32 = 0o4000;
/// Enough to go there.
pub(crate) const O_PATH: i32 = 0o10_000_000;
pub(super) const O_CLOEXEC: i32 = 0o2_000_000;
pub(super) const AT_FDCWD: i32 = -100;
pub(super) const AT_REMOVEDIR: i32 = 0x200;
pub(crate) const F_GETFL: i32 = 3;
pub(crate) const F_SETFL: i32 = 4;
pub(crate) const F_SETOWN: i32 = 8;
pub(crate) const F_SETSIG: i32 = 10;
pub(crate) const O_ASYNC: i32 = 0o20_000;

pub(crate) const AF_UNIX: i32 = 1;
pub(crate) const SOCK_SEQPACKET: i32 = 5;
pub(super) const SOL_SOCKET: i32 = 1;
pub(crate) const SO_TYPE: i32 = 3;
pub(crate) const SO_DOMAIN: i32 = 39;
pub(super) const SCM_RIGHTS: i32 = 1;
pub(super) const MSG_CTRUNC: i32 = 0x8;
pub(super) const MSG_TRUNC: i32 = 0x20;
pub(super) const MSG_DONTWAIT: i32 = 0x40;
pub(super) const MSG_NOSIGNAL: i32 = 0x4000;
pub(super) const MSG_CMSG_CLOEXEC: i32 = 0x4000_0000;

/// The type of a directory in what getdents64(2) writes.
pub(crate) const DT_DIR: u8 = 4;
pub(super) const POLLIN: i16 = 0x1;
pub(super) const POLLPRI: i16 = 0x2;
pub(super) const POLLHUP: i16 = 0x10;
pub(super) const POLLRDHUP: i16 = 0x2000;
pub(crate) const EPOLLIN: u32 = 0x1;
pub(crate) const EPOLLPRI: u32 = 0x2;
pub(crate) const EPOLLOUT: u32 = 0x4;
pub(crate) const EPOLLRDHUP: u32 = 0x2000;
pub(crate) const EPOLL_CTL_ADD: i32 = 1;
pub(crate) const EPOLL_CTL_DEL: i32 = 2;
pub(crate) const EPOLL_CTL_MOD: i32 = 3;
pub(super) const CLOCK_MONOTONIC: i32 = 1;

pub(super) const CLONE_PIDFD: u64 = 0x1000;
pub(crate) const CLONE_NEWNS: u64 = 0x20000;
pub(crate) const CLONE_NEWUSER: u64 = 0x1000_0000;
pub(crate) const CLONE_NEWPID: u64 = 0x2000_0000;
pub(super) const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
pub(super) const WNOHANG: u32 = 1;
/// Children that have been stopped, too.
pub(crate) const WUNTRACED: u32 = 2;
/// Children of every kind.
pub(crate) const WALL: u32 = 0x4000_0000;
/// Only children whose end is not told by SIGCHLD.
pub(crate) const WCLONE: u32 = 0x8000_0000;
/// pidfd_send_signal(2): the signal goes to the process group (Linux 6.9).
pub(crate) const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 4;

pub(crate) const PR_SET_PDEATHSIG: i32 = 1;
pub(super) const PR_SET_NAME: i32 = 15;
pub(crate) const PR_SET_CHILD_SUBREAPER: i32 = 36;
pub(crate) const PRIO_PROCESS: i32 = 0;
pub(crate) const RLIMIT_NOFILE: u32 = 7;

pub(crate) const MS_NOSUID: u64 = 0x2;
pub(crate) const MS_NODEV: u64 = 0x4;
pub(crate) const MS_NOEXEC: u64 = 0x8;
pub(crate) const MS_REC: u64 = 0x4000;
pub(crate) const MS_PRIVATE: u64 = 0x40000;
