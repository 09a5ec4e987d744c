//! A failed write or sync.

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use esker_lss::{AppendError, CommitError, MaintainError, ReadError, Store};

use crate::faulty::Faulty;
use crate::support::{all, append_times, flip, open, small};

fn faulty(dir: &std::path::Path) -> (Arc<Faulty>, Store<Faulty>) {
    let backend = Arc::new(Faulty::default());
    let store = Store::<Faulty>::open(dir, Arc::clone(&backend), small()).expect("opens");
    (backend, store)
}

#[test]
fn a_failed_write_is_final_and_what_was_durable_stays_readable() {
    let dir = tempfile::tempdir().expect("a directory");
    let (backend, store) = faulty(dir.path());
    let kept = store.append_durable(b"kept").expect("appends");
    backend.writes_left.set(0);
    let lost = store.append(b"lost").expect("appends");
    let error = store.wait_durable(lost).expect_err("the write failed");
    assert!(matches!(error, CommitError::Poisoned(_)), "{error:?}");
    assert!(error.to_string().contains("not known"), "{error}");
    // The device is well again; the store stays as it is.
    backend.writes_left.set(u64::MAX);
    assert!(matches!(
        store.append(b"more"),
        Err(AppendError::Poisoned(_))
    ));
    assert!(store.flush().is_err() && store.wait_durable(lost).is_err());
    assert!(store.durable() <= lost);
    assert_eq!(store.read(kept).expect("reads"), b"kept");
    let read = store.read(lost);
    assert!(matches!(read, Err(ReadError::Lost { .. })), "{read:?}");
    assert!(store.close().is_err(), "a clean close would be a lie");
    let store = open(dir.path());
    assert_eq!(all(&store), [(kept, b"kept".to_vec())]);
    store.append_durable(b"more").expect("appends");
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next() {
    let dir = tempfile::tempdir().expect("a directory");
    let (backend, store) = faulty(dir.path());
    let last = append_times(&store, 20, &[1; 5000]);
    store.wait_written(last).expect("waits");
    let durable = store.durable();
    backend.syncs_left.set(0);
    assert!(store.wait_durable(last).is_err());
    backend.syncs_left.set(u64::MAX);
    assert!(store.wait_durable(last).is_err());
    assert!(store.flush().is_err());
    assert_eq!(store.durable(), durable);
    // Of what was written behind it nobody knows whether it is there.
    assert!(durable < store.written());
    for record in store.scan(..).expect("a range") {
        assert!(record.expect("intact").lsn < durable);
    }
    flip(dir.path(), last.get() + 100);
    let many = store.read_many(std::slice::from_ref(&last)).next();
    let reads = [store.read(last), many.expect("an answer")];
    for read in reads {
        assert!(matches!(read, Err(ReadError::Lost { .. })), "{read:?}");
    }
}

/// A disk that fails to flush its cache may have dropped it, with what was not synced yet.
#[test]
fn a_failed_sync_of_the_next_segment_is_final() {
    let dir = tempfile::tempdir().expect("a directory");
    let (backend, store) = faulty(dir.path());
    // Into the segment that was made on opening, so that there is another to make.
    let last = append_times(&store, 12, &[1; 5000]);
    store.wait_durable(last).expect("the disk is well");
    let lost = store.append(b"lost").expect("appends");
    store.wait_written(lost).expect("waits");
    let durable = store.durable();
    backend.syncs_left.set(0);
    let failed = (0..3).find_map(|_| store.maintain().err());
    assert!(
        matches!(failed, Some(MaintainError::Space(_))),
        "{failed:?}"
    );
    backend.syncs_left.set(u64::MAX);
    let error = store.wait_durable(lost).expect_err("it may be gone");
    assert!(matches!(error, CommitError::Poisoned(_)), "{error:?}");
    assert_eq!(store.durable(), durable);
}

#[test]
fn a_success_does_not_count_while_a_sync_of_names_may_fail() {
    let dir = tempfile::tempdir().expect("a directory");
    let (backend, store) = faulty(dir.path());
    let store = Arc::new(store);
    let last = append_times(&store, 60, &[1; 5000]);
    store.wait_durable(last).expect("the disk is well");
    let durable = store.durable();
    let (sent, outcome) = mpsc::channel();
    let (shown, seen) = mpsc::channel();
    let other = Arc::clone(&store);
    *backend.during_dir_sync.lock().expect("not poisoned") = Some(Box::new(move || {
        let appending = Arc::clone(&other);
        thread::spawn(move || {
            let _gone = sent.send(appending.append_durable(b"in flight with it"));
        });
        // Until it is written, and longer: there would be time to acknowledge it.
        let end = Instant::now() + Duration::from_secs(20);
        while other.written() == durable && Instant::now() < end {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(50));
        // Nor is it given to those who follow what is durable.
        let mut followed = other.follow(durable).expect("it is the end");
        let seen = followed.try_next().expect("nothing has failed yet");
        let _gone = shown.send(seen);
    }));
    store
        .trim_before(last)
        .expect_err("the names are not synced");
    assert_eq!(seen.recv().expect("it has looked"), None);
    let outcome = outcome.recv().expect("it is woken");
    assert!(outcome.is_err(), "acknowledged: {outcome:?}");
    assert_eq!(store.durable(), durable);
}

#[test]
fn every_waiter_is_woken_with_the_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let (backend, store) = faulty(dir.path());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut acknowledged = 0;
                while store.append_durable(&[1; 300]).is_ok() {
                    acknowledged += 1;
                }
                assert!(acknowledged < 1_000_000);
            });
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        backend.writes_left.set(5);
    });
    assert!(store.append(b"more").is_err());
}

#[test]
fn appends_that_wait_for_room_are_woken_with_the_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let (backend, store) = faulty(dir.path());
    let writes = backend.writes.load(Ordering::SeqCst);
    backend.writes_left.set(3);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| while store.append(&[1; 3000]).is_ok() {});
        }
    });
    let written = backend.writes.load(Ordering::SeqCst) - writes;
    assert_eq!(written, 3, "nothing follows");
    assert!(store.durable().get() < 1 << 20);
}
