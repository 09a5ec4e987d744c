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
//!   U3 of `turns`. A failure ends the turn of whoever leads, and then everybody's wait.
//! - C3. At most [`Options::commit_writes`](crate::Options::commit_writes) lead at a time.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use esker_io::{Action, Backend};
use esker_ring::Seal;

use crate::core::Core;
use crate::dispatch::By;
use crate::gather::Gather;
use crate::sync::{AtomicU64, AtomicUsize, Ordering};
use crate::tasks::Tasks;
use crate::turns::{Turn, Turns};
use crate::write_error::CommitError;

/// Who waits, who leads, and what for.
pub(crate) struct Commit {
    turns: Turns,
    /// The futures that wait.
    pub(crate) tasks: Arc<Tasks>,
    /// How many futures were waiting when the last commit was sealed. A hint, as in `Turns`.
    crowd_of_tasks: AtomicUsize,
    gather: Gather,
    /// The largest address that anybody has wanted durable: a buffer that starts below is written
    /// with durability of its own.
    wanted: CachePadded<AtomicU64>,
}

impl Commit {
    pub(crate) fn new(limit: usize, gather: Duration) -> Self {
        Self {
            turns: Turns::new(limit),
            tasks: Arc::default(),
            crowd_of_tasks: AtomicUsize::new(0),
            gather: Gather::new(gather),
            wanted: CachePadded::default(),
        }
    }

    /// Whether somebody wants what lies at `base` durable, or has wanted it.
    pub(crate) fn wants(&self, base: u64) -> bool {
        // Relaxed: a hint; who waits looks at the durable prefix itself.
        base < self.wanted.load(Ordering::Relaxed)
    }

    /// Gives the futures that shared the last commit a moment to come back, before nobody is here to
    /// commit for them.
    pub(crate) fn await_return(&self) {
        // Relaxed: a hint.
        if self.crowd_of_tasks.load(Ordering::Relaxed) > 0 {
            self.gather.wait_until(|| self.tasks.present() > 0);
        }
    }

    /// Gives those who shared the last commit a moment to come back.
    fn gather_all(&self) {
        // Relaxed: hints, all of them.
        let crowd = self.turns.crowd() + self.crowd_of_tasks.load(Ordering::Relaxed);
        self.gather
            .wait_until(|| self.turns.present() + self.tasks.present() >= crowd);
        self.crowd_of_tasks
            .store(self.tasks.present(), Ordering::Relaxed);
    }
}

impl<B: Backend> Core<B> {
    /// Waits until everything below `end` is durable, and leads a commit where that helps.
    pub(crate) fn wait_durable_to(self: &Arc<Self>, end: u64) -> Result<(), CommitError> {
        if self.durable.lsn() >= end {
            return Ok(());
        }
        self.check_alive()?;
        // Relaxed: see `Commit::wants`.
        self.commit.wanted.fetch_max(end, Ordering::Relaxed);
        while self.settled() < end {
            if let Some(turn) = self.commit.turns.take(end) {
                self.lead(turn, end)?;
            }
        }
        match self.durable.lsn() >= end {
            true => Ok(()),
            false => Ok(self.check_poison()?),
        }
    }

    /// Who waits for anything below need not wait any more. A failure settles everything: everybody
    /// is to see it.
    fn settled(&self) -> u64 {
        match self.poison.get() {
            Some(_) => u64::MAX,
            None => self.durable.lsn(),
        }
    }

    /// Waits until everything below `end` has been written, be it durable or not.
    pub(crate) fn wait_written_to(self: &Arc<Self>, end: u64) -> Result<(), CommitError> {
        if self.written.lsn() >= end {
            return Ok(());
        }
        self.check_alive()?;
        self.seal_below(end, By::Passing);
        self.backend.wait_for(
            &|| self.written.lsn() >= end || self.poison.get().is_some(),
            None,
        );
        if self.written.lsn() >= end {
            Ok(())
        } else {
            Ok(self.check_poison()?)
        }
    }

    fn lead(self: &Arc<Self>, mut turn: Turn<'_>, end: u64) -> Result<(), CommitError> {
        self.commit.gather_all();
        // Whoever has appended to the buffer by now rides along.
        self.seal_for(end, By::Committer, |sealed| turn.close(sealed));
        turn.close(end);
        if self.durable.lsn() >= end {
            return Ok(());
        }
        loop {
            // Another thread is the last one out of the buffer, or it is full and on its way
            // already; or what is in flight with it has to end first.
            self.backend.wait_for(
                &|| {
                    self.durable.lsn() >= end
                        || self.poison.get().is_some()
                        || (self.written.lsn() >= end && self.durable.confirmed() < end)
                },
                None,
            );
            if self.durable.lsn() >= end {
                return Ok(());
            }
            self.check_poison()?;
            self.sync_here();
        }
    }

    /// Seals the open buffer if it holds anything below `end`, and hands it over if it falls to
    /// this thread.
    pub(crate) fn seal_below(self: &Arc<Self>, end: u64, by: By) {
        self.seal_for(end, by, |_| {});
    }

    /// As [`seal_below`](Self::seal_below). If the buffer is sealed here, `sealed` is told before it
    /// is handed over where it ends.
    fn seal_for(self: &Arc<Self>, end: u64, by: By, sealed: impl FnOnce(u64)) {
        let Some(last) = end.checked_sub(1) else {
            return;
        };
        loop {
            match self.ring.seal_through(last) {
                Seal::Sealed { buffer, end, .. } => {
                    sealed(end);
                    if let Some(buffer) = buffer {
                        self.hand_over(buffer, by);
                    }
                    return;
                }
                Seal::Orphan(buffer) => self.hand_over(buffer, by),
                Seal::Crossing(wait) => self.await_ring(&wait),
                Seal::Empty | Seal::AlreadySealed { .. } => return,
            }
        }
    }

    /// Syncs what has been written, in this thread.
    fn sync_here(self: &Arc<Self>) {
        let flight = self.durable.begin();
        // Read before the sync starts: what completes later may miss it.
        let (next, files) = self.undurable_files();
        let mut covers = Some(next);
        for file in files {
            if let Err(error) = self.backend.execute(&file, Action::SyncData).result {
                self.poison_with(error);
                covers = None;
                break;
            }
        }
        self.synced(flight, covers);
        self.backend.wake();
    }
}
