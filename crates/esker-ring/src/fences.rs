//! [`Fences`]: a pair of fences of which one is taken for every record and the other almost never.

use crate::sync::{Ordering, compiler_fence, fence, membarrier};

/// How the two sides of a pair of fences are ordered. All who meet in a pair have the same kind.
///
/// `light` and `heavy` stand between a store and a load each: of two threads that take one of them
/// each, at least one sees what the other stored. For two SeqCst fences the language says so. For
/// the asymmetric pair it is what `membarrier(2)` promises: while the call runs, every thread of
/// the process passes a point at which its accesses so far have taken effect in program order, and
/// none of those after it. So nothing but the compiler is to be kept from reordering on the light
/// side, and the heavy side makes the barrier for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fences {
    /// Both are SeqCst fences.
    Symmetric,
    /// The light one costs nothing, the heavy one is a system call.
    Asymmetric,
}

impl Fences {
    /// Asymmetric ones, where the kernel has them. Asking it the first time takes some milliseconds
    /// if the process has several threads.
    pub(crate) fn cheapest() -> Self {
        if membarrier::register() {
            Self::Asymmetric
        } else {
            Self::Symmetric
        }
    }

    /// The side taken often.
    #[inline(always)]
    pub(crate) fn light(self) {
        match self {
            Self::Symmetric => fence(Ordering::SeqCst),
            Self::Asymmetric => compiler_fence(Ordering::SeqCst),
        }
    }

    /// The side taken seldom.
    pub(crate) fn heavy(self) {
        fence(Ordering::SeqCst);
        // A kernel that has granted it refuses only behind a filter on system calls that came
        // later. The fence above is what is left then.
        let _refused = !self.on_every_thread();
    }

    /// The barrier that the light side leaves to this one, if it does. Whether it was made.
    fn on_every_thread(self) -> bool {
        self == Self::Asymmetric && membarrier::on_every_thread()
    }
}

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use super::*;

    /// Where the kernel does not have the call nothing is asymmetric.
    #[test]
    fn the_barrier_is_made_where_the_light_side_makes_none() {
        let cheapest = Fences::cheapest();
        assert_eq!(cheapest == Fences::Asymmetric, membarrier::register());
        assert_eq!(cheapest.on_every_thread(), cheapest == Fences::Asymmetric);
        assert!(!Fences::Symmetric.on_every_thread());
    }
}
