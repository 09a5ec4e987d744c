//! A log-structured store: an endless log of records with addresses, durable as a prefix.
//!
//! Many threads [append](Store::append) records into a latch-free ring of flush buffers; full
//! buffers, and those that somebody wants durable, are written as *slots* into segment files,
//! through any [`Backend`](esker_io::Backend). At every moment it is known which prefix of the log
//! is [written](Store::written) and which is [durable](Store::durable). Opening a store again gives
//! back exactly a prefix of what was appended, with everything in it that was acknowledged as
//! durable, and tells a torn tail from damage.
//!
//! ```
//! use esker_lss::{AnyBackend, Options, Store};
//!
//! let dir = tempfile::tempdir()?;
//! let store = Store::open(dir.path(), AnyBackend::auto(), Options::default())?;
//! let lsn = store.append(b"returns at once")?;
//! store.wait_durable(lsn)?;
//! assert_eq!(store.read(lsn)?, b"returns at once");
//! store.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`Reader`] reads beside the writer, in this process or another; [`verify()`] reads and checks
//! everything and changes nothing; [`salvage()`] gives back what is whole of a store that is damaged.
//!
//! # Where it comes from
//!
//! The log-structured storage layer of LLAMA (Levandoski, Lomet, Sengupta: *LLAMA: A Cache/Storage
//! Subsystem for Modern Hardware*, PVLDB 6(10), 2013, section 4): flush buffers, stability as the
//! contiguous prefix of completed flushes, no thread that has to be there. It departs from it in
//! that there is no mapping table above the log; in group commit by whoever waits; in recovery,
//! whose rule (`docs/format.md`) tells damage from a torn tail by the durable prefix that every slot
//! names; and in epochs, which keep out what a crash has left behind.
#![forbid(unsafe_code)]

#[macro_use]
mod canary;

mod append;
mod appender;
mod commit;
mod committer;
mod core;
mod dispatch;
mod durable;
mod error;
mod follow;
mod format;
mod fresh;
mod gather;
mod geometry;
mod info;
mod log;
mod lsn;
mod maintenance;
mod open;
mod options;
mod poison;
mod position;
mod read;
mod read_many;
mod reader;
mod record_scan;
mod recovery;
mod resident;
mod rewrite;
mod salvage;
mod scan;
mod segments;
mod slots;
mod stability;
mod store;
mod stream;
mod superblock;
mod sync;
mod syncing;
mod tasks;
#[cfg(test)]
mod testing;
mod trim;
mod turns;
mod until_durable;
mod verify;
mod write_error;

pub use appender::Appender;
pub use error::{Corruption, Damage, OpenError, ReadError, SpaceError};
pub use follow::Follower;
pub use geometry::{Geometry, GeometryError, Sizes};
pub use info::StoreInfo;
pub use lsn::{Lsn, ParseLsnError};
pub use options::{Maintenance, Options};
pub use poison::Poison;
pub use position::Position;
pub use read_many::ReadMany;
pub use reader::{Reader, ReaderInfo};
pub use record_scan::Record;
pub use recovery::Tail;
pub use salvage::{Lost, SalvageReport, Salvaged, SuperblockState, salvage};
pub use scan::Scan;
pub use store::Store;
pub use until_durable::UntilDurable;
pub use verify::{VerifyProgress, VerifyReport, verify};
pub use write_error::{
    AppendDurableError, AppendError, AppendWithError, CloseError, CommitError, MaintainError,
    TrimError,
};

pub use esker_io::AnyBackend;

/// The examples of the repository's front page.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
