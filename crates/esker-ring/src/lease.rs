//! Leases: stretches of a buffer that one appender fills record by record.
//!
//! A lease is one reservation in its buffer, with one writer count, over many records. Its owner
//! takes them under a word of the lease's own, so the buffer's word is touched twice a lease and
//! not twice a record. Whoever seals the buffer *revokes* its leases: an idle one is closed by the
//! revoker, one with a record under way by its owner as soon as that is done. Closing turns what is
//! left into a void record and gives the writer count back. `docs/protocol.md` has the states and
//! the argument.

use crossbeam_utils::CachePadded;

use crate::fences::Fences;
use crate::sync::{AtomicU64, ContendedU64, Ordering, fence, spin_loop};

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
/// The closing bit: the lease is over, and a revoker is reading its place.
pub(crate) const CLOSING_BIT: u32 = 2;
/// The active bit: a record is under way.
pub(crate) const ACTIVE_BIT: u32 = 1;
/// The live bit: there is a lease.
pub(crate) const LIVE_BIT: u32 = 0;

const LIVE: u64 = 1 << LIVE_BIT;
const ACTIVE: u64 = 1 << ACTIVE_BIT;
const CLOSING: u64 = 1 << CLOSING_BIT;
const TAG_MASK: u64 = ((1 << TAG_BITS) - 1) << TAG_SHIFT;
const VACANT: u64 = 0;

const _: () = {
    assert!(USED_SHIFT + USED_BITS == u64::BITS);
    assert!(TAG_SHIFT + TAG_BITS == USED_SHIFT);
    assert!(SPARE_SHIFT + SPARE_BITS == TAG_SHIFT);
    assert!(SPARE_SHIFT == CLOSING_BIT + 1 && CLOSING_BIT == ACTIVE_BIT + 1 && LIVE_BIT == 0);
};

/// How many appenders of a ring can have leases at a time: as many as a word has bits.
#[cfg(not(esker_loom))]
const ENTRIES: usize = u64::BITS as usize;
#[cfg(esker_loom)]
const ENTRIES: usize = 2;

/// How often a revoker looks whether a record under way has ended before it asks for a barrier on
/// every core: for a microsecond or so. A copy is over by then, unless its thread is not running.
#[cfg(not(any(esker_loom, esker_shuttle)))]
const LOOKS: u32 = 64;
#[cfg(any(esker_loom, esker_shuttle))]
const LOOKS: u32 = 0;

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
    /// A revoker has asked for it, and the owner has to close it.
    Close(Closing),
}

/// What [`Lease::revoke`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
enum Revoke {
    /// The lease is over, and the caller has to close it.
    Close(Closing),
    /// A record is under way.
    UnderWay,
    /// There is no such lease, or somebody is closing it.
    Gone,
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
/// | closing | active | live | state |
/// |---|---|---|---|
/// | 0 | 0 | 0 | vacant: the owner may install a lease |
/// | 0 | 0 | 1 | idle: the owner may begin a record or retire, anybody may revoke |
/// | 0 | 1 | 1 | a record is under way: the word is the owner's |
/// | 1 | 0 | 1 | closing: the revoker that brought it here reads the lease's place and vacates the entry |
/// | any | any | any | never, otherwise |
pub(crate) struct Lease {
    /// Installed by the owner when vacant; taken from idle by compare-and-swap of the owner or of
    /// a revoker; stored by the owner alone while active; vacated by whoever ends the lease.
    word: ContendedU64,
    /// Not zero: a revoker found a record under way, and its owner is to close the lease after it.
    /// Set by revokers, cleared by the owner before it installs, read by it after each record.
    notice: AtomicU64,
    /// Sequence number of the tenancy. Written by the owner before it installs, read by whoever
    /// ends the lease, before the next is installed.
    seq: AtomicU64,
    /// Where the lease ends in the buffer. Written and read like `seq`.
    end: AtomicU64,
    /// Those of the registry.
    fences: Fences,
}

impl Lease {
    fn new(fences: Fences) -> Self {
        Self {
            fences,
            word: ContendedU64::new(VACANT),
            notice: AtomicU64::new(0),
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
        // Relaxed, all: published by the commit that first makes the lease idle (L1). A notice that
        // comes late, for a lease before this one, ends this one early and does no harm.
        self.notice.store(0, Ordering::Relaxed);
        self.seq.store(seq, Ordering::Relaxed);
        self.end.store(u64::from(end), Ordering::Relaxed);
        // Relaxed: nobody but the owner acts on an active word.
        self.word.store(idle.0 | ACTIVE, Ordering::Relaxed);
        if !canary!("lease-without-fence") {
            // SeqCst fence: between publishing the lease and looking for a seal (L2).
            fence(Ordering::SeqCst);
        }
        if is_sealed() {
            self.notify();
        }
    }

    /// Begins a record of `len` bytes at `idle`. `false` if the lease is not there any more.
    #[inline]
    pub(crate) fn begin(&self, idle: Idle, len: u32) -> bool {
        // Relaxed: takes nothing from anybody and publishes nothing. That it is a read-modify-write
        // decides between owner and revoker.
        if canary!("lease-begin-by-store") {
            self.word
                .store(idle.after(len).0 | ACTIVE, Ordering::Relaxed);
            return true;
        }
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
        // Relaxed: while a record is under way the word is the owner's.
        let active = self.word.load(Ordering::Relaxed);
        debug_assert!(active & (LIVE | ACTIVE) == LIVE | ACTIVE, "{active:#x}");
        let idle = Idle(active & !ACTIVE);
        // Release: publishes the record, and the lease's place, to the revoker that closes it (L1).
        let ordering = if canary!("lease-commit-relaxed") {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        self.word.store(idle.0, ordering);
        if !canary!("lease-commit-without-fence") {
            // Between offering the lease to revokers and looking for their notice (L4).
            self.fences.light();
        }
        // Relaxed: the fence orders it.
        if self.notice.load(Ordering::Relaxed) == 0 || canary!("lease-commit-ignores-notice") {
            Commit::Idle
        } else {
            self.heed(idle)
        }
    }

    /// Closes the lease for whoever left a notice, unless one of them has done so by now.
    #[cold]
    fn heed(&self, idle: Idle) -> Commit {
        match self.retire(idle) {
            Retire::Close(closing) => Commit::Close(closing),
            Retire::Gone | Retire::Forgotten => Commit::Idle,
        }
    }

    /// Ends the record under way and the lease with it: there is nothing left of it.
    #[inline]
    pub(crate) fn commit_last(&self) {
        // Whoever left a notice asked for nothing else. Relaxed: the record is published by leaving
        // the buffer (E3), and the entry by `take_back` (L3).
        self.word.store(VACANT, Ordering::Relaxed);
    }

    /// Ends an idle lease. Only the owner, which knows it as `idle`.
    pub(crate) fn retire(&self, idle: Idle) -> Retire {
        // Vacant at once: only the owner installs, and it reads the place before it does.
        // Relaxed: the owner takes its own lease; the entry is published by `take_back` (L3).
        match self
            .word
            .compare_exchange(idle.0, VACANT, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(before) => Retire::Close(self.place(before)),
            Err(found) if found & ACTIVE != 0 => Retire::Forgotten,
            Err(_) => Retire::Gone,
        }
    }

    /// Revokes the lease if it is one of the tenancy `seq` and idle.
    fn revoke(&self, seq: u64) -> Revoke {
        // Relaxed: an argument of the compare-and-swap below. A lease that is not seen here looks
        // for the seal itself (L2); a record seen under way that is not any more is what the second
        // look is for (L4).
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            if seen & (LIVE | CLOSING) != LIVE || seen & TAG_MASK != tag(seq) {
                return Revoke::Gone;
            }
            if seen & ACTIVE != 0 && !canary!("lease-revokes-active") {
                return Revoke::UnderWay;
            }
            // Acquire: what the owner has committed under the lease, and where it lies (L1).
            match self.word.compare_exchange(
                seen,
                seen | CLOSING,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                // Its place is read only now: it may be a later lease than the one looked at.
                Ok(_) => {
                    let closing = self.place(seen);
                    // Release: the owner writes the next lease's place after this read (L3).
                    self.word.store(VACANT, Ordering::Release);
                    return Revoke::Close(closing);
                }
                Err(current) => seen = current,
            }
        }
    }

    /// Asks the owner to close the lease after the record under way.
    fn notify(&self) {
        // Relaxed: a fence of the caller's orders it (L4); the owner's own needs none.
        self.notice.store(1, Ordering::Relaxed);
    }

    /// Where a lease lies that is the caller's to close, and that ended as `word`.
    fn place(&self, word: u64) -> Closing {
        // Relaxed, both: the owner's own, or seen by `revoke`'s acquire (L1).
        Closing {
            seq: self.seq.load(Ordering::Relaxed),
            used: (word >> USED_SHIFT) as u32,
            #[expect(clippy::cast_possible_truncation, reason = "an offset in a buffer")]
            end: self.end.load(Ordering::Relaxed) as u32,
        }
    }
}

// A record touches one cache line of its lease.
#[cfg(not(any(esker_loom, esker_shuttle)))]
const _: () = assert!(size_of::<Lease>() <= 64);

/// The leases of a ring: a fixed number of entries, each lent to one appender at a time.
pub(crate) struct Leases {
    /// Which entries are lent. Written by appenders that come and go, read by revokers.
    lent: CachePadded<AtomicU64>,
    /// Each on a cache line of its own: that is what leases are for.
    entries: Box<[CachePadded<Lease>]>,
    fences: Fences,
}

impl Leases {
    pub(crate) fn new(fences: Fences) -> Self {
        Self {
            lent: CachePadded::new(AtomicU64::new(0)),
            entries: (0..ENTRIES)
                .map(|_| CachePadded::new(Lease::new(fences)))
                .collect(),
            fences,
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

    /// Revokes every lease of the tenancy `seq`. Passes those that are idle to `close`, until it
    /// says that it has had enough, and leaves those with a record under way to their owners.
    pub(crate) fn revoke(&self, seq: u64, mut close: impl FnMut(Closing) -> bool) {
        // SeqCst fence: between sealing and looking for leases; pairs with the one in `install`
        // (L2). A sealer has fenced before, when it closed the buffer, so that no model can miss
        // this one; it is here so that revoking does not rest on what its callers do.
        fence(Ordering::SeqCst);
        // Relaxed: the fence orders it.
        let lent = self.lent.load(Ordering::Relaxed);
        let mut under_way = self.revoke_idle(lent, seq, &mut close);
        for entry in bits(under_way) {
            self.get(entry).notify();
        }
        for _ in 0..LOOKS {
            if under_way == 0 {
                break;
            }
            spin_loop();
            under_way = self.revoke_idle(under_way, seq, &mut close);
        }
        if under_way == 0 {
            return;
        }
        if !canary!("lease-look-without-fence") {
            // Between leaving a notice and the last look (L4).
            self.fences.heavy();
        }
        // Whatever is under way now ends with a look at the notice.
        let _ = self.revoke_idle(under_way, seq, &mut close);
    }

    /// Revokes those of `entries` that are idle, and returns those with a record under way; none
    /// once `close` has had enough.
    fn revoke_idle(&self, entries: u64, seq: u64, close: &mut impl FnMut(Closing) -> bool) -> u64 {
        let mut under_way = 0;
        for entry in bits(entries) {
            match self.get(entry).revoke(seq) {
                Revoke::Close(closing) if !close(closing) => return 0,
                Revoke::Close(_) | Revoke::Gone => {}
                Revoke::UnderWay => under_way |= 1 << entry,
            }
        }
        under_way
    }
}

/// The numbers of the bits that are set.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = set.trailing_zeros() as usize;
        set &= set.checked_sub(1)?;
        Some(lowest)
    })
}

#[cfg(all(test, not(esker_loom)))]
mod tests;
