//! A backend that passes everything on to the blocking one, except what a test tells it to spoil.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use esker_io::{
    Action, Backend, Blocking, Completion, Context, Description, Durability, FileFacts, FileHandle,
    FileOptions, IoError, Operation, OperationKind, Statistics,
};

/// Something to do at a certain moment.
type Hook = Box<dyn FnOnce() + Send>;

/// Counts what passes, and spoils what it is told to.
#[derive(Default)]
pub(crate) struct Faulty {
    inner: Blocking,
    /// Writes and syncs of data that are still let through; then each fails with EIO.
    pub(crate) writes_left: Countdown,
    pub(crate) syncs_left: Countdown,
    /// Reads that are still let through; then each fails with EIO.
    pub(crate) reads_left: Countdown,
    /// Run before a read, when so many others have been let through.
    pub(crate) before_read: Mutex<Option<(u64, Hook)>>,
    /// Run in the next sync of a directory, which then fails with EIO.
    pub(crate) during_dir_sync: Mutex<Option<Hook>>,
    /// Run when it has been found, and before it is told, where the next hole is.
    pub(crate) during_first_hole: Mutex<Option<Hook>>,
    /// Allocations fail with ENOSPC.
    pub(crate) full: AtomicBool,
    /// Durable writes and syncs that have succeeded.
    pub(crate) flushes: AtomicU64,
    /// Writes of any kind that have succeeded.
    pub(crate) writes: AtomicU64,
    /// Reads that were let through.
    pub(crate) reads: AtomicU64,
    /// The most operations that were submitted together.
    pub(crate) largest_batch: AtomicU64,
}

/// Lets a number through; unlimited until it is set.
pub(crate) struct Countdown(AtomicU64);

impl Default for Countdown {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Countdown {
    pub(crate) fn set(&self, left: u64) {
        self.0.store(left, Ordering::SeqCst);
    }

    fn take(&self) -> bool {
        self.0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
                u64::MAX => Some(u64::MAX),
                0 => None,
                left => Some(left - 1),
            })
            .is_ok()
    }
}

impl Faulty {
    /// What the action comes to, if it is to be spoiled; else the action itself.
    fn spoil(&self, file: &FileHandle, action: Action) -> Result<Action, Completion> {
        if matches!(action, Action::Read { .. }) {
            self.run_before_read();
        }
        let (passes, errno) = match &action {
            Action::Write { .. } => (self.writes_left.take(), libc::EIO),
            Action::SyncData | Action::SyncAll => (self.syncs_left.take(), libc::EIO),
            Action::Read { .. } => (self.reads_left.take(), libc::EIO),
            Action::Allocate { .. } => (!self.full.load(Ordering::SeqCst), libc::ENOSPC),
            Action::Truncate { .. } | Action::PunchHole { .. } => (true, 0),
        };
        if passes {
            return Ok(action);
        }
        let context = action.context(file.path());
        let error = IoError::from_os(context, std::io::Error::from_raw_os_error(errno));
        Err(action.complete(Err(error)))
    }

    fn run_before_read(&self) {
        let mut place = self.before_read.lock().expect("not poisoned");
        match place.take() {
            Some((0, run)) => run(),
            Some((others, run)) => *place = Some((others - 1, run)),
            None => {}
        }
    }

    fn count(&self, action: &Action) {
        match action {
            Action::Write { durability, .. } => {
                self.writes.fetch_add(1, Ordering::SeqCst);
                if *durability == Durability::Durable {
                    self.flushes.fetch_add(1, Ordering::SeqCst);
                }
            }
            Action::SyncData | Action::SyncAll => {
                self.flushes.fetch_add(1, Ordering::SeqCst);
            }
            Action::Read { .. } => {
                self.reads.fetch_add(1, Ordering::SeqCst);
            }
            Action::Allocate { .. } | Action::Truncate { .. } | Action::PunchHole { .. } => {}
        }
    }
}

impl Backend for Faulty {
    type File = FileHandle;

    fn description(&self) -> Description {
        Description {
            kind: "faulty",
            reason: "for tests".to_owned(),
        }
    }

    fn path(&self, file: &FileHandle) -> Arc<Path> {
        self.inner.path(file)
    }

    fn statistics(&self) -> Statistics {
        self.inner.statistics()
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), IoError> {
        self.inner.create_dir_all(path)
    }

    fn open(&self, path: &Path, options: &FileOptions) -> Result<FileHandle, IoError> {
        self.inner.open(path, options)
    }

    fn list(&self, dir: &Path) -> Result<Vec<OsString>, IoError> {
        self.inner.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), IoError> {
        self.inner.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), IoError> {
        let during = self.during_dir_sync.lock().expect("not poisoned").take();
        let Some(during) = during else {
            return self.inner.sync_dir(dir);
        };
        during();
        let context = Context::new(OperationKind::SyncDir, dir);
        let source = std::io::Error::from_raw_os_error(libc::EIO);
        Err(IoError::from_os(context, source))
    }

    fn facts(&self, file: &FileHandle) -> Result<FileFacts, IoError> {
        self.inner.facts(file)
    }

    fn try_lock(&self, file: &FileHandle) -> Result<bool, IoError> {
        self.inner.try_lock(file)
    }

    fn is_locked(&self, file: &FileHandle) -> Result<bool, IoError> {
        self.inner.is_locked(file)
    }

    fn first_hole(&self, file: &FileHandle, offset: u64) -> Result<Option<Range<u64>>, IoError> {
        let hole = self.inner.first_hole(file, offset);
        let during = self.during_first_hole.lock().expect("not poisoned").take();
        during.into_iter().for_each(|during| during());
        hole
    }

    fn submit(&self, batch: Vec<Operation<FileHandle>>) {
        self.largest_batch
            .fetch_max(batch.len() as u64, Ordering::SeqCst);
        for operation in batch {
            let Operation::OnFile { file, action, sink } = operation else {
                self.inner.submit(vec![operation]);
                continue;
            };
            match self.spoil(&file, action) {
                Ok(action) => {
                    self.count(&action);
                    self.inner
                        .submit(vec![Operation::OnFile { file, action, sink }]);
                }
                Err(completion) => {
                    sink.complete(completion);
                    self.inner.wake();
                }
            }
        }
    }

    fn execute(&self, file: &FileHandle, action: Action) -> Completion {
        match self.spoil(file, action) {
            Ok(action) => {
                self.count(&action);
                self.inner.execute(file, action)
            }
            Err(completion) => completion,
        }
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn wait_until(&self, ready: &mut dyn FnMut() -> bool, timeout: Option<Duration>) -> bool {
        self.inner.wait_until(ready, timeout)
    }

    fn wake(&self) {
        self.inner.wake();
    }

    fn poll(&self) -> usize {
        self.inner.poll()
    }
}
