//! Models of how waiting threads pass the driving on, over the real code of `waiters.rs`, and of
//! how a pool's threads find their jobs, over that of `pool.rs`, and an issuer what others have for
//! it, over that of `handover.rs`. Compiled to nothing without
//! `--cfg esker_loom`:
//!
//! ```text
//! RUSTFLAGS="--cfg esker_loom" cargo test --release -p esker-io --test loom
//! ```
//!
//! With `--cfg esker_canary` besides, and `ESKER_CANARY=NAME` in the environment for a canary of
//! one of them, this has to fail. A lost wake-up shows as a deadlock.
#![cfg(esker_loom)]
#![allow(
    dead_code,
    unused_imports,
    reason = "the modules are included as they are"
)]

#[macro_use]
#[path = "../src/canary.rs"]
mod canary;

#[path = "../src/handover.rs"]
mod handover;
#[path = "../src/pool.rs"]
mod pool;
mod scenarios;
#[path = "../src/sync.rs"]
mod sync;
#[path = "../src/waiters.rs"]
mod waiters;

use scenarios::How;

/// Explores with at most `preemptions` unless `LOOM_MAX_PREEMPTIONS` says otherwise.
fn model(name: &str, preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = 20_000;
    let explored = std::sync::Arc::new(AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&explored);
    builder.check(move || {
        count.fetch_add(1, Relaxed);
        scenario();
    });
    println!("{name}: {} interleavings", explored.load(Relaxed));
}

/// Those of the waiters are explored for either kind of condition.
macro_rules! models {
    (waiters { $($waiting:ident: $bound:literal,)* } pool { $($name:ident: $preemptions:literal,)* } handover { $($handing:ident: $most:literal,)* }) => {
        $(
            #[test]
            fn $waiting() {
                for how in How::ALL {
                    model(stringify!($waiting), $bound, move || scenarios::$waiting(how));
                }
            }
        )*
        $(
            #[test]
            fn $name() {
                model(stringify!($name), $preemptions, scenarios::pool::$name);
            }
        )*
        $(
            #[test]
            fn $handing() {
                model(stringify!($handing), $most, scenarios::handover::$handing);
            }
        )*

        #[test]
        fn every_scenario_is_a_model() {
            let all: Vec<_> = scenarios::ALL.iter().map(|(name, _)| *name).collect();
            assert_eq!(all, [$(stringify!($waiting)),*]);
            let all: Vec<_> = scenarios::pool::ALL.iter().map(|(name, _)| *name).collect();
            assert_eq!(all, [$(stringify!($name)),*]);
            let all: Vec<_> = scenarios::handover::ALL.iter().map(|(name, _)| *name).collect();
            assert_eq!(all, [$(stringify!($handing)),*]);
        }
    };
}

models! {
    waiters {
        a_wake_is_not_lost: 4,
        a_wake_ends_the_wait_of_a_blocked_leader: 4,
        a_leader_that_leaves_hands_over: 3,
        a_submission_finds_a_driver_among_the_parked: 3,
        a_leader_whose_time_is_over_hands_over: 3,
        a_thread_called_to_lead_that_leaves_passes_it_on: 3,
        polling_meets_a_waiter: 3,
        a_condition_of_two_parts_is_met: 3,
    }
    pool {
        one_thread_runs_every_job_once: 3,
        two_threads_run_every_job_once: 2,
        a_sleeping_thread_is_woken_for_a_job: 3,
    }
    handover {
        what_two_threads_hand_over_is_taken_once: 3,
        a_taker_ends_after_what_is_in_flight: 3,
        what_comes_after_the_end_is_given_back: 3,
    }
}
