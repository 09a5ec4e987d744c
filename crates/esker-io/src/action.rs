//! [`Action`]: what is done to an open file, and [`Completion`]: how that ended.

use std::path::Path;

use crate::backend::Allocation;
use crate::error::{Context, IoError, OperationKind};
use crate::memory::{Memory, ReadMemory, WriteMemory};
use crate::sync::Arc;

/// What a completed write promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// The bytes were handed over and reads see them; a crash may lose them.
    Written,
    /// The bytes, and what is needed to find them, survive a crash: `RWF_DSYNC`. Says nothing of
    /// other writes.
    Durable,
}

/// One thing to be done to a file, with the memory for it if it moves bytes.
///
/// # Examples
///
/// What changes a file's space or length is submitted like what moves bytes:
///
/// ```
/// use esker_io::{Action, Allocation, AnyBackend, Backend, Completion, Create, FileOptions, Operation};
///
/// # let dir = tempfile::tempdir()?;
/// let backend = AnyBackend::auto();
/// let options = FileOptions::read_write().create(Create::New);
/// let file = backend.open(&dir.path().join("log"), &options)?;
/// let action = Action::Allocate { offset: 0, len_bytes: 65_536, how: Allocation::Quick };
/// let sink = |done: Completion| drop(done.result.expect("there is space"));
/// backend.submit(vec![Operation::new(file.clone(), action, sink)]);
/// backend.wait_until(&mut || backend.in_flight() == 0, None);
/// assert_eq!(backend.facts(&file)?.len_bytes, 65_536);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub enum Action {
    /// Fill the memory from the file. Bytes past the end of the file are left as they are.
    Read {
        /// Where to begin, in bytes.
        offset: u64,
        /// Where the bytes go.
        memory: ReadMemory,
    },
    /// Put the memory into the file.
    Write {
        /// Where to begin, in bytes.
        offset: u64,
        /// Where the bytes come from.
        memory: WriteMemory,
        /// What completion promises.
        durability: Durability,
    },
    /// Make every write to this file that had completed when this was submitted durable, with
    /// what is needed to find it, the file's length included: `fdatasync`.
    SyncData,
    /// The same with all that the file system knows of the file, times and the like: `fsync`.
    SyncAll,
    /// Take real space for a range and extend the file to its end, if that lies further.
    ///
    /// Whatever the range held before may be replaced by zeroes: it is meant for new space, and no
    /// other operation may extend the file meanwhile. The new length is durable only after a sync.
    /// When the disk is full the file has its former length afterwards, and what was taken past it has
    /// been given back.
    Allocate {
        /// Where the range begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        len_bytes: u64,
        /// How the space is to be taken.
        how: Allocation,
    },
    /// Cut or extend the file to a length; an extension reads as zeroes and takes no space. Durable only
    /// after a sync.
    Truncate {
        /// The new length, in bytes.
        len_bytes: u64,
    },
    /// Make a range read as zeroes and give its space back where that can be; the file keeps its length.
    /// Durable only after a sync.
    PunchHole {
        /// Where the range begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        len_bytes: u64,
    },
}

impl Action {
    /// What kind of operation it is.
    #[must_use]
    pub fn kind(&self) -> OperationKind {
        match self {
            Self::Read { .. } => OperationKind::Read,
            Self::Write { .. } => OperationKind::Write,
            Self::SyncData | Self::SyncAll => OperationKind::Sync,
            Self::Allocate { .. } => OperationKind::Allocate,
            Self::Truncate { .. } => OperationKind::Truncate,
            Self::PunchHole { .. } => OperationKind::Punch,
        }
    }

    /// Whether it is a write that is to be durable when it completes.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        matches!(
            self,
            Self::Write {
                durability: Durability::Durable,
                ..
            }
        )
    }

    /// Where it begins, in bytes: where the file is to end for one that is cut or extended, 0 for a sync.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match self {
            Self::Read { offset, .. }
            | Self::Write { offset, .. }
            | Self::Allocate { offset, .. }
            | Self::PunchHole { offset, .. } => *offset,
            Self::Truncate { len_bytes } => *len_bytes,
            Self::SyncData | Self::SyncAll => 0,
        }
    }

    /// How many bytes of its memory it moves; 0 for one without memory.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::Read { memory, .. } => memory.len_bytes(),
            Self::Write { memory, .. } => memory.len_bytes(),
            _ => 0,
        }
    }

    /// How long the range of the file is that it is about, in bytes.
    pub(crate) fn range_bytes(&self) -> u64 {
        match self {
            Self::Allocate { len_bytes, .. } | Self::PunchHole { len_bytes, .. } => *len_bytes,
            _ => self.len_bytes() as u64,
        }
    }

    /// The context of an error of this action on the file at `path`.
    #[must_use]
    pub fn context(&self, path: impl Into<Arc<Path>>) -> Context {
        Context::new(self.kind(), path).at(self.offset(), self.range_bytes())
    }

    /// The memory, when the action is over.
    #[must_use]
    pub fn into_memory(self) -> Memory {
        match self {
            Self::Read { memory, .. } => Memory::Read(memory),
            Self::Write { memory, .. } => Memory::Write(memory),
            _ => Memory::None,
        }
    }

    /// The action as it ended.
    #[must_use]
    pub fn complete(self, result: Result<usize, IoError>) -> Completion {
        Completion {
            result,
            memory: self.into_memory(),
        }
    }
}

/// How an operation ended, with its memory.
#[derive(Debug)]
pub struct Completion {
    /// The bytes transferred.
    ///
    /// A write is `Ok` only when all its bytes were written. A read that has fewer than it was
    /// asked for met the end of the file. For an allocation or a hole they are those of the range that
    /// were written zeroes, by whatever means; [`Allocated::of`](crate::Allocated::of) and
    /// [`Punched::of`](crate::Punched::of) give that its name. Others have none.
    pub result: Result<usize, IoError>,
    /// The operation's memory.
    pub memory: Memory,
}
