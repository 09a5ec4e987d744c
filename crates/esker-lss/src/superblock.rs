//! The superblock's file: finding it, locking it, reading its two copies, and writing both.
//!
//! Invariants:
//! - An update has reached both copies, each made durable before the next is begun, when
//!   [`SuperblockFile::update`] returns: nobody acts on one that could be lost with one copy.
//! - The copy that can be relied upon is written second: after a crash that has torn one copy, the
//!   crash of the next update tears the same one again, never the last that is intact.
//! - Whoever holds a [`SuperblockFile`] holds the store's lock; it is on the open file description
//!   that the writes use, so it outlives a killed process until its last write has ended.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use esker_buf::{AlignedBuf, Alignment};
use esker_io::{
    Backend, BackendExt, Context, Create, Direct, Durability, FileFacts, FileOptions, IoError,
    OperationKind,
};

use crate::error::OpenError;
use crate::format::superblock::{COPY_BYTES, COPY_OFFSETS, CopyFault, Superblock, VERSION};
use crate::geometry::Geometry;
use crate::segments::SegmentName;

/// The name of the superblock's file.
pub(crate) const FILE_NAME: &str = "superblock";
/// Its name until it is complete.
const NEW_FILE_NAME: &str = "superblock.new";
/// How long to sleep between two looks at a lock.
const LOCK_BEAT: Duration = Duration::from_millis(2);
/// How often a reader looks again when it finds no intact copy: a writer may be at it.
const READ_ATTEMPTS: u32 = 20;

/// What each of the two copies is.
pub(crate) type Copies = [Result<Superblock, CopyFault>; 2];

/// Takes the lock of an open file, waiting up to `timeout` for it; whether it was to be had.
pub(crate) fn lock<B: Backend>(
    backend: &B,
    file: &B::File,
    timeout: Duration,
) -> Result<bool, IoError> {
    let mut left = timeout;
    loop {
        if backend.try_lock(file)? || canary!("lss-lock-not-waited-for") {
            return Ok(true);
        }
        if left.is_zero() {
            return Ok(false);
        }
        let beat = left.min(LOCK_BEAT);
        // Sleeps, and completes what is in flight meanwhile.
        backend.wait_until(&mut || false, Some(beat));
        left -= beat;
    }
}

/// The superblock of a store that is open for writing, and the store's lock.
pub(crate) struct SuperblockFile<B: Backend> {
    backend: Arc<B>,
    file: B::File,
    current: Superblock,
    /// The copy that the next update begins with: the one that is damaged, or older, if one is.
    doubtful: usize,
}

impl<B: Backend> SuperblockFile<B> {
    /// Opens the superblock of an existing store for writing and takes the store's lock, waiting
    /// up to `timeout` for it.
    pub(crate) fn open(backend: &Arc<B>, dir: &Path, timeout: Duration) -> Result<Self, OpenError> {
        let path = dir.join(FILE_NAME);
        let file = open_file(&**backend, dir, &path, FileOptions::read_write())?;
        if !lock(&**backend, &file, timeout)? {
            return Err(OpenError::Locked { path });
        }
        let (current, copies) = load(&**backend, &file, &path)?;
        Ok(Self {
            backend: Arc::clone(backend),
            file,
            current,
            doubtful: doubtful(&copies, &current),
        })
    }

    /// Creates a store in `dir`, with its parents, unless there is one already; then opens it.
    ///
    /// A crash at any point leaves no store or a whole one.
    pub(crate) fn create(
        backend: &Arc<B>,
        dir: &Path,
        geometry: Geometry,
        timeout: Duration,
    ) -> Result<Self, OpenError> {
        match Self::open(backend, dir, timeout) {
            Err(OpenError::NoStore { .. }) => {}
            other => return other,
        }
        // Only now: whoever has made a superblock has synced the directories above it before.
        backend.create_dir_all(dir)?;
        let (path, new_path) = (dir.join(FILE_NAME), dir.join(NEW_FILE_NAME));
        let options = FileOptions::read_write()
            .create(Create::IfMissing)
            .direct(Direct::Try);
        let file = backend.open(&new_path, &options)?;
        if !lock(&**backend, &file, timeout)? {
            return Err(OpenError::Locked { path: new_path });
        }
        // Behind the lock: somebody else may have been faster. What is locked here may be that very
        // superblock by now, under its old name, and in the way of opening it.
        let made = open_file(&**backend, dir, &path, FileOptions::read());
        if !matches!(made, Err(OpenError::NoStore { .. })) {
            drop(file);
            let _left_over = backend.remove(&new_path);
            return Self::open(backend, dir, timeout);
        }
        for copy in 0..COPY_OFFSETS.len() {
            write_copy(&**backend, &file, copy, &Superblock::new(geometry))?;
        }
        backend.rename(&new_path, &path)?;
        backend.sync_dir(dir)?;
        drop(file);
        Self::open(backend, dir, timeout)
    }

    /// What it says.
    pub(crate) fn current(&self) -> &Superblock {
        &self.current
    }

    /// Makes what was read durable: a killed process may have left it in the disk's cache only.
    pub(crate) fn sync(&self) -> Result<(), IoError> {
        self.backend.sync_data(&self.file)
    }

    /// Changes the superblock: both copies are durable when this returns. Blocks.
    ///
    /// After an error either copy may say either; what [`current`](Self::current) says is as it was
    /// before.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut Superblock)) -> Result<(), IoError> {
        let mut next = self.current;
        change(&mut next);
        next.counter = self.current.counter.saturating_add(1);
        debug_assert_eq!(
            Superblock::decode(&next.encode()),
            Ok(next),
            "an update keeps it valid"
        );
        // A second attempt after an error must not look older than the first.
        self.current.counter = next.counter;
        for _ in 0..COPY_OFFSETS.len() - usize::from(canary!("lss-superblock-one-copy")) {
            write_copy(&*self.backend, &self.file, self.doubtful, &next)?;
            self.doubtful = 1 - self.doubtful;
        }
        self.current = next;
        Ok(())
    }
}

/// The superblock of a store that somebody else may be writing. No lock is taken.
pub(crate) struct SuperblockView<B: Backend> {
    backend: Arc<B>,
    file: B::File,
    path: PathBuf,
}

impl<B: Backend> SuperblockView<B> {
    /// Opens the superblock of an existing store for reading.
    pub(crate) fn open(backend: &Arc<B>, dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(FILE_NAME);
        let file = open_file(&**backend, dir, &path, FileOptions::read())?;
        Ok(Self {
            backend: Arc::clone(backend),
            file,
            path,
        })
    }

    /// What it says now. A copy that is being written is read again.
    pub(crate) fn load(&self) -> Result<(Superblock, Copies), OpenError> {
        let mut attempts = 0;
        loop {
            let result = load(&*self.backend, &self.file, &self.path);
            attempts += 1;
            if result.is_ok() || attempts == READ_ATTEMPTS || !self.is_writer_alive()? {
                return result;
            }
            self.backend.wait_until(&mut || false, Some(LOCK_BEAT));
        }
    }

    /// Length, alignment and directness of the superblock's file.
    pub(crate) fn facts(&self) -> Result<FileFacts, IoError> {
        self.backend.facts(&self.file)
    }

    /// The error for a superblock that is not the one it was.
    pub(crate) fn damaged(&self) -> OpenError {
        OpenError::SuperblockDamaged {
            path: self.path.clone(),
        }
    }

    /// Whether somebody has the store open for writing.
    pub(crate) fn is_writer_alive(&self) -> Result<bool, IoError> {
        self.backend.is_locked(&self.file)
    }
}

fn open_file<B: Backend>(
    backend: &B,
    dir: &Path,
    path: &Path,
    options: FileOptions,
) -> Result<B::File, OpenError> {
    let file = match backend.open(path, &options.direct(Direct::Try)) {
        Err(IoError::NotFound { .. }) => {
            let names = match backend.list(dir) {
                Err(IoError::NotFound { .. }) => Vec::new(),
                names => names?,
            };
            let dir = dir.to_path_buf();
            let segments = names
                .iter()
                .any(|name| matches!(SegmentName::parse(name), Some(SegmentName::Segment(_))));
            return Err(if segments {
                OpenError::SuperblockMissing { dir }
            } else {
                OpenError::NoStore { dir }
            });
        }
        file => file?,
    };
    let needed = backend.facts(&file)?.alignment;
    if needed > Alignment::BLOCK {
        let path = path.to_path_buf();
        return Err(OpenError::Alignment {
            path,
            needed,
            block: Alignment::BLOCK,
        });
    }
    Ok(file)
}

fn write_copy<B: Backend>(
    backend: &B,
    file: &B::File,
    copy: usize,
    superblock: &Superblock,
) -> Result<(), IoError> {
    let mut buf = AlignedBuf::zeroed(COPY_BYTES, Alignment::BLOCK).map_err(|_| {
        let context = Context::new(OperationKind::Write, backend.path(file))
            .at(COPY_OFFSETS[copy], COPY_BYTES as u64);
        IoError::from_os(context, std::io::ErrorKind::OutOfMemory.into())
    })?;
    buf.copy_from_slice(&superblock.encode());
    backend.write_at(file, COPY_OFFSETS[copy], buf, Durability::Durable)?;
    Ok(())
}

/// Which of the copies is not the one that `current` was taken from, or either, if both are alike.
fn doubtful(copies: &Copies, current: &Superblock) -> usize {
    usize::from(copies[0] == Ok(*current) && !canary!("lss-superblock-first-copy-first"))
}

fn load<B: Backend>(
    backend: &B,
    file: &B::File,
    path: &Path,
) -> Result<(Superblock, Copies), OpenError> {
    let mut lengths = [0; 2];
    let mut copies: Copies = [Err(CopyFault::Empty); 2];
    for (index, offset) in COPY_OFFSETS.into_iter().enumerate() {
        let buf = AlignedBuf::zeroed(COPY_BYTES, Alignment::BLOCK)?;
        let (len, buf) = backend.read_at(file, offset, buf).map_err(IoError::from)?;
        lengths[index] = len;
        let mut bytes = [0; COPY_BYTES];
        bytes[..len].copy_from_slice(&buf[..len]);
        copies[index] = Superblock::decode(&bytes);
    }
    match pick(&copies) {
        Some(superblock) => Ok((superblock, copies)),
        None => Err(fault(&copies, lengths, path)),
    }
}

/// The newer of the intact copies; `None` if there is none, or they cannot be trusted.
fn pick(copies: &Copies) -> Option<Superblock> {
    match copies {
        // A newer program has written the other copy: it knows better.
        [Err(CopyFault::Version { intact: true, .. }), _]
        | [_, Err(CopyFault::Version { intact: true, .. })] => None,
        [Ok(one), Ok(other)] => {
            // The sizes and the identity never change: one of the two is another store's.
            (one.geometry == other.geometry).then_some(if other.supersedes(one) {
                *other
            } else {
                *one
            })
        }
        [Ok(one), Err(_)] | [Err(_), Ok(one)] => Some(*one),
        [Err(_), Err(_)] => None,
    }
}

fn fault(copies: &Copies, lengths: [usize; 2], path: &Path) -> OpenError {
    let path = path.to_path_buf();
    let version = |intact_only: bool| {
        copies.iter().find_map(|copy| match copy {
            Err(CopyFault::Version { found, intact }) if *intact || !intact_only => Some(*found),
            _ => None,
        })
    };
    let is = |fault| copies.iter().all(|copy| *copy == Err(fault));
    if let Some(found) = version(true) {
        return OpenError::UnknownVersion {
            path,
            found,
            supported: VERSION,
        };
    }
    if lengths[0] < COPY_BYTES && lengths[0] > 0 {
        return OpenError::SuperblockTruncated {
            path,
            len_bytes: lengths[0] as u64,
        };
    }
    if is(CopyFault::Empty) {
        return OpenError::SuperblockEmpty { path };
    }
    let ours = copies.iter().any(|copy| {
        matches!(
            copy,
            Ok(_) | Err(CopyFault::Checksum | CopyFault::Inconsistent)
        )
    });
    match version(false) {
        Some(found) if !ours => OpenError::UnknownVersion {
            path,
            found,
            supported: VERSION,
        },
        None if !ours => OpenError::NotASuperblock { path },
        _ => OpenError::SuperblockDamaged { path },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use esker_io::Blocking;

    use super::*;
    use crate::testing::{LogBuilder, geometry};

    fn open(dir: &Path) -> Result<SuperblockFile<Blocking>, OpenError> {
        SuperblockFile::open(&Arc::new(Blocking::inline()), dir, Duration::ZERO)
    }

    fn view(dir: &Path) -> Result<Superblock, OpenError> {
        let view = SuperblockView::open(&Arc::new(Blocking::inline()), dir)?;
        view.load().map(|(superblock, _)| superblock)
    }

    #[test]
    fn a_store_is_created_once_and_opened_after_that() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("below/that");
        let backend = Arc::new(Blocking::inline());
        let create = || SuperblockFile::create(&backend, &dir, geometry(), Duration::ZERO);
        let mut file = create().expect("created");
        assert!(matches!(create(), Err(OpenError::Locked { .. })));
        file.update(|next| next.epoch = 7).expect("written");
        drop(file);
        let file = create().expect("opened");
        assert_eq!((file.current().epoch, file.current().counter), (7, 1));
        let names: Vec<_> = fs::read_dir(&dir).expect("a directory").collect();
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn a_creation_that_was_interrupted_is_taken_up() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(NEW_FILE_NAME), b"half").expect("written");
        assert!(matches!(open(dir.path()), Err(OpenError::NoStore { .. })));
        let backend = Arc::new(Blocking::inline());
        let file = SuperblockFile::create(&backend, dir.path(), geometry(), Duration::ZERO);
        assert_eq!(file.expect("created").current().epoch, 0);
    }

    #[test]
    fn either_copy_is_enough_and_the_newer_is_taken() {
        let log = LogBuilder::new();
        let (old, mut new) = (log.superblock, log.superblock);
        new.counter += 1;
        for copies in [[&new, &old], [&old, &new]] {
            log.write_superblock_copies(copies);
            assert_eq!(view(log.path()).expect("intact"), new);
            for (copy, offset) in COPY_OFFSETS.into_iter().enumerate() {
                let mut bytes = fs::read(log.superblock_path()).expect("read");
                let at = usize::try_from(offset).expect("small");
                // Torn in the middle.
                bytes[at + 128..at + COPY_BYTES].fill(0);
                fs::write(log.superblock_path(), &bytes).expect("written");
                let left = copies[1 - copy];
                assert_eq!(view(log.path()).expect("one is intact"), *left);
                assert_eq!(open(log.path()).expect("one is intact").current(), left);
                log.write_superblock_copies(copies);
            }
        }
    }

    /// Or else two crashes in a row, each in an update, could tear both.
    /// A program that knows more has begun to use the store.
    #[test]
    fn an_intact_copy_of_another_version_is_not_passed_over() {
        let ours = Ok(LogBuilder::new().superblock);
        let version = |intact| Err(CopyFault::Version { found: 2, intact });
        for copies in [[version(true), ours], [ours, version(true)]] {
            assert_eq!(pick(&copies), None);
            let fault = fault(&copies, [COPY_BYTES; 2], Path::new("here"));
            assert!(matches!(fault, OpenError::UnknownVersion { found: 2, .. }));
        }
        for copies in [[version(false), ours], [ours, version(false)]] {
            assert_eq!(pick(&copies), ours.ok());
        }
    }

    /// All of them find no store, and one makes it.
    #[test]
    fn of_many_who_create_a_store_at_once_one_does() {
        let (threads, backend) = (8, Arc::new(Blocking::inline()));
        for _ in 0..20 {
            let dir = tempfile::tempdir().expect("a directory");
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        let timeout = Duration::from_secs(60);
                        let file =
                            SuperblockFile::create(&backend, dir.path(), geometry(), timeout);
                        let mut file = file.expect("created or opened");
                        file.update(|next| next.epoch += 1).expect("written");
                    });
                }
            });
            assert_eq!(view(dir.path()).expect("intact").epoch, threads);
        }
    }

    #[test]
    fn an_update_begins_with_the_copy_that_is_not_relied_upon() {
        let (old, mut new) = (LogBuilder::new().superblock, LogBuilder::new().superblock);
        new.counter += 1;
        let torn = Err(CopyFault::Checksum);
        for (copies, first) in [
            ([Ok(new), torn], 1),
            ([torn, Ok(new)], 0),
            ([Ok(new), Ok(old)], 1),
            ([Ok(old), Ok(new)], 0),
        ] {
            let current = pick(&copies).expect("one is intact");
            assert_eq!(doubtful(&copies, &current), first, "{copies:?}");
        }
    }

    #[test]
    fn an_update_reaches_both_copies() {
        let log = LogBuilder::new();
        let mut file = open(log.path()).expect("intact");
        file.update(|next| next.epoch = 9).expect("written");
        let bytes = fs::read(log.superblock_path()).expect("read");
        for offset in COPY_OFFSETS {
            let at = usize::try_from(offset).expect("small");
            assert_eq!(bytes[at..at + COPY_BYTES], file.current().encode());
        }
    }

    #[test]
    fn each_fault_has_an_error_of_its_own() {
        let log = LogBuilder::new();
        let whole = fs::read(log.superblock_path()).expect("read");
        let with = |bytes: &[u8]| {
            fs::write(log.superblock_path(), bytes).expect("written");
            let error = view(log.path()).expect_err("no superblock");
            let same = open(log.path()).map(drop).expect_err("no superblock");
            assert_eq!(error.to_string(), same.to_string());
            error
        };
        assert!(matches!(with(&[]), OpenError::SuperblockEmpty { .. }));
        assert!(matches!(
            with(&[0; 80_000]),
            OpenError::SuperblockEmpty { .. }
        ));
        let error = with(&whole[..1000]);
        assert!(matches!(
            error,
            OpenError::SuperblockTruncated {
                len_bytes: 1000,
                ..
            }
        ));
        assert!(matches!(
            with(&[b'x'; 5000]),
            OpenError::NotASuperblock { .. }
        ));
        assert!(matches!(
            with(&[b'x'; 80_000]),
            OpenError::NotASuperblock { .. }
        ));
        let mut damaged = whole.clone();
        for offset in [100, 65536 + 100] {
            damaged[offset] ^= 1;
        }
        assert!(matches!(
            with(&damaged),
            OpenError::SuperblockDamaged { .. }
        ));
        let mut newer = whole.clone();
        for offset in [8, 65536 + 8] {
            newer[offset] = 2;
        }
        assert!(matches!(
            with(&newer),
            OpenError::UnknownVersion { found: 2, .. }
        ));
        // The copies of two stores.
        let mut other = log.superblock;
        let sizes = other.geometry.sizes();
        other.geometry = Geometry::new(other.geometry.store_id() + 1, &sizes).expect("valid");
        log.write_superblock_copies([&log.superblock, &other]);
        assert!(matches!(
            view(log.path()),
            Err(OpenError::SuperblockDamaged { .. })
        ));

        fs::remove_file(log.superblock_path()).expect("removed");
        assert!(matches!(
            view(log.path()),
            Err(OpenError::SuperblockMissing { .. })
        ));
        let empty = tempfile::tempdir().expect("a directory");
        assert!(matches!(view(empty.path()), Err(OpenError::NoStore { .. })));
        assert!(matches!(
            view(&empty.path().join("none")),
            Err(OpenError::NoStore { .. })
        ));
    }
}
