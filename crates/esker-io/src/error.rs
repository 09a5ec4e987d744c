//! [`IoError`]: what went wrong, where, after how many bytes, and whether it may have happened
//! all the same.

use core::fmt;
use std::io;
use std::path::Path;

use esker_buf::Alignment;

use crate::sync::Arc;

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationKind {
    /// Creating a directory and its parents.
    CreateDir,
    /// Opening or creating a file.
    Open,
    /// Listing a directory.
    List,
    /// Giving a file another name.
    Rename,
    /// Removing a name.
    Remove,
    /// Making a directory's names durable.
    SyncDir,
    /// Asking a file for its length and alignment.
    Facts,
    /// Taking or querying a lock.
    Lock,
    /// Reserving space.
    Allocate,
    /// Changing a file's length.
    Truncate,
    /// Giving the space of a range back.
    Punch,
    /// Reading.
    Read,
    /// Writing, durable or not.
    Write,
    /// Making what was written durable.
    Sync,
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreateDir => "create directory",
            Self::Open => "open",
            Self::List => "list",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::SyncDir => "sync directory",
            Self::Facts => "query",
            Self::Lock => "lock",
            Self::Allocate => "allocate",
            Self::Truncate => "truncate",
            Self::Punch => "punch a hole in",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
        })
    }
}

/// Where an error happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// What was being done.
    pub operation: OperationKind,
    /// The file or directory, as it was named when it was opened.
    pub path: Arc<Path>,
    /// Where in the file the operation began, in bytes; 0 where that means nothing.
    pub offset: u64,
    /// How many bytes it was asked for; 0 where that means nothing.
    pub len_bytes: u64,
    /// How many bytes it had transferred before the error.
    pub transferred_bytes: u64,
}

impl Context {
    /// An operation on a name or on a file as a whole.
    #[must_use]
    pub fn new(operation: OperationKind, path: impl Into<Arc<Path>>) -> Self {
        Self {
            operation,
            path: path.into(),
            offset: 0,
            len_bytes: 0,
            transferred_bytes: 0,
        }
    }

    /// The same for `len_bytes` at `offset`.
    #[must_use]
    pub fn at(mut self, offset: u64, len_bytes: u64) -> Self {
        self.offset = offset;
        self.len_bytes = len_bytes;
        self
    }

    /// The same after `transferred_bytes` had been transferred.
    #[must_use]
    pub fn after(mut self, transferred_bytes: u64) -> Self {
        self.transferred_bytes = transferred_bytes;
        self
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.operation, self.path.display())?;
        if self.len_bytes > 0 || self.offset > 0 {
            write!(f, ": {} B at offset {}", self.len_bytes, self.offset)?;
        }
        if self.transferred_bytes > 0 {
            write!(f, ", of which {} B were done", self.transferred_bytes)?;
        }
        Ok(())
    }
}

/// Which of a transfer's three numbers is not a multiple of the alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misaligned {
    /// The offset in the file.
    Offset,
    /// The length of the transfer.
    Length,
    /// The address of the memory.
    Memory,
}

impl fmt::Display for Misaligned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offset => "the offset",
            Self::Length => "the length",
            Self::Memory => "the memory's address",
        })
    }
}

/// Whether an operation that failed may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It did not: what it would have changed is as it was before.
    Determinate,
    /// It may have, in whole or in part.
    Indeterminate,
}

/// An operation on a file or on a name failed.
///
/// Cheap to clone, so that one failure can be told to everybody who waits for it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// The file, or a directory on the way to it, does not exist.
    #[error("{context}: not found")]
    NotFound {
        /// Where.
        context: Context,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The name is taken.
    #[error("{context}: already exists")]
    AlreadyExists {
        /// Where.
        context: Context,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The file system is full, or the quota is used up.
    #[error("{context}: no space left")]
    NoSpace {
        /// Where.
        context: Context,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The name leads to something that is not a regular file.
    #[error("{context}: not a regular file")]
    NotAFile {
        /// Where.
        context: Context,
    },
    /// The backend polls for the completions of direct transfers, and the file's device has no queues
    /// for that: neither the disk nor the file system can be made to by a program.
    #[error("{context}: the device has no queues that can be polled (queue/io_poll is not 1)")]
    NotPolled {
        /// Where.
        context: Context,
    },
    /// The handle was not opened for reading.
    #[error("{context}: the handle is not open for reading")]
    NotReadable {
        /// Where.
        context: Context,
    },
    /// The handle was not opened for writing.
    #[error("{context}: the handle is not open for writing")]
    NotWritable {
        /// Where.
        context: Context,
    },
    /// A direct transfer that the file does not accept. Found before any system call.
    #[error("{context}: {what} is {value}, which is not a multiple of {alignment}")]
    Misaligned {
        /// Where.
        context: Context,
        /// Which number it is.
        what: Misaligned,
        /// Its value.
        value: u64,
        /// What the file asks for.
        alignment: Alignment,
    },
    /// The range ends past the largest offset that a file can have (2^63 - 1).
    #[error("{context}: the range ends past the largest possible offset")]
    OutOfRange {
        /// Where.
        context: Context,
    },
    /// The system kept accepting the transfer without moving a byte.
    #[error("{context}: no progress after {attempts} attempts")]
    NoProgress {
        /// Where.
        context: Context,
        /// How often it was tried.
        attempts: u32,
    },
    /// The operation never reached the device, because one before it failed.
    #[error("{context}: not started, because an earlier operation failed")]
    NotStarted {
        /// Where.
        context: Context,
        /// The failure before it.
        #[source]
        earlier: Arc<IoError>,
    },
    /// The operation never reached the device, because the queue could not take it.
    #[error("{context}: could not be submitted")]
    NotSubmitted {
        /// Where.
        context: Context,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The operation never reached the device: its backend belongs to the process that this one was
    /// forked from. Another backend can be made here.
    #[error("{context}: the backend belongs to the process that this one was forked from")]
    Forked {
        /// Where.
        context: Context,
    },
    /// Any other error of the operating system.
    #[error("{context}")]
    Os {
        /// Where.
        context: Context,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl IoError {
    /// Sorts an error of the operating system into the variants.
    ///
    /// For implementers of [`Backend`](crate::Backend).
    #[must_use]
    pub fn from_os(context: Context, source: io::Error) -> Self {
        let errno = source.raw_os_error();
        let source = Arc::new(source);
        match errno {
            Some(libc::ENOENT) => Self::NotFound { context, source },
            Some(libc::EEXIST) => Self::AlreadyExists { context, source },
            Some(libc::ENOSPC | libc::EDQUOT) => Self::NoSpace { context, source },
            _ => Self::Os { context, source },
        }
    }

    /// Where it happened.
    #[must_use]
    pub fn context(&self) -> &Context {
        match self {
            Self::NotFound { context, .. }
            | Self::AlreadyExists { context, .. }
            | Self::NoSpace { context, .. }
            | Self::NotAFile { context }
            | Self::NotPolled { context }
            | Self::NotReadable { context }
            | Self::NotWritable { context }
            | Self::Misaligned { context, .. }
            | Self::OutOfRange { context }
            | Self::NoProgress { context, .. }
            | Self::NotStarted { context, .. }
            | Self::NotSubmitted { context, .. }
            | Self::Forked { context }
            | Self::Os { context, .. } => context,
        }
    }

    /// Whether the operation may have taken effect all the same.
    ///
    /// Reads and queries change nothing, so theirs is always determinate. A write is determinate
    /// when it was refused before it started; one that failed later may have put any part of its
    /// bytes on the device, whatever it reports as transferred. A sync that failed is
    /// indeterminate, and stays so: a later one that succeeds says nothing of the data before. What
    /// makes or changes a name, a length or a hole is indeterminate where the file system may have
    /// begun it (EIO, a full disk); opening is among them, since it may create. An allocation that found
    /// the disk full has given back what it took, so that is determinate; one that failed with EIO is not.
    #[must_use]
    pub fn fate(&self) -> Fate {
        let refused = match self {
            Self::NotFound { .. }
            | Self::AlreadyExists { .. }
            | Self::NotAFile { .. }
            | Self::NotPolled { .. }
            | Self::NotReadable { .. }
            | Self::NotWritable { .. }
            | Self::Misaligned { .. }
            | Self::OutOfRange { .. }
            | Self::NotStarted { .. }
            | Self::NotSubmitted { .. }
            | Self::Forked { .. } => true,
            Self::NoProgress { .. } => false,
            Self::NoSpace { context, source } | Self::Os { context, source } => {
                match context.operation {
                    OperationKind::List
                    | OperationKind::Facts
                    | OperationKind::Lock
                    | OperationKind::Read => true,
                    OperationKind::Allocate => {
                        !matches!(source.raw_os_error(), None | Some(libc::EIO | libc::EINTR))
                    }
                    OperationKind::Write => {
                        // What the kernel refuses before it looks at the data. ENOSPC is not
                        // among them: a direct write can meet it after parts have been sent.
                        context.transferred_bytes == 0
                            && matches!(
                                source.raw_os_error(),
                                Some(
                                    libc::EBADF
                                        | libc::EFBIG
                                        | libc::EPERM
                                        | libc::EROFS
                                        | libc::EOPNOTSUPP
                                )
                            )
                    }
                    OperationKind::Sync | OperationKind::SyncDir => {
                        matches!(source.raw_os_error(), Some(libc::EBADF))
                    }
                    OperationKind::CreateDir
                    | OperationKind::Open
                    | OperationKind::Rename
                    | OperationKind::Remove
                    | OperationKind::Punch
                    | OperationKind::Truncate => !matches!(
                        source.raw_os_error(),
                        None | Some(libc::EIO | libc::EINTR | libc::ENOSPC | libc::EDQUOT)
                    ),
                }
            }
        };
        if refused {
            Fate::Determinate
        } else {
            Fate::Indeterminate
        }
    }

    /// Whether the file system is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }

    /// Whether the file or directory does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// The system's error number, where the system was asked.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::NotFound { source, .. }
            | Self::AlreadyExists { source, .. }
            | Self::NoSpace { source, .. }
            | Self::NotSubmitted { source, .. }
            | Self::Os { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(operation: OperationKind, transferred_bytes: u64, errno: i32) -> IoError {
        let context = Context::new(operation, Path::new("log"))
            .at(4096, 8192)
            .after(transferred_bytes);
        IoError::from_os(context, io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn what_was_refused_at_the_door_is_determinate_and_what_may_have_begun_is_not() {
        use OperationKind::{
            Allocate, CreateDir, Facts, List, Lock, Open, Punch, Read, Remove, Rename, Sync,
            SyncDir, Truncate, Write,
        };
        for operation in [CreateDir, Open, Rename, Remove, Punch, Truncate] {
            let refused = error(operation, 0, libc::EACCES);
            assert_eq!(refused.fate(), Fate::Determinate, "{refused}");
            for errno in [libc::EIO, libc::ENOSPC] {
                let begun = error(operation, 0, errno);
                assert_eq!(begun.fate(), Fate::Indeterminate, "{begun}");
            }
        }
        for operation in [Facts, List, Lock] {
            let asked = error(operation, 0, libc::EIO);
            assert_eq!(asked.fate(), Fate::Determinate, "{asked}");
        }
        for (operation, transferred, errno, fate) in [
            (Write, 0, libc::EFBIG, Fate::Determinate),
            (Write, 512, libc::EFBIG, Fate::Indeterminate),
            (Write, 0, libc::EIO, Fate::Indeterminate),
            (Write, 0, libc::ENOSPC, Fate::Indeterminate),
            (Allocate, 0, libc::ENOSPC, Fate::Determinate),
            (Allocate, 0, libc::EIO, Fate::Indeterminate),
            (Read, 512, libc::EIO, Fate::Determinate),
            (Sync, 0, libc::EIO, Fate::Indeterminate),
            (SyncDir, 0, libc::EIO, Fate::Indeterminate),
            (Sync, 0, libc::EBADF, Fate::Determinate),
        ] {
            let error = error(operation, transferred, errno);
            assert_eq!(error.fate(), fate, "{error}");
        }
    }

    #[test]
    fn what_never_reached_the_device_is_determinate_and_what_may_have_is_not() {
        for operation in [OperationKind::Write, OperationKind::Sync] {
            let context = || Context::new(operation, Path::new("log"));
            let source = || Arc::new(io::Error::from_raw_os_error(libc::EIO));
            let earlier = Arc::new(error(OperationKind::Write, 0, libc::EIO));
            let refused = [
                IoError::NotFound {
                    context: context(),
                    source: source(),
                },
                IoError::AlreadyExists {
                    context: context(),
                    source: source(),
                },
                IoError::NotAFile { context: context() },
                IoError::NotPolled { context: context() },
                IoError::NotReadable { context: context() },
                IoError::NotWritable { context: context() },
                IoError::Misaligned {
                    context: context(),
                    what: Misaligned::Offset,
                    value: 1,
                    alignment: Alignment::BLOCK,
                },
                IoError::OutOfRange { context: context() },
                IoError::NotStarted {
                    context: context(),
                    earlier,
                },
                IoError::NotSubmitted {
                    context: context(),
                    source: source(),
                },
                IoError::Forked { context: context() },
            ];
            for error in refused {
                assert_eq!(error.fate(), Fate::Determinate, "{error}");
            }
            let begun = [
                IoError::NoSpace {
                    context: context(),
                    source: source(),
                },
                IoError::NoProgress {
                    context: context(),
                    attempts: 3,
                },
                IoError::Os {
                    context: context(),
                    source: source(),
                },
            ];
            for error in begun {
                assert_eq!(error.fate(), Fate::Indeterminate, "{error}");
            }
        }
    }

    #[test]
    fn an_error_names_file_offset_and_bytes_done() {
        let error = error(OperationKind::Write, 512, libc::EIO);
        assert_eq!(
            error.to_string(),
            "write log: 8192 B at offset 4096, of which 512 B were done"
        );
        assert!(std::error::Error::source(&error).is_some());
    }
}
