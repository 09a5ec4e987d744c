//! How soon a commit is seen by who follows the log, in one run:
//! `cargo bench -p esker-benches --bench follows`.
//!
//! One thread appends durably, each record when another thread has seen the one before. What is timed is
//! how long after the append had begun, and after it had returned, the other thread had the record:
//! through a follower, with the record's bytes; and through a condition variable that the first thread
//! signals when its append has returned, without any bytes, which is what waking a thread costs here.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Parser;
use esker_benches::Rounds;
use esker_lss::{AnyBackend, Options, Store};
use parking_lot::{Condvar, Mutex};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How soon a commit is seen.
#[derive(Parser)]
struct Arguments {
    /// Rounds of all cells.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Records of each cell.
    #[arg(long, default_value_t = 1000)]
    count: usize,
    /// The size of a record in bytes.
    #[arg(long, default_value_t = 256)]
    record: usize,
    /// Where the store goes; the system's temporary directory by default.
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

const BASELINE: &str = "a condition variable";

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let base = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::tempdir_in(&base)?;
    let (mut middles, mut tails) = (Rounds::default(), Rounds::default());
    let (mut after_middles, mut after_tails) = (Rounds::default(), Rounds::default());
    for round in 0..arguments.rounds {
        let mut cells = [(BASELINE, false), ("a follower", true)];
        // Whoever comes second finds a device in another state: take turns.
        if round % 2 == 1 {
            cells.reverse();
        }
        for (name, follows) in cells {
            let path = dir.path().join(format!("{round}-{follows}"));
            let mut seen = measure(&path, &arguments, follows)?;
            seen.sort_unstable_by_key(|seen| seen.since_begun);
            middles.add(name, "us", at(&seen, 0.5).since_begun.as_secs_f64() * 1e6);
            tails.add(name, "us", at(&seen, 0.99).since_begun.as_secs_f64() * 1e6);
            seen.sort_unstable_by_key(|seen| seen.since_acknowledged);
            let after = |q| at(&seen, q).since_acknowledged.as_secs_f64() * 1e6;
            after_middles.add(name, "us", after(0.5));
            after_tails.add(name, "us", after(0.99));
        }
    }
    println!("records of {} B, each durable", arguments.record);
    for (title, rounds) in [
        ("from the beginning of the append, p50", &middles),
        ("from the beginning of the append, p99", &tails),
        ("from its return, p50", &after_middles),
        ("from its return, p99", &after_tails),
    ] {
        println!("\n{title}");
        rounds.print(BASELINE);
    }
    Ok(())
}

/// When a record was seen.
#[derive(Clone, Copy)]
struct Seen {
    since_begun: Duration,
    /// Nothing if it was seen before the append had returned.
    since_acknowledged: Duration,
}

fn at(sorted: &[Seen], quantile: f64) -> Seen {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index of a small slice"
    )]
    let index = (sorted.len() as f64 * quantile) as usize;
    sorted[index.min(sorted.len() - 1)]
}

/// How many records have been acknowledged, for who waits for that.
#[derive(Default)]
struct Signal {
    count: Mutex<usize>,
    changed: Condvar,
}

fn measure(path: &Path, arguments: &Arguments, follows: bool) -> Result<Vec<Seen>> {
    let store = Store::open(path, AnyBackend::auto(), Options::default())?;
    let payload = vec![0x5A; arguments.record];
    let (signal, count) = (Signal::default(), arguments.count);
    let (saw, sees) = mpsc::channel();
    let mut all = Vec::with_capacity(count);
    std::thread::scope(|scope| -> Result<()> {
        let (store, signal) = (&store, &signal);
        let reader = scope.spawn(move || -> std::result::Result<(), esker_lss::ReadError> {
            let mut follower = follows.then(|| store.follow_new());
            let _ready = saw.send(Instant::now());
            for number in 1..=count {
                if let Some(follower) = &mut follower {
                    if let Some(record) = follower.next() {
                        std::hint::black_box(record?.payload);
                    }
                } else {
                    let mut acknowledged = signal.count.lock();
                    while *acknowledged < number {
                        signal.changed.wait(&mut acknowledged);
                    }
                }
                let _seen = saw.send(Instant::now());
            }
            Ok(())
        });
        sees.recv()?;
        for _ in 0..count {
            let begun = Instant::now();
            store.append_durable(&payload)?;
            let acknowledged = Instant::now();
            if !follows {
                *signal.count.lock() += 1;
                signal.changed.notify_one();
            }
            let seen = sees.recv_timeout(Duration::from_secs(10))?;
            all.push(Seen {
                since_begun: seen - begun,
                since_acknowledged: seen - acknowledged,
            });
        }
        reader.join().map_err(|_| "the reader panicked")??;
        Ok(())
    })?;
    store.close()?;
    Ok(all)
}
