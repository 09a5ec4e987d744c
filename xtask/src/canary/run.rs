//! [`Tests`]: tests that have to catch known bugs.
//!
//! All bugs are in one build. Each test is a process of its own, so that a bug that ends the process
//! ends one test, which is known, and so that a test always comes to its own end: what it has mounted
//! or started is gone then.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::{Canary, Catcher, compile_in, switch_on};
use crate::suite::{SuiteError, Tally};
use crate::workspace::{Workspace, build};

/// How long one test may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(600);

/// How often a test is looked after.
const BEAT: Duration = Duration::from_millis(5);

/// The tests of a suite.
pub(crate) struct Tests<'w> {
    pub(crate) workspace: &'w Workspace,
    pub(crate) catcher: Catcher,
    /// The cargo command that builds and runs those of a package.
    pub(crate) command: &'w dyn Fn(&str) -> Command,
    /// Which of them, by their names.
    pub(crate) which: &'w dyn Fn(&str) -> bool,
}

impl Tests<'_> {
    /// Switches each of the bugs on, and demands that a test fails: the one that the table names, or
    /// else any. And that the tests that it names pass with none switched on.
    pub(crate) fn catch(&self, canaries: &[Canary]) -> Result<Tally, SuiteError> {
        let mut packages = BTreeMap::new();
        for canary in canaries {
            if !packages.contains_key(canary.tests) {
                packages.insert(canary.tests, self.build(canary.tests)?);
            }
        }
        let named: BTreeSet<_> = canaries.iter().map(|one| (one.tests, one.by)).collect();
        let controls = named
            .into_iter()
            .map(|(package, test)| Job::Control(package, test));
        // The longest first: with a bug most tests end early.
        let jobs: Vec<Job> = controls
            .chain(canaries.iter().map(|canary| Job::Canary(*canary)))
            .collect();
        let queue = Mutex::new(jobs.into_iter());
        let work = || {
            let mut tally = Tally::default();
            loop {
                let next = queue.lock().expect("nobody panics with it").next();
                let Some(job) = next else {
                    return Ok::<_, SuiteError>(tally);
                };
                let start = Instant::now();
                let (passed, what) = match job {
                    Job::Control(package, test) => packages[package].passes_without(test)?,
                    Job::Canary(canary) => packages[canary.tests].catches(&canary)?,
                };
                let verdict = if passed { "ok" } else { "FAILED" };
                let seconds = start.elapsed().as_secs_f64();
                println!("{verdict}: {what} ({seconds:.1} s)");
                tally.count(passed);
            }
        };
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
            let mut tally = Tally::default();
            for worker in workers {
                tally += worker.join().expect("a worker does not panic")?;
            }
            Ok(tally)
        })
    }

    /// Builds a package's tests with the known bugs in.
    fn build(&self, package: &str) -> Result<Built, SuiteError> {
        let mut command = (self.command)(package);
        compile_in(&mut command);
        command.arg("--no-run");
        let settings = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        let mut built = Built {
            package: package.to_owned(),
            sign: Sign::of(self.catcher),
            dir: self.workspace.root.join("crates").join(package),
            settings: settings.collect(),
            tests: Vec::new(),
        };
        let binaries = build(command)?;
        for binary in binaries {
            for name in list(&binary)? {
                if (self.which)(&name) {
                    let binary = binary.clone();
                    built.tests.push(Test { binary, name });
                }
            }
        }
        if built.tests.is_empty() {
            return Err(format!("{package} with canaries does not build, or has no tests").into());
        }
        Ok(built)
    }
}

/// The names of a binary's tests.
fn list(binary: &Path) -> Result<Vec<String>, SuiteError> {
    let listed = Command::new(binary)
        .args(["--list", "--format=terse"])
        .output()?;
    let listed = String::from_utf8(listed.stdout)?;
    let names = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    Ok(names.map(str::to_owned).collect())
}

/// One thing to be shown.
enum Job {
    /// A test of a package passes with no bug switched on.
    Control(&'static str, &'static str),
    /// A bug is caught.
    Canary(Canary),
}

/// The sign that a bug has been caught.
#[derive(Clone, Copy)]
enum Sign {
    /// The test fails, or its process dies.
    Failure,
    /// It prints this; that it fails is not enough.
    Report(&'static str),
}

impl Sign {
    fn of(catcher: Catcher) -> Self {
        match catcher {
            Catcher::AddressSanitizer => Self::Report("ERROR: AddressSanitizer: "),
            Catcher::ThreadSanitizer => Self::Report("WARNING: ThreadSanitizer: data race"),
            _ => Self::Failure,
        }
    }
}

/// How a test has ended.
enum End {
    Passed,
    /// It shows the sign.
    Caught,
    /// It fails without the sign.
    Failed(ExitStatus),
    /// It does not end.
    Hangs,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passes"),
            Self::Caught => f.write_str("catches something"),
            Self::Failed(status) => write!(f, "fails with {status} and reports nothing"),
            Self::Hangs => write!(f, "has not ended after {} s", PATIENCE.as_secs()),
        }
    }
}

/// One test.
struct Test {
    binary: PathBuf,
    name: String,
}

/// The tests of a package, built with the known bugs.
struct Built {
    package: String,
    sign: Sign,
    dir: PathBuf,
    settings: Vec<(OsString, OsString)>,
    tests: Vec<Test>,
}

impl Built {
    /// The tests of this name: each binary may have one.
    fn named<'t>(&'t self, name: &str) -> impl Iterator<Item = &'t Test> {
        self.tests.iter().filter(move |test| test.name == name)
    }

    /// Whether the tests of this name pass when no bug is on.
    fn passes_without(&self, name: &str) -> Result<(bool, String), SuiteError> {
        let mut count = 0;
        for test in self.named(name) {
            let end = self.run(test, None)?;
            if !matches!(end, End::Passed) {
                return Ok((
                    false,
                    format!("without a canary {}'s {name} {end}", self.package),
                ));
            }
            count += 1;
        }
        Ok(match count {
            0 => (false, format!("{} has no test {name}", self.package)),
            _ => (
                true,
                format!("without a canary {}'s {name} passes", self.package),
            ),
        })
    }

    /// Whether a bug is caught, by the test that the table names or, failing that, by any.
    fn catches(&self, canary: &Canary) -> Result<(bool, String), SuiteError> {
        let Canary { name, by, .. } = canary;
        let others = self.tests.iter().filter(|test| test.name != *by);
        for test in self.named(by).chain(others) {
            let end = self.run(test, Some(name))?;
            let by_whom = format!("{}'s {}", self.package, test.name);
            match end {
                End::Passed | End::Failed(_) => {}
                End::Caught if test.name == *by => {
                    return Ok((true, format!("canary {name} is caught by {by_whom}")));
                }
                End::Caught => {
                    let what = format!("canary {name} is caught by {by_whom}, not by {by}");
                    return Ok((true, what));
                }
                End::Hangs => {
                    return Ok((
                        false,
                        format!("canary {name} is not caught: {by_whom} {end}"),
                    ));
                }
            }
        }
        Ok((
            false,
            format!("canary {name} survives all tests of {}", self.package),
        ))
    }

    /// Runs one test. What it prints is the report of a bug that is meant to be there, so it is not
    /// shown.
    fn run(&self, test: &Test, canary: Option<&str>) -> Result<End, SuiteError> {
        // Not a pipe: what the test has started may hold that open.
        let mut output = tempfile::tempfile()?;
        let mut command = Command::new(&test.binary);
        command
            .args([&test.name, "--exact", "--test-threads=1"])
            .current_dir(&self.dir)
            .envs(self.settings.iter().cloned())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?);
        switch_on(&mut command, canary);
        let mut child = command.spawn()?;
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                return Ok(End::Hangs);
            }
            thread::sleep(BEAT);
        };
        Ok(match self.sign {
            // It may be that of a process that the test has started.
            Sign::Report(text) if contains(&mut output, text)? => End::Caught,
            _ if status.success() => End::Passed,
            Sign::Failure => End::Caught,
            Sign::Report(_) => End::Failed(status),
        })
    }
}

/// Whether the text stands in what was printed.
fn contains(output: &mut File, text: &str) -> Result<bool, SuiteError> {
    let mut printed = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut printed)?;
    Ok(String::from_utf8_lossy(&printed).contains(text))
}
