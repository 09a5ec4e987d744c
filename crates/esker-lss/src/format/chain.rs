//! The chain rule: whether a slot is the one that follows.
//!
//! A slot continues the log at a position when it belongs to this store and this address, has the
//! next sequence number, and its epoch governs the address. The last is what keeps out everything
//! that was written before a crash and dropped, and everything from a segment's earlier life.

use crate::format::slot::{HEADER_BYTES, SlotHeader};
use crate::format::superblock::Superblock;
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
    /// It comes earlier or later.
    Sequence,
    /// Its epoch does not govern the address: it is left over from before.
    Epoch,
    /// Its epoch is above the superblock's: the superblock is older than the log.
    LaterEpoch,
}

/// Whether `header` may stand at the address `at`, wherever in the sequence.
pub(crate) fn belongs(
    header: &SlotHeader,
    at: u64,
    superblock: &Superblock,
) -> Result<(), ChainFault> {
    let geometry = &superblock.geometry;
    if header.store_id != geometry.store_id() {
        return Err(ChainFault::Store);
    }
    if header.base.get() != at {
        return Err(ChainFault::Base);
    }
    if header.len < HEADER_BYTES || padded_len(header, superblock) > geometry.max_slot_bytes() {
        return Err(ChainFault::Length);
    }
    if header.epoch > superblock.epoch {
        return Err(ChainFault::LaterEpoch);
    }
    Ok(())
}

/// The length of the slot on disk.
pub(crate) fn padded_len(header: &SlotHeader, superblock: &Superblock) -> u64 {
    (header.len as u64).next_multiple_of(superblock.geometry.block().bytes() as u64)
}

/// Whether `header` continues the log at `position`: the position behind it, if its checksum
/// matches as well.
pub(crate) fn follows(
    header: &SlotHeader,
    position: &Position,
    superblock: &Superblock,
) -> Result<Position, ChainFault> {
    belongs(header, position.lsn.get(), superblock)?;
    if header.seq != position.seq {
        return Err(ChainFault::Sequence);
    }
    if !governs(header, position, superblock) {
        return Err(ChainFault::Epoch);
    }
    let end = position.lsn.checked_add(padded_len(header, superblock));
    Ok(Position {
        lsn: end.filter(|end| *end <= crate::Lsn::LIMIT).ok_or(ChainFault::Length)?,
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
