//! The common layer over a driver that is under the test's control: what it hands down, what it refuses, what it puts
//! back. The conformance suite shows the same on real backends; here the driver can be made to misbehave.

mod captures;
#[path = "../common/mod.rs"]
mod common;
mod driver;
mod packets;
mod ports;
mod waiting;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, which counts what each thread asks for.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

/// How often this thread has asked for memory.
fn asked_for_memory() -> u64 {
    ASKED.get()
}

// SAFETY: every call is passed on as it is to the system's allocator; counting touches a number of this thread's alone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Not there any more while a thread ends.
        let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
