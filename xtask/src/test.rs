//! `test`: every test of the workspace, and the examples of every layer.

use clap::{ArgMatches, Command};

use crate::suite::{Suite, SuiteError, Tally};
use crate::workspace::{Workspace, announce, run_tests};

pub(crate) const SUITE: Suite = Suite {
    name: "test",
    proves: "Unit, integration and doc tests of every crate pass, and every example runs",
    needs: "nothing; tests that need more say in their output what they left out",
    quick: "cargo xtask test",
    long: "the same",
    args: |command: Command| command,
    run,
};

fn run(workspace: &Workspace, _: &ArgMatches) -> Result<Tally, SuiteError> {
    let mut tests = workspace.cargo(&["test", "--workspace", "--all-features"]);
    // Every package's result is wanted, not only the first one that fails.
    tests.arg("--no-fail-fast");
    let (_, mut tally) = run_tests(tests)?;
    for (package, example) in examples(workspace) {
        let mut command = workspace.cargo(&["run", "--quiet", "--all-features", "--package"]);
        command.args([&package, "--example", &example]);
        announce(&command);
        let passed = command.status()?.success();
        if !passed {
            println!("FAILED: example {example} of {package}");
        }
        tally.count(passed);
    }
    Ok(tally)
}

/// Package and name of every example of the packages below `crates/`.
fn examples(workspace: &Workspace) -> Vec<(String, String)> {
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
