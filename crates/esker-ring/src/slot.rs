//! A slot of the ring: the memory of one flush buffer and what is published about its tenancy.

use std::mem::offset_of;
use std::ptr::NonNull;

use crossbeam_utils::CachePadded;
use esker_buf::AlignedBuf;

use crate::sync::{AtomicU64, Ordering, UnsafeCell, Witness};
use crate::word::StateWord;

/// One slot. A *tenancy* is the life of one sequence number in it, from opening to recycling.
pub(crate) struct Slot {
    /// On a cache line of its own: every reservation and every commit writes it.
    pub(crate) word: CachePadded<StateWord>,
    /// Read by every reservation, written a few times in a tenancy.
    pub(crate) tenancy: CachePadded<Tenancy>,
    pub(crate) memory: SlotMemory,
}

// No two of them share a cache line, whatever their order in memory.
const _: () = {
    const LINE: usize = align_of::<CachePadded<()>>();
    let [word, tenancy, memory] = [
        offset_of!(Slot, word),
        offset_of!(Slot, tenancy),
        offset_of!(Slot, memory),
    ];
    assert!(word.abs_diff(tenancy) >= LINE && tenancy.abs_diff(memory) >= LINE);
    assert!(word.abs_diff(memory) >= LINE && size_of::<Slot>().is_multiple_of(LINE));
};

/// What is known about the buffer that lives in the slot. Sequence numbers are kept bare here:
/// they are compared for equality only.
pub(crate) struct Tenancy {
    /// Base address. Written by the opener between claim and open; read by whoever holds a writer
    /// count (E2), and by snapshots that check `seq` and the ring's `opening` around it.
    base: AtomicU64,
    /// Sequence number; stored after `base`. Written and read like it.
    seq: AtomicU64,
    /// Sealed length, in bytes. Written by the sealer before `closed`.
    end: AtomicU64,
    /// Base address of the next buffer. Written by the sealer before `closed`.
    next_base: AtomicU64,
    /// The sequence number whose end and next base are published. Written by the sealer.
    closed: AtomicU64,
    /// The sequence number that may be opened here next. Written by the recycler of the tenancy
    /// before it.
    freed: AtomicU64,
}

/// The bytes behind a slot.
pub(crate) struct SlotMemory {
    /// First byte of the slot's part of the ring's arena; good for the capacity, and as long as
    /// the ring lives.
    pub(crate) arena: NonNull<u8>,
    /// How many bytes the slot has of the arena.
    capacity_bytes: usize,
    /// Who touches which bytes of the arena's part.
    witness: Witness,
    /// The memory of an extent, while the tenancy is one. Written by the inserter before `closed`,
    /// read by the owner of the sealed buffer, emptied by the recycler before `freed`.
    pub(crate) extent: UnsafeCell<Option<AlignedBuf>>,
}

impl Slot {
    pub(crate) fn new(arena: NonNull<u8>, capacity_bytes: usize, seq: u64, first: u64) -> Self {
        Self {
            word: CachePadded::new(StateWord::retired()),
            tenancy: CachePadded::new(Tenancy {
                base: AtomicU64::new(0),
                seq: AtomicU64::new(seq),
                end: AtomicU64::new(0),
                next_base: AtomicU64::new(0),
                closed: AtomicU64::new(seq),
                freed: AtomicU64::new(first),
            }),
            memory: SlotMemory {
                arena,
                capacity_bytes,
                witness: Witness::new(capacity_bytes),
                extent: UnsafeCell::new(None),
            },
        }
    }
}

// SAFETY: the raw pointer is to memory that the ring owns as long as the slot lives, and both it
// and the cell are accessed only as the protocol allows: bytes by the one reservation that covers
// them, then by the one owner of the sealed buffer; the cell by the inserter, then by that owner.
unsafe impl Send for SlotMemory {}
// SAFETY: as above.
unsafe impl Sync for SlotMemory {}

impl SlotMemory {
    /// Tells a model that the `len` bytes at `at` are written here. Nothing otherwise.
    #[inline(always)]
    pub(crate) fn note_writes(&self, at: NonNull<u8>, len: usize) {
        if cfg!(esker_loom) {
            match self.arena_offset(at) {
                Some(offset) => self.witness.writes(offset..offset + len),
                None => self.extent.with_mut(|_| ()),
            }
        }
    }

    /// Tells a model that the `len` bytes at `at` are read here. Nothing otherwise.
    #[inline(always)]
    pub(crate) fn note_reads(&self, at: NonNull<u8>, len: usize) {
        if cfg!(esker_loom) {
            match self.arena_offset(at) {
                Some(offset) => self.witness.reads(offset..offset + len),
                None => self.extent.with(|_| ()),
            }
        }
    }

    /// Where `at` lies in the arena's part; `None` for the memory of an extent.
    fn arena_offset(&self, at: NonNull<u8>) -> Option<usize> {
        at.addr()
            .get()
            .checked_sub(self.arena.addr().get())
            .filter(|&offset| offset < self.capacity_bytes)
    }
}

impl Tenancy {
    /// Starts the tenancy `seq`. Only between a won claim and the opening of the word.
    pub(crate) fn begin(&self, seq: u64, base: u64) {
        // Release, both: a snapshot that reads either value also sees the claim before it (E5),
        // and one that reads `seq` sees `base`. (A fence before the claim passes on nearly as much,
        // but an extent has none there, and whoever finds the ring full and opens it may have none.)
        // For reservers the word's Release does it (E2).
        let ordering = if canary!("base-relaxed") {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        self.base.store(base, ordering);
        self.seq.store(seq, Ordering::Release);
    }

    /// Publishes the end. Only by the thread that sealed the tenancy, which still has its writer.
    pub(crate) fn close(&self, seq: u64, end: u64, next_base: u64) {
        if canary!("closed-before-base") {
            self.closed.store(seq, Ordering::Release);
        }
        // Relaxed: read only under `closed` (E1) or under the flush claim (E3).
        self.end.store(end, Ordering::Relaxed);
        // Release: who reads a later tenancy's value ahead of its checks also sees the claims in
        // between, and so fails those checks (E5).
        let ordering = if canary!("next-base-relaxed") {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        self.next_base.store(next_base, ordering);
        // Release: whoever sees the tenancy closed sees its end and next base (E1).
        self.closed.store(seq, Ordering::Release);
    }

    pub(crate) fn free_for(&self, seq: u64) {
        // Release: passes the flusher's last access to the memory on to the next opener (E6).
        let ordering = if canary!("freed-relaxed") {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        self.freed.store(seq, ordering);
    }

    #[inline]
    pub(crate) fn base(&self) -> u64 {
        // Acquire: see `begin`. Under a writer count Relaxed would do; it is free on x86.
        self.base.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn seq(&self) -> u64 {
        // Acquire: see `begin`.
        self.seq.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn end(&self) -> u64 {
        // Relaxed: E1 or E3 came before.
        self.end.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn next_base(&self) -> u64 {
        // Acquire: see `close`.
        self.next_base.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn is_closed(&self, seq: u64) -> bool {
        // Acquire: pairs with the Release in `close` (E1).
        self.closed.load(Ordering::Acquire) == seq
    }

    #[inline]
    pub(crate) fn is_free_for(&self, seq: u64) -> bool {
        // Acquire: pairs with the Release in `free_for` (E6).
        self.freed.load(Ordering::Acquire) == seq
    }
}
