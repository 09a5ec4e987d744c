//! What can go wrong when a store is opened, read or extended.

use std::fmt;
use std::path::PathBuf;

use esker_buf::{Alignment, AllocError};
use esker_io::IoError;
use esker_ring::RingConfigError;

use crate::geometry::GeometryError;
use crate::{Lsn, Poison};

/// What is wrong with data that was durable once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Damage {
    /// The segment file is missing, or ends before this address.
    Missing,
    /// No slot that continues the log begins here.
    NoSlot,
    /// The slot's header is there; the checksum over the slot does not match.
    SlotChecksum,
    /// The record's checksum does not match.
    RecordChecksum,
    /// The slot's checksum matches, and its records do not fill it one after the other.
    Layout,
    /// A slot of an epoch that the superblock does not know of yet: the superblock is older than
    /// the log.
    LaterEpoch,
    /// The device cannot read it.
    Unreadable,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "the segment file is missing or too short",
            Self::NoSlot => "no slot that continues the log is there",
            Self::SlotChecksum => "the slot's checksum does not match",
            Self::RecordChecksum => "the record's checksum does not match",
            Self::Layout => "the slot's records do not fill it",
            Self::Unreadable => "the device cannot read it",
            Self::LaterEpoch => "the slot is of an epoch that the superblock does not know of",
        })
    }
}

/// Where acknowledged data is damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the log is damaged at LSN {lsn}, {} at offset {offset}: {damage}",
    file.display()
)]
pub struct Corruption {
    /// The first address that is known to be damaged: that of a record where one can be named, else
    /// that of its slot.
    pub lsn: Lsn,
    /// The slot that the damage is in, where it is known.
    pub slot: Option<Lsn>,
    /// The segment file.
    pub file: PathBuf,
    /// Where in the file `lsn` is, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub damage: Damage,
}

/// A store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory does not exist, or has no store in it.
    #[error("there is no store in {}", dir.display())]
    NoStore {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory has segment files and no superblock.
    #[error("{} has segments of a log, and no superblock", dir.display())]
    SuperblockMissing {
        /// The directory.
        dir: PathBuf,
    },
    /// The superblock has another format version.
    #[error("{} is of format version {found}, and this is version {supported}", path.display())]
    UnknownVersion {
        /// The superblock's file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that can be read.
        supported: u32,
    },
    /// The file in the superblock's place is no superblock.
    #[error("{} is not the superblock of a store", path.display())]
    NotASuperblock {
        /// The file.
        path: PathBuf,
    },
    /// The superblock is empty, or all zeroes.
    #[error("{} is empty", path.display())]
    SuperblockEmpty {
        /// The superblock's file.
        path: PathBuf,
    },
    /// The superblock ends before its first copy does.
    #[error("{} was cut off after {len_bytes} bytes", path.display())]
    SuperblockTruncated {
        /// The superblock's file.
        path: PathBuf,
        /// Its length in bytes.
        len_bytes: u64,
    },
    /// Both copies of the superblock are damaged.
    #[error("both copies of the superblock in {} are damaged", path.display())]
    SuperblockDamaged {
        /// The superblock's file.
        path: PathBuf,
    },
    /// Sizes that a store cannot have.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// Another process has the store open for writing, or has just died and its last writes have
    /// not ended yet.
    #[error("{} is in use by another writer", path.display())]
    Locked {
        /// The file whose lock it holds.
        path: PathBuf,
    },
    /// The store's block is smaller than what direct I/O asks for on this file system.
    #[error("{} needs transfers of multiples of {needed}, and the store's block is {block}", path.display())]
    Alignment {
        /// The file.
        path: PathBuf,
        /// What the file system asks for.
        needed: Alignment,
        /// The store's block.
        block: Alignment,
    },
    /// Acknowledged data is damaged.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// The log has reached the largest address there is.
    #[error("the log cannot be longer than {limit} bytes", limit = Lsn::LIMIT)]
    LogFull,
    /// A read, a write or a name failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The ring cannot be made with these sizes.
    #[error("the flush buffers cannot be made")]
    Ring(#[from] RingConfigError),
    /// The options do not fit the store.
    #[error("{what} is {found}, and the store allows at most {max}")]
    Options {
        /// Which option.
        what: &'static str,
        /// Its value.
        found: u64,
        /// The largest value that fits.
        max: u64,
    },
    /// The store has been opened as often as its epochs can count.
    #[error("the store has been opened 2^32 - 1 times, which is as often as it can be")]
    EpochsExhausted,
    /// The system has no thread for the maintenance.
    #[error("the maintenance thread could not be started")]
    Thread(#[source] std::io::Error),
    /// There is no memory for the buffers.
    #[error(transparent)]
    Memory(#[from] AllocError),
}

/// A record could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The address has been trimmed.
    #[error("LSN {lsn} has been trimmed; the log begins at {first}")]
    Trimmed {
        /// The address asked for.
        lsn: Lsn,
        /// The first that is still there.
        first: Lsn,
    },
    /// The address is not written yet, or never will be.
    #[error("LSN {lsn} is past the end of the log at {end}")]
    BeyondEnd {
        /// The address asked for.
        lsn: Lsn,
        /// The end of what can be read.
        end: Lsn,
    },
    /// No record begins at the address.
    #[error("no record begins at LSN {lsn}")]
    NotARecord {
        /// The address asked for.
        lsn: Lsn,
    },
    /// The record was appended and never became durable, and a write or sync has failed.
    #[error("the record at LSN {lsn} is not on disk for certain")]
    Lost {
        /// The address asked for.
        lsn: Lsn,
        /// The failure.
        source: Poison,
    },
    /// The record, or the slot around it, is damaged.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// The device failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// There is no memory for a buffer.
    #[error(transparent)]
    Memory(#[from] AllocError),
}

/// Space for the log could not be had, or given back.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// The file system is full. Nothing is lost: what was being created is removed again.
    #[error("no space for another segment: {0}")]
    NoSpace(#[source] IoError),
    /// Another process's writes hold the segment file.
    #[error("{} is in use by another writer", path.display())]
    Locked {
        /// The segment file.
        path: PathBuf,
    },
    /// The store's block is smaller than what direct I/O asks for on this file system.
    #[error("{} needs transfers of multiples of {needed}, and the store's block is {block}", path.display())]
    Alignment {
        /// The segment file.
        path: PathBuf,
        /// What the file system asks for.
        needed: Alignment,
        /// The store's block.
        block: Alignment,
    },
    /// The log has reached the largest address there is.
    #[error("the log cannot be longer than {limit} bytes", limit = Lsn::LIMIT)]
    LogFull,
    /// A file or a name failed.
    #[error(transparent)]
    Io(IoError),
    /// There is no memory for a buffer.
    #[error(transparent)]
    Memory(#[from] AllocError),
}

impl SpaceError {
    /// Whether the file system is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace(_))
    }
}

impl From<IoError> for SpaceError {
    fn from(error: IoError) -> Self {
        if error.is_no_space() {
            Self::NoSpace(error)
        } else {
            Self::Io(error)
        }
    }
}

impl From<SpaceError> for OpenError {
    fn from(error: SpaceError) -> Self {
        match error {
            SpaceError::Locked { path } => Self::Locked { path },
            SpaceError::Alignment {
                path,
                needed,
                block,
            } => Self::Alignment {
                path,
                needed,
                block,
            },
            SpaceError::NoSpace(error) | SpaceError::Io(error) => Self::Io(error),
            SpaceError::Memory(error) => Self::Memory(error),
            SpaceError::LogFull => Self::LogFull,
        }
    }
}
