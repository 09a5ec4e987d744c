//! Threads that look a slot up, sleep, and go on when the ring has gone round.

use esker_ring::PinCommitted;

use super::steps::*;

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

/// Takes the ring of two buffers round once, so that its first slot is open again with one record
/// in it, and gives back what was written: nothing is waited for.
fn go_round(ring: &Ring, sink: &Sink) -> Vec<(u64, u8)> {
    seal(ring, sink);
    let two = try_append(ring, sink, 2);
    seal(ring, sink);
    let three = try_append(ring, sink, 3);
    two.into_iter().chain(three).collect()
}

/// R5, E2: a seal finds a buffer with one record, and wins its compare-and-swap when the slot has
/// come round to the very same word. What it closes is the later tenancy.
pub(crate) fn a_late_seal_meets_the_same_word() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let one = append(&ring, &sink, 1);
    let late = spawn(&ring, &sink, seal);
    let mut written = go_round(&ring, &sink);
    join(late);
    written.push(one);
    finish(&ring, &sink, &written);
}

/// R5, E2: the same of a pin. It shows the record that it was asked for, or nothing.
pub(crate) fn a_late_pin_meets_the_same_word() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let one = append(&ring, &sink, 1);
    let late = spawn(&ring, &sink, move |ring, sink| {
        if let PinCommitted::Pinned(pin) = ring.pin_committed(one.0) {
            assert_eq!(pin.base(), BASE);
            assert_eq!(pin[HEADER..HEADER + RECORD], [1; RECORD]);
            if let Some(buffer) = pin.release() {
                sink.take(buffer);
            }
        }
    });
    let mut written = go_round(&ring, &sink);
    join(late);
    written.push(one);
    finish(&ring, &sink, &written);
}

/// R5, extents: the inserter finds a buffer empty and the limit far enough, and takes over the
/// slot's next tenancy, whose extent the limit does not allow.
pub(crate) fn a_late_extent_meets_the_same_word() {
    // Far enough for the third buffer, not for an extent in its place.
    let (ring, sink) = (ring(2, 2, BASE + 32 + 24), Sink::new());
    let late = spawn(&ring, &sink, |ring, sink| try_append_extent(ring, sink, 9));
    let mut written = Vec::new();
    for mark in [1, 2] {
        written.extend(try_append(&ring, &sink, mark));
        seal(&ring, &sink);
    }
    written.extend(join(late));
    finish(&ring, &sink, &written);
}

/// R5, extents: the inserter finds one record, the next slot free and the limit far enough, and
/// seals the slot's next tenancy, after which the limit is in the way.
pub(crate) fn a_late_extent_finds_the_limit() {
    // Far enough for the third buffer, not for an extent after one record in it.
    let (ring, sink) = (ring(2, 2, BASE + 32 + 24), Sink::new());
    let one = append(&ring, &sink, 1);
    let late = spawn(&ring, &sink, |ring, sink| try_append_extent(ring, sink, 9));
    let mut written = go_round(&ring, &sink);
    written.push(one);
    written.extend(join(late));
    finish(&ring, &sink, &written);
}
