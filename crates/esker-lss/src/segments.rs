//! [`SegmentSet`]: the log's address space laid over files of one fixed size.
//!
//! Invariants:
//! - Segment `k` is the file `k.seg` (16 hexadecimal digits) and covers `[k·S, (k+1)·S)`.
//! - A file gets that name only when all its space is allocated and its length is durable.
//! - A file that is open for writing is locked through the description that its writes use.
//! - What a recycled file holds is left as it is: no slot in it is at the address that it names.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use esker_buf::{AlignedBuf, Alignment, HugePages, IoBuf};
use esker_io::{
    Allocated, Backend, BackendExt, Context, Create, Direct, Durability, FileOptions, IoError,
    OperationKind, WriteMemory,
};

use crate::Lsn;
use crate::error::SpaceError;
use crate::geometry::Geometry;
use crate::superblock::lock;
use crate::sync::Mutex;

const SEGMENT_SUFFIX: &str = ".seg";
const SPARE_SUFFIX: &str = ".spare";
const NEW_SUFFIX: &str = ".new-seg";
/// How many files that are only read are kept open.
const READ_HANDLES: usize = 64;
/// How much is written at a time when a spare is filled with zeroes.
const PREWRITE_BYTES: usize = 1 << 20;

/// The number of the segment with this file name.
pub(crate) fn parse_segment_name(name: &OsStr) -> Option<u64> {
    parse_name(name, SEGMENT_SUFFIX)
}

/// The name of a segment's file.
pub(crate) fn segment_name(segment: u64) -> String {
    format!("{segment:016x}{SEGMENT_SUFFIX}")
}

fn parse_name(name: &OsStr, suffix: &str) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(suffix)?;
    let canonical = digits.len() == 16
        && digits
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    canonical.then(|| u64::from_str_radix(digits, 16).ok())?
}

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
}

struct Growth {
    /// The first segment that is not known to be there with all its space.
    covered: u64,
    /// The paths of files of a segment's length that the log has not reached.
    spares: Vec<PathBuf>,
    /// The number for the name of the next file that is made.
    next_spare: u64,
}

/// The segment files of one store.
pub(crate) struct SegmentSet<B: Backend> {
    backend: Arc<B>,
    dir: PathBuf,
    geometry: Geometry,
    lock_timeout: Duration,
    files: Mutex<BTreeMap<u64, Open<B::File>>>,
    growth: Mutex<Growth>,
}

impl<B: Backend> SegmentSet<B> {
    /// The segments of a store that somebody else may be writing. Touches nothing.
    pub(crate) fn open_to_read(backend: &Arc<B>, dir: &Path, geometry: Geometry) -> Self {
        Self {
            backend: Arc::clone(backend),
            dir: dir.to_path_buf(),
            geometry,
            lock_timeout: Duration::ZERO,
            files: Mutex::new(BTreeMap::new()),
            growth: Mutex::new(Growth {
                covered: 0,
                spares: Vec::new(),
                next_spare: 0,
            }),
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
            if let Some(number) = parse_name(&name, SPARE_SUFFIX) {
                growth.next_spare = growth.next_spare.max(number.saturating_add(1));
                growth.spares.push(dir.join(&name));
            } else if parse_name(&name, NEW_SUFFIX).is_some() {
                backend.remove(&dir.join(&name))?;
            } else {
                segments.extend(parse_segment_name(&name).filter(|segment| *segment >= first));
            }
        }
        for segment in segments {
            let file = set.open_writable(&set.path(segment), Create::Never)?;
            set.files.get_mut().insert(
                segment,
                Open {
                    file,
                    writable: true,
                },
            );
        }
        Ok(set)
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
        self.dir.join(segment_name(segment))
    }

    /// The numbers of the segments that there are now.
    pub(crate) fn existing(&self) -> Result<BTreeSet<u64>, IoError> {
        let names = self.backend.list(&self.dir)?;
        Ok(names
            .iter()
            .filter_map(|name| parse_segment_name(name))
            .collect())
    }

    /// How much space the files take.
    pub(crate) fn usage(&self) -> Result<Usage, IoError> {
        let mut usage = Usage::default();
        for name in self.backend.list(&self.dir)? {
            if parse_segment_name(&name).is_some() {
                usage.segments += 1;
            } else if parse_name(&name, SPARE_SUFFIX).is_some() {
                usage.spares += 1;
            }
        }
        usage.bytes = (usage.segments + usage.spares).saturating_mul(self.geometry.segment_bytes());
        Ok(usage)
    }

    /// A segment's file, for reading; `None` if there is none.
    pub(crate) fn file(&self, segment: u64) -> Result<Option<B::File>, IoError> {
        if let Some(open) = self.files.lock().get(&segment) {
            return Ok(Some(open.file.clone()));
        }
        let options = FileOptions::read().direct(Direct::Try);
        let file = match self.backend.open(&self.path(segment), &options) {
            Err(IoError::NotFound { .. }) => return Ok(None),
            file => file?,
        };
        let mut files = self.files.lock();
        let read_only = files.iter().filter(|(_, open)| !open.writable);
        if read_only.clone().count() >= READ_HANDLES
            && let Some(&oldest) = read_only.map(|(segment, _)| segment).next()
        {
            files.remove(&oldest);
        }
        // If another thread was faster, both have the same file.
        let open = files.entry(segment).or_insert(Open {
            file,
            writable: false,
        });
        Ok(Some(open.file.clone()))
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

    /// Cuts `len` bytes at `lsn` up into the files that hold them. Every segment must be there and
    /// open for writing.
    pub(crate) fn pieces(&self, lsn: Lsn, len: usize) -> Result<Vec<Piece<B::File>>, IoError> {
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

    /// Makes sure that there is space for every address below `end`, and returns the address up to
    /// which there is. Takes spares where there are some, else creates files. Blocks.
    ///
    /// # Errors
    ///
    /// [`SpaceError::NoSpace`] changes nothing: what there was space for there still is.
    pub(crate) fn ensure(&self, end: Lsn) -> Result<Lsn, SpaceError> {
        if end > Lsn::LIMIT {
            return Err(SpaceError::LogFull);
        }
        let segment_bytes = self.geometry.segment_bytes();
        let wanted = end.get().div_ceil(segment_bytes);
        let mut growth = self.growth.lock();
        while growth.covered < wanted {
            self.add(growth.covered, &mut growth)?;
            growth.covered += 1;
        }
        Ok(Lsn::new(growth.covered * segment_bytes))
    }

    /// How many spares there are.
    pub(crate) fn spares(&self) -> usize {
        self.growth.lock().spares.len()
    }

    /// Makes a file that [`ensure`](Self::ensure) can take without waiting for its space, written
    /// with zeroes where the file system has only reserved it. Blocks for long, but nobody else.
    ///
    /// `keep_going` is asked now and then; `false` undoes what was begun, and is the result.
    ///
    /// # Errors
    ///
    /// [`SpaceError::NoSpace`] leaves nothing behind.
    pub(crate) fn prepare_spare(
        &self,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<bool, SpaceError> {
        let number = self.take_spare_number();
        let new_path = self.dir.join(format!("{number:016x}{NEW_SUFFIX}"));
        if !self.make_file(&new_path, &mut |file| self.prewrite(file, keep_going))? {
            return Ok(false);
        }
        let path = self.spare_path(number);
        self.backend.rename(&new_path, &path)?;
        self.backend.sync_dir(&self.dir)?;
        self.growth.lock().spares.push(path);
        Ok(true)
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

    /// Frees the segments that lie below `lsn` as a whole, which no superblock names any more: up
    /// to `keep_spares` of them stay as spares, the others are removed. How many were freed.
    ///
    /// # Errors
    ///
    /// What the file system says; a segment that is still there is freed by the next call.
    pub(crate) fn remove_below(&self, lsn: Lsn, keep_spares: usize) -> Result<u64, SpaceError> {
        let end = self.geometry.segment_of(lsn.get());
        let mut freed = 0;
        for segment in self.existing()?.range(..end) {
            let path = self.path(*segment);
            let open = self.files.lock().remove(segment);
            if self.spares() < keep_spares && self.is_whole(&path, open.as_ref())? {
                let spare = self.spare_path(self.take_spare_number());
                self.backend.rename(&path, &spare)?;
                self.growth.lock().spares.push(spare);
            } else {
                self.backend.remove(&path)?;
            }
            freed += 1;
        }
        if freed > 0 {
            self.backend.sync_dir(&self.dir)?;
        }
        Ok(freed)
    }

    fn add(&self, segment: u64, growth: &mut Growth) -> Result<(), SpaceError> {
        let open = self
            .files
            .lock()
            .get(&segment)
            .filter(|open| open.writable)
            .map(|open| open.file.clone());
        if let Some(file) = open {
            return self.complete(&file);
        }
        let path = self.path(segment);
        if !self.take_spare(growth, &path)? {
            let number = growth.next_spare;
            growth.next_spare = number.saturating_add(1);
            let new_path = self.dir.join(format!("{number:016x}{NEW_SUFFIX}"));
            self.make_file(&new_path, &mut |_| Ok(true))?;
            self.backend.rename(&new_path, &path)?;
        }
        if !cfg!(esker_canary = "lss-segment-name-unsynced") {
            self.backend.sync_dir(&self.dir)?;
        }
        // Under its new name, for errors to name. The lock may have to wait for a read of the
        // segment that it was.
        let file = self.open_writable(&path, Create::Never)?;
        self.files.lock().insert(
            segment,
            Open {
                file,
                writable: true,
            },
        );
        Ok(())
    }

    /// Gives a file that is too short its full length.
    fn complete(&self, file: &B::File) -> Result<(), SpaceError> {
        let len = self.backend.facts(file)?.len_bytes;
        let segment_bytes = self.geometry.segment_bytes();
        if len < segment_bytes {
            let from = self.geometry.block().floor(len);
            self.backend.allocate(file, from, segment_bytes - from)?;
            self.backend.sync_data(file)?;
        }
        Ok(())
    }

    /// Gives a spare the name `path`; whether there was one.
    fn take_spare(&self, growth: &mut Growth, path: &Path) -> Result<bool, SpaceError> {
        while let Some(spare) = growth.spares.pop() {
            let found = self.backend.open(&spare, &FileOptions::read())?;
            let whole = self.backend.facts(&found)?.len_bytes == self.geometry.segment_bytes();
            if whole {
                self.backend.rename(&spare, path)?;
                return Ok(true);
            }
            // Not one of ours, or not any more.
            self.backend.remove(&spare)?;
        }
        Ok(false)
    }

    /// Creates a file of a segment's length under a preliminary name, with all its space, durable;
    /// removes it again if that fails or `fill` says no,
    /// which is the result.
    fn make_file(
        &self,
        path: &Path,
        fill: &mut dyn FnMut(&B::File) -> Result<bool, SpaceError>,
    ) -> Result<bool, SpaceError> {
        let file = self.open_writable(path, Create::IfMissing)?;
        let made = self.give_space(&file, fill);
        if !matches!(made, Ok(true)) {
            drop(file);
            self.backend.remove(path)?;
        }
        made
    }

    fn give_space(
        &self,
        file: &B::File,
        fill: &mut dyn FnMut(&B::File) -> Result<bool, SpaceError>,
    ) -> Result<bool, SpaceError> {
        let allocated = self
            .backend
            .allocate(file, 0, self.geometry.segment_bytes())?;
        if allocated == Allocated::Reserved && !fill(file)? {
            return Ok(false);
        }
        self.backend.sync_data(file)?;
        Ok(true)
    }

    /// Writes zeroes to a whole file; whether it was not interrupted.
    fn prewrite(
        &self,
        file: &B::File,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<bool, SpaceError> {
        let segment_bytes = self.geometry.segment_bytes();
        #[expect(clippy::cast_possible_truncation, reason = "at most PREWRITE_BYTES")]
        let chunk = segment_bytes.min(PREWRITE_BYTES as u64) as usize;
        let alignment = self.geometry.block().max(Alignment::BLOCK);
        let mut buf = AlignedBuf::zeroed_on(chunk, alignment, HugePages::Never)?;
        let mut offset = 0;
        // Both are powers of two, so the chunks end where the file does.
        while offset < segment_bytes {
            if !keep_going() {
                return Ok(false);
            }
            buf = self
                .backend
                .write_at(file, offset, buf, Durability::Written)
                .map_err(IoError::from)?;
            offset += chunk as u64;
        }
        Ok(true)
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

    fn is_whole(&self, path: &Path, open: Option<&Open<B::File>>) -> Result<bool, SpaceError> {
        let file = match open {
            Some(open) => open.file.clone(),
            None => self.backend.open(path, &FileOptions::read())?,
        };
        Ok(self.backend.facts(&file)?.len_bytes == self.geometry.segment_bytes())
    }

    fn take_spare_number(&self) -> u64 {
        let mut growth = self.growth.lock();
        let number = growth.next_spare;
        growth.next_spare = number.saturating_add(1);
        number
    }

    fn spare_path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:016x}{SPARE_SUFFIX}"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use esker_io::Blocking;

    use super::*;
    use crate::testing::{SEGMENT, geometry};

    fn writer(dir: &Path, from: u64) -> Result<SegmentSet<Blocking>, SpaceError> {
        let backend = Arc::new(Blocking::new());
        SegmentSet::open_to_write(&backend, dir, geometry(), Lsn::new(from), Duration::ZERO)
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("a directory")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("text")
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn only_canonical_names_are_segments() {
        for segment in [0, 1, 0xabc, u64::MAX] {
            assert_eq!(
                parse_segment_name(OsStr::new(&segment_name(segment))),
                Some(segment)
            );
        }
        for name in [
            "1.seg",
            "000000000000000A.seg",
            "+000000000000001.seg",
            "superblock",
            ".seg",
        ] {
            assert_eq!(parse_segment_name(OsStr::new(name)), None, "{name}");
        }
    }

    #[test]
    fn ensured_space_is_there_in_whole_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let set = writer(dir.path(), 0).expect("opened");
        assert_eq!(set.ensure(Lsn::new(0)).expect("space"), Lsn::ZERO);
        assert_eq!(set.ensure(Lsn::new(1)).expect("space"), Lsn::new(SEGMENT));
        assert_eq!(
            set.ensure(Lsn::new(2 * SEGMENT + 1)).expect("space"),
            Lsn::new(3 * SEGMENT)
        );
        assert_eq!(
            names(dir.path()),
            (0..3).map(segment_name).collect::<Vec<_>>()
        );
        for segment in 0..3 {
            assert_eq!(
                fs::metadata(set.path(segment)).expect("a file").len(),
                SEGMENT
            );
        }
        assert!(matches!(
            set.ensure(Lsn::new(u64::MAX)),
            Err(SpaceError::LogFull)
        ));
        assert_eq!(set.usage().expect("listed").bytes, 3 * SEGMENT);
    }

    #[test]
    fn a_range_is_cut_where_the_files_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let set = writer(dir.path(), 0).expect("opened");
        set.ensure(Lsn::new(3 * SEGMENT)).expect("space");
        let len = usize::try_from(SEGMENT).expect("small") + 1024;
        let pieces = set.pieces(Lsn::new(SEGMENT - 512), len).expect("all there");
        let cuts: Vec<_> = pieces
            .iter()
            .map(|piece| (piece.offset, piece.range.clone()))
            .collect();
        let second = 512 + usize::try_from(SEGMENT).expect("small");
        assert_eq!(
            cuts,
            [(SEGMENT - 512, 0..512), (0, 512..second), (0, second..len)]
        );
        assert!(set.pieces(Lsn::new(3 * SEGMENT - 512), 1024).is_err());
        assert_eq!(set.files(Lsn::new(0), Lsn::new(SEGMENT)).len(), 1);
        assert_eq!(set.files(Lsn::new(0), Lsn::new(SEGMENT + 1)).len(), 2);
        assert!(set.files(Lsn::new(5), Lsn::new(5)).is_empty());
        set.sync_range(Lsn::new(0), Lsn::new(3 * SEGMENT))
            .expect("synced");
    }

    #[test]
    fn trimmed_segments_are_used_again_or_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let set = writer(dir.path(), 0).expect("opened");
        set.ensure(Lsn::new(5 * SEGMENT)).expect("space");
        assert_eq!(
            set.remove_below(Lsn::new(4 * SEGMENT - 1), 2)
                .expect("removed"),
            3
        );
        assert_eq!(set.spares(), 2);
        assert_eq!(
            set.existing()
                .expect("listed")
                .into_iter()
                .collect::<Vec<_>>(),
            [3, 4]
        );
        set.ensure(Lsn::new(7 * SEGMENT)).expect("space");
        assert_eq!(set.spares(), 0);
        assert_eq!(
            names(dir.path()),
            (3..7).map(segment_name).collect::<Vec<_>>()
        );
    }

    #[test]
    fn spares_survive_reopening_and_left_overs_do_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let set = writer(dir.path(), 0).expect("opened");
        assert!(set.prepare_spare(&mut || true).expect("made"));
        assert!(!set.prepare_spare(&mut || false).unwrap_or(true) || set.spares() == 2);
        drop(set);
        fs::write(dir.path().join(format!("{:016x}{NEW_SUFFIX}", 77)), b"half").expect("written");
        let short = dir.path().join(format!("{:016x}{SPARE_SUFFIX}", 99));
        fs::write(&short, b"short").expect("written");
        let set = writer(dir.path(), 0).expect("opened");
        let spares = set.spares();
        assert!(spares >= 2);
        set.ensure(Lsn::new(3 * SEGMENT)).expect("space");
        assert_eq!(
            names(dir.path()),
            (0..3).map(segment_name).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_segment_that_is_too_short_gets_its_space_back() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(segment_name(1)), vec![7; 1000]).expect("written");
        let set = writer(dir.path(), SEGMENT).expect("opened");
        set.ensure(Lsn::new(2 * SEGMENT)).expect("space");
        let bytes = fs::read(set.path(1)).expect("a segment");
        assert_eq!(bytes.len() as u64, SEGMENT);
        assert!(bytes[..512].iter().all(|&byte| byte == 7));
    }

    #[test]
    fn a_second_writer_finds_the_segments_locked() {
        let dir = tempfile::tempdir().expect("a directory");
        let set = writer(dir.path(), 0).expect("opened");
        set.ensure(Lsn::new(1)).expect("space");
        assert!(matches!(
            writer(dir.path(), 0),
            Err(SpaceError::Locked { .. })
        ));
        drop(set);
        writer(dir.path(), 0).expect("free again");
    }
}
