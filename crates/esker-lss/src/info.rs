//! [`StoreInfo`]: what an open store says of itself.

use esker_io::{Backend, IoError};

use crate::Lsn;
use crate::core::Core;
use crate::format::superblock;
use crate::sync::{AtomicU64, Ordering};

/// What a store is and what it has done since it was opened. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreInfo {
    /// The version of the format on disk.
    pub format_version: u32,
    /// The store's identity.
    pub store_id: u64,
    /// Which life of the store this is.
    pub epoch: u32,
    /// Where the log begins.
    pub first: Lsn,
    /// The end of the written prefix.
    pub written: Lsn,
    /// The end of the durable prefix.
    pub durable: Lsn,
    /// The end of what has been appended.
    pub tail: Lsn,
    /// The unit of writing.
    pub block_bytes: u32,
    /// The size of a segment file.
    pub segment_bytes: u64,
    /// The largest record.
    pub max_record_bytes: u64,
    /// How many slots may be written and not durable.
    pub window_slots: u32,
    /// How far past the durable prefix a slot may end.
    pub window_bytes: u64,
    /// How many segment files there are, without spare ones.
    pub segments: u64,
    /// How many spare ones.
    pub spare_segments: u64,
    /// The space that the files take.
    pub space_bytes: u64,
    /// Slots written in this life.
    pub slots_written: u64,
    /// Their length on disk.
    pub slot_bytes_written: u64,
    /// How much of that is padding up to the end of a block.
    pub padding_bytes_written: u64,
    /// Zeroes written in this life ahead of the log, to its segments and to spare ones, so that what
    /// is written there later is as fast as it can be.
    pub zero_bytes_written: u64,
    /// Data syncs in this life; durable writes are not among them.
    pub syncs: u64,
    /// Slots that were written when the store fell idle.
    pub stability_slots: u64,
}

impl<B: Backend> Core<B> {
    pub(crate) fn info(&self) -> Result<StoreInfo, IoError> {
        let geometry = &self.geometry;
        let usage = self.segments.usage()?;
        let counters = &self.counters;
        // Relaxed: counters are read one by one and prove nothing.
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let durable = self.durable.lsn();
        Ok(StoreInfo {
            format_version: superblock::VERSION,
            store_id: geometry.store_id(),
            epoch: self.epoch,
            first: self.first(),
            written: Lsn::new(self.written.lsn().max(durable)),
            durable: Lsn::new(durable),
            tail: self.tail(),
            block_bytes: geometry.block_bytes(),
            segment_bytes: geometry.segment_bytes(),
            max_record_bytes: geometry.max_record_bytes(),
            window_slots: geometry.window_slots(),
            window_bytes: geometry.window_bytes(),
            segments: usage.segments,
            spare_segments: usage.spares,
            space_bytes: usage.bytes,
            slots_written: read(&counters.slots),
            slot_bytes_written: read(&counters.slot_bytes),
            padding_bytes_written: read(&counters.padding_bytes),
            zero_bytes_written: self.segments.zeroed_bytes(),
            syncs: read(&counters.syncs),
            stability_slots: read(&counters.stability_slots),
        })
    }
}
