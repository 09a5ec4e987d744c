//! [`Tree`]: the workspace as the rules see it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata};

use crate::suite::SuiteError;

/// A text file, its path relative to the root.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: String,
    pub(super) text: String,
}

impl Source {
    /// Whether it is the code that a library or a binary ships: below `src/`, and no file of tests.
    pub(super) fn is_shipped_code(&self) -> bool {
        self.path.ends_with(".rs")
            && self.path.contains("/src/")
            && !self.path.ends_with("/tests.rs")
            && !self.path.contains("/tests/")
    }

    /// The text up to the module of tests at the end of the file.
    pub(super) fn without_tests(&self) -> &str {
        for (start, _) in self.text.match_indices("#[cfg(") {
            let Some((cfg, rest)) = self.text[start..].split_once("]\n") else {
                continue;
            };
            let mut words = cfg.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.any(|word| word == "test") && rest.trim_start().starts_with("mod ") {
                return &self.text[..start];
            }
        }
        &self.text
    }
}

/// A dependency of one package of the workspace on another.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    pub(super) from: String,
    pub(super) to: String,
    /// Only for its tests, examples and benches.
    pub(super) dev: bool,
}

/// Everything that the rules look at.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    /// The packages of the workspace, with the directory of each relative to the root.
    pub(super) packages: BTreeMap<String, String>,
    pub(super) edges: Vec<Edge>,
    /// For each package of the workspace everything that its library pulls in, at any depth.
    pub(super) closure: BTreeMap<String, BTreeSet<String>>,
    pub(super) sources: Vec<Source>,
    /// Every path below the root, files and directories.
    pub(super) paths: BTreeSet<String>,
    pub(super) top_level: Vec<String>,
}

impl Tree {
    pub(super) fn read(root: &Path, metadata: &Metadata) -> Result<Self, SuiteError> {
        let mut tree = Self::default();
        tree.add_packages(metadata)?;
        for entry in fs::read_dir(root)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "target" && name != ".git" {
                tree.top_level.push(name.clone());
                tree.add_paths(root, PathBuf::from(name))?;
            }
        }
        tree.top_level.sort();
        Ok(tree)
    }

    fn add_packages(&mut self, metadata: &Metadata) -> Result<(), SuiteError> {
        let members = metadata.workspace_packages();
        let names: BTreeSet<_> = members.iter().map(|p| p.name.to_string()).collect();
        for package in members {
            let dir = package
                .manifest_path
                .parent()
                .ok_or("a manifest without a directory")?;
            let dir = dir.strip_prefix(&metadata.workspace_root)?.to_string();
            self.packages.insert(package.name.to_string(), dir);
            for dependency in &package.dependencies {
                if names.contains(&dependency.name) {
                    self.edges.push(Edge {
                        from: package.name.to_string(),
                        to: dependency.name.clone(),
                        dev: dependency.kind == DependencyKind::Development,
                    });
                }
            }
            self.closure
                .insert(package.name.to_string(), closure(metadata, &package.id)?);
        }
        Ok(())
    }

    fn add_paths(&mut self, root: &Path, path: PathBuf) -> Result<(), SuiteError> {
        self.paths.insert(path.to_string_lossy().into_owned());
        let full = root.join(&path);
        let kind = fs::symlink_metadata(&full)?.file_type();
        if kind.is_dir() {
            for entry in fs::read_dir(&full)? {
                self.add_paths(root, path.join(entry?.file_name()))?;
            }
        } else if kind.is_file()
            && let Ok(text) = String::from_utf8(fs::read(&full)?)
        {
            let path = path.to_string_lossy().into_owned();
            self.sources.push(Source { path, text });
        }
        Ok(())
    }

    /// The code shipped by a package.
    pub(super) fn shipped_code(&self, package: &str) -> impl Iterator<Item = &Source> {
        let dir = self.packages.get(package).map(|dir| format!("{dir}/"));
        self.sources.iter().filter(move |source| {
            source.is_shipped_code() && dir.as_ref().is_some_and(|dir| source.path.starts_with(dir))
        })
    }
}

/// The names of all packages that `id` depends on, its own tests aside.
fn closure(
    metadata: &Metadata,
    id: &cargo_metadata::PackageId,
) -> Result<BTreeSet<String>, SuiteError> {
    let resolve = metadata
        .resolve
        .as_ref()
        .ok_or("cargo metadata gives no resolved graph")?;
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut names = BTreeSet::new();
    let mut queue = vec![id];
    let mut seen = BTreeSet::new();
    while let Some(id) = queue.pop() {
        if !seen.insert(id) {
            continue;
        }
        names.insert(metadata[id].name.to_string());
        let deps = nodes.get(id).map_or(&[][..], |node| &node.deps);
        queue.extend(deps.iter().filter_map(|dep| {
            let shipped = dep.dep_kinds.iter().any(|kind| {
                // What is only there under a cfg of ours is not part of what users build.
                let ours = kind
                    .target
                    .as_ref()
                    .is_some_and(|t| t.to_string().contains("esker_"));
                kind.kind != DependencyKind::Development && !ours
            });
            shipped.then_some(&dep.pkg)
        }));
    }
    names.remove(metadata[id].name.as_str());
    Ok(names)
}
