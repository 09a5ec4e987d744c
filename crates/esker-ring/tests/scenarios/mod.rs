//! Small concurrent scenarios, written once: `tests/loom.rs` runs each under every interleaving
//! that loom explores, `tests/shuttle.rs` under schedules drawn from seeds, and `tests/it` many
//! times on real threads.
//!
//! Buffers are tiny (a header of 8 bytes and two or three records of 8), so that a few operations
//! seal, cross, fill the ring and go round. Where schedules are drawn rather than enumerated,
//! each thread does what it does [`REPEATS`] times, so that the ring goes round many times.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use esker_buf::{AlignedBuf, Alignment, HugePages};
use esker_ring::{
    Appender, BufferSeq, PinCommitted, Reserve, ReserveExtent, Ring, Seal, SealedBuffer, TryReserve,
};

#[cfg(esker_loom)]
use loom::thread;
#[cfg(esker_shuttle)]
use shuttle::thread;
#[cfg(not(any(esker_loom, esker_shuttle)))]
use std::thread;

const HEADER: usize = 8;
const RECORD: usize = 8;
const BASE: u64 = 1024;
/// What fills a void record.
const VOID: u8 = 0xFF;
/// How often a thread of a scenario does what it does: what loom enumerates has to be short.
const REPEATS: usize = if cfg!(esker_loom) { 1 } else { 8 };

/// Every scenario, by name.
pub(crate) const ALL: &[(&str, fn())] = &[
    (
        "two_writers_and_a_seal_hand_over_once",
        two_writers_and_a_seal_hand_over_once,
    ),
    (
        "crossing_writers_lose_no_record",
        crossing_writers_lose_no_record,
    ),
    ("two_seals_seal_once", two_seals_seal_once),
    (
        "a_stale_thread_meets_a_later_tenancy",
        a_stale_thread_meets_a_later_tenancy,
    ),
    ("a_full_ring_wakes_its_waiter", a_full_ring_wakes_its_waiter),
    ("two_recyclers_and_a_waiter", two_recyclers_and_a_waiter),
    (
        "sealer_and_recycler_open_between_them",
        sealer_and_recycler_open_between_them,
    ),
    (
        "a_slow_flush_holds_up_only_its_slot",
        a_slow_flush_holds_up_only_its_slot,
    ),
    (
        "a_dropped_reservation_leaves_an_orphan",
        a_dropped_reservation_leaves_an_orphan,
    ),
    ("an_orphan_wakes_its_waiter", an_orphan_wakes_its_waiter),
    (
        "an_extent_meets_a_writer_in_an_empty_buffer",
        an_extent_meets_a_writer_in_an_empty_buffer,
    ),
    (
        "an_extent_meets_a_writer_in_a_used_buffer",
        an_extent_meets_a_writer_in_a_used_buffer,
    ),
    ("two_extents_take_two_numbers", two_extents_take_two_numbers),
    ("an_extent_waits_for_its_slot", an_extent_waits_for_its_slot),
    (
        "raising_the_limit_races_closing",
        raising_the_limit_races_closing,
    ),
    (
        "raising_the_limit_races_recycling",
        raising_the_limit_races_recycling,
    ),
    (
        "a_pin_races_a_writer_and_a_seal",
        a_pin_races_a_writer_and_a_seal,
    ),
    (
        "the_tail_covers_what_was_reserved",
        the_tail_covers_what_was_reserved,
    ),
    ("a_lease_meets_a_seal", a_lease_meets_a_seal),
    ("two_leases_and_a_seal", two_leases_and_a_seal),
    (
        "crossing_revokes_an_idle_lease",
        crossing_revokes_an_idle_lease,
    ),
    (
        "dropping_an_appender_races_a_seal",
        dropping_an_appender_races_a_seal,
    ),
    (
        "two_revokers_close_a_lease_once",
        two_revokers_close_a_lease_once,
    ),
    (
        "a_pin_sees_the_records_of_a_revoked_lease",
        a_pin_sees_the_records_of_a_revoked_lease,
    ),
    ("a_leased_record_is_dropped", a_leased_record_is_dropped),
    ("an_extent_revokes_a_lease", an_extent_revokes_a_lease),
    (
        "a_lease_of_a_past_tenancy_is_not_used",
        a_lease_of_a_past_tenancy_is_not_used,
    ),
    (
        "a_full_ring_wakes_its_appender",
        a_full_ring_wakes_its_appender,
    ),
    ("a_batch_meets_a_seal", a_batch_meets_a_seal),
    (
        "a_latecomer_meets_the_next_tenancy",
        a_latecomer_meets_the_next_tenancy,
    ),
    (
        "the_last_one_out_meets_a_latecomer",
        the_last_one_out_meets_a_latecomer,
    ),
    ("a_seal_waits_for_a_crosser", a_seal_waits_for_a_crosser),
    ("an_exact_fill_is_sealed_once", an_exact_fill_is_sealed_once),
];

/// Scenarios that are too large for loom.
#[cfg(not(esker_loom))]
pub(crate) const LARGE: &[(&str, fn())] = &[("everybody_at_once", everybody_at_once)];

/// What was handed over, by sequence number.
///
/// Its lock is std's, also under loom: it is held for no operation that loom sees, and orders
/// nothing there that the ring itself has to order.
#[derive(Clone)]
struct Sink(Arc<Mutex<BTreeMap<u64, Kept>>>);

struct Kept {
    base: u64,
    next_base: u64,
    records: Vec<u8>,
}

impl Sink {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(BTreeMap::new())))
    }

    /// Keeps a copy and recycles.
    fn take(&self, buffer: SealedBuffer) {
        let kept = Kept {
            base: buffer.base(),
            next_base: buffer.next_base(),
            records: buffer.bytes()[HEADER..].to_vec(),
        };
        let seq = buffer.seq().get();
        let before = self.0.lock().expect("no panic").insert(seq, kept);
        assert!(before.is_none(), "buffer {seq} was handed over twice");
        buffer.recycle();
    }

    /// Checks that the log has no gap, and that it holds each of `marks` once, where `addresses`
    /// say; a mark fills its record. What was reserved and neither written nor voided is zero, or
    /// left from an earlier tenancy.
    fn check(&self, written: &[(u64, u8)]) {
        let kept = self.0.lock().expect("no panic");
        let mut expected = BASE;
        let mut found = BTreeMap::new();
        for (at, (&seq, buffer)) in kept.iter().enumerate() {
            assert_eq!((seq, buffer.base), (at as u64, expected), "a gap");
            assert!(!buffer.records.is_empty(), "an empty buffer was sealed");
            expected = buffer.next_base;
            for (at, record) in buffer.records.chunks(RECORD).enumerate() {
                assert!(record.iter().all(|&byte| byte == record[0]));
                assert_ne!(record[0], 0, "neither written nor voided");
                if record[0] != VOID {
                    let address = buffer.base + (HEADER + at * RECORD) as u64;
                    found.insert(address, record[0]);
                }
            }
        }
        let written: BTreeMap<u64, u8> = written.iter().copied().collect();
        assert_eq!(found, written);
    }
}

/// A ring whose buffers hold `records` records each.
fn ring(buffers: usize, records: usize, limit: u64) -> Ring {
    leasing(buffers, records, limit, 0)
}

/// The same, with leases of up to `leased` records.
fn leasing(buffers: usize, records: usize, limit: u64, leased: usize) -> Ring {
    Ring::builder()
        .buffers(buffers)
        .capacity_bytes(HEADER + records * RECORD)
        .header_bytes(HEADER)
        .min_reservation_bytes(RECORD)
        .alignment(Alignment::new(8).expect("a power of two"))
        .huge_pages(HugePages::Never)
        .start(BufferSeq::new(0), BASE)
        .limit(limit)
        .lease_bytes(leased * RECORD)
        .void(|_, bytes| bytes.fill(VOID))
        .build()
        .expect("a ring")
}

fn append(ring: &Ring, sink: &Sink, mark: u8) -> (u64, u8) {
    loop {
        match ring.reserve(RECORD).expect("it fits") {
            Reserve::Reserved(mut record) => {
                record.fill(mark);
                let address = record.address();
                if let Some(buffer) = record.commit() {
                    sink.take(buffer);
                }
                return (address, mark);
            }
            Reserve::Sealed(buffer) => sink.take(buffer),
            Reserve::Limit { needed } => ring.raise_limit(needed),
        }
    }
}

/// Appends [`REPEATS`] records, all with the same mark.
fn append_some(ring: &Ring, sink: &Sink, mark: u8) -> Vec<(u64, u8)> {
    (0..REPEATS).map(|_| append(ring, sink, mark)).collect()
}

/// The same, under leases.
fn append_some_leased(appender: &mut Appender, sink: &Sink, mark: u8) -> Vec<(u64, u8)> {
    (0..REPEATS)
        .map(|_| append_leased(appender, sink, mark))
        .collect()
}

fn append_leased(appender: &mut Appender, sink: &Sink, mark: u8) -> (u64, u8) {
    loop {
        match appender.reserve(RECORD).expect("it fits") {
            Reserve::Reserved(mut record) => {
                record.fill(mark);
                let address = record.address();
                if let Some(buffer) = record.commit() {
                    sink.take(buffer);
                }
                return (address, mark);
            }
            Reserve::Sealed(buffer) => sink.take(buffer),
            Reserve::Limit { needed } => panic!("no limit, and {needed} is past it"),
        }
    }
}

/// Appends without waiting; `None` if the ring was full.
fn try_append(ring: &Ring, sink: &Sink, mark: u8) -> Option<(u64, u8)> {
    loop {
        match ring.try_reserve(RECORD).expect("it fits") {
            TryReserve::Reserved(mut record) => {
                record.fill(mark);
                let address = record.address();
                if let Some(buffer) = record.commit() {
                    sink.take(buffer);
                }
                return Some((address, mark));
            }
            TryReserve::Sealed(buffer) => sink.take(buffer),
            TryReserve::Full(_) | TryReserve::Limit { .. } => return None,
        }
    }
}

/// The same for two records with one reservation.
fn try_append_pair(ring: &Ring, sink: &Sink, mark: u8) -> Option<[(u64, u8); 2]> {
    loop {
        match ring.try_reserve(2 * RECORD).expect("it fits") {
            TryReserve::Reserved(mut pair) => {
                pair.fill(mark);
                let address = pair.address();
                if let Some(buffer) = pair.commit() {
                    sink.take(buffer);
                }
                return Some([(address, mark), (address + RECORD as u64, mark)]);
            }
            TryReserve::Sealed(buffer) => sink.take(buffer),
            TryReserve::Full(_) | TryReserve::Limit { .. } => return None,
        }
    }
}

/// Appends an extent of three records' length, filled with `mark`, waiting as long as it takes.
fn append_extent(ring: &Ring, sink: &Sink, mark: u8) -> Vec<(u64, u8)> {
    let alignment = Alignment::new(8).expect("a power of two");
    let mut memory = AlignedBuf::zeroed(HEADER + 3 * RECORD, alignment).expect("memory");
    loop {
        memory = match ring.reserve_extent(memory, 3 * RECORD).expect("it fits") {
            ReserveExtent::Reserved {
                mut reservation,
                previous,
            } => {
                if let Some(buffer) = previous {
                    sink.take(buffer);
                }
                reservation.fill(mark);
                let address = reservation.address();
                if let Some(buffer) = reservation.commit() {
                    sink.take(buffer);
                }
                return (0..3)
                    .map(|at| (address + at * RECORD as u64, mark))
                    .collect();
            }
            ReserveExtent::Sealed { buffer, memory } => {
                sink.take(buffer);
                memory
            }
            ReserveExtent::Full { wait, memory } => {
                ring.wait(&wait, None);
                memory
            }
            ReserveExtent::Limit { needed, memory } => {
                ring.raise_limit(needed);
                memory
            }
        };
    }
}

/// Appends [`REPEATS`] extents, all with the same mark.
fn append_extents(ring: &Ring, sink: &Sink, mark: u8) -> Vec<(u64, u8)> {
    let extents = (0..REPEATS).flat_map(|_| append_extent(ring, sink, mark));
    extents.collect()
}

fn seal(ring: &Ring, sink: &Sink) {
    match ring.seal() {
        Seal::Sealed { buffer, .. } => {
            if let Some(buffer) = buffer {
                sink.take(buffer);
            }
        }
        Seal::Orphan(buffer) => sink.take(buffer),
        Seal::Empty | Seal::AlreadySealed { .. } | Seal::Crossing(_) => {}
    }
}

/// Seals, and keeps the buffer that falls to the caller from being recycled.
fn seal_and_hold(ring: &Ring) -> Option<SealedBuffer> {
    match ring.seal() {
        Seal::Sealed { buffer, .. } => buffer,
        Seal::Orphan(buffer) => Some(buffer),
        Seal::Empty | Seal::AlreadySealed { .. } | Seal::Crossing(_) => None,
    }
}

/// Reserves without waiting, writes, and drops the reservation.
fn drop_one(ring: &Ring, sink: &Sink) {
    match ring.try_reserve(RECORD).expect("it fits") {
        TryReserve::Reserved(mut record) => {
            record.fill(7);
            drop(record);
        }
        TryReserve::Sealed(buffer) => sink.take(buffer),
        TryReserve::Full(_) | TryReserve::Limit { .. } => {}
    }
}

/// Once every thread is done: seals the rest, and checks that the ring goes on.
fn finish(ring: &Ring, sink: &Sink, written: &[(u64, u8)]) {
    while let Some(buffer) = ring.take_orphan() {
        sink.take(buffer);
    }
    seal(ring, sink);
    assert!(matches!(
        ring.seal(),
        Seal::Empty | Seal::AlreadySealed { .. }
    ));
    // Nothing is held any more, so whoever should have opened the next buffer has done so: not
    // even a look by a reserver may be needed (R6).
    let (_, base) = ring.current();
    assert!(
        ring.tail() == base + HEADER as u64 || ring.limit() != u64::MAX,
        "nobody opened the next buffer"
    );
    sink.check(written);
}

type Handle<T> = thread::JoinHandle<T>;

fn spawn<T: Send + 'static>(
    ring: &Ring,
    sink: &Sink,
    body: impl FnOnce(&Ring, &Sink) -> T + Send + 'static,
) -> Handle<T> {
    let (ring, sink) = (ring.clone(), sink.clone());
    thread::spawn(move || body(&ring, &sink))
}

fn join<T>(handle: Handle<T>) -> T {
    handle.join().expect("a thread of the scenario")
}

/// Seals a buffer that holds one record, and takes it.
fn take_sealed(ring: &Ring, mark: u8) -> (SealedBuffer, (u64, u8)) {
    let Ok(TryReserve::Reserved(mut record)) = ring.try_reserve(RECORD) else {
        panic!("the buffer is open");
    };
    record.fill(mark);
    let address = record.address();
    assert!(record.commit().is_none());
    match ring.seal() {
        Seal::Sealed {
            buffer: Some(buffer),
            ..
        } => (buffer, (address, mark)),
        other => panic!("not the last one out: {other:?}"),
    }
}

/// R1, R2, R3: reserve, commit and an early seal.
pub(crate) fn two_writers_and_a_seal_hand_over_once() {
    let (ring, sink) = (ring(2, 3, u64::MAX), Sink::new());
    let first = spawn(&ring, &sink, |ring, sink| append_some(ring, sink, 1));
    let second = spawn(&ring, &sink, |ring, sink| append_some(ring, sink, 2));
    (0..REPEATS).for_each(|_| seal(&ring, &sink));
    let written = [join(first), join(second)].concat();
    finish(&ring, &sink, &written);
}

/// R1, R2, R4: more records than a buffer holds.
pub(crate) fn crossing_writers_lose_no_record() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let one = append(&ring, &sink, 1);
    let other = spawn(&ring, &sink, |ring, sink| append_some(ring, sink, 2));
    let three = append_some(&ring, &sink, 3);
    let written = [vec![one], three, join(other)].concat();
    finish(&ring, &sink, &written);
}

/// R2, R8: of two seals one wins, and none seals an empty buffer.
pub(crate) fn two_seals_seal_once() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let Ok(TryReserve::Reserved(mut record)) = ring.try_reserve(RECORD) else {
        panic!("the buffer is open");
    };
    let first = spawn(&ring, &sink, seal);
    let second = spawn(&ring, &sink, seal);
    record.fill(1);
    let written = [(record.address(), 1)];
    if let Some(buffer) = record.commit() {
        sink.take(buffer);
    }
    join(first);
    join(second);
    finish(&ring, &sink, &written);
}

/// R5: a thread may look a slot up, sleep, and win its compare-and-swap rounds later.
pub(crate) fn a_stale_thread_meets_a_later_tenancy() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let stale = spawn(&ring, &sink, |ring, sink| {
        let tries = (0..REPEATS).map(|_| try_append(ring, sink, 9));
        tries.collect::<Vec<_>>()
    });
    let mover = spawn(&ring, &sink, |ring, sink| {
        let tries = [1, 2].into_iter().cycle().take(2 * REPEATS).map(|mark| {
            let written = try_append(ring, sink, mark);
            seal(ring, sink);
            written
        });
        tries.collect::<Vec<_>>()
    });
    let written: Vec<_> = [join(stale), join(mover)]
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    finish(&ring, &sink, &written);
}

/// R6: a parked waiter is woken by the recycler's opening.
pub(crate) fn a_full_ring_wakes_its_waiter() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let (first, one) = take_sealed(&ring, 1);
    let (second, two) = take_sealed(&ring, 2);
    let waiter = spawn(&ring, &sink, |ring, sink| append_some(ring, sink, 3));
    sink.take(first);
    sink.take(second);
    let three = join(waiter);
    finish(&ring, &sink, &[vec![one, two], three].concat());
}

/// R6: recycling out of order, by two threads.
pub(crate) fn two_recyclers_and_a_waiter() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let (first, one) = take_sealed(&ring, 1);
    let (second, two) = take_sealed(&ring, 2);
    let flusher = spawn(&ring, &sink, move |_, sink| sink.take(second));
    let waiter = spawn(&ring, &sink, |ring, sink| append_some(ring, sink, 3));
    sink.take(first);
    join(flusher);
    let three = join(waiter);
    finish(&ring, &sink, &[vec![one, two], three].concat());
}

/// R6: the sealer publishes `closed`, the recycler `freed`, and one of them opens, with nobody
/// else to help.
pub(crate) fn sealer_and_recycler_open_between_them() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let (first, one) = take_sealed(&ring, 1);
    let two = append(&ring, &sink, 2);
    let flusher = spawn(&ring, &sink, move |_, sink| sink.take(first));
    seal(&ring, &sink);
    join(flusher);
    let (seq, base) = ring.current();
    assert_eq!((seq, base), (BufferSeq::new(2), BASE + 32));
    assert_eq!(ring.tail(), base + HEADER as u64, "nobody opened");
    finish(&ring, &sink, &[one, two]);
}

/// R3, R6: the first buffer's flush is slow while the second goes through.
pub(crate) fn a_slow_flush_holds_up_only_its_slot() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let (slow, one) = take_sealed(&ring, 1);
    let writer = spawn(&ring, &sink, |ring, sink| {
        [append_some(ring, sink, 2), append_some(ring, sink, 3)].concat()
    });
    // Tried beside the writer, so that the slot may be full, crossing or free.
    let four = try_append(&ring, &sink, 4);
    sink.take(slow);
    let mut written = vec![one];
    written.extend(join(writer));
    written.extend(four);
    finish(&ring, &sink, &written);
}

/// R7: a drop closes its bytes, and the buffer it would have got is handed to somebody.
pub(crate) fn a_dropped_reservation_leaves_an_orphan() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let dropper = spawn(&ring, &sink, |ring, sink| {
        (0..REPEATS).for_each(|_| drop_one(ring, sink));
    });
    let mut written = append_some(&ring, &sink, 1);
    seal(&ring, &sink);
    written.extend(append_some(&ring, &sink, 2));
    join(dropper);
    finish(&ring, &sink, &written);
}

/// R6, R7: whoever is parked is woken for the orphan, for nothing else will come.
pub(crate) fn an_orphan_wakes_its_waiter() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let (other, one) = take_sealed(&ring, 1);
    let Ok(TryReserve::Reserved(record)) = ring.try_reserve(RECORD) else {
        panic!("the second slot is free");
    };
    assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
    let waiter = spawn(&ring, &sink, |ring, sink| {
        match ring.reserve(RECORD).expect("it fits") {
            Reserve::Sealed(buffer) => sink.take(buffer),
            other => panic!("nothing but the orphan can come: {other:?}"),
        }
    });
    drop(record);
    join(waiter);
    sink.take(other);
    finish(&ring, &sink, &[one]);
}

/// Extents: the open buffer is empty, or a writer was first.
pub(crate) fn an_extent_meets_a_writer_in_an_empty_buffer() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let writer = spawn(&ring, &sink, |ring, sink| append_some(ring, sink, 1));
    let mut written = append_extent(&ring, &sink, 2);
    written.extend(join(writer));
    finish(&ring, &sink, &written);
}

/// Extents: the open buffer holds something, and a writer fills it up or crosses.
pub(crate) fn an_extent_meets_a_writer_in_a_used_buffer() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let one = append(&ring, &sink, 1);
    let writer = spawn(&ring, &sink, |ring, sink| try_append(ring, sink, 2));
    let mut written = append_extent(&ring, &sink, 3);
    written.push(one);
    written.extend(join(writer));
    finish(&ring, &sink, &written);
}

/// Extents: two at once.
pub(crate) fn two_extents_take_two_numbers() {
    let (ring, sink) = (ring(3, 2, u64::MAX), Sink::new());
    let other = spawn(&ring, &sink, |ring, sink| append_extents(ring, sink, 2));
    let mut written = append_extents(&ring, &sink, 3);
    written.extend(join(other));
    finish(&ring, &sink, &written);
}

/// Extents: the next slot is still being flushed.
pub(crate) fn an_extent_waits_for_its_slot() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let (first, one) = take_sealed(&ring, 1);
    let two = append(&ring, &sink, 2);
    let inserter = spawn(&ring, &sink, |ring, sink| append_extents(ring, sink, 3));
    sink.take(first);
    let mut written = join(inserter);
    written.extend([one, two]);
    finish(&ring, &sink, &written);
}

/// R6: `closed` and the limit are published by two threads, and one of them opens.
pub(crate) fn raising_the_limit_races_closing() {
    let limit = BASE + 24;
    let (ring, sink) = (ring(2, 2, limit), Sink::new());
    let one = append(&ring, &sink, 1);
    let raiser = spawn(&ring, &sink, |ring, _| ring.raise_limit(u64::MAX));
    seal(&ring, &sink);
    join(raiser);
    assert_eq!(ring.tail(), BASE + 16 + HEADER as u64, "nobody opened");
    finish(&ring, &sink, &[one]);
}

/// R6: `freed` and the limit are published by two threads, and a third waits.
pub(crate) fn raising_the_limit_races_recycling() {
    let limit = BASE + 16 + 24;
    let (ring, sink) = (ring(2, 2, limit), Sink::new());
    let (first, one) = take_sealed(&ring, 1);
    let (second, two) = take_sealed(&ring, 2);
    let raiser = spawn(&ring, &sink, |ring, _| ring.raise_limit(u64::MAX));
    sink.take(first);
    join(raiser);
    assert_eq!(ring.tail(), BASE + 32 + HEADER as u64, "nobody opened");
    sink.take(second);
    finish(&ring, &sink, &[one, two]);
}

/// Read your writes: what a pin shows is committed, whatever happens beside it.
pub(crate) fn a_pin_races_a_writer_and_a_seal() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let writer = spawn(&ring, &sink, |ring, sink| append_some(ring, sink, 5));
    let reader = spawn(&ring, &sink, |ring, sink| {
        if let PinCommitted::Pinned(pin) = ring.pin_committed(BASE + HEADER as u64) {
            assert_eq!(pin[HEADER..HEADER + RECORD], [5; RECORD]);
            if let Some(buffer) = pin.release() {
                sink.take(buffer);
            }
        }
    });
    seal(&ring, &sink);
    join(reader);
    let written = join(writer);
    finish(&ring, &sink, &written);
}

/// R4: a thread's own record is always below the tail that it sees, and the tail never sinks.
pub(crate) fn the_tail_covers_what_was_reserved() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let other = spawn(&ring, &sink, |ring, sink| {
        [append_some(ring, sink, 1), append_some(ring, sink, 2)].concat()
    });
    let mut written = Vec::new();
    for _ in 0..REPEATS {
        let before = ring.tail();
        let three = append(&ring, &sink, 3);
        let after = ring.tail();
        assert!(before <= after && three.0 + RECORD as u64 <= after);
        written.push(three);
    }
    written.extend(join(other));
    finish(&ring, &sink, &written);
}

/// Leases: a seal meets an appender at its lease's installation and at its records.
pub(crate) fn a_lease_meets_a_seal() {
    let (ring, sink) = (leasing(2, 4, u64::MAX, 3), Sink::new());
    let writer = spawn(&ring, &sink, |ring, sink| {
        let mut appender = ring.appender();
        let written = [1, 2].map(|mark| append_some_leased(&mut appender, sink, mark));
        (written.concat(), appender)
    });
    seal(&ring, &sink);
    // The appender is idle from here on, and its lease must not keep anything back.
    let (written, appender) = join(writer);
    finish(&ring, &sink, &written);
    drop(appender);
}

/// Leases: two in one buffer, which is sealed meanwhile.
pub(crate) fn two_leases_and_a_seal() {
    let (ring, sink) = (leasing(2, 4, u64::MAX, 2), Sink::new());
    let writers = [1, 2].map(|mark| {
        spawn(&ring, &sink, move |ring, sink| {
            let mut appender = ring.appender();
            (append_some_leased(&mut appender, sink, mark), appender)
        })
    });
    seal(&ring, &sink);
    let (written, appenders): (Vec<_>, Vec<_>) = writers.map(join).into_iter().unzip();
    finish(&ring, &sink, &written.concat());
    drop(appenders);
}

/// Leases: whoever crosses closes the idle ones, and their owners go on elsewhere.
pub(crate) fn crossing_revokes_an_idle_lease() {
    let (ring, sink) = (leasing(2, 3, u64::MAX, 2), Sink::new());
    let mut appender = ring.appender();
    let one = append_leased(&mut appender, &sink, 1);
    let other = spawn(&ring, &sink, |ring, sink| {
        [2, 3].map(|mark| append_some(ring, sink, mark)).concat()
    });
    let mut written = append_some_leased(&mut appender, &sink, 4);
    written.push(one);
    written.extend(join(other));
    finish(&ring, &sink, &written);
}

/// Leases: the owner gives its lease up while it is revoked, by being dropped.
pub(crate) fn dropping_an_appender_races_a_seal() {
    let (ring, sink) = (leasing(2, 3, u64::MAX, 3), Sink::new());
    let mut appender = ring.appender();
    let one = append_leased(&mut appender, &sink, 1);
    let sealer = spawn(&ring, &sink, seal);
    drop(appender);
    // The entry of the registry goes to the next appender at once.
    let mut written = vec![one];
    for _ in 0..REPEATS {
        let mut next = ring.appender();
        written.push(append_leased(&mut next, &sink, 2));
    }
    join(sealer);
    finish(&ring, &sink, &written);
}

/// Leases: a seal and a reader revoke the same one, and its owner uses it.
pub(crate) fn two_revokers_close_a_lease_once() {
    let (ring, sink) = (leasing(2, 3, u64::MAX, 3), Sink::new());
    let mut appender = ring.appender();
    let one = append_leased(&mut appender, &sink, 1);
    let sealer = spawn(&ring, &sink, seal);
    let reader = spawn(&ring, &sink, |ring, sink| {
        for _ in 0..REPEATS {
            if let Some(buffer) = ring.revoke_leases() {
                sink.take(buffer);
            }
        }
    });
    let mut written = append_some_leased(&mut appender, &sink, 2);
    written.push(one);
    join(sealer);
    join(reader);
    finish(&ring, &sink, &written);
}

/// Leases: after a revocation a pin shows what was committed under the lease, and nothing else is
/// written there.
pub(crate) fn a_pin_sees_the_records_of_a_revoked_lease() {
    let (ring, sink) = (leasing(2, 4, u64::MAX, 3), Sink::new());
    let writer = spawn(&ring, &sink, |ring, sink| {
        let mut appender = ring.appender();
        [5, 6].map(|mark| append_leased(&mut appender, sink, mark))
    });
    if let Some(buffer) = ring.revoke_leases() {
        sink.take(buffer);
    }
    if let PinCommitted::Pinned(pin) = ring.pin_committed(BASE + HEADER as u64) {
        assert_eq!(pin[HEADER..HEADER + RECORD], [5; RECORD]);
        for record in pin[HEADER + RECORD..].chunks(RECORD) {
            assert!(record == [6; RECORD] || record == [VOID; RECORD]);
        }
        if let Some(buffer) = pin.release() {
            sink.take(buffer);
        }
    }
    let written = join(writer);
    while let Some(buffer) = ring.take_orphan() {
        sink.take(buffer);
    }
    finish(&ring, &sink, &written);
}

/// Leases, R7: a record under a lease is dropped while the lease is revoked.
pub(crate) fn a_leased_record_is_dropped() {
    let (ring, sink) = (leasing(2, 3, u64::MAX, 3), Sink::new());
    let mut appender = ring.appender();
    let one = append_leased(&mut appender, &sink, 1);
    let dropper = spawn(&ring, &sink, move |_, sink| {
        match appender.try_reserve(RECORD).expect("it fits") {
            TryReserve::Reserved(mut record) => {
                record.fill(7);
                drop(record);
            }
            TryReserve::Sealed(buffer) => sink.take(buffer),
            TryReserve::Full(_) | TryReserve::Limit { .. } => {}
        }
    });
    seal(&ring, &sink);
    let two = append(&ring, &sink, 2);
    join(dropper);
    finish(&ring, &sink, &[one, two]);
}

/// Leases: an extent seals the buffer.
pub(crate) fn an_extent_revokes_a_lease() {
    let (ring, sink) = (leasing(3, 3, u64::MAX, 3), Sink::new());
    let mut appender = ring.appender();
    let one = append_leased(&mut appender, &sink, 1);
    let inserter = spawn(&ring, &sink, |ring, sink| append_extents(ring, sink, 2));
    let three = append_some_leased(&mut appender, &sink, 3);
    drop(appender);
    let written = [vec![one], three, join(inserter)].concat();
    finish(&ring, &sink, &written);
}

/// Leases, R5: the ring goes round while the owner of an idle lease looks elsewhere.
pub(crate) fn a_lease_of_a_past_tenancy_is_not_used() {
    let (ring, sink) = (leasing(2, 3, u64::MAX, 3), Sink::new());
    let mut appender = ring.appender();
    let one = append_leased(&mut appender, &sink, 1);
    let mover = spawn(&ring, &sink, |ring, sink| {
        seal(ring, sink);
        let two = append_some(ring, sink, 2);
        seal(ring, sink);
        two
    });
    let three = append_some_leased(&mut appender, &sink, 3);
    let written = [vec![one], join(mover), three].concat();
    finish(&ring, &sink, &written);
}

/// Leases, R6: an appender waits in a full ring, and leases in the buffer that is opened.
pub(crate) fn a_full_ring_wakes_its_appender() {
    let (ring, sink) = (leasing(2, 2, u64::MAX, 2), Sink::new());
    let (first, one) = take_sealed(&ring, 1);
    let (second, two) = take_sealed(&ring, 2);
    let waiter = spawn(&ring, &sink, |ring, sink| {
        let mut appender = ring.appender();
        [3, 4]
            .map(|mark| append_some_leased(&mut appender, sink, mark))
            .concat()
    });
    sink.take(first);
    sink.take(second);
    let mut written = vec![one, two];
    written.extend(join(waiter));
    finish(&ring, &sink, &written);
}

/// Batches: two records of one reservation stay together, whatever seals the buffer meanwhile.
pub(crate) fn a_batch_meets_a_seal() {
    let (ring, sink) = (ring(2, 3, u64::MAX), Sink::new());
    let writer = spawn(&ring, &sink, |ring, sink| {
        let lens = [RECORD; 2];
        loop {
            match ring.reserve_batch(&lens).expect("it fits") {
                Reserve::Reserved(mut batch) => {
                    let mut written = Vec::new();
                    for ((address, record), mark) in batch.records(&lens).zip(1..) {
                        record.fill(mark);
                        written.push((address, mark));
                    }
                    if let Some(buffer) = batch.commit() {
                        sink.take(buffer);
                    }
                    return written;
                }
                Reserve::Sealed(buffer) => sink.take(buffer),
                Reserve::Limit { needed } => panic!("no limit, and {needed} is past it"),
            }
        }
    });
    let three = append(&ring, &sink, 3);
    seal(&ring, &sink);
    let mut written = join(writer);
    assert_eq!(written[0].0 + RECORD as u64, written[1].0);
    written.push(three);
    finish(&ring, &sink, &written);
}

/// R5: a thread finds a full buffer open, and comes when its slot has been handed over, freed, or
/// opened again.
pub(crate) fn a_latecomer_meets_the_next_tenancy() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let one = append(&ring, &sink, 1);
    let latecomer = spawn(&ring, &sink, |ring, sink| try_append(ring, sink, 9));
    let mut held = Vec::new();
    held.extend(seal_and_hold(&ring));
    let mut written = vec![one];
    written.extend(try_append(&ring, &sink, 2));
    held.extend(seal_and_hold(&ring));
    // Here the latecomer may come into a slot that is about to be opened: no preemption to loom.
    thread::yield_now();
    for buffer in held {
        sink.take(buffer);
    }
    written.extend(join(latecomer));
    finish(&ring, &sink, &written);
}

/// R3: the last one out has left a full buffer and not claimed it yet, when a latecomer is in and
/// out of it again; and the slot may be open before the first goes on.
pub(crate) fn the_last_one_out_meets_a_latecomer() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let one = append(&ring, &sink, 1);
    let latecomer = spawn(&ring, &sink, |ring, sink| {
        let written = try_append(ring, sink, 9);
        seal(ring, sink);
        written
    });
    seal(&ring, &sink);
    let mut written = vec![one];
    written.extend(join(latecomer));
    finish(&ring, &sink, &written);
}

/// R2, R6: a seal finds somebody crossing, waits, and then everything before it is sealed.
pub(crate) fn a_seal_waits_for_a_crosser() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let one = append(&ring, &sink, 1);
    let crosser = spawn(&ring, &sink, |ring, sink| try_append_pair(ring, sink, 2));
    let end = loop {
        match ring.seal_through(one.0) {
            Seal::Sealed { end, buffer, .. } => {
                if let Some(buffer) = buffer {
                    sink.take(buffer);
                }
                break end;
            }
            Seal::AlreadySealed { end } => break end,
            Seal::Orphan(buffer) => sink.take(buffer),
            Seal::Crossing(wait) => {
                assert!(ring.wait(&wait, None));
            }
            // The crosser was faster and has opened the next.
            Seal::Empty => break ring.current().1,
        }
    };
    assert!(one.0 < end && end <= ring.tail());
    let mut written = vec![one];
    written.extend(join(crosser).into_iter().flatten());
    finish(&ring, &sink, &written);
}

/// R1, R2, R8: one writer fills the buffer to its last byte, a second comes after it, and a third
/// thread seals.
pub(crate) fn an_exact_fill_is_sealed_once() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let filler = spawn(&ring, &sink, |ring, sink| append(ring, sink, 1));
    let next = spawn(&ring, &sink, |ring, sink| append(ring, sink, 2));
    seal(&ring, &sink);
    let written = [join(filler), join(next)];
    finish(&ring, &sink, &written);
}

/// What no model is large enough for: many threads, each of another kind, through few buffers.
#[cfg(not(esker_loom))]
pub(crate) fn everybody_at_once() {
    let (ring, sink) = (leasing(3, 6, u64::MAX, 3), Sink::new());
    let mut threads: Vec<Handle<Vec<(u64, u8)>>> = Vec::new();
    for mark in [1, 2] {
        threads.push(spawn(&ring, &sink, move |ring, sink| {
            append_some(ring, sink, mark)
        }));
    }
    for mark in [3, 4] {
        threads.push(spawn(&ring, &sink, move |ring, sink| {
            let mut appender = ring.appender();
            append_some_leased(&mut appender, sink, mark)
        }));
    }
    threads.push(spawn(&ring, &sink, |ring, sink| {
        append_extents(ring, sink, 5)
    }));
    threads.push(spawn(&ring, &sink, |ring, sink| {
        let tries = (0..REPEATS).filter_map(|_| try_append(ring, sink, 6));
        tries.collect()
    }));
    threads.push(spawn(&ring, &sink, |ring, sink| {
        for _ in 0..REPEATS {
            seal(ring, sink);
            if let Some(buffer) = ring.revoke_leases() {
                sink.take(buffer);
            }
            drop_one(ring, sink);
            while let Some(buffer) = ring.take_orphan() {
                sink.take(buffer);
            }
        }
        Vec::new()
    }));
    let written: Vec<_> = threads.into_iter().flat_map(join).collect();
    finish(&ring, &sink, &written);
}
