//! [`Served`]: those who wait where threads of the backend's own complete everything.

use core::fmt;
use std::any::Any;
use std::panic::resume_unwind;
use std::time::{Duration, Instant};

use crate::sync::{AtomicBool, Mutex, SeqCst};
use crate::waiters::{Condition, Driver, Wait, Waiters};

/// Waiters who have nothing to drive. The panic of a sink, which is called in a thread of the
/// backend's, goes on in whichever of them comes first.
#[derive(Debug, Default)]
pub(crate) struct Served {
    waiters: Waiters,
    panic: Panic,
}

/// The panic of a sink in a thread of the backend's, on its way to whoever waits.
#[derive(Default)]
struct Panic {
    payload: Mutex<Option<Box<dyn Any + Send>>>,
    /// Whether there is one. Written with the payload's lock held; part of waiters' conditions:
    /// SeqCst.
    is_there: AtomicBool,
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Panic")
            .field("is_there", &self.is_there)
            .finish_non_exhaustive()
    }
}

/// Nothing is ever left for a waiter to drive.
struct Nothing;

impl Driver for Nothing {
    fn has_work(&self) -> bool {
        false
    }

    fn drive(&self, _wait: Wait) -> usize {
        0
    }

    fn kick(&self) {}
}

impl Served {
    pub(crate) fn wait_until(
        &self,
        ready: &mut dyn FnMut() -> bool,
        timeout: Option<Duration>,
    ) -> bool {
        self.wait(timeout, |left| {
            let mut met = false;
            let mut condition = || {
                met = ready();
                met || self.panic.is_there.load(SeqCst)
            };
            let condition = Condition::Private(&mut condition);
            self.waiters.wait(&Nothing, condition, left);
            met
        })
    }

    pub(crate) fn wait_for(
        &self,
        ready: &(dyn Fn() -> bool + Sync),
        timeout: Option<Duration>,
    ) -> bool {
        self.wait(timeout, |left| {
            // Set by whoever asks the condition, in this thread or another: it may cease to hold.
            let met = AtomicBool::new(false);
            let condition = || {
                if ready() {
                    met.store(true, SeqCst);
                    return true;
                }
                self.panic.is_there.load(SeqCst)
            };
            let condition = Condition::Shared(&condition);
            self.waiters.wait(&Nothing, condition, left);
            met.load(SeqCst)
        })
    }

    /// Waits by `wait` until it says that its condition was met or the time is over; whichever
    /// waiter comes first takes the panic of a sink.
    fn wait(
        &self,
        timeout: Option<Duration>,
        mut wait: impl FnMut(Option<Duration>) -> bool,
    ) -> bool {
        let began = Instant::now();
        loop {
            let left = timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
            let met = wait(left);
            self.resume();
            if met || left.is_some_and(|left| left.is_zero()) {
                return met;
            }
        }
    }

    /// Some condition may have come to hold: everybody asks again, or is asked for.
    pub(crate) fn wake(&self) {
        self.waiters.wake(&Nothing);
    }

    /// Keeps the panic of a sink for whoever waits, unless an earlier one is still on its way. To
    /// be called before its operation counts as over, whose end somebody may wait for.
    pub(crate) fn keep(&self, panic: Box<dyn Any + Send>) {
        let mut payload = self.panic.payload.lock();
        payload.get_or_insert(panic);
        self.panic.is_there.store(true, SeqCst);
    }

    fn take(&self) -> Option<Box<dyn Any + Send>> {
        if !self.panic.is_there.load(SeqCst) {
            return None;
        }
        let mut payload = self.panic.payload.lock();
        self.panic.is_there.store(false, SeqCst);
        payload.take()
    }

    /// Goes on with the panic of a sink in this thread, if there is one.
    pub(crate) fn resume(&self) {
        if let Some(panic) = self.take() {
            resume_unwind(panic);
        }
    }
}
