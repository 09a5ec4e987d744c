//! [`Follower`]: the records of a growing log, as they become durable.
//!
//! It has no waiting of its own: a thread waits at the backend for the durable prefix to pass what it
//! has seen, as a commit does, and a task leaves its waker in a list of [`Tasks`] that whoever moves
//! the prefix looks at. Nobody is asked to commit for it.
//!
//! Invariants:
//! - F1. Every record that it gives out is below the durable end at that moment. So none of them is
//!   ever taken back, by a crash or by a failed write.
//! - F2. It gives out every record from where it began on, in the order of addresses, each once.
//! - F3. While it waits, `next` is the durable end as it saw it last, which is a slot's boundary: the
//!   next scan may begin there. It is woken when the prefix has passed it, or never will.

use std::iter::FusedIterator;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use esker_io::Backend;

use crate::Lsn;
use crate::core::Core;
use crate::error::ReadError;
use crate::record_scan::{Record, RecordScan};
use crate::sync::Ordering;
use crate::tasks::Place;

/// The records of a log from some address on, each as soon as it is durable: what
/// [`Store::follow`](crate::Store::follow) and [`Store::follow_new`](crate::Store::follow_new) return.
///
/// As an iterator it waits for the next record in this thread, for as long as it takes, and ends after
/// the first error; [`next_timeout`](Self::next_timeout), [`try_next`](Self::try_next) and
/// [`poll_next`](Self::poll_next) wait for some time, not at all, or as a task does. Waiting costs
/// nothing, and asks nobody to commit: a record comes when its writer, or somebody else, has made it
/// durable. Each step allocates the record, and reads it from the disk, with read-ahead where there is
/// more of it; a follower holds up to 10 MiB of what comes next, and next to nothing while it waits.
pub struct Follower<'s, B: Backend> {
    core: &'s Arc<Core<B>>,
    /// What is durable and has not been given out.
    records: Option<RecordScan<B>>,
    /// Where the scan after that begins.
    next: Lsn,
    /// Records below are left out.
    from: Lsn,
    /// Where this task's waker is.
    place: Option<Place>,
    over: bool,
}

impl<'s, B: Backend> Follower<'s, B> {
    /// Begins at a record's address, or a slot's.
    pub(crate) fn new(core: &'s Arc<Core<B>>, from: Lsn) -> Result<Self, ReadError> {
        let (first, end) = (core.first(), Lsn::new(core.ring.tail()));
        if from < first {
            return Err(ReadError::Trimmed { lsn: from, first });
        }
        if from > end {
            return Err(ReadError::BeyondEnd { lsn: from, end });
        }
        // Past the durable end a scan cannot begin: it begins there, and leaves out what comes first.
        let next = from.min(Lsn::new(core.durable.lsn()));
        Ok(Self::at(core, next, from))
    }

    /// Begins behind what has been appended.
    pub(crate) fn at_end(core: &'s Arc<Core<B>>) -> Self {
        // In this order: the end may be where no record will begin, so no scan may.
        let durable = Lsn::new(core.durable.lsn());
        Self::at(core, durable, Lsn::new(core.ring.tail()))
    }

    fn at(core: &'s Arc<Core<B>>, next: Lsn, from: Lsn) -> Self {
        Self {
            core,
            records: None,
            next,
            from,
            place: None,
            over: false,
        }
    }

    /// The next record, if there is one that is durable. Does not wait for any, but for the disk.
    ///
    /// # Errors
    ///
    /// [`ReadError`] as [`Store::read`](crate::Store::read) has, [`ReadError::Lost`] when a write has
    /// failed and everything that is durable has been given out, and [`ReadError::Trimmed`] when the
    /// log was trimmed past it. After an error there is nothing more.
    pub fn try_next(&mut self) -> Result<Option<Record>, ReadError> {
        if self.over {
            return Ok(None);
        }
        let found = self.find();
        self.over = found.is_err();
        found
    }

    /// The next record; waits for it in this thread, but no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`try_next`](Self::try_next).
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Record>, ReadError> {
        let found = self.try_next()?;
        if found.is_some() || self.over || !self.wait(Some(timeout)) {
            return Ok(found);
        }
        self.try_next()
    }

    /// The next record, for a task: if there is none, the task is woken when there may be. Does not
    /// wait for any, but for the disk. `None` after an error.
    ///
    /// # Errors
    ///
    /// As [`try_next`](Self::try_next).
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Record, ReadError>>> {
        let mut found = self.try_next().transpose();
        if found.is_none() && !self.over {
            let core = self.core;
            let end = self.next.get().saturating_add(1);
            core.followers.leave(&mut self.place);
            core.followers.enter(&mut self.place, end, context.waker());
            // After it has entered: V1 of `tasks`.
            found = self.try_next().transpose();
        }
        if found.is_none() && !self.over {
            return Poll::Pending;
        }
        self.core.followers.leave(&mut self.place);
        Poll::Ready(found)
    }

    /// Where it is: every record below has been given out. What is not durable yet may lie here or
    /// further on.
    #[must_use]
    pub fn position(&self) -> Lsn {
        match &self.records {
            Some(records) => records.next_lsn(),
            None => self.next,
        }
    }

    fn find(&mut self) -> Result<Option<Record>, ReadError> {
        loop {
            while let Some(record) = self.records.as_mut().and_then(Iterator::next) {
                let record = record?;
                if record.lsn >= self.from {
                    return Ok(Some(record));
                }
            }
            if let Some(records) = self.records.take() {
                self.next = records.next_lsn();
            }
            // Before the look at the end: what was durable when the failure came is given out first.
            let poison = self.core.poison.get();
            let end = if cfg!(esker_canary = "lss-follows-what-is-written") {
                Lsn::new(self.core.written.lsn())
            } else {
                Lsn::new(self.core.durable.lsn())
            };
            if end <= self.next {
                return match poison {
                    Some(poison) => Err(ReadError::Lost {
                        lsn: self.next,
                        source: poison.clone(),
                    }),
                    None => Ok(None),
                };
            }
            let first = Arc::clone(&self.core.first);
            // Acquire: pairs with the release in `trim_before`.
            let first_now = move || Lsn::new(first.load(Ordering::Acquire));
            let records = self.core.log.records(self.next, end, end);
            self.records = Some(records.with_first(first_now));
        }
    }

    /// Waits until there may be another record; whether there may.
    fn wait(&self, timeout: Option<Duration>) -> bool {
        let (core, seen) = (self.core, self.next.get());
        core.backend.wait_for(
            &|| core.durable.lsn() > seen || core.poison.get().is_some(),
            timeout,
        )
    }
}

impl<B: Backend> Iterator for Follower<'_, B> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let found = self.try_next().transpose();
            if found.is_some() || self.over {
                return found;
            }
            self.wait(None);
        }
    }
}

impl<B: Backend> FusedIterator for Follower<'_, B> {}

impl<B: Backend> Drop for Follower<'_, B> {
    fn drop(&mut self) {
        self.core.followers.leave(&mut self.place);
    }
}
