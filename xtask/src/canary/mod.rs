//! Known bugs, each switched on by its name, and which suite has to catch each.
//!
//! A suite that cannot fail proves nothing. `tidy` demands that the [`table`] and the sources name
//! the same canaries.

mod run;
mod table;

use std::process::Command;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches};

pub(crate) use run::Tests;
use table::ENTRIES;

/// What catches a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Catcher {
    /// `cargo xtask loom`: the package's models.
    Loom,
    /// `cargo xtask shuttle`: long schedules of the same scenarios.
    Shuttle,
    /// `cargo xtask test`: the package's tests.
    Test,
    /// `cargo xtask sim`: the tests over the simulated disk, in release.
    Sim,
    /// `cargo xtask damage`: those of them that damage files.
    Damage,
    /// `cargo xtask fuzz`: its targets.
    Fuzz,
    /// `cargo xtask sanitize address`: the package's tests.
    AddressSanitizer,
    /// `cargo xtask sanitize thread`: the package's tests.
    ThreadSanitizer,
    /// `cargo xtask kill`.
    Kill,
    /// `cargo xtask crash`.
    Crash,
    /// `cargo xtask faults`.
    Faults,
}

/// A line of the table: known bugs that one suite has to catch by the same means.
struct Entry {
    catcher: Catcher,
    package: &'static str,
    tests: &'static str,
    by: &'static str,
    names: &'static [&'static str],
}

/// A known bug, and one suite that has to catch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Canary {
    pub(crate) name: &'static str,
    /// The package whose code has it.
    pub(crate) package: &'static str,
    pub(crate) catcher: Catcher,
    /// The package whose tests have to catch it, or whose program is tried.
    pub(crate) tests: &'static str,
    /// What is tried first: a test, or the names of a suite's cases.
    pub(crate) by: &'static str,
}

/// The variable of the environment that names the bug that is on.
const ON: &str = "ESKER_CANARY";

/// The option with which a suite tries its canaries.
const OPTION: &str = "canaries";

/// All of them.
const ALL: &str = "all";

/// Every canary there is, once for each suite that has to catch it.
pub(crate) fn canaries() -> impl Iterator<Item = Canary> {
    ENTRIES.iter().flat_map(|entry| {
        entry.names.iter().map(|name| Canary {
            name,
            package: entry.package,
            catcher: entry.catcher,
            tests: entry.tests,
            by: entry.by,
        })
    })
}

/// The option `--canaries`, which takes those of one suite.
pub(crate) fn arg(catchers: &[Catcher]) -> Arg {
    let names = of(catchers).map(|canary| canary.name);
    Arg::new(OPTION)
        .long(OPTION)
        .value_name("NAME")
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value(ALL)
        .value_parser(PossibleValuesParser::new([ALL].into_iter().chain(names)))
        .hide_possible_values(true)
        .help("Switch each known bug on, or only this one, and demand that it is caught")
}

/// Those that the command line asks for, if it does.
pub(crate) fn chosen(matches: &ArgMatches, catcher: Catcher) -> Option<Vec<Canary>> {
    let wanted = matches.get_one::<String>(OPTION)?;
    let mut canaries: Vec<_> = of(&[catcher]).collect();
    canaries.retain(|canary| wanted == ALL || wanted == canary.name);
    Some(canaries)
}

fn of(catchers: &[Catcher]) -> impl Iterator<Item = Canary> {
    canaries().filter(move |canary| catchers.contains(&canary.catcher))
}

/// Has cargo compile all known bugs in, none of which is on until it is named.
pub(crate) fn compile_in(command: &mut Command) {
    let flags = command
        .get_envs()
        .find_map(|(name, value)| (name == "RUSTFLAGS").then_some(value?.to_str()?));
    let flags = format!("{} --cfg esker_canary", flags.unwrap_or_default());
    command.env("RUSTFLAGS", flags.trim_start());
}

/// Switches one of the bugs that are compiled in on, and the others off.
pub(crate) fn switch_on(command: &mut Command, canary: Option<&str>) {
    match canary {
        Some(name) => command.env(ON, name),
        None => command.env_remove(ON),
    };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_suite_has_the_same_canary_twice() {
        let mut seen = BTreeSet::new();
        for canary in canaries() {
            assert!(seen.insert((canary.catcher, canary.name)), "{canary:?}");
        }
    }

    #[test]
    fn a_canary_has_one_home() {
        for one in canaries() {
            let mut homes = canaries().filter(|other| other.name == one.name);
            assert!(homes.all(|other| other.package == one.package), "{one:?}");
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_refused() {
        let command = clap::Command::new("suite").arg(arg(&[Catcher::Loom]));
        let chosen = |line: &[&str]| {
            let matches = command.clone().try_get_matches_from(line);
            let chosen = matches.map(|matches| chosen(&matches, Catcher::Loom));
            chosen.map(|chosen| chosen.map(|canaries| canaries.len()))
        };
        let all = of(&[Catcher::Loom]).count();
        assert_eq!(chosen(&["suite"]).expect("none is fine"), None);
        assert_eq!(chosen(&["suite", "--canaries"]).expect("all"), Some(all));
        let one = chosen(&["suite", "--canaries=commit-relaxed"]);
        assert_eq!(one.expect("it is there"), Some(1));
        assert!(chosen(&["suite", "--canaries=commit-relaxd"]).is_err());
        // Another suite's.
        assert!(chosen(&["suite", "--canaries=lss-epoch-stays"]).is_err());
    }
}
