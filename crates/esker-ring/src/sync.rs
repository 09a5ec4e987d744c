//! The only place where this crate imports atomics, cells and thread primitives.
//!
//! Under `--cfg esker_loom` they are loom's, so that the same protocol runs on real threads and in
//! the models; under `--cfg esker_shuttle` they are shuttle's, which runs long schedules drawn from
//! a seed, one operation after the other. [`Witness`] shows loom which payload bytes are touched;
//! elsewhere it is nothing.

pub(crate) use imp::{
    Arc, AtomicU64, AtomicUsize, Condvar, ContendedU64, Mutex, Ordering, UnsafeCell, fence,
    membarrier,
};
pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::atomic::compiler_fence;

use std::ops::Range;

#[cfg(esker_loom)]
use loom as checker;
#[cfg(esker_shuttle)]
use shuttle as checker;

#[cfg(not(any(esker_loom, esker_shuttle)))]
mod imp {
    use std::time::Duration;

    pub(crate) use super::cell::UnsafeCell;
    pub(crate) use parking_lot::Mutex;
    pub(crate) use std::sync::Arc;
    pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

    /// An atomic that threads load and then change.
    pub(crate) type ContendedU64 = AtomicU64;

    /// A condition variable over [`Mutex`].
    pub(crate) struct Condvar(parking_lot::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(parking_lot::Condvar::new())
        }

        /// Blocks until notified or until `timeout` has passed; `None` waits without a bound.
        pub(crate) fn wait<'a, T>(
            &self,
            mut guard: parking_lot::MutexGuard<'a, T>,
            timeout: Option<Duration>,
        ) -> parking_lot::MutexGuard<'a, T> {
            match timeout {
                None => self.0.wait(&mut guard),
                Some(timeout) => {
                    self.0.wait_for(&mut guard, timeout);
                }
            }
            guard
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    /// Barriers that one thread makes on all threads of the process: `membarrier(2)`, expedited
    /// and private.
    pub(crate) mod membarrier {
        /// Announces the calls to the kernel; `false` if it does not have them.
        pub(crate) fn register() -> bool {
            call(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
        }

        /// A barrier on every thread of the process. `false` if the kernel refuses.
        pub(crate) fn on_every_thread() -> bool {
            call(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
        }

        fn call(command: libc::c_int) -> bool {
            let (flags, cpu): (libc::c_uint, libc::c_int) = (0, 0);
            // SAFETY: the call takes these three numbers and touches no memory of ours.
            unsafe { libc::syscall(libc::SYS_membarrier, command, flags, cpu) == 0 }
        }
    }
}

#[cfg(any(esker_loom, esker_shuttle))]
mod imp {
    use std::time::Duration;

    #[cfg(esker_shuttle)]
    pub(crate) use super::cell::UnsafeCell;
    use super::checker::sync as checked;
    pub(crate) use super::checker::sync::Arc;
    pub(crate) use super::checker::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
    #[cfg(esker_loom)]
    pub(crate) use super::contended::ContendedU64;
    #[cfg(esker_loom)]
    pub(crate) use loom::cell::UnsafeCell;

    /// An atomic that threads load and then change.
    #[cfg(esker_shuttle)]
    pub(crate) type ContendedU64 = AtomicU64;

    /// The checker's mutex without poisoning: a panic ends the run anyway.
    pub(crate) struct Mutex<T>(checked::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(checked::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> checked::MutexGuard<'_, T> {
            match self.0.lock() {
                Ok(guard) => guard,
                Err(poisoned) => poisoned.into_inner(),
            }
        }
    }

    /// The checker's condition variable; it has no clock, so a timeout never passes.
    pub(crate) struct Condvar(checked::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(checked::Condvar::new())
        }

        pub(crate) fn wait<'a, T>(
            &self,
            guard: checked::MutexGuard<'a, T>,
            _timeout: Option<Duration>,
        ) -> checked::MutexGuard<'a, T> {
            match self.0.wait(guard) {
                Ok(guard) => guard,
                Err(poisoned) => poisoned.into_inner(),
            }
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    /// The checkers know nothing of the kernel: the models run with symmetric fences.
    pub(crate) mod membarrier {
        pub(crate) fn register() -> bool {
            false
        }

        pub(crate) fn on_every_thread() -> bool {
            false
        }
    }
}

#[cfg(not(esker_loom))]
mod cell {
    /// A cell in loom's shape: access by closure.
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[cfg(esker_loom)]
mod contended {
    use loom::sync::atomic::{AtomicU64, Ordering};

    /// An atomic that threads load and then change.
    ///
    /// loom decides which accesses to reorder by looking at the last access to each object. A
    /// thread's own load before its read-modify-write hides everybody else's earlier loads from
    /// it, and whole classes of interleavings are never tried. A relaxed read-modify-write of a
    /// companion before each access makes loom see every pair. It orders nothing.
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

        pub(crate) fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
            self.scheduled().fetch_sub(value, order)
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

/// Shows loom every access to a piece of shared memory, so that a model fails when a write and
/// another access to the same bytes are not ordered by the protocol. Without loom it is empty and
/// its methods compile to nothing.
pub(crate) struct Witness {
    #[cfg(esker_loom)]
    granules: Vec<UnsafeCell<()>>,
}

impl Witness {
    /// How many bytes share a cell: models reserve multiples of it.
    #[cfg(esker_loom)]
    const GRANULE_BYTES: usize = 8;

    #[cfg_attr(not(esker_loom), expect(unused_variables, reason = "only loom looks"))]
    pub(crate) fn new(len_bytes: usize) -> Self {
        Self {
            #[cfg(esker_loom)]
            granules: (0..len_bytes.div_ceil(Self::GRANULE_BYTES))
                .map(|_| UnsafeCell::new(()))
                .collect(),
        }
    }

    #[cfg_attr(not(esker_loom), expect(unused_variables, reason = "only loom looks"))]
    #[inline(always)]
    pub(crate) fn reads(&self, range: Range<usize>) {
        #[cfg(esker_loom)]
        for cell in self.covered(range) {
            cell.with(|_| ());
        }
    }

    #[cfg_attr(not(esker_loom), expect(unused_variables, reason = "only loom looks"))]
    #[inline(always)]
    pub(crate) fn writes(&self, range: Range<usize>) {
        #[cfg(esker_loom)]
        for cell in self.covered(range) {
            cell.with_mut(|_| ());
        }
    }

    #[cfg(esker_loom)]
    fn covered(&self, range: Range<usize>) -> &[UnsafeCell<()>] {
        &self.granules[range.start / Self::GRANULE_BYTES..range.end.div_ceil(Self::GRANULE_BYTES)]
    }
}
