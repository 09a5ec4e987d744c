//! Which prefix of the log is written, and which is durable.
//!
//! Buffers complete in any order; what counts is the contiguous prefix (LLAMA's hi-stable, PVLDB
//! 2013, section 4.2). A [`Frontier`] remembers which buffers past the prefix have completed in a
//! fixed array, not in a set that could grow behind one slow write, and moves the prefix without a
//! lock: whoever completes a buffer walks it forward as far as it goes.
//!
//! Invariants:
//! - F1. The frontier passes buffer `t` only after `complete(t)` was called, and passes every
//!   buffer in order.
//! - F2. It never moves back, neither in sequence numbers nor in LSNs.
//! - F3. Once every buffer up to `t` has completed and each `complete` has returned, the frontier
//!   is past `t`: no advance is lost, whatever the interleaving. For each stores its entry, fences
//!   (SeqCst) and walks. The last of them to fence sees every entry, and the frontier where any of
//!   them has seen it, or later; from there it passes them all, or somebody else has before it.
//! - F4. At most `window` buffers lie between the frontier and a buffer that completes; the writer
//!   sees to it (a buffer is submitted only when the one `window` before it is durable).

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU64, ContendedU64, Ordering, fence};

/// A contiguous prefix of completed buffers: see the module's invariants F1 to F4.
pub(crate) struct Frontier {
    /// The sequence number of the first buffer that the prefix does not contain. Moved by
    /// compare-and-swap, by whoever completes a buffer; read by all.
    next: CachePadded<ContendedU64>,
    /// The address at which the prefix ends. Raised with `fetch_max` after `next` has moved, so it
    /// may lag behind `next` for a moment, and never leads it.
    lsn: CachePadded<AtomicU64>,
    /// Buffer `t` at `t mod 2·window`. Twice the window, so that the entry of the last buffer
    /// passed is not taken over while it may still be asked for.
    entries: Box<[Entry]>,
}

/// One buffer's place. Both numbers only grow, so that a completion reported twice (a durable write
/// which a later data sync covers as well) can never undo that of the buffer `2·window` later.
struct Entry {
    /// `t + 1` once buffer `t` has completed; less before.
    done: AtomicU64,
    /// Where buffer `t` ends. Written before `done`.
    end: AtomicU64,
}

impl Frontier {
    /// A prefix that ends at address `lsn`, before buffer `seq`.
    pub(crate) fn new(window: usize, seq: u64, lsn: u64) -> Self {
        let entries = (0..2 * window.max(1))
            .map(|_| Entry {
                done: AtomicU64::new(0),
                end: AtomicU64::new(0),
            })
            .collect();
        Self {
            next: CachePadded::new(ContendedU64::new(seq)),
            lsn: CachePadded::new(AtomicU64::new(lsn)),
            entries,
        }
    }

    /// The address at which the prefix ends: everything below has completed. One load.
    pub(crate) fn lsn(&self) -> u64 {
        // Acquire: pairs with the release in `complete`; what the completion published is visible.
        self.lsn.load(Ordering::Acquire)
    }

    /// The first buffer that the prefix does not contain.
    pub(crate) fn next(&self) -> u64 {
        // Acquire: pairs with the compare-and-swap in `walk`.
        self.next.load(Ordering::Acquire)
    }

    /// The first buffer outside and the address at which it starts, as of one moment; `None` when
    /// the prefix has not moved since the store was opened.
    pub(crate) fn mark(&self, opened_at: u64) -> Option<(u64, u64)> {
        loop {
            let next = self.next();
            if next == opened_at {
                return None;
            }
            // Acquire: pairs with the release in `complete`; the second look at `next` stays behind it.
            let end = self.entry(next - 1).end.load(Ordering::Acquire);
            // The entry belongs to buffer `next - 1` until that of `next - 1 + 2·window` takes it,
            // which needs the prefix to have come within a window of that one.
            if self.next() < next + self.entries.len() as u64 / 2 {
                return Some((next, end));
            }
        }
    }

    /// Where buffer `seq` ends, if it has completed and is at most a window behind the prefix.
    pub(crate) fn end_of(&self, seq: u64) -> Option<u64> {
        let entry = self.entry(seq);
        // Acquire: `end` was stored before `done`.
        (entry.done.load(Ordering::Acquire) == seq + 1).then(|| entry.end.load(Ordering::Relaxed))
    }

    /// Buffer `seq`, which ends at `end`, has completed. Whether this call moved the prefix.
    ///
    /// May be called more than once for a buffer.
    pub(crate) fn complete(&self, seq: u64, end: u64) -> bool {
        let entry = self.entry(seq);
        // Published to walkers by `done` below. Release: a `mark` that still takes the entry for the
        // buffer's before it, and reads this, sees how far the prefix had come for it to be taken over.
        entry.end.fetch_max(end, Ordering::Release);
        // Release: publishes `end` and the completion itself to the walker.
        entry.done.fetch_max(seq + 1, Ordering::Release);
        // SeqCst fence: pairs with itself (F3). Of two that could each leave the advance to the
        // other, the later one's walk sees the entry of the earlier one.
        if !canary!("frontier-no-fence") {
            fence(Ordering::SeqCst);
        }
        self.walk()
    }

    fn walk(&self) -> bool {
        let mut moved = false;
        let mut next = self.next();
        loop {
            let entry = self.entry(next);
            // Acquire: `end` was stored before `done`.
            if entry.done.load(Ordering::Acquire) != next + 1 {
                return moved;
            }
            // Relaxed: ordered by the load of `done`. Of this buffer if the exchange succeeds: the
            // entry changes hands only after the prefix has passed it.
            let end = entry.end.load(Ordering::Relaxed);
            let passed = if canary!("frontier-store") {
                self.next.store(next + 1, Ordering::Release);
                Ok(next)
            } else {
                // Release: hands on what this buffer's completion published. Acquire on failure, as in
                // `next`: takes over what those that others have passed published.
                let (success, failure) = (Ordering::Release, Ordering::Acquire);
                self.next.compare_exchange(next, next + 1, success, failure)
            };
            match passed {
                Ok(_) => {
                    // Release: everything below `end` happened before whoever reads it.
                    self.lsn.fetch_max(end, Ordering::Release);
                    moved = true;
                    next += 1;
                }
                Err(actual) => next = actual,
            }
        }
    }

    fn entry(&self, seq: u64) -> &Entry {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "less than the array's length"
        )]
        let index = (seq % self.entries.len() as u64) as usize;
        &self.entries[index]
    }
}

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: u64 = 4096;

    #[test]
    fn the_prefix_waits_for_the_slowest() {
        let frontier = Frontier::new(4, 10, 100);
        assert!(!frontier.complete(11, 300));
        assert!(!frontier.complete(12, 400));
        assert_eq!((frontier.next(), frontier.lsn()), (10, 100));
        assert_eq!(frontier.mark(10), None);
        assert!(frontier.complete(10, 200));
        assert_eq!((frontier.next(), frontier.lsn()), (13, 400));
        assert_eq!(frontier.mark(10), Some((13, 400)));
    }

    #[test]
    fn where_a_buffer_ends_is_known_from_its_completion_on_and_until_its_entry_is_taken_over() {
        let frontier = Frontier::new(2, 10, 100);
        assert_eq!(frontier.end_of(11), None);
        frontier.complete(11, 300);
        assert_eq!(
            (frontier.end_of(10), frontier.end_of(11)),
            (None, Some(300))
        );
        for seq in [10, 12, 13, 14] {
            frontier.complete(seq, (seq - 8) * 100);
        }
        let ends = [10, 11, 12, 13, 14, 15].map(|seq| frontier.end_of(seq));
        assert_eq!(
            ends,
            [None, Some(300), Some(400), Some(500), Some(600), None]
        );
    }

    #[test]
    fn a_completion_reported_twice_undoes_nothing() {
        let frontier = Frontier::new(2, 0, 0);
        for seq in 0..20 {
            frontier.complete(seq, (seq + 1) * BLOCK);
            for late in seq.saturating_sub(3)..=seq {
                frontier.complete(late, (late + 1) * BLOCK);
            }
            assert_eq!(
                (frontier.next(), frontier.lsn()),
                (seq + 1, (seq + 1) * BLOCK)
            );
        }
    }

    proptest! {
        #[test]
        fn any_order_within_the_window_ends_at_the_same_prefix(
            window in 1usize..6, picks in proptest::collection::vec(0usize..6, 0..200)
        ) {
            let frontier = Frontier::new(window, 0, 0);
            let mut done = vec![false; 2 * picks.len() + window + 8];
            for pick in picks {
                let next = done.iter().position(|done| !done).unwrap_or(0);
                let seq = next + pick % window;
                done[seq] = true;
                frontier.complete(seq as u64, (seq as u64 + 1) * BLOCK);
                let expected = done.iter().position(|done| !done).unwrap_or(0) as u64;
                prop_assert_eq!(frontier.next(), expected);
                prop_assert_eq!(frontier.lsn(), expected * BLOCK);
                prop_assert_eq!(frontier.mark(0), (expected > 0).then_some((expected, expected * BLOCK)));
            }
        }
    }

    #[test]
    fn threads_that_complete_at_once_lose_no_advance() {
        const THREADS: usize = 4;
        const ROUNDS: u64 = 2000;
        let frontier = Frontier::new(THREADS, 0, 0);
        let barrier = std::sync::Barrier::new(THREADS);
        std::thread::scope(|scope| {
            let threads = THREADS as u64;
            for thread in 0..threads {
                let (frontier, barrier) = (&frontier, &barrier);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let seq = round * threads + (thread + round) % threads;
                        frontier.complete(seq, (seq + 1) * BLOCK);
                        barrier.wait();
                        assert_eq!(frontier.next(), (round + 1) * threads);
                        assert_eq!(frontier.lsn(), (round + 1) * threads * BLOCK);
                        barrier.wait();
                    }
                });
            }
        });
    }
}
