//! [`WriteMemory`] and [`ReadMemory`]: owned memory of an operation, its type erased.
//!
//! An operation may be queued, in the kernel, or on its way back; wherever it is, it owns its
//! memory. The range that the kernel is told of is checked once, here, against the owner's length.

use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use std::any::Any;

use esker_buf::{IoBuf, IoBufMut};

use crate::sync::OnceLock;

/// A range that does not lie within the memory it was asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes {start}..{end} do not lie within a buffer of {len_bytes} bytes")]
pub struct RangeError {
    /// First byte of the range.
    pub start: usize,
    /// End of the range, exclusive.
    pub end: usize,
    /// The length of the buffer, in bytes.
    pub len_bytes: usize,
}

/// An owner of memory, its type erased, and the range of that memory which is meant.
///
/// Whoever makes one has the promise of [`IoBuf`] that the memory stays where it is, allocated and
/// initialised for as long as the owner is held; nobody else can reach it to write to it.
struct Owned {
    owner: Box<dyn Any + Send + Sync>,
    /// First byte of the range within the owner's memory. Good for writing if the owner is an
    /// [`IoBufMut`]; dangling if it is gathered memory.
    ptr: *mut u8,
    len: usize,
}

// SAFETY: the pointer leads into memory of `owner`, which is Send and Sync (`IoBuf`'s contract).
unsafe impl Send for Owned {}
// SAFETY: as above; `&Owned` gives only `&[u8]`.
unsafe impl Sync for Owned {}

impl Owned {
    /// The bytes `range` of it, if it has them.
    fn slice(mut self, range: Range<usize>) -> Result<Self, RangeError> {
        if range.start > range.end || range.end > self.len {
            return Err(RangeError {
                start: range.start,
                end: range.end,
                len_bytes: self.len,
            });
        }
        // SAFETY: `range.start` is at most the length of the owner's memory.
        self.ptr = unsafe { self.ptr.add(range.start) };
        self.len = range.end - range.start;
        Ok(self)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the range lies within the owner's memory, which is allocated, initialised and
        // unwritten while the owner is held: an operation in flight owns `self`.
        unsafe { core::slice::from_raw_parts(self.ptr, self.len) }
    }

    fn into_inner<B: Any>(self) -> Result<B, Self> {
        let Self { owner, ptr, len } = self;
        match owner.downcast::<B>() {
            Ok(owner) => Ok(*owner),
            Err(owner) => Err(Self { owner, ptr, len }),
        }
    }

    fn fmt(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("len_bytes", &self.len)
            .finish_non_exhaustive()
    }
}

/// How many vectors one system call takes.
const MAX_VECTORS: usize = 1024;

/// The owner of gathered memory.
struct Gathered {
    /// None of them is gathered itself.
    pieces: Vec<WriteMemory>,
    /// All of it in one piece, for those who can't take it in several.
    joined: OnceLock<Vec<u8>>,
}

/// Memory that a write takes its bytes from.
///
/// # Examples
///
/// ```
/// use esker_io::WriteMemory;
///
/// let memory = WriteMemory::slice(vec![1u8, 2, 3, 4], 1..3)?;
/// assert_eq!(memory.bytes(), [2, 3]);
/// assert_eq!(memory.into_inner::<Vec<u8>>().ok(), Some(vec![1, 2, 3, 4]));
/// assert!(WriteMemory::slice(vec![0u8; 4], 2..5).is_err());
/// # Ok::<(), esker_io::RangeError>(())
/// ```
pub struct WriteMemory(Owned);

impl WriteMemory {
    /// The whole of `buf`. Allocates a small box for the owner.
    pub fn new<B: IoBuf>(buf: B) -> Self {
        let owner = Box::new(buf);
        // The pointer is taken when the owner has reached its last place.
        let (ptr, len) = (owner.stable_ptr().cast_mut(), owner.len_bytes());
        Self(Owned { owner, ptr, len })
    }

    /// The bytes `range` of `buf`.
    ///
    /// # Errors
    ///
    /// [`RangeError`] when the range does not lie within the buffer, which is then dropped.
    pub fn slice<B: IoBuf>(buf: B, range: Range<usize>) -> Result<Self, RangeError> {
        Self::new(buf).0.slice(range).map(Self)
    }

    /// The bytes of all of `pieces`, one after the other, for one write: what a vectored write is
    /// here. Kernel backends hand the pieces over as they are, by one system call for up to 1024
    /// of them; each must be aligned as a write of its own would have to be.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_io::WriteMemory;
    ///
    /// let header = WriteMemory::new(b"head".to_vec());
    /// let memory = WriteMemory::gather(vec![header, WriteMemory::new(b"body".to_vec())]);
    /// assert_eq!(memory.len_bytes(), 8);
    /// assert_eq!(memory.pieces().count(), 2);
    /// assert_eq!(memory.into_pieces()[0].bytes(), b"head");
    /// ```
    #[must_use]
    pub fn gather(pieces: Vec<Self>) -> Self {
        let pieces: Vec<_> = pieces.into_iter().flat_map(Self::into_pieces).collect();
        let len = pieces.iter().map(Self::len_bytes).sum();
        Self(Owned {
            owner: Box::new(Gathered {
                pieces,
                joined: OnceLock::new(),
            }),
            ptr: NonNull::dangling().as_ptr(),
            len,
        })
    }

    fn gathered(&self) -> Option<&Gathered> {
        self.0.owner.downcast_ref()
    }

    /// The pieces of the memory, in order: one, unless it was [gathered](Self::gather).
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let pieces = match self.gathered() {
            Some(gathered) => &gathered.pieces,
            None => core::slice::from_ref(self),
        };
        pieces.iter().map(|piece| piece.0.bytes())
    }

    /// The pieces that were gathered; the memory itself if none were.
    #[must_use]
    pub fn into_pieces(self) -> Vec<Self> {
        match self.0.into_inner::<Gathered>() {
            Ok(gathered) => gathered.pieces,
            Err(owned) => vec![Self(owned)],
        }
    }

    /// The bytes to be written. Of gathered memory a copy in one piece, which is made the first
    /// time and kept.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self.gathered() {
            Some(gathered) => gathered
                .joined
                .get_or_init(|| self.pieces().collect::<Vec<_>>().concat()),
            None => self.0.bytes(),
        }
    }

    /// The bytes `start..start + len` in as many vectors as one system call takes. They name
    /// memory that is good for as long as `self` is.
    pub(crate) fn vectors(&self, start: usize, len: usize) -> Vec<libc::iovec> {
        let (mut skip, mut left) = (start, len);
        let mut vectors = Vec::new();
        for piece in self.pieces() {
            let (from, past) = (skip.min(piece.len()), skip.saturating_sub(piece.len()));
            skip = past;
            let take = left.min(piece.len() - from);
            if take > 0 {
                vectors.push(libc::iovec {
                    iov_base: piece[from..].as_ptr().cast_mut().cast(),
                    iov_len: take,
                });
                left -= take;
            }
            if left == 0 || vectors.len() == MAX_VECTORS {
                break;
            }
        }
        vectors
    }

    /// The length of the range, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.0.len
    }

    /// The owner again, if it is a `B`; else the memory as it was.
    ///
    /// # Errors
    ///
    /// The memory itself, when its owner is of another type.
    pub fn into_inner<B: IoBuf>(self) -> Result<B, Self> {
        self.0.into_inner().map_err(Self)
    }

    /// Where the memory begins, if it is in one piece.
    pub(crate) fn as_ptr(&self) -> Option<*const u8> {
        self.gathered().is_none().then_some(self.0.ptr.cast_const())
    }
}

impl fmt::Debug for WriteMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt("WriteMemory", f)
    }
}

/// Memory that a read puts its bytes into.
pub struct ReadMemory(Owned);

impl ReadMemory {
    /// The whole of `buf`. Allocates a small box for the owner.
    pub fn new<B: IoBufMut>(buf: B) -> Self {
        let mut owner = Box::new(buf);
        let (ptr, len) = (owner.stable_mut_ptr(), owner.len_bytes());
        Self(Owned { owner, ptr, len })
    }

    /// The bytes `range` of `buf`.
    ///
    /// # Errors
    ///
    /// [`RangeError`] when the range does not lie within the buffer, which is then dropped.
    pub fn slice<B: IoBufMut>(buf: B, range: Range<usize>) -> Result<Self, RangeError> {
        Self::new(buf).0.slice(range).map(Self)
    }

    /// The bytes of the range. Those past what a read transferred are as they were before it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// The bytes of the range, for writing.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `Owned::bytes`; the borrow is exclusive, and so is the owner, from which
        // `new` had a pointer that is good for writing.
        unsafe { core::slice::from_raw_parts_mut(self.0.ptr, self.0.len) }
    }

    /// The length of the range, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.0.len
    }

    /// The owner again, if it is a `B`; else the memory as it was.
    ///
    /// # Errors
    ///
    /// The memory itself, when its owner is of another type.
    pub fn into_inner<B: IoBufMut>(self) -> Result<B, Self> {
        self.0.into_inner().map_err(Self)
    }

    pub(crate) fn as_mut_ptr(&self) -> *mut u8 {
        self.0.ptr
    }
}

impl fmt::Debug for ReadMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt("ReadMemory", f)
    }
}

/// The memory of an operation, as its completion gives it back.
#[derive(Debug)]
pub enum Memory {
    /// The operation had none.
    None,
    /// What a read was to fill.
    Read(ReadMemory),
    /// What a write took its bytes from.
    Write(WriteMemory),
}

impl Memory {
    /// The bytes of the range; none for an operation without memory.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Read(memory) => memory.bytes(),
            Self::Write(memory) => memory.bytes(),
        }
    }

    /// The owner again, if it is a `B`; else the memory as it was.
    ///
    /// # Errors
    ///
    /// The memory itself, when there is none or its owner is of another type.
    pub fn into_inner<B: IoBuf>(self) -> Result<B, Self> {
        match self {
            Self::None => Err(Self::None),
            Self::Read(ReadMemory(owned)) => {
                owned.into_inner().map_err(|it| Self::Read(ReadMemory(it)))
            }
            Self::Write(memory) => memory.into_inner().map_err(Self::Write),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_past_the_end_or_turned_round_is_refused() {
        #[expect(clippy::reversed_empty_ranges, reason = "that is the test")]
        for range in [3..5, 5..5, 3..2, 0..usize::MAX, usize::MAX..usize::MAX] {
            let expected = Err(RangeError {
                start: range.start,
                end: range.end,
                len_bytes: 4,
            });
            assert_eq!(
                WriteMemory::slice(vec![0u8; 4], range.clone()).map(|m| m.len_bytes()),
                expected
            );
            assert_eq!(
                ReadMemory::slice(vec![0u8; 4], range).map(|m| m.len_bytes()),
                expected
            );
        }
        assert_eq!(
            WriteMemory::slice(vec![0u8; 4], 4..4).map(|m| m.bytes().len()),
            Ok(0)
        );
    }

    #[test]
    fn the_owner_comes_back_whole_and_only_as_what_it_is() {
        let memory = ReadMemory::slice(vec![1u8, 2, 3], 1..2).expect("in range");
        let memory = memory
            .into_inner::<Box<[u8]>>()
            .expect_err("it is a vector");
        assert_eq!(memory.bytes(), [2]);
        let vec = Memory::Read(memory).into_inner::<Vec<u8>>().expect("it is");
        assert_eq!(vec, [1, 2, 3]);
        assert!(Memory::None.into_inner::<Vec<u8>>().is_err());
    }
}
