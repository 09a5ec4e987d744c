//! [`SimFile`]: an open file of a simulation.

use core::fmt;
use std::path::Path;

use esker_buf::Alignment;
use esker_io::{
    Action, Context, Direct, FileOptions, IoError, Misaligned, OperationKind, WriteMemory,
};

use crate::names::NodeId;
use crate::sim::Shared;
use crate::sync::{Arc, Weak};

/// The largest offset that a file can have.
const MAX_OFFSET: u64 = i64::MAX as u64;

/// An open file of a [`Sim`](crate::Sim); clones share one open file description.
#[derive(Clone)]
pub struct SimFile {
    inner: Arc<Description>,
}

/// An open file description. It ends when the last handle does that is not held by an operation in
/// flight either.
pub(crate) struct Description {
    /// The life that it belongs to: it is good for no other.
    pub(crate) life: Weak<Shared>,
    pub(crate) id: u64,
    pub(crate) node: NodeId,
    pub(crate) path: Arc<Path>,
    pub(crate) alignment: Alignment,
    pub(crate) direct: bool,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// What a machine has opened, before it is anybody's.
pub(crate) struct Opened {
    pub(crate) node: NodeId,
    pub(crate) id: u64,
    /// What transfers have to be aligned to.
    pub(crate) alignment: Alignment,
}

impl Opened {
    /// The handle of it, in that life.
    pub(crate) fn into_file(
        self,
        life: Weak<Shared>,
        path: Arc<Path>,
        options: &FileOptions,
    ) -> SimFile {
        SimFile {
            inner: Arc::new(Description {
                life,
                id: self.id,
                node: self.node,
                path,
                alignment: self.alignment,
                direct: options.direct == Direct::Try,
                readable: options.read || !options.write,
                writable: options.write,
            }),
        }
    }
}

impl SimFile {
    pub(crate) fn description(&self) -> &Description {
        &self.inner
    }

    /// The path that the file was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile")
            .field("path", &self.inner.path)
            .field("direct", &self.inner.direct)
            .finish_non_exhaustive()
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        if let Some(life) = self.life.upgrade() {
            life.closed(self.node, self.id);
        }
    }
}

impl Description {
    pub(crate) fn context(&self, operation: OperationKind) -> Context {
        Context::new(operation, Arc::clone(&self.path))
    }

    /// Refuses what the handle or the file can't take.
    pub(crate) fn check(&self, action: &Action) -> Result<(), IoError> {
        let context = || action.context(Arc::clone(&self.path));
        let address = match action {
            Action::Read { .. } if !self.readable => {
                return Err(IoError::NotReadable { context: context() });
            }
            Action::Write { .. }
            | Action::Allocate { .. }
            | Action::Truncate { .. }
            | Action::PunchHole { .. }
                if !self.writable =>
            {
                return Err(IoError::NotWritable { context: context() });
            }
            Action::Read { memory, .. } => memory.bytes().as_ptr().addr(),
            Action::Write { memory, .. } => self.misaligned_piece(memory),
            _ => 0,
        };
        let (offset, len_bytes) = (action.offset(), action.len_bytes() as u64);
        let range_bytes = match action {
            Action::Allocate { len_bytes, .. } | Action::PunchHole { len_bytes, .. } => *len_bytes,
            _ => len_bytes,
        };
        if end_of(offset, range_bytes).is_none() {
            return Err(IoError::OutOfRange { context: context() });
        }
        for (what, value) in [
            (Misaligned::Offset, offset),
            (Misaligned::Length, len_bytes),
            (Misaligned::Memory, address as u64),
        ] {
            if len_bytes > 0 && !self.alignment.divides(value) {
                return Err(IoError::Misaligned {
                    context: context(),
                    what,
                    value,
                    alignment: self.alignment,
                });
            }
        }
        Ok(())
    }

    /// The first address or inner end of what is to be written that is not aligned; 0 if all are.
    fn misaligned_piece(&self, memory: &WriteMemory) -> usize {
        memory
            .pieces()
            .filter(|piece| !piece.is_empty())
            .flat_map(|piece| [piece.as_ptr().addr(), piece.as_ptr().addr() + piece.len()])
            .find(|&address| !self.alignment.divides(address as u64))
            .unwrap_or(0)
    }

    pub(crate) fn check_writable(&self, context: Context) -> Result<Context, IoError> {
        if self.writable {
            Ok(context)
        } else {
            Err(IoError::NotWritable { context })
        }
    }
}

/// The end of a range, if a file can reach so far.
pub(crate) fn end_of(offset: u64, len_bytes: u64) -> Option<u64> {
    offset
        .checked_add(len_bytes)
        .filter(|end| *end <= MAX_OFFSET)
}
