//! [`Poison`]: what happens to a store after a write or a sync has failed.
//!
//! The bytes of a failed write may have landed or not, and after a failed sync the kernel may have
//! dropped what it covered and report success the next time. Nothing that comes later can make up
//! for either, so the first failure is final for this life of the store: no later append or commit
//! succeeds, reads of what is durable go on, and opening the store again finds out what is there.

use std::fmt;
use std::sync::{Arc, OnceLock};

use esker_io::IoError;

use crate::Lsn;

/// The first write or sync that failed: the fate of everything not yet durable is indeterminate.
#[derive(Clone, Debug)]
pub struct Poison {
    inner: Arc<Cause>,
}

#[derive(Debug)]
struct Cause {
    durable: Lsn,
    source: IoError,
}

impl Poison {
    /// Everything below was durable when the failure was noticed, and still is.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.inner.durable
    }

    /// What failed.
    #[must_use]
    pub fn io_error(&self) -> &IoError {
        &self.inner.source
    }
}

impl fmt::Display for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an earlier write or sync failed, and whether records from LSN {} on are on disk is not \
             known; open the store again to find out",
            self.inner.durable
        )
    }
}

impl std::error::Error for Poison {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.inner.source)
    }
}

/// Set once, by the first failure.
#[derive(Default)]
pub(crate) struct PoisonCell {
    cause: OnceLock<Poison>,
}

impl PoisonCell {
    /// Remembers the failure, unless there was one before.
    pub(crate) fn set(&self, durable: Lsn, source: IoError) {
        let _already_poisoned = self.cause.set(Poison {
            inner: Arc::new(Cause { durable, source }),
        });
    }

    /// The first failure, if there was one. One load.
    pub(crate) fn get(&self) -> Option<&Poison> {
        self.cause.get()
    }
}
