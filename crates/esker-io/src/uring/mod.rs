//! [`Uring`]: operations through io_uring, driven by whoever waits.
//!
//! An operation goes from the backlog into the [`Table`], from there to the kernel, and out again
//! when it is over. These hold:
//!
//! - U1. The submission queue is touched, and submissions entered, only under the `submission`
//!   mutex; it is empty whenever that mutex is free, unless the ring is broken.
//! - U2. The completion queue is touched only by the leader of [`Waiters`].
//! - U3. The kernel holds at most one operation fewer than the completion queue has entries, so
//!   that together with one kick they always fit: it never overflows.
//! - U4. An operation's memory and file lie in the table from before its entry is pushed until its
//!   last completion has been taken; the kernel knows it by index and generation.
//! - U5. Sinks are called with neither mutex held.
//!
//! Entries are never linked and never drained: see the crate docs.

mod config;
mod table;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::Duration;

use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Probe, opcode, squeue};

use crate::backend::{Allocated, Backend, Description, FileFacts, FileOptions};
use crate::blocking::{Calls, outcome};
use crate::error::IoError;
use crate::file::{self, FileHandle};
use crate::inline;
use crate::operation::{Action, Completion, Durability, Operation, Sink};
use crate::statistics::Statistics;
use crate::sync::{
    Acquire, Arc, AtomicBool, AtomicUsize, Mutex, Relaxed, Release, SeqCst, panicking, sleep,
    thread, yield_now,
};
use crate::transfer::{Step, Transfer};
use crate::waiters::{Driver, Wait, Waiters};

pub use config::{ConfigError, UringConfig, UringError};
use table::{InFlight, Table, Token};

/// How often in a row the kernel may put a submission off before the ring is given up.
const MAX_POSTPONED: u32 = 2000;

/// The longest single wait in the kernel. Every event that ends a wait reaches the kernel by
/// itself; this is for a ring that breaks while its leader is blocked in it.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// The io_uring backend.
///
/// Any number of threads submit; one of those that wait drives completions for all. A single
/// action through [`execute`](Backend::execute) is a blocking system call, which has the lower
/// latency; the ring pays where several operations are in flight.
///
/// Dropping it blocks until the kernel is done with every operation, and calls their sinks.
///
/// # Examples
///
/// ```
/// use esker_io::{Backend, BackendExt, Create, Durability, FileOptions, Uring, UringConfig};
///
/// # let dir = tempfile::tempdir()?;
/// # let Ok(backend) = Uring::new(UringConfig::default()) else { return Ok(()) };
/// let options = FileOptions::read_write().create(Create::New);
/// let file = backend.open(&dir.path().join("log"), &options)?;
/// let first = backend.start_write(&file, 0, vec![1u8; 4096], Durability::Durable);
/// let second = backend.start_write(&file, 4096, vec![2u8; 4096], Durability::Durable);
/// first.wait(&backend)?;
/// second.wait(&backend)?;
/// assert_eq!(backend.facts(&file)?.len_bytes, 8192);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Uring {
    ring: Arc<Ring>,
}

/// What submitters, waiters and the sinks called inline share.
struct Ring {
    uring: IoUring,
    /// Held while entries are pushed and entered (U1).
    submission: Mutex<()>,
    state: Mutex<State>,
    /// Operations submitted whose sinks have not returned. Raised by submitters, lowered by
    /// whoever has called a sink, read by waiters as part of their conditions: SeqCst throughout.
    in_flight: AtomicUsize,
    /// Those among them that only driving brings to an end; used in the same way.
    accepted: AtomicUsize,
    /// Whether a kick is on its way. Set by kickers, cleared by the leader that took it out of the
    /// completion queue.
    kicked: AtomicBool,
    /// Whether the kernel refuses submissions for good. Set once, under `submission`.
    broken: AtomicBool,
    waiters: Waiters,
    calls: Calls,
    reason: String,
}

#[derive(Debug)]
struct State {
    table: Table,
    /// Operations in the table whose next piece is to be submitted.
    again: VecDeque<Token>,
    /// Operations accepted and not in the table yet.
    backlog: VecDeque<Operation<FileHandle>>,
}

/// An operation that is over, and its sink not yet called.
struct Finished {
    /// Whether it counts among `Ring::accepted`.
    accepted: bool,
    sink: Box<dyn Sink>,
    completion: Completion,
}

impl Uring {
    /// Sets up a ring, checks that it has what is needed, and runs a trial operation through it.
    ///
    /// # Errors
    ///
    /// [`UringError`] says why there is none.
    pub fn new(config: UringConfig) -> Result<Self, UringError> {
        config.check()?;
        let mut builder = IoUring::builder();
        if let Some(cq_entries) = config.cq_entries {
            builder.setup_cqsize(cq_entries);
        }
        let mut ring: IoUring = builder.build(config.entries).map_err(UringError::setup)?;
        probe(&ring)?;
        trial(&mut ring).map_err(|source| UringError::Trial { source })?;
        let (entries, cq_entries) = (ring.params().sq_entries(), ring.params().cq_entries());
        let ring = Ring {
            uring: ring,
            submission: Mutex::new(()),
            state: Mutex::new(State {
                table: Table::new((cq_entries - 1).max(1)),
                again: VecDeque::new(),
                backlog: VecDeque::new(),
            }),
            in_flight: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            kicked: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            waiters: Waiters::default(),
            calls: Calls::default(),
            reason: format!(
                "{entries} submission and {cq_entries} completion entries; a single action is a \
                 system call"
            ),
        };
        Ok(Self {
            ring: Arc::new(ring),
        })
    }
}

impl Ring {
    /// Sends everything that the table has room for to the kernel. What could not be sent for
    /// good is added to `finished`.
    fn flush(&self, finished: &mut Vec<Finished>) {
        let _submission = self.submission.lock();
        loop {
            let mut sent = Vec::new();
            let more = self.fill(&mut sent);
            // Relaxed: written under `submission`, which is held.
            if !self.broken.load(Relaxed) && !sent.is_empty() {
                if let Err((error, left)) = self.enter(sent.len()) {
                    // Release: a leader that sees it also sees an unsent operation given back.
                    self.broken.store(true, Release);
                    let unsent = sent.split_off(sent.len() - left);
                    self.give_back(&unsent, &error, finished);
                }
            } else if self.broken.load(Relaxed) {
                let error = io::Error::from_raw_os_error(libc::ENXIO);
                self.give_back(&[], &error, finished);
            }
            if !more {
                return;
            }
        }
    }

    /// Pushes entries until the queue or the table is full; whether there is more to push.
    fn fill(&self, sent: &mut Vec<Token>) -> bool {
        let mut state = self.state.lock();
        if state.again.is_empty() && state.backlog.is_empty() {
            return false;
        }
        // Relaxed: as in `flush`.
        if self.broken.load(Relaxed) {
            return false;
        }
        // SAFETY: U1: no other `SubmissionQueue` exists while `submission` is held.
        let mut queue = unsafe { self.uring.submission_shared() };
        while !queue.is_full() {
            let token = match state.again.pop_front() {
                Some(token) => token,
                None if state.table.is_full() => return false,
                None => {
                    let Some(operation) = state.backlog.pop_front() else {
                        return false;
                    };
                    let transfer = begin(&operation);
                    let tenant = InFlight {
                        operation,
                        transfer,
                    };
                    match state.table.insert(tenant) {
                        Ok(token) => token,
                        Err(tenant) => {
                            state.backlog.push_front(tenant.operation);
                            return false;
                        }
                    }
                }
            };
            let Some(tenant) = state.table.get_mut(token) else {
                continue;
            };
            let entry = entry(tenant).user_data(token.user_data());
            // SAFETY: the memory and the file that the entry names belong to the table until its
            // completion has been taken (U4).
            if unsafe { queue.push(&entry) }.is_err() {
                state.again.push_front(token);
                return true;
            }
            sent.push(token);
        }
        !state.again.is_empty() || (!state.backlog.is_empty() && !state.table.is_full())
    }

    /// Hands `count` pushed entries to the kernel; the error that stopped it for good, and how
    /// many entries it had not taken by then.
    fn enter(&self, count: usize) -> Result<(), (io::Error, usize)> {
        let mut left = count;
        let mut postponed = 0;
        while left > 0 {
            self.calls.counters.system_call();
            match self.uring.submitter().submit() {
                Ok(0) => postponed += 1,
                Ok(taken) => {
                    left = left.saturating_sub(taken);
                    postponed = 0;
                    continue;
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) if postponed < MAX_POSTPONED => {
                        postponed += 1;
                    }
                    _ => return Err((error, left)),
                },
            }
            if postponed >= MAX_POSTPONED {
                return Err((io::Error::from_raw_os_error(libc::EAGAIN), left));
            }
            self.calls.counters.retried();
            if postponed < 100 {
                yield_now();
            } else {
                sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Takes back what the kernel has not been told of: `unsent`, and all that was to follow.
    fn give_back(&self, unsent: &[Token], error: &io::Error, finished: &mut Vec<Finished>) {
        let source = Arc::new(io::Error::from_raw_os_error(
            error.raw_os_error().unwrap_or(libc::EIO),
        ));
        let mut state = self.state.lock();
        let State {
            table,
            again,
            backlog,
        } = &mut *state;
        let begun = unsent
            .iter()
            .copied()
            .chain(again.drain(..))
            .filter_map(|token| table.remove(token))
            .map(|tenant| (tenant.operation, tenant.transfer.done()));
        let begun: Vec<_> = begun.collect();
        for (operation, done) in begun
            .into_iter()
            .chain(backlog.drain(..).map(|operation| (operation, 0)))
        {
            let context = operation
                .file
                .action_context(&operation.action)
                .after(done as u64);
            let source = Arc::clone(&source);
            let error = if done == 0 {
                IoError::NotSubmitted { context, source }
            } else {
                IoError::Os { context, source }
            };
            finished.push(self.finish(operation, true, done, Err(error)));
        }
    }

    /// Counts the end of an operation and lets go of its file.
    fn finish(
        &self,
        operation: Operation<FileHandle>,
        accepted: bool,
        bytes: usize,
        result: Result<usize, IoError>,
    ) -> Finished {
        let Operation { action, sink, .. } = operation;
        self.calls
            .counters
            .completed(action.kind(), bytes as u64, result.is_err());
        Finished {
            accepted,
            sink,
            completion: action.complete(result),
        }
    }

    /// Takes what lies in the completion queue. For the leader only (U2). Returns whether a kick
    /// was among it.
    fn reap(&self, finished: &mut Vec<Finished>) -> bool {
        let mut kicked = false;
        // SAFETY: U2: no other `CompletionQueue` exists while this thread leads.
        let mut queue = unsafe { self.uring.completion_shared() };
        if queue.is_empty() {
            return false;
        }
        let mut state = self.state.lock();
        for completion in &mut queue {
            if completion.user_data() == Token::KICK {
                kicked = true;
                continue;
            }
            let token = Token::from_user_data(completion.user_data());
            let Some(tenant) = state.table.get_mut(token) else {
                debug_assert!(false, "a completion of no operation");
                continue;
            };
            match tenant.transfer.returned(i64::from(completion.result())) {
                Step::Continue => {
                    self.calls.counters.continued();
                    state.again.push_back(token);
                }
                Step::Retry => {
                    self.calls.counters.retried();
                    state.again.push_back(token);
                }
                step => {
                    let Some(InFlight {
                        operation,
                        transfer,
                    }) = state.table.remove(token)
                    else {
                        continue;
                    };
                    let result = outcome(&operation.file, &operation.action, &transfer, step);
                    finished.push(self.finish(operation, true, transfer.done(), result));
                }
            }
        }
        // Publishes the entries as free, before anything takes their place (U3).
        drop(queue);
        drop(state);
        if kicked {
            // Release: pairs with the swap in `kick`; the next kick finds the queue without this
            // one.
            self.kicked.store(false, Release);
        }
        kicked
    }

    /// Calls the sinks, all of them, then lets a panic of one go on.
    fn deliver(&self, finished: Vec<Finished>) -> usize {
        let count = finished.len();
        let mut panic = None;
        for finished in in_delivery_order(finished) {
            if let Err(payload) = self.call(finished) {
                panic.get_or_insert(payload);
            }
        }
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
        count
    }

    /// Calls the sinks of operations that ended in `submit`, outside of any round.
    fn deliver_inline(self: &Arc<Self>, finished: Vec<Finished>) {
        inline::run(finished.into_iter().map(|finished| {
            let ring = Arc::clone(self);
            Box::new(move || {
                let called = ring.call(finished);
                ring.waiters.wake(&*ring);
                if let Err(payload) = called {
                    resume_unwind(payload);
                }
            }) as inline::Job
        }));
    }

    /// Calls one sink, and only then counts the operation as over.
    fn call(&self, finished: Finished) -> thread::Result<()> {
        let Finished {
            accepted,
            sink,
            completion,
        } = finished;
        let called = catch_unwind(AssertUnwindSafe(|| sink.complete(completion)));
        if accepted {
            self.accepted.fetch_sub(1, SeqCst);
        }
        self.in_flight.fetch_sub(1, SeqCst);
        called
    }

    /// Waits in the kernel for a completion, but no longer than `wait`.
    fn block(&self, wait: Duration) {
        let time = Timespec::from(wait);
        let arguments = SubmitArgs::new().timespec(&time);
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        self.calls.counters.system_call();
        // SAFETY: nothing is submitted; the argument is what EXT_ARG asks for, and it and the time
        // that it points to live across the call.
        let entered = unsafe {
            self.uring
                .submitter()
                .enter(0, 1, flags.bits(), Some(&arguments))
        };
        if let Err(error) = entered
            && !matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR))
        {
            // The kernel may still hold operations, and their completions come through shared
            // memory: look there again in a while.
            sleep(Duration::from_millis(1));
        }
    }
}

/// The order in which a round's sinks are called: as the kernel completed.
fn in_delivery_order(mut finished: Vec<Finished>) -> Vec<Finished> {
    if cfg!(esker_canary = "io-sink-swapped")
        && let [first, second, ..] = &mut *finished
    {
        core::mem::swap(&mut first.sink, &mut second.sink);
    }
    finished
}

/// The transfer of an operation that has not begun.
fn begin(operation: &Operation<FileHandle>) -> Transfer {
    let action = &operation.action;
    Transfer::new(
        action.kind(),
        action.offset(),
        action.len_bytes(),
        operation.file.alignment(),
    )
}

/// The entry for an operation's next piece.
fn entry(tenant: &InFlight) -> squeue::Entry {
    let fd = Fd(tenant.operation.file.fd());
    let piece = tenant.transfer.piece();
    match &tenant.operation.action {
        Action::Read { memory, .. } => {
            opcode::Read::new(fd, memory.as_mut_ptr().wrapping_add(piece.start), piece.len)
                .offset(piece.offset)
                .build()
        }
        Action::Write {
            memory, durability, ..
        } => opcode::Write::new(fd, memory.as_ptr().wrapping_add(piece.start), piece.len)
            .offset(piece.offset)
            .rw_flags(match durability {
                Durability::Written => 0,
                Durability::Durable => libc::RWF_DSYNC,
            })
            .build(),
        Action::SyncData => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
    }
}

/// Refuses a kernel that lacks a feature or an operation.
fn probe(ring: &IoUring) -> Result<(), UringError> {
    let parameters = ring.params();
    for (there, what) in [
        (parameters.is_feature_nodrop(), "NODROP (Linux 5.5)"),
        (
            parameters.is_feature_submit_stable(),
            "SUBMIT_STABLE (Linux 5.5)",
        ),
        (parameters.is_feature_ext_arg(), "EXT_ARG (Linux 5.11)"),
    ] {
        if !there {
            return Err(UringError::Lacks { what });
        }
    }
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(UringError::setup)?;
    for (code, what) in [
        (opcode::Nop::CODE, "NOP"),
        (opcode::Read::CODE, "READ"),
        (opcode::Write::CODE, "WRITE"),
        (opcode::Fsync::CODE, "FSYNC"),
    ] {
        if !probe.is_supported(code) {
            return Err(UringError::Lacks { what });
        }
    }
    Ok(())
}

/// Sends one operation through the ring and takes its completion.
fn trial(ring: &mut IoUring) -> io::Result<()> {
    const MARK: u64 = 0x0065_736b_6572;
    let nop = opcode::Nop::new().build().user_data(MARK);
    // SAFETY: a NOP names no memory.
    unsafe { ring.submission().push(&nop) }
        .map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))?;
    let mut postponed = 0;
    while let Err(error) = ring.submit_and_wait(1) {
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EAGAIN) if postponed < 100 => {
                postponed += 1;
                yield_now();
            }
            _ => return Err(error),
        }
    }
    match ring.completion().next() {
        Some(completion) if completion.user_data() == MARK && completion.result() >= 0 => Ok(()),
        Some(completion) => Err(io::Error::from_raw_os_error(-completion.result())),
        None => Err(io::Error::from_raw_os_error(libc::ENODATA)),
    }
}

impl Driver for Ring {
    fn has_work(&self) -> bool {
        self.accepted.load(SeqCst) > 0
    }

    fn drive(&self, wait: Wait) -> usize {
        let mut finished = Vec::new();
        let mut waited = false;
        loop {
            let kicked = self.reap(&mut finished);
            // Before the sinks: the device is to be busy while they run.
            self.flush(&mut finished);
            if !finished.is_empty() {
                return self.deliver(finished);
            }
            if kicked || waited {
                return 0;
            }
            // Acquire: pairs with the store in `flush`.
            let limit = if self.broken.load(Acquire) {
                Duration::from_millis(10)
            } else {
                MAX_WAIT
            };
            let wait = match wait {
                Wait::No => return 0,
                Wait::Unbounded => limit,
                Wait::AtMost(wait) => wait.min(limit),
            };
            self.block(wait);
            waited = true;
        }
    }

    fn kick(&self) {
        // AcqRel (SeqCst): a kick that is on its way, or lies in the queue, ends this wait too.
        if self.kicked.swap(true, SeqCst) {
            return;
        }
        let _submission = self.submission.lock();
        // Relaxed: as in `flush`. The leader of a broken ring looks for itself.
        if self.broken.load(Relaxed) {
            return;
        }
        {
            // SAFETY: U1.
            let mut queue = unsafe { self.uring.submission_shared() };
            let nop = opcode::Nop::new().build().user_data(Token::KICK);
            // SAFETY: a NOP names no memory. The queue is empty (U1), so there is room.
            let pushed = unsafe { queue.push(&nop) };
            debug_assert!(pushed.is_ok(), "the submission queue is empty between uses");
        }
        if self.enter(1).is_err() {
            // Release: as in `flush`.
            self.broken.store(true, Release);
        }
    }
}

impl Backend for Uring {
    type File = FileHandle;

    fn description(&self) -> Description {
        Description {
            kind: "io_uring",
            reason: self.ring.reason.clone(),
        }
    }

    fn statistics(&self) -> Statistics {
        self.ring.calls.counters.snapshot(self.in_flight())
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), IoError> {
        file::create_dir_all(path)
    }

    fn open(&self, path: &Path, options: &FileOptions) -> Result<FileHandle, IoError> {
        file::open(path, options)
    }

    fn list(&self, dir: &Path) -> Result<Vec<OsString>, IoError> {
        file::list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError> {
        file::rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), IoError> {
        file::remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), IoError> {
        file::sync_dir(dir)
    }

    fn path(&self, file: &FileHandle) -> Arc<Path> {
        file.shared_path()
    }

    fn facts(&self, file: &FileHandle) -> Result<FileFacts, IoError> {
        file.facts()
    }

    fn try_lock(&self, file: &FileHandle) -> Result<bool, IoError> {
        file.try_lock()
    }

    fn is_locked(&self, file: &FileHandle) -> Result<bool, IoError> {
        file.is_locked()
    }

    fn allocate(
        &self,
        file: &FileHandle,
        offset: u64,
        len_bytes: u64,
    ) -> Result<Allocated, IoError> {
        file.allocate(offset, len_bytes)
    }

    fn truncate(&self, file: &FileHandle, len_bytes: u64) -> Result<(), IoError> {
        file.truncate(len_bytes)
    }

    fn submit(&self, batch: Vec<Operation<FileHandle>>) {
        if batch.is_empty() {
            return;
        }
        let ring = &self.ring;
        let counters = &ring.calls.counters;
        counters.batch();
        let mut accepted = Vec::with_capacity(batch.len());
        let mut finished = Vec::new();
        ring.in_flight.fetch_add(batch.len(), SeqCst);
        for operation in batch {
            let action = &operation.action;
            counters.submitted(action.kind(), action.is_durable());
            match operation.file.check(action) {
                Err(error) => finished.push(ring.finish(operation, false, 0, Err(error))),
                Ok(()) if begin(&operation).is_empty() => {
                    finished.push(ring.finish(operation, false, 0, Ok(0)));
                }
                Ok(()) => accepted.push(operation),
            }
        }
        if !accepted.is_empty() {
            ring.accepted.fetch_add(accepted.len(), SeqCst);
            ring.state.lock().backlog.extend(accepted);
            ring.flush(&mut finished);
            ring.waiters.recruit(&**ring);
        }
        if !finished.is_empty() {
            ring.deliver_inline(finished);
        }
    }

    fn execute(&self, file: &FileHandle, action: Action) -> Completion {
        self.ring.calls.run(file, action)
    }

    fn in_flight(&self) -> usize {
        self.ring.in_flight.load(SeqCst)
    }

    fn wait_until(&self, ready: &mut dyn FnMut() -> bool, timeout: Option<Duration>) -> bool {
        self.ring.waiters.wait_until(&*self.ring, ready, timeout)
    }

    fn wake(&self) {
        self.ring.waiters.wake(&*self.ring);
    }

    fn poll(&self) -> usize {
        self.ring.waiters.poll(&*self.ring)
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let ring = &*self.ring;
        let mut panic = None;
        // A sink that panics ends a wait early; the kernel still has the memory of the others.
        while ring.has_work() {
            let waited = catch_unwind(AssertUnwindSafe(|| {
                ring.waiters
                    .wait_until(ring, &mut || !ring.has_work(), None)
            }));
            panic = panic.or(waited.err());
        }
        if let Some(payload) = panic
            && !panicking()
        {
            resume_unwind(payload);
        }
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("in_flight", &self.ring.in_flight)
            .field("reason", &self.ring.reason)
            .finish_non_exhaustive()
    }
}
