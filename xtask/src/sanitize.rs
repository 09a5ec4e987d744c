//! `sanitize`: the tests that run on real threads, under AddressSanitizer and ThreadSanitizer.
//!
//! Both need a nightly toolchain. ThreadSanitizer needs the standard library's source besides: its
//! synchronisation is seen only when it is built with the sanitizer too, and what it orders would
//! be reported as a race.

use std::path::Path;
use std::process::{Command, Stdio};

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches};

use crate::canary::{self, Canary, Catcher, Tests};
use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::test;
use crate::workspace::{Workspace, run_tests};

pub(crate) const SUITE: Suite = Suite {
    name: "sanitize",
    proves: "In the tests and examples of every layer AddressSanitizer sees no access outside of \
             live memory, and in those that run threads ThreadSanitizer no data race; with \
             --canaries, that each sees the known bugs that are listed for it",
    needs: "a nightly toolchain; for `thread` its component rust-src",
    quick: "cargo xtask sanitize address --package esker-ring",
    long: "cargo xtask sanitize; cargo xtask sanitize --canaries",
    args: |command| {
        let names = SANITIZERS.iter().map(|sanitizer| sanitizer.name);
        let packages = PACKAGES.iter().map(|package| package.name);
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
                canary::arg(&[Catcher::AddressSanitizer, Catcher::ThreadSanitizer])
                    .conflicts_with("package"),
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
    /// Tests that it can't run, by what their names contain, and why.
    leaves_out: &'static [(&'static str, &'static str)],
    /// Whether it looks at what threads do to each other, and at nothing else.
    wants_threads: bool,
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
        leaves_out: &[],
        wants_threads: false,
    },
    Sanitizer {
        name: "thread",
        catcher: Catcher::ThreadSanitizer,
        // A test binary ends with its first report: the next ones are as a rule the same.
        options: ("TSAN_OPTIONS", "halt_on_error=1:second_deadlock_stack=1"),
        builds_std: true,
        leaves_out: &[(
            "forking::",
            "its runtime lets no child of a process with threads start threads of its own",
        )],
        wants_threads: true,
    },
];

/// A package, and what of it is run.
struct Package {
    name: &'static str,
    targets: &'static [&'static str],
    /// Which of its tests are worth a look at what threads do; all where none is named.
    threads: &'static [&'static str],
}

const PACKAGES: &[Package] = &[
    Package {
        name: "esker-buf",
        targets: &["--lib"],
        threads: &[],
    },
    Package {
        name: "esker-ring",
        targets: &["--lib", "--test", "it"],
        threads: &[],
    },
    Package {
        name: "esker-io",
        targets: &["--lib", "--test", "it"],
        threads: &[],
    },
    Package {
        name: "esker-lss",
        targets: &["--lib", "--test", "it"],
        threads: &[],
    },
    Package {
        name: "esker-sim",
        targets: &["--lib", "--test", "it"],
        // The others run the store in one thread.
        threads: &["threads::"],
    },
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
        let build = Build {
            workspace,
            sanitizer,
            target,
        };
        if let Some(canaries) = canary::chosen(matches, sanitizer.catcher) {
            tally += build.canaries(&canaries)?;
            continue;
        }
        let packages = PACKAGES
            .iter()
            .filter(|one| package.is_none_or(|package| package == one.name));
        for package in packages {
            tally += build.run(package)?;
        }
        for (name, why) in sanitizer.leaves_out {
            tally.skip(&format!("{name} under {}", sanitizer.name), why);
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

/// How a sanitizer's programs are built and run.
struct Build<'a> {
    workspace: &'a Workspace,
    sanitizer: &'a Sanitizer,
    target: String,
}

impl Build<'_> {
    /// The tests and the examples of a package.
    fn run(&self, package: &Package) -> Result<Tally, SuiteError> {
        let mut tests = self.tests(package);
        tests.arg("--");
        if self.sanitizer.wants_threads {
            tests.args(package.threads);
        }
        for (name, _) in self.sanitizer.leaves_out {
            tests.args(["--skip", name]);
        }
        let mut tally = run_tests(tests)?.1;
        for (name, example) in test::examples(self.workspace) {
            if name == package.name {
                tally.count(test::passes(self.cargo("run", package), &example)?);
            }
        }
        Ok(tally)
    }

    /// Demands that it reports known bugs.
    fn canaries(&self, canaries: &[Canary]) -> Result<Tally, SuiteError> {
        let left_out = self.sanitizer.leaves_out;
        let tests = Tests {
            workspace: self.workspace,
            catcher: self.sanitizer.catcher,
            command: &|name| {
                let package = PACKAGES.iter().find(|package| package.name == name);
                self.tests(package.expect("every canary is of one of them"))
            },
            which: &|test| left_out.iter().all(|(name, _)| !test.contains(name)),
        };
        tests.catch(canaries)
    }

    fn tests(&self, package: &Package) -> Command {
        let mut command = self.cargo("test", package);
        command.args(package.targets);
        command
    }

    fn cargo(&self, what: &str, package: &Package) -> Command {
        let Sanitizer {
            name,
            options: (variable, options),
            builds_std,
            ..
        } = self.sanitizer;
        let mut command = self
            .workspace
            .nightly("cargo", &[what, "--locked", "--target", &self.target]);
        if *builds_std {
            command.arg("-Zbuild-std");
        }
        command
            .args(["--all-features", "--package", package.name, "--target-dir"])
            .arg(self.workspace.target_dir("sanitize").join(name))
            .env("RUSTFLAGS", format!("-Zsanitizer={name}"))
            // Debug assertions stay on; what is not optimised at all takes several times as long.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
            // What a report names is a file and a line.
            .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
            .env(variable, options);
        command
    }
}
