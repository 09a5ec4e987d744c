//! `esker-worker DIR BACKEND ORDERING THREADS SEED`: a process that appends to a store through the
//! library, in every way that the library has of waiting until a record is durable, and says so at
//! once. `cargo xtask crash` runs it and cuts the power of its disk.
//!
//! What it is to do comes through its input ([`input`]): records, of which the i-th goes to thread
//! `i mod THREADS`, and in between orders to trim and to open the store again. For each record that is
//! durable it prints a line: the record's number, a blank, its LSN; not before the library has said
//! so, and without waiting for any other record. It ends with its input, or with what is wrong.
//!
//! It knows nothing of what its records are, and judges nothing.

#![forbid(unsafe_code)]

mod input;
mod thread;

use std::error::Error;
use std::io::{StdinLock, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use esker_io::Ordering;
use esker_lss::{AnyBackend, Options, Store};

use input::{Input, read};
use thread::{Draw, Work, append};

type Wrong = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let result = Args::parse(std::env::args().skip(1)).and_then(|args| run(&args));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("esker-worker: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Args {
    dir: String,
    backend: String,
    serialised: bool,
    threads: usize,
    seed: u64,
}

impl Args {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, Wrong> {
        let mut next = |what: &str| args.next().ok_or(format!("{what} is missing"));
        Ok(Self {
            dir: next("DIR")?,
            backend: next("BACKEND")?,
            serialised: match &*next("ORDERING")? {
                "serialised" => true,
                "tail-localised" => false,
                other => return Err(format!("{other} is no ordering").into()),
            },
            threads: next("THREADS")?.parse()?,
            seed: next("SEED")?.parse()?,
        })
    }

    /// Opens the store with options that make buffers go round, segments end and syncs overlap even
    /// when there is little to append.
    fn open(&self, draw: &mut Draw) -> Result<Store<AnyBackend>, Wrong> {
        let backend = match &*self.backend {
            "uring" => AnyBackend::uring()?,
            "blocking" => AnyBackend::blocking(),
            other => return Err(format!("{other} is no backend").into()),
        };
        let ordering = if self.serialised {
            Ordering::Serialised
        } else {
            Ordering::TailLocalised
        };
        let options = Options::default()
            .create(false)
            .ordering(ordering)
            .buffers(draw.pick(&[2, 3, 8]))
            .buffer_bytes(draw.pick(&[16 << 10, 64 << 10, 1 << 20]))
            .commit_writes(draw.pick(&[1, 1, 3]))
            .gather(draw.pick(&[Duration::ZERO, Duration::from_micros(30)]))
            .sync_every_bytes(draw.pick(&[64 << 10, 16 << 20]))
            .spare_segments(draw.pick(&[0, 1]))
            .idle(draw.pick(&[None, Some(Duration::from_millis(1))]));
        Ok(Store::open(&self.dir, backend, options)?)
    }
}

fn run(args: &Args) -> Result<(), Wrong> {
    let mut draw = Draw::new(args.seed);
    let mut input = std::io::stdin().lock();
    let mut number = 0;
    let mut more = true;
    while more {
        let store = args.open(&mut draw)?;
        more = serve(args, &store, &mut input, &mut number, &mut draw)?;
        if draw.pick(&[true, false]) {
            store.close()?;
        }
    }
    Ok(())
}

/// Works on an open store until it is to be opened again, or there is nothing more to do; which.
fn serve(
    args: &Args,
    store: &Store<AnyBackend>,
    input: &mut StdinLock<'_>,
    number: &mut u64,
    draw: &mut Draw,
) -> Result<bool, Wrong> {
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        let mut queues: Vec<Sender<Work>> = Vec::new();
        for _ in 0..args.threads {
            let (queue, work) = channel();
            let draw = Draw::new(draw.next());
            queues.push(queue);
            workers.push(scope.spawn(move || append(store, &work, draw)));
        }
        let more = hand_out(store, input, number, &queues);
        drop(queues);
        for worker in workers {
            worker.join().map_err(|_| "a thread has panicked")??;
        }
        more
    })
}

fn hand_out(
    store: &Store<AnyBackend>,
    input: &mut StdinLock<'_>,
    number: &mut u64,
    queues: &[Sender<Work>],
) -> Result<bool, Wrong> {
    while let Some(item) = read(input)? {
        match item {
            Input::Record(record) => {
                let thread = usize::try_from(*number % queues.len() as u64)?;
                if queues[thread].send((*number, record)).is_err() {
                    // It has failed, and says why.
                    return Ok(false);
                }
                *number += 1;
            }
            Input::Trim(lsn) => drop(store.trim_before(lsn)?),
            Input::Reopen => return Ok(true),
        }
    }
    Ok(false)
}

/// Prints that records are durable: one write, so that threads do not mix and nothing stays behind.
fn acknowledge(lines: &str) -> Result<(), Wrong> {
    let mut output = std::io::stdout().lock();
    output.write_all(lines.as_bytes())?;
    Ok(output.flush()?)
}
