//! The only place of this crate that imports locks or thread primitives.

pub(crate) use std::sync::{Arc, Weak};
pub(crate) use std::thread::panicking;
pub(crate) use std::time::Instant;

pub(crate) use parking_lot::{Condvar, Mutex};
