//! What the operating system offers no safe wrapper for. The only `unsafe` outside of Python glue.
#![expect(
    unsafe_code,
    reason = "libc calls without a safe wrapper, each with its invariant"
)]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use pyo3::prelude::*;
use rustix::{
    process::Pid,
    thread::{UnshareFlags, unshare_unsafe},
};
use snakepit_proto::preamble::journal;
use tokio::io::{Interest, unix::AsyncFd};

/// The signal that interrupts the running call: `SIGRTMIN + 1`.
///
/// A real-time signal is used because no library claims one by default, and the second because some
/// debuggers and sanitizers take the first.
pub(crate) fn cancel_signal() -> i32 {
    libc::SIGRTMIN() + 1
}

/// A thread that outlives every holder of this value: the process's main thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MainThread(libc::pthread_t);

impl MainThread {
    /// The calling thread, which must be the main one.
    pub(crate) fn current() -> Self {
        // SAFETY: has no preconditions.
        Self(unsafe { libc::pthread_self() })
    }

    /// Whether the calling thread is it.
    pub(crate) fn is_current(self) -> bool {
        self.0 == this_thread()
    }

    /// Sends it the cancel signal, which makes blocking system calls return and Python run its handler.
    pub(crate) fn interrupt(self) {
        // SAFETY: the main thread ends only together with the process, so its id stays valid.
        let result = unsafe { libc::pthread_kill(self.0, cancel_signal()) };
        debug_assert_eq!(result, 0, "the signal number is valid and the thread alive");
    }
}

/// Python's number for the calling thread, as `threading.get_ident()` has it.
pub(crate) fn this_thread() -> u64 {
    // SAFETY: has no preconditions.
    unsafe { libc::pthread_self() }
}

/// Leaves an exception with another thread, which raises it before its next step of Python. It wakes nothing.
pub(crate) fn set_exception(exception: &Bound<'_, PyAny>, thread: u64) {
    // SAFETY: the caller is attached to the interpreter, as the bound object proves, which is all that is asked for: a number
    // that is no thread's is answered, not undefined.
    unsafe { pyo3::ffi::PyThreadState_SetAsyncExc(thread.cast_signed(), exception.as_ptr()) };
}

/// Takes back an exception that was left with the calling thread and that it has not raised.
pub(crate) fn clear_exception(_attached: Python<'_>) {
    // SAFETY: the caller is attached to the interpreter; null is what takes it back.
    unsafe { pyo3::ffi::PyThreadState_SetAsyncExc(this_thread().cast_signed(), std::ptr::null_mut()) };
}

/// Blocks every signal in the calling thread, so that signals to the process reach Python's main thread.
pub(crate) fn block_all_signals() {
    let set = all_signals();
    // SAFETY: the set is initialised, and the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

fn all_signals() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: the pointer is valid for writes.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    // SAFETY: `sigfillset` above initialised the set.
    unsafe { set.assume_init() }
}

/// The host's journal of calls, mapped: a store costs nothing, and user code that closes descriptors does not meet it.
#[derive(Debug)]
pub(crate) struct Journal(&'static [AtomicU64; NUMBERS]);

/// The entries, and the number of beats.
const NUMBERS: usize = journal::LEN / size_of::<AtomicU64>();

impl Journal {
    /// Maps the journal for the life of the process.
    ///
    /// # Errors
    /// When the file is too short or cannot be mapped.
    pub(crate) fn map(fd: &OwnedFd) -> io::Result<Self> {
        // A host that asks for no beats may have none in its file: nobody reads what is behind its end, in its only page.
        if rustix::fs::fstat(fd)?.st_size < journal::BEATS as i64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the journal is too short",
            ));
        }
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping of an open file at an address of the kernel's choice touches no memory in use.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                journal::LEN,
                protection,
                flags,
                fd.as_raw_fd(),
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping is page-aligned, of that length within one page of the file and never unmapped; the host seals the
        // file against shrinking and only reads it, and every access here is atomic.
        Ok(Self(unsafe { &*page.cast::<[AtomicU64; NUMBERS]>() }))
    }

    /// Notes the worker's call number `number`.
    pub(crate) fn note(&self, number: u64, call_id: u64) {
        let entry = usize::try_from(number % journal::ENTRIES as u64).unwrap_or(0);
        self.0[entry].store(call_id, Ordering::Release);
    }

    /// Shows the host that this process lives.
    pub(crate) fn beat(&self) {
        self.0[journal::ENTRIES].fetch_add(1, Ordering::Relaxed);
    }
}

/// Tells the allocator to keep up to 16 MiB of freed memory, which serves the next large value.
///
/// glibc returns the top of the heap after each large call and takes it back for the next one: about 600 page faults for
/// a value of 1 MiB, which doubled the time of the call.
pub(crate) fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    for parameter in [libc::M_TRIM_THRESHOLD, libc::M_MMAP_THRESHOLD] {
        // SAFETY: mallopt(3) takes any value; what it refuses is left as it was, which is all there is to lose.
        unsafe { libc::mallopt(parameter, 16 << 20) };
    }
}

/// Puts `/dev/null` on descriptor 0, so that user code that reads standard input sees its end.
pub(crate) fn null_stdin() -> io::Result<()> {
    put(std::fs::File::open("/dev/null")?.as_fd(), 0)
}

/// Puts a descriptor in the place of a standard one: 0, 1 or 2.
pub(crate) fn put(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    debug_assert!((0..3).contains(&number), "others may have an owner");
    // SAFETY: the source is open; the standard descriptors belong to this process and no Rust value owns them.
    if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A descriptor of our own for what Python has by a number.
pub(crate) fn duplicate(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer; a number that is no open descriptor is an error, not undefined.
    let own = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if own < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just made, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(own) })
}

/// Takes what is free in the heap between things that are in use, and keeps it: what is allocated from now on lies together.
///
/// A process that forks others wants that, since each page that one of them allocates on is copied for it: filled with pieces of
/// freed memory they were 200 pages of the heap of an interpreter with NumPy, and are 60 without.
pub(crate) fn fill_holes() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: has no preconditions.
        let untouched = unsafe { libc::mallinfo() }.keepcost;
        // SAFETY: asked for no memory, sbrk(2) tells where the heap ends.
        let end = unsafe { libc::sbrk(0) }.addr();
        let top = end.saturating_sub(usize::try_from(untouched).unwrap_or(0));
        // The largest first, so that none is cut into pieces that a smaller size then looks for.
        let large = (11..=16).rev().map(|bits| 1 << bits);
        let small = (24..=1032).rev().step_by(16);
        for size in large.chain(small) {
            loop {
                // SAFETY: has no preconditions. What lies before the untouched end of the heap is kept for good.
                let piece = unsafe { libc::malloc(size) };
                if piece.is_null() || piece.addr() >= top {
                    // SAFETY: null, or just allocated, and used by nobody.
                    unsafe { libc::free(piece) };
                    break;
                }
            }
        }
    }
}

/// Closes descriptors by number in a forked child, where the values that own them never run again.
pub(crate) fn close_in_child(descriptors: &[i32]) {
    for &fd in descriptors {
        // SAFETY: a child of fork owns its copies; it never returns to the code that holds the owners.
        unsafe { libc::close(fd) };
    }
}

/// Forks as the C library does, with the handlers that libraries have for it: `None` in the child.
///
/// The caller has one thread, and whoever has Python in the child go on has its hooks run around it.
///
/// # Errors
/// What fork(2) answers.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: with one thread, no lock is held by a thread that the child has not.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Pid::from_raw(child)),
    }
}

/// Has Python prepare for a [`fork`].
pub(crate) fn before_fork(_attached: Python<'_>) {
    // SAFETY: the caller is attached to the interpreter.
    unsafe { pyo3::ffi::PyOS_BeforeFork() };
}

/// Has Python go on after a [`fork`] that it was prepared for.
pub(crate) fn after_fork_in_parent(_attached: Python<'_>) {
    // SAFETY: the caller is attached to the interpreter.
    unsafe { pyo3::ffi::PyOS_AfterFork_Parent() };
}

/// Has Python go on in a forked process.
pub(crate) fn after_fork_in_child(_attached: Python<'_>) {
    // SAFETY: the caller is attached to the interpreter, and the one thread that there is.
    unsafe { pyo3::ffi::PyOS_AfterFork_Child() };
}

/// unshare(2).
pub(crate) fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    debug_assert!(!namespaces.contains(UnshareFlags::FILES), "these are namespaces");
    // SAFETY: no table of descriptors is taken apart.
    unsafe { unshare_unsafe(namespaces) }?;
    Ok(())
}

/// Blocks all signals, and is readable when a child has ended.
///
/// # Errors
/// What signalfd(2) answers.
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    block_all_signals();
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is valid for writes.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: `sigemptyset` above initialised the set.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD) };
    // SAFETY: the set is initialised, and no descriptor is given that would be changed.
    let fd = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just made, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The signal at which a thread halts for good, once [`halt_at_signal`] was called. By default it is ignored, signal(7).
const HALT: i32 = libc::SIGURG;

/// How many threads have halted.
static HALTED: AtomicUsize = AtomicUsize::new(0);

/// Only what signal-safety(7) allows.
extern "C" fn halt(_signal: i32) {
    HALTED.fetch_add(1, Ordering::Release);
    wait_for_the_end()
}

/// Waits until the process ends.
pub(crate) fn wait_for_the_end() -> ! {
    loop {
        // SAFETY: has no preconditions.
        unsafe { libc::pause() };
    }
}

/// From now on a thread that takes the signal of [`send_halt`] halts.
pub(crate) fn halt_at_signal() {
    let action = libc::sigaction {
        sa_sigaction: halt as extern "C" fn(i32) as libc::sighandler_t,
        // Nothing else is to be handled by a thread that has halted.
        sa_mask: all_signals(),
        sa_flags: 0,
        sa_restorer: None,
    };
    // SAFETY: the handler is safe in signals, and the old action is not asked for.
    unsafe { libc::sigaction(HALT, &raw const action, std::ptr::null_mut()) };
}

/// Has a thread of this process halt. One that has ended is none.
pub(crate) fn send_halt(thread: i32) {
    // SAFETY: three numbers, of which none is a pointer.
    unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, HALT) };
}

/// How many threads have halted.
pub(crate) fn halted() -> usize {
    HALTED.load(Ordering::Acquire)
}

/// Ends the process at once: no destructors, no exit handlers, no wait for other threads.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// Watches a descriptor for being readable.
///
/// # Errors
/// What epoll_ctl(2) answers.
pub(crate) fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the watch owns the descriptor, which names one open file until it is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(watched?)
}

/// Is the descriptor still open?
pub(crate) fn is_open(fd: i32) -> bool {
    // SAFETY: F_GETFD reads a flag and takes no pointer; a closed descriptor is an error, not undefined.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}
