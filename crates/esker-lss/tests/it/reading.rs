//! Reading by address, from memory and from disk; scanning.

use esker_io::AnyBackend;
use esker_lss::{Lsn, ReadError, Reader};

use crate::support::{all, open, record};

#[test]
fn a_record_is_read_back_at_once_and_after_every_step_of_its_way() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let mut records = Vec::new();
    for index in 0..200 {
        let lsn = store.append(&record(index)).expect("appends");
        records.push((lsn, record(index)));
        let (lsn, payload) = &records[index * 7919 % records.len()];
        assert_eq!(&store.read(*lsn).expect("reads"), payload);
        assert_eq!(
            store.read(records[index].0).expect("reads its own write"),
            records[index].1
        );
    }
    store.flush().expect("flushes");
    for (lsn, payload) in &records {
        assert_eq!(&store.read(*lsn).expect("reads"), payload);
    }
}

#[test]
fn reading_its_own_writes_forces_no_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    for index in 0..100 {
        let payload = [index; 20];
        let lsn = store.append(&payload).expect("appends");
        assert_eq!(store.read(lsn).expect("reads"), payload);
    }
    assert_eq!(
        store.info().expect("info").slots_written,
        0,
        "all of it is still in the open buffer"
    );
}

#[test]
fn an_address_where_no_record_starts_is_told_from_damage() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let lsn = store.append(&[7; 1000]).expect("appends");
    for flushed in [false, true] {
        if flushed {
            store.flush().expect("flushes");
        }
        for offset in [1, 7, 8, 9, 64, 512, 1000] {
            let inside = Lsn::new(lsn.get() + offset);
            let error = store.read(inside).expect_err("no record starts there");
            assert!(
                matches!(error, ReadError::NotARecord { lsn } if lsn == inside),
                "{error:?} at +{offset}, flushed: {flushed}"
            );
        }
        assert!(matches!(
            store.read(Lsn::new(0)),
            Err(ReadError::NotARecord { .. })
        ));
    }
    let end = store.tail();
    for beyond in [
        end,
        Lsn::new(end.get() + 4096),
        Lsn::new(u64::MAX),
        Lsn::new(u64::MAX - 7),
    ] {
        assert!(
            matches!(store.read(beyond), Err(ReadError::BeyondEnd { .. })),
            "{beyond}"
        );
    }
}

/// What takes the place of a record that was given up is none, wherever it is read from.
#[test]
fn a_void_is_not_a_record() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let before = store.append(&[7; 1000]).expect("appends");
    let given_up = store.try_append_with(100, |_| Err(()));
    assert!(given_up.is_err());
    let void = Lsn::new(before.get() + 8 + 1000);
    let after = store.append(b"goes on").expect("appends");
    assert!(before < void && void < after);
    for flushed in [false, true] {
        if flushed {
            store.flush().expect("flushes");
        }
        let many = store.read_many(&[void]).next().expect("an answer");
        for read in [store.read(void), many] {
            assert!(
                matches!(read, Err(ReadError::NotARecord { lsn }) if lsn == void),
                "{read:?}, flushed: {flushed}"
            );
        }
        assert_eq!(store.read(after).expect("reads"), b"goes on");
    }
}

#[test]
fn a_scan_starts_at_any_record_and_ends_before_its_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let mut records = Vec::new();
    for index in 0..120 {
        records.push((
            store.append(&record(index)).expect("appends"),
            record(index),
        ));
        if index % 10 == 9 {
            store.flush().expect("flushes");
        }
    }
    assert_eq!(all(&store), records);
    for from in (0..records.len()).step_by(7) {
        for to in (from..records.len()).step_by(11) {
            let range = records[from].0..records[to].0;
            let found: Vec<_> = store
                .scan(range)
                .expect("a range")
                .map(|record| {
                    record
                        .map(|record| (record.lsn, record.payload))
                        .expect("whole")
                })
                .collect();
            assert_eq!(found, records[from..to]);
        }
    }
    let inside = Lsn::new(records[3].0.get() + 8);
    let failed = match store.scan(inside..) {
        Ok(mut scan) => scan.next().is_some_and(|record| record.is_err()),
        Err(_) => true,
    };
    assert!(failed, "a scan can't start inside a record");
}

/// A scan that begins within a record says so, and does not take it for damage, whatever is in it.
#[test]
fn a_scan_that_begins_at_no_record_says_so() {
    for len in [9000, 20_000] {
        for fill in [0, 1, 0xFF] {
            let dir = tempfile::tempdir().expect("a directory");
            let store = open(dir.path());
            let lsn = store.append(&vec![fill; len]).expect("appends");
            store.append_durable(b"behind").expect("appends");
            let end = lsn.get() + 8 + len as u64;
            for inside in (lsn.get() + 8..end).step_by(56).chain([lsn.get() + 1]) {
                let mut scan = store.scan(Lsn::new(inside)..).expect("a range");
                let error = scan.next().expect("an error").expect_err("no record");
                assert!(
                    matches!(error, ReadError::NotARecord { lsn } if lsn.get() == inside),
                    "{error:?} at {inside} of {lsn} with {fill}"
                );
                assert!(scan.next().is_none());
            }
        }
    }
}

#[test]
fn a_reader_beside_the_writer_sees_what_becomes_durable() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let reader = Reader::open(dir.path(), AnyBackend::auto()).expect("opens");
    assert!(reader.writer_alive().expect("asks"));
    for index in 0..50 {
        let lsn = store.append_durable(&record(index)).expect("appends");
        reader.refresh().expect("refreshes");
        assert!(reader.end() > lsn);
        assert_eq!(reader.read(lsn).expect("reads"), record(index));
    }
    store.close().expect("closes");
    reader.refresh().expect("refreshes");
    assert!(!reader.writer_alive().expect("asks"));
    assert_eq!(reader.durable(), reader.end());
}

#[test]
fn damage_to_a_record_is_named_when_it_is_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let lsn = store.append(&[7; 1000]).expect("appends");
    store.append(&[8; 10]).expect("appends");
    store.flush().expect("flushes");
    let path = dir.path().join("0000000000000000.seg");
    let mut bytes = std::fs::read(&path).expect("reads");
    bytes[usize::try_from(lsn.get()).expect("small") + 100] ^= 4;
    std::fs::write(&path, bytes).expect("writes");
    let error = store.read(lsn).expect_err("damaged");
    assert!(matches!(error, ReadError::Corrupt { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains(&lsn.to_string()) && text.contains("0000000000000000.seg"),
        "{text}"
    );
}
