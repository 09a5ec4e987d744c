//! Rules about the table in which the I/O layer's promises name the tests that show them.

use std::collections::BTreeSet;

use super::tree::{Source, Tree};

/// Where the table is.
const DOC: &str = "docs/io.md";
/// Whose tests it names.
const PACKAGE: &str = "crates/esker-io/";
/// Where the checks of the conformance suite are.
const CONFORMANCE: &str = "crates/esker-io/src/conformance/";

pub(super) fn promises_name_their_tests(tree: &Tree) -> Vec<String> {
    let Some(doc) = tree.sources.iter().find(|source| source.path == DOC) else {
        return vec![format!("there is no {DOC}")];
    };
    let tests = tests(tree);
    let mut named = BTreeSet::new();
    let mut offences = Vec::new();
    for (number, line) in doc.text.lines().enumerate() {
        let Some(names) = names_of(line) else {
            continue;
        };
        if names.is_empty() {
            offences.push(format!("{DOC}:{}: no test shows it", number + 1));
        }
        for name in names {
            if !tests.contains(name) {
                offences.push(format!("{DOC}:{}: {name} is no test", number + 1));
            }
            named.insert(name);
        }
    }
    if named.is_empty() {
        offences.push(format!("{DOC}: no promise names a test"));
    }
    let missing = conformance_checks(tree).filter(|check| !named.contains(check));
    offences.extend(missing.map(|check| format!("{DOC}: no promise is shown by {check}")));
    offences
}

/// What a row of a table of promises names in its last column, `| Promise | shown by |`; `None` for
/// any other line.
fn names_of(line: &str) -> Option<Vec<&str>> {
    let row = line.strip_prefix("| ")?.strip_suffix(" |")?;
    let (promise, shown) = row.rsplit_once(" | ")?;
    if promise == "promise" {
        return None;
    }
    Some(shown.split('`').skip(1).step_by(2).collect())
}

/// The names of everything that is run as a test of the package.
fn tests(tree: &Tree) -> BTreeSet<&str> {
    let sources = tree.sources.iter();
    sources
        .filter(|source| source.path.starts_with(PACKAGE))
        .flat_map(tests_in)
        .chain(conformance_checks(tree))
        .collect()
}

/// The functions of a file that are marked as tests, and those that no one but another test runs.
fn tests_in(source: &Source) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    let is_scenario = source.path.contains("/tests/scenarios/");
    source.text.lines().filter_map(move |line| {
        let line = line.trim();
        if line == "#[test]" {
            is_test = true;
        }
        let (_, function) = line.split_once("fn ")?;
        let was_test = core::mem::take(&mut is_test);
        (was_test || is_scenario).then(|| function.split_once('(').map(|(name, _)| name))?
    })
}

/// What the lists of the conformance suite hold.
fn conformance_checks(tree: &Tree) -> impl Iterator<Item = &str> {
    let files = tree.sources.iter();
    files
        .filter(|source| source.path.starts_with(CONFORMANCE))
        .filter_map(|source| source.text.split_once("\nchecks!(")?.1.split_once(");"))
        .flat_map(|(list, _)| list.split(',').map(str::trim))
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST: &str = "#[test]\n#[ignore = \"slow\"]\nfn a_test() {\n}\nfn a_helper() {}\n";
    const CHECKS: &str =
        "use x;\nchecks!(\n    a_check,\n    another_check,\n);\nfn a_check() {}\n";

    fn offences(table: &str) -> Vec<String> {
        let source = |path: &str, text: &str| Source {
            path: path.into(),
            text: text.into(),
        };
        promises_name_their_tests(&Tree {
            sources: vec![
                source(
                    DOC,
                    &format!("# I/O\n\n| promise | shown by |\n|---|---|\n{table}\n"),
                ),
                source("crates/esker-io/tests/it/a.rs", TEST),
                source("crates/esker-io/src/conformance/data.rs", CHECKS),
                source("crates/other/tests/it/a.rs", "#[test]\nfn elsewhere() {}\n"),
            ],
            ..Tree::default()
        })
    }

    #[test]
    fn what_is_no_test_is_found_and_what_no_promise_names() {
        let all = "| One | `a_test` |\n| Two | `a_check`, `another_check` |";
        assert_eq!(offences(all), [""; 0]);
        for (table, offence) in [
            (
                "| One | `a_test` |",
                "docs/io.md: no promise is shown by a_check",
            ),
            (
                "| One | by `a_helper` |",
                "docs/io.md:5: a_helper is no test",
            ),
            (
                "| One | `elsewhere` |",
                "docs/io.md:5: elsewhere is no test",
            ),
            ("| One | everything |", "docs/io.md:5: no test shows it"),
            ("", "docs/io.md: no promise names a test"),
        ] {
            let found = offences(table);
            assert!(found.iter().any(|found| found == offence), "{found:?}");
        }
    }
}
