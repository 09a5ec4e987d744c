//! What the threads do that share a store: those who append, and the one that looks after it.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use esker_io::Backend;
use esker_lss::{
    AppendError, AppendWithError, Appender, Lsn, ReadError, Store, TrimError, UntilDurable,
};
use esker_sim::{Dice, Sim};
use shuttle::{future::block_on, thread};

use crate::model::Records;
use crate::record::{self, Author};
use crate::truth::Truth;

/// A life of a store, as its threads share it.
pub(crate) struct Life {
    pub(crate) store: Store<Sim>,
    pub(crate) sim: Sim,
    pub(crate) truth: Arc<Truth>,
    /// Whether the store has a thread that commits for futures.
    pub(crate) has_committer: bool,
    /// Whether the disk has been told to fail something.
    pub(crate) may_fail: bool,
}

type Went = Result<(), Box<dyn Error>>;

/// A future that is polled now and then, and a note of whether it was woken.
pub(crate) struct Pending {
    future: UntilDurable,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

impl Pending {
    fn poll(&mut self) -> Poll<Result<(), esker_lss::CommitError>> {
        self.woken.0.store(false, SeqCst);
        let waker = Waker::from(Arc::clone(&self.woken));
        Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker))
    }

    /// Takes note of it after the store has gone: it has to have been woken, and to end.
    pub(crate) fn ends(mut self, truth: &Truth) {
        assert!(self.woken.0.load(SeqCst), "nobody has woken a future");
        match self.poll() {
            Poll::Ready(Ok(())) => truth.is_durable(self.future.end().get()),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => panic!("a future outlives its store and waits"),
        }
    }
}

/// One thread that appends: in two orders, through the store and through an appender.
struct Writer<'l> {
    life: &'l Life,
    through_store: Author,
    appender: Appender<'l, Sim>,
    through_appender: Author,
    pending: Vec<Pending>,
    dice: Dice,
}

impl Life {
    /// Appends and looks until the machine stops, something fails, or it has done enough. Gives the
    /// futures that have not ended.
    pub(crate) fn author(&self, number: u64, id: u64, mut dice: Dice) -> Vec<Pending> {
        let steps = 4 + dice.below(12);
        let mut writer = Writer {
            life: self,
            through_store: Author::new(number, 2 * id),
            appender: self.store.appender(),
            through_appender: Author::new(number, 2 * id + 1),
            pending: Vec::new(),
            dice,
        };
        for _ in 0..steps {
            self.truth.look(&self.store, &self.sim);
            if let Err(error) = writer.step() {
                self.has_failed(&*error);
                break;
            }
        }
        writer.pending
    }

    /// Something has failed: there is a reason, and from then on nothing is acknowledged that was
    /// not before.
    fn has_failed(&self, error: &dyn Error) {
        assert!(
            self.sim.is_down() || self.may_fail,
            "{error:?} while all is well"
        );
        let Err(refused) = self.store.append_batch(&[]) else {
            // It has not heard of it, or what failed was no write and no sync.
            return;
        };
        let durable = self.store.durable();
        if let AppendError::Poisoned(poison) = refused {
            assert_eq!(poison.durable(), durable, "it says otherwise");
        }
        for (lsn, payload) in self.truth.all() {
            let waited = self.store.wait_durable(lsn).is_ok();
            assert_eq!(waited, lsn < durable, "{lsn} of {durable} after a failure");
            if lsn < durable {
                let went = read(&self.store, lsn, &payload);
                assert!(went.is_ok() || self.sim.is_down(), "{lsn}: {went:?}");
            }
        }
        assert_eq!(self.store.durable(), durable, "it moved after a failure");
        assert!(self.store.append_batch(&[b"", b""]).is_err());
        let last = self.truth.last();
        if self.store.flush().is_ok() {
            assert!(last.is_none_or(|last| last < durable), "{last:?}");
        }
        self.truth.look(&self.store, &self.sim);
    }

    /// What the thread does that looks after the store.
    pub(crate) fn keeper(&self, mut dice: Dice) {
        for _ in 0..3 + dice.below(6) {
            self.truth.look(&self.store, &self.sim);
            let went = match dice.below(3) {
                0 => self.store.maintain().map_err(Into::into),
                1 => self.trim(dice.draw()),
                _ => {
                    thread::yield_now();
                    Ok(())
                }
            };
            if let Err(error) = went {
                return self.has_failed(&*error);
            }
        }
    }

    fn trim(&self, pick: u64) -> Went {
        let Self { store, truth, .. } = self;
        let Some((lsn, _)) = truth.any(pick) else {
            return Ok(());
        };
        if lsn <= store.durable() {
            truth.tries_to_trim(lsn);
        }
        match store.trim_before(lsn) {
            Ok(first) => truth.has_trimmed(first),
            Err(TrimError::NotDurable { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn flush(&self) -> Went {
        let before = self.truth.last();
        self.store.flush()?;
        if let Some(last) = before {
            self.truth.is_durable(last.get() + 1);
        }
        Ok(())
    }

    /// Whatever a scan beside the others gives is whole and in order, and no record that was there
    /// before is left out; no durable one where the machine has stopped or something has failed.
    fn scan(&self) -> Went {
        let Self { store, truth, .. } = self;
        let (before, durable) = (truth.all(), store.durable());
        let mut found = Records::new();
        for next in store.scan(..)? {
            match next {
                Ok(record) => found.push((record.lsn, record.payload)),
                Err(ReadError::Trimmed { .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        assert!(found.is_sorted_by_key(|(lsn, _)| *lsn), "not in order");
        assert!(found.iter().all(|(_, payload)| record::is_whole(payload)));
        let first = store.first();
        let end = match self.sim.is_down() || self.may_fail {
            true => durable,
            false => Lsn::LIMIT,
        };
        let there = before.into_iter();
        for (lsn, payload) in there.filter(|(lsn, _)| (first..end).contains(lsn)) {
            assert!(found.contains(&(lsn, payload)), "a scan leaves {lsn} out");
        }
        Ok(())
    }
}

fn read(store: &Store<Sim>, lsn: Lsn, payload: &[u8]) -> Went {
    match store.read(lsn) {
        // Somebody may trim at any moment.
        Err(ReadError::Trimmed { .. }) if lsn < store.first() => Ok(()),
        read => {
            assert!(read? == payload, "{lsn} reads otherwise");
            Ok(())
        }
    }
}

impl Writer<'_> {
    fn step(&mut self) -> Went {
        let life = self.life;
        match self.dice.below(20) {
            0..14 => {
                let appended = self.append()?;
                for (lsn, payload) in &appended {
                    life.truth.appended(*lsn, payload.clone());
                }
                match appended.last() {
                    None => Ok(()),
                    Some((lsn, payload)) => self.afterwards(*lsn, payload),
                }
            }
            14..16 => match life.truth.any(self.dice.draw()) {
                None => Ok(()),
                Some((lsn, payload)) => read(&life.store, lsn, &payload),
            },
            16 => self.poll(),
            17 => life.flush(),
            18 => life.scan(),
            _ => {
                life.sim.poll();
                Ok(())
            }
        }
    }

    fn drawn_len(&mut self) -> usize {
        match self.dice.below(10) {
            0..5 => self.dice.index(300),
            5..8 => self.dice.index(3000),
            8 => 4096 - 64 - 8,
            _ => 5000 + self.dice.index(9000),
        }
    }

    /// Appends in one of the ways there are; the records that are in the log now.
    fn append(&mut self) -> Result<Records, Box<dyn Error>> {
        let store = &self.life.store;
        let len = self.drawn_len();
        match self.dice.below(12) {
            0..3 => {
                let payload = self.through_store.next(len);
                Ok(vec![(store.append(&payload)?, payload)])
            }
            3 => {
                let payload = self.through_store.next(len);
                let lsn = store.append_with(payload.len(), |room| {
                    let (one, other) = payload.split_at(payload.len() / 2);
                    room[..one.len()].copy_from_slice(one);
                    thread::yield_now();
                    room[one.len()..].copy_from_slice(other);
                })?;
                Ok(vec![(lsn, payload)])
            }
            4 => {
                let refused = store.try_append_with(len, |room| {
                    room.fill(0xEE);
                    Err::<(), _>("no")
                });
                match refused {
                    Err(AppendWithError::Fill("no")) => Ok(Records::new()),
                    Err(AppendWithError::Append(error)) => Err(error.into()),
                    other => panic!("{other:?} of a record that could not be written"),
                }
            }
            5..7 => {
                let count = 2 + self.dice.index(3);
                let batch = batch(&mut self.through_store, count, len);
                let records: Vec<_> = batch.iter().map(|record| &**record).collect();
                let lsns = store.append_batch(&records)?;
                Ok(lsns.into_iter().zip(batch).collect())
            }
            7 => {
                let count = 2 + self.dice.index(3);
                let batch = batch(&mut self.through_appender, count, len);
                let records: Vec<_> = batch.iter().map(|record| &**record).collect();
                let lsns = self.appender.append_batch(&records)?;
                Ok(lsns.into_iter().zip(batch).collect())
            }
            _ => {
                let mut appended = Records::new();
                for _ in 0..1 + self.dice.below(4) {
                    let payload = self.through_appender.next(len % 400);
                    let lsn = self.appender.append(&payload)?;
                    appended.push((lsn, payload));
                }
                Ok(appended)
            }
        }
    }

    /// Waits for a record in one of the ways there are, reads it, or goes on.
    fn afterwards(&mut self, lsn: Lsn, payload: &[u8]) -> Went {
        let Life { store, truth, .. } = self.life;
        match self.dice.below(6) {
            0 => {
                store.wait_durable(lsn)?;
                truth.is_durable(lsn.get() + 1);
            }
            1 => {
                store.wait_written(lsn)?;
                truth.is_written(lsn.get() + 1);
            }
            2 => return read(store, lsn, payload),
            3 => {
                let future = match self.dice.chance(1, 3) {
                    true => store.until_flushed(),
                    false => store.until_durable(lsn),
                };
                if self.life.has_committer && self.dice.chance(2, 3) {
                    let end = future.end().get();
                    block_on(future)?;
                    truth.is_durable(end);
                } else {
                    let woken = Arc::default();
                    let mut pending = Pending { future, woken };
                    if let Poll::Ready(ended) = pending.poll() {
                        ended?;
                        truth.is_durable(pending.future.end().get());
                    } else {
                        self.pending.push(pending);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Looks at the futures: at those that were woken, or at all, or drops one; without a committer
    /// the maintenance ends them.
    fn poll(&mut self) -> Went {
        let Life { store, truth, .. } = self.life;
        if self.dice.chance(1, 4) {
            self.pending.pop();
        }
        let is_maintained = !self.life.has_committer && self.dice.chance(1, 2);
        if is_maintained {
            store.maintain()?;
        }
        for mut pending in std::mem::take(&mut self.pending) {
            match pending.poll() {
                Poll::Ready(ended) => {
                    ended?;
                    truth.is_durable(pending.future.end().get());
                }
                Poll::Pending => {
                    assert!(!is_maintained, "the maintenance has left a future out");
                    self.pending.push(pending);
                }
            }
        }
        Ok(())
    }
}

/// So many records, small enough to fit into a buffer together.
fn batch(author: &mut Author, count: usize, len: usize) -> Vec<Vec<u8>> {
    let follow = (0..count).rev();
    follow
        .map(|follow| author.next_of_batch(len % 700, follow))
        .collect()
}
