//! What the scenarios are made of.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use esker_buf::{AlignedBuf, Alignment, HugePages};
pub(super) use esker_ring::Ring;
use esker_ring::{
    Appender, BufferSeq, Reserve, ReserveExtent, RingBuilder, Seal, SealedBuffer, TryReserve, Wait,
};

#[cfg(esker_loom)]
pub(super) use loom::thread;
#[cfg(esker_shuttle)]
pub(super) use shuttle::thread;
#[cfg(not(any(esker_loom, esker_shuttle)))]
pub(super) use std::thread;

pub(super) const HEADER: usize = 8;
pub(super) const RECORD: usize = 8;
pub(super) const BASE: u64 = 1024;
/// How the memory of extents is aligned: as far as any ring of a scenario needs it.
const EXTENTS: Alignment = match Alignment::new(16) {
    Ok(alignment) => alignment,
    Err(_) => panic!("a power of two"),
};
/// What fills a void record.
pub(super) const VOID: u8 = 0xFF;
/// How often a thread of a scenario does what it does: what loom enumerates has to be short.
pub(super) const REPEATS: usize = if cfg!(esker_loom) { 1 } else { 8 };

/// What was handed over, by sequence number.
///
/// Its lock is std's, also under loom: it is held for no operation that loom sees, and orders
/// nothing there that the ring itself has to order.
#[derive(Clone)]
pub(super) struct Sink(Arc<Mutex<BTreeMap<u64, Kept>>>);

pub(super) struct Kept {
    base: u64,
    next_base: u64,
    records: Vec<u8>,
}

impl Sink {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(BTreeMap::new())))
    }

    /// Keeps a copy and recycles.
    pub(super) fn take(&self, buffer: SealedBuffer) {
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
    pub(super) fn check(&self, written: &[(u64, u8)]) {
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
pub(super) fn ring(buffers: usize, records: usize, limit: u64) -> Ring {
    leasing(buffers, records, limit, 0)
}

/// The same, with leases of up to `leased` records.
pub(super) fn leasing(buffers: usize, records: usize, limit: u64, leased: usize) -> Ring {
    builder(buffers, records, limit)
        .lease_bytes(leased * RECORD)
        .build()
        .expect("a ring")
}

/// A ring whose buffers hold `records` records each, and begin at multiples of `alignment_bytes`:
/// what is left after the last of fewer records is padding.
pub(super) fn padded(buffers: usize, records: usize, alignment_bytes: usize) -> Ring {
    let alignment = Alignment::new(alignment_bytes).expect("a power of two");
    let builder = builder(buffers, records, u64::MAX).lease_bytes(0);
    builder.alignment(alignment).build().expect("a ring")
}

fn builder(buffers: usize, records: usize, limit: u64) -> RingBuilder {
    Ring::builder()
        .buffers(buffers)
        .capacity_bytes(HEADER + records * RECORD)
        .header_bytes(HEADER)
        .min_reservation_bytes(RECORD)
        .alignment(Alignment::new(8).expect("a power of two"))
        .huge_pages(HugePages::Never)
        .start(BufferSeq::new(0), BASE)
        .limit(limit)
        .void(|_, bytes| bytes.fill(VOID))
}

pub(super) fn append(ring: &Ring, sink: &Sink, mark: u8) -> (u64, u8) {
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
pub(super) fn append_some(ring: &Ring, sink: &Sink, mark: u8) -> Vec<(u64, u8)> {
    (0..REPEATS).map(|_| append(ring, sink, mark)).collect()
}

/// The same, under leases.
pub(super) fn append_some_leased(appender: &mut Appender, sink: &Sink, mark: u8) -> Vec<(u64, u8)> {
    (0..REPEATS)
        .map(|_| append_leased(appender, sink, mark))
        .collect()
}

pub(super) fn append_leased(appender: &mut Appender, sink: &Sink, mark: u8) -> (u64, u8) {
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
pub(super) fn try_append(ring: &Ring, sink: &Sink, mark: u8) -> Option<(u64, u8)> {
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
pub(super) fn try_append_pair(ring: &Ring, sink: &Sink, mark: u8) -> Option<[(u64, u8); 2]> {
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
pub(super) fn append_extent(ring: &Ring, sink: &Sink, mark: u8) -> Vec<(u64, u8)> {
    loop {
        match reserve_extent(ring, sink, mark) {
            Inserted::Written(written) => return written,
            Inserted::Sealed => {}
            Inserted::Full(wait) => {
                ring.wait(&wait, None);
            }
            Inserted::Limit(needed) => ring.raise_limit(needed),
        }
    }
}

/// The same in one attempt; nothing if that came to nothing.
pub(super) fn try_append_extent(ring: &Ring, sink: &Sink, mark: u8) -> Vec<(u64, u8)> {
    match reserve_extent(ring, sink, mark) {
        Inserted::Written(written) => written,
        Inserted::Sealed | Inserted::Full(_) | Inserted::Limit(_) => Vec::new(),
    }
}

enum Inserted {
    Written(Vec<(u64, u8)>),
    Sealed,
    Full(Wait),
    Limit(u64),
}

fn reserve_extent(ring: &Ring, sink: &Sink, mark: u8) -> Inserted {
    let memory = AlignedBuf::zeroed(HEADER + 3 * RECORD, EXTENTS).expect("memory");
    match ring.reserve_extent(memory, 3 * RECORD).expect("it fits") {
        ReserveExtent::Reserved {
            mut reservation,
            previous,
        } => {
            if let Some(buffer) = previous {
                sink.take(buffer);
            }
            reservation.fill(mark);
            let address = reservation.address();
            let end = address + 3 * RECORD as u64;
            assert!(end <= ring.limit(), "it reaches past the limit");
            if let Some(buffer) = reservation.commit() {
                sink.take(buffer);
            }
            let records = 0..3;
            Inserted::Written(
                records
                    .map(|at| (address + at * RECORD as u64, mark))
                    .collect(),
            )
        }
        ReserveExtent::Sealed { buffer, .. } => {
            sink.take(buffer);
            Inserted::Sealed
        }
        ReserveExtent::Full { wait, .. } => Inserted::Full(wait),
        ReserveExtent::Limit { needed, .. } => Inserted::Limit(needed),
    }
}

/// Inserts an extent of three records' length into an empty buffer, and takes it.
pub(super) fn take_extent(ring: &Ring, mark: u8) -> (SealedBuffer, [(u64, u8); 3]) {
    let memory = AlignedBuf::zeroed(HEADER + 3 * RECORD, EXTENTS).expect("memory");
    match ring.reserve_extent(memory, 3 * RECORD).expect("it fits") {
        ReserveExtent::Reserved {
            mut reservation, ..
        } => {
            reservation.fill(mark);
            let address = reservation.address();
            let extent = reservation.commit().expect("the last one out");
            (extent, [0, 8, 16].map(|at| (address + at, mark)))
        }
        other => panic!("the buffer is empty: {other:?}"),
    }
}

/// Appends [`REPEATS`] extents, all with the same mark.
pub(super) fn append_extents(ring: &Ring, sink: &Sink, mark: u8) -> Vec<(u64, u8)> {
    let extents = (0..REPEATS).flat_map(|_| append_extent(ring, sink, mark));
    extents.collect()
}

pub(super) fn seal(ring: &Ring, sink: &Sink) {
    match ring.seal() {
        Seal::Sealed { seq, end, buffer } => {
            if let Some(buffer) = buffer {
                assert_eq!((buffer.seq(), buffer.next_base()), (seq, end));
                sink.take(buffer);
            }
        }
        Seal::Orphan(buffer) => sink.take(buffer),
        Seal::Empty | Seal::AlreadySealed { .. } | Seal::Crossing(_) => {}
    }
}

/// Seals what lies at `address`, waiting as long as it takes, and says what is sealed.
pub(super) fn seal_through(ring: &Ring, sink: &Sink, address: u64) -> u64 {
    loop {
        match ring.seal_through(address) {
            Seal::Sealed { end, buffer, .. } => {
                if let Some(buffer) = buffer {
                    sink.take(buffer);
                }
                return end;
            }
            Seal::AlreadySealed { end } => return end,
            Seal::Orphan(buffer) => sink.take(buffer),
            Seal::Crossing(wait) => {
                assert!(ring.wait(&wait, None));
            }
            // Somebody else was faster and has opened the next.
            Seal::Empty => return ring.current().1,
        }
    }
}

/// Seals, and keeps the buffer that falls to the caller from being recycled.
pub(super) fn seal_and_hold(ring: &Ring) -> Option<SealedBuffer> {
    match ring.seal() {
        Seal::Sealed { buffer, .. } => buffer,
        Seal::Orphan(buffer) => Some(buffer),
        Seal::Empty | Seal::AlreadySealed { .. } | Seal::Crossing(_) => None,
    }
}

/// Reserves without waiting, writes, and drops the reservation.
pub(super) fn drop_one(ring: &Ring, sink: &Sink) {
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
pub(super) fn finish(ring: &Ring, sink: &Sink, written: &[(u64, u8)]) {
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

pub(super) type Handle<T> = thread::JoinHandle<T>;

pub(super) fn spawn<T: Send + 'static>(
    ring: &Ring,
    sink: &Sink,
    body: impl FnOnce(&Ring, &Sink) -> T + Send + 'static,
) -> Handle<T> {
    let (ring, sink) = (ring.clone(), sink.clone());
    thread::spawn(move || body(&ring, &sink))
}

pub(super) fn join<T>(handle: Handle<T>) -> T {
    handle.join().expect("a thread of the scenario")
}

/// Seals a buffer that holds one record, and takes it.
pub(super) fn take_sealed(ring: &Ring, mark: u8) -> (SealedBuffer, (u64, u8)) {
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
