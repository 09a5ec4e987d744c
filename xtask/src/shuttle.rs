//! `shuttle`: long runs of the same scenarios as the models', and of a whole store over the
//! simulated disk, under schedules drawn from seeds.

use std::path::PathBuf;
use std::process::Command;
use std::thread;

use clap::{Arg, ArgMatches, value_parser};

use crate::canary::{self, Catcher, Tests};
use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::workspace::{Workspace, build, run_tests};

pub(crate) const SUITE: Suite = Suite {
    name: "shuttle",
    proves: "Nothing of the ring, the waiters and the pool of the I/O layer, the stability tracker, \
             the turns of group commit and a store that threads share on a disk that stops or fails \
             goes wrong in the schedules that were drawn; with --canaries, that they meet the known \
             bugs that are listed for them",
    needs: "nothing",
    quick: "cargo xtask shuttle",
    long: "cargo xtask shuttle --seconds 3600 --seed N; cargo xtask shuttle --canaries",
    args: |command| {
        let number = |name: &'static str, help: &'static str| {
            Arg::new(name)
                .long(name)
                .value_parser(value_parser!(u64))
                .help(help)
        };
        command
            .arg(number("seconds", "Draw schedules for about so long").conflicts_with("seeds"))
            .arg(number(
                "seeds",
                "Draw the schedules of so many seeds for each test",
            ))
            .arg(number("seed", "The first seed").default_value("0"))
            .arg(
                Arg::new("package")
                    .long("package")
                    .help("Only of this package"),
            )
            .arg(Arg::new("test").long("test").help("Only this test"))
            .arg(canary::arg(&[Catcher::Shuttle]))
    },
    verify: &[Part::Share {
        weight: 2,
        args: &[],
    }],
    run,
};

/// Packages with `tests/shuttle.rs` or `tests/shuttle/`, and the share of the time that each has.
const PACKAGES: &[(&str, u64)] = &[
    ("esker-ring", 3),
    ("esker-io", 1),
    ("esker-lss", 1),
    ("esker-sim", 6),
];

fn run(workspace: &Workspace, matches: &ArgMatches) -> Result<Tally, SuiteError> {
    if let Some(canaries) = canary::chosen(matches, Catcher::Shuttle) {
        let tests = Tests {
            workspace,
            catcher: Catcher::Shuttle,
            command: &|package| tests(workspace, package),
            which: &|_| true,
        };
        return tests.catch(&canaries);
    }
    let (package, test) = (matches.get_one("package"), matches.get_one("test"));
    let chosen = PACKAGES
        .iter()
        .filter(|(name, _)| package.is_none_or(|package: &String| package == name));
    let chosen: Vec<_> = chosen.collect();
    if chosen.is_empty() {
        return Err(format!("{package:?} has no tests under shuttle").into());
    }
    let shares: u64 = chosen.iter().map(|(_, share)| share).sum();
    let mut tally = Tally::default();
    for (package, share) in chosen {
        let mut command = tests(workspace, package);
        if let Some(seed) = matches.get_one::<u64>("seed") {
            command.env("ESKER_SHUTTLE_SEED", seed.to_string());
        }
        if let Some(seeds) = matches.get_one::<u64>("seeds") {
            command.env("ESKER_SHUTTLE_SEEDS", seeds.to_string());
        }
        if let Some(seconds) = matches.get_one::<u64>("seconds") {
            let millis = seconds * 1000 * share / shares;
            let each = millis / rounds(workspace, package, test)?;
            command.env("ESKER_SHUTTLE_MILLIS", each.to_string());
        }
        command.args(["--", "--show-output"]);
        if let Some(test) = test {
            command.args([test, "--exact"]);
        }
        tally += run_tests(command)?.1;
    }
    Ok(tally)
}

/// How many tests of a package run one after the other, where each core runs one.
fn rounds(workspace: &Workspace, package: &str, test: Option<&String>) -> Result<u64, SuiteError> {
    if test.is_some() {
        return Ok(1);
    }
    let mut command = tests(workspace, package);
    command.arg("--no-run");
    let binary = build(command)?.pop();
    let binary: PathBuf = binary.ok_or("the tests do not build")?;
    let listed = Command::new(binary).arg("--list").output()?.stdout;
    let listed = String::from_utf8_lossy(&listed);
    let tests = listed.lines().filter(|line| line.ends_with(": test"));
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(tests.count().div_ceil(cores).max(1) as u64)
}

fn tests(workspace: &Workspace, package: &str) -> Command {
    let mut command = workspace.cargo(&["test", "--release", "--package", package]);
    command
        .args(["--test", "shuttle", "--target-dir"])
        .arg(workspace.target_dir("shuttle"))
        .env("RUSTFLAGS", "--cfg esker_shuttle")
        // What a failure prints is its seed; the stack is shuttle's.
        .env("RUST_BACKTRACE", "0");
    command
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn is_there(crates: &Path, package: &str) -> bool {
        let tests = crates.join(package).join("tests");
        tests.join("shuttle.rs").is_file() || tests.join("shuttle/main.rs").is_file()
    }

    #[test]
    fn every_package_with_such_tests_is_in_the_table() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
        let packages = std::fs::read_dir(&crates).expect("the packages");
        let names = packages.map(|entry| entry.expect("a package").file_name());
        let mut names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
        names.retain(|name| is_there(&crates, name));
        names.sort();
        let mut listed: Vec<_> = PACKAGES.iter().map(|(name, _)| *name).collect();
        listed.sort_unstable();
        assert_eq!(names, listed);
    }
}
