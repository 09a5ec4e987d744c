//! Verification: everything there is of a log, read and checked, and nothing changed.
//!
//! It reads from the log's beginning, not from the checkpoint, so it finds what recovery does not
//! look at. It proves that what is there is what was written; it cannot know of acknowledged slots
//! that no surviving slot tells of (`docs/format.md`, the zone that cannot be told apart).

use std::path::Path;
use std::sync::Arc;

use esker_io::Backend;

use crate::error::{Corruption, OpenError};
use crate::format::chain;
use crate::format::record::RecordSeal;
use crate::format::slot::SlotHeader;
use crate::format::superblock::Superblock;
use crate::geometry::Geometry;
use crate::recovery::{
    Recovered, Tail, Visitor, Walk, check_files, conclude, corruption, marked_durable, walk,
};
use crate::segments::SegmentSet;
use crate::slots::{RecordCounts, RecordWalk};
use crate::superblock::{Copies, SuperblockView};
use crate::{Damage, Lsn, Position};

/// How often a log is read again from a beginning that was trimmed while it was being read.
const ATTEMPTS: u32 = 10;
/// Progress is reported this often, in bytes.
const PROGRESS_BYTES: u64 = 4 << 20;

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyProgress {
    /// How much has been read, in bytes.
    pub done_bytes: u64,
    /// How much there may be to read, in bytes: up to the end of the last file.
    pub total_bytes: u64,
}

/// What a verification has found. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The store's identity.
    pub store_id: u64,
    /// Which life of the store this is.
    pub epoch: u32,
    /// Where the log begins.
    pub first: Lsn,
    /// Where it ends; with damage, where what is intact from the beginning on ends.
    pub end: Lsn,
    /// The end of what is proven to have been durable.
    pub durable: Lsn,
    /// Intact slots.
    pub slots: u64,
    /// How many of them are extents.
    pub extents: u64,
    /// The lives that they come from.
    pub epochs: u64,
    /// Intact records.
    pub records: u64,
    /// The length of what they hold.
    pub payload_bytes: u64,
    /// Reservations that were closed without a record.
    pub voids: u64,
    /// The room that these take.
    pub void_bytes: u64,
    /// The length of the log.
    pub bytes: u64,
    /// How much of it is padding behind the records of a slot.
    pub padding_bytes: u64,
    /// What lies behind the end. Not damage.
    pub tail: Tail,
    /// Whether the store was closed, as opposed to being open or having crashed.
    pub closed: bool,
    /// Whether somebody had it open for writing meanwhile.
    pub writer_alive: bool,
    /// Which copies of the superblock are intact. One is enough to open the store.
    pub superblock_copies: [bool; 2],
    /// The first damage, if there is any.
    pub damage: Option<Corruption>,
}

impl VerifyReport {
    /// Whether nothing is damaged, both copies of the superblock included. A torn tail is not
    /// damage.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.damage.is_none() && self.superblock_copies == [true, true]
    }
}

/// Reads and checks the store in `dir`: the superblock's copies, every slot, every record, and that
/// the records fill their slots. Changes nothing, takes no lock. Blocks; `progress` is told now and
/// then.
///
/// # Errors
///
/// [`OpenError`] when there is no store, when neither copy of the superblock can be read, or when
/// the device fails. Damage to the log is part of the report, not an error.
pub fn verify<B: Backend>(
    dir: impl AsRef<Path>,
    backend: impl Into<Arc<B>>,
    mut progress: impl FnMut(VerifyProgress),
) -> Result<VerifyReport, OpenError> {
    let (dir, backend) = (dir.as_ref(), backend.into());
    let view = SuperblockView::open(&backend, dir)?;
    let mut attempts = 0;
    loop {
        let writer_alive = view.is_writer_alive()?;
        let (superblock, copies) = view.load()?;
        let segments = Arc::new(SegmentSet::open_to_read(&backend, dir, superblock.geometry));
        segments.check_alignment(segments.geometry().segment_of(superblock.first.lsn.get()))?;
        let report = check(&segments, &superblock, &copies, writer_alive, &mut progress)?;
        let raced = report.damage.is_some() && attempts < ATTEMPTS && {
            // Trimmed, or opened by a writer, while it was being read.
            let (now, _) = view.load()?;
            now.first != superblock.first || now.epoch != superblock.epoch
        };
        if !raced {
            return Ok(report);
        }
        attempts += 1;
    }
}

fn check<B: Backend>(
    segments: &Arc<SegmentSet<B>>,
    superblock: &Superblock,
    copies: &Copies,
    writer_alive: bool,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<VerifyReport, OpenError> {
    let geometry = superblock.geometry;
    let first = superblock.first;
    let last = segments.existing()?.last().copied().unwrap_or(0);
    let files_end = last
        .saturating_add(1)
        .saturating_mul(geometry.segment_bytes());
    let seal = RecordSeal::new(geometry.store_id());
    let mut checker = Checker {
        seal: &seal,
        geometry: &geometry,
        superblock,
        walk: None,
        sums: Sums::default(),
        fault: None,
        first: first.lsn.get(),
        total_bytes: files_end.saturating_sub(first.lsn.get()),
        reported: 0,
        progress,
    };
    let found = walk(segments, superblock, first, &mut checker)?;
    let Checker { sums, fault, .. } = checker;
    let end = found.end;
    let proven = found.durable.max(marked_durable(superblock));
    let (tail, damage) = if let Some((slot, lsn, damage)) = fault {
        (
            Tail::Clean,
            Some(corruption(segments, lsn, Some(slot), damage)),
        )
    } else {
        judge(segments, superblock, found, writer_alive)?
    };
    Ok(VerifyReport {
        store_id: geometry.store_id(),
        epoch: superblock.epoch,
        first: first.lsn,
        end: end.lsn,
        durable: proven,
        slots: sums.slots,
        extents: sums.extents,
        epochs: sums.epochs,
        records: sums.counts.records,
        payload_bytes: sums.counts.payload_bytes,
        voids: sums.counts.voids,
        void_bytes: sums.counts.void_bytes,
        bytes: end.lsn.get() - first.lsn.get(),
        padding_bytes: sums.padding_bytes,
        tail,
        closed: superblock.clean_end.is_some(),
        writer_alive,
        superblock_copies: copies.map(|copy| {
            copy.as_ref()
                .is_ok_and(|one| one.geometry == superblock.geometry)
        }),
        damage,
    })
}

/// What the end of the walk means.
fn judge<B: Backend>(
    segments: &Arc<SegmentSet<B>>,
    superblock: &Superblock,
    found: Walk,
    writer_alive: bool,
) -> Result<(Tail, Option<Corruption>), OpenError> {
    let end = found.end;
    if writer_alive && found.may_go_on(marked_durable(superblock)) {
        // The slot behind the end is being written.
        return Ok((Tail::Clean, None));
    }
    match conclude(segments, superblock, found) {
        Ok(Recovered { tail, .. }) => match check_files(segments, superblock.first.lsn, end.lsn) {
            Ok(()) => Ok((tail, None)),
            Err(OpenError::Corrupt(damage)) => Ok((tail, Some(damage))),
            Err(error) => Err(error),
        },
        Err(OpenError::Corrupt(damage)) => Ok((Tail::Clean, Some(damage))),
        Err(error) => Err(error),
    }
}

#[derive(Default)]
struct Sums {
    slots: u64,
    extents: u64,
    epochs: u64,
    last_epoch: u32,
    padding_bytes: u64,
    counts: RecordCounts,
}

/// Checks the records of each slot as it passes.
struct Checker<'c> {
    seal: &'c RecordSeal,
    geometry: &'c Geometry,
    superblock: &'c Superblock,
    walk: Option<RecordWalk<'c>>,
    sums: Sums,
    /// An intact slot whose records are not: the slot, the record, and what is wrong with it.
    fault: Option<(Lsn, Lsn, Damage)>,
    first: u64,
    total_bytes: u64,
    reported: u64,
    progress: &'c mut dyn FnMut(VerifyProgress),
}

impl Visitor for Checker<'_> {
    fn bytes(&mut self, header: &SlotHeader, bytes: &[u8]) {
        let seal = self.seal;
        self.walk
            .get_or_insert_with(|| RecordWalk::new(seal, header))
            .feed(bytes);
    }

    fn intact(&mut self, header: &SlotHeader, after: &Position) -> bool {
        let seal = self.seal;
        let walk = self
            .walk
            .take()
            .unwrap_or_else(|| RecordWalk::new(seal, header));
        let (counts, fault) = walk.finish();
        if let Some((lsn, damage)) = fault {
            self.fault = Some((header.base, lsn, damage));
            return false;
        }
        let checkpoint = self.superblock.checkpoint.lsn;
        if header.base < checkpoint && after.lsn > checkpoint {
            // The checkpoint is a slot's boundary, and the slots go past it.
            self.fault = Some((header.base, header.base, Damage::NoSlot));
            return false;
        }
        let sums = &mut self.sums;
        sums.slots += 1;
        sums.extents += u64::from(header.extent);
        sums.epochs += u64::from(sums.slots == 1 || sums.last_epoch != header.epoch);
        sums.last_epoch = header.epoch;
        sums.padding_bytes += chain::padded_len(header, self.geometry) - header.len as u64;
        sums.counts.records += counts.records;
        sums.counts.payload_bytes += counts.payload_bytes;
        sums.counts.voids += counts.voids;
        sums.counts.void_bytes += counts.void_bytes;
        let done_bytes = after.lsn.get() - self.first;
        if done_bytes >= self.reported + PROGRESS_BYTES {
            self.reported = done_bytes;
            (self.progress)(VerifyProgress {
                done_bytes,
                total_bytes: self.total_bytes,
            });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use esker_io::Blocking;

    use super::*;
    use crate::testing::{LogBuilder, Part};

    fn verified(log: &LogBuilder) -> VerifyReport {
        verify(log.path(), Blocking::inline(), |_| {}).expect("a report")
    }

    fn two_lives() -> LogBuilder {
        let mut log = LogBuilder::new();
        log.slot_of(&[Part::Data(b"one"), Part::Void(32), Part::Data(&[2; 900])]);
        log.slot(5000, 1)
            .slot(10, 1)
            .reopen()
            .slot(7, 1)
            .slot(600, 1)
            .close();
        log
    }

    #[test]
    fn an_intact_log_adds_up() {
        let log = two_lives();
        let report = verified(&log);
        assert!(report.is_intact());
        assert_eq!(
            (report.slots, report.records, report.voids, report.epochs),
            (5, 6, 1, 2)
        );
        assert_eq!((report.first, report.end), (Lsn::ZERO, log.at.lsn));
        let payload: usize = log.records.iter().map(|(_, payload)| payload.len()).sum();
        assert_eq!(report.payload_bytes, payload as u64);
        assert_eq!((report.void_bytes, report.bytes), (32, log.at.lsn.get()));
        let used = 5 * 64
            + log
                .records
                .iter()
                .map(|(_, p)| 8 + p.len().next_multiple_of(8))
                .sum::<usize>()
            + 32;
        assert_eq!(report.padding_bytes, report.bytes - used as u64);
        assert!(report.closed && !report.writer_alive);
    }

    #[test]
    fn every_flipped_byte_below_the_end_is_found() {
        let log = two_lives();
        for at in 0..log.at.lsn.get() {
            log.flip(at);
            let report = verified(&log);
            let damage = report
                .damage
                .unwrap_or_else(|| panic!("byte {at} is damaged"));
            let slot = log
                .slots
                .iter()
                .rfind(|slot| slot.lsn.get() <= at)
                .expect("covered");
            assert_eq!(damage.slot, Some(slot.lsn), "byte {at}");
            assert_eq!(report.end, slot.lsn);
            log.flip(at);
        }
        assert!(verified(&log).is_intact());
    }

    #[test]
    fn records_that_do_not_fill_an_intact_slot_are_damage() {
        let mut log = LogBuilder::new();
        log.slot(100, 1);
        let (mut bytes, _) = log.compose(&[Part::Data(b"one"), Part::Data(b"two")]);
        let header_of = |bytes: &[u8]| SlotHeader::decode(bytes).expect("a slot").header;
        let header = header_of(&bytes);
        // The second record's checksum is wrong, and the slot's is right.
        bytes[64 + 16 + 8] ^= 1;
        header.seal(&mut bytes);
        log.write(log.at.lsn.get(), &bytes);
        let damage = verified(&log).damage.expect("damage");
        assert_eq!(damage.lsn.get(), log.at.lsn.get() + 64 + 16);
        assert_eq!(damage.damage, Damage::RecordChecksum);
        // So is a void's.
        let (mut bytes, _) = log.compose(&[Part::Data(b"one"), Part::Void(40)]);
        let void = 64 + 16;
        bytes[void + 7] ^= 1;
        header_of(&bytes).seal(&mut bytes);
        log.write(log.at.lsn.get(), &bytes);
        let damage = verified(&log).damage.expect("damage");
        assert_eq!(damage.lsn.get(), log.at.lsn.get() + void as u64);
        assert_eq!(damage.damage, Damage::RecordChecksum);
        let (mut bytes, _) = log.compose(&[Part::Data(b"one"), Part::Data(b"two")]);
        let mut shorter = header;
        shorter.len -= 8;
        shorter.seal(&mut bytes);
        log.write(log.at.lsn.get(), &bytes);
        assert_eq!(
            verified(&log).damage.expect("damage").damage,
            Damage::Layout
        );
    }

    #[test]
    fn a_torn_tail_is_reported_and_is_no_damage() {
        let mut log = LogBuilder::new();
        log.slot(100, 1).slot(3000, 1);
        log.flip(log.at.lsn.get() - 600);
        let report = verified(&log);
        assert!(report.is_intact());
        assert_eq!(report.end, log.slots[1].lsn);
        assert!(matches!(report.tail, Tail::Torn { slots: 1, .. }));
    }

    #[test]
    fn a_damaged_copy_of_the_superblock_is_reported() {
        let log = two_lives();
        let mut bytes = fs::read(log.superblock_path()).expect("read");
        bytes[65536 + 40] ^= 1;
        fs::write(log.superblock_path(), bytes).expect("written");
        let report = verified(&log);
        assert_eq!(report.superblock_copies, [true, false]);
        assert!(report.damage.is_none() && !report.is_intact());
    }

    #[test]
    fn a_missing_segment_is_damage_wherever_it_is() {
        let mut log = LogBuilder::new();
        while log.at.lsn.get() < 3 * crate::testing::SEGMENT {
            log.slot(9000, 1);
        }
        log.close();
        for segment in 0..3 {
            let path = log.segment_path(segment);
            let bytes = fs::read(&path).expect("read");
            fs::remove_file(&path).expect("removed");
            let damage = verified(&log).damage.expect("damage");
            assert_eq!((damage.damage, &damage.file), (Damage::Missing, &path));
            fs::write(&path, bytes).expect("written");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        /// A superblock with a matching checksum that says anything that it may say.
        #[test]
        fn no_superblock_makes_reading_panic_or_take_memory_without_bound(
            numbers: [u64; 12], small in proptest::collection::vec(0u64..12, 12), mix: u16
        ) {
            let mut log = two_lives();
            // Each number is anything, or one that nearly fits.
            let pick = |index: usize| {
                if mix >> index & 1 == 1 { numbers[index] >> (small[index] * 5) } else { small[index] }
            };
            let at = |index: usize| Position {
                lsn: Lsn::new(pick(index) % (1 << 53) * 512),
                seq: pick(index + 1),
                epoch: u32::try_from(pick(index + 2) % 4).expect("small"),
                epoch_start: Lsn::ZERO,
            };
            let mut superblock = log.superblock;
            superblock.epoch_start = at(0);
            superblock.first = at(3);
            superblock.checkpoint = at(6);
            superblock.clean_end = (mix & 1 == 1).then(|| at(9));
            let sizes = crate::geometry::Sizes {
                window_bytes: (pick(2) << 9).saturating_add(32 << 10),
                ..superblock.geometry.sizes()
            };
            if let Ok(geometry) = Geometry::new(superblock.geometry.store_id(), &sizes) {
                superblock.geometry = geometry;
            }
            log.superblock = superblock;
            log.write_superblock();
            let _ = verify(log.path(), Blocking::inline(), |_| {});
            if let Ok(reader) = crate::Reader::open(log.path(), Blocking::inline()) {
                let _ = reader.scan(..).map(|records| records.count());
                let _ = reader.read(Lsn::new(64));
            }
        }
    }
}
