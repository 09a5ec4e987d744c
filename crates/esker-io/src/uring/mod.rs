//! [`Uring`]: operations through io_uring, driven by whoever waits.
//!
//! An operation goes from the backlog into the [`Table`], from there to the kernel, and out again
//! when it is over. These hold:
//!
//! - U1. The submission queue is touched, and submissions entered, only under the `submission`
//!   mutex, and only by the [`Issuer`] where there is one; it is empty whenever that mutex is free, unless the ring is broken or a thread of the
//!   kernel's takes the entries.
//! - U2. The completion queue is touched only by the leader of [`Waiters`], or by the issuer.
//! - U3. The kernel holds at most one operation fewer than the completion queue has entries, so
//!   that together with one kick they always fit: it never overflows. If it did, nothing would be
//!   lost: the kernel keeps what does not fit, and whoever waits in it is given that.
//! - U4. An operation's memory and file lie in the table from before its entry is pushed until its
//!   last completion has been taken; the kernel knows it by index and generation.
//! - U5. Sinks are called with neither mutex held.
//!
//! Entries are never linked and never drained: see the crate docs.

mod aside;
mod completion;
mod config;
mod entry;
mod files;
mod issuer;
mod polled;
mod regions;
mod setup;
mod submission;
mod table;

use core::ops::Range;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use esker_buf::IoRegion;
use io_uring::IoUring;

use crate::action::{Action, Completion};
use crate::backend::{Backend, Description, FileFacts, FileOptions};
use crate::blocking::THREADS;
use crate::calls::Calls;
use crate::course::Course;
use crate::error::IoError;
use crate::file::{self, FileHandle};
use crate::latency::Latencies;
use crate::operation::Operation;
use crate::origin::{self, Origin};
use crate::pool::Pool;
use crate::registration::{RegisterError, Registration};
use crate::statistics::Statistics;
use crate::sync::{Arc, AtomicBool, AtomicUsize, JoinHandle, Mutex, SeqCst, Weak, panicking};
use crate::transfer::Step;
use crate::waiters::{Condition, Driver, Waiters};

use aside::Offered;
use completion::Finished;
pub use config::{ConfigError, UringConfig, UringError};
pub(crate) use files::Place;
use issuer::Issuer;
use polled::Polled;
use regions::{Region, Slots};
use table::{Table, Token};

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
    /// For what the ring does not take. Before what its threads use, which they hold as well; there is
    /// none only while this is being dropped.
    pool: Option<Pool>,
    ring: Arc<Ring>,
    /// The only one that enters it, if there is such.
    thread: Option<JoinHandle<()>>,
}

/// What submitters, waiters and the sinks called inline share.
struct Ring {
    /// Itself, for those who name it and do not keep it.
    this: Weak<Self>,
    offered: Offered,
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
    /// What has ended on threads and waits for the leader (A1).
    aside: Mutex<Vec<Finished>>,
    waiters: Waiters,
    /// Who drives, if it is not whoever waits.
    issuer: Option<Issuer>,
    calls: Calls,
    slots: Slots,
    files: files::Table,
    /// The ring beside this one whose completions are polled for.
    polled: Option<Polled>,
    origin: Origin,
    reason: String,
}

#[derive(Debug)]
struct State {
    table: Table,
    /// Operations in the table whose next piece is to be submitted.
    again: VecDeque<Token>,
    /// Operations accepted and not in the table yet.
    backlog: VecDeque<Accepted>,
    /// Registered memory that operations may use.
    regions: Vec<Arc<Region>>,
}

/// An operation, how far it has come, and when it was submitted.
#[derive(Debug)]
struct Accepted {
    operation: Operation<FileHandle>,
    course: Course,
    began: Instant,
}

impl Uring {
    /// Sets up a ring, checks that it has what is needed, and runs a trial operation through it.
    ///
    /// # Errors
    ///
    /// [`UringError`] says why there is none.
    pub fn new(config: UringConfig) -> Result<Self, UringError> {
        if config.has_issuer() {
            config.check()?;
            let (ring, thread) = issuer::start(config)?;
            return Ok(Self {
                pool: Some(Pool::new(THREADS)),
                ring,
                thread: Some(thread),
            });
        }
        Ring::new(config, None).map(Self::of)
    }

    fn of(ring: Ring) -> Self {
        Self {
            pool: Some(Pool::new(THREADS)),
            ring: ring.share(),
            thread: None,
        }
    }
}

impl Ring {
    /// Lets it be named by what belongs to it.
    fn share(mut self) -> Arc<Self> {
        Arc::new_cyclic(|this| {
            self.this = Weak::clone(this);
            self
        })
    }

    fn new(config: UringConfig, issuer: Option<Issuer>) -> Result<Self, UringError> {
        let (uring, slots, offered) = setup::set_up(config)?;
        let (entries, cq_entries) = (uring.params().sq_entries(), uring.params().cq_entries());
        let polled = Polled::new(config, &uring)?;
        Ok(Self {
            this: Weak::new(),
            offered,
            uring,
            polled,
            submission: Mutex::new(()),
            state: Mutex::new(State {
                table: Table::new((cq_entries - 1).max(1)),
                again: VecDeque::new(),
                backlog: VecDeque::new(),
                regions: Vec::new(),
            }),
            in_flight: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            kicked: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            aside: Mutex::new(Vec::new()),
            waiters: Waiters::default(),
            issuer,
            calls: Calls::default(),
            reason: reason(config, entries, cq_entries, slots),
            slots: Slots::new(slots),
            files: files::Table::new(config.registered_files),
            origin: Origin::here(),
        })
    }

    fn wait_until(&self, ready: &mut dyn FnMut() -> bool, timeout: Option<Duration>) -> bool {
        match &self.issuer {
            Some(issuer) => issuer.served.wait_until(ready, timeout),
            None => self.waiters.wait(self, Condition::Private(ready), timeout),
        }
    }

    fn wait_for(&self, ready: &(dyn Fn() -> bool + Sync), timeout: Option<Duration>) -> bool {
        match &self.issuer {
            Some(issuer) => issuer.served.wait_for(ready, timeout),
            None => self.waiters.wait(self, Condition::Shared(ready), timeout),
        }
    }

    fn wake(&self) {
        match &self.issuer {
            Some(issuer) => issuer.served.wake(),
            None => self.waiters.wake(self),
        }
    }
}

/// What the ring is like, in words.
fn reason(config: UringConfig, entries: u32, cq_entries: u32, slots: u32) -> String {
    let mut reason = format!("{entries} submission and {cq_entries} completion entries; ");
    if config.coop_taskrun {
        reason.push_str("completions interrupt nobody; ");
    }
    if let Some(idle_ms) = config.sqpoll_idle_ms {
        reason.push_str(&format!(
            "a thread of the kernel's takes submissions and sleeps when idle for {idle_ms} ms; "
        ));
    }
    if config.has_issuer() {
        reason.push_str("a thread of its own submits and completes; ");
    }
    if slots > 0 {
        reason.push_str(&format!(
            "room for {slots} stretches of registered memory; "
        ));
    }
    if config.iopoll {
        reason.push_str("direct reads and writes are polled for; ");
    }
    if config.registered_files > 0 {
        reason.push_str(&format!(
            "room for {} files that are looked up once; ",
            config.registered_files
        ));
    }
    reason.push_str("a single action is a system call");
    reason
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

    fn latencies(&self) -> Latencies {
        self.ring.calls.counters.latencies.snapshot()
    }

    fn open(&self, path: &Path, options: &FileOptions) -> Result<FileHandle, IoError> {
        self.ring.open(path, options)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), IoError> {
        self.ring.calls.sync_dir(dir)
    }

    file::names_and_files!();

    fn register(&self, memory: Box<dyn IoRegion>) -> Result<Registration, RegisterError> {
        if !self.ring.origin.is_here() {
            return Err(RegisterError::Unsupported);
        }
        self.ring.register(memory).map(Registration::new)
    }

    fn submit(&self, batch: Vec<Operation<FileHandle>>) {
        if batch.is_empty() {
            return;
        }
        let ring = &self.ring;
        if !ring.origin.is_here() {
            return origin::refuse(batch);
        }
        let counters = &ring.calls.counters;
        let before = ring.in_flight.fetch_add(batch.len(), SeqCst);
        counters.batch(before + batch.len());
        let mut accepted = Vec::with_capacity(batch.len());
        let (mut finished, mut aside) = (Vec::new(), Vec::new());
        let began = Instant::now();
        for operation in batch {
            let refused = ring.check_opening(&operation);
            if refused.is_ok() && !ring.offered.takes(&operation) {
                aside.push(operation);
                continue;
            }
            counters.submitted(operation.kind(), operation.is_durable());
            let course = match refused.and_then(|()| Course::begin(&operation)) {
                Ok(course) => course,
                Err(error) => {
                    finished.push(ring.refuse(operation, began, 0, error, None));
                    continue;
                }
            };
            let is_empty = course.is_empty();
            let operation = Accepted {
                operation,
                course,
                began,
            };
            if is_empty {
                finished.push(ring.finish(operation, Step::Done(0), None));
            } else {
                accepted.push(operation);
            }
        }
        let to_drive = !accepted.is_empty() || !aside.is_empty();
        if !aside.is_empty() {
            self.start_aside(aside);
        }
        if !accepted.is_empty() {
            ring.accepted.fetch_add(accepted.len(), SeqCst);
            if let Some(issuer) = &ring.issuer {
                issuer.submit(ring, accepted, &mut finished);
            } else {
                ring.state.lock().backlog.extend(accepted);
                ring.flush(&mut finished);
                if ring.is_polling() {
                    // Whoever sleeps in the other ring has to look at this one (Q3).
                    ring.waiters.wake(&**ring);
                }
            }
        }
        if to_drive && ring.issuer.is_none() {
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
        if !self.ring.origin.is_here() {
            return 0;
        }
        self.ring.in_flight.load(SeqCst)
    }

    fn wait_until(&self, ready: &mut dyn FnMut() -> bool, timeout: Option<Duration>) -> bool {
        let ring = &*self.ring;
        if !ring.origin.is_here() {
            return origin::wait(ready, timeout);
        }
        ring.wait_until(ready, timeout)
    }

    fn wait_for(&self, ready: &(dyn Fn() -> bool + Sync), timeout: Option<Duration>) -> bool {
        let ring = &*self.ring;
        if !ring.origin.is_here() {
            return origin::wait(&mut || ready(), timeout);
        }
        ring.wait_for(ready, timeout)
    }

    fn wake(&self) {
        if self.ring.origin.is_here() {
            self.ring.wake();
        }
    }

    fn poll(&self) -> usize {
        if !self.ring.origin.is_here() {
            return 0;
        }
        match &self.ring.issuer {
            Some(issuer) => {
                issuer.served.resume();
                0
            }
            None => self.ring.waiters.poll(&*self.ring),
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if !self.ring.origin.is_here() {
            // O1, O2, O3: the threads and the queues are the parent's, and so is what is in them.
            core::mem::forget(Arc::clone(&self.ring));
            core::mem::forget(self.thread.take());
            core::mem::forget(self.pool.take());
            return;
        }
        let ring = &*self.ring;
        let mut panic = None;
        // A sink that panics ends a wait early; the kernel still has the memory of the others.
        while ring.has_work() && ring.issuer.as_ref().is_none_or(Issuer::lets_wait) {
            let waited = catch_unwind(AssertUnwindSafe(|| {
                ring.wait_for(&|| !ring.has_work(), None)
            }));
            panic = panic.or(waited.err());
        }
        if let Some(issuer) = &ring.issuer {
            issuer.end(ring, self.thread.take());
            let kept = catch_unwind(AssertUnwindSafe(|| issuer.served.resume()));
            panic = panic.or(kept.err());
        }
        ring.give_up_places();
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

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use super::*;
    use crate::action::Durability;
    use crate::backend::Create;
    use crate::memory::WriteMemory;
    use crate::sync::yield_now;
    use io_uring::opcode;

    /// Longer than anything takes.
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));

    /// A ring with four entries in each queue, and a file; `None` where there is no io_uring.
    fn small() -> Option<(Uring, FileHandle, tempfile::TempDir)> {
        let Ok(uring) = Uring::new(UringConfig::default().entries(4).cq_entries(4)) else {
            println!("skipped: there is no io_uring");
            return None;
        };
        let dir = tempfile::tempdir().expect("a directory");
        let options = FileOptions::read_write().create(Create::New);
        let path = dir.path().join("log");
        let file = uring.open(&path, &options).expect("a new file");
        Some((uring, file, dir))
    }

    fn write(file: &FileHandle, at: u64) -> Operation<FileHandle> {
        let action = Action::Write {
            offset: at * 10,
            memory: WriteMemory::new(vec![1; 10]),
            durability: Durability::Written,
        };
        Operation::new(file.clone(), action, drop::<Completion>)
    }

    #[test]
    fn the_completion_queue_never_overflows() {
        let Some((uring, file, _dir)) = small() else {
            return;
        };
        for _ in 0..20 {
            uring.submit((0..40).map(|at| write(&file, at)).collect());
            // SAFETY: U2: nobody leads, since nobody waits.
            let completed = || unsafe { uring.ring.uring.completion_shared() }.len();
            let began = Instant::now();
            while completed() < 3 {
                assert!(began.elapsed() < Duration::from_secs(60), "{}", completed());
                yield_now();
            }
            assert_eq!(completed(), 3, "U3: one is left for a kick");
            {
                let _submission = uring.ring.submission.lock();
                // SAFETY: U1.
                let queue = unsafe { uring.ring.uring.submission_shared() };
                assert!(!queue.cq_overflow());
            }
            uring.wait_until(&mut || uring.in_flight() == 0, None);
        }
        assert_eq!(uring.statistics().writes.completed, 800);
    }
    #[test]
    fn what_overflows_the_completion_queue_is_not_lost() {
        let Some((uring, file, _dir)) = small() else {
            return;
        };
        let ring = &*uring.ring;
        let nop = opcode::Nop::new().build().user_data(Token::KICK);
        for _ in 0..20 {
            // Nobody leads, so what fills the queue stays there.
            for _ in 0..4 {
                let _submission = ring.submission.lock();
                // SAFETY: U1; and a NOP names no memory.
                let pushed = unsafe { ring.uring.submission_shared().push(&nop) };
                pushed.expect("an empty queue");
                ring.enter(1).expect("it is taken");
            }
            uring.submit((0..40).map(|at| write(&file, at)).collect());
            let overflows = || {
                let _submission = ring.submission.lock();
                // SAFETY: U1.
                unsafe { ring.uring.submission_shared() }.cq_overflow()
            };
            let began = Instant::now();
            while !overflows() {
                assert!(began.elapsed() < Duration::from_secs(60), "it has room");
                yield_now();
            }
            let over = uring.wait_until(&mut || uring.in_flight() == 0, PATIENCE);
            assert!(over, "{} are lost", uring.in_flight());
        }
        assert_eq!(uring.statistics().writes.completed, 800);
    }
}
