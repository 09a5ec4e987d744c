//! Records larger than a buffer.

use super::steps::*;

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

/// R2, E4, extents: a seal finds the buffer before an extent sealed, and says so of all that was in
/// it, wherever the insertion is.
pub(crate) fn a_seal_meets_an_inserter() {
    let (ring, sink) = (padded(2, 3, 16), Sink::new());
    let mut written = [1, 2].map(|mark| append(&ring, &sink, mark)).to_vec();
    let last = written[1].0;
    let inserter = spawn(&ring, &sink, |ring, sink| try_append_extent(ring, sink, 3));
    let end = seal_through(&ring, &sink, last);
    // Where its buffer ends, padded, or the extent behind it.
    assert!(last < end && end.is_multiple_of(16), "{end}");
    assert!(end <= ring.tail());
    written.extend(join(inserter));
    finish(&ring, &sink, &written);
}

/// E6, extents: one takes the slot of another, whose memory goes at the same time.
pub(crate) fn an_extent_takes_the_slot_of_another() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let (first, one) = take_extent(&ring, 1);
    let flusher = spawn(&ring, &sink, move |_, sink| sink.take(first));
    let two = append_extents(&ring, &sink, 2);
    let three = append_extents(&ring, &sink, 3);
    join(flusher);
    finish(&ring, &sink, &[one.to_vec(), two, three].concat());
}
