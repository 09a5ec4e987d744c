//! The only place of this crate that imports atomics, locks or thread primitives.

pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    fence,
};
#[cfg(feature = "conformance")]
pub(crate) use std::sync::mpsc::channel;
pub(crate) use std::thread::{self, panicking, sleep, yield_now};

pub(crate) use parking_lot::{Condvar, Mutex};
