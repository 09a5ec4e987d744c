//! Operations for which this kernel's rings have no opcode: they run on threads, like the portable
//! backend's, and complete like all others.
//!
//! - A1. Such an operation is put down as finished before the kick that tells of it is asked for; the
//!   leader looks for what is finished after it has taken note of a kick. So whichever of two kicks is
//!   sent, one of them is taken note of before that look.

use io_uring::{Probe, opcode};

use super::completion::Finished;
use super::{Ring, Uring};
use crate::error::OperationKind;
use crate::file::FileHandle;
use crate::operation::Operation;
use crate::pool;
use crate::sync::{Acquire, Arc, SeqCst};

/// Which operations the ring takes, besides those that it must.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offered {
    /// What taking space and changing a length may need.
    space: bool,
    /// What opening a file and making a directory's names durable need.
    names: bool,
}

impl Offered {
    pub(super) fn of(probe: &Probe) -> Self {
        let has = |codes: &[u8]| codes.iter().all(|&code| probe.is_supported(code));
        Self {
            space: has(&[
                opcode::Statx::CODE,
                opcode::Fallocate::CODE,
                // Linux 6.9
                opcode::Ftruncate::CODE,
            ]),
            names: has(&[opcode::OpenAt::CODE, opcode::Statx::CODE]),
        }
    }

    /// What a ring takes that has none of them.
    #[cfg(test)]
    pub(super) const NOTHING: Self = Self {
        space: false,
        names: false,
    };

    pub(super) fn takes(self, operation: &Operation<FileHandle>) -> bool {
        match operation.kind() {
            OperationKind::Allocate | OperationKind::Truncate | OperationKind::Punch => self.space,
            OperationKind::Open | OperationKind::SyncDir => self.names,
            _ => true,
        }
    }
}

impl Uring {
    /// Starts operations that the ring does not take.
    pub(super) fn start_aside(&self, operations: Vec<Operation<FileHandle>>) {
        self.ring.accepted.fetch_add(operations.len(), SeqCst);
        let Some(pool) = &self.pool else {
            return;
        };
        let left = pool.run(operations.into_iter().map(|operation| {
            let ring = Arc::clone(&self.ring);
            Box::new(move || ring.run_aside(operation)) as pool::Job
        }));
        // There is no thread to be had: then here and now.
        left.into_iter().for_each(|job| job());
    }
}

impl Ring {
    fn run_aside(&self, operation: Operation<FileHandle>) {
        let ended = self.calls.end(operation);
        let finished = Finished::aside(ended.map_opened(|file| self.adopt(file)));
        // A1
        self.aside.lock().push(finished);
        if self.issuer.is_some() {
            self.entering_soon(Self::deliver_aside);
        } else {
            self.send_kick();
        }
    }

    /// For the issuer, if there is one.
    fn deliver_aside(&self) {
        let finished = core::mem::take(&mut *self.aside.lock());
        self.deliver(finished);
    }

    /// What has finished aside, if a kick has told of it or none can.
    pub(super) fn take_aside(&self, kicked: bool, finished: &mut Vec<Finished>) {
        // Acquire: pairs with the store in `flush`.
        if kicked || self.broken.load(Acquire) {
            finished.append(&mut self.aside.lock());
        }
    }
}

#[cfg(all(test, feature = "conformance", not(any(esker_loom, esker_shuttle))))]
mod tests {
    use super::*;
    use crate::conformance;
    use crate::uring::UringConfig;

    #[test]
    fn a_ring_without_the_later_opcodes_conforms() {
        let make = || {
            let mut ring = Ring::new(UringConfig::default(), None)?;
            ring.offered = Offered::NOTHING;
            Ok::<_, crate::UringError>(Uring::of(ring))
        };
        if make().is_err() {
            return println!("skipped: there is no io_uring");
        }
        let root = tempfile::tempdir().expect("a directory");
        let report = conformance::run(root.path(), |_| make().expect("it was there just now"));
        println!("{report}");
        report.assert();
    }
}
