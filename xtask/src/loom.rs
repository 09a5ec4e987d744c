//! `loom`: the concurrent protocols under every interleaving that the memory model allows, within
//! the bounds that each model names.

use std::path::Path;
use std::process::Command;

use clap::{Arg, ArgAction, ArgMatches};

use crate::canary::{self, Catcher};
use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::workspace::{Workspace, run_tests};

pub(crate) const SUITE: Suite = Suite {
    name: "loom",
    proves: "The ring's protocol, the waiters and the pool of the I/O layer, the stability tracker \
             and the turns of group commit hold under every interleaving that loom explores; with --canaries, that the models catch each known bug",
    needs: "nothing",
    quick: "cargo xtask loom",
    long: "cargo xtask loom --canaries; LOOM_MAX_PREEMPTIONS=3 cargo xtask loom (hours)",
    args: |command| {
        command.arg(
            Arg::new("canaries")
                .long("canaries")
                .action(ArgAction::SetTrue)
                .help(
                    "Switch each known bug on, one after the other, and demand that it is caught",
                ),
        )
    },
    verify: &[Part::Whole(&[])],
    run,
};

/// Packages with models in `tests/loom.rs`, and how many preemptions an interleaving may have where
/// the models leave that to loom. `LOOM_MAX_PREEMPTIONS` overrides it.
const PACKAGES: &[(&str, Option<&str>)] = &[
    ("esker-ring", None),
    ("esker-io", None),
    ("esker-lss", Some("2")),
];

/// Where loom looks for the bound.
const BOUND: &str = "LOOM_MAX_PREEMPTIONS";

fn run(workspace: &Workspace, matches: &ArgMatches) -> Result<Tally, SuiteError> {
    if matches.get_flag("canaries") {
        return canary::run(workspace, Catcher::Loom, |package, flag| {
            models(workspace, package, flag)
        });
    }
    let mut tally = Tally::default();
    for (package, _) in PACKAGES {
        if has_models(workspace, package) {
            let mut command = models(workspace, package, "");
            // Each model says how many interleavings it was.
            command.args(["--", "--show-output"]);
            tally += run_tests(command)?.1;
        } else {
            tally.skip(package, "it has no tests/loom.rs");
        }
    }
    Ok(tally)
}

fn has_models(workspace: &Workspace, package: &str) -> bool {
    let models = Path::new("crates").join(package).join("tests/loom.rs");
    workspace.root.join(models).is_file()
}

fn models(workspace: &Workspace, package: &str, more_flags: &str) -> Command {
    let flags = format!("--cfg esker_loom {more_flags}");
    let mut command = workspace.cargo(&["test", "--release", "--package", package]);
    command
        .args(["--test", "loom", "--target-dir"])
        .arg(workspace.target_dir("loom"))
        .env("RUSTFLAGS", flags.trim_end());
    if let Some(bound) = bound(package) {
        command.env(BOUND, bound);
    }
    command
}

/// The bound for a package, unless the caller has set one for all.
fn bound(package: &str) -> Option<&'static str> {
    let (_, bound) = PACKAGES.iter().find(|(name, _)| *name == package)?;
    bound.filter(|_| std::env::var_os(BOUND).is_none())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
        let (_, table) = DOC
            .split_once("| model | what it explores |")
            .expect("a table of models");
        let rows = table.lines().skip(2).take_while(|line| !line.is_empty());
        let listed: BTreeSet<(&str, &str)> = rows
            .map(|row| {
                let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
                (cells[0].trim_matches('`'), cells[3])
            })
            .collect();
        let mut models: BTreeSet<(&str, &str)> =
            [RING, IO, STORE].into_iter().flat_map(in_code).collect();
        let single = STORE.split("\n#[test]\nfn ").skip(1);
        models.extend(single.filter_map(|test| Some((test.split_once('(')?.0, "2"))));
        assert_eq!(listed, models);
    }
}
