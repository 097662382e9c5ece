//! System calls. The only home of `unsafe` in the guardian.
//!
//! They are made directly, by number: the guardian depends on the standard library alone, and forks itself, where a C
//! library's own bookkeeping helps nobody. Nothing here allocates.

#![expect(
    unsafe_code,
    reason = "the standard library has no wrapper for clone, namespaces, descriptors in messages and signals"
)]

use std::{
    ffi::{CStr, c_char, c_int, c_long},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

pub(crate) mod constants;
#[cfg(debug_assertions)]
mod frugal;
mod number;

use constants::{CLONE_INTO_CGROUP, CLONE_PIDFD, MSG_CMSG_CLOEXEC, MSG_DONTWAIT, MSG_NOSIGNAL};

/// A process id in the PID namespace of whoever uses it.
pub(crate) type Pid = i32;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// Makes a system call.
///
/// # Safety
/// As the call itself: pointers among the arguments are valid for what it does with them.
unsafe fn call<const N: usize>(number: c_long, arguments: [usize; N]) -> io::Result<usize> {
    let at = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: upheld by the caller; arguments beyond those that the call has are ignored.
    let answer = unsafe { syscall(number, at(0), at(1), at(2), at(3), at(4), at(5)) };
    if answer == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer as usize)
    }
}

/// A descriptor or a small number, as an argument.
fn int(value: i32) -> usize {
    value as isize as usize
}

fn raw(fd: impl AsFd) -> usize {
    int(fd.as_fd().as_raw_fd())
}

fn new_fd(number: usize) -> OwnedFd {
    // SAFETY: only called with what a system call has just returned as a new descriptor, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(number as RawFd) }
}

/// One of the three standard descriptors, which the standard library keeps open from the start.
pub(crate) fn standard(number: RawFd) -> BorrowedFd<'static> {
    assert!((0..3).contains(&number));
    // SAFETY: 0, 1 and 2 are open from before `main` and never closed, only replaced.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// In builds with debug assertions: from here on an allocation aborts the process, or is allowed again.
pub(crate) fn forbid_allocation(forbid: bool) {
    #[cfg(debug_assertions)]
    frugal::forbid(forbid);
    #[cfg(not(debug_assertions))]
    let _ = forbid;
}

// ---- descriptors

pub(crate) fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is writable for its length.
    unsafe {
        call(
            number::READ,
            [raw(fd), buffer.as_mut_ptr() as usize, buffer.len()],
        )
    }
}

pub(crate) fn write(fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the buffer is readable for its length.
    unsafe { call(number::WRITE, [raw(fd), bytes.as_ptr() as usize, bytes.len()]) }
}

/// openat(2), with `O_CLOEXEC`. Without a directory an absolute path.
pub(crate) fn open(dir: Option<BorrowedFd<'_>>, path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    let dir = dir.map_or(int(constants::AT_FDCWD), raw);
    let flags = int(flags | constants::O_CLOEXEC);
    // SAFETY: the path is NUL-terminated.
    unsafe { call(number::OPENAT, [dir, path.as_ptr() as usize, flags, 0]) }.map(new_fd)
}

/// Removes the empty directory `path` below `dir`.
pub(crate) fn remove_dir(dir: impl AsFd, path: &CStr) -> io::Result<()> {
    let flags = int(constants::AT_REMOVEDIR);
    // SAFETY: the path is NUL-terminated.
    unsafe { call(number::UNLINKAT, [raw(dir), path.as_ptr() as usize, flags]) }.map(drop)
}

/// getdents64(2): fills `buffer` with directory entries and says how many bytes; 0 at the end.
pub(crate) fn entries(dir: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is writable for its length.
    unsafe {
        call(
            number::GETDENTS64,
            [raw(dir), buffer.as_mut_ptr() as usize, buffer.len()],
        )
    }
}

/// Makes `target` another name of `fd`, without `CLOEXEC`.
pub(crate) fn duplicate_onto(fd: impl AsFd, target: RawFd) -> io::Result<()> {
    // SAFETY: no memory is passed. Whoever owned `target` is replaced by the caller's intent: it is one of the three
    // standard descriptors, which have no owner.
    unsafe { call(number::DUP3, [raw(fd), int(target), 0]) }.map(drop)
}

/// Closes every descriptor in `first..=last`, whoever owned it: for a process that has just been forked and goes on
/// with a few of them.
pub(crate) fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: no memory is passed. Owners of closed descriptors are the callers' to leave alone; see above.
    unsafe { call(number::CLOSE_RANGE, [first as usize, last as usize, 0]) }.map(drop)
}

pub(crate) fn fcntl(fd: impl AsFd, command: i32, argument: i32) -> io::Result<i32> {
    // SAFETY: used with commands whose argument is a number.
    unsafe { call(number::FCNTL, [raw(fd), int(command), int(argument)]) }.map(|answer| answer as i32)
}

/// A pipe, both ends `CLOEXEC`: (reading, writing).
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends: [c_int; 2] = [-1; 2];
    // SAFETY: there is room for two descriptors.
    unsafe {
        call(
            number::PIPE2,
            [ends.as_mut_ptr() as usize, int(constants::O_CLOEXEC)],
        )
    }?;
    Ok((new_fd(ends[0] as usize), new_fd(ends[1] as usize)))
}

/// A pair of connected `SOCK_SEQPACKET` sockets, `CLOEXEC`.
pub(crate) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends: [c_int; 2] = [-1; 2];
    let kind = int(constants::SOCK_SEQPACKET | constants::O_CLOEXEC);
    let domain = int(constants::AF_UNIX);
    // SAFETY: there is room for two descriptors.
    unsafe { call(number::SOCKETPAIR, [domain, kind, 0, ends.as_mut_ptr() as usize]) }?;
    Ok((new_fd(ends[0] as usize), new_fd(ends[1] as usize)))
}

/// A number that getsockopt(2) tells at the level of sockets.
pub(crate) fn socket_option(fd: impl AsFd, option: i32) -> io::Result<i32> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as u32;
    let (level, option) = (int(constants::SOL_SOCKET), int(option));
    let (value_at, len_at) = ((&raw mut value) as usize, (&raw mut len) as usize);
    // SAFETY: value and length outlive the call, and the length is that of the value.
    unsafe { call(number::GETSOCKOPT, [raw(fd), level, option, value_at, len_at]) }?;
    Ok(value)
}

/// `struct iovec`.
#[repr(C)]
struct Slice {
    start: *mut u8,
    len: usize,
}

/// `struct msghdr`.
#[repr(C)]
struct Header {
    name: *mut u8,
    name_len: u32,
    slices: *mut Slice,
    slice_count: usize,
    control: *mut u8,
    control_len: usize,
    flags: c_int,
}

/// Room for descriptors that come or go with a message, laid out as `struct cmsghdr` and its data.
#[repr(C)]
struct Control<const N: usize> {
    len: usize,
    level: c_int,
    kind: c_int,
    fds: [RawFd; N],
}

/// The length of the part of a control message before its data.
const CONTROL_HEADER: usize = 16;

/// Sends a packet with descriptors and never waits.
pub(crate) fn send<const N: usize>(
    socket: impl AsFd,
    bytes: &[u8],
    fds: [Option<BorrowedFd<'_>>; N],
) -> io::Result<()> {
    let mut numbers = [-1; N];
    let mut count = 0;
    for fd in fds.iter().flatten() {
        numbers[count] = fd.as_raw_fd();
        count += 1;
    }
    let mut control = Control {
        len: CONTROL_HEADER + count * size_of::<RawFd>(),
        level: constants::SOL_SOCKET,
        kind: constants::SCM_RIGHTS,
        fds: numbers,
    };
    let mut slice = Slice {
        // Sending does not write to it.
        start: bytes.as_ptr().cast_mut(),
        len: bytes.len(),
    };
    let header = Header {
        name: ptr::null_mut(),
        name_len: 0,
        slices: &raw mut slice,
        slice_count: 1,
        control: if count == 0 {
            ptr::null_mut()
        } else {
            (&raw mut control).cast()
        },
        control_len: if count == 0 { 0 } else { control.len },
        flags: 0,
    };
    let flags = int(MSG_NOSIGNAL | MSG_DONTWAIT);
    // SAFETY: everything the header points to outlives the call, with the lengths it states.
    unsafe {
        call(
            number::SENDMSG,
            [raw(socket), (&raw const header) as usize, flags],
        )
    }
    .map(drop)
}

/// What [`receive`] got.
pub(crate) struct Received<const N: usize> {
    pub(crate) len: usize,
    pub(crate) fds: [Option<OwnedFd>; N],
    /// Part of the packet or some of its descriptors were lost.
    pub(crate) truncated: bool,
}

/// Receives a packet with at most `N` descriptors, and waits only if asked to.
pub(crate) fn receive<const N: usize>(
    socket: impl AsFd,
    buffer: &mut [u8],
    wait: bool,
) -> io::Result<Received<N>> {
    let mut control = Control {
        len: 0,
        level: 0,
        kind: 0,
        fds: [-1; N],
    };
    let mut slice = Slice {
        start: buffer.as_mut_ptr(),
        len: buffer.len(),
    };
    let mut header = Header {
        name: ptr::null_mut(),
        name_len: 0,
        slices: &raw mut slice,
        slice_count: 1,
        control: (&raw mut control).cast(),
        control_len: size_of::<Control<N>>(),
        flags: 0,
    };
    let flags = int(MSG_CMSG_CLOEXEC | if wait { 0 } else { MSG_DONTWAIT });
    // SAFETY: everything the header points to outlives the call and is writable for the lengths it states.
    let len = unsafe { call(number::RECVMSG, [raw(socket), (&raw mut header) as usize, flags]) }?;
    // A socket without options set receives no other kind of control message, so that there is one at most.
    let rights = header.control_len >= CONTROL_HEADER
        && (control.level, control.kind) == (constants::SOL_SOCKET, constants::SCM_RIGHTS);
    let count = if rights {
        (control.len - CONTROL_HEADER) / size_of::<RawFd>()
    } else {
        0
    };
    let mut fds = [const { None }; N];
    for (fd, number) in fds.iter_mut().zip(control.fds).take(count) {
        *fd = Some(new_fd(number as usize));
    }
    Ok(Received {
        len,
        fds,
        truncated: header.flags & (constants::MSG_TRUNC | constants::MSG_CTRUNC) != 0,
    })
}

// ---- waiting

/// `struct timespec`.
#[repr(C)]
struct Time {
    seconds: i64,
    nanoseconds: i64,
}

/// Milliseconds of the monotonic clock.
pub(crate) fn now() -> u64 {
    let mut time = Time {
        seconds: 0,
        nanoseconds: 0,
    };
    let clock = int(constants::CLOCK_MONOTONIC);
    // SAFETY: `time` is writable. The call cannot fail for this clock.
    let _ = unsafe { call(number::CLOCK_GETTIME, [clock, (&raw mut time) as usize]) };
    (time.seconds * 1000 + time.nanoseconds / 1_000_000).cast_unsigned()
}

/// `struct pollfd`.
#[repr(C)]
pub(crate) struct Poll {
    fd: RawFd,
    asked: i16,
    got: i16,
}

impl Poll {
    /// Waits for something to read, or the end.
    pub(crate) fn readable(fd: Option<BorrowedFd<'_>>) -> Self {
        Self {
            // A negative descriptor is passed over.
            fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
            asked: constants::POLLIN | constants::POLLRDHUP,
            got: 0,
        }
    }

    /// Waits for a change of a file below `/proc` that tells of it so.
    pub(crate) fn changed(fd: Option<BorrowedFd<'_>>) -> Self {
        Self {
            asked: constants::POLLPRI,
            ..Self::readable(fd)
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.got != 0
    }

    /// Whether the other end is gone.
    pub(crate) fn has_ended(&self) -> bool {
        self.got & (constants::POLLHUP | constants::POLLRDHUP) != 0
    }
}

/// poll(2): waits for `timeout` milliseconds, for ever without. Interrupted waits end early.
pub(crate) fn poll(polls: &mut [Poll], timeout: Option<u64>) {
    let time = timeout.map(|timeout| Time {
        seconds: (timeout / 1000).cast_signed(),
        nanoseconds: (timeout % 1000 * 1_000_000).cast_signed(),
    });
    let time = time.as_ref().map_or(0, |time| ptr::from_ref(time) as usize);
    let (start, len) = (polls.as_mut_ptr() as usize, polls.len());
    // SAFETY: polls and time outlive the call. What it answers is in the polls.
    let _ = unsafe { call(number::PPOLL, [start, len, time, 0, 0]) };
}

/// `struct epoll_event`, packed on one architecture.
#[repr(C)]
#[cfg_attr(target_arch = "x86_64", repr(packed))]
#[derive(Clone, Copy, Default)]
pub(crate) struct Ready {
    events: u32,
    token: u64,
}

impl Ready {
    pub(crate) fn token(&self) -> u64 {
        self.token
    }
}

pub(crate) fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    unsafe { call(number::EPOLL_CREATE1, [int(constants::O_CLOEXEC)]) }.map(new_fd)
}

/// epoll_ctl(2) with one of the `EPOLL_CTL` operations.
pub(crate) fn epoll_control(
    epoll: impl AsFd,
    operation: i32,
    fd: impl AsFd,
    events: u32,
    token: u64,
) -> io::Result<()> {
    let ready = Ready { events, token };
    let event = (&raw const ready) as usize;
    // SAFETY: the event outlives the call.
    unsafe { call(number::EPOLL_CTL, [raw(epoll), int(operation), raw(fd), event]) }.map(drop)
}

/// epoll_wait(2); the number of events in `ready`, 0 also when interrupted.
pub(crate) fn epoll_wait(epoll: impl AsFd, ready: &mut [Ready], timeout: Option<u64>) -> usize {
    let timeout = timeout.map_or(-1, |timeout| timeout.try_into().unwrap_or(i32::MAX));
    let (start, len) = (ready.as_mut_ptr() as usize, ready.len());
    // SAFETY: there is room for as many events.
    let count = unsafe { call(number::EPOLL_PWAIT, [raw(epoll), start, len, int(timeout), 0, 8]) };
    count.unwrap_or(0)
}

// ---- signals

/// All signals, as `sigset_t` of the kernel.
const ALL: u64 = u64::MAX;

fn set_mask(mask: u64) {
    let how = int(constants::SIG_SETMASK);
    let set = (&raw const mask) as usize;
    // SAFETY: the mask is eight bytes, as stated. The call cannot fail with these arguments.
    let _ = unsafe { call(number::RT_SIGPROCMASK, [how, set, 0, size_of::<u64>()]) };
}

pub(crate) fn block_signals() {
    set_mask(ALL);
}

pub(crate) fn unblock_signals() {
    set_mask(0);
}

/// Gives every signal its default action.
pub(crate) fn reset_signals() {
    // A zeroed `struct sigaction` of the kernel: SIG_DFL, no flags, an empty mask.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        let action = default.as_ptr() as usize;
        // SAFETY: the action is as long as the kernel's, and has no handler. KILL and STOP are refused, as they
        // should be.
        let _ = unsafe { call(number::RT_SIGACTION, [signal, action, 0, size_of::<u64>()]) };
    }
}

/// signalfd(2) for these signals, which are to be blocked.
pub(crate) fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    let mask = signals
        .iter()
        .fold(0_u64, |mask, signal| mask | 1 << (signal - 1));
    let flags = int(constants::O_CLOEXEC | constants::O_NONBLOCK);
    let set = (&raw const mask) as usize;
    // SAFETY: the mask is eight bytes, as stated.
    unsafe { call(number::SIGNALFD4, [usize::MAX, set, size_of::<u64>(), flags]) }.map(new_fd)
}

/// kill(2).
pub(crate) fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    unsafe { call(number::KILL, [int(pid), int(signal)]) }.map(drop)
}

pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    unsafe { call(number::PIDFD_OPEN, [int(pid), 0]) }.map(new_fd)
}

/// pidfd_send_signal(2).
pub(crate) fn pidfd_signal(pidfd: impl AsFd, signal: i32, flags: u32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed.
    unsafe {
        call(
            number::PIDFD_SEND_SIGNAL,
            [raw(pidfd), int(signal), 0, flags as usize],
        )
    }
    .map(drop)
}

// ---- processes

/// Which process a call of [`fork`] returned in.
pub(crate) enum Forked {
    Child,
    Parent { pid: Pid, pidfd: OwnedFd },
}

/// clone(2) without shared memory: a fork, with the namespaces that `flags` name. `exit_signal` is what the parent
/// gets at its end.
pub(crate) fn fork(flags: u64, exit_signal: i32) -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    let flags = (flags | CLONE_PIDFD) as usize | int(exit_signal);
    // SAFETY: no stack and no memory is shared, so that the child goes on here with copies of everything; this
    // process has one thread. `pidfd` is writable.
    let pid = unsafe { call(number::CLONE, [flags, 0, (&raw mut pidfd) as usize, 0, 0]) }?;
    Ok(forked(pid, pidfd))
}

/// `struct clone_args` up to the cgroup.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A fork whose child begins in the cgroup with this directory.
pub(crate) fn fork_into(cgroup: BorrowedFd<'_>, exit_signal: i32) -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    let arguments = CloneArguments {
        flags: CLONE_PIDFD | CLONE_INTO_CGROUP,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: u64::from(exit_signal.cast_unsigned()),
        cgroup: raw(cgroup) as u64,
        ..CloneArguments::default()
    };
    let (start, len) = ((&raw const arguments) as usize, size_of::<CloneArguments>());
    // SAFETY: as for `fork`; the arguments outlive the call.
    let pid = unsafe { call(number::CLONE3, [start, len]) }?;
    Ok(forked(pid, pidfd))
}

fn forked(pid: usize, pidfd: RawFd) -> Forked {
    match pid {
        0 => Forked::Child,
        pid => Forked::Parent {
            pid: pid as Pid,
            pidfd: new_fd(pidfd as usize),
        },
    }
}

/// What [`reap`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaped {
    /// This child has ended, with this wait status.
    Child(Pid, i32),
    /// This child has been stopped, which is told only when it is asked for.
    Stopped(Pid),
    /// There are children, and none has ended.
    Nobody,
    /// There are no children.
    NoChildren,
}

/// wait4(2) for any child that `flags` (`WCLONE`, `WALL`, `WUNTRACED`) select, without waiting.
pub(crate) fn reap(flags: u32) -> Reaped {
    let mut status: c_int = 0;
    let any = int(-1);
    let flags = (flags | constants::WNOHANG) as usize;
    // SAFETY: `status` is writable.
    match unsafe { call(number::WAIT4, [any, (&raw mut status) as usize, flags, 0]) } {
        Ok(0) => Reaped::Nobody,
        Ok(pid) if status & 0xff == 0x7f => Reaped::Stopped(pid as Pid),
        Ok(pid) => Reaped::Child(pid as Pid, status),
        // Nothing else can be wrong with these arguments.
        Err(_) => Reaped::NoChildren,
    }
}

/// Waits for the end of this child, whose exit signal may be any.
pub(crate) fn wait_for(pid: Pid) -> io::Result<i32> {
    let mut status: c_int = 0;
    let flags = constants::WALL as usize;
    // SAFETY: `status` is writable.
    unsafe { call(number::WAIT4, [int(pid), (&raw mut status) as usize, flags, 0]) }?;
    Ok(status)
}

/// Ends this process at once.
pub(crate) fn exit(code: i32) -> ! {
    loop {
        // SAFETY: nothing runs after it.
        let _ = unsafe { call(number::EXIT_GROUP, [int(code)]) };
    }
}

/// execve(2), which returns only to say why not. The arrays end with null pointers.
pub(crate) fn execute(program: &CStr, argv: &[*const c_char], environment: &[*const c_char]) -> io::Error {
    assert!(argv.last().is_some_and(|last| last.is_null()));
    assert!(environment.last().is_some_and(|last| last.is_null()));
    let (argv, environment) = (argv.as_ptr() as usize, environment.as_ptr() as usize);
    // SAFETY: the arrays end with null, and the texts they point to are the caller's, which outlive the call.
    match unsafe { call(number::EXECVE, [program.as_ptr() as usize, argv, environment]) } {
        Ok(_) => io::ErrorKind::Other.into(),
        Err(error) => error,
    }
}

/// A call that takes numbers only.
macro_rules! numbers {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $kind:ty),*) = $number:ident;)*) => {
        $($(#[$doc])* pub(crate) fn $name($($argument: $kind),*) -> io::Result<i32> {
            // SAFETY: no memory is passed.
            unsafe { call(number::$number, [$($argument as isize as usize),*]) }.map(|answer| answer as i32)
        })*
    };
}

numbers! {
    fn getpid() = GETPID;
    fn getppid() = GETPPID;
    fn geteuid() = GETEUID;
    fn getegid() = GETEGID;
    fn setsid() = SETSID;
    /// For operations whose arguments are numbers.
    fn prctl(operation: i32, argument: i32) = PRCTL;
    fn setpriority(which: i32, who: i32, nice: i32) = SETPRIORITY;
    fn unshare(flags: u64) = UNSHARE;
}

/// prctl(2), `PR_SET_NAME`.
pub(crate) fn set_name(name: &CStr) {
    let name = name.as_ptr() as usize;
    // SAFETY: the name is NUL-terminated. It is for the reader of process lists, and cannot fail.
    let _ = unsafe { call(number::PRCTL, [int(constants::PR_SET_NAME), name]) };
}

pub(crate) fn setns(fd: impl AsFd, kind: u64) -> io::Result<()> {
    // SAFETY: no memory is passed.
    unsafe { call(number::SETNS, [raw(fd), kind as usize]) }.map(drop)
}

pub(crate) fn setresuid(uid: u32) -> io::Result<()> {
    let uid = uid as usize;
    // SAFETY: no memory is passed.
    unsafe { call(number::SETRESUID, [uid, uid, uid]) }.map(drop)
}

pub(crate) fn setresgid(gid: u32) -> io::Result<()> {
    let gid = gid as usize;
    // SAFETY: no memory is passed.
    unsafe { call(number::SETRESGID, [gid, gid, gid]) }.map(drop)
}

pub(crate) fn setgroups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the list is readable for its length.
    unsafe { call(number::SETGROUPS, [groups.len(), groups.as_ptr() as usize]) }.map(drop)
}

/// `struct rlimit64`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

pub(crate) fn limit(resource: u32) -> io::Result<Limit> {
    let mut limit = Limit { soft: 0, hard: 0 };
    let old = (&raw mut limit) as usize;
    // SAFETY: `limit` is writable.
    unsafe { call(number::PRLIMIT64, [0, resource as usize, 0, old]) }?;
    Ok(limit)
}

pub(crate) fn set_limit(resource: u32, limit: Limit) -> io::Result<()> {
    let new = (&raw const limit) as usize;
    // SAFETY: `limit` is readable.
    unsafe { call(number::PRLIMIT64, [0, resource as usize, new, 0]) }.map(drop)
}

// ---- places

pub(crate) fn chdir(path: &CStr) -> io::Result<()> {
    // SAFETY: the path is NUL-terminated.
    unsafe { call(number::CHDIR, [path.as_ptr() as usize]) }.map(drop)
}

pub(crate) fn fchdir(dir: impl AsFd) -> io::Result<()> {
    // SAFETY: no memory is passed.
    unsafe { call(number::FCHDIR, [raw(dir)]) }.map(drop)
}

pub(crate) fn chroot(path: &CStr) -> io::Result<()> {
    // SAFETY: the path is NUL-terminated.
    unsafe { call(number::CHROOT, [path.as_ptr() as usize]) }.map(drop)
}

/// mount(2) without data.
pub(crate) fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64) -> io::Result<()> {
    let (source, target, kind) = (
        source.as_ptr() as usize,
        target.as_ptr() as usize,
        kind.as_ptr() as usize,
    );
    // SAFETY: the texts are NUL-terminated.
    unsafe { call(number::MOUNT, [source, target, kind, flags as usize, 0]) }.map(drop)
}
