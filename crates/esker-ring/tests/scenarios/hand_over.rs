//! Reserving, sealing and handing over: no record is lost, and each buffer has one owner.

use esker_ring::{Reserve, TryReserve};

use super::steps::*;

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

/// R3: the last one out has left a full buffer and not claimed it yet, when a latecomer finds it
/// sealed, or has gone on in the next and seals that.
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

/// E6: the recycler frees a slot while somebody else opens it, and a third thread writes there.
/// What the flusher has read comes before that.
pub(crate) fn a_writer_comes_after_the_flusher_of_its_slot() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let (first, one) = take_sealed(&ring, 1);
    let two = append(&ring, &sink, 2);
    let flusher = spawn(&ring, &sink, move |_, sink| sink.take(first));
    let writer = spawn(&ring, &sink, |ring, sink| try_append(ring, sink, 3));
    seal(&ring, &sink);
    join(flusher);
    let mut written = vec![one, two];
    written.extend(join(writer));
    finish(&ring, &sink, &written);
}
