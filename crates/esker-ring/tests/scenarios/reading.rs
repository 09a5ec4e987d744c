//! Looks at the ring that hold nothing, and pins.

use esker_ring::PinCommitted;

use super::steps::*;

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

/// E2, E5: what a look that holds nothing puts together belongs together, though the ring goes
/// round beside it; and what it shows never goes back.
pub(crate) fn a_position_is_of_one_moment() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let mover = spawn(&ring, &sink, |ring, sink| {
        [1, 2].map(|mark| {
            let written = try_append(ring, sink, mark);
            seal(ring, sink);
            written
        })
    });
    let (seq, base) = ring.current();
    assert_eq!(base, BASE + 16 * seq.get(), "each buffer holds one record");
    let tail = ring.tail();
    assert!(base <= tail && tail <= ring.tail(), "the tail sank");
    let written: Vec<_> = join(mover).into_iter().flatten().collect();
    finish(&ring, &sink, &written);
}
