//! [`Blocking`]: positioned system calls, in the calling thread or on a pool of threads.

use core::num::NonZeroUsize;
use core::ops::Range;
use std::ffi::OsString;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::backend::{
    Allocated, Allocation, Backend, Description, FileFacts, FileOptions, Punched,
};
use crate::error::IoError;
use crate::file::{self, FileHandle};
use crate::inline;
use crate::latency::Latencies;
use crate::operation::{Action, Completion, Durability, Operation};
use crate::origin::{self, Origin};
use crate::pool::{self, Pool};
use crate::served::Served;
use crate::statistics::{Counters, Statistics};
use crate::sync::{Arc, AtomicBool, AtomicUsize, Relaxed, SeqCst, panicking, thread};
use crate::transfer::{Step, Transfer};

/// How many threads run what is submitted, unless another number is asked for: as many reads of a
/// block in flight as keep a fast disk busy, and few enough for a small machine.
const THREADS: usize = 8;

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
    let Operation { file, action, sink } = operation;
    let completion = shared.calls.run(&file, action);
    drop(file);
    catch_unwind(AssertUnwindSafe(|| sink.complete(completion)))
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
        file::open(path, options)
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

/// Positioned system calls in the calling thread, counted.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) counters: Counters,
    /// Set by whoever was first to find that the kernel or the file system knows no `RWF_DSYNC`;
    /// from then on a durable write is a write and an fdatasync. Only a hint: relaxed.
    no_dsync: AtomicBool,
}

impl Calls {
    /// Does an action, all of it, now.
    pub(crate) fn run(&self, file: &FileHandle, action: Action) -> Completion {
        let began = Instant::now();
        self.counters.submitted(action.kind(), action.is_durable());
        let mut transfer = Transfer::new(
            action.kind(),
            action.offset(),
            action.len_bytes(),
            file.alignment(),
        );
        let result = file
            .check(&action)
            .and_then(|()| self.transfer(file, &action, &mut transfer))
            .and_then(|bytes| file.confirm(&action).map(|()| bytes));
        self.counters.completed(
            action.kind(),
            began,
            transfer.done() as u64,
            result.is_err(),
        );
        action.complete(result)
    }

    fn transfer(
        &self,
        file: &FileHandle,
        action: &Action,
        transfer: &mut Transfer,
    ) -> Result<usize, IoError> {
        if transfer.is_empty() {
            return Ok(0);
        }
        loop {
            let returned = self.call(file, action, transfer);
            match transfer.returned(returned) {
                Step::Continue => self.counters.continued(),
                Step::Retry => self.counters.retried(),
                step => return outcome(file, action, transfer, step),
            }
        }
    }

    /// One system call for the transfer's next piece: a count, or an error number below zero.
    fn call(&self, file: &FileHandle, action: &Action, transfer: &Transfer) -> i64 {
        let piece = transfer.piece();
        let len = piece.len as usize;
        #[expect(clippy::cast_possible_wrap, reason = "`FileHandle::check` bounds it")]
        let offset = piece.offset as i64;
        match action {
            Action::Read { memory, .. } => {
                self.counters.system_call();
                // SAFETY: the piece lies within the memory, which this thread owns exclusively.
                returned(unsafe {
                    libc::pread(
                        file.fd(),
                        memory.as_mut_ptr().add(piece.start).cast(),
                        len,
                        offset,
                    )
                })
            }
            Action::Write {
                memory, durability, ..
            } => {
                let vectors = memory.vectors(piece.start, len);
                match durability {
                    Durability::Written => {
                        self.counters.system_call();
                        // SAFETY: the vectors name bytes of the memory.
                        unsafe { write_call(file, &vectors, offset) }
                    }
                    // SAFETY: the vectors name bytes of the memory.
                    Durability::Durable => unsafe { self.durable_call(file, &vectors, offset) },
                }
            }
            Action::SyncData => self.sync_call(file),
            Action::SyncAll => {
                self.counters.system_call();
                // SAFETY: fsync touches no memory of this process.
                returned(unsafe { libc::fsync(file.fd()) } as isize)
            }
        }
    }

    /// # Safety
    ///
    /// The vectors must name memory that is good for reading.
    unsafe fn durable_call(&self, file: &FileHandle, vectors: &[libc::iovec], offset: i64) -> i64 {
        if !self.no_dsync.load(Relaxed) {
            self.counters.system_call();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_possible_wrap,
                reason = "`WriteMemory::vectors` bounds it"
            )]
            let count = vectors.len() as libc::c_int;
            // SAFETY: the caller's promise.
            let written = returned(unsafe {
                libc::pwritev2(file.fd(), vectors.as_ptr(), count, offset, libc::RWF_DSYNC)
            });
            if written != -i64::from(libc::EOPNOTSUPP) && written != -i64::from(libc::ENOSYS) {
                return written;
            }
            self.no_dsync.store(true, Relaxed);
        }
        self.counters.system_call();
        // SAFETY: the caller's promise.
        let written = unsafe { write_call(file, vectors, offset) };
        if written <= 0 {
            return written;
        }
        // An interrupted sync says nothing of the data; the piece is written again with it.
        match self.sync_call(file) {
            0 => written,
            errno => errno,
        }
    }

    fn sync_call(&self, file: &FileHandle) -> i64 {
        self.counters.system_call();
        // SAFETY: fdatasync touches no memory of this process.
        returned(unsafe { libc::fdatasync(file.fd()) } as isize)
    }
}

/// # Safety
///
/// The vectors must name memory that is good for reading.
unsafe fn write_call(file: &FileHandle, vectors: &[libc::iovec], offset: i64) -> i64 {
    // SAFETY: the caller's promise.
    returned(unsafe {
        match vectors {
            [one] => libc::pwrite(file.fd(), one.iov_base, one.iov_len, offset),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_possible_wrap,
                reason = "`WriteMemory::vectors` bounds it"
            )]
            many => libc::pwritev(file.fd(), many.as_ptr(), many.len() as libc::c_int, offset),
        }
    })
}

/// What a system call returned: a count, or the error number below zero.
fn returned(result: isize) -> i64 {
    if result >= 0 {
        return result as i64;
    }
    -i64::from(
        io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

/// The result of a transfer that took its last step.
pub(crate) fn outcome(
    file: &FileHandle,
    action: &Action,
    transfer: &Transfer,
    step: Step,
) -> Result<usize, IoError> {
    let context = || file.action_context(action).after(transfer.done() as u64);
    match step {
        Step::Done(bytes) => Ok(bytes),
        Step::Failed(errno) => Err(IoError::from_os(
            context(),
            io::Error::from_raw_os_error(errno),
        )),
        Step::Continue | Step::Retry => Err(IoError::NoProgress {
            context: context(),
            attempts: 0,
        }),
        Step::Stuck { attempts } => Err(IoError::NoProgress {
            context: context(),
            attempts,
        }),
    }
}
