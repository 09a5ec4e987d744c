//! Threads and tasks that wait for the ring to move.
//!
//! Every waker publishes, fences and looks whether anybody waits; every waiter registers, fences
//! and looks whether it still has to. One of the two sees the other (E7).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::sync::{AtomicUsize, Condvar, Mutex, Ordering, fence};

/// What a waiter waits for. It says *when it is worth trying again*, nothing more.
///
/// Comes with an outcome that found the ring full, or somebody in one of its short sections. It
/// goes stale harmlessly: waiting on an old one returns at once.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # use esker_ring::{Ring, Seal, TryReserve};
/// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
/// # let mut held = Vec::new();
/// # for _ in 0..2 {
/// #     let TryReserve::Reserved(record) = ring.try_reserve(8)? else { unreachable!() };
/// #     assert!(record.commit().is_none());
/// #     let Seal::Sealed { buffer, .. } = ring.seal() else { unreachable!() };
/// #     held.extend(buffer);
/// # }
/// let TryReserve::Full(wait) = ring.try_reserve(8)? else {
///     panic!("both buffers are held");
/// };
/// assert!(!ring.wait(&wait, Some(Duration::ZERO)));
/// drop(held); // the flusher is done with them
/// assert!(ring.wait(&wait, None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub(crate) seq: u64,
    pub(crate) until: Until,
}

/// The event, about the buffer with the wait's sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// It is open, or its end is published.
    Settled,
    /// The one after it is open.
    NextOpen,
    /// The slot of the one after it is free.
    NextFree,
}

pub(crate) struct Waiters {
    /// How many threads and wakers are registered. Written by waiters, and by wakers that drain
    /// `Parked::wakers`; read by every waker.
    registered: AtomicUsize,
    parked: Mutex<Parked>,
    moved: Condvar,
}

struct Parked {
    /// Counts wake-ups: a thread sleeps only while it stands where it stood before its last look.
    generation: u64,
    wakers: Vec<Waker>,
}

impl Waiters {
    pub(crate) fn new() -> Self {
        Self {
            registered: AtomicUsize::new(0),
            parked: Mutex::new(Parked {
                generation: 0,
                wakers: Vec::new(),
            }),
            moved: Condvar::new(),
        }
    }

    /// Wakes everybody. Comes after the publication that they wait for.
    pub(crate) fn wake_all(&self) {
        // SeqCst fence: between our publication and our look at the count; pairs with the fence
        // in `register` (E7).
        fence(Ordering::SeqCst);
        // Relaxed: the fence orders it; a count of zero means that whoever registers from now on
        // sees the publication.
        if self.registered.load(Ordering::Relaxed) != 0 {
            self.wake_registered();
        }
    }

    #[cold]
    fn wake_registered(&self) {
        let wakers = {
            let mut parked = self.parked.lock();
            parked.generation += 1;
            let wakers = std::mem::take(&mut parked.wakers);
            // Relaxed: a hint whose order the fences make; under the lock, so that it never
            // counts wakers that are gone.
            self.registered.fetch_sub(wakers.len(), Ordering::Relaxed);
            wakers
        };
        self.moved.notify_all();
        for waker in wakers {
            // Whoever wakes may be in the middle of a seal, or be unwinding itself; and the others
            // are to be woken too. The panic hook has reported it.
            let _panicked = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }

    /// Blocks until `ready`, which is looked at anew after every wake-up, or until `timeout` has
    /// passed. Returns whether it was ready.
    pub(crate) fn wait(&self, timeout: Option<Duration>, ready: impl Fn() -> bool) -> bool {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let _registered = self.register();
        loop {
            let generation = self.parked.lock().generation;
            // Outside the lock: it may open a buffer and wake others.
            if !canary!("park-without-recheck") && ready() {
                return true;
            }
            let mut parked = self.parked.lock();
            while parked.generation == generation {
                let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
                if left == Some(Duration::ZERO) {
                    return false;
                }
                parked = self.moved.wait(parked, left);
            }
        }
    }

    /// Leaves a waker to be woken at the next movement, unless it is `ready` now. Returns whether
    /// it was left.
    pub(crate) fn notify(&self, waker: &Waker, ready: impl Fn() -> bool) -> bool {
        {
            let mut parked = self.parked.lock();
            if !parked.wakers.iter().any(|known| known.will_wake(waker)) {
                parked.wakers.push(waker.clone());
                // Relaxed: the fence below orders it.
                self.registered.fetch_add(1, Ordering::Relaxed);
            }
        }
        // SeqCst fence: as in `register` (E7).
        if !canary!("notify-without-fence") {
            fence(Ordering::SeqCst);
        }
        // A waker that is left behind although it was ready costs one wake-up for nothing.
        !ready()
    }

    fn register(&self) -> Registered<'_> {
        // Relaxed: the fence below orders it.
        self.registered.fetch_add(1, Ordering::Relaxed);
        // SeqCst fence: between registering and looking; pairs with the one in `wake_all` (E7).
        fence(Ordering::SeqCst);
        Registered(self)
    }
}

struct Registered<'a>(&'a Waiters);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        // Relaxed: being counted too long only costs a waker a look at the lock.
        self.0.registered.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(esker_loom)))]
mod tests {
    use super::*;

    /// Else every movement of the ring would take the lock, for ever.
    #[test]
    fn nobody_is_counted_who_waits_no_longer() {
        let waiters = Waiters::new();
        assert!(waiters.notify(Waker::noop(), || false));
        assert_eq!(waiters.registered.load(Ordering::Relaxed), 1);
        waiters.wake_all();
        assert_eq!(waiters.registered.load(Ordering::Relaxed), 0);
        assert!(!waiters.wait(Some(Duration::ZERO), || false));
        assert_eq!(waiters.registered.load(Ordering::Relaxed), 0);
    }
}
