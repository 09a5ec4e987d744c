//! A full ring, limits and orphans: it moves on, and wakes whoever waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use esker_ring::{BufferSeq, Reserve, Seal, TryReserve};

use super::steps::*;

/// R6: a parked waiter is woken by the recycler's opening.
pub(crate) fn a_full_ring_wakes_its_waiter() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let (first, one) = take_sealed(&ring, 1);
    let (second, two) = take_sealed(&ring, 2);
    let waiter = spawn(&ring, &sink, |ring, sink| append_some(ring, sink, 3));
    sink.take(first);
    sink.take(second);
    let three = join(waiter);
    finish(&ring, &sink, &[vec![one, two], three].concat());
}

/// R6: whoever is parked in a full ring is woken when its slot is free and the limit is in the way,
/// for it is the one to raise that.
pub(crate) fn a_full_ring_tells_its_waiter_of_the_limit() {
    let (ring, sink) = (ring(2, 1, BASE + 32), Sink::new());
    let (first, one) = take_sealed(&ring, 1);
    let (second, two) = take_sealed(&ring, 2);
    let waiter = spawn(&ring, &sink, |ring, sink| append_some(ring, sink, 3));
    sink.take(first);
    sink.take(second);
    let three = join(waiter);
    finish(&ring, &sink, &[vec![one, two], three].concat());
}

/// R6: recycling out of order, by two threads.
pub(crate) fn two_recyclers_and_a_waiter() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let (first, one) = take_sealed(&ring, 1);
    let (second, two) = take_sealed(&ring, 2);
    let flusher = spawn(&ring, &sink, move |_, sink| sink.take(second));
    let waiter = spawn(&ring, &sink, |ring, sink| append_some(ring, sink, 3));
    sink.take(first);
    join(flusher);
    let three = join(waiter);
    finish(&ring, &sink, &[vec![one, two], three].concat());
}

/// R6: the sealer publishes `closed`, the recycler `freed`, and one of them opens, with nobody
/// else to help.
pub(crate) fn sealer_and_recycler_open_between_them() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let (first, one) = take_sealed(&ring, 1);
    let two = append(&ring, &sink, 2);
    let flusher = spawn(&ring, &sink, move |_, sink| sink.take(first));
    seal(&ring, &sink);
    join(flusher);
    let (seq, base) = ring.current();
    assert_eq!((seq, base), (BufferSeq::new(2), BASE + 32));
    assert_eq!(ring.tail(), base + HEADER as u64, "nobody opened");
    finish(&ring, &sink, &[one, two]);
}

/// R6: the second buffer is recycled while the first one's slot is opened, filled and sealed: by the
/// time that it is free it may have become the next, and then nobody else comes to open it.
pub(crate) fn a_recycler_out_of_order_meets_a_seal() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let (first, one) = take_sealed(&ring, 1);
    let (second, two) = take_sealed(&ring, 2);
    let flusher = spawn(&ring, &sink, move |_, sink| sink.take(second));
    sink.take(first);
    let (third, three) = take_sealed(&ring, 3);
    join(flusher);
    let (seq, base) = ring.current();
    assert_eq!((seq, base), (BufferSeq::new(3), BASE + 48));
    assert_eq!(ring.tail(), base + HEADER as u64, "nobody opened");
    sink.take(third);
    finish(&ring, &sink, &[one, two, three]);
}

/// R6, R7: whoever is parked is woken for the orphan, for nothing else will come.
pub(crate) fn an_orphan_wakes_its_waiter() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let (other, one) = take_sealed(&ring, 1);
    let Ok(TryReserve::Reserved(record)) = ring.try_reserve(RECORD) else {
        panic!("the second slot is free");
    };
    assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
    let waiter = spawn(&ring, &sink, |ring, sink| {
        match ring.reserve(RECORD).expect("it fits") {
            Reserve::Sealed(buffer) => sink.take(buffer),
            other => panic!("nothing but the orphan can come: {other:?}"),
        }
    });
    drop(record);
    join(waiter);
    sink.take(other);
    finish(&ring, &sink, &[one]);
}

/// R6: `closed` and the limit are published by two threads, and one of them opens.
pub(crate) fn raising_the_limit_races_closing() {
    let limit = BASE + 24;
    let (ring, sink) = (ring(2, 2, limit), Sink::new());
    let one = append(&ring, &sink, 1);
    let raiser = spawn(&ring, &sink, |ring, _| ring.raise_limit(u64::MAX));
    seal(&ring, &sink);
    join(raiser);
    assert_eq!(ring.tail(), BASE + 16 + HEADER as u64, "nobody opened");
    finish(&ring, &sink, &[one]);
}

/// R6: `freed` and the limit are published by two threads, and a third waits.
pub(crate) fn raising_the_limit_races_recycling() {
    let limit = BASE + 16 + 24;
    let (ring, sink) = (ring(2, 2, limit), Sink::new());
    let (first, one) = take_sealed(&ring, 1);
    let (second, two) = take_sealed(&ring, 2);
    let raiser = spawn(&ring, &sink, |ring, _| ring.raise_limit(u64::MAX));
    sink.take(first);
    join(raiser);
    assert_eq!(ring.tail(), BASE + 32 + HEADER as u64, "nobody opened");
    sink.take(second);
    finish(&ring, &sink, &[one, two]);
}

/// R2, R6: a seal finds somebody crossing, waits, and then everything before it is sealed.
pub(crate) fn a_seal_waits_for_a_crosser() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let one = append(&ring, &sink, 1);
    let crosser = spawn(&ring, &sink, |ring, sink| try_append_pair(ring, sink, 2));
    let end = seal_through(&ring, &sink, one.0);
    assert!(one.0 < end && end <= ring.tail());
    let mut written = vec![one];
    written.extend(join(crosser).into_iter().flatten());
    finish(&ring, &sink, &written);
}

/// R6: whoever waits for a crosser to publish the end is woken by that, also in a full ring, where
/// it opens nothing.
pub(crate) fn a_close_wakes_whoever_waits_for_it() {
    let (ring, sink) = (ring(2, 2, u64::MAX), Sink::new());
    let (held, one) = take_sealed(&ring, 1);
    let two = append(&ring, &sink, 2);
    let crosser = spawn(&ring, &sink, |ring, sink| {
        assert_eq!(try_append_pair(ring, sink, 3), None, "no slot is free");
    });
    loop {
        match ring.seal_through(two.0) {
            Seal::Sealed { buffer, .. } => {
                if let Some(buffer) = buffer {
                    sink.take(buffer);
                }
                break;
            }
            Seal::AlreadySealed { end } => {
                assert_eq!(end, BASE + 32);
                break;
            }
            Seal::Orphan(buffer) => sink.take(buffer),
            Seal::Crossing(wait) => assert!(ring.wait(&wait, None)),
            Seal::Empty => panic!("it holds a record"),
        }
    }
    join(crosser);
    sink.take(held);
    finish(&ring, &sink, &[one, two]);
}

/// Rings for a thread that waits as a task.
struct Bell {
    sleeper: thread::Thread,
    /// Not an atomic of the model: parking and unparking order what there is to order.
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        self.sleeper.unpark();
    }
}

/// R6: a task that leaves its waker is woken, or told to try again at once.
pub(crate) fn a_full_ring_wakes_its_task() {
    let (ring, sink) = (ring(2, 1, u64::MAX), Sink::new());
    let (first, one) = take_sealed(&ring, 1);
    let (second, two) = take_sealed(&ring, 2);
    let task = spawn(&ring, &sink, |ring, sink| {
        loop {
            match ring.try_reserve(RECORD).expect("it fits") {
                TryReserve::Reserved(mut record) => {
                    record.fill(3);
                    let address = record.address();
                    assert!(record.commit().is_none(), "nobody seals");
                    return (address, 3);
                }
                TryReserve::Sealed(buffer) => sink.take(buffer),
                TryReserve::Full(wait) => {
                    let bell = Arc::new(Bell {
                        sleeper: thread::current(),
                        rung: AtomicBool::new(false),
                    });
                    if ring.notify(&wait, &Waker::from(Arc::clone(&bell))) {
                        while !bell.rung.load(Ordering::SeqCst) {
                            thread::park();
                        }
                    }
                }
                TryReserve::Limit { needed } => panic!("no limit, and {needed} is past it"),
            }
        }
    });
    sink.take(first);
    sink.take(second);
    let three = join(task);
    finish(&ring, &sink, &[one, two, three]);
}
