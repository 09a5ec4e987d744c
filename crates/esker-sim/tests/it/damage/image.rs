//! A store on a disk, with what is known of it: what it holds, and where its slots are, read by the
//! tables of `docs/format.md` and by nothing of the store's.

use std::collections::BTreeMap;
use std::ops::Range;

use esker_io::Ordering;
use esker_lss::{Options, Store};
use esker_sim::{Sim, SimOptions, Survival};

use crate::model::{dir, small, try_scan};

pub(super) const SEGMENT: u64 = 64 << 10;
pub(super) const BLOCK: u64 = 512;

/// Records by their address.
pub(super) type Records = BTreeMap<u64, Vec<u8>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) base: u64,
    pub(super) end: u64,
    pub(super) epoch: u32,
    pub(super) durable: u64,
}

pub(super) struct Image {
    pub(super) sim: Sim,
    pub(super) records: Records,
    pub(super) slots: Vec<Slot>,
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) epoch: u32,
    pub(super) epoch_start: u64,
    pub(super) checkpoint: u64,
    pub(super) clean_end: Option<u64>,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The segment of a file's name.
pub(super) fn segment_of(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(".seg")?, 16).ok()
}

impl Image {
    fn of(sim: Sim, records: Records) -> Self {
        let superblock = sim
            .contents(&dir().join("superblock"))
            .expect("there is one");
        let mut image = Self {
            records,
            slots: Vec::new(),
            first: u64_at(&superblock, 96),
            end: 0,
            epoch: u32_at(&superblock, 32),
            epoch_start: u64_at(&superblock, 64),
            checkpoint: u64_at(&superblock, 128),
            clean_end: (u32_at(&superblock, 160) == 1).then(|| u64_at(&superblock, 168)),
            sim,
        };
        let log = image.log(&image.sim);
        let mut at = image.first;
        loop {
            let header = &log[usize::try_from(at).expect("small")..][..64];
            if header[..4] != *b"ESKR" || u64_at(header, 32) != at {
                break;
            }
            let end = at + u64::from(u32_at(header, 8)).next_multiple_of(BLOCK);
            let epoch = u32_at(header, 12);
            let is_stale = image
                .slots
                .last()
                .is_some_and(|last: &Slot| epoch < last.epoch);
            if is_stale || image.clean_end == Some(at) {
                break;
            }
            image.slots.push(Slot {
                base: at,
                end,
                epoch,
                durable: u64_at(header, 40),
            });
            at = end;
        }
        image.end = at;
        image
    }

    /// A store that has crashed in its second life, after more than the window: no checkpoint has come
    /// between.
    pub(super) fn long() -> Self {
        let store_id = 7;
        let sim = Sim::with(SimOptions::new(store_id).alone(true));
        let store = open(&sim, store_id);
        fill(&store, 1, &[700, 9_000, 30]);
        store.close().expect("closes");
        let store = open(&sim, store_id);
        let window_bytes = store.info().expect("info").window_bytes;
        let begin = store.tail().get();
        let mut salt = 0;
        while store.tail().get() < begin + window_bytes * 3 / 2 {
            fill(&store, salt, &[3_000, 0, 20_000, 9_000, 28_000, 3_900]);
            salt += 1;
        }
        store.flush().expect("flushes");
        let acknowledged = store.durable().get();
        fill(&store, 99, &[30]);
        store.flush().expect("flushes");
        let all = records(&store);
        sim.stop();
        drop(store);
        let image = Self::of(sim.crash(&mut |_| Survival::Kept), all);
        assert!(image.end - image.checkpoint > window_bytes);
        image.says_what_was_durable(acknowledged);
        image
    }

    /// The last slot was submitted when everything below that was durable, and says so.
    fn says_what_was_durable(&self, acknowledged: u64) {
        let last = self.slots.last().expect("there are some");
        assert!(last.durable >= acknowledged, "{last:?} for {acknowledged}");
    }

    /// The log's bytes by address; zeroes where there is no file.
    pub(super) fn log(&self, sim: &Sim) -> Vec<u8> {
        let mut log = Vec::new();
        for path in sim.paths() {
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(segment) = name.and_then(segment_of).filter(|segment| *segment < 64) else {
                continue;
            };
            let bytes = sim.contents(&path).expect("it is there");
            let start = usize::try_from(segment * SEGMENT).expect("small");
            log.resize(log.len().max(start + bytes.len()), 0);
            log[start..start + bytes.len()].copy_from_slice(&bytes);
        }
        log.resize(log.len().max(64 << 10) + 64, 0);
        log
    }

    /// The same disk again, to be damaged.
    pub(super) fn copy(&self) -> Sim {
        self.sim.crash(&mut |_| Survival::Kept)
    }

    /// The room of a record.
    pub(super) fn room(lsn: u64, payload: &[u8]) -> Range<u64> {
        lsn..lsn + 8 + payload.len() as u64
    }

    /// The address up to which something that is whole says that all was durable, if what lies in
    /// `damaged` slots says nothing; as far as it is looked for from `at` on.
    pub(super) fn proven(&self, at: u64, is_damaged: impl Fn(&Slot) -> bool) -> u64 {
        let marked = [
            self.epoch_start,
            self.checkpoint,
            self.clean_end.unwrap_or(0),
        ];
        let marked = marked.into_iter().max().unwrap_or(0);
        let whole = self.slots.iter().filter(|slot| !is_damaged(slot));
        let said = whole.filter(|slot| {
            slot.base < at || (slot.epoch == self.epoch && self.clean_end.is_none())
        });
        said.map(|slot| slot.durable).max().unwrap_or(0).max(marked)
    }
}

pub(super) struct Images {
    /// Closed.
    pub(super) closed: Image,
    /// The same store, crashed in its next life.
    pub(super) crashed: Image,
    /// What it was some lives before, with a tail that a crash then dropped.
    pub(super) earlier: Image,
    /// Another store that has done the same.
    pub(super) other: Image,
}

fn options(store_id: u64) -> Options {
    small(Ordering::TailLocalised).store_id(store_id)
}

fn open(sim: &Sim, store_id: u64) -> Store<Sim> {
    Store::open(dir(), sim.clone(), options(store_id)).expect("opens")
}

fn fill(store: &Store<Sim>, salt: u8, lens: &[usize]) {
    for (number, len) in lens.iter().enumerate() {
        let fill = salt.wrapping_add(u8::try_from(number).expect("few"));
        let payload: Vec<u8> = (0..*len)
            .map(|at| {
                fill.wrapping_mul(31)
                    .wrapping_add(u8::try_from(at % 251).expect("small"))
            })
            .collect();
        store.append(&payload).expect("appends");
        if number % 3 == 2 {
            store.flush().expect("flushes");
        }
    }
}

fn records(store: &Store<Sim>) -> Records {
    let records = try_scan(store).expect("intact").into_iter();
    records.map(|(lsn, payload)| (lsn.get(), payload)).collect()
}

fn idle(store: &Store<Sim>) {
    for _ in 0..4 {
        store.maintain().expect("maintains");
    }
}

/// Several lives of a store with small and large records, voids, a trim, and a dropped tail.
fn lives(store_id: u64) -> (Image, Image, Image) {
    let sim = Sim::with(SimOptions::new(store_id).alone(true));
    let store = open(&sim, store_id);
    fill(&store, 1, &[30_000, 30_000, 300, 9_000]);
    store.flush().expect("flushes");
    idle(&store);
    fill(&store, 20, &[0, 100, 3000, 17, 3500, 60]);
    store.flush().expect("flushes");
    let all = records(&store);
    let trim = *all.keys().nth(4).expect("five records");
    store.trim_before(esker_lss::Lsn::new(trim)).expect("trims");
    let kept = store.durable();
    fill(&store, 40, &[700, 2000, 900]);
    let all = records(&store);
    // What lies behind has been written: it may survive the power, or not.
    sim.stop();
    drop(store);
    let earlier = Image::of(sim.crash(&mut |_| Survival::Kept), all);
    let lost = sim.crash(&mut |_| Survival::Lost);

    let store = open(&lost, store_id);
    assert!(store.durable() >= kept);
    fill(&store, 60, &[700, 2000, 9000, 40]);
    store.flush().expect("flushes");
    idle(&store);
    let all = records(&store);
    store.close().expect("closes");
    let closed = Image::of(lost.crash(&mut |_| Survival::Kept), all);

    let sim = closed.copy();
    let store = open(&sim, store_id);
    fill(&store, 80, &[10, 1500, 400, 6000, 30, 800, 20]);
    store.flush().expect("flushes");
    let acknowledged = store.durable().get();
    fill(&store, 90, &[30]);
    store.flush().expect("flushes");
    let all = records(&store);
    sim.stop();
    drop(store);
    let crashed = Image::of(sim.crash(&mut |_| Survival::Kept), all);
    crashed.says_what_was_durable(acknowledged);
    (closed, crashed, earlier)
}

impl Images {
    pub(super) fn make() -> Self {
        let (closed, crashed, earlier) = lives(7);
        let (other, ..) = lives(8);
        for image in [&closed, &crashed] {
            assert!(
                image.slots.len() > 6 && image.first > 0,
                "{:?}",
                image.slots
            );
            let last = image.records.last_key_value().map(|(lsn, _)| *lsn);
            let last_slot = image.slots.last().map(|slot| slot.base..slot.end);
            let is_known = last.is_some_and(|last| last < image.end);
            assert!(is_known && last_slot.is_some(), "every slot is known");
        }
        Self {
            closed,
            crashed,
            earlier,
            other,
        }
    }
}
