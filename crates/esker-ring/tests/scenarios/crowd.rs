//! Scenarios that are too large for loom.

use super::steps::*;

/// R5, extents: the inserter finds one record, the next slot free and the limit far enough, and
/// seals the slot's next tenancy, after which the slot is not free.
pub(crate) fn a_late_extent_finds_no_slot() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let one = append(&ring, &sink, 1);
    let late = spawn(&ring, &sink, |ring, sink| try_append_extent(ring, sink, 9));
    seal(&ring, &sink);
    let mut written = vec![one];
    written.extend(try_append(&ring, &sink, 2));
    let held = seal_and_hold(&ring);
    written.extend(try_append(&ring, &sink, 3));
    // Here the inserter may come in.
    thread::yield_now();
    if let Some(buffer) = held {
        sink.take(buffer);
    }
    written.extend(join(late));
    // Each slot is free for its next tenancy, and not for one that has been.
    for mark in [4, 5] {
        written.push(try_append(&ring, &sink, mark).expect("every slot is free"));
        seal(&ring, &sink);
    }
    finish(&ring, &sink, &written);
}

/// What no model is large enough for: many threads, each of another kind, through few buffers.
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
