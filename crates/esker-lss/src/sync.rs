//! The one place where this crate takes its atomics, locks, threads and clock from, so that the
//! same code runs on the real ones and under a model checker.

#[cfg(esker_loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, fence};
#[cfg(not(esker_loom))]
pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, fence};

#[cfg(not(esker_loom))]
pub(crate) use crossbeam_utils::sync::{Parker, Unparker};
#[cfg(esker_loom)]
pub(crate) use model::{Mutex, Parker, Unparker};
#[cfg(not(esker_loom))]
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

/// Locks and parking of the model checker, with the interfaces that this crate uses.
#[cfg(esker_loom)]
mod model {
    use loom::sync::{Arc, Condvar, MutexGuard};

    #[derive(Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("no model goes on after a panic")
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().expect("no model goes on after a panic")
        }
    }

    /// A token that `unpark` leaves and `park` takes.
    pub(crate) struct Parker {
        unparker: Unparker,
    }

    #[derive(Clone)]
    pub(crate) struct Unparker(Arc<(Mutex<bool>, Condvar)>);

    impl Parker {
        pub(crate) fn new() -> Self {
            Self {
                unparker: Unparker(Arc::new((Mutex::new(false), Condvar::new()))),
            }
        }

        pub(crate) fn unparker(&self) -> &Unparker {
            &self.unparker
        }

        pub(crate) fn park(&self) {
            let (token, left) = &*self.unparker.0;
            let mut token = token.lock();
            while !*token {
                token = left.wait(token).expect("no model goes on after a panic");
            }
            *token = false;
        }

        /// Time does not pass in a model.
        pub(crate) fn park_timeout(&self, _: std::time::Duration) {
            self.park();
        }
    }

    impl Unparker {
        pub(crate) fn unpark(&self) {
            let (token, left) = &*self.0;
            *token.lock() = true;
            left.notify_one();
        }
    }
}
