//! [`Durable`]: the prefix that is acknowledged, and what a success waits for before it counts.
//!
//! A failure of the disk is not told to everybody whom it concerns. Linux reports a failed writeback
//! once for each open file description: of two syncs in flight together, or of a sync and a durable
//! write, one fails and the other succeeds, although both cover what was lost. A device that has
//! failed to flush its cache may have dropped it, and flushes well the next time. So a success proves
//! something only when nothing that was in flight at the same time has failed.
//!
//! What makes anything of the store's durable is a *flight*: a durable write of a buffer, a data sync,
//! an update of the superblock, a sync of a segment's space or of the names, from before it is handed
//! to the backend until its completion has been dealt with.
//!
//! Invariants:
//! - A1. A success counts when every flight that was under way when it was dealt with has ended, and
//!   none of them has failed.
//! - A2. After the first failure the prefix stands still. It does before that failure's flight ends,
//!   so nothing that was held back for it counts.
//! - A3. Who is in flight waits for no prefix. So every flight ends, and every success counts in the
//!   end, or the prefix stands still for good.
//! - A4. The prefix never moves back.

use std::collections::{BTreeSet, VecDeque};

use crossbeam_utils::CachePadded;

use crate::stability::Frontier;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// The acknowledged prefix: see the module's invariants A1 to A4.
pub(crate) struct Durable {
    /// The first buffer of this life.
    opened_at: u64,
    /// What the successes add up to, whether they count yet or not. Moved with `flights` locked.
    confirmed: Frontier,
    /// The first buffer that the prefix does not contain. Stored with `flights` locked; read by all.
    next: CachePadded<AtomicU64>,
    /// The address at which the prefix ends. Stored with `flights` locked; read by all.
    lsn: CachePadded<AtomicU64>,
    flights: Mutex<Flights>,
}

struct Flights {
    /// The number of the next flight.
    next: u64,
    under_way: BTreeSet<u64>,
    /// Successes that do not count yet, in the order in which they were dealt with.
    held: VecDeque<Held>,
    failed: bool,
}

/// A prefix that counts when every flight with a lower number than `until` has ended.
struct Held {
    until: u64,
    next: u64,
    lsn: u64,
}

/// Something in flight that makes data durable. To be given back to [`Durable::end`].
#[must_use = "nothing counts any more until it has ended"]
pub(crate) struct Flight(u64);

impl Durable {
    /// A prefix that ends at address `lsn`, before buffer `seq`.
    pub(crate) fn new(window: usize, seq: u64, lsn: u64) -> Self {
        Self {
            opened_at: seq,
            confirmed: Frontier::new(window, seq, lsn),
            next: CachePadded::new(AtomicU64::new(seq)),
            lsn: CachePadded::new(AtomicU64::new(lsn)),
            flights: Mutex::new(Flights {
                next: 0,
                under_way: BTreeSet::new(),
                held: VecDeque::new(),
                failed: false,
            }),
        }
    }

    /// The address at which the prefix ends. One load.
    pub(crate) fn lsn(&self) -> u64 {
        // Acquire: pairs with the release in `publish`; what a completion published is visible.
        self.lsn.load(Ordering::Acquire)
    }

    /// The first buffer that the prefix does not contain. One load.
    pub(crate) fn next(&self) -> u64 {
        // Acquire: as in `lsn`.
        self.next.load(Ordering::Acquire)
    }

    /// The first buffer outside the prefix and the address at which it starts, as of one moment;
    /// `None` when the prefix has not moved since the store was opened.
    pub(crate) fn mark(&self) -> Option<(u64, u64)> {
        let _flights = self.flights.lock();
        let mark = (self.next(), self.lsn());
        (mark.0 != self.opened_at).then_some(mark)
    }

    /// Where the prefix will end if nothing that is in flight now fails.
    pub(crate) fn confirmed(&self) -> u64 {
        self.confirmed.lsn()
    }

    /// Something is about to be handed to the backend that makes data durable.
    pub(crate) fn begin(&self) -> Flight {
        let mut flights = self.flights.lock();
        let number = flights.next;
        flights.next += 1;
        flights.under_way.insert(number);
        Flight(number)
    }

    /// A flight has ended, and `cover` completes the buffers that it has made durable. Of one that
    /// has failed it completes none, and [`freeze`](Self::freeze) has been called. Whether the prefix
    /// has moved.
    pub(crate) fn end(&self, flight: Flight, cover: impl FnOnce(&Frontier)) -> bool {
        let mut flights = self.flights.lock();
        let flights = &mut *flights;
        cover(&self.confirmed);
        flights.under_way.remove(&flight.0);
        if flights.failed {
            return false;
        }
        if let Some((next, lsn)) = self.confirmed.mark(self.opened_at) {
            let until = if canary!("durable-not-held") {
                0
            } else {
                flights.next
            };
            flights.held.push_back(Held { until, next, lsn });
        }
        let first_under_way = flights.under_way.first().copied().unwrap_or(flights.next);
        let mut moved = false;
        while let Some(held) = flights.held.front()
            && held.until <= first_under_way
        {
            moved |= self.publish(held);
            flights.held.pop_front();
        }
        moved
    }

    /// Something has failed: the prefix stands still from now on.
    pub(crate) fn freeze(&self) {
        if canary!("lss-failed-sync-made-good") {
            return;
        }
        self.flights.lock().failed = true;
    }

    fn publish(&self, held: &Held) -> bool {
        // Relaxed: stored only with `flights` locked, which the caller holds.
        let moved = held.next > self.next.load(Ordering::Relaxed);
        if moved {
            // Release, both: publishes what the completions did to whoever reads the prefix. The
            // address first: whoever sees the number sees its address, so that a buffer which the
            // number admits says in its header that what admitted it is durable.
            self.lsn.store(held.lsn, Ordering::Release);
            self.next.store(held.next, Ordering::Release);
        }
        moved
    }
}

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use super::*;

    const BLOCK: u64 = 4096;

    /// Ends a flight that has made buffer `seq` durable.
    fn lands(durable: &Durable, flight: Flight, seq: u64) -> bool {
        durable.end(flight, |confirmed| {
            confirmed.complete(seq, (seq + 1) * BLOCK);
        })
    }

    #[test]
    fn a_success_alone_counts_at_once() {
        let durable = Durable::new(4, 7, 7 * BLOCK);
        assert_eq!(durable.mark(), None);
        let flight = durable.begin();
        assert!(lands(&durable, flight, 7));
        assert_eq!((durable.next(), durable.lsn()), (8, 8 * BLOCK));
        assert_eq!(durable.mark(), Some((8, 8 * BLOCK)));
        let flight = durable.begin();
        assert!(!durable.end(flight, |_| {}), "it has moved nothing");
    }

    #[test]
    fn a_success_is_held_back_for_those_in_flight_with_it_and_for_no_others() {
        let durable = Durable::new(4, 0, 0);
        let (slow, quick) = (durable.begin(), durable.begin());
        assert!(!lands(&durable, quick, 0));
        assert_eq!((durable.lsn(), durable.confirmed()), (0, BLOCK));
        let later = durable.begin();
        assert!(durable.end(slow, |_| {}), "the later one does not count");
        assert_eq!(durable.lsn(), BLOCK);
        assert!(lands(&durable, later, 1));
    }

    #[test]
    fn a_success_is_held_back_for_one_that_began_after_it() {
        let durable = Durable::new(4, 0, 0);
        let (quick, slow) = (durable.begin(), durable.begin());
        assert!(!lands(&durable, quick, 0), "the other may still fail");
        assert_eq!((durable.lsn(), durable.confirmed()), (0, BLOCK));
        assert!(durable.end(slow, |_| {}));
        assert_eq!(durable.lsn(), BLOCK);
    }

    #[test]
    fn what_was_held_back_for_one_that_fails_never_counts() {
        let durable = Durable::new(4, 0, 0);
        let (bad, good, later) = (durable.begin(), durable.begin(), durable.begin());
        assert!(!lands(&durable, good, 0));
        durable.freeze();
        assert!(!durable.end(bad, |_| {}));
        assert!(!lands(&durable, later, 1));
        let last = durable.begin();
        assert!(!lands(&durable, last, 2));
        assert_eq!((durable.next(), durable.lsn()), (0, 0));
    }
}
