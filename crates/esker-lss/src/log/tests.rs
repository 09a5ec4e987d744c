//! Reading records by address and in order.

use std::fs;

use esker_io::Blocking;
use proptest::prelude::*;

use super::*;
use crate::format::record::Kind;
use crate::testing::{BLOCK, LogBuilder, Part, SEGMENT};

fn log_of(log: &LogBuilder) -> Log<Blocking> {
    Log::new(&log.segments())
}

fn scanned(log: &LogBuilder, from: Lsn) -> Result<Vec<(Lsn, Vec<u8>)>, ReadError> {
    log_of(log)
        .records(from, Lsn::LIMIT, log.at.lsn)
        .map(|record| record.map(|record| (record.lsn, record.payload)))
        .collect()
}

/// Records of many sizes, voids between them, and slots across segments' ends.
fn mixed() -> LogBuilder {
    let mut log = LogBuilder::new();
    for fill in 0..12u8 {
        let round = usize::from(fill);
        let big = vec![fill; 1 + round * 1300];
        log.slot_of(&[
            Part::Data(b"small"),
            Part::Void(8 + 8 * round),
            Part::Data(&big),
            Part::Data(b""),
        ]);
        log.slot(400, 1);
        log.slot_of(&[Part::Void(1200)]);
    }
    assert!(log.at.lsn.get() > SEGMENT);
    log
}

#[test]
fn every_record_is_read_by_its_address() {
    let log = mixed();
    let read = log_of(&log);
    for (lsn, payload) in &log.records {
        assert_eq!(
            read.read_record(*lsn, log.at.lsn).as_ref().ok(),
            Some(payload)
        );
    }
}

#[test]
fn a_first_read_takes_the_rest_of_its_block_and_no_sector_more_than_the_record_needs() {
    let mut log = LogBuilder::new();
    for fill in 0..20u8 {
        log.slot_of(&[Part::Data(&[fill; 4000]), Part::Data(&[fill; 100])]);
    }
    let read = log_of(&log);
    // Until it has seen a long one it does not expect any.
    let unit = read
        .segments
        .readable(0)
        .expect("opens")
        .expect("it is there")
        .unit;
    for len in [100u64, 4000] {
        let mut records = log
            .records
            .iter()
            .filter(|record| record.1.len() as u64 == len);
        let (lsn, payload) = records.next().expect("one");
        assert_eq!(
            read.read_record(*lsn, log.at.lsn).as_ref().ok(),
            Some(payload)
        );
        for (lsn, _) in records {
            let span = read
                .first_span(*lsn, log.at.lsn)
                .expect("opens")
                .expect("a file");
            let end = (lsn.get() + HEADER_BYTES as u64 + len).max(lsn.get() / 4096 * 4096 + 4096);
            let end = end
                .min(SEGMENT * (lsn.get() / SEGMENT + 1))
                .min(log.at.lsn.get());
            assert_eq!(span.start, unit.floor(lsn.get()));
            assert_eq!(Some(span.start + span.len as u64), unit.ceil(end), "{lsn}");
        }
    }
}

#[test]
fn a_scan_from_any_record_or_slot_gives_what_follows_in_order() {
    let log = mixed();
    assert_eq!(scanned(&log, Lsn::ZERO).expect("intact"), log.records);
    for (index, (lsn, _)) in log.records.iter().enumerate() {
        assert_eq!(scanned(&log, *lsn).expect("intact"), log.records[index..]);
    }
    for slot in &log.slots {
        let index = log.records.partition_point(|(lsn, _)| *lsn < slot.lsn);
        assert_eq!(
            scanned(&log, slot.lsn).expect("intact"),
            log.records[index..]
        );
    }
    assert_eq!(scanned(&log, log.at.lsn).expect("empty"), []);
    let scan = log_of(&log).records(Lsn::ZERO, log.records[5].0, log.at.lsn);
    assert_eq!(scan.count(), 5);
}

#[test]
fn addresses_where_no_record_begins_are_told_from_damage() {
    let log = mixed();
    let read = log_of(&log);
    let starts: Vec<_> = log.records.iter().map(|(lsn, _)| *lsn).collect();
    for lsn in (0..8192).map(Lsn::new).filter(|lsn| !starts.contains(lsn)) {
        let result = read.read_record(lsn, log.at.lsn);
        assert!(
            matches!(result, Err(ReadError::NotARecord { .. })),
            "{lsn}: {result:?}"
        );
    }
    for lsn in [log.at.lsn, Lsn::new(u64::MAX)] {
        let result = read.read_record(lsn, log.at.lsn);
        assert!(matches!(result, Err(ReadError::BeyondEnd { .. })));
    }
}

#[test]
fn a_damaged_record_is_named_by_reads_and_scans() {
    let log = mixed();
    let (lsn, payload) = &log.records[7];
    log.flip(lsn.get() + 8 + payload.len() as u64 / 2);
    let Err(ReadError::Corrupt(damage)) = log_of(&log).read_record(*lsn, log.at.lsn) else {
        panic!("it is damaged");
    };
    assert_eq!((damage.lsn, damage.damage), (*lsn, Damage::RecordChecksum));
    assert_eq!(
        (damage.file, damage.offset),
        (log.segment_path(0), lsn.get())
    );
    let mut scan = log_of(&log).records(Lsn::ZERO, Lsn::LIMIT, log.at.lsn);
    assert_eq!(scan.by_ref().take_while(Result::is_ok).count(), 7);
    assert!(scan.next().is_none(), "a scan ends after its first error");
}

#[test]
fn a_missing_file_is_damage() {
    let log = mixed();
    let last = log.records.last().expect("records").0;
    fs::remove_file(log.segment_path(1)).expect("removed");
    let result = log_of(&log).read_record(last, log.at.lsn);
    assert!(matches!(result, Err(ReadError::Corrupt(_))), "{result:?}");
    assert!(matches!(
        scanned(&log, Lsn::ZERO),
        Err(ReadError::Corrupt(_))
    ));
}

#[test]
fn a_boundary_is_found_at_or_below_an_address() {
    let log = mixed();
    let read = log_of(&log);
    for target in (0..log.at.lsn.get()).step_by(700) {
        let expected = log
            .slots
            .iter()
            .rfind(|slot| slot.lsn.get() <= target)
            .expect("one");
        let found = read
            .boundary_before(Position::START, Lsn::new(target))
            .expect("intact");
        assert_eq!(
            (found.lsn, found.seq),
            (expected.lsn, expected.seq),
            "{target}"
        );
    }
    let found = read
        .boundary_before(Position::START, log.at.lsn)
        .expect("intact");
    assert_eq!(found, log.at);
}

/// A header that claims to be shorter would hide the records behind.
#[test]
fn a_slot_that_claims_to_end_early_hides_no_record() {
    let mut log = LogBuilder::new();
    log.slot_of(&[Part::Data(b"one"), Part::Data(b"two")]);
    log.slot(10, 1);
    log.write(slot::LEN_AT as u64, &80u32.to_le_bytes());
    let mut scan = log_of(&log).records(Lsn::ZERO, Lsn::LIMIT, log.at.lsn);
    assert_eq!(
        scan.next()
            .and_then(Result::ok)
            .map(|record| record.payload),
        Some(b"one".into())
    );
    assert!(matches!(scan.next(), Some(Err(ReadError::Corrupt(_)))));
}

/// A record whose kind says that nobody wrote it would be passed over.
#[test]
fn a_record_that_is_called_a_void_is_missed() {
    let mut log = LogBuilder::new();
    log.slot_of(&[Part::Data(b"one"), Part::Data(b"two")]);
    log.slot(10, 1);
    let kinds = Kind::Data.code() ^ Kind::Void.code();
    for (lsn, _) in &log.records {
        let word = log.read(lsn.get(), 4);
        let word = u32::from_le_bytes(word.try_into().expect("four bytes"));
        log.write(lsn.get(), &(word ^ kinds).to_le_bytes());
        let scanned = scanned(&log, Lsn::ZERO);
        assert!(matches!(scanned, Err(ReadError::Corrupt(_))), "{scanned:?}");
        log.write(lsn.get(), &word.to_le_bytes());
    }
}

#[test]
fn every_flipped_byte_is_noticed_or_changes_no_record() {
    let mut log = LogBuilder::new();
    log.slot_of(&[Part::Data(b"one"), Part::Void(40), Part::Data(&[3; 700])]);
    log.slot(600, 1);
    for at in 0..log.at.lsn.get() {
        log.flip(at);
        for (lsn, payload) in &log.records {
            match log_of(&log).read_record(*lsn, log.at.lsn) {
                Ok(read) => assert_eq!(read, *payload, "byte {at}"),
                Err(ReadError::Corrupt(_)) => {}
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
        match scanned(&log, Lsn::ZERO) {
            Ok(records) => assert_eq!(records, log.records, "byte {at}"),
            Err(ReadError::Corrupt(_)) => {}
            Err(other) => panic!("byte {at}: {other}"),
        }
        log.flip(at);
    }
}

/// One that takes more than one read is checked as a whole.
#[test]
fn a_flipped_byte_of_a_large_record_is_noticed() {
    let mut log = LogBuilder::new();
    log.slot(16 << 10, 1);
    let (lsn, payload) = log.records[0].clone();
    let end = lsn.get() + payload.len() as u64;
    for at in (lsn.get()..end).step_by(61).chain([end]) {
        log.flip(at);
        let read = log_of(&log).read_record(lsn, log.at.lsn);
        assert!(
            matches!(read, Err(ReadError::Corrupt(_))),
            "byte {at}: {read:?}"
        );
        log.flip(at);
    }
    let read = log_of(&log).read_record(lsn, log.at.lsn);
    assert!(read.expect("whole") == payload);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_content_makes_reading_panic_or_return_what_was_not_written(
        writes in proptest::collection::vec(
            (0u64..9000, proptest::collection::vec(any::<u8>(), 1..100)), 1..6
        ),
        probes in proptest::collection::vec(0u64..9000, 1..10),
        word: u32,
    ) {
        let mut log = LogBuilder::new();
        log.slot(100, 1).slot(3000, 1).slot_of(&[Part::Data(b"a"), Part::Void(400)]);
        log.slot(5000, 1);
        for (at, bytes) in &writes {
            log.write(*at, bytes);
        }
        // The header of a record of any length.
        log.write(4096 + BLOCK, &word.to_le_bytes());
        let read = log_of(&log);
        let written = |lsn: Lsn, payload: &[u8]| {
            log.records.iter().any(|(at, bytes)| *at == lsn && bytes == payload)
        };
        for probe in probes {
            if let Ok(payload) = read.read_record(Lsn::new(probe), log.at.lsn) {
                prop_assert!(written(Lsn::new(probe), &payload));
            }
            let from = Lsn::new(probe / 8 * 8);
            for record in read.records(from, Lsn::LIMIT, log.at.lsn).flatten() {
                prop_assert!(written(record.lsn, &record.payload));
            }
        }
    }
}
