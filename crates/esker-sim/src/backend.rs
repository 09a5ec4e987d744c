//! [`Sim`] as a [`Backend`]: operations, waiting and waking.
//!
//! Invariants:
//! - W1. A waiter reads the epoch before it asks its condition, and parks only if the epoch is still
//!   the same; whoever makes a condition true, or submits, moves the epoch on after that. Both under
//!   the lock, so nobody parks past what it waits for.
//! - W2. Sinks are called, and conditions asked, without the lock.

use core::cell::Cell;
use core::ops::Range;
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::Duration;

use esker_io::{
    Action, Backend, Completion, Description, FileFacts, FileOptions, IoError, Operation,
    OperationKind, Statistics,
};

use crate::file::SimFile;
use crate::machine::Queued;
use crate::options::Completions;
use crate::sim::Sim;
use crate::sync::{Arc, Instant, thread_local};

thread_local! {
    /// Whether this thread is completing operations within `submit`: what their sinks submit is
    /// completed after them, so that the stack does not grow.
    static COMPLETING: Cell<bool> = const { Cell::new(false) };
}

impl Sim {
    /// Completes everything there is, unless this thread is at it already.
    fn complete_all(&self) {
        if COMPLETING.with(|completing| completing.replace(true)) {
            return;
        }
        let mut panic = None;
        loop {
            match catch_unwind(AssertUnwindSafe(|| {
                self.shared.complete_one(Some(&self.shared))
            })) {
                Ok(true) => {}
                Ok(false) => break,
                Err(payload) => {
                    panic.get_or_insert(payload);
                }
            }
        }
        COMPLETING.with(|completing| completing.set(false));
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Completes something, or lets a late write of an earlier process land; whether there was
    /// any.
    fn progress(&self) -> bool {
        if self.shared.complete_one(Some(&self.shared)) {
            return true;
        }
        self.machine(|machine| {
            let has_late = machine.late_writes() > 0;
            if has_late {
                machine.land_late();
            }
            has_late
        })
    }

    /// A wait without time: until the condition holds or nothing can make it hold any more.
    fn wait_alone(&self, ready: &mut dyn FnMut() -> bool, is_timed: bool) -> bool {
        loop {
            if ready() {
                return true;
            }
            if self.progress() {
                continue;
            }
            assert!(is_timed, "nothing is in flight that could end this wait");
            return false;
        }
    }
}

impl Backend for Sim {
    type File = SimFile;

    fn description(&self) -> Description {
        Description {
            kind: "simulated",
            reason: format!("a disk in memory, of seed {}", self.shared.options.seed),
        }
    }

    fn statistics(&self) -> Statistics {
        let state = self.shared.state.lock();
        Statistics {
            in_flight: state.in_flight as u64,
            ..state.machine.statistics
        }
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), IoError> {
        self.machine(|machine| machine.create_dirs(path))
    }

    fn open(&self, path: &Path, options: &FileOptions) -> Result<SimFile, IoError> {
        let opened = self.machine(|machine| machine.open_now(path, options))?;
        Ok(opened.into_file(Arc::downgrade(&self.shared), path.into(), options))
    }

    fn list(&self, dir: &Path) -> Result<Vec<OsString>, IoError> {
        self.machine(|machine| machine.list(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError> {
        self.machine(|machine| machine.rename(from, to))
    }

    fn remove(&self, path: &Path) -> Result<(), IoError> {
        self.machine(|machine| machine.remove(path))
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), IoError> {
        self.machine(|machine| machine.sync_dir_now(dir))
    }

    fn path(&self, file: &SimFile) -> Arc<Path> {
        Arc::clone(&file.description().path)
    }

    fn facts(&self, file: &SimFile) -> Result<FileFacts, IoError> {
        self.check_life(file, OperationKind::Facts)?;
        let description = file.description();
        Ok(FileFacts {
            len_bytes: self.machine(|machine| machine.len(description))?,
            alignment: description.alignment,
            direct: description.direct,
        })
    }

    fn try_lock(&self, file: &SimFile) -> Result<bool, IoError> {
        self.check_life(file, OperationKind::Lock)?;
        self.machine(|machine| machine.try_lock(file.description()))
    }

    fn is_locked(&self, file: &SimFile) -> Result<bool, IoError> {
        self.check_life(file, OperationKind::Lock)?;
        self.machine(|machine| machine.is_locked(file.description()))
    }

    fn first_hole(&self, file: &SimFile, offset: u64) -> Result<Option<Range<u64>>, IoError> {
        self.check_life(file, OperationKind::Facts)?;
        self.machine(|machine| machine.first_hole(file.description(), offset))
    }

    fn submit(&self, batch: Vec<Operation<SimFile>>) {
        if batch.is_empty() {
            return;
        }
        {
            let mut state = self.shared.state.lock();
            let state = &mut *state;
            state.machine.statistics.batches += 1;
            state.in_flight += batch.len();
            let in_flight = state.in_flight as u64;
            let peak = &mut state.machine.statistics.peak_in_flight;
            *peak = in_flight.max(*peak);
            for operation in batch {
                let mut ended = None;
                let before = match &operation {
                    Operation::OnFile { file, action, .. } => {
                        match self.check_life(file, action.kind()) {
                            Ok(()) => state.machine.submitted(file.description(), action),
                            Err(error) => {
                                ended = Some(Err(error));
                                0
                            }
                        }
                    }
                    Operation::Open { .. } | Operation::SyncDir { .. } => {
                        state.machine.submitted_name(operation.kind())
                    }
                };
                let one_in = self.shared.options.slow_one_in;
                let slow = one_in > 0 && state.machine.dice.chance(1, one_in);
                state.machine.queue.push(Queued {
                    operation,
                    before,
                    ended,
                    slow,
                });
            }
            state.epoch += 1;
        }
        self.shared.changed.notify_all();
        if self.shared.options.completions == Completions::Immediate {
            self.complete_all();
        }
    }

    fn execute(&self, file: &SimFile, mut action: Action) -> Completion {
        if let Err(error) = self.check_life(file, action.kind()) {
            return action.complete(Err(error));
        }
        let result = self.machine(|machine| {
            let landed = machine.submitted(file.description(), &action);
            machine.run(file.description(), &mut action, landed)
        });
        action.complete(result)
    }

    fn in_flight(&self) -> usize {
        self.shared.state.lock().in_flight
    }

    fn wait_until(&self, ready: &mut dyn FnMut() -> bool, timeout: Option<Duration>) -> bool {
        if self.shared.options.alone {
            return self.wait_alone(ready, timeout.is_some());
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let seen = self.shared.state.lock().epoch;
            if ready() {
                return true;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return false;
            }
            if self.progress() {
                continue;
            }
            let state = self.shared.state.lock();
            if state.epoch != seen || !state.machine.queue.is_empty() {
                continue;
            }
            self.shared.changed.wait(state, deadline);
        }
    }

    fn wake(&self) {
        self.shared.state.lock().epoch += 1;
        self.shared.changed.notify_all();
    }

    fn poll(&self) -> usize {
        usize::from(self.shared.complete_one(Some(&self.shared)))
    }
}
