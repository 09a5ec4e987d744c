//! From a sealed buffer to a durable one: the window, the order of the writes, and the syncs.
//!
//! Invariants:
//! - D1. Buffer `t` is submitted only when buffer `t - W` is durable and its end is at most the
//!   window's bytes past the durable prefix. So whatever a crash leaves behind past the first
//!   damaged block lies within a distance that recovery knows (format, recovery rule 1).
//! - D2. The header says which prefix was durable when the buffer was submitted, never more.
//! - D3. The durable prefix moves past a buffer only by its own durable write, or by a data sync
//!   that was submitted after its write had completed; and only when nothing that was in flight with
//!   it has failed (A1 of `durable`).
//! - D4. A failed write or sync moves nothing, and poisons the store. The durable prefix stands still
//!   from then on.
//! - D5. A buffer that had to wait for the window is submitted by whoever moves the durable prefix:
//!   the queue is looked at behind its lock after every advance, and a sync is under way whenever
//!   something waits and something written is not confirmed.
//! - D6. In serialised mode buffers are submitted in the order of their sequence numbers, each when
//!   the one before it has completed.

use std::collections::BTreeMap;
use std::sync::Arc;

use esker_io::{
    Action, Backend, Completion, Durability, IoError, Operation, Ordering as WriteOrder, Sink,
};
use esker_ring::SealedBuffer;

use crate::core::Core;
use crate::durable::Flight;
use crate::format::slot::{self, SlotHeader};
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering};
use crate::{Lsn, Position};

/// Who hands a buffer over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// Somebody who has other things to do: the write is submitted and goes its way.
    Passing,
    /// Somebody who waits for it to be durable: the write is made here and now.
    Committer,
}

/// Sealed buffers that are not submitted yet: they wait for the window, or for their turn.
pub(crate) struct Queue {
    inner: Mutex<Waiting>,
}

struct Waiting {
    buffers: BTreeMap<u64, SealedBuffer>,
    /// In serialised mode: which buffer is to be submitted next, and whether somebody is at it.
    next: u64,
    busy: bool,
}

impl Queue {
    pub(crate) fn new(next: u64) -> Self {
        Self {
            inner: Mutex::new(Waiting {
                buffers: BTreeMap::new(),
                next,
                busy: false,
            }),
        }
    }
}

/// The write of one buffer, in one piece or, across a segment's end, in several.
struct SlotWrite<B: Backend> {
    core: Arc<Core<B>>,
    seq: u64,
    base: u64,
    end: u64,
    /// What it makes durable when it lands: itself, or nothing.
    flight: Mutex<Option<Flight>>,
    /// Pieces that have not completed.
    remaining: AtomicUsize,
    failed: AtomicBool,
}

/// One piece's completion.
struct PieceDone<B: Backend>(Arc<SlotWrite<B>>);

impl<B: Backend> Sink for PieceDone<B> {
    fn complete(self: Box<Self>, completion: Completion) {
        let Completion { result, memory } = completion;
        // Let go of the bytes first: the ring's slot is free once the resident copy goes as well.
        drop(memory);
        self.0.piece_done(result.err());
    }
}

impl<B: Backend> SlotWrite<B> {
    fn piece_done(&self, error: Option<IoError>) {
        if let Some(error) = error {
            // Relaxed: published by the release of `remaining` below.
            self.failed.store(true, Ordering::Relaxed);
            self.core.poison_with(error);
        }
        // AcqRel: the last one sees what the others found.
        if self.remaining.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let core = &self.core;
        let flight = self.flight.lock().take();
        if self.failed.load(Ordering::Relaxed) {
            core.resident.abandoned(self.seq);
            if let Some(flight) = flight {
                core.end_flight(flight, |_| {});
            }
            return;
        }
        core.written.complete(self.seq, self.end);
        // After the written prefix, before the bytes go: a reader finds the record in one of them.
        core.resident.written(self.seq, self.base, self.end);
        match flight {
            Some(flight) => core.end_flight(flight, |confirmed| {
                confirmed.complete(self.seq, self.end);
            }),
            None => core.after_advance(),
        }
    }
}

/// A data sync of every segment that holds something written and not durable.
struct SyncAll<B: Backend> {
    core: Arc<Core<B>>,
    /// The first buffer that was not part of the written prefix when the sync was submitted.
    next: u64,
    flight: Mutex<Option<Flight>>,
    remaining: AtomicUsize,
    failed: AtomicBool,
}

struct SyncDone<B: Backend>(Arc<SyncAll<B>>);

impl<B: Backend> Sink for SyncDone<B> {
    fn complete(self: Box<Self>, completion: Completion) {
        let sync = &self.0;
        if let Err(error) = completion.result {
            // Relaxed: published by the release of `remaining` below.
            sync.failed.store(true, Ordering::Relaxed);
            sync.core.poison_with(error);
        }
        // AcqRel: the last one sees what the others found.
        if sync.remaining.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let covers = (!sync.failed.load(Ordering::Relaxed)).then_some(
            if canary!("lss-sync-covers-later-writes") {
                sync.core.written.next()
            } else {
                sync.next
            },
        );
        let flight = sync.flight.lock().take();
        // Whoever was turned away while this sync ran is served below.
        sync.core.syncing.end();
        if let Some(flight) = flight {
            sync.core.synced(flight, covers);
        }
    }
}

impl<B: Backend> Core<B> {
    /// Takes a sealed buffer over: it is written now if the window admits it, else as soon as it
    /// does. A poisoned store writes nothing any more, and a child's copy of one nothing at all.
    pub(crate) fn hand_over(self: &Arc<Self>, sealed: SealedBuffer, by: By) {
        if self.check_alive().is_err() {
            if !self.poison.is_here() {
                // Giving it back may take a lock that is the parent's.
                return std::mem::forget(sealed);
            }
            sealed.recycle();
            self.backend.wake();
            return;
        }
        let seq = sealed.seq().get();
        self.note_boundary(&sealed);
        self.queue.inner.lock().buffers.insert(seq, sealed);
        self.drain((by == By::Committer).then_some(seq));
        self.sync_if_due();
        self.maintenance.activity();
    }

    /// Remembers where the slot begins, for trimming.
    fn note_boundary(&self, sealed: &SealedBuffer) {
        let (lsn, seq) = (Lsn::new(sealed.base()), sealed.seq().get());
        let before = if seq == self.start.seq {
            self.start
        } else {
            Position {
                lsn,
                seq,
                epoch: self.epoch,
                epoch_start: self.start.lsn,
            }
        };
        self.marks.note(before, self.geometry.segment_bytes());
    }

    /// Submits what the window admits. `mine` is written in this thread, if it is among it.
    fn drain(self: &Arc<Self>, mine: Option<u64>) {
        let serialised = self.options.ordering == WriteOrder::Serialised;
        loop {
            let admitted = {
                let mut waiting = self.queue.inner.lock();
                if serialised && waiting.busy {
                    // Whoever is at it looks again before it leaves.
                    return;
                }
                let admitted = self.take_admitted(&mut waiting, serialised);
                if admitted.is_empty() {
                    return;
                }
                waiting.busy = serialised;
                admitted
            };
            let mut own = None;
            for sealed in admitted {
                if mine == Some(sealed.seq().get()) && !serialised {
                    own = Some(sealed);
                } else if mine == Some(sealed.seq().get()) {
                    self.write(sealed, By::Committer);
                } else {
                    self.write(sealed, By::Passing);
                }
            }
            // Last, so that the others are on their way while this thread blocks.
            if let Some(sealed) = own {
                self.write(sealed, By::Committer);
            }
            self.queue.inner.lock().busy = false;
        }
    }

    fn take_admitted(&self, waiting: &mut Waiting, serialised: bool) -> Vec<SealedBuffer> {
        let Waiting { buffers, next, .. } = waiting;
        let mut admitted = Vec::new();
        while let Some(first) = buffers.first_entry() {
            let in_turn =
                !serialised || *first.key() == *next || canary!("lss-serialised-out-of-turn");
            if !in_turn || !self.admits(first.get()) {
                break;
            }
            admitted.push(first.remove());
            *next += 1;
        }
        admitted
    }

    /// D1. What is admitted once stays so: the durable prefix only grows.
    fn admits(&self, sealed: &SealedBuffer) -> bool {
        let geometry = &self.geometry;
        let one_more = u64::from(canary!("lss-window-of-one-more"));
        let slots = u64::from(geometry.window_slots()) + one_more;
        let end = self.durable.lsn().saturating_add(geometry.window_bytes());
        sealed.seq().get() < self.durable.next() + slots
            && (sealed.next_base() <= end || canary!("lss-window-without-bytes"))
    }

    /// Writes one buffer: in this thread for a committer, else it is submitted.
    fn write(self: &Arc<Self>, mut sealed: SealedBuffer, by: By) {
        let (seq, base, end) = (sealed.seq().get(), sealed.base(), sealed.next_base());
        let durability = if by == By::Committer || self.commit.wants(base) {
            Durability::Durable
        } else {
            Durability::Written
        };
        self.finish(&mut sealed);
        let padding_bytes = (sealed.padded_len() - sealed.len()) as u64;
        let bytes = Arc::new(sealed);
        self.resident.submitted(&bytes);
        // Relaxed: counters are read one by one and prove nothing.
        self.counters.slots.fetch_add(1, Ordering::Relaxed);
        self.counters
            .slot_bytes
            .fetch_add(end - base, Ordering::Relaxed);
        self.counters
            .padding_bytes
            .fetch_add(padding_bytes, Ordering::Relaxed);

        let pieces = self.segments.pieces(Lsn::new(base), bytes.padded_len());
        let pieces = match pieces {
            Ok(pieces) => pieces,
            Err(error) => {
                self.resident.abandoned(seq);
                return self.poison_with(error);
            }
        };
        let confirms = durability == Durability::Durable || canary!("lss-written-is-durable");
        let write = Arc::new(SlotWrite {
            core: Arc::clone(self),
            seq,
            base,
            end,
            flight: Mutex::new(confirms.then(|| self.durable.begin())),
            remaining: AtomicUsize::new(pieces.len()),
            failed: AtomicBool::new(false),
        });
        let alone = pieces.len() == 1;
        let mut operations = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let action = Action::Write {
                offset: piece.offset,
                memory: piece.memory(&bytes),
                durability,
            };
            let sink = Box::new(PieceDone(Arc::clone(&write)));
            if alone && by == By::Committer {
                drop(bytes);
                let completion = self.lane.execute(&piece.file, action);
                sink.complete(completion);
                return self.backend.wake();
            }
            operations.push(Operation::OnFile {
                file: piece.file,
                action,
                sink,
            });
        }
        drop(bytes);
        self.lane.submit(operations);
    }

    /// Fills the header in: D2.
    fn finish(&self, sealed: &mut SealedBuffer) {
        let mut header = SlotHeader {
            extent: sealed.is_extent(),
            len: sealed.len(),
            epoch: self.epoch,
            store_id: self.geometry.store_id(),
            seq: sealed.seq().get(),
            base: Lsn::new(sealed.base()),
            durable: Lsn::new(self.durable.lsn()),
            epoch_start: self.start.lsn,
        };
        if canary!("lss-header-claims-its-base") {
            header.durable = header.base;
        }
        if canary!("lss-header-without-durable") {
            header.durable = Lsn::ZERO;
        }
        if canary!("lss-header-names-the-confirmed") {
            header.durable = Lsn::new(self.durable.confirmed());
        }
        let bytes = header.encode(&sealed.padded_bytes()[slot::HEADER_BYTES..]);
        sealed.header_mut().copy_from_slice(&bytes);
    }

    /// A prefix has moved, or a buffer has gone: whatever waits for that goes on.
    pub(crate) fn after_advance(self: &Arc<Self>) {
        self.drain(None);
        self.sync_if_due();
    }

    /// A data sync has ended. If it has succeeded, everything before buffer `covers` was written when
    /// it began.
    pub(crate) fn synced(self: &Arc<Self>, flight: Flight, covers: Option<u64>) {
        // Relaxed: a counter.
        self.counters
            .syncs
            .fetch_add(u64::from(covers.is_some()), Ordering::Relaxed);
        self.end_flight(flight, |confirmed| {
            for seq in confirmed.next()..covers.unwrap_or(0) {
                // At most a window behind the written prefix, so its end is still known.
                let Some(end) = self.written.end_of(seq) else {
                    continue;
                };
                confirmed.complete(seq, end);
            }
        });
    }

    /// D5: starts a sync, unless one is under way, if enough is written and not durable, or something
    /// waits for the window.
    fn sync_if_due(self: &Arc<Self>) {
        self.syncing
            .start_if(|| self.sync_is_due(), || self.start_sync());
    }

    fn sync_is_due(&self) -> bool {
        let unconfirmed = self.written.lsn().saturating_sub(self.durable.confirmed());
        unconfirmed > 0
            && self.poison.get().is_none()
            && (unconfirmed >= self.options.sync_every_bytes || self.window_is_full())
    }

    fn window_is_full(&self) -> bool {
        let waiting = self.queue.inner.lock();
        waiting
            .buffers
            .first_key_value()
            .is_some_and(|(_, first)| !self.admits(first))
    }

    /// The first buffer that is not written, and the files that hold everything before it that is
    /// not known to be durable: a sync of them covers that much (D3).
    pub(crate) fn undurable_files(&self) -> (u64, Vec<B::File>) {
        // Both as of one moment: the address that the prefix names may lag behind the buffer, and
        // the file between the two would be left out.
        let mark = if canary!("lss-sync-by-the-lagging-address") {
            Some((self.written.next(), self.written.lsn()))
        } else {
            self.written.mark(self.start.seq)
        };
        let Some((next, end)) = mark else {
            return (self.start.seq, Vec::new());
        };
        let from = if canary!("lss-sync-of-the-last-segment") {
            end.saturating_sub(1)
        } else {
            self.durable.lsn()
        };
        let files = self.segments.files(Lsn::new(from), Lsn::new(end));
        (next, files)
    }

    /// Starts a data sync of what has been written; whether there was anything to sync.
    fn start_sync(self: &Arc<Self>) -> bool {
        // Read before the sync is submitted: what completes later may miss it.
        let (next, files) = self.undurable_files();
        if files.is_empty() {
            return false;
        }
        let sync = Arc::new(SyncAll {
            core: Arc::clone(self),
            next,
            flight: Mutex::new(Some(self.durable.begin())),
            remaining: AtomicUsize::new(files.len()),
            failed: AtomicBool::new(false),
        });
        let operations = files
            .into_iter()
            .map(|file| Operation::OnFile {
                file,
                action: Action::SyncData,
                sink: Box::new(SyncDone(Arc::clone(&sync))),
            })
            .collect();
        self.backend.submit(operations);
        true
    }
}
