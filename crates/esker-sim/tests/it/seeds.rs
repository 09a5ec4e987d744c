//! Runs of many seeds, each of which can be repeated alone.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long one seed may take. It takes milliseconds.
const LIMIT: Duration = Duration::from_secs(120);

/// The number of seeds, from the environment or else by default.
fn wanted(by_default: u64) -> u64 {
    number("ESKER_SIM_SEEDS").unwrap_or(by_default)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

fn replay(test: &str, seed: u64) -> String {
    format!("replay: ESKER_SIM_SEED={seed} cargo test -p esker-sim --test it {test} -- --exact")
}

/// Runs a test body for every seed, and says which one failed and how to repeat it. A seed that does
/// not end is a failure too.
pub(crate) fn run(test: &'static str, by_default: u64, body: impl Fn(u64)) {
    let seeds = match number("ESKER_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..wanted(by_default),
    };
    let began = Instant::now();
    let current = Arc::new(AtomicU64::new(seeds.start));
    let watched = Arc::downgrade(&current);
    thread::spawn(move || {
        let mut last = (u64::MAX, Instant::now());
        while let Some(current) = watched.upgrade() {
            let seed = current.load(Ordering::SeqCst);
            drop(current);
            if seed != last.0 {
                last = (seed, Instant::now());
            } else if last.1.elapsed() > LIMIT {
                eprintln!("seed {seed} does not end; {}", replay(test, seed));
                std::process::exit(101);
            }
            thread::sleep(Duration::from_millis(200));
        }
    });
    let count = seeds.end - seeds.start;
    for seed in seeds {
        current.store(seed, Ordering::SeqCst);
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| body(seed))) {
            eprintln!("seed {seed} failed; {}", replay(test, seed));
            resume_unwind(payload);
        }
    }
    println!("{test}: {count} seeds in {:?}", began.elapsed());
}
