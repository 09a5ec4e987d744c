//! What a store leaves behind when nothing is written for a while.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use esker_io::{AnyBackend, Backend, FileOptions};
use esker_lss::{Lsn, MaintainError, Maintenance, OpenError, Options, Store};

use crate::faulty::Faulty;
use crate::support::{AnyStore, all, crash, open, open_with, small};

/// A store with two records, both durable, and the second one's address.
fn with_two_commits(dir: &Path, options: Options) -> (AnyStore, Lsn) {
    let store = open_with(dir, options.maintenance(Maintenance::Thread));
    store.append_durable(b"first").expect("appends");
    let last = store.append_durable(&[7; 3000]).expect("appends");
    (store, last)
}

/// Waits until the store has found that it is idle.
fn await_stability_slot(store: &AnyStore) {
    let end = Instant::now() + Duration::from_secs(60);
    while store.info().expect("info").stability_slots == 0 {
        assert!(
            Instant::now() < end,
            "the store is idle, and leaves nothing"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Spoils the record at `lsn`, which lies in the first segment.
fn damage(dir: &Path, lsn: Lsn) {
    let path = dir.join("0000000000000000.seg");
    let segment = OpenOptions::new()
        .write(true)
        .open(path)
        .expect("it is there");
    let written = segment.write_all_at(&[0xff; 16], lsn.get() + 500);
    written.expect("written");
}

#[test]
fn damage_to_the_last_commit_before_a_pause_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, last) = with_two_commits(dir.path(), small());
    await_stability_slot(&store);
    crash(store);
    damage(dir.path(), last);
    let opened = AnyStore::open(dir.path(), AnyBackend::auto(), small());
    let Err(OpenError::Corrupt(damage)) = opened else {
        panic!("{:?}", opened.map(|store| store.tail()));
    };
    assert_eq!(damage.lsn, last);
}

/// The reason for the slot: without it the same damage looks like a torn tail.
#[test]
fn damage_to_the_last_commit_before_a_crash_ends_the_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, last) = with_two_commits(dir.path(), small().idle(None));
    crash(store);
    damage(dir.path(), last);
    let store = open(dir.path());
    assert_eq!(all(&store).len(), 1, "the second is gone");
}

#[test]
fn an_idle_store_leaves_one_slot_and_no_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, last) = with_two_commits(dir.path(), small());
    await_stability_slot(&store);
    let slots = store.info().expect("info").slots_written;
    thread::sleep(Duration::from_millis(100));
    assert_eq!(store.info().expect("info").slots_written, slots);
    assert!(store.durable() > last);
    store.close().expect("closes");
}

/// Waits until there are so many spare segments.
fn await_spares(store: &AnyStore, count: u64) {
    let end = Instant::now() + Duration::from_secs(60);
    while store.info().expect("info").spare_segments != count {
        assert!(Instant::now() < end, "no spare segment is made");
        thread::sleep(Duration::from_millis(1));
    }
}

/// How many of the log's files have a hole, from its end on, as far as the file system tells.
fn holes_ahead(dir: &Path, store: &AnyStore) -> usize {
    let backend = AnyBackend::auto();
    let segment_bytes = store.info().expect("info").segment_bytes;
    let tail = store.tail().get();
    (tail / segment_bytes..)
        .map_while(|segment| {
            let path = dir.join(format!("{segment:016x}.seg"));
            let file = backend.open(&path, &FileOptions::read()).ok()?;
            let from = tail.saturating_sub(segment * segment_bytes);
            let hole = backend.first_hole(&file, from.next_multiple_of(4096));
            Some(hole.expect("told").is_some())
        })
        .filter(|has_hole| *has_hole)
        .count()
}

#[test]
fn what_a_fast_log_has_only_reserved_is_written_when_it_has_calmed_down() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = || small().segment_bytes(1 << 20).spare_segments(0);
    let store = open_with(dir.path(), options());
    for _ in 0..600 {
        store.append(&[7; 3000]).expect("appends");
    }
    store.flush().expect("flushes");
    let holes = holes_ahead(dir.path(), &store);
    if holes == 0 {
        eprintln!("skipped: space that is reserved is written here, or it cannot be told");
        return;
    }
    // In the next life nobody remembers how the files were made.
    store.close().expect("closes");
    let store = open_with(dir.path(), options());
    assert_eq!(holes_ahead(dir.path(), &store), holes);
    store.append_durable(b"last").expect("appends");
    assert_eq!(store.info().expect("info").zero_bytes_written, 0);
    store.maintain().expect("maintains");
    assert_eq!(holes_ahead(dir.path(), &store), 0);
    assert!(store.info().expect("info").zero_bytes_written > 0);
    store.append_durable(&[8; 3000]).expect("appends");
    drop(store);
    assert_eq!(all(&open_with(dir.path(), options())).len(), 602);
}

#[test]
fn zeroes_are_not_written_where_the_log_has_come_meanwhile() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = || small().segment_bytes(1 << 20).spare_segments(0);
    let backend = Arc::new(Faulty::default());
    let store = Store::<Faulty>::open(dir.path(), Arc::clone(&backend), options()).expect("opens");
    let store = Arc::new(store);
    for _ in 0..600 {
        store.append(&[7; 3000]).expect("appends");
    }
    store.flush().expect("flushes");
    let other = Arc::clone(&store);
    *backend.during_first_hole.lock().expect("not poisoned") = Some(Box::new(move || {
        for _ in 0..20 {
            other.append_durable(&[8; 3000]).expect("appends");
        }
    }));
    store.maintain().expect("maintains");
    assert!(store.info().expect("info").zero_bytes_written > 0);
    drop(store);
    assert_eq!(all(&open_with(dir.path(), options())).len(), 620);
}

#[test]
fn a_store_that_is_only_read_makes_no_spare_segment_and_one_that_is_written_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    store.append_durable(b"first").expect("appends");
    store.close().expect("closes");
    let store = open_with(dir.path(), small().maintenance(Maintenance::Thread));
    // What the thread does at once takes less than a millisecond.
    thread::sleep(Duration::from_millis(50));
    assert_eq!(all(&store).len(), 1);
    assert_eq!(store.info().expect("info").spare_segments, 0);
    store.append_durable(b"second").expect("appends");
    await_spares(&store, 1);
}

/// What cannot be written is given up with its file, and another is made.
#[test]
fn a_spare_segment_that_cannot_be_written_is_begun_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = Arc::new(Faulty::default());
    let options = small().segment_bytes(1 << 20).spare_segments(1);
    let store = Store::<Faulty>::open(dir.path(), Arc::clone(&backend), options).expect("opens");
    store.append_durable(b"first").expect("appends");
    // The first call sees the log for the first time, and so with nothing written since.
    backend.writes_left.set(0);
    let failed = (0..3).find_map(|_| store.maintain().err());
    assert!(
        matches!(failed, Some(MaintainError::Space(_))),
        "{failed:?}"
    );
    let names = || fs::read_dir(dir.path()).expect("listed").count();
    let left = names();
    backend.writes_left.set(u64::MAX);
    for _ in 0..40 {
        store.maintain().expect("the disk is well again");
    }
    assert_eq!(store.info().expect("info").spare_segments, 1);
    assert_eq!(names(), left + 1, "nothing was left behind");
    store.append_durable(b"second").expect("appends");
    drop(store);
    assert_eq!(all(&open(dir.path())).len(), 2);
}
