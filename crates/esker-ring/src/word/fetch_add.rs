//! Reserving by one fetch-add of length and writer.
//!
//! It always succeeds as an operation, so what it found decides what it was:
//!
//! | found | it is |
//! |---|---|
//! | not sealed, offset + len <= capacity | a reservation |
//! | not sealed, offset <= capacity < offset + len | the crosser, which seals |
//! | not sealed, offset > capacity | a loser, while another is crossing |
//! | sealed | a loser |
//!
//! A loser has taken a writer, and gives it back like any writer: it may be the last one out, of
//! this tenancy or of the next, into which its count rides if it came after the flush was claimed.
//! What it has added to the offset it never gives back: the next opening resets it, and until then
//! nobody looks at the offset of a sealed word.

use super::{MAX_WRITERS, OFFSET_SHIFT, ONE_WRITER, Reserve, SEALED, Snapshot, StateWord};
use crate::sync::Ordering;

impl StateWord {
    /// Takes `len` bytes and one writer; or seals; or has to leave.
    #[inline]
    pub(super) fn reserve_by_add(&self, len: u32, capacity: u32) -> Reserve {
        // Relaxed: keeps those who come late from adding for nothing, so that each thread adds to
        // a word past its capacity once at most. It must refuse nobody just because the length
        // does not fit, else nobody crosses.
        let seen = Snapshot(self.bits.load(Ordering::Relaxed));
        let is_refused = if cfg!(esker_canary = "add-refuses-what-does-not-fit") {
            seen.is_sealed() || u64::from(seen.offset()) + u64::from(len) > u64::from(capacity)
        } else {
            !seen.is_open(capacity)
        };
        if is_refused {
            return Reserve::Sealed;
        }
        if seen.writers() >= MAX_WRITERS {
            return Reserve::Crowded;
        }
        self.add(len, capacity)
    }

    /// The fetch-add itself, by a thread that has looked, however long ago.
    #[inline]
    pub(super) fn add(&self, len: u32, capacity: u32) -> Reserve {
        // Acquire: pairs with the opener's Release (E2): base, sequence number and the end of the
        // previous flusher's accesses are visible. A reservation publishes nothing.
        let ordering = if cfg!(esker_canary = "reserve-relaxed") {
            Ordering::Relaxed
        } else {
            Ordering::Acquire
        };
        let taken = u64::from(len) << OFFSET_SHIFT | ONE_WRITER;
        let before = Snapshot(self.bits.fetch_add(taken, ordering));
        let offset = before.offset();
        if !before.is_open(capacity) {
            if cfg!(esker_canary = "add-loser-undoes-offset") {
                self.bits
                    .fetch_sub(u64::from(len) << OFFSET_SHIFT, Ordering::Relaxed);
            }
            Reserve::Lost
        } else if len <= capacity - offset {
            Reserve::Taken { offset, len }
        } else {
            self.cross(offset)
        }
    }

    /// The bug that the canary `add-loser-skips-check` plants.
    pub(crate) fn leave_unchecked(&self) {
        self.bits.fetch_sub(ONE_WRITER, Ordering::Release);
    }

    /// Seals, for the one whose reservation went past the capacity from `end`.
    #[cold]
    fn cross(&self, end: u32) -> Reserve {
        // Only the crosser sets the bit: an early seal keeps off an offset past the capacity, and
        // every later fetch-add finds one. Relaxed: it publishes nothing; `closed` does (E1). As a
        // read-modify-write it keeps the release sequences.
        self.bits.fetch_or(SEALED, Ordering::Relaxed);
        Reserve::Crossed { end }
    }
}
