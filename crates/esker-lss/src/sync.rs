//! The one place where this crate takes its atomics, locks, threads and clock from, so that the
//! same code runs on the real ones and under a model checker: loom's (`--cfg esker_loom`), for the
//! modules that have models, or shuttle's (`--cfg esker_shuttle`), for the whole store.

#[cfg(esker_loom)]
use loom as checker;
#[cfg(esker_shuttle)]
use shuttle as checker;

#[cfg(any(esker_loom, esker_shuttle))]
pub(crate) use checker::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
#[cfg(not(any(esker_loom, esker_shuttle)))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};

/// An atomic that threads load and then change.
#[cfg(not(esker_loom))]
pub(crate) type ContendedU64 = AtomicU64;
#[cfg(esker_loom)]
pub(crate) use contended::ContendedU64;

#[cfg(not(any(esker_loom, esker_shuttle)))]
pub(crate) use crossbeam_utils::sync::{Parker, Unparker};
#[cfg(any(esker_loom, esker_shuttle))]
pub(crate) use model::{Mutex, Parker, Unparker};
#[cfg(not(any(esker_loom, esker_shuttle)))]
pub(crate) use parking_lot::Mutex;
// A system call wakes all who wait, and none of them has to hand a lock on to the next.
#[cfg(any(esker_loom, esker_shuttle))]
use checker::sync as watching;
#[cfg(not(any(esker_loom, esker_shuttle)))]
use std::sync as watching;

#[cfg(esker_shuttle)]
pub(crate) use {
    model::Instant,
    shuttle::thread::{Builder, JoinHandle, yield_now},
};
#[cfg(not(esker_shuttle))]
pub(crate) use {
    std::thread::{Builder, JoinHandle, yield_now},
    std::time::Instant,
};

use std::sync::PoisonError;
pub(crate) use std::sync::atomic::Ordering;

/// A thread with a name.
pub(crate) fn spawn<F: FnOnce() + Send + 'static>(
    name: &str,
    body: F,
) -> std::io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).spawn(body)
}

/// A value that threads wait on until it is as they want it.
#[derive(Default)]
pub(crate) struct Watched<T> {
    value: watching::Mutex<T>,
    changed: watching::Condvar,
}

impl<T> Watched<T> {
    /// Waits until `look` finds what it is looking for. It is called under the lock.
    pub(crate) fn wait_for<R>(&self, mut look: impl FnMut(&mut T) -> Option<R>) -> R {
        let mut value = self.lock();
        loop {
            if let Some(found) = look(&mut value) {
                return found;
            }
            value = self
                .changed
                .wait(value)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Changes the value and wakes one who waits.
    pub(crate) fn wake_one(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.lock());
        self.changed.notify_one();
    }

    /// Changes the value and wakes all who wait.
    pub(crate) fn wake_all(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> watching::MutexGuard<'_, T> {
        // A panic of `look` or `change` leaves the value as it was.
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Locks and parking of the model checker, with the interfaces that this crate uses.
#[cfg(any(esker_loom, esker_shuttle))]
mod model {
    use super::checker;
    use super::checker::sync::{Arc, Condvar, MutexGuard};

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(checker::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(checker::sync::Mutex::new(value))
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
        #[cfg(esker_loom)]
        pub(crate) fn park_timeout(&self, _: std::time::Duration) {
            self.park();
        }

        /// The time may be over at any moment: here as soon as others have had a chance to run.
        #[cfg(esker_shuttle)]
        pub(crate) fn park_timeout(&self, _: std::time::Duration) {
            checker::thread::yield_now();
            *self.unparker.0.0.lock() = false;
        }
    }

    impl Unparker {
        pub(crate) fn unpark(&self) {
            let (token, left) = &*self.0;
            *token.lock() = true;
            left.notify_one();
        }
    }

    #[cfg(esker_shuttle)]
    checker::lazy_static! {
        /// How often anybody has looked at the clock in this run.
        static ref LOOKS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    }

    /// A clock that moves a microsecond on with each look. Others run meanwhile: whoever looks
    /// again and again is waiting for them.
    #[cfg(esker_shuttle)]
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Instant(u64);

    #[cfg(esker_shuttle)]
    impl Instant {
        pub(crate) fn now() -> Self {
            checker::thread::yield_now();
            Self(LOOKS.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
        }

        pub(crate) fn elapsed(self) -> std::time::Duration {
            std::time::Duration::from_micros(Self::now().0 - self.0)
        }
    }
}

#[cfg(esker_loom)]
mod contended {
    use loom::sync::atomic::{AtomicU64, Ordering};

    /// An atomic that threads load and then change.
    ///
    /// To find what to try in another order loom looks at the last access to each object only. A
    /// thread's own load before its read-modify-write hides what others have loaded before, and that
    /// they might have loaded it later is never tried. A relaxed read-modify-write of a companion
    /// before each access makes loom see every pair. It orders nothing.
    pub(crate) struct ContendedU64 {
        value: AtomicU64,
        companion: AtomicU64,
    }

    impl ContendedU64 {
        pub(crate) fn new(value: u64) -> Self {
            Self {
                value: AtomicU64::new(value),
                companion: AtomicU64::new(0),
            }
        }

        fn scheduled(&self) -> &AtomicU64 {
            self.companion.fetch_add(0, Ordering::Relaxed);
            &self.value
        }

        pub(crate) fn load(&self, order: Ordering) -> u64 {
            self.scheduled().load(order)
        }

        pub(crate) fn store(&self, value: u64, order: Ordering) {
            self.scheduled().store(value, order);
        }

        pub(crate) fn compare_exchange(
            &self,
            current: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            self.scheduled()
                .compare_exchange(current, new, success, failure)
        }
    }
}
