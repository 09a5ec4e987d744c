use std::fs;

use proptest::prelude::*;

use super::*;
use crate::format::slot;
use crate::testing::{BLOCK, LogBuilder, Part, SEGMENT, STORE_ID, geometry};

fn recovered(log: &LogBuilder) -> Result<Recovered, OpenError> {
    recover(&log.segments(), &log.superblock)
}

fn damage(log: &LogBuilder) -> Corruption {
    match recovered(log) {
        Err(OpenError::Corrupt(damage)) => damage,
        other => panic!("damage, not {other:?}"),
    }
}

/// Writes `bytes` of zeroes.
fn erase(log: &LogBuilder, lsn: Lsn, bytes: u64) {
    log.write(lsn.get(), &vec![0; usize::try_from(bytes).expect("small")]);
}

#[test]
fn an_empty_log_ends_at_its_start() {
    let log = LogBuilder::new();
    let found = recovered(&log).expect("a log");
    assert_eq!(
        (found.end.lsn, found.end.seq, found.tail),
        (Lsn::ZERO, 0, Tail::Clean)
    );
    assert!(!found.closed);
}

#[test]
fn a_log_without_damage_ends_behind_its_last_slot() {
    let mut log = LogBuilder::new();
    for len in [10, 1000, 3000, 0, 16_000] {
        log.slot(len, 2);
    }
    let found = recovered(&log).expect("a log");
    assert_eq!((found.end, found.tail), (log.at, Tail::Clean));
    assert_eq!(found.durable, log.slots[2].lsn);
    assert_eq!(found.boundaries.get(&0), Some(&Position::START));
}

#[test]
fn slots_that_straddle_segments_are_read_and_the_boundaries_noted() {
    let mut log = LogBuilder::new();
    while log.at.lsn.get() < 5 * SEGMENT {
        log.slot(7000, 1);
    }
    let found = recovered(&log).expect("a log");
    assert_eq!(found.end, log.at);
    assert_eq!(found.boundaries.len(), 6);
    for (segment, boundary) in &found.boundaries {
        let first = log
            .slots
            .iter()
            .find(|slot| slot.lsn.get() >= segment * SEGMENT);
        assert_eq!(boundary.lsn, first.map_or(log.at.lsn, |slot| slot.lsn));
    }
}

#[test]
fn a_slot_larger_than_any_read_is_checked_piece_by_piece() {
    let sizes = crate::geometry::Sizes {
        block_bytes: 4096,
        segment_bytes: 1 << 20,
        max_record_bytes: 16 << 20,
        window_slots: 4,
        window_bytes: 64 << 20,
    };
    let mut log = LogBuilder::new();
    let geometry = crate::geometry::Geometry::new(STORE_ID, &sizes).expect("valid");
    // The files are of the builder's segment size: only the bounds differ.
    log.superblock.geometry = geometry;
    let header = log.compose(&[Part::Data(&vec![7; 9 << 20])]).0;
    let mut bytes = header.clone();
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    let mut sealed = SlotHeader::decode(&bytes).expect("a header").header;
    sealed.len = 64 + 8 + (9 << 20);
    sealed.seal(&mut bytes);
    for (segment, bytes) in bytes.chunks(1 << 20).enumerate() {
        let mut whole = bytes.to_vec();
        whole.resize(1 << 20, 0);
        fs::write(log.segment_path(segment as u64), whole).expect("written");
    }
    let found = recovered(&log).expect("a log");
    assert_eq!(found.end.lsn.get(), bytes.len() as u64);
    let mut last = fs::read(log.segment_path(8)).expect("a segment");
    last[1000] ^= 1;
    fs::write(log.segment_path(8), last).expect("written");
    assert_eq!(recovered(&log).expect("a torn tail").end.lsn, Lsn::ZERO);
}

#[test]
fn the_last_slot_torn_is_a_tail_that_is_dropped() {
    let mut log = LogBuilder::new();
    log.slot(100, 1).slot(3000, 1).slot(3000, 1);
    let last = log.slots[2];
    erase(&log, Lsn::new(last.lsn.get() + 1024), 512);
    let found = recovered(&log).expect("a torn tail");
    assert_eq!(found.end, last);
    let bytes = log.at.lsn.get() - last.lsn.get();
    assert_eq!(found.tail, Tail::Torn { slots: 1, bytes });
}

#[test]
fn a_torn_tail_whose_header_is_lost_is_still_noticed() {
    let mut log = LogBuilder::new();
    log.slot(100, 1).slot(3000, 1);
    let last = log.slots[1];
    erase(&log, last.lsn, 512);
    let found = recovered(&log).expect("a torn tail");
    let bytes = log.at.lsn.get() - last.lsn.get();
    assert_eq!(
        (found.end, found.tail),
        (last, Tail::Torn { slots: 0, bytes })
    );
}

#[test]
fn slots_behind_a_torn_one_are_dropped_though_they_are_intact() {
    let mut log = LogBuilder::new();
    // Three in flight together: none says that another was durable.
    log.slot(100, 1).slot(700, 1).slot(700, 2).slot(700, 3);
    let torn = log.slots[1];
    erase(&log, torn.lsn, 512);
    let found = recovered(&log).expect("a torn tail");
    assert_eq!(found.end, torn);
    let bytes = log.at.lsn.get() - torn.lsn.get();
    assert_eq!(found.tail, Tail::Torn { slots: 2, bytes });
}

#[test]
fn damage_below_what_a_later_slot_says_was_durable_is_corruption() {
    let mut log = LogBuilder::new();
    log.slot(100, 1).slot(700, 1).slot(700, 1);
    log.slot(700, 1);
    for slot in [0, 1] {
        let at = log.slots[slot].lsn;
        let kept = log.read(at.get(), 512);
        erase(&log, at, 512);
        let found = damage(&log);
        assert_eq!(
            (found.lsn, found.slot, found.damage),
            (at, Some(at), Damage::NoSlot)
        );
        assert_eq!((found.file, found.offset), (log.segment_path(0), at.get()));
        log.write(at.get(), &kept);
    }
    recovered(&log).expect("restored");
}

#[test]
fn the_damaged_record_is_named_when_the_header_is_intact() {
    let mut log = LogBuilder::new();
    log.slot_of(&[
        Part::Data(b"one"),
        Part::Void(24),
        Part::Data(&[5; 600]),
        Part::Data(b"four"),
    ]);
    log.slot(100, 0);
    let record = log.records[1].0;
    log.flip(record.get() + 300);
    let found = damage(&log);
    assert_eq!((found.lsn, found.slot), (record, Some(Lsn::ZERO)));
    assert_eq!(found.damage, Damage::RecordChecksum);
    log.flip(record.get() + 300);
    // In the padding behind the records there is no record to name.
    log.flip(log.slots[1].lsn.get() - 1);
    let found = damage(&log);
    assert_eq!((found.lsn, found.damage), (Lsn::ZERO, Damage::SlotChecksum));
}

/// A log of one slot, and so far behind it another that is one of a later part of the same life.
fn with_witness(distance: u64, change: impl FnOnce(&mut SlotHeader)) -> (LogBuilder, Position) {
    let mut log = LogBuilder::new();
    log.slot(100, 1);
    let hole = log.at;
    log.at = Position {
        lsn: Lsn::new(hole.lsn.get() + distance),
        seq: hole.seq + 9,
        ..hole
    };
    let (mut bytes, _) = log.compose(&[Part::Data(b"witness")]);
    let mut header = SlotHeader::decode(&bytes).expect("a slot").header;
    change(&mut header);
    header.seal(&mut bytes);
    log.write(log.at.lsn.get(), &bytes);
    (log, hole)
}

/// The window's end is inclusive: a crash can leave a slot that begins exactly there, and what that
/// one says counts.
#[test]
fn within_the_window_a_slot_counts_if_it_is_intact_and_says_that_what_is_missing_was_durable() {
    let window = geometry().window_bytes();
    for distance in [BLOCK, window - BLOCK, window] {
        let (log, hole) = with_witness(distance, |_| ());
        let found = recovered(&log).expect("a tail");
        assert_eq!(found.end, hole, "distance {distance}");
        let (log, hole) = with_witness(distance, |header| {
            header.durable = Lsn::new(2 * BLOCK);
        });
        assert_eq!(hole.lsn.get(), BLOCK);
        assert_eq!(damage(&log).lsn, hole.lsn, "distance {distance}");
        log.flip(log.at.lsn.get() + 70);
        let found = recovered(&log).expect("a tail");
        assert_eq!(found.end, hole, "distance {distance}");
    }
}

/// None is submitted there before what is missing is durable, so its header is proof.
#[test]
fn behind_the_window_every_slot_of_this_life_counts_however_far_it_is() {
    let window = geometry().window_bytes();
    for distance in [window + BLOCK, 2 * window, SEGMENT - BLOCK, 3 * SEGMENT] {
        let (log, hole) = with_witness(distance, |_| ());
        for segment in 0..distance / SEGMENT {
            log.write(segment * SEGMENT, &[]);
        }
        for is_whole in [true, false] {
            let found = damage(&log);
            assert_eq!(
                (found.lsn, found.slot, found.damage),
                (hole.lsn, Some(hole.lsn), Damage::NoSlot),
                "distance {distance}, whole: {is_whole}"
            );
            log.flip(log.at.lsn.get() + 70);
        }
    }
}

#[test]
fn behind_the_window_nothing_of_another_life_place_or_store_counts() {
    let distance = geometry().window_bytes() + 8 * BLOCK;
    type Change = fn(&mut SlotHeader);
    let changes: [(&str, Change); 6] = [
        ("a recycled file's", |header| {
            header.base = Lsn::new(header.base.get() - BLOCK);
        }),
        ("another epoch's", |header| header.epoch = 0),
        ("one of an epoch that began elsewhere", |header| {
            header.epoch_start = Lsn::new(BLOCK);
        }),
        ("another store's", |header| header.store_id ^= 1),
        ("an earlier one", |header| header.seq = 1),
        ("too long", |header| header.len = 33 << 10),
    ];
    for (what, change) in changes {
        let (log, hole) = with_witness(distance, |_| ());
        let mut bytes = log.read(log.at.lsn.get(), 512);
        let mut header = SlotHeader::decode(&bytes).expect("a slot").header;
        change(&mut header);
        // As long as the slot that it says it is, where it is to be intact.
        bytes.resize(header.len.next_multiple_of(512), 0);
        header.seal(&mut bytes);
        log.write(log.at.lsn.get(), &bytes);
        let found = recovered(&log).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((found.end, found.tail), (hole, Tail::Clean), "{what}");
    }
}

/// Everything from one slot on is gone for longer than the window, in files that are all there.
#[test]
fn damage_longer_than_the_window_is_named_where_it_begins() {
    let mut log = LogBuilder::new();
    while log.at.lsn.get() < 4 * SEGMENT {
        log.slot(3000, 1);
    }
    let window = geometry().window_bytes();
    let (first, len) = (log.slots[3], log.slots.len());
    let last = log.slots[len - 1];
    assert!(last.lsn.get() - first.lsn.get() > 4 * window);
    for kept in [1, 2, 20] {
        let from = first.lsn;
        let to = log.slots[len - kept].lsn;
        let bytes = log.read(
            from.get(),
            usize::try_from(to.get() - from.get()).expect("small"),
        );
        for content in [0, 0x5A] {
            log.write(from.get(), &vec![content; bytes.len()]);
            let found = damage(&log);
            assert_eq!((found.lsn, found.damage), (from, Damage::NoSlot), "{kept}");
            assert_eq!(found.offset, from.get() % SEGMENT);
        }
        log.write(from.get(), &bytes);
        assert_eq!(recovered(&log).expect("restored").end, log.at);
    }
    // A store that was closed says itself where it ended.
    erase(&log, first.lsn, log.at.lsn.get() - first.lsn.get());
    log.superblock.clean_end = Some(log.at);
    log.write_superblock();
    assert_eq!(damage(&log).lsn, first.lsn);
}

/// What recycled and spare files hold is looked at and is none of this life's.
#[test]
fn files_made_ahead_far_behind_the_end_hide_nothing_and_prove_nothing() {
    let mut log = LogBuilder::new();
    while log.at.lsn.get() < 2 * SEGMENT {
        log.slot(3000, 1);
    }
    for segment in 3..6 {
        fs::copy(log.segment_path(0), log.segment_path(segment)).expect("copied");
    }
    log.write(2 * SEGMENT, &[]);
    let end = log.at;
    let found = recovered(&log).expect("a log");
    assert_eq!((found.end, found.tail), (end, Tail::Clean));
    // Slots of an earlier life at their own addresses, which a crash dropped.
    log.at.lsn = Lsn::new(4 * SEGMENT);
    let (bytes, _) = log.compose(&[Part::Data(b"dropped")]);
    log.write(log.at.lsn.get(), &bytes);
    log.at = end;
    log.reopen().slot(700, 0);
    let found = recovered(&log).expect("a log");
    assert_eq!((found.end, found.tail), (log.at, Tail::Clean));
    fs::write(log.segment_path(u64::MAX), b"far away").expect("written");
    assert_eq!(damage(&log).damage, Damage::Missing);
}

#[test]
fn a_segment_that_is_missing_before_another_is_damage_however_far_that_is() {
    let mut log = LogBuilder::new();
    while log.at.lsn.get() < SEGMENT - 8192 {
        log.slot(7000, 1);
    }
    while log.at.lsn.get() < 2 * SEGMENT + 20_000 {
        log.slot(7000, 1);
    }
    fs::remove_file(log.segment_path(1)).expect("removed");
    // The nearest intact slot behind the gap is more than a window away: its file is proof enough.
    let found = damage(&log);
    assert_eq!(
        (found.lsn, found.damage),
        (Lsn::new(SEGMENT), Damage::Missing)
    );
    let mid = log
        .slots
        .iter()
        .find(|slot| slot.lsn.get() >= 2 * SEGMENT)
        .copied();
    log.checkpoint_at(mid.expect("there is one"));
    let found = damage(&log);
    assert_eq!(
        (found.lsn, found.damage),
        (Lsn::new(SEGMENT), Damage::Missing)
    );
    assert_eq!(found.file, log.segment_path(1));
}

#[test]
fn a_checkpoint_past_the_intact_slots_is_proof_of_damage() {
    let mut log = LogBuilder::new();
    log.slot(700, 1).slot(700, 1).slot(700, 1);
    log.checkpoint_at(log.at);
    let found = recovered(&log).expect("reads from the checkpoint");
    assert_eq!(found.end, log.at);
    // Everything below the checkpoint may be gone: only its file is looked for.
    fs::remove_file(log.segment_path(0)).expect("removed");
    assert_eq!(damage(&log).damage, Damage::Missing);
}

#[test]
fn a_clean_close_is_believed_at_once_and_held_to() {
    let mut log = LogBuilder::new();
    log.slot(700, 1).slot(700, 1).close();
    let found = recovered(&log).expect("a log");
    assert!(found.closed);
    assert_eq!(
        (found.end, found.tail, found.durable),
        (log.at, Tail::Clean, log.at.lsn)
    );
    // From an earlier checkpoint every slot has to be there.
    log.checkpoint_at(Position::START);
    assert_eq!(recovered(&log).expect("a log").end, log.at);
    log.flip(log.slots[1].lsn.get() + 70);
    assert_eq!(damage(&log).slot, Some(log.slots[1].lsn));
}

#[test]
fn slots_dropped_by_a_recovery_never_come_back() {
    let mut log = LogBuilder::new();
    log.slot(700, 1).slot(700, 1).slot(700, 2).slot(700, 3);
    // The second slot is torn; the two behind it are dropped. Another life begins there.
    let end = log.slots[1];
    let dropped = log.slots[2];
    log.at = end;
    log.slots.truncate(1);
    log.reopen();
    // A slot of the same length takes the torn one's place, and the chain fits to the byte.
    log.slot(700, 1);
    assert_eq!(log.at.lsn, dropped.lsn);
    let found = recovered(&log).expect("a log");
    assert_eq!((found.end, found.tail), (log.at, Tail::Clean));
    // From the very beginning, too.
    log.checkpoint_at(Position {
        epoch: 1,
        ..Position::START
    });
    assert_eq!(recovered(&log).expect("a log").end, log.at);
}

#[test]
fn an_epoch_begins_only_where_it_says() {
    let mut log = LogBuilder::new();
    log.slot(700, 1)
        .slot(700, 1)
        .reopen()
        .slot(700, 1)
        .reopen()
        .slot(700, 1);
    log.checkpoint_at(Position {
        epoch: 1,
        ..Position::START
    });
    let found = recovered(&log).expect("three lives");
    assert_eq!(found.end, log.at);
    assert_eq!(found.end.epoch, 3);
    // A slot of the second life that says another beginning does not follow.
    let second = log.slots[2];
    let mut bytes = log.read(second.lsn.get(), 1024);
    let mut header = SlotHeader::decode(&bytes).expect("a slot").header;
    header.epoch_start = Lsn::new(header.epoch_start.get() - BLOCK);
    header.seal(&mut bytes);
    log.write(second.lsn.get(), &bytes);
    assert_eq!(damage(&log).lsn, second.lsn);
}

/// Of one life there is one beginning: what names another was written by none that anybody knows of.
#[test]
fn an_epoch_begins_once() {
    let mut log = LogBuilder::new();
    log.slot(700, 1).reopen().slot(700, 1).slot(700, 1).reopen();
    log.slot(700, 1).checkpoint_at(Position {
        epoch: 1,
        ..Position::START
    });
    let third = log.slots[2];
    let mut bytes = log.read(third.lsn.get(), 1024);
    let mut header = SlotHeader::decode(&bytes).expect("a slot").header;
    header.epoch_start = third.lsn;
    header.seal(&mut bytes);
    log.write(third.lsn.get(), &bytes);
    assert_eq!(damage(&log).lsn, third.lsn);
}

#[test]
fn below_where_the_current_epoch_begins_there_is_nothing_of_it() {
    let mut log = LogBuilder::new();
    log.slot(700, 1).reopen().slot(700, 1).slot(700, 1);
    log.superblock.epoch_start = log.at;
    log.checkpoint_at(Position {
        epoch: 1,
        ..Position::START
    });
    assert_eq!(damage(&log).lsn, log.slots[1].lsn);
}

#[test]
fn a_slot_of_an_epoch_that_the_superblock_does_not_know_is_damage() {
    let mut log = LogBuilder::new();
    log.slot(700, 1);
    let old = log.superblock;
    log.reopen().slot(700, 1).slot(700, 1);
    log.superblock = old;
    let found = damage(&log);
    assert_eq!(
        (found.lsn, found.damage),
        (log.slots[1].lsn, Damage::LaterEpoch)
    );
    // Also when it is found only behind the end.
    erase(&log, log.slots[1].lsn, 512);
    let found = damage(&log);
    assert_eq!(
        (found.lsn, found.damage),
        (log.slots[2].lsn, Damage::LaterEpoch)
    );
}

#[test]
fn what_a_recycled_segment_holds_is_not_read_and_is_no_tail() {
    let mut log = LogBuilder::new();
    while log.at.lsn.get() < SEGMENT {
        log.slot(3000, 1);
    }
    let end = log.at;
    // The first segment's content, under the third's name, where the log has not come to yet.
    fs::copy(log.segment_path(0), log.segment_path(2)).expect("copied");
    while log.at.lsn.get() < 2 * SEGMENT {
        log.slot(3000, 1);
    }
    assert!(end.lsn < log.at.lsn);
    let found = recovered(&log).expect("a log");
    assert_eq!((found.end, found.tail), (log.at, Tail::Clean));
}

#[test]
fn a_slot_of_another_store_is_not_read() {
    let mut log = LogBuilder::new();
    log.slot(700, 1);
    let (mut bytes, _) = log.compose(&[Part::Data(b"foreign")]);
    let mut header = SlotHeader::decode(&bytes).expect("a slot").header;
    header.store_id ^= 1;
    header.seal(&mut bytes);
    log.write(log.at.lsn.get(), &bytes);
    assert_eq!(recovered(&log).expect("a log").end, log.at);
}

#[test]
fn a_gap_in_the_sequence_ends_the_log() {
    let mut log = LogBuilder::new();
    log.slot(700, 1);
    let end = log.at;
    log.at.seq += 1;
    log.slot(700, 2);
    assert_eq!(recovered(&log).expect("a torn tail").end, end);
}

#[test]
fn a_slot_that_says_more_was_durable_than_can_be_is_none() {
    let mut log = LogBuilder::new();
    log.slot(700, 1);
    let end = log.at;
    log.durable = Lsn::new(u64::MAX);
    log.slot_of(&[Part::Data(b"liar")]);
    assert_eq!(recovered(&log).expect("a log").end, end);
}

#[test]
fn lengths_that_cannot_be_are_no_slots() {
    for len in [0u32, 1, 63, 32 << 10, u32::MAX - 511, u32::MAX] {
        let mut log = LogBuilder::new();
        log.slot(700, 1);
        let (mut bytes, _) = log.compose(&[Part::Data(b"x")]);
        bytes[slot::LEN_AT..slot::LEN_AT + 4].copy_from_slice(&len.to_le_bytes());
        log.write(log.at.lsn.get(), &bytes);
        assert_eq!(
            recovered(&log).expect("a torn tail").end,
            log.at,
            "length {len}"
        );
    }
}

/// Twelve slots in two lives, over two segments, each durable before the next but one.
fn small_log() -> LogBuilder {
    let mut log = LogBuilder::new();
    for len in [100, 700, 0, 1300, 20] {
        log.slot(len, 2);
    }
    log.reopen();
    for len in [300, 9000, 40, 10] {
        log.slot(len, 2);
    }
    log.checkpoint_at(Position {
        epoch: 1,
        ..Position::START
    });
    log
}

/// Whatever byte is damaged, the result is the damage, or a prefix that ends in front of it and
/// loses nothing that another slot says was durable.
#[test]
fn every_flipped_byte_is_damage_or_ends_the_log_in_front_of_it() {
    let log = small_log();
    let durable = log.slots[log.slots.len() - 3].lsn;
    for at in 0..log.at.lsn.get() {
        log.flip(at);
        let slot = log
            .slots
            .iter()
            .rev()
            .find(|slot| slot.lsn.get() <= at)
            .expect("covered");
        match recovered(&log) {
            Ok(found) => {
                assert_eq!(found.end.lsn, slot.lsn, "byte {at}");
                assert!(found.end.lsn >= durable, "byte {at}");
            }
            Err(OpenError::Corrupt(damage)) => {
                assert_eq!(damage.slot, Some(slot.lsn), "byte {at}");
                assert!(slot.lsn < log.slots[log.slots.len() - 1].lsn, "byte {at}");
            }
            Err(other) => panic!("byte {at}: {other}"),
        }
        log.flip(at);
    }
    assert_eq!(recovered(&log).expect("restored").end, log.at);
}

#[test]
fn every_truncation_is_damage_or_ends_the_log_in_front_of_it() {
    let log = small_log();
    let whole = fs::read(log.segment_path(0)).expect("a segment");
    let end = usize::try_from(log.at.lsn.get()).expect("small");
    for len in (0..=end).step_by(100).chain([end - 1, end, end + 1]) {
        fs::write(log.segment_path(0), &whole[..len]).expect("written");
        match recovered(&log) {
            Ok(found) => assert!(found.end.lsn.get() <= len as u64, "cut at {len}"),
            Err(OpenError::Corrupt(damage)) => {
                assert!(damage.lsn.get() <= len as u64, "cut at {len}");
                assert_eq!(damage.damage, Damage::Missing);
            }
            Err(other) => panic!("cut at {len}: {other}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Garbage, and garbage dressed up as slots, is never read past what was written and never
    /// makes recovery panic or hang.
    #[test]
    fn no_content_makes_recovery_panic(
        writes in proptest::collection::vec(
            (0u64..SEGMENT / 8, proptest::collection::vec(any::<u8>(), 1..200)), 0..8
        ),
        header in any::<(u32, u64, u64, u64)>(),
        at in 0u64..SEGMENT / BLOCK,
    ) {
        let log = small_log();
        for (word, bytes) in &writes {
            log.write(word * 8, bytes);
        }
        let (len, seq, durable, epoch_start) = header;
        let base = at * BLOCK;
        let header = SlotHeader {
            extent: false,
            len: (len as usize % (1 << 16)).max(64),
            epoch: len % 5,
            store_id: STORE_ID,
            seq: seq % 16,
            base: Lsn::new(base),
            durable: Lsn::new(durable % (base + 1)),
            epoch_start: Lsn::new(epoch_start % (base + 1)),
        };
        let mut bytes = vec![0; header.len.next_multiple_of(512)];
        header.seal(&mut bytes);
        log.write(base, &bytes[..512]);
        let _ = recovered(&log);
    }
}
