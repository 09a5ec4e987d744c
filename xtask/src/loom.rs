//! `loom`: the concurrent protocols under every interleaving that the memory model allows, within
//! the bounds that each model names.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use clap::ArgMatches;

use crate::canary::{self, Catcher, Tests};
use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::workspace::{Workspace, run_tests_and_look};

pub(crate) const SUITE: Suite = Suite {
    name: "loom",
    proves: "The ring's protocol, the waiters and the pool of the I/O layer, the stability tracker \
             and the turns of group commit hold under every interleaving that loom explores; with --canaries, that the models catch each known bug",
    needs: "nothing",
    quick: "cargo xtask loom",
    long: "cargo xtask loom --canaries; LOOM_MAX_PREEMPTIONS=3 cargo xtask loom (hours)",
    args: |command| command.arg(canary::arg(&[Catcher::Loom])),
    verify: &[Part::Whole(&[])],
    run,
};

/// Packages with models in `tests/loom.rs`.
const PACKAGES: &[&str] = &["esker-ring", "esker-io", "esker-lss"];

/// What overrides the bound on preemptions that each model sets.
const BOUND: &str = "LOOM_MAX_PREEMPTIONS";

fn run(workspace: &Workspace, matches: &ArgMatches) -> Result<Tally, SuiteError> {
    if let Some(canaries) = canary::chosen(matches, Catcher::Loom) {
        let tests = Tests {
            workspace,
            catcher: Catcher::Loom,
            command: &|package| models(workspace, package),
            which: &|_| true,
        };
        return tests.catch(&canaries);
    }
    let mut tally = Tally::default();
    let mut explored = BTreeMap::new();
    for package in PACKAGES {
        if has_models(workspace, package) {
            let mut command = models(workspace, package);
            // Each model says how many interleavings it was.
            command.args(["--", "--show-output"]);
            tally += run_tests_and_look(command, |line| {
                if let Some((model, count)) = interleavings(line) {
                    *explored.entry(model.to_owned()).or_default() += count;
                }
            })?
            .1;
        } else {
            tally.skip(package, "it has no tests/loom.rs");
        }
    }
    if std::env::var_os(BOUND).is_none() && tally.failed == 0 {
        let doc = fs::read_to_string(workspace.root.join("docs/verification.md"))?;
        let offences = not_as_documented(&doc, &explored);
        for offence in &offences {
            println!("FAILED: docs/verification.md: {offence}");
        }
        tally.count(offences.is_empty());
    }
    Ok(tally)
}

/// What a model says when it is done: `name: 123 interleavings`.
fn interleavings(line: &str) -> Option<(&str, u64)> {
    let (model, count) = line.strip_suffix(" interleavings")?.split_once(": ")?;
    Some((model, count.parse().ok()?))
}

/// Which models have run less than half or more than twice as many interleavings as the document
/// says, or are not in it: then what it says of them is out of date.
fn not_as_documented(doc: &str, explored: &BTreeMap<String, u64>) -> Vec<String> {
    let listed: BTreeMap<&str, u64> = table(doc)
        .map(|row| (row[0].trim_matches('`'), row.last().copied()))
        .filter_map(|(model, count)| Some((model, count?.replace(',', "").parse().ok()?)))
        .collect();
    let models = explored
        .iter()
        .map(|(model, count)| (model.as_str(), *count));
    let silent = listed
        .keys()
        .filter(|model| !explored.contains_key(**model));
    models
        .filter(|(model, count)| {
            let listed = listed.get(model).copied().unwrap_or_default();
            *count < listed / 2 || *count > listed * 2
        })
        .map(|(model, count)| format!("{model}: {count} interleavings"))
        .chain(silent.map(|model| format!("{model}: did not say how many")))
        .collect()
}

/// The rows of the document's table of models, cell by cell.
fn table(doc: &str) -> impl Iterator<Item = Vec<&str>> {
    let (_, table) = doc
        .split_once("| model | what it explores |")
        .unwrap_or_default();
    let rows = table.lines().skip(2).take_while(|line| !line.is_empty());
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
}

fn has_models(workspace: &Workspace, package: &str) -> bool {
    let models = Path::new("crates").join(package).join("tests/loom.rs");
    workspace.root.join(models).is_file()
}

fn models(workspace: &Workspace, package: &str) -> Command {
    let mut command = workspace.cargo(&["test", "--release", "--package", package]);
    command
        .args(["--test", "loom", "--target-dir"])
        .arg(workspace.target_dir("loom"))
        .env("RUSTFLAGS", "--cfg esker_loom");
    command
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const DOC: &str = include_str!("../../docs/verification.md");
    const RING: &str = include_str!("../../crates/esker-ring/tests/loom.rs");
    const IO: &str = include_str!("../../crates/esker-io/tests/loom.rs");
    const STORE: &str = include_str!("../../crates/esker-lss/tests/loom.rs");

    /// The names and bounds in a list of models: `name: bound,`, where the bound may be followed by
    /// `first` and a number, or `fn name(how, bound) {`.
    fn in_code(source: &str) -> impl Iterator<Item = (&str, &str)> {
        source.lines().filter_map(|line| {
            let line = line.trim();
            if let Some(model) = line.strip_prefix("fn ") {
                return model.strip_suffix(") {")?.split_once("(how, ");
            }
            let (name, bound) = line.strip_suffix(',')?.split_once(": ")?;
            let preemptions = bound.split(' ').next()?;
            preemptions.parse::<u32>().ok().map(|_| (name, bound))
        })
    }

    #[test]
    fn the_document_lists_every_model_with_its_bound() {
        let listed: BTreeSet<(&str, &str)> = table(DOC)
            .map(|row| (row[0].trim_matches('`'), row[3]))
            .collect();
        let mut models: BTreeSet<(&str, &str)> =
            [RING, IO, STORE].into_iter().flat_map(in_code).collect();
        let single = STORE.split("\n#[test]\nfn ").skip(1);
        models.extend(single.filter_map(|test| Some((test.split_once('(')?.0, "2"))));
        assert_eq!(listed, models);
    }

    #[test]
    fn each_row_says_how_many_interleavings_there_are() {
        for row in table(DOC) {
            assert_eq!(row.len(), 5, "{}", row[0]);
            let count: u64 = row[4].replace(',', "").parse().expect("a number");
            assert!(count > 0, "{}", row[0]);
        }
    }

    #[test]
    fn a_count_that_is_far_from_the_documents_is_found() {
        let doc = "| model | what it explores | threads | preemptions | interleavings |\n|---|\n\
                   | `a` | it | 2 | 2 | 1,000 |\n| `b` | it | 2 | 2 | 10 |\n\n| `c` | no | model |";
        let offences = |explored: &[(&str, u64)]| {
            let explored = explored
                .iter()
                .map(|&(model, count)| (model.to_owned(), count));
            not_as_documented(doc, &explored.collect())
        };
        assert!(offences(&[("a", 500), ("b", 20)]).is_empty());
        assert_eq!(offences(&[("a", 499), ("b", 21)]).len(), 2);
        assert_eq!(offences(&[("a", 1000)]), ["b: did not say how many"]);
        assert_eq!(
            offences(&[("a", 1000), ("b", 10), ("c", 1)]),
            ["c: 1 interleavings"]
        );
    }

    #[test]
    fn what_a_model_prints_is_read() {
        assert_eq!(interleavings("it: 12 interleavings"), Some(("it", 12)));
        assert_eq!(interleavings("test it ... ok"), None);
    }
}
