//! `docs/protocol.md` names what there is.

use std::collections::BTreeSet;

use crate::scenarios::ALL;

const DOC: &str = include_str!("../../../../docs/protocol.md");
const SOURCES: [&str; 9] = [
    include_str!("../../src/appender.rs"),
    include_str!("../../src/extent.rs"),
    include_str!("../../src/lease.rs"),
    include_str!("../../src/seal.rs"),
    include_str!("../../src/ring.rs"),
    include_str!("../../src/word.rs"),
    include_str!("../../src/slot.rs"),
    include_str!("../../src/shared.rs"),
    include_str!("../../src/waiters.rs"),
];

/// What stands between `open` and `close`, everywhere in `text`.
fn between<'a>(text: &'a str, open: &str, close: char) -> BTreeSet<&'a str> {
    text.split(open)
        .skip(1)
        .filter_map(|rest| rest.split(close).next())
        .collect()
}

#[test]
fn every_model_is_named_and_every_name_is_a_model() {
    for (name, _) in ALL {
        assert!(DOC.contains(&format!("`{name}`")), "{name} is not named");
    }
    for line in DOC.lines() {
        let Some((_, models)) = line.split_once(" Model") else {
            continue;
        };
        for word in models.split('`').skip(1).step_by(2) {
            assert!(
                ALL.iter().any(|(name, _)| *name == word),
                "{word} is no model"
            );
        }
    }
}

#[test]
fn the_canaries_are_those_in_the_code() {
    let (_, table) = DOC
        .split_once("| canary | bug |")
        .expect("a table of canaries");
    let named = between(table, "| `", '`');
    let planted: BTreeSet<&str> = SOURCES
        .iter()
        .flat_map(|source| between(source, "canary!(\"", '"'))
        .collect();
    assert_eq!(named, planted);
}

#[test]
fn every_edge_is_named_in_the_code() {
    for edge in 1..=7 {
        is_named(&format!("E{edge}"));
    }
    for edge in 1..=4 {
        is_named(&format!("L{edge}"));
    }
}

fn is_named(edge: &str) {
    assert!(DOC.contains(&format!("- **{edge}, ")));
    assert!(SOURCES.iter().any(|source| source.contains(edge)), "{edge}");
}

/// The rows of the table whose first line starts with `head`, cell by cell.
fn rows<'a>(head: &str) -> Vec<Vec<&'a str>> {
    let (_, table) = DOC.split_once(head).expect("a table");
    let rows = table.lines().skip(2).take_while(|line| !line.is_empty());
    rows.map(|row| row.trim_matches('|').split(" |").map(str::trim).collect())
        .collect()
}

#[test]
fn every_transition_has_its_ordering_in_the_code() {
    let on_the_word = rows("| transition | on | precondition |");
    let beside_it = rows("| transition | by | precondition |");
    let of_a_lease = rows("| transition | by | from |");
    assert!(on_the_word.len() == 9 && beside_it.len() == 5 && of_a_lease.len() == 8);
    for row in on_the_word.iter().chain(&beside_it).chain(&of_a_lease) {
        let (ordering, function) = (row[row.len() - 2], row[row.len() - 1].trim_matches('`'));
        let start = format!(" fn {function}(");
        let is_there = SOURCES.iter().any(|source| {
            let bodies = source.split(&start).skip(1);
            bodies
                .filter_map(|after| after.split("\n    }\n").next())
                .any(|body| body.contains(&format!("Ordering::{ordering}")))
        });
        assert!(is_there, "{}: no {ordering} in {function}", row[0]);
    }
}
