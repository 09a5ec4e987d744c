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
    pub fn open(dir: impl AsRef<Path>, backend: B) -> Result<Self, OpenError> {
        let (dir, backend) = (dir.as_ref(), Arc::new(backend));
        let view = SuperblockView::open(&backend, dir)?;
        let (superblock, _) = view.load()?;
        let segments = Arc::new(SegmentSet::open_to_read(&backend, dir, superblock.geometry));
        segments.check_alignment(segments.geometry().segment_of(superblock.first.lsn.get()))?;
        let state = derive(&view, &segments, None)?;
        let log = Log::new(&segments);
        let state = Mutex::new(state);
        Ok(Self { shared: Arc::new(Shared { backend, view, segments, log, state }) })
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

    /// The records of a range of addresses in the log's order, up to [`end`](Self::end). The first
    /// address must be a record's, or [`first`](Self::first).
    ///
    /// # Errors
    ///
    /// [`ReadError::Trimmed`] and [`ReadError::BeyondEnd`] when the range begins outside the log.
    /// The iterator ends after its first error.
    pub fn scan(&self, range: impl RangeBounds<Lsn>) -> Result<Scan<B>, ReadError> {
        let State { superblock, end, .. } = self.shared.state();
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
        let Shared { backend, view, segments, .. } = &*self.shared;
        let State { superblock, end, durable, tail, .. } = self.shared.state();
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
        *self.state.lock() = next;
        Ok(next.end.lsn)
    }

    /// Where the log begins now; where it began, if that cannot be found out.
    fn first_now(&self) -> Lsn {
        let known = self.state().superblock.first.lsn;
        self.view.load().map_or(known, |(superblock, _)| superblock.first.lsn.max(known))
    }

    fn read(&self, lsn: Lsn) -> Result<Vec<u8>, ReadError> {
        let State { superblock, end, .. } = self.state();
        let first = superblock.first.lsn;
        if lsn < first {
            return Err(ReadError::Trimmed { lsn, first });
        }
        let result = self.log.read_record(lsn, end.lsn);
        let Err(ReadError::Corrupt(_) | ReadError::NotARecord { .. }) = &result else {
            return result;
        };
        // It may have been trimmed, or dropped by a recovery, since the last look.
        let Ok((now, _)) = self.view.load() else { return result };
        if lsn < now.first.lsn {
            return Err(ReadError::Trimmed { lsn, first: now.first.lsn });
        }
        if now.epoch == superblock.epoch || self.refresh().is_err() {
            return result;
        }
        self.log.read_record(lsn, self.state().end.lsn)
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
        return Ok(State { superblock, end, durable, tail: Tail::Clean, writer_alive });
    }
    let Recovered { end, tail, .. } = conclude(segments, &superblock, walk)?;
    check_files(segments, superblock.first.lsn, end.lsn)?;
    Ok(State { superblock, end, durable: end.lsn, tail, writer_alive })
}
