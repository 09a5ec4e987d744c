//! [`BufferPin`]: reading committed records from the buffer that is still open.

use core::fmt;
use core::ops::Deref;
use std::mem::ManuallyDrop;

use crate::shared::Shared;
use crate::slot::Slot;
use crate::sync::Arc;
use crate::word::PinStep;
use crate::{BufferSeq, Ring, SealedBuffer};

/// What [`Ring::pin_committed`] found.
///
/// # Examples
///
/// ```
/// # use esker_ring::{PinCommitted, Reserve, Ring};
/// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
/// let Reserve::Reserved(record) = ring.reserve(8)? else {
///     panic!("the first buffer is open and empty");
/// };
/// let address = record.address();
/// assert!(matches!(ring.pin_committed(address), PinCommitted::Busy));
/// assert!(record.commit().is_none());
/// assert!(matches!(ring.pin_committed(address), PinCommitted::Pinned(_)));
/// // Nothing is reserved there yet.
/// assert!(matches!(ring.pin_committed(address + 8), PinCommitted::NotHere));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use]
pub enum PinCommitted<'a> {
    /// The address is committed in the open buffer.
    Pinned(BufferPin<'a>),
    /// The address may be in the open buffer, but writers are active in it: what they wrote can't
    /// be told from what they will. Seal the buffer, or try again.
    Busy,
    /// The address is not in the open buffer: it has been sealed, or not been reserved yet.
    NotHere,
}

/// The open buffer, held so that what was committed in it can be read.
///
/// It derefs to the bytes from the buffer's base to the end of the last reservation before the
/// pin, header area included (whose content means nothing yet): the record at address `a` starts
/// at `a - base()`. While it lives its buffer can be filled and sealed, but not handed over: let
/// go of it soon. Dropping it is [`release`](Self::release), except that a sealed buffer that
/// falls to it is parked in the ring.
///
/// # Examples
///
/// ```
/// # use esker_ring::{PinCommitted, Reserve, Ring};
/// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
/// # let Reserve::Reserved(mut record) = ring.reserve(8)? else { unreachable!() };
/// # record.copy_from_slice(b"a record");
/// # let address = record.address();
/// # assert!(record.commit().is_none());
/// let PinCommitted::Pinned(pin) = ring.pin_committed(address) else {
///     panic!("it is committed, and nobody is writing");
/// };
/// assert_eq!((pin.base(), pin.seq().get()), (0, 0));
/// // Appending goes on meanwhile; what the pin shows stays as it is.
/// let Reserve::Reserved(next) = ring.reserve(8)? else { unreachable!() };
/// assert!(next.commit().is_none());
/// assert_eq!(&pin[64..], b"a record");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a pin that is dropped at once shows nothing"]
pub struct BufferPin<'a> {
    shared: &'a Arc<Shared>,
    slot: &'a Slot,
    base: u64,
    end: u32,
}

impl Ring {
    /// Pins the open buffer if it holds `address` and nobody is writing to it.
    ///
    /// One compare-and-swap; never blocks.
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
    /// use esker_ring::PinCommitted;
    ///
    /// let PinCommitted::Pinned(pin) = ring.pin_committed(address) else {
    ///     panic!("it is committed, and nobody is writing");
    /// };
    /// let at = usize::try_from(address - pin.base())?;
    /// assert_eq!(&pin[at..at + 8], b"a record");
    /// assert!(pin.release().is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pin_committed(&self, address: u64) -> PinCommitted<'_> {
        let shared = self.shared();
        let header = shared.shape.header;
        let slot = shared.slot(shared.newest());
        // A look before the jump, so that an address of long ago costs no write. It may be off by
        // any number of tenancies: older ones don't hold what has been reserved since.
        let seen = slot.tenancy.base();
        if address < seen || address - seen >= u64::from(shared.shape.capacity) {
            return PinCommitted::NotHere;
        }
        match slot.word.pin(header) {
            PinStep::Pinned { end } => {
                // Identity: the compare-and-swap may have met a later tenancy (R5).
                let base = slot.tenancy.base();
                let pin = BufferPin {
                    shared,
                    slot,
                    base,
                    end,
                };
                pin.note_reads();
                let records = base + u64::from(header)..base + u64::from(end);
                if records.contains(&address) {
                    PinCommitted::Pinned(pin)
                } else {
                    PinCommitted::NotHere
                }
            }
            PinStep::Busy => PinCommitted::Busy,
            PinStep::NotOpen => PinCommitted::NotHere,
        }
    }
}

impl BufferPin<'_> {
    /// The base address of the buffer.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The sequence number of the buffer.
    #[must_use]
    pub fn seq(&self) -> BufferSeq {
        BufferSeq::new(self.slot.tenancy.seq())
    }

    /// Lets go. The last one out of a buffer that was sealed meanwhile gets it.
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
    /// use esker_ring::PinCommitted;
    ///
    /// let PinCommitted::Pinned(pin) = ring.pin_committed(address) else {
    ///     panic!("it is committed, and nobody is writing");
    /// };
    /// assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
    /// assert_eq!(pin.seq().get(), 0);
    /// let buffer = pin.release().expect("the last one out gets it");
    /// buffer.recycle();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "the last one out of a sealed buffer has to flush it"]
    pub fn release(self) -> Option<SealedBuffer> {
        let this = ManuallyDrop::new(self);
        this.note_reads();
        Shared::leave(this.shared, this.slot)
    }

    /// Tells a model that the records are read here.
    fn note_reads(&self) {
        let header = self.shared.shape.header;
        let at = self.shared.at(self.slot, header);
        self.slot
            .memory
            .note_reads(at, (self.end - header) as usize);
    }
}

impl Drop for BufferPin<'_> {
    fn drop(&mut self) {
        self.note_reads();
        self.shared.leave_to_ring(self.slot);
    }
}

impl Deref for BufferPin<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let at = self.shared.at(self.slot, 0);
        // SAFETY: the bytes below `end` are initialised and live as long as the ring. When the pin
        // was taken every reservation below `end` had been committed, so nobody writes there again
        // in this tenancy; the pin's writer count keeps the tenancy from being handed over, and
        // the header area is written only by the owner of the sealed buffer.
        unsafe { core::slice::from_raw_parts(at.as_ptr(), self.end as usize) }
    }
}

// SAFETY: it only reads bytes that nobody writes while it lives.
unsafe impl Send for BufferPin<'_> {}
// SAFETY: as above.
unsafe impl Sync for BufferPin<'_> {}

impl fmt::Debug for BufferPin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPin")
            .field("base", &self.base)
            .field("end", &self.end)
            .finish()
    }
}
