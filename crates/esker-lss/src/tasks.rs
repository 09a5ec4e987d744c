//! [`Tasks`]: the futures that wait for durability, and the thread that commits for them.
//!
//! A future never leads a commit: it may be polled late, or not at all, and others would wait for it.
//! It leaves its waker here. One thread of the store's, the committer, waits like any other thread for
//! the largest address that a future wants. Whoever moves the durable prefix wakes the futures that it
//! has passed.
//!
//! Invariants:
//! - V1. A future that is here when the prefix passes its end is woken, and one that comes later sees
//!   the prefix: it enters, fences and looks; whoever moves the prefix stores, fences and looks for
//!   futures.
//! - V2. The committer sleeps only while nobody is here: it looks and lies down under one lock, and
//!   who enters takes it up again under the same.
//! - V3. A future that is dropped leaves nothing behind, and nobody waits for what it wanted.
//! - V4. When the store ends, everybody here is woken, and nobody enters any more.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use crate::sync::{AtomicUsize, Mutex, Ordering, Parker, Unparker, fence};

/// The futures that wait.
#[derive(Default)]
pub(crate) struct Tasks {
    /// How many are here. Stored with `inner` locked; read without by whoever moves the prefix.
    count: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: BTreeMap<Place, Waker>,
    /// The number of the next place.
    next: u64,
    /// The committer, while it sleeps.
    asleep: Option<Unparker>,
    closed: bool,
}

/// What a future waits for, and its number among those that wait for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    end: u64,
    number: u64,
}

impl Tasks {
    /// Has `waker` woken when everything below `end` is durable, or nothing becomes durable any more.
    /// Whoever has entered looks again whether that is so already (V1). `false` if the store has
    /// ended.
    pub(crate) fn enter(&self, place: &mut Option<Place>, end: u64, waker: &Waker) -> bool {
        // Wakers are foreign code: they are cloned and dropped without the lock.
        let mut waker = Some(waker.clone());
        let asleep = {
            let mut inner = self.inner.lock();
            if inner.closed {
                return false;
            }
            let place = *place.get_or_insert_with(|| {
                inner.next += 1;
                Place {
                    end,
                    number: inner.next,
                }
            });
            // The one that was here before, if there was one, goes at the end.
            waker = waker.and_then(|waker| inner.waiting.insert(place, waker));
            // Relaxed: ordered by the fence.
            self.count.store(inner.waiting.len(), Ordering::Relaxed);
            if canary!("tasks-let-the-committer-sleep") {
                None
            } else {
                inner.asleep.take()
            }
        };
        drop(waker);
        if let Some(committer) = asleep {
            committer.unpark();
        }
        // SeqCst fence: V1; pairs with the one in `reached`.
        if !canary!("tasks-enter-without-fence") {
            fence(Ordering::SeqCst);
        }
        true
    }

    /// A future waits no longer.
    pub(crate) fn leave(&self, place: &mut Option<Place>) {
        let Some(place) = place.take() else {
            return;
        };
        let mut inner = self.inner.lock();
        let waker = inner.waiting.remove(&place);
        // Relaxed: a count that is too high costs a needless look.
        self.count.store(inner.waiting.len(), Ordering::Relaxed);
        drop(inner);
        drop(waker);
    }

    /// How many are here; a hint.
    pub(crate) fn present(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Everything below `lsn` is settled: those who wait for it are woken.
    pub(crate) fn reached(&self, lsn: u64) {
        // SeqCst fence: V1; pairs with the one in `enter`.
        fence(Ordering::SeqCst);
        // Relaxed: ordered by the fence.
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let settled = {
            let mut inner = self.inner.lock();
            let past = Place {
                end: lsn.saturating_add(1),
                number: 0,
            };
            let left = if lsn == u64::MAX {
                BTreeMap::new()
            } else {
                inner.waiting.split_off(&past)
            };
            let settled = std::mem::replace(&mut inner.waiting, left);
            self.count.store(inner.waiting.len(), Ordering::Relaxed);
            settled
        };
        wake(settled);
    }

    /// The largest address that anybody here wants durable.
    pub(crate) fn wanted(&self) -> Option<u64> {
        let inner = self.inner.lock();
        inner.waiting.last_key_value().map(|(place, _)| place.end)
    }

    /// The same; sleeps while nobody is here. `None` when the store has ended.
    pub(crate) fn await_wanted(&self, parker: &Parker) -> Option<u64> {
        loop {
            {
                let mut inner = self.inner.lock();
                if inner.closed {
                    return None;
                }
                if let Some((place, _)) = inner.waiting.last_key_value() {
                    return Some(place.end);
                }
                inner.asleep = Some(parker.unparker().clone());
            }
            parker.park();
        }
    }

    /// The store ends: V4.
    pub(crate) fn close(&self) {
        let (waiting, committer) = {
            let mut inner = self.inner.lock();
            inner.closed = true;
            self.count.store(0, Ordering::Relaxed);
            (std::mem::take(&mut inner.waiting), inner.asleep.take())
        };
        if let Some(committer) = committer {
            committer.unpark();
        }
        wake(waiting);
    }
}

/// Wakes everybody, also when an executor's waker panics, which the panic hook reports.
fn wake(waiting: BTreeMap<Place, Waker>) {
    for waker in waiting.into_values() {
        let _panicked = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use super::*;

    /// Says whether it was woken, and demands that nobody drops it with the lock held: what a waker
    /// does when it goes is the executor's affair.
    struct Task {
        tasks: Arc<Tasks>,
        woken: Arc<AtomicBool>,
    }

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.woken.store(true, Ordering::Relaxed);
        }
    }

    impl Drop for Task {
        fn drop(&mut self) {
            assert!(self.tasks.inner.try_lock().is_some(), "the lock is held");
        }
    }

    /// A future that waits for `end`.
    struct Waiting {
        place: Option<Place>,
        end: u64,
        woken: Arc<AtomicBool>,
    }

    impl Waiting {
        fn enter(tasks: &Arc<Tasks>, end: u64) -> Self {
            let mut waiting = Self {
                place: None,
                end,
                woken: Arc::default(),
            };
            assert!(waiting.poll(tasks));
            waiting
        }

        /// As each poll does, with a waker of its own.
        fn poll(&mut self, tasks: &Arc<Tasks>) -> bool {
            let waker = Waker::from(Arc::new(Task {
                tasks: Arc::clone(tasks),
                woken: Arc::clone(&self.woken),
            }));
            tasks.enter(&mut self.place, self.end, &waker)
        }

        fn is_woken(&self) -> bool {
            self.woken.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn those_who_are_passed_are_woken_and_no_others() {
        let tasks = Arc::new(Tasks::default());
        let waiting = [10, 10, 11, u64::MAX].map(|end| Waiting::enter(&tasks, end));
        let woken = || waiting.each_ref().map(Waiting::is_woken);
        assert_eq!((tasks.present(), tasks.wanted()), (4, Some(u64::MAX)));
        tasks.reached(9);
        assert_eq!((tasks.present(), woken()), (4, [false; 4]));
        tasks.reached(10);
        assert_eq!((tasks.present(), woken()), (2, [true, true, false, false]));
        tasks.reached(u64::MAX);
        assert_eq!((tasks.present(), woken()), (0, [true; 4]));
        assert_eq!(tasks.wanted(), None);
    }

    #[test]
    fn nobody_waits_for_what_a_future_wanted_that_is_gone() {
        let tasks = Arc::new(Tasks::default());
        let [mut less, mut more] = [10, 20].map(|end| Waiting::enter(&tasks, end));
        tasks.leave(&mut more.place);
        assert_eq!((tasks.present(), tasks.wanted()), (1, Some(10)));
        tasks.leave(&mut more.place);
        tasks.leave(&mut less.place);
        assert_eq!((tasks.present(), tasks.wanted()), (0, None));
        tasks.reached(u64::MAX);
        assert!(!less.is_woken() && !more.is_woken());
    }

    #[test]
    fn one_that_is_polled_again_waits_once() {
        let tasks = Arc::new(Tasks::default());
        let mut waiting = Waiting::enter(&tasks, 10);
        assert!(waiting.poll(&tasks));
        assert_eq!(tasks.present(), 1);
        tasks.reached(10);
        assert!(waiting.is_woken());
        // Woken, and not there yet: it comes back to its place.
        assert!(waiting.poll(&tasks));
        assert_eq!((tasks.present(), tasks.wanted()), (1, Some(10)));
    }

    #[test]
    fn the_end_of_the_store_wakes_everybody_and_lets_nobody_in() {
        let tasks = Arc::new(Tasks::default());
        let mut waiting = Waiting::enter(&tasks, 10);
        assert_eq!(tasks.await_wanted(&Parker::new()), Some(10));
        tasks.close();
        assert!(waiting.is_woken());
        assert!(!waiting.poll(&tasks));
        assert_eq!((tasks.present(), tasks.wanted()), (0, None));
        assert_eq!(tasks.await_wanted(&Parker::new()), None);
    }
}
