//! [`Waiters`]: the one place where threads wait, and how they pass the driving on.
//!
//! It is an event count with a leader. Whoever waits registers, asks its condition, and then
//! either *leads* (drives completions, for everybody) or parks. These hold:
//!
//! - W1. A waiter registers before it asks its condition, with a SeqCst fence between; whoever
//!   makes a condition true does so before it looks for waiters, with a SeqCst fence between. So
//!   either the waiter sees the condition or the other sees the waiter.
//! - W2. Under the mutex a waiter parks only if the epoch is the one that it read before it asked
//!   its condition, and either somebody leads or there is nothing to drive.
//! - W3. The leader blocks only if the same holds for the epoch, and marks itself as blocked in
//!   the same critical section; whoever moves the epoch on after that sees the mark and kicks.
//! - W4. Whoever ceases to lead, leaves without having led, or submits while nobody leads,
//!   unparks one waiter if there is anything to drive. That one leads, or leaves and does the same.

use std::time::{Duration, Instant};

use crate::sync::{AtomicUsize, Condvar, Mutex, Relaxed, SeqCst, fence};

/// What a leader does.
pub(crate) trait Driver {
    /// Whether anything is in flight that only driving brings to an end.
    fn has_work(&self) -> bool;

    /// Runs one round: waits until something has completed, a kick comes, or the time is over, and
    /// delivers what has completed. Returns how many operations that were.
    fn drive(&self, wait: Wait) -> usize;

    /// Ends the wait of a blocked [`drive`](Self::drive), now or at its next one.
    fn kick(&self);
}

/// How long a round may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all.
    No,
    /// For as long as it takes.
    Unbounded,
    /// For at most so long.
    AtMost(Duration),
}

#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// Threads inside `wait_until`, past their first look. Each writes its own arrival and
    /// departure; whoever makes a condition true reads it, to spare itself the mutex.
    registered: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Moves on whenever some condition may have come to hold.
    epoch: u64,
    /// Whether some thread may touch the completions.
    leading: bool,
    /// Whether that thread is blocked, or about to be, and nobody has kicked it yet.
    blocked: bool,
    /// Threads in the condition variable.
    parked: usize,
}

impl Waiters {
    /// Waits until `ready` holds; `false` if the time is over first.
    pub(crate) fn wait_until(
        &self,
        driver: &dyn Driver,
        ready: &mut dyn FnMut() -> bool,
        timeout: Option<Duration>,
    ) -> bool {
        if ready() {
            return true;
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let _registered = Registered::new(self, driver);
        loop {
            let seen = self.state.lock().epoch;
            if ready() {
                return true;
            }
            let wait = match remaining(deadline) {
                Some(wait) => wait,
                None => return false,
            };
            let mut state = self.state.lock();
            if state.epoch != seen {
                continue;
            }
            if !state.leading && driver.has_work() {
                state.leading = true;
                state.blocked = true;
                drop(state);
                match self.lead(driver, ready, wait, deadline) {
                    Led::Ready => return true,
                    Led::TimedOut => return false,
                    Led::Idle => continue,
                }
            }
            state.parked += 1;
            match deadline {
                Some(deadline) => {
                    self.changed.wait_until(&mut state, deadline);
                }
                None => self.changed.wait(&mut state),
            }
            state.parked -= 1;
        }
    }

    /// Drives until the condition holds, the time is over, or there is nothing to drive.
    fn lead(
        &self,
        driver: &dyn Driver,
        ready: &mut dyn FnMut() -> bool,
        mut wait: Wait,
        deadline: Option<Instant>,
    ) -> Led {
        let _leading = Leading {
            waiters: self,
            driver,
        };
        loop {
            let delivered = driver.drive(wait);
            let seen = {
                let mut state = self.state.lock();
                state.blocked = false;
                if delivered > 0 {
                    self.advance(&mut state);
                }
                state.epoch
            };
            if ready() {
                return Led::Ready;
            }
            wait = match remaining(deadline) {
                Some(wait) => wait,
                None => return Led::TimedOut,
            };
            let mut state = self.state.lock();
            if !driver.has_work() {
                return Led::Idle;
            }
            if state.epoch == seen {
                state.blocked = true;
            } else {
                // Something has changed since the condition was asked: look, but don't block.
                wait = Wait::No;
            }
        }
    }

    /// One round without waiting, if nobody else leads.
    pub(crate) fn poll(&self, driver: &dyn Driver) -> usize {
        {
            let mut state = self.state.lock();
            if state.leading || !driver.has_work() {
                return 0;
            }
            state.leading = true;
        }
        let leading = Leading {
            waiters: self,
            driver,
        };
        let delivered = driver.drive(Wait::No);
        if delivered > 0 {
            self.advance(&mut self.state.lock());
        }
        drop(leading);
        delivered
    }

    /// Some condition may have come to hold: everybody asks again.
    pub(crate) fn wake(&self, driver: &dyn Driver) {
        // SeqCst: pairs with the fence in `Registered::new` (W1).
        fence(SeqCst);
        // Relaxed: ordered by the fence.
        if self.registered.load(Relaxed) == 0 {
            return;
        }
        let kick = {
            let mut state = self.state.lock();
            self.advance(&mut state);
            core::mem::take(&mut state.blocked)
        };
        if kick {
            driver.kick();
        }
    }

    /// Something was put in flight: somebody who is parked must drive it if nobody does.
    pub(crate) fn recruit(&self, driver: &dyn Driver) {
        // SeqCst: pairs with the fence in `Registered::new`; W1 for "there is something to drive".
        fence(SeqCst);
        // Relaxed: ordered by the fence.
        if self.registered.load(Relaxed) == 0 {
            return;
        }
        self.hand_over(&self.state.lock(), driver);
    }

    /// Moves the epoch on and unparks everybody.
    fn advance(&self, state: &mut State) {
        state.epoch = state.epoch.wrapping_add(1);
        if state.parked > 0 {
            self.changed.notify_all();
        }
    }

    /// Unparks one who can lead, if one is needed.
    fn hand_over(&self, state: &State, driver: &dyn Driver) {
        if cfg!(esker_canary = "io-leader-leaves-silently") {
            return;
        }
        if !state.leading && state.parked > 0 && driver.has_work() {
            self.changed.notify_one();
        }
    }
}

/// How a lead ended.
enum Led {
    Ready,
    TimedOut,
    Idle,
}

/// The time left, or `None` if there is none.
fn remaining(deadline: Option<Instant>) -> Option<Wait> {
    let Some(deadline) = deadline else {
        return Some(Wait::Unbounded);
    };
    let left = deadline.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(Wait::AtMost(left))
}

/// A thread within `wait_until`.
struct Registered<'a> {
    waiters: &'a Waiters,
    driver: &'a dyn Driver,
}

impl<'a> Registered<'a> {
    fn new(waiters: &'a Waiters, driver: &'a dyn Driver) -> Self {
        // Relaxed: ordered by the fence.
        waiters.registered.fetch_add(1, Relaxed);
        // SeqCst: pairs with the fences in `wake` and `recruit` (W1).
        fence(SeqCst);
        Self { waiters, driver }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        // A waiter may have been unparked to lead and leave because its condition holds: the next
        // one takes its place (W4).
        self.waiters
            .hand_over(&self.waiters.state.lock(), self.driver);
        // Relaxed: a stale count costs a needless look, never a missed one.
        self.waiters.registered.fetch_sub(1, Relaxed);
    }
}

/// The right to touch completions; given up also when a sink panics.
struct Leading<'a> {
    waiters: &'a Waiters,
    driver: &'a dyn Driver,
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        let mut state = self.waiters.state.lock();
        state.leading = false;
        state.blocked = false;
        if crate::sync::panicking() {
            // The round was cut short: what it delivered has not been announced.
            self.waiters.advance(&mut state);
        }
        self.waiters.hand_over(&state, self.driver);
    }
}
