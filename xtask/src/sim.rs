//! `sim`: stores over a simulated disk that crashes, fails and lies, for a given time.
//!
//! The tests are those of `esker-sim`, built in release. First all of them, which take every crash
//! point of short runs; then, for what is left of the time, lives drawn from further seeds, on every
//! core.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, value_parser};

use crate::canary::{self, Catcher, Tests};
use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::workspace::{Workspace, build, result_line};

pub(crate) const SUITE: Suite = Suite {
    name: "sim",
    proves: "Whatever a power failure or a kill leaves of a simulated disk, after any effect and in \
             recovery too, the store opens with everything that was acknowledged, nothing invented, \
             and goes on; faults of the disk are named. With --canaries, that this catches each known \
             bug of commit and recovery",
    needs: "nothing",
    quick: "cargo xtask sim",
    long: "cargo xtask sim --seconds 3600 --seed S && cargo xtask sim --canaries",
    args: |command| {
        let number = |name, help| {
            let arg = Arg::new(name).long(name).value_name("N").help(help);
            arg.value_parser(value_parser!(u64))
        };
        command
            .arg(
                number(
                    "seconds",
                    "How long to go on with drawn lives; the rest takes seconds",
                )
                .default_value("15"),
            )
            .arg(number("seed", "The first seed of the drawn lives").default_value("1000"))
            .arg(canary::arg(&[Catcher::Sim]))
    },
    verify: &[Part::Share {
        weight: 3,
        args: &[],
    }],
    run,
};

/// The test of drawn lives.
const LIVES: &str = "crashes::many_lives_lose_nothing_that_was_acknowledged";

/// How far apart the seeds of two processes begin.
const STRIDE: u64 = 1 << 32;

fn run(workspace: &Workspace, matches: &ArgMatches) -> Result<Tally, SuiteError> {
    if let Some(canaries) = canary::chosen(matches, Catcher::Sim) {
        let tests = |package: &str| {
            let mut command = tests(workspace, package);
            command
                .arg("--target-dir")
                .arg(workspace.target_dir("canary"));
            command
        };
        let tests = Tests {
            workspace,
            catcher: Catcher::Sim,
            command: &tests,
            which: &|_| true,
        };
        return tests.catch(&canaries);
    }
    let get = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or_default();
    let (seconds, seed) = (get("seconds"), get("seed"));
    let mut command = tests(workspace, "esker-sim");
    command.arg("--no-run");
    let Some(binary) = build(command)?.pop() else {
        return Err("the tests of esker-sim do not build".into());
    };
    let began = Instant::now();
    let dir = workspace.root.join("crates/esker-sim");
    let mut outcome = watch(&binary, &dir, |test| test.arg("--show-output"))?;
    if seconds > 0 && outcome.tally.failed == 0 {
        outcome += lives(&binary, &dir, seconds, seed)?;
    }
    let elapsed = began.elapsed();
    println!(
        "{} crash/recover cycles in {:.1} s: {} per second; lives from seed {seed} on",
        outcome.cycles,
        elapsed.as_secs_f64(),
        per_second(outcome.cycles, elapsed)
    );
    Ok(outcome.tally)
}

/// The command that builds a package's tests.
fn tests(workspace: &Workspace, package: &str) -> Command {
    let mut command = workspace.cargo(&["test", "--release", "--package", package]);
    command.args(["--test", "it"]);
    command
}

/// Draws lives in as many processes as there are cores.
fn lives(binary: &Path, dir: &Path, seconds: u64, seed: u64) -> Result<Outcome, SuiteError> {
    let jobs = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let workers: Vec<_> = (0..jobs)
        .map(|job| {
            let (binary, dir): (PathBuf, PathBuf) = (binary.into(), dir.into());
            thread::spawn(move || {
                watch(&binary, &dir, |test| {
                    test.args([LIVES, "--exact", "--show-output"])
                        .env("ESKER_SIM_FIRST", (seed + job * STRIDE).to_string())
                        .env("ESKER_SIM_SECONDS", seconds.to_string())
                })
            })
        })
        .collect();
    let mut sum = Outcome::default();
    for worker in workers {
        sum += worker.join().expect("a worker does not panic")?;
    }
    Ok(sum)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outcome {
    tally: Tally,
    cycles: u64,
}

impl std::ops::AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.tally += other.tally;
        self.cycles += other.cycles;
    }
}

/// Runs the tests, shows what they counted and, should one fail, everything they print.
fn watch(
    binary: &Path,
    dir: &Path,
    args: impl FnOnce(&mut Command) -> &mut Command,
) -> Result<Outcome, SuiteError> {
    let mut command = Command::new(binary);
    command.current_dir(dir).stdout(Stdio::piped());
    let mut child = args(&mut command).spawn()?;
    let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let mut outcome = Outcome::default();
    let mut lines = Vec::new();
    for line in output.lines() {
        let line = line?;
        if let Some(tally) = result_line(&line) {
            outcome.tally += tally;
        }
        if let Some(cycles) = cycles(&line) {
            outcome.cycles += cycles;
            println!("{line}");
        }
        lines.push(line);
    }
    let passed = child.wait()?.success();
    if !passed {
        println!("{}", lines.join("\n"));
        outcome.tally.failed = outcome.tally.failed.max(1);
    }
    Ok(outcome)
}

/// Reads `NAME: WHAT, N crash/recover cycles in T s`.
fn cycles(line: &str) -> Option<u64> {
    let (before, _) = line.split_once(" crash/recover cycles in ")?;
    before.rsplit(' ').next()?.parse().ok()
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    (u128::from(count) * 1000 / elapsed.as_millis().max(1)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_what_tests_print() {
        let line = "commits: 499 states after 47 effects, 998 crash/recover cycles in 0.055 s";
        assert_eq!(cycles(line), Some(998));
        assert_eq!(cycles("test crashes::many ... ok"), None);
        assert_eq!(per_second(500, Duration::from_millis(250)), 2000);
    }
}
