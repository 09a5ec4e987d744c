//! What is done to a store.

use std::fmt::Debug;

use esker_io::Backend;
use esker_lss::{AppendDurableError, AppendError, Lsn, Options, ReadError, Store, TrimError};
use esker_sim::{Dice, Sim};

use crate::model::{End, Model, Records, dir, try_scan};
use crate::window;

/// One thing done to a store. What names a record picks it by a number modulo how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Append(usize),
    AppendDurable(usize),
    /// Appends small records through several appenders, and does other things between them.
    Burst(u64),
    /// Appends a few small records at once.
    Batch(u64),
    WaitDurable(u64),
    WaitWritten(u64),
    Flush,
    Read(u64),
    Scan,
    Trim(u64),
    Maintain,
    /// Looks at the store from outside, beside the writer, and follows it from within.
    Look,
    /// Completes so many operations.
    Poll(u64),
    /// Closes the store and opens it again.
    Close,
    /// Drops the store and opens it again.
    Drop,
}

impl Step {
    pub(crate) fn drawn(dice: &mut Dice) -> Self {
        match dice.below(40) {
            0..11 => Self::Append(len(dice)),
            11..13 => Self::Batch(dice.draw()),
            13..16 => Self::Burst(dice.draw()),
            16..20 => Self::AppendDurable(len(dice)),
            20..22 => Self::WaitDurable(dice.draw()),
            22..24 => Self::WaitWritten(dice.draw()),
            24..26 => Self::Flush,
            26..28 => Self::Read(dice.draw()),
            28 => Self::Scan,
            29..31 => Self::Trim(dice.draw()),
            31..34 => Self::Maintain,
            34..37 => Self::Poll(dice.below(4)),
            37 => Self::Look,
            38 => Self::Close,
            _ => Self::Drop,
        }
    }
}

fn len(dice: &mut Dice) -> usize {
    match dice.below(10) {
        0 => 0,
        1..4 => dice.index(100),
        4..7 => dice.index(2000),
        7 => 2500 + dice.index(2000),
        // Fills an empty buffer of one of these sizes to its last byte, or nearly.
        8 => (4096 << dice.below(3)) - 64 - 8 - dice.index(16),
        _ => 5000 + dice.index(20_000),
    }
}

/// The records of a batch, which fit into the smallest buffer together.
fn batch(model: &mut Model, dice: &mut Dice) -> Vec<Vec<u8>> {
    (0..=dice.below(5))
        .map(|_| model.payload(dice.index(600)))
        .collect()
}

fn slices(records: &[Vec<u8>]) -> Vec<&[u8]> {
    records.iter().map(Vec::as_slice).collect()
}

/// A store in use, and what is known of it.
pub(crate) struct Bench {
    pub(crate) sim: Sim,
    pub(crate) options: Options,
    pub(crate) model: Model,
    pub(crate) store: Store<Sim>,
    /// Whether operations may fail although the machine is up.
    pub(crate) may_fail: bool,
    /// Whether the disk may be full.
    pub(crate) may_be_full: bool,
}

impl Bench {
    /// Does one step, and gives itself back if the life goes on; else what is known at its end.
    pub(crate) fn step(mut self, step: Step) -> Result<Self, Model> {
        if matches!(step, Step::Close | Step::Drop) {
            return self.reopen(step == Step::Close);
        }
        let went = self.try_step(step);
        self.model.look(&self.store);
        window::check(&self.model, &self.store);
        if went.is_some() {
            Ok(self)
        } else {
            let Self { model, store, .. } = self;
            drop(store);
            Err(model)
        }
    }

    /// The value, or `None` at the end of this life. Anything else is a failure.
    fn pass<T, E: Debug>(&self, step: Step, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(_) if self.sim.is_down() || self.may_fail => None,
            Err(error) => panic!("{step:?}: {error:?}"),
        }
    }

    /// A record by number; none if there are none.
    fn pick(&self, number: u64) -> Option<(usize, Lsn)> {
        let count = self.model.len() as u64;
        let index = usize::try_from(number.checked_rem(count)?).expect("small");
        Some((index, self.model.lsn(index)?))
    }

    /// Does one step that does not reopen the store; `None` if that has ended this life.
    pub(crate) fn try_step(&mut self, step: Step) -> Option<()> {
        match step {
            Step::Append(len) => {
                let payload = self.model.payload(len);
                let appended = self.store.append(&payload);
                let full = matches!(appended, Err(AppendError::NoSpace { .. }));
                if full && self.may_be_full {
                    return Some(());
                }
                let lsn = self.pass(step, appended)?;
                self.model.appended(lsn, payload);
            }
            Step::AppendDurable(len) => {
                let payload = self.model.payload(len);
                let appended = self.store.append_durable(&payload);
                match &appended {
                    Ok(lsn) => {
                        self.model.appended(*lsn, payload);
                        self.model.is_durable(self.model.len());
                    }
                    Err(AppendDurableError::Append(AppendError::NoSpace { .. }))
                        if self.may_be_full =>
                    {
                        return Some(());
                    }
                    Err(AppendDurableError::Commit(_)) => self.model.maybe_appended(payload),
                    Err(_) => {}
                }
                self.pass(step, appended)?;
            }
            Step::Burst(seed) => self.burst(step, seed)?,
            Step::Batch(seed) => {
                let records = batch(&mut self.model, &mut Dice::new(seed));
                let appended = self.store.append_batch(&slices(&records));
                let full = matches!(appended, Err(AppendError::NoSpace { .. }));
                if full && self.may_be_full {
                    return Some(());
                }
                let lsns = self.pass(step, appended)?;
                self.model.appended_together(&lsns, records);
            }
            Step::WaitDurable(number) => {
                let Some((index, lsn)) = self.pick(number) else {
                    return Some(());
                };
                self.pass(step, self.store.wait_durable(lsn))?;
                self.model.is_durable(index + 1);
            }
            Step::WaitWritten(number) => {
                let Some((index, lsn)) = self.pick(number) else {
                    return Some(());
                };
                self.pass(step, self.store.wait_written(lsn))?;
                self.model.is_written(index + 1);
            }
            Step::Flush => {
                self.pass(step, self.store.flush())?;
                self.model.is_durable(self.model.len());
            }
            Step::Read(number) => {
                let Some((index, lsn)) = self.pick(number) else {
                    return Some(());
                };
                let read = self.store.read(lsn);
                if lsn < self.store.first() {
                    assert!(matches!(read, Err(ReadError::Trimmed { .. })), "{read:?}");
                } else {
                    let payload = self.pass(step, read)?;
                    assert!(
                        payload == self.model.payload_of(index),
                        "{lsn} reads otherwise"
                    );
                }
            }
            Step::Scan => {
                // It writes what is in memory, and completes what is in flight on the way.
                let records = self.pass(step, try_scan(&self.store))?;
                if self.sim.is_down() || self.may_fail {
                    return None;
                }
                self.model.check_all(&self.store, &records);
            }
            Step::Trim(number) => {
                let Some((_, lsn)) = self.pick(number) else {
                    return Some(());
                };
                if lsn <= self.store.durable() {
                    self.model.tries_to_trim(lsn);
                }
                match self.store.trim_before(lsn) {
                    Err(TrimError::NotDurable { .. }) if lsn > self.store.durable() => {}
                    trimmed => {
                        let first = self.pass(step, trimmed)?;
                        if self.model.has_trimmed(first) {
                            check_space(&self.sim, &self.store);
                        }
                    }
                }
                assert!(self.store.first() <= self.store.durable());
            }
            Step::Maintain => self.pass(step, self.store.maintain())?,
            Step::Look => {
                let looked = self.model.look_beside(&self.sim, &self.store);
                self.pass(step, looked)?;
                let followed = self.model.followed(&self.store);
                self.pass(step, followed)?;
            }
            Step::Poll(count) => {
                for _ in 0..count {
                    self.sim.poll();
                }
            }
            Step::Close | Step::Drop => unreachable!("taken care of before"),
        }
        Some(())
    }

    /// Appenders that take turns, with appends through the store, reads and commits in between: each
    /// one's records keep their order, and a lease that is live holds up nothing. Somebody follows
    /// meanwhile, and looks now and then.
    fn burst(&mut self, step: Step, seed: u64) -> Option<()> {
        let mut dice = Dice::new(seed);
        let mut appenders: Vec<_> = (0..3).map(|_| (self.store.appender(), None)).collect();
        let (from, mut found) = (self.store.tail(), Records::new());
        let mut follower = self.store.follow_new();
        for _ in 0..dice.below(40) {
            let len = dice.index(200);
            let payload = self.model.payload(len);
            let (number, what) = (dice.index(3), dice.below(20));
            let (appender, last) = &mut appenders[number];
            if what == 3 {
                let records = batch(&mut self.model, &mut dice);
                let lsns = match appender.append_batch(&slices(&records)) {
                    Ok(lsns) => lsns,
                    Err(AppendError::NoSpace { .. }) if self.may_be_full => continue,
                    Err(_) if self.sim.is_down() || self.may_fail => return None,
                    Err(error) => panic!("{step:?}: {error:?}"),
                };
                assert!(
                    last.replace(lsns[lsns.len() - 1]) < Some(lsns[0]),
                    "an appender's addresses grow"
                );
                self.model.appended_together(&lsns, records);
                continue;
            }
            let appended = match what {
                0 => self.store.append(&payload),
                1 => {
                    let void = appender.try_append_with(len, |_| Err(std::fmt::Error));
                    assert!(void.is_err());
                    continue;
                }
                2 => appender.append_with(len, |bytes| bytes.copy_from_slice(&payload)),
                _ => appender.append(&payload),
            };
            let full = matches!(appended, Err(AppendError::NoSpace { .. }));
            if full && self.may_be_full {
                continue;
            }
            let lsn = match appended {
                Ok(lsn) => lsn,
                Err(_) if self.sim.is_down() || self.may_fail => return None,
                Err(error) => panic!("{step:?}: {error:?}"),
            };
            if what != 0 {
                assert!(
                    last.replace(lsn) < Some(lsn),
                    "an appender's addresses grow"
                );
            }
            let index = self.model.appended_anywhere(lsn, payload);
            match dice.below(12) {
                0 => {
                    let read = self.store.read(lsn);
                    let read = self.pass(step, read)?;
                    assert!(
                        read == self.model.payload_of(index),
                        "{lsn} reads otherwise"
                    );
                }
                1 => {
                    self.pass(step, self.store.wait_durable(lsn))?;
                    self.model.is_durable(index + 1);
                }
                2 => {
                    self.pass(step, self.store.flush())?;
                    self.model.is_durable(self.model.len());
                }
                3 => {
                    let (model, store) = (&mut self.model, &self.store);
                    let followed = model.followed_from(store, from, &mut follower, &mut found);
                    self.pass(step, followed)?;
                }
                _ => {}
            }
        }
        Some(())
    }

    fn reopen(self, cleanly: bool) -> Result<Self, Model> {
        let Self {
            sim,
            options,
            mut model,
            store,
            may_fail,
            may_be_full,
        } = self;
        let over = |sim: &Sim| sim.is_down() || may_fail;
        if cleanly {
            match store.close() {
                Ok(()) => model.is_durable(model.len()),
                Err(_) if over(&sim) => return Err(model),
                Err(error) => panic!("close: {error:?}"),
            }
        } else {
            drop(store);
            if sim.is_down() {
                return Err(model);
            }
        }
        match Store::open(dir(), sim.clone(), options.clone()) {
            Ok(store) => {
                // It may go down while it is being looked at, but looking changes nothing.
                model.recovered(&store, End::Kill);
                Ok(Self {
                    sim,
                    options,
                    model,
                    store,
                    may_fail,
                    may_be_full,
                })
            }
            Err(_) if over(&sim) => Err(model),
            Err(error) => panic!("the store does not open again: {error:?}"),
        }
    }
}

/// After a trim, the files are those of what is left, of what the ring can still take, and a few
/// spares.
fn check_space(sim: &Sim, store: &Store<Sim>) {
    let segment_bytes = 64 << 10;
    let superblock_bytes = (64 << 10) + 4096;
    let ahead = 64 << 10;
    let last = (store.tail().get() + ahead) / segment_bytes;
    let segments = last + 1 - store.first().get() / segment_bytes;
    let spares = 3;
    let most = superblock_bytes + (segments + spares) * segment_bytes;
    let used = sim.used_bytes();
    assert!(used <= most, "{used} bytes are used, and {most} are enough");
}
