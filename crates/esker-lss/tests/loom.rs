//! Models of the stable-prefix tracker, of what a success waits for, of the turns of group commit, of
//! the futures that wait and of what is kept for those who follow, over their real code. Built only
//! with `--cfg esker_loom`.
//!
//! Each says within which bound on preemptions; `LOOM_MAX_PREEMPTIONS` overrides them all.
#![cfg(esker_loom)]
#![allow(
    dead_code,
    unused_imports,
    reason = "the modules are included as they are"
)]

#[macro_use]
#[path = "../src/canary.rs"]
mod canary;

#[path = "../src/durable.rs"]
mod durable;
#[path = "../src/fresh.rs"]
mod fresh;
mod scenarios;
#[path = "../src/stability.rs"]
mod stability;
#[path = "../src/sync.rs"]
mod sync;
#[path = "../src/syncing.rs"]
mod syncing;
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

/// The first buffer of each model: its place is not the array's first.
const START: u64 = 3;

macro_rules! models {
    ($($name:ident: $preemptions:literal),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                model(stringify!($name), $preemptions, scenarios::$name);
            }
        )*

        #[test]
        fn every_scenario_is_a_model() {
            let all: Vec<_> = scenarios::ALL.iter().map(|(name, _)| *name).collect();
            assert_eq!(all, [$(stringify!($name)),*]);
        }
    };
}

models! {
    no_advance_is_lost_when_two_complete_at_once: 2,
    no_advance_is_lost_when_three_complete_at_once: 1,
    no_advance_is_lost_when_the_array_is_used_again: 2,
    a_buffer_completed_twice_moves_nothing_back: 2,
    what_lies_below_the_prefix_has_happened: 2,
    what_others_have_passed_has_happened: 2,
    an_end_is_of_its_buffer: 2,
    what_is_acknowledged_has_happened: 2,
    a_mark_is_of_one_moment: 2,
    a_mark_is_of_the_last_that_was_passed: 2,
    nobody_waits_for_ever_when_one_leads: 2,
    nobody_waits_for_ever_when_two_lead: 2,
    whoever_wants_less_is_served_by_whoever_wants_more: 2,
    whoever_is_called_to_lead_and_need_not_lets_the_others_go_on: 2,
    whoever_comes_late_rides_with_the_batch_under_way: 2,
    whoever_rides_with_one_of_two_batches_is_woken_by_that_one: 2,
    no_sync_is_missed_when_another_is_faster: 2,
    nothing_is_kept_when_nobody_follows: 2,
    a_follower_finds_what_was_written_where_it_looks: 2,
}

/// Explores a scenario, with at most `preemptions` of them unless `LOOM_MAX_PREEMPTIONS` says
/// otherwise, and says how many interleavings that were.
fn model(name: &str, preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    let explored = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&explored);
    builder.check(move || {
        // Relaxed: loom runs the interleavings one after the other.
        count.fetch_add(1, Ordering::Relaxed);
        scenario();
    });
    println!("{name}: {} interleavings", explored.load(Ordering::Relaxed));
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
fn nothing_lost_counts(name: &str, flights: usize) {
    model(name, 2, move || {
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
    nothing_lost_counts(
        "of_two_in_flight_the_one_that_succeeds_does_not_make_good_what_the_other_was_told",
        2,
    );
}

#[test]
fn of_three_in_flight_none_makes_good_what_one_was_told() {
    nothing_lost_counts("of_three_in_flight_none_makes_good_what_one_was_told", 3);
}

/// Every success counts in the end, and `moved` is reported by whoever made it count.
#[test]
fn no_success_is_held_back_for_ever() {
    model("no_success_is_held_back_for_ever", 2, || {
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
    model("a_future_is_woken_whenever_the_prefix_moves", 2, || {
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
    const NAME: &str = "the_committer_serves_whoever_comes_and_ends_with_the_store";
    model(NAME, 2, || {
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
    model("a_future_is_woken_when_the_store_ends", 2, || {
        let tasks = Arc::new(Tasks::default());
        let future = {
            let tasks = Arc::clone(&tasks);
            thread::spawn(move || assert!(!waits(&tasks, &AtomicU64::new(0), 10)))
        };
        tasks.close();
        future.join().expect("no panic");
    });
}
