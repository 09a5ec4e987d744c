//! Runs a scenario under schedules that are drawn from seeds, by shuttle. Empty without
//! `--cfg esker_shuttle`; only tests use it.
//!
//! A *seed* stands for a few schedules in a row of one scheduler, so that a failure repeats from it
//! alone: with an even one each step goes to any thread that can run, with an odd one to the
//! thread of the highest priority, and priorities change at a few random steps (PCT, Burckhardt et
//! al., ASPLOS 2010), which finds rare orders in long runs.
//!
//! `cargo xtask shuttle` says by these variables what is to be run:
//!
//! | variable | what it is |
//! |---|---|
//! | `ESKER_SHUTTLE_SEED` | the first seed, 0 by default |
//! | `ESKER_SHUTTLE_SEEDS` | how many seeds |
//! | `ESKER_SHUTTLE_MILLIS` | for how long instead |

#![forbid(unsafe_code)]
#![cfg(esker_shuttle)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use shuttle::scheduler::{PctScheduler, RandomScheduler, Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

/// How many schedules a seed stands for.
pub const SCHEDULES_PER_SEED: usize = 10;

/// How long one seed may take. It takes milliseconds, or a few seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// A schedule of more steps has a thread that spins. Few have more than some ten thousand.
const MAX_STEPS: usize = 2_000_000;

/// The stack of each thread: what debug builds of a store need.
const STACK_BYTES: usize = 1 << 20;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.max_steps = MaxSteps::FailAfter(MAX_STEPS);
    config.silence_warnings = true;
    // The seed says it all; a long schedule spelt out fills pages.
    config.failure_persistence = FailurePersistence::None;
    config
}

/// The scheduler of a seed.
fn scheduler(seed: u64) -> Box<dyn Scheduler + Send> {
    if seed % 2 == 0 {
        Box::new(RandomScheduler::new_from_seed(seed, SCHEDULES_PER_SEED))
    } else {
        let depth = 2 + usize::try_from(seed / 2 % 7).expect("small");
        Box::new(PctScheduler::new_from_seed(seed, depth, SCHEDULES_PER_SEED))
    }
}

/// Runs a test body under the schedules of one seed; a number that stands for every decision in
/// them. What the body itself leaves to chance it draws by [`drawn`].
pub fn run_seed(seed: u64, body: impl Fn() + Send + Sync + 'static) -> u64 {
    let decisions = Arc::new(Mutex::new(DefaultHasher::new()));
    let recorded = Recorded {
        scheduler: scheduler(seed),
        decisions: Arc::clone(&decisions),
    };
    Runner::new(recorded, config()).run(body);
    let decisions = decisions.lock().expect("whole").clone();
    decisions.finish()
}

/// Any number, drawn from the seed of the schedule that runs now.
#[must_use]
pub fn drawn() -> u64 {
    use shuttle::rand::RngCore;
    shuttle::rand::thread_rng().next_u64()
}

/// Runs a test body under the schedules of `by_default` seeds, or of as many as the environment
/// says; prints how many those were, and for a failure the seed and the command that repeats it.
///
/// # Panics
///
/// When the body does, and when threads are left that wait for ever.
pub fn explore(
    package: &str,
    test: &str,
    by_default: u64,
    body: impl Fn() + Send + Sync + 'static,
) {
    let body = Arc::new(body);
    let first = number("ESKER_SHUTTLE_SEED").unwrap_or(0);
    let deadline =
        number("ESKER_SHUTTLE_MILLIS").map(|millis| Instant::now() + Duration::from_millis(millis));
    let last = match (number("ESKER_SHUTTLE_SEEDS"), deadline) {
        (Some(seeds), _) => first.saturating_add(seeds),
        (None, Some(_)) => u64::MAX,
        (None, None) => first.saturating_add(by_default),
    };
    let replay = move |package: &str, test: &str, seed: u64| {
        format!(
            "seed {seed} of {test} failed; replay: \
             cargo xtask shuttle --package {package} --test {test} --seed {seed} --seeds 1"
        )
    };
    let current = Arc::new(AtomicU64::new(first));
    watch(&current, {
        let (package, test) = (package.to_owned(), test.to_owned());
        move |seed| replay(&package, &test, seed)
    });
    let mut seeds = 0;
    for seed in first..last {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break;
        }
        current.store(seed, Ordering::SeqCst);
        let body = Arc::clone(&body);
        let run = AssertUnwindSafe(|| run_seed(seed, move || body()));
        if let Err(payload) = catch_unwind(run) {
            eprintln!("{}", replay(package, test, seed));
            resume_unwind(payload);
        }
        seeds += 1;
    }
    let schedules = seeds * SCHEDULES_PER_SEED as u64;
    println!("{test}: {schedules} schedules, of {seeds} seeds from {first}");
}

/// Ends the process when a seed takes too long: a thread waits for something that is not the
/// scheduler's.
fn watch(current: &Arc<AtomicU64>, replay: impl Fn(u64) -> String + Send + 'static) {
    let watched = Arc::downgrade(current);
    thread::spawn(move || {
        let mut last = (u64::MAX, Instant::now());
        while let Some(current) = watched.upgrade() {
            let seed = current.load(Ordering::SeqCst);
            drop(current);
            if seed != last.0 {
                last = (seed, Instant::now());
            } else if last.1.elapsed() > LIMIT {
                eprintln!("it does not end; {}", replay(seed));
                std::process::exit(101);
            }
            thread::sleep(Duration::from_millis(100));
        }
    });
}

/// A scheduler whose decisions are added up, so that two runs can be compared.
struct Recorded {
    scheduler: Box<dyn Scheduler + Send>,
    decisions: Arc<Mutex<DefaultHasher>>,
}

impl Recorded {
    fn record(&self, decision: impl Hash) {
        decision.hash(&mut *self.decisions.lock().expect("whole"));
    }
}

impl Scheduler for Recorded {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.record("execution");
        self.scheduler.new_execution()
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        let next = self.scheduler.next_task(runnable, current, is_yielding);
        self.record((runnable.len(), next));
        next
    }

    fn next_u64(&mut self) -> u64 {
        let drawn = self.scheduler.next_u64();
        self.record(drawn);
        drawn
    }
}
