//! A ring with small buffers, records that say who wrote them, and a sink that keeps every buffer.

use std::collections::BTreeMap;
use std::sync::Mutex;

use esker_buf::{AlignedBuf, Alignment, HugePages};
use esker_ring::{Appender, BufferSeq, Reserve, ReserveExtent, Ring, RingBuilder, SealedBuffer};

pub(crate) const HEADER: usize = 64;
/// Length, thread, counter.
pub(crate) const RECORD_HEAD: usize = 16;
pub(crate) const VOID: u32 = u32::MAX;

/// 4 buffers of 4 KiB with 512 B alignment, whose void records can be parsed.
pub(crate) fn small() -> RingBuilder {
    Ring::builder()
        .buffers(4)
        .capacity_bytes(4096)
        .header_bytes(HEADER)
        .min_reservation_bytes(RECORD_HEAD)
        .alignment(Alignment::SECTOR)
        .huge_pages(HugePages::Never)
        .start(BufferSeq::new(7), 1 << 20)
        .void(|_, bytes| {
            let len = u32::try_from(bytes.len()).expect("a record");
            bytes.fill(0);
            bytes[..4].copy_from_slice(&len.to_le_bytes());
            bytes[4..8].copy_from_slice(&VOID.to_le_bytes());
        })
}

/// Fills a record: length, thread, counter, and a byte pattern that follows from them.
pub(crate) fn fill(bytes: &mut [u8], thread: u32, counter: u64) {
    let len = u32::try_from(bytes.len()).expect("a record");
    bytes[..4].copy_from_slice(&len.to_le_bytes());
    bytes[4..8].copy_from_slice(&thread.to_le_bytes());
    bytes[8..16].copy_from_slice(&counter.to_le_bytes());
    for (at, byte) in bytes[RECORD_HEAD..].iter_mut().enumerate() {
        *byte = pattern(thread, counter, at);
    }
}

pub(crate) fn pattern(thread: u32, counter: u64, at: usize) -> u8 {
    u8::try_from((u64::from(thread) * 31 + counter * 7 + at as u64) % 251).expect("below 251")
}

/// A sealed buffer as the sink keeps it.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) base: u64,
    pub(crate) next_base: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Keeps every buffer by sequence number, refusing a second one with the same.
#[derive(Default)]
pub(crate) struct Sink(Mutex<BTreeMap<u64, Kept>>);

/// A record read back: address, thread, counter.
pub(crate) type Found = (u64, u32, u64);

impl Sink {
    pub(crate) fn take(&self, mut buffer: SealedBuffer) {
        assert!(buffer.header_mut().iter().all(|&byte| byte == 0));
        let (len, padded) = (buffer.len(), buffer.padded_len());
        assert_eq!(padded % Alignment::SECTOR.bytes(), 0);
        assert!(len <= padded && padded - len < Alignment::SECTOR.bytes());
        assert!(buffer.padded_bytes()[len..].iter().all(|&byte| byte == 0));
        let kept = Kept {
            base: buffer.base(),
            next_base: buffer.next_base(),
            bytes: buffer.bytes().to_vec(),
        };
        // A mark in the header, which must be gone the next time round.
        buffer.header_mut().fill(0xEE);
        let seq = buffer.seq().get();
        let before = self.0.lock().expect("the sink").insert(seq, kept);
        assert!(before.is_none(), "buffer {seq} was handed over twice");
        buffer.recycle();
    }

    /// Every record in every buffer, after checking that sequence numbers and addresses have no
    /// gaps and every byte is what its writer wrote.
    pub(crate) fn into_records(self, first: u64, base: u64) -> Vec<Found> {
        let buffers = self.0.into_inner().expect("the sink");
        let (mut seq, mut next_base) = (first, base);
        let mut found = Vec::new();
        for (at, kept) in buffers {
            assert_eq!((at, kept.base), (seq, next_base), "a gap in the log");
            (seq, next_base) = (seq + 1, kept.next_base);
            parse(&kept, &mut found);
        }
        found
    }
}

fn parse(kept: &Kept, found: &mut Vec<Found>) {
    let mut at = HEADER;
    assert!(kept.bytes.len() > HEADER, "an empty buffer was sealed");
    while at < kept.bytes.len() {
        let record = &kept.bytes[at..];
        let number = |from: usize| u32::from_le_bytes(record[from..from + 4].try_into().unwrap());
        let (len, thread) = (number(0) as usize, number(4));
        let counter = u64::from_le_bytes(record[8..16].try_into().unwrap());
        assert!(len >= RECORD_HEAD && len <= record.len(), "length {len}");
        if thread != VOID {
            for (i, &byte) in record[RECORD_HEAD..len].iter().enumerate() {
                assert_eq!(byte, pattern(thread, counter, i));
            }
            found.push((kept.base + at as u64, thread, counter));
        }
        at += len;
    }
    assert_eq!(at, kept.bytes.len());
}

/// Appends one record, blocking, and returns its address.
pub(crate) fn append(ring: &Ring, sink: &Sink, thread: u32, counter: u64, len: usize) -> u64 {
    loop {
        match ring.reserve(len).expect("a length that fits") {
            Reserve::Reserved(mut record) => {
                fill(&mut record, thread, counter);
                let address = record.address();
                if let Some(buffer) = record.commit() {
                    sink.take(buffer);
                }
                return address;
            }
            Reserve::Sealed(buffer) => sink.take(buffer),
            Reserve::Limit { needed } => ring.raise_limit(needed),
        }
    }
}

/// The same, through an appender.
pub(crate) fn append_leased(
    appender: &mut Appender,
    sink: &Sink,
    thread: u32,
    counter: u64,
    len: usize,
) -> u64 {
    loop {
        match appender.reserve(len).expect("a length that fits") {
            Reserve::Reserved(mut record) => {
                fill(&mut record, thread, counter);
                let address = record.address();
                if let Some(buffer) = record.commit() {
                    sink.take(buffer);
                }
                return address;
            }
            Reserve::Sealed(buffer) => sink.take(buffer),
            Reserve::Limit { needed } => panic!("no limit, and {needed} is past it"),
        }
    }
}

/// Appends one record as an extent, blocking, and returns its address.
pub(crate) fn append_extent(
    ring: &Ring,
    sink: &Sink,
    thread: u32,
    counter: u64,
    len: usize,
) -> u64 {
    let mut memory = extent_memory(len);
    loop {
        memory = match ring.reserve_extent(memory, len).expect("memory that fits") {
            ReserveExtent::Reserved {
                mut reservation,
                previous,
            } => {
                if let Some(buffer) = previous {
                    sink.take(buffer);
                }
                fill(&mut reservation, thread, counter);
                let address = reservation.address();
                if let Some(buffer) = reservation.commit() {
                    sink.take(buffer);
                }
                return address;
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
        }
    }
}

/// Memory for an extent with one record of `len` bytes, dirty on purpose.
pub(crate) fn extent_memory(len: usize) -> AlignedBuf {
    let bytes = (HEADER + len).next_multiple_of(512);
    let mut memory = AlignedBuf::zeroed(bytes, Alignment::SECTOR).expect("memory");
    memory.fill(0xDD);
    memory
}

/// Seals until nothing reserved is left unsealed, and keeps what falls to it.
pub(crate) fn drain(ring: &Ring, sink: &Sink) {
    use esker_ring::Seal;
    loop {
        match ring.seal() {
            Seal::Sealed { buffer, .. } => {
                if let Some(buffer) = buffer {
                    sink.take(buffer);
                }
            }
            Seal::Orphan(buffer) => sink.take(buffer),
            Seal::Crossing(wait) => {
                ring.wait(&wait, None);
            }
            Seal::Empty | Seal::AlreadySealed { .. } => break,
        }
    }
    while let Some(buffer) = ring.take_orphan() {
        sink.take(buffer);
    }
}

/// A small generator, so that a failure is replayed by its seed alone.
pub(crate) struct Lcg(pub(crate) u64);

impl Lcg {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
