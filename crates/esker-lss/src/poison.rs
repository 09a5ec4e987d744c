//! [`Poison`]: what happens to a store after a write or a sync has failed.
//!
//! The bytes of a failed write may have landed or not, and after a failed sync the kernel may have
//! dropped what it covered and report success the next time. Nothing that comes later can make up
//! for either, so the first failure is final for this life of the store: no later append or commit
//! succeeds, reads of what is durable go on, and opening the store again finds out what is there.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use esker_io::{Context, IoError, OperationKind, Origin};

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
pub(crate) struct PoisonCell {
    cause: OnceLock<Poison>,
    /// The process that opened the store, and where that is.
    origin: Origin,
    dir: PathBuf,
}

impl PoisonCell {
    /// For the store in `dir` that this process opens.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            cause: OnceLock::new(),
            origin: Origin::here(),
            dir,
        }
    }

    /// Whether this is the process that opened the store, and not a child of it.
    pub(crate) fn is_here(&self) -> bool {
        self.origin.is_here() || canary!("lss-fork-goes-unnoticed")
    }

    /// The same as [`get`](Self::get), which in a child of the process that opened the store is that it
    /// is one; `durable` says what was durable at the fork. Two loads.
    pub(crate) fn look(&self, durable: impl FnOnce() -> Lsn) -> Option<&Poison> {
        if !self.is_here() {
            let context = Context::new(OperationKind::Write, self.dir.clone());
            self.set(durable(), IoError::Forked { context });
        }
        self.get()
    }

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
