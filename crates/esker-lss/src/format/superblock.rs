//! The superblock: two copies of one 4096-byte block in a file of their own.

use twox_hash::XxHash3_64;

use crate::Lsn;
use crate::format::{put, u32_at, u64_at};
use crate::geometry::{Geometry, Sizes};
use crate::position::Position;

/// The length of one copy.
pub(crate) const COPY_BYTES: usize = 4096;
/// Where in the file the two copies are. They are far apart, so that one misplaced or torn write
/// does not take both.
pub(crate) const COPY_OFFSETS: [u64; 2] = [0, 65536];
/// The first eight bytes of a copy.
pub(crate) const MAGIC: [u8; 8] = *b"ESKERSB\n";
/// The version of the superblock, and of the store.
pub(crate) const VERSION: u32 = crate::format::VERSION as u32;

/// Offset of the magic number.
pub(crate) const MAGIC_AT: usize = 0;
/// Offset of the version.
pub(crate) const VERSION_AT: usize = 8;
/// Offset of the block size.
pub(crate) const BLOCK_BYTES_AT: usize = 12;
/// Offset of the store's id.
pub(crate) const STORE_ID_AT: usize = 16;
/// Offset of the update counter.
pub(crate) const COUNTER_AT: usize = 24;
/// Offset of the epoch.
pub(crate) const EPOCH_AT: usize = 32;
/// Offset of the window's slots.
pub(crate) const WINDOW_SLOTS_AT: usize = 36;
/// Offset of the segment size.
pub(crate) const SEGMENT_BYTES_AT: usize = 40;
/// Offset of the window's bytes.
pub(crate) const WINDOW_BYTES_AT: usize = 48;
/// Offset of the largest record.
pub(crate) const MAX_RECORD_BYTES_AT: usize = 56;
/// Offset of the position at which the epoch began.
pub(crate) const EPOCH_START_AT: usize = 64;
/// Offset of the position of the first slot that is not trimmed.
pub(crate) const FIRST_AT: usize = 96;
/// Offset of the position from which recovery reads.
pub(crate) const CHECKPOINT_AT: usize = 128;
/// Offset of the flag that says whether there is a clean end: 0 or 1.
pub(crate) const CLEAN_AT: usize = 160;
/// Offset of the clean end's position; zeroes if there is none.
pub(crate) const CLEAN_END_AT: usize = 168;
/// Offset of the checksum, over everything before it.
pub(crate) const CHECKSUM_AT: usize = 4088;

/// The length of a position.
pub(crate) const POSITION_BYTES: usize = 32;
/// Offset of the address within a position.
pub(crate) const POSITION_LSN_AT: usize = 0;
/// Offset of the sequence number within a position.
pub(crate) const POSITION_SEQ_AT: usize = 8;
/// Offset of the epoch's beginning within a position.
pub(crate) const POSITION_EPOCH_START_AT: usize = 16;
/// Offset of the epoch within a position. Four zeroes follow.
pub(crate) const POSITION_EPOCH_AT: usize = 24;

const _: () = assert!(CHECKSUM_AT + 8 == COPY_BYTES);
const _: () = assert!(CLEAN_END_AT + POSITION_BYTES <= CHECKSUM_AT);
const _: () = assert!(COPY_OFFSETS[1] >= COPY_OFFSETS[0] + COPY_BYTES as u64);

/// What the superblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) geometry: Geometry,
    /// How often it has been written.
    pub(crate) counter: u64,
    /// The life that the store is in: raised at each opening for writing.
    pub(crate) epoch: u32,
    /// Where it began.
    pub(crate) epoch_start: Position,
    /// The first slot that is not trimmed.
    pub(crate) first: Position,
    /// Where recovery begins to read; durable up to there.
    pub(crate) checkpoint: Position,
    /// Where the log ended when the store was closed; `None` while it is open and after a crash.
    pub(crate) clean_end: Option<Position>,
}

/// What 4096 bytes are, if not a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyFault {
    /// Nothing but zeroes.
    Empty,
    /// They begin differently.
    Foreign,
    /// Another version of the format, intact or not.
    Version { found: u32, intact: bool },
    /// The checksum does not match.
    Checksum,
    /// The checksum matches, and what it says cannot be.
    Inconsistent,
}

impl Superblock {
    /// The superblock of a store that has just been created: nothing in it, never opened.
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            counter: 0,
            epoch: 0,
            epoch_start: Position::START,
            first: Position::START,
            checkpoint: Position::START,
            clean_end: Some(Position::START),
        }
    }

    /// Whether it is newer than `other`.
    pub(crate) fn supersedes(&self, other: &Self) -> bool {
        (self.epoch, self.counter) > (other.epoch, other.counter)
    }

    /// One copy's bytes.
    pub(crate) fn encode(&self) -> [u8; COPY_BYTES] {
        let mut bytes = [0; COPY_BYTES];
        let sizes = self.geometry.sizes();
        put(&mut bytes, MAGIC_AT, &MAGIC);
        put(&mut bytes, VERSION_AT, &VERSION.to_le_bytes());
        put(&mut bytes, BLOCK_BYTES_AT, &sizes.block_bytes.to_le_bytes());
        put(
            &mut bytes,
            STORE_ID_AT,
            &self.geometry.store_id().to_le_bytes(),
        );
        put(&mut bytes, COUNTER_AT, &self.counter.to_le_bytes());
        put(&mut bytes, EPOCH_AT, &self.epoch.to_le_bytes());
        put(
            &mut bytes,
            WINDOW_SLOTS_AT,
            &sizes.window_slots.to_le_bytes(),
        );
        put(
            &mut bytes,
            SEGMENT_BYTES_AT,
            &sizes.segment_bytes.to_le_bytes(),
        );
        put(
            &mut bytes,
            WINDOW_BYTES_AT,
            &sizes.window_bytes.to_le_bytes(),
        );
        put(
            &mut bytes,
            MAX_RECORD_BYTES_AT,
            &sizes.max_record_bytes.to_le_bytes(),
        );
        put_position(&mut bytes, EPOCH_START_AT, &self.epoch_start);
        put_position(&mut bytes, FIRST_AT, &self.first);
        put_position(&mut bytes, CHECKPOINT_AT, &self.checkpoint);
        if let Some(end) = &self.clean_end {
            put(&mut bytes, CLEAN_AT, &1u32.to_le_bytes());
            put_position(&mut bytes, CLEAN_END_AT, end);
        }
        let checksum = XxHash3_64::oneshot(&bytes[..CHECKSUM_AT]);
        put(&mut bytes, CHECKSUM_AT, &checksum.to_le_bytes());
        bytes
    }

    /// Reads one copy.
    pub(crate) fn decode(bytes: &[u8; COPY_BYTES]) -> Result<Self, CopyFault> {
        if bytes.iter().all(|&byte| byte == 0) {
            return Err(CopyFault::Empty);
        }
        if bytes[..MAGIC.len()] != MAGIC {
            return Err(CopyFault::Foreign);
        }
        let intact = XxHash3_64::oneshot(&bytes[..CHECKSUM_AT]) == u64_at(bytes, CHECKSUM_AT);
        let found = u32_at(bytes, VERSION_AT);
        if found != VERSION {
            return Err(CopyFault::Version { found, intact });
        }
        if !intact {
            return Err(CopyFault::Checksum);
        }
        let sizes = Sizes {
            block_bytes: u32_at(bytes, BLOCK_BYTES_AT),
            segment_bytes: u64_at(bytes, SEGMENT_BYTES_AT),
            max_record_bytes: u64_at(bytes, MAX_RECORD_BYTES_AT),
            window_slots: u32_at(bytes, WINDOW_SLOTS_AT),
            window_bytes: u64_at(bytes, WINDOW_BYTES_AT),
        };
        let superblock = Self {
            geometry: Geometry::new(u64_at(bytes, STORE_ID_AT), &sizes)
                .map_err(|_| CopyFault::Inconsistent)?,
            counter: u64_at(bytes, COUNTER_AT),
            epoch: u32_at(bytes, EPOCH_AT),
            epoch_start: position_at(bytes, EPOCH_START_AT),
            first: position_at(bytes, FIRST_AT),
            checkpoint: position_at(bytes, CHECKPOINT_AT),
            clean_end: (u32_at(bytes, CLEAN_AT) != 0).then(|| position_at(bytes, CLEAN_END_AT)),
        };
        // There is one way to write each superblock: what is reserved is zero.
        if superblock.is_consistent() && superblock.encode() == *bytes {
            Ok(superblock)
        } else {
            Err(CopyFault::Inconsistent)
        }
    }

    fn is_consistent(&self) -> bool {
        let ordered = |before: &Position, after: &Position| {
            before.lsn <= after.lsn
                && before.seq <= after.seq
                && (before.lsn != after.lsn || before.seq == after.seq)
        };
        let possible = |position: &Position| {
            position.lsn <= Lsn::LIMIT
                && self.geometry.block().divides(position.lsn.get())
                && position.epoch_start <= position.lsn
                && position.epoch <= self.epoch
                && position.seq <= position.lsn.get()
        };
        let end = self.clean_end.as_ref();
        [&self.epoch_start, &self.first, &self.checkpoint]
            .into_iter()
            .chain(end)
            .all(possible)
            && ordered(&self.first, &self.checkpoint)
            && end
                .is_none_or(|end| ordered(&self.checkpoint, end) && ordered(&self.epoch_start, end))
    }
}

fn put_position(bytes: &mut [u8], at: usize, position: &Position) {
    let bytes = &mut bytes[at..at + POSITION_BYTES];
    put(bytes, POSITION_LSN_AT, &position.lsn.get().to_le_bytes());
    put(bytes, POSITION_SEQ_AT, &position.seq.to_le_bytes());
    put(
        bytes,
        POSITION_EPOCH_START_AT,
        &position.epoch_start.get().to_le_bytes(),
    );
    put(bytes, POSITION_EPOCH_AT, &position.epoch.to_le_bytes());
}

fn position_at(bytes: &[u8], at: usize) -> Position {
    let bytes = &bytes[at..at + POSITION_BYTES];
    Position {
        lsn: Lsn::new(u64_at(bytes, POSITION_LSN_AT)),
        seq: u64_at(bytes, POSITION_SEQ_AT),
        epoch_start: Lsn::new(u64_at(bytes, POSITION_EPOCH_START_AT)),
        epoch: u32_at(bytes, POSITION_EPOCH_AT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZES: Sizes = Sizes {
        block_bytes: 4096,
        segment_bytes: 1 << 20,
        max_record_bytes: 1 << 20,
        window_slots: 16,
        window_bytes: 4 << 20,
    };

    fn superblock() -> Superblock {
        let position = |blocks: u64, seq, epoch| Position {
            lsn: Lsn::new(blocks * 4096),
            seq,
            epoch,
            epoch_start: Lsn::new(4096),
        };
        Superblock {
            geometry: Geometry::new(0x0102_0304_0506_0708, &SIZES).expect("valid"),
            counter: 5,
            epoch: 3,
            epoch_start: position(4, 4, 2),
            first: position(2, 2, 1),
            checkpoint: position(5, 5, 3),
            clean_end: Some(position(9, 8, 3)),
        }
    }

    /// The superblock of format version 1, as it has been since version 1 exists.
    #[test]
    fn the_bytes_of_version_1_are_frozen() {
        let bytes = superblock().encode();
        let hex = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        assert_eq!(
            hex(&bytes[..200]),
            concat!(
                "45534b455253420a0100000000100000",
                "08070605040302010500000000000000",
                "03000000100000000000100000000000",
                "00004000000000000000100000000000",
                "0040000000000000040000000000000000100000000000000200000000000000",
                "0020000000000000020000000000000000100000000000000100000000000000",
                "0050000000000000050000000000000000100000000000000300000000000000",
                "0100000000000000",
                "0090000000000000080000000000000000100000000000000300000000000000",
            )
        );
        assert!(bytes[200..CHECKSUM_AT].iter().all(|&byte| byte == 0));
        assert_eq!(hex(&bytes[CHECKSUM_AT..]), "7cef44b06191a50e");
    }

    #[test]
    fn superblocks_round_trip() {
        let mut superblock = superblock();
        assert_eq!(Superblock::decode(&superblock.encode()), Ok(superblock));
        superblock.clean_end = None;
        assert_eq!(Superblock::decode(&superblock.encode()), Ok(superblock));
        let new = Superblock::new(superblock.geometry);
        assert_eq!(Superblock::decode(&new.encode()), Ok(new));
        assert!(superblock.supersedes(&new) && !new.supersedes(&superblock));
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let bytes = superblock().encode();
        for at in 0..COPY_BYTES {
            for flip in [0x01, 0x80, 0xFF] {
                let mut bytes = bytes;
                bytes[at] ^= flip;
                assert!(Superblock::decode(&bytes).is_err(), "byte {at}");
            }
        }
    }

    /// `change` is applied to the bytes, and the checksum made to match again.
    fn resealed(change: impl FnOnce(&mut [u8; COPY_BYTES])) -> Result<Superblock, CopyFault> {
        let mut bytes = superblock().encode();
        change(&mut bytes);
        let checksum = XxHash3_64::oneshot(&bytes[..CHECKSUM_AT]);
        put(&mut bytes, CHECKSUM_AT, &checksum.to_le_bytes());
        Superblock::decode(&bytes)
    }

    #[test]
    fn each_fault_is_told_apart() {
        assert_eq!(Superblock::decode(&[0; COPY_BYTES]), Err(CopyFault::Empty));
        assert_eq!(
            Superblock::decode(&[7; COPY_BYTES]),
            Err(CopyFault::Foreign)
        );
        let version = CopyFault::Version {
            found: 2,
            intact: true,
        };
        assert_eq!(resealed(|bytes| bytes[VERSION_AT] = 2), Err(version));
        let mut bytes = superblock().encode();
        bytes[VERSION_AT] = 2;
        let version = CopyFault::Version {
            found: 2,
            intact: false,
        };
        assert_eq!(Superblock::decode(&bytes), Err(version));
        assert_eq!(
            resealed(|bytes| bytes[1000] = 1),
            Err(CopyFault::Inconsistent)
        );
        assert_eq!(
            resealed(|bytes| bytes[CLEAN_AT] = 2),
            Err(CopyFault::Inconsistent)
        );
    }

    proptest! {
        #[test]
        fn no_change_of_a_copy_goes_unnoticed(
            changes in proptest::collection::vec((0..COPY_BYTES, any::<u8>()), 1..8)
        ) {
            let (whole, mut bytes) = (superblock().encode(), superblock().encode());
            for (at, value) in changes {
                bytes[at] = value;
            }
            let decoded = Superblock::decode(&bytes);
            prop_assert_eq!(decoded == Ok(superblock()), bytes == whole);
            prop_assert!(bytes == whole || decoded.is_err());
        }

        #[test]
        fn hostile_fields_with_a_matching_checksum_are_decoded_or_refused(
            at in MAGIC.len()..CLEAN_END_AT + POSITION_BYTES - 8, value: [u8; 8]
        ) {
            if let Ok(superblock) = resealed(|bytes| put(bytes, at, &value)) {
                prop_assert!(superblock.is_consistent());
                prop_assert!(superblock.first.lsn <= superblock.checkpoint.lsn);
            }
        }
    }
}
