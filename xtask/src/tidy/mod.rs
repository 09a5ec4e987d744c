//! `tidy`: what the compiler does not check about the shape of the workspace.
//!
//! Each rule is a pure function from a [`Tree`] (the manifests and texts as they are) to what
//! offends it, so that a test can show each of them a tree that it has to refuse.

mod code;
mod dependencies;
mod examples;
mod manifests;
mod promises;
mod texts;
mod tree;

use clap::{ArgMatches, Command};

use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::workspace::Workspace;
use tree::Tree;

pub(crate) const SUITE: Suite = Suite {
    name: "tidy",
    proves: "Dependencies run one way, crates share the workspace's lints and versions, and the \
             sources keep to the rules of the house that a program can check",
    needs: "nothing",
    quick: "cargo xtask tidy",
    long: "the same",
    args: |command: Command| command,
    verify: &[Part::Whole(&[])],
    run,
};

/// One rule.
struct Rule {
    name: &'static str,
    /// What offends it: a place, and what is wrong there.
    offences: fn(&Tree) -> Vec<String>,
}

const RULES: &[Rule] = &[
    Rule {
        name: "dependencies-run-one-way",
        offences: dependencies::run_one_way,
    },
    Rule {
        name: "the-ring-does-no-io",
        offences: dependencies::ring_does_no_io,
    },
    Rule {
        name: "ring-and-io-never-name-each-other",
        offences: code::ring_and_io_never_name_each_other,
    },
    Rule {
        name: "crates-take-the-workspace-lints",
        offences: manifests::take_workspace_lints,
    },
    Rule {
        name: "versions-come-from-the-workspace",
        offences: manifests::take_workspace_versions,
    },
    Rule {
        name: "atomics-and-threads-come-from-sync-rs",
        offences: code::atomics_and_threads_come_from_sync,
    },
    Rule {
        name: "layers-read-no-environment",
        offences: code::layers_read_no_environment,
    },
    Rule {
        name: "crates-without-unsafe-forbid-it",
        offences: code::without_unsafe_forbid_it,
    },
    Rule {
        name: "every-canary-has-its-suite",
        offences: code::canaries_have_a_suite,
    },
    Rule {
        name: "files-are-not-too-long",
        offences: code::not_too_long,
    },
    Rule {
        name: "no-unfinished-business",
        offences: texts::no_unfinished_business,
    },
    Rule {
        name: "no-paths-of-one-machine",
        offences: texts::no_paths_of_one_machine,
    },
    Rule {
        name: "top-level-is-what-is-listed",
        offences: texts::top_level_is_listed,
    },
    Rule {
        name: "public-items-are-shown",
        offences: examples::public_items_are_shown,
    },
    Rule {
        name: "promises-name-their-tests",
        offences: promises::promises_name_their_tests,
    },
    Rule {
        name: "links-in-the-docs-resolve",
        offences: texts::links_resolve,
    },
];

fn run(workspace: &Workspace, _: &ArgMatches) -> Result<Tally, SuiteError> {
    let tree = Tree::read(&workspace.root, &workspace.metadata)?;
    let mut tally = Tally::default();
    for rule in RULES {
        let offences = (rule.offences)(&tree);
        for offence in &offences {
            println!("{}: {offence}", rule.name);
        }
        let verdict = if offences.is_empty() { "ok" } else { "FAILED" };
        println!("{verdict}: {}", rule.name);
        tally.count(offences.is_empty());
    }
    Ok(tally)
}
