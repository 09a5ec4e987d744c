//! Oversize records: extents of the address space with memory of their own.
//!
//! An extent is a tenancy that is never open. It takes the next sequence number and the next slot
//! of the ring, begins its life sealed with one reservation that spans it, and from there on is a
//! buffer like any other.

use esker_buf::AlignedBuf;

use crate::lease::Closing;
use crate::reservation::Exit;
use crate::shared::{Blocked, Shared};
use crate::slot::Slot;
use crate::sync::Arc;
use crate::waiters::{Until, Wait};
use crate::word::{Seal, SealEmpty};
use crate::{ExtentError, ExtentRefused, Reservation, Ring, SealedBuffer};

/// What [`Ring::reserve_extent`] did. Where it reserved nothing the memory comes back.
///
/// # Examples
///
/// ```
/// use esker_buf::{AlignedBuf, Alignment};
/// use esker_ring::{ReserveExtent, Ring};
///
/// let ring = Ring::builder().capacity_bytes(4096).build()?;
/// let mut memory = AlignedBuf::zeroed(1 << 20, Alignment::BLOCK)?;
/// let mut reservation = loop {
///     memory = match ring.reserve_extent(memory, 1_000_000)? {
///         ReserveExtent::Reserved { reservation, previous } => {
///             if let Some(buffer) = previous {
///                 buffer.recycle(); // write it somewhere first
///             }
///             break reservation;
///         }
///         ReserveExtent::Sealed { buffer, memory } => {
///             buffer.recycle(); // write it somewhere first
///             memory
///         }
///         ReserveExtent::Full { wait, memory } => {
///             ring.wait(&wait, None);
///             memory
///         }
///         ReserveExtent::Limit { needed, memory } => {
///             ring.raise_limit(needed);
///             memory
///         }
///     };
/// };
/// reservation.fill(7);
/// let extent = reservation.commit().expect("it alone was in it");
/// assert!(extent.is_extent());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use]
pub enum ReserveExtent<'a> {
    /// The extent is inserted.
    Reserved {
        /// Its only reservation. Whoever is the last one out of the extent, as a rule its commit,
        /// gets the sealed buffer.
        reservation: Reservation<'a>,
        /// The buffer before it, if this call sealed it and was the last one out: flush it too.
        previous: Option<SealedBuffer>,
    },
    /// A sealed buffer fell to this call: flush it and call again.
    Sealed {
        /// The buffer.
        buffer: SealedBuffer,
        /// The caller's memory.
        memory: AlignedBuf,
    },
    /// As [`TryReserve::Full`](crate::TryReserve::Full): wait and call again.
    Full {
        /// What to wait for.
        wait: Wait,
        /// The caller's memory.
        memory: AlignedBuf,
    },
    /// The limit is in the way: raise it and call again. Others may move the end meanwhile, so it
    /// can take more than one round.
    Limit {
        /// The limit needed as things stand.
        needed: u64,
        /// The caller's memory.
        memory: AlignedBuf,
    },
}

/// An extent to be inserted, checked.
struct Extent {
    memory: AlignedBuf,
    len: usize,
    /// Header and record.
    sealed_len: u64,
}

/// What one attempt came to.
enum Attempt<'a> {
    Done(ReserveExtent<'a>),
    /// Things moved: the extent, for the next attempt.
    Again(Extent),
}

impl Ring {
    /// Reserves one record of `len` bytes in an extent of the address space of its own, backed by
    /// `memory`, which has room for header area and record, rounded up to the alignment.
    ///
    /// The extent takes a sequence number like any buffer. If the open buffer holds something it
    /// is sealed first, but only if the extent can then be inserted at once. Never blocks.
    ///
    /// # Errors
    ///
    /// [`ExtentRefused`], with the memory, for a length below the smallest reservation and memory
    /// that is too short or misaligned. Nothing has happened then.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_buf::{AlignedBuf, Alignment};
    /// use esker_ring::{ExtentError, ReserveExtent, Ring};
    ///
    /// let ring = Ring::builder().capacity_bytes(4096).build()?;
    /// let memory = AlignedBuf::zeroed(1 << 20, Alignment::BLOCK)?;
    /// let refused = ring.reserve_extent(memory, 1 << 20).expect_err("no room for the header");
    /// assert!(matches!(refused.error, ExtentError::MemoryTooShort { .. }));
    ///
    /// let len = (1 << 20) - ring.header_bytes();
    /// match ring.reserve_extent(refused.memory, len)? {
    ///     ReserveExtent::Reserved { mut reservation, previous } => {
    ///         assert!(previous.is_none());
    ///         reservation.fill(7);
    ///         let extent = reservation.commit().expect("it alone was in it");
    ///         assert_eq!(extent.next_base(), 1 << 20);
    ///     }
    ///     other => panic!("the ring is empty: {other:?}"),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserve_extent(
        &self,
        memory: AlignedBuf,
        len: usize,
    ) -> Result<ReserveExtent<'_>, ExtentRefused> {
        let mut extent = self.check_extent(memory, len)?;
        loop {
            if let Some(buffer) = Shared::take_orphan(self.shared()) {
                let memory = extent.memory;
                return Ok(ReserveExtent::Sealed { buffer, memory });
            }
            match self.try_extent(extent) {
                Attempt::Done(outcome) => return Ok(outcome),
                Attempt::Again(back) => extent = back,
            }
        }
    }

    fn check_extent(&self, memory: AlignedBuf, len: usize) -> Result<Extent, ExtentRefused> {
        let shape = &self.shared().shape;
        let min = shape.min_reservation as usize;
        let sealed_len = u64::from(shape.header).saturating_add(len as u64);
        let needed_bytes = shape.alignment.ceil(sealed_len).unwrap_or(u64::MAX);
        let error = if len < min {
            ExtentError::TooSmall { len, min }
        } else if needed_bytes > memory.len() as u64 {
            ExtentError::MemoryTooShort {
                needed_bytes,
                memory_bytes: memory.len(),
            }
        } else if !shape
            .alignment
            .divides(memory.as_non_null().addr().get() as u64)
        {
            ExtentError::Misaligned {
                alignment_bytes: shape.alignment.bytes(),
            }
        } else {
            return Ok(Extent {
                memory,
                len,
                sealed_len,
            });
        };
        Err(ExtentRefused { error, memory })
    }

    fn try_extent(&self, extent: Extent) -> Attempt<'_> {
        let shared = self.shared();
        let header = shared.shape.header;
        let newest = shared.newest();
        let slot = shared.slot(newest);
        // Looks ahead, so that nothing is sealed for an insertion that then can't go on. What they
        // saw is checked again once the identity of the sealed tenancy is certain.
        let word = slot.word.load();
        if !word.is_sealed() {
            let base = slot.tenancy.base();
            let is_empty = word.offset() == header;
            let start = if is_empty {
                Some(base)
            } else {
                shared.padded_end(base, u64::from(word.offset()))
            };
            let next = newest.wrapping_add(1);
            let blocked = if !is_empty && !shared.slot(next).tenancy.is_free_for(next) {
                Some(Blocked::Full(Wait {
                    seq: newest,
                    until: Until::NextFree,
                }))
            } else {
                start
                    .map_or(Err(u64::MAX), |start| {
                        shared.check_limit(start, extent.sealed_len)
                    })
                    .err()
                    .map(|needed| Blocked::Limit { needed })
            };
            if let Some(blocked) = blocked {
                return if shared.newest() == newest {
                    extent.refused(blocked)
                } else {
                    Attempt::Again(extent)
                };
            }
        }
        match slot.word.seal_empty(header) {
            SealEmpty::Taken => self.become_extent(slot, extent),
            SealEmpty::NotEmpty => match slot.word.seal(header) {
                Seal::Sealed { end } => self.insert_extent(slot, end, extent),
                Seal::Empty | Seal::AlreadySealed(_) => Attempt::Again(extent),
            },
            SealEmpty::AlreadySealed => extent.refused(shared.blocked(newest)),
        }
    }

    /// Turns the tenancy of an empty buffer, which this thread has sealed, into the extent's.
    fn become_extent<'a>(&'a self, slot: &'a Slot, extent: Extent) -> Attempt<'a> {
        let shared = self.shared();
        let (seq, base) = (slot.tenancy.seq(), slot.tenancy.base());
        let fits = if canary!("extent-trusts-its-look") {
            shared.padded_end(base, extent.sealed_len).ok_or(0)
        } else {
            shared.check_limit(base, extent.sealed_len)
        };
        match fits {
            Ok(next_base) => {
                let sealed_len = extent.sealed_len;
                let reservation = self.install(slot, base, extent);
                shared.close_at(slot, seq, sealed_len, next_base);
                Attempt::Done(ReserveExtent::Reserved {
                    reservation,
                    previous: None,
                })
            }
            Err(_) => {
                // Between the look ahead and the seal the ring went round and the limit is in the
                // way after all. The sealed tenancy can't stay empty (R8): close it as a buffer
                // with one void record, like a lease in which there is nothing yet. Its opener made
                // sure that there is room.
                let used = shared.shape.header;
                let end = used + shared.shape.min_reservation;
                shared.close(slot, u64::from(end));
                match Shared::close_lease(shared, Closing { seq, used, end }) {
                    Some(buffer) => Attempt::Done(ReserveExtent::Sealed {
                        buffer,
                        memory: extent.memory,
                    }),
                    None => Attempt::Again(extent),
                }
            }
        }
    }

    /// Inserts the extent after the tenancy in `slot`, which this thread has sealed at `end`.
    fn insert_extent<'a>(&'a self, slot: &'a Slot, end: u32, extent: Extent) -> Attempt<'a> {
        let shared = self.shared();
        let (seq, base) = (slot.tenancy.seq(), slot.tenancy.base());
        let end = u64::from(end);
        let next = seq.wrapping_add(1);
        let to = shared.slot(next);
        let start = base + shared.shape.alignment.ceil(end).unwrap_or(end);
        let fits = shared.check_limit(start, extent.sealed_len);
        // A slot that is free for `next` stays so until `next` is claimed, and nobody can claim it
        // before this thread publishes `closed`.
        let Ok(next_base) = fits.and_then(|fits| {
            let is_free = to.tenancy.is_free_for(next);
            is_free.then_some(fits).ok_or(0)
        }) else {
            shared.close(slot, end);
            return match Shared::leave_as_sealer(shared, slot) {
                Some(buffer) => Attempt::Done(ReserveExtent::Sealed {
                    buffer,
                    memory: extent.memory,
                }),
                None => Attempt::Again(extent),
            };
        };
        // The claim comes before `closed`, so that no general opener ever competes for `next`.
        shared.claim_after_own(seq);
        slot.tenancy.close(seq, end, start);
        to.tenancy.begin(next, start);
        let sealed_len = extent.sealed_len;
        let reservation = self.install(to, start, extent);
        to.word.open_sealed(shared.shape.header);
        shared.close_at(to, next, sealed_len, next_base);
        Attempt::Done(ReserveExtent::Reserved {
            reservation,
            previous: Shared::leave_as_sealer(shared, slot),
        })
    }

    /// Puts the memory into the slot and covers it with the reservation whose writer count this
    /// thread has, or is about to set.
    fn install<'a>(&'a self, slot: &'a Slot, base: u64, extent: Extent) -> Reservation<'a> {
        let shared: &Arc<Shared> = self.shared();
        let header = shared.shape.header;
        // SAFETY: the memory has room for header and record, as `check_extent` saw.
        let bytes = unsafe { extent.memory.as_non_null().add(header as usize) };
        let address = base + u64::from(header);
        slot.memory.extent.with_mut(|cell| {
            // SAFETY: the tenancy is sealed or not opened yet, its last owner emptied the cell
            // before freeing the slot (E6), and only this thread has a writer in it.
            unsafe { *cell = Some(extent.memory) };
        });
        Reservation::new(shared, slot, bytes, extent.len, address, Exit::Buffer)
    }
}

impl Extent {
    fn refused<'a>(self, blocked: Blocked) -> Attempt<'a> {
        let memory = self.memory;
        match blocked {
            Blocked::Again => Attempt::Again(Self { memory, ..self }),
            Blocked::Full(wait) => Attempt::Done(ReserveExtent::Full { wait, memory }),
            Blocked::Limit { needed } => Attempt::Done(ReserveExtent::Limit { needed, memory }),
        }
    }
}
