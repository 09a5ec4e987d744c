//! What is on a disk, looked at when something of it has changed, cannot be read, or cannot be read once.

use std::ops::ControlFlow;
use std::path::PathBuf;

use esker_io::Ordering;
use esker_lss::{
    Lsn, OpenError, Options, ReadError, Reader, Salvaged, Store, SuperblockState, Tail, salvage,
    verify,
};
use esker_sim::{Dice, Fault, Sim, Survival};

use crate::faults::{drawn_ordering, start};
use crate::model::{Records, dir, range_of, small, try_scan};
use crate::seeds;
use crate::workload::{Bench, Step};

/// The records of a store, and the disk that they are on.
struct Image {
    sim: Sim,
    options: Options,
    records: Vec<(Lsn, Vec<u8>)>,
}

impl Image {
    /// The same disk again, to be damaged.
    fn copy(&self) -> Sim {
        self.sim.crash(&mut |_| Survival::Kept)
    }

    /// What opening and reading makes of a damaged disk: the records as they were, or an error that
    /// names the damage. Nothing else, and no panic. Whether it was noticed.
    fn judge(&self, sim: &Sim, what: &str) -> bool {
        let report = match verify(dir(), sim.clone(), |_| {}) {
            Ok(report) => report,
            Err(error) => panic!("{what}: {error:?}"),
        };
        let noticed = report.damage.is_some();
        if !noticed {
            assert_eq!(report.records, self.records.len() as u64, "{what}");
        }
        match Store::open(dir(), sim.clone(), self.options.clone()) {
            Ok(store) => match try_scan(&store) {
                // A slot's own checksum may be what is damaged: its records are not.
                Ok(records) => assert!(records == self.records, "{what}: other records"),
                Err(ReadError::Corrupt(damage)) => {
                    assert!(noticed, "{what}: verify has missed {damage}");
                }
                Err(other) => panic!("{what}: {other:?}"),
            },
            Err(OpenError::Corrupt(damage)) => {
                assert!(noticed, "{what}: verify has missed {damage}");
            }
            Err(other) => panic!("{what}: {other:?}"),
        }
        noticed
    }
}

/// A store of several lives, closed.
fn closed_image() -> Image {
    let options = small(Ordering::TailLocalised);
    let mut bench = start(11, &options);
    for life in 0..3 {
        for len in [0, 100, 5000, 300, 20_000, 3000, 3000, 17] {
            assert!(bench.try_step(Step::Append(len + life)).is_some());
        }
        assert!(bench.try_step(Step::Trim(3)).is_some());
        bench = bench
            .step(Step::Close)
            .unwrap_or_else(|_| panic!("nothing fails"));
    }
    let records = try_scan(&bench.store).expect("intact");
    let Bench { sim, store, .. } = bench;
    store.close().expect("closes");
    Image {
        sim,
        options,
        records,
    }
}

#[test]
fn a_flipped_bit_is_named_or_harmless() {
    let image = closed_image();
    let report = verify(dir(), image.copy(), |_| {}).expect("intact");
    let (first, end) = (report.first.get(), report.end.get());
    let segment_bytes = 64 << 10;
    seeds::run("images::a_flipped_bit_is_named_or_harmless", 1500, |seed| {
        let mut dice = Dice::new(seed);
        let sim = image.copy();
        let paths = sim.paths();
        let path: &PathBuf = &paths[dice.index(paths.len())];
        let len = sim.contents(path).expect("a file").len();
        let (at, bit) = (
            dice.below(len as u64),
            u32::try_from(dice.below(8)).expect("small"),
        );
        assert!(sim.flip_bit(path, at, bit));
        let noticed = image.judge(&sim, &format!("bit {bit} of byte {at} of {path:?}"));
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("text");
        let is_log = name
            .strip_suffix(".seg")
            .and_then(|number| u64::from_str_radix(number, 16).ok())
            .is_some_and(|number| (first..end).contains(&(number * segment_bytes + at)));
        assert_eq!(noticed, is_log, "byte {at} of {name}");
    });
}

/// Each update is in both copies before anything is done that relies on it.
#[test]
fn damage_to_one_superblock_copy_costs_nothing() {
    let options = small(Ordering::TailLocalised).spare_segments(0);
    let mut bench = start(5, &options);
    let superblock = dir().join("superblock");
    for step in [
        Step::AppendDurable(30_000),
        Step::AppendDurable(30_000),
        Step::Close,
        Step::AppendDurable(30_000),
        Step::AppendDurable(10),
        Step::Trim(2),
        Step::AppendDurable(20_000),
        Step::Maintain,
        Step::AppendDurable(10),
        Step::Close,
        Step::AppendDurable(10),
    ] {
        bench = bench.step(step).unwrap_or_else(|_| panic!("nothing fails"));
        let records = try_scan(&bench.store).expect("intact");
        for offset in [40, 65_536 + 40] {
            // As a look at the disk at this moment: the store goes on.
            let sim = bench.sim.fork();
            assert!(sim.flip_bit(&superblock, offset, 0));
            let store = Store::open(dir(), sim.clone(), options.clone())
                .unwrap_or_else(|error| panic!("after {step:?}: {error:?}"));
            assert!(
                try_scan(&store).expect("intact") == records,
                "after {step:?}"
            );
        }
    }
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let image = closed_image();
    let sim = image.copy();
    for path in sim.paths() {
        let sim = image.copy();
        let len = sim.contents(&path).expect("a file").len() as u64;
        sim.make_unreadable(&path, 0..len);
        match Store::open(dir(), sim.clone(), image.options.clone()) {
            Ok(store) => match try_scan(&store) {
                Ok(records) => assert!(records == image.records),
                Err(error) => assert!(matches!(error, ReadError::Io(_)), "{error:?}"),
            },
            Err(error) => assert!(matches!(error, OpenError::Io(_)), "{error:?}"),
        }
    }
}

/// Beside a writer the log's end moves. What cannot be read is not taken for it.
#[test]
fn a_reader_beside_a_writer_says_what_it_cannot_read() {
    let options = small(Ordering::TailLocalised);
    let mut bench = start(3, &options);
    let mut ends = Vec::new();
    for len in [100, 5000, 300, 700] {
        ends.push(bench.store.durable().get());
        assert!(bench.try_step(Step::AppendDurable(len)).is_some());
    }
    let path = dir().join("0000000000000000.seg");
    let whole = Reader::open(dir(), bench.sim.clone()).expect("it is whole");
    assert_eq!(whole.end(), bench.store.durable());
    for from in ends.into_iter().rev() {
        assert!(bench.sim.make_unreadable(&path, from..from + 512));
        let refused = Reader::open(dir(), bench.sim.clone()).map(|reader| reader.end());
        assert!(
            matches!(refused, Err(OpenError::Io(_))),
            "{from}: {refused:?}"
        );
    }
}

/// A store that crashed: behind its end lies part of what was on its way.
fn crashed_image() -> Image {
    let options = small(Ordering::TailLocalised);
    let mut bench = start(12, &options);
    for len in [100, 20_000, 300, 20_000, 5000, 20_000, 3000] {
        assert!(bench.try_step(Step::AppendDurable(len)).is_some());
    }
    let records = try_scan(&bench.store).expect("intact");
    for _ in 0..3 {
        assert!(bench.try_step(Step::Append(3000)).is_some());
    }
    let Bench { sim, store, .. } = bench;
    sim.stop();
    let end = store.durable().get();
    drop(store);
    let sim = sim.crash(&mut |item| match range_of(item) {
        Some((from, _)) if from == end => Survival::Prefix(1),
        _ => Survival::Lost,
    });
    Image {
        sim,
        options,
        records,
    }
}

/// What everybody who reads a store makes of it: what opening, a reader, `verify` and `salvage` say, as
/// far as they say that it is whole.
fn answers(sim: &Sim, image: &Image, who: usize) -> Option<(Records, Tail)> {
    let (mut records, dir) = (Records::new(), dir());
    let tail = match who {
        0 => {
            let opened = Store::open(dir, sim.clone(), image.options.clone());
            return opened.ok().and_then(|store| {
                let records = try_scan(&store).ok()?;
                Some((records, Tail::Clean))
            });
        }
        1 => {
            let reader = Reader::open(dir, sim.clone()).ok()?;
            let range = reader.scan(..).ok()?;
            for record in range {
                let record = record.ok()?;
                records.push((record.lsn, record.payload));
            }
            Tail::Clean
        }
        2 => {
            let report = verify(dir, sim.clone(), |_| {}).ok()?;
            report.is_intact().then_some(())?;
            assert_eq!(report.records, image.records.len() as u64);
            return Some((image.records.clone(), report.tail));
        }
        _ => {
            let report = salvage(dir, sim.clone(), |found| {
                if let Salvaged::Record { record, .. } = found {
                    records.push((record.lsn, record.payload));
                }
                ControlFlow::Continue(())
            });
            let report = report.ok()?;
            if report.lost == 0 && report.superblock == SuperblockState::Intact {
                // Not one of what has to be there may be left out without a word.
                assert!(
                    records.starts_with(&image.records),
                    "salvage leaves some out"
                );
            }
            report.is_whole().then_some(report.tail)?
        }
    };
    Some((records, tail))
}

/// Whatever it is that cannot be opened, or read, once: nobody takes the store for another than it is.
#[test]
fn what_fails_once_is_an_error_or_makes_no_difference() {
    for image in [closed_image(), crashed_image()] {
        let mut refused = [0; 4];
        for fault in [Fault::OpenFails, Fault::ReadFails] {
            for (who, refused) in refused.iter_mut().enumerate() {
                let whole = answers(&image.copy(), &image, who).expect("it is whole");
                assert!(whole.0 == image.records, "{who}");
                for skipped in 0.. {
                    let sim = image.copy();
                    sim.inject(fault, skipped);
                    let answer = answers(&sim, &image, who);
                    if sim.faults_left() > 0 {
                        assert!(skipped > 1, "{fault:?} did not come");
                        break;
                    }
                    *refused += usize::from(answer.is_none());
                    let same = answer.is_none_or(|answer| answer == whole);
                    assert!(same, "{fault:?} after {skipped}: another store for {who}");
                    // It has passed.
                    let again = answers(&sim, &image, 0).expect("it is whole");
                    assert!(again.0 == image.records, "{fault:?} after {skipped}: {who}");
                }
            }
        }
        assert!(refused.iter().all(|&times| times > 0), "{refused:?}");
    }
}

/// A write that was acknowledged and is not there, or somewhere else, below what later slots prove.
fn lying(seed: u64) {
    let mut dice = Dice::new(seed);
    let options = small(drawn_ordering(&mut dice));
    let mut bench = start(dice.draw(), &options);
    for _ in 0..dice.below(10) {
        let len = dice.index(6000);
        assert!(bench.try_step(Step::AppendDurable(len)).is_some());
    }
    let fault = match dice.chance(1, 2) {
        true => Fault::WriteIsLost,
        false => Fault::WriteGoesTo {
            offset: dice.below(100) * 512,
        },
    };
    bench.sim.inject(fault, dice.below(3));
    for _ in 0..8 {
        let len = dice.index(3000);
        assert!(bench.try_step(Step::AppendDurable(len)).is_some());
    }
    let records: Vec<_> = (0..bench.model.len())
        .map(|index| {
            let lsn = bench.model.lsn(index).expect("acknowledged");
            (lsn, bench.model.payload_of(index).to_vec())
        })
        .collect();
    let Bench { sim, store, .. } = bench;
    sim.stop();
    drop(store);
    let image = Image {
        sim,
        options,
        records,
    };
    let noticed = image.judge(&image.copy(), "a write that is not where it should be");
    // It may have been sent to where it belongs.
    let harmless = matches!(fault, Fault::WriteGoesTo { .. });
    assert!(noticed || harmless, "every write of these was of the log");
}

#[test]
fn a_lost_or_misdirected_write_is_named() {
    seeds::run("images::a_lost_or_misdirected_write_is_named", 300, lying);
}
