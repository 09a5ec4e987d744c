//! The log-structured store.
#![forbid(unsafe_code)]

mod error;
mod format;
mod geometry;
mod log;
mod lsn;
mod poison;
mod position;
mod recovery;
mod segments;
mod slots;
mod stream;
mod superblock;
mod sync;

pub use error::{Corruption, Damage, OpenError, ReadError, SpaceError};
pub use geometry::{Geometry, GeometryError, Sizes};
pub use log::Record;
pub use lsn::{Lsn, ParseLsnError};
pub use poison::Poison;
pub use position::Position;
pub use recovery::Tail;
