//! An allocator that counts, for tests and benches.
//!
//! In: every allocation of the program that has this module. Out: the bytes the current thread holds, and how often it asked for
//! some. Must never allocate itself.

#![allow(dead_code, reason = "not everyone asks for both counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts the bytes the current thread holds, and how often it asked for some.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

fn hold(bytes: isize) {
    // A thread that is ending no longer counts.
    _ = HELD.try_with(|held| held.set(held.get() + bytes));
}

// SAFETY: every call is passed to the system allocator unchanged; counting touches no memory it hands out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        hold(layout.size().cast_signed());
        _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
        // SAFETY: the caller's promises about `layout` are those `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        hold(-layout.size().cast_signed());
        // SAFETY: `ptr` came from `System` with this layout, because `alloc` passes everything on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes the current thread holds.
pub(crate) fn held() -> isize {
    HELD.with(Cell::get)
}

/// How often the current thread asked for memory.
pub(crate) fn asked() -> u64 {
    ASKED.with(Cell::get)
}
