//! The suite that every backend has to pass.
//!
//! [`run`] makes a fresh backend and a fresh directory for each check, runs them all, and reports
//! each by name. A check fails by panicking; one that never ends is failed after some minutes,
//! and its thread is left behind.
//! What needs a fault that only the caller can cause (a full disk, a short write) is not here.
//!
//! ```
//! use esker_io::{Blocking, conformance};
//!
//! # let dir = tempfile::tempdir()?;
//! conformance::run(dir.path(), |_| Blocking::new()).assert();
//! # Ok::<(), std::io::Error>(())
//! ```

mod data;
mod lane;
mod names;
mod opening;
mod space;
mod waiting;

use core::fmt;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::action::{Action, Completion, Durability};
use crate::backend::{Backend, Create, Direct, FileOptions};
use crate::ext::Pending;
use crate::memory::{ReadMemory, WriteMemory};
use crate::operation::Operation;
use crate::sync::{Arc, AtomicUsize, Mutex, SeqCst, channel, thread};

use esker_buf::{AlignedBuf, Alignment};

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The property holds.
    Passed,
    /// It could not be tested here, for this reason.
    Skipped(String),
    /// It does not hold; what the check said.
    Failed(String),
}

/// Every check by name, with its verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order in which they ran.
    pub checks: Vec<(&'static str, Verdict)>,
}

impl Report {
    /// The checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.checks
            .iter()
            .filter_map(|(name, verdict)| match verdict {
                Verdict::Failed(why) => Some((*name, why.as_str())),
                _ => None,
            })
    }

    /// Does nothing if no check failed.
    ///
    /// # Panics
    ///
    /// With the whole report if one did.
    pub fn assert(&self) {
        assert!(self.failures().next().is_none(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, verdict) in &self.checks {
            match verdict {
                Verdict::Passed => writeln!(f, "passed   {name}")?,
                Verdict::Skipped(why) => writeln!(f, "skipped  {name}: {why}")?,
                Verdict::Failed(why) => writeln!(f, "FAILED   {name}: {why}")?,
            }
        }
        Ok(())
    }
}

/// Runs every check on backends that `make` makes, below the directory `root`.
///
/// `make` gets the directory that its backend will be used in. Threads are started and joined; a
/// few MiB are written. Blocks for some seconds.
pub fn run<B: Backend>(root: &Path, make: impl Fn(&Path) -> B) -> Report {
    let mut report = Report::default();
    let groups = [
        data::checks::<B>(),
        waiting::checks::<B>(),
        names::checks::<B>(),
        space::checks::<B>(),
        opening::checks::<B>(),
        lane::checks::<B>(),
    ];
    for Check { name, body } in groups.into_iter().flatten() {
        let dir = root.join(name);
        let backend = Arc::new(make(&dir));
        let verdict = watched(move || {
            backend.create_dir_all(&dir).expect("a fresh directory");
            body(&Bench { backend, dir })
        });
        report.checks.push((name, verdict));
    }
    report
}

/// Runs a check in a thread of its own, which is left behind if it never ends.
fn watched(check: impl FnOnce() -> Ran + Send + 'static) -> Verdict {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let verdict = match catch_unwind(AssertUnwindSafe(check)) {
            Ok(Ran::Done) => Verdict::Passed,
            Ok(Ran::Skipped(why)) => Verdict::Skipped(why),
            Err(payload) => Verdict::Failed(message(&*payload)),
        };
        // The receiver has gone if this took too long.
        let _ = sender.send(verdict);
    });
    receiver
        .recv_timeout(LIMIT)
        .unwrap_or_else(|_| Verdict::Failed(format!("it has not ended in {LIMIT:?}")))
}

fn message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// One check: its name states the property.
struct Check<B: Backend> {
    name: &'static str,
    body: fn(&Bench<B>) -> Ran,
}

/// What became of a check that did not panic.
enum Ran {
    Done,
    Skipped(String),
}

macro_rules! checks {
    ($($name:ident),+ $(,)?) => {
        pub(super) fn checks<B: crate::Backend>() -> Vec<super::Check<B>> {
            vec![$(super::Check { name: stringify!($name), body: $name::<B> }),+]
        }
    };
}
use checks;

/// No wait of a check takes longer, unless the backend has lost something: most take milliseconds,
/// but the machine may have much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// No check takes longer, waits included.
const LIMIT: Duration = Duration::from_secs(180);

/// Where a check works.
struct Bench<B: Backend> {
    backend: Arc<B>,
    dir: PathBuf,
}

/// The completions of a group of operations, by number.
type Outcomes = Arc<Mutex<Vec<(usize, Completion)>>>;

impl<B: Backend> Bench<B> {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A new file, through the page cache, for reading and writing.
    fn file(&self, name: &str) -> B::File {
        let options = FileOptions::read_write().create(Create::New);
        self.backend
            .open(&self.path(name), &options)
            .expect("a new file")
    }

    /// The same, past the page cache where that can be.
    fn direct_file(&self, name: &str) -> B::File {
        let options = FileOptions::read_write()
            .create(Create::New)
            .direct(Direct::Try);
        self.backend
            .open(&self.path(name), &options)
            .expect("a new file")
    }

    fn wait(&self, what: &str, mut ready: impl FnMut() -> bool) {
        assert!(
            self.backend.wait_until(&mut ready, Some(PATIENCE)),
            "{what} has not come about in {PATIENCE:?}"
        );
    }

    /// Waits until so many have ended that come one after the other: as long as it takes, as long as
    /// they go on ending.
    fn wait_for_chain(&self, ended: &AtomicUsize, count: usize) {
        let mut before = 0;
        let mut all = || ended.load(SeqCst) == count;
        while !self.backend.wait_until(&mut all, Some(PATIENCE)) {
            let now = ended.load(SeqCst);
            assert!(
                now > before,
                "after {now} of {count} none has ended in {PATIENCE:?}"
            );
            before = now;
        }
    }

    /// Waits in the other way, but not for ever.
    fn wait_for(&self, ready: &(dyn Fn() -> bool + Sync)) -> bool {
        self.backend.wait_for(ready, Some(PATIENCE))
    }

    /// Waits for one operation, but not for ever.
    fn finish<T>(&self, pending: Pending<T>) -> T {
        self.wait("the end of an operation", || pending.is_completed());
        pending.wait(&*self.backend)
    }

    /// Submits a batch whose completions are gathered with their numbers in it.
    fn submit(&self, file: &B::File, actions: Vec<Action>) -> Outcomes {
        let outcomes = Outcomes::default();
        let batch = actions
            .into_iter()
            .enumerate()
            .map(|(number, action)| {
                let outcomes = Arc::clone(&outcomes);
                Operation::new(file.clone(), action, move |completion| {
                    outcomes.lock().push((number, completion));
                })
            })
            .collect();
        self.backend.submit(batch);
        outcomes
    }

    /// Does a batch and gives back the completions in the order of the batch.
    fn complete(&self, file: &B::File, actions: Vec<Action>) -> Vec<Completion> {
        let count = actions.len();
        let outcomes = self.submit(file, actions);
        self.wait("the end of a batch", || outcomes.lock().len() >= count);
        let mut outcomes = core::mem::take(&mut *outcomes.lock());
        outcomes.sort_by_key(|(number, _)| *number);
        let numbers: Vec<_> = outcomes.iter().map(|(number, _)| *number).collect();
        assert_eq!(
            numbers,
            (0..count).collect::<Vec<_>>(),
            "each sink is called exactly once"
        );
        outcomes
            .into_iter()
            .map(|(_, completion)| completion)
            .collect()
    }
}

/// `len` bytes that differ by `seed` and by place.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// The same, at the alignment of a block.
fn aligned_pattern(seed: u64, len: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(len, Alignment::BLOCK).expect("memory");
    buf.copy_from_slice(&pattern(seed, len));
    buf
}

fn write(offset: u64, bytes: Vec<u8>) -> Action {
    Action::Write {
        offset,
        memory: WriteMemory::new(bytes),
        durability: Durability::Written,
    }
}

fn read(offset: u64, len: usize) -> Action {
    Action::Read {
        offset,
        memory: ReadMemory::new(vec![0xEE_u8; len]),
    }
}

fn one<T: core::fmt::Debug>(completions: Vec<T>) -> [T; 1] {
    completions.try_into().expect("one completion")
}
