//! Models of how waiting threads pass the driving on, over the real code of `waiters.rs`. Compiled
//! to nothing without `--cfg esker_loom`:
//!
//! ```text
//! RUSTFLAGS="--cfg esker_loom" cargo test --release -p esker-io --test loom
//! ```
//!
//! With `--cfg esker_canary="NAME"` besides, for a canary of the waiters, this has to fail. A lost
//! wake-up shows as a deadlock.
#![cfg(esker_loom)]
#![allow(
    dead_code,
    unused_imports,
    reason = "the modules are included as they are"
)]

mod scenarios;
#[path = "../src/sync.rs"]
mod sync;
#[path = "../src/waiters.rs"]
mod waiters;

use scenarios::How;

/// Explores with at most `preemptions` unless `LOOM_MAX_PREEMPTIONS` says otherwise, for either
/// kind of condition.
fn model(name: &str, preemptions: usize, scenario: fn(How)) {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    for how in How::ALL {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound.get_or_insert(preemptions);
        builder.max_branches = 20_000;
        let explored = std::sync::Arc::new(AtomicUsize::new(0));
        let count = std::sync::Arc::clone(&explored);
        builder.check(move || {
            count.fetch_add(1, Relaxed);
            scenario(how);
        });
        println!("{name}: {} interleavings", explored.load(Relaxed));
    }
}

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
    a_wake_is_not_lost: 4,
    a_wake_ends_the_wait_of_a_blocked_leader: 4,
    a_leader_that_leaves_hands_over: 3,
    a_submission_finds_a_driver_among_the_parked: 3,
    a_leader_whose_time_is_over_hands_over: 3,
    a_thread_called_to_lead_that_leaves_passes_it_on: 3,
    polling_meets_a_waiter: 3,
    a_condition_of_two_parts_is_met: 3,
}
