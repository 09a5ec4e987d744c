//! [`BufferPool`]: buffers of one size, cut from one allocation and used again.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use crate::sync::{Arc, Mutex};
use crate::{AlignedBuf, Alignment, AllocError, HugePages, IoBuf, IoBufMut, IoRegion};

/// A number of buffers of one size in one stretch of memory.
///
/// Small buffers reach huge pages this way, and a kernel that is told of the memory once need not
/// be told of each buffer ([`IoRegion`]). Cloning it is cheap; the memory goes with the last clone
/// or buffer.
///
/// # Examples
///
/// ```
/// use esker_buf::{Alignment, BufferPool, HugePages};
///
/// let pool = BufferPool::new(2, 4096, Alignment::BLOCK, HugePages::Try)?;
/// let mut first = pool.take().expect("both are there");
/// first.fill(7);
/// let second = pool.take().expect("one is left");
/// assert!(pool.take().is_none());
/// drop(first);
/// assert!(pool.take().is_some());
/// # Ok::<(), esker_buf::AllocError>(())
/// ```
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    arena: AlignedBuf,
    /// The length of a buffer.
    len: usize,
    /// From the start of one to the start of the next: a multiple of the alignment.
    stride: usize,
    /// The numbers of those that nobody has.
    free: Mutex<Vec<usize>>,
}

impl BufferPool {
    /// Allocates `count` buffers of `len_bytes` zeroed bytes, each at a multiple of `alignment`.
    ///
    /// # Errors
    ///
    /// [`AllocError`] when there is no such memory. A kernel without huge pages is not an error.
    pub fn new(
        count: usize,
        len_bytes: usize,
        alignment: Alignment,
        huge_pages: HugePages,
    ) -> Result<Self, AllocError> {
        let too_much = AllocError {
            len_bytes: usize::MAX,
            alignment,
        };
        let stride = alignment
            .ceil(len_bytes as u64)
            .and_then(|stride| usize::try_from(stride).ok());
        let stride = stride.ok_or(too_much)?;
        let all = stride.checked_mul(count).ok_or(too_much)?;
        let arena = AlignedBuf::zeroed_on(all, alignment, huge_pages)?;
        Ok(Self {
            shared: Arc::new(Shared {
                arena,
                len: len_bytes,
                stride,
                free: Mutex::new((0..count).rev().collect()),
            }),
        })
    }

    /// A buffer that nobody has, with what its last owner left in it; `None` if there is none.
    /// Takes a lock for some instructions; does not wait for a buffer.
    #[must_use]
    pub fn take(&self) -> Option<PoolBuf> {
        let index = self.shared.free.lock().pop()?;
        Some(PoolBuf {
            shared: Arc::clone(&self.shared),
            index,
        })
    }

    /// The length of each buffer, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.shared.len
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("len_bytes", &self.shared.len)
            .field("free", &self.shared.free.lock().len())
            .finish_non_exhaustive()
    }
}

// SAFETY: the arena is neither freed, moved nor mapped anew before the last clone is dropped.
unsafe impl IoRegion for BufferPool {
    fn region(&self) -> (*const u8, usize) {
        let arena = &self.shared.arena;
        (arena.as_non_null().as_ptr(), arena.len())
    }
}

/// A buffer of a [`BufferPool`], which has it back when this is dropped.
///
/// # Examples
///
/// ```
/// use esker_buf::{Alignment, BufferPool, HugePages, PoolBuf};
///
/// let pool = BufferPool::new(1, 512, Alignment::SECTOR, HugePages::Never)?;
/// let mut buf: PoolBuf = pool.take().expect("it is there");
/// buf[..5].copy_from_slice(b"esker");
/// // It outlives the handle on its pool.
/// let len_bytes = pool.len_bytes();
/// drop(pool);
/// assert_eq!((&buf[..5], buf.len()), (&b"esker"[..], len_bytes));
/// # Ok::<(), esker_buf::AllocError>(())
/// ```
pub struct PoolBuf {
    shared: Arc<Shared>,
    /// Which one: nobody else has the number while this lives.
    index: usize,
}

impl PoolBuf {
    fn start(&self) -> NonNull<u8> {
        let offset = self.index * self.shared.stride;
        // SAFETY: the arena has a stride for each index.
        unsafe { self.shared.arena.as_non_null().add(offset) }
    }
}

impl Deref for PoolBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer lies within the arena, which is initialised and lives as long as
        // `shared`; its number is this owner's alone, so nobody writes to it meanwhile.
        unsafe { core::slice::from_raw_parts(self.start().as_ptr(), self.shared.len) }
    }
}

impl DerefMut for PoolBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes the borrow exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.start().as_ptr(), self.shared.len) }
    }
}

impl Drop for PoolBuf {
    fn drop(&mut self) {
        self.shared.free.lock().push(self.index);
    }
}

// SAFETY: the arena stays where it is, allocated and initialised, for as long as `shared` is held,
// and the number, with it the bytes, is this value's alone.
unsafe impl IoBuf for PoolBuf {
    fn stable_ptr(&self) -> *const u8 {
        self.start().as_ptr()
    }

    fn len_bytes(&self) -> usize {
        self.shared.len
    }
}

// SAFETY: as above; the owner is exclusive.
unsafe impl IoBufMut for PoolBuf {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.start().as_ptr()
    }
}

impl fmt::Debug for PoolBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuf")
            .field("len_bytes", &self.shared.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_do_not_overlap_and_come_back() {
        let pool = BufferPool::new(3, 1000, Alignment::SECTOR, HugePages::Never).expect("memory");
        for round in 0u8..3 {
            let mut all: Vec<_> = core::iter::from_fn(|| pool.take()).collect();
            assert_eq!(all.len(), 3);
            for (buf, mark) in all.iter_mut().zip(round * 3..) {
                assert_eq!(buf.len(), 1000);
                assert!(Alignment::SECTOR.divides(buf.as_ptr().addr() as u64));
                buf.fill(mark);
            }
            for (buf, mark) in all.iter().zip(round * 3..) {
                assert!(buf.iter().all(|&byte| byte == mark));
            }
        }
    }

    #[test]
    fn a_buffer_outlives_its_pool_and_lies_in_its_region() {
        let pool = BufferPool::new(2, 4096, Alignment::BLOCK, HugePages::Try).expect("memory");
        let (start, len) = pool.region();
        let mut buf = pool.take().expect("it is there");
        drop(pool);
        buf.fill(1);
        let offset = buf.as_ptr().addr() - start.addr();
        assert!(offset + buf.len() <= len);
    }

    #[test]
    fn more_than_there_is_is_an_error() {
        for (count, len) in [(usize::MAX, 2), (2, usize::MAX), (1, usize::MAX - 1)] {
            let pool = BufferPool::new(count, len, Alignment::BLOCK, HugePages::Never);
            assert!(pool.is_err());
        }
        let none = BufferPool::new(0, 10, Alignment::ONE, HugePages::Never).expect("no memory");
        assert!(none.take().is_none());
    }
}
