//! The scenarios of the waiters under schedules drawn from seeds, with more threads than any model.
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

mod scenarios;
#[path = "../src/sync.rs"]
mod sync;
#[path = "../src/waiters.rs"]
mod waiters;

use scenarios::How;

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                esker_schedules::explore("esker-io", stringify!($name), 60, || {
                    for how in How::ALL {
                        scenarios::$name(how);
                    }
                });
            }
        )*

        #[test]
        fn every_scenario_is_here() {
            let all: Vec<_> = scenarios::ALL.iter().map(|(name, _)| *name).collect();
            assert_eq!(all, [$(stringify!($name)),*]);
        }
    };
}

scenarios! {
    a_wake_is_not_lost,
    a_wake_ends_the_wait_of_a_blocked_leader,
    a_leader_that_leaves_hands_over,
    a_submission_finds_a_driver_among_the_parked,
    a_leader_whose_time_is_over_hands_over,
    a_thread_called_to_lead_that_leaves_passes_it_on,
    polling_meets_a_waiter,
    a_condition_of_two_parts_is_met,
}
