//! [`Turns`]: who leads a commit, and who waits for it.
//!
//! Invariants:
//! - U1. At most `limit` lead at a time.
//! - U2. Whoever is told to wait is woken exactly once, by a leader that ends its turn: because
//!   what it waits for has been reached, or because it is its turn to lead.
//! - U3. While somebody waits, somebody leads, or somebody who was woken has not looked yet. So
//!   nobody waits for ever. Whoever was woken and finds that it need not lead any more, because
//!   what it waits for has been reached meanwhile, wakes the next.
//!
//! All of it is decided under one mutex, which is held for a few instructions, once when a thread
//! comes to wait and once when a turn ends. Threads are woken outside of it.

use std::collections::VecDeque;

use crate::sync::{AtomicUsize, Mutex, Ordering, Unparker};

/// Who leads and who waits.
pub(crate) struct Turns {
    limit: usize,
    state: Mutex<State>,
    /// How many lead now. Written under the mutex, read without by those who were woken.
    leaders: AtomicUsize,
    /// How many lead or wait now. Written under the mutex, read without as a hint.
    present: AtomicUsize,
    /// How many led or waited when the last turn ended: those whom it served and those whom it did
    /// not. Written under the mutex, read without as a hint.
    crowd: AtomicUsize,
}

#[derive(Default)]
struct State {
    leaders: usize,
    /// In the order in which they came.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    /// What is waited for: that everything below has been reached.
    end: u64,
    unparker: Unparker,
}

impl Waiting {
    fn wake(self) {
        self.unparker.unpark();
    }
}

impl State {
    fn present(&self) -> usize {
        self.leaders + self.waiting.len()
    }

    /// Takes those off the list who are to be woken when everything below `reached` is settled: one
    /// to lead, if anybody is left, and those who waited for that.
    fn settle(&mut self, reached: u64) -> VecDeque<Waiting> {
        let waiting = std::mem::take(&mut self.waiting);
        let (mut served, left): (VecDeque<_>, VecDeque<_>) = waiting
            .into_iter()
            .partition(|waiter| waiter.end <= reached);
        self.waiting = left;
        if !cfg!(esker_canary = "turns-no-heir") {
            // It comes first: it has work to do while the others wake.
            if let Some(next) = self.waiting.pop_front() {
                served.push_front(next);
            }
        }
        served
    }
}

/// The right to lead. Dropping it ends the turn with nothing reached.
#[must_use]
pub(crate) struct Turn<'t> {
    turns: &'t Turns,
}

impl Turns {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            state: Mutex::new(State::default()),
            leaders: AtomicUsize::new(0),
            present: AtomicUsize::new(0),
            crowd: AtomicUsize::new(0),
        }
    }

    /// The right to lead, if there is room. Else the caller is on the list, waiting for `end`, and
    /// has to park: `unparker` is called once. Then it comes here again, or calls
    /// [`leave`](Self::leave).
    pub(crate) fn take(&self, end: u64, unparker: &Unparker) -> Option<Turn<'_>> {
        let mut state = self.state.lock();
        let leads = state.leaders < self.limit;
        if leads {
            state.leaders += 1;
        } else {
            state.waiting.push_back(Waiting {
                end,
                unparker: unparker.clone(),
            });
        }
        self.publish(&state);
        leads.then(|| Turn { turns: self })
    }

    /// Says without the mutex how it is now.
    fn publish(&self, state: &State) {
        // Relaxed: whoever was woken sees what was stored before that, or later; else hints.
        self.leaders.store(state.leaders, Ordering::Relaxed);
        self.present.store(state.present(), Ordering::Relaxed);
    }

    /// A thread that was woken goes without leading: everything below `reached` is settled, what it
    /// waited for included. It may have been woken to lead, so that nobody does.
    pub(crate) fn leave(&self, reached: u64) {
        // Relaxed: a leader that is seen here leads after this thread was woken, and wakes the next
        // at the end of its turn.
        let is_led = self.leaders.load(Ordering::Relaxed) > 0;
        if is_led || cfg!(esker_canary = "turns-heir-leaves") {
            return;
        }
        let mut state = self.state.lock();
        if state.leaders == 0 {
            let woken = state.settle(reached);
            self.publish(&state);
            drop(state);
            woken.into_iter().for_each(Waiting::wake);
        }
    }

    /// How many lead or wait now.
    pub(crate) fn present(&self) -> usize {
        self.present.load(Ordering::Relaxed)
    }

    /// How many may be expected: so many were there when the last turn ended.
    pub(crate) fn crowd(&self) -> usize {
        self.crowd.load(Ordering::Relaxed)
    }

    /// Ends a turn: wakes whoever waits for something below `reached`, and one more to lead.
    fn end(&self, reached: u64) {
        let woken = {
            let mut state = self.state.lock();
            self.crowd.store(state.present(), Ordering::Relaxed);
            state.leaders -= 1;
            let woken = state.settle(reached);
            self.publish(&state);
            woken
        };
        woken.into_iter().for_each(Waiting::wake);
    }
}

impl Turn<'_> {
    /// Ends the turn. Everything below `reached` is settled: those who wait for it are woken.
    pub(crate) fn end(self, reached: u64) {
        let turns = self.turns;
        std::mem::forget(self);
        turns.end(reached);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.end(0);
    }
}

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use super::*;
    use crate::sync::Parker;

    #[test]
    fn as_many_lead_as_the_limit_says() {
        let turns = Turns::new(2);
        let parker = Parker::new();
        let one = turns.take(10, parker.unparker());
        let two = turns.take(10, parker.unparker());
        assert!(one.is_some() && two.is_some());
        assert!(turns.take(10, parker.unparker()).is_none());
        drop(one);
        // The one that waits was woken to lead, and is off the list.
        parker.park();
        assert!(turns.take(10, parker.unparker()).is_some());
        drop(two);
    }

    #[test]
    fn those_who_are_served_are_woken_and_one_more_to_lead() {
        let turns = Turns::new(1);
        let parkers: Vec<Parker> = (0..4).map(|_| Parker::new()).collect();
        let turn = turns.take(5, parkers[0].unparker()).expect("there is room");
        for (parker, end) in parkers.iter().zip([10, 20, 30, 40]) {
            assert!(turns.take(end, parker.unparker()).is_none());
        }
        turn.end(20);
        // 10 and 20 are served, 30 is the next in line, 40 waits on.
        for parker in &parkers[..3] {
            parker.park();
        }
        let left: Vec<u64> = turns
            .state
            .lock()
            .waiting
            .iter()
            .map(|waiter| waiter.end)
            .collect();
        assert_eq!(left, [40]);
    }
}
