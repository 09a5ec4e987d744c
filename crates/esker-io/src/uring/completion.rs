//! How operations come back: taken by the leader (U2), their sinks called with no lock held (U5).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring};

use super::regions::Region;
use super::table::Token;
use super::{Accepted, Ring};
use crate::calls::opened;
use crate::course::{Course, outcome};
use crate::error::{Context, IoError, OperationKind};
use crate::file::FileHandle;
use crate::inline;
use crate::operation::{Ended, Operation};
use crate::sync::{Acquire, Arc, Release, SeqCst, sleep, thread};
use crate::transfer::Step;
use crate::waiters::{Driver, Wait};

/// The longest single wait in the kernel. Every event that ends a wait reaches the kernel by
/// itself; this is for a ring that breaks while its leader is blocked in it.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// An operation that is over, and its sink not yet called.
pub(super) struct Finished {
    /// Whether it counts among `Ring::accepted`.
    accepted: bool,
    ended: Ended<FileHandle>,
    /// Let go of only now, with no lock held: what it keeps may have a drop of its own.
    region: Option<Arc<Region>>,
}

impl Finished {
    /// One that was not in the kernel's hands.
    pub(super) fn aside(ended: Ended<FileHandle>) -> Self {
        Self {
            accepted: true,
            ended,
            region: None,
        }
    }
}

impl Ring {
    /// Counts the end of an operation that took its last step, and lets go of its file. One that was
    /// accepted has a region, or the lack of one.
    pub(super) fn finish(
        &self,
        operation: Accepted,
        step: Step,
        accepted: Option<Option<Arc<Region>>>,
    ) -> Finished {
        let Accepted {
            operation,
            course,
            began,
        } = operation;
        let (kind, done) = (operation.kind(), course.done() as u64);
        let ended = end(operation, course, step).map_opened(|file| self.adopt(file));
        let counters = &self.calls.counters;
        counters.completed(kind, began, done, ended.has_failed());
        Finished {
            accepted: accepted.is_some(),
            ended,
            region: accepted.flatten(),
        }
    }

    /// The same for one that ends with an error of the layer's own, after so many bytes.
    pub(super) fn refuse(
        &self,
        operation: Operation<FileHandle>,
        began: Instant,
        done: usize,
        error: IoError,
        accepted: Option<Option<Arc<Region>>>,
    ) -> Finished {
        let counters = &self.calls.counters;
        counters.completed(operation.kind(), began, done as u64, true);
        Finished {
            accepted: accepted.is_some(),
            ended: operation.refuse(FileHandle::shared_path, |_| error),
            region: accepted.flatten(),
        }
    }

    /// Takes what lies in the completion queues. For whoever drives only (U2, Q2). Returns whether a
    /// kick was among it.
    pub(super) fn reap(&self, finished: &mut Vec<Finished>) -> bool {
        if let Some(polled) = &self.polled {
            polled.look(&self.calls.counters);
            let (count, _) = self.take(&polled.uring, finished);
            polled.end(count);
        }
        let (_, kicked) = self.take(&self.uring, finished);
        kicked
    }

    /// Takes what lies in one of them: how much that was, and whether a kick was among it.
    fn take(&self, uring: &IoUring, finished: &mut Vec<Finished>) -> (usize, bool) {
        let mut kicked = false;
        // SAFETY: U2, Q2: no other `CompletionQueue` exists while this thread drives.
        let mut queue = unsafe { uring.completion_shared() };
        let count = queue.len();
        if count == 0 {
            return (0, false);
        }
        let mut ended = Vec::new();
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
            match tenant
                .operation
                .course
                .returned(i64::from(completion.result()))
            {
                Step::Continue => {
                    self.calls.counters.continued();
                    state.again.push_back(token);
                }
                Step::Retry => {
                    self.calls.counters.retried();
                    state.again.push_back(token);
                }
                Step::Next => state.again.push_back(token),
                step => {
                    let Some(tenant) = state.table.remove(token) else {
                        continue;
                    };
                    ended.push((tenant.operation, step, tenant.region));
                }
            }
        }
        // Publishes the entries as free, before anything takes their place (U3).
        drop(queue);
        drop(state);
        let ended = ended.into_iter();
        finished.extend(
            ended.map(|(operation, step, region)| self.finish(operation, step, Some(region))),
        );
        if kicked {
            // Release: pairs with the swap in `kick`; the next kick finds the queue without this
            // one.
            self.kicked.store(false, Release);
        }
        (count, kicked)
    }

    /// Calls the sinks, all of them, then lets a panic of one go on.
    pub(super) fn deliver(&self, finished: Vec<Finished>) -> usize {
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
    pub(super) fn deliver_inline(self: &Arc<Self>, finished: Vec<Finished>) {
        inline::run(finished.into_iter().map(|finished| {
            let ring = Arc::clone(self);
            Box::new(move || {
                let called = ring.call(finished);
                ring.wake();
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
            ended,
            region,
        } = finished;
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(region)));
        let called = catch_unwind(AssertUnwindSafe(|| ended.tell()));
        let called = match (called.and(dropped), &self.issuer) {
            (Err(panic), Some(issuer)) => {
                issuer.served.keep(panic);
                Ok(())
            }
            (called, _) => called,
        };
        if accepted {
            self.accepted.fetch_sub(1, SeqCst);
        }
        self.in_flight.fetch_sub(1, SeqCst);
        called
    }

    /// Waits in the kernel for a completion, but no longer than `wait`.
    pub(super) fn block(&self, wait: Duration) {
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

/// The end of an operation that took its last step, once what it promises is confirmed. What it has held
/// open for itself is closed.
fn end(operation: Operation<FileHandle>, course: Course, step: Step) -> Ended<FileHandle> {
    match operation {
        Operation::OnFile { file, action, sink } => {
            let context = || file.action_context(&action);
            let result = outcome(context, course.done(), step)
                .and_then(|bytes| file.confirm(&action).map(|()| bytes));
            drop(file);
            Ended::on_file(sink, action.complete(result))
        }
        Operation::Open {
            path,
            options,
            sink,
        } => Ended::open(sink, opened(course, path, &options, step)),
        Operation::SyncDir { dir, sink } => {
            let context = || Context::new(OperationKind::SyncDir, dir);
            Ended::sync_dir(sink, outcome(context, 0, step).map(drop))
        }
    }
}

/// The order in which a round's sinks are called: as the kernel completed.
fn in_delivery_order(mut finished: Vec<Finished>) -> Vec<Finished> {
    if canary!("io-sink-swapped")
        && let [first, second, ..] = &mut *finished
    {
        Ended::swap_sinks(&mut first.ended, &mut second.ended);
    }
    finished
}

impl Driver for Ring {
    fn has_work(&self) -> bool {
        self.accepted.load(SeqCst) > 0
    }

    fn drive(&self, wait: Wait) -> usize {
        let mut finished = Vec::new();
        let mut waited = false;
        let mut began = None;
        loop {
            let kicked = self.reap(&mut finished);
            self.take_aside(kicked, &mut finished);
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
            if self.is_polling() {
                // The next look may find it (Q3).
                waited = began.get_or_insert_with(Instant::now).elapsed() >= wait;
                continue;
            }
            self.block(wait);
            waited = true;
        }
    }

    fn kick(&self) {
        self.send_kick();
    }
}
