//! [`Reader`]: a log read by a process that does not write it, while another may.
//!
//! It takes no lock and writes nothing. What it serves is the contiguous prefix of intact slots,
//! found by the same rule as in recovery. While a writer is alive, the slot behind the prefix is
//! taken for one that is being written, not for damage; what the superblock and the slots say was
//! durable has to be there all the same.

use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use esker_buf::Alignment;
use esker_io::{Backend, Description};

use crate::error::{OpenError, ReadError};
use crate::format::superblock::{Superblock, VERSION};
use crate::log::Log;
use crate::read_many::{ReadMany, Source};
use crate::recovery::{Recovered, Tail, Walk, check_files, conclude, marked_durable, resume};
use crate::scan::Scan;
use crate::segments::SegmentSet;
use crate::superblock::SuperblockView;
use crate::sync::Mutex;
use crate::{Lsn, Position};

/// How often the log is looked at again when it does not add up: a writer may be at it.
const ATTEMPTS: u32 = 10;
/// How long to wait before each of them.
const BEAT: Duration = Duration::from_millis(2);

/// A store opened for reading only, beside at most one writer in another process or in this one.
///
/// What it shows is as of the last [`refresh`](Self::refresh).
pub struct Reader<B: Backend> {
    shared: Arc<Shared<B>>,
}

struct Shared<B: Backend> {
    backend: Arc<B>,
    view: SuperblockView<B>,
    segments: Arc<SegmentSet<B>>,
    log: Log<B>,
    state: Mutex<State>,
}

/// What is known of the log.
#[derive(Clone, Copy)]
struct State {
    superblock: Superblock,
    end: Position,
    durable: Lsn,
    tail: Tail,
    writer_alive: bool,
}

/// What a store is, as a reader sees it. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReaderInfo {
    /// The version of the format on disk.
    pub format_version: u32,
    /// The store's identity.
    pub store_id: u64,
    /// Which life of the store this is.
    pub epoch: u32,
    /// Where the log begins.
    pub first: Lsn,
    /// Where what can be read ends.
    pub end: Lsn,
    /// The end of what is known to be durable.
    pub durable: Lsn,
    /// What lies behind the end; [`Tail::Clean`] while a writer is alive.
    pub tail: Tail,
    /// Whether the store was closed, as opposed to being open or having crashed.
    pub closed: bool,
    /// Whether somebody has it open for writing.
    pub writer_alive: bool,
    /// The unit of writing.
    pub block_bytes: u32,
    /// The size of a segment file.
    pub segment_bytes: u64,
    /// The largest record.
    pub max_record_bytes: u64,
    /// How many slots may be written and not durable.
    pub window_slots: u32,
    /// How far past the durable prefix a slot may end.
    pub window_bytes: u64,
    /// How many segment files there are.
    pub segments: u64,
    /// How many spare files there are.
    pub spares: u64,
    /// How much space both take.
    pub space_bytes: u64,
    /// What direct I/O asks for on this file system.
    pub alignment: Alignment,
    /// Whether reads go past the page cache.
    pub direct: bool,
    /// The backend, and why it was picked.
    pub backend: Description,
}

impl<B: Backend> Reader<B> {
    /// Opens the store in `dir` for reading. Takes no lock, writes nothing. Blocks.
    ///
    /// # Errors
    ///
    /// [`OpenError::NoStore`] when there is none, [`OpenError::Corrupt`] when acknowledged data is
    /// damaged, and others as they say.
    pub fn open(dir: impl AsRef<Path>, backend: impl Into<Arc<B>>) -> Result<Self, OpenError> {
        let (dir, backend) = (dir.as_ref(), backend.into());
        let view = SuperblockView::open(&backend, dir)?;
        let (superblock, _) = view.load()?;
        let segments = Arc::new(SegmentSet::open_to_read(&backend, dir, superblock.geometry));
        segments.check_alignment(segments.geometry().segment_of(superblock.first.lsn.get()))?;
        let state = derive(&view, &segments, None)?;
        let log = Log::new(&segments);
        let state = Mutex::new(state);
        Ok(Self {
            shared: Arc::new(Shared {
                backend,
                view,
                segments,
                log,
                state,
            }),
        })
    }

    /// Looks at what has been written since, and returns where what can be read ends now.
    ///
    /// The end moves back only when a writer has recovered the store and dropped what was never
    /// durable. Blocks.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); what was known before can still be read.
    pub fn refresh(&self) -> Result<Lsn, OpenError> {
        self.shared.refresh()
    }

    /// The address at which the log begins.
    #[must_use]
    pub fn first(&self) -> Lsn {
        self.shared.state().superblock.first.lsn
    }

    /// The end of what can be read.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.shared.state().end.lsn
    }

    /// The end of what is known to be durable: everything, if no writer is alive.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.shared.state().durable
    }

    /// The backend that the store was opened on, for its statistics.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.shared.backend
    }

    /// The epoch that the store is in. With another epoch, addresses past what was durable may
    /// have other content.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.shared.state().superblock.epoch
    }

    /// Whether somebody has the store open for writing, now.
    ///
    /// # Errors
    ///
    /// [`OpenError::Io`] when the lock cannot be queried.
    pub fn writer_alive(&self) -> Result<bool, OpenError> {
        Ok(self.shared.view.is_writer_alive()?)
    }

    /// Reads the record at `lsn`, its checksum checked. Blocks; allocates the record.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn read(&self, lsn: Lsn) -> Result<Vec<u8>, ReadError> {
        self.shared.read(lsn)
    }

    /// Reads the records at `lsns`, in that order, each with a result of its own, as
    /// [`read`](Self::read) would: with many reads in flight, from this thread.
    pub fn read_many<'s>(&'s self, lsns: &'s [Lsn]) -> ReadMany<'s, B> {
        ReadMany::new(&self.shared, lsns)
    }

    /// The records of a range of addresses in the log's order, up to [`end`](Self::end). The first
    /// address must be a record's, or [`first`](Self::first).
    ///
    /// # Errors
    ///
    /// [`ReadError::Trimmed`] and [`ReadError::BeyondEnd`] when the range begins outside the log.
    /// The iterator ends after its first error.
    pub fn scan(&self, range: impl RangeBounds<Lsn>) -> Result<Scan<'_, B>, ReadError> {
        let State {
            superblock, end, ..
        } = self.shared.state();
        let scan = Scan::new(&self.shared.log, &range, superblock.first.lsn, end.lsn)?;
        let shared = Arc::clone(&self.shared);
        Ok(scan.with_first(move || shared.first_now()))
    }

    /// What the store is. Lists the directory.
    ///
    /// # Errors
    ///
    /// [`OpenError::Io`] when the directory or a file cannot be looked at.
    pub fn info(&self) -> Result<ReaderInfo, OpenError> {
        let Shared {
            backend,
            view,
            segments,
            ..
        } = &*self.shared;
        let State {
            superblock,
            end,
            durable,
            tail,
            ..
        } = self.shared.state();
        let geometry = superblock.geometry;
        let usage = segments.usage()?;
        let facts = view.facts()?;
        Ok(ReaderInfo {
            format_version: VERSION,
            store_id: geometry.store_id(),
            epoch: superblock.epoch,
            first: superblock.first.lsn,
            end: end.lsn,
            durable,
            tail,
            closed: superblock.clean_end.is_some(),
            writer_alive: view.is_writer_alive()?,
            block_bytes: geometry.block_bytes(),
            segment_bytes: geometry.segment_bytes(),
            max_record_bytes: geometry.max_record_bytes(),
            window_slots: geometry.window_slots(),
            window_bytes: geometry.window_bytes(),
            segments: usage.segments,
            spares: usage.spares,
            space_bytes: usage.bytes,
            alignment: facts.alignment,
            direct: facts.direct,
            backend: backend.description(),
        })
    }
}

impl<B: Backend> Shared<B> {
    fn state(&self) -> State {
        *self.state.lock()
    }

    fn refresh(&self) -> Result<Lsn, OpenError> {
        let known = self.state();
        let next = derive(&self.view, &self.segments, Some(&known))?;
        // Files that have been removed take up space for as long as they are open.
        self.segments.close_below(next.superblock.first.lsn);
        *self.state.lock() = next;
        Ok(next.end.lsn)
    }

    /// Where the log begins now; where it began, if that cannot be found out.
    fn first_now(&self) -> Lsn {
        let known = self.state().superblock.first.lsn;
        self.view
            .load()
            .map_or(known, |(superblock, _)| superblock.first.lsn.max(known))
    }

    fn read(&self, lsn: Lsn) -> Result<Vec<u8>, ReadError> {
        let State {
            superblock, end, ..
        } = self.state();
        let first = superblock.first.lsn;
        if lsn < first {
            return Err(ReadError::Trimmed { lsn, first });
        }
        let result = self.log.read_record(lsn, end.lsn);
        let Err(ReadError::Corrupt(_) | ReadError::NotARecord { .. }) = &result else {
            return result;
        };
        // It may have been trimmed, or dropped by a recovery, since the last look.
        let Ok((now, _)) = self.view.load() else {
            return result;
        };
        if lsn < now.first.lsn {
            return Err(ReadError::Trimmed {
                lsn,
                first: now.first.lsn,
            });
        }
        if now.epoch == superblock.epoch || self.refresh().is_err() {
            return result;
        }
        self.log.read_record(lsn, self.state().end.lsn)
    }
}

impl<B: Backend> Source<B> for Arc<Shared<B>> {
    fn log(&self) -> &Log<B> {
        &self.log
    }

    fn on_disk(&self, lsn: Lsn) -> Option<Lsn> {
        let state = self.state();
        let end = state.end.lsn;
        (lsn >= state.superblock.first.lsn && lsn < end).then_some(end)
    }

    fn first(&self) -> Lsn {
        self.state().superblock.first.lsn
    }

    fn read_one(&self, lsn: Lsn) -> Result<Vec<u8>, ReadError> {
        self.read(lsn)
    }
}

/// Finds the end of the log, going on from what is known if that still holds.
fn derive<B: Backend>(
    view: &SuperblockView<B>,
    segments: &Arc<SegmentSet<B>>,
    known: Option<&State>,
) -> Result<State, OpenError> {
    let mut attempts = 0;
    loop {
        // In this order: what a superblock that is read later says was durable has been written,
        // and a writer that is gone before changes nothing any more.
        let writer_alive = view.is_writer_alive()?;
        let (superblock, _) = view.load()?;
        if superblock.geometry != *segments.geometry() {
            return Err(view.damaged());
        }
        if let Some(known) = known
            && !writer_alive
            && !known.writer_alive
            && known.superblock == superblock
        {
            // Whoever opens the store to write changes the superblock first.
            return Ok(*known);
        }
        match look(segments, superblock, known, writer_alive) {
            Ok(state) if state.writer_alive || !view.is_writer_alive()? => return Ok(state),
            // A writer has come meanwhile. If the next look finds it gone again, no matter.
            Ok(state) if attempts == ATTEMPTS => return Ok(state),
            Err(error) if attempts == ATTEMPTS => return Err(error),
            // With nobody there, nothing will be different the next time.
            Err(error) if !writer_alive && attempts > 0 && !view.is_writer_alive()? => {
                return Err(error);
            }
            // A writer that has opened, trimmed or closed the store meanwhile explains what does
            // not add up; damage is still there at the next look.
            _ => {}
        }
        attempts += 1;
        segments.forget_read_handles();
        segments.backend().wait_until(&mut || false, Some(BEAT));
    }
}

fn look<B: Backend>(
    segments: &Arc<SegmentSet<B>>,
    superblock: Superblock,
    known: Option<&State>,
    writer_alive: bool,
) -> Result<State, OpenError> {
    // In another epoch what was known past its beginning may have been dropped.
    let known = known.filter(|known| {
        known.superblock.epoch == superblock.epoch && known.end.lsn >= superblock.checkpoint.lsn
    });
    let from = known.map_or(superblock.checkpoint, |known| known.end);
    let durable = known.map_or(Lsn::ZERO, |known| known.durable);
    let walk = resume(segments, &superblock, from, durable)?;
    if writer_alive && walk.may_go_on(marked_durable(&superblock)) {
        let Walk { end, durable, .. } = walk;
        let durable = durable.max(marked_durable(&superblock));
        return Ok(State {
            superblock,
            end,
            durable,
            tail: Tail::Clean,
            writer_alive,
        });
    }
    let Recovered { end, tail, .. } = conclude(segments, &superblock, walk)?;
    check_files(segments, superblock.first.lsn, end.lsn)?;
    Ok(State {
        superblock,
        end,
        durable: end.lsn,
        tail,
        writer_alive,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use esker_io::Blocking;

    use super::*;
    use crate::superblock::SuperblockFile;
    use crate::testing::{LogBuilder, Part, SEGMENT};

    fn reader(log: &LogBuilder) -> Reader<Blocking> {
        Reader::open(log.path(), Blocking::inline()).expect("opened")
    }

    /// Holds the store's lock like a live writer.
    fn live(log: &LogBuilder) -> SuperblockFile<Blocking> {
        let backend = Arc::new(Blocking::inline());
        SuperblockFile::open(&backend, log.path(), Duration::ZERO).expect("free")
    }

    #[test]
    fn a_reader_sees_the_intact_prefix_and_every_record_in_it() {
        let mut log = LogBuilder::new();
        log.slot(10, 1).slot(5000, 1).slot(700, 1);
        let reader = reader(&log);
        assert_eq!((reader.first(), reader.end()), (Lsn::ZERO, log.at.lsn));
        assert_eq!(reader.durable(), log.at.lsn, "nobody writes");
        for (lsn, payload) in &log.records {
            assert_eq!(reader.read(*lsn).as_ref().ok(), Some(payload));
        }
        let scanned: Vec<_> = reader
            .scan(..)
            .expect("a range")
            .map(Result::unwrap)
            .collect();
        assert_eq!(scanned.len(), 3);
        let end = log.at.lsn;
        assert!(matches!(reader.read(end), Err(ReadError::BeyondEnd { .. })));
        let info = reader.info().expect("info");
        assert_eq!(
            (info.segments, info.space_bytes, info.epoch),
            (1, SEGMENT, 1)
        );
        assert!(!info.writer_alive && !info.closed);
    }

    #[test]
    fn a_slot_that_is_being_written_is_not_damage() {
        let mut log = LogBuilder::new();
        log.slot(10, 1).slot(700, 0);
        let writer = live(&log);
        let reader = reader(&log);
        assert!(reader.writer_alive().expect("queried"));
        assert_eq!(
            reader.durable(),
            log.slots[1].lsn,
            "what the last slot says"
        );
        // Half of the next slot is there, and all of the one behind it, which says nothing of it.
        let (bytes, _) = log.compose(&[Part::Data(&[7; 900])]);
        log.write(log.at.lsn.get(), &bytes[..512]);
        let end = log.at.lsn;
        assert_eq!(reader.refresh().expect("refreshed"), end);
        log.slot_of(&[Part::Data(&[7; 900])]);
        assert_eq!(reader.refresh().expect("refreshed"), log.at.lsn);
        drop(writer);
        assert_eq!(reader.refresh().expect("refreshed"), log.at.lsn);
        assert_eq!(reader.durable(), log.at.lsn);
    }

    #[test]
    fn a_recovery_that_drops_a_tail_moves_the_end_back() {
        let mut log = LogBuilder::new();
        log.slot(10, 1).slot(700, 1).slot(700, 2);
        let reader = reader(&log);
        let dropped = log.records[2].0;
        assert!(reader.read(dropped).is_ok());
        // The new writer found only the first two.
        log.at = log.slots[2];
        log.slots.truncate(2);
        log.reopen().slot(1200, 1);
        assert!(matches!(reader.read(dropped), Ok(payload) if payload.len() == 1200));
        assert_eq!(reader.end(), log.at.lsn, "it has looked again");
        assert_eq!(reader.epoch(), 2);
    }

    #[test]
    fn what_is_trimmed_under_a_reader_is_trimmed_and_not_damaged() {
        let mut log = LogBuilder::new();
        while log.at.lsn.get() < 7 * SEGMENT {
            log.slot(3000, 1);
        }
        let reader = reader(&log);
        let mut scan = reader.scan(..).expect("a range");
        assert!(scan.next().is_some_and(|record| record.is_ok()));
        let first = *log
            .slots
            .iter()
            .find(|slot| slot.lsn.get() >= 6 * SEGMENT)
            .expect("one");
        log.superblock.first = first;
        log.superblock.counter += 1;
        log.checkpoint_at(first);
        // The files are gone, or are other segments by now.
        for segment in [0, 2, 3, 4, 5] {
            std::fs::remove_file(log.segment_path(segment)).expect("removed");
        }
        std::fs::rename(log.segment_path(1), log.segment_path(8)).expect("renamed");
        let old = log.records[1].0;
        let second = log.records[40].0;
        assert!(second.get() > SEGMENT);
        log.write(
            8 * SEGMENT,
            &vec![0; usize::try_from(SEGMENT).expect("small")],
        );
        reader.shared.segments.forget_read_handles();
        for lsn in [old, second] {
            let result = reader.read(lsn);
            assert!(
                matches!(result, Err(ReadError::Trimmed { .. })),
                "{result:?}"
            );
        }
        let last = scan.find(Result::is_err).expect("it cannot go on");
        assert!(matches!(last, Err(ReadError::Trimmed { .. })), "{last:?}");
        reader.refresh().expect("refreshed");
        assert_eq!(reader.first(), first.lsn);
    }

    #[test]
    fn damage_below_what_was_durable_is_refused_beside_a_writer_too() {
        let mut log = LogBuilder::new();
        log.slot(10, 1).slot(700, 1).slot(700, 0);
        log.flip(log.slots[1].lsn.get() + 100);
        let open = || Reader::open(log.path(), Blocking::inline()).map(drop);
        assert!(matches!(open(), Err(OpenError::Corrupt(_))));
        let mut writer = live(&log);
        let at = log.at;
        // Nothing in front of the damage says that it was durable: it may be being written.
        assert!(open().is_ok());
        let start = log.slots[2];
        writer
            .update(|next| {
                next.epoch_start = start;
                next.epoch += 1;
            })
            .expect("written");
        assert!(matches!(open(), Err(OpenError::Corrupt(_))));
        assert!(start.lsn < at.lsn);
    }

    /// Numbered records, small segments, trims: whatever a reader sees is a run of numbers without
    /// gaps that never ends earlier than what was known to be durable before it looked.
    #[test]
    fn a_reader_beside_a_busy_writer_sees_a_growing_run_without_gaps() {
        use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

        let dir = tempfile::tempdir().expect("a directory");
        let options = crate::Options::default()
            .segment_bytes(SEGMENT)
            .max_record_bytes(16 << 10)
            .buffers(4)
            .buffer_bytes(16 << 10);
        let store = crate::Store::open(dir.path(), Blocking::inline(), options).expect("created");
        let (durable, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let number = |record: &[u8]| u64::from_le_bytes(crate::format::array_at(record, 0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut next = 0u64;
                while !stop.load(SeqCst) {
                    let mut record = next.to_le_bytes().to_vec();
                    record.resize(8 + usize::try_from(next * 37 % 900).expect("small"), 1);
                    store.append(&record).expect("appended");
                    next += 1;
                    if next.is_multiple_of(50) {
                        store.flush().expect("flushed");
                        durable.store(next, SeqCst);
                    }
                    if next.is_multiple_of(700) {
                        let keep = store.durable().get().saturating_sub(3 * SEGMENT);
                        store.trim_before(Lsn::new(keep)).expect("trimmed");
                    }
                }
            });
            let reader = Reader::open(dir.path(), Blocking::inline()).expect("opened");
            let mut trimmed = 0;
            for _ in 0..150 {
                let known = durable.load(SeqCst);
                reader.refresh().expect("nothing is damaged");
                let mut last = None;
                for record in reader.scan(..).expect("a range") {
                    let record = match record {
                        Ok(record) => number(&record.payload),
                        Err(ReadError::Trimmed { .. }) => {
                            trimmed += 1;
                            last = None;
                            break;
                        }
                        Err(error) => panic!("{error}"),
                    };
                    assert!(
                        last.is_none_or(|last| record == last + 1),
                        "no gap after {last:?}"
                    );
                    last = Some(record);
                }
                assert!(trimmed > 0 || last.is_none_or(|last| last + 1 >= known));
            }
            stop.store(true, SeqCst);
        });
        store.close().expect("closed");
        assert!(
            crate::verify(dir.path(), Blocking::inline(), |_| {})
                .expect("read")
                .is_intact()
        );
    }
}
