//! [`Latencies`]: how long operations took, by kind.

use core::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::error::OperationKind;
use crate::sync::Mutex;

/// The longest time that is told apart from longer ones.
const MAX: Duration = Duration::from_secs(60);

/// How long operations of one kind took: from `submit`, or the start of `execute`, to the
/// completion. Exact to two digits, up to a minute.
#[derive(Clone)]
pub struct Latency {
    /// In units of 100 ns. `None` while there is nothing in it.
    histogram: Option<Histogram<u32>>,
}

const UNIT_NANOS: u128 = 100;

fn units(time: Duration) -> u64 {
    u64::try_from(time.min(MAX).as_nanos() / UNIT_NANOS).unwrap_or(u64::MAX)
}

fn time(units: u64) -> Duration {
    Duration::from_nanos(units.saturating_mul(100))
}

impl Latency {
    /// How many operations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.as_ref().map_or(0, Histogram::len)
    }

    /// The time within which that part of the operations had ended, from 0.0 to 1.0; zero if
    /// there were none.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Duration {
        let histogram = self.histogram.as_ref();
        histogram.map_or(Duration::ZERO, |it| time(it.value_at_quantile(part)))
    }

    /// The longest; zero if there were none.
    #[must_use]
    pub fn max(&self) -> Duration {
        let histogram = self.histogram.as_ref();
        histogram.map_or(Duration::ZERO, |it| time(it.max()))
    }

    /// What came since an earlier snapshot of the same.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut histogram = self.histogram.clone();
        if let (Some(now), Some(earlier)) = (&mut histogram, &earlier.histogram) {
            // Both have the same bounds; one that is no earlier snapshot leaves this as it is.
            let _ = now.subtract(earlier);
        }
        Self { histogram }
    }

    fn record(&mut self, taken: Duration) {
        let histogram = self.histogram.get_or_insert_with(|| {
            Histogram::new_with_bounds(1, units(MAX), 2).expect("the bounds are in order")
        });
        histogram.saturating_record(units(taken));
    }

    const fn empty() -> Self {
        Self { histogram: None }
    }
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latency")
            .field("count", &self.count())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .field("max", &self.max())
            .finish()
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::empty()
    }
}

/// How long the operations of a backend took since it was made.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// Reads.
    pub reads: Latency,
    /// Writes, durable ones included.
    pub writes: Latency,
    /// Syncs of data.
    pub syncs: Latency,
    /// Changes of a file's space or length: allocations, truncations, holes.
    pub space: Latency,
    /// Operations on names: openings, and syncs of directories.
    pub names: Latency,
}

impl Latencies {
    /// What came since an earlier snapshot of the same backend.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            reads: self.reads.since(&earlier.reads),
            writes: self.writes.since(&earlier.writes),
            syncs: self.syncs.since(&earlier.syncs),
            space: self.space.since(&earlier.space),
            names: self.names.since(&earlier.names),
        }
    }
}

/// Keeps [`Latencies`]. Each kind has a lock of its own, held for a few stores.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    reads: Mutex<Latency>,
    writes: Mutex<Latency>,
    syncs: Mutex<Latency>,
    space: Mutex<Latency>,
    names: Mutex<Latency>,
}

impl Recorder {
    /// An operation that began at `began` has ended.
    pub(crate) fn record(&self, kind: OperationKind, began: Instant) {
        let taken = began.elapsed();
        let latency = match kind {
            OperationKind::Read => &self.reads,
            OperationKind::Write => &self.writes,
            OperationKind::Allocate | OperationKind::Truncate | OperationKind::Punch => &self.space,
            OperationKind::Open | OperationKind::SyncDir => &self.names,
            _ => &self.syncs,
        };
        latency.lock().record(taken);
    }

    pub(crate) fn snapshot(&self) -> Latencies {
        Latencies {
            reads: self.reads.lock().clone(),
            writes: self.writes.lock().clone(),
            syncs: self.syncs.lock().clone(),
            space: self.space.lock().clone(),
            names: self.names.lock().clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_holds_what_came_between() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile(0.5), Duration::ZERO);
        latency.record(Duration::from_micros(10));
        let earlier = latency.clone();
        latency.record(Duration::from_millis(10));
        latency.record(Duration::from_secs(3600));
        let between = latency.since(&earlier);
        assert_eq!((latency.count(), between.count()), (3, 2));
        let low = between.quantile(0.5).as_secs_f64();
        assert!((0.0099..0.0102).contains(&low), "{low}");
        assert!(between.max() >= MAX.mul_f64(0.99), "{:?}", between.max());
        assert!(latency.quantile(0.0) <= Duration::from_micros(11));
    }
}
