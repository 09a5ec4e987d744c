//! Counters of a backend: [`Statistics`] as read, [`Counters`] as kept.

use crate::error::OperationKind;
use crate::sync::{AtomicU64, Relaxed};

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
    /// Writes that were asked to be durable on completion.
    pub durable_writes: u64,
    /// Calls of `submit` with at least one operation.
    pub batches: u64,
    /// System calls made to move data or to wait for it.
    pub system_calls: u64,
    /// Transfers continued after a short count.
    pub continued: u64,
    /// Attempts repeated after EINTR, EAGAIN or a cancellation.
    pub retries: u64,
    /// Operations submitted and not completed at the moment of the snapshot.
    pub in_flight: u64,
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
    durable_writes: AtomicU64,
    batches: AtomicU64,
    system_calls: AtomicU64,
    continued: AtomicU64,
    retries: AtomicU64,
}

impl Counters {
    fn kind(&self, kind: OperationKind) -> &KindCounters {
        match kind {
            OperationKind::Read => &self.reads,
            OperationKind::Write => &self.writes,
            _ => &self.syncs,
        }
    }

    pub(crate) fn submitted(&self, kind: OperationKind, durable: bool) {
        self.kind(kind).submitted.fetch_add(1, Relaxed);
        if durable {
            self.durable_writes.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn completed(&self, kind: OperationKind, bytes: u64, failed: bool) {
        let kind = self.kind(kind);
        kind.completed.fetch_add(1, Relaxed);
        if bytes > 0 {
            kind.bytes.fetch_add(bytes, Relaxed);
        }
        if failed {
            kind.failed.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn batch(&self) {
        self.batches.fetch_add(1, Relaxed);
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
            durable_writes: self.durable_writes.load(Relaxed),
            batches: self.batches.load(Relaxed),
            system_calls: self.system_calls.load(Relaxed),
            continued: self.continued.load(Relaxed),
            retries: self.retries.load(Relaxed),
            in_flight: in_flight as u64,
        }
    }
}
