//! [`Gather`]: the moment that a commit gives those who shared the last one to come back.
//!
//! It is spent giving up the processor, since those who are to come back may need it. On a machine
//! with more work than processors somebody else gets it, for as long as a time slice: then gathering
//! costs more than it brings, and is left out for a while.

use std::time::Duration;

use crate::sync::{AtomicUsize, Instant, Ordering, yield_now};

/// How many gatherings are left out after one that took too long.
const LEFT_OUT: usize = 256;

/// One that takes so many times the time that it may is a time slice of somebody else's.
const TOO_LONG: u32 = 8;

pub(crate) struct Gather {
    time: Duration,
    /// How many gatherings are still to be left out. A hint.
    left_out: AtomicUsize,
}

impl Gather {
    pub(crate) fn new(time: Duration) -> Self {
        Self {
            time,
            left_out: AtomicUsize::new(0),
        }
    }

    /// Lets others run until `are_all_here`, or the time is over.
    pub(crate) fn wait_until(&self, are_all_here: impl Fn() -> bool) {
        if are_all_here() || self.is_left_out() {
            return;
        }
        let start = Instant::now();
        loop {
            yield_now();
            let elapsed = start.elapsed();
            if elapsed >= self.time {
                return self.took(elapsed);
            }
            if are_all_here() {
                return;
            }
        }
    }

    fn is_left_out(&self) -> bool {
        // Relaxed: a hint. Of several who look at once, each may leave one out.
        let left_out = self.left_out.load(Ordering::Relaxed);
        self.left_out
            .store(left_out.saturating_sub(1), Ordering::Relaxed);
        left_out > 0
    }

    fn took(&self, time: Duration) {
        if time > self.time.saturating_mul(TOO_LONG) {
            // Relaxed: a hint.
            self.left_out.store(LEFT_OUT, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn nobody_waits_for_those_who_are_here() {
        let gather = Gather::new(Duration::MAX);
        gather.wait_until(|| true);
        let looks = Cell::new(0);
        gather.wait_until(|| {
            looks.set(looks.get() + 1);
            looks.get() == 3
        });
        assert_eq!(looks.get(), 3);
    }

    #[test]
    fn the_time_ends_a_gathering() {
        Gather::new(Duration::ZERO).wait_until(|| false);
    }

    #[test]
    fn after_one_that_took_a_time_slice_some_are_left_out() {
        let gather = Gather::new(Duration::from_micros(30));
        gather.took(Duration::from_micros(240));
        assert!(!gather.is_left_out());
        gather.took(Duration::from_millis(4));
        for _ in 0..LEFT_OUT {
            assert!(gather.is_left_out());
        }
        assert!(!gather.is_left_out());
    }
}
