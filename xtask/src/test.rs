//! `test`: every test of the workspace, and the examples of every layer.

use std::process::Command;

use clap::ArgMatches;

use crate::canary::{self, Catcher, Tests};
use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::workspace::{Workspace, announce, run_tests};

pub(crate) const SUITE: Suite = Suite {
    name: "test",
    proves: "Unit, integration and doc tests of every crate pass, and every example runs; with \
             --canaries, that the tests catch each known bug of the layers that has no model",
    needs: "nothing; tests that need more say in their output what they left out",
    quick: "cargo xtask test",
    long: "cargo xtask test --canaries",
    args: |command| command.arg(canary::arg(&[Catcher::Test])),
    verify: &[Part::Whole(&[])],
    run,
};

fn run(workspace: &Workspace, matches: &ArgMatches) -> Result<Tally, SuiteError> {
    if let Some(canaries) = canary::chosen(matches, Catcher::Test) {
        let tests = |package: &str| {
            let mut command = workspace.cargo(&["test", "--all-features", "--package", package]);
            command
                .args(["--lib", "--bins", "--tests", "--target-dir"])
                .arg(workspace.target_dir("canary"));
            command
        };
        let tests = Tests {
            workspace,
            catcher: Catcher::Test,
            command: &tests,
            which: &|_| true,
        };
        return tests.catch(&canaries);
    }
    let mut tests = workspace.cargo(&["test", "--workspace", "--all-features"]);
    // Every package's result is wanted, not only the first one that fails.
    tests.arg("--no-fail-fast");
    let (_, mut tally) = run_tests(tests)?;
    for (package, example) in examples(workspace) {
        let mut command = workspace.cargo(&["run", "--quiet", "--all-features", "--package"]);
        command.arg(package);
        tally.count(passes(command, &example)?);
    }
    Ok(tally)
}

/// Whether an example passes, run by a cargo command that lacks its name alone.
pub(crate) fn passes(mut command: Command, example: &str) -> Result<bool, SuiteError> {
    command.args(["--example", example]);
    announce(&command);
    let passed = command.status()?.success();
    if !passed {
        println!("FAILED: example {example}");
    }
    Ok(passed)
}

/// Package and name of every example of the packages below `crates/`.
pub(crate) fn examples(workspace: &Workspace) -> Vec<(String, String)> {
    let crates = workspace.root.join("crates");
    let packages = workspace.metadata.workspace_packages();
    let mut examples: Vec<_> = packages
        .iter()
        .filter(|package| package.manifest_path.as_std_path().starts_with(&crates))
        .flat_map(|package| {
            let targets = package.targets.iter().filter(|target| target.is_example());
            targets.map(|target| (package.name.to_string(), target.name.clone()))
        })
        .collect();
    examples.sort();
    examples
}
