//! [`UntilDurable`]: durability as a future.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use esker_io::Backend;

use crate::Lsn;
use crate::core::Core;
use crate::durable::Durable;
use crate::poison::PoisonCell;
use crate::tasks::{Place, Tasks};
use crate::write_error::CommitError;

/// Ends when a stretch of the log is durable: what [`Store::until_durable`] and
/// [`Store::until_flushed`] return.
///
/// It is a future for any executor. It is `Send` and `'static`, may be dropped at any time, and ends
/// with the same result if it is polled again.
///
/// [`Store::until_durable`]: crate::Store::until_durable
/// [`Store::until_flushed`]: crate::Store::until_flushed
#[must_use = "a future does nothing unless it is polled, and an unpolled one is no wait"]
pub struct UntilDurable {
    end: u64,
    /// Why there is nothing to wait for.
    failed: Option<CommitError>,
    durable: Arc<Durable>,
    poison: Arc<PoisonCell>,
    tasks: Arc<Tasks>,
    /// Where this future's waker is.
    place: Option<Place>,
}

impl UntilDurable {
    fn new<B: Backend>(core: &Core<B>, end: u64, failed: Option<CommitError>) -> Self {
        Self {
            end,
            failed,
            durable: Arc::clone(&core.durable),
            poison: Arc::clone(&core.poison),
            tasks: Arc::clone(&core.commit.tasks),
            place: None,
        }
    }

    /// One that ends with an error.
    pub(crate) fn failed<B: Backend>(core: &Core<B>, error: CommitError) -> Self {
        Self::new(core, 0, Some(error))
    }

    /// The end of what is waited for: it is durable when the durable end is there.
    #[must_use]
    pub fn end(&self) -> Lsn {
        Lsn::new(self.end)
    }

    /// How it has ended, if it has.
    fn outcome(&self) -> Option<Result<(), CommitError>> {
        if let Some(error) = &self.failed {
            return Some(Err(error.clone()));
        }
        if self.durable.lsn() >= self.end {
            return Some(Ok(()));
        }
        let poison = self.poison.look(|| Lsn::new(self.durable.lsn()))?;
        // It does not move any more, but may have until then.
        Some(if self.durable.lsn() >= self.end {
            Ok(())
        } else {
            Err(CommitError::Poisoned(poison.clone()))
        })
    }
}

impl<B: Backend> Core<B> {
    pub(crate) fn until_durable_to(self: &Arc<Self>, end: u64) -> UntilDurable {
        let failed = if self.durable.lsn() >= end {
            None
        } else {
            let alive = self.check_alive().map_err(Into::into);
            alive.and_then(|()| self.start_committer()).err()
        };
        UntilDurable::new(self, end, failed)
    }
}

impl Future for UntilDurable {
    type Output = Result<(), CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut outcome = this.outcome();
        if outcome.is_none() {
            let entered = this.tasks.enter(&mut this.place, this.end, context.waker());
            // After it has entered: V1 of `tasks`. The store's end may have come with what it made
            // durable.
            outcome = this
                .outcome()
                .or((!entered).then_some(Err(CommitError::Closed)));
        }
        match outcome {
            Some(outcome) => {
                if this.poison.is_here() {
                    this.tasks.leave(&mut this.place);
                }
                Poll::Ready(outcome)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for UntilDurable {
    fn drop(&mut self) {
        // In a child the list, and its lock, are the parent's.
        if self.poison.is_here() {
            self.tasks.leave(&mut self.place);
        }
    }
}

impl fmt::Debug for UntilDurable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UntilDurable")
            .field("end", &self.end())
            .field("durable", &Lsn::new(self.durable.lsn()))
            .finish_non_exhaustive()
    }
}
