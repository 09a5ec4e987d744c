//! [`Turns`]: who leads a commit, and who rides with it.
//!
//! Whoever comes to wait joins a *batch*: the one that is gathering, or the one under way if that
//! takes what it waits for along. One of a batch leads it; the others sleep until its turn has ended,
//! and are woken together.
//!
//! Invariants:
//! - U1. At most `limit` lead at a time.
//! - U2. Whoever sleeps in a batch is woken when the batch's turn ends, or to lead it.
//! - U3. While somebody sleeps in the gathering batch, it is led, or one of the sleepers has been
//!   called to lead it, or `limit` others lead, the first of whom to end calls one. So nobody sleeps
//!   for ever. Whoever is called leads, be it only to find that there is nothing left to do.
//! - U4. A batch is joined under the lock under which it ends: whoever joins it is counted, and so
//!   woken.
//!
//! Who leads whom is decided under one mutex, which is held for a few instructions: when a thread
//! comes, when a batch is closed, and when a turn ends. Threads sleep at one of a few gates, by their
//! batch's number, and one system call wakes them all.

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicUsize, Mutex, Ordering, Watched};

/// Who leads and who rides.
pub(crate) struct Turns {
    limit: usize,
    state: Mutex<State>,
    /// Batch `b` sleeps at gate `b mod n`. There are more of them than batches in which anybody
    /// sleeps, in most cases: two batches at one gate wake each other needlessly, no more.
    gates: Box<[CachePadded<Watched<Gate>>]>,
    /// How many are in the gathering batch. Written under the mutex, read without as a hint.
    present: CachePadded<AtomicUsize>,
    /// How many there were when the last turn ended: those who rode with it, and those in the
    /// gathering batch. Written under the mutex, read without as a hint.
    crowd: AtomicUsize,
}

#[derive(Default)]
struct State {
    leaders: usize,
    /// The number of the batch that is gathering.
    gathering: u64,
    /// How many are in it, whoever leads it among them.
    riders: usize,
    /// Whether somebody leads it, or has been called to.
    is_led: bool,
    /// The batches that are closed and whose turns have not ended, at most `limit`.
    under_way: Vec<UnderWay>,
}

struct UnderWay {
    batch: u64,
    /// Everything below is settled when its turn ends.
    end: u64,
    /// How many are in it, whoever leads it among them.
    riders: usize,
}

/// Where batches sleep.
#[derive(Default)]
struct Gate {
    /// The turns of all batches below have ended, as far as they sleep here.
    ended: u64,
    /// One of this batch is called to lead it.
    called: Option<u64>,
}

/// The right to lead a batch. Dropping it ends the turn.
#[must_use]
pub(crate) struct Turn<'t> {
    turns: &'t Turns,
    batch: u64,
    is_closed: bool,
}

impl Turns {
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        Self {
            limit,
            state: Mutex::new(State::default()),
            gates: (0..limit + 3).map(|_| CachePadded::default()).collect(),
            present: CachePadded::default(),
            crowd: AtomicUsize::new(0),
        }
    }

    /// Joins a batch, to wait for everything below `end` to be settled: returns the right to lead it,
    /// or sleeps until its turn has ended and returns nothing. Then the caller looks, and comes again
    /// if it has to.
    pub(crate) fn take(&self, end: u64) -> Option<Turn<'_>> {
        let batch = {
            let mut state = self.state.lock();
            if let Some(joined) = state.under_way.iter_mut().find(|one| end <= one.end) {
                if !canary!("turns-late-rider-uncounted") {
                    joined.riders += 1;
                }
                joined.batch
            } else {
                state.riders += 1;
                self.publish(&state);
                if !state.is_led && state.leaders < self.limit {
                    state.leaders += 1;
                    state.is_led = true;
                    return Some(self.turn(state.gathering));
                }
                state.gathering
            }
        };
        let is_called = self.gate(batch).wait_for(|gate| {
            if gate.called == Some(batch) {
                gate.called = None;
                return Some(true);
            }
            (gate.ended > batch).then_some(false)
        });
        is_called.then(|| self.turn(batch))
    }

    fn turn(&self, batch: u64) -> Turn<'_> {
        Turn {
            turns: self,
            batch,
            is_closed: false,
        }
    }

    fn gate(&self, batch: u64) -> &Watched<Gate> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "less than the number of gates"
        )]
        let index = (batch % self.gates.len() as u64) as usize;
        &self.gates[index]
    }

    /// Says without the mutex how it is now.
    fn publish(&self, state: &State) {
        // Relaxed: a hint.
        self.present.store(state.riders, Ordering::Relaxed);
    }

    /// How many are in the gathering batch.
    pub(crate) fn present(&self) -> usize {
        // Relaxed: a hint.
        self.present.load(Ordering::Relaxed)
    }

    /// How many may be expected in it: so many were there when the last turn ended.
    pub(crate) fn crowd(&self) -> usize {
        // Relaxed: a hint.
        self.crowd.load(Ordering::Relaxed)
    }

    /// Ends the turn of a batch that is closed.
    fn end(&self, batch: u64) {
        let (riders, heirs) = {
            let mut state = self.state.lock();
            let ended = state.under_way.iter().position(|one| one.batch == batch);
            let riders = ended.map_or(0, |index| state.under_way.swap_remove(index).riders);
            // Relaxed: a hint.
            self.crowd.store(riders + state.riders, Ordering::Relaxed);
            state.leaders -= 1;
            let is_orphaned = state.riders > 0 && !state.is_led;
            let calls = is_orphaned && !canary!("turns-no-heir");
            if calls {
                state.leaders += 1;
                state.is_led = true;
            }
            (riders, calls.then_some(state.gathering))
        };
        // It comes first: it has work to do while the others wake.
        if let Some(heirs) = heirs {
            self.gate(heirs).wake_one(|gate| gate.called = Some(heirs));
        }
        // Whoever leads does not sleep.
        if riders > 1 {
            self.gate(batch)
                .wake_all(|gate| gate.ended = gate.ended.max(batch + 1));
        }
    }
}

impl Turn<'_> {
    /// Closes the batch: whoever comes from now on is in the next one, unless what it waits for lies
    /// below `end`, up to which everything is settled when this turn ends. Only the first call counts.
    pub(crate) fn close(&mut self, end: u64) {
        if self.is_closed {
            return;
        }
        self.is_closed = true;
        let mut state = self.turns.state.lock();
        let riders = state.riders;
        state.under_way.push(UnderWay {
            batch: self.batch,
            end,
            riders,
        });
        state.gathering += 1;
        state.riders = 0;
        state.is_led = false;
        self.turns.publish(&state);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.close(0);
        self.turns.end(self.batch);
    }
}

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    /// Waits, for a bounded time, until so many are in the gathering batch.
    fn await_present(turns: &Turns, riders: usize) {
        let start = Instant::now();
        while turns.present() != riders {
            assert!(start.elapsed() < Duration::from_secs(60), "nobody comes");
            thread::yield_now();
        }
    }

    #[test]
    fn as_many_lead_as_the_limit_says() {
        let turns = Turns::new(2);
        let mut one = turns.take(10).expect("nobody leads");
        one.close(10);
        let mut two = turns.take(20).expect("one more may lead");
        two.close(20);
        thread::scope(|scope| {
            let third = scope.spawn(|| turns.take(30).is_some());
            await_present(&turns, 1);
            drop(one);
            assert!(third.join().expect("no panic"), "it is called to lead");
        });
        drop(two);
        assert!(turns.take(40).is_some());
    }

    #[test]
    fn a_batch_has_one_leader() {
        let turns = Turns::new(2);
        // More often than there are gates, squared.
        for _ in 0..30 {
            let turn = turns.take(10).expect("nobody leads");
            assert_eq!(turns.present(), 1, "whoever leads is there too");
            thread::scope(|scope| {
                let other = scope.spawn(|| turns.take(20).is_none());
                await_present(&turns, 2);
                drop(turn);
                assert!(other.join().expect("no panic"), "it rode with the batch");
            });
            assert_eq!(turns.crowd(), 2);
        }
    }

    #[test]
    fn a_batch_that_is_led_calls_nobody_else_when_another_turn_ends() {
        let turns = Turns::new(2);
        let mut one = turns.take(10).expect("nobody leads");
        one.close(10);
        let mut two = turns.take(20).expect("one more may lead");
        two.close(20);
        let (leads, leading) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let turns = &turns;
            scope.spawn(move || {
                let _turn = turns.take(30).expect("it is called to lead");
                leads.send(()).expect("it is waited for");
                // Until the other side is dropped.
                let _over = ended.recv();
            });
            await_present(turns, 1);
            drop(one);
            leading.recv().expect("it leads");
            drop(two);
            let rider = scope.spawn(|| turns.take(40).is_none());
            await_present(turns, 2);
            drop(end);
            assert!(rider.join().expect("no panic"), "two led one batch");
        });
    }

    #[test]
    fn those_who_come_late_ride_along_or_gather_for_the_next() {
        let turns = Turns::new(1);
        let mut turn = turns.take(5).expect("nobody leads");
        turn.close(20);
        assert_eq!(turns.present(), 0, "the next batch is empty");
        let served = AtomicUsize::new(0);
        thread::scope(|scope| {
            for end in [10, 20] {
                let (turns, served) = (&turns, &served);
                scope.spawn(move || {
                    assert!(turns.take(end).is_none());
                    served.fetch_add(1, Ordering::Relaxed);
                });
            }
            let next = scope.spawn(|| {
                let turn = turns.take(21);
                turn.map(|_turn| turns.crowd())
            });
            await_present(&turns, 1);
            let start = Instant::now();
            while turns
                .state
                .lock()
                .under_way
                .iter()
                .all(|one| one.riders < 3)
            {
                assert!(start.elapsed() < Duration::from_secs(60), "nobody comes");
                thread::yield_now();
            }
            assert_eq!(served.load(Ordering::Relaxed), 0);
            drop(turn);
            let crowd = next.join().expect("no panic");
            assert_eq!(crowd, Some(4), "it is called to lead");
        });
        assert_eq!(served.load(Ordering::Relaxed), 2);
        assert_eq!(turns.crowd(), 1, "the last turn was the heir's");
    }
}
