//! [`Truth`]: what a store that threads share has said, and what it has to hold after a crash.
//!
//! Its lock is std's: it is held for nothing that the scheduler sees, and orders nothing there.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use esker_io::Ordering;
use esker_lss::{Lsn, Store};
use esker_sim::{Loss, Sim};

use crate::model::{End, Records, SEGMENT_BYTES, try_scan};
use crate::record::{following, is_whole, written_by};

pub(crate) struct Truth {
    ordering: Ordering,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Whose appends have returned, and that were not lost since. A record may be in the log before
    /// it is here.
    appended: BTreeMap<Lsn, Vec<u8>>,
    /// Everything below was acknowledged as durable, or as written, or the store said so.
    durable: u64,
    written: u64,
    /// Between these two the log begins.
    trimmed: u64,
    trim_tried: u64,
}

/// Of what was written below `durable`, and not trimmed, nothing is left to chance.
fn nothing_durable_can_be_lost(store: &Store<Sim>, sim: &Sim, durable: u64) {
    let undurable = sim.undurable();
    // After the disk was asked: a file that has gone since is below.
    let first = store.first().get();
    for item in undurable {
        let name = item.path.file_name().and_then(|name| name.to_str());
        let Some(segment) = name.and_then(|name| name.strip_suffix(".seg")) else {
            continue;
        };
        let segment = u64::from_str_radix(segment, 16).expect("a segment's name");
        let start = segment * SEGMENT_BYTES;
        let (from, to) = match item.what {
            Loss::Written { offset, len_bytes } => (offset, offset + len_bytes as u64),
            // Of a part in flight nobody has said anything; names and lengths are the whole file's.
            Loss::InFlight { .. } => continue,
            Loss::Length | Loss::Name => (0, SEGMENT_BYTES),
        };
        assert!(
            durable <= start + from || start + to <= first,
            "the store calls {durable} durable, and {item:?} may be lost"
        );
    }
}

/// One write of the log comes after the other: in each file they have landed in their order.
fn nothing_has_overtaken(sim: &Sim) {
    let mut last = BTreeMap::new();
    for item in sim.undurable() {
        let is_log = item.path.extension().is_some_and(|kind| kind == "seg");
        let (true, Loss::Written { offset, .. } | Loss::InFlight { offset, .. }) =
            (is_log, item.what)
        else {
            continue;
        };
        let before = last.insert(item.path, offset);
        assert!(
            before < Some(offset),
            "{offset} is written after {before:?}"
        );
    }
}

impl Truth {
    /// Of a store with this order of writes, before anything is appended.
    pub(crate) fn of(ordering: Ordering) -> Self {
        let known = Mutex::default();
        Self { ordering, known }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("whole")
    }

    pub(crate) fn appended(&self, lsn: Lsn, payload: Vec<u8>) {
        let before = self.known().appended.insert(lsn, payload);
        assert!(before.is_none(), "{lsn} was given out twice");
    }

    pub(crate) fn is_durable(&self, end: u64) {
        let known = &mut *self.known();
        known.durable = known.durable.max(end);
        known.written = known.written.max(end);
    }

    pub(crate) fn is_written(&self, end: u64) {
        let known = &mut *self.known();
        known.written = known.written.max(end);
    }

    /// The store said that the log begins there: what lies below does not come back.
    fn is_trimmed(&self, first: u64) {
        let known = &mut *self.known();
        assert!(first <= known.trim_tried, "more than asked for");
        known.trimmed = known.trimmed.max(first);
    }

    /// The store was closed: nothing may be lost.
    pub(crate) fn is_durable_to_the_last(&self) {
        if let Some(last) = self.last() {
            self.is_durable(last.get() + 1);
        }
    }

    /// The record that lies last of those whose appends have returned.
    pub(crate) fn last(&self) -> Option<Lsn> {
        Some(*self.known().appended.last_key_value()?.0)
    }

    /// Any of them, chosen by a number.
    pub(crate) fn any(&self, number: u64) -> Option<(Lsn, Vec<u8>)> {
        let known = self.known();
        let index = number.checked_rem(known.appended.len() as u64)?;
        let index = usize::try_from(index).expect("small");
        let (lsn, payload) = known.appended.iter().nth(index)?;
        Some((*lsn, payload.clone()))
    }

    pub(crate) fn all(&self) -> Records {
        self.known().appended.clone().into_iter().collect()
    }

    pub(crate) fn tries_to_trim(&self, lsn: Lsn) {
        let known = &mut *self.known();
        known.trim_tried = known.trim_tried.max(lsn.get());
    }

    pub(crate) fn has_trimmed(&self, first: Lsn) {
        self.is_trimmed(first.get());
    }

    /// Takes note of what the store says of itself. Each end is read once, in this order, and none
    /// of them goes back, so that each is at most the next. And the disk could lose nothing that the
    /// store calls durable, were the power to fail.
    pub(crate) fn look(&self, store: &Store<Sim>, sim: &Sim) {
        let (durable_before, written_before) = {
            let known = self.known();
            (known.durable, known.written)
        };
        let durable = store.durable().get();
        let written = store.written().get();
        let tail = store.tail().get();
        assert!(
            durable <= written && written <= tail,
            "durable {durable}, written {written}, tail {tail}"
        );
        // An end that was acknowledged is the end of a record, and so not above these.
        assert!(durable >= durable_before, "the durable end went back");
        assert!(written >= written_before, "the written end went back");
        self.is_durable(durable);
        self.is_written(written);
        self.is_trimmed(store.first().get());
        nothing_durable_can_be_lost(store, sim, durable);
        if self.ordering == Ordering::Serialised {
            nothing_has_overtaken(sim);
        }
    }

    /// Checks a store that has just been opened after a life that ended as `end` says, and goes on
    /// from what it holds.
    pub(crate) fn recovered(&self, store: &Store<Sim>, end: End, settled: bool) {
        assert!(settled, "late writes are not part of these runs");
        let found = try_scan(store).expect("every record is whole");
        let (first, tail) = (store.first(), store.durable());
        let known = &mut *self.known();
        assert!(
            (known.trimmed..=known.trim_tried).contains(&first.get()),
            "the log begins at {first}, and was trimmed to between {} and {}",
            known.trimmed,
            known.trim_tried
        );
        let needed = match end {
            End::Power => known.durable,
            End::Kill => known.written,
        };
        assert!(
            tail.get() >= needed,
            "the log ends at {tail}, and had reached {needed}"
        );
        // Every record whose address was given out and lies in what was recovered is there as it
        // was written: so what is left is a prefix, and no address has changed its meaning.
        let kept = known.appended.range(first..tail);
        let found_at: BTreeMap<Lsn, &[u8]> =
            found.iter().map(|(at, bytes)| (*at, &**bytes)).collect();
        for (lsn, payload) in kept {
            assert!(
                found_at.get(lsn) == Some(&&**payload),
                "{lsn} is missing, or another"
            );
        }
        // And nothing else, but what was being appended when the machine stopped: each thread's
        // records are there in its order and without a gap.
        let mut authors = BTreeMap::new();
        for (lsn, payload) in &found {
            assert!(is_whole(payload), "{lsn} was never appended");
            let (author, number) = written_by(payload);
            let next = authors.entry(author).or_insert(number);
            assert_eq!(
                *next, number,
                "{author:?}: a gap, or out of order, at {lsn}"
            );
            *next += 1;
        }
        for (index, (lsn, payload)) in found.iter().enumerate() {
            let rest = found.get(index + 1..).unwrap_or_default().iter();
            let rest = rest.map(|(_, payload)| (written_by(payload).0, following(payload)));
            let follow = following(payload);
            let batch = (0..follow).rev().map(|left| (written_by(payload).0, left));
            assert!(
                rest.take(usize::try_from(follow).expect("small")).eq(batch),
                "half of a batch is left, from {lsn}"
            );
        }
        known.appended = found.into_iter().collect();
        (known.durable, known.written) = (tail.get(), tail.get());
        (known.trimmed, known.trim_tried) = (first.get(), first.get());
    }
}
