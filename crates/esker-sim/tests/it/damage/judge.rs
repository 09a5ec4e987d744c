//! What has to come of a damaged image.

use std::fmt;
use std::ops::{ControlFlow, Range};

use esker_io::Backend;
use esker_lss::{
    Damage, Lsn, OpenError, ReadError, Salvaged, Store, SuperblockState, salvage, verify,
};
use esker_sim::Sim;

use super::Way;
use super::image::{Image, Images, SEGMENT, Slot, segment_of};
use crate::memory::most_during;
use crate::model::{dir, small, try_scan};

/// More than the buffers, the streams and the largest record take.
const MOST_BYTES: u64 = 24 << 20;
/// How often what there is of a log may be read from one end to the other, by all that is asked of an
/// image together, the reads of single records left out.
const MOST_PASSES: u64 = 20;

/// Counts what came of each.
#[derive(Default)]
pub(super) struct Judge {
    unnoticed: u64,
    torn: u64,
    named: u64,
    no_superblock: u64,
    stale: u64,
    most_bytes: u64,
    most_passes: u64,
}

impl fmt::Display for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} unnoticed, {} torn tails, {} named, {} without a superblock, {} old records of \
             stale blocks read, {} KiB of memory and {} passes over the files at most",
            self.unnoticed,
            self.torn,
            self.named,
            self.no_superblock,
            self.stale,
            self.most_bytes >> 10,
            self.most_passes
        )
    }
}

/// What differs between two disks.
struct Touched {
    /// Addresses.
    log: Vec<Range<u64>>,
    /// Whether each copy of the superblock is.
    copies: [bool; 2],
    /// Segments that are gone, up to the last that there was.
    gone: Vec<u64>,
}

impl Touched {
    fn between(before: &Sim, after: &Sim) -> Self {
        let mut touched = Self {
            log: Vec::new(),
            copies: [false; 2],
            gone: Vec::new(),
        };
        for path in before.paths() {
            let was = before.contents(&path).expect("there");
            let is = after.contents(&path);
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .expect("text");
            let (mut whole, gone) = (is.clone().unwrap_or_default(), is.is_none());
            // What is not a whole block cannot be read.
            whole.truncate(whole.len() / 512 * 512);
            let differs = |at: usize| whole.get(at) != Some(&was[at]);
            if name == "superblock" {
                let len = is.map_or(0, |is| is.len());
                for (copy, start) in [0, 65_536].into_iter().enumerate() {
                    touched.copies[copy] = start + 4096 > len || (start..start + 4096).any(differs);
                }
            }
            let Some(segment) = segment_of(name) else {
                continue;
            };
            if gone {
                touched.gone.push(segment);
            }
            let mut at = 0;
            while at < was.len() {
                // Most of a file is as it was.
                let end = was.len().min(at + 512);
                if whole.get(at..end) != Some(&was[at..end]) {
                    for byte in (at..end).filter(|&byte| differs(byte)) {
                        let byte = segment * SEGMENT + byte as u64;
                        match touched.log.last_mut() {
                            Some(last) if last.end == byte => last.end += 1,
                            _ => touched.log.push(byte..byte + 1),
                        }
                    }
                }
                at = end;
            }
        }
        touched
    }

    fn meets(&self, range: Range<u64>) -> bool {
        let mut log = self.log.iter();
        log.any(|touched| touched.start < range.end && range.start < touched.end)
    }

    fn damages(&self, slot: &Slot) -> bool {
        self.meets(slot.base..slot.end)
    }
}

/// What opening has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Unnoticed,
    /// The log ends at this slot.
    Torn(u64),
    /// Damage in this slot, or a missing segment.
    Named(u64),
    NoSuperblock,
}

fn expected(image: &Image, touched: &Touched) -> Expected {
    if touched.copies == [true, true] {
        return Expected::NoSuperblock;
    }
    let hit = image.slots.iter().find(|slot| touched.damages(slot));
    let last = image.sim.paths().into_iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?;
        segment_of(name).filter(|segment| !touched.gone.contains(segment))
    });
    let last = last.max();
    let mut gone = touched.gone.iter();
    let gap = gone.any(|gone| last > Some(*gone) && *gone >= image.first / SEGMENT);
    match hit {
        Some(slot) => {
            let proven = image.proven(slot.base, |slot| touched.damages(slot));
            if slot.base < proven || gap {
                Expected::Named(slot.base)
            } else {
                Expected::Torn(slot.base)
            }
        }
        None if gap => Expected::Named(image.end),
        None => Expected::Unnoticed,
    }
}

impl Judge {
    pub(super) fn judge(&mut self, images: &Images, image: &Image, way: Way, sim: &Sim) {
        let touched = Touched::between(&image.sim, sim);
        let ((), most) = most_during(|| {
            let no_slot_left = image.slots.iter().all(|slot| touched.damages(slot));
            let is_other_log = matches!(way, Way::ForeignFile { .. }) && no_slot_left;
            if is_other_log || is_other_superblock(way, image) {
                // One of the two is another store's or life's, and whole.
                self.only_what_was_appended(images, sim);
            } else {
                self.as_expected(images, image, way, sim, &touched);
            }
        });
        self.most_bytes = self.most_bytes.max(most);
        assert!(most <= MOST_BYTES, "{most} bytes of memory");
        let read = sim.statistics().reads.bytes;
        // Each record is read twice more, by one or two reads.
        let single = 2 * (image.records.len() as u64 * (8 << 10) + image.end - image.first);
        let passes = read.saturating_sub(single) / sim.used_bytes().max(1);
        self.most_passes = self.most_passes.max(passes);
        assert!(passes <= MOST_PASSES, "{read} bytes were read");
    }

    fn as_expected(
        &mut self,
        images: &Images,
        image: &Image,
        way: Way,
        sim: &Sim,
        touched: &Touched,
    ) {
        let expected = expected(image, touched);
        let report = verify(dir(), sim.clone(), |_| {});
        self.check_salvage(images, image, way, sim, touched, expected);
        let end = match expected {
            Expected::NoSuperblock => {
                self.no_superblock += 1;
                assert!(report.is_err(), "{report:?}");
                let opened = Store::open(dir(), sim.clone(), small_options().create(false));
                assert!(opened.is_err(), "without a superblock");
                return;
            }
            Expected::Unnoticed => {
                self.unnoticed += 1;
                image.end
            }
            Expected::Torn(at) => {
                self.torn += 1;
                at
            }
            Expected::Named(at) => {
                self.named += 1;
                at
            }
        };
        let report = report.expect("a report");
        let alike = touched.copies.map(|copy| !copy);
        assert_eq!(report.superblock_copies, alike);
        let named = report
            .damage
            .as_ref()
            .map(|damage| damage.slot.map(Lsn::get));
        if let Expected::Named(slot) = expected {
            let damage = report.damage.as_ref().expect("damage is named");
            let at = damage.lsn.get();
            let in_slot = image.slots.iter().find(|known| known.base == slot);
            let in_slot = in_slot.is_some_and(|slot| (slot.base..slot.end).contains(&at));
            assert!(
                in_slot || damage.damage == Damage::Missing,
                "{damage:?} for {slot}"
            );
            assert_eq!(damage.offset, at % SEGMENT);
            let file = format!("{:016x}.seg", at / SEGMENT);
            assert!(damage.file.ends_with(file), "{damage:?}");
        } else {
            assert_eq!(named, None, "{report:?}");
            assert_eq!(report.end.get(), end);
            let below = image.records.range(..end).count() as u64;
            assert_eq!(report.records, below);
        }
        self.check_store(images, image, way, sim, touched, expected, end);
    }

    /// What the store itself says when it is opened, and what it reads.
    #[expect(
        clippy::too_many_arguments,
        reason = "they are what is known of one image"
    )]
    fn check_store(
        &mut self,
        images: &Images,
        image: &Image,
        way: Way,
        sim: &Sim,
        touched: &Touched,
        expected: Expected,
        end: u64,
    ) {
        let store = match Store::open(dir(), sim.clone(), small_options()) {
            Ok(store) => store,
            Err(OpenError::Corrupt(_)) => {
                assert!(matches!(expected, Expected::Named(_)), "{expected:?}");
                return;
            }
            Err(error) => panic!("{error:?}"),
        };
        // Damage before the checkpoint is not looked for; reading finds it.
        if let Expected::Named(slot) = expected {
            assert!(slot < image.checkpoint, "damage at {slot} is not refused");
        }
        let old = |lsn: u64, payload: &[u8]| {
            let earlier = images.earlier.records.get(&lsn);
            let is_stale = matches!(way, Way::Stale { .. } | Way::StaleFile { .. });
            is_stale && earlier.is_some_and(|earlier| earlier == payload)
        };
        match try_scan(&store) {
            Ok(records) => {
                let mut known = image.records.range(..);
                for (lsn, payload) in &records {
                    let (at, expected) = known.next().expect("a record that was appended");
                    assert_eq!(lsn.get(), *at);
                    if payload != expected {
                        assert!(old(*at, payload), "other bytes at {lsn}");
                        self.stale += 1;
                    }
                }
                let is_all = matches!(expected, Expected::Named(_));
                let below = image.records.range(..end).count();
                assert!(
                    records.len() == below || is_all,
                    "{} of {below}",
                    records.len()
                );
            }
            Err(ReadError::Corrupt(_)) => assert!(matches!(expected, Expected::Named(_))),
            Err(error) => panic!("{error:?}"),
        }
        // What lies behind damage is there as well, and the damage is in the record or it is not.
        let below = image.records.range(..store.durable().get());
        let lsns: Vec<_> = below.clone().map(|(lsn, _)| Lsn::new(*lsn)).collect();
        let mut many = store.read_many(&lsns);
        for (&lsn, (_, payload)) in lsns.iter().zip(below) {
            let read = store.read(lsn);
            let again = many.next().expect("as many as were asked for");
            match (&read, &again) {
                (Ok(one), Ok(other)) => {
                    assert!(one == other, "{lsn} reads otherwise beside others")
                }
                (Err(ReadError::Corrupt(one)), Err(ReadError::Corrupt(other))) => {
                    assert_eq!(one, other);
                }
                _ => panic!("{lsn}: {read:?} alone, {again:?} beside others"),
            }
            match read {
                Ok(read) if read == *payload => {}
                Ok(read) => {
                    assert!(old(lsn.get(), &read), "other bytes at {lsn}");
                    self.stale += 1;
                }
                Err(ReadError::Corrupt(_)) => {
                    let room = Image::room(lsn.get(), payload);
                    assert!(touched.meets(room), "{lsn}");
                }
                Err(error) => panic!("{lsn}: {error:?}"),
            }
        }
    }

    fn check_salvage(
        &self,
        images: &Images,
        image: &Image,
        way: Way,
        sim: &Sim,
        touched: &Touched,
        expected: Expected,
    ) {
        let mut given = Vec::new();
        let before = sim.effects();
        let report = salvage(dir(), sim.clone(), |found| {
            if let Salvaged::Record {
                record,
                slot_intact,
            } = found
            {
                given.push((record.lsn.get(), record.payload, slot_intact));
            }
            ControlFlow::Continue(())
        });
        assert_eq!(sim.effects(), before, "salvage changes nothing");
        let is_left = image.slots.iter().any(|slot| !touched.damages(slot));
        if report.is_err() && expected == Expected::NoSuperblock && !is_left {
            assert!(given.is_empty(), "of a store of which nothing is left");
            return;
        }
        let report = report.expect("slots are left");
        assert!(given.is_sorted_by_key(|(lsn, ..)| *lsn));
        let is_stale = matches!(way, Way::Stale { .. } | Way::StaleFile { .. });
        for (lsn, payload, slot_intact) in &given {
            let is_ours = image.records.get(lsn).is_some_and(|known| known == payload);
            let earlier = &images.earlier.records;
            let is_old = earlier.get(lsn).is_some_and(|known| known == payload);
            assert!(
                is_ours || (is_stale && is_old && !slot_intact),
                "other bytes at {lsn}"
            );
        }
        // Up to where something is left that says how far the log went.
        let whole = image.slots.iter().rfind(|slot| !touched.damages(slot));
        let end = match expected {
            Expected::Unnoticed => image.end,
            Expected::Torn(at) => at,
            Expected::Named(_) | Expected::NoSuperblock => whole.map_or(0, |slot| slot.end),
        };
        for (lsn, payload) in image.records.range(..end) {
            let room = Image::room(*lsn, payload);
            let is_given = given.iter().any(|(at, ..)| at == lsn);
            assert!(
                is_given || touched.meets(room),
                "{lsn} is whole, and not salvaged"
            );
        }
        let is_named = matches!(expected, Expected::Named(_));
        let is_lost = report.superblock == SuperblockState::Lost;
        assert_eq!(is_lost, expected == Expected::NoSuperblock);
        // What recovery refuses is not whole, be it that nothing is lost.
        let is_whole = !is_named && !is_lost;
        assert_eq!(report.is_whole(), is_whole, "{expected:?}: {report:?}");
    }

    /// Another superblock than the log's: whatever is read was appended, here or there.
    fn only_what_was_appended(&mut self, images: &Images, sim: &Sim) {
        let known = |lsn: u64, payload: &[u8]| {
            let all = [
                &images.closed,
                &images.crashed,
                &images.earlier,
                &images.other,
            ];
            all.into_iter()
                .any(|image| image.records.get(&lsn).is_some_and(|own| own == payload))
        };
        let found = salvage(dir(), sim.clone(), |found| {
            if let Salvaged::Record { record, .. } = found {
                assert!(known(record.lsn.get(), &record.payload), "{}", record.lsn);
            }
            ControlFlow::Continue(())
        });
        found.expect("slots are left");
        let report = verify(dir(), sim.clone(), |_| {});
        if let Ok(store) = Store::open(dir(), sim.clone(), small_options())
            && let Ok(records) = try_scan(&store)
        {
            for (lsn, payload) in records {
                assert!(known(lsn.get(), &payload), "{lsn}");
            }
        }
        match report {
            Ok(report) if report.damage.is_none() => self.unnoticed += 1,
            Ok(_) => self.named += 1,
            Err(_) => self.no_superblock += 1,
        }
    }
}

fn small_options() -> esker_lss::Options {
    small(esker_io::Ordering::TailLocalised)
}

fn is_other_superblock(way: Way, image: &Image) -> bool {
    let paths = image.sim.paths();
    let is = |file: usize| paths[file].ends_with("superblock");
    match way {
        Way::Stale { file, .. }
        | Way::Foreign { file, .. }
        | Way::StaleFile { file }
        | Way::ForeignFile { file } => is(file),
        _ => false,
    }
}
