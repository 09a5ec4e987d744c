//! The scenarios under loom. Compiled to nothing without `--cfg esker_loom`:
//!
//! ```text
//! RUSTFLAGS="--cfg esker_loom" cargo test --release -p esker-ring --test loom
//! ```
//!
//! With `--cfg esker_canary` besides, and `ESKER_CANARY=NAME` in the environment for a name in the
//! table of canaries in `docs/protocol.md`, the code has a known bug, and this has to fail.
#![cfg(esker_loom)]

mod scenarios;

macro_rules! models {
    ($($name:ident: $preemptions:literal $(first $most:literal)?),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                let most = None $(.or(Some($most)))?;
                model(stringify!($name), $preemptions, most, scenarios::$name);
            }
        )*

        #[test]
        fn every_scenario_is_a_model() {
            let models = [$(stringify!($name)),*];
            let all: Vec<_> = scenarios::ALL.iter().map(|(name, _)| *name).collect();
            assert_eq!(all, models);
        }
    };
}

// The number is how many preemptions an interleaving may have: as many as the size of the
// scenario lets loom explore in some seconds. Where even one preemption is too many, only so many of
// the interleavings are explored, in loom's order.
models! {
    two_writers_and_a_seal_hand_over_once: 2,
    crossing_writers_lose_no_record: 2,
    two_seals_seal_once: 2,
    a_stale_thread_meets_a_later_tenancy: 1,
    a_full_ring_wakes_its_waiter: 3,
    a_full_ring_tells_its_waiter_of_the_limit: 3,
    two_recyclers_and_a_waiter: 2,
    sealer_and_recycler_open_between_them: 5,
    a_recycler_out_of_order_meets_a_seal: 3,
    a_slow_flush_holds_up_only_its_slot: 2,
    a_dropped_reservation_leaves_an_orphan: 2,
    an_orphan_wakes_its_waiter: 4,
    an_extent_meets_a_writer_in_an_empty_buffer: 2,
    an_extent_meets_a_writer_in_a_used_buffer: 2,
    two_extents_take_two_numbers: 2,
    an_extent_waits_for_its_slot: 3,
    raising_the_limit_races_closing: 5,
    raising_the_limit_races_recycling: 5,
    a_pin_races_a_writer_and_a_seal: 3,
    the_tail_covers_what_was_reserved: 2,
    a_lease_meets_a_seal: 3,
    two_leases_and_a_seal: 2,
    crossing_revokes_an_idle_lease: 2,
    dropping_an_appender_races_a_seal: 2,
    an_entry_goes_from_one_appender_to_another: 5,
    two_revokers_close_a_lease_once: 2,
    an_owner_meets_the_revoker_of_its_lease: 5,
    a_pin_sees_the_records_of_a_revoked_lease: 4,
    a_leased_record_is_dropped: 2,
    an_extent_revokes_a_lease: 2,
    a_lease_of_a_past_tenancy_is_not_used: 1,
    a_full_ring_wakes_its_appender: 3,
    a_batch_meets_a_seal: 2,
    a_latecomer_meets_the_next_tenancy: 1,
    the_last_one_out_meets_a_latecomer: 2,
    a_seal_waits_for_a_crosser: 2,
    an_exact_fill_is_sealed_once: 2,
    a_late_seal_meets_the_same_word: 1,
    a_late_pin_meets_the_same_word: 2,
    a_late_extent_meets_the_same_word: 1 first 10_000,
    a_late_extent_finds_the_limit: 1 first 10_000,
    a_close_wakes_whoever_waits_for_it: 2,
    a_full_ring_wakes_its_task: 3,
    a_position_is_of_one_moment: 2,
    the_tail_never_sinks: 1,
    an_extent_takes_the_slot_of_another: 2,
    a_seal_meets_an_inserter: 1,
    a_position_is_not_of_a_later_end: 1,
    a_position_is_not_of_a_later_base: 1,
    a_writer_comes_after_the_flusher_of_its_slot: 2,
}

/// Explores a scenario, with at most `preemptions` of them unless `LOOM_MAX_PREEMPTIONS` says
/// otherwise, and says how many interleavings that were: all, or the first `most` of them.
fn model(name: &str, preemptions: usize, most: Option<usize>, scenario: fn()) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    let mut builder = loom::model::Builder::new();
    if let (None, Some(most)) = (builder.preemption_bound, most) {
        builder.max_permutations = Some(most);
        // loom compares the two at its checkpoints only, and counts from one.
        builder.checkpoint_interval = most + 1;
    }
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = 20_000;
    let explored = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&explored);
    builder.check(move || {
        // Relaxed: loom runs the interleavings one after the other.
        count.fetch_add(1, Ordering::Relaxed);
        scenario();
    });
    println!("{name}: {} interleavings", explored.load(Ordering::Relaxed));
}
