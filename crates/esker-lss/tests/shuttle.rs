//! The scenarios of the stable-prefix tracker and of the turns of group commit under schedules
//! drawn from seeds, longer than any model. Compiled to nothing without `--cfg esker_shuttle`:
//!
//! ```text
//! cargo xtask shuttle --package esker-lss
//! ```
#![cfg(esker_shuttle)]
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
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
#[path = "../src/turns.rs"]
mod turns;

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                esker_schedules::explore("esker-lss", stringify!($name), 30, scenarios::$name);
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
    no_advance_is_lost_when_two_complete_at_once,
    no_advance_is_lost_when_three_complete_at_once,
    no_advance_is_lost_when_the_array_is_used_again,
    a_buffer_completed_twice_moves_nothing_back,
    what_lies_below_the_prefix_has_happened,
    what_others_have_passed_has_happened,
    an_end_is_of_its_buffer,
    what_is_acknowledged_has_happened,
    a_mark_is_of_one_moment,
    a_mark_is_of_the_last_that_was_passed,
    nobody_waits_for_ever_when_one_leads,
    nobody_waits_for_ever_when_two_lead,
    whoever_wants_less_is_served_by_whoever_wants_more,
    whoever_is_called_to_lead_and_need_not_lets_the_others_go_on,
    whoever_comes_late_rides_with_the_batch_under_way,
    whoever_rides_with_one_of_two_batches_is_woken_by_that_one,
    no_sync_is_missed_when_another_is_faster,
    nothing_is_kept_when_nobody_follows,
    a_follower_finds_what_was_written_where_it_looks,
}
