//! [`Fresh`]: the last short slots, for those who follow the log.
//!
//! A follower wants a record when it has just become durable. By then the ring has its buffer back, and
//! a read of the device would take as long as the commit took. So while somebody follows, a copy is kept
//! of each short slot that has been written, until there are too many. A long one costs more to copy,
//! and nobody who waits for so much at a time waits for a single read.
//!
//! Invariants:
//! - K1. What is kept of a slot is what was written of it, from its header to its last record, and its
//!   write has succeeded. Whether it is durable is not known here: whoever looks for a slot knows that
//!   the durable prefix has passed it (F1 of `follow`).
//! - K2. A slot is found by the address at which it begins. In one life no two slots begin at the same.
//! - K3. At most [`SLOTS`] slots are kept, of at most [`SLOT_BYTES`] each, and none while nobody
//!   follows.
//! - K4. It is a shortcut: what is not here is on the disk, and nobody waits for what is not here.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::sync::{AtomicUsize, Mutex, Ordering};

/// How many slots are kept at most.
const SLOTS: usize = 16;
/// How long they are at most.
const SLOT_BYTES: usize = 64 << 10;

/// Copies of the last short slots.
#[derive(Default)]
pub(crate) struct Fresh {
    /// How many follow. Stored with `slots` locked; read without, as a hint, by whoever has written a
    /// slot.
    followers: AtomicUsize,
    slots: Mutex<VecDeque<Slot>>,
}

/// A slot that has been written.
#[derive(Clone)]
pub(crate) struct Slot {
    /// Where it begins.
    pub(crate) base: u64,
    /// Where the next one does.
    pub(crate) end: u64,
    /// Its header and its records.
    pub(crate) bytes: Arc<Vec<u8>>,
}

impl Fresh {
    /// Somebody follows from now on.
    pub(crate) fn enter(&self) {
        let _slots = self.slots.lock();
        // Relaxed: stored only with `slots` locked.
        self.followers.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody follows no longer.
    pub(crate) fn leave(&self) {
        let mut slots = self.slots.lock();
        // Relaxed: stored only with `slots` locked.
        if self.followers.fetch_sub(1, Ordering::Relaxed) == 1 {
            *slots = VecDeque::new();
        }
    }

    /// The slot `[base, end)` has been written, with `bytes` in front of its padding.
    pub(crate) fn written(&self, base: u64, end: u64, bytes: &[u8]) {
        // Relaxed: a hint. Whoever follows and is not seen finds the slot on the disk.
        if self.followers.load(Ordering::Relaxed) == 0 || bytes.len() > SLOT_BYTES {
            return;
        }
        let mut copy = Vec::new();
        if copy.try_reserve_exact(bytes.len()).is_err() {
            return;
        }
        copy.extend_from_slice(bytes);
        let slot = Slot {
            base,
            end,
            bytes: Arc::new(copy),
        };
        let mut slots = self.slots.lock();
        // Relaxed: stored only with `slots` locked. K3: the last one may have left meanwhile.
        let is_wanted = self.followers.load(Ordering::Relaxed) != 0;
        if !is_wanted && !canary!("fresh-kept-for-nobody") {
            return;
        }
        let oldest = (slots.len() == SLOTS).then(|| slots.pop_front());
        slots.push_back(slot);
        drop(slots);
        drop(oldest);
    }

    /// The slot that begins at `base`, if it is here.
    pub(crate) fn find(&self, base: u64) -> Option<Slot> {
        let slots = self.slots.lock();
        if canary!("lss-fresh-whatever-its-address") {
            return slots.back().cloned();
        }
        slots.iter().rev().find(|slot| slot.base == base).cloned()
    }
}

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use super::*;

    fn kept(fresh: &Fresh) -> Vec<u64> {
        fresh.slots.lock().iter().map(|slot| slot.base).collect()
    }

    #[test]
    fn the_last_short_slots_are_kept_while_somebody_follows() {
        let fresh = Fresh::default();
        fresh.written(0, 4096, &[1; 100]);
        assert!(kept(&fresh).is_empty(), "nobody follows");
        fresh.enter();
        fresh.enter();
        for number in 1..=20 {
            fresh.written(number * 4096, (number + 1) * 4096, &[2; 100]);
        }
        assert_eq!(
            kept(&fresh),
            (5..=20).map(|it| it * 4096).collect::<Vec<_>>()
        );
        fresh.written(21 * 4096, 40 * 4096, &[3; SLOT_BYTES + 1]);
        assert!(fresh.find(21 * 4096).is_none(), "it is long");
        fresh.written(21 * 4096, 40 * 4096, &[3; SLOT_BYTES]);
        assert!(fresh.find(21 * 4096).is_some(), "just short enough");
        let slot = fresh.find(7 * 4096).expect("it is here");
        assert_eq!((slot.base, slot.end), (7 * 4096, 8 * 4096));
        assert!(*slot.bytes == [2; 100]);
        fresh.leave();
        assert_eq!(kept(&fresh).len(), SLOTS, "somebody follows still");
        fresh.leave();
        assert!(kept(&fresh).is_empty());
        fresh.written(0, 4096, &[1; 100]);
        assert!(kept(&fresh).is_empty());
    }
}
