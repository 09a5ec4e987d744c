//! Segments, trimming, and a full disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use esker_lss::{AppendError, Lsn, ReadError, Store, TrimError};

use crate::faulty::Faulty;
use crate::support::{all, all_beside, crash, open, small};

fn segment_files(dir: &Path) -> usize {
    std::fs::read_dir(dir)
        .expect("lists")
        .filter(|entry| {
            entry
                .as_ref()
                .expect("an entry")
                .path()
                .extension()
                .is_some_and(|ext| ext == "seg")
        })
        .count()
}

fn fill(store: &crate::support::AnyStore, count: usize) -> Vec<(Lsn, Vec<u8>)> {
    let records = (0..count)
        .map(|index| {
            (
                store.append(&[index as u8; 3000]).expect("appends"),
                vec![index as u8; 3000],
            )
        })
        .collect();
    store.flush().expect("flushes");
    records
}

#[test]
fn trim_frees_whole_segments_and_keeps_every_record_from_its_address_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let records = fill(&store, 200);
    let files = segment_files(dir.path());
    let (cut, _) = records[150];
    let first = store.trim_before(cut).expect("trims");
    assert!(first <= cut && first > records[0].0);
    assert_eq!(first, store.first());
    assert!(segment_files(dir.path()) < files);
    let kept: Vec<_> = records
        .iter()
        .filter(|(lsn, _)| *lsn >= first)
        .cloned()
        .collect();
    assert!(kept.len() >= 50);
    assert_eq!(all(&store), kept);
    assert!(matches!(
        store.read(records[0].0),
        Err(ReadError::Trimmed { .. })
    ));
    // Trimmed once is trimmed: a lower address changes nothing.
    assert_eq!(store.trim_before(records[10].0).expect("trims"), first);
    crash(store);
    assert_eq!(all_beside(dir.path()), kept);
    let store = open(dir.path());
    assert_eq!(all(&store), kept);
    assert_eq!(store.first(), first);
}

#[test]
fn trimming_what_is_not_durable_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let lsn = store.append(b"one").expect("appends");
    for beyond in [lsn, store.tail(), Lsn::new(u64::MAX)] {
        let result = store.trim_before(Lsn::new(beyond.get().max(store.durable().get() + 1)));
        assert!(
            matches!(result, Err(TrimError::NotDurable { .. })),
            "{result:?}"
        );
    }
}

#[test]
fn a_log_that_is_trimmed_as_it_grows_keeps_to_its_space() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    for _ in 0..30 {
        let records = fill(&store, 40);
        store.trim_before(records[30].0).expect("trims");
        assert!(
            segment_files(dir.path()) <= 8,
            "{} segments",
            segment_files(dir.path())
        );
    }
}

#[test]
fn a_full_disk_is_reported_before_a_record_has_an_address_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = Arc::new(Faulty::default());
    let store = Store::<Faulty>::open(dir.path(), Arc::clone(&backend), small()).expect("opens");
    backend.full.store(true, Ordering::SeqCst);
    let mut records = Vec::new();
    let error = loop {
        match store.append(&[1; 3000]) {
            Ok(lsn) => records.push(lsn),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AppendError::NoSpace { .. }), "{error:?}");
    assert!(!records.is_empty());
    store.flush().expect("what was accepted has its space");
    for lsn in &records {
        assert_eq!(store.read(*lsn).expect("reads"), [1; 3000]);
    }
    assert!(store.append_durable(b"x").is_err() || store.append_durable(&[1; 9000]).is_err());
    drop(store);

    // Still full: it opens, gives everything back, and can be trimmed; then there is room again.
    let store = Store::<Faulty>::open(dir.path(), Arc::clone(&backend), small())
        .expect("opens on a full disk");
    for lsn in &records {
        assert_eq!(store.read(*lsn).expect("reads"), [1; 3000]);
    }
    backend.full.store(false, Ordering::SeqCst);
    store.append_durable(&[2; 9000]).expect("there is room");
}

#[test]
fn trimming_a_full_disk_makes_room() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = Arc::new(Faulty::default());
    let store = Store::<Faulty>::open(dir.path(), Arc::clone(&backend), small().spare_segments(2))
        .expect("opens");
    for _ in 0..100 {
        store.append(&[1; 3000]).expect("appends");
    }
    store.flush().expect("flushes");
    backend.full.store(true, Ordering::SeqCst);
    while store.append(&[1; 3000]).is_ok() {}
    let end = store.flush().expect("flushes");
    store.trim_before(end).expect("trims");
    // The trimmed segments are used again.
    for _ in 0..20 {
        store
            .append_durable(&[2; 3000])
            .expect("there is room again");
    }
}

#[test]
fn records_of_every_size_up_to_the_limit_are_kept_and_larger_ones_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let buffer = 16 << 10;
    let limit = 256 << 10;
    let sizes = [
        0,
        1,
        7,
        8,
        9,
        buffer - 73,
        buffer - 72,
        buffer - 71,
        buffer,
        65_536,
        100_001,
        limit,
    ];
    let mut expected = Vec::new();
    for (index, size) in sizes.into_iter().enumerate() {
        let payload = vec![index as u8; size];
        expected.push((store.append(&payload).expect("appends"), payload));
    }
    let before = store.tail();
    let error = store.append(&vec![0; limit + 1]).expect_err("too large");
    assert!(matches!(error, AppendError::TooLarge { .. }), "{error:?}");
    assert_eq!(store.tail(), before, "nothing of it was written");
    for (lsn, payload) in &expected {
        assert!(&store.read(*lsn).expect("reads") == payload);
    }
    store.flush().expect("flushes");
    for (lsn, payload) in &expected {
        assert!(&store.read(*lsn).expect("reads") == payload);
    }
    crash(store);
    assert!(all(&open(dir.path())) == expected);
}
