//! `loom`: the concurrent protocols under every interleaving that the memory model allows, within
//! the bounds that each model names.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches};

use crate::suite::{Suite, SuiteError, Tally};
use crate::workspace::{Workspace, build, canary_flag, run_tests};

pub(crate) const SUITE: Suite = Suite {
    name: "loom",
    proves: "The ring's protocol and the stability tracker hold under every interleaving that \
             loom explores; with --canaries, that the models catch each known bug",
    needs: "nothing",
    quick: "cargo xtask loom",
    long: "cargo xtask loom --canaries",
    args: |command| {
        command.arg(
            Arg::new("canaries")
                .long("canaries")
                .action(ArgAction::SetTrue)
                .help(
                    "Switch each known bug on, one after the other, and demand that it is caught",
                ),
        )
    },
    run,
};

/// Packages with models in `tests/loom.rs`.
const PACKAGES: &[&str] = &["esker-ring", "esker-lss"];

/// A known bug, and the test that has to catch it.
struct Canary {
    package: &'static str,
    name: &'static str,
}

/// Every bug that can be switched on below `crates/` and that a model has to catch.
const CANARIES: &[Canary] = &[];

/// How long one canary may take before it counts as not caught.
const CANARY_TIMEOUT: Duration = Duration::from_secs(600);

fn run(workspace: &Workspace, matches: &ArgMatches) -> Result<Tally, SuiteError> {
    if matches.get_flag("canaries") {
        return canaries(workspace);
    }
    let mut tally = Tally::default();
    for package in PACKAGES {
        if has_models(workspace, package) {
            tally += run_tests(models(workspace, package, None))?.1;
        } else {
            tally.skip(package, "it has no tests/loom.rs");
        }
    }
    Ok(tally)
}

fn has_models(workspace: &Workspace, package: &str) -> bool {
    let models = Path::new("crates").join(package).join("tests/loom.rs");
    workspace.root.join(models).is_file()
}

fn models(workspace: &Workspace, package: &str, canary: Option<&str>) -> Command {
    let mut command = workspace.cargo(&["test", "--release", "--package", package]);
    let mut flags = String::from("--cfg esker_loom");
    if let Some(canary) = canary {
        flags = format!("{flags} {}", canary_flag(canary));
    }
    command
        .args(["--test", "loom", "--target-dir"])
        .arg(workspace.target_dir("loom"))
        .env("RUSTFLAGS", flags);
    command
}

fn canaries(workspace: &Workspace) -> Result<Tally, SuiteError> {
    let mut tally = Tally::default();
    for Canary { package, name } in CANARIES {
        let mut command = models(workspace, package, Some(name));
        command.arg("--no-run");
        let Some(binary) = build(command, "loom")? else {
            println!("FAILED: {package} does not build with canary {name}");
            tally.count(false);
            continue;
        };
        // What it prints is the report of a bug that is meant to be there.
        let mut test = Command::new(binary);
        test.stdout(Stdio::null()).stderr(Stdio::null());
        let caught = match finish(test.spawn()?, CANARY_TIMEOUT)? {
            Some(true) => Err("survived: no model catches it"),
            Some(false) => Ok(()),
            None => Err("neither caught nor survived within the time limit"),
        };
        match caught {
            Ok(()) => println!("ok: canary {name} of {package} is caught"),
            Err(why) => println!("FAILED: canary {name} of {package} {why}"),
        }
        tally.count(caught.is_ok());
    }
    Ok(tally)
}

/// Whether the child succeeded, or `None` if it had to be killed.
fn finish(mut child: Child, timeout: Duration) -> Result<Option<bool>, SuiteError> {
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}
