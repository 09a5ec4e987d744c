//! Leases: stretches of a buffer that one appender fills record by record.
//!
//! A lease is one reservation in its buffer, with one writer count, over many records. Its owner
//! takes them under a word of the lease's own, so the buffer's word is touched twice a lease and
//! not twice a record. Whoever seals the buffer *revokes* its leases: an idle one is closed by the
//! revoker, one with a record under way by its owner as soon as that is done. Closing turns what is
//! left into a void record and gives the writer count back. `docs/protocol.md` has the states and
//! the argument.

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU64, ContendedU64, Ordering, fence};

/// Lowest bit of the used offset.
pub(crate) const USED_SHIFT: u32 = 32;
/// Width of the used offset in bits.
pub(crate) const USED_BITS: u32 = 32;
/// Lowest bit of the tag: the low bits of the tenancy's sequence number.
pub(crate) const TAG_SHIFT: u32 = 8;
/// Width of the tag in bits.
pub(crate) const TAG_BITS: u32 = 24;
/// Lowest bit of the spare field, which is always zero.
pub(crate) const SPARE_SHIFT: u32 = 3;
/// Width of the spare field in bits.
pub(crate) const SPARE_BITS: u32 = 5;
/// The revoked bit.
pub(crate) const REVOKED_BIT: u32 = 2;
/// The active bit: a record is under way.
pub(crate) const ACTIVE_BIT: u32 = 1;
/// The live bit: there is a lease.
pub(crate) const LIVE_BIT: u32 = 0;

const LIVE: u64 = 1 << LIVE_BIT;
const ACTIVE: u64 = 1 << ACTIVE_BIT;
const REVOKED: u64 = 1 << REVOKED_BIT;
const TAG_MASK: u64 = ((1 << TAG_BITS) - 1) << TAG_SHIFT;
const VACANT: u64 = 0;

const _: () = {
    assert!(USED_SHIFT + USED_BITS == u64::BITS);
    assert!(TAG_SHIFT + TAG_BITS == USED_SHIFT);
    assert!(SPARE_SHIFT + SPARE_BITS == TAG_SHIFT);
    assert!(SPARE_SHIFT == REVOKED_BIT + 1 && REVOKED_BIT == ACTIVE_BIT + 1 && LIVE_BIT == 0);
};

/// How many appenders of a ring can have leases at a time: as many as a word has bits.
#[cfg(not(esker_loom))]
const ENTRIES: usize = u64::BITS as usize;
#[cfg(esker_loom)]
const ENTRIES: usize = 2;

/// The tag of a tenancy, in place. It only spares revokers the leases of other tenancies; that
/// numbers 2^24 apart share one costs a lease that could have gone on, nothing more.
fn tag(seq: u64) -> u64 {
    seq << TAG_SHIFT & TAG_MASK
}

/// The word of a lease that is live and idle, as its owner knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Idle(u64);

impl Idle {
    pub(crate) fn new(seq: u64, used: u32) -> Self {
        Self(u64::from(used) << USED_SHIFT | tag(seq) | LIVE)
    }

    #[inline]
    pub(crate) fn used(self) -> u32 {
        (self.0 >> USED_SHIFT) as u32
    }

    #[inline]
    pub(crate) fn after(self, len: u32) -> Self {
        Self(self.0 + (u64::from(len) << USED_SHIFT))
    }
}

/// What a lease was when it fell to somebody to close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closing {
    pub(crate) seq: u64,
    pub(crate) used: u32,
    pub(crate) end: u32,
}

/// What [`Lease::commit`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Commit {
    /// The lease goes on.
    Idle,
    /// It was revoked meanwhile, and the owner has to close it.
    Close(Closing),
}

/// What [`Lease::retire`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Retire {
    /// The lease is over, and the owner has to close it.
    Close(Closing),
    /// It was revoked: somebody has closed it or is about to.
    Gone,
    /// A record is under way that nobody will commit: its guard was forgotten.
    Forgotten,
}

/// One entry of the registry: room for one lease at a time.
///
/// | revoked | active | live | state |
/// |---|---|---|---|
/// | 0 | 0 | 0 | vacant: the owner may install a lease |
/// | 0 | 0 | 1 | idle: the owner may begin a record or retire, anybody may revoke |
/// | 0 | 1 | 1 | a record is under way |
/// | 1 | 1 | 1 | a record is under way, and its end closes the lease |
/// | 1 | 0 | 1 | closing: whoever brought it here reads the lease's place and vacates the entry |
/// | any | any | 0 | never, other than vacant |
pub(crate) struct Lease {
    /// Installed by the owner when vacant; taken from idle by compare-and-swap of the owner or of
    /// a revoker; taken from active by the owner alone; vacated by whoever closes.
    word: ContendedU64,
    /// Sequence number of the tenancy. Written by the owner before it installs, read by whoever
    /// closes before it vacates.
    seq: AtomicU64,
    /// Where the lease ends in the buffer. Written and read like `seq`.
    end: AtomicU64,
}

impl Lease {
    fn new() -> Self {
        Self {
            word: ContendedU64::new(VACANT),
            seq: AtomicU64::new(0),
            end: AtomicU64::new(0),
        }
    }

    /// Whether a lease may be installed. Only the owner asks.
    pub(crate) fn is_vacant(&self) -> bool {
        // Acquire: whoever closed the last lease has read its place (L3).
        self.word.load(Ordering::Acquire) == VACANT
    }

    /// Installs a lease of the tenancy `seq` up to `end`, with a record under way that ends where
    /// `idle` will stand. Only the owner, and only when vacant. `is_sealed` looks at the buffer's
    /// word, after the fence: either it sees a seal, or the sealer sees the lease.
    pub(crate) fn install(&self, idle: Idle, seq: u64, end: u32, is_sealed: impl Fn() -> bool) {
        // Relaxed, both: published by the commit that first makes the lease idle (L1).
        self.seq.store(seq, Ordering::Relaxed);
        self.end.store(u64::from(end), Ordering::Relaxed);
        // Relaxed: nobody but the owner acts on an active word, other than by marking it.
        self.word.store(idle.0 | ACTIVE, Ordering::Relaxed);
        if !cfg!(esker_canary = "lease-without-fence") {
            // SeqCst fence: between publishing the lease and looking for a seal (L2).
            fence(Ordering::SeqCst);
        }
        if is_sealed() {
            // Relaxed: a note of the owner's to itself.
            self.word.fetch_or(REVOKED, Ordering::Relaxed);
        }
    }

    /// Begins a record of `len` bytes at `idle`. `false` if the lease is not there any more.
    #[inline]
    pub(crate) fn begin(&self, idle: Idle, len: u32) -> bool {
        // Relaxed: takes nothing from anybody and publishes nothing. That it is a read-modify-write
        // decides between owner and revoker.
        self.word
            .compare_exchange(
                idle.0,
                idle.after(len).0 | ACTIVE,
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Ends the record under way.
    #[inline]
    pub(crate) fn commit(&self) -> Commit {
        // Release: publishes the record, and the lease's place, to the revoker that closes it (L1).
        let ordering = if cfg!(esker_canary = "lease-commit-relaxed") {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        let before = self.word.fetch_sub(ACTIVE, ordering);
        debug_assert!(before & (LIVE | ACTIVE) == LIVE | ACTIVE, "{before:#x}");
        if before & REVOKED == 0 || cfg!(esker_canary = "lease-commit-ignores-revocation") {
            Commit::Idle
        } else {
            Commit::Close(self.vacate(before))
        }
    }

    /// Ends the record under way and the lease with it: there is nothing left of it.
    #[inline]
    pub(crate) fn commit_last(&self) {
        // A revoker's mark may be lost in this: it asked for nothing else. Release: as in `vacate`.
        self.word.store(VACANT, Ordering::Release);
    }

    /// Ends an idle lease. Only the owner, which knows it as `idle`.
    pub(crate) fn retire(&self, idle: Idle) -> Retire {
        // Relaxed: the owner takes its own lease.
        match self.word.compare_exchange(
            idle.0,
            idle.0 | REVOKED,
            Ordering::Relaxed,
            Ordering::Relaxed,
        ) {
            Ok(before) => Retire::Close(self.vacate(before)),
            Err(found) if found & ACTIVE != 0 => Retire::Forgotten,
            Err(_) => Retire::Gone,
        }
    }

    /// Revokes the lease if it is one of the tenancy `seq`. If it is idle it falls to the caller to
    /// close it.
    fn revoke(&self, seq: u64) -> Option<Closing> {
        // Relaxed: an argument of the compare-and-swap below. A lease that is not seen here checks
        // for the seal itself (L2).
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            if seen & (LIVE | REVOKED) != LIVE || seen & TAG_MASK != tag(seq) {
                return None;
            }
            // Acquire: what the owner has committed under the lease, and where it lies (L1).
            match self.word.compare_exchange(
                seen,
                seen | REVOKED,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) if seen & ACTIVE != 0 && !cfg!(esker_canary = "lease-revokes-active") => {
                    return None;
                }
                // Its place is read only now: it may be a later lease than the one looked at.
                Ok(_) => return Some(self.vacate(seen)),
                Err(current) => seen = current,
            }
        }
    }

    /// Reads the place of a lease that is the caller's to close, and gives the entry back.
    fn vacate(&self, word: u64) -> Closing {
        // Relaxed, both: the owner's own, or seen by `revoke`'s acquire (L1).
        let closing = Closing {
            seq: self.seq.load(Ordering::Relaxed),
            used: (word >> USED_SHIFT) as u32,
            #[expect(clippy::cast_possible_truncation, reason = "an offset in a buffer")]
            end: self.end.load(Ordering::Relaxed) as u32,
        };
        // Release: the owner writes the next lease's place after this read (L3).
        self.word.store(VACANT, Ordering::Release);
        closing
    }
}

/// The leases of a ring: a fixed number of entries, each lent to one appender at a time.
pub(crate) struct Leases {
    /// Which entries are lent. Written by appenders that come and go, read by revokers.
    lent: CachePadded<AtomicU64>,
    /// Each on a cache line of its own: that is what leases are for.
    entries: Box<[CachePadded<Lease>]>,
}

impl Leases {
    pub(crate) fn new() -> Self {
        Self {
            lent: CachePadded::new(AtomicU64::new(0)),
            entries: (0..ENTRIES)
                .map(|_| CachePadded::new(Lease::new()))
                .collect(),
        }
    }

    #[inline]
    pub(crate) fn get(&self, entry: usize) -> &Lease {
        &self.entries[entry]
    }

    /// Lends an entry; `None` if all are lent.
    pub(crate) fn lend(&self) -> Option<usize> {
        // Relaxed: an argument of the compare-and-swap.
        let mut lent = self.lent.load(Ordering::Relaxed);
        loop {
            let entry = (!lent).trailing_zeros() as usize;
            if entry >= ENTRIES {
                return None;
            }
            // Acquire: pairs with `take_back`: the entry's word is as its last owner left it, or
            // later. Revokers find the bit by the fence of `install` (L2).
            match self.lent.compare_exchange_weak(
                lent,
                lent | 1 << entry,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(entry),
                Err(current) => lent = current,
            }
        }
    }

    /// Takes an entry back from its appender, which has no lease in it.
    pub(crate) fn take_back(&self, entry: usize) {
        // Release: pairs with `lend`.
        self.lent.fetch_and(!(1 << entry), Ordering::Release);
    }

    /// Revokes every lease of the tenancy `seq`, and passes those that were idle to `close` until
    /// it says that it has had enough.
    pub(crate) fn revoke(&self, seq: u64, mut close: impl FnMut(Closing) -> bool) {
        // SeqCst fence: between sealing and looking for leases; pairs with the one in `install`
        // (L2). A sealer has fenced before, when it closed the buffer, so that no model can miss
        // this one; it is here so that revoking does not rest on what its callers do.
        fence(Ordering::SeqCst);
        // Relaxed: the fence orders it.
        let mut lent = self.lent.load(Ordering::Relaxed);
        while lent != 0 {
            let lease = self.get(lent.trailing_zeros() as usize);
            lent &= lent - 1;
            if let Some(closing) = lease.revoke(seq)
                && !close(closing)
            {
                return;
            }
        }
    }
}

#[cfg(all(test, not(esker_loom)))]
mod tests;
