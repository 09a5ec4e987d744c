//! The log-structured store.
#![forbid(unsafe_code)]

mod error;
mod format;
mod geometry;
mod lsn;
mod position;

pub use error::{Corruption, Damage, OpenError, ReadError, SpaceError};
pub use geometry::{Geometry, GeometryError, Sizes};
pub use lsn::{Lsn, ParseLsnError};
pub use position::Position;
