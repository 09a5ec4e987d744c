//! Extents, limits, pins, configuration.

use esker_buf::{AlignedBuf, Alignment, IoBuf, IoRegion};
use esker_ring::{
    BufferSeq, ExtentError, PinCommitted, ReserveError, ReserveExtent, Ring, RingConfigError, Seal,
    TryReserve,
};

use crate::support::{HEADER, RECORD_HEAD, extent_memory, fill, small};

const FIRST: u64 = 7;
const BASE: u64 = 1 << 20;

fn commit_one(ring: &Ring, len: usize) -> u64 {
    match ring.try_reserve(len) {
        Ok(TryReserve::Reserved(mut record)) => {
            fill(&mut record, 3, 4);
            let address = record.address();
            assert!(record.commit().is_none());
            address
        }
        other => panic!("not reserved: {other:?}"),
    }
}

#[test]
fn an_extent_takes_the_place_of_an_empty_buffer() {
    let ring = small().build().expect("a ring");
    let Ok(ReserveExtent::Reserved {
        mut reservation,
        previous: None,
    }) = ring.reserve_extent(extent_memory(10_000), 10_000)
    else {
        panic!("the ring is empty");
    };
    assert_eq!(reservation.address(), BASE + HEADER as u64);
    assert_eq!(reservation.seq(), BufferSeq::new(FIRST));
    assert_eq!(reservation.len(), 10_000);
    assert_eq!(ring.tail(), BASE + 10_240 + HEADER as u64);
    reservation.fill(5);
    let buffer = reservation.commit().expect("the last one out");
    assert!(buffer.is_extent());
    assert_eq!((buffer.len(), buffer.padded_len()), (10_064, 10_240));
    assert_eq!(buffer.len_bytes(), 10_240);
    assert_eq!(buffer.as_bytes()[..HEADER], [0; HEADER]);
    assert_eq!(buffer.as_bytes()[HEADER..10_064], [5; 10_000]);
    assert_eq!(buffer.as_bytes()[10_064..], [0; 176]);
    assert_eq!(buffer.reclaim().expect("the memory").len(), 10_240);
    assert_eq!(commit_one(&ring, 16), BASE + 10_240 + HEADER as u64);
}

#[test]
fn an_extent_in_an_empty_buffer_needs_no_other_slot() {
    let ring = small().buffers(2).build().expect("a ring");
    assert_eq!(ring.buffers(), 2);
    commit_one(&ring, 100);
    let Seal::Sealed {
        buffer: Some(held), ..
    } = ring.seal()
    else {
        panic!("nobody else is in it");
    };
    assert!(matches!(
        ring.reserve_extent(extent_memory(5000), 5000),
        Ok(ReserveExtent::Reserved { previous: None, .. })
    ));
    held.recycle();
}

/// An extent's memory goes with it: the slot's own is back in the next tenancy.
#[test]
fn a_buffer_comes_after_an_extent_in_its_slot() {
    let ring = small().buffers(2).build().expect("a ring");
    let Ok(ReserveExtent::Reserved { reservation, .. }) =
        ring.reserve_extent(extent_memory(5000), 5000)
    else {
        panic!("the ring is empty");
    };
    drop(reservation.commit().expect("the last one out"));
    for mark in [1, 2] {
        let Ok(TryReserve::Reserved(mut record)) = ring.try_reserve(100) else {
            panic!("a slot is free");
        };
        record.fill(mark);
        assert!(record.commit().is_none());
        let Seal::Sealed {
            buffer: Some(mut buffer),
            ..
        } = ring.seal()
        else {
            panic!("nobody else is in it");
        };
        assert!(!buffer.is_extent());
        let (memory, len_bytes) = ring.memory().region();
        assert!((memory..memory.wrapping_add(len_bytes)).contains(&buffer.bytes().as_ptr()));
        assert_eq!(buffer.bytes()[HEADER..], [mark; 100]);
        buffer.bytes_mut()[HEADER] = 7;
        assert_eq!(buffer.bytes()[HEADER..HEADER + 2], [7, mark]);
        assert!(buffer.reclaim().is_none());
    }
}

#[test]
fn whoever_inserts_an_extent_is_given_an_orphan_first() {
    let ring = small().build().expect("a ring");
    let Ok(TryReserve::Reserved(record)) = ring.try_reserve(100) else {
        panic!("the buffer is open");
    };
    assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
    drop(record);
    let Ok(ReserveExtent::Sealed { buffer, memory }) =
        ring.reserve_extent(extent_memory(5000), 5000)
    else {
        panic!("it would wait in the ring");
    };
    assert_eq!((buffer.base(), memory.len()), (BASE, 5120));
}

#[test]
fn behind_an_extent_the_limit_has_to_admit_a_buffer() {
    let ring = small().limit(BASE + 10_240).build().expect("a ring");
    let Ok(ReserveExtent::Reserved { reservation, .. }) =
        ring.reserve_extent(extent_memory(10_000), 10_000)
    else {
        panic!("it reaches to the limit");
    };
    assert!(reservation.commit().is_some());
    assert!(matches!(
        ring.reserve_extent(extent_memory(20_000), 20_000),
        Ok(ReserveExtent::Limit { needed, .. }) if needed == BASE + 10_240 + 4096
    ));
}

#[test]
fn an_extent_seals_what_is_before_it() {
    let ring = small().build().expect("a ring");
    commit_one(&ring, 100);
    let Ok(ReserveExtent::Reserved {
        reservation,
        previous: Some(previous),
    }) = ring.reserve_extent(extent_memory(5000), 5000)
    else {
        panic!("the next slot is free");
    };
    assert_eq!(previous.seq(), BufferSeq::new(FIRST));
    assert_eq!(previous.next_base(), BASE + 512);
    assert_eq!(reservation.address(), BASE + 512 + HEADER as u64);
    // Dropped like any reservation: void, and handed out as an orphan.
    drop(reservation);
    let extent = ring.take_orphan().expect("the extent");
    assert_eq!(extent.bytes()[HEADER..HEADER + 4], 5000u32.to_le_bytes());
    assert_eq!(extent.next_base(), BASE + 512 + 5120);
}

#[test]
fn an_extent_waits_for_its_slot_without_sealing() {
    let ring = small().buffers(2).build().expect("a ring");
    commit_one(&ring, 100);
    let Seal::Sealed {
        buffer: Some(first),
        ..
    } = ring.seal()
    else {
        panic!("nobody else is in it");
    };
    commit_one(&ring, 100);
    let Ok(ReserveExtent::Full { wait, memory }) = ring.reserve_extent(extent_memory(5000), 5000)
    else {
        panic!("the next slot is taken");
    };
    // The open buffer is still open.
    commit_one(&ring, 100);
    assert!(ring.blocker(&wait).is_some());
    first.recycle();
    assert_eq!(ring.blocker(&wait), None);
    assert!(ring.wait(&wait, None));
    assert!(matches!(
        ring.reserve_extent(memory, 5000),
        Ok(ReserveExtent::Reserved {
            previous: Some(_),
            ..
        })
    ));
}

#[test]
fn extents_that_do_not_fit_their_memory_are_refused_with_it() {
    let ring = small().build().expect("a ring");
    let refused = |memory, len| {
        let refused = ring.reserve_extent(memory, len).expect_err("refused");
        (refused.error, refused.memory.len())
    };
    let memory = |len| AlignedBuf::zeroed(len, Alignment::SECTOR).expect("memory");
    assert_eq!(
        refused(memory(512), 449),
        (
            ExtentError::MemoryTooShort {
                needed_bytes: 1024,
                memory_bytes: 512
            },
            512
        )
    );
    assert_eq!(
        refused(memory(512), 15),
        (ExtentError::TooSmall { len: 15, min: 16 }, 512)
    );
    assert!(matches!(
        refused(memory(512), usize::MAX),
        (ExtentError::MemoryTooShort { .. }, 512)
    ));
    // Of two that follow each other at an odd distance one is misaligned.
    let pool: Vec<_> = (0..64)
        .map(|_| AlignedBuf::zeroed(512 + 8, Alignment::ONE).expect("memory"))
        .collect();
    let is_misaligned = |memory: &AlignedBuf| !memory.as_ptr().addr().is_multiple_of(512);
    let misaligned = pool.into_iter().find(is_misaligned).expect("one of many");
    assert_eq!(
        refused(misaligned, 100),
        (
            ExtentError::Misaligned {
                alignment_bytes: 512
            },
            520
        )
    );
    assert_eq!(ring.tail(), BASE + HEADER as u64);
}

#[test]
fn the_limit_holds_until_it_is_raised() {
    let ring = small().limit(BASE).build().expect("a ring");
    let needed = BASE + 4096;
    assert_eq!(ring.current(), (BufferSeq::new(FIRST), BASE));
    assert_eq!(ring.tail(), BASE);
    assert!(matches!(ring.seal(), Seal::AlreadySealed { end: BASE }));
    assert!(matches!(
        ring.try_reserve(16),
        Ok(TryReserve::Limit { needed: at }) if at == needed
    ));
    ring.raise_limit(needed - 1);
    assert!(matches!(ring.try_reserve(16), Ok(TryReserve::Limit { .. })));
    ring.raise_limit(needed);
    commit_one(&ring, 16);
    // An extent asks for its own length.
    let Ok(ReserveExtent::Limit { needed, memory }) =
        ring.reserve_extent(extent_memory(5000), 5000)
    else {
        panic!("past the limit");
    };
    assert_eq!(needed, BASE + 512 + 5120);
    ring.raise_limit(needed);
    ring.raise_limit(0);
    assert_eq!(ring.limit(), needed);
    let Ok(ReserveExtent::Reserved {
        reservation,
        previous: Some(_),
    }) = ring.reserve_extent(memory, 5000)
    else {
        panic!("within the limit");
    };
    assert!(reservation.cancel().is_some());
    assert!(matches!(
        ring.try_reserve(16),
        Ok(TryReserve::Limit { needed: at }) if at == needed + 4096
    ));
}

#[test]
fn addresses_end_before_they_overflow() {
    let base = u64::MAX - 4095 - 4096;
    let ring = small()
        .start(BufferSeq::new(0), base)
        .build()
        .expect("a ring");
    commit_one(&ring, 4000);
    assert!(matches!(
        ring.try_reserve(4000),
        Ok(TryReserve::Sealed(buffer)) if buffer.next_base() == base + 4096
    ));
    assert!(matches!(
        ring.try_reserve(4000),
        Ok(TryReserve::Limit { needed: u64::MAX })
    ));
}

#[test]
fn a_pin_shows_what_is_committed_in_the_open_buffer() {
    let ring = small().build().expect("a ring");
    assert!(matches!(ring.pin_committed(BASE), PinCommitted::NotHere));
    let address = commit_one(&ring, 100);
    let Ok(TryReserve::Reserved(open)) = ring.try_reserve(16) else {
        panic!("there is room");
    };
    assert!(matches!(ring.pin_committed(address), PinCommitted::Busy));
    assert!(open.commit().is_none());
    for elsewhere in [0, BASE - 1, BASE + HEADER as u64 - 1, ring.tail(), u64::MAX] {
        assert!(matches!(
            ring.pin_committed(elsewhere),
            PinCommitted::NotHere
        ));
    }
    let PinCommitted::Pinned(pin) = ring.pin_committed(address) else {
        panic!("it is committed");
    };
    let mut expected = [0; 100];
    fill(&mut expected, 3, 4);
    let at = usize::try_from(address - pin.base()).expect("small");
    assert_eq!(pin[at..at + 100], expected);
    assert_eq!(pin.seq(), BufferSeq::new(FIRST));
    // The buffer can be sealed meanwhile; the pin is then the last one out.
    assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
    assert_eq!(
        pin.release().expect("the last one out").seq(),
        BufferSeq::new(FIRST)
    );
    assert!(matches!(ring.pin_committed(address), PinCommitted::NotHere));
}

#[test]
fn an_address_that_is_in_no_part_of_the_open_buffer_is_not_here_however_busy_it_is() {
    let ring = small().build().expect("a ring");
    let Ok(TryReserve::Reserved(open)) = ring.try_reserve(16) else {
        panic!("there is room");
    };
    for elsewhere in [0, BASE - 1, BASE + 4096, u64::MAX] {
        let pin = ring.pin_committed(elsewhere);
        assert!(matches!(pin, PinCommitted::NotHere), "{elsewhere}");
    }
    for maybe in [BASE, BASE + 4095] {
        assert!(matches!(ring.pin_committed(maybe), PinCommitted::Busy));
    }
    assert!(open.commit().is_none());
}

#[test]
fn without_a_header_the_first_record_is_at_the_base() {
    let ring = small().header_bytes(0).build().expect("a ring");
    assert_eq!(commit_one(&ring, 16), BASE);
    assert!(matches!(ring.pin_committed(BASE), PinCommitted::Pinned(_)));
}

#[test]
fn the_smallest_reservation_is_long_enough_for_a_batch_and_for_an_extent() {
    let ring = small().build().expect("a ring");
    for lens in [&[15][..], &[16, 15]] {
        assert_eq!(
            ring.try_reserve_batch(lens).expect_err("one is too small"),
            ReserveError::TooSmall { len: 15, min: 16 }
        );
    }
    let Ok(TryReserve::Reserved(batch)) = ring.try_reserve_batch(&[16, 17]) else {
        panic!("none is too small");
    };
    assert_eq!(batch.len(), 33);
    assert!(batch.cancel().is_none());
    let Ok(ReserveExtent::Reserved { reservation, .. }) =
        ring.reserve_extent(extent_memory(16), 16)
    else {
        panic!("it is not too small");
    };
    assert!(reservation.cancel().is_some());
}

#[test]
fn an_extent_waits_behind_a_sealed_buffer() {
    let ring = small().buffers(2).build().expect("a ring");
    let mut held = Vec::new();
    for _ in 0..2 {
        commit_one(&ring, 100);
        let Seal::Sealed { buffer, .. } = ring.seal() else {
            panic!("it holds a record");
        };
        held.extend(buffer);
    }
    assert_eq!(held.len(), 2);
    let Ok(ReserveExtent::Full { wait, memory }) = ring.reserve_extent(extent_memory(5000), 5000)
    else {
        panic!("both slots are taken");
    };
    held.clear();
    assert!(ring.wait(&wait, None));
    assert!(matches!(
        ring.reserve_extent(memory, 5000),
        Ok(ReserveExtent::Reserved { previous: None, .. })
    ));
}

#[test]
fn shapes_that_do_not_go_are_refused() {
    let error = |builder: esker_ring::RingBuilder| builder.build().map(drop).expect_err("refused");
    assert_eq!(
        error(small().buffers(1)),
        RingConfigError::TooFewBuffers { buffers: 1 }
    );
    assert!(matches!(
        error(small().capacity_bytes(1000)),
        RingConfigError::UnalignedCapacity { .. }
    ));
    assert!(matches!(
        error(small().capacity_bytes(2 << 30)),
        RingConfigError::CapacityTooLarge { .. }
    ));
    assert_eq!(
        error(small().min_reservation_bytes(0)),
        RingConfigError::ZeroReservation
    );
    for (header, min) in [(4096, 16), (5000, 16), (64, 4033), (64, usize::MAX)] {
        assert!(matches!(
            error(small().header_bytes(header).min_reservation_bytes(min)),
            RingConfigError::NoRoom { .. }
        ));
    }
    assert!(matches!(
        error(small().capacity_bytes(0)),
        RingConfigError::NoRoom { .. }
    ));
    assert!(matches!(
        error(small().start(BufferSeq::new(0), 100)),
        RingConfigError::UnalignedBase { base: 100, .. }
    ));
    assert!(matches!(
        error(small().buffers(usize::MAX)),
        RingConfigError::TooLarge { .. }
    ));
}

#[test]
fn a_batch_is_refused_for_its_smallest_and_for_its_sum() {
    let ring = small().build().expect("a ring");
    let (min, max) = (RECORD_HEAD, ring.max_reservation_bytes());
    let refused = |lens: &[usize]| ring.try_reserve_batch(lens).map(drop);
    assert_eq!(
        refused(&[100, min - 1]),
        Err(ReserveError::TooSmall { len: min - 1, min })
    );
    assert_eq!(refused(&[]), Err(ReserveError::TooSmall { len: 0, min }));
    let len = max + 1;
    assert_eq!(
        refused(&[max - 99, 100]),
        Err(ReserveError::TooLarge { len, max })
    );
    assert_eq!(
        refused(&[usize::MAX, usize::MAX]),
        Err(ReserveError::TooLarge {
            len: usize::MAX,
            max
        })
    );
    let lens = [100, 200];
    let Ok(TryReserve::Reserved(mut batch)) = ring.try_reserve_batch(&lens) else {
        panic!("it fits");
    };
    let base = batch.address();
    let parts: Vec<_> = batch
        .records(&[100, 150, 51, 50])
        .map(|(address, record)| (address - base, record.len()))
        .collect();
    assert_eq!(parts, [(0, 100), (100, 150)], "the next one does not fit");
    assert!(batch.commit().is_none());
}
