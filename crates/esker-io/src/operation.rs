//! What is asked of a backend and what comes back: [`Operation`], [`Action`], [`Sink`],
//! [`Completion`].

use crate::error::{Context, IoError, OperationKind};
use crate::memory::{Memory, ReadMemory, WriteMemory};

/// What a completed write promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// The bytes were handed over and reads see them; a crash may lose them.
    Written,
    /// The bytes, and what is needed to find them, survive a crash: `RWF_DSYNC`. Says nothing of
    /// other writes.
    Durable,
}

/// One thing to be done to a file, with the memory for it.
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
}

impl Action {
    /// What kind of operation it is.
    #[must_use]
    pub fn kind(&self) -> OperationKind {
        match self {
            Self::Read { .. } => OperationKind::Read,
            Self::Write { .. } => OperationKind::Write,
            Self::SyncData | Self::SyncAll => OperationKind::Sync,
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

    /// Where it begins, in bytes; 0 for a sync.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match self {
            Self::Read { offset, .. } | Self::Write { offset, .. } => *offset,
            Self::SyncData | Self::SyncAll => 0,
        }
    }

    /// How many bytes it asks for; 0 for a sync.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::Read { memory, .. } => memory.len_bytes(),
            Self::Write { memory, .. } => memory.len_bytes(),
            Self::SyncData | Self::SyncAll => 0,
        }
    }

    /// The context of an error of this action on the file at `path`.
    #[must_use]
    pub fn context(&self, path: impl Into<crate::sync::Arc<std::path::Path>>) -> Context {
        Context::new(self.kind(), path).at(self.offset(), self.len_bytes() as u64)
    }

    /// The memory, when the action is over.
    #[must_use]
    pub fn into_memory(self) -> Memory {
        match self {
            Self::Read { memory, .. } => Memory::Read(memory),
            Self::Write { memory, .. } => Memory::Write(memory),
            Self::SyncData | Self::SyncAll => Memory::None,
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
    /// asked for met the end of the file. A sync has none.
    pub result: Result<usize, IoError>,
    /// The operation's memory.
    pub memory: Memory,
}

/// Who is told of a completion.
///
/// Called exactly once, in whichever thread drives the backend at that moment (the submitting one
/// included), with no lock of the backend held. It may submit further operations and wake; it must
/// not block, and above all not wait for another completion. If it panics the other sinks are
/// still called, and the panic goes on in the thread that was driving.
///
/// # Examples
///
/// Every `FnOnce(Completion) + Send` is one:
///
/// ```
/// use esker_io::{Completion, Sink};
///
/// let sink: Box<dyn Sink> = Box::new(|completion: Completion| drop(completion));
/// # drop(sink);
/// ```
pub trait Sink: Send {
    /// Takes the completion.
    fn complete(self: Box<Self>, completion: Completion);
}

impl<F: FnOnce(Completion) + Send> Sink for F {
    fn complete(self: Box<Self>, completion: Completion) {
        self(completion);
    }
}

/// An action on a file, and who is to be told of its end.
pub struct Operation<F> {
    /// The file. Its description stays open until the operation has completed.
    pub file: F,
    /// What to do.
    pub action: Action,
    /// Who is told.
    pub sink: Box<dyn Sink>,
}

impl<F> Operation<F> {
    /// An operation that tells `sink`.
    pub fn new(file: F, action: Action, sink: impl Sink + 'static) -> Self {
        Self {
            file,
            action,
            sink: Box::new(sink),
        }
    }
}

impl<F: core::fmt::Debug> core::fmt::Debug for Operation<F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Operation")
            .field("file", &self.file)
            .field("action", &self.action)
            .finish_non_exhaustive()
    }
}
