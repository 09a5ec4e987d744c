//! Group commit: how threads that wait for durability share device writes.
//!
//! Nobody waits for a thread of the store's: one of those who wait leads. It gives those who shared
//! the last commit a moment to come back, seals the buffer that holds its record, writes it in its
//! own thread with the durability in the write itself (one device round trip and no hand-over, the
//! lowest latency there is), and wakes the others, whose records went with it. Whoever arrives
//! meanwhile rides with the next.
//!
//! Invariants:
//! - C1. A wait returns success only when the durable prefix has passed the address.
//! - C2. As long as somebody waits and the store is not poisoned, somebody leads or is about to:
//!   a leader leaves before it wakes the rest, and each of them looks again whether there is room.
//! - C3. At most [`Options::commit_writes`](crate::Options::commit_writes) lead at a time.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use esker_io::{Action, Backend};
use esker_ring::Seal;

use crate::Lsn;
use crate::core::Core;
use crate::dispatch::By;
use crate::sync::{AtomicU64, AtomicUsize, Instant, Ordering, yield_now};
use crate::write_error::CommitError;

/// Who waits, who leads, and what for.
pub(crate) struct Commit {
    limit: usize,
    gather: Duration,
    /// How many lead now. Raised by compare-and-swap, to `limit` at most.
    leaders: CachePadded<AtomicUsize>,
    /// How many wait now, leaders included.
    waiting: CachePadded<AtomicUsize>,
    /// How many were waiting when the last commit ended: those it served and those it did not.
    crowd: AtomicUsize,
    /// The largest address that anybody has wanted durable: a buffer that starts below is written
    /// with durability of its own.
    wanted: CachePadded<AtomicU64>,
}

impl Commit {
    pub(crate) fn new(limit: usize, gather: Duration) -> Self {
        Self {
            limit: limit.max(1),
            gather,
            leaders: CachePadded::default(),
            waiting: CachePadded::default(),
            crowd: AtomicUsize::new(0),
            wanted: CachePadded::default(),
        }
    }

    /// Whether somebody wants what lies at `base` durable, or has wanted it.
    pub(crate) fn wants(&self, base: u64) -> bool {
        // Relaxed: a hint; who waits looks at the durable prefix itself.
        base < self.wanted.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        // Acquire: pairs with the release in `Lead::drop`.
        self.leaders.load(Ordering::Acquire) < self.limit
    }

    fn try_lead(&self) -> Option<Lead<'_>> {
        self.leaders
            // AcqRel: a leader sees what the one before it did.
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |leaders| {
                (leaders < self.limit).then_some(leaders + 1)
            })
            .is_ok()
            // Made only if it leads: dropping it leaves.
            .then(|| Lead { commit: self })
    }

    /// Gives those who shared the last commit a moment to come back.
    fn gather(&self) {
        // Relaxed here and below: the numbers decide how long to wait, not what is true.
        let crowd = self.crowd.load(Ordering::Relaxed);
        if self.waiting.load(Ordering::Relaxed) >= crowd {
            return;
        }
        let start = Instant::now();
        while self.waiting.load(Ordering::Relaxed) < crowd && start.elapsed() < self.gather {
            yield_now();
        }
    }

    fn enter(&self) -> Waiting<'_> {
        // Relaxed: see `gather`.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting { commit: self }
    }
}

/// One thread that waits.
struct Waiting<'c> {
    commit: &'c Commit,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Relaxed: see `Commit::gather`.
        self.commit.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One thread that leads.
struct Lead<'c> {
    commit: &'c Commit,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        // Relaxed: see `Commit::gather`.
        self.commit.crowd.store(
            self.commit.waiting.load(Ordering::Relaxed),
            Ordering::Relaxed,
        );
        // Release: pairs with the acquire in `has_room` and `try_lead`.
        self.commit.leaders.fetch_sub(1, Ordering::Release);
    }
}

impl<B: Backend> Core<B> {
    /// Waits until everything below `end` is durable, and leads a commit where that helps.
    pub(crate) fn wait_durable_to(self: &Arc<Self>, end: u64) -> Result<(), CommitError> {
        if self.durable.lsn() >= end {
            return Ok(());
        }
        // Relaxed: see `Commit::wants`.
        self.commit.wanted.fetch_max(end, Ordering::Relaxed);
        let _waiting = self.commit.enter();
        loop {
            if self.durable.lsn() >= end {
                return Ok(());
            }
            self.check_poison()?;
            if let Some(lead) = self.commit.try_lead() {
                let result = self.lead(end);
                // Left before the others are woken, so that one of them can take over (C2).
                drop(lead);
                self.backend.wake();
                result?;
            } else {
                self.backend.wait_until(
                    &mut || {
                        self.durable.lsn() >= end
                            || self.poison.get().is_some()
                            || self.commit.has_room()
                    },
                    None,
                );
            }
        }
    }

    /// Waits until everything below `end` has been written, be it durable or not.
    pub(crate) fn wait_written_to(self: &Arc<Self>, end: u64) -> Result<(), CommitError> {
        if self.written.lsn() >= end {
            return Ok(());
        }
        self.seal_below(end, By::Passing);
        self.backend.wait_until(
            &mut || self.written.lsn() >= end || self.poison.get().is_some(),
            None,
        );
        if self.written.lsn() >= end {
            Ok(())
        } else {
            Ok(self.check_poison()?)
        }
    }

    fn lead(self: &Arc<Self>, end: u64) -> Result<(), CommitError> {
        self.commit.gather();
        self.seal_below(end, By::Committer);
        if self.durable.lsn() >= end {
            return Ok(());
        }
        // Another thread is the last one out of the buffer, or it is full and on its way already.
        self.backend.wait_until(
            &mut || {
                self.durable.lsn() >= end
                    || self.written.lsn() >= end
                    || self.poison.get().is_some()
            },
            None,
        );
        self.check_poison()?;
        if self.durable.lsn() < end {
            self.sync_here();
            self.check_poison()?;
        }
        Ok(())
    }

    /// Seals the open buffer if it holds anything below `end`, and hands it over if it falls to
    /// this thread.
    pub(crate) fn seal_below(self: &Arc<Self>, end: u64, by: By) {
        let Some(last) = end.checked_sub(1) else {
            return;
        };
        loop {
            match self.ring.seal_through(last) {
                Seal::Sealed {
                    buffer: Some(buffer),
                    ..
                } => return self.hand_over(buffer, by),
                Seal::Orphan(buffer) => self.hand_over(buffer, by),
                Seal::Crossing(wait) => self.await_ring(&wait),
                Seal::Sealed { buffer: None, .. } | Seal::Empty | Seal::AlreadySealed { .. } => {
                    return;
                }
            }
        }
    }

    /// Syncs what has been written, in this thread.
    fn sync_here(self: &Arc<Self>) {
        // The prefix is read before the sync starts: what completes later may miss it.
        let next = self.written.next();
        let files = self
            .segments
            .files(Lsn::new(self.durable.lsn()), Lsn::new(self.written.lsn()));
        for file in files {
            if let Err(error) = self.backend.execute(&file, Action::SyncData).result {
                return self.poison_with(error);
            }
        }
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.covered(next);
    }
}
