//! [`Blocker`]: whom a full ring waits for.

use core::fmt;

use crate::waiters::Until;
use crate::{BufferSeq, Ring, Wait};

/// Whom a full ring waits for, as [`Ring::blocker`] found it.
///
/// As a rule it has moved on a moment later. One that stays is how a ring says why it cannot go on:
/// a reservation or a buffer was forgotten, or its thread hangs.
///
/// # Examples
///
/// ```
/// # use esker_ring::{Blocker, BufferSeq, Ring, Seal, TryReserve};
/// # let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
/// let TryReserve::Reserved(slow) = ring.try_reserve(8)? else {
///     panic!("the first buffer is open and empty");
/// };
/// assert!(matches!(ring.seal(), Seal::Sealed { buffer: None, .. }));
/// # let TryReserve::Reserved(record) = ring.try_reserve(8)? else { unreachable!() };
/// # assert!(record.commit().is_none());
/// # let Seal::Sealed { buffer, .. } = ring.seal() else { unreachable!() };
/// // The second buffer is full and flushed by now; the third would need the first one's memory.
/// # drop(buffer);
/// let TryReserve::Full(wait) = ring.try_reserve(8)? else {
///     panic!("a writer is still in the first buffer");
/// };
/// let blocker = ring.blocker(&wait).expect("it has not moved on");
/// assert_eq!(blocker, Blocker::Writers { seq: BufferSeq::new(0), writers: 1 });
/// assert_eq!(blocker.to_string(), "1 reservations in buffer 0 have not ended");
/// # drop(slow);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blocker {
    /// Reservations, pins or leases in a sealed buffer that have not ended.
    Writers {
        /// The buffer's sequence number.
        seq: BufferSeq,
        /// How many.
        writers: u32,
    },
    /// Whoever has a [`SealedBuffer`](crate::SealedBuffer) and has not recycled it.
    Flusher {
        /// The buffer's sequence number.
        seq: BufferSeq,
    },
    /// The thread that is sealing or opening a buffer: it is between a few stores.
    Opener {
        /// The buffer's sequence number.
        seq: BufferSeq,
    },
}

impl Ring {
    /// Whom `wait` waits for; `None` if it is worth trying again. A snapshot, for people who want to
    /// know why a ring stands still. Never blocks.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use esker_ring::{Blocker, BufferSeq, Ring, Seal, TryReserve};
    ///
    /// let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
    /// for _ in 0..2 {
    ///     let TryReserve::Reserved(record) = ring.try_reserve(8)? else {
    ///         panic!("a buffer is free");
    ///     };
    ///     assert!(record.commit().is_none());
    ///     if let Seal::Sealed { buffer, .. } = ring.seal() {
    ///         std::mem::forget(buffer); // a flusher that never gives it back
    ///     }
    /// }
    /// let TryReserve::Full(wait) = ring.try_reserve(8)? else {
    ///     panic!("no buffer is free");
    /// };
    /// assert!(!ring.wait(&wait, Some(Duration::from_millis(1))));
    /// let seq = BufferSeq::new(0);
    /// assert_eq!(ring.blocker(&wait), Some(Blocker::Flusher { seq }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn blocker(&self, wait: &Wait) -> Option<Blocker> {
        let shared = self.shared();
        if shared.is_ready(*wait) {
            return None;
        }
        let newest = wait.seq;
        let blocker = match wait.until {
            Until::Settled => Blocker::Opener {
                seq: BufferSeq::new(newest),
            },
            Until::NextOpen | Until::NextFree => {
                // The tenancy before the next one in its slot.
                let held = newest.wrapping_add(1).wrapping_sub(shared.slots());
                let seq = BufferSeq::new(held);
                match shared.slot(held).word.load().writers() {
                    0 => Blocker::Flusher { seq },
                    writers => Blocker::Writers { seq, writers },
                }
            }
        };
        // It was the newest before, and the number only grows: so the word looked at was that
        // tenancy's.
        (shared.newest() == newest).then_some(blocker)
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Writers { seq, writers } => {
                write!(f, "{writers} reservations in buffer {seq} have not ended")
            }
            Self::Flusher { seq } => write!(f, "buffer {seq} was handed over and not recycled"),
            Self::Opener { seq } => write!(f, "a thread is sealing or opening buffer {seq}"),
        }
    }
}

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use super::*;
    use crate::word::Seal;
    use crate::{Reserve, TryReserve};

    #[test]
    fn a_sealer_that_has_not_published_the_end_is_named() {
        let ring = Ring::builder().build().expect("a ring");
        let Ok(Reserve::Reserved(record)) = ring.reserve(8) else {
            panic!("it is empty");
        };
        assert!(record.commit().is_none());
        let shared = ring.shared();
        let slot = shared.slot(shared.newest());
        let Seal::Sealed { end } = slot.word.seal(shared.shape.header) else {
            panic!("it holds a record");
        };
        let Ok(TryReserve::Full(wait)) = ring.try_reserve(8) else {
            panic!("its end is not published");
        };
        let seq = BufferSeq::new(0);
        assert_eq!(ring.blocker(&wait), Some(Blocker::Opener { seq }));
        shared.close(slot, u64::from(end));
        assert_eq!(ring.blocker(&wait), None);
    }

    #[test]
    fn each_is_described_with_its_buffer() {
        let seq = BufferSeq::new(7);
        for (blocker, text) in [
            (
                Blocker::Writers { seq, writers: 3 },
                "3 reservations in buffer 7 have not ended",
            ),
            (
                Blocker::Flusher { seq },
                "buffer 7 was handed over and not recycled",
            ),
            (
                Blocker::Opener { seq },
                "a thread is sealing or opening buffer 7",
            ),
        ] {
            assert_eq!(blocker.to_string(), text);
        }
    }
}
