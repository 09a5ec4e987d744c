//! The one place where this crate takes its atomics, locks, threads and clock from, so that the
//! same code runs on the real ones and under a model checker.

#[cfg(esker_loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, fence};
#[cfg(not(esker_loom))]
pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, fence};

pub(crate) use parking_lot::Mutex;
pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
pub(crate) use std::thread::{JoinHandle, yield_now};
pub(crate) use std::time::Instant;

/// A thread with a name.
pub(crate) fn spawn<F: FnOnce() + Send + 'static>(
    name: &str,
    body: F,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
}
