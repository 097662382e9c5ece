//! The memory itself.
#![expect(unsafe_code, reason = "a mapping is reached through raw pointers and atomics")]

use std::{
    io,
    ops::Range,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use snakepit_proto::arena::{FELL_BACK, Layout, Memory, Side};

/// An arena's file, mapped for the life of the process.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the mapping belongs to no thread, and what is reached through it here is atomic.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the file that a host sent.
    pub(super) fn new(fd: &OwnedFd) -> io::Result<Self> {
        let no_arena = || io::Error::new(io::ErrorKind::InvalidData, "the file is no arena");
        let len = u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0);
        let layout = Layout::of_file(len).ok_or_else(no_arena)?;
        let size = usize::try_from(len).map_err(|_| no_arena())?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping of an open file at an address of the kernel's choice touches no memory in use.
        let base = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, fd.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(no_arena)?;
        Ok(Self { base, layout })
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// As an owner of blocks on one side sees it.
    pub(super) fn of(&self, side: Side) -> Half<'_> {
        Half(self, side)
    }

    /// Where bytes of a block begin.
    pub(super) fn pointer(&self, bytes: &Range<u64>) -> *mut u8 {
        debug_assert!(bytes.end <= self.layout.file_len(), "blocks are in their halves");
        // SAFETY: blocks are in their halves, and those in the mapping.
        unsafe { self.base.as_ptr().add(bytes.start as usize) }
    }

    /// Which bytes of the file memory of this process is, if it is any.
    pub(super) fn bytes_at(&self, start: *const u8, len: usize) -> Option<Range<u64>> {
        let offset = start.addr().checked_sub(self.base.addr().get())? as u64;
        let end = offset.checked_add(len as u64)?;
        (end <= self.layout.file_len()).then_some(offset..end)
    }

    fn counter(&self, side: Side, number: u32) -> Option<&AtomicU32> {
        let offset = self.layout.counter(side, number)?;
        // SAFETY: counters are in the file's first 64 KiB.
        let counter = unsafe { self.base.as_ptr().add(offset as usize) };
        // SAFETY: the mapping is never taken away; aligned to 4 bytes, and accessed as an atomic only, by the host too.
        Some(unsafe { AtomicU32::from_ptr(counter.cast()) })
    }

    /// Takes a hold on a block; false when there is none of this number.
    pub(super) fn hold(&self, side: Side, number: u32) -> bool {
        let counter = self.counter(side, number);
        counter.is_some_and(|counter| {
            counter.fetch_add(1, Ordering::Relaxed);
            true
        })
    }

    /// Gives a hold back.
    pub(super) fn release(&self, side: Side, number: u32) {
        if let Some(counter) = self.counter(side, number) {
            counter.fetch_sub(1, Ordering::Release);
        }
    }

    /// Counts something that found no room.
    pub(super) fn fell_back(&self) {
        // SAFETY: the counter is in the file's first 64 KiB.
        let counter = unsafe { self.base.as_ptr().add(FELL_BACK as usize) };
        // SAFETY: the mapping is never taken away; aligned to a page, and accessed as an atomic only, by the host too.
        unsafe { AtomicU64::from_ptr(counter.cast()) }.fetch_add(1, Ordering::Relaxed);
    }
}

/// The memory of one side's blocks.
pub(super) struct Half<'a>(&'a Mapping, Side);

impl Memory for Half<'_> {
    fn holds(&self, number: u32) -> u32 {
        let counter = self.0.counter(self.1, number);
        counter.map_or(0, |counter| counter.load(Ordering::Acquire))
    }

    fn clear(&self, number: u32) {
        if let Some(counter) = self.0.counter(self.1, number) {
            counter.store(0, Ordering::Relaxed);
        }
    }

    fn give_back(&self, bytes: Range<u64>) {
        let len = (bytes.end - bytes.start) as usize;
        // SAFETY: the bytes are of no block. As a hole in the file they read as zeros. When it fails they stay for the next
        // block, and nothing else is lost.
        unsafe { libc::madvise(self.0.pointer(&bytes).cast(), len, libc::MADV_REMOVE) };
    }
}
