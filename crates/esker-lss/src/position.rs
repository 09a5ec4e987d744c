//! [`Position`]: where the chain of slots stands at a slot boundary.

use crate::Lsn;

/// The state of the chain at the boundary between two slots: what the next one has to continue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// The address of the boundary: where the next slot begins.
    pub lsn: Lsn,
    /// The sequence number that the next slot has.
    pub seq: u64,
    /// The epoch of the slot before the boundary; 0 at the start of the log.
    pub epoch: u32,
    /// The address at which that epoch began.
    pub epoch_start: Lsn,
}

impl Position {
    /// The start of every log.
    pub const START: Self = Self {
        lsn: Lsn::ZERO,
        seq: 0,
        epoch: 0,
        epoch_start: Lsn::ZERO,
    };
}
