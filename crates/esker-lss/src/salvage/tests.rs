use std::fs;

use esker_io::Blocking;

use super::*;
use crate::log::to_usize;
use crate::recovery::recover;
use crate::testing::{LogBuilder, Part, SEGMENT};

type Records = Vec<(Lsn, Vec<u8>)>;

fn salvaged(log: &LogBuilder) -> (SalvageReport, Records, Vec<Lost>) {
    let (mut records, mut lost) = (Records::new(), Vec::new());
    let report = salvage(log.path(), Blocking::inline(), |found| {
        match found {
            Salvaged::Record { record, .. } => records.push((record.lsn, record.payload)),
            Salvaged::Lost(range) => lost.push(range),
        }
        ControlFlow::Continue(())
    });
    (report.expect("a report"), records, lost)
}

fn lsns(records: &Records) -> Vec<u64> {
    records.iter().map(|(lsn, _)| lsn.get()).collect()
}

fn filled() -> LogBuilder {
    let mut log = LogBuilder::new();
    log.slot_of(&[Part::Data(b"one"), Part::Void(40), Part::Data(&[2; 900])]);
    log.slot(5000, 1).slot(10, 1).reopen();
    while log.at.lsn.get() < 2 * SEGMENT + 9000 {
        log.slot(7000, 1);
    }
    log.slot_of(&[Part::Data(b"a"), Part::Data(b"b"), Part::Data(b"c")]);
    log
}

#[test]
fn a_whole_store_is_given_back_as_a_scan_gives_it() {
    let mut log = filled();
    for closed in [false, true] {
        if closed {
            log.close();
        }
        let (report, records, lost) = salvaged(&log);
        assert!(report.is_whole() && lost.is_empty(), "{report:?}");
        assert!(records == log.records);
        assert_eq!((report.first, report.end), (Lsn::ZERO, log.at.lsn));
    }
}

#[test]
fn a_torn_tail_is_not_lost() {
    let mut log = filled();
    log.slot(700, 2).slot(700, 2);
    log.flip(log.slots[log.slots.len() - 2].lsn.get() + 100);
    let (report, records, lost) = salvaged(&log);
    assert!(report.is_whole() && lost.is_empty());
    assert!(matches!(report.tail, Tail::Torn { .. }));
    assert!(records == log.records[..log.records.len() - 2]);
}

/// What is given back, whatever byte is flipped: all but the record that the byte is in.
#[test]
fn a_flipped_byte_costs_the_record_that_it_is_in() {
    let mut log = LogBuilder::new();
    log.slot_of(&[Part::Data(b"one"), Part::Void(40), Part::Data(&[2; 300])]);
    log.slot(600, 1);
    log.slot_of(&[Part::Data(&[7; 90]), Part::Data(&[])]);
    log.close();
    for at in 0..log.at.lsn.get() {
        log.flip(at);
        let (report, records, lost) = salvaged(&log);
        let is_hit = |lsn: &Lsn, payload: &[u8]| {
            let start = lsn.get();
            (start..start + 8 + payload.len() as u64).contains(&at)
        };
        let mut expected = log.records.clone();
        expected.retain(|(lsn, payload)| !is_hit(lsn, payload));
        assert!(records == expected, "byte {at}");
        let within = lost
            .iter()
            .any(|lost| (lost.from.get()..lost.to.get()).contains(&at));
        let in_slot = lost.iter().any(|lost| lost.from.get() <= at);
        assert!(within || in_slot, "byte {at}: {lost:?}");
        assert_eq!(report.lost, lost.len() as u64);
        log.flip(at);
    }
}

#[test]
fn a_store_without_its_superblock_is_given_back_whole() {
    let log = filled();
    for damage in ["removed", "emptied", "noise"] {
        match damage {
            "removed" => fs::remove_file(log.superblock_path()).expect("removed"),
            "emptied" => fs::write(log.superblock_path(), b"").expect("written"),
            _ => fs::write(log.superblock_path(), vec![0x5A; 70_000]).expect("written"),
        }
        let (report, records, lost) = salvaged(&log);
        assert!(records == log.records, "{damage}");
        assert_eq!(report.superblock, SuperblockState::Lost);
        assert!(!report.is_whole() && lost.is_empty(), "{lost:?}");
        assert_eq!(report.store_id, crate::testing::STORE_ID);
        assert_eq!(report.end, log.at.lsn);
    }
}

#[test]
fn a_missing_segment_costs_what_lay_in_it() {
    let log = filled();
    for segment in 0..3 {
        let path = log.segment_path(segment);
        let bytes = fs::read(&path).expect("read");
        fs::remove_file(&path).expect("removed");
        let (report, records, lost) = salvaged(&log);
        let gone = segment * SEGMENT..(segment + 1) * SEGMENT;
        let mut expected = log.records.clone();
        expected.retain(|(lsn, payload)| {
            let end = lsn.get() + 8 + payload.len() as u64;
            end <= gone.start || lsn.get() >= gone.end
        });
        assert_eq!(lsns(&records), lsns(&expected), "segment {segment}");
        assert!(records == expected, "segment {segment}");
        // Nothing says of the last segment that it was durable.
        let is_torn = segment == 2;
        assert_eq!(report.is_whole(), is_torn);
        assert!(
            is_torn || lost.iter().any(|lost| lost.damage == Damage::Missing),
            "{lost:?}"
        );
        fs::write(&path, bytes).expect("written");
    }
}

#[test]
fn what_a_crash_dropped_is_not_given_back() {
    let mut log = filled();
    let dropped = log.at;
    log.slot(700, 3).slot(900, 3);
    // The next life began where the second of them lies, and was not written that far.
    log.at = crate::Position {
        seq: dropped.seq + 1,
        ..log.slots[log.slots.len() - 1]
    };
    log.slots.pop();
    log.records.pop();
    log.reopen();
    let (_, records, _) = salvaged(&log);
    assert!(records == log.records);
    log.slot(300, 1);
    log.flip(64);
    fs::remove_file(log.superblock_path()).expect("removed");
    let (_, records, _) = salvaged(&log);
    assert!(records == log.records[1..]);
}

/// The superblock alone says that another life has begun where a crash has dropped slots, and the log
/// is damaged before that.
#[test]
fn what_a_crash_dropped_is_not_given_back_before_the_next_life_has_written() {
    let mut log = filled();
    let end = log.at;
    log.slot(700, 3).slot(900, 3);
    // The first of them was torn, and the second was not.
    log.flip(end.lsn.get() + 100);
    log.at = end;
    log.records.truncate(log.records.len() - 2);
    log.slots.truncate(log.slots.len() - 2);
    log.reopen();
    log.flip(64);
    log.checkpoint_at(crate::Position::START);
    let (report, records, _) = salvaged(&log);
    assert!(report.is_refused, "{report:?}");
    assert!(records == log.records[1..], "{:?}", lsns(&records));
}

/// The superblock says how far the log went when it was closed.
#[test]
fn what_is_missing_behind_the_last_intact_slot_is_listed() {
    let mut log = filled();
    log.close().checkpoint_at(crate::Position::START);
    let last = log.slots[log.slots.len() - 1].lsn.get();
    let len = to_usize(log.at.lsn.get() - last);
    log.write(last, &vec![0; len]);
    let (report, records, lost) = salvaged(&log);
    assert!(report.is_refused, "{report:?}");
    let in_last = |lsn: &Lsn| lsn.get() > last;
    let before = log.records.iter().filter(|(lsn, _)| !in_last(lsn));
    assert!(records.iter().eq(before), "{:?}", lsns(&records));
    assert_eq!((report.end, lost.len()), (log.at.lsn, 1), "{lost:?}");
    assert_eq!(
        (lost[0].from.get(), &lost[0].damage),
        (last, &Damage::NoSlot)
    );
}

/// Every record is given back, and yet nobody can open it.
#[test]
fn no_store_is_whole_that_recovery_refuses() {
    // The superblock is older than the log.
    let mut older = filled();
    let superblock = older.superblock;
    older.reopen().slot(300, 1);
    older.superblock = superblock;
    older.write_superblock();
    // There is a file behind the log's end, and none before it.
    let gap = filled();
    fs::write(gap.segment_path(4), vec![0; to_usize(SEGMENT)]).expect("written");
    for (what, log) in [("older", older), ("gap", gap)] {
        let refused = recover(&log.segments(), &log.superblock);
        assert!(
            matches!(refused, Err(OpenError::Corrupt(_))),
            "{what}: {refused:?}"
        );
        let (report, records, lost) = salvaged(&log);
        assert!(records == log.records && lost.is_empty(), "{what}");
        assert!(
            report.is_refused && !report.is_whole(),
            "{what}: {report:?}"
        );
    }
}

#[test]
fn nothing_of_a_store_is_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let nothing = salvage(
        dir.path(),
        Blocking::inline(),
        |_| ControlFlow::Continue(()),
    );
    assert!(matches!(nothing, Err(OpenError::NoStore { .. })));
    fs::write(dir.path().join("0000000000000000.seg"), vec![7; 70_000]).expect("written");
    let nothing = salvage(
        dir.path(),
        Blocking::inline(),
        |_| ControlFlow::Continue(()),
    );
    assert!(matches!(nothing, Err(OpenError::SuperblockMissing { .. })));
}

#[test]
fn whoever_has_had_enough_is_given_no_more() {
    let log = filled();
    let mut count = 0;
    let report = salvage(log.path(), Blocking::inline(), |_| {
        count += 1;
        if count == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert_eq!((count, report.expect("a report").records), (2, 2));
}
