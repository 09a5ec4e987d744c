//! [`Origin`]: the process in which something was made.
//!
//! A fork copies memory, but no thread besides the calling one, and nothing that the kernel has in
//! flight; and a ring's queues stay shared with the parent. So a backend serves the process in which
//! it was made. In a child of that process these hold:
//!
//! - O1. None of its locks is taken: a thread that the child does not have may hold it.
//! - O2. The ring's queues and its table of registered memory are left alone: they are the parent's.
//! - O3. What was in flight at the fork is leaked, sinks and memory: they are called and freed in
//!   the parent.

use std::time::{Duration, Instant};

use crate::error::IoError;
use crate::file::FileHandle;
use crate::inline;
use crate::operation::Operation;
use crate::sync::of_the_process::{AtomicU64, Once, Relaxed};
use crate::sync::sleep;

/// How many forks led from the process that first made an [`Origin`] to this one. Raised in each
/// child before its fork returns, when it has a single thread; read by anybody: Relaxed.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Whether children count themselves.
static COUNTED: Once = Once::new();

extern "C" fn count() {
    FORKS.fetch_add(1, Relaxed);
}

/// The process in which something was made: for whoever holds threads, locks or files besides a
/// backend, and must not use them in a child of a fork.
///
/// # Examples
///
/// ```
/// let origin = esker_io::Origin::here();
/// assert!(origin.is_here());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin(u64);

impl Origin {
    /// This process. Children that are forked from now on are told apart.
    #[must_use]
    pub fn here() -> Self {
        COUNTED.call_once(|| {
            // It fails only for want of memory, for a few words; then a child is not told apart.
            // SAFETY: what is called in the child adds to an atomic, which a signal handler may do.
            let _ = unsafe { libc::pthread_atfork(None, None, Some(count)) };
        });
        Self(FORKS.load(Relaxed))
    }

    /// Whether this is still the process, and not a child of it. One load.
    #[must_use]
    pub fn is_here(self) -> bool {
        self.0 == FORKS.load(Relaxed) || canary!("io-fork-goes-unnoticed")
    }
}

/// Ends operations that came to another process's backend.
pub(crate) fn refuse(batch: Vec<Operation<FileHandle>>) {
    inline::run(batch.into_iter().map(|operation| {
        Box::new(move || {
            let ended = operation.refuse(FileHandle::shared_path, |context| IoError::Forked {
                context,
            });
            ended.tell();
        }) as inline::Job
    }));
}

/// Waits with another process's backend, which completes nothing here: looks now and then.
pub(crate) fn wait(ready: &mut dyn FnMut() -> bool, timeout: Option<Duration>) -> bool {
    const PAUSE: Duration = Duration::from_millis(1);
    let began = Instant::now();
    loop {
        if ready() {
            return true;
        }
        let left = timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            return false;
        }
        sleep(left.map_or(PAUSE, |left| left.min(PAUSE)));
    }
}
