//! Records: an 8-byte header and a payload, at 8-byte aligned addresses.
//!
//! The first word is `length << 3 | kind`, the second a checksum of the store's id, the record's
//! address, the first word and, for data, the payload. So neither another store's record nor this
//! one's at another address has a matching checksum, and a header of zeroes is no record.

use std::hash::Hasher;

use twox_hash::XxHash3_64;

use crate::Lsn;
use crate::format::{array_at, u32_at};

/// The length of a record's header.
pub(crate) const HEADER_BYTES: usize = 8;
/// What a record's address and the room it takes are multiples of.
pub(crate) const ALIGNMENT_BYTES: usize = 8;
/// Bits of the first word that hold the kind.
pub(crate) const KIND_BITS: u32 = 3;
/// Offset of the word with length and kind.
pub(crate) const LENGTH_AND_KIND_AT: usize = 0;
/// Offset of the checksum.
pub(crate) const CHECKSUM_AT: usize = 4;
/// The longest payload that the first word can name.
pub(crate) const MAX_PAYLOAD_BYTES: usize = (1 << (32 - KIND_BITS)) - 1;

/// How far behind a record that is written memory is fetched for those that follow: a flush buffer
/// that was written is in no cache. It takes a processor longer to fill so much than to fetch it.
const PREFETCHED_AHEAD: usize = 1 << 10;

const DATA: u32 = 1;
const VOID: u32 = 2;

const _: () = assert!(CHECKSUM_AT + 4 == HEADER_BYTES);
const _: () = assert!(HEADER_BYTES.is_multiple_of(ALIGNMENT_BYTES));

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Somebody's bytes.
    Data,
    /// Room that was reserved and not used: skipped.
    Void,
}

impl Kind {
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::Data => DATA,
            Self::Void => VOID,
        }
    }
}

/// What the first word is multiplied by in a checksum: 2^64 divided by the golden ratio, odd.
pub(crate) const WORD_FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
/// What the sum is multiplied by: a prime without a short period in its bits.
pub(crate) const SUM_FACTOR: u64 = 0x1656_6791_9E37_79F9;

/// Checksums of one store's records. The store's part is computed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordSeal {
    /// XXH3-64 of the store's id.
    store: u64,
}

impl RecordSeal {
    /// For the store with this identity.
    pub(crate) fn new(store_id: u64) -> Self {
        Self {
            store: XxHash3_64::oneshot(&store_id.to_le_bytes()),
        }
    }

    /// The checksum of the record at `lsn` with this first word. A void's has no payload.
    #[inline]
    pub(crate) fn checksum(&self, lsn: Lsn, word: u32, payload: &[u8]) -> u32 {
        self.sum(lsn, word, XxHash3_64::oneshot(payload))
    }

    /// Whether the record at `lsn` has the checksum that its header carries.
    #[inline]
    pub(crate) fn matches(&self, lsn: Lsn, header: RecordHeader, payload: &[u8]) -> bool {
        let payload = match header.kind {
            Kind::Data => payload,
            Kind::Void => &[],
        };
        self.checksum(lsn, header.word(), payload) == header.checksum
    }

    /// The payload's hash is taken first and the rest mixed in after it: a seed would cost more than
    /// the hash of a small payload, and this depends on nothing that is not at hand at the end.
    #[inline]
    fn sum(&self, lsn: Lsn, word: u32, payload: u64) -> u32 {
        let address = if canary!("lss-checksum-without-address") {
            0
        } else {
            lsn.get()
        };
        let seed = self.store ^ address ^ u64::from(word).wrapping_mul(WORD_FACTOR);
        let sum = payload ^ seed;
        let sum = (sum ^ sum >> 37).wrapping_mul(SUM_FACTOR);
        (sum >> 32) as u32
    }
}

/// The checksum of a data record whose payload comes in pieces.
pub(crate) struct RecordCheck {
    hash: XxHash3_64,
}

impl RecordCheck {
    pub(crate) fn new() -> Self {
        Self {
            hash: XxHash3_64::new(),
        }
    }

    /// The next bytes of the payload.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hash.write(bytes);
    }

    /// Whether it is what the header says.
    pub(crate) fn matches(&self, seal: &RecordSeal, lsn: Lsn, header: RecordHeader) -> bool {
        seal.sum(lsn, header.word(), self.hash.finish()) == header.checksum
    }
}

/// A header that names a kind that exists. Its checksum has not been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: Kind,
    /// The length of the payload.
    pub(crate) len: u32,
    pub(crate) checksum: u32,
}

impl RecordHeader {
    /// `None` when the kind is none: zeroes, a slot's header, anything else.
    #[inline]
    pub(crate) fn decode(bytes: [u8; HEADER_BYTES]) -> Option<Self> {
        let word = u32_at(&bytes, LENGTH_AND_KIND_AT);
        let kind = match word & ((1 << KIND_BITS) - 1) {
            DATA => Kind::Data,
            VOID => Kind::Void,
            _ => return None,
        };
        Some(Self {
            kind,
            len: word >> KIND_BITS,
            checksum: u32_at(&bytes, CHECKSUM_AT),
        })
    }

    /// The first word.
    #[inline]
    pub(crate) fn word(self) -> u32 {
        self.len << KIND_BITS | self.kind.code()
    }

    /// The room that the record takes, header and padding included.
    #[inline]
    pub(crate) fn encoded_len(self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.len).next_multiple_of(ALIGNMENT_BYTES as u64)
    }

    fn encode(word: u32, checksum: u32) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[LENGTH_AND_KIND_AT..CHECKSUM_AT].copy_from_slice(&word.to_le_bytes());
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// The room that a record with such a payload takes; `None` if the payload is too long for any.
#[inline]
pub(crate) const fn encoded_len(payload_len: usize) -> Option<usize> {
    if payload_len > MAX_PAYLOAD_BYTES {
        return None;
    }
    Some(HEADER_BYTES + payload_len.next_multiple_of(ALIGNMENT_BYTES))
}

/// The header of the data record with this payload at `lsn`.
///
/// # Panics
///
/// If the payload is longer than [`MAX_PAYLOAD_BYTES`].
#[inline]
pub(crate) fn encode_header(seal: &RecordSeal, lsn: Lsn, payload: &[u8]) -> [u8; HEADER_BYTES] {
    let word = word(Kind::Data, payload.len());
    RecordHeader::encode(word, seal.checksum(lsn, word, payload))
}

/// Writes the data record with this payload into the room reserved for it at `lsn`, and zeroes
/// what is left of the room. One copy.
///
/// # Panics
///
/// If the room is not [`encoded_len`] long.
#[inline]
pub(crate) fn write_into(room: &mut [u8], seal: &RecordSeal, lsn: Lsn, payload: &[u8]) {
    esker_buf::prefetch_behind(room, PREFETCHED_AHEAD);
    let (header, body) = split(room, payload.len());
    body.copy_from_slice(payload);
    header.copy_from_slice(&encode_header(seal, lsn, payload));
}

/// Has `fill` write a payload of `len` bytes in the room reserved for it at `lsn`, and makes a data
/// record of it. If `fill` fails the room is no record.
///
/// # Panics
///
/// If the room is not [`encoded_len`] long.
#[inline]
pub(crate) fn fill_into<E>(
    room: &mut [u8],
    seal: &RecordSeal,
    lsn: Lsn,
    len: usize,
    fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    esker_buf::prefetch_behind(room, PREFETCHED_AHEAD);
    let (header, body) = split(room, len);
    fill(body)?;
    header.copy_from_slice(&encode_header(seal, lsn, body));
    Ok(())
}

/// Header and payload of the room for a payload of `len` bytes, with the rest zeroed.
#[inline(always)]
fn split(room: &mut [u8], len: usize) -> (&mut [u8], &mut [u8]) {
    assert_eq!(
        Some(room.len()),
        encoded_len(len),
        "the room is made for the payload"
    );
    let (header, rest) = room.split_at_mut(HEADER_BYTES);
    let (body, padding) = rest.split_at_mut(len);
    padding.fill(0);
    (header, body)
}

/// The header of a void that fills `room_bytes` at `lsn`.
///
/// # Panics
///
/// If the room is not a multiple of 8, too small for a header, or too large for any record.
pub(crate) fn void_header(seal: &RecordSeal, lsn: Lsn, room_bytes: usize) -> [u8; HEADER_BYTES] {
    assert!(
        room_bytes >= HEADER_BYTES && room_bytes.is_multiple_of(ALIGNMENT_BYTES),
        "room is reserved in multiples of 8 bytes"
    );
    let word = word(Kind::Void, room_bytes - HEADER_BYTES);
    RecordHeader::encode(word, seal.checksum(lsn, word, &[]))
}

/// Turns the room at `lsn` into a void. What follows the header stays as it is.
///
/// # Panics
///
/// As [`void_header`].
pub(crate) fn write_void(room: &mut [u8], seal: &RecordSeal, lsn: Lsn) {
    let header = void_header(seal, lsn, room.len());
    room[..HEADER_BYTES].copy_from_slice(&header);
}

fn word(kind: Kind, len: usize) -> u32 {
    let len = u32::try_from(len)
        .ok()
        .filter(|&len| len as usize <= MAX_PAYLOAD_BYTES);
    len.expect("a payload's length was checked against the largest") << KIND_BITS | kind.code()
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordFault {
    /// No record begins with this word.
    NotARecord,
    /// It would reach past the end of the bytes.
    Overrun,
    /// The checksum does not match.
    Checksum,
}

/// A record whose checksum matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ParsedRecord<'b> {
    pub(crate) kind: Kind,
    /// What a void holds is arbitrary.
    pub(crate) payload: &'b [u8],
    /// The room it takes.
    pub(crate) encoded_len: usize,
}

/// The record at the beginning of `bytes`, whose address is `lsn`.
pub(crate) fn parse<'b>(
    bytes: &'b [u8],
    seal: &RecordSeal,
    lsn: Lsn,
) -> Result<ParsedRecord<'b>, RecordFault> {
    if bytes.len() < HEADER_BYTES {
        return Err(RecordFault::Overrun);
    }
    let header = RecordHeader::decode(array_at(bytes, 0)).ok_or(RecordFault::NotARecord)?;
    let encoded_len = HEADER_BYTES + (header.len as usize).next_multiple_of(ALIGNMENT_BYTES);
    if encoded_len > bytes.len() {
        return Err(RecordFault::Overrun);
    }
    let payload = &bytes[HEADER_BYTES..HEADER_BYTES + header.len as usize];
    if seal.matches(lsn, header, payload) {
        Ok(ParsedRecord {
            kind: header.kind,
            payload,
            encoded_len,
        })
    } else {
        Err(RecordFault::Checksum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(seal: &RecordSeal, lsn: Lsn, payload: &[u8]) -> Vec<u8> {
        let mut room = vec![0xAA; encoded_len(payload.len()).expect("short")];
        write_into(&mut room, seal, lsn, payload);
        room
    }

    proptest! {
        #[test]
        fn what_was_written_is_parsed(
            store: u64, lsn: u64, payload in proptest::collection::vec(any::<u8>(), 0..200)
        ) {
            let (seal, lsn) = (RecordSeal::new(store), Lsn::new(lsn));
            let bytes = encoded(&seal, lsn, &payload);
            let parsed = parse(&bytes, &seal, lsn).expect("just written");
            prop_assert_eq!(parsed.payload, &payload[..]);
            prop_assert_eq!((parsed.kind, parsed.encoded_len), (Kind::Data, bytes.len()));
            prop_assert!(bytes[HEADER_BYTES + payload.len()..].iter().all(|&byte| byte == 0));
            let mut check = RecordCheck::new();
            for piece in payload.chunks(13) {
                check.update(piece);
            }
            let header = RecordHeader::decode(array_at(&bytes, 0)).expect("just written");
            prop_assert!(check.matches(&seal, lsn, header));
            let elsewhere = Lsn::new(lsn.get() ^ 8);
            prop_assert_eq!(parse(&bytes, &seal, elsewhere), Err(RecordFault::Checksum));
            let foreign = RecordSeal::new(store ^ 1);
            prop_assert_eq!(parse(&bytes, &foreign, lsn), Err(RecordFault::Checksum));
        }

        #[test]
        fn any_flipped_bit_is_noticed(
            payload in proptest::collection::vec(any::<u8>(), 0..40), pick: prop::sample::Index
        ) {
            let (seal, lsn) = (RecordSeal::new(7), Lsn::new(64));
            let mut bytes = encoded(&seal, lsn, &payload);
            let bit = pick.index((HEADER_BYTES + payload.len()) * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(parse(&bytes, &seal, lsn).is_err());
        }

        /// Bytes changed at will, or cut short, are refused, or say what they said before: what
        /// rounds a record up is not covered by its checksum, but by its slot's.
        #[test]
        fn no_change_of_a_record_is_taken_for_another(
            payload in proptest::collection::vec(any::<u8>(), 0..40),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            len: prop::sample::Index,
        ) {
            let (seal, lsn) = (RecordSeal::new(7), Lsn::new(64));
            let whole = encoded(&seal, lsn, &payload);
            let mut bytes = whole.clone();
            for (at, value) in changes {
                bytes[at.index(whole.len())] = value;
            }
            let covered = HEADER_BYTES + payload.len();
            let expected = bytes[..covered] == whole[..covered];
            let found = parse(&bytes, &seal, lsn);
            prop_assert_eq!(found.is_ok(), expected);
            if let Ok(found) = found {
                prop_assert_eq!((found.payload, found.encoded_len), (&payload[..], whole.len()));
            }
            bytes.truncate(len.index(whole.len()));
            prop_assert!(parse(&bytes, &seal, lsn).is_err());
        }

        #[test]
        fn a_record_matches_nowhere_else(
            store: u64, lsn: u64, bit in 3u32..64, factor: u32, payload in
            proptest::collection::vec(any::<u8>(), 0..40)
        ) {
            let seal = RecordSeal::new(store);
            let bytes = encoded(&seal, Lsn::new(lsn), &payload);
            for elsewhere in [lsn ^ 1 << bit, lsn.wrapping_add((u64::from(factor) + 1) << 3)] {
                let parsed = parse(&bytes, &seal, Lsn::new(elsewhere));
                prop_assert_eq!(parsed, Err(RecordFault::Checksum));
            }
        }

        #[test]
        fn no_bytes_make_parsing_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), lsn: u64) {
            let _ = parse(&bytes, &RecordSeal::new(1), Lsn::new(lsn));
        }

        #[test]
        fn a_void_is_skipped_whatever_it_holds(words in 0usize..20, garbage: u8) {
            let (seal, lsn) = (RecordSeal::new(3), Lsn::new(4160));
            let mut room = vec![garbage; HEADER_BYTES + 8 * words];
            write_void(&mut room, &seal, lsn);
            let parsed = parse(&room, &seal, lsn).expect("a void");
            prop_assert_eq!((parsed.kind, parsed.encoded_len), (Kind::Void, room.len()));
        }
    }

    #[test]
    fn zeroes_and_unknown_kinds_are_no_records() {
        let seal = RecordSeal::new(0);
        for kind in [0u32, 3, 4, 5, 6, 7] {
            let bytes = RecordHeader::encode(kind, seal.checksum(Lsn::ZERO, kind, &[]));
            assert_eq!(
                parse(&bytes, &seal, Lsn::ZERO),
                Err(RecordFault::NotARecord)
            );
        }
        assert_eq!(
            parse(&[0; 64], &seal, Lsn::ZERO),
            Err(RecordFault::NotARecord)
        );
    }

    #[test]
    fn the_largest_length_is_named_without_overflow() {
        let word = word(Kind::Data, MAX_PAYLOAD_BYTES);
        let header = RecordHeader::decode(RecordHeader::encode(word, 0)).expect("data");
        assert_eq!(header.len as usize, MAX_PAYLOAD_BYTES);
        assert_eq!(header.encoded_len(), 8 + (1 << 29));
        assert_eq!(encoded_len(MAX_PAYLOAD_BYTES + 1), None);
        assert_eq!(encoded_len(usize::MAX), None);
    }
}
