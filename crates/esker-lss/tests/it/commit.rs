//! Durability: what a wait promises, and how device writes are shared.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use esker_lss::{CommitError, Lsn, Maintenance, Store};

use crate::faulty::Faulty;
use crate::support::{append_times, backends, open, open_with, small};

#[test]
fn a_wait_returns_only_when_the_durable_prefix_is_past_the_record() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    for index in 0..100u32 {
        let lsn = store.append(&index.to_le_bytes()).expect("appends");
        assert!(store.durable() <= lsn);
        store.wait_durable(lsn).expect("waits");
        assert!(store.durable() > lsn);
        assert!(store.durable() <= store.written() && store.written() <= store.tail());
    }
}

#[test]
fn a_wait_for_an_address_that_was_never_given_out_is_an_error_and_no_hang() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    for lsn in [store.tail(), Lsn::new(1 << 40), Lsn::new(u64::MAX)] {
        assert!(
            matches!(
                store.wait_durable(lsn),
                Err(CommitError::NotAppended { .. })
            ),
            "{lsn}"
        );
        assert!(
            matches!(
                store.wait_written(lsn),
                Err(CommitError::NotAppended { .. })
            ),
            "{lsn}"
        );
    }
}

#[test]
fn a_lone_durable_append_costs_one_device_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = Arc::new(Faulty::default());
    let store = Store::<Faulty>::open(dir.path(), Arc::clone(&backend), small()).expect("opens");
    let flushes = backend.flushes.load(Ordering::SeqCst);
    let writes = backend.writes.load(Ordering::SeqCst);
    for _ in 0..10 {
        store.append_durable(b"one").expect("appends");
    }
    assert_eq!(backend.flushes.load(Ordering::SeqCst) - flushes, 10);
    assert_eq!(backend.writes.load(Ordering::SeqCst) - writes, 10);
}

#[test]
fn many_appends_and_one_wait_cost_one_device_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = Arc::new(Faulty::default());
    let store = Store::<Faulty>::open(dir.path(), Arc::clone(&backend), small()).expect("opens");
    let flushes = backend.flushes.load(Ordering::SeqCst);
    let last = append_times(&store, 64, &[1; 100]);
    store.wait_durable(last).expect("waits");
    assert_eq!(backend.flushes.load(Ordering::SeqCst) - flushes, 1);
}

#[test]
fn flush_makes_everything_durable_and_costs_nothing_when_there_is_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    assert_eq!(store.flush().expect("flushes"), store.durable());
    for index in 0..500 {
        store.append(&[index as u8; 300]).expect("appends");
    }
    let end = store.flush().expect("flushes");
    assert_eq!(end, store.durable());
    let slots = store.info().expect("info").slots_written;
    assert_eq!(store.flush().expect("flushes"), end);
    assert_eq!(
        store.info().expect("info").slots_written,
        slots,
        "nothing was written for nothing"
    );
}

#[test]
fn a_completed_write_is_not_called_durable() {
    let dir = tempfile::tempdir().expect("a directory");
    // No sync unless somebody waits for one.
    let store = open_with(dir.path(), small().sync_every_bytes(u64::MAX));
    let start = store.durable();
    let last = append_times(&store, 40, &[1; 1000]);
    store.wait_written(last).expect("waits");
    assert!(store.written() > last);
    assert_eq!(store.durable(), start);
    store.wait_durable(last).expect("waits");
    assert!(store.durable() > last);
}

#[test]
fn the_window_is_kept_and_never_blocks_for_good() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = small().window_slots(4).sync_every_bytes(u64::MAX);
    let store = open_with(dir.path(), options);
    for _ in 0..500 {
        store.append(&[1; 5000]).expect("appends");
        let behind = store.written().get() - store.durable().get();
        assert!(behind <= store.info().expect("info").window_bytes);
    }
    store.flush().expect("flushes");
}

#[test]
fn a_store_that_commits_by_time_makes_durable_what_nobody_waits_for() {
    let every = Duration::from_millis(2);
    for backend in backends() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = small()
            .commit_every(Some(every))
            .maintenance(Maintenance::Thread);
        let store = Store::open(dir.path(), backend, options).expect("opens");
        for round in 0..5 {
            let lsn = store.append(&[round; 100]).expect("appends");
            let begun = Instant::now();
            while store.durable() <= lsn {
                assert!(begun.elapsed() < Duration::from_secs(60), "nobody commits");
                std::thread::sleep(every);
            }
        }
    }
}

#[test]
fn each_call_of_maintain_commits_once_its_time_has_come() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open_with(
        dir.path(),
        small().idle(None).commit_every(Some(Duration::ZERO)),
    );
    for round in 0..5 {
        let lsn = store.append(&[round; 100]).expect("appends");
        assert!(store.durable() <= lsn, "not before");
        store.maintain().expect("maintains");
        assert!(store.durable() > lsn);
    }
    drop(store);
    let dir = tempfile::tempdir().expect("a directory");
    let hour = Some(Duration::from_secs(3600));
    let store = open_with(dir.path(), small().idle(None).commit_every(hour));
    store.maintain().expect("maintains");
    let lsn = store.append(b"later").expect("appends");
    store.maintain().expect("maintains");
    assert!(store.durable() <= lsn, "its time has not come");
}
