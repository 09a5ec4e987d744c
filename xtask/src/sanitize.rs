//! `sanitize`: the tests that run on real threads, under AddressSanitizer and ThreadSanitizer.
//!
//! Both need a nightly toolchain. ThreadSanitizer needs the standard library's source besides: its
//! synchronisation is seen only when it is built with the sanitizer too, and what it orders would
//! be reported as a race.

use std::path::Path;
use std::process::{Command, Stdio};

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches};

use crate::canary::{self, Catcher};
use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::workspace::{Workspace, run_tests};

pub(crate) const SUITE: Suite = Suite {
    name: "sanitize",
    proves: "In the tests of the ring, the I/O layer and the store, and of the simulated disk's \
             threads, AddressSanitizer sees no access outside of live memory, and ThreadSanitizer no \
             data race; with --canaries, that each sees the known bugs that are \
             listed for it",
    needs: "a nightly toolchain; for `thread` its component rust-src",
    quick: "cargo xtask sanitize address --package esker-ring",
    long: "cargo xtask sanitize; cargo xtask sanitize --canaries",
    args: |command| {
        let names = SANITIZERS.iter().map(|sanitizer| sanitizer.name);
        let packages = PACKAGES.iter().map(|(package, _)| *package);
        command
            .arg(
                Arg::new("sanitizer")
                    .value_name("SANITIZER")
                    .value_parser(PossibleValuesParser::new(names))
                    .help("Only this one"),
            )
            .arg(
                Arg::new("package")
                    .long("package")
                    .value_parser(PossibleValuesParser::new(packages))
                    .help("Only the tests of this package"),
            )
            .arg(
                Arg::new("canaries")
                    .long("canaries")
                    .action(ArgAction::SetTrue)
                    .conflicts_with("package")
                    .help("Switch each known bug on, one after the other, and demand its report"),
            )
    },
    verify: &[Part::Whole(&[])],
    run,
};

struct Sanitizer {
    /// As the compiler calls it.
    name: &'static str,
    catcher: Catcher,
    /// Where it looks for its options, and ours.
    options: (&'static str, &'static str),
    /// Whether it has to see into the standard library.
    builds_std: bool,
}

const SANITIZERS: &[Sanitizer] = &[
    Sanitizer {
        name: "address",
        catcher: Catcher::AddressSanitizer,
        options: (
            "ASAN_OPTIONS",
            // Some tests leak what the kernel may still use, as a caller might.
            "detect_leaks=0:detect_stack_use_after_return=1",
        ),
        builds_std: false,
    },
    Sanitizer {
        name: "thread",
        catcher: Catcher::ThreadSanitizer,
        // A test binary ends with its first report: the next ones are as a rule the same.
        options: ("TSAN_OPTIONS", "halt_on_error=1:second_deadlock_stack=1"),
        builds_std: true,
    },
];

/// Packages, and which of their tests; all where none is named.
const PACKAGES: &[(&str, &[&str])] = &[
    ("esker-ring", &[]),
    ("esker-io", &[]),
    ("esker-lss", &[]),
    // The others run the store in one thread.
    ("esker-sim", &["threads::"]),
];

fn run(workspace: &Workspace, matches: &ArgMatches) -> Result<Tally, SuiteError> {
    let (only, package) = (
        matches.get_one::<String>("sanitizer"),
        matches.get_one::<String>("package"),
    );
    let mut tally = Tally::default();
    let chosen = SANITIZERS
        .iter()
        .filter(|sanitizer| only.is_none_or(|only| only == sanitizer.name));
    for sanitizer in chosen {
        let target = match target(workspace, sanitizer) {
            Ok(target) => target,
            Err(missing) => {
                tally.skip(sanitizer.name, missing);
                continue;
            }
        };
        let tests = |package: &str| tests(workspace, sanitizer, &target, package);
        if matches.get_flag("canaries") {
            tally += canary::run(workspace, sanitizer.catcher, tests)?;
            continue;
        }
        let packages = PACKAGES
            .iter()
            .filter(|(name, _)| package.is_none_or(|package| package == name));
        for (name, filters) in packages {
            let mut command = tests(name);
            command.arg("--").args(*filters);
            tally += run_tests(command)?.1;
        }
    }
    Ok(tally)
}

/// The machine's own target, which has to be named: without a name build scripts and procedural
/// macros would be built with the sanitizer too. Or what is missing.
fn target(workspace: &Workspace, sanitizer: &Sanitizer) -> Result<String, &'static str> {
    const NO_NIGHTLY: &str =
        "`cargo +nightly` does not run: rustup toolchain install nightly --component rust-src";
    let mut rustc = workspace.nightly("rustc", &["-vV"]);
    let version = output(&mut rustc).ok_or(NO_NIGHTLY)?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .ok_or(NO_NIGHTLY)?;
    if sanitizer.builds_std {
        let mut rustc = workspace.nightly("rustc", &["--print", "sysroot"]);
        let sysroot = output(&mut rustc).ok_or(NO_NIGHTLY)?;
        let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/Cargo.lock");
        if !library.is_file() {
            return Err(
                "the nightly toolchain has no source of the standard library: rustup \
                        component add rust-src --toolchain nightly",
            );
        }
    }
    Ok(host.to_owned())
}

/// What a command prints; nothing if it fails or can't be run.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    let printed = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(printed)
}

fn tests(workspace: &Workspace, sanitizer: &Sanitizer, target: &str, package: &str) -> Command {
    let mut command = workspace.nightly("cargo", &["test", "--locked", "--target", target]);
    if sanitizer.builds_std {
        command.arg("-Zbuild-std");
    }
    let (name, options) = sanitizer.options;
    command
        .args(["--all-features", "--package", package])
        .args(["--lib", "--test", "it", "--target-dir"])
        .arg(workspace.target_dir("sanitize").join(sanitizer.name))
        .env("RUSTFLAGS", format!("-Zsanitizer={}", sanitizer.name))
        // Debug assertions stay on; what is not optimised at all takes several times as long.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        // What a report names is a file and a line.
        .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
        .env(name, options);
    command
}
