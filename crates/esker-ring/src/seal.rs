//! Sealing a buffer before it is full.

use crate::shared::Shared;
use crate::waiters::{Until, Wait};
use crate::word;
use crate::{BufferSeq, Ring, SealedBuffer};

/// What [`Ring::seal`] and [`Ring::seal_through`] did.
///
/// # Examples
///
/// ```
/// # use esker_ring::{Reserve, Ring, Seal, SealedBuffer};
/// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
/// # let flush = |buffer: SealedBuffer| buffer.recycle();
/// # let Reserve::Reserved(record) = ring.reserve(8)? else { unreachable!() };
/// # assert!(record.commit().is_none());
/// // Everything reserved so far is to be on its way.
/// let end = loop {
///     match ring.seal() {
///         Seal::Sealed { end, buffer, .. } => {
///             // Without a buffer, a writer that is still in it will get it.
///             buffer.into_iter().for_each(flush);
///             break end;
///         }
///         Seal::Empty => break ring.current().1,
///         Seal::AlreadySealed { end } => break end,
///         Seal::Crossing(wait) => {
///             ring.wait(&wait, None);
///         }
///         Seal::Orphan(buffer) => flush(buffer),
///     }
/// };
/// assert_eq!(end, 4096);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use]
pub enum Seal {
    /// The buffer is sealed, by this call.
    Sealed {
        /// Its sequence number.
        seq: BufferSeq,
        /// The base address of the next buffer: everything reserved below it is sealed.
        end: u64,
        /// The buffer, if this call was the last one out of it; else a writer will be.
        buffer: Option<SealedBuffer>,
    },
    /// Nothing: the open buffer is empty, so everything reserved is sealed.
    Empty,
    /// Nothing: what was to be sealed is sealed already.
    AlreadySealed {
        /// Everything reserved below this address is sealed.
        end: u64,
    },
    /// Nothing: somebody else is sealing the buffer this moment. Once the wait is over it is
    /// sealed.
    Crossing(Wait),
    /// Nothing yet: a sealed buffer that nobody had taken. Flush it and call again.
    Orphan(SealedBuffer),
}

impl Ring {
    /// Seals the open buffer with what is reserved in it so far, and opens the next one if it is
    /// free. An empty buffer stays open. Never blocks.
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
    /// let Seal::Sealed { seq, end, buffer: Some(buffer) } = ring.seal() else {
    ///     panic!("nobody is writing");
    /// };
    /// assert_eq!((buffer.seq(), buffer.next_base()), (seq, end));
    /// assert!(matches!(ring.seal(), Seal::Empty));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn seal(&self) -> Seal {
        self.seal_if(|| None)
    }

    /// Seals the open buffer if it may hold `address`: if the address is not below its base. Never
    /// blocks.
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
    /// // Whoever wants the record on its way now seals through its address, and only once.
    /// let Seal::Sealed { end, .. } = ring.seal_through(address) else {
    ///     panic!("it is in the open buffer");
    /// };
    /// assert!(matches!(
    ///     ring.seal_through(address),
    ///     Seal::AlreadySealed { end: sealed } if sealed == end
    /// ));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn seal_through(&self, address: u64) -> Seal {
        self.seal_if(|| {
            let base = self.shared().position().base;
            (address < base).then_some(Seal::AlreadySealed { end: base })
        })
    }

    /// Seals unless `done` says, at each attempt, that nothing is left to seal.
    fn seal_if(&self, done: impl Fn() -> Option<Seal>) -> Seal {
        let shared = self.shared();
        if let Some(buffer) = Shared::take_orphan(shared) {
            return Seal::Orphan(buffer);
        }
        loop {
            if let Some(outcome) = done() {
                return outcome;
            }
            let newest = shared.newest();
            let slot = shared.slot(newest);
            match slot.word.seal(shared.shape.header) {
                word::Seal::Sealed { end } => {
                    // Identity after the compare-and-swap: it may be a later buffer than the one
                    // that was looked up (R5). Then all before it is sealed as well.
                    let seq = BufferSeq::new(slot.tenancy.seq());
                    if canary!("leave-before-close") {
                        let buffer = Shared::leave_as_sealer(shared, slot);
                        let end = shared.close(slot, u64::from(end));
                        return Seal::Sealed { seq, end, buffer };
                    }
                    let end = shared.close(slot, u64::from(end));
                    let buffer = Shared::leave_as_sealer(shared, slot);
                    return Seal::Sealed { seq, end, buffer };
                }
                word::Seal::Empty => return Seal::Empty,
                word::Seal::AlreadySealed(seen) => {
                    let settled = slot.tenancy.is_closed(newest) || seen.is_flushing();
                    if shared.newest() != newest {
                        continue;
                    }
                    if settled {
                        // Closed, and the next can't open; or claimed and about to open. Nothing
                        // is reserved past the base of that one.
                        let end = shared.position().base;
                        return Seal::AlreadySealed { end };
                    }
                    return Seal::Crossing(Wait {
                        seq: newest,
                        until: Until::Settled,
                    });
                }
            }
        }
    }
}
