//! `damage`: a small store, damaged in every way there is, one at a time.
//!
//! The test is one of `esker-sim`'s, built in release. It shuffles the list of all damage by the
//! seed and goes through it for as long as there is time.

use clap::{Arg, ArgMatches, value_parser};

use crate::canary::{self, Catcher, Tests};
use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::workspace::{Workspace, run_tests};

pub(crate) const SUITE: Suite = Suite {
    name: "damage",
    proves: "Whatever single byte, block, length or file of a store is damaged, opening, verifying and \
             reading notice nothing because nothing acknowledged was touched, or find a torn tail, or \
             name the slot; they never panic, take memory without bound or return other bytes; and \
             salvage gives back what was not touched; with --canaries, that each known bug of what \
             is checked is caught",
    needs: "nothing",
    quick: "cargo xtask damage",
    long: "cargo xtask damage --seconds 0 (all of it: some minutes); cargo xtask damage --canaries",
    args: |command| {
        let number = |name, help| {
            let arg = Arg::new(name).long(name).value_name("N").help(help);
            arg.value_parser(value_parser!(u64))
        };
        command
            .arg(number("seconds", "How long to go on; 0 for all there is").default_value("20"))
            .arg(number("seed", "What to shuffle and to flip by").default_value("1"))
            .arg(canary::arg(&[Catcher::Damage]))
    },
    verify: &[Part::Share {
        weight: 1,
        args: &[],
    }],
    run,
};

/// Where the tests are, and what their names begin with.
const PACKAGE: &str = "esker-sim";
const TESTS: &str = "damage::";

fn run(workspace: &Workspace, matches: &ArgMatches) -> Result<Tally, SuiteError> {
    let tests = |package: &str| {
        let mut command = workspace.cargo(&["test", "--release", "--package", package]);
        command.args(["--test", "it"]);
        for (name, setting) in [
            ("seconds", "ESKER_DAMAGE_SECONDS"),
            ("seed", "ESKER_DAMAGE_SEED"),
        ] {
            let value = matches.get_one::<u64>(name).copied().unwrap_or_default();
            command.env(setting, value.to_string());
        }
        command
    };
    if let Some(canaries) = canary::chosen(matches, Catcher::Damage) {
        let tests = Tests {
            workspace,
            catcher: Catcher::Damage,
            command: &|package| {
                let mut command = tests(package);
                command
                    .arg("--target-dir")
                    .arg(workspace.target_dir("canary"));
                command
            },
            which: &|test| test.starts_with(TESTS),
        };
        return tests.catch(&canaries);
    }
    let mut command = tests(PACKAGE);
    command.args([TESTS, "--", "--show-output"]);
    Ok(run_tests(command)?.1)
}
