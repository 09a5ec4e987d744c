//! [`SealedBuffer`]: a buffer that nobody writes to any more, owned by its flusher.

use core::fmt;
use std::ptr::NonNull;

use esker_buf::{AlignedBuf, IoBuf};

use crate::BufferSeq;
use crate::shared::Shared;
use crate::sync::Arc;

/// A sealed buffer, handed over once to exactly one owner.
///
/// The owner may do anything with the bytes: fill the header, write them somewhere, send them.
/// As an [`IoBuf`] it is its *padded* bytes: header, records, and zeroes up to the alignment.
/// Dropping it, or [`recycle`](Self::recycle), which is the same, frees its slot: the ring can
/// reuse the memory. So drop it when the bytes are where they belong, not before. A flusher that
/// panics drops it too: the ring goes on, and it is for the layer above to notice what was lost.
/// Forgetting it (`mem::forget`) keeps its slot: the ring stops when it comes round to it, and
/// [`Ring::blocker`](crate::Ring::blocker) names it.
///
/// # Examples
///
/// ```
/// # use esker_ring::{Ring, Reserve, Seal};
/// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
/// # let Reserve::Reserved(mut record) = ring.reserve(8)? else { unreachable!() };
/// # record.copy_from_slice(b"a record");
/// # let address = record.address();
/// # assert!(record.commit().is_none());
/// # let Seal::Sealed { buffer: Some(mut buffer), .. } = ring.seal() else { unreachable!() };
/// assert_eq!((buffer.seq().get(), buffer.base()), (0, 0));
/// // The layer above finishes the header and puts the bytes where they belong.
/// let len = buffer.len() as u64;
/// buffer.header_mut()[..8].copy_from_slice(&len.to_le_bytes());
/// let mut log = vec![0; 8192];
/// let at = usize::try_from(buffer.base())?;
/// log[at..at + buffer.padded_len()].copy_from_slice(buffer.padded_bytes());
/// buffer.recycle();
///
/// let record = usize::try_from(address)?;
/// assert_eq!(&log[record..record + 8], b"a record");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping a sealed buffer gives its memory back to the ring, written or not"]
pub struct SealedBuffer {
    shared: Arc<Shared>,
    bytes: NonNull<u8>,
    seq: u64,
    base: u64,
    len: usize,
    padded_len: usize,
    is_extent: bool,
}

// SAFETY: it owns its bytes exclusively, and the memory behind them lives as long as `shared`.
unsafe impl Send for SealedBuffer {}
// SAFETY: `&SealedBuffer` gives out only `&[u8]`.
unsafe impl Sync for SealedBuffer {}

impl SealedBuffer {
    /// Takes over the buffer whose flush the caller has claimed, zeroing header and padding.
    pub(crate) fn take_over(shared: Arc<Shared>, seq: u64) -> Self {
        let slot = shared.slot(seq);
        let (base, next_base) = (slot.tenancy.base(), slot.tenancy.next_base());
        #[expect(
            clippy::cast_possible_truncation,
            reason = "lengths of memory that is there"
        )]
        let (len, padded_len) = (
            slot.tenancy.end() as usize,
            next_base.wrapping_sub(base) as usize,
        );
        let extent = slot.memory.extent.with(|extent| {
            // SAFETY: the flush claim is held: the inserter is out, and nobody else looks (E3).
            unsafe { &*extent }.as_ref().map(AlignedBuf::as_non_null)
        });
        if canary!("extent-freed-at-hand-over") {
            slot.memory.extent.with_mut(|extent| {
                // SAFETY: it is not: this buffer goes on to use the memory that is freed here.
                drop(unsafe { (*extent).take() });
            });
        }
        let mut buffer = Self {
            bytes: extent.unwrap_or(slot.memory.arena),
            seq,
            base,
            len,
            padded_len,
            is_extent: extent.is_some(),
            shared,
        };
        buffer.header_mut().fill(0);
        buffer.padded_mut()[len..].fill(0);
        buffer
    }

    /// The sequence number.
    #[must_use]
    pub fn seq(&self) -> BufferSeq {
        BufferSeq::new(self.seq)
    }

    /// The address of the first byte, which is the header's.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The sealed length in bytes: the header area and everything reserved.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "an empty buffer is never sealed"
    )]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The sealed length rounded up to the alignment, in bytes.
    #[must_use]
    pub fn padded_len(&self) -> usize {
        self.padded_len
    }

    /// The base address of the next buffer: `base() + padded_len()`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use esker_ring::{Ring, Reserve, Seal};
    /// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
    /// # let Reserve::Reserved(mut record) = ring.reserve(8)? else { unreachable!() };
    /// # record.copy_from_slice(b"a record");
    /// # let address = record.address();
    /// # assert!(record.commit().is_none());
    /// # let Seal::Sealed { buffer: Some(buffer), .. } = ring.seal() else { unreachable!() };
    /// assert_eq!(buffer.len(), ring.header_bytes() + 8);
    /// assert_eq!(buffer.padded_len(), 4096); // the alignment
    /// assert_eq!(buffer.next_base(), 4096);
    /// assert_eq!(buffer.bytes().len(), buffer.len());
    /// assert_eq!(buffer.padded_bytes().len(), buffer.padded_len());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn next_base(&self) -> u64 {
        self.base + self.padded_len as u64
    }

    /// Whether it is an extent with memory of its own.
    #[must_use]
    pub fn is_extent(&self) -> bool {
        self.is_extent
    }

    /// Header and records: [`len`](Self::len) bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.padded_bytes()[..self.len]
    }

    /// Header and records, for the layer above to finish.
    ///
    /// # Examples
    ///
    /// ```
    /// # use esker_ring::{Ring, Reserve, Seal};
    /// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
    /// # let Reserve::Reserved(mut record) = ring.reserve(8)? else { unreachable!() };
    /// # record.copy_from_slice(b"a record");
    /// # assert!(record.commit().is_none());
    /// # let Seal::Sealed { buffer: Some(mut buffer), .. } = ring.seal() else { unreachable!() };
    /// // Encrypted, say, on its way out.
    /// buffer.bytes_mut()[64..].make_ascii_uppercase();
    /// assert_eq!(&buffer.bytes()[64..], b"A RECORD");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.padded_mut()[..len]
    }

    /// The header area. It is zero until it is filled.
    #[must_use]
    pub fn header_mut(&mut self) -> &mut [u8] {
        let header = self.shared.shape.header as usize;
        &mut self.padded_mut()[..header]
    }

    /// Header, records and the zeroes after them: [`padded_len`](Self::padded_len) bytes.
    #[must_use]
    pub fn padded_bytes(&self) -> &[u8] {
        self.shared
            .slot(self.seq)
            .memory
            .note_reads(self.bytes, self.padded_len);
        // SAFETY: the padded length is within the slot's capacity, a multiple of the alignment, or
        // within the extent's memory, as its insertion checked; the bytes are initialised, live as
        // long as `shared`, and are this owner's alone from the flush claim to `recycle` (R3).
        unsafe { core::slice::from_raw_parts(self.bytes.as_ptr(), self.padded_len) }
    }

    fn padded_mut(&mut self) -> &mut [u8] {
        self.shared
            .slot(self.seq)
            .memory
            .note_writes(self.bytes, self.padded_len);
        // SAFETY: as in `padded_bytes`; `&mut self` makes the borrow exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.padded_len) }
    }

    /// Gives the slot back to the ring, which opens the next buffer with it if it waited for it.
    /// The same as dropping; an extent's memory is freed.
    pub fn recycle(self) {}

    /// Recycles, and returns the memory of an extent; `None` for an ordinary buffer.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_buf::{AlignedBuf, Alignment};
    /// use esker_ring::{ReserveExtent, Ring};
    ///
    /// let ring = Ring::builder().build()?;
    /// let memory = AlignedBuf::zeroed(8192, Alignment::BLOCK)?;
    /// let ReserveExtent::Reserved { reservation, .. } = ring.reserve_extent(memory, 8000)? else {
    ///     panic!("the next slot is free");
    /// };
    /// let extent = reservation.commit().expect("it alone was in it");
    /// assert!(extent.is_extent());
    /// let memory = extent.reclaim().expect("an extent's");
    /// assert_eq!(memory.len(), 8192);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "the memory is the caller's again"]
    pub fn reclaim(self) -> Option<AlignedBuf> {
        self.take_extent()
    }

    fn take_extent(&self) -> Option<AlignedBuf> {
        if !self.is_extent {
            return None;
        }
        let slot = self.shared.slot(self.seq);
        slot.memory.extent.with_mut(|extent| {
            // SAFETY: this owner has the tenancy to itself until it is recycled (R3).
            unsafe { (*extent).take() }
        })
    }
}

impl Drop for SealedBuffer {
    fn drop(&mut self) {
        if self.is_extent {
            drop(self.take_extent());
        } else {
            let memory = &self.shared.slot(self.seq).memory;
            memory.note_writes(self.bytes, self.padded_len);
        }
        self.shared.recycle(self.seq);
    }
}

// SAFETY: the pointer and the padded length are fixed at the hand-over; the memory is the ring's,
// which `shared` keeps alive, or the extent's, which the slot owns until the drop; and only
// `&mut self` gives out a way to write to it.
unsafe impl IoBuf for SealedBuffer {
    fn stable_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    fn len_bytes(&self) -> usize {
        self.padded_len
    }
}

impl fmt::Debug for SealedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedBuffer")
            .field("seq", &self.seq)
            .field("base", &self.base)
            .field("len", &self.len)
            .field("is_extent", &self.is_extent)
            .finish()
    }
}
