//! The packed state word of a flush buffer: its bits and every transition it can make.
//!
//! Nothing here knows of memory, addresses or the ring. Each transition is a pure function on a
//! [`Snapshot`] and a method of [`StateWord`] that carries it out; the methods say which edge of
//! `docs/protocol.md` their ordering is.

use crate::sync::{ContendedU64, Ordering};

/// Lowest bit of the write offset.
pub(crate) const OFFSET_SHIFT: u32 = 32;
/// Width of the write offset in bits.
pub(crate) const OFFSET_BITS: u32 = 32;
/// Lowest bit of the count of active writers.
pub(crate) const WRITERS_SHIFT: u32 = 8;
/// Width of the count of active writers in bits.
pub(crate) const WRITERS_BITS: u32 = 24;
/// Lowest bit of the reserved field, which is always zero.
pub(crate) const RESERVED_SHIFT: u32 = 2;
/// Width of the reserved field in bits.
pub(crate) const RESERVED_BITS: u32 = 6;
/// The flush-in-progress bit.
pub(crate) const FLUSH_BIT: u32 = 1;
/// The sealed bit.
pub(crate) const SEALED_BIT: u32 = 0;

const SEALED: u64 = 1 << SEALED_BIT;
const FLUSHING: u64 = 1 << FLUSH_BIT;
const ONE_WRITER: u64 = 1 << WRITERS_SHIFT;
const WRITERS_MASK: u64 = ((1 << WRITERS_BITS) - 1) << WRITERS_SHIFT;
const OFFSET_MASK: u64 = ((1 << OFFSET_BITS) - 1) << OFFSET_SHIFT;

/// How many writers a reservation may make the count reach: one below what fits, so that the
/// sealer's own count always fits too.
const MAX_WRITERS: u32 = (1 << WRITERS_BITS) - 2;

const _: () = {
    assert!(OFFSET_SHIFT + OFFSET_BITS == u64::BITS);
    assert!(WRITERS_SHIFT + WRITERS_BITS == OFFSET_SHIFT);
    assert!(RESERVED_SHIFT + RESERVED_BITS == WRITERS_SHIFT);
    assert!(RESERVED_SHIFT == FLUSH_BIT + 1 && FLUSH_BIT == SEALED_BIT + 1);
};

/// One value of the state word, decoded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Snapshot(u64);

/// What a reservation of some length would do to a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
enum ReserveStep {
    /// It fits: the offset it gets, how many bytes, and the word after.
    Take {
        offset: u32,
        len: u32,
        next: Snapshot,
    },
    /// It does not fit: this caller would seal at `end`.
    Cross {
        end: u32,
        next: Snapshot,
    },
    Sealed,
    Crowded,
}

impl Snapshot {
    /// A slot that holds no open buffer: sealed, and with a flusher that is done or never was.
    const RETIRED: Self = Self(SEALED | FLUSHING);

    #[inline]
    pub(crate) fn offset(self) -> u32 {
        (self.0 >> OFFSET_SHIFT) as u32
    }

    #[inline]
    pub(crate) fn writers(self) -> u32 {
        ((self.0 & WRITERS_MASK) >> WRITERS_SHIFT) as u32
    }

    #[inline]
    pub(crate) fn is_sealed(self) -> bool {
        self.0 & SEALED != 0
    }

    #[inline]
    pub(crate) fn is_flushing(self) -> bool {
        self.0 & FLUSHING != 0
    }

    #[inline]
    fn at_offset(self, offset: u32) -> Self {
        Self(self.0 & !OFFSET_MASK | u64::from(offset) << OFFSET_SHIFT)
    }

    #[inline]
    fn with_writer(self) -> Self {
        Self(self.0 + ONE_WRITER)
    }

    /// With `len` more bytes and one writer: one addition, for every reservation waits for it. The
    /// offset stays below the capacity and the count below its limit, so nothing is carried over.
    #[inline]
    fn taken(self, len: u32) -> Self {
        Self(self.0 + ((u64::from(len) << OFFSET_SHIFT) + ONE_WRITER))
    }

    #[inline]
    fn sealed(self) -> Self {
        Self(self.0 | SEALED)
    }

    /// Up to `most` times `len` bytes, and at least once.
    #[inline]
    fn reserve(self, len: u32, most: u32, capacity: u32) -> ReserveStep {
        if self.is_sealed() {
            return ReserveStep::Sealed;
        }
        let offset = self.offset();
        // `offset <= capacity` always, so this is the whole of rule 2: an exact fill takes, and
        // whoever comes after it crosses.
        let room = capacity - offset;
        if len <= room {
            if self.writers() >= MAX_WRITERS {
                return ReserveStep::Crowded;
            }
            let len = if most > 1 {
                len * most.min(room / len)
            } else {
                len
            };
            ReserveStep::Take {
                offset,
                len,
                next: self.taken(len),
            }
        } else {
            ReserveStep::Cross {
                end: offset,
                next: self.sealed().with_writer(),
            }
        }
    }

    /// Sealed, no writers, nobody has claimed the flush: the only state that may be claimed.
    #[inline]
    fn is_claimable(self) -> bool {
        self.is_sealed() && !self.is_flushing() && self.writers() == 0
    }
}

impl core::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Snapshot")
            .field("offset", &self.offset())
            .field("writers", &self.writers())
            .field("flushing", &self.is_flushing())
            .field("sealed", &self.is_sealed())
            .finish()
    }
}

/// What [`StateWord::reserve`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Reserve {
    /// Took `len` bytes at `offset` and one writer.
    Taken { offset: u32, len: u32 },
    /// Sealed the buffer at `end` and took one writer: the caller must close it.
    Crossed { end: u32 },
    /// Nothing: the buffer is sealed.
    Sealed,
    /// Nothing: the count of writers is at its limit.
    Crowded,
}

/// What [`StateWord::seal`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Seal {
    /// Sealed the buffer at `end` and took one writer: the caller must close it.
    Sealed { end: u32 },
    /// Nothing: the buffer is open and empty.
    Empty,
    /// Nothing: the buffer is sealed.
    AlreadySealed(Snapshot),
}

/// What [`StateWord::seal_empty`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum SealEmpty {
    /// Sealed the empty buffer and took one writer: the caller must close it.
    Taken,
    /// Nothing: something is reserved in the buffer, or a transient count rides in it.
    NotEmpty,
    /// Nothing: the buffer is sealed.
    AlreadySealed,
}

/// What [`StateWord::pin`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum PinStep {
    /// Took one writer; everything below `end` is committed.
    Pinned { end: u32 },
    /// Nothing: writers are active.
    Busy,
    /// Nothing: the buffer is empty or sealed.
    NotOpen,
}

/// What [`StateWord::leave`] did, beyond giving back the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Leave {
    /// The buffer is open, or others are still in it.
    Left,
    /// This was the last one out of a sealed buffer, and the flush is the caller's.
    LastOut,
}

/// The state word of one slot of the ring.
///
/// Written by reservers, sealers and leavers by read-modify-write only, by the one flush claimant
/// by compare-and-swap, and by the one opener of each tenancy by compare-and-swap. There is no
/// plain store after construction, so every release in it heads a release sequence that runs to
/// the next acquire.
///
/// | flush | sealed | writers | state |
/// |---|---|---|---|
/// | 0 | 0 | 0 | open, quiet: everything below the offset is committed |
/// | 0 | 0 | > 0 | open, with writers (or a pin) |
/// | 0 | 1 | > 0 | sealed, writers leaving; until `closed` is published one of them is the sealer |
/// | 0 | 1 | 0 | sealed, nobody in it: claimable, for the instant before the last one out claims it |
/// | 1 | 1 | any | flush in progress, or free: which of the two is kept beside the word |
/// | 1 | 0 | any | never |
pub(crate) struct StateWord {
    bits: ContendedU64,
}

impl StateWord {
    pub(crate) fn retired() -> Self {
        Self {
            bits: ContendedU64::new(Snapshot::RETIRED.0),
        }
    }

    /// A look that orders everything after it behind the transitions it shows.
    #[inline]
    pub(crate) fn load(&self) -> Snapshot {
        // Acquire: a tenancy seen here has its base, sequence number and predecessor visible (E2),
        // a sealed and claimed one its `closed` (E1).
        Snapshot(self.bits.load(Ordering::Acquire))
    }

    /// A look for [`reserve`](Self::reserve), which orders nothing.
    #[inline(always)]
    pub(crate) fn look(&self) -> Snapshot {
        // Relaxed: only an argument of a compare-and-swap; a refusal is checked again by the caller
        // against the ring's own variables.
        Snapshot(self.bits.load(Ordering::Relaxed))
    }

    /// Takes `len` bytes, as many times as there is room for but at most `most` times, and one
    /// writer: offset and length. If that does not go, what it saw, for [`reserve`](Self::reserve).
    // Always: where it goes, nothing of it needs memory.
    #[inline(always)]
    pub(crate) fn take(&self, len: u32, most: u32, capacity: u32) -> Result<(u32, u32), Snapshot> {
        let mut seen = self.look();
        loop {
            let ReserveStep::Take { offset, len, next } = seen.reserve(len, most, capacity) else {
                return Err(seen);
            };
            match self.enter(seen, next) {
                Ok(()) => return Ok((offset, len)),
                Err(current) => seen = current,
            }
        }
    }

    /// Takes like [`take`](Self::take), or seals. `seen` is what the word was a moment ago.
    pub(crate) fn reserve(
        &self,
        mut seen: Snapshot,
        len: u32,
        most: u32,
        capacity: u32,
    ) -> Reserve {
        loop {
            let (next, outcome) = match seen.reserve(len, most, capacity) {
                ReserveStep::Take { offset, len, next } => (next, Reserve::Taken { offset, len }),
                ReserveStep::Cross { end, next } => (next, Reserve::Crossed { end }),
                ReserveStep::Sealed => return Reserve::Sealed,
                ReserveStep::Crowded => return Reserve::Crowded,
            };
            match self.enter(seen, next) {
                Ok(()) => return outcome,
                Err(current) => seen = current,
            }
        }
    }

    /// The step of a reservation, or of the one that crosses.
    #[inline(always)]
    fn enter(&self, seen: Snapshot, next: Snapshot) -> Result<(), Snapshot> {
        // Acquire: pairs with the opener's Release (E2): base, sequence number and the end of
        // the previous flusher's accesses are visible. A reservation publishes nothing.
        let ordering = if canary!("reserve-relaxed") {
            Ordering::Relaxed
        } else {
            Ordering::Acquire
        };
        self.exchange(seen, next, ordering)
    }

    /// Seals a buffer that is open and holds something, and takes a writer.
    pub(crate) fn seal(&self, header: u32) -> Seal {
        let mut seen = self.load();
        loop {
            if seen.is_sealed() {
                return Seal::AlreadySealed(seen);
            }
            let end = seen.offset();
            if end == header {
                return Seal::Empty;
            }
            // Acquire: as in `reserve` (E2). On failure it makes the refusal as good as `load`.
            match self.exchange(seen, seen.sealed().with_writer(), Ordering::Acquire) {
                Ok(()) => return Seal::Sealed { end },
                Err(_) => seen = self.load(),
            }
        }
    }

    /// Seals a buffer that is open, empty and quiet, and takes a writer.
    pub(crate) fn seal_empty(&self, header: u32) -> SealEmpty {
        let mut seen = self.load();
        loop {
            if seen.is_sealed() {
                return SealEmpty::AlreadySealed;
            }
            if seen.offset() != header {
                return SealEmpty::NotEmpty;
            }
            // Acquire: as in `reserve` (E2).
            match self.exchange(seen, seen.sealed().with_writer(), Ordering::Acquire) {
                Ok(()) => return SealEmpty::Taken,
                Err(_) => seen = self.load(),
            }
        }
    }

    /// Takes a writer in an open buffer without writers.
    pub(crate) fn pin(&self, header: u32) -> PinStep {
        let mut seen = self.load();
        loop {
            let end = seen.offset();
            if seen.is_sealed() || end == header {
                return PinStep::NotOpen;
            }
            if seen.writers() != 0 {
                return PinStep::Busy;
            }
            // Acquire: reads from the end of the release sequences of every `leave` of this
            // tenancy (E3), and there was one for every reservation, for the count is zero. `load`
            // does not stand in for it: the slot may have come round to the same word since.
            let ordering = if canary!("pin-relaxed") {
                Ordering::Relaxed
            } else {
                Ordering::Acquire
            };
            match self.exchange(seen, seen.with_writer(), ordering) {
                Ok(()) => return PinStep::Pinned { end },
                Err(_) => seen = self.load(),
            }
        }
    }

    /// Gives back a writer; the last one out of a sealed buffer claims the flush.
    #[inline]
    pub(crate) fn leave(&self) -> Leave {
        // Release: publishes what was written under the reservation, and by the sealer the end,
        // next base and `closed`, to the flush claim (E3) and to pins.
        let ordering = if canary!("commit-relaxed") {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        let before = Snapshot(self.bits.fetch_sub(ONE_WRITER, ordering));
        debug_assert!(
            before.writers() > 0,
            "left more often than entered: {before:?}"
        );
        let after = Snapshot(before.0 - ONE_WRITER);
        let claimable = if canary!("flush-claim-with-writers") {
            after.is_sealed() && !after.is_flushing()
        } else {
            after.is_claimable()
        };
        if claimable {
            self.claim(after)
        } else {
            Leave::Left
        }
    }

    #[cold]
    fn claim(&self, seen: Snapshot) -> Leave {
        // From exactly {sealed, no writers, no flush}: one thread gets it, and only once in a
        // tenancy, for the bit stays until the slot is opened again. Nobody enters a sealed word,
        // so only one thread takes the count to zero and this does not fail; that it could keeps
        // a fault elsewhere from handing a buffer over twice.
        // Acquire: ends the release sequences of every `leave` of the tenancy (E3).
        match self.exchange(seen, Snapshot(seen.0 | FLUSHING), Ordering::Acquire) {
            Ok(()) => Leave::LastOut,
            Err(_) => Leave::Left,
        }
    }

    /// Opens the next tenancy at offset `header`, keeping whatever transient count is in the word.
    /// Only the thread that claimed the opening calls it.
    pub(crate) fn open(&self, header: u32) {
        // Release: publishes base and sequence number, and passes on the flusher's last access,
        // which the opener acquired with `freed` (E2, E6).
        self.retenant(|seen| Snapshot(seen.0 & WRITERS_MASK).at_offset(header));
    }

    /// Starts the next tenancy sealed, with one writer: the caller, who has to close it.
    pub(crate) fn open_sealed(&self, header: u32) {
        self.retenant(|seen| {
            Snapshot(seen.0 & WRITERS_MASK)
                .at_offset(header)
                .sealed()
                .with_writer()
        });
    }

    fn retenant(&self, next: impl Fn(Snapshot) -> Snapshot) {
        // Relaxed: the opener owns the slot by its claim; only transient counts can differ.
        let mut seen = Snapshot(self.bits.load(Ordering::Relaxed));
        loop {
            debug_assert!(
                seen.is_sealed() && seen.is_flushing(),
                "opened twice: {seen:?}"
            );
            match self.exchange(seen, next(seen), Ordering::Release) {
                Ok(()) => return,
                Err(current) => seen = current,
            }
        }
    }

    /// The bug that the canary `recycle-store` plants: a recycler that resets the word itself.
    pub(crate) fn reset(&self, header: u32) {
        self.bits
            .store(Snapshot(0).at_offset(header).0, Ordering::Release);
    }

    #[inline]
    fn exchange(&self, seen: Snapshot, next: Snapshot, success: Ordering) -> Result<(), Snapshot> {
        // Relaxed on failure: the value is only tried again or loaded anew.
        self.bits
            .compare_exchange(seen.0, next.0, success, Ordering::Relaxed)
            .map(|_| ())
            .map_err(Snapshot)
    }
}

#[cfg(all(test, not(esker_loom)))]
mod tests;
