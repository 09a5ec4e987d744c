//! The bytes on disk, format version 1: encoding and decoding, without I/O.
//!
//! `docs/format.md` says what they mean; a test there ties its tables to the constants here.
//! Everything is little-endian.

pub(crate) mod chain;
#[cfg(test)]
mod doc_test;
pub(crate) mod record;
pub(crate) mod slot;
pub(crate) mod superblock;

/// The format that this code reads and writes.
pub(crate) const VERSION: u16 = 1;

/// The `N` bytes at `at`. The callers' offsets are constants within the slice's known length.
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}
