//! [`Calls`]: operations by positioned system calls, in the calling thread.

use std::path::Path;
use std::time::Instant;

use crate::action::{Action, Completion, Durability};
use crate::backend::FileOptions;
use crate::call::{NONE, returned};
use crate::course::{Course, outcome};
use crate::error::{Context, IoError, OperationKind};
use crate::file::FileHandle;
use crate::opening::{DirSync, Opening};
use crate::operation::{Ended, Operation};
use crate::statistics::Counters;
use crate::sync::{Arc, AtomicBool, Relaxed};
use crate::transfer::{Step, Transfer};

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
        let mut done = 0;
        let result = Course::on_file(file, &action).and_then(|mut course| {
            let result = self.take(file, &action, &mut course);
            done = course.done() as u64;
            result.and_then(|bytes| file.confirm(&action).map(|()| bytes))
        });
        let counters = &self.counters;
        counters.completed(action.kind(), began, done, result.is_err());
        action.complete(result)
    }

    /// Opens or creates a file, now.
    pub(crate) fn open(&self, path: &Path, options: &FileOptions) -> Result<FileHandle, IoError> {
        self.counted(OperationKind::Open, || {
            let mut course = Course::Opening(Box::new(Opening::new(path, options)?));
            let step = course.make_calls(NONE, || self.counters.retried());
            opened(course, path.into(), options, step)
        })
    }

    /// Makes the names in a directory durable, now.
    pub(crate) fn sync_dir(&self, dir: &Path) -> Result<(), IoError> {
        self.counted(OperationKind::SyncDir, || {
            let context = Context::new(OperationKind::SyncDir, dir);
            let sync =
                DirSync::new(dir).map_err(|error| IoError::from_os(context.clone(), error))?;
            let mut course = Course::DirSync(Box::new(sync));
            let step = course.make_calls(NONE, || self.counters.retried());
            outcome(|| context, 0, step).map(drop)
        })
    }

    fn counted<T>(
        &self,
        kind: OperationKind,
        operation: impl FnOnce() -> Result<T, IoError>,
    ) -> Result<T, IoError> {
        let began = Instant::now();
        self.counters.submitted(kind, false);
        let result = operation();
        self.counters.completed(kind, began, 0, result.is_err());
        result
    }

    /// Does an operation, all of it, now, and lets go of its file; its sink is still to be told.
    pub(crate) fn end(&self, operation: Operation<FileHandle>) -> Ended<FileHandle> {
        match operation {
            Operation::OnFile { file, action, sink } => {
                let completion = self.run(&file, action);
                drop(file);
                Ended::on_file(sink, completion)
            }
            Operation::Open {
                path,
                options,
                sink,
            } => Ended::open(sink, self.open(&path, &options)),
            Operation::SyncDir { dir, sink } => Ended::sync_dir(sink, self.sync_dir(&dir)),
        }
    }

    /// Takes an operation to its end.
    fn take(
        &self,
        file: &FileHandle,
        action: &Action,
        course: &mut Course,
    ) -> Result<usize, IoError> {
        if course.is_empty() {
            return Ok(0);
        }
        let step = match course {
            Course::Transfer(transfer) => self.transfer(file, action, transfer),
            _ => course.make_calls(file.fd(), || self.counters.retried()),
        };
        outcome(|| file.action_context(action), course.done(), step)
    }

    fn transfer(&self, file: &FileHandle, action: &Action, transfer: &mut Transfer) -> Step {
        loop {
            match transfer.returned(self.call(file, action, transfer)) {
                Step::Continue => self.counters.continued(),
                Step::Retry => self.counters.retried(),
                step => return step,
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
            // Their course is none of transfers.
            Action::Allocate { .. } | Action::Truncate { .. } | Action::PunchHole { .. } => {
                -i64::from(libc::EINVAL)
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

/// The file that was opened, once its opening took its last step.
pub(crate) fn opened(
    course: Course,
    path: Arc<Path>,
    options: &FileOptions,
    step: Step,
) -> Result<FileHandle, IoError> {
    let context = Context::new(OperationKind::Open, Arc::clone(&path));
    outcome(|| context.clone(), 0, step)?;
    match course.into_fd() {
        Some(fd) => FileHandle::opened(fd, path, options),
        // Only one that has not ended has none.
        None => Err(IoError::NoProgress {
            context,
            attempts: 0,
        }),
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
