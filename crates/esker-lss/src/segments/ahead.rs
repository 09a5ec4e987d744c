//! Zeroes ahead of the log, in its own files. Where it is written fast, it takes segments whose space is
//! only reserved; when it has calmed down, what is left of them is written before it gets there.
//!
//! Invariants:
//! - Z4. Zeroes are written only where the file has a hole, and past every place that the log has been given
//!   before: they change nothing that anybody could read. So it does not matter which of them a crash
//!   leaves, nor whether a write of them that failed took effect.
//! - Z5. The log is given no place in which zeroes are being written before that write has ended.

use std::ops::Range;

use esker_io::{Backend, IoError};

use super::SegmentSet;
use super::zeroes::{Pace, Zeroes};
use crate::Lsn;
use crate::sync::Mutex;

/// What keeps the log and the zeroes apart. `work` is locked before `front`, or not with it.
pub(super) struct Ahead {
    front: Mutex<Front>,
    /// Held while zeroes are being written.
    work: Mutex<Work>,
}

struct Front {
    /// Where what the log has been given a place for ends.
    reached: u64,
    /// Where zeroes are being written now.
    zeroing: Range<u64>,
}

#[derive(Default)]
struct Work {
    /// Below this there is nothing to write, except where the log has been since.
    looked_at: u64,
    zeroes: Option<Zeroes>,
}

impl Ahead {
    /// Nothing is written before [`begin`](Self::begin).
    pub(super) fn new() -> Self {
        Self {
            front: Mutex::new(Front {
                reached: u64::MAX,
                zeroing: 0..0,
            }),
            work: Mutex::default(),
        }
    }

    /// The log goes on from here.
    pub(super) fn begin(&self, lsn: Lsn) {
        self.front.lock().reached = lsn.get();
    }

    /// The log is given the place `range`. Waits for zeroes that are being written there.
    pub(super) fn give(&self, range: Range<u64>) {
        let meets = {
            let mut front = self.front.lock();
            front.reached = front.reached.max(range.end);
            front.zeroing.start < range.end && range.start < front.zeroing.end
        };
        if meets && !canary!("lss-zeroes-meet-the-log") {
            // Whoever writes zeroes next finds what has been reached.
            drop(self.work.lock());
        }
    }

    fn reached(&self) -> u64 {
        self.front.lock().reached
    }

    /// Whether `range` may be written, and is from now on.
    fn claim(&self, range: &Range<u64>) -> bool {
        let mut front = self.front.lock();
        let is_ahead = front.reached <= range.start;
        if is_ahead {
            front.zeroing = range.clone();
        }
        is_ahead
    }

    fn release(&self) {
        self.front.lock().zeroing = 0..0;
    }
}

impl<B: Backend> SegmentSet<B> {
    /// Writes zeroes into the first hole in the log's files that lies `distance` bytes or more past what
    /// the log has been given: one write, of what `pace` says, a smaller one near the log. How much,
    /// which is nothing if the log was faster, or `None` if there is no hole. Blocks.
    ///
    /// # Errors
    ///
    /// What the file system says. Nothing is tried again at the same place.
    pub(crate) fn zero_ahead(&self, distance: u64, pace: Pace) -> Result<Option<u64>, IoError> {
        let Self {
            backend, geometry, ..
        } = self;
        let segment_bytes = geometry.segment_bytes();
        let mut work = self.ahead.work.lock();
        let reached = self.ahead.reached();
        loop {
            let from = reached.saturating_add(distance).max(work.looked_at);
            let segment = geometry.segment_of(from);
            let Some(file) = self.writable(segment) else {
                // There is no hurry to have the memory back.
                work.zeroes = None;
                return Ok(None);
            };
            let start = segment * segment_bytes;
            let Some(hole) = backend.first_hole(&file, from - start)? else {
                work.looked_at = start + segment_bytes;
                continue;
            };
            // Whole blocks of it; what is not a block is not worth a write.
            let block = geometry.block();
            let offset = block.ceil(hole.start).unwrap_or(hole.end);
            let end = block.floor(hole.end.min(segment_bytes));
            if offset >= end {
                work.looked_at = start + hole.end;
                continue;
            }
            let is_near = start + offset - reached < Pace::Swift.bytes(geometry);
            let pace = if is_near { Pace::Gentle } else { pace };
            let bytes = pace.bytes(geometry).min(end - offset);
            let zeroes = match work.zeroes.take() {
                Some(zeroes) => zeroes,
                None => match Zeroes::new(geometry) {
                    Ok(zeroes) => zeroes,
                    // The log gets there all the same.
                    Err(_) => return Ok(None),
                },
            };
            let range = start + offset..start + offset + bytes;
            let written = self.ahead.claim(&range).then(|| {
                let written = self.zero(&zeroes, &file, offset, bytes);
                self.ahead.release();
                work.looked_at = range.end;
                written
            });
            work.zeroes = Some(zeroes);
            return written.map_or(Ok(Some(0)), |written| written.map(|()| Some(bytes)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

    use esker_io::Blocking;

    use super::*;
    use crate::geometry::{Geometry, Sizes};
    use crate::segments::names::SegmentName;

    /// So long that a write of zeroes is several blocks.
    const SEGMENT: u64 = 1 << 20;

    fn geometry() -> Geometry {
        let sizes = Sizes {
            block_bytes: 4096,
            segment_bytes: SEGMENT,
            max_record_bytes: 64 << 10,
            window_slots: 8,
            window_bytes: 2 << 20,
        };
        Geometry::new(1, &sizes).expect("valid")
    }

    fn path(dir: &Path, segment: u64) -> std::path::PathBuf {
        dir.join(SegmentName::Segment(segment).to_string())
    }

    /// A log of two segments that are holes from end to end but for ones at the front.
    fn with_holes(dir: &Path, ones: u64) -> SegmentSet<Blocking> {
        for segment in 0..2 {
            let file = File::create(path(dir, segment)).expect("created");
            file.set_len(SEGMENT).expect("extended");
        }
        let bytes = vec![1; usize::try_from(ones).expect("small")];
        let file = File::options().write(true).open(path(dir, 0));
        let file = file.expect("opened");
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).expect("written");
        let backend = Arc::new(Blocking::inline());
        SegmentSet::open_to_write(&backend, dir, geometry(), Lsn::ZERO, Duration::ZERO)
            .expect("opened")
    }

    fn first_hole(set: &SegmentSet<Blocking>, segment: u64, from: u64) -> Option<u64> {
        let file = set.writable(segment).expect("open");
        let hole = set.backend().first_hole(&file, from).expect("told");
        hole.map(|hole| hole.start)
    }

    fn fill(set: &SegmentSet<Blocking>, distance: u64, pace: Pace) -> u64 {
        let (mut bytes, mut writes) = (0, 0);
        while let Some(more) = set.zero_ahead(distance, pace).expect("written") {
            bytes += more;
            writes += 1;
            assert!(writes <= 2 * SEGMENT / 4096, "it comes to an end");
        }
        bytes
    }

    #[test]
    fn nothing_is_written_before_it_is_known_where_the_log_goes_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let set = with_holes(dir.path(), 0);
        assert_eq!(fill(&set, 0, Pace::Swift), 0);
    }

    #[test]
    fn holes_ahead_of_the_log_are_filled_and_what_is_there_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let set = with_holes(dir.path(), 8192);
        // What an earlier life left there, and has dropped.
        let left = File::options().write(true).open(path(dir.path(), 0));
        std::os::unix::fs::FileExt::write_all_at(&left.expect("opened"), &[2; 4096], 20_480)
            .expect("written");
        set.begin(Lsn::new(4096));
        // What the log has been given and has not written yet is its own.
        set.pieces(Lsn::new(4096), 8192).expect("there");
        assert_eq!(first_hole(&set, 0, 0), Some(8192));
        assert_eq!(fill(&set, 4096, Pace::Gentle), 2 * SEGMENT - 16_384 - 4096);
        assert_eq!(first_hole(&set, 0, 0), Some(8192));
        assert_eq!(first_hole(&set, 0, 16_384), None);
        assert_eq!(first_hole(&set, 1, 0), None);
        let bytes = fs::read(path(dir.path(), 0)).expect("read");
        let is_all = |range: Range<usize>, byte| bytes[range].iter().all(|&found| found == byte);
        assert!(is_all(0..8192, 1) && is_all(8192..20_480, 0));
        assert!(is_all(20_480..24_576, 2) && is_all(24_576..bytes.len(), 0));
    }

    #[test]
    fn the_log_takes_what_zeroes_were_meant_for() {
        let ahead = Ahead::new();
        ahead.begin(Lsn::ZERO);
        assert!(ahead.claim(&(4096..8192)));
        ahead.release();
        ahead.give(0..4096);
        assert!(ahead.claim(&(4096..8192)));
        ahead.release();
        ahead.give(4096..4608);
        assert!(!ahead.claim(&(4096..8192)), "the log was faster");
        // What it is given later, further in front, takes nothing back.
        ahead.give(0..512);
        assert!(!ahead.claim(&(4096..8192)));
        assert!(ahead.claim(&(8192..16_384)));
    }

    #[test]
    fn the_log_waits_for_zeroes_that_are_being_written_where_it_goes() {
        let ahead = Ahead::new();
        ahead.begin(Lsn::ZERO);
        let work = ahead.work.lock();
        assert!(ahead.claim(&(8192..16_384)));
        // Neither of these meets them.
        ahead.give(0..8192);
        ahead.give(16_384..20_480);
        thread::scope(|scope| {
            let (given, log) = mpsc::channel();
            let ahead = &ahead;
            scope.spawn(move || {
                ahead.give(16_000..17_000);
                given.send(()).expect("somebody waits");
            });
            let early = log.recv_timeout(Duration::from_millis(100));
            ahead.release();
            drop(work);
            assert!(early.is_err(), "it did not wait");
            log.recv_timeout(Duration::from_secs(60))
                .expect("it goes on");
        });
    }
}
