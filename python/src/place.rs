//! How a running call is told from the others.

/// A running call's name within the worker: where it is kept, and a number that is never given twice, so that whoever holds
/// on to the place of a call that has ended finds nothing there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u64);

impl Place {
    /// Of code that runs outside of calls, such as the import of an adapter.
    pub(crate) const NONE: Self = Self(0);
    /// Calls that can run at the same time.
    pub(crate) const LIMIT: u32 = 1 << Self::INDEX_BITS;
    const INDEX_BITS: u32 = 16;

    pub(crate) fn new(index: usize, number: u64) -> Self {
        Self(number << Self::INDEX_BITS | index as u64)
    }

    /// As Python's side of the package holds it.
    pub(crate) fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The form for Python's side of the package.
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    pub(crate) fn index(self) -> usize {
        usize::try_from(self.0 & (u64::from(Self::LIMIT) - 1)).unwrap_or(usize::MAX)
    }
}

/// What runs a call's user code, and so what a cancel has to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runner {
    /// The main thread, which runs one call at a time.
    Main,
    /// A thread, by Python's number for it.
    Thread(u64),
    /// A task of the event loop on the main thread.
    Task,
}
