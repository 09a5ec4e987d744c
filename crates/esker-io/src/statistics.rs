//! Counters of a backend: [`Statistics`] as read, [`Counters`] as kept.

use std::time::Instant;

use crate::error::OperationKind;
use crate::latency::Recorder;
use crate::sync::{AtomicU64, AtomicUsize, Relaxed};

/// Operations of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindStatistics {
    /// Operations accepted, by `submit` or `execute`.
    pub submitted: u64,
    /// Operations that ended, well or not.
    pub completed: u64,
    /// Operations that ended with an error.
    pub failed: u64,
    /// Bytes transferred by operations that ended.
    pub bytes: u64,
}

/// What a backend has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Reads.
    pub reads: KindStatistics,
    /// Writes, durable ones included.
    pub writes: KindStatistics,
    /// Syncs of data.
    pub syncs: KindStatistics,
    /// Allocations of space.
    pub allocations: KindStatistics,
    /// Changes of a file's length.
    pub truncations: KindStatistics,
    /// Holes.
    pub holes: KindStatistics,
    /// Files opened or created.
    pub opens: KindStatistics,
    /// Syncs of directories.
    pub dir_syncs: KindStatistics,
    /// Writes that were asked to be durable on completion.
    pub durable_writes: u64,
    /// Calls of `submit` with at least one operation.
    pub batches: u64,
    /// System calls made to move data, to submit operations or to wait for them.
    pub system_calls: u64,
    /// Transfers continued after a short count.
    pub continued: u64,
    /// Attempts repeated after EINTR, EAGAIN or a cancellation.
    pub retries: u64,
    /// Operations submitted and not completed at the moment of the snapshot.
    pub in_flight: u64,
    /// The most that there ever were of those at the same time.
    pub peak_in_flight: u64,
}

impl KindStatistics {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            submitted: self.submitted.saturating_sub(earlier.submitted),
            completed: self.completed.saturating_sub(earlier.completed),
            failed: self.failed.saturating_sub(earlier.failed),
            bytes: self.bytes.saturating_sub(earlier.bytes),
        }
    }
}

impl Statistics {
    /// What came since an earlier snapshot of the same backend; what is in flight is as now, and
    /// the most that ever was is as ever.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_io::{Backend, Blocking};
    ///
    /// let backend = Blocking::new();
    /// let before = backend.statistics();
    /// assert_eq!(backend.statistics().since(&before).writes.bytes, 0);
    /// ```
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            reads: self.reads.since(&earlier.reads),
            writes: self.writes.since(&earlier.writes),
            syncs: self.syncs.since(&earlier.syncs),
            allocations: self.allocations.since(&earlier.allocations),
            truncations: self.truncations.since(&earlier.truncations),
            holes: self.holes.since(&earlier.holes),
            opens: self.opens.since(&earlier.opens),
            dir_syncs: self.dir_syncs.since(&earlier.dir_syncs),
            durable_writes: self.durable_writes.saturating_sub(earlier.durable_writes),
            batches: self.batches.saturating_sub(earlier.batches),
            system_calls: self.system_calls.saturating_sub(earlier.system_calls),
            continued: self.continued.saturating_sub(earlier.continued),
            retries: self.retries.saturating_sub(earlier.retries),
            in_flight: self.in_flight,
            peak_in_flight: self.peak_in_flight,
        }
    }

    /// Operations of all kinds that were accepted.
    #[must_use]
    pub fn submitted(&self) -> u64 {
        self.kinds().iter().map(|kind| kind.submitted).sum()
    }

    /// Operations of all kinds that ended with an error.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.kinds().iter().map(|kind| kind.failed).sum()
    }

    fn kinds(&self) -> [&KindStatistics; 8] {
        [
            &self.reads,
            &self.writes,
            &self.syncs,
            &self.allocations,
            &self.truncations,
            &self.holes,
            &self.opens,
            &self.dir_syncs,
        ]
    }

    /// Reads, writes and syncs that ended for each such system call: above 1 where batches share calls; 0
    /// before the first.
    #[must_use]
    pub fn operations_per_system_call(&self) -> f64 {
        let completed = self.reads.completed + self.writes.completed + self.syncs.completed;
        ratio(completed, self.system_calls)
    }

    /// Bytes transferred for each such system call; 0 before the first.
    #[must_use]
    pub fn bytes_per_system_call(&self) -> f64 {
        ratio(self.reads.bytes + self.writes.bytes, self.system_calls)
    }
}

#[expect(clippy::cast_precision_loss, reason = "for reading by people")]
fn ratio(sum: u64, count: u64) -> f64 {
    if count == 0 {
        0.0
    } else {
        sum as f64 / count as f64
    }
}

#[derive(Debug, Default)]
struct KindCounters {
    submitted: AtomicU64,
    completed: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
}

impl KindCounters {
    fn snapshot(&self) -> KindStatistics {
        KindStatistics {
            submitted: self.submitted.load(Relaxed),
            completed: self.completed.load(Relaxed),
            failed: self.failed.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }
}

/// The counters behind [`Statistics`]. Written by whoever does the thing counted; they publish
/// nothing and order nothing, so every access is relaxed.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    reads: KindCounters,
    writes: KindCounters,
    syncs: KindCounters,
    allocations: KindCounters,
    truncations: KindCounters,
    holes: KindCounters,
    opens: KindCounters,
    dir_syncs: KindCounters,
    durable_writes: AtomicU64,
    batches: AtomicU64,
    system_calls: AtomicU64,
    continued: AtomicU64,
    retries: AtomicU64,
    peak_in_flight: AtomicUsize,
    pub(crate) latencies: Recorder,
}

impl Counters {
    fn kind(&self, kind: OperationKind) -> &KindCounters {
        match kind {
            OperationKind::Read => &self.reads,
            OperationKind::Write => &self.writes,
            OperationKind::Allocate => &self.allocations,
            OperationKind::Truncate => &self.truncations,
            OperationKind::Punch => &self.holes,
            OperationKind::Open => &self.opens,
            OperationKind::SyncDir => &self.dir_syncs,
            _ => &self.syncs,
        }
    }

    pub(crate) fn submitted(&self, kind: OperationKind, durable: bool) {
        self.kind(kind).submitted.fetch_add(1, Relaxed);
        if durable {
            self.durable_writes.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn completed(&self, kind: OperationKind, began: Instant, bytes: u64, failed: bool) {
        self.latencies.record(kind, began);
        let kind = self.kind(kind);
        kind.completed.fetch_add(1, Relaxed);
        if bytes > 0 {
            kind.bytes.fetch_add(bytes, Relaxed);
        }
        if failed {
            kind.failed.fetch_add(1, Relaxed);
        }
    }

    /// A batch was submitted, with which `in_flight` operations are in flight.
    pub(crate) fn batch(&self, in_flight: usize) {
        self.batches.fetch_add(1, Relaxed);
        // A load first: the peak is rarely moved, and the line it lies in is everybody's.
        if self.peak_in_flight.load(Relaxed) < in_flight {
            self.peak_in_flight.fetch_max(in_flight, Relaxed);
        }
    }

    pub(crate) fn system_call(&self) {
        self.system_calls.fetch_add(1, Relaxed);
    }

    pub(crate) fn continued(&self) {
        self.continued.fetch_add(1, Relaxed);
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub(crate) fn snapshot(&self, in_flight: usize) -> Statistics {
        Statistics {
            reads: self.reads.snapshot(),
            writes: self.writes.snapshot(),
            syncs: self.syncs.snapshot(),
            allocations: self.allocations.snapshot(),
            truncations: self.truncations.snapshot(),
            holes: self.holes.snapshot(),
            opens: self.opens.snapshot(),
            dir_syncs: self.dir_syncs.snapshot(),
            durable_writes: self.durable_writes.load(Relaxed),
            batches: self.batches.load(Relaxed),
            system_calls: self.system_calls.load(Relaxed),
            continued: self.continued.load(Relaxed),
            retries: self.retries.load(Relaxed),
            in_flight: in_flight as u64,
            peak_in_flight: self.peak_in_flight.load(Relaxed) as u64,
        }
    }
}
