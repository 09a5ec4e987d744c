//! [`Registration`]: memory that a backend was told of in advance.

use core::fmt;
use std::any::Any;
use std::io;

/// Keeps memory registered with a backend that was told of it by
/// [`Backend::register`](crate::Backend::register). Dropping it ends that; operations in flight
/// keep what they use.
#[must_use = "the memory is registered for as long as this is held"]
pub struct Registration {
    _held: Box<dyn Any + Send + Sync>,
}

impl Registration {
    /// One that lasts until `held` is dropped. For implementers of backends.
    pub fn new(held: impl Send + Sync + 'static) -> Self {
        Self {
            _held: Box::new(held),
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").finish_non_exhaustive()
    }
}

/// Memory could not be registered. Operations on it go the ordinary way.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// This backend has no use for it: its kernel or its configuration has no table for it.
    #[error("the backend registers no memory")]
    Unsupported,
    /// The table is full.
    #[error("all {slots} slots for registered memory are taken")]
    Full {
        /// How many there are.
        slots: u32,
    },
    /// The kernel takes from one byte to 1 GiB at a time.
    #[error("memory is registered in stretches of 1 B to 1 GiB, not of {len_bytes} B")]
    Length {
        /// What was asked for.
        len_bytes: usize,
    },
    /// The system refused: mostly for a limit on locked memory.
    #[error("the system refused to register the memory")]
    Refused {
        /// What it said.
        source: io::Error,
    },
}
