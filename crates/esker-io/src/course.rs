//! [`Course`]: how far an operation has come, whichever it is.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use crate::action::Action;
use crate::call::Call;
use crate::error::{Context, IoError};
use crate::file::FileHandle;
use crate::opening::{DirSync, Opening};
use crate::operation::Operation;
use crate::space::Space;
use crate::transfer::{Step, Transfer};

/// The calls of one operation: what the kernel is asked for next, and what follows from its answer.
///
/// All but those of a transfer point into the course, which is why they are boxed.
#[derive(Debug)]
pub(crate) enum Course {
    Transfer(Transfer),
    Space(Box<Space>),
    Opening(Box<Opening>),
    DirSync(Box<DirSync>),
}

impl Course {
    /// Of an operation that has not begun, or why it can't.
    pub(crate) fn begin(operation: &Operation<FileHandle>) -> Result<Self, IoError> {
        match operation {
            Operation::OnFile { file, action, .. } => Self::on_file(file, action),
            Operation::Open { path, options, .. } => {
                Opening::new(path, options).map(|opening| Self::Opening(Box::new(opening)))
            }
            Operation::SyncDir { dir, .. } => DirSync::new(dir)
                .map(|sync| Self::DirSync(Box::new(sync)))
                .map_err(|error| {
                    IoError::from_os(operation.context(FileHandle::shared_path), error)
                }),
        }
    }

    /// Of an action that has not begun, or why the handle or the file can't take it.
    pub(crate) fn on_file(file: &FileHandle, action: &Action) -> Result<Self, IoError> {
        file.check(action)?;
        let space = |space| Ok(Self::Space(Box::new(space)));
        match action {
            Action::Read { .. } | Action::Write { .. } | Action::SyncData | Action::SyncAll => {
                Ok(Self::Transfer(Transfer::new(
                    action.kind(),
                    action.offset(),
                    action.len_bytes(),
                    file.alignment(),
                )))
            }
            Action::Allocate {
                offset,
                len_bytes,
                how,
            } => space(Space::allocate(*offset, *len_bytes, *how)),
            Action::Truncate { len_bytes } => space(Space::set_len(*len_bytes)),
            Action::PunchHole { offset, len_bytes } => space(Space::punch(*offset, *len_bytes)),
        }
    }

    /// Whether there is nothing to ask the kernel for.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Transfer(transfer) => transfer.is_empty(),
            Self::Space(space) => space.is_empty(),
            Self::Opening(_) | Self::DirSync(_) => false,
        }
    }

    /// What is asked for next, of the file with this descriptor if it is about one; `None` if it is a
    /// piece of a transfer.
    pub(crate) fn call(&mut self, fd: RawFd) -> Option<Call> {
        match self {
            Self::Transfer(_) => None,
            Self::Space(space) => Some(space.call(fd)),
            Self::Opening(opening) => Some(opening.call()),
            Self::DirSync(sync) => Some(sync.call()),
        }
    }

    /// Bytes moved so far.
    pub(crate) fn done(&self) -> usize {
        match self {
            Self::Transfer(transfer) => transfer.done(),
            Self::Space(_) | Self::Opening(_) | Self::DirSync(_) => 0,
        }
    }

    /// Whether anything may have come of it.
    pub(crate) fn has_begun(&self) -> bool {
        match self {
            Self::Transfer(transfer) => transfer.done() > 0,
            Self::Space(space) => space.has_begun(),
            Self::Opening(_) => false,
            Self::DirSync(sync) => sync.has_begun(),
        }
    }

    /// Takes what the kernel returned: a count, or an error number below zero.
    pub(crate) fn returned(&mut self, result: i64) -> Step {
        match self {
            Self::Transfer(transfer) => transfer.returned(result),
            Self::Space(space) => space.returned(result),
            Self::Opening(opening) => opening.returned(result),
            Self::DirSync(sync) => sync.returned(result),
        }
    }

    /// Makes one system call after the other until the last one, telling of those that are made again.
    /// Of a transfer there are none.
    pub(crate) fn make_calls(&mut self, fd: RawFd, again: impl Fn()) -> Step {
        loop {
            let Some(call) = self.call(fd) else {
                return Step::Failed(libc::EINVAL);
            };
            // SAFETY: it points into this, which is here until it is answered.
            match self.returned(unsafe { call.make() }) {
                Step::Next | Step::Continue => {}
                Step::Retry => again(),
                step => return step,
            }
        }
    }

    /// The descriptor of a file that was opened.
    pub(crate) fn into_fd(self) -> Option<OwnedFd> {
        match self {
            Self::Opening(opening) => opening.into_fd(),
            _ => None,
        }
    }
}

/// The result of an operation that took its last step, after so many bytes.
pub(crate) fn outcome(
    context: impl FnOnce() -> Context,
    done: usize,
    step: Step,
) -> Result<usize, IoError> {
    let context = || context().after(done as u64);
    match step {
        Step::Done(bytes) => Ok(bytes),
        Step::Failed(errno) => {
            let source = io::Error::from_raw_os_error(errno);
            Err(IoError::from_os(context(), source))
        }
        Step::Continue | Step::Next | Step::Retry => Err(IoError::NoProgress {
            context: context(),
            attempts: 0,
        }),
        Step::Stuck { attempts } => Err(IoError::NoProgress {
            context: context(),
            attempts,
        }),
    }
}
