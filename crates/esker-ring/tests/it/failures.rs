//! A flusher on a thread of its own, and what becomes of a ring whose writers or flushers fail.

use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;

use esker_ring::{
    Appender, Blocker, BufferSeq, Reservation, Reserve, ReserveError, Ring, SealedBuffer,
    TryReserve, Wait,
};

use crate::support::{Sink, append, append_leased, drain, fill, small};

const FIRST: u64 = 7;
const BASE: u64 = 1 << 20;

/// Both ways to reserve.
enum Writer {
    Plain(Ring),
    Leasing(Appender),
}

impl Writer {
    fn both(ring: &Ring) -> [Self; 2] {
        [Self::Plain(ring.clone()), Self::Leasing(ring.appender())]
    }

    fn try_reserve(&mut self, len: usize) -> Result<TryReserve<'_>, ReserveError> {
        match self {
            Self::Plain(ring) => ring.try_reserve(len),
            Self::Leasing(appender) => appender.try_reserve(len),
        }
    }

    fn reserved(&mut self, len: usize) -> Reservation<'_> {
        match self.try_reserve(len) {
            Ok(TryReserve::Reserved(record)) => record,
            other => panic!("not reserved: {other:?}"),
        }
    }

    fn append(&mut self, sink: &Sink, counter: u64, len: usize) -> u64 {
        match self {
            Self::Plain(ring) => append(ring, sink, 1, counter, len),
            Self::Leasing(appender) => append_leased(appender, sink, 1, counter, len),
        }
    }

    /// Appends until the ring is full, and returns how many records that were.
    fn fill_up(&mut self, sink: &Sink) -> (u64, Wait) {
        let mut records = 0;
        loop {
            match self.try_reserve(400).expect("it fits") {
                TryReserve::Reserved(mut record) => {
                    fill(&mut record, 1, records);
                    records += 1;
                    assert!(records < 1000, "a slot that is not free was used again");
                    if let Some(buffer) = record.commit() {
                        sink.take(buffer);
                    }
                }
                TryReserve::Sealed(buffer) => sink.take(buffer),
                TryReserve::Full(wait) => return (records, wait),
                TryReserve::Limit { needed } => panic!("no limit, and {needed} is past it"),
            }
        }
    }
}

/// That the ring stands still for `blocker`, and that the wait for it does not end.
fn assert_stands_still(ring: &Ring, wait: &Wait, blocker: Blocker) {
    assert!(!ring.wait(wait, Some(Duration::from_millis(20))));
    assert_eq!(ring.blocker(wait), Some(blocker));
}

/// Eight threads append, and one of its own takes the buffers.
fn eight_writers_and_a_flusher(each: u64, leases: bool) {
    let ring = small().build().expect("a ring");
    let (sender, buffers) = mpsc::channel::<SealedBuffer>();
    let sink = Sink::default();
    let mut appended: Vec<_> = thread::scope(|scope| {
        scope.spawn(|| buffers.into_iter().for_each(|buffer| sink.take(buffer)));
        let writers: Vec<_> = (0..8u32)
            .map(|id| {
                let (ring, sender) = (&ring, sender.clone());
                scope.spawn(move || {
                    let mut appender = leases.then(|| ring.appender());
                    let mut one = |counter| loop {
                        let len = 16 + usize::try_from(counter % 60).expect("small");
                        let outcome = match &mut appender {
                            Some(appender) => appender.reserve(len),
                            None => ring.reserve(len),
                        };
                        match outcome.expect("it fits") {
                            Reserve::Reserved(mut record) => {
                                fill(&mut record, id, counter);
                                let address = record.address();
                                if let Some(buffer) = record.commit() {
                                    sender.send(buffer).expect("the flusher lives");
                                }
                                break (address, id, counter);
                            }
                            Reserve::Sealed(buffer) => {
                                sender.send(buffer).expect("the flusher lives");
                            }
                            Reserve::Limit { needed } => panic!("{needed} is past no limit"),
                        }
                    };
                    (0..each).map(&mut one).collect::<Vec<_>>()
                })
            })
            .collect();
        let appended = writers
            .into_iter()
            .flat_map(|writer| writer.join().expect("a writer"))
            .collect();
        drop(sender);
        appended
    });
    drain(&ring, &sink);
    appended.sort_unstable();
    assert_eq!(sink.into_records(FIRST, BASE), appended);
}

#[test]
fn every_byte_comes_back_through_a_flusher_of_its_own() {
    eight_writers_and_a_flusher(2_500, false);
    eight_writers_and_a_flusher(2_500, true);
}

#[test]
fn the_ring_goes_on_after_a_writer_panicked() {
    for writer in 0..2 {
        let ring = small().build().expect("a ring");
        let sink = Sink::default();
        let mut writer = Writer::both(&ring).into_iter().nth(writer).expect("two");
        let mut appended = Vec::new();
        for counter in 0..500 {
            if counter % 5 == 0 {
                let panicked = thread::scope(|scope| {
                    let writer = &mut writer;
                    let sink = &sink;
                    scope
                        .spawn(move || {
                            let mut record = loop {
                                match writer.try_reserve(300).expect("it fits") {
                                    TryReserve::Reserved(record) => break record,
                                    TryReserve::Sealed(buffer) => sink.take(buffer),
                                    other => panic!("not reserved: {other:?}"),
                                }
                            };
                            record[0] = 1;
                            panic!("a writer fails");
                        })
                        .join()
                });
                assert!(panicked.is_err());
            }
            appended.push((writer.append(&sink, counter, 100), 1, counter));
        }
        drop(writer);
        drain(&ring, &sink);
        assert_eq!(sink.into_records(FIRST, BASE), appended);
    }
}

#[test]
fn a_forgotten_reservation_stops_the_ring_where_it_comes_round_to_it() {
    for writer in 0..2 {
        let ring = small().build().expect("a ring");
        let sink = Sink::default();
        let mut writer = Writer::both(&ring).into_iter().nth(writer).expect("two");
        std::mem::forget(writer.reserved(400));
        let (records, wait) = writer.fill_up(&sink);
        assert!(records > 27, "all four buffers are used: {records}");
        let seq = BufferSeq::new(FIRST);
        assert_stands_still(&ring, &wait, Blocker::Writers { seq, writers: 1 });
    }
}

#[test]
fn the_ring_goes_on_after_a_flusher_panicked_with_a_buffer() {
    for writer in 0..2 {
        let ring = small().build().expect("a ring");
        let mut writer = Writer::both(&ring).into_iter().nth(writer).expect("two");
        let mut lost = Vec::new();
        for _ in 0..100 {
            let buffer = match writer.try_reserve(400).expect("it fits") {
                TryReserve::Reserved(record) => record.commit(),
                TryReserve::Sealed(buffer) => Some(buffer),
                other => panic!("not reserved: {other:?}"),
            };
            if let Some(buffer) = buffer {
                lost.push(buffer.seq().get());
                let flusher = thread::spawn(move || {
                    panic!("a flusher fails over buffer {}", buffer.seq());
                });
                assert!(flusher.join().is_err());
            }
        }
        assert!(lost.len() > 8, "more than two rounds: {lost:?}");
        assert!(lost.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    }
}

#[test]
fn buffers_that_a_dead_flusher_had_before_it_go_back_to_the_ring() {
    let ring = small().buffers(2).build().expect("a ring");
    let (sender, buffers) = mpsc::channel();
    let mut writer = Writer::Plain(ring.clone());
    let both_sent = Arc::new(Barrier::new(2));
    let sent_both = Arc::clone(&both_sent);
    let flusher = thread::spawn(move || {
        let first: SealedBuffer = buffers.recv().expect("a buffer");
        both_sent.wait();
        panic!("a flusher fails over buffer {}", first.seq());
    });
    let mut sent = 0;
    while sent < 2 {
        match writer.try_reserve(400).expect("it fits") {
            TryReserve::Reserved(record) => assert!(record.commit().is_none()),
            TryReserve::Sealed(buffer) => {
                sender.send(buffer).expect("the flusher lives");
                sent += 1;
            }
            other => panic!("not reserved: {other:?}"),
        }
    }
    assert!(matches!(writer.try_reserve(400), Ok(TryReserve::Full(_))));
    sent_both.wait();
    // Both go back: the one that it had in hand, and the one in its queue.
    assert!(flusher.join().is_err());
    assert!(matches!(ring.reserve(400), Ok(Reserve::Reserved(_))));
}

#[test]
fn a_forgotten_buffer_stops_the_ring_where_it_comes_round_to_it() {
    for writer in 0..2 {
        let ring = small().build().expect("a ring");
        let sink = Sink::default();
        let mut writer = Writer::both(&ring).into_iter().nth(writer).expect("two");
        let forgotten = loop {
            match writer.try_reserve(400).expect("it fits") {
                TryReserve::Reserved(record) => assert!(record.commit().is_none()),
                TryReserve::Sealed(buffer) => break buffer,
                other => panic!("not reserved: {other:?}"),
            }
        };
        let seq = forgotten.seq();
        std::mem::forget(forgotten);
        let (records, wait) = writer.fill_up(&sink);
        assert!(records >= 27, "the other three buffers are used: {records}");
        assert_stands_still(&ring, &wait, Blocker::Flusher { seq });
    }
}

#[test]
fn a_ring_that_moves_on_has_no_blocker() {
    let ring = small().build().expect("a ring");
    let mut writer = Writer::Plain(ring.clone());
    let mut held = Vec::new();
    let wait = loop {
        match writer.try_reserve(400).expect("it fits") {
            TryReserve::Reserved(record) => assert!(record.commit().is_none()),
            TryReserve::Sealed(buffer) => held.push(buffer),
            TryReserve::Full(wait) => break wait,
            TryReserve::Limit { needed } => panic!("no limit, and {needed} is past it"),
        }
    };
    let seq = BufferSeq::new(FIRST);
    assert_eq!(ring.blocker(&wait), Some(Blocker::Flusher { seq }));
    // Any other buffer does not help: they are used in order.
    held.pop();
    assert_eq!(ring.blocker(&wait), Some(Blocker::Flusher { seq }));
    held.remove(0).recycle();
    assert_eq!(ring.blocker(&wait), None);
}
