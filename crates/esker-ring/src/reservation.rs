//! [`Reservation`]: exclusive use of some bytes of a buffer until they are committed.

use core::fmt;
use core::ops::{Deref, DerefMut};
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use crate::lease::{Commit, Lease};
use crate::shared::{Departure, Shared};
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
/// (`mem::forget`) keeps its buffer, and so in time the ring, from moving on, and
/// [`Ring::blocker`](crate::Ring::blocker) says so; nothing unsound comes of it.
///
/// # Examples
///
/// ```
/// # use esker_ring::{Reserve, Ring, Seal};
/// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
/// let Reserve::Reserved(mut record) = ring.reserve(8)? else {
///     panic!("the first buffer is open and empty");
/// };
/// // Exclusive use of these bytes, at an address that is final.
/// record[..4].copy_from_slice(b"half");
/// record[4..].fill(b'.');
/// assert_eq!((record.address(), record.seq().get()), (64, 0));
/// assert!(record.commit().is_none());
///
/// let Reserve::Reserved(second) = ring.reserve(8)? else { unreachable!() };
/// drop(second); // a void record
/// let Seal::Sealed { buffer: Some(buffer), .. } = ring.seal() else { unreachable!() };
/// assert_eq!(&buffer.bytes()[64..], b"half....\0\0\0\0\0\0\0\0");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a reservation that is dropped becomes a void record"]
pub struct Reservation<'a> {
    shared: &'a Arc<Shared>,
    slot: &'a Slot,
    bytes: NonNull<u8>,
    len: usize,
    address: u64,
    exit: Exit<'a>,
}

/// What a reservation gives back when it is over.
#[derive(Clone, Copy)]
pub(crate) enum Exit<'a> {
    /// A writer of its own in the buffer.
    Buffer,
    /// The active bit of a lease that goes on.
    Lease(&'a Lease),
    /// A lease that it fills up, with the lease's writer in the buffer.
    LeaseToItsEnd(&'a Lease),
}

// SAFETY: the bytes are the reservation's alone, and what it refers to is shared by design.
unsafe impl Send for Reservation<'_> {}
// SAFETY: `&Reservation` gives out only `&[u8]`.
unsafe impl Sync for Reservation<'_> {}

impl<'a> Reservation<'a> {
    /// The `len` bytes at `bytes` lie in `slot`'s memory and are covered by one writer count and
    /// no other reservation: the caller has just taken both, or the count is that of the lease in
    /// `exit`, in which the caller has just begun the record.
    #[inline]
    pub(crate) fn new(
        shared: &'a Arc<Shared>,
        slot: &'a Slot,
        bytes: NonNull<u8>,
        len: usize,
        address: u64,
        exit: Exit<'a>,
    ) -> Self {
        Self {
            shared,
            slot,
            bytes,
            len,
            address,
            exit,
        }
    }

    /// The address of the first byte. It is final.
    ///
    /// # Examples
    ///
    /// ```
    /// # use esker_ring::{Ring, Reserve, Seal};
    /// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
    /// # let Reserve::Reserved(record) = ring.reserve(8)? else { unreachable!() };
    /// assert_eq!(record.address(), ring.header_bytes() as u64);
    /// assert_eq!(record.seq().get(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
    ///
    /// # Examples
    ///
    /// ```
    /// # use esker_ring::{Ring, Reserve, Seal};
    /// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
    /// # let Reserve::Reserved(mut record) = ring.reserve(8)? else { unreachable!() };
    /// record.copy_from_slice(b"a record");
    /// // Sealed under the writer, which is then the last one out.
    /// assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
    /// let buffer = record.commit().expect("the buffer");
    /// assert_eq!(&buffer.bytes()[ring.header_bytes()..], b"a record");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "the last one out of a sealed buffer has to flush it"]
    #[inline]
    pub fn commit(self) -> Option<SealedBuffer> {
        let this = ManuallyDrop::new(self);
        this.slot.memory.note_writes(this.bytes, this.len);
        this.leave()
    }

    /// Fills the bytes with a void record instead and leaves, as dropping does, but hands over the
    /// buffer as [`commit`](Self::commit) does.
    ///
    /// # Examples
    ///
    /// ```
    /// # use esker_ring::{Ring, Reserve, Seal};
    /// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
    /// # let Reserve::Reserved(mut record) = ring.reserve(8)? else { unreachable!() };
    /// record.fill(7);
    /// assert!(record.cancel().is_none());
    /// let Seal::Sealed { buffer: Some(buffer), .. } = ring.seal() else {
    ///     panic!("nobody is writing");
    /// };
    /// // What a void record looks like is for the builder's `void` to say; by default it is zeroes.
    /// assert_eq!(buffer.bytes()[ring.header_bytes()..], [0; 8]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "the last one out of a sealed buffer has to flush it"]
    pub fn cancel(self) -> Option<SealedBuffer> {
        let mut this = ManuallyDrop::new(self);
        let exiting = this.exiting();
        this.fill_void();
        std::mem::forget(exiting);
        this.leave()
    }

    #[inline(always)]
    fn leave(&self) -> Option<SealedBuffer> {
        match self.exit {
            Exit::Buffer => Shared::leave(self.shared, self.slot),
            Exit::Lease(lease) => match lease.commit() {
                Commit::Idle => None,
                Commit::Close(closing) => Shared::close_lease(self.shared, closing),
            },
            Exit::LeaseToItsEnd(lease) => {
                lease.commit_last();
                Shared::leave(self.shared, self.slot)
            }
        }
    }

    fn exiting(&self) -> Exiting<'a> {
        Exiting {
            shared: self.shared,
            slot: self.slot,
            exit: self.exit,
        }
    }

    fn fill_void(&mut self) {
        let address = self.address;
        let void = &self.shared.void;
        void(address, self);
    }
}

/// Leaves for a reservation that is dropped: a void writer that panics must not wedge the buffer.
struct Exiting<'a> {
    shared: &'a Shared,
    slot: &'a Slot,
    exit: Exit<'a>,
}

impl Drop for Exiting<'_> {
    fn drop(&mut self) {
        let departure = match self.exit {
            Exit::Buffer => Departure(self.shared, self.slot),
            Exit::Lease(lease) => match lease.commit() {
                Commit::Idle => return,
                Commit::Close(closing) => self.shared.void_rest(closing),
            },
            Exit::LeaseToItsEnd(lease) => {
                lease.commit_last();
                Departure(self.shared, self.slot)
            }
        };
        departure.leave_to_ring();
    }
}

impl Drop for Reservation<'_> {
    /// By value: a guard whose address is taken lies in memory, also where it is committed.
    #[inline(always)]
    fn drop(&mut self) {
        let Self {
            shared,
            slot,
            bytes,
            len,
            address,
            exit,
        } = *self;
        abandon(Reservation::new(shared, slot, bytes, len, address, exit));
    }
}

#[cold]
fn abandon(reservation: Reservation<'_>) {
    let mut this = ManuallyDrop::new(reservation);
    let _exiting = this.exiting();
    this.fill_void();
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
