//! What a store over a simulated disk has to hold, whatever becomes of the disk.

use std::error::Error;
use std::path::Path;

use esker_io::Ordering;
use esker_lss::{Follower, Lsn, Maintenance, OpenError, Options, ReadError, Reader, Store, verify};
use esker_sim::{Dice, Loss, Sim, Survival, Undurable};

use crate::seeds;

/// Where the store is.
pub(crate) fn dir() -> &'static Path {
    Path::new("/data/store")
}

/// What a record takes besides its payload, but for what rounds it up.
const RECORD_HEADER_BYTES: u64 = 8;

/// The size of the segments of a small store.
pub(crate) const SEGMENT_BYTES: u64 = 64 << 10;

/// Small buffers, segments and windows, so that little data meets every boundary; no threads.
pub(crate) fn small(ordering: Ordering) -> Options {
    Options::default()
        .ordering(ordering)
        .buffers(3)
        .buffer_bytes(4 << 10)
        .block_bytes(512)
        .segment_bytes(SEGMENT_BYTES)
        .max_record_bytes(32 << 10)
        .window_slots(4)
        .sync_every_bytes(12 << 10)
        .huge_pages(esker_buf::HugePages::Never)
        .gather(std::time::Duration::ZERO)
        .maintenance(Maintenance::Manual)
        .store_id(7)
}

/// What a scan gives.
pub(crate) type Records = Vec<(Lsn, Vec<u8>)>;

/// Where in the log something that is not durable begins and ends, if it is a write of the log's.
pub(crate) fn range_of(item: &Undurable) -> Option<(u64, u64)> {
    let (Loss::Written { offset, len_bytes } | Loss::InFlight { offset, len_bytes }) = item.what
    else {
        return None;
    };
    let name = item.path.file_name()?.to_str()?;
    let segment = u64::from_str_radix(name.strip_suffix(".seg")?, 16).ok()?;
    let start = segment * SEGMENT_BYTES + offset;
    Some((start, start + len_bytes as u64))
}

/// What has been written to the log, or is on its way, and is not durable.
pub(crate) fn log_writes(sim: &Sim) -> Vec<(u64, u64)> {
    sim.undurable().iter().filter_map(range_of).collect()
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By the power: what is durable has to be there.
    Power,
    /// By a signal: so has what was written.
    Kill,
}

/// A record that may be in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// Not known of one whose append did not return: only the last of a life is such a one.
    lsn: Option<Lsn>,
    payload: Vec<u8>,
    /// The batch that it was appended in.
    batch: Option<u64>,
}

/// Everything that was appended and not dropped, and how much of it has to be there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    log: Vec<Entry>,
    /// So many records from the beginning are durable, be they trimmed or not.
    durable: usize,
    /// So many have been written.
    written: usize,
    /// The largest ends that the store has named.
    durable_end: u64,
    written_end: u64,
    /// Between these two the log begins.
    trimmed: u64,
    trim_tried: u64,
    /// What was written and not durable when this life began.
    left_behind: Vec<(u64, u64)>,
    /// Records that were made up so far.
    made: u64,
    /// Whether the store has ever been opened.
    pub(crate) is_created: bool,
}

impl Model {
    /// A payload like no other.
    pub(crate) fn payload(&mut self, len: usize) -> Vec<u8> {
        self.made += 1;
        let fill = self.made.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
        let mut payload = fill.repeat(len.div_ceil(fill.len()));
        payload.truncate(len);
        payload
    }

    pub(crate) fn appended(&mut self, lsn: Lsn, payload: Vec<u8>) {
        let last = self.log.last().and_then(|entry| entry.lsn);
        assert!(last.is_none_or(|last| last < lsn), "{lsn} after {last:?}");
        assert!(lsn.get() >= self.durable_end, "{lsn} is durable already");
        let lsn = Some(lsn);
        self.log.push(Entry {
            lsn,
            payload,
            batch: None,
        });
    }

    /// The same, for a record that lies wherever its appender had room, and its number.
    pub(crate) fn appended_anywhere(&mut self, lsn: Lsn, payload: Vec<u8>) -> usize {
        assert!(lsn.get() >= self.durable_end, "{lsn} is durable already");
        let index = self.below(lsn);
        let here = self.log.get(index).and_then(|entry| entry.lsn);
        assert!(here != Some(lsn), "{lsn} was given out twice");
        let lsn = Some(lsn);
        self.log.insert(
            index,
            Entry {
                lsn,
                payload,
                batch: None,
            },
        );
        index
    }

    /// The same for records that were appended in one batch: with nothing between them, and after a
    /// crash all are there or none.
    pub(crate) fn appended_together(&mut self, lsns: &[Lsn], records: Vec<Vec<u8>>) {
        assert_eq!(lsns.len(), records.len(), "each has an address");
        self.made += 1;
        let mut expected = lsns.first().map_or(0, |lsn| lsn.get());
        for (lsn, payload) in lsns.iter().zip(records) {
            assert_eq!(lsn.get(), expected, "they follow each other");
            expected += (RECORD_HEADER_BYTES + payload.len() as u64).next_multiple_of(8);
            let index = self.appended_anywhere(*lsn, payload);
            self.log[index].batch = Some(self.made);
        }
    }

    /// It may be in the log or not.
    pub(crate) fn maybe_appended(&mut self, payload: Vec<u8>) {
        self.log.push(Entry {
            lsn: None,
            payload,
            batch: None,
        });
    }

    /// How many records there may be.
    pub(crate) fn len(&self) -> usize {
        self.log.len()
    }

    /// What a life before has left, written and not durable, when this one began.
    pub(crate) fn left_behind(&self) -> &[(u64, u64)] {
        &self.left_behind
    }

    /// The largest durable end that the store has named.
    pub(crate) fn durable_end(&self) -> u64 {
        self.durable_end
    }

    /// The address of a record.
    pub(crate) fn lsn(&self, index: usize) -> Option<Lsn> {
        self.log.get(index)?.lsn
    }

    pub(crate) fn payload_of(&self, index: usize) -> &[u8] {
        &self.log[index].payload
    }

    /// So many records were acknowledged as durable.
    pub(crate) fn is_durable(&mut self, count: usize) {
        self.durable = self.durable.max(count);
        self.is_written(count);
    }

    /// So many were acknowledged as written.
    pub(crate) fn is_written(&mut self, count: usize) {
        self.written = self.written.max(count);
    }

    pub(crate) fn tries_to_trim(&mut self, lsn: Lsn) {
        self.trim_tried = self.trim_tried.max(lsn.get());
    }

    /// Whether the log begins later than before.
    pub(crate) fn has_trimmed(&mut self, first: Lsn) -> bool {
        assert!(
            first.get() <= self.trim_tried,
            "more was trimmed than asked for"
        );
        assert!(first.get() >= self.trimmed, "the log begins earlier again");
        std::mem::replace(&mut self.trimmed, first.get()) < first.get()
    }

    /// Takes note of what the store says of itself.
    pub(crate) fn look(&mut self, store: &Store<Sim>) {
        let (durable, written, tail) = (store.durable(), store.written(), store.tail());
        assert!(
            durable <= written && written <= tail,
            "{durable} {written} {tail}"
        );
        assert!(
            durable.get() >= self.durable_end,
            "the durable end went back"
        );
        assert!(
            written.get() >= self.written_end,
            "the written end went back"
        );
        self.durable_end = durable.get();
        self.written_end = written.get();
        // What the store says has been trimmed does not come back.
        let first = store.first().get();
        assert!(first >= self.trimmed, "the log begins earlier again");
        assert!(first <= self.trim_tried, "more was trimmed than asked for");
        self.trimmed = first;
        let below = |end| {
            self.log
                .partition_point(|entry| entry.lsn.is_some_and(|lsn| lsn < end))
        };
        let (durable, written) = (below(durable), below(written));
        self.is_durable(durable);
        self.is_written(written);
    }

    /// Checks what an open store holds in the middle of its life: everything.
    pub(crate) fn check_all(&self, store: &Store<Sim>, found: &[(Lsn, Vec<u8>)]) {
        let skipped = self.below(store.first());
        assert_eq!(
            found.len(),
            self.log.len() - skipped,
            "a scan sees every record"
        );
        self.check_found(skipped, found);
    }

    /// Looks at the store from outside while it is open: what has been written is seen, and nothing
    /// that was not appended.
    ///
    /// # Errors
    ///
    /// What the look says.
    pub(crate) fn look_beside(&self, sim: &Sim, store: &Store<Sim>) -> Result<(), Box<dyn Error>> {
        let written = self.below(store.written());
        let report = verify(dir(), sim.clone(), |_| {})?;
        assert_eq!(report.damage, None, "{report:?}");
        assert!(report.writer_alive && report.durable <= store.durable());
        let reader = Reader::open(dir(), sim.clone())?;
        assert_eq!(reader.first(), store.first());
        let skipped = self.below(reader.first());
        let records = reader.scan(..)?;
        let records: Records = records
            .map(|record| record.map(|record| (record.lsn, record.payload)))
            .collect::<Result<_, _>>()?;
        self.check_found(skipped, &records);
        assert!(skipped + records.len() >= written, "it was written");
        Ok(())
    }

    /// Whoever follows the log gets every record below the durable end, and no other: what it has got
    /// is there for good.
    pub(crate) fn followed(&mut self, store: &Store<Sim>) -> Result<(), ReadError> {
        let durable = self.below(store.durable());
        let mut follower = store.follow(store.first())?;
        let mut records = Records::new();
        loop {
            match follower.try_next() {
                Ok(Some(record)) => records.push((record.lsn, record.payload)),
                // Nothing more becomes durable after a failed write.
                Ok(None) | Err(ReadError::Lost { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        let skipped = self.below(store.first());
        self.check_found(skipped, &records);
        assert!(skipped + records.len() >= durable, "it was durable");
        self.is_durable(skipped + records.len());
        Ok(())
    }

    /// A follower that was there while records became durable has got every one from `from` on that is
    /// durable now, and no other; `found` is all that it has got so far.
    pub(crate) fn followed_from(
        &mut self,
        store: &Store<Sim>,
        from: Lsn,
        follower: &mut Follower<'_, Sim>,
        found: &mut Records,
    ) -> Result<(), ReadError> {
        let durable = self.below(store.durable());
        loop {
            match follower.try_next() {
                Ok(Some(record)) => found.push((record.lsn, record.payload)),
                Ok(None) | Err(ReadError::Lost { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        let skipped = self.below(from);
        self.check_found(skipped, found);
        assert!(skipped + found.len() >= durable, "it was durable");
        // What lies before `from` is durable only if something behind it is.
        if !found.is_empty() {
            self.is_durable(skipped + found.len());
        }
        Ok(())
    }

    fn below(&self, first: Lsn) -> usize {
        self.log
            .partition_point(|entry| entry.lsn.is_some_and(|lsn| lsn < first))
    }

    fn check_found(&self, skipped: usize, found: &[(Lsn, Vec<u8>)]) {
        assert!(
            skipped + found.len() <= self.log.len(),
            "records that were never appended"
        );
        for (entry, (lsn, payload)) in self.log[skipped..].iter().zip(found) {
            assert!(
                entry.lsn.is_none_or(|appended| appended == *lsn),
                "{:?} is at {lsn}",
                entry.lsn
            );
            assert!(entry.payload == *payload, "another record is at {lsn}");
        }
    }

    /// Checks a store that has just been opened after a life that ended as `end` says, and goes on
    /// from what it holds.
    pub(crate) fn recovered(&mut self, store: &Store<Sim>, end: End) {
        let first = store.first();
        assert!(
            (self.trimmed..=self.trim_tried).contains(&first.get()),
            "the log begins at {first}, and was trimmed to between {} and {}",
            self.trimmed,
            self.trim_tried
        );
        let found = scan(store);
        let skipped = self.below(first);
        self.check_found(skipped, &found);
        let count = skipped + found.len();
        let (needed, needed_end) = match end {
            End::Power => (self.durable, self.durable_end),
            End::Kill => (self.written, self.written_end),
        };
        assert!(
            count >= needed,
            "{count} records are left of {needed} that were acknowledged"
        );
        let tail = store.durable().get();
        assert!(
            tail >= needed_end,
            "the log ends at {tail}, and had reached {needed_end}"
        );
        assert_eq!(store.written().get(), tail);
        if let (Some(last), Some(lost)) = (found.last(), self.log.get(count)) {
            let kept = self.log[count - 1].batch;
            assert!(
                kept.is_none() || kept != lost.batch,
                "of a batch there is a part, up to {}",
                last.0
            );
        }
        for (entry, (lsn, _)) in self.log[skipped..].iter_mut().zip(&found) {
            entry.lsn = Some(*lsn);
        }
        self.log.truncate(count);
        (self.durable, self.written) = (count, count);
        (self.durable_end, self.written_end) = (tail, tail);
        (self.trimmed, self.trim_tried) = (first.get(), first.get());
        self.left_behind = log_writes(store.backend());
        self.is_created = true;
    }
}

/// Every record of an open store.
pub(crate) fn try_scan(store: &Store<Sim>) -> Result<Records, ReadError> {
    store
        .scan(..)?
        .map(|record| record.map(|record| (record.lsn, record.payload)))
        .collect()
}

fn scan(store: &Store<Sim>) -> Records {
    try_scan(store).expect("every record is whole")
}

/// What a look from outside finds, without changing anything: the records, and whether they were all
/// there, as late writes of a killed process are not. `None` where there is no store yet.
fn look_from_outside(sim: &Sim) -> Option<(Records, bool)> {
    let before = sim.effects();
    let settled = sim.late_writes() == 0;
    let report = match verify(dir(), sim.clone(), |_| {}) {
        Ok(report) => report,
        Err(OpenError::NoStore { .. }) => return None,
        Err(error) => panic!("verify: {error:?}"),
    };
    assert_eq!(report.damage, None, "a crash is no damage: {report:?}");
    let reader = Reader::open(dir(), sim.clone()).expect("the store opens for reading");
    let records = reader.scan(..).expect("a range");
    let records: Vec<_> = records
        .map(|record| record.map(|record| (record.lsn, record.payload)))
        .collect::<Result<_, _>>()
        .expect("every record is whole");
    if settled {
        assert!(!report.writer_alive);
        assert_eq!(
            report.records,
            records.len() as u64,
            "verify and the reader agree"
        );
        assert_eq!(report.end, reader.end());
    }
    assert_eq!(sim.effects(), before, "looking changes nothing");
    Some((records, settled))
}

/// Opens the store after the end of a life and checks it, from outside and from inside.
///
/// # Errors
///
/// What opening says, if the machine went down meanwhile.
pub(crate) fn recover(
    sim: &Sim,
    options: &Options,
    model: &mut Model,
    end: End,
) -> Result<Store<Sim>, OpenError> {
    let seen = look_from_outside(sim);
    assert!(seen.is_some() || !model.is_created, "the store is gone");
    let is_cycle = model.is_created;
    let store = match Store::open(dir(), sim.clone(), options.clone()) {
        Ok(store) => store,
        Err(error) if sim.is_down() => return Err(error),
        Err(error) => panic!("the store does not open: {error:?}"),
    };
    model.recovered(&store, end);
    if is_cycle {
        seeds::count_cycle();
    }
    if let Some((mut seen, settled)) = seen {
        if !settled {
            // A trim may have landed since.
            seen.retain(|(lsn, _)| *lsn >= store.first());
        }
        let inside = scan(&store);
        assert!(inside.starts_with(&seen), "a reader saw what is not there");
        assert!(!settled || inside.len() == seen.len(), "a reader saw less");
    }
    Ok(store)
}

/// Shows that a recovered store goes on: appends `more` records of these lengths, closes, is intact, and stays so without power.
pub(crate) fn goes_on(
    sim: &Sim,
    options: &Options,
    store: Store<Sim>,
    model: &mut Model,
    more: &[usize],
) {
    for len in more {
        let payload = model.payload(*len);
        let lsn = store.append_durable(&payload).expect("it goes on");
        model.appended(lsn, payload);
        model.is_durable(model.len());
    }
    model.check_all(&store, &scan(&store));
    model.look(&store);
    store.close().expect("closes");
    let report = verify(dir(), sim.clone(), |_| {}).expect("verified");
    assert!(report.is_intact() && report.closed, "{report:?}");
    // Whatever it was recovered from is durable by now.
    let next = sim.crash(&mut |_| Survival::Lost);
    let store = recover(&next, options, model, End::Power).expect("nothing is in its way");
    drop(store);
}

/// The choices of one crash: of all sorts, not only each for itself.
pub(crate) fn drawn_choice(dice: &mut Dice, count: usize) -> impl FnMut(&Undurable) -> Survival {
    let style = dice.below(6);
    let odd = dice.index(count);
    let mut dice = Dice::new(dice.draw());
    let mut number = 0;
    move |_| {
        let is_odd = number == odd;
        number += 1;
        match style {
            0 => Survival::Lost,
            1 => Survival::Kept,
            2 if is_odd => Survival::Lost,
            2 => Survival::Kept,
            3 if is_odd => Survival::Kept,
            3 => Survival::Lost,
            4 if is_odd => Survival::Torn(dice.draw()),
            4 => Survival::Kept,
            _ => Survival::drawn(&mut dice),
        }
    }
}
