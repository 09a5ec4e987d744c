//! Waiting: parked without CPU, woken when it is worth it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::thread;
use std::time::Duration;

use esker_ring::{Reserve, ReserveExtent, Ring, Seal, SealedBuffer, TryReserve, Wait};

use crate::support::{extent_memory, small};

/// A ring whose two buffers are both sealed, and held here.
fn full() -> (Ring, Vec<SealedBuffer>) {
    let ring = small().buffers(2).build().expect("a ring");
    let held = seal_both(&ring);
    (ring, held)
}

fn seal_both(ring: &Ring) -> Vec<SealedBuffer> {
    let seals = (0..2).map(|_| {
        let Ok(TryReserve::Reserved(record)) = ring.try_reserve(64) else {
            panic!("a slot is free");
        };
        assert!(record.commit().is_none());
        let Seal::Sealed {
            buffer: Some(buffer),
            ..
        } = ring.seal()
        else {
            panic!("nobody else is in it");
        };
        buffer
    });
    seals.collect()
}

fn full_wait(ring: &Ring) -> Wait {
    match ring.try_reserve(64) {
        Ok(TryReserve::Full(wait)) => wait,
        other => panic!("not full: {other:?}"),
    }
}

/// State and CPU ticks of a thread, from `/proc/self/task/TID/stat`.
fn stat(tid: u64) -> (char, u64) {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).expect("procfs");
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .expect("a name in brackets")
        .1
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("ticks");
    (
        fields[0].chars().next().expect("a state"),
        ticks(11) + ticks(12),
    )
}

fn own_tid() -> u64 {
    let link = std::fs::read_link("/proc/thread-self").expect("procfs");
    link.file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.parse().ok())
        .expect("a thread id")
}

#[test]
fn a_full_ring_parks_its_reservers_without_cpu() {
    let (ring, mut held) = full();
    let (send_tid, tids) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let waiters: Vec<_> = [false, false, true]
            .map(|by_appender| {
                let (ring, send_tid) = (&ring, send_tid.clone());
                scope.spawn(move || {
                    let mut appender = ring.appender();
                    send_tid.send(own_tid()).expect("the test listens");
                    let reserved = if by_appender {
                        appender.reserve(64)
                    } else {
                        ring.reserve(64)
                    };
                    match reserved.expect("it fits") {
                        Reserve::Reserved(record) => record.commit().map(|b| b.seq()),
                        other => panic!("not reserved: {other:?}"),
                    }
                })
            })
            .into();
        let tids: Vec<u64> = (0..3).map(|_| tids.recv().expect("a thread id")).collect();
        for &tid in &tids {
            while stat(tid).0 != 'S' {
                thread::yield_now();
            }
        }
        let before: Vec<u64> = tids.iter().map(|&tid| stat(tid).1).collect();
        thread::sleep(Duration::from_millis(200));
        // Asleep all the time: a spinning thread would have used up to 20 ticks.
        for (&tid, before) in tids.iter().zip(before) {
            assert_eq!(stat(tid), ('S', before));
        }
        held.remove(0).recycle();
        for waiter in waiters {
            assert_eq!(waiter.join().expect("a waiter"), None);
        }
    });
}

/// What a wait was for may be there, used and gone again: it is over all the same.
#[test]
fn a_wait_of_long_ago_is_over() {
    let (ring, held) = full();
    let settled = full_wait(&ring);
    drop(held);
    let held = seal_both(&ring);
    assert!(ring.wait(&settled, Some(Duration::ZERO)));
    drop(held);

    // An extent waits for a slot, into which a buffer comes and leaves it again.
    let Ok(TryReserve::Reserved(record)) = ring.try_reserve(64) else {
        panic!("a slot is free");
    };
    assert!(record.commit().is_none());
    let Seal::Sealed { buffer, .. } = ring.seal() else {
        panic!("it holds a record");
    };
    let Ok(TryReserve::Reserved(record)) = ring.try_reserve(64) else {
        panic!("a slot is free");
    };
    assert!(record.commit().is_none());
    let Ok(ReserveExtent::Full { wait, .. }) = ring.reserve_extent(extent_memory(5000), 5000)
    else {
        panic!("the next slot is taken");
    };
    assert!(!ring.wait(&wait, Some(Duration::ZERO)));
    drop(buffer);
    drop(seal_both(&ring));
    assert!(ring.wait(&wait, Some(Duration::ZERO)));
}

/// Who asks again is told that it is sealed, though a writer is in the buffer and no other is open.
#[test]
fn a_sealed_buffer_with_a_writer_in_it_is_sealed() {
    let (ring, mut held) = full();
    held.remove(0).recycle();
    let Ok(TryReserve::Reserved(record)) = ring.try_reserve(64) else {
        panic!("a slot is free");
    };
    let Seal::Sealed {
        end, buffer: None, ..
    } = ring.seal()
    else {
        panic!("a writer is in it");
    };
    assert!(matches!(ring.seal(), Seal::AlreadySealed { end: sealed } if sealed == end));
    assert!(record.commit().is_some());
}

#[test]
fn a_wait_ends_with_its_timeout() {
    let (ring, held) = full();
    let wait = full_wait(&ring);
    assert!(!ring.wait(&wait, Some(Duration::from_millis(5))));
    assert!(!ring.wait(&wait, Some(Duration::ZERO)));
    drop(held);
    assert!(ring.wait(&wait, Some(Duration::ZERO)));
    // Stale by now: returns at once.
    assert!(ring.wait(&wait, None));
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_task_is_woken_once() {
    let (ring, held) = full();
    let wait = full_wait(&ring);
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    assert!(ring.notify(&wait, &waker));
    assert!(
        ring.notify(&wait, &waker),
        "polled again: still registered once"
    );
    assert_eq!(count.0.load(Ordering::Relaxed), 0);
    drop(held);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert!(!ring.notify(&wait, &waker));
}

struct Panic;

impl Wake for Panic {
    fn wake(self: Arc<Self>) {
        panic!("an executor fails");
    }
}

/// Neither the others who wait, nor whoever moved the ring: a sealer would leave its buffer behind.
#[test]
fn a_waker_that_panics_disturbs_nobody() {
    let (ring, mut held) = full();
    let wait = full_wait(&ring);
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let wakers = [
        Waker::from(Arc::new(Panic)),
        Waker::from(Arc::clone(&count)),
    ];
    assert!(wakers.iter().all(|waker| ring.notify(&wait, waker)));
    held.remove(0).recycle();
    assert_eq!(count.0.load(Ordering::Relaxed), 1);

    // A seal wakes, too, while it still has its writer in the buffer.
    let Ok(TryReserve::Reserved(record)) = ring.try_reserve(64) else {
        panic!("it is open again");
    };
    assert!(record.commit().is_none());
    let Ok(ReserveExtent::Full { wait, .. }) = ring.reserve_extent(extent_memory(5000), 5000)
    else {
        panic!("the next slot is taken");
    };
    assert!(ring.notify(&wait, &wakers[0]));
    assert!(matches!(
        ring.seal(),
        Seal::Sealed {
            buffer: Some(_),
            ..
        }
    ));
}

#[test]
fn whoever_waits_in_a_full_ring_is_told_of_the_limit_when_a_slot_is_free() {
    let limit = (1 << 20) + 512 + 4096;
    let ring = small().buffers(2).limit(limit).build().expect("a ring");
    let held = seal_both(&ring);
    // Full first, although the limit is in the way as well.
    let wait = full_wait(&ring);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| ring.wait(&wait, None));
        drop(held);
        assert!(waiter.join().expect("the waiter"));
    });
    assert!(matches!(
        ring.try_reserve(64),
        Ok(TryReserve::Limit { needed }) if needed == limit + 512
    ));
    // Nobody waits for a limit: what is too low for the next buffer wakes nobody, and nothing else
    // is needed.
    ring.raise_limit(limit + 512);
    assert!(matches!(ring.try_reserve(64), Ok(TryReserve::Reserved(_))));
}

#[test]
fn an_orphan_wakes_whoever_waits() {
    let ring = small().buffers(2).build().expect("a ring");
    let Ok(TryReserve::Reserved(record)) = ring.try_reserve(64) else {
        panic!("it is empty");
    };
    assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
    let Ok(TryReserve::Reserved(second)) = ring.try_reserve(64) else {
        panic!("the second slot is free");
    };
    assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| match ring.reserve(64) {
            Ok(Reserve::Sealed(buffer)) => buffer.seq().get(),
            other => panic!("no orphan: {other:?}"),
        });
        drop(record);
        assert_eq!(waiter.join().expect("the waiter"), 7);
    });
    drop(second);
    assert_eq!(ring.take_orphan().expect("an orphan").seq().get(), 8);
}

#[test]
fn an_orphan_that_has_been_taken_ends_no_wait() {
    let ring = small().buffers(2).build().expect("a ring");
    let Ok(TryReserve::Reserved(record)) = ring.try_reserve(64) else {
        panic!("it is empty");
    };
    assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
    drop(record);
    let orphan = ring.take_orphan().expect("an orphan");
    assert!(ring.take_orphan().is_none());
    let Ok(TryReserve::Reserved(record)) = ring.try_reserve(64) else {
        panic!("the second slot is free");
    };
    assert!(record.commit().is_none());
    let Seal::Sealed { buffer, .. } = ring.seal() else {
        panic!("it holds a record");
    };
    let wait = full_wait(&ring);
    assert!(!ring.wait(&wait, Some(Duration::ZERO)), "nothing has come");
    drop((orphan, buffer));
    assert!(ring.wait(&wait, Some(Duration::ZERO)));
}
