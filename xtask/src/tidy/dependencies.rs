//! Which crate may depend on which.

use super::tree::Tree;

/// For each package of the workspace: what its library may depend on, and what its tests, examples
/// and benches may use besides. Neither goes up the stack, and the ring and the I/O layer are not
/// in each other's lists.
const ALLOWED: &[(&str, &[&str], &[&str])] = &[
    ("esker-buf", &[], &[]),
    ("esker-ring", &["esker-buf"], &["esker-schedules"]),
    ("esker-io", &["esker-buf"], &["esker-schedules"]),
    // Its library knows nothing of the store; its tests crash one.
    (
        "esker-sim",
        &["esker-buf", "esker-io"],
        &["esker-lss", "esker-schedules"],
    ),
    (
        "esker-lss",
        &["esker-buf", "esker-ring", "esker-io"],
        &["esker-schedules", "esker-sim"],
    ),
    ("esker-schedules", &[], &[]),
    ("esker-worker", &["esker-io", "esker-lss"], &[]),
    (
        "esker-cli",
        &["esker-buf", "esker-io", "esker-lss"],
        &["esker-sim"],
    ),
    (
        "esker-benches",
        &[
            "esker-buf",
            "esker-ring",
            "esker-io",
            "esker-sim",
            "esker-lss",
        ],
        &[],
    ),
    (
        "xtask",
        &[
            "esker-buf",
            "esker-ring",
            "esker-io",
            "esker-sim",
            "esker-lss",
        ],
        &[],
    ),
];

/// What the ring must not pull in: it knows nothing of files.
const IO_CRATES: &[&str] = &[
    "async-io", "esker-io", "io-uring", "mio", "nix", "polling", "rustix", "socket2", "tempfile",
    "tokio",
];

pub(super) fn run_one_way(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for package in tree.packages.keys() {
        if !ALLOWED.iter().any(|(name, ..)| name == package) {
            offences.push(format!(
                "{package} is not in the table of allowed dependencies"
            ));
        }
    }
    for edge in &tree.edges {
        let allowed = ALLOWED.iter().any(|(name, library, tests)| {
            *name == edge.from
                && (library.contains(&&*edge.to) || (edge.dev && tests.contains(&&*edge.to)))
        });
        if !allowed {
            offences.push(format!("{} must not depend on {}", edge.from, edge.to));
        }
    }
    offences
}

pub(super) fn ring_does_no_io(tree: &Tree) -> Vec<String> {
    let Some(closure) = tree.closure.get("esker-ring") else {
        return vec!["there is no package esker-ring".into()];
    };
    let found = closure
        .iter()
        .filter(|name| IO_CRATES.contains(&name.as_str()));
    found
        .map(|name| format!("esker-ring pulls in {name}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::Edge;
    use super::*;

    fn tree(from: &str, to: &str, dev: bool) -> Tree {
        Tree {
            packages: [
                (from.to_owned(), String::new()),
                (to.to_owned(), String::new()),
            ]
            .into(),
            edges: vec![Edge {
                from: from.to_owned(),
                to: to.to_owned(),
                dev,
            }],
            ..Tree::default()
        }
    }

    #[test]
    fn dependencies_down_the_stack_pass_and_others_do_not() {
        for (from, to, dev, offences) in [
            ("esker-lss", "esker-ring", false, 0),
            ("esker-lss", "esker-sim", true, 0),
            ("esker-lss", "esker-sim", false, 1),
            ("esker-ring", "esker-io", false, 1),
            ("esker-io", "esker-ring", true, 1),
            ("esker-lss", "esker-benches", true, 1),
            ("esker-lss", "xtask", true, 1),
            ("esker-io", "esker-utils", false, 2),
        ] {
            let found = run_one_way(&tree(from, to, dev));
            assert_eq!(found.len(), offences, "{from} -> {to}: {found:?}");
        }
    }

    #[test]
    fn an_io_crate_anywhere_below_the_ring_is_found() {
        let mut tree = Tree::default();
        assert_eq!(ring_does_no_io(&tree).len(), 1);
        let closure = ["esker-buf", "libc", "parking_lot"]
            .map(String::from)
            .into();
        tree.closure.insert("esker-ring".into(), closure);
        assert_eq!(ring_does_no_io(&tree), [""; 0]);
        tree.closure
            .get_mut("esker-ring")
            .unwrap()
            .insert("io-uring".into());
        assert_eq!(ring_does_no_io(&tree), ["esker-ring pulls in io-uring"]);
    }
}
