//! Runs of many seeds, each of which can be repeated alone, and how many crashes they were.
//!
//! From the environment: `ESKER_SIM_SEED` runs one seed; `ESKER_SIM_SEEDS` says how many instead of
//! the default; `ESKER_SIM_FIRST` where they begin; `ESKER_SIM_SECONDS` goes on with further seeds
//! until so much time has passed.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long one seed, or one damaged image, may take. It takes milliseconds.
const LIMIT: Duration = Duration::from_secs(120);

thread_local! {
    static CYCLES: Cell<u64> = const { Cell::new(0) };
}

/// A life has ended in a crash, and the store has been opened and checked after it.
pub(crate) fn count_cycle() {
    CYCLES.set(CYCLES.get() + 1);
}

/// Says how many crashes this thread's test has recovered from, in the form that the suites read.
pub(crate) fn report(name: &str, what: &str, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{name}: {what}, {} crash/recover cycles in {seconds:.3} s",
        CYCLES.take()
    );
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

fn replay(test: &str, seed: u64) -> String {
    format!(
        "replay: ESKER_SIM_SEED={seed} cargo test --release -p esker-sim --test it {test} -- --exact"
    )
}

/// Ends the process when one number of a run takes longer than any can.
pub(crate) struct Watchdog(Arc<AtomicU64>);

impl Watchdog {
    /// `replay` is the command that repeats a number alone.
    pub(crate) fn new(replay: impl Fn(u64) -> String + Send + 'static) -> Self {
        let current = Arc::new(AtomicU64::new(0));
        let watched = Arc::downgrade(&current);
        thread::spawn(move || {
            let mut last = (u64::MAX, Instant::now());
            while let Some(current) = watched.upgrade() {
                let number = current.load(Ordering::SeqCst);
                drop(current);
                if number != last.0 {
                    last = (number, Instant::now());
                } else if last.1.elapsed() > LIMIT {
                    eprintln!("number {number} does not end; {}", replay(number));
                    std::process::exit(101);
                }
                thread::sleep(Duration::from_millis(200));
            }
        });
        Self(current)
    }

    /// This number begins.
    pub(crate) fn at(&self, number: u64) {
        self.0.store(number, Ordering::SeqCst);
    }
}

/// Runs a test body for every seed, and says which one failed and how to repeat it. A seed that does
/// not end is a failure too.
pub(crate) fn run(test: &'static str, by_default: u64, body: impl Fn(u64)) {
    let mut seconds = number("ESKER_SIM_SECONDS").unwrap_or(0);
    let by_default = if seconds > 0 { 1 } else { by_default };
    let mut count = number("ESKER_SIM_SEEDS").unwrap_or(by_default);
    let first = number("ESKER_SIM_FIRST").unwrap_or(0);
    let first = match number("ESKER_SIM_SEED") {
        Some(seed) => {
            (count, seconds) = (1, 0);
            seed
        }
        None => first,
    };
    let began = Instant::now();
    let until = began + Duration::from_secs(seconds);
    let watchdog = Watchdog::new(move |seed| replay(test, seed));
    let mut done = 0;
    while done < count || (seconds > 0 && Instant::now() < until) {
        let seed = first.wrapping_add(done);
        watchdog.at(seed);
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| body(seed))) {
            eprintln!("seed {seed} failed; {}", replay(test, seed));
            resume_unwind(payload);
        }
        done += 1;
    }
    report(test, &format!("{done} seeds"), began);
}
