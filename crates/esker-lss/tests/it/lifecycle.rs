//! Creating, closing, crashing, opening again.

use std::collections::BTreeSet;
use std::sync::Arc;

use esker_io::{AnyBackend, Backend};
use esker_lss::{OpenError, Options, Store};

use crate::faulty::Faulty;
use crate::support::{all, all_beside, backends, crash, flip, open, open_with, record, small};

#[test]
fn what_was_appended_comes_back_after_a_clean_close_on_every_backend_and_in_every_order() {
    for ordering in [
        esker_io::Ordering::TailLocalised,
        esker_io::Ordering::Serialised,
    ] {
        for backend in backends() {
            let dir = tempfile::tempdir().expect("a directory");
            let store =
                Store::open(dir.path(), backend, small().ordering(ordering)).expect("opens");
            let mut expected = Vec::new();
            for index in 0..300 {
                let lsn = store.append(&record(index)).expect("appends");
                expected.push((lsn, record(index)));
            }
            store.close().expect("closes");
            let store = open(dir.path());
            assert_eq!(all(&store), expected);
            for (lsn, payload) in &expected {
                assert_eq!(&store.read(*lsn).expect("reads"), payload);
            }
        }
    }
}

#[test]
fn what_is_durable_survives_a_crash_and_the_log_goes_on_from_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut expected = Vec::new();
    for life in 0..20 {
        let store = open(dir.path());
        assert_eq!(all(&store), expected, "life {life}");
        for index in 0..30 {
            let index = life * 100 + index;
            expected.push((
                store.append(&record(index)).expect("appends"),
                record(index),
            ));
        }
        store.flush().expect("flushes");
        // Appended, and lost: nobody was told that it is durable.
        for index in 0..life % 3 {
            store.append(&[index as u8; 10]).expect("appends");
        }
        crash(store);
        let seen = all_beside(dir.path());
        assert_eq!(&seen[..expected.len()], &expected[..]);
    }
}

/// After a clean close nothing is read of the log; after a crash, what the last checkpoint leaves: a
/// segment, the window, and what was made ahead.
#[test]
fn opening_reads_no_more_of_a_longer_log() {
    const SEGMENT: u64 = 64 << 10;
    let mut read = Vec::new();
    for segments in [6, 60] {
        for is_closed in [true, false] {
            let dir = tempfile::tempdir().expect("a directory");
            let store = open(dir.path());
            while store.tail().get() < segments * SEGMENT {
                store.append_durable(&[7; 9000]).expect("appends");
                if !is_closed {
                    store.maintain().expect("maintains");
                }
            }
            if is_closed {
                store.close().expect("closes");
            } else {
                crash(store);
            }
            let backend = Arc::new(AnyBackend::blocking());
            let store = Store::<AnyBackend>::open(dir.path(), Arc::clone(&backend), small());
            let store = store.expect("opens");
            read.push(backend.statistics().reads.bytes);
            drop(store);
        }
    }
    assert_eq!(read[0], read[2], "after a clean close");
    assert!(read[3] <= read[1] + 2 * SEGMENT, "after a crash: {read:?}");
}

#[test]
fn a_life_without_a_record_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let lsn = store.append_durable(b"one").expect("appends");
    crash(store);
    for life in 0..10 {
        let store = open(dir.path());
        assert_eq!(all(&store), [(lsn, b"one".to_vec())]);
        if life % 2 == 0 {
            crash(store);
        } else {
            store.close().expect("closes");
        }
    }
}

#[test]
fn a_second_writer_is_refused_and_told_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let options = small().lock_timeout(std::time::Duration::from_millis(20));
    let error = Store::open(dir.path(), AnyBackend::auto(), options)
        .err()
        .expect("refused");
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains("writer"), "{error}");
    drop(store);
    open(dir.path());
}

#[test]
fn a_missing_store_is_created_only_if_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("none");
    let error = Store::open(&path, AnyBackend::auto(), small().create(false))
        .err()
        .expect("refused");
    assert!(matches!(error, OpenError::NoStore { .. }), "{error:?}");
    assert!(!path.exists());
    open(&path).close().expect("closes");
    open_with(&path, small().create(false))
        .close()
        .expect("closes");
}

#[test]
fn segments_without_a_superblock_are_not_taken_for_a_new_store() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    store.append_durable(b"one").expect("appends");
    store.close().expect("closes");
    std::fs::remove_file(dir.path().join("superblock")).expect("removes");
    let before = std::fs::read_dir(dir.path()).expect("lists").count();
    Store::open(dir.path(), AnyBackend::auto(), small())
        .err()
        .expect("refused");
    assert_eq!(
        std::fs::read_dir(dir.path()).expect("lists").count(),
        before
    );
}

#[test]
fn sizes_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    for options in [
        small().buffers(1),
        small().buffer_bytes(5000),
        small().buffer_bytes(0),
        small().block_bytes(0),
        small().block_bytes(1000),
        small().segment_bytes(100_000),
        small().segment_bytes(0),
        small().max_record_bytes(u64::MAX),
        small().window_slots(0),
        small().buffers(1000),
        small().buffer_bytes(usize::MAX),
    ] {
        let path = dir.path().join("store");
        let result = Store::open(&path, AnyBackend::auto(), options.clone());
        assert!(result.is_err(), "{options:?}");
        let _none = std::fs::remove_dir_all(&path);
    }
}

#[test]
fn the_sizes_of_an_existing_store_hold_whatever_is_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let lsn = store.append(&vec![1; 200_000]).expect("appends");
    store.close().expect("closes");
    let store = open_with(dir.path(), Options::default());
    assert_eq!(store.read(lsn).expect("reads").len(), 200_000);
    assert_eq!(store.info().expect("info").segment_bytes, 64 << 10);
    assert!(
        store.append(&vec![1; 300_000]).is_err(),
        "the record limit is the store's"
    );
}

#[test]
fn the_old_tail_never_comes_back() {
    // A tail that recovery dropped has valid bytes at addresses that are given out again.
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let kept = store.append_durable(b"kept").expect("appends");
    for index in 0..10 {
        store
            .append_durable(format!("old {index}").as_bytes())
            .expect("appends");
    }
    let torn = store.durable();
    crash(store);
    // The first slot after `kept` is torn: everything after it is dropped, even if it is valid.
    // Slots are one block each, and the header of each says that the one before it is durable;
    // so break the tail where nothing says so: the last slot.
    let path = dir.path().join("0000000000000000.seg");
    let mut bytes = std::fs::read(&path).expect("reads");
    let last = usize::try_from(torn.get()).expect("small") - 4096;
    bytes[last + 70] ^= 1;
    std::fs::write(&path, bytes).expect("writes");
    let store = open(dir.path());
    let records = all(&store);
    assert_eq!(records.len(), 10, "all but the last");
    assert_eq!(records[0].0, kept);
    let new = store.append_durable(b"new").expect("appends");
    crash(store);
    let store = open(dir.path());
    let records = all(&store);
    assert_eq!(records.len(), 11);
    assert_eq!(records[10], (new, b"new".to_vec()));
}

/// What opening a store again reads and writes: operations, and bytes.
/// A page cache may forget what it could not write, at any moment: what opening has found once and does not
/// find again is no part of the log, in this life and in all that follow.
#[test]
fn what_is_not_there_any_more_when_it_is_looked_at_again_is_dropped_for_good() {
    let mut kept_each = BTreeSet::new();
    for reads in 0.. {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(dir.path());
        let first = store.append_durable(b"proven").expect("appends");
        let mut written = vec![(first, b"proven".to_vec())];
        // The last but one of the slots goes from the second segment to the third.
        for index in 0..45 {
            let payload = vec![index; 3000];
            written.push((store.append(&payload).expect("appends"), payload));
        }
        store.wait_written(written[45].0).expect("written");
        crash(store);

        let backend = Arc::new(Faulty::default());
        let (lsn, path) = (written[37].0.get(), dir.path().to_path_buf());
        *backend.before_read.lock().expect("not poisoned") =
            Some((reads, Box::new(move || flip(&path, lsn + 100))));
        let store = Store::<Faulty>::open(dir.path(), Arc::clone(&backend), small());
        let store = store.expect("nothing of it was acknowledged");
        let is_over = backend.before_read.lock().expect("not poisoned").is_some();
        // The next life's slots end elsewhere.
        store.append(&[0; 20_000]).expect("appends");
        let last = (0..30).map(|index| store.append_durable(&[index; 2000]).expect("appends"));
        let last: Vec<_> = last.collect();
        let found = all_beside(dir.path());
        let kept = found.len() - 31;
        assert!(found[..kept] == written[..kept], "after {reads} reads");
        kept_each.insert(kept);
        let first = store.trim_before(last[4]).expect("trims");
        crash(store);

        let left = found.partition_point(|(lsn, _)| *lsn < first);
        assert!(
            all(&open(dir.path())) == found[left..],
            "after {reads} reads"
        );
        if is_over {
            break;
        }
    }
    assert!(kept_each.len() > 1, "{kept_each:?}");
}

fn costs_of_opening(records: usize) -> [u64; 4] {
    let dir = tempfile::tempdir().expect("a directory");
    let options = || small().spare_segments(0);
    let store = open_with(dir.path(), options());
    for _ in 0..records {
        store.append(&[7; 3000]).expect("appends");
    }
    store.close().expect("closes");
    let store = open_with(dir.path(), options());
    let statistics = store.backend().statistics();
    [
        statistics.reads.completed,
        statistics.reads.bytes,
        statistics.writes.completed,
        statistics.writes.bytes,
    ]
}

#[test]
fn opening_what_was_closed_costs_the_same_whatever_its_size() {
    // Where the tail lies in its segment is no matter either: twenty fill one.
    let costs = [1, 10, 15, 20, 200].map(costs_of_opening);
    let [reads, read_bytes, writes, written_bytes] = costs[0];
    assert!(reads <= 2 && read_bytes <= 8192, "{costs:?}");
    assert!(writes <= 2 && written_bytes <= 8192, "{costs:?}");
    assert!(costs.iter().all(|cost| *cost == costs[0]), "{costs:?}");
}
