//! What all handles of a ring share, and the parts of the protocol that involve more than one
//! slot: closing, opening, leaving, recycling.
//!
//! The public operations are thin compositions of these; `docs/protocol.md` has the argument.

use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;

use crossbeam_utils::CachePadded;
use esker_buf::AlignedBuf;

use crate::SealedBuffer;
use crate::config::{Shape, VoidWriter};
use crate::fences::Fences;
use crate::lease::{Closing, Leases};
use crate::slot::Slot;
use crate::sync::{Arc, AtomicU64, AtomicUsize, ContendedU64, Mutex, Ordering, fence};
use crate::waiters::{Until, Wait, Waiters};
use crate::word::Leave;

pub(crate) struct Shared {
    /// The newest sequence number whose opening was claimed: the current buffer, or the one that
    /// is just being opened. Written by claimants, by compare-and-swap, and by the inserter of an
    /// extent; read by everybody. Only ever grows by one.
    opening: CachePadded<ContendedU64>,
    /// The address that no buffer may reach past. Written by `raise_limit`; read by openers.
    limit: CachePadded<AtomicU64>,
    waiters: CachePadded<Waiters>,
    pub(crate) leases: Leases,
    orphans: Orphans,
    slots: Box<[Slot]>,
    rotation: Rotation,
    pub(crate) shape: Shape,
    pub(crate) void: VoidWriter,
    /// Kept for its memory; the slots point into it.
    arena: AlignedBuf,
}

// What every reservation reads shares a line with nothing that others write often.
const _: () = {
    const LINE: usize = align_of::<CachePadded<()>>();
    let [opening, limit, waiters] = [
        offset_of!(Shared, opening),
        offset_of!(Shared, limit),
        offset_of!(Shared, waiters),
    ];
    assert!(opening.abs_diff(limit) >= LINE && limit.abs_diff(waiters) >= LINE);
    assert!(opening.abs_diff(waiters) >= LINE);
    assert!(opening.abs_diff(offset_of!(Shared, orphans)) >= LINE);
    assert!(waiters.abs_diff(offset_of!(Shared, slots)) >= LINE);
};

/// Which slot a sequence number has: numbers that follow each other, also past the last number, have
/// slots that follow each other.
#[derive(Clone, Copy)]
enum Rotation {
    /// Where the number of slots is a power of two: its low bits.
    Mask(u64),
    /// Else what is left of its distance from `origin`, which is one round before the first number.
    /// With it the buffer before the first has a slot too.
    Distance { origin: u64, slots: u64 },
}

impl Rotation {
    fn new(first: u64, slots: u64) -> Self {
        if slots.is_power_of_two() {
            Self::Mask(slots - 1)
        } else {
            let origin = first.wrapping_sub(slots);
            Self::Distance { origin, slots }
        }
    }

    // Every reservation waits for it.
    #[inline(always)]
    fn index(self, seq: u64) -> usize {
        let index = match self {
            Self::Mask(mask) => seq & mask,
            Self::Distance { origin, slots } => seq.wrapping_sub(origin) % slots,
        };
        #[expect(clippy::cast_possible_truncation, reason = "below the number of slots")]
        let index = index as usize;
        index
    }
}

/// Sealed buffers whose last one out could not take them: a guard was dropped.
struct Orphans {
    /// How many. Written under the lock; read without it as a hint.
    count: AtomicUsize,
    seqs: Mutex<Vec<u64>>,
}

/// What an attempt to open the buffer after `seq` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Opening {
    /// It is open, by this call.
    Opened,
    /// Somebody else claimed it.
    Moved,
    /// `seq` itself is open, being sealed, or being opened.
    NotClosed,
    /// The next slot's last tenancy is not recycled.
    NotFree,
    /// It would pass the limit.
    Limit { needed: u64 },
}

/// Why a caller that found a sealed buffer can't go on at once, if it can't.
#[must_use]
pub(crate) enum Blocked {
    /// It can.
    Again,
    Full(Wait),
    Limit {
        needed: u64,
    },
}

/// Where the log stands.
#[derive(Clone, Copy)]
pub(crate) struct Position {
    pub(crate) seq: u64,
    pub(crate) base: u64,
    pub(crate) tail: u64,
}

impl Shared {
    pub(crate) fn new(
        shape: Shape,
        buffers: usize,
        arena: AlignedBuf,
        (first, base): (u64, u64),
        limit: u64,
        void: VoidWriter,
        fences: Fences,
    ) -> Self {
        let capacity_bytes = shape.capacity as usize;
        let count = buffers as u64;
        let rotation = Rotation::new(first, count);
        let mut slots: Vec<_> = (0..count)
            .map(|nth| {
                let seq = first.wrapping_add(nth);
                let index = rotation.index(seq);
                // SAFETY: the arena has `buffers * capacity_bytes` bytes.
                let at = unsafe { arena.as_non_null().add(index * capacity_bytes) };
                let slot = Slot::new(at, capacity_bytes, seq.wrapping_sub(count), seq);
                (index, slot)
            })
            .collect();
        slots.sort_unstable_by_key(|&(index, _)| index);
        let slots = slots.into_iter().map(|(_, slot)| slot).collect();
        // The first buffer is opened like any other, after one that ended at its base.
        let before = first.wrapping_sub(1);
        let shared = Self {
            opening: CachePadded::new(ContendedU64::new(before)),
            limit: CachePadded::new(AtomicU64::new(limit)),
            waiters: CachePadded::new(Waiters::new()),
            leases: Leases::new(fences),
            orphans: Orphans {
                count: AtomicUsize::new(0),
                seqs: Mutex::new(Vec::with_capacity(buffers)),
            },
            slots,
            rotation,
            shape,
            void,
            arena,
        };
        shared.slot(before).tenancy.close(before, 0, base);
        let _ = shared.open_after(before);
        shared
    }

    /// Where the memory of the buffers is, and how much.
    pub(crate) fn arena(&self) -> (*const u8, usize) {
        (self.arena.as_non_null().as_ptr(), self.arena.len())
    }

    /// The newest claimed sequence number: where to look for the open buffer.
    #[inline]
    pub(crate) fn newest(&self) -> u64 {
        // Acquire: pairs with the claim (E4): the tenancy before it is visible as its claimant
        // saw it.
        self.opening.load(Ordering::Acquire)
    }

    #[inline(always)]
    pub(crate) fn slot(&self, seq: u64) -> &Slot {
        &self.slots[self.rotation.index(seq)]
    }

    pub(crate) fn slots(&self) -> u64 {
        self.slots.len() as u64
    }

    pub(crate) fn limit(&self) -> u64 {
        // Relaxed: it only grows, and a stale one only refuses; that a refusal is not the last
        // word is the fences' part (E7).
        self.limit.load(Ordering::Relaxed)
    }

    /// The address after `len` more bytes and padding, if there is one.
    pub(crate) fn padded_end(&self, base: u64, len: u64) -> Option<u64> {
        base.checked_add(self.shape.alignment.ceil(len)?)
    }

    /// Whether a buffer of `len` bytes may start at `base`.
    pub(crate) fn check_limit(&self, base: u64, len: u64) -> Result<u64, u64> {
        match self.padded_end(base, len) {
            Some(end) if end <= self.limit() => Ok(end),
            Some(end) => Err(end),
            None => Err(u64::MAX),
        }
    }

    /// Raises the limit; it never sinks.
    pub(crate) fn raise_limit(&self, address: u64) {
        // Relaxed: the number itself is all that is passed on; the fence orders it.
        self.limit.fetch_max(address, Ordering::Relaxed);
        self.fence();
        // If that opens nothing it changes nothing that anybody waits for.
        let _ = self.open_after(self.newest());
    }

    /// Publishes the end of a tenancy that this thread sealed, and opens the next buffer if that
    /// can be done now. The caller still has the writer that sealing gave it.
    pub(crate) fn close(&self, slot: &Slot, end: u64) -> u64 {
        let (seq, base) = (slot.tenancy.seq(), slot.tenancy.base());
        let next_base = base + self.shape.alignment.ceil(end).unwrap_or(end);
        self.close_at(slot, seq, end, next_base);
        next_base
    }

    /// [`close`](Self::close) with everything known.
    pub(crate) fn close_at(&self, slot: &Slot, seq: u64, end: u64, next_base: u64) {
        slot.tenancy.close(seq, end, next_base);
        self.fence();
        if self.open_after(seq) != Opening::Opened && !canary!("close-wakes-nobody") {
            self.waiters.wake_all();
        }
    }

    /// The fence of "who opens": between publishing one condition for opening a buffer and looking
    /// at the others. Whoever fences last sees them all (E7).
    fn fence(&self) {
        if !canary!("open-without-fence") {
            fence(Ordering::SeqCst);
        }
    }

    /// Opens the buffer after `seq` if `seq` is closed, the next slot free and the limit not in
    /// the way. Any thread may try at any time.
    pub(crate) fn open_after(&self, seq: u64) -> Opening {
        let from = &self.slot(seq).tenancy;
        if !from.is_closed(seq) {
            return self.unless_moved(seq, Opening::NotClosed);
        }
        let base = from.next_base();
        let next = seq.wrapping_add(1);
        let to = self.slot(next);
        if !to.tenancy.is_free_for(next) {
            return self.unless_moved(seq, Opening::NotFree);
        }
        if let Err(needed) = self.check_limit(base, u64::from(self.shape.capacity)) {
            return self.unless_moved(seq, Opening::Limit { needed });
        }
        // The claim. Release: passes on that `seq` is closed (E4), and with it the claims before
        // this one, for `closed` comes after the claim of its own buffer (E5).
        if canary!("claim-by-store") {
            self.opening.store(next, Ordering::Release);
        } else if self
            .opening
            .compare_exchange(seq, next, Ordering::Release, Ordering::Relaxed)
            .is_err()
        {
            return Opening::Moved;
        }
        // From here to `wake_all` others wait for this thread.
        if canary!("wake-before-open") {
            self.waiters.wake_all();
        }
        to.tenancy.begin(next, base);
        to.word.open(self.shape.header);
        if !canary!("wake-before-open") {
            self.waiters.wake_all();
        }
        Opening::Opened
    }

    /// `found` was read from slots that may have moved on: it holds if `seq` is still the newest.
    fn unless_moved(&self, seq: u64, found: Opening) -> Opening {
        if self.newest() == seq {
            found
        } else {
            Opening::Moved
        }
    }

    /// Claims the buffer after `seq` for an extent. Only by the thread that sealed `seq` and has
    /// not published `closed` yet: nobody else can move `opening` meanwhile.
    pub(crate) fn claim_after_own(&self, seq: u64) {
        debug_assert!(self.newest() == seq);
        // Release: as the claim in `open_after` (E4), with no fence beside it.
        let ordering = if canary!("extent-claim-relaxed") {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        self.opening.store(seq.wrapping_add(1), ordering);
    }

    /// What a caller that found `seq` sealed can do.
    pub(crate) fn blocked(&self, seq: u64) -> Blocked {
        let wait = |until| Blocked::Full(Wait { seq, until });
        match self.open_after(seq) {
            Opening::Opened | Opening::Moved => Blocked::Again,
            // What was seen sealed was the tenancy before, or it has been opened since.
            Opening::NotClosed if !self.slot(seq).word.load().is_sealed() => Blocked::Again,
            Opening::NotClosed => wait(Until::Settled),
            Opening::NotFree => wait(Until::NextOpen),
            Opening::Limit { needed } => Blocked::Limit { needed },
        }
    }

    /// Whether what `wait` waits for has come, or anything else that makes trying again worth it.
    pub(crate) fn is_ready(&self, wait: Wait) -> bool {
        let Wait { seq, until } = wait;
        if self.has_orphans() || self.newest() != seq {
            return true;
        }
        let slot = self.slot(seq);
        match until {
            Until::Settled => slot.tenancy.is_closed(seq) || !slot.word.load().is_sealed(),
            Until::NextOpen => {
                !matches!(self.open_after(seq), Opening::NotClosed | Opening::NotFree)
            }
            Until::NextFree => {
                let next = seq.wrapping_add(1);
                self.slot(next).tenancy.is_free_for(next)
            }
        }
    }

    pub(crate) fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    /// Gives back a writer of `slot`; the last one out of a sealed buffer gets it.
    #[inline]
    pub(crate) fn leave(shared: &Arc<Self>, slot: &Slot) -> Option<SealedBuffer> {
        match slot.word.leave() {
            Leave::Left => None,
            Leave::LastOut => Self::take_over(shared, slot),
        }
    }

    /// What a sealer does last, with the tenancy closed: revokes the leases in it and leaves.
    pub(crate) fn leave_as_sealer(shared: &Arc<Self>, slot: &Slot) -> Option<SealedBuffer> {
        let seq = slot.tenancy.seq();
        let departure = Departure(shared, slot);
        if !canary!("lease-survives-seal") {
            let mut panicked = None;
            shared.leases.revoke(seq, |closing| {
                // Each lease is closed, whatever the void writer does with one of them.
                let close = AssertUnwindSafe(|| shared.void_rest(closing).leave_to_ring());
                panicked = panicked.take().or(catch_unwind(close).err());
                true
            });
            if let Some(panic) = panicked {
                resume_unwind(panic);
            }
        }
        std::mem::forget(departure);
        Self::leave(shared, slot)
    }

    /// Revokes the leases in the open buffer. If one of them was the last out of it, because it has
    /// been sealed meanwhile, the buffer is the caller's.
    pub(crate) fn revoke_leases(shared: &Arc<Self>) -> Option<SealedBuffer> {
        let mut sealed = None;
        shared.leases.revoke(shared.newest(), |closing| {
            sealed = Self::close_lease(shared, closing);
            sealed.is_none()
        });
        sealed
    }

    /// The last one out takes its buffer.
    #[cold]
    fn take_over(shared: &Arc<Self>, slot: &Slot) -> Option<SealedBuffer> {
        Some(SealedBuffer::take_over(
            Arc::clone(shared),
            slot.tenancy.seq(),
        ))
    }

    /// Closes a lease that is the caller's to close: voids what is left and leaves.
    #[cold]
    pub(crate) fn close_lease(shared: &Arc<Self>, closing: Closing) -> Option<SealedBuffer> {
        let departure = shared.void_rest(closing);
        let slot = departure.1;
        std::mem::forget(departure);
        Self::leave(shared, slot)
    }

    /// Voids what is left of a lease; what comes back leaves for it.
    pub(crate) fn void_rest(&self, closing: Closing) -> Departure<'_> {
        let Closing { seq, used, end } = closing;
        // The lease's writer count holds the tenancy in its slot until the departure.
        let slot = self.slot(seq);
        let departure = Departure(self, slot);
        if used < end && !canary!("lease-rest-not-void") {
            let (bytes, len) = (self.at(slot, used), (end - used) as usize);
            slot.memory.note_writes(bytes, len);
            // SAFETY: the bytes are initialised and live as long as the ring. They are the lease's
            // (R1), none of its records reaches past `used`, and the caller alone closes it.
            let rest = unsafe { core::slice::from_raw_parts_mut(bytes.as_ptr(), len) };
            let void = &self.void;
            void(slot.tenancy.base() + u64::from(used), rest);
        }
        departure
    }

    /// Gives back a writer of `slot` where nobody can take the buffer: it waits in the ring.
    pub(crate) fn leave_to_ring(&self, slot: &Slot) {
        if slot.word.leave() == Leave::LastOut {
            self.park_orphan(slot.tenancy.seq());
        }
    }

    /// Keeps a buffer whose flush was claimed for whoever asks next.
    pub(crate) fn park_orphan(&self, seq: u64) {
        {
            // Never more than one for each slot, so the vector does not grow.
            let mut seqs = self.orphans.seqs.lock();
            seqs.push(seq);
            // Relaxed: a hint; the lock passes the buffer on, and `wake_all` fences.
            self.orphans.count.store(seqs.len(), Ordering::Relaxed);
        }
        self.waiters.wake_all();
    }

    fn has_orphans(&self) -> bool {
        // Relaxed: a hint. A waiter's fence makes it see what was parked before the wake-up (E7).
        self.orphans.count.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn take_orphan(shared: &Arc<Self>) -> Option<SealedBuffer> {
        if !shared.has_orphans() {
            return None;
        }
        let seq = {
            let mut seqs = shared.orphans.seqs.lock();
            let seq = seqs.pop();
            // Relaxed: see `park_orphan`.
            shared.orphans.count.store(seqs.len(), Ordering::Relaxed);
            seq?
        };
        Some(SealedBuffer::take_over(Arc::clone(shared), seq))
    }

    /// Frees the slot of `seq` and opens the buffer that waited for it, if it is the next one.
    pub(crate) fn recycle(&self, seq: u64) {
        let slot = self.slot(seq);
        let next = seq.wrapping_add(self.slots());
        slot.tenancy.free_for(next);
        if canary!("recycle-store") {
            slot.word.reset(self.shape.header);
        }
        self.fence();
        let newest = self.newest();
        // Only if the slot is the next in order: else whoever closes the one before it comes
        // after this fence and sees it free.
        if newest.wrapping_add(1) == next && self.open_after(newest) != Opening::Opened {
            self.waiters.wake_all();
        }
    }

    /// Where the log stands: a snapshot that is not older than what happened before the call.
    pub(crate) fn position(&self) -> Position {
        loop {
            let newest = self.newest();
            let (position, age) = match self.position_in(newest) {
                Some(position) => (Some(position), 0),
                // Claimed, but its base is not stored yet: it will be where the one before it ends,
                // which was sealed before the claim (E4).
                None if canary!("position-of-the-sealed") => {
                    (self.position_in(newest.wrapping_sub(1)), 1)
                }
                None => (self.position_after(newest.wrapping_sub(1)), 1),
            };
            let age = if canary!("position-without-age") {
                0
            } else {
                age
            };
            // The slot was not reused before `opening` passed it by a whole round (E5).
            let is_whole = self.newest().wrapping_sub(newest) + age < self.slots();
            if let Some(position) = position
                && (is_whole || canary!("position-without-recheck"))
            {
                return position;
            }
        }
    }

    /// Where the buffer after `seq` begins, which is sealed.
    fn position_after(&self, seq: u64) -> Option<Position> {
        let end = self.position_in(seq)?.tail;
        Some(Position {
            seq: seq.wrapping_add(1),
            base: end,
            tail: end,
        })
    }

    fn position_in(&self, seq: u64) -> Option<Position> {
        let slot = self.slot(seq);
        if slot.tenancy.seq() != seq {
            return None;
        }
        let base = slot.tenancy.base();
        let word = slot.word.load();
        if slot.tenancy.is_closed(seq) {
            let next_base = slot.tenancy.next_base();
            return Some(Position {
                seq: seq.wrapping_add(1),
                base: next_base,
                tail: next_base,
            });
        }
        let offset = u64::from(word.offset());
        let tail = match (word.is_sealed(), word.is_flushing()) {
            (false, _) => base + offset,
            // Not opened yet: the word is still that of the last tenancy.
            (true, true) => base,
            // Being taken over by an extent, which nobody has been told of.
            (true, false) if word.offset() == self.shape.header => base + offset,
            (true, false) => self.padded_end(base, offset).unwrap_or(base),
        };
        Some(Position { seq, base, tail })
    }
}

/// Leaves when it is dropped: a void writer that panics must not wedge the buffer.
pub(crate) struct Departure<'a>(pub(crate) &'a Shared, pub(crate) &'a Slot);

impl Departure<'_> {
    /// Leaves where nobody can take the buffer.
    pub(crate) fn leave_to_ring(self) {}
}

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        self.0.leave_to_ring(self.1);
    }
}

impl Shared {
    /// The address of `offset` in the slot's part of the arena.
    #[inline]
    pub(crate) fn at(&self, slot: &Slot, offset: u32) -> NonNull<u8> {
        debug_assert!(offset <= self.shape.capacity);
        // SAFETY: a slot has `capacity` bytes of the arena, and `offset` is at most that.
        unsafe { slot.memory.arena.add(offset as usize) }
    }
}
