//! Storage I/O by ownership: an operation takes its buffer by value, holds its file open, and gives
//! the buffer back with its completion.
//!
//! [`Backend`] is the one trait between whoever has bytes and whatever stores them. [`Uring`] sends
//! operations through io_uring, [`Blocking`] makes positioned system calls, and [`AnyBackend`] picks
//! what this system lets. A [`Lane`] orders the writes of one log. The module `conformance` (behind
//! the feature of that name) is the suite that any backend has to pass.
//!
//! What holds, whichever backend it is:
//! - Memory that the kernel may touch is owned by the operation. No dropped handle, early return or
//!   dropped backend frees it: dropping a backend waits.
//! - Each [`Sink`] is called exactly once, with its own operation's completion, and with no lock held.
//! - A short write is continued or is an error, never a success; the end of a file is told apart
//!   from a short read. Only EINTR, EAGAIN and cancellations are retried, and not for ever.
//! - A completed write is not a durable one unless it was asked to be ([`Durability`]); a failed sync
//!   is never retried into a success. An error tells whether it may have happened ([`Fate`]).
//! - A ring has no thread unless one is asked for ([`DriverThread`], [`UringConfig::single_issuer`]) or
//!   the kernel lacks an opcode: then what it does not take runs on a bounded pool. Whoever waits
//!   ([`Backend::wait_until`], [`Backend::wait_for`]) drives completions for all, one at a time; the
//!   others sleep. Without io_uring, where only threads make operations overlap, a bounded pool is
//!   started with the first submission. A [`Pending`] is also a future, for any executor.
//! - A backend serves the process that made it. In a child of a fork it refuses what is submitted
//!   ([`IoError::Forked`]), completes nothing, and is dropped without waiting: what was in flight is
//!   the parent's. Files, and what is executed, go on; a child that wants more makes a backend.
//!
//! It knows nothing of records or logs. Entries of the ring are never linked or drained: a link
//! orders nothing across submissions, and linked write-and-sync chains cost several times more than
//! submitting one after the other. Separating the order of writes from how they are issued follows
//! LLAMA (Levandoski, Lomet, Sengupta, PVLDB 2013, section 5); it departs from the paper in that the
//! durability of a write is named by its operation.
//!
//! # Examples
//!
//! ```
//! use esker_io::{AnyBackend, Backend, BackendExt, Create, Durability, FileOptions};
//!
//! # let dir = tempfile::tempdir()?;
//! let backend = AnyBackend::auto();
//! let options = FileOptions::read_write().create(Create::New);
//! let file = backend.open(&dir.path().join("data"), &options)?;
//! backend.write_at(&file, 0, b"durable when it returns".to_vec(), Durability::Durable)?;
//! backend.sync_dir(dir.path())?;
//! let (count, bytes) = backend.read_at(&file, 8, vec![0; 100])?;
//! assert_eq!(&bytes[..count], b"when it returns");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[macro_use]
mod canary;

mod action;
mod any;
mod backend;
mod blocking;
mod call;
mod calls;
#[cfg(feature = "conformance")]
pub mod conformance;
mod course;
mod driver;
mod error;
mod ext;
mod file;
mod handover;
mod inline;
mod lane;
mod latency;
mod memory;
mod names;
mod opening;
mod operation;
mod origin;
mod pool;
mod registration;
mod served;
mod space;
mod statistics;
mod sync;
mod transfer;
mod uring;
mod waiters;

pub use action::{Action, Completion, Durability};
pub use any::AnyBackend;
pub use backend::{
    Allocated, Allocation, Backend, Create, Description, Direct, FileFacts, FileOptions, Punched,
};
pub use blocking::Blocking;
pub use driver::DriverThread;
pub use error::{Context, Fate, IoError, Misaligned, OperationKind};
pub use ext::{BackendExt, Failed, Pending};
pub use file::FileHandle;
pub use lane::{Lane, Ordering};
pub use latency::{Latencies, Latency};
pub use memory::{Memory, RangeError, ReadMemory, WriteMemory};
pub use operation::{Ended, Operation, Sink};
pub use origin::Origin;
pub use registration::{RegisterError, Registration};
pub use statistics::{KindStatistics, Statistics};
pub use uring::{ConfigError, Uring, UringConfig, UringError};
