//! [`Waiters`]: the one place where threads wait, and how they pass the driving on.
//!
//! It is an event count with a leader. Whoever waits registers, asks its condition, and then
//! either *leads* (drives completions, for everybody) or parks. A condition is *private*, asked
//! only by its own thread, or *shared*: then whoever makes things change asks it on behalf of the
//! parked thread, which sleeps on unless it holds. These hold:
//!
//! - W1. A waiter registers before it asks its condition, with a SeqCst fence between; whoever
//!   makes a condition true does so before it looks for waiters, with a SeqCst fence between. So
//!   either the waiter sees the condition or the other sees the waiter.
//! - W2. Under the mutex a waiter parks only if the epoch is the one that it read before it asked
//!   its condition, and either somebody leads or there is nothing to drive.
//! - W3. The leader blocks only if the same holds for the epoch, and marks itself as blocked in
//!   the same critical section; whoever moves the epoch on after that sees the mark and kicks.
//! - W4. Whoever ceases to lead, leaves after it was called to lead, or submits while nobody leads,
//!   calls one parked waiter to lead if there is anything to drive. That one leads, or parks
//!   because somebody does, or leaves and does the same.
//! - W5. Moving the epoch on calls each parked waiter whose condition is private, and each whose
//!   shared condition holds at that moment, in the same critical section. A condition that came to
//!   hold later has its own call to [`Waiters::wake`] to come, or is asked after its round.
//! - W6. A parked waiter's entry is in the list for as long as its seat and its condition are good:
//!   it is taken out under the mutex, by the caller or by a waiter whose time is over, and nobody
//!   touches the seat after the call has been stored.
//!
//! Those called in one critical section are woken by one system call, after it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::sync::waiting::{
    Acquire, AtomicU32, Bell, ContendedUsize, Instant, Mutex, MutexGuard, Relaxed, Release, SeqCst,
    fence, panicking,
};

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

/// A condition that any thread may ask.
pub(crate) type Shared<'a> = &'a (dyn Fn() -> bool + Sync);

/// What a thread waits for.
pub(crate) enum Condition<'a> {
    /// Asked only by the waiting thread.
    Private(&'a mut dyn FnMut() -> bool),
    /// Asked by whoever changes something, too, under the mutex: it takes no lock that is held
    /// while the backend is called, and does not call the backend.
    Shared(Shared<'a>),
}

impl Condition<'_> {
    fn holds(&mut self) -> bool {
        match self {
            Self::Private(ready) => ready(),
            Self::Shared(ready) => ready(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// Threads inside `wait`, past their first look. Each writes its own arrival and departure;
    /// whoever makes a condition true reads it, to spare itself the mutex.
    registered: ContendedUsize,
    state: Mutex<State>,
    bell: Bell,
}

#[derive(Debug, Default)]
struct State {
    /// Moves on whenever some condition may have come to hold.
    epoch: u64,
    /// Whether some thread may touch the completions.
    leading: bool,
    /// Whether that thread is blocked, or about to be, and nobody has kicked it yet.
    blocked: bool,
    /// Threads that sleep, or are about to, and that nobody has called (W6).
    parked: Vec<Parked>,
    /// How many have parked so far: gives each the next bit.
    turn: u32,
}

/// A sleeping thread, as those who wake it see it.
struct Parked {
    seat: *const Seat,
    /// Its condition if that is shared.
    ready: Option<*const (dyn Fn() -> bool + Sync)>,
    bit: u32,
}

// SAFETY: the seat is an atomic, and a shared condition may be asked by any thread; both are good
// for as long as the entry is in the list (W6).
unsafe impl Send for Parked {}

impl core::fmt::Debug for Parked {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Parked")
            .field("shared", &self.ready.is_some())
            .finish_non_exhaustive()
    }
}

/// Where a sleeping thread finds out what it was woken for.
#[derive(Default)]
struct Seat {
    /// `NOT_CALLED`, `LOOK` or `LEAD`. Stored once, by the caller under the mutex; read by the
    /// thread whose seat it is.
    call: AtomicU32,
}

/// The models fail unless whoever has called is done with the seat by now.
#[cfg(esker_loom)]
impl Drop for Seat {
    fn drop(&mut self) {
        self.call.with_mut(|_| ());
    }
}

const NOT_CALLED: u32 = 0;
const LOOK: u32 = 1;
const LEAD: u32 = 2;

impl Parked {
    /// Whether its thread has to look for itself.
    fn may_be_ready(&self) -> bool {
        let Some(ready) = self.ready else {
            return true;
        };
        // SAFETY: W6.
        let ready = unsafe { &*ready };
        // One that panics is asked again by its own thread, whose panic it is.
        catch_unwind(AssertUnwindSafe(ready)).unwrap_or(true)
    }

    /// Tells its thread; the bit to ring for. The entry has been taken out of the list.
    fn call(self, what: u32) -> u32 {
        // SAFETY: W6: the thread is here until it sees the call.
        let seat = unsafe { &*self.seat };
        // Release: pairs with the Acquire in `park`; the thread sees what it was called for, and gives
        // the seat up only after this.
        let ordering = if canary!("io-calls-relaxed") {
            Relaxed
        } else {
            Release
        };
        seat.call.store(what, ordering);
        self.bit
    }
}

impl Waiters {
    /// Waits until the condition holds; `false` if the time is over first.
    pub(crate) fn wait(
        &self,
        driver: &dyn Driver,
        mut condition: Condition<'_>,
        timeout: Option<Duration>,
    ) -> bool {
        if condition.holds() {
            return true;
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut registered = Registered::new(self, driver);
        loop {
            let seen = self.state.lock().epoch;
            if condition.holds() {
                return true;
            }
            let wait = match remaining(deadline) {
                Some(wait) => wait,
                None => return false,
            };
            let mut state = self.state.lock();
            if state.epoch != seen && !canary!("io-parks-without-looking") {
                continue;
            }
            if !state.leading && driver.has_work() {
                state.leading = true;
                state.blocked = true;
                drop(state);
                // Its end hands over, whoever called this thread.
                registered.called_to_lead = false;
                match self.lead(driver, &mut condition, wait, deadline) {
                    Led::Ready => return true,
                    Led::TimedOut => return false,
                    Led::Idle => continue,
                }
            }
            // Somebody leads and hands over, or there is nothing to drive.
            registered.called_to_lead = self.park(state, &condition, deadline) == LEAD;
            if condition.holds() {
                return true;
            }
        }
    }

    /// Sleeps until called or until the time is over; the call, if there was one.
    fn park(
        &self,
        mut state: MutexGuard<'_, State>,
        condition: &Condition<'_>,
        deadline: Option<Instant>,
    ) -> u32 {
        let seat = Seat::default();
        let bit = 1 << (state.turn % 32);
        state.turn = state.turn.wrapping_add(1);
        state.parked.push(Parked {
            seat: &raw const seat,
            ready: match condition {
                Condition::Private(_) => None,
                Condition::Shared(ready) => Some(unbounded(*ready)),
            },
            bit,
        });
        drop(state);
        loop {
            // Before the look at the seat: a call after it has changed the count.
            let rung = self.bell.rung();
            // Acquire: pairs with the Release in `Parked::call`.
            let call = seat.call.load(Acquire);
            if call != NOT_CALLED {
                return call;
            }
            let timeout = match remaining(deadline) {
                Some(Wait::AtMost(left)) => Some(left),
                Some(_) => None,
                None => Some(Duration::ZERO),
            };
            if !self.bell.wait(rung, bit, timeout) {
                let mut state = self.state.lock();
                let entry = state
                    .parked
                    .iter()
                    .position(|parked| core::ptr::eq(parked.seat, &raw const seat));
                if let Some(entry) = entry {
                    state.parked.swap_remove(entry);
                }
                // Relaxed: ordered by the mutex, under which it was stored if it was.
                return seat.call.load(Relaxed);
            }
        }
    }

    /// Drives until the condition holds, the time is over, or there is nothing to drive.
    fn lead(
        &self,
        driver: &dyn Driver,
        condition: &mut Condition<'_>,
        mut wait: Wait,
        deadline: Option<Instant>,
    ) -> Led {
        let mut leading = Leading {
            waiters: self,
            driver,
            bits: 0,
        };
        loop {
            let delivered = driver.drive(wait);
            let seen = {
                let mut state = self.state.lock();
                state.blocked = false;
                if delivered > 0 {
                    leading.bits |= advance(&mut state);
                }
                state.epoch
            };
            if condition.holds() {
                return Led::Ready;
            }
            // Not before: whoever leaves wakes those called and its successor at once.
            self.bell.ring(core::mem::take(&mut leading.bits));
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
        let mut leading = Leading {
            waiters: self,
            driver,
            bits: 0,
        };
        let delivered = driver.drive(Wait::No);
        if delivered > 0 {
            leading.bits = advance(&mut self.state.lock());
        }
        drop(leading);
        delivered
    }

    /// Some condition may have come to hold: everybody asks again, or is asked for.
    pub(crate) fn wake(&self, driver: &dyn Driver) {
        // SeqCst: pairs with the fence in `Registered::new` (W1).
        if !canary!("io-wakes-without-fence") {
            fence(SeqCst);
        }
        // Relaxed: ordered by the fence.
        if self.registered.load(Relaxed) == 0 {
            return;
        }
        let (bits, kick) = {
            let mut state = self.state.lock();
            (advance(&mut state), core::mem::take(&mut state.blocked))
        };
        self.bell.ring(bits);
        if kick && !canary!("io-wakes-no-leader") {
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
        let bits = hand_over(&mut self.state.lock(), driver);
        self.bell.ring(bits);
    }
}

/// Moves the epoch on and calls those who may find their condition true (W5). The bits to ring for.
fn advance(state: &mut State) -> u32 {
    state.epoch = state.epoch.wrapping_add(1);
    let mut bits = 0;
    for parked in state.parked.extract_if(.., |parked| parked.may_be_ready()) {
        bits |= parked.call(LOOK);
    }
    bits
}

/// Calls one who can lead, if one is needed (W4). The bit to ring for.
fn hand_over(state: &mut State, driver: &dyn Driver) -> u32 {
    if canary!("io-leader-leaves-silently") {
        return 0;
    }
    if state.leading || state.parked.is_empty() || !driver.has_work() {
        return 0;
    }
    state.parked.pop().map_or(0, |parked| parked.call(LEAD))
}

/// The condition without the bound of its borrow.
fn unbounded(ready: Shared<'_>) -> *const (dyn Fn() -> bool + Sync) {
    let ready: *const (dyn Fn() -> bool + Sync + '_) = ready;
    // SAFETY: only the bound changes. The pointer is followed only while the waiter, which holds
    // the borrow, is parked (W6).
    unsafe { core::mem::transmute(ready) }
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

/// A thread within `wait`.
struct Registered<'a> {
    waiters: &'a Waiters,
    driver: &'a dyn Driver,
    /// Whether it was called to lead, and neither has led since nor found somebody who does.
    called_to_lead: bool,
}

impl<'a> Registered<'a> {
    fn new(waiters: &'a Waiters, driver: &'a dyn Driver) -> Self {
        // Relaxed: ordered by the fence.
        waiters.registered.fetch_add(1, Relaxed);
        // SeqCst: pairs with the fences in `wake` and `recruit` (W1).
        fence(SeqCst);
        Self {
            waiters,
            driver,
            called_to_lead: false,
        }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if self.called_to_lead {
            // Its condition holds, or its time is over: the next one takes its place (W4).
            let bits = hand_over(&mut self.waiters.state.lock(), self.driver);
            self.waiters.bell.ring(bits);
        }
        // Relaxed: a stale count costs a needless look, never a missed one.
        self.waiters.registered.fetch_sub(1, Relaxed);
    }
}

/// The right to touch completions; given up also when a sink panics.
struct Leading<'a> {
    waiters: &'a Waiters,
    driver: &'a dyn Driver,
    /// Who has been called and not rung for yet.
    bits: u32,
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        let bits = {
            let mut state = self.waiters.state.lock();
            state.leading = false;
            state.blocked = false;
            if panicking() {
                // The round was cut short: what it delivered has not been announced.
                self.bits |= advance(&mut state);
            }
            self.bits | hand_over(&mut state, self.driver)
        };
        self.waiters.bell.ring(bits);
    }
}

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use super::*;
    use crate::sync::{AtomicBool, AtomicUsize, thread};

    struct Idle;

    impl Driver for Idle {
        fn has_work(&self) -> bool {
            false
        }

        fn drive(&self, _wait: Wait) -> usize {
            0
        }

        fn kick(&self) {}
    }

    #[test]
    fn wakes_that_change_nothing_for_a_thread_leave_it_asleep() {
        let (waiters, ready, looks) = (
            Waiters::default(),
            AtomicBool::new(false),
            AtomicUsize::new(0),
        );
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                let this = thread::current().id();
                let condition = || {
                    if thread::current().id() == this {
                        looks.fetch_add(1, SeqCst);
                    }
                    ready.load(SeqCst)
                };
                waiters.wait(&Idle, Condition::Shared(&condition), None)
            });
            while waiters.state.lock().parked.is_empty() {
                thread::yield_now();
            }
            let before = looks.load(SeqCst);
            for _ in 0..100 {
                waiters.wake(&Idle);
            }
            assert_eq!(waiters.state.lock().parked.len(), 1, "it was not called");
            assert_eq!(looks.load(SeqCst), before, "it slept");
            ready.store(true, SeqCst);
            waiters.wake(&Idle);
            assert!(sleeper.join().expect("no panic"));
        });
    }

    #[test]
    fn a_condition_that_panics_does_so_in_its_own_thread() {
        let (waiters, armed) = (Waiters::default(), AtomicBool::new(false));
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                let condition = || {
                    if armed.load(SeqCst) {
                        std::panic::resume_unwind(Box::new("on purpose"));
                    }
                    false
                };
                waiters.wait(&Idle, Condition::Shared(&condition), None)
            });
            while waiters.state.lock().parked.is_empty() {
                thread::yield_now();
            }
            armed.store(true, SeqCst);
            waiters.wake(&Idle);
            assert!(sleeper.join().is_err());
        });
        assert!(waiters.state.lock().parked.is_empty());
    }
}
