//! [`SegmentSet`]: the log's address space laid over files of one fixed size.
//!
//! Invariants:
//! - Segment `k` is the file `k.seg` (16 hexadecimal digits) and covers `[k·S, (k+1)·S)`.
//! - A file gets that name only when all its space is allocated and its length is durable.
//! - A file that is open for writing is locked through the description that its writes use.
//! - What a recycled file holds is left as it is: no slot in it is at the address that it names.

mod ahead;
mod making;
mod names;
mod space;
mod zeroes;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use esker_buf::Alignment;
use esker_buf::IoBuf;
use esker_io::{
    Backend, BackendExt, Context, Create, Direct, FileOptions, IoError, OperationKind, WriteMemory,
};

use crate::Lsn;
use crate::error::SpaceError;
use crate::geometry::Geometry;
use crate::superblock::lock;
use crate::sync::{AtomicU64, Mutex, Ordering};
use ahead::Ahead;
use making::Making;
pub(crate) use making::{Goal, Spare};
pub(crate) use names::SegmentName;
use space::Growth;
pub(crate) use space::Syncs;
pub(crate) use zeroes::Pace;
use zeroes::Zeroes;

/// How many files that are only read are kept open.
const READ_HANDLES: usize = 64;

/// The part of a range of addresses that lies in one file.
pub(crate) struct Piece<F> {
    pub(crate) file: F,
    /// Where in the file it begins, in bytes.
    pub(crate) offset: u64,
    /// Which bytes of the range it is.
    pub(crate) range: Range<usize>,
}

impl<F> Piece<F> {
    /// The piece's part of the memory that holds the whole range.
    ///
    /// # Panics
    ///
    /// If the memory is shorter than the range.
    pub(crate) fn memory<M: IoBuf>(&self, bytes: &Arc<M>) -> WriteMemory {
        WriteMemory::slice(Arc::clone(bytes), self.range.clone())
            .expect("a piece lies within the range that it was made of")
    }
}

/// How much space the store's files take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) segments: u64,
    pub(crate) spares: u64,
    pub(crate) bytes: u64,
}

struct Open<F> {
    file: F,
    writable: bool,
    /// What reads of it have to be aligned to.
    unit: Alignment,
}

/// A segment's file to read from.
pub(crate) struct Readable<F> {
    pub(crate) file: F,
    /// What offset and length of every read are to be multiples of: what the file asks for, and at
    /// least a sector. It divides the block.
    pub(crate) unit: Alignment,
}

impl<F: Clone> Open<F> {
    fn readable(&self) -> Readable<F> {
        Readable {
            file: self.file.clone(),
            unit: self.unit,
        }
    }
}

/// The segment files of one store.
pub(crate) struct SegmentSet<B: Backend> {
    backend: Arc<B>,
    dir: PathBuf,
    geometry: Geometry,
    lock_timeout: Duration,
    /// Whether memory that is read into again is dropped from the processors' caches before.
    evicts: bool,
    files: Mutex<BTreeMap<u64, Open<B::File>>>,
    growth: Mutex<Growth>,
    making: Mutex<Option<Making<B::File>>>,
    ahead: Ahead,
    /// Zeroes written in this life, in bytes.
    zeroed_bytes: AtomicU64,
}

impl<B: Backend> SegmentSet<B> {
    /// The segments of a store that somebody else may be writing. Touches nothing.
    pub(crate) fn open_to_read(backend: &Arc<B>, dir: &Path, geometry: Geometry) -> Self {
        Self {
            backend: Arc::clone(backend),
            dir: dir.to_path_buf(),
            geometry,
            lock_timeout: Duration::ZERO,
            evicts: true,
            files: Mutex::new(BTreeMap::new()),
            growth: Mutex::default(),
            making: Mutex::new(None),
            ahead: Ahead::new(),
            zeroed_bytes: AtomicU64::new(0),
        }
    }

    /// The segments of a store whose lock is held, for writing from `from` on: every file there is
    /// from that address on is locked, which waits up to `lock_timeout` for the last writes of a
    /// process that was killed. Left-overs of an interrupted creation are removed.
    pub(crate) fn open_to_write(
        backend: &Arc<B>,
        dir: &Path,
        geometry: Geometry,
        from: Lsn,
        lock_timeout: Duration,
    ) -> Result<Self, SpaceError> {
        let mut set = Self::open_to_read(backend, dir, geometry);
        set.lock_timeout = lock_timeout;
        let first = geometry.segment_of(from.get());
        let growth = set.growth.get_mut();
        growth.covered = first;
        let mut segments = Vec::new();
        for name in backend.list(dir)? {
            match SegmentName::parse(&name) {
                Some(SegmentName::Segment(segment)) if segment >= first => segments.push(segment),
                Some(SegmentName::Spare(spare)) => growth.found(spare),
                Some(SegmentName::Unfinished(_)) => backend.remove(&dir.join(&name))?,
                Some(SegmentName::Segment(_)) | None => {}
            }
        }
        for segment in segments {
            let file = set.open_writable(&set.path(segment), Create::Never)?;
            let open = set.opened(file, true)?;
            set.files.get_mut().insert(segment, open);
        }
        Ok(set)
    }

    /// As [`Options::evict_written`](crate::Options::evict_written) says; by default it does.
    pub(crate) fn evicting(self, evicts: bool) -> Self {
        Self { evicts, ..self }
    }

    /// Whether memory that is read into again is dropped from the processors' caches before.
    pub(crate) fn evicts(&self) -> bool {
        self.evicts
    }

    /// The sizes that the store was created with.
    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The backend that the files are on.
    pub(crate) fn backend(&self) -> &Arc<B> {
        &self.backend
    }

    /// The path of a segment's file.
    pub(crate) fn path(&self, segment: u64) -> PathBuf {
        self.path_of(SegmentName::Segment(segment))
    }

    fn path_of(&self, name: SegmentName) -> PathBuf {
        self.dir.join(name.to_string())
    }

    /// The numbers of the segments that there are now.
    pub(crate) fn existing(&self) -> Result<BTreeSet<u64>, IoError> {
        let names = self.backend.list(&self.dir)?;
        Ok(names
            .iter()
            .filter_map(|name| SegmentName::parse(name)?.segment())
            .collect())
    }

    /// How much space the files take.
    pub(crate) fn usage(&self) -> Result<Usage, IoError> {
        let mut usage = Usage::default();
        for name in self.backend.list(&self.dir)? {
            match SegmentName::parse(&name) {
                Some(SegmentName::Segment(_)) => usage.segments += 1,
                Some(SegmentName::Spare(_)) => usage.spares += 1,
                Some(SegmentName::Unfinished(_)) | None => {}
            }
        }
        usage.bytes = (usage.segments + usage.spares).saturating_mul(self.geometry.segment_bytes());
        Ok(usage)
    }

    /// A segment's file, for reading; `None` if there is none.
    pub(crate) fn file(&self, segment: u64) -> Result<Option<B::File>, IoError> {
        Ok(self.readable(segment)?.map(|readable| readable.file))
    }

    /// A segment's file, and how it may be read; `None` if there is none.
    pub(crate) fn readable(&self, segment: u64) -> Result<Option<Readable<B::File>>, IoError> {
        if let Some(open) = self.files.lock().get(&segment) {
            return Ok(Some(open.readable()));
        }
        let options = FileOptions::read().direct(Direct::Try);
        let file = match self.backend.open(&self.path(segment), &options) {
            Err(IoError::NotFound { .. }) => return Ok(None),
            file => self.opened(file?, false)?,
        };
        let mut files = self.files.lock();
        let read_only = files.iter().filter(|(_, open)| !open.writable);
        if read_only.clone().count() >= READ_HANDLES
            && let Some(&oldest) = read_only.map(|(segment, _)| segment).next()
        {
            files.remove(&oldest);
        }
        // If another thread was faster, both have the same file.
        let open = files.entry(segment).or_insert(file);
        Ok(Some(open.readable()))
    }

    fn opened(&self, file: B::File, writable: bool) -> Result<Open<B::File>, IoError> {
        let unit = self.backend.facts(&file)?.alignment.max(Alignment::SECTOR);
        Ok(Open {
            file,
            writable,
            unit,
        })
    }

    /// Forgets files opened for reading only: another process may have renamed them.
    pub(crate) fn forget_read_handles(&self) {
        self.files.lock().retain(|_, open| open.writable);
    }

    /// Whether direct I/O on an existing segment accepts the store's block.
    pub(crate) fn check_alignment(&self, segment: u64) -> Result<(), SpaceError> {
        match self.file(segment)? {
            Some(file) => self.check_alignment_of(&file, &self.path(segment)),
            None => Ok(()),
        }
    }

    /// The log's end, from where it goes on.
    pub(crate) fn begin(&self, lsn: Lsn) {
        self.ahead.begin(lsn);
    }

    /// How many bytes of zeroes have been written, ahead of the log and into spares.
    pub(crate) fn zeroed_bytes(&self) -> u64 {
        // Relaxed: a counter.
        self.zeroed_bytes.load(Ordering::Relaxed)
    }

    /// Writes zeroes to a file, and counts them.
    fn zero(
        &self,
        zeroes: &Zeroes,
        file: &B::File,
        offset: u64,
        bytes: u64,
    ) -> Result<(), IoError> {
        zeroes.write(&*self.backend, file, offset, bytes)?;
        // Relaxed: a counter.
        self.zeroed_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// A segment's file, if it is open for writing.
    fn writable(&self, segment: u64) -> Option<B::File> {
        let files = self.files.lock();
        let open = files.get(&segment).filter(|open| open.writable);
        open.map(|open| open.file.clone())
    }

    /// Cuts `len` bytes at `lsn` up into the files that hold them, for the log to write there. Every
    /// segment must be there and open for writing.
    pub(crate) fn pieces(&self, lsn: Lsn, len: usize) -> Result<Vec<Piece<B::File>>, IoError> {
        self.ahead.give(lsn.get()..lsn.get() + len as u64);
        let segment_bytes = self.geometry.segment_bytes();
        let files = self.files.lock();
        let mut pieces = Vec::with_capacity(1);
        let mut done = 0;
        while done < len {
            let address = lsn.get() + done as u64;
            let segment = self.geometry.segment_of(address);
            let offset = address % segment_bytes;
            let left = (len - done) as u64;
            #[expect(clippy::cast_possible_truncation, reason = "at most `len - done`")]
            let end = done + left.min(segment_bytes - offset) as usize;
            let open = files.get(&segment).filter(|open| open.writable);
            let file = open
                .map(|open| open.file.clone())
                .ok_or_else(|| IoError::NotWritable {
                    context: Context::new(OperationKind::Write, self.path(segment))
                        .at(offset, left),
                })?;
            pieces.push(Piece {
                file,
                offset,
                range: done..end,
            });
            done = end;
        }
        Ok(pieces)
    }

    /// The files, open for writing, that hold `[from, to)`.
    pub(crate) fn files(&self, from: Lsn, to: Lsn) -> Vec<B::File> {
        let Some(last) = to.get().checked_sub(1).filter(|last| *last >= from.get()) else {
            return Vec::new();
        };
        let segments = self.geometry.segment_of(from.get())..=self.geometry.segment_of(last);
        let files = self.files.lock();
        let open = files.range(segments).filter(|(_, open)| open.writable);
        open.map(|(_, open)| open.file.clone()).collect()
    }

    /// Makes what has been written to `[from, to)` durable. Blocks.
    ///
    /// # Errors
    ///
    /// The first failure; what was written since the last good sync is then in doubt.
    pub(crate) fn sync_range(&self, from: Lsn, to: Lsn) -> Result<(), IoError> {
        for file in self.files(from, to) {
            self.backend.sync_data(&file)?;
        }
        Ok(())
    }

    /// Closes the files that lie below `lsn` as a whole. Nothing may be written there any more; who
    /// reads there opens them again.
    pub(crate) fn close_below(&self, lsn: Lsn) {
        let mut files = self.files.lock();
        let kept = files.split_off(&self.geometry.segment_of(lsn.get()));
        let closed = std::mem::replace(&mut *files, kept);
        drop(files);
        drop(closed);
    }

    fn open_writable(&self, path: &Path, create: Create) -> Result<B::File, SpaceError> {
        let options = FileOptions::read_write().create(create).direct(Direct::Try);
        let file = self.backend.open(path, &options)?;
        self.check_alignment_of(&file, path)?;
        if !lock(&*self.backend, &file, self.lock_timeout)? {
            return Err(SpaceError::Locked {
                path: path.to_path_buf(),
            });
        }
        Ok(file)
    }

    fn check_alignment_of(&self, file: &B::File, path: &Path) -> Result<(), SpaceError> {
        let (needed, block) = (self.backend.facts(file)?.alignment, self.geometry.block());
        if needed > block {
            return Err(SpaceError::Alignment {
                path: path.to_path_buf(),
                needed,
                block,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
