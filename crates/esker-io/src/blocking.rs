//! [`Blocking`]: positioned system calls, in the calling thread or on a pool of threads.

use core::num::NonZeroUsize;
use core::ops::Range;
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::Duration;

use crate::action::{Action, Completion};
use crate::backend::{Backend, Description, FileFacts, FileOptions};
use crate::calls::Calls;
use crate::error::IoError;
use crate::file::{self, FileHandle};
use crate::inline;
use crate::latency::Latencies;
use crate::operation::Operation;
use crate::origin::{self, Origin};
use crate::pool::{self, Pool};
use crate::served::Served;
use crate::statistics::Statistics;
use crate::sync::{Arc, AtomicUsize, SeqCst, panicking, thread};

/// How many threads run what is submitted, unless another number is asked for: as many reads of a
/// block in flight as keep a fast disk busy, and few enough for a small machine.
pub(crate) const THREADS: usize = 8;

/// The portable backend: every operation is a positioned, blocking system call.
///
/// What is [submitted](Backend::submit) runs on a pool of threads, so that operations overlap as
/// they do in a ring: at most eight ([`new`](Self::new)) or as many as are asked for
/// ([`with_threads`](Self::with_threads)). They are started when there is something for them, and
/// joined when the backend is dropped; sinks are called in them, and the panic of a sink goes on
/// in whoever waits, polls or drops the backend next. What is [executed](Backend::execute) runs in
/// the calling thread.
///
/// [`inline`](Self::inline) has no threads: `submit` runs the batch in the calling thread and calls
/// the sinks before it returns; what a sink submits is run after that sink has returned, so that
/// the stack does not grow.
///
/// # Examples
///
/// ```
/// use esker_io::{Backend, BackendExt, Blocking, Create, Durability, FileOptions};
///
/// # let dir = tempfile::tempdir()?;
/// let backend = Blocking::new();
/// let options = FileOptions::read_write().create(Create::IfMissing);
/// let file = backend.open(&dir.path().join("log"), &options)?;
/// backend.write_at(&file, 0, b"esker".to_vec(), Durability::Durable)?;
/// assert_eq!(backend.facts(&file)?.len_bytes, 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Blocking {
    /// Before what its threads use, which they hold as well. `None` runs inline.
    pool: Option<Pool>,
    shared: Arc<Shared>,
    origin: Origin,
    reason: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    calls: Calls,
    /// Operations submitted whose sinks have not returned. Written by the threads that run them,
    /// read by waiters.
    in_flight: AtomicUsize,
    served: Served,
}

impl Default for Blocking {
    fn default() -> Self {
        Self::new()
    }
}

impl Blocking {
    /// A backend that runs what is submitted on up to eight threads. It has none yet.
    #[must_use]
    pub fn new() -> Self {
        Self::on(Some(Pool::new(THREADS)))
    }

    /// The same with another number of threads.
    #[must_use]
    pub fn with_threads(threads: NonZeroUsize) -> Self {
        Self::on(Some(Pool::new(threads.get())))
    }

    /// A backend that runs what is submitted in the submitting thread.
    #[must_use]
    pub fn inline() -> Self {
        Self::on(None)
    }

    fn on(pool: Option<Pool>) -> Self {
        Self {
            pool,
            shared: Arc::default(),
            origin: Origin::here(),
            reason: None,
        }
    }

    /// The default one, which says why it was picked.
    pub(crate) fn because(reason: String) -> Self {
        let mut backend = Self::new();
        backend.reason = Some(reason);
        backend
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        if !self.origin.is_here() {
            // O1, O3: its threads are the parent's, and so is what they were about to do.
            core::mem::forget(self.pool.take());
            core::mem::forget(Arc::clone(&self.shared));
            return;
        }
        // Joins its threads, which run what is queued first.
        self.pool = None;
        if !panicking() {
            self.shared.served.resume();
        }
    }
}

/// Runs one operation to its end and tells its sink; the sink's panic, if it did.
fn run_operation(shared: &Shared, operation: Operation<FileHandle>) -> thread::Result<()> {
    let ended = shared.calls.end(operation);
    catch_unwind(AssertUnwindSafe(|| ended.tell()))
}

/// The sink of an operation has returned.
fn ended(shared: &Shared) {
    // SeqCst: the count is part of conditions that waiters ask for (W1).
    shared.in_flight.fetch_sub(1, SeqCst);
    shared.served.wake();
}

impl Backend for Blocking {
    type File = FileHandle;

    fn description(&self) -> Description {
        Description {
            kind: "blocking",
            reason: format!(
                "positioned system calls, {}{}",
                match &self.pool {
                    Some(pool) => format!("submitted ones on up to {} threads", pool.limit()),
                    None => "all in the calling thread".to_owned(),
                },
                match &self.reason {
                    Some(reason) => format!(": {reason}"),
                    None => ", as asked for".to_owned(),
                }
            ),
        }
    }

    fn statistics(&self) -> Statistics {
        self.shared.calls.counters.snapshot(self.in_flight())
    }

    fn latencies(&self) -> Latencies {
        self.shared.calls.counters.latencies.snapshot()
    }

    fn open(&self, path: &Path, options: &FileOptions) -> Result<FileHandle, IoError> {
        self.shared.calls.open(path, options)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), IoError> {
        self.shared.calls.sync_dir(dir)
    }

    file::names_and_files!();

    fn submit(&self, batch: Vec<Operation<FileHandle>>) {
        if batch.is_empty() {
            return;
        }
        if !self.origin.is_here() {
            return origin::refuse(batch);
        }
        // SeqCst: as in `run_operation`.
        let before = self.shared.in_flight.fetch_add(batch.len(), SeqCst);
        self.shared.calls.counters.batch(before + batch.len());
        let Some(pool) = &self.pool else {
            return inline::run(batch.into_iter().map(|operation| {
                let shared = Arc::clone(&self.shared);
                Box::new(move || {
                    let called = run_operation(&shared, operation);
                    ended(&shared);
                    if let Err(panic) = called {
                        resume_unwind(panic);
                    }
                }) as inline::Job
            }));
        };
        let left = pool.run(batch.into_iter().map(|operation| {
            let shared = Arc::clone(&self.shared);
            Box::new(move || {
                if let Err(panic) = run_operation(&shared, operation) {
                    // Before it counts as over: whoever waits for its end is to meet the panic.
                    shared.served.keep(panic);
                }
                ended(&shared);
            }) as pool::Job
        }));
        // There is no thread to be had: then here and now.
        inline::run(left.into_iter().map(|job| job as inline::Job));
    }

    fn execute(&self, file: &FileHandle, action: Action) -> Completion {
        self.shared.calls.run(file, action)
    }

    fn in_flight(&self) -> usize {
        if !self.origin.is_here() {
            return 0;
        }
        self.shared.in_flight.load(SeqCst)
    }

    fn wait_until(&self, ready: &mut dyn FnMut() -> bool, timeout: Option<Duration>) -> bool {
        if !self.origin.is_here() {
            return origin::wait(ready, timeout);
        }
        self.shared.served.wait_until(ready, timeout)
    }

    fn wait_for(&self, ready: &(dyn Fn() -> bool + Sync), timeout: Option<Duration>) -> bool {
        if !self.origin.is_here() {
            return origin::wait(&mut || ready(), timeout);
        }
        self.shared.served.wait_for(ready, timeout)
    }

    fn wake(&self) {
        if !self.origin.is_here() {
            return;
        }
        self.shared.served.wake();
    }

    fn poll(&self) -> usize {
        if !self.origin.is_here() {
            return 0;
        }
        // Its threads need no driving.
        self.shared.served.resume();
        0
    }
}
