//! Models of the stable-prefix tracker, of what a success waits for, of the turns of group commit and
//! of the futures that wait, over their real code. Built only with `--cfg esker_loom`.
//!
//! Each runs every interleaving that loom can reach within `LOOM_MAX_PREEMPTIONS`.
#![cfg(esker_loom)]
#![allow(
    dead_code,
    unused_imports,
    reason = "the modules are included as they are"
)]

#[path = "../src/durable.rs"]
mod durable;
#[path = "../src/stability.rs"]
mod stability;
#[path = "../src/sync.rs"]
mod sync;
#[path = "../src/tasks.rs"]
mod tasks;
#[path = "../src/turns.rs"]
mod turns;

use durable::Durable;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use loom::thread;
use stability::Frontier;
use sync::Parker;
use tasks::Tasks;
use turns::Turns;

/// The first buffer of each model: its place is not the array's first.
const START: u64 = 3;

/// Completes each list of buffers (counted from `START`) in a thread of its own, each buffer when
/// the window admits it, and looks at the prefix once all are done.
fn completes_all(window: u64, lists: &'static [&'static [u64]]) {
    loom::model(move || {
        let frontier = Arc::new(Frontier::new(window as usize, START, START * 10));
        let threads: Vec<_> = lists
            .iter()
            .map(|list| {
                let frontier = Arc::clone(&frontier);
                thread::spawn(move || {
                    let mut completed = Vec::new();
                    for seq in list.iter().map(|seq| START + seq) {
                        let before = (frontier.next(), frontier.lsn());
                        if seq < frontier.next() + window {
                            frontier.complete(seq, (seq + 1) * 10);
                            completed.push(seq);
                        }
                        let after = (frontier.next(), frontier.lsn());
                        assert!(before.0 <= after.0 && before.1 <= after.1, "moved back");
                        assert!(after.0 <= frontier.next(), "moved back while nobody looked");
                    }
                    completed
                })
            })
            .collect();
        let completed: Vec<u64> = threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("no panic"))
            .collect();
        let next = (START..)
            .find(|seq| !completed.contains(seq))
            .expect("an end");
        assert_eq!(
            frontier.next(),
            next,
            "an advance was lost, or came too early"
        );
        assert_eq!(
            frontier.lsn(),
            next * 10,
            "the address is not the prefix's end"
        );
    });
}

#[test]
fn no_advance_is_lost_when_two_complete_at_once() {
    completes_all(2, &[&[0], &[1]]);
}

#[test]
fn no_advance_is_lost_when_three_complete_at_once() {
    completes_all(3, &[&[2], &[1], &[0]]);
}

#[test]
fn no_advance_is_lost_when_the_array_is_used_again() {
    completes_all(2, &[&[0, 2], &[1, 3]]);
}

#[test]
fn a_buffer_completed_twice_moves_nothing_back() {
    completes_all(2, &[&[0, 1], &[0, 1]]);
}

#[test]
fn what_lies_below_the_prefix_has_happened() {
    loom::model(|| {
        let frontier = Arc::new(Frontier::new(2, 0, 0));
        let payload = Arc::new(loom::cell::UnsafeCell::new(0u64));
        let writer = {
            let (frontier, payload) = (Arc::clone(&frontier), Arc::clone(&payload));
            thread::spawn(move || {
                // SAFETY: the reader looks only once the prefix has passed buffer 0, which happens
                // after this; loom reports the race if that does not hold.
                payload.with_mut(|payload| unsafe { *payload = 7 });
                frontier.complete(0, 10);
            })
        };
        let other = {
            let frontier = Arc::clone(&frontier);
            thread::spawn(move || frontier.complete(1, 20))
        };
        if frontier.lsn() >= 10 {
            // SAFETY: as above.
            assert_eq!(payload.with(|payload| unsafe { *payload }), 7);
        }
        writer.join().expect("no panic");
        other.join().expect("no panic");
    });
}

/// Threads that each wait for an address to be reached; whoever leads moves it on by as much as it
/// finds wanted. Loom reports a thread that waits for ever.
fn all_are_served(limit: usize, ends: &'static [u64]) {
    loom::model(move || {
        let turns = Arc::new(Turns::new(limit));
        let reached = Arc::new(AtomicU64::new(0));
        let leading = Arc::new(AtomicUsize::new(0));
        let serve = move |turns: &Turns, reached: &AtomicU64, leading: &AtomicUsize, end: u64| {
            let parker = Parker::new();
            while reached.load(Ordering::Acquire) < end {
                match turns.take(end, parker.unparker()) {
                    None => parker.park(),
                    Some(turn) => {
                        assert!(
                            leading.fetch_add(1, Ordering::SeqCst) < limit,
                            "too many lead"
                        );
                        let before = reached.fetch_max(end, Ordering::AcqRel);
                        leading.fetch_sub(1, Ordering::SeqCst);
                        turn.end(before.max(end));
                    }
                }
            }
        };
        let threads: Vec<_> = ends[1..]
            .iter()
            .map(|&end| {
                let (turns, reached) = (Arc::clone(&turns), Arc::clone(&reached));
                let leading = Arc::clone(&leading);
                thread::spawn(move || serve(&turns, &reached, &leading, end))
            })
            .collect();
        serve(&turns, &reached, &leading, ends[0]);
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert!(
            ends.iter()
                .all(|&end| end <= reached.load(Ordering::Acquire))
        );
    });
}

#[test]
fn nobody_waits_for_ever_when_one_leads() {
    all_are_served(1, &[10, 20, 30]);
}

#[test]
fn nobody_waits_for_ever_when_two_lead() {
    all_are_served(2, &[10, 20, 30]);
}

#[test]
fn whoever_wants_less_is_served_by_whoever_wants_more() {
    all_are_served(1, &[30, 10, 20]);
}

/// A disk that has failed, and tells one of those who ask.
struct Disk {
    failure: AtomicUsize,
}

impl Disk {
    /// What the system answers to somebody who makes something durable.
    fn asks(&self) -> bool {
        self.failure.swap(0, Ordering::AcqRel) == 0
    }
}

/// Flights that each cover buffer `START`, which the disk has lost: nobody may count it.
fn nothing_lost_counts(flights: usize) {
    loom::model(move || {
        let durable = Arc::new(Durable::new(2, START, START * 10));
        let disk = Arc::new(Disk {
            failure: AtomicUsize::new(1),
        });
        let flies = |durable: &Durable, disk: &Disk| {
            let flight = durable.begin();
            if disk.asks() {
                durable.end(flight, |confirmed| {
                    confirmed.complete(START, (START + 1) * 10);
                });
            } else {
                durable.freeze();
                durable.end(flight, |_| {});
            }
            // A flight that begins when the failure has been dealt with covers nothing either.
            assert_eq!(durable.lsn(), START * 10, "what is lost was acknowledged");
        };
        let threads: Vec<_> = (1..flights)
            .map(|_| {
                let (durable, disk) = (Arc::clone(&durable), Arc::clone(&disk));
                thread::spawn(move || flies(&durable, &disk))
            })
            .collect();
        flies(&durable, &disk);
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert_eq!(
            (durable.next(), durable.lsn()),
            (START, START * 10),
            "what is lost was acknowledged"
        );
    });
}

#[test]
fn of_two_in_flight_the_one_that_succeeds_does_not_make_good_what_the_other_was_told() {
    nothing_lost_counts(2);
}

#[test]
fn of_three_in_flight_none_makes_good_what_one_was_told() {
    nothing_lost_counts(3);
}

/// Every success counts in the end, and `moved` is reported by whoever made it count.
#[test]
fn no_success_is_held_back_for_ever() {
    loom::model(|| {
        let durable = Arc::new(Durable::new(3, START, START * 10));
        let lands = |durable: &Durable, seq: u64| {
            let flight = durable.begin();
            durable.end(flight, |confirmed| {
                confirmed.complete(seq, (seq + 1) * 10);
            })
        };
        let threads: Vec<_> = (1..3)
            .map(|index| {
                let durable = Arc::clone(&durable);
                thread::spawn(move || lands(&durable, START + index))
            })
            .collect();
        let mut moved = lands(&durable, START);
        for thread in threads {
            moved |= thread.join().expect("no panic");
        }
        assert!(moved, "nobody was told");
        assert_eq!(
            (durable.next(), durable.lsn()),
            (START + 3, (START + 3) * 10)
        );
    });
}

/// A waker that leaves a token.
struct Token(sync::Unparker);

impl std::task::Wake for Token {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

/// What a future does until `end` is reached: enters, looks, sleeps.
fn waits(tasks: &Tasks, reached: &AtomicU64, end: u64) -> bool {
    let parker = Parker::new();
    let waker = std::task::Waker::from(std::sync::Arc::new(Token(parker.unparker().clone())));
    let mut place = None;
    loop {
        if reached.load(Ordering::Acquire) >= end {
            tasks.leave(&mut place);
            return true;
        }
        if !tasks.enter(&mut place, end, &waker) {
            return reached.load(Ordering::Acquire) >= end;
        }
        if reached.load(Ordering::Acquire) < end {
            parker.park();
        }
    }
}

/// Loom reports a future that is never woken.
#[test]
fn a_future_is_woken_whenever_the_prefix_moves() {
    loom::model(|| {
        let tasks = Arc::new(Tasks::default());
        let reached = Arc::new(AtomicU64::new(0));
        let future = {
            let (tasks, reached) = (Arc::clone(&tasks), Arc::clone(&reached));
            thread::spawn(move || assert!(waits(&tasks, &reached, 10)))
        };
        for lsn in [5, 10] {
            reached.store(lsn, Ordering::Release);
            tasks.reached(lsn);
        }
        future.join().expect("no panic");
    });
}

/// Loom reports a committer that sleeps while somebody is here.
#[test]
fn the_committer_serves_whoever_comes_and_ends_with_the_store() {
    loom::model(|| {
        let tasks = Arc::new(Tasks::default());
        let reached = Arc::new(AtomicU64::new(0));
        let committer = {
            let (tasks, reached) = (Arc::clone(&tasks), Arc::clone(&reached));
            thread::spawn(move || {
                let parker = Parker::new();
                while let Some(end) = tasks.await_wanted(&parker) {
                    reached.fetch_max(end, Ordering::AcqRel);
                    tasks.reached(end);
                }
            })
        };
        let other = {
            let (tasks, reached) = (Arc::clone(&tasks), Arc::clone(&reached));
            thread::spawn(move || assert!(waits(&tasks, &reached, 20)))
        };
        assert!(waits(&tasks, &reached, 10));
        other.join().expect("no panic");
        tasks.close();
        committer.join().expect("no panic");
        assert_eq!(tasks.present(), 0);
    });
}

/// Loom reports a future that outlives the store asleep.
#[test]
fn a_future_is_woken_when_the_store_ends() {
    loom::model(|| {
        let tasks = Arc::new(Tasks::default());
        let future = {
            let tasks = Arc::clone(&tasks);
            thread::spawn(move || assert!(!waits(&tasks, &AtomicU64::new(0), 10)))
        };
        tasks.close();
        future.join().expect("no panic");
    });
}
