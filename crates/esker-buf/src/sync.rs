//! The only place of this crate that imports locks.

pub(crate) use std::sync::Arc;
use std::sync::{MutexGuard, PoisonError};

/// A mutex that a panic elsewhere does not spoil: what it guards is whole between any two steps.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
