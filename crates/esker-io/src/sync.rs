//! The only place of this crate that imports atomics, locks or thread primitives.
//!
//! Under `--cfg esker_loom` what `waiters.rs`, `pool.rs` and `handover.rs` use is loom's, so that the same protocols
//! run on real threads and in the models; the rest of the crate only compiles there. Under
//! `--cfg esker_shuttle` everything is shuttle's, because a lane runs under its schedules too, over
//! somebody's backend; the backends that are here only compile.

#[cfg(esker_shuttle)]
pub(crate) use shuttle::{
    sync::atomic::{
        AtomicBool, AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
        fence,
    },
    thread::{self, JoinHandle, sleep, yield_now},
};
#[cfg(not(esker_shuttle))]
pub(crate) use std::{
    sync::atomic::{
        AtomicBool, AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
        fence,
    },
    thread::{self, JoinHandle, sleep, yield_now},
};

pub(crate) use std::sync::mpsc::channel;
pub(crate) use std::sync::{Arc, OnceLock, Weak};
pub(crate) use std::thread::panicking;

/// For what a process has once, whichever checker runs: no point of any schedule.
pub(crate) mod of_the_process {
    pub(crate) use std::sync::Once;
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
}

#[cfg(esker_shuttle)]
pub(crate) use imp::Mutex;
#[cfg(not(esker_shuttle))]
pub(crate) use parking_lot::Mutex;

/// What waiting is made of.
pub(crate) mod waiting {
    pub(crate) use super::imp::{
        Arc, AtomicU32, Bell, Condvar, ContendedUsize, Instant, JoinHandle, Mutex, MutexGuard,
        current_thread, fence, spawn, thread_of,
    };
    pub(crate) use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
    pub(crate) use std::thread::panicking;
}

#[cfg(esker_loom)]
use loom as checker;
#[cfg(esker_shuttle)]
use shuttle as checker;

#[cfg(not(any(esker_loom, esker_shuttle)))]
mod imp {
    use std::time::Duration;

    pub(crate) use parking_lot::{Mutex, MutexGuard};
    pub(crate) use std::sync::Arc;
    use std::sync::atomic::Ordering::{Acquire, Release};
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicUsize, fence};
    use std::thread::{self, ThreadId};
    pub(crate) use std::time::Instant;

    pub(crate) type JoinHandle = thread::JoinHandle<()>;

    /// Starts a thread of that name.
    pub(crate) fn spawn(
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<JoinHandle> {
        thread::Builder::new().name(name.to_owned()).spawn(body)
    }

    pub(crate) fn thread_of(handle: &JoinHandle) -> ThreadId {
        handle.thread().id()
    }

    pub(crate) fn current_thread() -> ThreadId {
        thread::current().id()
    }

    /// A condition variable whose waits take the guard and give it back.
    #[derive(Debug, Default)]
    pub(crate) struct Condvar(parking_lot::Condvar);

    impl Condvar {
        pub(crate) fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(&mut guard);
            guard
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    /// A counter that threads load and change.
    pub(crate) type ContendedUsize = AtomicUsize;

    /// Where threads sleep, and one system call wakes any subset of them: a futex with a bit for
    /// each sleeper.
    #[derive(Debug, Default)]
    pub(crate) struct Bell {
        /// How often it was rung. Raised by those who ring, compared by the kernel before it puts
        /// a thread to sleep.
        rung: AtomicU32,
    }

    impl Bell {
        /// How often it was rung.
        pub(crate) fn rung(&self) -> u32 {
            // Acquire: pairs with the Release in `ring`; what was done before it is seen.
            self.rung.load(Acquire)
        }

        /// Sleeps until it is rung for one of `bits`, unless it has been rung since `rung`. May
        /// return early. `false` if the time was over.
        pub(crate) fn wait(&self, rung: u32, bits: u32, timeout: Option<Duration>) -> bool {
            let deadline = timeout.map(deadline);
            let deadline = deadline
                .as_ref()
                .map_or(core::ptr::null(), core::ptr::from_ref);
            // SAFETY: the word and the time live across the call, which writes to neither.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.rung.as_ptr(),
                    libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
                    rung,
                    deadline,
                    core::ptr::null::<u32>(),
                    bits,
                )
            };
            result == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ETIMEDOUT)
        }

        /// Wakes everybody who sleeps with one of `bits`, by one system call; none for no bits.
        pub(crate) fn ring(&self, bits: u32) {
            if bits == 0 {
                return;
            }
            // Release: pairs with the Acquire in `rung`.
            self.rung.fetch_add(1, Release);
            // SAFETY: the call touches no memory; the word is only a name to it.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.rung.as_ptr(),
                    libc::FUTEX_WAKE_BITSET | libc::FUTEX_PRIVATE_FLAG,
                    i32::MAX,
                    core::ptr::null::<libc::timespec>(),
                    core::ptr::null::<u32>(),
                    bits,
                );
            }
        }
    }

    /// The moment `timeout` from now, as the kernel's clock has it; the far future if it has none.
    fn deadline(timeout: Duration) -> libc::timespec {
        let mut now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `now` is good for writing one `timespec`.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        let nanos = now.tv_nsec + i64::from(timeout.subsec_nanos());
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        libc::timespec {
            tv_sec: now
                .tv_sec
                .saturating_add(seconds)
                .saturating_add(nanos / 1_000_000_000)
                .min(i64::MAX >> 8),
            tv_nsec: nanos % 1_000_000_000,
        }
    }
}

#[cfg(any(esker_loom, esker_shuttle))]
mod imp {
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Duration;

    use super::checker;
    pub(crate) use super::checker::sync::atomic::{AtomicU32, fence};
    pub(crate) use super::checker::sync::{Arc, MutexGuard};
    use super::checker::thread::{self, ThreadId};
    #[cfg(esker_loom)]
    pub(crate) use super::contended::ContendedUsize;

    /// A counter that threads load and change.
    #[cfg(esker_shuttle)]
    pub(crate) type ContendedUsize = checker::sync::atomic::AtomicUsize;

    /// The checker's mutex without poisoning: a panic ends the run anyway.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(checker::sync::Mutex<T>);

    impl<T> Mutex<T> {
        #[cfg(esker_shuttle)]
        pub(crate) fn new(value: T) -> Self {
            Self(checker::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            match self.0.lock() {
                Ok(guard) => guard,
                Err(poisoned) => poisoned.into_inner(),
            }
        }
    }

    /// The checker's condition variable, whose waits take the guard and give it back.
    #[derive(Debug, Default)]
    pub(crate) struct Condvar(checker::sync::Condvar);

    impl Condvar {
        pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            match self.0.wait(guard) {
                Ok(guard) => guard,
                Err(poisoned) => poisoned.into_inner(),
            }
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    pub(crate) type JoinHandle = thread::JoinHandle<()>;

    /// The checkers' threads have no names.
    pub(crate) fn spawn(
        _name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<JoinHandle> {
        Ok(thread::spawn(body))
    }

    pub(crate) fn thread_of(handle: &JoinHandle) -> ThreadId {
        handle.thread().id()
    }

    pub(crate) fn current_thread() -> ThreadId {
        thread::current().id()
    }

    /// The bell of the checkers: everybody wakes for every ring, which a futex may do too.
    #[derive(Debug, Default)]
    pub(crate) struct Bell {
        rung: Mutex<u32>,
        changed: checker::sync::Condvar,
    }

    impl Bell {
        pub(crate) fn rung(&self) -> u32 {
            *self.rung.lock()
        }

        /// With a timeout the time is over at once: the scheduler decides when that is.
        pub(crate) fn wait(&self, rung: u32, _bits: u32, timeout: Option<Duration>) -> bool {
            let guard = self.rung.lock();
            if *guard == rung {
                if timeout.is_some() {
                    return false;
                }
                drop(self.changed.wait(guard));
            }
            true
        }

        pub(crate) fn ring(&self, bits: u32) {
            if bits == 0 {
                return;
            }
            *self.rung.lock() += 1;
            self.changed.notify_all();
        }
    }

    checker::lazy_static! {
        /// How often anybody has looked at the clock of this run.
        static ref LOOKS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    }

    /// A clock that moves a nanosecond on with each look.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Instant(u64);

    impl Instant {
        pub(crate) fn now() -> Self {
            // Whoever looks again and again is waiting for the others.
            #[cfg(esker_shuttle)]
            checker::thread::yield_now();
            Self(LOOKS.fetch_add(1, Relaxed))
        }

        pub(crate) fn checked_add(self, duration: Duration) -> Option<Self> {
            let nanos = u64::try_from(duration.as_nanos()).ok()?;
            self.0.checked_add(nanos).map(Self)
        }

        pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
            Duration::from_nanos(self.0.saturating_sub(earlier.0))
        }
    }
}

#[cfg(esker_loom)]
mod contended {
    use std::sync::atomic::Ordering::Relaxed;

    use loom::sync::atomic::{AtomicUsize, Ordering};

    /// A counter that threads load and change.
    ///
    /// loom decides which accesses to reorder by looking at the last access to each object, so
    /// that one thread's load hides another's. A relaxed read-modify-write of a companion before
    /// each access makes loom see every pair. It orders nothing.
    #[derive(Debug, Default)]
    pub(crate) struct ContendedUsize {
        value: AtomicUsize,
        companion: AtomicUsize,
    }

    impl ContendedUsize {
        fn scheduled(&self) -> &AtomicUsize {
            self.companion.fetch_add(0, Relaxed);
            &self.value
        }

        pub(crate) fn load(&self, order: Ordering) -> usize {
            self.scheduled().load(order)
        }

        pub(crate) fn fetch_add(&self, value: usize, order: Ordering) -> usize {
            self.scheduled().fetch_add(value, order)
        }

        pub(crate) fn fetch_sub(&self, value: usize, order: Ordering) -> usize {
            self.scheduled().fetch_sub(value, order)
        }
    }
}
