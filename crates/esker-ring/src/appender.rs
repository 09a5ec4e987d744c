//! [`Appender`]: one thread's way into the ring, cheaper for small records.

use core::fmt;
use std::ptr::NonNull;

use crate::lease::{Idle, Lease, Retire};
use crate::reservation::Exit;
use crate::ring::{Take, Taken};
use crate::shared::Shared;
use crate::slot::Slot;
use crate::{Reservation, Reserve, ReserveError, Ring, SealedBuffer, TryReserve};

/// Reserves for one thread, many records at a time.
///
/// It leases a stretch of the open buffer with one reservation and hands it out record by record,
/// so that threads that append small records meet at the ring's shared state once in many records.
/// Everything that holds for [`Ring::try_reserve`] holds for its records too: an address is final
/// when it is known, and whoever is the last one out of a sealed buffer gets it.
///
/// What differs:
/// - Records of several appenders are *not in the order in which they were appended*. Each
///   appender's own addresses grow, but a record may lie below one that another thread has already
///   committed.
/// - What is left of a lease becomes a void record: when a record does not fit into it, when the
///   appender is dropped, and when the lease is *revoked*, which sealing the buffer does. An idle
///   appender thus never holds up a buffer. Leases that are revoked early get smaller.
/// - While leases are live [`Ring::pin_committed`] finds their buffer busy:
///   [`Ring::revoke_leases`] first.
///
/// A ring has leases for 64 appenders at a time. A further one works all the same, one reservation
/// for each record, until another is dropped. Forgetting a reservation (`mem::forget`) uses its
/// lease up for good, besides keeping its buffer.
///
/// ```
/// use esker_ring::{Ring, Reserve, Seal};
///
/// let ring = Ring::builder().build()?;
/// let mut appender = ring.appender();
/// for n in 0u64..100 {
///     match appender.reserve(8)? {
///         Reserve::Reserved(mut record) => {
///             record.copy_from_slice(&n.to_le_bytes());
///             assert!(record.commit().is_none());
///         }
///         other => panic!("the first buffer has room: {other:?}"),
///     }
/// }
/// // The lease that is live does not keep the buffer from being sealed and handed over.
/// let Seal::Sealed { buffer: Some(buffer), .. } = ring.seal() else {
///     panic!("nobody is writing");
/// };
/// let records = &buffer.bytes()[ring.header_bytes()..];
/// assert_eq!(records[..8], 0u64.to_le_bytes());
/// assert_eq!(records[8 * 99..8 * 100], 99u64.to_le_bytes());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "an appender that is dropped at once has appended nothing"]
pub struct Appender {
    ring: Ring,
    /// The entry of the ring's registry that is lent to this appender.
    entry: Option<usize>,
    lease: Option<Held>,
    /// How many bytes to lease next time.
    target: u32,
    /// The buffer of the last record that got a reservation of its own.
    plain_seq: u64,
    /// The ring's, kept here because every record asks for it.
    min_reservation: u32,
}

/// A lease as its owner knows it. It may have been revoked meanwhile.
///
/// The pointers are good for as long as the appender's ring: they point to what it owns and never
/// moves. They are there because every look through the ring for them would show in the cost of a
/// small record.
struct Held {
    lease: NonNull<Lease>,
    slot: NonNull<Slot>,
    /// First byte of the buffer.
    memory: NonNull<u8>,
    base: u64,
    /// The word that the lease has if nobody has revoked it.
    idle: Idle,
    start: u32,
    end: u32,
}

/// Bytes that an appender has reserved, under a writer count.
struct Granted {
    slot: NonNull<Slot>,
    bytes: NonNull<u8>,
    address: u64,
    under: Under,
}

/// What the writer count belongs to.
enum Under {
    /// The record alone.
    Itself,
    /// A lease that goes on after the record.
    Lease(NonNull<Lease>),
    /// A lease that the record fills up.
    LeaseToItsEnd(NonNull<Lease>),
}

/// What an attempt came to, borrowing nothing.
enum Attempt {
    Granted(Granted),
    Sealed(SealedBuffer),
    Full(crate::Wait),
    Limit { needed: u64 },
}

impl Ring {
    /// A handle that reserves for one thread, cheaper for small records.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_ring::Ring;
    ///
    /// let ring = Ring::builder().build()?;
    /// std::thread::scope(|scope| {
    ///     for _ in 0..4 {
    ///         let mut appender = ring.appender();
    ///         scope.spawn(move || {
    ///             let record = appender.reserve(8);
    ///             drop(record);
    ///         });
    ///     }
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn appender(&self) -> Appender {
        Appender {
            ring: self.clone(),
            entry: self.shared().leases.lend(),
            lease: None,
            target: self.shared().shape.lease,
            plain_seq: 0,
            min_reservation: self.shared().shape.min_reservation,
        }
    }

    /// Revokes the leases in the open buffer, so that what appenders have committed there can be
    /// [pinned](Self::pin_committed). Each costs its appender a void record and a new lease. Never
    /// blocks.
    ///
    /// Returns the buffer if it has been sealed meanwhile and one of the leases was the last one
    /// out of it.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_ring::{PinCommitted, Reserve, Ring};
    ///
    /// let ring = Ring::builder().build()?;
    /// let mut appender = ring.appender();
    /// let Reserve::Reserved(mut record) = appender.reserve(8)? else {
    ///     panic!("the first buffer is open and empty");
    /// };
    /// record.copy_from_slice(b"a record");
    /// let address = record.address();
    /// assert!(record.commit().is_none());
    /// assert!(matches!(ring.pin_committed(address), PinCommitted::Busy));
    /// assert!(ring.revoke_leases().is_none());
    /// assert!(matches!(ring.pin_committed(address), PinCommitted::Pinned(_)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "the last one out of a sealed buffer has to flush it"]
    pub fn revoke_leases(&self) -> Option<SealedBuffer> {
        Shared::revoke_leases(self.shared())
    }
}

impl Appender {
    /// Reserves `len` bytes at a final address, as [`Ring::try_reserve`] does.
    ///
    /// Never blocks, allocates or spins. Where the lease has room it is one atomic
    /// read-modify-write on a cache line that as a rule only this thread touches, and the commit is
    /// a store to it.
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
    /// let mut appender = ring.appender();
    /// let TryReserve::Reserved(mut record) = appender.try_reserve(8)? else {
    ///     panic!("the first buffer is open and empty");
    /// };
    /// record.copy_from_slice(b"a record");
    /// assert!(record.commit().is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    // Always: the outcome is large, and passing it through memory costs more than both atomics.
    #[inline(always)]
    pub fn try_reserve(&mut self, len: usize) -> Result<TryReserve<'_>, ReserveError> {
        let granted = match self.begin(len) {
            Some(granted) => granted,
            None => match self.attempt(len)? {
                Attempt::Granted(granted) => granted,
                Attempt::Sealed(buffer) => return Ok(TryReserve::Sealed(buffer)),
                Attempt::Full(wait) => return Ok(TryReserve::Full(wait)),
                Attempt::Limit { needed } => return Ok(TryReserve::Limit { needed }),
            },
        };
        Ok(TryReserve::Reserved(self.reservation(granted, len)))
    }

    /// Reserves like [`try_reserve`](Self::try_reserve), and parks the thread while the ring is
    /// full. It never spins.
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
    /// let ring = Ring::builder().build()?;
    /// let mut appender = ring.appender();
    /// let mut addresses = Vec::new();
    /// while addresses.len() < 3 {
    ///     match appender.reserve(8)? {
    ///         Reserve::Reserved(mut record) => {
    ///             record.fill(7);
    ///             addresses.push(record.address());
    ///             if let Some(buffer) = record.commit() {
    ///                 buffer.recycle(); // write it somewhere first
    ///             }
    ///         }
    ///         Reserve::Sealed(buffer) => buffer.recycle(),
    ///         Reserve::Limit { .. } => unreachable!("no limit is set"),
    ///     }
    /// }
    /// assert_eq!(addresses, [64, 72, 80]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    // Always: the outcome is large, and passing it through memory costs more than both atomics.
    #[inline(always)]
    pub fn reserve(&mut self, len: usize) -> Result<Reserve<'_>, ReserveError> {
        let granted = match self.begin(len) {
            Some(granted) => granted,
            None => loop {
                match self.attempt(len)? {
                    Attempt::Granted(granted) => break granted,
                    Attempt::Sealed(buffer) => return Ok(Reserve::Sealed(buffer)),
                    Attempt::Limit { needed } => return Ok(Reserve::Limit { needed }),
                    Attempt::Full(wait) => {
                        self.ring.wait(&wait, None);
                    }
                }
            },
        };
        Ok(Reserve::Reserved(self.reservation(granted, len)))
    }

    /// Gives the lease up, if there is one: worth it before a long pause if others pin the open
    /// buffer. What is left of it becomes a void record.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_ring::{Reserve, Ring};
    ///
    /// let ring = Ring::builder().build()?;
    /// let mut appender = ring.appender();
    /// let Reserve::Reserved(record) = appender.reserve(8)? else {
    ///     panic!("the first buffer is open and empty");
    /// };
    /// assert!(record.commit().is_none());
    /// assert!(appender.retire().is_none(), "its buffer is not sealed");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "the last one out of a sealed buffer has to flush it"]
    pub fn retire(&mut self) -> Option<SealedBuffer> {
        let held = self.lease.take()?;
        let shared = self.ring.shared();
        match held.lease().retire(held.idle) {
            Retire::Close(closing) => {
                self.target = grown(self.target, self.target, shared.shape.lease);
                Shared::close_lease(shared, closing)
            }
            Retire::Gone => {
                let used = held.idle.used() - held.start;
                self.target = if held.idle.used() == held.end {
                    grown(self.target, self.target, shared.shape.lease)
                } else {
                    used
                };
                None
            }
            Retire::Forgotten => {
                // The entry stays lent: its lease is never over.
                self.entry = None;
                None
            }
        }
    }

    /// The ring that it reserves in.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_ring::{Reserve, Ring};
    ///
    /// let mut appender = Ring::builder().build()?.appender();
    /// let Reserve::Reserved(record) = appender.reserve(8)? else {
    ///     panic!("the first buffer is open and empty");
    /// };
    /// let address = record.address();
    /// assert!(record.commit().is_none());
    /// // The tail is past what is leased, too.
    /// assert!(appender.ring().tail() > address + 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Begins a record in the lease; `None` if there is none, or no room in it for such a record.
    #[inline(always)]
    fn begin(&mut self, len: usize) -> Option<Granted> {
        let min = self.min_reservation;
        let held = self.lease.as_mut()?;
        let offset = held.idle.used();
        let rest = held.end - offset;
        let len = u32::try_from(len).ok().filter(|&len| len >= min)?;
        // What is left has to be nothing or a whole void record.
        let under = if len == rest {
            Under::LeaseToItsEnd(held.lease)
        } else if u64::from(len) + u64::from(min) <= u64::from(rest) {
            Under::Lease(held.lease)
        } else {
            return None;
        };
        if !held.lease().begin(held.idle, len) {
            return None;
        }
        held.idle = held.idle.after(len);
        Some(Granted {
            slot: held.slot,
            // SAFETY: the lease lies in the buffer, whose first byte `memory` is.
            bytes: unsafe { held.memory.add(offset as usize) },
            address: held.base + u64::from(offset),
            under,
        })
    }

    /// Reserves without a lease to go on with: leases anew where that pays.
    #[cold]
    fn attempt(&mut self, len: usize) -> Result<Attempt, ReserveError> {
        let len = self.ring.check_len(len)?;
        if let Some(buffer) = self.retire() {
            return Ok(Attempt::Sealed(buffer));
        }
        let most = self.records_to_lease(len);
        let Taken {
            slot,
            base,
            offset,
            len: taken,
            bytes,
        } = match self.ring.take(len, most)? {
            Take::Taken(taken) => taken,
            Take::Sealed(buffer) => return Ok(Attempt::Sealed(buffer)),
            Take::Full(wait) => return Ok(Attempt::Full(wait)),
            Take::Limit { needed } => return Ok(Attempt::Limit { needed }),
        };
        let seq = slot.tenancy.seq();
        let shared = self.ring.shared();
        let under = match self.entry {
            Some(entry) if taken > len => {
                let idle = Idle::new(seq, offset + len);
                let end = offset + taken;
                let is_sealed = || slot.word.load().is_sealed();
                let lease = shared.leases.get(entry);
                lease.install(idle, seq, end, is_sealed);
                let lease = NonNull::from(lease);
                self.lease = Some(Held {
                    lease,
                    slot: NonNull::from(slot),
                    memory: shared.at(slot, 0),
                    base,
                    idle,
                    start: offset,
                    end,
                });
                Under::Lease(lease)
            }
            _ => {
                // A few records in one buffer are what shows that a lease pays again.
                let from = if seq == self.plain_seq {
                    self.target
                } else {
                    0
                };
                self.target = grown(from, len, shared.shape.lease);
                self.plain_seq = seq;
                Under::Itself
            }
        };
        Ok(Attempt::Granted(Granted {
            slot: NonNull::from(slot),
            bytes,
            address: base + u64::from(offset),
            under,
        }))
    }

    /// How many records of `len` bytes to take in one reservation: 1 if that is not to be a lease.
    fn records_to_lease(&mut self, len: u32) -> u32 {
        let leases = &self.ring.shared().leases;
        let records = self.target / len;
        if records < 2 {
            return 1;
        }
        self.entry = self.entry.or_else(|| leases.lend());
        match self.entry {
            // Not vacant: a revoker is just reading where the last lease lay.
            Some(entry) if leases.get(entry).is_vacant() || canary!("lease-install-not-vacant") => {
                records
            }
            _ => 1,
        }
    }

    /// The reservation of the `len` bytes that were granted.
    #[inline(always)]
    fn reservation(&mut self, granted: Granted, len: usize) -> Reservation<'_> {
        let Granted {
            slot,
            bytes,
            address,
            under,
        } = granted;
        // SAFETY: they point to what the ring owns and never moves, and `self` keeps the ring.
        let (slot, exit) = unsafe {
            let exit = match under {
                Under::Itself => Exit::Buffer,
                Under::Lease(lease) => Exit::Lease(lease.as_ref()),
                Under::LeaseToItsEnd(lease) => Exit::LeaseToItsEnd(lease.as_ref()),
            };
            (slot.as_ref(), exit)
        };
        Reservation::new(self.ring.shared(), slot, bytes, len, address, exit)
    }
}

impl Held {
    #[inline]
    fn lease(&self) -> &Lease {
        // SAFETY: the appender that has `self` has the ring, which owns the entry and never moves
        // it.
        unsafe { self.lease.as_ref() }
    }
}

// SAFETY: the pointers are to what the ring shares between threads, and the ring is `Send`.
unsafe impl Send for Appender {}
// SAFETY: `&Appender` gives out only the ring, which is `Sync`.
unsafe impl Sync for Appender {}

/// A target of `by` more bytes than `from`, but at most `max`.
fn grown(from: u32, by: u32, max: u32) -> u32 {
    from.saturating_add(by).min(max)
}

impl Drop for Appender {
    fn drop(&mut self) {
        let closing = self
            .lease
            .take()
            .and_then(|held| match held.lease().retire(held.idle) {
                Retire::Close(closing) => Some(closing),
                Retire::Gone => None,
                Retire::Forgotten => {
                    self.entry = None;
                    None
                }
            });
        let shared = self.ring.shared();
        if let Some(entry) = self.entry {
            shared.leases.take_back(entry);
        }
        if let Some(closing) = closing {
            shared.void_rest(closing).leave_to_ring();
        }
    }
}

impl fmt::Debug for Appender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appender")
            .field("entry", &self.entry)
            .field("has_lease", &self.lease.is_some())
            .finish_non_exhaustive()
    }
}
