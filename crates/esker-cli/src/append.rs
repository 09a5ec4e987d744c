//! `esker append`: a pipeline of one reader, several appenders and one committer.
//!
//! The reader cuts the input into chunks of records and gives every chunk to every appender, which
//! takes its share of it: record i belongs to appender i mod N. So nothing is copied between the
//! threads, each appender's records keep their order, and an appender touches no lock between two
//! chunks. The committer collects what the appenders have done chunk by chunk, waits for the
//! durability asked for, and prints LSNs in the order of the input. It takes all chunks that are
//! done at once, so that they share the wait; when the input pauses, what has been read is made
//! durable without waiting for more.
//!
//! Every queue is bounded, and so is the memory.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use esker_lss::{AppendError, CommitError, Lsn, Options};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::args::{Append, DurabilityArg};
use crate::failure::{Failure, explain};
use crate::input::{Input, InputError};
use crate::output::{Output, say};
use crate::split::Chunk;
use crate::statistics;
use crate::store::{self, Store};
use crate::system::Stop;

/// How many chunks may wait for an appender, and what it has done for the committer.
const QUEUED_CHUNKS: usize = 3;

/// How many chunks' LSNs are printed after one wait at most.
const CHUNKS_A_WAIT: usize = 32;

/// Runs the command.
pub(crate) fn run(args: &Append) -> Result<(), Failure> {
    let stop = Stop::on_signals()
        .map_err(|error| Failure::new("cannot prepare for being interrupted", &error))?;
    let mut input = Input::new(&args.files, args.framing, stop)?;
    let output = args.lsns.then(Output::new).transpose()?;
    let options = Options::default().ordering(args.ordering);
    let store = store::open_to_append(&args.store, args.backend, options)?;
    let info = store.info().map_err(|error| {
        Failure::new(format!("cannot look into {}", args.store.display()), &error)
    })?;
    input.limit(info.max_record_bytes);
    let start = Instant::now();
    let outcome = pump(args, &store, &mut input, output, stop);
    let held = hold_all(&store, args.durability, outcome.last);
    let seconds = start.elapsed().as_secs_f64();
    let durable = store.durable();
    let statistics = args.stats.then(|| {
        let backend = statistics::as_text(store.backend());
        // Its directory may be gone.
        let store = store.info().map(|info| statistics::of_store(&info));
        backend + &store.unwrap_or_default()
    });
    let closed = store
        .close()
        .map_err(|error| Failure::new(format!("cannot close {}", args.store.display()), &error));
    // Before the verdict: where something went wrong they are wanted most.
    if let Some(statistics) = statistics {
        eprint!("{statistics}");
    }
    outcome.judge(&input, durable)?;
    held?;
    closed?;
    let Outcome { records, bytes, .. } = outcome;
    let rate = bytes as f64 / 1e6 / seconds.max(1e-9);
    say(&format!(
        "{records} records, {bytes} bytes, {seconds:.3} seconds, {rate:.1} MB/s"
    ));
    Ok(())
}

/// What came out of the pipeline.
#[derive(Default)]
struct Outcome {
    /// How many records were appended.
    records: u64,
    bytes: u64,
    /// The record that lies furthest in the log.
    last: Option<Lsn>,
    /// The first record that could not be appended.
    refused: Option<(u64, AppendError)>,
    /// Why LSNs could not be printed, or nothing was begun.
    unprinted: Option<Failure>,
    /// Why the input ended early.
    input: Option<InputError>,
}

impl Outcome {
    /// The system had no thread to give, and nothing was read.
    fn unstarted(error: &std::io::Error) -> Self {
        Self {
            unprinted: Some(Failure::new("cannot start a thread", error)),
            ..Self::default()
        }
    }

    /// Whether all went well, else the first thing that did not.
    fn judge(&self, input: &Input, durable: Lsn) -> Result<(), Failure> {
        let records = self.records;
        let kept =
            format!("{records} records were appended, the log is durable up to LSN {durable}");
        if let Some((record, error)) = &self.refused {
            let what = format!("cannot append {}", input.name_of(*record));
            return Err(Failure::with_advice(what, error, kept));
        }
        match &self.unprinted {
            Some(Failure::ClosedPipe) => return Err(Failure::ClosedPipe),
            Some(Failure::Because(why)) => {
                return Err(Failure::Because(format!("{why}; {kept}")));
            }
            None => {}
        }
        match &self.input {
            Some(InputError::Failed(why)) => Err(Failure::Because(format!("{why}; {kept}"))),
            Some(InputError::Stopped) => Err(Failure::Because(format!("interrupted; {kept}"))),
            None => Ok(()),
        }
    }
}

/// A chunk on its way to an appender.
#[derive(Clone)]
struct Work {
    chunk: Arc<Chunk>,
    /// The number of its first record.
    first: u64,
    /// Whether the input paused after it.
    paused: bool,
}

/// What an appender has done of one chunk.
struct Done {
    first: u64,
    records: usize,
    paused: bool,
    /// The LSN of the last record of its share.
    last: Option<Lsn>,
    /// The LSNs of its share, if they are to be printed.
    lsns: Vec<Lsn>,
}

/// What an appender has done altogether.
#[derive(Default)]
struct Share {
    records: u64,
    bytes: u64,
    last: Option<Lsn>,
    refused: Option<(u64, AppendError)>,
}

/// Moves everything from the input into the store.
fn pump(
    args: &Append,
    store: &Store,
    input: &mut Input,
    output: Option<Output>,
    stop: &'static Stop,
) -> Outcome {
    let threads = usize::from(args.threads);
    let print = output.is_some();
    thread::scope(|scope| {
        let mut to_appenders = Vec::new();
        let mut to_committer = Vec::new();
        let mut appenders = Vec::new();
        for share in 0..threads {
            let (work_in, work) = sync_channel(QUEUED_CHUNKS);
            let (done, done_out) = sync_channel(QUEUED_CHUNKS);
            to_appenders.push(work_in);
            to_committer.push(done_out);
            let appender = thread::Builder::new().spawn_scoped(scope, move || {
                let share = append_share(store, share, threads, &work, &done, print);
                if share.refused.is_some() {
                    stop.ask();
                }
                share
            });
            match appender {
                Ok(appender) => appenders.push(appender),
                // Those that were started end with their work's queues.
                Err(error) => return Outcome::unstarted(&error),
            }
        }
        let durability = args.durability;
        let committer = thread::Builder::new().spawn_scoped(scope, move || {
            let result = commit(store, &to_committer, durability, output);
            if result.is_err() {
                stop.ask();
            }
            result
        });
        let committer = match committer {
            Ok(committer) => committer,
            Err(error) => return Outcome::unstarted(&error),
        };
        let mut outcome = Outcome {
            input: read(input, to_appenders).err(),
            ..Outcome::default()
        };
        for appender in appenders {
            let share = appender
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcome.records += share.records;
            outcome.bytes += share.bytes;
            outcome.last = outcome.last.max(share.last);
            let first = |(record, _): &(u64, AppendError)| *record;
            outcome.refused = outcome
                .refused
                .into_iter()
                .chain(share.refused)
                .min_by_key(first);
        }
        let printed = committer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        outcome.unprinted = printed.err();
        outcome
    })
}

/// The reader: cuts the input and hands it out, until it ends or nobody takes it any more.
fn read(input: &mut Input, to_appenders: Vec<SyncSender<Work>>) -> Result<(), InputError> {
    let progress = progress(input.len_bytes());
    let mut in_use: VecDeque<Arc<Chunk>> = VecDeque::new();
    let mut first = 0;
    loop {
        // The memory of a chunk that all appenders are done with serves again.
        let mut chunk = match in_use.pop_front().map(Arc::try_unwrap) {
            Some(Ok(chunk)) => chunk,
            Some(Err(busy)) => {
                in_use.push_front(busy);
                Chunk::default()
            }
            None => Chunk::default(),
        };
        if !input.fill(&mut chunk)? {
            break;
        }
        let records = chunk.len() as u64;
        progress.inc(chunk.record_bytes() + records);
        let chunk = Arc::new(chunk);
        let work = Work {
            chunk: Arc::clone(&chunk),
            first,
            paused: input.is_idle(),
        };
        if to_appenders
            .iter()
            .any(|appender| appender.send(work.clone()).is_err())
        {
            break;
        }
        in_use.push_back(chunk);
        first += records;
    }
    Ok(())
}

/// An appender: appends every `threads`-th record, from number `share` on.
fn append_share(
    store: &Store,
    share: usize,
    threads: usize,
    work: &Receiver<Work>,
    done: &SyncSender<Done>,
    print: bool,
) -> Share {
    let mut sum = Share::default();
    let mut appender = store.appender();
    for Work {
        chunk,
        first,
        paused,
    } in work
    {
        let skipped = share_offset(first, share, threads);
        let mut lsns = Vec::new();
        let mut last = None;
        for (number, record) in chunk.every(skipped, threads).enumerate() {
            match appender.append(record) {
                Ok(lsn) => {
                    last = Some(lsn);
                    sum.records += 1;
                    sum.bytes += record.len() as u64;
                    if print {
                        lsns.push(lsn);
                    }
                }
                Err(error) => {
                    let record = first + (skipped + number * threads) as u64;
                    sum.refused = Some((record, error));
                    return sum;
                }
            }
        }
        sum.last = last.or(sum.last);
        let records = chunk.len();
        drop(chunk);
        if done
            .send(Done {
                first,
                records,
                paused,
                last,
                lsns,
            })
            .is_err()
        {
            // The committer has failed, and says why.
            return sum;
        }
    }
    sum
}

/// Where in a chunk that begins with record `first` the first one is that belongs to `share`.
fn share_offset(first: u64, share: usize, threads: usize) -> usize {
    // Below `threads`, so that it fits.
    let of_first = usize::try_from(first % threads as u64).unwrap_or_default();
    (share + threads - of_first) % threads
}

/// The committer: waits for what was asked for, then prints.
fn commit(
    store: &Store,
    done: &[Receiver<Done>],
    durability: DurabilityArg,
    mut output: Option<Output>,
) -> Result<(), Failure> {
    let [first_done, ..] = done else {
        return Ok(());
    };
    let mut batch: Vec<Vec<Done>> = Vec::new();
    while let Ok(first) = first_done.recv() {
        let mut next = Some(first);
        while let Some(first) = next {
            let Some(shares) = gather(first, done) else {
                // An appender has given up, and says why; what it did before is printed.
                break;
            };
            batch.push(shares);
            next = (batch.len() < CHUNKS_A_WAIT)
                .then(|| first_done.try_recv().ok())
                .flatten();
        }
        let paused = batch
            .last()
            .and_then(|shares| shares.first())
            .is_some_and(|done| done.paused);
        if output.is_some() || paused {
            let last = batch.iter().flatten().filter_map(|done| done.last).max();
            hold(store, durability, last)
                .map_err(|error| Failure::new("cannot make what was appended durable", &error))?;
        }
        if let Some(output) = &mut output {
            for shares in &batch {
                print(output, shares)?;
            }
            output.flush()?;
        }
        batch.clear();
    }
    Ok(())
}

/// What all appenders have done of the chunk that the first one is done with.
fn gather(first: Done, done: &[Receiver<Done>]) -> Option<Vec<Done>> {
    let mut shares = vec![first];
    for share in &done[1..] {
        shares.push(share.recv().ok()?);
    }
    Some(shares)
}

/// Prints the LSNs of one chunk in the order of its records.
fn print(output: &mut Output, shares: &[Done]) -> Result<(), Failure> {
    let Some(Done { first, records, .. }) = shares.first() else {
        return Ok(());
    };
    let mut lsns: Vec<_> = shares.iter().map(|done| done.lsns.iter()).collect();
    let threads = lsns.len();
    // Below `threads`, so that it fits.
    let of_first = usize::try_from(first % threads as u64).unwrap_or_default();
    for record in 0..*records {
        if let Some(lsn) = lsns[(of_first + record) % threads].next() {
            output.lsn(*lsn)?;
        }
    }
    Ok(())
}

/// Waits until what was asked for holds for `last` and everything before it.
fn hold(store: &Store, durability: DurabilityArg, last: Option<Lsn>) -> Result<(), CommitError> {
    // The known bug that `cargo xtask kill --canary` has to catch.
    if canary!("cli-ack-before-durable") {
        return Ok(());
    }
    match (durability, last) {
        (DurabilityArg::None, _) | (_, None) => Ok(()),
        (DurabilityArg::Written, Some(last)) => store.wait_written(last),
        (DurabilityArg::Durable, Some(last)) => store.wait_durable(last),
    }
}

/// Waits at the end for everything.
fn hold_all(store: &Store, durability: DurabilityArg, last: Option<Lsn>) -> Result<(), Failure> {
    let held = match (durability, last) {
        (DurabilityArg::Durable, _) => store.flush().map(|_end| ()),
        (DurabilityArg::Written, Some(last)) => store.wait_written(last),
        (DurabilityArg::None, _) | (_, None) => Ok(()),
    };
    held.map_err(|error| {
        let durable = store.durable();
        Failure::Because(format!(
            "{}; the log is durable up to LSN {durable}",
            explain("cannot make what was appended durable", &error)
        ))
    })
}

/// Progress in bytes of input, shown on a terminal only.
fn progress(len_bytes: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = match len_bytes {
        Some(_) => "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        None => "{spinner} {bytes}, {bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template);
    let bar = len_bytes
        .map_or_else(ProgressBar::new_spinner, ProgressBar::new)
        .with_style(style.unwrap_or_else(|_plain_shows_the_same| ProgressStyle::default_bar()))
        .with_finish(ProgressFinish::AndClear);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_i_belongs_to_thread_i_mod_n_wherever_a_chunk_begins() {
        for threads in 1..9 {
            for first in 0..40u64 {
                for share in 0..threads {
                    let record = first + share_offset(first, share, threads) as u64;
                    assert_eq!(record % threads as u64, share as u64);
                    assert!(record - first < threads as u64);
                }
            }
        }
    }
}
