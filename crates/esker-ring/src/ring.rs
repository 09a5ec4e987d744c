//! [`Ring`]: the handle, and reserving through it.

use core::fmt;
use std::ptr::NonNull;
use std::task::Waker;
use std::time::Duration;

use crate::memory::RingMemory;
use crate::reservation::Exit;
use crate::shared::{Blocked, Shared};
use crate::slot::Slot;
use crate::sync::Arc;
use crate::waiters::Wait;
use crate::word::{self, Snapshot};
use crate::{BufferSeq, Reservation, ReserveError, RingBuilder, SealedBuffer};

/// A ring of flush buffers. Cloning is cheap and gives another handle on the same ring.
///
/// # Examples
///
/// ```
/// use esker_ring::{Reserve, Ring, Seal};
///
/// let ring = Ring::builder().build()?;
/// let other = ring.clone(); // the same ring
/// let Reserve::Reserved(record) = other.reserve(8)? else {
///     panic!("the first buffer is open and empty");
/// };
/// assert!(record.commit().is_none());
/// assert!(matches!(ring.seal(), Seal::Sealed { buffer: Some(_), .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Ring {
    shared: Arc<Shared>,
}

/// What [`Ring::try_reserve`] did.
///
/// # Examples
///
/// ```
/// # use esker_ring::{Ring, Seal, SealedBuffer, TryReserve};
/// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
/// # let flush = |buffer: SealedBuffer| buffer.recycle();
/// // Every outcome but the first leaves something to do before the next attempt.
/// let address = loop {
///     match ring.try_reserve(8)? {
///         TryReserve::Reserved(record) => {
///             let address = record.address();
///             if let Some(buffer) = record.commit() {
///                 flush(buffer);
///             }
///             break address;
///         }
///         TryReserve::Sealed(buffer) => flush(buffer),
///         TryReserve::Full(wait) => {
///             ring.wait(&wait, None);
///         }
///         TryReserve::Limit { needed } => ring.raise_limit(needed),
///     }
/// };
/// assert_eq!(address, ring.header_bytes() as u64);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use]
pub enum TryReserve<'a> {
    /// The bytes are reserved.
    Reserved(Reservation<'a>),
    /// This call was the last one out of a sealed buffer, or found one that nobody had taken:
    /// flush it and call again.
    Sealed(SealedBuffer),
    /// The next slot is not free yet, or somebody is in the short section of sealing one buffer or
    /// opening the next: wait and call again.
    Full(Wait),
    /// The next buffer would end at `needed`, past the limit: raise it and call again.
    Limit {
        /// The smallest limit that lets the next buffer open.
        needed: u64,
    },
}

/// What [`Ring::reserve`] did: as [`TryReserve`], without the case that it waits out.
///
/// # Examples
///
/// ```
/// # use esker_ring::{Reserve, Ring, SealedBuffer};
/// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).limit(0).build()?;
/// # let flush = |buffer: SealedBuffer| buffer.recycle();
/// let record = loop {
///     match ring.reserve(8)? {
///         Reserve::Reserved(record) => break record,
///         Reserve::Sealed(buffer) => flush(buffer),
///         // The layer above makes room for another buffer first.
///         Reserve::Limit { needed } => ring.raise_limit(needed),
///     }
/// };
/// assert_eq!(record.len(), 8);
/// # assert!(record.commit().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use]
pub enum Reserve<'a> {
    /// The bytes are reserved.
    Reserved(Reservation<'a>),
    /// A sealed buffer fell to this call: flush it and call again.
    Sealed(SealedBuffer),
    /// The next buffer would end at `needed`, past the limit: raise it and call again.
    Limit {
        /// The smallest limit that lets the next buffer open.
        needed: u64,
    },
}

/// `len` bytes at `offset`, which lie at `bytes`, and a writer.
pub(crate) struct Taken<'a> {
    pub(crate) slot: &'a Slot,
    pub(crate) base: u64,
    pub(crate) offset: u32,
    pub(crate) len: u32,
    pub(crate) bytes: NonNull<u8>,
}

/// What an attempt to take bytes of the open buffer came to.
pub(crate) enum Take<'a> {
    Taken(Taken<'a>),
    Sealed(SealedBuffer),
    Full(Wait),
    Limit { needed: u64 },
}

/// The slot where bytes could not be taken at once, and what its word was.
struct Missed<'a> {
    slot: &'a Slot,
    seen: Snapshot,
}

impl Ring {
    /// A ring to be configured.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_ring::Ring;
    ///
    /// let ring = Ring::builder().buffers(4).capacity_bytes(64 << 10).build()?;
    /// assert_eq!(ring.buffers(), 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder() -> RingBuilder {
        RingBuilder::new()
    }

    pub(crate) fn from_shared(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Reserves `len` bytes at a final address.
    ///
    /// Never blocks, allocates or spins; where the buffer has room it is one atomic
    /// read-modify-write, tried again while others win it. A reservation that does not fit seals
    /// the buffer, closes it and opens the next one if that is free.
    ///
    /// # Errors
    ///
    /// [`ReserveError`] for a length that no buffer could hold; nothing has happened then.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_ring::{Ring, TryReserve};
    ///
    /// let ring = Ring::builder().build()?;
    /// match ring.try_reserve(8)? {
    ///     TryReserve::Reserved(mut record) => {
    ///         record.copy_from_slice(b"a record");
    ///         if let Some(buffer) = record.commit() {
    ///             buffer.recycle(); // write it somewhere first
    ///         }
    ///     }
    ///     TryReserve::Sealed(buffer) => buffer.recycle(), // write it, and try again
    ///     TryReserve::Full(wait) => {
    ///         ring.wait(&wait, None); // and try again
    ///     }
    ///     TryReserve::Limit { needed } => ring.raise_limit(needed), // and try again
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    // Always: the outcome is large, and passing it through memory costs more than both atomics.
    #[inline(always)]
    pub fn try_reserve(&self, len: usize) -> Result<TryReserve<'_>, ReserveError> {
        let checked = self.check_len(len)?;
        let missed = match self.take_at_once(checked, 1) {
            Ok(taken) => return Ok(TryReserve::Reserved(self.reserved(taken))),
            Err(missed) => missed,
        };
        Ok(match self.take_slowly(missed, checked, 1)? {
            Take::Taken(taken) => TryReserve::Reserved(self.reserved(taken)),
            Take::Sealed(buffer) => TryReserve::Sealed(buffer),
            Take::Full(wait) => TryReserve::Full(wait),
            Take::Limit { needed } => TryReserve::Limit { needed },
        })
    }

    /// Takes `len` bytes and a writer, up to `most` times as many bytes if there is room.
    pub(crate) fn take(&self, len: u32, most: u32) -> Result<Take<'_>, ReserveError> {
        match self.take_at_once(len, most) {
            Ok(taken) => Ok(Take::Taken(taken)),
            Err(missed) => self.take_slowly(missed, len, most),
        }
    }

    /// [`take`](Self::take) where the buffer that is open has room. What comes back stays in
    /// registers: a store before one of the atomics would be waited for.
    #[inline(always)]
    fn take_at_once(&self, len: u32, most: u32) -> Result<Taken<'_>, Missed<'_>> {
        let shared = &self.shared;
        let slot = shared.slot(shared.newest());
        // Looked up before the atomic, which everything after it waits for.
        let memory = shared.at(slot, 0);
        let stale = canary!("stale-identity").then(|| slot.tenancy.base());
        match slot.word.take(len, most, shared.shape.capacity) {
            Ok((offset, len)) => Ok(Taken {
                slot,
                // Identity after the won read-modify-write, never from before it: the slot may have
                // gone through whole tenancies since it was looked up (R5). The writer count now
                // holds it.
                base: stale.unwrap_or_else(|| slot.tenancy.base()),
                offset,
                len,
                // SAFETY: a slot has `capacity` bytes of the arena, and `offset` is at most that.
                bytes: unsafe { memory.add(offset as usize) },
            }),
            Err(seen) => Err(Missed { slot, seen }),
        }
    }

    /// The reservation of what was taken, with the writer count that came with it.
    #[inline(always)]
    fn reserved<'a>(&'a self, taken: Taken<'a>) -> Reservation<'a> {
        let address = taken.base + u64::from(taken.offset);
        Reservation::new(
            &self.shared,
            taken.slot,
            taken.bytes,
            taken.len as usize,
            address,
            Exit::Buffer,
        )
    }

    #[cold]
    fn take_slowly<'a>(
        &'a self,
        missed: Missed<'a>,
        len: u32,
        most: u32,
    ) -> Result<Take<'a>, ReserveError> {
        let shared = &self.shared;
        let Missed { mut slot, mut seen } = missed;
        loop {
            match slot.word.reserve(seen, len, most, shared.shape.capacity) {
                word::Reserve::Taken { offset, len } => {
                    return Ok(Take::Taken(Taken {
                        slot,
                        // Identity: as in `take_at_once` (R5).
                        base: slot.tenancy.base(),
                        offset,
                        len,
                        bytes: shared.at(slot, offset),
                    }));
                }
                word::Reserve::Crossed { end } => {
                    shared.close(slot, u64::from(end));
                    if let Some(buffer) = Shared::leave_as_sealer(shared, slot) {
                        return Ok(Take::Sealed(buffer));
                    }
                }
                word::Reserve::Sealed => {
                    if let Some(buffer) = Shared::take_orphan(shared) {
                        return Ok(Take::Sealed(buffer));
                    }
                    let newest = shared.newest();
                    // The slot that was sealed may be an old one; look at the newest first.
                    if std::ptr::eq(slot, shared.slot(newest)) {
                        match shared.blocked(newest) {
                            Blocked::Again => {}
                            Blocked::Full(wait) => return Ok(Take::Full(wait)),
                            Blocked::Limit { needed } => return Ok(Take::Limit { needed }),
                        }
                    }
                }
                word::Reserve::Crowded => return Err(ReserveError::TooManyWriters),
            }
            slot = shared.slot(shared.newest());
            seen = slot.word.look();
        }
    }

    #[inline]
    pub(crate) fn check_len(&self, len: usize) -> Result<u32, ReserveError> {
        let shape = &self.shared.shape;
        let max = shape.capacity - shape.header;
        match u32::try_from(len) {
            Ok(fits) if (shape.min_reservation..=max).contains(&fits) => Ok(fits),
            _ => Err(refuse_len(len, shape.min_reservation, max)),
        }
    }

    /// Reserves like [`try_reserve`](Self::try_reserve), and parks the thread while the ring is
    /// full.
    ///
    /// It never spins. A thread that itself holds the sealed buffers that the ring waits for would
    /// wait for ever.
    ///
    /// # Errors
    ///
    /// As [`try_reserve`](Self::try_reserve).
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_ring::{Reserve, Ring};
    ///
    /// let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
    /// let (mut appended, mut flushed) = (0, 0);
    /// while appended < 1000 {
    ///     match ring.reserve(100)? {
    ///         Reserve::Reserved(mut record) => {
    ///             record.fill(7);
    ///             appended += 1;
    ///             // Nobody else is in the ring: the buffer falls to whoever crosses its end.
    ///             assert!(record.commit().is_none());
    ///         }
    ///         Reserve::Sealed(buffer) => {
    ///             flushed += buffer.len() - ring.header_bytes();
    ///             buffer.recycle();
    ///         }
    ///         Reserve::Limit { .. } => unreachable!("no limit is set"),
    ///     }
    /// }
    /// assert_eq!(flushed, 960 * 100); // the last 40 are in the open buffer
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    // Always: the outcome is large, and passing it through memory costs more than both atomics.
    #[inline(always)]
    pub fn reserve(&self, len: usize) -> Result<Reserve<'_>, ReserveError> {
        let checked = self.check_len(len)?;
        loop {
            let missed = match self.take_at_once(checked, 1) {
                Ok(taken) => return Ok(Reserve::Reserved(self.reserved(taken))),
                Err(missed) => missed,
            };
            match self.take_slowly(missed, checked, 1)? {
                Take::Taken(taken) => return Ok(Reserve::Reserved(self.reserved(taken))),
                Take::Sealed(buffer) => return Ok(Reserve::Sealed(buffer)),
                Take::Limit { needed } => return Ok(Reserve::Limit { needed }),
                Take::Full(wait) => {
                    self.wait(&wait, None);
                }
            }
        }
    }

    /// Parks the thread until it is worth trying again, or until `timeout` has passed. Returns
    /// whether it is worth trying again.
    ///
    /// Uses no CPU while it waits. Helps to open the next buffer if that is all that is missing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use esker_ring::{Ring, Seal, TryReserve};
    /// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
    /// # let mut held = Vec::new();
    /// # for _ in 0..2 {
    /// #     let TryReserve::Reserved(record) = ring.try_reserve(8)? else { unreachable!() };
    /// #     assert!(record.commit().is_none());
    /// #     let Seal::Sealed { buffer, .. } = ring.seal() else { unreachable!() };
    /// #     held.extend(buffer);
    /// # }
    /// let TryReserve::Full(wait) = ring.try_reserve(8)? else {
    ///     panic!("both buffers are held");
    /// };
    /// std::thread::scope(|scope| {
    ///     let waiter = scope.spawn(|| ring.wait(&wait, None));
    ///     drop(held); // the flusher is done with them
    ///     assert!(waiter.join().unwrap());
    /// });
    /// assert!(matches!(ring.try_reserve(8)?, TryReserve::Reserved(_)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait(&self, wait: &Wait, timeout: Option<Duration>) -> bool {
        let ready = || self.shared.is_ready(*wait);
        ready() || self.shared.waiters().wait(timeout, ready)
    }

    /// Has `waker` woken once, when it is worth trying again. Returns `false`, and may or may not
    /// wake it as well, if it is worth trying again at once.
    ///
    /// A waker that is no longer wanted is woken for nothing at the ring's next movement, and
    /// forgotten. One that panics concerns neither the ring nor anybody else: the panic ends at it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use esker_ring::{Ring, Seal, TryReserve};
    /// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
    /// # let mut held = Vec::new();
    /// # for _ in 0..2 {
    /// #     let TryReserve::Reserved(record) = ring.try_reserve(8)? else { unreachable!() };
    /// #     assert!(record.commit().is_none());
    /// #     let Seal::Sealed { buffer, .. } = ring.seal() else { unreachable!() };
    /// #     held.extend(buffer);
    /// # }
    /// use std::task::Waker;
    ///
    /// let TryReserve::Full(wait) = ring.try_reserve(8)? else {
    ///     panic!("both buffers are held");
    /// };
    /// // In a future's `poll`: return `Pending` if it is left, try again if it is not.
    /// let waker = Waker::noop();
    /// assert!(ring.notify(&wait, waker));
    /// drop(held);
    /// assert!(!ring.notify(&wait, waker));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "`false` means that nobody may wake the task: try again now"]
    pub fn notify(&self, wait: &Wait, waker: &Waker) -> bool {
        let ready = || self.shared.is_ready(*wait);
        !ready() && self.shared.waiters().notify(waker, ready)
    }

    /// A sealed buffer that fell to a dropped guard and that nobody has taken yet.
    ///
    /// The reserving and sealing calls hand them out too; a layer that waits for something else
    /// asks here. One relaxed load when there is none.
    ///
    /// # Examples
    ///
    /// ```
    /// # use esker_ring::{Ring, Reserve, Seal};
    /// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
    /// # let Reserve::Reserved(record) = ring.reserve(8)? else { unreachable!() };
    /// assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
    /// drop(record); // the last one out, with nobody to give the buffer to
    /// let buffer = ring.take_orphan().expect("the buffer");
    /// buffer.recycle();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "the buffer has to be flushed"]
    pub fn take_orphan(&self) -> Option<SealedBuffer> {
        Shared::take_orphan(&self.shared)
    }

    /// The address after everything reserved so far: a snapshot, not older than whatever happened
    /// before the call, and never sinking.
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
    /// assert_eq!(ring.tail(), address + 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn tail(&self) -> u64 {
        self.shared.position().tail
    }

    /// Sequence number and base address of the open buffer; while none is open, of the one to be
    /// opened next. Every buffer below the base is sealed, or is just being sealed by somebody.
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
    /// let (seq, base) = ring.current();
    /// assert_eq!((seq.get(), base), (0, 0));
    /// let Seal::Sealed { end, .. } = ring.seal() else {
    ///     panic!("it holds a record");
    /// };
    /// assert_eq!(ring.current(), (seq.next().expect("not the last"), end));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn current(&self) -> (BufferSeq, u64) {
        let position = self.shared.position();
        (BufferSeq::new(position.seq), position.base)
    }

    /// The address that no buffer may reach past.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.shared.limit()
    }

    /// Raises the address limit, and opens the next buffer if that was all it waited for, which
    /// wakes whoever waits. A lower limit than the present one changes nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_ring::{Ring, TryReserve};
    ///
    /// let ring = Ring::builder().limit(0).build()?;
    /// let TryReserve::Limit { needed } = ring.try_reserve(8)? else {
    ///     panic!("no buffer ends at 0");
    /// };
    /// assert_eq!(needed, ring.capacity_bytes() as u64);
    /// ring.raise_limit(needed);
    /// assert_eq!(ring.limit(), needed);
    /// assert!(matches!(ring.try_reserve(8)?, TryReserve::Reserved(_)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn raise_limit(&self, address: u64) {
        self.shared.raise_limit(address);
    }

    /// The memory of the buffers, for a kernel that can be told of it once; extents have their own.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_buf::IoRegion;
    /// use esker_ring::Ring;
    ///
    /// let ring = Ring::builder().build()?;
    /// let (_, len_bytes) = ring.memory().region();
    /// assert!(len_bytes >= ring.buffers() * ring.capacity_bytes());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn memory(&self) -> RingMemory {
        RingMemory::of(&self.shared)
    }

    /// The number of buffers.
    #[must_use]
    pub fn buffers(&self) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "it was a `usize`")]
        let buffers = self.shared.slots() as usize;
        buffers
    }

    /// The size of a buffer in bytes, header area included.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.shared.shape.capacity as usize
    }

    /// The header area of a buffer in bytes.
    #[must_use]
    pub fn header_bytes(&self) -> usize {
        self.shared.shape.header as usize
    }

    /// The largest reservation in bytes; anything larger needs an
    /// [extent](Self::reserve_extent).
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_ring::{ReserveError, Ring};
    ///
    /// let ring = Ring::builder().capacity_bytes(4096).header_bytes(96).build()?;
    /// let max = ring.max_reservation_bytes();
    /// assert_eq!(max, 4000);
    /// let refused = ring.try_reserve(max + 1).map(drop);
    /// assert_eq!(refused, Err(ReserveError::TooLarge { len: max + 1, max }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn max_reservation_bytes(&self) -> usize {
        self.capacity_bytes() - self.header_bytes()
    }
}

#[cold]
fn refuse_len(len: usize, min: u32, max: u32) -> ReserveError {
    let (min, max) = (min as usize, max as usize);
    if len < min {
        ReserveError::TooSmall { len, min }
    } else {
        ReserveError::TooLarge { len, max }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let position = self.shared.position();
        f.debug_struct("Ring")
            .field("buffers", &self.buffers())
            .field("capacity_bytes", &self.capacity_bytes())
            .field("seq", &position.seq)
            .field("tail", &position.tail)
            .finish_non_exhaustive()
    }
}
