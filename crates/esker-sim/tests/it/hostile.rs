//! A store whose files say anything, with checksums that match or not: whatever reads it answers.
//!
//! Bytes stand for changes to a small store: the fuzz target `store` of `crates/esker-lss/fuzz` draws
//! them, and its seeds are run here as an ordinary test.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;

use esker_io::{Backend, Create, FileOptions, Ordering};
use esker_lss::{Lsn, Maintenance, Options, Reader, Salvaged, Store, salvage, verify};
use esker_sim::{Sim, SimOptions, Survival};
use twox_hash::XxHash3_64;

const COPIES: [usize; 2] = [0, 65_536];
const COPY_BYTES: usize = 4096;

fn dir() -> &'static Path {
    Path::new("/data/store")
}

fn options() -> Options {
    Options::default()
        .ordering(Ordering::TailLocalised)
        .buffers(3)
        .buffer_bytes(4 << 10)
        .block_bytes(512)
        .segment_bytes(64 << 10)
        .max_record_bytes(32 << 10)
        .window_slots(4)
        .huge_pages(esker_buf::HugePages::Never)
        .maintenance(Maintenance::Manual)
        .store_id(7)
}

/// The superblock and the first segment of a store of two lives that was not closed.
fn files() -> &'static [Vec<u8>; 2] {
    static FILES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    FILES.get_or_init(|| {
        let sim = Sim::with(SimOptions::new(1).alone(true));
        for life in 0..2_u8 {
            let store = Store::open(dir(), sim.clone(), options()).expect("opens");
            for len in [0, 10, 700, 5000, 40] {
                store.append(&vec![life + 1; len]).expect("appends");
                if len > 600 {
                    store.flush().expect("flushes");
                }
            }
            store.flush().expect("flushes");
            drop(store);
        }
        let sim = sim.crash(&mut |_| Survival::Kept);
        ["superblock", "0000000000000000.seg"]
            .map(|name| sim.contents(&dir().join(name)).expect("there"))
    })
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Makes the checksums match again: of both copies, and of what looks like a slot at a block.
fn reseal(superblock: &mut [u8], segment: &mut [u8]) {
    for copy in COPIES {
        if let Some(copy) = superblock.get_mut(copy..copy + COPY_BYTES) {
            let sum = XxHash3_64::oneshot(&copy[..COPY_BYTES - 8]);
            copy[COPY_BYTES - 8..].copy_from_slice(&sum.to_le_bytes());
        }
    }
    for at in (0..segment.len()).step_by(512) {
        let slot = &mut segment[at..];
        if slot.len() < 512 || slot[..4] != *b"ESKR" {
            continue;
        }
        let len = (word(slot, 8) as usize).next_multiple_of(512);
        if (512..=slot.len()).contains(&len) {
            let seed = XxHash3_64::oneshot(&slot[..56]);
            let sum = XxHash3_64::oneshot_with_seed(seed, &slot[64..len]);
            slot[56..64].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

fn put(sim: &Sim, name: &str, bytes: &[u8]) {
    let options = FileOptions::read_write().create(Create::New);
    let path = dir().join(name);
    let file = sim.open(&path, &options).expect("created");
    sim.truncate(&file, bytes.len() as u64).expect("extended");
    assert!(sim.overwrite(&path, 0, bytes));
}

/// Reads `bytes` as changes, makes them, and asks everything that reads a store.
///
/// The first byte says whether checksums are made to match and how much of each file is there; then
/// come changes: where (three bytes: file and offset), how many bytes (one), and the bytes.
pub(crate) fn run(bytes: &[u8]) {
    let [mut superblock, mut segment] = files().clone();
    let (&flags, mut rest) = bytes.split_first().unwrap_or((&0, &[]));
    while let [one, two, three, len, more @ ..] = rest {
        let at = usize::from(*one & 1) << 16 | usize::from(*two) << 8 | usize::from(*three);
        let file = match one & 2 {
            0 => &mut superblock,
            _ => &mut segment,
        };
        let (new, left) = more.split_at(more.len().min(usize::from(*len)));
        if let Some(room) = file.get_mut(at..at + new.len()) {
            room.copy_from_slice(new);
        }
        rest = left;
    }
    if flags & 1 == 1 {
        reseal(&mut superblock, &mut segment);
    }
    superblock.truncate(superblock.len() >> (flags >> 1 & 3));
    segment.truncate(segment.len() >> (flags >> 3 & 3));
    let sim = Sim::with(SimOptions::new(1).alone(true));
    sim.create_dir_all(dir()).expect("created");
    if flags & 0x20 == 0 {
        put(&sim, "superblock", &superblock);
    }
    put(&sim, "0000000000000000.seg", &segment);
    if flags & 0x40 != 0 {
        put(&sim, "0000000000000001.seg", &segment);
    }
    let mut lsns = vec![Lsn::ZERO, Lsn::new(64), Lsn::new(u64::MAX)];
    let salvaged = salvage(dir(), sim.clone(), |found| {
        if let Salvaged::Record { record, .. } = found {
            lsns.push(record.lsn);
        }
        ControlFlow::Continue(())
    });
    let whole = salvaged.is_ok_and(|report| report.is_whole());
    let report = verify(dir(), sim.clone(), |_| {});
    if let Ok(reader) = Reader::open(dir(), sim.clone()) {
        let records = reader.scan(..).map(|records| records.flatten().count());
        for lsn in &lsns {
            let _any_answer = reader.read(*lsn);
        }
        if let Ok(report) = &report
            && report.damage.is_none()
            && !whole
        {
            panic!("verify finds no damage, and salvage does: {report:?}, {records:?}");
        }
    }
    if let Ok(store) = Store::open(dir(), sim.clone(), options()) {
        let lsn = store.append_durable(b"goes on");
        if let Ok(lsn) = lsn {
            assert_eq!(store.read(lsn).expect("just appended"), b"goes on");
        }
        let _any_answer = store.scan(..).map(Iterator::count);
    }
}

#[test]
fn every_seed_of_the_fuzz_target_is_answered() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../esker-lss/fuzz/seeds/store");
    let mut count = 0;
    for entry in std::fs::read_dir(seeds).expect("seeds") {
        run(&std::fs::read(entry.expect("an entry").path()).expect("a seed"));
        count += 1;
    }
    assert!(count > 5, "{count} seeds");
}
