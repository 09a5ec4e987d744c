//! `fuzz`: libFuzzer on everything that reads bytes from disk, and on the command's framing.
//!
//! The targets are in `crates/esker-lss/fuzz`, outside the workspace, since they need a nightly
//! toolchain. Their seeds are run by ordinary tests too.

use std::fs;
use std::process::Stdio;

use clap::{Arg, ArgMatches, value_parser};

use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::workspace::{Workspace, announce};

pub(crate) const SUITE: Suite = Suite {
    name: "fuzz",
    proves: "No content of a store's files, with checksums that match or not, makes opening, reading, \
             verifying or salvaging panic, hang or take memory without bound; input in either framing \
             is cut into the records that it is, in whatever pieces it comes",
    needs: "a nightly toolchain, cargo-fuzz",
    quick: "cargo xtask fuzz",
    long: "cargo xtask fuzz --seconds 3600",
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
                    .help("Only this target"),
            )
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
        let mut command = workspace.nightly("cargo", &["fuzz", "run"]);
        command
            .args(["--fuzz-dir", DIR, "--target-dir"])
            .arg(workspace.target_dir("fuzz"))
            .arg(target)
            // What is found goes into the first directory.
            .arg(corpus)
            .arg(workspace.root.join(DIR).join("seeds").join(target))
            .args([
                "--",
                "-timeout=20",
                "-rss_limit_mb=2048",
                "-print_final_stats=1",
            ])
            .arg(format!("-max_total_time={each}"));
        announce(&command);
        let passed = command.status()?.success();
        if !passed {
            println!("FAILED: {target}: the command that repeats it is printed above");
        }
        tally.count(passed);
    }
    Ok(tally)
}

fn is_there(workspace: &Workspace) -> bool {
    let mut command = workspace.nightly("cargo", &["fuzz", "--version"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
