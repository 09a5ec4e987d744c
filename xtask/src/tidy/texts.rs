//! Rules about every text, and about what lies where.

use std::path::{Component, Path};

use super::tree::{Source, Tree};

/// What may lie at the root; `*` stands for any ending.
const TOP_LEVEL: &[&str] = &[
    ".cargo",
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-*",
    "README.md",
    "benches",
    "crates",
    "docs",
    "rust-toolchain.toml",
    "xtask",
];

// Spelt in two halves, so that this file passes its own rules.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("HA", "CK"),
];
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Use", "rs/"),
];

pub(super) fn no_unfinished_business(tree: &Tree) -> Vec<String> {
    offending_lines(tree, |line| {
        let mut words = line.split(|c: char| !c.is_alphanumeric());
        words.find_map(|word| {
            UNFINISHED
                .iter()
                .copied()
                .find(|unfinished| *unfinished == word)
        })
    })
}

pub(super) fn no_paths_of_one_machine(tree: &Tree) -> Vec<String> {
    offending_lines(tree, |line| {
        MACHINE_PATHS.iter().copied().find(|path| {
            line.match_indices(path).any(|(at, _)| {
                // `a/b` with a word before it is part of a relative path or of an address.
                !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-.".contains(c))
            })
        })
    })
}

fn offending_lines(tree: &Tree, find: impl Fn(&str) -> Option<&'static str>) -> Vec<String> {
    let mut offences = Vec::new();
    for source in &tree.sources {
        if source.path == "Cargo.lock" {
            continue;
        }
        for (i, line) in source.text.lines().enumerate() {
            if let Some(found) = find(line) {
                offences.push(format!("{}:{}: {found}", source.path, i + 1));
            }
        }
    }
    offences
}

pub(super) fn top_level_is_listed(tree: &Tree) -> Vec<String> {
    let listed = |name: &str| {
        TOP_LEVEL
            .iter()
            .any(|allowed| match allowed.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == *allowed,
            })
    };
    let others = tree.top_level.iter().filter(|name| !listed(name));
    others
        .map(|name| format!("{name} is not a known top-level entry"))
        .collect()
}

pub(super) fn links_resolve(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for source in tree
        .sources
        .iter()
        .filter(|source| source.path.ends_with(".md"))
    {
        for target in links(&source.text) {
            if !resolves(tree, source, target) {
                offences.push(format!("{}: {target} leads nowhere", source.path));
            }
        }
    }
    offences
}

/// The targets of inline links, code aside.
fn links(text: &str) -> Vec<&str> {
    let mut links = Vec::new();
    let mut in_fence = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
        }
        if in_fence {
            continue;
        }
        let mut rest = line;
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let end = rest.find(')').unwrap_or(rest.len());
            links.push(rest[..end].split(' ').next().unwrap_or_default());
        }
    }
    links
}

fn resolves(tree: &Tree, source: &Source, target: &str) -> bool {
    if target.contains("://") || target.starts_with("mailto:") {
        return true;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() {
        source.path.clone()
    } else {
        match normalised(&source.path, file) {
            Some(path) => path,
            None => return false,
        }
    };
    if !tree.paths.contains(&path) {
        return false;
    }
    let linked = tree.sources.iter().find(|source| source.path == path);
    match linked {
        Some(linked) if path.ends_with(".md") && !anchor.is_empty() => linked
            .text
            .lines()
            .filter_map(anchor_of)
            .any(|has| has == anchor),
        _ => true,
    }
}

/// The path that `link` means in the file `from`, both relative to the root.
fn normalised(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for component in Path::new(link).components() {
        match component {
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

/// The anchor of a heading, made the way the usual renderers make it.
fn anchor_of(line: &str) -> Option<String> {
    let heading = line.trim_start_matches('#');
    let heading = (heading.len() < line.len()).then(|| heading.strip_prefix(' '))??;
    let kept = heading
        .trim()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    Some(
        kept.map(|c| {
            if c == ' ' {
                '-'
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(path: &str, text: &str) -> Tree {
        Tree {
            sources: vec![Source {
                path: path.into(),
                text: text.into(),
            }],
            paths: [path, "docs/format.md", "README.md"]
                .map(String::from)
                .into(),
            ..Tree::default()
        }
    }

    #[test]
    fn unfinished_business_is_found_as_words_only() {
        for word in UNFINISHED {
            let found = no_unfinished_business(&tree("src/a.rs", &format!("// {word}: later")));
            assert_eq!(found, [format!("src/a.rs:1: {word}")]);
            let part = format!("let _{word}H3 = 1; // {word}ER");
            assert_eq!(no_unfinished_business(&tree("src/a.rs", &part)), [""; 0]);
        }
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        for path in MACHINE_PATHS {
            let line = format!("\nlet dir = \"{path}me\";");
            let found = no_paths_of_one_machine(&tree("src/a.rs", &line));
            assert_eq!(found, [format!("src/a.rs:2: {path}")]);
            let relative = format!("crates{path}x");
            assert_eq!(no_paths_of_one_machine(&tree("a.md", &relative)), [""; 0]);
        }
    }

    #[test]
    fn an_unknown_entry_at_the_root_is_found() {
        let mut tree = Tree {
            top_level: ["Cargo.toml", "LICENSE-MIT", "docs"]
                .map(String::from)
                .into(),
            ..Tree::default()
        };
        assert_eq!(top_level_is_listed(&tree), [""; 0]);
        tree.top_level.push("notes.txt".into());
        assert_eq!(top_level_is_listed(&tree).len(), 1);
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        for good in [
            "[f](format.md)",
            "[up](../README.md)",
            "[web](https://example.org/a)",
            "# Head line\n[here](#head-line)",
            "```\n[in code](nowhere.md)\n```",
        ] {
            assert_eq!(links_resolve(&tree("docs/a.md", good)), [""; 0], "{good}");
        }
        for bad in [
            "[f](fromat.md)",
            "[out](../../README.md)",
            "[abs](/README.md)",
            "# Head\n[here](#tail)",
            "[one](format.md) and [two](none.md)",
        ] {
            assert_eq!(links_resolve(&tree("docs/a.md", bad)).len(), 1, "{bad}");
        }
    }
}
