//! Looks at the ring that hold nothing, and pins.

use std::time::Duration;

use esker_ring::{PinCommitted, TryReserve};

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

/// E5: a look that has found its buffer closed reads the end of the one that came into its slot
/// since, from a sealer that knows all that the mover does, and has no fence behind it yet.
pub(crate) fn a_position_is_not_of_a_later_end() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let (first, one) = take_sealed(&ring, 1);
    let (second, two) = take_sealed(&ring, 2);
    let reader = spawn(&ring, &sink, belongs_together);
    sink.take(first);
    let (third, three) = take_sealed(&ring, 3);
    sink.take(second);
    let four = append(&ring, &sink, 4);
    join(spawn(&ring, &sink, seal));
    join(reader);
    sink.take(third);
    finish(&ring, &sink, &[one, two, three, four]);
}

/// E5: the same where it reads the base of a later buffer, from an opener that has no fence behind
/// it: one that finds the slot free a moment before the recycler looks.
pub(crate) fn a_position_is_not_of_a_later_base() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let one = append(&ring, &sink, 1);
    let reader = spawn(&ring, &sink, belongs_together);
    let first = seal_and_hold(&ring).expect("nobody else seals");
    let (second, two) = take_sealed(&ring, 2);
    let Ok(TryReserve::Full(wait)) = ring.try_reserve(RECORD) else {
        panic!("both are held");
    };
    let opener = spawn(&ring, &sink, move |ring, _| {
        ring.wait(&wait, Some(Duration::ZERO));
    });
    first.recycle();
    join(opener);
    join(reader);
    second.recycle();
    assert_eq!(ring.tail(), BASE + 32 + HEADER as u64, "nobody opened");
    assert_eq!((one.0, two.0), (BASE + 8, BASE + 24));
}

/// Where the log stands, of a ring whose buffers hold one record each.
fn belongs_together(ring: &Ring, _: &Sink) {
    let (seq, base) = ring.current();
    assert_eq!(base, BASE + 16 * seq.get(), "of two moments");
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
