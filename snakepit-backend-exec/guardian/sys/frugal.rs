//! An allocator that aborts where there must be no allocation: ending trees must work without memory.
//!
//! Builds with debug assertions have it, and with them every test that runs the guardian.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    process,
    sync::atomic::{AtomicBool, Ordering},
};

static FORBIDDEN: AtomicBool = AtomicBool::new(false);

pub(super) fn forbid(forbid: bool) {
    FORBIDDEN.store(forbid, Ordering::Relaxed);
}

struct Frugal;

#[global_allocator]
static ALLOCATOR: Frugal = Frugal;

fn check() {
    if FORBIDDEN.load(Ordering::Relaxed) {
        process::abort();
    }
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Frugal {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(start, layout) }
    }
}
