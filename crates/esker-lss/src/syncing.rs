//! [`Syncing`]: at most one data sync in the background at a time, and none missed.
//!
//! Invariants:
//! - Y1. At most one is under way: whoever swaps the flag from `false` to `true` has the turn, until
//!   it finds that there is nothing to sync, or the sync has ended.
//! - Y2. Whoever finds a sync due has the turn, or is turned away by somebody who gives the turn back
//!   later and then looks again, at everything that was so when the other was turned away.

use crate::sync::{AtomicBool, Ordering};

/// Whose turn it is to sync.
#[derive(Default)]
pub(crate) struct Syncing {
    /// Whether somebody has the turn. Changed by swaps alone, by whoever takes and gives it.
    taken: AtomicBool,
}

impl Syncing {
    /// Has `start` start a sync if one `is_due`, unless one is under way. `start` says whether there
    /// was anything to sync; if so, [`end`](Self::end) gives the turn back, and this is called again.
    pub(crate) fn start_if(&self, is_due: impl Fn() -> bool, start: impl Fn() -> bool) {
        // Release: whoever is turned away hands its own advance to the swap in `end`.
        while is_due() && !self.taken.swap(true, Ordering::Release) {
            if start() {
                return;
            }
            // Another sync was faster. Whoever was turned away meanwhile may have written more.
            self.end();
            if canary!("lss-sync-does-not-look-again") {
                return;
            }
        }
    }

    /// A sync has ended; the caller looks next whether another is due.
    pub(crate) fn end(&self) {
        // Acquire: whoever was turned away did so after its own advance, and by a swap that this one
        // reads from, so that the advance is seen by the look that follows. What a sync did is
        // published by whoever counts it, not by this.
        self.taken.swap(false, Ordering::Acquire);
    }
}
