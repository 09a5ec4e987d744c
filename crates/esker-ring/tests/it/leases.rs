//! Appenders and their leases.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use esker_buf::{AlignedBuf, Alignment};
use esker_ring::{
    Appender, PinCommitted, Reservation, ReserveError, ReserveExtent, Ring, RingBuilder, Seal,
    TryReserve,
};

use crate::support::{
    HEADER, Lcg, RECORD_HEAD, Sink, append, append_extent, append_leased, drain, fill, small,
};

const FIRST: u64 = 7;
const BASE: u64 = 1 << 20;

/// Leases of up to 1 KiB in buffers of 4 KiB.
fn leasing() -> RingBuilder {
    small().lease_bytes(1024)
}

fn reserved(appender: &mut Appender, len: usize) -> Reservation<'_> {
    match appender.try_reserve(len) {
        Ok(TryReserve::Reserved(record)) => record,
        other => panic!("not reserved: {other:?}"),
    }
}

#[test]
fn records_of_a_lease_follow_each_other_and_their_addresses_are_final() {
    let ring = leasing().build().expect("a ring");
    let sink = Sink::default();
    let mut appender = ring.appender();
    let mut appended = Vec::new();
    for counter in 0..1000 {
        let len = RECORD_HEAD + usize::try_from(counter % 90).expect("small");
        let address = append_leased(&mut appender, &sink, 1, counter, len);
        assert!(ring.tail() >= address + len as u64);
        appended.push((address, 1, counter));
    }
    assert!(appended.windows(2).all(|pair| pair[0].0 < pair[1].0));
    drain(&ring, &sink);
    assert_eq!(sink.into_records(FIRST, BASE), appended);
}

#[test]
fn an_idle_lease_does_not_hold_up_a_seal() {
    let ring = leasing().build().expect("a ring");
    let mut appender = ring.appender();
    assert!(reserved(&mut appender, 100).commit().is_none());
    assert_eq!(ring.tail(), BASE + 64 + 1000, "a lease of ten records");
    let Seal::Sealed {
        buffer: Some(buffer),
        ..
    } = ring.seal()
    else {
        panic!("nobody is writing");
    };
    assert_eq!(buffer.len(), HEADER + 1000);
    // One void record over the rest.
    let void = &buffer.bytes()[HEADER + 100..];
    assert_eq!(void[..4], 900u32.to_le_bytes());
    buffer.recycle();
    // Revoked early: the next record gets a reservation of its own.
    let record = reserved(&mut appender, 100);
    assert_eq!(record.address(), BASE + 1536 + 64);
    assert_eq!(ring.tail(), record.address() + 100);
}

#[test]
fn an_idle_lease_does_not_hold_up_the_buffer_before_an_extent() {
    let ring = leasing().build().expect("a ring");
    let mut appender = ring.appender();
    assert!(reserved(&mut appender, 100).commit().is_none());
    let memory = AlignedBuf::zeroed(8192, Alignment::SECTOR).expect("memory");
    let Ok(ReserveExtent::Reserved {
        reservation,
        previous: Some(previous),
    }) = ring.reserve_extent(memory, 8000)
    else {
        panic!("the inserter is the last one out of the buffer before");
    };
    assert_eq!(previous.len(), HEADER + 1000);
    assert!(reservation.commit().is_some());
}

#[test]
fn a_seal_leaves_a_lease_with_a_record_under_way_to_its_owner() {
    let ring = leasing().build().expect("a ring");
    let mut appender = ring.appender();
    let mut record = reserved(&mut appender, 100);
    fill(&mut record, 1, 0);
    assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
    assert!(ring.revoke_leases().is_none());
    let buffer = record.commit().expect("the last one out");
    assert_eq!(buffer.len(), HEADER + 1000);
    let sink = Sink::default();
    sink.take(buffer);
    assert_eq!(
        sink.into_records(FIRST, BASE),
        [(BASE + HEADER as u64, 1, 0)]
    );
}

#[test]
fn what_is_left_of_a_lease_is_nothing_or_a_whole_void_record() {
    let ring = leasing().build().expect("a ring");
    let sink = Sink::default();
    let mut appender = ring.appender();
    let mut appended = Vec::new();
    // Ten records of 100 are leased; after nine a rest of 100 is left. 90 would leave 10 of it, less
    // than a void record: it goes elsewhere, and so does 101.
    for (counter, len) in [100; 9].into_iter().chain([90]).enumerate() {
        let address = append_leased(&mut appender, &sink, 1, counter as u64, len);
        appended.push((address, 1, counter as u64));
    }
    assert_eq!(appended[9].0, BASE + 64 + 1000);
    drop(appender);
    drain(&ring, &sink);
    assert_eq!(sink.into_records(FIRST, BASE), appended);
}

/// There is room in the ring for 64 leases at a time: one that is over leaves room for another, also when
/// its last record was dropped.
#[test]
fn a_lease_whose_last_record_is_dropped_is_over() {
    let ring = leasing().build().expect("a ring");
    for _ in 0..100 {
        let mut appender = ring.appender();
        assert!(reserved(&mut appender, 500).commit().is_none());
        let end = ring.tail();
        let last = reserved(&mut appender, 500);
        assert_eq!(last.address() + 500, end, "it fills a lease up");
        drop(last);
        assert_eq!(ring.tail(), end);
        if let Seal::Sealed {
            buffer: Some(buffer),
            ..
        } = ring.seal()
        {
            buffer.recycle();
        }
    }
}

#[test]
fn a_lease_that_is_used_up_is_over_at_once() {
    let ring = leasing().build().expect("a ring");
    let mut appender = ring.appender();
    for _ in 0..2 {
        assert!(reserved(&mut appender, 500).commit().is_none());
    }
    // Nobody has a writer in the buffer any more.
    assert!(matches!(
        ring.pin_committed(BASE + 64),
        PinCommitted::Pinned(_)
    ));
    assert!(appender.retire().is_none());

    // Nor where the record that uses it up is dropped, and then there is room for another lease.
    assert!(reserved(&mut appender, 500).commit().is_none());
    drop(reserved(&mut appender, 500));
    assert!(matches!(
        ring.pin_committed(BASE + 64),
        PinCommitted::Pinned(_)
    ));
    assert_eq!(leased_from(&ring, &mut appender), Some(10));
}

/// Appends a record of 100 bytes, and says how many such records are leased from it on: 1 if it has
/// a reservation of its own. `None` if it lies in a lease that there was before.
fn leased_from(ring: &Ring, appender: &mut Appender) -> Option<u64> {
    let before = ring.tail();
    let record = reserved(appender, 100);
    let leased = (record.address() == before).then(|| (ring.tail() - before) / 100);
    assert!(record.commit().is_none());
    leased
}

fn seal_and_recycle(ring: &Ring) {
    let Seal::Sealed { buffer, .. } = ring.seal() else {
        panic!("it holds a record");
    };
    buffer.expect("nobody is writing").recycle();
}

#[test]
fn a_lease_is_as_long_as_what_was_used_of_the_last_and_grows_when_it_is_used_up() {
    let ring = leasing().build().expect("a ring");
    let mut appender = ring.appender();
    assert_eq!(leased_from(&ring, &mut appender), Some(10));
    for _ in 1..4 {
        assert_eq!(leased_from(&ring, &mut appender), None);
    }
    seal_and_recycle(&ring);
    // Revoked after four records of ten.
    assert_eq!(leased_from(&ring, &mut appender), Some(4));
    for _ in 1..4 {
        assert_eq!(leased_from(&ring, &mut appender), None);
    }
    assert_eq!(leased_from(&ring, &mut appender), Some(8));
    // Given up with a rest that is too short for what comes: that is no reason for less.
    assert!(appender.retire().is_none());
    assert_eq!(
        leased_from(&ring, &mut appender),
        Some(10),
        "no more than 1024"
    );
}

#[test]
fn who_puts_one_record_into_each_buffer_leases_nothing_and_who_puts_some_does_again() {
    let ring = leasing().build().expect("a ring");
    let mut appender = ring.appender();
    assert_eq!(leased_from(&ring, &mut appender), Some(10));
    for _ in 0..6 {
        seal_and_recycle(&ring);
        assert_eq!(leased_from(&ring, &mut appender), Some(1));
    }
    assert_eq!(leased_from(&ring, &mut appender), Some(1));
    // The third in this buffer.
    assert_eq!(leased_from(&ring, &mut appender), Some(2));
    assert_eq!(leased_from(&ring, &mut appender), None);
    assert_eq!(leased_from(&ring, &mut appender), Some(4));
}

#[test]
fn a_record_without_a_lease_leaves_nothing_behind() {
    let ring = leasing().build().expect("a ring");
    let mut appender = ring.appender();
    // Two of them are more than a lease may have.
    let record = reserved(&mut appender, 600);
    let address = record.address();
    assert!(record.commit().is_none());
    assert_eq!(ring.tail(), address + 600);
    assert!(matches!(
        ring.pin_committed(address),
        PinCommitted::Pinned(_)
    ));
}

#[test]
fn dropping_an_appender_gives_its_lease_and_its_entry_back() {
    let ring = leasing().build().expect("a ring");
    // More often than there are entries.
    for _ in 0..70 {
        let mut appender = ring.appender();
        assert_eq!(leased_from(&ring, &mut appender), Some(10));
        let last = ring.tail() - 1;
        assert!(matches!(ring.pin_committed(last), PinCommitted::Busy));
        drop(appender);
        assert!(matches!(ring.pin_committed(last), PinCommitted::Pinned(_)));
        seal_and_recycle(&ring);
    }
}

#[test]
fn a_pin_shows_what_was_committed_once_the_leases_are_revoked() {
    let ring = leasing().build().expect("a ring");
    let mut appender = ring.appender();
    let mut record = reserved(&mut appender, 100);
    let address = record.address();
    record.fill(7);
    assert!(ring.revoke_leases().is_none());
    assert!(matches!(ring.pin_committed(address), PinCommitted::Busy));
    assert!(record.commit().is_none());
    let PinCommitted::Pinned(pin) = ring.pin_committed(address) else {
        panic!("the lease was revoked, and closed by its commit");
    };
    assert_eq!(pin[HEADER..HEADER + 100], [7; 100]);
}

/// Reservations, under a lease or not, and pins end in another thread than they began in.
#[test]
fn a_guard_may_end_in_another_thread() {
    let ring = leasing().build().expect("a ring");
    let mut appender = ring.appender();
    let mut end = 0;
    for mark in 1..=4 {
        let mut record = reserved(&mut appender, 40);
        end = record.address() + 40;
        thread::scope(|scope| {
            scope.spawn(move || {
                record.fill(mark);
                assert!(record.commit().is_none());
            });
        });
    }
    // The first had no lease, the others lie in one.
    assert!(ring.tail() > end, "nothing is leased");
    assert!(ring.revoke_leases().is_none());
    let PinCommitted::Pinned(pin) = ring.pin_committed(end - 1) else {
        panic!("all are committed");
    };
    assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
    let buffer = thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let records = pin[HEADER..].chunks(40).zip(1..=4);
            assert!(
                records
                    .into_iter()
                    .all(|(record, mark)| record == [mark; 40])
            );
            pin.release()
        });
        reader.join().expect("a reader")
    });
    assert_eq!(buffer.expect("the last one out").seq().get(), FIRST);
}

#[test]
fn more_appenders_than_leases_work_all_the_same() {
    let ring = leasing().build().expect("a ring");
    let sink = Sink::default();
    let mut appenders: Vec<_> = (0..70).map(|_| ring.appender()).collect();
    let mut appended = Vec::new();
    for counter in 0..20 {
        for (id, appender) in (0..).zip(&mut appenders) {
            let address = append_leased(appender, &sink, id, counter, 40);
            appended.push((address, id, counter));
        }
    }
    // Those that are left get what the others have given back.
    appenders.drain(..60);
    for (id, appender) in (60..).zip(&mut appenders) {
        for counter in 20..40 {
            let address = append_leased(appender, &sink, id, counter, 40);
            appended.push((address, id, counter));
        }
    }
    drop(appenders);
    drain(&ring, &sink);
    appended.sort_unstable();
    assert_eq!(sink.into_records(FIRST, BASE), appended);
}

#[test]
fn an_appender_outlives_a_forgotten_reservation() {
    let ring = leasing().build().expect("a ring");
    let mut appender = ring.appender();
    std::mem::forget(reserved(&mut appender, 100));
    let mut next = reserved(&mut appender, 100);
    next.fill(1);
    assert_eq!(next.address(), BASE + 64 + 1000);
    assert!(next.commit().is_none());
    assert_eq!(
        ring.tail(),
        BASE + 64 + 2000,
        "it leases from another entry"
    );
    // The forgotten one keeps its buffer, as any forgotten reservation does.
    assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
    drop(appender);
    assert!(ring.take_orphan().is_none());

    // Nor is the entry lent again when the appender goes with a record forgotten.
    let mut appender = ring.appender();
    std::mem::forget(reserved(&mut appender, 100));
    drop(appender);
    assert_eq!(leased_from(&ring, &mut ring.appender()), Some(10));
}

#[test]
fn an_appender_too_many_leases_once_another_has_gone() {
    let ring = leasing().build().expect("a ring");
    let mut others: Vec<_> = (0..64).map(|_| ring.appender()).collect();
    let mut appender = ring.appender();
    for _ in 0..3 {
        assert_eq!(leased_from(&ring, &mut appender), Some(1));
    }
    others.pop();
    assert_eq!(leased_from(&ring, &mut appender), Some(3));
}

#[test]
fn an_idle_lease_that_is_revoked_is_closed() {
    let ring = leasing().build().expect("a ring");
    let mut appender = ring.appender();
    assert_eq!(leased_from(&ring, &mut appender), Some(10));
    assert!(matches!(ring.pin_committed(BASE + 64), PinCommitted::Busy));
    assert!(ring.revoke_leases().is_none());
    assert!(matches!(
        ring.pin_committed(BASE + 64),
        PinCommitted::Pinned(_)
    ));
}

#[test]
fn dropped_cancelled_and_unwound_records_of_a_lease_become_void_records() {
    let ring = leasing().build().expect("a ring");
    let sink = Sink::default();
    let mut appender = ring.appender();
    let first = append_leased(&mut appender, &sink, 1, 0, 50);
    drop(reserved(&mut appender, 60));
    assert!(reserved(&mut appender, 70).cancel().is_none());
    let panicked = thread::scope(|scope| {
        scope
            .spawn(|| {
                let mut record = reserved(&mut appender, 80);
                record[0] = 1;
                panic!("a writer fails");
            })
            .join()
    });
    assert!(panicked.is_err());
    let last = append_leased(&mut appender, &sink, 1, 1, 50);
    assert_eq!(last, first + 50 + 60 + 70 + 80);
    drain(&ring, &sink);
    assert_eq!(
        sink.into_records(FIRST, BASE),
        [(first, 1, 0), (last, 1, 1)]
    );
}

#[test]
fn a_void_writer_that_panics_at_a_seal_wedges_nothing() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let ring = leasing()
        .void(|_, _| {
            CALLS.fetch_add(1, Ordering::Relaxed);
            panic!("the void writer fails");
        })
        .build()
        .expect("a ring");
    let mut appenders = [ring.appender(), ring.appender()];
    for appender in &mut appenders {
        assert!(reserved(appender, 100).commit().is_none());
    }
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ring.seal()));
    assert!(outcome.is_err());
    assert_eq!(CALLS.load(Ordering::Relaxed), 2, "each lease is closed");
    let buffer = ring.take_orphan().expect("nobody is left in it");
    assert_eq!(buffer.len(), HEADER + 2000);
    buffer.recycle();
    assert!(reserved(&mut appenders[0], 100).commit().is_none());
}

#[test]
fn an_appender_refuses_the_lengths_that_the_ring_refuses() {
    let ring = leasing().build().expect("a ring");
    let mut appender = ring.appender();
    let (min, max) = (RECORD_HEAD, ring.max_reservation_bytes());
    assert_eq!(
        appender.try_reserve(min - 1).map(drop),
        Err(ReserveError::TooSmall { len: min - 1, min })
    );
    assert_eq!(
        appender.reserve(max + 1).map(drop),
        Err(ReserveError::TooLarge { len: max + 1, max })
    );
    assert_eq!(reserved(&mut appender, max).len(), max);
}

#[test]
fn leases_can_be_switched_off() {
    let ring = small().lease_bytes(0).build().expect("a ring");
    let mut appender = ring.appender();
    for _ in 0..20 {
        assert!(reserved(&mut appender, 20).commit().is_none());
    }
    assert_eq!(ring.tail(), BASE + 64 + 400);
}

/// Appenders, bare reservations, extents, seals, revocations, pins and dropped records at once.
fn storm(threads: u32, each: u64, buffers: usize, lease_bytes: usize, seed: u64) {
    let ring: Ring = small()
        .buffers(buffers)
        .lease_bytes(lease_bytes)
        .build()
        .expect("a ring");
    let sink = Sink::default();
    let mut appended: Vec<(u64, u32, u64)> = thread::scope(|scope| {
        let writers: Vec<_> = (0..threads)
            .map(|id| {
                let (ring, sink) = (&ring, &sink);
                scope.spawn(move || {
                    let mut random = Lcg(seed * 1000 + u64::from(id));
                    let mut appender = ring.appender();
                    let mut mine = Vec::new();
                    for counter in 0..each {
                        let len = RECORD_HEAD + usize::try_from(random.below(150)).expect("small");
                        let address = match random.below(300) {
                            0 => append_extent(ring, sink, id, counter, len + 6000),
                            1..4 => append(ring, sink, id, counter, len),
                            4..7 => {
                                match appender.try_reserve(len).expect("it fits") {
                                    TryReserve::Reserved(record) => drop(record),
                                    TryReserve::Sealed(buffer) => sink.take(buffer),
                                    TryReserve::Full(_) | TryReserve::Limit { .. } => {}
                                }
                                continue;
                            }
                            7..9 => {
                                drain(ring, sink);
                                continue;
                            }
                            9 => {
                                appender = ring.appender();
                                continue;
                            }
                            10 => {
                                if let Some(buffer) = appender.retire() {
                                    sink.take(buffer);
                                }
                                continue;
                            }
                            11..14 => {
                                let address = append_leased(&mut appender, sink, id, counter, len);
                                if let Some(buffer) = ring.revoke_leases() {
                                    sink.take(buffer);
                                }
                                if let PinCommitted::Pinned(pin) = ring.pin_committed(address) {
                                    let at = usize::try_from(address - pin.base()).expect("near");
                                    let mut expected = vec![0; len];
                                    fill(&mut expected, id, counter);
                                    assert_eq!(&pin[at..at + len], &expected[..]);
                                    if let Some(buffer) = pin.release() {
                                        sink.take(buffer);
                                    }
                                }
                                address
                            }
                            _ => append_leased(&mut appender, sink, id, counter, len),
                        };
                        mine.push((address, id, counter));
                    }
                    mine
                })
            })
            .collect();
        writers
            .into_iter()
            .flat_map(|writer| writer.join().expect("a writer"))
            .collect()
    });
    drain(&ring, &sink);
    appended.sort_unstable();
    assert_eq!(sink.into_records(FIRST, BASE), appended, "seed {seed}");
}

#[test]
fn everything_mixed_with_leases_keeps_the_log_whole() {
    for seed in 0..3 {
        storm(8, 6_000, 4, 1024, seed);
        storm(4, 6_000, 2, 300, seed);
        storm(3, 6_000, 3, 4096, seed);
    }
}

#[test]
fn a_million_records_come_back_from_eight_appenders_and_four_small_buffers() {
    let ring = small().build().expect("a ring");
    let sink = Sink::default();
    let mut appended: Vec<_> = thread::scope(|scope| {
        let writers: Vec<_> = (0..8u32)
            .map(|id| {
                let (ring, sink) = (&ring, &sink);
                scope.spawn(move || {
                    let mut appender = ring.appender();
                    (0..125_000)
                        .map(|counter| {
                            let address = append_leased(&mut appender, sink, id, counter, 24);
                            (address, id, counter)
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        writers
            .into_iter()
            .flat_map(|writer| writer.join().expect("a writer"))
            .collect()
    });
    drain(&ring, &sink);
    appended.sort_unstable();
    assert_eq!(sink.into_records(FIRST, BASE), appended);
}
