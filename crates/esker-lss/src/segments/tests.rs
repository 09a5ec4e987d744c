use std::fs;

use esker_io::Blocking;

use super::*;
use crate::testing::{SEGMENT, directory, geometry};

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

fn make_spare(set: &SegmentSet<Blocking>) {
    set.begin_spare().expect("begun");
    while set
        .continue_spare(Goal::Finished, &Unwatched)
        .expect("written")
        == Spare::Behind
    {}
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
    let dir = directory();
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
    let dir = directory();
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
    let dir = directory();
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
    let dir = directory();
    let set = writer(dir.path(), 0).expect("opened");
    make_spare(&set);
    // One that is not finished, as a killed process leaves it.
    set.begin_spare().expect("begun");
    assert_eq!(set.spares(), 1);
    drop(set);
    fs::write(
        dir.path().join(SegmentName::Unfinished(77).to_string()),
        b"half",
    )
    .expect("written");
    let short = dir.path().join(SegmentName::Spare(99).to_string());
    fs::write(&short, b"short").expect("written");
    let set = writer(dir.path(), 0).expect("opened");
    assert_eq!(set.spares(), 2);
    set.ensure(Lsn::new(3 * SEGMENT), &Unwatched)
        .expect("space");
    assert_eq!(
        names(dir.path()),
        (0..3).map(segment_name).collect::<Vec<_>>()
    );
}

#[test]
fn a_spare_is_written_as_far_as_asked() {
    let dir = directory();
    let set = writer(dir.path(), 0).expect("opened");
    let go_on = |upto| {
        set.continue_spare(Goal::Bytes(upto), &Unwatched)
            .expect("written")
    };
    assert_eq!(go_on(SEGMENT), Spare::None);
    set.begin_spare().expect("begun");
    let mut writes = 0;
    while go_on(SEGMENT / 2) == Spare::Behind {
        writes += 1;
        assert!(writes <= 64, "it is not finished when it is half written");
    }
    assert_eq!(go_on(SEGMENT / 2), Spare::AsFarAsAsked);
    assert_eq!(set.spares(), 0);
    while go_on(SEGMENT) == Spare::Behind {}
    assert_eq!(set.spares(), 1);
    assert!(!set.is_making_spare());
    assert_eq!(go_on(SEGMENT), Spare::None);
}

#[test]
fn what_the_log_takes_is_not_written_over() {
    let dir = directory();
    let set = writer(dir.path(), 0).expect("opened");
    set.begin_spare().expect("begun");
    let _ = set
        .continue_spare(Goal::Bytes(SEGMENT / 2), &Unwatched)
        .expect("written");
    set.ensure(Lsn::new(SEGMENT), &Unwatched).expect("space");
    assert_eq!(names(dir.path()), [segment_name(0)]);
    let ones = vec![1; usize::try_from(SEGMENT).expect("small")];
    fs::write(dir.path().join(segment_name(0)), &ones).expect("written");
    // Whatever it says: the file is the log's.
    while matches!(
        set.continue_spare(Goal::Finished, &Unwatched),
        Ok(Spare::Behind)
    ) {}
    let now = fs::read(dir.path().join(segment_name(0))).expect("read");
    assert!(now == ones, "zeroes were written over the log");
    set.ensure(Lsn::new(2 * SEGMENT), &Unwatched)
        .expect("space");
    assert_eq!(names(dir.path()), [0, 1].map(segment_name));
}

#[test]
fn a_spare_that_is_given_up_leaves_nothing_behind() {
    let dir = directory();
    let set = writer(dir.path(), 0).expect("opened");
    set.begin_spare().expect("begun");
    assert_eq!(names(dir.path()).len(), 1);
    set.discard_making().expect("removed");
    set.discard_making().expect("there is none");
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_spare_that_somebody_removed_is_not_missed() {
    let dir = directory();
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
    let dir = directory();
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
    let dir = directory();
    let set = writer(dir.path(), 0).expect("opened");
    set.ensure(Lsn::new(1), &Unwatched).expect("space");
    assert!(matches!(
        writer(dir.path(), 0),
        Err(SpaceError::Locked { .. })
    ));
    drop(set);
    writer(dir.path(), 0).expect("free again");
}
