//! Small concurrent scenarios, written once: `tests/loom.rs` runs each under every interleaving
//! that loom explores, `tests/shuttle.rs` under schedules drawn from seeds, and `tests/it` many
//! times on real threads.
//!
//! Buffers are tiny (a header of 8 bytes and two or three records of 8), so that a few operations
//! seal, cross, fill the ring and go round. Where schedules are drawn rather than enumerated,
//! each thread does what it does [`REPEATS`] times, so that the ring goes round many times.

#[cfg(not(esker_loom))]
mod crowd;
mod extents;
mod hand_over;
mod latecomers;
mod leases;
mod reading;
mod steps;
mod waiting;

#[cfg(not(esker_loom))]
pub(crate) use crowd::*;
pub(crate) use extents::*;
pub(crate) use hand_over::*;
pub(crate) use latecomers::*;
pub(crate) use leases::*;
pub(crate) use reading::*;
pub(crate) use waiting::*;

/// Passes the name of every scenario to a macro: those that loom explores, and those that are too
/// large for it.
macro_rules! every_scenario {
    ($pass_to:ident) => {
        $pass_to! {
            models: [
                two_writers_and_a_seal_hand_over_once,
                crossing_writers_lose_no_record,
                two_seals_seal_once,
                a_stale_thread_meets_a_later_tenancy,
                a_full_ring_wakes_its_waiter,
                a_full_ring_tells_its_waiter_of_the_limit,
                two_recyclers_and_a_waiter,
                sealer_and_recycler_open_between_them,
                a_recycler_out_of_order_meets_a_seal,
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
                an_entry_goes_from_one_appender_to_another,
                two_revokers_close_a_lease_once,
                an_owner_meets_the_revoker_of_its_lease,
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
                the_tail_never_sinks,
                an_extent_takes_the_slot_of_another,
                a_seal_meets_an_inserter,
                a_position_is_not_of_a_later_end,
                a_position_is_not_of_a_later_base,
                a_writer_comes_after_the_flusher_of_its_slot,
            ],
            large: [
                a_late_extent_finds_no_slot,
                everybody_at_once,
            ],
        }
    };
}

#[cfg(not(esker_shuttle))]
macro_rules! list {
    (models: [$($model:ident),* $(,)?], large: [$($large:ident),* $(,)?] $(,)?) => {
        /// The scenarios that loom explores, by name.
        pub(crate) const ALL: &[(&str, fn())] = &[$((stringify!($model), $model)),*];

        /// Scenarios that are too large for loom.
        #[cfg(not(esker_loom))]
        pub(crate) const LARGE: &[(&str, fn())] = &[$((stringify!($large), $large)),*];
    };
}

#[cfg(not(esker_shuttle))]
every_scenario!(list);

#[cfg(esker_shuttle)]
pub(crate) use every_scenario;
