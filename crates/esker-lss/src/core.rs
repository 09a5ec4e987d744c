//! [`Core`]: the open store, shared by its handle, the operations in flight and the maintenance
//! thread. What it does is spread over the modules by subject: `append`, `dispatch`, `commit`,
//! `read`, `maintenance`.

use std::sync::Arc;

use esker_io::{Backend, IoError, Lane};
use esker_ring::Ring;

use crate::Lsn;
use crate::commit::Commit;
use crate::committer::Committer;
use crate::dispatch::Queue;
use crate::durable::{Durable, Flight};
use crate::error::SpaceError;
use crate::format::record::RecordSeal;
use crate::format::superblock::Superblock;
use crate::geometry::Geometry;
use crate::log::Log;
use crate::maintenance::Maintainer;
use crate::options::Options;
use crate::poison::{Poison, PoisonCell};
use crate::position::Position;
use crate::resident::Resident;
use crate::segments::{SegmentSet, Syncs};
use crate::stability::Frontier;
use crate::superblock::SuperblockFile;
use crate::sync::{AtomicU64, Mutex};
use crate::syncing::Syncing;
use crate::tasks::Tasks;
use crate::trim::Marks;

/// The open store. Invariants:
/// - S1. `durable <= written <= the end of the last sealed buffer <= the ring's tail`.
/// - S2. `written` and `durable` pass a buffer only through the invariants of `dispatch` and
///   `durable`.
/// - S3. The ring's limit is never above what the segments have space for, so that a record that
///   was given an address never runs out of space.
/// - S4. Once poisoned, always poisoned.
/// - S5. In a child of a fork nothing is written, synced or given another name, no thread is waited
///   for, and no lock is taken on the way to saying so: the threads and the locks are the parent's,
///   and the files, whose descriptions the child shares, are the parent's to write.
pub(crate) struct Core<B: Backend> {
    // The backend is declared first and so dropped first: it waits for what is in flight.
    pub(crate) backend: Arc<B>,
    pub(crate) lane: Lane<B>,
    pub(crate) ring: Ring,
    pub(crate) options: Options,
    pub(crate) geometry: Geometry,
    pub(crate) checksums: RecordSeal,
    /// Which life of the store this is, and where in the log it began.
    pub(crate) epoch: u32,
    pub(crate) start: Position,
    pub(crate) written: Frontier,
    pub(crate) durable: Arc<Durable>,
    pub(crate) queue: Queue,
    pub(crate) resident: Resident,
    pub(crate) commit: Commit,
    pub(crate) committer: Committer,
    /// Tasks that follow the log. Nobody commits for them.
    pub(crate) followers: Tasks,
    pub(crate) syncing: Syncing,
    pub(crate) poison: Arc<PoisonCell>,
    pub(crate) segments: Arc<SegmentSet<B>>,
    pub(crate) log: Log<B>,
    pub(crate) superblock: Mutex<SuperblockFile<B>>,
    /// The first LSN that has not been trimmed. Raised under the superblock's lock, after both of
    /// its copies say so; read by all.
    pub(crate) first: Arc<AtomicU64>,
    pub(crate) marks: Marks,
    pub(crate) maintenance: Maintainer,
    pub(crate) counters: Counters,
}

/// What has happened in this life. Each is raised with relaxed additions and read alone.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) slots: AtomicU64,
    pub(crate) slot_bytes: AtomicU64,
    pub(crate) padding_bytes: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) stability_slots: AtomicU64,
}

impl<B: Backend> Core<B> {
    /// Remembers the first failed write or sync, and lets everybody who waits see it. What is durable
    /// now is all that ever will be in this life.
    pub(crate) fn poison_with(&self, error: IoError) {
        self.durable.freeze();
        self.poison.set(Lsn::new(self.durable.lsn()), error);
        self.backend.wake();
        self.commit.tasks.reached(u64::MAX);
        self.followers.reached(u64::MAX);
    }

    /// A flight has ended, and `cover` completes what it has made durable: A1 of `durable`. Whoever
    /// waits for the prefix goes on.
    pub(crate) fn end_flight(self: &Arc<Self>, flight: Flight, cover: impl FnOnce(&Frontier)) {
        if self.durable.end(flight, cover) {
            let lsn = self.durable.lsn();
            self.commit.tasks.reached(lsn);
            self.followers.reached(lsn);
        }
        self.after_advance();
    }

    /// Runs what makes something durable that is not the log's records, as a flight: whatever it was
    /// for, a failure may be of what a success in flight with it stands for (A1 of `durable`). An
    /// error poisons the store.
    fn in_flight(
        self: &Arc<Self>,
        sync: impl FnOnce() -> Result<(), IoError>,
    ) -> Result<(), IoError> {
        let flight = self.durable.begin();
        let done = sync();
        if let Err(error) = &done {
            self.poison_with(error.clone());
        }
        self.end_flight(flight, |_| {});
        self.backend.wake();
        done
    }

    /// Changes the superblock, whose lock the caller holds. An error poisons the store.
    pub(crate) fn update_superblock(
        self: &Arc<Self>,
        superblock: &mut SuperblockFile<B>,
        change: impl FnOnce(&mut Superblock),
    ) -> Result<(), IoError> {
        self.in_flight(|| superblock.update(change))
    }

    /// Makes sure that there is space for every address below `end`, and returns the address up to
    /// which there is.
    pub(crate) fn ensure_space(self: &Arc<Self>, end: u64) -> Result<Lsn, SpaceError> {
        self.segments.ensure(Lsn::new(end), self)
    }

    /// The failure that ended this life, if there was one.
    pub(crate) fn check_poison(&self) -> Result<(), Poison> {
        self.poison
            .get()
            .map_or(Ok(()), |poison: &Poison| Err(poison.clone()))
    }

    /// The failure that ended this life, or that this is a child of the process that has it (S5).
    pub(crate) fn check_alive(&self) -> Result<(), Poison> {
        let poison = self.poison.look(|| Lsn::new(self.durable.lsn()));
        poison.map_or(Ok(()), |poison| Err(poison.clone()))
    }

    /// The chain state at the durable end.
    pub(crate) fn durable_position(&self) -> Position {
        match self.durable.mark() {
            None => self.start,
            Some((seq, lsn)) => Position {
                lsn: Lsn::new(lsn),
                seq,
                epoch: self.epoch,
                epoch_start: self.start.lsn,
            },
        }
    }
}

/// The syncs of the segments' space: a segment's name, or its length, may be lost after a failure,
/// and so may what has been written and not synced, whatever a later sync says.
impl<B: Backend> Syncs for Arc<Core<B>> {
    fn watch(&self, sync: &mut dyn FnMut() -> Result<(), IoError>) -> Result<(), IoError> {
        if canary!("lss-space-syncs-unwatched") {
            return sync();
        }
        self.in_flight(sync)
    }
}
