//! The scenarios under schedules drawn from seeds, longer than any model. Compiled to nothing
//! without `--cfg esker_shuttle`:
//!
//! ```text
//! cargo xtask shuttle --package esker-ring
//! ```
#![cfg(esker_shuttle)]

mod scenarios;

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                esker_schedules::explore("esker-ring", stringify!($name), 30, scenarios::$name);
            }
        )*

        #[test]
        fn every_scenario_is_here() {
            let all = scenarios::ALL.iter().chain(scenarios::LARGE);
            let all: Vec<_> = all.map(|(name, _)| *name).collect();
            assert_eq!(all, [$(stringify!($name)),*]);
        }
    };
}

scenarios! {
    two_writers_and_a_seal_hand_over_once,
    crossing_writers_lose_no_record,
    two_seals_seal_once,
    a_stale_thread_meets_a_later_tenancy,
    a_full_ring_wakes_its_waiter,
    two_recyclers_and_a_waiter,
    sealer_and_recycler_open_between_them,
    a_slow_flush_holds_up_only_its_slot,
    a_dropped_reservation_leaves_an_orphan,
    an_orphan_wakes_its_waiter,
    an_extent_meets_a_writer_in_an_empty_buffer,
    an_extent_meets_a_writer_in_a_used_buffer,
    two_extents_take_two_numbers,
    an_extent_waits_for_its_slot,
    raising_the_limit_races_closing,
    raising_the_limit_races_recycling,
    a_pin_races_a_writer_and_a_seal,
    the_tail_covers_what_was_reserved,
    a_lease_meets_a_seal,
    two_leases_and_a_seal,
    crossing_revokes_an_idle_lease,
    dropping_an_appender_races_a_seal,
    two_revokers_close_a_lease_once,
    a_pin_sees_the_records_of_a_revoked_lease,
    a_leased_record_is_dropped,
    an_extent_revokes_a_lease,
    a_lease_of_a_past_tenancy_is_not_used,
    a_full_ring_wakes_its_appender,
    a_batch_meets_a_seal,
    a_latecomer_meets_the_next_tenancy,
    the_last_one_out_meets_a_latecomer,
    a_seal_waits_for_a_crosser,
    an_exact_fill_is_sealed_once,
    a_late_seal_meets_the_same_word,
    a_late_pin_meets_the_same_word,
    a_late_extent_meets_the_same_word,
    a_late_extent_finds_the_limit,
    a_close_wakes_whoever_waits_for_it,
    a_full_ring_wakes_its_task,
    a_position_is_of_one_moment,
    a_late_extent_finds_no_slot,
    everybody_at_once,
}
