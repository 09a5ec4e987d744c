//! Storage I/O by ownership: an operation takes its buffer by value and gives it back with its
//! completion.

mod any;
mod backend;
mod blocking;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod ext;
mod file;
mod inline;
mod lane;
mod memory;
mod operation;
mod statistics;
mod sync;
mod transfer;
mod uring;
mod waiters;

pub use any::AnyBackend;
pub use backend::{Allocated, Backend, Create, Description, Direct, FileFacts, FileOptions};
pub use blocking::Blocking;
pub use error::{Context, Fate, IoError, Misaligned, OperationKind};
pub use ext::{BackendExt, Failed, Pending};
pub use file::FileHandle;
pub use lane::{Lane, Ordering};
pub use memory::{Memory, RangeError, ReadMemory, WriteMemory};
pub use operation::{Action, Completion, Durability, Operation, Sink};
pub use statistics::{KindStatistics, Statistics};
pub use uring::{ConfigError, Uring, UringConfig, UringError};
