//! Every way to damage a small store, one at a time: nothing is noticed because nothing acknowledged
//! was touched, or the tail is torn, or corruption is named in the right slot. Never a panic, an
//! allocation without bound, or bytes that were not appended; and what was not touched is salvaged.
//!
//! The list of all damage is shuffled by a seed and gone through for as long as there is time
//! (`ESKER_DAMAGE_SECONDS`, 0 for all of it).

mod image;
mod judge;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use esker_io::{Backend, Create, FileOptions};
use esker_sim::{Dice, Sim};

use crate::seeds;
use image::{BLOCK, Image, Images, SEGMENT};
use judge::Judge;

/// One way to damage a store. Files are known by their place in the order of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Flip {
        file: usize,
        at: u64,
        xor: u8,
    },
    Cut {
        file: usize,
        len: u64,
    },
    Zero {
        file: usize,
        block: u64,
    },
    Swap {
        one: (usize, u64),
        other: (usize, u64),
    },
    /// The same block of an earlier life, or of another store.
    Stale {
        file: usize,
        block: u64,
    },
    Foreign {
        file: usize,
        block: u64,
    },
    Remove {
        file: usize,
    },
    SwapFiles {
        one: usize,
        other: usize,
    },
    Duplicate {
        from: usize,
        to: usize,
    },
    /// A file as it was in an earlier life, or is in another store.
    StaleFile {
        file: usize,
    },
    ForeignFile {
        file: usize,
    },
    /// These addresses of the log, in however many files.
    Fill {
        from: u64,
        to: u64,
        with: u8,
    },
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Every way to damage an image. Of blocks behind the log, where nothing is, one in sixteen.
fn ways(image: &Image, dice: &mut Dice) -> Vec<Way> {
    let mut ways = Vec::new();
    let files = image.sim.paths();
    let mut blocks = Vec::new();
    for (file, path) in files.iter().enumerate() {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("text");
        let len = image.sim.contents(path).expect("there").len() as u64;
        let segment = image::segment_of(name);
        let matters = |at: u64| match segment {
            Some(segment) => {
                let at = segment * SEGMENT + at;
                (image.first / BLOCK * BLOCK..image.end + 2 * BLOCK).contains(&at)
            }
            None => name == "superblock" && (at % (64 << 10)) < 4096,
        };
        for at in 0..len {
            if matters(at) || at % 1024 == 77 {
                let xor = u8::try_from(1 + dice.below(255)).expect("a byte");
                ways.push(Way::Flip { file, at, xor });
            }
            if matters(at) || at % 4096 == 0 {
                ways.push(Way::Cut { file, len: at });
            }
        }
        for block in 0..len / BLOCK {
            if matters(block * BLOCK) || block % 16 == 3 {
                ways.push(Way::Zero { file, block });
                ways.push(Way::Stale { file, block });
                ways.push(Way::Foreign { file, block });
                blocks.push((file, block));
            }
        }
        ways.push(Way::Remove { file });
        ways.push(Way::StaleFile { file });
        ways.push(Way::ForeignFile { file });
        for other in 0..files.len() {
            if other != file {
                ways.push(Way::Duplicate {
                    from: other,
                    to: file,
                });
            }
            if other > file {
                ways.push(Way::SwapFiles { one: file, other });
            }
        }
    }
    for (number, one) in blocks.iter().enumerate() {
        for other in &blocks[number + 1..] {
            ways.push(Way::Swap {
                one: *one,
                other: *other,
            });
        }
    }
    ways
}

/// A part of a file as it is.
fn block_of(sim: &Sim, file: usize, block: u64) -> Vec<u8> {
    let bytes = sim.paths().get(file).and_then(|path| sim.contents(path));
    let start = usize::try_from(block * BLOCK).expect("small");
    let mut bytes: Vec<u8> = bytes
        .unwrap_or_default()
        .into_iter()
        .skip(start)
        .take(512)
        .collect();
    bytes.resize(512, 0);
    bytes
}

fn set_file(sim: &Sim, path: &std::path::Path, bytes: &[u8]) {
    let options = FileOptions::read_write().create(Create::IfMissing);
    let file = sim.open(path, &options).expect("opens");
    sim.truncate(&file, 0).expect("cut");
    sim.truncate(&file, bytes.len() as u64).expect("extended");
    drop(file);
    assert!(sim.overwrite(path, 0, bytes));
}

fn damage(images: &Images, image: &Image, way: Way) -> Sim {
    let sim = image.copy();
    let paths = sim.paths();
    let put = |(file, block): (usize, u64), bytes: &[u8]| {
        assert!(sim.overwrite(&paths[file], block * BLOCK, bytes));
    };
    // By name: another life has other files.
    let same_block = |from: &Sim, file: usize, block: u64| {
        let place = from.paths().iter().position(|path| *path == paths[file]);
        place.map_or_else(|| vec![0; 512], |place| block_of(from, place, block))
    };
    let same_file = |from: &Sim, file: usize| {
        from.contents(&paths[file])
            .unwrap_or_else(|| vec![0; 64 << 10])
    };
    match way {
        Way::Flip { file, at, xor } => {
            let bytes = sim.contents(&paths[file]).expect("there");
            let byte = bytes[usize::try_from(at).expect("small")] ^ xor;
            assert!(sim.overwrite(&paths[file], at, &[byte]));
        }
        Way::Cut { file, len } => {
            let bytes = sim.contents(&paths[file]).expect("there");
            set_file(
                &sim,
                &paths[file],
                &bytes[..usize::try_from(len).expect("small")],
            );
        }
        Way::Zero { file, block } => put((file, block), &[0; 512]),
        Way::Swap { one, other } => {
            let bytes = (
                block_of(&sim, one.0, one.1),
                block_of(&sim, other.0, other.1),
            );
            put(one, &bytes.1);
            put(other, &bytes.0);
        }
        Way::Stale { file, block } => {
            put((file, block), &same_block(&images.earlier.sim, file, block));
        }
        Way::Foreign { file, block } => {
            put((file, block), &same_block(&images.other.sim, file, block));
        }
        Way::Remove { file } => sim.remove(&paths[file]).expect("removed"),
        Way::SwapFiles { one, other } => {
            let bytes = [one, other].map(|file| sim.contents(&paths[file]).expect("there"));
            set_file(&sim, &paths[one], &bytes[1]);
            set_file(&sim, &paths[other], &bytes[0]);
        }
        Way::Duplicate { from, to } => {
            let bytes = sim.contents(&paths[from]).expect("there");
            set_file(&sim, &paths[to], &bytes);
        }
        Way::StaleFile { file } => {
            set_file(&sim, &paths[file], &same_file(&images.earlier.sim, file))
        }
        Way::ForeignFile { file } => {
            set_file(&sim, &paths[file], &same_file(&images.other.sim, file))
        }
        Way::Fill { from, to, with } => {
            for path in &paths {
                let name = path.file_name().and_then(|name| name.to_str());
                let Some(segment) = name.and_then(image::segment_of) else {
                    continue;
                };
                let here = segment * SEGMENT..(segment + 1) * SEGMENT;
                let (start, end) = (from.max(here.start), to.min(here.end));
                if start < end {
                    let bytes = vec![with; usize::try_from(end - start).expect("small")];
                    assert!(sim.overwrite(path, start % SEGMENT, &bytes));
                }
            }
        }
    }
    sim
}

/// Damages a list of images one by one, for as long as there is time.
struct Run {
    name: &'static str,
    seed: u64,
    /// No limit for 0.
    seconds: u64,
}

impl Run {
    fn go(&self, images: &Images, all: &[(&Image, Way)]) {
        let Self {
            name,
            seed,
            seconds,
        } = *self;
        let replay = move |number: u64| {
            format!(
                "replay: ESKER_DAMAGE_SEED={seed} ESKER_DAMAGE_ONLY={number} cargo test --release -p \
                 esker-sim --test it {name} -- --exact"
            )
        };
        let only = number("ESKER_DAMAGE_ONLY");
        let watchdog = seeds::Watchdog::new(replay);
        let began = Instant::now();
        let limit = Duration::from_secs(if seconds == 0 { u64::MAX } else { seconds });
        let mut judge = Judge::default();
        let mut tried = 0_u64;
        for (number, (image, way)) in (0_u64..).zip(all) {
            if only.is_some_and(|only| only != number) {
                continue;
            }
            watchdog.at(number);
            let judged = catch_unwind(AssertUnwindSafe(|| {
                let sim = damage(images, image, *way);
                judge.judge(images, image, *way, &sim);
            }));
            if let Err(payload) = judged {
                let is_closed = image.clean_end.is_some();
                eprintln!("number {number}: {way:?} of the store that was closed: {is_closed}");
                eprintln!("{}", replay(number));
                resume_unwind(payload);
            }
            tried += 1;
            if began.elapsed() > limit {
                break;
            }
        }
        println!(
            "{name}: {tried} of {} damaged images with seed {seed} in {:.1} s: {judge}",
            all.len(),
            began.elapsed().as_secs_f64()
        );
    }
}

fn shuffle<T>(all: &mut [T], dice: &mut Dice) {
    for place in (1..all.len()).rev() {
        all.swap(place, dice.index(place + 1));
    }
}

#[test]
fn every_damage_is_harmless_a_torn_tail_or_named() {
    let seed = number("ESKER_DAMAGE_SEED").unwrap_or(1);
    let mut dice = Dice::new(seed);
    let images = Images::make();
    let mut all = Vec::new();
    for image in [&images.closed, &images.crashed] {
        all.extend(ways(image, &mut dice).into_iter().map(|way| (image, way)));
    }
    shuffle(&mut all, &mut dice);
    let run = Run {
        name: "damage::every_damage_is_harmless_a_torn_tail_or_named",
        seed,
        seconds: number("ESKER_DAMAGE_SECONDS").unwrap_or(5),
    };
    run.go(&images, &all);
}

/// A length that is not what was written is believed by nobody, whatever it asks for.
#[test]
fn every_damaged_length_is_noticed_before_it_is_used() {
    let mut dice = Dice::new(1);
    let images = Images::make();
    let mut all = Vec::new();
    for image in [&images.closed, &images.crashed] {
        let paths = image.sim.paths();
        let places = paths.iter().enumerate().filter_map(|(file, path)| {
            let name = path.file_name().and_then(|name| name.to_str());
            Some((name.and_then(image::segment_of)?, file))
        });
        let files: BTreeMap<u64, usize> = places.collect();
        let mut flip = |at: u64, xor| {
            let file = files[&(at / SEGMENT)];
            let at = at % SEGMENT;
            all.push((image, Way::Flip { file, at, xor }));
        };
        let lens = image.records.keys().copied();
        for len in lens.chain(image.slots.iter().map(|slot| slot.base + 8)) {
            // The kind is in the lowest bits of a record's.
            let some = 8 + u8::try_from(dice.below(31) * 8).expect("a byte");
            for (byte, xor) in [(0, some), (1, 0x81), (2, some), (3, 0x03), (3, 0xF0)] {
                flip(len + byte, xor);
            }
        }
    }
    let run = Run {
        name: "damage::every_damaged_length_is_noticed_before_it_is_used",
        seed: 1,
        seconds: 0,
    };
    run.go(&images, &all);
}

/// Damage of any length from a slot on: up to the next one, as long as the window, longer than it,
/// and up to the last slots. What lies behind says that it was no crash, however far that is.
fn long_ways(image: &Image, dice: &mut Dice) -> Vec<Way> {
    let count = image.slots.len();
    let mut ways = Vec::new();
    for (number, slot) in image.slots.iter().enumerate() {
        let mut ends = vec![number + 1, number + 1 + dice.index(count - number)];
        ends.extend([count - 2, count - 1, count]);
        for end in ends.into_iter().filter(|end| *end > number) {
            let end = image.slots.get(end).map_or(image.end, |slot| slot.base);
            // Not always from the slot's beginning, nor to the end of one.
            let from = match dice.chance(1, 2) {
                true => slot.base,
                false => slot.base + dice.below(slot.end - slot.base),
            };
            let to = end.saturating_sub(dice.below(64)).max(from + 1);
            let with = u8::try_from(dice.below(256)).expect("a byte");
            ways.push(Way::Fill {
                from,
                to,
                with: if dice.chance(1, 2) { 0 } else { with },
            });
        }
    }
    ways
}

#[test]
fn damage_of_any_length_is_a_torn_tail_or_named() {
    let seed = number("ESKER_DAMAGE_SEED").unwrap_or(1);
    let mut dice = Dice::new(seed);
    let images = Images::make();
    let long = Image::long();
    let mut all: Vec<_> = long_ways(&long, &mut dice)
        .into_iter()
        .map(|way| (&long, way))
        .collect();
    shuffle(&mut all, &mut dice);
    let run = Run {
        name: "damage::damage_of_any_length_is_a_torn_tail_or_named",
        seed,
        seconds: number("ESKER_DAMAGE_SECONDS").unwrap_or(5),
    };
    run.go(&images, &all);
}
