//! Every way to damage a small store, one at a time: nothing is noticed because nothing acknowledged
//! was touched, or the tail is torn, or corruption is named in the right slot. Never a panic, an
//! allocation without bound, or bytes that were not appended; and what was not touched is salvaged.
//!
//! The list of all damage is shuffled by a seed and gone through for as long as there is time
//! (`ESKER_DAMAGE_SECONDS`, 0 for all of it).

mod image;
mod judge;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use esker_io::{Backend, Create, FileOptions};
use esker_sim::{Dice, Sim};

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
    }
    sim
}

#[test]
fn every_damage_is_harmless_a_torn_tail_or_named() {
    let name = "damage::every_damage_is_harmless_a_torn_tail_or_named";
    let seed = number("ESKER_DAMAGE_SEED").unwrap_or(1);
    let seconds = number("ESKER_DAMAGE_SECONDS").unwrap_or(5);
    let only = number("ESKER_DAMAGE_ONLY");
    let mut dice = Dice::new(seed);
    let images = Images::make();
    let mut all = Vec::new();
    for is_closed in [true, false] {
        let image = if is_closed {
            &images.closed
        } else {
            &images.crashed
        };
        all.extend(
            ways(image, &mut dice)
                .into_iter()
                .map(|way| (is_closed, way)),
        );
    }
    for place in (1..all.len()).rev() {
        all.swap(place, dice.index(place + 1));
    }
    let began = Instant::now();
    let limit = Duration::from_secs(if seconds == 0 { u64::MAX } else { seconds });
    let mut judge = Judge::default();
    let mut tried = 0_u64;
    for (number, (is_closed, way)) in all.iter().enumerate() {
        if only.is_some_and(|only| only != number as u64) {
            continue;
        }
        let image = if *is_closed {
            &images.closed
        } else {
            &images.crashed
        };
        let judged = catch_unwind(AssertUnwindSafe(|| {
            let sim = damage(&images, image, *way);
            judge.judge(&images, image, *way, &sim);
        }));
        if let Err(payload) = judged {
            eprintln!("number {number}: {way:?} of the store that was closed: {is_closed}");
            eprintln!(
                "replay: ESKER_DAMAGE_SEED={seed} ESKER_DAMAGE_ONLY={number} cargo test --release -p \
                 esker-sim --test it {name} -- --exact"
            );
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
