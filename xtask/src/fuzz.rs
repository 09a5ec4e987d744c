//! `fuzz`: libFuzzer on everything that reads bytes from disk, and on the command's framing.
//!
//! The targets are in `crates/esker-lss/fuzz`, outside the workspace, since they need a nightly
//! toolchain. Their seeds are run by ordinary tests too.

use std::fs;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::{Arg, ArgMatches, value_parser};

use crate::canary::{self, Canary, Catcher};
use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::workspace::{Workspace, announce};

pub(crate) const SUITE: Suite = Suite {
    name: "fuzz",
    proves: "No content of a store's files, with checksums that match or not, makes opening, reading, \
             verifying or salvaging panic, hang or take memory without bound; input in either framing \
             is cut into the records that it is, in whatever pieces it comes; with --canaries, that \
             each target finds the known bugs that are listed for it",
    needs: "a nightly toolchain, cargo-fuzz",
    quick: "cargo xtask fuzz",
    long: "cargo xtask fuzz --seconds 3600; cargo xtask fuzz --canaries",
    args: |command| {
        command
            .arg(
                Arg::new("seconds")
                    .long("seconds")
                    .value_name("N")
                    .value_parser(value_parser!(u64).range(1..))
                    .default_value("60")
                    .help("How long for all targets together"),
            )
            .arg(
                Arg::new("target")
                    .value_name("TARGET")
                    .value_parser(TARGETS.to_vec())
                    .help("Only this target")
                    .conflicts_with("canaries"),
            )
            .arg(canary::arg(&[Catcher::Fuzz]))
    },
    verify: &[Part::Share {
        weight: 2,
        args: &[],
    }],
    run,
};

const TARGETS: &[&str] = &["store", "framing"];

/// Where the targets are, from the root.
const DIR: &str = "crates/esker-lss/fuzz";

fn run(workspace: &Workspace, matches: &ArgMatches) -> Result<Tally, SuiteError> {
    let mut tally = Tally::default();
    if !is_there(workspace) {
        tally.skip(
            "fuzz",
            "`cargo +nightly fuzz` does not run: rustup toolchain install nightly, cargo install \
             cargo-fuzz",
        );
        return Ok(tally);
    }
    if let Some(canaries) = canary::chosen(matches, Catcher::Fuzz) {
        return catch(workspace, &canaries);
    }
    let only = matches.get_one::<String>("target");
    let targets: Vec<_> = TARGETS
        .iter()
        .filter(|target| only.is_none_or(|only| only == *target))
        .collect();
    let seconds = matches.get_one::<u64>("seconds").copied().unwrap_or(60);
    let each = (seconds / targets.len().max(1) as u64).max(1);
    for target in targets {
        let corpus = workspace.target_dir("fuzz-corpus").join(target);
        fs::create_dir_all(&corpus)?;
        let mut command = cargo_fuzz(workspace, "run", "fuzz");
        command.arg(target);
        drawing(&mut command, workspace, target, &corpus, each);
        announce(&command);
        let passed = command.status()?.success();
        if !passed {
            println!("FAILED: {target}: the command that repeats it is printed above");
        }
        tally.count(passed);
    }
    Ok(tally)
}

/// A command of cargo-fuzz that builds into a directory of that name.
fn cargo_fuzz(workspace: &Workspace, what: &str, target_dir: &str) -> Command {
    let mut command = workspace.nightly("cargo", &["fuzz", what]);
    command
        .args(["--fuzz-dir", DIR, "--target-dir"])
        .arg(workspace.target_dir(target_dir));
    command
}

/// Adds what is drawn from, the seeds and whatever has been found before, and for how long.
fn drawing(
    command: &mut Command,
    workspace: &Workspace,
    target: &str,
    corpus: &Path,
    seconds: u64,
) {
    command
        // What is found goes into the first directory.
        .arg(corpus)
        .arg(workspace.root.join(DIR).join("seeds").join(target))
        .args([
            "--",
            "-timeout=20",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
        ])
        .arg(format!("-max_total_time={seconds}"));
}

/// How long a known bug may stay hidden, and how long a target is run with none, in seconds.
const CANARY_SECONDS: u64 = 180;
const CONTROL_SECONDS: u64 = 10;

/// What libFuzzer says last of a crash, which tells one from a target that did not start.
const SIGN: &str = "SUMMARY: ";

/// Switches each known bug on and demands that its target finds it, from nothing but the seeds; and
/// that the targets find nothing with none on.
fn catch(workspace: &Workspace, canaries: &[Canary]) -> Result<Tally, SuiteError> {
    let mut tally = Tally::default();
    let mut build = cargo_fuzz(workspace, "build", "fuzz-canary");
    canary::compile_in(&mut build);
    announce(&build);
    if !build.status()?.success() {
        return Err("the targets do not build with canaries".into());
    }
    for target in TARGETS {
        if canaries.iter().any(|canary| canary.by == *target) {
            let quiet = !finds(workspace, target, None, CONTROL_SECONDS)?;
            let verdict = if quiet { "ok" } else { "FAILED" };
            let what = if quiet { "nothing" } else { "something" };
            println!("{verdict}: without a canary {target} finds {what}");
            tally.count(quiet);
        }
    }
    for Canary { name, by, .. } in canaries {
        let start = Instant::now();
        let caught = finds(workspace, by, Some(name), CANARY_SECONDS)?;
        let verdict = if caught { "ok" } else { "FAILED" };
        let what = if caught { "finds" } else { "does not find" };
        let seconds = start.elapsed().as_secs_f64();
        println!("{verdict}: {by} {what} canary {name} ({seconds:.1} s)");
        tally.count(caught);
    }
    Ok(tally)
}

/// Whether a target finds anything with this bug on.
fn finds(
    workspace: &Workspace,
    target: &str,
    canary: Option<&str>,
    seconds: u64,
) -> Result<bool, SuiteError> {
    let scratch = tempfile::tempdir()?;
    let mut output = tempfile::tempfile()?;
    let mut command = cargo_fuzz(workspace, "run", "fuzz-canary");
    canary::compile_in(&mut command);
    canary::switch_on(&mut command, canary);
    command.arg(target);
    drawing(&mut command, workspace, target, scratch.path(), seconds);
    command
        .arg("-seed=1")
        .arg(format!("-artifact_prefix={}/", scratch.path().display()))
        .stdout(Stdio::null())
        .stderr(output.try_clone()?);
    if command.status()?.success() {
        return Ok(false);
    }
    let mut said = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut said)?;
    let said = String::from_utf8_lossy(&said);
    match said.contains(SIGN) {
        true => Ok(true),
        false => Err(format!("{target} does not run: {said}").into()),
    }
}

fn is_there(workspace: &Workspace) -> bool {
    let mut command = workspace.nightly("cargo", &["fuzz", "--version"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
