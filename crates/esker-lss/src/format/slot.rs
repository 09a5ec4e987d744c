//! Slots: what one flushed buffer, or one oversize extent, is on disk. A 64-byte header, records,
//! and zeroes up to the end of the block.

use std::hash::Hasher;

use twox_hash::XxHash3_64;

use crate::Lsn;
use crate::format::{VERSION, put, u16_at, u32_at, u64_at};

/// The length of a slot's header.
pub(crate) const HEADER_BYTES: usize = 64;
/// The first word of a slot: "ESKR". Its low three bits are no record's kind, so where a slot may
/// begin, it cannot be taken for a record.
pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"ESKR");
/// Flag: the slot is an extent, with one record that did not fit into a buffer.
pub(crate) const FLAG_EXTENT: u16 = 1;

/// Offset of the magic number.
pub(crate) const MAGIC_AT: usize = 0;
/// Offset of the format version.
pub(crate) const VERSION_AT: usize = 4;
/// Offset of the flags.
pub(crate) const FLAGS_AT: usize = 6;
/// Offset of the used length.
pub(crate) const LEN_AT: usize = 8;
/// Offset of the epoch.
pub(crate) const EPOCH_AT: usize = 12;
/// Offset of the store's id.
pub(crate) const STORE_ID_AT: usize = 16;
/// Offset of the sequence number.
pub(crate) const SEQ_AT: usize = 24;
/// Offset of the slot's own address.
pub(crate) const BASE_AT: usize = 32;
/// Offset of the durable LSN.
pub(crate) const DURABLE_AT: usize = 40;
/// Offset of the address at which the epoch began.
pub(crate) const EPOCH_START_AT: usize = 48;
/// Offset of the checksum.
pub(crate) const CHECKSUM_AT: usize = 56;

const _: () = assert!(CHECKSUM_AT + 8 == HEADER_BYTES);
const _: () = assert!(MAGIC & 7 > 2, "no record begins like a slot");

/// A slot's header, without magic, version and checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotHeader {
    /// Whether it is an extent.
    pub(crate) extent: bool,
    /// The used length in bytes, header included, padding not.
    pub(crate) len: usize,
    pub(crate) epoch: u32,
    pub(crate) store_id: u64,
    pub(crate) seq: u64,
    /// The slot's own address.
    pub(crate) base: Lsn,
    /// What was known to be durable when the slot was submitted.
    pub(crate) durable: Lsn,
    /// Where the epoch began.
    pub(crate) epoch_start: Lsn,
}

/// Why 64 bytes are no slot's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    /// They begin differently.
    Magic,
    /// A slot of another format, or with flags that this one does not have.
    Version,
}

/// A header and the checksum that it carries, with the seed that its own bytes give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) header: SlotHeader,
    checksum: u64,
    seed: u64,
}

impl SlotHeader {
    /// Decodes the first [`HEADER_BYTES`] of `bytes`. Looks at magic, version and flags only.
    ///
    /// # Panics
    ///
    /// If there are fewer bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Sealed, HeaderFault> {
        if u32_at(bytes, MAGIC_AT) != MAGIC {
            return Err(HeaderFault::Magic);
        }
        let flags = u16_at(bytes, FLAGS_AT);
        if u16_at(bytes, VERSION_AT) != VERSION || flags & !FLAG_EXTENT != 0 {
            return Err(HeaderFault::Version);
        }
        let header = Self {
            extent: flags & FLAG_EXTENT != 0,
            len: u32_at(bytes, LEN_AT) as usize,
            epoch: u32_at(bytes, EPOCH_AT),
            store_id: u64_at(bytes, STORE_ID_AT),
            seq: u64_at(bytes, SEQ_AT),
            base: Lsn::new(u64_at(bytes, BASE_AT)),
            durable: Lsn::new(u64_at(bytes, DURABLE_AT)),
            epoch_start: Lsn::new(u64_at(bytes, EPOCH_START_AT)),
        };
        let checksum = u64_at(bytes, CHECKSUM_AT);
        Ok(Sealed {
            header,
            checksum,
            seed: XxHash3_64::oneshot(&bytes[..CHECKSUM_AT]),
        })
    }

    /// Finishes a slot as the writer does: zeroes `bytes` from the used length on and writes the
    /// header in front.
    #[cfg(test)]
    pub(crate) fn seal(&self, bytes: &mut [u8]) {
        bytes[self.len..].fill(0);
        let (header, rest) = bytes.split_at_mut(HEADER_BYTES);
        header.copy_from_slice(&self.encode(rest));
    }

    /// The header's bytes, with the checksum over `rest`: everything behind the header as it is to
    /// be written, padding included.
    ///
    /// # Panics
    ///
    /// If the used length exceeds `u32::MAX`.
    pub(crate) fn encode(&self, rest: &[u8]) -> [u8; HEADER_BYTES] {
        let mut array = [0; HEADER_BYTES];
        let bytes = &mut array[..];
        let len = u32::try_from(self.len).expect("a slot's length was checked when it was made");
        let flags = if self.extent { FLAG_EXTENT } else { 0 };
        put(bytes, MAGIC_AT, &MAGIC.to_le_bytes());
        put(bytes, VERSION_AT, &VERSION.to_le_bytes());
        put(bytes, FLAGS_AT, &flags.to_le_bytes());
        put(bytes, LEN_AT, &len.to_le_bytes());
        put(bytes, EPOCH_AT, &self.epoch.to_le_bytes());
        put(bytes, STORE_ID_AT, &self.store_id.to_le_bytes());
        put(bytes, SEQ_AT, &self.seq.to_le_bytes());
        put(bytes, BASE_AT, &self.base.get().to_le_bytes());
        put(bytes, DURABLE_AT, &self.durable.get().to_le_bytes());
        put(bytes, EPOCH_START_AT, &self.epoch_start.get().to_le_bytes());
        let seed = XxHash3_64::oneshot(&bytes[..CHECKSUM_AT]);
        let checksum = XxHash3_64::oneshot_with_seed(seed, rest);
        put(bytes, CHECKSUM_AT, &checksum.to_le_bytes());
        array
    }
}

impl Sealed {
    /// Whether the checksum matches the rest of the slot: everything behind the header, padding
    /// included.
    pub(crate) fn matches(&self, rest: &[u8]) -> bool {
        XxHash3_64::oneshot_with_seed(self.seed, rest) == self.checksum
    }

    /// The same, for a rest that comes in pieces.
    pub(crate) fn check(&self) -> SlotCheck {
        SlotCheck {
            hash: XxHash3_64::with_seed(self.seed),
            checksum: self.checksum,
        }
    }
}

/// A slot's checksum under way.
pub(crate) struct SlotCheck {
    hash: XxHash3_64,
    checksum: u64,
}

impl SlotCheck {
    /// The next bytes behind the header.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hash.write(bytes);
    }

    /// Whether it matches.
    pub(crate) fn matches(&self) -> bool {
        self.hash.finish() == self.checksum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: SlotHeader = SlotHeader {
        extent: false,
        len: 80,
        epoch: 3,
        store_id: 0x1122_3344_5566_7788,
        seq: 9,
        base: Lsn::new(8192),
        durable: Lsn::new(4096),
        epoch_start: Lsn::new(4096),
    };

    fn sealed() -> Vec<u8> {
        let mut bytes = vec![0xEE; 512];
        bytes[64..80].copy_from_slice(b"sixteen bytes...");
        HEADER.seal(&mut bytes);
        bytes
    }

    #[test]
    fn a_sealed_slot_decodes_and_matches_whole_and_in_pieces() {
        let bytes = sealed();
        let slot = SlotHeader::decode(&bytes).expect("a header");
        assert_eq!(slot.header, HEADER);
        assert!(slot.matches(&bytes[64..]));
        let mut check = slot.check();
        for piece in bytes[64..].chunks(7) {
            check.update(piece);
        }
        assert!(check.matches());
        assert!(bytes[80..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn every_flipped_bit_of_a_slot_is_noticed() {
        let bytes = sealed();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let intact = SlotHeader::decode(&bytes).is_ok_and(|slot| slot.matches(&bytes[64..]));
            assert!(!intact, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 64)) {
            let _ = SlotHeader::decode(&bytes);
        }

        /// Bytes changed at will decode to an error, to a slot that does not match, or are the same.
        #[test]
        fn no_change_of_a_slot_goes_unnoticed(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            len: prop::sample::Index,
        ) {
            let (whole, mut bytes) = (sealed(), sealed());
            for (at, value) in changes {
                bytes[at.index(whole.len())] = value;
            }
            let intact = |bytes: &[u8]| {
                SlotHeader::decode(bytes).is_ok_and(|slot| slot.matches(&bytes[HEADER_BYTES..]))
            };
            prop_assert_eq!(intact(&bytes), bytes == whole);
            // Nor is a part of it taken for all.
            let len = HEADER_BYTES + len.index(whole.len() - HEADER_BYTES);
            prop_assert!(!intact(&whole[..len]));
        }

        #[test]
        fn headers_round_trip(
            extent: bool, epoch: u32, store_id: u64, seq: u64, base: u64, durable: u64, start: u64
        ) {
            let header = SlotHeader {
                extent, len: 64, epoch, store_id, seq,
                base: Lsn::new(base), durable: Lsn::new(durable), epoch_start: Lsn::new(start),
            };
            let mut bytes = [0; 64];
            header.seal(&mut bytes);
            prop_assert_eq!(SlotHeader::decode(&bytes).map(|slot| slot.header), Ok(header));
        }
    }
}
