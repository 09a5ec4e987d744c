//! The chain rule: whether a slot is the one that follows.
//!
//! A slot continues the log at a position when it belongs to this store and this address, has the
//! next sequence number, and its epoch governs the address. The last is what keeps out everything
//! that was written before a crash and dropped, and everything from a segment's earlier life.

use crate::Lsn;
use crate::format::slot::{HEADER_BYTES, SlotHeader};
use crate::format::superblock::Superblock;
use crate::geometry::Geometry;
use crate::position::Position;

/// Why a slot's header does not continue the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainFault {
    /// Another store's slot.
    Store,
    /// It was written for another address.
    Base,
    /// Its length cannot be.
    Length,
    /// It names a durable prefix, or an epoch's beginning, past itself.
    Marks,
    /// It comes earlier or later.
    Sequence,
    /// Its epoch does not govern the address: it is left over from before.
    Epoch,
    /// Its epoch is above the superblock's: the superblock is older than the log.
    LaterEpoch,
}

/// Whether `header` may stand at the address `at` of this store, in whatever epoch and sequence.
pub(crate) fn fits(header: &SlotHeader, at: u64, geometry: &Geometry) -> Result<(), ChainFault> {
    if header.store_id != geometry.store_id() {
        return Err(ChainFault::Store);
    }
    if header.base.get() != at {
        return Err(ChainFault::Base);
    }
    let too_long = padded_len(header, geometry) > geometry.max_slot_bytes();
    let is_possible =
        (HEADER_BYTES <= header.len && !too_long) || canary!("lss-slot-length-unchecked");
    if !is_possible {
        return Err(ChainFault::Length);
    }
    // Nothing at or past a slot is durable when it is submitted, and its epoch began before it.
    if header.durable > header.base || header.epoch_start > header.base {
        return Err(ChainFault::Marks);
    }
    Ok(())
}

/// The length of the slot on disk.
pub(crate) fn padded_len(header: &SlotHeader, geometry: &Geometry) -> u64 {
    (header.len as u64).next_multiple_of(geometry.block().bytes() as u64)
}

/// Whether `header` continues the log at `position`: the position behind it, if its checksum
/// matches as well.
pub(crate) fn follows(
    header: &SlotHeader,
    position: &Position,
    superblock: &Superblock,
) -> Result<Position, ChainFault> {
    fits(header, position.lsn.get(), &superblock.geometry)?;
    if header.epoch > superblock.epoch {
        return Err(ChainFault::LaterEpoch);
    }
    if header.seq != position.seq {
        return Err(ChainFault::Sequence);
    }
    if !governs(header, position, superblock) && !canary!("lss-stale-epoch-follows") {
        return Err(ChainFault::Epoch);
    }
    let end = position
        .lsn
        .checked_add(padded_len(header, &superblock.geometry));
    Ok(Position {
        lsn: end
            .filter(|end| *end <= Lsn::LIMIT)
            .ok_or(ChainFault::Length)?,
        seq: position.seq.checked_add(1).ok_or(ChainFault::Sequence)?,
        epoch: header.epoch,
        epoch_start: header.epoch_start,
    })
}

fn governs(header: &SlotHeader, position: &Position, superblock: &Superblock) -> bool {
    if position.lsn >= superblock.epoch_start.lsn {
        is_current(header, superblock)
    } else if header.epoch >= superblock.epoch {
        // Below the current epoch's beginning there is nothing of it.
        false
    } else if header.epoch == position.epoch {
        header.epoch_start == position.epoch_start
    } else {
        header.epoch > position.epoch && header.epoch_start == position.lsn
    }
}

/// Whether the slot is of the epoch that the superblock names.
pub(crate) fn is_current(header: &SlotHeader, superblock: &Superblock) -> bool {
    header.epoch == superblock.epoch && header.epoch_start == superblock.epoch_start.lsn
}
