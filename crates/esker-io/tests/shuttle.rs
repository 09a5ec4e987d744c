//! The scenarios of the waiters, of the pool and of an issuer's hand-over under schedules drawn from seeds, with more threads than any model.
//! Compiled to nothing without `--cfg esker_shuttle`:
//!
//! ```text
//! cargo xtask shuttle --package esker-io
//! ```
#![cfg(esker_shuttle)]
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

/// Those of the waiters run for either kind of condition.
macro_rules! scenarios {
    (waiters { $($waiting:ident,)* } pool { $($name:ident,)* } handover { $($handing:ident,)* }) => {
        $(
            #[test]
            fn $waiting() {
                esker_schedules::explore("esker-io", stringify!($waiting), 60, || {
                    for how in How::ALL {
                        scenarios::$waiting(how);
                    }
                });
            }
        )*
        $(
            #[test]
            fn $name() {
                esker_schedules::explore("esker-io", stringify!($name), 60, scenarios::pool::$name);
            }
        )*
        $(
            #[test]
            fn $handing() {
                let scenario = scenarios::handover::$handing;
                esker_schedules::explore("esker-io", stringify!($handing), 60, scenario);
            }
        )*

        #[test]
        fn every_scenario_is_here() {
            let all: Vec<_> = scenarios::ALL.iter().map(|(name, _)| *name).collect();
            assert_eq!(all, [$(stringify!($waiting)),*]);
            let all: Vec<_> = scenarios::pool::ALL.iter().map(|(name, _)| *name).collect();
            assert_eq!(all, [$(stringify!($name)),*]);
            let all: Vec<_> = scenarios::handover::ALL.iter().map(|(name, _)| *name).collect();
            assert_eq!(all, [$(stringify!($handing)),*]);
        }
    };
}

scenarios! {
    waiters {
        a_wake_is_not_lost,
        a_wake_ends_the_wait_of_a_blocked_leader,
        a_leader_that_leaves_hands_over,
        a_submission_finds_a_driver_among_the_parked,
        a_leader_whose_time_is_over_hands_over,
        a_thread_called_to_lead_that_leaves_passes_it_on,
        polling_meets_a_waiter,
        a_condition_of_two_parts_is_met,
    }
    pool {
        one_thread_runs_every_job_once,
        two_threads_run_every_job_once,
        a_sleeping_thread_is_woken_for_a_job,
    }
    handover {
        what_two_threads_hand_over_is_taken_once,
        a_taker_ends_after_what_is_in_flight,
        what_comes_after_the_end_is_given_back,
    }
}
