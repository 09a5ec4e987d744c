//! Durability as a future: what it ends with, who is woken, and what being dropped costs.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use esker_lss::{CommitError, Lsn, Maintenance, Options, Store, UntilDurable};

use crate::faulty::Faulty;
use crate::support::{AnyStore, append_times, backends, open, open_with, small};

/// Wakes a thread that runs futures, and counts.
struct Unpark {
    thread: Thread,
    wakes: AtomicUsize,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        self.thread.unpark();
    }
}

fn unpark() -> (Arc<Unpark>, Waker) {
    let unpark = Arc::new(Unpark {
        thread: thread::current(),
        wakes: AtomicUsize::new(0),
    });
    (Arc::clone(&unpark), Waker::from(unpark))
}

fn poll(future: &mut UntilDurable, waker: &Waker) -> Poll<Result<(), CommitError>> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// Runs futures in this thread until all have ended, polling all of them whenever one is woken.
fn join_all(mut futures: Vec<UntilDurable>) -> Vec<Result<(), CommitError>> {
    let (_, waker) = unpark();
    let mut results: Vec<_> = futures.iter().map(|_| None).collect();
    loop {
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(ended) = poll(future, &waker)
            {
                *result = Some(ended);
            }
        }
        if results.iter().all(Option::is_some) {
            return results.into_iter().flatten().collect();
        }
        thread::park();
    }
}

fn block_on(future: UntilDurable) -> Result<(), CommitError> {
    join_all(vec![future]).pop().expect("one")
}

/// Small buffers, a committer, and no slot that nobody has asked for.
fn threaded() -> Options {
    small().maintenance(Maintenance::Thread).idle(None)
}

#[test]
fn a_future_ends_only_when_the_durable_prefix_is_past_the_record() {
    for backend in backends() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = AnyStore::open(dir.path(), backend, threaded()).expect("opens");
        for index in 0..100u32 {
            let lsn = store.append(&index.to_le_bytes()).expect("appends");
            let future = store.until_durable(lsn);
            assert_eq!(future.end(), Lsn::new(lsn.get() + 1));
            block_on(future).expect("is durable");
            assert!(store.durable() > lsn);
        }
        let last = append_times(&store, 100, &[1; 3000]);
        block_on(store.until_flushed()).expect("is durable");
        assert!(store.durable() > last);
        block_on(store.until_durable(last)).expect("it is already");
    }
}

#[test]
fn futures_of_one_thread_share_one_device_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open_with(dir.path(), threaded().sync_every_bytes(u64::MAX));
    let slots = || {
        let info = store.info().expect("info");
        (info.slots_written, info.syncs)
    };
    for _ in 0..10 {
        let (written, syncs) = slots();
        let records: Vec<_> = (0..64)
            .map(|_| append_times(&store, 1, &[1; 100]))
            .collect();
        let futures = records
            .iter()
            .map(|lsn| store.until_durable(*lsn))
            .collect();
        assert!(join_all(futures).iter().all(Result::is_ok));
        assert_eq!(slots(), (written + 1, syncs));
    }
}

#[test]
fn futures_and_threads_that_wait_together_all_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open_with(dir.path(), threaded());
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..200 {
                    store.append_durable(&[1; 100]).expect("appends");
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..50 {
                    let futures = (0..16).map(|index| {
                        let lsn = append_times(&store, 1, &[2; 100]);
                        let mut future = store.until_durable(lsn);
                        if (round + index) % 3 == 0 {
                            // Left behind by somebody who gave up, and polled by nobody.
                            let _pending = poll(&mut future, Waker::noop());
                            drop(future);
                            future = store.until_durable(lsn);
                        }
                        future
                    });
                    assert!(join_all(futures.collect()).iter().all(Result::is_ok));
                }
            });
        }
    });
    store.close().expect("closes");
}

#[test]
fn a_future_moves_between_threads_and_wakes_who_polled_it_last() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let lsn = append_times(&store, 1, b"a record");
    let mut future = store.until_durable(lsn);
    let (first, waker) = unpark();
    assert!(poll(&mut future, &waker).is_pending());
    let other = thread::spawn(move || {
        let (second, waker) = unpark();
        assert!(poll(&mut future, &waker).is_pending());
        (future, second)
    });
    let (mut future, second) = other.join().expect("no panic");
    store.wait_durable(lsn).expect("waits");
    assert_eq!(
        [&first, &second].map(|unpark| unpark.wakes.load(Ordering::SeqCst)),
        [0, 1]
    );
    assert!(matches!(poll(&mut future, &waker), Poll::Ready(Ok(()))));
    assert!(matches!(poll(&mut future, &waker), Poll::Ready(Ok(()))));
}

#[test]
fn a_future_that_is_dropped_is_woken_no_more_and_asks_for_no_commit() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let lsn = append_times(&store, 1, b"a record");
    let (count, waker) = unpark();
    let mut kept = store.until_durable(lsn);
    let mut dropped = store.until_durable(lsn);
    assert!(poll(&mut kept, &waker).is_pending() && poll(&mut dropped, &waker).is_pending());
    drop(dropped);
    store.wait_durable(lsn).expect("waits");
    assert_eq!(count.wakes.load(Ordering::SeqCst), 1);
    let lsn = append_times(&store, 1, b"another");
    let mut dropped = store.until_durable(lsn);
    assert!(poll(&mut dropped, &waker).is_pending());
    drop(dropped);
    store.maintain().expect("maintains");
    assert!(store.durable() <= lsn, "nobody wants it");
}

#[test]
fn without_a_thread_of_its_own_the_store_commits_for_futures_when_it_is_maintained() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let lsn = append_times(&store, 5, &[1; 5000]);
    let (count, waker) = unpark();
    let mut future = store.until_durable(lsn);
    assert!(poll(&mut future, &waker).is_pending());
    assert!(poll(&mut future, &waker).is_pending());
    assert!(store.durable() <= lsn);
    store.maintain().expect("maintains");
    assert_eq!(count.wakes.load(Ordering::SeqCst), 1);
    assert!(matches!(poll(&mut future, &waker), Poll::Ready(Ok(()))));
}

#[test]
fn a_future_that_outlives_the_store_is_woken_and_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let (kept, lost) = (append_times(&store, 1, b"kept"), store.tail());
    store.wait_durable(kept).expect("waits");
    let lost_lsn = append_times(&store, 1, b"lost");
    assert!(lost_lsn >= lost);
    let (count, waker) = unpark();
    let (mut kept, mut lost) = (store.until_durable(kept), store.until_durable(lost_lsn));
    let mut unpolled = store.until_durable(lost_lsn);
    assert!(poll(&mut lost, &waker).is_pending());
    drop(store);
    assert_eq!(count.wakes.load(Ordering::SeqCst), 1);
    assert!(matches!(poll(&mut kept, &waker), Poll::Ready(Ok(()))));
    for future in [&mut lost, &mut unpolled] {
        let ended = poll(future, &waker);
        assert!(
            matches!(ended, Poll::Ready(Err(CommitError::Closed))),
            "{ended:?}"
        );
    }

    let store = open(dir.path());
    let lsn = append_times(&store, 1, b"closed");
    let mut future = store.until_durable(lsn);
    assert!(poll(&mut future, &waker).is_pending());
    store.close().expect("closes");
    assert!(matches!(poll(&mut future, &waker), Poll::Ready(Ok(()))));
}

#[test]
fn every_future_is_woken_with_the_error() {
    for options in [small(), threaded()] {
        let dir = tempfile::tempdir().expect("a directory");
        let backend = Arc::new(Faulty::default());
        let store =
            Store::<Faulty>::open(dir.path(), Arc::clone(&backend), options).expect("opens");
        backend.writes_left.set(0);
        let futures: Vec<_> = (0..16)
            .map(|_| store.until_durable(append_times(&store, 1, &[1; 100])))
            .collect();
        thread::scope(|scope| {
            let joined = scope.spawn(|| join_all(futures));
            let _poisoned = store.flush();
            for result in joined.join().expect("no panic") {
                assert!(
                    matches!(result, Err(CommitError::Poisoned(_))),
                    "{result:?}"
                );
            }
        });
        assert!(block_on(store.until_flushed()).is_err(), "it stays so");
    }
}

#[test]
fn a_future_for_an_address_that_was_never_given_out_ends_with_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    for lsn in [store.tail(), Lsn::new(u64::MAX)] {
        let result = block_on(store.until_durable(lsn));
        assert!(matches!(result, Err(CommitError::NotAppended { .. })));
    }
    block_on(store.until_flushed()).expect("there is nothing to wait for");
}
