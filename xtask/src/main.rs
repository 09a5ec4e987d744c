//! Verification suites: `cargo xtask <suite>`.
//!
//! One table, [`SUITES`], holds every suite with what it proves and what it needs, and
//! `cargo xtask list` prints it. A suite prints what it does, and ends with one plain line of
//! `N passed, N failed, N skipped`. A prerequisite that is missing is a skip with its reason, never
//! a pass.

#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "the suites run where usize has 64 bits"
)]

mod bench;
mod canary;
mod crash;
mod damage;
mod faults;
mod fuzz;
mod kill;
mod loom;
mod sanitize;
mod shuttle;
mod sim;
mod suite;
mod test;
mod tidy;
mod trial;
mod verify;
mod workspace;

use std::process::ExitCode;

use clap::Command;

use crate::suite::Suite;
use crate::workspace::Workspace;

/// Every suite there is.
const SUITES: &[Suite] = &[
    tidy::SUITE,
    test::SUITE,
    loom::SUITE,
    shuttle::SUITE,
    sanitize::SUITE,
    sim::SUITE,
    damage::SUITE,
    fuzz::SUITE,
    kill::SUITE,
    crash::SUITE,
    faults::SUITE,
    verify::SUITE,
];

fn command() -> Command {
    let list = Command::new("list").about("Prints every suite, what it proves and what it needs");
    Command::new("cargo xtask")
        .about("Runs Esker's verification suites")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(list)
        .subcommands(SUITES.iter().map(Suite::command))
        .subcommand(bench::command())
}

fn list() {
    for suite in SUITES {
        println!("cargo xtask {}", suite.name);
        println!("    proves: {}", suite.proves);
        println!("    needs:  {}", suite.needs);
        println!("    quick:  {}", suite.quick);
        println!("    long:   {}", suite.long);
    }
}

fn main() -> ExitCode {
    let matches = command().get_matches();
    let Some((name, matches)) = matches.subcommand() else {
        return ExitCode::from(2);
    };
    if name == bench::NAME {
        let measured = Workspace::find().and_then(|workspace| bench::run(&workspace, matches));
        return match measured {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("xtask {name}: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let Some(suite) = SUITES.iter().find(|suite| suite.name == name) else {
        list();
        return ExitCode::SUCCESS;
    };
    match Workspace::find().and_then(|workspace| (suite.run)(&workspace, matches)) {
        Ok(tally) => {
            println!("{tally}");
            if tally.failed == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("xtask {name}: {error}");
            println!("0 passed, 1 failed, 0 skipped");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn what_verify_runs_is_well_formed() {
        for (suite, part) in verify::parts(SUITES) {
            let seconds = matches!(part, suite::Part::Share { .. }).then_some(1);
            let _parsed = suite.parse(part, seconds).expect(suite.name);
        }
    }

    #[test]
    fn every_suite_says_what_it_proves_and_needs_under_a_name_of_its_own() {
        for (i, suite) in SUITES.iter().enumerate() {
            assert!(!suite.proves.is_empty() && !suite.needs.is_empty());
            assert!(SUITES[..i].iter().all(|earlier| earlier.name != suite.name));
        }
    }
}
