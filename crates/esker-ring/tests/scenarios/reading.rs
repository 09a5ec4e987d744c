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
/// round beside it, and its slot is open, or sealed, in a later tenancy.
pub(crate) fn a_position_is_of_one_moment() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let mover = spawn(&ring, &sink, |ring, sink| {
        let rounds = (0..REPEATS).flat_map(|_| {
            let one = try_append(ring, sink, 1);
            seal(ring, sink);
            let two = try_append(ring, sink, 2);
            // While it is held, the one after the next stays the newest.
            let held = seal_and_hold(ring);
            let three = try_append(ring, sink, 3);
            seal(ring, sink);
            if let Some(buffer) = held {
                sink.take(buffer);
            }
            [one, two, three]
        });
        rounds.collect::<Vec<_>>()
    });
    for _ in 0..REPEATS {
        let (seq, base) = ring.current();
        assert_eq!(base, BASE + 16 * seq.get(), "each buffer holds one record");
    }
    let written: Vec<_> = join(mover).into_iter().flatten().collect();
    finish(&ring, &sink, &written);
}

/// R4, E5: what a look that holds nothing shows never goes back.
pub(crate) fn the_tail_never_sinks() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let mover = spawn(&ring, &sink, |ring, sink| {
        [1, 2].map(|mark| {
            let written = try_append(ring, sink, mark);
            seal(ring, sink);
            written
        })
    });
    let (_, base) = ring.current();
    let tail = ring.tail();
    assert!(base <= tail && tail <= ring.tail(), "the tail sank");
    let written: Vec<_> = join(mover).into_iter().flatten().collect();
    finish(&ring, &sink, &written);
}
