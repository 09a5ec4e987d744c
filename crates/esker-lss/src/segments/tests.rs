use std::fs;

use esker_io::Blocking;

use super::*;
use crate::testing::{SEGMENT, geometry};

/// Nobody hears of the syncs but who asks for them.
struct Unwatched;

impl Syncs for Unwatched {
    fn watch(&self, sync: &mut dyn FnMut() -> Result<(), IoError>) -> Result<(), IoError> {
        sync()
    }
}

fn writer(dir: &Path, from: u64) -> Result<SegmentSet<Blocking>, SpaceError> {
    let backend = Arc::new(Blocking::inline());
    SegmentSet::open_to_write(&backend, dir, geometry(), Lsn::new(from), Duration::ZERO)
}

fn segment_name(segment: u64) -> String {
    SegmentName::Segment(segment).to_string()
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
fn ensured_space_is_there_in_whole_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let set = writer(dir.path(), 0).expect("opened");
    assert_eq!(
        set.ensure(Lsn::new(0), &Unwatched).expect("space"),
        Lsn::ZERO
    );
    assert_eq!(
        set.ensure(Lsn::new(1), &Unwatched).expect("space"),
        Lsn::new(SEGMENT)
    );
    assert_eq!(
        set.ensure(Lsn::new(2 * SEGMENT + 1), &Unwatched)
            .expect("space"),
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
        set.ensure(Lsn::new(u64::MAX), &Unwatched),
        Err(SpaceError::LogFull)
    ));
    assert_eq!(set.usage().expect("listed").bytes, 3 * SEGMENT);
}

#[test]
fn a_range_is_cut_where_the_files_are() {
    let dir = tempfile::tempdir().expect("a directory");
    let set = writer(dir.path(), 0).expect("opened");
    set.ensure(Lsn::new(3 * SEGMENT), &Unwatched)
        .expect("space");
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
    set.ensure(Lsn::new(5 * SEGMENT), &Unwatched)
        .expect("space");
    assert_eq!(
        set.remove_below(Lsn::new(4 * SEGMENT - 1), 2, &Unwatched)
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
    set.ensure(Lsn::new(7 * SEGMENT), &Unwatched)
        .expect("space");
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
    assert!(set.prepare_spare(&mut || true, &Unwatched).expect("made"));
    let made = set
        .prepare_spare(&mut || false, &Unwatched)
        .expect("made or interrupted");
    assert_eq!(set.spares(), 1 + usize::from(made));
    drop(set);
    fs::write(
        dir.path().join(SegmentName::Unfinished(77).to_string()),
        b"half",
    )
    .expect("written");
    let short = dir.path().join(SegmentName::Spare(99).to_string());
    fs::write(&short, b"short").expect("written");
    let set = writer(dir.path(), 0).expect("opened");
    let spares = set.spares();
    assert!(spares >= 2);
    set.ensure(Lsn::new(3 * SEGMENT), &Unwatched)
        .expect("space");
    assert_eq!(
        names(dir.path()),
        (0..3).map(segment_name).collect::<Vec<_>>()
    );
}

#[test]
fn a_spare_that_somebody_removed_is_not_missed() {
    let dir = tempfile::tempdir().expect("a directory");
    let set = writer(dir.path(), 0).expect("opened");
    set.ensure(Lsn::new(2 * SEGMENT), &Unwatched)
        .expect("space");
    assert_eq!(
        set.remove_below(Lsn::new(SEGMENT), 1, &Unwatched)
            .expect("freed"),
        1
    );
    assert_eq!(set.spares(), 1);
    let spare = names(dir.path()).pop().expect("the segment and the spare");
    assert!(spare.ends_with(".spare"), "{spare}");
    fs::remove_file(dir.path().join(spare)).expect("removed");
    set.ensure(Lsn::new(3 * SEGMENT), &Unwatched)
        .expect("space");
    assert_eq!(names(dir.path()), [1, 2].map(segment_name));
}

#[test]
fn a_segment_that_is_too_short_gets_its_space_back() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join(segment_name(1)), vec![7; 1000]).expect("written");
    let set = writer(dir.path(), SEGMENT).expect("opened");
    set.ensure(Lsn::new(2 * SEGMENT), &Unwatched)
        .expect("space");
    let bytes = fs::read(set.path(1)).expect("a segment");
    assert_eq!(bytes.len() as u64, SEGMENT);
    assert!(bytes[..512].iter().all(|&byte| byte == 7));
}

#[test]
fn a_second_writer_finds_the_segments_locked() {
    let dir = tempfile::tempdir().expect("a directory");
    let set = writer(dir.path(), 0).expect("opened");
    set.ensure(Lsn::new(1), &Unwatched).expect("space");
    assert!(matches!(
        writer(dir.path(), 0),
        Err(SpaceError::Locked { .. })
    ));
    drop(set);
    writer(dir.path(), 0).expect("free again");
}
