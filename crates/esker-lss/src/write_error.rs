//! What can go wrong when records are appended, made durable or trimmed.

use std::sync::Arc;

use esker_buf::AllocError;
use esker_io::IoError;
use esker_ring::{ExtentError, ReserveError};

use crate::error::{ReadError, SpaceError};
use crate::{Lsn, Poison};

/// A record could not be appended. None of it is in the log.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The record is larger than the store accepts.
    #[error("the record has {len_bytes} bytes, and the store's limit is {max_bytes}")]
    TooLarge {
        /// The record's length in bytes.
        len_bytes: u64,
        /// The largest record in bytes.
        max_bytes: u64,
    },
    /// The records of a batch do not fit into a flush buffer together.
    #[error("the batch takes more than {max_bytes} bytes, which is what a flush buffer holds")]
    BatchTooLarge {
        /// What a batch may take at most, in bytes, with each record's header and padding.
        max_bytes: usize,
    },
    /// There is no space for the record. The store is as it was: it can be read, flushed and
    /// trimmed, and appended to again once there is space.
    #[error("no space for the record: trim the log or make room on the file system")]
    NoSpace {
        /// What could not be had.
        source: SpaceError,
    },
    /// A segment could not be made, for another reason than a lack of space.
    #[error("no segment for the record")]
    Segment {
        /// What failed.
        source: SpaceError,
    },
    /// The ring refused the reservation: more threads than it can count are appending at once.
    #[error("the ring has no room for another writer")]
    Ring(#[from] ReserveError),
    /// The ring refused the memory for a record larger than a buffer.
    #[error("the ring has no room for the record")]
    Extent(#[from] ExtentError),
    /// There is no memory for a record larger than a buffer.
    #[error(transparent)]
    Memory(#[from] AllocError),
    /// The store does not accept records any more.
    #[error(transparent)]
    Poisoned(#[from] Poison),
}

impl From<SpaceError> for AppendError {
    fn from(source: SpaceError) -> Self {
        match source {
            SpaceError::NoSpace(_) => Self::NoSpace { source },
            source => Self::Segment { source },
        }
    }
}

/// A record that was to be written in place was not appended. It is not in the log.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendWithError<E> {
    /// There was no room to write it in.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// It could not be written.
    #[error("the record could not be written in place")]
    Fill(#[source] E),
}

/// A wait for durability did not end as it should.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A write or a sync has failed: whether the record is on disk is not known.
    #[error(transparent)]
    Poisoned(#[from] Poison),
    /// The address has not been given out by an append.
    #[error("LSN {lsn} has not been appended; the log ends at {tail}")]
    NotAppended {
        /// The address asked for.
        lsn: Lsn,
        /// The end of what has been appended.
        tail: Lsn,
    },
    /// The store was dropped while a future waited: whether the record is on disk is not known.
    #[error("the store was dropped before it was known whether the record is durable")]
    Closed,
    /// There is no thread to be had that commits for those who do not wait themselves. The record is
    /// as it was: it can be waited for by a thread.
    #[error("no thread to commit for futures")]
    NoThread {
        /// What the system says.
        source: Arc<std::io::Error>,
    },
}

/// Either step of [`Store::append_durable`](crate::Store::append_durable) failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendDurableError {
    /// The record is not in the log.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The record was appended; whether it is on disk is not known.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// The log could not be trimmed. What could not be trimmed is still there.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrimError {
    /// The address is past the durable end.
    #[error("LSN {lsn} is not durable yet: only what lies below {durable} can be trimmed")]
    NotDurable {
        /// The address asked for.
        lsn: Lsn,
        /// The durable end.
        durable: Lsn,
    },
    /// The log below the address could not be read to find a boundary.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The superblock could not be written; the store accepts nothing any more.
    #[error("the superblock could not be written")]
    Superblock(#[source] IoError),
    /// The log begins later now; a segment's file below could not be removed.
    #[error("a trimmed segment could not be removed")]
    Remove(#[source] SpaceError),
    /// The store accepts nothing any more.
    #[error(transparent)]
    Poisoned(#[from] Poison),
}

/// The store was closed, and not cleanly: opening it again recovers it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// Not everything could be made durable.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Everything is durable; the mark that says so could not be written.
    #[error("the mark of a clean close could not be written")]
    Superblock(#[source] IoError),
}

/// The work in the background met an error.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaintainError {
    /// The superblock could not be written; the store accepts nothing any more.
    #[error("the superblock could not be written")]
    Superblock(#[source] IoError),
    /// The next segment could not be made, for another reason than a lack of space.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// The store accepts nothing any more.
    #[error(transparent)]
    Poisoned(#[from] Poison),
}
