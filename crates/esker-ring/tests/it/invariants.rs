//! R1 to R8, each by name.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use esker_ring::{BufferSeq, PinCommitted, ReserveError, Ring, Seal, SealedBuffer, TryReserve};

use crate::support::{HEADER, Lcg, RECORD_HEAD, Sink, append, append_extent, drain, fill, small};

const FIRST: u64 = 7;
const BASE: u64 = 1 << 20;

fn reserved(ring: &Ring, len: usize) -> esker_ring::Reservation<'_> {
    match ring.try_reserve(len) {
        Ok(TryReserve::Reserved(record)) => record,
        other => panic!("not reserved: {other:?}"),
    }
}

fn sealed(seal: Seal) -> SealedBuffer {
    match seal {
        Seal::Sealed {
            buffer: Some(buffer),
            ..
        } => buffer,
        other => panic!("not the last one out: {other:?}"),
    }
}

/// Everything at once: R1, R3, R4 and R5 under load, with extents, early seals, limits, dropped
/// reservations and pins mixed in.
fn storm(threads: u32, each: u64, buffers: usize) {
    let ring = small()
        .buffers(buffers)
        .limit(BASE + 4096)
        .build()
        .expect("a ring");
    let sink = Sink::default();
    let dropped = AtomicU64::new(0);
    let pinned = AtomicU64::new(0);
    let appended: Vec<(u64, u32, u64)> = thread::scope(|scope| {
        let writers: Vec<_> = (0..threads)
            .map(|id| {
                let (ring, sink, dropped, pinned) = (&ring, &sink, &dropped, &pinned);
                scope.spawn(move || {
                    let mut random = Lcg(u64::from(id) + 1);
                    let mut mine = Vec::new();
                    for counter in 0..each {
                        let len = RECORD_HEAD + usize::try_from(random.below(200)).unwrap();
                        match random.below(400) {
                            0 => {
                                let len = len + 6000;
                                mine.push((
                                    append_extent(ring, sink, id, counter, len),
                                    id,
                                    counter,
                                ));
                            }
                            1 => match ring.seal() {
                                Seal::Sealed { buffer, .. } => {
                                    if let Some(buffer) = buffer {
                                        sink.take(buffer);
                                    }
                                }
                                Seal::Orphan(buffer) => sink.take(buffer),
                                Seal::Empty | Seal::AlreadySealed { .. } | Seal::Crossing(_) => {}
                            },
                            2..6 => match ring.try_reserve(len).expect("it fits") {
                                TryReserve::Reserved(record) => {
                                    drop(record);
                                    dropped.fetch_add(1, Ordering::Relaxed);
                                }
                                TryReserve::Sealed(buffer) => sink.take(buffer),
                                TryReserve::Full(_) | TryReserve::Limit { .. } => {}
                            },
                            6..12 => {
                                let address = append(ring, sink, id, counter, len);
                                mine.push((address, id, counter));
                                if let PinCommitted::Pinned(pin) = ring.pin_committed(address) {
                                    let at = usize::try_from(address - pin.base()).unwrap();
                                    let mut expected = vec![0; len];
                                    fill(&mut expected, id, counter);
                                    assert_eq!(&pin[at..at + len], &expected[..]);
                                    pinned.fetch_add(1, Ordering::Relaxed);
                                    if let Some(buffer) = pin.release() {
                                        sink.take(buffer);
                                    }
                                }
                            }
                            _ => {
                                let address = append(ring, sink, id, counter, len);
                                mine.push((address, id, counter));
                                assert!(ring.tail() >= address + len as u64);
                            }
                        }
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
    let mut appended = appended;
    appended.sort_unstable();
    assert_eq!(sink.into_records(FIRST, BASE), appended);
    assert!(dropped.into_inner() > 0 && pinned.into_inner() > 0);
}

#[test]
fn every_byte_comes_back_from_eight_threads_and_four_small_buffers() {
    let ring = small().build().expect("a ring");
    let sink = Sink::default();
    let mut appended: Vec<_> = thread::scope(|scope| {
        let writers: Vec<_> = (0..8u32)
            .map(|id| {
                let (ring, sink) = (&ring, &sink);
                scope.spawn(move || {
                    let mut random = Lcg(u64::from(id));
                    (0..30_000)
                        .map(|counter| {
                            let len = RECORD_HEAD + usize::try_from(random.below(100)).unwrap();
                            (append(ring, sink, id, counter, len), id, counter)
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

#[test]
fn everything_mixed_keeps_the_log_whole() {
    storm(8, 8_000, 4);
    storm(4, 8_000, 2);
    storm(3, 8_000, 3);
}

#[test]
fn r1_reservations_do_not_overlap_or_pass_the_capacity() {
    let ring = small().build().expect("a ring");
    let first = reserved(&ring, 100);
    let second = reserved(&ring, 4096 - HEADER - 100);
    assert_eq!(first.address(), BASE + HEADER as u64);
    assert_eq!(second.address(), first.address() + 100);
    assert_eq!((first.len(), second.len()), (100, 4096 - HEADER - 100));
    let third = reserved(&ring, RECORD_HEAD);
    assert_eq!(third.address(), BASE + 4096 + HEADER as u64);
    assert_eq!(third.seq(), BufferSeq::new(FIRST + 1));
    let max = 4096 - HEADER;
    assert_eq!(
        ring.try_reserve(max + 1).map(drop),
        Err(ReserveError::TooLarge { len: max + 1, max })
    );
    for huge in [u32::MAX as usize, usize::MAX] {
        assert!(matches!(
            ring.try_reserve(huge),
            Err(ReserveError::TooLarge { .. })
        ));
    }
    assert_eq!(
        ring.try_reserve(1).map(drop),
        Err(ReserveError::TooSmall {
            len: 1,
            min: RECORD_HEAD
        })
    );
    assert!(second.commit().is_none());
    assert_eq!(first.commit().expect("the last one out").len(), 4096);
    assert!(third.commit().is_none());
}

#[test]
fn r2_the_sealed_length_is_the_end_of_the_last_reservation() {
    let ring = small().build().expect("a ring");
    let first = reserved(&ring, 100);
    let Seal::Sealed { seq, end, buffer } = ring.seal() else {
        panic!("one reservation is in it");
    };
    assert_eq!((seq, end), (BufferSeq::new(FIRST), BASE + 512));
    assert!(buffer.is_none());
    assert!(matches!(ring.seal(), Seal::Empty));
    let buffer = first.commit().expect("the last one out");
    assert_eq!((buffer.len(), buffer.padded_len()), (HEADER + 100, 512));
}

#[test]
fn r3_a_buffer_is_handed_over_once_and_only_when_nobody_is_in_it() {
    let ring = small().build().expect("a ring");
    let (first, mut second) = (reserved(&ring, 32), reserved(&ring, 32));
    assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
    assert!(first.commit().is_none());
    second.fill(7);
    let buffer = second.commit().expect("the last one out");
    assert_eq!(&buffer.bytes()[HEADER + 32..], [7; 32]);
    assert!(ring.take_orphan().is_none());
}

#[test]
fn r4_the_next_base_follows_the_padded_end() {
    let ring = small().build().expect("a ring");
    assert!(reserved(&ring, 500).commit().is_none());
    let buffer = sealed(ring.seal());
    let record = reserved(&ring, 16);
    assert_eq!(buffer.next_base(), BASE + 1024);
    assert_eq!(record.address(), BASE + 1024 + HEADER as u64);
    assert_eq!(ring.current(), (BufferSeq::new(FIRST + 1), BASE + 1024));
    assert_eq!(ring.tail(), record.address() + 16);
}

#[test]
fn r5_sequence_numbers_may_start_and_wrap_anywhere() {
    for first in [0, 1, 2, u64::MAX / 2] {
        for buffers in [2, 3, 5] {
            let ring = small()
                .buffers(buffers)
                .start(BufferSeq::new(first), BASE)
                .build()
                .expect("a ring");
            let sink = Sink::default();
            let appended: Vec<_> = (0..500)
                .map(|counter| (append(&ring, &sink, 1, counter, 100), 1, counter))
                .collect();
            drain(&ring, &sink);
            assert_eq!(sink.into_records(first, BASE), appended);
        }
    }
}

#[test]
fn r6_a_full_ring_is_an_outcome_and_moves_on_when_a_slot_is_free() {
    let ring = small().buffers(2).build().expect("a ring");
    assert!(reserved(&ring, 100).commit().is_none());
    let first = sealed(ring.seal());
    assert!(reserved(&ring, 100).commit().is_none());
    let second = sealed(ring.seal());
    for _ in 0..2 {
        assert!(matches!(ring.try_reserve(100), Ok(TryReserve::Full(_))));
    }
    assert!(matches!(ring.seal(), Seal::AlreadySealed { end } if end == second.next_base()));
    // Out of order: the slot that comes next is still taken.
    second.recycle();
    let Ok(TryReserve::Full(wait)) = ring.try_reserve(100) else {
        panic!("the next slot is taken");
    };
    assert_eq!(ring.current().0, BufferSeq::new(FIRST + 2));
    first.recycle();
    assert!(ring.wait(&wait, None));
    assert_eq!(reserved(&ring, 100).seq(), BufferSeq::new(FIRST + 2));
}

#[test]
fn r7_dropped_cancelled_and_unwound_reservations_become_void_records() {
    let ring = small().build().expect("a ring");
    let sink = Sink::default();
    append(&ring, &sink, 1, 0, 50);
    drop(reserved(&ring, 60));
    assert!(reserved(&ring, 70).cancel().is_none());
    let panicked = thread::scope(|scope| {
        scope
            .spawn(|| {
                let mut record = reserved(&ring, 80);
                record[0] = 1;
                panic!("a writer fails");
            })
            .join()
    });
    assert!(panicked.is_err());
    let last = append(&ring, &sink, 1, 1, 50);
    drain(&ring, &sink);
    let found = sink.into_records(FIRST, BASE);
    assert_eq!(found, [(BASE + 64, 1, 0), (last, 1, 1)]);
    assert_eq!(last, BASE + 64 + 50 + 60 + 70 + 80);
}

#[test]
fn r7_a_buffer_that_falls_to_a_drop_is_handed_out_next() {
    let ring = small().build().expect("a ring");
    for take in 0..3 {
        let record = reserved(&ring, 64);
        let seq = record.seq();
        assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
        drop(record);
        let orphan = match take {
            0 => ring.take_orphan().expect("an orphan"),
            1 => match ring.seal() {
                Seal::Orphan(buffer) => buffer,
                other => panic!("no orphan: {other:?}"),
            },
            _ => {
                // Reserving finds it as soon as it has to cross and finds the ring full.
                let mut held = Vec::new();
                loop {
                    match ring.try_reserve(4000).expect("it fits") {
                        TryReserve::Reserved(record) => held.extend(record.commit()),
                        TryReserve::Sealed(buffer) if buffer.seq() == seq => break buffer,
                        TryReserve::Sealed(buffer) => held.push(buffer),
                        other => panic!("no orphan: {other:?}"),
                    }
                }
            }
        };
        assert_eq!(orphan.seq(), seq);
    }
}

#[test]
fn r7_a_panicking_void_writer_does_not_wedge_the_buffer() {
    let ring = small()
        .void(|_, _| panic!("the void writer fails"))
        .build()
        .expect("a ring");
    let record = reserved(&ring, 64);
    assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| record.cancel()));
    assert!(outcome.is_err());
    assert!(ring.take_orphan().is_some());
}

#[test]
fn r8_an_empty_buffer_is_never_sealed() {
    let ring = small().build().expect("a ring");
    assert!(matches!(ring.seal(), Seal::Empty));
    assert!(matches!(ring.seal_through(BASE), Seal::Empty));
    assert!(reserved(&ring, 64).commit().is_none());
    assert!(matches!(
        ring.seal_through(BASE - 1),
        Seal::AlreadySealed { end: BASE }
    ));
    let buffer = sealed(ring.seal_through(BASE + 64));
    assert_eq!(buffer.seq(), BufferSeq::new(FIRST));
    assert!(matches!(ring.seal(), Seal::Empty));
    let end = buffer.next_base();
    assert!(matches!(ring.seal_through(BASE + 64), Seal::AlreadySealed { end: at } if at == end));
}

#[test]
fn sealed_buffers_cross_threads_and_outlive_the_ring() {
    let ring = small().build().expect("a ring");
    let mut record = reserved(&ring, 64);
    record.fill(9);
    assert!(record.commit().is_none());
    let buffer = sealed(ring.seal());
    drop(ring);
    let bytes = thread::spawn(move || buffer.bytes()[HEADER..].to_vec())
        .join()
        .expect("the flusher");
    assert_eq!(bytes, [9; 64]);
}

#[test]
fn addresses_are_unique_across_threads() {
    let ring = small().build().expect("a ring");
    let sink = Sink::default();
    let addresses: Vec<u64> = thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|id| {
                let (ring, sink) = (&ring, &sink);
                scope.spawn(move || {
                    (0..2_000)
                        .map(|counter| append(ring, sink, id, counter, 64))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        writers
            .into_iter()
            .flat_map(|writer| writer.join().expect("a writer"))
            .collect()
    });
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 8_000);
}

/// Reservations that are dropped and cancelled, records of a lease that are, what is left of a
/// revoked lease, and of one whose owner goes.
#[test]
fn r7_a_void_record_is_told_its_address() {
    let ring = small()
        .lease_bytes(160)
        .void(|address, bytes| {
            bytes.fill(0);
            bytes[..8].copy_from_slice(&address.to_le_bytes());
        })
        .build()
        .expect("a ring");
    let mut appender = ring.appender();
    drop(reserved(&ring, 32));
    for cancels in [false, true, false] {
        match appender.try_reserve(32) {
            Ok(TryReserve::Reserved(record)) if cancels => assert!(record.cancel().is_none()),
            Ok(TryReserve::Reserved(record)) => drop(record),
            other => panic!("there is room: {other:?}"),
        }
    }
    assert!(ring.revoke_leases().is_none());
    drop(reserved(&ring, 32));
    match appender.try_reserve(32) {
        Ok(TryReserve::Reserved(mut record)) => {
            let address = record.address();
            record[..8].copy_from_slice(&address.to_le_bytes());
            assert!(record.commit().is_none());
        }
        other => panic!("there is room: {other:?}"),
    }
    drop(appender);
    let Seal::Sealed {
        buffer: Some(buffer),
        ..
    } = ring.seal()
    else {
        panic!("nobody is in it");
    };
    // Whatever is no address is zero, so each address is where something begins.
    let mut voids = 0;
    for at in (HEADER..buffer.len()).step_by(8) {
        let found = u64::from_le_bytes(buffer.bytes()[at..at + 8].try_into().expect("8 bytes"));
        if found != 0 {
            assert_eq!(found, buffer.base() + at as u64);
            voids += 1;
        }
    }
    // One, three of a lease and its rest, one, one committed and the rest of its lease.
    assert_eq!(voids, 1 + 3 + 1 + 1 + 1 + 1);
}
