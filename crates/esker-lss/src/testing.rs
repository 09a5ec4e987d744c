//! Stores built by hand, slot by slot, for the tests of everything that reads one.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use esker_io::{Backend, Blocking, Create, Direct, FileOptions};
use tempfile::TempDir;

use crate::Lsn;
use crate::format::record::{self, RecordSeal};
use crate::format::slot::{self, SlotHeader};
use crate::format::superblock::{COPY_OFFSETS, Superblock};
use crate::geometry::{Geometry, Sizes};
use crate::position::Position;
use crate::segments::{SegmentName, SegmentSet};

pub(crate) const BLOCK: u64 = 512;
pub(crate) const SEGMENT: u64 = 64 << 10;
pub(crate) const STORE_ID: u64 = 0x0123_4567_89AB_CDEF;

pub(crate) fn geometry() -> Geometry {
    let sizes = Sizes {
        block_bytes: 512,
        segment_bytes: SEGMENT,
        max_record_bytes: 16 << 10,
        window_slots: 4,
        window_bytes: 32 << 10,
    };
    Geometry::new(STORE_ID, &sizes).expect("valid")
}

/// A temporary directory whose files can be written directly in blocks of [`BLOCK`] bytes: below the
/// system's, or, if that is on a file system such as tmpfs, which wants pages, where files outlive it.
pub(crate) fn directory() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let probe = FileOptions::read_write()
        .create(Create::New)
        .direct(Direct::Try);
    let backend = Blocking::inline();
    let path = dir.path().join("probe");
    let file = backend.open(&path, &probe).expect("a file");
    let needed = backend.facts(&file).expect("facts").alignment;
    backend.remove(&path).expect("removed");
    if needed.bytes() as u64 <= BLOCK {
        return dir;
    }
    TempDir::new_in("/var/tmp").expect("a directory")
}

/// A store in a directory, and the chain state at its end.
pub(crate) struct LogBuilder {
    pub(crate) dir: TempDir,
    pub(crate) superblock: Superblock,
    /// Where the next slot goes.
    pub(crate) at: Position,
    /// What the next slot says was durable.
    pub(crate) durable: Lsn,
    /// The records of all slots added, in order.
    pub(crate) records: Vec<(Lsn, Vec<u8>)>,
    /// Where each slot added begins.
    pub(crate) slots: Vec<Position>,
}

/// What a slot is made of.
pub(crate) enum Part<'p> {
    Data(&'p [u8]),
    /// A void over that many bytes, header included.
    Void(usize),
}

impl LogBuilder {
    /// An empty store in its first life.
    pub(crate) fn new() -> Self {
        let dir = directory();
        let mut superblock = Superblock::new(geometry());
        superblock.epoch = 1;
        superblock.clean_end = None;
        let mut at = Position::START;
        at.epoch = 1;
        let log = Self {
            dir,
            superblock,
            at,
            durable: Lsn::ZERO,
            records: Vec::new(),
            slots: Vec::new(),
        };
        log.write_superblock();
        log.write(0, &[]);
        log
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn segment_path(&self, segment: u64) -> PathBuf {
        self.path().join(SegmentName::Segment(segment).to_string())
    }

    pub(crate) fn superblock_path(&self) -> PathBuf {
        self.path().join("superblock")
    }

    pub(crate) fn write_superblock(&self) {
        self.write_superblock_copies([&self.superblock; 2]);
    }

    pub(crate) fn write_superblock_copies(&self, copies: [&Superblock; 2]) {
        let file = open(&self.superblock_path());
        for (copy, offset) in copies.into_iter().zip(COPY_OFFSETS) {
            file.write_all_at(&copy.encode(), offset).expect("written");
        }
    }

    /// Puts bytes at an address, extending files to whole segments.
    pub(crate) fn write(&self, lsn: u64, bytes: &[u8]) {
        let mut done = 0;
        loop {
            let address = lsn + done as u64;
            let file = open(&self.segment_path(address / SEGMENT));
            if file.metadata().expect("a file").len() < SEGMENT {
                file.set_len(SEGMENT).expect("space");
            }
            let left = SEGMENT - address % SEGMENT;
            let taken = usize::try_from(left)
                .expect("small")
                .min(bytes.len() - done);
            file.write_all_at(&bytes[done..done + taken], address % SEGMENT)
                .expect("written");
            done += taken;
            if done == bytes.len() {
                return;
            }
        }
    }

    /// The bytes at an address.
    pub(crate) fn read(&self, lsn: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            let address = lsn + done as u64;
            let file = fs::File::open(self.segment_path(address / SEGMENT)).expect("a segment");
            let left = usize::try_from(SEGMENT - address % SEGMENT).expect("small");
            let end = len.min(done + left);
            file.read_exact_at(&mut bytes[done..end], address % SEGMENT)
                .expect("whole");
            done = end;
        }
        bytes
    }

    /// Composes the next slot, without writing it.
    pub(crate) fn compose(&self, parts: &[Part<'_>]) -> (Vec<u8>, Vec<(Lsn, Vec<u8>)>) {
        let seal = RecordSeal::new(STORE_ID);
        let mut bytes = vec![0; slot::HEADER_BYTES];
        let mut records = Vec::new();
        for part in parts {
            let lsn = Lsn::new(self.at.lsn.get() + bytes.len() as u64);
            let start = bytes.len();
            match part {
                Part::Data(payload) => {
                    let len = record::encoded_len(payload.len()).expect("short");
                    bytes.resize(start + len, 0);
                    record::write_into(&mut bytes[start..], &seal, lsn, payload);
                    records.push((lsn, payload.to_vec()));
                }
                Part::Void(len) => {
                    bytes.resize(start + len, 0xEE);
                    record::write_void(&mut bytes[start..], &seal, lsn);
                }
            }
        }
        let header = SlotHeader {
            extent: false,
            len: bytes.len(),
            epoch: self.superblock.epoch,
            store_id: STORE_ID,
            seq: self.at.seq,
            base: self.at.lsn,
            durable: self.durable,
            epoch_start: self.superblock.epoch_start.lsn,
        };
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        header.seal(&mut bytes);
        (bytes, records)
    }

    /// Adds a slot with these parts.
    pub(crate) fn slot_of(&mut self, parts: &[Part<'_>]) -> &mut Self {
        let (bytes, records) = self.compose(parts);
        self.write(self.at.lsn.get(), &bytes);
        self.records.extend(records);
        self.slots.push(self.at);
        self.at = Position {
            lsn: Lsn::new(self.at.lsn.get() + bytes.len() as u64),
            seq: self.at.seq + 1,
            epoch: self.superblock.epoch,
            epoch_start: self.superblock.epoch_start.lsn,
        };
        self
    }

    /// Adds a slot with one record of that many bytes, which says that everything `lag` slots
    /// before it was durable.
    pub(crate) fn slot(&mut self, payload_len: usize, lag: usize) -> &mut Self {
        self.durable = match self.slots.len().checked_sub(lag) {
            None => Lsn::ZERO,
            Some(index) => self.slots.get(index).map_or(self.at.lsn, |at| at.lsn),
        };
        let fill = u8::try_from(self.at.seq % 200 + 1).expect("small");
        self.slot_of(&[Part::Data(&vec![fill; payload_len])])
    }

    /// Begins another life at the end, as opening does.
    pub(crate) fn reopen(&mut self) -> &mut Self {
        self.superblock.epoch += 1;
        self.superblock.epoch_start = self.at;
        self.superblock.checkpoint = self.at;
        self.superblock.clean_end = None;
        self.superblock.counter += 1;
        self.write_superblock();
        self
    }

    /// Closes the store cleanly.
    pub(crate) fn close(&mut self) -> &mut Self {
        self.superblock.clean_end = Some(self.at);
        self.superblock.checkpoint = self.at;
        self.superblock.counter += 1;
        self.write_superblock();
        self
    }

    /// Recovers from the very beginning.
    pub(crate) fn checkpoint_at(&mut self, position: Position) -> &mut Self {
        self.superblock.checkpoint = position;
        self.write_superblock();
        self
    }

    pub(crate) fn segments(&self) -> Arc<SegmentSet<Blocking>> {
        let backend = Arc::new(Blocking::inline());
        Arc::new(SegmentSet::open_to_read(
            &backend,
            self.path(),
            self.superblock.geometry,
        ))
    }

    /// Flips every bit of the byte at an address.
    pub(crate) fn flip(&self, lsn: u64) {
        let byte = self.read(lsn, 1)[0];
        self.write(lsn, &[!byte]);
    }
}

fn open(path: &Path) -> fs::File {
    fs::File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .expect("opened")
}
