//! The only place of this crate that imports locks or thread primitives. Under
//! `--cfg esker_shuttle` they are shuttle's, and the seed that draws its schedules says everything
//! that a run does.

pub(crate) use std::sync::{Arc, Weak};
pub(crate) use std::thread::panicking;

pub(crate) use imp::{Condvar, Instant, Mutex, thread_local};

#[cfg(not(esker_shuttle))]
mod imp {
    pub(crate) use parking_lot::Mutex;
    use parking_lot::MutexGuard;
    pub(crate) use std::thread_local;
    pub(crate) use std::time::Instant;

    /// A condition variable over [`Mutex`].
    pub(crate) struct Condvar(parking_lot::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(parking_lot::Condvar::new())
        }

        /// Blocks until notified or until `deadline` has passed; `None` waits without a bound.
        pub(crate) fn wait<T>(&self, mut guard: MutexGuard<'_, T>, deadline: Option<Instant>) {
            match deadline {
                Some(deadline) => {
                    let _timed_out = self.0.wait_until(&mut guard, deadline);
                }
                None => self.0.wait(&mut guard),
            }
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}

#[cfg(esker_shuttle)]
mod imp {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Duration;

    pub(crate) use shuttle::sync::MutexGuard;
    pub(crate) use shuttle::thread_local;

    /// A mutex without poisoning: a panic ends the run anyway.
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            match self.0.lock() {
                Ok(guard) => guard,
                Err(poisoned) => poisoned.into_inner(),
            }
        }
    }

    /// A condition variable over [`Mutex`].
    pub(crate) struct Condvar(shuttle::sync::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(shuttle::sync::Condvar::new())
        }

        /// Blocks until notified. With a deadline it returns at once: whoever has one looks at the
        /// clock next.
        pub(crate) fn wait<T>(&self, guard: MutexGuard<'_, T>, deadline: Option<Instant>) {
            if deadline.is_none() {
                drop(self.0.wait(guard));
            }
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    shuttle::lazy_static! {
        /// What the clock of this run says, in microseconds.
        static ref CLOCK: AtomicU64 = AtomicU64::new(0);
    }

    /// A clock that moves ten microseconds on with each look. Others run meanwhile: whoever looks
    /// again and again is waiting for them.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) struct Instant(Duration);

    impl Instant {
        pub(crate) fn now() -> Self {
            shuttle::thread::yield_now();
            Self(Duration::from_micros(CLOCK.fetch_add(10, Relaxed)))
        }

        pub(crate) fn checked_add(self, duration: Duration) -> Option<Self> {
            self.0.checked_add(duration).map(Self)
        }
    }
}
