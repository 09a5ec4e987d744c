//! One thread of the worker: it appends what it is given, now in this way, now in that.

use std::fmt::Write;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use esker_lss::{AnyBackend, AppendError, CommitError, Lsn, Store, UntilDurable};

use crate::{Wrong, acknowledge};

/// A record and its number.
pub(crate) type Work = (u64, Vec<u8>);

/// How records are appended and waited for.
#[derive(Clone, Copy)]
enum Way {
    /// Each by `append`, and `wait_durable`.
    AppendAndWait,
    /// Each by `append_durable`.
    AppendDurable,
    /// All by `append_with`, and one `wait_durable` for the last.
    WaitForLast,
    /// All by `append_batch`, and one `wait_durable`.
    Batch,
    /// All by an appender, and each by `wait_durable`, the last one first.
    Appender,
    /// All by `append`, and a future for each, polled together.
    Futures,
    /// All by an appender, and one future for all.
    UntilFlushed,
    /// All by `append`, and `flush`.
    Flush,
}

const WAYS: &[Way] = &[
    Way::AppendAndWait,
    Way::AppendDurable,
    Way::WaitForLast,
    Way::Batch,
    Way::Appender,
    Way::Futures,
    Way::UntilFlushed,
    Way::Flush,
];

/// Appends what it is given until there is nothing more; everything is durable then, and said to be.
pub(crate) fn append(
    store: &Store<AnyBackend>,
    work: &Receiver<Work>,
    mut draw: Draw,
) -> Result<(), Wrong> {
    while let Ok(first) = work.recv() {
        let mut records = vec![first];
        let most = draw.pick(&[1, 1, 4, 16]);
        records.extend(work.try_iter().take(most - 1));
        append_some(store, &records, draw.pick(WAYS))?;
        if draw.next().is_multiple_of(8) {
            store.maintain()?;
        }
    }
    Ok(())
}

fn append_some(store: &Store<AnyBackend>, records: &[Work], way: Way) -> Result<(), Wrong> {
    let each = || records.iter().map(|(number, record)| (*number, &**record));
    match way {
        Way::AppendAndWait => {
            for (number, record) in each() {
                let lsn = store.append(record)?;
                store.wait_durable(lsn)?;
                say(&[(number, lsn)])?;
            }
        }
        Way::AppendDurable => {
            for (number, record) in each() {
                let lsn = store.append_durable(record)?;
                say(&[(number, lsn)])?;
            }
        }
        Way::WaitForLast => {
            let appended = all(records, |record| {
                store.append_with(record.len(), |room| room.copy_from_slice(record))
            })?;
            if let Some((_, last)) = appended.last() {
                store.wait_durable(*last)?;
            }
            say(&appended)?;
        }
        Way::Batch => {
            let batch: Vec<&[u8]> = each().map(|(_, record)| record).collect();
            let lsns = match store.append_batch(&batch) {
                Err(AppendError::BatchTooLarge { .. }) => {
                    return append_some(store, records, Way::WaitForLast);
                }
                lsns => lsns?,
            };
            if let Some(last) = lsns.last() {
                store.wait_durable(*last)?;
            }
            let numbers = each().map(|(number, _)| number);
            say(&numbers.zip(lsns).collect::<Vec<_>>())?;
        }
        Way::Appender => {
            let mut appender = store.appender();
            let appended = all(records, |record| appender.append(record))?;
            for one in appended.iter().rev() {
                store.wait_durable(one.1)?;
                say(&[*one])?;
            }
        }
        Way::Futures => {
            let appended = all(records, |record| store.append(record))?;
            let futures = appended
                .iter()
                .map(|&(number, lsn)| (store.until_durable(lsn), vec![(number, lsn)]));
            await_all(futures.collect())?;
        }
        Way::UntilFlushed => {
            let mut appender = store.appender();
            let appended = all(records, |record| appender.append(record))?;
            await_all(vec![(store.until_flushed(), appended)])?;
        }
        Way::Flush => {
            let appended = all(records, |record| store.append(record))?;
            let _end = store.flush()?;
            say(&appended)?;
        }
    }
    Ok(())
}

fn all(
    records: &[Work],
    mut append: impl FnMut(&[u8]) -> Result<Lsn, AppendError>,
) -> Result<Vec<(u64, Lsn)>, AppendError> {
    let each = records.iter();
    each.map(|(number, record)| Ok((*number, append(record)?)))
        .collect()
}

fn say(durable: &[(u64, Lsn)]) -> Result<(), Wrong> {
    let mut lines = String::new();
    for (number, lsn) in durable {
        writeln!(lines, "{number} {lsn}")?;
    }
    acknowledge(&lines)
}

/// Waits for all futures at the same time, and says of each what it stands for when it is ready.
fn await_all(mut waiting: Vec<(UntilDurable, Vec<(u64, Lsn)>)>) -> Result<(), Wrong> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        let mut ready = Vec::new();
        let mut failed: Option<CommitError> = None;
        waiting.retain_mut(
            |(future, durable)| match Pin::new(future).poll(&mut context) {
                Poll::Pending => true,
                Poll::Ready(Ok(())) => {
                    ready.append(durable);
                    false
                }
                Poll::Ready(Err(error)) => {
                    failed = Some(error);
                    false
                }
            },
        );
        say(&ready)?;
        failed.map_or(Ok(()), Err)?;
        if waiting.is_empty() {
            return Ok(());
        }
        std::thread::park();
    }
}

/// Draws from a seed.
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number: splitmix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let number = self.next() % of.len() as u64;
        of[usize::try_from(number).unwrap_or_default()]
    }
}
