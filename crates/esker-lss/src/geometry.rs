//! [`Geometry`]: the sizes a store was created with, checked against bounds that keep every later
//! computation and allocation small.

use esker_buf::Alignment;

use crate::format::{record, slot};

/// The smallest and largest block, in bytes.
pub(crate) const BLOCK_BYTES: (u64, u64) = (512, 64 << 10);
/// The smallest and largest segment, in bytes.
pub(crate) const SEGMENT_BYTES: (u64, u64) = (64 << 10, 16 << 30);
/// The largest record that any store accepts, in bytes.
pub(crate) const MAX_RECORD_BYTES: u64 = (512 << 20) - 4096;
/// The largest number of slots that may be written and not yet durable.
pub(crate) const MAX_WINDOW_SLOTS: u32 = 1 << 16;
/// The largest distance that undurable slots may span, in bytes.
pub(crate) const MAX_WINDOW_BYTES: u64 = 64 << 30;

const _: () = assert!(MAX_RECORD_BYTES <= record::MAX_PAYLOAD_BYTES as u64);

/// Sizes that a store cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GeometryError {
    /// The block size is out of bounds or not a power of two.
    #[error(
        "a block is a power of two from {} to {} bytes, and {found} is not",
        BLOCK_BYTES.0,
        BLOCK_BYTES.1
    )]
    Block {
        /// The size asked for, in bytes.
        found: u64,
    },
    /// The segment size is out of bounds or not a power of two.
    #[error(
        "a segment is a power of two from {} to {} bytes, and {found} is not",
        SEGMENT_BYTES.0,
        SEGMENT_BYTES.1
    )]
    Segment {
        /// The size asked for, in bytes.
        found: u64,
    },
    /// The largest record is out of bounds.
    #[error("the largest record is from 1 to {MAX_RECORD_BYTES} bytes, and {found} is not")]
    MaxRecord {
        /// The size asked for, in bytes.
        found: u64,
    },
    /// The number of slots in the window is out of bounds.
    #[error("a window has from 1 to {MAX_WINDOW_SLOTS} slots, and {found} is not")]
    WindowSlots {
        /// The number asked for.
        found: u32,
    },
    /// The window is too large, or too small for the largest record.
    #[error(
        "with these records a window has from {min} to {MAX_WINDOW_BYTES} bytes, and {found} is not"
    )]
    WindowBytes {
        /// The size asked for, in bytes.
        found: u64,
        /// The smallest that holds the largest record, in bytes.
        min: u64,
    },
}

/// The sizes of a store: fixed when it is created, written in its superblock.
///
/// A value exists only if every size is within its bounds, so sums and products of them do not
/// overflow, whatever a superblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    store_id: u64,
    block: Alignment,
    segment_bytes: u64,
    max_record_bytes: u64,
    window_slots: u32,
    window_bytes: u64,
}

/// Sizes that have not been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The unit to which every write is padded, in bytes: a power of two.
    pub block_bytes: u32,
    /// The length of a segment file, in bytes: a power of two.
    pub segment_bytes: u64,
    /// The largest record, in bytes.
    pub max_record_bytes: u64,
    /// How many slots may be written and not yet durable.
    pub window_slots: u32,
    /// How far past the durable prefix a slot may end, in bytes; at least the largest slot.
    pub window_bytes: u64,
}

impl Geometry {
    /// Checks sizes.
    ///
    /// # Errors
    ///
    /// [`GeometryError`] for the first size that is out of bounds.
    pub fn new(store_id: u64, sizes: &Sizes) -> Result<Self, GeometryError> {
        let found = u64::from(sizes.block_bytes);
        let block = usize::try_from(sizes.block_bytes)
            .ok()
            .filter(|_| (BLOCK_BYTES.0..=BLOCK_BYTES.1).contains(&found))
            .and_then(|bytes| Alignment::new(bytes).ok())
            .ok_or(GeometryError::Block { found })?;
        let found = sizes.segment_bytes;
        if !found.is_power_of_two() || !(SEGMENT_BYTES.0..=SEGMENT_BYTES.1).contains(&found) {
            return Err(GeometryError::Segment { found });
        }
        let found = sizes.max_record_bytes;
        if !(1..=MAX_RECORD_BYTES).contains(&found) {
            return Err(GeometryError::MaxRecord { found });
        }
        let found = sizes.window_slots;
        if !(1..=MAX_WINDOW_SLOTS).contains(&found) {
            return Err(GeometryError::WindowSlots { found });
        }
        let geometry = Self {
            store_id,
            block,
            segment_bytes: sizes.segment_bytes,
            max_record_bytes: sizes.max_record_bytes,
            window_slots: sizes.window_slots,
            window_bytes: sizes.window_bytes,
        };
        let (found, min) = (sizes.window_bytes, geometry.max_extent_bytes());
        if !(min..=MAX_WINDOW_BYTES).contains(&found) {
            return Err(GeometryError::WindowBytes { found, min });
        }
        Ok(geometry)
    }

    /// The sizes again.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            block_bytes: self.block_bytes(),
            segment_bytes: self.segment_bytes,
            max_record_bytes: self.max_record_bytes,
            window_slots: self.window_slots,
            window_bytes: self.window_bytes,
        }
    }

    /// The store's identity, part of every checksum.
    #[must_use]
    pub fn store_id(&self) -> u64 {
        self.store_id
    }

    /// The unit to which every write is padded.
    #[must_use]
    pub fn block(&self) -> Alignment {
        self.block
    }

    /// The same in bytes.
    #[must_use]
    pub fn block_bytes(&self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "at most 64 KiB")]
        let bytes = self.block.bytes() as u32;
        bytes
    }

    /// The length of a segment file, in bytes.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The largest record, in bytes.
    #[must_use]
    pub fn max_record_bytes(&self) -> u64 {
        self.max_record_bytes
    }

    /// How many slots may be written and not yet durable.
    #[must_use]
    pub fn window_slots(&self) -> u32 {
        self.window_slots
    }

    /// How far past the durable prefix a slot may end, in bytes.
    #[must_use]
    pub fn window_bytes(&self) -> u64 {
        self.window_bytes
    }

    /// The length on disk of an extent with the largest record, in bytes.
    #[must_use]
    pub fn max_extent_bytes(&self) -> u64 {
        let used = slot::HEADER_BYTES as u64
            + record::HEADER_BYTES as u64
            + self
                .max_record_bytes
                .next_multiple_of(record::ALIGNMENT_BYTES as u64);
        used.next_multiple_of(self.block.bytes() as u64)
    }

    /// No slot is longer than this, in bytes: it would not fit into the window.
    #[must_use]
    pub fn max_slot_bytes(&self) -> u64 {
        self.window_bytes.min(u64::from(u32::MAX))
    }

    /// The number of the segment that holds an address.
    #[must_use]
    pub fn segment_of(&self, address: u64) -> u64 {
        address / self.segment_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes {
        block_bytes: 4096,
        segment_bytes: 64 << 20,
        max_record_bytes: 64 << 20,
        window_slots: 64,
        window_bytes: 128 << 20,
    };

    #[test]
    fn sizes_out_of_bounds_are_refused_one_by_one() {
        assert_eq!(Geometry::new(1, &SIZES).map(|g| g.sizes()), Ok(SIZES));
        for block_bytes in [0, 1, 256, 1000, 4097, 128 << 10, u32::MAX] {
            let found = u64::from(block_bytes);
            assert_eq!(
                Geometry::new(
                    1,
                    &Sizes {
                        block_bytes,
                        ..SIZES
                    }
                ),
                Err(GeometryError::Block { found })
            );
        }
        for found in [0, 1, 4096, (64 << 20) + 4096, 32 << 30, u64::MAX] {
            assert_eq!(
                Geometry::new(
                    1,
                    &Sizes {
                        segment_bytes: found,
                        ..SIZES
                    }
                ),
                Err(GeometryError::Segment { found })
            );
        }
        for found in [0, MAX_RECORD_BYTES + 1, u64::MAX] {
            assert_eq!(
                Geometry::new(
                    1,
                    &Sizes {
                        max_record_bytes: found,
                        ..SIZES
                    }
                ),
                Err(GeometryError::MaxRecord { found })
            );
        }
        for found in [0, MAX_WINDOW_SLOTS + 1, u32::MAX] {
            assert_eq!(
                Geometry::new(
                    1,
                    &Sizes {
                        window_slots: found,
                        ..SIZES
                    }
                ),
                Err(GeometryError::WindowSlots { found })
            );
        }
        let min = (64 << 20) + 4096;
        for found in [0, min - 1, MAX_WINDOW_BYTES + 1, u64::MAX] {
            assert_eq!(
                Geometry::new(
                    1,
                    &Sizes {
                        window_bytes: found,
                        ..SIZES
                    }
                ),
                Err(GeometryError::WindowBytes { found, min })
            );
        }
    }
}
