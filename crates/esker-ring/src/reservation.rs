//! [`Reservation`]: exclusive use of some bytes of a buffer until they are committed.

use core::fmt;
use core::ops::{Deref, DerefMut};
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use crate::shared::Shared;
use crate::slot::Slot;
use crate::sync::Arc;
use crate::{BufferSeq, SealedBuffer};

/// Reserved bytes at a final address, to be filled and [committed](Self::commit).
///
/// It derefs to exactly the bytes asked for. They hold whatever the buffer held before: fill them
/// all. While it lives its buffer can be sealed but not handed over.
///
/// Dropping it, also by unwinding, fills the bytes with a void record and leaves; a sealed buffer
/// that falls to the drop is parked in the ring and handed out by the next call that finds the
/// buffer sealed, or by [`Ring::take_orphan`](crate::Ring::take_orphan). Forgetting it
/// (`mem::forget`) keeps its buffer, and so in time the ring, from moving on; nothing unsound
/// comes of it.
#[must_use = "a reservation that is dropped becomes a void record"]
pub struct Reservation<'a> {
    shared: &'a Arc<Shared>,
    slot: &'a Slot,
    bytes: NonNull<u8>,
    len: usize,
    address: u64,
}

// SAFETY: the bytes are the reservation's alone, and what it refers to is shared by design.
unsafe impl Send for Reservation<'_> {}
// SAFETY: `&Reservation` gives out only `&[u8]`.
unsafe impl Sync for Reservation<'_> {}

impl<'a> Reservation<'a> {
    /// The `len` bytes at `bytes` lie in `slot`'s memory and are covered by one writer count and
    /// no other reservation: the caller has just taken both.
    #[inline]
    pub(crate) fn new(
        shared: &'a Arc<Shared>,
        slot: &'a Slot,
        bytes: NonNull<u8>,
        len: usize,
        address: u64,
    ) -> Self {
        Self {
            shared,
            slot,
            bytes,
            len,
            address,
        }
    }

    /// The address of the first byte. It is final.
    #[must_use]
    #[inline]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The sequence number of the buffer.
    #[must_use]
    pub fn seq(&self) -> BufferSeq {
        BufferSeq::new(self.slot.tenancy.seq())
    }

    /// Makes the bytes part of the log. Does not block, allocate or spin.
    ///
    /// The last one out of a sealed buffer gets the buffer, and has to see to its flush and its
    /// [recycling](SealedBuffer::recycle).
    #[must_use = "the last one out of a sealed buffer has to flush it"]
    #[inline]
    pub fn commit(self) -> Option<SealedBuffer> {
        let this = ManuallyDrop::new(self);
        this.slot.memory.note_writes(this.bytes, this.len);
        Shared::leave(this.shared, this.slot)
    }

    /// Fills the bytes with a void record instead and leaves, as dropping does, but hands over the
    /// buffer as [`commit`](Self::commit) does.
    #[must_use = "the last one out of a sealed buffer has to flush it"]
    pub fn cancel(self) -> Option<SealedBuffer> {
        let mut this = ManuallyDrop::new(self);
        let departure = Departure(this.shared, this.slot);
        this.fill_void();
        std::mem::forget(departure);
        Shared::leave(this.shared, this.slot)
    }

    fn fill_void(&mut self) {
        let address = self.address;
        let void = &self.shared.void;
        void(address, self);
    }
}

/// Leaves when it is dropped: a void writer that panics must not wedge the buffer.
struct Departure<'a>(&'a Arc<Shared>, &'a Slot);

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        self.0.leave_to_ring(self.1);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let _departure = Departure(self.shared, self.slot);
        self.fill_void();
    }
}

impl Deref for Reservation<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.slot.memory.note_reads(self.bytes, self.len);
        // SAFETY: the `len` bytes are initialised (the arena and extents are zeroed when they are
        // allocated), live as long as the ring, which `self` borrows, and belong to this
        // reservation alone (R1).
        unsafe { core::slice::from_raw_parts(self.bytes.as_ptr(), self.len) }
    }
}

impl DerefMut for Reservation<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.slot.memory.note_writes(self.bytes, self.len);
        // SAFETY: as in `deref`; `&mut self` makes the borrow exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Reservation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("address", &self.address)
            .field("len", &self.len)
            .finish()
    }
}
