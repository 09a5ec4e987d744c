//! Which suite catches which known bug, and by what.

use super::Catcher::{
    AddressSanitizer, Crash, Damage, Faults, Fuzz, Kill, Loom, Shuttle, Sim, Test, ThreadSanitizer,
};
use super::{Catcher, Entry};

/// Bugs that the same test of the package that they are in catches.
const fn entry(
    catcher: Catcher,
    package: &'static str,
    by: &'static str,
    names: &'static [&'static str],
) -> Entry {
    over(catcher, package, package, by, names)
}

/// Bugs of a package that another one's tests, or its program, show.
const fn over(
    catcher: Catcher,
    package: &'static str,
    tests: &'static str,
    by: &'static str,
    names: &'static [&'static str],
) -> Entry {
    Entry {
        catcher,
        package,
        tests,
        by,
        names,
    }
}

/// Bugs of the store that show when the machine goes down or a disk fails.
const fn crash(by: &'static str, names: &'static [&'static str]) -> Entry {
    over(Sim, "esker-lss", "esker-sim", by, names)
}

/// Bugs of the store that show when its files are damaged.
const fn damage(by: &'static str, names: &'static [&'static str]) -> Entry {
    over(Damage, "esker-lss", "esker-sim", by, names)
}

/// Bugs of the store that show when threads share it: long schedules of a whole store over the
/// simulated disk meet them.
const fn shared(by: &'static str, names: &'static [&'static str]) -> Entry {
    over(Shuttle, "esker-lss", "esker-sim", by, names)
}

/// Every canary there is, by the test that is tried first.
pub(super) const ENTRIES: &[Entry] = &[
    entry(
        Loom,
        "esker-ring",
        "a_close_wakes_whoever_waits_for_it",
        &["close-wakes-nobody"],
    ),
    entry(
        Loom,
        "esker-ring",
        "a_full_ring_wakes_its_task",
        &["notify-without-fence"],
    ),
    entry(
        Loom,
        "esker-ring",
        "a_full_ring_wakes_its_waiter",
        &["wake-before-open", "park-without-recheck"],
    ),
    entry(
        Loom,
        "esker-ring",
        "a_late_extent_meets_the_same_word",
        &["extent-trusts-its-look"],
    ),
    entry(
        Loom,
        "esker-ring",
        "a_late_pin_meets_the_same_word",
        &["pin-relaxed"],
    ),
    entry(
        Loom,
        "esker-ring",
        "a_lease_meets_a_seal",
        &[
            "lease-without-fence",
            "lease-survives-seal",
            "lease-revokes-active",
            "lease-begin-by-store",
            "lease-commit-ignores-notice",
            "lease-commit-without-fence",
            "lease-look-without-fence",
            "lease-rest-not-void",
        ],
    ),
    entry(
        Loom,
        "esker-ring",
        "a_pin_sees_the_records_of_a_revoked_lease",
        &["lease-commit-relaxed"],
    ),
    entry(
        Loom,
        "esker-ring",
        "a_position_is_not_of_a_later_base",
        &["base-relaxed"],
    ),
    entry(
        Loom,
        "esker-ring",
        "a_position_is_not_of_a_later_end",
        &["next-base-relaxed"],
    ),
    entry(
        Loom,
        "esker-ring",
        "a_position_is_of_one_moment",
        &["position-without-recheck", "position-without-age"],
    ),
    entry(
        Loom,
        "esker-ring",
        "a_stale_thread_meets_a_later_tenancy",
        &["recycle-store", "stale-identity"],
    ),
    entry(
        Loom,
        "esker-ring",
        "a_writer_comes_after_the_flusher_of_its_slot",
        &["reserve-relaxed", "freed-relaxed"],
    ),
    entry(
        Loom,
        "esker-ring",
        "an_extent_takes_the_slot_of_another",
        &["extent-claim-relaxed"],
    ),
    entry(
        Loom,
        "esker-ring",
        "an_owner_meets_the_revoker_of_its_lease",
        &["lease-install-not-vacant"],
    ),
    entry(
        Loom,
        "esker-ring",
        "crossing_writers_lose_no_record",
        &["closed-before-base", "leave-before-close"],
    ),
    entry(
        Loom,
        "esker-ring",
        "raising_the_limit_races_recycling",
        &["open-without-fence"],
    ),
    entry(
        Loom,
        "esker-ring",
        "sealer_and_recycler_open_between_them",
        &["claim-by-store"],
    ),
    entry(
        Loom,
        "esker-ring",
        "the_tail_never_sinks",
        &["position-of-the-sealed"],
    ),
    entry(
        Loom,
        "esker-ring",
        "two_writers_and_a_seal_hand_over_once",
        &["commit-relaxed", "flush-claim-with-writers"],
    ),
    entry(
        Loom,
        "esker-io",
        "a_leader_that_leaves_hands_over",
        &["io-leader-leaves-silently"],
    ),
    entry(
        Loom,
        "esker-io",
        "a_sleeping_thread_is_woken_for_a_job",
        &["io-pool-wakes-nobody"],
    ),
    entry(
        Loom,
        "esker-io",
        "a_thread_called_to_lead_that_leaves_passes_it_on",
        &["io-calls-relaxed"],
    ),
    entry(
        Loom,
        "esker-io",
        "a_wake_ends_the_wait_of_a_blocked_leader",
        &["io-wakes-no-leader"],
    ),
    entry(
        Loom,
        "esker-io",
        "a_wake_is_not_lost",
        &["io-parks-without-looking", "io-wakes-without-fence"],
    ),
    entry(
        Loom,
        "esker-io",
        "what_two_threads_hand_over_is_taken_once",
        &["io-issuer-is-not-woken", "io-issuer-sleeps-without-looking"],
    ),
    entry(
        Loom,
        "esker-io",
        "one_thread_runs_every_job_once",
        &["io-pool-leaves-jobs"],
    ),
    entry(
        Loom,
        "esker-lss",
        "a_buffer_completed_twice_moves_nothing_back",
        &["frontier-store"],
    ),
    entry(
        Loom,
        "esker-lss",
        "a_follower_finds_what_was_written_where_it_looks",
        &["lss-fresh-whatever-its-address"],
    ),
    entry(
        Loom,
        "esker-lss",
        "a_future_is_woken_whenever_the_prefix_moves",
        &["tasks-enter-without-fence"],
    ),
    entry(
        Loom,
        "esker-lss",
        "no_advance_is_lost_when_two_complete_at_once",
        &["frontier-no-fence"],
    ),
    entry(
        Loom,
        "esker-lss",
        "no_sync_is_missed_when_another_is_faster",
        &["lss-sync-does-not-look-again"],
    ),
    entry(
        Loom,
        "esker-lss",
        "nobody_waits_for_ever_when_one_leads",
        &["turns-no-heir"],
    ),
    entry(
        Loom,
        "esker-lss",
        "nothing_is_kept_when_nobody_follows",
        &["fresh-kept-for-nobody"],
    ),
    entry(
        Loom,
        "esker-lss",
        "of_two_in_flight_the_one_that_succeeds_does_not_make_good_what_the_other_was_told",
        &["durable-not-held"],
    ),
    entry(
        Loom,
        "esker-lss",
        "the_committer_serves_whoever_comes_and_ends_with_the_store",
        &["tasks-let-the-committer-sleep"],
    ),
    entry(
        Loom,
        "esker-lss",
        "whoever_comes_late_rides_with_the_batch_under_way",
        &["turns-late-rider-uncounted"],
    ),
    entry(
        Shuttle,
        "esker-ring",
        "a_lease_meets_a_seal",
        &["lease-survives-seal"],
    ),
    entry(
        Shuttle,
        "esker-ring",
        "everybody_at_once",
        &["recycle-store"],
    ),
    entry(
        Shuttle,
        "esker-lss",
        "no_sync_is_missed_when_another_is_faster",
        &["lss-sync-does-not-look-again"],
    ),
    entry(
        Shuttle,
        "esker-lss",
        "whoever_comes_late_rides_with_the_batch_under_way",
        &["turns-late-rider-uncounted"],
    ),
    shared(
        "a_store_shared_by_threads_loses_nothing_in_a_crash",
        &["lss-sync-covers-later-writes", "lss-written-is-durable"],
    ),
    shared(
        "a_sync_covers_every_file_of_what_it_calls_durable",
        &["lss-sync-by-the-lagging-address"],
    ),
    shared(
        "what_a_failed_sync_may_be_of_is_not_acknowledged_by_another",
        &["durable-not-held", "lss-failed-sync-made-good"],
    ),
    entry(
        Test,
        "esker-io",
        "faults::a_hundred_thousand_operations_go_through_eight_entries",
        &["io-sink-swapped"],
    ),
    entry(
        Test,
        "esker-io",
        "faults::a_write_that_the_system_cuts_short_is_not_a_success",
        &["io-short-write-succeeds"],
    ),
    entry(
        Test,
        "esker-io",
        "forking::a_child_finds_a_backend_that_refuses_and_goes_without_waiting",
        &["io-fork-goes-unnoticed"],
    ),
    entry(
        Test,
        "esker-io",
        "ordering::after_a_failed_write_the_next_one_arrives_only_where_that_is_allowed",
        &["io-lane-goes-on"],
    ),
    entry(
        Test,
        "esker-io",
        "registration::the_kernel_has_a_file_in_its_table_for_as_long_as_it_is_open",
        &["io-place-stays-filled"],
    ),
    entry(
        Test,
        "esker-io",
        "shutdown::what_is_said_to_be_durable_outlives_a_file_system_that_is_shut_down",
        &["io-sync-unconfirmed"],
    ),
    entry(
        Test,
        "esker-lss",
        "forking::a_child_neither_waits_for_the_store_nor_writes_to_its_files",
        &["lss-fork-goes-unnoticed"],
    ),
    entry(
        Test,
        "esker-lss",
        "segments::ahead::tests::the_log_waits_for_zeroes_that_are_being_written_where_it_goes",
        &["lss-zeroes-meet-the-log"],
    ),
    entry(
        Test,
        "esker-lss",
        "recovery::tests::an_epoch_begins_only_where_it_says",
        &["lss-stale-epoch-follows"],
    ),
    entry(
        Test,
        "esker-lss",
        "segments::tests::what_the_log_takes_is_not_written_over",
        &["lss-zeroes-over-the-log"],
    ),
    crash(
        "crashes::checkpoints_survive_a_crash_after_any_effect",
        &["lss-checkpoint-closes-the-written"],
    ),
    crash(
        "crashes::commits_survive_a_crash_after_any_effect",
        &["lss-segment-name-unsynced", "lss-written-is-durable"],
    ),
    crash(
        "crashes::full_windows_survive_a_crash_after_any_effect",
        &[
            "lss-header-claims-its-base",
            "lss-sync-covers-later-writes",
            "lss-window-of-one-more",
        ],
    ),
    crash(
        "crashes::many_lives_lose_nothing_that_was_acknowledged",
        &[
            "lss-batch-in-parts",
            "lss-epoch-stays",
            "lss-follows-what-is-written",
            "lss-fresh-whatever-its-address",
            "lss-sync-of-the-last-segment",
        ],
    ),
    crash(
        "crashes::recovery_survives_a_crash_after_any_effect",
        &["lss-recovery-without-sync"],
    ),
    crash(
        "crashes::trims_survive_a_crash_after_any_effect",
        &[
            "lss-lock-not-waited-for",
            "lss-recovery-without-names",
            "lss-trim-frees-one-more",
            "lss-trim-removes-first",
            "lss-trim-says-so-first",
        ],
    ),
    crash(
        "crashes::what_two_crashes_tear_leaves_a_store",
        &["lss-superblock-first-copy-first"],
    ),
    crash(
        "faults::a_failed_write_or_sync_is_never_made_good",
        &["lss-recovery-without-rewrite", "lss-space-syncs-unwatched"],
    ),
    crash(
        "faults::a_slot_calls_nothing_durable_that_does_not_count_yet",
        &["lss-header-names-the-confirmed"],
    ),
    crash(
        "faults::a_sync_that_succeeds_after_another_has_failed_acknowledges_nothing",
        &["lss-failed-sync-made-good"],
    ),
    crash(
        "images::damage_to_one_superblock_copy_costs_nothing",
        &["lss-superblock-one-copy"],
    ),
    crash(
        "order::a_buffer_that_is_held_back_is_overtaken_only_where_that_is_allowed",
        &["lss-serialised-out-of-turn"],
    ),
    crash(
        "window::large_records_stay_within_the_window",
        &["lss-window-without-bytes"],
    ),
    damage(
        "damage::damage_of_any_length_is_a_torn_tail_or_named",
        &["lss-header-without-durable", "lss-recovery-stops-at-window"],
    ),
    damage(
        "damage::every_damage_is_harmless_a_torn_tail_or_named",
        &[
            "lss-checksum-without-address",
            "lss-salvage-skips-damaged-slots",
            "lss-slot-checksum-unchecked",
        ],
    ),
    damage(
        "damage::every_damaged_length_is_noticed_before_it_is_used",
        &["lss-length-before-checksum"],
    ),
    over(
        Fuzz,
        "esker-cli",
        "esker-fuzz",
        "framing",
        &["cli-frame-cut-short", "cli-frame-length-unchecked"],
    ),
    over(
        Fuzz,
        "esker-lss",
        "esker-fuzz",
        "store",
        &["lss-slot-checksum-unchecked", "lss-slot-length-unchecked"],
    ),
    entry(
        AddressSanitizer,
        "esker-ring",
        "outcomes::an_extent_takes_the_place_of_an_empty_buffer",
        &["extent-freed-at-hand-over"],
    ),
    entry(
        ThreadSanitizer,
        "esker-ring",
        "scenarios_on_threads::every_scenario_holds_on_real_threads",
        &["commit-relaxed"],
    ),
    entry(Kill, "esker-cli", "lives", &["cli-ack-before-durable"]),
    entry(
        Crash,
        "esker-cli",
        "power cuts",
        &["cli-ack-before-durable"],
    ),
    over(
        Crash,
        "esker-lss",
        "esker-worker",
        "power cuts",
        &["lss-written-is-durable"],
    ),
    // With the cases that meet it.
    over(
        Faults,
        "esker-io",
        "esker-cli",
        "append-closed-1-blocking-durable, short:",
        &["io-short-write-succeeds"],
    ),
];
