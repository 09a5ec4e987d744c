//! The contract for memory that the kernel is using: [`IoBuf`], [`IoBufMut`] and [`IoRegion`].
//!
//! An operation takes its buffer *by value* and gives it back with the completion. In between, the
//! kernel reads or writes the memory behind the program's back, so three things must hold whatever
//! safe code does meanwhile: the memory stays where it is, stays allocated, and nobody else writes
//! (for a read operation: touches) it. Owning the value gives all three, provided that the type
//! keeps its bytes behind a pointer and that whoever holds the value until completion does not
//! drop it early. These traits say which types do.

use crate::AlignedBuf;
use crate::sync::Arc;

/// Owned memory that the kernel may read from while the value is held.
///
/// # Safety
///
/// From the moment a value is handed over until it is dropped, wherever it is moved meanwhile:
/// - [`stable_ptr`](Self::stable_ptr) and [`len_bytes`](Self::len_bytes) give the same answers;
/// - the memory is allocated and every byte of it initialised;
/// - no safe code can write to it except through `&mut` of the value itself.
///
/// # Examples
///
/// ```
/// use esker_buf::IoBuf;
///
/// /// What an operation does with whatever it is given: it holds it until the kernel is done.
/// fn send(buf: impl IoBuf) -> usize {
///     buf.len_bytes()
/// }
///
/// let shared = std::sync::Arc::new(b"twelve bytes".to_vec());
/// assert_eq!(shared.as_bytes(), b"twelve bytes");
/// assert_eq!(send(shared), 12);
/// assert_eq!(send(vec![0; 512].into_boxed_slice()), 512);
/// ```
pub unsafe trait IoBuf: Send + Sync + 'static {
    /// The address of the first byte. It need not be dereferenceable when the length is zero.
    fn stable_ptr(&self) -> *const u8;

    /// The length in bytes.
    fn len_bytes(&self) -> usize;

    /// The bytes.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: the trait's contract: allocated, initialised, and nobody writes while `self` is
        // borrowed. A dangling pointer is well aligned and not null for a length of zero.
        unsafe { core::slice::from_raw_parts(self.stable_ptr(), self.len_bytes()) }
    }
}

/// Owned memory that the kernel may also write to while the value is held.
///
/// # Safety
///
/// As [`IoBuf`], and while the value is held by an operation nobody else reads the memory either:
/// so a shared owner (`Arc`) can't implement it.
///
/// # Examples
///
/// ```
/// use esker_buf::{AlignedBuf, Alignment, IoBuf, IoBufMut};
///
/// let mut buf = AlignedBuf::zeroed(4096, Alignment::BLOCK)?;
/// assert_eq!(buf.stable_mut_ptr().cast_const(), buf.stable_ptr());
/// # Ok::<(), esker_buf::AllocError>(())
/// ```
pub unsafe trait IoBufMut: IoBuf {
    /// The address of the first byte, good for writing.
    fn stable_mut_ptr(&mut self) -> *mut u8;
}

/// A stretch of memory that the kernel may be told of in advance: the buffers of operations to come
/// lie in it.
///
/// It is held for as long as the kernel knows the memory, and gives nobody access to it: each
/// operation still brings an [`IoBuf`] of its own, which owns its part.
///
/// # Safety
///
/// From the moment a value is handed over until it is dropped, wherever it is moved meanwhile,
/// [`region`](Self::region) gives the same answer, and the memory that it names stays allocated, by
/// the same pages: it is not freed, not mapped anew, and not given back to the system in parts.
///
/// # Examples
///
/// ```
/// use esker_buf::{Alignment, BufferPool, HugePages, IoBuf, IoRegion};
///
/// let pool = BufferPool::new(2, 4096, Alignment::BLOCK, HugePages::Never)?;
/// let buf = pool.take().expect("both are there");
/// let (start, len_bytes) = pool.region();
/// let offset = buf.stable_ptr().addr() - start.addr();
/// assert!(offset + buf.len_bytes() <= len_bytes);
/// # Ok::<(), esker_buf::AllocError>(())
/// ```
pub unsafe trait IoRegion: Send + Sync + 'static {
    /// The first byte and the length in bytes.
    fn region(&self) -> (*const u8, usize);
}

// SAFETY: the inner value is dropped no earlier than the last owner.
unsafe impl<R: IoRegion + ?Sized> IoRegion for Arc<R> {
    fn region(&self) -> (*const u8, usize) {
        (**self).region()
    }
}

// SAFETY: the heap memory behind the pointer is owned, initialised, and stays put when the value
// moves.
unsafe impl IoBuf for AlignedBuf {
    fn stable_ptr(&self) -> *const u8 {
        self.as_non_null().as_ptr()
    }

    fn len_bytes(&self) -> usize {
        self.len()
    }
}

// SAFETY: as above; the owner is exclusive.
unsafe impl IoBufMut for AlignedBuf {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.as_non_null().as_ptr()
    }
}

// SAFETY: the heap memory behind the vector stays put while nobody has `&mut` of it; only its
// initialised part is named.
unsafe impl IoBuf for Vec<u8> {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn len_bytes(&self) -> usize {
        self.len()
    }
}

// SAFETY: as above; the owner is exclusive, and the length does not change.
unsafe impl IoBufMut for Vec<u8> {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }
}

// SAFETY: as for `Vec<u8>`.
unsafe impl IoBuf for Box<[u8]> {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn len_bytes(&self) -> usize {
        self.len()
    }
}

// SAFETY: as for `Vec<u8>`.
unsafe impl IoBufMut for Box<[u8]> {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }
}

// SAFETY: static memory is never freed, moved or written.
unsafe impl IoBuf for &'static [u8] {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn len_bytes(&self) -> usize {
        self.len()
    }
}

// SAFETY: the inner value does not move, is dropped no earlier than the last owner, and nobody can
// have `&mut` of it while this owner lives.
unsafe impl<B: IoBuf + ?Sized> IoBuf for Arc<B> {
    fn stable_ptr(&self) -> *const u8 {
        (**self).stable_ptr()
    }

    fn len_bytes(&self) -> usize {
        (**self).len_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Alignment;

    /// Moves the value and gives it back with the address it had before and after.
    fn moved<B: IoBuf>(buf: B) -> (B, *const u8, *const u8) {
        let before = buf.stable_ptr();
        let kept = Box::new(buf);
        let after = kept.stable_ptr();
        (*kept, before, after)
    }

    #[test]
    fn addresses_survive_moves() {
        let aligned = AlignedBuf::zeroed(64, Alignment::BLOCK).expect("memory");
        let (aligned, before, after) = moved(aligned);
        assert_eq!(before, after);
        assert_eq!(aligned.as_bytes(), [0; 64]);
        let (vec, before, after) = moved(vec![7u8; 3]);
        assert_eq!(before, after);
        assert_eq!(vec.as_bytes(), [7; 3]);
        let (shared, before, after) = moved(Arc::new(vec![9u8; 2].into_boxed_slice()));
        assert_eq!(before, after);
        assert_eq!(shared.as_bytes(), [9; 2]);
    }

    #[test]
    fn an_empty_buffer_has_no_bytes() {
        assert_eq!(Vec::new().as_bytes(), [0u8; 0]);
        assert_eq!(
            AlignedBuf::zeroed(0, Alignment::BLOCK)
                .expect("memory")
                .as_bytes(),
            [0u8; 0]
        );
    }
}
