//! The memory itself.
#![expect(
    unsafe_code,
    reason = "a mapping that another process writes to is reached through raw pointers and atomics only"
)]

use std::{
    io,
    mem::MaybeUninit,
    ops::Range,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use snakepit_proto::arena::{FELL_BACK, Layout, Memory, Side};

/// An arena's file, mapped for as long as this lives. It has no name, and a size that nobody can change.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the mapping belongs to no thread. What is shared of it is atomic; `read` and `write` say what keeps them apart.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// A new file with two halves of this size, and a descriptor of it.
    pub(super) fn new(half: u64) -> io::Result<(Self, OwnedFd)> {
        let layout = Layout::new(half).ok_or(io::ErrorKind::InvalidInput)?;
        let fd = memfd_create("snakepit-arena", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, layout.file_len())?;
        // A worker that shrank it would have the host killed by SIGBUS.
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping of an open file at an address of the kernel's choice touches no memory in use.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len(layout)?,
                protection,
                flags,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok((Self { base, layout }, fd))
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// As an owner of blocks on one side sees it.
    pub(super) fn of(&self, side: Side) -> Half<'_> {
        Half(self, side)
    }

    /// Where some bytes begin. They must be of a half.
    pub(super) fn at(&self, bytes: &Range<u64>) -> *mut u8 {
        assert!(
            bytes.is_empty() || self.layout.side_of(bytes).is_some(),
            "{bytes:?} is not in the arena"
        );
        // SAFETY: the file is as long as its layout says and sealed, and the mapping as long as the file; the bytes are in it, as
        // was just checked (nothing is read of none), and its length was converted to `usize` before.
        unsafe { self.base.as_ptr().add(bytes.start as usize) }
    }

    /// Appends bytes of a half to `out`. Bytes of the host's own half must be pinned, so that no other call writes them.
    pub(super) fn read(&self, bytes: &Range<u64>, out: &mut Vec<u8>) {
        let len = (bytes.end - bytes.start) as usize;
        out.reserve(len);
        if len >= LARGE {
            want_huge_pages(out.spare_capacity_mut());
        }
        self.copy_to(bytes, out.spare_capacity_mut());
        // SAFETY: these bytes were just written.
        unsafe { out.set_len(out.len() + len) };
    }

    /// Overwrites `out` with as many bytes of a half. They must be pinned as for [`read`](Self::read).
    pub(super) fn read_into(&self, bytes: &Range<u64>, out: &mut [u8]) {
        // SAFETY: what is initialised is written to with bytes, and stays so.
        self.copy_to(bytes, unsafe {
            &mut *(ptr::from_mut(out) as *mut [MaybeUninit<u8>])
        });
    }

    fn copy_to(&self, bytes: &Range<u64>, out: &mut [MaybeUninit<u8>]) {
        let len = (bytes.end - bytes.start) as usize;
        assert!(len <= out.len(), "there is room for what is copied");
        // SAFETY: there are `len` bytes behind `at`, and room for them in `out`, another allocation. Nothing in this process writes
        // to them: the worker's half is only ever read here, and of the host's own half the caller has pinned them. The worker
        // may write meanwhile: each byte is loaded once, into memory of our own, through a pointer that is no reference, and
        // any value is a valid byte.
        unsafe { ptr::copy_nonoverlapping(self.at(bytes), out.as_mut_ptr().cast(), len) };
    }

    /// To write bytes of the host's half, which must be those of a block that was just made.
    pub(super) fn writing(&self, bytes: Range<u64>) -> Writing<'_> {
        Writing { mapping: self, bytes }
    }

    fn counter(&self, side: Side, number: u32) -> Option<&AtomicU32> {
        let offset = self.layout.counter(side, number)?;
        // SAFETY: counters are in the file's first 64 KiB.
        let counter = unsafe { self.base.as_ptr().add(offset as usize) };
        // SAFETY: mapped for as long as `self`, aligned to 4 bytes, and accessed as an atomic only, by the worker too.
        Some(unsafe { AtomicU32::from_ptr(counter.cast()) })
    }

    /// Takes a hold for the worker, which a reference takes along.
    pub(super) fn hold(&self, side: Side, number: u32) {
        if let Some(counter) = self.counter(side, number) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives back a hold that came with a reference.
    pub(super) fn release(&self, side: Side, number: u32) {
        if let Some(counter) = self.counter(side, number) {
            counter.fetch_sub(1, Ordering::Release);
        }
    }

    /// Results that found no room.
    pub(super) fn fell_back(&self) -> u64 {
        // SAFETY: the counter is in the file's first 64 KiB.
        let counter = unsafe { self.base.as_ptr().add(FELL_BACK as usize) };
        // SAFETY: mapped for as long as `self`, aligned to a page, and accessed as an atomic only, by the worker too.
        unsafe { AtomicU64::from_ptr(counter.cast()) }.load(Ordering::Relaxed)
    }
}

/// From this size on huge pages are asked for: what malloc has from the system anew each time, as glibc does for 32 MiB and more, costs
/// a page fault for each 4 KiB otherwise, which takes twice as long as the copy.
const LARGE: usize = 8 << 20;
/// Of x86-64, and of others with pages of 4 KiB. Where they are larger nothing aligned as this may be, and nothing is asked for.
const HUGE_PAGE: usize = 2 << 20;

/// Asks for huge pages where they fit, if the system is set to give them on request.
fn want_huge_pages(memory: &mut [MaybeUninit<u8>]) {
    let aligned = memory.as_ptr().align_offset(HUGE_PAGE);
    let Some(memory) = memory.get_mut(aligned..) else {
        return;
    };
    let len = memory.len() - memory.len() % HUGE_PAGE;
    // SAFETY: the range is within `memory`, and advice changes nothing that it holds.
    unsafe { libc::madvise(memory.as_mut_ptr().cast(), len, libc::MADV_HUGEPAGE) };
}

fn len(layout: Layout) -> io::Result<usize> {
    usize::try_from(layout.file_len()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` at this address with this length, and nothing that borrows it is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.layout.file_len() as usize) };
    }
}

/// The memory of a block that was just made, and that nobody else in this process knows of.
#[derive(Debug)]
pub(crate) struct Writing<'a> {
    mapping: &'a Mapping,
    bytes: Range<u64>,
}

impl Writing<'_> {
    pub(crate) fn len(&self) -> usize {
        // What is mapped has a length.
        (self.bytes.end - self.bytes.start) as usize
    }

    /// Overwrites bytes from byte `at` on; false when there are fewer.
    pub(crate) fn write(&mut self, at: usize, data: &[u8]) -> bool {
        let start = self.bytes.start.saturating_add(at as u64);
        let end = start.saturating_add(data.len() as u64);
        if end > self.bytes.end {
            return false;
        }
        // SAFETY: the target has as many bytes by `at`, in another allocation than `data`, which is a slice and so no part of a
        // mapping that is reached through raw pointers only. Nobody else in this process reads or writes them: nobody else knows
        // of a new block. What the worker does with them concerns its own data.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), self.mapping.at(&(start..end)), data.len()) };
        true
    }

    /// Where it begins.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.mapping.at(&self.bytes)
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
        // SAFETY: the bytes are of a half by `at`, and of no block. As a hole in the file they read as zeros.
        let given = unsafe { libc::madvise(self.0.at(&bytes).cast(), len, libc::MADV_REMOVE) };
        if given != 0 {
            // They stay for the next block; nothing else is lost.
            let error = io::Error::last_os_error();
            tracing::debug!(%error, len, "cannot give pages of the arena back");
        }
    }
}
