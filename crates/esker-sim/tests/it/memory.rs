//! How much memory a thread has asked for: the tests' allocator counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counting for each thread what it has and the most that it had.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    // Without a destructor, so that they can be used for as long as a thread allocates.
    static NOW: Cell<i64> = const { Cell::new(0) };
    static MOST: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    let now = NOW.get() + bytes;
    NOW.set(now);
    MOST.set(MOST.get().max(now));
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX / 2)
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's obligations are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(signed(size) - signed(layout.size()));
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What `f` returns, and the most memory that it had beyond what there was before, in bytes.
pub(crate) fn most_during<T>(f: impl FnOnce() -> T) -> (T, u64) {
    let before = NOW.get();
    MOST.set(before);
    let result = f();
    (result, u64::try_from(MOST.get() - before).unwrap_or(0))
}

#[test]
fn what_is_allocated_is_counted() {
    let (bytes, most) = most_during(|| vec![1_u8; 100_000].len());
    assert!((100_000..101_000).contains(&most), "{most} for {bytes}");
}
