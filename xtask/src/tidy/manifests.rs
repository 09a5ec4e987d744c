//! What the manifests of the crates have to say.

use super::tree::{Source, Tree};

pub(super) fn take_workspace_lints(tree: &Tree) -> Vec<String> {
    let takes = |manifest: &Source| {
        sections(&manifest.text).any(|(section, entry)| {
            let entry = entry.replace(' ', "");
            (section == "lints" && entry == "workspace=true")
                || (section.is_empty() && entry == "lints.workspace=true")
        })
    };
    let without = manifests(tree).filter(|manifest| !takes(manifest));
    without
        .map(|manifest| format!("{}: needs `[lints] workspace = true`", manifest.path))
        .collect()
}

pub(super) fn take_workspace_versions(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for manifest in manifests(tree) {
        for (section, entry) in sections(&manifest.text) {
            let entry_without_spaces = entry.replace(' ', "");
            let inherits = entry_without_spaces.contains("workspace=true");
            // `[dependencies.name]` spreads one dependency over several lines.
            let spread = section.contains("dependencies.");
            if (section.ends_with("dependencies") && !inherits)
                || (spread && entry_without_spaces.starts_with("version="))
            {
                offences.push(format!(
                    "{}: `{entry}` needs `workspace = true`",
                    manifest.path
                ));
            }
        }
    }
    offences
}

/// The manifests of the members.
fn manifests(tree: &Tree) -> impl Iterator<Item = &Source> {
    tree.packages.values().filter_map(|dir| {
        let path = format!("{dir}/Cargo.toml");
        tree.sources.iter().find(|source| source.path == path)
    })
}

/// Every entry of a manifest with the name of its section. Entries are lines here: a manifest of a
/// member needs no longer ones in the sections that are looked at.
fn sections(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut section = "";
    text.lines().filter_map(move |line| {
        let line = line
            .split_once(" #")
            .map_or(line, |(entry, _)| entry)
            .trim();
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            section = name.trim();
            return None;
        }
        (!line.is_empty() && !line.starts_with('#')).then_some((section, line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(manifest: &str) -> Tree {
        Tree {
            packages: [("a".to_owned(), "crates/a".to_owned())].into(),
            sources: vec![Source {
                path: "crates/a/Cargo.toml".into(),
                text: manifest.into(),
            }],
            ..Tree::default()
        }
    }

    #[test]
    fn a_crate_without_the_workspace_lints_is_found() {
        assert!(take_workspace_lints(&tree("[lints]\nworkspace = true\n")).is_empty());
        assert!(take_workspace_lints(&tree("lints.workspace = true\n[package]\n")).is_empty());
        for manifest in [
            "[package]\nname = \"a\"\n",
            "[lints.rust]\nunsafe_code = \"allow\"\n",
        ] {
            assert_eq!(take_workspace_lints(&tree(manifest)).len(), 1, "{manifest}");
        }
    }

    #[test]
    fn a_version_of_a_crates_own_is_found() {
        for good in [
            "[dependencies]\nlibc.workspace = true\n",
            "[dev-dependencies]\nlibc = { workspace = true, features = [\"std\"] }\n",
            "[target.'cfg(esker_loom)'.dependencies]\nloom.workspace = true # for models\n",
            "[features]\nconformance = []\n",
        ] {
            assert_eq!(take_workspace_versions(&tree(good)), [""; 0], "{good}");
        }
        for bad in [
            "[dependencies]\nlibc = \"0.2\"\n",
            "[dev-dependencies]\nlibc = { version = \"0.2\" }\n",
            "[target.'cfg(unix)'.dependencies]\nlibc = \"0.2\"\n",
            "[dependencies.libc]\nversion = \"0.2\"\n",
            "[build-dependencies]\nb = { path = \"../b\" }\n",
        ] {
            assert_eq!(take_workspace_versions(&tree(bad)).len(), 1, "{bad}");
        }
    }
}
