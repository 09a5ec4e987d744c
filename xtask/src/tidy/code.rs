//! Rules about Rust sources.

use std::collections::BTreeSet;

use super::tree::{Source, Tree};
use crate::canary::canaries;

/// The crates whose code has to run under a model checker or a simulated world too.
const LAYERS: &[&str] = &[
    "esker-buf",
    "esker-ring",
    "esker-io",
    "esker-sim",
    "esker-lss",
];

/// What only a layer's `src/sync.rs` may name.
const PRIMITIVES: &[&str] = &[
    "std::sync::atomic",
    "core::sync::atomic",
    "std::thread",
    "loom",
    "shuttle",
    "parking_lot",
];

/// What no layer may ask: what it does is said by its callers.
const ENVIRONMENT: &[&str] = &["std::env", "option_env"];

/// The longest that a file may be in lines, its module of tests aside; files of tests may be longer.
const CODE_LINES: usize = 800;
const TEST_LINES: usize = 1200;

pub(super) fn ring_and_io_never_name_each_other(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for (package, other) in [("esker-ring", "esker_io"), ("esker-io", "esker_ring")] {
        let Some(dir) = tree.packages.get(package) else {
            continue;
        };
        let prefix = format!("{dir}/");
        for source in &tree.sources {
            if source.path.starts_with(&prefix) && source.path.ends_with(".rs") {
                for (number, _) in lines_with(&source.text, other) {
                    offences.push(format!("{}:{number}: names {other}", source.path));
                }
            }
        }
    }
    offences
}

pub(super) fn atomics_and_threads_come_from_sync(tree: &Tree) -> Vec<String> {
    named_in_layers(tree, PRIMITIVES)
        .filter(|(source, _, _)| !source.path.ends_with("/src/sync.rs"))
        .map(|(source, path, named)| {
            format!("{}: `{path}`: {named} belongs in src/sync.rs", source.path)
        })
        .collect()
}

pub(super) fn layers_read_no_environment(tree: &Tree) -> Vec<String> {
    named_in_layers(tree, ENVIRONMENT)
        // Which known bug is on; in an ordinary build nothing of it is there.
        .filter(|(source, _, _)| !source.path.ends_with("/src/canary.rs"))
        .map(|(source, path, _)| format!("{}: `{path}`: take it as an option", source.path))
        .collect()
}

/// Every path in the layers' code, tests aside, that is one of `banned` or lies in it: the file, the
/// path and which of them it is.
fn named_in_layers<'t>(
    tree: &'t Tree,
    banned: &'static [&'static str],
) -> impl Iterator<Item = (&'t Source, String, &'static str)> {
    let sources = LAYERS.iter().flat_map(|layer| tree.shipped_code(layer));
    sources.flat_map(move |source| {
        let code = without_comments(source.without_tests());
        paths(&code).into_iter().filter_map(move |path| {
            let named = banned.iter().find(|banned| {
                path.strip_prefix(**banned)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            })?;
            Some((source, path, *named))
        })
    })
}

pub(super) fn without_unsafe_forbid_it(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for (package, dir) in &tree.packages {
        let code: Vec<&Source> = tree.shipped_code(package).collect();
        let uses_unsafe = code.iter().any(|source| {
            let code = without_comments(&source.text);
            code.split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == "unsafe")
        });
        for root in ["lib.rs", "main.rs"] {
            let root = format!("{dir}/src/{root}");
            let forbids = |s: &&&Source| s.text.contains("#![forbid(unsafe_code)]");
            let found = code.iter().find(|source| source.path == root);
            if !uses_unsafe && found.is_some() && found.filter(forbids).is_none() {
                offences.push(format!("{root}: needs `#![forbid(unsafe_code)]`"));
            }
        }
    }
    offences
}

pub(super) fn canaries_have_a_suite(tree: &Tree) -> Vec<String> {
    let listed = canaries().map(|canary| (canary.package, canary.name));
    let mut offences = compare_canaries(tree, &listed.collect());
    offences.extend(canaries().filter_map(|canary| unknown_test(tree, canary.tests, canary.by)));
    offences
}

/// What to say of a test that is named and nowhere in the package. Of what is no test, such as a suite's
/// cases, nothing.
fn unknown_test(tree: &Tree, package: &str, by: &str) -> Option<String> {
    let test = by.rsplit("::").next()?;
    let dir = format!("{}/", tree.packages.get(package)?);
    let is_there = |source: &Source| source.path.starts_with(&dir) && source.text.contains(test);
    let is_unknown = by.contains('_') && !tree.sources.iter().any(is_there);
    is_unknown.then(|| format!("{package}: there is no test {by}"))
}

/// What is in the table and not in the sources, and the other way round.
fn compare_canaries(tree: &Tree, listed: &BTreeSet<(&str, &str)>) -> Vec<String> {
    let mut found = BTreeSet::new();
    for package in tree.packages.keys().filter(|package| *package != "xtask") {
        for source in tree.shipped_code(package) {
            for after in source.text.split("canary!(\"").skip(1) {
                let name = after.split('"').next().unwrap_or_default();
                found.insert((package.as_str(), name));
            }
        }
    }
    let unlisted = found.difference(listed);
    let unlisted = unlisted.map(|(package, name)| {
        format!("{package}: canary {name} is not in xtask/src/canary/table.rs")
    });
    let gone = listed.difference(&found);
    let gone = gone.map(|(package, name)| format!("{package}: there is no canary {name}"));
    unlisted.chain(gone).collect()
}

pub(super) fn not_too_long(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for source in tree
        .sources
        .iter()
        .filter(|source| source.path.ends_with(".rs"))
    {
        let (lines, limit) = if source.is_shipped_code() {
            (source.without_tests().lines().count(), CODE_LINES)
        } else {
            (source.text.lines().count(), TEST_LINES)
        };
        if lines > limit {
            offences.push(format!("{}: {lines} lines, more than {limit}", source.path));
        }
    }
    offences
}

/// Numbers and texts of the lines with `word` in them.
fn lines_with<'t>(text: &'t str, word: &str) -> impl Iterator<Item = (usize, &'t str)> {
    let numbered = text.lines().enumerate();
    numbered
        .filter(move |(_, line)| line.contains(word))
        .map(|(i, line)| (i + 1, line))
}

/// The code without line comments and docs. What looks like a comment inside a string goes too,
/// which no rule here minds.
fn without_comments(code: &str) -> String {
    let lines = code
        .lines()
        .map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// Every path in the code, with the groups of `use` trees spelt out.
fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(|c: char| c.is_alphabetic() || c == '_') {
        rest = &rest[start..];
        let end = path_end(rest);
        let path = &rest[..end];
        rest = &rest[end..];
        match path.strip_suffix("::").zip(rest.strip_prefix('{')) {
            Some((prefix, group)) => {
                let close = closing(group);
                let members = &group[..close];
                paths.extend(self::paths(members).into_iter().map(|path| match &*path {
                    "self" => prefix.to_owned(),
                    path => format!("{prefix}::{path}"),
                }));
                rest = &group[close..];
            }
            None => paths.push(path.trim_end_matches("::").to_owned()),
        }
    }
    paths
}

/// The length of the path that the text starts with, a trailing `::` included.
fn path_end(text: &str) -> usize {
    let mut end = 0;
    loop {
        let word = text[end..].find(|c: char| !c.is_alphanumeric() && c != '_');
        end = word.map_or(text.len(), |len| end + len);
        if !text[end..].starts_with("::") {
            return end;
        }
        end += 2;
        if !text[end..].starts_with(|c: char| c.is_alphabetic() || c == '_') {
            return end;
        }
    }
}

/// Where the brace that was opened before `text` closes.
fn closing(text: &str) -> usize {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(package: &str, path: &str, text: &str) -> Tree {
        let dir = format!("crates/{package}");
        Tree {
            packages: [(package.to_owned(), dir.clone())].into(),
            sources: vec![Source {
                path: format!("{dir}/{path}"),
                text: text.into(),
            }],
            ..Tree::default()
        }
    }

    #[test]
    fn ring_and_io_naming_each_other_is_found() {
        let found = |package, text| {
            ring_and_io_never_name_each_other(&tree(package, "examples/alone.rs", text)).len()
        };
        assert_eq!(found("esker-ring", "use esker_buf::AlignedBuf;"), 0);
        assert_eq!(found("esker-ring", "use esker_io::Backend;"), 1);
        assert_eq!(found("esker-io", "use esker_ring::Ring;"), 1);
        assert_eq!(found("esker-lss", "use esker_ring::Ring;"), 0);
    }

    #[test]
    fn primitives_outside_sync_rs_are_found_however_they_are_imported() {
        let found = |path: &str, text: &str| {
            atomics_and_threads_come_from_sync(&tree("esker-io", path, text))
        };
        for bad in [
            "use std::sync::atomic::AtomicU64;",
            "use std::{sync::{Arc, atomic::{self, AtomicU64}}, time::Instant};",
            "fn f() { std::thread::sleep(d); }",
            "use core::sync::atomic;",
            "use loom::sync::Arc;",
            "use parking_lot::Mutex;",
        ] {
            assert!(!found("src/ring.rs", bad).is_empty(), "{bad}");
            assert!(found("src/sync.rs", bad).is_empty(), "{bad}");
            assert!(found("tests/it/main.rs", bad).is_empty(), "{bad}");
            for cfg in ["test", "all(test, not(any(esker_loom, esker_shuttle)))"] {
                let tests = format!("fn f() {{}}\n#[cfg({cfg})]\nmod tests {{ {bad} }}\n");
                assert!(found("src/ring.rs", &tests).is_empty(), "{bad}");
            }
        }
        for good in [
            "use std::sync::{Arc, OnceLock};",
            "// std::sync::atomic is not for here\nuse crate::sync::AtomicU64;",
            "use std::threadpool;",
        ] {
            assert_eq!(found("src/ring.rs", good), [""; 0], "{good}");
        }
    }

    #[test]
    fn layers_that_ask_the_environment_are_found() {
        let found = |path, text| layers_read_no_environment(&tree("esker-lss", path, text)).len();
        assert_eq!(
            found("src/a.rs", "if std::env::var_os(\"A\").is_some() {}"),
            1
        );
        assert_eq!(found("src/sync.rs", "use std::{env, sync::Arc};"), 1);
        assert_eq!(
            found("src/a.rs", "const A: Option<&str> = option_env!(\"A\");"),
            1
        );
        assert_eq!(found("tests/it/main.rs", "std::env::var_os(\"A\")"), 0);
        assert_eq!(found("src/canary.rs", "std::env::var(\"A\")"), 0);
        assert_eq!(
            found(
                "src/a.rs",
                "// std::env\nlet a = env!(\"CARGO_PKG_VERSION\");"
            ),
            0
        );
    }

    #[test]
    fn a_crate_without_unsafe_that_does_not_forbid_it_is_found() {
        let found = |text| without_unsafe_forbid_it(&tree("esker-io", "src/lib.rs", text)).len();
        assert_eq!(found("#![forbid(unsafe_code)]\n"), 0);
        assert_eq!(found("fn f() { unsafe { g() } }\n"), 0);
        assert_eq!(found("// unsafe is not used\nfn f() {}\n"), 1);
    }

    #[test]
    fn canaries_that_no_suite_catches_or_that_are_gone_are_found() {
        let code = "if canary!(\"a\") {}\nlet b = !canary!(\"b\");\n";
        let tree = tree("esker-io", "src/lib.rs", code);
        let compare = |listed: &[(&'static str, &'static str)]| {
            compare_canaries(&tree, &listed.iter().copied().collect())
        };
        assert_eq!(compare(&[("esker-io", "a"), ("esker-io", "b")]), [""; 0]);
        assert_eq!(compare(&[("esker-io", "a")]).len(), 1);
        assert_eq!(
            compare(&[("esker-io", "a"), ("esker-io", "b"), ("esker-io", "c")]).len(),
            1
        );
        assert_eq!(compare(&[("esker-io", "a"), ("esker-ring", "b")]).len(), 2);
    }

    #[test]
    fn a_test_that_is_named_for_a_canary_and_is_gone_is_found() {
        let tree = tree("esker-io", "tests/it/main.rs", "fn it_holds() {}");
        assert_eq!(unknown_test(&tree, "esker-io", "it::it_holds"), None);
        assert_eq!(unknown_test(&tree, "esker-io", "power cuts"), None);
        assert!(unknown_test(&tree, "esker-io", "it::it_is_gone").is_some());
    }

    #[test]
    fn a_file_that_is_too_long_without_its_tests_is_found() {
        let line = "fn f() {}\n";
        let tests = "#[cfg(test)]\nmod tests {}\n";
        let found = |path, text: String| not_too_long(&tree("esker-io", path, &text)).len();
        assert_eq!(found("src/a.rs", line.repeat(CODE_LINES)), 0);
        assert_eq!(found("src/a.rs", line.repeat(CODE_LINES + 1)), 1);
        assert_eq!(found("src/a.rs", line.repeat(CODE_LINES) + tests + line), 0);
        assert_eq!(found("tests/it/main.rs", line.repeat(CODE_LINES + 1)), 0);
        assert_eq!(found("tests/it/main.rs", line.repeat(TEST_LINES + 1)), 1);
    }
}
