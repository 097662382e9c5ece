//! Who waits for the outcome of a host call, and how it is woken without the GIL.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::{
    event::{EventfdFlags, eventfd},
    thread::futex::{self, Timespec},
};
use tokio::time::Instant;

/// Who waits for a call.
#[derive(Debug)]
pub(super) enum Waiter {
    /// A thread.
    Thread(Arc<Parker>),
    /// An event loop, by the number of the call.
    Loop(Arc<Inbox>, u64),
}

impl Waiter {
    pub(super) const fn is_thread(&self) -> bool {
        matches!(self, Self::Thread(_))
    }

    pub(super) fn wake(&self) {
        match self {
            Self::Thread(parker) => parker.wake(),
            Self::Loop(inbox, call) => inbox.put(*call),
        }
    }
}

/// Where one thread waits. Not a condition variable: those go on waiting after a signal, and a signal is what interrupts the
/// code of a call.
#[derive(Debug, Default)]
pub(super) struct Parker(AtomicU32);

impl Parker {
    fn wake(&self) {
        self.0.store(1, Ordering::Release);
        // There is nobody to wake if the thread has not begun to wait.
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, 1);
    }

    /// Waits until it is woken, a signal arrives or the time is over; also returns for no reason.
    pub(super) fn wait(&self, until: Option<Instant>) {
        if self.0.load(Ordering::Acquire) == 1 {
            return;
        }
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        // A time that the kernel's clock cannot hold is as good as none.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        // Each way it can end is one to look again.
        let _ = futex::wait(&self.0, futex::Flags::PRIVATE, 0, left.as_ref());
    }
}

/// The calls of one event loop that have an outcome; its descriptor is readable while there are any.
#[derive(Debug)]
pub(super) struct Inbox {
    readable: OwnedFd,
    calls: Mutex<Vec<u64>>,
}

impl Inbox {
    /// # Errors
    /// When the process has no descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            readable: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            calls: Mutex::default(),
        })
    }

    pub(super) fn descriptor(&self) -> i32 {
        self.readable.as_raw_fd()
    }

    fn put(&self, call: u64) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(call);
        if calls.len() == 1 {
            // It fails only where user code has closed the descriptor, and with it its own loop's ear.
            let _ = rustix::io::write(&self.readable, &1_u64.to_ne_bytes());
        }
    }

    pub(super) fn take(&self) -> Vec<u64> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing to read is in order: an earlier look has taken what there was.
        let _ = rustix::io::read(&self.readable, &mut [0; 8]);
        std::mem::take(&mut calls)
    }
}
